//! What outlives what: stories of restored engines, of other boots and orderly ends, of holds, and of processes from outside.

use std::sync::Arc;

use proto::reply::{By, Exit, Hold, Outcome, State as Word};

use crate::engine::hold::Held;
use crate::engine::machine::Engine;
use crate::engine::snapshot::Snapshot;
use crate::engine::types::{Action, Event, LaunchFailure, Mono, Op, Plan, Refusal, RequestAnswer, RequestId};
use crate::engine::unit::{Desired, Foreign, ProcessPhase, State, Unit};
use crate::ids::LaunchId;
use crate::spec::{Kind, UnitSpec};

use super::dice::*;
use super::stories::{CALM, World};

const S: u64 = 1_000_000_000;

fn by() -> By {
    By {
        uid: 7,
        pid: 1,
        verb: "test".to_owned(),
    }
}

fn held(note: &str, until_s: Option<u64>) -> Held {
    Held {
        hold: Hold {
            by: by(),
            note: Some(note.to_owned()),
            since_us: 1,
            until_us: until_s.map(|s| s * 1_000_000),
        },
        until: until_s.map(|s| Mono(s * S)),
    }
}

/// A world where all units run.
fn up(units: Vec<UnitSpec>) -> World {
    let plan = plan(units, None);
    let mut world = World::new(1, Arc::clone(&plan), CALM);
    world.tell(Event::Loaded(plan));
    world.run(60, 0);
    assert!(world.engine.is_settled());
    world
}

/// The answer to a request that is answered at once.
fn ask(world: &mut World, op: Op) -> RequestAnswer {
    let id = RequestId(world.replies.len() as u64 + 1);
    begin(world, op);
    world.replies[&id].clone()
}

fn begin(world: &mut World, op: Op) {
    let id = RequestId(world.replies.len() as u64 + 1);
    world.tell(Event::Request { id, op, by: by() });
}

fn outcome(answer: &RequestAnswer) -> (Outcome, &str) {
    match answer {
        RequestAnswer::Done(answers) => (answers[0].outcome, &answers[0].text),
        RequestAnswer::Refused(refusal) => panic!("refused: {refusal:?}"),
    }
}

fn start(i: usize) -> Op {
    Op::Start { units: vec![name(i)] }
}

fn stop(i: usize) -> Op {
    Op::Stop {
        units: vec![name(i)],
        cascade: true,
    }
}

fn hold(i: usize, held: Held) -> Op {
    Op::Hold {
        units: vec![name(i)],
        held,
    }
}

fn unit_of(engine: &Engine, i: usize) -> &Unit {
    engine.find(&name(i)).expect("known").1
}

fn main_of(world: &World, i: usize) -> LaunchId {
    let is_it = |(id, p): &(&LaunchId, &super::keeper::Process)| id.is_main() && p.unit == name(i);
    *world.live.iter().find(is_it).expect("it lives").0
}

/// The engine after it was stored, written and read again.
fn again(engine: &Engine, plan: &Plan) -> Engine {
    let text = serde_json::to_string(&engine.snapshot()).expect("it can be written");
    Engine::restore(serde_json::from_str(&text).expect("it can be read"), plan)
}

fn actions(engine: &mut Engine) -> Vec<Action> {
    std::iter::from_fn(|| engine.poll_action()).collect()
}

fn but_events(actions: Vec<Action>) -> Vec<Action> {
    let is_act = |action: &Action| !matches!(action, Action::Emit(_));
    actions.into_iter().filter(is_act).collect()
}

#[test]
fn what_a_later_version_adds_and_what_an_earlier_one_lacks_can_be_read() {
    let world = up(vec![unit(0)]);
    let mut json = serde_json::to_value(world.engine.snapshot()).expect("it can be written");
    json["units"]["u00"]["from_the_future"] = 1.into();
    json["node"]["from_the_future"] = 1.into();
    let unit = json["units"]["u00"].as_object_mut().expect("a unit");
    for absent in ["hold", "note", "last_error", "leftover"] {
        unit.remove(absent);
    }
    json["node"].as_object_mut().expect("a node").remove("stale");
    let read: Snapshot = serde_json::from_value(json).expect("it can be read");
    assert_eq!(read, world.engine.snapshot());
}

#[test]
fn a_held_unit_is_started_by_nobody_and_those_that_require_it_are_told() {
    let mut top = unit(1);
    top.requires = vec![name(0)];
    let mut world = up(vec![unit(0), top]);
    assert_eq!(
        outcome(&ask(&mut world, hold(0, held("new disk", Some(500))))),
        (Outcome::Done, "held; it goes on until it ends")
    );
    assert_eq!(world.words(2), ["running"; 2], "what runs goes on");
    let main = main_of(&world, 0);
    world.exit_later(1, main, Exit::Code(1));
    world.run(200, 0);
    assert_eq!(unit_of(&world.engine, 0).word, Word::Held);
    assert_eq!(
        unit_of(&world.engine, 0).state,
        State::Waiting,
        "its back-off is over"
    );
    assert_eq!(unit_of(&world.engine, 1).state, State::Waiting);
    let (ix, _) = world.engine.find(&name(1)).expect("known");
    let told: Vec<String> = world
        .engine
        .blockers(ix)
        .iter()
        .map(|b| world.engine.blocker_text(b))
        .collect();
    assert_eq!(told, ["is held by uid 7 (pid 1): new disk"]);
    let RequestAnswer::Refused(refusal) = ask(&mut world, start(0)) else {
        panic!("a held unit was started")
    };
    let expected = Refusal::Held {
        unit: name(0),
        hold: Box::new(held("new disk", Some(500)).hold),
    };
    assert_eq!(refusal, expected);
    let answer = ask(&mut world, start(1));
    let (result, text) = outcome(&answer);
    assert_eq!(result, Outcome::Failed);
    assert!(text.contains("u00, which is held by uid 7"), "{text}");
    assert!(world.engine.is_settled(), "nobody waits for it");

    world.run(499, 0);
    assert_eq!(world.words(2), ["waiting"; 2]);
    world.run(600, 0); // the hold ends after 500 s
    assert_eq!(world.words(2), ["running"; 2]);
}

#[test]
fn unhold_lets_a_unit_go_on_as_it_is_wanted_and_a_restart_of_a_held_one_is_refused() {
    let mut world = up(vec![unit(0), unit(1)]);
    ask(&mut world, hold(0, held("wait", None)));
    let restart = Op::Restart {
        units: vec![name(0)],
        only_running: false,
        cascade: true,
    };
    let answer = ask(&mut world, restart);
    assert!(
        matches!(answer, RequestAnswer::Refused(Refusal::Held { .. })),
        "{answer:?}"
    );
    assert_eq!(outcome(&ask(&mut world, start(0))).0, Outcome::Already, "it runs");
    let main = main_of(&world, 0);
    world.exit_later(1, main, Exit::Code(1));
    world.run(5000, 0);
    assert_eq!(unit_of(&world.engine, 0).word, Word::Held);
    let unhold = |i| Op::Unhold { units: vec![name(i)] };
    assert_eq!(outcome(&ask(&mut world, unhold(0))).0, Outcome::Done);
    assert_eq!(outcome(&ask(&mut world, unhold(1))).0, Outcome::Already);
    world.run(5100, 0);
    assert_eq!(world.words(2), ["running"; 2]);

    begin(&mut world, stop(0));
    world.run(5200, 0);
    ask(&mut world, hold(0, held("wait", None)));
    ask(&mut world, unhold(0));
    world.run(5300, 0);
    assert_eq!(world.words(1), ["stopped"], "it was not wanted");
}

/// Units: 0 runs, 1 was stopped by an operator, 2 is held and down, 3 has failed.
fn before_the_end() -> World {
    let mut failing = unit(3);
    failing.restart.max_restarts = Some(0);
    let mut world = up(vec![unit(0), unit(1), unit(2), failing]);
    begin(&mut world, stop(1));
    begin(&mut world, stop(2));
    world.run(100, 0);
    ask(&mut world, hold(2, held("new disk", Some(1000))));
    let main = main_of(&world, 3);
    world.exit_later(1, main, Exit::Code(1));
    world.run(120, 0);
    let words: Vec<Word> = (0..4).map(|i| unit_of(&world.engine, i).word).collect();
    assert_eq!(words, [Word::Running, Word::Stopped, Word::Held, Word::Failed]);
    world
}

#[test]
fn on_another_boot_no_old_process_is_touched_and_wants_holds_and_history_stay() {
    let world = before_the_end();
    let (seq, next) = (world.engine.last_seq(), world.engine.next_invocation);
    let retry = match unit_of(&world.engine, 3).state {
        State::Failed { next_try: Some(at) } => at,
        ref state => panic!("{state:?}"),
    };
    // The new clock is 100 s behind the old one.
    let shift = -(100 * S as i64);
    let stored = world.engine.snapshot().on_other_boot(shift, Mono(30 * S));
    let mut engine = Engine::restore(stored, &world.plan);
    assert_eq!(engine.processes().count(), 0);
    engine.handle(Mono(30 * S), Event::Loaded(Arc::clone(&world.plan)));
    assert_eq!(engine.broken_invariants(), Vec::<String>::new());
    let done = actions(&mut engine);
    for action in &done {
        match action {
            Action::Launch { launch, spec, .. } => {
                assert_eq!(spec.name, name(0), "only what was wanted");
                assert!(launch.invocation.0 >= next, "a serial is used once");
            }
            Action::Emit(change) => assert!(change.seq > seq, "numbers go on"),
            other => panic!("{other:?}"),
        }
    }
    let words: Vec<Word> = (0..4).map(|i| unit_of(&engine, i).word).collect();
    assert_eq!(words, [Word::Starting, Word::Stopped, Word::Held, Word::Failed]);
    assert_eq!(engine.unit(engine.find(&name(2)).expect("known").0).hold, {
        let mut hold = held("new disk", Some(1000));
        hold.until = Some(Mono(900 * S));
        Some(hold)
    });
    let State::Failed { next_try: Some(at) } = unit_of(&engine, 3).state else {
        panic!("its history is lost")
    };
    assert_eq!(at.0, retry.0 - 100 * S);
}

#[test]
fn a_wrong_wall_clock_makes_no_wait_longer_and_puts_no_past_into_the_future() {
    let world = before_the_end();
    let stored = world.engine.snapshot().on_other_boot(i64::MAX, Mono(30 * S));
    let failed = &stored.units[&name(3)];
    let State::Failed { next_try: Some(at) } = failed.state else {
        panic!("{failed:?}")
    };
    assert!(at <= Mono((30 + 900) * S), "{at:?}");
    assert!(stored.units.values().all(|unit| unit.since <= Mono(30 * S)));
    let stored = world.engine.snapshot().on_other_boot(i64::MIN, Mono(30 * S));
    assert_eq!(stored.node.now, Mono(30 * S));
    let mut engine = Engine::restore(stored, &world.plan);
    engine.handle(Mono(30 * S), Event::Loaded(Arc::clone(&world.plan)));
    assert_eq!(unit_of(&engine, 2).hold, None, "long over");
}

#[test]
fn after_an_orderly_end_only_holds_are_left_and_numbers_go_on() {
    let mut world = before_the_end();
    world.shut_down();
    assert_eq!(world.finished, Some(0));
    let (seq, next) = (world.engine.last_seq(), world.engine.next_invocation);
    for stored in [
        world.engine.snapshot().after_end(0, Mono(200 * S)),
        world.engine.snapshot().on_other_boot(0, Mono(200 * S)),
    ] {
        assert_eq!(stored.units.keys().collect::<Vec<_>>(), [&name(2)]);
        let mut engine = Engine::restore(stored, &world.plan);
        engine.handle(Mono(200 * S), Event::Loaded(Arc::clone(&world.plan)));
        let words: Vec<Word> = (0..4).map(|i| unit_of(&engine, i).word).collect();
        assert_eq!(
            words,
            [Word::Starting, Word::Starting, Word::Held, Word::Starting]
        );
        assert_eq!(unit_of(&engine, 2).desired, Desired::Up, "the profile wants it");
        let first = actions(&mut engine).into_iter().find_map(|action| match action {
            Action::Emit(change) => Some(change.seq),
            _ => None,
        });
        assert_eq!(first, Some(seq + 1));
        assert_eq!(engine.next_invocation, next + 3);
    }
}

#[test]
fn a_process_that_the_keeper_never_heard_of_is_asked_for_again_once() {
    let plan = plan(vec![unit(0), unit(1)], None);
    let mut engine = Engine::new(1);
    engine.handle(Mono(0), Event::Loaded(Arc::clone(&plan)));
    let asked = but_events(actions(&mut engine));
    assert_eq!(asked.len(), 2);
    let mut engine = again(&engine, &plan);
    let launch = LaunchId::main(unit_of(&engine, 0).last_invocation.expect("it had a life"));
    engine.handle(Mono(S), Event::Lost { launch });
    engine.resume(Mono(S));
    assert_eq!(but_events(actions(&mut engine)), asked);
    let main = |engine: &Engine, i| unit_of(engine, i).state.life().and_then(|l| l.main.clone());
    let phase = main(&engine, 0).expect("asked").phase;
    assert_eq!(phase, ProcessPhase::Asked);
}

#[test]
fn one_that_was_to_be_stopped_before_it_was_launched_is_not_launched_for_that() {
    let plan = plan(vec![unit(0)], None);
    let mut engine = Engine::new(1);
    engine.handle(Mono(0), Event::Loaded(Arc::clone(&plan)));
    let request = Event::Request {
        id: RequestId(1),
        op: stop(0),
        by: by(),
    };
    engine.handle(Mono(S), request);
    assert!(matches!(unit_of(&engine, 0).state, State::Stopping { .. }));
    let mut engine = again(&engine, &plan);
    engine.resume(Mono(S));
    let done = but_events(actions(&mut engine));
    assert!(
        matches!(done.as_slice(), [Action::Reply { id: RequestId(1), .. }]),
        "{done:?}"
    );
    assert_eq!(unit_of(&engine, 0).state, State::Stopped);
}

#[test]
fn a_lost_process_has_ended_and_nobody_knows_how() {
    let mut world = up(vec![unit(0)]);
    let launch = main_of(&world, 0);
    world.live.remove(&launch);
    world.engine = again(&world.engine, &world.plan);
    world.tell(Event::Lost { launch });
    let unit = unit_of(&world.engine, 0);
    assert_eq!(unit.word, Word::Backoff);
    assert_eq!(unit.last_exit.expect("it ended").0, Exit::Unknown);
}

#[test]
fn a_unit_whose_file_is_gone_is_restored_with_the_definition_that_it_runs_by() {
    let mut world = up(vec![unit(0), unit(1)]);
    let mut changed = unit(1);
    changed.digest = "2".to_owned();
    world.tell(Event::Loaded(plan(vec![unit(0), changed], None)));
    // Wanted down now, and still there.
    world.tell(Event::Loaded(plan(vec![unit(0)], None)));
    let engine = again(&world.engine, &world.plan);
    let unit = unit_of(&engine, 1);
    assert!(!unit.is_defined);
    assert_eq!(unit.spec.digest, "2");
    assert_eq!(unit.state.life().expect("it lives").spec.digest, "1");
    assert_eq!(engine.snapshot(), world.engine.snapshot());
    world.engine = engine;
    world.run(100, 0);
    assert_eq!(unit_of(&world.engine, 1).state, State::Stopped);
}

#[test]
fn a_main_process_is_looked_for_again_and_found_once() {
    let mut spec = unit(0);
    spec.exec.kind = Kind::Forking;
    let plan = plan(vec![spec], None);
    let mut engine = Engine::new(1);
    engine.handle(Mono(0), Event::Loaded(Arc::clone(&plan)));
    let launch = LaunchId::main(unit_of(&engine, 0).last_invocation.expect("it has a life"));
    let launched = |pid| Event::Launched {
        launch,
        pid,
        start_time: 5,
        note: None,
    };
    let exited = |remains: &[u32]| Event::Exited {
        launch,
        exit: Exit::Code(0),
        remains: remains.to_vec(),
    };
    let found = Event::MainFound {
        launch,
        pid: 11,
        start_time: 6,
    };
    engine.handle(Mono(S), launched(10));
    engine.handle(Mono(S), exited(&[11]));
    let mut engine = again(&engine, &plan);
    engine.handle(Mono(S), launched(10));
    engine.handle(Mono(S), exited(&[11]));
    engine.resume(Mono(S));
    let done = but_events(actions(&mut engine));
    assert!(matches!(done.as_slice(), [Action::FindMain { .. }]), "{done:?}");
    engine.handle(Mono(S), found.clone());
    let main = |engine: &Engine| {
        let life = unit_of(engine, 0).state.life();
        life.and_then(|l| l.main.as_ref()).map(|p| p.phase)
    };
    let alive = ProcessPhase::Alive {
        pid: 11,
        start_time: 6,
    };
    assert_eq!(main(&engine), Some(alive));
    engine.handle(Mono(2 * S), exited(&[12]));
    assert_eq!(main(&engine), Some(ProcessPhase::Leaving));
    engine.handle(Mono(2 * S), found);
    assert_eq!(main(&engine), Some(ProcessPhase::Leaving), "said twice");
    engine.handle(Mono(2 * S), exited(&[]));
    assert_eq!(
        unit_of(&engine, 0).word,
        Word::Backoff,
        "said again, and nothing is left"
    );
}

#[test]
fn what_was_to_be_killed_is_killed_after_the_managers_death_too() {
    let mut world = up(vec![unit(0)]);
    let launch = main_of(&world, 0);
    begin(&mut world, stop(0));
    // It does not go by SIGTERM.
    let late = Mono(world.now + 6 * S);
    world.engine.handle(late, Event::Tick);
    let killed = but_events(actions(&mut world.engine));
    assert_eq!(killed, [Action::Destroy { launch }]);
    let mut engine = again(&world.engine, &world.plan);
    engine.resume(late);
    assert_eq!(but_events(actions(&mut engine)), killed);
}

const FOREIGN: Foreign = Foreign {
    pid: 4321,
    start_time: 99,
};

/// A unit that is down, which is asked to take a process, and the launch that it takes it as.
fn adopting() -> (Engine, Arc<Plan>, LaunchId) {
    let plan = plan(vec![unit(0)], None);
    let mut engine = Engine::new(1);
    engine.handle(Mono(0), Event::Loaded(Arc::clone(&plan)));
    let ask = |op| Event::Request {
        id: RequestId(1),
        op,
        by: by(),
    };
    let adopt = Op::Adopt {
        unit: name(0),
        process: FOREIGN,
    };
    engine.handle(Mono(0), ask(adopt.clone()));
    let is_refusal = |action: &Action| {
        let Action::Reply { answer, .. } = action else {
            return false;
        };
        matches!(answer, RequestAnswer::Refused(Refusal::NotAdopted { .. }))
    };
    assert!(actions(&mut engine).iter().any(is_refusal), "it is up");
    let first = LaunchId::main(unit_of(&engine, 0).last_invocation.expect("it has a life"));
    let failure = LaunchFailure {
        text: "no such program".to_owned(),
        host: false,
    };
    engine.handle(
        Mono(0),
        Event::LaunchFailed {
            launch: first,
            failure,
        },
    );
    assert_eq!(unit_of(&engine, 0).word, Word::Backoff);
    actions(&mut engine);
    engine.handle(Mono(1), ask(adopt));
    let done = but_events(actions(&mut engine));
    let [
        Action::AdoptForeign {
            launch,
            pid: 4321,
            start_time: 99,
            ..
        },
    ] = done[..]
    else {
        panic!("{done:?}")
    };
    (engine, plan, launch)
}

#[test]
fn a_process_from_outside_runs_at_once_and_goes_down_by_the_ladder() {
    let (engine, plan, launch) = adopting();
    // The manager dies before the keeper answers.
    let mut engine = again(&engine, &plan);
    engine.resume(Mono(2));
    let done = but_events(actions(&mut engine));
    assert!(matches!(done[..], [Action::AdoptForeign { .. }]), "{done:?}");
    let launched = Event::Launched {
        launch,
        pid: 4321,
        start_time: 99,
        note: None,
    };
    engine.handle(Mono(3), launched);
    let done = but_events(actions(&mut engine));
    let [Action::Reply { answer, .. }] = &done[..] else {
        panic!("{done:?}")
    };
    assert_eq!(outcome(answer), (Outcome::Done, "running"));
    let unit = unit_of(&engine, 0);
    assert_eq!(unit.word, Word::Running, "of kind notify, and ready all the same");
    assert_eq!(
        unit.note.as_deref(),
        Some("adopted: its output and exit code cannot be had")
    );
    engine.handle(
        Mono(4),
        Event::Request {
            id: RequestId(2),
            op: stop(0),
            by: by(),
        },
    );
    let done = but_events(actions(&mut engine));
    assert!(
        matches!(done[..], [Action::Signal { signal: 15, .. }]),
        "{done:?}"
    );
}

#[test]
fn a_unit_that_cannot_take_a_process_does_not_start_one_beside_it() {
    let (mut engine, _, launch) = adopting();
    let failure = LaunchFailure {
        text: "it is another process by now".to_owned(),
        host: false,
    };
    engine.handle(Mono(3), Event::LaunchFailed { launch, failure });
    let done = but_events(actions(&mut engine));
    let [Action::Reply { answer, .. }] = &done[..] else {
        panic!("{done:?}")
    };
    let expected = (Outcome::Failed, "was not adopted: it is another process by now");
    assert_eq!(outcome(answer), expected);
    assert_eq!(unit_of(&engine, 0).state, State::Stopped);
    assert_eq!(unit_of(&engine, 0).desired, Desired::Down);
    assert_eq!(engine.broken_invariants(), Vec::<String>::new());
}
