//! What operators ask for: each request settles desired states (first phase) and notes what it waits for.

use std::collections::{BTreeMap, BTreeSet};

use proto::reply::{By, CauseKind, Outcome};

use super::cause;
use super::machine::Engine;
use super::request::{Goal, verdict};
use super::stop::SIGKILL;
use super::types::{Action, ChangeKind, Op, Refusal, RequestAnswer, RequestId, UnitAnswer};
use super::unit::{Desired, ProcessPhase, State};
use crate::graph::Ix;
use crate::ids::Scope;
use crate::spec::{OnFailed, UnitName};

impl Engine {
    pub(super) fn on_request(&mut self, id: RequestId, op: Op, by: &By) {
        if let Err(refusal) = self.take_request(id, op, by) {
            self.actions.push_back(Action::Reply {
                id,
                answer: RequestAnswer::Refused(refusal),
            });
        }
    }

    fn take_request(&mut self, id: RequestId, op: Op, by: &By) -> Result<(), Refusal> {
        match op {
            Op::Start { units } => {
                self.refuse_in_shutdown()?;
                let roots = self.resolve_defined(&units)?;
                self.refuse_held(&roots, true)?;
                self.refuse_paused(&roots)?;
                self.start(id, &roots, by)
            }
            Op::Stop { units, cascade } => {
                let roots = self.resolve(&units)?;
                self.stop(id, &roots, cascade, by)
            }
            Op::Restart {
                units,
                only_running,
                cascade,
            } => {
                self.refuse_in_shutdown()?;
                let roots = self.resolve_defined(&units)?;
                let (roots, left_alone) = if only_running {
                    roots.into_iter().partition(|ix| self.unit(*ix).state.is_active())
                } else {
                    (roots, BTreeSet::new())
                };
                self.refuse_held(&roots, false)?;
                self.refuse_paused(&roots)?;
                self.restart(id, &roots, &left_alone, cascade, by)
            }
            Op::Reload { units } => {
                self.refuse_in_shutdown()?;
                let roots = self.resolve(&units)?;
                self.reload(id, &roots, by);
                Ok(())
            }
            Op::Kill { units, signal, scope } => {
                let roots = self.resolve(&units)?;
                self.kill(id, &roots, signal, scope);
                Ok(())
            }
            Op::ResetFailed { units } => {
                let roots = self.resolve(&units)?;
                self.reset_failed(id, &roots, by);
                Ok(())
            }
            Op::Hold { units, held } => {
                let roots = self.resolve(&units)?;
                self.hold(id, &roots, &held);
                Ok(())
            }
            Op::Unhold { units } => {
                let roots = self.resolve(&units)?;
                self.unhold(id, &roots, by);
                Ok(())
            }
            Op::Adopt { unit, process } => {
                self.refuse_in_shutdown()?;
                let roots = self.resolve(&[unit])?;
                roots
                    .into_iter()
                    .try_for_each(|ix| self.adopt(id, ix, process, by))
            }
        }
    }

    fn refuse_in_shutdown(&self) -> Result<(), Refusal> {
        if self.shutdown.is_some() {
            Err(Refusal::ShuttingDown)
        } else {
            Ok(())
        }
    }

    fn resolve(&self, units: &[UnitName]) -> Result<BTreeSet<Ix>, Refusal> {
        let find = |name: &UnitName| {
            self.graph
                .find(name)
                .filter(|ix| !self.is_forgotten(self.unit(*ix)))
                .ok_or_else(|| Refusal::Unknown { unit: name.clone() })
        };
        units.iter().map(find).collect()
    }

    /// For those that are to come up: one that has lost its file only goes down.
    fn resolve_defined(&self, units: &[UnitName]) -> Result<BTreeSet<Ix>, Refusal> {
        let roots = self.resolve(units)?;
        match roots.iter().find(|ix| !self.unit(**ix).is_defined) {
            Some(ix) => Err(Refusal::Unknown {
                unit: self.graph.name(*ix).clone(),
            }),
            None => Ok(roots),
        }
    }

    fn start(&mut self, id: RequestId, roots: &BTreeSet<Ix>, by: &By) -> Result<(), Refusal> {
        let all = self.graph.closure(roots.iter().copied());
        self.refuse_conflicts(&all)?;
        let cause = cause::command(by);
        for (&ix, &pulled_in_by) in &all {
            self.want_up(ix, pulled_in_by.is_some(), &cause);
        }
        let goals = roots
            .iter()
            .map(|ix| (self.graph.name(*ix).clone(), Goal::Up { other_than: None }));
        self.requests.open(id, self.now, goals.collect::<Vec<_>>());
        self.answer_those_already(id, roots, "is running already");
        Ok(())
    }

    /// Units that were as asked before the request get their verdict at once, and with that word. Not those that are about to go
    /// down for a while, with what they require: they are up when they are up again.
    fn answer_those_already(&mut self, id: RequestId, roots: &BTreeSet<Ix>, text: &str) {
        self.think();
        for &ix in roots {
            if self.unit(ix).is_satisfied() && self.stop_reason(ix).is_none() {
                let answer = verdict(&self.unit(ix).spec.name, Outcome::Already, text);
                self.requests.decide(id, self.now, answer);
            }
        }
    }

    /// A start's first phase for one unit: wanted up, its past forgiven, no back-off waited for.
    fn want_up(&mut self, ix: Ix, is_pulled_in: bool, cause: &proto::reply::Cause) {
        let unit = self.unit_mut(ix);
        if unit.desired == Desired::Up && unit.is_satisfied() {
            return;
        }
        if unit.desired == Desired::Down || !is_pulled_in {
            unit.desired_cause = cause.clone();
        }
        unit.desired = Desired::Up;
        if is_pulled_in && unit.state == State::Completed {
            // A unit that has done its work is not run again only because another one wants it.
            self.mark_around(ix);
            return;
        }
        match unit.state {
            State::Completed | State::Backoff { .. } | State::Failed { .. } => {
                unit.restarts.reset();
                unit.attempt_failed = false;
                self.transition(ix, State::Waiting, ChangeKind::StatusChanged, cause.clone());
            }
            State::Stopped | State::Waiting => {
                unit.restarts.reset();
                unit.attempt_failed = false;
            }
            State::Starting { .. } | State::Running { .. } | State::Reloading { .. } => {}
            State::Stopping { .. } => unit.attempt_failed = false,
        }
        self.mark_around(ix);
    }

    /// Two units that may never be up together: one that would come up against one that is up or would come up.
    pub(super) fn refuse_conflicts(&self, coming: &BTreeMap<Ix, Option<Ix>>) -> Result<(), Refusal> {
        for &ix in coming.keys() {
            for &other in &self.graph.edges(ix).conflicts {
                let is_up =
                    self.unit(other).state.life().is_some() || self.unit(other).desired == Desired::Up;
                if is_up || coming.contains_key(&other) {
                    return Err(Refusal::Conflict {
                        unit: self.graph.name(ix).clone(),
                        with: self.graph.name(other).clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn stop(&mut self, id: RequestId, roots: &BTreeSet<Ix>, cascade: bool, by: &By) -> Result<(), Refusal> {
        let others = self.would_stop(roots, false);
        if !cascade && !others.is_empty() {
            return Err(Refusal::WouldStop {
                units: self.names(&others),
            });
        }
        let cause = cause::command(by);
        let mut already = Vec::new();
        for &ix in roots {
            let unit = self.unit_mut(ix);
            let is_down = unit.state.life().is_none();
            if !planted!(StopIsForgotten) {
                unit.desired = Desired::Down;
            }
            unit.restart_pending = false;
            unit.desired_cause = cause.clone();
            unit.last_stop_killed = false;
            if is_down {
                already.push(verdict(&unit.spec.name, Outcome::Already, "is stopped already"));
            }
            self.mark_around(ix);
        }
        // Those that go with them are part of the job: one that did not stop must not go unnoticed.
        let goals = roots
            .iter()
            .chain(&others)
            .map(|ix| (self.graph.name(*ix).clone(), Goal::Down));
        self.requests.open(id, self.now, goals.collect::<Vec<_>>());
        for answer in already {
            self.requests.decide(id, self.now, answer);
        }
        Ok(())
    }

    /// The units beyond `roots` that would have to stop with them: they live, require one of them (through others
    /// too), and do not keep on without it. `restart` asks the milder question of a restart.
    pub fn would_stop(&self, roots: &BTreeSet<Ix>, restart: bool) -> BTreeSet<Ix> {
        let mut going = roots.clone();
        let mut queue: Vec<Ix> = roots.iter().copied().collect();
        while let Some(ix) = queue.pop() {
            let name = self.graph.name(ix);
            for &v in &self.graph.edges(ix).required_by {
                let other = self.unit(v);
                let policy = other.spec.on_dependency(name);
                let goes = match (restart, other.state.life().is_some()) {
                    (true, lives) => lives && policy.restarted == crate::spec::OnRestarted::Restart,
                    (false, true) => policy.failed == OnFailed::Stop,
                    // Nothing of it stops, but those that require it are to lose it.
                    (false, false) => !other.is_satisfied(),
                };
                if goes && going.insert(v) {
                    queue.push(v);
                }
            }
        }
        going.retain(|ix| self.unit(*ix).state.life().is_some());
        &going - roots
    }

    fn names(&self, units: &BTreeSet<Ix>) -> Vec<UnitName> {
        units.iter().map(|ix| self.graph.name(*ix).clone()).collect()
    }

    /// `left_alone` were named and do not run: nothing is done to them, and their verdict says so.
    fn restart(
        &mut self,
        id: RequestId,
        roots: &BTreeSet<Ix>,
        left_alone: &BTreeSet<Ix>,
        cascade: bool,
        by: &By,
    ) -> Result<(), Refusal> {
        let others = self.would_stop(roots, true);
        if !cascade && !others.is_empty() {
            return Err(Refusal::WouldStop {
                units: self.names(&others),
            });
        }
        let all = self.graph.closure(roots.iter().copied());
        self.refuse_conflicts(&all)?;
        let cause = cause::command(by);
        let mut goals = Vec::new();
        for &ix in roots.iter().chain(&others) {
            let life = self.unit(ix).state.life().map(|life| life.invocation);
            goals.push((self.graph.name(ix).clone(), Goal::Up { other_than: life }));
        }
        for &ix in left_alone {
            goals.push((self.graph.name(ix).clone(), Goal::Up { other_than: None }));
        }
        for (&ix, &pulled_in_by) in &all {
            let is_root = roots.contains(&ix);
            let unit = self.unit_mut(ix);
            if is_root && unit.state.is_active() {
                unit.desired = if planted!(RestartStaysDown) {
                    Desired::Down
                } else {
                    Desired::Up
                };
                unit.desired_cause = cause.clone();
                unit.restart_pending = true;
                unit.attempt_failed = false;
                unit.restarts.reset();
                self.mark_around(ix);
            } else if is_root && unit.state == State::Completed {
                // Done already is no answer to a restart: it is to run once more.
                unit.desired = Desired::Up;
                unit.desired_cause = cause.clone();
                unit.attempt_failed = false;
                unit.restarts.reset();
                self.transition(ix, State::Waiting, ChangeKind::StatusChanged, cause.clone());
            } else {
                self.want_up(ix, pulled_in_by.is_some(), &cause);
            }
        }
        self.requests.open(id, self.now, goals);
        for &ix in left_alone {
            let text = "does not run: left alone";
            let answer = verdict(self.graph.name(ix), Outcome::Already, text);
            self.requests.decide(id, self.now, answer);
        }
        Ok(())
    }

    fn reload(&mut self, id: RequestId, roots: &BTreeSet<Ix>, by: &By) {
        let mut goals = Vec::new();
        let mut early = Vec::new();
        for &ix in roots {
            let unit = self.unit(ix);
            let name = unit.spec.name.clone();
            match &unit.state {
                State::Running { life } | State::Reloading { life, .. }
                    if life.spec.exec.reload.is_empty() =>
                {
                    let text = "its file has no [exec] reload commands";
                    early.push(verdict(&name, Outcome::Failed, text));
                    goals.push((name, Goal::Down));
                }
                State::Running { life } | State::Reloading { life, .. } => {
                    goals.push((
                        name,
                        Goal::Reloaded {
                            invocation: life.invocation,
                        },
                    ));
                }
                State::Stopped
                | State::Waiting
                | State::Starting { .. }
                | State::Stopping { .. }
                | State::Backoff { .. }
                | State::Failed { .. }
                | State::Completed => {
                    early.push(verdict(&name, Outcome::Failed, "it is not running"));
                    goals.push((name, Goal::Down));
                }
            }
        }
        self.requests.open(id, self.now, goals);
        for answer in early {
            self.requests.decide(id, self.now, answer);
        }
        let cause = cause::command(by);
        for &ix in roots {
            // One that reloads by its own word runs no command yet.
            let is_free = match &self.unit(ix).state {
                State::Running { .. } => true,
                State::Reloading { life, .. } => life.hook.is_none(),
                State::Stopped
                | State::Waiting
                | State::Starting { .. }
                | State::Stopping { .. }
                | State::Backoff { .. }
                | State::Failed { .. }
                | State::Completed => false,
            };
            if is_free && self.is_goal_open(id, ix) {
                self.begin_reload(ix, cause.clone());
            }
        }
    }

    fn is_goal_open(&self, id: RequestId, ix: Ix) -> bool {
        self.requests
            .goals_of(self.graph.name(ix))
            .iter()
            .any(|(other, _)| *other == id)
    }

    fn kill(&mut self, id: RequestId, roots: &BTreeSet<Ix>, signal: i32, scope: Scope) {
        let mut answers: Vec<UnitAnswer> = Vec::new();
        for &ix in roots {
            let unit = self.unit(ix);
            let main = unit.state.life().and_then(|life| life.main.as_ref());
            let target = main.filter(|p| match p.phase {
                ProcessPhase::Alive { .. } => true,
                ProcessPhase::Leaving => scope == Scope::All,
                ProcessPhase::Asked | ProcessPhase::Gone => false,
            });
            match target.map(|p| p.launch) {
                Some(launch) => {
                    if signal == SIGKILL {
                        self.note_kill(ix);
                    }
                    let unit = self.unit(ix);
                    let answer = verdict(&unit.spec.name, Outcome::Done, "sent");
                    self.actions.push_back(Action::Signal {
                        launch,
                        signal,
                        scope,
                    });
                    answers.push(answer);
                }
                None => answers.push(verdict(&unit.spec.name, Outcome::Failed, "it has no process")),
            }
        }
        self.actions.push_back(Action::Reply {
            id,
            answer: RequestAnswer::Done(answers),
        });
    }

    fn reset_failed(&mut self, id: RequestId, roots: &BTreeSet<Ix>, by: &By) {
        self.reset_gates(roots, by);
        let mut answers = Vec::new();
        for &ix in roots {
            let unit = self.unit_mut(ix);
            if !planted!(ResetIsNothing) {
                unit.restarts.reset();
            }
            unit.attempt_failed = false;
            let was_failed = matches!(unit.state, State::Failed { .. });
            let was_waiting = unit.state == State::Waiting;
            let name = unit.spec.name.clone();
            if was_failed {
                // As in systemd it is then down, not tried again: that is what `start` is for.
                unit.desired = Desired::Down;
                unit.desired_cause = cause::command(by);
                unit.last_error = None;
                let cause = self.own_cause(ix, CauseKind::Command, "reset-failed");
                let cause = proto::reply::Cause {
                    by: Some(by.clone()),
                    ..cause
                };
                self.transition(ix, State::Stopped, ChangeKind::StatusChanged, cause);
                answers.push(verdict(&name, Outcome::Done, "reset"));
            } else {
                if was_waiting {
                    // It may have been its past that held it back.
                    self.mark(ix);
                }
                answers.push(verdict(
                    &name,
                    Outcome::Already,
                    "had not failed; its counters are reset",
                ));
            }
        }
        self.actions.push_back(Action::Reply {
            id,
            answer: RequestAnswer::Done(answers),
        });
    }
}
