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

#[test]
fn the_back_off_is_capped() {
    let builder = Node::builder();
    let file = builder.path("stamps");
    let unit = Unit::bad(&["exit", "1", "--on-start-append", &file])
        .text("restart.delay", "50ms")
        .set("restart.factor", "10.0")
        .text("restart.max_delay", "200ms")
        .set("restart.max_restarts", "5")
        .text("restart.exhausted", "give_up");
    let node = builder.unit("a", &unit).start();
    node.wait_state("a", State::Failed);
    let starts = stamps(file.as_ref());
    assert_eq!(starts.len(), 6);
    for (n, pair) in starts.windows(2).enumerate() {
        let (gap, least) = (
            pair[1].ns - pair[0].ns,
            if n == 0 { 50_000_000 } else { 200_000_000 },
        );
        assert!(
            gap >= least && gap < 15_000_000_000,
            "restart {n} came after {gap} ns"
        );
    }
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
    let again = node.ctl(&["daemon-reload", "--json"]).ended(0);
    assert!(
        !again.stdout.contains("extra"),
        "the same files change nothing: {again}"
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

#[test]
fn the_whole_shutdown_has_a_bound() {
    let unit = Unit::bad(&["ignore-term"]).text("stop.timeout", "60s");
    let mut node = Node::builder()
        .config("shutdown_timeout = \"1s\"")
        .unit("a", &unit)
        .start();
    let begun = std::time::Instant::now();
    processes::signal(node.keeper(), libc::SIGTERM);
    node.wait_end();
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "it took {:?}",
        begun.elapsed()
    );
    node.assert_gone();
}
