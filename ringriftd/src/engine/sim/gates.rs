//! Breakers: invariant 37. The world counts the automatic restarts itself, from the events that tell of them. Where it cannot know
//! whether the engine still counts one (an operator's word, new files, another boot), it forgets it.

use std::collections::VecDeque;

use proto::reply::{CauseKind, State as Word};

use crate::breaker::{BreakerLimit, BreakerSpec};
use crate::engine::breaker::Gate;
use crate::engine::types::{Change, ChangeKind, Mono};
use crate::spec::UnitSpec;

use super::invariants::Invariant;
use super::make::number;
use super::world::World;

/// What the world knows of a gate.
#[derive(Debug, Default)]
pub(super) struct GateTruth {
    /// Restarts that passed it, by the engine's time.
    times: VecDeque<Mono>,
    /// It is open until then, if nothing closes it before; that is told only where there is a unit to tell it of.
    open_until: Option<Mono>,
}

/// The gates that a unit's restarts have to pass, with their limits.
fn gates_of(spec: &BreakerSpec, unit: &UnitSpec) -> Vec<(Gate, BreakerLimit)> {
    if unit.critical || spec.exempt.contains(&unit.name) {
        return Vec::new();
    }
    let own = spec.categories.get(&unit.category);
    let category = own.map(|own| (Gate::Category(unit.category.clone()), own.limit));
    let is_for_node = own.is_none_or(|own| own.is_for_node);
    category
        .into_iter()
        .chain(is_for_node.then_some((Gate::Node, spec.node)))
        .collect()
}

impl World {
    /// Nothing is known of what gates count.
    pub(super) fn forget_gates(&mut self) {
        for gate in self.gates.values_mut() {
            *gate = GateTruth::default();
        }
    }

    /// A change was told: of a gate, of a restart that is due now, or of one that begins.
    pub(super) fn judge_gates(&mut self, change: &Change) {
        if matches!(
            change.kind,
            ChangeKind::BreakerTripped | ChangeKind::BreakerClosed
        ) {
            let categories = self.plan.node.breaker.categories.keys().cloned();
            let mut all = std::iter::once(Gate::Node).chain(categories.map(Gate::Category));
            let is_told = |gate: &Gate| change.cause.text.starts_with(&format!("{gate} "));
            if let Some(gate) = all.find(is_told) {
                let breaker = &self.plan.node.breaker;
                let cooldown = match &gate {
                    Gate::Node => breaker.node.cooldown,
                    Gate::Category(name) => breaker.categories[name].limit.cooldown,
                };
                let is_open = change.kind == ChangeKind::BreakerTripped;
                let open_until = is_open.then(|| self.engine.now.after(cooldown));
                let truth = GateTruth {
                    open_until,
                    ..GateTruth::default()
                };
                self.gates.insert(gate, truth);
            }
            return;
        }
        let is_retry = matches!(change.from, Word::Backoff | Word::Failed);
        let is_timed = is_retry && change.cause.kind == CauseKind::Timer;
        let truth = self.truth_mut(number(&change.unit));
        if change.to == Word::Failed {
            truth.is_excused = false;
        } else if is_timed {
            truth.is_restart_due = !truth.is_excused;
        } else if is_retry || matches!(change.to, Word::Stopped | Word::Completed) {
            truth.is_restart_due = false;
        }
        if change.to == Word::Starting && std::mem::take(&mut truth.is_restart_due) {
            self.pass_gates(change);
        }
    }

    fn pass_gates(&mut self, change: &Change) {
        let (now, began) = (self.engine.now, self.engine.breakers.began);
        let spec = self.plan.node.breaker.clone();
        let Some((_, unit)) = self.engine.find(&change.unit) else {
            return;
        };
        if began.is_none_or(|at| now < at.after(spec.startup_grace)) {
            return;
        }
        for (gate, limit) in gates_of(&spec, &unit.spec.clone()) {
            let Some(most) = limit.restarts else { continue };
            let text = gate.to_string();
            let truth = self.gates.entry(gate).or_default();
            while truth
                .times
                .front()
                .is_some_and(|at| now.since(*at) >= limit.window)
            {
                truth.times.pop_front();
            }
            if truth.open_until.is_some_and(|until| until <= now) {
                *truth = GateTruth::default();
            }
            let (is_open, count) = (truth.open_until.is_some(), truth.times.len());
            truth.times.push_back(now);
            self.hold(Invariant::Breaker, !is_open && count < most as usize, |_| {
                let how = if is_open { "is open" } else { "is full" };
                format!(
                    "{} is restarted though {text} {how} ({count} within {:?})",
                    change.unit, limit.window
                )
            });
        }
    }
}
