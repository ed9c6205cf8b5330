//! Units that are forked from a zygote: in all else they are what executed ones are, and nothing that happens to the zygote
//! touches them. With the runner's own zygote, which `tests/python/test_zygote.py` looks at from the keeper's side;
//! zygotes that lie are met in `ringriftd/tests/keeper_zygote.rs`.

use std::path::Path;

use harness::processes::{self, Process};
use harness::survive::Role;
use harness::{Node, NodeBuilder, Unit, both_ways, until};
use proto::reply::{Exit, State};

/// What the zygote imports. Whoever has the zygote's pid in it was forked from that.
const PRELOADED: &str = "import os\nbirth = os.getpid()\n";

/// A daemon that tells where it comes from, is ready, and ends as it is told.
const DAEMON: &str = r#"
import os, preloaded, signal, socket, sys
def end(number, _):
    sys.exit(7 if number == signal.SIGUSR1 else 0)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, end)
kind = "executed" if preloaded.birth == os.getpid() else f"forked from {preloaded.birth}"
print(f"{kind}: {sys.argv[1]} {os.environ['WORD']} in {os.getcwd()}", flush=True)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(
    f"READY=1\nSTATUS={kind}".encode(), os.environ["NOTIFY_SOCKET"])
while True:
    signal.pause()
"#;

fn runner(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../units/runner");
    folder.join(name).display().to_string()
}

/// A zygote that imports `module` of the node's folder.
fn zygote(builder: &NodeBuilder, module: &str) -> Unit {
    let script = runner("ringrift_zygote.py");
    Unit::command(&["python3", &script, "--path", &builder.path(""), module]).kind("zygote")
}

/// A unit that is forked from `z`.
fn daemon(builder: &NodeBuilder) -> Unit {
    Unit::command(&["python3", &builder.path("daemon.py"), "word"])
        .kind("notify")
        .text("exec.zygote", "z")
        .set("exec.env", "{ WORD = \"a b\", PYTHONPATH = \".\" }")
        .text("exec.working_dir", &builder.path(""))
}

fn node(change: impl FnOnce(NodeBuilder) -> NodeBuilder) -> NodeBuilder {
    let builder = Node::builder();
    let (z, a) = (zygote(&builder, "preloaded"), daemon(&builder));
    let builder = builder
        .file("preloaded.py", PRELOADED)
        .file("daemon.py", DAEMON)
        .spare("z", &z)
        .unit("a", &a);
    change(builder)
}

/// Which zygote it says that it was forked from.
#[track_caller]
fn origin(node: &Node, unit: &str) -> Option<i32> {
    let told = node.wait_unit(unit, "told where it comes from", |u| {
        u.state == State::Running && u.status_text.is_some()
    });
    let text = told.status_text.expect("it was waited for");
    match text.strip_prefix("forked from ") {
        Some(pid) => Some(pid.parse().expect("a pid")),
        None => {
            assert_eq!(text, "executed");
            None
        }
    }
}

#[track_caller]
fn process(node: &Node, unit: &str) -> Process {
    Process::read(node.pid(unit)).expect("it lives")
}

both_ways! {
    /// A forked unit is the keeper's own child, in its own session and cgroup, with its own environment and log; its ends are told
    /// with their codes, and a stop leaves nothing of it.
    fn a_forked_unit_is_what_an_executed_one_is(mode) {
        let node = node(|b| b.containment(mode)).start();
        let z = node.pid("z");
        assert_eq!(origin(&node, "a"), Some(z));
        assert_eq!(node.unit("a").note, None);
        let a = process(&node, "a");
        assert_eq!(a.ppid, node.keeper());
        assert_eq!((a.unit(), a.is_main_role()), (Some("a"), true));
        assert_eq!(a.invocation(), node.unit("a").invocation.as_deref());
        assert_eq!(a.argv.last().map(String::as_str), Some("word"));
        assert_eq!(nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(a.pid))).map(|s| s.as_raw()), Ok(a.pid));
        if mode == harness::Containment::Cgroup {
            let group = processes::cgroup_of(a.pid).expect("it has one");
            assert!(group.file_name().is_some_and(|name| name.to_string_lossy().starts_with("a.")), "{group:?}");
        }
        let line = format!("forked from {z}: word a b in {}", node.path("").display().to_string().trim_end_matches('/'));
        until("its line is in its log", || node.ctl(&["logs", "a"]).stdout.contains(&line).then_some(()));

        node.ctl(&["kill", "a", "--signal", "USR1"]).ended(0);
        let again = node.wait_unit("a", "restarted", |u| u.restarts == 1 && u.state == State::Running);
        assert_eq!(again.last_exit.map(|last| last.exit), Some(Exit::Code(7)));
        assert_eq!(origin(&node, "a"), Some(z));
        node.ctl(&["kill", "a", "--signal", "KILL"]).ended(0);
        let again = node.wait_unit("a", "restarted", |u| u.restarts == 2 && u.state == State::Running);
        assert_eq!(again.last_exit.map(|last| last.exit), Some(Exit::Signal { signal: 9, core: false }));
        assert_eq!(origin(&node, "a"), Some(z));

        let last = node.pid("a");
        node.ctl(&["stop", "a"]).ended(0);
        assert!(Process::read(last).is_none_or(|p| !p.is_alive()));
        assert_eq!(node.pid("z"), z, "the zygote is the same");
        node.check();
    }

    /// Whoever of ringriftd dies, and whatever it is replaced by, what was forked lives on and is known again.
    fn a_forked_unit_survives_all_that_an_executed_one_survives(mode) {
        let mut node = node(|b| b.containment(mode).spare("other", &Unit::bad(&["run"]))).start();
        let z = node.pid("z");
        assert_eq!(origin(&node, "a"), Some(z));
        let mains = node.mains();
        node.crash_manager();
        node.assert_same_mains(&mains);
        node.ctl(&["restart", "a"]).ended(0);
        assert_eq!(origin(&node, "a"), Some(z), "the zygote is known to the next manager");

        let mains = node.mains();
        node.ctl(&["upgrade"]).ended(0);
        node.note_roles();
        node.assert_same_mains(&mains);
        node.ctl(&["restart", "a"]).ended(0);
        assert_eq!(origin(&node, "a"), Some(z), "the zygote is known to the next program");

        // What is acknowledged is on disk.
        node.ctl(&["hold", "other"]).ended(0);
        let a = process(&node, "a");
        node.kill_daemon();
        node.start_again();
        let after = process(&node, "a");
        assert_eq!((after.pid, after.start_time), (a.pid, a.start_time), "it was adopted, by its mark");
        // Its zygote went with the keeper, whose child no child of its would be; another one is there.
        let next = node.wait_unit("z", "started again", |u| u.state == State::Running && u.pid != Some(z.cast_unsigned()));
        node.ctl(&["restart", "a"]).ended(0);
        assert_eq!(origin(&node, "a").map(i32::cast_unsigned), next.pid);
        node.check();
    }
}

/// A zygote that dies touches nobody. Until it is back, who prefers it is executed and says why; who requires it waits.
#[test]
fn without_its_zygote_a_unit_is_executed_or_waits() {
    let node = node(|b| {
        let strict = daemon(&b).text("exec.zygote_mode", "require");
        b.unit("strict", &strict)
    })
    .start();
    let z = node.pid("z");
    assert_eq!((origin(&node, "a"), origin(&node, "strict")), (Some(z), Some(z)));
    let mains = node.mains();
    // Held, so that nobody pulls it in.
    node.ctl(&["hold", "z"]).ended(0);
    node.ctl(&["stop", "z"]).ended(0);
    let left = mains.into_iter().filter(|main| main.0 != "z").collect();
    node.assert_same_mains(&left);

    node.ctl(&["restart", "a"]).ended(0);
    assert_eq!(origin(&node, "a"), None);
    let why = "executed, not forked: its zygote is not ready";
    assert_eq!(node.unit("a").note.as_deref(), Some(why));
    node.ctl(&["restart", "strict", "--no-block"]).ended(0);
    let waits = node.wait_unit("strict", "waits", |u| u.state == State::Waiting);
    assert!(!waits.blocked_by.is_empty(), "{waits:?}");

    node.ctl(&["unhold", "z"]).ended(0);
    node.ctl(&["start", "z"]).ended(0);
    let z = node.pid("z");
    assert_eq!(origin(&node, "strict"), Some(z));
    node.ctl(&["restart", "a"]).ended(0);
    assert_eq!(origin(&node, "a"), Some(z));
    assert_eq!(node.unit("a").note, None);
    node.check();
}

/// A zygote that is killed is restarted like any unit; what was forked from it has other things to do.
#[test]
fn a_killed_zygote_comes_back_and_what_it_forked_stays() {
    let node = node(|b| b).start();
    let (z, a) = (node.pid("z"), node.pid("a"));
    assert_eq!(origin(&node, "a"), Some(z));
    node.ctl(&["kill", "z", "--signal", "KILL"]).ended(0);
    node.wait_unit("z", "restarted", |u| u.restarts == 1 && u.state == State::Running);
    assert_eq!(node.pid("a"), a);
    // It runs what was read before, and is marked for it until it is restarted.
    let older = Some("older code than z has now");
    assert_eq!(node.unit("a").note.as_deref(), older);
    node.ctl(&["restart", "a"]).ended(0);
    assert_eq!(origin(&node, "a"), Some(node.pid("z")));
    assert_eq!(node.unit("a").note, None);
    node.check();
}

/// A zygote that has started threads cannot fork: it names them, and the unit says so.
#[test]
fn a_zygote_with_threads_is_no_use_and_says_why() {
    let node = node(|b| {
        let text = format!(
            "{PRELOADED}import threading\nthreading.Thread(target=threading.Event().wait, name='sampler', daemon=True).start()\n"
        );
        b.file("preloaded.py", &text)
    })
    .start();
    assert_eq!(origin(&node, "a"), None);
    let why = "executed, not forked: its zygote refused: 1 more threads run here: sampler";
    assert_eq!(node.unit("a").note.as_deref(), Some(why));
    let text = node.unit("z").status_text;
    assert_eq!(
        text.as_deref(),
        Some("cannot fork: 1 more threads run here: sampler")
    );
    node.check();
}

/// A manager that dies while a launch waits at a hung zygote: the launch is executed, so that the next manager hears of it.
#[test]
fn a_manager_that_dies_while_a_zygote_hangs_is_told_by_the_next_answer() {
    let mut node = node(|b| b).start();
    let (z, a) = (node.pid("z"), node.pid("a"));
    node.ctl(&["kill", "z", "--signal", "STOP"]).ended(0);
    node.ctl(&["restart", "a", "--no-block"]).ended(0);
    node.wait_unit("a", "started again", |u| {
        // Running already, where a look at it took longer than a zygote may.
        matches!(u.state, State::Starting | State::Running) && u.pid != Some(a.cast_unsigned())
    });
    let before = node.kill_role(Role::Manager);
    node.wait_manager_after(&before);
    node.ctl(&["kill", "z", "--signal", "CONT"]).ended(0);
    match origin(&node, "a") {
        // It was asked for by the next manager only.
        Some(of) => assert_eq!(of, z),
        None => {
            let note = node.unit("a").note.unwrap_or_default();
            // The latter where all of this took longer than a zygote may.
            let whys = ["the manager ended meanwhile", "did not answer within"];
            assert!(whys.iter().any(|why| note.contains(why)), "{note}");
        }
    }
    node.check();
}
