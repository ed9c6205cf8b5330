//! What a unit is given and what it is not, as the unit itself sees it.

use harness::{Node, Unit, both_ways, need};
use proto::reply::State;
use serde_json::Value;

/// A unit that dumps what it was given into `dump`, in the node's folder.
fn dumper(dump: &str) -> Unit {
    Unit::bad(&["env"]).set(
        "exec.env",
        &format!("{{ RR_DUMP = {} }}", harness::unit::quoted(dump)),
    )
}

fn dump(node: &Node) -> Value {
    serde_json::from_str(&node.read("dump")).expect("a unit that is ready has written its dump")
}

/// A line of the dumped /proc/self/status.
fn field(dump: &Value, name: &str) -> String {
    let status = dump["status"].as_str().expect("a text");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

both_ways! {
    /// S7: a unit has descriptors 0, 1 and 2 and no others, whatever ringriftd was started with.
    fn a_unit_gets_no_descriptors_of_ours(mode) {
        // The daemon inherits one more from this test, on purpose.
        let leak = std::fs::File::open("/dev/zero").expect("it is there");
        nix::fcntl::fcntl(&leak, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("it is ours");
        let builder = Node::builder().containment(mode);
        let unit = dumper(&builder.path("dump"));
        let node = builder.unit("a", &unit).start();
        drop(leak);
        let dump = dump(&node);
        let fds: Vec<&String> = dump["fds"].as_object().expect("a table").keys().collect();
        assert_eq!(fds, ["0", "1", "2"], "{dump:#}");
        assert_eq!(dump["fds"]["0"], "/dev/null");
        assert_eq!(dump["fds"]["1"], dump["fds"]["2"], "one pipe, so that the order is kept");
        node.check();
    }

    /// S12, S2: a unit leads a session and a group of its own, with all signals as a fresh process has them.
    fn a_unit_has_its_own_session_and_clean_signals(mode) {
        let builder = Node::builder().containment(mode);
        let unit = dumper(&builder.path("dump"));
        let node = builder.unit("a", &unit).start();
        let dump = dump(&node);
        assert_eq!((&dump["session"], &dump["group"]), (&dump["pid"], &dump["pid"]));
        assert_eq!(dump["pid"], node.pid("a"));
        for name in ["SigBlk", "SigIgn", "SigCgt"] {
            let mask = field(&dump, name);
            // The Rust runtime of the unit itself ignores PIPE and catches SEGV and BUS.
            let mask = u64::from_str_radix(&mask, 16).expect("a mask") & !(1 << 12 | 1 << 10 | 1 << 6);
            assert_eq!(mask, 0, "{name}");
        }
        node.check();
    }
}

/// S2: user, groups, umask, nice, limits and the promise of no new privileges are as the file says.
#[test]
fn a_unit_runs_as_its_file_says() {
    need!(harness::is_root(), "needs root to become somebody else");
    let builder = Node::builder();
    let folder = builder.path("out");
    std::fs::create_dir(&folder).expect("it is ours");
    std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).expect("root may");
    let unit = dumper(&format!("{folder}/dump"))
        .text("exec.user", "65534")
        .text("exec.group", "65534")
        .list("exec.supplementary_groups", &["12345", "12346"])
        .text("exec.umask", "0027")
        .set("exec.nice", "5")
        .set("exec.oom_score_adj", "100")
        .set("exec.rlimits", "{ nofile = 123 }");
    let node = builder.unit("a", &unit).start();
    let dump: Value = serde_json::from_str(&node.read("out/dump")).expect("a dump");
    assert_eq!(field(&dump, "Uid"), "65534 65534 65534 65534");
    assert_eq!(field(&dump, "Gid"), "65534 65534 65534 65534");
    assert_eq!(field(&dump, "Groups"), "12345 12346");
    assert_eq!(field(&dump, "NoNewPrivs"), "1");
    assert_eq!(field(&dump, "Umask"), "0027");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&dump, set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (&dump["nice"], &dump["oom_score_adj"]),
        (&Value::from("5"), &Value::from("100"))
    );
    let limits = dump["limits"].as_str().expect("a text");
    let open = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("it is listed");
    assert_eq!(open.split_whitespace().nth(3), Some("123"), "{open}");
    node.check();
}

/// S2: a unit of another user has a session keyring of its own, so that it possesses no keys of ringriftd's session.
#[test]
fn units_of_another_user_share_no_session_keyring() {
    need!(harness::is_root(), "needs root to become somebody else");
    let mut builder = Node::builder();
    for name in ["a", "b"] {
        let folder = builder.path(name);
        std::fs::create_dir(&folder).expect("it is ours");
        std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).expect("root may");
        let unit = dumper(&format!("{folder}/dump"))
            .text("exec.user", "65534")
            .text("exec.group", "65534");
        builder = builder.unit(name, &unit);
    }
    let node = builder.start();
    let keyring = |file: &str| -> i64 {
        let dump: Value = serde_json::from_str(&node.read(file)).expect("a dump");
        dump["keyring"].as_i64().expect("a number")
    };
    let (a, b) = (keyring("a/dump"), keyring("b/dump"));
    need!(a >= 0, "needs a kernel with keys");
    assert_ne!(a, b);
    node.check();
}

/// S2: a user that does not exist fails the start, and nothing runs as somebody else.
#[test]
fn an_unknown_user_fails_the_start() {
    need!(harness::is_root(), "needs root to become somebody else");
    let builder = Node::builder();
    let file = builder.path("stamps");
    let unit = Unit::bad(&["run", "--on-start-append", &file])
        .text("exec.user", "no-such-user-here")
        .once();
    let node = builder.spare("a", &unit).start();
    let answer = node.ctl(&["start", "a"]).ended(1);
    assert!(answer.text().contains("no-such-user-here"), "{answer}");
    assert!(harness::stamps(file.as_ref()).is_empty(), "it ran all the same");
    node.check();
}

/// S2: the environment is clean: nothing of ringriftd's own comes through but what the files name.
#[test]
fn the_environment_is_clean() {
    let builder = Node::builder().env("RR_SECRET_OF_THE_DAEMON", "x");
    let unit = dumper(&builder.path("dump"));
    let node = builder.unit("a", &unit).start();
    let environ = dump(&node)["environ"].clone();
    let environ = environ.as_object().expect("a table");
    assert!(!environ.contains_key("RR_SECRET_OF_THE_DAEMON"), "{environ:#?}");
    for name in [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "RINGRIFT_UNIT",
        "RINGRIFT_INVOCATION_ID",
    ] {
        assert!(environ.contains_key(name), "{name} is missing: {environ:#?}");
    }
    assert_eq!(environ["RINGRIFT_UNIT"], "a");
    assert_eq!(
        Some(environ["RINGRIFT_INVOCATION_ID"].as_str().expect("a text")),
        node.unit("a").invocation.as_deref()
    );
    assert_eq!(node.unit("a").state, State::Running);
    node.check();
}

/// S1: the socket and its folder are for their owner alone, whatever the umask.
#[test]
fn the_socket_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let node = Node::builder().start();
    for (path, mode) in [("run", 0o700), ("run/control.sock", 0o600)] {
        let is = std::fs::metadata(node.path(path))
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(is, mode, "{path} has {is:o}");
    }
    need!(
        harness::is_root() && harness::has_program("setpriv"),
        "needs root and setpriv"
    );
    let denied = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(harness::programs::ringriftctl())
        .args(["stop", "*", "--yes"])
        .env("RINGRIFT_SOCKET", node.socket())
        .stdin(std::process::Stdio::null())
        .output()
        .expect("setpriv is here");
    // Where the programs themselves lie out of a stranger's reach, setpriv says 126 or 127.
    assert!(
        matches!(denied.status.code(), Some(5 | 69 | 126 | 127)),
        "{denied:?}"
    );
    node.check();
}
