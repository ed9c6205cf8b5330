//! What the keeper, the machine and the units say.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use proto::reply::{Cause, CauseKind, Exit};

use super::begin::launch_of;
use super::core::{Inside, MainAsked, Manager};
use super::hooks::is_hook;
use super::reload::Asker;
use super::stored::Copy;
use crate::control::view::Said;
use crate::engine::types::{Event, LaunchFailure, Mono};
use crate::engine::unit::ProcessPhase;
use crate::host::link::Link;
use crate::host::notify::Notice;
use crate::ids::{Invocation, LaunchId};
use crate::keeper::wire::{FromKeeper, ToKeeper};
use crate::limits;
use crate::spec::UnitName;

/// Units that are named to somebody who signals a second time.
const LEFT_NAMED: usize = 8;

impl Manager {
    pub(super) fn on_keeper(&mut self, said: FromKeeper, fds: Vec<OwnedFd>) {
        if launch_of(&said).is_some_and(is_hook) {
            return self.on_hook_news(&said);
        }
        match said {
            FromKeeper::Unforked { id, why } => {
                if let Some(record) = self.launches.on_unforked(id, &why) {
                    self.pending.launches.push(record);
                    let now = self.clock.now();
                    self.commit(now);
                }
            }
            FromKeeper::Launching { id } => self.launches.on_launching(id, fds),
            FromKeeper::Launched {
                id, pid, start_time, ..
            } => {
                let note = self.launches.on_launched(id, pid, start_time, fds);
                let unit = self.engine.unit_of(id.invocation);
                let said = unit.and_then(|unit| self.said.get(&unit.spec.name));
                if let Some(access) = said.and_then(|said| said.access) {
                    self.launches.expect_access(id, access);
                }
                self.tell(Event::Launched {
                    launch: id,
                    pid,
                    start_time,
                    note,
                });
            }
            FromKeeper::LaunchFailed { id, stage, errno } => {
                self.launches.on_launch_failed(id, stage, errno);
            }
            FromKeeper::Exited {
                id,
                exit,
                remains,
                used,
            } => {
                // Kept with what follows from the end, and not without it.
                let now = self.clock.now();
                self.engine.handle(now.mono, Event::Used { launch: id, used });
                self.on_exited(id, exit, remains);
            }
            FromKeeper::Emptied { id } => {
                self.release_exit(id);
                self.tell(Event::Emptied { launch: id });
            }
            FromKeeper::Unkillable { id, remains } => self.tell(Event::Unkillable { launch: id, remains }),
            FromKeeper::MainFound { id, pid, start_time } => self.on_main_found(id, pid, start_time),
            FromKeeper::MainMissing { id, why } => self.on_main_missing(id, why),
            FromKeeper::Signal { signal, number } => {
                self.last_signal = self.last_signal.max(number);
                // A reload is taken when it is done: a manager that dies in the middle of it leaves it to the next.
                if signal == libc::SIGHUP {
                    self.begin_reload(Asker::Signal(number));
                } else {
                    self.on_signal(signal);
                    self.send(&ToKeeper::SignalTaken { number });
                }
            }
            FromKeeper::Ping { nonce } => self.send(&ToKeeper::Pong { nonce }),
            FromKeeper::LoggerRestarted {
                pid,
                start_time,
                times,
            } => {
                tracing::warn!("the logger died and was started again (pid {pid}, {times} times so far)");
                self.hello.logger_pid = pid;
                self.hello.logger_start = start_time;
                self.logger_deaths = times;
                if let Some(link) = fds.into_iter().next().map(Link::from_fd) {
                    match link {
                        Ok(link) => {
                            self.logger = link;
                            self.is_logger_gone = false;
                            // What the old one was asked it will not answer.
                            self.tails.clear();
                            self.bound_logs();
                            self.ask_again();
                            self.ask_logs_again();
                        }
                        Err(e) => tracing::error!("cannot reach the new logger: {e}"),
                    }
                }
            }
            // Not one that was taken over before, and has ended while nobody looked.
            FromKeeper::Missing { id } if self.is_asked(id) && self.launches.is_foreign(id) => {
                self.launches.forget(id);
                let text = "the process has ended, or is another one by now".to_owned();
                let failure = LaunchFailure { text, host: false };
                self.tell(Event::LaunchFailed { launch: id, failure });
            }
            FromKeeper::Missing { id } => self.tell(Event::Lost { launch: id }),
            FromKeeper::Listener => {
                if let Some(listener) = fds.into_iter().next() {
                    tracing::warn!("the control socket had been removed, and is there again");
                    match listener.try_clone() {
                        Ok(kept) => self.listener = kept,
                        Err(e) => tracing::error!("cannot keep the new control socket: {e}"),
                    }
                    self.renewal.listener(listener);
                }
            }
            FromKeeper::HttpListener { place } => self.on_door(place, fds),
            FromKeeper::HttpFailed { place, errno } => self.on_door_failed(&place, errno),
            FromKeeper::UpgradeRefused { why } => self.on_upgrade_refused(&why),
            FromKeeper::Stored {
                nr,
                tag,
                name,
                is_polled,
            } => {
                if let Some(fd) = fds.into_iter().next() {
                    let copy = Copy {
                        tag,
                        name,
                        is_polled,
                        fd,
                    };
                    self.stored.insert(nr, copy);
                    // Its unit may have gone down meanwhile.
                    self.drop_stored();
                }
            }
            FromKeeper::Unstored { nr } => {
                self.stored.remove(&nr);
            }
            FromKeeper::NotStored { tag, name, why } => {
                tracing::warn!("{tag}: descriptors named {name} were not stored: {why}");
            }
            FromKeeper::Hello { .. } | FromKeeper::Pong { .. } | FromKeeper::Inventoried => {}
        }
    }

    /// The keeper answers so many questions of a launch's main process as it was asked, in their order.
    pub(super) fn expect_main_answer(&mut self, launch: LaunchId, asked: MainAsked) {
        self.asked_main.entry(launch).or_default().push_back(asked);
    }

    /// What the keeper has just answered.
    fn main_answered(&mut self, launch: LaunchId) -> MainAsked {
        let open = self.asked_main.get_mut(&launch);
        let asked = open.and_then(VecDeque::pop_front);
        if self.asked_main.get(&launch).is_some_and(VecDeque::is_empty) {
            self.asked_main.remove(&launch);
        }
        asked.unwrap_or(MainAsked::Looked)
    }

    /// The unit named another main process, and the keeper has not said yet whether that may be.
    pub(super) fn is_main_said(&self, launch: LaunchId) -> bool {
        let open = self.asked_main.get(&launch);
        open.is_some_and(|open| open.contains(&MainAsked::Said))
    }

    fn on_main_found(&mut self, id: LaunchId, pid: u32, start_time: u64) {
        match self.main_answered(id) {
            MainAsked::Looked => self.tell(Event::MainFound {
                launch: id,
                pid,
                start_time,
            }),
            MainAsked::Said => {
                // The end of the one before is no end of the unit.
                self.held_exits.remove(&id);
                self.launches.expect_main(id, pid, start_time);
                self.tell(Event::MainChanged {
                    launch: id,
                    pid,
                    start_time,
                });
            }
        }
    }

    fn on_main_missing(&mut self, id: LaunchId, why: String) {
        match self.main_answered(id) {
            MainAsked::Looked => self.tell(Event::MainMissing { launch: id, why }),
            MainAsked::Said => {
                let unit = self.name_of(id.invocation);
                tracing::warn!("{unit}: its MAINPID= was not believed: {why}");
                if !self.is_main_said(id) {
                    self.release_exit(id);
                }
            }
        }
    }

    /// A main process that ends just after it named another (`MAINPID=`) is no end of the unit; so what the unit said
    /// before is heard first, where something of it is left that could be the other one.
    fn on_exited(&mut self, id: LaunchId, exit: Exit, remains: Vec<u32>) {
        let drained = self.launches.drained(id);
        let is_asked = self.is_main_said(id);
        if !id.is_main() || remains.is_empty() || (drained.is_none() && !is_asked) {
            self.held_exits.remove(&id);
            return self.tell(Event::Exited {
                launch: id,
                exit,
                remains,
            });
        }
        self.held_exits.insert(id, (exit, remains));
        if let Some(drained) = drained {
            let inside = self.inside.clone();
            tokio::spawn(async move {
                // What takes longer is heard all the same, only later than the end.
                let _ = tokio::time::timeout(limits::LAST_WORDS, drained).await;
                let _ = inside.send(Inside::Drained(id)).await;
            });
        }
    }

    /// Tells the engine of an end that waited.
    pub(super) fn release_exit(&mut self, launch: LaunchId) {
        if let Some((exit, remains)) = self.held_exits.remove(&launch) {
            self.tell(Event::Exited {
                launch,
                exit,
                remains,
            });
        }
    }

    /// For messages.
    fn name_of(&self, life: Invocation) -> String {
        let unit = self.engine.unit_of(life);
        unit.map(|unit| unit.spec.name.to_string()).unwrap_or_default()
    }

    fn is_asked(&self, launch: LaunchId) -> bool {
        let mut processes = self.engine.processes();
        processes.any(|(_, _, process)| process.launch == launch && process.phase == ProcessPhase::Asked)
    }

    /// TERM, INT and QUIT stop everything in order; a second one changes nothing, the deadline runs.
    pub(super) fn on_signal(&mut self, number: i32) {
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

    /// What a unit said, with the descriptors that belong to it.
    pub(super) fn on_notice(&mut self, life: Invocation, notice: Notice, fds: Vec<OwnedFd>) {
        let unit = self.engine.unit_of(life).map(|unit| unit.spec.name.clone());
        match notice {
            Notice::Ready => self.tell(Event::Ready { invocation: life }),
            Notice::Stopping => self.tell(Event::Stopping { invocation: life }),
            Notice::Extend(by) => self.tell(Event::Extend { invocation: life, by }),
            Notice::Status(text) => self.note_said(unit, |said| {
                said.status = (!text.is_empty()).then_some(text);
            }),
            Notice::Health(health) => {
                let text = unit.and_then(|unit| self.said.get(&unit)?.status.clone());
                self.tell(Event::HealthSaid {
                    invocation: life,
                    health,
                    text,
                });
            }
            Notice::Watchdog => self.tell(Event::Watchdog { invocation: life }),
            Notice::WatchdogTrigger => self.tell(Event::WatchdogTrigger { invocation: life }),
            Notice::WatchdogEvery(every) => self.tell(Event::WatchdogEvery {
                invocation: life,
                every,
            }),
            Notice::Metrics(numbers) => self.note_said(unit, |said| said.metrics = numbers),
            Notice::Errno(errno) => self.note_said(unit, |said| said.errno = (errno != 0).then_some(errno)),
            Notice::Access(access) => {
                self.launches.expect_access(LaunchId::main(life), access);
                self.note_said(unit, |said| said.access = Some(access));
            }
            Notice::Reloading { at_us } => {
                let at = at_us.map(|us| Mono(us.saturating_mul(1000)));
                self.tell(Event::Reloading { invocation: life, at });
            }
            Notice::MainPid(pid) => {
                let id = LaunchId::main(life);
                if unit.is_some() {
                    self.expect_main_answer(id, MainAsked::Said);
                    self.send(&ToKeeper::SetMain { id, pid });
                }
            }
            Notice::Store { name, is_polled } => self.store(life, &name, is_polled, fds),
            Notice::Unstore { name } => self.unstore(life, &name),
            Notice::Rejected { pid, why } => {
                let unit = unit.map(|u| u.to_string()).unwrap_or_default();
                tracing::warn!("{unit}: a notification of pid {pid} was not believed: {why}");
            }
            Notice::Dropped(n) => {
                let unit = unit.map(|u| u.to_string()).unwrap_or_default();
                tracing::warn!("{unit}: {n} notifications came too fast and were dropped");
            }
            Notice::Barrier | Notice::Ignored { .. } => {}
        }
    }

    fn note_said(&mut self, unit: Option<UnitName>, say: impl FnOnce(&mut Said)) {
        let Some(unit) = unit else { return };
        let said = self.said.entry(unit.clone()).or_default();
        say(said);
        self.pending.said.push((unit, Some(said.clone())));
        let now = self.clock.now();
        self.commit(now);
    }
}
