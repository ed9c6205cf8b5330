//! The stand-in as a supervisor sees it: signals, exits, lines and datagrams of the real program.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DEADLINE: Duration = Duration::from_secs(30);

struct StandIn {
    child: Child,
    output: BufReader<ChildStdout>,
    notify: UnixDatagram,
    _temp: tempfile::TempDir,
}

impl StandIn {
    fn start(args: &[&str], env: &[(&str, &str)]) -> Self {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("notify");
        let notify = UnixDatagram::bind(&path).expect("a socket");
        notify.set_read_timeout(Some(DEADLINE)).expect("set");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringriftd"))
            .args(["stand-in", "create_auto_sync"])
            .args(args)
            .env_remove("RINGRIFT_STAND_IN")
            .env("NOTIFY_SOCKET", &path)
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self {
            child,
            output,
            notify,
            _temp: temp,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("sent");
    }

    fn told(&self) -> String {
        let mut buffer = [0; 4096];
        let n = self.notify.recv(&mut buffer).expect("a datagram in time");
        String::from_utf8(buffer[..n].to_vec()).expect("text")
    }

    /// The first datagram with this line; how many came before it.
    fn told_until(&self, line: &str) -> usize {
        (0..)
            .find(|_| self.told().lines().any(|l| l == line))
            .expect("endless")
    }

    /// Everything told so far, without waiting.
    fn told_already(&self) -> Vec<String> {
        self.notify.set_nonblocking(true).expect("set");
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(n) = self.notify.recv(&mut buffer) {
            all.push(String::from_utf8(buffer[..n].to_vec()).expect("text"));
        }
        self.notify.set_nonblocking(false).expect("set");
        all
    }

    fn said_until(&mut self, part: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(
                self.output.read_line(&mut line).expect("read") > 0,
                "ended before {part:?}"
            );
            if line.contains(part) {
                return line;
            }
        }
    }

    fn end(&mut self) -> ExitStatus {
        self.child.wait().expect("waited")
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_becomes_ready_reports_and_stops_in_order() {
    let mut it = StandIn::start(&[], &[("RINGRIFT_HEALTH_INTERVAL_USEC", "20000")]);
    let ready = it.told();
    let lines: Vec<_> = ready.lines().collect();
    assert_eq!(lines[0], "READY=1");
    assert!(lines[1].starts_with("STATUS="), "{ready}");
    assert_eq!(lines[2], "X_RINGRIFT_HEALTH=healthy");
    let next = it.told();
    let metrics = next
        .lines()
        .find_map(|l| l.strip_prefix("X_RINGRIFT_METRICS="))
        .expect("metrics");
    let metrics: serde_json::Value = serde_json::from_str(metrics).expect("JSON");
    assert!(
        metrics
            .as_object()
            .expect("an object")
            .values()
            .all(serde_json::Value::is_number)
    );
    it.said_until("create_auto_sync: starting as pid");
    it.said_until("create_auto_sync: ready after");
    it.signal(Signal::SIGTERM);
    it.told_until("STOPPING=1");
    assert_eq!(it.end().code(), Some(0));
    it.said_until("stopping: SIGTERM");
    it.said_until("stopped");
}

#[test]
fn it_stops_on_sigint_and_before_it_is_ready() {
    let mut it = StandIn::start(&["--ready-after", "1h"], &[]);
    it.said_until("starting");
    it.signal(Signal::SIGINT);
    it.said_until("stopping: SIGINT");
    assert_eq!(it.end().code(), Some(0));
    assert_eq!(it.told_already(), ["STOPPING=1"]);
}

#[test]
fn it_beats_the_watchdog_twice_in_each_span_and_logs_now_and_then() {
    let began = Instant::now();
    let mut it = StandIn::start(&["--log-every", "30ms"], &[("WATCHDOG_USEC", "40000")]);
    for _ in 0..5 {
        it.told_until("WATCHDOG=1");
    }
    assert!(began.elapsed() >= Duration::from_millis(80));
    it.said_until("still here");
    it.said_until("still here");
}

#[test]
fn switches_come_from_the_environment_too() {
    let mut it = StandIn::start(&[], &[("RINGRIFT_STAND_IN", "--exit-after 50ms --exit-code 7")]);
    assert_eq!(it.end().code(), Some(7));
    it.said_until("--exit-after");
}

#[test]
fn it_ends_with_the_code_asked_for() {
    let mut it = StandIn::start(&["--exit-after", "300ms", "--exit-code", "0"], &[]);
    it.told_until_ready();
    assert_eq!(it.end().code(), Some(0));
}

impl StandIn {
    fn told_until_ready(&self) {
        assert_eq!(self.told_until("READY=1"), 0, "READY=1 comes first");
    }
}

#[test]
fn it_crashes_by_sigsegv() {
    let mut it = StandIn::start(&["--crash-after", "20ms"], &[]);
    assert_eq!(it.end().signal(), Some(libc::SIGSEGV));
}

#[test]
fn it_fails_to_start_without_being_ready() {
    let mut it = StandIn::start(&["--fail-start", "--exit-code", "3"], &[]);
    assert_eq!(it.end().code(), Some(3));
    assert_eq!(it.told_already(), Vec::<String>::new());
}

#[test]
fn it_never_says_ready_when_told_so() {
    let it = StandIn::start(&["--never-ready"], &[("WATCHDOG_USEC", "100000")]);
    // Longer than the longest time to readiness.
    let mut all: Vec<_> = (0..6).map(|_| it.told()).collect();
    it.signal(Signal::SIGTERM);
    all.extend((0..1).map(|_| it.told()));
    assert!(!all.iter().any(|t| t.contains("READY=1")), "{all:?}");
}

#[test]
fn it_ignores_term_but_not_kill() {
    let mut it = StandIn::start(&["--ignore-term"], &[]);
    it.told_until_ready();
    it.signal(Signal::SIGTERM);
    it.said_until("ignoring SIGTERM");
    it.signal(Signal::SIGINT);
    it.said_until("ignoring SIGINT");
    assert!(it.child.try_wait().expect("asked").is_none());
    it.signal(Signal::SIGKILL);
    assert_eq!(it.end().signal(), Some(libc::SIGKILL));
}

#[test]
fn it_takes_its_time_to_stop() {
    let mut it = StandIn::start(&["--stop-after", "150ms"], &[]);
    it.told_until_ready();
    let began = Instant::now();
    it.signal(Signal::SIGTERM);
    assert_eq!(it.end().code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert_eq!(it.told(), "STOPPING=1");
}

#[test]
fn it_turns_unhealthy() {
    let it = StandIn::start(
        &["--unhealthy-after", "300ms"],
        &[("RINGRIFT_HEALTH_INTERVAL_USEC", "50000")],
    );
    it.told_until_ready();
    assert!(it.told_until("X_RINGRIFT_HEALTH=unhealthy") > 0);
}

#[test]
fn it_hangs_but_can_be_stopped() {
    let mut it = StandIn::start(
        &["--hang-after", "150ms", "--log-every", "20ms"],
        &[("WATCHDOG_USEC", "40000")],
    );
    it.told_until("WATCHDOG=1");
    it.said_until("hanging from now on");
    it.told_already();
    it.notify
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("set");
    it.notify.recv(&mut [0; 64]).expect_err("silent for ten beats");
    it.signal(Signal::SIGTERM);
    assert_eq!(it.end().code(), Some(0));
}

#[test]
fn it_floods_as_fast_as_asked() {
    let began = Instant::now();
    let mut it = StandIn::start(&["--flood", "1000000"], &[]);
    it.said_until("starting");
    let mut bytes = vec![0; 500_000];
    it.output.read_exact(&mut bytes).expect("read");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}: faster than asked");
    assert!(bytes.split(|b| *b == b'\n').filter(|l| *l == [b'f'; 99]).count() > 4900);
}

#[test]
fn it_leaves_a_child_that_ignores_term_in_a_session_of_its_own() {
    let mut it = StandIn::start(&["--leave-child"], &[]);
    let line = it.said_until("left-behind: staying as pid ");
    let pid: i32 = line
        .trim()
        .rsplit(' ')
        .next()
        .expect("a word")
        .parse()
        .expect("a pid");
    let left = Pid::from_raw(pid);
    it.told_until_ready();
    assert_eq!(nix::unistd::getsid(Some(left)), nix::unistd::getpgid(Some(left)));
    assert_ne!(
        nix::unistd::getsid(Some(left)),
        nix::unistd::getsid(Some(it.pid()))
    );
    it.signal(Signal::SIGTERM);
    assert_eq!(it.end().code(), Some(0));
    kill(left, Signal::SIGTERM).expect("it is still there");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("still there");
    let blocked = status
        .lines()
        .find_map(|l| l.strip_prefix("SigBlk:"))
        .expect("SigBlk")
        .trim();
    let blocked = u64::from_str_radix(blocked, 16).expect("hex");
    assert!(blocked & 1 << (libc::SIGTERM - 1) != 0, "{status}");
    assert!(!status.contains("State:\tZ"), "{status}");
    kill(left, Signal::SIGKILL).expect("killed");
    // It held the pipe; now the pipe ends.
    let mut rest = String::new();
    it.output.read_to_string(&mut rest).expect("the end");
}

#[test]
fn it_sleeps_when_there_is_nothing_to_do() {
    let mut it = StandIn::start(&[], &[]);
    it.told_until_ready();
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", it.pid())).expect("status");
        let line = status
            .lines()
            .find(|l| l.starts_with("voluntary_ctxt_switches"))
            .expect("the count");
        (
            line.to_owned(),
            status
                .lines()
                .find(|l| l.starts_with("Threads"))
                .map(str::to_owned),
        )
    };
    it.notify
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("set");
    it.notify.recv(&mut [0; 64]).expect_err("nothing to tell"); // and time to go to sleep
    let before = switches();
    it.notify
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("set");
    it.notify
        .recv(&mut [0; 64])
        .expect_err("nothing to tell for a second");
    assert_eq!(switches(), before);
    assert_eq!(before.1.as_deref(), Some("Threads:\t1"));
    it.signal(Signal::SIGTERM);
    assert_eq!(it.end().code(), Some(0));
}

#[test]
fn a_wrong_switch_is_refused_with_usage() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringriftd"))
        .args(["stand-in", "x", "--exit-after", "5"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("5s"));
    let help = Command::new(env!("CARGO_BIN_EXE_ringriftd"))
        .args(["stand-in", "--help"])
        .output()
        .expect("run");
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("--leave-child"));
}
