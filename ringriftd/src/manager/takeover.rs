//! The keeper died, and no service manager starts another: this process becomes the keeper. It leaves a handover for itself
//! and executes its own program in the keeper's role; the units go on, and the next manager adopts them.
//!
//! The same when the program that a keeper was upgraded to died at once: the manager is the old program's.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::stored::Copies;
use crate::door::HttpPlace;
use crate::ids::LaunchId;
use crate::keeper::handover::{self, DoorLeft, Ends, Handover, Kind, StoredLeft};
use crate::keeper::sys;
use crate::keeper::wire::fd;

/// What a manager still holds of a launch.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    /// Which.
    pub id: LaunchId,
    /// Its notify socket.
    pub notify: Option<BorrowedFd<'a>>,
    /// The read end of its readiness pipe.
    pub ready: Option<BorrowedFd<'a>>,
}

/// What the manager knows that the keeper did not write down for it.
#[derive(Debug)]
pub struct Knows<'a> {
    /// Its link to the logger, unless that one is gone too.
    pub logger: Option<BorrowedFd<'a>>,
    /// The logger: pid and start time.
    pub logger_process: Option<(i32, u64)>,
    /// The control socket's listener, which may have been made anew.
    pub control: BorrowedFd<'a>,
    /// The listener for HTTP, and where it is.
    pub http: Option<(BorrowedFd<'a>, &'a HttpPlace)>,
    /// The two halves of the state.
    pub state: [BorrowedFd<'a>; 2],
    /// The locks of the state and the run-time folder.
    pub locks: [BorrowedFd<'a>; 2],
    /// The launches that live.
    pub launches: Vec<Held<'a>>,
    /// What units have kept.
    pub stored: &'a Copies,
    /// The last `order` of a `ToKeeper::Signal` that it said.
    pub last_order: u64,
    /// The highest `number` of a `FromKeeper::Signal` that it heard.
    pub last_signal: u64,
    /// Those that it has not done, with the signals.
    pub untaken_signals: Vec<(u64, i32)>,
}

/// Becomes the keeper. The descriptors of [`fd`] are still open under their numbers (whoever owns them has not closed them).
/// Everything that the keeper said has been read. Returns only with why it cannot be.
pub fn take_over(knows: &Knows<'_>) -> String {
    match execute(knows) {
        Ok(never) => match never {},
        Err(why) => format!("cannot take the keeper's place: {why}"),
    }
}

fn execute(knows: &Knows<'_>) -> Result<std::convert::Infallible, String> {
    let picture = picture(knows)?;
    // Signals to the daemon wait from here on until the new keeper looks for them; this process would be ended by them
    // as soon as it is executed.
    let daemon: SigSet = [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ]
    .into_iter()
    .collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&daemon), None).map_err(|e| format!("sigprocmask(2): {e}"))?;
    let memory = picture.seal()?;
    sys::close_all_at_exec().map_err(|e| format!("close_range(2): {e}"))?;
    for number in picture.descriptors.iter().chain([&memory.as_raw_fd()]) {
        handover::set_inherited(*number, true)?;
    }
    let program = File::open("/proc/self/exe").map_err(|e| format!("cannot open its own program: {e}"))?;
    // `ringriftd manager …` was `ringriftd …`.
    let args = std::env::args_os().skip(2);
    let argv = std::iter::once(OsString::from("ringriftd"))
        .chain(args)
        .map(|arg| CString::new(arg.as_bytes()).map_err(|e| e.to_string()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        env.push([name.as_bytes(), b"=", value.as_bytes()].concat());
    }
    env.push(format!("{}={}", handover::VARIABLE, memory.as_raw_fd()).into_bytes());
    let env = env
        .into_iter()
        .map(|entry| CString::new(entry).map_err(|e| e.to_string()))
        .collect::<Result<Vec<_>, _>>()?;
    Err(format!(
        "its own program cannot be executed: {}",
        sys::exec(program.as_fd(), &argv, &env)
    ))
}

fn number(fd: BorrowedFd<'_>) -> i32 {
    fd.as_raw_fd()
}

fn picture(knows: &Knows<'_>) -> Result<Handover, String> {
    #[allow(unsafe_code)]
    // SAFETY: the keeper gave it to this role under this number, and nobody closes it; borrowed for one call.
    let left = unsafe { BorrowedFd::borrow_raw(fd::HANDOVER) };
    let left = left
        .try_clone_to_owned()
        .map_err(|e| format!("the keeper left nothing to go on from: {e}"))?;
    let mut picture = handover::open(left)?;
    picture.kind = Kind::TakeOver;
    picture.pid = std::process::id().cast_signed();
    picture.last_order = knows.last_order;
    picture.last_signal = knows.last_signal;
    picture.untaken_signals.clone_from(&knows.untaken_signals);
    picture.control = number(knows.control);
    picture.descriptors.push(picture.control);
    picture.http = knows.http.map(|(listener, place)| DoorLeft {
        place: place.clone(),
        listener: number(listener),
    });
    picture
        .descriptors
        .extend(picture.http.as_ref().map(|door| door.listener));
    picture.state = knows.state.map(number);
    picture.locks = knows.locks.map(number);
    picture.logger.process = knows.logger_process;
    picture.peer = knows.logger.map(number);
    picture.ends = knows
        .launches
        .iter()
        .map(|held| Ends {
            id: held.id,
            notify: held.notify.map(number),
            ready: held.ready.map(number),
        })
        .collect();
    picture.stored = knows
        .stored
        .values()
        .map(|copy| StoredLeft {
            tag: copy.tag.clone(),
            name: copy.name.clone(),
            is_polled: copy.is_polled,
            fd: copy.fd.as_raw_fd(),
        })
        .collect();
    picture
        .descriptors
        .extend(picture.stored.iter().map(|stored| stored.fd));
    let more = picture.ends.iter().flat_map(|ends| [ends.notify, ends.ready]);
    let more: Vec<i32> = more.chain([picture.peer]).flatten().collect();
    picture.descriptors.extend(more);
    Ok(picture)
}

/// Whether a manager may take the place of a keeper: a service manager starts another itself, and the machine's first
/// process has no successor.
pub fn may_take_over(is_wrapped: bool, keeper_pid: u32) -> bool {
    !is_wrapped && keeper_pid != 1
}
