//! The node's memory of changes: a bounded ring in memory, a larger one on disk (the flight recorder), and those who
//! listen. Every event has the number that the engine gave it, so that a reader sees a hole and is told how large it is.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::reply::{Event, Reply};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::clock::Now;
use crate::control::outbox::{Answers, Refused};
use crate::engine::types::Change;
use crate::http::types::Recent;
use crate::ids::invocation_text;
use crate::limits::{EVENTS_KEPT, RECORDER_CHUNK, SUBSCRIBER_LAG};
use crate::state::recorder::{Entry, Reading};

/// The ring.
#[derive(Debug)]
pub struct Events {
    /// Shared with the thread that serves HTTP, which holds it for as long as it takes to count references.
    kept: Arc<Mutex<VecDeque<Arc<Event>>>>,
    listeners: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            kept: Arc::default(),
            listeners: broadcast::Sender::new(SUBSCRIBER_LAG),
        }
    }
}

impl Events {
    /// Takes up what an earlier manager told.
    pub fn restore(&mut self, events: Vec<Event>) {
        *self.kept() = events.into_iter().map(Arc::new).collect();
    }

    /// The last ones, the oldest first.
    pub fn last(&self, most: usize) -> Vec<Event> {
        let kept = self.kept();
        let excess = kept.len().saturating_sub(most);
        kept.iter()
            .skip(excess)
            .map(|event| Event::clone(event))
            .collect()
    }

    /// A change as it will be told.
    pub fn stamp(&self, change: Change, now: Now, seed: u64) -> Arc<Event> {
        Arc::new(Event {
            seq: change.seq,
            at_us: now.wall_us,
            event: change.kind.word().to_owned(),
            unit: change.unit.to_string(),
            invocation: change.invocation.map(|i| invocation_text(seed, i)),
            from: change.from,
            to: change.to,
            cause: change.cause,
        })
    }

    /// Books an event and tells it.
    pub fn tell(&mut self, event: &Arc<Event>) {
        let mut kept = self.kept();
        if kept.len() == EVENTS_KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::clone(event));
        // Nobody listening is no error. Told while the ring is held: who subscribes hears each event once.
        let _ = self.listeners.send(Arc::clone(event));
    }

    /// One of those kept.
    pub fn find(&self, seq: u64) -> Option<Arc<Event>> {
        self.kept().iter().rev().find(|event| event.seq == seq).cloned()
    }

    /// Those kept, and from here on those to come: without a hole or a repeat between the two.
    pub fn subscribe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        (self.kept().iter().cloned().collect(), self.listeners.subscribe())
    }

    /// The same for another thread.
    pub fn recent(&self) -> Recent {
        Recent {
            kept: Arc::clone(&self.kept),
            live: self.listeners.clone(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        // Each change of it is one call: there is no half of one.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which events a client wishes to hear of.
#[derive(Debug, Clone)]
pub struct Wished {
    /// Of these units; absent: of all.
    pub units: Option<BTreeSet<String>>,
    /// With a larger number.
    pub after: Option<u64>,
    /// From this moment on, in µs since 1970.
    pub since_us: Option<u64>,
}

impl Wished {
    fn has(&self, event: &Event) -> bool {
        self.units
            .as_ref()
            .is_none_or(|units| units.contains(&event.unit))
            && self.after.is_none_or(|seq| event.seq > seq)
            && self.since_us.is_none_or(|at| event.at_us >= at)
    }
}

/// Tells what has happened: what memory has not any more, from the disk. `last` is the number of the last event. Without a
/// wish for a beginning, as many as memory would keep.
pub async fn tell_past(
    answers: &Answers,
    folder: &Path,
    kept: Vec<Arc<Event>>,
    last: u64,
    wished: &Wished,
) -> Result<(), Refused> {
    let first_kept = kept.first().map_or(last + 1, |event| event.seq);
    let from = match (wished.after, wished.since_us) {
        (Some(seq), _) => seq,
        (None, Some(_)) => 0,
        (None, None) => last.saturating_sub(EVENTS_KEPT as u64),
    };
    if from + 1 < first_kept {
        tell_recorded(answers, folder, from, first_kept, wished).await?;
    }
    let mut last = None;
    for event in kept {
        if let Some(last) = last
            && event.seq > last + 1
            && wished.after.is_none_or(|after| event.seq > after + 1)
        {
            answers.send(&Reply::Lagged(event.seq - last - 1)).await?;
        }
        last = Some(event.seq);
        if wished.has(&event) {
            answers.send(&Reply::Event(Box::new((*event).clone()))).await?;
        }
    }
    Ok(())
}

/// Tells what the disk has of the events after `from` and before `until`.
async fn tell_recorded(
    answers: &Answers,
    folder: &Path,
    from: u64,
    until: u64,
    wished: &Wished,
) -> Result<(), Refused> {
    let (folder, since_us) = (folder.to_owned(), wished.since_us);
    let read = tokio::task::spawn_blocking(move || match since_us {
        Some(us) => Reading::since_us(&folder, us),
        None => Reading::after(&folder, from),
    });
    let mut reading = match read.await {
        Ok(Ok(reading)) => reading,
        Ok(Err(e)) => {
            let text = format!("the flight recorder cannot be read, so older events are missing: {e}");
            return answers.send(&Reply::Warning(text)).await;
        }
        Err(_) => return Err(Refused::Closed),
    };
    for damage in std::mem::take(&mut reading.damage) {
        answers.send(&Reply::Warning(damage)).await?;
    }
    loop {
        let chunk = reading.next_chunk(RECORDER_CHUNK);
        if chunk.is_empty() {
            return Ok(());
        }
        for entry in chunk {
            let reply = match entry {
                Entry::Event(event) if event.seq >= until => return Ok(()),
                Entry::Event(event) if wished.has(&event) => Reply::Event(Box::new(event)),
                Entry::Event(_) => continue,
                Entry::Missing { from, to } => Reply::Lagged(to.min(until - 1).saturating_sub(from) + 1),
            };
            answers.send(&reply).await?;
        }
    }
}

/// Tells what happens, until the client goes or the node ends.
pub async fn tell_future(answers: Answers, mut live: broadcast::Receiver<Arc<Event>>, wished: &Wished) {
    loop {
        let next = tokio::select! {
            next = live.recv() => next,
            () = answers.closed() => return,
        };
        let reply = match next {
            Ok(event) if wished.has(&event) => Reply::Event(Box::new((*event).clone())),
            Ok(_) => continue,
            Err(RecvError::Lagged(missed)) => Reply::Lagged(missed),
            Err(RecvError::Closed) => return answers.end(),
        };
        if let Err(Refused::Closed) = answers.send(&reply).await {
            return;
        }
    }
}
