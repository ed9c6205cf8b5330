//! Layers to a [`UnitSpec`]: defaults filled in, names resolved, and every fault that needs more than one key to see.
//!
//! What one key alone can get wrong `tree` has told already. Read first: [`Check::unit`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::diagnostic::{Diagnostic, list_and, nearest_names};
use super::merged::{Merged, Names};
use super::probe;
use super::source::{Sources, Span};
use super::tree::Typed;
use super::values::{self, fold};
use crate::limits;
use crate::spec::*;

/// What checking units needs and makes.
pub struct Check<'a> {
    /// Where the texts are.
    pub sources: &'a Sources,
    /// All units.
    pub names: &'a Names,
    /// `[runner.X]`, with where its command stands.
    pub runners: &'a BTreeMap<String, (Arc<Runner>, Span)>,
    /// `ringriftd.toml` could be read, so that a runner it does not name does not exist.
    pub runners_are_known: bool,
    /// What was found.
    pub faults: Vec<Diagnostic>,
    /// What was found, less grave.
    pub warnings: Vec<Diagnostic>,
    /// Places that were told already: a default is wrong once, not once for each unit.
    told: BTreeSet<(Span, String)>,
}

impl<'a> Check<'a> {
    /// Nothing found yet.
    pub fn new(
        sources: &'a Sources,
        names: &'a Names,
        runners: &'a BTreeMap<String, (Arc<Runner>, Span)>,
        runners_are_known: bool,
    ) -> Self {
        Self {
            sources,
            names,
            runners,
            runners_are_known,
            faults: Vec::new(),
            warnings: Vec::new(),
            told: BTreeSet::new(),
        }
    }

    pub(super) fn fault(
        &mut self,
        span: Span,
        what: impl Into<String>,
        finish: impl FnOnce(Diagnostic) -> Diagnostic,
    ) {
        let what = what.into();
        if self.told.insert((span, what.clone())) {
            self.faults
                .push(finish(Diagnostic::fault(self.sources.place(span), what)));
        }
    }

    pub(super) fn warn(&mut self, span: Span, what: impl Into<String>) {
        let what = what.into();
        if self.told.insert((span, what.clone())) {
            self.warnings
                .push(Diagnostic::warning(self.sources.place(span), what));
        }
    }

    /// A unit's names in one of its lists, each once. Unknown ones and the unit itself are faults.
    fn edges(&mut self, me: &UnitName, unit: &Merged, key: &str) -> Vec<UnitName> {
        let Some(leaf) = unit.leaves.get(key) else {
            return Vec::new();
        };
        let Typed::Names(typed) = &leaf.value else {
            return Vec::new();
        };
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for (text, span) in typed.iter().zip(&leaf.items) {
            match self.names.get(&fold(text)) {
                Some(name) if name == me => {
                    let verb = if key == "conflicts" {
                        "conflicts with itself"
                    } else {
                        "names itself"
                    };
                    self.fault(*span, format!("unit \"{me}\" {verb} in \"{key}\""), |d| {
                        d.help("take it out")
                    });
                }
                Some(name) => {
                    if seen.insert(name.clone()) {
                        out.push(name.clone());
                    }
                }
                None => self.unknown_unit(*span, text, &format!("named in \"{key}\" of \"{me}\"")),
            }
        }
        out
    }

    /// Tells that no unit is called so.
    pub fn unknown_unit(&mut self, span: Span, text: &str, by: &str) {
        let near = nearest_names(&fold(text), self.names.values().map(UnitName::as_str));
        self.fault(span, format!("unknown unit \"{text}\", {by}"), |mut d| {
            d.why = Some("no unit file has this name".to_owned());
            d.help = near;
            d
        });
    }

    /// Checks one unit. The spec is only good when no fault was added; `home` is its file, for what stands nowhere.
    pub fn unit(&mut self, name: &UnitName, unit: &Merged, home: Span) -> UnitSpec {
        let requires = self.edges(name, unit, "requires");
        let wants = self.edges(name, unit, "wants");
        let after = self.edges(name, unit, "after");
        let before = self.edges(name, unit, "before");
        let conflicts = self.edges(name, unit, "conflicts");
        for other in &conflicts {
            for (key, list) in [("requires", &requires), ("wants", &wants)] {
                if list.contains(other)
                    && let (Some(here), Some(there)) =
                        (self.item(unit, "conflicts", other), self.item(unit, key, other))
                {
                    let note = self.sources.place(there);
                    self.fault(
                        here,
                        format!("\"{name}\" both {key} \"{other}\" and conflicts with it"),
                        |d| d.note(note, format!("here it {key} it")),
                    );
                }
            }
        }
        let critical = unit.flag("critical").unwrap_or(false);
        let exec = self.exec(name, unit, home);
        let delay = unit.time("restart.delay").unwrap_or(limits::RESTART_DELAY);
        let max_delay = unit.time("restart.max_delay");
        if let Some(max) = max_delay
            && max < delay
            && let Some(leaf) = unit.leaves.get("restart.max_delay")
        {
            self.fault(leaf.span, "\"max_delay\" is shorter than \"delay\"", |d| {
                d.why("the first delay would break the bound already")
            });
        }
        let retry = if critical {
            limits::RETRY_EVERY_CRITICAL
        } else {
            limits::RETRY_EVERY
        };
        let mut spec = UnitSpec {
            name: name.clone(),
            description: unit.text("description").unwrap_or_default(),
            category: unit.category().to_owned(),
            lifecycle: match unit.word("lifecycle") {
                "experimental" => Lifecycle::Experimental,
                "optional" => Lifecycle::Optional,
                "advanced" => Lifecycle::Advanced,
                _ => Lifecycle::Active,
            },
            critical,
            essential: unit.flag("essential").unwrap_or(false),
            requires,
            wants,
            after,
            before,
            conflicts,
            startup_position: unit.whole("startup_position"),
            exec,
            ready_timeout: unit.time("ready.timeout").unwrap_or(limits::READY_TIMEOUT),
            health_interval: unit.time("health.interval").unwrap_or(limits::HEALTH_INTERVAL),
            restart: Restart {
                policy: match unit.word("restart.policy") {
                    "on-failure" => RestartPolicy::OnFailure,
                    "never" => RestartPolicy::Never,
                    _ => RestartPolicy::Always,
                },
                delay,
                factor_milli: unit.milli("restart.factor", limits::RESTART_FACTOR_MILLI),
                // A file that gives only a long first delay means it.
                max_delay: max_delay.unwrap_or(limits::RESTART_MAX_DELAY.max(delay)),
                jitter_milli: unit.milli("restart.jitter", limits::RESTART_JITTER_MILLI),
                stable_after: unit.time("restart.stable_after").unwrap_or(limits::STABLE_AFTER),
                max_restarts: match unit.value("restart.max_restarts") {
                    Some(Typed::Word(_)) => None,
                    _ => Some(unit.whole("restart.max_restarts").unwrap_or(limits::MAX_RESTARTS)),
                },
                window: unit.time("restart.window").unwrap_or(limits::RESTART_WINDOW),
                exhausted: match unit.word("restart.exhausted") {
                    "give_up" => Exhausted::GiveUp,
                    _ => Exhausted::Retry,
                },
                retry_every: unit.time("restart.retry_every").unwrap_or(retry),
                permanent_exit_codes: match unit.value("restart.permanent_exit_codes") {
                    Some(Typed::Codes(codes)) => codes.clone(),
                    _ => Vec::new(),
                },
            },
            on_dependency: on_dependency(unit, "on_dependency", OnDependency::default()),
            on_dependency_of: BTreeMap::new(),
            stop: Stop {
                signals: match unit.value("stop.signals") {
                    Some(Typed::Signals(signals)) => signals.clone(),
                    _ => vec![libc::SIGTERM],
                },
                timeout: unit.time("stop.timeout").unwrap_or(limits::STOP_TIMEOUT),
                drain_timeout: unit.time("stop.drain_timeout").unwrap_or(limits::DRAIN_TIMEOUT),
            },
            log: Log {
                max_size: match unit.value("log.max_size") {
                    Some(Typed::Size(size)) => *size,
                    _ => limits::LOG_SIZE,
                },
                max_files: unit.whole("log.max_files").unwrap_or(limits::LOG_FILES),
                forward: match unit.word("log.forward") {
                    "journald" => Some(Forward::Journald),
                    "syslog" => Some(Forward::Syslog),
                    _ => None,
                },
                forward_to: self.socket(unit, "log.forward_to"),
                split: matches!(unit.value("log.split"), Some(Typed::Bool(true))),
                max_line: match unit.value("log.max_line") {
                    Some(Typed::Size(size)) => u32::try_from(*size).unwrap_or(0),
                    _ => 0,
                },
                parse: match unit.word("log.parse") {
                    "json" => Parse::Json,
                    "level" => Parse::Level,
                    _ => Parse::Prefix,
                },
                max_age: unit.time("log.max_age").unwrap_or_default(),
                compress: !matches!(unit.value("log.compress"), Some(Typed::Bool(false))),
                is_dropped: unit.word("log.on_full") == "drop",
            },
            deprecated: self.deprecated(name, unit),
            digest: String::new(),
            ready_probe: unit.probe("ready.probe"),
            health: probe::health(unit),
        };
        self.health(name, unit, &mut spec, home);
        self.zygote(name, unit, &mut spec, home);
        for (typed, span) in &unit.dependencies {
            match self.names.get(&fold(typed)) {
                Some(other) => {
                    if !spec.requires.contains(other) {
                        self.warn(
                            *span,
                            format!("\"{name}\" does not require \"{other}\", so this has no effect"),
                        );
                    }
                    let of = on_dependency(unit, &format!("on_dependency.{typed}"), spec.on_dependency);
                    spec.on_dependency_of.insert(other.clone(), of);
                }
                None => self.unknown_unit(*span, typed, &format!("named in [on_dependency] of \"{name}\"")),
            }
        }
        spec.digest = format!("{:016x}", values::digest(format!("{spec:?}").as_bytes()));
        spec
    }

    /// Where a unit's list names another.
    fn item(&self, unit: &Merged, key: &str, other: &UnitName) -> Option<Span> {
        let leaf = unit.leaves.get(key)?;
        let Typed::Names(typed) = &leaf.value else {
            return None;
        };
        let at = typed
            .iter()
            .position(|t| self.names.get(&fold(t)) == Some(other))?;
        leaf.items.get(at).copied()
    }

    /// The path of somebody's socket.
    fn socket(&mut self, unit: &Merged, key: &str) -> Option<String> {
        let leaf = unit.leaves.get(key)?;
        let Typed::Text(path) = &leaf.value else {
            return None;
        };
        if !path.starts_with('/') || path.len() > limits::SOCKET_PATH_MAX {
            let what = format!("\"{path}\" is no place of a socket");
            self.fault(leaf.span, what, |d| {
                d.why(format!(
                    "a socket has an absolute path of at most {} bytes",
                    limits::SOCKET_PATH_MAX
                ))
            });
        }
        Some(path.clone())
    }

    fn deprecated(&mut self, name: &UnitName, unit: &Merged) -> Option<Deprecated> {
        let mut replaced_by = None;
        if let Some(leaf) = unit.leaves.get("deprecated.replaced_by")
            && let Typed::Text(text) = &leaf.value
        {
            match self.names.get(&fold(text)) {
                Some(other) => replaced_by = Some(other.clone()),
                None => self.unknown_unit(leaf.span, text, &format!("said to replace \"{name}\"")),
            }
        }
        let is_deprecated = unit.below("deprecated.").next().is_some();
        is_deprecated.then(|| Deprecated {
            since: unit.text("deprecated.since"),
            replaced_by,
            live_end: None,
            note: unit.text("deprecated.note").unwrap_or_default(),
            remove_after: unit.text("deprecated.remove_after"),
        })
    }

    fn exec(&mut self, name: &UnitName, unit: &Merged, home: Span) -> Exec {
        let kind = match unit.word("exec.kind") {
            "notify" | "zygote" => Kind::Notify,
            "fd" => Kind::Fd,
            "forking" => Kind::Forking,
            "oneshot" => Kind::Oneshot,
            _ => Kind::Simple,
        };
        let command = self.command(name, unit, home);
        for (key, of) in [
            ("remain", Kind::Oneshot),
            ("pid_file", Kind::Forking),
            ("notify_fd", Kind::Fd),
        ] {
            if let Some(leaf) = unit.leaves.get(&format!("exec.{key}"))
                && kind != of
                && leaf.value != Typed::Bool(false)
            {
                let of = format!("{of:?}").to_lowercase();
                self.warn(
                    leaf.key,
                    format!("\"{key}\" has no effect: \"{name}\" is not of kind \"{of}\""),
                );
            }
        }
        let exec = Exec {
            kind,
            command,
            working_dir: unit.template("exec.working_dir"),
            env: unit
                .below("exec.env.")
                .filter_map(|(name, leaf)| match &leaf.value {
                    Typed::Template(t) => Some((name.to_owned(), t.clone())),
                    _ => None,
                })
                .collect(),
            env_files: match unit.value("exec.env_files") {
                Some(Typed::EnvFiles(files)) => files.clone(),
                _ => Vec::new(),
            },
            pass_env: unit.names("exec.pass_env").unwrap_or_default(),
            user: unit.text("exec.user"),
            group: unit.text("exec.group"),
            supplementary_groups: unit.names("exec.supplementary_groups"),
            umask: unit.whole("exec.umask").unwrap_or(0o077),
            nice: unit.whole("exec.nice"),
            oom_score_adj: unit.whole("exec.oom_score_adj"),
            rlimits: unit
                .below("exec.rlimits.")
                .filter_map(|(_, leaf)| match &leaf.value {
                    Typed::Limit(limit) => Some(*limit),
                    _ => None,
                })
                .collect(),
            no_new_privs: unit.flag("exec.no_new_privs").unwrap_or(true),
            remain: unit.flag("exec.remain").unwrap_or(false),
            pid_file: unit.template("exec.pid_file"),
            notify_fd: unit.whole("exec.notify_fd").unwrap_or(3),
            notify_access: match unit.word("exec.notify_access") {
                "all" => NotifyAccess::All,
                _ => NotifyAccess::Main,
            },
            fd_store_max: unit.whole("exec.fd_store_max").unwrap_or(0),
            start_pre: unit.hooks("exec.start_pre"),
            start_post: unit.hooks("exec.start_post"),
            stop_pre: unit.hooks("exec.stop_pre"),
            stop_post: unit.hooks("exec.stop_post"),
            reload: unit.hooks("exec.reload"),
            hook_timeout: unit.time("exec.hook_timeout").unwrap_or(limits::HOOK_TIMEOUT),
            is_zygote: unit.word("exec.kind") == "zygote",
            zygote: None,
        };
        // They are handed over from descriptor 3 on.
        if kind == Kind::Fd && exec.notify_fd < 3 + exec.fd_store_max {
            let span = ["exec.notify_fd", "exec.fd_store_max"]
                .iter()
                .find_map(|key| unit.leaves.get(*key))
                .map_or(home, |leaf| leaf.span);
            let first = 3 + exec.fd_store_max;
            self.fault(
                span,
                format!(
                    "notify_fd {} is among the descriptors that are stored",
                    exec.notify_fd
                ),
                |d| {
                    d.why(format!(
                        "those are given from 3 on, {} at most",
                        exec.fd_store_max
                    ))
                    .help(format!("write notify_fd = {first}"))
                },
            );
        }
        self.variables(name, unit, &exec);
        self.launch_size(name, unit, &exec, home);
        exec
    }

    fn command(&mut self, name: &UnitName, unit: &Merged, home: Span) -> Command {
        let nothing = Command::Direct(Vec::new());
        let args = unit.argv("exec.args");
        match (unit.leaves.get("exec.command"), unit.leaves.get("exec.runner")) {
            (Some(command), Some(runner)) => {
                let place = self.sources.place(command.key);
                self.fault(
                    runner.key,
                    format!("\"{name}\" has both a command and a runner"),
                    |d| {
                        d.why("[exec] holds either \"command\", or \"runner\" and \"args\"")
                            .note(place, "here is the command")
                    },
                );
                nothing
            }
            (Some(_), None) => {
                if let Some(leaf) = unit.leaves.get("exec.args") {
                    self.fault(leaf.key, "\"args\" without a runner", |d| {
                        d.help("append them to \"command\"")
                    });
                }
                Command::Direct(unit.argv("exec.command").unwrap_or_default())
            }
            (None, Some(leaf)) => {
                let Typed::Text(wanted) = &leaf.value else {
                    return nothing;
                };
                match self.runners.get(wanted) {
                    Some((runner, _)) => Command::Runner {
                        name: wanted.clone(),
                        runner: Arc::clone(runner),
                        args: args.unwrap_or_default(),
                    },
                    None if !self.runners_are_known => nothing,
                    None => {
                        let near = nearest_names(wanted, self.runners.keys().map(String::as_str));
                        let known: Vec<String> = self.runners.keys().map(|k| format!("\"{k}\"")).collect();
                        self.fault(leaf.span, format!("unknown runner \"{wanted}\""), |mut d| {
                            d.why = Some(if known.is_empty() {
                                "ringriftd.toml defines no runner".to_owned()
                            } else {
                                format!("ringriftd.toml defines {}", list_and(&known))
                            });
                            d.help = near.or_else(|| Some(format!("define [runner.{wanted}] there")));
                            d
                        });
                        nothing
                    }
                }
            }
            (None, None) if unit.is_partial => nothing,
            (None, None) => {
                self.fault(home, format!("\"{name}\" does not say what to run"), |d| {
                    d.why("[exec] holds either \"command\", or \"runner\" and \"args\"")
                        .help("write command = [\"/path/to/program\"] below [exec]")
                });
                nothing
            }
        }
    }

    /// Variables that cannot come from anywhere, and values that refer to each other in a ring. Files of variables
    /// are read at the start only, so a unit that has some is judged then.
    fn variables(&mut self, name: &UnitName, unit: &Merged, exec: &Exec) {
        let (runner_name, runner) = match &exec.command {
            Command::Runner { name, runner, .. } => (Some(name.as_str()), Some(Arc::clone(runner))),
            Command::Direct(_) => (None, None),
        };
        let from_below = |variable: &str| {
            is_built_in(variable)
                || exec.pass_env.iter().any(|n| n == variable)
                || runner
                    .iter()
                    .any(|r| r.pass_env.iter().chain(&r.requires_env).any(|n| n == variable))
        };
        if exec.env_files.is_empty() && !unit.is_partial {
            let mut places: Vec<(&Template, Span)> = Vec::new();
            for (path, leaf) in &unit.leaves {
                if let Typed::Probe(probe) = &leaf.value {
                    places.extend(probe.templates().iter().zip(leaf.items.iter().copied()));
                }
                if !path.starts_with("exec.") {
                    continue;
                }
                match &leaf.value {
                    Typed::Template(t) => {
                        // A variable that refers to itself means the value below it.
                        let own = path.strip_prefix("exec.env.");
                        for missing in unset(t) {
                            if !from_below(missing)
                                && (own == Some(missing) || !exec.env.contains_key(missing))
                            {
                                self.unset(leaf.span, name, missing);
                            }
                        }
                    }
                    Typed::Argv(argv) => places.extend(argv.iter().zip(leaf.items.iter().copied())),
                    Typed::Hooks(hooks) => {
                        places.extend(
                            hooks
                                .iter()
                                .zip(&leaf.items)
                                .flat_map(|(h, s)| h.iter().map(move |t| (t, *s))),
                        );
                    }
                    _ => {}
                }
            }
            if let (Some(runner), Some((_, span))) = (&runner, runner_name.and_then(|n| self.runners.get(n)))
            {
                places.extend(
                    runner
                        .command
                        .iter()
                        .chain(runner.otherwise.iter().flatten())
                        .map(|t| (t, *span)),
                );
            }
            for (template, span) in places {
                for missing in unset(template) {
                    if !from_below(missing) && !exec.env.contains_key(missing) {
                        self.unset(span, name, missing);
                    }
                }
            }
        }
        if let Some(ring) = env_ring(&exec.env)
            && let Some(leaf) = unit.leaves.get(&format!("exec.env.{}", ring[0]))
        {
            let path: Vec<&str> = ring.iter().copied().chain([ring[0]]).collect();
            self.fault(
                leaf.span,
                format!("variables refer to each other in a ring: {}", path.join(" -> ")),
                |d| d,
            );
        }
    }

    fn unset(&mut self, span: Span, unit: &UnitName, variable: &str) {
        self.fault(span, format!("variable \"{variable}\" is not set for \"{unit}\""), |d| {
            d.why("a unit's environment is clean: it holds what [exec] env, env_files and pass_env say, and what ringriftd sets")
                .help(format!("set it in [exec] env, name it in pass_env, or write ${{{variable}:-default}}"))
        });
    }

    fn launch_size(&mut self, name: &UnitName, unit: &Merged, exec: &Exec, home: Span) {
        let size = |t: &Template| -> usize {
            t.0.iter()
                .map(|piece| match piece {
                    Piece::Text(text) => text.len(),
                    Piece::Variable { .. } => 0,
                })
                .sum::<usize>()
                + 1
        };
        let args: usize = match &exec.command {
            Command::Direct(argv) => argv.iter().map(size).sum(),
            Command::Runner { runner, args, .. } => runner.command.iter().chain(args).map(size).sum(),
        };
        let env: usize = exec.env.iter().map(|(name, t)| name.len() + 1 + size(t)).sum();
        if args + env > limits::LAUNCH_BYTES_MAX {
            let span = unit.leaves.get("exec.command").map_or(home, |leaf| leaf.key);
            self.fault(
                span,
                format!("arguments and variables of \"{name}\" have {} bytes", args + env),
                |d| {
                    d.why(format!(
                        "together they may have {} (the kernel's own bound is E2BIG)",
                        limits::LAUNCH_BYTES_MAX
                    ))
                    .help("put large values into a file that the program reads")
                },
            );
        }
    }
}

fn on_dependency(unit: &Merged, path: &str, otherwise: OnDependency) -> OnDependency {
    OnDependency {
        failed: match unit.word(&format!("{path}.failed")) {
            "stop" => OnFailed::Stop,
            "keep" => OnFailed::Keep,
            _ => otherwise.failed,
        },
        restarted: match unit.word(&format!("{path}.restarted")) {
            "keep" => OnRestarted::Keep,
            "restart" => OnRestarted::Restart,
            _ => otherwise.restarted,
        },
        recovered: match unit.word(&format!("{path}.recovered")) {
            "start" => OnRecovered::Start,
            "stay" => OnRecovered::Stay,
            _ => otherwise.recovered,
        },
    }
}

/// Variables that ringriftd always sets, or sets for some kinds of units.
fn is_built_in(name: &str) -> bool {
    const BUILT_IN: [&str; 15] = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "RINGRIFT_UNIT",
        "RINGRIFT_INVOCATION_ID",
        "RINGRIFT_ROLE",
        "RINGRIFT_HEALTH_INTERVAL_USEC",
        "RINGRIFTD",
        "RINGRIFT_CONFIG_DIR",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ];
    BUILT_IN.contains(&name) || name.starts_with("LISTEN_")
}

/// Variables of a template that have no default.
fn unset(template: &Template) -> impl Iterator<Item = &str> {
    template.0.iter().filter_map(|piece| match piece {
        Piece::Variable { name, default: None } => Some(name.as_str()),
        _ => None,
    })
}

/// A ring of variables that need each other, if there is one. A variable that names itself is no ring: it means the
/// value below it.
fn env_ring(env: &BTreeMap<String, Template>) -> Option<Vec<&str>> {
    let next = |name: &str| -> Vec<&str> {
        env.get_key_value(name)
            .into_iter()
            .flat_map(|(me, template)| template.0.iter().map(move |piece| (me, piece)))
            .filter_map(|(me, piece)| match piece {
                Piece::Variable { name, .. } if name != me => {
                    env.get_key_value(name).map(|(k, _)| k.as_str())
                }
                _ => None,
            })
            .collect()
    };
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in env.keys() {
        // Depth first by hand, since a file may chain thousands.
        let mut path: Vec<(&str, Vec<&str>)> = vec![(start.as_str(), next(start))];
        while let Some((me, rest)) = path.last_mut() {
            match rest.pop() {
                Some(other) if done.contains(other) => {}
                Some(other) => {
                    if let Some(at) = path.iter().position(|(name, _)| *name == other) {
                        return Some(path[at..].iter().map(|(name, _)| *name).collect());
                    }
                    path.push((other, next(other)));
                }
                None => {
                    done.insert(me);
                    path.pop();
                }
            }
        }
    }
    None
}
