//! `[on_event]`: a command is told of events. It is told of each once and in order, over the manager's death too; one that hangs,
//! fails or is missing delays nobody; what is dropped is counted, and told.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use harness::{Node, NodeBuilder, PATIENCE, Unit, both_ways, until_within};
use proto::reply::{Event, State};

/// Waits until it is so.
#[track_caller]
fn until(what: &str, fact: impl Fn() -> bool) {
    harness::until(what, || fact().then_some(()))
}

/// `[on_event]` with a shell script as its command, which finds the node's folder in `$1`, and more lines.
fn hook(builder: NodeBuilder, script: &str, more: &str) -> NodeBuilder {
    let folder = builder.path("");
    let command = harness::unit::list(&["/bin/sh", "-c", script, "hook", &folder]);
    builder.config(&format!("[on_event]\ncommand = {command}\n{more}"))
}

/// Notes what it reads as one write, and what it is told beside it.
const NOTE: &str = "read -r line; printf '%s\\n' \"$line\" >> \"$1/heard\"; \
    printf '%s %s %s %s\\n' \"$RINGRIFT_EVENT_SEQ\" \"$RINGRIFT_EVENT\" \"$RINGRIFT_EVENTS_DROPPED\" \"$RINGRIFT_ROLE\" >> \"$1/beside\"";

/// The events that a hook that names none is told of.
fn is_default(event: &Event) -> bool {
    event.event != "DAEMON_STATUS_CHANGED"
}

/// How often each event was told, by its number, in the order of the telling.
fn told(node: &Node) -> Vec<u64> {
    let heard = node.read("heard");
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["seq"].as_u64();
    heard
        .lines()
        .map(|line| number(line).unwrap_or_else(|| panic!("no event: {line}")))
        .collect()
}

/// The numbers of the events so far that are to be told.
fn wanted(node: &Node) -> Vec<u64> {
    node.history()
        .iter()
        .filter(|event| is_default(event))
        .map(|event| event.seq)
        .collect()
}

#[track_caller]
fn wait_told(node: &Node) -> Vec<u64> {
    let wanted = wanted(node);
    let all = until_within(PATIENCE, || (told(node).len() >= wanted.len()).then_some(()));
    assert!(
        all.is_some(),
        "it was told of {:?}, not of all of {wanted:?}: {}\n{}",
        told(node),
        notices(node),
        node.stderr()
    );
    wanted
}

fn notices(node: &Node) -> String {
    node.status_of(&[]).0.notices.join("\n")
}

both_ways! {
    /// Every event is told once, in order, in the very words of `events --json`; the command is a contained launch of its own,
    /// with a log of its own, and no unit.
    fn each_event_is_told_once_in_order_and_in_the_words_of_events_json(mode) {
        let script = format!("{NOTE}; echo \"said $RINGRIFT_EVENT_SEQ\"");
        let node = hook(Node::builder().containment(mode), &script, "rate = \"1000/s\"")
            .unit("a", &Unit::bad(&["run"]))
            .unit("b", &Unit::bad(&["run"]).requires(&["a"]))
            .start();
        node.ctl(&["restart", "b"]).ended(0);
        node.ctl(&["stop", "b"]).ended(0);
        let wanted = wait_told(&node);
        assert_eq!(told(&node), wanted);
        let printed = node.ctl(&["events", "--json"]).ended(0).stdout;
        for line in node.read("heard").lines() {
            assert!(printed.lines().any(|printed| printed == line), "{line}\n--- is not among\n{printed}");
        }
        let beside = node.read("beside");
        let history: BTreeMap<u64, Event> = node.history().into_iter().map(|event| (event.seq, event)).collect();
        for (line, seq) in beside.lines().zip(&wanted) {
            assert_eq!(line, format!("{seq} {} 0 on_event", history[seq].event));
        }
        let last = wanted.last().expect("something happened");
        until("its output is logged", || {
            node.ctl(&["logs", "ringriftd.on_event"]).stdout.contains(&format!("said {last}"))
        });
        node.ctl(&["status", "ringriftd.on_event"]).ended(4);
        assert!(!notices(&node).contains("on_event"), "{}", notices(&node));
        node.check();
    }

    /// The manager dies again and again while runs are under way: every event is told exactly once.
    fn the_managers_death_costs_no_event_and_tells_none_twice(mode) {
        let mut node = hook(Node::builder().containment(mode), NOTE, "rate = \"1000/s\"\nat_once = 3")
            .unit("a", &Unit::bad(&["run"]))
            .start();
        for _ in 0..5 {
            node.ctl(&["restart", "a", "--no-block"]).ended(0);
            node.crash_manager();
            node.wait_unit("a", "running", |unit| unit.state == State::Running);
        }
        let wanted = wait_told(&node);
        let mut told = told(&node);
        told.sort_unstable();
        assert_eq!(told, wanted);
        node.check();
    }

    /// The keeper dies while a run is under way and others wait: none is lost, and only what was under way may be told twice.
    fn the_keepers_death_costs_no_event(mode) {
        let script = format!("{NOTE}; while [ -e \"$1/hold\" ] && [ $RINGRIFT_EVENT = DAEMON_STOPPED ]; do read -r x < \"$1/gate\"; done");
        let builder = Node::builder().containment(mode).bare();
        let gate = builder.path("gate");
        nix::unistd::mkfifo(Path::new(&gate), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        let mut node = hook(builder, &script, "rate = \"1000/s\"")
            .file("hold", "")
            .unit("a", &Unit::bad(&["run"]))
            .start_without_waiting();
        node.wait_state("a", State::Running);
        node.ctl(&["stop", "a"]).ended(0);
        let stopped = *wanted(&node).last().expect("it stopped");
        until("the command hangs in it", || told(&node).last() == Some(&stopped));
        node.ctl(&["start", "a"]).ended(0);
        node.crash_keeper();
        std::fs::remove_file(node.path("hold")).expect("it was there");
        // Whoever waits at the gate goes on.
        let mut open = std::fs::File::options().read(true).write(true).open(&gate).expect("a fifo");
        open.write_all(b"go\ngo\n").expect("there is room");
        let wanted = wait_told(&node);
        until("the last is told", || told(&node).contains(wanted.last().expect("some")));
        let told = told(&node);
        for seq in wanted {
            let times = told.iter().filter(|told| **told == seq).count();
            let most = if seq == stopped { 2 } else { 1 };
            assert!((1..=most).contains(&times), "event {seq} was told {times} times: {told:?}");
        }
        node.check();
    }
}

/// A command that hangs: it is killed with all that it left, nobody waits for it, and what finds no room is counted and told.
#[test]
fn a_command_that_hangs_is_killed_and_delays_nobody() {
    let script = format!(
        "if [ -e \"$1/hangs\" ]; then : > \"$1/began\"; cat \"$1/gate\" & cat \"$1/gate\"; fi; {NOTE}"
    );
    let builder = Node::builder();
    let gate = builder.path("gate");
    nix::unistd::mkfifo(Path::new(&gate), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let node = hook(
        builder,
        &script,
        "rate = \"1000/s\"\nqueue = 2\ntimeout = \"10s\"\nevents = [\"DAEMON_READY\"]",
    )
    .file("hangs", "")
    .unit("a", &Unit::bad(&["run"]))
    .start();
    until("it hangs", || node.path("began").exists());
    // All of them while the first run hangs: its time is long for that.
    for _ in 0..5 {
        node.ctl(&["restart", "a"]).ended(0);
    }
    std::fs::remove_file(node.path("hangs")).expect("it was there");
    until("it was killed, and the next are told", || {
        node.read("beside").lines().count() >= 2
    });
    // Of six events, at least one hung and two waited; the rest found no room.
    let dropped: u64 = node
        .read("beside")
        .lines()
        .map(|line| {
            line.split(' ')
                .nth(2)
                .expect("a number")
                .parse::<u64>()
                .expect("a number")
        })
        .sum();
    assert!((1..=3).contains(&dropped), "{}", node.read("beside"));
    let said = notices(&node);
    assert!(said.contains("dropped before the on_event command"), "{said}");
    assert!(
        node.stderr()
            .contains("on_event: it was not through within 10s, and is killed"),
        "{}",
        node.stderr()
    );
    let is_left = || {
        node.unit_processes()
            .iter()
            .any(|process| process.unit() == Some("ringriftd.on_event"))
    };
    until("nothing of it is left", || !is_left());
    node.check();
}

/// How many events were dropped is told until a run that was told it ends well, over the manager's death too.
#[test]
fn how_many_were_dropped_is_told_until_it_is_heard() {
    let script = format!(
        "if [ -e \"$1/waits\" ]; then : > \"$1/began\"; read -r x < \"$1/gate\"; fi; {NOTE}; ! [ -e \"$1/fails\" ]"
    );
    let builder = Node::builder();
    let gate = builder.path("gate");
    nix::unistd::mkfifo(Path::new(&gate), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let more = "rate = \"1000/s\"\nqueue = 1\ntimeout = \"10m\"\nevents = [\"DAEMON_READY\"]";
    let mut node = hook(builder, &script, more)
        .file("waits", "")
        .file("fails", "")
        .unit("a", &Unit::bad(&["run"]))
        .start();
    until("the first run waits", || node.path("began").exists());
    // Of these, one waits and two are dropped.
    for _ in 0..3 {
        node.ctl(&["restart", "a"]).ended(0);
    }
    std::fs::remove_file(node.path("waits")).expect("it was there");
    let mut open = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&gate)
        .expect("a fifo");
    open.write_all(b"go\n").expect("there is room");
    until("both have failed", || {
        notices(&node).contains("failed 2 times in a row")
    });
    node.crash_manager();
    node.wait_unit("a", "running", |unit| unit.state == State::Running);
    std::fs::remove_file(node.path("fails")).expect("it was there");
    for runs in [3, 4] {
        node.ctl(&["restart", "a"]).ended(0);
        until("it is told", || node.read("beside").lines().count() == runs);
        until("and has ended", || {
            node.unit_processes()
                .iter()
                .all(|p| p.unit() != Some("ringriftd.on_event"))
        });
    }
    let dropped: Vec<String> = node
        .read("beside")
        .lines()
        .map(|line| line.split(' ').nth(2).expect("a number").to_owned())
        .collect();
    assert_eq!(dropped, ["0", "2", "2", "0"]);
    node.check();
}

#[test]
fn a_command_that_is_missing_or_fails_is_told_once_and_costs_nothing() {
    let builder = Node::builder();
    let missing = builder.path("no-such-program");
    let command = harness::unit::list(&[&missing]);
    let node = builder
        .config(&format!("[on_event]\ncommand = {command}\nrate = \"1000/s\""))
        .unit("a", &Unit::bad(&["run"]))
        .start();
    for _ in 0..3 {
        node.ctl(&["restart", "a"]).ended(0);
    }
    until("it is told", || {
        notices(&node).contains("the on_event command failed")
    });
    until("all were tried", || {
        let said = notices(&node);
        let many = said
            .split("failed ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
        many == Some(wanted(&node).len())
    });
    let said = notices(&node);
    assert!(
        said.contains("no-such-program") && said.contains("ENOENT"),
        "{said}"
    );
    let lines = node
        .stderr()
        .lines()
        .filter(|line| line.contains("on_event: "))
        .count();
    assert_eq!(lines, 1, "one line for the same failure: {}", node.stderr());
    node.check();
}

/// `events`, `units` and `rate` choose what is told, and how fast.
#[test]
fn the_file_chooses_which_events_of_which_units_and_how_fast() {
    let more = "rate = \"2/h\"\nevents = [\"DAEMON_ST*\", \"DAEMON_READY\"]\nunits = [\"a*\"]";
    let node = hook(Node::builder(), NOTE, more)
        .unit("a1", &Unit::bad(&["run"]))
        .unit("b", &Unit::bad(&["run"]))
        .start();
    node.ctl(&["restart", "a1", "b"]).ended(0);
    until("two are told", || told(&node).len() == 2);
    // Five and more wait for the next hour.
    node.ctl(&["restart", "a1"]).ended(0);
    assert_eq!(told(&node).len(), 2);
    for line in node.read("heard").lines() {
        let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(event["unit"], "a1", "{line}");
    }
    node.check();
}

/// What the file has wrong is told with its place, like everything else in it.
#[test]
fn faults_in_the_table_are_told_with_their_place() {
    for (lines, words) in [
        ("command = []", "command"),
        ("events = [\"DAEMON_READY\"]", "does not say what to run"),
        ("command = [\"/x\"]\nrate = \"fast\"", "\"fast\" is not a rate"),
        ("command = [\"/x\"]\nrate = \"0/s\"", "\"0/s\" is not a rate"),
        (
            "command = [\"/x\"]\nevents = [\"DAEMON_REDAY\"]",
            "no event is called \"DAEMON_REDAY\"",
        ),
        (
            "command = [\"/x\"]\nunits = [\"nobody\"]",
            "unknown unit \"nobody\"",
        ),
        ("command = [\"/x\"]\nunits = [\"z*\"]", "\"z*\" selects no unit"),
        ("command = [\"/x\", \"${UNSET_HERE}\"]", "UNSET_HERE"),
        ("command = [\"/x\"]\nqueue = 0", "queue"),
    ] {
        let node = Node::builder()
            .config(&format!("[on_event]\n{lines}"))
            .unit("a", &Unit::bad(&["run"]))
            .prepare();
        let mut args = vec!["check".to_owned()];
        args.extend(node.places());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let said = harness::ctl::run(harness::programs::ringriftd(), &args, PATIENCE, |_| {});
        assert_eq!(said.code, Some(8), "{said}");
        assert!(
            said.text().contains(words) && said.text().contains("ringriftd.toml:"),
            "{words}: {said}"
        );
    }
}
