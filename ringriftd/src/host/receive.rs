//! Descriptors and the kernel: one datagram with everything that the kernel attaches to it: recvmsg(2), cmsg(3), unix(7). By hand, because
//! nix loses the descriptors of a message whose control data was cut off, and does not know SCM_PIDFD.
//!
//! Read first: [`receive`], [`peek`] and [`watch`].
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// SCM_PIDFD (Linux 6.5, `include/linux/socket.h`), which libc does not name.
const SCM_PIDFD: libc::c_int = 4;
/// Room for what the kernel attaches at most: 253 descriptors (SCM_MAX_FD), credentials, a pidfd. In `u64`, for
/// the alignment that cmsg(3) wants.
const CONTROL_WORDS: usize = 160;

/// Who sent a datagram, as the kernel vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) pid: i32,
    pub(crate) uid: u32,
}

/// A datagram's company. Its bytes are in the caller's buffer.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) len: usize,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) sender: Option<Sender>,
    pub(crate) pidfd: Option<OwnedFd>,
    /// The datagram was longer than the buffer.
    pub(crate) is_cut: bool,
    /// Attached things were lost.
    pub(crate) is_control_cut: bool,
}

/// Takes one datagram from `socket` without waiting. All descriptors are close-on-exec and owned at once, so that
/// none leaks however strange the message is.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    read_message(socket, buffer, 0)
}

/// Looks at the next datagram and leaves it where it is (MSG_PEEK). The credentials and the pidfd are the sender's as in
/// [`receive`]; the descriptors are copies of those that stay in the socket.
pub(crate) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    read_message(socket, buffer, libc::MSG_PEEK)
}

/// Takes the next datagram off `socket` unread. The kernel closes what is attached: nobody gives it room for that.
pub(crate) fn discard(socket: BorrowedFd<'_>) -> io::Result<()> {
    nix::sys::socket::recv(
        socket.as_raw_fd(),
        &mut [],
        nix::sys::socket::MsgFlags::MSG_DONTWAIT,
    )?;
    Ok(())
}

fn read_message(socket: BorrowedFd<'_>, buffer: &mut [u8], more: libc::c_int) -> io::Result<Received> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: msghdr is plain data for which all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC | more;
    // SAFETY: `header` points at `iov` and `control`, which outlive the call and whose lengths it names.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let Ok(len) = usize::try_from(len) else {
        return Err(io::Error::last_os_error());
    };
    let mut received = Received {
        len,
        is_cut: header.msg_flags & libc::MSG_TRUNC != 0,
        is_control_cut: header.msg_flags & libc::MSG_CTRUNC != 0,
        ..Received::default()
    };
    // SAFETY: the kernel filled `control` and set `msg_controllen` to what it wrote.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: a pointer from CMSG_FIRSTHDR or CMSG_NXTHDR is null or points at a whole header inside `control`.
    while let Some(item) = unsafe { next.as_ref() } {
        // SAFETY: as above; the data of a header follows it inside `control`.
        let data = unsafe { libc::CMSG_DATA(next) };
        // SAFETY: CMSG_LEN only computes.
        let head = unsafe { libc::CMSG_LEN(0) } as usize;
        let bytes = item.cmsg_len.saturating_sub(head);
        match (item.cmsg_level, item.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for i in 0..bytes / size_of::<libc::c_int>() {
                    // SAFETY: `i` counts whole ints inside the data; the kernel put a new descriptor of ours into
                    // each, which nobody else owns.
                    let fd =
                        unsafe { OwnedFd::from_raw_fd(data.cast::<libc::c_int>().add(i).read_unaligned()) };
                    received.fds.push(fd);
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if bytes >= size_of::<libc::ucred>() => {
                // SAFETY: the data holds at least one ucred.
                let cred = unsafe { data.cast::<libc::ucred>().read_unaligned() };
                received.sender = Some(Sender {
                    pid: cred.pid,
                    uid: cred.uid,
                });
            }
            (libc::SOL_SOCKET, SCM_PIDFD) if bytes >= size_of::<libc::c_int>() => {
                // SAFETY: the data holds one int.
                let fd = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                if fd >= 0 {
                    // SAFETY: the kernel made this descriptor for us; nobody else owns it.
                    received.pidfd = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
            _ => {}
        }
        // SAFETY: `next` is the header just read.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, next) };
    }
    Ok(received)
}

/// Copies what stands first in the pipe `from` into the pipe `into`, at most `most` bytes, without taking it and without
/// waiting; 0 is the end. See tee(2).
pub(crate) fn tee(from: &impl AsFd, into: &impl AsFd, most: usize) -> io::Result<usize> {
    let (from, into) = (from.as_fd().as_raw_fd(), into.as_fd().as_raw_fd());
    // SAFETY: two descriptors and numbers; the call touches no memory of ours.
    let copied = unsafe { libc::tee(from, into, most, libc::SPLICE_F_NONBLOCK) };
    usize::try_from(copied).map_err(|_| io::Error::last_os_error())
}

/// Asks the kernel to attach the sender's credentials, and its pidfd where the kernel can (SO_PASSPIDFD, 6.5).
pub(crate) fn ask_for_senders(socket: BorrowedFd<'_>) -> io::Result<()> {
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::PassCred, &true)?;
    let on: libc::c_int = 1;
    // An older kernel says ENOPROTOOPT: then there is no pidfd, and the checks do without.
    // SAFETY: the option's value is one int, which `on` is.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PASSPIDFD,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        );
    }
    Ok(())
}

/// Makes `fd` non-blocking and lets the runtime watch it. Must be called inside a tokio runtime.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, which is what `register` asks;
    // nothing here takes it out of the `AsyncFd` to close it before.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
