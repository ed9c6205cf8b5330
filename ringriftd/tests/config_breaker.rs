//! `[breaker]` and its categories, as files say them.

mod config_support;

use config_support::{Node, says};

#[test]
fn limits_on_restarts_fill_up_from_the_nodes_and_are_checked() {
    use std::time::Duration;
    let node = Node::new();
    node.unit("a", "category = \"sync\"");
    node.unit("b", "");
    assert_eq!(
        node.loads(&[]).plan.node.breaker,
        ringriftd::breaker::BreakerSpec::default(),
        "15 within 5m, 2m, 3m of grace: those of 2025-12-31"
    );
    node.file(
        "ringriftd.toml",
        "[breaker]\nrestarts = 9\nwindow = \"1m\"\nstartup_grace = \"0s\"\nexempt = [\"b*\"]\n\
         [breaker.sync]\ncooldown = \"7s\"\ncounts_for_node = false\n[breaker.misc]\nrestarts = \"unlimited\"\n",
    );
    let breaker = node.loads(&[]).plan.node.breaker.clone();
    assert_eq!(
        (breaker.node.restarts, breaker.startup_grace),
        (Some(9), Duration::ZERO)
    );
    assert!(breaker.exempt.iter().map(|name| name.as_str()).eq(["b"]));
    let sync = breaker.categories["sync"];
    assert_eq!((sync.limit.restarts, sync.limit.window.as_secs()), (Some(9), 60));
    assert_eq!((sync.limit.cooldown.as_secs(), sync.is_for_node), (7, false));
    let misc = breaker.categories["misc"];
    assert_eq!((misc.limit.restarts, misc.is_for_node), (None, true));

    for (text, said) in [
        ("[breaker]\nrestarts = 0", "from 1 to 1000"),
        ("[breaker]\ncooldown = \"0s\"", "ringriftd.toml:2:12"),
        ("[breaker]\nrestart = 4", "did you mean \"restarts\""),
        (
            "[breaker]\nexempt = [\"nobody\"]",
            "named in \"exempt\" of [breaker]",
        ),
        ("[breaker.sync]\nstartup_grace = \"1s\"", "ringriftd.toml:2:1"),
        ("[breaker]\nsync = 4", "ringriftd.toml:2:1"),
    ] {
        node.file("ringriftd.toml", text);
        says(&node.fault(&[]), &[said]);
    }
    node.file("ringriftd.toml", "[breaker.snyc]\nrestarts = 4");
    let warnings = node.loads(&[]).warnings;
    let warning = warnings
        .iter()
        .map(ToString::to_string)
        .find(|w| w.contains("snyc"));
    says(
        &warning.expect("a category that no unit has"),
        &["ringriftd.toml:1:", "so this limit has no effect", "\"sync\""],
    );
}
