//! The keeper's loop: signals, links, leaves and times, each turned into one call. It sleeps until one
//! of them has something to say; an idle node never wakes it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signalfd::SignalFd;

use super::config::KeeperConfig;
use super::handover::{Kind, Received};
use super::links::{Link, Received as Word};
use super::roles::BUG;
use super::start::{self, FAILED};
use super::state::{Keeper, Phase, Role, say};
use super::sys;
use crate::ids::LaunchId;
use crate::limits;

/// Requests that are read before children and times get their turn.
const REQUESTS_PER_TURN: usize = 64;

/// Is the keeper until the end of the node: the exit code of the process. Messages go to stderr.
///
/// It changes the process for good (signals, umask, limits, subreaper), so it is the last thing that `main` calls,
/// and there is no other thread.
pub fn run(config: KeeperConfig) -> u8 {
    let mut left = match Received::take() {
        Ok(left) => left,
        Err(why) => {
            say(&why);
            return FAILED;
        }
    };
    let started = start::prepare(config, left.as_mut()).map(|(keeper, signals)| Started { keeper, signals });
    match (started, left) {
        (Err(code), _) => code,
        (Ok(started), Some(left)) => started.go_on(left),
        (Ok(mut started), None) => match started.keeper.start_roles() {
            Ok(()) => started.serve(),
            Err(why) => {
                say(&why);
                started.keeper.begin_end(FAILED);
                started.serve()
            }
        },
    }
}

/// Like [`run`] with roles that already live and whose ends of the links the caller holds, as a test does. The end of
/// a link counts as the end of its role.
pub fn run_with_links(config: KeeperConfig, manager: OwnedFd, logger: OwnedFd) -> u8 {
    let (Ok(manager), Ok(logger)) = (Link::new(manager), Link::new(logger)) else {
        return FAILED;
    };
    match start::prepare(config, None).map(|(keeper, signals)| Started { keeper, signals }) {
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
    fn serve(&mut self) -> u8 {
        self.keeper.greet();
        self.work()
    }

    /// Goes on with what another program left.
    fn go_on(mut self, left: Received) -> u8 {
        let begun = match left.picture.kind {
            Kind::Upgrade | Kind::Return => self.keeper.begin_again(left),
            Kind::TakeOver => self.keeper.begin_in_place(left),
        };
        if let Err(why) = begun {
            say(&format!("cannot take over: {why}"));
            return FAILED;
        }
        sys::kill_after(0);
        // The signal may have come to the program before, which has not looked.
        self.keeper.on_children();
        self.work()
    }

    fn work(&mut self) -> u8 {
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
                Source::Candidate => keeper.on_check_readable(),
                Source::Stored(nr) => keeper.on_hang_up(*nr),
                Source::Zygote(id) => keeper.on_zygote(*id),
                Source::Gate(id) => keeper.on_gate(*id),
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
                self.keeper.pass_on_signal(number);
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
        for (nr, fd) in keeper.store.polled() {
            // Hang-up and error are told unasked.
            sources.push((Source::Stored(nr), fd, PollFlags::empty()));
        }
        for (id, fd) in keeper.zygotes.links() {
            sources.push((Source::Zygote(id), fd, PollFlags::POLLIN));
        }
        for (id, fd) in keeper.zygotes.gates() {
            sources.push((Source::Gate(id), fd, PollFlags::POLLIN));
        }
        if let Some(output) = keeper.check_output() {
            sources.push((Source::Candidate, output.as_fd(), PollFlags::POLLIN));
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
    Candidate,
    Stored(u64),
    Zygote(LaunchId),
    Gate(LaunchId),
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
            Word::Message(request, fds) => {
                self.on_request(request, fds);
                return true;
            }
            Word::Nothing => {}
            Word::Closed => self.on_manager_silent(),
            Word::Broken(why) => {
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
                Word::Message(word, _) => self.on_logger_word(word),
                Word::Nothing => return,
                Word::Closed => return self.on_logger_silent(),
                Word::Broken(why) => {
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
            self.lives.at,
            self.name_orphans_at,
            self.attention_deadline(),
            self.upgrade_deadline(),
            self.logger.kill_at,
            self.door.again,
            self.zygotes.deadline(),
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
        if is_due(self.lives.at) {
            self.on_manager_time();
        }
        self.on_attention_time(now);
        if is_due(self.name_orphans_at) {
            self.name_orphans();
        }
        self.on_upgrade_time(now);
        self.on_door_time(now);
        self.on_zygote_time(now);
        if let Phase::Starting { until } = self.phase
            && until <= now
        {
            self.on_start_timeout();
        }
    }
}
