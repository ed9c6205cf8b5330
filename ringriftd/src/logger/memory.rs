//! Memory that outlives this process: numbers in a memfd that the keeper holds. A number that was stored is there for the
//! next logger, at whatever instruction this one is killed. No meaning.
//!
//! Read first: [`Words`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// So many numbers in a memfd.
#[derive(Debug)]
pub struct Words {
    base: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread; what is in it are atomics.
#[allow(unsafe_code)]
unsafe impl Send for Words {}

impl Words {
    /// Maps the first `count` numbers of `memory`, which is made longer if it is too short (then they are 0).
    pub fn map(memory: &OwnedFd, count: usize) -> io::Result<Self> {
        Self::map_at(memory, 0, count)
    }

    /// Likewise `count` numbers from byte `at` on, which is where a page begins.
    pub fn map_at(memory: &OwnedFd, at: u64, count: usize) -> io::Result<Self> {
        let bytes = count * size_of::<u64>();
        let file = File::from(memory.try_clone()?);
        if file.metadata()?.len() < at + bytes as u64 {
            file.set_len(at + bytes as u64)?;
        }
        // SAFETY: a new mapping, where the kernel likes, of a file that is at least so long.
        #[allow(unsafe_code)]
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                memory.as_raw_fd(),
                libc::off_t::try_from(at).map_err(io::Error::other)?,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { base, count })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "number {index} of {}", self.count);
        // SAFETY: the mapping has `count` aligned numbers (a page is aligned), lives as long as `self`, and every bit
        // pattern is a number.
        #[allow(unsafe_code)]
        unsafe {
            self.base.add(index).as_ref()
        }
    }

    /// What was stored last.
    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Stores, after all that was stored before.
    pub fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nothing borrows from it any more.
        #[allow(unsafe_code)]
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.count * size_of::<u64>());
        }
    }
}

/// Bytes that can be read from a pipe now (FIONREAD).
pub fn waiting(pipe: &impl AsFd) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which is ours.
    #[allow(unsafe_code)]
    let result = unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(count).unwrap_or(0))
}
