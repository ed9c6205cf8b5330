//! The misbehaving daemon and the harness themselves, without a supervisor: a fault test that provokes nothing
//! proves nothing.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use harness::processes::{self, Held, Process};
use harness::{PATIENCE, Unit, programs, stamps, until};

fn bad(words: &[&str]) -> Command {
    let mut command = Command::new(programs::rr_bad());
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .env_remove("NOTIFY_SOCKET");
    command
}

/// A socket that plays the supervisor's, and the folder that it lies in.
fn notify_socket() -> (tempfile::TempDir, UnixDatagram) {
    let folder = tempfile::tempdir().expect("there is room");
    let socket = UnixDatagram::bind(folder.path().join("n")).expect("a fresh folder takes a socket");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket takes a timeout");
    (folder, socket)
}

fn heard(socket: &UnixDatagram) -> String {
    let mut text = [0; 70_000];
    let n = socket.recv(&mut text).expect("something was said");
    String::from_utf8_lossy(&text[..n]).into_owned()
}

/// A child that a failing test does not leave behind.
struct Started(Child);

impl std::ops::Deref for Started {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Started {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Started {
    Started(command.spawn().expect("it runs"))
}

fn end(mut child: Started, signal: i32) -> std::process::ExitStatus {
    processes::signal(child.id() as i32, signal);
    child.wait().expect("an own child")
}

#[test]
fn exit_ends_with_its_code() {
    for code in [0, 1, 255] {
        let status = bad(&["exit", &code.to_string()]).status().expect("it runs");
        assert_eq!(status.code(), Some(code));
    }
}

#[test]
fn sig_dies_by_any_signal_also_real_time_ones() {
    for signal in [libc::SIGSEGV, libc::SIGKILL, libc::SIGTERM, 34, 64] {
        let status = bad(&["sig", &signal.to_string()]).status().expect("it runs");
        assert_eq!(status.signal(), Some(signal));
    }
}

#[test]
fn run_tells_readiness_stamps_and_obeys_term() {
    let (folder, socket) = notify_socket();
    let file = folder.path().join("stamps");
    let name = file.to_str().expect("a path of text");
    let child = start(
        bad(&["run", "--on-start-append", name, "--on-stop-append", name])
            .env("NOTIFY_SOCKET", folder.path().join("n"))
            .env("RINGRIFT_UNIT", "thing"),
    );
    let pid = child.id() as i32;
    assert_eq!(heard(&socket), "READY=1");
    assert_eq!(end(child, libc::SIGTERM).code(), Some(0));
    let all = stamps(&file);
    assert_eq!(
        all.iter().map(|s| s.word.as_str()).collect::<Vec<_>>(),
        ["start", "stop"]
    );
    assert!(all.iter().all(|s| s.unit == "thing" && s.pid == pid) && all[0].ns < all[1].ns);
}

#[test]
fn ready_when_waits_for_its_file_and_obeys_term_meanwhile() {
    let (folder, socket) = notify_socket();
    let file = folder.path().join("go");
    let begin = || {
        start(
            bad(&["run", "--ready-when", file.to_str().expect("a path of text")])
                .env("NOTIFY_SOCKET", folder.path().join("n")),
        )
    };
    let child = begin();
    let pid = child.id() as i32;
    until("it takes signals", || {
        (processes::descriptor_links(pid)
            .iter()
            .any(|link| link.contains("signalfd")))
        .then_some(())
    });
    assert_eq!(end(child, libc::SIGTERM).code(), Some(0));
    let child = begin();
    std::fs::write(&file, "").expect("the folder takes files");
    assert_eq!(heard(&socket), "READY=1");
    assert_eq!(end(child, libc::SIGUSR1).code(), Some(3));
}

#[test]
fn ignore_term_goes_on_and_only_kill_ends_it() {
    let (folder, socket) = notify_socket();
    let mut child = start(bad(&["ignore-term"]).env("NOTIFY_SOCKET", folder.path().join("n")));
    assert_eq!(heard(&socket), "READY=1");
    processes::signal(child.id() as i32, libc::SIGTERM);
    harness::oracle::wait_exactly(std::time::Duration::from_millis(50));
    assert!(child.try_wait().expect("an own child").is_none());
    assert_eq!(end(child, libc::SIGKILL).signal(), Some(libc::SIGKILL));
}

#[test]
fn output_modes_write_exact_bytes() {
    let said = |words: &[&str]| bad(words).output().expect("it runs").stdout;
    assert_eq!(said(&["partial", "no newline"]), b"no newline");
    assert_eq!(said(&["partial", "killed", "--kill"]), b"killed");
    let mut all: Vec<u8> = (0..=255).collect();
    all.push(b'\n');
    assert_eq!(said(&["bytes", "all", "--exit"]), all);
    let mut child = start(&mut bad(&["longline", "3M"]));
    let mut line = vec![0; 3 * 1024 * 1024 + 1];
    child
        .stdout
        .take()
        .expect("a pipe")
        .read_exact(&mut line)
        .expect("it writes as much");
    assert!(line[..3 * 1024 * 1024].iter().all(|b| *b == b'x') && line.last() == Some(&b'\n'));
    end(child, libc::SIGKILL);
}

#[test]
fn setsid_child_survives_its_parent_and_term() {
    let (folder, socket) = notify_socket();
    let mark = folder.path().to_str().expect("a path of text");
    let child = start(
        bad(&["setsid-child"])
            .env("NOTIFY_SOCKET", folder.path().join("n"))
            .env("RR_TEST_NODE", mark),
    );
    assert_eq!(heard(&socket), "READY=1");
    let own = child.id() as i32;
    let left: Vec<Process> = processes::marked("RR_TEST_NODE", mark)
        .into_iter()
        .filter(|p| p.pid != own)
        .collect();
    assert_eq!(
        left.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(),
        ["rr-bad-setsid"]
    );
    assert_eq!(end(child, libc::SIGTERM).code(), Some(0));
    let orphan = Held::open(left[0].pid).expect("it survived");
    assert!(orphan.signal(libc::SIGTERM));
    assert!(!orphan.wait(std::time::Duration::from_millis(50)));
    assert!(orphan.signal(libc::SIGKILL) && orphan.wait(PATIENCE));
}

#[test]
fn daemonize_leaves_a_daemon_that_wrote_its_pid() {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("pid");
    let status = bad(&["daemonize", "--pid-file", file.to_str().expect("a path of text")])
        .stdout(Stdio::null())
        .status()
        .expect("it runs");
    assert_eq!(status.code(), Some(0));
    let pid: i32 = std::fs::read_to_string(file)
        .expect("a pid file")
        .trim()
        .parse()
        .expect("a pid");
    let daemon = Process::read(pid).expect("it lives");
    assert_eq!(daemon.name, "rr-bad-daemon");
    let held = Held::open(pid).expect("it lives");
    assert!(held.signal(libc::SIGTERM) && held.wait(PATIENCE));
}

#[test]
fn leak_pipe_ends_before_its_pipe_does() {
    let begun = std::time::Instant::now();
    let mut child = start(&mut bad(&["leak-pipe", "1"]));
    let mut pipe = child.stdout.take().expect("a pipe");
    assert_eq!(child.wait().expect("an own child").code(), Some(0));
    let mut text = String::new();
    pipe.read_to_string(&mut text).expect("it writes text");
    assert_eq!(text, "early\nlate\n");
    assert!(
        begun.elapsed() >= std::time::Duration::from_secs(1),
        "the pipe was not held"
    );
}

#[test]
fn notify_as_sends_what_it_says() {
    let said = |words: &[&str], count: usize| {
        let (folder, socket) = notify_socket();
        let child = start(bad(words).env("NOTIFY_SOCKET", folder.path().join("n")));
        let all: Vec<String> = (0..count).map(|_| heard(&socket)).collect();
        end(child, libc::SIGKILL);
        all
    };
    assert_eq!(
        said(&["notify-as", "stopping"], 3),
        ["READY=1", "STOPPING=1", "READY=1"]
    );
    assert_eq!(said(&["notify-as", "twice"], 2), ["READY=1", "READY=1"]);
    assert_eq!(said(&["notify-as", "dead"], 1), ["READY=1"]);
    let garbage = said(&["notify-as", "garbage"], 11);
    assert_eq!(
        (garbage[0].as_str(), garbage[1].len(), garbage[10].as_str()),
        ("", 65536, "READY=1")
    );
}

#[test]
fn env_dumps_what_it_was_given() {
    let (folder, socket) = notify_socket();
    let file = folder.path().join("dump");
    let child = start(
        bad(&["env"])
            .env("NOTIFY_SOCKET", folder.path().join("n"))
            .env("RR_DUMP", &file),
    );
    assert_eq!(heard(&socket), "READY=1");
    let dump: serde_json::Value =
        serde_json::from_slice(&std::fs::read(file).expect("a dump")).expect("it is JSON");
    assert_eq!(dump["pid"], child.id());
    assert_eq!(dump["fds"]["0"], "/dev/null");
    assert_eq!(dump["argv"][1], "env");
    end(child, libc::SIGTERM);
}

#[test]
fn unit_files_are_written_as_they_are_meant() {
    let text = Unit::command(&["/bin/x", "$A \"q\""])
        .requires(&["b"])
        .hooks("exec.start_pre", &[&["/bin/y"]]);
    let text = text.to_toml();
    assert!(
        text.starts_with("description = \"of a test\"\nrequires = [\"b\"]\n\n[exec]\n"),
        "{text}"
    );
    assert!(text.contains(r#"command = ["/bin/x", "$$A \"q\""]"#), "{text}");
    assert!(text.contains(r#"start_pre = [["/bin/y"]]"#), "{text}");
}

#[test]
fn count_numbers_its_lines_and_notes_what_it_wrote() {
    use std::io::BufRead;
    let folder = tempfile::tempdir().expect("there is room");
    let noted = folder.path().to_str().expect("a path of text");
    let mut child = start(
        bad(&["count", "1000", "--noted", noted, "--code", "7"])
            .env("RINGRIFT_UNIT", "thing")
            .env("RINGRIFT_INVOCATION_ID", "00f"),
    );
    let mut lines = std::io::BufReader::new(child.stdout.take().expect("it was asked for")).lines();
    for n in 1..=250 {
        let line = lines.next().expect("it goes on").expect("a pipe can be read");
        assert_eq!(line, format!("count thing 00f {n}"));
    }
    assert_eq!(end(child, libc::SIGTERM).code(), Some(7));
    let last = 250 + lines.count() as u64;
    let note = std::fs::read(folder.path().join("thing.00f")).expect("it made its note");
    assert_eq!(note, last.to_le_bytes());
}
