//! What simulation found in the engine, each as a story or as a case: they are run first, and for ever. `docs/reliability.md`
//! says what was wrong.

use proto::reply::{By, Exit};

use crate::engine::types::{Event, Op, Refusal, RequestAnswer, RequestId};
use crate::spec::{OnDependency, OnFailed, OnRestarted, UnitSpec};

use super::dice::*;
use super::shrink::Case;
use super::stories::*;

const CASES: [(&str, &str); 5] = [
    (
        "restart_of_a_oneshot_that_is_done",
        include_str!("traces/restart_of_a_oneshot_that_is_done.txt"),
    ),
    (
        "reset_failed_of_one_that_waits_in_vain",
        include_str!("traces/reset_failed_of_one_that_waits_in_vain.txt"),
    ),
    (
        "a_load_that_takes_a_requirement_away",
        include_str!("traces/a_load_that_takes_a_requirement_away.txt"),
    ),
    (
        "a_start_that_failed_and_is_stopped",
        include_str!("traces/a_start_that_failed_and_is_stopped.txt"),
    ),
    (
        "a_start_of_one_that_is_about_to_restart",
        include_str!("traces/a_start_of_one_that_is_about_to_restart.txt"),
    ),
];

#[test]
fn no_case_that_was_kept_breaks_a_promise_again() {
    for (name, text) in CASES {
        let case = Case::parse(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let outcome = case.run();
        assert_eq!(outcome.violation, None, "{name}:\n{}", outcome.trace.join("\n"));
        assert!(outcome.counts.requests > 0, "{name} asks for nothing any more");
        assert_eq!(Case::parse(&case.print()), Ok(case), "{name}");
    }
}

fn by() -> By {
    By {
        uid: 0,
        pid: 1,
        verb: "test".to_owned(),
    }
}

fn ask(world: &mut World, op: Op) -> RequestId {
    let id = RequestId(1000 + world.replies.len() as u64);
    world.tell(Event::Request { id, op, by: by() });
    id
}

fn requiring(i: usize, others: &[usize], failed: OnFailed, restarted: OnRestarted) -> UnitSpec {
    let mut unit = unit(i);
    unit.requires = others.iter().map(|other| name(*other)).collect();
    unit.on_dependency = OnDependency {
        failed,
        restarted,
        ..OnDependency::default()
    };
    unit
}

fn exit(world: &mut World, i: usize) {
    let main = world
        .live
        .iter()
        .find(|(id, p)| id.is_main() && p.unit == name(i));
    let launch = *main.expect("it lives").0;
    world.exit_later(1, launch, Exit::Code(1));
}

/// Schedule 1377 of seed 5. A held unit that a restart takes along does not come back: whoever requires it goes before it.
#[test]
fn a_held_unit_that_is_taken_along_by_a_restart_goes_after_those_that_require_it() {
    let units = vec![
        unit(0),
        requiring(1, &[0], OnFailed::Stop, OnRestarted::Restart),
        requiring(2, &[1], OnFailed::Stop, OnRestarted::Keep),
    ];
    let mut world = World::new(1, plan(units, None), CALM);
    world.tell_loaded().run(60, 0);
    let held = crate::engine::hold::Held {
        hold: proto::reply::Hold {
            by: by(),
            note: None,
            since_us: 1,
            until_us: None,
        },
        until: None,
    };
    let units = vec![name(1)];
    ask(&mut world, Op::Hold { units, held });
    world.ends.clear();
    // It takes its time, so that one that does not wait for it is gone first.
    let slow = world.live.values_mut().find(|process| process.unit == name(2));
    slow.expect("it lives").ignores_term = true;
    ask(
        &mut world,
        Op::Restart {
            units: vec![name(0)],
            only_running: false,
            cascade: true,
        },
    );
    world.run(120, 0);
    assert_eq!(world.ends, [2, 1, 0].map(name));
    assert_eq!(world.words(3), ["running", "waiting", "waiting"]);
}

/// Schedules 11170 and 17867 of seed 79. `u05` goes on without `u00`, until a restart of `u02` takes it along: it does not come
/// back, and whoever requires it goes before it.
#[test]
fn a_unit_that_goes_on_without_a_requirement_is_lost_by_its_own_restart_and_goes_last() {
    let units = vec![
        unit(0),
        unit(2),
        requiring(5, &[0, 2], OnFailed::Keep, OnRestarted::Restart),
        requiring(10, &[5], OnFailed::Stop, OnRestarted::Keep),
    ];
    let mut world = World::new(1, plan(units, None), CALM);
    world.tell_loaded().run(60, 0);
    ask(
        &mut world,
        Op::Stop {
            units: vec![name(0)],
            cascade: false,
        },
    );
    world.run(120, 0);
    assert!(world.is_there(&name(5)) && world.is_there(&name(10)));
    world.ends.clear();
    exit(&mut world, 2);
    world.run(180, 0);
    assert_eq!(world.ends, [2, 10, 5].map(name));
}

/// Schedule 3732 of seed 77. One that has lost its file only goes down: wanted up by an operator, it went down at the next load of
/// the same files.
#[test]
fn a_unit_without_a_file_is_not_started() {
    let mut stubborn = unit(1);
    stubborn.stop.timeout = std::time::Duration::from_secs(60);
    let mut world = World::new(1, plan(vec![unit(0), stubborn], None), CALM);
    world.tell_loaded().run(60, 0);
    for process in world.live.values_mut() {
        process.ignores_term = true;
    }
    world.tell(Event::Loaded(plan(vec![unit(0)], None)));
    let start = Op::Start { units: vec![name(1)] };
    let id = ask(&mut world, start);
    let refused = RequestAnswer::Refused(Refusal::Unknown { unit: name(1) });
    assert_eq!(world.replies[&id], refused);
    world.run(300, 0);
    assert!(!world.is_there(&name(1)));
}
