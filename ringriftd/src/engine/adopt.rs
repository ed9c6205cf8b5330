//! Taking a process that runs outside as a unit's own, without a restart.
//!
//! The unit must be down and free to start. It then has a life whose main process the keeper is asked to take instead of to
//! launch. Taken, it is running at once: that it is ready is taken as given, and no hook runs. Not taken, the unit is wanted down:
//! started instead, it might run twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::reply::{By, CauseKind, Outcome};

use super::cause;
use super::hold::hold_text;
use super::machine::Engine;
use super::request::{Goal, verdict};
use super::types::{Action, ChangeKind, Mono, Refusal, RequestId, Role};
use super::unit::{Desired, Foreign, Life, Process, StartPhase, State};
use crate::graph::Ix;
use crate::ids::{Invocation, LaunchId};
use crate::spec::Kind;

/// What an operator should know of an adopted process.
const NOTE: &str = "adopted: its output and exit code cannot be had";

impl Engine {
    pub(super) fn adopt(&mut self, id: RequestId, ix: Ix, foreign: Foreign, by: &By) -> Result<(), Refusal> {
        self.refuse_held(&BTreeSet::from([ix]), false)?;
        if let Some(why) = self.why_not_adopted(ix) {
            return Err(Refusal::NotAdopted {
                unit: self.graph.name(ix).clone(),
                why,
            });
        }
        self.refuse_conflicts(&BTreeMap::from([(ix, None)]))?;
        let cause = cause::command(by);
        let unit = self.unit_mut(ix);
        unit.desired = Desired::Up;
        unit.desired_cause = cause.clone();
        unit.restarts.reset();
        unit.attempt_failed = false;
        let goal = Goal::Up { other_than: None };
        let name = unit.spec.name.clone();
        self.requests.open(id, self.now, [(name, goal)]);
        let (invocation, spec) = self.new_life(ix);
        let launch = LaunchId::main(invocation);
        let life = Life {
            main: Some(Process::asked(launch, Role::Main)),
            foreign: Some(foreign),
            ..Life::new(invocation, Arc::clone(&spec), cause.kind)
        };
        let state = State::Starting {
            life: Box::new(life),
            phase: StartPhase::Activating,
            // The keeper looks at it and answers: there is nothing to wait for.
            deadline: Mono(u64::MAX),
        };
        self.transition(ix, state, ChangeKind::StatusChanged, cause);
        self.ask_for_foreign(launch, foreign, spec);
        Ok(())
    }

    pub(super) fn ask_for_foreign(
        &mut self,
        launch: LaunchId,
        foreign: Foreign,
        spec: Arc<crate::spec::UnitSpec>,
    ) {
        self.actions.push_back(Action::AdoptForeign {
            launch,
            pid: foreign.pid,
            start_time: foreign.start_time,
            spec,
        });
    }

    fn why_not_adopted(&self, ix: Ix) -> Option<String> {
        let unit = self.unit(ix);
        if unit.state.life().is_some() {
            return Some("it is up; stop it first".to_owned());
        }
        if unit.spec.exec.kind == Kind::Oneshot {
            return Some(
                "it is a oneshot: only the code that it ends with counts, and that cannot be had".to_owned(),
            );
        }
        let requires = &self.graph.edges(ix).requires;
        let missing = requires.iter().find(|d| {
            let d = self.unit(**d);
            !d.is_satisfied() || d.is_lost()
        })?;
        let (name, missing) = (self.graph.name(*missing), self.unit(*missing));
        let held = missing.hold.as_ref().map(|held| hold_text(&held.hold));
        let hint = held.unwrap_or_else(|| "start that first".to_owned());
        Some(format!("it requires {name}, which is not running ({hint})"))
    }

    /// The keeper took it.
    pub(super) fn on_adopted(&mut self, ix: Ix, began_by: CauseKind) {
        let now = self.now;
        self.unit_mut(ix).note = Some(NOTE.to_owned());
        let cause = self.own_cause(ix, began_by, NOTE);
        let Some(mut life) = self.take_life(ix) else {
            return;
        };
        life.ready = Some(now);
        self.transition(ix, State::Running { life }, ChangeKind::Ready, cause);
        self.begin_watch(ix);
    }

    /// The keeper could not take it; the unit is as it was, but for what is wanted.
    pub(super) fn on_not_adopted(&mut self, ix: Ix, invocation: Invocation, why: &str) {
        let text = format!("was not adopted: {why}");
        let cause = self.own_cause(ix, CauseKind::Exit, text.clone());
        let unit = self.unit_mut(ix);
        unit.desired = Desired::Down;
        unit.desired_cause = cause.clone();
        unit.last_error = Some(text.clone());
        let name = unit.spec.name.clone();
        for (id, goal) in self.requests.goals_of(&name) {
            if matches!(goal, Goal::Up { .. }) {
                let answer = verdict(&name, Outcome::Failed, text.clone());
                self.requests.decide(id, self.now, answer);
            }
        }
        self.lives.remove(&invocation);
        self.transition(ix, State::Stopped, ChangeKind::Failed, cause);
    }
}
