//! What waits for the disk: handed over by the manager's loop, which never waits here, and taken by the writer. A base
//! makes all changes before it superfluous, so the queue holds one base and what came after it, and is bounded.
//!
//! Read first: [`Queue`] and [`Batch`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{oneshot, watch};

use crate::limits::{RECORDER_QUEUE, STATE_QUEUE_BYTES};

/// How the folder of state is, for `status` and for the manager's loop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The disk has not all changes, and a whole state should be handed over now.
    pub wants_base: bool,
    /// Why the state is not on disk at present; healed when absent.
    pub degraded: Option<String>,
    /// Why events are not on disk at present.
    pub recorder_degraded: Option<String>,
    /// Events that the flight recorder misses for that reason.
    pub events_dropped: u64,
}

/// Told when what was handed over before is safe from the machine's death, or why it is not.
pub type Promise = oneshot::Sender<Result<(), String>>;

/// What the writer does in one go: the base, the deltas, the events; then one sync for all promises.
#[derive(Debug, Default)]
pub struct Batch {
    /// A whole state.
    pub base: Option<Vec<u8>>,
    /// Changes after it, or after what the disk has.
    pub deltas: Vec<Vec<u8>>,
    /// For the flight recorder: number and text.
    pub events: Vec<(u64, Vec<u8>)>,
    /// To be told when all that is synced.
    pub promises: Vec<Promise>,
    /// Nothing comes after it.
    pub is_last: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    /// Of the deltas.
    bytes: usize,
    /// A change was not kept: only a whole state helps.
    is_behind: bool,
    /// No base is asked for until the writer says so.
    is_backing_off: bool,
    events_dropped: u64,
    is_over: bool,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    status: watch::Sender<Status>,
    /// The number of the last recorded event.
    recorded: AtomicU64,
}

impl Default for Queue {
    /// Behind from the beginning: what the disk has is not known to be what the manager has.
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                is_behind: true,
                ..Waiting::default()
            }),
            wake: Condvar::new(),
            status: watch::Sender::new(Status {
                wants_base: true,
                ..Status::default()
            }),
            recorded: AtomicU64::new(0),
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To look at the status and to be told of its changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Publishes what changed, and wakes those who watch only then.
    fn publish(&self, waiting: &Waiting, change: impl FnOnce(&mut Status)) {
        let wants_base = waiting.is_behind && !waiting.is_backing_off && !waiting.is_over;
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            status.wants_base = wants_base;
            status.events_dropped = waiting.events_dropped;
            *status != before
        });
    }

    /// A change.
    pub fn delta(&self, delta: Vec<u8>) {
        let mut waiting = self.lock();
        if waiting.is_behind || waiting.is_over {
            return;
        }
        if waiting.bytes + delta.len() > STATE_QUEUE_BYTES {
            waiting.is_behind = true;
            self.publish(&waiting, |_| {});
            return;
        }
        waiting.bytes += delta.len();
        waiting.batch.deltas.push(delta);
        self.wake.notify_one();
    }

    /// A whole state, which covers every change before it.
    pub fn base(&self, base: Vec<u8>) {
        let mut waiting = self.lock();
        if waiting.is_over {
            return;
        }
        waiting.put(base);
        self.publish(&waiting, |_| {});
        self.wake.notify_one();
    }

    /// Asks to be told when all that was handed over is on disk.
    pub fn promise(&self) -> oneshot::Receiver<Result<(), String>> {
        let (promise, answer) = oneshot::channel();
        let mut waiting = self.lock();
        let refusal = if waiting.is_over {
            Some("ringriftd is ending".to_owned())
        } else if waiting.is_behind && waiting.is_backing_off {
            // A base comes only after the pause: nobody should wait for that.
            self.status.borrow().degraded.clone()
        } else {
            None
        };
        match refusal {
            Some(why) => {
                // Who asked has gone: nothing to tell.
                let _ = promise.send(Err(why));
            }
            None => {
                waiting.batch.promises.push(promise);
                self.wake.notify_one();
            }
        }
        answer
    }

    /// An event for the flight recorder.
    pub fn event(&self, seq: u64, text: Vec<u8>) {
        let mut waiting = self.lock();
        if waiting.is_over {
            return;
        }
        if waiting.batch.events.len() >= RECORDER_QUEUE {
            waiting.events_dropped += 1;
            self.publish(&waiting, |_| {});
            return;
        }
        waiting.batch.events.push((seq, text));
        self.wake.notify_one();
    }

    /// The last state of an orderly end, if there is one, and nothing after it.
    pub fn end(&self, base: Option<Vec<u8>>) -> oneshot::Receiver<Result<(), String>> {
        let (promise, answer) = oneshot::channel();
        let mut waiting = self.lock();
        if let Some(base) = base {
            waiting.put(base);
        }
        waiting.batch.promises.push(promise);
        waiting.is_over = true;
        self.publish(&waiting, |_| {});
        self.wake.notify_one();
        answer
    }

    /// Waits for work, until `wake_at` at the latest; then the batch is empty.
    pub fn take(&self, wake_at: Option<Instant>) -> Batch {
        let mut waiting = self.lock();
        loop {
            if waiting.has_work() {
                return waiting.take();
            }
            waiting = match wake_at {
                None => self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Batch::default();
                    }
                    let (waiting, _) = self
                        .wake
                        .wait_timeout(waiting, left)
                        .unwrap_or_else(PoisonError::into_inner);
                    waiting
                }
            };
        }
    }

    /// The disk refused: until [`Queue::again`] no base is asked for, and every promise is broken, except when a base
    /// has come meanwhile.
    pub fn failed(&self, why: &str) -> Vec<Promise> {
        let mut waiting = self.lock();
        let mut broken = Vec::new();
        if waiting.batch.base.is_none() {
            waiting.batch.deltas.clear();
            waiting.bytes = 0;
            waiting.is_behind = true;
            broken.append(&mut waiting.batch.promises);
        }
        waiting.is_backing_off = true;
        self.publish(&waiting, |status| status.degraded = Some(why.to_owned()));
        broken
    }

    /// The pause after a failure is over.
    pub fn again(&self) {
        let mut waiting = self.lock();
        waiting.is_backing_off = false;
        self.publish(&waiting, |_| {});
    }

    /// A base is on disk.
    pub fn healed(&self) {
        let mut waiting = self.lock();
        waiting.is_backing_off = false;
        self.publish(&waiting, |status| status.degraded = None);
    }

    /// The number of the last event that the flight recorder has, or 0.
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// The flight recorder has all it was given up to this one.
    pub fn set_recorded(&self, seq: u64) {
        self.recorded.store(seq, Ordering::Relaxed);
    }

    /// How the flight recorder fares: `dropped` more are missing, for this reason.
    pub fn recorder(&self, dropped: u64, degraded: Option<String>) {
        let mut waiting = self.lock();
        waiting.events_dropped += dropped;
        self.publish(&waiting, |status| status.recorder_degraded = degraded);
    }
}

impl Waiting {
    fn put(&mut self, base: Vec<u8>) {
        self.batch.base = Some(base);
        self.batch.deltas.clear();
        self.bytes = 0;
        self.is_behind = false;
    }

    fn has_work(&self) -> bool {
        let batch = &self.batch;
        batch.base.is_some()
            || !batch.deltas.is_empty()
            || !batch.events.is_empty()
            || (!batch.promises.is_empty() && !self.is_behind)
            || self.is_over
    }

    fn take(&mut self) -> Batch {
        self.bytes = 0;
        let mut batch = std::mem::take(&mut self.batch);
        batch.is_last = self.is_over;
        if self.is_behind && self.is_over {
            for promise in batch.promises.drain(..) {
                // Who asked has gone: nothing to tell.
                let _ = promise.send(Err(
                    "ringriftd ended before its whole state was on disk".to_owned()
                ));
            }
        } else if self.is_behind {
            // They wait for the base that is asked for.
            self.batch.promises = std::mem::take(&mut batch.promises);
        }
        batch
    }
}
