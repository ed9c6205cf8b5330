//! Where each unit's log stands, as the writer tells it to the readers: which file is being written and how far it
//! reaches. Also how the writer wakes those who follow. This is all that writer and readers share; the bytes
//! themselves are read back from the files, so that no reader can ever hold up the writer.
//!
//! Read first: [`Place`] and [`Follower`].

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::dir::LogDir;
use super::shelf::Shelf;
use crate::limits::LOG_READERS_OPEN_MAX;

/// The number of the file that stood there when this logger started. Older files count down from it, new ones up.
pub const FIRST_FILE: u64 = 1 << 32;
/// Beginnings of files that are remembered, to count what a slow reader missed.
const BEGINNINGS: usize = 256;

/// How far a unit's log reaches.
#[derive(Debug)]
pub struct Place {
    /// The number of the file that is being written. The file with the index `i` has this number less `i`.
    pub file: u64,
    /// The bytes of it that are written; None until the writer has opened it.
    pub len: Option<u64>,
    /// Records written by this logger.
    pub records: u64,
    /// For the last files: number, and `records` when it began.
    beginnings: VecDeque<(u64, u64)>,
    followers: Vec<(Weak<Follower>, u32)>,
}

impl Place {
    /// A new file is written from now on.
    pub fn next_file(&mut self, len: u64) {
        self.file += 1;
        self.len = Some(len);
        if self.beginnings.len() == BEGINNINGS {
            self.beginnings.pop_front();
        }
        self.beginnings.push_back((self.file, self.records));
    }

    /// Records in files from number `from` up to but without number `to`, as far as they are remembered.
    pub fn records_between(&self, from: u64, to: u64) -> u64 {
        let at = |file| {
            self.beginnings
                .iter()
                .find(|(f, _)| *f >= file)
                .map_or(self.records, |(_, r)| *r)
        };
        at(to).saturating_sub(at(from))
    }

    /// Wakes all who follow this unit.
    pub fn wake(&mut self) {
        self.followers
            .retain(|(follower, index)| match follower.upgrade() {
                Some(follower) => {
                    follower.mark(*index);
                    true
                }
                None => false,
            });
    }

    /// Lets `follower` know of this unit's new lines, under a number of its own choice.
    pub fn follow(&mut self, follower: &Arc<Follower>, index: u32) {
        self.followers.retain(|(f, _)| f.strong_count() > 0);
        self.followers.push((Arc::downgrade(follower), index));
    }
}

/// One unit's log, shared by the writer and the readers.
#[derive(Debug)]
pub struct Unit {
    /// Its checked name.
    pub name: String,
    place: Mutex<Place>,
}

impl Unit {
    /// Its place. The writer holds this while it rotates, so whoever holds it finds files under the numbers it says.
    pub fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that writer and readers share.
#[derive(Debug)]
pub struct Shared {
    /// The folder of logs.
    pub dir: LogDir,
    /// What is told to the thread that tends older files.
    pub shelf: Shelf,
    units: Mutex<BTreeMap<String, Arc<Unit>>>,
    open: AtomicUsize,
    /// Bytes that were read back from files, to prove that the end of a big log is found without reading all of it.
    pub bytes_read: AtomicUsize,
}

impl Shared {
    /// Nothing is known yet of any unit.
    pub fn new(dir: LogDir) -> Self {
        Self {
            dir,
            shelf: Shelf::default(),
            units: Mutex::default(),
            open: AtomicUsize::new(0),
            bytes_read: AtomicUsize::new(0),
        }
    }

    /// A unit's shared part. None: that is no unit's name.
    pub fn unit(&self, name: &str) -> Option<Arc<Unit>> {
        if !super::dir::is_unit_name(name) {
            return None;
        }
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(unit) = units.get(name) {
            return Some(unit.clone());
        }
        let place = Place {
            file: FIRST_FILE,
            len: None,
            records: 0,
            beginnings: VecDeque::new(),
            followers: Vec::new(),
        };
        let unit = Arc::new(Unit {
            name: name.to_owned(),
            place: Mutex::new(place),
        });
        units.insert(name.to_owned(), unit.clone());
        Some(unit)
    }

    /// Whether a reader may keep one more file open; it gives the right back by dropping it.
    pub fn permit(self: &Arc<Self>) -> Option<Permit> {
        let taken = self.open.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.clone());
        (taken < LOG_READERS_OPEN_MAX).then_some(permit)
    }
}

/// The right to keep one log file open for reading.
#[derive(Debug)]
pub struct Permit(Arc<Shared>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Somebody who follows units: told which of them have news, at the cost of one write(2) for all news since it last
/// looked.
#[derive(Debug)]
pub struct Follower {
    event: EventFd,
    is_told: AtomicBool,
    dirty: Mutex<Vec<u32>>,
    marked: Vec<AtomicBool>,
    /// Whoever it is is to ask again.
    is_over: AtomicBool,
}

impl Follower {
    /// Follows `units` units.
    pub fn new(units: usize) -> nix::Result<Arc<Self>> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Arc::new(Self {
            event: EventFd::from_value_and_flags(0, flags)?,
            is_told: AtomicBool::new(false),
            dirty: Mutex::default(),
            marked: (0..units).map(|_| AtomicBool::new(false)).collect(),
            is_over: AtomicBool::new(false),
        }))
    }

    fn mark(&self, index: u32) {
        let Some(marked) = self.marked.get(index as usize) else {
            return;
        };
        if marked.swap(true, Ordering::AcqRel) {
            return;
        }
        self.dirty
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(index);
        if !self.is_told.swap(true, Ordering::AcqRel) {
            // It cannot be full: it is written once for each time that it was read.
            let _ = self.event.write(1);
        }
    }

    /// Has whoever it is ask again.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        // Added to what is there, so that it is full never.
        let _ = self.event.write(1);
    }

    /// That was said.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// The units with news since the last call, each once.
    pub fn take(&self) -> Vec<u32> {
        let _ = self.event.read();
        self.is_told.store(false, Ordering::Release);
        let dirty = std::mem::take(&mut *self.dirty.lock().unwrap_or_else(PoisonError::into_inner));
        for index in &dirty {
            self.marked[*index as usize].store(false, Ordering::Release);
        }
        dirty
    }
}

impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
