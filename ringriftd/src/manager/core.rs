//! The loop, and what it does with each thing that happens.
//!
//! Read first: [`Manager::run`] and [`Manager::tell`].

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use proto::reply::{Cause, CauseKind, Failure, Reply, UnitStatus};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};

use super::events::Events;
use super::jobs::Jobs;
use super::launches::{Launches, News};
use crate::clock::{Clock, Now};
use crate::config::{self, Loaded, Report};
use crate::control::outbox::Answers;
use crate::control::server::Asked;
use crate::control::view::{NodeFacts, Said, refused, reloaded};
use crate::engine::Engine;
use crate::engine::types::{Action, Event, LaunchFailure, RequestId};
use crate::host::link::Link;
use crate::host::notify::Notice;
use crate::ids::{Invocation, LaunchId};
use crate::keeper::wire::{FromKeeper, LogQuery, LogTail, ToKeeper};
use crate::limits;
use crate::places::Places;
use crate::spec::UnitName;

/// Units that are named to somebody who signals a second time.
const LEFT_NAMED: usize = 8;

/// The exit code for a bug of ours.
pub(super) const BUG: u8 = 70;
/// The exit code for files that are wrong.
pub(super) const CONFIG: u8 = 8;

/// What the keeper said of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Hello {
    pub(super) keeper_pid: u32,
    pub(super) logger_pid: u32,
    pub(super) seed: u64,
    pub(super) containment: String,
}

/// What a task of the manager's own reports.
pub(super) enum Inside {
    News(News),
    /// The files were read again.
    Loaded {
        result: Box<Result<Loaded, Report>>,
        answers: Option<Answers>,
    },
    /// A job's or wait's time is up.
    TimedOut(RequestId),
    /// A job's or wait's client has gone.
    Gone(RequestId),
}

/// The manager. See the head of this file.
pub(super) struct Manager {
    pub(super) engine: Engine,
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
    pub(super) events: Events,
    pub(super) jobs: Jobs,
    pub(super) said: BTreeMap<UnitName, Said>,
    pub(super) tails: BTreeMap<u64, oneshot::Sender<LogTail>>,
    pub(super) inside: mpsc::Sender<Inside>,
    pub(super) clock: Clock,
    pub(super) started: Now,
    pub(super) is_reloading: bool,
    pub(super) is_announced: bool,
    pub(super) end: Option<u8>,
    pub(super) next_nonce: u64,
    pub(super) next_order: u64,
}

/// What the loop listens to.
pub(super) struct Channels {
    pub(super) asks: mpsc::Receiver<Asked>,
    pub(super) inside: mpsc::Receiver<Inside>,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) notices: mpsc::Receiver<(Invocation, Notice)>,
    pub(super) term: Signal,
    pub(super) int: Signal,
    pub(super) quit: Signal,
    pub(super) hup: Signal,
}

impl Manager {
    /// The loop. `biased`: what the keeper says comes first, since everything else is judged by it; time comes last,
    /// so that a unit that became ready in the last moment is not timed out by a busy loop.
    pub(super) async fn run(&mut self, mut on: Channels) -> u8 {
        self.send(&ToKeeper::Serving);
        self.tell(Event::Loaded(std::sync::Arc::clone(&self.loaded.plan)));
        loop {
            if let Some(code) = self.end {
                return self.finish(code).await;
            }
            let deadline = self.engine.next_deadline();
            tokio::select! {
                biased;
                said = self.keeper.recv::<FromKeeper>() => match said {
                    Ok(Some((said, fds))) => self.on_keeper(said, fds),
                    Ok(None) => {
                        tracing::error!("the keeper has gone; the manager ends with it");
                        return BUG;
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                        tracing::error!("the keeper said what cannot be understood: {e}");
                    }
                    Err(e) => {
                        tracing::error!("the link to the keeper broke: {e}");
                        return BUG;
                    }
                },
                Some(news) = on.news.recv() => self.on_inside(Inside::News(news)),
                Some((life, notice)) = on.notices.recv() => self.on_notice(life, notice),
                Some(inside) = on.inside.recv() => self.on_inside(inside),
                tail = self.logger.recv::<LogTail>(), if !self.is_logger_gone => self.on_tail(tail),
                Some(asked) = on.asks.recv() => self.on_asked(asked),
                _ = on.term.recv() => self.on_signal(libc::SIGTERM),
                _ = on.int.recv() => self.on_signal(libc::SIGINT),
                _ = on.quit.recv() => self.on_signal(libc::SIGQUIT),
                _ = on.hup.recv() => self.on_signal(libc::SIGHUP),
                () = until(deadline) => self.tell(Event::Tick),
            }
        }
    }

    /// Tells the engine what happened, now, and does all that it asks for.
    pub(super) fn tell(&mut self, event: Event) {
        let now = self.clock.now();
        self.engine.handle(now.mono, event);
        while let Some(action) = self.engine.poll_action() {
            self.obey(action, now);
        }
        self.jobs.look(&self.engine);
        if !self.is_announced && self.engine.is_settled() && !self.engine.is_shutting_down() {
            self.is_announced = true;
            self.send(&ToKeeper::Announce {
                text: "READY=1\nSTATUS=every wanted unit was started".to_owned(),
            });
            let sum = crate::control::view::summary(&self.engine);
            let up = sum.running + sum.completed;
            tracing::info!(
                "{up} of {} wanted units are up; ringriftctl status shows them",
                sum.wanted
            );
        }
    }

    pub(super) fn obey(&mut self, action: Action, now: Now) {
        match action {
            Action::Launch { launch, role, spec } => {
                if launch.is_main() {
                    self.said.remove(&spec.name);
                }
                self.launches.prepare(launch, role, spec);
            }
            Action::Signal {
                launch,
                signal,
                scope,
            } => {
                self.next_order += 1;
                self.send(&ToKeeper::Signal {
                    id: launch,
                    signal,
                    scope,
                    order: self.next_order,
                });
            }
            Action::Destroy { launch } => self.send(&ToKeeper::Destroy { id: launch }),
            Action::FindMain { launch, .. } => self.launches.find_main(launch),
            Action::Release { launch } => {
                self.launches.forget(launch);
                self.send(&ToKeeper::Release { id: launch });
            }
            Action::Reply { id, answer } => self.jobs.on_reply(id, answer, now),
            Action::Emit(change) => {
                let event = self.events.record(change, now, self.hello.seed);
                log_event(&event);
                self.jobs.on_event(&event);
            }
            Action::Finish { code } => self.end = Some(code),
        }
    }

    pub(super) fn send(&mut self, message: &ToKeeper) {
        if let Err(e) = self.keeper.send(message, Vec::new()) {
            // A keeper that does not read is as good as gone, and then `recv` ends the loop.
            tracing::error!("cannot tell the keeper: {e}");
        }
    }

    pub(super) fn on_keeper(&mut self, said: FromKeeper, fds: Vec<OwnedFd>) {
        match said {
            FromKeeper::Launched { id, pid, start_time } => {
                let note = self.launches.on_launched(id, pid, start_time, fds);
                self.tell(Event::Launched {
                    launch: id,
                    pid,
                    note,
                });
            }
            FromKeeper::LaunchFailed { id, stage, errno } => {
                self.launches.on_launch_failed(id, stage, errno);
            }
            FromKeeper::Exited { id, exit, remains } => {
                self.tell(Event::Exited {
                    launch: id,
                    exit,
                    remains,
                });
            }
            FromKeeper::Emptied { id } => self.tell(Event::Emptied { launch: id }),
            FromKeeper::Unkillable { id, remains } => self.tell(Event::Unkillable { launch: id, remains }),
            FromKeeper::MainFound { id, pid, .. } => self.tell(Event::MainFound { launch: id, pid }),
            FromKeeper::MainMissing { id, why } => self.tell(Event::MainMissing { launch: id, why }),
            FromKeeper::Signal { signal, number } => {
                self.on_signal(signal);
                self.send(&ToKeeper::SignalTaken { number });
            }
            FromKeeper::Ping { nonce } => self.send(&ToKeeper::Pong { nonce }),
            FromKeeper::LoggerRestarted { pid, times } => {
                tracing::warn!("the logger died and was started again (pid {pid}, {times} times so far)");
                self.hello.logger_pid = pid;
                self.logger_deaths = times;
                if let Some(link) = fds.into_iter().next().map(Link::from_fd) {
                    match link {
                        Ok(link) => {
                            self.logger = link;
                            self.is_logger_gone = false;
                            // What the old one was asked it will not answer.
                            self.tails.clear();
                        }
                        Err(e) => tracing::error!("cannot reach the new logger: {e}"),
                    }
                }
            }
            FromKeeper::Hello { .. }
            | FromKeeper::Pong { .. }
            | FromKeeper::Missing { .. }
            | FromKeeper::Inventoried
            | FromKeeper::UpgradeRefused { .. } => {}
        }
    }

    /// TERM, INT and QUIT stop everything in order; a second one changes nothing, the deadline runs. HUP reads the
    /// files again.
    pub(super) fn on_signal(&mut self, number: i32) {
        if number == libc::SIGHUP {
            return self.begin_reload(None);
        }
        let name = crate::engine::signal_name(number);
        if self.engine.is_shutting_down() {
            let left: Vec<&str> = self
                .engine
                .units()
                .filter(|(_, unit)| unit.state.life().is_some())
                .map(|(_, unit)| unit.spec.name.as_str())
                .take(LEFT_NAMED)
                .collect();
            tracing::warn!(
                "{name}: already stopping, and what is left at the end of shutdown_timeout is killed; waits for {}",
                left.join(", ")
            );
            return;
        }
        tracing::info!("{name}: stopping all units");
        self.send(&ToKeeper::Announce {
            text: "STOPPING=1\nSTATUS=stopping all units".to_owned(),
        });
        let cause = Cause {
            kind: CauseKind::Signal,
            seq: None,
            unit: None,
            by: None,
            text: name,
        };
        self.tell(Event::Shutdown { cause });
    }

    pub(super) fn on_notice(&mut self, life: Invocation, notice: Notice) {
        let unit = self.engine.unit_of(life).map(|unit| unit.spec.name.clone());
        match notice {
            Notice::Ready => self.tell(Event::Ready { invocation: life }),
            Notice::Stopping => self.tell(Event::Stopping { invocation: life }),
            Notice::Extend(by) => self.tell(Event::Extend { invocation: life, by }),
            Notice::Status(text) => {
                if let Some(unit) = unit {
                    self.said.entry(unit).or_default().status = (!text.is_empty()).then_some(text);
                }
            }
            Notice::Health(health) => {
                if let Some(unit) = unit {
                    self.said.entry(unit).or_default().health = Some(health);
                }
            }
            Notice::Metrics(text) => {
                if let Some(unit) = unit {
                    self.said.entry(unit).or_default().metrics = Some(text);
                }
            }
            Notice::Rejected { pid, why } => {
                let unit = unit.map(|u| u.to_string()).unwrap_or_default();
                tracing::warn!("{unit}: a notification of pid {pid} was not believed: {why}");
            }
            Notice::Dropped(n) => {
                let unit = unit.map(|u| u.to_string()).unwrap_or_default();
                tracing::warn!("{unit}: {n} notifications came too fast and were dropped");
            }
            Notice::Reloading
            | Notice::Watchdog
            | Notice::WatchdogTrigger
            | Notice::Barrier
            | Notice::Ignored { .. } => {}
        }
    }

    pub(super) fn on_inside(&mut self, inside: Inside) {
        match inside {
            Inside::News(News::Prepared { launch, result }) => match result {
                Ok(prepared) => {
                    if let Some(request) = self.launches.on_prepared(launch, *prepared) {
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
            Inside::News(News::MainPid { launch, pid }) => {
                self.send(&ToKeeper::FindMain { id: launch, pid });
            }
            Inside::Loaded { result, answers } => self.on_reloaded(*result, answers),
            Inside::TimedOut(id) => {
                self.jobs.on_timeout(id);
                self.tell(Event::Forget { id });
            }
            Inside::Gone(id) => {
                self.jobs.forget(id);
                self.tell(Event::Forget { id });
            }
        }
    }

    pub(super) fn ask_for_launch(&mut self, launch: LaunchId, request: &crate::keeper::wire::Launch) {
        let message = ToKeeper::Launch(Box::new(request.clone()));
        if let Err(e) = self.keeper.send(&message, Vec::new()) {
            self.launches.forget(launch);
            let text = format!("cannot pass the launch to the keeper: {e}");
            self.tell(Event::LaunchFailed {
                launch,
                failure: LaunchFailure { text, host: true },
            });
        }
    }

    /// Reads the files off the loop; one reload at a time.
    pub(super) fn begin_reload(&mut self, answers: Option<Answers>) {
        if self.is_reloading || self.engine.is_shutting_down() {
            if let Some(answers) = answers {
                let why = if self.is_reloading {
                    "another reload is under way"
                } else {
                    "it is shutting down"
                };
                answers.fail(refused(7, why.to_owned()));
            }
            return;
        }
        self.is_reloading = true;
        let (places, profiles, inside) = (self.places.clone(), self.profiles.clone(), self.inside.clone());
        tokio::spawn(async move {
            let work = tokio::task::spawn_blocking(move || config::load(&places, &profiles));
            match work.await {
                Ok(result) => {
                    let _ = inside
                        .send(Inside::Loaded {
                            result: Box::new(result),
                            answers,
                        })
                        .await;
                }
                Err(e) => tracing::error!("the reload's task failed: {e}"),
            }
        });
    }

    /// All or nothing.
    pub(super) fn on_reloaded(&mut self, result: Result<Loaded, Report>, answers: Option<Answers>) {
        self.is_reloading = false;
        match result {
            Ok(loaded) => {
                let before = std::mem::replace(&mut self.loaded, loaded);
                self.tell(Event::Loaded(std::sync::Arc::clone(&self.loaded.plan)));
                let did = reloaded(&before, &self.loaded, &self.engine);
                tracing::info!(
                    "reloaded: {} added, {} removed, {} need a restart",
                    did.added.len(),
                    did.removed.len(),
                    did.needs_restart.len()
                );
                if let Some(answers) = answers {
                    answers.stream([Reply::Reloaded(did)]);
                }
            }
            Err(report) => {
                tracing::error!("daemon-reload refused, nothing has changed:\n{report}");
                if let Some(answers) = answers {
                    answers.fail(Failure {
                        code: CONFIG,
                        message: match report.faults.len() {
                            1 => "1 fault; nothing has changed".to_owned(),
                            n => format!("{n} faults; nothing has changed"),
                        },
                        unit: None,
                        hint: Some("ringriftd check shows them too".to_owned()),
                        details: report.faults.iter().map(ToString::to_string).collect(),
                    });
                }
            }
        }
    }

    pub(super) fn on_tail(&mut self, tail: std::io::Result<Option<(LogTail, Vec<OwnedFd>)>>) {
        match tail {
            Ok(Some((tail, _))) => {
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
            self.next_nonce += 1;
            let nonce = self.next_nonce;
            let query = LogQuery::Tail {
                nonce,
                unit: row.name.clone(),
                invocation: None,
                lines: limits::TAIL_LINES,
            };
            if self.logger.send(&query, Vec::new()).is_ok() {
                let (tx, rx) = oneshot::channel();
                self.tails.insert(nonce, tx);
                asked.push((i, rx));
            }
        }
        self.tails.retain(|_, waiting| !waiting.is_closed());
        asked
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
        let mut notices = Vec::new();
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
        }
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
        Some(at) => tokio::time::sleep(at.since(Now::read().mono)).await,
        None => std::future::pending().await,
    }
}

/// One line for each change, as loud as it is bad.
fn log_event(event: &proto::reply::Event) {
    let (unit, why) = (&event.unit, &event.cause.text);
    match event.event.as_str() {
        "DAEMON_FAILED" | "DAEMON_CRASH_LOOP_DETECTED" | "DAEMON_PERMANENTLY_FAILED" => {
            tracing::warn!("{unit}: {}: {why}", event.event);
        }
        "DAEMON_READY" | "DAEMON_STOPPED" | "DAEMON_RESTARTING" => {
            tracing::info!("{unit}: {}: {why}", event.event)
        }
        _ => tracing::debug!("{unit}: {}: {why}", event.event),
    }
}
