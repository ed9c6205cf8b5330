//! The calls that change what outlives the logger, in one place, so that a test can stop it at each of them. When they are made
//! is [`super::exact`]'s.
//!
//! Read first: [`Kernel`].

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::SpliceFFlags;
use nix::sys::stat::fstat;

use super::memory::Words;
use crate::limits::LOG_READ;

/// Every call that changes what outlives this process, so that a test can stop the process at each of them.
pub trait Kernel {
    /// write(2) to a log.
    fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<usize>;
    /// ftruncate(2) of a log.
    fn truncate(&mut self, file: &File, len: u64) -> io::Result<()>;
    /// splice(2) from pipe to pipe, without waiting.
    fn splice(&mut self, from: &OwnedFd, to: &OwnedFd, len: usize) -> io::Result<usize>;
    /// Takes bytes out of the hold, for good.
    fn drain(&mut self, hold: &OwnedFd, sink: &mut Sink, len: usize) -> io::Result<usize>;
    /// pwrite(2) into the memfd.
    fn keep(&mut self, memory: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Stores a number of the note.
    fn store(&mut self, words: &Words, index: usize, value: u64);
}

/// The real one.
#[derive(Debug, Default)]
pub struct Linux;

impl Kernel for Linux {
    fn write(&mut self, mut file: &File, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut file, bytes)
    }

    fn truncate(&mut self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn splice(&mut self, from: &OwnedFd, to: &OwnedFd, len: usize) -> io::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        Ok(nix::fcntl::splice(from, None, to, None, len, flags)?)
    }

    fn drain(&mut self, hold: &OwnedFd, sink: &mut Sink, len: usize) -> io::Result<usize> {
        sink.take(hold, len)
    }

    fn keep(&mut self, memory: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(memory, bytes, offset)
    }

    fn store(&mut self, words: &Words, index: usize, value: u64) {
        words.set(index, value);
    }
}

/// Where bytes go that are done with: /dev/null, which takes pages as they are; where there is none, a buffer.
#[derive(Debug)]
pub struct Sink {
    null: Option<File>,
    buffer: Vec<u8>,
}

impl Sink {
    /// Looks whether /dev/null is what it should be: a file in its place would be written into.
    pub fn new() -> Self {
        let null = File::options().write(true).open("/dev/null").ok();
        let is_null = |file: &File| fstat(file).is_ok_and(|stat| stat.st_rdev == libc::makedev(1, 3));
        Self {
            null: null.filter(is_null),
            buffer: Vec::new(),
        }
    }

    /// Takes at most `len` bytes out of a pipe that has some.
    fn take(&mut self, pipe: &OwnedFd, len: usize) -> io::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        if let Some(null) = &self.null {
            match nix::fcntl::splice(pipe, None, null, None, len, flags) {
                // A sandbox may forbid it.
                Err(Errno::EINVAL | Errno::EPERM | Errno::ENOSYS) => self.null = None,
                done => return Ok(done?),
            }
        }
        self.buffer.resize(LOG_READ, 0);
        let room = len.min(self.buffer.len());
        Ok(nix::unistd::read(pipe, &mut self.buffer[..room])?)
    }
}
