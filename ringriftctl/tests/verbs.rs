//! Each verb's output for people and for machines, and its exit code.

mod support;

use proto::reply::*;
use proto::request::{Request, WaitFor, Whom};
use serde_json::Value;
use support::*;

/// Times differ from run to run: their keys keep a mark only.
fn timeless(value: &mut Value) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(timeless),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let time = matches!(
                    key.as_str(),
                    "since"
                        | "until"
                        | "ready_since"
                        | "at"
                        | "next_try"
                        | "next"
                        | "watchdog_due"
                        | "watchdog_fed"
                );
                match value {
                    Value::String(_) if key == "socket" => *value = Value::from("<path>"),
                    Value::String(text) if time && text.ends_with('Z') && text.len() == 27 => {
                        *value = Value::from("<time>");
                    }
                    Value::Number(n) if key == "uptime_s" => {
                        assert!(n.as_f64().is_some_and(|s| s > 0.0));
                        *value = Value::from("<seconds>");
                    }
                    other => timeless(other),
                }
            }
        }
        _ => {}
    }
}

/// The absolute time in brackets that `status UNIT` adds to the relative one.
fn undated(text: &str) -> String {
    let undate = |line: &str| match line.split_once(" (20") {
        Some((before, dated)) if dated.contains("+00:00)") => {
            let after = dated.split_once("+00:00)").map_or("", |(_, after)| after);
            format!("{before} (<time>){after}\n")
        }
        Some(_) | None => format!("{line}\n"),
    };
    text.lines().map(undate).collect()
}

/// One verb against the sample node: the text, the JSON document, and the same exit code for both.
#[track_caller]
fn check(name: &str, args: &[&str], expected: i32) {
    let daemon = Daemon::answering(sample);
    let plain = daemon.run(args);
    code(&plain, expected);
    let socket = daemon.socket.display().to_string();
    golden(
        &format!("{name}.txt"),
        &undated(&out(&plain)).replace(&socket, "<socket>"),
    );
    let json = daemon.run(&[args, &["--json"]].concat());
    code(&json, expected);
    let mut lines = String::new();
    for text in out(&json).lines() {
        let mut value: Value = serde_json::from_str(text).expect("each line is JSON");
        timeless(&mut value);
        lines.push_str(&serde_json::to_string_pretty(&value).expect("prints"));
        lines.push('\n');
    }
    golden(&format!("{name}.json"), &lines);
}

macro_rules! verbs {
    ($($test:ident: $args:expr => $code:expr;)*) => {$(
        #[test]
        fn $test() {
            check(stringify!($test), &$args, $code);
        }
    )*};
}

verbs! {
    status_of_the_node: ["status"] => 3;
    status_of_a_failed_unit: ["status", "auto_sync"] => 3;
    status_of_a_running_unit: ["status", "old_health"] => 0;
    list_rows: ["list"] => 0;
    list_by_state: ["ls", "--state", "running", "--sort", "restarts"] => 0;
    failed_units: ["failed"] => 1;
    health_of_an_unwell_unit: ["health", "unwell_one"] => 3;
    health_of_a_well_unit: ["health", "old_health"] => 0;
    is_active: ["is-active", "auto_sync", "health_monitor"] => 0;
    is_active_of_none: ["is-active", "auto_sync"] => 3;
    is_failed: ["is-failed", "auto_sync"] => 0;
    is_ready_needs_all: ["is-ready", "auto_sync", "health_monitor"] => 3;
    start_one: ["start", "a"] => 0;
    start_some_fail: ["start", "a", "bad"] => 10;
    stop_fails: ["stop", "bad"] => 1;
    restart_two: ["restart", "a", "long_name"] => 0;
    reload_one: ["reload", "a"] => 0;
    kill_one: ["kill", "a", "-s", "HUP"] => 0;
    reset_failed: ["reset-failed"] => 0;
    logs_short: ["logs", "auto_sync"] => 0;
    events_so_far: ["events"] => 0;
    show_what_files_set: ["show", "auto_sync", "--origin"] => 0;
    show_effective: ["show", "auto_sync", "--effective"] => 0;
    show_one_key: ["show", "auto_sync", "-p", "restart"] => 0;
    cat_files: ["cat", "auto_sync"] => 0;
    deps_tree: ["deps", "auto_sync"] => 0;
    profile_list: ["profile", "list"] => 0;
    profile_show: ["profile", "show", "coordinator"] => 0;
    profile_coverage: ["profile", "coverage"] => 0;
    deprecated_in_use: ["deprecated"] => 1;
    wait_for_running: ["wait", "a"] => 0;
    daemon_reload: ["daemon-reload"] => 0;
    version_of_both: ["version"] => 0;
    hold_one: ["hold", "a", "--note", "the disk is being changed", "--until", "2h"] => 0;
    unhold_one: ["unhold", "a"] => 0;
    status_of_a_held_unit: ["status", "held_one"] => 3;
    list_held: ["list", "held_one"] => 0;
    adopt_one: ["adopt", "a", "--pid", "4711"] => 0;
    adopt_tried: ["adopt", "a", "--match", "python3 x.py", "--dry-run"] => 0;
    upgrade_done: ["upgrade", "/opt/new/ringriftd"] => 0;
}

#[track_caller]
fn prints(args: &[&str], expected: &str) {
    let output = Daemon::answering(sample).run(args);
    code(&output, 0);
    assert_eq!(out(&output), expected);
}

#[test]
fn names_alone_are_for_loops() {
    prints(
        &["list", "-o", "name", "-q", "--all"],
        "auto_sync\nevent_router\nhealth_monitor\nold_health\n",
    );
}

#[test]
fn jsonl_is_an_object_a_line() {
    let output = Daemon::answering(sample).run(&["list", "-o", "jsonl"]);
    let names: Vec<Value> = out(&output)
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON")["name"].clone())
        .collect();
    assert_eq!(
        names,
        ["auto_sync", "event_router", "health_monitor", "old_health"]
    );
}

#[test]
fn headings_can_go() {
    let daemon = Daemon::answering(sample);
    for flag in ["--no-legend", "-q"] {
        assert!(
            out(&daemon.run(&["list", flag])).starts_with("auto_sync "),
            "{flag}"
        );
    }
    assert!(out(&daemon.run(&["list", "-o", "wide"])).starts_with("UNIT "));
}

#[test]
fn quiet_predicates_say_nothing() {
    let output = Daemon::answering(sample).run(&["is-active", "auto_sync", "-q"]);
    code(&output, 3);
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
}

#[test]
fn deps_are_drawn_for_others() {
    let daemon = Daemon::answering(sample);
    golden("deps.dot", &out(&daemon.run(&["deps", "--all", "-o", "dot"])));
    golden(
        "deps.mermaid",
        &out(&daemon.run(&["deps", "--all", "-o", "mermaid"])),
    );
    golden("deps_all.txt", &out(&daemon.run(&["deps", "--all"])));
}

#[test]
fn deps_can_be_reversed() {
    let daemon = Daemon::answering(|_| {
        vec![Reply::Graph(Graph {
            roots: vec!["b".into()],
            edges: vec![
                Edge {
                    from: "a".into(),
                    to: "b".into(),
                    kind: EdgeKind::Requires,
                },
                Edge {
                    from: "b".into(),
                    to: "c".into(),
                    kind: EdgeKind::Requires,
                },
            ],
        })]
    });
    assert_eq!(
        out(&daemon.run(&["deps", "b", "--reverse"])),
        "b\n└─ a (requires)\n"
    );
    assert_eq!(out(&daemon.run(&["deps", "b"])), "b\n└─ c (requires)\n");
}

#[test]
fn logs_cat_gives_the_bytes() {
    let output = Daemon::answering(sample).run(&["logs", "-o", "cat"]);
    assert_eq!(output.stdout, b"hello\na long \x1b]0;pwn\x07\xff\n");
}

#[test]
fn logs_ask_for_fifty_lines_unless_told() {
    let daemon = Daemon::answering(sample);
    for args in [&["logs"][..], &["logs", "-n", "7"], &["logs", "-n", "all"]] {
        code(&daemon.run(args), 0);
    }
    let lines: Vec<_> = daemon
        .asked()
        .into_iter()
        .map(|r| match r {
            Request::Logs { lines, .. } => lines,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lines, [Some(50), Some(7), None]);
}

#[test]
fn flags_reach_the_daemon() {
    let daemon = Daemon::answering(sample);
    code(&daemon.run(&["kill", "a", "-s", "SIGUSR1", "--whom", "main"]), 0);
    code(&daemon.run(&["stop", "a", "--timeout", "1m30s", "--yes"]), 0);
    code(&daemon.run(&["try-restart", "a", "--no-block"]), 0);
    code(
        &daemon.run(&["wait", "a", "--for", "stopped", "--timeout", "5s"]),
        0,
    );
    let asked = daemon.asked();
    assert_eq!(
        asked[0],
        Request::Kill {
            selectors: vec!["a".into()],
            signal: 10,
            whom: Whom::Main
        }
    );
    assert!(matches!(&asked[1], Request::Stop(j) if j.timeout_ms == Some(90_000) && j.cascade && j.wait));
    assert!(matches!(&asked[2], Request::Restart { job, only_running: true } if !job.wait && !job.cascade));
    assert!(matches!(
        &asked[3],
        Request::Wait {
            target: WaitFor::Stopped,
            timeout_ms: Some(5000),
            ..
        }
    ));
}

#[test]
fn flags_of_the_newer_verbs_reach_the_daemon() {
    let daemon = Daemon::answering(sample);
    code(&daemon.run(&["hold", "a", "--until", "1h30m"]), 0);
    code(
        &daemon.run(&["hold", "a", "--note", "x", "--until", "2999-01-01T00:00:00Z"]),
        0,
    );
    code(&daemon.run(&["adopt", "a", "--match", "x y", "--dry-run"]), 0);
    let mut command = daemon.command(&["upgrade", "new/ringriftd"]);
    code(&command.current_dir("/").output().expect("runs"), 0);
    code(&daemon.run(&["upgrade"]), 0);
    let asked = daemon.asked();
    let soon = now_us() + 5_400_000_000;
    assert!(
        matches!(&asked[0], Request::Hold { note: None, until_us: Some(t), .. } if t.abs_diff(soon) < 60_000_000)
    );
    assert_eq!(
        asked[1],
        Request::Hold {
            selectors: vec!["a".into()],
            note: Some("x".into()),
            until_us: Some(32_472_144_000_000_000),
        }
    );
    assert_eq!(
        asked[2],
        Request::Adopt {
            unit: "a".into(),
            pid: None,
            pattern: Some("x y".into()),
            dry_run: true,
        }
    );
    let binary = |path: Option<&str>| Request::Upgrade {
        binary: path.map(str::to_owned),
    };
    assert_eq!(asked[3], binary(Some("/new/ringriftd")));
    assert_eq!(asked[4], binary(None));
}

#[test]
fn two_that_match_are_both_named() {
    let daemon = Daemon::answering(|_| {
        vec![Reply::Failed(Failure {
            details: vec!["12 (user 0): x".into(), "13 (user 0): x".into()],
            ..failure(7, "2 processes match, and only one can be adopted")
        })]
    });
    let output = daemon.run(&["adopt", "a", "--match", "x"]);
    code(&output, 7);
    let text = err(&output);
    assert!(text.contains("\n  12 (user 0): x\n  13 (user 0): x"), "{text}");
}

#[test]
fn a_job_that_is_not_waited_for_is_taken() {
    let output = Daemon::answering(sample).run(&["start", "a", "--no-block"]);
    code(&output, 0);
    assert_eq!(
        (out(&output), err(&output)),
        (String::new(), "taken for 1 unit\n".into())
    );
}

#[test]
fn a_verdict_tells_what_is_left_and_when_it_is_tried_again() {
    let daemon = Daemon::answering(|_| {
        vec![
            plan(&["a"], &[]),
            Reply::Verdict(Verdict {
                unit: "a".into(),
                outcome: Outcome::Failed,
                text: "could not be emptied".into(),
                took_ms: 40_000,
                killed: true,
                remains: vec![12, 13],
                next_try_us: Some(1),
            }),
        ]
    });
    let output = daemon.run(&["stop", "a"]);
    code(&output, 1);
    assert_eq!(
        out(&output),
        "a  failed         40s  could not be emptied; killed what was left; still there: pids 12 13; next try now\n"
    );
}

#[test]
fn touching_others_needs_yes_without_a_terminal() {
    let daemon = Daemon::answering(|request| match request {
        Request::Stop(job) if !job.cascade => vec![Reply::Failed(Failure {
            details: vec!["b".into(), "c".into()],
            ..failure(7, "stopping a also stops b, c")
        })],
        other => sample(other),
    });
    let refused = daemon.run(&["stop", "a"]);
    code(&refused, 7);
    assert!(
        err(&refused).contains("--yes") && err(&refused).contains("also stops b, c"),
        "{}",
        err(&refused)
    );
    assert_eq!(daemon.asked().len(), 1);
    code(&daemon.run(&["stop", "a", "--yes"]), 0);
}

#[test]
fn an_unknown_unit_is_four_with_the_nearest() {
    let daemon = Daemon::answering(sample);
    for args in [
        &["status", "auto_sink"][..],
        &["is-active", "auto_sink"],
        &["list", "auto_sink"],
    ] {
        let output = daemon.run(args);
        code(&output, 4);
        assert!(
            err(&output).contains("did you mean auto_sync"),
            "{}",
            err(&output)
        );
        assert!(output.stdout.is_empty());
    }
    let output = daemon.run(&["status", "auto_sink", "--json"]);
    code(&output, 4);
    let error: Value = serde_json::from_str(&out(&output)).expect("JSON");
    assert_eq!(error["schema"], "ringrift.v1.error");
    assert_eq!(
        (&error["code"], &error["unit"]),
        (&Value::from(4), &Value::from("auto_sink"))
    );
    assert!(error["hint"].as_str().is_some_and(|h| h.contains("auto_sync")));
}

#[test]
fn every_fault_of_a_reload_is_told() {
    let daemon = Daemon::answering(|_| {
        vec![Reply::Failed(Failure {
            details: vec!["a.toml:1:2: one\n  help: x".into(), "b.toml:3:4: two".into()],
            ..failure(8, "the configuration is invalid; nothing was changed")
        })]
    });
    let output = daemon.run(&["daemon-reload"]);
    code(&output, 8);
    assert_eq!(
        err(&output),
        "error: the configuration is invalid; nothing was changed\n  a.toml:1:2: one\n    help: x\n  b.toml:3:4: two\n"
    );
}

#[test]
fn a_node_that_is_well_is_calm() {
    let daemon = Daemon::answering(|_| {
        let units = vec![unit("a", State::Running, 3), unit("b", State::Completed, 5)];
        let summary = Summary {
            known: 2,
            wanted: 2,
            running: 1,
            completed: 1,
            ..Summary::default()
        };
        vec![node(summary), Reply::Units(units)]
    });
    let output = daemon.run(&[]);
    code(&output, 0);
    golden("status_of_a_node_that_is_well.txt", &out(&output));
}

/// Answers the question for the keeper's pid, and hears the request to shut down.
fn asked_to_shut_down(line: &mut Line, keeper: u32) {
    line.welcome();
    let ask: proto::frame::Ask = line.receive().expect("a request");
    assert_eq!(ask.request, Request::Version);
    let mut replies = sample(&ask.request);
    if let Reply::Version(info) = &mut replies[0] {
        info.keeper_pid = keeper;
    }
    line.reply(ask.id, replies.remove(0));
    line.reply(ask.id, Reply::End);
    let ask: proto::frame::Ask = line.receive().expect("a request");
    assert_eq!(ask.request, Request::Shutdown);
}

#[test]
fn shutdown_is_done_when_socket_and_keeper_are_gone() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    // It ends when its input does.
    let mut keeper = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    let pid = keeper.id();
    let ends = std::thread::spawn(move || {
        asked_to_shut_down(&mut Line(listener.accept().expect("a connection").0), pid);
        drop(listener);
    });
    let mut command = bare();
    command
        .env("RINGRIFT_SOCKET", &socket)
        .arg("shutdown")
        .stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("runs");
    ends.join().expect("the daemon ended");
    let (tell, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output().expect("ends")));
    let early = ended.recv_timeout(std::time::Duration::from_millis(300));
    assert!(early.is_err(), "it did not wait for the keeper: {early:?}");
    drop(keeper.stdin.take());
    let output = ended.recv_timeout(PATIENCE).expect("it ends with the keeper");
    code(&output, 0);
    assert_eq!(err(&output), "ringriftd has ended\n");
    keeper.wait().expect("the keeper ended");
}

#[test]
fn a_shutdown_that_only_lost_its_connection_is_no_success() {
    let daemon = Daemon::raw(|mut line| asked_to_shut_down(&mut line, std::process::id()));
    code(&daemon.run(&["shutdown"]), 69);
}

#[test]
fn completion_is_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let output = bare().args(["completion", shell]).output().expect("runs");
        code(&output, 0);
        assert!(
            out(&output).contains("ringriftctl list -o name -q --all"),
            "{shell}"
        );
    }
    let script = bare().args(["completion", "bash"]).output().expect("runs").stdout;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("c.bash");
    std::fs::write(&path, script).expect("written");
    let daemon = Daemon::answering(sample);
    // The shell's own view: which words it offers after `start he`.
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_ringriftctl"))
        .parent()
        .expect("a folder");
    let test = format!(
        "PATH={}:$PATH; . {}; COMP_WORDS=(ringriftctl start he); COMP_CWORD=2; COMPREPLY=(); \
         _ringriftctl_live ringriftctl he start; echo \"${{COMPREPLY[@]}}\"",
        program.display(),
        path.display()
    );
    let shown = std::process::Command::new("bash")
        .args(["--norc", "-c", &test])
        .env("RINGRIFT_SOCKET", &daemon.socket)
        .output()
        .expect("bash runs");
    assert_eq!(out(&shown), "health_monitor\n", "{}", err(&shown));
}
