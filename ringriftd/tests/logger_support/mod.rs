//! A logger in a thread, with the test at the keeper's and the manager's end of its links.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, setsockopt, socketpair,
    sockopt,
};
use proto::frame::Answer;
use proto::reply::{LineEnd, LogLine, Reply};
use proto::request::LogFilter;
use ringriftd::ids::{Invocation, LaunchId};
use ringriftd::keeper::wire::{FromLogger, LogOf, LogQuery, LogTail, LogWord, Output, ToLogger};
use ringriftd::logger::{Given, record, serve};
use ringriftd::spec::Parse;

pub const DEADLINE: Duration = Duration::from_secs(60);
pub const LOGGER: &str = "logger-in-test";

pub fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .expect("a pair")
}

pub fn tell<T: serde::Serialize>(link: &OwnedFd, message: &T, fd: Option<&OwnedFd>) {
    let bytes = proto::codec::encode(message).expect("encoded");
    let fds = fd.map(|fd| [fd.as_raw_fd()]);
    let control: Vec<_> = fds.iter().map(|fds| ControlMessage::ScmRights(fds)).collect();
    let parts = [std::io::IoSlice::new(&bytes)];
    sendmsg::<()>(link.as_raw_fd(), &parts, &control, MsgFlags::empty(), None).expect("sent");
}

pub fn hear<T: serde::de::DeserializeOwned>(link: &OwnedFd) -> T {
    let mut fds = [PollFd::new(link.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, 60_000u16), Ok(1), "no message came");
    let mut buffer = vec![0; 256 * 1024];
    let n = recv(link.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("received");
    proto::codec::decode(&buffer[..n]).expect("a message")
}

/// What a keeper holds for its logger: a memfd, and a pipe.
pub struct Held {
    pub memory: OwnedFd,
    pub hold: [OwnedFd; 2],
}

impl Held {
    pub fn new() -> Self {
        let (read, write) = std::io::pipe().expect("a pipe");
        Self {
            memory: memfd_create(c"logger", MFdFlags::MFD_CLOEXEC).expect("a memfd"),
            hold: [read.into(), write.into()],
        }
    }

    /// For a logger: other names of the same things.
    pub fn given(&self, keeper: OwnedFd, peer: OwnedFd) -> Given {
        let again = |fd: &OwnedFd| fd.try_clone().expect("a descriptor");
        Given {
            keeper,
            peer,
            memory: again(&self.memory),
            hold: self.hold.each_ref().map(again),
        }
    }
}

/// A logger in a thread, and the keeper's and manager's ends of its links.
pub struct Logger {
    pub dir: PathBuf,
    pub keeper: OwnedFd,
    pub manager: OwnedFd,
    pub thread: Option<JoinHandle<std::io::Result<()>>>,
    pub _temp: Option<tempfile::TempDir>,
}

impl Logger {
    pub fn new() -> Self {
        let temp = tempfile::tempdir().expect("a folder");
        let mut logger = Self::at(&temp.path().join("log"));
        logger._temp = Some(temp);
        logger
    }

    pub fn at(dir: &Path) -> Self {
        let (keeper, theirs) = pair();
        let (manager, peer) = pair();
        let path = dir.to_owned();
        let given = Held::new().given(theirs, peer);
        let thread = std::thread::Builder::new().name(LOGGER.to_owned());
        let thread = thread.spawn(move || serve(&path, given)).expect("a thread");
        assert_eq!(hear::<FromLogger>(&keeper), FromLogger::Ready);
        Self {
            dir: dir.to_owned(),
            keeper,
            manager,
            thread: Some(thread),
            _temp: None,
        }
    }

    pub fn open_with(&self, unit: &str, invocation: u64, bounds: impl FnOnce(&mut Output)) -> Unit {
        let (read, write) = std::io::pipe().expect("a pipe");
        let mut output = Output {
            unit: unit.to_owned(),
            max_size: 16 << 20,
            max_files: 5,
            drain_ms: 60_000,
            keep: Default::default(),
            read: Default::default(),
        };
        bounds(&mut output);
        let id = LaunchId::main(Invocation(invocation));
        tell(
            &self.keeper,
            &ToLogger::Open {
                id,
                output,
                streams: vec![None],
            },
            Some(&read.into()),
        );
        Unit {
            id,
            pipe: File::from(OwnedFd::from(write)),
        }
    }

    pub fn open(&self, unit: &str, invocation: u64) -> Unit {
        self.open_with(unit, invocation, |_| {})
    }

    /// Ends a unit and waits until its log is whole.
    pub fn close(&self, unit: Unit) {
        let id = unit.id;
        drop(unit);
        tell(&self.keeper, &ToLogger::Close { id }, None);
        assert_eq!(hear::<FromLogger>(&self.keeper), FromLogger::Closed { id });
        self.settle();
    }

    /// All that was said before has been done. (A pipe's end and `Close` may cross: then `Closed` is said twice.)
    pub fn settle(&self) {
        let id = LaunchId::main(Invocation(u64::MAX));
        tell(&self.keeper, &ToLogger::Close { id }, None);
        while hear::<FromLogger>(&self.keeper) != (FromLogger::Closed { id }) {}
    }

    /// The next answer to a query of the manager's.
    pub fn hear_tail(&self) -> LogTail {
        loop {
            if let LogWord::Tail(tail) = hear(&self.manager) {
                return tail;
            }
        }
    }

    pub fn text(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn messages(&self, name: &str) -> Vec<(u64, LineEnd, Vec<u8>)> {
        let text = self.text(name);
        let mut last = 0;
        let Some(text) = text.strip_suffix(b"\n") else {
            return Vec::new();
        };
        text.split(|b| *b == b'\n')
            .map(|line| {
                let record =
                    record::parse(line).unwrap_or_else(|| panic!("no record: {}", line.escape_ascii()));
                assert!(record.at_us >= last, "time went back");
                last = record.at_us;
                (record.invocation, record.end, record.message.to_vec())
            })
            .collect()
    }

    /// Every byte that a file's lives wrote.
    pub fn bytes(&self, names: &[String]) -> Vec<u8> {
        let mut all = Vec::new();
        for name in names {
            for (_, end, message) in self.messages(name) {
                all.extend(message);
                if end == LineEnd::Whole {
                    all.push(b'\n');
                }
            }
        }
        all
    }

    pub fn query(&self, units: &[&str], lines: Option<u64>, follow: bool) -> Reader {
        let units: Vec<(&str, Option<u64>)> = units.iter().map(|unit| (*unit, None)).collect();
        self.seek(&units, lines, follow, LogFilter::default())
    }

    /// Lines of units, each with the serial of its last life, that meet `filter`.
    pub fn seek(
        &self,
        units: &[(&str, Option<u64>)],
        lines: Option<u64>,
        follow: bool,
        filter: LogFilter,
    ) -> Reader {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_read_timeout(Some(DEADLINE)).expect("set");
        setsockopt(&theirs, sockopt::SndBuf, &(64 << 10)).expect("set");
        let units = units
            .iter()
            .map(|(name, life)| LogOf {
                unit: (*name).to_owned(),
                last_life: *life,
                parse: Parse::Prefix,
                is_split: true,
            })
            .collect();
        tell(
            &self.manager,
            &LogQuery::Serve {
                ask: 7,
                units,
                seed: 1,
                lines,
                filter,
                follow,
            },
            Some(&theirs.into()),
        );
        Reader(ours)
    }

    pub fn end(mut self) {
        tell(&self.keeper, &ToLogger::End, None);
        self.thread
            .take()
            .expect("once")
            .join()
            .expect("no panic")
            .expect("a good end");
    }
}

pub struct Unit {
    pub id: LaunchId,
    pub pipe: File,
}

impl Unit {
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.pipe.write_all(bytes.as_ref()).expect("written");
    }
}

pub struct Reader(pub UnixStream);

impl Reader {
    /// The next one, without what an answer begins with.
    pub fn frame(&mut self) -> Option<Reply> {
        match self.any_frame() {
            Some(Reply::Seed(_)) => self.any_frame(),
            other => other,
        }
    }

    fn any_frame(&mut self) -> Option<Reply> {
        let mut length = [0; 4];
        match self.0.read_exact(&mut length) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return None,
            other => other.expect("a frame in time"),
        }
        let length = u32::from_be_bytes(length) as usize;
        assert!(length <= proto::frame::MAX_FRAME);
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("the body");
        let answer: Answer = proto::codec::decode(&body).expect("an answer");
        assert_eq!(answer.id, 7);
        Some(answer.reply)
    }

    /// At least so many lines.
    pub fn lines(&mut self, count: usize) -> Vec<LogLine> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.frame() {
                Some(Reply::Logs(lines)) => all.extend(lines),
                other => panic!("{other:?} after {} lines", all.len()),
            }
        }
        all
    }

    /// All lines up to the end.
    pub fn all(mut self) -> Vec<LogLine> {
        let mut all = Vec::new();
        loop {
            match self.frame() {
                Some(Reply::Logs(lines)) => all.extend(lines),
                Some(Reply::End) => break,
                other => panic!("{other:?} after {} lines", all.len()),
            }
        }
        assert_eq!(self.frame(), None, "closed after the end");
        all
    }
}

/// For what has no event: looked at again and again, with a generous deadline.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        pause(Duration::from_millis(5));
    }
}

pub fn pause(time: Duration) {
    let (_kept, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}

pub fn texts(lines: &[LogLine]) -> Vec<String> {
    lines
        .iter()
        .map(|l| String::from_utf8_lossy(&l.message).into_owned())
        .collect()
}
