//! One keeper for one state: two lock files whose flock(2) is the lock. The number in them is for people; it may be
//! anything (fault B15). The files are never unlinked: two keepers could then hold a lock on two files of one name.

use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg};

use crate::limits;

/// Held until it is dropped or the process ends. No child inherits it.
#[derive(Debug)]
pub struct Lock {
    state: Flock<File>,
    /// Absent when both folders are one.
    runtime: Option<Flock<File>>,
}

impl Lock {
    /// Writes this process's pid into the files. Best effort: a full disk must not keep the node down.
    fn sign(&self) {
        for held in [Some(&self.state), self.runtime.as_ref()].into_iter().flatten() {
            let mut file: &File = held;
            let _ = file
                .set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .and_then(|_| writeln!(file, "{}", std::process::id()));
        }
    }

    /// The locked descriptors, of the state and the run-time folder (one twice, where they are one folder). Whoever gets
    /// a duplicate holds the lock too: it is the open file description's.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [
            self.state.as_fd(),
            self.runtime.as_ref().unwrap_or(&self.state).as_fd(),
        ]
    }
}

/// The locks that this process, or the one before it, holds already on these files; the second is absent where both folders
/// are one. The pid in them becomes this process's.
pub fn again(state: OwnedFd, runtime: Option<OwnedFd>) -> Result<Lock, String> {
    let relock = |fd: OwnedFd| {
        Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock)
            .map_err(|(_, e)| format!("the lock that was handed over is not held: {e}"))
    };
    let lock = Lock {
        state: relock(state)?,
        runtime: runtime.map(relock).transpose()?,
    };
    lock.sign();
    Ok(lock)
}

/// Why it is not held.
#[derive(Debug)]
pub enum LockError {
    /// Another keeper has it.
    Held {
        /// Its pid, where that could be found.
        pid: Option<i32>,
        /// The file.
        path: PathBuf,
    },
    /// The folder or file does not work.
    Failed {
        /// One sentence.
        text: String,
    },
}

/// Makes `folder` with what is above it, for its owner alone, unless it is there.
pub fn make_folder(folder: &Path) -> Result<(), String> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| format!("cannot make the folder {}: {e}", folder.display()))
}

/// Takes the locks of both folders, or none and touches nothing.
pub fn take(state_dir: &Path, runtime_dir: &Path) -> Result<Lock, LockError> {
    let state = take_one(&state_dir.join("lock"))?;
    let is_one = matches!((state_dir.canonicalize(), runtime_dir.canonicalize()), (Ok(a), Ok(b)) if a == b);
    let runtime = if is_one {
        None
    } else {
        Some(take_one(&runtime_dir.join("lock"))?)
    };
    let lock = Lock { state, runtime };
    lock.sign();
    Ok(lock)
}

fn take_one(path: &Path) -> Result<Flock<File>, LockError> {
    let failed = |e: &dyn std::fmt::Display| LockError::Failed {
        text: format!("cannot lock {}: {e}", path.display()),
    };
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| failed(&e))?;
    let until = Instant::now() + limits::LOCK_WAIT;
    let mut file = file;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => file,
            Err((_, e)) => return Err(failed(&e)),
        };
        let pid = holder(&file).unwrap_or_default();
        if pid.is_some() || Instant::now() >= until {
            return Err(LockError::Held {
                pid,
                path: path.to_path_buf(),
            });
        }
        // Whoever took it is dead: its manager still holds it, and ends, or becomes the keeper.
        let _ = nix::poll::poll(&mut [], 10u8);
    }
}

/// Who holds the lock, from /proc/locks, since the number in the file proves nothing; unless whoever took it is dead (the
/// kernel goes on naming it in the first pid namespace, and names nobody in others) and another process that has the file
/// open wrote its own number: it took the dead one's place.
fn holder(file: &File) -> io::Result<Option<i32>> {
    let meta = file.metadata()?;
    let (device, inode) = (meta.dev(), meta.ino());
    let place = format!(
        "{:02x}:{:02x}:{inode}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    );
    let text = std::fs::read_to_string("/proc/locks")?;
    let mut takers = text.lines().filter_map(|line| find_holder(line, &place));
    Ok(takers
        .find(|pid| has_open(*pid, &meta))
        .or_else(|| heir(file, &meta)))
}

/// Of another user's process nobody may look; that it is there has to do.
fn has_open(pid: i32, meta: &Metadata) -> bool {
    let is_it = |fd: std::fs::DirEntry| {
        std::fs::metadata(fd.path()).is_ok_and(|m| (m.dev(), m.ino()) == (meta.dev(), meta.ino()))
    };
    match std::fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(open) => open.filter_map(Result::ok).any(is_it),
        Err(e) => e.kind() == io::ErrorKind::PermissionDenied,
    }
}

fn heir(mut file: &File, meta: &Metadata) -> Option<i32> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    has_open(pid, meta).then_some(pid)
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fe:00:567 0 EOF`
fn find_holder(line: &str, place: &str) -> Option<i32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    if fields.next()? != "FLOCK" {
        return None;
    }
    let pid = fields.nth(2)?.parse().ok()?;
    (fields.next()? == place).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_the_file_is_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        let (state, run) = (folder.path().join("s"), folder.path().join("r"));
        make_folder(&state).unwrap();
        make_folder(&run).unwrap();
        std::fs::write(state.join("lock"), "1\n").unwrap();
        drop(take(&state, &run).unwrap());
        let mine = format!("{}\n", std::process::id());
        assert_eq!(std::fs::read_to_string(state.join("lock")).unwrap(), mine);
        assert_eq!(std::fs::read_to_string(run.join("lock")).unwrap(), mine);
    }

    #[test]
    fn the_holder_is_named_whatever_the_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let (state, run) = (folder.path().join("s"), folder.path().join("r"));
        make_folder(&state).unwrap();
        make_folder(&run).unwrap();
        let _lock = take(&state, &run).unwrap();
        std::fs::write(state.join("lock"), "1\n").unwrap();
        match take(&state, &run) {
            Err(LockError::Held { pid, path }) => {
                assert_eq!(pid, Some(std::process::id().cast_signed()));
                assert_eq!(path, state.join("lock"));
            }
            other => panic!("{other:?}"),
        }
    }
}
