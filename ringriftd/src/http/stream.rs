//! `/events`: what happens, as server-sent events, each with its number as `id`. A client that comes back says the last one
//! that it has (`Last-Event-ID`, or `?after=N`) and misses nothing that the flight recorder still has; without one it hears
//! what happens from now on. What was missed is told as an event `lagged`, with how many.
//!
//! Nobody waits for a slow reader: it is told that it lagged, and one that takes nothing at all is let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use proto::reply::Event;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::guard::Refusal;
use super::names;
use super::reply::{self, Answer, Content};
use super::routes::Asked;
use super::server::{Guest, Shared};
use crate::limits;
use crate::state::recorder::{Entry, Reading};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Pieces of a stream that wait to be written.
const PIECES: usize = 16;

/// One of the streams that are open.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(streams: &Arc<AtomicUsize>) -> Option<Self> {
        let one_more = |n: usize| (n < limits::HTTP_STREAMS_MAX).then_some(n + 1);
        let taken = streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        taken.ok().map(|_| Self(Arc::clone(streams)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The answer to `/events`.
pub fn events(asked: &Asked<'_>, shared: &Arc<Shared>, guest: Guest) -> Answer {
    if asked.is_head {
        return reply::whole(StatusCode::OK, "text/event-stream", Bytes::new());
    }
    let Some(place) = Place::take(&shared.streams) else {
        let mut answer = reply::refused(&Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            why: "too many streams are open",
        });
        let later = HeaderValue::from_static("10");
        answer.headers_mut().insert(hyper::header::RETRY_AFTER, later);
        return answer;
    };
    let said = asked.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    let said = said.map(str::to_owned).or_else(|| asked.parameter("after"));
    let after = said.and_then(|id| id.trim().parse().ok());
    let (pieces, taken) = mpsc::channel(PIECES);
    tokio::spawn(tell(Arc::clone(shared), after, pieces, place));
    reply::answer(StatusCode::OK, "text/event-stream", Content::Stream(taken, guest))
}

fn piece(event: &Event) -> String {
    format!("id: {}\ndata: {}\n\n", event.seq, names::event_line(event))
}

fn lagged(missed: u64) -> Bytes {
    Bytes::from(format!("event: lagged\ndata: {{\"missed\":{missed}}}\n\n"))
}

/// The client has gone.
struct Gone;

async fn say(pieces: &mpsc::Sender<Bytes>, piece: impl Into<Bytes>) -> Result<(), Gone> {
    pieces.send(piece.into()).await.map_err(|_| Gone)
}

/// Tells all of it, until the client goes or the node ends.
async fn tell(shared: Arc<Shared>, after: Option<u64>, pieces: mpsc::Sender<Bytes>, place: Place) {
    let _place = place;
    // Nobody is told that the client has gone: there is nobody else to tell.
    let _ = tell_all(&shared, after, &pieces).await;
}

async fn tell_all(shared: &Shared, after: Option<u64>, pieces: &mpsc::Sender<Bytes>) -> Result<(), Gone> {
    let events = &shared.sources.events;
    // What was told a moment ago is not in the picture of the node yet.
    let newest = shared.sources.published.look().header.last_seq;
    let newest = newest.max(events.last().unwrap_or(0));
    // A number that was never given comes from another life of the node's state: nothing follows it.
    let from = after.filter(|after| *after <= newest);
    let (kept, mut live) = events.after(from.unwrap_or(u64::MAX));
    say(pieces, "retry: 2000\n: here is what happens\n\n").await?;
    if let Some(from) = from {
        let first = kept.first().map_or(newest + 1, |event| event.seq);
        let mut last = from;
        if from + 1 < first {
            last = tell_recorded(shared, from, first, pieces).await?;
        }
        for event in kept {
            if event.seq > last + 1 {
                say(pieces, lagged(event.seq - last - 1)).await?;
            }
            last = event.seq;
            say(pieces, piece(&event)).await?;
        }
    }
    loop {
        let next = tokio::select! {
            next = live.recv() => next,
            () = tokio::time::sleep(limits::HTTP_HEARTBEAT) => {
                say(pieces, ":\n\n").await?;
                continue;
            }
            () = pieces.closed() => return Err(Gone),
        };
        match next {
            Ok(event) => say(pieces, piece(&event)).await?,
            Err(RecvError::Lagged(missed)) => say(pieces, lagged(missed)).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// Tells what the flight recorder has after `from` and before `until`; the number of the last one.
async fn tell_recorded(
    shared: &Shared,
    from: u64,
    until: u64,
    pieces: &mpsc::Sender<Bytes>,
) -> Result<u64, Gone> {
    let folder = shared.sources.recorder.clone();
    let read = tokio::task::spawn_blocking(move || Reading::after(&folder, from)).await;
    let Ok(Ok(mut reading)) = read else {
        return Ok(from);
    };
    let mut last = from;
    loop {
        let chunk = reading.next_chunk(limits::RECORDER_CHUNK);
        if chunk.is_empty() {
            return Ok(last);
        }
        for entry in chunk {
            let Entry::Event(event) = entry else { continue };
            if event.seq >= until {
                return Ok(last);
            }
            if event.seq > last + 1 {
                say(pieces, lagged(event.seq - last - 1)).await?;
            }
            last = event.seq;
            say(pieces, piece(&event)).await?;
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use proto::reply::{Cause, CauseKind, State};
    use tokio::sync::broadcast;

    use super::*;
    use crate::clock::Now;
    use crate::http::dashboard::Histories;
    use crate::http::measure::Measure;
    use crate::http::types::{Recent, Sources};
    use crate::published::{Header, Picture, Published};

    fn event(seq: u64) -> Arc<Event> {
        Arc::new(Event {
            seq,
            at_us: seq,
            event: "DAEMON_READY".to_owned(),
            unit: "a".to_owned(),
            invocation: None,
            from: State::Starting,
            to: State::Running,
            cause: Cause {
                kind: CauseKind::Boot,
                seq: None,
                unit: None,
                by: None,
                text: String::new(),
            },
        })
    }

    /// A node whose picture is a moment behind its events, as it always is while something happens.
    pub(in crate::http) fn node(events: u64, shown: u64) -> Shared {
        let header = Header {
            version: "",
            node: String::new(),
            profiles: Vec::new(),
            started: Now::read(),
            containment: String::new(),
            is_settled: true,
            is_stopping: false,
            notices: Vec::new(),
            deaths: (0, 0),
            last_seq: shown,
            breakers: Vec::new(),
        };
        let kept: VecDeque<_> = (1..=events).map(event).collect();
        Shared {
            sources: Sources {
                published: Arc::new(Published::new(Picture {
                    header: Arc::new(header),
                    rows: Arc::default(),
                    counts: Arc::default(),
                })),
                events: Recent {
                    kept: Arc::new(Mutex::new(kept)),
                    live: broadcast::channel(8).0,
                },
                recorder: std::path::PathBuf::new(),
                tails: mpsc::channel(1).0,
                counted: mpsc::channel(1).0,
            },
            measure: Measure::default(),
            histories: Histories::default(),
            streams: Arc::default(),
            tally: crate::http::tally::Tally::default(),
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_comes_back_at_once_misses_nothing_though_the_picture_is_older() {
        let (pieces, mut taken) = mpsc::channel(8);
        tokio::spawn(async move { tell_all(&node(5, 2), Some(3), &pieces).await });
        taken.recv().await.expect("the beginning");
        for seq in [4, 5] {
            let piece = taken.recv().await.expect("it goes on");
            let text = String::from_utf8_lossy(&piece).into_owned();
            assert!(text.starts_with(&format!("id: {seq}\n")), "{text:?}");
        }
    }
}
