//! The reader of a readiness pipe (kind fd, as s6 does it): a newline is readiness. The pipe needs no
//! authentication: who can write to it was given it.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;

use crate::host::receive::watch;

/// What a readiness pipe said. It says one thing only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PipeSaid {
    /// A newline came: ready.
    Ready,
    /// Every holder closed it and no newline came: readiness can no longer be told. The unit's timeout decides.
    Closed,
}

/// Reads `pipe` until it has said something. Must be called inside a tokio runtime; dropping the future closes the
/// pipe. What comes after the newline is not read: the unit that writes on gets SIGPIPE or EPIPE, as under s6.
pub async fn read_ready(pipe: OwnedFd) -> io::Result<PipeSaid> {
    let pipe = watch(pipe, Interest::READABLE)?;
    let mut buffer = [0_u8; 256];
    loop {
        let mut guard = pipe.readable().await?;
        match guard.try_io(|pipe| nix::unistd::read(pipe.get_ref(), &mut buffer).map_err(Into::into)) {
            Ok(Ok(0)) => return Ok(PipeSaid::Closed),
            Ok(Ok(n)) if buffer[..n].contains(&b'\n') => return Ok(PipeSaid::Ready),
            // Something else than a newline: s6 ignores it too. One read a turn, so that a unit that writes rubbish
            // for ever costs its share and no more.
            Ok(Ok(_)) => tokio::task::yield_now().await,
            Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(e)) => return Err(e),
            Err(_) => {}
        }
    }
}
