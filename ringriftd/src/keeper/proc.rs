//! What /proc says about processes (proc_pid_stat(5)). Reads only; a process that has gone is an error like any other.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use proto::reply::Exit;

use super::types::Proc;

/// PF_EXITING of `flags` in /proc/PID/stat (linux/sched.h): the process is on its way out.
const PF_EXITING: u64 = 0x4;
/// PF_KTHREAD of the same: it is a thread of the kernel's.
const PF_KTHREAD: u64 = 0x0020_0000;

/// More than /proc/PID/stat has on any kernel, and more than it usually has.
const STAT_MAX: u64 = 64 * 1024;
const STAT_ROOM: usize = 1024;

/// The part of /proc/PID/stat that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Which process, by pid and start time.
    pub process: Proc,
    /// Its name, at most 15 bytes.
    pub comm: Vec<u8>,
    /// `R`, `S`, `D`, `Z` …
    pub state: u8,
    /// Its parent.
    pub ppid: i32,
    /// Its process group.
    pub pgrp: i32,
    /// Its session.
    pub session: i32,
    /// It is on its way out.
    pub exiting: bool,
    /// It is a thread of the kernel's.
    pub is_kernel: bool,
}

impl Stat {
    /// Nothing of it runs any more; its parent has still to hear of it.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Reads /proc/PID/stat.
pub fn stat(pid: i32) -> io::Result<Stat> {
    let text = read_kernel(format!("/proc/{pid}/stat").as_ref(), STAT_ROOM, STAT_MAX)?;
    parse_stat(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// A file that the kernel makes up, in one bite where that is at most `room` bytes, and no more than `most` of it. `fs::read`
/// would ask for its size, which is 0, and begin with the smallest of bites, for each of which the kernel may begin anew.
pub fn read_kernel(path: &Path, room: usize, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(room);
    File::open(path)?.take(most).read_to_end(&mut text)?;
    Ok(text)
}

/// The name may hold anything, blanks and brackets too: it ends at the last bracket.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|b| *b == b'(')?;
    let close = text.iter().rposition(|b| *b == b')')?;
    let pid = std::str::from_utf8(text.get(..open)?).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // fields[0] is field 3 of the manual page
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let signed = |field: usize| fields.get(field - 3)?.parse::<i32>().ok();
    Some(Stat {
        process: Proc::new(pid, number(22)?)?,
        comm: text.get(open + 1..close)?.to_vec(),
        state: *fields.first()?.as_bytes().first()?,
        ppid: signed(4)?,
        pgrp: signed(5)?,
        session: signed(6)?,
        exiting: number(9)? & PF_EXITING != 0,
        is_kernel: number(9)? & PF_KTHREAD != 0,
    })
}

/// How a process ended that its parent has not reaped yet: the last field of /proc/PID/stat. The kernel shows a 0 to who
/// may not look into the process, so a 0 is believed only where we may.
pub fn zombie_exit(process: Proc) -> Option<Exit> {
    let folder = format!("/proc/{}", process.pid());
    let owner = std::fs::metadata(&folder).ok()?.uid();
    let text = std::fs::read(format!("{folder}/stat")).ok()?;
    let stat = parse_stat(&text)?;
    let close = text.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let status: i32 = rest.split_ascii_whitespace().nth(52 - 3)?.parse().ok()?;
    let own = nix::unistd::geteuid();
    let may_look = own.is_root() || own.as_raw() == owner;
    (stat.process == process && stat.is_dead() && (may_look || status != 0))
        .then(|| super::sys::exit_of_status(status))
}

/// Opens again, to read, the pipe that ringriftd gave to a process as descriptor `number`. Such a pipe has no name, and the
/// unit's end of it is open for both directions, as no pipe between two programs is: theirs is nothing to read from.
pub fn open_pipe(pid: i32, number: u32) -> Option<OwnedFd> {
    open_marked_pipe(pid, number).map(|(pipe, _)| pipe)
}

/// Likewise, and whether it is marked as that of stderr alone.
pub fn open_marked_pipe(pid: i32, number: u32) -> Option<(OwnedFd, bool)> {
    let link = format!("/proc/{pid}/fd/{number}");
    let is_nameless = std::fs::read_link(&link)
        .ok()?
        .as_os_str()
        .as_encoded_bytes()
        .starts_with(b"pipe:[");
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
    if !is_nameless || flags & libc::O_ACCMODE != libc::O_RDWR {
        return None;
    }
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(&link)
        .ok()?;
    // The process may have put something else there meanwhile.
    opened
        .metadata()
        .ok()?
        .file_type()
        .is_fifo()
        .then(|| (opened.into(), flags & libc::O_APPEND != 0))
}

/// Every process of the machine, by number.
pub fn pids() -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The children of a process of one thread, dead ones included (`children` in proc_pid_task(5), CONFIG_PROC_CHILDREN; without
/// it none are known). Some may be missing while others end, so whoever asks asks again.
pub fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

/// What the environment that a process was started with says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BirthMark {
    /// It was started by ringriftd, or by one that was.
    Ours {
        /// `RINGRIFT_INVOCATION_ID`.
        invocation: String,
        /// `RINGRIFT_ROLE`.
        role: String,
    },
    /// Nothing: it has none, has just ended, or is in the middle of execve(2), when the new one is not in place yet
    /// (the kernel's `environ_read` sees no end of it).
    Empty,
    /// It bears no mark, or may not be read.
    Other,
}

/// Reads /proc/PID/environ.
pub fn birth_mark(pid: i32) -> BirthMark {
    let Ok(text) = std::fs::read(format!("/proc/{pid}/environ")) else {
        return BirthMark::Other;
    };
    if text.is_empty() {
        return BirthMark::Empty;
    }
    let value = |name: &[u8]| {
        let found = text
            .split(|b| *b == 0)
            .find_map(|entry| entry.strip_prefix(name))?;
        String::from_utf8(found.to_vec()).ok()
    };
    match (value(b"RINGRIFT_INVOCATION_ID="), value(b"RINGRIFT_ROLE=")) {
        (Some(invocation), Some(role)) => BirthMark::Ours { invocation, role },
        _ => BirthMark::Other,
    }
}

/// It can gain no privileges by any program that it executes (PR_SET_NO_NEW_PRIVS).
pub fn has_no_new_privs(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let said = status.lines().find_map(|line| line.strip_prefix("NoNewPrivs:"));
    said.is_some_and(|value| value.trim() == "1")
}

/// The cgroup v2 of a process, as its path in the hierarchy.
pub fn cgroup_of(pid: i32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_does_not_shift_the_fields() {
        let text = b"42 (a) S 1 (b)) S 7 8 9 0 -1 4194308 0 0 0 0 0 0 0 0 20 0 1 0 987 1 1";
        let stat = parse_stat(text).unwrap();
        assert_eq!(stat.comm, b"a) S 1 (b)");
        assert_eq!((stat.ppid, stat.pgrp, stat.session), (7, 8, 9));
        assert_eq!(stat.process, Proc::new(42, 987).unwrap());
        assert!(stat.exiting);
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        let whole = b"42 (x) S 7 8 9 0 -1 4194308 0 0 0 0 0 0 0 0 20 0 1 0 987 1 1";
        for end in 0..whole.len() {
            let _ = parse_stat(&whole[..end]);
        }
        assert_eq!(parse_stat(b")("), None);
    }

    #[test]
    fn numbers_that_mean_groups_are_no_process() {
        for pid in [i32::MIN, -1, 0, 1] {
            assert_eq!(Proc::new(pid, 5), None);
        }
    }
}
