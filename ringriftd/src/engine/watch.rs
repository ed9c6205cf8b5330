//! What is known of a life's health, and what it comes to. Pure data with its verdicts; `probing` asks, `health` decides
//! what follows.
//!
//! Read first: [`Watch`] and [`Unit::health`].

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use proto::reply::Health;
use serde::{Deserialize, Serialize};

use super::types::Mono;
use super::unit::{End, Life, StartPhase, State, Unit};
use crate::graph::Ix;
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
    pub(super) fn place(self) -> Option<bool> {
        match self {
            Self::Asked { is_command, .. } => Some(is_command),
            Self::Clearing { .. } => Some(true),
            Self::None | Self::At(_) | Self::Waiting { .. } => None,
        }
    }

    pub(super) fn deadline(self) -> Option<Mono> {
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
    pub(super) fn passed(&mut self, now: Mono) {
        *self = Self {
            has_passed: true,
            at: Some(now),
            ..Self::default()
        };
    }

    pub(super) fn failed(&mut self, now: Mono, text: String) {
        self.failed = self.failed.saturating_add(1);
        self.since.get_or_insert(now);
        self.text = Some(text);
        self.cannot = None;
        self.at = Some(now);
    }

    /// Until when it was surely well.
    pub(super) fn well_until(&self) -> Option<Mono> {
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
    pub(super) fn verdict(&self, spec: Option<&HealthSpec>) -> (Health, Option<String>) {
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
    /// Counts the checks of a unit.
    #[serde(default)]
    pub nr: u64,
}

/// The last checks of a unit, the oldest first.
pub type Checks = VecDeque<Check>;

/// Places of probes under way, of one kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    pub(super) taken: u32,
    /// By how long they wait.
    pub(super) waiting: BTreeSet<(Mono, Ix)>,
}

/// Both kinds. Not stored: they follow from the turns.
#[derive(Debug, Clone, Default)]
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

    pub(super) fn has_room(&self, is_command: bool) -> bool {
        let (lane, most) = self.of(is_command);
        lane.taken < most
    }

    pub(super) fn leave(&mut self, turn: Turn, ix: Ix) {
        if let Some(is_command) = turn.place() {
            let lane = self.of_mut(is_command);
            lane.taken = lane.taken.saturating_sub(1);
        }
        if let Turn::Waiting { due, is_command } = turn {
            self.of_mut(is_command).waiting.remove(&(due, ix));
        }
    }

    pub(super) fn enter(&mut self, turn: Turn, ix: Ix) {
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
    pub(super) fn probe_in(&self, is_starting: bool) -> Option<(&Probe, Duration, CheckBy)> {
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

    pub(super) fn is_probing_ready(&self) -> bool {
        matches!(
            self.state,
            State::Starting {
                phase: StartPhase::Probing,
                ..
            }
        )
    }

    pub(super) fn is_up(&self) -> bool {
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

/// Until when a life that ends for its health was well; none: never.
pub(super) fn well_until(life: &Life, end: &End) -> Option<Mono> {
    let rows = [&life.watch.probes, &life.watch.reports];
    match end {
        End::Hung(_) => life.watch.watchdog.fed,
        End::Unhealthy(_) => rows.into_iter().filter_map(Row::well_until).max(),
        End::Wanted | End::Exited | End::AttemptFailed(_) | End::HostFailed(_) => None,
    }
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

/// Within its bound.
pub(super) fn cut(mut text: String) -> String {
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
