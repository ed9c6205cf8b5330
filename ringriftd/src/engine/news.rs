//! News of a life's processes: each piece finds the life that it belongs to, or is stale, and calls the step that it
//! ends.

use std::sync::Arc;
use std::time::Duration;

use proto::reply::{CauseKind, Exit, State as Word};

use super::machine::Engine;
use super::types::{Action, ChangeKind, LaunchFailure, Mono, Role};
use super::unit::{End, ProcessPhase, StartPhase, State, StopPhase};
use super::words::{describe, left_behind};
use crate::graph::Ix;
use crate::ids::{Invocation, LaunchId};
use crate::spec::Kind;

impl Engine {
    pub(super) fn on_launched(&mut self, launch: LaunchId, pid: u32, start_time: u64, note: Option<String>) {
        let Some(ix) = self.unit_of_launch(launch) else {
            return;
        };
        let word = self.unit(ix).word;
        let Some(process) = self
            .unit_mut(ix)
            .state
            .life_mut()
            .and_then(|l| l.process_mut(launch))
        else {
            return;
        };
        match process.phase {
            ProcessPhase::Asked => {}
            // Said twice; or its main process changed, and an earlier manager did not live to hear so.
            ProcessPhase::Alive { .. } => return self.on_main_changed(launch, pid, start_time),
            ProcessPhase::Leaving if planted!(BackFromTheDead) => {}
            ProcessPhase::Leaving | ProcessPhase::Gone => return,
        }
        process.phase = ProcessPhase::Alive { pid, start_time };
        if process.role.is_probe() {
            return self.on_probe_launched(ix);
        }
        if !launch.is_main() {
            self.advance_stop(ix);
            return;
        }
        let now = self.now;
        let unit = self.unit_mut(ix);
        unit.starts += 1;
        unit.note = note;
        if let Some(life) = unit.state.life_mut() {
            life.witness.launched = Some(now);
        }
        let began_by = unit.state.life().map_or(CauseKind::Command, |life| life.began_by);
        let is_foreign = unit.state.life().is_some_and(|life| life.foreign.is_some());
        let how = if is_foreign { "taken over" } else { "launched" };
        let cause = self.own_cause(ix, began_by, format!("{how} as pid {pid}"));
        self.emit(ix, ChangeKind::Started, word, word, cause);
        match &self.unit(ix).state {
            State::Starting {
                phase: StartPhase::Activating,
                life,
                ..
            } => {
                if life.foreign.is_some() {
                    self.on_adopted(ix, began_by);
                } else if life.spec.exec.kind == Kind::Simple {
                    let cause = self.own_cause(ix, began_by, "its program runs");
                    self.on_kind_ready(ix, cause);
                }
            }
            State::Stopping { .. } => self.advance_stop(ix),
            State::Starting { .. }
            | State::Running { .. }
            | State::Reloading { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
    }

    pub(super) fn on_launch_failed(&mut self, launch: LaunchId, failure: &LaunchFailure) {
        let Some(ix) = self.unit_of_launch(launch) else {
            return;
        };
        let Some(process) = self
            .unit_mut(ix)
            .state
            .life_mut()
            .and_then(|l| l.process_mut(launch))
        else {
            return;
        };
        process.phase = ProcessPhase::Gone;
        let role = process.role;
        if role.is_probe() {
            return self.on_probe_failed(ix, failure.text.clone());
        }
        if !launch.is_main() {
            self.on_hook_end(ix, role, Err(failure.text.clone()), failure.host);
            return;
        }
        self.unit_mut(ix).last_error = Some(failure.text.clone());
        match &self.unit(ix).state {
            State::Starting { life, .. } if life.foreign.is_some() => {
                self.on_not_adopted(ix, launch.invocation, &failure.text);
            }
            State::Starting { .. } => {
                let cause = self.own_cause(ix, CauseKind::Exit, failure.text.clone());
                let end = if failure.host {
                    End::HostFailed(failure.text.clone())
                } else {
                    End::AttemptFailed(failure.text.clone())
                };
                self.begin_stop(ix, end, ChangeKind::Failed, cause);
            }
            State::Stopping { .. } => self.advance_stop(ix),
            State::Running { .. }
            | State::Reloading { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
    }

    pub(super) fn on_exited(&mut self, launch: LaunchId, exit: Exit, remains: &[u32]) {
        let Some(ix) = self.unit_of_launch(launch) else {
            // Its end is known, and that was not heard by the keeper: said again, it forgets it again.
            if remains.is_empty() {
                self.actions.push_back(Action::Release { launch });
            }
            return;
        };
        let Some(process) = self
            .unit_mut(ix)
            .state
            .life_mut()
            .and_then(|l| l.process_mut(launch))
        else {
            return;
        };
        match process.phase {
            ProcessPhase::Asked | ProcessPhase::Alive { .. } => {}
            // Said again, and by now nothing is left.
            ProcessPhase::Leaving if remains.is_empty() => return self.on_emptied(launch),
            ProcessPhase::Leaving | ProcessPhase::Gone => return,
        }
        let role = process.role;
        process.phase = if remains.is_empty() || planted!(LeftoversForgotten) {
            ProcessPhase::Gone
        } else {
            ProcessPhase::Leaving
        };
        if remains.is_empty() {
            if !planted!(NeverReleased) {
                self.actions.push_back(Action::Release { launch });
            }
        } else if !launch.is_main() {
            // A hook's leftovers have no business once it is through.
            process.is_killed = true;
            self.actions.push_back(Action::Destroy { launch });
        }
        if launch.is_main() {
            self.on_main_exit(ix, exit, remains);
        } else if role.is_probe() {
            self.on_probe_exit(ix, exit, remains.is_empty());
        } else if remains.is_empty() {
            self.on_hook_end(ix, role, hook_result(role, exit), false);
        } else if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.hook_exit = Some(exit);
        }
    }

    fn on_main_exit(&mut self, ix: Ix, exit: Exit, remains: &[u32]) {
        let now = self.now;
        let unit = self.unit_mut(ix);
        unit.last_exit = Some((exit, now));
        if let Some(life) = unit.state.life_mut() {
            life.exit = Some(exit);
            life.witness.ended = Some(now);
        }
        let said = describe(exit);
        match &self.unit(ix).state {
            State::Starting { life, phase, .. } => {
                let (kind, phase) = (life.spec.exec.kind, *phase);
                let is_ok = exit == Exit::Code(0);
                match (kind, phase) {
                    (Kind::Oneshot, StartPhase::Activating) if is_ok => {
                        let cause = self.own_cause(ix, CauseKind::Exit, said);
                        self.become_ready(ix, cause);
                    }
                    (Kind::Forking, StartPhase::Activating) if is_ok && !remains.is_empty() => {
                        let spec = Arc::clone(&life.spec);
                        let launch = LaunchId::main(life.invocation);
                        if let State::Starting { phase, .. } = &mut self.unit_mut(ix).state {
                            *phase = StartPhase::FindingMain;
                        }
                        self.actions.push_back(Action::FindMain { launch, spec });
                    }
                    (Kind::Forking, StartPhase::Activating) if is_ok => {
                        let text =
                            "its first process ended and left no other behind, so there is no main process";
                        self.fail_attempt(ix, text.to_owned());
                    }
                    (Kind::Oneshot, StartPhase::Post(_)) if is_ok => {}
                    (
                        Kind::Simple | Kind::Notify | Kind::Fd | Kind::Forking | Kind::Oneshot,
                        StartPhase::Pre(_)
                        | StartPhase::Activating
                        | StartPhase::FindingMain
                        | StartPhase::Probing
                        | StartPhase::Post(_),
                    ) => {
                        let text = format!("{said} before it was ready{}", left_behind(remains));
                        self.fail_attempt(ix, text);
                    }
                }
            }
            State::Running { .. } | State::Reloading { .. } => {
                let text = format!("{said}{}", left_behind(remains));
                let is_failure = !super::restart::is_clean(exit);
                let kind = if is_failure {
                    ChangeKind::Failed
                } else {
                    ChangeKind::StatusChanged
                };
                self.unit_mut(ix).last_error = Some(text.clone());
                let cause = self.own_cause(ix, CauseKind::Exit, text);
                self.begin_stop(ix, End::Exited, kind, cause);
            }
            State::Stopping { life, .. } => {
                if life.word.is_ending && !super::restart::is_clean(exit) {
                    self.unit_mut(ix).last_error = Some(format!("{said}{}", left_behind(remains)));
                }
                self.advance_stop(ix);
            }
            State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
    }

    pub(super) fn on_emptied(&mut self, launch: LaunchId) {
        let Some(ix) = self.unit_of_launch(launch) else {
            self.actions.push_back(Action::Release { launch });
            return;
        };
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        if let Some(probe) = life.probe.as_ref().filter(|p| p.launch == launch) {
            if probe.phase == ProcessPhase::Leaving {
                self.actions.push_back(Action::Release { launch });
                self.unit_mut(ix).remains.clear();
                self.on_probe_gone(ix);
            }
            return;
        }
        let hook_exit = life.hook_exit.take();
        let Some(process) = life.process_mut(launch) else {
            return;
        };
        if process.phase != ProcessPhase::Leaving {
            if !launch.is_main() {
                life.hook_exit = hook_exit;
            }
            return;
        }
        let role = process.role;
        process.phase = ProcessPhase::Gone;
        self.actions.push_back(Action::Release { launch });
        self.unit_mut(ix).remains.clear();
        if !launch.is_main() {
            let result = hook_exit.map_or(Ok(()), |exit| hook_result(role, exit));
            self.on_hook_end(ix, role, result, false);
            return;
        }
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.hook_exit = hook_exit;
        }
        match &self.unit(ix).state {
            State::Starting {
                phase: StartPhase::FindingMain,
                ..
            } => {
                let text =
                    "its first process ended, and so did all that it left, before its main process was found";
                self.fail_attempt(ix, text.to_owned());
            }
            State::Stopping { .. } => self.advance_stop(ix),
            State::Starting { .. }
            | State::Running { .. }
            | State::Reloading { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
    }

    pub(super) fn on_unkillable(&mut self, launch: LaunchId, remains: Vec<u32>) {
        let Some(ix) = self.unit_of_launch(launch) else {
            return;
        };
        let text = format!("SIGKILL did not end its processes {remains:?} (stuck in the kernel?)");
        let unit = self.unit_mut(ix);
        unit.last_error = Some(text.clone());
        unit.remains = remains;
        let word = unit.word;
        let cause = self.own_cause(ix, CauseKind::Timer, text);
        self.emit(ix, ChangeKind::StatusChanged, word, word, cause);
        self.judge(ix);
    }

    pub(super) fn on_main_found(&mut self, launch: LaunchId, pid: u32, start_time: u64) {
        let Some(ix) = self.unit_of_launch(launch) else {
            return;
        };
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        if std::mem::replace(&mut life.is_main_found, true) {
            return; // said twice
        }
        let Some(process) = life.process_mut(launch) else {
            return;
        };
        process.phase = ProcessPhase::Alive { pid, start_time };
        match &self.unit(ix).state {
            State::Starting {
                phase: StartPhase::FindingMain,
                ..
            } => {
                let cause = self.own_cause(ix, CauseKind::Exit, format!("its main process is pid {pid}"));
                if let Some(life) = self.unit_mut(ix).state.life_mut() {
                    life.exit = None;
                    life.witness.ended = None;
                }
                self.on_kind_ready(ix, cause);
            }
            State::Stopping { .. } => self.advance_stop(ix),
            State::Starting { .. }
            | State::Running { .. }
            | State::Reloading { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
    }

    pub(super) fn on_main_missing(&mut self, launch: LaunchId, why: &str) {
        let Some(ix) = self.unit_of_launch(launch) else {
            return;
        };
        if matches!(
            self.unit(ix).state,
            State::Starting {
                phase: StartPhase::FindingMain,
                ..
            }
        ) {
            self.fail_attempt(ix, format!("cannot find its main process: {why}"));
        }
    }

    pub(super) fn on_ready(&mut self, invocation: Invocation) {
        let Some(&ix) = self.lives.get(&invocation) else {
            self.stale += 1;
            return;
        };
        match &self.unit(ix).state {
            State::Starting {
                phase: StartPhase::Activating,
                life,
                ..
            } if matches!(life.spec.exec.kind, Kind::Notify | Kind::Fd)
                && matches!(
                    life.main.as_ref().map(|p| p.phase),
                    Some(ProcessPhase::Alive { .. })
                )
                && !planted!(ReadyTooLate) =>
            {
                let cause = self.own_cause(ix, CauseKind::Signal, "it said that it is ready");
                self.on_kind_ready(ix, cause);
            }
            State::Stopping { life, .. } if !life.word.is_late_told => {
                if let Some(life) = self.unit_mut(ix).state.life_mut() {
                    life.word.is_late_told = true;
                }
                let word = Word::Stopping;
                let text = "it said that it is ready, too late: ignored";
                let cause = self.own_cause(ix, CauseKind::Signal, text);
                self.emit(ix, ChangeKind::StatusChanged, word, word, cause);
            }
            State::Reloading { life, .. } if life.word.reloading.is_some() => self.on_reloaded_notice(ix),
            // Said twice, or by a unit of a kind that does not wait for it: as it is.
            State::Starting { .. }
            | State::Running { .. }
            | State::Reloading { .. }
            | State::Stopping { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
    }

    /// It ends by itself: as if it had got the first signal of its ladder, and with as much time. Before it was ready its
    /// start's own deadline runs; in a stop it says what is known.
    pub(super) fn on_stopping_notice(&mut self, invocation: Invocation) {
        let Some(&ix) = self.lives.get(&invocation) else {
            self.stale += 1;
            return;
        };
        match &self.unit(ix).state {
            State::Running { .. } | State::Reloading { .. } => {
                if let Some(life) = self.unit_mut(ix).state.life_mut() {
                    life.word.is_ending = true;
                    life.word.reloading = None;
                }
                let cause = self.own_cause(ix, CauseKind::Signal, "it said that it is stopping");
                self.begin_stop(ix, End::Exited, ChangeKind::StatusChanged, cause);
            }
            State::Starting { .. }
            | State::Stopping { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
    }

    /// It reads its configuration again until it says that it is ready. During its reload commands, which may have asked it
    /// to, the reload is over when both are through.
    pub(super) fn on_reloading_notice(&mut self, invocation: Invocation, at: Option<Mono>) {
        let Some(&ix) = self.lives.get(&invocation) else {
            self.stale += 1;
            return;
        };
        let now = self.now;
        let is_running = matches!(self.unit(ix).state, State::Running { .. });
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        // A word from before it was ready, or from a time to come, is none of this reload's.
        let since = life.ready.unwrap_or(now);
        if life.ready.is_none() || at.is_some_and(|at| at < since || at > now) {
            return;
        }
        match &mut self.unit_mut(ix).state {
            State::Running { life } | State::Reloading { life, .. } => {
                life.word.reloading.get_or_insert(now);
            }
            State::Starting { .. }
            | State::Stopping { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
        if is_running {
            let cause = self.own_cause(ix, CauseKind::Signal, "it said that it is reloading");
            self.begin_own_reload(ix, cause);
        }
    }

    fn on_reloaded_notice(&mut self, ix: Ix) {
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        life.word.reloading = None;
        if life.hook.is_none() {
            self.end_reload(ix, CauseKind::Signal, "it said that it is ready again".to_owned());
        }
    }

    /// Another process of the unit is its main one: by its own word, checked by the keeper.
    pub(super) fn on_main_changed(&mut self, launch: LaunchId, pid: u32, start_time: u64) {
        let Some(ix) = self.unit_of_launch(launch) else {
            return;
        };
        let word = self.unit(ix).word;
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        let Some(process) = life.process_mut(launch) else {
            return;
        };
        let ProcessPhase::Alive {
            pid: old,
            start_time: since,
        } = process.phase
        else {
            return;
        };
        if (old, since) == (pid, start_time) {
            return; // said twice
        }
        process.phase = ProcessPhase::Alive { pid, start_time };
        let text = format!("its main process is pid {pid} now, and was pid {old}");
        let cause = self.own_cause(ix, CauseKind::Signal, text);
        self.emit(ix, ChangeKind::StatusChanged, word, word, cause);
    }

    pub(super) fn on_extend(&mut self, invocation: Invocation, by: Duration) {
        let Some(&ix) = self.lives.get(&invocation) else {
            self.stale += 1;
            return;
        };
        let at = self.now.after(by.min(crate::limits::DURATION_MAX));
        match &mut self.unit_mut(ix).state {
            State::Starting {
                phase: StartPhase::Activating | StartPhase::Probing,
                deadline,
                ..
            } => {
                *deadline = (*deadline).max(at);
            }
            State::Stopping {
                phase: StopPhase::Abort | StopPhase::Signal(_),
                deadline: Some(deadline),
                ..
            } => {
                *deadline = (*deadline).max(at);
            }
            State::Reloading { life, deadline, .. } if life.hook.is_none() => {
                *deadline = (*deadline).max(at);
            }
            State::Starting { .. }
            | State::Stopping { .. }
            | State::Running { .. }
            | State::Reloading { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
        self.rearm(ix);
    }

    /// A hook is through, and nothing of it is left.
    pub(super) fn on_hook_end(&mut self, ix: Ix, role: Role, result: Result<(), String>, host: bool) {
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.hook = None;
            life.hook_exit = None;
        }
        match (&self.unit(ix).state, role) {
            (
                State::Starting {
                    phase: StartPhase::Pre(n),
                    ..
                },
                Role::StartPre(m),
            ) if *n == m => match result {
                Ok(()) => self.continue_pre(ix, m + 1),
                Err(text) => self.fail_start_hook(ix, text, host),
            },
            (
                State::Starting {
                    phase: StartPhase::Post(n),
                    ..
                },
                Role::StartPost(m),
            ) if *n == m => match result {
                Ok(()) => {
                    let cause = self.own_cause(ix, CauseKind::Exit, format!("{role} is through"));
                    self.continue_post(ix, m + 1, cause);
                }
                Err(text) => self.fail_start_hook(ix, text, host),
            },
            (State::Reloading { index, .. }, Role::Reload(m)) if *index == m => {
                self.on_reload_hook_end(ix, m, result);
            }
            (State::Stopping { .. }, _) => self.on_stop_hook_end(ix, role, result),
            (
                State::Starting { .. }
                | State::Reloading { .. }
                | State::Running { .. }
                | State::Stopped
                | State::Waiting
                | State::Backoff { .. }
                | State::Failed { .. }
                | State::Completed,
                _,
            ) => {}
        }
    }

    fn fail_start_hook(&mut self, ix: Ix, text: String, host: bool) {
        self.unit_mut(ix).last_error = Some(text.clone());
        let cause = self.own_cause(ix, CauseKind::Exit, text.clone());
        let end = if host {
            End::HostFailed(text)
        } else {
            End::AttemptFailed(text)
        };
        self.begin_stop(ix, end, ChangeKind::Failed, cause);
    }
}

fn hook_result(role: Role, exit: Exit) -> Result<(), String> {
    if exit == Exit::Code(0) {
        Ok(())
    } else {
        Err(format!("{role} {}", describe(exit)))
    }
}
