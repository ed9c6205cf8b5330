//! A daemon for the tests: a socket that answers as it is told, well or badly.
#![allow(dead_code)] // each test binary uses its part

pub mod terminal;

pub use terminal::PATIENCE;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use proto::codec::{decode, encode};
use proto::frame::{Answer, Ask, Hello, VERSION, Welcome};
use proto::log::Severity;
use proto::reply::*;
use proto::request::{Depth, Request};

/// A daemon that answers each request with what `script` says.
pub struct Daemon {
    _dir: tempfile::TempDir,
    pub socket: PathBuf,
    pub asked: Arc<Mutex<Vec<Request>>>,
}

/// The daemon's end of one conversation.
pub struct Line(pub UnixStream);

impl Line {
    pub fn send(&mut self, value: &impl serde::Serialize) {
        let body = encode(value).expect("encodes");
        let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
        bytes.extend(body);
        // The client may be gone by design.
        let _ = self.0.write_all(&bytes);
    }

    pub fn reply(&mut self, id: u64, reply: Reply) {
        self.send(&Answer { id, reply });
    }

    pub fn receive<T: serde::de::DeserializeOwned>(&mut self) -> Option<T> {
        let mut head = [0; 4];
        self.0.read_exact(&mut head).ok()?;
        let mut body = vec![0; u32::from_be_bytes(head) as usize];
        self.0.read_exact(&mut body).ok()?;
        Some(decode(&body).expect("the client sends what it should"))
    }

    pub fn welcome(&mut self) {
        let hello: Hello = self.receive().expect("a hello");
        assert_eq!((hello.magic, hello.version), (proto::frame::MAGIC, VERSION));
        self.send(&Welcome::Accepted {
            version: VERSION,
            program: "fake 1".into(),
        });
    }
}

impl Daemon {
    /// Each connection is handed to `talk` as it is, one thread each.
    pub fn raw(talk: impl Fn(Line) + Send + Sync + 'static) -> Self {
        Self::with(move |line, _| talk(line))
    }

    fn with(talk: impl Fn(Line, &Mutex<Vec<Request>>) + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("control.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (talk, seen) = (Arc::new(talk), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (talk, seen) = (talk.clone(), seen.clone());
                let stream = stream.expect("a connection");
                stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
                std::thread::spawn(move || talk(Line(stream), &seen));
            }
        });
        Self {
            _dir: dir,
            socket,
            asked,
        }
    }

    /// Says hello, then answers each request with these replies; an `End` is added unless a `Failed` is the last.
    pub fn answering(script: impl Fn(&Request) -> Vec<Reply> + Send + Sync + 'static) -> Self {
        Self::with(move |mut line, seen| {
            line.welcome();
            while let Some(ask) = line.receive::<Ask>() {
                seen.lock().expect("unpoisoned").push(ask.request.clone());
                let mut replies = script(&ask.request);
                if !matches!(replies.last(), Some(Reply::Failed(_))) {
                    replies.push(Reply::End);
                }
                for reply in replies {
                    line.reply(ask.id, reply);
                }
            }
        })
    }

    /// ringriftctl on this socket, in an environment that is the same everywhere.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = bare();
        command.env("RINGRIFT_SOCKET", &self.socket).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("ringriftctl runs")
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().expect("unpoisoned").clone()
    }
}

/// ringriftctl with nothing of the tester's own environment.
pub fn bare() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringriftctl"));
    command
        .env_clear()
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC")
        .stdin(std::process::Stdio::null());
    command
}

#[track_caller]
pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is text")
}

#[track_caller]
pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is text")
}

#[track_caller]
pub fn code(output: &Output, expected: i32) {
    assert_eq!(
        output.status.code(),
        Some(expected),
        "stdout: {}\nstderr: {}",
        out(output),
        err(output)
    );
    assert!(!err(output).contains("panicked"), "{}", err(output));
}

/// Compares with a file; RINGRIFT_BLESS=1 writes it anew.
#[track_caller]
pub fn golden(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("RINGRIFT_BLESS").is_some() {
        std::fs::write(&path, actual).expect("the golden file can be written");
        return;
    }
    let expected = std::fs::read_to_string(&path).expect("the golden file can be read");
    assert_eq!(
        actual, expected,
        "{name} differs; RINGRIFT_BLESS=1 writes it anew"
    );
}

pub fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    since.as_micros() as u64
}

/// A unit that runs well since `minutes` and a half.
/// One that hangs on its way back, by what its probe and its watchdog say.
fn unwell() -> UnitStatus {
    let ago = |s: u64| now_us() - s * 1_000_000 - 500_000;
    let result = |s: u64, outcome, text: Option<&str>| CheckResult {
        at_us: ago(s),
        took_us: Some(5_000_000),
        by: "probe".into(),
        outcome,
        text: text.map(Into::into),
    };
    let mut unwell = unit("unwell_one", State::Running, 185);
    unwell.health = Health::Unhealthy;
    unwell.health_text = Some("the check failed 2 times in a row: no answer within 5s\x1b[31m".into());
    unwell.check = Some(Box::new(CheckStatus {
        probe: Some("http http://127.0.0.1:8080/ready".into()),
        interval_ms: 15_000,
        timeout_ms: 5000,
        grace_ms: 60_000,
        failures: Some(2),
        on_failure: "mark".into(),
        watchdog_ms: Some(90_000),
        watchdog_due_us: Some(now_us() + 80_500_000),
        watchdog_fed_us: Some(ago(9)),
        failed_probes: 2,
        failed_reports: 0,
        unhealthy_ends: 1,
        is_asking: false,
        next_us: Some(now_us() + 9_500_000),
        results: vec![
            result(35, CheckOutcome::Passed, None),
            result(20, CheckOutcome::Unasked, Some("cannot execute /x")),
            result(5, CheckOutcome::Failed, Some("no answer within 5s")),
        ],
    }));
    unwell
}

pub fn unit(name: &str, state: State, minutes: u64) -> UnitStatus {
    let since_us = now_us() - minutes * 60_000_000 - 30_000_000;
    let up = state == State::Running;
    UnitStatus {
        name: name.into(),
        description: format!("The {name} daemon"),
        state,
        health: if up { Health::Healthy } else { Health::Unknown },
        desired_up: true,
        next_try_us: None,
        needs_restart: false,
        pid: up.then_some(4711),
        invocation: Some("0123456789abcdef0123456789abcdef".into()),
        since_us,
        ready_us: up.then_some(since_us),
        ready: up,
        restarts: 0,
        starts: 1,
        last_exit: None,
        last_error: None,
        last_lines: vec![],
        log: None,
        blocked_by: vec![],
        category: "sync".into(),
        lifecycle: "active".into(),
        critical: false,
        deprecated: None,
        added_by: None,
        note: None,
        status_text: None,
        cpu_us: up.then_some(1_250_000),
        memory_bytes: up.then_some(25_270_000),
        remains: vec![],
        held: None,
        check: None,
        health_text: None,
        metrics: Vec::new(),
        fds_stored: 0,
        capsules: vec![],
        failures: 0,
    }
}

/// A unit that is down for good.
pub fn broken(name: &str) -> UnitStatus {
    UnitStatus {
        last_exit: Some(LastExit {
            exit: Exit::Code(1),
            at_us: now_us() - 7 * 60_000_000 - 30_000_000,
        }),
        last_error: Some("cannot bind port 8790".into()),
        last_lines: vec![line(name, b"trying port 8790"), line(name, b"OSError: in use")],
        restarts: 5,
        starts: 6,
        ..unit(name, State::Failed, 7)
    }
}

pub fn line(unit: &str, message: &[u8]) -> LogLine {
    LogLine {
        at_us: 1_700_000_000_123_456,
        unit: unit.into(),
        invocation: 3,
        message: message.to_vec(),
        end: LineEnd::Whole,
        severity: None,
        stream: None,
    }
}

pub fn node(summary: Summary) -> Reply {
    Reply::Node(Box::new(NodeStatus {
        version: "0.1.0".into(),
        node: "ring-1".into(),
        profiles: vec!["coordinator".into()],
        pid: 4242,
        uptime_ms: 11_520_000,
        containment: "cgroup".into(),
        settled: true,
        stopping: false,
        summary,
        notices: vec![],
        started_us: now_us() - 11_520_000_000,
        breakers: vec![],
    }))
}

pub fn failure(code: u8, message: &str) -> Failure {
    Failure {
        code,
        message: message.into(),
        unit: None,
        hint: None,
        details: vec![],
    }
}

pub fn verdict(unit: &str, outcome: Outcome, text: &str) -> Reply {
    Reply::Verdict(Verdict {
        unit: unit.into(),
        outcome,
        text: text.into(),
        took_ms: 1234,
        killed: false,
        remains: vec![],
        next_try_us: None,
    })
}

pub fn plan(units: &[&str], also: &[&str]) -> Reply {
    let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    Reply::JobTaken(JobPlan {
        units: own(units),
        also: own(also),
    })
}

/// A whole node for most verbs.
pub fn sample(request: &Request) -> Vec<Reply> {
    let mut waiting = unit("event_router", State::Waiting, 1);
    waiting.blocked_by = vec![Blocker {
        unit: "auto_sync".into(),
        why: "is failed".into(),
    }];
    let mut old = unit("old_health", State::Running, 185);
    old.deprecated = Some("health_monitor".into());
    old.note = Some("stand-in".into());
    old.restarts = 2;
    let units = vec![
        broken("auto_sync"),
        waiting,
        unit("health_monitor", State::Running, 3),
        old,
    ];
    let summary = Summary {
        known: 78,
        wanted: 4,
        running: 2,
        waiting: 1,
        failed: 1,
        ..Summary::default()
    };
    let profile = ProfileSummary {
        name: "coordinator".into(),
        description: "Central orchestration".into(),
        active: true,
        listed: 28,
        total: 32,
    };
    match request {
        Request::Status { selectors, depth, .. } => {
            let mut held = unit("held_one", State::Held, 3);
            held.held = Some(Hold {
                by: By {
                    uid: 1000,
                    pid: 99,
                    verb: "hold".into(),
                },
                note: Some("the disk is being changed".into()),
                since_us: now_us() - 3 * 60_000_000 - 30_000_000,
                until_us: Some(now_us() + 7_230_000_000),
            });
            held.desired_up = false;
            let mut chosen: Vec<_> = units
                .into_iter()
                .chain(selectors.contains(&held.name).then_some(held))
                .chain(selectors.iter().any(|name| name == "unwell_one").then(unwell))
                .filter(|u| selectors.is_empty() || selectors.contains(&u.name))
                .collect();
            if chosen.is_empty() {
                return vec![Reply::Failed(Failure {
                    unit: Some(selectors[0].clone()),
                    hint: Some("did you mean auto_sync, event_router?".into()),
                    ..failure(4, &format!("no such unit \"{}\"", selectors[0]))
                })];
            }
            if *depth != Depth::Detail {
                chosen.iter_mut().for_each(|u| u.last_lines.clear());
            }
            vec![node(summary), Reply::Units(chosen)]
        }
        Request::Logs { .. } => vec![
            Reply::Seed(0x0123_4567_89ab_cdef),
            Reply::Logs(vec![
                LogLine {
                    severity: Some(Severity::Warning),
                    ..line("auto_sync", b"hello")
                },
                LogLine {
                    end: LineEnd::Continues,
                    ..line("auto_sync", b"a long ")
                },
                LogLine {
                    end: LineEnd::Partial,
                    ..line("auto_sync", b"\x1b]0;pwn\x07\xff")
                },
            ]),
        ],
        Request::Events { .. } => vec![Reply::Event(Box::new(Event {
            seq: 17,
            at_us: 1_700_000_000_123_456,
            event: "DAEMON_FAILED".into(),
            unit: "auto_sync".into(),
            invocation: Some("0123456789abcdef0123456789abcdef".into()),
            from: State::Running,
            to: State::Failed,
            cause: Cause {
                kind: CauseKind::Command,
                seq: Some(16),
                unit: None,
                by: Some(By {
                    uid: 0,
                    pid: 99,
                    verb: "kill".into(),
                }),
                text: "exit 1".into(),
            },
        }))],
        Request::Show { .. } | Request::Cat { .. } => vec![Reply::Definition(Box::new(Definition {
            unit: "auto_sync".into(),
            files: vec![SourceFile {
                path: "units/auto_sync.toml".into(),
                text: "description = \"Sync\"\n\n[restart]\npolicy = \"always\"".into(),
            }],
            settings: vec![
                setting("description", "\"Sync\"", "units/auto_sync.toml:1:15"),
                setting("restart.policy", "\"always\"", "units/auto_sync.toml:4:10"),
                setting("restart.delay", "\"5s\"", "default"),
            ],
        }))],
        Request::Deps { .. } => vec![Reply::Graph(Graph {
            roots: vec!["auto_sync".into()],
            edges: vec![
                edge("auto_sync", "event_router", EdgeKind::Requires),
                edge("auto_sync", "s3", EdgeKind::Wants),
                edge("event_router", "health_monitor", EdgeKind::Requires),
                edge("s3", "event_router", EdgeKind::After),
                edge("s3", "health_monitor", EdgeKind::Requires),
            ],
        })],
        Request::Profiles => vec![Reply::Profiles(vec![profile])],
        Request::Profile { .. } => vec![Reply::Profile(Box::new(Profile {
            summary: profile,
            members: vec![
                Member {
                    unit: "event_router".into(),
                    position: Some(1),
                    wave: 0,
                    added_by: None,
                    deprecated: false,
                },
                Member {
                    unit: "old_health".into(),
                    position: None,
                    wave: 1,
                    added_by: Some("event_router".into()),
                    deprecated: true,
                },
            ],
        }))],
        Request::Coverage => vec![Reply::Coverage(Coverage {
            profiles: vec![profile],
            orphans: vec![Orphan {
                unit: "lonely".into(),
                lifecycle: "experimental".into(),
                description: "Nobody has it".into(),
            }],
        })],
        Request::Deprecated => vec![Reply::Deprecated(vec![DeprecatedUnit {
            unit: "old_health".into(),
            replaced_by: Some("newer_health".into()),
            live_end: Some("health_monitor".into()),
            note: "ask the monitor".into(),
            since: Some("2025-12".into()),
            remove_after: Some("2026-06-30".into()),
            overdue: true,
            used_by: vec!["coordinator".into()],
            needed_by: vec!["auto_sync".into()],
        }])],
        Request::DaemonReload => vec![Reply::Reloaded(Reloaded {
            added: vec!["a".into()],
            removed: vec!["b".into()],
            needs_restart: vec!["c".into()],
            warnings: vec!["warning: one\n  help: two".into()],
        })],
        Request::Version => vec![Reply::Version(VersionInfo {
            version: "0.1.0".into(),
            protocol: VERSION,
            keeper_pid: 1,
            manager_pid: 2,
            logger_pid: 3,
            config: None,
            units: vec!["/etc/ringrift/units".into()],
            profiles: vec!["/etc/ringrift/profiles".into()],
            runtime_dir: "/run/ringrift".into(),
            state_dir: "/var/lib/ringrift".into(),
            log_dir: "/var/log/ringrift".into(),
        })],
        Request::Hold { selectors, .. } => vec![
            plan(&[&selectors[0]], &[]),
            verdict(&selectors[0], Outcome::Done, "held; it runs on until it ends"),
        ],
        Request::Unhold { selectors } => vec![
            plan(&[&selectors[0]], &[]),
            verdict(&selectors[0], Outcome::Done, "no longer held"),
        ],
        Request::Adopt { unit, dry_run, .. } => vec![Reply::Adopted(Box::new(Adopted {
            unit: unit.clone(),
            pid: 4711,
            command: "python3 x.py".into(),
            invocation: (!dry_run).then(|| "0123456789abcdef0123456789abcdef".into()),
            dry_run: *dry_run,
            lacks: vec!["its output goes where it went before".into()],
        }))],
        Request::Upgrade { .. } => vec![Reply::Upgraded(Upgraded {
            from: "0.1.0".into(),
            to: "0.2.0".into(),
        })],
        Request::Start(job) | Request::Stop(job) | Request::Reload(job) | Request::Restart { job, .. } => {
            let names: Vec<&str> = job.selectors.iter().map(String::as_str).collect();
            let mut replies = vec![plan(&names, &[])];
            if job.wait {
                replies.extend(names.iter().map(|n| match *n {
                    "bad" => verdict(n, Outcome::Failed, "exit 1 before it was ready"),
                    _ => verdict(n, Outcome::Done, "as asked"),
                }));
            }
            replies
        }
        _ => vec![],
    }
}

fn setting(key: &str, value: &str, origin: &str) -> Setting {
    Setting {
        key: key.into(),
        value: value.into(),
        origin: origin.into(),
    }
}

fn edge(from: &str, to: &str, kind: EdgeKind) -> Edge {
    Edge {
        from: from.into(),
        to: to.into(),
        kind,
    }
}
