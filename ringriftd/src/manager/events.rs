//! The node's memory of changes: a bounded ring in memory, and those who listen. Every event has the number that the
//! engine gave it, so that a reader sees a hole and is told how large it is.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::reply::Event;
use tokio::sync::broadcast;

use crate::clock::Now;
use crate::engine::types::Change;
use crate::ids::invocation_text;
use crate::limits::{EVENTS_KEPT, SUBSCRIBER_LAG};

/// The ring.
#[derive(Debug)]
pub struct Events {
    kept: VecDeque<Arc<Event>>,
    listeners: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            listeners: broadcast::Sender::new(SUBSCRIBER_LAG),
        }
    }
}

impl Events {
    /// Books a change and tells it.
    pub fn record(&mut self, change: Change, now: Now, seed: u64) -> Arc<Event> {
        let event = Arc::new(Event {
            seq: change.seq,
            at_us: now.wall_us,
            event: change.kind.word().to_owned(),
            unit: change.unit.to_string(),
            invocation: change.invocation.map(|i| invocation_text(seed, i)),
            from: change.from,
            to: change.to,
            cause: change.cause,
        });
        if self.kept.len() == EVENTS_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::clone(&event));
        // Nobody listening is no error.
        let _ = self.listeners.send(Arc::clone(&event));
        event
    }

    /// Those kept, and from here on those to come: without a hole or a repeat between the two.
    pub fn subscribe(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        (self.kept.iter().cloned().collect(), self.listeners.subscribe())
    }
}
