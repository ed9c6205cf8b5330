//! Sockets and waiting, below the conversation: to connect without blocking, and to wait with an end.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::stop::{self, Stop};

/// How long to wait before a full backlog, or whatever else tells nothing by itself, is looked at again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(20);

/// The time left until then, for poll(2).
pub fn remaining(until: Instant) -> PollTimeout {
    let left = until.saturating_duration_since(Instant::now());
    // Rounded up: a poll of 0 ms just before the end would spin.
    let ms = left.as_micros().div_ceil(1000).min(60_000);
    PollTimeout::try_from(ms as u32).unwrap_or(PollTimeout::ZERO)
}

/// Waits until `fd` is ready for `flags`; false when the time came first.
pub fn ready(fd: &impl AsFd, flags: PollFlags, until: Instant) -> Result<bool, Stop> {
    loop {
        let mut fds = [PollFd::new(fd.as_fd(), flags)];
        match nix::poll::poll(&mut fds, remaining(until)) {
            Ok(0) if Instant::now() >= until => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => {
                return Err(Stop::new(
                    stop::FAILED,
                    format!("cannot wait for the daemon: {}", e.desc()),
                ));
            }
        }
    }
}

/// Connects without ever blocking in `connect`, which a full backlog does for as long as it likes.
pub fn dial(path: &Path, until: Instant) -> Result<UnixStream, std::io::Error> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    loop {
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        match connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            Err(nix::errno::Errno::EAGAIN) if Instant::now() < until => {
                nix::poll::poll(
                    &mut [],
                    PollTimeout::try_from(BACKLOG_PAUSE).unwrap_or(PollTimeout::ZERO),
                )?;
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Waits a moment, or until one of these signals comes.
pub fn pause(signals: Option<&SignalFd>) {
    let mut fds: Vec<PollFd<'_>> = signals
        .iter()
        .map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN))
        .collect();
    let pause = PollTimeout::try_from(BACKLOG_PAUSE).unwrap_or(PollTimeout::ZERO);
    let _ = nix::poll::poll(&mut fds, pause);
}

/// Looks again and again until it holds; false when `within` was not enough. For what no descriptor tells.
pub fn wait_until(within: Duration, holds: impl Fn() -> bool) -> bool {
    let until = Instant::now() + within;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        pause(None);
    }
}

/// The words of an error, without "(os error 2)".
pub fn said(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}
