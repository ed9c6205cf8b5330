//! The engine as it is stored: everything that it remembers and nothing that follows from it.
//!
//! Stored are the node's own numbers, of each unit what is wanted, where it is and what its past has cost, and the requests
//! under way. Not stored are the files (the plan comes from their texts, which the manager keeps beside this), nor what
//! [`super::Engine::restore`] can work out again: the tables of lives, timers and starting units, and what units think of each
//! other.
//!
//! A [`Snapshot`] is the whole; a [`Delta`] is what one event changed. A snapshot and all deltas since are the present. Both
//! are made for a format that names its fields: a field that comes later gets `#[serde(default)]`, so that what an earlier
//! version stored can still be read; one that goes is left out by whoever does not know it.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::reply::{Cause, CauseKind, Exit};
use serde::{Deserialize, Serialize};

use super::breaker::Breakers;
use super::capsule::Witness;
use super::hold::Held;
use super::machine::Shutdown;
use super::request::{Pending, RequestChange};
use super::restart::Restarts;
use super::types::{Mono, RequestId, Role};
use super::unit::{Desired, Foreign, OwnWord, Process, ProcessPhase, State};
use super::watch::{Checks, Watch};
use crate::ids::{Invocation, LaunchId};
use crate::spec::{Membership, UnitName, UnitSpec};

/// The whole engine.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Its own numbers.
    pub node: StoredNode,
    /// Every unit.
    pub units: BTreeMap<UnitName, StoredUnit>,
    /// Requests under way.
    pub requests: BTreeMap<RequestId, Pending>,
    /// What limits restarts.
    pub breakers: Breakers,
}

/// What changed since the last one was taken.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Delta {
    /// The engine's own numbers, all of them.
    pub node: StoredNode,
    /// Units that are no longer there.
    pub dropped: Vec<UnitName>,
    /// Units that may have changed, whole.
    pub units: BTreeMap<UnitName, StoredUnit>,
    /// What happened to requests, in order.
    pub requests: Vec<RequestChange>,
    /// What limits restarts, if that may have changed.
    pub breakers: Option<Breakers>,
}

impl Delta {
    /// Nothing of it matters to whoever comes back from it: time has passed.
    pub fn is_empty(&self) -> bool {
        self.dropped.is_empty()
            && self.units.is_empty()
            && self.requests.is_empty()
            && self.breakers.is_none()
    }
}

/// The engine's own numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredNode {
    /// What jitter is made from.
    pub seed: u64,
    /// The time of the last event.
    pub now: Mono,
    /// The serial of the next life.
    pub next_invocation: u64,
    /// The number of the last change that was told.
    pub seq: u64,
    /// The way down, if it is on it.
    pub shutdown: Option<Shutdown>,
    /// A plan was loaded: this is not a beginning.
    pub loaded: bool,
    /// News of lives that were over.
    pub stale: u64,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredUnit {
    /// Its definition, where no file defines it any more; else it stands in the plan.
    pub leftover: Option<Arc<UnitSpec>>,
    /// Why the node wants it, if a profile does. A load compares: only what it changes counts.
    pub member: Option<Membership>,
    /// What is wanted.
    pub desired: Desired,
    /// Who wanted that.
    pub desired_cause: Cause,
    /// An operator's restart is under way.
    pub restart_pending: bool,
    /// Where it is.
    pub state: State<StoredLife>,
    /// Since when.
    pub since: Mono,
    /// The number of the event that brought it there.
    pub last_seq: u64,
    /// Its first attempt has failed.
    pub attempt_failed: bool,
    /// An operator's hold.
    pub hold: Option<Held>,
    /// What its ends have cost it.
    pub restarts: Restarts,
    /// Main processes launched in all.
    pub starts: u64,
    /// The last life.
    pub last_invocation: Option<Invocation>,
    /// How the last main process ended.
    pub last_exit: Option<(Exit, Mono)>,
    /// Why it last failed.
    pub last_error: Option<String>,
    /// Pids that SIGKILL did not remove.
    pub remains: Vec<u32>,
    /// Its last stop needed SIGKILL.
    pub last_stop_killed: bool,
    /// Why its last reload failed.
    pub reload_error: Option<String>,
    /// A remark of the launcher.
    pub note: Option<String>,
    /// Lives that failed.
    #[serde(default)]
    pub failures: u64,
    /// The event of the last of them.
    #[serde(default)]
    pub last_failure: Option<u64>,
    /// Its last checks.
    #[serde(default)]
    pub checks: Checks,
}

/// One life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredLife {
    /// Its serial.
    pub invocation: Invocation,
    /// What began it.
    pub began_by: CauseKind,
    /// The definition that it began with, where that is not the unit's present one.
    pub spec: Option<Arc<UnitSpec>>,
    /// The main process.
    pub main: Option<Process>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// The hook that runs.
    pub hook: Option<Process>,
    /// How the hook's own process ended.
    pub hook_exit: Option<Exit>,
    /// The number of the launch of the next hook or probe.
    pub next_step: u32,
    /// When it became ready.
    pub ready: Option<Mono>,
    /// A forking unit's main process was found.
    pub is_main_found: bool,
    /// Its main process was taken over from outside.
    pub foreign: Option<Foreign>,
    /// The command of a probe that runs.
    #[serde(default)]
    pub probe: Option<Process>,
    /// How well it is.
    #[serde(default)]
    pub watch: Watch,
    /// What it said of itself.
    #[serde(default)]
    pub word: OwnWord,
    /// What was seen of it.
    #[serde(default)]
    pub witness: Witness,
}

impl Snapshot {
    /// Books what changed.
    pub fn apply(&mut self, delta: Delta) {
        self.node = delta.node;
        for name in &delta.dropped {
            self.units.remove(name);
        }
        self.units.extend(delta.units);
        for change in delta.requests {
            change.apply(&mut self.requests);
        }
        if let Some(breakers) = delta.breakers {
            self.breakers = breakers;
        }
    }

    /// What remains of it on another boot: no process is left of any life, and nobody waits for an answer. Wants, holds
    /// and the history of restarts stay. A monotonic clock begins anew with each boot: `shift` is what to add to an old
    /// time, in ns, and `now` the new clock's time; should the wall clocks that `shift` came from be wrong, nothing of the past lies
    /// in the future, and nothing to come is further away than it was.
    ///
    /// What limits restarts begins anew: a node's start-up is no restart.
    ///
    /// A node that was on its way down when it lost power had ended, as far as its wants go.
    pub fn on_other_boot(self, shift: i64, now: Mono) -> Self {
        if self.node.shutdown.is_some() {
            return self.after_end(shift, now);
        }
        let clock = NewClock {
            shift,
            old_now: self.node.now,
            now,
        };
        let is_defined = |unit: &StoredUnit| unit.leftover.is_none();
        let units = self.units.into_iter().filter(|(_, unit)| is_defined(unit));
        Self {
            node: self.node.anew(now),
            units: units
                .map(|(name, unit)| (name, unit.on_other_boot(clock)))
                .collect(),
            requests: BTreeMap::new(),
            breakers: Breakers::default(),
        }
    }

    /// What remains of it after an orderly end: holds. What is wanted is then for the profiles to say, and numbers go on
    /// without a hole or a repeat. `shift` and `now` as for [`Snapshot::on_other_boot`]; on the same boot `shift` is 0.
    pub fn after_end(self, shift: i64, now: Mono) -> Self {
        let clock = NewClock {
            shift,
            old_now: self.node.now,
            now,
        };
        let held = |(name, unit): (UnitName, StoredUnit)| {
            let hold = unit.hold.as_ref()?.on_other_clock(clock);
            Some((name, unit.only_held(hold, now)))
        };
        Self {
            node: self.node.anew(now),
            units: self.units.into_iter().filter_map(held).collect(),
            requests: BTreeMap::new(),
            breakers: Breakers::default(),
        }
    }
}

/// A main process that lives, of a life that may be newer than what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// Whose.
    pub unit: UnitName,
    /// Its life.
    pub invocation: Invocation,
    /// The process.
    pub pid: u32,
    /// Its start time (field 22 of /proc/PID/stat).
    pub start_time: u64,
}

impl Snapshot {
    /// What is stored may be a moment behind what is there: a unit whose main process is of a later life than the stored
    /// one runs, with that life, and is not started a second time. That it was ready is taken as given. False where the
    /// stored life is this one, or a later one, or the unit is unknown. With `is_behind`, what is stored may be older than
    /// this very life's beginning: one that was only being started then runs as well.
    pub fn take_in(&mut self, survivor: &Survivor, is_behind: bool, now: Mono) -> bool {
        let Some(unit) = self.units.get_mut(&survivor.unit) else {
            return false;
        };
        let life = survivor.invocation;
        // A leftover of a life that is known to have ended is no life.
        let is_known = match unit.state.life() {
            Some(stored) if stored.invocation == life => {
                let is_alive = stored
                    .main
                    .as_ref()
                    .is_some_and(|main| main.phase != ProcessPhase::Asked);
                let is_beginning = matches!(unit.state, State::Starting { .. }) && !is_alive;
                !(is_behind && is_beginning && stored.foreign.is_none())
            }
            Some(stored) => stored.invocation > life,
            None => unit.last_invocation.is_some_and(|last| last >= life),
        };
        if is_known {
            return false;
        }
        let main = Process {
            phase: ProcessPhase::Alive {
                pid: survivor.pid,
                start_time: survivor.start_time,
            },
            ..Process::asked(LaunchId::main(life), Role::Main)
        };
        unit.state = State::Running {
            life: Box::new(StoredLife {
                invocation: life,
                began_by: CauseKind::Recovery,
                spec: None,
                main: Some(main),
                exit: None,
                hook: None,
                hook_exit: None,
                next_step: 1,
                ready: Some(now),
                is_main_found: true,
                foreign: None,
                probe: None,
                watch: Watch::default(),
                word: OwnWord::default(),
                witness: Witness::default(),
            }),
        };
        unit.desired = Desired::Up;
        unit.attempt_failed = false;
        unit.restarts.take_due();
        unit.since = now;
        unit.starts = unit.starts.saturating_add(1);
        unit.last_invocation = Some(life);
        self.node.next_invocation = self.node.next_invocation.max(life.0.saturating_add(1));
        true
    }
}

impl StoredNode {
    /// The same node at a new beginning.
    fn anew(self, now: Mono) -> Self {
        Self {
            seed: self.seed,
            now,
            next_invocation: self.next_invocation,
            seq: self.seq,
            shutdown: None,
            loaded: false,
            stale: self.stale,
        }
    }
}

impl StoredUnit {
    fn on_other_boot(mut self, clock: NewClock) -> Self {
        self.state = match self.state {
            // Oneshots too: what they did to the last boot's machine is not done to this one.
            State::Stopped
            | State::Waiting
            | State::Starting { .. }
            | State::Running { .. }
            | State::Reloading { .. }
            | State::Stopping { .. }
            | State::Completed => {
                self.attempt_failed = false;
                self.restarts.take_due();
                State::Stopped
            }
            State::Backoff { until } => State::Backoff {
                until: clock.to_come(until),
            },
            State::Failed { next_try } => State::Failed {
                next_try: next_try.map(|at| clock.to_come(at)),
            },
        };
        self.restart_pending = false;
        self.since = clock.past(self.since);
        self.hold = self.hold.map(|hold| hold.on_other_clock(clock));
        self.restarts.on_other_clock(&|at| clock.past(at));
        self.last_exit = self.last_exit.map(|(exit, at)| (exit, clock.past(at)));
        self.remains.clear();
        self.last_stop_killed = false;
        self.reload_error = None;
        self.note = None;
        for check in &mut self.checks {
            check.at = clock.past(check.at);
        }
        self
    }

    /// Its hold, and nothing else.
    fn only_held(self, hold: Held, now: Mono) -> Self {
        Self {
            leftover: None,
            member: None,
            desired: Desired::Down,
            desired_cause: self.desired_cause,
            restart_pending: false,
            state: State::Stopped,
            since: now,
            last_seq: self.last_seq,
            attempt_failed: false,
            hold: Some(hold),
            restarts: Restarts::default(),
            starts: 0,
            last_invocation: self.last_invocation,
            last_exit: None,
            last_error: None,
            remains: Vec::new(),
            last_stop_killed: false,
            reload_error: None,
            note: None,
            failures: self.failures,
            last_failure: self.last_failure,
            checks: Checks::new(),
        }
    }
}

/// From one monotonic clock to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewClock {
    shift: i64,
    old_now: Mono,
    now: Mono,
}

impl NewClock {
    /// A time that was past.
    pub(super) fn past(self, at: Mono) -> Mono {
        Mono(at.0.saturating_add_signed(self.shift)).min(self.now)
    }

    /// A time that was to come.
    pub(super) fn to_come(self, at: Mono) -> Mono {
        let at_most = self.now.after(at.since(self.old_now));
        Mono(at.0.saturating_add_signed(self.shift)).min(at_most)
    }
}
