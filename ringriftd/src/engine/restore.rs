//! The engine's own death: what is told to be stored, how it comes back from that, and how it goes on.
//!
//! After [`Engine::restore`] it is where it was after the last event that was stored. The world has gone on meanwhile: the
//! manager tells of every launch what the keeper knows ([`Event::Launched`](super::types::Event::Launched) and what became
//! of it; all of that may be told again harmlessly), and of those that it does not know that they are
//! [lost](super::types::Event::Lost). Then [`Engine::resume`] says again what the keeper may not have heard.

use std::sync::Arc;

use proto::reply::{CauseKind, Exit, State as Word};

use super::cause;
use super::load::with_leftovers;
use super::machine::Engine;
use super::order::Blocker;
use super::request::Requests;
use super::snapshot::{Delta, Snapshot, StoredLife, StoredNode, StoredUnit};
use super::types::{Action, ChangeKind, Mono, Plan, Role};
use super::unit::{Life, Process, ProcessPhase, StartPhase, State, Unit};
use crate::graph::Ix;
use crate::ids::LaunchId;
use crate::spec::{UnitName, UnitSpec};

impl Engine {
    /// The whole engine, to be stored.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            node: self.stored_node(),
            units: self.graph.all().map(|ix| self.stored_unit(ix)).collect(),
            requests: self.requests.pending().clone(),
            breakers: if planted!(BreakersNotStored) {
                Default::default()
            } else {
                self.breakers.clone()
            },
        }
    }

    /// What changed since this was last asked, to be stored. Ask after every event, before its actions are done.
    pub fn take_delta(&mut self) -> Delta {
        let touched = std::mem::take(&mut self.touched);
        Delta {
            node: self.stored_node(),
            dropped: std::mem::take(&mut self.dropped).into_iter().collect(),
            units: touched.into_iter().map(|ix| self.stored_unit(ix)).collect(),
            requests: self.requests.take_changes(),
            breakers: std::mem::take(&mut self.is_breaker_touched).then(|| self.breakers.clone()),
        }
    }

    fn stored_node(&self) -> StoredNode {
        StoredNode {
            seed: self.seed,
            now: self.now,
            next_invocation: self.next_invocation,
            seq: self.seq,
            shutdown: self.shutdown.clone(),
            loaded: self.loaded,
            stale: self.stale,
        }
    }

    fn stored_unit(&self, ix: Ix) -> (UnitName, StoredUnit) {
        let unit = self.unit(ix);
        let stored = StoredUnit {
            leftover: (!unit.is_defined).then(|| Arc::clone(&unit.spec)),
            member: unit.member.clone(),
            desired: unit.desired,
            desired_cause: unit.desired_cause.clone(),
            restart_pending: unit.restart_pending,
            state: unit.state.clone().map(|life| stored_life(life, &unit.spec)),
            since: unit.since,
            last_seq: unit.last_seq,
            attempt_failed: unit.attempt_failed,
            hold: unit.hold.clone().filter(|_| !planted!(HoldNotStored)),
            restarts: if planted!(PastNotStored) {
                Default::default()
            } else {
                unit.restarts.clone()
            },
            starts: unit.starts,
            last_invocation: unit.last_invocation,
            last_exit: unit.last_exit,
            last_error: unit.last_error.clone(),
            remains: unit.remains.clone(),
            last_stop_killed: unit.last_stop_killed,
            reload_error: unit.reload_error.clone(),
            note: unit.note.clone(),
            failures: unit.failures,
            last_failure: unit.last_failure,
            checks: unit.checks.clone(),
        };
        (unit.spec.name.clone(), stored)
    }

    /// The engine that this was stored of. `plan` is what it had loaded last: the same files, read again. A unit that the
    /// plan lacks is there all the same if its definition was stored, until it is down. The next [`Engine::take_delta`] is
    /// what differs from `snapshot`.
    pub fn restore(snapshot: Snapshot, plan: &Plan) -> Self {
        let mut engine = Self::new(snapshot.node.seed);
        let Snapshot {
            node,
            mut units,
            requests,
            breakers,
        } = snapshot;
        engine.now = node.now;
        engine.next_invocation = node.next_invocation.max(1);
        engine.seq = node.seq;
        engine.shutdown = node.shutdown;
        engine.loaded = node.loaded;
        engine.stale = node.stale;
        engine.node = plan.node.clone();
        engine.breakers = breakers;
        engine.requests = Requests::restored(requests);
        let leftovers: Vec<Arc<UnitSpec>> = units
            .iter()
            .filter(|(name, _)| !plan.units.contains_key(*name))
            .filter_map(|(_, unit)| definition(unit))
            .collect();
        engine.graph = if leftovers.is_empty() {
            Arc::clone(&plan.graph)
        } else {
            with_leftovers(plan, &leftovers)
        };
        let mut new = Vec::new();
        for name in engine
            .graph
            .all()
            .map(|ix| engine.graph.name(ix).clone())
            .collect::<Vec<_>>()
        {
            let stored = units.remove(&name);
            let defined = plan.units.get(&name).cloned();
            let is_defined = defined.is_some();
            let is_as_stored = stored
                .as_ref()
                .is_some_and(|unit| unit.leftover.is_none() == is_defined);
            if !is_as_stored {
                new.push(name.clone());
            }
            let spec = defined.or_else(|| stored.as_ref().and_then(definition));
            let Some(spec) = spec else { continue };
            let mut unit = match stored {
                Some(stored) => restored_unit(stored, spec),
                None => Unit::new(
                    spec,
                    engine.now,
                    cause::own(CauseKind::Boot, 0, "ringriftd started"),
                ),
            };
            unit.is_defined = is_defined;
            engine.units.push(unit);
        }
        engine.derive();
        // Deltas go on from what was stored.
        engine.touched = new.iter().filter_map(|name| engine.graph.find(name)).collect();
        engine.dropped = units.into_keys().collect();
        engine
    }

    /// Works out every table that follows from the units.
    fn derive(&mut self) {
        let mut order: Vec<Ix> = self.graph.all().collect();
        order.sort_by_key(|ix| self.graph.rank(*ix));
        // What a unit thinks of those that it requires follows from what they think: start order.
        for &ix in &order {
            let (is_held_down, is_taken_along) = (self.must_be_held_down(ix), self.must_be_taken_along(ix));
            let unit = &mut self.units[ix.0 as usize];
            (unit.is_held_down, unit.is_taken_along) = (is_held_down, is_taken_along);
            if let Some(life) = self.unit(ix).state.life() {
                self.lives.insert(life.invocation, ix);
            }
            if matches!(self.unit(ix).state, State::Starting { .. }) {
                self.starting += 1;
            }
            self.rearm(ix);
        }
        self.recount_probes();
        self.find_unheard_probes();
        let asked = self
            .processes()
            .filter(|(_, _, p)| p.phase == ProcessPhase::Asked);
        self.unheard = asked.map(|(_, _, p)| p.launch).collect();
        for ix in order {
            let is_waiting = self.unit(ix).state == State::Waiting;
            if is_waiting && matches!(self.blockers(ix).as_slice(), [Blocker::Limit(_)]) {
                self.held_back.insert(ix);
            }
        }
    }

    /// A life of this serial was: none gets it again. The state that was stored may be from before it began.
    pub fn keep_clear_of(&mut self, serial: u64) {
        self.next_invocation = self.next_invocation.max(serial.saturating_add(1));
    }

    /// Where a unit was last told to be, which is not where the state that was stored has it: the disk had not taken all. Told,
    /// so that each event goes on from the one before.
    pub fn tell_step_back(&mut self, unit: &UnitName, told: Word) {
        let Some(ix) = self.graph.find(unit) else { return };
        let stored = self.unit(ix).word;
        if stored != told {
            let text = "ringriftd began anew";
            let cause = self.own_cause(ix, CauseKind::Recovery, text);
            self.emit(ix, ChangeKind::StatusChanged, told, stored, cause);
        }
    }

    /// Every process that the engine counts on, with its unit and its life.
    pub fn processes(&self) -> impl Iterator<Item = (&Unit, &Life, &Process)> {
        self.lives.values().flat_map(|ix| {
            let unit = self.unit(*ix);
            let life = unit.state.life();
            life.into_iter()
                .flat_map(move |life| life.processes().map(move |process| (unit, life, process)))
        })
    }

    /// Goes on after [`Engine::restore`], once all that the keeper knows was told: asks again for what the keeper has not
    /// heard, and does what has become due.
    pub fn resume(&mut self, now: Mono) {
        self.now = self.now.max(now);
        for launch in std::mem::take(&mut self.unheard) {
            if planted!(LaunchLost) {
                continue;
            }
            let is_asked =
                |p: &Process| p.launch == launch && (p.phase == ProcessPhase::Asked || planted!(LaunchTwice));
            if self.processes().any(|(_, _, p)| is_asked(p)) {
                self.on_lost(launch);
            }
        }
        let is_to_die = |p: &Process| p.is_killed && p.phase != ProcessPhase::Asked;
        let killed = self.processes().filter(|(_, _, p)| is_to_die(p));
        let killed: Vec<LaunchId> = killed.map(|(_, _, p)| p.launch).collect();
        for launch in killed {
            self.actions.push_back(Action::Destroy { launch });
        }
        for ix in self.graph.all() {
            if let State::Starting {
                life,
                phase: StartPhase::FindingMain,
                ..
            } = &self.unit(ix).state
            {
                self.actions.push_back(Action::FindMain {
                    launch: LaunchId::main(life.invocation),
                    spec: Arc::clone(&life.spec),
                });
            }
            self.mark(ix);
        }
        self.ask_probes_again();
        self.watch_taken_in();
        if let Some(shutdown) = self.shutdown.as_ref().filter(|s| s.finished) {
            let code = shutdown.code;
            self.actions.push_back(Action::Finish { code });
        }
        self.follow_up();
    }

    /// The keeper does not have it.
    pub(super) fn on_lost(&mut self, launch: LaunchId) {
        self.unheard.remove(&launch);
        let Some(ix) = self.unit_of_launch(launch) else {
            return;
        };
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        let Some(process) = life.processes().find(|p| p.launch == launch) else {
            return;
        };
        let (phase, role) = (process.phase, process.role);
        match phase {
            ProcessPhase::Asked => self.ask_again(ix, launch, role),
            ProcessPhase::Alive { .. } => self.on_exited(launch, Exit::Unknown, &[]),
            ProcessPhase::Leaving => self.on_emptied(launch),
            ProcessPhase::Gone => {}
        }
    }

    /// Asks again for a process that never came to be; not for one that would only be stopped.
    fn ask_again(&mut self, ix: Ix, launch: LaunchId, role: Role) {
        let is_stopping = matches!(self.unit(ix).state, State::Stopping { .. });
        match role {
            Role::Main if is_stopping => {
                if let Some(main) = self.unit_mut(ix).state.life_mut().and_then(|l| l.main.as_mut()) {
                    main.phase = ProcessPhase::Gone;
                }
                self.advance_stop(ix);
            }
            Role::ReadyProbe | Role::Probe if is_stopping => self.on_probe_gone(ix),
            Role::ReadyProbe | Role::Probe => self.relaunch_probe(ix, launch, role),
            Role::StartPre(_) | Role::StartPost(_) | Role::Reload(_) if is_stopping => {
                self.on_hook_end(ix, role, Ok(()), false);
            }
            Role::Main => {
                let Some(life) = self.unit_mut(ix).state.life_mut() else {
                    return;
                };
                if let Some(foreign) = life.foreign {
                    let spec = Arc::clone(&life.spec);
                    self.ask_for_foreign(launch, foreign, spec);
                } else {
                    // As if for the first time: what it requires may have gone meanwhile.
                    life.main = None;
                    self.launch_main(ix);
                }
            }
            Role::StartPre(_)
            | Role::StartPost(_)
            | Role::StopPre(_)
            | Role::StopPost(_)
            | Role::Reload(_) => self.relaunch_hook(ix, launch, role),
        }
    }

    /// The same hook under the same name, with all of its time.
    fn relaunch_hook(&mut self, ix: Ix, launch: LaunchId, role: Role) {
        let now = self.now;
        let state = &mut self.unit_mut(ix).state;
        let Some(life) = state.life() else { return };
        let spec = Arc::clone(&life.spec);
        let at = now.after(spec.exec.hook_timeout);
        match state {
            State::Starting { deadline, .. } | State::Reloading { deadline, .. } => *deadline = at,
            State::Stopping { deadline, .. } => *deadline = Some(at),
            State::Stopped
            | State::Waiting
            | State::Running { .. }
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
        self.rearm(ix);
        self.actions.push_back(Action::Launch { launch, role, spec });
    }
}

/// The definition of a unit that no file defines.
fn definition(unit: &StoredUnit) -> Option<Arc<UnitSpec>> {
    unit.leftover
        .clone()
        .or_else(|| unit.state.life().and_then(|life| life.spec.clone()))
}

fn stored_life(life: Life, present: &UnitSpec) -> StoredLife {
    StoredLife {
        invocation: life.invocation,
        began_by: life.began_by,
        spec: (life.spec.digest != present.digest).then_some(life.spec),
        main: life.main,
        exit: life.exit,
        hook: life.hook,
        hook_exit: life.hook_exit,
        next_step: life.next_step,
        ready: life.ready,
        is_main_found: life.is_main_found,
        foreign: life.foreign,
        probe: life.probe,
        watch: life.watch,
        word: life.word,
        witness: life.witness,
    }
}

fn restored_life(life: StoredLife, present: &Arc<UnitSpec>) -> Life {
    Life {
        invocation: life.invocation,
        began_by: life.began_by,
        spec: life.spec.unwrap_or_else(|| Arc::clone(present)),
        main: life.main,
        exit: life.exit,
        hook: life.hook,
        hook_exit: life.hook_exit,
        next_step: life.next_step,
        ready: life.ready,
        is_main_found: life.is_main_found,
        foreign: life.foreign,
        probe: life.probe,
        watch: life.watch,
        word: life.word,
        witness: life.witness,
    }
}

fn restored_unit(stored: StoredUnit, spec: Arc<UnitSpec>) -> Unit {
    let state = stored.state.map(|life| restored_life(life, &spec));
    let mut unit = Unit::new(spec, stored.since, stored.desired_cause);
    unit.member = stored.member;
    unit.desired = stored.desired;
    unit.restart_pending = stored.restart_pending;
    unit.state = state;
    unit.last_seq = stored.last_seq;
    unit.attempt_failed = stored.attempt_failed;
    unit.hold = stored.hold;
    unit.restarts = stored.restarts;
    unit.starts = stored.starts;
    unit.last_invocation = stored.last_invocation;
    unit.last_exit = stored.last_exit;
    unit.last_error = stored.last_error;
    unit.remains = stored.remains;
    unit.last_stop_killed = stored.last_stop_killed;
    unit.reload_error = stored.reload_error;
    unit.note = stored.note;
    unit.failures = stored.failures;
    unit.last_failure = stored.last_failure;
    unit.checks = stored.checks;
    unit.word = unit.shown();
    unit
}
