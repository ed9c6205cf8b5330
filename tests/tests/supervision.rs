//! What a supervisor is for: order, readiness, restarts, dependents, stops, hooks, limits, reload.

use std::time::Duration;

use harness::oracle::wait_exactly;
use harness::{Node, Stamp, Unit, both_ways, processes, stamps, until};
use proto::reply::{Exit, State};

/// A well-behaved unit that writes down its starts and stops.
fn stamped(file: &str) -> Unit {
    Unit::bad(&["run", "--on-start-append", file, "--on-stop-append", file])
}

fn units_with(stamps: &[Stamp], word: &str) -> Vec<String> {
    stamps
        .iter()
        .filter(|stamp| stamp.word == word)
        .map(|stamp| stamp.unit.clone())
        .collect()
}

/// Waits for a life of `unit` after the one that it has.
fn next_life(node: &Node, unit: &str, cause: impl FnOnce()) -> proto::reply::UnitStatus {
    let before = node.unit(unit).invocation;
    cause();
    node.wait_unit(unit, "running in another life", |u| {
        u.state == State::Running && u.invocation != before
    })
}

#[test]
fn a_chain_starts_in_order_of_readiness_and_stops_in_reverse() {
    let builder = Node::builder();
    let (file, go) = (builder.path("stamps"), builder.path("go"));
    let first = Unit::bad(&[
        "run",
        "--ready-when",
        &go,
        "--on-start-append",
        &file,
        "--on-stop-append",
        &file,
    ]);
    let node = builder
        .unit("c", &stamped(&file).requires(&["b"]))
        .unit("b", &stamped(&file).requires(&["a"]))
        .unit("a", &first)
        .start_without_waiting();
    node.wait_unit("a", "starting", |unit| {
        unit.state == State::Starting && unit.pid.is_some()
    });
    let waiting = node.wait_state("b", State::Waiting);
    assert!(
        waiting.blocked_by.iter().any(|blocker| blocker.unit == "a"),
        "{waiting:#?}"
    );
    assert_eq!(units_with(&stamps(file.as_ref()), "start"), ["a"]);
    std::fs::write(&go, "").expect("it is ours");
    node.wait_state("c", State::Running);
    node.ctl(&["stop", "*", "--yes"]).ended(0);
    let all = stamps(file.as_ref());
    assert_eq!(units_with(&all, "start"), ["a", "b", "c"]);
    assert_eq!(units_with(&all, "stop"), ["c", "b", "a"]);
    node.check();
}

#[test]
fn every_kind_becomes_ready_in_its_own_way() {
    let builder = Node::builder();
    let pid_file = builder.path("pid");
    let forking = Unit::bad(&["daemonize", "--pid-file", &pid_file]).kind("forking");
    let node = builder
        .unit("simple", &Unit::bad(&["run"]).kind("simple"))
        .unit("notify", &Unit::bad(&["run"]))
        .unit(
            "fd",
            &Unit::bad(&["fd-ready", "5"])
                .kind("fd")
                .set("exec.notify_fd", "5"),
        )
        .unit("forking", &forking.text("exec.pid_file", &pid_file))
        .unit("oneshot", &Unit::bad(&["exit", "0"]).kind("oneshot").once())
        .unit(
            "remains",
            &Unit::bad(&["exit", "0"])
                .kind("oneshot")
                .once()
                .set("exec.remain", "true"),
        )
        .unit(
            "last",
            &Unit::bad(&["run"]).requires(&["simple", "notify", "fd", "forking", "oneshot", "remains"]),
        )
        .start();
    for unit in ["simple", "notify", "fd", "forking", "remains", "last"] {
        assert_eq!(node.unit(unit).state, State::Running, "{unit}");
    }
    assert_eq!(node.unit("oneshot").state, State::Completed);
    node.ctl(&["is-active", "remains"]).ended(0);
    node.check();
}

#[test]
fn a_kill_is_seen_and_restarted_with_the_delay_of_the_file() {
    let builder = Node::builder();
    let file = builder.path("stamps");
    let node = builder
        .unit("a", &stamped(&file).text("restart.delay", "700ms"))
        .start();
    let killed = harness::monotonic_ns();
    let after = next_life(&node, "a", || processes::signal(node.pid("a"), libc::SIGKILL));
    assert_eq!(after.restarts, 1);
    assert!(
        matches!(
            after.last_exit.map(|l| l.exit),
            Some(Exit::Signal { signal: 9, .. })
        ),
        "{after:#?}"
    );
    let starts = stamps(file.as_ref());
    assert!(
        starts[1].ns - killed >= 700_000_000,
        "it came back after {} ns",
        starts[1].ns - killed
    );
    node.check();
}

/// The back-off is that of the file: it grows by its factor up to its cap, then the limit ends it.
#[test]
fn the_back_off_grows_up_to_its_cap() {
    let builder = Node::builder();
    let file = builder.path("stamps");
    let unit = Unit::bad(&["exit", "1", "--on-start-append", &file])
        .text("restart.delay", "200ms")
        .set("restart.factor", "2.0")
        .text("restart.max_delay", "500ms")
        .set("restart.max_restarts", "5")
        .text("restart.exhausted", "give_up");
    let node = builder.unit("a", &unit).start();
    let failed = node.wait_state("a", State::Failed);
    assert_eq!((failed.starts, failed.restarts, failed.next_try_us), (6, 5, None));
    let starts = stamps(file.as_ref());
    assert_eq!(starts.len(), 6);
    for (pair, least) in starts.windows(2).zip([200, 400, 500, 500, 500]) {
        let gap = Duration::from_nanos(u64::try_from(pair[1].ns - pair[0].ns).expect("time goes on"));
        assert!(
            gap >= Duration::from_millis(least) && gap < harness::PATIENCE,
            "a restart came {gap:?} after the start before, not {least} ms"
        );
    }
    // What was announced is exact, whatever the machine does besides.
    let announced: Vec<String> = node
        .history()
        .into_iter()
        .filter(|event| event.to == State::Backoff)
        .map(|event| event.cause.text)
        .collect();
    let waits: Vec<&str> = announced
        .iter()
        .filter_map(|text| text.rsplit(' ').next())
        .collect();
    assert_eq!(waits, ["200ms", "400ms", "500ms", "500ms", "500ms"]);
    node.check();
}

#[test]
fn permanent_codes_are_never_retried() {
    let unit = Unit::bad(&["exit", "78"]).set("restart.permanent_exit_codes", "[78]");
    let node = Node::builder().unit("a", &unit).start();
    let status = node.wait_state("a", State::Failed);
    assert_eq!((status.starts, status.next_try_us), (1, None));
    assert!(
        node.history()
            .iter()
            .any(|event| event.event == "DAEMON_PERMANENTLY_FAILED")
    );
    node.check();
}

#[test]
fn reset_failed_and_start_give_a_failed_unit_another_chance() {
    let builder = Node::builder();
    let broken = builder.path("broken");
    let unit = Unit::bad(&["run", "--fail-if", &broken])
        .set("restart.max_restarts", "1")
        .text("restart.exhausted", "give_up");
    let node = builder.file("broken", "").unit("a", &unit).start();
    node.wait_state("a", State::Failed);
    node.ctl(&["failed"]).ended(1);
    std::fs::remove_file(&broken).expect("it is there");
    node.ctl(&["reset-failed", "a"]).ended(0);
    assert_eq!(node.unit("a").restarts, 0);
    node.ctl(&["start", "a"]).ended(0);
    node.ctl(&["failed"]).ended(0);
    node.check();
}

#[test]
fn dependents_stop_when_a_dependency_fails_for_good_and_come_back_with_it() {
    let builder = Node::builder();
    let broken = builder.path("broken");
    let base = Unit::bad(&["run", "--fail-if", &broken])
        .set("restart.max_restarts", "1")
        .text("restart.exhausted", "give_up");
    let on = |unit: Unit, key: &str, value: &str| unit.text(&format!("on_dependency.{key}"), value);
    let dependent = || Unit::bad(&["run"]).requires(&["base"]);
    let node = builder
        .unit("base", &base)
        .unit("stops", &dependent())
        .unit("keeps", &on(dependent(), "failed", "keep"))
        .unit("stays", &on(dependent(), "recovered", "stay"))
        .start();
    let kept = node.pid("keeps");
    std::fs::write(&broken, "").expect("it is ours");
    processes::signal(node.pid("base"), libc::SIGKILL);
    node.wait_state("base", State::Failed);
    for unit in ["stops", "stays"] {
        node.wait_unit(unit, "down", |unit| unit.pid.is_none());
    }
    assert_eq!(node.pid("keeps"), kept);
    std::fs::remove_file(&broken).expect("it is there");
    node.ctl(&["start", "base"]).ended(0);
    node.wait_state("stops", State::Running);
    assert_eq!(node.pid("keeps"), kept);
    assert_eq!(node.unit("stays").pid, None);
    node.check();
}

/// A dependent comes back by itself when its dependency does: nobody says a word after the cause is gone. It goes for
/// a whole chain, in the order of the chain.
#[test]
fn a_dependent_comes_back_by_itself() {
    let builder = Node::builder();
    let (broken, file) = (builder.path("broken"), builder.path("stamps"));
    let base = Unit::bad(&["run", "--fail-if", &broken])
        .set("restart.max_restarts", "1")
        .text("restart.exhausted", "retry")
        .text("restart.retry_every", "500ms");
    let node = builder
        .unit("base", &base)
        .unit("middle", &stamped(&file).requires(&["base"]))
        .unit("top", &stamped(&file).requires(&["middle"]))
        .start();
    std::fs::write(&broken, "").expect("it is ours");
    processes::signal(node.pid("base"), libc::SIGKILL);
    let base = node.wait_unit("base", "failed with a next try", |unit| {
        unit.state == State::Failed && unit.next_try_us.is_some()
    });
    assert!(base.desired_up, "{base:#?}");
    let middle = node.wait_state("middle", State::Waiting);
    assert!(middle.blocked_by.iter().any(|b| b.unit == "base"), "{middle:#?}");
    node.wait_unit("top", "down and still wanted", |unit| {
        unit.pid.is_none() && unit.desired_up
    });
    assert_eq!(node.ctl(&["is-active", "top"]).code, Some(3));
    std::fs::remove_file(&broken).expect("it is there");
    node.wait_state("top", State::Running);
    let all = stamps(file.as_ref());
    assert_eq!(units_with(&all, "start"), ["middle", "top", "middle", "top"]);
    assert_eq!(units_with(&all, "stop"), ["top", "middle"]);
    let events = node.history();
    let again = events
        .iter()
        .rfind(|event| event.unit == "middle" && event.from == State::Waiting && event.to == State::Starting)
        .expect("it started");
    assert_eq!(
        (again.cause.kind, again.cause.unit.as_deref()),
        (proto::reply::CauseKind::Dependency, Some("base")),
        "{again:#?}"
    );
    node.check();
}

/// While a dependency only restarts, those that need it and do not say otherwise go on as they are.
#[test]
fn an_operators_restart_takes_along_only_who_says_so() {
    let follows = Unit::bad(&["run"])
        .requires(&["base"])
        .text("on_dependency.restarted", "restart");
    let node = Node::builder()
        .unit("base", &Unit::bad(&["run"]))
        .unit("follows", &follows)
        .unit("keeps", &Unit::bad(&["run"]).requires(&["base"]))
        .start();
    let (base, kept, follower) = (node.pid("base"), node.pid("keeps"), node.pid("follows"));
    let refused = node.ctl(&["restart", "base"]).ended(7);
    assert!(
        refused.text().contains("follows") && !refused.text().contains("keeps"),
        "{refused}"
    );
    assert_eq!((node.pid("base"), node.pid("follows")), (base, follower));
    node.ctl(&["restart", "base", "--yes"]).ended(0);
    assert_ne!(node.pid("base"), base);
    assert_ne!(node.pid("follows"), follower);
    assert_eq!(node.pid("keeps"), kept);
    assert_eq!(
        node.unit("base").restarts,
        0,
        "an operator's restart is no failure"
    );
    node.check();
}

#[test]
fn dependents_follow_a_restart_only_if_they_say_so() {
    let follows = Unit::bad(&["run"])
        .requires(&["base"])
        .text("on_dependency.base.restarted", "restart");
    let node = Node::builder()
        .unit("base", &Unit::bad(&["run"]))
        .unit("follows", &follows)
        .unit("keeps", &Unit::bad(&["run"]).requires(&["base"]))
        .start();
    let kept = node.pid("keeps");
    next_life(&node, "follows", || {
        processes::signal(node.pid("base"), libc::SIGKILL)
    });
    assert_eq!(node.wait_state("base", State::Running).restarts, 1);
    assert_eq!(node.pid("keeps"), kept);
    node.check();
}

/// `restart` gives a stopped unit its first life; `try-restart` leaves it alone, and that is no failure.
#[test]
fn try_restart_leaves_alone_what_does_not_run() {
    let node = Node::builder()
        .unit("up", &Unit::bad(&["run"]))
        .spare("down", &Unit::bad(&["run"]))
        .start();
    let before = node.pid("up");
    node.ctl(&["try-restart", "down"]).ended(0);
    let answer = node.ctl(&["try-restart", "up", "down", "--json"]).ended(0).json();
    assert_eq!(answer["units"].as_array().map(Vec::len), Some(2), "{answer:#}");
    assert_ne!(node.pid("up"), before);
    assert_eq!(
        (node.unit("down").state, node.unit("down").starts),
        (State::Stopped, 0)
    );
    node.ctl(&["restart", "down"]).ended(0);
    assert_eq!(node.unit("down").state, State::Running);
    node.ctl(&["try-restart", "nobody"]).ended(4);
    node.check();
}

/// `--no-block` does not wait; `--timeout` waits so long and ends with 124; in both cases the job goes on.
#[test]
fn who_does_not_wait_does_not_end_the_job() {
    let builder = Node::builder();
    let go = builder.path("go");
    let slow = || Unit::bad(&["run", "--ready-when", &go]);
    let node = builder.spare("a", &slow()).spare("b", &slow()).start();
    let taken = node.ctl(&["start", "a", "--no-block", "--json"]).ended(0).json();
    assert_eq!(taken["result"], "taken", "{taken:#}");
    let late = node.ctl(&["start", "b", "--timeout", "300ms"]).ended(124);
    assert!(late.stderr.contains("goes on"), "{late}");
    for unit in ["a", "b"] {
        assert_eq!(node.unit(unit).state, State::Starting, "{unit}");
    }
    let late = node
        .ctl(&["restart", "b", "--timeout", "300ms", "--json"])
        .ended(124);
    assert_eq!(late.json()["code"], 124, "{late}");
    std::fs::write(&go, "").expect("it is ours");
    for unit in ["a", "b"] {
        node.wait_state(unit, State::Running);
    }
    node.check();
}

/// `wait` ends when what is waited for is so, also when it was so before; it says when it never will be.
#[test]
fn wait_ends_when_it_is_so() {
    let builder = Node::builder();
    let (go, broken) = (builder.path("go"), builder.path("broken"));
    let node = builder
        .file("broken", "")
        .unit("up", &Unit::bad(&["run"]))
        .unit("gone", &Unit::bad(&["run", "--fail-if", &broken]).once())
        .spare("late", &Unit::bad(&["run", "--ready-when", &go]))
        .start();
    node.wait_state("gone", State::Failed);
    node.ctl(&["wait", "up"]).ended(0);
    node.ctl(&["wait", "late", "--for", "stopped"]).ended(0);
    node.ctl(&["wait", "gone", "--for", "failed"]).ended(0);
    let hopeless = node.ctl(&["wait", "up", "gone"]).ended(1);
    assert!(hopeless.stderr.contains("gone"), "{hopeless}");
    node.ctl(&["wait", "late"]).ended(1);
    node.ctl(&["wait", "up", "--for", "stopped", "--timeout", "200ms"])
        .ended(124);
    node.ctl(&["start", "late", "--no-block"]).ended(0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| node.ctl(&["wait", "up", "late"]));
        node.wait_unit("late", "launched", |unit| unit.pid.is_some());
        assert!(!waiter.is_finished(), "late is not ready yet");
        std::fs::write(&go, "").expect("it is ours");
        waiter.join().expect("it does not panic").ended(0);
    });
    node.check();
}

/// `kill` sends any signal to the main process or to all, and has nothing to do with what is wanted.
#[test]
fn kill_sends_signals() {
    let node = Node::builder()
        .unit("a", &Unit::bad(&["run"]).text("restart.delay", "1ms"))
        .unit("many", &Unit::bad(&["setsid-child"]).text("restart.delay", "20s"))
        .spare("down", &Unit::bad(&["run"]))
        .start();
    let again = next_life(&node, "a", || {
        node.ctl(&["kill", "a", "-s", "USR1", "--whom", "main"]).ended(0);
    });
    assert_eq!(again.last_exit.map(|last| last.exit), Some(Exit::Code(3)));
    node.ctl(&["kill", "a", "-s", "SIGUSR9"]).ended(2);
    node.ctl(&["kill", "down"]).ended(1);
    node.ctl(&["kill", "nobody"]).ended(4);
    let of_many = |node: &Node| {
        node.unit_processes()
            .into_iter()
            .filter(|p| p.unit() == Some("many"))
            .count()
    };
    until("its child is there", || (of_many(&node) == 2).then_some(()));
    node.ctl(&["kill", "many", "-s", "KILL"]).ended(0);
    node.wait_state("many", State::Backoff);
    assert_eq!(of_many(&node), 0);
    node.check();
}

/// A reload that fails or hangs leaves the unit as it was, and is told.
#[test]
fn a_failing_reload_harms_nobody() {
    let bad = harness::programs::rr_bad();
    let node = Node::builder()
        .unit("none", &Unit::bad(&["run"]))
        .unit(
            "fails",
            &Unit::bad(&["run"]).hooks("exec.reload", &[&[bad, "exit", "5"]]),
        )
        .unit(
            "hangs",
            &Unit::bad(&["run"])
                .hooks("exec.reload", &[&[bad, "setsid-child", "--ignore-term"]])
                .text("exec.hook_timeout", "500ms"),
        )
        .spare(
            "down",
            &Unit::bad(&["run"]).hooks("exec.reload", &[&[bad, "exit", "0"]]),
        )
        .start();
    for (unit, why) in [("none", "reload"), ("fails", "code 5"), ("hangs", "500ms")] {
        let pid = node.pid(unit);
        let answer = node.ctl(&["reload", unit]).ended(1);
        assert!(answer.text().contains(why), "{answer}");
        assert_eq!((node.pid(unit), node.unit(unit).state), (pid, State::Running));
    }
    node.ctl(&["reload", "down"]).ended(1);
    assert_eq!(node.unit_processes().len(), 3, "a hook left something");
    node.check();
}

/// `after` and `before` order those that start together, and neither pull in nor need success.
#[test]
fn order_alone_pulls_nothing_in() {
    let builder = Node::builder();
    let (file, go) = (builder.path("stamps"), builder.path("go"));
    let first = Unit::bad(&["run", "--ready-when", &go, "--on-start-append", &file])
        .list("before", &["second"])
        .text("stop.timeout", "2s");
    let mut node = builder
        .unit("first", &first)
        .unit("second", &stamped(&file))
        .unit("third", &stamped(&file).list("after", &["second", "absent"]))
        .unit("fourth", &stamped(&file).list("after", &["breaks"]))
        .unit("breaks", &Unit::bad(&["exit", "1"]).once())
        .spare("absent", &Unit::bad(&["run"]))
        .start_without_waiting();
    node.wait_state("fourth", State::Running);
    let second = node.wait_state("second", State::Waiting);
    assert!(second.blocked_by.iter().any(|b| b.unit == "first"), "{second:#?}");
    std::fs::write(&go, "").expect("it is ours");
    node.wait_ready();
    node.wait_state("third", State::Running);
    assert_eq!(node.unit("absent").starts, 0);
    let starts = units_with(&stamps(file.as_ref()), "start");
    let place = |unit: &str| starts.iter().position(|it| it == unit).expect("it started");
    assert!(
        place("first") < place("second") && place("second") < place("third"),
        "{starts:?}"
    );
    node.ctl(&["stop", "*"]).ended(0);
    let stops = units_with(&stamps(file.as_ref()), "stop");
    let place = |unit: &str| stops.iter().position(|it| it == unit).expect("it stopped");
    assert!(place("third") < place("second"), "{stops:?}");
    node.check();
}

/// A full stop goes in the reverse of the start, and in parallel where the graph allows: in a diamond, the two sides
/// stop together, after the top and before the bottom.
#[test]
fn a_full_stop_is_parallel_where_the_graph_allows() {
    let builder = Node::builder();
    let file = builder.path("stamps");
    let slow = || {
        Unit::bad(&[
            "run",
            "--stop-delay",
            "1",
            "--on-start-append",
            &file,
            "--on-stop-append",
            &file,
        ])
    };
    let node = builder
        .unit("bottom", &slow())
        .unit("left", &slow().requires(&["bottom"]))
        .unit("right", &slow().requires(&["bottom"]))
        .unit("top", &slow().requires(&["left", "right"]))
        .start();
    // Everything is named by the star: nothing beyond it would stop, so nothing is asked.
    node.ctl(&["stop", "*"]).ended(0);
    let stops = units_with(&stamps(file.as_ref()), "stop");
    assert_eq!(
        (stops[0].as_str(), stops[3].as_str()),
        ("top", "bottom"),
        "{stops:?}"
    );
    let events = node.history();
    let seq = |unit: &str, to: State| {
        let found = events.iter().rfind(|event| event.unit == unit && event.to == to);
        found.unwrap_or_else(|| panic!("{unit} was never {to:?}")).seq
    };
    for (one, other) in [("left", "right"), ("right", "left")] {
        assert!(
            seq(one, State::Stopping) < seq(other, State::Stopped),
            "{one} waited for {other}"
        );
    }
    node.check();
}

#[test]
fn stopping_what_others_require_asks_first() {
    let node = Node::builder()
        .unit("base", &Unit::bad(&["run"]))
        .unit("above", &Unit::bad(&["run"]).requires(&["base"]))
        .start();
    let answer = node.ctl(&["stop", "base"]).ended(7);
    assert!(
        answer.text().contains("above") && answer.text().contains("--yes"),
        "{answer}"
    );
    assert_eq!(node.unit("base").state, State::Running);
    node.ctl(&["stop", "base", "--yes"]).ended(0);
    assert_eq!(node.unit("above").pid, None);
    node.check();
}

#[test]
fn the_ladder_goes_rung_by_rung() {
    let unit = Unit::bad(&["ignore-term"])
        .list("stop.signals", &["TERM", "USR1"])
        .text("stop.timeout", "500ms");
    let node = Node::builder().unit("a", &unit).start();
    let answer = node.ctl(&["stop", "a", "--json"]).ended(0);
    assert!(
        answer.stdout.contains("\"killed\":false"),
        "USR1 ends it: {answer}"
    );
    assert_eq!(
        node.unit("a").last_exit.map(|last| last.exit),
        Some(Exit::Code(3))
    );
    node.check();
}

#[test]
fn a_stopped_process_still_ends_by_term() {
    let node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    processes::signal(node.pid("a"), libc::SIGSTOP);
    let answer = node.ctl(&["stop", "a", "--json"]).ended(0);
    assert!(answer.stdout.contains("\"killed\":false"), "{answer}");
    node.check();
}

both_ways! {
    /// Hooks run in their order around the main process, and their leftovers go with them.
    fn hooks_run_in_order(mode) {
        let builder = Node::builder().containment(mode);
        let file = builder.path("stamps");
        let hook = |word: &'static str| [harness::programs::rr_bad(), "stamp", file.as_str(), word];
        let unit = stamped(&file)
            .hooks("exec.start_pre", &[&hook("pre1"), &hook("pre2")])
            .hooks("exec.start_post", &[&hook("post")])
            .hooks("exec.stop_pre", &[&hook("stop_pre")])
            .hooks("exec.stop_post", &[&hook("stop_post")])
            .hooks("exec.reload", &[&hook("reloaded")]);
        let node = builder.unit("a", &unit).start();
        node.ctl(&["reload", "a"]).ended(0);
        node.ctl(&["stop", "a"]).ended(0);
        let words: Vec<String> = stamps(file.as_ref()).into_iter().map(|s| s.word).collect();
        assert_eq!(words, ["pre1", "pre2", "start", "post", "reloaded", "stop_pre", "stop", "stop_post"]);
        node.check();
    }

    /// A hook that takes too long or fails, fails the start, and the main process never runs.
    fn a_failing_hook_fails_the_start(mode) {
        let builder = Node::builder().containment(mode);
        let file = builder.path("stamps");
        let bad = harness::programs::rr_bad();
        let fails = stamped(&file).hooks("exec.start_pre", &[&[bad, "exit", "4"]]).once();
        let hangs = stamped(&file)
            .hooks("exec.start_pre", &[&[bad, "setsid-child", "--ignore-term"]])
            .text("exec.hook_timeout", "500ms")
            .once();
        let node = builder.spare("fails", &fails).spare("hangs", &hangs).start();
        for unit in ["fails", "hangs"] {
            let answer = node.ctl(&["start", unit]).ended(1);
            assert!(answer.text().contains("start_pre"), "{answer}");
        }
        assert!(stamps(file.as_ref()).is_empty(), "a main process ran");
        node.check();
    }
}

#[test]
fn wants_does_not_need_success() {
    let node = Node::builder()
        .unit("a", &Unit::bad(&["run"]).list("wants", &["broken"]))
        .spare("broken", &Unit::bad(&["exit", "1"]).once())
        .start();
    assert_eq!(node.unit("a").state, State::Running);
    let broken = node.wait_state("broken", State::Failed);
    assert_eq!(broken.added_by.as_deref(), Some("a"));
    node.check();
}

#[test]
fn conflicting_units_are_never_both_up() {
    let node = Node::builder()
        .unit("a", &Unit::bad(&["run"]))
        .spare("b", &Unit::bad(&["run"]).list("conflicts", &["a"]))
        .start();
    let answer = node.ctl(&["start", "b"]).ended(7);
    assert!(answer.text().contains('a'), "{answer}");
    assert_eq!((node.unit("a").state, node.unit("b").starts), (State::Running, 0));
    node.ctl(&["stop", "a"]).ended(0);
    node.ctl(&["start", "b"]).ended(0);
    node.ctl(&["start", "a"]).ended(7);
    node.check();
}

#[test]
fn no_more_units_start_at_once_than_allowed() {
    let mut builder = Node::builder().config("max_starting = 2");
    let go = builder.path("go");
    for n in 0..6 {
        builder = builder.unit(&format!("u{n}"), &Unit::bad(&["run", "--ready-when", &go]));
    }
    let mut node = builder.start_without_waiting();
    until("two start", || (node.unit_processes().len() == 2).then_some(()));
    wait_exactly(Duration::from_millis(300));
    assert_eq!(node.unit_processes().len(), 2);
    std::fs::write(&go, "").expect("it is ours");
    node.wait_ready();
    assert_eq!(node.unit_processes().len(), 6);
    let (mut starting, mut most) = (0, 0);
    for event in node.history() {
        starting += i32::from(event.to == State::Starting) - i32::from(event.from == State::Starting);
        most = most.max(starting);
    }
    assert!(most <= 2, "{most} were starting at once");
    node.check();
}

#[test]
fn an_essential_unit_takes_the_node_with_it() {
    let builder = Node::builder();
    let file = builder.path("stamps");
    let essential = Unit::bad(&["run", "--usr1-code", "42"])
        .set("essential", "true")
        .once();
    let mut node = builder
        .unit("main", &essential)
        .unit("other", &stamped(&file))
        .start();
    processes::signal(node.pid("main"), libc::SIGUSR1);
    assert_eq!(node.wait_end().code(), Some(42), "{}", node.stderr());
    assert_eq!(units_with(&stamps(file.as_ref()), "stop"), ["other"]);
    node.assert_gone();
}

#[test]
fn daemon_reload_takes_all_or_nothing() {
    let node = Node::builder()
        .unit("stays", &Unit::bad(&["run"]))
        .unit("changes", &Unit::bad(&["run"]))
        .unit("goes", &Unit::bad(&["run"]))
        .start();
    let (stays, changes) = (node.pid("stays"), node.pid("changes"));
    let write = |name: &str, text: &str| std::fs::write(node.path(name), text).expect("it is ours");

    write("units/stays.toml", "[exec\n");
    write("units/extra.toml", &Unit::bad(&["run"]).to_toml());
    let refused = node.ctl(&["daemon-reload"]).ended(8);
    assert!(refused.text().contains("stays.toml:1"), "{refused}");
    node.ctl(&["is-active", "goes"]).ended(0);
    node.ctl(&["is-active", "extra"]).ended(4);

    write("units/stays.toml", &Unit::bad(&["run"]).to_toml());
    write(
        "units/changes.toml",
        &Unit::bad(&["run", "--code", "0"]).to_toml(),
    );
    write(
        "profiles/test.toml",
        "description = \"x\"\nunits = [\"stays\", \"changes\", \"extra\"]\n",
    );
    std::fs::remove_file(node.path("units/goes.toml")).expect("it is there");
    let done = node.ctl(&["daemon-reload"]).ended(0);
    for unit in ["extra", "goes", "changes"] {
        assert!(done.stdout.contains(unit), "{done}");
    }
    node.wait_state("extra", State::Running);
    until("the removed unit is gone", || {
        node.unit_processes()
            .iter()
            .all(|p| p.unit() != Some("goes"))
            .then_some(())
    });
    assert_eq!((node.pid("stays"), node.pid("changes")), (stays, changes));
    assert!(node.unit("changes").needs_restart && !node.unit("stays").needs_restart);
    node.ctl(&["restart", "changes"]).ended(0);
    assert!(!node.unit("changes").needs_restart);
    let again = node.ctl(&["daemon-reload", "--json"]).ended(0).json();
    for key in ["added", "removed", "needs_restart"] {
        assert_eq!(
            again[key].as_array().map(Vec::len),
            Some(0),
            "the same files change nothing: {again:#}"
        );
    }
    node.check();
}

/// `daemon-reload` says in its JSON exactly what was added, removed and changed; it undoes no operator's stop, and a
/// unit that is removed while others of the profile still run stops alone.
#[test]
fn daemon_reload_says_what_changed_and_undoes_no_stop() {
    let node = Node::builder()
        .unit("stopped", &Unit::bad(&["run"]))
        .unit("changes", &Unit::bad(&["run"]))
        .unit("goes", &Unit::bad(&["run"]))
        .start();
    node.ctl(&["stop", "stopped"]).ended(0);
    let write = |name: &str, text: &str| std::fs::write(node.path(name), text).expect("it is ours");
    let changed = Unit::bad(&["run", "--code", "0"]).to_toml();
    write("units/changes.toml", &changed);
    write("units/stopped.toml", &changed);
    write("units/comes.toml", &Unit::bad(&["run"]).to_toml());
    write(
        "profiles/test.toml",
        "description = \"x\"\nunits = [\"stopped\", \"changes\", \"comes\"]\n",
    );
    let did = node.ctl(&["daemon-reload", "--json"]).ended(0).json();
    assert_eq!(did["schema"], "ringrift.v1.daemon-reload");
    for (key, units) in [
        ("added", ["comes"]),
        ("removed", ["goes"]),
        ("needs_restart", ["changes"]),
    ] {
        assert_eq!(did[key], serde_json::json!(units), "{did:#}");
    }
    node.wait_state("comes", State::Running);
    node.wait_state("goes", State::Stopped);
    assert_eq!(node.unit("stopped").state, State::Stopped);
    node.ctl(&["start", "stopped"]).ended(0);
    assert!(
        !node.unit("stopped").needs_restart,
        "its life began with the new file"
    );
    node.check();
}

#[test]
fn shutdown_ends_in_reverse_order_and_leaves_nothing() {
    let builder = Node::builder();
    let file = builder.path("stamps");
    let mut node = builder
        .unit("a", &stamped(&file))
        .unit("b", &stamped(&file).requires(&["a"]))
        .unit("c", &stamped(&file).requires(&["b"]))
        .start();
    node.note_groups();
    node.ctl(&["shutdown"]).ended(0);
    assert_eq!(node.wait_end().code(), Some(0), "{}", node.stderr());
    assert_eq!(units_with(&stamps(file.as_ref()), "stop"), ["c", "b", "a"]);
    node.assert_gone();
    node.ctl(&["status"]).ended(69);
}

both_ways! {
    /// The whole shutdown has a bound, whatever the units do: one ignores every signal of its ladder, one hangs in its
    /// stop hook, one in its start hook, one has an escaped child, and one waits for all of them.
    fn the_whole_shutdown_has_a_bound(mode) {
        let bad = harness::programs::rr_bad();
        let hang: &[&str] = &[bad, "setsid-child", "--ignore-term"];
        let deaf = Unit::bad(&["ignore-term"])
            .list("stop.signals", &["TERM", "INT", "HUP"])
            .text("stop.timeout", "60s");
        let in_stop_hook = Unit::bad(&["run"])
            .hooks("exec.stop_pre", &[hang])
            .hooks("exec.stop_post", &[hang])
            .text("exec.hook_timeout", "60s");
        let in_start_hook = Unit::bad(&["run"])
            .hooks("exec.start_pre", &[hang])
            .text("exec.hook_timeout", "60s");
        let mut node = Node::builder()
            .containment(mode)
            .config("shutdown_timeout = \"1s\"")
            .unit("base", &Unit::bad(&["run"]))
            .unit("deaf", &deaf.requires(&["base"]))
            .unit("stop_hook", &in_stop_hook.requires(&["base"]))
            .unit("start_hook", &in_start_hook.requires(&["base"]))
            .unit("escaped", &Unit::bad(&["setsid-child"]).text("stop.timeout", "60s"))
            .start_without_waiting();
        for unit in ["deaf", "stop_hook", "escaped"] {
            node.wait_state(unit, State::Running);
        }
        until("the start hook hangs", || {
            let of_hook = |p: &&processes::Process| p.unit() == Some("start_hook");
            (node.unit_processes().iter().filter(of_hook).count() == 2).then_some(())
        });
        node.note_groups();
        let begun = std::time::Instant::now();
        processes::signal(node.keeper(), libc::SIGTERM);
        node.wait_end();
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "it took {:?}\n{}",
            begun.elapsed(),
            node.stderr()
        );
        node.assert_gone();
    }
}

/// A oneshot that has completed runs once more when it is restarted, and whoever asked is told how that went.
#[test]
fn a_oneshot_that_has_completed_runs_again_at_a_restart() {
    let builder = Node::builder();
    let folder = builder.path("");
    let unit = Unit::command(&["/bin/sh", "-c", "test ! -e \"$1/fails\"", "sh", &folder])
        .kind("oneshot")
        .text("restart.policy", "never");
    let node = builder.unit("once", &unit).start();
    let first = node.wait_state("once", State::Completed);
    node.ctl(&["restart", "once"]).ended(0);
    let second = node.unit("once");
    assert_eq!((second.state, second.starts), (State::Completed, 2));
    assert_ne!(second.invocation, first.invocation);
    std::fs::write(node.path("fails"), "").expect("it is ours");
    node.ctl(&["restart", "once"]).ended(1);
    assert_eq!(node.unit("once").state, State::Failed);
    node.check();
}
