//! The simulated world's side of health: processes hang, answer badly, or say that they are not well; and what must hold
//! whatever they do.

use std::time::Duration;

use proto::reply::Health;

use crate::engine::types::{Change, ChangeKind, Event, Mono, ProbeResult};
use crate::engine::unit::State;
use crate::ids::{Invocation, LaunchId};
use crate::spec::{OnUnhealthy, UnitSpec};

use super::world::World;

/// What the world's own delays may add to a bound: a command is not launched at once.
const SLACK: Duration = Duration::from_secs(2);

impl World {
    /// The main process of this life does nothing any more.
    pub(super) fn is_hung(&self, invocation: Invocation) -> bool {
        let main = self.live.get(&LaunchId::main(invocation));
        main.and_then(|main| main.hangs_at)
            .is_some_and(|at| at <= self.now)
    }

    /// Never two at once for one life, of whichever kind.
    pub(super) fn check_alone(&self, invocation: Invocation) {
        let is_run = self
            .live
            .iter()
            .any(|(id, p)| id.invocation == invocation && p.is_probe);
        if is_run || self.asking.contains(&invocation) {
            self.fail(&format!("life {} is probed twice at once", invocation.0));
        }
    }

    pub(super) fn ask(&mut self, invocation: Invocation, nr: u64, timeout: Duration) {
        self.check_alone(invocation);
        self.asking.insert(invocation);
        let limit = timeout.as_millis() as u64;
        let (ms, result) = if self.is_hung(invocation) {
            (limit, ProbeResult::Failed("no answer".to_owned()))
        } else if self.dice.percent(self.malice.unwell) {
            let result = match self.dice.below(5) {
                0 => ProbeResult::Cannot("no such file".to_owned()),
                1 => ProbeResult::Void,
                _ => ProbeResult::Failed("500".to_owned()),
            };
            (1 + self.dice.below(limit), result)
        } else {
            (1 + self.dice.below(limit), ProbeResult::Passed)
        };
        let event = Event::Probed {
            invocation,
            nr,
            result,
        };
        self.later(ms, event);
    }

    /// It speaks for the first time after so many ms, and then as often as it was told to.
    pub(super) fn speak_later(&mut self, ms: u64, invocation: Invocation, spec: &UnitSpec) {
        if spec
            .health
            .as_ref()
            .is_some_and(|health| health.watchdog.is_some())
        {
            self.later(ms, Event::Watchdog { invocation });
        }
        if spec.health.is_some() && self.malice.unwell > 0 {
            self.later(ms, self.report(invocation, Health::Healthy));
        }
    }

    fn report(&self, invocation: Invocation, health: Health) -> Event {
        Event::HealthSaid {
            invocation,
            health,
            text: None,
        }
    }

    /// What the units say and answer, as it happens.
    pub(super) fn happen_to_health(&mut self, event: Event) -> Option<Event> {
        match &event {
            Event::Probed {
                invocation, result, ..
            } => {
                self.asking.remove(invocation);
                let row = &mut self.rows.entry(*invocation).or_default().0;
                match result {
                    ProbeResult::Passed => *row = 0,
                    ProbeResult::Failed(_) => *row += 1,
                    ProbeResult::Cannot(_) | ProbeResult::Void => {}
                }
            }
            Event::Watchdog { invocation } => {
                let spec = self.speaker(*invocation)?;
                let every = spec.health.as_ref()?.watchdog?;
                self.later(every.as_millis() as u64 / 2, event.clone());
            }
            Event::HealthSaid {
                invocation, health, ..
            } => {
                let spec = self.speaker(*invocation)?;
                let row = &mut self.rows.entry(*invocation).or_default().1;
                *row = if *health == Health::Unhealthy { *row + 1 } else { 0 };
                let next = match self.dice.below(100) {
                    n if n < self.malice.unwell => Health::Degraded,
                    n if n < 5 * self.malice.unwell => Health::Unhealthy,
                    _ => Health::Healthy,
                };
                let ms = spec.health_interval.as_millis() as u64;
                let said = self.report(*invocation, next);
                self.later(ms, said);
            }
            _ => {}
        }
        Some(event)
    }

    /// The definition of a life whose process can speak.
    fn speaker(&self, invocation: Invocation) -> Option<std::sync::Arc<UnitSpec>> {
        let process = self.live.get(&LaunchId::main(invocation))?;
        if process.has_exited || self.is_hung(invocation) {
            return None;
        }
        let life = self.engine.unit_of(invocation)?.state.life()?;
        Some(std::sync::Arc::clone(&life.spec))
    }

    /// A unit that hangs and is asked is found within its interval times failures and one timeout. A manager that dies
    /// asks anew, so there is no bound while it does.
    pub(super) fn check_hung(&self) {
        if self.malice.crashes > 0 {
            return;
        }
        for (_, unit) in self.engine.units() {
            let (State::Running { life } | State::Reloading { life, .. }) = &unit.state else {
                continue;
            };
            let main = self.live.get(&LaunchId::main(life.invocation));
            let Some(at) = main.and_then(|main| main.hangs_at) else {
                continue;
            };
            let (Some(health), Some(ready)) = (&life.spec.health, life.ready) else {
                continue;
            };
            let since = Mono(at).max(ready);
            let bound = match health.watchdog {
                Some(every) => Some(since.after(every)),
                None if health.on_failure != OnUnhealthy::Restart || health.probe.is_none() => None,
                None => {
                    let begin = Mono(at).max(ready.after(health.grace));
                    let rounds = life.spec.health_interval * health.failures;
                    Some(begin.after(rounds).after(health.timeout).after(SLACK))
                }
            };
            if bound.is_some_and(|bound| Mono(self.now) > bound) {
                self.fail(&format!("{} hangs, and nobody noticed", unit.spec.name));
            }
        }
    }

    /// Only failures in a row make a unit unhealthy, and only a process that hangs misses its watchdog.
    pub(super) fn judge_health(&mut self, change: &Change) {
        if change.kind != ChangeKind::HealthChanged || !change.cause.text.starts_with("unhealthy:") {
            return;
        }
        let Some(invocation) = change.invocation else {
            self.fail("health without a life")
        };
        // Reloads here leave health alone, so the present definition is the life's, which may be over by now.
        let unit = self.engine.find(&change.unit).map(|(_, unit)| unit);
        let failures = unit.and_then(|unit| unit.spec.health.as_ref().map(|health| health.failures));
        if change.cause.text.contains("watchdog") {
            self.unhealthy.1 += 1;
            if !self.is_hung(invocation) {
                self.fail(&format!("{} was alive for its watchdog", change.unit));
            }
            return;
        }
        self.unhealthy.0 += 1;
        let (probes, reports) = self.rows.get(&invocation).copied().unwrap_or_default();
        if failures.is_none_or(|n| probes < n && reports < n) && self.malice.crashes == 0 {
            self.fail(&format!(
                "{} is unhealthy after {probes} and {reports} failures in a row",
                change.unit
            ));
        }
    }
}
