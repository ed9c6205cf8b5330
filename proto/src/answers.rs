//! Failures and their causes, as answers tell them.

use serde::{Deserialize, Serialize};

use crate::reply::{By, EdgeKind, Exit, LogLine, State};

/// One failure of a unit, with all that was known of it when it was over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capsule {
    /// The event that told of it.
    pub seq: u64,
    /// When.
    pub at_us: u64,
    /// Which life failed, 32 hex digits.
    pub invocation: String,
    /// What kind of failure.
    pub kind: FailureKind,
    /// Why, in one sentence.
    pub text: String,
    /// How the main process ended; absent when there was none.
    pub exit: Option<Exit>,
    /// Whether the kernel killed it for want of memory.
    pub oom: Oom,
    /// From the launch of the main process to its end, in ms; absent when it was never launched.
    pub lived_ms: Option<u64>,
    /// Of those, how long it was ready; absent when it never was.
    pub ready_ms: Option<u64>,
    /// CPU time, in µs: of all its processes where there is a cgroup, else of the main process and those that it waited for.
    pub cpu_us: Option<u64>,
    /// The most memory that it had, in bytes: of all its processes where the kernel counts that, else of the largest one.
    pub memory_peak: Option<u64>,
    /// Its last lines, escaped by whoever prints them.
    pub tail: Vec<LogLine>,
    /// `tail` was read: an empty one means that it wrote nothing.
    pub is_tail_known: bool,
    /// The digest of the definition that it ran by.
    pub digest: String,
    /// The last life that was ready for long enough to count as working; absent when no life ever was.
    pub worked: Option<Worked>,
    /// What is different since then; meaningless without `worked`.
    pub changed: Vec<Changed>,
}

/// What kinds of failures there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// The main process ended with a code.
    Exit,
    /// A signal ended it.
    Signal,
    /// It was not ready in time, or a hook was not through in time.
    Timeout,
    /// A health check, or its watchdog.
    Probe,
    /// It could not be started.
    Start,
    /// One of its hooks failed.
    Hook,
    /// Anything else, such as a main process that was not found.
    Other,
}

/// Whether the kernel killed a process for want of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Oom {
    /// It did not.
    #[default]
    No,
    /// It did: the cgroup's own counter says so.
    Yes,
    /// SIGKILL ended it, nobody here sent that, and the kernel did kill somebody meanwhile or does not say.
    Maybe,
}

/// A life that worked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worked {
    /// Which, 32 hex digits.
    pub invocation: String,
    /// Until when.
    pub until_us: u64,
    /// It is the very life that failed.
    pub is_this: bool,
}

/// Something that is not as it was when a unit last worked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// What kind of thing.
    pub kind: ChangedKind,
    /// In words, names only: never a value.
    pub text: String,
}

/// What may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangedKind {
    /// Keys of its definition.
    Definition,
    /// The file of its program.
    Program,
    /// ringriftd itself.
    Ringriftd,
    /// The machine was started anew.
    Boot,
    /// A unit that it needs was started anew.
    Dependency,
}

/// Why a unit is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// Which.
    pub unit: String,
    /// Its state.
    pub state: State,
    /// Nothing is wrong with it.
    pub fine: bool,
    /// In one sentence, without its name.
    pub text: String,
    /// Whom it waits for, and whom they wait for, down to the causes: itself first, then each before what it waits for.
    /// Every unit stands here once with all that it waits for; `depth` makes it a tree.
    pub chain: Vec<WhyStep>,
    /// Rows that were left out for their number.
    pub chain_left_out: u32,
    /// The causes: nothing else keeps it from being well.
    pub roots: Vec<WhyRoot>,
}

/// One unit on the way to a cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyStep {
    /// How far from the unit asked about.
    pub depth: u32,
    /// Which.
    pub unit: String,
    /// By which of its keys the unit above waits for it; absent for the unit asked about.
    pub edge: Option<EdgeKind>,
    /// Its state.
    pub state: State,
    /// What is with it, without its name.
    pub text: String,
    /// It is one of the causes.
    pub is_root: bool,
    /// It stands further up already, with what it waits for.
    pub is_repeated: bool,
    /// When it is tried again.
    pub next_try_us: Option<u64>,
}

/// A cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyRoot {
    /// Which unit; empty when it is the node itself.
    pub unit: String,
    /// What kind of cause.
    pub kind: RootKind,
    /// In words, without the unit's name.
    pub text: String,
    /// Since when.
    pub since_us: u64,
    /// The event that it became so by.
    pub seq: Option<u64>,
    /// Who wanted it so.
    pub by: Option<By>,
    /// When something happens by itself.
    pub next_try_us: Option<u64>,
    /// Its last failure, where the cause is one.
    pub capsule: Option<Capsule>,
    /// How many units it keeps from being up.
    pub blocks_count: u32,
    /// Which, in the order of their names; not all where they are very many.
    pub blocks: Vec<String>,
    /// What an operator may type, each with what it does.
    pub advice: Vec<Advice>,
}

/// Something to type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// The command.
    pub command: String,
    /// What it does.
    pub text: String,
}

/// The kinds of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    /// It ended, and starts again soon.
    Backoff,
    /// It met its restart limit, and is only tried now and then, or not any more.
    #[serde(rename = "crash-loop")]
    CrashLoop,
    /// It failed, and its files say that it is not tried again.
    Failed,
    /// A health check says that it does not work.
    Unhealthy,
    /// It is on its way up.
    Starting,
    /// It is on its way down.
    Stopping,
    /// An operator holds it.
    Held,
    /// Somebody stopped it.
    Stopped,
    /// Nothing wants it.
    Unwanted,
    /// It ended by itself, as it should.
    Completed,
    /// It stayed down after one that it requires went down (`recovered = "stay"`).
    Stayed,
    /// It runs, and another one may not run beside it.
    Conflict,
    /// The node starts only so many units at once.
    Limit,
    /// The node is on its way down.
    Shutdown,
    /// Nothing is in its way: it moves in the same moment.
    Moving,
    /// Too many units failed, and its restart waits until its breaker closes.
    Breaker,
}
