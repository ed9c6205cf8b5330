//! `[exec] zygote`: what follows from it, and what does not fit, told at its place.

mod config_support;

use config_support::{Node, says};
use ringriftd::config::Loaded;
use ringriftd::spec::{Kind, OnFailed, UnitName, UnitSpec, UseZygote};

const ZYGOTE: &str = "[exec]\nkind = \"zygote\"\ncommand = [\"/bin/true\"]\n";

fn node() -> Node {
    let node = Node::new();
    node.file("units/z.toml", ZYGOTE);
    node
}

fn unit(node: &Node, exec: &str) {
    node.file(
        "units/a.toml",
        format!("[exec]\ncommand = [\"/bin/true\"]\n{exec}"),
    );
}

fn spec<'a>(loaded: &'a Loaded, name: &str) -> &'a UnitSpec {
    &loaded.plan.units[&UnitName::new(name).unwrap()]
}

fn named(name: &str, is_required: bool) -> Option<UseZygote> {
    let name = UnitName::new(name).unwrap();
    Some(UseZygote { name, is_required })
}

#[test]
fn a_zygote_says_that_it_is_ready_as_a_unit_of_kind_notify() {
    let node = node();
    unit(&node, "");
    let loaded = node.loads(&[]);
    let zygote = spec(&loaded, "z");
    assert_eq!((zygote.exec.kind, zygote.exec.is_zygote), (Kind::Notify, true));
    let other = spec(&loaded, "a");
    assert_eq!((other.exec.is_zygote, &other.exec.zygote), (false, &None));
}

#[test]
fn who_prefers_it_wants_it_and_who_requires_it_is_not_taken_down_by_it() {
    let node = node();
    unit(&node, "zygote = \"Z\"\n");
    let loaded = node.loads(&[]);
    let a = spec(&loaded, "a");
    let z = UnitName::new("z").unwrap();
    assert_eq!(a.exec.zygote, named("z", false));
    assert_eq!((&a.wants, a.requires.is_empty()), (&vec![z.clone()], true));

    unit(&node, "zygote = \"z\"\nzygote_mode = \"require\"\n");
    let loaded = node.loads(&[]);
    let a = spec(&loaded, "a");
    assert_eq!(a.exec.zygote, named("z", true));
    assert_eq!((&a.requires, a.wants.is_empty()), (&vec![z.clone()], true));
    assert_eq!(a.on_dependency(&z).failed, OnFailed::Keep);

    unit(&node, "zygote = \"z\"\nzygote_mode = \"never\"\n");
    let loaded = node.loads(&[]);
    let a = spec(&loaded, "a");
    assert_eq!(
        (&a.exec.zygote, a.wants.is_empty(), a.requires.is_empty()),
        (&None, true, true)
    );
}

#[test]
fn a_runner_and_the_defaults_name_one_for_all_whom_it_can_be_for() {
    let node = node();
    node.file("units/y.toml", ZYGOTE);
    let runner = "[runner.r]\ncommand = [\"/bin/true\"]\nzygote = \"z\"\n";
    node.file("ringriftd.toml", runner);
    node.file("units/a.toml", "[exec]\nrunner = \"r\"\n");
    node.file("units/b.toml", "[exec]\nrunner = \"r\"\nzygote = \"y\"\n");
    node.unit("c", "");
    let loaded = node.loads(&[]);
    assert_eq!(spec(&loaded, "a").exec.zygote, named("z", false));
    assert_eq!(spec(&loaded, "b").exec.zygote, named("y", false));
    assert_eq!(spec(&loaded, "c").exec.zygote, None);

    node.file(
        "ringriftd.toml",
        format!("{runner}[defaults.unit.exec]\nzygote = \"y\"\nzygote_mode = \"require\"\n"),
    );
    let loaded = node.loads(&[]);
    assert_eq!(spec(&loaded, "c").exec.zygote, named("y", true));
    assert_eq!(spec(&loaded, "y").exec.zygote, None);
    assert_eq!(spec(&loaded, "z").exec.zygote, None);
}

#[test]
fn what_does_not_fit_is_told_at_its_place() {
    let cases = [
        (
            "zygote = \"zz\"\n",
            "units/a.toml:3:10: unknown unit \"zz\"",
            "did you mean \"z\"?",
        ),
        (
            "zygote = \"a\"\n",
            "units/a.toml:3:10",
            "is to be forked from itself",
        ),
        (
            "zygote = \"b\"\n",
            "units/a.toml:3:10",
            "\"a\" is to be forked from \"b\", which is no zygote",
        ),
        ("zygote_mode = \"perhaps\"\n", "units/a.toml:3:15", "\"require\""),
    ];
    for (exec, place, said) in cases {
        let node = node();
        node.unit("b", "");
        unit(&node, exec);
        says(&node.fault(&[]), &[place, said]);
    }
    let node = node();
    node.file("units/y.toml", format!("{ZYGOTE}zygote = \"z\"\n"));
    says(
        &node.fault(&[]),
        &["units/y.toml:4:1", "\"y\" is a zygote, and is to be forked"],
    );
    node.file("units/y.toml", format!("{ZYGOTE}fd_store_max = 2\n"));
    says(
        &node.fault(&[]),
        &["units/y.toml:4:16", "to have descriptors stored"],
    );
    // One fault for all units of a runner.
    node.file("units/y.toml", "[exec]\ncommand = [\"/bin/true\"]\n");
    node.file(
        "ringriftd.toml",
        "[runner.r]\ncommand = [\"/bin/true\"]\nzygote = \"y\"\n",
    );
    for name in ["a", "b"] {
        node.file(&format!("units/{name}.toml"), "[exec]\nrunner = \"r\"\n");
    }
    says(
        &node.fault(&[]),
        &[
            "ringriftd.toml:2:11",
            "\"a\" is to be forked from \"y\", which is no zygote",
        ],
    );
    node.file("ringriftd.toml", "");
    unit(&node, "zygote_mode = \"require\"\n");
    node.unit("b", "");
    let loaded = node.loads(&[]);
    let warned: Vec<&str> = loaded.warnings.iter().map(|w| w.what.as_str()).collect();
    assert!(
        warned.contains(&"\"zygote_mode\" has no effect: \"a\" is forked from no zygote"),
        "{warned:?}"
    );
}
