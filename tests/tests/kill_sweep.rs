//! kill -9 at every system call of keeper, manager and logger, while something is asked of the node. After each death:
//! the request ended truthfully, nobody else was touched, nothing was done twice, no line is lost, and G1 to G9 hold.
//!
//! A case is a scenario, a role, and the N-th call of a name on one of its threads. All of them are some thousands:
//! `RINGRIFT_FULL_SWEEP=1` runs them all (half an hour on an idle machine), else a sample does, as long as it has time.
//! `RINGRIFT_SWEEP_ONLY` names those that are run again.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::ctl::Output;
use harness::numbers::{self, Numbers};
use harness::outside::{self, Strace};
use harness::processes::{self, Process};
use harness::seeded::{Dice, is_full, tell};
use harness::survive::{Main, Role};
use harness::{Containment, Node, Unit, has_program, need, stamps, until};
use proto::reply::{Exit, State};

/// How long the sample may take; what has not begun by then is left out.
const SAMPLE_TIME: Duration = Duration::from_secs(120);
/// Only cases whose words contain this: `Upgrade: the keeper dies at`.
const ONLY: &str = "RINGRIFT_SWEEP_ONLY";
/// How many cases it has at most.
const SAMPLE: usize = 60;

/// Something that is asked of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scenario {
    Start,
    Stop,
    Restart,
    Exit,
    Reload,
    Upgrade,
}

impl Scenario {
    const ALL: [Self; 6] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Exit,
        Self::Reload,
        Self::Upgrade,
    ];

    /// A node on which it can be asked: two units that nobody names and that write numbered lines, one to be ordered
    /// about, one that is not wanted yet.
    fn node(self, containment: Containment) -> Node {
        let builder = numbers::prepare(Node::builder().containment(containment).bare());
        let file = builder.path("stamps");
        let words = ["run", "--on-start-append", &file, "--on-stop-append", &file];
        let count = numbers::unit(&builder, 100);
        builder
            .unit("c0", &count)
            .unit("c1", &count)
            .unit("x", &Unit::bad(&words))
            .spare("spare", &Unit::bad(&words))
            .start()
    }

    /// Asks, and waits for what must come of it.
    fn act(self, node: &Node) -> Option<Output> {
        match self {
            Self::Start => Some(node.ctl(&["start", "spare"])),
            Self::Stop => Some(node.ctl(&["stop", "x"])),
            Self::Restart => Some(node.ctl(&["restart", "x"])),
            Self::Exit => {
                let x = node.mains().into_iter().find(|main| main.0 == "x");
                processes::signal(x.expect("x runs").1, libc::SIGUSR1);
                None
            }
            Self::Reload => {
                let write = |name: &str, text: &str| {
                    std::fs::write(node.path(name), text).expect("it is ours");
                };
                write("units/new.toml", &Unit::bad(&["run"]).to_toml());
                write(
                    "profiles/test.toml",
                    "description = \"x\"\nunits = [\"c0\", \"c1\", \"x\", \"new\"]\n",
                );
                Some(node.ctl(&["daemon-reload"]))
            }
            Self::Upgrade => Some(node.ctl(&["upgrade"])),
        }
    }

    /// What must be true in the end: `is_done` is what the client was told; `None` when it could not be told.
    fn judge(self, node: &Node, is_done: Option<bool>, before: &BTreeSet<Main>) {
        let lives = |unit: &str, word: &str| {
            let all = stamps(node.path("stamps").as_ref());
            all.iter().filter(|s| s.unit == unit && s.word == word).count()
        };
        let others = |mains: BTreeSet<Main>, but: &str| -> BTreeSet<Main> {
            mains.into_iter().filter(|main| main.0 != but).collect()
        };
        let words = || {
            format!(
                "{:#?}\n{}",
                harness::client::brief(&node.history()),
                node.stderr()
            )
        };
        // What was being started when the keeper died, and says itself when it is ready, is started again: docs/recovery.md.
        let again = node.stderr().matches("nobody heard whether it is ready").count();
        let is_times = |unit: &str, times: usize| (times..=times + again).contains(&lives(unit, "start"));
        let mut changed = "";
        match (self, is_done) {
            (Self::Start, Some(true)) => {
                node.wait_state("spare", State::Running);
                assert!(is_times("spare", 1), "started once: {}", words());
                changed = "spare";
            }
            (Self::Start, None) => {
                assert!(lives("spare", "start") <= 1 + again, "started once at most");
                changed = "spare";
            }
            (Self::Stop, Some(true)) => {
                assert_eq!(node.unit("x").state, State::Stopped);
                assert_eq!(
                    (lives("x", "start"), lives("x", "stop")),
                    (1, 1),
                    "stopped once: {}",
                    words()
                );
                changed = "x";
            }
            (Self::Stop, None) => {
                assert!(
                    lives("x", "start") == 1 && lives("x", "stop") <= 1,
                    "stopped once at most"
                );
                changed = "x";
            }
            (Self::Restart, Some(true)) => {
                node.wait_state("x", State::Running);
                let is_stopped = lives("x", "stop") == 1;
                assert!(is_times("x", 2) && is_stopped, "restarted once: {}", words());
                changed = "x";
            }
            (Self::Restart, None) => {
                assert!(lives("x", "start") <= 2 + again, "restarted once at most");
                changed = "x";
            }
            (Self::Exit, _) => {
                let unit = node.wait_unit("x", "running again", |unit| {
                    unit.state == State::Running && unit.starts == 2
                });
                assert!(is_times("x", 2), "started again once: {}", words());
                let told = unit.last_exit.map(|last| last.exit);
                assert!(matches!(told, Some(Exit::Code(3) | Exit::Unknown)), "{told:?}");
                changed = "x";
            }
            (Self::Reload, Some(true)) => {
                node.wait_state("new", State::Running);
                changed = "new";
            }
            (Self::Reload, None) => changed = "new",
            (Self::Upgrade, _) => {}
            (asked, Some(false)) => panic!("{asked:?} was refused"),
        }
        assert_eq!(
            others(node.mains(), changed),
            others(before.clone(), changed),
            "others were touched: {}",
            words()
        );
    }
}

/// One death.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    scenario: Scenario,
    role: Role,
    call: String,
    n: u32,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            scenario,
            role,
            call,
            n,
        } = self;
        write!(f, "{scenario:?}: the {} dies at {call} number {n}", role.word())
    }
}

/// Attaches strace to a role alone: the manager never forks, the logger neither, and the keeper has one thread and all the
/// children.
fn attach(node: &Node, role: Role, args: &[&str]) -> Strace {
    let pid = node.role_of(role).pid;
    Strace::attach(pid, role != Role::Keeper, args, &node.path("trace"))
}

/// What a role calls in a scenario.
fn profile(scenario: Scenario, role: Role) -> BTreeMap<String, u32> {
    let mut node = scenario.node(Containment::Any);
    let before = node.mains();
    let strace = attach(&node, role, &[]);
    let answer = scenario.act(&node);
    scenario.judge(&node, answer.map(|answer| answer.code == Some(0)), &before);
    let calls = outside::calls(&strace.detach());
    node.check_deeds();
    node.shutdown();
    calls
}

/// The keeper died: its manager takes its place. In the moment of an upgrade in which the old manager is gone and the new one
/// has not begun, nobody is left to do that: then somebody starts ringriftd again, over units that live on.
fn follow_keeper(node: &mut Node, keeper: &Process, manager: &Process, scenario: Scenario) {
    let next = until("another keeper's manager, or nobody", || {
        let answer = node.try_version().ok().filter(|version| {
            version.keeper_pid != keeper.pid as u32 && version.manager_pid != manager.pid as u32
        });
        match answer {
            Some(version) => Some(Some(version)),
            None => node.daemon_processes().is_empty().then_some(None),
        }
    });
    match next {
        Some(version) => node.follow(version.keeper_pid as i32),
        None => {
            assert_eq!(
                scenario,
                Scenario::Upgrade,
                "nobody took the keeper's place\n{}",
                node.stderr()
            );
            // Its parent, which is this process, has still to hear of its end.
            node.wait_end();
            node.start_again();
        }
    }
}

/// Runs a case; true when the role died of it.
fn run(case: &Case, containment: Containment) -> bool {
    let mut node = case.scenario.node(containment);
    let before = node.mains();
    let history = node.history();
    let victim = node.role_of(case.role);
    let manager = node.role_of(Role::Manager);
    let inject = format!("inject={}:signal=SIGKILL:when={}", case.call, case.n);
    let trace = format!("trace={}", case.call);
    let mut strace = attach(&node, case.role, &["-e", &trace, "-e", &inject]);
    let answer = case.scenario.act(&node);
    // An upgrade replaces all roles anyway: whoever is killed late in it, is killed when it has done its part.
    let has_died = strace.has_ended(Duration::from_millis(500));
    drop(strace);
    if has_died {
        match case.role {
            Role::Keeper => follow_keeper(&mut node, &victim, &manager, case.scenario),
            Role::Manager => {
                node.wait_manager_after(&victim);
            }
            Role::Logger => {}
        }
    }
    node.check_one_daemon();
    node.note_roles();
    let is_done = answer.as_ref().and_then(|answer| match answer.code {
        Some(0) => Some(true),
        // The client gave up before anybody could answer, and says so.
        Some(69) if case.role == Role::Keeper => None,
        // An upgrade may fail, and says so; the node must be as it was.
        Some(_) if case.scenario == Scenario::Upgrade => Some(false),
        _ => panic!("the client was not answered: {answer:?}\n{}", node.stderr()),
    });
    case.scenario.judge(&node, is_done, &before);
    let history = node.check_history(&history);
    Numbers::of(&node).so_far();
    node.check_deeds();
    let figures = Numbers::of(&node).check();
    assert_eq!(figures.lives, 2, "two lives wrote numbers");
    node.check_history(&history);
    node.shutdown();
    has_died
}

/// What came of all cases.
#[derive(Debug, Default)]
struct Tally {
    deaths: BTreeMap<(Scenario, Role), u32>,
    missed: u32,
    failed: Vec<String>,
}

fn sweep(cases: &[Case], bound: Option<Duration>) -> Tally {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(Tally::default());
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(n) else { return };
            if bound.is_some_and(|bound| begun.elapsed() > bound) {
                return;
            }
            if is_full() && n.is_multiple_of(100) {
                tell(&format!(
                    "kill sweep: {n} of {} cases, {:?}",
                    cases.len(),
                    begun.elapsed()
                ));
            }
            let containment = if n.is_multiple_of(2) {
                Containment::Any
            } else {
                Containment::ProcessGroup
            };
            let result = catch_unwind(AssertUnwindSafe(|| run(case, containment)));
            let mut tally = tally.lock().expect("nobody panics with it");
            match result {
                Ok(true) => *tally.deaths.entry((case.scenario, case.role)).or_default() += 1,
                Ok(false) => tally.missed += 1,
                Err(why) => {
                    let text = why
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| why.downcast_ref::<&str>().copied())
                        .unwrap_or("?");
                    tell(&format!("FAILED {case} ({containment:?}): {text}"));
                    tally.failed.push(case.to_string());
                }
            }
        }
    };
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(1, 4);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    tally.into_inner().expect("nobody panicked with it")
}

/// B2: whoever of the three is killed at whatever system call, in whatever is being done.
#[test]
fn killed_at_any_system_call_nothing_is_lost() {
    need!(has_program("strace"), "needs strace");
    let (mut dice, seed) = Dice::new(20_261_122);
    let mut profiles = BTreeMap::new();
    for scenario in Scenario::ALL {
        for role in Role::ALL {
            profiles.insert((scenario, role), profile(scenario, role));
        }
    }
    let mut cases = Vec::new();
    for (&(scenario, role), calls) in &profiles {
        for (call, &count) in calls {
            // It does not return, or is strace's own way to say that a call goes on.
            if matches!(call.as_str(), "exit" | "exit_group" | "restart_syscall") {
                continue;
            }
            cases.extend((1..=count).map(|n| Case {
                scenario,
                role,
                call: call.clone(),
                n,
            }));
        }
    }
    let all = cases.len();
    if let Ok(wanted) = std::env::var(ONLY) {
        cases.retain(|case| case.to_string().contains(&wanted));
        assert!(!cases.is_empty(), "{ONLY}={wanted}: no case is called so");
    }
    let bound = if is_full() {
        None
    } else {
        // Each scenario and role alike, then each name of a call alike: else the sample is all about futex(2).
        let mut sample = BTreeSet::new();
        let keys: Vec<_> = profiles.keys().copied().collect();
        for n in 0..SAMPLE {
            let (scenario, role) = keys[n % keys.len()];
            let of: Vec<&Case> = cases
                .iter()
                .filter(|c| (c.scenario, c.role) == (scenario, role))
                .collect();
            let names: BTreeSet<&str> = of.iter().map(|case| case.call.as_str()).collect();
            let names: Vec<&str> = names.into_iter().collect();
            if names.is_empty() {
                continue;
            }
            let name = *dice.pick(&names);
            let of: Vec<&Case> = of.into_iter().filter(|case| case.call == name).collect();
            sample.insert((*dice.pick(&of)).clone());
        }
        cases = sample.into_iter().collect();
        for n in (1..cases.len()).rev() {
            cases.swap(n, dice.below(n as u64 + 1) as usize);
        }
        Some(SAMPLE_TIME)
    };
    let begun = Instant::now();
    let tally = sweep(&cases, bound);
    tell(&format!(
        "kill sweep, seed {seed}: {all} cases known, {} chosen, {} deaths {:?}, {} came to an end before their call, {} failed, in {:?}",
        cases.len(),
        tally.deaths.values().sum::<u32>(),
        tally.deaths,
        tally.missed,
        tally.failed.len(),
        begun.elapsed()
    ));
    assert!(tally.failed.is_empty(), "{:#?}", tally.failed);
    assert!(!tally.deaths.is_empty(), "nobody died");
}
