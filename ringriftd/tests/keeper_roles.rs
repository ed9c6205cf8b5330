//! One keeper for one state, and what becomes of it when manager or logger end. The roles here are a shell script,
//! which writes the wire's smallest messages by hand: `Serving` is the byte 0, `End { code: 5 }` the bytes 11 and 5.

mod keeper_support;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use keeper_support::{Mode, Node, PATIENCE, Played, command_with_roles, descendants, wait_child};
use ringriftd::ids::{Invocation, LaunchId};
use ringriftd::keeper::wire::{FromKeeper, FromLogger, ToKeeper, ToLogger};

const SERVE: &str = "printf '\\000' >&3";
const END_5: &str = "printf '\\014\\005' >&3";

#[test]
fn the_scripts_speak_the_wire() {
    assert_eq!(proto::codec::encode(&ToKeeper::Serving).unwrap(), [0]);
    assert_eq!(proto::codec::encode(&ToKeeper::End { code: 5 }).unwrap(), [12, 5]);
}

struct Roles {
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Roles {
    /// `manager` and `logger` are shell scripts; $2 is the test's folder, `$2/fifo` a fifo to wait at.
    fn new(manager: &str, logger: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        let text = format!("#!/bin/sh\ncase $1 in\nmanager)\n{manager}\n;;\nlogger)\n{logger}\n;;\nesac\n");
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
        nix::unistd::mkfifo(
            &dir.path().join("fifo"),
            nix::sys::stat::Mode::from_bits_truncate(0o600),
        )
        .unwrap();
        Self { dir, program }
    }

    fn start(&self) -> Child {
        command_with_roles(self.dir.path(), &self.program)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs to the end: its exit code, and what it said.
    fn run(&self) -> (Option<i32>, String) {
        let mut keeper = self.start();
        let code = wait_child(&mut keeper).code();
        let mut text = String::new();
        keeper.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (code, text)
    }

    fn wait_for_file(&self, name: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.dir.path().join(name).exists() {
            assert!(Instant::now() < deadline, "{name} did not come");
            std::thread::yield_now();
        }
    }
}

/// Ends with the first word that the keeper says.
const UNTIL_TOLD: &str = "head -c 1 <&3 >$2/told";
/// Waits for ever.
const FOR_EVER: &str = "while :; do read x <>$2/fifo; done";

#[test]
fn a_manager_that_does_not_come_up_gives_its_exit_code() {
    for code in [8, 0, 1] {
        let roles = Roles::new(&format!("exit {code}"), UNTIL_TOLD);
        assert_eq!(roles.run().0, Some(code));
        assert!(!roles.dir.path().join("run/control.sock").exists());
    }
}

#[test]
fn a_manager_that_dies_while_it_serves_comes_back() {
    let manager = format!("{SERVE}; if mkdir $2/first; then kill -9 $$; fi; {END_5}");
    let roles = Roles::new(&manager, UNTIL_TOLD);
    let (code, said) = roles.run();
    assert_eq!(code, Some(5));
    assert!(
        said.contains("the manager ended unasked (signal 9); it starts again now, no unit is touched"),
        "{said}"
    );
}

#[test]
fn the_end_has_the_code_that_was_asked_for_and_kills_roles_that_stay() {
    let roles = Roles::new(&format!("{SERVE}; {END_5}; {FOR_EVER}"), FOR_EVER);
    let (code, said) = roles.run();
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.contains("the logger did not end") && said.contains("the manager did not end"),
        "{said}"
    );
}

#[test]
fn the_end_that_a_manager_asks_for_with_its_last_word_counts() {
    let roles = Roles::new(&format!("{SERVE}; {END_5}"), "exit 0");
    assert_eq!(roles.run().0, Some(5));
}

#[test]
fn roles_have_their_links_the_control_socket_and_nothing_else() {
    let list = "exec ls -l /proc/self/fd >$2/$1.fds";
    let manager = format!("echo \"${{NOTIFY_SOCKET-unset}}\" >$2/env; ({list}); exit 4");
    let roles = Roles::new(&manager, &format!("({list}); {UNTIL_TOLD}"));
    let mut command = command_with_roles(roles.dir.path(), &roles.program);
    let mut keeper = command.env("NOTIFY_SOCKET", "/above").spawn().unwrap();
    assert_eq!(wait_child(&mut keeper).code(), Some(4));
    let fds = |role: &str| {
        let text = std::fs::read_to_string(roles.dir.path().join(format!("{role}.fds"))).unwrap();
        text.lines().filter(|l| l.contains("socket:")).count()
    };
    assert_eq!((fds("manager"), fds("logger")), (3, 2));
    assert_eq!(
        std::fs::read_to_string(roles.dir.path().join("env")).unwrap(),
        "unset\n"
    );
}

#[test]
fn a_logger_that_dies_comes_back() {
    // The first logger dies at once, the second one tells that it is there.
    let logger = format!("if mkdir $2/first; then kill -9 $$; fi; touch $2/second; {UNTIL_TOLD}");
    let manager = format!("{SERVE}; while ! test -e $2/second; do :; done; {END_5}");
    let roles = Roles::new(&manager, &logger);
    let (code, said) = roles.run();
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.contains("the logger ended (signal 9); it starts again in 100 ms"),
        "{said}"
    );
}

#[test]
fn of_fifty_keepers_one_remains_and_the_others_name_it() {
    let roles = Roles::new(&format!("{SERVE}; touch $2/serves; {FOR_EVER}"), FOR_EVER);
    // A number of a living stranger in the file is no lock.
    std::fs::create_dir(roles.dir.path().join("state")).unwrap();
    std::fs::write(
        roles.dir.path().join("state/lock"),
        format!("{}\n", std::process::id()),
    )
    .unwrap();
    let mut keepers: Vec<Child> = (0..50).map(|_| roles.start()).collect();
    roles.wait_for_file("serves");
    let mut said = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while keepers.len() > 1 {
        assert!(Instant::now() < deadline, "{} keepers run", keepers.len());
        let (ended, running): (Vec<_>, Vec<_>) = keepers
            .into_iter()
            .map(|mut k| (k.try_wait().unwrap(), k))
            .partition(|(s, _)| s.is_some());
        for (status, mut keeper) in ended {
            assert_eq!(status.unwrap().code(), Some(75));
            let mut text = String::new();
            keeper.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            said.push(text);
        }
        keepers = running.into_iter().map(|(_, k)| k).collect();
        std::thread::yield_now();
    }
    let mut winner = keepers.remove(0);
    assert_eq!(said.len(), 49);
    let name = format!("pid {} holds", winner.id());
    for text in &said {
        assert!(text.contains(&name), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    assert_eq!(number_in(roles.dir.path(), "state/lock"), winner.id());
    assert_eq!(number_in(roles.dir.path(), "run/lock"), winner.id());
    let socket = std::fs::symlink_metadata(roles.dir.path().join("run/control.sock")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.mode() & 0o777, 0o600);
    // Killed, it leaves its socket, which the next one replaces. Its manager holds the lock until it ends.
    let deadline = Instant::now() + PATIENCE;
    let below = loop {
        let below = descendants(winner.id());
        if below.len() == 2 {
            break below;
        }
        assert!(Instant::now() < deadline, "its roles are {below:?}");
        std::thread::yield_now();
    };
    winner.kill().unwrap();
    assert_eq!(wait_child(&mut winner).code(), None);
    assert!(roles.dir.path().join("run/control.sock").exists());
    let killer = std::thread::spawn(move || {
        for (pid, start) in below {
            keeper_support::kill_proven(pid, start);
        }
    });
    let next = Roles::new("exit 6", "exit 0");
    let mut keeper = command_with_roles(roles.dir.path(), &next.program)
        .spawn()
        .unwrap();
    assert_eq!(wait_child(&mut keeper).code(), Some(6));
    killer.join().unwrap();
}

#[test]
fn a_new_logger_gets_every_open_pipe_and_a_new_link_to_the_manager() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("roles.sock")).unwrap();
    let mut keeper = command_with_roles(dir.path(), &std::env::current_exe().unwrap())
        .spawn()
        .unwrap();
    let (logger, manager) = Played::accept_both(&listener);
    let (FromKeeper::Hello { logger_pid, seed, .. }, _) = manager.receive() else {
        panic!("no Hello")
    };
    assert_eq!(manager.receive::<FromKeeper>().0, FromKeeper::Inventoried);
    manager.send(&ToKeeper::Serving);

    let running = LaunchId::main(Invocation(1));
    let launch = keeper_support::launch(
        seed,
        running,
        &[
            "/bin/sh",
            "-c",
            "echo first; read x; exec cat /dev/zero >/dev/null",
        ],
    );
    manager.send(&ToKeeper::Launch(Box::new(launch)));
    assert!(matches!(manager.receive(), (FromKeeper::Launched { .. }, _)));
    let (ToLogger::Open { id, .. }, _) = logger.receive() else {
        panic!("no Open")
    };
    assert_eq!(id, running);
    let released = LaunchId::main(Invocation(2));
    let launch = keeper_support::launch(seed, released, &["/bin/echo", "second"]);
    manager.send(&ToKeeper::Launch(Box::new(launch)));
    assert!(matches!(manager.receive(), (FromKeeper::Launched { .. }, _)));
    assert!(matches!(manager.receive(), (FromKeeper::Exited { .. }, _)));

    // It dies with a pipe open and another one that it has not been told to close.
    let pid = nix::unistd::Pid::from_raw(logger_pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    manager.send(&ToKeeper::Release { id: released });

    let logger = Played::accept(&listener, "logger");
    let (FromKeeper::LoggerRestarted { pid, times: 1, .. }, mut fds) = manager.receive() else {
        panic!("no news")
    };
    assert_ne!(pid, logger_pid);
    let manager_peer = fds.remove(0);
    nix::unistd::write(&manager_peer, b"are you there").unwrap();
    keeper_support::wait_readable(&logger.peer);
    let mut bytes = [0; 32];
    assert_eq!(nix::unistd::read(&logger.peer, &mut bytes).unwrap(), 13);

    let mut texts = BTreeMap::new();
    for _ in 0..2 {
        let (ToLogger::Open { id, .. }, mut fds) = logger.receive() else {
            panic!("no Open")
        };
        let pipe = fds.remove(0);
        keeper_support::wait_readable(&pipe);
        let count = nix::unistd::read(&pipe, &mut bytes).unwrap();
        texts.insert(id, bytes[..count].to_vec());
    }
    assert_eq!(
        texts,
        BTreeMap::from([(running, b"first\n".to_vec()), (released, b"second\n".to_vec())])
    );
    assert_eq!(logger.receive::<ToLogger>().0, ToLogger::Close { id: released });
    logger.send(&FromLogger::Closed { id: released });

    manager.send(&ToKeeper::End { code: 9 });
    assert_eq!(logger.receive::<ToLogger>().0, ToLogger::Close { id: running });
    assert_eq!(logger.receive::<ToLogger>().0, ToLogger::End);
    drop((manager, logger, manager_peer));
    assert_eq!(wait_child(&mut keeper).code(), Some(9));
}

#[test]
fn a_manager_that_does_not_read_loses_nothing() {
    let mut node = Node::start(Mode::Group);
    let most = u64::try_from(3 * ringriftd::limits::KEEPER_OUTBOX).unwrap();
    std::thread::scope(|scope| {
        let link = node.link();
        // More than the keeper keeps and the kernel buffers: the writer is held up until somebody reads.
        scope.spawn(move || {
            for nonce in 1000..1000 + most {
                let bytes = proto::codec::encode(&ToKeeper::Ping { nonce }).unwrap();
                nix::unistd::write(&link, &bytes).unwrap();
            }
        });
        for nonce in 1000..1000 + most {
            assert_eq!(node.next_message().0, FromKeeper::Pong { nonce });
        }
    });
    node.end(0);
}

fn number_in(dir: &Path, name: &str) -> u32 {
    std::fs::read_to_string(dir.join(name))
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn an_idle_keeper_sleeps() {
    let mut node = Node::start(Mode::Group);
    let launch = node.launch(&["/bin/true"]);
    node.run(&launch);
    node.settle();
    node.settle();
    // Asleep without a time: the kernel shows the system call and its arguments; poll(2)'s third is the timeout.
    let tasks = || {
        let folder = std::fs::read_dir(format!("/proc/{}/task", node.keeper.id())).unwrap();
        folder
            .map(|t| std::fs::read_to_string(t.unwrap().path().join("syscall")).unwrap_or_default())
            .collect::<Vec<_>>()
    };
    if tasks().iter().all(String::is_empty) {
        keeper_support::skipped("/proc/PID/syscall cannot be read here");
    } else {
        let is_poll = |t: &String| t.split(' ').next() == Some(&libc::SYS_poll.to_string());
        let deadline = Instant::now() + PATIENCE;
        let third = loop {
            assert!(
                Instant::now() < deadline,
                "the keeper does not sleep: {:?}",
                tasks()
            );
            if let Some(text) = tasks().iter().find(|t| is_poll(t)) {
                break text.split(' ').nth(3).unwrap().to_owned();
            }
            std::thread::yield_now();
        };
        assert!(
            third.ends_with("ffffffff"),
            "the keeper would wake by itself: {third}"
        );
    }
    node.end(0);
}
