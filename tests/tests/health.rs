//! How well units are: probes of every kind, watchdogs, what units say of themselves, and what follows.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use harness::http::Door;
use harness::{Node, Unit, processes, programs, until};
use proto::reply::{CheckOutcome, Exit, Health, State, UnitStatus};

/// Answers each request with the status that stands in it.
struct Web {
    at: SocketAddr,
    status: Arc<AtomicU16>,
    is_over: Arc<AtomicBool>,
}

impl Web {
    fn serve(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let at = listener.local_addr().expect("it has one");
        let (status, is_over) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicBool::new(false)));
        let (now, over) = (Arc::clone(&status), Arc::clone(&is_over));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let _ = stream.read(&mut [0; 4096]);
                let answer = format!(
                    "HTTP/1.1 {} X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
                    now.load(Ordering::SeqCst)
                );
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { at, status, is_over }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Nobody listens any more.
    fn close(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        // The thread sees it with the next connection, and its listener goes with it.
        let _ = std::net::TcpStream::connect(self.at);
        until("the port is closed", || {
            std::net::TcpStream::connect(self.at).is_err().then_some(())
        });
    }
}

/// A unit that is asked every second from the first on, and is unhealthy after two failures.
fn asked(unit: Unit, probe: &str) -> Unit {
    unit.set("health.probe", probe)
        .text("health.interval", "1s")
        .text("health.grace", "0s")
        .set("health.failures", "2")
}

fn simple(argv: &[&str]) -> Unit {
    Unit::command(argv).kind("simple")
}

fn stand_in(words: &[&str]) -> Unit {
    let program = programs::ringriftd().to_str().expect("a path of text");
    let mut argv = vec![program, "stand-in"];
    argv.extend_from_slice(words);
    Unit::command(&argv).kind("notify")
}

fn http(web: &Web) -> String {
    format!("{{ http = \"http://{}/ready\" }}", web.at)
}

fn healthy(node: &Node, unit: &str) -> UnitStatus {
    node.wait_unit(unit, "healthy", |u| u.health == Health::Healthy)
}

fn unhealthy(node: &Node, unit: &str) -> UnitStatus {
    node.wait_unit(unit, "unhealthy", |u| u.health == Health::Unhealthy)
}

#[test]
fn a_unit_is_ready_when_its_probe_succeeds_and_restarted_when_its_check_fails_in_a_row() {
    let web = Web::serve(503);
    let unit = asked(Unit::bad(&["run"]), &http(&web)).set("ready.probe", &http(&web));
    let node = Node::builder()
        .unit("a", &unit)
        .unit("b", &Unit::bad(&["run"]).requires(&["a"]))
        .start_without_waiting();
    let starting = node.wait_unit("a", "asked, and not ready", |u| {
        let checks = u.check.as_ref().map_or(0, |check| check.results.len());
        u.state == State::Starting && checks > 0
    });
    assert!(starting.health_text.expect("why").contains("503"));
    assert_eq!(node.unit("b").state, State::Waiting);
    web.answer(200);
    node.wait_state("b", State::Running);
    let before = healthy(&node, "a");
    node.ctl(&["health", "a"]).ended(0);
    // A redirect is followed by nobody.
    web.answer(302);
    let text = "unhealthy: the check failed 2 times in a row";
    let ended = node.wait_unit("a", "ended for its health", |u| {
        u.last_error.as_deref().is_some_and(|e| e.starts_with(text))
    });
    assert!(ended.last_error.expect("why").contains("302"));
    web.answer(204);
    let after = node.wait_unit("a", "well in another life", |u| {
        u.health == Health::Healthy && u.invocation != before.invocation
    });
    assert_eq!(after.check.expect("it is checked").unhealthy_ends, 1);
    let told = node.history();
    let told: Vec<_> = told
        .iter()
        .filter(|e| e.unit == "a" && e.event == "DAEMON_HEALTH_CHANGED")
        .collect();
    assert!(
        told.iter()
            .all(|e| e.cause.kind == proto::reply::CauseKind::Probe)
    );
    assert!(
        told.iter().any(|e| e.cause.text.starts_with("unhealthy: ")),
        "{told:#?}"
    );
    node.check();
}

/// `health`'s code: 0 when none of them is unhealthy, whatever else they are; 3 when one is, also with `--json`; 4 when there is no such
/// unit, and 69 when there is nobody to ask.
#[test]
fn the_exit_code_of_health_is_its_verdict() {
    let builder = Node::builder();
    let flag = builder.path("flag");
    std::fs::write(&flag, "").expect("it is ours");
    let checked = asked(Unit::bad(&["run"]), &format!("{{ file = \"{flag}\" }}"))
        .text("health.on_failure", "mark")
        .set("health.failures", "3");
    let mut node = builder
        .unit("checked", &checked)
        .unit("plain", &Unit::bad(&["run"]))
        .unit("down", &Unit::command(&["/bin/false"]).once())
        .start();
    healthy(&node, "checked");
    let codes = |all: i32, checked: i32| {
        node.ctl(&["health"]).ended(all);
        node.ctl(&["health", "checked"]).ended(checked);
        node.ctl(&["health", "plain"]).ended(0);
        node.ctl(&["health", "down"]).ended(0);
        let json = node.ctl(&["health", "--json"]).ended(all).json();
        assert_eq!(json["schema"], "ringrift.v1.health");
        json["units"].as_array().expect("units").len()
    };
    assert_eq!(codes(0, 0), 3);
    std::fs::remove_file(&flag).expect("it is ours");
    node.wait_unit("checked", "failing", |u| u.health == Health::Degraded);
    unhealthy(&node, "checked");
    codes(3, 3);
    std::fs::write(&flag, "").expect("it is ours");
    healthy(&node, "checked");
    codes(0, 0);
    let unknown = node.ctl(&["health", "chekced"]).ended(4);
    assert!(
        unknown.stderr.contains("checked"),
        "the nearest is named: {unknown}"
    );
    node.ctl(&["health", "chekced", "--json"]).ended(4);
    node.ctl(&["health", "--nonsense"]).ended(2);
    node.shutdown();
    node.ctl(&["health"]).ended(69);
}

/// F11: what a variable of a probe comes to is asked with, and shown to nobody.
#[test]
fn no_answer_holds_what_a_probe_was_filled_with() {
    let builder = Node::builder();
    let marked = |probe: &str| {
        asked(Unit::bad(&["run"]), probe)
            .text("health.on_failure", "mark")
            .text("exec.env.TOKEN", "s3cret")
    };
    let door = harness::http::Door::in_folder(&builder.path(""));
    let web = Web::serve(500);
    let node = builder
        .args(&["--http", &door.text()])
        .unit(
            "http",
            &marked(&format!("{{ http = \"http://{}/${{TOKEN}}\" }}", web.at)),
        )
        .unit("file", &marked("{ file = \"/nowhere/${TOKEN}\" }"))
        .unit("tcp", &marked("{ tcp = \"${TOKEN}.invalid:7\" }"))
        .start();
    door.wait(&node);
    for (unit, said) in [
        ("http", "/${TOKEN} answered 500"),
        ("file", "there is no /nowhere/${TOKEN}"),
    ] {
        let text = unhealthy(&node, unit).health_text.expect("why");
        assert!(text.contains(said), "{text}");
    }
    node.wait_unit("tcp", "asked in vain", |u| u.health_text.is_some());
    let mut told: Vec<String> = [
        "/health",
        "/status",
        "/dashboard.json",
        "/dashboard/http.json",
        "/metrics",
    ]
    .map(|path| door.get(path).body)
    .into();
    told.extend(["health", "status", "why"].map(|verb| node.ctl(&[verb, "http"]).text()));
    told.extend(["health", "events"].map(|verb| node.ctl(&[verb, "--json"]).text()));
    for told in told {
        assert!(!told.contains("s3cret"), "{told}");
    }
    let health = door.get("/health").json();
    let text = health["daemons"]["FILE"]["health_text"].as_str();
    assert!(text.is_some_and(|text| text.contains("there is no")), "{health}");
    node.check();
}

#[test]
fn tcp_file_and_command_are_asked_and_a_mark_restarts_nobody() {
    let web = Web::serve(200);
    let builder = Node::builder();
    let flag = builder.path("flag");
    std::fs::write(&flag, "").expect("it is ours");
    let marked = |probe: &str| asked(Unit::bad(&["run"]), probe).text("health.on_failure", "mark");
    let node = builder
        .unit("tcp", &marked(&format!("{{ tcp = \"{}\" }}", web.at)))
        .unit("file", &marked(&format!("{{ file = \"{flag}\" }}")))
        .unit(
            "command",
            &marked("{ command = [\"test\", \"-e\", \"${FLAG}\"] }").text("exec.env.FLAG", &flag),
        )
        .start();
    let units = ["tcp", "file", "command"];
    let pids = units.map(|unit| {
        let unit = healthy(&node, unit);
        (unit.pid, unit.restarts)
    });
    node.ctl(&["health"]).ended(0);
    web.close();
    std::fs::remove_file(&flag).expect("it is ours");
    for (unit, word) in units
        .iter()
        .zip(["cannot connect", "there is no", "exited with code 1"])
    {
        let text = unhealthy(&node, unit).health_text.expect("why");
        assert!(text.contains(word), "{unit}: {text}");
    }
    node.ctl(&["health"]).ended(3);
    std::fs::write(&flag, "").expect("it is ours");
    healthy(&node, "file");
    healthy(&node, "command");
    assert_eq!(units.map(|u| (node.unit(u).pid, node.unit(u).restarts)), pids);
    node.check();
}

#[test]
fn a_line_of_its_log_makes_a_unit_ready_and_one_of_an_earlier_life_does_not() {
    let script = "echo starting; read -r go < \"$0\"; echo ready on port 7; exec sleep 1000";
    let builder = Node::builder();
    let gate = builder.path("gate");
    nix::unistd::mkfifo(gate.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("a place for it");
    let unit =
        simple(&["/bin/sh", "-c", script, &gate]).set("ready.probe", "{ log_line = '^ready on port \\d+$' }");
    let node = builder.unit("a", &unit).start_without_waiting();
    for _ in 0..2 {
        let life = node.wait_unit("a", "looked at, and not ready", |u| {
            let tries = u.check.as_ref().map_or(0, |check| check.results.len());
            u.state == State::Starting && tries > 1 && u.pid.is_some()
        });
        std::fs::write(&gate, "go\n").expect("it reads");
        node.wait_unit("a", "ready", |u| u.state == State::Running && u.pid == life.pid);
        node.ctl(&["restart", "a", "--no-block"]).ended(0);
        node.wait_unit("a", "another life", |u| u.pid.is_some() && u.pid != life.pid);
    }
    node.check();
}

#[test]
fn a_probe_whose_command_is_missing_is_one_record_an_interval_and_no_failure() {
    let unit = asked(Unit::bad(&["run"]), "{ command = [\"/nowhere/probe\"] }").set("health.failures", "1");
    let node = Node::builder().unit("a", &unit).start();
    let full = node.wait_unit("a", "asked several times", |u| {
        u.check.as_ref().is_some_and(|check| check.results.len() >= 3)
    });
    assert_eq!((full.state, full.restarts), (State::Running, 0));
    assert_eq!(full.health, Health::Unknown);
    let text = full.health_text.expect("why");
    assert!(
        text.contains("cannot be checked") && text.contains("/nowhere/probe"),
        "{text}"
    );
    let results = full.check.expect("it is checked").results;
    assert!(
        results.iter().all(|r| r.outcome == CheckOutcome::Unasked),
        "{results:#?}"
    );
    for pair in results.windows(2) {
        let pause = pair[1].at_us - pair[0].at_us;
        assert!(pause > 500_000, "{pause} us between two records");
    }
    node.check();
}

#[test]
fn a_stopped_process_misses_its_watchdog_is_aborted_and_started_again() {
    let unit = stand_in(&["create_x"]).text("health.watchdog", "6s");
    let node = Node::builder().unit("a", &unit).start();
    let before = node.wait_unit("a", "heard of", |u| {
        let fed = |check: &proto::reply::CheckStatus| check.watchdog_fed_us.is_some();
        u.health == Health::Healthy && u.check.as_deref().is_some_and(fed)
    });
    let variables = std::fs::read(format!("/proc/{}/environ", node.pid("a"))).expect("it is ours");
    let variables = String::from_utf8_lossy(&variables).into_owned();
    let pid = format!("WATCHDOG_PID={}\0", node.pid("a"));
    assert!(variables.contains("WATCHDOG_USEC=6000000\0"), "{variables}");
    assert!(format!("{variables}\0").contains(&pid), "{variables}");
    processes::signal(node.pid("a"), libc::SIGSTOP);
    let after = node.wait_unit("a", "running in another life", |u| {
        u.state == State::Running && u.invocation != before.invocation
    });
    let is_abort = matches!(
        after.last_exit.map(|l| l.exit),
        Some(Exit::Signal { signal: 6, .. })
    );
    assert!(is_abort, "{after:#?}");
    assert!(after.last_error.expect("why").contains("watchdog"));
    node.check();
}

#[test]
fn a_stopped_process_is_found_by_its_probe_within_interval_times_failures() {
    harness::need!(
        std::path::Path::new("/usr/bin/python3").exists(),
        "python3 serves http"
    );
    let place = Door::free().text();
    let (address, port) = place.split_once(':').expect("an address and its port");
    let serve = simple(&["/usr/bin/python3", "-m", "http.server", "--bind", address, port]);
    let probe = format!("{{ http = \"http://{place}/\" }}");
    let unit = asked(serve, &probe)
        .set("ready.probe", &probe)
        .text("health.timeout", "1s")
        .text("exec.working_dir", "/");
    let node = Node::builder().unit("a", &unit).start();
    healthy(&node, "a");
    processes::signal(node.pid("a"), libc::SIGSTOP);
    let stopped = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_micros() as u64;
    let text = "unhealthy: the check failed";
    node.wait_unit("a", "found", |u| {
        u.last_error.as_deref().is_some_and(|e| e.starts_with(text))
    });
    let found = node
        .history()
        .into_iter()
        .find(|e| e.event == "DAEMON_HEALTH_CHANGED" && e.cause.text.starts_with(text))
        .expect("it was told");
    // 2 × 1 s and one timeout; the rest is for a loaded machine. Whoever counted more failures than asked for, or asked every
    // default interval, would take longer than that.
    let took = found.at_us.saturating_sub(stopped);
    assert!(took < 3_000_000 + 12_000_000, "{took} us");
    println!("a stopped process was found after {took} us");
    node.check();
}

#[test]
fn checks_go_on_when_the_manager_dies_between_them() {
    let web = Web::serve(200);
    let unit = asked(Unit::bad(&["run"]), &http(&web)).text("health.on_failure", "mark");
    let mut node = Node::builder().unit("a", &unit).start();
    let before = healthy(&node, "a");
    let last = |u: &UnitStatus| u.check.as_ref().and_then(|c| c.results.last().map(|r| r.at_us));
    for _ in 0..3 {
        let seen = last(&node.unit("a"));
        processes::signal(node.manager(), libc::SIGKILL);
        node.wait_socket();
        node.wait_unit("a", "asked again", |u| last(u) > seen);
    }
    let after = healthy(&node, "a");
    assert_eq!((after.pid, after.restarts), (before.pid, 0));
    // What was counted is not forgotten.
    web.answer(500);
    node.wait_unit("a", "not well", |u| {
        u.check.as_ref().is_some_and(|c| c.failed_probes >= 1)
    });
    processes::signal(node.manager(), libc::SIGKILL);
    node.wait_socket();
    assert!(node.unit("a").check.expect("it is checked").failed_probes >= 1);
    unhealthy(&node, "a");
    node.check();
}

#[test]
fn what_a_unit_says_counts_and_a_report_marks_it() {
    let unit = stand_in(&["create_x", "--unhealthy-after", "10ms"])
        .text("health.interval", "1s")
        .text("health.grace", "0s")
        .set("health.failures", "2")
        .text("health.on_failure", "mark");
    let node = Node::builder().unit("a", &unit).start();
    let marked = unhealthy(&node, "a");
    assert_eq!((marked.state, marked.restarts), (State::Running, 0));
    assert!(
        marked
            .health_text
            .expect("why")
            .contains("it says that it is unhealthy")
    );
    node.ctl(&["health", "a"]).ended(3);
    let listed = node.ctl(&["list"]);
    listed.ended(0);
    node.check();
}

#[test]
fn seventy_eight_units_are_not_asked_in_one_instant() {
    let web = Web::serve(200);
    let mut builder = Node::builder();
    for i in 0..78 {
        let unit = asked(simple(&["sleep", "1000"]), &http(&web))
            .text("health.interval", "5m")
            .text("health.timeout", "5s");
        builder = builder.unit(&format!("u{i:02}"), &unit);
    }
    let node = builder.start();
    let (_, units) = node.status_of(&["*"]);
    let mut offsets: Vec<u64> = units
        .iter()
        .filter_map(|u| Some(u.check.as_ref()?.next_us?.saturating_sub(u.ready_us?)))
        .collect();
    offsets.sort_unstable();
    assert!(offsets.len() >= 70, "{} are still to be asked", offsets.len());
    // 300 s for 78: in no second more than a few. Places are drawn by lot, anew on each node: six in one second
    // come about once in a thousand runs, ten never; in one instant it would be 78.
    let crowd = offsets
        .iter()
        .map(|at| {
            offsets
                .iter()
                .filter(|other| **other >= *at && **other < at + 1_000_000)
                .count()
        })
        .max();
    assert!(crowd <= Some(9), "{crowd:?} in one second");
    let span = offsets
        .last()
        .zip(offsets.first())
        .map(|(last, first)| last - first);
    assert!(span > Some(200_000_000), "{span:?}");
    node.check();
}
