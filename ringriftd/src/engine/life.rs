//! A life's way up, its reloads, and what its deadlines mean. The way down is `stop`; the news of its processes come in
//! through `news`.
//!
//! Each step is a function that ends by asking the keeper for something or by going on to the next step.

use std::sync::Arc;

use proto::reply::{Cause, CauseKind};

use super::machine::Engine;
use super::types::{Action, ChangeKind, Mono, Role};
use super::unit::{End, Life, Process, StartPhase, State};
use super::words::within;
use crate::graph::Ix;
use crate::ids::{Invocation, LaunchId};
use crate::spec::{Kind, UnitSpec};

impl Engine {
    /// A new life begins: its first hook, or its main process.
    pub(super) fn open_life(&mut self, ix: Ix, invocation: Invocation, spec: Arc<UnitSpec>, cause: Cause) {
        let life = Life::new(invocation, spec, cause.kind);
        let state = State::Starting {
            life: Box::new(life),
            phase: StartPhase::Pre(0),
            deadline: Mono(u64::MAX),
        };
        self.transition(ix, state, ChangeKind::StatusChanged, cause);
        self.continue_pre(ix, 0);
    }

    /// `start_pre[index]`, or what follows the last of them.
    pub(super) fn continue_pre(&mut self, ix: Ix, index: u16) {
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

    pub(super) fn launch_main(&mut self, ix: Ix) {
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
        let deadline = if planted!(StartHasNoTime) {
            Mono(u64::MAX)
        } else {
            now.after(spec.ready_timeout)
        };
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
    pub(super) fn become_ready(&mut self, ix: Ix, cause: Cause) {
        let now = self.now;
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        life.ready = Some(now);
        self.continue_post(ix, 0, cause);
    }

    pub(super) fn continue_post(&mut self, ix: Ix, index: u16, cause: Cause) {
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
        self.begin_watch(ix);
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
        } else if life.word.reloading.is_some() {
            self.await_own_reload(ix);
        } else {
            self.end_reload(ix, CauseKind::Exit, "reloaded".to_owned());
        }
    }

    /// A running unit said that it reloads.
    pub(super) fn begin_own_reload(&mut self, ix: Ix, cause: Cause) {
        self.unit_mut(ix).reload_error = None;
        let Some(life) = self.take_life(ix) else { return };
        let state = State::Reloading {
            life,
            index: 0,
            deadline: Mono(u64::MAX),
        };
        self.transition(ix, state, ChangeKind::StatusChanged, cause);
        self.await_own_reload(ix);
    }

    /// No reload command is left, and the unit has still to say that it is ready again.
    fn await_own_reload(&mut self, ix: Ix) {
        let now = self.now;
        if let State::Reloading { life, deadline, .. } = &mut self.unit_mut(ix).state {
            *deadline = now.after(life.spec.ready_timeout);
        }
        self.rearm(ix);
    }

    pub(super) fn end_reload(&mut self, ix: Ix, kind: CauseKind, text: String) {
        let cause = self.own_cause(ix, kind, text);
        let Some(mut life) = self.take_life(ix) else {
            return;
        };
        life.word.reloading = None;
        self.transition(ix, State::Running { life }, ChangeKind::StatusChanged, cause);
    }

    pub(super) fn on_reload_hook_end(&mut self, ix: Ix, index: u16, result: Result<(), String>) {
        match result {
            Ok(()) => self.continue_reload(ix, index + 1),
            Err(text) => {
                let text = self.unit_mut(ix).reload_error.get_or_insert(text).clone();
                self.end_reload(ix, CauseKind::Exit, text);
            }
        }
    }

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
                    StartPhase::Probing => {
                        let within = within(life.spec.ready_timeout);
                        match &life.watch.probes.text {
                            Some(why) => {
                                format!("was not ready {within} ([ready] timeout); its probe: {why}")
                            }
                            None => {
                                format!("was not ready {within} ([ready] timeout); its probe had no answer")
                            }
                        }
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
            State::Reloading { life, .. } if life.hook.is_none() => {
                // As systemd has it: the unit goes on.
                let text = format!(
                    "it did not say that it is ready again {} ([ready] timeout)",
                    within(life.spec.ready_timeout)
                );
                self.unit_mut(ix).reload_error = Some(text.clone());
                self.end_reload(ix, CauseKind::Timer, text);
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
