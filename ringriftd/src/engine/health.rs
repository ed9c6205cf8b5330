//! How well a life is, and what follows. Three things tell: a *probe* that is asked when its turn comes (`probing`),
//! *reports* that the unit makes of itself, and the *watchdog*, a deadline that the unit itself puts off. Probes and reports
//! have a row each (`watch`): `failures` in a row make it ill, one success makes it well. What then is `on_failure`'s
//! business; a missed watchdog always ends the life, since a process that hangs has no opinion.
//!
//! Read first: `Engine::judge_health`.

use std::time::Duration;

use proto::reply::{CauseKind, Health};

use super::cause;
use super::machine::Engine;
use super::types::ChangeKind;
use super::unit::End;
use super::watch::{Check, CheckBy, Checked, Report, cut, word};
use crate::graph::Ix;
use crate::ids::Invocation;
use crate::limits;
use crate::spec::{HealthSpec, OnUnhealthy};

impl Engine {
    pub(super) fn remember_check(&mut self, ix: Ix, took: Duration, by: CheckBy, result: Checked) {
        let at = self.now;
        let checks = &mut self.unit_mut(ix).checks;
        let nr = checks.back().map_or(0, |last| last.nr).saturating_add(1);
        if checks.len() >= limits::CHECKS_KEPT {
            checks.pop_front();
        }
        checks.push_back(Check {
            at,
            took,
            by,
            result,
            nr,
        });
    }

    /// `X_RINGRIFT_HEALTH=`.
    pub(super) fn on_health_said(&mut self, invocation: Invocation, health: Health, text: Option<String>) {
        let Some(&ix) = self.lives.get(&invocation) else {
            self.stale += 1;
            return;
        };
        let now = self.now;
        let is_up = self.unit(ix).is_up();
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        let text = text.map(cut);
        let is_news = life.watch.said.as_ref().is_none_or(|said| said.health != health);
        life.watch.said = Some(Report {
            health,
            text: text.clone(),
        });
        let grace = life
            .spec
            .health
            .as_ref()
            .map_or(Duration::ZERO, |spec| spec.grace);
        let is_in_force = is_up && life.ready.is_some_and(|ready| ready.after(grace) <= now);
        // A unit that repeats itself without a pause is counted as often as it was asked to speak.
        let half = life.spec.health_interval / 2;
        let row = &mut life.watch.reports;
        let is_due = row.at.is_none_or(|at| now.since(at) >= half);
        if !is_news && !is_due {
            return;
        }
        let checked = match health {
            Health::Unhealthy => {
                let text = text.unwrap_or_else(|| "it gave no reason".to_owned());
                if is_in_force {
                    row.failed(now, text.clone());
                }
                Checked::Failed(text)
            }
            Health::Degraded => {
                row.passed(now);
                Checked::Degraded(text)
            }
            Health::Healthy | Health::Unknown => {
                row.passed(now);
                Checked::Passed
            }
        };
        row.at = Some(now);
        self.remember_check(ix, Duration::ZERO, CheckBy::Report, checked);
        self.judge_health(ix);
    }

    /// `WATCHDOG=1`.
    pub(super) fn on_watchdog(&mut self, invocation: Invocation) {
        let Some(&ix) = self.lives.get(&invocation) else {
            self.stale += 1;
            return;
        };
        self.feed(ix);
    }

    fn feed(&mut self, ix: Ix) {
        let now = self.now;
        let (is_up, every) = (self.unit(ix).is_up(), self.unit(ix).watchdog());
        if !is_up {
            return;
        }
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.watch.watchdog.until = every.map(|every| now.after(every));
            life.watch.watchdog.fed = every.map(|_| now);
        }
        self.rearm(ix);
        self.tell_health(ix);
    }

    /// `WATCHDOG_USEC=`: from here on it speaks this often; zero: not at all.
    pub(super) fn on_watchdog_every(&mut self, invocation: Invocation, every: Duration) {
        let Some(&ix) = self.lives.get(&invocation) else {
            self.stale += 1;
            return;
        };
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.watch.watchdog.chosen = Some(every);
        }
        self.feed(ix);
    }

    /// `WATCHDOG=trigger`.
    pub(super) fn on_watchdog_trigger(&mut self, invocation: Invocation) {
        let Some(&ix) = self.lives.get(&invocation) else {
            self.stale += 1;
            return;
        };
        if self.unit(ix).is_up() && self.unit(ix).watchdog().is_some() {
            self.on_hung(ix, "it asked to be treated as hung (WATCHDOG=trigger)".to_owned());
        }
    }

    pub(super) fn on_hung(&mut self, ix: Ix, why: String) {
        let took = Duration::ZERO;
        self.remember_check(ix, took, CheckBy::Watchdog, Checked::Failed(why.clone()));
        let text = format!("unhealthy: {why}");
        self.end_unhealthy(ix, End::Hung(text.clone()), text);
    }

    /// A row has changed: the world is told, and what follows is done.
    pub(super) fn judge_health(&mut self, ix: Ix) {
        let unit = self.unit(ix);
        let Some(life) = unit.state.life() else { return };
        let (health, why) = unit.health();
        let ends_it = |spec: &HealthSpec| spec.on_failure == OnUnhealthy::Restart;
        let is_over = health == Health::Unhealthy && life.spec.health.as_ref().is_some_and(ends_it);
        if is_over && unit.is_up() {
            let text = format!("unhealthy: {}", why.unwrap_or_default());
            self.end_unhealthy(ix, End::Unhealthy(text.clone()), text);
        } else {
            self.tell_health(ix);
        }
    }

    fn end_unhealthy(&mut self, ix: Ix, end: End, text: String) {
        let unit = self.unit_mut(ix);
        unit.restarts.book_unhealthy();
        unit.last_error = Some(text.clone());
        self.emit_health(ix, Health::Unhealthy, &text);
        let cause = self.own_cause(ix, CauseKind::Probe, text);
        self.begin_stop(ix, end, ChangeKind::StatusChanged, cause);
    }

    /// Tells the world, if the word is another one; one that flaps, once a while.
    pub(super) fn tell_health(&mut self, ix: Ix) {
        let now = self.now;
        let unit = self.unit(ix);
        if !unit.is_up() {
            return;
        }
        let (health, why) = unit.health();
        let Some(life) = unit.state.life() else { return };
        let watch = &life.watch;
        if watch.told.unwrap_or(Health::Unknown) == health {
            if watch.tell_at.is_some() {
                if let Some(life) = self.unit_mut(ix).state.life_mut() {
                    life.watch.tell_at = None;
                }
                self.rearm(ix);
            }
            return;
        }
        let free = watch.told_at.map(|at| at.after(limits::HEALTH_TELL_PAUSE));
        if let Some(free) = free.filter(|free| *free > now) {
            if let Some(life) = self.unit_mut(ix).state.life_mut() {
                life.watch.tell_at = Some(free);
            }
            return self.rearm(ix);
        }
        let text = match why {
            Some(why) => format!("{}: {why}", word(health)),
            None => word(health).to_owned(),
        };
        self.emit_health(ix, health, &text);
    }

    fn emit_health(&mut self, ix: Ix, health: Health, text: &str) {
        let now = self.now;
        let unit = self.unit_mut(ix);
        let shown = unit.word;
        let last_seq = unit.last_seq;
        let before = match unit.state.life_mut() {
            Some(life) => {
                life.watch.tell_at = None;
                life.watch.told_at = Some(now);
                life.watch.told.replace(health).unwrap_or(Health::Unknown)
            }
            None => Health::Unknown,
        };
        self.rearm(ix);
        if before == health {
            return;
        }
        let text = format!("{text} (was {})", word(before));
        let cause = cause::own(CauseKind::Probe, last_seq, text);
        self.emit(ix, ChangeKind::HealthChanged, shown, shown, cause);
    }
}
