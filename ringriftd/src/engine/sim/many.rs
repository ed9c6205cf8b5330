//! A few schedules of each mode, in every build: what the many of a release have shown holds here too, and the simulation itself
//! works.

use crate::engine::planted;

use super::cells;
use super::draw::Size;
use super::invariants::{Counts, Invariant};
use super::malice::Fault;
use super::schedule::{Watchers, plot_of, run, run_list, run_numbered, seed_of};
use super::shrink::{Case, shrink, shrink_pair};

fn some(size: Size, count: u64) -> Counts {
    let mut counts = Counts::default();
    for number in 0..count {
        let (plot, outcome) = run_numbered(1, number, size);
        assert_eq!(outcome.violation, None, "schedule {number}, {plot:?}");
        counts.add(&outcome.counts);
    }
    counts
}

#[test]
fn no_promise_is_broken_and_each_could_have_been() {
    let mut counts = some(Size::FULL, 40);
    counts.add(&some(Size::SMALL, 150));
    assert!(
        counts.units >= 480 && counts.requests > 1500,
        "{} units",
        counts.units
    );
    for invariant in [
        Invariant::Single,
        Invariant::DepsFirst,
        Invariant::StopOrder,
        Invariant::BackoffFloor,
        Invariant::HonestReply,
        Invariant::PersistFirst,
        Invariant::AdoptOrLeave,
    ] {
        assert!(
            counts.of(invariant) > 20,
            "{invariant:?}: {}",
            counts.of(invariant)
        );
    }
}

#[test]
fn a_list_of_its_choices_replays_a_schedule() {
    for number in 0..20 {
        let (plot, _) = plot_of(7, number, Size::SMALL);
        let watchers = Watchers {
            digest: true,
            record: true,
            ..Watchers::default()
        };
        let first = run(plot, watchers);
        let again = run_list(plot, &first.choices, watchers);
        assert_eq!(first.digest, again.digest, "schedule {number}");
        assert_eq!(first.choices, again.choices);
    }
}

#[test]
fn a_broken_promise_is_shrunk_to_a_few_steps_that_still_break_it() {
    // Something that does happen, as if it were forbidden: nobody may die by SIGKILL.
    let search = |plot| {
        let watchers = Watchers {
            forbid_kill: true,
            ..Watchers::default()
        };
        shrink(plot, watchers)
    };
    let mut cases = (0..40).filter_map(|number| search(plot_of(3, number, Size::FULL).0));
    let case: Case = cases.next().expect("somebody is killed in forty schedules");
    let outcome = case.run();
    assert!(outcome.violation.is_some());
    assert!(
        outcome.steps <= 15,
        "{} steps:\n{}",
        outcome.steps,
        outcome.trace.join("\n")
    );
    assert!(case.choices.len() <= 12, "{}", case.print());
}

/// Only a pair of runs shows it: what a manager that dies forgets of past restarts.
#[test]
fn a_promise_that_only_a_pair_of_runs_breaks_is_shrunk_too() {
    planted::with(planted::Fault::PastNotStored, || {
        let case = shrink_pair(seed_of(1, 0), Size::SMALL).expect("one run forgets, and the other does not");
        assert!(case.choices.len() <= 8, "{}", case.print());
        let read = Case::parse(&case.print()).expect("it was printed so");
        assert_eq!(read, case);
        let violation = read.run().violation.expect("it is still broken");
        assert_eq!(violation.invariant, Invariant::CrashTransparent);
    });
    let calm = shrink_pair(seed_of(1, 0), Size::SMALL);
    assert_eq!(calm, None);
}

/// Neither the times between requests nor the units of a large schedule are left in what is to be read.
#[test]
fn a_failure_late_in_a_large_schedule_is_told_in_a_few_steps() {
    for fault in [planted::Fault::BreakerNeverCloses, planted::Fault::StopOutOfOrder] {
        let case = planted::with(fault, || {
            let mut cases = (0..80).filter_map(|number| {
                let (plot, watchers) = plot_of(1, number, Size::FULL);
                shrink(plot, watchers)
            });
            cases.next().expect("one schedule in eighty shows it")
        });
        let outcome = planted::with(fault, || case.run());
        let told = outcome.trace.join("\n");
        assert!(outcome.violation.is_some(), "{told}");
        assert!(
            outcome.steps <= 15,
            "{fault:?}: {} steps\n{}{told}",
            outcome.steps,
            case.print()
        );
    }
}

#[test]
fn every_fault_has_words_and_happens_in_some_mode() {
    for fault in Fault::ALL {
        assert!(!fault.what().is_empty());
        let is_ever = super::malice::Mode::ALL
            .iter()
            .any(|mode| super::malice::Rates::of(*mode).of_fault(*fault) > 0);
        assert!(is_ever, "{fault:?}");
    }
}

#[test]
fn the_page_about_reliability_has_a_figure_for_every_promise() {
    let page = include_str!("../../../../docs/reliability.md");
    for invariant in Invariant::ALL {
        let row = format!("| {} | {} | ", *invariant as u8, invariant.what());
        let times = page
            .lines()
            .find_map(|line| line.strip_prefix(&row)?.strip_suffix(" |")?.parse::<u64>().ok());
        assert!(times.is_some(), "{row}");
    }
    for fault in planted::Fault::ALL {
        let row = format!("| {fault:?} | {} | ", fault.home());
        assert!(page.contains(&row), "{row}");
    }
    let declared = cells::declared(cells::REACHABLE).expect("it can be read");
    let cells = format!("* {}\n", cells::summary(&declared));
    assert!(page.contains(&cells), "{cells}");
}
