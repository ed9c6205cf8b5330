//! The manager of the simulated world: it stores what every event changed before it does anything, and may die before that,
//! after it, or with half of its actions done. The next one restores the engine from what was stored, written as JSON and read
//! back, does all of the last actions again, hears from the keeper what it knows, and goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::reply::Exit;

use crate::engine::machine::Engine;
use crate::engine::snapshot::{Delta, Snapshot};
use crate::engine::types::{Action, Change, Event, Mono};
use crate::ids::LaunchId;

use super::world::World;

/// Deaths within one recovery.
const DEATHS_AT_ONCE: u32 = 3;

/// What outlives the manager.
#[derive(Default)]
pub(super) struct Kept {
    /// The engine, as the deltas built it up.
    pub(super) stored: Snapshot,
    /// The keeper's launches, until they are released.
    pub(super) held: BTreeMap<LaunchId, Told>,
    /// The flight recorder.
    pub(super) heard: Vec<Change>,
    /// How often the manager died.
    pub(super) deaths: u32,
    /// Recoveries under way.
    depth: u32,
}

/// What the keeper has said of a launch, and says again to the next manager.
#[derive(Default)]
pub(super) struct Told {
    pub(super) pid: Option<u32>,
    pub(super) exit: Option<(Exit, Vec<u32>)>,
    pub(super) is_empty: bool,
}

/// The keeper says it again by itself; or, for a launch that failed, is asked again.
pub(super) fn is_told_by_inventory(event: &Event) -> bool {
    match event {
        Event::Launched { .. }
        | Event::LaunchFailed { .. }
        | Event::Exited { .. }
        | Event::Emptied { .. }
        | Event::Lost { .. } => true,
        Event::Loaded(_)
        | Event::Request { .. }
        | Event::Forget { .. }
        | Event::Shutdown { .. }
        | Event::Unkillable { .. }
        | Event::MainFound { .. }
        | Event::MainMissing { .. }
        | Event::Ready { .. }
        | Event::Stopping { .. }
        | Event::Reloading { .. }
        | Event::MainChanged { .. }
        | Event::Extend { .. }
        | Event::Used { .. }
        | Event::Tick => false,
    }
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("it can be written");
    serde_json::from_str(&text).expect("it can be read")
}

fn drain(engine: &mut Engine) -> Vec<Action> {
    std::iter::from_fn(|| engine.poll_action()).collect()
}

impl World {
    /// The manager dies now.
    pub(super) fn strikes(&mut self) -> bool {
        let crashes = self.malice.crashes;
        crashes > 0
            && self.kept.stored.node.loaded
            && self.kept.depth < DEATHS_AT_ONCE
            && self.dice.percent(crashes)
    }

    /// One event (or, without one, the end of a recovery) as the manager takes it: the engine first, then what has changed is
    /// stored, then the actions are done, or some of them.
    pub(super) fn step(&mut self, event: Option<Event>) {
        let is_watched = self.malice.crashes > 0;
        let now = Mono(self.now);
        let mut twin = None;
        match event {
            Some(event) => {
                if is_watched && self.kept.stored.node.loaded {
                    let mut engine = Engine::restore(self.kept.stored.clone(), &self.plan);
                    engine.handle(now, event.clone());
                    twin = Some(drain(&mut engine));
                }
                if let Event::Loaded(plan) = &event {
                    self.plan = Arc::clone(plan);
                }
                self.engine.handle(now, event);
            }
            None => self.engine.resume(now),
        }
        let actions = drain(&mut self.engine);
        let delta: Delta = self.engine.take_delta();
        if is_watched {
            self.kept.stored.apply(through_json(&delta));
            if self.kept.stored != self.engine.snapshot() {
                self.fail("what was stored piece by piece is not the whole");
            }
            if twin.is_some_and(|twin| twin != actions) {
                self.fail("a restored engine does something else");
            }
        }
        let broken = self.engine.broken_invariants();
        if !broken.is_empty() {
            self.fail(&broken.join("; "));
        }
        let is_dying = self.strikes();
        let done = if is_dying {
            self.dice.below(actions.len() as u64 + 1) as usize
        } else {
            actions.len()
        };
        for action in actions.iter().take(done).cloned() {
            self.say(&action);
            self.obey(action);
        }
        if is_dying {
            let mut rest = actions;
            // Launches are asked for anew by the engine; signals carry a number and answers a token: none is repeated.
            let mut place = 0;
            rest.retain(|action| {
                place += 1;
                let is_done = place <= done;
                match action {
                    Action::Launch { .. } | Action::AdoptForeign { .. } => false,
                    Action::Signal { .. } | Action::Reply { .. } => !is_done,
                    Action::Destroy { .. }
                    | Action::FindMain { .. }
                    | Action::Release { .. }
                    | Action::Emit(_)
                    | Action::Worked { .. }
                    | Action::Failed(_)
                    | Action::Finish { .. } => true,
                }
            });
            self.crash(rest);
        }
    }

    fn say(&mut self, action: &Action) {
        if !matches!(action, Action::Emit(_)) {
            self.trace
                .push(format!("              -> {action:?}").chars().take(110).collect());
        }
    }

    /// The flight recorder takes each number once.
    pub(super) fn hear(&mut self, change: &Change) {
        let next = self.kept.heard.len() as u64 + 1;
        if change.seq == next {
            self.kept.heard.push(change.clone());
        } else if self.kept.heard.get(change.seq as usize - 1) != Some(change) {
            self.fail(&format!("after event {} came {change:?}", next - 1));
        }
    }

    /// The manager died, with these actions of its last event to be done again.
    pub(super) fn crash(&mut self, rest: Vec<Action>) {
        self.kept.deaths += 1;
        self.kept.depth += 1;
        self.trace.push("              ## the manager dies".to_owned());
        self.engine = Engine::restore(through_json(&self.kept.stored), &self.plan);
        if self.engine.snapshot() != self.kept.stored {
            self.fail("what was restored is not what was stored");
        }
        let broken = self.engine.broken_invariants();
        if !broken.is_empty() {
            self.fail(&format!("restored: {}", broken.join("; ")));
        }
        for action in rest {
            self.say(&action);
            self.obey(action);
        }
        for event in self.inventory() {
            self.trace.push(format!("              ## {event:?}"));
            let depth = self.kept.depth;
            let deaths = self.kept.deaths;
            self.step(Some(event));
            if self.kept.deaths != deaths {
                // The one that came after it has heard everything, and went on.
                self.kept.depth = depth - 1;
                return;
            }
        }
        self.step(None);
        self.kept.depth -= 1;
    }

    /// All that the keeper knows. What it was about to say of launches is part of it; one that failed is not there.
    fn inventory(&mut self) -> Vec<Event> {
        let answers: Vec<u64> = self
            .due
            .iter()
            .filter(|(_, e)| matches!(e, Event::Launched { .. } | Event::LaunchFailed { .. }))
            .map(|(order, _)| *order)
            .collect();
        for order in answers {
            if let Some(event) = self.due.remove(&order) {
                self.happen(event);
            }
        }
        let mut events = Vec::new();
        for (&launch, told) in &self.kept.held {
            let Some(pid) = told.pid else { continue };
            events.push(Event::Launched {
                launch,
                pid,
                start_time: 1,
                note: None,
            });
            if let Some((exit, remains)) = told.exit.clone() {
                events.push(Event::Exited {
                    launch,
                    exit,
                    remains,
                });
            }
            if told.is_empty {
                events.push(Event::Emptied { launch });
            }
        }
        events
    }
}
