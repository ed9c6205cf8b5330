//! From settings to a keeper: signals, folders, locks, the control socket, the containment that works here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::cgroup::{self, Root};
use super::child::Stack;
use super::config::{Contain, KeeperConfig};
use super::counted::Kills;
use super::door::Door;
use super::handover::Received;
use super::launch::{Containment, Machine};
use super::lock::{self, LockError};
use super::rebuild::Ground;
use super::state::{Keeper, Kept, LoggerRestarts, ManagerLives, Phase, Role, say};
use super::store::Store;
use super::upgrade::Upgrade;
use super::watchdog::Watchdog;
use super::zygote::Zygotes;
use super::{rebuild, seed, sockets, sys};

/// EX_TEMPFAIL: another keeper already runs here.
const ALREADY_RUNS: u8 = 75;
/// The operation failed.
pub const FAILED: u8 = 1;
/// The keeper's own oom_score_adj, where it may set it: without it, all that it holds would be orphans.
const OWN_OOM_SCORE_ADJ: &str = "-900";

/// Makes the process a keeper with everything in place but its roles, and the descriptor that its signals come by.
/// On failure, which has been said, the exit code.
///
/// `left` is what another program leaves to this one.
pub fn prepare(mut config: KeeperConfig, left: Option<&mut Received>) -> Result<(Keeper, SignalFd), u8> {
    let fail = |why: String| {
        say(&why);
        FAILED
    };
    let signals = prepare_signals().map_err(|e| fail(format!("cannot set up signals: {e}")))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    for folder in [&config.state_dir, &config.runtime_dir, &config.log_dir] {
        lock::make_folder(folder).map_err(fail)?;
    }
    sys::become_subreaper().map_err(|e| fail(format!("cannot become subreaper: {e}")))?;
    let control_path = config.runtime_dir.join("control.sock");
    let ground = match left {
        Some(left) => {
            sys::set_name(c"ringriftd");
            rebuild::ground(&config, left).map_err(|e| fail(format!("cannot take over: {e}")))?
        }
        None => new_ground(&config, &control_path)?,
    };
    let Ground {
        lock,
        control,
        seed,
        machine,
        kept,
        may_have_orphans,
    } = ground;
    let own_pid = std::process::id().cast_signed();
    let watchdog = Watchdog::asked_for(own_pid, |name| std::env::var(name).ok());
    if let Some(watchdog) = &watchdog {
        let silence = &mut config.manager_bounds.silence;
        *silence = (*silence).min(watchdog.silence());
    }
    let keeper = Keeper {
        lock,
        control,
        control_path,
        machine,
        seed,
        own_pid,
        watchdog,
        outer: std::env::var_os("NOTIFY_SOCKET"),
        launches: BTreeMap::new(),
        by_pid: BTreeMap::new(),
        foreign: BTreeMap::new(),
        draining: BTreeMap::new(),
        leftover: BTreeSet::new(),
        doubted: BTreeMap::new(),
        killing: BTreeSet::new(),
        inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok(),
        watches: BTreeMap::new(),
        graves: Vec::new(),
        look_again: None,
        kept,
        manager: Role::default(),
        lives: ManagerLives::default(),
        logger: Role::default(),
        logger_elsewhere: None,
        logger_restarts: LoggerRestarts::default(),
        door: Door::default(),
        upgrade: Upgrade::No,
        ends: BTreeMap::new(),
        store: Store::default(),
        zygotes: Zygotes::default(),
        left_behind: None,
        note: None,
        last_order: 0,
        untaken_signals: VecDeque::new(),
        may_have_orphans,
        name_orphans_at: None,
        last_signal: 0,
        is_spawning_roles: true,
        phase: Phase::Starting {
            until: Instant::now() + config.manager_bounds.start,
        },
        config,
    };
    Ok((keeper, signals))
}

/// What a keeper stands on that begins with nothing.
fn new_ground(config: &KeeperConfig, control_path: &Path) -> Result<Ground, u8> {
    let fail = |why: String| {
        say(&why);
        FAILED
    };
    let lock = lock::take(&config.state_dir, &config.runtime_dir).map_err(|e| match e {
        LockError::Held { pid, path } => {
            let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("pid {pid}"));
            let lock = path.display();
            say(&format!(
                "another ringriftd already runs here: {who} holds {lock}; end it with `ringriftctl \
                     shutdown`, or give this one a --runtime-dir and a --state-dir of its own"
            ));
            ALREADY_RUNS
        }
        LockError::Failed { text } => fail(text),
    })?;
    let (seed, is_known) = seed::of(&config.state_dir, &config.runtime_dir).map_err(fail)?;
    let control = sockets::control(control_path)
        .map_err(|e| fail(format!("cannot listen on {}: {e}", control_path.display())))?;
    close_runtime_folder(config);
    let machine = make_machine(config, seed).map_err(fail)?;
    let kept = Kept::make().map_err(|e| fail(format!("cannot make memory for manager and logger: {e}")))?;
    Ok(Ground {
        lock,
        control,
        seed,
        machine,
        kept,
        may_have_orphans: is_known,
    })
}

/// TERM, INT, QUIT and HUP are for the whole daemon and go to the manager; CHLD is the keeper's own; USR1, USR2 and
/// PIPE are ignored.
fn prepare_signals() -> io::Result<SignalFd> {
    for signal in [Signal::SIGPIPE, Signal::SIGUSR1, Signal::SIGUSR2] {
        sys::ignore_signal(signal)?;
    }
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
    ] {
        mask.add(signal);
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// The folder is for its owner alone until a unit of another user has a socket in it ([`sockets::Notify::make`]); only
/// who holds the lock may close it again, since those units of an earlier keeper are gone by then.
fn close_runtime_folder(config: &KeeperConfig) {
    // Best effort: that nobody else may write to it was checked before, and every socket in it has mode 0600.
    let _ = std::fs::set_permissions(&config.runtime_dir, PermissionsExt::from_mode(0o700));
}

fn make_machine(config: &KeeperConfig, seed: u64) -> Result<Machine, String> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| format!("cannot open /dev/null: {e}"))?;
    let stack = Stack::map().map_err(|e| format!("cannot map a stack: {e}"))?;
    let marker = rebuild::marker(seed)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|e| format!("cannot read limits: {e}"))?;
    // Each launch costs a pipe; best effort.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let oom = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    // Needs a privilege that a user does not have; best effort.
    let _ = std::fs::write("/proc/self/oom_score_adj", OWN_OOM_SCORE_ADJ);
    let mut machine = Machine {
        containment: Containment::Group {
            why: "not tried".to_owned(),
        },
        null: null.into(),
        stack,
        marker,
        nofile: libc::rlimit64 {
            rlim_cur: soft,
            rlim_max: hard,
        },
        kills: Kills::default(),
        can_be_born_inside: false,
        left_roots: Vec::new(),
        oom_score_adj: oom.trim().parse().unwrap_or(0),
        runtime_dir: config.runtime_dir.clone(),
    };
    let tried = match &config.containment {
        Contain::ProcessGroup => Err("asked for".to_owned()),
        Contain::Auto => try_cgroup(&mut machine, None, seed),
        Contain::CgroupRoot(path) => {
            let root = try_cgroup(&mut machine, Some(path), seed);
            Ok(root.map_err(|why| format!("cannot use the cgroup {}: {why}", path.display()))?)
        }
    };
    let made = tried.as_ref().ok().map(Root::path);
    machine.left_roots = replace_left_cgroups(&config.state_dir.join("cgroups"), made);
    machine.containment = match tried {
        Ok(root) => Containment::Cgroup(root),
        Err(why) => Containment::Group { why },
    };
    Ok(machine)
}

/// Takes away what keepers before this one, killed, left of their cgroups, and notes this one's for the next. A folder in
/// which somebody lives stays, and stays noted. All of it is best effort: it is about empty folders only.
fn replace_left_cgroups(note: &Path, made: Option<&Path>) -> Vec<Root> {
    let noted = std::fs::read_to_string(note).unwrap_or_default();
    let made = made.and_then(Path::to_str);
    let mut lines: Vec<&str> = noted
        .lines()
        .filter(|line| Some(*line) != made && !cgroup::remove_left(Path::new(line)))
        .collect();
    lines.extend(made);
    let _ = std::fs::write(note, lines.join("\n"));
    lines
        .iter()
        .filter(|line| Some(**line) != made)
        .filter_map(|line| Root::left(Path::new(line)))
        .collect()
}

fn try_cgroup(machine: &mut Machine, parent: Option<&Path>, seed: u64) -> Result<Root, String> {
    let root = Root::make(parent, seed)?;
    match machine.test_cgroup(&root) {
        Ok(()) => Ok(root),
        Err(why) => {
            root.remove();
            Err(why)
        }
    }
}
