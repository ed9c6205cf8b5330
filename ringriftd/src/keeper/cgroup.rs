//! A fresh leaf of cgroup v2 for each launch, below one folder of this keeper. Processes live in leaves only, so that
//! a later controller finds no inner group with members.
//!
//! The child is born in its leaf where that works (`birth`), or else joins it, by writing "0" to its `cgroup.procs`, before
//! it executes anything.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::proc;
use super::types::Proc;

/// Folders in folders that are looked into: a unit may make groups below its own.
const DEPTH_MAX: usize = 32;

/// What most of the kernel's small files have room in.
const READ_ROOM: usize = 256;

/// A folder without folders has its own name and `.` (kernfs counts as other file systems do).
const LINKS_ALONE: u64 = 2;

/// The folder of all leaves of this keeper.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
    /// The same, as /proc/PID/cgroup says it.
    inside: String,
    has_kill: bool,
}

/// One launch's group.
#[derive(Debug, Clone)]
pub struct Leaf {
    path: PathBuf,
    inside: String,
    has_kill: bool,
}

impl Root {
    /// Makes `ringriftd-<seed>` below `parent`, or below the group that this process is in. Fails with the reason,
    /// for people.
    pub fn make(parent: Option<&Path>, seed: u64) -> Result<Self, String> {
        let mount = Mount::find()?;
        let parent = match parent {
            Some(given) => given.to_path_buf(),
            None => mount.own_group()?,
        };
        let path = parent.join(format!("ringriftd-{seed:016x}"));
        let inside = mount.inside(&path)?;
        match std::fs::create_dir(&path) {
            // An earlier keeper of the same state left it, perhaps with processes in it that are taken over.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let _ = remove_tree(&path, 0);
                match std::fs::create_dir(&path) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    other => other.map_err(|e| format!("cannot make {}: {e}", path.display()))?,
                }
            }
            other => other.map_err(|e| format!("cannot make {}: {e}", path.display()))?,
        }
        let mut root = Self {
            path,
            inside,
            has_kill: false,
        };
        if !root.path.join("cgroup.events").exists() {
            let why = format!("{} has no cgroup.events", root.path.display());
            root.remove();
            return Err(why);
        }
        root.has_kill = root.path.join("cgroup.kill").exists();
        Ok(root)
    }

    /// The leaf at `path`, if that is one of this folder's, whether it is still there or not.
    pub fn leaf_again(&self, path: &Path) -> Option<Leaf> {
        let name = path.file_name()?.to_str()?;
        (path.parent()? == self.path).then(|| Leaf {
            path: path.to_path_buf(),
            inside: format!("{}/{name}", self.inside),
            has_kill: self.has_kill,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a fresh leaf. One of that name that a dead keeper left is taken away first.
    pub fn leaf(&self, name: &str) -> io::Result<Leaf> {
        let path = self.path.join(name);
        match std::fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_dir(&path)?;
                std::fs::create_dir(&path)?;
            }
            other => other?,
        }
        Ok(Leaf {
            path,
            inside: format!("{}/{name}", self.inside),
            has_kill: self.has_kill,
        })
    }

    /// The folder of all leaves of an earlier keeper, with that path; `None` when there is none any more.
    pub fn left(path: &Path) -> Option<Self> {
        let is_there = is_name_ours(path) && path.join("cgroup.events").exists();
        let inside = Mount::find().and_then(|mount| mount.inside(path)).ok()?;
        is_there.then(|| Self {
            path: path.to_path_buf(),
            inside,
            has_kill: path.join("cgroup.kill").exists(),
        })
    }

    /// The leaf of that name, if it is there.
    pub fn find_leaf(&self, name: &str) -> Option<Leaf> {
        let path = self.path.join(name);
        path.join("cgroup.events").exists().then(|| Leaf {
            path,
            inside: format!("{}/{name}", self.inside),
            has_kill: self.has_kill,
        })
    }

    /// Takes away the leaves that hold nobody and that are not among `held`: an earlier keeper died before it did.
    pub fn remove_empty(&self, held: &BTreeSet<&Path>) {
        for leaf in folders(&self.path) {
            if !held.contains(leaf.as_path()) {
                remove_tree(&leaf, 1);
            }
        }
    }

    /// Takes the folder away, and what is empty in it. True when it is gone.
    pub fn remove(&self) -> bool {
        remove_tree(&self.path, 0)
    }
}

impl Leaf {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its folder, for a child to be born in.
    pub fn folder(&self) -> io::Result<OwnedFd> {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        Ok(File::options()
            .read(true)
            .custom_flags(flags)
            .open(&self.path)?
            .into())
    }

    /// `cgroup.procs`, open for the child to write "0" to.
    pub fn door(&self) -> io::Result<OwnedFd> {
        Ok(File::options()
            .write(true)
            .open(self.path.join("cgroup.procs"))?
            .into())
    }

    /// Moves a process into it.
    pub fn take_in(&self, pid: i32) -> io::Result<()> {
        write(&self.path.join("cgroup.procs"), pid.to_string().as_bytes())
    }

    /// `cgroup.events`, which is modified when the last process leaves.
    pub fn events(&self) -> PathBuf {
        self.path.join("cgroup.events")
    }

    /// The living processes in it and in the groups below, each proven to be there: listed, then its start time
    /// read, then found there once more.
    pub fn processes(&self) -> Vec<Proc> {
        self.processes_beside(None)
    }

    /// Likewise; `own` is a child that has not been reaped, so that its number is proof enough.
    pub fn processes_beside(&self, own: Option<Proc>) -> Vec<Proc> {
        let mut pids = Vec::new();
        list(&self.path, 0, &mut pids);
        let is_own = |pid: i32| own.filter(|own| own.pid() == pid);
        pids.into_iter()
            .filter_map(|pid| is_own(pid).or_else(|| self.proof(pid)))
            .collect()
    }

    /// The process that has the number `pid` now, if it lives here.
    pub fn proof(&self, pid: i32) -> Option<Proc> {
        let stat = proc::stat(pid).ok()?;
        let group = proc::cgroup_of(pid)?;
        let rest = group.strip_prefix(&self.inside)?;
        ((rest.is_empty() || rest.starts_with('/')) && !stat.is_dead()).then_some(stat.process)
    }

    /// The kernel says that a process is in it or below.
    pub fn is_populated(&self) -> bool {
        is_populated(&self.path)
    }

    /// `cgroup.kill` (Linux 5.14): SIGKILL to all at once, forks included. False where it does not exist or failed.
    pub fn kill(&self) -> bool {
        self.has_kill && write(&self.path.join("cgroup.kill"), b"1").is_ok()
    }

    /// Takes it away. True when it is gone; false while the kernel still counts somebody in it.
    pub fn remove(&self) -> bool {
        remove_tree(&self.path, 0)
    }
}

/// Takes away the folder of a keeper that is dead, unless somebody lives in it. True when it is gone, or was no such folder.
pub fn remove_left(path: &Path) -> bool {
    !is_name_ours(path) || !path.join("cgroup.events").exists() || remove_tree(path, 0)
}

fn is_name_ours(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("ringriftd-"))
}

fn is_populated(folder: &Path) -> bool {
    match read(&folder.join("cgroup.events")) {
        Ok(text) => text.lines().any(|line| line == "populated 1"),
        // A group that is gone holds nobody. Whoever cannot look, for want of a descriptor or of memory, does not know that.
        Err(e) => !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)),
    }
}

fn read(path: &Path) -> io::Result<String> {
    // As long as it is: a group may have as many processes as there are numbers.
    let text = proc::read_kernel(path, READ_ROOM, u64::MAX)?;
    String::from_utf8(text).map_err(io::Error::other)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(bytes)
}

fn list(folder: &Path, depth: usize, pids: &mut Vec<i32>) {
    // A group that vanishes while it is read holds nobody.
    let text = read(&folder.join("cgroup.procs")).unwrap_or_default();
    pids.extend(
        text.lines()
            .filter_map(|line| line.parse::<i32>().ok())
            .filter(|pid| *pid > 1),
    );
    if depth < DEPTH_MAX {
        for below in folders(folder) {
            list(&below, depth + 1, pids);
        }
    }
}

/// Whoever lives below keeps what it made there, empty or not.
fn remove_tree(folder: &Path, depth: usize) -> bool {
    // Where nothing is below, which is nearly always, nothing else is to be done.
    if is_gone(std::fs::remove_dir(folder)) {
        return true;
    }
    if depth > 0 && is_populated(folder) {
        return false;
    }
    if depth < DEPTH_MAX {
        for below in folders(folder) {
            remove_tree(&below, depth + 1);
        }
    }
    is_gone(std::fs::remove_dir(folder))
}

fn is_gone(removed: io::Result<()>) -> bool {
    match removed {
        Ok(()) => true,
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    if std::fs::metadata(folder).is_ok_and(|about| about.nlink() == LINKS_ALONE) {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let is_folder = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries
        .filter_map(Result::ok)
        .filter(is_folder)
        .map(|entry| entry.path())
        .collect()
}

/// Where cgroup v2 is mounted, and which part of the hierarchy that shows.
struct Mount {
    point: PathBuf,
    root: String,
}

impl Mount {
    fn find() -> Result<Self, String> {
        let text = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| format!("cannot read /proc/self/mountinfo: {e}"))?;
        text.lines()
            .find_map(parse_mount)
            .ok_or_else(|| "cgroup v2 is not mounted".to_owned())
    }

    fn own_group(&self) -> Result<PathBuf, String> {
        let own = proc::cgroup_of(std::process::id().cast_signed())
            .ok_or("this process is in no group of cgroup v2")?;
        let root = self.root.trim_end_matches('/');
        match own.strip_prefix(root) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                Ok(self.point.join(rest.trim_start_matches('/')))
            }
            _ => Err(format!(
                "this process's group {own} is not visible at {}",
                self.point.display()
            )),
        }
    }

    fn inside(&self, path: &Path) -> Result<String, String> {
        let rest = path
            .strip_prefix(&self.point)
            .map_err(|_| format!("{} is not below {}", path.display(), self.point.display()))?;
        let rest = rest.to_str().ok_or("the group's path is no UTF-8")?;
        Ok(format!("{}/{rest}", self.root.trim_end_matches('/')))
    }
}

/// A line of proc_pid_mountinfo(5), if it is a cgroup2 mount.
fn parse_mount(line: &str) -> Option<Mount> {
    let (fields, filesystem) = line.split_once(" - ")?;
    if filesystem.split(' ').next()? != "cgroup2" {
        return None;
    }
    let mut fields = fields.split(' ').skip(3);
    Some(Mount {
        root: fields.next()?.to_owned(),
        point: PathBuf::from(fields.next()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_empty_when_the_kernel_says_so_or_when_it_is_gone_and_not_when_nobody_can_look() {
        let folder = tempfile::tempdir().expect("a folder");
        let events = folder.path().join("cgroup.events");
        assert!(!is_populated(folder.path()), "it is gone");
        for (text, expected) in [
            ("populated 0\nfrozen 0\n", false),
            ("populated 1\nfrozen 0\n", true),
        ] {
            std::fs::write(&events, text).expect("a file");
            assert_eq!(is_populated(folder.path()), expected);
        }
        std::fs::remove_file(&events).expect("it is there");
        std::fs::create_dir(&events).expect("a folder");
        assert!(is_populated(folder.path()), "it cannot be read");
    }

    #[test]
    fn the_unified_mount_is_found_among_hybrid_ones() {
        let v1 = "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd";
        let v2 = "41 31 0:38 /box /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw";
        assert!(parse_mount(v1).is_none());
        let mount = parse_mount(v2).unwrap();
        assert_eq!(mount.point, Path::new("/sys/fs/cgroup/unified"));
        let leaf = Path::new("/sys/fs/cgroup/unified/a/b");
        assert_eq!(mount.inside(leaf).unwrap(), "/box/a/b");
        assert!(mount.inside(Path::new("/sys/fs/cgroup/memory/a")).is_err());
    }
}
