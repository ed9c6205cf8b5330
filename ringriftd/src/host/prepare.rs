//! A unit becomes a launch: its environment is gathered, users looked up, variables filled in, the program found.
//! All of it may block (disks, NSS), so it happens off the manager's loop and within a bound: [`Preparer`].
//!
//! It starts nothing and decides nothing: the keeper starts what it is given, the engine decides when. A user that
//! cannot be looked up, or a variable that is not set, is a failure, never a launch as somebody else or with less.
//!
//! Read first: [`prepare`] and [`Preparer`].

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::types::{LaunchFailure, Role};
use crate::host::account::Account;
use crate::host::crew::{Crew, Lost};
use crate::host::environment::{Environment, own_variables};
use crate::host::explain;
use crate::host::types::Fault;
pub use crate::host::types::{NodeContext, role_word};
use crate::ids::{LaunchId, invocation_text};
use crate::keeper::sockets::NOTIFY_FOLDER;
use crate::keeper::wire::{Fork, Identity, Launch, LogKeep, LogRead, Output, Stage};
use crate::limits::{
    ARGUMENT_MAX, LAUNCH_BYTES_MAX, PREPARE_AT_ONCE, PREPARE_TIMEOUT, SOCKET_PATH_MAX, TEXT_MAX,
};
use crate::spec::{Argv, Command, Kind, Log, Probe, Runner, Template, UnitSpec};

/// A launch that can be handed to the keeper.
#[derive(Clone, PartialEq)]
pub struct Prepared {
    /// For the keeper.
    pub launch: Launch,
    /// How the unit is to be marked: its runner's note, when its stand-in was chosen.
    pub note: Option<String>,
}

// Not derived: the environment holds secrets, and debug output ends in logs.
impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("id", &self.launch.id)
            .field("program", &explain::shown(&self.launch.program))
            .field("note", &self.note)
            .finish_non_exhaustive()
    }
}

/// Prepares launches off the loop, one after the other while nothing hangs. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Preparer {
    node: Arc<NodeContext>,
    crew: Crew,
    hanging: Arc<Mutex<BTreeSet<String>>>,
    timeout: Duration,
}

impl Preparer {
    /// For this node.
    pub fn new(node: NodeContext) -> Self {
        Self {
            node: Arc::new(node),
            crew: Crew::default(),
            hanging: Arc::default(),
            timeout: PREPARE_TIMEOUT,
        }
    }

    /// What this node is.
    pub fn node(&self) -> &NodeContext {
        &self.node
    }

    /// [`prepare`] on a thread of the crew, for at most [`PREPARE_TIMEOUT`]. Must be called inside a tokio runtime.
    ///
    /// A preparation that hangs (a dead NFS server) cannot be interrupted. Its start fails, and it keeps one of
    /// [`PREPARE_AT_ONCE`] threads and its unit's turn until it returns; so a unit holds one thread at most, however
    /// often it is tried again, and the loop never waits.
    pub async fn prepare_bounded(
        &self,
        spec: Arc<UnitSpec>,
        role: Role,
        launch: LaunchId,
    ) -> Result<Prepared, LaunchFailure> {
        let node = Arc::clone(&self.node);
        let key = turn_of(&spec, role);
        self.bounded(key, move || prepare(&spec, role, launch, &node))
            .await?
    }

    /// A text with the variables that `role` of `spec` has, as bounded.
    pub async fn fill_bounded(
        &self,
        spec: Arc<UnitSpec>,
        launch: LaunchId,
        role: Role,
        text: Template,
    ) -> Result<String, LaunchFailure> {
        let node = Arc::clone(&self.node);
        let key = turn_of(&spec, role);
        let fill = move || {
            let account = Account::of(&spec)?;
            let invocation = invocation_text(node.seed, launch.invocation);
            let own = own_variables(&spec, role, &invocation, None);
            let env = Environment::of(&spec, &node, &account, own)?;
            env.fill(&text, &role_word(role))
        };
        self.bounded(key, fill).await?.map_err(|fault| LaunchFailure {
            text: fault.text,
            host: fault.host,
        })
    }

    /// [`explain::explain`] on a thread, as bounded. When the program's disk hangs, the kernel's word alone.
    pub async fn explain(&self, stage: Stage, errno: i32, launch: Arc<Launch>) -> LaunchFailure {
        let plain = LaunchFailure {
            text: format!(
                "cannot execute {}: {}",
                explain::shown(&launch.program),
                explain::errno_text(errno)
            ),
            host: explain::is_host_fault(errno),
        };
        // Without a unit's turn: what is asked about has just been tried, so its disk answered a moment ago.
        let work = move || explain::explain(stage, errno, &launch);
        self.crew.run(self.timeout, work).await.unwrap_or(plain)
    }

    /// `work` on a thread, as bounded. One of each `unit`, which is the name that failures tell, is under way.
    pub(super) async fn bounded<T: Send + 'static>(
        &self,
        unit: String,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LaunchFailure> {
        // A disk that does not answer is the host's fault: the unit is tried again until it does, and loses no restart.
        let hangs = |text: String| LaunchFailure { text, host: true };
        let Some(turn) = Turn::take(&self.hanging, &unit) else {
            return Err(hangs(format!(
                "the last preparation of {unit} still hangs: does a disk with one of its files answer?"
            )));
        };
        let work = move || {
            let _held = turn;
            work()
        };
        self.crew.run(self.timeout, work).await.map_err(|lost| match lost {
            Lost::NotBegun => hangs(format!(
                "{PREPARE_AT_ONCE} preparations of other units hang: does a disk with their files answer?"
            )),
            Lost::Hangs => hangs(format!(
                "cannot prepare {unit} within {:?}: does a disk with one of its files, or the user directory, hang?",
                self.timeout
            )),
            // Which aborts in release builds.
            Lost::Panicked => LaunchFailure {
                text: format!("cannot prepare {unit}: it panicked, which is a bug in ringriftd"),
                host: false,
            },
        })
    }
}

/// A unit prepares one thing at a time, and beside it the command of a probe, which may come while a hook runs.
fn turn_of(spec: &UnitSpec, role: Role) -> String {
    if role.is_probe() {
        format!("{}'s probe", spec.name)
    } else {
        spec.name.to_string()
    }
}

/// A unit's turn: it prepares once at a time.
struct Turn {
    all: Arc<Mutex<BTreeSet<String>>>,
    unit: String,
}

impl Turn {
    fn take(all: &Arc<Mutex<BTreeSet<String>>>, unit: &str) -> Option<Self> {
        let fresh = all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(unit.to_owned());
        fresh.then(|| Self {
            all: Arc::clone(all),
            unit: unit.to_owned(),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.unit);
    }
}

/// Everything that the keeper needs to start `role` of `spec` as `launch`. Blocks.
pub fn prepare(
    spec: &UnitSpec,
    role: Role,
    launch: LaunchId,
    node: &NodeContext,
) -> Result<Prepared, LaunchFailure> {
    let word = role_word(role);
    make(spec, role, launch, node).map_err(|fault| {
        let text = match role {
            Role::Main => fault.text,
            _ => format!("{word}: {}", fault.text),
        };
        LaunchFailure {
            text,
            host: fault.host,
        }
    })
}

/// What the logger is told of a unit's `[log]` beside sizes.
pub fn log_keep(log: &Log) -> LogKeep {
    LogKeep {
        max_age_ms: u64::try_from(log.max_age.as_millis()).unwrap_or(u64::MAX),
        is_packed: log.compress,
        is_dropped: log.is_dropped,
    }
}

/// How the logger reads what a unit writes.
pub fn log_read(log: &Log, seed: u64) -> LogRead {
    LogRead {
        is_split: log.split,
        max_line: log.max_line,
        forward: log.forward,
        forward_to: log.forward_to.clone(),
        parse: log.parse,
        seed,
    }
}

/// Where the notify socket of a life is.
pub fn notify_path(runtime_dir: &Path, invocation: &str) -> PathBuf {
    runtime_dir.join(NOTIFY_FOLDER).join(format!("{invocation}.sock"))
}

fn make(spec: &UnitSpec, role: Role, id: LaunchId, node: &NodeContext) -> Result<Prepared, Fault> {
    let account = Account::of(spec)?;
    let invocation = invocation_text(node.seed, id.invocation);
    let is_storing = role == Role::Main && spec.exec.fd_store_max > 0;
    let notify = match (spec.exec.kind, role) {
        (_, Role::Main) if is_storing || spec.exec.kind == Kind::Notify => {
            Some(notify_path(&node.runtime_dir, &invocation))
        }
        _ => None,
    };
    if let Some(path) = &notify
        && path.as_os_str().len() > SOCKET_PATH_MAX
    {
        return Err(Fault::unit(format!(
            "the notify socket's path {} is longer than the {SOCKET_PATH_MAX} bytes allowed; give a shorter --runtime-dir",
            path.display()
        )));
    }
    let own = own_variables(spec, role, &invocation, notify.as_deref());
    let env = Environment::of(spec, node, &account, own)?;
    let (argv, note) = choose(spec, role, &env)?;
    let is_otherwise = runs_otherwise(spec, role, &env);
    let mut argv = argv.into_iter();
    let Some(program) = argv.next() else {
        return Err(Fault::unit("there is no command to run"));
    };
    let working_dir = match &spec.exec.working_dir {
        Some(template) => env.fill(template, "working_dir")?,
        None => "/".to_owned(),
    };
    if !working_dir.starts_with('/') {
        return Err(Fault::unit(format!(
            "working_dir is {working_dir}, not an absolute path"
        )));
    }
    let identity = account.identity;
    let found = find(&program, &env, Path::new(&working_dir), identity.as_ref())?;
    let launch = Launch {
        id,
        invocation,
        role: role_word(role),
        tag: spec.name.as_str().to_owned(),
        program: found.into_os_string().into_vec(),
        argv: std::iter::once(program)
            .chain(argv)
            .map(String::into_bytes)
            .collect(),
        env: env.rendered(),
        working_dir: working_dir.into_bytes(),
        identity,
        umask: spec.exec.umask,
        nice: spec.exec.nice,
        oom_score_adj: spec.exec.oom_score_adj.unwrap_or(0),
        rlimits: spec.exec.rlimits.clone(),
        no_new_privs: spec.exec.no_new_privs,
        output: Output {
            unit: spec.name.as_str().to_owned(),
            max_size: spec.log.max_size,
            max_files: spec.log.max_files,
            drain_ms: u64::try_from(spec.stop.drain_timeout.as_millis()).unwrap_or(u64::MAX),
            keep: log_keep(&spec.log),
            read: log_read(&spec.log, node.seed),
        },
        notify: notify.map(|path| path.into_os_string().into_vec()),
        ready_fd: (spec.exec.kind == Kind::Fd && role == Role::Main).then_some(spec.exec.notify_fd),
        is_given_stored: is_storing,
        stdin: None,
        is_zygote: spec.exec.is_zygote && role == Role::Main && !is_otherwise,
        // Which life of it, only the loop knows, when it asks the keeper.
        fork: (role == Role::Main && !is_otherwise)
            .then_some(spec.exec.zygote.as_ref())
            .flatten()
            .map(|zygote| Fork {
                zygote: None,
                or_executed: !zygote.is_required,
            }),
    };
    let strings = || launch.argv.iter().chain(&launch.env);
    let total: usize = strings().map(|s| s.len() + 1).sum();
    if total > LAUNCH_BYTES_MAX || strings().any(|s| s.len() >= ARGUMENT_MAX) {
        return Err(Fault::unit(format!(
            "argument list too long (E2BIG): at most {LAUNCH_BYTES_MAX} bytes are allowed; {}",
            explain::largest(&launch)
        )));
    }
    Ok(Prepared { launch, note })
}

/// It is a main process whose runner lacks a variable, so that its stand-in runs.
fn runs_otherwise(spec: &UnitSpec, role: Role, env: &Environment) -> bool {
    match &spec.exec.command {
        Command::Runner { runner, .. } if role == Role::Main => missing(runner, env).is_some(),
        Command::Runner { .. } | Command::Direct(_) => false,
    }
}

/// The variable that a runner requires and does not have.
fn missing<'a>(runner: &'a Runner, env: &Environment) -> Option<&'a String> {
    let is_unset = |key: &&String| env.get(key).is_none_or(String::is_empty);
    runner.requires_env.iter().find(is_unset)
}

/// The arguments of `role`, filled in, and the note of a stand-in.
fn choose(spec: &UnitSpec, role: Role, env: &Environment) -> Result<(Vec<String>, Option<String>), Fault> {
    let fill_all = |argv: &Argv, place: &str| -> Result<Vec<String>, Fault> {
        let at = |(i, template): (usize, &Template)| env.fill(template, &format!("{place}[{i}]"));
        argv.iter().enumerate().map(at).collect()
    };
    let exec = &spec.exec;
    let hook = |hooks: &[Argv], n: u16, key: &str| match hooks.get(usize::from(n)) {
        Some(argv) => Ok((fill_all(argv, &format!("{key}[{n}]"))?, None)),
        None => Err(Fault::unit(format!("{key}[{n}] is no longer defined"))),
    };
    let probe = |probe: Option<&Probe>, key: &str| match probe {
        Some(Probe::Command(argv)) => Ok((fill_all(argv, key)?, None)),
        Some(_) | None => Err(Fault::unit(format!("{key} is no longer a command"))),
    };
    match role {
        Role::StartPre(n) => return hook(&exec.start_pre, n, "start_pre"),
        Role::StartPost(n) => return hook(&exec.start_post, n, "start_post"),
        Role::StopPre(n) => return hook(&exec.stop_pre, n, "stop_pre"),
        Role::StopPost(n) => return hook(&exec.stop_post, n, "stop_post"),
        Role::Reload(n) => return hook(&exec.reload, n, "reload"),
        Role::ReadyProbe => return probe(spec.ready_probe.as_ref(), "ready.probe"),
        Role::Probe => {
            let health = spec.health.as_ref();
            return probe(health.and_then(|health| health.probe.as_ref()), "health.probe");
        }
        Role::Main => {}
    }
    match &exec.command {
        Command::Direct(argv) => Ok((fill_all(argv, "command")?, None)),
        Command::Runner { name, runner, args } => {
            let missing = missing(runner, env);
            let (command, key, note) = match (missing, &runner.otherwise) {
                (None, _) => (&runner.command, "command", None),
                (Some(_), Some(otherwise)) => (otherwise, "otherwise", runner.note.clone()),
                (Some(missing), None) => {
                    return Err(Fault::unit(format!(
                        "the runner {name} requires the variable {missing}, which is not set, and has no `otherwise`"
                    )));
                }
            };
            let mut argv = fill_all(command, &format!("runner.{name}.{key}"))?;
            argv.extend(fill_all(args, "args")?);
            Ok((argv, note))
        }
    }
}

/// The program's path: as it stands when it has a slash, else the first executable file along PATH.
fn find(
    program: &str,
    env: &Environment,
    working_dir: &Path,
    identity: Option<&Identity>,
) -> Result<PathBuf, Fault> {
    if program.is_empty() {
        return Err(Fault::unit("the program's name is empty"));
    }
    if program.len() > TEXT_MAX {
        return Err(Fault::unit(format!(
            "the program's name is longer than {TEXT_MAX} bytes"
        )));
    }
    if program.contains('/') {
        return match explain::advance(&working_dir.join(program), identity) {
            Some(why) => Err(Fault::unit(format!(
                "cannot execute {}: {why}",
                explain::shown(program.as_bytes())
            ))),
            None => Ok(PathBuf::from(program)),
        };
    }
    let path = env.get("PATH").map_or("", String::as_str);
    let mut found_but = None;
    // A relative or empty folder would depend on the working folder, which a unit may be able to write to.
    for folder in path.split(':').filter(|folder| folder.starts_with('/')) {
        let candidate = Path::new(OsStr::from_bytes(folder.as_bytes())).join(program);
        match explain::advance(&candidate, identity) {
            None if candidate.exists() => return Ok(candidate),
            Some(why) if candidate.is_file() && found_but.is_none() => found_but = Some((candidate, why)),
            _ => {}
        }
    }
    let name = explain::shown(program.as_bytes());
    Err(Fault::unit(match found_but {
        Some((candidate, why)) => format!("cannot execute {}: {why}", candidate.display()),
        None => format!(
            "cannot execute {name}: no such program in {} (ENOENT); is it installed, or is it elsewhere?",
            if path.is_empty() {
                "PATH, which is empty"
            } else {
                path
            }
        ),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn unit(name: &str) -> String {
        name.to_owned()
    }

    fn impatient() -> Preparer {
        Preparer {
            timeout: Duration::from_millis(50),
            ..Preparer::new(NodeContext::default())
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn preparation_that_hangs_fails_and_holds_one_place_only() {
        let mut preparer = impatient();
        let (release, hang) = mpsc::channel::<()>();
        let failed = preparer
            .bounded(unit("slow"), move || {
                let _ = hang.recv();
            })
            .await
            .expect_err("it hangs");
        assert!(failed.text.contains("within 50ms") && failed.host, "{failed:?}");
        // What does not hang may take its time on a busy machine.
        preparer.timeout = Duration::from_secs(60);
        for _ in 0..3 {
            let again = preparer
                .bounded(unit("slow"), || ())
                .await
                .expect_err("it still hangs");
            assert!(again.text.contains("still hangs") && again.host, "{again:?}");
        }
        assert_eq!(preparer.crew.threads(), 1);
        preparer
            .bounded(unit("other"), || ())
            .await
            .expect("others go on");
        release.send(()).expect("it listens");
        // Its end gives the thread back.
        while preparer.crew.threads() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
