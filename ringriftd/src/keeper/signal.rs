//! The one place that signals processes. A pid is no proof (another process may have it by now): [`send`] takes pid
//! and start time, holds the process by a pidfd, and compares once more before it sends (security S12). Only a child that
//! nobody has reaped is known by its pid.

use std::io;
use std::os::fd::AsFd;

use super::types::Proc;
use super::{proc, sys};

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It was sent to this very process.
    Yes,
    /// The process is gone; nobody was signalled.
    Gone,
}

/// Sends `signal` (1 to 64) to `target`, or to nobody. Fails for want of descriptors or rights.
pub fn send(target: Proc, signal: i32) -> io::Result<Sent> {
    let held = match sys::pidfd_open(target.pid()) {
        Ok(held) => held,
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(Sent::Gone),
        Err(e) => return Err(e),
    };
    // The pidfd pins whoever has the number now. If that is the process that was meant, it stays so.
    match proc::stat(target.pid()) {
        Ok(now) if now.process == target => {}
        _ => return Ok(Sent::Gone),
    }
    match sys::pidfd_send_signal(held.as_fd(), signal) {
        Ok(()) => Ok(Sent::Yes),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(Sent::Gone),
        Err(e) => Err(e),
    }
}

/// SIGKILL to a child of this very process that it has not reaped: until then nobody else can have its number, and it needs
/// no descriptor, of which there may be none left.
pub fn end_unreaped(child: i32) {
    // It may have ended by itself.
    let _ = sys::kill_child(child, libc::SIGKILL);
}

/// Sends to each of `targets`, of which `own` is a child that has not been reaped; after TERM and ABRT comes CONT, because a
/// stopped process would not hear them. Answers with the first failure, after it has tried all.
pub fn send_all(targets: &[Proc], own: Option<Proc>, signal: i32) -> io::Result<()> {
    let mut verdict = Ok(());
    let mut round = |signal| {
        for target in targets {
            let sent = if own == Some(*target) {
                sys::kill_child(target.pid(), signal)
            } else {
                send(*target, signal).map(|_| ())
            };
            if let Err(e) = sent
                && verdict.is_ok()
            {
                verdict = Err(e);
            }
        }
    };
    round(signal);
    if matches!(signal, libc::SIGTERM | libc::SIGABRT) {
        round(libc::SIGCONT);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_process_of_another_start_time_is_never_signalled() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let true_start = proc::stat(pid).unwrap().process.start();
        for wrong in [true_start - 1, true_start + 1, 0] {
            let impostor = Proc::new(pid, wrong).unwrap();
            assert_eq!(send(impostor, libc::SIGKILL).unwrap(), Sent::Gone);
        }
        // It lives: it ends by itself, with 0, when its input ends.
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        let gone = Proc::new(pid, true_start).unwrap();
        assert_eq!(send(gone, libc::SIGKILL).unwrap(), Sent::Gone);
    }

    #[test]
    fn the_right_process_is_signalled() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let proof = proc::stat(child.id().cast_signed()).unwrap().process;
        assert_eq!(send(proof, libc::SIGKILL).unwrap(), Sent::Yes);
        assert!(!child.wait().unwrap().success());
    }
}
