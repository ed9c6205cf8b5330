//! Starts: invariants 1 to 3 and 30. And whether what is said to be ready is.

use proto::reply::State as Word;

use crate::engine::types::{Change, Role};
use crate::engine::unit::{Desired, State};
use crate::ids::{Invocation, LaunchId};
use crate::spec::{Kind, UnitName, UnitSpec};

use super::invariants::Invariant;
use super::make::number;
use super::world::World;

impl World {
    /// A launch is about to be done.
    pub(super) fn check_launch(&mut self, launch: LaunchId, role: Role, spec: &UnitSpec) {
        let who = number(&spec.name);
        let is_new = !self
            .lives
            .get(launch.invocation.0 as usize)
            .is_some_and(|life| life.is_known);
        self.life_mut(launch.invocation, who);
        if is_new {
            self.check_new_life(launch.invocation, spec);
        }
        if self.is_closing && role == Role::Main {
            let text = format!("{} is launched in a shutdown", spec.name);
            self.broken(Invariant::ShutdownCloses, text);
        }
        if role != Role::Main {
            return;
        }
        self.check_alone_main(&spec.name);
        self.check_requirements(&spec.name);
        self.starts.push(spec.name.clone());
    }

    fn check_new_life(&mut self, invocation: Invocation, spec: &UnitSpec) {
        let now = self.engine.now.0;
        let who = number(&spec.name);
        let truth = self.truth_mut(who);
        let is_held = truth.held.is_some_and(|until| until.is_none_or(|at| at > now));
        let was_stopped = truth.wanted == Some(false);
        let was_ever_held = truth.held.is_some();
        let is_wanted = self
            .engine
            .find(&spec.name)
            .is_some_and(|(_, unit)| unit.desired == Desired::Up);
        self.hold(Invariant::Wanted, is_wanted && !was_stopped, |_| {
            format!(
                "life {} of {} begins though it is not wanted",
                invocation.0, spec.name
            )
        });
        if was_ever_held {
            self.hold(Invariant::HeldIsFinal, !is_held, |_| {
                format!("life {} of {} begins though it is held", invocation.0, spec.name)
            });
        }
    }

    /// No older life of it is there.
    pub(super) fn check_alone_main(&mut self, name: &UnitName) {
        let is_there = self.live.iter().any(|(id, p)| id.is_main() && p.unit == *name);
        self.hold(Invariant::Single, !is_there, |_| {
            format!("{name} is launched while an older life of it is there")
        });
    }

    fn check_requirements(&mut self, name: &UnitName) {
        let Some((ix, _)) = self.engine.find(name) else {
            return;
        };
        let requires = self.engine.graph().edges(ix).requires.clone();
        for d in requires {
            let unit = self.engine.unit(d);
            let (name_of_it, is_satisfied) = (unit.spec.name.clone(), unit.is_satisfied());
            let is_up = self.truth_of(&name_of_it).up;
            self.hold(Invariant::DepsFirst, is_up && is_satisfied, |_| {
                format!("{name} is launched, and {name_of_it}, which it requires, is not ready")
            });
        }
    }

    /// When a life became ready: before its last hooks.
    pub(super) fn note_ready(&mut self, change: &Change) {
        let Some((_, unit)) = self.engine.find(&change.unit) else {
            return;
        };
        let Some((invocation, ready)) = unit.state.life().map(|life| (life.invocation, life.ready)) else {
            return;
        };
        if let (Some(life), Some(ready)) = (self.life(invocation), ready) {
            life.ready_at = Some(ready.0);
        }
    }

    /// A unit was said to be ready, or not to be any more.
    pub(super) fn judge_ready(&mut self, change: &Change) {
        let is_up = match change.to {
            Word::Running | Word::Reloading => true,
            // A hold hides the word of a unit without a life; one that has done its work is relied on all the same.
            Word::Completed | Word::Held => self.engine.find(&change.unit).is_some_and(|(_, unit)| {
                unit.state == State::Completed && unit.spec.exec.kind == Kind::Oneshot
            }),
            _ => false,
        };
        let was_up = std::mem::replace(&mut self.truth_of(&change.unit).up, is_up);
        if !is_up || was_up || change.to != Word::Running {
            return;
        }
        let Some(invocation) = change.invocation else {
            return;
        };
        let Some((_, unit)) = self.engine.find(&change.unit) else {
            return;
        };
        // In the same step it may have gone on.
        let Some(kind) = unit.state.life().map(|life| life.spec.exec.kind) else {
            return;
        };
        let now = self.engine.now.0;
        let Some(life) = self.life(invocation) else { return };
        life.ready_at.get_or_insert(now);
        let is_true = match kind {
            Kind::Oneshot => life.is_launched && (life.has_exited || life.is_over),
            Kind::Simple | Kind::Forking => life.is_launched,
            Kind::Notify | Kind::Fd => life.is_launched && (life.said_ready || life.is_foreign),
        };
        self.hold(Invariant::HonestReply, is_true, |_| {
            format!(
                "{} is said to be running, and life {} never was ready",
                change.unit, invocation.0
            )
        });
    }
}
