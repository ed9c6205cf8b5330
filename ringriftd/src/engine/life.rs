//! A life's way up, and the news of its processes. The way down is `stop`.
//!
//! Each step of a start is a function that ends by asking the keeper for something or by going on to the next step;
//! each piece of news finds the life that it belongs to (or is stale) and calls the step that it ends.

use std::sync::Arc;
use std::time::Duration;

use proto::reply::{Cause, CauseKind, Exit, State as Word};

use super::Engine;
use super::types::{Action, ChangeKind, LaunchFailure, Mono, Role};
use super::unit::{End, Life, Process, ProcessPhase, StartPhase, State, StopPhase};
use crate::graph::Ix;
use crate::ids::{Invocation, LaunchId};
use crate::spec::{Kind, UnitSpec};

impl Engine {
    /// A new life begins: its first hook, or its main process.
    pub(super) fn open_life(&mut self, ix: Ix, invocation: Invocation, spec: Arc<UnitSpec>, cause: Cause) {
        let life = Life {
            invocation,
            began_by: cause.kind,
            spec,
            main: None,
            exit: None,
            hook: None,
            hook_exit: None,
            next_step: 1,
            ready: None,
        };
        let state = State::Starting {
            life: Box::new(life),
            phase: StartPhase::Pre(0),
            deadline: Mono(u64::MAX),
        };
        self.transition(ix, state, ChangeKind::StatusChanged, cause);
        self.continue_pre(ix, 0);
    }

    /// `start_pre[index]`, or what follows the last of them.
    fn continue_pre(&mut self, ix: Ix, index: u16) {
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        if usize::from(index) < life.spec.exec.start_pre.len() {
            let deadline = self.launch_hook(ix, Role::StartPre(index));
            self.set_start_phase(ix, StartPhase::Pre(index), deadline);
        } else {
            self.launch_main(ix);
        }
    }

    fn launch_main(&mut self, ix: Ix) {
        // What it requires may have gone away while its hooks ran. Nothing can rely on a unit that was not launched, so
        // this stop waits for nobody.
        if let Some(reason) = self.stop_reason(ix) {
            self.stop_for(ix, reason);
            return;
        }
        let now = self.now;
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        let launch = LaunchId::main(life.invocation);
        life.main = Some(Process::asked(launch, Role::Main));
        let spec = Arc::clone(&life.spec);
        let deadline = now.after(spec.ready_timeout);
        self.set_start_phase(ix, StartPhase::Activating, deadline);
        self.actions.push_back(Action::Launch {
            launch,
            role: Role::Main,
            spec,
        });
    }

    /// Asks for a hook of the present life, and says by when it must be through.
    pub(super) fn launch_hook(&mut self, ix: Ix, role: Role) -> Mono {
        let now = self.now;
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return now;
        };
        let launch = LaunchId {
            invocation: life.invocation,
            step: life.next_step,
        };
        life.next_step = life.next_step.saturating_add(1);
        life.hook = Some(Process::asked(launch, role));
        let spec = Arc::clone(&life.spec);
        let deadline = now.after(spec.exec.hook_timeout);
        self.actions.push_back(Action::Launch { launch, role, spec });
        deadline
    }

    fn set_start_phase(&mut self, ix: Ix, new_phase: StartPhase, new_deadline: Mono) {
        if let State::Starting { phase, deadline, .. } = &mut self.unit_mut(ix).state {
            *phase = new_phase;
            *deadline = new_deadline;
        }
        self.rearm(ix);
    }

    /// The unit has done all that its kind asks for: `start_post` hooks, then ready.
    fn become_ready(&mut self, ix: Ix, cause: Cause) {
        let now = self.now;
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        life.ready = Some(now);
        self.continue_post(ix, 0, cause);
    }

    fn continue_post(&mut self, ix: Ix, index: u16, cause: Cause) {
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        if usize::from(index) < life.spec.exec.start_post.len() {
            let deadline = self.launch_hook(ix, Role::StartPost(index));
            self.set_start_phase(ix, StartPhase::Post(index), deadline);
            return;
        }
        let is_done = life.spec.exec.kind == Kind::Oneshot && !life.spec.exec.remain;
        if is_done {
            self.unit_mut(ix).attempt_failed = false;
            self.begin_stop(ix, End::Exited, ChangeKind::StatusChanged, cause);
            return;
        }
        let Some(life) = self.take_life(ix) else { return };
        self.unit_mut(ix).attempt_failed = false;
        self.transition(ix, State::Running { life }, ChangeKind::Ready, cause);
    }

    /// Takes the life out of a state that is about to be replaced.
    pub(super) fn take_life(&mut self, ix: Ix) -> Option<Box<Life>> {
        match std::mem::replace(&mut self.unit_mut(ix).state, State::Stopped) {
            State::Starting { life, .. }
            | State::Running { life }
            | State::Reloading { life, .. }
            | State::Stopping { life, .. } => Some(life),
            other @ (State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed) => {
                self.unit_mut(ix).state = other;
                None
            }
        }
    }

    /// The start cannot succeed any more.
    pub(super) fn fail_attempt(&mut self, ix: Ix, error: String) {
        self.unit_mut(ix).last_error = Some(error.clone());
        let cause = self.own_cause(ix, CauseKind::Exit, error.clone());
        self.begin_stop(ix, End::AttemptFailed(error), ChangeKind::Failed, cause);
    }

    // --- news ------------------------------------------------------------------------------------------------

    pub(super) fn on_launched(&mut self, launch: LaunchId, pid: u32, note: Option<String>) {
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
        if process.phase != ProcessPhase::Asked {
            return; // said twice
        }
        process.phase = ProcessPhase::Alive { pid };
        if !launch.is_main() {
            self.advance_stop(ix);
            return;
        }
        let unit = self.unit_mut(ix);
        unit.starts += 1;
        unit.note = note;
        let began_by = unit.state.life().map_or(CauseKind::Command, |life| life.began_by);
        let cause = self.own_cause(ix, began_by, format!("launched as pid {pid}"));
        self.emit(ix, ChangeKind::Started, word, word, cause);
        match &self.unit(ix).state {
            State::Starting {
                phase: StartPhase::Activating,
                life,
                ..
            } => {
                if life.spec.exec.kind == Kind::Simple {
                    let cause = self.own_cause(ix, began_by, "its program runs");
                    self.become_ready(ix, cause);
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
        if !launch.is_main() {
            self.on_hook_end(ix, role, Err(failure.text.clone()), failure.host);
            return;
        }
        self.unit_mut(ix).last_error = Some(failure.text.clone());
        match &self.unit(ix).state {
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
        if !matches!(process.phase, ProcessPhase::Asked | ProcessPhase::Alive { .. }) {
            return; // said twice
        }
        let role = process.role;
        process.phase = if remains.is_empty() {
            ProcessPhase::Gone
        } else {
            ProcessPhase::Leaving
        };
        if remains.is_empty() {
            self.actions.push_back(Action::Release { launch });
        } else if !launch.is_main() {
            // A hook's leftovers have no business once it is through.
            self.actions.push_back(Action::Destroy { launch });
        }
        if launch.is_main() {
            self.on_main_exit(ix, exit, remains);
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
            State::Stopping { .. } => self.advance_stop(ix),
            State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
    }

    pub(super) fn on_emptied(&mut self, launch: LaunchId) {
        let Some(ix) = self.unit_of_launch(launch) else {
            return;
        };
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
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

    pub(super) fn on_main_found(&mut self, launch: LaunchId, pid: u32) {
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
        process.phase = ProcessPhase::Alive { pid };
        match &self.unit(ix).state {
            State::Starting {
                phase: StartPhase::FindingMain,
                ..
            } => {
                let cause = self.own_cause(ix, CauseKind::Exit, format!("its main process is pid {pid}"));
                if let Some(life) = self.unit_mut(ix).state.life_mut() {
                    life.exit = None;
                }
                self.become_ready(ix, cause);
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
                ) =>
            {
                let cause = self.own_cause(ix, CauseKind::Signal, "it said that it is ready");
                self.become_ready(ix, cause);
            }
            State::Stopping { .. } => {
                let word = Word::Stopping;
                let text = "it said that it is ready, too late: ignored";
                let cause = self.own_cause(ix, CauseKind::Signal, text);
                self.emit(ix, ChangeKind::StatusChanged, word, word, cause);
            }
            // Said twice, or by a unit of a kind that does not wait for it: as it is.
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

    pub(super) fn on_stopping_notice(&mut self, invocation: Invocation) {
        // The exit that follows is what counts; the notice only shows in the status text.
        if !self.lives.contains_key(&invocation) {
            self.stale += 1;
        }
    }

    pub(super) fn on_extend(&mut self, invocation: Invocation, by: Duration) {
        let Some(&ix) = self.lives.get(&invocation) else {
            self.stale += 1;
            return;
        };
        let at = self.now.after(by.min(crate::limits::DURATION_MAX));
        match &mut self.unit_mut(ix).state {
            State::Starting {
                phase: StartPhase::Activating,
                deadline,
                ..
            } => {
                *deadline = (*deadline).max(at);
            }
            State::Stopping {
                phase: StopPhase::Signal(_),
                deadline: Some(deadline),
                ..
            } => {
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
    fn on_hook_end(&mut self, ix: Ix, role: Role, result: Result<(), String>, host: bool) {
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

    // --- reload ----------------------------------------------------------------------------------------------

    pub(super) fn begin_reload(&mut self, ix: Ix, cause: Cause) {
        self.unit_mut(ix).reload_error = None;
        let Some(life) = self.take_life(ix) else { return };
        let state = State::Reloading {
            life,
            index: 0,
            deadline: Mono(u64::MAX),
        };
        self.transition(ix, state, ChangeKind::StatusChanged, cause);
        self.continue_reload(ix, 0);
    }

    fn continue_reload(&mut self, ix: Ix, next: u16) {
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        if usize::from(next) < life.spec.exec.reload.len() {
            let at = self.launch_hook(ix, Role::Reload(next));
            if let State::Reloading { index, deadline, .. } = &mut self.unit_mut(ix).state {
                *index = next;
                *deadline = at;
            }
            self.rearm(ix);
        } else {
            self.end_reload(ix, "reloaded".to_owned());
        }
    }

    fn end_reload(&mut self, ix: Ix, text: String) {
        let cause = self.own_cause(ix, CauseKind::Exit, text);
        let Some(life) = self.take_life(ix) else { return };
        self.transition(ix, State::Running { life }, ChangeKind::StatusChanged, cause);
    }

    fn on_reload_hook_end(&mut self, ix: Ix, index: u16, result: Result<(), String>) {
        match result {
            Ok(()) => self.continue_reload(ix, index + 1),
            Err(text) => {
                let text = self.unit_mut(ix).reload_error.get_or_insert(text).clone();
                self.end_reload(ix, text);
            }
        }
    }

    // --- deadlines -------------------------------------------------------------------------------------------

    pub(super) fn on_deadline(&mut self, ix: Ix) {
        match &self.unit(ix).state {
            State::Starting { life, phase, .. } => {
                let text = match phase {
                    StartPhase::Pre(n) => format!(
                        "start_pre[{n}] was not through {}",
                        within(life.spec.exec.hook_timeout)
                    ),
                    StartPhase::Post(n) => {
                        format!(
                            "start_post[{n}] was not through {}",
                            within(life.spec.exec.hook_timeout)
                        )
                    }
                    StartPhase::Activating | StartPhase::FindingMain => {
                        format!(
                            "was not ready {} ([ready] timeout)",
                            within(life.spec.ready_timeout)
                        )
                    }
                };
                self.unit_mut(ix).last_error = Some(text.clone());
                let cause = self.own_cause(ix, CauseKind::Timer, text.clone());
                self.begin_stop(ix, End::AttemptFailed(text), ChangeKind::Failed, cause);
            }
            State::Reloading { life, .. } => {
                let text = format!(
                    "a reload command was not through {}",
                    within(life.spec.exec.hook_timeout)
                );
                // The hook goes; the unit goes on. One that the keeper has not answered cannot be killed yet.
                self.unit_mut(ix).reload_error = Some(text);
                let is_killed = self.destroy_hook(ix);
                let again = self.now.after(crate::limits::PREPARE_TIMEOUT);
                if let State::Reloading { deadline, .. } = &mut self.unit_mut(ix).state {
                    *deadline = if is_killed { Mono(u64::MAX) } else { again };
                }
            }
            State::Stopping { .. } => self.on_stop_deadline(ix),
            State::Backoff { .. } => {
                let cause = self.own_cause(ix, CauseKind::Timer, "its back-off is over");
                self.transition(ix, State::Waiting, ChangeKind::StatusChanged, cause);
            }
            State::Failed { .. } => {
                let cause = self.own_cause(ix, CauseKind::Timer, "a slow retry");
                self.transition(ix, State::Waiting, ChangeKind::StatusChanged, cause);
            }
            State::Stopped | State::Waiting | State::Running { .. } | State::Completed => {}
        }
    }
}

fn hook_result(role: Role, exit: Exit) -> Result<(), String> {
    if exit == Exit::Code(0) {
        Ok(())
    } else {
        Err(format!("{role} {}", describe(exit)))
    }
}

fn within(timeout: Duration) -> String {
    format!("within {}", duration_text(timeout))
}

/// A duration as the unit files write it.
pub(super) fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        _ if ms.is_multiple_of(3_600_000) && ms > 0 => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) && ms > 0 => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        0..1000 => format!("{ms}ms"),
        _ => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
    }
}

/// `exited with code 1`, `was killed by signal 11 (core dumped)`.
pub fn describe(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal { signal, core } => {
            let core = if core { " (core dumped)" } else { "" };
            format!("was killed by signal {}{core}", signal_name(signal))
        }
        Exit::Unknown => "ended, nobody knows how".to_owned(),
    }
}

/// `SIGKILL` for 9 (signal(7), x86-64 and arm64), `SIGRTMIN+1` for 35; otherwise the number.
pub fn signal_name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    match signal {
        1..=31 => format!("SIG{}", NAMES[(signal - 1) as usize]),
        34 => "SIGRTMIN".to_owned(),
        35..=64 => format!("SIGRTMIN+{}", signal - 34),
        _ => signal.to_string(),
    }
}

fn left_behind(remains: &[u32]) -> String {
    if remains.is_empty() {
        String::new()
    } else {
        let pids: Vec<String> = remains.iter().map(u32::to_string).collect();
        format!(", and left behind pid {}, killed now", pids.join(", "))
    }
}
