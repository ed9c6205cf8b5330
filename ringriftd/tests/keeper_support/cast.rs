//! A keeper whose roles are processes, which the test plays: they can die, hang and be started again.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::rc::Rc;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use proto::reply::Exit;
use ringriftd::ids::{Invocation, LaunchId};
use ringriftd::keeper::types::Proc;
use ringriftd::keeper::wire::{FromKeeper, Launch, LogQuery, ToKeeper, ToLogger};

use super::types::*;

/// A keeper that starts and restarts its roles as processes, whose parts the test plays.
pub struct Cast {
    pub dir: Rc<tempfile::TempDir>,
    pub keeper: Child,
    pub listener: UnixListener,
    pub manager: Played,
    pub logger: Played,
    pub seed: u64,
    pub mode: Mode,
    cgroup: Option<PathBuf>,
    /// The manager that has become the keeper.
    successor: Option<Proc>,
}

/// What a manager is told before anything else.
pub struct Told {
    pub hello: FromKeeper,
    pub inventory: Vec<(FromKeeper, Vec<OwnedFd>)>,
}

impl Played {
    /// The keeper's first words, up to `Inventoried`.
    pub fn told(&self) -> Told {
        let (hello, _) = self.receive();
        let mut inventory = Vec::new();
        loop {
            let (said, fds) = self.receive();
            if matches!(said, FromKeeper::UpgradeRefused { .. }) {
                // Of an upgrade that nobody asked for.
                continue;
            }
            if said == FromKeeper::Inventoried {
                return Told { hello, inventory };
            }
            inventory.push((said, fds));
        }
    }

    /// The first message that `wanted` wants; others are let go.
    pub fn wait_for<T>(&self, wanted: impl Fn(&FromKeeper) -> Option<T>) -> (T, Vec<OwnedFd>) {
        loop {
            let (said, fds) = self.receive();
            if let Some(found) = wanted(&said) {
                return (found, fds);
            }
        }
    }

    /// Asks for `launch`, and waits until it runs.
    pub fn launch(&self, launch: &Launch) -> (u32, Vec<OwnedFd>) {
        self.send(&ToKeeper::Launch(Box::new(launch.clone())));
        match self.wait_for(|m| way_up(m, launch.id)) {
            (Some(pid), fds) => (pid, fds),
            (None, ears) => (self.wait_for(|m| way_up(m, launch.id)).0.unwrap(), ears),
        }
    }

    pub fn exited(&self, launch: LaunchId) -> (Exit, Vec<u32>) {
        self.wait_for(|m| match m {
            FromKeeper::Exited {
                id, exit, remains, ..
            } if *id == launch => Some((*exit, remains.clone())),
            _ => None,
        })
        .0
    }
}

impl Cast {
    pub fn start(mode: Mode) -> Self {
        Self::start_in(Rc::new(tempfile::tempdir().unwrap()), mode, |_| {})
    }

    /// With bounds in ms: the manager's start, silence, answer and stability.
    pub fn start_bounded(mode: Mode, bounds: [u64; 4]) -> Self {
        Self::start_in(Rc::new(tempfile::tempdir().unwrap()), mode, |command| {
            command.env(BOUNDS, bounds.map(|ms| ms.to_string()).join(","));
        })
    }

    pub fn start_in(dir: Rc<tempfile::TempDir>, mode: Mode, change: impl FnOnce(&mut Command)) -> Self {
        let cast = Self::begin_in(dir, mode, change);
        cast.manager.send(&ToKeeper::Serving);
        cast
    }

    /// The manager has been greeted and does not serve yet.
    pub fn begin_in(dir: Rc<tempfile::TempDir>, mode: Mode, change: impl FnOnce(&mut Command)) -> Self {
        let path = dir.path().join("roles.sock");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let mut command = command(dir.path(), mode, Vec::new());
        command.env(PROGRAM, std::env::current_exe().unwrap());
        change(&mut command);
        let keeper = command.spawn().unwrap();
        let (logger, manager) = Played::accept_both(&listener);
        let mut cast = Self {
            dir,
            keeper,
            listener,
            manager,
            logger,
            seed: 0,
            mode,
            cgroup: None,
            successor: None,
        };
        let told = cast.manager.told();
        assert!(told.inventory.is_empty());
        let FromKeeper::Hello {
            seed,
            is_fresh: true,
            containment,
            ..
        } = told.hello
        else {
            panic!("{:?}", told.hello)
        };
        cast.seed = seed;
        cast.cgroup = containment.strip_prefix("cgroup ").map(PathBuf::from);
        assert_eq!(cast.cgroup.is_some(), mode == Mode::Cgroup, "{containment}");
        cast
    }

    /// The manager after this one, which has died or will: what it was told.
    pub fn next_manager(&mut self) -> Told {
        self.manager = Played::accept(&self.listener, "manager");
        self.manager.told()
    }

    /// Both roles after these: what the manager was told.
    pub fn next_roles(&mut self) -> Told {
        (self.logger, self.manager) = Played::accept_both(&self.listener);
        self.manager.told()
    }

    /// The keeper has died, or dies now, and its manager takes its place: what the next manager is told. The test is its
    /// parent then, if it was a subreaper before the keeper died.
    pub fn take_over(&mut self) -> Told {
        let _ = self.keeper.kill();
        wait_child(&mut self.keeper);
        let mut ended = [PollFd::new(self.manager.keeper.as_fd(), PollFlags::empty())];
        let timeout = PollTimeout::try_from(PATIENCE).unwrap();
        assert_eq!(nix::poll::poll(&mut ended, timeout).unwrap(), 1, "the link's end");
        let successor = Proc::new(self.manager.pid.cast_signed(), start_time(self.manager.pid)).unwrap();
        self.successor = Some(successor);
        self.manager.leash.write_all(b"t").unwrap();
        wait_readable(&self.logger.peer);
        let (word, mut fds) = receive::<LogQuery>(self.logger.peer.as_raw_fd()).unwrap();
        assert_eq!(word, LogQuery::Keeper);
        self.logger.keeper = fds.remove(0);
        self.next_manager()
    }

    pub fn kill_manager(&self) {
        kill(self.manager.pid, libc::SIGKILL);
    }

    /// A launch of a shell script.
    pub fn shell(&self, serial: u64, script: &str) -> Launch {
        let id = LaunchId::main(Invocation(serial));
        launch(self.seed, id, &["/bin/sh", "-c", script])
    }

    /// A fifo that nobody writes to, made when it is first asked for.
    pub fn fifo(&self) -> PathBuf {
        let path = self.dir.path().join("fifo");
        if !path.exists() {
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        }
        path
    }

    /// The logger is told about `launch`'s pipe: its read end.
    pub fn opened(&self, launch: LaunchId) -> OwnedFd {
        loop {
            let (word, mut fds): (ToLogger, _) = self.logger.receive();
            if matches!(word, ToLogger::Open { id, .. } if id == launch) {
                return fds.remove(0);
            }
        }
    }

    /// All of ringriftd is killed at once; the folders stay, and the units live.
    pub fn fall(mut self) -> Fallen {
        let survivors = descendants(self.keeper.id());
        let roles = [self.manager.pid, self.logger.pid].map(|pid| (pid, start_time(pid)));
        self.keeper.kill().unwrap();
        wait_child(&mut self.keeper);
        for (pid, start) in roles {
            kill_proven(pid, start);
        }
        Fallen {
            dir: Rc::clone(&self.dir),
            survivors,
        }
    }

    /// Asks the keeper to end, and checks that nothing of it is left.
    pub fn end(mut self, code: u8) {
        let below = descendants(self.successor.map_or(self.keeper.id(), Proc::pid_u32));
        self.manager.send(&ToKeeper::End { code });
        for role in [&self.manager, &self.logger] {
            role.leash.shutdown(std::net::Shutdown::Both).unwrap();
        }
        // The logger of a keeper that died is nobody's child: its link's end is its end.
        self.logger.keeper = File::open("/dev/null").unwrap().into();
        match self.successor.take() {
            None => assert_eq!(wait_child(&mut self.keeper).code(), Some(code.into())),
            Some(successor) => {
                let exit = ringriftd::keeper::sys::reap(successor.pid()).unwrap();
                assert_eq!(exit, Exit::Code(code.into()));
            }
        }
        for (pid, start) in below {
            assert!(!is_running(pid, start), "process {pid} is left");
        }
        assert!(self.cgroup.as_ref().is_none_or(|folder| !folder.exists()));
    }
}

/// What a keeper that was killed left. No unit of its outlives the test.
pub struct Fallen {
    pub dir: Rc<tempfile::TempDir>,
    survivors: Vec<(u32, u64)>,
}

impl Drop for Fallen {
    fn drop(&mut self) {
        for (pid, start) in &self.survivors {
            kill_proven(*pid, *start);
        }
    }
}

impl Drop for Cast {
    fn drop(&mut self) {
        // After a test that failed: nothing that it started may stay.
        if let Some(successor) = self.successor {
            let below = descendants(successor.pid_u32());
            kill_proven(successor.pid_u32(), successor.start());
            for (pid, start) in below {
                kill_proven(pid, start);
            }
        }
        if self.keeper.try_wait().unwrap().is_some() {
            return;
        }
        let below = descendants(self.keeper.id());
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        for (pid, start) in below {
            kill_proven(pid, start);
        }
        if let Some(folder) = &self.cgroup {
            let _ = ringriftd::keeper::cgroup::remove_left(folder);
        }
    }
}
