//! Processes that run outside and become a unit's, without a restart.

use std::process::{Child, Command, Stdio};

use harness::processes::Process;
use harness::{Node, Unit, both_ways, until};
use proto::reply::State;

/// A process of nobody's, which ends when its input does. `mark` stands in its command line.
struct Outside(Child);

impl Outside {
    fn new(mark: &str) -> Self {
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("read x # {mark}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("there is a shell");
        let path = format!("/proc/{}/cmdline", child.id());
        // In the middle of execve(2) it has none.
        until("it has its command line", || {
            let line = std::fs::read(&path).ok()?;
            String::from_utf8_lossy(&line).contains(mark).then_some(())
        });
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // The test is its parent, and nobody else ends it but by a signal.
        let _ = self.0.wait();
    }
}

both_ways! {
    /// It is the unit's from then on, over every death of ringriftd's own, and is stopped like any other.
    fn a_process_from_outside_becomes_a_units(mode) {
        let mut node = Node::builder()
            .containment(mode)
            .bare()
            .unit("a", &Unit::bad(&["run"]))
            .spare("b", &Unit::bad(&["run"]))
            .start();
        let mark = node.path("outside").display().to_string();
        node.ctl(&["adopt", "b", "--match", &mark]).ended(1);
        let mut one = Outside::new(&mark);
        let shown = node.ctl(&["adopt", "b", "--match", &mark, "--dry-run"]).ended(0);
        assert!(shown.text().contains(&one.pid()), "{shown}");
        assert_eq!(node.unit("b").state, State::Stopped);
        let two = Outside::new(&mark);
        let refused = node.ctl(&["adopt", "b", "--match", &mark]).ended(7);
        assert!(
            refused.text().contains(&one.pid()) && refused.text().contains(&two.pid()),
            "both are named: {refused}"
        );
        let told = node.ctl(&["adopt", "b", "--pid", &one.pid()]).ended(0);
        for lacks in ["cannot log it", "exit code"] {
            assert!(told.text().contains(lacks), "what cannot be had is said: {told}");
        }
        let is_it = |node: &Node| {
            let unit = node.unit("b");
            unit.state == State::Running && unit.pid == Some(one.0.id())
        };
        assert!(is_it(&node));
        node.ctl(&["adopt", "b", "--pid", &two.pid()]).ended(7);
        node.crash_manager();
        assert!(is_it(&node), "{}", node.stderr());
        node.crash_keeper();
        assert!(is_it(&node), "{}", node.stderr());
        node.kill_daemon();
        node.start_again();
        assert!(is_it(&node), "{}", node.stderr());
        node.ctl(&["stop", "b"]).ended(0);
        let ended = until("it ends", || one.0.try_wait().expect("it is a child"));
        assert!(!ended.success());
        let other = Process::read(two.0.id().cast_signed()).expect("the other one lives");
        assert!(other.is_alive());
        node.ctl(&["stop", "*", "--yes"]).ended(0);
        node.shutdown();
    }
}
