//! Restarts: invariants 7 to 11. The world keeps its own account of each unit's back-off and budget, as a range where it cannot
//! know (an operator's word may or may not have reset them).

use std::time::Duration;

use proto::reply::{CauseKind, State as Word};

use crate::engine::types::{Change, Mono};
use crate::engine::unit::State;
use crate::limits;
use crate::spec::{Exhausted, Restart};

use super::invariants::Invariant;
use super::make::number;
use super::malice::Fault;
use super::world::World;

/// `delay · factor^step`, capped, and shorter or longer by this share of jitter.
fn pause(policy: &Restart, step: u32, longer: bool) -> Duration {
    let mut plain = policy.delay.as_secs_f64();
    for _ in 0..step.min(64) {
        plain = (plain * f64::from(policy.factor_milli) / 1000.0).min(policy.max_delay.as_secs_f64());
    }
    let plain = plain.min(policy.max_delay.as_secs_f64());
    let share = f64::from(policy.jitter_milli) / 1000.0;
    let slack = 0.001;
    let seconds = if longer {
        plain * (1.0 + share) + slack
    } else {
        plain * (1.0 - share) - slack
    };
    Duration::from_secs_f64(seconds.max(0.0))
}

impl World {
    /// An operator's word, a load or a boot may have set its restarts back.
    pub(super) fn may_be_reset(&mut self, who: u32) {
        let truth = self.truth_mut(who);
        truth.step_low = 0;
        truth.times.clear();
        (truth.is_restart_due, truth.is_excused) = (false, true);
    }

    /// A life has ended, and what follows was decided.
    pub(super) fn judge_restart(&mut self, change: &Change) {
        let who = number(&change.unit);
        if change.from == Word::Stopping && change.to != Word::Stopping {
            self.book_stability(change, who);
        }
        // A hold hides where it is.
        let state = self.engine.find(&change.unit).map(|(_, unit)| unit.state.clone());
        if change.from == Word::Stopping
            && let Some(State::Backoff { until }) = state
            && matches!(change.to, Word::Backoff | Word::Held)
        {
            self.check_pause(change, who, until);
        } else if change.from == Word::Backoff && change.to == Word::Waiting {
            self.check_wake(change, who);
        }
        if change.to != Word::Backoff {
            self.truth_mut(who).back_at = None;
        }
        self.check_slow_try(change);
        let found = self.engine.find(&change.unit);
        let spent = found.map(|(_, unit)| (unit.restarts.total(), unit.restarts.spent()));
        let truth = self.truth_mut(who);
        (truth.total, truth.spent) = spent.unwrap_or_default();
    }

    /// One that has come to its limit is tried again, if its files say so.
    fn check_slow_try(&mut self, change: &Change) {
        if change.from != Word::Stopping || !change.cause.text.starts_with("restart limit") {
            return;
        }
        let Some((_, unit)) = self.engine.find(&change.unit) else {
            return;
        };
        let is_tried = matches!(unit.state, State::Failed { next_try: Some(_) });
        let is_to_be = unit.spec.restart.exhausted == Exhausted::Retry;
        self.hold(Invariant::WantedComes, is_tried == is_to_be, |_| {
            let how = if is_tried { "is" } else { "is not" };
            format!("{} {how} tried again after its limit", change.unit)
        });
    }

    /// A life that was ready for long enough sets the back-off back.
    fn book_stability(&mut self, change: &Change, who: u32) {
        let now = self.engine.now;
        let Some(policy) = self
            .engine
            .find(&change.unit)
            .map(|(_, unit)| unit.spec.restart.clone())
        else {
            return;
        };
        let Some(life) = change.invocation.and_then(|invocation| self.life(invocation)) else {
            return;
        };
        let (ready, is_ill) = (life.ready_at, life.is_ill);
        let is_stable = ready.is_some_and(|at| now.since(Mono(at)) >= policy.stable_after);
        let truth = self.truth_mut(who);
        if is_ill {
            // It counts until it was last known to be well.
            truth.step_low = 0;
        } else if is_stable && change.cause.kind != CauseKind::Recovery {
            // On another boot it is told long after it ended.
            (truth.step_low, truth.step_high) = (0, 0);
        }
    }

    fn check_pause(&mut self, change: &Change, who: u32, until: Mono) {
        let now = self.engine.now;
        let Some((_, unit)) = self.engine.find(&change.unit) else {
            return;
        };
        let (policy, total) = (unit.spec.restart.clone(), unit.restarts.total());
        let (step, times) = unit.restarts.spent();
        let truth = self.truth_mut(who);
        truth.back_at = Some(until.0);
        let is_host = std::mem::take(&mut truth.is_host_end);
        truth.is_excused = is_host;
        let (low, high, before) = (truth.step_low, truth.step_high, truth.total);
        let spent = truth.spent;
        let pause_is = until.since(now);
        if is_host {
            let is_free = (total == before || total == 0) && step <= spent.0 && times <= spent.1;
            self.hold(Invariant::HostIsFree, is_free, |_| {
                format!(
                    "{} has {total} restarts after {before} and {:?} after {spent:?} of its budget, for a host's fault",
                    change.unit,
                    (step, times)
                )
            });
            let most = limits::HOST_FAULT_MAX_DELAY * 11 / 10;
            self.hold(Invariant::BackoffCeiling, pause_is <= most, |_| {
                format!("{} waits {pause_is:?} for the host", change.unit)
            });
            return;
        }
        let (least, most) = (pause(&policy, low, false), pause(&policy, high, true));
        if low == 0 && high == 0 && total > 1 {
            self.count(Invariant::Reset);
        }
        if low > 0 && least > pause(&policy, 0, true) {
            // It was not stable: one that were forgiven for it would wait for less.
            self.hold(Invariant::Reset, pause_is >= least, |_| {
                format!("{} is forgiven, and was not stable", change.unit)
            });
        }
        self.hold(Invariant::BackoffFloor, pause_is >= least, |_| {
            format!(
                "{} waits only {pause_is:?} before restart {low} to {high} in a row",
                change.unit
            )
        });
        self.hold(Invariant::BackoffCeiling, pause_is <= most, |_| {
            format!(
                "{} waits {pause_is:?} before restart {low} to {high} in a row",
                change.unit
            )
        });
        let Some(max) = policy.max_restarts else {
            let truth = self.truth_mut(who);
            truth.step_low += 1;
            truth.step_high += 1;
            return;
        };
        let window = policy.window;
        let truth = self.truth_mut(who);
        truth.step_low += 1;
        truth.step_high += 1;
        while truth
            .times
            .front()
            .is_some_and(|at| now.since(Mono(*at)) >= window)
        {
            truth.times.pop_front();
        }
        truth.times.push_back(now.0);
        let count = truth.times.len();
        self.hold(Invariant::Budget, count <= max as usize, |_| {
            format!(
                "{} is restarted {count} times within {window:?}, and may be {max} times",
                change.unit
            )
        });
    }

    /// A back-off is over by time, or by somebody's word.
    fn check_wake(&mut self, change: &Change, who: u32) {
        let now = self.engine.now.0;
        let Some(until) = self.truth_mut(who).back_at else {
            return;
        };
        if change.cause.kind != CauseKind::Timer {
            return;
        }
        self.hold(Invariant::BackoffFloor, now >= until, |_| {
            format!(
                "{} is tried again {} ms too early",
                change.unit,
                (until - now) / 1_000_000
            )
        });
        let is_punctual = [Fault::Sleeps, Fault::ClockBack, Fault::Reboot]
            .iter()
            .all(|fault| self.drawn.of_fault(*fault) == 0);
        if is_punctual && self.kept.depth == 0 {
            self.hold(Invariant::BackoffCeiling, now <= until + 1_000_000, |_| {
                format!(
                    "{} is tried again {} ms too late",
                    change.unit,
                    (now - until) / 1_000_000
                )
            });
        }
    }
}
