//! The first minutes: what the README promises somebody with a fresh clone, and that nothing is left behind.

use std::process::Stdio;

use harness::{Node, Unit, both_ways, is_root, programs, until};
use proto::reply::State;

/// Starts a node over the checkout's own units and profiles; `prepare` may say whose process it is.
fn checkout_node(prepare: impl FnOnce(&mut std::process::Command, &Node)) -> (Node, std::process::Child) {
    let node = Node::builder().prepare();
    let mut places = node.places();
    for (flag, value) in [("--profile", "coordinator".to_owned())]
        .into_iter()
        .chain(["units", "profiles"].map(|name| {
            (
                if name == "units" { "--units" } else { "--profiles" },
                programs::checkout().join(name).display().to_string(),
            )
        }))
        .chain([(
            "--config",
            programs::checkout().join("ringriftd.toml").display().to_string(),
        )])
    {
        let at = places
            .iter()
            .position(|arg| arg == flag)
            .expect("every place has its flag");
        places[at + 1] = value;
    }
    let mut command = std::process::Command::new(programs::ringriftd());
    command
        .args(places)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .env("RINGRIFT_HTTP", "off")
        .env_remove("RINGRIFT_HOME");
    command
        .stderr(std::fs::File::create(node.path("stderr")).expect("it is ours"))
        .current_dir("/");
    prepare(&mut command, &node);
    let child = command.spawn().expect("ringriftd was built");
    (node, child)
}

/// Ends what a failing test would leave.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        if let (Ok(None), Some(held)) = (
            self.0.try_wait(),
            harness::processes::Held::open(self.0.id() as i32),
        ) {
            held.signal(libc::SIGTERM);
            if !held.wait(harness::PATIENCE) {
                let _ = self.0.kill();
            }
        }
        let _ = self.0.wait();
    }
}

/// The coordinator profile of the checkout comes to 33 running units (32 daemons and their zygote), marked as stand-ins, without root.
#[test]
fn the_coordinator_profile_comes_up_without_root() {
    let (node, child) = checkout_node(|command, node| {
        if is_root() {
            use std::os::unix::process::CommandExt;
            for folder in ["run", "state", "log"] {
                std::os::unix::fs::chown(node.path(folder), Some(65534), Some(65534)).expect("root may");
            }
            // Root's own checkout may lie where nobody else looks: then it runs as root after all.
            let reachable = std::process::Command::new(programs::ringriftd())
                .arg("--version")
                .uid(65534)
                .gid(65534)
                .output()
                .is_ok_and(|output| output.status.success());
            if reachable {
                command.uid(65534).gid(65534);
            }
        }
    });
    let mut daemon = Daemon(child);
    let json = until("33 units run", || {
        let ended = daemon.0.try_wait().ok().flatten();
        assert!(ended.is_none(), "the daemon ended: {}", node.stderr());
        let answer = node.ctl(&["status", "--json"]);
        let json: serde_json::Value = serde_json::from_str(&answer.stdout).ok()?;
        (json["summary"]["running"] == 33).then_some(json)
    });
    let units = json["units"].as_array().expect("a list");
    assert_eq!(units.len(), 33);
    assert!(units.iter().all(|unit| unit["state"] == "running"), "{json:#}");
    assert!(
        units.iter().all(|unit| unit["note"] == "stand-in"),
        "nobody may take a stand-in for the real thing"
    );
    let table = node.ctl(&["status"]).ended(0).stdout;
    assert!(
        table.contains("event_router") && table.contains("stand-in"),
        "{table}"
    );
    let held = harness::processes::Held::open(daemon.0.id() as i32).expect("it lives");
    held.signal(libc::SIGTERM);
    assert!(held.wait(harness::PATIENCE * 2), "it did not end");
    assert_eq!(
        daemon.0.wait().expect("an own child").code(),
        Some(0),
        "{}",
        node.stderr()
    );
    assert!(!node.socket().exists());
}

both_ways! {
    /// After `stop '*'` no process, cgroup or zombie of a unit is left; after the end of the daemon nothing of it is.
    fn nothing_is_left_behind(mode) {
        let node = Node::builder()
            .containment(mode)
            .unit("plain", &Unit::bad(&["run"]))
            .unit("deaf", &Unit::bad(&["ignore-term"]).text("stop.timeout", "500ms"))
            .unit("escapes", &Unit::bad(&["setsid-child"]).requires(&["plain"]))
            .unit("many", &Unit::bad(&["forks", "20", "--orphans"]))
            .start();
        assert_eq!(node.unit("escapes").state, State::Running);
        node.note_groups();
        node.ctl(&["stop", "*", "--yes"]).ended(0);
        assert!(node.unit_processes().is_empty(), "{:#?}", node.unit_processes());
        assert!(node.leftover_groups().is_empty(), "{:?}", node.leftover_groups());
        node.wait_no_zombies();
        node.check();
    }
}

/// Without a daemon a client says so in one line, and starts none.
#[test]
fn without_a_daemon_the_client_says_so() {
    let node = Node::builder().prepare();
    let answer = node.ctl(&["status"]).ended(69);
    assert_eq!(answer.stderr.trim_end().lines().count(), 1, "{answer}");
    let named = node.socket().display().to_string();
    assert!(answer.stderr.contains(&named), "{answer}");
}

/// `--help` of both programs names every verb that scripts rely on.
#[test]
fn help_names_the_verbs() {
    let node = Node::builder().prepare();
    let help = node.ctl(&["--help"]).ended(0).stdout;
    for verb in [
        "status",
        "list",
        "failed",
        "is-active",
        "is-failed",
        "is-ready",
        "start",
        "stop",
        "restart",
        "try-restart",
        "reload",
        "kill",
        "reset-failed",
        "logs",
        "events",
        "show",
        "cat",
        "deps",
        "profile",
        "deprecated",
        "wait",
        "daemon-reload",
        "shutdown",
        "version",
        "completion",
    ] {
        assert!(help.contains(verb), "{verb} is not in: {help}");
    }
    let help = harness::ctl::run(programs::ringriftd(), &["--help"], harness::PATIENCE, |_| {})
        .ended(0)
        .stdout;
    for flag in [
        "--profile",
        "--config",
        "--units",
        "--profiles",
        "--runtime-dir",
        "--state-dir",
        "--log-dir",
    ] {
        assert!(help.contains(flag), "{flag} is not in: {help}");
    }
}
