//! Holds: an operator's word that a unit is not to be started by anything, until it is taken back or has expired.

use proto::reply::Hold;
use serde::{Deserialize, Serialize};

use super::snapshot::NewClock;
use super::types::Mono;

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
