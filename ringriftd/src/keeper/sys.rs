//! The system calls that nix does not have, or has with types that lose something (its `WaitStatus` knows no
//! real-time signals). Thin, and without policy.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use proto::reply::Exit;

use super::counted::ByWait;
use crate::limits;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// pidfd_open(2).
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers, touches no memory.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The same under a number from [`limits::LOW_FDS`] on, or as it was where there is none: what is held for long must not be
/// in the way of what children are given.
pub fn raise(fd: OwnedFd) -> OwnedFd {
    // SAFETY: takes integers; the descriptor is open for the call.
    let high = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, limits::LOW_FDS) };
    if high < 0 {
        return fd;
    }
    // SAFETY: the kernel has just made this descriptor for us, nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(high) }
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open for the call, a null siginfo is allowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            no_info,
            0,
        )
    })?;
    Ok(())
}

/// How the process of a pidfd ended, once its parent has reaped it (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).
/// `None` before, and on an older kernel.
pub fn pidfd_exit(process: BorrowedFd<'_>) -> Option<Exit> {
    let info = pidfd_info(process, PIDFD_INFO_EXIT)?;
    (info.mask & PIDFD_INFO_EXIT != 0).then(|| exit_of_status(info.exit_code))
}

/// The number of the cgroup that the process of a pidfd is in, or was in when it ended, as the inode of its folder
/// (PIDFD_INFO_CGROUPID, Linux 6.13; of one that was reaped 6.15). `None` where the kernel does not say.
pub fn pidfd_cgroup(process: BorrowedFd<'_>) -> Option<u64> {
    let info = pidfd_info(process, PIDFD_INFO_CGROUPID | PIDFD_INFO_EXIT)?;
    (info.mask & PIDFD_INFO_CGROUPID != 0).then_some(info.cgroup)
}

const PIDFD_INFO_CGROUPID: u64 = 1 << 2;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// `struct pidfd_info` of linux/pidfd.h, in its first size.
#[repr(C)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

fn pidfd_info(process: BorrowedFd<'_>, mask: u64) -> Option<PidfdInfo> {
    // _IOWR(0xFF, 11, struct pidfd_info)
    const PIDFD_GET_INFO: libc::Ioctl =
        (3 << 30) | ((size_of::<PidfdInfo>() as libc::Ioctl) << 16) | (0xFF << 8) | 11;
    let mut info = PidfdInfo {
        mask,
        cgroup: 0,
        ids: [0; 11],
        exit_code: 0,
    };
    // SAFETY: `info` is ours and writable for the whole call, and as large as the request's number says.
    let result = unsafe { libc::ioctl(process.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (result == 0).then_some(info)
}

/// Both descriptors are of one open file description (kcmp(2)); false where the kernel cannot say.
pub fn is_same_file(one: &OwnedFd, other: &OwnedFd) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let own = std::process::id();
    // SAFETY: numbers only; the call touches no memory of ours.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            own,
            own,
            KCMP_FILE,
            one.as_raw_fd(),
            other.as_raw_fd(),
        )
    };
    order == 0
}

/// A status of wait(2).
pub fn exit_of_status(status: i32) -> Exit {
    match status & 0x7f {
        0 => Exit::Code((status >> 8) & 0xff),
        signal => Exit::Signal {
            signal,
            core: status & 0x80 != 0,
        },
    }
}

/// A child that ended and has not been reaped: its pid.
pub fn peek_ended_child() -> Option<i32> {
    wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
        .ok()
        .flatten()
        .map(|(pid, _)| pid)
}

/// The child `pid` has ended (and stays to be reaped).
pub fn child_has_ended(pid: i32) -> bool {
    matches!(peek(pid), Ok(Some(_)))
}

/// kill(2) of one process: a child of this process that it has not reaped, which is for the caller to know.
pub fn kill_child(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes integers.
    check(unsafe { libc::kill(pid, signal).into() })?;
    Ok(())
}

/// `pid` is a child of this process, ended or not, that it has not reaped.
pub fn is_child(pid: i32) -> bool {
    peek(pid).is_ok()
}

/// What there is to be known of the child `pid`, which stays to be reaped.
fn peek(pid: i32) -> io::Result<Option<(i32, Exit)>> {
    wait(libc::P_PID, pid, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

/// Reaps the child `pid`, which has ended or is about to.
pub fn reap(pid: i32) -> io::Result<Exit> {
    match wait(libc::P_PID, pid, libc::WEXITED)? {
        Some((_, exit)) => Ok(exit),
        None => Ok(Exit::Unknown),
    }
}

/// Reaps the child `pid`, which has ended or is about to, and hears what it used (wait4(2)).
pub fn reap_counting(pid: i32) -> io::Result<(Exit, Option<ByWait>)> {
    loop {
        let mut status = 0;
        // SAFETY: an all-zero rusage is a valid one.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both are ours and writable for the whole call.
        let result = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
        if result < 0 {
            let e = io::Error::last_os_error();
            if e.raw_os_error() == Some(libc::EINTR) {
                continue;
            }
            return Err(e);
        }
        let us = |time: libc::timeval| {
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            seconds.saturating_mul(1_000_000) + u64::try_from(time.tv_usec).unwrap_or(0)
        };
        let by_wait = ByWait {
            cpu_us: us(usage.ru_utime) + us(usage.ru_stime),
            // In KiB (getrusage(2)).
            max_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
        };
        return Ok((exit_of_status(status), Some(by_wait)));
    }
}

/// This process has no child at all.
pub fn is_childless() -> bool {
    matches!(wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT),
        Err(e) if e.raw_os_error() == Some(libc::ECHILD))
}

fn wait(kind: libc::idtype_t, pid: i32, options: libc::c_int) -> io::Result<Option<(i32, Exit)>> {
    loop {
        // SAFETY: an all-zero siginfo_t is a valid one, and says "nobody" (pid 0).
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is ours and writable for the whole call.
        let result = unsafe { libc::waitid(kind, pid.unsigned_abs(), &raw mut info, options) };
        if result < 0 {
            let e = io::Error::last_os_error();
            if e.raw_os_error() == Some(libc::EINTR) {
                continue;
            }
            return Err(e);
        }
        // SAFETY: waitid(2) fills these fields, or left them zero.
        let (ended, status) = unsafe { (info.si_pid(), info.si_status()) };
        if ended == 0 {
            return Ok(None);
        }
        let exit = match info.si_code {
            libc::CLD_EXITED => Exit::Code(status),
            libc::CLD_KILLED => Exit::Signal {
                signal: status,
                core: false,
            },
            libc::CLD_DUMPED => Exit::Signal {
                signal: status,
                core: true,
            },
            _ => Exit::Unknown,
        };
        return Ok(Some((ended, exit)));
    }
}

/// Makes this process the one that orphans below it fall to (prctl(2), PR_SET_CHILD_SUBREAPER).
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into())?;
    Ok(())
}

/// execveat(2) of an open file. Returns only with why not.
pub fn exec(program: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |texts: &[CString]| {
        let all = texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]);
        all.collect::<Vec<*const libc::c_char>>()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: the descriptor is open, the arrays end with null, and they and their texts outlive the call.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Lets no descriptor but the standard three through execve(2); those that are to stay are named afterwards.
pub fn close_all_at_exec() -> io::Result<()> {
    // SAFETY: takes integers, closes nothing now.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Has the kernel kill this process after so many seconds, also when it has become another program meanwhile (execve(2)
/// keeps alarms); 0: not any more.
pub fn kill_after(seconds: u32) {
    use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
    if seconds > 0 {
        let alarm: SigSet = [Signal::SIGALRM].into_iter().collect();
        // SAFETY: SIG_DFL installs no handler, so there is nothing to be reentrant.
        let _ = unsafe { nix::sys::signal::signal(Signal::SIGALRM, SigHandler::SigDfl) };
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&alarm), None);
    }
    // SAFETY: takes an integer.
    unsafe { libc::alarm(seconds) };
}

/// The name of this process in /proc (PR_SET_NAME): a program that was executed by its descriptor is called by its number.
pub fn set_name(name: &CStr) {
    // SAFETY: the kernel reads the text up to its end, at most 16 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// A random number of the kernel's (getrandom(2)).
pub fn random() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer is ours and as long as said; 8 bytes are never given in part.
    check(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) } as libc::c_long)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Ignores a signal in this process (its launches start with the default again).
pub fn ignore_signal(signal: nix::sys::signal::Signal) -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler, so there is nothing to be reentrant.
    unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) }?;
    Ok(())
}

/// Each datagram that arrives brings a pidfd of its sender (SO_PASSPIDFD, Linux 6.5).
pub fn pass_pidfd(socket: impl AsFd) -> io::Result<()> {
    const SO_PASSPIDFD: libc::c_int = 76;
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int of ours, its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSPIDFD,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    check(result.into())?;
    Ok(())
}
