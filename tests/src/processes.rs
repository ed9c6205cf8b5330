//! What the kernel says of processes, read from /proc. Never the daemon's own opinion.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A process as it was when it was looked at.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// Its name (`comm`).
    pub name: String,
    /// `R`, `S`, `Z` …
    pub state: char,
    /// Field 22 of its stat, in ticks since boot.
    pub start_time: u64,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Its environment as it was at its exec; empty when it may not be read, or for a zombie.
    pub env: BTreeMap<String, String>,
}

impl Process {
    /// The process, unless it is gone.
    pub fn read(pid: i32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let (head, rest) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let env = std::fs::read(folder.join("environ")).unwrap_or_default();
        let env = env
            .split(|b| *b == 0)
            .filter_map(|pair| {
                let pair = String::from_utf8_lossy(pair);
                let (key, value) = pair.split_once('=')?;
                Some((key.to_owned(), value.to_owned()))
            })
            .collect();
        let argv = std::fs::read(folder.join("cmdline")).unwrap_or_default();
        let argv = argv
            .split(|b| *b == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        Some(Self {
            pid,
            ppid: fields.get(1)?.parse().ok()?,
            name,
            state: fields.first()?.chars().next()?,
            start_time: fields.get(19)?.parse().ok()?,
            argv,
            env,
        })
    }

    /// It has not ended.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    /// `RINGRIFT_UNIT`.
    pub fn unit(&self) -> Option<&str> {
        self.env.get("RINGRIFT_UNIT").map(String::as_str)
    }

    /// `RINGRIFT_INVOCATION_ID`.
    pub fn invocation(&self) -> Option<&str> {
        self.env.get("RINGRIFT_INVOCATION_ID").map(String::as_str)
    }

    /// It was started as a unit's main process, or descends from one; not a hook.
    pub fn is_main_role(&self) -> bool {
        self.env.get("RINGRIFT_ROLE").is_none_or(|role| role == "main")
    }
}

/// Every process.
pub fn all() -> Vec<Process> {
    pids().into_iter().filter_map(Process::read).collect()
}

fn pids() -> Vec<i32> {
    std::fs::read_dir("/proc")
        .expect("/proc is mounted")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}

/// Live processes with this variable in their environment.
pub fn marked(name: &str, value: &str) -> Vec<Process> {
    all()
        .into_iter()
        .filter(|process| process.is_alive() && process.env.get(name).is_some_and(|v| v == value))
        .collect()
}

/// The children of `parent`, zombies among them.
pub fn children(parent: i32) -> Vec<Process> {
    all()
        .into_iter()
        .filter(|process| process.ppid == parent)
        .collect()
}

/// How many descriptors a process has open; 0 when it is gone.
pub fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// What a process's descriptors are, for messages.
pub fn descriptor_links(pid: i32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.display().to_string()))
        .collect()
}

/// A number of a process's `status`, such as `VmRSS` (in KiB) or `voluntary_ctxt_switches`.
pub fn status_number(pid: i32, key: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The cgroup v2 folder of a process, where there is one.
pub fn cgroup_of(pid: i32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let root = cgroup_root()?;
    Some(root.join(path.trim_start_matches('/')))
}

/// Where cgroup v2 is mounted.
pub fn cgroup_root() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, folder, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(folder))
    })
}

/// True when this process may make groups below the one that it is in.
pub fn cgroups_are_writable() -> bool {
    let Some(folder) = cgroup_of(std::process::id() as i32) else {
        return false;
    };
    let probe = folder.join(format!(
        "rr-probe-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let made = std::fs::create_dir(&probe).is_ok();
    if made {
        std::fs::remove_dir(&probe).expect("an empty group that was just made can be removed");
    }
    made
}

/// The folders directly below one.
pub fn folders(below: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(below) else {
        return Vec::new();
    };
    entries
        .filter_map(|e| e.ok())
        .filter(|e| e.path().is_dir())
        .map(|e| e.path())
        .collect()
}

/// A process held by descriptor, so that a signal never reaches another that got its number.
#[derive(Debug)]
pub struct Held(OwnedFd);

impl Held {
    /// The process, unless it is gone.
    pub fn open(pid: i32) -> Option<Self> {
        // SAFETY: pidfd_open(2) takes two numbers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        // SAFETY: the descriptor is new and nobody else's.
        (fd >= 0).then(|| Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Sends a signal; false when the process is gone.
    pub fn signal(&self, signal: i32) -> bool {
        let none: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: pidfd_send_signal(2) with a descriptor that lives, and no siginfo.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, none, 0) == 0 }
    }

    /// Waits until the process has ended; false when `bound` passed first.
    pub fn wait(&self, bound: std::time::Duration) -> bool {
        use std::os::fd::AsFd;
        let mut fds = [nix::poll::PollFd::new(
            self.0.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        let bound = nix::poll::PollTimeout::try_from(bound).unwrap_or(nix::poll::PollTimeout::MAX);
        matches!(nix::poll::poll(&mut fds, bound), Ok(n) if n > 0)
    }

    /// The descriptor, for poll(2).
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.0.as_fd()
    }
}

/// Sends `signal` to a process that the test knows to be the daemon's or a unit's.
///
/// # Panics
/// When there is no such process.
pub fn signal(pid: i32, signal: i32) {
    let held = Held::open(pid).unwrap_or_else(|| panic!("process {pid} is gone"));
    assert!(held.signal(signal), "process {pid} ended before signal {signal}");
}

/// Does something as another user without rights, in a thread that ends with it.
///
/// # Panics
/// When this process may not become that user.
pub fn as_user<T: Send>(uid: u32, deed: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let none: *const libc::gid_t = std::ptr::null();
            // SAFETY: calls with numbers and an empty list. Made raw, they change the identity of this thread alone (the C
            // library would change all), and the thread ends below.
            let became = unsafe {
                libc::syscall(libc::SYS_setgroups, 0, none) == 0
                    && libc::syscall(libc::SYS_setresgid, uid, uid, uid) == 0
                    && libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
            };
            assert!(
                became,
                "cannot become user {uid}: {}",
                std::io::Error::last_os_error()
            );
            deed()
        });
        thread.join().expect("the deed does not panic")
    })
}
