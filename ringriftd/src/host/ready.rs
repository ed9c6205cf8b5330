//! The reader of a readiness pipe (kind fd, as s6 does it): a newline is readiness. The pipe needs no
//! authentication: who can write to it was given it.
//!
//! The newline stays in the pipe. What is there is looked at through a copy (tee(2)), and only bytes that say nothing
//! are taken out; so a manager that dies after the newline came and before its state says so loses nothing: the next one
//! finds it again.

use std::io::{self, Read};
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::host::receive::{tee, watch};
use crate::limits::READY_LOOK;

/// What a readiness pipe said. It says one thing only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeSaid {
    /// A newline came: ready.
    Ready,
    /// Every holder closed it and no newline came: readiness can no longer be told. The unit's timeout decides.
    Closed,
}

/// Looks into `pipe` until it has said something. Must be called inside a tokio runtime; dropping the future closes this
/// end of the pipe. The newline and what comes after it are left in the pipe.
pub async fn read_ready(pipe: OwnedFd) -> io::Result<PipeSaid> {
    let pipe = watch(pipe, Interest::READABLE)?;
    let mut scratch = std::io::pipe()?;
    loop {
        match look(&pipe, &mut scratch).await {
            Ok(Some(said)) => return Ok(said),
            // Something else than a newline: s6 ignores it too. One look a turn, so that a unit that writes rubbish
            // for ever costs its share and no more.
            Ok(None) => tokio::task::yield_now().await,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Waits until there is something, and looks at it once. Without a newline in it, it is taken out of the pipe.
async fn look(
    pipe: &AsyncFd<OwnedFd>,
    (scratch, into): &mut (std::io::PipeReader, std::io::PipeWriter),
) -> io::Result<Option<PipeSaid>> {
    let mut buffer = [0_u8; READY_LOOK];
    loop {
        let mut guard = pipe.readable().await?;
        let seen = match guard.try_io(|pipe| tee(pipe.get_ref(), into, READY_LOOK)) {
            Ok(seen) => seen?,
            Err(_would_block) => continue,
        };
        if seen == 0 {
            return Ok(Some(PipeSaid::Closed));
        }
        // A pipe that nobody else knows holds exactly what was just put into it.
        let seen = buffer.get_mut(..seen).ok_or(io::ErrorKind::InvalidData)?;
        scratch.read_exact(seen)?;
        if seen.contains(&b'\n') {
            return Ok(Some(PipeSaid::Ready));
        }
        // The same bytes as those seen: this is the only reader.
        nix::unistd::read(pipe.get_ref(), seen)?;
        return Ok(None);
    }
}
