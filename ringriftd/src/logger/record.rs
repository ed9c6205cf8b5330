//! The format of log files: one record a line, `2026-11-22T01:27:03.123456Z 42 | text`. It is made for grep and
//! `tail -F`, and read back exactly. `docs/logs.md` is the reference.
//!
//! No files here. Read first: [`push`] and [`parse`].

use std::time::{SystemTime, UNIX_EPOCH};

use proto::log::Stream;
use proto::reply::LineEnd;

/// The length of `2026-11-22T01:27:03.123456Z`.
const STAMP: usize = 27;
/// The longest text before a record's message, in bytes: the stamp, a serial of 20 digits, the stream, the mark, three spaces.
pub const HEADER_MAX: usize = STAMP + 1 + 20 + 1 + 1 + 1 + 1;
/// The longest record with its newline, in bytes.
pub const RECORD_MAX: usize = HEADER_MAX + crate::limits::LOG_LINE_MAX + 1;
/// 9999-12-31T23:59:59.999999Z, the last time that the format can say, in µs since 1970.
const LAST_US: u64 = 253_402_300_799_999_999;

/// One record as it stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When the logger read it, in µs since 1970.
    pub at_us: u64,
    /// The life that wrote it.
    pub invocation: u64,
    /// How the line ended.
    pub end: LineEnd,
    /// Where it was written, if that is told apart.
    pub stream: Option<Stream>,
    /// The exact bytes, no newline among them.
    pub message: &'a [u8],
}

/// Writes what stands before the mark, and remembers the last one: the lines of one read share it, and many reads
/// share a second.
#[derive(Debug)]
pub struct Clock {
    second: u64,
    /// The text of that second: `2026-11-22T01:27:03.`.
    text: [u8; 20],
    /// The time and life of `head`.
    of: Option<(u64, u64)>,
    /// `2026-11-22T01:27:03.123456Z 42`.
    head: Vec<u8>,
}

impl Clock {
    /// A clock that has said nothing yet.
    pub fn new() -> Self {
        Self {
            second: 0,
            text: second_text(0),
            of: None,
            head: Vec::with_capacity(HEADER_MAX),
        }
    }

    /// Time and life as text. A time past the year 9999 is written as its last µs.
    fn head(&mut self, at_us: u64, invocation: u64) -> &[u8] {
        if self.of != Some((at_us, invocation)) {
            self.of = Some((at_us, invocation));
            let at_us = at_us.min(LAST_US);
            let second = at_us / 1_000_000;
            if second != self.second {
                self.second = second;
                self.text = second_text(second);
            }
            self.head.clear();
            self.head.extend_from_slice(&self.text);
            self.head.extend_from_slice(&digits::<6>(at_us % 1_000_000));
            self.head.extend_from_slice(b"Z ");
            push_number(&mut self.head, invocation);
        }
        &self.head
    }
}

/// What stands before the text of whole lines of one time, life and stream.
#[derive(Debug)]
pub struct Head {
    text: Vec<u8>,
}

impl Clock {
    /// For many lines at once.
    pub fn whole(&mut self, at_us: u64, invocation: u64, stream: Option<Stream>) -> Head {
        let mut text = Vec::with_capacity(HEADER_MAX);
        push_head(&mut text, self, at_us, invocation, stream, LineEnd::Whole);
        Head { text }
    }
}

impl Head {
    /// Appends the record of a line, which has its newline.
    pub fn push(&self, out: &mut Vec<u8>, line: &[u8]) {
        out.extend_from_slice(&self.text);
        out.extend_from_slice(line);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Appends one record and its newline to `out`. `message` must not contain a newline: it comes from splitting at them.
pub fn push(out: &mut Vec<u8>, clock: &mut Clock, record: Record<'_>) {
    debug_assert!(memchr::memchr(b'\n', record.message).is_none());
    push_head(
        out,
        clock,
        record.at_us,
        record.invocation,
        record.stream,
        record.end,
    );
    out.extend_from_slice(record.message);
    out.push(b'\n');
}

fn push_head(
    out: &mut Vec<u8>,
    clock: &mut Clock,
    at_us: u64,
    invocation: u64,
    stream: Option<Stream>,
    end: LineEnd,
) {
    out.extend_from_slice(clock.head(at_us, invocation));
    out.extend_from_slice(match stream {
        None => b" ",
        Some(Stream::Stdout) => b" 1",
        Some(Stream::Stderr) => b" 2",
    });
    out.extend_from_slice(match end {
        LineEnd::Whole => b"| ",
        LineEnd::Continues => b"+ ",
        LineEnd::Partial => b"~ ",
    });
}

/// Reads one line of a file, without its newline. None: it is no record (somebody else wrote it, or a machine died
/// while it was written).
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let (stamp, rest) = line.split_at_checked(STAMP)?;
    let at_us = parse_stamp(stamp)?;
    let rest = rest.strip_prefix(b" ")?;
    let serial = memchr::memchr(b' ', rest.get(..rest.len().min(21))?)?;
    let invocation = parse_number(&rest[..serial])?;
    let (stream, rest) = match &rest[serial + 1..] {
        [b'1', rest @ ..] => (Some(Stream::Stdout), rest),
        [b'2', rest @ ..] => (Some(Stream::Stderr), rest),
        rest => (None, rest),
    };
    let (mark, message) = rest.split_at_checked(2)?;
    let end = match mark {
        b"| " => LineEnd::Whole,
        b"+ " => LineEnd::Continues,
        b"~ " => LineEnd::Partial,
        _ => return None,
    };
    Some(Record {
        at_us,
        invocation,
        end,
        stream,
        message,
    })
}

/// The length of the whole records at the beginning of what was written, and the bytes that they came from.
pub fn whole(written: &[u8]) -> (usize, usize) {
    let end = memchr::memrchr(b'\n', written).map_or(0, |at| at + 1);
    let from = written[..end]
        .split_inclusive(|b| *b == b'\n')
        .filter_map(|line| parse(line.strip_suffix(b"\n")?))
        .map(|record| record.message.len() + usize::from(record.end == LineEnd::Whole))
        .sum();
    (end, from)
}

/// The last `N` digits of `number`.
fn digits<const N: usize>(mut number: u64) -> [u8; N] {
    let mut text = [b'0'; N];
    for place in text.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
    text
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    let text = digits::<20>(number);
    let zeros = text.iter().take(19).take_while(|d| **d == b'0').count();
    out.extend_from_slice(&text[zeros..]);
}

/// A number without sign and leading zeros, so that each has one text only.
fn parse_number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || (text[0] == b'0' && text.len() > 1) {
        return None;
    }
    text.iter().try_fold(0u64, |n, d| {
        let digit = d.is_ascii_digit().then(|| u64::from(d - b'0'))?;
        n.checked_mul(10)?.checked_add(digit)
    })
}

fn second_text(second: u64) -> [u8; 20] {
    let (year, month, day) = date(second / 86_400);
    let of_day = second % 86_400;
    let mut text = *b"0000-00-00T00:00:00.";
    text[0..4].copy_from_slice(&digits::<4>(year));
    text[5..7].copy_from_slice(&digits::<2>(month));
    text[8..10].copy_from_slice(&digits::<2>(day));
    text[11..13].copy_from_slice(&digits::<2>(of_day / 3600));
    text[14..16].copy_from_slice(&digits::<2>(of_day / 60 % 60));
    text[17..19].copy_from_slice(&digits::<2>(of_day % 60));
    text
}

fn parse_stamp(text: &[u8]) -> Option<u64> {
    let field = |from: usize, len: usize| -> Option<u64> {
        text.get(from..from + len)?.iter().try_fold(0u64, |n, d| {
            d.is_ascii_digit().then(|| n * 10 + u64::from(d - b'0'))
        })
    };
    for (at, byte) in [
        (4, b'-'),
        (7, b'-'),
        (10, b'T'),
        (13, b':'),
        (16, b':'),
        (19, b'.'),
        (26, b'Z'),
    ] {
        if text.get(at) != Some(&byte) {
            return None;
        }
    }
    let (year, month, day) = (field(0, 4)?, field(5, 2)?, field(8, 2)?);
    let (hour, minute, second) = (field(11, 2)?, field(14, 2)?, field(17, 2)?);
    if hour > 23 || minute > 59 || second > 59 || year < 1970 {
        return None;
    }
    let days = days_since_1970(year, month, day)?;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second) * 1_000_000 + field(20, 6)?)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn month_lengths(year: u64) -> [u64; 12] {
    let february = if is_leap(year) { 29 } else { 28 };
    [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

/// Days from 1970-01-01 to the first day of `year`.
fn days_to_year(year: u64) -> u64 {
    let leaps = |y: u64| y / 4 - y / 100 + y / 400;
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

/// Year, month and day of a day since 1970.
fn date(days: u64) -> (u64, u64, u64) {
    // 400 years have 146 097 days: the guess is at most one year too late.
    let mut year = 1970 + days * 400 / 146_097;
    if days_to_year(year) > days {
        year -= 1;
    } else if days_to_year(year + 1) <= days {
        year += 1;
    }
    let mut rest = days - days_to_year(year);
    for (month, length) in (1..).zip(month_lengths(year)) {
        if rest < length {
            return (year, month, rest + 1);
        }
        rest -= length;
    }
    (year, 12, 31)
}

fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let lengths = month_lengths(year);
    let index = usize::try_from(month.checked_sub(1)?).ok()?;
    let length = *lengths.get(index)?;
    if day == 0 || day > length {
        return None;
    }
    Some(days_to_year(year) + lengths[..index].iter().sum::<u64>() + day - 1)
}

/// The present, µs since 1970.
pub fn now_us() -> u64 {
    // Before 1970 every record reads 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(at_us: u64, invocation: u64, end: LineEnd, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push(
            &mut out,
            &mut Clock::new(),
            Record {
                at_us,
                invocation,
                end,
                stream: None,
                message,
            },
        );
        out
    }

    #[test]
    fn a_record_reads_as_documented() {
        let at = 1_795_310_823_123_456;
        assert_eq!(
            text(at, 42, LineEnd::Whole, b"hello"),
            b"2026-11-22T01:27:03.123456Z 42 | hello\n"
        );
        assert_eq!(
            text(0, 0, LineEnd::Continues, b""),
            b"1970-01-01T00:00:00.000000Z 0 + \n"
        );
        assert_eq!(
            text(u64::MAX, u64::MAX, LineEnd::Partial, b"x"),
            b"9999-12-31T23:59:59.999999Z 18446744073709551615 ~ x\n"
        );
    }

    #[test]
    fn streams_that_are_told_apart_stand_before_the_mark() {
        let mut out = Vec::new();
        let mut clock = Clock::new();
        let record = |stream, end, message| Record {
            at_us: 1_795_310_823_123_456,
            invocation: 42,
            end,
            stream: Some(stream),
            message,
        };
        push(
            &mut out,
            &mut clock,
            record(Stream::Stdout, LineEnd::Whole, &b"hello"[..]),
        );
        push(
            &mut out,
            &mut clock,
            record(Stream::Stderr, LineEnd::Partial, b""),
        );
        assert_eq!(
            out.escape_ascii().to_string(),
            "2026-11-22T01:27:03.123456Z 42 1| hello\\n2026-11-22T01:27:03.123456Z 42 2~ \\n"
        );
        for bad in ["3| x", "12| x", "1 | x", "1", "|| x"] {
            let line = format!("2026-11-22T01:27:03.123456Z 42 {bad}");
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn every_day_of_the_format_has_the_date_that_the_calendar_gives() {
        let epoch = jiff::civil::date(1970, 1, 1);
        let mut day = epoch;
        for days in 0..=2_932_896u64 {
            let ours = date(days);
            assert_eq!(ours, (day.year() as u64, day.month() as u64, day.day() as u64));
            assert_eq!(days_since_1970(ours.0, ours.1, ours.2), Some(days));
            if days < 2_932_896 {
                day = day.tomorrow().expect("the calendar goes on");
            }
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let good = b"2026-11-22T01:27:03.123456Z 42 | hello".to_vec();
        assert!(parse(&good).is_some());
        for cut in 0..good.len() - 5 {
            assert_eq!(parse(&good[..cut]), None, "{cut} bytes");
        }
        for bad in [
            &b"2026-02-29T01:27:03.123456Z 42 | hello"[..],
            b"2026-13-01T01:27:03.123456Z 42 | hello",
            b"2026-11-22T24:27:03.123456Z 42 | hello",
            b"1969-11-22T01:27:03.123456Z 42 | hello",
            b"2026-11-22T01:27:03.123456Z 042 | hello",
            b"2026-11-22T01:27:03.123456Z 18446744073709551616 | hello",
            b"2026-11-22T01:27:03.123456Z 42 - hello",
            b"2026-11-22T01:27:03.123456Z  | hello",
        ] {
            assert_eq!(parse(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn one_clock_tells_every_time_and_life() {
        let times = [
            0,
            1,
            1,
            999_999,
            1_000_000,
            1_000_000,
            5,
            86_400_000_000,
            LAST_US,
            0,
        ];
        let mut clock = Clock::new();
        for at_us in times {
            for invocation in [1, 1, 2] {
                let mut out = Vec::new();
                let record = Record {
                    at_us,
                    invocation,
                    end: LineEnd::Whole,
                    stream: None,
                    message: b"x",
                };
                push(&mut out, &mut clock, record);
                assert_eq!(parse(&out[..out.len() - 1]), Some(record));
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(at_us in 0..=LAST_US, invocation: u64, mark in 0..3, of in 0..3,
                                        message in proptest::collection::vec(any::<u8>(), 0..200)) {
            let message: Vec<u8> = message.into_iter().filter(|b| *b != b'\n').collect();
            let end = [LineEnd::Whole, LineEnd::Continues, LineEnd::Partial][mark as usize];
            let stream = [None, Some(Stream::Stdout), Some(Stream::Stderr)][of as usize];
            let mut line = Vec::new();
            push(&mut line, &mut Clock::new(), Record { at_us, invocation, end, stream, message: &message });
            prop_assert!(line.len() <= HEADER_MAX + message.len() + 1);
            let record = Record { at_us, invocation, end, stream, message: &message };
            prop_assert_eq!(parse(line.strip_suffix(b"\n").unwrap()), Some(record));
        }

        #[test]
        fn random_bytes_never_panic(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&line);
        }
    }
}
