//! The real logger as a process, with the test in the place of its keeper, which holds what a keeper holds.

#![allow(dead_code)] // each file of tests takes what it needs

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
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

pub fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a pair")
}

pub fn pipe() -> (OwnedFd, OwnedFd) {
    let (read, write) = std::io::pipe().expect("a pipe");
    (read.into(), write.into())
}

pub fn pause(time: Duration) {
    let (_kept, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}

/// A small generator of numbers: the same ones each time.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What a keeper holds.
pub struct Keeper {
    pub temp: tempfile::TempDir,
    pub memory: OwnedFd,
    pub hold: (OwnedFd, OwnedFd),
    /// The read ends of the pipes, each with its launch and unit.
    pub pipes: Vec<(LaunchId, String, OwnedFd)>,
    /// `[log] max_size`.
    pub max_size: u64,
}

/// A logger that runs, and the links to it.
pub struct Running {
    pub child: Child,
    pub link: OwnedFd,
    _peer: OwnedFd,
}

impl Running {
    pub fn tell(&self, message: &ToLogger, fd: Option<&OwnedFd>) {
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
    pub fn hear(&self) -> Option<FromLogger> {
        let mut fds = [PollFd::new(self.link.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 60_000u16), Ok(1), "no message came");
        let mut buffer = vec![0; 64 * 1024];
        match recv(self.link.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) | Err(_) => None,
            Ok(n) => Some(proto::codec::decode(&buffer[..n]).expect("a message")),
        }
    }

    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }
}

impl Keeper {
    /// With so many pipes, two for each unit; also their write ends.
    pub fn new(pipes: u64) -> (Self, Vec<File>) {
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

    pub fn dir(&self) -> PathBuf {
        self.temp.path().join("log")
    }

    /// Starts a logger, by `wrapper` if there is one, and hands it every pipe.
    pub fn start(&self, wrapper: &[&str]) -> Running {
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
            let open = ToLogger::Open {
                id: *id,
                output,
                streams: vec![(id.invocation.0 % 2 == 0).then_some(Stream::Stderr)],
            };
            running.tell(&open, Some(read));
        }
        running
    }

    /// Every second unit's older files are packed.
    pub fn is_packed(&self, unit: &str) -> bool {
        unit.ends_with(['0', '2', '4', '6', '8'])
    }

    /// The last logger packs what is to be packed.
    pub fn wait_until_packed(&self) {
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
    pub fn end(&self) {
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
    pub fn check(&self, expected: &[Vec<u8>]) {
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

pub fn names_of(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("listed");
    entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect()
}

pub fn bytes_of(dir: &Path, unit: &str, life: u64) -> Vec<u8> {
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
