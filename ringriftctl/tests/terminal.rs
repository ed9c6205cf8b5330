//! What happens on a terminal only: colours, the block that shows progress, questions, and what is refused there.

mod support;

use std::process::Command;
use std::sync::mpsc::{Sender, channel};

use proto::frame::Ask;
use proto::reply::*;
use proto::request::Request;
use support::terminal::{COLUMNS, Terminal};
use support::*;

/// What stays on the screen: understands what the program may send, and nothing else.
fn screen(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    let (mut row, mut fresh) = (0, true);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\r' => fresh = true,
            '\n' => {
                row += 1;
                fresh = true;
                if row == lines.len() {
                    lines.push(String::new());
                }
            }
            '\x1b' => {
                assert_eq!(chars.next(), Some('['), "{text:?}");
                let mut number = String::new();
                let last = loop {
                    match chars.next().expect("a whole sequence") {
                        c @ ('0'..='9' | ';') => number.push(c),
                        c => break c,
                    }
                };
                match last {
                    'm' => {}
                    'A' => row -= number.parse::<usize>().expect("a number"),
                    'J' => {
                        lines.truncate(row + 1);
                        lines[row].clear();
                    }
                    other => panic!("an unknown sequence {other:?} in {text:?}"),
                }
            }
            c => {
                if std::mem::take(&mut fresh) {
                    lines[row].clear();
                }
                lines[row].push(c);
            }
        }
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

#[test]
fn colours_are_for_terminals_that_have_them() {
    let daemon = Daemon::answering(sample);
    let shown = |environment: &[(&str, &str)], args: &[&str]| {
        let mut command = daemon.command(args);
        command.envs(environment.iter().copied());
        Terminal::run(command).end().1
    };
    assert!(shown(&[], &["status"]).contains("\x1b[1;31mfailed\x1b[0m"));
    assert!(!shown(&[("NO_COLOR", "1")], &["status"]).contains('\x1b'));
    assert!(!shown(&[("TERM", "dumb")], &["status"]).contains('\x1b'));
    assert!(!shown(&[], &["status", "--color", "never"]).contains('\x1b'));
    assert!(out(&daemon.run(&["status", "--color", "always"])).contains("\x1b[1;31mfailed"));
}

#[test]
fn colours_change_no_column() {
    let daemon = Daemon::answering(sample);
    let wide = |mut command: Command| {
        command.args(["-o", "wide"]);
        command
    };
    let shown = screen(&Terminal::run(wide(daemon.command(&["list"]))).end().1);
    let piped = out(&wide(daemon.command(&["list"])).output().expect("runs"));
    assert_eq!(shown, piped.lines().collect::<Vec<_>>());
}

#[test]
fn rows_fit_the_terminal() {
    let daemon = Daemon::answering(|_| {
        let mut long = unit("a", State::Running, 1);
        long.note = Some("x".repeat(200));
        vec![
            node(Summary {
                wanted: 1,
                running: 1,
                ..Summary::default()
            }),
            Reply::Units(vec![long]),
        ]
    });
    let lines = screen(&Terminal::run(daemon.command(&["status"])).end().1);
    let widest = lines.iter().map(|l| l.chars().count()).max();
    assert_eq!(widest, Some(usize::from(COLUMNS)), "{lines:?}");
    assert!(lines.iter().any(|l| l.ends_with('…')), "{lines:?}");
}

/// A daemon that takes a job for `a` and `b`, tells how they are, and goes on when it is told to.
fn patient() -> (Daemon, Sender<()>) {
    let (go, told) = channel::<()>();
    let told = std::sync::Mutex::new(told);
    let daemon = Daemon::raw(move |mut line| {
        line.welcome();
        let job: Ask = line.receive().expect("a job");
        line.reply(job.id, plan(&["a", "b"], &[]));
        // News are asked for while the block lives; the job goes on after some.
        let news: Ask = line.receive().expect("a question for news");
        assert!(matches!(&news.request, Request::Status { selectors, .. } if selectors.len() == 2));
        let mut waiting = unit("b", State::Waiting, 0);
        waiting.blocked_by = vec![Blocker {
            unit: "a".into(),
            why: "is starting".into(),
        }];
        let mut starting = unit("a", State::Starting, 0);
        starting.status_text = Some("loading \x1b[2J".into());
        line.reply(news.id, Reply::Units(vec![starting, waiting]));
        if told.lock().expect("unpoisoned").recv_timeout(PATIENCE).is_ok() {
            line.reply(job.id, verdict("a", Outcome::Done, "ready"));
            line.reply(job.id, verdict("b", Outcome::Failed, "exit 1"));
            line.reply(job.id, Reply::End);
        }
        let _: Option<Ask> = line.receive();
    });
    (daemon, go)
}

#[test]
fn progress_shows_what_is_waited_for_and_goes_away() {
    let (daemon, go) = patient();
    let mut terminal = Terminal::run(daemon.command(&["start", "a", "b"]));
    terminal.expect("start: 0 of 2 done");
    terminal.expect("waits for a (is starting)");
    terminal.expect("\"loading \\x1b[2J\"");
    go.send(()).expect("told");
    let (code, text) = terminal.end();
    assert_eq!(code, 10);
    assert_eq!(
        screen(&text),
        ["a  done          1.2s  ready", "b  failed        1.2s  exit 1"]
    );
}

#[test]
fn a_unit_that_got_there_counts_before_the_verdicts_come() {
    let (go, told) = channel::<()>();
    let told = std::sync::Mutex::new(told);
    let daemon = Daemon::raw(move |mut line| {
        line.welcome();
        let job: Ask = line.receive().expect("a job");
        line.reply(job.id, plan(&["a", "b"], &[]));
        let news: Ask = line.receive().expect("a question for news");
        let units = vec![unit("a", State::Running, 1), unit("b", State::Starting, 0)];
        line.reply(news.id, Reply::Units(units));
        if told.lock().expect("unpoisoned").recv_timeout(PATIENCE).is_ok() {
            line.reply(job.id, verdict("a", Outcome::Done, "running"));
            line.reply(job.id, verdict("b", Outcome::Done, "running"));
            line.reply(job.id, Reply::End);
        }
        let _: Option<Ask> = line.receive();
    });
    let mut terminal = Terminal::run(daemon.command(&["start", "a", "b"]));
    terminal.expect("start: 1 of 2 done");
    go.send(()).expect("told");
    assert_eq!(terminal.end().0, 0);
}

#[test]
fn progress_goes_away_on_ctrl_c_too() {
    let (daemon, _go) = patient();
    let mut terminal = Terminal::run(daemon.command(&["start", "a", "b"]));
    terminal.expect("waits for a (is starting)");
    terminal.interrupt();
    let (code, text) = terminal.end();
    assert_eq!(code, 130);
    assert_eq!(
        screen(&text),
        [
            "error: interrupted: the start goes on",
            "  still waited for: a, b",
            "  help: see: ringriftctl status a b"
        ]
    );
}

#[test]
fn no_block_is_drawn_where_it_cannot_be_erased() {
    let daemon = Daemon::answering(sample);
    let mut command = daemon.command(&["start", "a"]);
    command.env("TERM", "dumb");
    let (code, text) = Terminal::run(command).end();
    assert_eq!((code, text.as_str()), (0, "a  done          1.2s  as asked\r\n"));
}

/// Stopping `a` would stop `b` too.
fn cascading() -> Daemon {
    Daemon::answering(|request| match request {
        Request::Stop(job) if !job.cascade => {
            vec![Reply::Failed(Failure {
                details: vec!["b".into()],
                ..failure(7, "would also stop b")
            })]
        }
        Request::Stop(_) => vec![
            plan(&["a"], &["b"]),
            verdict("b", Outcome::Done, "stopped"),
            verdict("a", Outcome::Done, "stopped"),
        ],
        other => panic!("{other:?}"),
    })
}

#[test]
fn touching_others_is_asked_about() {
    let daemon = cascading();
    let mut terminal = Terminal::run(daemon.command(&["stop", "a"]));
    terminal.expect("stop also touches b: go on? [y/N] ");
    terminal.enter("y\n");
    let (code, text) = terminal.end();
    assert_eq!(code, 0, "{text}");
    assert!(matches!(&daemon.asked()[1], Request::Stop(job) if job.cascade));
}

#[test]
fn anything_but_yes_is_no() {
    for typed in ["\n", "n\n", "yess\n", "\x04"] {
        let daemon = cascading();
        let mut terminal = Terminal::run(daemon.command(&["stop", "a"]));
        terminal.expect("[y/N] ");
        terminal.enter(typed);
        let (code, text) = terminal.end();
        assert_eq!(code, 7, "{typed:?}: {text}");
        assert!(text.contains("nothing was done"), "{text}");
        assert_eq!(daemon.asked().len(), 1);
    }
}

#[test]
fn ctrl_c_at_the_question_does_nothing() {
    let daemon = cascading();
    let mut terminal = Terminal::run(daemon.command(&["stop", "a"]));
    terminal.expect("[y/N] ");
    terminal.interrupt();
    let (code, text) = terminal.end();
    assert_eq!(code, 130, "{text}");
    assert!(text.contains("nothing was done"), "{text}");
    assert_eq!(daemon.asked().len(), 1);
}

#[test]
fn raw_bytes_are_not_given_to_a_terminal_without_force() {
    let daemon = Daemon::answering(sample);
    let (code, text) = Terminal::run(daemon.command(&["logs", "-o", "cat"])).end();
    assert_eq!(code, 7, "{text}");
    assert!(text.contains("--force") && daemon.asked().is_empty(), "{text}");
    let (code, text) = Terminal::run(daemon.command(&["logs", "-o", "cat", "--force"])).end();
    assert_eq!(code, 0);
    assert!(text.contains("\x1b]0;pwn"), "{text}");
}

#[test]
fn log_lines_and_files_are_escaped_on_a_terminal() {
    let daemon = Daemon::answering(|request| match request {
        Request::Cat { .. } => vec![Reply::Definition(Box::new(Definition {
            unit: "a".into(),
            files: vec![SourceFile {
                path: "a.toml".into(),
                text: "# \x1b]0;x\x07\n".into(),
            }],
            settings: vec![],
        }))],
        other => sample(other),
    });
    for args in [&["logs"][..], &["cat", "a"], &["logs", "-o", "json"]] {
        let (code, text) = Terminal::run(daemon.command(args)).end();
        assert_eq!(code, 0, "{text}");
        // The little screen refuses every sequence that is not ours; no other control may be left either.
        let lines = screen(&text);
        assert!(
            !lines.is_empty() && !lines.concat().contains(char::is_control),
            "{text:?}"
        );
    }
}
