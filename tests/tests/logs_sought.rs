//! `ringriftctl logs`: some of the lines, by time, by life, by what they say.

use harness::{Node, Unit, until};
use proto::reply::State;

/// The texts of a command's lines.
fn texts(node: &Node, args: &[&str]) -> Vec<String> {
    let told = node.ctl(&[&["logs", "-o", "cat"], args].concat()).ended(0).stdout;
    told.lines().map(str::to_owned).collect()
}

/// A unit that says who it is, and what it was told last, and waits to be ended. It has done so once.
fn node() -> Node {
    let script = "echo \"life $(cat \"$1/turn\")\"; echo 'an Error: 7 of 9'; echo done; exec sleep 1000";
    let builder = Node::builder();
    let folder = builder.path("");
    let unit = Unit::command(&["/bin/sh", "-c", script, "sh", &folder]).kind("simple");
    let node = builder.file("turn", "1").unit("a", &unit).start();
    // What it is told from here on is for the next life.
    wait_said(&node, 1);
    node
}

/// Waits until a life has said all that it says.
fn wait_said(node: &Node, turn: u32) {
    until("its last line is there", || {
        let all = texts(node, &["a", "-n", "all"]);
        let is_there = all.iter().any(|line| *line == format!("life {turn}"));
        (is_there && all.last().is_some_and(|line| line == "done")).then_some(())
    });
}

#[test]
fn lines_are_found_by_life_by_time_and_by_what_they_say() {
    let node = node();
    let first = node.unit("a").invocation.expect("it lives");
    for turn in 2..=3 {
        std::fs::write(node.path("turn"), turn.to_string()).expect("it is ours");
        node.ctl(&["restart", "a"]).ended(0);
        wait_said(&node, turn);
    }
    let last = node.wait_state("a", State::Running).invocation.expect("it lives");
    assert_eq!(
        texts(&node, &["a", "--previous"]),
        ["life 2", "an Error: 7 of 9", "done"]
    );
    assert_eq!(texts(&node, &["a", "--previous", "-n", "1"]), ["done"]);
    assert_eq!(texts(&node, &["a", "--invocation", &first])[0], "life 1");
    assert_eq!(texts(&node, &["a", "--invocation", &last])[0], "life 3");
    // Small letters match any, a capital one itself.
    assert_eq!(texts(&node, &["-g", "error: [0-9]"]).len(), 3);
    assert_eq!(texts(&node, &["-g", "ERROR"]).len(), 0);
    assert_eq!(
        texts(&node, &["-g", "^life \\d$", "-n", "2"]),
        ["life 2", "life 3"]
    );
    // By time: that of a line of the second life, as the log tells it.
    let told = node.ctl(&["logs", "-o", "json", "-g", "life 2"]).ended(0).stdout;
    let line: serde_json::Value = serde_json::from_str(told.trim()).expect("one line of JSON");
    let second = line["invocation"].as_str().expect("the 32 digits of its life");
    assert_eq!(texts(&node, &["a", "--invocation", second])[0], "life 2");
    assert_eq!((second.len(), second[..16] == first[..16]), (32, true));
    let time = line["time"].as_str().expect("a time");
    let since = texts(&node, &["a", "--since", time]);
    assert_eq!((since[0].as_str(), since.len()), ("life 2", 6));
    let until = texts(&node, &["a", "--until", time]);
    // The lines of one read share its time.
    assert!((4..=6).contains(&until.len()), "{until:?}");
    assert_eq!(until[3], "life 2");
    assert_eq!(
        texts(&node, &["a", "--since", time, "--until", time])[0],
        "life 2"
    );
    assert_eq!(texts(&node, &["a", "--since", "-1h", "-g", "done"]).len(), 3);
    // Nothing has failed: from now on.
    assert_eq!(texts(&node, &["a", "--since", "last-failure"]).len(), 0);
    node.check();
}

#[test]
fn what_followed_the_last_failure_is_told() {
    let node = node();
    std::fs::write(node.path("turn"), "2").expect("it is ours");
    let unit = node.unit("a");
    node.ctl(&["kill", "a", "-s", "ABRT"]).ended(0);
    node.wait_unit("a", "running again", |now| {
        now.state == State::Running && now.invocation != unit.invocation
    });
    let found = until("the line after it", || {
        let found = texts(&node, &["a", "--since", "last-failure"]);
        (found.last().is_some_and(|line| line == "done")).then_some(found)
    });
    assert_eq!(found, ["life 2", "an Error: 7 of 9", "done"]);
    let before = texts(&node, &["a", "--until", "last-failure"]);
    assert_eq!(before, ["life 1", "an Error: 7 of 9", "done"]);
    node.check();
}

/// What a unit writes with a severity, how it says that in its file, and what is found by it.
#[test]
fn lines_are_found_by_how_grave_they_say_they_are() {
    let node = Node::builder();
    let say = |name: &str, text: &str| {
        let file = node.path(name);
        std::fs::write(&file, text).expect("it is ours");
        let script = "cat \"$1\"; exec sleep 1000";
        Unit::command(&["/bin/sh", "-c", script, "sh", &file]).kind("simple")
    };
    let plain = say(
        "plain",
        "<3>broken\n<6>fine\nERROR: of no account\n<4>so so\nend\n",
    );
    let json = say(
        "json",
        "{\"level\":50,\"m\":\"broken\"}\n{\"severity\":\"info\"}\nno json\nend\n",
    );
    let level = say(
        "level",
        "2026-11-22 01:27:03,123 WARNING x: so so\nINFO fine\nthe ERROR\nend\n",
    );
    let json = json.text("log.parse", "json");
    let level = level.text("log.parse", "level");
    let node = node
        .unit("plain", &plain)
        .unit("json", &json)
        .unit("level", &level)
        .start();
    for unit in ["plain", "json", "level"] {
        until("its last line is there", || {
            let all = texts(&node, &[unit, "-n", "all"]);
            all.last().is_some_and(|line| line == "end").then_some(())
        });
    }
    let grave = |unit, level| texts(&node, &[unit, "-p", level]);
    assert_eq!(grave("plain", "err"), ["<3>broken"]);
    assert_eq!(grave("plain", "warning"), ["<3>broken", "<4>so so"]);
    assert_eq!(grave("plain", "4"), grave("plain", "WARN"));
    assert_eq!(grave("plain", "info").len(), 5);
    assert_eq!(grave("json", "err"), ["{\"level\":50,\"m\":\"broken\"}"]);
    assert_eq!(
        grave("level", "notice"),
        ["2026-11-22 01:27:03,123 WARNING x: so so"]
    );
    let told = node.ctl(&["logs", "-o", "json", "plain"]).ended(0).stdout;
    let said: Vec<_> = told
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["priority"].clone())
        .collect();
    assert_eq!(
        said,
        [
            "err".into(),
            "info".into(),
            serde_json::Value::Null,
            "warning".into(),
            serde_json::Value::Null
        ]
    );
    node.ctl(&["logs", "-p", "loud"]).ended(2);
    node.check();
}

/// What one unit wrote to stderr is shown alone, from a file that says so, over the deaths of logger and manager; of a unit
/// that does not tell its streams apart it cannot be said.
#[test]
fn streams_are_told_apart_where_a_unit_wishes_it() {
    let script = "turn=0; while read -r turn; do echo \"out $turn\"; echo \"err $turn\" >&2; done <\"$1\"";
    let node = Node::builder();
    let fifo = node.path("turns");
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let command = ["/bin/sh", "-c", script, "sh", &fifo];
    let split = Unit::command(&command).kind("simple").set("log.split", "true");
    let whole = Unit::command(&["/bin/sh", "-c", "echo out; echo err >&2; exec sleep 1000"]).kind("simple");
    let mut node = node.unit("split", &split).unit("whole", &whole).start();
    // Opened for both directions, so that neither side waits for the other.
    let mut turns = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&fifo)
        .expect("opened");
    let said = |node: &Node, turn: u32| {
        let last = [format!("out {turn}"), format!("err {turn}")];
        until("both lines of the turn", || {
            let all = texts(node, &["split", "-n", "all"]);
            last.iter().all(|line| all.contains(line)).then_some(())
        });
    };
    for turn in 1..=3 {
        std::io::Write::write_all(&mut turns, format!("{turn}\n").as_bytes()).expect("written");
        said(&node, turn);
        match turn {
            1 => drop(node.crash_logger()),
            2 => drop(node.crash_manager()),
            _ => {}
        }
    }
    assert_eq!(texts(&node, &["split", "--stderr"]), ["err 1", "err 2", "err 3"]);
    let told = node
        .ctl(&["logs", "-o", "json", "split", "-g", "err 2"])
        .ended(0)
        .stdout;
    let line: serde_json::Value = serde_json::from_str(told.trim()).expect("one line of JSON");
    assert_eq!(line["stream"], "stderr");
    let file = std::fs::read_to_string(node.path("log/split.log")).expect("its file");
    assert_eq!(
        (file.matches(" 1| out ").count(), file.matches(" 2| err ").count()),
        (3, 3)
    );
    let told = node.ctl(&["logs", "whole", "--stderr"]).ended(2);
    assert!(told.stderr.contains("split = true"), "{}", told.stderr);
    let both = node.ctl(&["logs", "--stderr", "-o", "cat"]).ended(0);
    assert!(
        both.stdout.lines().eq(["err 1", "err 2", "err 3"]),
        "{}",
        both.stdout
    );
    assert!(both.stderr.contains("whole does not tell"), "{}", both.stderr);
    node.check();
}

#[test]
fn senseless_wishes_are_told_what_is_wrong_with_them() {
    let node = node();
    for (args, says) in [
        (&["-g", "a(b"][..], "unclosed group"),
        (&["--since", "yesterdayish"], "is no time"),
        (&["--until", "-1h", "-f"], "--follow"),
        (&["--invocation", "first"], "32 hex digits"),
        (&["--invocation", "1", "--previous"], "--previous"),
    ] {
        let told = node.ctl(&[&["logs"], args].concat()).ended(2);
        assert!(told.stderr.contains(says), "{args:?}: {}", told.stderr);
    }
    node.check();
}
