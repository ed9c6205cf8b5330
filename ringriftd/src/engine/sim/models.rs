//! The small systems that are looked at whole, with what was found: how many states there are, and how far the farthest one is.
//! The numbers are written down since a system that has become smaller is not proof of anything any more.

use std::sync::Arc;
use std::time::Duration;

use crate::breaker::{BreakerLimit, BreakerSpec};
use crate::engine::types::Plan;
use crate::spec::{Exhausted, Kind, RestartPolicy, UnitSpec};

use super::make::*;
use super::model::{Ask, System, search};

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
        deaths: 0,
    }
}

#[track_caller]
fn check(what: &str, system: &System, states: usize) {
    let start = std::time::Instant::now();
    let found = search(
        system,
        std::env::var("MOST").map_or(2_000_000, |n| n.parse().unwrap()),
    );
    if let Some(fault) = &found.fault {
        panic!("{what}: {fault}");
    }
    assert_eq!(found.states, states, "{what}: {found:?} in {:?}", start.elapsed());
}

/// One unit, with all that one unit can be told and do to itself: left-overs, the host's faults, and everything said twice.
fn alone(unit: UnitSpec) -> System {
    System {
        host_faults: 1,
        leaves: true,
        repeats: true,
        shutdown: true,
        ..of(vec![unit])
    }
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
        (Always, Exhausted::Retry, false, 0),
        (Always, Exhausted::GiveUp, false, 0),
        (OnFailure, Exhausted::Retry, true, 0),
        (Never, Exhausted::Retry, false, 0),
    ] {
        let mut unit = small(0);
        unit.restart.policy = policy;
        unit.restart.exhausted = exhausted;
        if permanent {
            unit.restart.permanent_exit_codes.push(65);
        }
        check(&format!("{policy:?} {exhausted:?}"), &alone(unit), states);
    }
}

#[test]
fn one_unit_of_every_kind() {
    for (kind, remain, states) in [
        (Kind::Simple, false, 0),
        (Kind::Oneshot, false, 0),
        (Kind::Oneshot, true, 0),
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
    check("hooks", &alone(unit), 0);
}

#[test]
fn one_unit_and_two_who_ask_at_once() {
    let system = System {
        requests: 2,
        ..of(vec![small(0)])
    };
    check("two requests", &system, 0);
}

#[test]
fn one_unit_whose_manager_dies_once_anywhere() {
    let mut unit = small(0);
    unit.restart.max_restarts = None;
    let system = System {
        deaths: 1,
        leaves: true,
        host_faults: 1,
        ..of(vec![unit])
    };
    check("one death", &system, 0);
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
        ..of(units)
    }
}

#[test]
fn a_chain_of_two() {
    check(
        "chain",
        &together(vec![endless(0), edge(endless(1), &[0], &[])]),
        0,
    );
}

#[test]
fn two_with_a_soft_edge() {
    check(
        "soft",
        &together(vec![endless(0), edge(endless(1), &[], &[0])]),
        0,
    );
}

#[test]
fn a_chain_of_two_whose_manager_dies_once_anywhere() {
    let system = System {
        deaths: 1,
        requests: 0,
        ..together(vec![endless(0), edge(endless(1), &[0], &[])])
    };
    check("chain, one death", &system, 0);
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
        asks: &[Ask::StopAll, Ask::Start],
        ..of(units)
    };
    check("fork", &system, 0);
}

#[test]
fn two_whose_restarts_pause() {
    let mut system = System {
        requests: 1,
        asks: &[Ask::Reset, Ask::Start],
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
    check("breaker", &system, 0);
}
