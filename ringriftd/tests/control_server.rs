//! The control socket seen by its clients, good and bad: real sockets, a manager that only answers.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::frame::{Answer, Ask, Hello, MAGIC, MAX_FRAME, VERSION, Welcome, framing};
use proto::reply::{Failure, Reply};
use proto::request::{LogFilter, MAX_SELECTORS, Request};
use ringriftd::control::access::Policy;
use ringriftd::control::outbox::{Answers, Refused};
use ringriftd::control::server::{Asked, Options, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{Decoder, LengthDelimitedCodec};

/// Long enough for a loaded machine; no test waits for it.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    _dir: tempfile::TempDir,
    path: PathBuf,
    handle: JoinHandle<()>,
    /// What `Events` and `Logs` ask: the test answers them itself.
    asked: mpsc::Receiver<Asked>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

fn start(options: Options) -> Server {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let (tx, mut rx) = mpsc::channel::<Asked>(16);
    let (forward, asked) = mpsc::channel(2048);
    tokio::spawn(async move {
        while let Some(asked) = rx.recv().await {
            match asked.request {
                Request::Events { .. } | Request::Logs { .. } => {
                    let _ = forward.try_send(asked);
                }
                _ => asked.answers.end(),
            }
        }
    });
    let handle = serve(OwnedFd::from(listener), options, tx, mpsc::channel(1).1).expect("serve");
    Server {
        _dir: dir,
        path,
        handle,
        asked,
    }
}

fn fast() -> Options {
    let soon = Duration::from_millis(500);
    Options {
        hello_timeout: soon,
        frame_timeout: soon,
        idle_timeout: soon,
        write_timeout: soon,
        ..Options::default()
    }
}

struct Client {
    stream: UnixStream,
    codec: LengthDelimitedCodec,
    buffer: BytesMut,
}

impl Client {
    async fn raw(path: &Path) -> Self {
        // A full backlog says EAGAIN on Unix sockets: many at once have to try again.
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => {
                    return Self {
                        stream,
                        codec: framing(),
                        buffer: BytesMut::new(),
                    };
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
                Err(e) => panic!("connect: {e}"),
            }
        }
    }

    async fn hello(path: &Path) -> Self {
        let mut client = Self::raw(path).await;
        client.say(&hello()).await;
        match client.hear::<Welcome>().await {
            Some(Welcome::Accepted { version: VERSION, .. }) => client,
            other => panic!("{other:?}"),
        }
    }

    async fn say<T: serde::Serialize>(&mut self, value: &T) {
        let body = proto::codec::encode(value).expect("small");
        self.frame(&body).await;
    }

    async fn frame(&mut self, body: &[u8]) {
        self.bytes(&u32::try_from(body.len()).expect("small").to_be_bytes())
            .await;
        self.bytes(body).await;
    }

    async fn bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("write");
    }

    async fn ask(&mut self, id: u64, request: Request) {
        self.say(&Ask {
            id,
            token: None,
            request,
        })
        .await;
    }

    /// The next frame; `None` when the daemon has closed.
    async fn hear<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        let whole = async {
            loop {
                if let Some(frame) = self.codec.decode(&mut self.buffer).expect("a length") {
                    return Some(proto::codec::decode(&frame).expect("a value"));
                }
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
                    Err(e) => panic!("read: {e}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, whole)
            .await
            .expect("an answer in time")
    }

    async fn answer(&mut self) -> Answer {
        self.hear().await.expect("an answer")
    }

    async fn failure(&mut self) -> (u64, Failure) {
        match self.answer().await {
            Answer {
                id,
                reply: Reply::Failed(failure),
            } => (id, failure),
            other => panic!("{other:?}"),
        }
    }

    async fn is_closed(&mut self) {
        if let Some(answer) = self.hear::<Answer>().await {
            panic!("{answer:?}");
        }
    }
}

fn hello() -> Hello {
    Hello {
        magic: MAGIC,
        version: VERSION,
        program: "test".to_owned(),
    }
}

fn events() -> Request {
    Request::Events {
        selectors: vec![],
        follow: true,
        after: None,
        since_us: None,
    }
}

fn logs() -> Request {
    Request::Logs {
        selectors: vec![],
        follow: true,
        lines: None,
        filter: LogFilter::default(),
    }
}

async fn next(server: &mut Server) -> Asked {
    tokio::time::timeout(PATIENCE, server.asked.recv())
        .await
        .expect("asked in time")
        .expect("the server runs")
}

/// The server still serves.
async fn serves(server: &Server) {
    let mut client = Client::hello(&server.path).await;
    client.ask(1, Request::Version).await;
    assert_eq!(
        client.answer().await,
        Answer {
            id: 1,
            reply: Reply::End
        }
    );
}

/// Sockets of the daemon's side that exist: the listener, and one for each connection. By their path, since the
/// tests of this file share one table of descriptors.
fn open_at(path: &Path) -> usize {
    let all = std::fs::read_to_string("/proc/net/unix").expect("proc");
    let path = path.to_str().expect("a plain path");
    all.lines().filter(|line| line.ends_with(path)).count()
}

/// Waits until only the listener is left.
async fn connections_are_gone(server: &Server) {
    let gone = async {
        while open_at(&server.path) > 1 {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(PATIENCE, gone).await.is_err() {
        panic!("{} sockets are open", open_at(&server.path));
    }
    assert_eq!(open_at(&server.path), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn requests_are_answered_with_their_numbers() {
    let mut server = start(Options::default());
    let mut client = Client::hello(&server.path).await;
    client.ask(7, events()).await;
    client.ask(8, Request::Version).await;
    assert_eq!(
        client.answer().await,
        Answer {
            id: 8,
            reply: Reply::End
        }
    );
    let asked = next(&mut server).await;
    assert_eq!(asked.ask_id, 7);
    assert_eq!(asked.peer.uid, nix::unistd::geteuid().as_raw());
    assert_eq!(asked.peer.pid, std::process::id());
    asked.answers.try_send(&Reply::Lagged(3)).expect("room");
    asked.answers.end();
    assert_eq!(
        client.answer().await,
        Answer {
            id: 7,
            reply: Reply::Lagged(3)
        }
    );
    assert_eq!(
        client.answer().await,
        Answer {
            id: 7,
            reply: Reply::End
        }
    );
}

#[tokio::test(flavor = "current_thread")]
async fn d1_silent_client_is_closed() {
    let server = start(fast());
    Client::raw(&server.path).await.is_closed().await;
    Client::hello(&server.path).await.is_closed().await;
}

#[tokio::test(flavor = "current_thread")]
async fn d1_client_that_waits_for_an_answer_is_not_idle() {
    let mut server = start(fast());
    let mut waits = Client::hello(&server.path).await;
    waits.ask(1, events()).await;
    let asked = next(&mut server).await;
    // Three idle clients one after the other take three times the idle time.
    for _ in 0..3 {
        Client::hello(&server.path).await.is_closed().await;
    }
    assert!(!asked.answers.is_closed());
    asked.answers.end();
    assert_eq!(waits.answer().await.reply, Reply::End);
    waits.is_closed().await;
}

#[tokio::test(flavor = "current_thread")]
async fn d2_client_that_never_reads_is_let_go_and_memory_stays_flat() {
    let mut server = start(fast());
    let mut client = Client::hello(&server.path).await;
    client.ask(1, events()).await;
    let answers = next(&mut server).await.answers;
    let mut taken = 0_u64;
    let large = Reply::Node(Box::new(node_of(64 * 1024)));
    let flood = async {
        loop {
            match answers.try_send(&large) {
                Ok(()) => taken += 1,
                Err(Refused::Full) => tokio::task::yield_now().await,
                Err(other) => return other,
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, flood).await.expect("in time");
    assert_eq!(end, Refused::Closed);
    assert!(answers.is_closed());
    // 4 MiB of queue and the kernel's buffer, of 64 KiB each.
    assert!(taken < 80, "{taken} frames of 64 KiB were taken");
    serves(&server).await;
}

fn node_of(bytes: usize) -> proto::reply::NodeStatus {
    proto::reply::NodeStatus {
        version: "x".repeat(bytes),
        node: String::new(),
        profiles: vec![],
        pid: 1,
        uptime_ms: 0,
        containment: String::new(),
        settled: true,
        stopping: false,
        summary: proto::reply::Summary::default(),
        notices: vec![],
        started_us: 0,
        breakers: vec![],
    }
}

#[tokio::test(flavor = "current_thread")]
async fn long_answer_is_streamed_past_the_queues_bound() {
    let mut server = start(Options::default());
    let mut client = Client::hello(&server.path).await;
    client.ask(1, events()).await;
    next(&mut server)
        .await
        .answers
        .stream((0..1000).map(Reply::Lagged));
    for i in 0..1000 {
        assert_eq!(client.answer().await.reply, Reply::Lagged(i));
    }
    assert_eq!(client.answer().await.reply, Reply::End);
}

#[tokio::test(flavor = "current_thread")]
async fn d3_a_thousand_at_once_are_served_or_told_busy() {
    let server = start(Options::default());
    let mut clients = Vec::new();
    let (mut accepted, mut busy) = (0, 0);
    for _ in 0..1000 {
        let mut client = Client::raw(&server.path).await;
        // The daemon may have said Busy and closed before.
        let body = proto::codec::encode(&hello()).expect("small");
        let _ = client.stream.write_all(&[0, 0, 0, body.len() as u8]).await;
        let _ = client.stream.write_all(&body).await;
        clients.push(client);
        tokio::task::yield_now().await;
    }
    for client in &mut clients {
        match client.hear::<Welcome>().await {
            Some(Welcome::Accepted { .. }) => accepted += 1,
            Some(Welcome::Busy { reason }) => {
                assert!(reason.contains("try again"), "{reason}");
                busy += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(accepted, ringriftd::limits::CLIENTS_MAX);
    assert_eq!(busy, 1000 - accepted);
    drop(clients);
    let again = async {
        loop {
            let mut client = Client::raw(&server.path).await;
            let body = proto::codec::encode(&hello()).expect("small");
            let _ = client.stream.write_all(&[0, 0, 0, body.len() as u8]).await;
            let _ = client.stream.write_all(&body).await;
            if let Some(Welcome::Accepted { .. }) = client.hear().await {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again)
        .await
        .expect("places come back");
    connections_are_gone(&server).await;
}

#[tokio::test(flavor = "current_thread")]
async fn d3_ten_thousand_one_after_the_other_leave_nothing_open() {
    let server = start(Options::default());
    serves(&server).await;
    for _ in 0..10_000 {
        serves(&server).await;
    }
    connections_are_gone(&server).await;
}

#[tokio::test(flavor = "current_thread")]
async fn d4_frame_too_long_is_refused_before_it_is_read() {
    let server = start(Options::default());
    for length in [u32::MAX, u32::try_from(MAX_FRAME).expect("small") + 1] {
        let mut client = Client::hello(&server.path).await;
        client.bytes(&length.to_be_bytes()).await;
        let (id, failure) = client.failure().await;
        assert_eq!((id, failure.code), (0, 70));
        assert!(failure.message.contains("longer"), "{failure:?}");
        client.is_closed().await;
    }
    let mut first = Client::raw(&server.path).await;
    first.bytes(&u32::MAX.to_be_bytes()).await;
    assert!(matches!(first.hear().await, Some(Welcome::Refused { .. })));
    serves(&server).await;
}

#[tokio::test(flavor = "current_thread")]
async fn d5_a_thousand_random_frames_are_survived() {
    let mut server = start(Options::default());
    // xorshift64: the same bytes each time.
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut refused = 0;
    for _ in 0..1000 {
        let body: Vec<u8> = (0..random() % 64).map(|_| (random() >> 32) as u8).collect();
        let mut client = Client::hello(&server.path).await;
        client.frame(&body).await;
        // By chance it is a request; `Events` and `Logs` would wait for the test's answer.
        while let Ok(asked) = server.asked.try_recv() {
            drop(asked);
        }
        if proto::codec::decode::<Ask>(&body).is_err() {
            let (id, failure) = client.failure().await;
            assert_eq!((id, failure.code), (0, 70), "{body:?}");
            client.is_closed().await;
            refused += 1;
        }
    }
    assert!(refused > 900, "{refused}");
    serves(&server).await;
}

#[tokio::test(flavor = "current_thread")]
async fn d6_truncated_frame_is_the_end() {
    let server = start(fast());
    serves(&server).await;
    // Cut in the length, at its end, and in the body; then the client closes its side.
    for cut in [1, 4, 6] {
        let mut client = Client::hello(&server.path).await;
        client.bytes(&[0, 0, 0, 9, 1, 2, 3][..cut]).await;
        client.stream.shutdown().await.expect("shutdown");
        let (id, failure) = client.failure().await;
        assert_eq!(id, 0);
        assert!(failure.message.contains("middle"), "{failure:?}");
        client.is_closed().await;
        // The same, and then silence.
        let mut client = Client::hello(&server.path).await;
        client.bytes(&[0, 0, 0, 9, 1, 2, 3][..cut]).await;
        let (_, failure) = client.failure().await;
        assert!(failure.message.contains("did not finish"), "{failure:?}");
        client.is_closed().await;
    }
    connections_are_gone(&server).await;
}

#[tokio::test(flavor = "current_thread")]
async fn d7_slow_frame_has_one_deadline_for_all_its_bytes() {
    let server = start(fast());
    let mut client = Client::hello(&server.path).await;
    let began = std::time::Instant::now();
    client.bytes(&[0, 1, 0, 0]).await;
    // A byte well within the deadline, again and again: a deadline for each byte would never end this.
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if client.stream.write_all(&[0]).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, drip).await.expect("it is let go");
    assert!(began.elapsed() >= Duration::from_millis(400));
    let (id, failure) = client.failure().await;
    assert_eq!(id, 0);
    assert!(failure.message.contains("did not finish"), "{failure:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn d8_trailing_bytes_are_refused() {
    let server = start(Options::default());
    let mut body = proto::codec::encode(&Ask {
        id: 1,
        token: None,
        request: Request::Version,
    })
    .expect("small");
    body.push(0);
    let mut client = Client::hello(&server.path).await;
    client.frame(&body).await;
    let (id, failure) = client.failure().await;
    assert_eq!((id, failure.code), (0, 70));
    assert!(failure.message.contains("too many"), "{failure:?}");
    client.is_closed().await;
}

#[tokio::test(flavor = "current_thread")]
async fn d9_other_versions_are_refused_by_name() {
    let server = start(Options::default());
    for version in [0, VERSION + 1, u32::MAX] {
        let mut client = Client::raw(&server.path).await;
        client.say(&Hello { version, ..hello() }).await;
        match client.hear().await {
            Some(Welcome::Refused {
                version: VERSION,
                reason,
            }) => {
                assert!(reason.contains(&format!("version {version} ")), "{reason}");
                assert!(reason.contains(&format!("version {VERSION}")), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        client.is_closed().await;
    }
    // A request of a later version: an unknown tag.
    let mut client = Client::hello(&server.path).await;
    client.frame(&[1, 0, 250]).await;
    assert_eq!(client.failure().await.0, 0);
    client.is_closed().await;
}

#[tokio::test(flavor = "current_thread")]
async fn d10_claimed_length_is_not_believed() {
    let server = start(Options::default());
    // Ask { id: 1, Show { selectors: a list of 2^40 } }: tags and lengths as bincode's varints have them.
    let show = proto::codec::encode(&Ask {
        id: 1,
        token: None,
        request: Request::Show { selectors: vec![] },
    })
    .expect("small");
    let mut body = show[..show.len() - 1].to_vec();
    body.push(253);
    body.extend((1_u64 << 40).to_le_bytes());
    let mut client = Client::hello(&server.path).await;
    client.frame(&body).await;
    assert_eq!(client.failure().await.0, 0);
    client.is_closed().await;
    serves(&server).await;
}

#[tokio::test(flavor = "current_thread")]
async fn d11_strange_selectors_are_refused_and_the_connection_lives() {
    let server = start(Options::default());
    let mut client = Client::hello(&server.path).await;
    let strange: Vec<Vec<String>> = vec![
        vec![],
        vec![String::new()],
        vec!["../../etc/passwd".to_owned()],
        vec!["a\0b".to_owned()],
        vec!["a\nb".to_owned()],
        vec!["x".repeat(MAX_FRAME - 100)],
        vec!["a".to_owned(); MAX_SELECTORS + 1],
        vec!["a".to_owned(); 20_000],
    ];
    for (id, selectors) in (1..).zip(strange) {
        client.ask(id, Request::Show { selectors }).await;
        let (answered, failure) = client.failure().await;
        assert_eq!((answered, failure.code), (id, 2), "{failure:?}");
    }
    client.ask(99, Request::Version).await;
    assert_eq!(client.answer().await.reply, Reply::End);
    // So many that they would take more memory than a message may.
    let mut greedy = Client::hello(&server.path).await;
    let selectors = vec!["a".to_owned(); 500_000];
    greedy.ask(1, Request::Show { selectors }).await;
    assert_eq!(greedy.failure().await.0, 0);
    greedy.is_closed().await;
    // A name that is not UTF-8 is no string of the protocol at all.
    client.frame(&[1, 10, 1, 2, 0xff, 0xfe]).await;
    assert_eq!(client.failure().await.0, 0);
}

#[tokio::test(flavor = "current_thread")]
async fn d12_strangers_are_denied_every_request() {
    // Whoever runs this test is a stranger when the owner is another and it is not root; root may do everything.
    let me = nix::unistd::geteuid().as_raw();
    let server = start(Options {
        policy: Policy { owner: me ^ 1 },
        ..Options::default()
    });
    let mut client = Client::hello(&server.path).await;
    client.ask(1, Request::Names).await;
    match (me, client.answer().await.reply) {
        (0, Reply::End) => {}
        (1.., Reply::Failed(Failure { code: 5, .. })) => {}
        (uid, other) => panic!("user {uid}: {other:?}"),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn too_many_requests_on_one_connection_are_refused_one_by_one() {
    let mut server = start(Options {
        requests_per_client: 2,
        ..Options::default()
    });
    let mut client = Client::hello(&server.path).await;
    for id in 1..=3 {
        client.ask(id, events()).await;
    }
    let (id, failure) = client.failure().await;
    assert_eq!((id, failure.code), (3, 7));
    let first = next(&mut server).await;
    first.answers.end();
    assert_eq!(client.answer().await.id, 1);
    client.ask(4, events()).await;
    let _second = next(&mut server).await;
    let again = next(&mut server).await;
    assert_eq!(again.ask_id, 4);
    // The same number twice at once could not be told apart.
    client.ask(4, events()).await;
    assert_eq!(client.failure().await.0, 0);
}

#[tokio::test(flavor = "current_thread")]
async fn flood_of_refused_requests_is_answered_in_full() {
    let server = start(Options::default());
    let client = Client::hello(&server.path).await;
    let mut flood = Vec::new();
    for id in 1..=20_000_u64 {
        let selectors = vec![];
        let ask = Ask {
            id,
            token: None,
            request: Request::Show { selectors },
        };
        let body = proto::codec::encode(&ask).expect("small");
        flood.extend(u32::try_from(body.len()).expect("small").to_be_bytes());
        flood.extend(body);
    }
    let stream = client.stream;
    let (read, mut write) = stream.into_split();
    let writer = tokio::spawn(async move {
        write.write_all(&flood).await.expect("written");
        write
    });
    let (mut codec, mut buffer) = (framing(), BytesMut::new());
    let mut read = read;
    for id in 1..=20_000 {
        let answer: Answer = loop {
            if let Some(frame) = codec.decode(&mut buffer).expect("a length") {
                break proto::codec::decode(&frame).expect("an answer");
            }
            assert!(read.read_buf(&mut buffer).await.expect("read") > 0);
        };
        assert_eq!(answer.id, id);
    }
    writer.await.expect("the writer");
}

#[tokio::test(flavor = "current_thread")]
async fn client_that_closes_is_noticed() {
    let mut server = start(Options::default());
    let mut client = Client::hello(&server.path).await;
    client.ask(1, events()).await;
    let answers = next(&mut server).await.answers;
    drop(client);
    tokio::time::timeout(PATIENCE, answers.closed())
        .await
        .expect("noticed");
    assert_eq!(answers.try_send(&Reply::End), Err(Refused::Closed));
}

#[tokio::test(flavor = "current_thread")]
async fn logs_take_the_connection_with_them() {
    let mut server = start(Options::default());
    serves(&server).await;
    let mut client = Client::hello(&server.path).await;
    client.ask(1, Request::Version).await;
    assert_eq!(client.answer().await.id, 1);
    client.ask(2, logs()).await;
    let asked = next(&mut server).await;
    let (fd, id) = take(asked.answers);
    assert_eq!(id, 2);
    // The new owner answers by itself, and its close is the end.
    let answer = Answer {
        id,
        reply: Reply::Lagged(5),
    };
    let body = proto::codec::encode(&answer).expect("small");
    let mut out = u32::try_from(body.len()).expect("small").to_be_bytes().to_vec();
    out.extend(body);
    assert_eq!(nix::unistd::write(&fd, &out), Ok(out.len()));
    assert_eq!(client.answer().await, answer);
    let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).expect("a descriptor");
    assert_eq!(
        flags & nix::libc::FD_CLOEXEC,
        nix::libc::FD_CLOEXEC,
        "descriptor {}",
        fd.as_raw_fd()
    );
    drop(fd);
    client.is_closed().await;
    drop(client);
    connections_are_gone(&server).await;
}

fn take(answers: Answers) -> (OwnedFd, u64) {
    match answers.into_connection() {
        Ok(taken) => taken,
        Err((e, _)) => panic!("{e}"),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn logs_that_fail_leave_the_connection_as_it_was() {
    let mut server = start(Options::default());
    let mut client = Client::hello(&server.path).await;
    client.ask(1, logs()).await;
    let asked = next(&mut server).await;
    asked.answers.fail(Failure {
        code: 4,
        message: "there is no unit \"x\"".to_owned(),
        unit: None,
        hint: None,
        details: vec![],
    });
    assert_eq!(client.failure().await.1.code, 4);
    client.ask(2, Request::Version).await;
    assert_eq!(client.answer().await.id, 2);
}

#[tokio::test(flavor = "current_thread")]
async fn logs_need_a_connection_of_their_own() {
    let mut server = start(Options::default());
    let mut client = Client::hello(&server.path).await;
    client.ask(1, events()).await;
    client.ask(2, logs()).await;
    let (id, failure) = client.failure().await;
    assert_eq!((id, failure.code), (2, 7));
    // What is not alone cannot be handed over either; the answers come back.
    let events = next(&mut server).await.answers;
    events.try_send(&Reply::Lagged(1)).expect("room");
    let Err((_, events)) = events.into_connection() else {
        panic!("a queue was thrown away");
    };
    events.end();
    assert_eq!(client.answer().await.reply, Reply::Lagged(1));
    assert_eq!(client.answer().await.reply, Reply::End);
}

#[tokio::test(flavor = "current_thread")]
async fn client_that_leaves_before_its_logs_are_taken_is_noticed() {
    let mut server = start(Options::default());
    let mut client = Client::hello(&server.path).await;
    client.ask(1, logs()).await;
    let answers = next(&mut server).await.answers;
    drop(client);
    tokio::time::timeout(PATIENCE, answers.closed())
        .await
        .expect("noticed");
    assert!(answers.into_connection().is_err());
}

#[tokio::test(flavor = "current_thread")]
async fn last_word_is_written_before_the_daemon_ends() {
    let mut server = start(Options::default());
    let mut client = Client::hello(&server.path).await;
    client.ask(1, events()).await;
    next(&mut server).await.answers.end_written().await;
    drop(server);
    assert_eq!(client.answer().await.reply, Reply::End);
    client.is_closed().await;
}

#[tokio::test(flavor = "current_thread")]
async fn d20_token_arrives_with_its_request() {
    let mut server = start(Options::default());
    let mut client = Client::hello(&server.path).await;
    for token in [Some(proto::frame::Token([7; 16])), None] {
        let request = events();
        client
            .say(&Ask {
                id: 9,
                token,
                request,
            })
            .await;
        let asked = next(&mut server).await;
        assert_eq!((asked.ask_id, asked.token), (9, token));
        asked.answers.end();
        assert!(matches!(client.answer().await.reply, Reply::End));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn c15_new_listener_takes_over_and_connections_live_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("s");
    let listen = || OwnedFd::from(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    let (tx, asked) = mpsc::channel(16);
    let (renew, renewed) = mpsc::channel(1);
    let handle = serve(listen(), Options::default(), tx, renewed).expect("serve");
    let mut server = Server {
        path: path.clone(),
        asked,
        handle,
        _dir: dir,
    };
    let mut before = Client::hello(&path).await;
    std::fs::remove_file(&path).expect("removed");
    renew.send(listen()).await.expect("the server runs");
    let mut after = Client::hello(&path).await;
    for client in [&mut before, &mut after] {
        client.ask(3, events()).await;
        next(&mut server).await.answers.end();
        assert!(matches!(client.answer().await.reply, Reply::End));
    }
}
