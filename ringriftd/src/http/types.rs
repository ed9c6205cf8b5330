//! What the HTTP thread is given.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use proto::reply::{Capsule, Event, LogLine};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::counts::HttpAsked;
use crate::door::HttpSpec;
use crate::published::Published;

/// What it reads.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The units and the node.
    pub published: Arc<Published>,
    /// What has happened lately, and what happens.
    pub events: Recent,
    /// The folder of the flight recorder.
    pub recorder: PathBuf,
    /// Takes questions for the logger.
    pub tails: mpsc::Sender<TailAsked>,
    /// Takes what was asked, to remember how often.
    pub counted: mpsc::Sender<HttpAsked>,
}

/// The events that memory has, and those to come.
#[derive(Debug, Clone)]
pub struct Recent {
    /// The oldest first.
    pub kept: Arc<Mutex<VecDeque<Arc<Event>>>>,
    /// Who tells.
    pub live: broadcast::Sender<Arc<Event>>,
}

impl Recent {
    /// Those kept after number `seq`, and from here on those to come: without a hole or a repeat between the two.
    pub fn after(&self, seq: u64) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let from = kept.partition_point(|event| event.seq <= seq);
        (kept.iter().skip(from).cloned().collect(), self.live.subscribe())
    }

    /// The number of the newest that is kept.
    pub fn last(&self) -> Option<u64> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.back().map(|event| event.seq)
    }

    /// The number of the oldest that is kept.
    pub fn first(&self) -> Option<u64> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.front().map(|event| event.seq)
    }
}

/// A unit's last lines are wanted.
#[derive(Debug)]
pub struct TailAsked {
    /// Of this unit.
    pub unit: String,
    /// Takes them, and its failures with theirs; dropped where there are none to be had.
    pub answer: oneshot::Sender<(Vec<LogLine>, Vec<Capsule>)>,
}

/// What the thread is told.
#[derive(Debug)]
pub enum Order {
    /// Accept here.
    Listen(OwnedFd, HttpSpec),
    /// Accept nowhere.
    Close,
}

/// The thread, as its owner sees it. It ends when this is dropped.
#[derive(Debug)]
pub struct Handle {
    /// Takes orders.
    pub orders: mpsc::UnboundedSender<Order>,
}

impl Handle {
    /// Accept on `listener` from here on, by the rules of `spec`.
    pub fn listen(&self, listener: OwnedFd, spec: HttpSpec) {
        // A thread that has ended serves nobody.
        let _ = self.orders.send(Order::Listen(listener, spec));
    }

    /// Accept no more.
    pub fn close(&self) {
        let _ = self.orders.send(Order::Close);
    }
}
