//! D20, D22: the connection is lost in the middle of an answer. The client asks again, with the same token and less time, and
//! gets the true answer once; or it says that nobody knows.

mod support;

use std::os::unix::net::UnixListener;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::frame::{Ask, VERSION, Welcome};
use proto::reply::*;
use proto::request::{Job, Request};
use support::*;

const BACK: &str = "ringriftd's manager was restarted";

/// A daemon whose manager is replaced after each connection: `act` is told the connection's number, from 0, and the ask.
fn mortal(act: impl Fn(&mut Line, usize, &Ask) + Send + Sync + 'static) -> (Daemon, Arc<Mutex<Vec<Ask>>>) {
    let asks = Arc::new(Mutex::new(Vec::new()));
    let seen = asks.clone();
    let daemon = Daemon::raw(move |mut line| {
        line.welcome();
        let Some(ask) = line.receive::<Ask>() else { return };
        let number = {
            let mut seen = seen.lock().expect("unpoisoned");
            seen.push(ask.clone());
            seen.len() - 1
        };
        act(&mut line, number, &ask);
    });
    (daemon, asks)
}

fn all(line: &mut Line, ask: &Ask) {
    for reply in sample(&ask.request) {
        line.reply(ask.id, reply);
    }
    line.reply(ask.id, Reply::End);
}

/// Both asks are the same run of the same request.
#[track_caller]
fn same_run(asks: &Mutex<Vec<Ask>>, has_token: bool) {
    let asks = asks.lock().expect("unpoisoned");
    assert_eq!(asks.len(), 2, "{asks:?}");
    assert_eq!((asks[0].id, asks[0].token), (asks[1].id, asks[1].token));
    assert_eq!(asks[0].token.is_some(), has_token, "{asks:?}");
}

#[track_caller]
fn said_once(output: &Output) {
    assert_eq!(err(output).matches(BACK).count(), 1, "{}", err(output));
}

#[test]
fn d22_manager_that_dies_before_any_frame_is_asked_again() {
    for (args, has_token) in [
        (&["start", "a"][..], true),
        (&["stop", "a"], true),
        (&["kill", "a"], true),
        (&["reset-failed", "a"], true),
        (&["daemon-reload"], true),
        (&["hold", "a"], true),
        (&["unhold", "a"], true),
        (&["adopt", "a", "--pid", "4711"], true),
        (&["adopt", "a", "--pid", "4711", "--dry-run"], false),
        (&["upgrade"], true),
        (&["wait", "a"], false),
        (&["is-active", "health_monitor"], false),
        (&["list"], false),
        (&["cat", "auto_sync"], false),
        (&["version"], false),
        (&["events"], false),
        (&["logs"], false),
    ] {
        let (daemon, asks) = mortal(|line, number, ask| {
            if number > 0 {
                all(line, ask);
            }
        });
        let output = daemon.run(args);
        code(&output, 0);
        same_run(&asks, has_token);
        said_once(&output);
        let undisturbed = Daemon::answering(sample).run(args);
        assert_eq!(out(&output).lines().count(), out(&undisturbed).lines().count());
    }
}

#[test]
fn d20_answer_that_begins_anew_is_told_once() {
    let (daemon, asks) = mortal(|line, number, ask| {
        line.reply(ask.id, plan(&["a", "b"], &[]));
        line.reply(ask.id, verdict("a", Outcome::Done, "ready"));
        if number > 0 {
            line.reply(ask.id, verdict("b", Outcome::Done, "ready"));
            line.reply(ask.id, Reply::End);
        }
    });
    let output = daemon.run(&["start", "a", "b"]);
    code(&output, 0);
    let text = out(&output);
    assert_eq!(
        (text.lines().count(), text.matches("ready").count()),
        (2, 2),
        "{text}"
    );
    same_run(&asks, true);
    said_once(&output);
    // Nobody who wants quiet, or JSON, hears of it.
    for flag in ["-q", "--json"] {
        let (daemon, _) = mortal(|line, number, ask| {
            if number > 0 {
                all(line, ask);
            }
        });
        let output = daemon.run(&["start", "a", flag]);
        code(&output, 0);
        assert_eq!(err(&output), "");
    }
}

#[test]
fn d22_what_has_passed_is_taken_from_the_time() {
    let (daemon, asks) = mortal(|line, number, ask| {
        if number > 0 {
            return all(line, ask);
        }
        line.reply(ask.id, plan(&["a"], &[]));
        // Nothing comes from the client; it is only waited with.
        line.0
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("set");
        assert_eq!(line.receive::<Ask>(), None);
    });
    code(&daemon.run(&["start", "a", "--timeout", "30s"]), 0);
    let left: Vec<u64> = asks
        .lock()
        .expect("unpoisoned")
        .iter()
        .map(|ask| match &ask.request {
            Request::Start(Job {
                timeout_ms: Some(ms), ..
            }) => *ms,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(
        left[0] == 30_000 && (20_000..=29_700).contains(&left[1]),
        "{left:?}"
    );
}

fn event(seq: u64) -> Reply {
    let Some(Reply::Event(event)) = sample(&Request::Events {
        selectors: vec![],
        follow: false,
        after: None,
        since_us: None,
    })
    .pop() else {
        panic!("the sample has an event")
    };
    Reply::Event(Box::new(Event { seq, ..*event }))
}

#[test]
fn d22_events_go_on_without_a_gap_or_a_repeat() {
    for args in [&["events", "-f", "--json"][..], &["events", "--json"]] {
        let (daemon, asks) = mortal(|line, number, ask| {
            let Request::Events { after, .. } = ask.request else {
                panic!("{ask:?}")
            };
            let first = after.unwrap_or(0) + 1;
            // Two, then it dies; the third manager has one more and ends in order.
            let upto = if number < 2 { first + 1 } else { first };
            for seq in first..=upto {
                line.reply(ask.id, event(seq));
            }
            if number == 2 {
                line.reply(ask.id, Reply::End);
            }
        });
        let output = daemon.run(args);
        code(&output, 0);
        let seqs: Vec<u64> = out(&output)
            .lines()
            .map(|line| {
                let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
                event["seq"].as_u64().expect("a number")
            })
            .collect();
        assert_eq!(seqs, [1, 2, 3, 4, 5]);
        assert_eq!(asks.lock().expect("unpoisoned").len(), 3);
    }
}

#[test]
fn lines_of_a_log_are_not_told_twice() {
    let (daemon, asks) = mortal(|line, _, ask| {
        line.reply(ask.id, Reply::Logs(vec![support::line("a", b"hello")]));
    });
    let output = daemon.run(&["logs", "a"]);
    code(&output, 69);
    assert_eq!(out(&output).matches("hello").count(), 1);
    assert!(
        err(&output).contains("there may be more lines"),
        "{}",
        err(&output)
    );
    assert_eq!(asks.lock().expect("unpoisoned").len(), 1);
}

/// Who follows asks for what was written since the last line that it has, which may come again.
#[test]
fn a_log_that_is_followed_goes_on_where_it_ended() {
    let (daemon, asks) = mortal(|line, number, ask| {
        let [hello, world] = [&b"hello"[..], b"world"].map(|text| support::line("a", text));
        if number == 0 {
            return line.reply(ask.id, Reply::Logs(vec![hello]));
        }
        line.reply(ask.id, Reply::Logs(vec![hello, world]));
        line.reply(ask.id, Reply::End);
    });
    let output = daemon.run(&["logs", "a", "-f", "-o", "cat"]);
    code(&output, 0);
    assert_eq!(out(&output), "hello\nworld\n");
    let asks = asks.lock().expect("unpoisoned");
    let seen = |ask: &Ask| match &ask.request {
        Request::Logs { filter, .. } => filter.seen.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        asks.iter().map(seen).map(|seen| seen.len()).collect::<Vec<_>>(),
        [0, 1]
    );
    assert_eq!(seen(&asks[1])[0].unit, "a");
}

/// A daemon that dies whole after it has taken one request; `after` gets the path of its socket then.
fn dies_whole(args: &[&str], after: impl FnOnce(&std::path::Path) + Send + 'static) -> (Output, Duration) {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("control.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let path = socket.clone();
    let daemon = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut line = Line(stream);
        line.welcome();
        let ask: Ask = line.receive().expect("a request");
        line.reply(ask.id, plan(&["a"], &[]));
        // The socket first: who is cut off must not find it listening.
        drop(listener);
        drop(line);
        after(&path);
    });
    let began = Instant::now();
    let output = bare()
        .env("RINGRIFT_SOCKET", &socket)
        .args(args)
        .output()
        .expect("ringriftctl runs");
    let took = began.elapsed();
    daemon.join().expect("the daemon did as told");
    (output, took)
}

#[test]
fn d22_daemon_that_never_comes_back_leaves_the_outcome_unknown() {
    let (output, took) = dies_whole(&["start", "a"], |_| {});
    code(&output, 69);
    let text = err(&output);
    assert!(
        text.contains("whether the start was done is not known") && text.contains("ringriftctl status"),
        "{text}"
    );
    assert!(
        !text.contains(BACK) && took >= Duration::from_secs(10),
        "{took:?} {text}"
    );
    // A daemon that ended in order took its socket away: there is less to wait for.
    let (output, took) = dies_whole(&["wait", "a"], |path| {
        std::fs::remove_file(path).expect("removed")
    });
    code(&output, 69);
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(err(&output).contains("lost the connection"), "{}", err(&output));
    // Its own time is up first: it is not said that the job goes on.
    let (output, _) = dies_whole(&["stop", "a", "--timeout", "1s"], |_| {});
    code(&output, 69);
    let text = err(&output);
    assert!(
        text.contains("is not known") && !text.contains("goes on"),
        "{text}"
    );
}

#[test]
fn d22_daemon_that_comes_back_after_three_seconds_is_heard() {
    let (output, took) = dies_whole(&["start", "a"], |path| {
        // Nobody says anything on this channel: only the time passes.
        let (_quiet, nothing) = std::sync::mpsc::channel::<()>();
        assert!(nothing.recv_timeout(Duration::from_secs(3)).is_err());
        let next = path.with_extension("next");
        let listener = UnixListener::bind(&next).expect("a socket");
        std::fs::rename(&next, path).expect("in its place");
        let mut line = Line(listener.accept().expect("the client again").0);
        line.welcome();
        let ask: Ask = line.receive().expect("the request again");
        all(&mut line, &ask);
    });
    code(&output, 0);
    said_once(&output);
    assert!(took >= Duration::from_secs(3), "{took:?}");
}

/// The upgrade worked, and whoever serves now cannot be asked: that is told as what it is, with what to use. Of any other
/// command nobody knows.
#[test]
fn an_upgrade_to_another_protocol_is_told_as_done() {
    let successors = [
        Welcome::Refused {
            version: VERSION + 1,
            reason: "too old a client".into(),
        },
        Welcome::Accepted {
            version: VERSION + 1,
            program: "ringriftd 9".into(),
        },
    ];
    for successor in successors {
        let daemon = || {
            let (successor, has_died) = (successor.clone(), AtomicBool::new(false));
            Daemon::raw(move |mut line| {
                if has_died.swap(true, Ordering::SeqCst) {
                    let _: Option<proto::frame::Hello> = line.receive();
                    line.send(&successor);
                    assert_eq!(line.receive::<Ask>(), None, "no request may follow");
                } else {
                    line.welcome();
                    assert!(line.receive::<Ask>().is_some());
                }
            })
        };
        let folder = tempfile::tempdir().expect("a folder");
        let (new, beside) = (folder.path().join("ringriftd"), folder.path().join("ringriftctl"));
        let new = new.to_str().expect("UTF-8");
        let speaks = format!(
            "it speaks protocol {} now, and this ringriftctl protocol {VERSION}",
            VERSION + 1
        );
        for (has_beside, next) in [
            (false, "the ringriftctl that came with it".to_owned()),
            (true, beside.display().to_string()),
        ] {
            if has_beside {
                std::fs::write(&beside, "").expect("written");
            }
            let output = daemon().run(&["upgrade", new]);
            code(&output, 0);
            assert_eq!(
                out(&output),
                format!("ringriftd was upgraded: {speaks}; from now on use {next}\n")
            );
        }
        let output = daemon().run(&["upgrade", "--json"]);
        code(&output, 0);
        let told: serde_json::Value = serde_json::from_str(&out(&output)).expect("JSON");
        assert_eq!(
            (&told["protocol"], &told["to"]),
            (&serde_json::json!(VERSION + 1), &serde_json::Value::Null)
        );
        let output = daemon().run(&["start", "a"]);
        code(&output, 69);
        let text = err(&output);
        assert!(text.contains("whether the start was done is not known"), "{text}");
    }
}
