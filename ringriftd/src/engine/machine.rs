//! The engine itself: its tables, how an event is taken, and the few functions through which alone its state changes.
//! What the events mean is in the files beside it.
//!
//! Read first: [`Engine::handle`] and [`Engine::transition`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proto::reply::{Cause, CauseKind, State as Word};
use serde::{Deserialize, Serialize};

use super::breaker::Breakers;
use super::cause;
use super::request::Requests;
use super::types::{Action, Change, ChangeKind, Event, Mono};
use super::unit::{Desired, State, Unit};
use super::watch::Lanes;
use crate::breaker::BreakerSpec;
use crate::door::HttpSpec;
use crate::graph::{Graph, Ix};
use crate::ids::{Invocation, LaunchId};
use crate::limits;
use crate::spec::{NodeSpec, UnitName};

/// What made a unit dirty: another unit's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trigger {
    pub(super) seq: u64,
    pub(super) unit: Ix,
}

/// The way down of the whole node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// When everything left is killed; then, when it is given up.
    pub(super) deadline: Mono,
    /// The deadline has passed once.
    pub(super) killing: bool,
    /// The exit code of the daemon.
    pub(super) code: u8,
    /// `Finish` was said.
    pub(super) finished: bool,
}

/// The engine. See the head of this file.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Makes jitter differ between nodes, and the same in a replay.
    pub(super) seed: u64,
    pub(super) now: Mono,
    pub(super) node: NodeSpec,
    pub(super) graph: Arc<Graph>,
    /// Indexed by the graph's `Ix`.
    pub(super) units: Vec<Unit>,
    pub(super) lives: BTreeMap<Invocation, Ix>,
    pub(super) timers: BTreeSet<(Mono, Ix)>,
    pub(super) dirty: BTreeMap<(u32, Ix), Option<Trigger>>,
    /// Units whose thoughts of those that they require may be out of date, in start order. Empty after each event.
    pub(super) unsettled: BTreeSet<(u32, Ix)>,
    /// Free to start but for the node's limit.
    pub(super) held_back: BTreeSet<Ix>,
    /// Units in `Starting`.
    pub(super) starting: u32,
    pub(super) requests: Requests,
    pub(super) next_invocation: u64,
    pub(super) seq: u64,
    pub(super) shutdown: Option<Shutdown>,
    pub(super) loaded: bool,
    pub(super) stale: u64,
    /// Units that may have changed since the last [`Engine::take_delta`].
    pub(super) touched: BTreeSet<Ix>,
    /// Units that are no longer here since then.
    pub(super) dropped: BTreeSet<UnitName>,
    /// Launches that an earlier manager asked for without hearing the answer. Not stored: they follow from the units.
    pub(super) unheard: BTreeSet<LaunchId>,
    /// Probes that an earlier manager asked itself, by their numbers. Not stored either.
    pub(super) unheard_probes: BTreeMap<Invocation, u64>,
    pub(super) actions: VecDeque<Action>,
    /// Deadlines that pass are not handled for now.
    pub(super) is_paused: bool,
    /// Probes under way, and those that wait for a place. Not stored: they follow from the units.
    pub(super) lanes: Lanes,
    /// What limits the restarts of categories and of the node.
    pub(super) breakers: Breakers,
    /// They may have changed since the last [`Engine::take_delta`].
    pub(super) is_breaker_touched: bool,
}

impl Engine {
    /// An engine without units. `seed` is any number of the node's own.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Mono::default(),
            node: NodeSpec {
                profiles: Vec::new(),
                shutdown_timeout: limits::SHUTDOWN_TIMEOUT,
                max_starting: None,
                on_event: None,
                http: HttpSpec::default(),
                breaker: BreakerSpec::default(),
                log_total: None,
            },
            graph: Arc::new(Graph::default()),
            units: Vec::new(),
            lives: BTreeMap::new(),
            timers: BTreeSet::new(),
            dirty: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            held_back: BTreeSet::new(),
            starting: 0,
            requests: Requests::default(),
            next_invocation: 1,
            seq: 0,
            shutdown: None,
            loaded: false,
            stale: 0,
            touched: BTreeSet::new(),
            dropped: BTreeSet::new(),
            unheard: BTreeSet::new(),
            unheard_probes: BTreeMap::new(),
            actions: VecDeque::new(),
            is_paused: false,
            lanes: Lanes::default(),
            breakers: Breakers::default(),
            is_breaker_touched: false,
        }
    }

    /// Takes what happened. `now` never goes back: an earlier time is read as the latest one known.
    pub fn handle(&mut self, now: Mono, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::Loaded(plan) => self.on_loaded(&plan),
            Event::Request { id, op, by } => self.on_request(id, op, &by),
            Event::Forget { id } => self.requests.forget(id),
            Event::Shutdown { cause } => self.on_shutdown(cause, 0),
            Event::Launched {
                launch,
                pid,
                start_time,
                note,
            } => self.on_launched(launch, pid, start_time, note),
            Event::LaunchFailed { launch, failure } => self.on_launch_failed(launch, &failure),
            Event::Exited {
                launch,
                exit,
                remains,
            } => self.on_exited(launch, exit, &remains),
            Event::Emptied { launch } => self.on_emptied(launch),
            Event::Lost { launch } => self.on_lost(launch),
            Event::Unkillable { launch, remains } => self.on_unkillable(launch, remains),
            Event::MainFound {
                launch,
                pid,
                start_time,
            } => self.on_main_found(launch, pid, start_time),
            Event::MainMissing { launch, why } => self.on_main_missing(launch, &why),
            Event::Ready { invocation } => self.on_ready(invocation),
            Event::Stopping { invocation } => self.on_stopping_notice(invocation),
            Event::Reloading { invocation, at } => self.on_reloading_notice(invocation, at),
            Event::MainChanged {
                launch,
                pid,
                start_time,
            } => self.on_main_changed(launch, pid, start_time),
            Event::Extend { invocation, by } => self.on_extend(invocation, by),
            Event::Tick => {}
            Event::Used { launch, used } => return self.on_used(launch, used),
            Event::Probed {
                invocation,
                nr,
                result,
            } => self.on_probed(invocation, nr, result),
            Event::Watchdog { invocation } => self.on_watchdog(invocation),
            Event::WatchdogTrigger { invocation } => self.on_watchdog_trigger(invocation),
            Event::WatchdogEvery { invocation, every } => self.on_watchdog_every(invocation, every),
            Event::HealthSaid {
                invocation,
                health,
                text,
            } => self.on_health_said(invocation, health, text),
            Event::LogDrops { unit, is_over, text } => return self.on_log_drops(&unit, is_over, text),
        }
        self.follow_up();
    }

    /// The second phase of every event: deadlines that have passed, dirty units, answers that are complete.
    pub(super) fn follow_up(&mut self) {
        self.expire();
        self.act();
        self.answer();
        self.finish_shutdown();
    }

    /// Deadlines that have passed wait until this is taken back: whoever finds that nobody listened for a while hears first
    /// what was said meanwhile. Time itself goes on.
    pub fn pause_deadlines(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
    }

    /// The next thing to do; ask until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to come back with [`Event::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Mono> {
        let unit = self.timers.first().map(|(at, _)| *at);
        let shutdown = self.shutdown.as_ref().filter(|s| !s.finished).map(|s| s.deadline);
        let breaker = self.breakers.deadline();
        [unit, shutdown, breaker].into_iter().flatten().min()
    }

    /// Every unit, in the order of names.
    pub fn units(&self) -> impl Iterator<Item = (Ix, &Unit)> {
        self.graph.all().map(|ix| (ix, self.unit(ix)))
    }

    /// Every unit that has a file, or is still to go down without one.
    pub fn known_units(&self) -> impl Iterator<Item = (Ix, &Unit)> {
        self.units().filter(|(_, unit)| !self.is_forgotten(unit))
    }

    /// The unit of this name.
    pub fn find(&self, name: &UnitName) -> Option<(Ix, &Unit)> {
        let ix = self.graph.find(name)?;
        Some((ix, self.unit(ix)))
    }

    /// The edges between the units.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// A unit of this engine's graph.
    pub fn unit(&self, ix: Ix) -> &Unit {
        &self.units[ix.0 as usize]
    }

    /// The unit that a life belongs to.
    pub fn unit_of(&self, invocation: Invocation) -> Option<&Unit> {
        self.lives.get(&invocation).map(|ix| self.unit(*ix))
    }

    /// Every wanted unit is running or completed, or has failed its first attempt.
    pub fn is_settled(&self) -> bool {
        self.loaded
            && self.units.iter().all(|unit| {
                unit.desired == Desired::Down
                    || unit.attempt_failed
                    || unit.is_satisfied()
                    || unit.state == State::Completed
            })
    }

    /// The daemon is on its way down.
    pub fn is_shutting_down(&self) -> bool {
        self.shutdown.is_some()
    }

    /// News of lives that were over, so far.
    pub fn stale_news(&self) -> u64 {
        self.stale
    }

    /// The number of the last event.
    pub fn last_seq(&self) -> u64 {
        self.seq
    }

    /// A unit, to change: whoever changes what is stored of it goes through here, so that it is stored again.
    pub(super) fn unit_mut(&mut self, ix: Ix) -> &mut Unit {
        self.touched.insert(ix);
        &mut self.units[ix.0 as usize]
    }

    /// The unit whose present life this launch is of; news of anything else is stale, and counted.
    pub(super) fn unit_of_launch(&mut self, launch: LaunchId) -> Option<Ix> {
        let ix = self.lives.get(&launch.invocation).copied().filter(|ix| {
            let life = self.unit(*ix).state.life();
            life.is_some_and(|life| life.processes().any(|p| p.launch == launch))
        });
        if ix.is_none() {
            self.stale += 1;
        }
        ix
    }

    /// The only writer of which state a unit is in: books the time, the timer and the number of starting units, tells
    /// the world, and marks whoever may be affected.
    pub(super) fn transition(&mut self, ix: Ix, state: State, kind: ChangeKind, cause: Cause) {
        let now = self.now;
        let from = self.unit(ix).word;
        let is_starting = matches!(state, State::Starting { .. });
        let unit = self.unit_mut(ix);
        unit.state = state;
        let to = unit.shown();
        unit.word = to;
        if from != to {
            unit.since = now;
        }
        match (from == Word::Starting, is_starting) {
            (false, true) => self.starting += 1 + u32::from(planted!(StartCountsTwice)),
            (true, false) => {
                self.starting -= 1;
                self.release_held_back();
            }
            (true, true) | (false, false) => {}
        }
        self.rearm(ix);
        self.emit(ix, kind, from, to, cause);
        self.mark_around(ix);
    }

    /// Tells the world of a change, with the next number.
    pub(super) fn emit(&mut self, ix: Ix, kind: ChangeKind, from: Word, to: Word, cause: Cause) {
        self.seq += 1 + u64::from(planted!(SeqSkips));
        let seq = self.seq;
        let unit = self.unit_mut(ix);
        unit.last_seq = seq;
        let invocation = unit.state.life().map(|l| l.invocation).or(unit.last_invocation);
        let change = Change {
            seq,
            kind,
            unit: unit.spec.name.clone(),
            invocation,
            from,
            to,
            cause,
        };
        self.actions.push_back(Action::Emit(change));
    }

    fn on_log_drops(&mut self, unit: &UnitName, is_over: bool, text: String) {
        let Some(ix) = self.graph.find(unit) else { return };
        let word = self.unit(ix).word;
        let cause = cause::own(CauseKind::Log, self.unit(ix).last_seq, text);
        let kind = if is_over {
            ChangeKind::LogDropped
        } else {
            ChangeKind::LogDropping
        };
        self.emit(ix, kind, word, word, cause);
    }

    /// Brings the table of timers in line with the unit's state.
    pub(super) fn rearm(&mut self, ix: Ix) {
        let (old, new) = (self.unit(ix).armed, self.unit(ix).deadline());
        if old == new || planted!(TimerStays) {
            return;
        }
        if let Some(at) = old {
            self.timers.remove(&(at, ix));
        }
        if let Some(at) = new {
            self.timers.insert((at, ix));
        }
        // Not stored: it follows from the state.
        self.units[ix.0 as usize].armed = new;
    }

    /// Marks a unit and all its neighbours dirty.
    pub(super) fn mark_around(&mut self, ix: Ix) {
        let trigger = Trigger {
            seq: self.unit(ix).last_seq,
            unit: ix,
        };
        let graph = Arc::clone(&self.graph);
        let edges = graph.edges(ix);
        let neighbours = [
            &edges.requires,
            if planted!(WaitersForgotten) {
                &edges.requires
            } else {
                &edges.required_by
            },
            &edges.wants,
            &edges.wanted_by,
            &edges.after,
            &edges.before,
            &edges.conflicts,
        ];
        for &other in neighbours.into_iter().flatten() {
            self.dirty.insert((self.turn(other), other), Some(trigger));
        }
        for &v in &edges.required_by {
            self.unsettled.insert((graph.rank(v), v));
        }
        self.mark(ix);
    }

    /// Marks one unit dirty.
    pub(super) fn mark(&mut self, ix: Ix) {
        self.dirty.entry((self.turn(ix), ix)).or_insert(None);
        self.unsettled.insert((self.graph.rank(ix), ix));
    }

    /// Whose turn is first where not all may start at once: start order, and behind all others those that have failed
    /// an attempt. Else a few units that can never work would take the slots from units that were not tried yet.
    pub(super) fn turn(&self, ix: Ix) -> u32 {
        let rank = self.graph.rank(ix);
        if self.unit(ix).attempt_failed {
            rank.saturating_add(u32::try_from(self.units.len()).unwrap_or(u32::MAX))
        } else {
            rank
        }
    }

    /// A slot among the starting units is free: whoever waited only for that is looked at again.
    pub(super) fn release_held_back(&mut self) {
        for ix in std::mem::take(&mut self.held_back) {
            self.mark(ix);
        }
    }

    /// Handles every deadline that has passed.
    pub(super) fn expire(&mut self) {
        if self.is_paused {
            return;
        }
        while let Some(&(at, ix)) = self.timers.first() {
            if at > self.now {
                break;
            }
            self.timers.remove(&(at, ix));
            self.units[ix.0 as usize].armed = None;
            self.expire_hold(ix);
            if self.unit(ix).state.deadline().is_some_and(|at| at <= self.now) {
                self.on_deadline(ix);
            }
            self.expire_watch(ix);
            self.rearm(ix);
        }
        self.close_due_gates();
        self.fill_places();
        let now = self.now;
        if let Some(shutdown) = &mut self.shutdown
            && !shutdown.finished
            && shutdown.deadline <= now
        {
            if shutdown.killing {
                shutdown.finished = true;
                shutdown.code = shutdown.code.max(1);
                let code = shutdown.code;
                self.actions.push_back(Action::Finish { code });
            } else {
                shutdown.killing = true;
                shutdown.deadline = now.after(limits::KILL_TIMEOUT);
                self.kill_everything();
            }
        }
    }

    /// Everything is to go down, and the daemon to end with `code`. The first word counts.
    pub(super) fn on_shutdown(&mut self, cause: Cause, code: u8) {
        if self.shutdown.is_some() {
            return;
        }
        let deadline = self.now.after(self.node.shutdown_timeout);
        self.shutdown = Some(Shutdown {
            deadline,
            killing: false,
            code,
            finished: false,
        });
        for ix in self.graph.all() {
            let unit = self.unit_mut(ix);
            unit.restart_pending = false;
            if unit.desired == Desired::Up && !planted!(ShutdownWantsUp) {
                unit.desired = Desired::Down;
                unit.desired_cause = cause.clone();
            }
            self.mark(ix);
        }
    }

    /// Says `Finish` once everything is down.
    pub(super) fn finish_shutdown(&mut self) {
        let is_down = self.lives.is_empty() || planted!(FinishTooSoon);
        if let Some(shutdown) = &mut self.shutdown
            && !shutdown.finished
            && is_down
        {
            shutdown.finished = true;
            let code = shutdown.code;
            self.actions.push_back(Action::Finish { code });
        }
    }

    /// A cause within the unit, linked to its last event.
    pub(super) fn own_cause(&self, ix: Ix, kind: CauseKind, text: impl Into<String>) -> Cause {
        cause::own(kind, self.unit(ix).last_seq, text)
    }
}
