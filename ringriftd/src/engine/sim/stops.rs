//! Stops: invariants 4 to 6, 14 and 25.

use std::time::Duration;

use proto::reply::State as Word;

use crate::engine::types::{Change, Mono};
use crate::engine::unit::{Desired, End, ProcessPhase, State, StopPhase};
use crate::ids::{Invocation, LaunchId};
use crate::limits;
use crate::spec::UnitName;

use super::invariants::Invariant;
use super::world::World;

impl World {
    /// A signal is about to be sent: to a process that was told to run, and not that it is over.
    pub(super) fn check_signal(&mut self, launch: LaunchId, signal: i32) {
        let phase = self
            .engine
            .processes()
            .find(|(_, _, p)| p.launch == launch)
            .map(|(_, _, p)| p.phase);
        let life = self.life(launch.invocation);
        let is_own = life.is_some_and(|life| life.is_launched && !life.is_over);
        let is_own = is_own && matches!(phase, Some(ProcessPhase::Alive { .. } | ProcessPhase::Leaving));
        self.hold(Invariant::OwnProcess, is_own, |_| {
            format!("signal {signal} is sent to {launch}, which is not there ({phase:?})")
        });
        let Some(unit) = self.engine.unit_of(launch.invocation) else {
            return;
        };
        let State::Stopping {
            life,
            phase: StopPhase::Signal(0),
            ..
        } = &unit.state
        else {
            return;
        };
        let is_first = life.spec.stop.signals.first() == Some(&signal);
        let now = self.engine.now.0;
        if is_first && let Some(life) = self.life(launch.invocation) {
            life.signalled_at.get_or_insert(now);
        }
    }

    /// A wanted stop begins: those that require the unit, and are to go down too, are down.
    pub(super) fn judge_stop(&mut self, change: &Change) {
        if change.to != Word::Stopping || change.from == Word::Stopping {
            return;
        }
        let is_wanted = self.engine.find(&change.unit).is_some_and(|(_, unit)| {
            // On a life whose main process was never launched nobody relies, and its end waits for nobody.
            matches!(&unit.state, State::Stopping { end: End::Wanted, life, .. } if life.main.is_some())
        });
        if is_wanted {
            self.check_stop_order(&change.unit);
        }
    }

    fn check_stop_order(&mut self, name: &UnitName) {
        let Some((ix, _)) = self.engine.find(name) else {
            return;
        };
        if self
            .engine
            .shutdown
            .as_ref()
            .is_some_and(|shutdown| shutdown.killing)
        {
            return;
        }
        let others = self.engine.graph().edges(ix).required_by.clone();
        for v in others {
            let other = self.engine.unit(v);
            let goes = other.desired == Desired::Down && !other.restart_pending;
            let other = other.spec.name.clone();
            let is_there = self
                .live
                .iter()
                .any(|(id, p)| id.is_main() && p.unit == other && !p.has_exited);
            // The one that is not there may have been there: only one that had to go first tells anything.
            if goes {
                let is_told = self
                    .engine
                    .find(&other)
                    .and_then(|(_, unit)| unit.state.life())
                    .is_some_and(|life| life.main_is_there());
                self.hold(Invariant::StopOrder, !(is_there && is_told), |_| {
                    format!("{name} is stopped before {other}, which requires it and is to stop too")
                });
            }
        }
    }

    /// SIGKILL is about to be sent to all of a launch.
    pub(super) fn check_destroy(&mut self, launch: LaunchId) {
        if self.forbids_kill {
            self.broken(
                Invariant::Escalation,
                format!("{launch} is killed, and nobody may be: a canary"),
            );
        }
        if !launch.is_main() {
            return;
        }
        let now = self.engine.now;
        let Some(unit) = self.engine.unit_of(launch.invocation) else {
            return self.broken(
                Invariant::OwnProcess,
                format!("{launch} is destroyed, and nobody's"),
            );
        };
        let name = unit.spec.name.clone();
        let State::Stopping { life, .. } = &unit.state else {
            return self.broken(
                Invariant::Escalation,
                format!("{launch} of {name} is destroyed, and not stopping"),
            );
        };
        let ladder = life.spec.stop.timeout * u32::try_from(life.spec.stop.signals.len()).unwrap_or(1);
        let leftovers = life.exit.is_some();
        let is_forced = self
            .engine
            .shutdown
            .as_ref()
            .is_some_and(|shutdown| shutdown.killing);
        let Some(life) = self.life(launch.invocation) else {
            return;
        };
        // One that hangs was asked for a trace of where before its ladder.
        let is_through = life.signalled_at.is_some_and(|at| now.since(Mono(at)) >= ladder);
        self.hold(
            Invariant::Escalation,
            is_through || leftovers || is_forced,
            |_| format!("{launch} of {name} is killed before its ladder is through"),
        );
    }

    /// A shutdown begins: those that live now go in the reverse of their requirements, unless they end by themselves.
    pub(super) fn begin_order_of_ends(&mut self) {
        self.closing = Some(self.now);
        for truth in &mut self.units {
            truth.goes_in_order = false;
        }
        let active = self.engine.units().filter(|(_, unit)| unit.state.is_active());
        let there: Vec<u32> = active
            .map(|(_, unit)| super::make::number(&unit.spec.name))
            .collect();
        for who in there {
            self.truth_mut(who).goes_in_order = true;
        }
    }

    /// The last process of a main launch has gone.
    pub(super) fn check_order_of_ends(&mut self, invocation: Invocation, name: &UnitName) {
        if self.closing.is_none() {
            return;
        }
        let Some((ix, unit)) = self.engine.find(name) else {
            return;
        };
        let is_ordered = matches!(&unit.state, State::Stopping { end: End::Wanted, .. });
        let is_forced = self
            .engine
            .shutdown
            .as_ref()
            .is_some_and(|shutdown| shutdown.killing);
        let was_signalled = self
            .life(invocation)
            .is_some_and(|life| life.signalled_at.is_some());
        let was_there = std::mem::take(&mut self.truth_of(name).goes_in_order);
        if !is_ordered || is_forced || !was_signalled || !was_there {
            return;
        }
        let others = self.engine.graph().edges(ix).required_by.clone();
        for v in others {
            let other = self.engine.unit(v);
            let goes_too = other.state.life().is_some_and(|life| life.main_is_there());
            let other = other.spec.name.clone();
            let is_there = self.truth_of(&other).goes_in_order;
            self.hold(Invariant::Reverse, !(is_there && goes_too), |_| {
                format!("{name} has ended before {other}, which requires it")
            });
        }
    }

    /// The shutdown has come to its end, or its time is up.
    pub(super) fn check_end_of_shutdown(&mut self) {
        let Some(began) = self.closing else { return };
        let bound = self.plan.node.shutdown_timeout + limits::KILL_TIMEOUT + Duration::from_secs(60);
        let took = Mono(self.now).since(Mono(began));
        let is_over = self.finished.is_some() && took <= bound;
        self.hold(Invariant::ShutdownCloses, is_over, |world| {
            format!("the shutdown has ended with {:?} after {took:?}", world.finished)
        });
        let is_empty = self.live.is_empty() || self.finished == Some(1);
        self.hold(Invariant::ShutdownCloses, is_empty, |_| {
            "processes are left after the shutdown".to_owned()
        });
    }
}
