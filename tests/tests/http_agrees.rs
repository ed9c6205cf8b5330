//! What is told over HTTP, over the control socket and by /proc is one truth, at every moment of a storm.

use std::collections::BTreeMap;

use harness::http::Door;
use harness::processes::{self, Held};
use harness::{Node, Unit, until};
use proto::reply::State;
use serde_json::Value;

const UNITS: usize = 16;
const ROUNDS: usize = 60;

/// State, pid and since when, by unit.
type Told = BTreeMap<String, (Value, Value, Value)>;

fn told(door: &Door) -> Told {
    let health = door.get("/health").json();
    let daemons = health["daemons"].as_object().expect("an object");
    let of = |unit: &Value| (unit["state"].clone(), unit["pid"].clone(), unit["since"].clone());
    daemons
        .iter()
        .map(|(name, unit)| (name.to_lowercase(), of(unit)))
        .collect()
}

/// Units are killed, stopped and started at random. Wherever two answers of `/health` are the same, what `status` answered
/// between them is that too; a pid that is told is a living process of that unit, or its end is told at once.
#[test]
fn health_status_and_proc_agree_in_a_storm() {
    let unit = Unit::command(&["/bin/sleep", "1000"])
        .set("restart.max_restarts", "\"unlimited\"")
        .text("restart.delay", "20ms");
    let mut builder = Node::builder();
    for i in 0..UNITS {
        builder = builder.unit(&format!("u{i:02}"), &unit);
    }
    let door = Door::in_folder(&builder.path(""));
    let node = builder.args(&["--http", &door.text()]).start();
    door.wait(&node);
    // Any numbers without a pattern would do; these are the same in each run.
    let mut dice = 4711u64;
    let mut any = |n: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(dice >> 33).expect("31 bits") % n
    };
    let (mut compared, mut killed) = (0, 0);
    for round in 0..ROUNDS {
        let name = format!("u{:02}", any(UNITS));
        match round % 6 {
            0 => {
                node.ctl(&["restart", "--no-block", &name]).ended(0);
            }
            1 => {
                node.ctl(&["stop", "--no-block", &name]).ended(0);
                node.ctl(&["start", "--no-block", &name]).ended(0);
            }
            _ => {
                let pid = told(&door)[&name].1.as_i64();
                if let Some(held) = pid.and_then(|pid| Held::open(pid as i32)) {
                    held.signal(libc::SIGKILL);
                    killed += 1;
                }
            }
        }
        let before = told(&door);
        let (_, rows) = node.status_of(&[]);
        let after = told(&door);
        for row in rows {
            let (first, second) = (&before[&row.name], &after[&row.name]);
            if first != second {
                continue;
            }
            compared += 1;
            let state = serde_json::to_value(row.state).expect("a word");
            let pid = row.pid.map_or(Value::Null, Value::from);
            assert_eq!(
                (&state, &pid),
                (&first.0, &first.1),
                "{} in round {round}",
                row.name
            );
        }
        for (name, (_, pid, since)) in &after {
            let Some(pid) = pid.as_i64() else { continue };
            let lives = || {
                let found = processes::Process::read(pid as i32).filter(|p| p.is_alive())?;
                // Between fork and exec it has its keeper's environment.
                (found.unit().is_none_or(|unit| unit == name)).then_some(())
            };
            if lives().is_none() {
                until("the end of a process is told", || {
                    let now = &told(&door)[name];
                    (now.1.as_i64() != Some(pid) || now.2 != *since).then_some(())
                });
            }
        }
    }
    assert!(
        killed > ROUNDS / 3 && compared > ROUNDS * UNITS / 4,
        "{killed} killed, {compared} compared"
    );
    for i in 0..UNITS {
        node.wait_state(&format!("u{i:02}"), State::Running);
    }
    let settled = told(&door);
    for (name, (state, pid, _)) in &settled {
        assert_eq!(
            (state, pid.as_i64()),
            (&Value::from("running"), Some(i64::from(node.pid(name))))
        );
    }
    node.check();
}
