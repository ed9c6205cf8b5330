//! Notify sockets with real senders: who is believed, what rubbish and floods do.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use ringriftd::host::notify::{Consumed, Expected, Notice, NotifySocket, Told, listen};
use ringriftd::ids::Invocation;
use ringriftd::limits::{NOTIFY_MAX, NOTIFY_RATE};
use ringriftd::spec::NotifyAccess;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(60);
const LIFE: Invocation = Invocation(7);
const TEXT: &str = "00000000000000ff0000000000000007";

struct Unit {
    _dir: tempfile::TempDir,
    path: PathBuf,
    heard: mpsc::Receiver<Told>,
    _socket: NotifySocket,
}

fn start_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields = stat.rsplit_once(") ").expect("a stat").1;
    fields
        .split(' ')
        .nth(19)
        .expect("a field")
        .parse()
        .expect("a number")
}

/// A unit whose main process is `main`.
fn unit(main: u32, access: NotifyAccess) -> Unit {
    with(Expected {
        invocation: LIFE,
        invocation_text: TEXT.to_owned(),
        access,
        main_pid: main,
        main_start: start_time(main),
        leaf: None,
        leaf_id: None,
        is_storing: false,
    })
}

fn with(expected: Expected) -> Unit {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("n");
    let socket = UnixDatagram::bind(&path).expect("bind");
    let (tx, heard) = mpsc::channel(1024);
    let socket = listen(OwnedFd::from(socket), expected, tx).expect("listen");
    Unit {
        _dir: dir,
        path,
        heard,
        _socket: socket,
    }
}

impl Unit {
    async fn hears(&mut self) -> Notice {
        self.hears_and_holds().await.0
    }

    async fn hears_and_holds(&mut self) -> (Notice, Consumed) {
        let (life, notice, consumed) = tokio::time::timeout(PATIENCE, self.heard.recv())
            .await
            .expect("in time")
            .expect("it listens");
        assert_eq!(life, LIFE);
        (notice, consumed)
    }

    async fn rejects(&mut self, sender: u32, words: &str) {
        match self.hears().await {
            Notice::Rejected { pid, why } => {
                assert_eq!(pid, sender, "{why}");
                assert!(why.contains(words), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
}

fn say(path: &Path, bytes: &[u8]) {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket.send_to(bytes, path).expect("sent");
}

/// A process of its own that sends one datagram when told to, and another with each further line.
struct Sender(Child);

impl Sender {
    /// `env` is one more variable of its environment.
    fn new(path: &Path, env: Option<(&str, &str)>) -> Self {
        let own = std::env::current_exe().expect("this program");
        let mut command = Command::new(own);
        command
            .args([
                "sender_in_a_process_of_its_own",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env("SEND_TO", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some((key, value)) = env {
            command.env(key, value);
        }
        Self(command.spawn().expect("this program again"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn says(&mut self, text: &str) {
        let stdin = self.0.stdin.as_mut().expect("piped");
        writeln!(stdin, "{text}").expect("it listens");
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Not a test: what [`Sender`] runs.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn sender_in_a_process_of_its_own() {
    let Some(path) = std::env::var_os("SEND_TO") else {
        return;
    };
    for line in std::io::stdin().lines() {
        say(Path::new(&path), line.expect("a line").as_bytes());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn main_process_is_believed() {
    let mut unit = unit(std::process::id(), NotifyAccess::Main);
    say(&unit.path, b"STATUS=warming up\nREADY=1\nBUSERROR=x");
    assert_eq!(unit.hears().await, Notice::Status("warming up".to_owned()));
    assert_eq!(unit.hears().await, Notice::Ready);
    say(&unit.path, b"STOPPING=1");
    assert_eq!(unit.hears().await, Notice::Stopping);
}

#[tokio::test(flavor = "current_thread")]
async fn a23_others_of_the_unit_are_believed_only_where_the_unit_says_so() {
    let mut main_only = unit(std::process::id(), NotifyAccess::Main);
    let mut child = Sender::new(&main_only.path, None);
    // A barrier from anybody is answered and is nobody's fault (systemd-notify sends one as itself).
    child.says("BARRIER=1");
    child.says("READY=1");
    main_only.rejects(child.pid(), "notify_access").await;
    say(&main_only.path, b"WATCHDOG=1");
    assert_eq!(main_only.hears().await, Notice::Watchdog);
    let mut all = unit(std::process::id(), NotifyAccess::All);
    let mut child = Sender::new(&all.path, None);
    child.says("READY=1");
    assert_eq!(all.hears().await, Notice::Ready);
}

#[tokio::test(flavor = "current_thread")]
async fn a23_foreign_process_is_never_believed() {
    // The main process is a child here, so this process is a stranger to it.
    let dir = tempfile::tempdir().expect("a folder");
    let main = Sender::new(&dir.path().join("none"), None);
    for (access, words) in [
        (NotifyAccess::Main, "not the main process"),
        (NotifyAccess::All, "does not belong"),
    ] {
        let mut unit = unit(main.pid(), access);
        say(&unit.path, b"READY=1");
        unit.rejects(std::process::id(), words).await;
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a23_process_with_the_units_invocation_belongs_to_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let main = Sender::new(&dir.path().join("none"), None);
    let mut unit = unit(main.pid(), NotifyAccess::All);
    let mut orphan = Sender::new(&unit.path, Some(("RINGRIFT_INVOCATION_ID", TEXT)));
    orphan.says("READY=1");
    assert_eq!(unit.hears().await, Notice::Ready);
    let other = TEXT.replace('7', "8");
    let mut stranger = Sender::new(&unit.path, Some(("RINGRIFT_INVOCATION_ID", &other)));
    stranger.says("READY=1");
    unit.rejects(stranger.pid(), "does not belong").await;
}

#[tokio::test(flavor = "current_thread")]
async fn a23_another_process_with_the_main_pids_number_is_not_believed() {
    let mut unit = with(Expected {
        invocation: LIFE,
        invocation_text: TEXT.to_owned(),
        access: NotifyAccess::Main,
        main_pid: std::process::id(),
        main_start: start_time(std::process::id()) + 1,
        leaf: None,
        leaf_id: None,
        is_storing: false,
    });
    say(&unit.path, b"READY=1");
    unit.rejects(std::process::id(), "is another").await;
}

#[tokio::test(flavor = "current_thread")]
async fn a23_dead_stranger_is_not_believed() {
    let dir = tempfile::tempdir().expect("a folder");
    let main = Sender::new(&dir.path().join("none"), None);
    let path = dir.path().join("n");
    let socket = UnixDatagram::bind(&path).expect("bind");
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::PassCred, &true).expect("set");
    let mut dead = Sender::new(&path, None);
    dead.says("READY=1");
    let pid = dead.pid();
    // It ends, and is reaped, before anybody reads.
    drop(dead);
    let (tx, mut heard) = mpsc::channel(16);
    let expected = Expected {
        invocation: LIFE,
        invocation_text: TEXT.to_owned(),
        access: NotifyAccess::All,
        main_pid: main.pid(),
        main_start: start_time(main.pid()),
        leaf: None,
        leaf_id: None,
        is_storing: false,
    };
    let _socket = listen(OwnedFd::from(socket), expected, tx).expect("listen");
    match tokio::time::timeout(PATIENCE, heard.recv())
        .await
        .expect("in time")
    {
        Some((LIFE, Notice::Rejected { pid: sender, why }, _)) => {
            assert_eq!(sender, pid);
            assert!(why.contains("ended"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a25_rubbish_never_disables_the_socket() {
    let mut unit = unit(std::process::id(), NotifyAccess::Main);
    let own = std::process::id();
    for (rubbish, words) in [
        (vec![], "empty"),
        (vec![0; 10], "NUL"),
        (b"READY".to_vec(), "KEY=value"),
        (vec![0xff; 10], "UTF-8"),
        (vec![b'A'; NOTIFY_MAX + 1], "longer"),
        (vec![b'A'; 64 * 1024], "longer"),
    ] {
        say(&unit.path, &rubbish);
        unit.rejects(own, words).await;
    }
    // 253 descriptors, the most that the kernel takes, and all are closed.
    let (mut kept, sent) = UnixStream::pair().expect("a pair");
    let raw = [sent.as_raw_fd(); 253];
    let socket = UnixDatagram::unbound().expect("a socket");
    let address = UnixAddr::new(&unit.path).expect("a path");
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(b"FDSTORE=1\nWATCHDOG=1")],
        &[ControlMessage::ScmRights(&raw)],
        MsgFlags::empty(),
        Some(&address),
    )
    .expect("sent");
    drop(sent);
    assert_eq!(unit.hears().await, Notice::Watchdog);
    say(&unit.path, b"READY=1");
    assert_eq!(unit.hears().await, Notice::Ready);
    // The other end of the pair hears of the end only when the last copy is closed.
    kept.set_read_timeout(Some(PATIENCE)).expect("set");
    assert_eq!(kept.read(&mut [0]).expect("the end"), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn a24_flood_is_counted_and_ready_is_heard_in_it() {
    let mut unit = unit(std::process::id(), NotifyAccess::Main);
    let path = unit.path.clone();
    let total = 20 * NOTIFY_RATE;
    // Its sends block while the queue is full, so it is a thread.
    let flood = std::thread::spawn(move || {
        let socket = UnixDatagram::unbound().expect("a socket");
        for i in 0..total {
            let text: &[u8] = if i == total - 1 { b"READY=1" } else { b"WATCHDOG=1" };
            socket.send_to(text, &path).expect("sent");
        }
    });
    let (mut heard, mut dropped) = (0, 0);
    loop {
        match unit.hears().await {
            Notice::Watchdog => heard += 1,
            Notice::Dropped(n) => dropped += n,
            Notice::Ready => break,
            other => panic!("{other:?}"),
        }
    }
    flood.join().expect("the flood");
    assert_eq!(u64::from(total) - 1, heard + dropped);
    assert!(dropped > 0, "{heard} were heard");
}

/// A datagram with a descriptor attached; the other end of the pair hears of the end when its last copy is closed.
fn say_with_descriptor(path: &Path, text: &[u8]) -> UnixStream {
    let (kept, sent) = UnixStream::pair().expect("a pair");
    let socket = UnixDatagram::unbound().expect("a socket");
    let address = UnixAddr::new(path).expect("a path");
    sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(text)],
        &[ControlMessage::ScmRights(&[sent.as_raw_fd()])],
        MsgFlags::empty(),
        Some(&address),
    )
    .expect("sent");
    kept
}

fn is_open(kept: &mut UnixStream) -> bool {
    kept.set_nonblocking(true).expect("set");
    let read = kept.read(&mut [0]).map_err(|e| e.kind());
    kept.set_nonblocking(false).expect("set");
    read == Err(std::io::ErrorKind::WouldBlock)
}

#[tokio::test(flavor = "current_thread")]
async fn datagram_is_taken_when_all_of_it_is_committed() {
    let mut unit = unit(std::process::id(), NotifyAccess::Main);
    let mut first = say_with_descriptor(&unit.path, b"STATUS=a\nREADY=1\nBUSERROR=x");
    let mut barrier = say_with_descriptor(&unit.path, b"BARRIER=1");
    say(&unit.path, b"STOPPING=1");
    // Of several notices the last that means anything holds the datagram.
    let (status, of_status) = unit.hears_and_holds().await;
    of_status.done();
    let (ready, held) = unit.hears_and_holds().await;
    assert_eq!((status, ready), (Notice::Status("a".to_owned()), Notice::Ready));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(unit.heard.try_recv().is_err(), "the next waits");
    assert!(is_open(&mut first) && is_open(&mut barrier));
    held.done();
    assert_eq!(unit.hears().await, Notice::Stopping);
    for mut kept in [first, barrier] {
        kept.set_read_timeout(Some(PATIENCE)).expect("set");
        assert_eq!(kept.read(&mut [0]).expect("the end"), 0);
    }
}

/// A manager dies between hearing and committing: the next one has the same socket.
#[tokio::test(flavor = "current_thread")]
async fn b2_datagram_that_was_not_committed_is_heard_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("n");
    let bound = OwnedFd::from(UnixDatagram::bind(&path).expect("bind"));
    nix::sys::socket::setsockopt(&bound, nix::sys::socket::sockopt::PassCred, &true).expect("set");
    let expected = || Expected {
        invocation: LIFE,
        invocation_text: TEXT.to_owned(),
        access: NotifyAccess::Main,
        main_pid: std::process::id(),
        main_start: start_time(std::process::id()),
        leaf: None,
        leaf_id: None,
        is_storing: false,
    };
    let listens = || {
        let (tx, heard) = mpsc::channel(16);
        let copy = bound.try_clone().expect("a copy");
        (listen(copy, expected(), tx).expect("listen"), heard)
    };
    let mut kept = say_with_descriptor(&path, b"STATUS=a\nREADY=1");
    say(&path, b"WATCHDOG=1");
    // Twice, since it may die more than once: with the reader, and with the receiver alone.
    for dies_whole in [true, false] {
        let (socket, mut heard) = listens();
        for wanted in [Notice::Status("a".to_owned()), Notice::Ready] {
            let told = tokio::time::timeout(PATIENCE, heard.recv()).await;
            let (_, notice, held) = told.expect("in time").expect("it listens");
            assert_eq!(notice, wanted);
            if dies_whole {
                std::mem::forget(held);
            } else {
                heard.close();
                drop(held);
                break;
            }
        }
        if !dies_whole {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        drop(socket);
        tokio::task::yield_now().await;
        assert!(is_open(&mut kept));
    }
    let (_socket, mut heard) = listens();
    for wanted in [Notice::Status("a".to_owned()), Notice::Ready, Notice::Watchdog] {
        let told = tokio::time::timeout(PATIENCE, heard.recv()).await;
        assert_eq!(told.expect("in time").expect("it listens").1, wanted);
    }
    kept.set_read_timeout(Some(PATIENCE)).expect("set");
    assert_eq!(kept.read(&mut [0]).expect("the end"), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn closed_socket_is_no_longer_there() {
    let unit = unit(std::process::id(), NotifyAccess::Main);
    let path = unit.path.clone();
    let Unit {
        _dir,
        _socket,
        mut heard,
        ..
    } = unit;
    drop(_socket);
    // Its sender goes with the task.
    let end = tokio::time::timeout(PATIENCE, heard.recv())
        .await
        .expect("in time");
    assert!(end.is_none(), "{end:?}");
    let socket = UnixDatagram::unbound().expect("a socket");
    assert!(socket.send_to(b"READY=1", &path).is_err());
}
