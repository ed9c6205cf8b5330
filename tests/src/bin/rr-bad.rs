//! A daemon that misbehaves, one way for each mode: what the fault tests supervise. It decides nothing about right
//! or wrong; the tests do.
//!
//! `rr-bad MODE [ARG] [--option VALUE]…`. Every mode that lives on waits in poll(2) on a signalfd, ends with 0 on
//! TERM or INT, and with 3 (or `--usr1-code`) on USR1. Processes that it forks have names of their own, so that
//! a test which looks for leftovers can say which one it found.
//!
//! Options of every mode: `--on-start-append FILE` and `--on-stop-append FILE` add a line `UNIT PID NS WORD` (NS is
//! CLOCK_MONOTONIC); `--on-term-append FILE` adds one at each TERM, heeded or not; `--fail-if FILE` ends with 1 at once while FILE exists; `--ignore-term`; `--ready-when FILE`
//! delays readiness until FILE exists; `--ready-file FILE` is made after readiness was told; `--code N` is the exit
//! code on an orderly end; `--stop-delay S` waits between TERM and the end.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid};

/// What went wrong in here; the exit code is then 99, which no mode uses.
type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(why) => {
            eprintln!("rr-bad: {why}");
            std::process::exit(98);
        }
    };
    match run(&args) {
        Ok(code) => std::process::exit(code),
        Err(why) => {
            eprintln!("rr-bad {}: {why}", args.mode);
            std::process::exit(99);
        }
    }
}

/// The command line: a mode, words, and `--name value` pairs (`--name` alone for the switches).
struct Args {
    mode: String,
    words: Vec<String>,
    options: BTreeMap<String, String>,
}

/// Options without a value.
const SWITCHES: [&str; 5] = ["core", "ignore-term", "kill", "orphans", "exit"];

impl Args {
    fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = args.peekable();
        let mode = args.next().ok_or("no mode was given")?;
        let (mut words, mut options) = (Vec::new(), BTreeMap::new());
        while let Some(arg) = args.next() {
            match arg.strip_prefix("--") {
                None => words.push(arg),
                Some(switch) if SWITCHES.contains(&switch) => {
                    options.insert(switch.to_owned(), String::new());
                }
                Some(name) => {
                    let value = args.next().ok_or_else(|| format!("--{name} wants a value"))?;
                    options.insert(name.to_owned(), value);
                }
            }
        }
        Ok(Self { mode, words, options })
    }

    fn word(&self, n: usize) -> Result<&str, String> {
        self.words
            .get(n)
            .map(String::as_str)
            .ok_or_else(|| format!("{} wants more words", self.mode))
    }

    fn number(&self, n: usize) -> Fallible<i32> {
        Ok(self.word(n)?.parse()?)
    }

    fn seconds(&self, n: usize) -> Fallible<Duration> {
        Ok(Duration::try_from_secs_f64(self.word(n)?.parse()?)?)
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    fn has(&self, name: &str) -> bool {
        self.options.contains_key(name)
    }

    fn code(&self, name: &str, otherwise: i32) -> Fallible<i32> {
        self.option(name).map_or(Ok(otherwise), |text| Ok(text.parse()?))
    }
}

fn run(args: &Args) -> Fallible<i32> {
    if let Some(file) = args.option("on-start-append") {
        stamp(Path::new(file), "start")?;
    }
    if args
        .option("fail-if")
        .is_some_and(|file| Path::new(file).exists())
    {
        println!("failing because --fail-if says so");
        return Ok(1);
    }
    match args.mode.as_str() {
        // Ends.
        "exit" => args.number(0),
        "crash-loop" => args.code("code", 1),
        "sig" => die_by(args.number(0)?, args.has("core")),
        "partial" => {
            write_all(1, args.word(0)?.as_bytes())?;
            if args.has("kill") {
                die_by(libc::SIGKILL, false)
            } else {
                args.code("code", 0)
            }
        }
        "leak-pipe" => leak_pipe(args),
        "stamp" => {
            stamp(Path::new(args.word(0)?), args.word(1)?)?;
            args.code("code", 0)
        }
        "send" => {
            notify(args.word(0)?.as_bytes())?;
            Ok(0)
        }
        "daemonize" => daemonize(args),
        // Lives on, well-behaved but for one thing.
        "run" => Life::begin(args)?.ready()?.live(),
        "answers" => answers(args),
        "ignore-term" => Life::begin(args)?.deaf().ready()?.live(),
        "ready-never" => Life::begin(args)?.live(),
        "ready-after" => {
            let mut life = Life::begin(args)?;
            match life.wait(Some(args.seconds(0)?))? {
                Some(code) => Ok(code),
                None => life.ready()?.live(),
            }
        }
        "reloadable" => Life::begin(args)?.reloadable().ready()?.live(),
        "fd-ready" => {
            let life = Life::begin(args)?;
            write_all(args.number(0)?, b"\n")?;
            life.live()
        }
        "close-out" => {
            let life = Life::begin(args)?;
            close(1);
            close(2);
            life.ready()?.live()
        }
        "bytes" => {
            write_all(1, &(0..=255).collect::<Vec<u8>>())?;
            write_all(1, b"\n")?;
            if args.has("exit") {
                Ok(0)
            } else {
                Life::begin(args)?.ready()?.live()
            }
        }
        "longline" => {
            pour(size(args.word(0)?)?, &[b'x'; 65536])?;
            write_all(1, b"\n")?;
            Life::begin(args)?.ready()?.live()
        }
        "flood" => {
            let mut block = "flood ".repeat(170).into_bytes();
            block.push(b'\n');
            let life = Life::begin(args)?.ready()?;
            pour(size(args.word(0)?)?, &block)?;
            life.live()
        }
        "print" => {
            write_all(1, args.word(0)?.as_bytes())?;
            write_all(1, b"\n")?;
            if args.has("exit") {
                args.code("code", 0)
            } else {
                Life::begin(args)?.ready()?.live()
            }
        }
        "count" => count(args),
        "setsid-child" => {
            orphan("rr-bad-setsid", |life| life.deaf().live(), args)?;
            Life::begin(args)?.ready()?.live()
        }
        "forks" => forks(args),
        "notify-as" => notify_as(args),
        "env" => {
            dump()?;
            Life::begin(args)?.ready()?.live()
        }
        other => Err(format!("{other} is no mode").into()),
    }
}

/// The rest of a process's days: its signals come by a descriptor, so that nothing needs a handler or a sleep.
struct Life<'a> {
    args: &'a Args,
    signals: SignalFd,
    deaf: bool,
    reloads: bool,
}

impl<'a> Life<'a> {
    fn begin(args: &'a Args) -> Fallible<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1] {
            set.add(signal);
        }
        nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None)?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self {
            args,
            signals,
            deaf: args.has("ignore-term"),
            reloads: false,
        })
    }

    fn deaf(mut self) -> Self {
        self.deaf = true;
        self
    }

    fn reloadable(mut self) -> Self {
        self.reloads = true;
        self
    }

    /// Tells readiness, when there is somebody to tell; after the `--ready-when` file exists, if one was named. A
    /// signal that comes first ends the process.
    fn ready(mut self) -> Fallible<Self> {
        if let Some(file) = self.args.option("ready-when").map(PathBuf::from)
            && let Some(code) = self.wait_for_file(&file)?
        {
            std::process::exit(code);
        }
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            notify(b"READY=1")?;
            if let Some(text) = self.args.option("then-say") {
                notify(text.as_bytes())?;
            }
        }
        if let Some(file) = self.args.option("ready-file") {
            std::fs::write(file, "ready\n")?;
        }
        Ok(self)
    }

    fn live(mut self) -> Fallible<i32> {
        loop {
            if let Some(code) = self.wait(None)? {
                return Ok(code);
            }
        }
    }

    /// Waits for a signal that ends the process, and returns its code; `None` when the time is over first.
    fn wait(&mut self, time: Option<Duration>) -> Fallible<Option<i32>> {
        let until = time.map(|time| Instant::now() + time);
        loop {
            if !readable(self.signals.as_fd(), until)? {
                return Ok(None);
            }
            if let Some(code) = self.heed()? {
                return Ok(Some(code));
            }
        }
    }

    fn wait_for_file(&mut self, file: &Path) -> Fallible<Option<i32>> {
        let folder = file.parent().ok_or("the file has no folder")?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(folder, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        while !file.exists() {
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(inotify.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut fds, PollTimeout::NONE)?;
            let (signalled, changed) = (fds[0].any() == Some(true), fds[1].any() == Some(true));
            if signalled && let Some(code) = self.heed()? {
                return Ok(Some(code));
            }
            if changed {
                inotify.read_events()?;
            }
        }
        Ok(None)
    }

    /// Does what the signal that waits asks for; the code if that is to end.
    fn heed(&mut self) -> Fallible<Option<i32>> {
        let Some(info) = self.signals.read_signal()? else {
            return Ok(None);
        };
        let unit = |word: &str| -> Fallible<()> {
            if let Some(file) = self.args.option("on-stop-append") {
                stamp(Path::new(file), word)?;
            }
            Ok(())
        };
        let number = i32::try_from(info.ssi_signo)?;
        if number == libc::SIGTERM
            && let Some(file) = self.args.option("on-term-append")
        {
            stamp(Path::new(file), "term")?;
        }
        match number {
            libc::SIGHUP if self.reloads => {
                notify(format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_ns() / 1000).as_bytes())?;
                unit("reload")?;
                notify(b"READY=1")?;
                Ok(None)
            }
            libc::SIGUSR1 => Ok(Some(self.args.code("usr1-code", 3)?)),
            _ if self.deaf => Ok(None),
            libc::SIGHUP => Ok(Some(128 + libc::SIGHUP)),
            _ => {
                if let Some(seconds) = self.args.option("stop-delay") {
                    self.deaf = true;
                    self.wait(Some(Duration::try_from_secs_f64(seconds.parse()?)?))?;
                }
                if let Some(file) = self.args.option("on-stop-append") {
                    stamp(Path::new(file), "stop")?;
                }
                Ok(Some(self.args.code("code", 0)?))
            }
        }
    }
}

/// Answers each connection to the address as a well service does; while it is stopped by a signal, nobody does.
fn answers(args: &Args) -> Fallible<i32> {
    let listener = std::net::TcpListener::bind(args.word(0)?)?;
    let life = Life::begin(args)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream);
        }
    });
    life.ready()?.live()
}

/// A client that goes away meanwhile is none.
fn answer(mut stream: std::net::TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let _ = stream.read(&mut [0; 1024])?;
    stream.write_all(b"HTTP/1.1 204 Well\r\nConnection: close\r\n\r\n")
}

/// True when `fd` has something before `until`; false when the time is over.
fn readable(fd: std::os::fd::BorrowedFd<'_>, until: Option<Instant>) -> Fallible<bool> {
    loop {
        let time = match until {
            None => PollTimeout::NONE,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                PollTimeout::try_from(left.as_millis().min(1_000_000) as i32)?
            }
        };
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        match poll(&mut fds, time) {
            Ok(0) if until.is_some_and(|until| Instant::now() >= until) => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
    }
}

fn monotonic_ns() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}

/// Adds `UNIT PID NS WORD` in one write, so that lines of several processes never mix.
fn stamp(file: &Path, word: &str) -> io::Result<()> {
    let unit = std::env::var("RINGRIFT_UNIT").unwrap_or_else(|_| "-".into());
    let line = format!("{unit} {} {} {word}\n", std::process::id(), monotonic_ns());
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)?
        .write_all(line.as_bytes())
}

fn notify_socket() -> Fallible<(UnixDatagram, PathBuf)> {
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or("NOTIFY_SOCKET is not set")?;
    Ok((UnixDatagram::unbound()?, PathBuf::from(path)))
}

fn notify(text: &[u8]) -> Fallible<()> {
    let (socket, path) = notify_socket()?;
    socket.send_to(text, path)?;
    Ok(())
}

/// Dies by signal `number`; an error if that did not kill it.
fn die_by(number: i32, core: bool) -> Fallible<i32> {
    if core {
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE)?;
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, hard, hard)?;
    }
    // SAFETY: sigaction, sigprocmask and kill are called with valid, initialised arguments and on this process only;
    // nix's Signal cannot name the real-time signals that are wanted here.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        if number != libc::SIGKILL && number != libc::SIGSTOP {
            libc::signal(number, libc::SIG_DFL);
        }
        libc::kill(libc::getpid(), number);
    }
    Err(format!("signal {number} did not end this process").into())
}

fn close(fd: RawFd) {
    // SAFETY: nothing in this process uses descriptor 1 or 2 after its mode closed it.
    unsafe { libc::close(fd) };
}

fn write_all(fd: RawFd, mut bytes: &[u8]) -> Fallible<()> {
    while !bytes.is_empty() {
        // SAFETY: the pointer and the length are those of a live slice.
        let n = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        if n < 0 {
            return Err(io::Error::last_os_error().into());
        }
        bytes = &bytes[n as usize..];
    }
    Ok(())
}

/// Writes `total` bytes of `block`, over and over.
fn pour(total: u64, block: &[u8]) -> Fallible<()> {
    let mut left = total;
    while left > 0 {
        let n = left.min(block.len() as u64);
        write_all(1, &block[..n as usize])?;
        left -= n;
    }
    Ok(())
}

/// `64M`, `1G`, `100`.
fn size(text: &str) -> Fallible<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    Ok(digits.parse::<u64>()? << shift)
}

/// Forks a child that is called `name` and ends with what `child` returns.
fn fork(name: &str, child: impl FnOnce() -> Fallible<i32>) -> Fallible<Pid> {
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            if let Ok(name) = CString::new(name) {
                let _ = nix::sys::prctl::set_name(&name);
            }
            std::process::exit(child().unwrap_or(99));
        }
    }
}

/// Numbered lines `count UNIT INVOCATION N`, from 1 in each life, so many a second. After each write the last number is
/// noted in a file of the life's own below `--noted`, so that what was written is known whatever ends the process. Each
/// write is whole or not at all: it fits into PIPE_BUF.
fn count(args: &Args) -> Fallible<i32> {
    let a_second: u64 = args.word(0)?.parse()?;
    let name = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let (unit, invocation) = (name("RINGRIFT_UNIT")?, name("RINGRIFT_INVOCATION_ID")?);
    let noted = args
        .option("noted")
        .map(|folder| std::fs::File::create(Path::new(folder).join(format!("{unit}.{invocation}"))))
        .transpose()?;
    let mut life = Life::begin(args)?;
    // As many writes a second as lines, up to a hundred; then more lines a write.
    let writes = a_second.clamp(1, 100);
    let (pause, lines) = (
        Duration::from_micros(1_000_000 / writes),
        a_second.div_ceil(writes),
    );
    let mut n = 0;
    let mut block = Vec::new();
    let mut is_ready = false;
    loop {
        block.clear();
        for _ in 0..lines {
            n += 1;
            writeln!(block, "count {unit} {invocation} {n}")?;
        }
        if block.len() > libc::PIPE_BUF {
            return Err(format!("{a_second} lines a second do not fit into PIPE_BUF a write").into());
        }
        write_all(1, &block)?;
        if let Some(file) = &noted {
            std::os::unix::fs::FileExt::write_all_at(file, &u64::to_le_bytes(n), 0)?;
        }
        if !is_ready {
            life = life.ready()?;
            is_ready = true;
        }
        if let Some(code) = life.wait(Some(pause))? {
            return Ok(code);
        }
    }
}

/// A grandchild in a session of its own, whose parent has ended by the time this returns.
fn orphan(name: &str, life: impl FnOnce(Life<'_>) -> Fallible<i32>, args: &Args) -> Fallible<()> {
    let (mut told, tell) = io::pipe()?;
    let middle = fork("rr-bad-middle", || {
        nix::unistd::setsid()?;
        fork(name, || {
            let mine = Life::begin(args)?;
            (&tell).write_all(b".")?;
            drop(tell);
            life(mine)
        })?;
        Ok(0)
    })?;
    nix::sys::wait::waitpid(middle, None)?;
    told.read_exact(&mut [0])?;
    Ok(())
}

/// Ends at once while a child holds the log pipe for some seconds, and writes to it at the end.
fn leak_pipe(args: &Args) -> Fallible<i32> {
    let time = args.seconds(0)?;
    println!("early");
    fork("rr-bad-holder", || {
        let mut life = Life::begin(args)?.deaf();
        life.wait(Some(time))?;
        println!("late");
        Ok(0)
    })?;
    args.code("code", 0)
}

/// Leaves a daemon behind, the old way, and ends with 0 once its pid file is there.
fn daemonize(args: &Args) -> Fallible<i32> {
    let (mut told, tell) = io::pipe()?;
    let middle = fork("rr-bad-middle", || {
        nix::unistd::setsid()?;
        fork("rr-bad-daemon", || {
            let life = Life::begin(args)?;
            if let Some(file) = args.option("pid-file") {
                let claimed = args
                    .option("claim")
                    .map_or(std::process::id(), |pid| pid.parse().unwrap_or(0));
                std::fs::write(file, format!("{claimed}\n"))?;
            }
            (&tell).write_all(b".")?;
            drop(tell);
            life.live()
        })?;
        Ok(0)
    })?;
    nix::sys::wait::waitpid(middle, None)?;
    told.read_exact(&mut [0])?;
    args.code("code", 0)
}

/// N children that wait; with `--orphans` they belong to whoever takes orphans in.
fn forks(args: &Args) -> Fallible<i32> {
    let count = args.number(0)?;
    let spawn = || -> Fallible<()> {
        for _ in 0..count {
            fork("rr-bad-kid", || Life::begin(args)?.live())?;
        }
        Ok(())
    };
    if args.has("orphans") {
        let middle = fork("rr-bad-middle", || spawn().map(|()| 0))?;
        nix::sys::wait::waitpid(middle, None)?;
    } else {
        spawn()?;
    }
    Life::begin(args)?.ready()?.live()
}

/// Notifications from the wrong process, too many of them, or nonsense.
fn notify_as(args: &Args) -> Fallible<i32> {
    let life = Life::begin(args)?;
    match args.word(0)? {
        "child" => {
            fork("rr-bad-child", || Life::begin(args)?.ready()?.live())?;
        }
        "grandchild" => orphan("rr-bad-grandchild", |life| life.ready()?.live(), args)?,
        "dead" => {
            let child = fork("rr-bad-child", || notify(b"READY=1").map(|()| 0))?;
            nix::sys::wait::waitpid(child, None)?;
        }
        "twice" => {
            notify(b"READY=1")?;
            notify(b"READY=1")?;
        }
        "stopping" => {
            for word in ["READY=1", "STOPPING=1", "READY=1"] {
                notify(word.as_bytes())?;
            }
        }
        "status" => notify(format!("READY=1\nSTATUS={}", args.word(1)?).as_bytes())?,
        "storm" => {
            let (socket, path) = notify_socket()?;
            notify(b"READY=1")?;
            for n in 0..args.number(1)? {
                socket.send_to(format!("STATUS={n}").as_bytes(), &path)?;
            }
        }
        "garbage" => garbage()?,
        other => return Err(format!("notify-as {other} is unknown").into()),
    }
    life.live()
}

fn garbage() -> Fallible<()> {
    let (socket, path) = notify_socket()?;
    let big = vec![b'A'; 65536];
    for text in [
        &b""[..],
        &big,
        b"\0\0\0\0",
        b"READY",
        b"=1",
        b"READY=1\0",
        b"\xff\xfe=\xfd",
        b"FDSTORE=1",
    ] {
        socket.send_to(text, &path)?;
    }
    for attached in [1, 253] {
        send_fds(&socket, &path, attached)?;
    }
    notify(b"READY=1")
}

/// One datagram with `count` descriptors attached.
fn send_fds(socket: &UnixDatagram, path: &Path, count: usize) -> Fallible<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
    let null = std::fs::File::open("/dev/null")?;
    let fds = vec![null.as_raw_fd(); count];
    let address = UnixAddr::new(path)?;
    let text = [io::IoSlice::new(b"STATUS=with descriptors")];
    sendmsg(
        socket.as_raw_fd(),
        &text,
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        Some(&address),
    )?;
    Ok(())
}

/// What this process was given, as JSON into the file that RR_DUMP names.
fn dump() -> Fallible<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let mut fds = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        if let Ok(link) = std::fs::read_link(entry.path()) {
            fds.insert(
                entry.file_name().to_string_lossy().into_owned(),
                link.to_string_lossy().into_owned(),
            );
        }
    }
    // The listing itself held one descriptor of its own folder.
    fds.retain(|_, link| !link.ends_with("/fd"));
    let environ: BTreeMap<String, String> = std::env::vars_os()
        .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()))
        .collect();
    let cmdline = std::fs::read("/proc/self/cmdline")?;
    let argv: Vec<_> = cmdline
        .split(|b| *b == 0)
        .filter(|a| !a.is_empty())
        .map(|a| String::from_utf8_lossy(a))
        .collect();
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let nice = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(16))
        .map(str::to_owned);
    // keyctl(2): KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING, without making one.
    // SAFETY: three integers; nothing is read or written through them.
    let keyring = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
    let value = serde_json::json!({
        "keyring": keyring, "argv": argv, "cwd": std::env::current_dir()?, "environ": environ, "fds": fds, "limits": limits,
        "nice": nice, "oom_score_adj": std::fs::read_to_string("/proc/self/oom_score_adj")?.trim(),
        "pid": std::process::id(), "session": nix::unistd::getsid(None)?.as_raw(),
        "group": nix::unistd::getpgrp().as_raw(), "status": status,
        "cgroup": std::fs::read_to_string("/proc/self/cgroup")?,
    });
    let file = std::env::var_os("RR_DUMP").ok_or("RR_DUMP is not set")?;
    // Under another name first: a test that sees the file sees all of it.
    let mut unfinished = file.as_bytes().to_vec();
    unfinished.extend_from_slice(b".new");
    let unfinished = PathBuf::from(std::ffi::OsStr::from_bytes(&unfinished));
    std::fs::write(&unfinished, value.to_string())?;
    std::fs::rename(unfinished, file)?;
    Ok(())
}
