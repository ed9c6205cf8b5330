//! The cascade breaker: one story for each of its rules, and runs of dice in which the world counts for itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::reply::{By, Cause, CauseKind, Exit, RootKind, State as Word};

use crate::breaker::{BreakerLimit, BreakerSpec, CategoryLimit};
use crate::engine::Blocker;
use crate::engine::breaker::Gate;
use crate::engine::machine::Engine;
use crate::engine::types::{
    Action, Change, ChangeKind, Event, LaunchFailure, Mono, Op, Plan, Refusal, RequestAnswer, RequestId, Role,
};
use crate::ids::LaunchId;
use crate::spec::{UnitName, UnitSpec};

use super::dice::*;

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn limit(restarts: u32, window: u64, cooldown: u64) -> BreakerLimit {
    BreakerLimit {
        restarts: Some(restarts),
        window: secs(window),
        cooldown: secs(cooldown),
    }
}

/// A node's limit alone, and no grace.
fn node_of(restarts: u32) -> BreakerSpec {
    BreakerSpec {
        node: limit(restarts, 300, 120),
        startup_grace: Duration::ZERO,
        exempt: BTreeSet::new(),
        categories: BTreeMap::new(),
    }
}

/// A unit that is tried again after a second without dice, as often as it takes.
fn crasher(i: usize, category: &str) -> UnitSpec {
    let mut unit = unit(i);
    unit.category = category.to_owned();
    unit.restart.jitter_milli = 0;
    unit.restart.factor_milli = 1000;
    unit.restart.max_restarts = None;
    unit
}

fn with(units: Vec<UnitSpec>, breaker: BreakerSpec) -> Arc<Plan> {
    let mut plan = Plan::clone(&plan(units, None));
    plan.node.breaker = breaker;
    Arc::new(plan)
}

/// A node on which whatever is launched runs, and is ready at once.
struct Node {
    engine: Engine,
    now: u64,
    plan: Arc<Plan>,
    changes: Vec<Change>,
    /// When each of them was.
    times: Vec<u64>,
    answers: Vec<RequestAnswer>,
    mains: BTreeMap<UnitName, LaunchId>,
    requests: u64,
}

impl Node {
    fn new(plan: &Arc<Plan>) -> Self {
        let mut node = Self {
            engine: Engine::new(1),
            now: 0,
            plan: Arc::clone(plan),
            changes: Vec::new(),
            times: Vec::new(),
            answers: Vec::new(),
            mains: BTreeMap::new(),
            requests: 0,
        };
        node.tell(Event::Loaded(Arc::clone(plan)));
        node
    }

    fn tell(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.engine.handle(Mono(self.now), event);
            while let Some(action) = self.engine.poll_action() {
                match action {
                    Action::Launch { launch, role, spec } => {
                        assert_eq!(role, Role::Main, "these have no hooks");
                        self.mains.insert(spec.name.clone(), launch);
                        events.push_back(Event::Launched {
                            launch,
                            pid: 7,
                            start_time: 1,
                            note: None,
                        });
                        events.push_back(Event::Ready {
                            invocation: launch.invocation,
                        });
                    }
                    Action::Signal { launch, .. } => events.push_back(Event::Exited {
                        launch,
                        exit: Exit::Code(0),
                        remains: Vec::new(),
                    }),
                    Action::Emit(change) => {
                        self.changes.push(change);
                        self.times.push(self.now);
                    }
                    Action::Reply { answer, .. } => self.answers.push(answer),
                    _ => {}
                }
            }
            assert_eq!(self.engine.broken_invariants(), Vec::<String>::new());
        }
    }

    fn fail(&mut self, i: usize) {
        let launch = self.mains[&name(i)];
        self.tell(Event::Exited {
            launch,
            exit: Exit::Code(1),
            remains: Vec::new(),
        });
    }

    /// Time passes, deadline by deadline.
    fn pass(&mut self, time: Duration) {
        let end = Mono(self.now).after(time);
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at.0);
            self.tell(Event::Tick);
        }
        self.now = end.0;
    }

    /// It fails, and its back-off passes.
    fn crash(&mut self, i: usize) {
        self.fail(i);
        self.pass(secs(1));
    }

    fn word(&self, i: usize) -> Word {
        self.engine.find(&name(i)).expect("it is there").1.word
    }

    fn ask(&mut self, op: Op) -> RequestAnswer {
        self.requests += 1;
        self.answers.clear();
        self.tell(Event::Request {
            id: RequestId(self.requests),
            op,
            by: by(),
        });
        self.answers.pop().expect("an answer")
    }

    fn events(&self, kind: ChangeKind) -> Vec<&Change> {
        self.changes.iter().filter(|change| change.kind == kind).collect()
    }

    fn is_open(&self, gate: &Gate) -> bool {
        self.engine.open_gate(gate).is_some()
    }

    /// As a new manager comes back.
    fn restore(&mut self) {
        let snapshot = self.engine.snapshot();
        let text = serde_json::to_vec(&snapshot).expect("it can be written");
        let snapshot = serde_json::from_slice(&text).expect("and read");
        self.engine = Engine::restore(snapshot, &self.plan);
        self.engine.resume(Mono(self.now));
        while let Some(action) = self.engine.poll_action() {
            assert!(!matches!(action, Action::Launch { .. }), "nothing was under way");
        }
    }
}

fn by() -> By {
    By {
        uid: 1000,
        pid: 42,
        verb: "start".to_owned(),
    }
}

fn category(name: &str) -> Gate {
    Gate::Category(name.to_owned())
}

#[test]
fn one_restart_too_many_opens_the_breaker_and_costs_the_unit_nothing() {
    let mut node = Node::new(&with((0..4).map(|i| crasher(i, "misc")).collect(), node_of(3)));
    for i in 0..3 {
        node.crash(i);
        assert_eq!(node.word(i), Word::Running, "restart {i} is within the limit");
    }
    node.crash(3);
    assert_eq!(node.word(3), Word::Waiting);
    let (ix, unit) = node.engine.find(&name(3)).expect("it is there");
    assert_eq!(
        unit.restarts.total(),
        1,
        "one failure, one restart, whenever it is made"
    );
    assert_eq!(node.engine.blockers(ix), [Blocker::Breaker(Gate::Node)]);
    let until = Mono(node.now).after(secs(120));
    assert_eq!(node.engine.next_try(ix), Some(until));
    let tripped = node.events(ChangeKind::BreakerTripped);
    assert_eq!(tripped.len(), 1);
    assert_eq!(tripped[0].unit, name(3));
    assert_eq!(
        tripped[0].cause.text,
        "the node's breaker has tripped: 3 restarts within 5m; none for 2m"
    );
    assert!(tripped[0].cause.seq.is_some(), "it says which event led to it");
    let why = node.engine.why(ix, None);
    assert_eq!(why.roots[0].kind, RootKind::Breaker);
    assert_eq!(why.roots[0].next, Some(until));
    assert_eq!(
        why.text,
        "waits, since the node's breaker is open: one more than 3 restarts within 5m; exited with code 1"
    );

    node.pass(secs(119));
    assert_eq!(node.word(3), Word::Waiting);
    node.pass(secs(1));
    assert_eq!(node.word(3), Word::Running);
    let closed = node.events(ChangeKind::BreakerClosed);
    assert_eq!(
        closed[0].cause.text,
        "the node's breaker is closed (its cooldown is over): u03 may start again"
    );
    assert_eq!(
        closed[0].cause.seq,
        Some(node.events(ChangeKind::BreakerTripped)[0].seq)
    );
}

#[test]
fn restarts_that_the_window_has_left_behind_do_not_count() {
    let mut node = Node::new(&with(vec![crasher(0, "misc")], node_of(3)));
    for _ in 0..20 {
        node.crash(0);
        node.pass(secs(100));
    }
    assert!(node.events(ChangeKind::BreakerTripped).is_empty());
}

#[test]
fn a_categorys_limit_comes_before_the_nodes_and_touches_no_other() {
    let mut breaker = node_of(4);
    let own = CategoryLimit {
        limit: limit(1, 300, 60),
        is_for_node: true,
    };
    breaker.categories.insert("sync".to_owned(), own);
    let apart = CategoryLimit {
        is_for_node: false,
        ..own
    };
    breaker.categories.insert("event".to_owned(), apart);
    let units = vec![
        crasher(0, "sync"),
        crasher(1, "sync"),
        crasher(2, "event"),
        crasher(3, "event"),
        crasher(4, "misc"),
    ];
    let mut node = Node::new(&with(units, breaker));
    node.crash(0);
    node.crash(1);
    assert!(node.is_open(&category("sync")) && !node.is_open(&Gate::Node));
    node.crash(2);
    node.crash(3);
    assert!(node.is_open(&category("event")));
    // One of sync; those of event do not count for the node, nor do restarts that were refused.
    for _ in 0..3 {
        node.crash(4);
        assert_eq!(node.word(4), Word::Running);
    }
    node.crash(4);
    assert!(node.is_open(&Gate::Node));
    let held: Vec<(String, usize)> = node
        .engine
        .gates()
        .iter()
        .map(|gate| (gate.gate.to_string(), gate.held.len()))
        .collect();
    assert_eq!(
        held,
        [
            ("the node's breaker".to_owned(), 2),
            ("the breaker of category event".to_owned(), 1),
            ("the breaker of category sync".to_owned(), 1)
        ],
        "u01 waits for two of them, u03 for that of its category alone"
    );
}

#[test]
fn critical_and_exempt_units_are_neither_counted_nor_held_back() {
    let mut units: Vec<UnitSpec> = (0..3).map(|i| crasher(i, "misc")).collect();
    units[0].critical = true;
    let mut breaker = node_of(1);
    breaker.exempt.insert(name(1));
    let mut node = Node::new(&with(units, breaker));
    for _ in 0..5 {
        node.crash(0);
        node.crash(1);
    }
    assert!(node.events(ChangeKind::BreakerTripped).is_empty());
    node.crash(2);
    node.crash(2);
    assert!(node.is_open(&Gate::Node));
    node.crash(0);
    node.crash(1);
    assert_eq!((node.word(0), node.word(1)), (Word::Running, Word::Running));
}

#[test]
fn within_the_grace_of_the_start_up_nothing_counts() {
    let mut breaker = node_of(2);
    breaker.startup_grace = secs(60);
    let mut node = Node::new(&with(vec![crasher(0, "misc")], breaker));
    for _ in 0..59 {
        node.crash(0);
    }
    assert!(node.events(ChangeKind::BreakerTripped).is_empty());
    node.pass(secs(1));
    for _ in 0..3 {
        node.crash(0);
    }
    assert!(node.is_open(&Gate::Node), "then the limit is the limit");
}

#[test]
fn only_the_restart_after_an_own_failure_counts() {
    // u01 is a victim: it goes and comes with u00.
    let mut victim = crasher(1, "misc");
    victim.requires = vec![name(0)];
    victim.on_dependency.restarted = crate::spec::OnRestarted::Restart;
    let mut node = Node::new(&with(vec![crasher(0, "misc"), victim], node_of(2)));
    for _ in 0..2 {
        let before = node.mains[&name(1)];
        node.crash(0);
        assert_ne!(node.mains[&name(1)], before, "it was restarted too");
    }
    assert_eq!((node.word(0), node.word(1)), (Word::Running, Word::Running));
    for _ in 0..5 {
        let units = vec![name(0)];
        node.ask(Op::Restart {
            units,
            only_running: false,
            cascade: true,
        });
    }
    assert!(node.events(ChangeKind::BreakerTripped).is_empty());
    assert_eq!(node.engine.gates()[0].count, 2);
}

#[test]
fn a_try_that_the_host_made_fail_is_free() {
    let mut node = Node::new(&with(vec![crasher(0, "misc")], node_of(1)));
    node.fail(0);
    node.now += secs(1).as_nanos() as u64;
    node.engine.handle(Mono(node.now), Event::Tick);
    for _ in 0..5 {
        let mut launched = None;
        while let Some(action) = node.engine.poll_action() {
            if let Action::Launch { launch, .. } = action {
                launched = Some(launch);
            }
        }
        let failure = LaunchFailure {
            text: "no process is left".to_owned(),
            host: true,
        };
        let launch = launched.expect("it is tried again");
        node.engine
            .handle(Mono(node.now), Event::LaunchFailed { launch, failure });
        let next = node.engine.next_deadline().expect("a back-off");
        node.now = next.0;
        node.engine.handle(Mono(node.now), Event::Tick);
    }
    assert_eq!(node.engine.gates()[0].count, 1);
    assert!(!node.is_open(&Gate::Node));
}

#[test]
fn what_others_need_comes_first_when_it_closes() {
    // By their names the other way round.
    let mut units: Vec<UnitSpec> = (0..4).map(|i| crasher(i, "misc")).collect();
    for (i, unit) in units.iter_mut().enumerate().take(3) {
        unit.requires = vec![name(i + 1)];
        unit.on_dependency.failed = crate::spec::OnFailed::Keep;
    }
    let mut node = Node::new(&with(units, node_of(2)));
    for i in 0..4 {
        node.fail(i);
    }
    node.pass(secs(1));
    let running: Vec<bool> = (0..4).map(|i| node.word(i) == Word::Running).collect();
    assert_eq!(
        running,
        [false, false, true, true],
        "the first two in start order"
    );
    node.changes.clear();
    node.pass(secs(120));
    let ready: Vec<&str> = node
        .events(ChangeKind::Ready)
        .iter()
        .map(|change| change.unit.as_str())
        .collect();
    assert_eq!(ready, ["u01", "u00"]);
}

#[test]
fn a_start_by_hand_is_refused_and_reset_failed_is_the_word_for_it() {
    let mut node = Node::new(&with((0..3).map(|i| crasher(i, "misc")).collect(), node_of(1)));
    node.crash(0);
    node.crash(1);
    node.crash(2);
    assert_eq!((node.word(1), node.word(2)), (Word::Waiting, Word::Waiting));
    let start = |i| Op::Start { units: vec![name(i)] };
    let refused = RequestAnswer::Refused(Refusal::BreakerOpen {
        unit: name(1),
        why: "the node's breaker is open: one more than 1 restarts within 5m".to_owned(),
    });
    assert_eq!(node.ask(start(1)), refused);
    assert!(matches!(node.ask(start(0)), RequestAnswer::Done(_)), "it runs");
    node.ask(Op::ResetFailed { units: vec![name(1)] });
    assert_eq!(node.word(1), Word::Running, "that one alone is free");
    assert_eq!(node.word(2), Word::Waiting);
    assert!(node.is_open(&Gate::Node));
    let units = (0..3).map(name).collect();
    node.ask(Op::ResetFailed { units });
    assert!(!node.is_open(&Gate::Node));
    assert_eq!(node.word(2), Word::Running);
    let closed = node.events(ChangeKind::BreakerClosed);
    assert_eq!(closed[0].cause.kind, CauseKind::Command);
    assert_eq!(closed[0].cause.by, Some(by()));
    assert_eq!(
        node.engine.gates()[0].count,
        0,
        "what was counted is forgotten too"
    );
}

#[test]
fn it_outlives_the_manager_and_begins_anew_with_the_machine() {
    let mut node = Node::new(&with((0..2).map(|i| crasher(i, "misc")).collect(), node_of(2)));
    node.crash(0);
    node.restore();
    node.crash(0);
    node.crash(1);
    assert!(node.is_open(&Gate::Node), "what the old manager counted counts");
    let before = node.engine.gates()[0].open.cloned();
    node.restore();
    assert_eq!(node.engine.gates()[0].open.cloned(), before);
    assert_eq!(node.word(1), Word::Waiting);
    node.now += secs(200).as_nanos() as u64;
    let snapshot = node.engine.snapshot();
    // A manager that was away when it was to close.
    node.engine = Engine::restore(snapshot.clone(), &node.plan);
    node.engine.resume(Mono(node.now));
    node.tell(Event::Tick);
    assert!(!node.is_open(&Gate::Node));
    assert_eq!(
        node.engine.find(&name(1)).expect("it is there").1.word,
        Word::Running
    );

    let booted = snapshot.on_other_boot(0, Mono(5));
    let mut engine = Engine::restore(booted, &node.plan);
    engine.resume(Mono(5));
    engine.handle(Mono(5), Event::Loaded(Arc::clone(&node.plan)));
    let gate = &engine.gates()[0];
    assert_eq!((gate.count, gate.trips, gate.open), (0, 0, None));
}

#[test]
fn files_that_lift_the_limit_close_it_and_shorter_cooldowns_count_at_once() {
    let units: Vec<UnitSpec> = (0..2).map(|i| crasher(i, "misc")).collect();
    let mut node = Node::new(&with(units.clone(), node_of(1)));
    node.crash(0);
    node.crash(1);
    let mut shorter = node_of(1);
    shorter.node.cooldown = secs(10);
    node.tell(Event::Loaded(with(units.clone(), shorter)));
    assert!(node.is_open(&Gate::Node));
    node.pass(secs(10));
    assert!(!node.is_open(&Gate::Node));
    node.crash(0);
    assert!(node.is_open(&Gate::Node));
    let mut lifted = node_of(1);
    lifted.node.restarts = None;
    node.tell(Event::Loaded(with(units, lifted)));
    assert!(!node.is_open(&Gate::Node));
    assert_eq!(node.word(0), Word::Running);
    assert!(node.engine.gates().is_empty(), "no limit, no gate to show");
}

#[test]
fn a_shutdown_does_not_wait_for_it() {
    let mut node = Node::new(&with((0..2).map(|i| crasher(i, "misc")).collect(), node_of(1)));
    node.crash(0);
    node.crash(1);
    node.tell(Event::Shutdown {
        cause: Cause {
            kind: CauseKind::Signal,
            seq: None,
            unit: None,
            by: None,
            text: "SIGTERM".to_owned(),
        },
    });
    assert_eq!((node.word(0), node.word(1)), (Word::Stopped, Word::Stopped));
}

/// What a run of dice came to.
#[derive(Default)]
struct Sum {
    restarts: u64,
    trips: u64,
    held: u64,
    freed: u64,
    crashes: u64,
}

/// Whose restarts a gate counts, in the world's own words.
fn governs(breaker: &BreakerSpec, gate: &Gate, unit: &UnitSpec) -> bool {
    let own = breaker.categories.get(&unit.category);
    let is_of = match gate {
        Gate::Category(name) => *name == unit.category,
        Gate::Node => own.is_none_or(|own| own.is_for_node),
    };
    is_of && !unit.critical
}

/// A random node whose units fail a lot. The world counts restarts for itself: what follows an own failure, without a word of an
/// operator in between.
fn run(seed: u64, sum: &mut Sum) {
    let mut dice = Dice(seed);
    let count = 3 + dice.below(8) as usize;
    let mut units = random_units(&mut dice, count, true);
    for unit in &mut units {
        unit.category = ["sync", "event", "misc"][dice.below(3) as usize].to_owned();
        unit.critical = dice.percent(10);
        unit.exec.kind = crate::spec::Kind::Notify;
        unit.exec.start_pre.clear();
        unit.exec.start_post.clear();
        unit.exec.stop_pre.clear();
        unit.exec.stop_post.clear();
        unit.restart.max_restarts = None;
    }
    let mut breaker = node_of(2 + dice.below(8) as u32);
    for (name, is_for_node) in [("sync", true), ("event", dice.percent(50))] {
        if dice.percent(70) {
            let limit = limit(
                1 + dice.below(5) as u32,
                30 + dice.below(300),
                10 + dice.below(100),
            );
            let own = CategoryLimit { limit, is_for_node };
            breaker.categories.insert(name.to_owned(), own);
        }
    }
    let plan = with(units, breaker.clone());
    let mut node = Node::new(&plan);
    // Since when each gate counts, and what passed it.
    let mut passed: BTreeMap<Gate, Vec<u64>> = BTreeMap::new();
    let mut failed: BTreeSet<UnitName> = BTreeSet::new();
    for _ in 0..120 {
        let i = dice.below(count as u64) as usize;
        let is_up = node.word(i) == Word::Running;
        match dice.below(10) {
            0..7 if is_up => node.fail(i),
            7 => {
                node.ask(Op::ResetFailed { units: vec![name(i)] });
                failed.remove(&name(i));
                sum.freed += 1;
                // Where it is the only one that a gate governs, that begins anew too.
                passed.retain(|gate, _| {
                    plan.units
                        .values()
                        .any(|unit| unit.name != name(i) && governs(&breaker, gate, unit))
                });
            }
            8 => {
                node.restore();
                sum.crashes += 1;
            }
            _ => node.pass(Duration::from_millis(dice.below(20_000))),
        }
        let times = std::mem::take(&mut node.times);
        for (change, now) in std::mem::take(&mut node.changes).into_iter().zip(times) {
            let unit = &plan.units[&change.unit];
            let own = breaker.categories.get(&unit.category);
            let gates = [
                own.map(|own| (category(&unit.category), own.limit)),
                Some((Gate::Node, breaker.node)),
            ];
            let gates = gates.into_iter().flatten();
            let gates: Vec<_> = gates.filter(|(gate, _)| governs(&breaker, gate, unit)).collect();
            match (change.kind, change.from, change.to) {
                (ChangeKind::BreakerTripped, ..) => sum.trips += 1,
                (ChangeKind::BreakerClosed, ..) => {
                    let mut gate = gates.iter().map(|(gate, _)| gate);
                    let closed = gate
                        .find(|gate| change.cause.text.starts_with(&gate.to_string()))
                        .cloned();
                    passed.remove(&closed.expect("it is told of one that it governs"));
                }
                (_, _, Word::Backoff | Word::Failed) => {
                    failed.insert(change.unit.clone());
                }
                (_, _, Word::Stopped) => {
                    failed.remove(&change.unit);
                }
                (_, Word::Waiting, Word::Starting) if failed.remove(&change.unit) => {
                    sum.restarts += 1;
                    for (gate, limit) in gates {
                        let times = passed.entry(gate.clone()).or_default();
                        times.push(now);
                        let window = u64::try_from(limit.window.as_nanos()).expect("small");
                        times.retain(|at| now - at < window);
                        let most = limit.restarts.expect("they all have one") as usize;
                        assert!(
                            times.len() <= most,
                            "seed {seed}: {gate} let {} through",
                            times.len()
                        );
                    }
                }
                _ => {}
            }
        }
        for (_, unit) in node.engine.units() {
            let waits = unit.word == Word::Waiting && failed.contains(&unit.spec.name);
            sum.held += u64::from(waits);
        }
    }
    // No more failures: everything that was held back comes up by itself.
    node.pass(secs(3600));
    for (_, unit) in node.engine.units() {
        let name = &unit.spec.name;
        let is_up = matches!(unit.word, Word::Running | Word::Stopped);
        let conflicts = !unit.spec.conflicts.is_empty();
        assert!(is_up || conflicts, "seed {seed}: {name} is {:?}", unit.word);
    }
}

#[test]
fn no_gate_lets_more_through_than_its_limit_whatever_happens() {
    let mut sum = Sum::default();
    for seed in 0..60 {
        run(seed, &mut sum);
    }
    let Sum {
        restarts,
        trips,
        held,
        freed,
        crashes,
    } = sum;
    assert!(
        restarts > 1000 && trips > 100 && held > 1000 && freed > 300 && crashes > 300,
        "too little happened: {restarts} restarts, {trips} trips, {held} waits, {freed} resets, {crashes} managers"
    );
}
