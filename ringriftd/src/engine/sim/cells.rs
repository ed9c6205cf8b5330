//! Which event met which state: the cells of the engine's table. Which of them can be reached is declared (`reachable.txt`), and
//! a run holds the engine to it: one that is declared and never met means that the world is too kind, one that is met and not
//! declared that the engine does what nobody meant.

use crate::engine::machine::Engine;
use crate::engine::types::{Event, Op};
use crate::engine::unit::{Process, ProcessPhase, StartPhase, State, StopPhase, Unit};
use crate::graph::Ix;
use crate::spec::UnitName;

use super::tell;

/// Where a unit can be, as finely as the engine tells apart what may happen then.
pub const PLACE_WORDS: [&str; PLACES] = [
    "nowhere",
    "stopped",
    "waiting",
    "held",
    "starting.pre",
    "starting.asked",
    "starting.alive",
    "starting.finding-main",
    "starting.probing",
    "starting.post",
    "running",
    "reloading.hook",
    "reloading.own",
    "stopping.clear-hook",
    "stopping.pre",
    "stopping.await-main",
    "stopping.abort",
    "stopping.signal",
    "stopping.kill",
    "stopping.post",
    "backoff",
    "failed.retry",
    "failed.final",
    "completed",
];
/// How many places there are.
pub const PLACES: usize = 24;

/// What can happen.
pub const EVENT_WORDS: [&str; EVENTS] = [
    "loaded",
    "start",
    "stop",
    "restart",
    "reload",
    "kill",
    "reset-failed",
    "hold",
    "unhold",
    "adopt",
    "forget",
    "shutdown",
    "launched",
    "launch-failed",
    "exited",
    "emptied",
    "lost",
    "unkillable",
    "main-found",
    "main-missing",
    "ready",
    "stopping",
    "reloading",
    "main-changed",
    "extend",
    "tick",
    "used",
    "probed",
    "watchdog",
    "watchdog-trigger",
    "watchdog-every",
    "health-said",
    "log-drops",
];
/// How many events there are.
pub const EVENTS: usize = 33;

/// The column of an event.
pub(super) fn event_of(event: &Event) -> usize {
    match event {
        Event::Loaded(_) => 0,
        Event::Request { op, .. } => match op {
            Op::Start { .. } => 1,
            Op::Stop { .. } => 2,
            Op::Restart { .. } => 3,
            Op::Reload { .. } => 4,
            Op::Kill { .. } => 5,
            Op::ResetFailed { .. } => 6,
            Op::Hold { .. } => 7,
            Op::Unhold { .. } => 8,
            Op::Adopt { .. } => 9,
        },
        Event::Forget { .. } => 10,
        Event::Shutdown { .. } => 11,
        Event::Launched { .. } => 12,
        Event::LaunchFailed { .. } => 13,
        Event::Exited { .. } => 14,
        Event::Emptied { .. } => 15,
        Event::Lost { .. } => 16,
        Event::Unkillable { .. } => 17,
        Event::MainFound { .. } => 18,
        Event::MainMissing { .. } => 19,
        Event::Ready { .. } => 20,
        Event::Stopping { .. } => 21,
        Event::Reloading { .. } => 22,
        Event::MainChanged { .. } => 23,
        Event::Extend { .. } => 24,
        Event::Tick => 25,
        Event::Used { .. } => 26,
        Event::Probed { .. } => 27,
        Event::Watchdog { .. } => 28,
        Event::WatchdogTrigger { .. } => 29,
        Event::WatchdogEvery { .. } => 30,
        Event::HealthSaid { .. } => 31,
        Event::LogDrops { .. } => 32,
    }
}

/// The row of a unit.
pub(super) fn place_of(unit: &Unit) -> usize {
    match &unit.state {
        _ if unit.hold.is_some() && unit.state.life().is_none() => 3,
        State::Stopped => 1,
        State::Waiting => 2,
        State::Starting { phase, life, .. } => match phase {
            StartPhase::Pre(_) => 4,
            StartPhase::Activating
                if matches!(
                    life.main,
                    Some(Process {
                        phase: ProcessPhase::Asked,
                        ..
                    })
                ) =>
            {
                5
            }
            StartPhase::Activating => 6,
            StartPhase::FindingMain => 7,
            StartPhase::Probing => 8,
            StartPhase::Post(_) => 9,
        },
        State::Running { .. } => 10,
        State::Reloading { life, .. } if life.hook.is_some() => 11,
        State::Reloading { .. } => 12,
        State::Stopping { phase, .. } => match phase {
            StopPhase::ClearHook => 13,
            StopPhase::Pre(_) => 14,
            StopPhase::AwaitMain => 15,
            StopPhase::Abort => 16,
            StopPhase::Signal(_) => 17,
            StopPhase::Kill => 18,
            StopPhase::Post(_) => 19,
        },
        State::Backoff { .. } => 20,
        State::Failed { next_try: Some(_) } => 21,
        State::Failed { next_try: None } => 22,
        State::Completed => 23,
    }
}

/// The units that an operator names.
pub(super) fn named(op: &Op) -> &[UnitName] {
    match op {
        Op::Start { units }
        | Op::Stop { units, .. }
        | Op::Restart { units, .. }
        | Op::Reload { units }
        | Op::Kill { units, .. }
        | Op::ResetFailed { units }
        | Op::Hold { units, .. }
        | Op::Unhold { units } => units,
        Op::Adopt { unit, .. } => std::slice::from_ref(unit),
    }
}

/// The unit whose news it is; none: nobody's, or not one's alone.
pub(super) fn unit_of(engine: &Engine, event: &Event) -> Option<Ix> {
    let ix = *engine.lives.get(&tell::invocation_of(event)?)?;
    let Some(launch) = tell::launch_of(event) else {
        return Some(ix);
    };
    let life = engine.unit(ix).state.life()?;
    life.processes().any(|p| p.launch == launch).then_some(ix)
}

/// Books what is about to happen.
pub(super) fn book(cells: &mut [[u64; EVENTS]; PLACES], engine: &Engine, now: u64, event: &Event) {
    let column = event_of(event);
    match event {
        Event::Request { op, .. } => {
            for name in named(op) {
                let place = engine.find(name).map_or(0, |(_, unit)| place_of(unit));
                cells[place][column] += 1;
            }
        }
        Event::Loaded(_) | Event::Shutdown { .. } => {
            for (_, unit) in engine.units() {
                cells[place_of(unit)][column] += 1;
            }
        }
        Event::Tick => {
            for (_, ix) in engine.timers.iter().take_while(|(at, _)| at.0 <= now) {
                cells[place_of(engine.unit(*ix))][column] += 1;
            }
        }
        Event::Forget { .. } => cells[0][column] += 1,
        _ => {
            let place = unit_of(engine, event).map_or(0, |ix| place_of(engine.unit(ix)));
            cells[place][column] += 1;
        }
    }
}

/// What was declared: per place, the events that can meet a unit there; in brackets those that do so too rarely to be demanded of
/// every run.
pub const REACHABLE: &str = include_str!("reachable.txt");

/// Whether an event can meet a unit in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It cannot.
    No,
    /// It can, and not every run sees it.
    Rare,
    /// It can, and a run that does not see it is too kind.
    Sure,
}

/// The cells that a table like [`REACHABLE`] declares.
pub fn declared(table: &str) -> Result<[[Reach; EVENTS]; PLACES], String> {
    let mut cells = [[Reach::No; EVENTS]; PLACES];
    for line in table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let (place, events) = line.split_once(':').ok_or_else(|| format!("no place: {line}"))?;
        let find = |words: &[&str], word: &str| {
            words
                .iter()
                .position(|known| *known == word)
                .ok_or_else(|| format!("unknown: {word}"))
        };
        let row = find(&PLACE_WORDS, place.trim())?;
        for event in events.split_whitespace() {
            let rare = event.strip_prefix('(').and_then(|event| event.strip_suffix(')'));
            let column = find(&EVENT_WORDS, rare.unwrap_or(event))?;
            cells[row][column] = if rare.is_some() { Reach::Rare } else { Reach::Sure };
        }
    }
    Ok(cells)
}

/// The table of the cells that were met, as it would be declared: sure are those that were met so often.
pub fn table(cells: &[[u64; EVENTS]; PLACES], sure: u64) -> String {
    let row = |(place, row): (&str, &[u64; EVENTS])| {
        let met = EVENT_WORDS.iter().zip(row).filter(|(_, met)| **met > 0);
        let words: String = met
            .map(|(word, met)| {
                if *met < sure {
                    format!(" ({word})")
                } else {
                    format!(" {word}")
                }
            })
            .collect();
        format!("{place}:{words}\n")
    };
    PLACE_WORDS.into_iter().zip(cells).map(row).collect()
}

/// How many cells are declared so.
pub fn count(cells: &[[Reach; EVENTS]; PLACES], reach: Reach) -> usize {
    cells
        .iter()
        .flatten()
        .filter(|declared| **declared == reach)
        .count()
}

/// Declared cells in words.
pub fn summary(cells: &[[Reach; EVENTS]; PLACES]) -> String {
    let (sure, rare) = (count(cells, Reach::Sure), count(cells, Reach::Rare));
    format!(
        "cells (place × event): {sure} that every run must reach, {rare} that it may, of {}",
        EVENTS * PLACES
    )
}
