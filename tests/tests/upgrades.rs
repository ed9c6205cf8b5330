//! ringriftd is replaced in place: under load a hundred times, and by programs that are no ringriftd, or a bad one. Units do not
//! notice.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::numbers::Numbers;
use harness::pace::Pace;
use harness::seeded::{is_full, tell};
use harness::survive::{self, Done, assert_same};
use harness::{Node, PATIENCE, both_ways, programs};
use proto::reply::State;

/// No client is refused or kept waiting for longer, on a machine that does something else as well.
const WAIT: Duration = Duration::from_secs(5);
/// How long a failed upgrade may take until the old program is back.
const BACK: Duration = Duration::from_secs(30);

both_ways! {
    /// B10: upgrades under load (ten; `RINGRIFT_FULL_SWEEP=1`: a hundred). Pids, counters and wants stay, each line is there
    /// once, and every client is answered.
    fn upgrades_under_load_disturb_nobody(mode) {
        let mut node = survive::crowd(Node::builder().containment(mode), 10).start();
        survive::settle(&node);
        let (mains, facts, history) = (node.mains(), node.facts(), node.history());
        let keeper = node.keeper();
        let (done, answers, longest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let socket = node.socket();
        let upgrades = if is_full() { 100 } else { 10 };
        let (begun, pace) = (Instant::now(), Pace::keep());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let asked = Instant::now();
                        let answer =
                            harness::ctl::run(programs::ringriftctl(), &["is-active", "c01"], PATIENCE, |command| {
                                command.env("RINGRIFT_SOCKET", &socket);
                            });
                        assert_eq!(answer.code, Some(0), "{answer}");
                        let took = asked.elapsed().as_millis() as u64;
                        longest.fetch_max(took, Ordering::Relaxed);
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let _done = Done(&done);
            for n in 0..upgrades {
                let before = node.role_pids();
                node.ctl(&["upgrade"]).ended(0);
                let after = node.role_pids();
                assert_eq!(after["keeper"], keeper, "upgrade {n}: the keeper is the same process");
                assert_ne!(after["manager"], before["manager"], "upgrade {n}");
                assert_ne!(after["logger"], before["logger"], "upgrade {n}");
                node.note_roles();
                node.assert_same_mains(&mains);
            }
        });
        let took = begun.elapsed();
        assert_same(&facts, &node.facts());
        node.check_history(&history);
        let longest = Duration::from_millis(longest.into_inner());
        pace.end().assert_always("a client waited", &[longest], WAIT);
        node.ctl(&["stop", "*", "--yes"]).ended(0);
        let figures = Numbers::of(&node).check();
        tell(&format!(
            "{upgrades} upgrades in {took:?} ({mode:?}): {} clients answered, the slowest after {longest:?}; {} lines of {} lives, all there once",
            answers.into_inner(), figures.lines, figures.lives
        ));
        node.check();
    }
}

/// A program for the node's folder.
fn program(node: &Node, name: &str, mode: u32, bytes: &[u8]) -> PathBuf {
    let path = node.path(name);
    let mut file = std::fs::File::create(&path).expect("it is ours");
    file.write_all(bytes).expect("it is ours");
    file.set_permissions(std::fs::Permissions::from_mode(mode))
        .expect("it is ours");
    path
}

/// A script that answers `self-check` as the running ringriftd does, and does something else otherwise.
fn liar(node: &Node, name: &str, otherwise: &str) -> PathBuf {
    let real = programs::ringriftd().display();
    let script = format!("#!/bin/sh\n[ \"$1\" = self-check ] && exec '{real}' self-check\n{otherwise}\n");
    program(node, name, 0o755, script.as_bytes())
}

both_ways! {
    /// B11: a program that is missing, not executable, ends, hangs, crashes or is for another machine: the upgrade is refused or taken
    /// back, the reason is told, nothing is restarted, and the node is its old self.
    fn a_bad_program_is_refused_or_taken_back(mode) {
        // Bare: with a service manager above, a program that dies as the keeper is that one's to start again.
        let mut node = survive::crowd(Node::builder().containment(mode).bare(), 4).start();
        survive::settle(&node);
        let (mains, facts) = (node.mains(), node.facts());
        let keeper = node.keeper();
        // The head of an ELF file for a machine that nobody has.
        let mut foreign = std::fs::read(programs::ringriftd()).expect("it was built")[..4096].to_vec();
        foreign[18..20].copy_from_slice(&0x7ffe_u16.to_le_bytes());
        let candidates = [
            node.path("missing"),
            program(&node, "plain", 0o644, b"#!/bin/sh\nexit 0\n"),
            program(&node, "open", 0o757, b"#!/bin/sh\nexit 0\n"),
            program(&node, "ends", 0o755, b"#!/bin/sh\nexit 1\n"),
            program(&node, "silent", 0o755, b"#!/bin/sh\nexit 0\n"),
            program(&node, "nonsense", 0o755, b"#!/bin/sh\necho '{\"program\":7}'\n"),
            program(&node, "hangs", 0o755, b"#!/bin/sh\nexec tail -f /dev/null\n"),
            program(&node, "crashes", 0o755, b"#!/bin/sh\nkill -SEGV $$\n"),
            program(&node, "foreign", 0o755, &foreign),
            program(&node, "empty", 0o755, b""),
            liar(&node, "ends-later", "exit 1"),
            liar(&node, "hangs-later", "exec tail -f /dev/null"),
            liar(&node, "crashes-later", "kill -SEGV $$"),
        ];
        for candidate in candidates {
            let name = candidate.display().to_string();
            let asked = Instant::now();
            let answer = node.ctl(&["upgrade", &name]);
            assert!(!matches!(answer.code, Some(0)), "{answer}");
            assert!(!answer.stderr.is_empty(), "{answer}");
            let version = node.wait_answer("somebody answers", |_| true);
            assert!(asked.elapsed() < BACK, "{name}: {:?}", asked.elapsed());
            node.assert_same_mains(&mains);
            assert_same(&facts, &node.facts());
            if version.keeper_pid != keeper as u32 && version.keeper_pid != node.keeper() as u32 {
                // It died of the new program, and its manager took its place.
                node.follow(version.keeper_pid as i32);
            }
            node.note_roles();
            node.check_one_daemon();
        }
        node.wait_state("c01", State::Running);
        node.ctl(&["upgrade"]).ended(0);
        node.note_roles();
        node.assert_same_mains(&mains);
        node.ctl(&["stop", "*", "--yes"]).ended(0);
        Numbers::of(&node).check();
        node.check();
    }
}
