//! The cascade breaker, by the real binaries: what an operator sees of it, what outlives the manager, and how it is reset.

use std::process::Command;

use harness::http::Door;
use harness::terminal::Terminal;
use harness::{Node, Unit, processes, programs, until};
use proto::reply::State;
use serde_json::json;

/// Two restarts of `sync` are made, the third waits: status, why, events, HTTP and the exit codes say so, also after the manager
/// has died; `reset-failed` ends it.
#[test]
fn too_many_restarts_pause_until_somebody_says_that_it_is_mended() {
    let unit = || {
        Unit::bad(&["run", "--usr1-code", "3"])
            .text("category", "sync")
            .text("restart.delay", "10ms")
            .set("restart.jitter", "0")
    };
    let builder = Node::builder()
        .config("[breaker]\nstartup_grace = \"0s\"\n[breaker.sync]\nrestarts = 2\ncooldown = \"1h\"")
        .unit("a", &unit())
        .unit("b", &unit())
        .unit("c", &unit())
        .unit("vital", &unit().set("critical", "true"))
        .unit("other", &unit().text("category", "event"));
    let door = Door::in_folder(&builder.path(""));
    let mut node = builder.args(&["--http", &door.text()]).start();
    door.wait(&node);
    let crash = |node: &Node, name: &str| processes::signal(node.pid(name), libc::SIGUSR1);
    let comes_back = |node: &Node, name: &str, starts: u64| {
        crash(node, name);
        node.wait_unit(name, "is restarted", |u| {
            u.state == State::Running && u.starts == starts
        });
    };
    comes_back(&node, "a", 2);
    comes_back(&node, "b", 2);
    crash(&node, "c");
    let held = node.wait_unit("c", "waits", |u| u.state == State::Waiting);
    assert!(
        held.blocked_by[0]
            .why
            .contains("the breaker of category sync is open"),
        "{held:?}"
    );
    assert!(held.next_try_us.is_some());
    comes_back(&node, "vital", 2);
    comes_back(&node, "other", 2);

    let mut command = Command::new(programs::ringriftctl());
    command.arg("--socket").arg(node.socket()).arg("top");
    let mut top = Terminal::run(command, 100, 24);
    top.wait_for("◌ the breaker of category sync is open, and closes in 5");
    top.wait_for("1 breaker open");
    if let Some(path) = std::env::var_os("RINGRIFT_PICTURES") {
        let path = std::path::Path::new(&path).join("top-breaker.txt");
        std::fs::write(path, top.screen().contents()).expect("a picture can be written");
    }
    top.keys("q");
    assert_eq!(top.end(), 0);
    top.assert_whole();

    let says_so = |node: &Node| {
        let status = node.ctl(&["status"]).ended(3);
        assert!(
            status
                .stdout
                .contains("the breaker of category sync is open, and closes in 5"),
            "{status}"
        );
        assert!(status.stdout.contains("c waits for it"), "{status}");
        let json = node.ctl(&["status", "--json"]).ended(3).json();
        let sync = &json["breakers"][1];
        assert_eq!(
            (&sync["category"], &sync["held"]),
            (&json!("sync"), &json!(["c"])),
            "{json}"
        );
        assert_eq!(sync["open"]["unit"], json!("c"));
        let why = node.ctl(&["why", "c"]).ended(3);
        assert!(
            why.stdout.contains("the breaker of category sync is open"),
            "{why}"
        );
        assert!(why.stdout.contains("reset-failed c"), "{why}");
        let refused = node.ctl(&["start", "c"]).ended(7);
        assert!(refused.text().contains("reset-failed"), "{refused}");
    };
    says_so(&node);
    node.crash_manager();
    says_so(&node);

    until("HTTP says so too", || {
        let breakers = &door.get("/status").json()["breakers"];
        (breakers[1]["held"] == json!(["C"]) && breakers[1]["open"]["unit"] == json!("C")).then_some(())
    });
    assert_eq!(
        door.get("/dashboard.json").json()["breakers"][1]["category"],
        json!("sync")
    );
    for (sample, value) in [
        ("ringrift_breaker_open{category=\"sync\"}", 1.0),
        ("ringrift_breaker_open{category=\"\"}", 0.0),
        ("ringrift_breaker_trips_total{category=\"sync\"}", 1.0),
        ("ringrift_breaker_held_units{category=\"sync\"}", 1.0),
    ] {
        assert_eq!(door.metric(sample), Some(value), "{sample}");
    }

    node.ctl(&["reset-failed"]).ended(0);
    node.wait_state("c", State::Running);
    let history = node.history();
    let find = |word: &str| {
        history
            .iter()
            .find(|event| event.event == word)
            .expect("it was told")
    };
    let tripped = find("DAEMON_CASCADE_BREAKER_TRIPPED");
    assert_eq!((tripped.unit.as_str(), tripped.cause.seq.is_some()), ("c", true));
    let closed = find("DAEMON_CASCADE_RECOVERY_COMPLETE");
    assert_eq!(closed.cause.seq, Some(tripped.seq));
    assert_eq!(
        closed.cause.by.as_ref().map(|by| by.verb.as_str()),
        Some("reset-failed")
    );
    node.ctl(&["status"]).ended(0);
    comes_back(&node, "a", 3);
    node.check();
}
