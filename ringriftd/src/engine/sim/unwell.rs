//! The simulated world's side of health: processes hang, answer badly, or say that they are not well; and what must hold
//! whatever they do.

use std::time::Duration;

use proto::reply::Health;

use crate::engine::types::{Change, ChangeKind, Event, Mono, ProbeResult};
use crate::engine::unit::State;
use crate::ids::{Invocation, LaunchId};
use crate::spec::{OnUnhealthy, UnitSpec};

use super::choices::{Pick, key};
use super::invariants::Invariant;
use super::malice::Fault;
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
    pub(super) fn check_alone(&mut self, invocation: Invocation) {
        // Where time itself is unsure, one that was given up may still be under way.
        if [Fault::Sleeps, Fault::ClockBack]
            .iter()
            .any(|fault| self.drawn.of_fault(*fault) > 0)
        {
            return;
        }
        let launches = LaunchId::main(invocation)..LaunchId::main(Invocation(invocation.0 + 1));
        let is_run = self.live.range(launches).any(|(_, p)| p.is_probe);
        if is_run || self.asking.contains(&invocation) {
            self.broken(
                Invariant::Bounded,
                format!("life {} is probed twice at once", invocation.0),
            );
        }
    }

    pub(super) fn ask(&mut self, invocation: Invocation, nr: u64, timeout: Duration) {
        self.check_alone(invocation);
        self.asking.push(invocation);
        let (who, nth) = self
            .lives
            .get(invocation.0 as usize)
            .map_or((0, 0), |life| (life.who, life.nth));
        let place = nth * 4096 + nr as u32;
        let limit = timeout.as_millis() as u64;
        let soon = 1 + self.choices.below(key(Pick::AnswerAfter, who, place), limit);
        let (ms, result) = if self.is_hung(invocation) {
            (limit, ProbeResult::Failed("no answer".to_owned()))
        } else {
            let result = match self.chance(Fault::Unwell, key(Pick::Answer, who, place), 6) {
                0 => ProbeResult::Passed,
                1 => ProbeResult::Cannot("no such file".to_owned()),
                2 => ProbeResult::Void,
                _ => ProbeResult::Failed("500".to_owned()),
            };
            (soon, result)
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
        if spec.health.is_some() && self.rates.of_fault(Fault::Unwell) > 0 {
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
                self.asking.retain(|asked| asked != invocation);
                let row = &mut self.life(*invocation)?.rows.0;
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
                let life = self.life(*invocation)?;
                let row = &mut life.rows.1;
                *row = if *health == Health::Unhealthy { *row + 1 } else { 0 };
                let (who, nth) = (life.who, life.nth * 65_536 + (self.now / 1_000_000_000) as u32);
                let next = match self.chance(Fault::Unwell, key(Pick::Report, who, nth), 5) {
                    0 => Health::Healthy,
                    1 => Health::Degraded,
                    _ => Health::Unhealthy,
                };
                // A world in which nothing fails any more says nothing either: whoever waits for its end waits in vain.
                if self.rates.of_fault(Fault::Unwell) > 0 || *health != Health::Healthy {
                    let ms = spec.health_interval.as_millis() as u64;
                    let said = self.report(*invocation, next);
                    self.later(ms, said);
                }
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
    pub(super) fn check_hung(&mut self) {
        let is_quiet = [
            Fault::IgnoresKill,
            Fault::Dies,
            Fault::Sleeps,
            Fault::NewsLate,
            Fault::Reboot,
            Fault::Speaks,
            Fault::Load,
        ];
        if self
            .live
            .values()
            .all(|process| process.hangs_at.is_none_or(|at| at > self.now))
            || is_quiet.iter().any(|fault| self.drawn.of_fault(*fault) > 0)
            || self.kept.deaths > 0
        {
            return;
        }
        let mut unnoticed = None;
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
                unnoticed = Some(unit.spec.name.clone());
            }
        }
        if let Some(unit) = unnoticed {
            self.broken(
                Invariant::WantedComes,
                format!("{unit} hangs, and nobody noticed"),
            );
        }
    }

    /// Only failures in a row make a unit unhealthy, and only a process that hangs misses its watchdog.
    pub(super) fn judge_health(&mut self, change: &Change) {
        if change.kind != ChangeKind::HealthChanged || !change.cause.text.starts_with("unhealthy:") {
            return;
        }
        let Some(invocation) = change.invocation else {
            return self.broken(Invariant::StateMachine, "health without a life".to_owned());
        };
        // Reloads here leave health alone, so the present definition is the life's, which may be over by now.
        let unit = self.engine.find(&change.unit).map(|(_, unit)| unit);
        let failures = unit.and_then(|unit| unit.spec.health.as_ref().map(|health| health.failures));
        if change.cause.text.to_ascii_lowercase().contains("watchdog") {
            self.unhealthy.1 += 1;
            // It may have asked for that, or chosen another pause; and while nobody listened, it could not be heard.
            let is_simple = [
                Fault::Speaks,
                Fault::Dies,
                Fault::Sleeps,
                Fault::Load,
                Fault::NewsLate,
            ];
            let is_asked = change.cause.text.contains("trigger");
            if !self.is_hung(invocation)
                && !is_asked
                && is_simple.iter().all(|fault| self.drawn.of_fault(*fault) == 0)
                && self.kept.deaths == 0
            {
                self.broken(
                    Invariant::Escalation,
                    format!("{} was alive for its watchdog", change.unit),
                );
            }
            return;
        }
        self.unhealthy.0 += 1;
        let (probes, reports) = self.life(invocation).map_or((0, 0), |life| life.rows);
        // Where news is late the world knows of answers that the engine does not.
        let is_simple = [Fault::Load, Fault::NewsLate]
            .iter()
            .all(|fault| self.drawn.of_fault(*fault) == 0)
            && self.kept.deaths == 0;
        if failures.is_none_or(|n| probes < n && reports < n) && is_simple {
            let text = format!(
                "{} is unhealthy after {probes} and {reports} failures in a row",
                change.unit
            );
            self.broken(Invariant::WantedComes, text);
        }
    }
}
