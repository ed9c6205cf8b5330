//! The keeper dies, or all of ringriftd at once, and the next one begins over what lives and what was written down:
//! never a second copy, never a signal to a stranger.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::numbers::Numbers;
use harness::outside::{Namespace, Strace};
use harness::processes::{self, Held, Process};
use harness::survive::{self, Done, Role, assert_same};
use harness::{Node, PATIENCE, Unit, both_ways, has_program, is_root, need, programs, until};
use proto::reply::{Exit, State};

/// Looks for second copies as long as `deed` is being done.
fn never_two<T>(node: &mut Node, deed: impl FnOnce(&mut Node) -> T) -> T {
    let done = AtomicBool::new(false);
    let mark = node.path("");
    let watch = || {
        while !done.load(Ordering::Relaxed) {
            let mark = mark.to_str().expect("a path of text");
            let mut units = BTreeSet::new();
            for process in processes::marked("RR_TEST_NODE", mark) {
                // None of these units forks, so each process of one is a main process.
                if let (Some(unit), true) = (process.unit(), process.is_main_role()) {
                    assert!(units.insert(unit.to_owned()), "a second copy: {process:?}");
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let watcher = scope.spawn(watch);
        let result = {
            let _done = Done(&done);
            deed(node)
        };
        watcher.join().expect("there was never a second copy");
        result
    })
}

/// The kernel tells how a process of another parent's ended (PIDFD_GET_INFO, Linux 6.15).
fn codes_of_strangers_are_told() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    (major, minor) >= (6, 15)
}

both_ways! {
    /// B4: the keeper of a bare daemon is killed, twice. Its manager takes its place; every unit runs on, none a second time,
    /// no line is lost; and how an adopted process ends is told as far as the kernel does.
    fn a_killed_keeper_is_followed_by_its_manager(mode) {
        let mut node = survive::crowd(Node::builder().containment(mode).bare(), 8).start();
        survive::settle(&node);
        let (mains, facts, history) = (node.mains(), node.facts(), node.history());
        for _ in 0..2 {
            never_two(&mut node, |node| {
                node.crash_keeper();
                node.check_one_daemon();
                node.assert_same_mains(&mains);
                assert_same(&facts, &node.facts());
            });
        }
        node.check_history(&history);
        // An adopted unit ends, and is started again as a child.
        let before = node.unit("c01");
        processes::signal(node.pid("c01"), libc::SIGUSR1);
        let after = node.wait_unit("c01", "running again", |unit| {
            unit.state == State::Running && unit.invocation != before.invocation
        });
        assert_eq!((after.starts, after.restarts), (before.starts + 1, before.restarts + 1));
        let told = if codes_of_strangers_are_told() { Exit::Code(3) } else { Exit::Unknown };
        assert_eq!(after.last_exit.map(|last| last.exit), Some(told), "{after:#?}");
        // An adopted one is stopped, and its log is whole.
        node.ctl(&["stop", "c02"]).ended(0);
        node.ctl(&["stop", "*", "--yes"]).ended(0);
        assert_eq!(Numbers::of(&node).check().lives, 10);
        node.check();
    }
}

both_ways! {
    /// B5, A30: all of ringriftd is killed at once. The next one takes over whoever lives, starts again once who died meanwhile, and
    /// leaves those alone that were stopped.
    fn the_next_start_takes_over_who_lives(mode) {
        let mut node = survive::crowd(Node::builder().containment(mode), 8).start();
        survive::settle(&node);
        let (facts, history) = (node.facts(), node.history());
        let (dead, life) = (node.pid("c03"), node.unit("c03"));
        node.kill_daemon();
        let held = Held::open(dead).expect("units outlive ringriftd");
        assert!(held.signal(libc::SIGKILL) && held.wait(PATIENCE));
        let mains = node.mains();
        assert_eq!(mains.len(), 7);
        never_two(&mut node, Node::start_again);
        let again = node.wait_unit("c03", "running again", |unit| {
            unit.state == State::Running && unit.invocation != life.invocation
        });
        assert_eq!(again.starts, life.starts + 1, "{again:#?}");
        assert!(node.mains().is_superset(&mains), "a survivor was disturbed\n{}", node.stderr());
        let mut now = node.facts();
        let mut then = facts;
        for all in [&mut then, &mut now] {
            all.remove("c03");
        }
        assert_same(&then, &now);
        node.check_history(&history);
        node.ctl(&["stop", "*", "--yes"]).ended(0);
        let lost = life.invocation.expect("it ran");
        let figures = Numbers::of(&node).unread([lost]).check();
        assert_eq!(figures.lives, 10);
        node.check();
    }
}

/// B5: with a service manager above, a keeper's death is everybody's: the manager ends by itself, and what is started
/// again takes over.
#[test]
fn under_a_service_manager_the_next_start_takes_over() {
    let mut node = survive::crowd(Node::builder(), 4).start();
    survive::settle(&node);
    let (mains, facts) = (node.mains(), node.facts());
    node.kill_role(Role::Keeper);
    until("the others end too", || {
        node.daemon_processes().is_empty().then_some(())
    });
    node.kill_daemon();
    never_two(&mut node, Node::start_again);
    node.assert_same_mains(&mains);
    assert_same(&facts, &node.facts());
    node.ctl(&["stop", "*", "--yes"]).ended(0);
    Numbers::of(&node).check();
    node.check();
}

/// A process that looks like a unit's and is none of ringriftd's; ended with the test.
struct Stranger(Child);

impl Stranger {
    /// With the marks of this life.
    fn like(node: &Node, unit: &str, invocation: &str) -> Self {
        let child = Command::new(programs::rr_bad())
            .args(["run", "--ignore-term", "--on-term-append"])
            .arg(node.path("terms"))
            .env("RINGRIFT_UNIT", unit)
            .env("RINGRIFT_INVOCATION_ID", invocation)
            .env("RINGRIFT_ROLE", "main")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("rr-bad was built"))
    }

    fn assert_untouched(&self, node: &Node) {
        let process = Process::read(self.0.id() as i32);
        assert!(
            process.is_some_and(|p| p.is_alive()),
            "a stranger was killed\n{}",
            node.stderr()
        );
        assert_eq!(
            node.read("terms"),
            "",
            "a stranger was signalled\n{}",
            node.stderr()
        );
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

both_ways! {
    /// B5, C10: a process that bears this node's marks, but of a life that nobody remembers, while the unit has another: it is
    /// named and left alone, whatever becomes of the unit.
    fn a_stranger_with_our_marks_is_named_and_left_alone(mode) {
        let mut node = Node::builder().containment(mode).unit("a", &Unit::bad(&["run"])).start();
        let mains = node.mains();
        let life = node.unit("a").invocation.expect("it runs");
        node.kill_daemon();
        let stranger = Stranger::like(&node, "a", &format!("{}{:016x}", &life[..16], 0xff_ffff));
        let said = node.stderr().len();
        node.start_again();
        node.assert_same_mains(&mains);
        let told = node.ctl(&["status"]).text() + &node.stderr()[said..];
        assert!(told.contains(&stranger.0.id().to_string()), "nobody names {}: {told}", stranger.0.id());
        node.ctl(&["restart", "a"]).ended(0);
        node.ctl(&["stop", "a"]).ended(0);
        stranger.assert_untouched(&node);
        node.crash_manager();
        stranger.assert_untouched(&node);
        node.shutdown();
        stranger.assert_untouched(&node);
    }
}

/// B6: the machine was started again: nothing is adopted, and no process that has an old number is signalled. What operators
/// said holds; so do counts of restarts.
#[test]
fn after_a_reboot_nothing_old_is_touched() {
    need!(is_root() && has_program("unshare"), "needs a mount namespace");
    let another = "6f1b0c7e-0000-4000-8000-000000000001";
    let builder = Node::builder();
    let file = builder.path("boot_id");
    let setup = format!("mount --bind '{file}' /proc/sys/kernel/random/boot_id");
    let mut node = survive::crowd(builder.file("boot_id", &format!("{another}\n")), 3).start();
    survive::settle(&node);
    let Some(namespace) = Namespace::new(&setup) else {
        harness::skipped("may not mount");
        return;
    };
    let (old, facts) = (node.mains(), node.facts());
    let held: Vec<Held> = old.iter().filter_map(|(_, pid, _)| Held::open(*pid)).collect();
    node.kill_daemon();
    let prefix = namespace.prefix();
    node.go_through(&prefix.iter().map(String::as_str).collect::<Vec<_>>());
    node.start_again();
    for unit in ["c00", "c01", "c02"] {
        node.wait_state(unit, State::Running);
    }
    for (process, main) in held.iter().zip(&old) {
        assert!(
            !process.wait(Duration::ZERO),
            "{main:?} was killed\n{}",
            node.stderr()
        );
    }
    let now = node.mains();
    assert!(now.is_superset(&old), "an old process is gone\n{}", node.stderr());
    for (unit, pid, _) in &old {
        assert_ne!(
            node.unit(unit).pid,
            Some(*pid as u32),
            "{unit} was adopted\n{}",
            node.stderr()
        );
    }
    assert_eq!(node.unit("held").state, State::Held);
    assert_eq!(
        node.unit("stopped").state,
        State::Stopped,
        "a stop holds until an orderly start"
    );
    assert_eq!(node.unit("c00").restarts, facts["c00"].status.restarts);
    // The old ones are not the node's any more: the test ends what a reboot would have.
    let leaves: Vec<_> = old
        .iter()
        .filter_map(|(_, pid, _)| processes::cgroup_of(*pid))
        .collect();
    for process in &held {
        process.signal(libc::SIGKILL);
        assert!(process.wait(PATIENCE));
    }
    let own = processes::cgroup_of(std::process::id() as i32);
    for leaf in leaves.iter().filter(|leaf| Some(*leaf) != own.as_ref()) {
        until("an old cgroup is gone", || {
            std::fs::remove_dir(leaf).is_ok().then_some(())
        });
    }
    node.check();
}

/// Somebody removes the whole state under a running ringriftd, and all of ringriftd dies: units that live are known by what
/// they bear, and none gets a second copy.
#[test]
fn a_removed_state_costs_no_unit_a_second_copy() {
    let mut node = Node::builder()
        .unit("a", &Unit::bad(&["run"]))
        .unit("b", &Unit::bad(&["run"]).requires(&["a"]))
        .start();
    let before = node.mains();
    std::fs::remove_dir_all(node.path("state")).expect("it is ours");
    node.kill_daemon();
    node.start_again();
    node.wait_state("b", State::Running);
    assert_eq!(node.mains(), before, "{}", node.stderr());
    assert!(
        node.stderr().contains("the state is lost, and 2 units live on"),
        "{}",
        node.stderr()
    );
    node.check();
}

/// What is done to a file of the state.
type Damage = (&'static str, fn(&mut Vec<u8>));

/// B12, B13: whatever became of the state's files, ringriftd starts, says what it could not use, and never panics.
#[test]
fn a_damaged_state_is_told_and_never_fatal() {
    const DAMAGES: [Damage; 7] = [
        ("empty", |bytes| bytes.clear()),
        ("cut in the head", |bytes| bytes.truncate(17)),
        ("cut in the middle", |bytes| bytes.truncate(bytes.len() / 2)),
        ("cut at the end", |bytes| {
            bytes.pop();
        }),
        ("flipped in the head", |bytes| bytes[20] ^= 1),
        ("flipped in the middle", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("noise", |bytes| {
            bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(131))
        }),
    ];
    for (what, damage) in DAMAGES {
        for both in [false, true] {
            let mut node = Node::builder()
                .unit("a", &Unit::bad(&["run"]))
                .unit("held", &Unit::bad(&["run"]))
                .start();
            node.ctl(&["hold", "held"]).ended(0);
            node.ctl(&["stop", "held"]).ended(0);
            // Each manager begins with a whole state of its own: now both files have the hold.
            node.crash_manager();
            node.crash_manager();
            let (life, pid) = (node.unit("a").invocation, node.pid("a"));
            node.kill_daemon();
            // Nobody lives on: what a state is needed for then, is what operators said.
            let process = Held::open(pid).expect("units outlive ringriftd");
            assert!(process.signal(libc::SIGKILL) && process.wait(PATIENCE));
            let mut files = state_files(&node);
            assert!(!files.is_empty(), "there are no files of state");
            if !both {
                files.truncate(1);
            }
            for file in &files {
                let mut bytes = std::fs::read(file).expect("it is ours");
                damage(&mut bytes);
                std::fs::write(file, bytes).expect("it is ours");
            }
            let said = node.stderr().len();
            node.start_again();
            let after = node.wait_state("a", State::Running);
            assert_ne!(after.invocation, life, "{what}: a life has two uses");
            let said = node.stderr()[said..].to_owned();
            let name = |file: &std::path::PathBuf| {
                file.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            };
            // A file that is merely shorter may be one whose last change was never finished.
            assert!(
                what.starts_with("cut in the middle") || files.iter().any(|file| said.contains(&name(file))),
                "{what}: nothing says which file is damaged:\n{said}"
            );
            if !both {
                assert_eq!(
                    node.unit("held").state,
                    State::Held,
                    "{what}: the other file has the hold\n{said}"
                );
            }
            node.check();
        }
    }
}

/// A state that ends before the truth did begins no life a second time: its number stands in logs, events and marks already.
#[test]
fn what_was_lived_after_the_last_word_on_disk_is_not_lived_again() {
    // Shares of the file, of which some end where a life is asked for and not yet begun.
    for share in [6, 8, 10, 12, 14] {
        let mut node = Node::builder()
            .unit("a", &Unit::bad(&["run"]))
            .spare("held", &Unit::bad(&["run"]))
            .start();
        // Answered when it is on disk, and with it all that came before.
        node.ctl(&["hold", "held"]).ended(0);
        let (life, pid) = (node.unit("a").invocation, node.pid("a"));
        node.kill_daemon();
        let process = Held::open(pid).expect("units outlive ringriftd");
        assert!(process.signal(libc::SIGKILL) && process.wait(PATIENCE));
        let files = state_files(&node);
        assert!(!files.is_empty(), "there are no files of state");
        for file in &files {
            let bytes = std::fs::read(file).expect("it is ours");
            std::fs::write(file, &bytes[..bytes.len() * share / 24]).expect("it is ours");
        }
        node.start_again();
        let after = node.wait_state("a", State::Running);
        assert_ne!(after.invocation, life, "{share} of 24\n{}", node.stderr());
        node.check();
    }
}

/// All of ringriftd dies before it has written down anything but that it was here: no life begins a second time even so.
#[test]
fn what_was_lived_before_the_first_word_on_disk_is_not_lived_again() {
    let mut node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let (life, pid) = (node.unit("a").invocation, node.pid("a"));
    node.kill_daemon();
    let process = Held::open(pid).expect("units outlive ringriftd");
    assert!(process.signal(libc::SIGKILL) && process.wait(PATIENCE));
    for file in harness::node::walk(&node.path("state")) {
        if !file.ends_with("seed") {
            std::fs::remove_file(file).expect("it is ours");
        }
    }
    node.start_again();
    let after = node.wait_state("a", State::Running);
    assert_ne!(after.invocation, life, "{}", node.stderr());
    node.check();
}

/// The files of the engine's state, the newest first.
fn state_files(node: &Node) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = harness::node::walk(&node.path("state"))
        .into_iter()
        .filter(|file| {
            file.file_name()
                // Beside them a draft may lie that a killed manager did not finish: nobody reads it.
                .is_some_and(|name| name == "engine.0" || name == "engine.1")
        })
        .collect();
    files.sort_by_key(|file| {
        std::cmp::Reverse(std::fs::metadata(file).and_then(|found| found.modified()).ok())
    });
    files
}

/// B12: a state that a newer ringriftd wrote is left as it is, and the start is refused with its name: to begin without it
/// would forget what lives.
#[test]
fn a_newer_state_is_left_untouched() {
    let mut node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    node.shutdown();
    let files = state_files(&node);
    let mut kept = Vec::new();
    for file in &files {
        let mut bytes = std::fs::read(file).expect("it is ours");
        // The head of the first record (docs/state.md): its version, and the checksum over it.
        bytes[8] = 0xff;
        let sum = crc32(&bytes[..36]).to_le_bytes();
        bytes[36..40].copy_from_slice(&sum);
        std::fs::write(file, &bytes).expect("it is ours");
        kept.push(bytes);
    }
    let said = node.stderr().len();
    node.launch_daemon();
    let status = node.wait_end();
    let said = node.stderr()[said..].to_owned();
    assert_ne!(status.code(), Some(0), "{said}");
    assert!(said.contains("newer") && said.contains("255"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    for (file, bytes) in files.iter().zip(kept) {
        assert_eq!(
            std::fs::read(file).expect("it is there"),
            bytes,
            "{}",
            file.display()
        );
    }
    node.assert_gone();
}

/// CRC-32 as in IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 {
                (sum >> 1) ^ 0xedb8_8320
            } else {
                sum >> 1
            };
        }
    }
    !sum
}

/// How a client is told that what was done is not written down.
const VOLATILE: &str = "will not survive";

/// C2: the folder of state is full. A stop is done and answered, and says that it would not survive the machine; the old
/// state is whole; and when there is room again, what is said is kept again.
#[test]
fn a_full_disk_is_told_and_damages_nothing() {
    need!(is_root() && has_program("unshare"), "needs a mount namespace");
    let builder = Node::builder()
        .unit("a", &Unit::bad(&["run"]))
        .unit("b", &Unit::bad(&["run"]));
    let state = builder.path("state");
    let Some(namespace) = Namespace::new(&format!("mount -t tmpfs -o size=256k,mode=0755 tmpfs '{state}'"))
    else {
        harness::skipped("may not mount");
        return;
    };
    let prefix = namespace.prefix();
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    let mut node = builder.through(&prefix).start();
    let filler = namespace.path(&node.path("state/filler"));
    let mut file = std::fs::File::create(&filler).expect("there is room at first");
    let block = [0; 4096];
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    let mains = node.mains();
    let answer = node.ctl(&["stop", "a"]).ended(0);
    assert!(
        answer.text().contains(VOLATILE),
        "nothing says that the stop is not written down: {answer}\n{}",
        node.stderr()
    );
    assert_eq!(node.unit("a").state, State::Stopped);
    assert!(node.mains().is_subset(&mains));
    // The manager's memory does not need the disk.
    node.crash_manager();
    assert_eq!(node.unit("a").state, State::Stopped);
    // A start from the disk finds the old state whole, and whoever lives is not started twice.
    node.kill_daemon();
    never_two(&mut node, Node::start_again);
    node.wait_state("b", State::Running);
    drop(file);
    std::fs::remove_file(&filler).expect("it is ours");
    until("a stop is written down again", || {
        node.ctl(&["start", "a"]);
        let answer = node.ctl(&["stop", "a"]).text();
        (!answer.contains(VOLATILE)).then_some(())
    });
    node.kill_daemon();
    never_two(&mut node, Node::start_again);
    assert_eq!(node.unit("a").state, State::Stopped);
    node.check();
}

/// C3: a write, a sync or a rename of the state fails once. Nothing ends, the state on disk stays whole, and what was
/// acknowledged without a remark holds.
#[test]
fn a_disk_that_fails_once_is_not_believed() {
    need!(has_program("strace"), "needs strace");
    for (call, error) in [
        ("fsync,fdatasync", "EIO"),
        ("fsync,fdatasync", "ENOSPC"),
        ("rename,renameat,renameat2", "EIO"),
        ("pwrite64,write", "EDQUOT"),
        ("pwrite64,write", "ENOSPC"),
    ] {
        for when in [1, 2] {
            let mut node = Node::builder()
                .unit("a", &Unit::bad(&["run"]))
                .unit("b", &Unit::bad(&["run"]))
                .start();
            let inject = format!("inject={call}:error={error}:when={when}");
            let trace = format!("trace={call}");
            let state = node.path("state");
            let paths: Vec<String> = ["engine.0", "engine.1", "engine.new", ""]
                .iter()
                .map(|name| state.join(name).display().to_string())
                .collect();
            let mut args = vec!["-e", &trace, "-e", &inject];
            for path in &paths {
                args.extend(["-P", path.trim_end_matches('/')]);
            }
            let strace = Strace::attach(node.manager(), true, &args, &node.path("trace"));
            let answer = node.ctl(&["stop", "a"]).ended(0);
            let trace = strace.detach();
            let has_failed = trace.contains("INJECTED");
            node.check_status();
            let mains = node.mains();
            node.kill_daemon();
            never_two(&mut node, Node::start_again);
            assert!(node.mains().is_superset(&mains));
            if !answer.text().contains(VOLATILE) {
                let a = node.unit("a").state;
                assert_eq!(
                    a,
                    State::Stopped,
                    "{call} {error} {when} (failed: {has_failed}): {answer}\n{trace}"
                );
            }
            node.check();
        }
    }
}
