//! Failures, causes and the last start, as an operator asks for them: `failed`, `status UNIT`, `why`, `analyze`.

use std::os::unix::fs::PermissionsExt;

use harness::survive::Role;
use harness::{Node, Unit, both_ways, until};
use proto::reply::{Capsule, ChangedKind, Exit, FailureKind, Oom, Reply, State};
use proto::request::{Depth, Request};
use serde_json::Value;

/// A unit that runs this line of shell.
fn shell(line: &str) -> Unit {
    Unit::command(&["/bin/sh", "-c", line])
}

/// What is kept of a unit's failures, once nothing of it is missing.
fn capsules(node: &Node, unit: &str, least: usize) -> Vec<Capsule> {
    until(&format!("{least} whole failures of {unit}"), || {
        let request = Request::Status {
            selectors: vec![unit.to_owned()],
            depth: Depth::Detail,
            all: false,
        };
        let mut found = Vec::new();
        for reply in node.try_call(request).ok()? {
            if let Reply::Units(units) = reply {
                found.extend(units.into_iter().flat_map(|unit| unit.capsules));
            }
        }
        (found.len() >= least && found.iter().all(|capsule| capsule.is_tail_known)).then_some(found)
    })
}

fn lines(capsule: &Capsule) -> Vec<String> {
    let text = |line: &proto::reply::LogLine| String::from_utf8_lossy(&line.message).into_owned();
    capsule.tail.iter().map(text).collect()
}

both_ways! {
    /// A failure keeps how it ended, how long it lived, what it used, and its last words, those without a newline too.
    fn a_failure_is_kept_with_its_last_words(mode) {
        let line = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); done; printf 'and out'; exit 7";
        let node = Node::builder()
            .containment(mode)
            .unit("a", &shell(line).once())
            .unit("killed", &shell("echo now; kill -9 $$").once())
            .unit("absent", &Unit::command(&["/nonexistent/program"]).once())
            .unit("late", &shell("echo waits; exec sleep 1000").kind("notify").text("ready.timeout", "3s").once())
            .start();
        let capsule = &capsules(&node, "a", 1)[0];
        assert_eq!((capsule.kind, capsule.exit), (FailureKind::Exit, Some(proto::reply::Exit::Code(7))));
        let told = lines(capsule);
        assert_eq!(told.len(), 20, "{told:?}");
        assert_eq!(told[17..], ["line 38", "line 39", "and out"].map(str::to_owned));
        assert!(capsule.lived_ms.is_some() && capsule.cpu_us.is_some(), "{capsule:?}");
        let event = node.history().into_iter().find(|event| event.seq == capsule.seq).expect("its event");
        assert_eq!((event.unit.as_str(), event.event.as_str()), ("a", "DAEMON_FAILED"));
        assert_eq!(event.invocation.as_ref(), Some(&capsule.invocation));

        let killed = &capsules(&node, "killed", 1)[0];
        assert_eq!(killed.kind, FailureKind::Signal);
        assert_eq!(lines(killed), ["now"]);
        assert_ne!(killed.oom, Oom::Yes, "nobody ran out of memory");

        let absent = &capsules(&node, "absent", 1)[0];
        assert_eq!((absent.kind, absent.exit, absent.lived_ms), (FailureKind::Start, None, None));
        assert!(absent.text.contains("/nonexistent/program"), "{absent:?}");

        let late = &capsules(&node, "late", 1)[0];
        assert_eq!((late.kind, late.oom), (FailureKind::Timeout, Oom::No));
        assert!(late.lived_ms.is_some() && late.ready_ms.is_none(), "{late:?}");
        assert_eq!(lines(late), ["waits"]);

        let table = node.ctl(&["failed"]).ended(1).stdout;
        let row = |unit: &str| {
            let found = table.lines().find(|row| row.starts_with(unit));
            found.unwrap_or_else(|| panic!("no row of {unit}:\n{table}")).to_owned()
        };
        assert!(row("a ").contains("exit 7") && row("a ").ends_with("and out"), "{table}");
        assert!(row("absent").contains("no start"), "{table}");
        assert!(row("late").contains("timeout"), "{table}");
        let shown = node.ctl(&["status", "a"]).ended(3).stdout;
        assert!(shown.contains("failed once") && shown.contains("and out"), "{shown}");
        node.check();
    }

    /// However fast a unit dies, each failure has the words of its own life, and the manager's death loses none.
    fn a_burst_of_crashes_mixes_no_lives(mode) {
        let line = "echo I am $RINGRIFT_INVOCATION_ID; exit 1";
        let mut node = Node::builder()
            .containment(mode)
            .unit("a", &shell(line).text("restart.delay", "1ms").set("restart.max_restarts", "12"))
            .unit("b", &shell(line).text("restart.delay", "1ms").set("restart.max_restarts", "12"))
            .start();
        node.crash_manager();
        for unit in ["a", "b"] {
            node.wait_state(unit, State::Failed);
            let found = capsules(&node, unit, 3);
            for capsule in &found {
                assert_eq!(lines(capsule), [format!("I am {}", capsule.invocation)], "{capsule:?}");
            }
            assert_eq!(found.len(), 3);
            assert!(found.windows(2).all(|pair| pair[0].seq < pair[1].seq), "{found:?}");
            assert_eq!(node.unit(unit).failures, 13);
        }
        node.check();
    }
}

/// A manager that is dead while a unit ends leaves its successor all that there is to know. So does a logger; and what is
/// kept outlives all of ringriftd.
#[test]
fn failures_outlive_the_manager_the_logger_and_all_of_ringriftd() {
    let node = Node::builder();
    let go = node.path("go");
    let line = format!("while [ ! -e {go} ]; do sleep 0.05; done; echo last words; exit 5");
    let mut node = node.unit("a", &shell(&line).once()).start();
    // A stopped manager sees nothing; killed, it leaves the end to the next one.
    let manager = node.role_of(Role::Manager);
    harness::processes::signal(manager.pid, libc::SIGSTOP);
    std::fs::write(node.path("go"), "").expect("a file");
    until("the end of a", || node.unit_processes().is_empty().then_some(()));
    harness::processes::signal(manager.pid, libc::SIGKILL);
    node.wait_manager_after(&manager);
    let first = capsules(&node, "a", 1);
    assert_eq!(first.len(), 1);
    assert_eq!(lines(&first[0]), ["last words"]);
    assert_eq!(first[0].kind, FailureKind::Exit);

    node.crash_logger();
    assert_eq!(capsules(&node, "a", 1), first);
    node.shutdown();
    node.start_again();
    // The new life fails too: `go` is there.
    let both = capsules(&node, "a", 2);
    assert_eq!(both[0], first[0]);
    assert_eq!(lines(&both[1]), ["last words"]);
    node.check();
}

/// A unit that was ended because it is not well, and one that hung: why, how it then ended, and its last words.
#[test]
fn an_unhealthy_end_and_a_hung_one_are_failures_with_their_reasons() {
    let program = harness::programs::ringriftd().to_str().expect("a path of text");
    let sick = shell("echo my disk is gone; exec sleep 1000")
        .once()
        .set("health.probe", "{ file = \"/nowhere/flag\" }")
        .text("health.interval", "1s")
        .text("health.grace", "0s")
        .set("health.failures", "2");
    let hung = Unit::command(&[program, "stand-in", "create_x", "--log-every", "200ms"])
        .kind("notify")
        .once()
        .text("health.watchdog", "2s");
    let node = Node::builder()
        .unit("sick", &sick)
        .unit("hung", &hung)
        .start_without_waiting();
    node.wait_unit("hung", "heard of", |u| {
        u.check
            .as_ref()
            .is_some_and(|check| check.watchdog_fed_us.is_some())
    });
    harness::processes::signal(node.pid("hung"), libc::SIGSTOP);
    let sick = &capsules(&node, "sick", 1)[0];
    assert_eq!(sick.kind, FailureKind::Probe);
    assert!(
        sick.text
            .contains("failed 2 times in a row: there is no /nowhere/flag"),
        "{sick:?}"
    );
    assert_eq!(lines(sick), ["my disk is gone"]);
    // It was stopped in order, by us.
    assert_eq!(
        sick.exit,
        Some(Exit::Signal {
            signal: libc::SIGTERM,
            core: false
        })
    );
    assert!(sick.ready_ms.is_some() && sick.oom == Oom::No, "{sick:?}");

    let hung = &capsules(&node, "hung", 1)[0];
    assert_eq!(hung.kind, FailureKind::Probe);
    assert!(hung.text.contains("watchdog"), "{hung:?}");
    assert!(
        matches!(
            hung.exit,
            Some(Exit::Signal {
                signal: libc::SIGABRT,
                ..
            })
        ),
        "it leaves a trace of where it hung: {hung:?}"
    );
    assert!(hung.ready_ms.is_some() && !lines(hung).is_empty(), "{hung:?}");
    let why = node.ctl(&["why", "hung"]).ended(3);
    assert!(why.stdout.contains("watchdog"), "{why}");
    let table = node.ctl(&["failed"]).ended(1).stdout;
    assert_eq!(table.matches("health check").count(), 2, "{table}");
    node.check();
}

/// The death of keeper, manager and logger in one moment takes no failure along; and a unit that ends while nobody is there is a
/// failure too.
#[test]
fn failures_outlive_the_death_of_all_three_roles() {
    let node = Node::builder();
    let go = node.path("go");
    let waits = format!("while [ ! -e {go} ]; do sleep 0.05; done; exit 5");
    let mut node = node
        .bare()
        .unit("a", &shell("echo last words; exit 7").once())
        .unit("b", &shell(&waits).once())
        .spare("held", &shell("exit 0"))
        .start();
    let before = capsules(&node, "a", 1);
    assert_eq!(lines(&before[0]), ["last words"]);
    // Answered when it is on disk, and with it all that came before.
    node.ctl(&["hold", "held"]).ended(0);
    node.kill_daemon();
    std::fs::write(node.path("go"), "").expect("a file");
    until("the end of b", || node.unit_processes().is_empty().then_some(()));
    node.start_again();
    assert_eq!(capsules(&node, "a", 1), before, "neither lost nor told twice");
    node.wait_state("b", State::Failed);
    let unseen = capsules(&node, "b", 1);
    assert_eq!(unseen.len(), 1);
    // Where nobody has reaped it the kernel still says how it ended; else nobody knows, and that is said.
    assert!(
        matches!(unseen[0].exit, Some(Exit::Code(5) | Exit::Unknown)),
        "{unseen:?}"
    );
    let event = node
        .history()
        .into_iter()
        .find(|event| event.seq == unseen[0].seq);
    assert_eq!(event.map(|event| event.unit).as_deref(), Some("b"));
    node.kill_daemon();
    node.start_again();
    assert_eq!(
        (capsules(&node, "a", 1), capsules(&node, "b", 1)),
        (before, unseen)
    );
    node.check();
}

/// A control group of the old kind that may have 16 MiB, removed in the end.
struct Narrow(std::path::PathBuf);

impl Narrow {
    fn make() -> Option<Self> {
        let folder = format!("/sys/fs/cgroup/memory/rr-test-{}", std::process::id());
        let folder = std::path::PathBuf::from(folder);
        std::fs::create_dir(&folder).ok()?;
        let narrow = Self(folder);
        std::fs::write(narrow.0.join("memory.limit_in_bytes"), "16M").ok()?;
        Some(narrow)
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A unit that the kernel really kills for want of memory: its own cgroup says so where it counts memory; where only the machine
/// counts, it is a maybe. Either way every screen tells it.
#[test]
fn a_kill_for_want_of_memory_is_told() {
    let narrow = Narrow::make();
    let root = harness::processes::cgroup_root().unwrap_or_default();
    // The unit narrows the group that it is in, or goes into the one that was made for it.
    let line = format!(
        "own={}$(sed -n 's/^0:://p' /proc/self/cgroup); if [ -e $own/memory.max ]; then echo 16M > $own/memory.max; else echo $$ > \
         {}/cgroup.procs; fi && echo filling up && exec tail /dev/zero",
        root.display(),
        narrow
            .as_ref()
            .map_or("/nowhere".to_owned(), |narrow| narrow.0.display().to_string())
    );
    let node = Node::builder()
        .unit("other", &Unit::bad(&["run"]))
        .spare("a", &shell(&line).once())
        .start();
    let counts = node.leaves().iter().any(|leaf| leaf.join("memory.max").exists());
    harness::need!(counts || narrow.is_some(), "no memory controller that we may use");
    node.ctl(&["start", "a", "--no-block"]).ended(0);
    node.wait_state("a", State::Failed);
    let capsule = &capsules(&node, "a", 1)[0];
    assert_eq!(capsule.kind, FailureKind::Signal, "{capsule:?}");
    assert_eq!(
        capsule.exit,
        Some(Exit::Signal {
            signal: libc::SIGKILL,
            core: false
        })
    );
    assert_eq!(capsule.oom, if counts { Oom::Yes } else { Oom::Maybe });
    assert_eq!(lines(capsule), ["filling up"]);
    for words in [&["failed"][..], &["status", "a"], &["why", "a"]] {
        let told = node.ctl(words).stdout;
        assert!(told.contains("memory"), "{words:?}:\n{told}");
    }
    node.check();
}

/// What is different since a unit last worked is named, and no value of its environment is.
#[test]
fn a_failure_says_what_changed_since_the_unit_last_worked() {
    let builder = Node::builder();
    let script = builder.path("worker.sh");
    let good = "#!/bin/sh\nexec sleep 1000\n";
    let write = |text: &str| {
        std::fs::write(&script, text).expect("a script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&script, mode).expect("it is ours");
    };
    write(good);
    let unit = Unit::command(&[&script])
        .text("restart.stable_after", "10ms")
        .requires(&["base"])
        .once();
    let base = Unit::command(&["/bin/sleep", "1000"]);
    let node = builder.unit("base", &base).unit("worker", &unit).start();
    // It works: it is ready for longer than it has to be.
    let since = node.wait_state("worker", State::Running).ready_us.expect("ready");
    until("a stable life", || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // Its files are looked at meanwhile, off the loop, for a second at most.
        (now.expect("after 1970").as_micros() as u64 > since + 2_000_000).then_some(())
    });
    node.ctl(&["stop", "worker"]).ended(0);
    node.ctl(&["restart", "base", "--yes"]).ended(0);
    write("#!/bin/sh\necho broken\nexit 4\n");
    let changed = unit.text("restart.delay", "7s").text("exec.env.TOKEN", "s3cret");
    std::fs::write(node.path("units/worker.toml"), changed.to_toml()).expect("a unit");
    node.ctl(&["daemon-reload"]).ended(0);
    node.ctl(&["start", "worker", "--no-block"]).ended(0);
    let capsule = until("what changed", || {
        let found = capsules(&node, "worker", 1).pop()?;
        // The files are looked at off the loop.
        let is_whole = found
            .changed
            .iter()
            .any(|changed| changed.kind == ChangedKind::Program);
        is_whole.then_some(found)
    });
    let told = |kind| {
        let of_kind = capsule.changed.iter().filter(|changed| changed.kind == kind);
        of_kind.map(|changed| changed.text.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(told(ChangedKind::Definition), ["exec.env.TOKEN, restart.delay"]);
    assert_eq!(told(ChangedKind::Program), [script.as_str()]);
    assert_eq!(told(ChangedKind::Dependency), ["base"]);
    assert_eq!(told(ChangedKind::Boot), [""; 0]);
    assert!(
        capsule.worked.as_ref().is_some_and(|worked| !worked.is_this),
        "{capsule:?}"
    );
    let why = node.ctl(&["why", "worker"]).ended(3);
    for said in ["exec.env.TOKEN, restart.delay", "echo", "broken", "base"] {
        assert!(said == "echo" || why.stdout.contains(said), "{why}");
    }
    let json = node.ctl(&["why", "worker", "--json"]).ended(3);
    for output in [&why, &json, &node.ctl(&["status", "worker", "--json"])] {
        assert!(!output.text().contains("s3cret"), "{output}");
    }
    node.check();
}

/// S4: what a unit's arguments say is not stored, though what they name is compared when it fails.
#[test]
fn no_argument_of_a_unit_is_stored() {
    let secret = "s3cret-4711";
    let builder = Node::builder().file("secret.env", &format!("PASSWORD={secret}\n"));
    let (script, env) = (builder.path("worker.sh"), builder.path("secret.env"));
    let unit = Unit::command(&["/bin/sh", &script, "database://me@host/x"])
        .set(
            "exec.command",
            &format!("[\"/bin/sh\", {script:?}, \"database://me:${{PASSWORD}}@host/x\"]"),
        )
        .list("exec.env_files", &[&env])
        .once();
    let node = builder
        .file("worker.sh", "sleep 1000\n:\n")
        .unit("worker", &unit)
        .start();
    let stored = || {
        let mut all = Vec::new();
        for file in std::fs::read_dir(node.path("state")).expect("it has a state") {
            all.extend(std::fs::read(file.expect("a file").path()).unwrap_or_default());
        }
        all
    };
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    // The script is one that was seen, and so is stored, by its path as JSON has it.
    until("the files of its command are stored", || {
        has(&stored(), &format!("\"path\":{script:?}")).then_some(())
    });
    let command = std::fs::read(format!("/proc/{}/cmdline", node.pid("worker"))).expect("it is ours");
    assert!(has(&command, secret), "it was given it");
    assert!(!has(&stored(), secret), "it is stored");
    node.check();
}

/// `why` on a real node: each kind of cause with its exit code, its chain, and what it blocks.
#[test]
fn why_names_the_cause_and_what_it_blocks() {
    let sleeper = || Unit::command(&["/bin/sleep", "1000"]);
    let dead = shell("echo no database; exit 1").once();
    let node = Node::builder()
        .unit("base", &dead)
        .unit("mid", &sleeper().requires(&["base"]))
        .unit("top", &sleeper().requires(&["mid", "other"]))
        .unit("other", &shell("exit 1").text("restart.delay", "1h"))
        .unit("fine", &sleeper())
        .unit("once", &shell("exit 0").kind("oneshot"))
        .spare("spare", &sleeper())
        .spare("rival", &sleeper().list("conflicts", &["fine"]))
        .start();
    capsules(&node, "base", 1);
    let ask = |unit: &str, code: i32| -> Value { node.ctl(&["why", unit, "--json"]).ended(code).json() };

    let fine = ask("fine", 0);
    assert_eq!(fine["schema"], "ringrift.v1.why");
    assert_eq!(
        (&fine["fine"], fine["roots"].as_array().map(Vec::len)),
        (&Value::Bool(true), Some(0))
    );
    assert_eq!(ask("once", 0)["fine"], true);
    assert_eq!(ask("FINE", 0)["unit"], "fine", "names are folded as everywhere");

    let mid = ask("mid", 3);
    let root = &mid["roots"][0];
    assert_eq!(
        (&root["unit"], &root["kind"]),
        (&"base".into(), &"failed".into()),
        "{mid:#}"
    );
    assert_eq!(root["blocks"], serde_json::json!(["mid", "top"]));
    assert_eq!(root["capsule"]["code"], 1);
    assert_eq!(root["capsule"]["last_lines"][0]["message"], "no database");
    let seq = root["capsule"]["seq"].as_u64().expect("a number");
    assert!(
        node.history()
            .iter()
            .any(|e| e.seq == seq && e.unit == "base" && e.event == "DAEMON_FAILED")
    );
    assert_eq!(mid["chain"][1]["unit"], "base");
    assert_eq!(mid["chain"][1]["edge"], "requires");

    let top = ask("top", 3);
    let mut causes: Vec<_> = top["roots"].as_array().expect("causes").iter().collect();
    causes.sort_by_key(|root| root["unit"].as_str().map(str::to_owned));
    assert_eq!(
        causes
            .iter()
            .map(|root| (&root["unit"], &root["kind"]))
            .collect::<Vec<_>>(),
        [
            (&"base".into(), &"failed".into()),
            (&"other".into(), &"backoff".into())
        ],
    );
    assert!(causes[1]["next_try"].is_string(), "{top:#}");

    assert_eq!(ask("spare", 3)["roots"][0]["kind"], "unwanted");
    node.ctl(&["stop", "fine"]).ended(0);
    let stopped = ask("fine", 3);
    assert_eq!(stopped["roots"][0]["kind"], "stopped");
    assert_eq!(stopped["roots"][0]["by"]["verb"], "stop", "{stopped:#}");
    node.ctl(&["hold", "fine", "--note", "new disk"]).ended(0);
    let held = ask("fine", 3);
    assert_eq!(held["roots"][0]["kind"], "held");
    assert!(
        held["text"]
            .as_str()
            .is_some_and(|text| text.contains("new disk")),
        "{held:#}"
    );
    assert_eq!(held["roots"][0]["try"][0]["command"], "ringriftctl unhold fine");

    let unknown = node.ctl(&["why", "fin"]).ended(4);
    assert!(unknown.stderr.contains("fine"), "{unknown}");
    node.ctl(&["why", "*"]).ended(2);
    let text = node.ctl(&["why", "mid"]).ended(3).stdout;
    for said in [
        "cause: base",
        "no database",
        "holds back 2 units: mid, top",
        "ringriftctl start base",
    ] {
        assert!(text.contains(said), "no {said:?} in\n{text}");
    }
    node.check();
}

/// The last start, from the recorder: also after the manager has died, and of the start after a stop, not of the one before.
#[test]
fn analyze_tells_who_held_up_whom() {
    let builder = Node::builder();
    let go = builder.path("go");
    let mut node = builder
        .unit("slow", &Unit::bad(&["run", "--ready-when", &go]))
        .unit("needs", &Unit::bad(&["run"]).requires(&["slow"]))
        .unit("quick", &Unit::bad(&["run"]))
        .start_without_waiting();
    node.wait_state("quick", State::Running);
    std::fs::write(node.path("go"), "").expect("a file");
    node.wait_ready();
    node.crash_manager();
    let chain = node.ctl(&["analyze", "critical-chain", "--json"]).ended(0).json();
    let names = |json: &Value| -> Vec<String> {
        let units = json["units"].as_array().expect("units").iter();
        units
            .map(|unit| unit["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&chain), ["needs", "slow"], "{chain:#}");
    assert_eq!(chain["schema"], "ringrift.v1.analyze");
    assert_eq!(chain["units"][0]["set_off_by"], "slow");
    assert_eq!(
        names(
            &node
                .ctl(&["analyze", "critical-chain", "QUICK", "--json"])
                .ended(0)
                .json()
        ),
        ["quick"]
    );
    let blame = node.ctl(&["analyze", "blame"]).ended(0).stdout;
    assert_eq!(blame.lines().count(), 4, "{blame}");
    node.ctl(&["analyze", "critical-chain", "slwo"]).ended(4);
    let svg = node.ctl(&["analyze", "plot", "--svg"]).ended(0).stdout;
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    for unit in ["slow", "needs", "quick"] {
        assert!(svg.contains(&format!("<title>{unit}: waited ")), "{svg}");
    }
    node.ctl(&["analyze", "plot"]).ended(2);

    node.ctl(&["stop", "needs"]).ended(0);
    node.ctl(&["start", "needs"]).ended(0);
    let began = chain["began"].clone();
    node.shutdown();
    node.start_again();
    let again = node
        .ctl(&["analyze", "critical-chain", "needs", "--json"])
        .ended(0)
        .json();
    assert_ne!(again["began"], began);
    assert_eq!(names(&again), ["needs", "slow"], "{again:#}");
    assert_eq!(again["units"][0]["tries"], 1);
    node.check();
}
