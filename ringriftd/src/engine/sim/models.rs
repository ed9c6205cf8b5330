//! The small systems that are looked at whole, with what was found: how many states there are, and how far the farthest one is.
//! The numbers are written down since a system that has become smaller is not proof of anything any more.

use std::sync::Arc;
use std::time::Duration;

use crate::breaker::{BreakerLimit, BreakerSpec};
use crate::engine::planted::{self, Fault};
use crate::engine::types::Plan;
use crate::spec::{Exhausted, Kind, RestartPolicy, UnitSpec};

use super::dice::*;
use super::model::{Ask, System};
use super::search::search;

/// All that operators may ask for.
const ALL: &[Ask] = &[
    Ask::Start,
    Ask::Stop,
    Ask::StopAll,
    Ask::Restart,
    Ask::Reset,
    Ask::Hold,
    Ask::Unhold,
    Ask::Kill,
];

/// More states than any of these systems has: whoever meets that bound grows without end.
const MOST: usize = 10_000;

/// A unit whose times are few, so that states are.
fn small(i: usize) -> UnitSpec {
    let mut unit = unit(i);
    let s = Duration::from_secs;
    unit.ready_timeout = s(2);
    unit.exec.hook_timeout = s(1);
    unit.stop.timeout = s(1);
    let restart = &mut unit.restart;
    restart.delay = s(1);
    restart.factor_milli = 1000;
    restart.jitter_milli = 0;
    restart.stable_after = s(2);
    restart.max_restarts = Some(1);
    restart.window = s(3);
    restart.retry_every = s(2);
    restart.permanent_exit_codes.clear();
    unit
}

fn of(units: Vec<UnitSpec>) -> System {
    System {
        plan: plan(units, None),
        requests: 1,
        asks: ALL,
        host_faults: 0,
        leaves: false,
        repeats: false,
        shutdown: false,
        codes: &[0, 1],
        deaths: 0,
    }
}

#[track_caller]
fn check(what: &str, system: &System, states: usize) {
    let found = search(system, MOST);
    if let Some(fault) = &found.fault {
        panic!("{what}: {fault}");
    }
    assert_eq!(found.states, states, "{what}: {found:?}");
}

/// One unit, with all that one unit can do to itself and its keeper can say: left-overs, and everything said twice.
fn alone(unit: UnitSpec) -> System {
    System {
        leaves: true,
        repeats: true,
        asks: &[Ask::Start, Ask::StopAll, Ask::Restart, Ask::Reset],
        ..of(vec![unit])
    }
}

/// One unit on a bad day: the host fails, an operator holds it, and the node ends.
fn bad_day() -> System {
    System {
        host_faults: 1,
        shutdown: true,
        asks: &[Ask::StopAll, Ask::Hold, Ask::Unhold, Ask::Restart, Ask::Reset],
        ..of(vec![small(0)])
    }
}

#[test]
fn one_unit_on_a_bad_day() {
    check("bad day", &bad_day(), 1839);
}

fn edge(mut unit: UnitSpec, requires: &[usize], wants: &[usize]) -> UnitSpec {
    unit.requires = requires.iter().map(|i| name(*i)).collect();
    unit.wants = wants.iter().map(|i| name(*i)).collect();
    unit
}

#[test]
fn one_unit_in_every_kind_of_restart() {
    use RestartPolicy::{Always, Never, OnFailure};
    for (policy, exhausted, permanent, states) in [
        (Always, Exhausted::Retry, false, 253),
        (Always, Exhausted::GiveUp, false, 175),
        (OnFailure, Exhausted::Retry, true, 262),
        (Never, Exhausted::Retry, false, 85),
    ] {
        let mut unit = small(0);
        unit.restart.policy = policy;
        unit.restart.exhausted = exhausted;
        if permanent {
            unit.restart.permanent_exit_codes.push(65);
        }
        let system = System {
            codes: if permanent { &[0, 1, 65] } else { &[0, 1] },
            leaves: false,
            ..alone(unit)
        };
        check(&format!("{policy:?} {exhausted:?}"), &system, states);
    }
}

#[test]
fn one_unit_of_every_kind() {
    for (kind, remain, states) in [
        (Kind::Simple, false, 364),
        (Kind::Oneshot, false, 338),
        (Kind::Oneshot, true, 334),
    ] {
        let mut unit = small(0);
        unit.exec.kind = kind;
        unit.exec.remain = remain;
        check(&format!("{kind:?} {remain}"), &alone(unit), states);
    }
}

#[test]
fn one_unit_with_a_hook_before_and_one_behind() {
    let mut unit = small(0);
    let hook = vec![crate::spec::Template::literal("/bin/true")];
    unit.exec.start_pre = vec![hook.clone()];
    unit.exec.stop_post = vec![hook];
    unit.restart.max_restarts = None;
    check("hooks", &alone(unit), 1980);
}

#[test]
fn one_unit_and_two_who_ask_at_once() {
    let system = System {
        requests: 2,
        ..of(vec![small(0)])
    };
    check("two requests", &system, 1314);
}

/// A unit with a hook, whose manager may die once: before any event, and between any two actions.
fn dying() -> System {
    let mut unit = small(0);
    unit.exec.start_pre = vec![vec![crate::spec::Template::literal("/bin/true")]];
    System {
        deaths: 1,
        leaves: true,
        codes: &[1],
        asks: &[Ask::StopAll, Ask::Hold],
        ..of(vec![unit])
    }
}

#[test]
fn one_unit_whose_manager_dies_once_anywhere() {
    check("one death", &dying(), 228);
}

/// Without limits: what two units do to each other is what is looked at.
fn endless(i: usize) -> UnitSpec {
    let mut unit = small(i);
    unit.restart.max_restarts = None;
    unit.restart.stable_after = Duration::ZERO;
    unit.ready_timeout = Duration::from_secs(1);
    unit
}

const FEW: &[Ask] = &[Ask::Start, Ask::StopAll, Ask::Restart];

fn together(units: Vec<UnitSpec>) -> System {
    System {
        asks: FEW,
        codes: &[1],
        ..of(units)
    }
}

#[test]
fn a_chain_of_two() {
    check(
        "chain",
        &together(vec![endless(0), edge(endless(1), &[0], &[])]),
        1914,
    );
}

#[test]
fn two_with_a_soft_edge() {
    check(
        "soft",
        &together(vec![endless(0), edge(endless(1), &[], &[0])]),
        2591,
    );
}

#[test]
fn a_chain_of_two_whose_manager_dies_once_anywhere() {
    let system = System {
        deaths: 1,
        requests: 0,
        ..together(vec![endless(0), edge(endless(1), &[0], &[])])
    };
    check("chain, one death", &system, 300);
}

#[test]
fn a_fork() {
    let mut units = vec![
        endless(0),
        edge(endless(1), &[0], &[]),
        edge(endless(2), &[0], &[]),
    ];
    for unit in &mut units {
        unit.exec.kind = Kind::Simple;
    }
    let system = System {
        asks: &[Ask::StopAll],
        codes: &[1],
        ..of(units)
    };
    check("fork", &system, 5601);
}

/// Two units, and no more than one restart within two seconds.
fn pausing() -> System {
    let mut system = System {
        asks: &[Ask::Reset, Ask::Start],
        codes: &[1],
        ..of(vec![endless(0), endless(1)])
    };
    let s = Duration::from_secs;
    let mut plan = Plan::clone(&system.plan);
    plan.node.breaker = BreakerSpec {
        node: BreakerLimit {
            restarts: Some(1),
            window: s(2),
            cooldown: s(2),
        },
        startup_grace: Duration::ZERO,
        ..BreakerSpec::default()
    };
    system.plan = Arc::new(plan);
    system
}

#[test]
fn two_whose_restarts_pause() {
    check("breaker", &pausing(), 2684);
}

/// Small systems in which every planted fault shows.
fn proofs() -> Vec<(&'static str, System)> {
    vec![
        ("one unit", alone(small(0))),
        ("bad day", bad_day()),
        ("one unit, one death", dying()),
        ("chain", together(vec![endless(0), edge(endless(1), &[0], &[])])),
        ("breaker", pausing()),
    ]
}

/// What the small system that is its home says of the planted fault, if it finds it.
fn found(fault: Fault) -> Option<String> {
    let (_, home) = proofs().into_iter().find(|(what, _)| *what == fault.home())?;
    planted::with(fault, || search(&home, MOST).fault)
}

#[test]
fn the_canary_is_heard_at_once() {
    let fault = found(Fault::Canary).expect("a proof that hears nothing proves nothing");
    assert_eq!(fault, "the canary sings");
}

#[test]
fn every_planted_fault_is_found() {
    assert!(Fault::ALL.len() > 30);
    let all = Fault::ALL.iter();
    let missed: Vec<&Fault> = all.filter(|fault| found(**fault).is_none()).collect();
    assert!(missed.is_empty(), "not found at home: {missed:?}");
}
