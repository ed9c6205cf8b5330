//! What comes after an end: the daemon or the machine is started again after an orderly one, or after the power was lost on the way
//! there; and what a manager makes of a state that lags behind what lives.

use std::sync::Arc;

use crate::engine::machine::Engine;
use crate::engine::snapshot::{Snapshot, Survivor};
use crate::engine::types::{Action, Event, Mono, Role};
use crate::engine::unit::{Desired, ProcessPhase};
use crate::ids::LaunchId;

use super::choices::{Pick, key};
use super::invariants::Invariant;
use super::world::World;

/// Events until a manager may find that its state is as old as this.
const LAG: u64 = 16;

impl World {
    /// The daemon has ended, and it, or the whole machine, is started again. What was held still is; all else is for the
    /// profiles to say. False: it is not.
    pub(super) fn begin_again(&mut self) -> bool {
        let how = self.choices.chance(key(Pick::Again, 0, 0), 120, 2);
        if how == 0 || self.finished.is_none() || self.violation.is_some() {
            return false;
        }
        self.note(|_| "## the daemon is started again".to_owned());
        let stored = self.engine.snapshot();
        self.now += 30_000_000_000;
        let now = Mono(self.now);
        let stored = if how == 1 {
            stored.after_end(0, now)
        } else {
            // Nobody has written down that the end was an orderly one.
            stored.on_other_boot(0, now)
        };
        self.live_on(stored);
        true
    }

    /// A full stop is under way, and the power is lost after some events. False: it is not.
    pub(super) fn lose_power_on_the_way(&mut self) -> bool {
        let events = self.choices.chance(key(Pick::Again, 0, 1), 80, 20);
        if events == 0 || self.finished.is_some() || self.violation.is_some() {
            return false;
        }
        for _ in 0..events {
            if !self.advance(u64::MAX) {
                return false;
            }
        }
        if self.finished.is_some() || self.violation.is_some() {
            return false;
        }
        self.note(|_| "## the power is lost".to_owned());
        self.now += 30_000_000_000;
        let stored = self.engine.snapshot().on_other_boot(0, Mono(self.now));
        self.live_on(stored);
        true
    }

    /// Nothing of what was lives, nobody waits for an answer, and this is what is remembered.
    pub(super) fn live_on(&mut self, stored: Snapshot) {
        self.kept.is_reborn = true;
        self.live.clear();
        self.kept.held.clear();
        self.asking.clear();
        self.forget_due(|due| !matches!(due, super::world::Due::Request(_)));
        self.forget_undelivered();
        (self.late, self.twin, self.lag) = (None, None, None);
        for asked in self.asked.values_mut() {
            asked.is_forgotten = true;
        }
        let had_ended = self.closing.is_some();
        self.finished = None;
        self.forget_on_other_boot();
        self.engine = Engine::restore(stored, &self.plan);
        // Each event goes on from the one before.
        for who in 0..self.units.len() as u32 {
            let told = self.truth_mut(who).word;
            self.engine.tell_step_back(&super::draw::nth_name(who), told);
        }
        while let Some(action) = self.engine.poll_action() {
            self.obey(action);
        }
        if self.is_thorough {
            self.kept.stored = self.engine.snapshot();
        }
        let plan = Arc::clone(&self.plan);
        self.kept.depth += 1;
        self.step(Some(Event::Loaded(Arc::clone(&plan))));
        self.kept.depth = self.kept.depth.saturating_sub(1);
        self.check_holds();
        if had_ended && !self.engine.is_shutting_down() {
            let other = self.engine.units().find(|(_, unit)| {
                (unit.desired == Desired::Up) != plan.members.contains_key(&unit.spec.name)
            });
            let other = other.map(|(_, unit)| unit.spec.name.clone());
            self.hold(Invariant::PersistFirst, other.is_none(), |_| {
                format!("after an orderly end {other:?} is not as the profiles want it")
            });
        }
    }

    /// From time to time the state is kept as it is, for a manager that finds nothing newer.
    pub(super) fn note_lag(&mut self) {
        if self.counts.events.is_multiple_of(LAG) && self.kept.is_loaded && self.may_lag() {
            self.lag = Some(Box::new(self.engine.snapshot()));
        }
    }

    /// It costs time: one schedule in sixteen does it.
    fn may_lag(&self) -> bool {
        self.seed % 16 == 5
    }

    /// A manager that finds an older state than the last one, and processes of lives that it does not know: each is its
    /// unit's, and nobody is started beside it.
    pub(super) fn check_lag(&mut self) {
        let Some(mut stored) = self.lag.clone() else {
            return;
        };
        let now = Mono(self.now);
        let mut survivors = Vec::new();
        for (launch, process) in self.live.iter().filter(|(launch, _)| launch.is_main()) {
            let told = self.kept.held.get(launch);
            let pid = told.filter(|told| told.exit.is_none()).and_then(|told| told.pid);
            let is_defined = self.plan.units.contains_key(&process.unit);
            if let Some(pid) = pid.filter(|_| is_defined && !process.has_exited) {
                survivors.push(Survivor {
                    unit: process.unit.clone(),
                    invocation: launch.invocation,
                    pid,
                    start_time: 1,
                });
            }
        }
        // All that the files tell of is there, so that what lives finds its own.
        *stored = Engine::restore(*stored, &self.plan).snapshot();
        survivors.retain(|survivor| {
            let is_newer = stored.take_in(survivor, true, now);
            let unit = &stored.units[&survivor.unit];
            let life = unit.state.life().map(|life| life.invocation);
            is_newer || life == Some(survivor.invocation)
        });
        let mut engine = Engine::restore(*stored, &self.plan);
        let known: Vec<LaunchId> = engine
            .processes()
            .filter(|(_, _, process)| process.phase != ProcessPhase::Asked)
            .map(|(_, _, process)| process.launch)
            .collect();
        for launch in known.iter().filter(|launch| !self.live.contains_key(launch)) {
            engine.handle(now, Event::Lost { launch: *launch });
        }
        for survivor in &survivors {
            let launched = Event::Launched {
                launch: LaunchId::main(survivor.invocation),
                pid: survivor.pid,
                start_time: survivor.start_time,
                note: None,
            };
            engine.handle(now, launched);
        }
        engine.resume(now);
        engine.handle(now, Event::Loaded(Arc::clone(&self.plan)));
        let broken = engine.broken_invariants();
        self.hold(Invariant::Own, broken.is_empty(), |_| {
            format!("behind what lives: {}", broken.join("; "))
        });
        let lives: Vec<LaunchId> = engine.processes().map(|(_, _, process)| process.launch).collect();
        for survivor in &survivors {
            let claims = lives
                .iter()
                .filter(|launch| **launch == LaunchId::main(survivor.invocation))
                .count();
            self.hold(Invariant::AdoptOrLeave, claims == 1, |_| {
                format!("behind what lives, {survivor:?} is {claims} units'")
            });
        }
        while let Some(action) = engine.poll_action() {
            let Action::Launch {
                launch,
                role: Role::Main,
                spec,
            } = action
            else {
                continue;
            };
            let is_there = survivors.iter().any(|survivor| survivor.unit == spec.name);
            self.hold(Invariant::Single, !is_there, |_| {
                format!(
                    "behind what lives, {launch} of {} is started beside it",
                    spec.name
                )
            });
        }
    }
}
