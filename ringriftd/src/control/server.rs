//! Connections to the control socket: their hello, their frames, their bounds and deadlines. Each has a reader and a
//! writer; none can hold up another, nor the manager.
//!
//! A client says hello first, keeps its side open until it has its answers (closing it means that it has gone), and
//! uses a connection of its own for `Logs`, which leaves this process with it.
//!
//! Read first: [`serve`] and [`Asked`].

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::frame::{Ask, Hello, MAGIC, Token, VERSION, Welcome, framing};
use proto::reply::Failure;
use proto::request::Request;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

use crate::control::access::{self, Peer, Policy};
use crate::control::outbox::{Answers, Outbox, bug, frame};
use crate::limits;

/// A request that is well-formed and allowed. Exactly one last frame answers it.
#[derive(Debug)]
pub struct Asked {
    /// The number that the client chose for it.
    pub ask_id: u64,
    /// Names this run of a request that changes something: asked again, it gets the same answer.
    pub token: Option<Token>,
    /// What it wants.
    pub request: Request,
    /// Who asks.
    pub peer: Peer,
    /// Where the answer goes.
    pub answers: Answers,
}

/// The server's bounds; `default()` takes them from [`limits`].
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Who may ask.
    pub policy: Policy,
    /// Connections at once.
    pub clients_max: usize,
    /// Of those, kept free for root and the owner.
    pub clients_reserved: usize,
    /// Connections at once of one other user.
    pub clients_per_stranger: usize,
    /// Requests under way on one connection.
    pub requests_per_client: usize,
    /// For the hello.
    pub hello_timeout: Duration,
    /// From a frame's first byte to its last.
    pub frame_timeout: Duration,
    /// With nothing under way.
    pub idle_timeout: Duration,
    /// For a frame to be taken by the client.
    pub write_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: Policy::of_this_process(),
            clients_max: limits::CLIENTS_MAX,
            clients_reserved: limits::CLIENTS_RESERVED,
            clients_per_stranger: limits::CLIENTS_PER_STRANGER,
            requests_per_client: limits::REQUESTS_PER_CLIENT,
            hello_timeout: limits::HELLO_TIMEOUT,
            frame_timeout: limits::FRAME_TIMEOUT,
            idle_timeout: limits::IDLE_TIMEOUT,
            write_timeout: limits::WRITE_TIMEOUT,
        }
    }
}

/// Accepts connections on `listener`, a listening stream socket, and sends what they ask to `tx`. Must be called inside
/// a tokio runtime. Runs until the handle is aborted, which closes every connection; a receiver that is gone fails
/// requests, not the server. Only a socket that cannot be watched is an error. What `renewed` brings takes the listener's
/// place; connections that were accepted live on.
pub fn serve(
    listener: OwnedFd,
    options: Options,
    tx: mpsc::Sender<Asked>,
    renewed: mpsc::Receiver<OwnedFd>,
) -> io::Result<JoinHandle<()>> {
    let listener = watched(listener)?;
    Ok(tokio::spawn(accept(listener, options, tx, renewed)))
}

fn watched(listener: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn accept(
    mut listener: UnixListener,
    options: Options,
    tx: mpsc::Sender<Asked>,
    mut renewed: mpsc::Receiver<OwnedFd>,
) {
    let slots = Arc::new(Mutex::new(Slots::default()));
    let complaints = Arc::new(Complaints::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(next) = renewed.recv() => {
                match watched(next) {
                    Ok(next) => listener = next,
                    Err(e) => tracing::error!("cannot serve the new control socket: {e}"),
                }
                continue;
            }
            Some(ended) = connections.join_next() => {
                if let Err(e) = ended && e.is_panic() {
                    tracing::error!(error = %e, "a connection's task failed");
                }
                continue;
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                let is_short = matches!(
                    e.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                );
                if is_short {
                    // The connection stays in the queue, so the socket stays ready: without a pause this would spin.
                    complaints.log(None, &format!("cannot accept: {e}"));
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        // As the kernel noted it at connect(2). Without it nobody is anybody.
        let Ok(credentials) = stream.peer_cred() else {
            continue;
        };
        let peer = Peer {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials
                .pid()
                .and_then(|pid| u32::try_from(pid).ok())
                .unwrap_or(0),
        };
        match Slot::take(&slots, peer, &options) {
            Ok(slot) => {
                let connection = Connection {
                    peer,
                    options,
                    tx: tx.clone(),
                    complaints: Arc::clone(&complaints),
                };
                connections.spawn(async move {
                    let _slot = slot;
                    connection.run(stream).await;
                });
            }
            Err(reason) => {
                complaints.log(Some(peer), &reason);
                turn_away(&stream, reason);
            }
        }
    }
}

/// Says `Busy`. A fresh socket's buffer takes so short a frame at once, so nobody can be waited for.
fn turn_away(stream: &UnixStream, reason: String) {
    use nix::sys::socket::{MsgFlags, recv, send};
    use std::os::fd::AsRawFd;
    // Not by tokio, which would first wait to see the socket ready. What the client has said by now is read, since
    // closing a socket with unread bytes resets it.
    let mut rest = [0_u8; 512];
    let _ = recv(stream.as_raw_fd(), &mut rest, MsgFlags::MSG_DONTWAIT);
    if let Some(bytes) = frame(&Welcome::Busy { reason }) {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let _ = send(stream.as_raw_fd(), &bytes, flags);
    }
}

/// Who is connected.
#[derive(Debug, Default)]
struct Slots {
    total: usize,
    strangers: BTreeMap<u32, usize>,
}

struct Slot {
    slots: Arc<Mutex<Slots>>,
    stranger: Option<u32>,
}

impl Slot {
    fn take(slots: &Arc<Mutex<Slots>>, peer: Peer, options: &Options) -> Result<Self, String> {
        let mut open = slots.lock().unwrap_or_else(PoisonError::into_inner);
        let stranger = options.policy.role_of(peer).is_none().then_some(peer.uid);
        let most = match stranger {
            None => options.clients_max,
            Some(_) => options.clients_max.saturating_sub(options.clients_reserved),
        };
        if open.total >= most {
            return Err(format!("{} clients are connected; try again", open.total));
        }
        if let Some(uid) = stranger {
            let own = open.strangers.entry(uid).or_default();
            if *own >= options.clients_per_stranger {
                return Err(format!("user {uid} has {own} connections; try again"));
            }
            *own += 1;
        }
        open.total += 1;
        Ok(Self {
            slots: Arc::clone(slots),
            stranger,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Some(uid) = self.stranger
            && let Some(own) = open.strangers.get_mut(&uid)
        {
            *own -= 1;
            if *own == 0 {
                open.strangers.remove(&uid);
            }
        }
    }
}

/// What is logged of misbehaving clients: once for each connection (it is closed after it), and at most so often in
/// all, so that nobody fills the log by knocking.
#[derive(Debug)]
struct Complaints(Mutex<Budget>);

#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
    unsaid: u64,
}

impl Default for Complaints {
    fn default() -> Self {
        Self(Mutex::new(Budget {
            left: limits::COMPLAINTS_BURST,
            since: Instant::now(),
            unsaid: 0,
        }))
    }
}

impl Complaints {
    /// Logs `what`, if the budget allows; says whether it did.
    fn log(&self, peer: Option<Peer>, what: &str) -> bool {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = budget.since.elapsed().as_nanos() / limits::COMPLAINT_EVERY.as_nanos();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            budget.left = budget.left.saturating_add(earned).min(limits::COMPLAINTS_BURST);
            budget.since = Instant::now();
        }
        if budget.left == 0 {
            budget.unsaid += 1;
            return false;
        }
        budget.left -= 1;
        let unsaid = std::mem::take(&mut budget.unsaid);
        match peer {
            Some(peer) => {
                tracing::warn!(uid = peer.uid, pid = peer.pid, unsaid, "control client: {what}");
            }
            None => tracing::warn!(unsaid, "control socket: {what}"),
        }
        true
    }
}

/// How a conversation ended.
enum End {
    /// The client closed.
    Gone,
    /// It, or the manager, or a deadline closed it; or it was handed over. Nothing is left to be said.
    Closed,
    /// The client broke the rules: it is told, and let go.
    Broke(String),
}

struct Connection {
    peer: Peer,
    options: Options,
    tx: mpsc::Sender<Asked>,
    complaints: Arc<Complaints>,
}

impl Connection {
    async fn run(self, stream: UnixStream) {
        let stream = Arc::new(stream);
        let outbox = Outbox::new(&stream);
        // Two futures of one task: they need no more, and end together.
        let reader = async {
            let end = self.read(&stream, &outbox).await;
            match end {
                End::Gone | End::Closed => outbox.close(),
                End::Broke(what) => {
                    self.complaints.log(Some(self.peer), &what);
                    outbox.wind_up();
                }
            }
        };
        let writer = async {
            if let Err(what) = self.write(&stream, &outbox).await {
                self.complaints.log(Some(self.peer), &what);
            }
            outbox.close();
        };
        tokio::join!(reader, writer);
    }

    /// Writes what is queued, until the outbox ends. Says why, when the client is to blame.
    async fn write(&self, stream: &UnixStream, outbox: &Outbox) -> Result<(), String> {
        while let Some(outgoing) = outbox.next().await {
            let all = async {
                let mut rest = &outgoing.bytes[..];
                while !rest.is_empty() {
                    stream.writable().await?;
                    match stream.try_write(rest) {
                        Ok(n) => rest = &rest[n..],
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) => return Err(e),
                    }
                }
                Ok(())
            };
            tokio::select! {
                written = timeout(self.options.write_timeout, all) => match written {
                    Ok(Ok(())) => outbox.written(&outgoing),
                    // Gone: the usual end of `ringriftctl events -f`, and nobody's fault.
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => {
                        return Err(format!(
                            "took no frame for {:?} and is let go",
                            self.options.write_timeout
                        ));
                    }
                },
                () = outbox.closed.cancelled() => return Ok(()),
            }
        }
        Ok(())
    }

    async fn read(&self, stream: &UnixStream, outbox: &Arc<Outbox>) -> End {
        let mut frames = Frames::new();
        let hello = frames.next(stream, Some(Instant::now() + self.options.hello_timeout));
        let hello = tokio::select! {
            hello = hello => hello,
            () = outbox.closed.cancelled() => return End::Closed,
        };
        let hello = match hello {
            Ok(Some(hello)) => hello,
            Ok(None) => return End::Gone,
            Err(Broken::TimedOut) => return End::Broke("said no hello in time".to_owned()),
            Err(Broken::Truncated) => return End::Broke("closed in the middle of its hello".to_owned()),
            Err(Broken::TooLong) => {
                return self.refuse_hello(outbox, "the first frame is no hello".to_owned());
            }
        };
        match check_hello(&hello) {
            Ok(hello) => {
                tracing::debug!(
                    uid = self.peer.uid,
                    pid = self.peer.pid,
                    program = %hello.program.chars().take(limits::PROGRAM_MAX).collect::<String>().escape_debug(),
                    "client"
                );
                let accepted = Welcome::Accepted {
                    version: VERSION,
                    program: program(),
                };
                if let Some(bytes) = frame(&accepted) {
                    outbox.greet(bytes);
                }
            }
            Err(reason) => return self.refuse_hello(outbox, reason),
        }
        self.converse(stream, outbox, frames).await
    }

    fn refuse_hello(&self, outbox: &Outbox, reason: String) -> End {
        let refused = Welcome::Refused {
            version: VERSION,
            reason: reason.clone(),
        };
        if let Some(bytes) = frame(&refused) {
            outbox.greet(bytes);
        }
        End::Broke(reason)
    }

    async fn converse(&self, stream: &UnixStream, outbox: &Arc<Outbox>, mut frames: Frames) -> End {
        let mut quiet_since = Instant::now();
        // The request that may take the connection with it: meanwhile nothing else is taken up.
        let mut logs: Option<u64> = None;
        loop {
            if logs.is_some_and(|id| !outbox.is_under_way(id)) {
                logs = None;
            }
            if logs.is_none() {
                match frames.take() {
                    Ok(None) => {}
                    Ok(Some(bytes)) => {
                        quiet_since = Instant::now();
                        match self.on_frame(outbox, &frames, &bytes).await {
                            Ok(None) => {}
                            Ok(Some(id)) => logs = Some(id),
                            Err(end) => return end,
                        }
                        continue;
                    }
                    Err(()) => {
                        let what = format!("sent a frame longer than {} bytes", proto::frame::MAX_FRAME);
                        return self.broke(outbox, what);
                    }
                }
            }
            let changed = outbox.changed();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let is_quiet = outbox.is_quiet();
            let deadline = match frames.since {
                Some(since) if logs.is_none() => Some(since + self.options.frame_timeout),
                _ if is_quiet => Some(quiet_since + self.options.idle_timeout),
                _ => None,
            };
            let expired = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            // While a request may take the connection, a byte or two are read to notice the client's end, no more.
            let may_read = logs.is_none() || frames.buffer.is_empty();
            tokio::select! {
                biased;
                () = outbox.closed.cancelled() => return End::Closed,
                read = frames.fill(stream), if may_read => match read {
                    Ok(0) if frames.since.is_none() || logs.is_some() => return End::Gone,
                    Ok(0) => return self.broke(outbox, "closed in the middle of a frame".to_owned()),
                    Ok(_) => {}
                    Err(_) => return End::Gone,
                },
                () = changed => {
                    if !is_quiet {
                        quiet_since = Instant::now();
                    }
                }
                () = expired => {
                    if frames.since.is_some() && logs.is_none() {
                        let what = format!("did not finish a frame within {:?}", self.options.frame_timeout);
                        return self.broke(outbox, what);
                    }
                    // Idle, and nobody's fault.
                    return End::Closed;
                }
            }
        }
    }

    /// Takes up one frame. `Some` is the number of a request that may take the connection with it.
    async fn on_frame(
        &self,
        outbox: &Arc<Outbox>,
        frames: &Frames,
        bytes: &[u8],
    ) -> Result<Option<u64>, End> {
        let ask: Ask = match proto::codec::decode(bytes) {
            Ok(ask) => ask,
            Err(e) => return Err(self.broke(outbox, format!("sent a frame that is no request: {e}"))),
        };
        if ask.id == 0 {
            return Err(self.broke(outbox, "used the number 0 for a request".to_owned()));
        }
        if outbox.is_under_way(ask.id) {
            let what = format!("used the number {} for two requests at once", ask.id);
            return Err(self.broke(outbox, what));
        }
        #[cfg(debug_assertions)]
        panic_if_asked(&ask.request);
        let is_logs = matches!(ask.request, Request::Logs { .. });
        let refusal = if let Err(failure) = self.options.policy.allows(self.peer, &ask.request) {
            self.complaints.log(Some(self.peer), &failure.message);
            Some(failure)
        } else if let Err(failure) = access::validate(&ask.request) {
            Some(failure)
        } else if outbox.under_way() >= self.options.requests_per_client {
            Some(refused(
                format!("{} requests are under way on this connection", outbox.under_way()),
                "wait for one to end, or use another connection",
            ))
        } else if is_logs && (outbox.under_way() > 0 || frames.since.is_some()) {
            Some(refused(
                "logs needs a connection of its own".to_owned(),
                "ask for logs on a new connection",
            ))
        } else {
            None
        };
        if let Some(failure) = refusal {
            outbox.refuse(ask.id, failure);
            if outbox.is_overfull() {
                // Whoever is refused and asks on is read again when it has read; or it is let go by the writer.
                outbox.drained().await;
            }
            return Ok(None);
        }
        if is_logs {
            // The new owner of the connection writes at once: everything of ours must be out.
            outbox.drained().await;
        }
        let Some(answers) = outbox.begin(ask.id) else {
            return Ok(None);
        };
        let asked = Asked {
            ask_id: ask.id,
            token: ask.token,
            request: ask.request,
            peer: self.peer,
            answers,
        };
        // A manager that is busy lets its clients wait, here: their further frames stay in their sockets.
        let sent = tokio::select! {
            sent = self.tx.send(asked) => sent,
            () = outbox.closed.cancelled() => return Err(End::Closed),
        };
        if let Err(mpsc::error::SendError(asked)) = sent {
            asked.answers.fail(refused(
                "ringriftd is on its way down".to_owned(),
                "try again when it is back",
            ));
            return Ok(None);
        }
        Ok(is_logs.then_some(ask.id))
    }

    /// Tells the client what it did, with the number 0.
    fn broke(&self, outbox: &Outbox, what: String) -> End {
        let failure = Failure {
            hint: Some("are ringriftctl and ringriftd of the same version?".to_owned()),
            ..bug(format!("the client {what}"))
        };
        outbox.refuse(0, failure);
        End::Broke(what)
    }
}

fn refused(message: String, hint: &str) -> Failure {
    Failure {
        code: 7,
        message,
        unit: None,
        hint: Some(hint.to_owned()),
        details: Vec::new(),
    }
}

fn program() -> String {
    format!("ringriftd {}", env!("CARGO_PKG_VERSION"))
}

/// The hello, if it is one of this version; else why not.
fn check_hello(bytes: &[u8]) -> Result<Hello, String> {
    let other = |version: u32| {
        format!(
            "the client speaks version {version} of the protocol, {} speaks version {VERSION}: use the ringriftctl that came with it",
            program()
        )
    };
    match proto::codec::decode::<Hello>(bytes) {
        Ok(hello) if hello.magic == MAGIC && hello.version == VERSION => Ok(hello),
        Ok(hello) if hello.magic == MAGIC => Err(other(hello.version)),
        // Another version's hello may have another shape, but magic and version always come first.
        _ => match (2..=10).find_map(|n| proto::codec::decode::<(u32, u32)>(bytes.get(..n)?).ok()) {
            Some((MAGIC, version)) if version != VERSION => Err(other(version)),
            _ => Err("the first frame is no hello: is this a ringriftctl?".to_owned()),
        },
    }
}

enum Broken {
    TooLong,
    Truncated,
    TimedOut,
}

/// Bytes become frames; remembers when the frame that is not yet whole began.
struct Frames {
    codec: LengthDelimitedCodec,
    buffer: BytesMut,
    since: Option<Instant>,
}

impl Frames {
    fn new() -> Self {
        Self {
            codec: framing(),
            buffer: BytesMut::new(),
            since: None,
        }
    }

    /// The next whole frame that was read; an error when its length is not allowed.
    fn take(&mut self) -> Result<Option<BytesMut>, ()> {
        let before = self.buffer.len();
        let taken = self.codec.decode(&mut self.buffer).map_err(|_| ())?;
        if taken.is_some() {
            // What is left was read just now, and is the next frame's beginning.
            self.since = (!self.buffer.is_empty()).then(Instant::now);
        } else if before > 0 && self.since.is_none() {
            self.since = Some(Instant::now());
        }
        Ok(taken)
    }

    /// Reads once; 0 is the end. Cancel-safe.
    async fn fill(&mut self, stream: &UnixStream) -> io::Result<usize> {
        loop {
            stream.readable().await?;
            self.buffer.reserve(8 * 1024);
            match stream.try_read_buf(&mut self.buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    /// The next frame by `deadline`; `None` when the client closes before its first byte.
    async fn next(
        &mut self,
        stream: &UnixStream,
        deadline: Option<Instant>,
    ) -> Result<Option<BytesMut>, Broken> {
        loop {
            if let Some(frame) = self.take().map_err(|()| Broken::TooLong)? {
                return Ok(Some(frame));
            }
            let expired = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = self.fill(stream) => match read {
                    Ok(0) if self.since.is_none() => return Ok(None),
                    Ok(0) => return Err(Broken::Truncated),
                    Ok(_) => {}
                    Err(_) => return Ok(None),
                },
                () = expired => return Err(Broken::TimedOut),
            }
        }
    }
}

/// A way for tests to see what becomes of a panic, which release builds do not have: `status` of a unit whose name no
/// command line could give.
#[cfg(debug_assertions)]
fn panic_if_asked(request: &Request) {
    if let Request::Status { selectors, .. } = request {
        assert!(
            selectors.iter().all(|name| name != "\0panic"),
            "a test asked for a panic"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(magic: u32, version: u32) -> Vec<u8> {
        let hello = Hello {
            magic,
            version,
            program: "ringriftctl".to_owned(),
        };
        proto::codec::encode(&hello).expect("small")
    }

    #[test]
    fn other_versions_are_named_even_in_another_shape() {
        assert!(check_hello(&hello(MAGIC, VERSION)).is_ok());
        for bytes in [
            hello(MAGIC, VERSION + 6),
            proto::codec::encode(&(MAGIC, VERSION + 6)).expect("small"),
            proto::codec::encode(&(MAGIC, VERSION + 6, 1_u8, "later", vec![1_u64, 2])).expect("small"),
        ] {
            let reason = check_hello(&bytes).expect_err("another version");
            assert!(reason.contains(&format!("version {}", VERSION + 6)), "{reason}");
            assert!(reason.contains(&format!("version {VERSION}")), "{reason}");
        }
        let mut longer = hello(MAGIC, VERSION);
        longer.push(0);
        for bytes in [vec![], vec![1], b"GET / HTTP/1.1".to_vec(), hello(1, 1), longer] {
            assert!(check_hello(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn complaints_are_bounded() {
        let complaints = Complaints::default();
        let said = (0..1000).filter(|_| complaints.log(None, "knocks")).count();
        assert_eq!(said, limits::COMPLAINTS_BURST as usize);
    }

    #[test]
    fn strangers_leave_room_for_the_owner() {
        let options = Options {
            policy: Policy { owner: 1000 },
            clients_max: 6,
            clients_reserved: 2,
            clients_per_stranger: 3,
            ..Options::default()
        };
        let slots = Arc::new(Mutex::new(Slots::default()));
        let take = |uid| {
            let peer = Peer { uid, gid: 0, pid: 0 };
            Slot::take(&slots, peer, &options)
        };
        let mut held: Vec<Slot> = (0..3).map(|_| take(5).expect("room")).collect();
        assert!(take(5).is_err(), "one stranger has all that it may");
        held.push(take(6).expect("room for another"));
        assert!(take(7).is_err(), "the rest is reserved");
        held.push(take(1000).expect("room for the owner"));
        held.push(take(0).expect("room for root"));
        assert!(take(0).is_err(), "full is full");
        drop(held);
        let slots = slots.lock().expect("unpoisoned");
        assert_eq!((slots.total, slots.strangers.len()), (0, 0));
    }
}
