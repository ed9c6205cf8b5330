//! Failures of the simulated world: each is of one life and one event, and none is missing. And causes: with one planted
//! fault in a random graph, `why` names it and what it blocks, as counted by brute force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::reply::{By, Exit, FailureKind, Hold, Oom, RootKind};

use crate::engine::hold::Held;
use crate::engine::restart::mix;
use crate::engine::types::{Action, Event, Failure, LaunchFailure, Mono, Op, Plan, RequestId, Role};
use crate::engine::unit::{Desired, State};
use crate::ids::LaunchId;
use crate::spec::{Exhausted, Kind, OnFailed, RestartPolicy, UnitName, UnitSpec};
use crate::used::Used;

use super::dice::*;
use super::stories::*;

#[test]
fn in_a_burst_of_failures_each_is_of_its_own_life_and_none_is_missing() {
    let mut told = 0;
    for (rates, seeds) in [(hostile(), 300), (crashing(), 40)] {
        for seed in 0..seeds {
            let mut dice = Dice(mix(seed ^ 0xFA11));
            let count = 2 + dice.below(9) as usize;
            let plan = plan(random_units(&mut dice, count, true), None);
            let mut world = World::new(seed, Arc::clone(&plan), rates);
            world.tell(Event::Loaded(plan));
            world.run(900, 30);
            if world.finished.is_none() && world.closing.is_none() {
                world.come_to_rest();
            }
            world.shut_down();
            world.check_failures();
            told += world.failures.len();
        }
    }
    assert!(told > 1_000, "only {told} failures: the dice are too kind");
}

/// One unit, told what happens to it, step by step.
struct One {
    engine: crate::engine::Engine,
    now: u64,
    failures: Vec<Failure>,
    worked: usize,
}

impl One {
    fn new(spec: UnitSpec) -> Self {
        let plan = plan(vec![spec], None);
        let mut one = Self {
            engine: crate::engine::Engine::new(1),
            now: 0,
            failures: Vec::new(),
            worked: 0,
        };
        one.tell(Event::Loaded(plan));
        one
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(Mono(self.now), event);
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Failed(failure) => self.failures.push(*failure),
                Action::Worked { .. } => self.worked += 1,
                _ => {}
            }
        }
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.now += ms * 1_000_000;
        self.tell(event);
    }

    fn launch(&self) -> LaunchId {
        let (_, unit) = self.engine.find(&name(0)).expect("it is there");
        let mut processes = unit.state.life().expect("it has a life").processes();
        processes.next().expect("it has a process").launch
    }

    fn launched(&mut self) -> LaunchId {
        let launch = self.launch();
        self.after(
            1,
            Event::Launched {
                launch,
                pid: 7,
                start_time: 1,
                note: None,
            },
        );
        launch
    }

    fn exited(&mut self, ms: u64, launch: LaunchId, exit: Exit, used: Used) {
        self.after(ms, Event::Used { launch, used });
        self.tell(Event::Exited {
            launch,
            exit,
            remains: Vec::new(),
        });
    }

    fn last(&self) -> (FailureKind, Oom, Option<u64>, Option<u64>, Option<u64>) {
        let failure = self.failures.last().expect("a failure");
        let ms = |d: std::time::Duration| d.as_millis() as u64;
        (
            failure.kind,
            failure.oom,
            failure.lived.map(ms),
            failure.ready.map(ms),
            failure.used.cpu_us,
        )
    }
}

fn used(oom: Oom) -> Used {
    Used {
        cpu_us: Some(5),
        memory_peak: Some(6),
        oom,
    }
}

const SIGKILL: Exit = Exit::Signal {
    signal: 9,
    core: false,
};

#[test]
fn each_kind_of_failure_is_told_as_what_it_is() {
    // A crash after it was ready.
    let mut one = One::new(unit(0));
    let launch = one.launched();
    one.after(
        10,
        Event::Ready {
            invocation: launch.invocation,
        },
    );
    one.exited(90, launch, Exit::Code(3), used(Oom::Maybe));
    assert_eq!(
        one.last(),
        (FailureKind::Exit, Oom::No, Some(100), Some(90), Some(5))
    );
    assert_eq!(one.worked, 0, "it did not live for long enough");

    // The kernel's kill, or perhaps.
    for said in [Oom::Yes, Oom::Maybe] {
        one.after(60_000, Event::Tick);
        let launch = one.launched();
        one.exited(5, launch, SIGKILL, used(said));
        assert_eq!(one.last(), (FailureKind::Signal, said, Some(5), None, Some(5)));
    }

    // Not ready in time: then it is stopped, here in the end by SIGKILL, which was ours.
    one.after(60_000, Event::Tick);
    let launch = one.launched();
    one.after(10_000, Event::Tick);
    assert_eq!(one.failures.len(), 3, "its life is not over");
    one.after(5_000, Event::Tick);
    one.exited(1, launch, SIGKILL, used(Oom::Maybe));
    assert_eq!(
        one.last(),
        (FailureKind::Timeout, Oom::No, Some(15_001), None, Some(5))
    );

    // It could not be started.
    one.after(60_000, Event::Tick);
    let failure = LaunchFailure {
        text: "no such program".to_owned(),
        host: false,
    };
    let launch = one.launch();
    one.after(1, Event::LaunchFailed { launch, failure });
    assert_eq!(one.last(), (FailureKind::Start, Oom::No, None, None, None));
    assert_eq!(one.failures.last().expect("one").text, "no such program");

    // A life that is long enough works, and then fails like any other.
    one.after(60_000, Event::Tick);
    let launch = one.launched();
    one.after(
        1,
        Event::Ready {
            invocation: launch.invocation,
        },
    );
    one.exited(60_000, launch, Exit::Code(1), used(Oom::No));
    assert_eq!(one.worked, 1);
    assert_eq!(one.last().3, Some(60_000));
    assert_eq!(one.failures.len(), 6);
    let (_, unit) = one.engine.find(&name(0)).expect("it is there");
    assert_eq!(unit.failures, 6);
}

#[test]
fn a_hook_that_fails_is_told_as_a_hook_with_what_it_used() {
    let mut spec = unit(0);
    spec.exec.start_pre = vec![vec![crate::spec::Template::literal("/pre")]];
    let mut one = One::new(spec);
    let launch = one.launched();
    assert_eq!(launch.step, 1);
    one.exited(7, launch, Exit::Code(1), used(Oom::No));
    assert_eq!(one.last(), (FailureKind::Hook, Oom::No, None, None, Some(5)));
    assert!(
        one.failures[0].text.starts_with("start_pre[0]"),
        "{:?}",
        one.failures
    );
}

#[test]
fn what_is_stopped_on_purpose_is_no_failure() {
    let mut one = One::new(unit(0));
    let launch = one.launched();
    one.after(
        1,
        Event::Ready {
            invocation: launch.invocation,
        },
    );
    one.tell(Event::Request {
        id: RequestId(1),
        op: Op::Stop {
            units: vec![name(0)],
            cascade: false,
        },
        by: by(),
    });
    one.exited(5, launch, Exit::Code(1), used(Oom::No));
    assert_eq!(one.failures, []);
}

fn by() -> By {
    By {
        uid: 0,
        pid: 1,
        verb: "sim".to_owned(),
    }
}

/// What is wrong with one unit of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It ends each time before it is ready.
    Crashes,
    /// It never becomes ready.
    Hangs,
    /// It crashes once, when all are up, and does not come back.
    DiesLater,
    /// An operator holds it before anything starts.
    IsHeld,
    /// Its program cannot be run, and it is not tried again.
    NoProgram,
}

const FAULTS: [Fault; 5] = [
    Fault::Crashes,
    Fault::Hangs,
    Fault::DiesLater,
    Fault::IsHeld,
    Fault::NoProgram,
];

/// A world in which everything works but one unit.
struct Planted {
    world: World,
    fault: Fault,
    at: UnitName,
}

impl Planted {
    /// Does what the engine asks for, at once.
    fn settle(&mut self) {
        while let Some(action) = self.world.engine.poll_action() {
            match action {
                Action::Launch { launch, role, spec } => self.launch(launch, role, &spec),
                Action::Signal { launch, .. } | Action::Destroy { launch } => self.end(launch, SIGKILL),
                _ => {}
            }
        }
    }

    fn tell(&mut self, event: Event) {
        let now = Mono(self.world.now);
        self.world.engine.handle(now, event);
    }

    fn launch(&mut self, launch: LaunchId, role: Role, spec: &UnitSpec) {
        let is_it = spec.name == self.at && role == Role::Main;
        if is_it && self.fault == Fault::NoProgram {
            let failure = LaunchFailure {
                text: "there is no such program".to_owned(),
                host: false,
            };
            return self.tell(Event::LaunchFailed { launch, failure });
        }
        self.tell(Event::Launched {
            launch,
            pid: 9,
            start_time: 1,
            note: None,
        });
        if role != Role::Main || spec.exec.kind == Kind::Oneshot && !is_it {
            return self.end(launch, Exit::Code(0));
        }
        match self.fault {
            Fault::Crashes if is_it => self.end(launch, Exit::Code(1)),
            Fault::Hangs if is_it => {}
            _ if is_it && spec.exec.kind == Kind::Oneshot => self.end(launch, Exit::Code(0)),
            _ => self.tell(Event::Ready {
                invocation: launch.invocation,
            }),
        }
    }

    fn end(&mut self, launch: LaunchId, exit: Exit) {
        self.tell(Event::Exited {
            launch,
            exit,
            remains: Vec::new(),
        });
    }

    /// Until nothing more happens than slow retries.
    fn run(&mut self) {
        self.settle();
        for _ in 0..200 {
            let Some(at) = self
                .world
                .engine
                .next_deadline()
                .filter(|at| at.0 < 3_600_000_000_000)
            else {
                return;
            };
            self.world.now = self.world.now.max(at.0);
            self.tell(Event::Tick);
            self.settle();
        }
    }
}

/// Who cannot be up without `fault`, by the files alone: over and over, whoever requires one of them.
fn blocked_by_brute_force(plan: &Plan, fault: &UnitName, was_up: bool) -> BTreeSet<UnitName> {
    let mut blocked: BTreeSet<UnitName> = BTreeSet::new();
    loop {
        let before = blocked.len();
        for spec in plan.units.values() {
            let is_without = spec.requires.iter().any(|d| {
                let is_down = d == fault || blocked.contains(d);
                // One that was up stays up if it says so, and a oneshot that has done its work is relied on.
                let is_taken = !was_up || spec.on_dependency(d).failed == OnFailed::Stop;
                is_down && is_taken && !(was_up && is_done(spec))
            });
            if is_without && spec.name != *fault {
                blocked.insert(spec.name.clone());
            }
        }
        if blocked.len() == before {
            return blocked;
        }
    }
}

/// A oneshot that has ended and has nothing that could be stopped.
fn is_done(spec: &UnitSpec) -> bool {
    spec.exec.kind == Kind::Oneshot && !spec.exec.remain
}

#[test]
fn in_a_thousand_graphs_why_names_the_planted_fault_and_all_that_it_blocks() {
    let mut of_each: BTreeMap<&str, u32> = BTreeMap::new();
    let mut largest = 0;
    for seed in 0..1200_u64 {
        let mut dice = Dice(mix(seed ^ 0xB1A3E));
        let fault = FAULTS[(seed % 5) as usize];
        let count = 2 + dice.below(40) as usize;
        let mut units = random_units(&mut dice, count, true);
        let at = name(dice.below(count as u64) as usize);
        for unit in &mut units {
            // What goes down with one that is only being restarted is another matter.
            unit.on_dependency.restarted = crate::spec::OnRestarted::Keep;
            if unit.name == at {
                unit.exec.kind = Kind::Notify;
                unit.exec.start_pre.clear();
                unit.restart.policy = match fault {
                    Fault::NoProgram | Fault::DiesLater => RestartPolicy::Never,
                    _ => RestartPolicy::Always,
                };
                unit.restart.exhausted = Exhausted::Retry;
                unit.restart.retry_every = std::time::Duration::from_secs(36_000);
            }
        }
        let plan = plan(units, dice.percent(30).then_some(3));
        let world = World::new(seed, Arc::clone(&plan), CALM);
        let at_it = at.clone();
        let mut planted = Planted {
            world,
            fault,
            at: at_it,
        };
        if fault == Fault::IsHeld {
            // Known before the profile wants it, as after an orderly end.
            let nobody = Arc::new(Plan {
                members: BTreeMap::new(),
                ..Plan::clone(&plan)
            });
            planted.tell(Event::Loaded(nobody));
            let hold = Hold {
                by: by(),
                note: None,
                since_us: 1,
                until_us: None,
            };
            let held = Held { hold, until: None };
            let units = vec![at.clone()];
            planted.tell(Event::Request {
                id: RequestId(1),
                op: Op::Hold { units, held },
                by: by(),
            });
        }
        planted.tell(Event::Loaded(Arc::clone(&plan)));
        planted.run();
        let was_up = fault == Fault::DiesLater;
        if was_up {
            let (_, unit) = planted.world.engine.find(&at).expect("it is there");
            let launch = LaunchId::main(unit.last_invocation.expect("it was up"));
            planted.end(launch, Exit::Code(1));
            planted.run();
        }
        let expected = blocked_by_brute_force(&plan, &at, was_up);
        let engine = &planted.world.engine;
        for (ix, unit) in engine.units() {
            let name = &unit.spec.name;
            let why = engine.why(ix, None);
            let is_hit = *name == at || expected.contains(name);
            assert_eq!(
                why.is_fine, !is_hit,
                "seed {seed}, {fault:?} at {at}: {name}: {why:?}"
            );
            if !is_hit {
                continue;
            }
            let [root] = why.roots.as_slice() else {
                panic!("seed {seed}, {fault:?} at {at}: {name} has not one cause: {why:?}");
            };
            let of = root.unit.map(|ix| engine.graph().name(ix));
            assert_eq!(of, Some(&at), "seed {seed}, {fault:?}: {name}: {why:?}");
            let blocked: BTreeSet<UnitName> = root
                .blocks
                .iter()
                .map(|ix| engine.graph().name(*ix).clone())
                .collect();
            assert_eq!(blocked, expected, "seed {seed}, {fault:?} at {at}");
            let kinds: &[RootKind] = match fault {
                Fault::Crashes | Fault::Hangs => &[RootKind::CrashLoop],
                Fault::DiesLater | Fault::NoProgram => &[RootKind::Failed],
                Fault::IsHeld => &[RootKind::Held],
            };
            assert!(kinds.contains(&root.kind), "seed {seed}: {why:?}");
            assert_eq!(root.failure.is_some(), fault != Fault::IsHeld, "{why:?}");
            assert!(why.chain.iter().any(|step| step.is_root), "{why:?}");
        }
        assert!(engine.units().all(|(_, unit)| unit.desired == Desired::Up));
        largest = largest.max(expected.len());
        *of_each
            .entry(if expected.is_empty() { "alone" } else { "blocking" })
            .or_default() += 1;
    }
    assert!(of_each["blocking"] > 500, "{of_each:?}: the dice are too kind");
    assert!(largest > 25, "at most {largest} units were blocked");
}

#[test]
fn while_all_start_whoever_waits_is_told_for_whom_and_nobody_is_fine_that_is_not_up() {
    for seed in 0..200 {
        let mut dice = Dice(mix(seed ^ 0x50F7));
        let count = 2 + dice.below(20) as usize;
        let plan = plan(
            random_units(&mut dice, count, true),
            dice.percent(50).then_some(2),
        );
        let mut world = World::new(seed, Arc::clone(&plan), hostile());
        world.tell(Event::Loaded(plan));
        for _ in 0..40 {
            world.run(world.now / 1_000_000_000 + 1 + seed % 7, 0);
            for (ix, unit) in world.engine.units() {
                let why = world.engine.why(ix, None);
                let is_up = unit.is_satisfied() || unit.state == State::Completed;
                if why.is_fine && !is_up {
                    world.fail(&format!("{} is called fine", unit.spec.name));
                }
                if !why.is_fine && why.roots.is_empty() {
                    world.fail(&format!("{} is not well for no cause: {why:?}", unit.spec.name));
                }
            }
        }
    }
}
