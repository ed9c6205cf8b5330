//! The HTTP door over the deaths of those behind it: its listener is the keeper's, its numbers are part of the state.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::http::Door;
use harness::{Node, NodeBuilder, Unit, has_program, need, until};
use proto::reply::State;

fn served(builder: NodeBuilder) -> (Node, Door) {
    let door = Door::free();
    let node = builder.args(&["--http", &door.text()]).start();
    door.wait(&node);
    (node, door)
}

/// Every counter of `/metrics`, by name and labels.
fn counters(door: &Door) -> BTreeMap<String, f64> {
    let body = door.get("/metrics").body;
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(name, _)| name.contains("_total"))
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect()
}

/// No counter has fallen but the CPU time of a life that is over, which begins anew with the next.
#[track_caller]
fn assert_monotone(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    assert!(before.len() > 10, "{before:?}");
    for (name, value) in before
        .iter()
        .filter(|(name, _)| !name.starts_with("ringrift_unit_cpu"))
    {
        let now = after.get(name).copied().unwrap_or(-1.0);
        assert!(now >= *value, "{name} fell from {value} to {now}");
    }
}

/// Counters are exact, and none falls when the manager dies, in the middle of a storm too.
#[test]
fn counters_are_exact_and_go_on_over_the_managers_death() {
    let (mut node, door) = served(
        Node::builder()
            .unit("calm", &Unit::bad(&["run"]))
            .unit(
                "wild",
                &Unit::bad(&["exit", "3"])
                    .set("restart.max_restarts", "6")
                    .text("restart.exhausted", "give_up"),
            )
            .unit(
                "shot",
                &Unit::bad(&["run"]).set("restart.max_restarts", "\"unlimited\""),
            ),
    );
    node.wait_state("wild", State::Failed);
    for _ in 0..3 {
        let pid = node.pid("shot");
        node.ctl(&["kill", "-s", "KILL", "shot"]).ended(0);
        node.wait_unit("shot", "another life", |unit| {
            unit.state == State::Running && unit.pid != Some(pid as u32)
        });
    }
    let sample = |name: &str, labels: &str| door.metric(&format!("{name}{{{labels}}}"));
    until("what was counted is shown", || {
        let is_so = sample("ringrift_unit_exits_total", "daemon=\"shot\",reason=\"signal\"") == Some(3.0)
            && sample("ringrift_control_requests_total", "verb=\"kill\"") == Some(3.0);
        is_so.then_some(())
    });
    assert_eq!(sample("ringrift_unit_starts_total", "daemon=\"wild\""), Some(7.0));
    assert_eq!(
        sample("ringrift_unit_restarts_total", "daemon=\"wild\""),
        Some(6.0)
    );
    assert_eq!(
        sample("ringrift_unit_exits_total", "daemon=\"wild\",reason=\"failure\""),
        Some(7.0)
    );
    assert_eq!(sample("ringrift_unit_starts_total", "daemon=\"calm\""), Some(1.0));
    assert_eq!(
        sample("ringrift_unit_exits_total", "daemon=\"calm\",reason=\"success\""),
        Some(0.0)
    );
    assert_eq!(
        sample("ringrift_events_total", "event=\"DAEMON_PERMANENTLY_FAILED\""),
        Some(1.0)
    );
    let mut before = counters(&door);
    for _ in 0..3 {
        node.crash_manager();
        door.wait(&node);
        let pid = node.pid("shot");
        node.ctl(&["kill", "-s", "KILL", "shot"]).ended(0);
        node.wait_unit("shot", "another life", |unit| {
            unit.state == State::Running && unit.pid != Some(pid as u32)
        });
        let after = counters(&door);
        assert_monotone(&before, &after);
        before = after;
    }
    until("every exit was counted once", || {
        let n = sample("ringrift_unit_exits_total", "daemon=\"shot\",reason=\"signal\"");
        (n == Some(6.0)).then_some(())
    });
    assert_eq!(
        sample("ringrift_role_restarts_total", "role=\"manager\""),
        Some(3.0)
    );
    assert_eq!(sample("ringrift_unit_starts_total", "daemon=\"wild\""), Some(7.0));
    node.check();
}

/// Logs, checks and what was asked over HTTP are counted too; none of it falls when the manager or the logger dies.
#[test]
fn logs_checks_and_questions_are_counted() {
    let builder = Node::builder();
    let (go, flag) = (builder.path("go"), builder.path("flag"));
    nix::unistd::mkfifo(go.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("a place for it");
    // 11 bytes a line.
    let speak = format!(
        "while read -r n < {go}; do i=0; while [ $i -lt $n ]; do echo 0123456789; i=$((i+1)); done; done"
    );
    let checked = Unit::bad(&["run"])
        .set("health.probe", &format!("{{ file = \"{flag}\" }}"))
        .text("health.interval", "1s")
        .text("health.grace", "0s")
        .text("health.on_failure", "mark");
    let (mut node, door) = served(
        builder
            .unit(
                "speaks",
                &Unit::command(&["/bin/sh", "-c", &speak]).kind("simple"),
            )
            .unit("checked", &checked),
    );
    let say = |n: u64| std::fs::write(&go, format!("{n}\n")).expect("it reads");
    let sample = |name: &str| door.metric(name).unwrap_or(-1.0);
    let speaks = |what: &str| sample(&format!("ringrift_unit_log_{what}{{daemon=\"speaks\"}}"));
    let logged = |lines: f64| {
        until("its log is counted", || {
            (speaks("lines_total") == lines && speaks("bytes_total") == lines * 11.0).then_some(())
        });
    };
    say(1000);
    logged(1000.0);
    assert_eq!((speaks("dropped_bytes_total"), speaks("blocked")), (0.0, 0.0));
    let probes = |result: &str| {
        sample(&format!(
            "ringrift_unit_probes_total{{daemon=\"checked\",result=\"{result}\"}}"
        ))
    };
    until("a failed probe is counted", || {
        (probes("failed") >= 1.0).then_some(())
    });
    std::fs::write(&flag, "").expect("it is ours");
    until("a passed one is", || (probes("passed") >= 1.0).then_some(()));
    assert_eq!(probes("unasked"), 0.0);
    assert!(sample("ringrift_unit_last_probe_duration_seconds{daemon=\"checked\"}") > 0.0);
    assert!(sample("ringrift_unit_probe_duration_seconds_total{daemon=\"checked\"}") > 0.0);
    assert_eq!(door.get("/status/nobody").status, 404);
    let asked = |path: &str, code: &str| {
        sample(&format!(
            "ringrift_http_requests_total{{path=\"{path}\",code=\"{code}\"}}"
        ))
    };
    until("the question is counted", || {
        (asked("/status/UNIT", "404") == 1.0).then_some(())
    });

    for _ in 0..2 {
        let before = counters(&door);
        node.crash_manager();
        door.wait(&node);
        assert_monotone(&before, &counters(&door));
    }
    assert_eq!(asked("/status/UNIT", "404"), 1.0);
    say(500);
    logged(1500.0);
    // Another logger counts from 0, and what the last one told stays.
    let before = counters(&door);
    node.crash_logger();
    say(250);
    logged(1750.0);
    assert_monotone(&before, &counters(&door));
    node.note_roles();
    node.check();
}

/// Nobody is refused while a manager is dead or the program is exchanged: whoever connects waits for the next one.
#[test]
fn whoever_asks_while_there_is_no_manager_is_answered_by_the_next() {
    let (mut node, door) = served(Node::builder().unit("a", &Unit::bad(&["run"])));
    let pid = node.pid("a");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut answered, mut broken) = (0, 0);
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // Refused would be an error of connect(2); a connection that the dying manager had taken may break.
                let mut stream = door.connect().expect("the listener is always there");
                let _ = std::io::Write::write_all(
                    &mut stream,
                    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
                );
                let mut text = String::new();
                let read = std::io::Read::read_to_string(&mut stream, &mut text);
                match read {
                    Ok(_) if text.starts_with("HTTP/1.1 200") => answered += 1,
                    _ => broken += 1,
                }
            }
            (answered, broken)
        });
        for _ in 0..3 {
            node.crash_manager();
            door.wait(&node);
        }
        node.ctl(&["upgrade"]).ended(0);
        door.wait(&node);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let (answered, broken) = client.join().expect("it was never refused");
        assert!(
            answered > 0 && broken <= 8,
            "{answered} answered, {broken} broken off"
        );
    });
    assert_eq!(node.pid("a"), pid);
    node.note_roles();
    node.check();
}

/// The listener goes on over the keeper's death, as the manager that takes its place holds it too; and over the death of
/// both, which the next daemon makes anew.
#[test]
fn the_door_is_there_after_the_keepers_death() {
    let door = Door::free();
    let mut node = Node::builder()
        .bare()
        .unit("a", &Unit::bad(&["run"]))
        .args(&["--http", &door.text()])
        .start_without_waiting();
    door.wait(&node);
    node.wait_state("a", State::Running);
    let pid = node.pid("a");
    node.crash_keeper();
    door.wait(&node);
    assert_eq!(node.pid("a"), pid);
    node.kill_daemon();
    node.start_again();
    door.wait(&node);
    assert_eq!(node.pid("a"), pid);
}

/// A socket's name is taken over from a dead daemon, and never from one that lives.
#[test]
fn a_sockets_name_is_never_taken_from_the_living() {
    let builder = Node::builder().unit("a", &Unit::bad(&["run"]));
    let door = Door::in_folder(&builder.path(""));
    let mut node = builder.args(&["--http", &door.text()]).start();
    door.wait(&node);
    let other = Node::builder()
        .unit("b", &Unit::bad(&["run"]))
        .args(&["--http", &door.text()])
        .start();
    until("the second one is told", || {
        let (header, _) = other.status_of(&[]);
        header
            .notices
            .iter()
            .any(|n| n.contains("http: failed (EADDRINUSE"))
            .then_some(())
    });
    assert!(
        door.get("/health").body.contains("\"A\""),
        "the first one is served"
    );
    drop(other);
    node.kill_daemon();
    node.start_again();
    door.wait(&node);
}

/// A reader of events that comes back misses nothing and hears nothing twice, over the manager's death and from the flight
/// recorder; one that says no number hears what happens from then on.
#[test]
fn a_stream_of_events_is_resumed_where_it_ended() {
    let (mut node, door) = served(Node::builder().unit("a", &Unit::bad(&["run"])));
    let last = |node: &Node| node.history().last().map(|event| event.seq);
    let mut stream = door.events(Some(0));
    let first = stream.until("the last so far", |told| told.id == last(&node));
    let mut ids: Vec<u64> = first.iter().filter_map(|told| told.id).collect();
    assert_eq!(first[0].data["event"], serde_json::json!("DAEMON_STATUS_CHANGED"));
    node.ctl(&["restart", "a"]).ended(0);
    let seq = last(&node);
    ids.extend(
        stream
            .until("the restart", |told| told.id == seq)
            .iter()
            .filter_map(|told| told.id),
    );
    node.crash_manager();
    door.wait(&node);
    while let Some(told) = stream.hear() {
        ids.extend(told.id);
    }
    node.ctl(&["restart", "a"]).ended(0);
    let seq = last(&node);
    let mut stream = door.events(ids.last().copied());
    ids.extend(
        stream
            .until("the second restart", |told| told.id == seq)
            .iter()
            .filter_map(|told| told.id),
    );
    let whole: Vec<u64> = (1..=seq.expect("there are some")).collect();
    assert_eq!(ids, whole, "without a hole or a repeat");
    let mut fresh = door.events(None);
    // A number that was never given is of another life of the state.
    let mut stray = door.events(Some(u64::MAX / 2));
    node.ctl(&["restart", "a"]).ended(0);
    for stream in [&mut fresh, &mut stray] {
        let told = stream.until("anything", |_| true);
        assert!(told[0].id > seq, "{told:?}");
    }
    drop((fresh, stray, stream));
    node.check();
}

/// A stream with nothing to say shows every 15 s that it lives, so that whoever listens knows a quiet node from a lost one;
/// and it is not let go of for being quiet.
#[test]
fn a_quiet_stream_shows_that_it_lives() {
    let (node, door) = served(Node::builder().unit("a", &Unit::bad(&["run"])));
    let last = node.history().last().map(|event| event.seq);
    let began = Instant::now();
    let mut stream = door.events(last.map(|seq| seq - 1));
    stream.until("the last so far", |told| told.id == last);
    // Longer than one that takes nothing is kept (30 s).
    for nth in 1..=3 {
        // However late each is read here: they come no more often than every 15 s, and each in a time that is waited for.
        assert!(stream.is_heartbeat(), "nothing happened, and the stream lives");
        let took = began.elapsed();
        assert!(
            took >= nth * Duration::from_secs(15),
            "{took:?}: not more often than it says"
        );
    }
    node.ctl(&["restart", "a"]).ended(0);
    let seq = node.history().last().map(|event| event.seq);
    stream.until("the restart", |told| told.id == seq);
    drop(stream);
    node.check();
}

/// Only so many streams are open at once; one more is told so, and one place that is left is taken again.
#[test]
fn streams_of_events_are_bounded() {
    let (node, door) = served(Node::builder().unit("a", &Unit::bad(&["run"])));
    let mut streams: Vec<_> = (0..24).map(|_| door.events(Some(0))).collect();
    for stream in &mut streams {
        stream.hear().expect("it is told");
    }
    let one_more = door.get("/events");
    assert_eq!(one_more.status, 503, "{one_more:?}");
    assert_eq!(one_more.header("retry-after"), Some("10"));
    assert_eq!(door.get("/health").status, 200);
    streams.pop();
    until("its place is free", || {
        let mut stream = door.events(Some(0));
        stream.hear()
    });
    drop(streams);
    node.check();
}

/// D2: a reader that takes nothing costs a bounded amount, is told what it missed when it takes again, and delays nobody.
#[test]
fn a_reader_that_does_not_read_is_told_what_it_missed() {
    let crash = Unit::bad(&["exit", "1"])
        .set("restart.max_restarts", "\"unlimited\"")
        .text("restart.delay", "1ms");
    let mut builder = Node::builder();
    for i in 0..8 {
        builder = builder.unit(&format!("c{i}"), &crash);
    }
    let door = Door::in_folder(&builder.path(""));
    let node = builder.args(&["--http", &door.text()]).start_without_waiting();
    door.wait(&node);
    let mut slow = door.events(None);
    let first = slow.hear().and_then(|told| told.id).expect("it is told");
    // It may be told of a gap several times in a row: while the first word waits for its turn, it misses more.
    let (mut heard, mut missed) = (first, 0);
    // True for the first event behind a gap.
    let mut take = || {
        let told = slow.hear().expect("it is not let go of so soon");
        let Some(id) = told.id else {
            assert_eq!(told.kind, "lagged");
            missed += told.data["missed"].as_u64().expect("a number");
            return false;
        };
        assert_eq!(id, heard + missed + 1, "exactly as many as it was told of");
        heard = id;
        std::mem::take(&mut missed) > 0
    };
    let (mut since, mut has_missed) = (Instant::now(), false);
    until("much has happened", || {
        assert_eq!(door.get("/health").status, 200);
        // Whoever takes nothing for half a minute is let go; on a slow machine it takes that long.
        if since.elapsed() > Duration::from_secs(10) {
            has_missed |= (0..50).any(|_| take());
            since = Instant::now();
        }
        let now = door.get("/dashboard.json?unit=none").json()["seq"].as_u64()?;
        (has_missed || now > first + 6000).then_some(())
    });
    while !has_missed {
        has_missed = take();
    }
    node.ctl(&["stop", "*", "--yes"]).ended(0);
}

/// `promtool check metrics` finds nothing, in neither format, and a real Prometheus scrapes both.
#[test]
fn a_real_prometheus_is_content() {
    need!(
        has_program("promtool") && has_program("prometheus") && has_program("curl"),
        "no promtool, prometheus or curl here"
    );
    let (node, door) = served(
        Node::builder()
            .unit("a", &Unit::bad(&["run"]))
            .unit(
                "says",
                &Unit::bad(&[
                    "run",
                    "--then-say",
                    "X_RINGRIFT_METRICS={\"queue_depth\": 7, \"rate\": 0.5}",
                ]),
            )
            .unit(
                "fails",
                &Unit::bad(&["exit", "2"]).text("restart.policy", "never"),
            ),
    );
    node.wait_state("fails", State::Failed);
    let line = format!("curl -s http://{}/metrics | promtool check metrics", door.text());
    let told = Command::new("sh")
        .args(["-c", &line])
        .env("no_proxy", "*")
        .output()
        .expect("sh is there");
    assert!(
        told.status.success() && told.stderr.is_empty() && told.stdout.is_empty(),
        "{}{}",
        String::from_utf8_lossy(&told.stdout),
        String::from_utf8_lossy(&told.stderr)
    );
    let open = door
        .ask(
            "GET",
            "/metrics",
            &[
                "Host: localhost",
                "Accept: application/openmetrics-text;version=1.0.0",
            ],
        )
        .expect("it answers");
    assert!(
        open.header("content-type")
            .is_some_and(|kind| kind.starts_with("application/openmetrics-text"))
    );
    assert!(open.body.ends_with("# EOF\n"));

    let at = Door::free();
    let config = format!(
        "scrape_configs:\n- job_name: ringrift\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  static_configs:\n  - targets: ['{}']\n",
        door.text()
    );
    std::fs::write(node.path("prometheus.yml"), config).expect("it is ours");
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", node.path("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", node.path("tsdb").display()))
        .arg(format!("--web.listen-address={}", at.text()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let query = |what: &str| {
        let answer = at
            .ask(
                "GET",
                &format!("/api/v1/query?query={what}"),
                &["Host: localhost", "Connection: close"],
            )
            .ok()?;
        let start = answer.body.find('{')?;
        let end = answer.body.rfind('}')?;
        let value: serde_json::Value = serde_json::from_str(&answer.body[start..=end]).ok()?;
        value["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    until("the daemon's own numbers are shown", || {
        door.metric("ringrift_daemon_metric{daemon=\"says\",name=\"queue_depth\"}")
    });
    let found = harness::until_within(harness::PATIENCE * 2, || {
        let is_up = query("up")? == "1";
        let state = query("ringrift_unit_state%7Bdaemon=%22a%22,state=%22running%22%7D")?;
        let exits = query("ringrift_unit_exits_total%7Bdaemon=%22fails%22,reason=%22failure%22%7D")?;
        let own = query("ringrift_daemon_metric%7Bdaemon=%22says%22,name=%22queue_depth%22%7D")?;
        is_up.then_some((state, exits, own))
    });
    prometheus.kill().expect("it is ours");
    prometheus.wait().expect("it is ours");
    assert_eq!(found, Some(("1".to_owned(), "1".to_owned(), "7".to_owned())));
    node.check();
}
