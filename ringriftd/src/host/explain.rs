//! Why a program could not be started, in a sentence for people: the kernel says a number, and means one of several
//! things by it. Reads the program's first bytes, so it may block: call it off the loop
//! ([`crate::host::prepare::Preparer::explain`]).

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::engine::types::LaunchFailure;
use crate::keeper::wire::{Identity, Launch, Stage};
use crate::limits::ARGUMENT_MAX;

/// What of a program is read to tell what it is: its headers, and the interpreter's name with luck.
const HEAD: u64 = 64 * 1024;

/// The sentence for a launch that failed in `stage` with `errno` (0 when there is none).
pub fn explain(stage: Stage, errno: i32, launch: &Launch) -> LaunchFailure {
    let text = match stage {
        Stage::Exec => exec(errno, launch),
        Stage::DiedBeforeExec => format!(
            "{} was killed before its program ran (died-before-exec); the system may be short of memory",
            shown(&launch.program)
        ),
        Stage::WorkingDir => working_dir(errno, launch),
        Stage::Identity => identity(errno, launch),
        Stage::Limits => format!(
            "cannot set nice, oom_score_adj or rlimits: {}{}",
            errno_text(errno),
            match errno {
                libc::EPERM | libc::EACCES =>
                    "; ringriftd may not raise them without privileges: leave them out or lower them",
                _ => "",
            }
        ),
        Stage::Descriptors => {
            let hint = match errno {
                libc::EMFILE => "; raise the limit of open files (ulimit -n) of ringriftd",
                libc::ENOENT => "; is ringriftd's run-time folder still there?",
                libc::EADDRINUSE => "; something else stands where its notify socket should be",
                _ => "",
            };
            format!("cannot make its pipes or sockets: {}{hint}", errno_text(errno))
        }
        Stage::Cgroup => format!("cannot make its cgroup: {}", errno_text(errno)),
        Stage::JoinCgroup => format!("cannot join its cgroup: {}", errno_text(errno)),
        Stage::Fork => format!(
            "cannot make a process: {}{}",
            errno_text(errno),
            match errno {
                libc::EAGAIN => "; the limit of processes (ulimit -u, pids.max) is reached",
                _ => "",
            }
        ),
        Stage::Session => format!("cannot make a session: {}", errno_text(errno)),
        Stage::Stdio => format!("cannot set up its standard streams: {}", errno_text(errno)),
        // The manager has the keeper's words for it.
        Stage::Zygote => "cannot be forked from its zygote".to_owned(),
        Stage::Request => format!(
            "the keeper refused the launch: {}; this is a bug in ringriftd",
            errno_text(errno)
        ),
    };
    let is_host = is_host_fault(errno)
        || (matches!(stage, Stage::Cgroup | Stage::JoinCgroup | Stage::Descriptors)
            && matches!(errno, libc::ENOSPC | libc::EDQUOT));
    failure(launch, text, is_host)
}

/// `text`, with the hook's name before it when it is one that failed.
pub(crate) fn failure(launch: &Launch, text: String, host: bool) -> LaunchFailure {
    let text = if launch.role == "main" {
        text
    } else {
        format!("{}: {text}", launch.role)
    };
    LaunchFailure { text, host }
}

/// The host ran out of processes, descriptors or memory: not the unit's fault.
pub fn is_host_fault(errno: i32) -> bool {
    matches!(
        errno,
        libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOBUFS
    )
}

/// `no such file or directory (ENOENT)`.
pub fn errno_text(errno: i32) -> String {
    match (errno, Errno::from_raw(errno)) {
        (0, _) => "no reason was given".to_owned(),
        (_, Errno::UnknownErrno) => format!("error {errno}"),
        (_, known) => {
            let text = known.desc();
            let mut chars = text.chars();
            let first = chars.next().map(|c| c.to_ascii_lowercase());
            // "I/O error" stays as it is.
            let keep = chars.clone().next().is_some_and(|c| !c.is_ascii_lowercase());
            let text: String = match first {
                Some(first) if !keep => std::iter::once(first).chain(chars).collect(),
                _ => text.to_owned(),
            };
            format!("{text} ({known:?})")
        }
    }
}

/// A path for people: control characters are escaped.
pub(crate) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path)
        .chars()
        .flat_map(|c| {
            let escaped = c.is_control();
            c.escape_default()
                .filter(move |_| escaped)
                .chain(std::iter::once(c).filter(move |_| !escaped))
        })
        .collect()
}

/// The program's place: a relative one starts at the working folder.
fn place(launch: &Launch) -> PathBuf {
    Path::new(OsStr::from_bytes(&launch.working_dir)).join(OsStr::from_bytes(&launch.program))
}

fn exec(errno: i32, launch: &Launch) -> String {
    let path = place(launch);
    let name = shown(&launch.program);
    let says = |why: String| format!("cannot execute {name}: {why}");
    match errno {
        libc::ENOENT => says(match std::fs::metadata(&path) {
            Err(_) => format!("{}; is it installed?", errno_text(errno)),
            Ok(_) => match interpreter(&path) {
                Some(Interpreter::Script(wanted)) => format!(
                    "its interpreter {wanted} does not exist (ENOENT); install it or mend the #! line{}",
                    if wanted.ends_with("\\r") {
                        ", which ends with a carriage return (a Windows line end)"
                    } else {
                        ""
                    }
                ),
                Some(Interpreter::Loader(wanted)) => format!(
                    "its interpreter {wanted} (the loader that it was linked for) does not exist (ENOENT); it was built \
                     for another system"
                ),
                None => errno_text(errno),
            },
        }),
        libc::ENOEXEC => says(not_executable_format(&path)),
        libc::EACCES | libc::EPERM => says(match advance(&path, launch.identity.as_ref()) {
            Some(why) => why,
            None => match interpreter(&path) {
                Some(Interpreter::Script(wanted) | Interpreter::Loader(wanted))
                    if advance(Path::new(&wanted), launch.identity.as_ref()).is_some() =>
                {
                    let why = advance(Path::new(&wanted), launch.identity.as_ref()).unwrap_or_default();
                    format!("its interpreter {wanted}: {why}")
                }
                _ if is_noexec(&path) => {
                    format!("{}; its file system is mounted with noexec", errno_text(errno))
                }
                _ => format!(
                    "{}; may the unit's user enter every folder above it?",
                    errno_text(errno)
                ),
            },
        }),
        libc::E2BIG => says(format!("{}; {}", errno_text(errno), largest(launch))),
        libc::EAGAIN => says(format!(
            "{}; its user has too many processes (ulimit -u)",
            errno_text(errno)
        )),
        libc::ETXTBSY => says(format!("{}; somebody is writing to it", errno_text(errno))),
        libc::ELIBBAD => says(format!(
            "{}; its loader is for another machine",
            errno_text(errno)
        )),
        _ => says(errno_text(errno)),
    }
}

/// Why `path` can be told beforehand not to be executable, if it can. Only what is certain: permissions of folders,
/// access lists and capabilities are left to the kernel.
pub(crate) fn advance(path: &Path, identity: Option<&Identity>) -> Option<String> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) => {
            return match e.raw_os_error() {
                Some(errno @ (libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG)) => {
                    Some(format!("{}; is it installed?", errno_text(errno)))
                }
                _ => None,
            };
        }
    };
    if meta.is_dir() {
        return Some("it is a directory (EACCES)".to_owned());
    }
    if !meta.is_file() {
        return Some("it is not a regular file (EACCES)".to_owned());
    }
    if may_execute(&meta, identity) {
        return None;
    }
    let mode = meta.mode() & 0o7777;
    Some(if mode & 0o111 == 0 {
        format!("it is not executable (EACCES; its mode is {mode:04o}, chmod +x mends that)")
    } else {
        format!("its mode {mode:04o} does not let the unit's user execute it (EACCES)")
    })
}

/// What the mode bits say (path_resolution(7)): root needs any x bit, others the one of their class.
fn may_execute(meta: &std::fs::Metadata, identity: Option<&Identity>) -> bool {
    let mode = meta.mode();
    let (uid, gid, groups) = match identity {
        Some(id) => (id.uid, id.gid, id.groups.clone()),
        None => (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
            nix::unistd::getgroups()
                .unwrap_or_default()
                .into_iter()
                .map(nix::unistd::Gid::as_raw)
                .collect(),
        ),
    };
    if uid == 0 {
        mode & 0o111 != 0
    } else if uid == meta.uid() {
        mode & 0o100 != 0
    } else if gid == meta.gid() || groups.contains(&meta.gid()) {
        mode & 0o010 != 0
    } else {
        mode & 0o001 != 0
    }
}

fn is_noexec(path: &Path) -> bool {
    use nix::sys::statvfs::{FsFlags, statvfs};
    statvfs(path).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_NOEXEC))
}

/// Which argument or variable is too much, by name: never a variable's value.
pub(crate) fn largest(launch: &Launch) -> String {
    let name = |env: &[u8]| {
        let end = env.iter().position(|&b| b == b'=').unwrap_or(env.len());
        format!("the variable {}", shown(&env[..end]))
    };
    let args = launch
        .argv
        .iter()
        .enumerate()
        .map(|(i, arg)| (arg.len(), format!("argument {i}")));
    let envs = launch.env.iter().map(|env| (env.len(), name(env)));
    let total: usize = launch.argv.iter().chain(&launch.env).map(|s| s.len() + 1).sum();
    match args.chain(envs).max_by_key(|(len, _)| *len) {
        Some((len, what)) => format!(
            "arguments and environment have {total} bytes, the largest is {what} with {len} (one may have {})",
            ARGUMENT_MAX - 1
        ),
        None => format!("arguments and environment have {total} bytes"),
    }
}

fn working_dir(errno: i32, launch: &Launch) -> String {
    let hint = match errno {
        libc::ENOENT => "; make it, or mend working_dir",
        libc::EACCES => "; the unit's user may not enter it, or a folder above it",
        _ => "",
    };
    format!(
        "cannot enter the working folder {}: {}{hint}",
        shown(&launch.working_dir),
        errno_text(errno)
    )
}

fn identity(errno: i32, launch: &Launch) -> String {
    let who = match &launch.identity {
        Some(id) => format!("user {} and group {}", id.uid, id.gid),
        None => "its user".to_owned(),
    };
    let hint = match errno {
        libc::EPERM => "; only root may run units as another user",
        libc::EAGAIN => "; that user has too many processes",
        libc::EINVAL => "; they do not exist in ringriftd's user namespace",
        _ => "",
    };
    format!("cannot become {who}: {}{hint}", errno_text(errno))
}

enum Interpreter {
    Script(String),
    Loader(String),
}

fn head(path: &Path) -> Option<Vec<u8>> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(HEAD).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn interpreter(path: &Path) -> Option<Interpreter> {
    let bytes = head(path)?;
    if let Some(script) = bytes.strip_prefix(b"#!") {
        let line = script.split(|&b| b == b'\n').next()?;
        // The kernel cuts at blanks only: a carriage return belongs to the name, and is shown as such.
        let name = line
            .split(|&b| b == b' ' || b == b'\t')
            .find(|word| !word.is_empty())?;
        return Some(Interpreter::Script(shown(name)));
    }
    let elf = Elf::parse(&bytes)?;
    elf.interpreter(&bytes)
        .map(|name| Interpreter::Loader(shown(name)))
}

fn not_executable_format(path: &Path) -> String {
    let Some(bytes) = head(path) else {
        return errno_text(libc::ENOEXEC);
    };
    if bytes.is_empty() {
        return "the file is empty (ENOEXEC)".to_owned();
    }
    if bytes.starts_with(b"\xef\xbb\xbf#!") {
        return "a byte order mark stands before its #! line (ENOEXEC); save it without".to_owned();
    }
    if bytes.starts_with(b"#!") {
        return match interpreter(path) {
            None => "its #! line names no interpreter (ENOEXEC)".to_owned(),
            Some(Interpreter::Script(name) | Interpreter::Loader(name)) => {
                format!("its interpreter {name} is no program (ENOEXEC)")
            }
        };
    }
    if !bytes.starts_with(b"\x7fELF") {
        return "it is neither a program nor a script with a #! line (ENOEXEC); a shell script begins with #!/bin/sh"
            .to_owned();
    }
    match Elf::parse(&bytes) {
        None => "its ELF header is damaged or cut off (ENOEXEC)".to_owned(),
        Some(elf) if elf.machine != HERE => format!(
            "it is built for {}, this machine is {} (ENOEXEC)",
            machine(elf.machine),
            machine(HERE)
        ),
        Some(elf) if elf.kind != 2 && elf.kind != 3 => {
            "it is an ELF file but not a program, perhaps an object file or a core (ENOEXEC)".to_owned()
        }
        Some(_) => "its ELF file is damaged or cut off (ENOEXEC)".to_owned(),
    }
}

/// The few fields of elf(5) that tell why the kernel refused a file.
struct Elf {
    is_64: bool,
    is_little: bool,
    kind: u16,
    machine: u16,
}

/// EM_* of the machine that this is built for.
const HERE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else if cfg!(target_arch = "riscv64") {
    243
} else if cfg!(target_arch = "arm") {
    40
} else if cfg!(target_arch = "x86") {
    3
} else {
    0
};

fn machine(number: u16) -> String {
    match number {
        3 => "x86".to_owned(),
        8 => "mips".to_owned(),
        21 => "ppc64".to_owned(),
        22 => "s390x".to_owned(),
        40 => "arm".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv".to_owned(),
        258 => "loongarch".to_owned(),
        other => format!("machine number {other}"),
    }
}

impl Elf {
    fn parse(bytes: &[u8]) -> Option<Self> {
        if !bytes.starts_with(b"\x7fELF") {
            return None;
        }
        let is_64 = match bytes.get(4)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let is_little = match bytes.get(5)? {
            1 => true,
            2 => false,
            _ => return None,
        };
        let mut elf = Self {
            is_64,
            is_little,
            kind: 0,
            machine: 0,
        };
        elf.kind = u16::try_from(elf.number(bytes, 16, 2)?).ok()?;
        elf.machine = u16::try_from(elf.number(bytes, 18, 2)?).ok()?;
        Some(elf)
    }

    fn number(&self, bytes: &[u8], at: usize, size: usize) -> Option<usize> {
        let field = bytes.get(at..at.checked_add(size)?)?;
        let fold = |sum: u64, byte: &u8| (sum << 8) | u64::from(*byte);
        let number = if self.is_little {
            field.iter().rev().fold(0, fold)
        } else {
            field.iter().fold(0, fold)
        };
        usize::try_from(number).ok()
    }

    /// PT_INTERP's text.
    fn interpreter<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (table, entry, count) = if self.is_64 {
            (
                self.number(bytes, 32, 8)?,
                self.number(bytes, 54, 2)?,
                self.number(bytes, 56, 2)?,
            )
        } else {
            (
                self.number(bytes, 28, 4)?,
                self.number(bytes, 42, 2)?,
                self.number(bytes, 44, 2)?,
            )
        };
        for i in 0..count {
            let at = table.checked_add(i.checked_mul(entry)?)?;
            if self.number(bytes, at, 4)? != 3 {
                continue;
            }
            let (offset, size) = if self.is_64 {
                (
                    self.number(bytes, at.checked_add(8)?, 8)?,
                    self.number(bytes, at.checked_add(32)?, 8)?,
                )
            } else {
                (
                    self.number(bytes, at.checked_add(4)?, 4)?,
                    self.number(bytes, at.checked_add(16)?, 4)?,
                )
            };
            let name = bytes.get(offset..offset.checked_add(size)?)?;
            return name.split(|&b| b == 0).next();
        }
        None
    }
}
