//! `ringriftctl top` on a terminal of its own, over a real node.

use std::process::Command;

use harness::terminal::Terminal;
use harness::{Node, PATIENCE, Unit, programs, until};
use proto::reply::State;

fn top(node: &Node, columns: u16, rows: u16) -> Terminal {
    let mut command = Command::new(programs::ringriftctl());
    command.arg("--socket").arg(node.socket()).arg("top");
    Terminal::run(command, columns, rows)
}

fn node() -> Node {
    let node = Node::builder()
        .unit("db", &Unit::bad(&["run"]))
        .unit(
            "s3_sync",
            &Unit::command(&[
                "/bin/sh",
                "-c",
                "printf 'evil \\033]0;title\\007\\033[2J words\\n'; exit 3",
            ])
            .requires(&["db"])
            .once(),
        )
        .unit("auto_sync", &Unit::bad(&["run"]).requires(&["s3_sync"]))
        .unit("worker", &Unit::bad(&["run"]).requires(&["db"]))
        .start();
    node.wait_state("s3_sync", State::Failed);
    node
}

/// What is wrong and why, on the smallest usual terminal; keys act, after a y; q leaves with 0.
#[test]
fn an_operator_sees_what_is_wrong_and_acts() {
    let node = node();
    let mut top = top(&node, 80, 24);
    top.wait_for("failed, 1 of 4 units down for good");
    top.wait_for("✗ s3_sync");
    top.wait_for("holds up 1");
    assert!(top.screen().alternate_screen() && top.screen().hide_cursor());
    // Its log, escaped.
    top.keys("l");
    top.wait_for(r"evil \x1b]0;title\x07\x1b[2J words");
    // The failure as it was kept, with what it used and its last words.
    top.keys("lg");
    top.keys("/s3\r");
    top.wait_for("filter \"s3\"");
    top.keys("dz");
    top.wait_for("failed  ");
    top.wait_for("exit 3, lived ");
    top.wait_for(r"│ evil \x1b]0;title\x07\x1b[2J words");
    top.keys("zd");
    top.keys("\u{1b}");
    top.wait("the filter is gone", |s| !s.contents().contains("filter \"s3\""));
    // What it holds up, and why.
    top.keys("/auto\r");
    top.wait_for("filter \"auto\"");
    top.keys("d");
    top.wait_for("root cause  s3_sync failed");
    top.keys("d");
    top.wait("the pane is gone", |s| !s.contents().contains("root cause"));
    top.keys("\u{1b}");
    top.wait("the filter is gone", |s| {
        !s.contents().contains("filter \"auto\"")
    });
    // A stop that is not confirmed does nothing; one that is, does.
    let before = node.pid("worker");
    top.keys("/worker\r");
    top.wait_for("filter \"worker\"");
    top.keys("x");
    top.wait_for("stop worker? [y/N]");
    top.keys("n");
    top.wait_for("stop worker: not done");
    assert_eq!(node.pid("worker"), before);
    top.keys("r");
    top.wait_for("restart worker? [y/N]");
    top.keys("y");
    top.wait_for("✓ restart worker");
    assert_ne!(node.pid("worker"), before);
    top.keys("x");
    top.wait_for("stop worker? [y/N]");
    top.keys("y");
    node.wait_state("worker", State::Stopped);
    top.wait_for("✓ stop worker");
    // Whoever stopped it still sees it.
    top.wait_for("○ worker");
    top.keys("h");
    top.wait_for("hold worker? [y/N]");
    top.keys("y");
    top.wait_for("‖ worker");
    assert!(node.unit("worker").held.is_some());
    top.keys("u");
    top.wait_for("unhold worker? [y/N]");
    top.keys("y");
    top.wait_for("✓ unhold worker");
    top.keys("s");
    top.wait_for("start worker? [y/N]");
    top.keys("y");
    node.wait_state("worker", State::Running);
    top.wait_for("● worker");
    top.keys("q");
    assert_eq!(top.end(), 0);
    top.assert_whole();
    node.check();
}

/// Drawn anew, and after Ctrl-Z where no shell could bring it back (its group is an orphan, which the kernel does not
/// stop): the picture is whole, and keys are still heard.
#[test]
fn the_picture_is_drawn_anew_when_asked() {
    let node = node();
    let mut top = top(&node, 80, 24);
    for key in ["\u{c}", "\u{1a}"] {
        top.wait_for("● worker");
        top.forget();
        top.keys(key);
        top.wait("the whole picture", |s| {
            let text = s.contents();
            text.contains("● worker") && text.contains("? help") && text.contains("failed, 1 of 4")
        });
        top.keys("?");
        top.wait_for("any key closes this");
        top.keys(" ");
        top.wait("the help is gone", |s| {
            !s.contents().contains("any key closes this")
        });
    }
    top.keys("q");
    assert_eq!(top.end(), 0);
    top.assert_whole();
    node.check();
}

/// A stop that takes others along names them and asks a second time.
#[test]
fn what_else_a_stop_takes_along_is_asked_for() {
    let node = node();
    let mut top = top(&node, 100, 24);
    top.wait_for("● worker");
    top.keys("/db\r");
    top.wait("only db is shown", |s| !s.contents().contains("● worker"));
    top.keys("x");
    top.wait_for("stop db? [y/N]");
    top.keys("y");
    top.wait_for("stop db, and what it touches: ");
    top.wait_for("worker");
    assert_eq!(node.unit("worker").state, State::Running);
    top.keys("y");
    node.wait_state("worker", State::Waiting);
    node.wait_state("db", State::Stopped);
    top.wait_for("○ db");
    top.keys("\u{3}");
    assert_eq!(top.end(), 0);
    top.assert_whole();
    node.check();
}

/// A manager that dies is seen, and the picture goes on with the next one.
#[test]
fn top_outlives_the_manager() {
    let mut node = node();
    let mut top = top(&node, 120, 30);
    top.wait_for("● worker");
    top.wait_for("live");
    node.crash_manager();
    top.wait_for("connected again");
    let stopped = node.ctl(&["stop", "worker"]);
    assert_eq!(stopped.code, Some(0), "{stopped}");
    top.wait_for("○ worker");
    top.keys("q");
    assert_eq!(top.end(), 0);
    top.assert_whole();
    node.check();
}

/// Whatever ends it, the terminal is as it was: its flags, the usual screen, the cursor.
#[test]
fn every_end_leaves_the_terminal_whole() {
    let node = node();
    for (signal, code) in [
        (libc::SIGTERM, 130),
        (libc::SIGHUP, 130),
        (libc::SIGINT, 130),
        (0, 0),
    ] {
        let mut top = top(&node, 80, 24);
        top.wait_for("● worker");
        if signal == 0 {
            top.keys("\u{3}");
        } else {
            harness::processes::signal(top.child.id() as i32, signal);
        }
        assert_eq!(top.end(), code, "signal {signal}");
        top.assert_whole();
    }
    node.check();
}

/// A terminal that takes nothing (a stopped ssh) keeps nobody from leaving, and is whole when it is read again.
#[test]
fn a_frozen_terminal_holds_up_no_signal() {
    let node = node();
    let mut top = top(&node, 132, 43);
    top.wait_for("● worker");
    let reading = top.reading();
    let frozen = reading.lock().expect("reading does not panic");
    let mut looks = 0;
    until("nothing more goes in", || {
        // The whole picture, again. One look may only have met a write.
        top.keys("\u{c}");
        looks = if top.is_full() { looks + 1 } else { 0 };
        (looks == 10).then_some(())
    });
    harness::processes::signal(top.child.id() as i32, libc::SIGTERM);
    let ended = harness::ctl::wait(&mut top.child, PATIENCE).expect("it ends while nobody reads");
    assert_eq!(ended.code(), Some(130));
    drop(frozen);
    assert_eq!(top.end(), 130);
    top.assert_whole();
    node.check();
}

#[test]
fn every_size_is_drawn_and_a_new_one_is_taken() {
    let node = node();
    let mut top = top(&node, 80, 24);
    top.wait_for("● worker");
    for (columns, rows) in [(20, 4), (8, 2), (1, 1), (132, 43), (40, 10)] {
        top.resize(columns, rows);
    }
    top.wait_for("? help");
    top.wait_for("● worker");
    top.keys("q");
    assert_eq!(top.end(), 0);
    top.assert_whole();
    node.check();
}

/// Without a terminal there is nothing to draw on: one clear line, exit 2, and no sequence for any terminal.
#[test]
fn without_a_terminal_top_says_so() {
    let node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let output = node.ctl(&["top"]).ended(2);
    assert!(output.stderr.contains("top draws on a terminal"), "{output}");
    assert!(
        output.stdout.is_empty() && !output.stderr.contains('\u{1b}'),
        "{output}"
    );
    let json = node.ctl(&["top", "--json"]).ended(2).json();
    assert_eq!(json["schema"], "ringrift.v1.error");
    // No daemon: as every verb says it, and the terminal is not touched.
    let mut command = Command::new(programs::ringriftctl());
    command.args(["--socket", "/nonexistent/control.sock", "top"]);
    let mut lost = Terminal::run(command, 80, 24);
    assert_eq!(lost.end(), 69);
    assert!(
        lost.text().contains("no ringriftd is running here"),
        "{}",
        lost.text()
    );
    lost.assert_whole();
    node.check();
}

/// The pictures of `docs/screens.md`. With RINGRIFT_BLESS=1 they are written anew.
#[test]
fn pictures_for_the_documentation() {
    let mut builder = Node::builder();
    for (name, needs, category) in [
        ("event_router", &[][..], "event"),
        ("data_pipeline", &["event_router"], "pipeline"),
        ("feedback_loop", &["event_router"], "event"),
        ("s3_backup", &["event_router"], "sync"),
        ("auto_sync", &["data_pipeline", "feedback_loop"], "sync"),
        ("cluster_monitor", &["event_router"], "health"),
        ("queue_populator", &["event_router"], "queue"),
        ("model_distribution", &["s3_backup"], "distribution"),
        ("npz_distribution", &["s3_backup"], "distribution"),
        ("auto_promotion", &["model_distribution"], "evaluation"),
        ("tournament_daemon", &["event_router"], "evaluation"),
        ("quality_monitor", &["data_pipeline"], "quality"),
    ] {
        let unit = match name {
            "s3_backup" => Unit::command(&["/bin/sh", "-c", "echo connecting to the bucket; echo 'OSError: [Errno 28] No space left on device: /var/lib/ringrift/games.db'; exit 1"]).once(),
            _ => Unit::bad(&["run"]),
        };
        builder = builder.unit(name, &unit.requires(needs).text("category", category));
    }
    let node = builder.start();
    node.wait_state("s3_backup", State::Failed);
    let mut top = top(&node, 100, 32);
    top.wait_for("✗ s3_backup");
    top.keys("td");
    top.wait_for("exit 1, lived ");
    top.wait_for("requires  event_router");
    let folder = programs::checkout().join("docs/screens");
    let bless = std::env::var_os("RINGRIFT_BLESS").is_some();
    let picture = top.svg();
    assert!(
        picture.contains("s3_backup") && picture.ends_with("</svg>\n"),
        "{picture}"
    );
    top.keys("q");
    assert_eq!(top.end(), 0);
    let mut command = Command::new(programs::ringriftctl());
    command.env("RINGRIFT_SOCKET", node.socket()).arg("status");
    let mut status = Terminal::run(command, 100, 27);
    assert_eq!(status.end(), 3);
    assert!(status.text().contains("next: "), "{}", status.text());
    if bless {
        std::fs::create_dir_all(&folder).expect("a folder for pictures");
        std::fs::write(folder.join("top.svg"), picture).expect("a picture can be written");
        std::fs::write(folder.join("status.svg"), status.svg()).expect("a picture can be written");
    }
    node.check();
}
