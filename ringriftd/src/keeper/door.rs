//! The listener for HTTP. The manager says where (it reads the files), the keeper makes it and holds it, so that a
//! client's connection waits in its queue while a manager is replaced, and is never refused.
//!
//! What cannot be bound is tried again, with a back-off: a port that is in use now is free once its user ends.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, UnixAddr,
    sockopt,
};

use super::sockets;
use super::state::{Keeper, say};
use super::types::SharedFd;
use super::wire::FromKeeper;
use crate::door::HttpPlace;
use crate::limits;

/// Where HTTP is served, and what came of it.
#[derive(Debug)]
pub struct Door {
    /// Where; `Off` until a manager says otherwise.
    pub place: HttpPlace,
    /// The listener.
    pub listener: Option<SharedFd>,
    /// When it is tried again.
    pub again: Option<Instant>,
    /// The next back-off's exponent.
    pub step: u32,
    /// Why there is none.
    pub errno: i32,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            place: HttpPlace::Off,
            listener: None,
            again: None,
            step: 0,
            errno: 0,
        }
    }
}

impl Keeper {
    /// The manager wants HTTP served at `place`.
    pub fn on_http(&mut self, place: HttpPlace) {
        if self.phase.is_ending() {
            return;
        }
        if self.door.place != place {
            self.close_door();
            self.door.place = place;
        }
        match (&self.door.place, &self.door.listener) {
            (HttpPlace::Off, _) => {}
            (place, Some(listener)) => {
                let (place, listener) = (place.clone(), listener.clone());
                self.tell_manager(&FromKeeper::HttpListener { place }, vec![listener]);
            }
            // Tried at once: whoever asks may have mended it.
            (_, None) => self.open_door(),
        }
    }

    /// It is time to try again.
    pub fn on_door_time(&mut self, now: Instant) {
        if self.door.again.is_some_and(|at| at <= now) {
            self.open_door();
        }
    }

    fn open_door(&mut self) {
        self.door.again = None;
        let place = self.door.place.clone();
        let made = match &place {
            HttpPlace::Off => return,
            HttpPlace::Tcp(address) => tcp(*address),
            HttpPlace::Unix(path) => unix(path),
        };
        match made {
            Ok(listener) => {
                if self.door.errno != 0 {
                    say(&format!("HTTP is served on {place} now"));
                }
                let listener = SharedFd::from(listener);
                self.door = Door {
                    place: place.clone(),
                    listener: Some(listener.clone()),
                    ..Door::default()
                };
                self.tell_manager(&FromKeeper::HttpListener { place }, vec![listener]);
            }
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(libc::EIO);
                let factor = 1u32.checked_shl(self.door.step.min(16)).unwrap_or(1);
                let delay = (limits::HTTP_RETRY_DELAY * factor).min(limits::HTTP_RETRY_MAX_DELAY);
                self.door.step = self.door.step.saturating_add(1);
                self.door.again = Some(Instant::now() + delay);
                if self.door.errno != errno {
                    say(&format!(
                        "cannot serve HTTP on {place}: {}; tried again, and everything else goes on",
                        Errno::from_raw(errno).desc()
                    ));
                }
                self.door.errno = errno;
                self.tell_manager(&FromKeeper::HttpFailed { place, errno }, Vec::new());
            }
        }
    }

    /// Nobody is served any more.
    pub fn close_door(&mut self) {
        if let (HttpPlace::Unix(path), Some(_)) = (&self.door.place, &self.door.listener) {
            let _ = std::fs::remove_file(path);
        }
        self.door = Door::default();
    }
}

fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    // Connections of a listener before this one may still be on their way out.
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    match address {
        SocketAddr::V4(v4) => socket::bind(socket.as_raw_fd(), &SockaddrIn::from(v4))?,
        SocketAddr::V6(v6) => {
            socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            socket::bind(socket.as_raw_fd(), &SockaddrIn6::from(v6))?;
        }
    }
    socket::listen(&socket, Backlog::new(limits::HTTP_BACKLOG)?)?;
    Ok(socket)
}

/// A name that nobody listens behind any more is taken over, and no other.
fn unix(path: &Path) -> io::Result<OwnedFd> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket {
        check_abandoned(path)?;
    }
    sockets::control(path)
}

/// Whoever listens there need not accept: connect(2) would wait for that in a full queue, and the keeper must not wait.
fn check_abandoned(path: &Path) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(()),
        Ok(()) | Err(Errno::EAGAIN) => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
        // A socket of another kind, perhaps, which refuses nobody: it is somebody's.
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn only_a_name_that_nobody_listens_behind_is_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).expect("a socket"));
        unix(&path).expect("its listener is gone");

        // Somebody listens and accepts nobody: its queue is full, and a connect(2) that waits would wait for ever.
        let path = folder.path().join("full");
        let listener = UnixListener::bind(&path).expect("a socket");
        socket::listen(&listener, Backlog::new(0).expect("none waits")).expect("it listens");
        let mut waiting = Vec::new();
        loop {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let client =
                socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket");
            match socket::connect(client.as_raw_fd(), &UnixAddr::new(&path).expect("a short path")) {
                Ok(()) => waiting.push(client),
                Err(e) => break assert_eq!(e, Errno::EAGAIN),
            }
        }
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn({
            let path = path.clone();
            move || tell.send(unix(&path).map(drop).map_err(|e| e.raw_os_error()))
        });
        let answer = told.recv_timeout(std::time::Duration::from_secs(30));
        assert_eq!(answer.expect("it does not wait"), Err(Some(libc::EADDRINUSE)));

        let path = folder.path().join("datagrams");
        let _other = UnixDatagram::bind(&path).expect("a socket");
        assert_eq!(
            unix(&path).expect_err("it is somebody's").raw_os_error(),
            Some(libc::EPROTOTYPE)
        );
        assert!(path.exists());
    }
}
