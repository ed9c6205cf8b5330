//! Every key that a file may hold, with its type, default and meaning. The parser walks it, the suggestions come from
//! it, and `docs/units.md` is compared with it by a test.

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its default, for the reference; empty: none.
    pub default: &'static str,
    /// What it means, for the reference.
    pub about: &'static str,
}

/// What a key holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A table with these keys.
    Table(&'static [Key]),
    /// A table with `keys`, and tables of any other name (a `what`) with `each`.
    Named {
        /// Keys known by name.
        keys: &'static [Key],
        /// Keys of the named tables.
        each: &'static [Key],
        /// What the names name.
        what: &'static str,
    },
    /// Known, and not built yet.
    Later,
    /// One line.
    Line,
    /// true or false.
    Bool,
    /// A whole number within bounds.
    Whole(i64, i64),
    /// A whole number within bounds, or "unlimited".
    Count(i64, i64),
    /// A number with a fraction, kept in thousandths, within bounds given in thousandths.
    Milli(u32, u32),
    /// A time; zero allowed or not.
    Time(bool),
    /// A size within bounds, in bytes.
    Size(u64, u64),
    /// One of these words; what they are called.
    Word(&'static [&'static str], &'static str),
    /// The name of a unit.
    Unit,
    /// Names of units.
    Units,
    /// Names, globs and `@category`.
    Selectors,
    /// Names of events, and globs.
    Events,
    /// Names of profiles.
    Profiles,
    /// The name of a runner.
    Runner,
    /// Names of environment variables.
    Variables,
    /// Names of hosts.
    Hosts,
    /// A user or group, by name or number.
    User,
    /// Several.
    Users,
    /// A text with variables.
    Template,
    /// A program and its arguments; not empty.
    Argv,
    /// Arguments; may be empty.
    Args,
    /// A list of programs with their arguments.
    Hooks,
    /// Signals; not empty.
    Signals,
    /// Environment variables.
    Env,
    /// Paths of files of variables.
    EnvFiles,
    /// Resource limits.
    Limits,
    /// Exit codes.
    Codes,
    /// File permissions.
    Umask,
    /// A day.
    Date,
    /// One way to ask a unit how it is.
    Probe,
}

impl Kind {
    /// The type, for the reference and for "must be".
    pub fn word(self) -> String {
        match self {
            Self::Table(_) | Self::Named { .. } => "a table".to_owned(),
            Self::Later => "not supported yet".to_owned(),
            Self::Line => "a line of text".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Whole(min, max) => format!("a whole number from {min} to {max}"),
            Self::Count(min, max) => format!("a whole number from {min} to {max}, or \"unlimited\""),
            Self::Milli(min, max) => {
                format!(
                    "a number from {} to {}",
                    f64::from(min) / 1000.0,
                    f64::from(max) / 1000.0
                )
            }
            Self::Time(true) => "a time such as \"1h30m\", or \"0s\"".to_owned(),
            Self::Time(false) => "a time such as \"1h30m\"".to_owned(),
            Self::Size(..) => "a size such as \"16MiB\"".to_owned(),
            Self::Word(words, _) => {
                super::diagnostic::list_or(&words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>())
            }
            Self::Unit => "the name of a unit".to_owned(),
            Self::Units => "a list of units' names".to_owned(),
            Self::Selectors => "a list of units' names, globs and \"@category\"".to_owned(),
            Self::Events => "a list of events' names and globs".to_owned(),
            Self::Profiles => "a list of profiles' names".to_owned(),
            Self::Runner => "the name of a runner".to_owned(),
            Self::Variables => "a list of variables' names".to_owned(),
            Self::Hosts => "a list of hosts' names or addresses, without a port".to_owned(),
            Self::User => "a name or a number".to_owned(),
            Self::Users => "a list of names or numbers".to_owned(),
            Self::Template => "text with ${NAME}".to_owned(),
            Self::Argv => "a list: a program and its arguments".to_owned(),
            Self::Args => "a list of arguments".to_owned(),
            Self::Hooks => "a list of commands, each a list".to_owned(),
            Self::Signals => "a list of signals".to_owned(),
            Self::Env => "a table of variables".to_owned(),
            Self::EnvFiles => "a list of paths".to_owned(),
            Self::Limits => "a table of limits".to_owned(),
            Self::Codes => "a list of exit codes from 0 to 255".to_owned(),
            Self::Umask => "permissions such as 0o077 or \"077\"".to_owned(),
            Self::Date => "a day such as \"2026-06-30\"".to_owned(),
            Self::Probe => {
                "one of `{ http = \"http://…\" }`, `{ tcp = \"host:port\" }`, `{ command = […] }`, `{ file = \"/…\" }`, `{ log_line = \"regex\" }`"
                    .to_owned()
            }
        }
    }
}

macro_rules! keys {
    ($($name:literal $kind:expr, $default:literal, $about:literal;)*) => {
        &[$(Key { name: $name, kind: $kind, default: $default, about: $about }),*]
    };
}

use Kind::*;

/// A unit file.
pub static UNIT: &[Key] = keys! {
    "description" Line, "", "what it does";
    "category" Line, "misc", "what `@category` selects";
    "lifecycle" Word(&["active", "experimental", "optional", "advanced"], "lifecycle"), "active", "its place in production";
    "critical" Bool, "false", "counts for the node's readiness";
    "essential" Bool, "false", "when it ends for good, ringriftd stops the rest in order and exits with its code";
    "requires" Units, "[]", "pulled in; waited for until ready; stopped after this unit";
    "wants" Units, "[]", "pulled in; waited for until ready or its first attempt has failed";
    "after" Units, "[]", "order only, among units that start together";
    "before" Units, "[]", "order only, the other way round";
    "conflicts" Units, "[]", "never both up";
    "startup_position" Whole(0, 1_000_000), "", "breaks ties between units that are free to start, the smaller first; never overrides a dependency";
    "exec" Table(EXEC), "", "what runs";
    "ready" Table(READY), "", "when others may start";
    "health" Table(HEALTH), "", "whether it must be restarted";
    "restart" Table(RESTART), "", "when and how it is started again";
    "on_dependency" Named { keys: ON_DEPENDENCY, each: ON_DEPENDENCY, what: "unit" }, "", "what happens when a unit that it requires goes down or comes back; `[on_dependency.NAME]` for one of them";
    "stop" Table(STOP), "", "how it is stopped";
    "log" Table(LOG), "", "what is kept of its output";
    "deprecated" Table(DEPRECATED), "", "it should be replaced";
    "resources" Later, "", ""; "sandbox" Later, "", ""; "credentials" Later, "", ""; "socket" Later, "", ""; "timer" Later, "", "";
};

/// `[exec]`.
pub static EXEC: &[Key] = keys! {
    "kind" Word(&["simple", "notify", "fd", "forking", "oneshot", "zygote"], "kind"), "simple", "how it says that it is ready; zygote: as notify, and others are forked from it";
    "command" Argv, "", "what runs, never a shell line; either this or `runner`";
    "runner" Runner, "", "a runner of ringriftd.toml";
    "args" Args, "[]", "what the runner is given";
    "working_dir" Template, "/", "where it runs";
    "env" Env, "", "variables; laid over the defaults one by one";
    "env_files" EnvFiles, "[]", "files of variables, read at each start; a leading `-`: may be absent";
    "pass_env" Variables, "[]", "variables taken over from ringriftd's own environment";
    "user" User, "", "whom it runs as; ringriftd's own user when absent";
    "group" User, "", "the user's own when absent";
    "supplementary_groups" Users, "", "those of the user when absent";
    "umask" Umask, "0o077", "which permissions new files never have";
    "nice" Whole(-20, 19), "", "its share of the processor";
    "oom_score_adj" Whole(-1000, 1000), "", "how soon the kernel kills it when memory is short";
    "rlimits" Limits, "", "limits by their names in lower case (`nofile`, `memlock` …): a number, a size, \"infinity\", or `{ soft, hard }`";
    "no_new_privs" Bool, "true", "no program that it runs may gain privileges";
    "remain" Bool, "false", "oneshot: counts as running after exit 0";
    "pid_file" Template, "", "forking: where it writes its main pid";
    "notify_fd" Whole(3, 1023), "3", "fd: a newline on it is readiness";
    "notify_access" Word(&["main", "all"], "notify access"), "main", "who in the unit may notify";
    "fd_store_max" Whole(0, crate::limits::FD_STORE_MAX as i64), "0", "descriptors that it may have kept for its next life (`FDSTORE=1`)";
    "start_pre" Hooks, "[]", "run in order before it; a failure fails the start";
    "start_post" Hooks, "[]", "run in order once it is ready, before others may rely on it";
    "stop_pre" Hooks, "[]", "run in order before the first signal of a stop";
    "stop_post" Hooks, "[]", "run in order after it has ended, however it ended";
    "reload" Hooks, "[]", "run in order by `ringriftctl reload`";
    "hook_timeout" Time(false), "30s", "for each of them";
    "zygote" Unit, "the runner's", "a unit of kind zygote from which this one is forked, with its command line, instead of being executed";
    "zygote_mode" Word(&["prefer", "require", "never"], "choice"), "prefer", "what happens while it cannot be forked: it is executed; it waits. Or it is never forked";
};

static READY: &[Key] = keys! {
    "timeout" Time(false), "60s", "from the launch to readiness; then the start has failed";
    "probe" Probe, "", "then ready only when this first succeeds; asked again and again until `timeout`";
};

static HEALTH: &[Key] = keys! {
    "interval" Time(false), "30s", "how often it is asked, and how often it reports; told to it as RINGRIFT_HEALTH_INTERVAL_USEC";
    "grace" Time(true), "60s", "after ready, before anything counts";
    "failures" Whole(1, 1000), "3", "in a row, until it is unhealthy";
    "timeout" Time(false), "5s", "for each probe; `interval`, where that is shorter";
    "watchdog" Time(false), "", "notify: `WATCHDOG=1` is expected this often, from ready on; told to it as WATCHDOG_USEC. One that misses it is killed (ABRT first) and restarted, whatever `on_failure` says";
    "probe" Probe, "", "what is asked; without one, only what it says of itself (X_RINGRIFT_HEALTH) counts";
    "on_failure" Word(&["restart", "mark", "ignore"], "choice"), "restart", "when it is unhealthy: restart it, only say so, or only record it";
};

static RESTART: &[Key] = keys! {
    "policy" Word(&["always", "on-failure", "never"], "restart policy"), "always", "after which ends it is started again";
    "delay" Time(true), "5s", "before the first restart";
    "factor" Milli(1000, 100_000), "2.0", "each delay is the last one times this";
    "max_delay" Time(true), "300s", "no delay is longer";
    "jitter" Milli(0, 1000), "0.1", "each delay is changed by up to this share either way";
    "stable_after" Time(true), "60s", "ready this long sets the delay back to the first";
    "max_restarts" Count(0, 10_000), "5", "automatic restarts within `window`";
    "window" Time(false), "1h", "the sliding window";
    "exhausted" Word(&["retry", "give_up"], "choice"), "retry", "what comes when they are used up";
    "retry_every" Time(false), "4h, critical units 30m", "the pause between the slow tries";
    "permanent_exit_codes" Codes, "[]", "codes after which it is never retried";
};

static ON_DEPENDENCY: &[Key] = keys! {
    "failed" Word(&["stop", "keep"], "choice"), "stop", "when it goes down for good";
    "restarted" Word(&["keep", "restart"], "choice"), "keep", "when it was restarted";
    "recovered" Word(&["start", "stay"], "choice"), "start", "when it comes back";
};

static STOP: &[Key] = keys! {
    "signals" Signals, "[\"TERM\"]", "a ladder; then SIGKILL to all that is left, always";
    "timeout" Time(false), "30s", "for each rung";
    "drain_timeout" Time(true), "2s", "how long log pipes are read after the last process has gone";
};

static LOG: &[Key] = keys! {
    "max_size" Size(4096, 1 << 40), "16MiB", "a file that has grown to this is rotated";
    "max_files" Whole(1, 1000), "5", "files kept, the one being written among them";
    "parse" Word(&["prefix", "json", "level"], "choice"), "prefix", "where a line says how grave it is: in a prefix such as <3>, which always counts; in a key of its JSON object; in a word before its text";
    "max_age" Time(true), "0s", "a file whose oldest line is older is rotated, and one whose newest line is older is removed; `0s`: no bound";
    "compress" Bool, "true", "rotated files are compressed (zstd)";
    "on_full" Word(&["block", "drop"], "choice"), "block", "what happens while its log cannot be written and its pipe is full: the unit waits, or lines are dropped, and counted";
    "split" Bool, "false", "stdout and stderr are told apart, by a pipe each: their order among each other is only that in which they were read";
    "max_line" Size(256, 16 << 10), "16KiB", "a longer line is cut into pieces of this size";
    "forward" Word(&["none", "journald", "syslog"], "choice"), "none", "who else gets its lines, without anybody waiting for it";
    "forward_to" Line, "", "the socket to forward to, where it is not /run/systemd/journal/socket or /dev/log";
};

static DEPRECATED: &[Key] = keys! {
    "since" Line, "", "since when";
    "replaced_by" Unit, "", "a unit that exists";
    "note" Line, "", "how to migrate";
    "remove_after" Date, "", "past this day `check` warns louder";
};

/// A profile file.
pub static PROFILE: &[Key] = keys! {
    "description" Line, "", "what such a node does";
    "extends" Profiles, "[]", "profiles whose units and overrides this one takes over";
    "units" Selectors, "[]", "its members";
    "exclude" Selectors, "[]", "which of those it takes over it leaves out";
    "override" Named { keys: &[], each: UNIT, what: "unit" }, "", "any key of any member";
    "match" Later, "", "";
};

/// `ringriftd.toml`.
pub static NODE: &[Key] = keys! {
    "profiles" Profiles, "[]", "the active profiles; the command line wins over it";
    "shutdown_timeout" Time(false), "90s", "the whole stop; at its end everything left is killed";
    "max_starting" Whole(1, 100_000), "", "units between launch and ready at once; absent: no limit";
    "runner" Named { keys: &[], each: RUNNER, what: "runner" }, "", "commands that units share";
    "defaults" Table(DEFAULTS), "", "`[defaults.unit.…]`: any key of a unit";
    "on_event" Table(ON_EVENT), "", "a command that is told of events";
    "http" Table(HTTP), "", "the door for health checks, metrics and the dashboard";
    "breaker" Named { keys: BREAKER, each: BREAKER_CATEGORY, what: "category" }, "", "how many automatic restarts all units may make before they pause; `[breaker.NAME]` for a category";
    "log" Table(NODE_LOG), "", "bounds of all logs together";
};

/// `[log]` of a node.
static NODE_LOG: &[Key] = keys! {
    "max_total" Size(1 << 20, 1 << 50), "", "how large all units' logs may be together: the oldest rotated files are removed; absent: as large as each unit's own bounds allow";
};

/// `[breaker]`.
static BREAKER: &[Key] = keys! {
    "restarts" Count(1, crate::limits::BREAKER_RESTARTS_MAX), "15", "automatic restarts of all units within `window`; the next one opens the breaker";
    "window" Time(false), "5m", "the sliding window";
    "cooldown" Time(false), "2m", "how long it stays open; meanwhile no unit is restarted by itself";
    "startup_grace" Time(true), "3m", "so long after ringriftd began nothing is counted and nothing is held back";
    "exempt" Selectors, "[]", "units that are neither counted nor held back; critical units never are";
};

/// `[breaker.CATEGORY]`.
static BREAKER_CATEGORY: &[Key] = keys! {
    "restarts" Count(1, crate::limits::BREAKER_RESTARTS_MAX), "", "automatic restarts of the category's units within `window`; the next one opens its breaker. Absent: as many as `[breaker]` has";
    "window" Time(false), "", "the sliding window; absent: that of `[breaker]`";
    "cooldown" Time(false), "", "how long it stays open; absent: that of `[breaker]`";
    "counts_for_node" Bool, "true", "whether its restarts count for the node's breaker too, and are held back by it";
};

/// `[on_event]`.
static ON_EVENT: &[Key] = keys! {
    "command" Argv, "", "what is run for each event, which it reads as one line of JSON from its standard input; never a shell line";
    "events" Events, "all but DAEMON_STATUS_CHANGED", "which events";
    "units" Selectors, "", "of which units; absent: of all";
    "rate" Line, "10/s", "how often it is run at most, by second (`s`), minute (`m`) or hour (`h`); what comes faster waits";
    "at_once" Whole(1, crate::limits::HOOKS_AT_ONCE_MAX), "1", "how many of it run at once; with one, they run in the order of the events";
    "queue" Whole(1, crate::limits::HOOK_QUEUE_MAX), "256", "events that may wait; of more the oldest are dropped, and counted";
    "timeout" Time(false), "30s", "for each run; then all of it is killed";
    "env" Env, "", "variables; laid over those of `[defaults.unit.exec]`";
    "env_files" EnvFiles, "[]", "files of variables, read at each run; a leading `-`: may be absent";
    "pass_env" Variables, "[]", "variables taken over from ringriftd's own environment";
    "user" User, "", "whom it runs as; ringriftd's own user when absent";
    "group" User, "", "the user's own when absent";
    "working_dir" Template, "/", "where it runs";
};

static HTTP: &[Key] = keys! {
    "listen" Line, "127.0.0.1:8790", "an address and its port, the absolute path of a Unix socket, or \"off\"; `--http` wins over it";
    "allow_remote" Bool, "false", "allows an address that other hosts can reach; needs `allowed_hosts`";
    "allowed_hosts" Hosts, "[]", "names by which a request may call this host, besides the loopback ones and the address itself";
    "show_logs" Bool, "false", "serves log lines and failure tails over TCP too; over a Unix socket they always are";
};

static DEFAULTS: &[Key] = keys! {
    "unit" Table(UNIT), "", "any key of a unit";
};

/// `[runner.NAME]`.
pub static RUNNER: &[Key] = keys! {
    "command" Argv, "", "what runs, before the unit's `args`";
    "requires_env" Variables, "[]", "when one of these is unset or empty, `otherwise` is run";
    "pass_env" Variables, "[]", "variables taken over from ringriftd's own environment when the unit's own does not set them";
    "otherwise" Argv, "", "the stand-in, before the unit's `args`; without one the start fails";
    "note" Line, "", "how a unit that runs `otherwise` is marked";
    "zygote" Unit, "", "a unit of kind zygote from which units are forked that run `command`";
};

/// Every leaf below `keys`, with its dotted path, in the order of the schema. Named tables are called `NAME`.
pub fn leaves(keys: &'static [Key]) -> Vec<(String, &'static Key)> {
    let mut out = Vec::new();
    collect("", keys, &mut out);
    out
}

fn collect(prefix: &str, keys: &'static [Key], out: &mut Vec<(String, &'static Key)>) {
    for key in keys {
        let path = format!("{prefix}{}", key.name);
        match key.kind {
            Table(inner) if !std::ptr::eq(inner, UNIT) => collect(&format!("{path}."), inner, out),
            Named { keys, each, .. } => {
                collect(&format!("{path}."), keys, out);
                if !std::ptr::eq(each, UNIT) && !std::ptr::eq(each, keys) {
                    collect(&format!("{path}.NAME."), each, out);
                }
            }
            _ => out.push((path, key)),
        }
    }
}

/// The reference of a file's keys as a Markdown table: what `docs/units.md` holds.
pub fn reference(keys: &'static [Key]) -> String {
    let mut out = "| key | what it holds | default | meaning |\n|---|---|---|---|\n".to_owned();
    for (path, key) in leaves(keys) {
        if matches!(key.kind, Later) {
            continue;
        }
        let default = if key.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", key.default)
        };
        out.push_str(&format!(
            "| `{path}` | {} | {default} | {} |\n",
            key.kind.word(),
            key.about
        ));
    }
    let later: Vec<String> = leaves(keys)
        .into_iter()
        .filter(|(_, key)| matches!(key.kind, Later))
        .map(|(path, _)| format!("`{path}`"))
        .collect();
    if !later.is_empty() {
        out.push_str(&format!(
            "\nNot supported yet, and refused by name: {}.\n",
            later.join(", ")
        ));
    }
    out
}
