//! `ringriftd --record` and `ringriftd simulate --replay`: what the engine of a real daemon did, it does again. Every other
//! node of these tests is recorded and replayed too, when it is dropped (`Node::check_recording`).

use harness::processes::Held;
use harness::{Node, PATIENCE, Unit, ctl};
use proto::reply::State;

fn simulate(args: &[&str]) -> ctl::Output {
    let args: Vec<&str> = ["simulate"].iter().chain(args).copied().collect();
    ctl::run(harness::programs::ringriftd(), &args, PATIENCE, |_| {})
}

/// The manager dies, the files change, a unit fails: one recording tells it all, and gives the same again.
#[test]
fn a_recording_tells_it_all_and_gives_the_same_again() {
    let mut node = Node::builder()
        .unit("a", &Unit::bad(&["run"]))
        .unit("b", &Unit::bad(&["run"]).requires(&["a"]))
        .start();
    let manager = Held::open(node.manager()).expect("it lives");
    manager.signal(libc::SIGKILL);
    assert!(manager.wait(PATIENCE), "a manager survived SIGKILL");
    node.wait_listening();
    node.ctl(&["restart", "a", "--yes"]).ended(0);
    std::fs::write(node.path("units/a.toml"), Unit::bad(&["exit", "3"]).to_toml()).expect("it is ours");
    node.ctl(&["daemon-reload"]).ended(0);
    node.ctl(&["restart", "a", "--yes"]).ended(1);
    node.wait_unit("b", "down", |unit| unit.state != State::Running);
    node.note_roles();
    node.shutdown();

    let recording = node.path("recording");
    let recording = recording.to_str().expect("a path of text");
    let told = simulate(&["--replay", recording, "--json"]).ended(0).json();
    assert_eq!(told["schema"], "ringrift.v1.simulate");
    assert_eq!(told["sections"], 2, "one for each manager: {told}");
    assert_eq!(told["notes"], serde_json::json!([]));
    let trace = simulate(&["--replay", recording, "--trace"]).ended(0).stdout;
    for word in [
        "\"Loaded\"",
        "\"Resume\"",
        "\"Shutdown\"",
        "\"Finish\"",
        "exited with code 3",
        "the same: ",
    ] {
        assert!(trace.contains(word), "{word} is missing:\n{trace}");
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(recording).expect("it is there"));
    assert_eq!(mode & 0o777, 0o600, "it has the units' variables");
}

#[test]
fn what_is_no_recording_is_refused() {
    let node = Node::builder().start();
    let stderr = node.path("stderr");
    let refused = simulate(&["--replay", stderr.to_str().expect("a path of text")]);
    refused.ended(2);
    let refused = simulate(&["--replay", "/nonexistent", "--json"]).ended(2).json();
    assert!(
        refused["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("/nonexistent"))
    );
    node.check();
}

/// A recording that cannot be made is told and costs nothing else; what lies in its place is left as it is.
#[test]
fn a_recording_that_cannot_be_made_is_told() {
    let builder = Node::builder()
        .file("precious", "mine")
        .unit("a", &Unit::bad(&["run"]));
    let path = builder.path("precious");
    let node = builder.args(&["--record", &path]).start();
    let notices = node.status_of(&[]).0.notices.join("\n");
    assert!(notices.contains("is no recording"), "{notices}");
    assert_eq!(node.read("precious"), "mine");
    node.check();
}
