//! What is told over HTTP, over the control socket and by /proc is one truth, at every moment of a storm.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use harness::http::Door;
use harness::pace::{Pace, Pacing};
use harness::processes::{self, Held};
use harness::seeded::{Dice, tell};
use harness::{Node, Unit, programs, until};
use proto::reply::{Event, State};
use serde_json::Value;

const UNITS: usize = 78;
/// How long the storm goes on.
const STORM: Duration = Duration::from_secs(30);
/// The watchdog of those that feed one.
const WATCHDOG: Duration = Duration::from_secs(2);
/// `interval` × `failures` + one `timeout` of those that are asked.
const ASKED: Duration = Duration::from_secs(3);
/// What a machine that does other things besides may add to that.
const NOISE: Duration = Duration::from_secs(20);
/// Deeds of a storm.
const DEEDS_MIN: usize = 100;

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

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    since.as_micros() as u64
}

/// How a unit's hang is found out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    ByWatchdog,
    ByProbe,
    /// It is not: so it is not made to hang.
    Never,
}

/// Of three units one feeds a watchdog, one is asked over HTTP, one is only seen to end.
fn kind(n: usize) -> Found {
    [Found::ByWatchdog, Found::ByProbe, Found::Never][n % 3]
}

fn unit(n: usize) -> Unit {
    let unit = match kind(n) {
        Found::ByWatchdog => {
            let program = programs::ringriftd().to_str().expect("a path of text");
            Unit::command(&[
                program,
                "stand-in",
                &format!("create_u{n:02}"),
                "--ready-after",
                "10ms",
            ])
            .kind("notify")
            .text("health.watchdog", &format!("{}s", WATCHDOG.as_secs()))
        }
        Found::ByProbe => {
            let at = Door::free().text();
            Unit::bad(&["answers", &at])
                .set("health.probe", &format!("{{ http = \"http://{at}/\" }}"))
                .text("health.interval", "1s")
                .text("health.timeout", "1s")
                .text("health.grace", "0s")
                .set("health.failures", "2")
        }
        Found::Never => Unit::command(&["/bin/sleep", "1000"]),
    };
    unit.set("restart.max_restarts", "\"unlimited\"")
        .text("restart.delay", "20ms")
        .text("stop.timeout", "2s")
}

/// Something that was done to a main process.
struct Deed {
    unit: String,
    pid: i64,
    at_us: u64,
    found: Option<Found>,
}

/// What the node told of the deed's end, and how much later: the first event of that unit after it that names the end.
fn heard<'a>(history: &'a [Event], deed: &Deed, word: &str) -> Option<(&'a Event, Duration)> {
    let is_it = |event: &&Event| {
        event.unit == deed.unit && event.at_us >= deed.at_us && event.cause.text.contains(word)
    };
    let event = history.iter().find(is_it)?;
    Some((event, Duration::from_micros(event.at_us - deed.at_us)))
}

/// For 30 s units are killed, stopped, started, restarted and made to hang at random. Wherever two answers of `/health` are the
/// same, what `status` answered between them is that too; a pid that is told is a living process of that unit, or its end is told at
/// once. A killed main process is seen without being looked for; one that hangs within its interval × failures, or its watchdog.
#[test]
fn health_status_and_proc_agree_in_a_storm() {
    let mut builder = Node::builder();
    for n in 0..UNITS {
        builder = builder.unit(&format!("u{n:02}"), &unit(n));
    }
    let door = Door::in_folder(&builder.path(""));
    let node = builder.args(&["--http", &door.text()]).start();
    door.wait(&node);
    let (mut dice, seed) = Dice::new(4711);
    tell(&format!("a storm over {UNITS} units with RINGRIFT_SEED={seed}"));
    let (mut rounds, mut compared) = (0, 0);
    let mut deeds: Vec<Deed> = Vec::new();
    let pace = Pace::keep();
    let began = Instant::now();
    // Longer on a machine that is so slow that there is no storm yet.
    while began.elapsed() < STORM || deeds.len() < DEEDS_MIN {
        rounds += 1;
        let n = dice.below(UNITS as u64) as usize;
        let name = format!("u{n:02}");
        let roll = dice.below(10);
        let held = || {
            let pid = told(&door)[&name].1.as_i64()?;
            Some((pid, Held::open(pid as i32)?))
        };
        match roll {
            0 => {
                node.ctl(&["restart", "--no-block", &name]).ended(0);
            }
            1 | 2 => {
                let verb = if roll == 1 { "stop" } else { "start" };
                node.ctl(&[verb, "--no-block", &name]).ended(0);
            }
            3 | 4 if kind(n) != Found::Never => {
                if let Some((pid, held)) = held() {
                    let at_us = now_us();
                    if held.signal(libc::SIGSTOP) {
                        deeds.push(Deed {
                            unit: name.clone(),
                            pid,
                            at_us,
                            found: Some(kind(n)),
                        });
                    }
                }
            }
            _ => {
                if let Some((pid, held)) = held() {
                    let at_us = now_us();
                    if held.signal(libc::SIGKILL) {
                        deeds.push(Deed {
                            unit: name.clone(),
                            pid,
                            at_us,
                            found: None,
                        });
                    }
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
                "{} in round {rounds}",
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
    node.ctl(&["start", "*"]).ended(0);
    for n in 0..UNITS {
        node.wait_state(&format!("u{n:02}"), State::Running);
    }
    // Those that still hang are found, and end, before anything is said of them.
    for deed in deeds.iter().filter(|deed| deed.found.is_some()) {
        let is_over = || (node.unit(&deed.unit).pid.map(i64::from) != Some(deed.pid)).then_some(());
        until(&format!("{} no longer hangs", deed.unit), is_over);
    }
    for n in 0..UNITS {
        node.wait_state(&format!("u{n:02}"), State::Running);
    }
    let settled = told(&door);
    for (name, (state, pid, _)) in &settled {
        assert_eq!(
            (state, pid.as_i64()),
            (&Value::from("running"), Some(i64::from(node.pid(name))))
        );
    }
    judge(&node.history(), &deeds, rounds, compared, pace.end());
    node.check();
}

/// How soon all of it was seen.
fn judge(history: &[Event], deeds: &[Deed], rounds: usize, compared: usize, pacing: Pacing) {
    let is_first = |i: usize, deed: &Deed| {
        !deeds[..i]
            .iter()
            .any(|d| (d.pid, &d.unit) == (deed.pid, &deed.unit))
    };
    let is_last = |i: usize, deed: &Deed| {
        !deeds[i + 1..]
            .iter()
            .any(|d| (d.pid, &d.unit) == (deed.pid, &deed.unit))
    };
    let mut kills: Vec<Duration> = Vec::new();
    let mut hangs: Vec<Duration> = Vec::new();
    for (i, deed) in deeds.iter().enumerate() {
        match deed.found {
            None if is_first(i, deed) => {
                kills.extend(heard(history, deed, "SIGKILL").map(|(_, after)| after));
            }
            Some(found) if is_first(i, deed) && is_last(i, deed) => {
                let (word, bound) = match found {
                    Found::ByWatchdog => ("watchdog", WATCHDOG),
                    Found::ByProbe | Found::Never => ("unhealthy", ASKED),
                };
                // Unless something else ended it first: an operator's stop is not what this is about.
                let other = history.iter().find(|e| {
                    e.unit == deed.unit
                        && e.at_us >= deed.at_us
                        && matches!(e.to, State::Stopping | State::Stopped | State::Backoff)
                });
                let Some(other) = other else { continue };
                if other.cause.kind != proto::reply::CauseKind::Probe {
                    continue;
                }
                let (event, after) = heard(history, deed, word).unwrap_or((other, bound * 9));
                assert!(
                    after < bound + NOISE,
                    "{} hung unseen for {after:?}: {event:#?}",
                    deed.unit
                );
                hangs.push(after);
            }
            None | Some(_) => {}
        }
    }
    kills.sort_unstable();
    hangs.sort_unstable();
    tell(&format!(
        "{rounds} rounds, {compared} comparisons; {} kills seen, median {:?}, worst {:?}; {} hangs found, median {:?}, worst {:?}",
        kills.len(),
        kills.get(kills.len() / 2),
        kills.last(),
        hangs.len(),
        hangs.get(hangs.len() / 2),
        hangs.last()
    ));
    assert!(
        kills.len() >= 20 && hangs.len() >= 3,
        "a storm was asked for: {} {}",
        kills.len(),
        hangs.len()
    );
    assert!(
        compared > rounds * UNITS / 2,
        "{compared} comparisons in {rounds} rounds"
    );
    // Seen by itself, not by looking now and then.
    pacing.assert_usually("a kill is told", &kills, Duration::from_millis(250));
}
