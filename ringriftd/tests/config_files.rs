//! Files of a configuration as such: their size, encoding, kind, rights and leftovers, any bytes at all, and the verdict
//! of `check` on them. The numbers are those of the list of faults that the project holds itself to. What is wrong in
//! values, keys and graphs is in `config_faults.rs`.

mod config_support;

use std::os::unix::fs::{PermissionsExt as _, symlink};

use config_support::{EXEC, Node, TODAY, says};
use ringriftd::config::load_on;
use ringriftd::config::verb::{CheckArgs, check_verb};

/// E9
#[test]
fn huge_and_deep_files_are_refused_quickly() {
    let node = Node::new();
    let path = node.path("units/a.toml");
    std::fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    says(&node.fault(&[]), &["units/a.toml", "larger than 1024 KiB"]);
    for deep in [
        "[".repeat(10_000),
        format!("a = {}", "[".repeat(10_000)),
        format!("a = {}", "{a=".repeat(10_000)),
    ] {
        node.file("units/a.toml", deep);
        says(&node.fault(&[]), &["nested too deep"]);
    }
    // Depth without brackets.
    node.file("units/a.toml", format!("{}b = 1", "a.".repeat(10_000)));
    assert!(!node.faults(&[]).is_empty());
    // As many keys as a file can hold, and as many faults.
    let keys: String = (0..90_000).map(|i| format!("k{i}=1\n")).collect();
    node.file("units/a.toml", keys);
    let faults = node.faults(&[]);
    assert_eq!(faults.len(), 101);
    assert!(
        faults
            .iter()
            .any(|f| f.what.contains("more faults than the 100 told"))
    );
    node.file("units/a.toml", "=\n".repeat(500_000));
    assert_eq!(node.faults(&[]).len(), 101);
    node.file(
        "units/a.toml",
        format!("description = \"{}\"", "x".repeat(1_000_000)),
    );
    assert!(node.faults(&[]).iter().any(|f| f.what.contains("1000000 bytes")));
}

/// E10
#[test]
fn encodings_are_told_precisely() {
    let node = Node::new();
    node.file("units/a.toml", b"description = \"x\"\ncategory = \"\xff\"\n");
    says(&node.fault(&[]), &["units/a.toml:2:13", "is not UTF-8"]);
    node.file("units/a.toml", format!("\u{feff}{EXEC}"));
    node.loads(&[]);
    node.file(
        "units/a.toml",
        "\u{feff}bogus = 1\n[exec]\ncommand = [\"/bin/true\"]\n",
    );
    says(&node.fault(&[]), &["units/a.toml:1:1: unknown key"]);
    node.file("units/a.toml", EXEC.replace('\n', "\r\n"));
    node.loads(&[]);
    node.file("units/a.toml", "description = \"ä\0\"\n");
    says(&node.fault(&[]), &["units/a.toml:1:17", "NUL"]);
    node.file("units/a.toml", format!("description = \"\\u0000\"\n{EXEC}"));
    says(&node.fault(&[]), &["units/a.toml:1:15", "NUL"]);
    // Columns count characters, not bytes.
    node.file(
        "units/a.toml",
        "[restart]\npolicy = \"ünlike\" # ä\n[exec]\ncommand = [\"ä\", 7]\n",
    );
    let places: Vec<String> = node
        .faults(&[])
        .iter()
        .map(|f| f.place.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(places, ["units/a.toml:2:10", "units/a.toml:4:17"]);
}

/// E11
#[test]
fn only_regular_files_are_read_and_nothing_blocks() {
    let node = Node::new();
    let path = node.path("units/a.toml");
    let secret = node.path("secret");
    std::fs::write(&secret, "root:hash").unwrap();
    for target in [path.clone(), node.path("nowhere"), "/dev/zero".into(), secret] {
        symlink(&target, &path).unwrap();
        let fault = node.fault(&[]);
        says(&fault, &["units/a.toml", "symbolic link"]);
        assert!(!fault.contains("hash"));
        std::fs::remove_file(&path).unwrap();
    }
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    says(&node.fault(&[]), &["units/a.toml", "not a regular file"]);
    std::fs::remove_file(&path).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    says(&node.fault(&[]), &["units/a.toml", "not a regular file"]);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    says(&node.fault(&[]), &["units/a.toml", "not a regular file"]);
}

/// E12. As root every file is readable, so a folder and a missing one stand in.
#[test]
fn what_cannot_be_read_is_a_fault_and_never_a_removal() {
    let node = Node::new();
    node.unit("a", "");
    std::fs::remove_dir_all(node.path("profiles")).unwrap();
    says(&node.fault(&[]), &["profiles", "cannot open"]);
    std::fs::write(node.path("profiles"), "").unwrap();
    says(&node.fault(&[]), &["profiles"]);
    std::fs::remove_file(node.path("profiles")).unwrap();
    std::fs::create_dir(node.path("profiles")).unwrap();
    node.unit("b", "requires = [\"a\"]");
    if !nix::unistd::geteuid().is_root() {
        let unreadable = std::fs::Permissions::from_mode(0o000);
        std::fs::set_permissions(node.path("units/a.toml"), unreadable).unwrap();
        says(
            &node.fault(&[]),
            &["units/a.toml", "Permission denied", "never counts as removed"],
        );
        std::fs::set_permissions(node.path("units/a.toml"), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::remove_file(node.path("ringriftd.toml")).unwrap();
    says(&node.fault(&[]), &["ringriftd.toml", "cannot read"]);
}

/// E13
#[test]
fn leftovers_of_editors_are_ignored_and_a_file_under_change_is_read_whole() {
    let node = Node::new();
    node.unit("a", "");
    for leftover in [
        ".a.toml.swp",
        "a.toml~",
        "4913",
        "#a.toml#",
        ".hidden.toml",
        "a.toml.bak",
        "README.md",
        "a.toml.tmp",
    ] {
        node.file(&format!("units/{leftover}"), "not = [ toml");
    }
    assert_eq!(node.loads(&[]).plan.units.len(), 1);
    // A writer that replaces the file by rename: each read sees one or the other, whole.
    let path = node.path("units/a.toml");
    let new = node.path("new");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut long = false;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let size = if long { 200_000 } else { 10 };
                std::fs::write(&new, format!("# {}\n{EXEC}# end\n", "x".repeat(size))).unwrap();
                std::fs::rename(&new, &path).unwrap();
                long = !long;
            }
        });
        for _ in 0..50 {
            if let Err(report) = node.load(&[]) {
                says(&report.to_string(), &["changed while it was read"]);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// E22, S5
#[test]
fn a_file_that_others_can_change_is_refused_in_a_fixed_place_and_warned_of_elsewhere() {
    let node = Node::new();
    node.unit("a", "");
    std::fs::set_permissions(node.path("units/a.toml"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut places = node.places();
    let loaded = load_on(&places, &[], TODAY).unwrap_or_else(|r| panic!("{r}"));
    let warnings: String = loaded.warnings.iter().map(|w| format!("{w}\n")).collect();
    says(&warnings, &["units/a.toml", "writable by everybody (mode 0666)"]);
    for dir in &mut places.units {
        dir.is_chosen = false;
    }
    let report = load_on(&places, &[], TODAY).map(|_| ()).unwrap_err();
    says(
        &report.to_string(),
        &[
            "error: units/a.toml: this file is writable by everybody (mode 0666)",
            "chmod go-w",
        ],
    );
    let defect = ringriftd::config::source::defect;
    assert!(defect(0, 0o644, 0).is_none() && defect(5, 0o664, 5).is_none() && defect(0, 0o644, 5).is_none());
    assert!(defect(0, 0o664, 0).is_some_and(|d| d.contains("its group (mode 0664)")));
    assert!(defect(5, 0o644, 0).is_some() && defect(6, 0o644, 5).is_some() && defect(5, 0o646, 5).is_some());
}

/// E25
#[test]
fn check_gives_the_verdict_of_the_daemon_and_the_documented_codes() {
    let node = Node::new();
    let run = |args: &CheckArgs| {
        let (mut data, mut talk) = (Vec::new(), Vec::new());
        let code = check_verb(&node.places(), &[], args, &mut data, &mut talk);
        (
            code,
            String::from_utf8(data).unwrap(),
            String::from_utf8(talk).unwrap(),
        )
    };
    node.unit("a", "").file("profiles/p.toml", "units = [\"a\"]");
    assert_eq!(run(&CheckArgs::default()).0, 0);
    node.unit("orphan", "");
    assert_eq!(run(&CheckArgs::default()).0, 0);
    let (code, _, talk) = run(&CheckArgs {
        strict: true,
        json: false,
    });
    assert_eq!(code, 8);
    says(&talk, &["in no profile: orphan"]);
    node.unit("a", "bogus = 1\nrequires = [\"nobody\"]");
    let (code, data, talk) = run(&CheckArgs::default());
    assert_eq!(code, 8);
    says(&talk, &["units/a.toml:1:1", "units/a.toml:2:13"]);
    says(&data, &["2 faults"]);
    let (code, data, talk) = run(&CheckArgs {
        strict: false,
        json: true,
    });
    let value: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!((code, talk.as_str()), (8, ""));
    assert_eq!(value["schema"], "ringrift.v1.check");
    assert_eq!(value["faults"][0]["file"], "units/a.toml");
    assert_eq!(value["faults"][0]["line"], 1);
    assert_eq!(value["faults"][0]["column"], 1);
}

mod random {
    use super::*;
    use proptest::prelude::*;

    fn toml_like() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "[exec]\n",
            "[",
            "]",
            "[[",
            "]]",
            "{",
            "}",
            "=",
            "\"",
            "'",
            "\"\"\"",
            "\n",
            "#",
            ",",
            ".",
            " ",
            "command",
            "env",
            "requires",
            "on_dependency",
            "restart",
            "policy",
            "\"always\"",
            "[\"a\"]",
            "1",
            "-1",
            "0x1f",
            "1.5",
            "true",
            "2026-01-01",
            "\\u0000",
            "\\",
            "ä",
            "\r\n",
            "exec.env.A = \"${B}\"\n",
            "rlimits",
            "nofile",
            "x-a",
            "[override.a]\n",
            "inf",
            "\u{feff}",
            "_",
        ]);
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        #[test]
        fn no_bytes_whatever_make_the_loader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in toml_like(), other in toml_like()) {
            let node = Node::new();
            node.file("units/a.toml", &bytes).file("units/b.toml", &text).file("profiles/p.toml", &text);
            node.file("units/b.d/x.toml", &other).file("ringriftd.toml", &other);
            if let Err(report) = node.load(&["p"]) {
                prop_assert!(!report.faults.is_empty());
                let _ = report.to_string();
            }
        }
    }
}
