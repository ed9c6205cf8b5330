//! The control socket when the process has no descriptor left. In a file of its own, since the limit is the whole
//! process's.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use proto::frame::{Hello, MAGIC, VERSION};
use ringriftd::control::server::{Options, serve};
use ringriftd::limits::ACCEPT_PAUSE;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "current_thread")]
async fn c5_without_descriptors_accepting_pauses_and_heals() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).expect("bind");
    let (tx, _rx) = mpsc::channel(16);
    let server = serve(
        OwnedFd::from(listener),
        Options::default(),
        tx,
        mpsc::channel(1).1,
    )
    .expect("serve");
    // They are connected as soon as they stand in the backlog; the server has not had its turn yet.
    let mut clients: Vec<UnixStream> = (0..20)
        .map(|_| UnixStream::connect(&path).expect("connect"))
        .collect();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    // Descriptors are given lowest first, so the next one is the number of those open.
    let open = std::fs::read_dir("/proc/self/fd").expect("proc").count() as u64 - 1;
    setrlimit(Resource::RLIMIT_NOFILE, open, hard).expect("lowered");
    let cpu = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("usage");
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds()
    };
    let before = cpu();
    tokio::time::sleep(ACCEPT_PAUSE * 4).await;
    let spent = cpu() - before;
    let refused = std::fs::File::open("/dev/null").map_err(|e| e.raw_os_error());
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("raised");
    assert_eq!(
        refused.err(),
        Some(Some(nix::libc::EMFILE)),
        "the limit did not bite"
    );
    assert!(spent < 100_000, "{spent} µs of CPU time while waiting");
    let body = proto::codec::encode(&Hello {
        magic: MAGIC,
        version: VERSION,
        program: "test".to_owned(),
    })
    .expect("small");
    let work = tokio::task::spawn_blocking(move || {
        for client in &mut clients {
            client.set_read_timeout(Some(PATIENCE)).expect("set");
            client
                .write_all(&[0, 0, 0, u8::try_from(body.len()).expect("small")])
                .expect("written");
            client.write_all(&body).expect("written");
            let mut length = [0; 4];
            client.read_exact(&mut length).expect("a welcome");
            assert_ne!(length, [0; 4]);
        }
    });
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("in time")
        .expect("all are served");
    server.abort();
}
