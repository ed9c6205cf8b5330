//! What goes wrong: no daemon, another one, a broken one; stdout closed, full or left; odd environments; mistyped lines.
//! Never a panic, never a false success, never an endless wait.

mod support;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use proto::frame::{Ask, VERSION, Welcome};
use proto::reply::*;
use proto::request::Request;
use serde_json::Value;
use support::*;

#[test]
fn no_daemon_is_one_clear_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("control.sock");
    for args in [
        &["status"][..],
        &["start", "a"],
        &["logs"],
        &["version"],
        &["list", "-o", "name"],
    ] {
        let output = bare()
            .arg("--socket")
            .arg(&socket)
            .args(args)
            .output()
            .expect("runs");
        code(&output, 69);
        let text = err(&output);
        assert!(
            text.starts_with("error: no ringriftd is running here ("),
            "{text}"
        );
        assert!(
            text.contains("control.sock: ") && text.contains("--profile") && text.lines().count() == 1,
            "{text}"
        );
    }
    // A socket that nobody listens at any more is no daemon either.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("a socket"));
    let output = bare()
        .arg("--socket")
        .arg(&socket)
        .args(["status", "--json"])
        .output()
        .expect("runs");
    code(&output, 69);
    let error: Value = serde_json::from_str(&out(&output)).expect("JSON");
    assert_eq!(
        (&error["schema"], &error["code"]),
        (&"ringrift.v1.error".into(), &69.into())
    );
    assert!(output.stderr.is_empty());
    // Who asks for rows in JSON hears of errors in JSON.
    let output = bare()
        .arg("--socket")
        .arg(&socket)
        .args(["list", "-o", "json"])
        .output()
        .expect("runs");
    code(&output, 69);
    assert!(serde_json::from_str::<Value>(&out(&output)).is_ok_and(|e| e["code"] == 69));
}

#[test]
fn a_socket_path_too_long_is_told() {
    let long = format!("/tmp/{}", "x".repeat(200));
    let output = bare().args(["--socket", &long, "status"]).output().expect("runs");
    code(&output, 69);
}

#[test]
fn the_runtime_folder_leads_to_the_socket() {
    let daemon = Daemon::answering(sample);
    let dir = daemon.socket.parent().expect("a folder");
    let output = bare()
        .env("RINGRIFT_RUNTIME_DIR", dir)
        .arg("list")
        .output()
        .expect("runs");
    code(&output, 0);
}

#[test]
fn a_socket_in_a_folder_that_others_write_is_not_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    let home = dir.path().join("ringrift");
    std::fs::create_dir(&home).expect("a folder");
    let daemon = Daemon::answering(sample);
    std::fs::rename(&daemon.socket, home.join("control.sock")).expect("moved");
    let run = || {
        bare()
            .env("XDG_RUNTIME_DIR", dir.path())
            .arg("list")
            .output()
            .expect("runs")
    };
    std::fs::set_permissions(&home, PermissionsExt::from_mode(0o777)).expect("chmod");
    let output = run();
    // Another node may really run on this machine; what counts is that this one was not asked.
    assert!(daemon.asked().is_empty(), "{}", err(&output));
    std::fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).expect("chmod");
    code(&run(), 0);
}

#[test]
fn another_version_is_refused_with_both_named() {
    for (theirs, welcome) in [
        (
            7,
            Welcome::Refused {
                version: 7,
                reason: "too old a client".into(),
            },
        ),
        (
            9,
            Welcome::Accepted {
                version: 9,
                program: "ringriftd 9".into(),
            },
        ),
        (
            0,
            Welcome::Refused {
                version: 0,
                reason: "too new a client".into(),
            },
        ),
    ] {
        let daemon = Daemon::raw(move |mut line| {
            let _: Option<proto::frame::Hello> = line.receive();
            line.send(&welcome);
            // No request may follow.
            assert_eq!(line.receive::<Ask>(), None);
        });
        let output = daemon.run(&["status"]);
        code(&output, 69);
        let text = err(&output);
        assert!(text.contains(&format!("speaks protocol {VERSION},")), "{text}");
        assert!(text.contains(&format!("speaks protocol {theirs}:")), "{text}");
    }
}

#[test]
fn denied_and_busy_are_told_apart() {
    let denied = Daemon::raw(|mut line| {
        line.send(&Welcome::Refused {
            version: VERSION,
            reason: "uid 7 is neither owner nor root".into(),
        });
        let _: Option<proto::frame::Hello> = line.receive();
    });
    let output = denied.run(&["status"]);
    code(&output, 5);
    assert!(err(&output).contains("uid 7"), "{}", err(&output));
    let busy = Daemon::raw(|mut line| {
        line.send(&Welcome::Busy {
            reason: "64 clients".into(),
        });
        let _: Option<proto::frame::Hello> = line.receive();
    });
    let output = busy.run(&["status"]);
    code(&output, 69);
    assert!(err(&output).contains("busy: 64 clients"), "{}", err(&output));
}

/// A daemon that is welcome, reads one request, and then does something odd.
fn odd(act: impl Fn(&mut Line, u64) + Send + Sync + 'static) -> Daemon {
    Daemon::raw(move |mut line| {
        line.welcome();
        if let Some(ask) = line.receive::<Ask>() {
            act(&mut line, ask.id);
        }
    })
}

#[test]
fn a_daemon_that_goes_away_is_never_a_success() {
    let verbs = [
        &["status"][..],
        &["start", "a"],
        &["stop", "a"],
        &["wait", "a"],
        &["reset-failed"],
        &["logs", "-f"],
    ];
    for args in verbs {
        code(&odd(|_, _| {}).run(args), 69);
        // In the middle of a frame, too.
        let half = odd(|line, _| line.0.write_all(&[0, 0, 1, 0, 7]).expect("sent"));
        code(&half.run(args), 69);
    }
    // Even after a verdict: the answer had no end.
    let daemon = odd(|line, id| {
        line.reply(id, plan(&["a"], &[]));
        line.reply(id, verdict("a", Outcome::Done, "ready"));
    });
    code(&daemon.run(&["start", "a"]), 69);
}

#[test]
fn an_end_without_verdicts_is_no_success() {
    let daemon = Daemon::answering(|_| vec![plan(&["a", "b"], &[]), verdict("a", Outcome::Done, "ready")]);
    let output = daemon.run(&["start", "a", "b"]);
    code(&output, 10);
    assert!(
        err(&output).contains("b: the daemon gave no verdict"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_hostile_daemon_is_an_error() {
    let garbage = odd(|line, _| {
        line.0
            .write_all(&[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff])
            .expect("sent")
    });
    code(&garbage.run(&["status"]), 70);
    let huge = odd(|line, _| line.0.write_all(&[0xff, 0xff, 0xff, 0xff, 1, 2]).expect("sent"));
    let output = huge.run(&["status"]);
    code(&output, 70);
    assert!(err(&output).contains("4294967295 bytes"), "{}", err(&output));
    // 2^40 units in a frame of a few bytes.
    let claims = odd(|line, _| {
        let mut body = vec![1, 3, 0xfd];
        body.extend_from_slice(&(1u64 << 40).to_le_bytes());
        let mut frame = (body.len() as u32).to_be_bytes().to_vec();
        frame.extend(body);
        line.0.write_all(&frame).expect("sent");
    });
    code(&claims.run(&["status"]), 70);
    let wrong = Daemon::answering(|_| {
        vec![Reply::Names(Names {
            units: vec![],
            profiles: vec![],
            categories: vec![],
        })]
    });
    for args in [
        &["status"][..],
        &["start", "a"],
        &["deps"],
        &["logs"],
        &["version"],
    ] {
        code(&wrong.run(args), 70);
    }
    // A failure that claims success.
    let zero = Daemon::answering(|_| vec![Reply::Failed(failure(0, "all is well"))]);
    code(&zero.run(&["stop", "a"]), 1);
}

#[test]
fn a_job_that_takes_too_long_is_124() {
    let daemon = odd(|line, id| {
        line.reply(id, plan(&["a"], &[]));
        let _: Option<Ask> = line.receive();
    });
    let output = daemon.run(&["start", "a", "--timeout", "100ms"]);
    code(&output, 124);
    assert!(
        err(&output).contains("no result after 100ms: the start goes on"),
        "{}",
        err(&output)
    );
    let theirs = Daemon::answering(|_| vec![Reply::Failed(failure(124, "still starting"))]);
    code(&theirs.run(&["wait", "a", "--timeout", "1s"]), 124);
}

#[test]
fn ctrl_c_leaves_the_job_running_and_says_so() {
    for (args, says) in [
        (&["start", "a"][..], "interrupted: the start goes on"),
        (&["wait", "a"], "interrupted\n"),
    ] {
        let (tell, hear) = std::sync::mpsc::channel();
        let tell = std::sync::Mutex::new(tell);
        let daemon = odd(move |line, id| {
            line.reply(id, plan(&["a"], &[]));
            tell.lock().expect("unpoisoned").send(()).expect("heard");
            let _: Option<Ask> = line.receive();
        });
        let child = daemon
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        // It has caught its signals before it asks.
        hear.recv_timeout(PATIENCE).expect("the request came");
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("signalled");
        let output = child.wait_with_output().expect("ends");
        code(&output, 130);
        assert!(err(&output).contains(says), "{}", err(&output));
    }
}

/// D25: `| head -1`, with more output than a pipe holds.
#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let daemon = Daemon::answering(|request| match request {
        Request::Logs { .. } => (0..40)
            .map(|_| Reply::Logs(vec![line("a", &[b'x'; 80]); 128]))
            .collect(),
        Request::Status { .. } => {
            let units = vec![unit("a_rather_long_name", State::Running, 1); 128];
            let mut replies = vec![node(Summary::default())];
            replies.extend((0..30).map(|_| Reply::Units(units.clone())));
            replies
        }
        _ => vec![],
    });
    for args in [
        &["logs", "-n", "all"][..],
        &["list"],
        &["list", "--json"],
        &["logs", "-f"],
        &["status"],
    ] {
        let mut child = daemon
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut first = String::new();
        let mut reader = BufReader::with_capacity(64, child.stdout.take().expect("piped"));
        if !args.contains(&"--json") {
            reader.read_line(&mut first).expect("one line");
            assert!(first.ends_with('\n'));
        }
        drop(reader);
        let output = child.wait_with_output().expect("ends");
        code(&output, 141);
        assert!(output.stderr.is_empty(), "{args:?}: {}", err(&output));
    }
}

/// A job's verdict is its exit code, whether or not somebody reads its lines.
#[test]
fn a_job_does_not_mind_a_reader_that_goes_away() {
    for (unit, expected) in [("a", 0), ("bad", 1)] {
        let daemon = Daemon::answering(sample);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = daemon.command(&["start", unit]);
        let output = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs")
            .wait_with_output();
        code(&output.expect("ends"), expected);
    }
}

#[test]
fn a_full_disk_is_an_error_line() {
    let daemon = Daemon::answering(sample);
    for args in [
        &["status"][..],
        &["list", "--json"],
        &["start", "a"],
        &["logs"],
        &["--help"],
        &["completion", "bash"],
    ] {
        let full = OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full");
        let mut command = daemon.command(args);
        let child = command.stdout(full).stderr(Stdio::piped()).spawn().expect("runs");
        let output = child.wait_with_output().expect("ends");
        code(&output, 1);
        assert!(
            err(&output).contains("cannot write to stdout: No space left"),
            "{}",
            err(&output)
        );
    }
}

#[test]
fn a_closed_stdout_and_stderr_are_survived() {
    let daemon = Daemon::answering(sample);
    let program = env!("CARGO_BIN_EXE_ringriftctl");
    for (line, expected) in [
        ("list >&-", 0),
        ("list >&- 2>&-", 0),
        ("status nobody 2>&-", 4),
        ("status >&- <&- 2>&-", 3),
        ("start a bad >&-", 10),
    ] {
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("{program} {line}")])
            .env("RINGRIFT_SOCKET", &daemon.socket)
            .output()
            .expect("sh runs");
        code(&output, expected);
    }
}

#[test]
fn a_bare_environment_is_enough_and_c_means_ascii() {
    let daemon = Daemon::answering(|request| match request {
        Request::Status { .. } => {
            let mut odd = unit("a", State::Failed, 1);
            odd.last_error = Some("gr\u{fc}n \u{202e}".into());
            odd.status_text = Some("\x1b]0;pwn\x07".into());
            vec![
                node(Summary {
                    wanted: 1,
                    failed: 1,
                    ..Summary::default()
                }),
                Reply::Units(vec![odd]),
            ]
        }
        other => sample(other),
    });
    for locale in [None, Some("C"), Some("POSIX")] {
        for args in [
            &["status"][..],
            &["status", "a"],
            &["deps"],
            &["events"],
            &["list"],
        ] {
            let mut command = daemon.command(args);
            command
                .env_remove("LANG")
                .env_remove("TZ")
                .env_remove("TERM")
                .env_remove("HOME");
            if let Some(locale) = locale {
                command.env("LANG", locale);
            }
            let text = out(&command.output().expect("runs"));
            assert!(
                text.is_ascii() && !text.contains('\x1b') && !text.is_empty(),
                "{text}"
            );
        }
    }
    let text = out(&daemon.run(&["status", "a"]));
    assert!(
        text.contains("gr\u{fc}n \\u{202e}") && text.contains("\\x1b]0;pwn\\x07"),
        "{text}"
    );
}

/// S9: whatever a daemon, a unit or a log line says, none of it drives the terminal, nor makes one line two.
#[test]
fn nothing_that_a_daemon_says_drives_the_terminal() {
    let nasty = "\x1b[2J\u{9b}31m\r\n\u{202e}\x7f";
    let daemon = Daemon::answering(move |request| match request {
        Request::Status { selectors, .. } if selectors == &["e"] => vec![Reply::Failed(Failure {
            unit: Some(nasty.into()),
            hint: Some(nasty.into()),
            details: vec![nasty.into()],
            ..failure(4, nasty)
        })],
        Request::Status { .. } => {
            let mut odd = unit(nasty, State::Waiting, 1);
            for text in [
                &mut odd.note,
                &mut odd.added_by,
                &mut odd.deprecated,
                &mut odd.last_error,
                &mut odd.status_text,
            ] {
                *text = Some(nasty.into());
            }
            (odd.category, odd.lifecycle, odd.description) = (nasty.into(), nasty.into(), nasty.into());
            odd.invocation = Some(nasty.into());
            odd.blocked_by = vec![Blocker {
                unit: nasty.into(),
                why: nasty.into(),
            }];
            odd.last_lines = vec![line(nasty, nasty.as_bytes())];
            let mut header = node(Summary {
                wanted: 1,
                waiting: 1,
                ..Summary::default()
            });
            if let Reply::Node(n) = &mut header {
                (n.node, n.version, n.containment) = (nasty.into(), nasty.into(), nasty.into());
                n.notices = vec![nasty.into()];
                n.profiles = vec![nasty.into()];
            }
            vec![header, Reply::Units(vec![odd])]
        }
        Request::Logs { .. } => vec![Reply::Logs(vec![line(nasty, nasty.as_bytes())])],
        Request::DaemonReload => vec![Reply::Reloaded(Reloaded {
            added: vec![nasty.into()],
            warnings: vec![nasty.into()],
            ..Reloaded::default()
        })],
        Request::Start(_) => vec![plan(&[nasty], &[]), verdict(nasty, Outcome::Done, nasty)],
        _ => vec![Reply::Failed(failure(1, nasty))],
    });
    for args in [
        &["status"][..],
        &["status", "a"],
        &["status", "e"],
        &["list", "-o", "wide"],
        &["list", "-o", "name"],
        &["list", "--json"],
        &["failed"],
        &["logs"],
        &["logs", "--json"],
        &["daemon-reload"],
        &["start", "a"],
        &["version", "--json"],
        &["deps"],
    ] {
        let output = daemon.run(args);
        let both = out(&output) + &err(&output);
        assert!(!both.is_empty(), "{args:?}");
        let bad = both
            .chars()
            .find(|c| *c != '\n' && (c.is_control() || *c == '\u{202e}'));
        assert_eq!(bad, None, "{args:?}: {both:?}");
    }
}

#[track_caller]
fn usage(args: &[&str], says: &[&str]) {
    let output = bare().args(args).output().expect("runs");
    code(&output, 2);
    for text in says {
        assert!(err(&output).contains(text), "{text}: {}", err(&output));
    }
    let json = bare().args(args).arg("--json").output().expect("runs");
    code(&json, 2);
    let error: Value = serde_json::from_str(&out(&json)).expect("JSON");
    assert_eq!(
        (&error["schema"], &error["code"]),
        (&"ringrift.v1.error".into(), &2.into())
    );
}

#[test]
fn a_mistyped_verb_names_the_nearest() {
    usage(
        &["statr"],
        &["no such verb \"statr\"", "did you mean start, status"],
    );
    usage(&["stopp"], &["did you mean stop"]);
    usage(&["profile", "sho"], &["did you mean show"]);
    usage(&["\x1b[2Jxyz"], &["\\x1b[2Jxyz"]);
}

#[test]
fn verbs_of_later_versions_are_refused_by_name() {
    for verb in [
        "freeze", "thaw", "plan", "apply", "rollback", "changes", "fleet", "import", "export", "doctor",
    ] {
        usage(&[verb], &[&format!("{verb} is not supported yet")]);
    }
    usage(&["profile", "switch"], &["switch is not supported yet"]);
    usage(&["-H", "host", "status"], &["-H is not supported yet"]);
}

#[test]
fn values_are_checked_before_anybody_is_asked() {
    usage(&["start"], &["required"]);
    usage(
        &["start", "a", "--timeout", "10"],
        &["\"10\" is no duration", "1h30m"],
    );
    usage(&["kill", "a", "-s", "FOO"], &["\"FOO\" is no signal"]);
    usage(&["events", "--since", "soon"], &["\"soon\" is no time"]);
    usage(&["list", "--state", "dead"], &["no such state \"dead\""]);
    usage(&["logs", "-n", "many"], &["neither a number nor"]);
    usage(&["list", "--frobnicate"], &["--frobnicate"]);
    usage(
        &["hold", "a", "--until", "soon"],
        &["\"soon\" is no time to come", "2h"],
    );
    usage(&["hold", "a", "--until", "2001-01-01T00:00"], &["has passed"]);
    usage(
        &["hold", "a", "--note", &"x".repeat(513)],
        &["longer than 512 bytes"],
    );
    usage(&["adopt", "a"], &["--pid"]);
    usage(
        &["adopt", "a", "--pid", "7", "--match", "x"],
        &["cannot be used with"],
    );
}

#[test]
fn a_daemon_that_is_slow_to_greet_is_waited_for_only_so_long() {
    let daemon = Daemon::raw(|mut line| {
        let _: Option<proto::frame::Hello> = line.receive();
        let _: Option<Ask> = line.receive();
    });
    let output = daemon.run(&["status"]);
    code(&output, 69);
    assert!(err(&output).contains("does not answer"), "{}", err(&output));
}

#[test]
fn following_ends_when_the_daemon_says_so_and_tells_of_gaps() {
    let daemon = Daemon::answering(|_| vec![Reply::Logs(vec![line("a", b"x")]), Reply::Lagged(9)]);
    let output = daemon.run(&["logs", "-f"]);
    code(&output, 0);
    assert!(out(&output).ends_with("a: x\n"));
    assert!(err(&output).contains("9 "), "{}", err(&output));
}

#[test]
fn since_the_last_failure_asks_twice() {
    let daemon = Daemon::answering(sample);
    code(&daemon.run(&["events", "--since", "last-failure", "-f"]), 0);
    let asked = daemon.asked();
    assert!(matches!(
        &asked[0],
        Request::Events {
            follow: false,
            after: None,
            ..
        }
    ));
    assert!(matches!(
        &asked[1],
        Request::Events {
            follow: true,
            after: Some(16),
            ..
        }
    ));
    code(&daemon.run(&["events", "--since", "-1h"]), 0);
    let hour_ago = now_us() - 3_600_000_000;
    assert!(
        matches!(daemon.asked()[2], Request::Events { since_us: Some(t), .. } if t.abs_diff(hour_ago) < 60_000_000)
    );
}
