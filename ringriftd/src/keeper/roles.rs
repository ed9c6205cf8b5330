//! Manager and logger: how they are started, how their ends are seen, and how the logger comes back (for the manager:
//! `lives`).

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use proto::reply::Exit;

use super::child::{self, ChildSpec};
use super::handover;
use super::launch::kill_each;
use super::links::{self, Link};
use super::proc;
use super::state::{Keeper, Role, say};
use super::types::{Proc, SharedFd};
use super::wire::{FromKeeper, ToLogger, fd};
use crate::limits;

/// Of the service manager above, for the keeper alone: a role that spoke there would be taken for the daemon.
const KEPT_FROM_ROLES: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    handover::VARIABLE,
];

/// EX_SOFTWARE: a bug in ringrift.
pub const BUG: u8 = 70;

impl Keeper {
    /// Starts logger and manager, which find each other by a pair of their own.
    pub fn start_roles(&mut self) -> Result<(), String> {
        let (manager_peer, logger_peer) =
            links::pair().map_err(|e| format!("cannot make a socket pair: {e}"))?;
        self.start_logger(&logger_peer)?;
        self.start_manager(&manager_peer)
    }

    /// Starts a manager, whose end of its link to the logger is `peer`.
    pub fn start_manager(&mut self, peer: &OwnedFd) -> Result<(), String> {
        let args = self.config.manager_args.clone();
        let mut extra = vec![
            (peer.as_raw_fd(), fd::PEER),
            (self.control.as_raw_fd(), fd::CONTROL),
        ];
        extra.extend(self.kept.state.iter().map(AsRawFd::as_raw_fd).zip(fd::STATE));
        let picture = self.picture_for_manager().seal()?;
        extra.push((picture.as_raw_fd(), fd::HANDOVER));
        extra.push((self.kept.buffer.as_raw_fd(), fd::LOG_BUFFER));
        extra.extend(self.kept.hold.iter().map(AsRawFd::as_raw_fd).zip(fd::LOG_HOLD));
        extra.extend(
            self.lock
                .fds()
                .map(|lock| lock.as_raw_fd())
                .into_iter()
                .zip(fd::LOCKS),
        );
        self.manager = self.start_role("manager", &args, &extra)?;
        Ok(())
    }

    fn start_logger(&mut self, peer: &OwnedFd) -> Result<(), String> {
        let args = self.config.logger_args.clone();
        let mut extra = vec![
            (peer.as_raw_fd(), fd::PEER),
            (self.kept.buffer.as_raw_fd(), fd::BUFFER),
        ];
        extra.extend(self.kept.hold.iter().map(AsRawFd::as_raw_fd).zip(fd::HOLD));
        // Two of them would write the same lines.
        if let Some(old) = self.logger_elsewhere.take() {
            end_elsewhere(old)?;
        }
        self.logger = self.start_role("logger", &args, &extra)?;
        self.logger_restarts.since = Some(Instant::now());
        Ok(())
    }

    fn start_role(
        &mut self,
        word: &str,
        args: &[OsString],
        extra: &[(RawFd, RawFd)],
    ) -> Result<Role, String> {
        let failed = |why: String| format!("cannot start the {word}: {why}");
        let (ours, theirs) = links::pair().map_err(|e| failed(e.to_string()))?;
        let c = |text: &OsStr| CString::new(text.as_bytes()).map_err(|e| failed(e.to_string()));
        let program = c(self.config.program.as_os_str())?;
        let mut argv = vec![c("ringriftd".as_ref())?, c(word.as_ref())?];
        for arg in args {
            argv.push(c(arg)?);
        }
        let env = environment().map_err(failed)?;
        let mut fds = vec![
            (self.machine.null.as_raw_fd(), 0),
            (1, 1),
            (2, 2),
            (theirs.as_raw_fd(), fd::KEEPER),
        ];
        fds.extend_from_slice(extra);
        let spec = ChildSpec {
            program: Some(program),
            argv,
            env,
            working_dir: None,
            way_in: None,
            oom_score_adj: None,
            nice: None,
            rlimits: Vec::new(),
            umask: 0o077,
            identity: None,
            no_new_privs: false,
            wakes_at_death: true,
            own_pid: Vec::new(),
            fds,
        };
        let process =
            child::spawn(&mut self.machine.stack, &spec, &self.machine.marker).map_err(|failure| {
                let cause = std::io::Error::from_raw_os_error(failure.errno);
                failed(format!(
                    "{} ({:?}): {cause}",
                    self.config.program.display(),
                    failure.stage
                ))
            })?;
        let link = Link::new(ours).map_err(|e| failed(e.to_string()))?;
        Ok(Role {
            link: Some(link),
            process: Some(process),
            ..Role::default()
        })
    }

    /// `pid` was reaped. True when it was a role's.
    pub fn on_role_end(&mut self, pid: i32, exit: Exit) -> bool {
        if self.manager.process.is_some_and(|p| p.pid() == pid) {
            if self.manager.is_replaced {
                self.manager = Role::default();
                self.on_replaced();
                return true;
            }
            // What it said last counts: an `End` may wait in its link.
            self.read_last_words();
            self.manager = Role {
                exit: Some(exit),
                ..Role::default()
            };
            self.on_manager_gone();
            return true;
        }
        if self.logger.process.is_some_and(|p| p.pid() == pid) {
            if self.logger.is_replaced {
                self.logger = Role::default();
                self.on_replaced();
                return true;
            }
            self.logger = Role {
                exit: Some(exit),
                ..Role::default()
            };
            self.on_logger_gone();
            return true;
        }
        false
    }

    /// The manager's link is closed. Its process, if the keeper started one, is reaped before anything else is done
    /// about it (two managers must never live), and may take a moment to end with a code of its own.
    pub fn on_manager_silent(&mut self) {
        self.manager.link = None;
        match self.manager.process {
            Some(_) => self.manager.kill_at = Some(Instant::now() + limits::ROLE_END_TIMEOUT),
            None => self.on_manager_gone(),
        }
    }

    /// The logger's link is closed.
    pub fn on_logger_silent(&mut self) {
        self.logger.link = None;
        match self.logger.process {
            Some(_) => self.logger.kill_at = Some(Instant::now() + limits::ROLE_END_TIMEOUT),
            None => self.on_logger_gone(),
        }
    }

    /// Kills the roles that closed their link and did not end.
    pub fn on_silent_time(&mut self, now: Instant) {
        for role in [&mut self.manager, &mut self.logger] {
            if role.kill_at.is_some_and(|at| at <= now) {
                role.kill_at = None;
                kill_each(role.process.as_slice());
            }
        }
    }

    fn on_logger_gone(&mut self) {
        if self.phase.is_ending() || !self.is_spawning_roles {
            self.draining.clear();
            return;
        }
        let now = Instant::now();
        let lived = self
            .logger_restarts
            .since
            .map_or(Duration::ZERO, |since| now - since);
        if lived >= limits::LOGGER_STABLE_AFTER {
            self.logger_restarts.step = 0;
        }
        let factor = 1u32.checked_shl(self.logger_restarts.step.min(16)).unwrap_or(1);
        let delay = (limits::LOGGER_RESTART_DELAY * factor).min(limits::LOGGER_RESTART_MAX_DELAY);
        self.logger_restarts.step += 1;
        self.logger_restarts.at = Some(now + delay);
        let how = describe(self.logger.exit);
        say(&format!(
            "the logger ended ({how}); it starts again in {} ms",
            delay.as_millis()
        ));
    }

    /// Starts the logger again, with a new link to the manager and with every pipe that is open.
    pub fn on_logger_time(&mut self) {
        self.logger_restarts.at = None;
        if self.logger.process.is_some() {
            // The program before this one's: it was killed, and does not go.
            self.logger_restarts.at = Some(Instant::now() + limits::ROLE_REPLACE_WAIT);
            return;
        }
        let started = links::pair()
            .map_err(|e| e.to_string())
            .and_then(|(manager_peer, logger_peer)| {
                self.start_logger(&logger_peer)?;
                Ok(manager_peer)
            });
        let manager_peer = match started {
            Ok(peer) => peer,
            Err(why) => {
                say(&why);
                self.on_logger_gone();
                return;
            }
        };
        if !std::mem::take(&mut self.logger_restarts.is_planned) {
            self.logger_restarts.times += 1;
        }
        self.tell_pipes();
        let process = self.logger.process;
        let pid = process.map(Proc::pid_u32).unwrap_or_default();
        let start_time = process.map(Proc::start).unwrap_or_default();
        let times = self.logger_restarts.times;
        let peer: SharedFd = manager_peer.into();
        self.tell_manager(
            &FromKeeper::LoggerRestarted {
                pid,
                start_time,
                times,
            },
            vec![peer],
        );
    }

    /// Gives a new logger every pipe that is open.
    fn tell_pipes(&mut self) {
        let held = self
            .launches
            .iter()
            .filter_map(|(id, held)| Some((*id, held.pipe.clone()?)));
        let pipes: Vec<_> = held.collect();
        for (id, pipe) in pipes {
            let (open, ends) = pipe.open(id);
            self.tell_logger(&open, ends);
        }
        for (id, pipe) in self.draining.clone() {
            let (open, ends) = pipe.open(id);
            self.tell_logger(&open, ends);
            self.tell_logger(&ToLogger::Close { id }, Vec::new());
        }
    }
}

/// Kills a role that is another process's child, and waits for its death.
fn end_elsewhere(old: Proc) -> Result<(), String> {
    kill_each(&[old]);
    let until = Instant::now() + limits::ROLE_REPLACE_WAIT;
    while proc::stat(old.pid()).is_ok_and(|now| now.process == old && !now.is_dead()) {
        if Instant::now() >= until {
            return Err(format!(
                "the logger before (pid {}) was killed and does not end",
                old.pid()
            ));
        }
        let _ = nix::poll::poll(&mut [], 1u8);
    }
    Ok(())
}

/// What manager, logger and a candidate for an upgrade get of the environment.
pub fn environment() -> Result<Vec<CString>, String> {
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        if !KEPT_FROM_ROLES.iter().any(|kept| name == *kept) {
            let mut entry = name;
            entry.push("=");
            entry.push(value);
            env.push(CString::new(entry.as_bytes()).map_err(|e| e.to_string())?);
        }
    }
    Ok(env)
}

/// How a role ended, for messages.
pub fn describe(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit::Code(code)) => format!("exit code {code}"),
        Some(Exit::Signal { signal, core }) => {
            format!("signal {signal}{}", if core { ", core dumped" } else { "" })
        }
        Some(Exit::Unknown) | None => "its link was closed".to_owned(),
    }
}
