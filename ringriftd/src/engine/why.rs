//! Why a unit is where it is, down to the causes: pure questions to the engine, which decide and change nothing.
//!
//! Each unit either has a cause of its own (it failed, is held, was stopped …) or waits for others, by the same blockers
//! that hold its start back ([`Engine::blockers`]). The *roots* of a unit are the own causes that are found by following
//! the waiting; what a root *blocks* are all units that come to it by the same way. So both directions come from one
//! relation, and cannot contradict each other.
//!
//! Read first: [`Why`] and `Engine::own`.

use std::collections::{BTreeMap, BTreeSet};

use proto::reply::{By, CauseKind, EdgeKind, RootKind};

use super::hold::hold_text;
use super::machine::Engine;
use super::order::Blocker;
use super::types::Mono;
use super::unit::{Desired, ProcessPhase, StartPhase, State, Unit};
use super::words::duration_text;
use crate::graph::Ix;
use crate::spec::Kind;

/// Units that a text names before it only counts.
const NAMED: usize = 4;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// Of which unit.
    pub unit: Ix,
    /// Nothing is wrong with it.
    pub is_fine: bool,
    /// In one sentence, without its name.
    pub text: String,
    /// Itself, then each unit before those that it waits for.
    pub chain: Vec<Step>,
    /// The causes, in the order in which the chain comes to them.
    pub roots: Vec<Root>,
}

/// One unit of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// How far from the unit asked about.
    pub depth: u32,
    /// Which.
    pub unit: Ix,
    /// Why the one above waits for it.
    pub edge: Option<EdgeKind>,
    /// What is with it.
    pub text: String,
    /// It is a cause.
    pub is_root: bool,
    /// It stands further up already.
    pub is_repeated: bool,
}

/// A cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Which unit; absent: the node.
    pub unit: Option<Ix>,
    /// What kind.
    pub kind: RootKind,
    /// In words.
    pub text: String,
    /// Since when.
    pub since: Mono,
    /// The event that it became so by.
    pub seq: Option<u64>,
    /// Who wanted it so.
    pub by: Option<By>,
    /// When something happens by itself.
    pub next: Option<Mono>,
    /// The event of the failure that it is.
    pub failure: Option<u64>,
    /// All units that wait because of it, in the order of their names.
    pub blocks: Vec<Ix>,
}

/// A cause that following the waiting came to.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Which unit; absent: the node.
    unit: Option<Ix>,
    kind: RootKind,
    /// Which unit of the chain it holds back, of several the first.
    by: Ix,
}

/// What a unit's own state says.
#[derive(Debug, Default)]
struct Own {
    /// Causes: of the unit itself, of another one (a conflict), or the node's.
    roots: Vec<(Option<Ix>, RootKind)>,
    /// Whom it waits for.
    waits: Vec<(EdgeKind, Ix)>,
}

impl Own {
    fn root(ix: Ix, kind: RootKind) -> Self {
        Self {
            roots: vec![(Some(ix), kind)],
            waits: Vec::new(),
        }
    }
}

impl Engine {
    /// Why a unit is where it is. `unwell` is why it is not well though it runs, where somebody found that.
    pub fn why(&self, ix: Ix, unwell: Option<String>) -> Why {
        if self.is_fine(ix) {
            return self.why_of_running(ix, unwell);
        }
        let (chain, found) = self.follow(ix);
        let waiting = self.waiting();
        let roots: Vec<Root> = found
            .iter()
            .map(|found| self.root(found.unit, found.kind, found.by, &waiting))
            .collect();
        Why {
            unit: ix,
            is_fine: false,
            text: self.sentence(ix, &roots),
            chain,
            roots,
        }
    }

    /// One that is up: nothing is wrong, or it is its own cause and holds back nobody.
    fn why_of_running(&self, ix: Ix, unwell: Option<String>) -> Why {
        let text = match &unwell {
            Some(how) => format!("is running, and {how}"),
            None => self.fine_text(ix),
        };
        let unit = self.unit(ix);
        let root = unwell.is_some().then(|| Root {
            unit: Some(ix),
            kind: RootKind::Unhealthy,
            text: text.clone(),
            since: unit.since,
            seq: Some(unit.last_seq).filter(|seq| *seq > 0),
            by: None,
            next: None,
            failure: None,
            blocks: Vec::new(),
        });
        Why {
            unit: ix,
            is_fine: root.is_none(),
            chain: vec![Step {
                depth: 0,
                unit: ix,
                edge: None,
                text: text.clone(),
                is_root: root.is_some(),
                is_repeated: false,
            }],
            text,
            roots: root.into_iter().collect(),
        }
    }

    /// As it should be: ready, or ended as it should, and neither to stop nor found unwell.
    fn is_fine(&self, ix: Ix) -> bool {
        let unit = self.unit(ix);
        if unit.state == State::Completed {
            return true;
        }
        let is_to_stop = unit.desired == Desired::Down || unit.restart_pending;
        unit.is_satisfied() && !is_to_stop && !unit.is_held_down && !unit.is_taken_along
    }

    fn fine_text(&self, ix: Ix) -> String {
        let unit = self.unit(ix);
        match &unit.state {
            State::Completed => "has completed, as it should".to_owned(),
            State::Reloading { .. } => "is running, and reloading".to_owned(),
            _ => "is running".to_owned(),
        }
    }

    /// What a unit's own state says of why it is not up.
    fn own(&self, ix: Ix) -> Own {
        let unit = self.unit(ix);
        if self.is_shutting_down() && unit.state.life().is_none() {
            return Own {
                roots: vec![(None, RootKind::Shutdown)],
                waits: Vec::new(),
            };
        }
        let is_held = unit.hold.is_some();
        match &unit.state {
            State::Stopped | State::Backoff { .. } | State::Failed { .. } if is_held => {
                Own::root(ix, RootKind::Held)
            }
            State::Stopped if unit.desired == Desired::Up => Own::root(ix, RootKind::Moving),
            State::Stopped => Own::root(ix, stopped(unit)),
            State::Backoff { .. } => Own::root(ix, RootKind::Backoff),
            State::Failed { .. } if unit.restarts.is_slow() => Own::root(ix, RootKind::CrashLoop),
            State::Failed { .. } => Own::root(ix, RootKind::Failed),
            State::Completed => Own::root(ix, RootKind::Completed),
            State::Starting { .. } => Own::root(ix, RootKind::Starting),
            State::Stopping { .. } => Own::root(ix, RootKind::Stopping),
            State::Running { .. } | State::Reloading { .. } => self.own_of_running(ix),
            State::Waiting => self.own_of_waiting(ix),
        }
    }

    fn own_of_waiting(&self, ix: Ix) -> Own {
        let mut own = Own::default();
        for blocker in self.blockers(ix) {
            match blocker {
                Blocker::Requirement(d) => own.waits.push((EdgeKind::Requires, d)),
                Blocker::Want(d) => own.waits.push((EdgeKind::Wants, d)),
                Blocker::Order(d) => own.waits.push((EdgeKind::After, d)),
                Blocker::Conflict(d) => own.roots.push((Some(d), RootKind::Conflict)),
                Blocker::Hold(_) => own.roots.push((Some(ix), RootKind::Held)),
                Blocker::Limit(_) => own.roots.push((None, RootKind::Limit)),
                Blocker::Breaker(_) => own.roots.push((Some(ix), RootKind::Breaker)),
            }
        }
        if own.roots.is_empty() && own.waits.is_empty() {
            return Own::root(ix, RootKind::Moving);
        }
        // One unit may stand in two lists; the strongest edge says it.
        let mut seen = BTreeSet::new();
        own.waits.retain(|(_, d)| seen.insert(*d));
        own
    }

    /// One that runs, and that others cannot count on: it is about to go.
    fn own_of_running(&self, ix: Ix) -> Own {
        let unit = self.unit(ix);
        let goes = unit.desired == Desired::Down || unit.restart_pending;
        if goes {
            return Own::root(ix, RootKind::Stopping);
        }
        let requires = &self.graph().edges(ix).requires;
        let lost = |d: &Ix| {
            let d = self.unit(*d);
            d.is_lost() || d.restart_pending || d.is_taken_along || !d.is_satisfied()
        };
        let waits: Vec<(EdgeKind, Ix)> = requires
            .iter()
            .copied()
            .filter(lost)
            .map(|d| (EdgeKind::Requires, d))
            .collect();
        if waits.is_empty() || !(unit.is_held_down || unit.is_taken_along) {
            return Own::root(ix, RootKind::Moving);
        }
        Own {
            roots: Vec::new(),
            waits,
        }
    }

    /// Follows the waiting, without recursion: chains may be long. Each unit is opened once.
    fn follow(&self, ix: Ix) -> (Vec<Step>, Vec<Found>) {
        let mut chain = Vec::new();
        let mut roots: Vec<Found> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![(0, None, ix)];
        while let Some((depth, edge, unit)) = open.pop() {
            let is_repeated = !seen.insert(unit);
            let own = self.own(unit);
            let is_root = own.roots.iter().any(|(of, _)| *of == Some(unit));
            chain.push(Step {
                depth,
                unit,
                edge,
                text: self.step_text(unit, &own),
                is_root,
                is_repeated,
            });
            if is_repeated {
                continue;
            }
            for root in &own.roots {
                if let (Some(other), RootKind::Conflict) = *root {
                    chain.push(Step {
                        depth: depth + 1,
                        unit: other,
                        edge: Some(EdgeKind::Conflicts),
                        text: self.root_text(Some(other), RootKind::Conflict, unit),
                        is_root: true,
                        is_repeated: false,
                    });
                }
                let (of, kind) = *root;
                if !roots.iter().any(|found| (found.unit, found.kind) == (of, kind)) {
                    let by = unit;
                    roots.push(Found { unit: of, kind, by });
                }
            }
            open.extend(
                own.waits
                    .iter()
                    .rev()
                    .map(|(edge, d)| (depth + 1, Some(*edge), *d)),
            );
        }
        (chain, roots)
    }

    /// Who waits for each unit, and for the node, directly: the waiting, the other way round.
    fn waiting(&self) -> BTreeMap<Option<(Ix, bool)>, Vec<Ix>> {
        let mut waiting: BTreeMap<Option<(Ix, bool)>, Vec<Ix>> = BTreeMap::new();
        for (ix, unit) in self.units() {
            let is_behind = unit.state == State::Waiting || unit.is_held_down || unit.is_taken_along;
            if !is_behind {
                continue;
            }
            let own = self.own(ix);
            for (_, d) in own.waits {
                waiting.entry(Some((d, false))).or_default().push(ix);
            }
            for (of, kind) in own.roots {
                match (of, kind) {
                    (Some(d), RootKind::Conflict) => waiting.entry(Some((d, true))).or_default().push(ix),
                    (None, RootKind::Limit) => waiting.entry(None).or_default().push(ix),
                    (_, _) => {}
                }
            }
        }
        waiting
    }

    fn root(
        &self,
        of: Option<Ix>,
        kind: RootKind,
        asked: Ix,
        waiting: &BTreeMap<Option<(Ix, bool)>, Vec<Ix>>,
    ) -> Root {
        let mut blocked = BTreeSet::new();
        let first = match (of, kind) {
            // It is well; only those that conflict with it wait for it to go.
            (Some(d), RootKind::Conflict) => Some((d, true)),
            (Some(d), _) => Some((d, false)),
            (None, _) => None,
        };
        let direct = waiting.get(&first).into_iter().flatten().copied();
        let mut open: Vec<Ix> = if kind == RootKind::Shutdown {
            Vec::new()
        } else {
            direct.collect()
        };
        while let Some(ix) = open.pop() {
            if Some(ix) != of && blocked.insert(ix) {
                let behind = waiting.get(&Some((ix, false))).into_iter().flatten();
                open.extend(behind.copied());
            }
        }
        let mut blocks: Vec<Ix> = blocked.into_iter().collect();
        blocks.sort_by(|a, b| self.graph().name(*a).cmp(self.graph().name(*b)));
        let unit = of.map(|ix| self.unit(ix));
        let is_failure = matches!(
            kind,
            RootKind::Backoff | RootKind::CrashLoop | RootKind::Failed | RootKind::Breaker
        ) || unit.is_some_and(|unit| failing(unit).is_some());
        let by = match (kind, unit) {
            (RootKind::Held, Some(unit)) => unit.hold.as_ref().map(|held| held.hold.by.clone()),
            (RootKind::Stopped | RootKind::Unwanted | RootKind::Stopping, Some(unit)) => {
                unit.desired_cause.by.clone()
            }
            (RootKind::Shutdown, _) => self.unit(asked).desired_cause.by.clone(),
            (_, _) => None,
        };
        let next = match (kind, of) {
            (RootKind::Held, Some(ix)) => self.unit(ix).hold.as_ref().and_then(|held| held.until),
            (RootKind::Starting | RootKind::Stopping, Some(ix)) => {
                self.unit(ix).state.deadline().filter(|at| *at < Mono(u64::MAX))
            }
            (_, Some(ix)) => self.next_try(ix),
            (_, None) => None,
        };
        Root {
            unit: of,
            kind,
            text: self.root_text(of, kind, asked),
            since: unit.unwrap_or(self.unit(asked)).since,
            seq: unit.map(|unit| unit.last_seq).filter(|seq| *seq > 0),
            by,
            next,
            failure: unit
                .filter(|_| is_failure)
                .and_then(|unit| failing(unit).or(unit.last_failure)),
            blocks,
        }
    }

    fn sentence(&self, ix: Ix, roots: &[Root]) -> String {
        match roots {
            [own] if own.unit == Some(ix) => own.text.clone(),
            [one] => match one.unit {
                Some(other) => {
                    format!("is held back by {}, which {}", self.graph().name(other), one.text)
                }
                None => format!("is held back: {}", one.text),
            },
            several => {
                let named: Vec<&str> = several
                    .iter()
                    .map(|root| match root.unit {
                        Some(ix) => self.graph().name(ix).as_str(),
                        None => "the node itself",
                    })
                    .collect();
                format!("is held back by {} causes: {}", several.len(), few(&named))
            }
        }
    }

    fn step_text(&self, ix: Ix, own: &Own) -> String {
        let of_itself = own.roots.iter().find(|(of, kind)| {
            *of == Some(ix) || (of.is_none() && matches!(kind, RootKind::Limit | RootKind::Shutdown))
        });
        match of_itself {
            Some((of, kind)) => self.root_text(*of, *kind, ix),
            None if self.unit(ix).state.life().is_some() => {
                "is running, and about to stop for one that it requires".to_owned()
            }
            None => "is waiting".to_owned(),
        }
    }

    fn root_text(&self, of: Option<Ix>, kind: RootKind, asked: Ix) -> String {
        let unit = self.unit(of.unwrap_or(asked));
        let error = || {
            unit.last_error
                .clone()
                .unwrap_or_else(|| "no reason is known".to_owned())
        };
        match kind {
            RootKind::Backoff => format!("is in back-off: {}", error()),
            RootKind::CrashLoop => format!("has failed again and again: {}", error()),
            RootKind::Failed => format!("has failed: {}", error()),
            RootKind::Unhealthy => format!("is unhealthy: {}", error()),
            RootKind::Starting => starting_text(unit),
            RootKind::Stopping => stopping_text(unit),
            RootKind::Held => match &unit.hold {
                Some(held) => format!("is {}", hold_text(&held.hold)),
                None => "is held".to_owned(),
            },
            RootKind::Stopped => format!("was stopped: {}", &unit.desired_cause.text),
            RootKind::Unwanted => match unit.desired_cause.kind {
                CauseKind::Config => format!("is not wanted any more: {}", &unit.desired_cause.text),
                _ => "is not wanted: no active profile has it, and nobody started it".to_owned(),
            },
            RootKind::Completed => "has completed, and its restart policy does not start it again".to_owned(),
            RootKind::Stayed => format!(
                "stays down (recovered = \"stay\") since one that it requires went down: {}",
                unit.desired_cause.text
            ),
            RootKind::Conflict => format!(
                "is {}, and {} may not be up beside it",
                word(unit),
                self.graph().name(asked)
            ),
            RootKind::Limit => {
                let starting: Vec<&str> = self
                    .units()
                    .filter(|(_, unit)| matches!(unit.state, State::Starting { .. }))
                    .map(|(_, unit)| unit.spec.name.as_str())
                    .collect();
                let most = self.node.max_starting.unwrap_or(0);
                format!(
                    "at most {most} units start at once (max_starting); now: {}",
                    few(&starting)
                )
            }
            RootKind::Breaker => format!(
                "waits, since {}; {}",
                self.gates_text(of.unwrap_or(asked)),
                error()
            ),
            RootKind::Shutdown => format!("ringriftd is shutting down ({})", &unit.desired_cause.text),
            RootKind::Moving => "has nothing in its way, and moves now".to_owned(),
        }
    }
}

fn word(unit: &Unit) -> &'static str {
    match &unit.state {
        State::Starting { .. } => "starting",
        State::Stopping { .. } => "stopping",
        State::Reloading { .. } => "reloading",
        _ => "running",
    }
}

/// The event of a failure whose life is still being cleared away.
fn failing(unit: &Unit) -> Option<u64> {
    Some(unit.state.life()?.witness.failing.as_ref()?.seq)
}

/// Why a unit is wanted down.
fn stopped(unit: &Unit) -> RootKind {
    match unit.desired_cause.kind {
        CauseKind::Dependency => RootKind::Stayed,
        CauseKind::Command | CauseKind::Exit | CauseKind::Signal | CauseKind::Probe | CauseKind::Timer => {
            RootKind::Stopped
        }
        CauseKind::Config | CauseKind::Boot | CauseKind::Recovery | CauseKind::Log => RootKind::Unwanted,
    }
}

fn starting_text(unit: &Unit) -> String {
    let State::Starting { life, phase, .. } = &unit.state else {
        return "is starting".to_owned();
    };
    let is_asked = life
        .main
        .as_ref()
        .is_some_and(|main| main.phase == ProcessPhase::Asked);
    match phase {
        StartPhase::Pre(n) => format!("is starting: start_pre[{n}] runs"),
        StartPhase::Post(n) => format!("is starting: start_post[{n}] runs"),
        StartPhase::FindingMain => "is starting: its main process is looked for".to_owned(),
        StartPhase::Probing => format!(
            "is starting: its readiness is being checked (it has {})",
            duration_text(life.spec.ready_timeout)
        ),
        StartPhase::Activating if is_asked => "is starting: its program is being launched".to_owned(),
        StartPhase::Activating => {
            let most = duration_text(life.spec.ready_timeout);
            match life.spec.exec.kind {
                Kind::Oneshot => format!("is starting: it does its work (for {most} at most)"),
                Kind::Simple | Kind::Notify | Kind::Fd | Kind::Forking => {
                    format!("is starting: it runs, and is not ready yet (it has {most})")
                }
            }
        }
    }
}

fn stopping_text(unit: &Unit) -> String {
    let State::Stopping { life, .. } = &unit.state else {
        let then = if unit.restart_pending {
            ", to start again"
        } else {
            ""
        };
        return format!("is to stop{then}: {}", &unit.desired_cause.text);
    };
    match &life.witness.failing {
        Some(failing) => format!("{}; what is left of it is being cleared away", failing.text),
        None if unit.desired == Desired::Up => "is stopping, to start again".to_owned(),
        None => format!("is stopping: {}", &unit.desired_cause.text),
    }
}

/// The first of some names, and how many more there are.
fn few(names: &[&str]) -> String {
    let named = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
