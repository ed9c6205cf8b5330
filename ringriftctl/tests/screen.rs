//! `status` as an operator sees it: on terminals of every width, in a pipe, without colours and without UTF-8.

mod support;

use proto::reply::*;
use proto::request::Request;
use support::terminal::Terminal;
use support::*;
use unicode_width::UnicodeWidthStr;

/// A node on which everything goes wrong at once, in long and hostile words.
fn trouble(request: &Request) -> Vec<Reply> {
    let long = "availability_capacity_planner";
    let mut broken_one = broken("s3_sync");
    broken_one.last_error = Some("\u{1b}[2J日本語 is where it went wrong, ".repeat(9));
    broken_one.last_lines = vec![
        line("s3_sync", "\u{1b}]0;title\u{7} ".repeat(20).as_bytes()),
        line("s3_sync", b"  "),
    ];
    broken_one.next_try_us = Some(now_us() + 7_230_000_000);
    let mut again = unit(long, State::Backoff, 1);
    again.last_error = Some("was killed by signal SIGKILL".into());
    again.next_try_us = Some(now_us() + 12_500_000);
    let mut sick = unit("model_performance_watchdog", State::Running, 9);
    (sick.health, sick.status_text) = (Health::Unhealthy, Some("no model since yesterday\u{202e}".into()));
    let mut held = unit("held_one", State::Held, 3);
    held.held = Some(Hold {
        by: By {
            uid: 1000,
            pid: 9,
            verb: "hold".into(),
        },
        note: Some("the disk is being changed ".repeat(4)),
        since_us: now_us() - 200_000_000,
        until_us: None,
    });
    let mut units = vec![unit("fine", State::Running, 3), broken_one, again, sick, held];
    for n in 0..30 {
        let mut waiting = unit(&format!("waits_for_the_others_{n}"), State::Waiting, 1);
        let whom = ["s3_sync", "held_one", "waits_for_the_others_1"][n % 3];
        waiting.blocked_by = vec![Blocker {
            unit: whom.into(),
            why: "is down".into(),
        }];
        units.push(waiting);
    }
    if let Request::Status { selectors, .. } = request
        && !selectors.is_empty()
    {
        units.retain(|u| selectors.contains(&u.name));
    }
    let summary = Summary {
        known: 78,
        wanted: 35,
        running: 2,
        waiting: 30,
        backoff: 1,
        failed: 1,
        stopped: 1,
        ..Summary::default()
    };
    let Reply::Node(mut node) = node(summary) else {
        unreachable!("a node is a node");
    };
    node.notices = vec!["the recorder's file was not whole and has been set aside as it was ".repeat(3)];
    vec![Reply::Node(node), Reply::Units(units)]
}

/// What a terminal shows of it: without the sequences that colour it, which must be the only ones.
fn lines(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\x1b') {
        plain.push_str(before);
        let end = after.find('m').expect("a colour ends with m");
        let is_colour = after[..end]
            .chars()
            .all(|c| c == '[' || c == ';' || c.is_ascii_digit());
        assert!(is_colour, "{:?} is no colour", &after[..end]);
        rest = &after[end + 1..];
    }
    plain.push_str(rest);
    plain
        .lines()
        .map(|l| l.trim_end_matches('\r').to_owned())
        .collect()
}

/// The screen that an operator looks at most has no line that a terminal would wrap, whatever units say.
#[test]
fn no_line_of_the_status_wraps() {
    for columns in [40, 60, 72, 80, 100, 120, 200] {
        let daemon = Daemon::answering(trouble);
        let terminal = Terminal::sized(daemon.command(&["status"]), columns, 24);
        let (code, text) = terminal.end();
        assert_eq!(code, 3, "{text}");
        let shown = lines(&text);
        for line in &shown {
            assert!(
                line.width() <= usize::from(columns),
                "{columns} columns: {line:?}"
            );
        }
        let names = shown
            .iter()
            .filter(|l| l.starts_with("waits_for_the_others_"))
            .count();
        assert_eq!(names, 30, "every wanted unit has a row: {text}");
        assert!(shown[0].starts_with("✗ ring-1: failed, "), "{text}");
        // 36 rows on 24 lines: the verdict is said again where the operator looks.
        assert_eq!(shown[0], shown[shown.len() - 1]);
    }
}

/// The command to type next is whole at 80 columns, and names the socket that was asked.
#[test]
fn the_next_command_can_be_copied() {
    let daemon = Daemon::answering(trouble);
    let terminal = Terminal::sized(daemon.command(&["status"]), 80, 50);
    let (_, text) = terminal.end();
    let shown = lines(&text);
    assert!(
        shown.iter().any(|l| l
            .trim_end()
            .ends_with("ringriftctl logs s3_sync     what it said")),
        "{text}"
    );
    assert!(
        text.contains("next try in 2h"),
        "until when it stays down: {text}"
    );
    let socket = daemon.socket.display().to_string();
    let mut command = bare();
    command.args(["--socket", &socket, "status"]);
    let output = command.output().expect("ringriftctl runs");
    code(&output, 3);
    assert!(
        out(&output).contains(&format!("ringriftctl --socket {socket} logs s3_sync")),
        "{}",
        out(&output)
    );
}

/// A pipe gets the same rows and columns as a terminal, in plain text; NO_COLOR is heard, and so is a plain locale.
#[test]
fn pipes_and_plain_terminals_get_the_same_words() {
    let heads = "UNIT STATE HEALTH SINCE RESTARTS NOTE";
    let has_heads = |lines: &[String]| {
        let head = lines.iter().find(|l| l.starts_with("UNIT ")).expect("a heading");
        assert_eq!(head.split_whitespace().collect::<Vec<_>>().join(" "), heads);
    };
    let daemon = Daemon::answering(trouble);
    let piped = daemon.run(&["status"]);
    code(&piped, 3);
    let piped = out(&piped);
    assert!(!piped.contains('\x1b'), "{piped}");
    has_heads(&lines(&piped));
    let shown = |name: &str, value: &str| {
        let mut command = daemon.command(&["status"]);
        command.env(name, value);
        Terminal::sized(command, 120, 60).end().1
    };
    let coloured = shown("TERM", "xterm");
    assert!(coloured.contains("\x1b[1;31m"), "{coloured}");
    has_heads(&lines(&coloured));
    let uncoloured = shown("NO_COLOR", "1");
    assert!(!uncoloured.contains('\x1b'), "{uncoloured}");
    let ascii = shown("LC_ALL", "C");
    assert!(ascii.is_ascii(), "{ascii}");
    assert!(lines(&ascii)[0].starts_with("x ring-1: failed, "), "{ascii}");
}
