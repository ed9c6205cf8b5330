//! The real thing: RingRift's own daemons, all 78 as the project's files name them, under ringriftd.
//!
//! Runs only where RINGRIFT_HOME names a checkout of RingRift (at 6211b7349, see `docs/ringrift.md`: other commits have
//! other daemons that cannot work) and RINGRIFT_PYTHON a Python with what it needs:
//!
//!     RINGRIFT_HOME=~/RingRift RINGRIFT_PYTHON=~/rr-venv/bin/python3 cargo test -p ringrift-tests --test real_ringrift
//!
//! Elsewhere it says that it needs one and passes, in continuous integration too, which has no checkout. The daemons
//! write below the checkout, HOME and `/tmp/ringrift_coordination`, and would talk to a cluster that they can reach:
//! run it in a namespace that has only loopback.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::{Node, processes, programs};
use proto::reply::{Exit, State, UnitStatus};

/// The units that can work at that commit: 58 daemons, and `data_pipeline`, which lingers.
const WORKING: usize = 59;
/// Two CPU-seconds of imports each, five automatic restarts of each that cannot work, on two cores, three times over.
const LONG: Duration = Duration::from_secs(15 * 60);

/// The profile `full` with the checkout's units, as the runner of `ringriftd.toml` starts them; `None` without RingRift.
fn node() -> Option<Node> {
    let Some(home) = std::env::var("RINGRIFT_HOME")
        .ok()
        .filter(|home| !home.is_empty())
    else {
        // Straight to the descriptor: the test runner swallows what goes through the macros.
        let text = "SKIPPED: real_ringrift: RINGRIFT_HOME names no checkout of RingRift\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        return None;
    };
    let read =
        |name: &str| std::fs::read_to_string(programs::checkout().join(name)).expect("the checkout has it");
    let mut builder = Node::builder()
        .config(&read("ringriftd.toml"))
        .profile("description = \"all\"\nunits = [\"*\"]\n")
        .env("RINGRIFT_HOME", &home)
        .env("RINGRIFT_NODE_ID", "rrtest");
    for (folder, ending) in [("units", ".toml"), ("units/runner", ".py")] {
        let files = std::fs::read_dir(programs::checkout().join(folder)).expect("the checkout has it");
        for entry in files.map(|entry| entry.expect("it can be listed")) {
            let name = entry.file_name().into_string().expect("a name of text");
            if name.ends_with(ending) {
                builder = builder.file(&format!("{folder}/{name}"), &read(&format!("{folder}/{name}")));
            }
        }
    }
    Some(builder.start_without_waiting())
}

/// Looks at all units, again at each event, until they are as wanted.
fn wait(node: &Node, what: &str, wanted: impl Fn(&[UnitStatus]) -> bool) -> Vec<UnitStatus> {
    let mut events = node.events();
    let deadline = Instant::now() + LONG;
    loop {
        let (_, units) = node.status_of(&[]);
        if wanted(&units) {
            return units;
        }
        assert!(Instant::now() < deadline, "{what} never came:\n{}", node.stderr());
        events.next(Duration::from_secs(1));
    }
}

/// Those that run, with what tells one life from another.
fn lives(units: &[UnitStatus]) -> BTreeMap<String, (Option<u32>, Option<String>, u64)> {
    let up = units.iter().filter(|u| u.state == State::Running);
    up.map(|u| (u.name.clone(), (u.pid, u.invocation.clone(), u.since_us)))
        .collect()
}

#[test]
fn the_daemons_that_can_work_do_and_the_others_say_why_they_cannot() {
    let Some(mut node) = node() else { return };
    let working = |units: &[UnitStatus]| lives(units).len() >= WORKING;
    let before = lives(&wait(&node, "59 running daemons", working));

    // The others use their tries up, and disturb nobody.
    let settled = |units: &[UnitStatus]| {
        let moves = |u: &UnitStatus| matches!(u.state, State::Backoff | State::Starting | State::Stopping);
        !units.iter().any(moves)
    };
    let units = wait(&node, "the last of the tries", settled);
    assert_eq!(lives(&units), before, "a daemon that works was disturbed");
    node.check_status();

    let failed = node.ctl(&["failed", "--json"]).ended(1).json();
    for unit in units.iter().filter(|u| u.state == State::Failed) {
        let Some(Exit::Code(code)) = unit.last_exit.map(|last| last.exit) else {
            panic!("{unit:#?}");
        };
        let permanent = matches!(code, 65 | 66);
        assert!(permanent || code == 1, "{unit:#?}");
        let tries = if permanent { (1, 0) } else { (6, 5) };
        assert_eq!((unit.starts, unit.restarts), tries, "{unit:#?}");
        assert_eq!(unit.next_try_us.is_none(), permanent, "{unit:#?}");
        let rows = failed["units"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["name"] == unit.name.as_str());
        let lines = row.expect("it is among the failed")["last_lines"]
            .as_array()
            .cloned();
        let last = lines
            .unwrap_or_default()
            .last()
            .map(|line| line["message"].to_string());
        let last = last.unwrap_or_default();
        let why = if code == 65 {
            "returned by itself"
        } else {
            "Error: "
        };
        assert!(
            last.contains("ringrift_runner: ") && last.contains(why),
            "{}: {last}",
            unit.name
        );
    }

    // One that is killed comes back; the rest does not notice. One that blocks in its start stops all the same.
    processes::signal(node.pid("evaluation"), libc::SIGKILL);
    let old = before["evaluation"].clone();
    let is_back = |units: &[UnitStatus]| lives(units).get("evaluation").is_some_and(|life| *life != old);
    let mut after = lives(&wait(&node, "evaluation's next life", is_back));
    after.insert("evaluation".to_owned(), old.clone());
    assert_eq!(after, before, "another daemon was disturbed");
    node.ctl(&["stop", "s3_backup"]).ended(0);

    node.note_groups();
    node.ctl(&["stop", "*", "--yes"]).ended(0);
    let left = node.unit_processes();
    assert!(left.is_empty(), "{left:#?}");
    node.shutdown();
}
