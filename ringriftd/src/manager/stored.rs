//! Descriptors that units have kept for their next lives. The keeper holds them; the manager says what is kept, says when
//! it is dropped, and has copies, so that a manager that takes a dead keeper's place brings them along.
//!
//! They stay as long as the unit is on its way to a next life: over its restarts, its back-off, and whatever keeps it
//! waiting. When it is down and nothing will start it by itself (an operator stopped it, it completed, it failed for good,
//! its file went) they are dropped, as by systemd's `FileDescriptorStorePreserve=restart`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use super::core::Manager;
use crate::engine::unit::{State, Unit};
use crate::ids::Invocation;
use crate::keeper::wire::ToKeeper;
use crate::limits::WIRE_FDS_MAX;
use crate::spec::UnitName;

/// One that the keeper has.
#[derive(Debug)]
pub struct Copy {
    /// Whose: the unit's name.
    pub tag: String,
    /// Its name.
    pub name: String,
    /// It is dropped when its other end hangs up.
    pub is_polled: bool,
    /// It.
    pub fd: OwnedFd,
}

/// Copies of all that the keeper has, by its numbers.
pub type Copies = BTreeMap<u64, Copy>;

/// How many each unit has.
pub fn counts(copies: &Copies) -> BTreeMap<&str, u32> {
    let mut counts = BTreeMap::new();
    for copy in copies.values() {
        *counts.entry(copy.tag.as_str()).or_insert(0) += 1;
    }
    counts
}

/// Nothing will start it by itself.
fn is_down(unit: &Unit) -> bool {
    match &unit.state {
        State::Stopped | State::Completed | State::Failed { next_try: None } => true,
        State::Waiting
        | State::Starting { .. }
        | State::Running { .. }
        | State::Reloading { .. }
        | State::Stopping { .. }
        | State::Backoff { .. }
        | State::Failed { next_try: Some(_) } => false,
    }
}

impl Manager {
    /// A unit wants these kept. Said again by a unit whose datagram an earlier manager passed on already, they are the same
    /// to the keeper.
    pub(super) fn store(&mut self, life: Invocation, name: &str, is_polled: bool, fds: Vec<OwnedFd>) {
        let spec = self
            .engine
            .unit_of(life)
            .and_then(|unit| unit.state.life())
            .map(|life| std::sync::Arc::clone(&life.spec));
        let Some(spec) = spec else { return };
        let mut fds = fds.into_iter();
        loop {
            let some: Vec<OwnedFd> = fds.by_ref().take(WIRE_FDS_MAX).collect();
            if some.is_empty() {
                return;
            }
            let message = ToKeeper::Store {
                tag: spec.name.as_str().to_owned(),
                name: name.to_owned(),
                is_polled,
                most: spec.exec.fd_store_max,
            };
            if let Err(e) = self.keeper.send(&message, some) {
                tracing::error!("{}: cannot pass descriptors to the keeper: {e}", spec.name);
            }
        }
    }

    /// A unit wants those of this name kept no longer.
    pub(super) fn unstore(&mut self, life: Invocation, name: &str) {
        let unit = self.engine.unit_of(life).map(|unit| unit.spec.name.clone());
        if let Some(unit) = unit {
            self.send(&ToKeeper::Unstore {
                tag: unit.as_str().to_owned(),
                name: Some(name.to_owned()),
            });
        }
    }

    /// Drops what belongs to units that will not start again by themselves.
    pub(super) fn drop_stored(&mut self) {
        let tags: BTreeSet<&str> = self.stored.values().map(|copy| copy.tag.as_str()).collect();
        let is_over = |tag: &&str| {
            UnitName::new(tag)
                .and_then(|name| self.engine.find(&name).map(|(_, unit)| is_down(unit)))
                .unwrap_or(true)
        };
        let over: Vec<String> = tags.into_iter().filter(is_over).map(str::to_owned).collect();
        for tag in over {
            self.send(&ToKeeper::Unstore { tag, name: None });
        }
    }
}
