//! One launch's pipe: a look into it, from there into its unit's log, and its last words.
//!
//! Read first: [`Pipe`] and [`read_pipe`].

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use proto::log::Stream;
use proto::reply::LineEnd;

use super::exact::{Exact, Peek, Source};
use super::journal::{Journal, Stop};
use super::kernel::Linux;
use super::memory::waiting;
use super::record::{Clock, Record, now_us};
use super::split::{Lines, Splitter};
use crate::keeper::wire::Output;
use crate::limits::{LOG_DROP_KEEP, LOG_LINE_MAX};

/// One launch's output.
#[derive(Debug)]
pub struct Pipe {
    /// It, and what is noted of it.
    pub source: Source,
    /// The number of its unit's log among the writer's.
    pub journal: usize,
    /// What is written to it, if that is not both streams.
    pub stream: Option<Stream>,
    /// Makes lines of what it brings.
    pub splitter: Splitter,
    /// How long it is read after its launch is over.
    pub drain: Duration,
    /// The launch is over: until when its pipe is read.
    pub close_at: Option<Instant>,
    /// That time has passed, and its log is blocked.
    pub is_waiting: bool,
    /// epoll tells of it.
    pub is_watched: bool,
    /// The beginning of a line that was too long for one record was dropped: the rest is, too.
    pub is_cut: bool,
    /// It has more room than a pipe begins with, or cannot have it ([`super::rooms`]).
    pub is_wide: bool,
}

impl Pipe {
    /// One that is read as `output` says, and goes on with the line `begun`.
    pub fn new(
        source: Source,
        journal: usize,
        stream: Option<Stream>,
        begun: Vec<u8>,
        output: &Output,
    ) -> Self {
        let max_line = match output.read.max_line {
            0 => LOG_LINE_MAX,
            bytes => bytes as usize,
        };
        let mut splitter = Splitter::new(max_line);
        splitter.begin(begun);
        Self {
            source,
            journal,
            stream,
            splitter,
            drain: Duration::from_millis(output.drain_ms),
            close_at: None,
            is_waiting: false,
            is_watched: false,
            is_cut: false,
            is_wide: false,
        }
    }
}

/// What a turn of reading a pipe came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many bytes were read, and there may be more.
    More(usize),
    /// There is nothing for now.
    Empty,
    /// All who could write are gone.
    End,
    /// Its log takes nothing for now.
    Blocked,
}

/// Has epoll tell of it, as `token`.
pub fn watch(epoll: &Epoll, pipe: &mut Pipe, token: u64) -> io::Result<()> {
    if !pipe.is_watched {
        epoll.add(&pipe.source.fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        pipe.is_watched = true;
    }
    Ok(())
}

/// Not by clearing its flags: epoll would go on telling of a hang-up.
pub fn unwatch(epoll: &Epoll, pipe: &mut Pipe) {
    if pipe.is_watched {
        let _ = epoll.delete(pipe.source.fd.as_fd());
        pipe.is_watched = false;
    }
}

/// Bytes that are not in any log.
pub fn left_in(pipe: &Pipe) -> u64 {
    let there = waiting(&pipe.source.fd).unwrap_or(0);
    (there + pipe.splitter.partial().len()) as u64
}

/// One look into a pipe: what it shows goes into its log.
pub fn read_pipe(
    pipe: &mut Pipe,
    journal: &mut Journal,
    exact: &mut Exact<Linux>,
    clock: &mut Clock,
    buffer: &mut [u8],
) -> Turn {
    let source = &mut pipe.source;
    let seen = exact.pay(source).and_then(|()| match source.owes() {
        true => Ok(Peek::Empty), // the rest of it next time
        false => exact.peek(&source.fd, buffer),
    });
    match seen {
        Ok(Peek::End) => Turn::End,
        Ok(Peek::Empty) => Turn::Empty,
        Ok(Peek::Bytes(n)) if pipe.is_cut => match drop_from(pipe, journal, exact, &buffer[..n], true) {
            Ok(()) => Turn::More(n),
            Err(Stop) => Turn::Blocked,
        },
        Ok(Peek::Bytes(n)) => match feed(pipe, journal, exact, clock, &buffer[..n]) {
            Ok(()) => Turn::More(n),
            Err(Stop) => Turn::Blocked,
        },
        Err(e) => {
            crate::say!(
                "ringriftd logger: cannot read launch {} of {}: {e}",
                pipe.source.id,
                journal.name()
            );
            Turn::End
        }
    }
}

/// Blocked logs that drop do so where more than [`LOG_DROP_KEEP`] waits in a pipe.
pub fn drop_waiting<'a>(
    pipes: impl Iterator<Item = &'a mut Pipe>,
    journals: &mut [Journal],
    exact: &mut Exact<Linux>,
    buffer: &mut [u8],
) {
    for pipe in pipes {
        let journal = &mut journals[pipe.journal];
        if !journal.is_dropping() {
            continue;
        }
        if let Err(e) = drop_pipe(pipe, journal, exact, buffer, LOG_DROP_KEEP) {
            crate::say!("ringriftd logger: cannot read launch {}: {e}", pipe.source.id);
        }
    }
}

/// Drops what a pipe has, but for its newest `keep` bytes and for a line that is only begun. The log is blocked.
fn drop_pipe(
    pipe: &mut Pipe,
    journal: &mut Journal,
    exact: &mut Exact<Linux>,
    buffer: &mut [u8],
    keep: usize,
) -> io::Result<()> {
    // A host may give a user with many pipes small ones.
    let room = fcntl(&pipe.source.fd, FcntlArg::F_GETPIPE_SZ)?;
    let keep = keep.min(usize::try_from(room).unwrap_or(0) / 4);
    loop {
        let there = waiting(&pipe.source.fd)?;
        let most = buffer.len().min(there.saturating_sub(keep));
        exact.pay(&mut pipe.source)?;
        if most == 0 || pipe.source.owes() {
            return Ok(());
        }
        let Peek::Bytes(n) = exact.peek(&pipe.source.fd, &mut buffer[..most])? else {
            return Ok(());
        };
        if drop_from(pipe, journal, exact, &buffer[..n], false).is_err() {
            return Ok(()); // it waits, as if the log did not drop
        }
    }
}

/// Drops lines of `input`: all, or what belongs to the one whose beginning was dropped.
fn drop_from(
    pipe: &mut Pipe,
    journal: &mut Journal,
    exact: &mut Exact<Linux>,
    input: &[u8],
    is_rest: bool,
) -> Result<(), Stop> {
    let before = pipe.splitter.partial().to_vec();
    let (mut bytes, mut lines, mut is_cut) = (0, 0, pipe.is_cut);
    let taken = pipe.splitter.split(input, |end, message| {
        if is_rest && !is_cut {
            return Err(Stop);
        }
        is_cut = end == LineEnd::Continues;
        bytes += message.len() as u64 + u64::from(!is_cut);
        lines += u64::from(!is_cut);
        Ok(())
    });
    let mut partial = pipe.splitter.partial().to_vec();
    if !partial.is_empty() && !exact.can_carry(&pipe.source) {
        // Too many lines are begun already: this one goes in pieces.
        bytes += partial.len() as u64;
        is_cut = true;
        partial.clear();
        pipe.splitter.begin(Vec::new());
    }
    let done = journal.drop_lines(exact, &mut pipe.source, taken, &partial, (bytes, lines));
    match done {
        Ok(()) => pipe.is_cut = is_cut,
        Err(Stop) => pipe.splitter.begin(before),
    }
    done
}

/// The pipe is given up while its log drops: all that it has is counted.
pub fn drop_last(
    pipe: &mut Pipe,
    journal: &mut Journal,
    exact: &mut Exact<Linux>,
    buffer: &mut [u8],
) -> io::Result<()> {
    drop_pipe(pipe, journal, exact, buffer, 0)?;
    let begun = pipe.splitter.partial().len() as u64;
    if begun > 0
        && journal
            .drop_lines(exact, &mut pipe.source, 0, &[], (begun, 1))
            .is_ok()
    {
        pipe.splitter.begin(Vec::new());
    }
    Ok(())
}

/// Puts the lines of one read into their journal.
struct Put<'a> {
    journal: &'a mut Journal,
    clock: &'a mut Clock,
    /// What is the same of all: the text and the end are each line's own.
    like: Record<'static>,
}

impl Lines for Put<'_> {
    fn put(&mut self, end: LineEnd, message: &[u8]) -> Result<(), Stop> {
        let Record {
            at_us,
            invocation,
            stream,
            ..
        } = self.like;
        let record = Record {
            at_us,
            invocation,
            end,
            stream,
            message,
        };
        self.journal.put(self.clock, record)
    }

    fn put_whole(&mut self, input: &[u8], most: usize) -> usize {
        self.journal.put_whole(self.clock, self.like, input, most)
    }
}

/// Puts what a pipe showed into its log, in as many batches as it takes, each of which leaves the pipe when it is
/// written. Fails when the log is blocked: then the rest is still in the pipe.
fn feed(
    pipe: &mut Pipe,
    journal: &mut Journal,
    exact: &mut Exact<Linux>,
    clock: &mut Clock,
    input: &[u8],
) -> Result<(), Stop> {
    let like = Record {
        at_us: now_us(),
        invocation: pipe.source.id.invocation.0,
        end: LineEnd::Whole,
        stream: pipe.stream,
        message: &[],
    };
    let mut done = 0;
    while done < input.len() {
        let rest = &input[done..];
        let mut put = Put {
            journal: &mut *journal,
            clock: &mut *clock,
            like,
        };
        let mut taken = pipe.splitter.split_into(rest, &mut put);
        if !pipe.splitter.partial().is_empty() && !exact.can_carry(&pipe.source) {
            // Too many lines are begun already: this one goes in pieces.
            if put.put(LineEnd::Continues, pipe.splitter.partial()).is_err() {
                taken -= pipe.splitter.partial().len(); // in the next batch
            }
            pipe.splitter.begin(Vec::new());
        }
        if taken == 0 && journal.is_blocked() {
            return Err(Stop);
        }
        done += commit(pipe, journal, exact, taken)?;
    }
    Ok(())
}

/// Commits what was put. What the disk refused is begun again from what the note has.
fn commit(
    pipe: &mut Pipe,
    journal: &mut Journal,
    exact: &mut Exact<Linux>,
    taken: usize,
) -> Result<usize, Stop> {
    let result = journal.commit(exact, &mut pipe.source, taken, pipe.splitter.partial());
    match result {
        Ok(done) if done.refused.is_none() => return Ok(taken),
        Ok(_) | Err(Stop) => {}
    }
    match exact.begun(&pipe.source) {
        Ok(partial) => pipe.splitter.begin(partial),
        Err(e) => crate::say!(
            "ringriftd logger: cannot read what launch {} had begun: {e}",
            pipe.source.id
        ),
    }
    Err(Stop)
}

/// The pipe has ended: writes what has no newline, if anything.
pub fn write_last(
    pipe: &mut Pipe,
    journal: &mut Journal,
    exact: &mut Exact<Linux>,
    clock: &mut Clock,
) -> Result<(), Stop> {
    if !pipe.splitter.partial().is_empty() {
        let record = Record {
            at_us: now_us(),
            invocation: pipe.source.id.invocation.0,
            end: LineEnd::Partial,
            stream: pipe.stream,
            message: pipe.splitter.partial(),
        };
        journal.put(clock, record)?;
        pipe.splitter.begin(Vec::new());
        commit(pipe, journal, exact, 0)?;
    }
    exact.forget(&mut pipe.source);
    Ok(())
}
