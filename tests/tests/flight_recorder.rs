//! The flight recorder: every change of state, with its number and its cause, outlives whoever dies, on a bounded piece
//! of disk, and is readable up to and behind any damage.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use harness::processes;
use harness::survive::Role;
use harness::{Node, PATIENCE, Unit, programs, until};
use proto::reply::{CauseKind, State};

/// Both files of the recorder together may have so much (docs/state.md).
const BOUND: u64 = 16 * 1024 * 1024;

/// Who dies, and how.
type Death = (&'static str, fn(&mut Node));

fn recorder_files(node: &Node) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = harness::node::walk(&node.path("state"))
        .into_iter()
        .filter(|file| {
            file.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("events."))
        })
        .collect();
    files.sort();
    files
}

/// Events are told from the first one on, over the deaths of the manager, the keeper and of all, and over an orderly
/// restart; each has its cause.
#[test]
fn events_are_told_over_every_death() {
    let mut node = Node::builder()
        .unit("a", &Unit::bad(&["run"]))
        .unit("b", &Unit::bad(&["run"]).requires(&["a"]))
        .bare()
        .start();
    let mut heard = node.history();
    assert_eq!(heard.first().map(|event| event.seq), Some(1));
    let deaths: [Death; 4] = [
        ("the manager", |node| {
            node.crash_manager();
        }),
        ("the keeper", |node| {
            node.crash_keeper();
        }),
        ("all", |node| {
            node.kill_daemon();
            node.start_again();
        }),
        ("none: an orderly restart", |node| {
            node.shutdown();
            node.start_again();
        }),
    ];
    for (who, kill) in deaths {
        node.ctl(&["restart", "b"]).ended(0);
        heard = node.check_history(&heard);
        kill(&mut node);
        node.wait_state("b", State::Running);
        let now = node.check_history(&heard);
        assert_eq!(now[0].seq, 1, "{who}: the first events are gone");
        heard = now;
    }
    // Each change names what led to it: an earlier event, a command and who gave it, or the start.
    let seqs: Vec<u64> = heard.iter().map(|event| event.seq).collect();
    for event in &heard {
        if let Some(earlier) = event.cause.seq {
            assert!(earlier < event.seq && seqs.contains(&earlier), "{event:?}");
        }
        if event.cause.kind == CauseKind::Command {
            // Who gave it stands in the first event that came of it; the others lead there.
            assert!(event.cause.by.is_some() || event.cause.seq.is_some(), "{event:?}");
        }
        assert!(!event.cause.text.is_empty() && event.at_us > 0, "{event:?}");
    }
    let verbs = heard
        .iter()
        .filter(|event| event.cause.by.as_ref().is_some_and(|by| by.verb == "restart"));
    assert!(verbs.count() >= 4);
    node.check();
}

/// A client that follows, ended with the test.
struct Follower {
    child: Child,
    lines: std::sync::mpsc::Receiver<u64>,
}

impl Follower {
    fn of(node: &Node) -> Self {
        let mut child = Command::new(programs::ringriftctl())
            .args(["events", "-f", "--json"])
            .env("RINGRIFT_SOCKET", node.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ringriftctl was built");
        let stdout = child.stdout.take().expect("it was asked for");
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
                let value: serde_json::Value = serde_json::from_str(&line).expect("each line is JSON");
                let seq = value["seq"].as_u64().expect("an event has its number");
                if send.send(seq).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The numbers that come until this one.
    fn until(&self, last: u64) -> Vec<u64> {
        let mut seqs = Vec::new();
        while seqs.last() != Some(&last) {
            let next = self.lines.recv_timeout(PATIENCE);
            seqs.push(next.unwrap_or_else(|_| panic!("event {last} does not come: {seqs:?}")));
            assert!(seqs.last() <= Some(&last), "{seqs:?}");
        }
        seqs
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// D22: `events -f` goes on over the manager's deaths: every number once.
#[test]
fn who_follows_events_misses_none_over_a_death() {
    let mut node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let follower = Follower::of(&node);
    let mut told = follower.until(node.history().last().expect("it started").seq);
    for _ in 0..3 {
        node.ctl(&["restart", "a"]).ended(0);
        node.crash_manager();
        node.ctl(&["restart", "a"]).ended(0);
        told.extend(follower.until(node.history().last().expect("it restarted").seq));
    }
    let wanted: Vec<u64> = (1..=told.len() as u64).collect();
    assert_eq!(told, wanted);
    node.check();
}

/// B13: damage in the middle of the recorder costs the events that it hit: the others are told, before and behind it, and somebody
/// says that it is there.
#[test]
fn damage_costs_no_more_than_it_hits() {
    let mut node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    for _ in 0..20 {
        node.ctl(&["restart", "a"]).ended(0);
    }
    let before = node.history();
    node.shutdown();
    let files = recorder_files(&node);
    let file = files
        .iter()
        .max_by_key(|file| std::fs::metadata(file).map_or(0, |found| found.len()));
    let file = file.expect("there is a recorder").clone();
    let size = std::fs::metadata(&file).expect("it is there").len();
    let hit = std::fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .expect("it is ours");
    hit.write_all_at(&[0x55; 64], size / 2).expect("it is ours");
    drop(hit);
    // The state remembers the last events too: without it, the recorder alone has them.
    for name in ["engine.0", "engine.1"] {
        let _ = std::fs::remove_file(node.path("state").join(name));
    }
    let said = node.stderr().len();
    node.start_again();
    let after: BTreeMap<u64, _> = node
        .history()
        .into_iter()
        .map(|event| (event.seq, event))
        .collect();
    let lost: Vec<u64> = before
        .iter()
        .filter(|event| after.get(&event.seq) != Some(event))
        .map(|event| event.seq)
        .collect();
    assert!(
        !lost.is_empty() && lost.len() <= 3,
        "64 bytes cost the events {lost:?}"
    );
    assert!(!after.contains_key(&lost[0]), "a damaged event is told otherwise");
    let last = before.last().expect("there were some").seq;
    assert!(after.keys().any(|seq| *seq > last), "numbers go on");
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let told = node.ctl(&["events"]).text() + &node.stderr()[said..];
    assert!(
        told.contains(&name) || told.contains("missing"),
        "nobody says that events are lost: {told}"
    );
    node.ctl(&["restart", "a"]).ended(0);
    node.shutdown();
}

/// The recorder is bounded, whatever happens on the node; what is left of it has no hole.
#[test]
fn the_recorder_is_bounded() {
    // A name as long as names may be, so that events are large.
    let name = "a".repeat(60);
    let unit = Unit::bad(&["exit", "0"])
        .kind("simple")
        .text("restart.policy", "always")
        .text("restart.delay", "1ms")
        .set("restart.max_restarts", "10000");
    let mut builder = Node::builder();
    for n in 0..8 {
        builder = builder.unit(&format!("{name}{n}"), &unit);
    }
    let mut node = builder.start_without_waiting();
    let total = |node: &Node| -> u64 {
        let sizes = recorder_files(node).into_iter();
        sizes
            .map(|file| std::fs::metadata(file).map_or(0, |found| found.len()))
            .sum()
    };
    // Enough to see that it is written as it goes; the bound itself is met in the recorder's own tests.
    until("there are many events", || {
        (total(&node) > 256 * 1024).then_some(())
    });
    node.crash_manager();
    assert!(total(&node) <= BOUND);
    let history = node.check_history(&[]);
    assert_eq!(history.first().map(|event| event.seq), Some(1));
    assert!(history.len() > 500);
    processes::signal(node.role_of(Role::Logger).pid, libc::SIGKILL);
    node.ctl(&["stop", "*", "--yes"]).ended(0);
    node.check_history(&history);
    node.shutdown();
}
