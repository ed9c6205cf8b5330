//! The keeper's start, and its loop: signals, links, leaves and times, each turned into one call. It sleeps until one
//! of them has something to say; an idle node never wakes it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::cgroup::Root;
use super::child::Stack;
use super::config::{Contain, KeeperConfig};
use super::launch::{Containment, Machine};
use super::links::{Link, Received};
use super::lock::{self, LockError};
use super::roles::BUG;
use super::state::{Keeper, LoggerRestarts, Phase, Role, say};
use super::wire::FromKeeper;
use super::{sockets, sys};
use crate::ids::LaunchId;
use crate::limits;

/// EX_TEMPFAIL: another keeper already runs here.
const ALREADY_RUNS: u8 = 75;
/// The operation failed.
const FAILED: u8 = 1;
/// The keeper's own oom_score_adj, where it may set it: without it, all that it holds would be orphans.
const OWN_OOM_SCORE_ADJ: &str = "-900";
/// Requests that are read before children and times get their turn.
const REQUESTS_PER_TURN: usize = 64;

/// Is the keeper until the end of the node: the exit code of the process. Messages go to stderr.
///
/// It changes the process for good (signals, umask, limits, subreaper), so it is the last thing that `main` calls,
/// and there is no other thread.
pub fn run(config: KeeperConfig) -> u8 {
    match Started::new(config) {
        Ok(mut started) => match started.keeper.start_roles() {
            Ok(()) => started.serve(),
            Err(why) => {
                say(&why);
                started.keeper.begin_end(FAILED);
                started.serve()
            }
        },
        Err(code) => code,
    }
}

/// Like [`run`] with roles that already live and whose ends of the links the caller holds, as a test does. The end of
/// a link counts as the end of its role.
pub fn run_with_links(config: KeeperConfig, manager: OwnedFd, logger: OwnedFd) -> u8 {
    let (Ok(manager), Ok(logger)) = (Link::new(manager), Link::new(logger)) else {
        return FAILED;
    };
    match Started::new(config) {
        Ok(mut started) => {
            started.keeper.is_spawning_roles = false;
            started.keeper.manager.link = Some(manager);
            started.keeper.logger.link = Some(logger);
            started.serve()
        }
        Err(code) => code,
    }
}

struct Started {
    keeper: Keeper,
    signals: SignalFd,
}

impl Started {
    fn new(config: KeeperConfig) -> Result<Self, u8> {
        let fail = |why: String| {
            say(&why);
            FAILED
        };
        let signals = prepare_signals().map_err(|e| fail(format!("cannot set up signals: {e}")))?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        for folder in [&config.state_dir, &config.runtime_dir, &config.log_dir] {
            lock::make_folder(folder).map_err(fail)?;
        }
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
        sys::become_subreaper().map_err(|e| fail(format!("cannot become subreaper: {e}")))?;
        let seed = sys::random().map_err(|e| fail(format!("cannot get a random number: {e}")))?;
        let control_path = config.runtime_dir.join("control.sock");
        let control = sockets::control(&control_path)
            .map_err(|e| fail(format!("cannot listen on {}: {e}", control_path.display())))?;
        open_way_to_notify_sockets(&config);
        let machine = make_machine(&config, seed).map_err(fail)?;
        let keeper = Keeper {
            lock,
            control,
            control_path,
            machine,
            seed,
            own_pid: std::process::id().cast_signed(),
            outer: std::env::var_os("NOTIFY_SOCKET"),
            launches: BTreeMap::new(),
            by_pid: BTreeMap::new(),
            foreign: BTreeMap::new(),
            draining: BTreeMap::new(),
            leftover: BTreeSet::new(),
            killing: BTreeSet::new(),
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok(),
            watches: BTreeMap::new(),
            graves: Vec::new(),
            look_again: None,
            manager: Role::default(),
            logger: Role::default(),
            logger_restarts: LoggerRestarts::default(),
            is_spawning_roles: true,
            phase: Phase::Starting {
                until: Instant::now() + limits::MANAGER_START_TIMEOUT,
            },
            config,
        };
        Ok(Self { keeper, signals })
    }

    fn serve(&mut self) -> u8 {
        self.keeper.greet();
        loop {
            if let Phase::Done { code } = self.keeper.phase {
                self.keeper.clean_up();
                return code;
            }
            let ready = match self.sleep() {
                Ok(ready) => ready,
                Err(e) => {
                    say(&format!("cannot wait for events: {e}"));
                    self.keeper.clean_up();
                    return BUG;
                }
            };
            self.turn(&ready);
        }
    }

    fn turn(&mut self, ready: &[Source]) {
        if ready.contains(&Source::Signals) {
            self.on_signals();
        }
        let keeper = &mut self.keeper;
        for source in ready {
            match source {
                Source::Leaves => keeper.on_leaf_events(),
                Source::Foreign(id) => keeper.on_foreign_end(*id),
                Source::Manager => {
                    if let Some(link) = &mut keeper.manager.link {
                        link.flush();
                    }
                    keeper.read_manager(REQUESTS_PER_TURN);
                }
                Source::Logger => {
                    if let Some(link) = &mut keeper.logger.link {
                        link.flush();
                    }
                    keeper.read_logger();
                }
                Source::Signals => {}
            }
        }
        keeper.on_time(Instant::now());
        keeper.step_end();
    }

    fn on_signals(&mut self) {
        let mut is_child = false;
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = info.ssi_signo.cast_signed();
            if number == libc::SIGCHLD {
                is_child = true;
            } else {
                self.keeper
                    .tell_manager(&FromKeeper::Signal { signal: number }, Vec::new());
            }
        }
        if is_child {
            self.keeper.on_children();
        }
    }

    /// Waits until something is to be done, and says what.
    fn sleep(&self) -> io::Result<Vec<Source>> {
        let keeper = &self.keeper;
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> =
            vec![(Source::Signals, self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(inotify) = &keeper.inotify {
            sources.push((Source::Leaves, inotify.as_fd(), PollFlags::POLLIN));
        }
        // The logger first: what it says only frees things.
        let links = [
            (Source::Logger, &keeper.logger.link),
            (Source::Manager, &keeper.manager.link),
        ];
        let is_full = links
            .iter()
            .any(|(_, link)| link.as_ref().is_some_and(Link::is_full));
        for (source, link) in links {
            let Some(link) = link else { continue };
            let mut flags = PollFlags::empty();
            if source == Source::Logger || !is_full {
                flags |= PollFlags::POLLIN;
            }
            if link.is_waiting() && !link.is_choked() {
                flags |= PollFlags::POLLOUT;
            }
            sources.push((source, link.fd(), flags));
        }
        for (id, fd) in &keeper.foreign {
            sources.push((Source::Foreign(*id), fd.as_fd(), PollFlags::POLLIN));
        }
        let mut fds: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(_, fd, flags)| PollFd::new(*fd, *flags))
            .collect();
        match nix::poll::poll(&mut fds, timeout(keeper.next_deadline(), Instant::now())) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        Ok(sources
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| is_ready(fd))
            .map(|((source, ..), _)| *source)
            .collect())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Leaves,
    Manager,
    Logger,
    Foreign(LaunchId),
}

/// Rounded up, so that a deadline has passed when poll(2) returns.
fn timeout(deadline: Option<Instant>, now: Instant) -> PollTimeout {
    let Some(deadline) = deadline else {
        return PollTimeout::NONE;
    };
    let wait = deadline.saturating_duration_since(now) + Duration::from_micros(999);
    PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
}

impl Keeper {
    /// Takes up to `most` requests of the manager's; no more while too much waits to be said.
    fn read_manager(&mut self, most: usize) {
        for _ in 0..most {
            let is_full = |role: &Role| role.link.as_ref().is_some_and(Link::is_full);
            if is_full(&self.manager) || is_full(&self.logger) || !self.read_request() {
                return;
            }
        }
    }

    /// Takes all that a manager said before it ended.
    pub fn read_last_words(&mut self) {
        while self.read_request() {}
    }

    fn read_request(&mut self) -> bool {
        let Some(link) = &mut self.manager.link else {
            return false;
        };
        match link.receive() {
            Received::Message(request) => {
                self.on_request(request);
                return true;
            }
            Received::Nothing => {}
            Received::Closed => self.on_manager_silent(),
            Received::Broken(why) => {
                say(&format!("cannot understand the manager: {why}"));
                self.on_manager_silent();
            }
        }
        false
    }

    fn read_logger(&mut self) {
        loop {
            let Some(link) = &mut self.logger.link else { return };
            match link.receive() {
                Received::Message(word) => self.on_logger_word(word),
                Received::Nothing => return,
                Received::Closed => return self.on_logger_silent(),
                Received::Broken(why) => {
                    say(&format!("cannot understand the logger: {why}"));
                    return self.on_logger_silent();
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let kill = self
            .killing
            .iter()
            .filter_map(|id| self.launches.get(id)?.killing)
            .map(|k| k.again)
            .min();
        let links = [&self.manager.link, &self.logger.link];
        let is_choked = links
            .iter()
            .any(|link| link.as_ref().is_some_and(Link::is_choked));
        let choked = is_choked.then(|| Instant::now() + limits::KEEPER_LOOK_AGAIN);
        [
            self.phase_deadline(),
            kill,
            choked,
            self.look_again,
            self.logger_restarts.at,
            self.manager.kill_at,
            self.logger.kill_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn on_time(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for link in [&mut self.manager.link, &mut self.logger.link]
            .into_iter()
            .flatten()
        {
            if link.is_choked() {
                link.flush();
            }
        }
        self.on_silent_time(now);
        self.on_kill_time(now);
        if is_due(self.look_again) {
            self.on_look_again();
        }
        if is_due(self.logger_restarts.at) {
            self.on_logger_time();
        }
        if let Phase::Starting { until } = self.phase
            && until <= now
        {
            self.on_start_timeout();
        }
    }
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

/// A unit of another user must be able to walk to its notify socket: root's runtime folder can be passed through, not
/// listed. Every socket in it has mode 0600.
fn open_way_to_notify_sockets(config: &KeeperConfig) {
    if nix::unistd::geteuid().is_root() {
        let _ = std::fs::set_permissions(&config.runtime_dir, PermissionsExt::from_mode(0o711));
    }
}

fn make_machine(config: &KeeperConfig, seed: u64) -> Result<Machine, String> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|e| format!("cannot open /dev/null: {e}"))?;
    let stack = Stack::map().map_err(|e| format!("cannot map a stack: {e}"))?;
    let marker = CString::new(format!("rr-{:012x}", seed & 0xffff_ffff_ffff)).map_err(|e| e.to_string())?;
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
    machine.containment = match tried {
        Ok(root) => Containment::Cgroup(root),
        Err(why) => Containment::Group { why },
    };
    Ok(machine)
}

fn try_cgroup(machine: &mut Machine, parent: Option<&std::path::Path>, seed: u64) -> Result<Root, String> {
    let root = Root::make(parent, seed)?;
    match machine.test_cgroup(&root) {
        Ok(()) => Ok(root),
        Err(why) => {
            root.remove();
            Err(why)
        }
    }
}
