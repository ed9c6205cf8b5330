//! The HTTP door, as monitors, strangers and hostile pages find it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::http::Door;
use harness::pace::Pace;
use harness::processes::Held;
use harness::{Node, NodeBuilder, PATIENCE, Unit, ctl, has_program, is_root, need, programs, until};
use proto::reply::{Health, State};
use serde_json::{Value, json};

/// A node whose door is a port of this host.
fn on_a_port(builder: NodeBuilder) -> (Node, Door) {
    let door = Door::free();
    let node = builder.args(&["--http", &door.text()]).start();
    door.wait(&node);
    (node, door)
}

/// A node whose door is a socket in its folder.
fn on_a_socket(builder: NodeBuilder) -> (Node, Door) {
    let door = Door::in_folder(&builder.path(""));
    let node = builder.args(&["--http", &door.text()]).start();
    door.wait(&node);
    (node, door)
}

/// `/health`, `/ready`, `/status` and `/status/UNIT` have the keys that operators know.
#[test]
fn monitors_are_told_what_they_ask() {
    let (node, door) = on_a_port(
        Node::builder()
            .unit(
                "auto_sync",
                &Unit::bad(&["run"])
                    .requires(&["event-router"])
                    .set("critical", "true"),
            )
            .unit("event-router", &Unit::bad(&["run"]).text("category", "event"))
            .unit(
                "once",
                &Unit::command(&["/bin/true"]).text("exec.kind", "oneshot"),
            )
            .unit(
                "broken",
                &Unit::command(&["/bin/false"]).text("restart.policy", "never"),
            ),
    );
    node.wait_state("broken", State::Failed);
    let health = door.get("/health").json();
    assert_eq!(health["alive"], json!(true));
    assert!(
        health["timestamp"].as_f64().is_some_and(|t| t > 1.6e9),
        "{health}"
    );
    assert!(
        health["uptime_seconds"].as_f64().is_some_and(|t| t > 0.0),
        "{health}"
    );
    assert_eq!(health["profile"], json!("test"));
    assert!(health["node"].is_string());
    let unit = &health["daemons"]["AUTO_SYNC"];
    assert_eq!(unit["state"], json!("running"));
    assert_eq!(unit["pid"], json!(node.pid("auto_sync")));
    assert_eq!(unit["ready"], json!(true));
    assert_eq!(unit["auto_restart"], json!(true));
    assert_eq!(unit["restart_count"], json!(0));
    assert_eq!(unit["depends_on"], json!(["EVENT-ROUTER"]));
    assert_eq!(unit["critical"], json!(true));
    assert_eq!(unit["last_error"], Value::Null);
    assert_eq!(unit["metrics"], json!({}));
    assert!(unit["uptime_seconds"].as_f64().is_some_and(|t| t > 0.0), "{unit}");
    assert!(unit["health"].is_string());
    assert_eq!(health["daemons"]["EVENT-ROUTER"]["category"], json!("event"));
    let broken = &health["daemons"]["BROKEN"];
    assert_eq!(
        (&broken["state"], &broken["auto_restart"]),
        (&json!("failed"), &json!(false))
    );
    assert!(broken["last_error"].is_string(), "{broken}");
    assert_eq!(broken["last_exit"]["code"], json!(1));

    let ready = door.get("/ready");
    assert_eq!(ready.status, 200, "only critical units count: {ready:?}");
    let ready = ready.json();
    assert_eq!(ready["ready"], json!(true));
    assert_eq!(
        (&ready["running_count"], &ready["failed_count"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(ready["running"], json!(["AUTO_SYNC", "EVENT-ROUTER"]));
    assert_eq!(ready["failed"], json!(["BROKEN"]));
    node.ctl(&["hold", "auto_sync"]).ended(0);
    node.ctl(&["kill", "-s", "KILL", "auto_sync"]).ended(0);
    let told = until("/ready says no", || {
        let ready = door.get("/ready");
        (ready.status == 503).then(|| ready.json())
    });
    assert_eq!(told["ready"], json!(false));
    assert!(
        told["reason"]
            .as_str()
            .is_some_and(|why| why.contains("AUTO_SYNC")),
        "{told}"
    );
    node.ctl(&["unhold", "auto_sync"]).ended(0);
    node.wait_state("auto_sync", State::Running);

    let status = until("the status is settled", || {
        let status = door.get("/status").json();
        (status["running"] == json!(2)).then_some(status)
    });
    assert_eq!((&status["total"], &status["failed"]), (&json!(4), &json!(1)));
    assert_eq!(status["score"], json!(0.75), "{status}");
    assert_eq!(status["status"], json!("degraded"));
    for name in ["auto_sync", "AUTO-SYNC", "Auto_Sync"] {
        let one = door.get(&format!("/status/{name}")).json();
        assert_eq!(
            (&one["name"], &one["state"]),
            (&json!("auto_sync"), &json!("running"))
        );
    }
    let none = door.get("/status/auto_sink");
    assert_eq!(none.status, 404);
    assert_eq!(none.json()["nearest"][0], json!("AUTO_SYNC"));
    assert_eq!(door.get("/nothing").status, 404);
    let page = door.get("/");
    assert!(
        page.header("content-type")
            .is_some_and(|kind| kind.starts_with("text/html"))
    );
    assert!(
        page.header("content-security-policy")
            .is_some_and(|policy| policy.contains("default-src 'none'"))
    );
    node.check();
}

/// The seed's line, by the real curl and jq, on the units and profile of this checkout.
#[test]
fn the_old_habit_works_on_the_shipped_profile() {
    need!(has_program("curl") && has_program("jq"), "no curl or no jq here");
    let checkout = programs::checkout().display();
    let node = Node::builder().prepare();
    let door = Door::free();
    let mut command = Command::new(programs::ringriftd());
    command
        .args(["--profile", "coordinator", "--http", &door.text()])
        .args(["--config", &format!("{checkout}/ringriftd.toml")])
        .args([
            "--units",
            &format!("{checkout}/units"),
            "--profiles",
            &format!("{checkout}/profiles"),
        ])
        .env_remove("RINGRIFT_HOME")
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(node.path("stderr")).expect("it is ours"));
    for (flag, name) in [
        ("--runtime-dir", "run"),
        ("--state-dir", "state"),
        ("--log-dir", "log"),
    ] {
        command.arg(flag).arg(node.path(name));
    }
    let mut daemon = command.spawn().expect("ringriftd was built");
    let held = Held::open(daemon.id() as i32).expect("it was just started");
    let line = format!(
        "curl -s http://{}/health | jq -c .daemons.AUTO_SYNC.state",
        door.text()
    );
    let state = harness::until_within(PATIENCE, || {
        let told = Command::new("sh")
            .args(["-c", &line])
            .env("no_proxy", "*")
            .output()
            .expect("sh is there");
        (told.stdout == b"\"running\"\n").then_some(())
    });
    held.signal(libc::SIGTERM);
    let ended = ctl::wait(&mut daemon, PATIENCE * 2);
    assert!(state.is_some(), "{line}\n{}", node.stderr());
    assert!(ended.is_some_and(|status| status.success()), "{}", node.stderr());
}

/// F3: nothing but GET and HEAD is heard, anywhere, and nothing changes.
#[test]
fn a_door_to_look_through_is_not_walked_through() {
    let (node, door) = on_a_port(Node::builder().unit("a", &Unit::bad(&["run"])));
    let before = (node.pid("a"), node.history().len());
    for path in ["/", "/health", "/status/a", "/events", "/metrics", "/stop/a", "*"] {
        for method in [
            "POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS", "STOP",
        ] {
            let path = if method == "CONNECT" { "localhost:80" } else { path };
            let answer = door
                .ask(method, path, &["Host: localhost", "Content-Length: 0"])
                .expect("it answers");
            let is_star = path == "*" && answer.status == 400;
            assert!(answer.status == 405 || is_star, "{method} {path}: {answer:?}");
            if !is_star {
                assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{method} {path}");
            }
        }
    }
    for path in [
        "/health",
        "/ready",
        "/status",
        "/metrics",
        "/events",
        "/",
        "/dashboard.json",
    ] {
        let head = door.ask("HEAD", path, &["Host: localhost"]).expect("it answers");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "HEAD {path}");
        assert_eq!(head.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(head.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(
            head.header("access-control-allow-origin"),
            None,
            "no other origin reads {path}"
        );
    }
    assert_eq!((node.pid("a"), node.history().len()), before);
    node.check();
}

/// F4: only under a name of this host is anything told; a page whose name resolves to 127.0.0.1 learns nothing.
#[test]
fn strangers_names_are_refused() {
    let (node, door) = on_a_port(
        Node::builder()
            .config("[http]\nallowed_hosts = [\"node-1.example\"]")
            .unit("a", &Unit::bad(&["run"])),
    );
    for (headers, status) in [
        (vec!["Host: localhost"], 200),
        (vec!["Host: node-1.example:8790"], 200),
        (vec!["Host: evil.example"], 421),
        (vec![], 400),
        (vec!["Host: localhost", "Host: evil.example"], 400),
        (vec!["Host: localhost", "Host: localhost"], 400),
    ] {
        let answer = door.ask("GET", "/health", &headers).expect("it answers");
        assert_eq!(answer.status, status, "{headers:?}");
        assert!(status == 200 || !answer.body.contains("daemons"), "{answer:?}");
    }
    let old = door.raw(b"GET /health HTTP/1.0\r\n\r\n").expect("it answers");
    assert!(
        old.starts_with(b"HTTP/1.0 400") || old.starts_with(b"HTTP/1.1 400"),
        "{old:?}"
    );
    if has_program("curl") {
        let Door::Tcp(address) = &door else {
            unreachable!("it is a port")
        };
        let told = Command::new("curl")
            .env("no_proxy", "*")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
            .args([
                "--resolve",
                &format!("evil.example:{}:{}", address.port(), address.ip()),
            ])
            .arg(format!("http://evil.example:{}/health", address.port()))
            .output()
            .expect("curl runs");
        assert_eq!(told.stdout, b"421");
    }
    node.check();
}

/// F6: a port that is taken keeps nobody from anything; `status` says so, and once it is free it is served.
#[test]
fn a_port_that_is_in_use_is_told_and_tried_again() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let door = Door::Tcp(taken.local_addr().expect("it has one"));
    let node = Node::builder()
        .unit("a", &Unit::bad(&["run"]))
        .args(&["--http", &door.text()])
        .start();
    until("status tells of it", || {
        let (header, _) = node.status_of(&[]);
        header
            .notices
            .iter()
            .any(|notice| notice.contains("http: failed (EADDRINUSE"))
            .then_some(())
    });
    drop(taken);
    door.wait(&node);
    let (header, _) = node.status_of(&[]);
    assert!(
        !header.notices.iter().any(|notice| notice.contains("http:")),
        "{header:?}"
    );
    node.check();
}

/// F6: an address that is not this host's, and a port that an ordinary user may not have.
#[test]
fn an_address_that_cannot_be_had_is_told() {
    for (address, word) in [("192.0.2.1:8790", "EADDRNOTAVAIL"), ("127.0.0.1:79", "EACCES")] {
        if word == "EACCES" && is_root() {
            continue;
        }
        let config = "[http]\nallow_remote = true\nallowed_hosts = [\"node-1\"]";
        let node = Node::builder()
            .config(config)
            .unit("a", &Unit::bad(&["run"]))
            .args(&["--http", address])
            .start();
        until("status tells of it", || {
            let (header, _) = node.status_of(&[]);
            header
                .notices
                .iter()
                .any(|n| n.contains(&format!("http: failed ({word}")))
                .then_some(())
        });
        node.check();
    }
}

/// F7: other hosts are let in by two words of the operator's, or not at all.
#[test]
fn an_open_address_is_refused_at_the_check() {
    for (config, is_good) in [
        ("[http]\nlisten = \"0.0.0.0:8790\"", false),
        ("[http]\nlisten = \"[::]:8790\"\nallow_remote = true", false),
        (
            "[http]\nlisten = \"0.0.0.0:8790\"\nallowed_hosts = [\"node-1\"]",
            false,
        ),
        (
            "[http]\nlisten = \"0.0.0.0:8790\"\nallow_remote = true\nallowed_hosts = [\"node-1\"]",
            true,
        ),
        ("[http]\nlisten = \"127.0.0.1\"", false),
        ("[http]\nlisten = \"127.0.0.1:0\"", false),
        ("[http]\nlisten = \"localhost:8790\"", true),
        ("[http]\nlisten = \"off\"", true),
        ("[http]\nlisten = \"/run/x/http.sock\"", true),
        ("[http]\nallowed_hosts = [\"node-1:8790\"]", false),
        ("[http]\nlisen = \"off\"", false),
    ] {
        let node = Node::builder().config(config).prepare();
        let mut args = vec!["check".to_owned()];
        args.extend(node.places());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let answer = ctl::run(programs::ringriftd(), &args, PATIENCE, |_| {});
        assert_eq!(
            answer.code,
            Some(if is_good { 0 } else { 8 }),
            "{config}\n{answer}"
        );
    }
    let mut node = Node::builder().args(&["--http", "0.0.0.0:8790"]).launch();
    assert_eq!(node.wait_end().code(), Some(8), "{}", node.stderr());
    assert!(node.stderr().contains("allow_remote"), "{}", node.stderr());
}

/// A reload opens, moves and closes the door; one that would open it to everybody changes nothing.
#[test]
fn a_reload_moves_the_door() {
    let (port, builder) = (Door::free(), Node::builder().unit("a", &Unit::bad(&["run"])));
    let socket = Door::in_folder(&builder.path(""));
    let mut node = builder.prepare();
    let base = node.read("ringriftd.toml");
    let file = node.path("ringriftd.toml");
    let write = |listen: &str| {
        let text = format!("{base}\n[http]\nlisten = {listen:?}\n");
        std::fs::write(&file, text).expect("it is ours");
    };
    write(&port.text());
    // The variable would win over the files, as the flag does.
    node.forget_env("RINGRIFT_HTTP");
    node.launch_daemon();
    node.wait_ready();
    node.remember();
    port.wait(&node);
    write(&socket.text());
    node.ctl(&["daemon-reload"]).ended(0);
    socket.wait(&node);
    until("the old place is closed", || {
        port.connect().is_err().then_some(())
    });
    write("0.0.0.0:8790");
    node.ctl(&["daemon-reload"]).ended(8);
    assert_eq!(socket.get("/health").status, 200);
    write("off");
    node.ctl(&["daemon-reload"]).ended(0);
    until("it is closed", || socket.connect().is_err().then_some(()));
    assert!(!node.path("http.sock").exists(), "its name is taken away");
}

/// F11: what a unit is given in its environment and on its command line is in no answer; its log lines are, where they
/// may be shown, and nowhere else.
#[test]
fn secrets_are_in_no_answer() {
    let secret = "s3cr3t-4711";
    let unit = |word: &str| {
        Unit::bad(&[word, "said-aloud", secret])
            .set("exec.env", &format!("{{ TOKEN = \"{secret}\" }}"))
            .text("restart.policy", "never")
    };
    // Takes every connection, and answers none.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let rude = listener.local_addr().expect("it has one");
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let probed = |probe: &str| {
        unit("run")
            .set("health.probe", probe)
            .text("health.interval", "1s")
            .text("health.grace", "0s")
            .text("health.on_failure", "mark")
    };
    let file = format!("KEY={secret}\nnot a line {secret}\n");
    let builder = || {
        let builder = Node::builder().file("secret.env", &file);
        let folder = builder.path("");
        builder
            .unit("lives", &unit("run"))
            .unit("chatty", &Unit::bad(&["print", "said-aloud"]))
            .unit("fails", &unit("no-such-mode"))
            .unit(
                "absent",
                &Unit::command(&["/nonexistent/program", "--token", secret]).text("restart.policy", "never"),
            )
            .unit(
                "misled",
                &unit("run").list("exec.env_files", &[&format!("{folder}secret.env")]),
            )
            .unit(
                "homeless",
                &unit("run").text("exec.working_dir", "/nonexistent/${TOKEN}"),
            )
            .unit(
                "asked",
                &probed(&format!("{{ http = \"http://{rude}/?key=${{TOKEN}}\" }}")),
            )
            .unit("sought", &probed("{ file = \"/nonexistent/${TOKEN}\" }"))
    };
    let paths = [
        "/health",
        "/ready",
        "/status",
        "/metrics",
        "/",
        "/dashboard.json",
        "/status/fails",
        "/status/absent",
        "/status/misled",
        "/dashboard/lives.json",
        "/dashboard/fails.json",
        "/dashboard/absent.json",
        "/dashboard/misled.json",
        "/dashboard/homeless.json",
        "/dashboard/chatty.json",
        "/dashboard/asked.json",
        "/dashboard/sought.json",
    ];
    let (node, door) = on_a_port(builder());
    node.wait_state("chatty", State::Running);
    for (unit, shown) in [("asked", "/?key=${TOKEN}"), ("sought", "/nonexistent/${TOKEN}")] {
        let told = node.wait_unit(unit, "found unwell", |unit| unit.health == Health::Unhealthy);
        let text = told.health_text.expect("why");
        assert!(text.contains(shown) && !text.contains(secret), "{text}");
    }
    for path in paths {
        let answer = door.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.contains(secret), "{path}: {}", answer.body);
        assert!(!answer.body.contains("said-aloud"), "{path}: {}", answer.body);
    }
    let mut events = door.events(Some(0));
    let last = node.history().last().map(|event| event.seq);
    for told in events.until("the last one", |told| told.id == last) {
        assert!(!told.data.to_string().contains(secret), "{told:?}");
    }
    drop(events);
    node.check();

    // Over a socket that has its mode, log lines are shown; still no environment and no command line.
    let (node, door) = on_a_socket(builder());
    let told = until("its lines are shown", || {
        let told = door.get("/dashboard/chatty.json").body;
        told.contains("said-aloud").then_some(told)
    });
    assert!(!told.contains(secret), "{told}");
    node.check();
}

/// F9 and the bound of the contract: with every unit stopped by a signal and both cores busy, `/health` and `status` answer
/// within 250 ms.
#[test]
fn hung_units_and_busy_cores_do_not_delay_an_answer() {
    let mut builder = Node::builder();
    for i in 0..78 {
        builder = builder.unit(&format!("u{i:02}"), &Unit::command(&["/bin/sleep", "1000"]));
    }
    let (node, door) = on_a_port(builder);
    let units: Vec<Held> = (0..78)
        .map(|i| Held::open(node.pid(&format!("u{i:02}"))).expect("it lives"))
        .collect();
    for unit in &units {
        unit.signal(libc::SIGSTOP);
    }
    let mut busy: Vec<_> = (0..std::thread::available_parallelism().map_or(2, usize::from))
        .map(|_| {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .spawn()
                .expect("sh is there")
        })
        .collect();
    let pace = Pace::keep();
    let mut took: Vec<Duration> = (0..40).map(|_| harness::http::took(&door, "/health")).collect();
    took.sort();
    let mut status: Vec<Duration> = (0..15)
        .map(|_| {
            let began = Instant::now();
            node.ctl(&["status"]).ended(0);
            began.elapsed()
        })
        .collect();
    status.sort();
    let pacing = pace.end();
    for child in &mut busy {
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }
    for unit in &units {
        unit.signal(libc::SIGCONT);
    }
    println!(
        "/health: median {:?}, worst {:?}; ringriftctl status: median {:?}, worst {:?}",
        took[20], took[39], status[7], status[14]
    );
    // The bound is 250 ms for the usual answer (the median). `status` is a program that has to be started besides.
    for (what, took) in [("/health", &took), ("status", &status)] {
        pacing.assert_usually(what, took, Duration::from_millis(250));
        pacing.assert_always(what, took, Duration::from_secs(2));
    }
    node.check();
}

/// Slow and silent clients cost a bounded time each, and never keep others out.
#[test]
fn whoever_holds_connections_open_keeps_nobody_out() {
    let (node, door) = on_a_port(Node::builder().unit("a", &Unit::bad(&["run"])));
    let mut silent: Vec<_> = (0..200).map(|_| door.connect().expect("it is let in")).collect();
    for (i, stream) in silent.iter_mut().enumerate() {
        let begun = b"GET /health HTTP/1.1\r\nHost: loc";
        // Those that had to give way are closed already.
        let _ = stream.write_all(&begun[..i % begun.len()]);
    }
    assert_eq!(door.get("/health").status, 200);
    let began = Instant::now();
    for stream in &mut silent {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "nobody asked");
    }
    assert!(began.elapsed() < PATIENCE, "they are let go");
    drop(silent);
    // Too long in every way.
    for (bytes, codes) in [
        (
            format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(4000)),
            vec!["414"],
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
                "a".repeat(64 * 1024)
            ),
            vec!["431"],
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
                "X: y\r\n".repeat(500)
            ),
            vec!["431"],
        ),
        (
            "GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
            vec!["400"],
        ),
        ("\0\0\0\r\n\r\n".to_owned(), vec!["400"]),
    ] {
        let answer = door.raw(bytes.as_bytes()).unwrap_or_default();
        let head = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
        // A refusal may be lost when the connection is closed with bytes unread; an answer never comes instead.
        assert!(
            answer.is_empty() || codes.iter().any(|code| head.ends_with(code)),
            "{head}"
        );
    }
    // One request for each connection.
    let two =
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answers = String::from_utf8_lossy(&door.raw(two).expect("it answers"))
        .matches("HTTP/1.1 200")
        .count();
    assert_eq!(answers, 1);
    node.check();
}

/// The dashboard's page, and what it lives from.
#[test]
fn the_dashboard_has_all_that_it_shows() {
    let (node, door) = on_a_port(
        Node::builder()
            .unit(
                "top",
                &Unit::bad(&["run"]).requires(&["base"]).list("wants", &["extra"]),
            )
            .unit("base", &Unit::bad(&["run"]))
            .unit("extra", &Unit::bad(&["run"])),
    );
    for _ in 0..3 {
        node.ctl(&["restart", "extra"]).ended(0);
    }
    let told = until("the node is settled", || {
        let told = door.get("/dashboard.json").json();
        (told["settled"] == json!(true) && told["status"] == json!("healthy")).then_some(told)
    });
    for key in [
        "node",
        "version",
        "profiles",
        "uptime_seconds",
        "counts",
        "notices",
        "score",
        "seq",
    ] {
        assert!(!told[key].is_null(), "{key} is missing: {told}");
    }
    let units = told["units"].as_array().expect("a list");
    assert_eq!(units.len(), 3);
    let top = units
        .iter()
        .find(|unit| unit["name"] == json!("top"))
        .expect("it is there");
    assert_eq!(
        top["depends_on"],
        json!([{ "unit": "base", "kind": "requires" }, { "unit": "extra", "kind": "wants" }])
    );
    for key in [
        "state",
        "health",
        "since_s",
        "uptime_seconds",
        "restart_count",
        "blocked_by",
        "category",
        "history",
    ] {
        assert!(!top[key].is_null(), "{key} is missing: {top}");
    }
    let extra = units
        .iter()
        .find(|unit| unit["name"] == json!("extra"))
        .expect("it is there");
    let words: Vec<&str> = extra["history"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|change| change[1].as_str())
        .collect();
    assert_eq!(
        words.iter().filter(|word| **word == "running").count(),
        4,
        "{words:?}"
    );
    let one = door.get("/dashboard.json?unit=base").json();
    assert_eq!(one["units"].as_array().map(Vec::len), Some(1));
    let base = door.get("/dashboard/BASE.json").json();
    assert_eq!(base["required_by"], json!(["top"]));
    assert!(
        base["events"].as_array().is_some_and(|events| events.len() >= 2),
        "{base}"
    );
    assert_eq!(
        (&base["shows_logs"], &base["last_lines"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(door.get("/dashboard/nobody.json").status, 404);
    node.check();
}
