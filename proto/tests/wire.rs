//! The bytes on the wire: fixed for [`proto::frame::VERSION`], and safe to read from a stranger.

use proptest::prelude::*;
use proto::codec::{CodecError, MAX_VALUE, decode, encode};
use proto::frame::{Answer, Ask, Hello, MAGIC, MAX_FRAME, Token, VERSION, Welcome, framing};
use proto::reply::{
    Blocker, By, Cause, CauseKind, CheckOutcome, CheckResult, CheckStatus, Event, Exit, Failure, Health,
    Hold, LastExit, LineEnd, LogLine, LogStatus, Reply, State, UnitStatus, Verdict,
};
use proto::request::{Depth, Job, Request, WaitFor, Whom};
use tokio_util::codec::Decoder;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A change here is a change of the protocol: raise `VERSION`, then write the new bytes down.
#[track_caller]
fn check_golden<T>(value: &T, expected: &str)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = encode(value).expect("the value encodes");
    assert_eq!(
        hex(&bytes),
        expected,
        "the wire changed without a new VERSION: {value:?}"
    );
    assert_eq!(&decode::<T>(&bytes).expect("the bytes decode"), value);
}

#[test]
fn version_six_says_hello_in_these_bytes() {
    assert_eq!(VERSION, 6);
    let hello = Hello {
        magic: MAGIC,
        version: 6,
        program: "ctl 1".into(),
    };
    check_golden(&hello, "fc54465252060563746c2031");
}

#[test]
fn version_six_welcomes_in_these_bytes() {
    check_golden(
        &Welcome::Refused {
            version: 7,
            reason: "no".into(),
        },
        "0007026e6f",
    );
    check_golden(
        &Welcome::Accepted {
            version: 6,
            program: "d 1".into(),
        },
        "010603642031",
    );
    check_golden(
        &Welcome::Busy {
            reason: "full".into(),
        },
        "020466756c6c",
    );
}

#[test]
fn version_six_asks_in_these_bytes() {
    let job = Job {
        selectors: vec!["a".into()],
        wait: true,
        timeout_ms: Some(1500),
        cascade: false,
    };
    check_golden(
        &Ask {
            id: 7,
            token: Some(Token([0xa5; 16])),
            request: Request::Start(job),
        },
        &format!("0701{}010101610101fbdc0500", "a5".repeat(16)),
    );
    let kill = Request::Kill {
        selectors: vec!["a".into()],
        signal: 15,
        whom: Whom::All,
    };
    check_golden(
        &Ask {
            id: 300,
            token: None,
            request: kill,
        },
        "fb2c0100050101611e01",
    );
    check_golden(
        &Ask {
            id: 1,
            token: None,
            request: Request::Names,
        },
        "010014",
    );
    let hold = Request::Hold {
        selectors: vec!["a".into()],
        note: Some("x".into()),
        until_us: None,
    };
    check_golden(&hold, "1501016101017800");
    let adopt = Request::Adopt {
        unit: "a".into(),
        pid: Some(300),
        pattern: None,
        dry_run: true,
    };
    check_golden(&adopt, "17016101fb2c010001");
    check_golden(&Request::Upgrade { binary: None }, "1800");
    check_golden(&Request::Why { unit: "a".into() }, "190161");
}

#[test]
fn version_six_answers_in_these_bytes() {
    check_golden(
        &Answer {
            id: 7,
            reply: Reply::End,
        },
        "0701",
    );
    let failure = Failure {
        code: 4,
        message: "no".into(),
        unit: Some("x".into()),
        hint: None,
        details: vec![],
    };
    check_golden(
        &Answer {
            id: 7,
            reply: Reply::Failed(failure),
        },
        "070004026e6f0101780000",
    );
    check_golden(
        &Answer {
            id: 7,
            reply: Reply::Lagged(9),
        },
        "071109",
    );
}

#[test]
fn a_token_reads_as_hex() {
    let mut bytes = [0; 16];
    bytes[0] = 0x0f;
    bytes[15] = 0xa0;
    assert_eq!(Token(bytes).to_string(), "0f0000000000000000000000000000a0");
}

/// The words of the command line and of the stored state are these variants, in this order.
#[test]
fn states_keep_their_numbers() {
    let states = [
        State::Stopped,
        State::Waiting,
        State::Starting,
        State::Running,
        State::Reloading,
        State::Stopping,
        State::Backoff,
        State::Failed,
        State::Completed,
        State::Held,
    ];
    for (number, state) in states.into_iter().enumerate() {
        assert_eq!(encode(&state).expect("encodes"), [number as u8], "{state:?}");
    }
}

/// Each request by its number. A new variant does not compile until it has a line here and on the page.
fn numbered(request: &Request) -> (u8, &'static str) {
    match request {
        Request::Status { .. } => (0, "Status"),
        Request::Start(_) => (1, "Start"),
        Request::Stop(_) => (2, "Stop"),
        Request::Restart { .. } => (3, "Restart"),
        Request::Reload(_) => (4, "Reload"),
        Request::Kill { .. } => (5, "Kill"),
        Request::ResetFailed { .. } => (6, "ResetFailed"),
        Request::Events { .. } => (7, "Events"),
        Request::Logs { .. } => (8, "Logs"),
        Request::Show { .. } => (9, "Show"),
        Request::Cat { .. } => (10, "Cat"),
        Request::Deps { .. } => (11, "Deps"),
        Request::Profiles => (12, "Profiles"),
        Request::Profile { .. } => (13, "Profile"),
        Request::Coverage => (14, "Coverage"),
        Request::Deprecated => (15, "Deprecated"),
        Request::Wait { .. } => (16, "Wait"),
        Request::DaemonReload => (17, "DaemonReload"),
        Request::Shutdown => (18, "Shutdown"),
        Request::Version => (19, "Version"),
        Request::Names => (20, "Names"),
        Request::Hold { .. } => (21, "Hold"),
        Request::Unhold { .. } => (22, "Unhold"),
        Request::Adopt { .. } => (23, "Adopt"),
        Request::Upgrade { .. } => (24, "Upgrade"),
        Request::Why { .. } => (25, "Why"),
    }
}

/// A variant's number, then zeros for its fields: every request has a value of that form.
#[test]
fn the_page_has_every_request_and_its_number() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md"))
        .expect("docs/protocol.md can be read");
    let mut count = 0;
    for number in 0..=250u8 {
        let found =
            (0..16).find_map(|zeros| decode::<Request>(&[&[number][..], &vec![0; zeros]].concat()).ok());
        let Some(request) = found else { break };
        let (wire, name) = numbered(&request);
        assert_eq!(wire, number, "{name}");
        let starts = format!("\n| {number} | `{name}");
        assert!(page.contains(&starts), "docs/protocol.md has no row {starts:?}");
        count += 1;
    }
    assert_eq!(count, 26);
}

#[test]
fn the_page_shows_these_very_bytes() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocol.md"))
        .expect("docs/protocol.md can be read");
    let bare: String = page.chars().filter(|c| !c.is_whitespace()).collect();
    let hello = Hello {
        magic: MAGIC,
        version: 6,
        program: "ctl 1".into(),
    };
    let job = Job {
        selectors: vec!["a".into()],
        wait: true,
        timeout_ms: Some(1500),
        cascade: false,
    };
    let failure = Failure {
        code: 4,
        message: "no".into(),
        unit: Some("x".into()),
        hint: None,
        details: vec![],
    };
    let body = encode(&hello).expect("encodes");
    for shown in [
        hex(&(body.len() as u32).to_be_bytes()) + &hex(&body),
        hex(&encode(&Ask {
            id: 7,
            token: Some(Token([0xa5; 16])),
            request: Request::Start(job),
        })
        .expect("encodes")),
        hex(&encode(&Answer {
            id: 7,
            reply: Reply::End,
        })
        .expect("encodes"))
            + "id7,End",
        hex(&encode(&Answer {
            id: 7,
            reply: Reply::Failed(failure),
        })
        .expect("encodes")),
    ] {
        assert!(bare.contains(&shown), "docs/protocol.md does not show {shown}");
    }
}

/// D8: the codec alone would read a newer, longer request as the older one.
#[test]
fn trailing_bytes_are_refused() {
    let mut bytes = encode(&Ask {
        id: 1,
        token: None,
        request: Request::Shutdown,
    })
    .expect("encodes");
    bytes.push(0);
    assert_eq!(decode::<Ask>(&bytes), Err(CodecError::Trailing { bytes: 1 }));
}

/// D10: a list that claims 2^40 entries fails before anything is allocated for it.
#[test]
fn a_claimed_length_of_two_to_the_forty_is_refused() {
    // id 1, no token, Request::ResetFailed, then a u64 length.
    let mut bytes = vec![1, 0, 6, 0xfd];
    bytes.extend_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(matches!(decode::<Ask>(&bytes), Err(CodecError::Malformed { .. })));
    // The same for a string: Hello's program.
    let mut bytes = vec![0, 2, 0xfd];
    bytes.extend_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(matches!(
        decode::<Hello>(&bytes),
        Err(CodecError::Malformed { .. })
    ));
}

#[test]
fn an_unknown_request_is_refused() {
    assert!(matches!(
        decode::<Ask>(&[1, 0, 200]),
        Err(CodecError::Malformed { .. })
    ));
}

#[test]
fn a_value_over_the_limit_is_neither_made_nor_read() {
    let long = "x".repeat(MAX_VALUE);
    assert!(matches!(encode(&long), Err(CodecError::TooLarge { .. })));
    assert!(matches!(
        decode::<String>(&vec![0; MAX_VALUE + 1]),
        Err(CodecError::TooLarge { .. })
    ));
}

/// D4: the frame's length is judged before its bytes are waited for.
#[test]
fn a_frame_over_the_limit_is_refused_at_its_length() {
    for length in [MAX_FRAME as u32 + 1, u32::MAX] {
        let mut buffer = bytes::BytesMut::from(&length.to_be_bytes()[..]);
        assert!(framing().decode(&mut buffer).is_err(), "{length}");
        assert!(buffer.capacity() < MAX_FRAME, "{length} was allocated");
    }
}

fn state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Stopped),
        Just(State::Waiting),
        Just(State::Running),
        Just(State::Backoff),
        Just(State::Failed),
        Just(State::Held),
    ]
}

fn exit() -> impl Strategy<Value = Exit> {
    prop_oneof![
        any::<i32>().prop_map(Exit::Code),
        (1..=64i32, any::<bool>()).prop_map(|(signal, core)| Exit::Signal { signal, core }),
        Just(Exit::Unknown),
    ]
}

fn log_line() -> impl Strategy<Value = LogLine> {
    (
        any::<u64>(),
        ".{0,20}",
        any::<u64>(),
        proptest::collection::vec(any::<u8>(), 0..40),
    )
        .prop_map(|(at_us, unit, invocation, message)| LogLine {
            at_us,
            unit,
            invocation,
            message,
            end: LineEnd::Partial,
            severity: None,
            stream: None,
        })
}

fn unit_status() -> impl Strategy<Value = UnitStatus> {
    (
        (
            ".{0,20}",
            state(),
            any::<bool>(),
            any::<Option<u64>>(),
            any::<Option<u32>>(),
            any::<u64>(),
        ),
        (
            proptest::option::of((exit(), any::<u64>())),
            any::<Option<String>>(),
            proptest::collection::vec(log_line(), 0..3),
            proptest::collection::vec((".{0,9}", ".{0,9}"), 0..3),
            proptest::collection::vec(any::<u32>(), 0..3),
        ),
    )
        .prop_map(
            |((name, state, flag, time, pid, number), (last, error, lines, blockers, remains))| UnitStatus {
                description: name.clone(),
                name,
                state,
                health: Health::Degraded,
                desired_up: flag,
                next_try_us: time,
                needs_restart: !flag,
                pid,
                invocation: error.clone(),
                since_us: number,
                ready_us: time,
                ready: flag,
                restarts: number,
                starts: number,
                last_exit: last.map(|(exit, at_us)| LastExit { exit, at_us }),
                last_error: error.clone(),
                last_lines: lines,
                blocked_by: blockers
                    .into_iter()
                    .map(|(unit, why)| Blocker { unit, why })
                    .collect(),
                category: String::new(),
                lifecycle: "active".into(),
                critical: flag,
                deprecated: error.clone(),
                added_by: None,
                note: error,
                status_text: None,
                cpu_us: time,
                memory_bytes: time,
                remains,
                held: flag.then(|| Hold {
                    by: By {
                        uid: 7,
                        pid: 8,
                        verb: "hold".into(),
                    },
                    note: None,
                    since_us: number,
                    until_us: time,
                }),
                metrics: vec![("games".into(), 0.5)],
                fds_stored: 3,
                capsules: vec![],
                failures: number,
                check: flag.then(|| Box::new(check_status(number, time))),
                health_text: time.map(|n| n.to_string()),
                log: time.map(|bytes| LogStatus {
                    bytes,
                    lines: 1,
                    dropped_bytes: number,
                    dropped_lines: 0,
                    is_blocked: flag,
                }),
            },
        )
}

fn check_status(number: u64, time: Option<u64>) -> CheckStatus {
    CheckStatus {
        probe: time.map(|n| format!("tcp 127.0.0.1:{n}")),
        interval_ms: number,
        timeout_ms: number,
        grace_ms: 0,
        failures: time.map(|_| 3),
        on_failure: "mark".into(),
        watchdog_ms: time,
        watchdog_due_us: time,
        watchdog_fed_us: None,
        failed_probes: 1,
        failed_reports: 0,
        unhealthy_ends: number,
        is_asking: time.is_none(),
        next_us: time,
        results: vec![CheckResult {
            at_us: number,
            took_us: time,
            by: "probe".into(),
            outcome: CheckOutcome::Unasked,
            text: time.map(|n| n.to_string()),
        }],
    }
}

fn request() -> impl Strategy<Value = Request> {
    let selectors = || proptest::collection::vec(".{0,20}", 0..4);
    prop_oneof![
        (selectors(), 0..3usize, any::<bool>()).prop_map(|(selectors, depth, all)| Request::Status {
            selectors,
            depth: [Depth::Known, Depth::Usage, Depth::Detail][depth],
            all
        }),
        (selectors(), any::<bool>(), any::<Option<u64>>(), any::<bool>()).prop_map(
            |(selectors, wait, timeout_ms, cascade)| Request::Stop(Job {
                selectors,
                wait,
                timeout_ms,
                cascade
            })
        ),
        (selectors(), any::<i32>()).prop_map(|(selectors, signal)| Request::Kill {
            selectors,
            signal,
            whom: Whom::Main
        }),
        (selectors(), any::<Option<u64>>()).prop_map(|(selectors, timeout_ms)| Request::Wait {
            selectors,
            target: WaitFor::Failed,
            timeout_ms
        }),
        (selectors(), any::<Option<String>>(), any::<Option<u64>>()).prop_map(
            |(selectors, note, until_us)| Request::Hold {
                selectors,
                note,
                until_us
            }
        ),
        (
            any::<String>(),
            any::<Option<u32>>(),
            any::<Option<String>>(),
            any::<bool>()
        )
            .prop_map(|(unit, pid, pattern, dry_run)| Request::Adopt {
                unit,
                pid,
                pattern,
                dry_run
            }),
        Just(Request::Version),
    ]
}

proptest! {
    #[test]
    fn requests_survive_the_wire(id: u64, token: Option<[u8; 16]>, request in request()) {
        let ask = Ask { id, token: token.map(Token), request };
        prop_assert_eq!(decode::<Ask>(&encode(&ask).expect("encodes")).expect("decodes"), ask);
    }

    #[test]
    fn units_and_lines_survive_the_wire(id: u64, units in proptest::collection::vec(unit_status(), 0..4),
                                        lines in proptest::collection::vec(log_line(), 0..4)) {
        for reply in [Reply::Units(units), Reply::Logs(lines)] {
            let answer = Answer { id, reply };
            prop_assert_eq!(decode::<Answer>(&encode(&answer).expect("encodes")).expect("decodes"), answer);
        }
    }

    #[test]
    fn events_survive_the_wire(seq: u64, at_us: u64, unit in ".{0,20}", from in state(), to in state(), text: String) {
        let cause = Cause { kind: CauseKind::Timer, seq: Some(seq), unit: None, by: None, text };
        let event = Event { seq, at_us, event: "DAEMON_READY".into(), unit, invocation: None, from, to, cause };
        let answer = Answer { id: 1, reply: Reply::Event(Box::new(event)) };
        prop_assert_eq!(decode::<Answer>(&encode(&answer).expect("encodes")).expect("decodes"), answer);
    }

    #[test]
    fn verdicts_cut_short_are_refused(unit in ".{1,20}", took_ms: u64, cut in 1usize..8) {
        let verdict = Verdict {
            unit, outcome: proto::reply::Outcome::Done, text: "ready".into(), took_ms, killed: false,
            remains: vec![], next_try_us: None,
        };
        let bytes = encode(&verdict).expect("encodes");
        let short = &bytes[..bytes.len().saturating_sub(cut)];
        prop_assert!(decode::<Verdict>(short).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// D5: whatever a stranger sends is an error or a value, never a panic; and only one spelling of it is taken
    /// for the whole of the bytes.
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<Hello>(&bytes);
        let _ = decode::<Welcome>(&bytes);
        if let Ok(ask) = decode::<Ask>(&bytes) {
            prop_assert!(encode(&ask).expect("what was read can be written").len() <= bytes.len());
        }
        if let Ok(answer) = decode::<Answer>(&bytes) {
            prop_assert!(encode(&answer).expect("what was read can be written").len() <= bytes.len());
        }
    }
}

/// D5: a million random frames are decoded without a panic; what is no request is refused, and most of them are none.
#[test]
fn a_million_random_frames_harm_nobody() {
    // xorshift64* (Vigna 2016): any cheap spread of bits does.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let mut refused = 0_u32;
    let mut frame = Vec::with_capacity(64);
    for _ in 0..1_000_000 {
        frame.clear();
        let length = next() % 48;
        while (frame.len() as u64) < length {
            frame.extend_from_slice(&next().to_le_bytes());
        }
        frame.truncate(length as usize);
        refused += u32::from(decode::<Ask>(&frame).is_err());
    }
    assert!(refused > 900_000, "{refused}");
}
