//! From what a pipe brings to lines, over the borders of reads. No time, no file.
//!
//! Read first: [`Splitter::split`].

use proto::reply::LineEnd;

use super::journal::Stop;
use crate::limits::LOG_LINE_MAX;

/// Takes lines from a [`Splitter`].
pub trait Lines {
    /// One line, or a piece of one.
    fn put(&mut self, end: LineEnd, line: &[u8]) -> Result<(), Stop>;

    /// May take whole lines, each of at most `most` bytes, from the beginning of `input`: returns how many bytes those are
    /// with their newlines. The next one comes by `put`.
    fn put_whole(&mut self, input: &[u8], most: usize) -> usize;
}

struct OneByOne<F>(F);

impl<F: FnMut(LineEnd, &[u8]) -> Result<(), Stop>> Lines for OneByOne<F> {
    fn put(&mut self, end: LineEnd, line: &[u8]) -> Result<(), Stop> {
        (self.0)(end, line)
    }

    fn put_whole(&mut self, _input: &[u8], _most: usize) -> usize {
        0
    }
}

/// Splits what a pipe brings into lines, across reads. Holds at most one bound's worth of a line that has not ended.
#[derive(Debug)]
pub struct Splitter {
    partial: Vec<u8>,
    /// The bound of a line, in bytes.
    max: usize,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new(LOG_LINE_MAX)
    }
}

impl Splitter {
    /// Nothing is begun; a line of more than `max` bytes ([`LOG_LINE_MAX`] at most) is cut.
    pub fn new(max: usize) -> Self {
        Self {
            partial: Vec::new(),
            max: max.clamp(1, LOG_LINE_MAX),
        }
    }

    /// Goes on with a line that was begun.
    pub fn begin(&mut self, partial: Vec<u8>) {
        self.partial = partial;
    }

    /// The line that has no end yet.
    pub fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Hands the lines of `input` to `put`, each with its mark, and keeps what has no end yet. Returns how many bytes
    /// were taken: all, unless `put` failed; then no line is begun behind them, unless `put` took none.
    pub fn split(&mut self, input: &[u8], put: impl FnMut(LineEnd, &[u8]) -> Result<(), Stop>) -> usize {
        self.split_into(input, &mut OneByOne(put))
    }

    /// Likewise, to one that may take many whole lines at once.
    pub fn split_into(&mut self, input: &[u8], lines: &mut impl Lines) -> usize {
        // What was begun under another bound is taken as it is.
        let max = self.max.max(self.partial.len());
        let mut taken = 0;
        while taken < input.len() {
            let rest = &input[taken..];
            if self.partial.is_empty() {
                let whole = lines.put_whole(rest, max);
                if whole > 0 {
                    taken += whole;
                    continue;
                }
            }
            // Never more than one byte past the bound, so that a piece is only cut when its line goes on.
            let room = max + 1 - self.partial.len();
            let window = &rest[..rest.len().min(room)];
            let newline = memchr::memchr(b'\n', window);
            let done = match newline {
                Some(at) if self.partial.is_empty() => lines.put(LineEnd::Whole, &window[..at]),
                Some(at) => {
                    let before = self.partial.len();
                    self.partial.extend_from_slice(&window[..at]);
                    let done = lines.put(LineEnd::Whole, &self.partial);
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
                    self.partial.extend_from_slice(&window[..max - before]);
                    let done = lines.put(LineEnd::Continues, &self.partial);
                    self.partial.truncate(if done.is_ok() { 0 } else { before });
                    if done.is_ok() {
                        taken += max - before;
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
}
