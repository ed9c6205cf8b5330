//! A validated unit as pure data: what the files said, every default filled in, every name resolved. Made only by
//! `config`; read by the engine, the launcher and the views. Nothing here can be wrong any more.
//!
//! Read first: [`UnitSpec`] and [`Exec`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::breaker::BreakerSpec;
use crate::door::HttpSpec;
use crate::limits;
pub use crate::unit_name::UnitName;

/// What the seeds say of a unit's place in production. Deprecation is a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Lifecycle {
    /// In use.
    #[default]
    Active,
    /// Not ready for production.
    Experimental,
    /// An enhancement that a node may do without.
    Optional,
    /// Needs an operator who knows it.
    Advanced,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitSpec {
    /// The stem of its file.
    pub name: UnitName,
    /// One line.
    pub description: String,
    /// `misc` when its file names none.
    pub category: String,
    /// The seeds' class.
    pub lifecycle: Lifecycle,
    /// Counts for the node's readiness.
    pub critical: bool,
    /// When it ends for good, the daemon stops the rest and exits with its code.
    pub essential: bool,
    /// Pulled in; waited for until ready; stopped after this unit.
    pub requires: Vec<UnitName>,
    /// Pulled in; waited for until ready or its first attempt has failed.
    pub wants: Vec<UnitName>,
    /// Order only.
    pub after: Vec<UnitName>,
    /// Order only, the other way round.
    pub before: Vec<UnitName>,
    /// Never both up.
    pub conflicts: Vec<UnitName>,
    /// Breaks ties between units that are free to start; smaller first, none last.
    pub startup_position: Option<u32>,
    /// What runs.
    pub exec: Exec,
    /// `[ready] timeout`: from the launch to readiness.
    pub ready_timeout: Duration,
    /// `[health] interval`: told to the daemon, which reports as often.
    pub health_interval: Duration,
    /// When and how it is started again.
    pub restart: Restart,
    /// What happens when a unit that it requires goes down; for all of them.
    pub on_dependency: OnDependency,
    /// The same for one of them.
    pub on_dependency_of: BTreeMap<UnitName, OnDependency>,
    /// How it is stopped.
    pub stop: Stop,
    /// What is kept of its output.
    pub log: Log,
    /// It should be replaced.
    pub deprecated: Option<Deprecated>,
    /// A digest of all that stands here, as hex: two units with the same digest are the same unit.
    pub digest: String,
    /// `[ready] probe`: ready only when it first succeeds, after all that its kind asks for.
    #[serde(default)]
    pub ready_probe: Option<Probe>,
    /// `[health]`, when it says more than `interval`: what is watched, and what then.
    #[serde(default)]
    pub health: Option<HealthSpec>,
}

impl UnitSpec {
    /// What is to happen to this unit when `dependency` goes down or comes back.
    pub fn on_dependency(&self, dependency: &UnitName) -> OnDependency {
        self.on_dependency_of
            .get(dependency)
            .copied()
            .unwrap_or(self.on_dependency)
    }
}

/// A definition as recordings name it: the unit and the digest of all that it says, which stands in the recording's files.
pub fn serialize_named<S: Serializer>(spec: &Arc<UnitSpec>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{} {}", spec.name, spec.digest))
}

/// One way to ask a unit how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// A GET of this URL is answered with 2xx.
    Http(Template),
    /// `host:port` accepts a connection.
    Tcp(Template),
    /// It exits with 0.
    Command(Argv),
    /// There is such a file.
    File(Template),
    /// The unit wrote a line that matches this regular expression.
    LogLine(String),
}

impl Probe {
    /// The key by which a file chooses it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Command(_) => "command",
            Self::File(_) => "file",
            Self::LogLine(_) => "log_line",
        }
    }

    /// The texts in which variables stand.
    pub fn templates(&self) -> &[Template] {
        match self {
            Self::Http(text) | Self::Tcp(text) | Self::File(text) => std::slice::from_ref(text),
            Self::Command(argv) => argv,
            Self::LogLine(_) => &[],
        }
    }
}

/// `[health] on_failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum OnUnhealthy {
    /// It is stopped, and started again by its `[restart]`.
    #[default]
    Restart,
    /// Its health says so.
    Mark,
    /// It is recorded, and nothing else.
    Ignore,
}

/// `[health]`; its `interval` is [`UnitSpec::health_interval`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSpec {
    /// What is asked; without one, what the unit says of itself counts.
    pub probe: Option<Probe>,
    /// After ready, before the first probe and the first report that counts.
    pub grace: Duration,
    /// In a row, until it is unhealthy; at least 1.
    pub failures: u32,
    /// For each probe; at most the interval, so that no two overlap.
    pub timeout: Duration,
    /// `WATCHDOG=1` is expected this often, from ready on.
    pub watchdog: Option<Duration>,
    /// What then. A missed watchdog always ends the life.
    pub on_failure: OnUnhealthy,
}

/// How a unit says that it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Kind {
    /// As soon as its program runs.
    #[default]
    Simple,
    /// By `READY=1` on NOTIFY_SOCKET.
    Notify,
    /// By a newline on a descriptor (s6).
    Fd,
    /// By its first process's exit with 0, which leaves the main process behind.
    Forking,
    /// By its exit with 0.
    Oneshot,
}

/// Who in the unit may send notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum NotifyAccess {
    /// The main process.
    #[default]
    Main,
    /// Every process of the unit.
    All,
}

/// A text with `${NAME}` and `${NAME:-default}`, parsed when the file is read, filled in at each launch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Template(pub Vec<Piece>);

/// A piece of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// A variable of the unit's environment.
    Variable {
        /// Its name.
        name: String,
        /// What stands in when it is unset; without one an unset name fails the start.
        default: Option<String>,
    },
}

impl Template {
    /// A text without variables.
    pub fn literal(text: &str) -> Self {
        Self(vec![Piece::Text(text.to_owned())])
    }

    /// The text with its variables filled in by `lookup`, or the name of the first that is unset.
    pub fn fill(&self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Variable { name, default } => match (lookup(name), default) {
                    (Some(value), _) => out.push_str(&value),
                    (None, Some(default)) => out.push_str(default),
                    (None, None) => return Err(name.clone()),
                },
            }
        }
        Ok(out)
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => f.write_str(&text.replace('$', "$$"))?,
                Piece::Variable { name, default: None } => write!(f, "${{{name}}}")?,
                Piece::Variable {
                    name,
                    default: Some(default),
                } => write!(f, "${{{name}:-{default}}}")?,
            }
        }
        Ok(())
    }
}

/// A program with its arguments, never a shell line.
pub type Argv = Vec<Template>;

/// What a unit runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// `command = […]`.
    Direct(Argv),
    /// `runner = "…"`, with the runner's definition and the unit's `args` appended to whichever command it chooses.
    Runner {
        /// Its name.
        name: String,
        /// The runner.
        runner: Arc<Runner>,
        /// The unit's `args`.
        args: Argv,
    },
}

/// `[runner.NAME]` of `ringriftd.toml`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Runner {
    /// What it runs, before the unit's `args`.
    pub command: Argv,
    /// When one of these is unset or empty in the unit's environment, `otherwise` is run.
    pub requires_env: Vec<String>,
    /// Variables taken over from ringriftd's own environment when the unit's own does not set them.
    pub pass_env: Vec<String>,
    /// The stand-in, before the unit's `args`; without one the start fails.
    pub otherwise: Option<Argv>,
    /// How a unit that runs `otherwise` is marked.
    pub note: Option<String>,
    /// The unit that `command` is forked from, as the file spells it.
    #[serde(default)]
    pub zygote: Option<String>,
}

/// A resource limit of a process (setrlimit(2)); `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// The `RLIMIT_*` number.
    pub resource: u32,
    /// What applies.
    pub soft: Option<u64>,
    /// How far the process may raise it.
    pub hard: Option<u64>,
}

/// `[exec]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// How it becomes ready.
    pub kind: Kind,
    /// What runs.
    pub command: Command,
    /// Where; the root folder when absent.
    pub working_dir: Option<Template>,
    /// Variables, in the order of their names, those of `[defaults.unit.exec]` among them.
    pub env: BTreeMap<String, Template>,
    /// Files of variables, read at each start.
    pub env_files: Vec<EnvFile>,
    /// Names taken over from ringriftd's own environment.
    pub pass_env: Vec<String>,
    /// A name or a number; ringriftd's own when absent.
    pub user: Option<String>,
    /// A name or a number; the user's own when absent.
    pub group: Option<String>,
    /// Names or numbers; those that the system lists for the user when absent.
    pub supplementary_groups: Option<Vec<String>>,
    /// 0 to 0o777.
    pub umask: u32,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000; units start at 0 when absent, whatever ringriftd's own is.
    pub oom_score_adj: Option<i32>,
    /// Limits.
    pub rlimits: Vec<Rlimit>,
    /// No program that it runs may gain privileges (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
    /// A oneshot that counts as running after exit 0.
    pub remain: bool,
    /// Where a forking unit writes its main pid.
    pub pid_file: Option<Template>,
    /// The descriptor that a unit of kind fd writes its newline to.
    pub notify_fd: u32,
    /// Who may notify.
    pub notify_access: NotifyAccess,
    /// Descriptors that it may have kept for its next life (sd_notify(3), FDSTORE); with any, it gets NOTIFY_SOCKET,
    /// whatever its kind.
    #[serde(default)]
    pub fd_store_max: u32,
    /// Run in order before the main process; a failure fails the start.
    pub start_pre: Vec<Argv>,
    /// Run in order once it is ready, before others may rely on it.
    pub start_post: Vec<Argv>,
    /// Run in order before the first signal of a stop.
    pub stop_pre: Vec<Argv>,
    /// Run in order after it has ended, however it ended.
    pub stop_post: Vec<Argv>,
    /// Run in order by `ringriftctl reload`.
    pub reload: Vec<Argv>,
    /// For each of them.
    pub hook_timeout: Duration,
    /// `kind = "zygote"`: it is of kind notify, and others are forked from it.
    #[serde(default)]
    pub is_zygote: bool,
    /// It is forked from another unit.
    #[serde(default)]
    pub zygote: Option<UseZygote>,
}

/// `[exec] zygote` and `zygote_mode`, or those of the runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseZygote {
    /// The unit that it is forked from.
    pub name: UnitName,
    /// `require`: it is never executed instead.
    pub is_required: bool,
}

/// An entry of `env_files`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvFile {
    /// Where.
    pub path: Template,
    /// A leading `-`: it may be absent.
    pub optional: bool,
}

/// `[restart] policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum RestartPolicy {
    /// However it ended.
    #[default]
    Always,
    /// Unless it ended with 0 or by HUP, INT, TERM or PIPE (systemd's clean exits).
    OnFailure,
    /// Not at all.
    Never,
}

/// `[restart] exhausted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Exhausted {
    /// A try every `retry_every`.
    #[default]
    Retry,
    /// Until somebody says so.
    GiveUp,
}

/// `[restart]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// After which ends.
    pub policy: RestartPolicy,
    /// Before the first restart; 0 allowed.
    pub delay: Duration,
    /// Each delay is the last one times this, in thousandths; at least 1000.
    pub factor_milli: u32,
    /// No delay is longer.
    pub max_delay: Duration,
    /// Each delay is changed by up to this share either way, in thousandths; at most 1000.
    pub jitter_milli: u32,
    /// Ready this long sets the delay back to the first.
    pub stable_after: Duration,
    /// Automatic restarts within `window`; absent: no limit.
    pub max_restarts: Option<u32>,
    /// The sliding window.
    pub window: Duration,
    /// What comes then.
    pub exhausted: Exhausted,
    /// The pause between slow tries.
    pub retry_every: Duration,
    /// Codes after which it is never retried.
    pub permanent_exit_codes: Vec<i32>,
}

/// `[on_dependency] failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum OnFailed {
    /// This unit stops, and waits.
    #[default]
    Stop,
    /// It goes on.
    Keep,
}

/// `[on_dependency] restarted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum OnRestarted {
    /// It goes on.
    #[default]
    Keep,
    /// It is restarted too.
    Restart,
}

/// `[on_dependency] recovered`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum OnRecovered {
    /// This unit starts again by itself.
    #[default]
    Start,
    /// It stays down until somebody starts it.
    Stay,
}

/// `[on_dependency]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OnDependency {
    /// When it goes down for good (failed, or stopped by an operator).
    pub failed: OnFailed,
    /// When it was restarted.
    pub restarted: OnRestarted,
    /// When it comes back.
    pub recovered: OnRecovered,
}

/// `[stop]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// The ladder: signal numbers, at least one.
    pub signals: Vec<i32>,
    /// For each rung; then SIGKILL to all that is left.
    pub timeout: Duration,
    /// How long log pipes are read after the last process has gone.
    pub drain_timeout: Duration,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// A file that has grown to this, in bytes, is rotated.
    pub max_size: u64,
    /// Files kept, the one being written among them; at least 1.
    pub max_files: u32,
    /// A file whose oldest line is older is rotated, and one whose newest line is older is removed; zero: no bound.
    #[serde(default)]
    pub max_age: Duration,
    /// Rotated files are compressed.
    #[serde(default)]
    pub compress: bool,
    /// What comes while the log cannot be written is dropped and counted; else the unit waits.
    #[serde(default)]
    pub is_dropped: bool,
    /// Where its lines say how grave they are.
    #[serde(default)]
    pub parse: Parse,
    /// Stdout and stderr are told apart.
    #[serde(default)]
    pub split: bool,
    /// A longer line is cut into pieces of so many bytes; 0: the bound of [`limits::LOG_LINE_MAX`].
    #[serde(default)]
    pub max_line: u32,
    /// Who else gets its lines.
    #[serde(default)]
    pub forward: Option<Forward>,
    /// At another socket than the usual one.
    #[serde(default)]
    pub forward_to: Option<String>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            max_size: limits::LOG_SIZE,
            max_files: limits::LOG_FILES,
            max_age: Duration::ZERO,
            compress: true,
            is_dropped: false,
            parse: Parse::default(),
            split: false,
            max_line: 0,
            forward: None,
            forward_to: None,
        }
    }
}

/// `[log] forward`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forward {
    /// systemd-journald.
    Journald,
    /// Whoever listens as syslog(3) has it.
    Syslog,
}

/// `[log] parse`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Parse {
    /// In the prefix of sd-daemon(3), which counts in any unit; nowhere else.
    #[default]
    Prefix,
    /// Also in a key of the JSON object that each line is.
    Json,
    /// Also in a word before the text.
    Level,
}

/// `[deprecated]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deprecated {
    /// As the file says it.
    pub since: Option<String>,
    /// A unit that exists.
    pub replaced_by: Option<UnitName>,
    /// The unit at the end of the chain that is not deprecated itself; absent when it ends nowhere.
    pub live_end: Option<UnitName>,
    /// How to migrate.
    pub note: String,
    /// A date, `2026-06-30`.
    pub remove_after: Option<String>,
}

/// `ringriftd.toml`, what of it the engine and the manager need.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSpec {
    /// The active profiles, command line first.
    pub profiles: Vec<String>,
    /// The whole stop; at its end everything left is killed.
    pub shutdown_timeout: Duration,
    /// Units between launch and ready at once.
    pub max_starting: Option<u32>,
    /// The command that is told of events.
    pub on_event: Option<OnEvent>,
    /// `[http]`.
    pub http: HttpSpec,
    /// `[breaker]`.
    pub breaker: BreakerSpec,
    /// `[log] max_total`: how large all logs may be together, in bytes.
    pub log_total: Option<u64>,
}

/// The name that the runs of `[on_event] command` have instead of a unit's, in logs and in their environment.
pub const ON_EVENT_UNIT: &str = "ringriftd.on_event";

/// `[on_event]`: a command that is told of events.
#[derive(Debug, Clone, PartialEq)]
pub struct OnEvent {
    /// What is run, and as whom: a unit in form, which no file defines and the engine does not know.
    pub unit: Arc<UnitSpec>,
    /// Of which events.
    pub events: BTreeSet<String>,
    /// Of which units; absent: of all.
    pub units: Option<BTreeSet<UnitName>>,
    /// How often at most.
    pub rate: Rate,
    /// How many of it run at once; at least 1.
    pub at_once: u32,
    /// Events that may wait; at least 1.
    pub queue: u32,
    /// For each run.
    pub timeout: Duration,
}

/// So many in such a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// Not zero.
    pub per: Duration,
}

/// Why a unit is wanted on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Membership {
    /// A profile lists it.
    Listed {
        /// Which.
        profile: String,
    },
    /// A member requires or wants it.
    AddedBy {
        /// Which.
        unit: UnitName,
    },
}
