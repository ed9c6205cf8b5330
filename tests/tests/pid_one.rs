//! ringriftd as PID 1 of a container: it reaps what nobody else reaps, heeds signals that a PID 1 would not have to,
//! ends with the right code, and runs with what a container leaves it of the host.

use std::io::Write;
use std::process::Command;

use harness::contained::{Contained, Container, NOBODY, Who};
use harness::ctl::Output;
use harness::{Node, NodeBuilder, PATIENCE, Unit, need, until};
use proto::reply::State;

const NEEDS_ROOT: &str = "needs root for namespaces";

fn one_unit() -> NodeBuilder {
    Node::builder().unit("a", &Unit::bad(&["run"]))
}

/// A client of the user that ringriftd runs as.
#[track_caller]
fn ctl_of(who: Who, node: &Node, args: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    node.ctl_within(args, PATIENCE, |command: &mut Command| {
        if who != Who::Root {
            command.uid(NOBODY).gid(NOBODY);
        }
    })
}

#[track_caller]
fn wait_running(who: Who, node: &Node, inside: &Contained) -> serde_json::Value {
    until("the unit runs", || {
        assert!(!inside.has_ended(), "the container has ended:\n{}", node.stderr());
        let answer = ctl_of(who, node, &["status", "--json"]);
        if answer.code != Some(0) {
            return None;
        }
        let status = answer.json();
        (status["summary"]["running"] == 1).then_some(status)
    })
}

#[track_caller]
fn assert_nothing_left(node: &Node) {
    let left = node.unit_processes();
    assert!(left.is_empty(), "{left:#?}\n{}", node.stderr());
    assert!(!node.stderr().contains("panicked"), "{}", node.stderr());
}

/// The kernel does not let a PID 1 die of a signal that it has no handler for: TERM from outside must still be heard.
#[test]
fn term_from_outside_stops_all_in_order_and_the_container_ends_with_0() {
    need!(harness::is_root(), NEEDS_ROOT);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let builder = Node::builder();
        let file = builder.path("stamps");
        let unit = Unit::bad(&["run", "--on-stop-append", &file]);
        let node = builder
            .unit("low", &unit)
            .unit("high", &unit.clone().requires(&["low"]))
            .prepare();
        let inside = Container::new(&node, Who::Root).start();
        node.wait_listening();
        node.wait_state("high", State::Running);
        inside.signal(signal);
        assert_eq!(inside.wait_end(), Some(0), "{}", node.stderr());
        let stops: Vec<String> = harness::stamps(file.as_ref())
            .into_iter()
            .map(|s| s.unit)
            .collect();
        assert_eq!(stops, ["high", "low"]);
        assert_nothing_left(&node);
    }
}

#[test]
fn the_container_ends_with_the_code_of_an_essential_unit() {
    need!(harness::is_root(), NEEDS_ROOT);
    let task = Unit::command(&[harness::programs::rr_bad(), "exit", "42"])
        .once()
        .set("essential", "true");
    let node = one_unit().unit("job", &task).prepare();
    // It may end before anybody has seen it.
    let ended = Container::new(&node, Who::Root).run_to_end();
    assert_eq!(ended.code(), Some(42), "{}", node.stderr());
    assert_nothing_left(&node);
}

#[test]
fn a_shutdown_ends_the_container_with_0() {
    need!(harness::is_root(), NEEDS_ROOT);
    let node = one_unit().prepare();
    let inside = Container::new(&node, Who::Root).start();
    node.wait_listening();
    node.wait_state("a", State::Running);
    node.ctl(&["shutdown"]).ended(0);
    assert_eq!(inside.wait_end(), Some(0), "{}", node.stderr());
    assert_nothing_left(&node);
}

/// An orphan that no launch accounts for (somebody's `docker exec`) becomes PID 1's child: it is reaped when it ends, and
/// until then it holds no unit's stop up.
#[test]
fn orphans_of_nobody_are_reaped_and_hold_nobody_up() {
    need!(harness::is_root(), NEEDS_ROOT);
    let node = one_unit().prepare();
    let inside = Container::new(&node, Who::Root).without_cgroups().start();
    node.wait_listening();
    node.wait_state("a", State::Running);
    let fifo = node.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("it is ours");
    let fifo = fifo.to_str().expect("a path of text");
    // Each waits for the fifo's writer, and ends with the line that it reads.
    let script = "for i in 1 2 3; do (read line <\"$0\") & done";
    let done = inside.exec(&["sh", "-c", script, fifo]).wait().expect("it ends");
    assert!(done.success());
    let is_orphan = |p: &harness::processes::Process| p.env.contains_key("RR_INSIDE");
    until("the orphans are PID 1's", || {
        (inside.children().into_iter().filter(is_orphan).count() == 3).then_some(())
    });
    node.ctl(&["restart", "a"]).ended(0);
    let mut writer = std::fs::File::options()
        .write(true)
        .open(fifo)
        .expect("somebody reads");
    writer.write_all(b"1\n2\n3\n").expect("they read");
    drop(writer);
    until("all orphans are reaped", || {
        let mut children = inside.children();
        children.retain(|p| p.state == 'Z' || is_orphan(p));
        children.is_empty().then_some(())
    });
    inside.signal(libc::SIGTERM);
    assert_eq!(inside.wait_end(), Some(0), "{}", node.stderr());
    assert_nothing_left(&node);
}

/// C11: a read-only root and no cgroups: the state and the logs move into the run-time folder, and status says so.
#[test]
fn a_read_only_root_without_cgroups_is_enough() {
    need!(harness::is_root(), NEEDS_ROOT);
    for who in [Who::Root, Who::User, Who::RootlessRoot] {
        let node = Node::builder()
            .unit("a", &Unit::bad(&["print", "a word"]))
            .prepare();
        let inside = Container::new(&node, who)
            .without_cgroups()
            .read_only_but(&["run"])
            .start();
        let status = wait_running(who, &node, &inside);
        let notices = status["notices"].to_string();
        for word in ["state", "log"] {
            let path = node.path("run").join(word);
            let path = path.to_str().expect("a path of text");
            assert!(notices.contains(path), "{who:?}: {notices}");
            assert_eq!(
                node.stderr().matches(path).count(),
                1,
                "{who:?}: said once: {}",
                node.stderr()
            );
        }
        assert!(
            status["containment"]
                .as_str()
                .is_some_and(|c| c.starts_with("process group (")),
            "{who:?}: {status:#}"
        );
        until("the unit's line is stored", || {
            let answer = ctl_of(who, &node, &["logs", "a"]);
            answer.stdout.contains("a word").then_some(())
        });
        assert!(node.path("run/log/a.log").is_file(), "{who:?}");
        inside.signal(libc::SIGTERM);
        assert_eq!(inside.wait_end(), Some(0), "{who:?}: {}", node.stderr());
        assert_nothing_left(&node);
    }
}

/// In a user namespace, and as a user without rights: a unit runs, is restarted and is stopped.
#[test]
fn a_container_without_privileges_is_enough() {
    need!(harness::is_root(), NEEDS_ROOT);
    for who in [Who::User, Who::RootlessRoot] {
        let node = one_unit().prepare();
        let inside = Container::new(&node, who).start();
        wait_running(who, &node, &inside);
        ctl_of(who, &node, &["restart", "a"]).ended(0);
        ctl_of(who, &node, &["stop", "a"]).ended(0);
        assert!(node.unit_processes().is_empty(), "{who:?}");
        ctl_of(who, &node, &["shutdown"]).ended(0);
        assert_eq!(inside.wait_end(), Some(0), "{who:?}: {}", node.stderr());
        assert_nothing_left(&node);
    }
}

/// With nothing named and a read-only root the folders are found where a container has them: /tmp or /dev/shm.
#[test]
fn the_run_time_folder_is_found_where_something_can_be_written() {
    need!(harness::is_root(), NEEDS_ROOT);
    for (who, uid, tmpfs) in [
        (Who::Root, 0, "/run"),
        (Who::Root, 0, "/dev/shm"),
        (Who::User, NOBODY, "/dev/shm"),
    ] {
        let node = one_unit().prepare();
        let found = match tmpfs {
            "/run" => "/run/ringrift".to_owned(),
            other => format!("{other}/ringrift-{uid}"),
        };
        let inside = Container::new(&node, who)
            .setup(&format!(
                "mount -t tmpfs masked /run; mount -t tmpfs masked /dev/shm\n\
                 mount --bind -o ro /tmp /tmp; mount -o remount,bind,ro /tmp; mount -o remount,bind,ro /\n\
                 for dir in /run /dev/shm; do [ $dir = {tmpfs} ] || mount -o remount,bind,ro $dir; done; chmod 1777 {tmpfs}"
            ))
            .places_by_default()
            .start();
        let answer = until("it serves", || {
            assert!(!inside.has_ended(), "{who:?} {tmpfs}: {}", node.stderr());
            let uid = uid.to_string();
            let ctl = harness::programs::ringriftctl().to_str().expect("a path of text");
            let socket = format!("{found}/control.sock");
            let answer = inside.exec_output(&[
                "setpriv",
                "--reuid",
                &uid,
                "--regid",
                &uid,
                "--clear-groups",
                ctl,
                "--socket",
                &socket,
                "status",
            ]);
            answer.contains("1 running").then_some(answer)
        });
        assert!(answer.contains(&format!("{found}/state")), "{answer}");
        inside.signal(libc::SIGTERM);
        assert_eq!(inside.wait_end(), Some(0), "{who:?}: {}", node.stderr());
        assert_nothing_left(&node);
    }
}

/// Where nothing can be written at all there is no socket to be had: one sentence says what helps.
#[test]
fn a_container_without_any_writable_folder_is_refused_with_one_sentence() {
    need!(harness::is_root(), NEEDS_ROOT);
    let node = one_unit().prepare();
    let ended = Container::new(&node, Who::Root).read_only_but(&[]).run_to_end();
    assert_eq!(ended.code(), Some(2), "{}", node.stderr());
    let said = node.stderr();
    assert!(
        said.contains("--runtime-dir") && said.lines().count() == 1,
        "{said}"
    );
}

/// The kernel ends a namespace with its PID 1: nothing of the container outlives its keeper.
#[test]
fn the_keepers_death_is_the_containers() {
    need!(harness::is_root(), NEEDS_ROOT);
    let node = one_unit().prepare();
    let inside = Container::new(&node, Who::Root).start();
    node.wait_listening();
    node.wait_state("a", State::Running);
    inside.signal(libc::SIGKILL);
    inside.wait_end();
    assert_nothing_left(&node);
}
