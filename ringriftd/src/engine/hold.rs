//! Holds: an operator's word that a unit is not to be started by anything, until it is taken back or has expired.
//!
//! A hold changes nothing of what is wanted, and nothing of a life that there is. A unit without a life stays where it is:
//! wanted up it waits, and those that require it are told that it does not come. What a hold is for outlives everything
//! (restarts of ringriftd, reboots) but the unit's own file.

use std::collections::BTreeSet;

use proto::reply::{By, Cause, CauseKind, Hold, Outcome};
use serde::{Deserialize, Serialize};

use super::cause;
use super::machine::Engine;
use super::request::verdict;
use super::snapshot::NewClock;
use super::types::{Action, ChangeKind, Mono, Refusal, RequestAnswer, RequestId};
use super::unit::State;
use crate::graph::Ix;

/// A unit's hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Who, why, since when, and until when: on the wall clock, for people.
    pub hold: Hold,
    /// When it expires, on the engine's own clock; absent: when it is taken back.
    pub until: Option<Mono>,
}

impl Held {
    pub(super) fn on_other_clock(&self, clock: NewClock) -> Self {
        Self {
            hold: self.hold.clone(),
            until: self.until.map(|at| clock.to_come(at)),
        }
    }
}

/// `held by uid 0 (pid 12): disk is being changed`
pub fn hold_text(hold: &Hold) -> String {
    let by = format!("held by uid {} (pid {})", hold.by.uid, hold.by.pid);
    match &hold.note {
        Some(note) => format!("{by}: {note}"),
        None => by,
    }
}

impl Engine {
    /// A start of a held unit is refused; one that runs is not started by it.
    pub(super) fn refuse_held(&self, roots: &BTreeSet<Ix>, may_run: bool) -> Result<(), Refusal> {
        for &ix in roots {
            let unit = self.unit(ix);
            if let Some(held) = &unit.hold
                && !(may_run && unit.state.is_active())
            {
                return Err(Refusal::Held {
                    unit: unit.spec.name.clone(),
                    hold: Box::new(held.hold.clone()),
                });
            }
        }
        Ok(())
    }

    pub(super) fn hold(&mut self, id: RequestId, roots: &BTreeSet<Ix>, held: &Held) {
        let cause = Cause {
            text: hold_text(&held.hold),
            ..cause::command(&held.hold.by)
        };
        let mut answers = Vec::new();
        for &ix in roots {
            let unit = self.unit(ix);
            let text = match (&unit.hold, unit.state.life()) {
                (Some(old), _) => format!("held; it was {}", hold_text(&old.hold)),
                (None, Some(_)) => "held; it goes on until it ends".to_owned(),
                (None, None) => "held".to_owned(),
            };
            answers.push(verdict(&unit.spec.name, Outcome::Done, text));
            self.set_hold(ix, Some(held.clone()), cause.clone());
        }
        self.actions.push_back(Action::Reply {
            id,
            answer: RequestAnswer::Done(answers),
        });
    }

    pub(super) fn unhold(&mut self, id: RequestId, roots: &BTreeSet<Ix>, by: &By) {
        let mut answers = Vec::new();
        for &ix in roots {
            let unit = self.unit(ix);
            let name = unit.spec.name.clone();
            match &unit.hold {
                Some(old) => {
                    let text = format!("no longer {}", hold_text(&old.hold));
                    answers.push(verdict(&name, Outcome::Done, text));
                    self.end_hold(ix, cause::command(by));
                }
                None => answers.push(verdict(&name, Outcome::Already, "was not held")),
            }
        }
        self.actions.push_back(Action::Reply {
            id,
            answer: RequestAnswer::Done(answers),
        });
    }

    /// Ends the hold if its time is up.
    pub(super) fn expire_hold(&mut self, ix: Ix) {
        let now = self.now;
        let is_over = |held: &Held| held.until.is_some_and(|at| at <= now);
        if let Some(held) = self.unit(ix).hold.as_ref().filter(|held| is_over(held)) {
            let text = format!("no longer {}: its time is up", hold_text(&held.hold));
            let cause = self.own_cause(ix, CauseKind::Timer, text);
            self.end_hold(ix, cause);
        }
    }

    fn end_hold(&mut self, ix: Ix, cause: Cause) {
        if self.unit(ix).state == State::Waiting {
            // That it could not come up was the hold's doing.
            self.unit_mut(ix).attempt_failed = false;
        }
        self.set_hold(ix, None, cause);
    }

    fn set_hold(&mut self, ix: Ix, hold: Option<Held>, cause: Cause) {
        let now = self.now;
        let unit = self.unit_mut(ix);
        unit.hold = hold;
        let (from, to) = (unit.word, unit.shown());
        unit.word = to;
        if from != to {
            unit.since = now;
        }
        self.rearm(ix);
        self.emit(ix, ChangeKind::StatusChanged, from, to, cause);
        self.mark_around(ix);
    }
}
