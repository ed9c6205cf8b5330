//! What the stories need of the world: one that is loaded by hand, that panics where a promise is broken, and that is asked how
//! its units are.

use std::sync::Arc;

use crate::engine::types::{Event, Plan, RequestId};
use crate::spec::UnitName;

use super::choices::Choices;
use super::draw::Drawn;
use super::make::name;
pub(super) use super::malice::{Fault, Mode, Rates};
pub(super) use super::world::World;

pub(super) const CALM: Rates = Rates::NONE;

/// Everything fails but the manager.
pub(super) fn hostile() -> Rates {
    Rates::of(Mode::Hostile)
}

/// And the manager too.
pub(super) fn crashing() -> Rates {
    hostile().with(Fault::Dies, 100)
}

impl World {
    pub(super) fn new(seed: u64, plan: Arc<Plan>, rates: Rates) -> Self {
        let drawn = |unit: &Arc<crate::spec::UnitSpec>| Drawn {
            spec: crate::spec::UnitSpec::clone(unit),
            is_member: true,
        };
        let first = plan.units.values().map(drawn).collect();
        let mut world = Self::with(Choices::seeded(seed), rates, plan, first, seed);
        world.is_story = true;
        world.is_thorough = rates.of_fault(Fault::Dies) > 0;
        world.trace = Some(Vec::new());
        world
    }

    pub(super) fn fail(&self, why: &str) -> ! {
        let lines = self.trace.as_deref().unwrap_or_default();
        let tail = &lines[lines.len().saturating_sub(40)..];
        panic!("seed {}: {why}\n{}", self.seed, tail.join("\n"))
    }

    /// Lets time pass until `end` (in s), or until nothing is left to happen, with so many requests.
    pub(super) fn run(&mut self, end: u64, requests: u32) {
        let end = end * 1_000_000_000;
        self.size.requests = requests;
        if requests > 0 {
            self.request_later(1, 0);
        }
        while self.advance(end) {}
    }

    /// The states of the first units, in the words of the tables.
    pub(super) fn words(&self, count: usize) -> Vec<String> {
        let word = |i| self.engine.find(&name(i)).expect("known").1.state.word();
        (0..count)
            .map(|i| format!("{:?}", word(i)).to_lowercase())
            .collect()
    }

    pub(super) fn shut_down(&mut self) {
        if self.closing.is_none() && self.finished.is_none() {
            self.ask_to_end();
        }
        self.run(self.now / 1_000_000_000 + 7200, 0);
    }

    /// The requests that somebody waits for.
    pub(super) fn open_or_answered(&self) -> std::collections::BTreeSet<RequestId> {
        self.asked
            .iter()
            .filter(|(_, asked)| !asked.is_forgotten)
            .map(|(id, _)| *id)
            .collect()
    }

    /// The files are loaded.
    pub(super) fn tell_loaded(&mut self) -> &mut Self {
        let plan = Arc::clone(&self.plan);
        self.tell(Event::Loaded(plan));
        self
    }

    pub(super) fn is_there(&self, unit: &UnitName) -> bool {
        self.live.values().any(|process| process.unit == *unit)
    }
}
