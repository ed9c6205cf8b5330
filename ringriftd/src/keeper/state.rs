//! Everything that the keeper holds, and how it speaks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{CStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::sys::inotify::{Inotify, WatchDescriptor};
use nix::sys::memfd::{MFdFlags, memfd_create};
use proto::reply::Exit;

use super::cgroup::Leaf;
use super::config::KeeperConfig;
use super::door::Door;
use super::launch::{Held, Machine, Pipe};
use super::left::LeftBehind;
use super::links::Link;
use super::lock::Lock;
use super::rebuild::AllEnds;
use super::store::Store;
use super::types::{Proc, SharedFd};
use super::upgrade::Upgrade;
use super::watchdog::Watchdog;
use super::wire::{FromKeeper, ToLogger};
use super::zygote::Zygotes;
use crate::ids::LaunchId;

/// Manager or logger, as the keeper sees it.
#[derive(Default)]
pub struct Role {
    /// The keeper's end of its link; absent once the other end is gone.
    pub link: Option<Link>,
    /// Its process; absent once it is reaped, and where a test holds the other end.
    pub process: Option<Proc>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Its link is closed and its process lives: it is killed then.
    pub kill_at: Option<Instant>,
    /// It is of the program before an upgrade, and was killed.
    pub is_replaced: bool,
}

impl Role {
    /// Neither process nor link is left.
    pub fn is_gone(&self) -> bool {
        self.link.is_none() && self.process.is_none()
    }
}

/// How far the keeper is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No manager has said `Serving` yet: its end ends the keeper with its exit code.
    Starting {
        /// It must have said so until then.
        until: Instant,
    },
    /// A manager has served, and should it end, another one is started.
    Serving,
    /// All launches are being destroyed.
    Destroying {
        /// The exit code to come.
        code: u8,
        /// What is left then is left.
        until: Instant,
    },
    /// Manager and logger are to end.
    EndingRoles {
        /// The exit code to come.
        code: u8,
        /// Those that are still there then are killed.
        until: Instant,
        /// They have been killed.
        is_killed: bool,
    },
    /// What no launch accounts for is killed.
    Sweeping {
        /// The exit code to come.
        code: u8,
        /// What is left then is left.
        until: Instant,
        /// The next round.
        again: Instant,
    },
    /// Nothing is left to do.
    Done {
        /// The exit code.
        code: u8,
    },
}

impl Phase {
    /// The keeper is on its way out.
    pub fn is_ending(self) -> bool {
        !matches!(self, Self::Starting { .. } | Self::Serving)
    }
}

/// When and after how many deaths the logger comes back.
#[derive(Debug, Default)]
pub struct LoggerRestarts {
    /// When it is started again.
    pub at: Option<Instant>,
    /// The next back-off's exponent.
    pub step: u32,
    /// When the present one was started.
    pub since: Option<Instant>,
    /// How often it was restarted.
    pub times: u32,
    /// The next start is no death's: the program was exchanged.
    pub is_planned: bool,
}

/// What the keeper does about the manager's silence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Attention {
    /// Nothing: there is no manager that the keeper could kill, or it has just been killed.
    #[default]
    Nobody,
    /// It was started again and does not serve yet.
    Starting {
        /// It must serve by then.
        until: Instant,
    },
    /// It serves.
    Serving {
        /// When it is asked whether it lives, unless it says something.
        ask_at: Instant,
    },
    /// It was asked whether it lives.
    Asked {
        /// It must have said something by then.
        until: Instant,
    },
}

/// The manager's lives so far.
#[derive(Debug, Default)]
pub struct ManagerLives {
    /// What is done about its silence.
    pub attention: Attention,
    /// When the next one is started.
    pub at: Option<Instant>,
    /// Since when the present one serves.
    pub serves_since: Option<Instant>,
    /// One has served since this keeper began: it is not fresh any more.
    pub has_served: bool,
    /// How often one died or was replaced.
    pub deaths: u32,
    /// How often in a row by its own fault, none having served for long.
    pub deaths_in_a_row: u32,
    /// The present one hung, and is being killed for it.
    pub was_hung: bool,
    /// Attempts to start it in a row, for the back-off.
    pub step: u32,
    /// The last number of a `Ping`.
    pub last_nonce: u64,
}

/// What the keeper holds for manager and logger so that it outlives them. It never looks into any of it.
#[derive(Debug)]
pub struct Kept {
    /// The manager's state, in two halves.
    pub state: [OwnedFd; 2],
    /// The logger's state.
    pub buffer: OwnedFd,
    /// The logger's pipe: read end, write end.
    pub hold: [OwnedFd; 2],
}

impl Kept {
    /// A copy of the manager's state as it is now.
    pub fn copy_state(&self) -> std::io::Result<[OwnedFd; 2]> {
        let copy = |from: &OwnedFd| {
            // Opened anew, so that the one's place in it is not the other's.
            let mut from = File::open(format!("/proc/self/fd/{}", from.as_raw_fd()))?;
            let mut to = File::from(memfd_create(c"ringrift-state-before", MFdFlags::MFD_CLOEXEC)?);
            std::io::copy(&mut from, &mut to)?;
            Ok::<OwnedFd, std::io::Error>(to.into())
        };
        let [first, second] = &self.state;
        Ok([copy(first)?, copy(second)?])
    }

    /// Everything empty.
    pub fn make() -> nix::Result<Self> {
        let memory = |name: &CStr| memfd_create(name, MFdFlags::MFD_CLOEXEC);
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        Ok(Self {
            state: [memory(c"ringrift-state-0")?, memory(c"ringrift-state-1")?],
            buffer: memory(c"ringrift-log-buffer")?,
            hold: [read, write],
        })
    }
}

/// A leaf that the kernel still counts busy.
#[derive(Debug)]
pub struct Grave {
    /// Which.
    pub leaf: Leaf,
    /// Attempts so far.
    pub tries: u32,
}

/// All that the keeper holds.
pub struct Keeper {
    /// What it was told at its start.
    pub config: KeeperConfig,
    /// Held until the end.
    pub lock: Lock,
    /// The control socket, for the manager; absent in tests without one.
    pub control: OwnedFd,
    /// Its path.
    pub control_path: PathBuf,
    /// What launches need.
    pub machine: Machine,
    /// The node's random number.
    pub seed: u64,
    /// Its own pid.
    pub own_pid: i32,
    /// NOTIFY_SOCKET of the service manager above.
    pub outer: Option<OsString>,
    /// Its watchdog, if it has one for us.
    pub watchdog: Option<Watchdog>,
    /// The launches.
    pub launches: BTreeMap<LaunchId, Held>,
    /// The main processes that have not ended.
    pub by_pid: BTreeMap<i32, LaunchId>,
    /// Main processes that are another process's children: their end is seen by pidfd only.
    pub foreign: BTreeMap<LaunchId, OwnedFd>,
    /// Pipes of released launches that the logger still reads.
    pub draining: BTreeMap<LaunchId, Pipe>,
    /// Launches whose main process has ended and of which something is left.
    pub leftover: BTreeSet<LaunchId>,
    /// Orphans that show no environment yet, and since when: nobody knows whose they are.
    pub doubted: BTreeMap<Proc, Instant>,
    /// Launches that are being destroyed.
    pub killing: BTreeSet<LaunchId>,
    /// Tells when a leaf becomes empty; absent where the kernel gives none.
    pub inotify: Option<Inotify>,
    /// Whose leaf is watched.
    pub watches: BTreeMap<WatchDescriptor, LaunchId>,
    /// Leaves to be removed.
    pub graves: Vec<Grave>,
    /// When to look again at what cannot be watched.
    pub look_again: Option<Instant>,
    /// What manager and logger leave to their successors.
    pub kept: Kept,
    /// The manager.
    pub manager: Role,
    /// The manager's lives.
    pub lives: ManagerLives,
    /// The logger.
    pub logger: Role,
    /// A logger that a dead keeper started: it serves this one, and another process is its parent.
    pub logger_elsewhere: Option<Proc>,
    /// The logger's returns.
    pub logger_restarts: LoggerRestarts,
    /// Roles are processes that the keeper started, not ends that a test holds.
    pub is_spawning_roles: bool,
    /// Descriptors that units have kept.
    pub store: Store,
    /// The listener for HTTP.
    pub door: Door,
    /// Zygotes, and what is being forked from them.
    pub zygotes: Zygotes,
    /// How far an upgrade is.
    pub upgrade: Upgrade,
    /// What a dead keeper's manager had of launches that are still to be adopted.
    pub ends: AllEnds,
    /// What earlier keepers left here, while a manager asks for it.
    pub left_behind: Option<LeftBehind>,
    /// What happened to the keeper itself, in words, for each manager.
    pub note: Option<String>,
    /// The highest order of a signal that was carried out.
    pub last_order: u64,
    /// Signals to the whole daemon that the manager has not taken yet, numbered.
    pub untaken_signals: VecDeque<(u64, i32)>,
    /// The last of those numbers.
    pub last_signal: u64,
    /// An earlier keeper had this state: processes of its may live.
    pub may_have_orphans: bool,
    /// When those that were not taken over are named.
    pub name_orphans_at: Option<Instant>,
    /// How far it is.
    pub phase: Phase,
}

impl Keeper {
    /// Says `message` to the manager, if there is one.
    pub fn tell_manager(&mut self, message: &FromKeeper, fds: Vec<SharedFd>) {
        if let Some(link) = &mut self.manager.link
            && !link.send(message, fds)
        {
            say("a message to the manager cannot be encoded (a bug in ringrift)");
        }
    }

    /// Says `message` to the logger; when there is none, the next one is told the whole state anyway.
    pub fn tell_logger(&mut self, message: &ToLogger, fds: Vec<SharedFd>) {
        if let Some(link) = &mut self.logger.link
            && !link.send(message, fds)
        {
            say("a message to the logger cannot be encoded (a bug in ringrift)");
        }
    }

    /// The pids of manager and logger, which belong to no launch.
    pub fn role_pids(&self) -> Vec<i32> {
        [&self.manager, &self.logger]
            .iter()
            .filter_map(|role| role.process.map(Proc::pid))
            .collect()
    }
}

/// One line for people, on stderr. Nobody may be there to read it.
pub fn say(text: &str) {
    crate::say!("ringriftd: {text}");
}
