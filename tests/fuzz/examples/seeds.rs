//! Writes the inputs that the fuzzer begins with into the corpus: `cargo run -p ringrift-fuzz --example seeds`. For a wire or
//! a format that has changed.

use std::path::Path;
use std::time::Duration;

use proto::codec;
use proto::frame::{Answer, Ask, Hello, MAGIC, Token, VERSION, Welcome};
use proto::reply::{By, Cause, CauseKind, Event as Told, Exit, Health, LineEnd, LogLine, Oom, Reply, State};
use proto::request::{Job, Request, WaitFor, Whom};
use ringrift_fuzz::{engine, files};
use ringriftd::engine::Engine;
use ringriftd::engine::types::{Action, Event, LaunchFailure, Mono, Op, ProbeResult, RequestId};
use ringriftd::ids::{Invocation, LaunchId, Scope};
use ringriftd::keeper::wire::{Fork, FromKeeper, Launch, LogQuery, LogTail, Output, ToKeeper};
use ringriftd::spec::UnitName;
use ringriftd::state::record::{Kind, encode};
use ringriftd::tape::replay;
use ringriftd::tape::types::{Beginning, From, Input, Step, TAPE_VERSION};
use ringriftd::used::Used;

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&folder).expect("the checkout takes folders");
    std::fs::write(folder.join(name), bytes).expect("the checkout takes files");
}

fn value(target: &str, name: &str, value: &impl serde::Serialize) {
    write(target, name, &codec::encode(value).expect("a small value"));
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a small value");
    [&length.to_be_bytes(), bytes].concat()
}

fn by() -> By {
    By {
        uid: 0,
        pid: 9,
        verb: "start".to_owned(),
    }
}

fn job() -> Job {
    Job {
        selectors: vec!["a".to_owned(), "s3_*".to_owned()],
        wait: true,
        timeout_ms: Some(30_000),
        cascade: false,
    }
}

fn wires() {
    let hello = Hello {
        magic: MAGIC,
        version: VERSION,
        program: "ctl 1".to_owned(),
    };
    let ask = |request| Ask {
        id: 7,
        token: Some(Token([3; 16])),
        request,
    };
    let start = ask(Request::Start(job()));
    let encoded = |value: &Ask| codec::encode(value).expect("a small value");
    let hello_bytes = codec::encode(&hello).expect("a small value");
    write(
        "frame",
        "hello_and_start",
        &[frame(&hello_bytes), frame(&encoded(&start))].concat(),
    );
    write("frame", "cut_short", &frame(&hello_bytes)[..7]);
    write("frame", "too_long", &[0xff; 9]);
    value("request", "start", &start);
    value(
        "request",
        "kill",
        &ask(Request::Kill {
            selectors: vec!["a".to_owned()],
            signal: 15,
            whom: Whom::All,
        }),
    );
    value(
        "request",
        "wait",
        &ask(Request::Wait {
            selectors: vec!["a".to_owned()],
            target: WaitFor::Running,
            timeout_ms: None,
        }),
    );
    value(
        "request",
        "welcome",
        &Welcome::Accepted {
            version: VERSION,
            program: "d 1".to_owned(),
        },
    );
    value(
        "request",
        "answer",
        &Answer {
            id: 7,
            reply: Reply::Event(Box::new(told(4))),
        },
    );
    let id = LaunchId::main(Invocation(5));
    let output = Output {
        unit: "a".to_owned(),
        max_size: 1000,
        max_files: 3,
        drain_ms: 10,
        keep: Default::default(),
        read: Default::default(),
    };
    value(
        "keeper_wire",
        "launch",
        &ToKeeper::Launch(Box::new(Launch {
            id,
            invocation: "ff".to_owned(),
            role: "main".to_owned(),
            tag: "a".to_owned(),
            program: b"/bin/true".to_vec(),
            argv: vec![b"true".to_vec()],
            env: vec![b"A=b".to_vec()],
            working_dir: b"/".to_vec(),
            identity: None,
            umask: 0o22,
            nice: Some(-3),
            oom_score_adj: 0,
            rlimits: Vec::new(),
            no_new_privs: true,
            output,
            notify: Some(b"/run/n".to_vec()),
            ready_fd: Some(3),
            is_given_stored: false,
            stdin: None,
            is_zygote: false,
            fork: Some(Fork {
                zygote: Some(LaunchId::main(Invocation(2))),
                or_executed: true,
            }),
        })),
    );
    value(
        "keeper_wire",
        "signal",
        &ToKeeper::Signal {
            id,
            signal: 9,
            scope: Scope::All,
            order: 4,
        },
    );
    value(
        "keeper_wire",
        "exited",
        &FromKeeper::Exited {
            id,
            exit: Exit::Code(3),
            remains: vec![4, 5],
            used: Used::default(),
        },
    );
    value(
        "keeper_wire",
        "tail",
        &LogQuery::Tail {
            nonce: 1,
            unit: "a".to_owned(),
            invocation: Some(3),
            lines: 9,
        },
    );
    let line = LogLine {
        at_us: 1,
        unit: "a".to_owned(),
        invocation: 3,
        end: LineEnd::Partial,
        severity: None,
        stream: None,
        message: b"text".to_vec(),
    };
    value(
        "keeper_wire",
        "lines",
        &LogTail {
            nonce: 1,
            lines: vec![line],
            is_refused: false,
        },
    );
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ringriftd/tests/golden/handover-4.json");
    write(
        "keeper_wire",
        "handover",
        &std::fs::read(golden).expect("the golden handover is there"),
    );
    for (name, text) in [
        ("ready", "READY=1\nSTATUS=up\nMAINPID=77"),
        ("reload", "RELOADING=1\nMONOTONIC_USEC=5"),
        (
            "watchdog",
            "WATCHDOG=1\nWATCHDOG_USEC=20000000\nEXTEND_TIMEOUT_USEC=5",
        ),
        ("store", "FDSTORE=1\nFDNAME=a.b\nFDPOLL=0\nBARRIER=1"),
        ("unstore", "FDSTOREREMOVE=1\nFDNAME=a\nNOTIFYACCESS=all\nERRNO=2"),
        (
            "health",
            "X_RINGRIFT_HEALTH=degraded\nX_RINGRIFT_METRICS={\"a\":1.5,\"b\":-2e3}",
        ),
    ] {
        write("notify", name, text.as_bytes());
    }
}

fn told(seq: u64) -> Told {
    Told {
        seq,
        at_us: 1_700_000_000_000_000 + seq,
        event: "DAEMON_READY".to_owned(),
        unit: "a".to_owned(),
        invocation: Some("00ff".to_owned()),
        from: State::Starting,
        to: State::Running,
        cause: Cause {
            kind: CauseKind::Command,
            seq: Some(1),
            unit: None,
            by: Some(by()),
            text: "said so".to_owned(),
        },
    }
}

fn texts() {
    write("config", "small", engine::FILES.as_bytes());
    write(
        "config",
        "all",
        b"description = \"d\"\ncategory = \"c\"\ncritical = true\nrequires = [\"b\"]\nwants = []\nafter = [\"b\"]\n[exec]\ncommand = \
          [\"/bin/sh\", \"-c\", \"x ${A}\"]\nkind = \"notify\"\nenv = { A = \"1\" }\numask = \"0022\"\n[restart]\ndelay = \"1s\"\nmax_delay = \
          \"1m30s\"\nmax_restarts = 5\n[stop]\nsignal = \"SIGTERM\"\ntimeout = \"10s\"\n[health]\ninterval = \"5s\"\nprobe = { http = \
          \"http://127.0.0.1:1/h\" }\n[log]\nmax_size = \"1 MiB\"\n%%%\n[exec]\ncommand = [\"/bin/true\"]\nkind = \"oneshot\"\n%%%\nunits = [\"a\", \
          \"@c\"]\nexclude = [\"b\"]\n[unit.a.restart]\ndelay = \"2s\"\n%%%\nprofiles = [\"p\"]\nshutdown_timeout = \"1m\"\n[http]\naddress = \
          \"127.0.0.1:9\"\n",
    );
    write("config", "cycle", b"requires = [\"b\"]\n[exec]\ncommand = [\"/x\"]\n%%%\nrequires = [\"a\"]\n[exec]\ncommand = [\"/x\"]\n");
    write("config", "torn", b"[exec\ncommand = [\"/x");
    write("log_lines", "plain", b"\x10one\ntwo\n\nthree");
    write("log_lines", "long", b"\x09xx\nxabxx");
    write("log_lines", "refused", b"\x06one\ntwo\nthree\n");
    write(
        "log_lines",
        "records",
        b"\x04\n2026-11-22T01:27:03.123456Z 42 | text\n2026-11-22T01:27:03.123457Z 42 ~ text\n",
    );
    let text = |seq| serde_json::to_string(&told(seq)).expect("an event has a text");
    let events: Vec<u8> = (4..8)
        .flat_map(|seq| encode(Kind::Event, 1, seq, text(seq).as_bytes()).expect("short"))
        .collect();
    // One record of garbage in the other file.
    let before = vec![b'{'; events.len()];
    write("event_ring", "sound", &[before.clone(), events.clone()].concat());
    let mut damaged = events;
    damaged[60] ^= 4;
    write("event_ring", "damaged", &[before, damaged].concat());
    write("event_ring", "garbage", b"garbage\nin both halves");
}

/// What happens to two units, from their files to their end.
fn story() -> Vec<Vec<Input>> {
    let (a, b) = (LaunchId::main(Invocation(2)), LaunchId::main(Invocation(1)));
    let name = |name| UnitName::new(name).expect("a name");
    let mut now = 1_000_000_000;
    let mut at = |event| {
        now += 50_000_000;
        vec![Input::Told {
            now: Mono(now),
            event: Box::new(event),
        }]
    };
    let launched = |launch| Event::Launched {
        launch,
        pid: 77,
        start_time: 5,
        note: None,
    };
    let request = |id, op| Event::Request {
        id: RequestId(id),
        op,
        by: by(),
    };
    let exited = |launch, remains| Event::Exited {
        launch,
        exit: Exit::Signal {
            signal: 11,
            core: false,
        },
        remains,
    };
    vec![
        vec![Input::Loaded {
            now: Mono(1_000_000_000),
            files: files::files(engine::FILES),
            profiles: vec!["p".to_owned()],
        }],
        at(launched(b)),
        at(launched(a)),
        at(Event::Probed {
            invocation: a.invocation,
            nr: 1,
            result: ProbeResult::Failed("refused".to_owned()),
        }),
        at(Event::HealthSaid {
            invocation: a.invocation,
            health: Health::Degraded,
            text: None,
        }),
        at(request(
            1,
            Op::Restart {
                units: vec![name("b")],
                only_running: false,
                cascade: true,
            },
        )),
        vec![Input::Pause(true)],
        at(Event::Tick),
        vec![Input::Pause(false)],
        at(exited(a, vec![5, 6])),
        at(Event::Unkillable {
            launch: a,
            remains: vec![5],
        }),
        at(Event::Emptied { launch: a }),
        at(Event::Used {
            launch: b,
            used: Used {
                cpu_us: Some(1),
                memory_peak: None,
                oom: Oom::No,
            },
        }),
        at(exited(b, vec![])),
        at(Event::LaunchFailed {
            launch: LaunchId::main(Invocation(3)),
            failure: LaunchFailure {
                text: "no such file".to_owned(),
                host: false,
            },
        }),
        at(Event::WatchdogEvery {
            invocation: Invocation(3),
            every: Duration::from_secs(1),
        }),
        at(request(
            2,
            Op::Kill {
                units: vec![name("a")],
                signal: 15,
                scope: Scope::Main,
            },
        )),
        at(Event::Shutdown {
            cause: Cause {
                kind: CauseKind::Signal,
                seq: None,
                unit: None,
                by: None,
                text: "SIGTERM".to_owned(),
            },
        }),
    ]
}

fn engines() {
    let beginning = Beginning {
        version: TAPE_VERSION,
        program: "1".to_owned(),
        at_us: 0,
        is_continued: false,
        lost: 0,
        is_paused: false,
        from: From::New { seed: 7 },
    };
    let json = |value: &Beginning| serde_json::to_vec(value).expect("it has a text");
    let mut whole = json(&beginning);
    let mut engine = replay::begin(beginning.clone()).expect("a new one");
    for (n, inputs) in story().into_iter().enumerate() {
        for input in &inputs {
            replay::tell(&mut engine, input).expect("good files");
        }
        let mut actions: Vec<Action> = Vec::new();
        actions.extend(std::iter::from_fn(|| engine.poll_action()));
        let before = engine.snapshot();
        let delta = engine.take_delta();
        whole.push(b'\n');
        whole.extend(Step::payload(&inputs, &[]).expect("it has a text"));
        if matches!(n, 0 | 2 | 4 | 5 | 9 | 13) {
            let state = serde_json::to_vec(&before).expect("it has a text");
            let delta = serde_json::to_vec(&delta).expect("it has a text");
            write(
                "state",
                &format!("after_{n:02}"),
                &[state.clone(), b"\n".to_vec(), delta].concat(),
            );
            if n == 5 {
                restored(&beginning, &engine, &json);
            }
        }
    }
    write("recording", "story", &whole);
    write("recording", "beginning", &json(&beginning));
}

/// A recording that begins in the middle.
fn restored(beginning: &Beginning, engine: &Engine, json: &impl Fn(&Beginning) -> Vec<u8>) {
    let from = From::Restored {
        snapshot: Box::new(engine.snapshot()),
        files: files::files(engine::FILES),
        profiles: vec!["p".to_owned()],
    };
    let beginning = Beginning {
        from,
        ..beginning.clone()
    };
    let resume = Step::payload(
        &[Input::Resume {
            now: Mono(3_000_000_000),
        }],
        &[],
    );
    let resume = resume.expect("it has a text");
    write(
        "recording",
        "restored",
        &[json(&beginning), b"\n".to_vec(), resume].concat(),
    );
}

/// Choices without a plan.
fn nonsense() {
    let mut seed = 7u64;
    for n in 0..6 {
        let mut dice = || {
            // xorshift64* (Vigna 2016).
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        };
        let bytes: Vec<u8> = (0..200 * (n + 1)).map(|_| dice()).collect();
        write("nonsense", &format!("thrown_{n}"), &bytes);
    }
}

fn main() {
    wires();
    texts();
    engines();
    nonsense();
}
