//! A keeper in a process of its own, with the test at the manager's and a thread at the logger's end of its links.
//!
//! The process is this test program again, asked for [`keeper_process`] alone: the keeper changes its process for
//! good, so it cannot live in the one that runs the tests.
#![allow(dead_code)] // each test program uses a part of it

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use proto::reply::Exit;
use ringriftd::ids::{Invocation, LaunchId, Scope, invocation_text};
use ringriftd::keeper::types::Proc;
use ringriftd::keeper::wire::{
    FromKeeper, FromLogger, Launch, LogQuery, Output, Stage, ToKeeper, ToLogger, fd,
};
use ringriftd::keeper::{Contain, KeeperConfig, handover, links, run, run_with_links};
use ringriftd::limits;
use ringriftd::manager::takeover::{Knows, take_over};

/// Longer than anything takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

const DIR: &str = "KEEPER_TEST_DIR";
const MODE: &str = "KEEPER_TEST_MODE";
const LINKS: &str = "KEEPER_TEST_LINKS";
const PROGRAM: &str = "KEEPER_TEST_PROGRAM";
const BOUNDS: &str = "KEEPER_TEST_BOUNDS";
/// In ms: how long a fresh manager may take to name what it adopts.
pub const ADOPT_WINDOW: &str = "KEEPER_TEST_ADOPT_WINDOW";

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

/// A role whose part the test plays.
pub struct Played {
    pub keeper: OwnedFd,
    pub peer: OwnedFd,
    /// What else it was given, from descriptor 5 on.
    pub kept: Vec<OwnedFd>,
    pub pid: u32,
    /// While it is open, the role's process lives.
    pub leash: UnixStream,
}

impl Played {
    /// The next role that the keeper starts, which must be a `word`.
    pub fn accept(listener: &UnixListener, word: &str) -> Self {
        let (said, role) = Self::next(listener);
        assert_eq!(said, word);
        role
    }

    /// Logger and manager, in whichever order they get here: two processes that start together.
    pub fn accept_both(listener: &UnixListener) -> (Self, Self) {
        let (first, one) = Self::next(listener);
        let (second, other) = Self::next(listener);
        match (first.as_str(), second.as_str()) {
            ("logger", "manager") => (one, other),
            ("manager", "logger") => (other, one),
            said => panic!("two roles were expected, {said:?} came"),
        }
    }

    fn next(listener: &UnixListener) -> (String, Self) {
        wait_readable(listener);
        let (leash, _) = listener.accept().unwrap();
        leash.set_read_timeout(Some(PATIENCE)).unwrap();
        let (said, mut fds) = receive_bytes(leash.as_raw_fd()).unwrap();
        let said = String::from_utf8(said).unwrap();
        let kept = fds.split_off(2);
        let [keeper, peer]: [OwnedFd; 2] = fds.try_into().unwrap();
        let of_leash = nix::sys::socket::getsockopt(&leash, nix::sys::socket::sockopt::PeerCredentials);
        let role = Self {
            keeper,
            peer,
            kept,
            pid: of_leash.unwrap().pid().unsigned_abs(),
            leash,
        };
        (said, role)
    }

    pub fn send<T: serde::Serialize>(&self, value: &T) {
        let bytes = proto::codec::encode(value).unwrap();
        let data = [IoSlice::new(&bytes)];
        sendmsg::<()>(self.keeper.as_raw_fd(), &data, &[], MsgFlags::MSG_NOSIGNAL, None).unwrap();
    }

    /// Asks the keeper to go on as `program`.
    pub fn upgrade(&self, program: &File) {
        let bytes = proto::codec::encode(&ToKeeper::Upgrade).unwrap();
        let data = [IoSlice::new(&bytes)];
        let fds = [program.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(
            self.keeper.as_raw_fd(),
            &data,
            &control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .unwrap();
    }

    pub fn receive<T: serde::de::DeserializeOwned>(&self) -> (T, Vec<OwnedFd>) {
        wait_readable(&self.keeper);
        receive(self.keeper.as_raw_fd()).unwrap()
    }
}

/// How launches are to be held together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Cgroup,
    Group,
}

/// Both, or the one that works here; what is left out is said.
pub fn modes() -> Vec<Mode> {
    if has_cgroup() {
        vec![Mode::Cgroup, Mode::Group]
    } else {
        skipped("the half in cgroup mode: no writable cgroup v2 here");
        vec![Mode::Group]
    }
}

fn has_cgroup() -> bool {
    let seed = u64::from(std::process::id()) << 32 | u64::from(Instant::now().elapsed().subsec_nanos());
    match ringriftd::keeper::cgroup::Root::make(None, seed ^ 0xffff) {
        Ok(root) => root.remove(),
        Err(_) => false,
    }
}

/// Says so past the test runner, which shows what a passing test prints to nobody.
pub fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
}

pub fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skipped("it needs root");
    }
    is_root
}

pub fn command(dir: &Path, mode: Mode, inherit: Vec<RawFd>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "keeper_support::keeper_process",
        "--exact",
        "--ignored",
        "--nocapture",
        "-q",
    ]);
    command
        .env(DIR, dir)
        .env(MODE, if mode == Mode::Cgroup { "cgroup" } else { "group" });
    command.env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: fcntl(2) and sigprocmask(2) are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            for fd in &inherit {
                if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            // In the real program the keeper has only one thread. Here the test runner has another, which must not
            // take the keeper's signals.
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?;
            Ok(())
        });
    }
    command
}

/// A launch of `argv` with everything else at its plainest.
/// The pid of a launch that runs; `Some(None)` of one that is about to.
fn way_up(said: &FromKeeper, launch: LaunchId) -> Option<Option<u32>> {
    match said {
        FromKeeper::Launching { id } if *id == launch => Some(None),
        FromKeeper::Launched { id, pid, .. } if *id == launch => Some(Some(*pid)),
        FromKeeper::LaunchFailed { id, stage, errno } if *id == launch => {
            panic!("the launch failed: {stage:?} {errno}")
        }
        _ => None,
    }
}

pub fn launch(seed: u64, id: LaunchId, argv: &[&str]) -> Launch {
    let invocation = invocation_text(seed, id.invocation);
    Launch {
        id,
        env: vec![
            b"PATH=/usr/bin:/bin".to_vec(),
            format!("RINGRIFT_INVOCATION_ID={invocation}").into_bytes(),
            b"RINGRIFT_ROLE=main".to_vec(),
        ],
        invocation,
        role: "main".to_owned(),
        tag: "test".to_owned(),
        program: argv[0].as_bytes().to_vec(),
        argv: argv.iter().map(|a| a.as_bytes().to_vec()).collect(),
        working_dir: b"/".to_vec(),
        identity: None,
        umask: 0o022,
        nice: None,
        oom_score_adj: 0,
        rlimits: Vec::new(),
        no_new_privs: true,
        output: Output {
            unit: "test".to_owned(),
            max_size: 1 << 20,
            max_files: 2,
            drain_ms: 100,
            keep: Default::default(),
            read: Default::default(),
        },
        notify: None,
        ready_fd: None,
        is_given_stored: false,
        stdin: None,
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

fn receive<T: serde::de::DeserializeOwned>(fd: RawFd) -> Option<(T, Vec<OwnedFd>)> {
    let (bytes, fds) = receive_bytes(fd)?;
    Some((proto::codec::decode(&bytes).unwrap(), fds))
}

fn receive_bytes(fd: RawFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; limits::WIRE_MESSAGE_MAX];
    let mut space = nix::cmsg_space!([RawFd; 8]);
    let mut data = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(fd, &mut data, Some(&mut space), flags).ok()?;
    assert!(!message.flags.contains(MsgFlags::MSG_CTRUNC));
    let mut fds = Vec::new();
    for control in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: recvmsg(2) has just made them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let bytes = message.bytes;
    if bytes == 0 {
        return None;
    }
    buffer.truncate(bytes);
    Some((buffer, fds))
}

pub fn wait_readable(fd: &impl AsFd) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(nix::poll::poll(&mut fds, timeout).unwrap(), 1, "nothing came");
}

pub fn wait_child(child: &mut Child) -> ExitStatus {
    if let Some(status) = wait_child_for(child, PATIENCE) {
        return status;
    }
    // Nothing of it may outlive the test.
    let below = descendants(child.id());
    let _ = child.kill();
    let _ = child.wait();
    for (pid, start) in below {
        kill_proven(pid, start);
    }
    panic!("the process did not end");
}

fn wait_child_for(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    if let Some(status) = child.try_wait().unwrap() {
        return Some(status);
    }
    let held = ringriftd::keeper::sys::pidfd_open(child.id().cast_signed()).ok()?;
    let mut fds = [PollFd::new(held.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, PollTimeout::try_from(patience).unwrap()).unwrap();
    child.try_wait().unwrap()
}

/// Keeps `pid` from being mistaken: its start time.
pub fn start_time(pid: u32) -> u64 {
    ringriftd::keeper::proc::stat(pid.cast_signed())
        .unwrap()
        .process
        .start()
}

pub fn is_running(pid: u32, start: u64) -> bool {
    ringriftd::keeper::proc::stat(pid.cast_signed()).is_ok_and(|s| s.process.start() == start && !s.is_dead())
}

/// All processes below `top`.
pub fn descendants(top: u32) -> Vec<(u32, u64)> {
    let picture = ringriftd::keeper::sweep::Picture::take().unwrap();
    picture
        .below(top.cast_signed(), &[])
        .into_iter()
        .map(|p| (p.pid_u32(), p.start()))
        .collect()
}

/// A keeper that starts `program` as its roles.
pub fn command_with_roles(dir: &Path, program: &Path) -> Command {
    let mut command = command(dir, Mode::Group, Vec::new());
    command.env(PROGRAM, program);
    command
}

/// A keeper that starts and restarts its roles as processes, whose parts the test plays.
pub struct Cast {
    pub dir: Rc<tempfile::TempDir>,
    pub keeper: Child,
    pub listener: UnixListener,
    pub manager: Played,
    pub logger: Played,
    pub seed: u64,
    pub mode: Mode,
    cgroup: Option<PathBuf>,
    /// The manager that has become the keeper.
    successor: Option<Proc>,
}

/// What a manager is told before anything else.
pub struct Told {
    pub hello: FromKeeper,
    pub inventory: Vec<(FromKeeper, Vec<OwnedFd>)>,
}

impl Played {
    /// The keeper's first words, up to `Inventoried`.
    pub fn told(&self) -> Told {
        let (hello, _) = self.receive();
        let mut inventory = Vec::new();
        loop {
            let (said, fds) = self.receive();
            if matches!(said, FromKeeper::UpgradeRefused { .. }) {
                // Of an upgrade that nobody asked for.
                continue;
            }
            if said == FromKeeper::Inventoried {
                return Told { hello, inventory };
            }
            inventory.push((said, fds));
        }
    }

    /// The first message that `wanted` wants; others are let go.
    pub fn wait_for<T>(&self, wanted: impl Fn(&FromKeeper) -> Option<T>) -> (T, Vec<OwnedFd>) {
        loop {
            let (said, fds) = self.receive();
            if let Some(found) = wanted(&said) {
                return (found, fds);
            }
        }
    }

    /// Asks for `launch`, and waits until it runs.
    pub fn launch(&self, launch: &Launch) -> (u32, Vec<OwnedFd>) {
        self.send(&ToKeeper::Launch(Box::new(launch.clone())));
        match self.wait_for(|m| way_up(m, launch.id)) {
            (Some(pid), fds) => (pid, fds),
            (None, ears) => (self.wait_for(|m| way_up(m, launch.id)).0.unwrap(), ears),
        }
    }

    pub fn exited(&self, launch: LaunchId) -> (Exit, Vec<u32>) {
        self.wait_for(|m| match m {
            FromKeeper::Exited {
                id, exit, remains, ..
            } if *id == launch => Some((*exit, remains.clone())),
            _ => None,
        })
        .0
    }
}

impl Cast {
    pub fn start(mode: Mode) -> Self {
        Self::start_in(Rc::new(tempfile::tempdir().unwrap()), mode, |_| {})
    }

    /// With bounds in ms: the manager's start, silence, answer and stability.
    pub fn start_bounded(mode: Mode, bounds: [u64; 4]) -> Self {
        Self::start_in(Rc::new(tempfile::tempdir().unwrap()), mode, |command| {
            command.env(BOUNDS, bounds.map(|ms| ms.to_string()).join(","));
        })
    }

    pub fn start_in(dir: Rc<tempfile::TempDir>, mode: Mode, change: impl FnOnce(&mut Command)) -> Self {
        let cast = Self::begin_in(dir, mode, change);
        cast.manager.send(&ToKeeper::Serving);
        cast
    }

    /// The manager has been greeted and does not serve yet.
    pub fn begin_in(dir: Rc<tempfile::TempDir>, mode: Mode, change: impl FnOnce(&mut Command)) -> Self {
        let path = dir.path().join("roles.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let mut command = command(dir.path(), mode, Vec::new());
        command.env(PROGRAM, std::env::current_exe().unwrap());
        change(&mut command);
        let keeper = command.spawn().unwrap();
        let (logger, manager) = Played::accept_both(&listener);
        let mut cast = Self {
            dir,
            keeper,
            listener,
            manager,
            logger,
            seed: 0,
            mode,
            cgroup: None,
            successor: None,
        };
        let told = cast.manager.told();
        assert!(told.inventory.is_empty());
        let FromKeeper::Hello {
            seed,
            is_fresh: true,
            containment,
            ..
        } = told.hello
        else {
            panic!("{:?}", told.hello)
        };
        cast.seed = seed;
        cast.cgroup = containment.strip_prefix("cgroup ").map(PathBuf::from);
        assert_eq!(cast.cgroup.is_some(), mode == Mode::Cgroup, "{containment}");
        cast
    }

    /// The manager after this one, which has died or will: what it was told.
    pub fn next_manager(&mut self) -> Told {
        self.manager = Played::accept(&self.listener, "manager");
        self.manager.told()
    }

    /// Both roles after these: what the manager was told.
    pub fn next_roles(&mut self) -> Told {
        (self.logger, self.manager) = Played::accept_both(&self.listener);
        self.manager.told()
    }

    /// The keeper has died, or dies now, and its manager takes its place: what the next manager is told. The test is its
    /// parent then, if it was a subreaper before the keeper died.
    pub fn take_over(&mut self) -> Told {
        let _ = self.keeper.kill();
        wait_child(&mut self.keeper);
        let mut ended = [PollFd::new(self.manager.keeper.as_fd(), PollFlags::empty())];
        let timeout = PollTimeout::try_from(PATIENCE).unwrap();
        assert_eq!(nix::poll::poll(&mut ended, timeout).unwrap(), 1, "the link's end");
        let successor = Proc::new(self.manager.pid.cast_signed(), start_time(self.manager.pid)).unwrap();
        self.successor = Some(successor);
        self.manager.leash.write_all(b"t").unwrap();
        wait_readable(&self.logger.peer);
        let (word, mut fds) = receive::<LogQuery>(self.logger.peer.as_raw_fd()).unwrap();
        assert_eq!(word, LogQuery::Keeper);
        self.logger.keeper = fds.remove(0);
        self.next_manager()
    }

    pub fn kill_manager(&self) {
        kill(self.manager.pid, libc::SIGKILL);
    }

    /// A launch of a shell script.
    pub fn shell(&self, serial: u64, script: &str) -> Launch {
        let id = LaunchId::main(Invocation(serial));
        launch(self.seed, id, &["/bin/sh", "-c", script])
    }

    /// A fifo that nobody writes to, made when it is first asked for.
    pub fn fifo(&self) -> PathBuf {
        let path = self.dir.path().join("fifo");
        if !path.exists() {
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        }
        path
    }

    /// The logger is told about `launch`'s pipe: its read end.
    pub fn opened(&self, launch: LaunchId) -> OwnedFd {
        loop {
            let (word, mut fds): (ToLogger, _) = self.logger.receive();
            if matches!(word, ToLogger::Open { id, .. } if id == launch) {
                return fds.remove(0);
            }
        }
    }

    /// All of ringriftd is killed at once; the folders stay, and the units live.
    pub fn fall(mut self) -> Fallen {
        let survivors = descendants(self.keeper.id());
        let roles = [self.manager.pid, self.logger.pid].map(|pid| (pid, start_time(pid)));
        self.keeper.kill().unwrap();
        wait_child(&mut self.keeper);
        for (pid, start) in roles {
            kill_proven(pid, start);
        }
        Fallen {
            dir: Rc::clone(&self.dir),
            survivors,
        }
    }

    /// Asks the keeper to end, and checks that nothing of it is left.
    pub fn end(mut self, code: u8) {
        let below = descendants(self.successor.map_or(self.keeper.id(), Proc::pid_u32));
        self.manager.send(&ToKeeper::End { code });
        for role in [&self.manager, &self.logger] {
            role.leash.shutdown(std::net::Shutdown::Both).unwrap();
        }
        // The logger of a keeper that died is nobody's child: its link's end is its end.
        self.logger.keeper = File::open("/dev/null").unwrap().into();
        match self.successor.take() {
            None => assert_eq!(wait_child(&mut self.keeper).code(), Some(code.into())),
            Some(successor) => {
                let exit = ringriftd::keeper::sys::reap(successor.pid()).unwrap();
                assert_eq!(exit, Exit::Code(code.into()));
            }
        }
        for (pid, start) in below {
            assert!(!is_running(pid, start), "process {pid} is left");
        }
        assert!(self.cgroup.as_ref().is_none_or(|folder| !folder.exists()));
    }
}

/// What a keeper that was killed left. No unit of its outlives the test.
pub struct Fallen {
    pub dir: Rc<tempfile::TempDir>,
    survivors: Vec<(u32, u64)>,
}

impl Drop for Fallen {
    fn drop(&mut self) {
        for (pid, start) in &self.survivors {
            kill_proven(*pid, *start);
        }
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        // After a test that failed: nothing that it started may stay.
        if let Some(successor) = self.successor {
            let below = descendants(successor.pid_u32());
            kill_proven(successor.pid_u32(), successor.start());
            for (pid, start) in below {
                kill_proven(pid, start);
            }
        }
        if self.keeper.try_wait().unwrap().is_some() {
            return;
        }
        let below = descendants(self.keeper.id());
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        for (pid, start) in below {
            kill_proven(pid, start);
        }
        if let Some(folder) = &self.cgroup {
            let _ = ringriftd::keeper::cgroup::remove_left(folder);
        }
    }
}

/// A process that the test, or a keeper of its, started.
pub fn kill(pid: u32, signal: i32) {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(signal).unwrap()).unwrap();
}

/// SIGKILL to this very process, and waits until it runs no more.
pub fn kill_proven(pid: u32, start: u64) {
    let Some(process) = ringriftd::keeper::types::Proc::new(pid.cast_signed(), start) else {
        return;
    };
    let _ = ringriftd::keeper::signal::send(process, libc::SIGKILL);
    let deadline = Instant::now() + PATIENCE;
    while is_running(pid, start) {
        assert!(Instant::now() < deadline, "process {pid} does not die");
        std::thread::yield_now();
    }
}
