//! The folder of state by descriptor: files of ours with mode 0600, never through a link; and the steps by which a new
//! base takes its place there, behind a trait so that tests can let any of them fail.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::store::Half;

/// The opened folder.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    fd: OwnedFd,
}

impl Folder {
    /// Opens it; it must exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let fd = open(path, flags, Mode::empty()).map_err(|e| said("open", path, e.into()))?;
        Ok(Self {
            path: path.to_owned(),
            fd,
        })
    }

    /// A file's path, for messages.
    pub fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Opens a file for reading and writing, made if it is missing.
    pub fn write(&self, name: &str) -> io::Result<File> {
        self.open_file(name, OFlag::O_RDWR | OFlag::O_CREAT)
    }

    /// Opens a file for reading; `None` when there is none.
    pub fn read(&self, name: &str) -> io::Result<Option<File>> {
        match self.open_file(name, OFlag::O_RDONLY) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Makes a file that is not there yet, in the place of whatever has its name.
    pub fn make(&self, name: &str) -> io::Result<File> {
        self.remove(name)?;
        self.open_file(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL)
    }

    /// Removes a file, if there is one.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(said("remove", &self.path.join(name), e.into())),
        }
    }

    /// Opens a file whatever it is without waiting, and refuses all but regular files.
    fn open_file(&self, name: &str, flags: OFlag) -> io::Result<File> {
        let fence = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let path = self.path.join(name);
        let fd =
            openat(&self.fd, name, flags | fence, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|e| match e {
                Errno::ELOOP => refused("open", &path, "it is a symbolic link: move it away"),
                e => said("open", &path, e.into()),
            })?;
        let file = File::from(fd);
        if !file.metadata()?.is_file() {
            return Err(refused("open", &path, "it is no regular file: move it away"));
        }
        Ok(file)
    }
}

fn said(verb: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {verb} {}: {error}", path.display()))
}

fn refused(verb: &str, path: &Path, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("cannot {verb} {}: {why}", path.display()),
    )
}

/// The steps that can fail when a state is put on disk.
pub trait Disk: Send + 'static {
    /// Makes the file of a new base.
    fn make(&mut self, folder: &Folder, name: &str) -> io::Result<File> {
        folder.make(name)
    }

    /// Writes a base into it.
    fn begin(&mut self, file: File, generation: u64, base: &[u8]) -> io::Result<Half> {
        Half::begin(file, generation, base).map_err(|(_, error)| error)
    }

    /// Appends a delta.
    fn append(&mut self, half: &mut Half, delta: &[u8]) -> io::Result<()> {
        half.append(delta)
    }

    /// fdatasync(2), which also puts down the length.
    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Gives a file the name of another, which is gone then.
    fn rename(&mut self, folder: &Folder, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&folder.fd, from, &folder.fd, to)?)
    }

    /// fsync(2) of the folder: only then a new name survives the machine.
    fn sync_folder(&mut self, folder: &Folder) -> io::Result<()> {
        Ok(nix::unistd::fsync(&folder.fd)?)
    }
}

/// The disk as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {}
