//! The manager's end of a SOCK_SEQPACKET pair: to the keeper, and to the logger. One `proto::codec` value a message,
//! descriptors attached.
//!
//! How to use it: await [`Link::recv`] in a branch of `select!` (it is cancel-safe), and call [`Link::send`]
//! wherever something is to be said. `send` never waits: what the kernel does not take is queued, in order, and
//! written by whoever awaits `recv` next, so no branch of its own is needed. Before an orderly end, await
//! [`Link::flush`].
//!
//! It does not reconnect: when the other end has gone, so is what this role lives for.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::host::receive::{receive, watch};
use crate::limits::{LINK_BUFFER, LINK_QUEUE_BYTES, LINK_QUEUE_FDS, WIRE_FDS_MAX, WIRE_MESSAGE_MAX};

/// One end of a pair of sockets.
#[derive(Debug)]
pub struct Link {
    socket: AsyncFd<OwnedFd>,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    queued_fds: usize,
    buffer: Box<[u8]>,
}

#[derive(Debug)]
struct Queued {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Link {
    /// Takes over `fd`, a connected SOCK_SEQPACKET socket, and makes it non-blocking. Must be called inside a
    /// tokio runtime. Fails when the runtime cannot watch it.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // The default of 208 KiB holds one large message; more is asked for so that a burst needs no queue. Both are
        // best effort: the first needs CAP_NET_ADMIN, the second is cut to wmem_max.
        if setsockopt(&fd, sockopt::SndBufForce, &LINK_BUFFER).is_err() {
            let _ = setsockopt(&fd, sockopt::SndBuf, &LINK_BUFFER);
        }
        Ok(Self {
            socket: watch(fd, Interest::READABLE | Interest::WRITABLE)?,
            queue: VecDeque::new(),
            queued_bytes: 0,
            queued_fds: 0,
            buffer: vec![0; WIRE_MESSAGE_MAX].into_boxed_slice(),
        })
    }

    /// The socket itself, for whoever comes after this process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }

    /// The next message with its descriptors; `None` when the other end has closed. Meanwhile writes what
    /// [`Link::send`] queued. Cancel-safe: a message is either returned or still in the socket.
    ///
    /// An error of kind `InvalidData` is a message that cannot be understood (too long, cut, not decodable): it is
    /// taken from the socket, its descriptors are closed, and the link goes on. Any other error is the link's end.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            let interest = if self.queue.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let mut guard = self.socket.ready(interest).await?;
            let ready = guard.ready();
            if ready.is_readable() || ready.is_read_closed() {
                match receive(self.socket.get_ref().as_fd(), &mut self.buffer) {
                    Ok(received) if received.len == 0 && received.fds.is_empty() => return Ok(None),
                    Ok(received) => {
                        let bytes = &self.buffer[..received.len];
                        if received.is_cut || received.is_control_cut {
                            return Err(invalid("the message or its descriptors were cut off"));
                        }
                        if received.fds.len() > WIRE_FDS_MAX {
                            return Err(invalid("the message has too many descriptors"));
                        }
                        let value = proto::codec::decode(bytes).map_err(invalid)?;
                        return Ok(Some((value, received.fds)));
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        guard.clear_ready_matching(tokio::io::Ready::READABLE);
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    // The peer closed with messages of ours unread: to us that is its end.
                    Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                    Err(e) => return Err(e),
                }
            }
            if ready.is_writable() && !self.queue.is_empty() {
                match write_queue(
                    self.socket.get_ref().as_raw_fd(),
                    &mut self.queue,
                    &mut self.queued_bytes,
                    &mut self.queued_fds,
                ) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        guard.clear_ready_matching(tokio::io::Ready::WRITABLE);
                    }
                    // What it said before it went is still to be read, and then its end.
                    Err(e) if is_gone(&e) => self.forget_queue(),
                    Err(e) => return Err(e),
                }
            }
        }
    }

    /// Says `value`, with `fds` attached, after everything said before. Never waits.
    ///
    /// Fails when the message is larger than `WIRE_MESSAGE_MAX` or has more than `WIRE_FDS_MAX` descriptors (kind
    /// `InvalidInput`: nothing was sent, the link goes on), when the queue is full (`StorageFull`: the other end has
    /// not read for long; treat it as hung), or when the other end has gone (`BrokenPipe`; `recv` says so too).
    pub fn send<T: Serialize>(&mut self, value: &T, fds: Vec<OwnedFd>) -> io::Result<()> {
        let bytes =
            proto::codec::encode(value).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        if bytes.len() > WIRE_MESSAGE_MAX || fds.len() > WIRE_FDS_MAX {
            let text = format!(
                "the message has {} bytes and {} descriptors, more than the {WIRE_MESSAGE_MAX} and {WIRE_FDS_MAX} allowed",
                bytes.len(),
                fds.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if self.queued_bytes + bytes.len() > LINK_QUEUE_BYTES || self.queued_fds + fds.len() > LINK_QUEUE_FDS
        {
            let text = format!("{} messages wait unread", self.queue.len());
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        self.queued_bytes += bytes.len();
        self.queued_fds += fds.len();
        self.queue.push_back(Queued { bytes, fds });
        // Tried at once, whatever tokio believes of the socket: the usual message never sees the queue.
        match write_queue(
            self.socket.get_ref().as_raw_fd(),
            &mut self.queue,
            &mut self.queued_bytes,
            &mut self.queued_fds,
        ) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) if is_gone(&e) => {
                self.forget_queue();
                Err(io::Error::new(io::ErrorKind::BrokenPipe, e))
            }
            Err(e) => Err(e),
        }
    }

    /// Waits until everything said is in the kernel's hands. Cancel-safe.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let mut guard = self.socket.ready(Interest::WRITABLE).await?;
            match write_queue(
                self.socket.get_ref().as_raw_fd(),
                &mut self.queue,
                &mut self.queued_bytes,
                &mut self.queued_fds,
            ) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready_matching(tokio::io::Ready::WRITABLE);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// How many messages wait for the other end.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    fn forget_queue(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
        self.queued_fds = 0;
    }
}

fn write_queue(
    socket: RawFd,
    queue: &mut VecDeque<Queued>,
    queued_bytes: &mut usize,
    queued_fds: &mut usize,
) -> io::Result<()> {
    while let Some(message) = queue.front() {
        let raw: Vec<RawFd> = message.fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(socket, &[IoSlice::new(&message.bytes)], control, flags, None) {
            Ok(_) => {
                *queued_bytes -= message.bytes.len();
                *queued_fds -= message.fds.len();
                queue.pop_front();
            }
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn is_gone(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

fn invalid(cause: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("cannot understand a message: {cause}"),
    )
}
