//! One end of a link between the roles: a SOCK_SEQPACKET socket, one encoded value a datagram. Never blocks: what the
//! other side does not take waits here, and the loop stops reading requests while that is too much
//! ([`limits::KEEPER_OUTBOX`]).

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
};
use serde::{Serialize, de::DeserializeOwned};

use super::types::SharedFd;
use crate::limits;

/// A new pair of ends, neither inherited by anybody.
pub fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    socket::socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

struct Waiting {
    bytes: Vec<u8>,
    fds: Vec<SharedFd>,
}

/// The keeper's end of a link.
pub struct Link {
    fd: OwnedFd,
    waiting: VecDeque<Waiting>,
    buffer: Vec<u8>,
    is_choked: bool,
}

/// What was read.
#[derive(Debug)]
pub enum Received<T> {
    /// A value, and the descriptors that came with it.
    Message(T, Vec<OwnedFd>),
    /// Nothing for now.
    Nothing,
    /// The other side is gone.
    Closed,
    /// The other side wrote what is no value: it is broken.
    Broken(String),
}

impl Link {
    /// Over an end of a [`pair`].
    pub fn new(fd: OwnedFd) -> nix::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let buffer = vec![0; limits::WIRE_MESSAGE_MAX];
        Ok(Self {
            fd,
            waiting: VecDeque::new(),
            buffer,
            is_choked: false,
        })
    }

    /// For poll(2).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Something waits to be written.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The kernel takes no more descriptors in flight: poll(2) would not tell when it does, so a timer must.
    pub fn is_choked(&self) -> bool {
        self.is_choked
    }

    /// So much waits that nothing should be read that makes more.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= limits::KEEPER_OUTBOX
    }

    /// Writes `value` with `fds`, now or later. False when it cannot be encoded, which is a bug of ours.
    pub fn send<T: Serialize>(&mut self, value: &T, fds: Vec<SharedFd>) -> bool {
        let Ok(bytes) = proto::codec::encode(value) else {
            return false;
        };
        if bytes.len() > limits::WIRE_MESSAGE_MAX || fds.len() > limits::WIRE_FDS_MAX {
            return false;
        }
        self.waiting.push_back(Waiting { bytes, fds });
        self.flush();
        true
    }

    /// Writes what waits, as far as the other side takes it. To a side that is gone nothing is written: that is
    /// seen by [`Link::receive`].
    pub fn flush(&mut self) {
        self.is_choked = false;
        while let Some(next) = self.waiting.front() {
            let raw: Vec<RawFd> = next.fds.iter().map(|fd| fd.as_raw_fd()).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let data = [IoSlice::new(&next.bytes)];
            match socket::sendmsg::<()>(self.fd.as_raw_fd(), &data, control, flags, None) {
                Ok(_) => {
                    self.waiting.pop_front();
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(Errno::ETOOMANYREFS | Errno::ENOMEM | Errno::ENOBUFS) => {
                    self.is_choked = true;
                    return;
                }
                Err(_) => {
                    self.waiting.clear();
                    return;
                }
            }
        }
    }

    /// Reads one value. Descriptors that come with it are closed unless the caller keeps them.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Received<T> {
        loop {
            let mut space = nix::cmsg_space!([RawFd; limits::WIRE_FDS_MAX]);
            let mut data = [IoSliceMut::new(&mut self.buffer)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let mut received = Vec::new();
            let (bytes, is_cut) =
                match socket::recvmsg::<()>(self.fd.as_raw_fd(), &mut data, Some(&mut space), flags) {
                    Ok(message) => {
                        for control in message.cmsgs().into_iter().flatten() {
                            if let ControlMessageOwned::ScmRights(fds) = control {
                                received.extend(fds.into_iter().map(own));
                            }
                        }
                        (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC))
                    }
                    // The other side left without reading all: said once, before what it still had to say.
                    Err(Errno::EINTR | Errno::ECONNRESET) => continue,
                    Err(Errno::EAGAIN) => return Received::Nothing,
                    Err(_) => return Received::Closed,
                };
            if bytes == 0 {
                return Received::Closed;
            }
            if is_cut {
                return Received::Broken("a message is larger than the wire allows".to_owned());
            }
            let Some(read) = self.buffer.get(..bytes) else {
                return Received::Nothing;
            };
            return match proto::codec::decode(read) {
                Ok(value) => Received::Message(value, received),
                Err(e) => Received::Broken(e.to_string()),
            };
        }
    }
}

#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: recvmsg(2) has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
