//! A life's way down: the one way out for every life, whatever ends it.
//!
//! [`Engine::advance_stop`] looks at where the stop stands and at which processes are left, and takes the next step;
//! it is called after every piece of news, so that no step needs to know which news will come.

use proto::reply::{Cause, CauseKind, Exit};

use super::capsule;
use super::machine::Engine;
use super::restart::{Ending, GaveUp, Next, mix, name_hash};
use super::types::{Action, ChangeKind, Role};
use super::unit::{Desired, End, Life, ProcessPhase, State, StopPhase};
use super::watch::well_until;
use super::words::{describe, duration_text};
use crate::graph::Ix;
use crate::ids::Scope;

/// signal(7): the same number on every machine.
pub(super) const SIGKILL: i32 = 9;
/// SIGABRT (signal(7)): the same number on every architecture of Linux.
const SIGABRT: i32 = 6;

impl Engine {
    /// An active life ends. The first reason stays.
    pub(super) fn begin_stop(&mut self, ix: Ix, end: End, kind: ChangeKind, cause: Cause) {
        let failing = capsule::kind_of(&self.unit(ix).state, &end, &cause);
        let text = cause.text.clone();
        self.end_watch(ix);
        let Some(life) = self.take_life(ix) else { return };
        self.unit_mut(ix).last_stop_killed = false;
        let state = State::Stopping {
            life,
            phase: StopPhase::ClearHook,
            deadline: None,
            end,
            killed: false,
        };
        self.transition(ix, state, kind, cause);
        self.note_failing(ix, failing, text);
        self.advance_stop(ix);
    }

    /// Takes every step that can be taken now.
    pub(super) fn advance_stop(&mut self, ix: Ix) {
        while self.step_stop(ix) {}
        self.rearm(ix);
    }

    /// One step; false when there is something to wait for, or the life is over.
    fn step_stop(&mut self, ix: Ix) -> bool {
        let is_killing = self.shutdown.as_ref().is_some_and(|s| s.killing);
        let State::Stopping { life, phase, end, .. } = &self.unit(ix).state else {
            return false;
        };
        let main = life.main.as_ref().map(|p| p.phase);
        let hook = life.hook.as_ref().map(|p| p.phase);
        match *phase {
            StopPhase::ClearHook if life.probe.is_some() => {
                self.destroy_probe(ix);
                self.destroy_hook(ix);
                false
            }
            StopPhase::ClearHook => match hook {
                // One that the keeper has not answered yet is killed when it has.
                Some(_) => {
                    self.destroy_hook(ix);
                    false
                }
                None => {
                    // A unit that never was ready has nothing that its stop_pre could close.
                    let has_pre = *end == End::Wanted && life.ready.is_some() && life.main_is_there();
                    if has_pre && !is_killing && !life.spec.exec.stop_pre.is_empty() {
                        self.run_stop_hook(ix, Role::StopPre(0));
                        false
                    } else {
                        self.after_stop_pre(ix)
                    }
                }
            },
            StopPhase::Pre(n) => match hook {
                Some(_) => false,
                None => {
                    let more = usize::from(n) + 1 < life.spec.exec.stop_pre.len();
                    if more && life.main_is_there() && !is_killing {
                        self.run_stop_hook(ix, Role::StopPre(n + 1));
                        false
                    } else {
                        self.after_stop_pre(ix)
                    }
                }
            },
            StopPhase::AwaitMain => match main {
                Some(ProcessPhase::Asked) => false,
                Some(ProcessPhase::Alive { .. } | ProcessPhase::Leaving | ProcessPhase::Gone) | None => {
                    self.after_stop_pre(ix)
                }
            },
            StopPhase::Abort | StopPhase::Signal(_) | StopPhase::Kill => match main {
                Some(ProcessPhase::Gone) | None => self.after_main(ix),
                // It ended by itself, as it had said.
                Some(ProcessPhase::Leaving) if life.word.is_ending && *end != End::Wanted => {
                    if let Some(life) = self.unit_mut(ix).state.life_mut() {
                        life.word.is_ending = false;
                    }
                    self.send_kill(ix);
                    false
                }
                Some(ProcessPhase::Asked | ProcessPhase::Alive { .. } | ProcessPhase::Leaving) => false,
            },
            StopPhase::Post(n) => match hook {
                Some(_) => false,
                None => {
                    let more = usize::from(n) + 1 < life.spec.exec.stop_post.len();
                    if more && !is_killing {
                        self.run_stop_hook(ix, Role::StopPost(n + 1));
                    } else {
                        self.finish(ix);
                    }
                    false
                }
            },
        }
    }

    /// SIGKILL to all of the hook that runs, once, and not before the keeper has answered its launch. True when it was
    /// or had been asked for.
    pub(super) fn destroy_hook(&mut self, ix: Ix) -> bool {
        let Some(hook) = self
            .unit_mut(ix)
            .state
            .life_mut()
            .and_then(|life| life.hook.as_mut())
        else {
            return false;
        };
        if hook.phase == ProcessPhase::Asked {
            return false;
        }
        let launch = hook.launch;
        if !std::mem::replace(&mut hook.is_killed, true) {
            self.actions.push_back(Action::Destroy { launch });
        }
        true
    }

    fn run_stop_hook(&mut self, ix: Ix, role: Role) {
        let at = self.launch_hook(ix, role);
        let phase = match role {
            Role::StopPre(n) => StopPhase::Pre(n),
            Role::StopPost(n) => StopPhase::Post(n),
            Role::Main
            | Role::StartPre(_)
            | Role::StartPost(_)
            | Role::Reload(_)
            | Role::ReadyProbe
            | Role::Probe => return,
        };
        self.set_stop_phase(ix, phase, Some(at));
    }

    /// The hooks are out of the way: signals, if there is anything to signal. True when the next step can be taken.
    fn after_stop_pre(&mut self, ix: Ix) -> bool {
        let State::Stopping { life, end, .. } = &self.unit(ix).state else {
            return false;
        };
        let Some(main) = &life.main else {
            return self.after_main(ix);
        };
        let launch = main.launch;
        match main.phase {
            ProcessPhase::Gone => self.after_main(ix),
            ProcessPhase::Asked if !planted!(SignalUnanswered) => {
                self.set_stop_phase(ix, StopPhase::AwaitMain, None);
                false
            }
            // What a main process left behind when it died by itself gets no ladder.
            ProcessPhase::Leaving if *end != End::Wanted => {
                self.send_kill(ix);
                false
            }
            ProcessPhase::Asked | ProcessPhase::Alive { .. } | ProcessPhase::Leaving => {
                if self.shutdown.as_ref().is_some_and(|s| s.killing) || planted!(KillAtOnce) {
                    self.send_kill(ix);
                    return false;
                }
                if life.word.is_ending {
                    let at = self.now.after(life.spec.stop.timeout);
                    self.set_stop_phase(ix, StopPhase::Signal(0), Some(at));
                    return false;
                }
                if matches!(end, End::Hung(_)) {
                    self.send_abort(ix, launch);
                } else {
                    self.send_rung(ix, launch, 0);
                }
                false
            }
        }
    }

    /// What hangs is asked to die where it hangs (systemd's WatchdogSignal), with the time of a rung; then the ladder.
    fn send_abort(&mut self, ix: Ix, launch: crate::ids::LaunchId) {
        let now = self.now;
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        let at = now.after(life.spec.stop.timeout);
        self.actions.push_back(Action::Signal {
            launch,
            signal: SIGABRT,
            scope: Scope::Main,
        });
        self.set_stop_phase(ix, StopPhase::Abort, Some(at));
    }

    fn send_rung(&mut self, ix: Ix, launch: crate::ids::LaunchId, rung: usize) {
        let now = self.now;
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        let at = now.after(life.spec.stop.timeout);
        let Some(&signal) = life.spec.stop.signals.get(rung) else {
            return;
        };
        if signal == SIGKILL {
            self.note_kill(ix);
        }
        self.actions.push_back(Action::Signal {
            launch,
            signal,
            scope: Scope::All,
        });
        let at = (!planted!(StopHasNoTime)).then_some(at);
        self.set_stop_phase(ix, StopPhase::Signal(rung), at);
    }

    /// SIGKILL to all that the main launch left.
    fn send_kill(&mut self, ix: Ix) {
        let is_wanted = matches!(&self.unit(ix).state, State::Stopping { end, .. } if *end != End::Exited);
        self.note_kill(ix);
        if let State::Stopping {
            life,
            phase,
            deadline,
            killed,
            ..
        } = &mut self.unit_mut(ix).state
        {
            *phase = StopPhase::Kill;
            *deadline = None;
            *killed = is_wanted;
            if let Some(main) = &mut life.main {
                let launch = main.launch;
                main.is_killed = true;
                self.actions.push_back(Action::Destroy { launch });
            }
        }
        self.rearm(ix);
    }

    /// Nothing of the main launch is left: `stop_post`, then the end. True when the next step can be taken.
    fn after_main(&mut self, ix: Ix) -> bool {
        let is_killing = self.shutdown.as_ref().is_some_and(|s| s.killing);
        let Some(life) = self.unit(ix).state.life() else {
            return false;
        };
        if life.spec.exec.stop_post.is_empty() || is_killing {
            self.finish(ix);
        } else {
            self.run_stop_hook(ix, Role::StopPost(0));
        }
        false
    }

    fn set_stop_phase(&mut self, ix: Ix, new_phase: StopPhase, new_deadline: Option<super::types::Mono>) {
        if let State::Stopping { phase, deadline, .. } = &mut self.unit_mut(ix).state {
            *phase = new_phase;
            *deadline = new_deadline;
        }
        self.rearm(ix);
    }

    pub(super) fn on_stop_hook_end(&mut self, ix: Ix, role: Role, result: Result<(), String>) {
        // A stop hook that fails does not stop the stop; it is told.
        if let (Role::StopPre(_) | Role::StopPost(_), Err(text)) = (role, result) {
            let word = self.unit(ix).word;
            let cause = self.own_cause(ix, CauseKind::Exit, format!("{text}; the stop goes on"));
            self.emit(ix, ChangeKind::StatusChanged, word, word, cause);
        }
        self.advance_stop(ix);
    }

    pub(super) fn on_stop_deadline(&mut self, ix: Ix) {
        let State::Stopping {
            life,
            phase,
            deadline,
            ..
        } = &mut self.unit_mut(ix).state
        else {
            return;
        };
        *deadline = None;
        let phase = *phase;
        let main = life.main.as_ref().map(|p| p.launch);
        let has_hook = life.hook.is_some();
        let was_ending = std::mem::take(&mut life.word.is_ending);
        let rungs = life.spec.stop.signals.len();
        let timeout = life.spec.exec.hook_timeout;
        match phase {
            StopPhase::Pre(_) | StopPhase::Post(_) if has_hook => {
                if self.destroy_hook(ix) {
                    let word = self.unit(ix).word;
                    let text = format!(
                        "a stop hook was not through within {}: killed",
                        duration_text(timeout)
                    );
                    let cause = self.own_cause(ix, CauseKind::Timer, text);
                    self.emit(ix, ChangeKind::StatusChanged, word, word, cause);
                } else {
                    let at = self.now.after(crate::limits::PREPARE_TIMEOUT);
                    self.set_stop_phase(ix, phase, Some(at));
                }
            }
            StopPhase::Pre(_) | StopPhase::Post(_) => self.advance_stop(ix),
            StopPhase::Abort => match main {
                Some(launch) => self.send_rung(ix, launch, 0),
                None => self.send_kill(ix),
            },
            StopPhase::Signal(_) if was_ending && main.is_some() => {
                let word = self.unit(ix).word;
                let text = "it said that it is stopping, and did not: it is told to";
                let cause = self.own_cause(ix, CauseKind::Timer, text);
                self.emit(ix, ChangeKind::StatusChanged, word, word, cause);
                if let Some(launch) = main {
                    self.send_rung(ix, launch, 0);
                }
            }
            StopPhase::Signal(rung) => match main {
                Some(launch) if rung + 1 < rungs => self.send_rung(ix, launch, rung + 1),
                Some(_) | None => self.send_kill(ix),
            },
            StopPhase::ClearHook | StopPhase::AwaitMain | StopPhase::Kill => {}
        }
    }

    /// The shutdown's time is up: everything left is killed, whatever it was doing.
    pub(super) fn kill_everything(&mut self) {
        let alive: Vec<Ix> = self.lives.values().copied().collect();
        for ix in alive {
            if self.unit(ix).state.is_active() {
                let text = "the shutdown's time is up";
                let cause = self.own_cause(ix, CauseKind::Timer, text);
                self.begin_stop(ix, End::Wanted, ChangeKind::StatusChanged, cause);
            }
            self.destroy_hook(ix);
            self.destroy_probe(ix);
            if self.unit(ix).state.life().is_some_and(Life::main_is_there) {
                // Clearing hooks first would only waste time now.
                self.send_kill(ix);
            }
        }
    }

    /// Nothing of the life is left. What comes next depends on why it ended and on what is wanted now.
    fn finish(&mut self, ix: Ix) {
        let (end, killed) = match &self.unit(ix).state {
            State::Stopping { end, killed, .. } => (end.clone(), *killed),
            State::Stopped
            | State::Waiting
            | State::Starting { .. }
            | State::Running { .. }
            | State::Reloading { .. }
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => return,
        };
        let Some(life) = self.take_life(ix) else { return };
        self.lives.remove(&life.invocation);
        let now = self.now;
        let unit = self.unit_mut(ix);
        unit.remains.clear();
        unit.last_stop_killed = killed;
        // A life that was ended for its health counts until it was last known to be well.
        let (ready, well) = match &end {
            End::Unhealthy(_) | End::Hung(_) => match well_until(&life, &end) {
                Some(until) => (life.ready, until),
                None => (None, now),
            },
            End::Wanted | End::Exited | End::AttemptFailed(_) | End::HostFailed(_) => (life.ready, now),
        };
        unit.restarts.on_life_end(&life.spec.restart, ready, well);
        let is_up = unit.desired == Desired::Up;
        unit.restart_pending = false;
        self.tell_worked(ix, &life);
        if end == End::Wanted || !is_up {
            // A start that failed was told as a failure, though it is not wanted any more.
            let has_failed = matches!(end, End::AttemptFailed(_));
            if has_failed || capsule::is_failure(&life) {
                self.tell_failure(ix, &life);
            }
            self.end_as_wanted(ix, &life, is_up, killed);
        } else {
            self.end_by_itself(ix, &life, &end);
        }
        self.judge(ix);
    }

    fn end_as_wanted(&mut self, ix: Ix, life: &Life, is_up: bool, killed: bool) {
        let how = match life.exit {
            Some(exit) => describe(exit),
            None => "never launched".to_owned(),
        };
        let how = if killed {
            format!("{how}; SIGKILL was needed")
        } else {
            how
        };
        let cause = self.own_cause(ix, CauseKind::Exit, how);
        if is_up {
            self.transition(ix, State::Waiting, ChangeKind::Restarting, cause);
        } else {
            self.unit_mut(ix).attempt_failed = false;
            self.transition(ix, State::Stopped, ChangeKind::Stopped, cause);
        }
    }

    fn end_by_itself(&mut self, ix: Ix, life: &Life, end: &End) {
        let now = self.now;
        let (ending, error) = match end {
            End::Exited | End::Wanted => {
                let exit = life.exit.unwrap_or(Exit::Unknown);
                (Ending::Exit(exit), describe(exit))
            }
            End::AttemptFailed(text) => (Ending::Attempt(life.exit), text.clone()),
            End::HostFailed(text) => (Ending::Host, text.clone()),
            End::Unhealthy(text) | End::Hung(text) => (Ending::Unhealthy, text.clone()),
        };
        let salt = mix(self.seed ^ name_hash(life.spec.name.as_str()));
        let unit = self.unit_mut(ix);
        // The next attempt follows the definition as it is now, with the limits that are now in force.
        let spec = std::sync::Arc::clone(&unit.spec);
        let next = unit
            .restarts
            .decide(&spec.restart, spec.exec.kind, ending, now, salt);
        if next != Next::Completed {
            self.tell_failure(ix, life);
        }
        match next {
            Next::Completed => {
                let unit = self.unit_mut(ix);
                unit.attempt_failed = false;
                unit.last_error = None;
                let cause = self.own_cause(ix, CauseKind::Exit, error);
                self.transition(ix, State::Completed, ChangeKind::Stopped, cause);
                self.end_if_essential(ix, life);
            }
            Next::Backoff { until } => {
                self.unit_mut(ix).attempt_failed = true;
                self.unit_mut(ix).last_error = Some(self.unit(ix).last_error.clone().unwrap_or(error));
                let wait = duration_text(until.since(now));
                let cause = self.own_cause(ix, CauseKind::Timer, format!("is tried again in {wait}"));
                self.transition(ix, State::Backoff { until }, ChangeKind::Restarting, cause);
            }
            Next::Failed { next_try, why } => {
                let (kind, why) = match why {
                    GaveUp::Limit => (
                        ChangeKind::CrashLoop,
                        format!(
                            "restart limit ({} within {})",
                            spec.restart.max_restarts.unwrap_or(0),
                            duration_text(spec.restart.window)
                        ),
                    ),
                    GaveUp::Policy => (
                        ChangeKind::PermanentlyFailed,
                        "never restarted (policy = \"never\")".to_owned(),
                    ),
                    GaveUp::PermanentCode(code) => (
                        ChangeKind::PermanentlyFailed,
                        format!("permanent exit code {code}"),
                    ),
                };
                let kind = if next_try.is_none() {
                    ChangeKind::PermanentlyFailed
                } else {
                    kind
                };
                // The verdict first: a narrow terminal cuts the end.
                let error = format!("{why}: {}", self.unit(ix).last_error.clone().unwrap_or(error));
                let unit = self.unit_mut(ix);
                unit.attempt_failed = true;
                unit.last_error = Some(error.clone());
                let cause = self.own_cause(ix, CauseKind::Exit, error);
                self.transition(ix, State::Failed { next_try }, kind, cause);
                if next_try.is_none() {
                    self.end_if_essential(ix, life);
                }
            }
        }
    }

    /// An essential unit has ended for good: the rest follows, and the daemon ends with its code (128 and the
    /// signal's number for a signal, as a shell says it).
    fn end_if_essential(&mut self, ix: Ix, life: &Life) {
        if !life.spec.essential {
            return;
        }
        let code = match life.exit {
            Some(Exit::Code(code)) => u8::try_from(code & 0xff).unwrap_or(1),
            Some(Exit::Signal { signal, .. }) => u8::try_from(128 + signal).unwrap_or(1),
            Some(Exit::Unknown) | None => 1,
        };
        let text = format!("{}, which is essential, has ended for good", life.spec.name);
        let cause = self.own_cause(ix, CauseKind::Exit, text);
        self.on_shutdown(cause, code);
    }
}
