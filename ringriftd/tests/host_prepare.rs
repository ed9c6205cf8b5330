//! Units become launches, and failures become sentences: real files, real users, no processes.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ringriftd::engine::types::{LaunchFailure, Role};
use ringriftd::host::explain::explain;
use ringriftd::host::prepare::{NodeContext, Prepared, Preparer, prepare};
use ringriftd::ids::{Invocation, LaunchId};
use ringriftd::keeper::wire::{Launch, Stage};
use ringriftd::spec::{
    Command, EnvFile, Exec, Exhausted, Kind, Lifecycle, Log, NotifyAccess, OnDependency, Piece, Restart,
    RestartPolicy, Runner, Stop, Template, UnitName, UnitSpec,
};

fn t(text: &str) -> Template {
    // `${NAME}` and `${NAME:-default}`, enough of the grammar for these tests.
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inside, tail) = after.split_once('}').expect("closed");
        pieces.push(Piece::Text(before.to_owned()));
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default.to_owned())),
            None => (inside, None),
        };
        pieces.push(Piece::Variable {
            name: name.to_owned(),
            default,
        });
        rest = tail;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Template(pieces)
}

fn argv(words: &[&str]) -> Vec<Template> {
    words.iter().map(|word| t(word)).collect()
}

fn unit(command: &[&str]) -> UnitSpec {
    UnitSpec {
        name: UnitName::new("auto_sync").expect("a name"),
        description: String::new(),
        category: "sync".to_owned(),
        lifecycle: Lifecycle::Active,
        critical: false,
        essential: false,
        requires: vec![],
        wants: vec![],
        after: vec![],
        before: vec![],
        conflicts: vec![],
        startup_position: None,
        exec: Exec {
            kind: Kind::Simple,
            command: Command::Direct(argv(command)),
            working_dir: None,
            env: BTreeMap::new(),
            env_files: vec![],
            pass_env: vec![],
            user: None,
            group: None,
            supplementary_groups: None,
            umask: 0o077,
            nice: None,
            oom_score_adj: None,
            rlimits: vec![],
            no_new_privs: true,
            remain: false,
            pid_file: None,
            notify_fd: 3,
            notify_access: NotifyAccess::Main,
            fd_store_max: 0,
            start_pre: vec![],
            start_post: vec![],
            stop_pre: vec![],
            stop_post: vec![],
            reload: vec![],
            hook_timeout: Duration::from_secs(30),
            is_zygote: false,
            zygote: None,
        },
        ready_timeout: Duration::from_secs(60),
        health_interval: Duration::from_secs(30),
        restart: Restart {
            policy: RestartPolicy::Always,
            delay: Duration::from_secs(5),
            factor_milli: 2000,
            max_delay: Duration::from_secs(300),
            jitter_milli: 0,
            stable_after: Duration::from_secs(60),
            max_restarts: Some(5),
            window: Duration::from_secs(3600),
            exhausted: Exhausted::Retry,
            retry_every: Duration::from_secs(3600),
            permanent_exit_codes: vec![],
        },
        on_dependency: OnDependency::default(),
        on_dependency_of: BTreeMap::new(),
        stop: Stop {
            signals: vec![15],
            timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(2),
        },
        log: Log {
            max_size: 1 << 20,
            max_files: 5,
            ..Log::default()
        },
        deprecated: None,
        ready_probe: None,
        health: None,
        digest: String::new(),
    }
}

fn node() -> NodeContext {
    NodeContext {
        seed: 0xabc,
        runtime_dir: "/run/ringrift".into(),
        program: "/usr/bin/ringriftd".into(),
        config_dir: Some("/etc/ringrift".into()),
        env: BTreeMap::from([
            ("TOKEN".to_owned(), "from outside".to_owned()),
            ("NOTIFY_SOCKET".to_owned(), "/run/other".to_owned()),
            ("LANG".to_owned(), "en_GB.UTF-8".to_owned()),
            ("STRAY".to_owned(), "x".to_owned()),
        ]),
    }
}

fn id() -> LaunchId {
    LaunchId::main(Invocation(7))
}

fn make(spec: &UnitSpec) -> Result<Prepared, LaunchFailure> {
    prepare(spec, Role::Main, id(), &node())
}

fn made(spec: &UnitSpec) -> Launch {
    make(spec).expect("prepared").launch
}

/// The start fails, by the unit's own fault, and the sentence has these words.
fn fails(spec: &UnitSpec, words: &[&str]) -> String {
    let failure = make(spec).expect_err("it cannot be prepared");
    assert!(!failure.host, "{failure:?}");
    for word in words {
        assert!(
            failure.text.contains(word),
            "{word:?} is not in {:?}",
            failure.text
        );
    }
    assert!(!failure.text.contains('\n'), "{failure:?}");
    failure.text
}

fn env(launch: &Launch) -> BTreeMap<String, String> {
    launch
        .env
        .iter()
        .map(|v| {
            let v = String::from_utf8(v.clone()).expect("UTF-8");
            let (key, value) = v.split_once('=').expect("KEY=value");
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

fn write(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    path.to_str().expect("plain").to_owned()
}

#[test]
fn environment_is_clean() {
    let mut spec = unit(&["/bin/true"]);
    spec.exec.pass_env = vec![
        "TOKEN".to_owned(),
        "NOTIFY_SOCKET".to_owned(),
        "ABSENT".to_owned(),
    ];
    let env = env(&made(&spec));
    assert_eq!(env["TOKEN"], "from outside");
    assert_eq!(env["RINGRIFT_UNIT"], "auto_sync");
    assert_eq!(env["RINGRIFT_ROLE"], "main");
    assert_eq!(env["RINGRIFT_INVOCATION_ID"], "0000000000000abc0000000000000007");
    assert_eq!(env["RINGRIFT_HEALTH_INTERVAL_USEC"], "30000000");
    assert_eq!(env["LANG"], "en_GB.UTF-8");
    for key in ["PATH", "HOME", "SHELL"] {
        assert!(env[key].starts_with('/'), "{key}");
    }
    for key in [
        "STRAY",
        "NOTIFY_SOCKET",
        "ABSENT",
        "RINGRIFTD",
        "RINGRIFT_CONFIG_DIR",
    ] {
        assert!(!env.contains_key(key), "{key}");
    }
}

#[test]
fn later_sources_of_variables_win_and_see_earlier_ones() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = write(
        dir.path(),
        "node.env",
        b"A=file\nB=file\nTOKEN='of the file'\n",
        0o600,
    );
    let mut spec = unit(&[
        "/bin/echo",
        "${A}",
        "${B}",
        "${NONE:-default}",
        "${RINGRIFTD}",
        "$",
    ]);
    spec.exec.pass_env = vec!["TOKEN".to_owned()];
    spec.exec.env_files = vec![EnvFile {
        path: t(&format!("{}/${{NAME:-node}}.env", dir.path().display())),
        optional: false,
    }];
    spec.exec.env = BTreeMap::from([
        ("B".to_owned(), t("${B} then ${RINGRIFT_UNIT}")),
        ("C".to_owned(), t("${B}|${RINGRIFT_CONFIG_DIR}")),
        ("D".to_owned(), Template::literal("${A}")),
        ("PATH".to_owned(), t("/opt:${PATH}")),
        ("RINGRIFT_UNIT".to_owned(), t("another")),
        ("NOTIFY_SOCKET".to_owned(), t("/forged")),
    ]);
    let launch = made(&spec);
    let env = env(&launch);
    assert_eq!(env["TOKEN"], "of the file");
    assert_eq!(env["B"], "file then auto_sync");
    assert_eq!(env["C"], "file then auto_sync|/etc/ringrift");
    // A value that looks like a variable is not filled in again.
    assert_eq!(env["D"], "${A}");
    assert!(env["PATH"].starts_with("/opt:/"), "{}", env["PATH"]);
    assert_eq!(env["RINGRIFT_UNIT"], "auto_sync");
    assert!(!env.contains_key("NOTIFY_SOCKET"));
    let words: Vec<_> = launch.argv.iter().map(|w| String::from_utf8_lossy(w)).collect();
    assert_eq!(
        words[1..],
        [
            "file",
            "file then auto_sync",
            "default",
            "/usr/bin/ringriftd",
            "$"
        ]
    );
    assert_eq!(file, format!("{}/node.env", dir.path().display()));
}

#[test]
fn e17_unset_variables_are_named_with_their_place() {
    fails(
        &unit(&["/bin/echo", "x", "${UNSET}"]),
        &["command[2]", "${UNSET}", "not set"],
    );
    let mut spec = unit(&["/bin/true"]);
    spec.exec.working_dir = Some(t("${RINGRIFT_HOME}"));
    fails(&spec, &["working_dir", "${RINGRIFT_HOME}"]);
    let mut spec = unit(&["/bin/true"]);
    spec.exec.env = BTreeMap::from([("A".to_owned(), t("${B}")), ("B".to_owned(), t("${A}"))]);
    fails(&spec, &["env.A", "${B}"]);
}

#[test]
fn e17_newlines_pass_and_nul_does_not() {
    let mut spec = unit(&["/bin/echo", "${A}"]);
    spec.exec.env = BTreeMap::from([("A".to_owned(), Template::literal("one\ntwo"))]);
    assert_eq!(made(&spec).argv[1], b"one\ntwo");
    spec.exec.env = BTreeMap::from([("A".to_owned(), Template::literal("one\0two"))]);
    fails(&spec, &["env.A", "NUL"]);
}

#[test]
fn e17_too_large_an_environment_is_explained_without_its_values() {
    let mut spec = unit(&["/bin/true"]);
    for i in 0..20 {
        let value = format!("s3cr3t{}", "x".repeat(10 * 1024 + i));
        spec.exec
            .env
            .insert(format!("BIG_{i:02}"), Template::literal(&value));
    }
    let text = fails(&spec, &["E2BIG", "the variable BIG_19", "163840"]);
    assert!(!text.contains("s3cr3t"), "{text}");
    let mut spec = unit(&["/bin/echo"]);
    let long = Template::literal(&"x".repeat(128 * 1024));
    spec.exec.command = Command::Direct(vec![t("/bin/echo"), long]);
    fails(&spec, &["E2BIG", "argument 1"]);
}

#[test]
fn env_files_that_cannot_be_used_fail_the_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let bad = write(dir.path(), "bad", b"A=1\nTOKEN s3cr3t\n", 0o600);
    let with = |path: &str, optional| {
        let mut spec = unit(&["/bin/true"]);
        let path = Template::literal(path);
        spec.exec.env_files = vec![EnvFile { path, optional }];
        spec
    };
    let text = fails(&with(&bad, true), &[&format!("{bad}:2:"), "KEY=value"]);
    assert!(!text.contains("s3cr3t"), "{text}");
    let none = format!("{}/none", dir.path().display());
    fails(&with(&none, false), &[&none, "there is none", "\"-\""]);
    assert_eq!(made(&with(&none, true)).program, b"/bin/true");
    let folder = dir.path().to_str().expect("plain");
    fails(&with(folder, true), &["not a regular file"]);
    fails(&with("node.env", true), &["not an absolute path"]);
}

#[test]
fn s2_unknown_users_and_groups_fail_the_start() {
    let mut spec = unit(&["/bin/true"]);
    spec.exec.user = Some("ringrift-nobody-has-this-name".to_owned());
    fails(&spec, &["no user ringrift-nobody-has-this-name"]);
    let mut spec = unit(&["/bin/true"]);
    spec.exec.group = Some("ringrift-no-such-group".to_owned());
    fails(&spec, &["no group ringrift-no-such-group"]);
    let mut spec = unit(&["/bin/true"]);
    spec.exec.supplementary_groups = Some(vec!["ringrift-no-such-group".to_owned()]);
    fails(&spec, &["no group ringrift-no-such-group"]);
    let mut spec = unit(&["/bin/true"]);
    spec.exec.user = Some("4294967295".to_owned());
    fails(&spec, &["no user 4294967295"]);
    let mut spec = unit(&["/bin/true"]);
    spec.exec.user = Some("3999999999".to_owned());
    fails(&spec, &["give `group`"]);
}

#[test]
fn users_become_numbers_where_ringriftd_may_change_them() {
    let mut spec = unit(&["/bin/true"]);
    assert_eq!(made(&spec).identity, None);
    spec.exec.user = Some("nobody".to_owned());
    let nobody = nix::unistd::User::from_name("nobody")
        .expect("a directory")
        .expect("every system has nobody");
    if nix::unistd::geteuid().is_root() {
        let launch = made(&spec);
        let identity = launch.identity.clone().expect("another user");
        assert_eq!(
            (identity.uid, identity.gid),
            (nobody.uid.as_raw(), nobody.gid.as_raw())
        );
        assert!(!identity.groups.contains(&0), "{identity:?}");
        let env = env(&launch);
        assert_eq!(
            (env["USER"].as_str(), env["LOGNAME"].as_str()),
            ("nobody", "nobody")
        );
        spec.exec.supplementary_groups = Some(vec![]);
        spec.exec.group = Some("12345".to_owned());
        let identity = made(&spec).identity.expect("another user");
        assert_eq!((identity.gid, identity.groups), (12345, vec![]));
    } else {
        fails(&spec, &["only root may change"]);
    }
}

#[test]
fn runner_falls_back_to_its_stand_in() {
    let mut spec = unit(&[]);
    let runner = Runner {
        command: argv(&["/bin/echo", "real"]),
        requires_env: vec!["RINGRIFT_HOME".to_owned()],
        pass_env: vec!["RINGRIFT_HOME".to_owned()],
        otherwise: Some(argv(&["/bin/echo", "stand-in"])),
        note: Some("stand-in".to_owned()),
        zygote: None,
    };
    let with = |runner: &Runner| Command::Runner {
        name: "ringrift".to_owned(),
        runner: Arc::new(runner.clone()),
        args: argv(&["create_auto_sync"]),
    };
    spec.exec.command = with(&runner);
    let prepared = make(&spec).expect("prepared");
    assert_eq!(prepared.note.as_deref(), Some("stand-in"));
    assert_eq!(
        prepared.launch.argv[1..],
        [b"stand-in".to_vec(), b"create_auto_sync".to_vec()]
    );
    let mut home = node();
    home.env.insert("RINGRIFT_HOME".to_owned(), String::new());
    let empty = prepare(&spec, Role::Main, id(), &home).expect("prepared");
    assert_eq!(
        empty.note.as_deref(),
        Some("stand-in"),
        "empty is as good as unset"
    );
    home.env.insert("RINGRIFT_HOME".to_owned(), "/srv".to_owned());
    let real = prepare(&spec, Role::Main, id(), &home).expect("prepared");
    assert_eq!(real.note, None);
    assert_eq!(
        real.launch.argv[1..],
        [b"real".to_vec(), b"create_auto_sync".to_vec()]
    );
    spec.exec.command = with(&Runner {
        otherwise: None,
        ..runner
    });
    fails(&spec, &["runner ringrift", "RINGRIFT_HOME"]);
}

#[test]
fn hooks_run_as_what_they_are() {
    let mut spec = unit(&["/bin/true"]);
    spec.exec.kind = Kind::Notify;
    spec.exec.start_pre = vec![argv(&["/bin/true"]), argv(&["/bin/echo", "${RINGRIFT_ROLE}"])];
    let step = LaunchId {
        invocation: Invocation(7),
        step: 2,
    };
    let launch = prepare(&spec, Role::StartPre(1), step, &node())
        .expect("prepared")
        .launch;
    assert_eq!(launch.role, "start_pre.1");
    assert_eq!(launch.argv[1], b"start_pre.1");
    assert_eq!(launch.notify, None);
    let gone = prepare(&spec, Role::StopPost(0), step, &node()).expect_err("not defined");
    assert!(gone.text.starts_with("stop_post.0: "), "{gone:?}");
    let main = made(&spec);
    let path = "/run/ringrift/notify/0000000000000abc0000000000000007.sock";
    assert_eq!(main.notify.as_deref(), Some(path.as_bytes()));
    assert_eq!(env(&main)["NOTIFY_SOCKET"], path);
    let mut far = node();
    far.runtime_dir = Path::new("/").join("x".repeat(70));
    let long = prepare(&spec, Role::Main, id(), &far).expect_err("too long");
    assert!(long.text.contains("107"), "{long:?}");
    spec.exec.kind = Kind::Fd;
    assert_eq!(made(&spec).ready_fd, Some(3));
}

#[test]
fn a16_a17_programs_that_cannot_run_are_told_beforehand() {
    let dir = tempfile::tempdir().expect("a folder");
    let plain = write(dir.path(), "plain", b"#!/bin/sh\n", 0o644);
    fails(&unit(&["/nonexistent"]), &["/nonexistent", "ENOENT"]);
    fails(&unit(&["/bin/true/x"]), &["/bin/true/x", "ENOTDIR"]);
    fails(&unit(&["/tmp"]), &["/tmp", "directory", "EACCES"]);
    fails(&unit(&[&plain]), &[&plain, "EACCES", "0644", "chmod +x"]);
    fails(&unit(&["/dev/null"]), &["not a regular file"]);
    fails(&unit(&[]), &["no command"]);
    fails(&unit(&[""]), &["empty"]);
    fails(
        &unit(&["ringrift-no-such-program"]),
        &["ringrift-no-such-program", "ENOENT", "/usr/bin"],
    );
    let mut spec = unit(&["plain"]);
    let path = dir.path().to_str().expect("plain");
    spec.exec.env.insert("PATH".to_owned(), Template::literal(path));
    fails(&spec, &[&plain, "chmod +x"]);
}

#[test]
fn programs_are_found_along_the_units_own_path() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    std::fs::create_dir_all(one.join("tool")).expect("a folder of the same name");
    std::fs::create_dir(&two).expect("a folder");
    let tool = write(&two, "tool", b"#!/bin/sh\n", 0o755);
    let mut spec = unit(&["tool", "x"]);
    let path = format!("relative::{}:{}", one.display(), two.display());
    spec.exec.env.insert("PATH".to_owned(), Template::literal(&path));
    let launch = made(&spec);
    assert_eq!(launch.program, tool.as_bytes());
    assert_eq!(launch.argv[0], b"tool");
    // A relative one starts at the working folder, as execve(2) will have it.
    let mut spec = unit(&["two/tool"]);
    spec.exec.working_dir = Some(Template::literal(dir.path().to_str().expect("plain")));
    assert_eq!(made(&spec).program, b"two/tool");
    spec.exec.working_dir = Some(t("relative"));
    fails(&spec, &["working_dir", "absolute"]);
}

fn launch_of(program: &str) -> Launch {
    Launch {
        program: program.as_bytes().to_vec(),
        argv: vec![program.as_bytes().to_vec()],
        ..made(&unit(&["/bin/true"]))
    }
}

fn explains(stage: Stage, errno: i32, program: &str, words: &[&str], host: bool) {
    let failure = explain(stage, errno, &launch_of(program));
    for word in words {
        assert!(
            failure.text.contains(word),
            "{word:?} is not in {:?}",
            failure.text
        );
    }
    assert_eq!(failure.host, host, "{failure:?}");
    assert!(!failure.text.contains(char::is_control), "{failure:?}");
}

/// This test's own program with two bytes of its ELF header changed.
fn elf(at: usize, bytes: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut head = Vec::new();
    let own = std::fs::File::open("/proc/self/exe").expect("own program");
    own.take(64 * 1024).read_to_end(&mut head).expect("read");
    head[at..at + bytes.len()].copy_from_slice(bytes);
    head
}

#[test]
fn a18_enoexec_and_missing_interpreters_are_explained() {
    use nix::libc::{ENOENT, ENOEXEC};
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| write(dir.path(), name, bytes, 0o755);
    let check = |errno, name: &str, bytes: &[u8], words: &[&str]| {
        explains(Stage::Exec, errno, &file(name, bytes), words, false);
    };
    check(
        ENOENT,
        "bang",
        b"#!/nope -x\necho\n",
        &["interpreter /nope", "ENOENT"],
    );
    check(ENOENT, "blank", b"#! \t/nope\n", &["interpreter /nope"]);
    check(
        ENOENT,
        "crlf",
        b"#!/bin/sh\r\necho\r\n",
        &["/bin/sh\\r", "Windows"],
    );
    check(ENOEXEC, "empty", b"", &["is empty", "ENOEXEC"]);
    check(ENOEXEC, "text", b"echo hello\n", &["#!", "ENOEXEC"]);
    check(ENOEXEC, "bom", b"\xef\xbb\xbf#!/bin/sh\n", &["byte order mark"]);
    check(ENOEXEC, "naked", b"#!\n", &["names no interpreter"]);
    check(ENOEXEC, "chain", b"#!/etc/passwd\n", &["/etc/passwd"]);
    check(ENOEXEC, "stub", b"\x7fELF\x02", &["damaged"]);
    check(
        ENOEXEC,
        "s390",
        &elf(18, &22_u16.to_ne_bytes()),
        &["built for s390x", "this machine is"],
    );
    check(
        ENOEXEC,
        "alien",
        &elf(18, &999_u16.to_ne_bytes()),
        &["machine number 999"],
    );
    check(
        ENOEXEC,
        "object",
        &elf(16, &1_u16.to_ne_bytes()),
        &["object file"],
    );
    // Its loader's name, one letter changed, is named.
    let own = elf(0, b"\x7fELF");
    if let Some(at) = own.windows(7).position(|w| w == b"/ld-lin") {
        check(ENOENT, "loader", &elf(at, b"/xd-lin"), &["xd-lin", "loader"]);
    }
    explains(
        Stage::Exec,
        ENOENT,
        "/nonexistent",
        &["/nonexistent", "ENOENT", "installed"],
        false,
    );
}

#[test]
fn other_failures_of_a_launch_are_explained() {
    use nix::libc::{E2BIG, EACCES, EAGAIN, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, EPERM, ETXTBSY};
    let t = "/bin/true";
    explains(Stage::Exec, EACCES, "/tmp", &["directory"], false);
    explains(Stage::Exec, EACCES, t, &["EACCES", "folder"], false);
    explains(Stage::Exec, E2BIG, t, &["E2BIG", "largest"], false);
    explains(Stage::Exec, ETXTBSY, t, &["writing"], false);
    explains(Stage::Exec, ENOMEM, t, &["ENOMEM"], true);
    explains(Stage::Exec, 4095, t, &["error 4095"], false);
    explains(Stage::Exec, 0, t, &["no reason"], false);
    explains(Stage::Fork, EAGAIN, t, &["EAGAIN", "pids.max"], true);
    explains(Stage::Descriptors, EMFILE, t, &["EMFILE", "ulimit -n"], true);
    explains(Stage::Descriptors, ENFILE, t, &["ENFILE"], true);
    explains(Stage::Cgroup, ENOSPC, t, &["cgroup", "ENOSPC"], true);
    explains(
        Stage::WorkingDir,
        ENOENT,
        t,
        &["working folder /", "working_dir"],
        false,
    );
    explains(Stage::Identity, EPERM, t, &["only root"], false);
    explains(Stage::Limits, EPERM, t, &["privileges"], false);
    explains(Stage::DiedBeforeExec, 0, t, &["died-before-exec", t], false);
    explains(Stage::Request, 22, t, &["bug"], false);
    explains(Stage::Exec, ENOENT, "/no\n\x1b[2J", &["/no\\n\\u{1b}[2J"], false);
    let hook = Launch {
        role: "start_pre.0".to_owned(),
        ..launch_of("/nonexistent")
    };
    assert!(
        explain(Stage::Exec, ENOENT, &hook)
            .text
            .starts_with("start_pre.0: ")
    );
}

#[test]
fn debug_output_has_no_values() {
    let mut spec = unit(&["/bin/true"]);
    spec.exec
        .env
        .insert("TOKEN".to_owned(), Template::literal("s3cr3t"));
    let prepared = make(&spec).expect("prepared");
    assert!(!format!("{prepared:?}").contains("s3cr3t"));
}

#[tokio::test(flavor = "current_thread")]
async fn preparing_off_the_loop_gives_the_same() {
    let preparer = Preparer::new(node());
    let spec = Arc::new(unit(&["/bin/true"]));
    let prepared = preparer
        .prepare_bounded(Arc::clone(&spec), Role::Main, id())
        .await
        .expect("prepared");
    assert_eq!(Ok(prepared.clone()), make(&spec));
    let launch = Arc::new(launch_of("/nonexistent"));
    let failure = preparer.explain(Stage::Exec, 2, launch).await;
    assert!(failure.text.contains("ENOENT"), "{failure:?}");
}
