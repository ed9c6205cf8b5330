//! The writing side of one unit's log: records into its file, rotation, and what happens when the disk refuses. It
//! never waits: bytes that cannot be written stay here up to a bound, and the caller is told to stop reading.
//!
//! Read first: [`Journal::put`] and [`Blocked`].

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::reply::LineEnd;

use super::place::{Shared, Unit};
use super::record::{self, Clock, RECORD_MAX, Record};
use crate::limits::{LOG_FILE_CHECK, LOG_RETRY_DELAY, LOG_RETRY_MAX_DELAY, LOG_WRITE_BUFFER};

/// The log takes nothing more: what was put is kept, the rest must wait in the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked;

/// Since when a log cannot be written, and when it is tried again.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    retry_at: Instant,
    delay: Duration,
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
    open: Option<Open>,
    /// The present file's bytes.
    len: u64,
    /// The time of its last record: times never go back within a file.
    last_us: u64,
    /// `len` and `last_us` were read from the present file.
    is_known: bool,
    /// No rotation is half done, and no file is one too many.
    is_settled: bool,
    /// Encoded and not yet written. Empty between calls unless there is trouble.
    waiting: Vec<u8>,
    /// Records that end in `waiting`.
    waiting_records: u64,
    trouble: Option<Trouble>,
    lost: u64,
}

impl Journal {
    /// The log of `unit`. Touches no file yet.
    pub fn new(shared: Arc<Shared>, unit: Arc<Unit>) -> Self {
        Self {
            unit,
            shared,
            max_size: crate::limits::LOG_SIZE,
            max_files: crate::limits::LOG_FILES,
            open: None,
            len: 0,
            last_us: 0,
            is_known: false,
            is_settled: false,
            waiting: Vec::new(),
            waiting_records: 0,
            trouble: None,
            lost: 0,
        }
    }

    /// How much is kept, from now on.
    pub fn set_bounds(&mut self, max_size: u64, max_files: u32) {
        if max_files < self.max_files {
            self.is_settled = false; // some files are too many now
        }
        self.max_size = max_size;
        self.max_files = max_files;
    }

    /// The unit's name.
    pub fn name(&self) -> &str {
        &self.unit.name
    }

    /// Nothing more can be put for now.
    pub fn is_blocked(&self) -> bool {
        self.trouble.is_some()
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
        self.trouble.as_ref().map(|t| t.retry_at)
    }

    /// Adds one record. Fails without having taken it.
    pub fn put(&mut self, clock: &mut Clock, record: Record<'_>) -> Result<(), Blocked> {
        if self.is_blocked() {
            return Err(Blocked);
        }
        if !self.is_settled || self.open.is_none() {
            self.settle().map_err(|e| self.fail(&e))?;
        }
        let bytes = record::HEADER_MAX + record.message.len() + 1;
        let would_be = self.len + (self.waiting.len() + bytes) as u64;
        if would_be > self.max_size && self.len + self.waiting.len() as u64 > 0 {
            self.flush()?;
            self.rotate().map_err(|e| self.fail(&e))?;
        } else if self.waiting.len() + bytes > LOG_WRITE_BUFFER {
            self.flush()?;
        }
        self.encode(clock, record);
        Ok(())
    }

    /// Adds one record although the log is blocked, for what would else be lost with its pipe. Past
    /// [`LOG_WRITE_BUFFER`] it is counted and dropped.
    pub fn put_last(&mut self, clock: &mut Clock, record: Record<'_>) {
        if self.waiting.len() + RECORD_MAX > LOG_WRITE_BUFFER {
            self.lose(record.message.len() as u64);
        } else {
            self.encode(clock, record);
        }
    }

    /// [`Journal::put_last`] has room for one more record.
    pub fn has_room(&self) -> bool {
        self.waiting.len() + RECORD_MAX <= LOG_WRITE_BUFFER
    }

    /// Counts bytes that can be kept nowhere.
    pub fn lose(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    fn encode(&mut self, clock: &mut Clock, mut record: Record<'_>) {
        self.last_us = self.last_us.max(record.at_us);
        record.at_us = self.last_us;
        record::push(&mut self.waiting, clock, record);
        self.waiting_records += 1;
    }

    /// Writes what was put, and tells the readers.
    pub fn flush(&mut self) -> Result<(), Blocked> {
        if self.is_blocked() {
            return Err(Blocked);
        }
        if self.waiting.is_empty() {
            return Ok(());
        }
        match self.write_waiting() {
            Ok(()) => {
                self.waiting.clear();
                if self.waiting.capacity() > LOG_WRITE_BUFFER {
                    self.waiting.shrink_to(0);
                }
                Ok(())
            }
            Err(e) => Err(self.fail(&e)),
        }
    }

    /// Gives the buffer's memory back when it is empty: thousands of units share a few busy ones' memory.
    pub fn lend(&mut self, spare: &mut Vec<u8>) {
        if self.waiting.is_empty() {
            std::mem::swap(&mut self.waiting, spare);
        }
    }

    /// Tries a blocked log again. True: it is well.
    pub fn retry(&mut self, now: Instant) -> bool {
        let Some(trouble) = self.trouble.take() else {
            return true;
        };
        let result = if self.waiting.is_empty() {
            self.probe()
        } else {
            self.write_waiting()
        };
        match result {
            Ok(()) => {
                self.waiting = Vec::new();
                let lost = std::mem::take(&mut self.lost);
                crate::say!(
                    "ringriftd logger: the log of {} is written again after {} s{}",
                    self.unit.name,
                    now.saturating_duration_since(trouble.since).as_secs(),
                    if lost > 0 {
                        format!("; {lost} bytes are lost")
                    } else {
                        String::new()
                    },
                );
                true
            }
            Err(_) => {
                let delay = (trouble.delay * 2).min(LOG_RETRY_MAX_DELAY);
                self.trouble = Some(Trouble {
                    retry_at: now + delay,
                    delay,
                    ..trouble
                });
                false
            }
        }
    }

    /// The trouble was not with bytes: open the file, and rotate it if it is full.
    fn probe(&mut self) -> io::Result<()> {
        self.settle()?;
        if self.len > 0 && self.len + RECORD_MAX as u64 > self.max_size {
            self.rotate()
        } else {
            Ok(())
        }
    }

    /// Tells of trouble once; from then on [`Journal::retry`] is to be called.
    fn fail(&mut self, error: &io::Error) -> Blocked {
        crate::say!(
            "ringriftd logger: cannot write the log of {}: {error}; its output waits in its pipe until that is mended",
            self.unit.name
        );
        let now = Instant::now();
        let delay = LOG_RETRY_DELAY;
        self.trouble = Some(Trouble {
            since: now,
            retry_at: now + delay,
            delay,
        });
        Blocked
    }

    fn write_waiting(&mut self) -> io::Result<()> {
        self.settle()?;
        let mut written = 0;
        let result = loop {
            if written == self.waiting.len() {
                break Ok(());
            }
            let Some(open) = &mut self.open else {
                break Err(io::ErrorKind::NotFound.into());
            };
            match open.file.write(&self.waiting[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        if written > 0 {
            self.len += written as u64;
            let whole = result.is_ok();
            if !whole {
                self.waiting.drain(..written);
            }
            let mut place = self.unit.place();
            if whole {
                place.records += std::mem::take(&mut self.waiting_records);
            }
            place.len = Some(self.len);
            place.wake();
        }
        result
    }

    /// Makes sure that the file is open, is what has its name, and ends with a whole line.
    fn settle(&mut self) -> io::Result<()> {
        let now = Instant::now();
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

    /// Starts a new file. Everything put is written.
    fn rotate(&mut self) -> io::Result<()> {
        let mut place = self.unit.place();
        let (file, stat) = self.shared.dir.rotate(&self.unit.name, self.max_files)?;
        self.open = Some(Open {
            file,
            id: (stat.st_dev, stat.st_ino),
            checked: Instant::now(),
        });
        self.len = 0;
        self.last_us = 0;
        place.next_file(0);
        place.wake();
        Ok(())
    }
}

/// Splits what a pipe brings into lines, across reads. Holds at most one bound's worth of a line that has not ended.
#[derive(Debug, Default)]
pub struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Hands the lines of `input` to `put`, each with its mark, and keeps what has no end yet. Returns how many bytes
    /// were taken: all, unless `put` failed.
    pub fn split(
        &mut self,
        input: &[u8],
        mut put: impl FnMut(LineEnd, &[u8]) -> Result<(), Blocked>,
    ) -> usize {
        const MAX: usize = crate::limits::LOG_LINE_MAX;
        let mut taken = 0;
        while taken < input.len() {
            let rest = &input[taken..];
            // Never more than one byte past the bound, so that a piece is only cut when its line goes on.
            let room = MAX + 1 - self.partial.len();
            let window = &rest[..rest.len().min(room)];
            let newline = memchr::memchr(b'\n', window);
            let done = match newline {
                Some(at) if self.partial.is_empty() => put(LineEnd::Whole, &window[..at]),
                Some(at) => {
                    let before = self.partial.len();
                    self.partial.extend_from_slice(&window[..at]);
                    let done = put(LineEnd::Whole, &self.partial);
                    self.partial.truncate(if done.is_ok() { 0 } else { before });
                    done
                }
                None if window.len() < room => {
                    self.partial.extend_from_slice(window);
                    taken += window.len();
                    continue;
                }
                None => {
                    // A line of more than the bound: cut after exactly the bound.
                    let before = self.partial.len();
                    self.partial.extend_from_slice(&window[..MAX - before]);
                    let done = put(LineEnd::Continues, &self.partial);
                    self.partial.truncate(if done.is_ok() { 0 } else { before });
                    if done.is_ok() {
                        taken += MAX - before;
                        continue;
                    }
                    done
                }
            };
            if done.is_err() {
                return taken;
            }
            taken += newline.map_or(0, |at| at + 1);
        }
        if self.partial.is_empty() && self.partial.capacity() > 0 {
            self.partial = Vec::new(); // thousands of quiet pipes hold nothing
        }
        taken
    }

    /// The pipe ended: hands over what has no newline, if anything.
    pub fn end(&mut self, put: impl FnOnce(LineEnd, &[u8]) -> Result<(), Blocked>) -> Result<(), Blocked> {
        if !self.partial.is_empty() {
            put(LineEnd::Partial, &self.partial)?;
            self.partial = Vec::new();
        }
        Ok(())
    }
}
