//! The folder of logs, by descriptor: a path is resolved once, then every file is opened relative to a folder that
//! was checked, and never through a link. Knows names and modes; reads and writes no records.
//!
//! Read first: [`LogDir`] and [`LogDir::rotate`].

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::packed::{LogFile, Packed};
use crate::limits::{LOG_FILES_MAX, NAME_MAX};

/// What every log file may: its owner writes, its group reads.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o640);

/// The same for their folder.
const DIR_MODE: Mode = Mode::from_bits_truncate(0o750);

/// A unit's name that is safe as a part of a file name: `[a-z0-9][a-z0-9_.-]*`, at most [`NAME_MAX`] bytes. The manager
/// has checked it already; the logger writes files as a stronger user than those who name units, so it looks again.
pub fn is_unit_name(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= NAME_MAX
        && name.bytes().next().is_some_and(word)
        && name.bytes().all(|b| word(b) || matches!(b, b'_' | b'.' | b'-'))
}

/// How the name of a packed file ends.
const PACKED: &str = ".zst";
/// How the name of a file ends that is being packed.
const PACKING: &str = ".packing";

/// `<unit>.log`, and `<unit>.log.<index>` of the older ones.
fn file_name(unit: &str, index: u32) -> String {
    match index {
        0 => format!("{unit}.log"),
        _ => format!("{unit}.log.{index}"),
    }
}

/// The names that an older file may have: as it is, and packed. For a moment it has both.
fn names(unit: &str, index: u32) -> [String; 2] {
    let plain = file_name(unit, index);
    let packed = format!("{plain}{PACKED}");
    [plain, packed]
}

/// What has a unit's log's name in the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The unit's name.
    pub unit: String,
    /// 0: the newest.
    pub index: u32,
    /// It is packed.
    pub is_packed: bool,
    /// Its bytes on the disk.
    pub size: u64,
    /// When it was written last, in seconds since 1970.
    pub written_s: i64,
    /// Its inode.
    pub inode: u64,
}

/// `None`: that is no log's name.
fn parse_name(name: &str) -> Option<(&str, u32, bool)> {
    let (unit, index, is_packed) = match name.strip_suffix(".log") {
        Some(unit) => (unit, 0, false),
        None => {
            let plain = name.strip_suffix(PACKED);
            let (unit, index) = plain.unwrap_or(name).rsplit_once(".log.")?;
            (unit, index.parse().ok().filter(|n| *n > 0)?, plain.is_some())
        }
    };
    is_unit_name(unit).then_some((unit, index, is_packed))
}

/// The folder of logs.
#[derive(Debug)]
pub struct LogDir {
    path: PathBuf,
    // Replaced when the folder was removed under us, so that readers and the writer agree on the new one.
    fd: Mutex<Arc<OwnedFd>>,
}

impl LogDir {
    /// Opens the folder, made with mode 0750 if it is missing. Refuses a link, a folder of another user than root and
    /// ourselves, and one that others can write: there anybody could put their own file in a log's place.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = Self::resolve(path)?;
        Ok(Self {
            path: path.to_owned(),
            fd: Mutex::new(Arc::new(fd)),
        })
    }

    fn resolve(path: &Path) -> io::Result<OwnedFd> {
        use std::os::unix::fs::DirBuilderExt;
        let is_new = match std::fs::DirBuilder::new().mode(DIR_MODE.bits()).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(e),
        };
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let fd = openat(AT_FDCWD, path, flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        let us = nix::unistd::geteuid().as_raw();
        if stat.st_uid != us && stat.st_uid != 0 {
            return Err(refused(format!(
                "it belongs to user {}, not to {us}: chown it, or choose another --log-dir",
                stat.st_uid
            )));
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(refused(format!(
                "others can write there (mode {:04o}): chmod go-w it, or choose another --log-dir",
                stat.st_mode & 0o7777
            )));
        }
        if is_new {
            fchmod(&fd, DIR_MODE)?; // our umask takes the group's right away
        }
        Ok(fd)
    }

    fn fd(&self) -> Arc<OwnedFd> {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Opens a unit's newest file for appending, made if it is missing. `unit` must be a unit's name.
    pub fn append(&self, unit: &str) -> io::Result<(File, FileStat)> {
        match self.append_here(unit) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                // The folder itself is gone: make it anew, with the same checks.
                let fd = Self::resolve(&self.path)?;
                *self.fd.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(fd);
                self.append_here(unit)
            }
            other => other,
        }
    }

    fn append_here(&self, unit: &str) -> io::Result<(File, FileStat)> {
        let flags = OFlag::O_RDWR
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_NOCTTY
            | OFlag::O_NONBLOCK // a FIFO in its place must not hold us
            | OFlag::O_CLOEXEC;
        let fd = openat(self.fd(), file_name(unit, 0).as_str(), flags, FILE_MODE).map_err(link_refused)?;
        let stat = regular(&fd)?;
        if stat.st_mode & 0o777 != FILE_MODE.bits() {
            fchmod(&fd, FILE_MODE)?; // our umask takes the group's right away
        }
        Ok((File::from(fd), stat))
    }

    /// Opens the file with this index for reading; None when there is none.
    pub fn read(&self, unit: &str, index: u32) -> io::Result<Option<LogFile>> {
        let [plain, packed] = names(unit, index);
        if let Some((file, _)) = self.open_existing(&plain)? {
            return Ok(Some(LogFile::Plain(file)));
        }
        if index == 0 {
            return Ok(None);
        }
        let Some((file, _)) = self.open_existing(&packed)? else {
            return Ok(None);
        };
        Ok(Some(LogFile::Packed(Packed::open(file)?)))
    }

    fn open_existing(&self, name: &str) -> io::Result<Option<(File, FileStat)>> {
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(self.fd(), name, flags, Mode::empty()) {
            Ok(fd) => {
                let stat = regular(&fd)?;
                Ok(Some((File::from(fd), stat)))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(link_refused(e)),
        }
    }

    /// What has the name of a unit's newest file, if anything.
    pub fn stat(&self, unit: &str) -> io::Result<Option<FileStat>> {
        stat_of(&self.fd(), unit, 0)
    }

    /// Gives every file of a unit the next number and drops the oldest, so that at most `max_files` remain with the new
    /// empty one, which it returns. At every moment the newest records stand in a file with a number or without, and
    /// there is a file without a number: the new one takes the place in one step.
    pub fn rotate(&self, unit: &str, max_files: u32) -> io::Result<(File, FileStat)> {
        let dir = self.fd();
        let max_files = max_files.clamp(1, LOG_FILES_MAX);
        Self::end_half_rotation(&dir, unit)?;
        let next = format!("{unit}.log.new");
        unlink(&dir, &next)?;
        let flags = OFlag::O_RDWR
            | OFlag::O_APPEND
            | OFlag::O_CREAT
            | OFlag::O_EXCL
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let fd = openat(&dir, next.as_str(), flags, FILE_MODE)?;
        fchmod(&fd, FILE_MODE)?;
        // Up to the first number that is free: a hole ends the shifting, what is older keeps its number.
        let mut free = 1;
        while free + 1 < max_files && is_there(&dir, unit, free)? {
            free += 1;
        }
        if free > 1 {
            // What stands there is too old, in whichever form: two forms of one number would be two texts.
            remove(&dir, unit, free)?;
        }
        for index in (1..free).rev() {
            let (from, to) = (names(unit, index), names(unit, index + 1));
            let is_packed = stat_name(&dir, &from[1])?.is_some();
            if is_packed {
                // One form at a time could be killed between the two, and its text would stand there twice.
                unlink(&dir, &from[0])?;
            }
            let form = usize::from(is_packed);
            match renameat(&dir, from[form].as_str(), &dir, to[form].as_str()) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if max_files > 1 {
            let (newest, first) = (file_name(unit, 0), file_name(unit, 1));
            remove(&dir, unit, 1)?;
            match linkat(&dir, newest.as_str(), &dir, first.as_str(), AtFlags::empty()) {
                Ok(()) | Err(Errno::ENOENT) => {}
                // A file system without hard links: for a moment there is no file without a number.
                Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK) => {
                    renameat(&dir, newest.as_str(), &dir, first.as_str())?;
                }
                Err(e) => return Err(e.into()),
            }
        }
        renameat(&dir, next.as_str(), &dir, file_name(unit, 0).as_str())?;
        let stat = fstat(&fd)?;
        Ok((File::from(fd), stat))
    }

    /// Ends what a rotation left half done when it was killed (the newest file has two names), and removes files past
    /// `max_files` when fewer are to be kept than before.
    pub fn settle(&self, unit: &str, max_files: u32) -> io::Result<()> {
        let dir = self.fd();
        Self::end_half_rotation(&dir, unit)?;
        let mut index = max_files.clamp(1, LOG_FILES_MAX);
        while index < LOG_FILES_MAX && remove(&dir, unit, index)? {
            index += 1;
        }
        Ok(())
    }

    // --- what becomes of older files ----------------------------------------------------------------------------

    /// All logs in the folder. Links and whatever else is no regular file are passed over.
    pub fn list(&self) -> io::Result<Vec<Found>> {
        let mut all = Vec::new();
        self.each_name(|dir, name| {
            if let Some((unit, index, is_packed)) = parse_name(name)
                && let Ok(stat) = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                && is_regular(&stat)
            {
                all.push(Found {
                    unit: unit.to_owned(),
                    index,
                    is_packed,
                    size: u64::try_from(stat.st_size).unwrap_or(0),
                    written_s: stat.st_mtime,
                    inode: stat.st_ino,
                });
            }
        })?;
        Ok(all)
    }

    /// Removes what was being packed by a logger that was killed. None may be packing now.
    pub fn remove_leftovers(&self) -> io::Result<()> {
        self.each_name(|dir, name| {
            if name.ends_with(PACKING) {
                let _ = unlinkat(dir, name, UnlinkatFlags::NoRemoveDir);
            }
        })
    }

    fn each_name(&self, mut each: impl FnMut(&OwnedFd, &str)) -> io::Result<()> {
        let fd = self.fd();
        // An own descriptor, since the place in the folder belongs to it.
        let mut dir = Dir::openat(
            &fd,
            ".",
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        for entry in dir.iter() {
            if let Ok(name) = entry?.file_name().to_str() {
                each(&fd, name);
            }
        }
        Ok(())
    }

    /// Opens an older file that is not packed, to be packed, with a new file to pack it into. None: there is none, or it is
    /// the newest file too (a rotation that was killed half way).
    pub fn begin_packing(&self, unit: &str, index: u32) -> io::Result<Option<Packing>> {
        let Some((plain, stat)) = self.open_existing(&file_name(unit, index))? else {
            return Ok(None);
        };
        if self
            .stat(unit)?
            .is_some_and(|newest| newest.st_ino == stat.st_ino)
        {
            return Ok(None);
        }
        // Its own name, so that two loggers (the one before may be ending) never write into one file.
        let name = format!("{unit}.log.{}{PACKING}", std::process::id());
        let dir = self.fd();
        unlink(&dir, &name)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&dir, name.as_str(), flags, FILE_MODE)?;
        let packing = Packing {
            unit: unit.to_owned(),
            index,
            dir,
            name,
            plain,
            stat,
            packed: File::from(fd),
        };
        fchmod(&packing.packed, FILE_MODE)?;
        Ok(Some(packing))
    }

    /// Where a packed file stands beside the plain one, that is whole: the plain one is removed. The caller holds the unit's
    /// place.
    pub fn end_half_packing(&self, unit: &str, index: u32) -> io::Result<()> {
        let dir = self.fd();
        let [plain, packed] = names(unit, index);
        if stat_name(&dir, &packed)?.is_some() {
            unlink(&dir, &plain)?;
        }
        Ok(())
    }

    /// Removes a unit's file with this index, if nothing older is there and the newest form of it has this inode. The
    /// caller holds the unit's place. False: it is another one by now.
    pub fn remove_oldest(&self, found: &Found) -> io::Result<bool> {
        let dir = self.fd();
        let unit = found.unit.as_str();
        let [plain, packed] = names(unit, found.index);
        let name = if found.is_packed { packed } else { plain };
        let is_it = stat_name(&dir, &name)?.is_some_and(|stat| stat.st_ino == found.inode);
        if found.index == 0 || !is_it || is_there(&dir, unit, found.index + 1)? {
            return Ok(false);
        }
        remove(&dir, unit, found.index)
    }

    fn end_half_rotation(dir: &OwnedFd, unit: &str) -> io::Result<()> {
        if let (Some(newest), Some(first)) = (stat_of(dir, unit, 0)?, stat_of(dir, unit, 1)?)
            && (newest.st_dev, newest.st_ino) == (first.st_dev, first.st_ino)
        {
            unlinkat(dir, file_name(unit, 1).as_str(), UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(())
    }
}

/// An older file that is being packed. Dropped before its end, it leaves things as they were.
#[derive(Debug)]
pub struct Packing {
    unit: String,
    index: u32,
    dir: Arc<OwnedFd>,
    /// Of what is being made.
    name: String,
    /// What is packed.
    pub plain: File,
    stat: FileStat,
    /// Into which.
    pub packed: File,
}

impl Packing {
    /// The bytes to be packed.
    pub fn len(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    /// The new file is whole, and on the disk: gives it its name. The caller holds the unit's place. False: the old file is
    /// gone, or somebody has written into it.
    pub fn publish(&mut self) -> io::Result<bool> {
        let now = fstat(&self.plain)?;
        let is_same = (now.st_size, now.st_mtime, now.st_mtime_nsec)
            == (self.stat.st_size, self.stat.st_mtime, self.stat.st_mtime_nsec);
        if !is_same || !self.find()? {
            return Ok(false);
        }
        // When its newest line was written: its age is counted from there.
        let time = |s, ns| TimeSpec::new(s, ns);
        futimens(
            &self.packed,
            &time(now.st_atime, now.st_atime_nsec),
            &time(now.st_mtime, now.st_mtime_nsec),
        )?;
        let [_, packed] = names(&self.unit, self.index);
        renameat(&self.dir, self.name.as_str(), &self.dir, packed.as_str())?;
        Ok(true)
    }

    /// The new name is on the disk too, as far as the file system can say.
    pub fn sync_name(&self) {
        let _ = nix::unistd::fsync(&self.dir);
    }

    /// Removes the plain file, whose text the packed one beside it has. The caller holds the unit's place.
    pub fn retire(&mut self) -> io::Result<()> {
        if self.find()? {
            let [plain, packed] = names(&self.unit, self.index);
            let ours = fstat(&self.packed)?;
            if stat_name(&self.dir, &packed)?.is_some_and(|stat| stat.st_ino == ours.st_ino) {
                unlink(&self.dir, &plain)?;
            }
        }
        Ok(())
    }

    /// Where the plain file is now: rotations go on meanwhile.
    fn find(&mut self) -> io::Result<bool> {
        let mut index = self.index;
        loop {
            match stat_of(&self.dir, &self.unit, index)? {
                Some(stat) if stat.st_ino == self.stat.st_ino => {
                    self.index = index;
                    return Ok(true);
                }
                _ if index < LOG_FILES_MAX && is_there(&self.dir, &self.unit, index)? => index += 1,
                _ => return Ok(false),
            }
        }
    }
}

impl Drop for Packing {
    fn drop(&mut self) {
        let _ = unlink(&self.dir, &self.name); // it has another name by now, or is not wanted
    }
}

/// A file with this index is there, in whichever form.
fn is_there(dir: &OwnedFd, unit: &str, index: u32) -> io::Result<bool> {
    for name in names(unit, index) {
        if stat_name(dir, &name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes a file in all its forms. False: there was none.
fn remove(dir: &OwnedFd, unit: &str, index: u32) -> io::Result<bool> {
    let mut was_there = false;
    for name in names(unit, index) {
        was_there |= unlink(dir, &name)?;
    }
    Ok(was_there)
}

/// False: there was none.
fn unlink(dir: &OwnedFd, name: &str) -> io::Result<bool> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn stat_of(dir: &OwnedFd, unit: &str, index: u32) -> io::Result<Option<FileStat>> {
    stat_name(dir, &file_name(unit, index))
}

fn stat_name(dir: &OwnedFd, name: &str) -> io::Result<Option<FileStat>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn regular(fd: &OwnedFd) -> io::Result<FileStat> {
    let stat = fstat(fd)?;
    if !is_regular(&stat) {
        return Err(refused("it is no regular file: move it away".to_owned()));
    }
    Ok(stat)
}

fn is_regular(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

fn link_refused(e: Errno) -> io::Error {
    match e {
        Errno::ELOOP => {
            refused("it is a symbolic link: move it away, or choose another --log-dir".to_owned())
        }
        e => e.into(),
    }
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn dir() -> (tempfile::TempDir, LogDir) {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = LogDir::open(&temp.path().join("log")).expect("opened");
        (temp, dir)
    }

    #[test]
    fn names_are_checked_again() {
        for good in ["a", "auto_sync", "0.x-y", &"a".repeat(64)] {
            assert!(is_unit_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "A",
            "-a",
            "_a",
            "a\0",
            "a b",
            "ä",
            &"a".repeat(65),
        ] {
            assert!(!is_unit_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let temp = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o777)).expect("chmod");
        let error = LogDir::open(temp.path()).expect_err("refused");
        assert!(error.to_string().contains("mode 0777"), "{error}");
    }

    #[test]
    fn a_folder_that_is_a_link_is_refused() {
        let temp = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(temp.path().join("real")).expect("mkdir");
        symlink("real", temp.path().join("link")).expect("symlink");
        LogDir::open(&temp.path().join("link")).expect_err("refused");
    }

    #[test]
    fn files_have_their_mode_whatever_the_umask() {
        let (temp, dir) = dir();
        dir.append("a").expect("opened");
        dir.rotate("a", 3).expect("rotated");
        for name in ["a.log", "a.log.1"] {
            let mode = temp
                .path()
                .join("log")
                .join(name)
                .metadata()
                .expect("there")
                .mode();
            assert_eq!(mode & 0o777, 0o640, "{name}");
        }
    }

    #[test]
    fn links_and_fifos_are_refused_and_their_targets_left_alone() {
        let (temp, dir) = dir();
        let target = temp.path().join("target");
        std::fs::write(&target, "mine").expect("written");
        symlink(&target, temp.path().join("log/a.log")).expect("symlink");
        let error = dir.append("a").expect_err("refused");
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert!(dir.read("a", 0).is_err());
        assert_eq!(std::fs::read(&target).expect("read"), b"mine");
        nix::unistd::mkfifo(&temp.path().join("log/b.log"), Mode::S_IRUSR | Mode::S_IWUSR).expect("fifo");
        assert!(
            dir.append("b")
                .expect_err("refused")
                .to_string()
                .contains("regular")
        );
    }

    #[test]
    fn rotation_keeps_so_many_files_in_their_order() {
        use std::io::Write;
        let (temp, dir) = dir();
        let (mut file, _) = dir.append("a").expect("opened");
        for n in 0..10 {
            write!(file, "{n}").expect("written");
            file = dir.rotate("a", 4).expect("rotated").0;
        }
        let mut names: Vec<_> = std::fs::read_dir(temp.path().join("log"))
            .expect("listed")
            .map(|e| e.expect("entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        assert_eq!(names, ["a.log", "a.log.1", "a.log.2", "a.log.3"]);
        for (name, text) in [
            ("a.log", ""),
            ("a.log.1", "9"),
            ("a.log.2", "8"),
            ("a.log.3", "7"),
        ] {
            assert_eq!(
                std::fs::read_to_string(temp.path().join("log").join(name)).expect("read"),
                text
            );
        }
        dir.settle("a", 2).expect("settled");
        assert!(!temp.path().join("log/a.log.2").exists() && !temp.path().join("log/a.log.3").exists());
        assert!(temp.path().join("log/a.log.1").exists());
    }

    #[test]
    fn a_rotation_that_was_killed_half_way_is_undone() {
        let (temp, dir) = dir();
        dir.append("a").expect("opened");
        let log = temp.path().join("log");
        std::fs::write(log.join("a.log"), "x").expect("written");
        std::fs::hard_link(log.join("a.log"), log.join("a.log.1")).expect("linked");
        std::fs::write(log.join("a.log.new"), "").expect("written");
        dir.settle("a", 4).expect("settled");
        assert!(!log.join("a.log.1").exists());
        dir.rotate("a", 4).expect("rotated");
        assert_eq!(std::fs::read(log.join("a.log.1")).expect("read"), b"x");
    }

    #[test]
    fn a_removed_folder_is_made_anew() {
        let (temp, dir) = dir();
        std::fs::remove_dir(temp.path().join("log")).expect("removed");
        dir.append("a").expect("opened again");
        assert!(temp.path().join("log/a.log").exists());
    }
}
