//! How well a life is: what is asked of it and when, what its answers come to, and what follows.
//!
//! Three things tell of a life's health. A *probe* is asked when its turn comes ([`Turn`]); *reports* are what the unit
//! says of itself; the *watchdog* is a deadline that the unit itself puts off. Probes and reports have a [`Row`] each:
//! `failures` in a row make it ill, one success makes it well. What then is `on_failure`'s business; a missed watchdog
//! always ends the life, since a process that hangs has no opinion.
//!
//! A life has one probe under way at most, and the node so many ([`Lanes`]); whose turn it is and who has no place
//! waits, the longest waiting first. Turns of different units are spread over the interval by their names.
//!
//! An answer that nobody could hear in time is none ([`ProbeResult::Void`]), and a probe that could not be asked (its
//! command is missing) says nothing of the unit: both are no failures.
//!
//! Read first: [`Watch`], then `Engine::ask_probe` and `Engine::on_answer`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::reply::{Cause, CauseKind, Exit, Health};
use serde::{Deserialize, Serialize};

use super::cause;
use super::machine::Engine;
use super::restart::{mix, name_hash};
use super::types::{Action, ChangeKind, Mono, ProbeResult, Role};
use super::unit::{End, Life, Process, ProcessPhase, StartPhase, State, Unit};
use super::words::{describe, duration_text};
use crate::graph::Ix;
use crate::ids::{Invocation, LaunchId};
use crate::limits;
use crate::spec::{HealthSpec, OnUnhealthy, Probe};

/// Where the probe of a life stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Turn {
    /// There is none, or the life is not that far.
    #[default]
    None,
    /// It is asked then.
    At(Mono),
    /// It was due then, and waits for a place among the node's probes.
    Waiting {
        /// Since when.
        due: Mono,
        /// It is a command.
        is_command: bool,
    },
    /// It is under way.
    Asked {
        /// Its number: answers to older ones are none.
        nr: u64,
        /// When it was due.
        due: Mono,
        /// When it was asked.
        at: Mono,
        /// By when there must be an answer.
        until: Mono,
        /// It is a command.
        is_command: bool,
    },
    /// Its verdict is given, and what is left of its process is being killed.
    Clearing {
        /// When the next one is asked at the earliest.
        next: Mono,
    },
}

impl Turn {
    /// It takes a place among the node's probes; which.
    fn place(self) -> Option<bool> {
        match self {
            Self::Asked { is_command, .. } => Some(is_command),
            Self::Clearing { .. } => Some(true),
            Self::None | Self::At(_) | Self::Waiting { .. } => None,
        }
    }

    fn deadline(self) -> Option<Mono> {
        match self {
            Self::At(at) => Some(at),
            Self::Asked { until, .. } => Some(until),
            Self::None | Self::Waiting { .. } | Self::Clearing { .. } => None,
        }
    }
}

/// What the answers of one kind have come to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Failures since the last success.
    pub failed: u32,
    /// When the first of them was.
    pub since: Option<Mono>,
    /// There was a success in this life.
    pub has_passed: bool,
    /// What the last failure said.
    pub text: Option<String>,
    /// Why the last one could not be asked.
    pub cannot: Option<String>,
    /// When the last one was booked.
    pub at: Option<Mono>,
}

impl Row {
    fn passed(&mut self, now: Mono) {
        *self = Self {
            has_passed: true,
            at: Some(now),
            ..Self::default()
        };
    }

    fn failed(&mut self, now: Mono, text: String) {
        self.failed = self.failed.saturating_add(1);
        self.since.get_or_insert(now);
        self.text = Some(text);
        self.cannot = None;
        self.at = Some(now);
    }

    /// Until when it was surely well.
    fn well_until(&self) -> Option<Mono> {
        self.since.filter(|_| self.has_passed)
    }
}

/// What a unit said of itself last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its word.
    pub health: Health,
    /// Its status text at that time.
    pub text: Option<String>,
}

/// The unit's own deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Watchdog {
    /// What the unit chose instead of its file's (`WATCHDOG_USEC=`); zero: none.
    pub chosen: Option<Duration>,
    /// By when it must be heard of again.
    pub until: Option<Mono>,
    /// When it was last heard of.
    pub fed: Option<Mono>,
}

/// All that is known of a life's health.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    /// Its probe. Only `Engine::set_turn` changes it.
    pub turn: Turn,
    /// The number of the last probe.
    pub nr: u64,
    /// Tries of the `[ready]` probe so far.
    pub tries: u32,
    /// When the last probe was asked.
    pub asked: Option<Mono>,
    /// Probes.
    pub probes: Row,
    /// Reports.
    pub reports: Row,
    /// The last report.
    pub said: Option<Report>,
    /// The watchdog.
    pub watchdog: Watchdog,
    /// The word that was last told to the world.
    pub told: Option<Health>,
    /// When.
    pub told_at: Option<Mono>,
    /// A change that is told then: words that flap are told once a while.
    pub tell_at: Option<Mono>,
}

impl Watch {
    /// The one time at which something must happen if nothing else does.
    pub fn deadline(&self) -> Option<Mono> {
        [self.turn.deadline(), self.watchdog.until, self.tell_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// The word for a life that is up, with the reason.
    fn verdict(&self, spec: Option<&HealthSpec>) -> (Health, Option<String>) {
        let mut found: Vec<(Health, Option<String>)> = Vec::new();
        if self.watchdog.fed.is_some() {
            found.push((Health::Healthy, None));
        }
        match spec {
            None => found.extend(self.said.iter().map(|said| (said.health, said.text.clone()))),
            Some(spec) if spec.on_failure == OnUnhealthy::Ignore => {}
            Some(spec) => {
                found.extend(self.of_probes(spec.failures));
                found.extend(self.of_reports(spec.failures));
            }
        }
        let badness = |health: Health| match health {
            Health::Unknown => 0,
            Health::Healthy => 1,
            Health::Degraded => 2,
            Health::Unhealthy => 3,
        };
        let remark = found.iter().find_map(|(_, text)| text.clone());
        // The first of the worst.
        let worst = found.into_iter().rev().max_by_key(|(health, _)| badness(*health));
        match worst {
            Some((health, text)) => (health, text.or(remark)),
            None => (Health::Unknown, None),
        }
    }

    fn of_probes(&self, failures: u32) -> Option<(Health, Option<String>)> {
        let row = &self.probes;
        if row.failed > 0 {
            return Some(judged(row, failures, "the check failed"));
        }
        if let Some(why) = &row.cannot {
            return Some((Health::Unknown, Some(format!("cannot be checked: {why}"))));
        }
        row.has_passed.then_some((Health::Healthy, None))
    }

    fn of_reports(&self, failures: u32) -> Option<(Health, Option<String>)> {
        let said = self.said.as_ref()?;
        Some(match said.health {
            Health::Unhealthy if self.reports.failed > 0 => {
                judged(&self.reports, failures, "it says that it is unhealthy")
            }
            // Within its grace nothing counts.
            Health::Unhealthy => (Health::Degraded, said.text.clone()),
            Health::Unknown | Health::Healthy | Health::Degraded => (said.health, said.text.clone()),
        })
    }
}

/// A row with failures in it.
fn judged(row: &Row, failures: u32, what: &str) -> (Health, Option<String>) {
    let why = row.text.as_deref().unwrap_or("no reason is known");
    if row.failed >= failures {
        let times = match row.failed {
            1 => String::new(),
            n => format!(" {n} times in a row"),
        };
        (Health::Unhealthy, Some(format!("{what}{times}: {why}")))
    } else {
        let text = format!("{what} {} of {failures} times in a row: {why}", row.failed);
        (Health::Degraded, Some(text))
    }
}

/// Who told of a unit's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckBy {
    /// The `[ready]` probe.
    Ready,
    /// The `[health]` probe.
    Probe,
    /// The unit itself.
    Report,
    /// Its watchdog.
    Watchdog,
}

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Checked {
    /// It is well.
    Passed,
    /// It works, but not well: only a report says so.
    Degraded(Option<String>),
    /// It is not well: why.
    Failed(String),
    /// It could not be asked: why.
    Cannot(String),
}

/// One check that is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// When.
    pub at: Mono,
    /// From the question to the answer; zero where there was none.
    pub took: Duration,
    /// Who told.
    pub by: CheckBy,
    /// What.
    pub result: Checked,
}

/// The last checks of a unit, the oldest first.
pub type Checks = VecDeque<Check>;

/// Places of probes under way, of one kind.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) taken: u32,
    /// By how long they wait.
    pub(super) waiting: BTreeSet<(Mono, Ix)>,
}

/// Both kinds. Not stored: they follow from the turns.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    questions: Lane,
    commands: Lane,
}

impl Lanes {
    pub(super) fn of(&self, is_command: bool) -> (&Lane, u32) {
        if is_command {
            (&self.commands, limits::PROBE_COMMANDS_AT_ONCE)
        } else {
            (&self.questions, limits::PROBES_AT_ONCE)
        }
    }

    fn of_mut(&mut self, is_command: bool) -> &mut Lane {
        if is_command {
            &mut self.commands
        } else {
            &mut self.questions
        }
    }

    fn has_room(&self, is_command: bool) -> bool {
        let (lane, most) = self.of(is_command);
        lane.taken < most
    }

    fn leave(&mut self, turn: Turn, ix: Ix) {
        if let Some(is_command) = turn.place() {
            let lane = self.of_mut(is_command);
            lane.taken = lane.taken.saturating_sub(1);
        }
        if let Turn::Waiting { due, is_command } = turn {
            self.of_mut(is_command).waiting.remove(&(due, ix));
        }
    }

    fn enter(&mut self, turn: Turn, ix: Ix) {
        if let Some(is_command) = turn.place() {
            self.of_mut(is_command).taken += 1;
        }
        if let Turn::Waiting { due, is_command } = turn {
            self.of_mut(is_command).waiting.insert((due, ix));
        }
    }
}

impl Life {
    /// The probe whose turn comes in this state, with how long it may take and who it is.
    fn probe_in(&self, is_starting: bool) -> Option<(&Probe, Duration, CheckBy)> {
        let health = self.spec.health.as_ref();
        if is_starting {
            let timeout = health.map_or(limits::HEALTH_TIMEOUT, |health| health.timeout);
            return self
                .spec
                .ready_probe
                .as_ref()
                .map(|probe| (probe, timeout, CheckBy::Ready));
        }
        let health = health?;
        let probe = health.probe.as_ref()?;
        Some((probe, health.timeout, CheckBy::Probe))
    }
}

impl Unit {
    /// How well it is, and why. A unit without a life, or on its way down, is `unknown`; one that goes down because it
    /// was not well still is not.
    pub fn health(&self) -> (Health, Option<String>) {
        match &self.state {
            State::Stopping {
                end: End::Unhealthy(text) | End::Hung(text),
                ..
            } => (Health::Unhealthy, Some(text.clone())),
            State::Starting { life, phase, .. } => {
                let (health, text) = life.watch.verdict(None);
                let probe = match phase {
                    StartPhase::Probing => life
                        .watch
                        .probes
                        .text
                        .clone()
                        .map(|why| format!("not ready: {why}")),
                    StartPhase::Pre(_)
                    | StartPhase::Activating
                    | StartPhase::FindingMain
                    | StartPhase::Post(_) => None,
                };
                (health, text.or(probe))
            }
            State::Running { life } | State::Reloading { life, .. } => {
                life.watch.verdict(life.spec.health.as_ref())
            }
            State::Stopping { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => (Health::Unknown, None),
        }
    }

    fn is_probing_ready(&self) -> bool {
        matches!(
            self.state,
            State::Starting {
                phase: StartPhase::Probing,
                ..
            }
        )
    }

    fn is_up(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Reloading { .. })
    }

    /// The watchdog that is in force.
    pub fn watchdog(&self) -> Option<Duration> {
        let life = self.state.life()?;
        let configured = life.spec.health.as_ref()?.watchdog?;
        let every = life.watch.watchdog.chosen.unwrap_or(configured);
        // Nobody hears what a process from outside says.
        (!every.is_zero() && life.foreign.is_none()).then_some(every)
    }
}

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
    fn set_turn(&mut self, ix: Ix, turn: Turn) {
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

    fn remember_check(&mut self, ix: Ix, took: Duration, by: CheckBy, result: Checked) {
        let at = self.now;
        let checks = &mut self.unit_mut(ix).checks;
        if checks.len() >= limits::CHECKS_KEPT {
            checks.pop_front();
        }
        checks.push_back(Check { at, took, by, result });
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

    fn on_hung(&mut self, ix: Ix, why: String) {
        let took = Duration::ZERO;
        self.remember_check(ix, took, CheckBy::Watchdog, Checked::Failed(why.clone()));
        let text = format!("unhealthy: {why}");
        self.end_unhealthy(ix, End::Hung(text.clone()), text);
    }

    /// A row has changed: the world is told, and what follows is done.
    fn judge_health(&mut self, ix: Ix) {
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
    fn tell_health(&mut self, ix: Ix) {
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

/// Until when a life that ends for its health was well; none: never.
pub(super) fn well_until(life: &Life, end: &End) -> Option<Mono> {
    let rows = [&life.watch.probes, &life.watch.reports];
    match end {
        End::Hung(_) => life.watch.watchdog.fed,
        End::Unhealthy(_) => rows.into_iter().filter_map(Row::well_until).max(),
        End::Wanted | End::Exited | End::AttemptFailed(_) | End::HostFailed(_) => None,
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

/// The stable word.
pub fn word(health: Health) -> &'static str {
    match health {
        Health::Unknown => "unknown",
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Unhealthy => "unhealthy",
    }
}

fn cut(mut text: String) -> String {
    if text.len() > limits::HEALTH_TEXT_MAX {
        let mut at = limits::HEALTH_TEXT_MAX;
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.truncate(at);
        text.push('…');
    }
    text
}
