//! What units say of themselves (sd_notify(3)), end to end: each word does what systemd's manual says, over the deaths of those
//! who hear it, and what is said by the wrong ones, or makes no sense, changes nothing (faults A23 to A25).

use std::time::{Duration, Instant};

use harness::{Node, NodeBuilder, Unit, both_ways, need, processes, programs, say};
use proto::reply::{Exit, State};

/// A node whose units listen in its folder `say`.
fn builder() -> (NodeBuilder, String) {
    let builder = Node::builder().file("say/here", "");
    let folder = builder.path("say");
    (builder, folder)
}

fn pid_of(answer: &str) -> u32 {
    answer.parse().expect("a pid")
}

/// Waits until it is so.
#[track_caller]
fn until(what: &str, fact: impl Fn() -> bool) {
    harness::until(what, || fact().then_some(()))
}

/// CLOCK_MONOTONIC, in µs.
fn now_us() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}

both_ways! {
    /// MAINPID: a process of the unit becomes the main one, is believed as such, and its end is the unit's; over the death of
    /// the manager too. A stranger's pid changes nothing.
    fn another_process_of_the_unit_becomes_the_main_one(mode) {
        let (builder, folder) = builder();
        let mut node = builder.containment(mode).unit("a", &say::unit(&folder).once()).start();
        let first = node.pid("a");
        say::tell(&node, "a", &format!("say MAINPID={}\nSTATUS=a stranger", std::process::id()));
        say::tell(&node, "a", "barrier");
        node.wait_unit("a", "told", |unit| unit.status_text.as_deref() == Some("a stranger"));
        assert_eq!(node.pid("a"), first, "a process outside the unit is nobody's main process");
        let kid = pid_of(&say::tell(&node, "a", "fork kid"));
        say::tell(&node, "kid", "say STATUS=not yet the main one");
        say::tell(&node, "a", &format!("say MAINPID={kid}"));
        node.wait_unit("a", "handed over", |unit| unit.pid == Some(kid));
        say::tell(&node, "kid", "say STATUS=the main one");
        node.wait_unit("a", "told", |unit| unit.status_text.as_deref() == Some("the main one"));
        // The first one is a process of the unit like any other now.
        say::order(&node, "a", "exit 7");
        until("the first process has gone", || processes::Process::read(first).is_none_or(|p| !p.is_alive()));
        node.crash_manager();
        let unit = node.unit("a");
        assert_eq!((unit.state, unit.pid), (State::Running, Some(kid)));
        say::tell(&node, "kid", "say STATUS=still");
        node.wait_unit("a", "told", |unit| unit.status_text.as_deref() == Some("still"));
        say::order(&node, "kid", "exit 5");
        let unit = node.wait_unit("a", "down", |unit| unit.pid.is_none() && unit.state == State::Failed);
        assert_eq!(unit.last_exit.map(|last| last.exit), Some(Exit::Code(5)));
        node.check();
    }

    /// Two are named one after the other, before anybody can have answered: the last is the main one, and is believed as such.
    fn who_is_named_last_is_the_main_process(mode) {
        let (builder, folder) = builder();
        let node = builder.containment(mode).unit("a", &say::unit(&folder).once()).start();
        let first = pid_of(&say::tell(&node, "a", "fork first"));
        let last = pid_of(&say::tell(&node, "a", "fork last"));
        say::tell(&node, "a", &format!("say MAINPID={first}\nMAINPID={last}"));
        node.wait_unit("a", "handed over", |unit| unit.pid == Some(last));
        say::tell(&node, "last", "say STATUS=the main one");
        node.wait_unit("a", "told", |unit| unit.status_text.as_deref() == Some("the main one"));
        say::order(&node, "last", "exit 5");
        let unit = node.wait_state("a", State::Failed);
        assert_eq!(unit.last_exit.map(|last| last.exit), Some(Exit::Code(5)));
        node.check();
    }

    /// Who hands over ends at once: what it said before is heard before its end counts.
    fn a_process_that_hands_over_and_ends_at_once_ends_no_unit(mode) {
        let (builder, folder) = builder();
        let node = builder.containment(mode).unit("a", &say::unit(&folder).once()).start();
        for n in 0..20 {
            let (now, next) = if n == 0 { ("a".to_owned(), "k0".to_owned()) } else { (format!("k{}", n - 1), format!("k{n}")) };
            let kid = pid_of(&say::tell(&node, &now, &format!("fork {next}")));
            say::order(&node, &now, &format!("say MAINPID={kid}"));
            say::order(&node, &now, "exit 0");
            let unit = node.wait_unit("a", "handed over", |unit| unit.pid == Some(kid) || unit.state != State::Running);
            assert_eq!((unit.state, unit.pid), (State::Running, Some(kid)), "round {n}: {unit:#?}");
        }
        assert_eq!(node.unit("a").starts, 1);
        node.check();
    }

    /// FDSTORE: descriptors come back under their names at the next start, over the deaths of unit, manager and keeper and
    /// over an upgrade, as many as the unit may have; until it removes them, their other end hangs up, or it is stopped.
    fn stored_descriptors_come_back_until_the_unit_is_stopped(mode) {
        let (builder, folder) = builder();
        let unit = say::unit(&folder).set("exec.fd_store_max", "3");
        let mut node = builder.containment(mode).bare().unit("a", &unit).start_without_waiting();
        node.wait_state("a", State::Running);
        assert_eq!(say::tell(&node, "a", "given"), "false 0");
        let stored = |node: &Node, many: u32| {
            node.wait_unit("a", &format!("with {many} stored"), |unit| unit.fds_stored == many);
        };
        say::tell(&node, "a", "store one eins");
        say::tell(&node, "a", "store two zwei");
        // A file of a file system is none that can be kept.
        say::tell(&node, "a", "store-file bad /etc/passwd");
        say::tell(&node, "a", "store-pipe pipe");
        stored(&node, 3);
        say::tell(&node, "a", "store more mehr");
        say::tell(&node, "a", "barrier");
        until("the fourth is refused", || node.stderr().contains("more were not stored"));
        assert!(node.stderr().contains("are of kinds that are not"), "{}", node.stderr());
        say::tell(&node, "a", "close-pipe");
        stored(&node, 2);
        let next_life = |node: &Node| {
            let before = node.unit("a").starts;
            say::order(node, "a", "exit 1");
            node.wait_unit("a", "started again", |unit| unit.starts > before && unit.state == State::Running);
            say::tell(node, "a", "given")
        };
        assert_eq!(next_life(&node), "true 2 one=eins two=zwei");
        node.crash_manager();
        stored(&node, 2);
        assert_eq!(next_life(&node), "true 2 one=eins two=zwei");
        node.ctl(&["upgrade"]).ended(0);
        node.note_roles();
        assert_eq!(next_life(&node), "true 2 one=eins two=zwei");
        node.crash_keeper();
        stored(&node, 2);
        assert_eq!(next_life(&node), "true 2 one=eins two=zwei");
        node.ctl(&["restart", "a"]).ended(0);
        assert_eq!(say::tell(&node, "a", "given"), "true 2 one=eins two=zwei");
        say::tell(&node, "a", "say FDSTOREREMOVE=1\nFDNAME=one");
        stored(&node, 1);
        assert_eq!(next_life(&node), "true 1 two=zwei");
        assert_eq!(node.ctl(&["status", "a", "--json"]).json()["units"][0]["fds_stored"], 1);
        node.ctl(&["stop", "a"]).ended(0);
        stored(&node, 0);
        node.ctl(&["start", "a"]).ended(0);
        assert_eq!(say::tell(&node, "a", "given"), "false 0");
        node.check();
    }
}

#[test]
fn a_unit_that_says_so_is_reloading_until_it_is_ready_again_or_its_time_is_up() {
    let (builder, folder) = builder();
    let patient = say::unit(&folder);
    let hasty = say::unit(&folder).text("ready.timeout", "3s");
    let mut node = builder.unit("patient", &patient).unit("hasty", &hasty).start();
    // A time from before its life is none of this reload's.
    say::tell(&node, "patient", "say RELOADING=1\nMONOTONIC_USEC=1");
    say::tell(&node, "patient", "barrier");
    assert_eq!(node.unit("patient").state, State::Running);
    say::tell(
        &node,
        "patient",
        &format!("say RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading", now_us()),
    );
    node.wait_state("patient", State::Reloading);
    node.crash_manager();
    assert_eq!(node.unit("patient").state, State::Reloading);
    say::tell(&node, "patient", "say READY=1\nSTATUS=");
    node.wait_state("patient", State::Running);
    let mut events = node.events();
    say::tell(&node, "hasty", "say RELOADING=1");
    let back = events.wait("the end of the reload", |event| {
        event.unit == "hasty" && event.from == State::Reloading
    });
    assert!(back.cause.text.contains("ready again"), "{back:?}");
    assert_eq!((back.to, node.unit("hasty").starts), (State::Running, 1));
    node.check();
}

#[test]
fn a_unit_that_says_so_is_stopping_and_its_end_is_its_own() {
    let (builder, folder) = builder();
    let unit = say::unit(&folder).text("stop.timeout", "30s");
    let stuck = say::unit(&folder).text("stop.timeout", "1s");
    let node = builder.unit("a", &unit).unit("stuck", &stuck).start();
    say::tell(&node, "a", "say STOPPING=1\nSTATUS=saving");
    let unit = node.wait_state("a", State::Stopping);
    assert!(unit.pid.is_some(), "nobody has sent it a signal");
    // A24: too late, and told once however often it is said.
    for _ in 0..50 {
        say::tell(&node, "a", "say READY=1");
    }
    say::tell(&node, "a", "barrier");
    assert_eq!(node.unit("a").state, State::Stopping);
    let late = |node: &Node| {
        node.history()
            .iter()
            .filter(|event| event.cause.text.contains("too late"))
            .count()
    };
    assert_eq!(late(&node), 1);
    say::order(&node, "a", "exit 0");
    node.wait_unit("a", "started again", |unit| {
        unit.starts == 2 && unit.state == State::Running
    });
    // One that only says so gets its ladder when its time is up.
    say::tell(&node, "stuck", "say STOPPING=1");
    let unit = node.wait_unit("stuck", "started again", |unit| {
        unit.starts == 2 && unit.state == State::Running
    });
    let exit = unit.last_exit.map(|last| last.exit);
    assert!(
        matches!(
            exit,
            Some(Exit::Signal {
                signal: libc::SIGTERM,
                ..
            })
        ),
        "{exit:?}"
    );
    node.check();
}

#[test]
fn numbers_words_and_errors_are_shown_as_they_were_said_last() {
    let (builder, folder) = builder();
    let mut node = builder.unit("a", &say::unit(&folder)).start();
    say::tell(
        &node,
        "a",
        "say X_RINGRIFT_METRICS={\"games.played\": 12, \"loss\": 0.5}\nX_RINGRIFT_HEALTH=degraded",
    );
    say::tell(&node, "a", "say STATUS=cannot sync\nERRNO=28");
    // No number at all: what was said before stays.
    say::tell(&node, "a", "say X_RINGRIFT_METRICS={\"games.played\": \"many\"}");
    say::tell(&node, "a", "barrier");
    node.crash_manager();
    let json = node.ctl(&["status", "a", "--json"]).json();
    let unit = &json["units"][0];
    assert_eq!(
        unit["metrics"],
        serde_json::json!({"games.played": 12.0, "loss": 0.5}),
        "{unit:#}"
    );
    assert_eq!(
        unit["status_text"],
        "cannot sync (error 28: No space left on device)"
    );
    assert_eq!(unit["health"], "degraded");
    node.check();
}

/// A23: one that has ended is known by where the kernel says it was.
#[test]
fn a_process_of_the_unit_that_has_ended_is_believed_where_the_kernel_tells_whose_it_was() {
    need!(processes::cgroups_are_writable(), "no writable cgroup v2 here");
    need!(
        kernel() >= (6, 16),
        "this kernel gives no pidfd of a process that has ended"
    );
    let (builder, folder) = builder();
    let all = Unit::command(&[programs::rr_say(), &folder, "--quiet"])
        .kind("notify")
        .text("exec.notify_access", "all");
    let node = builder
        .containment(harness::Containment::Cgroup)
        .unit("a", &all)
        .start_without_waiting();
    node.wait_unit("a", "listening", |_| node.path("say/a").exists());
    say::tell(&node, "a", "dies-saying READY=1\nSTATUS=last words");
    let unit = node.wait_state("a", State::Running);
    assert_eq!(unit.status_text.as_deref(), Some("last words"));
    node.check();
}

/// NOTIFYACCESS: a unit may let its others speak, and take that back.
#[test]
fn a_unit_says_itself_who_of_it_may_speak() {
    let (builder, folder) = builder();
    let mut node = builder.unit("a", &say::unit(&folder)).start();
    say::tell(&node, "a", "fork kid");
    say::tell(&node, "kid", "say STATUS=may not");
    say::tell(&node, "a", "say STATUS=own\nNOTIFYACCESS=all");
    say::tell(&node, "a", "barrier");
    assert_eq!(node.unit("a").status_text.as_deref(), Some("own"));
    node.crash_manager();
    say::tell(&node, "kid", "say STATUS=may");
    node.wait_unit("a", "told", |unit| unit.status_text.as_deref() == Some("may"));
    say::tell(&node, "a", "say NOTIFYACCESS=main");
    say::tell(&node, "kid", "say STATUS=may not");
    say::tell(&node, "a", "say ERRNO=0");
    say::tell(&node, "a", "barrier");
    assert_eq!(node.unit("a").status_text.as_deref(), Some("may"));
    node.check();
}

fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

both_ways! {
    /// A24, A25: rubbish with descriptors and floods change nothing: no descriptor stays, the socket is heard afterwards, and
    /// another unit's READY is heard meanwhile.
    fn rubbish_and_floods_leak_nothing_and_delay_nobody(mode) {
        let (builder, folder) = builder();
        let hostile = say::unit(&folder).text("exec.notify_access", "all").set("exec.fd_store_max", "8");
        let node = builder
            .containment(mode)
            .unit("hostile", &hostile)
            .unit("plain", &say::unit(&folder))
            .start();
        let count = || (processes::descriptors(node.manager()), processes::descriptors(node.keeper()));
        say::tell(&node, "hostile", "barrier");
        let (manager, keeper) = count();
        for seed in 0..8 {
            for unit in ["hostile", "plain"] {
                say::tell(&node, unit, &format!("random {seed} 60"));
                say::tell(&node, unit, "barrier");
            }
        }
        say::tell(&node, "hostile", "say-fds 253 FDSTORE=1\nFDNAME=null");
        std::thread::scope(|scope| {
            // As fast as it can. The manager lets it wait (6 000 a second are taken at most): ten times as many would take
            // most of what a test may wait.
            let flood = scope.spawn(|| say::tell(&node, "hostile", "flood 20000"));
            let mut rounds = 0;
            let begun = Instant::now();
            while !flood.is_finished() || rounds < 3 {
                node.ctl(&["restart", "plain"]).ended(0);
                rounds += 1;
            }
            let each = begun.elapsed() / rounds;
            assert!(each < Duration::from_secs(30), "a restart took {each:?} in the flood");
        });
        say::tell(&node, "hostile", "barrier");
        say::tell(&node, "hostile", "say STATUS=still heard\nREADY=1");
        node.wait_unit("hostile", "heard", |unit| unit.status_text.as_deref() == Some("still heard"));
        let unit = node.unit("hostile");
        assert_eq!((unit.state, unit.starts, unit.fds_stored), (State::Running, 1, 0), "{unit:#?}");
        // Clients' connections come and go, before and after: it is no more again when nobody asks.
        until(&format!("{manager} and {keeper} descriptors again"), || {
            let now = count();
            now.0 <= manager && now.1 <= keeper
        });
        node.check();
    }
}

/// Debian's own systemd-notify, as shell scripts use it: the main process is the shell, then what it becomes.
#[test]
fn the_real_systemd_notify_is_understood() {
    let help = std::process::Command::new("systemd-notify")
        .arg("--help")
        .output();
    need!(
        help.is_ok(),
        "systemd-notify (Debian package systemd) is not there"
    );
    let help = String::from_utf8_lossy(&help.expect("it was run").stdout).into_owned();
    let (builder, folder) = builder();
    let said = builder.path("said");
    // Each call waits for its barrier (sd_notify_barrier(3)), so that "said" is there only when all was heard.
    let mut script = "systemd-notify --status='warming up' && systemd-notify --pid=$$ --ready".to_owned();
    if help.contains("--fd=") {
        script.push_str(" && echo kept > \"$2\".fd && systemd-notify --fd=5 --fdname=state 5< \"$2\".fd");
    }
    script.push_str(" && echo done > \"$2\" && exec \"$1\" \"$3\" --quiet");
    let unit = Unit::command(&["/bin/sh", "-c", &script, "sh", programs::rr_say(), &said, &folder])
        .kind("notify")
        .text("exec.notify_access", "all")
        .set("exec.fd_store_max", "1");
    let plain = Unit::command(&[
        "/bin/sh",
        "-c",
        "systemd-notify --ready && exec \"$1\" \"$2\" --quiet",
        "sh",
        programs::rr_say(),
        &folder,
    ])
    .kind("notify");
    // The shell runs systemd-notify as a child and waits for it: with notify_access = "main" it is believed because, run by
    // root, it speaks in its parent's name.
    let mut builder = builder.unit("all", &unit);
    if nix::unistd::geteuid().is_root() {
        builder = builder.unit("main", &plain);
    }
    let node = builder.start();
    let unit = node.unit("all");
    assert_eq!(unit.state, State::Running, "{unit:#?}\n{}", node.stderr());
    assert_eq!(unit.status_text.as_deref(), Some("warming up"));
    until("the barriers are through", || node.read("said") == "done\n");
    assert_eq!(node.unit("all").pid, unit.pid);
    if nix::unistd::geteuid().is_root() {
        assert_eq!(node.unit("main").state, State::Running, "{}", node.stderr());
    }
    node.check();
}
