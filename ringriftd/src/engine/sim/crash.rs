//! The manager of the simulated world: it stores what every event changed before it does anything, and may die before that,
//! after it, or with half of its actions done. The next one restores the engine from what was stored, does all of the last
//! actions again, hears from the keeper what it knows, and goes on. The keeper may die with it, and the machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::reply::Exit;

use crate::engine::machine::Engine;
use crate::engine::snapshot::{Delta, Snapshot};
use crate::engine::types::{Action, Change, Event, Mono};
use crate::ids::LaunchId;

use super::choices::{Pick, key};
use super::invariants::Invariant;
use super::malice::Fault;
use super::tell;
use super::world::{Due, World};

/// Deaths within one recovery.
const DEATHS_AT_ONCE: u32 = 3;

/// What outlives the manager.
#[derive(Default)]
pub(super) struct Kept {
    /// The engine, as the deltas built it up: only where everything is checked.
    pub(super) stored: Snapshot,
    /// The keeper's launches, until they are released.
    pub(super) held: BTreeMap<LaunchId, Told>,
    /// The flight recorder.
    pub(super) heard: Vec<Change>,
    /// How often the manager died.
    pub(super) deaths: u32,
    /// Recoveries under way.
    pub(super) depth: u32,
    /// A plan was loaded, and stored.
    pub(super) is_loaded: bool,
}

/// What the keeper has said of a launch, and says again to the next manager.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) pid: Option<u32>,
    pub(super) exit: Option<(Exit, Vec<u32>)>,
    pub(super) is_empty: bool,
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> Result<T, String> {
    let text = serde_json::to_string(value).map_err(|e| e.to_string())?;
    let read: T = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let again = serde_json::to_string(&read).map_err(|e| e.to_string())?;
    if again == text {
        Ok(read)
    } else {
        Err(format!("{text} is stored, read and stored again as {again}"))
    }
}

fn drain(engine: &mut Engine) -> Vec<Action> {
    std::iter::from_fn(|| engine.poll_action()).collect()
}

/// What a manager does again that does not know whether an earlier one did it. Launches are asked for anew by the engine; signals
/// carry a number and answers a token: none is repeated.
fn is_done_again(action: &Action, is_done: bool) -> bool {
    match action {
        Action::Launch { .. } | Action::AdoptForeign { .. } | Action::Probe { .. } => false,
        Action::Signal { .. } | Action::Reply { .. } => !is_done,
        Action::Destroy { .. }
        | Action::FindMain { .. }
        | Action::Release { .. }
        | Action::Emit(_)
        | Action::Worked { .. }
        | Action::Failed(_)
        | Action::Finish { .. } => true,
    }
}

impl World {
    fn may_die(&self) -> bool {
        // Where there is time between requests, it is for one death: each begins the questions that are under way anew.
        let is_spared = self.spacing > 0 && self.has_died && self.kept.depth == 0;
        self.rates.of_fault(Fault::Dies) > 0
            && self.kept.is_loaded
            && self.kept.depth < DEATHS_AT_ONCE
            && !is_spared
    }

    /// The manager dies before it has heard this.
    pub(super) fn dies_before(&mut self, event: &Event) -> bool {
        if !self.may_die() {
            return false;
        }
        let (who, nth) = self.place_of_news(event);
        let depth = self.kept.depth;
        self.chance(Fault::Dies, key(Pick::Dies, who, nth * 8 + depth), 4) == 1
    }

    /// It dies after it has stored this, with so many of its actions done; none: it lives.
    fn dies_after(&mut self, event: Option<&Event>, actions: usize) -> Option<usize> {
        if !self.may_die() {
            return None;
        }
        let (who, nth) = event.map_or((902, self.kept.deaths), |event| self.place_of_news(event));
        let place = nth * 8 + 4 + self.kept.depth;
        if self.chance(Fault::Dies, key(Pick::Dies, who, place), 4) == 0 {
            return None;
        }
        let done = self
            .choices
            .below(key(Pick::DiesAt, who, place), actions as u64 + 1);
        Some(done as usize)
    }

    /// One event (or, without one, the end of a recovery) as the manager takes it: the engine first, then what has changed is
    /// stored, then the actions are done, or some of them.
    pub(super) fn step(&mut self, event: Option<Event>) {
        let now = self.time_that_is_told(event.as_ref());
        let mut twin = None;
        if let Some(event) = &event {
            self.before_step(event);
            if self.is_thorough && self.kept.is_loaded {
                let mut engine = Engine::restore(self.kept.stored.clone(), &self.plan);
                engine.pause_deadlines(self.engine.is_paused);
                engine.handle(now, event.clone());
                twin = Some(drain(&mut engine));
            }
            if let Event::Loaded(plan) = event {
                self.plan = Arc::clone(plan);
            }
        }
        match event.clone() {
            Some(event) => self.engine.handle(now, event),
            None => self.engine.resume(now),
        }
        let actions = drain(&mut self.engine);
        self.store(twin, &actions);
        self.go_along(now, event.as_ref(), &actions);
        self.after_step(event.as_ref(), &actions);
        self.kept.is_loaded |= self.engine.loaded;
        if self.violation.is_some() {
            return;
        }
        match self.dies_after(event.as_ref(), actions.len()) {
            None => {
                for action in actions {
                    self.obey(action);
                }
            }
            Some(done) => {
                for action in actions.iter().take(done).cloned() {
                    self.obey(action);
                }
                let places = actions.into_iter().enumerate();
                let rest = places.filter(|(place, action)| is_done_again(action, *place < done));
                self.crash(rest.map(|(_, action)| action).collect());
            }
        }
    }

    /// The clock of the machine, or sometimes one that is behind.
    fn time_that_is_told(&mut self, event: Option<&Event>) -> Mono {
        let Some(event) = event.filter(|_| self.rates.of_fault(Fault::ClockBack) > 0) else {
            return Mono(self.now);
        };
        let (who, nth) = self.place_of_news(event);
        let back = self.chance(Fault::ClockBack, key(Pick::ClockBack, who, nth), 5000);
        Mono(self.now.saturating_sub(back * 1_000_000))
    }

    /// What has changed is stored: piece by piece and as JSON where everything is checked, else it is enough that it can be.
    fn store(&mut self, twin: Option<Vec<Action>>, actions: &[Action]) {
        if !self.is_thorough {
            let changes = self.engine.requests.take_changes();
            self.judge_verdicts(&changes);
            return;
        }
        let delta: Delta = self.engine.take_delta();
        self.judge_verdicts(&delta.requests);
        match through_json(&delta) {
            Ok(delta) => self.kept.stored.apply(delta),
            Err(e) => self.broken(Invariant::SnapshotIsAll, e),
        }
        let is_whole = self.kept.stored == self.engine.snapshot();
        self.hold(Invariant::SnapshotIsAll, is_whole, |_| {
            "what was stored piece by piece is not the whole".to_owned()
        });
        if let Some(twin) = twin {
            self.hold(Invariant::SnapshotIsAll, twin == actions, |_| {
                format!("a restored engine does {twin:?} instead of {actions:?}")
            });
        }
    }

    /// The twin does the same.
    fn go_along(&mut self, now: Mono, event: Option<&Event>, actions: &[Action]) {
        let Some((mut twin, left)) = self.twin.take() else {
            return;
        };
        let Some(event) = event else { return };
        twin.handle(now, event.clone());
        let does = drain(&mut twin);
        self.hold(Invariant::SnapshotIsAll, does == actions, |_| {
            format!("{left} events before its end, a restored engine does {does:?} instead of {actions:?}")
        });
        if left > 1 {
            self.twin = Some((twin, left - 1));
        } else {
            let same = twin.snapshot() == self.engine.snapshot();
            self.hold(Invariant::SnapshotIsAll, same, |_| {
                "two engines did the same, and differ".to_owned()
            });
        }
    }

    /// From here on a second engine, restored from this one, goes along for so many events.
    pub(super) fn begin_twin(&mut self, events: u32) {
        let mut twin = Engine::restore(self.engine.snapshot(), &self.plan);
        twin.pause_deadlines(self.engine.is_paused);
        self.twin = Some((twin, events));
    }

    fn forget_undelivered(&mut self) {
        for truth in &mut self.units {
            truth.undelivered = 0;
        }
    }

    /// The flight recorder takes each number once.
    pub(super) fn hear(&mut self, change: &Change) {
        let next = self.kept.heard.len() as u64 + 1;
        if change.seq == next {
            self.kept.heard.push(change.clone());
            self.judge_change(change);
            self.judge_health(change);
        } else if self.kept.heard.get(change.seq as usize - 1) != Some(change) {
            self.broken(
                Invariant::StateMachine,
                format!("after event {} came {change:?}", next - 1),
            );
        }
    }

    /// The manager died, with these actions of its last event to be done again.
    pub(super) fn crash(&mut self, rest: Vec<Action>) {
        self.has_died = true;
        self.kept.deaths += 1;
        self.counts.deaths += 1;
        self.kept.depth += 1;
        self.note(|_| "## the manager dies".to_owned());
        self.late = None;
        self.twin = None;
        // The prober was part of it.
        self.forget_due(|due| matches!(due, Due::World(Event::Probed { .. }) | Due::News(_)));
        self.forget_undelivered();
        self.asking.clear();
        let stored = if self.is_thorough {
            self.kept.stored.clone()
        } else {
            self.engine.snapshot()
        };
        let read = if self.kept.deaths % 4 == 1 {
            through_json(&stored)
        } else {
            Ok(stored.clone())
        };
        let was_paused = self.engine.is_paused;
        match read {
            Ok(read) => self.engine = Engine::restore(read, &self.plan),
            Err(e) => return self.broken(Invariant::SnapshotIsAll, e),
        }
        let same = self.engine.snapshot() == stored;
        self.hold(Invariant::SnapshotIsAll, same, |_| {
            "what was restored is not what was stored".to_owned()
        });
        // Deadlines that the old one had put off are put off until the new one hears something.
        self.engine.pause_deadlines(was_paused);
        self.check_own("restored");
        self.engine.pause_deadlines(false);
        self.check_wants_after_return();
        for action in rest {
            self.obey(action);
        }
        let (who, nth) = (903, self.kept.deaths);
        if self.kept.depth == 1 && self.chance(Fault::KeeperDies, key(Pick::KeeperDies, who, nth), 1) > 0 {
            self.lose_keeper(nth);
        }
        for event in self.inventory() {
            self.note(|_| format!("## {}", tell::event(&event)));
            let depth = self.kept.depth;
            let deaths = self.kept.deaths;
            self.step(Some(event));
            if self.kept.deaths != deaths || self.violation.is_some() {
                // The one that came after it has heard everything, and went on.
                self.kept.depth = depth - 1;
                return;
            }
        }
        self.step(None);
        self.check_claims();
        self.kept.depth = self.kept.depth.saturating_sub(1);
    }

    /// The keeper is gone, and a new one has taken over what still lives: of what was ending nothing is left, and some of the
    /// rest is not there any more either.
    fn lose_keeper(&mut self, nth: u32) {
        self.note(|_| "## the keeper dies too".to_owned());
        let launches: Vec<LaunchId> = self.kept.held.keys().copied().collect();
        for (launch, place) in launches.into_iter().zip(0..) {
            let is_ending = self
                .live
                .get(&launch)
                .is_none_or(|process| process.has_exited || process.is_destroyed);
            let is_missing = self.chance(Fault::KeeperDies, key(Pick::Missing, place, nth), 1) > 0;
            let has_answered = self.kept.held.get(&launch).is_some_and(|told| told.pid.is_some());
            if is_ending || is_missing || !has_answered {
                self.kept.held.remove(&launch);
                if let Some(process) = self.live.remove(&launch)
                    && launch.is_main()
                {
                    self.ends.push(process.unit);
                }
                self.forget_due(
                    |due| matches!(due, Due::World(event) if tell::launch_of(event) == Some(launch)),
                );
            }
        }
    }

    /// The machine is started anew: nothing of what was lives.
    pub(super) fn reboot(&mut self) {
        self.note(|_| "## the machine is started anew".to_owned());
        let stored = self.engine.snapshot();
        self.live.clear();
        self.kept.held.clear();
        self.asking.clear();
        self.forget_due(|due| !matches!(due, Due::Request(_)));
        self.forget_undelivered();
        (self.late, self.twin) = (None, None);
        for asked in self.asked.values_mut() {
            asked.is_forgotten = true;
        }
        self.forget_on_other_boot();
        // The world's clock goes on through it, so nothing is to be added to old times.
        self.now += 30_000_000_000;
        let stored = stored.on_other_boot(0, Mono(self.now));
        self.engine = Engine::restore(stored, &self.plan);
        // Each event goes on from the one before.
        for who in 0..self.units.len() as u32 {
            let told = self.truth_mut(who).word;
            self.engine.tell_step_back(&super::draw::nth_name(who), told);
        }
        for action in drain(&mut self.engine) {
            self.obey(action);
        }
        if self.is_thorough {
            self.kept.stored = self.engine.snapshot();
        }
        let plan = Arc::clone(&self.plan);
        self.kept.depth += 1;
        self.step(Some(Event::Loaded(plan)));
        self.kept.depth = self.kept.depth.saturating_sub(1);
    }

    /// All that the keeper knows. What it was about to say of launches is part of it; one that failed is not there.
    fn inventory(&mut self) -> Vec<Event> {
        let mut answers = Vec::new();
        self.queue.retain(|std::cmp::Reverse(place)| match &place.due {
            Due::World(event @ (Event::Launched { .. } | Event::LaunchFailed { .. })) => {
                answers.push(event.clone());
                false
            }
            _ => true,
        });
        for event in answers {
            self.happen(event);
        }
        let mut events = Vec::new();
        let unknown: Vec<LaunchId> = self
            .engine
            .processes()
            .filter(|(_, _, p)| p.phase != crate::engine::unit::ProcessPhase::Asked)
            .map(|(_, _, p)| p.launch)
            .filter(|launch| !self.kept.held.contains_key(launch))
            .collect();
        events.extend(unknown.into_iter().map(|launch| Event::Lost { launch }));
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
