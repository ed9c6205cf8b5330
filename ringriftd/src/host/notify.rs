//! What units say of themselves: sd_notify(3) datagrams, one socket for each life of a unit, so that the socket
//! tells whose datagram it is and a late one of an older life changes nothing.
//!
//! Whoever can write to the socket is not yet believed: the kernel says who sent each datagram. Whatever comes
//! (nothing, rubbish, 64 KiB, 253 descriptors), the socket goes on being read (CVE-2016-7796), descriptors are closed
//! at once, and a flood costs this unit's datagrams and nobody else's time.
//!
//! A datagram stays in its socket until what it says is in the manager's state: it is looked at, told, and taken only when
//! the manager is done with it ([`Consumed`]). So a manager that dies in between loses nothing: the next one, which gets
//! the same socket, hears it again.
//!
//! Read first: [`Notice`], [`parse`], [`Told`] and [`listen`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::host::receive::{Received, ask_for_senders, discard, peek, watch};
use crate::host::usage::stat_fields;
use crate::ids::Invocation;
use crate::limits::{
    DURATION_MAX, FD_NAME_MAX, METRIC_NAME_MAX, METRICS_MAX, NOTIFY_DRAIN, NOTIFY_MAX, NOTIFY_RATE,
    PREPARE_TIMEOUT, STATUS_TEXT_MAX,
};
use crate::spec::NotifyAccess;
use proto::reply::Health;

/// One thing that a unit said.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// `READY=1`.
    Ready,
    /// `STATUS=`, one line without control characters, at most [`STATUS_TEXT_MAX`] bytes; empty takes it back.
    Status(String),
    /// `STOPPING=1`.
    Stopping,
    /// `RELOADING=1`. `MONOTONIC_USEC=` beside it says when that was, in µs of CLOCK_MONOTONIC.
    Reloading {
        /// That time.
        at_us: Option<u64>,
    },
    /// `WATCHDOG=1`: it is alive.
    Watchdog,
    /// `WATCHDOG=trigger`: it wants to be treated as hung.
    WatchdogTrigger,
    /// `WATCHDOG_USEC=`: it will say `WATCHDOG=1` this often; zero: no more.
    WatchdogEvery(Duration),
    /// `EXTEND_TIMEOUT_USEC=`, at most [`DURATION_MAX`].
    Extend(Duration),
    /// `X_RINGRIFT_HEALTH=`; never `Unknown`.
    Health(Health),
    /// `X_RINGRIFT_METRICS=`: a JSON object of at most [`METRICS_MAX`] finite numbers with plain names, by name.
    Metrics(Vec<(String, f64)>),
    /// `MAINPID=`: another process of the unit is the main one from now on. Above 1; whether it is the unit's is still to
    /// be seen.
    MainPid(u32),
    /// `ERRNO=`: an errno(3) that explains what it has said; 0 takes it back.
    Errno(i32),
    /// `NOTIFYACCESS=`: who may notify for the rest of this life. systemd's `none` and `exec` have no counterpart.
    Access(NotifyAccess),
    /// `FDSTORE=1`: its descriptors are to be kept for the unit's next life. They are in the datagram's [`Consumed`].
    Store {
        /// `FDNAME=`; `stored` without one, or with one that is no name.
        name: String,
        /// Not `FDPOLL=0`: it is dropped when its other end hangs up.
        is_polled: bool,
    },
    /// `FDSTOREREMOVE=1`: those of this name are not kept any more.
    Unstore {
        /// `FDNAME=`.
        name: String,
    },
    /// `BARRIER=1`: the sender waits until its descriptor is closed, which happens when the datagram is taken, and so after
    /// everything said before. [`listen`] keeps it to itself when the datagram says nothing else.
    Barrier,
    /// A key that means nothing here (`BUSERROR`, any unknown one), or a value that its key does not have.
    Ignored {
        /// The key, at most 64 bytes and without control characters.
        key: String,
    },
    /// A datagram that was not believed. Never made by [`parse`].
    Rejected {
        /// Who sent it; 0 when the kernel could not say.
        pid: u32,
        /// In words.
        why: String,
    },
    /// So many datagrams came too fast and were not looked at. Never made by [`parse`].
    Dropped(u64),
}

/// Why a datagram says nothing at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// It has no bytes.
    Empty,
    /// It is longer than [`NOTIFY_MAX`].
    TooLong,
    /// It has a NUL byte elsewhere than at its end.
    Nul,
    /// It is not UTF-8.
    NotUtf8,
    /// A line is not `KEY=value`.
    NotAVariable,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the datagram is empty"),
            Self::TooLong => write!(f, "the datagram is longer than the {NOTIFY_MAX} bytes allowed"),
            Self::Nul => f.write_str("the datagram contains a NUL byte"),
            Self::NotUtf8 => f.write_str("the datagram is not valid UTF-8"),
            Self::NotAVariable => f.write_str("a line of the datagram is not KEY=value"),
        }
    }
}

/// What a datagram says, in its order. All of it or nothing: a datagram with one bad line is rubbish, and rubbish is
/// not half believed.
pub fn parse(datagram: &[u8]) -> Result<Vec<Notice>, Bad> {
    if datagram.len() > NOTIFY_MAX {
        return Err(Bad::TooLong);
    }
    // C programs send the NUL that ends their string along; systemd lets them, too.
    let datagram = datagram.strip_suffix(b"\0").unwrap_or(datagram);
    if datagram.is_empty() {
        return Err(Bad::Empty);
    }
    if datagram.contains(&0) {
        return Err(Bad::Nul);
    }
    let text = std::str::from_utf8(datagram).map_err(|_| Bad::NotUtf8)?;
    let mut pairs = Vec::new();
    for line in text.split('\n').filter(|line| !line.is_empty()) {
        match line.split_once('=') {
            None | Some(("", _)) => return Err(Bad::NotAVariable),
            Some(pair) => pairs.push(pair),
        }
    }
    let beside = Beside::of(&pairs);
    Ok(pairs
        .into_iter()
        .filter(|(key, _)| !Beside::KEYS.contains(key))
        .map(|(key, value)| one(key, value, &beside))
        .collect())
}

/// Variables that mean something only beside another of the same datagram, wherever in it they stand.
struct Beside<'a> {
    fd_name: Option<&'a str>,
    is_polled: bool,
    at_us: Option<u64>,
}

impl<'a> Beside<'a> {
    const KEYS: [&'static str; 3] = ["FDNAME", "FDPOLL", "MONOTONIC_USEC"];

    fn of(pairs: &[(&'a str, &'a str)]) -> Self {
        let value = |wanted: &str| {
            pairs
                .iter()
                .find(|(key, _)| *key == wanted)
                .map(|(_, value)| *value)
        };
        Self {
            fd_name: value("FDNAME").filter(|name| is_fd_name(name)),
            is_polled: value("FDPOLL") != Some("0"),
            at_us: value("MONOTONIC_USEC").and_then(number),
        }
    }
}

/// As systemd has it: printable ASCII without the colon that LISTEN_FDNAMES puts between names.
fn is_fd_name(name: &str) -> bool {
    (1..=FD_NAME_MAX).contains(&name.len()) && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b':')
}

/// The name of a stored descriptor that was given none.
const NAMELESS: &str = "stored";

fn one(key: &str, value: &str, beside: &Beside<'_>) -> Notice {
    let known = match (key, value) {
        ("READY", "1") => Some(Notice::Ready),
        ("STOPPING", "1") => Some(Notice::Stopping),
        ("RELOADING", "1") => Some(Notice::Reloading { at_us: beside.at_us }),
        ("WATCHDOG", "1") => Some(Notice::Watchdog),
        ("WATCHDOG", "trigger") => Some(Notice::WatchdogTrigger),
        ("WATCHDOG_USEC", n) => micros(n).map(Notice::WatchdogEvery),
        ("BARRIER", "1") => Some(Notice::Barrier),
        ("STATUS", text) => Some(Notice::Status(clean(text, STATUS_TEXT_MAX))),
        ("EXTEND_TIMEOUT_USEC", n) => micros(n).map(Notice::Extend),
        ("X_RINGRIFT_HEALTH", "healthy") => Some(Notice::Health(Health::Healthy)),
        ("X_RINGRIFT_HEALTH", "degraded") => Some(Notice::Health(Health::Degraded)),
        ("X_RINGRIFT_HEALTH", "unhealthy") => Some(Notice::Health(Health::Unhealthy)),
        ("X_RINGRIFT_METRICS", text) => metrics(text).map(Notice::Metrics),
        ("MAINPID", n) => number(n)
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 1 && i32::try_from(*pid).is_ok())
            .map(Notice::MainPid),
        ("ERRNO", n) => number(n)
            .and_then(|errno| i32::try_from(errno).ok())
            .filter(|errno| *errno <= ERRNO_MAX)
            .map(Notice::Errno),
        ("NOTIFYACCESS", "main") => Some(Notice::Access(NotifyAccess::Main)),
        ("NOTIFYACCESS", "all") => Some(Notice::Access(NotifyAccess::All)),
        ("FDSTORE", "1") => Some(Notice::Store {
            name: beside.fd_name.unwrap_or(NAMELESS).to_owned(),
            is_polled: beside.is_polled,
        }),
        ("FDSTOREREMOVE", "1") => beside.fd_name.map(|name| Notice::Unstore {
            name: name.to_owned(),
        }),
        _ => None,
    };
    known.unwrap_or_else(|| Notice::Ignored { key: clean(key, 64) })
}

fn micros(text: &str) -> Option<Duration> {
    Some(Duration::from_micros(number(text)?).min(DURATION_MAX))
}

fn number(text: &str) -> Option<u64> {
    // Not `u64::from_str` alone: it takes a sign.
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// The largest errno(3) that the kernel has (MAX_ERRNO).
const ERRNO_MAX: i32 = 4095;

/// All of the object or nothing: half of a set of numbers would be taken for the whole. Of a name that is there twice the
/// last number counts, as everywhere in JSON.
fn metrics(text: &str) -> Option<Vec<(String, f64)>> {
    let found: std::collections::BTreeMap<String, f64> = serde_json::from_str(text).ok()?;
    let is_name = |name: &String| {
        (1..=METRIC_NAME_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_.:".contains(&b))
    };
    let is_good = found.len() <= METRICS_MAX && found.iter().all(|(name, n)| is_name(name) && n.is_finite());
    is_good.then(|| found.into_iter().collect())
}

/// `text` without what could move a terminal's cursor or turn its text round, cut to `max` bytes between characters.
fn clean(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let is_bidi =
            matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
        let c = if c.is_control() || is_bidi || matches!(c, '\u{2028}' | '\u{2029}') {
            '\u{fffd}'
        } else {
            c
        };
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

/// Whose datagrams a socket takes.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The life.
    pub invocation: Invocation,
    /// Its `RINGRIFT_INVOCATION_ID`.
    pub invocation_text: String,
    /// Who of the unit may speak.
    pub access: NotifyAccess,
    /// The main process.
    pub main_pid: u32,
    /// Its start time, as `Launched` says it.
    pub main_start: u64,
    /// The name of the launch's leaf cgroup, where there are cgroups.
    pub leaf: Option<String>,
    /// The kernel's number of that cgroup: by it a sender is known that has ended.
    pub leaf_id: Option<u64>,
    /// It may have descriptors kept (`[exec] fd_store_max`); else all that it sends are closed.
    pub is_storing: bool,
}

/// What [`listen`] tells: whose life, what it said, and the hold on the datagram that said it.
pub type Told = (Invocation, Notice, Consumed);

/// Holds a datagram in its socket. Call [`Consumed::done`], or drop it, when what was said is committed: then the datagram is
/// taken, its descriptors are closed, and the next is read. Of a datagram that says several things only the last holds
/// it; what was said by this program itself (`Rejected`, `Dropped`) holds nothing. With [`Notice::Store`] it has copies of
/// the datagram's descriptors.
#[derive(Debug)]
pub struct Consumed {
    held: Option<oneshot::Sender<()>>,
    fds: Vec<OwnedFd>,
}

impl Consumed {
    fn nothing() -> Self {
        Self {
            held: None,
            fds: Vec::new(),
        }
    }

    fn holding() -> (Self, oneshot::Receiver<()>) {
        let (held, done) = oneshot::channel();
        let consumed = Self {
            held: Some(held),
            fds: Vec::new(),
        };
        (consumed, done)
    }

    /// The descriptors of a [`Notice::Store`], once, all of them of kinds that may be kept.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// It is committed.
    pub fn done(self) {
        if let Some(held) = self.held {
            // A reader that was aborted takes nothing any more.
            let _ = held.send(());
        }
    }
}

/// A socket that is being read. Dropping it closes the socket.
#[derive(Debug)]
pub struct NotifySocket {
    socket: Arc<AsyncFd<OwnedFd>>,
    expected: Shared,
    task: tokio::task::JoinHandle<()>,
}

/// What is expected may change within a life: by `MAINPID=` and `NOTIFYACCESS=`.
type Shared = Arc<Mutex<Expected>>;

fn now_expected(shared: &Shared) -> Expected {
    shared.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl NotifySocket {
    /// The socket itself, for whoever comes after this process.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }

    /// Another process is the main one.
    pub fn expect_main(&self, pid: u32, start_time: u64) {
        let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        (expected.main_pid, expected.main_start) = (pid, start_time);
    }

    /// Others may speak from now on, or may not.
    pub fn expect_access(&self, access: NotifyAccess) {
        self.expected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .access = access;
    }

    /// Tells when nothing is left in the socket that was not told and committed; `None` when that is so now.
    pub fn drained(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let socket = Arc::clone(&self.socket);
        let is_empty = move |socket: &AsyncFd<OwnedFd>| {
            let mut fds = [PollFd::new(socket.get_ref().as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n == 0)
        };
        if is_empty(&socket) {
            return None;
        }
        Some(async move {
            // The reader has the kernel's word for itself, so this one looks again and again; it is rare and short.
            while !is_empty(&socket) {
                tokio::time::sleep(DRAIN_PAUSE).await;
            }
        })
    }
}

/// Between two looks at a socket that is being emptied.
const DRAIN_PAUSE: Duration = Duration::from_millis(5);

impl Drop for NotifySocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads `socket`, a bound datagram socket, until the [`NotifySocket`] is dropped or nobody receives any more. Must
/// be called inside a tokio runtime. Everything believed goes to `tx`, and so do [`Notice::Rejected`] and
/// [`Notice::Dropped`], at most [`NOTIFY_RATE`] datagrams' worth a second; [`Notice::Ignored`] does not. One datagram is
/// under way at a time.
pub fn listen(socket: OwnedFd, expected: Expected, tx: mpsc::Sender<Told>) -> io::Result<NotifySocket> {
    ask_for_senders(socket.as_fd())?;
    let socket = Arc::new(watch(socket, Interest::READABLE)?);
    let invocation = expected.invocation;
    let expected = Arc::new(Mutex::new(expected));
    let ear = Ear {
        invocation,
        expected: Arc::clone(&expected),
        tx,
    };
    let task = tokio::spawn(run(Arc::clone(&socket), ear));
    Ok(NotifySocket {
        socket,
        expected,
        task,
    })
}

async fn run(socket: Arc<AsyncFd<OwnedFd>>, ear: Ear) {
    // One byte more than allowed, so that what is too long shows.
    let mut buffer = vec![0_u8; NOTIFY_MAX + 1];
    let mut limits = Limits::new();
    while let Some((mut received, datagram)) = next(&socket, &mut buffer).await {
        let is_told = match limits.judge(&received, &datagram) {
            Judged::TooMany | Judged::Barrier => {
                close(std::mem::take(&mut received.fds)).await;
                true
            }
            Judged::Worth { dropped, parsed } => ear.hear(received, parsed, dropped).await,
        };
        if !is_told {
            return;
        }
        if let Err(e) = discard(socket.get_ref().as_fd()) {
            // Nobody else reads this socket, so what was seen in it is there: the socket itself is broken.
            tracing::warn!(error = %e, "cannot take a datagram off a notify socket");
            return;
        }
        limits.pause().await;
    }
}

/// Who listens, and to whom.
struct Ear {
    invocation: Invocation,
    expected: Shared,
    tx: mpsc::Sender<Told>,
}

impl Ear {
    /// Tells what a datagram says, if its sender is believed, and waits until all of it is committed. False when nobody
    /// listens any more: then the datagram is to stay where it is.
    async fn hear(&self, mut received: Received, parsed: Result<Vec<Notice>, Bad>, dropped: u64) -> bool {
        // Copies; those in the socket go with the datagram.
        let fds = std::mem::take(&mut received.fds);
        let is_cut = received.is_control_cut;
        if dropped > 0 && !self.say(Notice::Dropped(dropped), Consumed::nothing()).await {
            return false;
        }
        let pid = received.sender.map_or(0, |s| u32::try_from(s.pid).unwrap_or(0));
        let expected = Arc::new(now_expected(&self.expected));
        let why = match (parsed, believe(&expected, received).await) {
            (Ok(notices), Ok(())) if is_cut && expected.is_storing && notices.iter().any(is_store) => {
                "its descriptors could not all be received (has ringriftd too many open?)".to_owned()
            }
            (Ok(notices), Ok(())) => return self.tell(notices, fds, expected.is_storing).await,
            (_, Err(why)) => why,
            (Err(bad), Ok(())) => bad.to_string(),
        };
        close(fds).await;
        self.say(Notice::Rejected { pid, why }, Consumed::nothing()).await
    }

    async fn tell(&self, notices: Vec<Notice>, fds: Vec<OwnedFd>, is_storing: bool) -> bool {
        let (mut kept, refused) = if is_storing && notices.iter().any(is_store) {
            keepable(fds).await
        } else {
            close(fds).await;
            (Vec::new(), 0)
        };
        if refused > 0 {
            let why = format!("{refused} descriptors to be stored are of kinds that are not: {KEPT_KINDS}");
            if !self
                .say(Notice::Rejected { pid: 0, why }, Consumed::nothing())
                .await
            {
                return false;
            }
        }
        let mut notices = notices
            .into_iter()
            .filter(|notice| {
                if !is_storing && is_store(notice) {
                    return false;
                }
                if let Notice::Ignored { key } = notice {
                    tracing::debug!(invocation = self.invocation.0, key, "notification ignored");
                }
                !matches!(notice, Notice::Ignored { .. })
            })
            .peekable();
        while let Some(notice) = notices.next() {
            // Said twice in one datagram, it has its descriptors once.
            let of_it = if is_store(&notice) {
                std::mem::take(&mut kept)
            } else {
                Vec::new()
            };
            if notices.peek().is_some() {
                let consumed = Consumed {
                    held: None,
                    fds: of_it,
                };
                if !self.say(notice, consumed).await {
                    return false;
                }
                continue;
            }
            let (mut held, done) = Consumed::holding();
            held.fds = of_it;
            if !self.say(notice, held).await {
                return false;
            }
            // Done or dropped, which means the same; unless it was dropped with the receiver, unheard.
            let _ = done.await;
        }
        !self.tx.is_closed()
    }

    async fn say(&self, notice: Notice, consumed: Consumed) -> bool {
        let told = (self.invocation, notice, consumed);
        self.tx.send(told).await.is_ok()
    }
}

fn is_store(notice: &Notice) -> bool {
    matches!(notice, Notice::Store { .. })
}

/// What becomes of a datagram before its sender is looked at.
enum Judged {
    /// It came too fast: nobody hears it.
    TooMany,
    /// It only asks to be taken, after all that came before it, and it is. systemd-notify sends one as itself, not as
    /// the main process that it spoke for: no reason to complain.
    Barrier,
    /// It is looked at; so many before it were not.
    Worth {
        dropped: u64,
        parsed: Result<Vec<Notice>, Bad>,
    },
}

/// How much of a unit is listened to.
struct Limits {
    all: Bucket,
    /// A READY lost among a thousand STATUS would fail the start: what changes a unit's state has a bucket of its own.
    urgent: Bucket,
    dropped: u64,
}

impl Limits {
    fn new() -> Self {
        Self {
            all: Bucket::full(),
            urgent: Bucket::full(),
            dropped: 0,
        }
    }

    fn judge(&mut self, received: &Received, datagram: &[u8]) -> Judged {
        let parsed = if received.is_cut {
            Err(Bad::TooLong)
        } else {
            parse(datagram)
        };
        let changes_state = |notices: &Vec<Notice>| {
            notices.iter().any(|n| {
                matches!(
                    n,
                    Notice::Ready | Notice::Stopping | Notice::Reloading { .. } | Notice::MainPid(_)
                )
            })
        };
        let may_pass = self.all.take() || (parsed.as_ref().is_ok_and(changes_state) && self.urgent.take());
        if !may_pass {
            self.dropped += 1;
            return Judged::TooMany;
        }
        if parsed.as_deref() == Ok(&[Notice::Barrier]) {
            return Judged::Barrier;
        }
        Judged::Worth {
            dropped: std::mem::take(&mut self.dropped),
            parsed,
        }
    }

    /// Until the next token there is nothing to do but to throw away: sleeps, so that a flood makes its sender wait
    /// (the socket's queue is short) instead of this process.
    async fn pause(&self) {
        if self.dropped > 0 && self.dropped.is_multiple_of(NOTIFY_DRAIN as u64) {
            tokio::time::sleep(Bucket::EACH).await;
        }
    }
}

/// The next datagram, still in the socket; `None` when the socket itself is broken, which closes it: its readiness would never end.
async fn next(socket: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> Option<(Received, Vec<u8>)> {
    loop {
        let mut guard = socket.readable().await.ok()?;
        match guard.try_io(|socket| peek(socket.get_ref().as_fd(), buffer)) {
            Ok(Ok(received)) => {
                let bytes = buffer[..received.len].to_vec();
                return Some((received, bytes));
            }
            Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(e))
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ENOMEM | libc::ENOBUFS | libc::EMFILE | libc::ENFILE)
                ) =>
            {
                tokio::time::sleep(Bucket::EACH).await;
            }
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "cannot read a notify socket");
                return None;
            }
            Err(_would_block) => {}
        }
    }
}

/// So many a second, that many at once.
struct Bucket {
    tokens: u32,
    since: Instant,
}

impl Bucket {
    const EACH: Duration = Duration::from_nanos(1_000_000_000 / NOTIFY_RATE as u64);

    fn full() -> Self {
        Self {
            tokens: NOTIFY_RATE,
            since: Instant::now(),
        }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let earned = now.duration_since(self.since).as_nanos() / Self::EACH.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if self.tokens.saturating_add(earned) >= NOTIFY_RATE {
            self.tokens = NOTIFY_RATE;
            self.since = now;
        } else {
            self.tokens += earned;
            self.since += Self::EACH * earned;
        }
        let has = self.tokens > 0;
        self.tokens -= u32::from(has);
        has
    }
}

/// The sender may speak for the unit, or why not.
async fn believe(expected: &Arc<Expected>, received: Received) -> Result<(), String> {
    let Some(sender) = received.sender else {
        return Err("the kernel did not say who sent it".to_owned());
    };
    let pid = match u32::try_from(sender.pid) {
        Ok(pid) if pid > 0 => pid,
        _ => return Err("its sender is in another pid namespace".to_owned()),
    };
    if pid == expected.main_pid {
        return is_main(expected, received.pidfd.as_ref().map(AsFd::as_fd));
    }
    match expected.access {
        NotifyAccess::Main => Err(format!(
            "process {pid} (user {}) is not the main process {}; notify_access = \"all\" would let the unit's others speak",
            sender.uid, expected.main_pid
        )),
        NotifyAccess::All => {
            // Reading another process's environment waits for its memory's lock, which a process that hangs on a
            // disk may hold: so not on the loop.
            let expected = Arc::clone(expected);
            let work =
                tokio::task::spawn_blocking(move || is_member(&expected, pid, received.pidfd.as_ref()));
            match tokio::time::timeout(PREPARE_TIMEOUT, work).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) | Err(_) => Err(format!("process {pid} could not be examined in time")),
            }
        }
    }
}

/// The pid is the main process's; is it still the same process? The keeper reaps it, and then the number is free.
fn is_main(expected: &Expected, pidfd: Option<BorrowedFd<'_>>) -> Result<(), String> {
    let pid = expected.main_pid;
    match start_time(pid) {
        Some(start) if start == expected.main_start => Ok(()),
        // Gone between sending and now: what it said, it said while it lived. With a pidfd that is certain; the
        // number cannot have been another's in so short a time either way.
        None => Ok(()),
        Some(_) if pidfd.is_some_and(has_ended) => Ok(()),
        Some(_) => Err(format!(
            "process {pid} has the main process's number but is another"
        )),
    }
}

fn is_member(expected: &Expected, pid: u32, pidfd: Option<&OwnedFd>) -> Result<(), String> {
    let found = is_in_leaf(expected, pid) || is_descendant(expected, pid) || has_invocation(expected, pid);
    // Only if the sender still lives was it the sender that we looked at. Of one that has ended, the kernel says through
    // its pidfd where it was (Linux 6.16).
    let is_same = !pidfd.is_some_and(|fd| has_ended(fd.as_fd()));
    let was_in = pidfd.and_then(|fd| crate::keeper::sys::pidfd_cgroup(fd.as_fd()));
    if was_in.is_some() && was_in == expected.leaf_id {
        return Ok(());
    }
    match (found, is_same) {
        (true, true) => Ok(()),
        (_, false) => Err(format!("process {pid} ended before it could be examined")),
        (false, true) if start_time(pid).is_none() => {
            Err(format!("process {pid} ended before it could be examined"))
        }
        (false, true) => Err(format!("process {pid} does not belong to the unit")),
    }
}

fn is_in_leaf(expected: &Expected, pid: u32) -> bool {
    let Some(leaf) = &expected.leaf else {
        return false;
    };
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
        return false;
    };
    // `0::/path` is cgroup v2; the leaf may have children of the unit's own.
    text.lines()
        .filter_map(|line| line.strip_prefix("0::"))
        .any(|path| path.split('/').any(|folder| folder == leaf))
}

/// How far up an ancestor is looked for.
const ANCESTORS_MAX: usize = 64;

fn is_descendant(expected: &Expected, pid: u32) -> bool {
    let mut at = pid;
    for _ in 0..ANCESTORS_MAX {
        if at == expected.main_pid {
            return start_time(at) == Some(expected.main_start);
        }
        let parent = stat_fields(at)
            .and_then(|fields| fields.split_whitespace().nth(1)?.parse().ok())
            .unwrap_or(0);
        if parent <= 1 {
            return false;
        }
        at = parent;
    }
    false
}

fn has_invocation(expected: &Expected, pid: u32) -> bool {
    let wanted = format!("RINGRIFT_INVOCATION_ID={}", expected.invocation_text);
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|&b| b == 0).any(|v| v == wanted.as_bytes()))
}

/// Field 22 of proc_pid_stat(5); `None` for a process that is gone. A zombie still has one.
fn start_time(pid: u32) -> Option<u64> {
    stat_fields(pid)?.split_whitespace().nth(19)?.parse().ok()
}

/// Closes what nobody wants. Off the loop: a file system may make close(2) wait (a FUSE server of the unit's own, a dead
/// NFS one), and then only this unit's next datagram waits with it.
async fn close(fds: Vec<OwnedFd>) {
    if !fds.is_empty() {
        // A panic in there would be a bug of the standard library.
        let _ = tokio::task::spawn_blocking(move || drop(fds)).await;
    }
}

/// What [`keepable`] lets pass.
const KEPT_KINDS: &str = "sockets, pipes, memory files and the kernel's nameless ones can be stored";

/// Those that the keeper can hold, and how many others there were, which are closed. The keeper must never wait, and a file
/// of a file system that somebody serves (FUSE, NFS) can make poll(2) and close(2) wait for ever.
async fn keepable(fds: Vec<OwnedFd>) -> (Vec<OwnedFd>, usize) {
    let sorting = tokio::task::spawn_blocking(move || {
        let (kept, others): (Vec<_>, Vec<_>) = fds.into_iter().partition(is_keepable);
        (kept, others.len())
    });
    sorting.await.unwrap_or_default()
}

fn is_keepable(fd: &OwnedFd) -> bool {
    use nix::fcntl::{FcntlArg, fcntl};
    // Neither call asks the file's own file system. Only memory knows seals.
    let is_memory = || fcntl(fd, FcntlArg::F_GET_SEALS).is_ok();
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let is_nameless = link.is_ok_and(|link| {
        let link = link.as_os_str().as_encoded_bytes();
        [&b"socket:["[..], b"pipe:[", b"anon_inode:"]
            .iter()
            .any(|kind| link.starts_with(kind))
    });
    is_nameless || is_memory()
}

/// A pidfd becomes readable when its process has ended (pidfd_open(2)).
fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn says(datagram: &str, expected: &[Notice]) {
        assert_eq!(
            parse(datagram.as_bytes()).as_deref(),
            Ok(expected),
            "{datagram:?}"
        );
    }

    fn ignored(key: &str) -> Notice {
        Notice::Ignored { key: key.to_owned() }
    }

    #[test]
    fn words_of_sd_notify() {
        says("READY=1", &[Notice::Ready]);
        says(
            "READY=1\nSTATUS=up\n",
            &[Notice::Ready, Notice::Status("up".to_owned())],
        );
        says("READY=1\0", &[Notice::Ready]);
        says("STOPPING=1", &[Notice::Stopping]);
        says("RELOADING=1", &[Notice::Reloading { at_us: None }]);
        let at_us = Some(5_000_000);
        says(
            "RELOADING=1\nMONOTONIC_USEC=5000000",
            &[Notice::Reloading { at_us }],
        );
        says(
            "MONOTONIC_USEC=5000000\nRELOADING=1",
            &[Notice::Reloading { at_us }],
        );
        says("MAINPID=4711", &[Notice::MainPid(4711)]);
        says(
            "ERRNO=2\nBUSERROR=org.x",
            &[Notice::Errno(2), ignored("BUSERROR")],
        );
        says("NOTIFYACCESS=all", &[Notice::Access(NotifyAccess::All)]);
        says("WATCHDOG=1", &[Notice::Watchdog]);
        says("WATCHDOG=trigger", &[Notice::WatchdogTrigger]);
        says("BARRIER=1", &[Notice::Barrier]);
        says("STATUS=", &[Notice::Status(String::new())]);
        says("STATUS=a=b", &[Notice::Status("a=b".to_owned())]);
        says(
            "EXTEND_TIMEOUT_USEC=5000000",
            &[Notice::Extend(Duration::from_secs(5))],
        );
        says("X_RINGRIFT_HEALTH=degraded", &[Notice::Health(Health::Degraded)]);
        says(
            "X_RINGRIFT_METRICS={\"a\": 1}",
            &[Notice::Metrics(vec![("a".to_owned(), 1.0)])],
        );
    }

    #[test]
    fn descriptors_are_stored_under_a_name() {
        let store = |name: &str, is_polled| Notice::Store {
            name: name.to_owned(),
            is_polled,
        };
        says("FDSTORE=1", &[store("stored", true)]);
        says("FDSTORE=1\nFDNAME=state", &[store("state", true)]);
        says("FDPOLL=0\nFDNAME=state\nFDSTORE=1", &[store("state", false)]);
        // What could not stand in LISTEN_FDNAMES is no name.
        for bad in ["a:b", "é", "", &"x".repeat(FD_NAME_MAX + 1)] {
            says(&format!("FDSTORE=1\nFDNAME={bad}"), &[store("stored", true)]);
            says(
                &format!("FDSTOREREMOVE=1\nFDNAME={bad}"),
                &[ignored("FDSTOREREMOVE")],
            );
        }
        let name = "state".to_owned();
        says("FDSTOREREMOVE=1\nFDNAME=state", &[Notice::Unstore { name }]);
        says("FDNAME=state\nFDPOLL=0", &[]);
    }

    #[test]
    fn metrics_are_a_bounded_object_of_numbers_or_nothing() {
        let at_most: Vec<String> = (0..METRICS_MAX).map(|n| format!("\"n{n}\":{n}")).collect();
        let full = metrics(&format!("{{{}}}", at_most.join(","))).expect("as many as may be");
        assert_eq!(full.len(), METRICS_MAX);
        assert_eq!(
            metrics("{\"b.c:d_E9\":-1.5e3,\"a\":18446744073709551615}"),
            Some(vec![
                ("a".to_owned(), 1.844_674_407_370_955_2e19),
                ("b.c:d_E9".to_owned(), -1500.0)
            ])
        );
        assert_eq!(metrics("{\"a\":1,\"a\":2}"), Some(vec![("a".to_owned(), 2.0)]));
        assert_eq!(metrics("{}"), Some(Vec::new()));
        let too_many = format!("{{{},\"more\":1}}", at_most.join(","));
        let long_name = format!("{{\"{}\":1}}", "x".repeat(METRIC_NAME_MAX + 1));
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(1000), "]".repeat(1000));
        for bad in [
            too_many.as_str(),
            long_name.as_str(),
            deep.as_str(),
            "",
            "1",
            "[1]",
            "{\"a\":true}",
            "{\"a\":\"1\"}",
            "{\"a\":null}",
            "{\"a\":1e999}",
            "{\"a\":NaN}",
            "{\"\":1}",
            "{\"a b\":1}",
            "{\"a\":1}x",
            "{\"a\":{}}",
        ] {
            assert_eq!(metrics(bad), None, "{bad}");
        }
    }

    #[test]
    fn other_keys_and_values_are_ignored_one_by_one() {
        // The machine's first process, everybody, and no number of a process at all.
        for pid in ["1", "0", "-1", "2147483648", "x", ""] {
            says(
                &format!("MAINPID={pid}\nREADY=1"),
                &[ignored("MAINPID"), Notice::Ready],
            );
        }
        says("ERRNO=4096", &[ignored("ERRNO")]);
        says("FDSTORE=2", &[ignored("FDSTORE")]);
        says("FDSTOREREMOVE=1", &[ignored("FDSTOREREMOVE")]);
        says("NOTIFYACCESS=none", &[ignored("NOTIFYACCESS")]);
        says("READY=yes", &[ignored("READY")]);
        says("EXTEND_TIMEOUT_USEC=+5", &[ignored("EXTEND_TIMEOUT_USEC")]);
        says(
            "EXTEND_TIMEOUT_USEC=99999999999999999999",
            &[ignored("EXTEND_TIMEOUT_USEC")],
        );
        says("X_RINGRIFT_HEALTH=unknown", &[ignored("X_RINGRIFT_HEALTH")]);
        says("SHELL=/bin/sh", &[ignored("SHELL")]);
    }

    #[test]
    fn rubbish_says_nothing() {
        assert_eq!(parse(b""), Err(Bad::Empty));
        assert_eq!(parse(b"\0"), Err(Bad::Empty));
        assert_eq!(parse(b"READY=1\0\0"), Err(Bad::Nul));
        assert_eq!(parse(b"\0READY=1"), Err(Bad::Nul));
        assert_eq!(parse(b"READY"), Err(Bad::NotAVariable));
        assert_eq!(parse(b"READY=1\nrubbish"), Err(Bad::NotAVariable));
        assert_eq!(parse(b"=1"), Err(Bad::NotAVariable));
        assert_eq!(parse(b"STATUS=\xff"), Err(Bad::NotUtf8));
        assert_eq!(parse(&vec![b'A'; NOTIFY_MAX + 1]), Err(Bad::TooLong));
    }

    #[test]
    fn status_is_cut_between_characters_and_cannot_draw() {
        let long = format!("STATUS={}", "é".repeat(400));
        match parse(long.as_bytes()).as_deref() {
            Ok([Notice::Status(text)]) => assert_eq!(text, &"é".repeat(STATUS_TEXT_MAX / 2)),
            other => panic!("{other:?}"),
        }
        says(
            "STATUS=\u{1b}]0;pwn\u{7}",
            &[Notice::Status("\u{fffd}]0;pwn\u{fffd}".to_owned())],
        );
        says("STATUS=a\rb", &[Notice::Status("a\u{fffd}b".to_owned())]);
    }

    #[test]
    fn a_time_for_ever_is_bounded() {
        says(
            "EXTEND_TIMEOUT_USEC=18446744073709551615",
            &[Notice::Extend(DURATION_MAX)],
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn bucket_gives_so_many_at_once() {
        let mut bucket = Bucket::full();
        let given = (0..NOTIFY_RATE * 2).filter(|_| bucket.take()).count();
        // A few more may be earned while this loop runs.
        assert!(
            (NOTIFY_RATE as usize..NOTIFY_RATE as usize * 2).contains(&given),
            "{given}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(notices) = parse(&bytes) {
                for notice in notices {
                    if let Notice::Status(text) | Notice::Ignored { key: text } = notice {
                        prop_assert!(text.len() <= STATUS_TEXT_MAX && !text.contains(char::is_control));
                    }
                }
            }
        }

        #[test]
        fn any_text_is_clean(text in "\\PC{0,600}|.{0,600}") {
            let clean = clean(&text, STATUS_TEXT_MAX);
            prop_assert!(clean.len() <= STATUS_TEXT_MAX && !clean.contains(char::is_control));
        }

        #[test]
        fn lines_are_read_one_by_one(n in 1..40_usize) {
            let datagram = "WATCHDOG=1\n".repeat(n);
            prop_assert_eq!(parse(datagram.as_bytes()), Ok(vec![Notice::Watchdog; n]));
        }
    }
}
