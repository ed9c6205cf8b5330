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

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::host::receive::{Received, ask_for_senders, discard, peek, watch};
pub use crate::host::sender::Expected;
use crate::host::sender::believe;
pub use crate::host::words::{Bad, Notice, parse};
use crate::ids::Invocation;
use crate::limits::{NOTIFY_DRAIN, NOTIFY_MAX, NOTIFY_RATE};
use crate::spec::NotifyAccess;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
