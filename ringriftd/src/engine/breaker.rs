//! The cascade breaker: when too many units fail at once, their automatic restarts pause, so that a node that is sick as a
//! whole is not kept busy by starting what only falls over again.
//!
//! A *restart* is the start that follows a unit's own failure: the end of its back-off, or a slow retry. Everything else is
//! none, is not counted, and is never held back: the first start, an operator's, one after a dependency came back, and a try
//! that the host made fail. Each restart passes three gates, the unit's own limit first (`restart`), then its category's, then the
//! node's. Who is refused waits (`Blocker::Breaker`); that costs its own budget nothing.
//!
//! A gate that has let its number through within its window *trips* at the next one: it is open until its cooldown is over, and
//! lets nothing through. Then it closes, forgets what it counted, and everybody whom it held back is looked at in start order, so
//! that what others need comes first; should that be too much again, it trips again. Critical units and those that
//! `[breaker] exempt` names pass freely and uncounted, and for `startup_grace` after the node began so does everybody.
//!
//! Read first: [`Breaker`] (pure arithmetic), then `Engine::admit_restart`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::reply::{By, Cause, CauseKind};
use serde::{Deserialize, Serialize};

use super::machine::Engine;
use super::types::{ChangeKind, Mono, Refusal};
use super::unit::{Desired, State, Unit};
use super::words::duration_text;
use crate::breaker::BreakerLimit;
use crate::graph::Ix;
use crate::spec::UnitName;

/// Whose limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// A category's, by its name.
    Category(String),
    /// The node's.
    Node,
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Category(name) => write!(f, "the breaker of category {name}"),
            Self::Node => f.write_str("the node's breaker"),
        }
    }
}

/// It lets nothing through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Since when.
    pub since: Mono,
    /// Until when.
    pub until: Mono,
    /// The number of the event that told of it.
    pub seq: u64,
    /// The unit whose restart was one too many.
    pub unit: UnitName,
    /// Restarts that were made before it, within the window.
    pub restarts: u32,
}

/// One gate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Breaker {
    /// When it let restarts through, the oldest first; no more than its limit.
    times: VecDeque<Mono>,
    /// Nothing passes.
    open: Option<Open>,
    /// How often it has tripped.
    trips: u64,
}

impl Breaker {
    /// How it is open.
    pub fn open(&self) -> Option<&Open> {
        self.open.as_ref()
    }

    /// How often it has tripped since the node began.
    pub fn trips(&self) -> u64 {
        self.trips
    }

    /// Restarts within the window that ends at `now`.
    pub fn count(&self, limit: &BreakerLimit, now: Mono) -> u32 {
        let is_within = |at: &&Mono| now.since(**at) < limit.window;
        u32::try_from(self.times.iter().filter(is_within).count()).unwrap_or(u32::MAX)
    }

    /// One more would be too many.
    fn is_full(&self, limit: &BreakerLimit, now: Mono) -> bool {
        limit.restarts.is_some_and(|most| self.count(limit, now) >= most)
    }

    /// One was let through.
    fn book(&mut self, limit: &BreakerLimit, now: Mono) {
        if limit.restarts.is_none() {
            return;
        }
        while self
            .times
            .front()
            .is_some_and(|at| now.since(*at) >= limit.window)
        {
            self.times.pop_front();
        }
        self.times.push_back(now);
    }

    fn trip(&mut self, open: Open) {
        self.trips = self.trips.saturating_add(1);
        self.open = Some(open);
    }

    fn close(&mut self) {
        self.open = None;
        self.times.clear();
    }
}

/// All gates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Breakers {
    /// When the node began; nothing before its first load.
    pub(super) began: Option<Mono>,
    node: Breaker,
    /// Of categories that have a limit and have let something through.
    categories: BTreeMap<String, Breaker>,
}

impl Breakers {
    fn get(&self, gate: &Gate) -> Option<&Breaker> {
        match gate {
            Gate::Category(name) => self.categories.get(name),
            Gate::Node => Some(&self.node),
        }
    }

    fn open(&self) -> impl Iterator<Item = (Gate, &Open)> {
        let categories = self.categories.iter();
        let categories = categories.filter_map(|(name, b)| Some((Gate::Category(name.clone()), b.open()?)));
        categories.chain(self.node.open().map(|open| (Gate::Node, open)))
    }

    /// When the next one closes.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.open().map(|(_, open)| open.until).min()
    }
}

/// A gate as views show it.
#[derive(Debug, Clone)]
pub struct GateView<'a> {
    /// Whose.
    pub gate: Gate,
    /// Its limit.
    pub limit: BreakerLimit,
    /// Restarts within its window.
    pub count: u32,
    /// How often it has tripped since the node began.
    pub trips: u64,
    /// How it is open.
    pub open: Option<&'a Open>,
    /// Units that wait because of it, in the order of their names.
    pub held: Vec<Ix>,
}

impl Engine {
    /// Every gate that has a limit: the node's, then those of categories in the order of their names.
    pub fn gates(&self) -> Vec<GateView<'_>> {
        let none: &'static Breaker = &NONE;
        let names = self.node.breaker.categories.keys();
        let gates = std::iter::once(Gate::Node).chain(names.cloned().map(Gate::Category));
        gates
            .filter_map(|gate| {
                let limit = self.limit_of(&gate)?;
                limit.restarts?;
                let breaker = self.breakers.get(&gate).unwrap_or(none);
                Some(GateView {
                    limit,
                    count: breaker.count(&limit, self.now),
                    trips: breaker.trips,
                    open: breaker.open(),
                    held: self.held_by(&gate),
                    gate,
                })
            })
            .collect()
    }

    /// The gates that hold a unit's restart back now.
    pub(super) fn shut_gates(&self, ix: Ix) -> Vec<Gate> {
        let unit = self.unit(ix);
        if !unit.restarts.is_due() || unit.state.life().is_some() || self.breakers.deadline().is_none() {
            return Vec::new();
        }
        let is_open = |gate: &Gate| self.breakers.get(gate).is_some_and(|b| b.open.is_some());
        self.gates_of(ix).into_iter().filter(is_open).collect()
    }

    /// How a gate is open.
    pub fn open_gate(&self, gate: &Gate) -> Option<&Open> {
        self.breakers.get(gate)?.open()
    }

    /// An open gate in words, without its time.
    pub(super) fn gate_text(&self, gate: &Gate) -> String {
        match (self.open_gate(gate), self.limit_of(gate)) {
            (Some(open), Some(limit)) => {
                let window = duration_text(limit.window);
                format!(
                    "{gate} is open: one more than {} restarts within {window}",
                    open.restarts
                )
            }
            (_, _) => format!("{gate} is open"),
        }
    }

    /// All open gates that hold a unit back, in words.
    pub(super) fn gates_text(&self, ix: Ix) -> String {
        let texts: Vec<String> = self
            .shut_gates(ix)
            .iter()
            .map(|gate| self.gate_text(gate))
            .collect();
        texts.join(", and ")
    }

    /// A start by hand of a unit whose restarts pause: it would undo what the breaker is for. `reset-failed` is the word for that.
    pub(super) fn refuse_paused(&self, roots: &BTreeSet<Ix>) -> Result<(), Refusal> {
        let mut all = self.graph.closure(roots.iter().copied()).into_keys();
        match all.find(|ix| !self.shut_gates(*ix).is_empty()) {
            Some(ix) => Err(Refusal::BreakerOpen {
                unit: self.graph.name(ix).clone(),
                why: self.gates_text(ix),
            }),
            None => Ok(()),
        }
    }

    /// When the last of the gates that hold a unit back closes.
    pub(super) fn gates_close(&self, ix: Ix) -> Option<Mono> {
        let gates = self.shut_gates(ix);
        gates
            .iter()
            .filter_map(|gate| Some(self.open_gate(gate)?.until))
            .max()
    }

    /// The gates that a unit's restarts pass now, in order.
    pub(super) fn gates_of(&self, ix: Ix) -> Vec<Gate> {
        let grace = self.node.breaker.startup_grace;
        if self.breakers.began.is_none_or(|at| self.now < at.after(grace)) {
            return Vec::new();
        }
        let gates = [Gate::Category(self.unit(ix).spec.category.clone()), Gate::Node];
        gates.into_iter().filter(|gate| self.governs(gate, ix)).collect()
    }

    /// A unit's restarts pass this gate, once the node's start-up is over.
    fn governs(&self, gate: &Gate, ix: Ix) -> bool {
        let spec = &self.node.breaker;
        let unit = &self.unit(ix).spec;
        if unit.critical || spec.exempt.contains(&unit.name) {
            return false;
        }
        let own = spec.categories.get(&unit.category);
        match gate {
            Gate::Category(name) => own.is_some() && *name == unit.category,
            Gate::Node => own.is_none_or(|own| own.is_for_node),
        }
    }

    fn limit_of(&self, gate: &Gate) -> Option<BreakerLimit> {
        match gate {
            Gate::Category(name) => Some(self.node.breaker.categories.get(name)?.limit),
            Gate::Node => Some(self.node.breaker.node),
        }
    }

    fn breaker_mut(&mut self, gate: &Gate) -> &mut Breaker {
        self.is_breaker_touched = true;
        match gate {
            Gate::Category(name) => self.breakers.categories.entry(name.clone()).or_default(),
            Gate::Node => &mut self.breakers.node,
        }
    }

    /// A restart that nothing else is in the way of: whether it may go ahead. It is counted if so; if not, a gate is open from
    /// now on.
    pub(super) fn admit_restart(&mut self, ix: Ix) -> bool {
        let gates = self.gates_of(ix);
        let now = self.now;
        for gate in &gates {
            let Some(limit) = self.limit_of(gate) else {
                continue;
            };
            if self.breaker_mut(gate).is_full(&limit, now) && !planted!(BreakerNeverTrips) {
                self.trip(gate, &limit, ix);
                return false;
            }
        }
        for gate in &gates {
            if let Some(limit) = self.limit_of(gate) {
                self.breaker_mut(gate).book(&limit, now);
            }
        }
        true
    }

    fn trip(&mut self, gate: &Gate, limit: &BreakerLimit, ix: Ix) {
        let now = self.now;
        let restarts = self.breaker_mut(gate).count(limit, now);
        let text = format!(
            "{gate} has tripped: {restarts} restarts within {}; none for {}",
            duration_text(limit.window),
            duration_text(limit.cooldown)
        );
        let cause = self.own_cause(ix, CauseKind::Exit, text);
        self.tell_of_gate(ix, ChangeKind::BreakerTripped, cause);
        let open = Open {
            since: now,
            until: now.after(limit.cooldown),
            seq: self.seq,
            unit: self.unit(ix).spec.name.clone(),
            restarts,
        };
        self.breaker_mut(gate).trip(open);
        // Others that wait may now do so for this, and theirs may be told on.
        for other in self.held_by(gate) {
            self.mark(other);
        }
    }

    /// Closes what has been open for long enough.
    pub(super) fn close_due_gates(&mut self) {
        let now = self.now;
        let is_due = |(gate, open): (Gate, &Open)| {
            (open.until <= now && !planted!(BreakerNeverCloses)).then_some(gate)
        };
        let due: Vec<Gate> = self.breakers.open().filter_map(is_due).collect();
        for gate in due {
            self.close_gate(&gate, CauseKind::Timer, "its cooldown is over", None);
        }
    }

    /// Lets restarts through again. Whoever waited is looked at, in start order.
    fn close_gate(&mut self, gate: &Gate, kind: CauseKind, why: &str, by: Option<&By>) {
        let Some(open) = self.breakers.get(gate).and_then(Breaker::open).cloned() else {
            return;
        };
        let held = self.held_by(gate);
        self.breaker_mut(gate).close();
        let names: Vec<&str> = held.iter().map(|ix| self.graph.name(*ix).as_str()).collect();
        let text = match names.as_slice() {
            [] => format!("{gate} is closed ({why}); nothing waited for it"),
            [one] => format!("{gate} is closed ({why}): {one} may start again"),
            several => format!(
                "{gate} is closed ({why}): {} units may start again",
                several.len()
            ),
        };
        let cause = Cause {
            kind,
            seq: Some(open.seq),
            unit: None,
            by: by.cloned(),
            text,
        };
        // Told of the unit that tripped it; if that is gone, of one that waited.
        if let Some(ix) = self.graph.find(&open.unit).or(held.first().copied()) {
            self.tell_of_gate(ix, ChangeKind::BreakerClosed, cause);
        }
        for ix in held {
            self.mark(ix);
        }
    }

    fn tell_of_gate(&mut self, ix: Ix, kind: ChangeKind, cause: Cause) {
        let word = self.unit(ix).word;
        self.emit(ix, kind, word, word, cause);
    }

    /// Units that wait because of a gate, in the order of their names.
    fn held_by(&self, gate: &Gate) -> Vec<Ix> {
        let is_held = |(ix, unit): (Ix, &Unit)| {
            let is_waiting = unit.state == State::Waiting && unit.desired == Desired::Up;
            (is_waiting && self.shut_gates(ix).contains(gate)).then_some(ix)
        };
        self.units().filter_map(is_held).collect()
    }

    /// An operator's `reset-failed` for these units: a gate whose units are all among them is closed, and forgets what it counted.
    pub(super) fn reset_gates(&mut self, units: &BTreeSet<Ix>, by: &By) {
        let spec = &self.node.breaker;
        let gates = std::iter::once(Gate::Node).chain(spec.categories.keys().cloned().map(Gate::Category));
        for gate in gates.collect::<Vec<_>>() {
            let governed = |(ix, unit): &(Ix, &Unit)| !self.is_forgotten(unit) && self.governs(&gate, *ix);
            let of_gate: BTreeSet<Ix> = self.known_units().filter(governed).map(|(ix, _)| ix).collect();
            let is_known = self.breakers.get(&gate).is_some_and(|b| *b != NONE);
            if is_known && of_gate.is_subset(units) {
                self.close_gate(&gate, CauseKind::Command, "reset-failed", Some(by));
                self.breaker_mut(&gate).close();
            }
        }
    }

    /// New files: a gate that has no limit any more lets everything through, and is forgotten. The others keep what they counted,
    /// and one that is open stays so, at most for its new cooldown.
    pub(super) fn reload_gates(&mut self) {
        self.is_breaker_touched = true;
        let began = *self.breakers.began.get_or_insert(self.now);
        self.breakers.began = Some(began);
        let gone: Vec<Gate> = self
            .breakers
            .open()
            .map(|(gate, _)| gate)
            .filter(|gate| self.limit_of(gate).is_none_or(|limit| limit.restarts.is_none()))
            .collect();
        for gate in gone {
            self.close_gate(&gate, CauseKind::Config, "it has no limit any more", None);
        }
        let categories = &self.node.breaker.categories;
        self.breakers
            .categories
            .retain(|name, _| categories.contains_key(name));
        let open: Vec<Gate> = self.breakers.open().map(|(gate, _)| gate).collect();
        for gate in open {
            let Some(limit) = self.limit_of(&gate) else {
                continue;
            };
            if let Some(open) = &mut self.breaker_mut(&gate).open {
                open.until = open.until.min(open.since.after(limit.cooldown));
            }
        }
    }

    /// What does not fit of the gates, in words.
    pub(super) fn broken_gates(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for view in self.gates() {
            let most = view.limit.restarts.unwrap_or(u32::MAX);
            if view.open.is_none() && view.count > most {
                broken.push(format!("{} let {} restarts through", view.gate, view.count));
            }
            if view.open.is_some_and(|open| open.until <= self.now) && !self.is_paused {
                broken.push(format!("{} is still open", view.gate));
            }
        }
        for (_, unit) in self.units() {
            let may_be_due = matches!(
                unit.state,
                State::Backoff { .. } | State::Failed { .. } | State::Waiting
            );
            if unit.restarts.is_due() && !may_be_due {
                broken.push(format!(
                    "{}: a restart is due though it is not down",
                    unit.spec.name
                ));
            }
        }
        broken
    }
}

static NONE: Breaker = Breaker {
    times: VecDeque::new(),
    open: None,
    trips: 0,
};
