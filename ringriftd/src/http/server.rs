//! The thread and its connections. Each connection is one request, with a bound on the time of its header and of the
//! whole, on its size, and on their number; when too many are there, the oldest that has not asked yet gives way, or the
//! one that has taken nothing of its answer for longest.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::signal::SigSet;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::dashboard::Histories;
use super::guard;
use super::measure::Measure;
use super::reply::{self, Answer, Content};
use super::routes;
use super::tally::Tally;
use super::types::{Handle, Order, Sources};
use crate::door::{HttpPlace, HttpSpec};
use crate::limits;

/// What all requests share.
#[derive(Debug)]
pub struct Shared {
    /// What is read.
    pub sources: Sources,
    /// CPU time and memory.
    pub measure: Measure,
    /// The last changes of each unit.
    pub histories: Histories,
    /// Streams of events that are open.
    pub streams: Arc<AtomicUsize>,
    /// What was asked.
    pub tally: Tally,
}

/// Starts the thread. It accepts nothing until it is told where.
pub fn serve(sources: Sources) -> io::Result<Handle> {
    let (orders, told) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("http")
        .build()?;
    // Signals are the manager's own thread's business: one that this thread took during a take-over would be lost.
    let before = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
    let spawned = std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || {
            runtime.block_on(run(sources, told));
            runtime.shutdown_timeout(Duration::ZERO);
        });
    before.thread_set_mask()?;
    spawned.map(|_| Handle { orders })
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A client's end.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    fn new(fd: OwnedFd, place: &HttpPlace) -> io::Result<Self> {
        match place {
            HttpPlace::Unix(_) => {
                let listener = std::os::unix::net::UnixListener::from(fd);
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?))
            }
            HttpPlace::Tcp(_) | HttpPlace::Off => {
                let listener = std::net::TcpListener::from(fd);
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)?))
            }
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Answers are written whole.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

struct Door {
    listener: Listener,
    spec: Arc<HttpSpec>,
}

async fn run(sources: Sources, mut told: mpsc::UnboundedReceiver<Order>) {
    let shared = Arc::new(Shared {
        sources,
        measure: Measure::default(),
        histories: Histories::default(),
        streams: Arc::default(),
        tally: Tally::default(),
    });
    let teller = Arc::clone(&shared);
    tokio::spawn(async move { teller.tally.tell(teller.sources.counted.clone()).await });
    let mut guests = Guests::default();
    let mut door: Option<Door> = None;
    // One that is let in, and for whom there is no room yet.
    let mut waits: Option<Newcomer> = None;
    loop {
        if let Some(newcomer) = waits.take() {
            waits = guests.welcome(newcomer, &shared);
        }
        let accepted = tokio::select! {
            order = told.recv() => {
                match order {
                    None => return,
                    Some(Order::Close) => door = None,
                    Some(Order::Listen(fd, spec)) => match Listener::new(fd, &spec.listen) {
                        Ok(listener) => door = Some(Door { listener, spec: Arc::new(spec) }),
                        Err(e) => tracing::error!("cannot serve HTTP: {e}"),
                    },
                }
                continue;
            }
            accepted = accept(door.as_ref()), if waits.is_none() => accepted,
            () = guests.change(), if waits.is_some() => continue,
        };
        match accepted {
            Ok(newcomer) => waits = Some(newcomer),
            Err(e) => {
                // Out of descriptors, or the client has gone again: either way not at once again.
                tracing::debug!("cannot accept an HTTP connection: {e}");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

type Newcomer = (Box<dyn Stream>, Arc<HttpSpec>);

async fn accept(door: Option<&Door>) -> io::Result<Newcomer> {
    match door {
        Some(door) => Ok((door.listener.accept().await?, Arc::clone(&door.spec))),
        None => std::future::pending().await,
    }
}

/// One connection, as seen from its request.
#[derive(Debug, Clone)]
pub struct Guest(Arc<GuestState>);

#[derive(Debug)]
struct GuestState {
    has_asked: AtomicBool,
    until: Mutex<Instant>,
    /// Since then there is more for it, and it takes nothing.
    stands: Mutex<Option<Instant>>,
}

impl Guest {
    fn new() -> Self {
        Self(Arc::new(GuestState {
            has_asked: AtomicBool::new(false),
            until: Mutex::new(Instant::now() + limits::HTTP_REQUEST_TIMEOUT),
            stands: Mutex::new(None),
        }))
    }

    /// It takes what it is given: its time begins anew.
    pub fn goes_on(&self) {
        let until = Instant::now() + limits::HTTP_REQUEST_TIMEOUT;
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn until(&self) -> Instant {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It was offered more, and took some, or nothing.
    fn offered(&self, took: bool) {
        let mut stands = self.0.stands.lock().unwrap_or_else(PoisonError::into_inner);
        *stands = if took {
            None
        } else {
            stands.or_else(|| Some(Instant::now()))
        };
    }

    fn stands_since(&self) -> Option<Instant> {
        *self.0.stands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when its time is up.
    async fn time_is_up(&self) {
        loop {
            let until = self.until();
            tokio::time::sleep_until(until).await;
            if self.until() <= until {
                return;
            }
        }
    }
}

/// A client's end that notes whether the client takes what it is given.
struct Watched {
    stream: Box<dyn Stream>,
    guest: Guest,
}

impl Watched {
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.guest.offered(written.is_ready());
        written
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Those that are there, the oldest first.
#[derive(Default)]
struct Guests {
    all: VecDeque<(Guest, AbortHandle)>,
    /// Told when one goes.
    gone: Arc<Notify>,
}

/// Tells when it is dropped: however a connection ends.
struct Leaving(Arc<Notify>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Guests {
    /// Lets it in, if need be in the place of another; it is given back where nobody can be asked to go.
    fn welcome(&mut self, newcomer: Newcomer, shared: &Arc<Shared>) -> Option<Newcomer> {
        self.all.retain(|(_, task)| !task.is_finished());
        if self.all.len() >= limits::HTTP_CLIENTS_MAX {
            let Some((_, task)) = self.who_gives_way().and_then(|i| self.all.remove(i)) else {
                return Some(newcomer);
            };
            task.abort();
        }
        let (stream, spec) = newcomer;
        let (guest, leaving) = (Guest::new(), Leaving(Arc::clone(&self.gone)));
        let attended = attend(stream, spec, Arc::clone(shared), guest.clone());
        let task = tokio::spawn(async move {
            let _leaving = leaving;
            attended.await;
        });
        self.all.push_back((guest, task.abort_handle()));
        None
    }

    /// Whoever holds a connection open without asking is the first to go, then whoever has taken nothing for longest.
    fn who_gives_way(&self) -> Option<usize> {
        let silent = |(guest, _): &(Guest, AbortHandle)| !guest.0.has_asked.load(Ordering::Relaxed);
        let (now, guests) = (Instant::now(), self.all.iter().enumerate());
        self.all.iter().position(silent).or_else(|| {
            guests
                .filter_map(|(i, (guest, _))| Some((guest.stands_since()?, i)))
                .filter(|(since, _)| *since + limits::HTTP_STALL <= now)
                .min()
                .map(|(_, i)| i)
        })
    }

    /// Until there may be room: somebody has gone, or has taken nothing for too long.
    async fn change(&self) {
        let stands = self.all.iter().filter_map(|(guest, _)| guest.stands_since());
        let next = stands.min().unwrap_or_else(Instant::now) + limits::HTTP_STALL;
        tokio::select! {
            () = self.gone.notified() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

async fn attend(stream: Box<dyn Stream>, spec: Arc<HttpSpec>, shared: Arc<Shared>, guest: Guest) {
    let watched = Watched {
        stream,
        guest: guest.clone(),
    };
    let asked = guest.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        asked.0.has_asked.store(true, Ordering::Relaxed);
        let (spec, shared, guest) = (Arc::clone(&spec), Arc::clone(&shared), asked.clone());
        async move { Ok::<Answer, std::convert::Infallible>(respond(&request, &spec, &shared, guest).await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HTTP_HEADER_TIMEOUT)
        .max_headers(limits::HTTP_FIELDS_MAX)
        .max_buf_size(limits::HTTP_HEADER_MAX)
        .serve_connection(TokioIo::new(watched), service);
    tokio::select! {
        // A client that breaks off, or writes what is no HTTP, is told so by hyper as far as that goes.
        _ = connection => {}
        () = guest.time_is_up() => {}
    }
}

async fn respond(request: &Request<Incoming>, spec: &HttpSpec, shared: &Arc<Shared>, guest: Guest) -> Answer {
    let answer = judged(request, spec, shared, guest).await;
    shared.tally.note(request.uri().path(), answer.status());
    answer
}

async fn judged(request: &Request<Incoming>, spec: &HttpSpec, shared: &Arc<Shared>, guest: Guest) -> Answer {
    if let Err(refusal) = guard::check(request.method(), request.uri(), request.headers(), spec) {
        return reply::refused(&refusal);
    }
    let is_head = request.method() == Method::HEAD;
    let asked = routes::Asked {
        path: request.uri().path(),
        query: request.uri().query().unwrap_or_default(),
        headers: request.headers(),
        is_head,
        shows_logs: spec.show_logs || matches!(spec.listen, HttpPlace::Unix(_)),
    };
    let mut answer = routes::answer(&asked, shared, guest).await;
    if is_head && matches!(answer.body(), Content::Stream(..)) {
        *answer.body_mut() = Content::Whole(None);
    }
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::counts::Counts;
    use crate::http::stream::tests::node;

    /// Longer than any machine stands still.
    const LONG: Duration = Duration::from_secs(120);
    /// More than a socket takes without its reader.
    const LARGE: usize = 600 << 10;

    struct Client(UnixStream);

    impl Client {
        /// Asks, and waits for the beginning of the answer.
        async fn ask(path: &std::path::Path) -> Self {
            let mut stream = UnixStream::connect(path).await.expect("it is let in");
            let request = b"GET /dashboard.json HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(request).await.expect("there is room");
            let mut client = Self(stream);
            assert_eq!(client.read(12).await, b"HTTP/1.1 200");
            client
        }

        async fn read(&mut self, bytes: usize) -> Vec<u8> {
            let mut read = vec![0; bytes];
            let all = tokio::time::timeout(LONG, self.0.read_exact(&mut read)).await;
            all.expect("it is answered").expect("it is not let go");
            read
        }

        /// It was let go before its answer was whole.
        async fn was_let_go(&self) -> bool {
            let mut read = vec![0; LARGE];
            loop {
                self.0.readable().await.expect("a socket");
                match self.0.try_read(&mut read) {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                    Err(_) => return true,
                }
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn whoever_has_taken_nothing_for_longest_gives_way_to_a_new_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("http.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let shared = node(0, 0);
        let mut header = (*shared.sources.published.look().header).clone();
        header.notices.push("n".repeat(LARGE));
        shared.sources.published.put_header(header, Counts::default());
        let (orders, told) = mpsc::unbounded_channel();
        tokio::spawn(run(shared.sources, told));
        let spec = HttpSpec {
            listen: HttpPlace::Unix(path.clone()),
            ..HttpSpec::default()
        };
        orders
            .send(Order::Listen(listener.into(), spec))
            .expect("it runs");
        let mut clients = Vec::new();
        for _ in 0..limits::HTTP_CLIENTS_MAX {
            clients.push(Client::ask(&path).await);
        }
        // The first is slow, but it reads: so much that it has been offered more since.
        clients[0].read(LARGE / 2).await;
        // Nobody else is: the newcomer is answered all the same, and whole, for it reads.
        let mut newcomer = Client::ask(&path).await;
        newcomer.read(LARGE).await;
        let mut let_go = Vec::new();
        for (i, client) in clients.iter().enumerate() {
            if client.was_let_go().await {
                let_go.push(i);
            }
        }
        assert_eq!(let_go, [1], "of all that read nothing it has stood longest");
    }
}
