//! A keeper in a process of its own, with the test at the manager's and a thread at the logger's end of its links.
//!
//! The process is this test program again, asked for [`keeper_process`] alone: the keeper changes its process for
//! good, so it cannot live in the one that runs the tests.
#![allow(dead_code)] // each test program uses a part of it

pub mod cast;
pub mod types;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use proto::reply::Exit;
use ringriftd::ids::{Invocation, LaunchId, Scope};
use ringriftd::keeper::wire::{FromKeeper, FromLogger, Launch, Stage, ToKeeper, ToLogger, fd};
use ringriftd::keeper::{Contain, KeeperConfig, handover, links, run, run_with_links};
use ringriftd::manager::takeover::{Knows, take_over};

pub use types::*;

/// The keeper itself, when another test starts it; nothing when run by hand.
#[test]
#[ignore = "the keeper of the other tests"]
fn keeper_process() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    let mut config = KeeperConfig::new(dir.join("run"), dir.join("state"), dir.join("log"));
    config.containment = match std::env::var(MODE).as_deref() {
        Ok("cgroup") => Contain::Auto,
        _ => Contain::ProcessGroup,
    };
    if let Ok(ms) = std::env::var(ADOPT_WINDOW) {
        config.adopt_window = Duration::from_millis(ms.parse().unwrap());
    }
    if let Ok(ms) = std::env::var(ZYGOTE_ANSWER) {
        config.zygote_answer = Duration::from_millis(ms.parse().unwrap());
    }
    if let Ok(bounds) = std::env::var(BOUNDS) {
        let ms: Vec<u64> = bounds.split(',').map(|ms| ms.parse().unwrap()).collect();
        let [start, silence, answer, stable] = ms[..] else {
            panic!("{bounds}")
        };
        config.manager_bounds.start = Duration::from_millis(start);
        config.manager_bounds.silence = Duration::from_millis(silence);
        config.manager_bounds.answer = Duration::from_millis(answer);
        config.manager_bounds.stable = Duration::from_millis(stable);
    }
    if let Some(program) = std::env::var_os(PROGRAM) {
        config.program = program.into();
        // A script wants the folder; this test program wants to know which test it is to be.
        let role = [
            "keeper_support::role_process",
            "--exact",
            "--ignored",
            "--nocapture",
            "-q",
        ];
        let is_script = std::env::current_exe().unwrap() != config.program;
        let args: Vec<OsString> = if is_script {
            vec![dir.into()]
        } else {
            role.map(OsString::from).to_vec()
        };
        config.manager_args = args.clone();
        config.logger_args = args;
        std::process::exit(run(config).into());
    }
    let ends = std::env::var(LINKS).unwrap();
    let (manager, logger) = ends.split_once(',').unwrap();
    let end = |text: &str| {
        // SAFETY: inherited for this purpose, and wrapped once.
        unsafe { OwnedFd::from_raw_fd(text.parse().unwrap()) }
    };
    std::process::exit(run_with_links(config, end(manager), end(logger)).into());
}

/// Manager or logger for a test that plays both: hands its descriptors to the test and lives until the test
/// lets it go; nothing when run by hand.
#[test]
#[ignore = "a role of another test's keeper"]
fn role_process() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
        return;
    };
    // It was the manager, and took the keeper's place.
    if std::env::var_os(handover::VARIABLE).is_some() {
        return keeper_process();
    }
    let word = std::env::args().nth(1).unwrap();
    let mut socket = UnixStream::connect(dir.join("roles.sock")).unwrap();
    let last = if word == "manager" { 9 } else { 7 };
    let fds: Vec<RawFd> = (3..=last).collect();
    let control = [ControlMessage::ScmRights(&fds)];
    let data = [IoSlice::new(word.as_bytes())];
    sendmsg::<()>(socket.as_raw_fd(), &data, &control, MsgFlags::empty(), None).unwrap();
    let mut said = [0];
    if socket.read(&mut said).is_ok_and(|count| count == 1) {
        // SAFETY: the keeper's fixed places for them, still open.
        let given = |number| unsafe { BorrowedFd::borrow_raw(number) };
        let why = take_over(&Knows {
            logger: Some(given(fd::PEER)),
            http: None,
            logger_process: None,
            control: given(fd::CONTROL),
            state: fd::STATE.map(given),
            locks: fd::LOCKS.map(given),
            launches: Vec::new(),
            stored: &std::collections::BTreeMap::new(),
            last_order: 7,
            last_signal: 3,
            untaken_signals: Vec::new(),
        });
        panic!("{why}");
    }
}

/// A keeper under test.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub keeper: Child,
    pub hello: FromKeeper,
    pub seed: u64,
    manager: Option<OwnedFd>,
    outputs: Receiver<(LaunchId, String)>,
    unread: VecDeque<(FromKeeper, Vec<OwnedFd>)>,
    next: u64,
    orders: std::cell::Cell<u64>,
}

impl Node {
    pub fn start(mode: Mode) -> Self {
        Self::start_with(mode, &[], |_| {})
    }

    pub fn start_with(mode: Mode, extra_fds: &[RawFd], change: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (manager, manager_end) = links::pair().unwrap();
        let (logger, logger_end) = links::pair().unwrap();
        let mut inherit = vec![manager_end.as_raw_fd(), logger_end.as_raw_fd()];
        inherit.extend_from_slice(extra_fds);
        let mut command = command(dir.path(), mode, inherit);
        command.env(
            LINKS,
            format!("{},{}", manager_end.as_raw_fd(), logger_end.as_raw_fd()),
        );
        change(&mut command);
        let keeper = command.spawn().unwrap();
        drop((manager_end, logger_end));
        let (sender, outputs) = channel();
        std::thread::spawn(move || logger_thread(&logger, &sender));
        let mut node = Self {
            dir,
            keeper,
            hello: FromKeeper::Pong { nonce: 0 },
            seed: 0,
            manager: Some(manager),
            outputs,
            unread: VecDeque::new(),
            next: 0,
            orders: std::cell::Cell::new(0),
        };
        let (hello, _) = node.next_message();
        let FromKeeper::Hello {
            seed,
            ref containment,
            pid,
            ..
        } = hello
        else {
            panic!("{hello:?}")
        };
        assert_eq!(
            containment.starts_with("cgroup "),
            mode == Mode::Cgroup,
            "{containment}"
        );
        assert_eq!(pid, node.keeper.id());
        node.seed = seed;
        node.hello = hello;
        assert_eq!(node.next_message().0, FromKeeper::Inventoried);
        node.send(&ToKeeper::Serving);
        node
    }

    /// The folder of the leaves.
    pub fn cgroup(&self) -> Option<PathBuf> {
        let FromKeeper::Hello { containment, .. } = &self.hello else {
            return None;
        };
        containment.strip_prefix("cgroup ").map(PathBuf::from)
    }

    pub fn send(&self, request: &ToKeeper) {
        let bytes = proto::codec::encode(request).unwrap();
        let fd = self.manager.as_ref().unwrap().as_raw_fd();
        sendmsg::<()>(fd, &[IoSlice::new(&bytes)], &[], MsgFlags::MSG_NOSIGNAL, None).unwrap();
    }

    fn read(&self) -> Option<(FromKeeper, Vec<OwnedFd>)> {
        let fd = self.manager.as_ref().unwrap();
        wait_readable(fd);
        receive(fd.as_raw_fd())
    }

    /// The next message, in order.
    pub fn next_message(&mut self) -> (FromKeeper, Vec<OwnedFd>) {
        if let Some(first) = self.unread.pop_front() {
            return first;
        }
        self.read().expect("the keeper closed its link")
    }

    /// The first message that `wanted` wants; others wait.
    pub fn wait_for<T>(&mut self, wanted: impl Fn(&FromKeeper) -> Option<T>) -> (T, Vec<OwnedFd>) {
        let found = self.unread.iter().position(|(m, _)| wanted(m).is_some());
        if let Some((m, fds)) = found.and_then(|at| self.unread.remove(at)) {
            return (wanted(&m).unwrap(), fds);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(
                Instant::now() < deadline,
                "the message did not come; instead: {:?}",
                self.unread
            );
            let (m, fds) = self.read().expect("the keeper closed its link");
            match wanted(&m) {
                Some(t) => return (t, fds),
                None => self.unread.push_back((m, fds)),
            }
        }
    }

    pub fn id(&mut self) -> LaunchId {
        self.next += 1;
        LaunchId::main(Invocation(self.next))
    }

    /// A launch of a shell script.
    pub fn shell(&mut self, script: &str) -> Launch {
        self.launch(&["/bin/sh", "-c", script])
    }

    pub fn launch(&mut self, argv: &[&str]) -> Launch {
        let id = self.id();
        launch(self.seed, id, argv)
    }

    pub fn ask(&self, launch: &Launch) -> LaunchId {
        self.send(&ToKeeper::Launch(Box::new(launch.clone())));
        launch.id
    }

    pub fn launched(&mut self, id: LaunchId) -> (u32, Vec<OwnedFd>) {
        match self.wait_for(|m| way_up(m, id)) {
            (Some(pid), fds) => (pid, fds),
            (None, ears) => {
                let (pid, fds) = self.wait_for(|m| way_up(m, id));
                assert!(fds.is_empty(), "its ears came twice");
                (pid.unwrap(), ears)
            }
        }
    }

    pub fn failed(&mut self, id: LaunchId) -> (Stage, i32) {
        self.wait_for(|m| match m {
            FromKeeper::LaunchFailed { id: i, stage, errno } if *i == id => Some((*stage, *errno)),
            FromKeeper::Launched { id: i, .. } if *i == id => panic!("it was launched"),
            _ => None,
        })
        .0
    }

    pub fn exited(&mut self, id: LaunchId) -> (Exit, Vec<u32>) {
        self.wait_for(|m| match m {
            FromKeeper::Exited {
                id: i, exit, remains, ..
            } if *i == id => Some((*exit, remains.clone())),
            _ => None,
        })
        .0
    }

    pub fn emptied(&mut self, id: LaunchId) {
        self.wait_for(|m| matches!(m, FromKeeper::Emptied { id: i } if *i == id).then_some(()));
    }

    /// Launches with a readiness pipe at 3, and waits for the script's newline on it.
    pub fn launch_ready(&mut self, script: &str) -> (LaunchId, u32) {
        let mut launch = self.shell(script);
        launch.ready_fd = Some(3);
        let id = self.ask(&launch);
        let (pid, fds) = self.launched(id);
        let [ready]: [OwnedFd; 1] = fds.try_into().unwrap();
        wait_readable(&ready);
        let mut byte = [0];
        assert_eq!(
            std::fs::File::from(ready).read(&mut byte).unwrap(),
            1,
            "it ended without being ready"
        );
        (id, pid)
    }

    /// Runs to the end and is forgotten: how it ended, and what it wrote.
    pub fn run(&mut self, launch: &Launch) -> (Exit, String) {
        let id = self.ask(launch);
        self.launched(id);
        let (exit, remains) = self.exited(id);
        assert_eq!(remains, Vec::<u32>::new());
        (exit, self.release(id))
    }

    /// Forgets a launch: what it wrote.
    pub fn release(&mut self, id: LaunchId) -> String {
        self.send(&ToKeeper::Release { id });
        loop {
            let closed = self.outputs.recv_timeout(PATIENCE);
            let (closed, text) = closed.expect("the logger was told to close");
            // The output of a launch that could not be started is closed too.
            if closed == id {
                return text;
            }
            assert_eq!(text, "");
        }
    }

    pub fn signal(&self, id: LaunchId, signal: i32, scope: Scope) {
        let order = self.orders.get() + 1;
        self.orders.set(order);
        self.send(&ToKeeper::Signal {
            id,
            signal,
            scope,
            order,
        });
    }

    pub fn destroy(&self, id: LaunchId) {
        self.send(&ToKeeper::Destroy { id });
    }

    /// Waits until the keeper has done all that was asked before.
    pub fn settle(&mut self) {
        self.send(&ToKeeper::Ping { nonce: 77 });
        self.wait_for(|m| matches!(m, FromKeeper::Pong { nonce: 77 }).then_some(()));
    }

    /// Goes away without a word: the keeper's exit code.
    pub fn abandon(&mut self) -> Option<i32> {
        self.manager = None;
        wait_child(&mut self.keeper).code()
    }

    /// A duplicate of the manager's end, to write to from another thread.
    pub fn link(&self) -> OwnedFd {
        self.manager.as_ref().unwrap().try_clone().unwrap()
    }

    /// Asks the keeper to end, and checks that nothing of it is left.
    pub fn end(mut self, code: u8) {
        let below = descendants(self.keeper.id());
        let cgroup = self.cgroup();
        self.send(&ToKeeper::End { code });
        self.manager = None;
        assert_eq!(wait_child(&mut self.keeper).code(), Some(code.into()));
        for (pid, start) in below {
            assert!(!is_running(pid, start), "process {pid} is left");
        }
        assert!(!self.dir.path().join("run/control.sock").exists());
        assert!(cgroup.is_none_or(|folder| !folder.exists()));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The test holds the manager's end, so there is no process that could be started again: the link's end ends the
        // keeper and all that it holds.
        self.manager = None;
        let ended = wait_child_for(&mut self.keeper, PATIENCE);
        if ended.is_none() {
            let _ = self.keeper.kill();
            let _ = self.keeper.wait();
            if !std::thread::panicking() {
                panic!("the keeper did not end");
            }
        }
    }
}

fn logger_thread(link: &OwnedFd, outputs: &Sender<(LaunchId, String)>) {
    let mut pipes: BTreeMap<LaunchId, std::fs::File> = BTreeMap::new();
    while let Some((word, mut fds)) = receive::<ToLogger>(link.as_raw_fd()) {
        match word {
            ToLogger::Open { id, .. } => {
                pipes.insert(id, fds.remove(0).into());
            }
            ToLogger::Close { id } => {
                let mut text = Vec::new();
                if let Some(mut pipe) = pipes.remove(&id) {
                    let _ = pipe.read_to_end(&mut text);
                }
                let closed = proto::codec::encode(&FromLogger::Closed { id }).unwrap();
                let data = [IoSlice::new(&closed)];
                let _ = sendmsg::<()>(link.as_raw_fd(), &data, &[], MsgFlags::MSG_NOSIGNAL, None);
                let _ = outputs.send((id, String::from_utf8_lossy(&text).into_owned()));
            }
            ToLogger::End => return,
            ToLogger::Peer => {}
        }
    }
}
