//! Manager and logger are killed at random moments, again and again, while units write, end and are started again and
//! clients ask for things. `RINGRIFT_FULL_SWEEP=1`: a thousand kills; else as many as fit.
//!
//! Ten kills a node, two nodes at a time: who dies often is started again later and later, and a test that waits for that
//! kills nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use harness::ctl::DOCUMENTED;
use harness::numbers::{self, Numbers};
use harness::oracle::wait_exactly;
use harness::processes::{self, Held};
use harness::seeded::{Dice, is_full, tell};
use harness::survive::{Done, Role};
use harness::{Node, PATIENCE, programs};
use proto::reply::State;

/// How long the part that fits into every run may take.
const PART_TIME: Duration = Duration::from_secs(90);
/// How many nodes it has at most.
const PART: usize = 10;
/// And the whole.
const WHOLE: usize = 100;
/// Kills on each.
const KILLS: u32 = 10;
/// Units that are left alone: each must live through it all.
const STEADY: usize = 15;
/// Units that are killed and restarted meanwhile.
const BUSY: usize = 5;

/// What clients were told.
#[derive(Debug, Default)]
struct Asked {
    answers: AtomicU64,
    unreachable: AtomicU64,
}

/// A client that asks for this and that until it is told to end.
fn clients(node: &Node, mut dice: Dice, done: &AtomicBool, asked: &Asked) {
    let socket = node.socket();
    while !done.load(Ordering::Relaxed) {
        let busy = format!("b{:02}", dice.below(BUSY as u64));
        let steady = format!("c{:02}", dice.below(STEADY as u64));
        let args: &[&str] = match dice.below(7) {
            0 => &["restart", &busy],
            1 => &["stop", &busy],
            2 => &["start", &busy],
            3 => &["logs", &steady, "-n", "5"],
            4 => &["is-active", &steady],
            5 => &["start", &steady],
            _ => &["status", "--json"],
        };
        let answer = harness::ctl::run(programs::ringriftctl(), args, PATIENCE * 2, |command| {
            command.env("RINGRIFT_SOCKET", &socket).env("NO_COLOR", "1");
        });
        let code = answer.code.unwrap_or(-1);
        assert!(DOCUMENTED.contains(&code), "{answer}");
        match (args[0], code) {
            // Ten deaths in a row, or ten seconds without anybody: said so, and true.
            (_, 69) => {
                asked.unreachable.fetch_add(1, Ordering::Relaxed);
            }
            ("is-active", code) => assert_eq!(code, 0, "{answer}"),
            ("start", code) if args[1].starts_with('c') => assert_eq!(code, 0, "{answer}"),
            (_, 0 | 1 | 3) => {}
            _ => panic!("{answer}"),
        }
        asked.answers.fetch_add(1, Ordering::Relaxed);
    }
}

/// A process of a busy unit ends, now and then; the unit's policy starts it again.
fn ends(node: &Node, mut dice: Dice, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        wait_exactly(Duration::from_millis(100 + dice.below(400)));
        let busy: Vec<_> = node
            .mains()
            .into_iter()
            .filter(|main| main.0.starts_with('b'))
            .collect();
        if busy.is_empty() {
            continue;
        }
        let (_, pid, start_time) = dice.pick(&busy).clone();
        let signal = *dice.pick(&[libc::SIGUSR1, libc::SIGKILL, libc::SIGTERM]);
        if let Some(held) = Held::open(pid)
            && processes::Process::read(pid).is_some_and(|p| p.start_time == start_time)
        {
            held.signal(signal);
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    nodes: usize,
    killed: BTreeMap<Role, u32>,
    lives: usize,
    lines: u64,
    answers: u64,
    unreachable: u64,
    longest: Duration,
}

/// One node.
fn round(mut dice: Dice) -> Tally {
    let mut tally = Tally::default();
    let mut builder = numbers::prepare(Node::builder());
    let count = numbers::unit(&builder, 50)
        .set("restart.max_restarts", "10000")
        .text("restart.policy", "always");
    for n in 0..STEADY {
        builder = builder.unit(&format!("c{n:02}"), &count);
    }
    for n in 0..BUSY {
        builder = builder.unit(&format!("b{n:02}"), &count);
    }
    let mut node = builder.start();
    let steady = |node: &Node| -> BTreeSet<_> {
        let all = node.mains().into_iter();
        all.filter(|main| main.0.starts_with('c')).collect()
    };
    let before = steady(&node);
    assert_eq!(before.len(), STEADY);
    let (done, asked) = (AtomicBool::new(false), Asked::default());
    let heard = node.history();
    let dices = [dice.fork(), dice.fork(), dice.fork()];
    std::thread::scope(|scope| {
        let (node, done, asked) = (&node, &done, &asked);
        let [one, two, three] = dices;
        for dice in [one, two] {
            scope.spawn(move || clients(node, dice, done, asked));
        }
        scope.spawn(move || ends(node, three, done));
        let _done = Done(done);
        for _ in 0..KILLS {
            wait_exactly(Duration::from_millis(dice.below(300)));
            let role = *dice.pick(&[Role::Manager, Role::Manager, Role::Logger]);
            let victim = node.kill_role(role);
            *tally.killed.entry(role).or_default() += 1;
            // Some die again before they are back.
            if role == Role::Manager && dice.below(4) > 0 {
                let without = Instant::now();
                node.wait_answer("another manager answers", |version| {
                    version.manager_pid != victim.pid as u32
                });
                tally.longest = tally.longest.max(without.elapsed());
            }
        }
        node.wait_answer("a manager answers", |_| true);
    });
    assert_eq!(
        steady(&node),
        before,
        "a steady unit was disturbed\n{}",
        node.stderr()
    );
    node.check_one_life();
    node.check_one_daemon();
    node.note_roles();
    for n in 0..STEADY {
        let unit = node.unit(&format!("c{n:02}"));
        assert_eq!((unit.state, unit.starts, unit.restarts), (State::Running, 1, 0));
    }
    let heard = node.check_history(&heard);
    node.check_deeds();
    node.check_history(&heard);
    let figures = Numbers::of(&node).check();
    (tally.lives, tally.lines) = (figures.lives, figures.lines);
    tally.answers = asked.answers.into_inner();
    tally.unreachable = asked.unreachable.into_inner();
    node.shutdown();
    tally
}

/// B1, B2: no unit that nobody asked about is disturbed, no line of any is lost or doubled, none has a copy, and every client is
/// answered.
#[test]
fn manager_and_logger_die_at_random_and_nothing_is_lost() {
    let (mut dice, seed) = Dice::new(7);
    let (nodes, bound) = if is_full() {
        (WHOLE, None)
    } else {
        (PART, Some(PART_TIME))
    };
    let all: Vec<Dice> = (0..nodes).map(|_| dice.fork()).collect();
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let sum = Mutex::new(Tally::default());
    let work = || {
        while let Some(dice) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            if bound.is_some_and(|bound| begun.elapsed() > bound) {
                return;
            }
            let tally = round(dice.clone());
            let mut sum = sum.lock().expect("nobody panics with it");
            for (role, count) in tally.killed {
                *sum.killed.entry(role).or_default() += count;
            }
            sum.lives += tally.lives;
            sum.lines += tally.lines;
            sum.answers += tally.answers;
            sum.unreachable += tally.unreachable;
            sum.longest = sum.longest.max(tally.longest);
            sum.nodes += 1;
            if sum.nodes.is_multiple_of(10) {
                tell(&format!("random kills so far, {:?}: {sum:?}", begun.elapsed()));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let sum = sum.into_inner().expect("nobody panicked with it");
    tell(&format!(
        "random kills, seed {seed}, {:?}: {sum:?}",
        begun.elapsed()
    ));
    assert!(!sum.killed.is_empty());
}
