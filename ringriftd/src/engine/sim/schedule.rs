//! One schedule: a world drawn by its choices lives through faults and requests, then all faults cease and it must come to rest
//! where it is wanted, then it goes down.

use std::panic::{AssertUnwindSafe, catch_unwind};

use proto::reply::State as Word;

use crate::engine::order::Blocker;
use crate::engine::restart::mix;
use crate::engine::types::Event;
use crate::engine::unit::{Desired, State, Unit};
use crate::ids::LaunchId;
use crate::spec::UnitName;

use super::choices::{Choices, List, Pick, key};
use super::draw::{self, Size};
use super::invariants::{Counts, Invariant, Violation};
use super::make::number;
use super::malice::{Fault, Mode, Rates};
use super::world::{Due, World};

/// Events until a world of one unit has come to rest; each further unit adds as many. Much more than any needs that does.
const EVENTS_TO_REST: u64 = 400;
/// Time until it has (in s): the longest back-off for each unit of a chain, and the times that a stop may take.
const REST: u64 = 3 * 3600;
/// Until what a request asked for is done, where nothing fails (in ms).
const SPACING: u64 = 180_000;
/// A schedule that goes on for longer is a live-lock.
const EVENTS_MAX: u64 = 60_000;

/// Which schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plot {
    /// Which kind.
    pub mode: Mode,
    /// How large.
    pub size: Size,
    /// Its seed; with a list of choices it only makes jitter.
    pub seed: u64,
}

/// What came of a schedule.
#[derive(Debug)]
pub struct Outcome {
    /// What was seen.
    pub counts: Counts,
    /// The first promise that was broken.
    pub violation: Option<Violation>,
    /// The run in words, if that was asked for.
    pub trace: Vec<String>,
    /// The choices that were made, if they were to be written down.
    pub choices: List,
    /// Events and actions, as one number, if that was asked for.
    pub digest: Option<u64>,
    /// Where every unit ended: wanted up, its state, its starts, its restarts.
    pub ends: Vec<(UnitName, bool, Word, u64, u64)>,
    /// Events that were told to the engine until it ended.
    pub steps: u64,
}

/// How much is written down and checked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watchers {
    /// The run in words.
    pub trace: bool,
    /// The choices.
    pub record: bool,
    /// One number for all that happened.
    pub digest: bool,
    /// Deltas, JSON and twins of single steps too.
    pub thorough: bool,
    /// Requests come one after the other, each when what the one before it asked for is done.
    pub spaced: bool,
    /// A canary: SIGKILL is a broken promise. Whoever looks for one must find it.
    pub forbid_kill: bool,
}

/// Runs the schedule of a seed.
pub fn run(plot: Plot, watchers: Watchers) -> Outcome {
    let rates = Rates::swarm(plot.mode, plot.seed);
    run_with(
        plot,
        Choices::seeded(plot.seed ^ plot.mode as u64),
        rates,
        watchers,
    )
}

/// Runs a list of choices.
pub fn run_list(plot: Plot, list: &List, watchers: Watchers) -> Outcome {
    // Rates count for nothing where values are listed, but for which faults there are at all.
    let rates = Rates::swarm(plot.mode, plot.seed);
    run_with(plot, Choices::listed(list.clone()), rates, watchers)
}

pub(super) fn run_with(plot: Plot, choices: Choices, rates: Rates, watchers: Watchers) -> Outcome {
    let choices = if watchers.record {
        choices.record()
    } else {
        choices
    };
    let mut world = draw_world(plot, choices, rates);
    world.is_thorough = watchers.thorough;
    world.spacing = if watchers.spaced { SPACING } else { 0 };
    world.forbids_kill = watchers.forbid_kill;
    world.trace = watchers.trace.then(Vec::new);
    world.digest = watchers.digest.then_some(1);
    let lived = catch_unwind(AssertUnwindSafe(|| live(&mut world, plot)));
    if let Err(panic) = lived {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.broken(
            Invariant::Total,
            format!("it panics: {}", text.unwrap_or_default()),
        );
    }
    if world.violation.is_some() {
        world.note_places();
    }
    let mut counts = std::mem::take(&mut world.counts);
    counts.schedules = 1;
    counts.virtual_ms = world.now / 1_000_000;
    counts.units = world.first.len() as u64;
    counts.checked[Invariant::Total as usize] += 1;
    Outcome {
        steps: counts.events,
        counts,
        violation: world.violation.take(),
        trace: world.trace.take().unwrap_or_default(),
        ends: world.rest.clone(),
        digest: world.digest,
        choices: world.choices.into_log(),
    }
}

fn draw_world(plot: Plot, mut choices: Choices, rates: Rates) -> World {
    let first = draw::units(&mut choices, plot.size);
    let limit = choices.chance(key(Pick::MaxStarting, 0, 0), 300, 3);
    let breaker = draw::breaker(&mut choices);
    let plan = draw::plan(first.clone(), (limit > 0).then_some(limit as u32), breaker);
    let swizzle = if plot.mode == Mode::Swizzle {
        swizzled(&mut choices, first.len())
    } else {
        Vec::new()
    };
    let mut world = World::with(choices, rates, plan, first, plot.seed);
    world.size = plot.size;
    world.swizzle = swizzle;
    world
}

/// The units that the requests of a swizzle stop, and then start, by their places.
pub(super) fn swizzle_of(plot: Plot, list: &List) -> Vec<u32> {
    let mut choices = Choices::listed(list.clone());
    let count = draw::units(&mut choices, plot.size).len();
    swizzled(&mut choices, count)
}

/// Every unit in one order, and then in another.
fn swizzled(choices: &mut Choices, count: usize) -> Vec<u32> {
    let mut order = Vec::with_capacity(2 * count);
    for round in 0..2 {
        let mut places: Vec<u32> = (0..count as u32).collect();
        for at in (1..count).rev() {
            let other = choices.below(key(Pick::Swizzle, round, at as u32), at as u64 + 1);
            places.swap(at, other as usize);
        }
        order.extend(places);
    }
    order
}

fn live(world: &mut World, plot: Plot) {
    let plan = std::sync::Arc::clone(&world.plan);
    world.tell(Event::Loaded(plan));
    world.request_later(1 + world.spacing, 0);
    let has_twin = plot.seed % 32 == 3;
    while world
        .queue
        .iter()
        .any(|place| matches!(place.0.due, Due::Request(_)))
    {
        if has_twin && world.twin.is_none() && world.counts.events == 100 {
            world.begin_twin(200);
        }
        let next = world.now + 3_600_000_000_000;
        if !world.advance(next) || world.is_too_long() {
            break;
        }
    }
    let settle = world.now + 3_000_000_000;
    while world.advance(settle) {}
    if world.finished.is_none() && world.closing.is_none() {
        world.come_to_rest();
    }
    if world.violation.is_none() {
        world.note_rest();
        world.go_down();
    }
}

impl World {
    fn is_too_long(&mut self) -> bool {
        let is_too_long = self.counts.events > EVENTS_MAX;
        if is_too_long {
            let text = format!("{EVENTS_MAX} events, and no end");
            self.broken(Invariant::NoLivelock, text);
        }
        is_too_long
    }

    /// All faults cease: within a bound nothing moves any more, and all is as it should be.
    pub(super) fn come_to_rest(&mut self) {
        self.note(|_| "## all faults cease".to_owned());
        let had_reboots = self.rates.of_fault(Fault::Reboot) > 0;
        self.rates = Rates::NONE;
        for process in self.live.values_mut() {
            process.hangs_at = process.hangs_at.filter(|at| *at <= self.now);
        }
        let bound = EVENTS_TO_REST * (self.first.len() as u64 + 1);
        let (began, end) = (self.counts.events, self.now + REST * 1_000_000_000);
        let mut is_resting = self.is_resting();
        let mut moves = 0;
        while !is_resting && moves < bound && self.advance(end) {
            moves = self.counts.events - began;
            is_resting = self.is_resting();
        }
        if self.violation.is_some() || self.finished.is_some() || self.closing.is_some() {
            return;
        }
        self.hold(Invariant::NoLivelock, moves < bound, |_| {
            format!("{moves} events, and no rest")
        });
        self.hold(Invariant::Quiet, is_resting, |world| {
            let moving = world.engine.units().filter(|(_, unit)| is_moving(&unit.state));
            let moving: Vec<String> = moving
                .map(|(_, unit)| format!("{} is {:?}", unit.spec.name, unit.word))
                .collect();
            format!("no rest after {REST} s: {}", moving.join(", "))
        });
        self.check_wants(Invariant::LastWriter);
        let names: Vec<UnitName> = self
            .engine
            .units()
            .map(|(_, unit)| unit.spec.name.clone())
            .collect();
        for name in names {
            self.check_at_rest(&name);
        }
        self.check_words();
        self.check_why();
        self.check_released();
        if !had_reboots && self.kept.deaths == 0 {
            self.check_failures();
        }
    }

    /// Whoever asks why a unit is not up is told a cause, and nobody is called fine that is not up.
    pub(super) fn check_why(&mut self) {
        let mut wrong = None;
        let units: Vec<_> = self
            .engine
            .units()
            .map(|(ix, unit)| (ix, unit.is_satisfied() || unit.state == State::Completed))
            .collect();
        for (ix, is_up) in units {
            let why = self.engine.why(ix, None);
            if why.is_fine && !is_up || !why.is_fine && why.roots.is_empty() {
                wrong = Some(format!("why of {}: {why:?}", self.engine.graph().name(ix)));
            }
        }
        self.hold(Invariant::SaysWhy, wrong.is_none(), |_| wrong.unwrap_or_default());
    }

    /// The keeper was told of each launch that is over that it may forget it.
    fn check_released(&mut self) {
        let held: Vec<LaunchId> = self.kept.held.keys().copied().collect();
        for launch in held {
            let is_had = self.engine.processes().any(|(_, _, p)| p.launch == launch);
            self.hold(Invariant::Released, is_had, |_| {
                format!("{launch} is over, and was never released")
            });
        }
    }

    /// Nothing is on its way.
    fn is_resting(&self) -> bool {
        let is_still = self.engine.units().all(|(_, unit)| !is_moving(&unit.state));
        is_still
            && self.late.is_none()
            && self.engine.breakers.deadline().is_none()
            && self.queue.iter().all(|place| match &place.0.due {
                Due::World(event) => matches!(
                    event,
                    Event::Probed { .. }
                        | Event::Watchdog { .. }
                        | Event::HealthSaid { .. }
                        | Event::Used { .. }
                ),
                Due::News(_) | Due::Request(_) => false,
            })
    }

    fn check_at_rest(&mut self, name: &UnitName) {
        let Some((ix, unit)) = self.engine.find(name) else {
            return;
        };
        let who = number(name);
        let is_there = self.live.values().any(|process| process.who == who);
        let (desired, is_held) = (unit.desired, unit.hold.is_some());
        match (&unit.state, desired) {
            (_, Desired::Down) => {
                self.hold(Invariant::UnwantedGoes, !is_there, |_| {
                    format!("{name} is not wanted, and there")
                });
            }
            (State::Running { life }, Desired::Up) => {
                let is_oneshot = life.spec.exec.kind == crate::spec::Kind::Oneshot;
                self.hold(Invariant::WantedComes, is_there || is_oneshot, |_| {
                    format!("{name} is said to run, and is not there")
                });
            }
            (State::Failed { .. }, Desired::Up) => {
                let has_reason = unit.last_error.is_some();
                self.hold(Invariant::WantedComes, has_reason, |_| {
                    format!("{name} has failed for no reason")
                });
            }
            (State::Waiting, Desired::Up) => {
                let blockers = self.engine.blockers(ix);
                let is_blocked = blockers.iter().filter_map(Blocker::unit).any(|d| {
                    let unit = self.engine.unit(d);
                    !unit.is_satisfied() || unit.is_lost() || unit.state.life().is_some()
                });
                self.hold(Invariant::WantedComes, is_blocked || is_held, |_| {
                    format!("{name} waits for nobody")
                });
            }
            (State::Completed, Desired::Up) => self.count(Invariant::WantedComes),
            (_, Desired::Up) => {
                let word = unit.word;
                self.hold(Invariant::Quiet, is_held, |_| format!("{name} is still {word:?}"));
            }
        }
    }

    /// Whoever waits for one that has failed says so.
    pub(super) fn check_words(&mut self) {
        let has_failed = |unit: &Unit| matches!(unit.state, State::Failed { .. }) && unit.hold.is_none();
        if !self.engine.units.iter().any(has_failed) {
            return;
        }
        let mut told = Vec::new();
        let waiting = |unit: &Unit| unit.state == State::Waiting && unit.desired == Desired::Up;
        for (ix, unit) in self.engine.units().filter(|(_, unit)| waiting(unit)) {
            for blocker in self.engine.blockers(ix) {
                if blocker.unit().is_some_and(|d| has_failed(self.engine.unit(d))) {
                    told.push((unit.spec.name.clone(), self.engine.blocker_text(&blocker)));
                }
            }
        }
        for (name, text) in told {
            self.hold(Invariant::SaysWhy, text.contains("failed"), |_| {
                format!("{name} waits for one that failed, and says: {text}")
            });
        }
    }

    /// Where every unit is, for whoever reads a trace.
    fn note_places(&mut self) {
        let of = |(ix, unit): (_, &crate::engine::unit::Unit)| {
            let reason = self.engine.stop_reason(ix).map_or(String::new(), |reason| {
                format!(", to stop: {}", reason.cause.text)
            });
            let held_down = if unit.is_held_down { ", held down" } else { "" };
            let along = if unit.is_taken_along { ", taken along" } else { "" };
            let blockers = self.engine.stop_blockers(ix);
            let place = super::cells::PLACE_WORDS[super::cells::place_of(unit)];
            format!(
                "## {} {place}, wanted {:?}{held_down}{along}{reason} {blockers:?}",
                unit.spec.name, unit.desired
            )
        };
        let lines: Vec<String> = self.engine.units().map(of).collect();
        for line in lines {
            self.note(|_| line);
        }
    }

    fn note_rest(&mut self) {
        let of = |(_, unit): (_, &crate::engine::unit::Unit)| {
            let is_up = unit.desired == Desired::Up;
            (
                unit.spec.name.clone(),
                is_up,
                unit.word,
                unit.starts,
                unit.restarts.total(),
            )
        };
        self.rest = self.engine.units().map(of).collect();
    }

    /// The whole node goes down, and every request has its answer.
    fn go_down(&mut self) {
        self.rates = Rates::NONE;
        if self.closing.is_none() && self.finished.is_none() {
            self.ask_to_end();
        }
        let end = self.now + 3 * 3600 * 1_000_000_000;
        while self.advance(end) && !self.is_too_long() {}
        if self.violation.is_some() {
            return;
        }
        self.check_end_of_shutdown();
        let open = self
            .asked
            .iter()
            .find(|(id, asked)| !asked.is_forgotten && !self.replies.contains_key(id));
        let open = open.map(|(id, asked)| (id.0, asked.op.clone()));
        let asked = self.asked.len() as u64;
        self.counts.checked[Invariant::AllAnswered as usize] += asked;
        if let Some((id, op)) = open {
            self.broken(
                Invariant::AllAnswered,
                format!("request {id} ({op:?}) was never answered"),
            );
        }
    }
}

fn is_moving(state: &State) -> bool {
    match state {
        State::Starting { .. } | State::Stopping { .. } | State::Backoff { .. } | State::Reloading { .. } => {
            true
        }
        State::Stopped | State::Waiting | State::Running { .. } | State::Failed { .. } | State::Completed => {
            false
        }
    }
}

/// The seed of the schedule of this number: so that neighbours have nothing in common.
pub fn seed_of(base: u64, number: u64) -> u64 {
    mix(base ^ mix(number))
}

/// For whoever runs many: the plot of this number, and how closely it is watched.
pub fn plot_of(base: u64, number: u64, size: Size) -> (Plot, Watchers) {
    let place = usize::try_from(number % Mode::ALL.len() as u64).unwrap_or(0);
    let mode = Mode::ALL[place];
    let plot = Plot {
        mode,
        size,
        seed: seed_of(base, number),
    };
    let watchers = Watchers {
        // Costs ten times as much.
        thorough: number % 400 < 5,
        ..Watchers::default()
    };
    (plot, watchers)
}

/// Runs one of many, with what can only be seen by running it twice.
pub fn run_numbered(base: u64, number: u64, size: Size) -> (Plot, Outcome) {
    let (plot, watchers) = plot_of(base, number, size);
    if number % 100 >= 5 {
        return (plot, run(plot, watchers));
    }
    let digest = Watchers {
        digest: true,
        ..watchers
    };
    let mut first = run(plot, digest);
    let again = run(plot, digest);
    first.counts.checked[Invariant::Deterministic as usize] += first.counts.events;
    if first.digest != again.digest && first.violation.is_none() {
        first.violation = Some(Violation {
            invariant: Invariant::Deterministic,
            text: "the same seed did something else".to_owned(),
        });
    }
    if number.is_multiple_of(100) {
        first.add_pair(plot.seed, size);
    }
    (plot, first)
}
