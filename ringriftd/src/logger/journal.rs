//! The writing side of one unit's log: records into its file, rotation, and what happens when the disk refuses. It
//! never waits, and keeps nothing: what cannot be written stays in its pipe, and the caller is told to stop reading.
//!
//! Read first: [`Journal::put`], [`Journal::commit`] and [`Stop`].

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::drops::Dropped;
use super::exact::{Batch, Done, Exact, Source, Target};
use super::forward::{Route, Shipping};
use super::kernel::Kernel;
use super::place::{Shared, Unit};
use super::record::{self, Clock, RECORD_MAX, Record, now_us};
use super::shelf::Keep;
use crate::keeper::wire::{LogCount, LogKeep};
use crate::limits::{LOG_FILE_CHECK, LOG_FILES_MAX, LOG_RETRY_DELAY, LOG_RETRY_MAX_DELAY, LOG_WRITE_BUFFER};
use proto::reply::LineEnd;

/// The log takes nothing more for now: what was put has to be committed first; or it is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop;

/// Since when a log cannot be written, and when it is tried again.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    retry_at: Instant,
    delay: Duration,
    /// It is being tried: nothing was refused yet.
    is_trying: bool,
}

/// The present file.
#[derive(Debug)]
struct Open {
    file: File,
    id: (u64, u64),
    checked: Instant,
}

/// One unit's log, as its writer sees it.
#[derive(Debug)]
pub struct Journal {
    unit: Arc<Unit>,
    shared: Arc<Shared>,
    max_size: u64,
    max_files: u32,
    keep: LogKeep,
    open: Option<Open>,
    /// The present file's bytes.
    len: u64,
    /// The time of its first record; 0: it has none.
    first_us: u64,
    /// The time of its last record: times never go back within a file.
    last_us: u64,
    /// `len`, `first_us` and `last_us` were read from the present file.
    is_known: bool,
    /// No rotation is half done, and no file is one too many.
    is_settled: bool,
    /// Records that were put and not committed.
    batch: Vec<u8>,
    /// How many they are.
    records: u64,
    trouble: Option<Trouble>,
    /// Bytes that could be kept nowhere since the trouble began.
    lost: u64,
    /// What was dropped and is not told in the log, as it stands in the keeper's memory; None: nothing.
    untold: Option<Dropped>,
    /// Since this process began.
    counted: Counted,
    /// Who else gets what is written.
    forward: Option<(Shipping, Arc<Route>)>,
}

/// From so many bytes on a read has the buffer made as large as it gets at once.
const LOG_BATCH_SMALL: usize = 32 * 1024;
/// Stands in the place of a record's mark where lines were dropped.
const DROPPED_MARK: u8 = b'!';

/// What a log was given since this process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counted {
    bytes: u64,
    lines: u64,
    lost: u64,
    lost_lines: u64,
    /// It differs from what was said of it last.
    is_news: bool,
}

impl Journal {
    /// The log of `unit`. Touches no file yet.
    pub fn new(shared: Arc<Shared>, unit: Arc<Unit>) -> Self {
        Self {
            unit,
            shared,
            max_size: crate::limits::LOG_SIZE,
            max_files: crate::limits::LOG_FILES,
            keep: LogKeep::default(),
            open: None,
            len: 0,
            first_us: 0,
            last_us: 0,
            is_known: false,
            is_settled: false,
            batch: Vec::new(),
            records: 0,
            trouble: None,
            lost: 0,
            untold: None,
            counted: Counted::default(),
            forward: None,
        }
    }

    /// How much is kept, from now on.
    pub fn set_bounds(&mut self, max_size: u64, max_files: u32, keep: LogKeep) {
        if max_files < self.max_files {
            self.is_settled = false; // some files are too many now
        }
        self.max_size = max_size;
        self.max_files = max_files;
        self.keep = keep;
        let max_age = self.max_age();
        let is_packed = keep.is_packed;
        self.shared
            .shelf
            .keep(&self.unit.name, Keep { is_packed, max_age });
    }

    /// `[log] max_age`.
    pub fn max_age(&self) -> Option<Duration> {
        let ms = self.keep.max_age_ms;
        (ms > 0).then(|| Duration::from_millis(ms))
    }

    /// The file's oldest line is as old as may be. (Not while the clock is behind it.)
    fn is_aged(&self, now_us: u64) -> bool {
        let most_us = self.keep.max_age_ms.saturating_mul(1000);
        most_us > 0 && self.first_us > 0 && now_us.saturating_sub(self.first_us) >= most_us
    }

    /// Rotates the file if its oldest line is too old, though nothing is written.
    pub fn look_at_age(&mut self, now_us: u64) {
        if self.trouble.is_some() || !self.batch.is_empty() || self.keep.max_age_ms == 0 {
            return; // whoever writes looks too
        }
        let done = self.settle().and_then(|()| match self.is_aged(now_us) {
            true => self.rotate(),
            false => Ok(()),
        });
        if let Err(e) = done {
            self.fail(&e);
        }
    }

    /// What is written goes there too, from now on.
    pub fn set_forward(&mut self, forward: Option<(Shipping, Arc<Route>)>) {
        self.forward = forward;
    }

    /// The unit's name.
    pub fn name(&self) -> &str {
        &self.unit.name
    }

    /// Nothing can be put for now.
    pub fn is_blocked(&self) -> bool {
        self.trouble.as_ref().is_some_and(|t| !t.is_trying)
    }

    /// It holds a descriptor.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Lets the descriptor go; the next record opens the file again.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// When a blocked log is to be tried again.
    pub fn retry_at(&self) -> Option<Instant> {
        self.trouble.as_ref().filter(|t| !t.is_trying).map(|t| t.retry_at)
    }

    /// Adds one record to the batch. Fails without having taken it.
    pub fn put(&mut self, clock: &mut Clock, mut record: Record<'_>) -> Result<(), Stop> {
        if self.is_blocked() {
            return Err(Stop);
        }
        if self.batch.is_empty() {
            self.settle().map_err(|e| self.fail(&e))?;
        }
        let bytes = record::HEADER_MAX + record.message.len() + 1;
        let there = self.len + self.batch.len() as u64;
        if there > 0 && (there + bytes as u64 > self.max_size || self.is_aged(record.at_us)) {
            if !self.batch.is_empty() {
                return Err(Stop);
            }
            self.rotate().map_err(|e| self.fail(&e))?;
        } else if !self.batch.is_empty() && self.batch.len() + bytes > LOG_WRITE_BUFFER {
            return Err(Stop);
        }
        self.last_us = self.last_us.max(record.at_us);
        record.at_us = self.last_us;
        if self.first_us == 0 {
            self.first_us = record.at_us;
        }
        record::push(&mut self.batch, clock, record);
        self.records += 1;
        Ok(())
    }

    /// Adds the whole lines that `input` begins with, each of `most` bytes or fewer, as far as there is room behind a record
    /// that was put: what [`Journal::put`] would do with each of them, in a fraction of the time. Returns their bytes. `like`
    /// says what is the same of all.
    pub fn put_whole(&mut self, clock: &mut Clock, like: Record<'_>, input: &[u8], most: usize) -> usize {
        if self.batch.is_empty() || self.is_blocked() || self.is_aged(like.at_us) {
            return 0; // a single record is to look into that
        }
        let left = usize::try_from(self.max_size.saturating_sub(self.len)).unwrap_or(usize::MAX);
        let limit = left.min(LOG_WRITE_BUFFER);
        if input.len() > LOG_BATCH_SMALL {
            let full = LOG_WRITE_BUFFER + RECORD_MAX;
            self.batch.reserve_exact(full.saturating_sub(self.batch.len()));
        }
        self.last_us = self.last_us.max(like.at_us);
        let head = clock.whole(self.last_us, like.invocation, like.stream);
        let mut taken = 0;
        for end in memchr::memchr_iter(b'\n', input) {
            let line = &input[taken..=end];
            if line.len() > most + 1 || self.batch.len() + record::HEADER_MAX + line.len() > limit {
                break;
            }
            head.push(&mut self.batch, line);
            self.records += 1;
            taken = end + 1;
        }
        taken
    }

    /// Writes what was put, moves the `taken` bytes that it and the begun line `partial` came from out of their pipe, and
    /// tells the readers. Returns how many bytes have left the pipe; if those are fewer, the log is blocked.
    pub fn commit<K: Kernel>(
        &mut self,
        exact: &mut Exact<K>,
        source: &mut Source,
        taken: usize,
        partial: &[u8],
    ) -> Result<Done, Stop> {
        self.commit_with(exact, source, taken, partial, None)
    }

    fn commit_with<K: Kernel>(
        &mut self,
        exact: &mut Exact<K>,
        source: &mut Source,
        taken: usize,
        partial: &[u8],
        dropped: Option<Dropped>,
    ) -> Result<Done, Stop> {
        let target = match &self.open {
            Some(open) if !self.batch.is_empty() => Some(Target {
                unit: &self.unit.name,
                file: &open.file,
                id: open.id,
                len: self.len,
            }),
            _ => None,
        };
        let batch = Batch {
            target,
            records: &self.batch,
            taken,
            partial,
            dropped,
        };
        let result = exact.commit(source, batch);
        let done = match result {
            Ok(done) => done,
            Err(e) => {
                self.batch.clear();
                self.records = 0;
                self.is_known = false; // the records may be written
                return Err(self.fail(&e));
            }
        };
        self.counted.bytes += done.taken as u64;
        self.counted.is_news |= done.taken > 0;
        if done.written > 0 {
            self.len += done.written as u64;
            self.shared.shelf.grew(done.written as u64);
            let records = match done.written == self.batch.len() {
                true => self.records,
                false => memchr::memchr_iter(b'\n', &self.batch[..done.written]).count() as u64,
            };
            self.counted.lines += records;
            self.counted.is_news = true;
            if let Some((shipping, route)) = &self.forward {
                shipping.offer(route, &self.batch[..done.written]);
            }
            let mut place = self.unit.place();
            place.records += records;
            place.len = Some(self.len);
            place.wake();
        }
        let has_records = !self.batch.is_empty();
        self.batch.clear();
        self.records = 0;
        if self.batch.capacity() > LOG_WRITE_BUFFER + RECORD_MAX {
            self.batch = Vec::new();
        }
        match &done.refused {
            Some(e) => {
                self.fail(e);
            }
            None if has_records => self.heal(),
            None => {}
        }
        Ok(done)
    }

    /// It is blocked, and drops what comes.
    pub fn is_dropping(&self) -> bool {
        self.keep.is_dropped && self.is_blocked()
    }

    /// Something was dropped that its log does not tell yet.
    pub fn has_untold(&self) -> bool {
        self.untold.is_some()
    }

    /// A logger before this one dropped something. How the unit's log is kept is not known yet: no file goes by that.
    pub fn set_untold(&mut self, dropped: Dropped) {
        self.untold = Some(dropped);
        self.max_size = u64::MAX;
        self.max_files = LOG_FILES_MAX;
    }

    /// Moves the `taken` bytes out of a pipe that `lines` lines came from, and the begun line `partial` behind them, and counts
    /// `bytes` of lines as dropped. Fails when that cannot be: then nothing has happened.
    pub fn drop_lines<K: Kernel>(
        &mut self,
        exact: &mut Exact<K>,
        source: &mut Source,
        taken: usize,
        partial: &[u8],
        (bytes, lines): (u64, u64),
    ) -> Result<(), Stop> {
        let Some(mut dropped) = self.untold.or_else(|| exact.dropped(&self.unit.name)) else {
            return Err(Stop);
        };
        dropped.bytes += bytes;
        dropped.lines += lines;
        dropped.life = source.id.invocation.0;
        let sums = (bytes > 0).then_some(dropped);
        self.commit_with(exact, source, taken, partial, sums)?;
        if bytes > 0 {
            self.untold = Some(dropped);
            self.counted.lost += bytes;
            self.counted.lost_lines += lines;
            self.counted.is_news = true;
        }
        Ok(())
    }

    /// Writes into the log what was dropped. The journal is not blocked.
    pub fn tell_dropped<K: Kernel>(&mut self, exact: &mut Exact<K>, clock: &mut Clock) -> Result<(), Stop> {
        let Some(dropped) = self.untold else { return Ok(()) };
        let mut source = exact.no_pipe().map_err(|e| self.fail(&e))?;
        let message = format!(
            "{} lines of {} bytes were dropped: the log could not be written",
            dropped.lines, dropped.bytes
        );
        let record = Record {
            at_us: now_us(),
            invocation: dropped.life,
            end: LineEnd::Whole,
            stream: None,
            message: message.as_bytes(),
        };
        self.put(clock, record)?;
        // Its own mark, so that it is none of the unit's lines.
        if let Some(mark) = memchr::memchr(b'|', &self.batch) {
            self.batch[mark] = DROPPED_MARK;
        }
        let none = Dropped {
            bytes: 0,
            lines: 0,
            ..dropped
        };
        let done = self.commit_with(exact, &mut source, 0, &[], Some(none))?;
        match done.refused {
            Some(_) => Err(Stop),
            None => {
                self.untold = None; // its place may become another unit's
                Ok(())
            }
        }
    }

    /// Gives the buffer's memory back when it is empty: thousands of units share a few busy ones' memory.
    pub fn lend(&mut self, spare: &mut Vec<u8>) {
        if self.batch.is_empty() {
            std::mem::swap(&mut self.batch, spare);
        }
    }

    /// Counts bytes that can be kept nowhere.
    pub fn lose(&mut self, bytes: u64) {
        self.lost += bytes;
        self.counted.lost += bytes;
        self.counted.is_news = true;
    }

    /// There is something that [`Journal::count`] has not told.
    pub fn has_news(&self) -> bool {
        self.counted.is_news
    }

    /// What it was given since this process began; that is no news any more. `None`: nothing.
    pub fn count(&mut self) -> Option<LogCount> {
        self.counted.is_news = false;
        let count = LogCount {
            unit: self.unit.name.clone(),
            bytes: self.counted.bytes,
            lines: self.counted.lines,
            lost: self.counted.lost,
            lost_lines: self.counted.lost_lines,
            is_blocked: self.trouble.is_some(),
        };
        let is_any = count.bytes + count.lines + count.lost > 0 || count.is_blocked;
        is_any.then_some(count)
    }

    /// Whoever was told of it last did not hear, or is gone.
    pub fn count_again(&mut self) {
        self.counted.is_news = true;
    }

    /// Tries a blocked log again. True: its pipes may be read, and what they bring tells whether it is well.
    pub fn retry(&mut self, now: Instant) -> bool {
        if let Err(e) = self.settle() {
            self.fail(&e);
            return false;
        }
        if let Some(trouble) = &mut self.trouble {
            trouble.is_trying = true;
            trouble.retry_at = now;
        }
        true
    }

    /// Something was written.
    fn heal(&mut self) {
        let Some(trouble) = self.trouble.take() else {
            return;
        };
        let lost = std::mem::take(&mut self.lost);
        self.counted.is_news = true;
        crate::say!(
            "ringriftd logger: the log of {} is written again after {} s{}",
            self.unit.name,
            trouble.since.elapsed().as_secs(),
            if lost > 0 {
                format!("; {lost} bytes are lost")
            } else {
                String::new()
            },
        );
    }

    /// Tells of trouble once; from then on [`Journal::retry`] is to be called, after a while that grows.
    fn fail(&mut self, error: &io::Error) -> Stop {
        let now = Instant::now();
        match &mut self.trouble {
            Some(trouble) => {
                trouble.delay = (trouble.delay * 2).min(LOG_RETRY_MAX_DELAY);
                trouble.retry_at = now + trouble.delay;
                trouble.is_trying = false;
            }
            None => {
                crate::say!(
                    "ringriftd logger: cannot write the log of {}: {error}; its output {} until that is mended",
                    self.unit.name,
                    match self.keep.is_dropped {
                        true => "is dropped",
                        false => "waits in its pipe",
                    }
                );
                self.counted.is_news = true;
                self.trouble = Some(Trouble {
                    since: now,
                    retry_at: now + LOG_RETRY_DELAY,
                    delay: LOG_RETRY_DELAY,
                    is_trying: false,
                });
            }
        }
        Stop
    }

    /// Makes sure that the file is open, is what has its name, and ends with a whole line.
    fn settle(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if let Some(open) = &mut self.open {
            // Somebody else's bytes must not be taken for ours, nor be cut off with them after a crash.
            let len = open.file.metadata()?.size();
            if len != self.len || !self.is_known {
                self.is_known = false;
                self.look_at_end(len)?;
            }
        }
        if let Some(open) = &mut self.open {
            if self.is_settled && now.duration_since(open.checked) < LOG_FILE_CHECK {
                return Ok(());
            }
            open.checked = now;
            let named = self.shared.dir.stat(&self.unit.name)?;
            if named.is_none_or(|s| (s.st_dev, s.st_ino) != open.id) {
                // Somebody removed it, or put another file there. That one gets a number like any older file, so
                // that numbers go on without a hole; readers finish the removed one.
                self.open = None;
                self.shared.dir.append(&self.unit.name)?;
                self.rotate()?;
            }
        }
        if !self.is_settled {
            let _place = self.unit.place(); // no reader may look while names change
            self.shared.dir.settle(&self.unit.name, self.max_files)?;
        }
        if self.open.is_none() {
            let (file, stat) = self.shared.dir.append(&self.unit.name)?;
            let len = u64::try_from(stat.st_size).unwrap_or(0);
            self.open = Some(Open {
                file,
                id: (stat.st_dev, stat.st_ino),
                checked: now,
            });
            if let Err(e) = self.look_at_end(len) {
                self.open = None;
                return Err(e);
            }
        }
        self.is_settled = true;
        Ok(())
    }

    /// Looks at the end of a file that was just opened: times go on from its last record, a torn line is ended.
    fn look_at_end(&mut self, len: u64) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if !self.is_known || len != self.len {
            let mut end = vec![0; (RECORD_MAX as u64 + 1).min(len) as usize];
            let from = len - end.len() as u64;
            open.file.read_exact_at(&mut end, from)?;
            let mut whole = len;
            let is_torn = end.last().is_some_and(|b| *b != b'\n');
            let lines = if is_torn {
                &end[..]
            } else {
                &end[..end.len().saturating_sub(1)]
            };
            let last = lines.rsplit(|b| *b == b'\n').find_map(record::parse);
            self.last_us = self.last_us.max(last.map_or(0, |r| r.at_us));
            let mut begin = vec![0; RECORD_MAX.min(end.len())];
            open.file.read_exact_at(&mut begin, 0)?;
            let first = begin.split(|b| *b == b'\n').find_map(record::parse);
            self.first_us = first.map_or(0, |r| r.at_us);
            if is_torn {
                open.file.write_all(b"\n")?;
                whole += 1;
            }
            self.len = whole;
            self.is_known = true;
        }
        self.unit.place().len = Some(self.len);
        Ok(())
    }

    /// Starts a new file. Everything that was put is committed.
    fn rotate(&mut self) -> io::Result<()> {
        let mut place = self.unit.place();
        let (file, stat) = self.shared.dir.rotate(&self.unit.name, self.max_files)?;
        self.open = Some(Open {
            file,
            id: (stat.st_dev, stat.st_ino),
            checked: Instant::now(),
        });
        self.len = 0;
        self.first_us = 0;
        self.last_us = 0;
        self.is_known = true;
        place.next_file(0);
        place.wake();
        drop(place);
        self.shared.shelf.rotated();
        Ok(())
    }
}
