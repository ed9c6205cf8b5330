//! The writer: one thread that reads every pipe and writes every log file. It waits only in epoll(7), so that no unit,
//! no reader and no slow client can hold up another unit's log. (A disk that is slow to write holds up this thread.)
//!
//! Read first: [`Writer::run`] and [`Pipe`].

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::journal::{Journal, Splitter};
use super::link::{Received, receive, send};
use super::place::Shared;
use super::query::Queries;
use super::record::{Clock, Record};
use crate::ids::LaunchId;
use crate::keeper::wire::{FromLogger, LogQuery, Output, ToLogger};
use crate::limits::{LOG_END_READ, LOG_FILES_OPEN_MAX, LOG_READ};

const KEEPER: u64 = u64::MAX;
const PEER: u64 = u64::MAX - 1;
/// Events taken from one epoll_wait(2).
const EVENTS: usize = 64;
/// Messages taken from a link before the pipes have their turn.
const MESSAGES: usize = 64;

/// One launch's output.
#[derive(Debug)]
struct Pipe {
    id: LaunchId,
    fd: OwnedFd,
    journal: usize,
    splitter: Splitter,
    /// Read, but refused by a blocked log.
    left: Vec<u8>,
    drain: Duration,
    /// The launch is over: until when its pipe is read.
    close_at: Option<Instant>,
    is_at_end: bool,
    is_watched: bool,
}

/// The writer's state.
pub struct Writer {
    epoll: Epoll,
    keeper: OwnedFd,
    peer: Option<Arc<OwnedFd>>,
    shared: Arc<Shared>,
    queries: Queries,
    journals: Vec<Journal>,
    by_unit: BTreeMap<String, usize>,
    /// Journals that hold a descriptor, the one opened first at the front.
    open: VecDeque<usize>,
    pipes: BTreeMap<u64, Pipe>,
    by_id: BTreeMap<LaunchId, u64>,
    next_token: u64,
    /// Pipes with `close_at`, and journals in trouble: the only reasons for a timeout.
    closing: Vec<u64>,
    blocked: Vec<usize>,
    answers: VecDeque<FromLogger>,
    is_keeper_full: bool,
    clock: Clock,
    spare: Vec<u8>,
    message: Vec<u8>,
    is_ending: bool,
}

/// What a turn of reading a pipe came to.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    More(usize),
    Empty,
    End,
}

impl Writer {
    /// A writer with its links. Says `Ready` to the keeper.
    pub fn new(shared: Arc<Shared>, keeper: OwnedFd, peer: OwnedFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&keeper, EpollEvent::new(EpollFlags::EPOLLIN, KEEPER))?;
        epoll.add(&peer, EpollEvent::new(EpollFlags::EPOLLIN, PEER))?;
        Ok(Self {
            epoll,
            keeper,
            peer: Some(Arc::new(peer)),
            queries: Queries::new(shared.clone()),
            shared,
            journals: Vec::new(),
            by_unit: BTreeMap::new(),
            open: VecDeque::new(),
            pipes: BTreeMap::new(),
            by_id: BTreeMap::new(),
            next_token: 0,
            closing: Vec::new(),
            blocked: Vec::new(),
            answers: VecDeque::from([FromLogger::Ready]),
            is_keeper_full: false,
            clock: Clock::new(),
            spare: Vec::new(),
            message: Vec::new(),
            is_ending: false,
        })
    }

    /// Reads and writes until the keeper says `End` or is gone. Fails only when the kernel refuses epoll itself.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut buffer = vec![0; LOG_READ];
        loop {
            self.answer_keeper()?;
            if self.is_ending {
                self.drain_all(&mut buffer);
                return Ok(());
            }
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(e) => return Err(e.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    KEEPER => self.hear_keeper()?,
                    PEER => self.hear_peer()?,
                    token => self.turn(token, &mut buffer)?,
                }
            }
            self.after(Instant::now(), &mut buffer)?;
        }
    }

    /// For ever, unless a pipe is to be closed or a log is to be tried again.
    fn timeout(&self) -> EpollTimeout {
        let closing = self.closing.iter().filter_map(|t| self.pipes.get(t)?.close_at);
        let blocked = self.blocked.iter().filter_map(|j| self.journals[*j].retry_at());
        let Some(next) = closing.chain(blocked).min() else {
            return EpollTimeout::NONE;
        };
        // One ms more: epoll counts whole ms, and waking a little early would be waking twice.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    // --- the links -------------------------------------------------------------------------------------------

    fn hear_keeper(&mut self) -> io::Result<()> {
        for _ in 0..MESSAGES {
            match receive::<ToLogger>(&self.keeper, &mut self.message) {
                Ok(Received::Message(message, fds)) => self.on_keeper(message, fds)?,
                Ok(Received::Nothing) => break,
                Ok(Received::Garbage(why)) => {
                    crate::say!("ringriftd logger: cannot read the keeper's message: {why}")
                }
                Ok(Received::End) => {
                    // The keeper is dead. What is there is written; the units' pipes die with us or are handed on by
                    // whoever adopts them.
                    self.is_ending = true;
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn on_keeper(&mut self, message: ToLogger, fds: Vec<OwnedFd>) -> io::Result<()> {
        let mut fds = fds.into_iter();
        match message {
            ToLogger::Open { id, output } => match fds.next() {
                Some(fd) => self.open_pipe(id, fd, &output)?,
                None => {
                    crate::say!(
                        "ringriftd logger: cannot read launch {id} of {}: no pipe came with it",
                        output.unit
                    );
                    self.answers.push_back(FromLogger::Closed { id });
                }
            },
            ToLogger::Close { id } => match self.by_id.get(&id) {
                Some(token) => {
                    let token = *token;
                    if let Some(pipe) = self.pipes.get_mut(&token) {
                        pipe.close_at.get_or_insert(Instant::now() + pipe.drain);
                        self.closing.push(token);
                    }
                }
                // Its end was seen and told already; told again, since the keeper may not have heard.
                None => self.answers.push_back(FromLogger::Closed { id }),
            },
            ToLogger::End => self.is_ending = true,
            ToLogger::Peer => {
                if let Some(old) = self.peer.take() {
                    let _ = self.epoll.delete(&old);
                }
                if let Some(fd) = fds.next() {
                    self.epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, PEER))?;
                    self.peer = Some(Arc::new(fd));
                }
            }
        }
        Ok(())
    }

    fn answer_keeper(&mut self) -> io::Result<()> {
        while let Some(answer) = self.answers.front() {
            match send(&self.keeper, answer) {
                Ok(()) => drop(self.answers.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.is_keeper_full {
                        self.is_keeper_full = true;
                        self.watch_keeper(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT)?;
                    }
                    return Ok(());
                }
                Err(_) => self.answers.clear(), // it is gone; its end is heard by reading
            }
        }
        if self.is_keeper_full {
            self.is_keeper_full = false;
            self.watch_keeper(EpollFlags::EPOLLIN)?;
        }
        Ok(())
    }

    fn watch_keeper(&self, flags: EpollFlags) -> io::Result<()> {
        Ok(self
            .epoll
            .modify(&self.keeper, &mut EpollEvent::new(flags, KEEPER))?)
    }

    fn hear_peer(&mut self) -> io::Result<()> {
        for _ in 0..MESSAGES {
            let Some(peer) = self.peer.clone() else { break };
            match receive::<LogQuery>(&peer, &mut self.message) {
                Ok(Received::Message(query, fds)) => self.queries.start(query, fds.into_iter().next(), &peer),
                Ok(Received::Nothing) => break,
                Ok(Received::Garbage(why)) => {
                    crate::say!("ringriftd logger: cannot read the manager's message: {why}")
                }
                Ok(Received::End) | Err(_) => {
                    // The manager died. The keeper sends a link to the next one.
                    let _ = self.epoll.delete(&peer);
                    self.peer = None;
                    break;
                }
            }
        }
        Ok(())
    }

    // --- pipes -----------------------------------------------------------------------------------------------

    fn open_pipe(&mut self, id: LaunchId, fd: OwnedFd, output: &Output) -> io::Result<()> {
        if self.by_id.contains_key(&id) {
            return Ok(()); // said twice; the second descriptor is another name of the same pipe
        }
        let journal = match self.by_unit.get(&output.unit) {
            Some(index) => *index,
            None => {
                let Some(unit) = self.shared.unit(&output.unit) else {
                    crate::say!(
                        "ringriftd logger: cannot log {:?}: that is no unit's name",
                        output.unit
                    );
                    self.answers.push_back(FromLogger::Closed { id });
                    return Ok(());
                };
                self.journals.push(Journal::new(self.shared.clone(), unit));
                self.by_unit.insert(output.unit.clone(), self.journals.len() - 1);
                self.journals.len() - 1
            }
        };
        self.journals[journal].set_bounds(output.max_size, output.max_files);
        // The read end's own file description: the unit's end is not touched.
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let token = self.next_token;
        self.next_token += 1;
        let mut pipe = Pipe {
            id,
            fd,
            journal,
            splitter: Splitter::default(),
            left: Vec::new(),
            drain: Duration::from_millis(output.drain_ms),
            close_at: None,
            is_at_end: false,
            is_watched: false,
        };
        if !self.journals[journal].is_blocked() {
            watch(&self.epoll, &mut pipe, token)?;
        }
        self.pipes.insert(token, pipe);
        self.by_id.insert(id, token);
        Ok(())
    }

    /// One read of one pipe: at most [`LOG_READ`] bytes, then the next pipe has its turn.
    fn turn(&mut self, token: u64, buffer: &mut [u8]) -> io::Result<()> {
        let Some(pipe) = self.pipes.get_mut(&token) else {
            return Ok(());
        };
        let journal = &mut self.journals[pipe.journal];
        if journal.is_blocked() {
            unwatch(&self.epoll, pipe); // it waits in the pipe
            return Ok(());
        }
        let was_open = journal.is_open();
        journal.lend(&mut self.spare);
        let turn = read_pipe(pipe, journal, &mut self.clock, buffer);
        let _ = journal.flush();
        journal.lend(&mut self.spare);
        if turn == Turn::End {
            pipe.is_at_end = true;
        }
        let index = pipe.journal;
        if journal.is_blocked() {
            unwatch(&self.epoll, pipe);
            if pipe.is_at_end {
                pipe.close_at.get_or_insert(Instant::now() + pipe.drain);
                self.closing.push(token);
            }
            if !self.blocked.contains(&index) {
                self.blocked.push(index);
            }
        } else if pipe.is_at_end {
            self.close_pipe(token);
        }
        if !was_open && self.journals[index].is_open() {
            self.note_open(index);
        }
        Ok(())
    }

    fn note_open(&mut self, index: usize) {
        self.open.push_back(index);
        if self.open.len() > LOG_FILES_OPEN_MAX
            && let Some(first) = self.open.pop_front()
        {
            if self.journals[first].is_blocked() {
                self.open.push_back(first); // its half-written record needs its file
            } else {
                self.journals[first].close();
            }
        }
    }

    /// The end of a pipe: what has no newline is written, the keeper is told.
    fn close_pipe(&mut self, token: u64) {
        let Some(mut pipe) = self.pipes.remove(&token) else {
            return;
        };
        unwatch(&self.epoll, &mut pipe);
        self.by_id.remove(&pipe.id);
        self.closing.retain(|t| *t != token);
        let journal = &mut self.journals[pipe.journal];
        let clock = &mut self.clock;
        let (at_us, invocation) = (now_us(), pipe.id.invocation.0);
        let _ = pipe.splitter.end(|end, message| {
            let record = Record {
                at_us,
                invocation,
                end,
                message,
            };
            if journal.put(clock, record).is_err() {
                journal.put_last(clock, record);
            }
            Ok(())
        });
        let _ = journal.flush();
        if journal.is_blocked() && !self.blocked.contains(&pipe.journal) {
            self.blocked.push(pipe.journal);
        }
        self.answers.push_back(FromLogger::Closed { id: pipe.id });
    }

    /// A launch's time to drain is over.
    fn close_late(&mut self, token: u64, buffer: &mut [u8]) {
        if let Some(pipe) = self.pipes.get_mut(&token) {
            let journal = &mut self.journals[pipe.journal];
            if journal.is_blocked() {
                // The pipe goes away, and the disk still refuses: memory takes what it may.
                let left = std::mem::take(&mut pipe.left);
                keep_last(pipe, journal, &mut self.clock, &left);
                while !pipe.is_at_end && journal.has_room() {
                    match nix::unistd::read(&pipe.fd, buffer) {
                        Ok(n) if n > 0 => keep_last(pipe, journal, &mut self.clock, &buffer[..n]),
                        Err(Errno::EINTR) => {}
                        _ => break,
                    }
                }
            } else {
                read_pipe(pipe, journal, &mut self.clock, buffer);
            }
        }
        self.close_pipe(token);
    }

    // --- time ------------------------------------------------------------------------------------------------

    fn after(&mut self, now: Instant, buffer: &mut [u8]) -> io::Result<()> {
        if self.closing.is_empty() && self.blocked.is_empty() {
            return Ok(());
        }
        let late: Vec<u64> = self
            .closing
            .iter()
            .filter(|t| {
                self.pipes
                    .get(t)
                    .is_none_or(|p| p.close_at.is_some_and(|at| at <= now))
            })
            .copied()
            .collect();
        for token in late {
            self.close_late(token, buffer);
        }
        let pipes = &self.pipes;
        self.closing.retain(|t| pipes.contains_key(t));
        for index in std::mem::take(&mut self.blocked) {
            if self.journals[index].retry_at().is_some_and(|at| at > now) || !self.journals[index].retry(now)
            {
                self.blocked.push(index);
                continue;
            }
            self.resume(index)?;
        }
        Ok(())
    }

    /// A log is well again: what was read before goes first, then its pipes are watched.
    fn resume(&mut self, index: usize) -> io::Result<()> {
        let tokens: Vec<u64> = self
            .pipes
            .iter()
            .filter(|(_, p)| p.journal == index)
            .map(|(t, _)| *t)
            .collect();
        for token in tokens {
            let Some(pipe) = self.pipes.get_mut(&token) else {
                continue;
            };
            let journal = &mut self.journals[index];
            let left = std::mem::take(&mut pipe.left);
            feed(pipe, journal, &mut self.clock, &left);
            let _ = journal.flush();
            if journal.is_blocked() {
                if !self.blocked.contains(&index) {
                    self.blocked.push(index);
                }
                return Ok(());
            }
            if pipe.is_at_end {
                self.close_pipe(token);
            } else {
                watch(&self.epoll, pipe, token)?;
            }
        }
        Ok(())
    }

    /// The end of all: what is in the pipes now is read and written.
    fn drain_all(&mut self, buffer: &mut [u8]) {
        let tokens: Vec<u64> = self.pipes.keys().copied().collect();
        for token in tokens {
            let Some(pipe) = self.pipes.get_mut(&token) else {
                continue;
            };
            let journal = &mut self.journals[pipe.journal];
            journal.lend(&mut self.spare);
            let mut read = 0;
            while !journal.is_blocked() && read < LOG_END_READ {
                match read_pipe(pipe, journal, &mut self.clock, buffer) {
                    Turn::More(n) => read += n,
                    Turn::Empty | Turn::End => break,
                }
            }
            let _ = journal.flush();
            journal.lend(&mut self.spare);
            if journal.is_blocked() {
                self.close_late(token, buffer);
            } else {
                self.close_pipe(token);
            }
        }
        for index in std::mem::take(&mut self.blocked) {
            if !self.journals[index].retry(Instant::now()) {
                crate::say!(
                    "ringriftd logger: the last lines of {} are lost",
                    self.journals[index].name()
                );
            }
        }
        let _ = self.answer_keeper();
    }
}

fn watch(epoll: &Epoll, pipe: &mut Pipe, token: u64) -> io::Result<()> {
    if !pipe.is_watched {
        epoll.add(&pipe.fd, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        pipe.is_watched = true;
    }
    Ok(())
}

/// Not by clearing its flags: epoll would go on telling of a hang-up.
fn unwatch(epoll: &Epoll, pipe: &mut Pipe) {
    if pipe.is_watched {
        let _ = epoll.delete(pipe.fd.as_fd());
        pipe.is_watched = false;
    }
}

fn read_pipe(pipe: &mut Pipe, journal: &mut Journal, clock: &mut Clock, buffer: &mut [u8]) -> Turn {
    match nix::unistd::read(&pipe.fd, buffer) {
        Ok(0) => Turn::End,
        Ok(n) => {
            feed(pipe, journal, clock, &buffer[..n]);
            Turn::More(n)
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Turn::Empty,
        Err(e) => {
            crate::say!(
                "ringriftd logger: cannot read launch {} of {}: {}",
                pipe.id,
                journal.name(),
                e.desc()
            );
            Turn::End
        }
    }
}

/// Puts what a pipe brought into its log. What a blocked log refuses is kept with the pipe.
fn feed(pipe: &mut Pipe, journal: &mut Journal, clock: &mut Clock, input: &[u8]) {
    let (at_us, invocation) = (now_us(), pipe.id.invocation.0);
    let taken = pipe.splitter.split(input, |end, message| {
        journal.put(
            clock,
            Record {
                at_us,
                invocation,
                end,
                message,
            },
        )
    });
    if taken < input.len() {
        pipe.left = input[taken..].to_vec();
    }
}

/// As [`feed`], but into memory although the log is blocked.
fn keep_last(pipe: &mut Pipe, journal: &mut Journal, clock: &mut Clock, input: &[u8]) {
    let (at_us, invocation) = (now_us(), pipe.id.invocation.0);
    pipe.splitter.split(input, |end, message| {
        journal.put_last(
            clock,
            Record {
                at_us,
                invocation,
                end,
                message,
            },
        );
        Ok(())
    });
}

fn now_us() -> u64 {
    // Before 1970 every record reads 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
