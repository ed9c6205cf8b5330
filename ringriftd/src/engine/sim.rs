//! The production engine in a small world of dice: a keeper that answers late, processes that fail at each stage, exit,
//! ignore signals and leave others behind, operators who start and stop at random. After every event the engine's
//! invariants are checked, and the world's own truth against what the engine does. One seed gives one run.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use proto::reply::{By, Exit, Outcome};

use super::machine::Engine;
use super::restart::mix;
use super::types::{Action, Event, LaunchFailure, Mono, Op, Plan, RequestAnswer, RequestId, Role};
use super::unit::State;
use crate::graph::Graph;
use crate::ids::LaunchId;
use crate::spec::{
    Command, Exec, Exhausted, Kind, Lifecycle, Log, Membership, NodeSpec, NotifyAccess, OnDependency,
    OnRestarted, Restart, RestartPolicy, Stop, Template, UnitName, UnitSpec,
};

/// Dice that a seed throws.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

pub(super) fn name(i: usize) -> UnitName {
    UnitName::new(&format!("u{i:02}")).expect("a valid name")
}

/// A unit with short times, so that many lives fit into a run.
pub(super) fn unit(i: usize) -> UnitSpec {
    UnitSpec {
        name: name(i),
        description: String::new(),
        category: "misc".to_owned(),
        lifecycle: Lifecycle::Active,
        critical: false,
        essential: false,
        requires: Vec::new(),
        wants: Vec::new(),
        after: Vec::new(),
        before: Vec::new(),
        conflicts: Vec::new(),
        startup_position: None,
        exec: Exec {
            kind: Kind::Notify,
            command: Command::Direct(vec![Template::literal("/bin/true")]),
            working_dir: None,
            env: BTreeMap::new(),
            env_files: Vec::new(),
            pass_env: Vec::new(),
            user: None,
            group: None,
            supplementary_groups: None,
            umask: 0o077,
            nice: None,
            oom_score_adj: None,
            rlimits: Vec::new(),
            no_new_privs: true,
            remain: false,
            pid_file: None,
            notify_fd: 3,
            notify_access: NotifyAccess::Main,
            start_pre: Vec::new(),
            start_post: Vec::new(),
            stop_pre: Vec::new(),
            stop_post: Vec::new(),
            reload: Vec::new(),
            hook_timeout: Duration::from_secs(5),
        },
        ready_timeout: Duration::from_secs(10),
        health_interval: Duration::from_secs(30),
        restart: Restart {
            policy: RestartPolicy::Always,
            delay: Duration::from_secs(1),
            factor_milli: 2000,
            max_delay: Duration::from_secs(30),
            jitter_milli: 100,
            stable_after: Duration::from_secs(60),
            max_restarts: Some(5),
            window: Duration::from_secs(600),
            exhausted: Exhausted::Retry,
            retry_every: Duration::from_secs(900),
            permanent_exit_codes: vec![65],
        },
        on_dependency: OnDependency::default(),
        on_dependency_of: BTreeMap::new(),
        stop: Stop {
            signals: vec![15],
            timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(2),
        },
        log: Log {
            max_size: 1,
            max_files: 1,
        },
        deprecated: None,
        digest: "1".to_owned(),
    }
}

pub(super) fn plan(units: Vec<UnitSpec>, max_starting: Option<u32>) -> Arc<Plan> {
    let units: BTreeMap<UnitName, Arc<UnitSpec>> =
        units.into_iter().map(|u| (u.name.clone(), Arc::new(u))).collect();
    let members = units
        .keys()
        .map(|n| {
            (
                n.clone(),
                Membership::Listed {
                    profile: "sim".to_owned(),
                },
            )
        })
        .collect();
    let graph = Arc::new(Graph::build(units.values()).expect("no rings are made here"));
    let node = NodeSpec {
        profiles: vec!["sim".to_owned()],
        shutdown_timeout: Duration::from_secs(3600),
        max_starting,
    };
    Arc::new(Plan {
        node,
        units,
        members,
        graph,
    })
}

/// How bad the world is, in percent.
#[derive(Clone, Copy)]
struct Malice {
    launch_fails: u64,
    exits: u64,
    never_ready: u64,
    ignores_term: u64,
    leaves_others: u64,
    requests: u64,
}

const CALM: Malice = Malice {
    launch_fails: 0,
    exits: 0,
    never_ready: 0,
    ignores_term: 0,
    leaves_others: 0,
    requests: 0,
};
const HOSTILE: Malice = Malice {
    launch_fails: 10,
    exits: 40,
    never_ready: 10,
    ignores_term: 20,
    leaves_others: 20,
    requests: 60,
};

/// A process of the world.
#[derive(Clone)]
struct Process {
    unit: UnitName,
    is_ready: bool,
    ignores_term: bool,
    leaves_others: bool,
    has_exited: bool,
    is_destroyed: bool,
}

struct World {
    dice: Dice,
    engine: Engine,
    now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    due: BTreeMap<u64, Event>,
    live: BTreeMap<LaunchId, Process>,
    malice: Malice,
    trace: Vec<String>,
    starts: Vec<UnitName>,
    ends: Vec<UnitName>,
    asked: BTreeSet<RequestId>,
    replies: BTreeMap<RequestId, RequestAnswer>,
    finished: Option<u8>,
    plan: Arc<Plan>,
    seed: u64,
}

impl World {
    fn new(seed: u64, plan: Arc<Plan>, malice: Malice) -> Self {
        Self {
            dice: Dice(mix(seed)),
            engine: Engine::new(seed),
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            due: BTreeMap::new(),
            live: BTreeMap::new(),
            malice,
            trace: Vec::new(),
            starts: Vec::new(),
            ends: Vec::new(),
            asked: BTreeSet::new(),
            replies: BTreeMap::new(),
            finished: None,
            plan,
            seed,
        }
    }

    fn later(&mut self, ms: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((self.now + ms * 1_000_000, self.order)));
        self.due.insert(self.order, event);
    }

    fn fail(&self, why: &str) -> ! {
        let tail = self
            .trace
            .iter()
            .rev()
            .take(40)
            .rev()
            .cloned()
            .collect::<Vec<_>>()
            .join("\n");
        panic!("seed {}: {why}\n{tail}", self.seed)
    }

    fn tell(&mut self, event: Event) {
        self.trace.push(
            format!("{:>9} ms  {event:?}", self.now / 1_000_000)
                .chars()
                .take(160)
                .collect(),
        );
        self.engine.handle(Mono(self.now), event);
        while let Some(action) = self.engine.poll_action() {
            if !matches!(action, Action::Emit(_)) {
                self.trace
                    .push(format!("              -> {action:?}").chars().take(110).collect());
            }
            self.obey(action);
        }
        let broken = self.engine.broken_invariants();
        if !broken.is_empty() {
            self.fail(&broken.join("; "));
        }
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Launch { launch, role, spec } => self.launch(launch, role, &spec),
            Action::Signal { launch, signal, .. } => self.signal(launch, signal),
            Action::Destroy { launch } => self.destroy(launch),
            Action::FindMain { launch, .. } => {
                let event = Event::MainMissing {
                    launch,
                    why: "no forking units here".to_owned(),
                };
                self.later(1, event);
            }
            Action::Release { launch } => {
                if self.live.contains_key(&launch) {
                    self.fail("a launch was released that lives");
                }
            }
            Action::Reply { id, answer } => {
                if self.replies.insert(id, answer).is_some() {
                    self.fail("a request was answered twice");
                }
            }
            Action::Finish { code } => self.finished = Some(code),
            Action::Emit(_) => {}
        }
    }

    fn launch(&mut self, launch: LaunchId, role: Role, spec: &UnitSpec) {
        if role == Role::Main {
            if self
                .live
                .iter()
                .any(|(id, p)| p.unit == spec.name && id.is_main())
            {
                self.fail(&format!(
                    "{} is launched while an older life of it is there",
                    spec.name
                ));
            }
            for d in &spec.requires {
                let ready = self
                    .live
                    .iter()
                    .any(|(id, p)| id.is_main() && p.unit == *d && p.is_ready);
                let (_, unit) = self.engine.find(d).expect("known");
                if !ready && !unit.is_satisfied() {
                    self.fail(&format!("{} is launched before {d} is ready", spec.name));
                }
            }
            self.starts.push(spec.name.clone());
        }
        let delay = 1 + self.dice.below(20);
        if self.dice.percent(self.malice.launch_fails) {
            let host = self.dice.percent(30);
            let failure = LaunchFailure {
                text: "cannot run it: dice".to_owned(),
                host,
            };
            self.later(delay, Event::LaunchFailed { launch, failure });
            return;
        }
        let process = Process {
            unit: spec.name.clone(),
            is_ready: false,
            ignores_term: self.dice.percent(self.malice.ignores_term),
            leaves_others: self.dice.percent(self.malice.leaves_others),
            has_exited: false,
            is_destroyed: false,
        };
        self.live.insert(launch, process);
        self.later(
            delay,
            Event::Launched {
                launch,
                pid: 1000 + self.order as u32,
                note: None,
            },
        );
        if role != Role::Main || spec.exec.kind == Kind::Oneshot {
            let ms = delay + 1 + self.dice.below(200);
            let code = i32::from(self.dice.percent(self.malice.exits / 4));
            self.exit_later(ms, launch, Exit::Code(code));
            return;
        }
        if !self.dice.percent(self.malice.never_ready) {
            let ms = delay + 1 + self.dice.below(3000);
            self.later(
                ms,
                Event::Ready {
                    invocation: launch.invocation,
                },
            );
        }
        if self.dice.percent(self.malice.exits) {
            let ms = delay + 1 + self.dice.below(120_000);
            let exit = match self.dice.below(4) {
                0 => Exit::Code(0),
                1 => Exit::Signal {
                    signal: 9,
                    core: false,
                },
                2 => Exit::Code(65),
                _ => Exit::Code(1),
            };
            self.exit_later(ms, launch, exit);
        }
    }

    fn exit_later(&mut self, ms: u64, launch: LaunchId, exit: Exit) {
        self.later(
            ms,
            Event::Exited {
                launch,
                exit,
                remains: Vec::new(),
            },
        );
    }

    fn signal(&mut self, launch: LaunchId, signal: i32) {
        let Some(process) = self.live.get(&launch) else {
            self.fail("a signal is sent to a launch that is not there")
        };
        if signal == 9 || !process.ignores_term {
            let ms = 1 + self.dice.below(1000);
            self.exit_later(ms, launch, Exit::Signal { signal, core: false });
        }
    }

    fn destroy(&mut self, launch: LaunchId) {
        let ms = 1 + self.dice.below(50);
        let Some(process) = self.live.get_mut(&launch) else {
            return;
        };
        process.is_destroyed = true;
        if process.has_exited {
            self.later(ms, Event::Emptied { launch });
        } else {
            self.exit_later(
                ms,
                launch,
                Exit::Signal {
                    signal: 9,
                    core: false,
                },
            );
        }
    }

    /// The world's side of an event, at the moment that it is told. None: it is not true any more.
    fn happen(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Exited { launch, exit, .. } => {
                let process = self.live.get_mut(&launch)?;
                if process.has_exited {
                    return None;
                }
                process.has_exited = true;
                process.is_ready = false;
                let remains = if process.leaves_others {
                    vec![77]
                } else {
                    Vec::new()
                };
                if process.is_destroyed && !remains.is_empty() {
                    self.later(5, Event::Emptied { launch });
                }
                if remains.is_empty() {
                    let process = self.live.remove(&launch)?;
                    if launch.is_main() {
                        self.ends.push(process.unit);
                    }
                }
                Some(Event::Exited {
                    launch,
                    exit,
                    remains,
                })
            }
            Event::Emptied { launch } => {
                let process = self.live.remove(&launch)?;
                if launch.is_main() {
                    self.ends.push(process.unit);
                }
                Some(Event::Emptied { launch })
            }
            Event::Launched { launch, pid, note } => self
                .live
                .contains_key(&launch)
                .then_some(Event::Launched { launch, pid, note }),
            Event::Ready { invocation } => {
                let launch = LaunchId::main(invocation);
                if let Some(process) = self.live.get_mut(&launch)
                    && !process.has_exited
                {
                    process.is_ready = true;
                }
                // Told in any case: late news is part of the world.
                Some(Event::Ready { invocation })
            }
            other => Some(other),
        }
    }

    fn request(&mut self, id: u64) {
        let count = self.plan.units.len() as u64;
        let units = (0..=self.dice.below(3))
            .map(|_| name(self.dice.below(count) as usize))
            .collect();
        let cascade = self.dice.percent(50);
        let op = match self.dice.below(5) {
            0 | 1 => Op::Start { units },
            2 => Op::Stop { units, cascade },
            3 => Op::Restart {
                units,
                only_running: self.dice.percent(30),
                cascade,
            },
            _ => Op::ResetFailed { units },
        };
        let by = By {
            uid: 0,
            pid: 1,
            verb: "sim".to_owned(),
        };
        self.asked.insert(RequestId(id));
        self.tell(Event::Request {
            id: RequestId(id),
            op,
            by,
        });
    }

    /// Lets time pass until `end` (in s), or until nothing is left to happen.
    fn run(&mut self, end: u64, mut requests: u64) {
        let end = end * 1_000_000_000;
        while self.now < end && self.finished.is_none() {
            let event = self.queue.peek().map(|Reverse((at, _))| *at);
            let timer = self.engine.next_deadline().map(|m| m.0);
            let Some(next) = [event, timer].into_iter().flatten().min().filter(|at| *at < end) else {
                break;
            };
            self.now = self.now.max(next);
            if event == Some(next) {
                let Some(Reverse((_, order))) = self.queue.pop() else {
                    break;
                };
                let Some(event) = self.due.remove(&order) else {
                    continue;
                };
                if let Some(event) = self.happen(event) {
                    self.tell(event);
                }
            } else {
                self.tell(Event::Tick);
            }
            if requests > 0 && self.dice.percent(self.malice.requests / 4) {
                self.request(requests);
                requests -= 1;
            }
        }
    }

    /// The states of the first units, in the words of the tables.
    fn words(&self, count: usize) -> Vec<String> {
        let word = |i| self.engine.find(&name(i)).expect("known").1.state.word();
        (0..count)
            .map(|i| format!("{:?}", word(i)).to_lowercase())
            .collect()
    }

    fn shut_down(&mut self) {
        let cause = super::cause::own(proto::reply::CauseKind::Signal, 0, "SIGTERM");
        self.tell(Event::Shutdown { cause });
        self.run(self.now / 1_000_000_000 + 7200, 0);
    }
}

/// A random graph without rings: each unit only looks at those before it, and the names are shuffled by the positions.
fn random_units(dice: &mut Dice, count: usize, is_rich: bool) -> Vec<UnitSpec> {
    let mut units: Vec<UnitSpec> = (0..count).map(unit).collect();
    for (i, unit) in units.iter_mut().enumerate() {
        for other in 0..i {
            match dice.below(12) {
                0 | 1 => unit.requires.push(name(other)),
                2 if is_rich => unit.wants.push(name(other)),
                3 if is_rich => unit.after.push(name(other)),
                _ => {}
            }
        }
        unit.startup_position = dice.percent(40).then(|| dice.below(30) as u32);
        if is_rich {
            unit.exec.kind = match dice.below(6) {
                0 => Kind::Simple,
                1 => Kind::Oneshot,
                _ => Kind::Notify,
            };
            unit.exec.remain = dice.percent(50);
            if dice.percent(20) {
                unit.exec.start_pre = vec![vec![Template::literal("/pre")]];
            }
            if dice.percent(20) {
                unit.exec.stop_post =
                    vec![vec![Template::literal("/post")], vec![Template::literal("/post")]];
            }
            if dice.percent(20) {
                unit.exec.stop_pre = vec![vec![Template::literal("/pre")]];
            }
            if dice.percent(20) {
                unit.on_dependency.restarted = OnRestarted::Restart;
            }
            if dice.percent(20) {
                unit.on_dependency.failed = crate::spec::OnFailed::Keep;
            }
            if dice.percent(20) {
                unit.restart.policy = RestartPolicy::OnFailure;
            }
        }
    }
    units
}

#[test]
fn in_a_thousand_graphs_nothing_starts_before_what_it_requires_and_a_full_stop_is_the_exact_reverse() {
    for seed in 0..1000 {
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

#[test]
fn in_a_hostile_world_the_invariants_hold_every_request_is_answered_and_all_ends() {
    let mut answered = 0;
    for seed in 0..1500 {
        let mut dice = Dice(mix(seed ^ 0x5EED));
        let count = 2 + dice.below(11) as usize;
        let limit = dice.percent(30).then(|| 1 + dice.below(3) as u32);
        let plan = plan(random_units(&mut dice, count, true), limit);
        let mut world = World::new(seed, Arc::clone(&plan), HOSTILE);
        world.tell(Event::Loaded(Arc::clone(&plan)));
        world.run(900, 40);
        // Faults cease: the wanted state is reached, or a reason is given.
        world.malice = CALM;
        world.run(world.now / 1_000_000_000 + 4 * 3600, 0);
        for (ix, unit) in world.engine.units() {
            let name = &unit.spec.name;
            match &unit.state {
                State::Starting { .. }
                | State::Stopping { .. }
                | State::Backoff { .. }
                | State::Reloading { .. } => {
                    world.fail(&format!(
                        "{name} is still {:?} long after all faults ceased",
                        unit.state.word()
                    ));
                }
                State::Waiting => {
                    let blockers = world.engine.blockers(ix);
                    let blocked = blockers.iter().filter_map(super::order::Blocker::unit);
                    let has_reason = blocked.into_iter().any(|d| {
                        !world.engine.unit(d).is_satisfied() || world.engine.unit(d).is_down_for_good()
                    });
                    if !has_reason {
                        world.fail(&format!("{name} waits for nobody"));
                    }
                }
                State::Stopped | State::Running { .. } | State::Failed { .. } | State::Completed => {}
            }
        }
        world.shut_down();
        if world.finished != Some(0) {
            world.fail(&format!("the shutdown ended with {:?}", world.finished));
        }
        if !world.live.is_empty() {
            world.fail("processes are left after the shutdown");
        }
        answered += world.replies.len();
        let ids: BTreeSet<RequestId> = world.replies.keys().copied().collect();
        if ids != world.asked {
            world.fail("a request was not answered");
        }
    }
    assert!(
        answered > 10_000,
        "only {answered} requests were answered: the dice are too kind"
    );
}

#[test]
fn the_same_seed_gives_the_same_actions() {
    for seed in 0..50 {
        let run = || {
            let plan = plan(random_units(&mut Dice(mix(seed)), 8, true), None);
            let mut world = World::new(seed, Arc::clone(&plan), HOSTILE);
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
        RequestAnswer::Refused(super::types::Refusal::WouldStop { units: others })
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
