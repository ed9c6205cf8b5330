//! The keeper of the small systems, and what must hold of everything that it is asked for.

use proto::reply::Outcome;

use crate::engine::types::{Action, RequestAnswer, RequestId, Role, UnitAnswer};
use crate::engine::unit::{Desired, End, State, StopPhase};
use crate::graph::Ix;
use crate::ids::LaunchId;
use crate::spec::{Kind, UnitName};

use super::model::{Ask, At, Model, Piece};

pub(super) fn name_of(model: &Model, ix: Ix) -> UnitName {
    model.engine.graph().name(ix).clone()
}

impl Model {
    pub(super) fn main_of(&self, unit: &UnitName) -> Option<&Piece> {
        self.held
            .values()
            .find(|held| held.unit == *unit && held.role == Role::Main)
    }

    pub(super) fn is_alive(held: &Piece) -> bool {
        matches!(held.at, At::Alive | At::Leaving)
    }

    /// The keeper, and what must hold of everything that it is asked for.
    pub(super) fn obey(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Launch { launch, role, spec } => return self.launch(launch, role, &spec.name),
            Action::Signal { launch, .. } => match self.held.get(&launch) {
                Some(held) if held.at == At::Asked => {
                    return Err(format!("{launch} is signalled before the keeper has answered"));
                }
                Some(held) => {
                    let unit = held.unit.clone();
                    self.stop_order(&unit)?;
                    self.held.entry(launch).and_modify(|held| held.is_told = true);
                }
                None if self.is_recovering => {}
                None => return Err(format!("{launch} is signalled, and is not there")),
            },
            Action::Destroy { launch } => match self.held.get_mut(&launch) {
                Some(held) if held.at == At::Asked => {
                    return Err(format!("{launch} is killed before the keeper has answered"));
                }
                Some(held) => {
                    let is_forced = self
                        .engine
                        .shutdown
                        .as_ref()
                        .is_some_and(|shutdown| shutdown.killing);
                    if held.role == Role::Main && held.at == At::Alive && !held.is_told && !is_forced {
                        return Err(format!("{launch} is killed, and was never told to go"));
                    }
                    held.is_destroyed = true;
                }
                None if self.is_recovering => {}
                None => return Err(format!("{launch} is killed, and is not there")),
            },
            Action::Release { launch } => match self.held.get(&launch).map(|held| held.at) {
                Some(At::Gone) => {
                    let held = self.held.remove(&launch);
                    if let Some(held) = held.filter(|held| held.role == Role::Main && self.repeats) {
                        self.past.insert(held.unit, launch);
                    }
                }
                Some(at) => return Err(format!("{launch} is released while it is {at:?}")),
                None if self.is_recovering || self.past.values().any(|l| *l == launch) => {}
                None => return Err(format!("{launch} is released twice")),
            },
            Action::Reply { id, answer } => return self.reply(id, &answer),
            Action::Finish { .. } => {
                // At the end of its time it is given up.
                let is_forced = self
                    .engine
                    .shutdown
                    .as_ref()
                    .is_some_and(|shutdown| shutdown.killing);
                if !is_forced && self.held.values().any(Self::is_alive) {
                    return Err("it is finished, and something lives".to_owned());
                }
                self.finished = true;
            }
            Action::Emit(change) => {
                let is_repeated = self.is_recovering && change.seq <= self.seq;
                if change.seq != self.seq + 1 && !is_repeated {
                    return Err(format!("event {} came after event {}", change.seq, self.seq));
                }
                self.seq = self.seq.max(change.seq);
            }
            Action::AdoptForeign { .. }
            | Action::FindMain { .. }
            | Action::Probe { .. }
            | Action::Worked { .. }
            | Action::Failed(_) => {}
        }
        Ok(())
    }

    pub(super) fn launch(&mut self, launch: LaunchId, role: Role, name: &UnitName) -> Result<(), String> {
        if self.held.contains_key(&launch) {
            return Err(format!("{launch} is launched twice"));
        }
        let others = self
            .held
            .values()
            .filter(|held| held.unit == *name && held.at != At::Gone);
        if let Some(other) = others.clone().next()
            && !(matches!(role, Role::StartPost(_) | Role::StopPre(_)) && other.role == Role::Main)
        {
            return Err(format!("{role} of {name} is launched beside its {}", other.role));
        }
        let (ix, unit) = self.engine.find(name).expect("no unit goes");
        let is_up = matches!(role, Role::Main | Role::StartPre(_));
        if is_up && (unit.desired == Desired::Down || self.engine.is_shutting_down()) {
            return Err(format!("{name} is launched though it is wanted down"));
        }
        // A life that began before the hold goes on.
        if unit.hold.is_some() && role == Role::StartPre(0) && !self.is_recovering {
            return Err(format!("{name} is launched though it is held"));
        }
        for &d in &self.engine.graph().edges(ix).requires {
            let d = name_of(self, d);
            let is_ready = self
                .main_of(&d)
                .is_some_and(|held| held.is_ready && held.at == At::Alive);
            let spec = &self.engine.find(&d).expect("no unit goes").1;
            let is_done = spec.state == State::Completed && spec.spec.exec.kind == Kind::Oneshot;
            let is_simple =
                spec.spec.exec.kind == Kind::Simple && self.main_of(&d).is_some_and(|h| h.at == At::Alive);
            if role == Role::Main && !(is_ready || is_done || is_simple) {
                return Err(format!(
                    "{name} is launched, and {d}, which it requires, is not ready"
                ));
            }
        }
        self.held.insert(
            launch,
            Piece {
                unit: name.clone(),
                role,
                at: At::Asked,
                is_ready: false,
                is_told: false,
                is_destroyed: false,
                exit: None,
            },
        );
        Ok(())
    }

    /// One that is wanted down goes after those that require it.
    pub(super) fn stop_order(&self, name: &UnitName) -> Result<(), String> {
        let (ix, unit) = self.engine.find(name).expect("no unit goes");
        let is_stop = unit.desired == Desired::Down
            && matches!(
                &unit.state,
                State::Stopping {
                    end: End::Wanted,
                    phase: StopPhase::Signal(0),
                    ..
                }
            );
        // One that never became ready has nobody that relies on it.
        let was_ready = unit.state.life().is_some_and(|life| life.ready.is_some());
        if !is_stop || !was_ready {
            return Ok(());
        }
        for &v in &self.engine.graph().edges(ix).required_by {
            let v = name_of(self, v);
            if self.main_of(&v).is_some_and(Self::is_alive) {
                return Err(format!("{name} is stopped, and {v}, which requires it, lives"));
            }
        }
        Ok(())
    }

    pub(super) fn reply(&mut self, id: RequestId, answer: &RequestAnswer) -> Result<(), String> {
        let Some((ask, _)) = self.open.remove(&id) else {
            return Err(format!("request {} is answered, and is not open", id.0));
        };
        let RequestAnswer::Done(answers) = answer else {
            self.last_refused = true;
            return Ok(());
        };
        let said = |answer: &&UnitAnswer| matches!(answer.outcome, Outcome::Done | Outcome::Already);
        for answer in answers.iter().filter(said) {
            let (_, unit) = self.engine.find(&answer.unit).expect("no unit goes");
            let main = self.main_of(&answer.unit);
            let is_right = match ask {
                Ask::Start | Ask::Restart => {
                    let is_notify = unit.spec.exec.kind == Kind::Notify;
                    (!is_notify && unit.is_satisfied())
                        || main.is_some_and(|held| held.at == At::Alive && (held.is_ready || !is_notify))
                }
                // A later start may have begun the next life in the same step.
                Ask::Stop | Ask::StopAll => !self
                    .held
                    .values()
                    .any(|held| held.unit == answer.unit && Self::is_alive(held)),
                Ask::Reset | Ask::Hold | Ask::Unhold | Ask::Kill => true,
            };
            if !is_right {
                return Err(format!(
                    "{ask:?} {} is answered with {:?}",
                    answer.unit, answer.outcome
                ));
            }
        }
        Ok(())
    }
}
