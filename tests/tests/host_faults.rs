//! Faults of the host: no descriptors, no processes, clocks that jump, numbers that are used again, cgroups that are not
//! there, folders that vanish, disks that are slow. Running units are not touched by any of them, and all of them heal.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::contained::{Container, Who};
use harness::pace::Pace;
use harness::processes::{self, Held};
use harness::strace::Strace;
use harness::{Node, NodeBuilder, PATIENCE, Unit, need, stamps, until};
use proto::reply::State;

/// Sets how many descriptors a running process may have.
fn allow_descriptors(pid: i32, soft: u64) {
    // SAFETY: prlimit(2) reads one struct and writes one, both of which live.
    let set = unsafe {
        let mut limit = std::mem::zeroed::<libc::rlimit>();
        let read = libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut limit);
        limit.rlim_cur = soft.min(limit.rlim_max);
        read == 0 && libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) == 0
    };
    assert!(set, "cannot limit {pid}: {}", std::io::Error::last_os_error());
}

/// The lowest limit at which a process gets no further descriptor: one past the highest that it has, unless there is a
/// hole below.
fn exhaust_descriptors(pid: i32) {
    let used: std::collections::BTreeSet<u64> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("it runs")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let free = (0..)
        .find(|number| !used.contains(number))
        .expect("numbers do not end");
    allow_descriptors(pid, free);
}

/// A unit that writes each line that is put into the fifo `name` of the node's folder to its output.
fn echo(builder: &NodeBuilder, name: &str) -> Unit {
    let fifo = builder.path(name);
    nix::unistd::mkfifo(Path::new(&fifo), nix::sys::stat::Mode::S_IRWXU).expect("it is ours");
    let script = "exec 3<>\"$0\"; while read -r line <&3; do echo \"$line\"; done";
    Unit::command(&["/bin/sh", "-c", script, &fifo])
}

/// Puts a line into a fifo of the node's folder, for [`echo`].
fn put(node: &Node, name: &str, line: &str) {
    let mut fifo = std::fs::File::options()
        .write(true)
        .open(node.path(name))
        .expect("it is ours");
    fifo.write_all(format!("{line}\n").as_bytes())
        .expect("somebody reads");
}

#[track_caller]
fn wait_log(node: &Node, unit: &str, word: &str) {
    until("the line is stored", || {
        node.read(&format!("log/{unit}.log")).contains(word).then_some(())
    });
}

/// C5: a keeper without descriptors starts nothing new, says why, charges no unit for it, and goes on when there are some.
#[test]
fn a_keeper_without_descriptors_touches_no_unit_and_heals() {
    let late = Unit::bad(&["run"]).set("restart.max_restarts", "1");
    let node = Node::builder()
        .unit("a", &Unit::bad(&["run"]))
        .spare("late", &late)
        .start();
    let pid = node.pid("a");
    exhaust_descriptors(node.keeper());
    let answer = node.ctl(&["start", "late"]).ended(1);
    assert!(answer.text().contains("EMFILE"), "{answer}");
    // More host faults than the unit may have restarts of its own.
    let twice = node.wait_unit("late", "tried again in vain", |unit| {
        unit.starts == 0 && unit.next_try_us.is_some()
    });
    assert_eq!((twice.state, twice.restarts), (State::Backoff, 0), "{twice:#?}");
    assert_eq!(node.pid("a"), pid);
    allow_descriptors(node.keeper(), u64::MAX);
    let healed = node.wait_state("late", State::Running);
    assert_eq!(healed.restarts, 0, "it was the host's fault");
    assert_eq!(node.unit("a").starts, 1);
    node.check();
}

/// C5: a manager without descriptors does not spin on a client that it cannot take, and takes it when it can.
#[test]
fn a_manager_without_descriptors_waits_and_takes_its_clients_later() {
    let node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let manager = node.manager();
    exhaust_descriptors(manager);
    let window = Duration::from_secs(1);
    let woken = std::thread::scope(|scope| {
        let client = scope.spawn(|| node.ctl(&["status"]).ended(0));
        until("somebody waits to be taken", || {
            let said = node.wake_ups(Duration::from_millis(300));
            (said["manager"] > 0).then_some(())
        });
        let woken = node.wake_ups(window)["manager"];
        allow_descriptors(manager, u64::MAX);
        client.join().expect("it is answered in the end");
        woken
    });
    assert!(woken < 100, "{woken} wake-ups in {window:?}: it spins");
    assert_eq!(node.unit("a").starts, 1);
    node.check();
}

/// C5: a logger that may open no file keeps the lines until it may.
#[test]
fn a_logger_that_may_open_no_file_keeps_the_lines() {
    need!(
        harness::is_root() && harness::has_program("strace"),
        "needs root and strace"
    );
    let builder = Node::builder();
    let unit = echo(&builder, "fifo");
    let node = builder.unit("a", &unit).start();
    let strace = Strace::attach(node.logger(), "openat:error=ENFILE");
    put(&node, "fifo", "while nothing can be opened");
    until("the logger has said so", || {
        node.stderr()
            .contains("ENFILE")
            .then_some(())
            .or_else(|| node.stderr().contains("oo many open files").then_some(()))
    });
    drop(strace);
    put(&node, "fifo", "afterwards");
    wait_log(&node, "a", "afterwards");
    assert!(node.read("log/a.log").contains("while nothing can be opened"));
    node.check();
}

/// C6: no process can be had: the start fails for the host's reason with a back-off of its own, and nothing is charged.
#[test]
fn a_host_without_processes_costs_a_unit_nothing() {
    need!(
        harness::is_root() && harness::has_program("strace"),
        "needs root and strace"
    );
    let late = Unit::bad(&["run"]).set("restart.max_restarts", "1");
    let node = Node::builder()
        .unit("a", &Unit::bad(&["run"]))
        .spare("late", &late)
        .start();
    let strace = Strace::attach(node.keeper(), "clone,clone3,fork,vfork:error=EAGAIN:when=1..3");
    let answer = node.ctl(&["start", "late"]).ended(1);
    assert!(answer.text().contains("EAGAIN"), "{answer}");
    let healed = node.wait_state("late", State::Running);
    drop(strace);
    assert_eq!(healed.restarts, 0, "it was the host's fault: {healed:#?}");
    let failed = node
        .history()
        .into_iter()
        .filter(|event| event.unit == "late" && event.to == State::Backoff);
    assert_eq!(failed.count(), 3, "each of them is told");
    assert_eq!(node.unit("a").starts, 1);
    node.check();
}

/// Where libfaketime is, which lets the wall clock of a running program jump.
fn faketime() -> Option<PathBuf> {
    let folders = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
    ];
    let files = folders.map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1"));
    files.into_iter().find(|file| file.exists())
}

/// C8: a wall clock that jumps a year forth or back moves no back-off, and no log's times go back within a file.
#[test]
fn a_wall_clock_that_jumps_moves_no_deadline() {
    let library = faketime();
    need!(library.is_some(), "needs libfaketime");
    let library = library.unwrap_or_default();
    let mut builder = Node::builder();
    let clock = builder.path("clock");
    let starts = builder.path("starts");
    std::fs::write(&clock, "+0").expect("it is ours");
    let (text, shown) = (echo(&builder, "fifo"), "2s");
    let crashing = Unit::bad(&["crash-loop", "--on-start-append", &starts])
        .kind("simple")
        .text("restart.policy", "always")
        .text("restart.delay", shown)
        .text("restart.max_delay", "4s")
        .set("restart.max_restarts", "100");
    for (name, value) in [
        ("LD_PRELOAD", library.to_str().expect("a path of text")),
        ("FAKETIME_TIMESTAMP_FILE", &clock),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ] {
        builder = builder.env(name, value);
    }
    let node = builder.unit("text", &text).spare("crash", &crashing).start();
    let year = 366 * 86_400;
    let before = node.history().last().expect("it was started").at_us;
    node.ctl(&["start", "crash", "--no-block"]);
    let mut jumps = 0;
    for offset in ["+0", "+366d", "-366d"] {
        put(&node, "fifo", &format!("at {offset}"));
        wait_log(&node, "text", &format!("at {offset}"));
        let so_far = stamps(Path::new(&starts)).len();
        node.wait_state("crash", State::Backoff);
        std::fs::write(&clock, offset).expect("it is ours");
        jumps += 1;
        until("it was started twice more", || {
            (stamps(Path::new(&starts)).len() >= so_far + 2).then_some(())
        });
    }
    assert_eq!(jumps, 3);
    put(&node, "fifo", "at the end");
    wait_log(&node, "text", "at the end");
    // The clock has really jumped for the daemon.
    let times: Vec<u64> = node.history().iter().map(|event| event.at_us).collect();
    let (least, most) = (times.iter().min().copied(), times.iter().max().copied());
    assert!(most > Some(before + year * 900_000), "{most:?} {before}");
    assert!(least < Some(before - year * 900_000), "{least:?} {before}");
    // Each start came two seconds after the end of the one before, whatever the clock said.
    for pair in stamps(Path::new(&starts)).windows(2) {
        let pause = Duration::from_nanos((pair[1].ns - pair[0].ns) as u64);
        assert!(pause >= Duration::from_secs(2) && pause < PATIENCE, "{pause:?}");
    }
    let log = node.read("log/text.log");
    let times: Vec<&str> = log.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(times.len() >= 4 && times.is_sorted(), "{log}");
    node.ctl(&["stop", "crash"]).ended(0);
    node.check();
}

/// C10: a process that got the number of a unit's dead main process is no part of the unit: it is not signalled, not
/// waited for, not taken for the main process that a pid file names.
#[test]
fn a_number_that_is_used_again_is_somebody_else() {
    need!(harness::is_root(), "needs root for namespaces");
    let builder = Node::builder();
    let pid_file = builder.path("pid");
    let stranger = builder.path("fifo");
    nix::unistd::mkfifo(Path::new(&stranger), nix::sys::stat::Mode::S_IRWXU).expect("it is ours");
    // It claims that the process with the number in its pid file is its main process.
    let claimed = builder.path("claimed");
    let script = "exec \"$0\" daemonize --pid-file \"$1\" --claim \"$(cat \"$2\")\"";
    let rr_bad = harness::programs::rr_bad();
    let forking = Unit::command(&["/bin/sh", "-c", script, rr_bad, &pid_file, &claimed])
        .kind("forking")
        .once()
        .text("exec.pid_file", &pid_file);
    let main = Unit::bad(&["run"]).once();
    let node = builder.unit("a", &main).spare("claims", &forking).prepare();
    let inside = Container::new(&node, Who::Root).without_cgroups().start();
    node.wait_listening();
    node.wait_state("a", State::Running);
    let number = node.pid("a");
    let outside = inside
        .children()
        .into_iter()
        .find(|p| p.unit() == Some("a"))
        .expect("it runs");
    let mut outside_signal = Held::open(outside.pid).expect("it runs");
    assert!(outside_signal.signal(libc::SIGKILL));
    node.wait_state("a", State::Failed);
    until("its number is free", || {
        (!Path::new(&format!("/proc/{}/root/proc/{number}", inside.pid)).exists()).then_some(())
    });

    // The next process in there gets the number; it is a child of PID 1's, like the unit's was.
    let script =
        "echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid; (read -r line <\"$0\") >/dev/null 2>&1 & echo $!";
    let got = until("somebody got the number", || {
        let said = inside.exec_output(&["sh", "-c", script, &stranger, &number.to_string()]);
        let got: i32 = said.trim().parse().unwrap_or_else(|_| panic!("{said}"));
        let found = inside
            .children()
            .into_iter()
            .find(|p| p.env.contains_key("NO_COLOR") && p.name == "sh");
        if got != number {
            // Somebody else was faster: this one goes, and it is tried again.
            Held::open(found.as_ref()?.pid)?.signal(libc::SIGKILL);
            return None;
        }
        found
    });
    outside_signal = Held::open(got.pid).expect("it waits");
    assert!(got.start_time > outside.start_time || got.pid != outside.pid);

    node.ctl(&["kill", "a", "--whom", "all", "-s", "KILL"]);
    node.ctl(&["kill", "a", "-s", "KILL"]);
    node.ctl(&["stop", "a"]).ended(0);
    std::fs::write(&claimed, format!("{number}\n")).expect("it is ours");
    let refused = node.ctl(&["start", "claims"]).ended(1);
    assert!(refused.text().contains(&number.to_string()), "{refused}");
    assert_ne!(node.unit("claims").pid, Some(number as u32));
    node.ctl(&["stop", "claims"]);
    node.ctl(&["restart", "a"]).ended(0);
    assert_ne!(node.pid("a"), number);
    assert!(!outside_signal.wait(Duration::ZERO), "the stranger was touched");
    let status = node.ctl(&["status", "--json"]).json();
    let credited = status["units"]
        .as_array()
        .expect("units")
        .iter()
        .any(|unit| unit["pid"] == number);
    assert!(!credited, "{status:#}");
    node.ctl(&["shutdown"]).ended(0);
    assert_eq!(inside.wait_end(), Some(0), "{}", node.stderr());
}

/// C11: cgroups that cannot be written, are not there, or are of version 1 only: units run all the same, and the header of
/// `status` says how they are held together and why.
#[test]
fn whatever_the_cgroups_are_units_run_and_status_says_how() {
    need!(harness::is_root(), "needs root for namespaces");
    let read_only = "awk '$3 == \"cgroup2\" {print $2}' /proc/mounts | while read -r m; do mount -o remount,bind,ro \"$m\"; done";
    let first_version = "mount -t tmpfs -o mode=755 masked /sys/fs/cgroup; mkdir /sys/fs/cgroup/one\n\
        awk '$3 == \"cgroup2\" {print $2}' /proc/mounts | while read -r m; do umount -l \"$m\" 2>/dev/null || true; done\n\
        mount -t cgroup -o none,name=rrtest cgroup /sys/fs/cgroup/one 2>/dev/null || true";
    let absent = "awk '$3 ~ /^cgroup/ {print $2}' /proc/mounts | while read -r m; do umount -l \"$m\" 2>/dev/null || true; done";
    for (setup, why) in [
        (read_only, "cannot make"),
        (first_version, "cgroup"),
        (absent, "cgroup"),
    ] {
        let unit = Unit::bad(&["forks", "3", "--orphans"]);
        let node = Node::builder().unit("a", &unit).prepare();
        let inside = Container::new(&node, Who::Root).setup(setup).start();
        node.wait_listening();
        node.wait_state("a", State::Running);
        let (header, _) = node.status_of(&[]);
        let how = &header.containment;
        assert!(
            how.starts_with("process group (") && how.contains(why),
            "{setup}: {how}"
        );
        assert!(
            node.ctl(&["status"]).stdout.contains("process group ("),
            "{setup}"
        );
        assert_eq!(node.unit_processes().len(), 4, "{setup}");
        node.ctl(&["stop", "a"]).ended(0);
        let left = node.unit_processes();
        assert!(left.is_empty(), "{setup}: {left:#?}");
        inside.signal(libc::SIGTERM);
        assert_eq!(inside.wait_end(), Some(0), "{setup}: {}", node.stderr());
    }
}

/// C13: the folder of logs is removed under the daemon: the next file is made in a new one of the right mode, and nobody
/// keeps the old one open.
#[test]
fn a_removed_log_folder_is_made_again() {
    let builder = Node::builder();
    let unit = echo(&builder, "fifo").text("log.max_size", "64KiB");
    let node = builder.unit("a", &unit).start();
    put(&node, "fifo", "before");
    wait_log(&node, "a", "before");
    let logger = node.logger();
    let is_deleted = |link: &String| link.contains("/log") && link.ends_with("(deleted)");
    for round in 1..=3 {
        std::fs::remove_dir_all(node.path("log")).expect("it is ours");
        // Enough for a new file to be begun.
        let mut lines = 0;
        until("a log is there again", || {
            lines += 1;
            put(
                &node,
                "fifo",
                &format!("round {round} line {lines} {}", "x".repeat(400)),
            );
            node.path("log/a.log").exists().then_some(())
        });
        put(&node, "fifo", &format!("after {round}"));
        wait_log(&node, "a", &format!("after {round}"));
        let mode = |name: &str| {
            node.path(name)
                .metadata()
                .expect("it is there")
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!((mode("log"), mode("log/a.log")), (0o750, 0o640));
        until("the old folder is let go", || {
            (!processes::descriptor_links(logger).iter().any(is_deleted)).then_some(())
        });
    }
    assert_eq!(node.logger(), logger);
    node.check();
}

/// C16: a disk on which each write takes a second holds up no answer: neither the logger's writes nor whatever the manager
/// stores.
#[test]
fn a_slow_disk_holds_up_no_answer() {
    need!(
        harness::is_root() && harness::has_program("strace"),
        "needs root and strace"
    );
    let builder = Node::builder();
    let unit = echo(&builder, "fifo");
    let node = builder.unit("a", &unit).start();
    put(&node, "fifo", "first");
    wait_log(&node, "a", "first");
    let slow = ":delay_enter=1000000";
    let logger = Strace::attach_on_file(
        node.logger(),
        &format!("write,writev,pwrite64,fsync,fdatasync{slow}"),
        &node.path("log/a.log"),
    );
    let manager = Strace::attach(
        node.manager(),
        &format!("fsync,fdatasync,sync_file_range,rename,renameat,renameat2{slow}"),
    );
    // Whatever waited for the disk would take a second at least.
    let (mut answers, pace) = (Vec::new(), Pace::keep());
    for n in 0..20 {
        put(&node, "fifo", &format!("line {n}"));
        let begun = Instant::now();
        node.status_of(&[]);
        answers.push(begun.elapsed());
    }
    let begun = Instant::now();
    node.ctl(&["restart", "a"]).ended(0);
    let restart = begun.elapsed();
    drop((logger, manager));
    let pacing = pace.end();
    pacing.assert_usually("an answer", &answers, Duration::from_millis(500));
    pacing.assert_always("an answer", &answers, Duration::from_millis(800));
    pacing.assert_always("a restart", &[restart], Duration::from_secs(5));
    wait_log(&node, "a", "line 19");
    node.check();
}
