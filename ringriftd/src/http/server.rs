//! The thread and its connections. Each connection is one request, with a bound on the time of its header and of the
//! whole, on its size, and on their number; when too many are there, the oldest that has not asked yet gives way.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::signal::SigSet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
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
    loop {
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
            accepted = accept(door.as_ref()) => accepted,
        };
        match accepted {
            Ok((stream, spec)) => guests.welcome(stream, spec, Arc::clone(&shared)),
            Err(e) => {
                // Out of descriptors, or the client has gone again: either way not at once again.
                tracing::debug!("cannot accept an HTTP connection: {e}");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(door: Option<&Door>) -> io::Result<(Box<dyn Stream>, Arc<HttpSpec>)> {
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
}

impl Guest {
    fn new() -> Self {
        Self(Arc::new(GuestState {
            has_asked: AtomicBool::new(false),
            until: Mutex::new(Instant::now() + limits::HTTP_REQUEST_TIMEOUT),
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

/// Those that are there, the oldest first.
#[derive(Default)]
struct Guests(VecDeque<(Guest, AbortHandle)>);

impl Guests {
    fn welcome(&mut self, stream: Box<dyn Stream>, spec: Arc<HttpSpec>, shared: Arc<Shared>) {
        self.0.retain(|(_, task)| !task.is_finished());
        if self.0.len() >= limits::HTTP_CLIENTS_MAX {
            let waits = |(guest, _): &(Guest, AbortHandle)| !guest.0.has_asked.load(Ordering::Relaxed);
            // Whoever holds connections open without asking is the first to go; all that have asked end soon.
            let Some(task) = self.0.iter().position(waits).and_then(|i| self.0.remove(i)) else {
                return;
            };
            task.1.abort();
        }
        let guest = Guest::new();
        let task = tokio::spawn(attend(stream, spec, shared, guest.clone()));
        self.0.push_back((guest, task.abort_handle()));
    }
}

async fn attend(stream: Box<dyn Stream>, spec: Arc<HttpSpec>, shared: Arc<Shared>, guest: Guest) {
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
        .serve_connection(TokioIo::new(stream), service);
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
