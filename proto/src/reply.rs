//! Everything that may be answered.
//!
//! Times are µs since 1970 (`_us`), durations ms (`_ms`). New variants go at the end, with a new
//! [`crate::frame::VERSION`]. Plain enums and structs only: the codec knows no skipped fields and no tags.

use serde::{Deserialize, Serialize};

pub use crate::answers::*;
pub use crate::checks::*;
pub use crate::log::{LineEnd, LogLine, LogStatus};

/// Units in one [`Reply::Units`] frame at most; more are sent in further frames.
pub const UNITS_PER_FRAME: usize = 128;

/// One frame of an answer. A stream ends with `End` or `Failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The request failed or was refused; nothing follows.
    Failed(Failure),
    /// The answer is complete.
    End,
    /// The node's header.
    Node(Box<NodeStatus>),
    /// Some of the units asked for.
    Units(Vec<UnitStatus>),
    /// A job was taken; it will touch these units.
    JobTaken(JobPlan),
    /// Something happened to a unit that a job, a wait or `events` looks at.
    Event(Box<Event>),
    /// The verdict on one unit of a job.
    Verdict(Verdict),
    /// Log lines in the order of their times.
    Logs(Vec<LogLine>),
    /// Definitions, for `show` and `cat`.
    Definition(Box<Definition>),
    /// Edges, for `deps`.
    Graph(Graph),
    /// Profiles, for `profile list`.
    Profiles(Vec<ProfileSummary>),
    /// One profile, for `profile show`.
    Profile(Box<Profile>),
    /// For `profile coverage`.
    Coverage(Coverage),
    /// For `deprecated`.
    Deprecated(Vec<DeprecatedUnit>),
    /// What `daemon-reload` did.
    Reloaded(Reloaded),
    /// For `version`.
    Version(VersionInfo),
    /// For completion.
    Names(Names),
    /// The stream lost frames because the client was slow; so many events were dropped.
    Lagged(u64),
    /// For `adopt`: what was done, or would be.
    Adopted(Box<Adopted>),
    /// For `upgrade`.
    Upgraded(Upgraded),
    /// What was asked for was done, and this has to be known about it: one sentence. Something else follows.
    Warning(String),
    /// For `why`.
    Why(Box<Why>),
    /// Before the first log lines: the node's random number, the first half of each invocation's text.
    Seed(u64),
    /// This is not the end: ask again on another connection, and say what was seen. Units came that are meant too.
    Again,
}

/// Why a request was not done. `code` is the exit code of `spec/cli.md`'s one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exit code that a client should end with.
    pub code: u8,
    /// One line: what and why.
    pub message: String,
    /// The unit concerned, if one.
    pub unit: Option<String>,
    /// How to mend it.
    pub hint: Option<String>,
    /// More lines, such as every fault of a configuration, already rendered.
    pub details: Vec<String>,
}

/// A unit's state, in the stable words of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing runs, and nothing is wanted to.
    Stopped,
    /// Wanted up, and waits for other units or for its turn.
    Waiting,
    /// On its way up; not yet ready.
    Starting,
    /// Ready.
    Running,
    /// Ready, and reading its configuration again.
    Reloading,
    /// On its way down.
    Stopping,
    /// Ended; starts again at `next_try_us`.
    Backoff,
    /// Down with its automatic tries used up.
    Failed,
    /// Ended by itself, as it should.
    Completed,
    /// Kept down by an operator's hold.
    Held,
}

/// How well a unit says, or is found, to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Nobody said.
    Unknown,
    /// Well.
    Healthy,
    /// Works, but not well.
    Degraded,
    /// Does not work.
    Unhealthy,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal {
        /// Its number, 1 to 64.
        signal: i32,
        /// A core was dumped.
        core: bool,
    },
    /// Nobody can say (it was another process's child).
    Unknown,
}

/// The header of `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The daemon's version.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// The active profiles.
    pub profiles: Vec<String>,
    /// The keeper's pid.
    pub pid: u32,
    /// How long the daemon has been up, in ms.
    pub uptime_ms: u64,
    /// How units are contained: `cgroup`, or `process group` with the reason.
    pub containment: String,
    /// Every wanted unit is running or completed, or has failed its first attempt.
    pub settled: bool,
    /// The daemon is shutting down.
    pub stopping: bool,
    /// How many are in which state.
    pub summary: Summary,
    /// Sentences that an operator should read first.
    pub notices: Vec<String>,
    /// Since when the daemon is up; its manager's deaths and upgrades do not count.
    pub started_us: u64,
    /// The node's breaker and those of categories, as far as they have limits.
    pub breakers: Vec<BreakerStatus>,
}

/// A limit on the automatic restarts of all units, or of a category's (`[breaker]`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerStatus {
    /// The category; empty: the node.
    pub category: String,
    /// Restarts within the window; of an open one, those before it tripped.
    pub restarts: u32,
    /// How many may be.
    pub limit: u32,
    /// The window, in ms.
    pub window_ms: u64,
    /// How often it has tripped since the node began.
    pub trips: u64,
    /// Absent: closed.
    pub open: Option<BreakerOpen>,
    /// Units that wait because of it, in the order of their names.
    pub held: Vec<String>,
}

/// No restarts for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerOpen {
    /// Since when.
    pub since_us: u64,
    /// Until when.
    pub until_us: u64,
    /// The event that told of it.
    pub seq: u64,
    /// The unit whose restart was one too many.
    pub unit: String,
}

/// Counts over the wanted units; `known` counts all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Units that are defined.
    pub known: u32,
    /// Units that should be up.
    pub wanted: u32,
    /// `running` or `reloading`.
    pub running: u32,
    /// `starting`.
    pub starting: u32,
    /// `waiting`.
    pub waiting: u32,
    /// `stopping`.
    pub stopping: u32,
    /// `backoff`.
    pub backoff: u32,
    /// `failed`.
    pub failed: u32,
    /// `completed`.
    pub completed: u32,
    /// `stopped`, though wanted when the daemon started.
    pub stopped: u32,
}

/// Everything known of one unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Its name.
    pub name: String,
    /// Its file's one line.
    pub description: String,
    /// Where it stands.
    pub state: State,
    /// How well it is.
    pub health: Health,
    /// It should be up.
    pub desired_up: bool,
    /// When it is tried again, if a time is set.
    pub next_try_us: Option<u64>,
    /// Its file says something else than what it runs with.
    pub needs_restart: bool,
    /// The main process.
    pub pid: Option<u32>,
    /// 32 hex digits: the life that `pid` belongs to, or the last one.
    pub invocation: Option<String>,
    /// Since when it is in `state`.
    pub since_us: u64,
    /// When the present life became ready.
    pub ready_us: Option<u64>,
    /// Other units may rely on it.
    pub ready: bool,
    /// Automatic restarts since the counter was last reset.
    pub restarts: u64,
    /// Launches of its main process in all.
    pub starts: u64,
    /// How its main process last ended.
    pub last_exit: Option<LastExit>,
    /// Why it last failed, in one sentence.
    pub last_error: Option<String>,
    /// The last lines of its log (`detail` only), escaped by whoever prints them.
    pub last_lines: Vec<LogLine>,
    /// Whom it waits for, each with a reason.
    pub blocked_by: Vec<Blocker>,
    /// Its category.
    pub category: String,
    /// `active`, `experimental`, `optional` or `advanced`.
    pub lifecycle: String,
    /// It counts for the node's readiness.
    pub critical: bool,
    /// It is deprecated: the live end of its replacement chain, or empty when there is none.
    pub deprecated: Option<String>,
    /// Who pulled it in, if no profile lists it.
    pub added_by: Option<String>,
    /// A remark such as `stand-in`.
    pub note: Option<String>,
    /// What it said of itself (`STATUS=`).
    pub status_text: Option<String>,
    /// CPU time of all its processes, in µs.
    pub cpu_us: Option<u64>,
    /// Resident memory of all its processes, in bytes.
    pub memory_bytes: Option<u64>,
    /// Processes that outlived a stop, if it failed.
    pub remains: Vec<u32>,
    /// It is held.
    pub held: Option<Hold>,
    /// How its health is found out, and what was found; absent where nothing watches it and it says nothing.
    pub check: Option<Box<CheckStatus>>,
    /// Why its health is what it is, in one sentence.
    pub health_text: Option<String>,
    /// Numbers that it reports of itself (`X_RINGRIFT_METRICS=`), by name: `[A-Za-z0-9_.:]`, at most 64 of them.
    pub metrics: Vec<(String, f64)>,
    /// Descriptors that it has kept for its next life (`FDSTORE=1`).
    pub fds_stored: u32,
    /// Its last failures, the newest last (`detail` only).
    pub capsules: Vec<Capsule>,
    /// How often it has failed, for as long as ringriftd remembers it.
    pub failures: u64,
    /// What became of its output, for as long as ringriftd remembers it (`detail` only).
    pub log: Option<LogStatus>,
}

/// How a main process last ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// How.
    pub exit: Exit,
    /// When.
    pub at_us: u64,
}

/// Why a unit waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// The unit that is waited for; empty when the node's own limit is.
    pub unit: String,
    /// In words: `is starting`, `is in back-off until …`.
    pub why: String,
}

/// What a job will touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlan {
    /// The units named.
    pub units: Vec<String>,
    /// Units not named that the job touches too.
    pub also: Vec<String>,
}

/// How it ended for one unit of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which.
    pub unit: String,
    /// How.
    pub outcome: Outcome,
    /// In words, for the line that is printed.
    pub text: String,
    /// From the request to the verdict, in ms.
    pub took_ms: u64,
    /// Everything was SIGKILLed at the end of the ladder.
    pub killed: bool,
    /// What is left, when a stop could not empty the unit.
    pub remains: Vec<u32>,
    /// When the next automatic try comes.
    pub next_try_us: Option<u64>,
}

/// The verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// As asked.
    Done,
    /// It was so already.
    Already,
    /// It did not work.
    Failed,
    /// A later request took its place.
    Superseded,
    /// Refused; nothing was done.
    Refused,
}

/// What kind of thing caused an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CauseKind {
    /// Somebody's request.
    Command,
    /// A process ended.
    Exit,
    /// Something was signalled: a signal to ringriftd, or a unit's own word (`READY=1`).
    Signal,
    /// A health probe.
    Probe,
    /// A time came.
    Timer,
    /// Another unit.
    Dependency,
    /// The files changed.
    Config,
    /// The daemon started.
    Boot,
    /// The daemon came back.
    Recovery,
    /// What became of its output.
    Log,
}

/// Why an event happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What kind of thing.
    pub kind: CauseKind,
    /// The event that led to this one, by its sequence number.
    pub seq: Option<u64>,
    /// The other unit.
    pub unit: Option<String>,
    /// Who asked.
    pub by: Option<By>,
    /// In words.
    pub text: String,
}

/// A unit's hold: nothing starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who holds it.
    pub by: By,
    /// Why.
    pub note: Option<String>,
    /// Since when.
    pub since_us: u64,
    /// Until when; absent: until `unhold`.
    pub until_us: Option<u64>,
}

/// Who gave a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// Their user id.
    pub uid: u32,
    /// Their process.
    pub pid: u32,
    /// What they asked for.
    pub verb: String,
}

/// A change of a unit's state, as the node remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 without holes.
    pub seq: u64,
    /// When.
    pub at_us: u64,
    /// The fleet's word for it: `DAEMON_STARTED`, `DAEMON_READY` …
    pub event: String,
    /// Which unit.
    pub unit: String,
    /// Which life of it, 32 hex digits.
    pub invocation: Option<String>,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why.
    pub cause: Cause,
}

/// A unit's definition, rendered by the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Which unit.
    pub unit: String,
    /// Its files as read, in the order in which they were laid over each other.
    pub files: Vec<SourceFile>,
    /// Every key with its value and where that came from.
    pub settings: Vec<Setting>,
}

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Where.
    pub path: String,
    /// What; cut at 64 KiB.
    pub text: String,
}

/// One effective value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Dotted: `restart.policy`.
    pub key: String,
    /// As TOML. Values of environment variables are never told; they read `"…"`.
    pub value: String,
    /// `file:line:column`, or `default`.
    pub origin: String,
}

/// Edges between units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// The units that were asked for.
    pub roots: Vec<String>,
    /// Every known edge.
    pub edges: Vec<Edge>,
}

/// One edge: `from` needs, or is ordered after, `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// The unit that says so.
    pub from: String,
    /// The unit that it names.
    pub to: String,
    /// Which key said so.
    pub kind: EdgeKind,
}

/// The kinds of edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EdgeKind {
    /// Pulled in, waited for until ready.
    Requires,
    /// Pulled in, waited for until ready or failed once.
    Wants,
    /// Order only.
    After,
    /// Never both.
    Conflicts,
}

/// A row of `profile list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileSummary {
    /// Its name.
    pub name: String,
    /// Its file's one line.
    pub description: String,
    /// It is active.
    pub active: bool,
    /// Units that it lists (its own and those of profiles that it extends).
    pub listed: u32,
    /// Units with what they require and want.
    pub total: u32,
}

/// One profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The row.
    pub summary: ProfileSummary,
    /// Members in start order.
    pub members: Vec<Member>,
}

/// A member of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which unit.
    pub unit: String,
    /// Its start position, if it has one.
    pub position: Option<u32>,
    /// Units of one wave may start together: the longest chain of requirements below it.
    pub wave: u32,
    /// Who pulled it in, if the profile does not list it.
    pub added_by: Option<String>,
    /// Deprecated.
    pub deprecated: bool,
}

/// Which units no profile has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Every profile with its number of listed units.
    pub profiles: Vec<ProfileSummary>,
    /// Units that no profile lists or pulls in, leaving out profiles that have every unit.
    pub orphans: Vec<Orphan>,
}

/// A unit in no profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Which unit.
    pub unit: String,
    /// `deprecated`, or its lifecycle.
    pub lifecycle: String,
    /// Its file's one line.
    pub description: String,
}

/// A deprecated unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeprecatedUnit {
    /// Which.
    pub unit: String,
    /// The replacement that its file names, if any.
    pub replaced_by: Option<String>,
    /// The unit at the end of the chain that is not deprecated itself; absent when the chain ends nowhere.
    pub live_end: Option<String>,
    /// How to migrate.
    pub note: String,
    /// Since when, as the file says it.
    pub since: Option<String>,
    /// When it goes, as the file says it (`2026-06-30`).
    pub remove_after: Option<String>,
    /// Its removal date has passed.
    pub overdue: bool,
    /// Active profiles that list it or pull it in.
    pub used_by: Vec<String>,
    /// Units that require, want or come after it.
    pub needed_by: Vec<String>,
}

/// What `daemon-reload` did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Now wanted, and starting.
    pub added: Vec<String>,
    /// No longer wanted, and stopping.
    pub removed: Vec<String>,
    /// Changed, and running as before until they are restarted.
    pub needs_restart: Vec<String>,
    /// Warnings, rendered.
    pub warnings: Vec<String>,
}

/// Versions and places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// The daemon's version.
    pub version: String,
    /// [`crate::frame::VERSION`].
    pub protocol: u32,
    /// The keeper's pid.
    pub keeper_pid: u32,
    /// The manager's pid.
    pub manager_pid: u32,
    /// The logger's pid.
    pub logger_pid: u32,
    /// `ringriftd.toml`, if there is one.
    pub config: Option<String>,
    /// Folders of units.
    pub units: Vec<String>,
    /// Folders of profiles.
    pub profiles: Vec<String>,
    /// The folder of the socket.
    pub runtime_dir: String,
    /// The folder of lock and state.
    pub state_dir: String,
    /// The folder of logs.
    pub log_dir: String,
}

/// For completion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// All units.
    pub units: Vec<String>,
    /// All profiles.
    pub profiles: Vec<String>,
    /// All categories.
    pub categories: Vec<String>,
}

/// A process that became, or would become, a unit's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Whose it is now.
    pub unit: String,
    /// The process.
    pub pid: u32,
    /// Its command line.
    pub command: String,
    /// The life that it is, 32 hex digits; absent when nothing was done.
    pub invocation: Option<String>,
    /// Nothing was done: this is what would be.
    pub dry_run: bool,
    /// What a process that ringriftd did not start lacks, one sentence each: its log, its exit code …
    pub lacks: Vec<String>,
}

/// An upgrade that was confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The version that ran before.
    pub from: String,
    /// The version that runs now.
    pub to: String,
}
