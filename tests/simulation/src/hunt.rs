//! The faults that are planted in the engine, one at a time: which of them the simulation finds by itself, and how fast. That each is
//! found by a small system is a test of the engine's own (`engine/sim/models.rs`).

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::planted::{self, Fault};
use crate::engine::sim::Size;
use crate::engine::sim::invariants::Violation;
use crate::engine::sim::schedule::run_numbered;

/// Small schedules, then large ones, that are run for a fault before it counts as not found.
const SMALL: u64 = 4000;
const FULL: u64 = 400;
/// The seed of those schedules: the one of every test run.
const BASE: u64 = 1;

/// A schedule that breaks a promise while a fault is planted.
pub struct Sighting {
    /// Of [`Size::SMALL`].
    pub is_small: bool,
    /// Its number.
    pub number: u64,
    /// What it breaks.
    pub violation: Violation,
}

/// The first schedule that sees the fault.
fn look_for(fault: Fault) -> Option<Sighting> {
    let small = (0..SMALL).map(|number| (true, number));
    let full = (0..FULL).map(|number| (false, number));
    planted::with(fault, || {
        small.chain(full).find_map(|(is_small, number)| {
            let size = if is_small { Size::SMALL } else { Size::FULL };
            let violation = run_numbered(BASE, number, size).1.violation?;
            Some(Sighting {
                is_small,
                number,
                violation,
            })
        })
    })
}

/// Looks for all of them, on all cores.
pub fn all() -> Vec<(Fault, Option<Sighting>)> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut seen = Vec::new();
        while let Some((place, fault)) = {
            let place = next.fetch_add(1, Ordering::Relaxed);
            Fault::ALL.get(place).map(|fault| (place, *fault))
        } {
            seen.push((place, fault, look_for(fault)));
        }
        seen
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut seen: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().filter_map(|thread| thread.join().ok());
        joined.flatten().collect()
    });
    seen.sort_by_key(|(place, ..)| *place);
    seen.into_iter().map(|(_, fault, seen)| (fault, seen)).collect()
}

/// Who finds which, a row each.
pub fn table(all: &[(Fault, Option<Sighting>)]) -> String {
    let mut text = String::from("| fault | small system | simulation |\n|---|---|---|\n");
    for (fault, seen) in all {
        let seen = seen.as_ref().map_or_else(
            || "does not find it".to_owned(),
            |seen| {
                let size = if seen.is_small { "small" } else { "full" };
                let promise = seen.violation.invariant as u8;
                format!("{size} schedule {}, promise {promise}", seen.number)
            },
        );
        let _ = writeln!(text, "| {fault:?} | {} | {seen} |", fault.home());
    }
    text
}

/// Those that the simulation finds or does not, otherwise than the engine's list of them says.
pub fn surprises(all: &[(Fault, Option<Sighting>)]) -> Vec<String> {
    let is_surprise = |(fault, seen): &&(Fault, Option<Sighting>)| seen.is_none() != fault.is_unseen();
    let tell = |(fault, seen): &(Fault, Option<Sighting>)| {
        let how = if seen.is_some() { "finds" } else { "does not find" };
        format!("the simulation {how} {fault:?}, other than engine/planted.rs says")
    };
    all.iter().filter(is_surprise).map(tell).collect()
}
