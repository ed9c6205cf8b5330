//! What waits for one client: a queue bounded in frames and bytes, with exactly one last frame for each request.
//!
//! The manager's loop never waits for a client: [`Answers::try_send`] says `Full` at once. A long answer is sent from
//! a task of its own with [`Answers::send`], which waits. The last frame of a request ([`Answers::end`],
//! [`Answers::fail`]) always has room, since no more requests are under way than the connection may have.
//!
//! Read first: [`Answers`].

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use proto::reply::{Failure, Reply};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::limits::{CLIENT_QUEUE, CLIENT_QUEUE_BYTES};

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// As much waits for the client as may wait. Later there may be room.
    Full,
    /// The client has gone, or was let go.
    Closed,
    /// The reply does not fit into a frame: a bug of whoever made it.
    TooLarge,
}

/// The answers to one request. Dropped without a last frame, it answers that the daemon failed (exit code 70), so that
/// no client waits for ever.
#[derive(Debug)]
pub struct Answers {
    outbox: Arc<Outbox>,
    id: u64,
    is_done: bool,
}

impl Answers {
    /// Queues `reply`, or says at once why not. Never waits.
    pub fn try_send(&self, reply: &Reply) -> Result<(), Refused> {
        self.outbox.push(&encode(self.id, reply)?)
    }

    /// Queues `reply` as soon as there is room. Not for the manager's loop.
    pub async fn send(&self, reply: &Reply) -> Result<(), Refused> {
        let frame = encode(self.id, reply)?;
        loop {
            let room = self.outbox.room.notified();
            let mut room = std::pin::pin!(room);
            // Before the try, so that room made between the two is not missed.
            room.as_mut().enable();
            match self.outbox.push(&frame) {
                Err(Refused::Full) => {}
                other => return other,
            }
            tokio::select! {
                () = room => {}
                () = self.outbox.closed.cancelled() => return Err(Refused::Closed),
            }
        }
    }

    /// Sends each of `replies`, waiting for room, then the end; in a task of its own. Must be called inside a tokio
    /// runtime.
    pub fn stream(self, replies: impl IntoIterator<Item = Reply, IntoIter: Send> + Send + 'static) {
        let replies = replies.into_iter();
        tokio::spawn(async move {
            for reply in replies {
                match self.send(&reply).await {
                    Ok(()) => {}
                    Err(Refused::TooLarge) => {
                        self.fail(bug("an answer does not fit into a frame".to_owned()));
                        return;
                    }
                    Err(_) => break,
                }
            }
            self.end();
        });
    }

    /// The answer is complete.
    pub fn end(mut self) {
        self.finish(&Reply::End);
    }

    /// The request was not done.
    pub fn fail(mut self, failure: Failure) {
        self.finish(&Reply::Failed(failure));
    }

    /// [`Answers::end`], and waits until the client's socket has it (or the client has gone): before the daemon ends.
    pub async fn end_written(mut self) {
        self.finish(&Reply::End);
        self.outbox.drained().await;
    }

    /// The client has gone, or was let go: nothing more can be said.
    pub fn is_closed(&self) -> bool {
        self.outbox.closed.is_cancelled()
    }

    /// Waits until the client has gone.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.outbox.closed.clone().cancelled_owned()
    }

    /// The request's number, as the client chose it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Gives the whole connection away, with the request's number: the new owner answers, and closes. Only a request
    /// that is alone on its connection, and to which nothing was said, can do so (the server sees to that for
    /// `Logs`). The descriptor is non-blocking and close-on-exec. On failure the answers come back, to fail them.
    pub fn into_connection(mut self) -> Result<(OwnedFd, u64), (io::Error, Self)> {
        match self.outbox.hand_over(self.id) {
            Ok(fd) => {
                self.is_done = true;
                Ok((fd, self.id))
            }
            Err(e) => Err((e, self)),
        }
    }

    fn finish(&mut self, reply: &Reply) {
        self.is_done = true;
        self.outbox.finish(self.id, reply);
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if !self.is_done {
            self.finish(&Reply::Failed(bug("the request was dropped".to_owned())));
        }
    }
}

pub(super) fn bug(message: String) -> Failure {
    Failure {
        code: 70,
        message,
        unit: None,
        hint: Some("this is a bug in ringriftd; its log may say more".to_owned()),
        details: Vec::new(),
    }
}

/// [`proto::frame::Answer`] without owning the reply; a test compares their bytes.
#[derive(Serialize)]
struct AnswerRef<'a> {
    id: u64,
    reply: &'a Reply,
}

fn encode(id: u64, reply: &Reply) -> Result<Arc<[u8]>, Refused> {
    frame(&AnswerRef { id, reply }).ok_or(Refused::TooLarge)
}

/// A value with its length before it, as `proto::frame::framing` reads it; `None` when it is too large for one frame.
pub(super) fn frame<T: Serialize>(value: &T) -> Option<Arc<[u8]>> {
    let body = proto::codec::encode(value).ok()?;
    let length = u32::try_from(body.len()).ok()?.to_be_bytes();
    Some(length.into_iter().chain(body).collect())
}

/// One frame on its way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Arc<[u8]>,
    /// The request that ends with it.
    ends: Option<u64>,
    is_counted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    /// Nothing more is taken; what is queued is written, then the connection closes.
    Ending,
    Closed,
    HandedOver,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    counted: usize,
    is_writing: bool,
    under_way: BTreeSet<u64>,
    fate: Fate,
}

/// The queue of one connection, between the requests and the writer.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    // Weak: answers that the manager still holds must not keep a closed connection's descriptor.
    stream: Weak<UnixStream>,
    /// The writer waits here.
    work: Notify,
    /// Senders wait here, and the reader for quiet.
    room: Notify,
    pub(super) closed: CancellationToken,
}

impl Outbox {
    pub(super) fn new(stream: &Arc<UnixStream>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                bytes: 0,
                counted: 0,
                is_writing: false,
                under_way: BTreeSet::new(),
                fate: Fate::Open,
            }),
            stream: Arc::downgrade(stream),
            work: Notify::new(),
            room: Notify::new(),
            closed: CancellationToken::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is under way; `None` when its number is already.
    pub(super) fn begin(self: &Arc<Self>, id: u64) -> Option<Answers> {
        self.state().under_way.insert(id).then(|| Answers {
            outbox: Arc::clone(self),
            id,
            is_done: false,
        })
    }

    pub(super) fn under_way(&self) -> usize {
        self.state().under_way.len()
    }

    pub(super) fn is_under_way(&self, id: u64) -> bool {
        self.state().under_way.contains(&id)
    }

    /// Nothing is under way and nothing waits to be written.
    pub(super) fn is_quiet(&self) -> bool {
        let state = self.state();
        state.under_way.is_empty() && state.queue.is_empty() && !state.is_writing
    }

    /// A change of any of this.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.room.notified()
    }

    fn push(&self, bytes: &Arc<[u8]>) -> Result<(), Refused> {
        let mut state = self.state();
        if state.fate != Fate::Open {
            return Err(Refused::Closed);
        }
        let is_full = state.counted >= CLIENT_QUEUE
            || (state.counted > 0 && state.bytes + bytes.len() > CLIENT_QUEUE_BYTES);
        if is_full {
            return Err(Refused::Full);
        }
        state.counted += 1;
        state.bytes += bytes.len();
        state.queue.push_back(Outgoing {
            bytes: Arc::clone(bytes),
            ends: None,
            is_counted: true,
        });
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    fn finish(&self, id: u64, reply: &Reply) {
        // A failure with a mountain of details still fails, without them.
        let frame = encode(id, reply).or_else(|_| {
            let bare = match reply {
                Reply::Failed(failure) => Failure {
                    message: failure.message.chars().take(512).collect(),
                    unit: None,
                    hint: None,
                    details: Vec::new(),
                    ..*failure
                },
                _ => bug("an answer does not fit into a frame".to_owned()),
            };
            encode(id, &Reply::Failed(bare))
        });
        let Ok(frame) = frame else { return };
        self.push_last(frame, Some(id));
    }

    /// Answers a request that was never begun.
    pub(super) fn refuse(&self, id: u64, failure: Failure) {
        if let Ok(frame) = encode(id, &Reply::Failed(failure)) {
            self.push_last(frame, None);
        }
    }

    /// More waits than requests alone explain: the client asks on without reading.
    pub(super) fn is_overfull(&self) -> bool {
        self.state().queue.len() > 2 * CLIENT_QUEUE
    }

    /// Queues bytes that answer no request: the welcome.
    pub(super) fn greet(&self, bytes: Arc<[u8]>) {
        self.push_last(bytes, None);
    }

    fn push_last(&self, bytes: Arc<[u8]>, ends: Option<u64>) {
        let mut state = self.state();
        if state.fate == Fate::Open {
            state.bytes += bytes.len();
            state.queue.push_back(Outgoing {
                bytes,
                ends,
                is_counted: false,
            });
        }
        drop(state);
        self.work.notify_one();
    }

    /// The writer's next frame; `None` when there will be none.
    pub(super) async fn next(&self) -> Option<Outgoing> {
        loop {
            {
                let mut state = self.state();
                match (state.fate, state.queue.pop_front()) {
                    (Fate::Open | Fate::Ending, Some(outgoing)) => {
                        state.is_writing = true;
                        return Some(outgoing);
                    }
                    (Fate::Open, None) => {}
                    (Fate::Ending, None) | (Fate::Closed | Fate::HandedOver, _) => return None,
                }
            }
            // One writer only, and `notify_one` leaves a permit: nothing is missed.
            self.work.notified().await;
        }
    }

    /// The writer has written this.
    pub(super) fn written(&self, outgoing: &Outgoing) {
        let mut state = self.state();
        state.is_writing = false;
        state.bytes = state.bytes.saturating_sub(outgoing.bytes.len());
        state.counted -= usize::from(outgoing.is_counted && state.counted > 0);
        if let Some(id) = outgoing.ends {
            state.under_way.remove(&id);
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Waits until everything queued is written, or never will be.
    pub(super) async fn drained(&self) {
        loop {
            let changed = self.room.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.state();
                let is_empty = state.queue.is_empty() && !state.is_writing;
                if is_empty || matches!(state.fate, Fate::Closed | Fate::HandedOver) {
                    return;
                }
            }
            tokio::select! {
                () = changed => {}
                () = self.closed.cancelled() => return,
            }
        }
    }

    /// Takes nothing more; what is queued is still written.
    pub(super) fn wind_up(&self) {
        let mut state = self.state();
        if state.fate == Fate::Open {
            state.fate = Fate::Ending;
        }
        drop(state);
        self.work.notify_one();
    }

    /// The connection is over: whoever waits for it is told.
    pub(super) fn close(&self) {
        let mut state = self.state();
        if state.fate != Fate::HandedOver {
            state.fate = Fate::Closed;
        }
        state.queue.clear();
        state.bytes = 0;
        state.counted = 0;
        state.under_way.clear();
        drop(state);
        self.closed.cancel();
        self.work.notify_one();
        self.room.notify_waiters();
    }

    fn hand_over(&self, id: u64) -> io::Result<OwnedFd> {
        let mut state = self.state();
        let is_alone = state.under_way.len() == 1 && state.under_way.contains(&id);
        if state.fate != Fate::Open || !is_alone || !state.queue.is_empty() || state.is_writing {
            let text = "cannot hand a connection over: it is closed, or other answers are under way on it";
            return Err(io::Error::other(text));
        }
        let stream = self
            .stream
            .upgrade()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let fd = stream.as_fd().try_clone_to_owned()?;
        state.fate = Fate::HandedOver;
        drop(state);
        // Reader and writer let go of their end; the other one lives on.
        self.closed.cancel();
        self.work.notify_one();
        Ok(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borrowed_answer_has_the_same_bytes_as_an_owned_one() {
        let reply = Reply::Lagged(7);
        let borrowed = proto::codec::encode(&AnswerRef { id: 3, reply: &reply });
        let owned = proto::codec::encode(&proto::frame::Answer { id: 3, reply });
        assert_eq!(borrowed, owned);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn queue_is_bounded_but_the_last_frame_always_fits() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let outbox = Outbox::new(&Arc::new(one));
        let answers = outbox.begin(1).expect("fresh");
        assert!(outbox.begin(1).is_none());
        for _ in 0..CLIENT_QUEUE {
            assert_eq!(answers.try_send(&Reply::Lagged(1)), Ok(()));
        }
        assert_eq!(answers.try_send(&Reply::Lagged(1)), Err(Refused::Full));
        answers.end();
        assert_eq!(outbox.state().queue.len(), CLIENT_QUEUE + 1);
        assert_eq!(outbox.under_way(), 1);
        while !outbox.is_quiet() {
            let outgoing = outbox.next().await.expect("a frame");
            outbox.written(&outgoing);
        }
        assert_eq!(outbox.state().bytes, 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn bytes_are_bounded_too() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let outbox = Outbox::new(&Arc::new(one));
        let answers = outbox.begin(1).expect("fresh");
        let line = proto::reply::LogLine {
            at_us: 0,
            unit: "a".to_owned(),
            invocation: 1,
            message: vec![0; 900 * 1024],
            end: proto::reply::LineEnd::Whole,
            severity: None,
            stream: None,
        };
        let large = Reply::Logs(vec![line.clone()]);
        let taken = (0..CLIENT_QUEUE)
            .filter(|_| answers.try_send(&large).is_ok())
            .count();
        assert_eq!(taken, CLIENT_QUEUE_BYTES / (900 * 1024));
        let huge = Reply::Logs(vec![line.clone(), line]);
        assert_eq!(answers.try_send(&huge), Err(Refused::TooLarge));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn forgotten_request_is_answered_as_a_bug() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let outbox = Outbox::new(&Arc::new(one));
        drop(outbox.begin(9).expect("fresh"));
        let outgoing = outbox.next().await.expect("a frame");
        let answer: proto::frame::Answer = proto::codec::decode(&outgoing.bytes[4..]).expect("an answer");
        assert_eq!(answer.id, 9);
        assert!(matches!(answer.reply, Reply::Failed(Failure { code: 70, .. })));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn failure_too_large_for_a_frame_still_fails() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        let outbox = Outbox::new(&Arc::new(one));
        let failure = Failure {
            code: 8,
            details: vec!["x".repeat(1000); 2000],
            ..bug("the configuration is invalid".to_owned())
        };
        outbox.begin(1).expect("fresh").fail(failure);
        let outgoing = outbox.next().await.expect("a frame");
        let answer: proto::frame::Answer = proto::codec::decode(&outgoing.bytes[4..]).expect("an answer");
        assert!(matches!(answer.reply, Reply::Failed(Failure { code: 8, .. })));
    }
}
