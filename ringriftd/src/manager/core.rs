//! The loop, and what it does with each thing that happens.
//!
//! Read first: [`Manager::run`].

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use proto::reply::{Exit, UnitStatus};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};

use super::ask::FoundOutside;
use super::begin::Beginning;
use super::capsules::Capsules;
use super::door::Doorway;
use super::events::Events;
use super::failures::{Looked, UnderWay};
use super::hooks::Hooks;
use super::jobs::Jobs;
use super::launches::{Launches, News};
use super::logs::LogsAsked;
use super::memory::{Order, Step};
use super::probes::Probes;
use super::publish::Shown;
use super::reload::{Asker, Reload};
use super::remember::Remember;
use super::stored::Copies;
use super::takeover::{self, Knows};
use super::upgrade::{Candidate, UpgradeRecord};
use crate::clock::{Clock, Now};
use crate::config::{Loaded, Report};
use crate::control::outbox::Answers;
use crate::control::server::Asked;
use crate::control::view::{NodeFacts, Said};
use crate::control::watch::Renewal;
use crate::counts::{Counts, HttpAsked};
use crate::engine::types::{Event, LaunchFailure, Mono, RequestId};
use crate::heap;
use crate::host::link::Link;
use crate::host::notify::Told;
use crate::http::TailAsked;
use crate::ids::LaunchId;
use crate::keeper::wire::{FromKeeper, LogQuery, LogTail, LogWord, ToKeeper};
use crate::limits;
use crate::places::Places;
use crate::spec::UnitName;
use crate::tape::taped::Taped;

/// The exit code for a bug of ours.
pub(super) const BUG: u8 = 70;
/// The exit code for files that are wrong.
pub(super) const CONFIG: u8 = 8;

/// One lets sockets be looked at, one their readers read, one what they read be told.
const LOOKS_BEFORE_TIME: u32 = 3;

/// What the keeper said of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Hello {
    pub(super) keeper_pid: u32,
    pub(super) logger_pid: u32,
    pub(super) logger_start: u64,
    pub(super) seed: u64,
    pub(super) containment: String,
    pub(super) is_fresh: bool,
    pub(super) is_wrapped: bool,
    pub(super) manager_deaths: u32,
    pub(super) is_safe: bool,
    pub(super) last_order: u64,
    pub(super) note: Option<String>,
    pub(super) is_first: bool,
}

/// What a task of the manager's own reports.
pub(super) enum Inside {
    News(News),
    /// The files were read again.
    Loaded(Box<Result<Loaded, Report>>),
    /// A process that is to become a unit's was found.
    FoundOutside(Box<FoundOutside>),
    /// A program to be upgraded to.
    Candidate(Box<Candidate>),
    /// What a unit said before its main process ended is heard, or took too long.
    Drained(LaunchId),
    /// A run of the `[on_event]` command is ready for the keeper, or cannot be made.
    HookPrepared {
        /// Its number.
        nr: u64,
        /// What came of it.
        result: Result<Box<crate::keeper::wire::Launch>, LaunchFailure>,
    },
    /// Its time is up.
    HookTimeout(u64),
    /// The rate allows the next one.
    HookTime,
    /// The HTTP thread wants a unit's last lines.
    Tail(TailAsked),
    /// So often it was asked.
    HttpAsked(HttpAsked),
    /// Files of a unit's command.
    Looked(Looked),
    /// A job's or wait's time is up.
    TimedOut(RequestId),
    /// A job's or wait's client has gone.
    Gone(RequestId),
}

/// The manager. See the head of this file.
pub(super) struct Manager {
    pub(super) engine: Taped,
    pub(super) loaded: Loaded,
    pub(super) places: Places,
    pub(super) profiles: Vec<String>,
    pub(super) hello: Hello,
    pub(super) logger_deaths: u32,
    pub(super) keeper: Link,
    pub(super) logger: Link,
    /// The logger's end was seen and its successor has not come yet. A link that has ended is always readable: the
    /// loop would do nothing but read it.
    pub(super) is_logger_gone: bool,
    pub(super) launches: Launches,
    pub(super) probes: Probes,
    pub(super) events: Events,
    pub(super) jobs: Jobs,
    pub(super) renewal: Renewal,
    pub(super) said: BTreeMap<UnitName, Said>,
    pub(super) tails: BTreeMap<u64, oneshot::Sender<LogTail>>,
    /// Requests for lines that wait for the next logger.
    pub(super) logs_waiting: Vec<(LogsAsked, Answers)>,
    pub(super) inside: mpsc::Sender<Inside>,
    pub(super) clock: Clock,
    pub(super) started: Now,
    pub(super) reload: Reload,
    pub(super) is_announced: bool,
    pub(super) end: Option<u8>,
    pub(super) next_nonce: u64,
    /// The number of the last signal, over the manager's deaths.
    pub(super) last_order: u64,
    /// The last signals.
    pub(super) orders: VecDeque<Order>,
    /// What has happened and is not kept yet.
    pub(super) pending: Step,
    /// No deadline counts before then.
    pub(super) late: Option<Mono>,
    pub(super) remember: Remember,
    pub(super) boot: String,
    /// Tells of the keeper's end.
    pub(super) keeper_life: Option<OwnedFd>,
    /// What the keeper gave, and this process keeps open under its numbers for the keeper that it may have to become: the
    /// two halves of the state, and the locks.
    pub(super) kept: [OwnedFd; 4],
    /// An upgrade that the keeper was asked for.
    pub(super) upgrade: Option<UpgradeRecord>,
    /// Who asked for it.
    pub(super) upgrade_answers: Option<Answers>,
    /// The control socket's listener.
    pub(super) listener: OwnedFd,
    /// The highest number of a signal to the daemon.
    pub(super) last_signal: u64,
    /// What could not be used of what was remembered.
    pub(super) notes: Vec<String>,
    /// The command that is told of events.
    pub(super) hooks: Hooks,
    /// What units have kept.
    pub(super) stored: Copies,
    /// What the keeper was asked of each launch's main process and has not answered yet, in the order of the questions,
    /// which is that of the answers.
    pub(super) asked_main: BTreeMap<LaunchId, VecDeque<MainAsked>>,
    /// Ends of main processes that wait for what the unit said before them.
    pub(super) held_exits: BTreeMap<LaunchId, (Exit, Vec<u32>)>,
    /// What was counted.
    pub(super) counts: Counts,
    /// What the HTTP thread sees.
    pub(super) shown: Shown,
    /// HTTP.
    pub(super) door: Doorway,
    /// What is kept of failures.
    pub(super) capsules: Capsules,
    /// What is being asked for about them.
    pub(super) under_way: UnderWay,
    /// One of them may lack something that was not asked for.
    pub(super) is_capsule_lacking: bool,
}

/// Why the keeper was asked for a main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MainAsked {
    /// A forking unit's is looked for.
    Looked,
    /// A unit named another one (`MAINPID=`).
    Said,
}

/// What the loop listens to.
pub(super) struct Channels {
    pub(super) asks: mpsc::Receiver<Asked>,
    pub(super) inside: mpsc::Receiver<Inside>,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) notices: mpsc::Receiver<Told>,
    /// The control socket has lost its name.
    pub(super) lost: mpsc::Receiver<()>,
    pub(super) term: Signal,
    pub(super) int: Signal,
    pub(super) quit: Signal,
    pub(super) hup: Signal,
}

impl Manager {
    /// The loop. `biased`: what the keeper says comes first, since everything else is judged by it; time comes last,
    /// so that a unit that became ready in the last moment is not timed out by a busy loop.
    pub(super) async fn run(&mut self, mut on: Channels, beginning: Beginning) -> u8 {
        if let Err(why) = self.begin(beginning).await {
            tracing::error!("cannot begin: {why}");
            return self.on_keeper_gone();
        }
        // Only now: a state that kills its reader has done so before.
        self.send(&ToKeeper::Serving);
        let now = self.clock.now();
        self.publish_all(now);
        self.begin_door();
        self.bound_logs();
        self.note_upgrade();
        if self.is_announced && !self.engine.is_shutting_down() {
            // What recovery needed.
            heap::give_back();
            // The last manager may have died before it said so; once more harms nobody.
            self.send(&ToKeeper::Announce {
                text: "READY=1".to_owned(),
            });
        }
        loop {
            if let Some(code) = self.end {
                return self.finish(code).await;
            }
            let deadline = match self.late {
                Some(until) => Some(until),
                None => self.engine.next_deadline(),
            };
            tokio::select! {
                biased;
                said = self.keeper.recv::<FromKeeper>() => match said {
                    Ok(Some((said, fds))) => self.on_keeper(said, fds),
                    Ok(None) => return self.on_keeper_gone(),
                    Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                        tracing::error!("the keeper said what cannot be understood: {e}");
                    }
                    Err(e) => {
                        tracing::error!("the link to the keeper broke: {e}");
                        return self.on_keeper_gone();
                    }
                },
                Some(news) = on.news.recv() => self.on_inside(Inside::News(news)),
                Some((life, notice, mut consumed)) = on.notices.recv() => {
                    self.on_notice(life, notice, consumed.take_fds());
                    consumed.done();
                }
                Some(inside) = on.inside.recv() => self.on_inside(inside),
                said = self.logger.recv::<LogWord>(), if !self.is_logger_gone => self.on_logger(said),
                Some(()) = on.lost.recv() => self.send(&ToKeeper::Relisten),
                Some(asked) = on.asks.recv() => {
                    self.on_asked(asked);
                    self.tick_if_due();
                }
                _ = on.term.recv() => self.on_signal(libc::SIGTERM),
                _ = on.int.recv() => self.on_signal(libc::SIGINT),
                _ = on.quit.recv() => self.on_signal(libc::SIGQUIT),
                _ = on.hup.recv() => self.begin_reload(Asker::Own),
                () = self.remember.disk_wants_base() => {
                    let now = self.clock.now();
                    let whole = self.whole(now);
                    self.remember.rebase(&whole);
                }
                () = until(self.shown.due) => self.publish_rest(),
                () = until(deadline) => self.tell(Event::Tick),
            }
        }
    }

    pub(super) fn send(&mut self, message: &ToKeeper) {
        if let Err(e) = self.keeper.send(message, Vec::new()) {
            // A keeper that does not read is as good as gone, and then `recv` ends the loop.
            tracing::error!("cannot tell the keeper: {e}");
        }
    }

    pub(super) fn on_inside(&mut self, inside: Inside) {
        match inside {
            Inside::News(News::Prepared { launch, result }) => match result {
                Ok(mut prepared) => {
                    self.name_zygote(launch, &mut prepared.launch);
                    if let Some(request) = self.launches.on_prepared(launch, *prepared) {
                        self.note_launch(launch, &request);
                        self.pending
                            .launches
                            .extend(self.launches.record(launch).cloned());
                        let now = self.clock.now();
                        self.commit(now);
                        self.ask_for_launch(launch, &request);
                    }
                }
                Err(failure) => {
                    self.launches.forget(launch);
                    self.tell(Event::LaunchFailed { launch, failure });
                }
            },
            Inside::News(News::Explained { launch, failure }) => {
                self.tell(Event::LaunchFailed { launch, failure });
            }
            Inside::News(News::Pipe { invocation, is_ready }) => {
                if is_ready {
                    self.tell(Event::Ready { invocation });
                }
            }
            Inside::News(News::Probed {
                invocation,
                nr,
                result,
            }) => self.tell(Event::Probed {
                invocation,
                nr,
                result,
            }),
            Inside::News(News::MainPid { launch, pid }) => {
                self.expect_main_answer(launch, MainAsked::Looked);
                self.send(&ToKeeper::FindMain { id: launch, pid });
            }
            Inside::Loaded(result) => self.on_reloaded(*result),
            Inside::Looked(looked) => self.on_looked(looked),
            Inside::Candidate(candidate) => self.on_candidate(*candidate),
            Inside::HookPrepared { nr, result } => self.on_hook_prepared(nr, result),
            Inside::HookTimeout(nr) => self.on_hook_timeout(nr),
            Inside::HookTime => self.run_hooks(),
            Inside::Drained(launch) => {
                if !self.is_main_said(launch) {
                    self.release_exit(launch);
                }
            }
            Inside::FoundOutside(found) => self.on_found_outside(*found),
            Inside::Tail(asked) => self.on_tail_asked(asked),
            Inside::HttpAsked(counted) => self.on_http_asked(&counted),
            Inside::TimedOut(id) => {
                self.jobs.on_timeout(id);
                self.pending.closed.push(id);
                self.tell(Event::Forget { id });
            }
            Inside::Gone(id) => {
                if self.jobs.on_gone(id) {
                    self.pending.closed.push(id);
                    self.tell(Event::Forget { id });
                }
            }
        }
    }

    /// The life that the launch is forked from: the zygote's present one, if that is ready.
    fn name_zygote(&self, launch: LaunchId, request: &mut crate::keeper::wire::Launch) {
        let Some(fork) = &mut request.fork else { return };
        let spec = self.engine.unit_of(launch.invocation);
        let life = spec.and_then(|unit| unit.state.life());
        let used = life.and_then(|life| life.spec.exec.zygote.as_ref());
        let zygote = used.and_then(|used| Some(self.engine.find(&used.name)?.1));
        fork.zygote = zygote
            .filter(|zygote| zygote.is_satisfied())
            .and_then(|zygote| Some(LaunchId::main(zygote.state.life()?.invocation)));
    }

    pub(super) fn ask_for_launch(&mut self, launch: LaunchId, request: &crate::keeper::wire::Launch) {
        let message = ToKeeper::Launch(Box::new(request.clone()));
        if let Err(e) = self.keeper.send(&message, Vec::new()) {
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
            if matches!(e.kind(), BrokenPipe | ConnectionReset) {
                // The keeper died, which is heard next. The launch stays asked for: the next keeper is asked again.
                return;
            }
            self.launches.forget(launch);
            let text = format!("cannot pass the launch to the keeper: {e}");
            self.tell(Event::LaunchFailed {
                launch,
                failure: LaunchFailure { text, host: true },
            });
        }
    }

    pub(super) fn on_logger(&mut self, said: std::io::Result<Option<(LogWord, Vec<OwnedFd>)>>) {
        match said {
            Ok(Some((LogWord::Counted { logger, units }, _))) => self.on_logged(logger, units),
            Ok(Some((LogWord::Tail(tail), _))) => {
                let Some(tail) = self.on_last_words(tail) else {
                    return;
                };
                if let Some(waiting) = self.tails.remove(&tail.nonce) {
                    // Whoever asked may have gone.
                    let _ = waiting.send(tail);
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                tracing::error!("the logger said what cannot be understood: {e}");
            }
            Ok(None) | Err(_) => {
                self.is_logger_gone = true;
                self.tails.clear();
            }
        }
    }

    /// Asks the logger for the last lines of these units; each comes as soon as it is read.
    pub(super) fn ask_tails(
        &mut self,
        rows: &[(UnitStatus, Option<PathBuf>)],
    ) -> Vec<(usize, oneshot::Receiver<LogTail>)> {
        let mut asked = Vec::new();
        for (i, (row, _)) in rows.iter().enumerate().take(limits::TAILS_AT_ONCE) {
            if let Some(told) = self.ask_tail(row.name.clone()) {
                asked.push((i, told));
            }
        }
        asked
    }

    /// Asks the logger for the last lines of `unit`, unless there is none to ask.
    pub(super) fn ask_tail(&mut self, unit: String) -> Option<oneshot::Receiver<LogTail>> {
        self.tails.retain(|_, waiting| !waiting.is_closed());
        self.next_nonce += 1;
        let nonce = self.next_nonce;
        let query = LogQuery::Tail {
            nonce,
            unit,
            invocation: None,
            lines: limits::TAIL_LINES,
        };
        self.logger.send(&query, Vec::new()).ok()?;
        let (tx, rx) = oneshot::channel();
        self.tails.insert(nonce, tx);
        Some(rx)
    }

    pub(super) fn set_timeout(&mut self, id: RequestId, ms: u64) {
        let inside = self.inside.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            let _ = inside.send(Inside::TimedOut(id)).await;
        });
        self.jobs.attach(id, task);
    }

    /// A client that goes away is forgotten; what it began goes on.
    pub(super) fn watch_client(&mut self, id: RequestId, closed: impl Future<Output = ()> + Send + 'static) {
        let inside = self.inside.clone();
        let task = tokio::spawn(async move {
            closed.await;
            let _ = inside.send(Inside::Gone(id)).await;
        });
        self.jobs.attach(id, task);
    }

    pub(super) fn node_facts(&self, now: Now) -> NodeFacts {
        let mut notices = self.places.notes.clone();
        notices.extend(self.remember.notices());
        notices.extend(self.hello.note.clone());
        notices.extend(self.hooks.notices());
        notices.extend(self.door.notice());
        notices.extend(self.engine.notice());
        match self.hello.manager_deaths {
            0 => {}
            1 => notices.push("the manager died once and was started again; no unit was touched".to_owned()),
            n => notices.push(format!(
                "the manager died {n} times and was started again; no unit was touched"
            )),
        }
        if self.hello.is_safe {
            notices.push(
                "safe mode: the manager kept dying, and works with the state before the last one".to_owned(),
            );
        }
        notices.extend(
            self.notes
                .iter()
                .map(|note| format!("of what was remembered: {note}")),
        );
        if self.logger_deaths > 0 {
            notices.push(format!(
                "the logger died {} times and was started again",
                self.logger_deaths
            ));
        }
        let uptime = now.mono.since(self.started.mono).as_millis();
        NodeFacts {
            pid: self.hello.keeper_pid,
            uptime_ms: u64::try_from(uptime).unwrap_or(u64::MAX),
            node: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            containment: self.hello.containment.clone(),
            notices,
            started_us: now.wall_of(self.started.mono),
            breakers: crate::control::view::breakers(&self.engine, now),
        }
    }

    /// Time must not wait for ever behind those who ask.
    fn tick_if_due(&mut self) {
        let now = self.clock.now().mono;
        if self.late.is_none() && self.engine.next_deadline().is_some_and(|at| at <= now) {
            self.tell(Event::Tick);
        }
    }

    /// The link to the keeper has ended, and all that was in it is read. Where nobody else starts another keeper, this
    /// process becomes it; returns only if that cannot be.
    fn on_keeper_gone(&mut self) -> u8 {
        if !self.keeper_is_dead() {
            tracing::error!("the keeper closed its link and lives: the manager ends");
            return BUG;
        }
        if !takeover::may_take_over(self.hello.is_wrapped, self.hello.keeper_pid) {
            tracing::error!(
                "the keeper has gone; the manager ends, and the next ringriftd takes over what lives"
            );
            return BUG;
        }
        tracing::error!("the keeper has gone; the manager takes its place, and no unit is touched");
        self.engine.flush();
        let [first, second, state_lock, run_lock] = self.kept.each_ref().map(OwnedFd::as_fd);
        let why = takeover::take_over(&Knows {
            state: [first, second],
            locks: [state_lock, run_lock],
            logger: (!self.is_logger_gone).then(|| self.logger.fd()),
            logger_process: Some((self.hello.logger_pid.cast_signed(), self.hello.logger_start))
                .filter(|(pid, _)| *pid > 1 && !self.is_logger_gone),
            control: self.listener.as_fd(),
            http: self
                .door
                .listener
                .as_ref()
                .map(|(listener, place)| (listener.as_fd(), place)),
            launches: self.launches.ends().collect(),
            stored: &self.stored,
            last_order: self.last_order,
            last_signal: self.last_signal,
            untaken_signals: self
                .reload
                .untaken()
                .map(|number| (number, libc::SIGHUP))
                .collect(),
        });
        tracing::error!("{why}: the manager ends, and units are left to whoever starts ringriftd again");
        BUG
    }

    /// Its descriptors are closed before it counts as dead.
    fn keeper_is_dead(&self) -> bool {
        let Some(life) = &self.keeper_life else {
            // It was gone before this process could look.
            return nix::unistd::getppid().as_raw().cast_unsigned() != self.hello.keeper_pid;
        };
        let mut ended = [PollFd::new(life.as_fd(), PollFlags::POLLIN)];
        let bound = PollTimeout::try_from(limits::ROLE_END_TIMEOUT).unwrap_or(PollTimeout::MAX);
        nix::poll::poll(&mut ended, bound).is_ok_and(|ready| ready > 0)
    }

    /// Everything is down: the clients hear of it, then the keeper, and that is all.
    pub(super) async fn finish(&mut self, code: u8) -> u8 {
        for answers in std::mem::take(&mut self.jobs.shutdown) {
            let written = answers.end_written();
            if tokio::time::timeout(limits::WRITE_TIMEOUT, written)
                .await
                .is_err()
            {
                tracing::warn!("a client did not take the word that all is down");
            }
        }
        let now = self.clock.now();
        let mut whole = self.whole(now);
        whole.has_ended = true;
        self.engine.flush();
        if let Some(promise) = self.remember.end(&whole) {
            match tokio::time::timeout(limits::PROMISE_TIMEOUT, promise).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(why))) => tracing::error!("the last state is not on disk: {why}"),
                Ok(Err(_)) | Err(_) => {
                    tracing::error!("the last state is not on disk: its writer does not answer")
                }
            }
        }
        self.send(&ToKeeper::End { code });
        if let Err(e) = self.keeper.flush().await {
            tracing::error!("cannot tell the keeper that all is down: {e}");
            return BUG;
        }
        0
    }
}

async fn until(deadline: Option<crate::engine::types::Mono>) {
    match deadline {
        Some(at) => {
            tokio::time::sleep(at.since(Now::read().mono)).await;
            // What was said before this moment lies in sockets, perhaps, when this process was held up: each yield lets
            // them be looked at, and those who read them have their turn, before the time counts.
            for _ in 0..LOOKS_BEFORE_TIME {
                tokio::task::yield_now().await;
            }
        }
        None => std::future::pending().await,
    }
}
