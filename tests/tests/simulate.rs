//! `ringriftd simulate`: an operator's own profile, with faults at chosen times, by the clock of the simulation.

use harness::{Node, PATIENCE, Unit, ctl};
use serde_json::Value;

fn simulate(node: &Node, args: &[&str]) -> ctl::Output {
    let places = node.places();
    // What only a daemon takes.
    let folders = ["--runtime-dir", "--state-dir", "--log-dir"];
    let places = places.iter().map(String::as_str);
    let args: Vec<&str> = ["simulate"]
        .into_iter()
        .chain(places)
        .chain(args.iter().copied())
        .collect();
    assert!(
        folders.iter().all(|folder| args.contains(folder)),
        "they are taken, and not used"
    );
    ctl::run(harness::programs::ringriftd(), &args, PATIENCE, |_| {})
}

fn json(node: &Node, args: &[&str], code: i32) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    simulate(node, &args).ended(code).json()
}

fn notify() -> Unit {
    Unit::bad(&["run"]).text("exec.kind", "notify")
}

fn simple() -> Unit {
    Unit::bad(&["run"]).text("exec.kind", "simple")
}

fn kinds(value: &Value) -> Vec<&str> {
    let findings = value["findings"].as_array().expect("a list");
    findings
        .iter()
        .filter_map(|finding| finding["kind"].as_str())
        .collect()
}

/// Every kind of unit comes up, and with the same seed the same happens.
#[test]
fn one_seed_gives_one_story() {
    let node = Node::builder()
        .unit("simple", &simple())
        .unit("notify", &notify().requires(&["simple"]))
        .unit(
            "fd",
            &Unit::bad(&["run"]).text("exec.kind", "fd").requires(&["notify"]),
        )
        .unit(
            "forking",
            &Unit::bad(&["run"]).text("exec.kind", "forking").requires(&["fd"]),
        )
        .unit(
            "oneshot",
            &Unit::bad(&["run"])
                .text("exec.kind", "oneshot")
                .requires(&["forking"]),
        )
        .prepare();
    let first = json(&node, &["--trace", "--kill", "forking@1m", "--for", "2m"], 0);
    assert_eq!(first["schema"], "ringrift.v1.simulate");
    assert!(
        first["settled_at_s"].as_f64().is_some_and(|at| at < 30.0),
        "{first}"
    );
    let out = first["outages"].as_array().expect("a list");
    assert_eq!(out[0]["unit"], "forking", "{first}");
    assert!(
        out[0]["longest_s"].as_f64().is_some_and(|s| s > 0.5 && s < 60.0),
        "{first}"
    );
    assert_eq!(out[0]["starts"], 2);
    assert_eq!(
        json(&node, &["--trace", "--kill", "forking@1m", "--for", "2m"], 0),
        first
    );
    let other = json(
        &node,
        &["--trace", "--kill", "forking@1m", "--for", "2m", "--seed", "2"],
        0,
    );
    assert_ne!(other["trace"], first["trace"], "another seed tells another story");
    let text = simulate(&node, &["--kill", "FORKING@1m", "--for", "2m"])
        .ended(0)
        .stdout;
    assert!(
        text.contains("*** forking was killed") && text.contains("no findings"),
        "{text}"
    );
    assert!(
        !text.contains("ringriftd started"),
        "before the first fault nothing is told: {text}"
    );
}

/// One that gave up while it could not run is down for good, and whoever requires it.
#[test]
fn a_unit_that_never_comes_back_is_found() {
    let node = Node::builder()
        .unit(
            "a",
            &notify()
                .set("restart.max_restarts", "2")
                .text("restart.exhausted", "give_up"),
        )
        .unit("b", &notify().requires(&["a"]))
        .prepare();
    let told = json(&node, &["--down", "a@30s:2m", "--for", "30m"], 1);
    assert_eq!(kinds(&told), ["never_came_back", "never_came_back"], "{told}");
    let text = told["findings"].to_string();
    assert!(text.contains("a is failed at the end, since 30.000s"), "{text}");
    // With slow tries it comes back, and the outage is told.
    std::fs::write(
        node.path("units/a.toml"),
        notify().text("restart.retry_every", "5m").to_toml(),
    )
    .expect("it is ours");
    let told = json(&node, &["--down", "a@30s:2m", "--for", "30m"], 0);
    let out = told["outages"].as_array().expect("a list");
    assert_eq!(out.len(), 2, "{told}");
    assert!(
        out.iter()
            .all(|unit| unit["is_out"] == false && unit["longest_s"].as_f64() > Some(100.0)),
        "{told}"
    );
    // A fault that lasts to the end is none of the configuration's.
    json(&node, &["--down", "a@30s:1h", "--for", "10m"], 0);
}

/// A unit that counts as ready as soon as it runs takes along, again and again, those that trust that.
#[test]
fn a_unit_that_is_stopped_twice_for_one_fault_is_found() {
    let node = Node::builder()
        .unit(
            "a",
            &simple()
                .text("restart.delay", "6s")
                .text("restart.max_delay", "6s"),
        )
        .unit(
            "b",
            &notify()
                .requires(&["a"])
                .text("on_dependency.restarted", "restart"),
        )
        .prepare();
    let told = json(&node, &["--down", "a@30s:20s", "--for", "5m"], 1);
    assert_eq!(kinds(&told), ["restarted_twice"], "{told}");
    let text = told["findings"].to_string();
    assert!(
        text.contains("b was stopped twice after a cannot run until 50.000s"),
        "{text}"
    );
}

/// Twenty units start within a second when the one that they require comes back.
#[test]
fn a_storm_is_found() {
    let mut builder = Node::builder().unit("a", &notify());
    for n in 0..20 {
        let unit = notify()
            .requires(&["a"])
            .text("on_dependency.restarted", "restart");
        builder = builder.unit(&format!("s{n:02}"), &unit);
    }
    let node = builder.prepare();
    let told = json(&node, &["--kill", "a@1m", "--for", "5m"], 1);
    assert_eq!(kinds(&told), ["storm"], "{told}");
    assert_eq!(
        told["peak_starts_per_s"]["after"], 21,
        "with the one that they require: {told}"
    );
}

#[test]
fn a_wrong_use_and_wrong_files_are_told() {
    let node = Node::builder().unit("cache", &notify()).prepare();
    let refused = simulate(&node, &["--kill", "cahce@1m"]).ended(2);
    assert!(refused.stderr.contains("did you mean \"cache\""), "{refused}");
    simulate(&node, &["--kill", "cache"]).ended(2);
    simulate(&node, &["--down", "cache:5"]).ended(2);
    simulate(&node, &["--replay", "x", "--kill", "cache@1m"]).ended(2);
    std::fs::write(node.path("units/cache.toml"), "nonsense = 1").expect("it is ours");
    let refused = simulate(&node, &[]).ended(8);
    assert!(refused.stderr.contains("cache.toml:1"), "{refused}");
    assert_eq!(json(&node, &[], 8)["error"]["code"], 8);
}
