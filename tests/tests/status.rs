//! The status is true: at every moment tried it says what /proc says.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use harness::pace::Pace;
use harness::{Node, PATIENCE, Unit, both_ways, processes};
use proto::reply::State;

both_ways! {
    /// While units die, restart and are stopped and started, both the answer on the socket and `status --json` agree
    /// with /proc on every unit that stands still while it is looked at.
    fn the_status_agrees_with_proc_in_a_storm(mode) {
        let mut builder = Node::builder().containment(mode);
        for n in 0..8 {
            let unit = Unit::bad(&["run"]).set("restart.max_restarts", "1000");
            builder = builder.unit(&format!("u{n}"), &unit);
        }
        let node = builder.start();
        let (least, most) = (Instant::now() + Duration::from_secs(6), Instant::now() + PATIENCE);
        let (kills, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let mut compared = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // A fixed seed: the same storm each time.
                let mut dice = 7_u32;
                while !is_over.load(Relaxed) {
                    dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let unit = format!("u{}", (dice >> 16) % 8);
                    match (dice >> 20) % 5 {
                        0 => drop(node.ctl(&["stop", &unit])),
                        1 => drop(node.ctl(&["start", &unit])),
                        _ => {
                            let victim = node.unit(&unit).pid.and_then(|pid| processes::Held::open(pid as i32));
                            let is_hit = victim.is_some_and(|victim| victim.signal(libc::SIGKILL));
                            kills.fetch_add(usize::from(is_hit), Relaxed);
                        }
                    }
                }
            });
            // However slow the machine is, there is a storm to look at.
            let is_enough = |compared| compared >= 40 && kills.load(Relaxed) >= 10;
            let look = || loop {
                compared += node.check_status();
                compared += node.check_status_json();
                node.check_one_life();
                let now = Instant::now();
                if now >= most || now >= least && is_enough(compared) {
                    break;
                }
            };
            // The storm ends also when a look has failed, or the test would never end.
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
            is_over.store(true, Relaxed);
            if let Err(why) = looked {
                std::panic::resume_unwind(why);
            }
        });
        let kills = kills.load(Relaxed);
        assert!(
            compared >= 40 && kills >= 10,
            "{compared} comparisons, {kills} kills: that was no storm"
        );
        node.check();
    }
}

/// A kill is seen at once, and not by polling: who looked so seldom that it passes for idle (the oracle's G8 allows
/// one look in 150 ms) would see half of all kills only after 75 ms. It takes some 5 ms.
#[test]
fn kills_are_seen_without_polling() {
    let unit = Unit::bad(&["run"])
        .text("restart.delay", "1ms")
        .set("restart.max_restarts", "1000");
    let node = Node::builder().unit("a", &unit).start();
    let mut events = node.events();
    let mut delays = Vec::new();
    let pace = Pace::keep();
    for _ in 0..21 {
        let victim = processes::Held::open(node.pid("a")).expect("it runs");
        let begun = Instant::now();
        assert!(victim.signal(libc::SIGKILL), "it runs");
        events.wait("the end of a", |event| {
            event.from == State::Running && event.to == State::Stopping
        });
        delays.push(begun.elapsed());
        events.wait("the next life of a", |event| event.to == State::Running);
    }
    pace.end()
        .assert_usually("a kill is seen", &delays, Duration::from_millis(40));
    node.check();
}

#[test]
fn a_kill_is_seen_at_once() {
    // Longer than any wait here: it is not seen by the next try.
    let unit = Unit::bad(&["run"]).text("restart.delay", "10m");
    let node = Node::builder().unit("a", &unit).start();
    let mut events = node.events();
    let pid = node.pid("a");
    processes::signal(pid, libc::SIGKILL);
    events.wait("the end of a", |event| {
        event.unit == "a" && event.to == State::Backoff
    });
    let json = node.ctl(&["status", "a", "--json"]).ended(3).json();
    let unit = &json["units"][0];
    assert_eq!(
        (unit["state"].as_str(), unit["pid"].as_u64()),
        (Some("backoff"), None),
        "{json:#}"
    );
    assert_eq!(unit["last_exit"]["signal"], "SIGKILL");
    assert!(!unit["next_try"].is_null(), "{json:#}");
    node.check();
}

#[test]
fn status_json_has_the_promised_keys() {
    let node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let json = node.ctl(&["status", "--json"]).ended(0).json();
    assert_eq!(json["schema"], "ringrift.v1.status");
    for key in ["version", "node", "profiles", "uptime_s", "summary", "units"] {
        assert!(!json[key].is_null(), "{key}: {json:#}");
    }
    let unit = json["units"][0].as_object().expect("a unit");
    for key in [
        "name",
        "state",
        "health",
        "desired",
        "next_try",
        "needs_restart",
        "pid",
        "invocation",
        "since",
        "uptime_s",
        "ready",
        "restarts",
        "last_exit",
        "last_error",
        "blocked_by",
        "category",
        "critical",
        "deprecated",
        "added_by",
        "note",
        "cpu_s",
        "memory_bytes",
    ] {
        assert!(unit.contains_key(key), "{key}: {json:#}");
    }
    assert_eq!(unit["pid"], node.pid("a"));
    node.check();
}

#[test]
fn predicates_answer_by_their_codes() {
    let node = Node::builder()
        .unit("up", &Unit::bad(&["run"]))
        .unit("broken", &Unit::bad(&["exit", "1"]).once())
        .spare("down", &Unit::bad(&["run"]))
        .start();
    node.wait_state("broken", State::Failed);
    for (args, code) in [
        (&["is-active", "up"][..], 0),
        (&["is-active", "down"], 3),
        (&["is-active", "nobody"], 4),
        (&["is-failed", "broken"], 0),
        (&["is-failed", "up"], 3),
        (&["is-ready", "up"], 0),
        (&["is-ready", "down"], 3),
        (&["status", "up"], 0),
        (&["status", "broken"], 3),
        (&["status"], 3),
        (&["status", "nobody"], 4),
        (&["failed"], 1),
        (&["no-such-verb"], 2),
        (&["wait", "up", "--for", "running", "--timeout", "10s"], 0),
        (&["wait", "up", "--for", "stopped", "--timeout", "200ms"], 124),
        (&["wait", "down", "--for", "running"], 1),
    ] {
        node.ctl(args).ended(code);
    }
    let text = node.ctl(&["is-active", "u-p", "UP"]).text();
    assert!(text.contains("up"), "an unknown unit names the nearest: {text}");
    node.check();
}
