//! Taking new files: at the start, and at each daemon-reload. All or nothing was decided before; here is what
//! follows from a plan that is whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::reply::{Cause, CauseKind, Outcome};

use super::cause;
use super::machine::Engine;
use super::request::verdict;
use super::types::{Mono, Plan};
use super::unit::{Desired, Unit};
use crate::graph::Graph;
use crate::spec::{UnitName, UnitSpec};

impl Engine {
    /// Lays a plan over what there is. Units that are new among the wanted ones come up, those no longer wanted by a
    /// profile go down, changed ones go on as they are. A unit without a file lives on here until it is down.
    pub(super) fn on_loaded(&mut self, plan: &Plan) {
        let is_boot = !self.loaded;
        let cause = if is_boot {
            cause::own(CauseKind::Boot, 0, "ringriftd started")
        } else {
            cause::own(CauseKind::Config, 0, "daemon-reload")
        };
        let mut old: BTreeMap<UnitName, Unit> = self
            .units
            .drain(..)
            .map(|unit| (unit.spec.name.clone(), unit))
            .collect();
        let leftovers: Vec<Arc<UnitSpec>> = old
            .values()
            .filter(|unit| !plan.units.contains_key(&unit.spec.name) && unit.state.life().is_some())
            .map(|unit| Arc::clone(&unit.spec))
            .collect();
        self.graph = if leftovers.is_empty() {
            Arc::clone(&plan.graph)
        } else {
            with_leftovers(plan, &leftovers)
        };
        self.node = plan.node.clone();
        self.loaded = true;
        self.dirty.clear();
        self.unsettled.clear();
        self.held_back.clear();
        self.timers.clear();
        self.lives.clear();
        for ix in self.graph.all() {
            let name = self.graph.name(ix).clone();
            let unit = match (old.remove(&name), plan.units.get(&name)) {
                (Some(mut unit), Some(spec)) => {
                    unit.spec = Arc::clone(spec);
                    unit.is_defined = true;
                    unit.attempt_failed &= !planted!(ReloadWakes);
                    unit
                }
                (Some(mut unit), None) => {
                    unit.is_defined = false;
                    unit
                }
                (None, Some(spec)) => Unit::new(Arc::clone(spec), self.now, cause.clone()),
                (None, None) => continue,
            };
            self.units.push(unit);
            self.follow_membership(plan, &name, &cause);
            if let Some(life) = self.unit(ix).state.life() {
                self.lives.insert(life.invocation, ix);
            }
            self.units[ix.0 as usize].armed = None;
            self.rearm(ix);
            self.mark(ix);
        }
        self.recount_probes();
        self.reload_gates();
        self.touched = self.graph.all().collect();
        for name in old.into_keys() {
            self.dropped.insert(name.clone());
            for (id, _) in self.requests.goals_of(&name) {
                let text = "its file is gone since the last daemon-reload";
                self.requests
                    .decide(id, self.now, verdict(&name, Outcome::Superseded, text));
            }
        }
    }

    /// Wanted by a profile now, or no longer: the profile's word counts when it changes, not on every reload, so that
    /// an operator's stop lasts.
    fn follow_membership(&mut self, plan: &Plan, name: &UnitName, cause: &Cause) {
        let is_shutting_down = self.shutdown.is_some();
        let Some(unit) = self.units.last_mut() else { return };
        let member = plan.members.get(name).cloned();
        let was_member = unit.member.is_some();
        if member.is_some() && !was_member && !is_shutting_down {
            if unit.desired == Desired::Down {
                unit.desired = Desired::Up;
                unit.desired_cause = cause.clone();
                unit.attempt_failed = false;
            }
        } else if (member.is_none() && was_member || !unit.is_defined) && unit.desired == Desired::Up {
            unit.desired = Desired::Down;
            unit.restart_pending = false;
            unit.desired_cause = cause.clone();
        }
        unit.member = member;
    }

    /// Units whose file is gone and that are down: forgotten at the next load. Views leave them out.
    pub(super) fn is_forgotten(&self, unit: &Unit) -> bool {
        !unit.is_defined && unit.state.life().is_none()
    }

    /// The latest time that the engine was told.
    pub fn now(&self) -> Mono {
        self.now
    }
}

/// The plan's graph with units that have lost their files but still live. Their edges order their stop; should an
/// old edge make a ring with new ones, they go without edges.
pub(super) fn with_leftovers(plan: &Plan, leftovers: &[Arc<UnitSpec>]) -> Arc<Graph> {
    let all = plan.units.values().chain(leftovers);
    if let Ok(graph) = Graph::build(all) {
        return Arc::new(graph);
    }
    let bare: Vec<Arc<UnitSpec>> = leftovers
        .iter()
        .map(|spec| {
            let mut bare = UnitSpec::clone(spec);
            bare.requires.clear();
            bare.wants.clear();
            bare.after.clear();
            bare.before.clear();
            bare.conflicts.clear();
            Arc::new(bare)
        })
        .collect();
    match Graph::build(plan.units.values().chain(&bare)) {
        Ok(graph) => Arc::new(graph),
        // Units without edges add no ring to a graph that has none.
        Err(_) => Arc::clone(&plan.graph),
    }
}
