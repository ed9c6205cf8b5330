//! The stand-in: what a unit runs where no RingRift checkout is there. It behaves like one of RingRift's daemons as
//! seen from outside (readiness, log lines, watchdog, health, numbers, an orderly stop) and does no work. Its switches
//! make it misbehave, for demonstrations and for tests of the supervisor.
//!
//! Deliberately small: one thread, no runtime, asleep but for its timers; a node runs 78 of them.
//!
//! Read first: [`Args`] and [`run`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use clap::Parser;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

/// The environment variable that adds switches, so that a unit's `env` can choose them.
pub const SWITCHES: &str = "RINGRIFT_STAND_IN";

const HELP: &str = "Durations are written as in unit files: 200ms, 5s, 2m, 1h. The environment variable \
RINGRIFT_STAND_IN adds switches, for example RINGRIFT_STAND_IN=\"--crash-after 5s\"; they are read after those of \
the command line and replace them.";

/// The command line of `ringriftd stand-in`.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ringriftd stand-in",
    about = "Behaves like a RingRift daemon where no RingRift checkout is there",
    after_help = HELP,
    args_override_self = true
)]
pub struct Args {
    /// What it stands in for, such as create_auto_sync
    #[arg(default_value = "stand-in")]
    pub name: String,
    /// Taken for the real runner's sake, whose switch it is; a stand-in stays in any case
    #[arg(long)]
    pub linger: bool,
    /// When it becomes ready; else 20 to 200 ms, always the same for a name
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub ready_after: Option<Duration>,
    /// How often it logs a line
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub log_every: Duration,
    /// Misbehave: end by itself after this time, with --exit-code
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub exit_after: Option<Duration>,
    /// The exit code for --exit-after and --fail-start
    #[arg(long, value_name = "CODE", default_value_t = 1)]
    pub exit_code: u8,
    /// Misbehave: die by SIGSEGV after this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub crash_after: Option<Duration>,
    /// Misbehave: run, but never say READY=1
    #[arg(long)]
    pub never_ready: bool,
    /// Misbehave: say what TERM and INT ask for, and go on
    #[arg(long)]
    pub ignore_term: bool,
    /// Misbehave: take this long to stop
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub stop_after: Option<Duration>,
    /// Misbehave: report unhealthy from this time on
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub unhealthy_after: Option<Duration>,
    /// Misbehave: hang from this time on: no watchdog, no reports, no lines (a signal still ends it)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub hang_after: Option<Duration>,
    /// Misbehave: write so many bytes of log lines a second
    #[arg(long, value_name = "BYTES_PER_S", value_parser = clap::value_parser!(u64).range(1..))]
    pub flood: Option<u64>,
    /// Misbehave: leave a grandchild in a session of its own that ignores TERM
    #[arg(long)]
    pub leave_child: bool,
    /// Misbehave: fail at once, before being ready, with --exit-code
    #[arg(long)]
    pub fail_start: bool,
    /// The grandchild of --leave-child itself
    #[arg(long, hide = true)]
    pub grandchild: bool,
}

impl Args {
    /// Reads the arguments (without the program and the role) and the variable [`SWITCHES`]. Fails with clap's own
    /// words, which for `--help` are the help.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let more = std::env::var(SWITCHES).unwrap_or_default();
        let words = std::iter::once(OsString::from("ringriftd stand-in"))
            .chain(args)
            .chain(more.split_whitespace().map(OsString::from));
        Self::try_parse_from(words)
    }
}

/// A duration as in unit files: a whole number and `ms`, `s`, `m` or `h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a whole number with its unit: 200ms, 5s, 2m or 1h".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "write a whole number with its unit, such as 5s".to_owned())?;
    let time = number.checked_mul(factor).map(Duration::from_millis);
    time.filter(|t| *t <= crate::limits::DURATION_MAX)
        .ok_or_else(|| "that is more than 366 days".to_owned())
}

/// The role: runs until it is told to stop, or until a switch ends it. Returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::read(args) {
        Ok(args) => args,
        Err(e) => {
            let _ = e.print();
            return u8::try_from(e.exit_code()).unwrap_or(2);
        }
    };
    let result = if args.grandchild {
        be_left_behind(&args.name)
    } else {
        StandIn::new(args).and_then(StandIn::run)
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("cannot run the stand-in: {}", e.desc());
            1
        }
    }
}

/// What happens at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Ready,
    Log,
    Watchdog,
    Report,
    Flood,
    Unhealthy,
    Hang,
    Crash,
    Exit,
    /// The end of a slow stop.
    Stopped,
}

struct StandIn {
    args: Args,
    signals: SignalFd,
    notify: Option<Notify>,
    began: Instant,
    times: BTreeMap<Due, Instant>,
    watchdog: Option<Duration>,
    report_every: Duration,
    is_healthy: bool,
    is_ready: bool,
    lines: u64,
}

impl StandIn {
    fn new(args: Args) -> nix::Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.add(Signal::SIGINT);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let micros = |name: &str| {
            let value = std::env::var(name).ok()?.parse().ok()?;
            (value > 0).then(|| Duration::from_micros(value))
        };
        Ok(Self {
            signals,
            notify: Notify::from_env(),
            began: Instant::now(),
            times: BTreeMap::new(),
            // Twice in each span, as sd_watchdog_enabled(3) recommends.
            watchdog: micros("WATCHDOG_USEC").map(|span| span / 2),
            report_every: micros("RINGRIFT_HEALTH_INTERVAL_USEC").unwrap_or(crate::limits::HEALTH_INTERVAL),
            is_healthy: true,
            is_ready: false,
            lines: 0,
            args,
        })
    }

    fn run(mut self) -> nix::Result<u8> {
        if self.args.leave_child {
            self.leave_child();
        }
        self.say(format_args!(
            "starting as pid {} (a stand-in: no RingRift is here)",
            std::process::id()
        ));
        if self.args.fail_start {
            self.say(format_args!("cannot start: --fail-start"));
            return Ok(self.args.exit_code);
        }
        self.plan();
        loop {
            let now = Instant::now();
            let next = self
                .times
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(due, at)| (*due, *at));
            if let Some((due, at)) = next
                && at <= now
            {
                self.times.remove(&due);
                if let Some(code) = self.on_time(due, now)? {
                    return Ok(code);
                }
                continue;
            }
            let wait = next.map(|(_, at)| TimeSpec::from(at.saturating_duration_since(now)));
            let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            match ppoll(&mut fds, wait, None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
            while let Some(info) = self.signals.read_signal()? {
                if let Some(code) = self.on_signal(info.ssi_signo) {
                    return Ok(code);
                }
            }
        }
    }

    fn plan(&mut self) {
        let args = &self.args;
        let ready = (!args.never_ready).then(|| args.ready_after.unwrap_or_else(|| ready_time(&args.name)));
        let plans = [
            (Due::Ready, ready),
            (Due::Log, Some(args.log_every)),
            (Due::Watchdog, self.watchdog),
            (Due::Flood, args.flood.map(|_| Duration::ZERO)),
            (Due::Unhealthy, args.unhealthy_after),
            (Due::Hang, args.hang_after),
            (Due::Crash, args.crash_after),
            (Due::Exit, args.exit_after),
        ];
        for (due, after) in plans {
            if let Some(after) = after {
                self.times.insert(due, self.began + after);
            }
        }
    }

    /// Some: the exit code.
    fn on_time(&mut self, due: Due, now: Instant) -> nix::Result<Option<u8>> {
        match due {
            Due::Ready => {
                self.is_ready = true;
                let after = self.began.elapsed().as_millis();
                self.say(format_args!("ready after {after} ms"));
                let state = format!(
                    "READY=1\nSTATUS=standing in for {}\n{}",
                    self.args.name,
                    self.report()
                );
                self.notify(&state);
                self.times.insert(Due::Report, now + self.report_every);
            }
            Due::Log => {
                let up = self.began.elapsed().as_secs();
                self.say(format_args!("still here after {up} s"));
                self.times
                    .insert(Due::Log, now + self.args.log_every.max(Duration::from_millis(1)));
            }
            Due::Watchdog => {
                self.notify("WATCHDOG=1");
                if let Some(every) = self.watchdog {
                    self.times.insert(Due::Watchdog, now + every);
                }
            }
            Due::Report => {
                let report = self.report();
                self.notify(&report);
                self.times.insert(Due::Report, now + self.report_every);
            }
            Due::Flood => self.flood(now),
            Due::Unhealthy => {
                self.is_healthy = false;
                self.say(format_args!("unhealthy from now on: --unhealthy-after"));
                if self.is_ready {
                    let report = self.report();
                    self.notify(&report);
                }
            }
            Due::Hang => {
                self.say(format_args!("hanging from now on: --hang-after"));
                self.times.clear();
            }
            Due::Crash => {
                self.say(format_args!("crashing: --crash-after"));
                crash()?;
            }
            Due::Exit => {
                let code = self.args.exit_code;
                self.say(format_args!("ending with code {code}: --exit-after"));
                return Ok(Some(code));
            }
            Due::Stopped => {
                self.say(format_args!("stopped"));
                return Ok(Some(0));
            }
        }
        Ok(None)
    }

    /// Some: the exit code.
    fn on_signal(&mut self, number: u32) -> Option<u8> {
        let name = if number == Signal::SIGINT as u32 {
            "SIGINT"
        } else {
            "SIGTERM"
        };
        if self.args.ignore_term {
            self.say(format_args!("ignoring {name}: --ignore-term"));
            return None;
        }
        if self.times.contains_key(&Due::Stopped) {
            self.say(format_args!("{name} again; still stopping"));
            return None;
        }
        self.say(format_args!("stopping: {name}"));
        self.notify("STOPPING=1");
        match self.args.stop_after {
            None => {
                self.say(format_args!("stopped"));
                Some(0)
            }
            Some(after) => {
                self.say(format_args!("this takes {} ms: --stop-after", after.as_millis()));
                self.times.retain(|due, _| *due == Due::Watchdog);
                self.times.insert(Due::Stopped, Instant::now() + after);
                None
            }
        }
    }

    fn report(&self) -> String {
        let health = if self.is_healthy { "healthy" } else { "unhealthy" };
        format!(
            "X_RINGRIFT_HEALTH={health}\nX_RINGRIFT_METRICS={{\"uptime_seconds\": {}, \"lines\": {}}}",
            self.began.elapsed().as_secs(),
            self.lines
        )
    }

    /// A tenth of a second's worth of lines. A full pipe holds it up, as it would any daemon.
    fn flood(&mut self, now: Instant) {
        let Some(rate) = self.args.flood else { return };
        let mut left = usize::try_from(rate.div_ceil(10)).unwrap_or(usize::MAX);
        let line = [b'f'; 99];
        let mut out = std::io::stdout().lock();
        while left > 0 {
            let part = left.min(line.len() + 1);
            let mut bytes = line[..part - 1].to_vec();
            bytes.push(b'\n');
            if out.write_all(&bytes).is_err() {
                break;
            }
            left -= part;
            self.lines += 1;
        }
        self.times.insert(Due::Flood, now + Duration::from_millis(100));
    }

    /// A line of its log. Its reader's death is no reason to die.
    fn say(&mut self, text: std::fmt::Arguments<'_>) {
        let mut line = String::new();
        let _ = writeln!(line, "{}: {text}", self.args.name);
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        self.lines += 1;
    }

    fn notify(&mut self, state: &str) {
        if let Some(notify) = &self.notify {
            notify.send(state);
        }
    }

    /// Through a child that ends at once, so that the one left behind is nobody's.
    fn leave_child(&mut self) {
        match start_left_behind(BETWEEN).and_then(|mut child| child.wait()) {
            Ok(_) => self.say(format_args!("left a child behind: --leave-child")),
            Err(e) => self.say(format_args!("cannot leave a child behind: {e}")),
        }
    }
}

/// The name under which the child of `--leave-child` runs, whose only job is to end.
const BETWEEN: &str = "between";
/// The name of the one that stays.
const LEFT_BEHIND: &str = "left-behind";

fn start_left_behind(name: &str) -> std::io::Result<std::process::Child> {
    std::process::Command::new("/proc/self/exe")
        .args(["stand-in", "--grandchild", name])
        .env_remove(SWITCHES)
        .env_remove("NOTIFY_SOCKET")
        .stdin(std::process::Stdio::null())
        .spawn()
}

/// A process in a session of its own that holds its parent's output open and obeys only SIGKILL.
fn be_left_behind(name: &str) -> nix::Result<u8> {
    let mut mask = SigSet::all();
    mask.remove(Signal::SIGKILL);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    nix::unistd::setsid()?;
    if name == BETWEEN {
        return Ok(u8::from(start_left_behind(LEFT_BEHIND).is_err()));
    }
    println!("{name}: staying as pid {}", std::process::id());
    loop {
        match ppoll(&mut [], None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Dies by SIGSEGV. Rust's own handler takes the first one for a stack overflow that it is not, restores the default
/// and returns; the second one kills.
fn crash() -> nix::Result<()> {
    raise(Signal::SIGSEGV)?;
    raise(Signal::SIGSEGV)
}

/// When a daemon of this name becomes ready: 20 to 200 ms, spread by FNV-1a, always the same.
fn ready_time(name: &str) -> Duration {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Duration::from_millis(20 + (hash >> 16) % 181)
}

/// The socket that NOTIFY_SOCKET names (sd_notify(3)).
struct Notify {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Notify {
    fn from_env() -> Option<Self> {
        let name = std::env::var_os("NOTIFY_SOCKET")?;
        let bytes = name.as_encoded_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&name),
        };
        let socket = UnixDatagram::unbound().ok()?;
        // A supervisor that does not listen must not make a daemon hang.
        socket.set_write_timeout(Some(NOTIFY_PATIENCE)).ok()?;
        Some(Self {
            socket,
            address: address.ok()?,
        })
    }

    /// Nobody need listen: then it is lost, as sd_notify(3) says.
    fn send(&self, state: &str) {
        let _ = self.socket.send_to_addr(state.as_bytes(), &self.address);
    }
}

/// How long a datagram may wait for a supervisor that is busy.
const NOTIFY_PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn durations_are_those_of_unit_files() {
        for (text, ms) in [
            ("0s", 0),
            ("200ms", 200),
            ("5s", 5000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "1.5s",
            "5d",
            "99999999999999999999s",
            "9999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn readiness_is_spread_and_always_the_same() {
        let names: Vec<_> = (0..78).map(|n| format!("create_daemon_{n}")).collect();
        let times: std::collections::BTreeSet<_> = names.iter().map(|n| ready_time(n)).collect();
        let within = Duration::from_millis(20)..=Duration::from_millis(200);
        assert!(times.iter().all(|t| within.contains(t)));
        assert!(times.len() > 30, "{} times", times.len());
        assert_eq!(ready_time("create_auto_sync"), ready_time("create_auto_sync"));
    }

    #[test]
    fn every_switch_is_explained() {
        Args::command().debug_assert();
        let help = Args::command().render_long_help().to_string();
        for switch in [
            "--ready-after",
            "--log-every",
            "--exit-after",
            "--exit-code",
            "--crash-after",
            "--never-ready",
            "--ignore-term",
            "--stop-after",
            "--unhealthy-after",
            "--hang-after",
            "--flood",
            "--leave-child",
            "--fail-start",
            "RINGRIFT_STAND_IN",
        ] {
            assert!(help.contains(switch), "{switch}");
        }
    }
}
