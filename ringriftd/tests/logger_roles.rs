//! The logger as its neighbours see it: pipes and links in, files and frames out.

mod logger_support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use logger_support::{LOGGER, Logger, Unit, hear, pair, pause, tell, texts, wait_until};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sched::{CloneFlags, unshare};
use proptest::prelude::*;
use proto::reply::{LineEnd, LogLine, Reply};
use ringriftd::keeper::wire::{FromLogger, LogCount, LogQuery, LogWord, Output, ToLogger};
use ringriftd::limits::{
    LOG_FILES_OPEN_MAX, LOG_LINE_MAX, LOG_PIPES_WAITING, LOG_QUERIES_MAX, LOG_TELL_PAUSE,
};
use ringriftd::logger::record;

#[test]
fn lines_are_whole_and_a_last_partial_line_is_kept() {
    let logger = Logger::new();
    let mut unit = logger.open("a", 42);
    unit.say("one\ntw");
    unit.say("o\n\n");
    unit.say("end");
    logger.close(unit);
    assert_eq!(
        logger.messages("a.log"),
        [
            (42, LineEnd::Whole, b"one".to_vec()),
            (42, LineEnd::Whole, b"two".to_vec()),
            (42, LineEnd::Whole, b"".to_vec()),
            (42, LineEnd::Partial, b"end".to_vec()),
        ]
    );
    logger.end();
}

#[test]
fn every_byte_is_kept_exactly() {
    let logger = Logger::new();
    let mut unit = logger.open("a", 1);
    let all: Vec<u8> = (0..=255)
        .chain(*b"\r\n\x1b]0;pwn\x07\r\n\0\n\xff\xfe\n")
        .collect();
    unit.say(&all);
    logger.close(unit);
    assert_eq!(logger.bytes(&["a.log".to_owned()]), all);
    logger.end();
}

/// S9
#[test]
fn a_unit_cannot_forge_a_record() {
    let logger = Logger::new();
    let mut unit = logger.open("a", 9);
    let forged = "1999-01-01T00:00:00.000000Z 1 | the disk is fine";
    unit.say(format!("{forged}\n"));
    logger.close(unit);
    assert_eq!(
        logger.messages("a.log"),
        [(9, LineEnd::Whole, forged.as_bytes().to_vec())]
    );
    let lines = logger.query(&["a"], None, false).all();
    assert_eq!((lines[0].invocation, texts(&lines)), (9, vec![forged.to_owned()]));
    logger.end();
}

/// How much memory this process holds, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    status
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok())
        .expect("a number")
        * 4096
}

#[test]
fn a_line_without_end_is_split_and_costs_no_memory() {
    const SIZE: usize = 64 << 20;
    let logger = Logger::new();
    let mut unit = logger.open_with("a", 3, |o| o.max_size = 1 << 30);
    let byte = |i: usize| if i % 251 == 10 { 255 } else { (i % 251) as u8 };
    let block: Vec<u8> = (0..1 << 20).map(byte).collect();
    let before = resident();
    for _ in 0..SIZE / block.len() {
        unit.say(&block);
    }
    let grown = resident().saturating_sub(before);
    logger.close(unit);
    // Other tests of this process run meanwhile; the line itself would be 64 MiB.
    assert!(grown < 32 << 20, "{grown} bytes more");
    let (mut total, mut count) = (0, 0);
    let file = std::io::BufReader::new(File::open(logger.dir.join("a.log")).expect("opened"));
    for line in std::io::BufRead::split(file, b'\n') {
        let line = line.expect("read");
        let record = record::parse(&line).expect("a record");
        assert_eq!(record.message.len(), LOG_LINE_MAX);
        let from = total % block.len();
        assert!(
            record.message == &block[from..from + LOG_LINE_MAX],
            "piece {count}"
        );
        total += LOG_LINE_MAX;
        count += 1;
        assert_eq!(
            record.end,
            if total < SIZE {
                LineEnd::Continues
            } else {
                LineEnd::Partial
            }
        );
    }
    assert_eq!((total, count), (SIZE, SIZE / LOG_LINE_MAX));
    logger.end();
}

#[test]
fn a_line_of_exactly_the_bound_is_whole() {
    let logger = Logger::new();
    let mut unit = logger.open("a", 3);
    unit.say(vec![b'x'; LOG_LINE_MAX]);
    unit.say("\n");
    unit.say(vec![b'y'; LOG_LINE_MAX + 1]);
    unit.say("\n");
    logger.close(unit);
    let seen: Vec<_> = logger
        .messages("a.log")
        .into_iter()
        .map(|(_, end, m)| (end, m.len()))
        .collect();
    assert_eq!(
        seen,
        [
            (LineEnd::Whole, LOG_LINE_MAX),
            (LineEnd::Continues, LOG_LINE_MAX),
            (LineEnd::Whole, 1)
        ]
    );
    logger.end();
}

#[test]
fn a_flood_does_not_keep_others_from_their_logs() {
    let logger = Logger::new();
    let flood = logger.open_with("flood", 1, |o| (o.max_size, o.max_files) = (1 << 20, 2));
    let mut quiet = logger.open("quiet", 2);
    let Unit { id, mut pipe } = flood;
    let (stop, stopped) = mpsc::channel::<()>();
    let flooder = std::thread::spawn(move || {
        let block = b"0123456789\n".repeat(5000);
        let mut written = 0; // more than one file, however soon it is told to stop
        while written < 2 << 20 || stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
            pipe.write_all(&block).expect("written");
            written += block.len();
        }
    });
    let mut reader = logger.query(&["quiet"], None, true);
    for n in 0..100 {
        quiet.say(format!("{n}\n"));
        assert_eq!(texts(&reader.lines(1)), [n.to_string()]);
    }
    stop.send(()).expect("told");
    flooder.join().expect("no panic");
    assert_eq!(hear::<FromLogger>(&logger.keeper), FromLogger::Closed { id });
    let files = std::fs::read_dir(&logger.dir).expect("listed").count();
    assert_eq!(files, 3, "two of the flood, one of the quiet unit");
    logger.end();
}

#[test]
fn many_units_and_lives_are_told_apart_and_merged_by_time() {
    let logger = Logger::new();
    let mut units: Vec<_> = (0..20).map(|n| logger.open(&format!("u{}", n % 10), n)).collect();
    for round in 0..50 {
        for unit in &mut units {
            let invocation = unit.id.invocation.0;
            unit.say(format!("{invocation}.{round}\n"));
        }
    }
    for unit in units {
        logger.close(unit);
    }
    for n in 0..10u64 {
        let messages = logger.messages(&format!("u{n}.log"));
        assert_eq!(messages.len(), 100);
        for life in [n, n + 10] {
            let of_life: Vec<_> = messages
                .iter()
                .filter(|m| m.0 == life)
                .map(|m| m.2.clone())
                .collect();
            let expected: Vec<_> = (0..50)
                .map(|round| format!("{life}.{round}").into_bytes())
                .collect();
            assert_eq!(of_life, expected);
        }
    }
    let names: Vec<_> = (0..10).map(|n| format!("u{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let lines = logger.query(&names, None, false).all();
    assert_eq!(lines.len(), 1000);
    assert!(lines.is_sorted_by_key(|l| l.at_us));
    assert_eq!(logger.query(&names, Some(3), false).all().len(), 30);
    logger.end();
}

fn files_of(logger: &Logger) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(&logger.dir)
        .expect("listed")
        .map(|e| e.expect("entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    names
}

/// A9, C1
#[test]
fn a_log_that_drops_never_holds_up_its_unit_and_counts_what_it_dropped() {
    let logger = Logger::new();
    let elsewhere = logger.dir.join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, logger.dir.join("a.log")).expect("a link");
    let mut unit = logger.open_with("a", 5, |o| o.keep.is_dropped = true);
    let mut said = 0;
    for n in 0..20_000 {
        // A pipe holds a few hundred of them: none of these writes would come back from a log that blocks.
        let line = format!("{n} {}\n", "x".repeat(n % 300));
        said += line.len() as u64;
        unit.say(line);
    }
    std::fs::remove_file(logger.dir.join("a.log")).expect("removed");
    wait_until("the log to be well", || {
        unit.say("again\n");
        said += 6;
        std::fs::read(logger.dir.join("a.log")).is_ok_and(|text| text.ends_with(b"again\n"))
    });
    logger.close(unit);
    let text = String::from_utf8(logger.text("a.log")).expect("text");
    let (told, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains(" 5 ! "));
    // At the place where they are missing: before all that was kept.
    assert!(text.starts_with(told[0]), "{:.200}", text);
    let [told] = told[..] else {
        panic!("told more than once: {told:?}")
    };
    let words: Vec<&str> = told.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    let (dropped_lines, dropped_bytes) = (number(3), number(6));
    let kept: u64 = lines.iter().map(|line| line.len() as u64 + 1).sum();
    let heads: u64 = lines
        .iter()
        .map(|line| line.find(" | ").expect("a record") as u64 + 3)
        .sum();
    assert_eq!(dropped_bytes + kept - heads, said);
    let agains = lines.iter().filter(|line| line.ends_with(" again")).count() as u64;
    let numbers: Vec<u64> = lines
        .iter()
        .filter(|line| !line.ends_with(" again"))
        .map(|line| {
            line.split(' ')
                .nth(3)
                .expect("a number")
                .parse()
                .expect("a number")
        })
        .collect();
    // The newest lines are there, without a hole; the others are counted.
    let all_agains = (said
        - (0..20_000_u64)
            .map(|n| n.to_string().len() as u64 + 2 + n % 300)
            .sum::<u64>())
        / 6;
    assert_eq!(dropped_lines + lines.len() as u64, 20_000 + all_agains);
    assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1) && agains > 0);
    let counted = loop {
        if let LogWord::Counted { units, .. } = hear(&logger.manager)
            && let Some(count) = units.iter().find(|count| count.lost > 0 && !count.is_blocked)
        {
            break (count.lost, count.lost_lines);
        }
    };
    assert_eq!(counted, (dropped_bytes, dropped_lines));
    assert!(!elsewhere.exists());
    logger.end();
}

#[test]
fn rotation_keeps_whole_records_in_so_many_files() {
    let logger = Logger::new();
    let mut unit = logger.open_with("a", 5, |o| (o.max_size, o.max_files) = (1000, 4));
    for n in 0..500 {
        unit.say(format!("line {n}\n"));
    }
    logger.close(unit);
    let names = files_of(&logger);
    assert_eq!(names, ["a.log", "a.log.1", "a.log.2", "a.log.3"]);
    let mut seen = Vec::new();
    for name in names.iter().rev() {
        assert!(logger.text(name).len() <= 1000);
        seen.extend(
            logger
                .messages(name)
                .into_iter()
                .map(|m| String::from_utf8(m.2).expect("text")),
        );
    }
    let expected: Vec<_> = (500 - seen.len()..500).map(|n| format!("line {n}")).collect();
    assert!(seen.len() > 60);
    assert_eq!(seen, expected);
    assert_eq!(
        texts(&logger.query(&["a"], Some(50), false).all()),
        expected[expected.len() - 50..]
    );
    assert_eq!(texts(&logger.query(&["a"], None, false).all()), expected);
    logger.end();
}

#[test]
fn following_misses_and_doubles_nothing_over_rotations() {
    let logger = Logger::new();
    let mut unit = logger.open_with("a", 5, |o| (o.max_size, o.max_files) = (16 << 10, 100));
    for n in 0..100 {
        unit.say(format!("{n}\n"));
    }
    // "late" has no log yet when it is asked for.
    let mut reader = logger.query(&["a", "late"], Some(10), true);
    let mut late = logger.open("late", 6);
    late.say("hello\n");
    let reading = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while !(seen.iter().any(|l| l == "hello") && seen.iter().any(|l| l == "4999")) {
            seen.extend(texts(&reader.lines(1)));
        }
        seen
    });
    for n in 100..5000 {
        unit.say(format!("{n}\n"));
    }
    let mut seen = reading.join().expect("no panic");
    assert_eq!(seen.iter().filter(|l| *l == "hello").count(), 1);
    seen.retain(|l| l != "hello");
    let first: usize = seen[0].parse().expect("a number");
    let expected: Vec<_> = (first..5000).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
    assert!(files_of(&logger).len() > 5);
    logger.close(late);
    logger.close(unit);
    logger.end();
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_and_is_told_what_it_missed() {
    let logger = Logger::new();
    let mut unit = logger.open_with("a", 5, |o| (o.max_size, o.max_files) = (64 << 10, 2));
    let mut reader = logger.query(&["a"], Some(0), true);
    // Once a line came the follower is there; those before its start are not its own.
    wait_until("the follower", || {
        unit.say("first\n");
        poll(&mut [PollFd::new(reader.0.as_fd(), PollFlags::POLLIN)], 20u16) == Ok(1)
    });
    let line = "x".repeat(1000);
    for _ in 0..5_000 {
        unit.say(format!("{line}\n")); // returns although nobody reads
    }
    unit.say("last\n");
    let (mut lines, mut missed) = (0, 0);
    loop {
        match reader.frame().expect("a frame") {
            Reply::Logs(new) => {
                lines += new.iter().filter(|l| l.message != b"first").count() as u64;
                if new.last().is_some_and(|l| l.message == b"last") {
                    break;
                }
            }
            Reply::Lagged(n) => missed += n,
            other => panic!("{other:?}"),
        }
    }
    assert!(missed > 0);
    assert_eq!(lines + missed, 5_001);
    logger.close(unit);
    logger.end();
}

#[test]
fn a_query_ends_when_its_client_closes_and_too_many_are_refused() {
    let logger = Logger::new();
    let mut readers: Vec<_> = (0..LOG_QUERIES_MAX)
        .map(|_| logger.query(&["a"], None, true))
        .collect();
    match logger.query(&["a"], None, false).frame() {
        Some(Reply::Failed(failure)) => assert_eq!(failure.code, 1),
        other => panic!("{other:?}"),
    }
    drop(readers.pop());
    wait_until("a free seat", || {
        logger.query(&["a"], None, false).frame() == Some(Reply::End)
    });
    logger.end();
}

#[test]
fn the_last_lines_of_one_life_are_told_to_the_manager() {
    let logger = Logger::new();
    let mut first = logger.open("a", 1);
    let mut second = logger.open("a", 2);
    for n in 0..30 {
        first.say(format!("first {n}\n"));
    }
    first.say("y".repeat(5000));
    logger.close(first);
    second.say("second\n");
    logger.close(second);
    let ask = |invocation, lines| -> Vec<LogLine> {
        tell(
            &logger.manager,
            &LogQuery::Tail {
                nonce: 4,
                unit: "a".to_owned(),
                invocation,
                lines,
            },
            None,
        );
        let tail = logger.hear_tail();
        assert_eq!(tail.nonce, 4);
        tail.lines
    };
    let lines = ask(Some(1), 3);
    assert_eq!(texts(&lines[..2]), ["first 28", "first 29"]);
    assert_eq!((lines[2].message.len(), lines[2].end), (1024, LineEnd::Partial));
    assert_eq!(texts(&ask(None, 1)), ["second"]);
    assert_eq!(ask(Some(3), 5), []);
    assert_eq!(ask(None, 100).len(), 32);
    logger.end();
}

/// The manager is told what each log was given, in sums: at once of the first, then together, and all of it when there is
/// another manager. A quiet logger tells nothing (see `a_quiet_logger_never_wakes`).
#[test]
fn what_logs_were_given_is_told() {
    let logger = Logger::new();
    let count = |unit: &str, bytes, lines| LogCount {
        unit: unit.to_owned(),
        bytes,
        lines,
        lost: 0,
        lost_lines: 0,
        is_blocked: false,
    };
    let told = |link: &OwnedFd| match hear::<LogWord>(link) {
        LogWord::Counted { logger, units } => (logger, units),
        other @ LogWord::Tail(_) => panic!("{other:?}"),
    };
    let mut a = logger.open("a", 1);
    let began = Instant::now();
    a.say("one\ntwo\nthr");
    let (this, first) = told(&logger.manager);
    assert_eq!(first, [count("a", 11, 2)]);
    let mut b = logger.open("b", 2);
    for _ in 0..100 {
        a.say("ee\n");
        b.say("0123456789\n");
    }
    logger.close(a);
    let (mut known, mut tellings) = (BTreeMap::new(), 1);
    while known.values().ne(&[count("a", 311, 102), count("b", 1100, 100)]) {
        let (same, more) = told(&logger.manager);
        assert_eq!(same, this);
        tellings += 1;
        known.extend(more.into_iter().map(|count| (count.unit.clone(), count)));
    }
    assert!(
        began.elapsed() >= LOG_TELL_PAUSE * (tellings - 1),
        "told once a while: {tellings}"
    );
    // One that was never written is not told of.
    let quiet = logger.open("quiet", 3);
    let (ours, theirs) = pair();
    tell(&logger.keeper, &ToLogger::Peer, Some(&theirs));
    b.say("and out");
    logger.close(b);
    let (_, all) = told(&ours);
    assert_eq!(all, [count("a", 311, 102), count("b", 1107, 101)]);
    logger.close(quiet);
    logger.end();
}

/// A list of units asks for all of their last lines in one moment; each gets its own.
#[test]
fn many_tails_at_once_are_all_answered() {
    let logger = Logger::new();
    let mut unit = logger.open("a", 1);
    unit.say("its last words\n");
    logger.close(unit);
    let count = ringriftd::limits::TAILS_AT_ONCE as u64;
    for nonce in 0..count {
        let query = LogQuery::Tail {
            nonce,
            unit: "a".to_owned(),
            invocation: None,
            lines: 1,
        };
        tell(&logger.manager, &query, None);
    }
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..count {
        let tail = logger.hear_tail();
        assert_eq!(texts(&tail.lines), ["its last words"], "query {}", tail.nonce);
        answered.insert(tail.nonce);
    }
    assert_eq!(answered.len() as u64, count);
    logger.end();
}

#[test]
fn what_is_there_is_written_when_the_daemon_ends_or_keeper_and_manager_die() {
    for is_dead in [false, true] {
        let temp = tempfile::tempdir().expect("a folder");
        let mut logger = Logger::at(&temp.path().join("log"));
        let mut unit = logger.open("a", 1);
        unit.say("one\ntwo");
        let thread = logger.thread.take().expect("once");
        if is_dead {
            drop(logger.keeper);
            drop(logger.manager);
        } else {
            tell(&logger.keeper, &ToLogger::End, None);
        }
        thread.join().expect("no panic").expect("a good end");
        let text = std::fs::read(temp.path().join("log/a.log")).expect("read");
        assert!(text.ends_with(b"1 ~ two\n"), "{}", text.escape_ascii());
    }
}

#[test]
fn a_managers_death_is_no_reason_to_end() {
    let mut logger = Logger::new();
    let (manager, peer) = pair();
    drop(std::mem::replace(&mut logger.manager, manager));
    tell(&logger.keeper, &ToLogger::Peer, Some(&peer));
    logger.settle();
    let mut unit = logger.open("a", 1);
    unit.say("still here\n");
    logger.close(unit);
    assert_eq!(texts(&logger.query(&["a"], None, false).all()), ["still here"]);
    logger.end();
}

#[test]
fn a_keepers_death_is_no_reason_to_end() {
    let mut logger = Logger::new();
    let mut unit = logger.open("a", 1);
    unit.say("before\nbe");
    // Dead before the unit's end was told, which is told to the next one.
    let ended = logger.open("b", 2).id;
    let (keeper, theirs) = pair();
    drop(std::mem::replace(&mut logger.keeper, keeper));
    let mut reader = logger.query(&["a"], None, true);
    unit.say("tween\n");
    assert_eq!(texts(&reader.lines(2)), ["before", "between"]);
    tell(&logger.manager, &LogQuery::Keeper, Some(&theirs));
    assert_eq!(hear::<FromLogger>(&logger.keeper), FromLogger::Ready);
    tell(&logger.keeper, &ToLogger::Close { id: ended }, None);
    assert_eq!(
        hear::<FromLogger>(&logger.keeper),
        FromLogger::Closed { id: ended }
    );
    logger.settle();
    // The new keeper names every pipe that it knows: the same pipe is not read twice.
    let again =
        std::fs::File::open(format!("/proc/self/fd/{}", unit.pipe.as_raw_fd())).expect("opened again");
    let output = Output {
        unit: "a".to_owned(),
        max_size: 16 << 20,
        max_files: 5,
        drain_ms: 60_000,
        keep: Default::default(),
        read: Default::default(),
    };
    let id = unit.id;
    tell(
        &logger.keeper,
        &ToLogger::Open {
            id,
            output,
            streams: vec![None],
        },
        Some(&again.into()),
    );
    unit.say("after\n");
    logger.close(unit);
    assert_eq!(
        logger.messages("a.log"),
        ["before", "between", "after"].map(|text| (1, LineEnd::Whole, text.into()))
    );
    // Without any manager it goes on too, as long as there is a keeper.
    let (manager, peer) = pair();
    drop(std::mem::replace(&mut logger.manager, manager));
    logger.settle();
    tell(&logger.keeper, &ToLogger::Peer, Some(&peer));
    logger.settle();
    assert_eq!(logger.query(&["a"], Some(1), false).all().len(), 1);
    logger.end();
}

#[test]
fn a_grandchild_that_keeps_the_pipe_holds_it_only_for_the_drain_time() {
    let logger = Logger::new();
    let mut unit = logger.open_with("a", 1, |o| o.drain_ms = 50);
    unit.say("last words");
    let began = Instant::now();
    tell(&logger.keeper, &ToLogger::Close { id: unit.id }, None);
    assert_eq!(
        hear::<FromLogger>(&logger.keeper),
        FromLogger::Closed { id: unit.id }
    );
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert_eq!(
        logger.messages("a.log"),
        [(1, LineEnd::Partial, b"last words".to_vec())]
    );
    logger.end();
}

#[test]
fn a_torn_line_is_ended_and_times_go_on_from_the_file() {
    let temp = tempfile::tempdir().expect("a folder");
    let dir = temp.path().join("log");
    std::fs::create_dir(&dir).expect("made");
    std::fs::write(
        dir.join("a.log"),
        "2099-01-01T00:00:00.000000Z 1 | old\n2099-01-01T00:0",
    )
    .expect("written");
    let logger = Logger::at(&dir);
    let mut unit = logger.open("a", 2);
    unit.say("new\n");
    logger.close(unit);
    assert_eq!(
        String::from_utf8(logger.text("a.log")).expect("text"),
        "2099-01-01T00:00:00.000000Z 1 | old\n2099-01-01T00:0\n2099-01-01T00:00:00.000000Z 2 | new\n"
    );
    let lines = logger.query(&["a"], None, false).all();
    assert_eq!(texts(&lines), ["old", "2099-01-01T00:0", "new"]);
    assert_eq!(lines[1].invocation, 0, "what is no record belongs to no life");
    logger.end();
}

#[test]
fn a_removed_folder_is_made_anew() {
    let logger = Logger::new();
    let mut unit = logger.open("a", 1);
    unit.say("one\n");
    wait_until("the first line", || logger.dir.join("a.log").exists());
    std::fs::remove_dir_all(&logger.dir).expect("removed");
    wait_until("a new file", || {
        unit.say("more\n");
        logger.dir.join("a.log").exists()
    });
    unit.say("last\n");
    logger.close(unit);
    assert!(logger.text("a.log").ends_with(b"last\n"));
    logger.end();
}

#[test]
fn a_link_in_a_logs_place_is_refused_until_it_is_gone() {
    let logger = Logger::new();
    let target = logger.dir.parent().expect("a parent").join("target");
    std::fs::write(&target, "mine").expect("written");
    std::os::unix::fs::symlink(&target, logger.dir.join("a.log")).expect("linked");
    let mut unit = logger.open("a", 1);
    let mut other = logger.open("b", 2);
    unit.say("secret\n");
    other.say("hello\n");
    logger.close(other);
    assert_eq!(std::fs::read(&target).expect("read"), b"mine");
    std::fs::remove_file(logger.dir.join("a.log")).expect("removed");
    logger.close(unit);
    assert_eq!(
        logger.messages("a.log"),
        [(1, LineEnd::Whole, b"secret".to_vec())]
    );
    logger.end();
}

/// So that a unit that starts again and again on a full disk does not take all descriptors.
#[test]
fn only_a_few_pipes_of_a_unit_outlive_their_time() {
    let logger = Logger::new();
    std::os::unix::fs::symlink("nowhere", logger.dir.join("a.log")).expect("linked");
    let count = LOG_PIPES_WAITING as u64 + 1;
    let units: Vec<_> = (1..=count)
        .map(|life| {
            let mut unit = logger.open_with("a", life, |o| o.drain_ms = 20);
            unit.say(format!("life {life}\n"));
            tell(&logger.keeper, &ToLogger::Close { id: unit.id }, None);
            unit
        })
        .collect();
    // One too many: the first one's bytes are lost, and nobody else's.
    let id = units[0].id;
    assert_eq!(hear::<FromLogger>(&logger.keeper), FromLogger::Closed { id });
    std::fs::remove_file(logger.dir.join("a.log")).expect("removed");
    for _ in 1..units.len() {
        hear::<FromLogger>(&logger.keeper);
    }
    let lives: Vec<_> = logger.messages("a.log").into_iter().map(|m| m.0).collect();
    assert_eq!(lives, (2..=count).collect::<Vec<_>>());
    logger.end();
}

/// A write(2) that fills a pipe wakes its reader only if the pipe was empty: a begun line must not be left in it.
#[test]
fn a_line_that_is_begun_and_then_goes_on_for_ever_holds_up_nobody() {
    let logger = Logger::new();
    let mut unit = logger.open("a", 1);
    let mut other = logger.open("b", 2);
    for round in 0..20 {
        unit.say("begun");
        // The first was seen, since the pipes have their turns in order.
        other.say("line\n");
        wait_until("the other's line", || {
            logger.dir.join("b.log").exists() && logger.messages("b.log").len() > round
        });
        unit.say(vec![b'x'; 300 << 10]);
        unit.say("\n");
    }
    logger.close(unit);
    logger.close(other);
    let all = logger.bytes(&["a.log".to_owned()]);
    assert_eq!(all.len(), 20 * ((300 << 10) + 6));
    logger.end();
}

#[test]
fn a_pipe_outlives_its_time_while_its_log_cannot_be_written() {
    let logger = Logger::new();
    std::os::unix::fs::symlink("nowhere", logger.dir.join("a.log")).expect("linked");
    let mut unit = logger.open_with("a", 1, |o| o.drain_ms = 50);
    unit.say("why it died\nthe last wor");
    // The pipe is still held by somebody: only the drain time ends it. It is kept past that, since the bytes in it are
    // nowhere else.
    tell(&logger.keeper, &ToLogger::Close { id: unit.id }, None);
    pause(Duration::from_millis(200));
    std::fs::remove_file(logger.dir.join("a.log")).expect("removed");
    assert_eq!(
        hear::<FromLogger>(&logger.keeper),
        FromLogger::Closed { id: unit.id }
    );
    assert_eq!(
        logger.messages("a.log"),
        [
            (1, LineEnd::Whole, b"why it died".to_vec()),
            (1, LineEnd::Partial, b"the last wor".to_vec())
        ]
    );
    logger.end();
}

/// More units than files are held open at once.
#[test]
fn units_are_more_than_open_files() {
    let logger = Logger::new();
    const UNITS: usize = LOG_FILES_OPEN_MAX + 50;
    for round in 0..2 {
        for n in 0..UNITS {
            let mut unit = logger.open(&format!("u{n}"), round);
            unit.say(format!("{round}\n"));
            logger.close(unit);
        }
    }
    let expected = [
        (0, LineEnd::Whole, b"0".to_vec()),
        (1, LineEnd::Whole, b"1".to_vec()),
    ];
    for n in 0..UNITS {
        assert_eq!(logger.messages(&format!("u{n}.log")), expected, "u{n}");
    }
    let open = std::fs::read_dir("/proc/self/fd")
        .expect("listed")
        .filter_map(|e| {
            let target = std::fs::read_link(e.expect("entry").path()).ok()?;
            target.starts_with(&logger.dir).then_some(())
        });
    assert!(open.count() <= LOG_FILES_OPEN_MAX + 1);
    logger.end();
}

#[test]
fn a_name_that_is_a_path_is_refused() {
    let logger = Logger::new();
    let unit = logger.open("../a", 1);
    assert_eq!(
        hear::<FromLogger>(&logger.keeper),
        FromLogger::Closed { id: unit.id }
    );
    assert!(!logger.dir.parent().expect("a parent").join("a.log").exists());
    logger.end();
}

/// C1: two kinds of full disk: the folder on a tmpfs of 64 KiB, in a mount namespace of this thread alone.
#[test]
fn a_full_disk_loses_nothing_and_heals() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a_full_disk_loses_nothing_and_heals needs root, to mount a small tmpfs");
        return;
    }
    if let Err(e) = unshare(CloneFlags::CLONE_NEWNS) {
        eprintln!("SKIPPED: a_full_disk_loses_nothing_and_heals needs a mount namespace: {e}");
        return;
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private");
    let temp = tempfile::tempdir().expect("a folder");
    let options = Some("size=64k,mode=0755");
    mount(
        Some("tmpfs"),
        temp.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        options,
    )
    .expect("a tmpfs");
    let filler = temp.path().join("filler");
    std::fs::write(&filler, vec![0; 48 << 10]).expect("filled");

    let logger = Logger::at(&temp.path().join("log"));
    let mut full = logger.open("full", 1);
    let Unit { id, mut pipe } = logger.open("other", 2);
    let expected: Vec<u8> = (0..300)
        .flat_map(|n| format!("line {n}\n").into_bytes())
        .collect();
    // 13 KiB of records would fit; with another file's they do not, and half of a record is written somewhere.
    full.say(&expected);
    pipe.write_all(&expected).expect("written");
    let used = || {
        nix::sys::statvfs::statvfs(temp.path())
            .expect("statvfs")
            .blocks_available()
    };
    wait_until("a full disk", || used() == 0);
    // Another log's trouble is not ours: both go on when there is room.
    drop(pipe);
    std::fs::remove_file(&filler).expect("removed");
    assert_eq!(hear::<FromLogger>(&logger.keeper), FromLogger::Closed { id });
    logger.close(full);
    for name in ["full.log", "other.log"] {
        assert_eq!(logger.bytes(&[name.to_owned()]), expected, "{name}");
    }
    logger.end();
    nix::mount::umount(temp.path()).expect("unmounted");
}

#[test]
fn a_quiet_logger_never_wakes() {
    let logger = Logger::new();
    let mut unit = logger.open("a", 1);
    unit.say("one\n");
    let mut reader = logger.query(&["a"], Some(1), true);
    assert_eq!(reader.lines(1).len(), 1);
    // What it counted of that is told a moment later.
    assert!(matches!(hear(&logger.manager), LogWord::Counted { .. }));
    // Every logger of this process is counted, so it has to be alone: in a run of all tests others come and go.
    let switches = || -> Option<u64> {
        let mut found = Vec::new();
        for task in std::fs::read_dir("/proc/self/task").expect("listed") {
            let path = task.expect("entry").path();
            let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
            if [LOGGER, "log-query"].contains(&read("comm").trim()) {
                let status = read("status");
                let line = status
                    .lines()
                    .find(|l| l.starts_with("voluntary_ctxt_switches"))?;
                found.push(line.split_whitespace().nth(1)?.parse::<u64>().ok()?);
            }
        }
        (found.len() == 2).then(|| found.iter().sum())
    };
    let mut quiet = None;
    wait_until("to be alone", || {
        let before = switches();
        pause(Duration::from_secs(1));
        quiet = before.zip(switches());
        quiet.is_some()
    });
    let (before, after) = quiet.expect("two counts");
    assert_eq!(before, after);
    logger.close(unit);
    logger.end();
}

#[derive(Debug, Clone)]
enum Chunk {
    Bytes(Vec<u8>),
    Restart,
}

fn chunks() -> impl Strategy<Value = Vec<Chunk>> {
    let byte = prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')];
    let bytes = prop_oneof![
        8 => proptest::collection::vec(byte, 0..400).boxed(),
        1 => (any::<u8>(), 0..40_000usize).prop_map(|(b, n)| vec![b; n]).boxed(),
    ];
    let chunk = prop_oneof![9 => bytes.prop_map(Chunk::Bytes), 1 => Just(Chunk::Restart)];
    proptest::collection::vec(chunk, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Random bytes in random chunks, with rotations at random sizes and lives that end anywhere, on a logger that is
    /// itself ended and started again: read back exactly, from the files and by a query.
    #[test]
    fn random_bytes_are_read_back_exactly(chunks in chunks(), max_size in 100..60_000u64) {
        let temp = tempfile::tempdir().expect("a folder");
        let dir = temp.path().join("log");
        let mut life = 0;
        let mut expected: Vec<(u64, Vec<u8>)> = Vec::new();
        for part in chunks.split(|c| matches!(c, Chunk::Restart)) {
            let logger = Logger::at(&dir);
            for round in part.chunks(7) {
                life += 1;
                let bounds = |o: &mut Output| (o.max_size, o.max_files) = (max_size, 900);
                let mut unit = logger.open_with("a", life, bounds);
                let mut all = Vec::new();
                for chunk in round {
                    let Chunk::Bytes(bytes) = chunk else { continue };
                    unit.say(bytes);
                    all.extend_from_slice(bytes);
                }
                logger.close(unit);
                if !all.is_empty() {
                    expected.push((life, all));
                }
            }
            logger.end();
        }
        let logger = Logger::at(&dir);
        let lines = logger.query(&["a"], None, false).all();
        let mut back: Vec<(u64, Vec<u8>)> = Vec::new();
        for line in &lines {
            prop_assert!(line.message.len() <= LOG_LINE_MAX);
            if back.last().is_none_or(|(life, _)| *life != line.invocation) {
                back.push((line.invocation, Vec::new()));
            }
            let bytes = &mut back.last_mut().expect("pushed").1;
            bytes.extend_from_slice(&line.message);
            if line.end == LineEnd::Whole {
                bytes.push(b'\n');
            }
        }
        prop_assert!(back == expected);
        for n in [1, 3, 50] {
            let some = logger.query(&["a"], Some(n as u64), false).all();
            prop_assert_eq!(&some[..], &lines[lines.len().saturating_sub(n)..]);
        }
        logger.end();
    }
}
