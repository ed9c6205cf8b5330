//! Where in a unit's files the lines are that somebody seeks: by their times and lives, which do not go back in a file, so
//! that a few blocks are read of a log of any size.
//!
//! Read first: [`range`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::log::{Severity, Stream};
use proto::reply::LineEnd;
use proto::request::{LogFilter, LogLife};
use regex::bytes::Regex;

use super::history::{Backward, Point, open, parsed};
use super::packed::LogFile;
use super::place::{Shared, Unit};
use super::quick::relaxed;
use super::record::{self, RECORD_MAX, Record};
use super::severity;
use crate::limits::LOG_BLOCK;
use crate::spec::Parse;

/// What one record must be like.
#[derive(Debug, Clone, Default)]
pub struct Sieve {
    /// Its text.
    pub pattern: Option<Regex>,
    /// By this, lines that cannot match are passed over many at once ([`super::quick`]).
    pub quick: Option<Regex>,
    /// Its life.
    pub life: Option<u64>,
    /// Not younger.
    pub until_us: Option<u64>,
    /// Not older.
    pub since_us: Option<u64>,
    /// Not less grave.
    pub severity: Option<Severity>,
    /// Where lines say how grave they are.
    pub parse: Parse,
    /// Where they were written.
    pub stream: Option<Stream>,
}

impl Sieve {
    /// For the lines of a unit whose present or last life is `last_life`; that before it is looked up.
    pub fn new(
        filter: &LogFilter,
        pattern: Option<Regex>,
        last_life: Option<u64>,
        parse: Parse,
        shared: &Arc<Shared>,
        unit: &Arc<Unit>,
    ) -> io::Result<Self> {
        let life = match (filter.life, last_life) {
            (None, _) => None,
            (Some(LogLife::Is(serial)), _) => Some(serial),
            // No record has it: nothing is found.
            (Some(LogLife::Previous), None) => Some(u64::MAX),
            (Some(LogLife::Previous), Some(last)) => {
                Some(life_before(shared, unit, last)?.unwrap_or(u64::MAX))
            }
        };
        // What was seen is behind what was wished for in the first place.
        let seen = filter.seen.iter().find(|seen| seen.unit == unit.name);
        let since_us = seen.map(|seen| seen.at_us).max(filter.since_us);
        Ok(Self {
            quick: pattern.as_ref().and_then(relaxed),
            pattern,
            life,
            until_us: filter.until_us,
            since_us,
            severity: filter.severity,
            parse,
            stream: filter.stream,
        })
    }

    /// Apart from its severity. What is no record has life 0.
    pub fn passes(&self, record: &Record<'_>) -> bool {
        self.life.is_none_or(|wanted| wanted == record.invocation)
            && (self.stream.is_none() || self.stream == record.stream)
            && self.since_us.is_none_or(|since| record.at_us >= since)
            && self.until_us.is_none_or(|until| record.at_us <= until)
            && self
                .pattern
                .as_ref()
                .is_none_or(|pattern| pattern.is_match(record.message))
    }

    /// How grave a record is that begins a line, as it says itself.
    pub fn severity(&self, record: &Record<'_>) -> Option<Severity> {
        severity::of(self.parse, record.message, record.end == LineEnd::Continues)
    }

    /// It is grave enough. What says nothing counts as `info`, as in journald.
    pub fn is_grave(&self, severity: Option<Severity>) -> bool {
        self.severity
            .is_none_or(|least| severity.unwrap_or(Severity::Info) <= least)
    }
}

/// Where the last `lines` records (absent: all) that pass the sieve begin, and where to stop reading: the end of what is
/// written now, or where everything is too young.
pub fn range(
    shared: &Arc<Shared>,
    unit: &Arc<Unit>,
    sieve: &Sieve,
    lines: Option<u64>,
) -> io::Result<(Point, Point)> {
    let (backward, written) = Backward::new(shared.clone(), unit.clone())?;
    let end = match sieve.until_us {
        Some(until) => first(shared, unit, written, &|record| record.at_us > until)?,
        None => written,
    };
    let since = |from: Option<u64>, is_after: &dyn Fn(&Record<'_>) -> bool| match from {
        Some(_) => first(shared, unit, end, is_after).map(Some),
        None => Ok(None),
    };
    let by_time = since(sieve.since_us, &|record| Some(record.at_us) >= sieve.since_us)?;
    let by_life = since(sieve.life, &|record| Some(record.invocation) >= sieve.life)?;
    let begin = by_time.max(by_life);
    let Some(lines) = lines else {
        let begin = match begin {
            Some(begin) => begin,
            None => first(shared, unit, end, &|_| true)?,
        };
        return Ok((begin.min(end), end));
    };
    let mut backward = if end == written {
        backward
    } else {
        Backward::before(shared.clone(), unit.clone(), end)?
    };
    let (mut start, mut found) = (end, 0);
    while found < lines {
        let Some((point, text)) = backward.previous()? else {
            break;
        };
        if begin.is_some_and(|begin| point < begin) {
            break;
        }
        // What is no record has the time of the line before it, which is not known here; it is looked at again when it
        // is told.
        let record = parsed(text, sieve.since_us.unwrap_or(0));
        if sieve.passes(&record) && sieve.is_grave(sieve.severity(&record)) {
            start = point;
            found += 1;
        }
    }
    Ok((start, end))
}

/// The newest life in the log that is older than `last`.
fn life_before(shared: &Arc<Shared>, unit: &Arc<Unit>, last: u64) -> io::Result<Option<u64>> {
    let (_, written) = Backward::new(shared.clone(), unit.clone())?;
    let begin = first(shared, unit, written, &|record| record.invocation >= last)?;
    let mut backward = Backward::before(shared.clone(), unit.clone(), begin)?;
    while let Some((_, text)) = backward.previous()? {
        if let Some(record) = record::parse(text)
            && record.invocation < last
        {
            return Ok(Some(record.invocation));
        }
    }
    Ok(None)
}

/// Where the first record begins that `is_after`, which holds for all records behind one for which it holds; else `end`.
/// Lines that are no records are passed over.
fn first(
    shared: &Arc<Shared>,
    unit: &Arc<Unit>,
    end: Point,
    is_after: &dyn Fn(&Record<'_>) -> bool,
) -> io::Result<Point> {
    let mut best = end;
    let mut number = end.0;
    loop {
        let found = {
            let place = unit.place();
            open(shared, unit, &place, number)?
        };
        let Some((file, size)) = found else {
            // The end may lie in a file that is still to be made.
            if number == end.0 && number > 0 {
                number -= 1;
                continue;
            }
            return Ok(best);
        };
        let pages = Pages { file, shared };
        let size = if number == end.0 { end.1 } else { size };
        match pages.record(0, size, is_after)? {
            Some((_, false)) => {
                let at = pages.search(size, is_after)?;
                // Nothing in this file: what comes behind it begins the next one.
                return Ok(if at < size { (number, at) } else { best });
            }
            // A file without any is passed over together with what comes behind it.
            Some((_, true)) | None => best = (number, 0),
        }
        match number.checked_sub(1) {
            Some(older) => number = older,
            None => return Ok(best),
        }
    }
}

/// A file that is looked into here and there.
struct Pages<'a> {
    file: LogFile,
    shared: &'a Shared,
}

impl Pages<'_> {
    fn read(&self, at: u64, want: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; want];
        let filled = self.file.read_full_at(&mut buffer, at)?;
        buffer.truncate(filled);
        self.shared.bytes_read.fetch_add(filled, Ordering::Relaxed);
        Ok(buffer)
    }

    /// The first record that begins at or behind `at` (which is 0, or in the middle of anything) and before `size`, and what
    /// `is_after` says of it. Some KiB are looked at: what has no record in them is another's file.
    fn record(
        &self,
        at: u64,
        size: u64,
        is_after: &dyn Fn(&Record<'_>) -> bool,
    ) -> io::Result<Option<(u64, bool)>> {
        let want = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX);
        let window = self.read(at, want.min(4 * RECORD_MAX))?;
        let mut begin = match at {
            0 => 0,
            _ => match memchr::memchr(b'\n', &window) {
                Some(newline) => newline + 1,
                None => return Ok(None),
            },
        };
        while let Some(length) = window.get(begin..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            if let Some(record) = record::parse(&window[begin..begin + length]) {
                return Ok(Some((at + begin as u64, is_after(&record))));
            }
            begin += length + 1;
        }
        Ok(None)
    }

    /// Where the first record begins that `is_after`, in a file whose first one is not; else `size`.
    fn search(&self, size: u64, is_after: &dyn Fn(&Record<'_>) -> bool) -> io::Result<u64> {
        // At `low` begins a record that is not; all that begin behind `high` are.
        let (mut low, mut high) = (0, size);
        while high - low > LOG_BLOCK as u64 {
            let middle = low + (high - low) / 2;
            match self.record(middle, high, is_after)? {
                Some((at, false)) => low = at,
                Some((_, true)) => high = middle,
                // Another's lines, or none: what is left is read through.
                None => break,
            }
        }
        let mut at = low;
        while at < size {
            let want = usize::try_from(size - at).unwrap_or(usize::MAX).min(LOG_BLOCK);
            let block = self.read(at, want)?;
            let mut begin = 0;
            while let Some(length) = block.get(begin..).and_then(|rest| memchr::memchr(b'\n', rest)) {
                if record::parse(&block[begin..begin + length]).is_some_and(|record| is_after(&record)) {
                    return Ok(at + begin as u64);
                }
                begin += length + 1;
            }
            match (begin, block.len()) {
                (0, 0) => break,
                // No newline in all of it.
                (0, length) => at += length as u64,
                (begin, _) => at += begin as u64,
            }
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proto::reply::LineEnd;

    use super::*;
    use crate::logger::dir::LogDir;
    use crate::logger::history::Cursor;
    use crate::logger::record::Clock;

    /// One line of a made log: its time, its life, its text.
    type Line = (u64, u64, String);

    /// A log in several files, the oldest first.
    fn made(files: &[Vec<Line>]) -> (tempfile::TempDir, Arc<Shared>) {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("log");
        let shared = Arc::new(Shared::new(LogDir::open(&path).expect("opened")));
        let mut clock = Clock::new();
        for (n, lines) in files.iter().enumerate() {
            let mut text = Vec::new();
            for (at_us, invocation, message) in lines {
                let record = Record {
                    at_us: *at_us,
                    invocation: *invocation,
                    end: LineEnd::Whole,
                    stream: None,
                    message: message.as_bytes(),
                };
                record::push(&mut text, &mut clock, record);
            }
            let name = match files.len() - 1 - n {
                0 => "a.log".to_owned(),
                older => format!("a.log.{older}"),
            };
            let mut file = std::fs::File::create(path.join(name)).expect("made");
            file.write_all(&text).expect("written");
        }
        (temp, shared)
    }

    fn found(shared: &Arc<Shared>, sieve: &Sieve, lines: Option<u64>) -> Vec<Line> {
        let unit = shared.unit("a").expect("a name");
        let (start, end) = range(shared, &unit, sieve, lines).expect("found");
        let mut cursor = Cursor::new(shared.clone(), unit, start, Some(end), LOG_BLOCK, sieve.clone());
        std::iter::from_fn(|| cursor.next().expect("read"))
            .map(|line| {
                let text = String::from_utf8(line.message).expect("it is text");
                (line.at_us, line.invocation, text)
            })
            .collect()
    }

    /// What comes next of a seeded row of numbers (splitmix64).
    fn dice(state: &mut u64, sides: u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    #[test]
    fn what_is_sought_is_found_whatever_is_sought() {
        let seed = &mut 7_u64;
        for round in 0..60 {
            let (mut at, mut life, mut all) = (1_000, 1, Vec::new());
            let files: Vec<Vec<Line>> = (0..1 + dice(seed, 4))
                .map(|_| {
                    // Some empty, some of a few lines, some that are searched.
                    let lines = [0, 3, 40, 4000][dice(seed, 4) as usize];
                    (0..lines)
                        .map(|nr| {
                            at += dice(seed, 3);
                            life += u64::from(dice(seed, 500) == 0);
                            let width = if dice(seed, 50) == 0 { 9_000 } else { 40 };
                            let grave = ["", "", "<3>", "<4>", "<7>"][dice(seed, 5) as usize];
                            (at, life, format!("{grave}{nr:0width$}"))
                        })
                        .collect()
                })
                .collect();
            all.extend(files.iter().flatten().cloned());
            let (_temp, shared) = made(&files);
            for _ in 0..12 {
                let some = |seed: &mut u64, most: u64| (dice(seed, 2) == 0).then(|| dice(seed, most));
                let pattern =
                    some(seed, 10).map(|digit| Regex::new(&format!("{digit}$")).expect("it is one"));
                let sieve = Sieve {
                    since_us: some(seed, at + 500).map(|at| at + 500),
                    until_us: some(seed, at + 500).map(|at| at + 500),
                    life: some(seed, life + 2),
                    pattern: pattern.clone(),
                    quick: pattern.as_ref().filter(|_| dice(seed, 2) == 0).and_then(relaxed),
                    severity: some(seed, 8).and_then(Severity::of),
                    parse: Parse::Prefix,
                    stream: None,
                };
                let lines = some(seed, 60);
                let passing = all.iter().filter(|(at, life, text)| {
                    let record = Record {
                        at_us: *at,
                        invocation: *life,
                        end: LineEnd::Whole,
                        stream: None,
                        message: text.as_bytes(),
                    };
                    let number = text.strip_prefix('<').map_or("6", |rest| &rest[..1]);
                    let number: u8 = number.parse().expect("a digit");
                    let is_grave = sieve.severity.is_none_or(|least| number <= least.number());
                    sieve.passes(&record) && is_grave
                });
                let mut wanted: Vec<Line> = passing.cloned().collect();
                if let Some(lines) = lines {
                    wanted.drain(..wanted.len().saturating_sub(lines as usize));
                }
                let got = found(&shared, &sieve, lines);
                assert!(
                    got == wanted,
                    "round {round}: {sieve:?}, {lines:?}: {} lines instead of {}",
                    got.len(),
                    wanted.len()
                );
            }
        }
    }

    #[test]
    fn a_time_in_a_big_log_is_found_without_reading_it() {
        let text = "x".repeat(90);
        let files: Vec<Vec<Line>> = (0..3_u64)
            .map(|file| {
                (0..100_000)
                    .map(|nr| (file * 100_000 + nr, 1 + file, text.clone()))
                    .collect()
            })
            .collect();
        let (_temp, shared) = made(&files);
        let sieve = Sieve {
            since_us: Some(150_000),
            until_us: Some(150_009),
            ..Sieve::default()
        };
        assert_eq!(found(&shared, &sieve, None).len(), 10);
        let read = shared.bytes_read.load(Ordering::Relaxed);
        assert!(read <= 64 * LOG_BLOCK, "{read} bytes of 37 MB");
        let unit = shared.unit("a").expect("a name");
        assert_eq!(life_before(&shared, &unit, 3).expect("read"), Some(2));
        assert_eq!(life_before(&shared, &unit, 9).expect("read"), Some(3));
        assert_eq!(life_before(&shared, &unit, 1).expect("read"), None);
    }

    #[test]
    fn lines_of_others_hide_nothing() {
        let line = |at: u64| (at, 1, format!("line {at}"));
        let (temp, shared) = made(&[(1000..3000).map(line).collect()]);
        let path = temp.path().join("log/a.log");
        let mut text = std::fs::read(&path).expect("written");
        // More than is looked at for a record, in the middle.
        let middle = text.len() / 2;
        let at = middle + memchr::memchr(b'\n', &text[middle..]).expect("a line") + 1;
        let foreign = [b"y".repeat(300_000), b"\n".to_vec()].concat();
        text.splice(at..at, foreign);
        std::fs::write(&path, &text).expect("written");
        for since in [1001, 1500, 1990, 2000, 2010, 2500, 2999] {
            let sieve = Sieve {
                since_us: Some(since),
                life: Some(1),
                ..Sieve::default()
            };
            assert_eq!(
                found(&shared, &sieve, None).len() as u64,
                3000 - since,
                "since {since}"
            );
            let sieve = Sieve {
                until_us: Some(since),
                life: Some(1),
                ..Sieve::default()
            };
            assert_eq!(
                found(&shared, &sieve, None).len() as u64,
                since - 999,
                "until {since}"
            );
        }
    }
}
