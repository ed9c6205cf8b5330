//! The logger's ends of its links: one encoded value a datagram, with the descriptor that belongs to it. No meaning.
//!
//! Read first: [`receive`] and [`send`].

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde::{Serialize, de::DeserializeOwned};

use crate::limits::{WIRE_FDS_MAX, WIRE_MESSAGE_MAX};

/// What a link brought.
#[derive(Debug)]
pub enum Received<T> {
    /// A message with its descriptors.
    Message(T, Vec<OwnedFd>),
    /// Nothing for now.
    Nothing,
    /// A datagram that is no message: another version, or a bug. In words.
    Garbage(String),
    /// The other side is gone.
    End,
}

/// Takes one message, without waiting. Descriptors are owned at once, so that a message that is refused closes them.
pub fn receive<T: DeserializeOwned>(link: &impl AsFd, buffer: &mut Vec<u8>) -> io::Result<Received<T>> {
    buffer.resize(WIRE_MESSAGE_MAX, 0);
    let mut space = cmsg_space!([std::os::fd::RawFd; WIRE_FDS_MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = match recvmsg::<()>(link.as_fd().as_raw_fd(), &mut parts, Some(&mut space), flags) {
        Ok(message) => message,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Received::Nothing),
        Err(Errno::ECONNRESET | Errno::ENOTCONN) => return Ok(Received::End),
        Err(e) => return Err(e.into()),
    };
    let mut fds = Vec::new();
    let is_cut = message
        .flags
        .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    if let Ok(controls) = message.cmsgs() {
        for control in controls {
            if let ControlMessageOwned::ScmRights(raw) = control {
                for fd in raw {
                    // SAFETY: the kernel has just made this descriptor for us in recvmsg(2); nobody else knows it.
                    #[allow(unsafe_code)]
                    fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
    }
    let bytes = message.bytes;
    if is_cut {
        return Ok(Received::Garbage(format!(
            "a message of more than {WIRE_MESSAGE_MAX} bytes"
        )));
    }
    if bytes == 0 {
        return Ok(Received::End);
    }
    match proto::codec::decode(&buffer[..bytes]) {
        Ok(value) => Ok(Received::Message(value, fds)),
        Err(e) => Ok(Received::Garbage(e.to_string())),
    }
}

/// Sends one message, without waiting: fails with `WouldBlock` when the other side does not read.
pub fn send<T: Serialize>(link: &impl AsFd, message: &T) -> io::Result<()> {
    let bytes = proto::codec::encode(message).map_err(io::Error::other)?;
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    nix::sys::socket::send(link.as_fd().as_raw_fd(), &bytes, flags)?;
    Ok(())
}
