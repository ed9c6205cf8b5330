//! One launch's pipe: a look into it, from there into its unit's log, and its last words.
//!
//! Read first: [`Pipe`] and [`read_pipe`].

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use proto::log::Stream;
use proto::reply::LineEnd;

use super::exact::{Exact, Linux, Peek, Source};
use super::journal::{Journal, Splitter, Stop};
use super::memory::waiting;
use super::record::{Clock, Record, now_us};

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

/// Puts what a pipe showed into its log, in as many batches as it takes, each of which leaves the pipe when it is
/// written. Fails when the log is blocked: then the rest is still in the pipe.
fn feed(
    pipe: &mut Pipe,
    journal: &mut Journal,
    exact: &mut Exact<Linux>,
    clock: &mut Clock,
    input: &[u8],
) -> Result<(), Stop> {
    let (at_us, invocation, stream) = (now_us(), pipe.source.id.invocation.0, pipe.stream);
    let mut put = |journal: &mut Journal, end, message: &[u8]| {
        let record = Record {
            at_us,
            invocation,
            end,
            stream,
            message,
        };
        journal.put(clock, record)
    };
    let mut done = 0;
    while done < input.len() {
        let rest = &input[done..];
        let mut taken = pipe
            .splitter
            .split(rest, |end, message| put(journal, end, message));
        if !pipe.splitter.partial().is_empty() && !exact.can_carry(&pipe.source) {
            // Too many lines are begun already: this one goes in pieces.
            if put(journal, LineEnd::Continues, pipe.splitter.partial()).is_err() {
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
