//! What keeper, zygote and child say to each other, byte for byte, and the limits that a forked process is given from
//! outside. `docs/zygotes.md` is the words' other place.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{self, ControlMessage, ControlMessageOwned, MsgFlags, UnixCredentials, sockopt};
use serde::{Deserialize, Serialize};

use super::child::ChildSpec;
use super::launch::text_to_read;
use super::links;
use super::wire::{Identity, Launch};
use crate::ids::LaunchId;

/// From a zygote: it takes requests, in the version that we speak.
pub const READY: &[u8] = b"READY 1";
/// From a child at its gate.
pub const HERE: &[u8] = b"HERE";
/// From a zygote or a child; what follows tells why.
pub const REFUSED: &[u8] = b"REFUSED ";
const FORK: &[u8] = b"FORK";
/// RLIMIT_CPU to RLIMIT_RTTIME (getrlimit(2)).
const RESOURCES: u32 = 16;
/// `REFUSED ` and 512 bytes are the longest that are said.
const WORD_MAX: usize = 1024;

/// A zygote, as another program of the keeper's takes it up (`handover`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZygoteLeft {
    /// Its launch.
    pub id: LaunchId,
    /// The keeper's end.
    pub link: RawFd,
    /// It takes requests.
    pub is_ready: bool,
    /// Whose process it is.
    pub identity: Option<Identity>,
    /// It can gain no privileges.
    pub no_new_privs: bool,
}

/// Who sent a word, as the kernel vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Its pid.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// What was heard.
#[derive(Debug)]
pub enum Heard {
    /// A word, and from whom.
    Word(Vec<u8>, Option<Sender>),
    /// Nothing for now.
    Nothing,
    /// Nobody is left who could say anything.
    End,
}

/// One word, without waiting. There is room for the sender alone: descriptors that come along are the kernel's to close.
pub fn hear(link: &OwnedFd) -> Heard {
    let mut buffer = [0; WORD_MAX];
    let mut space = nix::cmsg_space!(UnixCredentials);
    loop {
        let mut data = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let (bytes, sender) =
            match socket::recvmsg::<()>(link.as_raw_fd(), &mut data, Some(&mut space), flags) {
                Ok(message) => {
                    let sender = message.cmsgs().ok().and_then(|mut all| {
                        all.find_map(|control| match control {
                            ControlMessageOwned::ScmCredentials(of) => Some(Sender {
                                pid: of.pid(),
                                uid: of.uid(),
                            }),
                            _ => None,
                        })
                    });
                    (message.bytes, sender)
                }
                Err(Errno::EINTR | Errno::ECONNRESET) => continue,
                Err(Errno::EAGAIN) => return Heard::Nothing,
                Err(_) => return Heard::End,
            };
        return match buffer.get(..bytes) {
            None | Some([]) => Heard::End,
            Some(word) => Heard::Word(word.to_vec(), sender),
        };
    }
}

/// For people: without what a terminal would obey.
pub fn shown(word: &[u8]) -> String {
    let text = String::from_utf8_lossy(word);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORD_MAX)
        .collect()
}

/// Asks for a process: the keeper's end of its gate.
pub fn ask(zygote: &OwnedFd, launch: &Launch, wish: &ChildSpec) -> io::Result<OwnedFd> {
    let body = text_to_read(&request(launch, wish))?;
    let (ours, theirs) = links::pair()?;
    socket::setsockopt(&ours, sockopt::PassCred, &true)?;
    let fds: Vec<RawFd> = [body.as_raw_fd(), theirs.as_raw_fd()]
        .into_iter()
        .chain(wish.fds.iter().map(|(source, _)| *source))
        .collect();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let rights = [ControlMessage::ScmRights(&fds)];
    socket::sendmsg::<()>(zygote.as_raw_fd(), &[IoSlice::new(FORK)], &rights, flags, None)?;
    Ok(ours)
}

/// The request's fields.
fn request(launch: &Launch, wish: &ChildSpec) -> Vec<u8> {
    let mut body = Vec::new();
    let mut field = |name: &str, value: &[u8]| {
        body.extend_from_slice(name.as_bytes());
        body.push(b'=');
        body.extend_from_slice(value);
        body.push(0);
    };
    field("program", &launch.program);
    for word in &launch.argv {
        field("argv", word);
    }
    for entry in &wish.env {
        field("env", entry.as_bytes());
    }
    for variable in &wish.own_pid {
        field("pid_env", variable.name().as_bytes());
    }
    field("dir", &launch.working_dir);
    field("umask", format!("{:o}", launch.umask).as_bytes());
    if launch.no_new_privs {
        field("no_new_privs", b"1");
    }
    // The first three are the standard streams.
    for (_, target) in wish.fds.iter().skip(3) {
        field("fd", target.to_string().as_bytes());
    }
    body
}

/// Lets the process at the gate through.
pub fn open(link: &OwnedFd, pid: i32) -> io::Result<()> {
    let word = format!("GO {pid}");
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    socket::send(link.as_fd().as_raw_fd(), word.as_bytes(), flags)?;
    Ok(())
}

/// Resource limits, nice and oom_score_adj, for a child that waits. Those that the unit does not name are as an executed
/// process would have them: the keeper's own.
pub fn limit(pid: i32, wish: &ChildSpec) -> Result<(), String> {
    for resource in 0..RESOURCES {
        // The last one counts, as in a child that sets one after the other.
        let named = wish.rlimits.iter().rev().find(|(named, _)| *named == resource);
        let wanted = match named {
            Some((_, limit)) => *limit,
            None => match rlimit(0, resource, None) {
                Ok(own) => own,
                // A limit that this kernel does not have.
                Err(_) => continue,
            },
        };
        let is_so = |now: &libc::rlimit64| now.rlim_cur == wanted.rlim_cur && now.rlim_max == wanted.rlim_max;
        let set = match rlimit(pid, resource, None) {
            Ok(now) if is_so(&now) => Ok(now),
            Ok(_) | Err(_) => rlimit(pid, resource, Some(&wanted)),
        };
        set.map_err(|e| format!("its resource limit {resource} cannot be set: {e}"))?;
    }
    nice(pid, wish.nice).map_err(|e| format!("its nice cannot be set: {e}"))?;
    oom(pid, wish).map_err(|e| format!("its oom_score_adj cannot be set: {e}"))
}

fn rlimit(pid: i32, resource: u32, new: Option<&libc::rlimit64>) -> io::Result<libc::rlimit64> {
    let mut old = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both pointers are null or point to whole structures of the kernel's layout that outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, &raw mut old) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(old)
}

fn nice(pid: i32, wanted: Option<i32>) -> io::Result<()> {
    // getpriority(2), raw: 20 less nice, so that no error looks like a value.
    // SAFETY: calls with integers.
    let of = |pid: i32| unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, pid) };
    let (own, now) = (20 - of(0), 20 - of(pid));
    let wanted = wanted.map_or(own, libc::c_long::from);
    if wanted == now {
        return Ok(());
    }
    // SAFETY: a call with integers.
    let done = unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, pid, wanted) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn oom(pid: i32, wish: &ChildSpec) -> io::Result<()> {
    let Some((value, other)) = &wish.oom_score_adj else {
        return Ok(());
    };
    let path = format!("/proc/{pid}/oom_score_adj");
    let now = std::fs::read_to_string(&path)?;
    if now.trim().as_bytes() == value.as_bytes() {
        return Ok(());
    }
    let write = |value: &std::ffi::CString| std::fs::write(&path, value.as_bytes());
    match (write(value), other) {
        (Err(_), Some(other)) => write(other),
        (done, _) => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_shown_without_what_a_terminal_obeys() {
        assert_eq!(shown(b"a\x1b[31mb\nc\xff"), "a [31mb c\u{fffd}");
    }

    #[test]
    fn a_gate_without_another_end_is_at_its_end_and_a_word_names_its_sender() {
        let (ours, theirs) = links::pair().unwrap();
        socket::setsockopt(&ours, sockopt::PassCred, &true).unwrap();
        assert!(matches!(hear(&ours), Heard::Nothing));
        open(&theirs, 5).unwrap();
        let Heard::Word(word, sender) = hear(&ours) else {
            panic!("nothing was heard");
        };
        assert_eq!(word, b"GO 5");
        let own = Sender {
            pid: nix::unistd::getpid().as_raw(),
            uid: nix::unistd::geteuid().as_raw(),
        };
        assert_eq!(sender, Some(own));
        drop(theirs);
        assert!(matches!(hear(&ours), Heard::End));
    }

    #[test]
    fn descriptors_that_come_with_a_word_are_not_taken() {
        let (ours, theirs) = links::pair().unwrap();
        socket::setsockopt(&ours, sockopt::PassCred, &true).unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let fds = [write.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let data = [IoSlice::new(HERE)];
        socket::sendmsg::<()>(theirs.as_raw_fd(), &data, &rights, MsgFlags::empty(), None).unwrap();
        drop(write);
        assert!(matches!(hear(&ours), Heard::Word(..)));
        // Nobody holds the other end: this is its end, and not a wait for it.
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&read, &mut byte).unwrap(), 0);
    }
}
