//! Manager and logger die, stand still, or are lied to: no unit is touched, nothing that was known is forgotten, and
//! whoever waited gets the true answer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::ctl::Output;
use harness::numbers::{self, Numbers};
use harness::oracle::wait_exactly;
use harness::processes::{self, Held};
use harness::survive::{self, Done, Role, assert_same};
use harness::{Node, PATIENCE, Unit, both_ways, stamps, until, until_within};
use proto::reply::{Exit, State};
use proto::request::{Depth, Job, Request};

/// How long the node may be without a manager on a machine that does something else as well.
const SOON: Duration = Duration::from_secs(30);

/// Clients that ask and ask, as long as `deed` is being done. Each must get an answer.
fn under_traffic<T>(node: &mut Node, deed: impl FnOnce(&mut Node) -> T) -> T {
    let done = AtomicBool::new(false);
    let socket = node.socket();
    let ask = |args: &[&str]| {
        let mut answers = 0;
        while !done.load(Ordering::Relaxed) {
            let answer = harness::ctl::run(harness::programs::ringriftctl(), args, PATIENCE, |command| {
                command.env("RINGRIFT_SOCKET", &socket).env("NO_COLOR", "1");
            });
            assert!(
                matches!(answer.code, Some(0 | 3)),
                "a client was not answered: {answer}"
            );
            answers += 1;
        }
        answers
    };
    std::thread::scope(|scope| {
        let clients = [
            scope.spawn(|| ask(&["status", "--json"])),
            scope.spawn(|| ask(&["is-active", "c00"])),
            scope.spawn(|| ask(&["logs", "c01", "-n", "3"])),
        ];
        let result = {
            let _done = Done(&done);
            deed(node)
        };
        for client in clients {
            let answers = client.join().expect("each client was answered");
            assert!(answers > 0);
        }
        result
    })
}

/// Stops everything, and holds the numbered lines to their rules.
fn all_lines(node: &Node) -> numbers::Figures {
    node.ctl(&["stop", "*", "--yes"]).ended(0);
    Numbers::of(node).check()
}

both_ways! {
    /// B1: the manager is killed three times in the middle of traffic. Units, counters, back-off deadlines and wants are
    /// as before, another answers soon, and no line is lost or doubled.
    fn a_killed_manager_comes_back_with_everything_as_it_was(mode) {
        let mut node = survive::crowd(Node::builder().containment(mode), 15).start();
        survive::settle(&node);
        let (mains, facts, history) = (node.mains(), node.facts(), node.history());
        assert_eq!(mains.len(), 15);
        under_traffic(&mut node, |node| {
            for _ in 0..3 {
                let killed = Instant::now();
                node.crash_manager();
                assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
                node.assert_same_mains(&mains);
                assert_same(&facts, &node.facts());
                node.check_one_daemon();
            }
        });
        node.check_history(&history);
        let figures = all_lines(&node);
        assert_eq!(figures.lives, 16);
        node.check();
    }
}

/// B1: a back-off goes on where it was: the next try comes when it was promised, whoever promised it.
#[test]
fn a_back_off_goes_on_where_it_was() {
    let builder = Node::builder();
    let file = builder.path("stamps");
    let unit = Unit::bad(&["exit", "1", "--on-start-append", &file])
        .kind("simple")
        .text("restart.delay", "3s");
    let mut node = builder.unit("a", &unit).start();
    let waiting = node.wait_state("a", State::Backoff);
    node.crash_manager();
    let after = node.unit("a");
    assert_eq!((after.state, after.starts), (State::Backoff, waiting.starts));
    node.wait_unit("a", "started again", |unit| unit.starts > waiting.starts);
    let starts = stamps(file.as_ref());
    let pause = Duration::from_nanos((starts[1].ns - starts[0].ns) as u64);
    assert!(
        pause >= Duration::from_secs(3) && pause < Duration::from_secs(3) + SOON,
        "{pause:?}"
    );
    node.check();
}

both_ways! {
    /// B1, A30: a unit that ends while there is no manager: the next one is told, with the code, and counts it once.
    fn an_exit_in_the_managers_absence_is_told_with_its_code(mode) {
        let unit = Unit::bad(&["run", "--usr1-code", "42"]).text("restart.delay", "1h");
        let mut node = Node::builder()
            .containment(mode)
            .unit("coded", &unit)
            .unit("killed", &unit.clone().text("restart.delay", "50ms"))
            .unit("quiet", &Unit::bad(&["run"]))
            .start();
        let quiet = node.mains().into_iter().filter(|main| main.0 == "quiet").collect::<BTreeSet<_>>();
        let (coded, killed) = (node.pid("coded"), node.unit("killed"));
        let ends = [
            (Held::open(coded).expect("it runs"), libc::SIGUSR1),
            (Held::open(killed.pid.expect("it runs") as i32).expect("it runs"), libc::SIGALRM),
        ];
        let manager = node.kill_role(Role::Manager);
        for (process, signal) in &ends {
            assert!(process.signal(*signal));
        }
        for (process, _) in &ends {
            assert!(process.wait(PATIENCE), "it was told to end");
        }
        node.wait_manager_after(&manager);
        let coded = node.wait_state("coded", State::Backoff);
        assert_eq!(coded.last_exit.map(|last| last.exit), Some(Exit::Code(42)));
        assert_eq!(coded.starts, 1);
        let after = node.wait_unit("killed", "running again", |unit| {
            unit.state == State::Running && unit.invocation != killed.invocation
        });
        assert_eq!((after.starts, after.restarts), (2, 1));
        assert!(
            matches!(after.last_exit.map(|last| last.exit), Some(Exit::Signal { signal: libc::SIGALRM, .. })),
            "{:?}", after.last_exit
        );
        assert!(node.mains().is_superset(&quiet));
        node.check();
    }
}

/// B3: a manager that dies again and again is started again, later and later, at last in the safe mode; units stay, and
/// who asks is told.
#[test]
fn a_manager_that_keeps_dying_comes_back_in_safe_mode() {
    let mut node = survive::crowd(Node::builder(), 4).start();
    survive::settle(&node);
    let (mains, facts) = (node.mains(), node.facts());
    let mut last = node.role_of(Role::Manager);
    for _ in 0..6 {
        let held = Held::open(last.pid).expect("it runs");
        // As a panic ends it: that somebody else kills it says nothing of its state.
        held.signal(libc::SIGABRT);
        assert!(held.wait(PATIENCE));
        last = until("there is another manager", || {
            node.role_process("manager")
                .filter(|p| !survive::is_same(p, &last))
        });
    }
    let version = node.wait_answer("the manager answers", |_| true);
    assert_eq!(version.manager_pid, last.pid as u32);
    node.note_roles();
    node.assert_same_mains(&mains);
    assert_same(&facts, &node.facts());
    let (status, _) = node.status_of(&[]);
    assert!(
        status.notices.iter().any(|notice| notice.contains("safe")),
        "{:?}\n{}",
        status.notices,
        node.stderr()
    );
    // In the safe mode it still does what it is told.
    node.ctl(&["start", "stopped"]).ended(0);
    node.ctl(&["stop", "stopped"]).ended(0);
    all_lines(&node);
    node.check();
}

/// B3: what the keeper holds for the manager is damaged: the next manager says so, uses what is sound, and touches no
/// unit.
#[test]
fn damaged_memory_is_found_and_no_unit_pays_for_it() {
    for half in [true, false] {
        let mut node = survive::crowd(Node::builder(), 4).start();
        survive::settle(&node);
        let mains = node.mains();
        let manager = node.role_of(Role::Manager);
        let damaged = damage_memory(node.keeper(), half);
        assert!(damaged > 0, "the keeper holds no memory");
        node.kill_role(Role::Manager);
        node.wait_manager_after(&manager);
        node.assert_same_mains(&mains);
        let stopped = node.unit("stopped");
        assert_eq!(
            stopped.state,
            State::Stopped,
            "an operator's stop holds\n{}",
            node.stderr()
        );
        assert_eq!(
            node.unit("held").state,
            State::Held,
            "a hold holds\n{}",
            node.stderr()
        );
        for unit in ["c00", "c01", "c02", "c03"] {
            assert_eq!(node.unit(unit).state, State::Running, "{unit}\n{}", node.stderr());
        }
        all_lines(&node);
        node.check();
    }
}

/// Overwrites the middle of the newest half, or all that the keeper holds for the manager; how many bytes that were.
fn damage_memory(keeper: i32, all: bool) -> u64 {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let mut damaged = 0;
    let folder = format!("/proc/{keeper}/fd");
    for entry in std::fs::read_dir(&folder).expect("the keeper runs").flatten() {
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        let link = link.to_string_lossy();
        if !(link.starts_with("/memfd:") && link.contains("state")) {
            continue;
        }
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(entry.path())
            .expect("a memory of ours can be opened again");
        let size = file.metadata().expect("it is a file").size();
        // The head is damaged in any case where all is to go; else what lies behind the first half of it.
        let from = if all { 0 } else { size / 2 };
        let noise: Vec<u8> = (from..size).map(|n| (n * 131 % 251) as u8).collect();
        file.write_all_at(&noise, from).expect("memory can be written");
        damaged += noise.len() as u64;
    }
    damaged
}

/// B7: the kernel kills the manager for want of memory, as it does a unit: by SIGKILL. Who is killed first is right: a unit
/// before the manager, and each unit has the value that its file says, also when a later manager started it.
#[test]
fn short_memory_costs_a_unit_before_the_manager() {
    let tuned = Unit::bad(&["run"]).set("exec.oom_score_adj", "500");
    let mut node = Node::builder()
        .unit("plain", &Unit::bad(&["run"]))
        .unit("tuned", &tuned)
        .start();
    let adj = |pid: i32| -> i32 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it runs");
        text.trim().parse().expect("a number")
    };
    for _ in 0..2 {
        let own = node.role_pids().map_values(adj);
        for role in own.values() {
            assert!(*role <= adj(node.pid("plain")), "{own:?}");
        }
        assert_eq!(adj(node.pid("tuned")), 500);
        let mains = node.mains();
        node.crash_manager();
        node.assert_same_mains(&mains);
        node.ctl(&["restart", "*"]).ended(0);
    }
    node.check();
}

/// Maps the values of a map.
trait MapValues<K, V> {
    fn map_values<W>(self, with: impl Fn(V) -> W) -> std::collections::BTreeMap<K, W>;
}

impl<K: Ord, V> MapValues<K, V> for std::collections::BTreeMap<K, V> {
    fn map_values<W>(self, with: impl Fn(V) -> W) -> std::collections::BTreeMap<K, W> {
        self.into_iter().map(|(key, value)| (key, with(value))).collect()
    }
}

both_ways! {
    /// B8: the manager stands still for 5 s, longer than a start, a stop and a back-off may take. What happened in that time
    /// happened in time: nothing is judged to be late.
    fn a_manager_that_stood_still_calls_nobody_late(mode) {
        let builder = numbers::prepare(Node::builder().containment(mode));
        let go = builder.path("go");
        let slow = Unit::bad(&["run", "--ready-when", &go]).text("ready.timeout", "3s");
        let leaving = Unit::bad(&["run", "--stop-delay", "1"]).text("stop.timeout", "3s");
        let again = Unit::bad(&["run"]).text("restart.delay", "2s");
        let count = numbers::unit(&builder, 50);
        let mut node = builder
            .spare("slow", &slow)
            .unit("leaving", &leaving)
            .unit("again", &again)
            .unit("count", &count)
            .start();
        let counting = node.pid("count");
        processes::signal(node.pid("again"), libc::SIGKILL);
        node.wait_state("again", State::Backoff);
        let (started, stopped) = std::thread::scope(|scope| {
            let start = scope.spawn(|| node.ctl(&["start", "slow"]));
            node.wait_unit("slow", "starting", |unit| unit.state == State::Starting && unit.pid.is_some());
            let stop = scope.spawn(|| node.ctl(&["stop", "leaving", "--json"]));
            node.wait_state("leaving", State::Stopping);
            let manager = Held::open(node.manager()).expect("it runs");
            assert!(manager.signal(libc::SIGSTOP));
            std::fs::write(&go, "").expect("it is ours");
            wait_exactly(Duration::from_secs(5));
            assert!(manager.signal(libc::SIGCONT));
            let join = |thread: std::thread::ScopedJoinHandle<'_, Output>| thread.join().expect("no panic");
            (join(start), join(stop))
        });
        started.ended(0);
        let slow = node.unit("slow");
        assert_eq!((slow.state, slow.starts, slow.restarts), (State::Running, 1, 0), "{slow:#?}");
        assert!(!stopped.clone().ended(0).stdout.contains("\"killed\":true"), "{stopped}");
        let again = node.wait_state("again", State::Running);
        assert_eq!((again.starts, again.restarts), (2, 1), "{again:#?}");
        assert_eq!(node.pid("count"), counting);
        node.note_roles();
        all_lines(&node);
        node.check();
    }
}

/// B21: a panic in the task of one client ends the manager as a whole, and the keeper starts another. Only a debug build has
/// a way by which a test can cause one; of a release program, which nobody can make panic, SIGABRT is what would be seen.
#[test]
fn a_manager_that_panics_is_replaced() {
    let mut node = survive::crowd(Node::builder(), 4).start();
    survive::settle(&node);
    let (mains, facts) = (node.mains(), node.facts());
    let before = node.role_of(Role::Manager);
    if cfg!(debug_assertions) {
        let asked = node.client().call(Request::Status {
            selectors: vec!["\0panic".to_owned()],
            depth: Depth::Known,
            all: false,
        });
        asked.expect_err("nobody is there to answer");
    } else {
        processes::signal(before.pid, libc::SIGABRT);
    }
    node.wait_manager_after(&before);
    if cfg!(debug_assertions) {
        let said = node.stderr();
        assert!(said.contains("a test asked for a panic"), "{said}");
        assert!(said.contains("a fault of ringriftd"), "{said}");
    }
    node.assert_same_mains(&mains);
    assert_same(&facts, &node.facts());
    all_lines(&node);
    node.check();
}

/// C15: a cleaner unlinks the socket: it is back soon, and connections that were open live on.
#[test]
fn an_unlinked_socket_is_made_again() {
    let node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let mut open = node.client();
    std::fs::remove_file(node.socket()).expect("it is there");
    let back = until_within(Duration::from_secs(20), || {
        std::os::unix::net::UnixStream::connect(node.socket()).ok()
    });
    assert!(back.is_some(), "the socket did not come back\n{}", node.stderr());
    drop(back);
    open.call(Request::Version).expect("an open connection lives on");
    node.ctl(&["status"]).ended(0);
    node.check();
}

/// D22: clients wait while the manager dies, some of them twice: each gets the true answer, whatever it is.
#[test]
fn who_waits_while_the_manager_dies_gets_the_true_answer() {
    let builder = Node::builder();
    let (go, stay) = (builder.path("go"), builder.path("stay"));
    let late = Unit::bad(&["run", "--ready-when", &go]);
    let never = Unit::bad(&["run", "--ready-when", &stay, "--usr1-code", "9"]).once();
    let slow = Unit::bad(&["run", "--stop-delay", "2"]);
    let mut node = builder
        .spare("late", &late)
        .spare("never", &never)
        .unit("slow", &slow)
        .unit("steady", &Unit::bad(&["run"]))
        .start();
    let steady = node
        .mains()
        .into_iter()
        .filter(|main| main.0 == "steady")
        .collect::<BTreeSet<_>>();
    let socket = node.socket();
    let ask = |args: &[&str]| {
        harness::ctl::run(harness::programs::ringriftctl(), args, PATIENCE * 2, |command| {
            command.env("RINGRIFT_SOCKET", &socket).env("NO_COLOR", "1");
        })
    };
    std::thread::scope(|scope| {
        let started = scope.spawn(|| ask(&["start", "late"]));
        let failed = scope.spawn(|| ask(&["start", "never"]));
        for unit in ["late", "never"] {
            node.wait_unit(unit, "starting", |unit| unit.pid.is_some());
        }
        // Before somebody wants it up, to wait for it is hopeless.
        let waited = scope.spawn(|| ask(&["wait", "late", "--for", "running"]));
        let stopped = scope.spawn(|| ask(&["stop", "slow"]));
        node.wait_state("slow", State::Stopping);
        node.crash_manager();
        node.crash_manager();
        processes::signal(node.pid("never"), libc::SIGUSR1);
        std::fs::write(&go, "").expect("it is ours");
        started.join().expect("no panic").ended(0);
        waited.join().expect("no panic").ended(0);
        stopped.join().expect("no panic").ended(0);
        failed.join().expect("no panic").ended(1);
    });
    assert_eq!(node.unit("late").starts, 1);
    assert_eq!(node.unit("never").starts, 1);
    assert!(node.mains().is_superset(&steady));
    node.check();
}

/// What an operator said outlives what it should: a hold all deaths and an orderly restart, a stop the deaths alone.
#[test]
fn holds_outlive_everything_and_stops_outlive_crashes() {
    let mut node = Node::builder()
        .unit("held", &Unit::bad(&["run"]))
        .unit("stopped", &Unit::bad(&["run"]))
        .unit("up", &Unit::bad(&["run"]))
        .bare()
        .start();
    node.ctl(&["hold", "held", "--note", "disk is being replaced"])
        .ended(0);
    node.ctl(&["stop", "held", "stopped"]).ended(0);
    let check = |node: &Node, stopped: State, what: &str| {
        node.wait_state("up", State::Running);
        node.wait_state("stopped", stopped);
        let held = node.unit("held");
        assert_eq!(held.state, State::Held, "{what}");
        assert!(
            node.ctl(&["status", "held"])
                .stdout
                .contains("disk is being replaced"),
            "{what}"
        );
        node.ctl(&["start", "held"]).ended(7);
    };
    check(&node, State::Stopped, "at first");
    node.crash_manager();
    check(&node, State::Stopped, "after the manager's death");
    node.crash_keeper();
    check(&node, State::Stopped, "after the keeper's death");
    node.kill_daemon();
    node.start_again();
    check(&node, State::Stopped, "after everybody's death");
    node.shutdown();
    node.start_again();
    check(&node, State::Running, "after an orderly restart");
    node.ctl(&["unhold", "held"]).ended(0);
    node.ctl(&["start", "held"]).ended(0);
    node.check();
}

/// D20: a client is killed between its request and the answer. Asked again under the same token, by another client and of
/// another manager, it is done once and answered each time; another token is another request.
#[test]
fn the_same_request_is_not_done_twice() {
    use proto::frame::Token;
    use proto::reply::{Outcome, Reply};
    let mut node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let request = Request::Restart {
        job: Job {
            selectors: vec!["a".into()],
            wait: true,
            timeout_ms: None,
            cascade: false,
        },
        only_running: false,
    };
    let mut killed = node.client();
    let (token, other) = (Some(Token([7; 16])), Some(Token([8; 16])));
    killed.ask_as(token, request.clone()).expect("it is sent");
    drop(killed);
    let again = |node: &Node, token, starts| {
        let replies = node
            .client()
            .call_as(token, request.clone())
            .expect("it is answered");
        let is_done =
            |reply: &Reply| matches!(reply, Reply::Verdict(v) if v.unit == "a" && v.outcome == Outcome::Done);
        assert!(replies.iter().any(is_done), "{replies:?}");
        assert_eq!(
            node.unit("a").starts,
            starts,
            "{:#?}",
            harness::client::brief(&node.history())
        );
    };
    again(&node, token, 2);
    again(&node, token, 2);
    node.crash_manager();
    again(&node, token, 2);
    again(&node, other, 3);
    again(&node, token, 3);
    node.kill_daemon();
    node.start_again();
    again(&node, other, 3);
    node.check();
}
