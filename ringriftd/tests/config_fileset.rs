//! The files of a configuration as they were read, kept as JSON and loaded again without any of them on the disk.

mod config_support;

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;

use config_support::{EXEC, Node, TODAY, says};
use ringriftd::config::{FileSet, Loaded, Report, load_from_on, load_on};
use ringriftd::limits::{FILE_MAX, FILE_SET_MAX};

/// Reads, writes as JSON, removes everything from the disk, and loads what the JSON says.
fn kept(node: &Node, profiles: &[&str]) -> Result<Loaded, Report> {
    let json = serde_json::to_vec(&FileSet::read(&node.places())).unwrap();
    for name in ["units", "profiles"] {
        std::fs::remove_dir_all(node.path(name)).unwrap();
    }
    std::fs::remove_file(node.path("ringriftd.toml")).unwrap();
    let set: FileSet = serde_json::from_slice(&json).unwrap();
    let profiles: Vec<String> = profiles.iter().map(|p| (*p).to_owned()).collect();
    load_from_on(Arc::new(set), &profiles, TODAY)
}

#[track_caller]
fn same_faults(node: &Node, profiles: &[&str], parts: &[&str]) {
    let before = node.load(profiles).map(|_| ()).expect_err("faulty");
    let after = kept(node, profiles).map(|_| ()).expect_err("faulty");
    says(&before.to_string(), parts);
    assert_eq!(before.to_string(), after.to_string());
    assert_eq!((before.faults, before.warnings), (after.faults, after.warnings));
}

#[test]
fn a_kept_configuration_gives_the_same_plan_and_the_same_words() {
    let node = Node::new();
    node.file(
        "ringriftd.toml",
        "\u{feff}profiles = [\"p\"]\n[runner.py]\ncommand = [\"/bin/sh\"]\n[defaults.unit.restart]\ndelay = \"7s\"\n",
    )
    .unit("a", "description = \"ä \\\"quoted\\\"\"\nrequires = [\"b\"]")
    .unit("b", "")
    .unit("orphan", "")
    .file("units/a.d/10-more.toml", "[stop]\ntimeout = \"3s\"\n[exec.env]\nTOKEN = \"secret\"\n")
    .file("units/nobody.d/x.toml", "[stop]\ntimeout = \"3s\"\n")
    .file("units/README.md", "not ours")
    .file("profiles/p.toml", "units = [\"a\"]\n[override.b.restart]\ndelay = \"9s\"\n");
    let loose = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(node.path("units/b.toml"), loose).unwrap();
    let before = node.loads(&[]);
    let warnings: String = before.warnings.iter().map(|w| format!("{w}\n")).collect();
    says(
        &warnings,
        &[
            "units/b.toml: this file is writable by everybody",
            "which is no unit",
            "orphan",
        ],
    );
    let after = kept(&node, &[]).unwrap_or_else(|r| panic!("{r}"));
    assert_eq!(before.warnings, after.warnings);
    let digests = |loaded: &Loaded| -> Vec<(String, String)> {
        let units = loaded.plan.units.values();
        units
            .map(|unit| (unit.name.to_string(), unit.digest.clone()))
            .collect()
    };
    assert_eq!(digests(&before).len(), 3);
    assert_eq!(digests(&before), digests(&after));
    assert_eq!(before.plan.units, after.plan.units);
    assert_eq!(before.plan.members, after.plan.members);
    assert_eq!(before.plan.node, after.plan.node);
    let shown = |loaded: &Loaded| {
        let name = loaded.find("A").expect("known").clone();
        format!("{:?}", loaded.definition(&name))
    };
    assert_eq!(shown(&before), shown(&after));
    assert!(!shown(&after).contains("secret"));
    // What was loaded carries its files.
    assert_eq!(before.files(), after.files());
}

#[test]
fn what_was_wrong_with_files_and_folders_is_kept_as_well() {
    let node = Node::new();
    node.file("units/a.toml", b"description = \"x\"\ncategory = \"\xff\"\n")
        .file("units/b.toml", "x = 1\n")
        .file("units/Bad.toml", EXEC)
        .file("units/t@.toml", EXEC)
        .unit("good", "")
        .file("units/b.d/x.toml", "y = 1\n");
    symlink("nowhere", node.path("units/link.toml")).unwrap();
    symlink("nowhere", node.path("units/good.d")).unwrap();
    std::fs::create_dir(node.path("units/dir.toml")).unwrap();
    same_faults(
        &node,
        &["nobody"],
        &[
            "units/a.toml:2:13: the file is not UTF-8",
            "units/b.toml:1:1: unknown key",
            "units/b.d/x.toml:1:1: unknown key",
            "call it \"bad.toml\"",
            "templates are not supported",
            "units/link.toml: is a symbolic link",
            "units/good.d: is a symbolic link",
            "units/dir.toml: is not a regular file",
            "nobody",
        ],
    );
    let node = Node::new();
    node.unit("a", "requires = [\"gone\"]");
    std::fs::remove_dir(node.path("profiles")).unwrap();
    let before = node
        .load(&[])
        .map(|_| ())
        .expect_err("no folder of profiles")
        .to_string();
    says(&before, &["profiles: cannot open", "1 fault,"]);
    let set = FileSet::read(&node.places());
    let after = load_from_on(Arc::new(set), &[], TODAY)
        .map(|_| ())
        .expect_err("the same");
    assert_eq!(before, after.to_string());
}

#[test]
fn a_file_that_covers_another_covers_it_when_kept() {
    let node = Node::new();
    node.unit("a", "description = \"first\"")
        .file("more/a.toml", format!("description = \"second\"\n{EXEC}"))
        .file("more/b.toml", EXEC);
    let mut places = node.places();
    let mut more = places.units[0].clone();
    more.path = node.path("more");
    places.units.push(more);
    let before = load_on(&places, &[], TODAY).map(|_| ()).expect_err("two of them");
    says(
        &before.to_string(),
        &["more/a.toml: a second unit \"a\"", "see: units/a.toml"],
    );
    // The same in fixed places, below folders that nobody else may change.
    let mut set = FileSet::read(&places);
    for folder in &mut set.units {
        folder.is_chosen = false;
        folder.found.as_mut().expect("read").loose = None;
    }
    let loaded = load_from_on(Arc::new(set), &[], TODAY).unwrap_or_else(|r| panic!("{r}"));
    assert_eq!(loaded.plan.units.len(), 2);
    assert!(loaded.plan.units.values().any(|unit| unit.description == "first"));
}

#[test]
fn all_files_together_are_bounded() {
    let node = Node::new();
    let filler = format!(
        "{EXEC}# {}\n",
        "x".repeat(usize::try_from(FILE_MAX).unwrap() - 100)
    );
    let count = FILE_SET_MAX / filler.len() + 1;
    for n in 0..count {
        node.file(&format!("units/u{n:03}.toml"), &filler);
    }
    says(&node.fault(&[]), &["is past the 64 MiB", "why:", "help:"]);
}
