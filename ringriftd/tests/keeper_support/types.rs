//! What keepers with and without roles of their own share: how they are started, spoken to and waited for.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use ringriftd::ids::{LaunchId, invocation_text};
use ringriftd::keeper::wire::{FromKeeper, Launch, Output, ToKeeper};
use ringriftd::limits;

/// Longer than anything takes on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub const DIR: &str = "KEEPER_TEST_DIR";

pub const MODE: &str = "KEEPER_TEST_MODE";

pub const LINKS: &str = "KEEPER_TEST_LINKS";

pub const PROGRAM: &str = "KEEPER_TEST_PROGRAM";

pub const BOUNDS: &str = "KEEPER_TEST_BOUNDS";

/// In ms: how long a fresh manager may take to name what it adopts.
pub const ADOPT_WINDOW: &str = "KEEPER_TEST_ADOPT_WINDOW";

/// In ms: how long a zygote may take.
pub const ZYGOTE_ANSWER: &str = "KEEPER_TEST_ZYGOTE_ANSWER";

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

pub fn has_cgroup() -> bool {
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
pub fn way_up(said: &FromKeeper, launch: LaunchId) -> Option<Option<u32>> {
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
        is_zygote: false,
        fork: None,
    }
}

pub fn receive<T: serde::de::DeserializeOwned>(fd: RawFd) -> Option<(T, Vec<OwnedFd>)> {
    let (bytes, fds) = receive_bytes(fd)?;
    Some((proto::codec::decode(&bytes).unwrap(), fds))
}

pub fn receive_bytes(fd: RawFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
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

pub fn wait_child_for(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
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
