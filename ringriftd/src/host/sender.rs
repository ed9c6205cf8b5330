//! Whether whoever sent a datagram may speak for the unit: by the kernel's word for the sender, and by what proves that a
//! process is the unit's.
//!
//! Read first: [`Expected`] and [`believe`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::host::receive::Received;
use crate::host::usage::stat_fields;
use crate::ids::Invocation;
use crate::limits::PREPARE_TIMEOUT;
use crate::spec::NotifyAccess;

/// Whose datagrams a socket takes.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The life.
    pub invocation: Invocation,
    /// Its `RINGRIFT_INVOCATION_ID`.
    pub invocation_text: String,
    /// Who of the unit may speak.
    pub access: NotifyAccess,
    /// The main process.
    pub main_pid: u32,
    /// Its start time, as `Launched` says it.
    pub main_start: u64,
    /// The name of the launch's leaf cgroup, where there are cgroups.
    pub leaf: Option<String>,
    /// The kernel's number of that cgroup: by it a sender is known that has ended.
    pub leaf_id: Option<u64>,
    /// It may have descriptors kept (`[exec] fd_store_max`); else all that it sends are closed.
    pub is_storing: bool,
}

/// The sender may speak for the unit, or why not.
pub(super) async fn believe(expected: &Arc<Expected>, received: Received) -> Result<(), String> {
    let Some(sender) = received.sender else {
        return Err("the kernel did not say who sent it".to_owned());
    };
    let pid = match u32::try_from(sender.pid) {
        Ok(pid) if pid > 0 => pid,
        _ => return Err("its sender is in another pid namespace".to_owned()),
    };
    if pid == expected.main_pid {
        return is_main(expected, received.pidfd.as_ref().map(AsFd::as_fd));
    }
    match expected.access {
        NotifyAccess::Main => Err(format!(
            "process {pid} (user {}) is not the main process {}; notify_access = \"all\" would let the unit's others speak",
            sender.uid, expected.main_pid
        )),
        NotifyAccess::All => {
            // Reading another process's environment waits for its memory's lock, which a process that hangs on a
            // disk may hold: so not on the loop.
            let expected = Arc::clone(expected);
            let work =
                tokio::task::spawn_blocking(move || is_member(&expected, pid, received.pidfd.as_ref()));
            match tokio::time::timeout(PREPARE_TIMEOUT, work).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) | Err(_) => Err(format!("process {pid} could not be examined in time")),
            }
        }
    }
}

/// The pid is the main process's; is it still the same process? The keeper reaps it, and then the number is free.
fn is_main(expected: &Expected, pidfd: Option<BorrowedFd<'_>>) -> Result<(), String> {
    let pid = expected.main_pid;
    match start_time(pid) {
        Some(start) if start == expected.main_start => Ok(()),
        // Gone between sending and now: what it said, it said while it lived. With a pidfd that is certain; the
        // number cannot have been another's in so short a time either way.
        None => Ok(()),
        Some(_) if pidfd.is_some_and(has_ended) => Ok(()),
        Some(_) => Err(format!(
            "process {pid} has the main process's number but is another"
        )),
    }
}

fn is_member(expected: &Expected, pid: u32, pidfd: Option<&OwnedFd>) -> Result<(), String> {
    let found = is_in_leaf(expected, pid) || is_descendant(expected, pid) || has_invocation(expected, pid);
    // Only if the sender still lives was it the sender that we looked at. Of one that has ended, the kernel says through
    // its pidfd where it was (Linux 6.16).
    let is_same = !pidfd.is_some_and(|fd| has_ended(fd.as_fd()));
    let was_in = pidfd.and_then(|fd| crate::keeper::sys::pidfd_cgroup(fd.as_fd()));
    if was_in.is_some() && was_in == expected.leaf_id {
        return Ok(());
    }
    match (found, is_same) {
        (true, true) => Ok(()),
        (_, false) => Err(format!("process {pid} ended before it could be examined")),
        (false, true) if start_time(pid).is_none() => {
            Err(format!("process {pid} ended before it could be examined"))
        }
        (false, true) => Err(format!("process {pid} does not belong to the unit")),
    }
}

fn is_in_leaf(expected: &Expected, pid: u32) -> bool {
    let Some(leaf) = &expected.leaf else {
        return false;
    };
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
        return false;
    };
    // `0::/path` is cgroup v2; the leaf may have children of the unit's own.
    text.lines()
        .filter_map(|line| line.strip_prefix("0::"))
        .any(|path| path.split('/').any(|folder| folder == leaf))
}

/// How far up an ancestor is looked for.
const ANCESTORS_MAX: usize = 64;

fn is_descendant(expected: &Expected, pid: u32) -> bool {
    let mut at = pid;
    for _ in 0..ANCESTORS_MAX {
        if at == expected.main_pid {
            return start_time(at) == Some(expected.main_start);
        }
        let parent = stat_fields(at)
            .and_then(|fields| fields.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0);
        if parent <= 1 {
            return false;
        }
        at = parent;
    }
    false
}

fn has_invocation(expected: &Expected, pid: u32) -> bool {
    let wanted = format!("RINGRIFT_INVOCATION_ID={}", expected.invocation_text);
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|&b| b == 0).any(|v| v == wanted.as_bytes()))
}

/// Field 22 of proc_pid_stat(5); `None` for a process that is gone. A zombie still has one.
fn start_time(pid: u32) -> Option<u64> {
    stat_fields(pid)?.split_whitespace().nth(19)?.parse().ok()
}

/// A pidfd becomes readable when its process has ended (pidfd_open(2)).
fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}
