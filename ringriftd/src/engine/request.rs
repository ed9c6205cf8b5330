//! Who waits for what: requests under way, and the verdict on each of their units. A request is answered exactly
//! once, when every one of its units has its verdict, or when it is refused at the door.

use std::collections::{BTreeMap, BTreeSet};

use proto::reply::Outcome;

use super::types::{Mono, RequestId, UnitAnswer};
use crate::ids::Invocation;
use crate::spec::UnitName;

/// What a request waits for in one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone)]
pub struct Pending {
    /// When it came.
    pub begun: Mono,
    open: BTreeMap<UnitName, Goal>,
    verdicts: BTreeMap<UnitName, UnitAnswer>,
}

/// All requests under way.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    pending: BTreeMap<RequestId, Pending>,
    watched: BTreeMap<UnitName, BTreeSet<RequestId>>,
}

impl Requests {
    /// Takes a request with what it waits for. One without units is answered by the next [`Requests::take_done`].
    pub fn open(&mut self, id: RequestId, begun: Mono, goals: impl IntoIterator<Item = (UnitName, Goal)>) {
        let open: BTreeMap<UnitName, Goal> = goals.into_iter().collect();
        for unit in open.keys() {
            self.watched.entry(unit.clone()).or_default().insert(id);
        }
        self.pending.insert(
            id,
            Pending {
                begun,
                open,
                verdicts: BTreeMap::new(),
            },
        );
    }

    /// The open goals that concern a unit.
    pub fn goals_of(&self, unit: &UnitName) -> Vec<(RequestId, Goal)> {
        let ids = self.watched.get(unit).into_iter().flatten();
        ids.filter_map(|id| Some((*id, *self.pending.get(id)?.open.get(unit)?)))
            .collect()
    }

    /// Books a verdict. Only the first one of each unit counts.
    pub fn decide(&mut self, id: RequestId, now: Mono, mut answer: UnitAnswer) {
        let Some(pending) = self.pending.get_mut(&id) else {
            return;
        };
        if pending.open.remove(&answer.unit).is_none() {
            return;
        }
        answer.took = now.since(pending.begun);
        if let Some(ids) = self.watched.get_mut(&answer.unit) {
            ids.remove(&id);
            if ids.is_empty() {
                self.watched.remove(&answer.unit);
            }
        }
        pending.verdicts.insert(answer.unit.clone(), answer);
    }

    /// A request that has all its verdicts, if there is one; it is forgotten.
    pub fn take_done(&mut self) -> Option<(RequestId, Vec<UnitAnswer>)> {
        let id = *self.pending.iter().find(|(_, p)| p.open.is_empty())?.0;
        let pending = self.pending.remove(&id)?;
        Some((id, pending.verdicts.into_values().collect()))
    }

    /// Nobody waits for it any more.
    pub fn forget(&mut self, id: RequestId) {
        if let Some(pending) = self.pending.remove(&id) {
            for unit in pending.open.keys() {
                if let Some(ids) = self.watched.get_mut(unit) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.watched.remove(unit);
                    }
                }
            }
        }
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
