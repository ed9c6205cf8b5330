//! The manager's links with real socket pairs.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use ringriftd::host::link::Link;
use ringriftd::host::ready::{PipeSaid, read_ready};
use ringriftd::keeper::wire::{FromKeeper, ToKeeper};
use ringriftd::limits::{LINK_QUEUE_BYTES, WIRE_FDS_MAX, WIRE_MESSAGE_MAX};

const PATIENCE: Duration = Duration::from_secs(60);

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .expect("a pair")
}

fn links() -> (Link, Link) {
    let (one, other) = pair();
    (
        Link::from_fd(one).expect("a link"),
        Link::from_fd(other).expect("a link"),
    )
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

#[tokio::test(flavor = "current_thread")]
async fn messages_arrive_whole_and_in_order_with_their_descriptors() {
    let (mut one, mut other) = links();
    let (mut read, write) = std::io::pipe().expect("a pipe");
    one.send(&ToKeeper::Serving, vec![]).expect("sent");
    one.send(&ToKeeper::Ping { nonce: 7 }, vec![OwnedFd::from(write)])
        .expect("sent");
    let first = within(other.recv::<ToKeeper>()).await.expect("a link");
    let Some((ToKeeper::Serving, none)) = first else {
        panic!("{first:?}");
    };
    assert!(none.is_empty());
    let second = within(other.recv::<ToKeeper>()).await.expect("a link");
    let Some((ToKeeper::Ping { nonce: 7 }, mut fds)) = second else {
        panic!("{second:?}");
    };
    let fd = fds.pop().expect("one descriptor");
    let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).expect("open");
    assert_eq!(flags & nix::libc::FD_CLOEXEC, nix::libc::FD_CLOEXEC);
    std::fs::File::from(fd).write_all(b"x").expect("written");
    let mut all = Vec::new();
    // Ends only if nobody holds the write end any more: the sender's copy is closed.
    read.read_to_end(&mut all).expect("read");
    assert_eq!(all, b"x");
}

#[tokio::test(flavor = "current_thread")]
async fn end_of_the_other_side_is_told() {
    let (mut one, other) = links();
    drop(other);
    assert!(within(one.recv::<FromKeeper>()).await.expect("an end").is_none());
    let broken = one.send(&ToKeeper::Serving, vec![]).expect_err("nobody is there");
    assert_eq!(broken.kind(), ErrorKind::BrokenPipe);
}

#[tokio::test(flavor = "current_thread")]
async fn burst_waits_in_the_queue_and_is_written_by_whoever_receives() {
    let (mut one, mut other) = links();
    let count = 5000;
    for nonce in 0..count {
        one.send(&ToKeeper::Ping { nonce }, vec![]).expect("queued");
    }
    assert!(one.queued() > 0, "the kernel took all: the queue is not tried");
    let reader = tokio::spawn(async move {
        for expected in 0..count {
            match other.recv().await {
                Ok(Some((ToKeeper::Ping { nonce }, _))) => assert_eq!(nonce, expected),
                wrong => panic!("{wrong:?}"),
            }
        }
        other
            .send(&FromKeeper::Pong { nonce: count }, vec![])
            .expect("sent");
        other
    });
    // Nothing but receiving: that flushes.
    match within(one.recv()).await {
        Ok(Some((FromKeeper::Pong { nonce }, _))) => assert_eq!(nonce, count),
        wrong => panic!("{wrong:?}"),
    }
    assert_eq!(one.queued(), 0);
    within(reader).await.expect("the reader");
}

#[tokio::test(flavor = "current_thread")]
async fn cancelled_receiving_loses_nothing() {
    let (mut one, mut other) = links();
    let count = 300;
    let mut heard = Vec::new();
    for nonce in 0..count {
        one.send(&ToKeeper::Ping { nonce }, vec![]).expect("queued");
        // Polled once and dropped, again and again.
        tokio::select! {
            biased;
            message = other.recv::<ToKeeper>() => heard.push(message.expect("a link").expect("open").0),
            () = tokio::task::yield_now() => {}
        }
    }
    one.flush().await.expect("flushed");
    while heard.len() < usize::try_from(count).expect("small") {
        heard.push(
            within(other.recv::<ToKeeper>())
                .await
                .expect("a link")
                .expect("open")
                .0,
        );
    }
    let expected: Vec<_> = (0..count).map(|nonce| ToKeeper::Ping { nonce }).collect();
    assert_eq!(heard, expected);
}

#[tokio::test(flavor = "current_thread")]
async fn queue_is_bounded() {
    let (mut one, _other) = links();
    let text = "x".repeat(100 * 1024);
    let full = loop {
        if let Err(e) = one.send(&ToKeeper::Announce { text: text.clone() }, vec![]) {
            break e;
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert!(one.queued() <= LINK_QUEUE_BYTES / text.len());
}

#[tokio::test(flavor = "current_thread")]
async fn messages_beyond_the_bounds_are_not_sent() {
    let (mut one, mut other) = links();
    let text = "x".repeat(WIRE_MESSAGE_MAX);
    let long = one.send(&ToKeeper::Announce { text }, vec![]);
    assert_eq!(long.expect_err("too long").kind(), ErrorKind::InvalidInput);
    let fds = || -> Vec<OwnedFd> { (0..=WIRE_FDS_MAX).map(|_| pair().0).collect() };
    let many = one.send(&ToKeeper::Serving, fds());
    assert_eq!(many.expect_err("too many").kind(), ErrorKind::InvalidInput);
    let text = "x".repeat(WIRE_MESSAGE_MAX - 16);
    let largest = ToKeeper::Announce { text };
    one.send(&largest, fds().drain(1..).collect())
        .expect("the largest");
    let (heard, fds) = within(other.recv::<ToKeeper>())
        .await
        .expect("a link")
        .expect("open");
    assert_eq!((heard, fds.len()), (largest, WIRE_FDS_MAX));
}

#[tokio::test(flavor = "current_thread")]
async fn rubbish_is_an_error_and_the_link_goes_on() {
    let (raw, end) = pair();
    let mut link = Link::from_fd(end).expect("a link");
    let say = |bytes: &[u8]| send(raw.as_raw_fd(), bytes, MsgFlags::empty()).expect("sent");
    say(&[250, 1, 2]);
    say(&vec![0; WIRE_MESSAGE_MAX + 1]);
    let mut trailing = proto::codec::encode(&ToKeeper::Serving).expect("small");
    trailing.push(0);
    say(&trailing);
    say(&proto::codec::encode(&ToKeeper::Serving).expect("small"));
    for _ in 0..3 {
        let e = within(link.recv::<ToKeeper>()).await.expect_err("rubbish");
        assert_eq!(e.kind(), ErrorKind::InvalidData, "{e}");
    }
    let last = within(link.recv::<ToKeeper>()).await.expect("a link");
    assert!(matches!(last, Some((ToKeeper::Serving, _))), "{last:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn newline_on_a_pipe_is_readiness() {
    let said = |bytes: &'static [u8]| async move {
        let (read, mut write) = std::io::pipe().expect("a pipe");
        write.write_all(bytes).expect("written");
        drop(write);
        within(read_ready(read.into())).await.expect("read")
    };
    assert_eq!(said(b"\n").await, PipeSaid::Ready);
    assert_eq!(said(b"up and well\n").await, PipeSaid::Ready);
    assert_eq!(said(b"").await, PipeSaid::Closed);
    assert_eq!(said(b"not yet").await, PipeSaid::Closed);
    // It waits for as long as the pipe is open.
    let (read, mut write) = std::io::pipe().expect("a pipe");
    let reader = tokio::spawn(read_ready(read.into()));
    tokio::task::yield_now().await;
    assert!(!reader.is_finished());
    write.write_all(b"\n").expect("written");
    assert_eq!(
        within(reader).await.expect("a task").expect("read"),
        PipeSaid::Ready
    );
}

/// A manager dies after the newline came: the next one has the same pipe, and finds it there.
#[tokio::test(flavor = "current_thread")]
async fn b2_newline_stays_in_the_pipe() {
    let (read, mut write) = std::io::pipe().expect("a pipe");
    // More than is looked at in one go, and more than a pipe holds: what says nothing is taken out.
    let rubbish = std::thread::spawn(move || {
        write.write_all(&vec![b'x'; 200_000]).expect("written");
        write.write_all(b"\nmore").expect("written");
        write
    });
    let read = OwnedFd::from(read);
    for _ in 0..3 {
        let copy = read.try_clone().expect("a copy");
        assert_eq!(within(read_ready(copy)).await.expect("read"), PipeSaid::Ready);
    }
    drop(rubbish.join().expect("the writer"));
    let left = std::io::read_to_string(std::fs::File::from(read)).expect("what is left");
    assert!(left.trim_start_matches('x').starts_with("\nmore"), "{left:?}");
}
