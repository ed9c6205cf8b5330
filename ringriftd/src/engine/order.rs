//! Who must wait for whom: what holds a start back, what makes a unit stop, and what its stop must wait for. Reads
//! the engine; changes nothing.

use proto::reply::{Cause, State as Word};

use super::breaker::Gate;
use super::cause;
use super::hold::hold_text;
use super::machine::Engine;
use super::types::Mono;
use super::unit::{Desired, State, Unit};
use crate::graph::Ix;
use crate::spec::{OnFailed, OnRestarted};

/// What holds a start back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker {
    /// A unit that must be ready first (`requires`).
    Requirement(Ix),
    /// A unit that must be ready, or have failed once (`wants`).
    Want(Ix),
    /// A unit that is on its way up or down and comes first (`after`).
    Order(Ix),
    /// A unit that must be down first (`conflicts`).
    Conflict(Ix),
    /// An operator's hold on the unit itself.
    Hold(Ix),
    /// The node starts no more units at once.
    Limit(u32),
    /// Too many units failed, and their restarts pause.
    Breaker(Gate),
}

impl Blocker {
    /// The unit that is waited for.
    pub fn unit(&self) -> Option<Ix> {
        match self {
            Self::Requirement(ix) | Self::Want(ix) | Self::Order(ix) | Self::Conflict(ix) => Some(*ix),
            Self::Hold(_) | Self::Limit(_) | Self::Breaker(_) => None,
        }
    }
}

/// Why an active unit has to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopReason {
    /// For the event.
    pub cause: Cause,
    /// It then stays down: a dependency's `recovered = "stay"`.
    pub stay: bool,
}

impl Engine {
    /// All that holds back the start of a unit, strongest first; empty: it may start. The limit is only asked when
    /// nothing else is in the way.
    pub fn blockers(&self, ix: Ix) -> Vec<Blocker> {
        let edges = self.graph.edges(ix);
        let mut found = Vec::new();
        found.extend(self.shut_gates(ix).into_iter().map(Blocker::Breaker));
        if self.unit(ix).hold.is_some() && !planted!(HoldIsNothing) {
            found.push(Blocker::Hold(ix));
        }
        for &d in &edges.requires {
            // One that is ready but about to stop is none to start on.
            let unit = self.unit(d);
            let is_none =
                !unit.is_satisfied() || unit.is_lost() || unit.restart_pending || unit.is_taken_along;
            if is_none && !planted!(StartBeforeNeeds) {
                found.push(Blocker::Requirement(d));
            }
        }
        for &d in &edges.wants {
            let unit = self.unit(d);
            if unit.desired == Desired::Up && !unit.is_satisfied() && !unit.attempt_failed {
                found.push(Blocker::Want(d));
            }
        }
        for &d in &edges.after {
            if self.is_on_its_way(d) {
                found.push(Blocker::Order(d));
            }
        }
        for &d in &edges.conflicts {
            if self.unit(d).state.life().is_some() {
                found.push(Blocker::Conflict(d));
            }
        }
        if found.is_empty()
            && let Some(limit) = self.node.max_starting
            && self.starting >= limit
        {
            found.push(Blocker::Limit(limit));
        }
        found
    }

    /// An `after` edge holds only while the other one moves: starts, stops, or waits for something that may come.
    fn is_on_its_way(&self, ix: Ix) -> bool {
        let unit = self.unit(ix);
        match &unit.state {
            State::Starting { .. } => !unit.attempt_failed,
            State::Stopping { .. } => true,
            State::Waiting => !unit.attempt_failed,
            State::Stopped => unit.desired == Desired::Up,
            State::Running { .. }
            | State::Reloading { .. }
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => false,
        }
    }

    /// The requirement because of which a waiting unit cannot come up for now, if there is one: it is down for good,
    /// has failed an attempt, or is itself held up so.
    pub(super) fn dead_requirement(&self, ix: Ix) -> Option<Ix> {
        self.graph.edges(ix).requires.iter().copied().find(|&d| {
            let unit = self.unit(d);
            unit.is_lost() || (!unit.is_satisfied() && unit.attempt_failed)
        })
    }

    /// A lost requirement takes or keeps the unit down (see [`Unit::is_held_down`]): one that lives goes only if its
    /// policy says so; one without a life cannot come up, unless it has done its work and is relied on as it is.
    pub(super) fn must_be_held_down(&self, ix: Ix) -> bool {
        let unit = self.unit(ix);
        let is_active = unit.state.is_active();
        if !is_active && unit.is_satisfied() {
            return false;
        }
        // One that goes on without it does so until its own restart: from that it does not come back.
        let goes_on = is_active && !unit.restart_pending && !self.must_be_taken_along(ix);
        self.graph.edges(ix).requires.iter().any(|&d| {
            let dependency = self.unit(d);
            let policy = unit.spec.on_dependency(&dependency.spec.name);
            dependency.is_lost() && (!goes_on || policy.failed == OnFailed::Stop)
        })
    }

    /// A restart of one that it requires takes it along (see [`Unit::is_taken_along`]).
    pub(super) fn must_be_taken_along(&self, ix: Ix) -> bool {
        let unit = self.unit(ix);
        unit.state.is_active()
            && self.graph.edges(ix).requires.iter().any(|&d| {
                let dependency = self.unit(d);
                let policy = unit.spec.on_dependency(&dependency.spec.name);
                policy.restarted == OnRestarted::Restart && is_restarting(dependency)
            })
    }

    /// Why an active unit has to stop, or nothing.
    pub(super) fn stop_reason(&self, ix: Ix) -> Option<StopReason> {
        let unit = self.unit(ix);
        if unit.desired == Desired::Down || unit.restart_pending {
            return Some(StopReason {
                cause: unit.desired_cause.clone(),
                stay: false,
            });
        }
        for &d in &self.graph.edges(ix).requires {
            let dependency = self.unit(d);
            let policy = unit.spec.on_dependency(&dependency.spec.name);
            let name = &dependency.spec.name;
            if policy.failed == OnFailed::Stop && dependency.is_lost() {
                let text = format!("{name}, which it requires, {}", why_down(dependency));
                let cause = cause::dependency(name, dependency.last_seq, text);
                let stay = policy.recovered == crate::spec::OnRecovered::Stay;
                return Some(StopReason { cause, stay });
            }
            if policy.restarted == OnRestarted::Restart && is_restarting(dependency) {
                let text = format!("{name}, which it requires, is being restarted");
                return Some(StopReason {
                    cause: cause::dependency(name, dependency.last_seq, text),
                    stay: false,
                });
            }
            // A launch that has not happened yet must not happen on a dependency that went away meanwhile.
            let not_launched = matches!(&unit.state, State::Starting { life, .. } if life.main.is_none());
            if not_launched && !dependency.is_satisfied() && !planted!(StartBeforeNeeds) {
                let text = format!("{name}, which it requires, went away before the launch");
                return Some(StopReason {
                    cause: cause::dependency(name, dependency.last_seq, text),
                    stay: false,
                });
            }
        }
        None
    }

    /// Those that must be down before this unit's stop may begin: they come after it, live, and go down too.
    pub fn stop_blockers(&self, ix: Ix) -> Vec<Ix> {
        let edges = self.graph.edges(ix);
        let mut found = Vec::new();
        for &v in &edges.required_by {
            let other = self.unit(v);
            let goes = matches!(other.state, State::Stopping { .. })
                || (other.state.is_active() && self.stop_reason(v).is_some());
            if goes && !planted!(StopOutOfOrder) {
                found.push(v);
            }
        }
        for &v in edges.wanted_by.iter().chain(&edges.before) {
            let other = self.unit(v);
            let goes = matches!(other.state, State::Stopping { .. })
                || (other.state.is_active() && (other.desired == Desired::Down || other.restart_pending));
            if goes && !found.contains(&v) {
                found.push(v);
            }
        }
        found
    }

    /// A blocker in words, for status and for the answer to a start.
    pub fn blocker_text(&self, blocker: &Blocker) -> String {
        match blocker {
            Blocker::Limit(n) => format!("at most {n} units start at once on this node (max_starting)"),
            Blocker::Conflict(ix) => format!("conflicts with it, and is {}", state_word(self.unit(*ix).word)),
            Blocker::Breaker(gate) => self.gate_text(gate),
            Blocker::Hold(ix) | Blocker::Requirement(ix) | Blocker::Want(ix) | Blocker::Order(ix) => {
                why_down(self.unit(*ix))
            }
        }
    }

    /// The point of time that a blocker's own next try comes at.
    pub fn next_try(&self, ix: Ix) -> Option<Mono> {
        match &self.unit(ix).state {
            State::Backoff { until } => Some(*until),
            State::Failed { next_try } => *next_try,
            State::Waiting => self.gates_close(ix),
            State::Stopped
            | State::Starting { .. }
            | State::Running { .. }
            | State::Reloading { .. }
            | State::Stopping { .. }
            | State::Completed => None,
        }
    }
}

/// It goes down, or is down, only to come up again.
fn is_restarting(unit: &Unit) -> bool {
    !unit.is_lost() && (unit.restart_pending || unit.is_taken_along || !unit.is_satisfied())
}

/// `is stopped`, `has failed: …`: a unit that is not ready, as the end of a sentence.
fn why_down(unit: &Unit) -> String {
    if let Some(held) = &unit.hold
        && unit.state.life().is_none()
    {
        return format!("is {}", hold_text(&held.hold));
    }
    let error = unit.last_error.as_deref().unwrap_or("no reason is known");
    match &unit.state {
        State::Stopped if unit.desired == Desired::Down => {
            format!("is stopped ({})", unit.desired_cause.text)
        }
        State::Stopped => "is about to start".to_owned(),
        State::Waiting => "waits itself".to_owned(),
        State::Starting { .. } => "is starting".to_owned(),
        State::Running { .. } if unit.desired == Desired::Down => {
            format!("is to stop ({})", unit.desired_cause.text)
        }
        State::Running { .. } if unit.is_held_down => "is about to stop for one that it requires".to_owned(),
        State::Running { .. } => "is running".to_owned(),
        State::Reloading { .. } => "is reloading".to_owned(),
        State::Stopping { .. } => "is stopping".to_owned(),
        State::Backoff { .. } => format!("is in back-off: {error}"),
        State::Failed { .. } => format!("has failed: {error}"),
        State::Completed => "has completed".to_owned(),
    }
}

fn state_word(word: Word) -> &'static str {
    match word {
        Word::Stopped => "stopped",
        Word::Waiting => "waiting",
        Word::Starting => "starting",
        Word::Running => "running",
        Word::Reloading => "reloading",
        Word::Stopping => "stopping",
        Word::Backoff => "in back-off",
        Word::Failed => "failed",
        Word::Completed => "completed",
        Word::Held => "held",
    }
}
