//! The second phase: dirty units are looked at in start order (those that failed an attempt last), desired is compared
//! with actual, and what may start or stop now does. And the verdicts for those who wait.

use std::sync::Arc;

use proto::reply::{Cause, CauseKind, Outcome};

use super::cause;
use super::hold::hold_text;
use super::machine::{Engine, Trigger};
use super::order::{Blocker, StopReason};
use super::request::{Goal, verdict};
use super::types::{Action, ChangeKind, RequestAnswer, UnitAnswer};
use super::unit::{Desired, End, State};
use crate::graph::Ix;
use crate::ids::Invocation;
use crate::spec::UnitSpec;

impl Engine {
    /// Works off the dirty units. Each look either leaves a unit as it is or moves it on its way, and only a move
    /// marks others, so the queue empties.
    ///
    /// What units think of those that they require is settled before any of them is looked at, in start order, so that it holds
    /// for chains; looks have another order (`turn`), and one that acts on what another one has not thought of yet stops in
    /// the wrong order, or for the wrong reason.
    pub(super) fn act(&mut self) {
        loop {
            self.think();
            let Some((&(rank, ix), &trigger)) = self.dirty.first_key_value() else {
                return;
            };
            self.dirty.remove(&(rank, ix));
            self.look_at(ix, trigger);
        }
    }

    /// Settles what units think of those that they require: of all that may have changed, and whoever thinks of them.
    pub(super) fn think(&mut self) {
        while let Some((_, ix)) = self.unsettled.pop_first() {
            let (is_held_down, is_taken_along) = (self.must_be_held_down(ix), self.must_be_taken_along(ix));
            let unit = self.unit(ix);
            if (unit.is_held_down, unit.is_taken_along) != (is_held_down, is_taken_along) {
                // Not stored: both follow from the other units.
                let unit = &mut self.units[ix.0 as usize];
                (unit.is_held_down, unit.is_taken_along) = (is_held_down, is_taken_along);
                self.mark_around(ix);
                self.unsettled.remove(&(self.graph.rank(ix), ix));
            }
        }
    }

    fn look_at(&mut self, ix: Ix, trigger: Option<Trigger>) {
        let unit = self.unit(ix);
        let desired = unit.desired;
        match &unit.state {
            State::Stopped | State::Completed => {
                if desired == Desired::Up && unit.state == State::Stopped {
                    let cause = unit.desired_cause.clone();
                    self.transition(ix, State::Waiting, ChangeKind::StatusChanged, cause);
                } else {
                    self.judge(ix);
                }
            }
            State::Waiting => match desired {
                Desired::Up => self.try_start(ix, trigger),
                Desired::Down => self.settle_down(ix),
            },
            State::Backoff { .. } | State::Failed { .. } => match desired {
                Desired::Up => self.judge(ix),
                Desired::Down => self.settle_down(ix),
            },
            State::Starting { .. } | State::Running { .. } | State::Reloading { .. } => {
                self.try_stop(ix);
                self.judge(ix);
            }
            State::Stopping { .. } => self.judge(ix),
        }
    }

    /// A unit without a life is wanted down: so be it.
    fn settle_down(&mut self, ix: Ix) {
        let cause = self.unit(ix).desired_cause.clone();
        let unit = self.unit_mut(ix);
        unit.attempt_failed = false;
        unit.restarts.take_due();
        self.transition(ix, State::Stopped, ChangeKind::Stopped, cause);
        self.judge(ix);
    }

    fn try_start(&mut self, ix: Ix, trigger: Option<Trigger>) {
        let mut blockers = self.blockers(ix);
        if blockers.is_empty() && self.unit(ix).restarts.is_due() && !self.admit_restart(ix) {
            blockers = self.blockers(ix);
        }
        if blockers.is_empty() {
            let cause = self.start_cause(ix, trigger);
            self.begin_start(ix, cause);
            return;
        }
        if matches!(blockers.as_slice(), [Blocker::Limit(_)]) {
            self.held_back.insert(ix);
        }
        // It cannot come up for now: those that merely come after it go ahead, and whoever waits for it is told.
        let is_shut = matches!(blockers.first(), Some(Blocker::Breaker(_)));
        let is_dead = is_shut || self.unit(ix).hold.is_some() || self.dead_requirement(ix).is_some();
        if is_dead && !self.unit(ix).attempt_failed {
            self.unit_mut(ix).attempt_failed = true;
            self.mark_around(ix);
        }
        self.judge(ix);
    }

    fn start_cause(&self, ix: Ix, trigger: Option<Trigger>) -> Cause {
        match trigger {
            Some(Trigger { seq, unit }) if unit != ix && self.unit(unit).is_satisfied() => {
                let name = &self.unit(unit).spec.name;
                cause::dependency(name, seq, format!("{name} is ready"))
            }
            // Nobody asked for it again: it was its own failure, and the time since then.
            Some(_) | None if self.unit(ix).attempt_failed => {
                self.own_cause(ix, CauseKind::Timer, "is tried again")
            }
            Some(_) | None => self.unit(ix).desired_cause.clone(),
        }
    }

    fn try_stop(&mut self, ix: Ix) {
        let Some(reason) = self.stop_reason(ix) else {
            return;
        };
        if !self.stop_blockers(ix).is_empty() {
            return;
        }
        self.stop_for(ix, reason);
    }

    /// Stops an active unit for this reason, whoever else there is.
    pub(super) fn stop_for(&mut self, ix: Ix, reason: StopReason) {
        if reason.stay {
            let unit = self.unit_mut(ix);
            unit.desired = Desired::Down;
            unit.desired_cause = reason.cause.clone();
        }
        self.begin_stop(ix, End::Wanted, ChangeKind::StatusChanged, reason.cause);
    }

    /// Gives every verdict on a unit that is due now.
    pub(super) fn judge(&mut self, ix: Ix) {
        let name = self.unit(ix).spec.name.clone();
        for (id, goal) in self.requests.goals_of(&name) {
            let answer = match goal {
                Goal::Up { other_than } => self.judge_up(ix, other_than),
                Goal::Down => self.judge_down(ix),
                Goal::Reloaded { invocation } => self.judge_reload(ix, invocation),
            };
            if let Some(answer) = answer {
                self.requests.decide(id, self.now, answer);
            }
        }
    }

    fn judge_up(&self, ix: Ix, other_than: Option<Invocation>) -> Option<UnitAnswer> {
        let unit = self.unit(ix);
        let name = &unit.spec.name;
        if unit.desired == Desired::Down {
            let text = format!("a later request wants it down: {}", unit.desired_cause.text);
            let outcome = match unit.desired_cause.kind {
                CauseKind::Dependency => Outcome::Failed,
                CauseKind::Command
                | CauseKind::Exit
                | CauseKind::Signal
                | CauseKind::Probe
                | CauseKind::Timer
                | CauseKind::Config
                | CauseKind::Boot
                | CauseKind::Recovery
                | CauseKind::Log => Outcome::Superseded,
            };
            return Some(verdict(name, outcome, text));
        }
        let life = unit.state.life().map(|life| life.invocation);
        if other_than.is_some() && life == other_than {
            return None;
        }
        let is_to_stop = unit.is_satisfied() && self.stop_reason(ix).is_some();
        if is_to_stop && !planted!(StartedTooSoon) {
            return None;
        }
        if unit.is_satisfied() || unit.state == State::Completed || planted!(StartedTooSoon) {
            let text = if unit.state == State::Completed {
                "completed"
            } else {
                "running"
            };
            return Some(verdict(name, Outcome::Done, text));
        }
        if let Some(held) = &unit.hold
            && unit.state.life().is_none()
        {
            let text = format!("is {}", hold_text(&held.hold));
            return Some(verdict(name, Outcome::Failed, text));
        }
        let has_ended = !matches!(unit.state, State::Starting { .. } | State::Stopping { .. });
        if !(unit.attempt_failed && has_ended) {
            return None;
        }
        let text = match (&unit.state, self.dead_requirement(ix)) {
            (State::Waiting, Some(d)) => {
                let why = self.blocker_text(&Blocker::Requirement(d));
                let name = &self.unit(d).spec.name;
                format!("waits for {name}, which {why}; it starts by itself when that is ready")
            }
            (State::Waiting, None) if !self.shut_gates(ix).is_empty() => {
                format!(
                    "waits: {}; it starts by itself when that closes",
                    self.gates_text(ix)
                )
            }
            (_, _) => unit
                .last_error
                .clone()
                .unwrap_or_else(|| "the attempt failed".to_owned()),
        };
        let next_try = self
            .next_try(ix)
            .or_else(|| self.dead_requirement(ix).and_then(|d| self.next_try(d)));
        Some(UnitAnswer {
            next_try,
            ..verdict(name, Outcome::Failed, text)
        })
    }

    fn judge_down(&self, ix: Ix) -> Option<UnitAnswer> {
        let unit = self.unit(ix);
        let name = &unit.spec.name;
        match &unit.state {
            State::Stopping { killed, .. } if !unit.remains.is_empty() => {
                let text = "some of its processes do not go, not even by SIGKILL";
                let answer = verdict(name, Outcome::Failed, text);
                Some(UnitAnswer {
                    killed: *killed,
                    remains: unit.remains.clone(),
                    ..answer
                })
            }
            State::Starting { .. } | State::Running { .. } | State::Reloading { .. } => {
                self.stop_reason(ix).is_none().then(|| {
                    let text = format!("a later request wants it up: {}", unit.desired_cause.text);
                    verdict(name, Outcome::Superseded, text)
                })
            }
            State::Stopping { .. } if !planted!(StoppedTooSoon) => None,
            State::Stopping { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => Some(UnitAnswer {
                killed: unit.last_stop_killed,
                ..verdict(
                    name,
                    Outcome::Done,
                    if unit.last_stop_killed {
                        "killed"
                    } else {
                        "stopped"
                    },
                )
            }),
        }
    }

    fn judge_reload(&self, ix: Ix, invocation: Invocation) -> Option<UnitAnswer> {
        let unit = self.unit(ix);
        let name = &unit.spec.name;
        match &unit.state {
            State::Reloading { .. } => None,
            State::Running { life } if life.invocation == invocation => Some(match &unit.reload_error {
                None => verdict(name, Outcome::Done, "reloaded"),
                Some(error) => verdict(name, Outcome::Failed, error.clone()),
            }),
            State::Running { .. }
            | State::Starting { .. }
            | State::Stopping { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => Some(verdict(name, Outcome::Failed, "it ended while it was reloading")),
        }
    }

    /// Says the answers that are complete.
    pub(super) fn answer(&mut self) {
        while let Some((id, answers)) = self.requests.take_done() {
            if planted!(NoAnswer) {
                continue;
            }
            if planted!(TwoAnswers) {
                let answer = RequestAnswer::Done(answers.clone());
                self.actions.push_back(Action::Reply { id, answer });
            }
            self.actions.push_back(Action::Reply {
                id,
                answer: RequestAnswer::Done(answers),
            });
        }
    }

    /// The first step of a start.
    fn begin_start(&mut self, ix: Ix, cause: Cause) {
        let (invocation, spec) = self.new_life(ix);
        self.open_life(ix, invocation, spec, cause);
    }

    /// The serial and the definition of a new life.
    pub(super) fn new_life(&mut self, ix: Ix) -> (Invocation, Arc<UnitSpec>) {
        let invocation = Invocation(self.next_invocation);
        self.next_invocation += 1;
        self.lives.insert(invocation, ix);
        let unit = self.unit_mut(ix);
        unit.last_invocation = Some(invocation);
        unit.restarts.take_due();
        unit.restart_pending = false;
        unit.remains.clear();
        unit.note = None;
        (invocation, Arc::clone(&unit.spec))
    }
}
