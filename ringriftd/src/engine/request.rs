//! Who waits for what: requests under way, and the verdict on each of their units. A request is answered exactly
//! once, when every one of its units has its verdict, or when it is refused at the door.
//!
//! Everything that happens to a request is a [`RequestChange`], applied by [`RequestChange::apply`] to the engine's own table
//! and, told on, to the stored one.

use std::collections::{BTreeMap, BTreeSet};

use proto::reply::Outcome;
use serde::{Deserialize, Serialize};

use super::types::{Mono, RequestId, UnitAnswer};
use crate::ids::Invocation;
use crate::spec::UnitName;

/// What a request waits for in one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goal {
    /// Ready, in a life other than this one; or its first attempt failed.
    Up {
        /// The life that was there when a restart was asked for.
        other_than: Option<Invocation>,
    },
    /// Nothing of it is left.
    Down,
    /// Its reload commands are through.
    Reloaded {
        /// In this life.
        invocation: Invocation,
    },
}

/// A request under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// When it came.
    pub begun: Mono,
    /// What is still waited for.
    pub open: BTreeMap<UnitName, Goal>,
    /// What came of the others.
    pub verdicts: BTreeMap<UnitName, UnitAnswer>,
}

/// Something that happened to a request under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestChange {
    /// It was taken.
    Opened {
        /// Which.
        id: RequestId,
        /// When.
        begun: Mono,
        /// What it waits for.
        goals: BTreeMap<UnitName, Goal>,
    },
    /// One of its units has its verdict.
    Decided {
        /// Which.
        id: RequestId,
        /// The verdict.
        answer: UnitAnswer,
    },
    /// It was answered, or nobody waits for it any more.
    Closed {
        /// Which.
        id: RequestId,
    },
}

impl RequestChange {
    /// Books the change in a table of requests under way.
    pub fn apply(self, pending: &mut BTreeMap<RequestId, Pending>) {
        match self {
            Self::Opened { id, begun, goals } => {
                pending.insert(
                    id,
                    Pending {
                        begun,
                        open: goals,
                        verdicts: BTreeMap::new(),
                    },
                );
            }
            Self::Decided { id, answer } => {
                if let Some(pending) = pending.get_mut(&id) {
                    pending.open.remove(&answer.unit);
                    pending.verdicts.insert(answer.unit.clone(), answer);
                }
            }
            Self::Closed { id } => {
                pending.remove(&id);
            }
        }
    }
}

/// All requests under way.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    pending: BTreeMap<RequestId, Pending>,
    watched: BTreeMap<UnitName, BTreeSet<RequestId>>,
    changes: Vec<RequestChange>,
}

impl Requests {
    /// Those that were under way before; nothing has changed since.
    pub fn restored(pending: BTreeMap<RequestId, Pending>) -> Self {
        let mut watched: BTreeMap<UnitName, BTreeSet<RequestId>> = BTreeMap::new();
        for (id, request) in &pending {
            for unit in request.open.keys() {
                watched.entry(unit.clone()).or_default().insert(*id);
            }
        }
        Self {
            pending,
            watched,
            changes: Vec::new(),
        }
    }

    /// All that are under way.
    pub fn pending(&self) -> &BTreeMap<RequestId, Pending> {
        &self.pending
    }

    /// What happened since this was last asked.
    pub fn take_changes(&mut self) -> Vec<RequestChange> {
        std::mem::take(&mut self.changes)
    }

    fn change(&mut self, change: RequestChange) {
        self.changes.push(change.clone());
        change.apply(&mut self.pending);
    }

    /// Takes a request with what it waits for. One without units is answered by the next [`Requests::take_done`].
    pub fn open(&mut self, id: RequestId, begun: Mono, goals: impl IntoIterator<Item = (UnitName, Goal)>) {
        let goals: BTreeMap<UnitName, Goal> = goals.into_iter().collect();
        for unit in goals.keys() {
            self.watched.entry(unit.clone()).or_default().insert(id);
        }
        self.change(RequestChange::Opened { id, begun, goals });
    }

    /// The open goals that concern a unit.
    pub fn goals_of(&self, unit: &UnitName) -> Vec<(RequestId, Goal)> {
        let ids = self.watched.get(unit).into_iter().flatten();
        ids.filter_map(|id| Some((*id, *self.pending.get(id)?.open.get(unit)?)))
            .collect()
    }

    /// Books a verdict. Only the first one of each unit counts.
    pub fn decide(&mut self, id: RequestId, now: Mono, mut answer: UnitAnswer) {
        let Some(pending) = self.pending.get(&id) else {
            return;
        };
        if !pending.open.contains_key(&answer.unit) {
            return;
        }
        answer.took = now.since(pending.begun);
        self.unwatch(id, &answer.unit);
        self.change(RequestChange::Decided { id, answer });
    }

    fn unwatch(&mut self, id: RequestId, unit: &UnitName) {
        if let Some(ids) = self.watched.get_mut(unit) {
            ids.remove(&id);
            if ids.is_empty() {
                self.watched.remove(unit);
            }
        }
    }

    /// A request that has all its verdicts, if there is one; it is forgotten.
    pub fn take_done(&mut self) -> Option<(RequestId, Vec<UnitAnswer>)> {
        let (&id, pending) = self.pending.iter().find(|(_, p)| p.open.is_empty())?;
        let answers = pending.verdicts.values().cloned().collect();
        self.change(RequestChange::Closed { id });
        Some((id, answers))
    }

    /// Nobody waits for it any more.
    pub fn forget(&mut self, id: RequestId) {
        let Some(pending) = self.pending.get(&id) else {
            return;
        };
        let units: Vec<UnitName> = pending.open.keys().cloned().collect();
        for unit in units {
            self.unwatch(id, &unit);
        }
        self.change(RequestChange::Closed { id });
    }
}

/// A verdict without frills.
pub fn verdict(unit: &UnitName, outcome: Outcome, text: impl Into<String>) -> UnitAnswer {
    UnitAnswer {
        unit: unit.clone(),
        outcome,
        text: text.into(),
        killed: false,
        remains: Vec::new(),
        next_try: None,
        took: std::time::Duration::ZERO,
    }
}
