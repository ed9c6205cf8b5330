//! Reading logs back from their files: forwards from a place, on into files that do not exist yet, and backwards from
//! the end. Rotation may go on meanwhile: files are known by numbers that never change, not by their names.
//!
//! Read first: [`Cursor::next`] and [`Backward::previous`].

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::log::{Severity, Stream};
use proto::reply::{LineEnd, LogLine};

use super::packed::LogFile;
use super::place::{Permit, Place, Shared, Unit};
use super::record::{self, RECORD_MAX, Record};
use super::severity;
use super::sought::Sieve;
use crate::limits::{LOG_BEGUN_MAX, LOG_BLOCK, LOG_FIND_OTHERS};

/// A point in a unit's log: a file's number and an offset in it.
pub type Point = (u64, u64);

/// A line of a file. What is no record is passed on whole, with life 0 and the time of the line before
/// it, so that nothing in a file is ever hidden.
pub fn parsed(text: &[u8], last_us: u64) -> Record<'_> {
    record::parse(text).unwrap_or(Record {
        at_us: last_us,
        invocation: 0,
        end: LineEnd::Whole,
        stream: None,
        message: text,
    })
}

fn told(unit: &str, record: Record<'_>, severity: Option<Severity>) -> LogLine {
    LogLine {
        at_us: record.at_us,
        unit: unit.to_owned(),
        invocation: record.invocation,
        message: record.message.to_vec(),
        end: record.end,
        severity,
        stream: record.stream,
    }
}

/// For the manager itself: a prefix is all that is looked for.
fn whole(unit: &str, text: &[u8]) -> LogLine {
    let record = parsed(text, 0);
    told(unit, record, severity::prefix(record.message).0)
}

/// Opens the file with this number, and tells how long its text is. The caller holds the unit's place, so that names cannot
/// change meanwhile.
pub fn open(shared: &Shared, unit: &Unit, place: &Place, number: u64) -> io::Result<Option<(LogFile, u64)>> {
    let Some(index) = place.file.checked_sub(number).and_then(|i| u32::try_from(i).ok()) else {
        return Ok(None);
    };
    let Some(file) = shared.dir.read(&unit.name, index)? else {
        return Ok(None);
    };
    let len = file.len()?;
    Ok(Some((file, len)))
}

/// Reads forwards.
#[derive(Debug)]
pub struct Cursor {
    shared: Arc<Shared>,
    unit: Arc<Unit>,
    /// Where the next block is read.
    point: Point,
    /// Where it ends; None: it goes on as lines come.
    stop: Option<Point>,
    open: Option<(LogFile, Option<Permit>)>,
    /// Records taken from the present file.
    taken: u64,
    buffer: Vec<u8>,
    at: usize,
    block: usize,
    last_us: u64,
    missed: u64,
    sieve: Sieve,
    /// The last record of this life and stream was a piece of a line of this severity, and the next one goes on.
    begun: BTreeMap<(u64, Option<Stream>), Option<Severity>>,
}

enum Filled {
    Some,
    EndOfFile,
    Nothing,
}

impl Cursor {
    /// Reads what passes the sieve of `unit` from `start` in blocks of `block` bytes.
    pub fn new(
        shared: Arc<Shared>,
        unit: Arc<Unit>,
        start: Point,
        stop: Option<Point>,
        block: usize,
        sieve: Sieve,
    ) -> Self {
        Self {
            shared,
            unit,
            point: start,
            stop,
            open: None,
            taken: 0,
            buffer: Vec::new(),
            at: 0,
            block,
            last_us: 0,
            missed: 0,
            sieve,
            begun: BTreeMap::new(),
        }
    }

    /// The next line; None when there is none now.
    pub fn next(&mut self) -> io::Result<Option<LogLine>> {
        loop {
            self.leap();
            let rest = &self.buffer[self.at..];
            let newline = memchr::memchr(b'\n', rest);
            // Without one there is nothing of ours: a foreign file. In pieces, so that memory stays bounded.
            let found = match newline {
                Some(end) => Some((end, end + 1)),
                None => (rest.len() >= RECORD_MAX).then_some((RECORD_MAX, RECORD_MAX)),
            };
            if let Some((length, bytes)) = found {
                if let Some(line) = self.take(length, bytes) {
                    return Ok(Some(line));
                }
                continue;
            }
            match self.fill()? {
                Filled::Some => {}
                Filled::Nothing => {
                    if self.at == self.buffer.len() {
                        self.buffer = Vec::new(); // a follower of many quiet units holds nothing
                        self.at = 0;
                    }
                    return Ok(None);
                }
                Filled::EndOfFile => {
                    let left = self.buffer.len() - self.at;
                    if left > 0 {
                        match self.take(left, left) {
                            Some(line) => return Ok(Some(line)),
                            None => continue,
                        }
                    }
                    self.open = None;
                    self.point = (self.point.0 + 1, 0);
                    self.taken = 0;
                }
            }
        }
    }

    /// Passes over the lines of the buffer that cannot match, as one piece.
    fn leap(&mut self) {
        let Some(quick) = &self.sieve.quick else { return };
        if !self.begun.is_empty() {
            return; // each line may go on with one that was begun
        }
        let rest = &self.buffer[self.at..];
        let whole = &rest[..memchr::memrchr(b'\n', rest).map_or(0, |at| at + 1)];
        let found = quick.find(whole).map_or(whole.len(), |found| found.start());
        // A piece of a line says how grave those are that go on with it; its mark may be any text as well.
        let found = memchr::memmem::find(&whole[..found], b"+ ").unwrap_or(found);
        let bytes = memchr::memrchr(b'\n', &whole[..found]).map_or(0, |at| at + 1);
        if bytes == 0 {
            return;
        }
        let passed = &whole[..bytes];
        // What is no record has the time of the one before it.
        let mut lines = passed[..bytes - 1].rsplit(|byte| *byte == b'\n');
        if let Some(record) = lines.find_map(record::parse) {
            self.last_us = record.at_us;
        }
        self.taken += memchr::memchr_iter(b'\n', passed).count() as u64;
        self.at += bytes;
    }

    /// How many lines were rotated away unread since this was last asked; at least so many if they are older than
    /// this logger's memory.
    pub fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Takes the line of `length` bytes that comes next, and `bytes` with its end. None: it does not pass.
    fn take(&mut self, length: usize, bytes: usize) -> Option<LogLine> {
        let text = &self.buffer[self.at..self.at + length];
        let record = parsed(text, self.last_us);
        self.last_us = record.at_us;
        let passes = self.sieve.passes(&record);
        let is_piece = record.end == LineEnd::Continues;
        let mut line = None;
        if passes || is_piece || !self.begun.is_empty() {
            let begun = self.begun.remove(&(record.invocation, record.stream));
            let severity = begun.unwrap_or_else(|| self.sieve.severity(&record));
            if is_piece {
                if self.begun.len() >= LOG_BEGUN_MAX {
                    self.begun.pop_first(); // of an old life, whose end was never written
                }
                self.begun.insert((record.invocation, record.stream), severity);
            }
            if passes && self.sieve.is_grave(severity) {
                line = Some(told(&self.unit.name, record, severity));
            }
        }
        self.at += bytes;
        self.taken += 1;
        line
    }

    fn fill(&mut self) -> io::Result<Filled> {
        if self.stop.is_some_and(|stop| self.point >= stop) {
            return Ok(Filled::Nothing);
        }
        let (newest, written) = {
            let unit = self.unit.clone();
            let place = unit.place();
            if self.open.is_none() && !self.reopen(&place)? {
                return Ok(Filled::Nothing);
            }
            (place.file, place.len)
        };
        let Some((file, permit)) = &self.open else {
            return Ok(Filled::Nothing);
        };
        let mut limit = match written {
            Some(len) if self.point.0 == newest => len,
            _ => file.len()?,
        };
        if let Some((number, offset)) = self.stop
            && number == self.point.0
        {
            limit = limit.min(offset);
        }
        let want = usize::try_from(limit.saturating_sub(self.point.1))
            .unwrap_or(usize::MAX)
            .min(self.block);
        self.buffer.drain(..self.at);
        self.at = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + want, 0);
        let read = file.read_at(&mut self.buffer[before..], self.point.1);
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        let read = read?;
        self.shared.bytes_read.fetch_add(read, Ordering::Relaxed);
        self.point.1 += read as u64;
        if permit.is_none() {
            self.open = None;
        }
        Ok(match read {
            0 if self.point.0 < newest => Filled::EndOfFile,
            0 => Filled::Nothing,
            _ => Filled::Some,
        })
    }

    /// Opens the file of the present point, or the next one that is still there. False: there is none yet.
    fn reopen(&mut self, place: &Place) -> io::Result<bool> {
        for number in self.point.0..=place.file {
            let Some((file, _)) = open(&self.shared, &self.unit, place, number)? else {
                continue;
            };
            if number != self.point.0 {
                self.skip(place, number);
            }
            self.open = Some((file, self.shared.permit()));
            return Ok(true);
        }
        Ok(false)
    }

    fn skip(&mut self, place: &Place, number: u64) {
        self.missed += place
            .records_between(self.point.0, number)
            .saturating_sub(self.taken);
        self.buffer.clear(); // half a record, whose other half is gone
        self.at = 0;
        self.taken = 0;
        self.point = (number, 0);
    }
}

/// Reads lines backwards, from what is written now.
#[derive(Debug)]
pub struct Backward {
    shared: Arc<Shared>,
    unit: Arc<Unit>,
    /// The present file's number and the offset where `buffer` begins.
    point: Point,
    file: Option<LogFile>,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are still to be told, a newline last.
    end: usize,
    /// Bytes read.
    read: u64,
}

impl Backward {
    /// Starts at the end of `unit`'s log; also tells where that is.
    pub fn new(shared: Arc<Shared>, unit: Arc<Unit>) -> io::Result<(Self, Point)> {
        let (point, file) = {
            let place = unit.place();
            let found = open(&shared, &unit, &place, place.file)?;
            let len = match (&found, place.len) {
                (None, _) => 0,
                (Some(_), Some(len)) => len,
                (Some((_, size)), None) => *size,
            };
            ((place.file, len), found.map(|(file, _)| file))
        };
        Ok((Self::within(shared, unit, point, file), point))
    }

    /// Starts at `point`, where a line begins or the log ends.
    pub fn before(shared: Arc<Shared>, unit: Arc<Unit>, point: Point) -> io::Result<Self> {
        let file = {
            let place = unit.place();
            open(&shared, &unit, &place, point.0)?.map(|(file, _)| file)
        };
        Ok(Self::within(shared, unit, point, file))
    }

    fn within(shared: Arc<Shared>, unit: Arc<Unit>, point: Point, file: Option<LogFile>) -> Self {
        Self {
            shared,
            unit,
            point,
            file,
            buffer: Vec::new(),
            end: 0,
            read: 0,
        }
    }

    /// The line before, and where it begins.
    pub fn previous(&mut self) -> io::Result<Option<(Point, &[u8])>> {
        loop {
            if self.end > 0 {
                let newline = self.end - 1;
                let found = memchr::memrchr(b'\n', &self.buffer[..newline]);
                let is_giant = self.end > 4 * LOG_BLOCK;
                if found.is_some() || self.point.1 == 0 || is_giant {
                    let start = found.map_or(0, |at| at + 1);
                    self.end = start;
                    let point = (self.point.0, self.point.1 + start as u64);
                    return Ok(Some((point, &self.buffer[start..newline])));
                }
            }
            if self.point.1 > 0 {
                self.load()?;
            } else if !self.older()? {
                return Ok(None);
            }
        }
    }

    /// How many bytes were read so far.
    pub fn bytes(&self) -> u64 {
        self.read
    }

    /// Puts the block before the buffer in front of it.
    fn load(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else {
            self.point.1 = 0;
            return Ok(());
        };
        let want = self.point.1.min(LOG_BLOCK as u64) as usize;
        let from = self.point.1 - want as u64;
        let mut block = vec![0; want];
        file.read_exact_at(&mut block, from)?;
        self.shared.bytes_read.fetch_add(want, Ordering::Relaxed);
        self.read += want as u64;
        if self.end == 0 {
            // What stands after the last newline is no line yet.
            self.end = memchr::memrchr(b'\n', &block).map_or(0, |at| at + 1);
            block.truncate(self.end);
        } else {
            self.end += want;
            block.extend_from_slice(&self.buffer[..self.end - want]);
        }
        self.buffer = block;
        self.point.1 = from;
        Ok(())
    }

    fn older(&mut self) -> io::Result<bool> {
        let number = self.point.0 - 1;
        let place = self.unit.place();
        let found = open(&self.shared, &self.unit, &place, number)?;
        drop(place);
        let Some((file, size)) = found else {
            return Ok(false);
        };
        self.file = Some(file);
        self.point = (number, size);
        self.end = 0;
        Ok(true)
    }
}

/// The last records of one life (any: None), newest last, read back over at most `scan` bytes.
pub fn tail(
    shared: &Arc<Shared>,
    unit: &Arc<Unit>,
    invocation: Option<u64>,
    lines: usize,
    scan: u64,
) -> io::Result<Vec<LogLine>> {
    let (mut backward, _) = Backward::new(shared.clone(), unit.clone())?;
    let mut found = Vec::new();
    while found.len() < lines && backward.bytes() <= scan {
        let Some((_, text)) = backward.previous()? else {
            break;
        };
        let line = whole(&unit.name, text);
        if invocation.is_none_or(|i| i == line.invocation) {
            found.push(line);
        }
    }
    found.reverse();
    Ok(found)
}

/// The last record of a life, not older than `since_us`, that `is_it`; read back over at most `scan` bytes.
pub fn find(
    shared: &Arc<Shared>,
    unit: &Arc<Unit>,
    invocation: u64,
    since_us: u64,
    scan: u64,
    is_it: &dyn Fn(&[u8]) -> bool,
) -> io::Result<Option<LogLine>> {
    let (mut backward, _) = Backward::new(shared.clone(), unit.clone())?;
    let mut others = 0;
    while backward.bytes() <= scan && others <= LOG_FIND_OTHERS {
        let Some((_, text)) = backward.previous()? else {
            break;
        };
        let line = whole(&unit.name, text);
        if line.invocation != invocation {
            others += text.len() as u64;
            continue;
        }
        others = 0;
        if line.at_us < since_us {
            break;
        }
        if is_it(&line.message) {
            return Ok(Some(line));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::logger::dir::LogDir;
    use crate::logger::record::Clock;
    use crate::logger::sought::range;

    /// `files` files of `lines` records each, the oldest first; the messages count up over all of them.
    fn logs(files: u32, lines: u64) -> (tempfile::TempDir, Arc<Shared>) {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("log");
        let shared = Arc::new(Shared::new(LogDir::open(&path).expect("opened")));
        let mut clock = Clock::new();
        for n in 0..files {
            let mut text = Vec::new();
            for i in 0..lines {
                let number = u64::from(n) * lines + i;
                let message = format!("{number:090}");
                let record = Record {
                    at_us: number,
                    invocation: 1,
                    end: LineEnd::Whole,
                    stream: None,
                    message: message.as_bytes(),
                };
                record::push(&mut text, &mut clock, record);
            }
            let name = if n + 1 == files {
                "a.log".to_owned()
            } else {
                format!("a.log.{}", files - 1 - n)
            };
            std::fs::File::create(path.join(name))
                .expect("made")
                .write_all(&text)
                .expect("written");
        }
        (temp, shared)
    }

    fn forwards(shared: &Arc<Shared>, lines: Option<u64>) -> Vec<u64> {
        let unit = shared.unit("a").expect("a name");
        let (start, end) = range(shared, &unit, &Sieve::default(), lines).expect("found");
        let mut cursor = Cursor::new(
            shared.clone(),
            unit,
            start,
            Some(end),
            LOG_BLOCK,
            Sieve::default(),
        );
        std::iter::from_fn(|| cursor.next().expect("read"))
            .map(|l| l.at_us)
            .collect()
    }

    #[test]
    fn the_end_of_a_big_log_is_found_without_reading_the_rest() {
        let (_temp, shared) = logs(3, 100_000);
        assert_eq!(
            forwards(&shared, Some(50)),
            (299_950..300_000).collect::<Vec<_>>()
        );
        let read = shared.bytes_read.load(Ordering::Relaxed);
        assert!(read <= 2 * LOG_BLOCK, "{read} bytes of 37 MB");
    }

    #[test]
    fn the_last_lines_reach_over_files() {
        let (_temp, shared) = logs(4, 100);
        for lines in [0, 1, 99, 100, 101, 250, 400, 1000] {
            let from = 400u64.saturating_sub(lines);
            assert_eq!(
                forwards(&shared, Some(lines)),
                (from..400).collect::<Vec<_>>(),
                "{lines} lines"
            );
        }
        assert_eq!(forwards(&shared, None), (0..400).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_of_many_pieces_is_as_grave_as_its_beginning() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("log");
        let shared = Arc::new(Shared::new(LogDir::open(&path).expect("opened")));
        let lines = [
            (1, "+", "<3>the beginning, "),
            (2, "|", "somebody else's line"),
            (1, "+", "<6>the middle, "),
            (1, "|", "<6>the end"),
            (1, "|", "<6>another"),
            (1, "2+", "<3>on the other stream, "),
            (1, "1|", "<6>of no account"),
            (1, "2|", "<6>its end"),
            (1, "+", "<6>nothing grave "),
            (1, "~", "<3>in it"),
        ];
        let text: String = lines
            .iter()
            .map(|(life, mark, text)| format!("2026-11-22T01:27:03.000000Z {life} {mark} {text}\n"))
            .collect();
        std::fs::write(path.join("a.log"), text).expect("written");
        let unit = shared.unit("a").expect("a name");
        let sieve = Sieve {
            severity: Some(Severity::Err),
            ..Sieve::default()
        };
        let (start, end) = range(&shared, &unit, &sieve, None).expect("found");
        let mut cursor = Cursor::new(shared, unit, start, Some(end), LOG_BLOCK, sieve);
        let found: Vec<_> = std::iter::from_fn(|| cursor.next().expect("read")).collect();
        let texts: Vec<_> = found
            .iter()
            .map(|l| String::from_utf8_lossy(&l.message))
            .collect();
        assert_eq!(
            texts,
            [
                "<3>the beginning, ",
                "<6>the middle, ",
                "<6>the end",
                "<3>on the other stream, ",
                "<6>its end"
            ]
        );
        assert!(found.iter().all(|line| line.severity == Some(Severity::Err)));
    }

    #[test]
    fn a_foreign_file_without_newlines_is_read_in_pieces() {
        let (temp, shared) = logs(1, 1);
        let mut text = vec![b'x'; 1 << 20];
        text.extend_from_slice(b"\n1970-01-01T00:00:00.000007Z 1 | end\n");
        std::fs::write(temp.path().join("log/a.log"), &text).expect("written");
        let unit = shared.unit("a").expect("a name");
        let (start, end) = range(&shared, &unit, &Sieve::default(), None).expect("found");
        let mut cursor = Cursor::new(
            shared.clone(),
            unit.clone(),
            start,
            Some(end),
            LOG_BLOCK,
            Sieve::default(),
        );
        let lines: Vec<_> = std::iter::from_fn(|| cursor.next().expect("read")).collect();
        assert!(lines.iter().all(|l| l.message.len() <= RECORD_MAX));
        assert_eq!(
            lines.iter().map(|l| l.message.len()).sum::<usize>(),
            (1 << 20) + 3
        );
        assert_eq!(tail(&shared, &unit, Some(1), 5, 1 << 30).expect("read").len(), 1);
    }

    #[test]
    fn the_managers_look_back_is_bounded() {
        let (_temp, shared) = logs(3, 10_000);
        let unit = shared.unit("a").expect("a name");
        assert_eq!(tail(&shared, &unit, Some(99), 5, 1 << 20).expect("read"), []);
        let read = shared.bytes_read.load(Ordering::Relaxed);
        assert!(read <= (1 << 20) + 2 * LOG_BLOCK, "{read} bytes");
    }
}
