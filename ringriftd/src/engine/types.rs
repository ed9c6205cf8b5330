//! The engine's vocabulary: what it is told, what it asks for, and how it names things. Pure data.
//!
//! Read first: [`Event`] and [`Action`].

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::reply::{By, Cause, Exit, FailureKind, Health, Hold, Oom, Outcome, State};
use serde::{Deserialize, Serialize};

use super::hold::Held;
use super::unit::Foreign;
use crate::graph::Graph;
use crate::ids::{Invocation, LaunchId, Scope};
use crate::spec::{Membership, NodeSpec, Probe, UnitName, UnitSpec, serialize_named};
use crate::used::Used;

/// A point of the monotonic clock, in ns (clock_gettime(2), CLOCK_MONOTONIC): it stops in suspend, so that an
/// hour with the lid closed expires nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// This point and so much later; at the end of time it stays there.
    pub fn after(self, duration: std::time::Duration) -> Self {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(ns))
    }

    /// How long ago `earlier` was; zero if it is still to come.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What a launch is for. `RINGRIFT_ROLE` says it to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// The unit itself.
    Main,
    /// `start_pre[n]`.
    StartPre(u16),
    /// `start_post[n]`.
    StartPost(u16),
    /// `stop_pre[n]`.
    StopPre(u16),
    /// `stop_post[n]`.
    StopPost(u16),
    /// `reload[n]`.
    Reload(u16),
    /// The command of `[ready] probe`.
    ReadyProbe,
    /// The command of `[health] probe`.
    Probe,
}

impl Role {
    /// It asks how the unit is, and does nothing for it.
    pub fn is_probe(self) -> bool {
        matches!(self, Self::ReadyProbe | Self::Probe)
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Main => f.write_str("main"),
            Self::StartPre(n) => write!(f, "start_pre[{n}]"),
            Self::StartPost(n) => write!(f, "start_post[{n}]"),
            Self::StopPre(n) => write!(f, "stop_pre[{n}]"),
            Self::StopPost(n) => write!(f, "stop_post[{n}]"),
            Self::Reload(n) => write!(f, "reload[{n}]"),
            Self::ReadyProbe => f.write_str("ready.probe"),
            Self::Probe => f.write_str("health.probe"),
        }
    }
}

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchFailure {
    /// One sentence: what, on what, why, and how to mend it.
    pub text: String,
    /// The host failed, not the unit (no process, descriptor or memory left): it costs the unit nothing.
    pub host: bool,
}

/// A request under way, numbered by the manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// What an operator wants of some units. Selectors are resolved before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Up.
    Start {
        /// These.
        units: Vec<UnitName>,
    },
    /// Down.
    Stop {
        /// These.
        units: Vec<UnitName>,
        /// Units that require them may be stopped too.
        cascade: bool,
    },
    /// Down, then up.
    Restart {
        /// These.
        units: Vec<UnitName>,
        /// Leave those alone that do not run.
        only_running: bool,
        /// Units that must go down meanwhile may.
        cascade: bool,
    },
    /// Run their reload commands.
    Reload {
        /// These.
        units: Vec<UnitName>,
    },
    /// Send a signal.
    Kill {
        /// To these.
        units: Vec<UnitName>,
        /// 1 to 64.
        signal: i32,
        /// To whom in each.
        scope: Scope,
    },
    /// Forget failures and restart counts.
    ResetFailed {
        /// Of these.
        units: Vec<UnitName>,
    },
    /// Let nothing start them.
    Hold {
        /// These.
        units: Vec<UnitName>,
        /// The hold, with its end on both clocks.
        held: Held,
    },
    /// Let them go on as they are wanted.
    Unhold {
        /// These.
        units: Vec<UnitName>,
    },
    /// A process that runs outside becomes the unit's.
    Adopt {
        /// The unit; it is down.
        unit: UnitName,
        /// The process, as whoever chose it saw it.
        process: Foreign,
    },
}

/// All that the files say, checked. Loaded at once or not at all.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The node's own settings.
    pub node: NodeSpec,
    /// Every unit that is defined.
    pub units: BTreeMap<UnitName, Arc<UnitSpec>>,
    /// Those that the active profiles want, and why.
    pub members: BTreeMap<UnitName, Membership>,
    /// The edges between all units; without a cycle.
    pub graph: Arc<Graph>,
}

/// What happened. Recordings name it by these words (`tape`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Event {
    /// The files were read: at the start, and at each daemon-reload. A recording has the files themselves.
    #[serde(skip)]
    Loaded(Arc<Plan>),
    /// Somebody wants something.
    Request {
        /// Answered by exactly one [`Action::Reply`] carrying this.
        id: RequestId,
        /// What.
        op: Op,
        /// Who.
        by: By,
    },
    /// Nobody waits for this request's answer any more; what it began goes on.
    Forget {
        /// Which.
        id: RequestId,
    },
    /// Stop everything, then end.
    Shutdown {
        /// Why: a signal, or a request.
        cause: Cause,
    },
    /// The process runs its program.
    Launched {
        /// Which.
        launch: LaunchId,
        /// Its pid, for people, views and adoption: the engine decides nothing by it.
        pid: u32,
        /// Its start time (field 22 of /proc/PID/stat): with the pid, and within one boot, its identity.
        start_time: u64,
        /// A remark on what was run, such as `stand-in`.
        note: Option<String>,
    },
    /// It could not be started; nothing of it exists.
    LaunchFailed {
        /// Which.
        launch: LaunchId,
        /// Why.
        failure: LaunchFailure,
    },
    /// The launch's main process ended.
    Exited {
        /// Which.
        launch: LaunchId,
        /// How.
        exit: Exit,
        /// Processes of the launch that are still there, some of them; empty: nothing is left.
        remains: Vec<u32>,
    },
    /// Nothing of the launch is left. Comes after `Exited`, and only when that named remains.
    Emptied {
        /// Which.
        launch: LaunchId,
    },
    /// The keeper does not have it: it never came to be, or it ended unseen. One that the keeper has not answered yet is
    /// asked for again; of any other one, nothing is left.
    Lost {
        /// Which.
        launch: LaunchId,
    },
    /// SIGKILL was sent and these are still there.
    Unkillable {
        /// Which.
        launch: LaunchId,
        /// Pids.
        remains: Vec<u32>,
    },
    /// A forking unit's main process was found.
    MainFound {
        /// Which.
        launch: LaunchId,
        /// Its pid.
        pid: u32,
        /// Its start time.
        start_time: u64,
    },
    /// A forking unit left no main process that could be found.
    MainMissing {
        /// Which.
        launch: LaunchId,
        /// Why.
        why: String,
    },
    /// `READY=1`, or a newline on the descriptor. Who may say so was checked.
    Ready {
        /// Which life.
        invocation: Invocation,
    },
    /// `STOPPING=1`.
    Stopping {
        /// Which life.
        invocation: Invocation,
    },
    /// `RELOADING=1`: it reads its configuration again, until it says `READY=1`.
    Reloading {
        /// Which life.
        invocation: Invocation,
        /// `MONOTONIC_USEC=`: when it began, by its own word.
        at: Option<Mono>,
    },
    /// `MAINPID=`: the keeper has made sure that this process is the unit's, and watches it.
    MainChanged {
        /// Of which launch.
        launch: LaunchId,
        /// Its pid.
        pid: u32,
        /// Its start time.
        start_time: u64,
    },
    /// `EXTEND_TIMEOUT_USEC=`: the present deadline of start or stop is at least so far away.
    Extend {
        /// Which life.
        invocation: Invocation,
        /// From now.
        by: std::time::Duration,
    },
    /// A deadline may have passed.
    Tick,
    /// What a launch used, said just before [`Event::Exited`]: it decides nothing, and is told on with a failure.
    Used {
        /// Which.
        launch: LaunchId,
        /// What.
        used: Used,
    },
    /// The answer to [`Action::Probe`].
    Probed {
        /// Of which life.
        invocation: Invocation,
        /// The number that it was asked under.
        nr: u64,
        /// What came of it.
        result: ProbeResult,
    },
    /// `WATCHDOG=1`.
    Watchdog {
        /// Which life.
        invocation: Invocation,
    },
    /// `WATCHDOG=trigger`.
    WatchdogTrigger {
        /// Which life.
        invocation: Invocation,
    },
    /// `WATCHDOG_USEC=`: it will say `WATCHDOG=1` this often; zero: no more.
    WatchdogEvery {
        /// Which life.
        invocation: Invocation,
        /// How often.
        every: std::time::Duration,
    },
    /// `X_RINGRIFT_HEALTH=`.
    HealthSaid {
        /// Which life.
        invocation: Invocation,
        /// Its word.
        health: Health,
        /// Its status text.
        text: Option<String>,
    },
    /// Output of a unit was dropped, or is dropped no longer: it decides nothing, and is told on.
    LogDrops {
        /// Which.
        unit: UnitName,
        /// It is over.
        is_over: bool,
        /// In words.
        text: String,
    },
}

/// What came of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeResult {
    /// The unit is well.
    Passed,
    /// It is not: why.
    Failed(String),
    /// It could not be asked, which says nothing of it: why.
    Cannot(String),
    /// Nobody listened in time: to be asked again.
    Void,
}

/// What the world is asked to do. In order; each launch's actions stay in order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub enum Action {
    /// Start a process. Answered by `Launched` or `LaunchFailed`.
    Launch {
        /// Which.
        launch: LaunchId,
        /// What for.
        role: Role,
        /// The unit as it is defined now.
        #[serde(serialize_with = "serialize_named")]
        spec: Arc<UnitSpec>,
    },
    /// Take over a process that nobody here started. Answered by `Launched` or `LaunchFailed`.
    AdoptForeign {
        /// As which launch.
        launch: LaunchId,
        /// Its pid.
        pid: u32,
        /// Its start time: if that is another, so is the process.
        start_time: u64,
        /// The unit that it becomes part of.
        #[serde(serialize_with = "serialize_named")]
        spec: Arc<UnitSpec>,
    },
    /// Send a signal (and CONT after TERM, so that a stopped process can die). Nothing answers.
    Signal {
        /// To which launch.
        launch: LaunchId,
        /// 1 to 64.
        signal: i32,
        /// To whom in it.
        scope: Scope,
    },
    /// SIGKILL to everything of the launch until nothing is left. Answered by `Emptied` (or by `Exited` without
    /// remains), or by `Unkillable` again and again.
    Destroy {
        /// Which.
        launch: LaunchId,
    },
    /// Find a forking unit's main process. Answered by `MainFound` or `MainMissing`.
    FindMain {
        /// Which.
        launch: LaunchId,
        /// The unit, for its pid file.
        #[serde(serialize_with = "serialize_named")]
        spec: Arc<UnitSpec>,
    },
    /// The launch is over and its end is known: the keeper may forget it.
    Release {
        /// Which.
        launch: LaunchId,
    },
    /// Ask a life how it is. Answered by `Probed`, also when there is no answer within `timeout`.
    Probe {
        /// Which life.
        invocation: Invocation,
        /// To be said in the answer.
        nr: u64,
        /// How; never a command, which is launched.
        probe: Probe,
        /// For the whole of it.
        timeout: std::time::Duration,
        /// Only what was written since then counts; absent: since the launch.
        since: Option<Mono>,
        /// The unit as it was defined when this life began.
        #[serde(serialize_with = "serialize_named")]
        spec: Arc<UnitSpec>,
    },
    /// The one answer to a request.
    Reply {
        /// Which.
        id: RequestId,
        /// What came of it.
        answer: RequestAnswer,
    },
    /// Tell everybody who listens. The manager adds number and time.
    Emit(Change),
    /// Everything is down; the daemon may end with this code.
    Finish {
        /// The exit code.
        code: u8,
    },
    /// A life that has just ended was ready for as long as counts as stable (`[restart] stable_after`). Said before a
    /// [`Action::Failed`] of the same life.
    Worked {
        /// Whose.
        unit: UnitName,
        /// Which.
        invocation: Invocation,
    },
    /// A life that has just ended is a failure: all of it is known now that will be.
    Failed(Box<Failure>),
}

/// A life that failed, when nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Whose.
    pub unit: UnitName,
    /// Which life.
    pub invocation: Invocation,
    /// The number of the event that told of it.
    pub seq: u64,
    /// When that was.
    pub at: Mono,
    /// What kind.
    pub kind: FailureKind,
    /// Why, in one sentence.
    pub text: String,
    /// How the main process ended; absent when there was none.
    pub exit: Option<Exit>,
    /// Whether the kernel killed it for want of memory.
    pub oom: Oom,
    /// From the launch of the main process to its end.
    pub lived: Option<std::time::Duration>,
    /// Of those, how long it was ready.
    pub ready: Option<std::time::Duration>,
    /// What it used.
    pub used: Used,
    /// The digest of the definition that it ran by.
    pub digest: String,
}

/// The one answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestAnswer {
    /// Nothing was done.
    Refused(Refusal),
    /// What came of it for each unit, in the order of their names.
    Done(Vec<UnitAnswer>),
}

/// Why a request was refused as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It would stop units that were not named, and may not.
    WouldStop {
        /// Those.
        units: Vec<UnitName>,
    },
    /// Two units that it would bring up may never be up together.
    Conflict {
        /// This one.
        unit: UnitName,
        /// And this one.
        with: UnitName,
    },
    /// It would start a unit that is held.
    Held {
        /// The unit.
        unit: UnitName,
        /// By whom, and why.
        hold: Box<Hold>,
    },
    /// The unit cannot take a process from outside.
    NotAdopted {
        /// The unit.
        unit: UnitName,
        /// Why.
        why: String,
    },
    /// The daemon is on its way down.
    ShuttingDown,
    /// No unit of this name.
    Unknown {
        /// Which.
        unit: UnitName,
    },
    /// It would start a unit whose restarts pause.
    BreakerOpen {
        /// The unit.
        unit: UnitName,
        /// Which breaker, and for how long still.
        why: String,
    },
}

/// What came of a request for one unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitAnswer {
    /// Which.
    pub unit: UnitName,
    /// How.
    pub outcome: Outcome,
    /// In words.
    pub text: String,
    /// SIGKILL was needed.
    pub killed: bool,
    /// What is left of it.
    pub remains: Vec<u32>,
    /// When the next automatic try comes.
    pub next_try: Option<Mono>,
    /// From the request to the verdict.
    pub took: std::time::Duration,
}

/// The fleet's words for changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// The main process was launched.
    Started,
    /// It is ready.
    Ready,
    /// It is down, as wanted.
    Stopped,
    /// An attempt failed.
    Failed,
    /// It will be started again.
    Restarting,
    /// The restart limit was met.
    CrashLoop,
    /// It will not be tried again until told.
    PermanentlyFailed,
    /// Any other change of state.
    StatusChanged,
    /// Its health is another one; its state is the same.
    HealthChanged,
    /// Its restart was one too many for its category or the node; its state is the same.
    BreakerTripped,
    /// Restarts go on.
    BreakerClosed,
    /// Its log cannot be written, and what it writes is dropped; its state is the same.
    LogDropping,
    /// That is over.
    LogDropped,
}

impl ChangeKind {
    /// The word in events.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "DAEMON_STARTED",
            Self::Ready => "DAEMON_READY",
            Self::Stopped => "DAEMON_STOPPED",
            Self::Failed => "DAEMON_FAILED",
            Self::Restarting => "DAEMON_RESTARTING",
            Self::CrashLoop => "DAEMON_CRASH_LOOP_DETECTED",
            Self::PermanentlyFailed => "DAEMON_PERMANENTLY_FAILED",
            Self::StatusChanged => "DAEMON_STATUS_CHANGED",
            Self::HealthChanged => "DAEMON_HEALTH_CHANGED",
            Self::BreakerTripped => "DAEMON_CASCADE_BREAKER_TRIPPED",
            Self::BreakerClosed => "DAEMON_CASCADE_RECOVERY_COMPLETE",
            Self::LogDropping => "DAEMON_LOG_DROPPING",
            Self::LogDropped => "DAEMON_LOG_DROPPED",
        }
    }
}

/// A change of one unit's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its sequence number: 1, 2, 3 …
    pub seq: u64,
    /// The word.
    pub kind: ChangeKind,
    /// Which unit.
    pub unit: UnitName,
    /// Which life.
    pub invocation: Option<Invocation>,
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Why.
    pub cause: Cause,
}
