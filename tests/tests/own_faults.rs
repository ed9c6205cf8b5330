//! Faults of the daemon itself: what an earlier one left, two at once, signals, and very many ends at once.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::processes::{self, Held, Process};
use harness::{Node, PATIENCE, Unit, both_ways, ctl, need, until};
use proto::reply::{Exit, State, UnitStatus};

/// A second ringriftd on the same places, ended by itself; its exit code and what it said.
fn second(node: &Node) -> ctl::Output {
    let places = node.places();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    ctl::run(harness::programs::ringriftd(), &places, PATIENCE, |command| {
        command.env_remove("NOTIFY_SOCKET").env("RINGRIFT_HTTP", "off");
    })
}

/// B14: a socket that a killed daemon left is replaced.
#[test]
fn a_stale_socket_is_replaced() {
    let mut node = Node::builder().start();
    node.kill_daemon();
    assert!(node.socket().exists(), "a killed daemon leaves its socket");
    node.launch_daemon();
    node.wait_ready();
    node.note_roles();
    node.ctl(&["status"]).ended(0);
    node.check();
}

/// C15: somebody cleans the run-time folder. The socket is there again within 5 s, connections live on, and no unit notices.
#[test]
fn c15_removed_socket_is_made_again() {
    let mut node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let pid = node.pid("a");
    let mut before = node.client();
    let socket = node.socket();
    for whole in [false, true] {
        if whole {
            std::fs::remove_dir_all(node.path("run")).expect("it is ours");
        } else {
            std::fs::remove_file(&socket).expect("it is ours");
        }
        let answers = harness::until_within(Duration::from_secs(5), || {
            harness::client::Client::silent(&socket).ok()
        });
        assert!(answers.is_some(), "{}", node.stderr());
        node.ctl(&["status"]).ended(0);
        let replies = before
            .call(proto::request::Request::Names)
            .expect("the connection lives");
        assert!(matches!(replies.last(), Some(proto::reply::Reply::End)));
    }
    assert_eq!(node.pid("a"), pid);
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&socket).expect("it is there"));
    assert_eq!(mode & 0o777, 0o600);
    node.shutdown();
    assert!(!socket.exists());
}

/// B15: what stands in a left lock file is not believed; the lock is the kernel's.
#[test]
fn a_stale_lock_file_that_names_a_live_process_locks_nobody_out() {
    let mut node = Node::builder().start();
    node.kill_daemon();
    let mut written = 0;
    for folder in ["state", "run"] {
        for file in harness::node::walk(&node.path(folder)) {
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.contains("lock") || name.contains("pid") {
                std::fs::write(&file, format!("{}\n", std::process::id())).expect("it is ours");
                written += 1;
            }
        }
    }
    assert!(
        written > 0,
        "no lock file was left: {:?}",
        harness::node::walk(&node.path("state"))
    );
    node.launch_daemon();
    node.wait_ready();
    node.note_roles();
    node.check();
}

/// B16: a second daemon on the same places ends with 75, names the first, and touches nothing.
#[test]
fn a_second_daemon_ends_and_names_the_first() {
    let node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let pid = node.pid("a");
    let answer = second(&node).ended(75);
    assert!(answer.stderr.contains(&node.keeper().to_string()), "{answer}");
    assert_eq!(node.pid("a"), pid);
    node.check();
}

/// Daemons that a failing test does not leave behind.
struct Crowd(Vec<Child>);

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if let (Ok(None), Some(held)) = (child.try_wait(), Held::open(child.id() as i32)) {
                held.signal(libc::SIGTERM);
                if !held.wait(Duration::from_secs(10)) {
                    let _ = child.kill();
                }
            }
            let _ = child.wait();
        }
    }
}

/// B16: of fifty daemons started at once one is left; the others name it and have touched nothing of it.
#[test]
fn of_fifty_daemons_one_wins() {
    let mut node = Node::builder().unit("a", &Unit::bad(&["run"])).prepare();
    let said = std::fs::File::create(node.path("said")).expect("it is ours");
    let start = || -> Child {
        let mut command: Command = node.command();
        command
            .stdout(Stdio::null())
            .stderr(said.try_clone().expect("a descriptor is left"))
            .spawn()
            .expect("ringriftd was built")
    };
    let mut all = Crowd((0..50).map(|_| start()).collect());
    let mut codes = Vec::new();
    until("all but one have ended", || {
        all.0.retain_mut(|child| match child.try_wait() {
            Ok(Some(status)) => {
                codes.push(status.code());
                false
            }
            _ => true,
        });
        (all.0.len() <= 1).then_some(())
    });
    assert!(
        codes.len() == 49 && codes.iter().all(|code| *code == Some(75)),
        "{codes:?}\n{}",
        node.read("said")
    );
    node.adopt(all.0.pop().expect("one is left"));
    let name = format!("pid {}", node.keeper());
    let said = node.read("said");
    let named = said.lines().filter(|line| line.contains(&name)).count();
    assert_eq!(named, 49, "each of the others names {name}:\n{said}");
    node.wait_state("a", State::Running);
    assert_eq!(node.unit("a").starts, 1);
    node.check();
}

/// B16: a second daemon does not close the way by which a unit of another user reaches its notify socket.
#[test]
fn a_second_daemon_does_not_cut_a_unit_off() {
    need!(harness::is_root(), "needs root for a unit of another user");
    let unit = Unit::bad(&["run"])
        .text("exec.user", "65534")
        .text("exec.group", "65534");
    let node = Node::builder().unit("a", &unit).start();
    second(&node).ended(75);
    let path = Process::read(node.pid("a")).expect("it runs").env["NOTIFY_SOCKET"].clone();
    let reached = processes::as_user(65534, || {
        std::os::unix::net::UnixDatagram::unbound().and_then(|socket| socket.connect(&path))
    });
    assert!(reached.is_ok(), "{reached:?}");
    node.check();
}

both_ways! {
    /// B18: TERM, INT and QUIT stop all units in order and end with 0, whoever gets them; a second one changes nothing.
    fn term_int_and_quit_end_in_order(mode) {
        for (signal, to_manager) in [
            (libc::SIGTERM, false),
            (libc::SIGINT, false),
            (libc::SIGQUIT, false),
            (libc::SIGTERM, true),
            (libc::SIGQUIT, true),
        ] {
            let builder = Node::builder().containment(mode);
            let file = builder.path("stamps");
            let unit = Unit::bad(&["run", "--stop-delay", "0.5", "--on-stop-append", &file]);
            let mut node = builder
                .unit("low", &unit)
                .unit("high", &unit.clone().requires(&["low"]))
                .start();
            let role = if to_manager { node.manager() } else { node.keeper() };
            processes::signal(role, signal);
            node.wait_unit("high", "stopping", |unit| unit.state == State::Stopping);
            processes::signal(role, signal);
            assert_eq!(node.wait_end().code(), Some(0), "{}", node.stderr());
            let stops: Vec<String> = harness::stamps(file.as_ref()).into_iter().map(|s| s.unit).collect();
            assert_eq!(stops, ["high", "low"], "each was stopped once, in the reverse order");
            node.assert_gone();
        }
    }
}

/// B18: HUP is daemon-reload; PIPE and USR1 end nothing.
#[test]
fn other_signals_do_no_harm() {
    let node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let pid = node.pid("a");
    for role in [node.keeper(), node.manager()] {
        for signal in [libc::SIGPIPE, libc::SIGUSR1, libc::SIGUSR2] {
            processes::signal(role, signal);
        }
    }
    std::fs::write(node.path("units/b.toml"), Unit::bad(&["run"]).to_toml()).expect("it is ours");
    std::fs::write(
        node.path("profiles/test.toml"),
        "description = \"x\"\nunits = [\"a\", \"b\"]\n",
    )
    .expect("it is ours");
    processes::signal(node.keeper(), libc::SIGHUP);
    until("the new unit is known", || {
        node.ctl(&["is-active", "b"]).code.filter(|code| *code == 0)
    });
    assert_eq!(node.pid("a"), pid);
    node.check();
}

both_ways! {
    /// B19: five hundred processes that end at once are all reaped, and the one that matters is recorded.
    fn five_hundred_ends_at_once_are_all_seen(mode) {
        let unit = Unit::bad(&["forks", "500", "--orphans"]);
        let node = Node::builder().containment(mode).unit("a", &unit).start();
        assert!(node.unit_processes().len() >= 501);
        let before = node.unit("a");
        node.ctl(&["kill", "a", "--whom", "all", "-s", "KILL"]).ended(0);
        let after = node.wait_unit("a", "running again", |unit| {
            unit.state == State::Running && unit.invocation != before.invocation
        });
        assert_eq!(after.restarts, 1);
        node.wait_no_zombies();
        node.check_one_life();
        node.check();
    }
}

/// A dead logger costs nobody an answer: the manager serves on, and the next logger takes over.
#[test]
fn the_node_serves_on_while_its_logger_dies_again_and_again() {
    let mut node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    for _ in 0..3 {
        let logger = node.logger();
        processes::signal(logger, libc::SIGKILL);
        node.ctl(&["status"]).ended(0);
        until("another logger", || {
            (node.version().logger_pid != logger as u32).then_some(())
        });
        node.note_roles();
        until("the new logger answers", || {
            (node.ctl(&["logs", "a"]).code == Some(0)).then_some(())
        });
    }
    node.check();
}

/// B19: five hundred units that die while the keeper sees nothing, so that their SIGCHLD are one, are all recorded.
#[test]
fn five_hundred_units_that_die_at_once_are_all_recorded() {
    let unit = Unit::bad(&["run"]).kind("simple").once();
    let mut builder = Node::builder();
    for n in 0..500 {
        builder = builder.unit(&format!("u{n}"), &unit);
    }
    let node = builder.start();
    let (_, units) = node.status_of(&[]);
    let held: Vec<Held> = units
        .iter()
        .map(|unit| Held::open(unit.pid.expect("it runs") as i32).expect("it runs"))
        .collect();
    assert_eq!(held.len(), 500);
    processes::signal(node.keeper(), libc::SIGSTOP);
    for process in &held {
        assert!(process.signal(libc::SIGKILL));
    }
    for process in &held {
        assert!(process.wait(PATIENCE));
    }
    processes::signal(node.keeper(), libc::SIGCONT);
    let killed = Exit::Signal {
        signal: libc::SIGKILL,
        core: false,
    };
    until("all five hundred are recorded", || {
        let (_, units) = node.status_of(&[]);
        let is_recorded = |unit: &UnitStatus| {
            unit.state == State::Failed
                && unit.starts == 1
                && unit.last_exit.as_ref().is_some_and(|last| last.exit == killed)
        };
        units.iter().all(is_recorded).then_some(())
    });
    node.wait_no_zombies();
    node.check();
}

/// A logger that dies holds up nobody: its end is heard, clients are served meanwhile, and the next one goes on where it
/// stopped.
#[test]
fn a_dead_logger_holds_nobody_up() {
    let mut node = Node::builder()
        .unit("a", &Unit::bad(&["print", "a word"]))
        .start();
    for lives in 1..=2 {
        processes::signal(node.logger(), libc::SIGKILL);
        node.ctl(&["restart", "a"]).ended(0);
        until("the new life's line is stored", || {
            let answer = node.ctl(&["logs", "a", "-n", "all"]);
            (answer.stdout.matches("a word").count() == lives + 1).then_some(())
        });
        node.note_roles();
    }
    node.check();
}

/// D25: words for people that nobody reads (the reader of stderr has gone) end nobody.
#[test]
fn a_stderr_that_nobody_reads_ends_nobody() {
    let unit = Unit::bad(&["print", "a word"]);
    let mut node = Node::builder().unit("a", &unit).prepare();
    // In the place of its log: the logger has something to say.
    std::fs::create_dir(node.path("log/a.log")).expect("it is ours");
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let child = node.command().stdout(Stdio::null()).stderr(writer).spawn();
    node.adopt(child.expect("ringriftd was built"));
    let logger = node.logger();
    node.wait_state("a", State::Running);
    std::fs::remove_dir(node.path("log/a.log")).expect("it is ours");
    until("the line is stored after all", || {
        let answer = node.ctl(&["logs", "a", "-n", "all"]);
        answer.stdout.contains("a word").then_some(())
    });
    assert_eq!(node.logger(), logger, "the logger lives on");
    // Now the keeper has something to say, and then the manager.
    processes::signal(logger, libc::SIGKILL);
    until("there is a new logger", || {
        let children = processes::children(node.keeper());
        let is_logger = |p: &Process| p.is_alive() && p.argv.get(1).is_some_and(|arg| arg == "logger");
        children.into_iter().find(is_logger)
    });
    node.note_roles();
    node.check();
}
