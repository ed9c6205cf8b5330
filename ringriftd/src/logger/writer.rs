//! The writer: one thread that reads every pipe and writes every log file. It waits only in epoll(7), so that no unit,
//! no reader and no slow client can hold up another unit's log. (A disk that is slow to write holds up this thread.)
//!
//! Read first: [`Writer::run`] and [`Pipe`].

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use proto::log::Stream;

use super::exact::Exact;
use super::forward::Shipping;
use super::journal::Journal;
use super::kernel::Linux;
use super::link::{Received, receive, send};
use super::pipe::{Pipe, Turn, drop_last, drop_waiting, left_in, read_pipe, unwatch, watch, write_last};
use super::place::Shared;
use super::query::{Queries, Tail};
use super::record::{Clock, now_us};
use super::rooms::Rooms;
use super::telling::Telling;
use crate::ids::{Invocation, LaunchId};
use crate::keeper::wire::{FromLogger, LogQuery, Output, ToLogger};
use crate::limits::{
    LAST_WORDS_PATIENCE, LOG_AGE_LOOK_MAX, LOG_AGE_LOOK_MIN, LOG_DROP_LOOK, LOG_END_READ, LOG_FILES_OPEN_MAX,
    LOG_FORWARD_END, LOG_PIPE_BUSY, LOG_PIPES_WAITING, LOG_READ,
};

const KEEPER: u64 = u64::MAX;
const PEER: u64 = u64::MAX - 1;
/// Events taken from one epoll_wait(2).
const EVENTS: usize = 64;
/// When a query for last words that found too many others is tried again.
const LAST_WORDS_AGAIN: Duration = Duration::from_millis(100);
/// Messages taken from a link before the pipes have their turn.
const MESSAGES: usize = 64;

/// The writer's state.
pub struct Writer {
    epoll: Epoll,
    /// None: it died, and there is no other yet.
    keeper: Option<OwnedFd>,
    /// None: the manager died, and the keeper has sent no other's link yet.
    peer: Option<Arc<OwnedFd>>,
    exact: Exact<Linux>,
    shared: Arc<Shared>,
    queries: Queries,
    journals: Vec<Journal>,
    by_unit: BTreeMap<String, usize>,
    /// Journals that hold a descriptor, the one opened first at the front.
    open: VecDeque<usize>,
    pipes: BTreeMap<u64, Pipe>,
    by_id: BTreeMap<LaunchId, Vec<u64>>, // one or two
    next_token: u64,
    rooms: Rooms,
    /// Pipes with `close_at`, and journals in trouble: the only reasons for a timeout.
    closing: Vec<u64>,
    blocked: Vec<usize>,
    answers: VecDeque<FromLogger>,
    is_keeper_full: bool,
    clock: Clock,
    spare: Vec<u8>,
    message: Vec<u8>,
    is_ending: bool,
    /// Queries for the last words of lives whose pipes are not at their end, and until when each waits.
    last_words: Vec<(Invocation, Tail, Instant)>,
    /// What the manager has yet to hear of the logs.
    telling: Telling,
    /// Passes lines on, if any unit's are.
    shipping: Option<Shipping>,
    /// When the pipes of blocked logs that drop are looked at; None: there is no such log.
    drops_at: Option<Instant>,
    /// When it is looked whether a file is too old; None: nothing bounds an age.
    ages_at: Option<Instant>,
}

impl Writer {
    /// A writer with its links. Says `Ready` to the keeper.
    pub fn new(shared: Arc<Shared>, exact: Exact<Linux>, keeper: OwnedFd, peer: OwnedFd) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&keeper, EpollEvent::new(EpollFlags::EPOLLIN, KEEPER))?;
        epoll.add(&peer, EpollEvent::new(EpollFlags::EPOLLIN, PEER))?;
        Ok(Self {
            epoll,
            keeper: Some(keeper),
            peer: Some(Arc::new(peer)),
            exact,
            queries: Queries::new(shared.clone()),
            shared,
            journals: Vec::new(),
            by_unit: BTreeMap::new(),
            open: VecDeque::new(),
            pipes: BTreeMap::new(),
            by_id: BTreeMap::new(),
            next_token: 0,
            rooms: Rooms::default(),
            closing: Vec::new(),
            blocked: Vec::new(),
            answers: VecDeque::from([FromLogger::Ready]),
            is_keeper_full: false,
            clock: Clock::new(),
            spare: Vec::new(),
            message: Vec::new(),
            is_ending: false,
            last_words: Vec::new(),
            telling: Telling::new(),
            shipping: None,
            drops_at: None,
            ages_at: None,
        })
    }

    /// Reads and writes until the keeper says `End`, or keeper and manager are gone. Fails only when the kernel refuses epoll itself.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut buffer = vec![0; LOG_READ];
        for (unit, dropped) in self.exact.untold() {
            // The last logger did not come to telling it.
            if let Some(index) = self.journal(&unit) {
                self.journals[index].set_untold(dropped);
                self.tell_dropped(index);
            }
        }
        loop {
            self.answer_keeper()?;
            if self.is_ending {
                self.drain_all(&mut buffer);
                self.tell_counts();
                if let Some(shipping) = &self.shipping {
                    shipping.finish(LOG_FORWARD_END);
                }
                return Ok(());
            }
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(e) => return Err(e.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    KEEPER => self.hear_keeper(MESSAGES)?,
                    PEER => self.hear_peer()?,
                    token => self.turn(token, &mut buffer),
                }
            }
            self.after(Instant::now(), &mut buffer)?;
            self.tell_last_words(Instant::now());
            self.look_at_ages(Instant::now());
            self.drop_what_waits(Instant::now(), &mut buffer);
            if self.telling.is_due(Instant::now()) {
                self.tell_counts();
            }
        }
    }

    /// For ever, unless a pipe is to be closed or a log is to be tried again.
    fn timeout(&self) -> EpollTimeout {
        let closing = self
            .closing
            .iter()
            .filter_map(|t| self.pipes.get(t).filter(|p| !p.is_waiting)?.close_at);
        let blocked = self.blocked.iter().filter_map(|j| self.journals[*j].retry_at());
        let words = self.last_words.iter().map(|(_, _, until)| *until);
        // Without a manager there is nobody to tell.
        let telling = self.telling.due().filter(|_| self.peer.is_some());
        let others = words.chain(telling).chain(self.ages_at).chain(self.drops_at);
        let Some(next) = closing.chain(blocked).chain(others).min() else {
            return EpollTimeout::NONE;
        };
        // One ms more: epoll counts whole ms, and waking a little early would be waking twice.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::MAX)
    }

    // --- the links -------------------------------------------------------------------------------------------

    fn hear_keeper(&mut self, most: usize) -> io::Result<()> {
        for _ in 0..most {
            let Some(keeper) = &self.keeper else { break };
            match receive::<ToLogger>(keeper, &mut self.message) {
                Ok(Received::Message(message, fds)) => self.on_keeper(message, fds)?,
                Ok(Received::Nothing) => break,
                Ok(Received::Garbage(why)) => {
                    crate::say!("ringriftd logger: cannot read the keeper's message: {why}")
                }
                Ok(Received::End) => {
                    // The keeper is dead. The units live, and so does the manager, who brings us the next keeper.
                    if let Some(keeper) = self.keeper.take() {
                        let _ = self.epoll.delete(&keeper);
                    }
                    self.is_ending = self.peer.is_none();
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
            ToLogger::Open { id, output, streams } => {
                if fds.len() == streams.len() && !streams.is_empty() {
                    self.open_pipes(id, &output, fds.zip(streams))?;
                } else {
                    crate::say!(
                        "ringriftd logger: cannot read launch {id} of {}: {} pipes came with it, not {}",
                        output.unit,
                        fds.len(),
                        streams.len()
                    );
                    self.answers.push_back(FromLogger::Closed { id });
                }
            }
            ToLogger::Close { id } => match self.by_id.get(&id) {
                Some(tokens) => {
                    for token in tokens {
                        if let Some(pipe) = self.pipes.get_mut(token) {
                            pipe.close_at.get_or_insert(Instant::now() + pipe.drain);
                            self.closing.push(*token);
                        }
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
                    for index in 0..self.journals.len() {
                        self.journals[index].count_again();
                        self.note_news(index);
                    }
                }
            }
        }
        Ok(())
    }

    /// There is another keeper. It is told what the dead one did not hear.
    fn greet_keeper(&mut self, fd: OwnedFd) -> io::Result<()> {
        if let Some(old) = self.keeper.take() {
            let _ = self.epoll.delete(&old);
        }
        self.epoll
            .add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, KEEPER))?;
        self.keeper = Some(fd);
        self.is_keeper_full = false;
        if self.answers.front() != Some(&FromLogger::Ready) {
            self.answers.push_front(FromLogger::Ready);
        }
        Ok(())
    }

    fn answer_keeper(&mut self) -> io::Result<()> {
        let Some(keeper) = &self.keeper else {
            return Ok(()); // kept for the next one
        };
        while let Some(answer) = self.answers.front() {
            match send(keeper, answer) {
                Ok(()) => drop(self.answers.pop_front()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.is_keeper_full {
                        self.watch_keeper(keeper, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT)?;
                        self.is_keeper_full = true;
                    }
                    return Ok(());
                }
                Err(_) => return Ok(()), // it is gone; its end is heard by reading
            }
        }
        if self.is_keeper_full {
            self.watch_keeper(keeper, EpollFlags::EPOLLIN)?;
            self.is_keeper_full = false;
        }
        Ok(())
    }

    fn watch_keeper(&self, keeper: &OwnedFd, flags: EpollFlags) -> io::Result<()> {
        Ok(self.epoll.modify(keeper, &mut EpollEvent::new(flags, KEEPER))?)
    }

    fn hear_peer(&mut self) -> io::Result<()> {
        for _ in 0..MESSAGES {
            let Some(peer) = self.peer.clone() else { break };
            match receive::<LogQuery>(&peer, &mut self.message) {
                Ok(Received::Message(LogQuery::Keeper, fds)) => match fds.into_iter().next() {
                    Some(fd) => self.greet_keeper(fd)?,
                    None => {
                        crate::say!("ringriftd logger: cannot hear the new keeper: no link to it came along")
                    }
                },
                Ok(Received::Message(
                    LogQuery::LastWords {
                        nonce,
                        unit,
                        invocation,
                        lines,
                    },
                    _,
                )) => {
                    let tail = Tail::last(nonce, unit, invocation, lines);
                    let until = Instant::now() + LAST_WORDS_PATIENCE;
                    self.last_words.push((Invocation(invocation), tail, until));
                    // Whether the life has a pipe at all was said there, before the manager heard of the life.
                    self.hear_keeper(usize::MAX)?;
                }
                Ok(Received::Message(LogQuery::Total { max_total }, _)) => {
                    self.shared.shelf.set_total(max_total)
                }
                Ok(Received::Message(query, fds)) => self.queries.start(query, fds.into_iter().next(), &peer),
                Ok(Received::Nothing) => break,
                Ok(Received::Garbage(why)) => {
                    crate::say!("ringriftd logger: cannot read the manager's message: {why}")
                }
                Ok(Received::End) | Err(_) => {
                    // The manager died. The keeper sends a link to the next one, if there is a keeper.
                    let _ = self.epoll.delete(&peer);
                    self.peer = None;
                    self.last_words.clear();
                    self.is_ending |= self.keeper.is_none();
                    break;
                }
            }
        }
        Ok(())
    }

    /// A log may have been given something.
    fn note_news(&mut self, index: usize) {
        if self.journals[index].has_news() {
            self.telling.note(index, Instant::now());
        }
    }

    /// Tells the manager what the logs were given.
    fn tell_counts(&mut self) {
        if let Some(peer) = &self.peer {
            self.telling.tell(&mut self.journals, peer, Instant::now());
        }
    }

    /// Answers those whose life has no pipe left, or that have waited long enough.
    fn tell_last_words(&mut self, now: Instant) {
        let Some(peer) = self.peer.clone() else { return };
        for (life, tail, until) in std::mem::take(&mut self.last_words) {
            if self.has_pipe(life) && now < until {
                self.last_words.push((life, tail, until));
            } else if let Err(tail) = self.queries.tail(tail, &peer) {
                // Too many wait already: in a moment.
                self.last_words.push((life, tail, now + LAST_WORDS_AGAIN));
            }
        }
    }

    fn has_pipe(&self, life: Invocation) -> bool {
        let first = self.by_id.range(LaunchId::main(life)..).next();
        first.is_some_and(|(id, _)| id.invocation == life)
    }

    // --- pipes -----------------------------------------------------------------------------------------------

    fn open_pipes(
        &mut self,
        id: LaunchId,
        output: &Output,
        ends: impl Iterator<Item = (OwnedFd, Option<Stream>)>,
    ) -> io::Result<()> {
        if self.by_id.contains_key(&id) {
            return Ok(()); // said twice; these descriptors are other names of the same pipes
        }
        let Some(journal) = self.journal(&output.unit) else {
            crate::say!(
                "ringriftd logger: cannot log {:?}: that is no unit's name",
                output.unit
            );
            self.answers.push_back(FromLogger::Closed { id });
            return Ok(());
        };
        self.journals[journal].set_bounds(output.max_size, output.max_files, output.keep);
        let forward = Shipping::of(&mut self.shipping, &output.unit, &output.read);
        self.journals[journal].set_forward(forward);
        self.plan_ages(Instant::now());
        for (fd, stream) in ends {
            let (source, partial) = self.exact.open(id, fd)?;
            let token = self.next_token;
            self.next_token += 1;
            let mut pipe = Pipe::new(source, journal, stream, partial, output);
            if !self.journals[journal].is_blocked() {
                watch(&self.epoll, &mut pipe, token)?;
            }
            self.pipes.insert(token, pipe);
            self.by_id.entry(id).or_default().push(token);
        }
        Ok(())
    }

    /// The number of a unit's log. None: that is no unit's name.
    fn journal(&mut self, name: &str) -> Option<usize> {
        if let Some(index) = self.by_unit.get(name) {
            return Some(*index);
        }
        let unit = self.shared.unit(name)?;
        self.journals.push(Journal::new(self.shared.clone(), unit));
        self.by_unit.insert(name.to_owned(), self.journals.len() - 1);
        Some(self.journals.len() - 1)
    }

    /// A log says what was dropped of it. False: it is blocked, and will.
    fn tell_dropped(&mut self, index: usize) -> bool {
        let journal = &mut self.journals[index];
        if !journal.has_untold() {
            return true;
        }
        let was_open = journal.is_open();
        let done = journal.tell_dropped(&mut self.exact, &mut self.clock);
        if !was_open && self.journals[index].is_open() {
            self.note_open(index);
        }
        self.note_news(index);
        if done.is_err() && !self.blocked.contains(&index) {
            self.blocked.push(index);
        }
        done.is_ok()
    }

    /// Blocked logs that drop do so where a pipe is half full.
    fn drop_what_waits(&mut self, now: Instant, buffer: &mut [u8]) {
        let journals = &self.journals;
        if !self.blocked.iter().any(|index| journals[*index].is_dropping()) {
            self.drops_at = None;
            return;
        }
        if self.drops_at.is_some_and(|at| at > now) {
            return;
        }
        self.drops_at = Some(now + LOG_DROP_LOOK);
        let pipes = self.pipes.values_mut();
        drop_waiting(pipes, &mut self.journals, &mut self.exact, buffer);
        for index in self.blocked.clone() {
            self.note_news(index);
        }
    }

    /// One look into one pipe: at most [`LOG_READ`] bytes, then the next pipe has its turn.
    fn turn(&mut self, token: u64, buffer: &mut [u8]) {
        if self.read(token, buffer) == Turn::End {
            self.close_pipe(token);
        }
    }

    /// Reads and writes what one look into a pipe shows. A pipe whose log is blocked is watched no longer.
    fn read(&mut self, token: u64, buffer: &mut [u8]) -> Turn {
        let Some(pipe) = self.pipes.get_mut(&token) else {
            return Turn::Empty;
        };
        let index = pipe.journal;
        let journal = &mut self.journals[index];
        let was_open = journal.is_open();
        journal.lend(&mut self.spare);
        let turn = match journal.is_blocked() {
            true => Turn::Blocked, // it waits in the pipe
            false => read_pipe(pipe, journal, &mut self.exact, &mut self.clock, buffer),
        };
        journal.lend(&mut self.spare);
        if turn == Turn::Blocked {
            self.block(token);
        } else {
            self.tell_dropped(index); // the rest of a line, after all was well again
        }
        if !was_open && self.journals[index].is_open() {
            self.note_open(index);
        }
        self.note_news(index);
        if let Turn::More(bytes) = turn
            && bytes >= LOG_PIPE_BUSY
        {
            self.rooms.widen(token, &mut self.pipes, Instant::now());
        }
        turn
    }

    /// A pipe's log is blocked: it is tried again, and the pipe waits.
    fn block(&mut self, token: u64) {
        let Some(pipe) = self.pipes.get_mut(&token) else {
            return;
        };
        unwatch(&self.epoll, pipe);
        if !self.blocked.contains(&pipe.journal) {
            self.blocked.push(pipe.journal);
        }
    }

    fn note_open(&mut self, index: usize) {
        self.open.push_back(index);
        if self.open.len() > LOG_FILES_OPEN_MAX
            && let Some(first) = self.open.pop_front()
        {
            self.journals[first].close();
        }
    }

    /// The end of a pipe: what has no newline is written, the keeper is told. If the log refuses, the pipe stays.
    fn close_pipe(&mut self, token: u64) {
        let Some(pipe) = self.pipes.get_mut(&token) else {
            return;
        };
        let index = pipe.journal;
        let journal = &mut self.journals[index];
        let written = write_last(pipe, journal, &mut self.exact, &mut self.clock);
        self.note_news(index);
        match written {
            Ok(()) => self.drop_pipe(token),
            Err(_) => self.block(token),
        }
    }

    fn drop_pipe(&mut self, token: u64) {
        let Some(mut pipe) = self.pipes.remove(&token) else {
            return;
        };
        unwatch(&self.epoll, &mut pipe);
        self.rooms.forget(token);
        self.closing.retain(|t| *t != token);
        let id = pipe.source.id;
        let tokens = self.by_id.entry(id).or_default();
        tokens.retain(|t| *t != token);
        if !tokens.is_empty() {
            return; // its other stream is still read
        }
        self.by_id.remove(&id);
        self.answers.push_back(FromLogger::Closed { id });
    }

    /// A launch's time to drain is over: what is there now is read.
    fn close_late(&mut self, token: u64, buffer: &mut [u8]) {
        match self.read_all(token, buffer) {
            Turn::Blocked => self.wait_on(token, buffer),
            Turn::More(_) | Turn::Empty | Turn::End => {
                self.close_pipe(token);
                if self.pipes.contains_key(&token) {
                    self.wait_on(token, buffer);
                }
            }
        }
    }

    /// Reads a pipe until it is empty, at most [`LOG_END_READ`] bytes.
    fn read_all(&mut self, token: u64, buffer: &mut [u8]) -> Turn {
        let mut read = 0;
        loop {
            match self.read(token, buffer) {
                Turn::More(n) if read < LOG_END_READ => read += n,
                turn => return turn,
            }
        }
    }

    /// A pipe stays past its time, since nothing else would keep its bytes: a few of a unit, the newest.
    fn wait_on(&mut self, token: u64, buffer: &mut [u8]) {
        let Some(pipe) = self.pipes.get_mut(&token) else {
            return;
        };
        pipe.is_waiting = true;
        let index = pipe.journal;
        let waiting = |p: &&Pipe| p.journal == index && p.is_waiting;
        if self.pipes.values().filter(waiting).count() <= LOG_PIPES_WAITING {
            return;
        }
        let Some((oldest, pipe)) = self
            .pipes
            .iter_mut()
            .find(|(_, p)| p.journal == index && p.is_waiting)
        else {
            return;
        };
        let oldest = *oldest;
        if self.journals[index].is_dropping() {
            let _ = drop_last(pipe, &mut self.journals[index], &mut self.exact, buffer);
        }
        match left_in(pipe) {
            0 => {}
            left => self.journals[index].lose(left),
        }
        self.exact.forget(&mut pipe.source);
        self.note_news(index);
        self.drop_pipe(oldest);
    }

    // --- time ------------------------------------------------------------------------------------------------

    /// A log's age may be bounded now: it is looked at soon enough to tell a tenth of the shortest one.
    fn plan_ages(&mut self, now: Instant) {
        let ages = self.journals.iter().filter_map(Journal::max_age);
        let look = ages
            .min()
            .map(|age| (age / 10).clamp(LOG_AGE_LOOK_MIN, LOG_AGE_LOOK_MAX));
        self.ages_at = match (look, self.ages_at) {
            (Some(look), Some(at)) => Some(at.min(now + look)),
            (look, _) => look.map(|look| now + look),
        };
    }

    fn look_at_ages(&mut self, now: Instant) {
        if self.ages_at.is_none_or(|at| at > now) {
            return;
        }
        self.ages_at = None;
        self.plan_ages(now);
        let now_us = now_us();
        for index in 0..self.journals.len() {
            let was_open = self.journals[index].is_open();
            self.journals[index].look_at_age(now_us);
            if !was_open && self.journals[index].is_open() {
                self.note_open(index);
            }
            if self.journals[index].is_blocked() && !self.blocked.contains(&index) {
                self.blocked.push(index);
            }
        }
    }

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
                    .is_none_or(|p| !p.is_waiting && p.close_at.is_some_and(|at| at <= now))
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
            if self.tell_dropped(index) {
                self.resume(index)?;
            }
        }
        Ok(())
    }

    /// A log is tried again: its pipes are read again, and tell whether it is well.
    fn resume(&mut self, index: usize) -> io::Result<()> {
        let epoll = &self.epoll;
        self.pipes
            .iter_mut()
            .filter(|(_, pipe)| pipe.journal == index)
            .try_for_each(|(token, pipe)| {
                pipe.is_waiting = false;
                watch(epoll, pipe, *token)
            })
    }

    /// The end of all: what is in the pipes now is read and written.
    fn drain_all(&mut self, buffer: &mut [u8]) {
        let now = Instant::now();
        for index in std::mem::take(&mut self.blocked) {
            if self.journals[index].retry(now) {
                self.tell_dropped(index);
            }
        }
        let tokens: Vec<u64> = self.pipes.keys().copied().collect();
        for token in tokens {
            self.read_all(token, buffer);
            self.close_pipe(token);
        }
        for pipe in self.pipes.values() {
            crate::say!(
                "ringriftd logger: the last {} bytes of {} are lost: its log cannot be written",
                left_in(pipe),
                self.journals[pipe.journal].name()
            );
        }
        let _ = self.answer_keeper();
    }
}
