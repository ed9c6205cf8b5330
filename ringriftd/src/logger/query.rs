//! Answering those who read logs, each in a thread of its own, which may be as slow as its client: it reads files, and
//! shares nothing with the writer but places.
//!
//! Read first: [`Queries::start`] and `Serving::run`.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;
use proto::frame::Answer;
use proto::reply::{Failure, LogLine, Reply};
use proto::request::LogFilter;

use super::history::{self, Cursor};
use super::link;
use super::place::{Follower, Shared};
use super::sought::{self, Sieve};
use crate::config::probe::compiled;
use crate::keeper::wire::{LogOf, LogQuery, LogTail, LogWord};
use crate::limits::{
    LOG_BLOCK, LOG_FIND_SCAN, LOG_FRAME_BYTES, LOG_LINES_PER_FRAME, LOG_QUERIES_MAX, LOG_QUERY_BUFFER,
    LOG_TAIL_BYTES, LOG_TAIL_MESSAGE, LOG_TAIL_SCAN, LOG_TAILS_MAX, LOG_TAILS_WAITING, WRITE_TIMEOUT,
};

/// The stack of a query's thread: nothing here recurses or keeps arrays.
const STACK: usize = 256 * 1024;

/// The queries under way.
#[derive(Debug)]
pub struct Queries {
    shared: Arc<Shared>,
    serving: Arc<AtomicUsize>,
    followers: Arc<Followers>,
    tails: Arc<Mutex<Tails>>,
    /// Bytes of the stack of each thread.
    stack: usize,
}

/// Those who follow.
type Followers = Mutex<Vec<Weak<Follower>>>;

/// The manager's queries for last lines: one for each unit of a list, so many come at once.
#[derive(Debug, Default)]
struct Tails {
    /// Threads that read.
    readers: usize,
    /// What they have not begun.
    waiting: VecDeque<Tail>,
}

/// One of the manager's queries.
#[derive(Debug)]
pub struct Tail {
    /// Its number.
    pub nonce: u64,
    /// Of which unit.
    pub unit: String,
    wanted: Wanted,
}

/// What a query asks for.
#[derive(Debug)]
enum Wanted {
    /// The last lines of one life (absent: any).
    Last {
        /// Its serial.
        invocation: Option<u64>,
        /// At most so many.
        lines: u32,
    },
    /// A line of one life that matches.
    Match {
        /// Its serial.
        invocation: u64,
        /// Written then or later, µs since 1970.
        since_us: u64,
        /// A regular expression.
        pattern: String,
    },
}

impl Tail {
    /// For the last lines of one life.
    pub fn last(nonce: u64, unit: String, invocation: u64, lines: u32) -> Self {
        let wanted = Wanted::Last {
            invocation: Some(invocation),
            lines,
        };
        Self { nonce, unit, wanted }
    }

    fn answer(&self, shared: &Arc<Shared>, peer: &OwnedFd) {
        let found = match &self.wanted {
            Wanted::Last { invocation, lines } => {
                last_lines(shared, &self.unit, *invocation, *lines as usize)
            }
            Wanted::Match {
                invocation,
                since_us,
                pattern,
            } => matching_line(shared, &self.unit, *invocation, *since_us, pattern),
        };
        let tail = LogTail {
            nonce: self.nonce,
            is_refused: found.is_none(),
            lines: found.unwrap_or_default(),
        };
        send_patiently(peer, &LogWord::Tail(tail));
    }
}

/// A reader's place among the [`Tails`]; given back after the last query, or by dropping if that never comes.
struct Reader {
    tails: Arc<Mutex<Tails>>,
    has_left: bool,
}

impl Reader {
    /// A place to work off `tail` and what waits behind it; or nothing, when those who read will come to it; or
    /// `tail` itself, when too many wait.
    fn begin(tails: &Arc<Mutex<Tails>>, tail: Tail) -> Result<Option<(Self, Tail)>, Tail> {
        let mut all = tails.lock().unwrap_or_else(PoisonError::into_inner);
        if all.readers < LOG_TAILS_MAX {
            all.readers += 1;
            let reader = Self {
                tails: tails.clone(),
                has_left: false,
            };
            Ok(Some((reader, tail)))
        } else if all.waiting.len() < LOG_TAILS_WAITING {
            all.waiting.push_back(tail);
            Ok(None)
        } else {
            Err(tail)
        }
    }

    /// The next query; where there is none the place is free in the same moment, so that none is left to wait for
    /// readers that are about to go.
    fn next(&mut self) -> Option<Tail> {
        let mut all = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        let next = all.waiting.pop_front();
        if next.is_none() && !self.has_left {
            all.readers -= 1;
            self.has_left = true;
        }
        next
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.has_left {
            let mut all = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
            all.readers -= 1;
        }
    }
}

/// One of so many; given back by dropping.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(count: &Arc<AtomicUsize>, bound: usize) -> Option<Self> {
        let seat = (count.fetch_add(1, Ordering::Relaxed) < bound, Self(count.clone()));
        seat.0.then_some(seat.1)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Queries {
    /// None yet.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            serving: Arc::default(),
            followers: Arc::default(),
            tails: Arc::default(),
            stack: STACK,
        }
    }

    /// Answers a query, in a thread, or refuses it at once. `peer` is where the manager hears of tails.
    pub fn start(&self, query: LogQuery, client: Option<OwnedFd>, peer: &Arc<OwnedFd>) {
        match query {
            LogQuery::Keeper => {} // the writer's own
            LogQuery::Renew => {
                let followers = std::mem::take(&mut *lock(&self.followers));
                followers
                    .iter()
                    .filter_map(Weak::upgrade)
                    .for_each(|one| one.end());
            }
            LogQuery::Serve {
                ask,
                units,
                seed,
                lines,
                filter,
                follow,
            } => {
                let Some(fd) = client else {
                    crate::say!(
                        "ringriftd logger: cannot answer a query for logs: no connection came with it"
                    );
                    return;
                };
                let mut client = Client {
                    fd,
                    ask,
                    patience: WRITE_TIMEOUT,
                };
                let Some(seat) = Seat::take(&self.serving, LOG_QUERIES_MAX) else {
                    client.refuse(format!(
                        "{LOG_QUERIES_MAX} readers of logs are being served already: end one, or try again"
                    ));
                    return;
                };
                let (shared, followers) = (self.shared.clone(), self.followers.clone());
                let begun = self.spawn("log-query", client, move |client| {
                    let _seat = seat;
                    let _ = Serving {
                        shared,
                        client,
                        seed,
                        lines,
                        filter,
                        follow,
                        followers,
                        failure: None,
                    }
                    .run(units);
                });
                if let Err((mut client, e)) = begun {
                    client.refuse(format!(
                        "the logger cannot start a thread to read logs: {e}: raise TasksMax= or pids.max, or try again"
                    ));
                }
            }
            LogQuery::Tail {
                nonce,
                unit,
                invocation,
                lines,
            } => {
                let wanted = Wanted::Last { invocation, lines };
                self.look(Tail { nonce, unit, wanted }, peer);
            }
            LogQuery::Match {
                nonce,
                unit,
                invocation,
                since_us,
                pattern,
            } => {
                let wanted = Wanted::Match {
                    invocation,
                    since_us,
                    pattern,
                };
                self.look(Tail { nonce, unit, wanted }, peer);
            }
            LogQuery::LastWords { .. } => {} // the writer's own, who says when
            LogQuery::Total { .. } => {}     // likewise
        }
    }

    /// As [`Queries::tail`]; too many at once are refused.
    fn look(&self, tail: Tail, peer: &Arc<OwnedFd>) {
        if let Err(refused) = self.tail(tail, peer) {
            let answer = LogTail {
                nonce: refused.nonce,
                lines: Vec::new(),
                is_refused: true,
            };
            let _ = link::send(peer, &LogWord::Tail(answer));
        }
    }

    /// Answers a query for lines, in a thread; gives it back when too many wait, or there is no thread to be had.
    pub fn tail(&self, tail: Tail, peer: &Arc<OwnedFd>) -> Result<(), Tail> {
        let Some((mut reader, tail)) = Reader::begin(&self.tails, tail)? else {
            return Ok(());
        };
        let (shared, peer) = (self.shared.clone(), peer.clone());
        let begun = self.spawn("log-tail", tail, move |mut tail| {
            loop {
                tail.answer(&shared, &peer);
                match reader.next() {
                    Some(next) => tail = next,
                    None => return,
                }
            }
        });
        begun.map_err(|(tail, _)| tail)
    }

    /// Has `job` done in a thread with `with`, which comes back where there is no thread to be had; what else the job
    /// owns is dropped then.
    fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        with: T,
        job: impl FnOnce(T) + Send + 'static,
    ) -> Result<(), (T, io::Error)> {
        let place = Arc::new(Mutex::new(Some(with)));
        let take = |place: &Mutex<Option<T>>| place.lock().unwrap_or_else(PoisonError::into_inner).take();
        let given = Arc::clone(&place);
        let begun = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(self.stack)
            .spawn(move || {
                if let Some(with) = take(&given) {
                    job(with);
                }
            });
        match begun {
            Ok(_) => Ok(()),
            Err(e) => {
                crate::say!("ringriftd logger: cannot start a thread for a query: {e}");
                take(&place).map_or(Ok(()), |with| Err((with, e)))
            }
        }
    }
}

/// None: it could not be looked.
fn matching_line(
    shared: &Arc<Shared>,
    unit: &str,
    invocation: u64,
    since_us: u64,
    pattern: &str,
) -> Option<Vec<LogLine>> {
    let Some(unit) = shared.unit(unit) else {
        return Some(Vec::new());
    };
    // It was compiled before, when the unit's file was read.
    let pattern = compiled(pattern).ok()?;
    let is_it = |message: &[u8]| pattern.is_match(message);
    match history::find(shared, &unit, invocation, since_us, LOG_FIND_SCAN, &is_it) {
        Ok(found) => Some(
            found
                .into_iter()
                .map(|mut line| {
                    line.message.truncate(LOG_TAIL_MESSAGE);
                    line
                })
                .collect(),
        ),
        Err(e) => {
            crate::say!("ringriftd logger: cannot read the log of {}: {e}", unit.name);
            None
        }
    }
}

/// None: it could not be looked.
fn last_lines(
    shared: &Arc<Shared>,
    unit: &str,
    invocation: Option<u64>,
    lines: usize,
) -> Option<Vec<LogLine>> {
    let Some(unit) = shared.unit(unit) else {
        return Some(Vec::new());
    };
    let found = match history::tail(
        shared,
        &unit,
        invocation,
        lines.min(LOG_LINES_PER_FRAME),
        LOG_TAIL_SCAN,
    ) {
        Ok(found) => found,
        Err(e) => {
            crate::say!("ringriftd logger: cannot read the log of {}: {e}", unit.name);
            return None;
        }
    };
    let mut room = LOG_TAIL_BYTES;
    let mut kept = Vec::new();
    for mut line in found.into_iter().rev() {
        line.message.truncate(LOG_TAIL_MESSAGE);
        let bytes = encoded_bound(&line);
        if bytes > room {
            break;
        }
        room -= bytes;
        kept.push(line);
    }
    kept.reverse();
    Some(kept)
}

/// More bytes than the codec needs for a line.
fn encoded_bound(line: &LogLine) -> usize {
    line.message.len() + line.unit.len() + 48
}

fn send_patiently(peer: &OwnedFd, tail: &LogWord) {
    let deadline = Instant::now() + WRITE_TIMEOUT;
    loop {
        match link::send(peer, tail) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !wait_writable(peer, deadline) {
                    return;
                }
            }
            _ => return, // sent, or the manager is gone
        }
    }
}

/// False: the time is over, or nobody is there.
fn wait_writable(fd: &impl AsFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLOUT)),
            Err(_) => return false,
        }
    }
}

/// Who asked.
struct Client {
    fd: OwnedFd,
    ask: u64,
    /// How long a frame may take.
    patience: Duration,
}

/// The client is gone, or too slow to be kept.
struct Gone;

impl Client {
    fn send(&mut self, reply: Reply) -> Result<(), Gone> {
        let body = proto::codec::encode(&Answer { id: self.ask, reply }).map_err(|_| Gone)?;
        let length = u32::try_from(body.len()).map_err(|_| Gone)?;
        let mut frame = Vec::with_capacity(4 + body.len());
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&body);
        let deadline = Instant::now() + self.patience;
        let mut sent = 0;
        while sent < frame.len() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match nix::sys::socket::send(self.fd.as_raw_fd(), &frame[sent..], flags) {
                Ok(n) => sent += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if wait_writable(&self.fd, deadline) => {}
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    fn fail(&mut self, message: String) -> Result<(), Gone> {
        self.send(Reply::Failed(Failure {
            code: 1,
            message,
            unit: None,
            hint: None,
            details: Vec::new(),
        }))
    }

    /// From the writer's own thread, so without any patience: a frame this short fits, or nobody reads.
    fn refuse(&mut self, message: String) {
        self.patience = Duration::ZERO;
        let _ = self.fail(message);
    }
}

struct Serving {
    shared: Arc<Shared>,
    client: Client,
    seed: u64,
    lines: Option<u64>,
    filter: LogFilter,
    follow: bool,
    followers: Arc<Followers>,
    failure: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Serving {
    fn run(mut self, mut units: Vec<LogOf>) -> Result<(), Gone> {
        units.sort_by(|a, b| a.unit.cmp(&b.unit));
        units.dedup_by(|a, b| a.unit == b.unit);
        self.client.send(Reply::Seed(self.seed))?;
        let follower = match self.follow.then(|| Follower::new(units.len())).transpose() {
            Ok(follower) => follower,
            Err(e) => return self.client.fail(format!("cannot follow logs: {e}")),
        };
        if let Some(follower) = &follower {
            let mut followers = lock(&self.followers);
            followers.retain(|one| one.strong_count() > 0);
            followers.push(Arc::downgrade(follower));
        }
        let block = (LOG_QUERY_BUFFER / units.len().max(1)).clamp(2048, LOG_BLOCK);
        let mut cursors = Vec::new();
        let pattern = match self.filter.pattern.as_deref().map(compiled).transpose() {
            Ok(pattern) => pattern,
            Err(why) => return self.client.fail(format!("the pattern cannot be used: {why}")),
        };
        for LogOf {
            unit: name,
            last_life,
            parse,
            is_split,
        } in units
        {
            if self.filter.stream.is_some() && !is_split {
                let text = format!("{name} does not tell its streams apart: what it wrote is left out");
                self.client.send(Reply::Warning(text))?;
            }
            let Some(unit) = self.shared.unit(&name) else {
                self.failure
                    .get_or_insert(format!("cannot read the log of {name:?}: that is no unit's name"));
                continue;
            };
            if let Some(follower) = &follower {
                // Before its end is looked up: a line that comes in between is then seen twice by us, told once.
                unit.place()
                    .follow(follower, u32::try_from(cursors.len()).unwrap_or(u32::MAX));
            }
            let found = Sieve::new(
                &self.filter,
                pattern.clone(),
                last_life,
                parse,
                &self.shared,
                &unit,
            )
            .and_then(|sieve| Ok((sought::range(&self.shared, &unit, &sieve, self.lines)?, sieve)));
            match found {
                Ok(((start, end), sieve)) => {
                    let stop = (!self.follow).then_some(end);
                    cursors.push((
                        name,
                        Cursor::new(self.shared.clone(), unit, start, stop, block, sieve),
                    ));
                }
                Err(e) => {
                    self.failure
                        .get_or_insert(format!("cannot read the log of {name}: {e}"));
                }
            }
        }
        self.merge(cursors, follower)
    }

    /// Sends the lines of all cursors in the order of their times, then waits for more if it follows.
    fn merge(
        mut self,
        mut cursors: Vec<(String, Cursor)>,
        follower: Option<Arc<Follower>>,
    ) -> Result<(), Gone> {
        let mut heads: Vec<Option<LogLine>> = cursors.iter().map(|_| None).collect();
        let mut heap = BinaryHeap::new();
        let mut frame = Frame::default();
        let mut look: Vec<usize> = (0..cursors.len()).collect();
        loop {
            for index in look.drain(..) {
                if heads.get(index).is_some_and(Option::is_none) {
                    self.refill(index, &mut cursors, &mut heads, &mut heap, &mut frame)?;
                }
            }
            while let Some(Reverse((_, index))) = heap.pop() {
                let Some(line) = heads[index].take() else { continue };
                frame.push(line);
                self.refill(index, &mut cursors, &mut heads, &mut heap, &mut frame)?;
                if frame.is_full() {
                    frame.send(&mut self.client)?;
                    if follower.is_some() {
                        break; // a unit that floods must not hide the others' news
                    }
                }
            }
            frame.send(&mut self.client)?;
            let Some(follower) = &follower else { break };
            if follower.is_over() {
                return self.client.send(Reply::Again);
            }
            if heap.is_empty() {
                self.wait(follower)?;
            }
            look.extend(follower.take().into_iter().map(|i| i as usize));
        }
        match self.failure.take() {
            Some(failure) => self.client.fail(failure),
            None => self.client.send(Reply::End),
        }
    }

    fn refill(
        &mut self,
        index: usize,
        cursors: &mut [(String, Cursor)],
        heads: &mut [Option<LogLine>],
        heap: &mut BinaryHeap<Reverse<(u64, usize)>>,
        frame: &mut Frame,
    ) -> Result<(), Gone> {
        let (name, cursor) = &mut cursors[index];
        match cursor.next() {
            Ok(Some(line)) => {
                heap.push(Reverse((line.at_us, index)));
                heads[index] = Some(line);
            }
            Ok(None) => {}
            Err(e) => {
                let text = format!("cannot read the log of {name}: {e}");
                if self.follow {
                    frame.send(&mut self.client)?;
                    self.client.fail(text)?;
                    return Err(Gone);
                }
                self.failure.get_or_insert(text);
            }
        }
        match cursor.take_missed() {
            0 => Ok(()),
            missed => {
                frame.send(&mut self.client)?;
                self.client.send(Reply::Lagged(missed))
            }
        }
    }

    /// Until there is news, or the client closes.
    fn wait(&self, follower: &Follower) -> Result<(), Gone> {
        loop {
            let mut fds = [
                PollFd::new(follower.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.client.fd.as_fd(), PollFlags::empty()), // a hang-up is always told
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) if fds[1].any() == Some(true) => return Err(Gone),
                Ok(_) if fds[0].any() == Some(true) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return Err(Gone),
            }
        }
    }
}

/// Lines that wait to be one frame.
#[derive(Default)]
struct Frame {
    lines: Vec<LogLine>,
    bytes: usize,
}

impl Frame {
    fn push(&mut self, line: LogLine) {
        self.bytes += encoded_bound(&line);
        self.lines.push(line);
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= LOG_LINES_PER_FRAME || self.bytes >= LOG_FRAME_BYTES
    }

    fn send(&mut self, client: &mut Client) -> Result<(), Gone> {
        if self.lines.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        client.send(Reply::Logs(std::mem::take(&mut self.lines)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::super::dir::LogDir;
    use super::super::link::{Received, receive};
    use super::*;

    /// More than any process has room for: no thread with such a stack can be started.
    const TOO_LARGE: usize = 1 << 47;

    #[test]
    fn where_no_thread_is_to_be_had_every_query_is_answered_and_later_ones_are_served() {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = LogDir::open(&temp.path().join("log")).expect("opened");
        let mut queries = Queries::new(Arc::new(Shared::new(dir)));
        let (seq, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
        let (manager, peer) = socketpair(AddressFamily::Unix, seq, None, flags).expect("a pair");
        let peer = Arc::new(peer);
        let (mut buffer, last) = (Vec::new(), 2 * LOG_TAILS_MAX as u64);
        for nonce in 0..=last {
            // As many as there are readers, and more: none keeps its place.
            queries.stack = if nonce == last { STACK } else { TOO_LARGE };
            let query = LogQuery::Tail {
                nonce,
                unit: "a".to_owned(),
                invocation: None,
                lines: 5,
            };
            queries.start(query, None, &peer);
            // The last one is answered by a thread, in its own time.
            let mut fds = [PollFd::new(manager.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, 60_000_u16), Ok(1), "no answer to query {nonce}");
            let told = receive::<LogWord>(&manager, &mut buffer).expect("it is answered");
            let Received::Message(LogWord::Tail(tail), _) = told else {
                panic!("not to the question: {told:?}");
            };
            assert_eq!((tail.nonce, tail.is_refused), (nonce, nonce != last));
        }
        queries.stack = TOO_LARGE;
        for ask in 0..=LOG_QUERIES_MAX as u64 {
            let (mut client, end) = UnixStream::pair().expect("a pair");
            let query = LogQuery::Serve {
                ask,
                units: vec![LogOf {
                    unit: "a".to_owned(),
                    last_life: None,
                    parse: crate::spec::Parse::Prefix,
                    is_split: false,
                }],
                seed: 1,
                lines: None,
                filter: LogFilter::default(),
                follow: false,
            };
            queries.start(query, Some(end.into()), &peer);
            let mut told = Vec::new();
            client.read_to_end(&mut told).expect("it is answered, and let go");
            let answer: Answer = proto::codec::decode(&told[4..]).expect("a frame");
            let Reply::Failed(failure) = answer.reply else {
                panic!("not to the question: {answer:?}");
            };
            assert_eq!(answer.id, ask);
            assert!(
                failure
                    .message
                    .starts_with("the logger cannot start a thread to read logs: "),
                "{failure:?}"
            );
        }
    }
}
