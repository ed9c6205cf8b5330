//! What units write is kept, counted and passed on, whatever happens to disks, loggers and managers.

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::contained::{Container, Who};
use harness::pace::Pace;
use harness::processes;
use harness::seeded::{Dice, is_full, tell};
use harness::{Node, Unit, need, until};
use proto::reply::State;

/// Its stdout is what is written into a fifo, until that is closed.
fn copier(node: &harness::NodeBuilder, name: &str) -> Unit {
    let fifo = node.path(name);
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    Unit::command(&["/bin/sh", "-c", "exec cat \"$1\"", "sh", &fifo])
        .kind("simple")
        .once()
}

/// Numbers that a line of a log tells were dropped: lines and bytes.
fn told_drops(text: &[u8]) -> (u64, u64) {
    let text = String::from_utf8_lossy(text);
    let told = text.lines().filter(|line| line.split(' ').nth(2) == Some("!"));
    told.fold((0, 0), |(lines, bytes), line| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        (lines + number(3), bytes + number(6))
    })
}

/// C1: the disk of the logs is full. A unit whose log drops runs on, and so do commands; when there is room again the log goes
/// on by itself, and the numbers of what is missing are the same in the log, in `status` and in the events.
#[test]
fn a_full_disk_drops_what_it_may_and_every_number_is_the_same() {
    need!(harness::is_root(), "needs root for namespaces");
    let unit = Unit::bad(&["flood", "4M"]).text("log.on_full", "drop");
    let builder = Node::builder().spare("a", &unit).spare("b", &Unit::bad(&["run"]));
    let log = builder.path("log");
    let node = builder.prepare();
    let setup = format!(
        "mkdir -p {log}; mount -t tmpfs -o size=256k,mode=0750 logs {log}; head -c 131072 /dev/zero >{log}/filler"
    );
    let inside = Container::new(&node, Who::Root).setup(&setup).start();
    node.wait_listening();
    // As the keeper sees it, which lives to the end.
    let folder = PathBuf::from(format!("/proc/{}/root{log}", inside.pid));
    assert!(folder.join("filler").exists(), "{}", folder.display());
    node.ctl(&["start", "a"]).ended(0);
    let blocked = until("the log to be blocked, and something dropped", || {
        let status = node.ctl(&["status", "a", "--json"]).ended(0).json();
        let log = status["units"][0]["log"].clone();
        let is_dropping = log["is_blocked"] == true && log["dropped_bytes"].as_u64() > Some(0);
        is_dropping.then_some(log)
    });
    assert!(blocked["dropped_lines"].as_u64() > Some(0), "{blocked}");
    // Neither it nor anybody else waits.
    node.ctl(&["start", "b"]).ended(0);
    let bytes = until("all of it was taken", || {
        let status = node.ctl(&["status", "a", "--json"]).ended(0).json();
        let taken = status["units"][0]["log"]["bytes"].as_u64()?;
        // But for what a pipe holds.
        (taken > (4 << 20) - (64 << 10)).then_some(taken)
    });
    assert!(bytes <= (4 << 20) + 1021, "{bytes}");
    std::fs::remove_file(folder.join("filler")).expect("it is there");
    // A little may have been written in between, where a page of the disk had room: then it was told more than once.
    let dropped = until("the log to be well, and status to say what it says", || {
        let told = told_drops(&std::fs::read(folder.join("a.log")).expect("its log"));
        let status = node.ctl(&["status", "a", "--json"]).ended(0).json();
        let log = &status["units"][0]["log"];
        let sums = (log["dropped_lines"].as_u64()?, log["dropped_bytes"].as_u64()?);
        (log["is_blocked"] == false && told == sums).then_some(sums)
    });
    let history = node.history();
    let begun = history
        .iter()
        .position(|event| event.event == "DAEMON_LOG_DROPPING");
    let ended = history.iter().find(|event| event.event == "DAEMON_LOG_DROPPED");
    let ended = ended.unwrap_or_else(|| panic!("no end is told: {history:?}"));
    assert!(begun.is_some(), "no beginning is told: {history:?}");
    let words: Vec<&str> = ended.cause.text.split(' ').collect();
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    assert!(
        number(0) <= dropped.0 && number(3) <= dropped.1 && number(3) > 0,
        "{ended:?}, of {dropped:?}"
    );
    let shown = node.ctl(&["status", "a"]).ended(0).stdout;
    assert!(
        shown.contains(&format!(
            "{} lines of {} bytes were dropped",
            dropped.0, dropped.1
        )),
        "{shown}"
    );
    node.ctl(&["stop", "a", "b"]).ended(0);
    inside.signal(libc::SIGTERM);
    assert_eq!(inside.wait_end(), Some(0), "{}", node.stderr());
}

/// A9: a unit that floods costs no memory and no more disk than it may, and holds up no command.
#[test]
fn a_flood_costs_neither_memory_nor_disk_nor_anybodys_time() {
    let unit = Unit::bad(&["flood", "16M"])
        .text("log.max_size", "1MiB")
        .set("log.max_files", "4");
    let mut node = Node::builder()
        .spare("a", &unit)
        .spare("b", &Unit::bad(&["run"]))
        .start();
    let peak = |pid: i32| processes::status_number(pid, "VmRSS").expect("it lives");
    let roles = [node.keeper(), node.manager()];
    let before = roles.map(peak);
    let pace = Pace::keep();
    node.ctl(&["start", "a"]).ended(0);
    let mut answers = Vec::new();
    let whole = (16 << 20) / 1021_u64;
    until("all of it was taken", || {
        let begun = Instant::now();
        let (_, units) = node.status_of(&["b"]);
        answers.push(begun.elapsed());
        assert_eq!(units.len(), 1);
        let status = node.ctl(&["status", "a", "--json"]).ended(0).json();
        (status["units"][0]["log"]["lines"].as_u64()? >= whole).then_some(())
    });
    let pacing = pace.end();
    pacing.assert_usually("an answer", &answers, Duration::from_millis(500));
    for (pid, before) in roles.into_iter().zip(before) {
        let now = peak(pid);
        assert!(now < before + (16 << 10), "{before} KiB have become {now}");
    }
    let logger = processes::status_number(node.logger(), "VmRSS").expect("it lives");
    assert!(logger < 64 << 10, "the logger has {logger} KiB");
    let files = node.log_files("a");
    let sizes = files.iter().filter_map(|file| file.metadata().ok());
    let sum: u64 = sizes.map(|file| file.len()).sum();
    // One may just be both packed and not.
    assert!(sum <= 5 << 20, "{sum} bytes in {files:?}");
    node.ctl(&["stop", "a"]).ended(0);
    node.shutdown();
}

/// A10: a line that does not end is cut at its bound, with a mark; no byte of it is lost, and it costs no memory.
#[test]
fn a_line_of_64_mib_is_cut_and_kept() {
    const BYTES: u64 = 64 << 20;
    let unit = Unit::bad(&["longline", "64M"]).text("log.max_size", "128MiB");
    let mut node = Node::builder().unit("a", &unit).start();
    let logger = until("all of it was written", || {
        let status = node.ctl(&["status", "a", "--json"]).ended(0).json();
        let log = &status["units"][0]["log"];
        (log["bytes"].as_u64()? > BYTES && log["lines"].as_u64()? >= BYTES / 16384).then_some(node.logger())
    });
    let peak = processes::status_number(logger, "VmHWM").expect("it lives");
    assert!(peak < 64 << 10, "the logger had {peak} KiB");
    let text = std::fs::read(node.path("log/a.log")).expect("its log");
    let (mut bytes, mut marks) = (0, Vec::new());
    for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let mark = line.iter().position(|b| b"+|".contains(b)).expect("a mark");
        let text = &line[mark + 2..];
        assert!(text.iter().all(|b| *b == b'x'), "another's byte");
        bytes += text.len() as u64;
        marks.push(line[mark]);
    }
    assert_eq!(bytes, BYTES);
    let (last, pieces) = marks.split_last().expect("a line");
    assert!(*last == b'|' && pieces.iter().all(|mark| *mark == b'+'));
    assert_eq!(pieces.len() as u64, BYTES / 16384 - 1);
    node.shutdown();
}

/// Random bytes by random lives with random rotations, while loggers and managers are killed at random: what each life wrote is
/// read back, byte for byte.
#[test]
fn what_each_life_wrote_is_read_back_whoever_was_killed_meanwhile() {
    let (mut dice, seed) = Dice::new(0x6c6f_6773);
    tell(&format!(
        "what_each_life_wrote_is_read_back: RINGRIFT_SEED={seed}"
    ));
    let lives = if is_full() { 60 } else { 6 };
    let builder = Node::builder();
    let names = ["a", "b", "c"];
    let units = names.map(|name| {
        let size = format!("{}KiB", 4 + dice.below(100));
        copier(&builder, name)
            .text("log.max_size", &size)
            .set("log.max_files", "1000")
    });
    let mut builder = builder;
    for (name, unit) in names.iter().zip(&units) {
        builder = builder.spare(name, unit);
    }
    let mut node = builder.start();
    let mut written: Vec<(&str, String, Vec<u8>)> = Vec::new();
    for _ in 0..lives {
        let mut open = Vec::new();
        for name in names {
            node.ctl(&["start", name]).ended(0);
            let life = node.unit(name).invocation.expect("it lives");
            let fifo = std::fs::File::options()
                .write(true)
                .open(node.path(name))
                .expect("it reads");
            open.push((name, life, fifo, Vec::new()));
        }
        for _ in 0..4 + dice.below(8) {
            let (_, _, fifo, all) = &mut open[dice.below(3) as usize];
            // From a few bytes to more than a pipe holds, with few newlines or many.
            let most = 1 << (4 + dice.below(14));
            let length = dice.below(most);
            let ends = 2 + dice.below(400);
            let bytes: Vec<u8> = (0..length)
                .map(|_| match dice.below(ends) {
                    0 => b'\n',
                    _ => dice.below(256) as u8,
                })
                .collect();
            fifo.write_all(&bytes).expect("it reads");
            all.extend(bytes);
            match dice.below(6) {
                0 => drop(node.crash_logger()),
                1 => drop(node.crash_manager()),
                _ => {}
            }
        }
        for (name, life, fifo, all) in open {
            drop(fifo);
            written.push((name, life, all));
        }
        for name in names {
            node.wait_state(name, State::Completed);
        }
    }
    for (name, life, all) in &written {
        let mut expected = all.clone();
        if expected.last().is_some_and(|byte| *byte != b'\n') {
            expected.push(b'\n'); // so that another life's line does not stand behind it
        }
        // A pipe's end is seen a moment after its unit's.
        let found = until("all of it is there", || {
            let output = Command::new(harness::programs::ringriftctl())
                .args(["logs", name, "--invocation", life, "-n", "all", "-o", "cat"])
                .env("RINGRIFT_SOCKET", node.socket())
                .output();
            let found = output.expect("it was built").stdout;
            (found.len() >= expected.len()).then_some(found)
        });
        assert!(
            found == expected,
            "seed {seed}: {name}, life {life}: {} bytes, not {}, or others",
            found.len(),
            expected.len(),
        );
    }
    node.shutdown();
}

/// What a datagram of journald's protocol has under a name, in its form with a length.
fn field(datagram: &[u8], name: &str) -> Option<Vec<u8>> {
    let head = [name.as_bytes(), b"\n"].concat();
    let at = datagram.windows(head.len()).position(|window| window == head)? + head.len();
    let length: [u8; 8] = datagram.get(at..at + 8)?.try_into().ok()?;
    let length = usize::try_from(u64::from_le_bytes(length)).ok()?;
    Some(datagram.get(at + 8..at + 8 + length)?.to_vec())
}

/// Lines are passed on to whoever speaks as journald or syslog does; one that does not listen holds up nobody.
#[test]
fn lines_are_passed_on_and_nobody_waits_for_those_who_take_them() {
    let builder = Node::builder();
    let (journal, syslog, deaf) = (
        builder.path("journal"),
        builder.path("syslog"),
        builder.path("deaf"),
    );
    let hears = |path: &str| {
        let socket = UnixDatagram::bind(path).expect("bound");
        socket.set_read_timeout(Some(harness::PATIENCE)).expect("set");
        socket
    };
    let (to_journal, to_syslog, _to_nobody) = (hears(&journal), hears(&syslog), hears(&deaf));
    let say = "echo '<3>broken'; printf 'no end'; exec sleep 1000";
    let unit = |to: &str, path: &str| {
        let unit = Unit::command(&["/bin/sh", "-c", say]).kind("simple");
        unit.text("log.forward", to).text("log.forward_to", path)
    };
    let flood = Unit::bad(&["flood", "8M"])
        .text("log.forward", "syslog")
        .text("log.forward_to", &deaf);
    let mut node = builder
        .unit("j", &unit("journald", &journal))
        .unit("s", &unit("syslog", &syslog))
        .spare("f", &flood)
        .start();
    let heard = |socket: &UnixDatagram| {
        let mut buffer = vec![0; 64 << 10];
        let length = socket.recv(&mut buffer).expect("a datagram");
        buffer.truncate(length);
        buffer
    };
    let datagram = heard(&to_journal);
    let text = String::from_utf8_lossy(&datagram).into_owned();
    let life = node.unit("j").invocation.expect("it lives");
    for line in [
        "PRIORITY=3",
        "SYSLOG_IDENTIFIER=j",
        "RINGRIFT_UNIT=j",
        &format!("RINGRIFT_INVOCATION_ID={life}"),
    ] {
        assert!(text.lines().any(|said| said == line), "no {line} in {text}");
    }
    assert_eq!(
        field(&datagram, "MESSAGE").as_deref(),
        Some(&b"broken"[..]),
        "{text}"
    );
    let text = String::from_utf8(heard(&to_syslog)).expect("text");
    assert!(text.starts_with("<27>") && text.ends_with(" s: broken"), "{text}");
    // Its last line has no end until it ends.
    node.ctl(&["stop", "j"]).ended(0);
    assert_eq!(
        field(&heard(&to_journal), "MESSAGE").as_deref(),
        Some(&b"no end"[..])
    );
    // A listener that does not read: the unit goes on, and its log is whole.
    node.ctl(&["start", "f"]).ended(0);
    until("all of it was written", || {
        let status = node.ctl(&["status", "f", "--json"]).ended(0).json();
        (status["units"][0]["log"]["lines"].as_u64()? >= (8 << 20) / 1021).then_some(())
    });
    let said = node.stderr();
    assert!(said.contains("cannot pass lines on to"), "{said}");
    node.shutdown();
}
