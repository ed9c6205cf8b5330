//! The real logger, killed by SIGKILL: at random moments under a load, and at chosen system calls. The test plays the
//! keeper, and holds what a keeper holds.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair,
};
use proto::log::Stream;
use proto::reply::LineEnd;
use ringriftd::ids::{Invocation, LaunchId};
use ringriftd::keeper::wire::{FromLogger, LogKeep, Output, ToLogger};
use ringriftd::logger::record;

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a pair")
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = std::io::pipe().expect("a pipe");
    (read.into(), write.into())
}

fn pause(time: Duration) {
    let (_kept, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}

/// A small generator of numbers: the same ones each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What a keeper holds.
struct Keeper {
    temp: tempfile::TempDir,
    memory: OwnedFd,
    hold: (OwnedFd, OwnedFd),
    /// The read ends of the pipes, each with its launch and unit.
    pipes: Vec<(LaunchId, String, OwnedFd)>,
    /// `[log] max_size`.
    max_size: u64,
}

/// A logger that runs, and the links to it.
struct Running {
    child: Child,
    link: OwnedFd,
    _peer: OwnedFd,
}

impl Running {
    fn tell(&self, message: &ToLogger, fd: Option<&OwnedFd>) {
        let bytes = proto::codec::encode(message).expect("encoded");
        let fds = fd.map(|fd| [fd.as_raw_fd()]);
        let control: Vec<_> = fds.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
        let parts = [std::io::IoSlice::new(&bytes)];
        // It may be dead already.
        let _ = sendmsg::<()>(
            self.link.as_raw_fd(),
            &parts,
            &control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
    }

    /// None: it is dead.
    fn hear(&self) -> Option<FromLogger> {
        let mut fds = [PollFd::new(self.link.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 60_000u16), Ok(1), "no message came");
        let mut buffer = vec![0; 64 * 1024];
        match recv(self.link.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) | Err(_) => None,
            Ok(n) => Some(proto::codec::decode(&buffer[..n]).expect("a message")),
        }
    }

    fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }
}

impl Keeper {
    /// With so many pipes, two for each unit; also their write ends.
    fn new(pipes: u64) -> (Self, Vec<File>) {
        let (pipes, ends) = (1..=pipes)
            .map(|life| {
                let (read, write) = pipe();
                let id = LaunchId::main(Invocation(life));
                ((id, format!("u{}", life / 2), read), File::from(write))
            })
            .unzip();
        let keeper = Self {
            temp: tempfile::tempdir().expect("a folder"),
            memory: memfd_create(c"logger", MFdFlags::MFD_CLOEXEC).expect("a memfd"),
            hold: pipe(),
            pipes,
            max_size: 256 << 10,
        };
        (keeper, ends)
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("log")
    }

    /// Starts a logger, by `wrapper` if there is one, and hands it every pipe.
    fn start(&self, wrapper: &[&str]) -> Running {
        let (link, theirs) = pair();
        let (ours, peer) = pair();
        let program = env!("CARGO_BIN_EXE_ringriftd");
        let words = [wrapper, &[program, "logger", "--log-dir"]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(self.dir());
        // First where they are in nobody's way.
        let given = [&theirs, &peer, &self.memory, &self.hold.0, &self.hold.1]
            .map(|fd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(200)).expect("a descriptor"));
        let move_down = move || {
            for (number, fd) in (3..).zip(given) {
                // SAFETY: plain numbers; after fork(2) dup2(2) may be called.
                if unsafe { libc::dup2(fd, number) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: what runs after fork(2) only calls dup2(2).
        unsafe { command.pre_exec(move_down) };
        let child = command.spawn().expect("started");
        for fd in given {
            nix::unistd::close(fd).expect("closed");
        }
        let running = Running {
            child,
            link,
            _peer: ours,
        };
        for (id, unit, read) in &self.pipes {
            let output = Output {
                unit: unit.clone(),
                max_size: self.max_size,
                max_files: 1000,
                drain_ms: 60_000,
                keep: LogKeep {
                    is_packed: self.is_packed(unit),
                    ..LogKeep::default()
                },
                read: Default::default(),
            };
            let streams = vec![(id.invocation.0 % 2 == 0).then_some(Stream::Stderr)];
            let open = ToLogger::Open {
                id: *id,
                output,
                streams,
            };
            running.tell(&open, Some(read));
        }
        running
    }

    /// Every second unit's older files are packed.
    fn is_packed(&self, unit: &str) -> bool {
        unit.ends_with(['0', '2', '4', '6', '8'])
    }

    /// The last logger packs what is to be packed.
    fn wait_until_packed(&self) {
        let is_left = |name: &str| {
            name.ends_with(".packing")
                || name
                    .split_once(".log.")
                    .is_some_and(|(unit, index)| self.is_packed(unit) && !index.ends_with(".zst"))
        };
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let names = names_of(&self.dir());
            if !names.iter().any(|name| is_left(name)) {
                assert!(
                    names.iter().any(|name| name.ends_with(".zst")),
                    "nothing was packed"
                );
                return;
            }
            assert!(Instant::now() < deadline, "not packed: {names:?}");
            pause(Duration::from_millis(10));
        }
    }

    /// The last logger reads all to the end.
    fn end(&self) {
        let mut last = self.start(&[]);
        let mut closed = 0;
        while closed < self.pipes.len() {
            match last.hear().expect("it lives") {
                FromLogger::Closed { .. } => closed += 1,
                FromLogger::Ready => {}
            }
        }
        last.tell(&ToLogger::End, None);
        assert!(last.child.wait().expect("reaped").success());
    }

    /// Every byte of every launch stands in its unit's files, once and in order, in records of its own life.
    fn check(&self, expected: &[Vec<u8>]) {
        for ((id, unit, _), expected) in self.pipes.iter().zip(expected) {
            let found = bytes_of(&self.dir(), unit, id.invocation.0);
            let same = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
            let around = |all: &[u8]| {
                let from = same.saturating_sub(40);
                all[from..all.len().min(same + 40)].escape_ascii().to_string()
            };
            assert!(
                &found == expected,
                "launch {id}: {} bytes, not {}; at {same}: {} instead of {}",
                found.len(),
                expected.len(),
                around(&found),
                around(expected)
            );
        }
    }
}

fn names_of(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("listed");
    entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect()
}

fn bytes_of(dir: &Path, unit: &str, life: u64) -> Vec<u8> {
    let mut all = Vec::new();
    for index in (0..1000).rev() {
        let name = match index {
            0 => format!("{unit}.log"),
            _ => format!("{unit}.log.{index}"),
        };
        // One that is killed between two names leaves both forms for a moment: they are the same text.
        let text = std::fs::read(dir.join(&name)).or_else(|_| {
            let packed = std::fs::File::open(dir.join(format!("{name}.zst")))?;
            zstd::decode_all(packed)
        });
        let Ok(text) = text else { continue };
        for line in text.split_inclusive(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\n").expect("a whole record");
            let record = record::parse(line).unwrap_or_else(|| panic!("no record: {}", line.escape_ascii()));
            if record.invocation == life {
                all.extend(record.message);
                all.extend(if record.end == LineEnd::Whole {
                    &b"\n"[..]
                } else {
                    b""
                });
            }
        }
    }
    all
}

/// Numbered lines in pieces, until told to stop or `most` bytes. Returns what was written.
fn write_lines(mut pipe: File, seed: u64, most: usize, is_over: &AtomicBool) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let mut all = Vec::new();
    let mut waiting = Vec::new();
    let mut n = 0u64;
    while !is_over.load(Ordering::Relaxed) && all.len() < most {
        // Now and then one that is too long for one record.
        let width = match numbers.below(200) {
            0 => 40_000,
            _ => numbers.below(120) as usize,
        };
        waiting.extend(format!("{seed} {n:0width$}\n").into_bytes());
        n += 1;
        let piece = numbers.below(4000) as usize;
        if waiting.len() > piece {
            pipe.write_all(&waiting[..piece]).expect("written");
            all.extend(waiting.drain(..piece));
            // Most are quiet now and then, two flood.
            if seed > 2 {
                pause(Duration::from_millis(numbers.below(8)));
            }
        }
    }
    all
}

#[test]
fn no_line_is_lost_or_doubled_by_a_hundred_kills_at_random_moments() {
    const KILLS: usize = 120;
    let (keeper, ends) = Keeper::new(20);
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (1..)
        .zip(ends)
        .map(|(seed, end)| {
            let is_over = is_over.clone();
            std::thread::spawn(move || write_lines(end, seed, 6 << 20, &is_over))
        })
        .collect();
    let mut numbers = Numbers(0x7269_6e67);
    for _ in 0..KILLS {
        let logger = keeper.start(&[]);
        // Some die before they are ready.
        if numbers.below(8) > 0 {
            assert_eq!(logger.hear(), Some(FromLogger::Ready));
            pause(Duration::from_micros(numbers.below(12_000)));
        }
        logger.kill();
    }
    is_over.store(true, Ordering::Relaxed);
    let last = keeper.start(&[]);
    let expected: Vec<_> = writers.into_iter().map(|w| w.join().expect("no panic")).collect();
    keeper.wait_until_packed();
    last.kill();
    keeper.end();
    keeper.check(&expected);
    assert!(
        expected.iter().all(|all| all.len() > 10_000),
        "too little was written to prove anything"
    );
}

/// Killed as it enters the n-th call of each kind that moves or writes something.
#[test]
fn no_line_is_lost_or_doubled_by_a_kill_at_any_system_call() {
    let has_strace = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("strace").is_file()));
    if !has_strace {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "cannot skip in CI: needs strace"
        );
        eprintln!("SKIPPED: no_line_is_lost_or_doubled_by_a_kill_at_any_system_call needs strace");
        return;
    }
    let mut numbers = Numbers(0x7269_6674);
    let mut killed = 0;
    for call in [
        "tee",
        "write",
        "splice",
        "ioctl",
        "pwrite64",
        "read",
        "ftruncate",
        "epoll_wait",
        "fsync",
        "/^renameat",
        "/^linkat",
        "/^unlinkat",
    ] {
        // The first of each kind, and some of the later ones.
        let later: Vec<_> = (0..4).map(|_| 5 + numbers.below(20)).collect();
        for when in (1..5).chain(later) {
            let (mut keeper, mut ends) = Keeper::new(4);
            keeper.max_size = 8 << 10;
            let mut expected = vec![Vec::new(); ends.len()];
            for round in 0..2 {
                for (n, (end, all)) in ends.iter_mut().zip(&mut expected).enumerate() {
                    let mut text = Vec::new();
                    for line in 0..200 {
                        let width = 1 + numbers.below(150) as usize;
                        text.extend(format!("{round}.{n}.{line} {line:0width$}\n").into_bytes());
                    }
                    text.extend(b"begun");
                    end.write_all(&text).expect("written");
                    all.extend(text);
                }
                if round == 0 {
                    let inject = format!("inject={call}:signal=KILL:when={when}");
                    let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
                    let mut logger = keeper.start(&words);
                    logger.tell(&ToLogger::End, None);
                    while logger.hear().is_some() {}
                    let status = logger.child.wait().expect("reaped");
                    if status.success() {
                        // It made fewer such calls, and has written `begun` as a last line, which it is not.
                        break;
                    }
                    killed += 1;
                }
            }
            drop(ends);
            keeper.end();
            keeper.check(&expected);
        }
    }
    assert!(killed > 20, "strace killed only {killed} loggers");
}

#[test]
fn a_logger_without_what_the_keeper_holds_refuses_to_start() {
    let temp = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_ringriftd"))
        .args(["logger", "--log-dir"])
        .arg(temp.path().join("log"))
        .output()
        .expect("started");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("descriptor 3 is missing; only the keeper starts a logger"),
        "{text}"
    );
    assert!(!temp.path().join("log").exists());
}
