//! One unit: where it is, where it should be, and what it remembers.
//!
//! # The states
//!
//! A unit has a *desired* state (up or down, set by operators, profiles and shutdown) and an *actual* state, and the
//! two are never mixed: a unit that is stopping may be wanted up again, and one that runs may be wanted down while it
//! waits for those that need it to go first. Everything that happens compares the two.
//!
//! Actual states without a life (nothing of the unit exists):
//!
//! * `Stopped`: nothing runs. Wanted up, it becomes `Waiting` in the same step.
//! * `Waiting`: wanted up, and held back by units that it is ordered after, by a conflict, or by the node's limit of
//!   units that start at once. `Engine::blockers` says by whom at any moment; nothing is stored.
//! * `Backoff { until }`: ended, and starts again then. An operator's start does not wait for it.
//! * `Failed { next_try }`: the automatic tries are used up, or made no sense. With a `next_try`, a slow one is coming.
//! * `Completed`: ended by itself, as it should (a oneshot's success; a clean exit that its policy does not restart).
//!
//! Actual states with a life (an invocation that the keeper knows processes of):
//!
//! * `Starting`: `start_pre` hooks, the launch, the wait for readiness, `start_post` hooks, in that order.
//!   A `[ready]` probe comes after what its kind asks for, and within the same time.
//! * `Running`: ready. The main process lives (or, for a oneshot that remains, has ended well).
//! * `Reloading`: running, while its reload commands run, or while it reads its configuration again by its own word
//!   (`RELOADING=1` until `READY=1`, at most for `[ready] timeout`).
//! * `Stopping`: hooks in the way are cleared, `stop_pre` hooks, the ladder of signals, SIGKILL to all that is left,
//!   `stop_post` hooks; it ends only when nothing of the life is left. *Every* life ends through `Stopping`, also one
//!   whose process died by itself (it may have left others behind), so that there is one way out. A unit that says
//!   `STOPPING=1` is on it too, as if it had got the first signal of its ladder (systemd does the same): its exit counts as
//!   one by itself, and when `[stop] timeout` has passed without it, the ladder begins.
//!
//! # Who may interrupt whom
//!
//! * A stop interrupts everything: what is starting or reloading turns to `Stopping` at once. A launch that the keeper
//!   has not answered yet cannot be signalled; the stop waits for the answer first (`StopPhase::AwaitMain`), since
//!   a signal sent before it would be lost and the process would stay.
//! * A start never interrupts a stop: the unit finishes stopping, and then, being wanted up, starts.
//! * A restart is a stop that leaves the unit wanted up.
//! * An exit interrupts whatever the unit does. In `Stopping` it is what was wanted.
//! * A timer only ever concerns the state that set it: it is part of the state and goes with it.
//!
//! # Which decider wins
//!
//! The last operator's word wins over an earlier one and over the profile. Shutdown wins over everything. A
//! dependency that went down for good holds a unit down (`Waiting`) without changing what is wanted, so that the unit
//! comes back by itself; only `recovered = "stay"` turns it to wanted down. A unit that is held down so is lost to
//! those that require it in turn (`Unit::is_lost`): a chain goes down in reverse as a whole, and comes back as one.
//!
//! A hold wins over everything that starts, and over nothing that stops or runs (see `hold`): a held unit without a life stays
//! in its state, is shown as `held`, and is lost to those that require it.
//!
//! # What is stored
//!
//! The manager may die after any event: what a unit remembers is stored with each one that changes it (`snapshot`), and
//! `restore` makes the same engine of it. Stored are all fields but those that follow from others: `spec` (from the files; of a unit
//! without a file, and of a life that began with another definition, the definition itself is stored), `word`, `armed`,
//! `is_held_down` and `is_taken_along`. Those four may be written past `Engine::unit_mut`; all others only through it,
//! since it notes what is to be stored.
//!
//! # News of the past
//!
//! Processes are named by `LaunchId`, never by pid, and an id is used once. News of an id that is not the present
//! life's changes nothing; it is counted. News may be told twice, by the keeper to a new manager: the second time changes
//! nothing either. A launch that the keeper does not know is asked for again under its own id, never under a new one.

use std::sync::Arc;

use proto::reply::{Cause, CauseKind, Exit, State as Word};
use serde::{Deserialize, Serialize};

use super::capsule::Witness;
use super::hold::Held;
use super::restart::Restarts;
use super::types::{Mono, Role};
use super::watch::{Checks, Watch};
use crate::ids::{Invocation, LaunchId};
use crate::spec::{Membership, UnitSpec};

/// A process of a life, from the question to the keeper until nothing of it is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its name between the roles.
    pub launch: LaunchId,
    /// What it is for.
    pub role: Role,
    /// How far it is.
    pub phase: ProcessPhase,
    /// SIGKILL was asked for.
    pub is_killed: bool,
}

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessPhase {
    /// The keeper was asked and has not answered. Nothing may be sent to it.
    Asked,
    /// It runs.
    Alive {
        /// Its pid.
        pid: u32,
        /// Its start time: a pid alone may be another process's by now.
        start_time: u64,
    },
    /// It ended and left others behind.
    Leaving,
    /// Nothing of it is left.
    Gone,
}

impl Process {
    /// A process that the keeper is just being asked for.
    pub fn asked(launch: LaunchId, role: Role) -> Self {
        Self {
            launch,
            role,
            phase: ProcessPhase::Asked,
            is_killed: false,
        }
    }
}

/// A process that nobody here started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// Its pid.
    pub pid: u32,
    /// Its start time (field 22 of /proc/PID/stat).
    pub start_time: u64,
}

/// One life of a unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    /// Its serial.
    pub invocation: Invocation,
    /// What kind of cause began it, for the events of its way up.
    pub began_by: CauseKind,
    /// The unit as it was defined when this life began; how it is stopped does not change under it.
    pub spec: Arc<UnitSpec>,
    /// The main process; absent before its launch.
    pub main: Option<Process>,
    /// How the main process ended, once it did.
    pub exit: Option<Exit>,
    /// The hook that runs now (or is being cleared away).
    pub hook: Option<Process>,
    /// How the hook's own process ended, while what it left is being killed.
    pub hook_exit: Option<Exit>,
    /// The number of the launch of the next hook or probe.
    pub next_step: u32,
    /// When it became ready.
    pub ready: Option<Mono>,
    /// A forking unit's main process was found: what is said of it again changes nothing.
    pub is_main_found: bool,
    /// Its main process was not launched but taken over from outside.
    pub foreign: Option<Foreign>,
    /// The command of a probe that runs now (or is being cleared away).
    pub probe: Option<Process>,
    /// How well it is.
    pub watch: Watch,
    /// What it said of itself that bears on what becomes of it.
    pub word: OwnWord,
    /// What was seen of it, for the case that it fails.
    pub witness: Witness,
}

/// What a life said of itself (sd_notify(3)) that bears on what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnWord {
    /// `RELOADING=1`, and no `READY=1` since; when it was heard.
    pub reloading: Option<Mono>,
    /// `STOPPING=1`: it ends by itself, and no signal was sent for it yet.
    pub is_ending: bool,
    /// That a word came too late was told once; whoever repeats itself fills no log.
    pub is_late_told: bool,
}

impl Life {
    /// A life of which nothing is there yet.
    pub fn new(invocation: Invocation, spec: Arc<UnitSpec>, began_by: CauseKind) -> Self {
        Self {
            invocation,
            began_by,
            spec,
            main: None,
            exit: None,
            hook: None,
            hook_exit: None,
            next_step: 1,
            ready: None,
            is_main_found: false,
            foreign: None,
            probe: None,
            watch: Watch::default(),
            word: OwnWord::default(),
            witness: Witness::default(),
        }
    }

    /// The main process can be signalled: it, or something that it left, is there.
    pub fn main_is_there(&self) -> bool {
        self.main
            .as_ref()
            .is_some_and(|p| matches!(p.phase, ProcessPhase::Alive { .. } | ProcessPhase::Leaving))
    }

    /// The main process's pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        match self.main.as_ref()?.phase {
            ProcessPhase::Alive { pid, .. } => Some(pid),
            ProcessPhase::Asked | ProcessPhase::Leaving | ProcessPhase::Gone => None,
        }
    }

    /// When the main process began, in the kernel's ticks since it booted, while it runs.
    pub fn main_start(&self) -> Option<u64> {
        match self.main.as_ref()?.phase {
            ProcessPhase::Alive { start_time, .. } => Some(start_time),
            ProcessPhase::Asked | ProcessPhase::Leaving | ProcessPhase::Gone => None,
        }
    }

    /// A launch of this life.
    pub fn process_mut(&mut self, launch: LaunchId) -> Option<&mut Process> {
        [self.main.as_mut(), self.hook.as_mut(), self.probe.as_mut()]
            .into_iter()
            .flatten()
            .find(|p| p.launch == launch)
    }

    /// The processes that are not gone.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        [self.main.as_ref(), self.hook.as_ref(), self.probe.as_ref()]
            .into_iter()
            .flatten()
            .filter(|p| p.phase != ProcessPhase::Gone)
    }
}

/// Where a start stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartPhase {
    /// `start_pre[n]` runs.
    Pre(u16),
    /// The main process was asked for; it runs or is about to; readiness is awaited.
    Activating,
    /// A forking unit's first process ended well; its main process is being looked for.
    FindingMain,
    /// All that its kind asks for is there; the `[ready]` probe has not succeeded yet.
    Probing,
    /// `start_post[n]` runs.
    Post(u16),
}

/// Where a stop stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopPhase {
    /// A hook of something else is in the way and is being killed.
    ClearHook,
    /// `stop_pre[n]` runs.
    Pre(u16),
    /// The main process was asked for and the keeper has not answered.
    AwaitMain,
    /// It hangs, and was sent SIGABRT, which leaves a trace of where.
    Abort,
    /// Rung `n` of the ladder was sent.
    Signal(usize),
    /// SIGKILL was sent to everything.
    Kill,
    /// `stop_post[n]` runs.
    Post(u16),
}

/// Why a life ends. The first reason stays: an exit during a wanted stop is part of the stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Somebody or something wanted it: a command, a dependency, a shutdown, the files.
    Wanted,
    /// The main process ended by itself after the unit was ready.
    Exited,
    /// It never became ready: in words.
    AttemptFailed(String),
    /// The host could not start it: in words.
    HostFailed(String),
    /// Its checks failed: in words.
    Unhealthy(String),
    /// Its watchdog ran out: in words.
    Hung(String),
}

/// The actual state. See the head of this file.
///
/// `L` is what is known of a life: [`Life`] in the engine, less of it in what is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum State<L = Life> {
    /// Nothing runs.
    Stopped,
    /// Wanted up, and held back.
    Waiting,
    /// On its way up.
    Starting {
        /// The life.
        life: Box<L>,
        /// How far.
        phase: StartPhase,
        /// When this phase has taken too long.
        deadline: Mono,
    },
    /// Ready.
    Running {
        /// The life.
        life: Box<L>,
    },
    /// Ready, and reloading.
    Reloading {
        /// The life.
        life: Box<L>,
        /// `reload[n]` runs.
        index: u16,
        /// When that hook has taken too long.
        deadline: Mono,
    },
    /// On its way down.
    Stopping {
        /// The life.
        life: Box<L>,
        /// How far.
        phase: StopPhase,
        /// When the next rung comes, or the hook has taken too long; absent while the keeper kills.
        deadline: Option<Mono>,
        /// Why.
        end: End,
        /// SIGKILL was needed.
        killed: bool,
    },
    /// Starts again then.
    Backoff {
        /// When.
        until: Mono,
    },
    /// The automatic tries are used up.
    Failed {
        /// A slow try.
        next_try: Option<Mono>,
    },
    /// Ended by itself, as it should.
    Completed,
}

impl<L> State<L> {
    /// The stable word.
    pub fn word(&self) -> Word {
        match self {
            Self::Stopped => Word::Stopped,
            Self::Waiting => Word::Waiting,
            Self::Starting { .. } => Word::Starting,
            Self::Running { .. } => Word::Running,
            Self::Reloading { .. } => Word::Reloading,
            Self::Stopping { .. } => Word::Stopping,
            Self::Backoff { .. } => Word::Backoff,
            Self::Failed { .. } => Word::Failed,
            Self::Completed => Word::Completed,
        }
    }

    /// The present life.
    pub fn life(&self) -> Option<&L> {
        match self {
            Self::Starting { life, .. }
            | Self::Running { life }
            | Self::Reloading { life, .. }
            | Self::Stopping { life, .. } => Some(life),
            Self::Stopped | Self::Waiting | Self::Backoff { .. } | Self::Failed { .. } | Self::Completed => {
                None
            }
        }
    }

    /// The present life, to change.
    pub fn life_mut(&mut self) -> Option<&mut L> {
        match self {
            Self::Starting { life, .. }
            | Self::Running { life }
            | Self::Reloading { life, .. }
            | Self::Stopping { life, .. } => Some(life),
            Self::Stopped | Self::Waiting | Self::Backoff { .. } | Self::Failed { .. } | Self::Completed => {
                None
            }
        }
    }

    /// The same state, with another picture of its life.
    pub fn map<M>(self, picture: impl FnOnce(L) -> M) -> State<M> {
        let turn = |life: Box<L>| Box::new(picture(*life));
        match self {
            Self::Stopped => State::Stopped,
            Self::Waiting => State::Waiting,
            Self::Starting {
                life,
                phase,
                deadline,
            } => State::Starting {
                life: turn(life),
                phase,
                deadline,
            },
            Self::Running { life } => State::Running { life: turn(life) },
            Self::Reloading {
                life,
                index,
                deadline,
            } => State::Reloading {
                life: turn(life),
                index,
                deadline,
            },
            Self::Stopping {
                life,
                phase,
                deadline,
                end,
                killed,
            } => State::Stopping {
                life: turn(life),
                phase,
                deadline,
                end,
                killed,
            },
            Self::Backoff { until } => State::Backoff { until },
            Self::Failed { next_try } => State::Failed { next_try },
            Self::Completed => State::Completed,
        }
    }

    /// It has a life that is not ending.
    pub fn is_active(&self) -> bool {
        matches!(
            self,
            Self::Starting { .. } | Self::Running { .. } | Self::Reloading { .. }
        )
    }

    /// The one time at which something must happen if nothing else does.
    pub fn deadline(&self) -> Option<Mono> {
        match self {
            Self::Starting { deadline, .. } | Self::Reloading { deadline, .. } => Some(*deadline),
            Self::Stopping { deadline, .. } => *deadline,
            Self::Backoff { until } => Some(*until),
            Self::Failed { next_try } => *next_try,
            Self::Stopped | Self::Waiting | Self::Running { .. } | Self::Completed => None,
        }
    }
}

/// What is wanted of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    /// It should be up.
    Up,
    /// It should be down.
    Down,
}

/// One unit.
#[derive(Debug, Clone)]
pub struct Unit {
    /// As it is defined now; the next life begins with this.
    pub spec: Arc<UnitSpec>,
    /// A file defines it; without one it is dropped once it is down.
    pub is_defined: bool,
    /// Why the node wants it, if a profile does.
    pub member: Option<Membership>,
    /// What is wanted.
    pub desired: Desired,
    /// Who wanted that.
    pub desired_cause: Cause,
    /// An operator's restart: it stops, and then starts though nothing else changed.
    pub restart_pending: bool,
    /// Where it is. Only `Engine::transition` changes which state it is.
    pub state: State,
    /// The state's word at the last transition.
    pub word: Word,
    /// The deadline of `state` as it stands in the engine's table of timers.
    pub armed: Option<Mono>,
    /// Since when.
    pub since: Mono,
    /// The number of the event that brought it there; 0 before the first.
    pub last_seq: u64,
    /// Its first attempt since it was wanted up has failed, or cannot be made because one that it requires has
    /// failed: units that only want it, or are only ordered after it, go ahead.
    pub attempt_failed: bool,
    /// One that it requires is lost (down for good, or lost itself), and that takes it down or keeps it down: those
    /// that require it are without it as if it had failed itself. Kept by `Engine::think`, so that it spreads along
    /// chains of any length without recursion.
    pub is_held_down: bool,
    /// It lives, and one that it requires is restarted (or taken along itself) and takes it along, by its
    /// `restarted = "restart"`. Kept by `Engine::think`, so that a chain stops in reverse before the first restarts.
    pub is_taken_along: bool,
    /// An operator's hold: nothing starts it.
    pub hold: Option<Held>,
    /// What its ends have cost it.
    pub restarts: Restarts,
    /// Main processes launched in all.
    pub starts: u64,
    /// The last life, for views.
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
    /// A remark of the launcher, such as `stand-in`.
    pub note: Option<String>,
    /// Lives that failed, in all.
    pub failures: u64,
    /// The number of the event that told of the last of them.
    pub last_failure: Option<u64>,
    /// Its last checks, those of earlier lives among them.
    pub checks: Checks,
}

impl Unit {
    /// A unit that nothing was done with yet.
    pub fn new(spec: Arc<UnitSpec>, now: Mono, cause: Cause) -> Self {
        Self {
            spec,
            is_defined: true,
            member: None,
            desired: Desired::Down,
            desired_cause: cause,
            restart_pending: false,
            state: State::Stopped,
            word: Word::Stopped,
            armed: None,
            since: now,
            last_seq: 0,
            attempt_failed: false,
            is_held_down: false,
            is_taken_along: false,
            hold: None,
            restarts: Restarts::default(),
            starts: 0,
            last_invocation: None,
            last_exit: None,
            last_error: None,
            remains: Vec::new(),
            last_stop_killed: false,
            reload_error: None,
            note: None,
            failures: 0,
            last_failure: None,
            checks: Checks::new(),
        }
    }

    /// The word for where it is: that of its state, or `held` for one without a life that nothing may start.
    pub fn shown(&self) -> Word {
        if self.hold.is_some() && self.state.life().is_none() {
            Word::Held
        } else {
            self.state.word()
        }
    }

    /// The one time at which something must happen if nothing else does.
    pub fn deadline(&self) -> Option<Mono> {
        let expiry = self.hold.as_ref().and_then(|held| held.until);
        let watch = self.state.life().and_then(|life| life.watch.deadline());
        [self.state.deadline(), expiry, watch].into_iter().flatten().min()
    }

    /// Others may rely on it: it is ready, or a oneshot that has done its work.
    pub fn is_satisfied(&self) -> bool {
        match &self.state {
            State::Running { .. } | State::Reloading { .. } => true,
            State::Completed => self.spec.exec.kind == crate::spec::Kind::Oneshot,
            State::Stopped
            | State::Waiting
            | State::Starting { .. }
            | State::Stopping { .. }
            | State::Backoff { .. }
            | State::Failed { .. } => false,
        }
    }

    /// Those that require it must not count on it for now: it is down for good, or held down by one that is.
    pub fn is_lost(&self) -> bool {
        self.is_held_down || self.is_down_for_good()
    }

    /// It is down, or about to be, and will not come back by itself soon.
    pub fn is_down_for_good(&self) -> bool {
        // A held one that runs is relied on, until it goes down for a restart: from that it does not come back.
        let is_going = self.restart_pending || self.is_taken_along;
        let is_held = self.hold.is_some() && (is_going || !self.state.is_active() && !self.is_satisfied());
        if self.desired == Desired::Down || is_held {
            return true;
        }
        match &self.state {
            State::Failed { .. } => true,
            State::Completed => self.spec.exec.kind != crate::spec::Kind::Oneshot,
            State::Stopped
            | State::Waiting
            | State::Starting { .. }
            | State::Running { .. }
            | State::Reloading { .. }
            | State::Stopping { .. }
            | State::Backoff { .. } => false,
        }
    }

    /// It runs with another definition than its files have now.
    pub fn needs_restart(&self) -> bool {
        self.state
            .life()
            .is_some_and(|life| life.spec.digest != self.spec.digest)
    }
}
