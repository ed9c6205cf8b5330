//! Probes: whose turn it is, how it is asked, and its answer. One of a life is under way at most, and so many on the node
//! (`Lanes`); who has no place waits, the longest waiting first. Turns of different units are spread over the interval by
//! their names.
//!
//! An answer that nobody could hear in time is none ([`ProbeResult::Void`]), and a probe that could not be asked (its
//! command is missing) says nothing of the unit: both are no failures.
//!
//! Read first: `Engine::ask_probe` and `Engine::on_answer`.

use std::sync::Arc;
use std::time::Duration;

use proto::reply::{Cause, CauseKind, Exit};

use super::machine::Engine;
use super::restart::{mix, name_hash};
use super::types::{Action, Mono, ProbeResult, Role};
use super::unit::{Life, Process, ProcessPhase, StartPhase, State, Unit};
use super::watch::{CheckBy, Checked, Lanes, Row, Turn, cut};
use super::words::{describe, duration_text};
use crate::graph::Ix;
use crate::ids::{Invocation, LaunchId};
use crate::limits;
use crate::spec::Probe;

impl Engine {
    /// Its kind's own condition holds: ready, or, where there is a probe, when that first succeeds.
    pub(super) fn on_kind_ready(&mut self, ix: Ix, ready: Cause) {
        let now = self.now;
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        if life.spec.ready_probe.is_none() {
            return self.become_ready(ix, ready);
        }
        if let State::Starting { phase, .. } = &mut self.unit_mut(ix).state {
            *phase = StartPhase::Probing;
        }
        self.set_turn(ix, Turn::At(now));
    }

    /// The life is up: what watches it begins.
    pub(super) fn begin_watch(&mut self, ix: Ix) {
        let now = self.now;
        let watchdog = self.unit(ix).watchdog();
        let seed = self.seed;
        let unit = self.unit_mut(ix);
        let interval = unit.state.life().map(|life| life.spec.health_interval);
        let Some(life) = unit.state.life_mut() else { return };
        life.watch.probes = Row::default();
        life.watch.asked = None;
        life.watch.watchdog.until = watchdog.map(|every| now.after(every));
        let Some(health) = &life.spec.health else { return };
        let is_deaf = matches!(health.probe, Some(Probe::LogLine(_))) && life.foreign.is_some();
        if let (Some(_), Some(interval), false) = (&health.probe, interval, is_deaf) {
            let grace = health.grace;
            let spread = spread(seed, life.spec.name.as_str(), interval);
            let next = now.after(grace).after(spread);
            // What the [ready] probe left may still be on its way out.
            let turn = if life.probe.is_some() {
                Turn::Clearing { next }
            } else {
                Turn::At(next)
            };
            self.set_turn(ix, turn);
        }
        self.rearm(ix);
    }

    /// The life goes down: nothing watches it any more. What is left of a probe's process is `stop`'s business.
    pub(super) fn end_watch(&mut self, ix: Ix) {
        self.set_turn(ix, Turn::None);
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.watch.watchdog.until = None;
            life.watch.tell_at = None;
        }
        self.rearm(ix);
    }

    /// The only writer of a life's turn: keeps the node's places in line.
    pub(super) fn set_turn(&mut self, ix: Ix, turn: Turn) {
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        let old = life.watch.turn;
        if old == turn {
            return;
        }
        self.lanes.leave(old, ix);
        self.lanes.enter(turn, ix);
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.watch.turn = turn;
        }
        self.rearm(ix);
    }

    /// Works out the places anew: units have other numbers, or all of this is being restored.
    pub(super) fn recount_probes(&mut self) {
        self.lanes = Lanes::default();
        for ix in self.graph.all() {
            if let Some(life) = self.units[ix.0 as usize].state.life() {
                self.lanes.enter(life.watch.turn, ix);
            }
        }
    }

    /// The questions that an earlier manager asked itself: nobody answers them any more.
    pub(super) fn find_unheard_probes(&mut self) {
        let asked = |unit: &Unit| {
            let life = unit.state.life()?;
            match life.watch.turn {
                Turn::Asked {
                    nr,
                    is_command: false,
                    ..
                } => Some((life.invocation, nr)),
                Turn::Asked { .. }
                | Turn::None
                | Turn::At(_)
                | Turn::Waiting { .. }
                | Turn::Clearing { .. } => None,
            }
        };
        self.unheard_probes = self.units.iter().filter_map(asked).collect();
    }

    /// What of a life's health is due.
    pub(super) fn expire_watch(&mut self, ix: Ix) {
        let now = self.now;
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        let watch = &life.watch;
        let turn = watch.turn;
        if watch.tell_at.is_some_and(|at| at <= now) {
            if let Some(life) = self.unit_mut(ix).state.life_mut() {
                life.watch.tell_at = None;
            }
            self.tell_health(ix);
        }
        let watch = self.unit(ix).state.life().map(|life| &life.watch);
        if watch.is_some_and(|watch| watch.watchdog.until.is_some_and(|at| at <= now)) {
            let every = self.unit(ix).watchdog().unwrap_or_default();
            let text = format!("its watchdog heard nothing for {}", duration_text(every));
            return self.on_hung(ix, text);
        }
        match turn {
            Turn::At(at) if at <= now => self.ask_probe(ix, at),
            Turn::Asked { until, .. } if until <= now => self.on_overdue(ix, turn),
            Turn::At(_) | Turn::Asked { .. } | Turn::None | Turn::Waiting { .. } | Turn::Clearing { .. } => {}
        }
    }

    /// Asks those that wait, as long as there are places.
    pub(super) fn fill_places(&mut self) {
        for is_command in [false, true] {
            while self.lanes.has_room(is_command)
                && let Some(&(due, ix)) = self.lanes.of(is_command).0.waiting.first()
            {
                self.ask_probe(ix, due);
                // Whatever came of it, it does not wait any more.
                let turn = self.unit(ix).state.life().map(|life| life.watch.turn);
                if turn == Some(Turn::Waiting { due, is_command }) {
                    self.set_turn(ix, Turn::None);
                }
            }
        }
    }

    fn ask_probe(&mut self, ix: Ix, due: Mono) {
        let now = self.now;
        let is_starting = self.unit(ix).is_probing_ready();
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        let probe = life.probe_in(is_starting);
        let Some((probe, timeout, by)) = probe.filter(|_| is_starting || self.unit(ix).is_up()) else {
            return self.set_turn(ix, Turn::None);
        };
        let (probe, is_command) = (probe.clone(), matches!(probe, Probe::Command(_)));
        let spec = Arc::clone(&life.spec);
        let (invocation, nr) = (life.invocation, life.watch.nr + 1);
        // Leaving a waiting turn frees nothing, so this is the same question before and after.
        if !self.lanes.has_room(is_command) {
            return self.set_turn(ix, Turn::Waiting { due, is_command });
        }
        let since = life.watch.asked.or(life.ready);
        let since = if is_starting { None } else { since };
        let until = now.after(timeout).after(limits::PREPARE_TIMEOUT);
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.watch.nr = nr;
            life.watch.asked = Some(now);
        }
        if is_command {
            let role = match by {
                CheckBy::Ready => Role::ReadyProbe,
                CheckBy::Probe | CheckBy::Report | CheckBy::Watchdog => Role::Probe,
            };
            self.launch_probe(ix, role);
        } else {
            self.actions.push_back(Action::Probe {
                invocation,
                nr,
                probe,
                timeout,
                since,
                spec,
            });
        }
        let turn = Turn::Asked {
            nr,
            due,
            at: now,
            until,
            is_command,
        };
        self.set_turn(ix, turn);
    }

    fn launch_probe(&mut self, ix: Ix, role: Role) {
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        let launch = LaunchId {
            invocation: life.invocation,
            step: life.next_step,
        };
        life.next_step = life.next_step.saturating_add(1);
        life.probe = Some(Process::asked(launch, role));
        let spec = Arc::clone(&life.spec);
        self.actions.push_back(Action::Launch { launch, role, spec });
    }

    /// After a manager's death: questions of its own died with it, and are asked again under their numbers.
    pub(super) fn ask_probes_again(&mut self) {
        let now = self.now;
        for (invocation, unheard) in std::mem::take(&mut self.unheard_probes) {
            let Some(&ix) = self.lives.get(&invocation) else {
                continue;
            };
            let is_starting = self.unit(ix).is_probing_ready();
            let Some(life) = self.unit(ix).state.life() else {
                continue;
            };
            // One that was asked since then is under way.
            let due = match life.watch.turn {
                Turn::Asked {
                    nr,
                    due,
                    is_command: false,
                    ..
                } if nr == unheard => due,
                _ => continue,
            };
            let nr = unheard;
            let Some((probe, timeout, _)) = life.probe_in(is_starting) else {
                self.set_turn(ix, Turn::None);
                continue;
            };
            // What was written since the last one before this may have been missed by it: from its interval on.
            let since = life.watch.asked.or(life.ready);
            let since = since.map(|at| Mono(at.0.saturating_sub(nanos(life.spec.health_interval))));
            let action = Action::Probe {
                invocation: life.invocation,
                nr,
                probe: probe.clone(),
                timeout,
                since: if is_starting { None } else { since },
                spec: Arc::clone(&life.spec),
            };
            let turn = Turn::Asked {
                nr,
                due,
                at: now,
                until: now.after(timeout).after(limits::PREPARE_TIMEOUT),
                is_command: false,
            };
            self.set_turn(ix, turn);
            self.actions.push_back(action);
        }
    }

    /// Lives that nobody remembered, and of which nothing watches: from here on, as if they had just become ready.
    pub(super) fn watch_taken_in(&mut self) {
        for ix in self.graph.all() {
            let unit = self.unit(ix);
            let is_new = |life: &Life| {
                life.watch.turn == Turn::None && life.watch.watchdog.until.is_none() && life.probe.is_none()
            };
            let wants = |life: &Life| {
                life.spec
                    .health
                    .as_ref()
                    .is_some_and(|h| h.probe.is_some() || h.watchdog.is_some())
            };
            if unit.is_up() && unit.state.life().is_some_and(|life| is_new(life) && wants(life)) {
                self.begin_watch(ix);
            }
        }
    }

    /// The keeper has not heard of this launch of a probe: it is asked for again, with all of its time.
    pub(super) fn relaunch_probe(&mut self, ix: Ix, launch: LaunchId, role: Role) {
        let now = self.now;
        let is_starting = role == Role::ReadyProbe;
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        let spec = Arc::clone(&life.spec);
        let timeout = life.probe_in(is_starting).map(|(_, timeout, _)| timeout);
        let (Turn::Asked { nr, due, .. }, Some(timeout)) = (life.watch.turn, timeout) else {
            // Its verdict was given; nothing of it ever was there.
            return self.on_probe_gone(ix);
        };
        let turn = Turn::Asked {
            nr,
            due,
            at: now,
            until: now.after(timeout).after(limits::PREPARE_TIMEOUT),
            is_command: true,
        };
        self.set_turn(ix, turn);
        self.actions.push_back(Action::Launch { launch, role, spec });
    }

    /// The command of a probe runs: its time counts from here.
    pub(super) fn on_probe_launched(&mut self, ix: Ix) {
        let now = self.now;
        let is_starting = self.unit(ix).is_probing_ready();
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        let timeout = life.probe_in(is_starting).map(|(_, timeout, _)| timeout);
        match (life.watch.turn, timeout) {
            (Turn::Asked { nr, due, .. }, Some(timeout)) => {
                let turn = Turn::Asked {
                    nr,
                    due,
                    at: now,
                    until: now.after(timeout),
                    is_command: true,
                };
                self.set_turn(ix, turn);
            }
            // Given up before it began.
            (Turn::Clearing { .. }, _) => {
                self.destroy_probe(ix);
            }
            (_, _) => self.advance_stop(ix),
        }
    }

    /// There is no answer within its time.
    fn on_overdue(&mut self, ix: Ix, turn: Turn) {
        let Turn::Asked {
            nr,
            due,
            at,
            is_command,
            ..
        } = turn
        else {
            return;
        };
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        if !is_command {
            // The prober keeps its own time, and judges by it: this one is lost.
            return self.on_answer(ix, ProbeResult::Void, false);
        }
        let is_asked = life
            .probe
            .as_ref()
            .is_some_and(|p| p.phase == ProcessPhase::Asked);
        if is_asked {
            // The host is slow to start it, and the unit is not to blame.
            let until = self.now.after(limits::PREPARE_TIMEOUT);
            let turn = Turn::Asked {
                nr,
                due,
                at,
                until,
                is_command,
            };
            return self.set_turn(ix, turn);
        }
        let is_starting = self.unit(ix).is_probing_ready();
        let timeout = life
            .probe_in(is_starting)
            .map_or(limits::HEALTH_TIMEOUT, |(_, t, _)| t);
        let text = format!("its command was not through within {}", duration_text(timeout));
        self.destroy_probe(ix);
        self.on_answer(ix, ProbeResult::Failed(text), true);
    }

    /// SIGKILL to all of the probe's process, once, and not before the keeper has answered its launch.
    pub(super) fn destroy_probe(&mut self, ix: Ix) {
        let Some(probe) = self
            .unit_mut(ix)
            .state
            .life_mut()
            .and_then(|life| life.probe.as_mut())
        else {
            return;
        };
        if probe.phase == ProcessPhase::Asked {
            return;
        }
        let launch = probe.launch;
        if !std::mem::replace(&mut probe.is_killed, true) {
            self.actions.push_back(Action::Destroy { launch });
        }
    }

    /// A prober's answer.
    pub(super) fn on_probed(&mut self, invocation: Invocation, nr: u64, result: ProbeResult) {
        let Some(&ix) = self.lives.get(&invocation) else {
            self.stale += 1;
            return;
        };
        let turn = self.unit(ix).state.life().map(|life| life.watch.turn);
        match turn {
            Some(Turn::Asked {
                nr: asked,
                is_command: false,
                ..
            }) if asked == nr => self.on_answer(ix, result, false),
            Some(_) | None => self.stale += 1,
        }
    }

    /// The command of a probe could not be started.
    pub(super) fn on_probe_failed(&mut self, ix: Ix, text: String) {
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.probe = None;
        }
        self.on_answer(ix, ProbeResult::Cannot(text), false);
        self.advance_stop(ix);
    }

    /// The command of a probe ended; `is_gone`: and left nothing behind.
    pub(super) fn on_probe_exit(&mut self, ix: Ix, exit: Exit, is_gone: bool) {
        let turn = self.unit(ix).state.life().map(|life| life.watch.turn);
        if is_gone && let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.probe = None;
        }
        if matches!(turn, Some(Turn::Asked { .. })) {
            let result = match exit {
                Exit::Code(0) => ProbeResult::Passed,
                // Nobody's child any more: its keeper died.
                Exit::Unknown => ProbeResult::Void,
                Exit::Code(_) | Exit::Signal { .. } => {
                    ProbeResult::Failed(format!("its command {}", describe(exit)))
                }
            };
            self.on_answer(ix, result, !is_gone);
        } else if is_gone {
            self.on_probe_gone(ix);
        }
    }

    /// Nothing of a probe's process is left.
    pub(super) fn on_probe_gone(&mut self, ix: Ix) {
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        life.probe = None;
        if let Turn::Clearing { next } = life.watch.turn {
            self.set_turn(ix, Turn::At(next));
        }
        self.advance_stop(ix);
    }

    /// What came of the probe under way. `is_left`: of its process something is still there.
    fn on_answer(&mut self, ix: Ix, result: ProbeResult, is_left: bool) {
        let now = self.now;
        let is_starting = self.unit(ix).is_probing_ready();
        let Some(life) = self.unit(ix).state.life() else {
            return;
        };
        let Turn::Asked { due, at, .. } = life.watch.turn else {
            return;
        };
        let interval = life.spec.health_interval;
        let next = match (&result, is_starting) {
            (ProbeResult::Void, _) => now.after(limits::PROBE_AGAIN),
            (_, true) => now.after(ready_pause(life.watch.tries)),
            // Kept to its own grid, so that units stay spread; what was missed is left out.
            (_, false) => due.after(interval).max(now),
        };
        let turn = if is_left {
            Turn::Clearing { next }
        } else {
            Turn::At(next)
        };
        self.set_turn(ix, turn);
        let by = if is_starting {
            CheckBy::Ready
        } else {
            CheckBy::Probe
        };
        let took = now.since(at);
        let Some(life) = self.unit_mut(ix).state.life_mut() else {
            return;
        };
        if is_starting {
            life.watch.tries = life.watch.tries.saturating_add(1);
        }
        let row = &mut life.watch.probes;
        let checked = match result {
            ProbeResult::Void => return,
            ProbeResult::Passed => {
                row.passed(now);
                Checked::Passed
            }
            ProbeResult::Failed(text) => {
                let text = cut(text);
                row.failed(now, text.clone());
                Checked::Failed(text)
            }
            ProbeResult::Cannot(text) => {
                let text = cut(text);
                row.cannot = Some(text.clone());
                row.at = Some(now);
                if is_starting {
                    row.text = Some(text.clone());
                }
                Checked::Cannot(text)
            }
        };
        let has_passed = checked == Checked::Passed;
        self.remember_check(ix, took, by, checked);
        if !is_starting {
            self.judge_health(ix);
        } else if has_passed {
            if !is_left {
                self.set_turn(ix, Turn::None);
            }
            let cause = self.own_cause(ix, CauseKind::Probe, "its [ready] probe succeeded");
            self.become_ready(ix, cause);
        }
    }
}

/// Where in its interval a unit's turn is: by its name, and another one on each node.
fn spread(seed: u64, name: &str, interval: Duration) -> Duration {
    let ns = nanos(interval).max(1);
    Duration::from_nanos(mix(seed ^ name_hash(name)) % ns)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The pause after this many tries of a `[ready]` probe.
fn ready_pause(tries: u32) -> Duration {
    limits::READY_PROBE_PAUSE
        .saturating_mul(1 << tries.min(16))
        .min(limits::READY_PROBE_MAX_PAUSE)
}
