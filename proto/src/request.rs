//! Everything that may be asked. A closed enum: no name on the wire ever becomes code.
//!
//! New variants go at the end, with a new [`crate::frame::VERSION`].

use serde::{Deserialize, Serialize};

use crate::log::{Severity, Stream};

/// How many selectors a request may carry.
pub const MAX_SELECTORS: usize = 4096;
/// The longest selector, in bytes.
pub const MAX_SELECTOR: usize = 256;
/// The longest note of a hold, in bytes.
pub const MAX_NOTE: usize = 512;
/// The longest pattern of a command line or of log lines, in bytes.
pub const MAX_PATTERN: usize = 1024;
/// The longest path, in bytes (PATH_MAX less its NUL).
pub const MAX_PATH: usize = 4095;

/// Which log lines are wanted: those that meet all of it. Empty: any.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogFilter {
    /// Written at or after this time, in µs since 1970.
    pub since_us: Option<u64>,
    /// Written at or before this time, in µs since 1970.
    pub until_us: Option<u64>,
    /// Whose text matches this regular expression (of the regex crate), 1 to [`MAX_PATTERN`] bytes.
    pub pattern: Option<String>,
    /// Of one life.
    pub life: Option<LogLife>,
    /// As grave as this, or graver. A line that does not say counts as [`Severity::Info`].
    pub severity: Option<Severity>,
    /// Written there; what a unit wrote without telling its streams apart is left out.
    pub stream: Option<Stream>,
    /// Of these units only what was written then or later: a connection that was lost goes on where it ended.
    pub seen: Vec<LogSeen>,
}

/// How far somebody has read a unit's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSeen {
    /// Which.
    pub unit: String,
    /// The time of the last line that was read, in µs since 1970. Others may have it too.
    pub at_us: u64,
}

/// A life of a unit, for its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLife {
    /// The one with this serial, as the log has it.
    Is(u64),
    /// The one before the present or last one.
    Previous,
}

/// How much is told of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Depth {
    /// What the daemon knows, at once.
    Known,
    /// Also what it uses of processor and memory, which the kernel is asked for each.
    Usage,
    /// Also its last lines and failures (when few are selected).
    Detail,
}

/// A request. A *selector* is what a person types to mean units: a name (`auto_sync`, `AUTO-SYNC`), a glob
/// (`s3_*`), `@category`, `%profile` or `state:failed`. The daemon resolves selectors; an unknown one is an error that
/// names the nearest units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The node's header and its units: [`crate::reply::Reply::Node`], then [`crate::reply::Reply::Units`] …
    /// Without selectors every wanted unit, else exactly those selected.
    Status {
        /// Which units.
        selectors: Vec<String>,
        /// How much of each.
        depth: Depth,
        /// Without selectors: every unit that is known, wanted or not.
        all: bool,
    },
    /// Bring units up, and answer at the first verdict.
    Start(Job),
    /// Bring units down; done when nothing of them is left.
    Stop(Job),
    /// Stop, then start.
    Restart {
        /// Which, and how.
        job: Job,
        /// Leave units alone that do not run (`try-restart`).
        only_running: bool,
    },
    /// Run the units' own reload commands.
    Reload(Job),
    /// Send a signal.
    Kill {
        /// Which units.
        selectors: Vec<String>,
        /// The signal's number, 1 to 64.
        signal: i32,
        /// To whom.
        whom: Whom,
    },
    /// Forget failures, restart counts and back-off.
    ResetFailed {
        /// Which; none: all.
        selectors: Vec<String>,
    },
    /// The events so far, and with `follow` those to come: [`crate::reply::Reply::Event`] …
    Events {
        /// Which units; none: all.
        selectors: Vec<String>,
        /// Go on as events happen.
        follow: bool,
        /// Only events with a sequence number above this.
        after: Option<u64>,
        /// Only events at or after this time, in µs since 1970.
        since_us: Option<u64>,
    },
    /// Log lines: [`crate::reply::Reply::Logs`] …
    Logs {
        /// Which units; none: all.
        selectors: Vec<String>,
        /// Go on as lines come.
        follow: bool,
        /// At most so many of the last lines of each unit; absent: all that is kept.
        lines: Option<u64>,
        /// Which of them.
        filter: LogFilter,
    },
    /// A unit's definition with all defaults filled in and where each value came from.
    Show {
        /// Which.
        selectors: Vec<String>,
    },
    /// A unit's files as they were read.
    Cat {
        /// Which.
        selectors: Vec<String>,
    },
    /// Edges between units.
    Deps {
        /// The roots; none: every wanted unit.
        selectors: Vec<String>,
    },
    /// The profiles that are known.
    Profiles,
    /// One profile's members in start order.
    Profile {
        /// Its name.
        name: String,
    },
    /// Units in no profile but `full`-like ones, by lifecycle: [`crate::reply::Reply::Coverage`].
    Coverage,
    /// Deprecated units and the live end of their replacement chains.
    Deprecated,
    /// Wait until every selected unit is as wanted.
    Wait {
        /// Which.
        selectors: Vec<String>,
        /// What to wait for.
        target: WaitFor,
        /// How long, in ms; absent: for ever.
        timeout_ms: Option<u64>,
    },
    /// Read all files again; take all or nothing.
    DaemonReload,
    /// Stop every unit in order, then end.
    Shutdown,
    /// Versions and places of the daemon.
    Version,
    /// The names of all units, profiles and categories, for completion.
    Names,
    /// Keep units down: nothing starts a held unit. One that runs goes on until it ends.
    Hold {
        /// Which.
        selectors: Vec<String>,
        /// Why, in words, at most [`MAX_NOTE`] bytes on one line.
        note: Option<String>,
        /// The hold ends by itself then, in µs since 1970.
        until_us: Option<u64>,
    },
    /// End units' holds.
    Unhold {
        /// Which.
        selectors: Vec<String>,
    },
    /// Make a process that runs outside the unit's main process, without a restart: the one named, or the only one whose
    /// command line contains `pattern`. Exactly one of the two.
    Adopt {
        /// Which unit; a name.
        unit: String,
        /// The process.
        pid: Option<u32>,
        /// Part of its command line, its arguments joined by blanks; at most [`MAX_PATTERN`] bytes.
        pattern: Option<String>,
        /// Only say what would be done.
        dry_run: bool,
    },
    /// Replace the running ringriftd by another binary, in place.
    Upgrade {
        /// Where it is, absolute; absent: where the running one was started from.
        binary: Option<String>,
    },
    /// Why a unit is where it is, down to the causes: [`crate::reply::Reply::Why`].
    Why {
        /// Which unit; a name.
        unit: String,
    },
}

/// What start, stop, restart and reload have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Which units; at least one selector.
    pub selectors: Vec<String>,
    /// Wait for the verdict and report progress; else answer as soon as the request is taken.
    pub wait: bool,
    /// How long to wait, in ms. The job goes on past it.
    pub timeout_ms: Option<u64>,
    /// Also do what touches units that were not named (stopping those that require them).
    pub cascade: bool,
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whom {
    /// The main process.
    Main,
    /// Every process of the unit.
    All,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitFor {
    /// Running (ready), or completed.
    Running,
    /// Nothing of it is left.
    Stopped,
    /// Down with its automatic tries used up.
    Failed,
}
