//! Failures of the simulated world: each is of one life and one event, and none is missing.

use std::collections::BTreeSet;

use proto::reply::State as Word;

use crate::engine::types::{ChangeKind, Failure};

use super::invariants::Invariant;
use super::world::World;

impl World {
    /// A failure is told once for each event, or, by a manager that died over it, the same again.
    pub(super) fn note_failure(&mut self, failure: Failure) {
        let place = usize::try_from(failure.seq).unwrap_or(0).wrapping_sub(1);
        let Some(told) = self.kept.heard.get(place) else {
            let text = format!("{failure:?} is of an event that was not told");
            return self.broken(Invariant::StateMachine, text);
        };
        let is_its = told.unit == failure.unit && told.invocation == Some(failure.invocation);
        let is_new = self
            .failures
            .get(&failure.seq)
            .is_none_or(|known| *known == failure);
        self.hold(Invariant::StateMachine, is_its && is_new, |_| {
            format!("{failure:?} is not of the life of its event, or of one that was told already")
        });
        self.failures.insert(failure.seq, failure);
    }

    /// Every failure that events tell of was told with all that is known of it, and no life failed twice.
    pub(super) fn check_failures(&mut self) {
        let missing = self.kept.heard.iter().find(|told| {
            // A process from outside that could not be taken over is no life that failed.
            let is_one = told.kind == ChangeKind::Failed && told.to == Word::Stopping;
            is_one && !self.failures.contains_key(&told.seq)
        });
        if let Some(told) = missing {
            let text = format!("the failure of {told:?} was never told");
            self.broken(Invariant::StateMachine, text);
        }
        let lives: BTreeSet<_> = self.failures.values().map(|failure| failure.invocation).collect();
        if lives.len() != self.failures.len() {
            self.broken(Invariant::StateMachine, "a life failed twice".to_owned());
        }
    }
}
