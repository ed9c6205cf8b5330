//! The control socket against clients that are silent, slow, mad, too many, or of another version.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use harness::client::Client;
use harness::oracle::wait_exactly;
use harness::{Node, PATIENCE, Unit, until};
use proto::codec::{decode, encode};
use proto::frame::{Answer, Ask, Token, VERSION, Welcome};
use proto::reply::{Outcome, Reply, State};
use proto::request::{Job, Request};

fn silent(node: &Node) -> Client {
    Client::silent(&node.socket()).expect("the daemon listens")
}

/// The node still answers everybody else.
#[track_caller]
fn still_serves(node: &Node) {
    node.ctl(&["status"]).ended(0);
}

/// The connection ends within the daemon's own deadlines, and nobody else notices.
#[track_caller]
fn is_let_go(node: &Node, client: &mut Client) {
    let mut said = Vec::new();
    assert!(
        client.is_closed_within(PATIENCE, &mut said),
        "still connected; it said {said:?}"
    );
    still_serves(node);
}

fn job(unit: &str) -> Job {
    Job {
        selectors: vec![unit.to_owned()],
        wait: true,
        timeout_ms: Some(60_000),
        cascade: false,
    }
}

/// D1: who connects and says nothing is let go.
#[test]
fn a_silent_client_is_let_go() {
    let node = Node::builder().start();
    let mut client = silent(&node);
    is_let_go(&node, &mut client);
    node.check();
}

/// D3: of a thousand clients at once those that are too many are told so, and ten thousand one after another leave no
/// descriptor behind.
#[test]
fn too_many_clients_are_told_so() {
    let node = Node::builder().start();
    let mut clients = Vec::new();
    let mut busy = 0;
    for _ in 0..1000 {
        let mut client = silent(&node);
        match client.greet(VERSION) {
            Ok(Welcome::Accepted { .. }) => clients.push(client),
            Ok(Welcome::Busy { reason }) => {
                assert!(!reason.is_empty());
                busy += 1;
            }
            other => panic!("{other:?} instead of a word"),
        }
    }
    assert!(
        busy > 0 && clients.len() >= 100,
        "{busy} were busy, {} were taken",
        clients.len()
    );
    let busy = node.ctl(&["status"]).ended(69);
    assert!(busy.stderr.contains("busy"), "{busy}");
    drop(clients);
    until("clients are taken again", || {
        matches!(silent(&node).greet(VERSION), Ok(Welcome::Accepted { .. })).then_some(())
    });
    for _ in 0..10_000 {
        drop(silent(&node));
    }
    still_serves(&node);
    node.check();
}

/// D4: a frame that claims to be larger than the bound is refused by its length, without memory for it.
#[test]
fn a_huge_frame_is_refused_by_its_length() {
    let node = Node::builder().start();
    still_serves(&node);
    let before = harness::processes::status_number(node.manager(), "VmRSS").expect("it lives");
    for length in [
        u32::MAX,
        u32::try_from(proto::frame::MAX_FRAME).expect("it is small") + 1,
    ] {
        for greeted in [false, true] {
            let mut client = if greeted { node.client() } else { silent(&node) };
            client
                .stream
                .write_all(&length.to_be_bytes())
                .expect("four bytes fit");
            is_let_go(&node, &mut client);
        }
    }
    let after = harness::processes::status_number(node.manager(), "VmRSS").expect("it lives");
    assert!(
        after < before + 4096,
        "the manager grew from {before} to {after} KiB"
    );
    node.check();
}

/// D5: random frames are refused one by one, and harm nobody.
#[test]
fn random_frames_harm_nobody() {
    let node = Node::builder().start();
    // A fixed seed: a failure can be repeated.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..500 {
        let mut client = node.client();
        for _ in 0..4 {
            let body: Vec<u8> = (0..random() % 64).map(|_| random() as u8).collect();
            if decode::<Ask>(&body).is_ok() || client.send(&body).is_err() {
                break;
            }
        }
    }
    let mut client = node.client();
    client.send(&[0xff; 32]).expect("a frame fits");
    if let Ok(answer) = client.answer() {
        assert!(matches!(answer.reply, Reply::Failed(_)), "{answer:?}");
    }
    still_serves(&node);
    node.check();
}

/// D6: half a frame and then nothing, or the end, leaks nothing.
#[test]
fn half_a_frame_leaks_nothing() {
    let node = Node::builder().start();
    for _ in 0..50 {
        let mut client = node.client();
        client
            .stream
            .write_all(&[0, 0, 0, 20, 1, 2, 3])
            .expect("seven bytes fit");
    }
    let mut client = node.client();
    client
        .stream
        .write_all(&[0, 0, 0, 20, 1, 2, 3])
        .expect("seven bytes fit");
    is_let_go(&node, &mut client);
    let mut client = node.client();
    client
        .stream
        .write_all(&[0, 0, 0, 20, 1, 2, 3])
        .expect("seven bytes fit");
    client
        .stream
        .shutdown(std::net::Shutdown::Write)
        .expect("it is connected");
    is_let_go(&node, &mut client);
    node.check();
}

/// D7: a frame has one deadline, however steadily its bytes drip.
#[test]
fn a_dripping_frame_has_one_deadline() {
    let node = Node::builder().start();
    let mut client = node.client();
    client.stream.write_all(&[0, 0, 1, 0]).expect("four bytes fit");
    let begun = Instant::now();
    while client.stream.write_all(&[0]).is_ok() && begun.elapsed() < PATIENCE {
        wait_exactly(Duration::from_millis(250));
    }
    assert!(
        begun.elapsed() < PATIENCE,
        "it could drip for {:?}",
        begun.elapsed()
    );
    still_serves(&node);
    node.check();
}

/// D8: bytes after a request's end are an error, not ignored.
#[test]
fn trailing_bytes_are_refused() {
    let node = Node::builder().start();
    let mut client = node.client();
    let mut body = encode(&Ask {
        id: 1,
        token: None,
        request: Request::Version,
    })
    .expect("it is small");
    body.push(0);
    client.send(&body).expect("a frame fits");
    match client.answer() {
        Ok(Answer {
            reply: Reply::Failed(failure),
            ..
        }) => assert!(!failure.message.is_empty()),
        Ok(other) => panic!("{other:?}"),
        Err(_) => {}
    }
    is_let_go(&node, &mut client);
    node.check();
}

/// D9: another version is refused with both versions named; an unknown request is an error.
#[test]
fn another_version_is_refused_with_both_named() {
    let node = Node::builder().start();
    for version in [0, VERSION + 1, u32::MAX] {
        let mut client = silent(&node);
        match client.greet(version).expect("the daemon answers") {
            Welcome::Refused {
                version: theirs,
                reason,
            } => {
                assert_eq!(theirs, VERSION);
                assert!(
                    reason.contains(&version.to_string()) && reason.contains(&VERSION.to_string()),
                    "{reason}"
                );
            }
            other => panic!("{other:?}"),
        }
        is_let_go(&node, &mut client);
    }
    // Id 1, then a request of a number that nobody has.
    let mut client = node.client();
    client.send(&[1, 200]).expect("a frame fits");
    if let Ok(answer) = client.answer() {
        assert!(matches!(answer.reply, Reply::Failed(_)), "{answer:?}");
    }
    still_serves(&node);
    node.check();
}

/// D10: a short frame that claims a list of 2^40 elements allocates nothing.
#[test]
fn a_claimed_list_allocates_nothing() {
    let node = Node::builder().start();
    still_serves(&node);
    let before = harness::processes::status_number(node.manager(), "VmRSS").expect("it lives");
    let mut client = node.client();
    // Id 1, request 0 (status), then the length of its list: a marker for eight bytes, and 2^40.
    let mut body = vec![1, 0, 253];
    body.extend_from_slice(&(1_u64 << 40).to_le_bytes());
    client.send(&body).expect("a frame fits");
    if let Ok(answer) = client.answer() {
        assert!(matches!(answer.reply, Reply::Failed(_)), "{answer:?}");
    }
    let after = harness::processes::status_number(node.manager(), "VmRSS").expect("it lives");
    assert!(
        after < before + 4096,
        "the manager grew from {before} to {after} KiB"
    );
    still_serves(&node);
    node.check();
}

/// D11: names that are none are refused as such, and never become paths.
#[test]
fn senseless_names_are_refused() {
    let node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let long = "x".repeat(300 * 1024);
    let mut all: Vec<Vec<String>> = [
        "",
        "../a",
        "a/../a",
        "a\0b",
        "a\nb",
        "/etc/passwd",
        "\u{202e}a",
        &long,
    ]
    .iter()
    .map(|&name| vec![name.to_owned()])
    .collect();
    all.push(vec!["a".to_owned(); 100_000]);
    for selectors in all {
        let shown: String = selectors[0].chars().take(20).collect();
        let mut client = node.client();
        let request = Request::Stop(Job {
            selectors,
            ..job("a")
        });
        match client.call(request).map(|mut replies| replies.pop()) {
            Ok(Some(Reply::Failed(failure))) => {
                assert!(matches!(failure.code, 2 | 4), "{shown:?}: {failure:?}");
                assert!(!failure.message.contains(['\n', '\0']), "{shown:?}: {failure:?}");
            }
            Ok(other) => panic!("{shown:?}: {other:?}"),
            // A frame that breaks a bound may end the connection.
            Err(_) => {}
        }
    }
    // No text at all: the name "a" in an otherwise valid request becomes a byte that is no UTF-8.
    let mut client = node.client();
    let mut body = encode(&Ask {
        id: 1,
        token: None,
        request: Request::Stop(job("a")),
    })
    .expect("it is small");
    let at = body
        .iter()
        .position(|byte| *byte == b'a')
        .expect("the name is in it");
    body[at] = 0xff;
    client.send(&body).expect("a frame fits");
    if let Ok(answer) = client.answer() {
        assert!(matches!(answer.reply, Reply::Failed(_)), "{answer:?}");
    }
    assert_eq!((node.unit("a").starts, node.unit("a").state), (1, State::Running));
    node.check();
}

/// D14: a socket path that the kernel would cut is refused, with the limit; the longest that fits works.
#[test]
fn a_too_long_socket_path_is_refused() {
    for length in [107, 108, 200] {
        let builder = Node::builder();
        let base = builder.path("run/");
        let filler = length - base.len() - "/control.sock".len();
        let folder = format!("{base}{}", "d".repeat(filler));
        let node = builder.prepare();
        let mut places = node.places();
        let at = places
            .iter()
            .position(|arg| arg == "--runtime-dir")
            .expect("it is among them");
        places[at + 1] = folder.clone();
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        if length == 107 {
            let socket = format!("{folder}/control.sock");
            let mut daemon = std::process::Command::new(harness::programs::ringriftd())
                .args(&places)
                .env("RINGRIFT_HTTP", "off")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("ringriftd was built");
            let held = harness::processes::Held::open(daemon.id() as i32).expect("it was just started");
            let answered = harness::until_within(PATIENCE, || {
                let answer = node.ctl(&["--socket", &socket, "version"]);
                (answer.code == Some(0)).then_some(())
            });
            held.signal(libc::SIGTERM);
            let ended = harness::ctl::wait(&mut daemon, PATIENCE);
            assert!(answered.is_some(), "nobody listens at {socket}");
            assert_eq!(ended.and_then(|status| status.code()), Some(0));
            continue;
        }
        let answer = harness::ctl::run(harness::programs::ringriftd(), &places, PATIENCE, |_| {});
        assert!(answer.code.is_some_and(|code| code != 0), "{answer}");
        assert!(answer.stderr.contains("107"), "{answer}");
        assert!(
            harness::node::walk(&node.path("run")).is_empty(),
            "a cut path was used"
        );
    }
}

/// D15: a stop that comes while a unit starts wins; who waits for the start is told so.
#[test]
fn stop_wins_over_a_start_under_way() {
    let builder = Node::builder();
    let go = builder.path("go");
    let node = builder
        .spare("a", &Unit::bad(&["run", "--ready-when", &go]))
        .start();
    let mut starter = node.client();
    starter.ask(Request::Start(job("a"))).expect("a request fits");
    node.wait_unit("a", "starting", |unit| {
        unit.state == State::Starting && unit.pid.is_some()
    });
    node.ctl(&["stop", "a"]).ended(0);
    let outcome = loop {
        match starter.answer().expect("the starter is answered").reply {
            Reply::Verdict(verdict) => break verdict.outcome,
            Reply::Failed(failure) => panic!("{failure:?}"),
            _ => {}
        }
    };
    assert_eq!(outcome, Outcome::Superseded);
    assert_eq!(node.unit("a").state, State::Stopped);
    node.check();
}

/// D16: a start that comes while a unit stops follows the stop; there is one life at a time.
#[test]
fn start_follows_a_stop_under_way() {
    let builder = Node::builder();
    let file = builder.path("stamps");
    let words = [
        "run",
        "--stop-delay",
        "1",
        "--on-start-append",
        &file,
        "--on-stop-append",
        &file,
    ];
    let node = builder.unit("a", &Unit::bad(&words)).start();
    node.ctl(&["stop", "a", "--no-block"]).ended(0);
    node.wait_state("a", State::Stopping);
    node.ctl(&["start", "a"]).ended(0);
    let words: Vec<String> = harness::stamps(file.as_ref())
        .into_iter()
        .map(|s| s.word)
        .collect();
    assert_eq!(words, ["start", "stop", "start"]);
    node.check_one_life();
    node.check();
}

/// D18: many clients at once never make two lives of a unit, and the last wish holds.
#[test]
fn a_storm_of_requests_never_makes_two_lives() {
    let node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let until_then = Instant::now() + Duration::from_secs(if harness::is_ci() { 20 } else { 5 });
    std::thread::scope(|scope| {
        for n in 0..64_u32 {
            let node = &node;
            scope.spawn(move || {
                let mut client = node.client();
                let mut turn = n;
                while Instant::now() < until_then {
                    turn = turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let job = job("a");
                    let request = match (turn >> 16) % 3 {
                        0 => Request::Start(job),
                        1 => Request::Stop(job),
                        _ => Request::Restart {
                            job,
                            only_running: false,
                        },
                    };
                    let replies = client.call(request).expect("every request is answered");
                    assert!(
                        matches!(replies.last(), Some(Reply::End | Reply::Failed(_))),
                        "{replies:?}"
                    );
                }
            });
        }
        while Instant::now() < until_then {
            node.check_one_life();
        }
    });
    node.ctl(&["stop", "a"]).ended(0);
    assert_eq!(node.unit("a").state, State::Stopped);
    node.ctl(&["start", "a"]).ended(0);
    assert_eq!(node.unit("a").state, State::Running);
    node.check();
}

/// D25: a client whose output nobody takes, or that knows no terminal and no home, ends with a code and without panic.
#[test]
fn a_client_without_an_audience_ends_quietly() {
    let mut node = Node::builder();
    for n in 0..40 {
        node = node.unit(&format!("unit{n}"), &Unit::bad(&["run"]).kind("simple"));
    }
    let node = node.start();
    for verb in [
        &["status"][..],
        &["list"],
        &["status", "--json"],
        &["events"],
        &["--help"],
    ] {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("it is there");
        let answer = node.ctl_within(verb, PATIENCE, |command| {
            command.stdout(full);
        });
        assert!(answer.code.is_some(), "{answer}");
        let mut child = std::process::Command::new(harness::programs::ringriftctl())
            .args(verb)
            .env("RINGRIFT_SOCKET", node.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ringriftctl was built");
        drop(child.stdout.take());
        assert!(
            harness::ctl::wait(&mut child, PATIENCE).is_some(),
            "{verb:?} did not end"
        );
        let said = std::io::read_to_string(child.stderr.take().expect("a pipe")).expect("it writes text");
        assert!(!said.contains("panicked"), "{verb:?}: {said}");
    }
    let answer = node.ctl_within(&["status"], PATIENCE, |command| {
        command
            .env_remove("TERM")
            .env_remove("HOME")
            .env("LANG", "C")
            .env("LC_ALL", "C");
    });
    assert!(answer.clone().ended(0).stdout.is_ascii(), "{answer}");
    node.check();
}

/// What is waited for may be so already, on a node where nothing happens any more.
#[test]
fn a_wait_for_what_is_so_already_ends_at_once() {
    let node = Node::builder()
        .unit("a", &Unit::bad(&["run"]))
        .spare("b", &Unit::bad(&["run"]))
        .start();
    node.ctl(&["wait", "a", "--for", "running"]).ended(0);
    node.ctl(&["wait", "b", "--for", "stopped"]).ended(0);
    node.ctl(&["wait", "b", "--for", "running"]).ended(1);
    node.check();
}

/// D20: a client is killed after it asked, and another asks again with its token: it gets the answer, before the end and
/// after it, and nothing is done a second time. Another token is another request.
#[test]
fn what_is_asked_again_is_not_done_twice() {
    let node = Node::builder().unit("a", &Unit::bad(&["run"])).start();
    let restart = || Request::Restart {
        job: job("a"),
        only_running: false,
    };
    let token = Some(Token([7; 16]));
    let first = node.unit("a").invocation;
    let mut killed = node.client();
    killed.ask_as(token, restart()).expect("it listens");
    node.wait_unit("a", "taken", |unit| {
        unit.state != State::Running || unit.invocation != first
    });
    drop(killed);
    let verdict = |replies: Vec<Reply>| {
        replies.into_iter().find_map(|reply| match reply {
            Reply::Verdict(verdict) => Some((verdict.unit, verdict.outcome)),
            _ => None,
        })
    };
    let done = Some(("a".to_owned(), Outcome::Done));
    let again = node.client().call_as(token, restart()).expect("it answers");
    assert_eq!(verdict(again), done);
    let second = node.unit("a").invocation;
    assert_ne!(second, first);
    let later = node.client().call_as(token, restart()).expect("it answers");
    assert_eq!(verdict(later), done);
    assert_eq!(node.unit("a").invocation, second, "it was restarted again");
    let other = node
        .client()
        .call_as(Some(Token([8; 16])), restart())
        .expect("it answers");
    assert_eq!(verdict(other), done);
    assert_ne!(node.unit("a").invocation, second);
    node.check();
}
