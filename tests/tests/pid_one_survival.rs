//! As PID 1 of a container: the deaths of manager and logger are mended inside, and no unit notices.

use harness::contained::{Contained, Container, Who};
use harness::processes::{self, Process};
use harness::{Node, Unit, need, until};
use proto::reply::State;

fn role(inside: &Contained, word: &str) -> Option<Process> {
    let is_it = |p: &Process| p.is_alive() && p.argv.get(1).is_some_and(|arg| arg == word);
    inside.children().into_iter().find(is_it)
}

#[test]
fn the_deaths_of_manager_and_logger_are_mended_inside() {
    need!(harness::is_root(), "needs root for namespaces");
    for (who, word) in [
        (Who::Root, "manager"),
        (Who::User, "manager"),
        (Who::Root, "logger"),
    ] {
        let node = Node::builder().unit("a", &Unit::bad(&["run"])).prepare();
        // State and logs in the run-time folder: what survives must not need a disk.
        let inside = Container::new(&node, who)
            .without_cgroups()
            .read_only_but(&["run"])
            .start();
        node.wait_listening();
        node.wait_state("a", State::Running);
        let before = node.unit("a");
        let old = role(&inside, word).unwrap_or_else(|| panic!("no {word}"));
        processes::signal(old.pid, libc::SIGKILL);
        until("there is another one", || {
            role(&inside, word).filter(|new| new.pid != old.pid)
        });
        let after = node.wait_unit("a", "as before", |unit| unit.state == State::Running);
        assert_eq!(
            (after.pid, after.invocation, after.restarts, after.starts),
            (before.pid, before.invocation, before.restarts, before.starts)
        );
        assert_eq!(node.unit_processes().len(), 1, "{}", node.stderr());
        inside.signal(libc::SIGTERM);
        assert_eq!(inside.wait_end(), Some(0), "{who:?} {word}: {}", node.stderr());
        assert!(node.unit_processes().is_empty());
    }
}
