//! Runs of the simulated world: many seeds, and the few stories that deserve a name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::reply::{By, Exit, Outcome};

use crate::engine::machine::Engine;
use crate::engine::restart::mix;
use crate::engine::types::{Action, Event, Mono, Op, RequestAnswer, RequestId};
use crate::engine::unit::State;
use crate::ids::LaunchId;
use crate::spec::{OnRestarted, UnitName, UnitSpec};

use super::dice::*;
use super::stories::*;

#[test]
fn in_many_graphs_nothing_starts_before_what_it_requires_and_a_full_stop_is_the_exact_reverse() {
    for seed in 0..200 {
        let mut dice = Dice(mix(seed ^ 0xABCD));
        let count = 2 + dice.below(20) as usize;
        let limit = dice.percent(30).then(|| 1 + dice.below(4) as u32);
        let plan = plan(random_units(&mut dice, count, false), limit);
        let mut world = World::new(seed, Arc::clone(&plan), CALM);
        world.tell(Event::Loaded(Arc::clone(&plan)));
        world.run(3600, 0);
        assert_eq!(world.starts.len(), count, "seed {seed}: each unit starts once");
        for (_, unit) in world.engine.units() {
            assert!(
                unit.is_satisfied(),
                "seed {seed}: {} is {:?}",
                unit.spec.name,
                unit.state.word()
            );
        }
        world.ends.clear();
        world.shut_down();
        assert_eq!(world.finished, Some(0), "seed {seed}");
        assert_eq!(world.ends.len(), count, "seed {seed}");
        let place: BTreeMap<&UnitName, usize> = world.ends.iter().zip(0..).collect();
        for unit in plan.units.values() {
            for d in &unit.requires {
                assert!(
                    place[&unit.name] < place[d],
                    "seed {seed}: {d} ended before {}",
                    unit.name
                );
            }
        }
    }
}

/// Lets each of these seeds' worlds be as bad as that, then calm, then go down. How many requests were answered, and how
/// often the manager died.
fn live_through(rates: Rates, seeds: u64) -> (usize, u32) {
    let (mut answered, mut deaths) = (0, 0);
    for seed in 0..seeds {
        let mut dice = Dice(mix(seed ^ 0x5EED));
        let count = 2 + dice.below(11) as usize;
        let limit = dice.percent(30).then(|| 1 + dice.below(3) as u32);
        let plan = plan(random_watched_units(&mut dice, count), limit);
        let mut world = World::new(seed, Arc::clone(&plan), rates);
        world.tell(Event::Loaded(Arc::clone(&plan)));
        world.run(900, 40);
        // Faults cease: the wanted state is reached, or a reason is given.
        if world.finished.is_none() && world.closing.is_none() {
            world.come_to_rest();
        }
        world.shut_down();
        if !matches!(world.finished, Some(0)) {
            world.fail(&format!("the shutdown ended with {:?}", world.finished));
        }
        if !world.live.is_empty() {
            world.fail("processes are left after the shutdown");
        }
        answered += world.replies.len();
        let ids: BTreeSet<RequestId> = world.replies.keys().copied().collect();
        if !world.open_or_answered().is_subset(&ids) {
            world.fail("a request was not answered");
        }
        deaths += world.kept.deaths;
    }
    (answered, deaths)
}

#[test]
fn in_a_hostile_world_the_invariants_hold_every_request_is_answered_and_all_ends() {
    let (answered, deaths) = live_through(hostile(), 100);
    assert_eq!(deaths, 0);
    assert!(
        answered > 2_000,
        "only {answered} requests were answered: the dice are too kind"
    );
}

#[test]
fn a_manager_that_dies_at_any_moment_comes_back_and_all_goes_on_as_if_it_had_not() {
    let (answered, deaths) = live_through(crashing(), 15);
    assert!(answered > 300, "only {answered} requests were answered");
    assert!(deaths > 600, "only {deaths} deaths: the dice are too kind");
}

#[test]
fn the_same_seed_gives_the_same_actions() {
    for seed in 0..50 {
        let run = || {
            let plan = plan(random_watched_units(&mut Dice(mix(seed)), 8), None);
            let mut world = World::new(seed, Arc::clone(&plan), hostile());
            world.tell(Event::Loaded(plan));
            world.run(600, 20);
            world.trace
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}

#[test]
fn a_failed_requirement_holds_its_dependents_and_its_recovery_starts_them() {
    let mut base = unit(0);
    base.restart.max_restarts = Some(0);
    let mut top = unit(1);
    top.requires = vec![name(0)];
    let plan = plan(vec![base, top], None);
    let mut world = World::new(1, Arc::clone(&plan), CALM);
    world.tell(Event::Loaded(plan));
    world.run(60, 0);
    let launch = *world
        .live
        .iter()
        .find(|(_, p)| p.unit == name(0))
        .expect("it lives")
        .0;
    world.exit_later(1, launch, Exit::Code(1));
    world.run(120, 0);
    let word = |world: &World, i| world.engine.find(&name(i)).expect("known").1.state.word();
    assert_eq!(word(&world, 0), proto::reply::State::Failed);
    assert_eq!(word(&world, 1), proto::reply::State::Waiting);
    world.run(120 + 1000, 0); // the slow retry comes after 900 s
    assert_eq!(word(&world, 0), proto::reply::State::Running);
    assert_eq!(word(&world, 1), proto::reply::State::Running);
}

#[test]
fn a_stop_wins_over_a_start_under_way_and_the_starter_is_told() {
    let plan = plan(vec![unit(0)], None);
    let mut world = World::new(1, Arc::clone(&plan), CALM);
    world.tell(Event::Loaded(plan));
    let by = By {
        uid: 0,
        pid: 1,
        verb: "test".to_owned(),
    };
    let units = vec![name(0)];
    world.tell(Event::Request {
        id: RequestId(1),
        op: Op::Start { units: units.clone() },
        by: by.clone(),
    });
    world.tell(Event::Request {
        id: RequestId(2),
        op: Op::Stop {
            units,
            cascade: false,
        },
        by,
    });
    world.run(60, 0);
    let outcome = |id| match &world.replies[&RequestId(id)] {
        RequestAnswer::Done(answers) => answers[0].outcome,
        RequestAnswer::Refused(refusal) => panic!("{refusal:?}"),
    };
    assert_eq!(outcome(1), Outcome::Superseded);
    assert_eq!(outcome(2), Outcome::Done);
    assert_eq!(
        world.engine.find(&name(0)).expect("known").1.state,
        State::Stopped
    );
}

/// Three units in a chain, all running.
fn chain_of_three(last: UnitSpec) -> World {
    let mut middle = unit(1);
    middle.requires = vec![name(0)];
    let mut last = last;
    last.requires = vec![name(1)];
    let mut base = unit(0);
    base.restart.max_restarts = Some(0);
    let plan = plan(vec![base, middle, last], None);
    let mut world = World::new(1, Arc::clone(&plan), CALM);
    world.tell(Event::Loaded(plan));
    world.run(60, 0);
    assert_eq!(world.words(3), ["running"; 3]);
    world
}

#[test]
fn a_stop_goes_up_the_whole_chain_of_requirements_the_last_first_and_so_does_the_return() {
    let mut world = chain_of_three(unit(2));
    let by = By {
        uid: 0,
        pid: 1,
        verb: "test".to_owned(),
    };
    world.tell(Event::Request {
        id: RequestId(1),
        op: Op::Stop {
            units: vec![name(0)],
            cascade: true,
        },
        by: by.clone(),
    });
    assert_eq!(world.words(3), ["running", "running", "stopping"]);
    world.run(120, 0);
    assert_eq!(world.words(3), ["stopped", "waiting", "waiting"]);
    world.tell(Event::Request {
        id: RequestId(2),
        op: Op::Start { units: vec![name(0)] },
        by,
    });
    world.run(180, 0);
    assert_eq!(world.words(3), ["running"; 3]);
}

#[test]
fn a_failure_goes_up_the_whole_chain_of_requirements_but_not_to_one_that_keeps_on() {
    let mut keeper = unit(2);
    keeper.on_dependency.failed = crate::spec::OnFailed::Keep;
    for (last, expected) in [(unit(2), "waiting"), (keeper, "running")] {
        let mut world = chain_of_three(last);
        let launch = *world
            .live
            .iter()
            .find(|(_, p)| p.unit == name(0))
            .expect("it lives")
            .0;
        world.exit_later(1, launch, Exit::Code(1));
        world.run(120, 0);
        assert_eq!(world.words(3), ["failed", "waiting", expected]);
    }
}

#[test]
fn a_retry_takes_its_turn_behind_units_that_were_never_tried_and_says_why_it_starts() {
    let plan = plan(vec![unit(0), unit(1), unit(2)], Some(1));
    let mut engine = Engine::new(1);
    let mut changes = Vec::new();
    let mut tell = |engine: &mut Engine, ms: u64, event: Event| -> Option<(String, LaunchId)> {
        engine.handle(Mono(ms * 1_000_000), event);
        let mut launched = None;
        while let Some(action) = engine.poll_action() {
            match action {
                Action::Launch { launch, spec, .. } => {
                    assert_eq!(launched, None, "one slot, one start");
                    launched = Some((spec.name.to_string(), launch));
                }
                Action::Emit(change) => changes.push(change),
                _ => {}
            }
        }
        launched
    };
    let launched = |launch: LaunchId| Event::Launched {
        launch,
        pid: 9,
        start_time: 1,
        note: None,
    };
    let up = |launch: LaunchId| Event::Ready {
        invocation: launch.invocation,
    };
    let (first, launch) = tell(&mut engine, 0, Event::Loaded(plan)).expect("a slot is free");
    assert_eq!(first, name(0).as_str());
    assert_eq!(tell(&mut engine, 1, launched(launch)), None);
    let exited = Event::Exited {
        launch,
        exit: Exit::Code(1),
        remains: Vec::new(),
    };
    let (second, launch) = tell(&mut engine, 2, exited).expect("its slot is free");
    assert_eq!(second, name(1).as_str());
    assert_eq!(tell(&mut engine, 3, launched(launch)), None);
    assert_eq!(
        tell(&mut engine, 3000, Event::Tick),
        None,
        "the back-off is over, the slot is not free"
    );
    let (third, launch) = tell(&mut engine, 3001, up(launch)).expect("the slot is free");
    assert_eq!(third, name(2).as_str(), "the one that was never tried goes first");
    assert_eq!(tell(&mut engine, 3002, launched(launch)), None);
    let (last, launch) = tell(&mut engine, 3003, up(launch)).expect("the slot is free");
    assert_eq!(last, name(0).as_str());
    assert_eq!(tell(&mut engine, 3004, launched(launch)), None);

    use proto::reply::{CauseKind, State as Word};
    let began: Vec<_> = changes
        .iter()
        .filter(|c| c.unit == name(0) && c.to == Word::Starting)
        .map(|c| c.cause.kind)
        .collect();
    let (boot, timer) = (CauseKind::Boot, CauseKind::Timer);
    assert_eq!(
        began,
        [boot, boot, timer, timer],
        "start and launch, first and again"
    );
}

#[test]
fn a_stop_that_takes_others_along_waits_for_them_and_tells_of_each() {
    let chain = |i: usize| {
        let mut unit = unit(i);
        unit.requires = (0..i).map(name).collect();
        unit
    };
    let plan = plan((0..4).map(chain).collect(), None);
    let mut world = World::new(1, Arc::clone(&plan), CALM);
    world.tell(Event::Loaded(plan));
    world.run(60, 0);
    let by = By {
        uid: 0,
        pid: 1,
        verb: "stop".to_owned(),
    };
    let stop = |cascade| Op::Stop {
        units: vec![name(0)],
        cascade,
    };
    world.tell(Event::Request {
        id: RequestId(1),
        op: stop(false),
        by: by.clone(),
    });
    let others = (1..4).map(name).collect();
    assert_eq!(
        world.replies[&RequestId(1)],
        RequestAnswer::Refused(crate::engine::types::Refusal::WouldStop { units: others })
    );
    world.tell(Event::Request {
        id: RequestId(2),
        op: stop(true),
        by,
    });
    assert!(
        !world.replies.contains_key(&RequestId(2)),
        "nothing has stopped yet"
    );
    world.run(120, 0);
    let RequestAnswer::Done(answers) = &world.replies[&RequestId(2)] else {
        panic!("refused")
    };
    let told: Vec<(String, Outcome)> = answers.iter().map(|a| (a.unit.to_string(), a.outcome)).collect();
    let expected: Vec<(String, Outcome)> = (0..4).map(|i| (name(i).to_string(), Outcome::Done)).collect();
    assert_eq!(told, expected);
    assert!(world.live.is_empty());
}

/// A chain of units, each requiring only the one before it.
fn chain(length: usize) -> Vec<UnitSpec> {
    let link = |i: usize| {
        let mut unit = unit(i);
        unit.requires = i.checked_sub(1).map(name).into_iter().collect();
        unit
    };
    (0..length).map(link).collect()
}

#[test]
fn a_chain_goes_down_in_reverse_with_its_root_and_comes_back_by_itself() {
    let mut units = chain(4);
    units[0].restart.max_restarts = Some(0);
    let plan = plan(units, None);
    let mut world = World::new(1, Arc::clone(&plan), CALM);
    world.tell(Event::Loaded(plan));
    world.run(60, 0);
    world.ends.clear();
    let root = *world
        .live
        .iter()
        .find(|(_, p)| p.unit == name(0))
        .expect("it lives")
        .0;
    world.exit_later(1, root, Exit::Code(1));
    world.run(120, 0);
    assert_eq!(world.ends, [0, 3, 2, 1].map(name));
    assert!(world.live.is_empty());
    world.run(120 + 1000, 0);
    let all_run = world.engine.units().all(|(_, unit)| unit.is_satisfied());
    assert!(all_run, "{:?}", world.engine);
}

#[test]
fn a_stop_takes_a_whole_chain_along_in_reverse() {
    let plan = plan(chain(4), None);
    let mut world = World::new(1, Arc::clone(&plan), CALM);
    world.tell(Event::Loaded(plan));
    world.run(60, 0);
    world.ends.clear();
    world.tell(Event::Request {
        id: RequestId(1),
        op: Op::Stop {
            units: vec![name(0)],
            cascade: true,
        },
        by: By {
            uid: 0,
            pid: 1,
            verb: "stop".to_owned(),
        },
    });
    world.run(120, 0);
    let RequestAnswer::Done(answers) = &world.replies[&RequestId(1)] else {
        panic!("refused")
    };
    assert_eq!(answers.len(), 4);
    assert!(answers.iter().all(|a| a.outcome == Outcome::Done), "{answers:?}");
    assert_eq!(world.ends, [3, 2, 1, 0].map(name));
}

#[test]
fn a_restart_takes_a_chain_along_in_reverse_and_brings_it_back_in_order() {
    let mut units = chain(4);
    for unit in &mut units {
        unit.on_dependency.restarted = OnRestarted::Restart;
    }
    let plan = plan(units, None);
    let mut world = World::new(3, Arc::clone(&plan), CALM);
    world.tell(Event::Loaded(plan));
    world.run(60, 0);
    (world.starts, world.ends) = (Vec::new(), Vec::new());
    let by = By {
        uid: 0,
        pid: 1,
        verb: "restart".to_owned(),
    };
    let op = Op::Restart {
        units: vec![name(0)],
        only_running: false,
        cascade: true,
    };
    world.tell(Event::Request {
        id: RequestId(1),
        op,
        by,
    });
    world.run(120, 0);
    let forward: Vec<UnitName> = (0..4).map(name).collect();
    let backward: Vec<UnitName> = (0..4).rev().map(name).collect();
    assert_eq!(world.ends, backward);
    assert_eq!(world.starts, forward);
    let RequestAnswer::Done(answers) = &world.replies[&RequestId(1)] else {
        panic!("refused")
    };
    assert!(answers.iter().all(|a| a.outcome == Outcome::Done), "{answers:?}");
    assert_eq!(answers.len(), 4);
}
