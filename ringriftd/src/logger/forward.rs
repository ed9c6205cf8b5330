//! Passing lines on to journald or syslog, as `[log] forward` wishes: what stands in a file is given to a thread of its
//! own, which sends it as datagrams. Nobody ever waits for it: what does not fit into the queue, and what nobody takes, is
//! counted, and told when it goes on. The files have every line, whatever becomes of this.
//!
//! It promises less than the files do: lines are passed on after they were written, so those of a logger's last moment may be
//! missing, and none is doubled.
//!
//! Read first: [`Shipping::offer`] and [`Door::send`].

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proto::log::{Severity, Stream};
use proto::reply::LineEnd;

use super::record::{self, Record};
use super::severity;
use crate::ids::{Invocation, invocation_text};
use crate::keeper::wire::LogRead;
use crate::limits::{LOG_FORWARD_AGAIN, LOG_FORWARD_BEGUN, LOG_FORWARD_PATIENCE, LOG_FORWARD_QUEUE};
use crate::spec::{Forward, Parse};

/// Where journald listens (systemd's Native Journal Protocol).
const JOURNALD: &str = "/run/systemd/journal/socket";
/// Where a syslog daemon listens, journald for one (syslog(3)).
const SYSLOG: &str = "/dev/log";
/// LOG_DAEMON of syslog(3).
const FACILITY: u8 = 3;

/// Where one unit's lines go.
#[derive(Debug)]
pub struct Route {
    unit: String,
    to: Forward,
    path: PathBuf,
    parse: Parse,
    /// The node's random number; 0: not known.
    seed: u64,
    /// Lines that found no room in the queue.
    lost: AtomicU64,
}

impl Route {
    /// For a unit that is read so. None: its lines go nowhere.
    pub fn new(unit: &str, read: &LogRead) -> Option<Self> {
        let to = read.forward?;
        let usual = match to {
            Forward::Journald => JOURNALD,
            Forward::Syslog => SYSLOG,
        };
        Some(Self {
            unit: unit.to_owned(),
            to,
            path: read.forward_to.as_deref().unwrap_or(usual).into(),
            parse: read.parse,
            seed: read.seed,
            lost: AtomicU64::new(0),
        })
    }
}

/// What the thread is given.
enum Load {
    /// Whole records.
    Records(Arc<Route>, Vec<u8>),
    /// Nothing comes behind it.
    End(mpsc::Sender<()>),
}

/// The way to the thread.
#[derive(Debug, Clone)]
pub struct Shipping {
    sender: mpsc::Sender<Load>,
    waiting: Arc<AtomicUsize>,
}

impl Shipping {
    /// Starts the thread.
    pub fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let freed = waiting.clone();
        std::thread::Builder::new()
            .name("log-forward".to_owned())
            .spawn(move || Passing::default().run(&receiver, &freed))?;
        Ok(Self { sender, waiting })
    }

    /// Where a unit's lines go besides its file. The thread begins with the first unit whose lines do.
    pub fn of(shipping: &mut Option<Self>, unit: &str, read: &LogRead) -> Option<(Self, Arc<Route>)> {
        let route = Arc::new(Route::new(unit, read)?);
        if shipping.is_none() {
            match Self::start() {
                Ok(started) => *shipping = Some(started),
                Err(e) => crate::say!("ringriftd logger: cannot start a thread that passes lines on: {e}"),
            }
        }
        Some((shipping.clone()?, route))
    }

    /// Gives records away, without ever waiting.
    pub fn offer(&self, route: &Arc<Route>, records: &[u8]) {
        let before = self.waiting.fetch_add(records.len(), Ordering::Relaxed);
        let load = || Load::Records(route.clone(), records.to_vec());
        if before + records.len() > LOG_FORWARD_QUEUE || self.sender.send(load()).is_err() {
            self.waiting.fetch_sub(records.len(), Ordering::Relaxed);
            let lines = memchr::memchr_iter(b'\n', records).count() as u64;
            route.lost.fetch_add(lines, Ordering::Relaxed);
        }
    }

    /// Waits until all is passed on, no longer than `most`.
    pub fn finish(&self, most: Duration) {
        let (done, is_done) = mpsc::channel();
        if self.sender.send(Load::End(done)).is_ok() {
            let _ = is_done.recv_timeout(most);
        }
    }
}

/// The thread's own.
#[derive(Default)]
struct Passing {
    doors: BTreeMap<PathBuf, Door>,
    /// Lines whose first piece was passed on, by unit, life and stream: how grave they are.
    begun: BTreeMap<(String, u64, Option<Stream>), Option<Severity>>,
    datagram: Vec<u8>,
}

impl Passing {
    fn run(mut self, receiver: &mpsc::Receiver<Load>, waiting: &AtomicUsize) {
        for load in receiver {
            match load {
                Load::Records(route, records) => {
                    self.pass(&route, &records);
                    waiting.fetch_sub(records.len(), Ordering::Relaxed);
                }
                Load::End(done) => {
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    fn pass(&mut self, route: &Route, records: &[u8]) {
        let door = self.doors.entry(route.path.clone()).or_default();
        match route.lost.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => door.lose(&route.path, lost, &io::Error::other("it does not keep up")),
        }
        for line in records.split(|b| *b == b'\n') {
            let Some(record) = record::parse(line) else {
                continue;
            };
            let key = (route.unit.clone(), record.invocation, record.stream);
            let is_piece = record.end == LineEnd::Continues;
            let begun = self.begun.remove(&key);
            let is_first = begun.is_none();
            let severity = begun.unwrap_or_else(|| severity::of(route.parse, record.message, is_piece));
            if is_piece {
                if self.begun.len() >= LOG_FORWARD_BEGUN {
                    self.begun.pop_first();
                }
                self.begun.insert(key, severity);
            }
            let text = match is_first {
                true => severity::prefix(record.message).1,
                false => record.message,
            };
            self.datagram.clear();
            match route.to {
                Forward::Journald => journal(&mut self.datagram, route, &record, severity, text),
                Forward::Syslog => syslog(&mut self.datagram, route, &record, severity, text),
            }
            match door.send(&route.path, &self.datagram) {
                Ok(()) => door.tell(&route.path),
                Err(e) => door.lose(&route.path, 1, &e),
            }
        }
    }
}

/// The fields of one line, each as `NAME=value`, the text by its length, so that it may be any bytes.
fn journal(out: &mut Vec<u8>, route: &Route, record: &Record<'_>, severity: Option<Severity>, text: &[u8]) {
    let mut field = |name: &str, value: &str| {
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    };
    let priority = severity.unwrap_or(Severity::Info).number();
    field("PRIORITY", &priority.to_string());
    field("SYSLOG_FACILITY", &FACILITY.to_string());
    field("SYSLOG_IDENTIFIER", &route.unit);
    field("RINGRIFT_UNIT", &route.unit);
    if route.seed != 0 {
        let life = invocation_text(route.seed, Invocation(record.invocation));
        field("RINGRIFT_INVOCATION_ID", &life);
    }
    field("RINGRIFT_TIME_US", &record.at_us.to_string());
    match record.stream {
        Some(Stream::Stdout) => field("RINGRIFT_STREAM", "stdout"),
        Some(Stream::Stderr) => field("RINGRIFT_STREAM", "stderr"),
        None => {}
    }
    out.extend_from_slice(b"MESSAGE\n");
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// As syslog(3) writes it, since that is what every daemon behind such a socket reads: priority, local time without a year,
/// tag, text.
fn syslog(out: &mut Vec<u8>, route: &Route, record: &Record<'_>, severity: Option<Severity>, text: &[u8]) {
    let priority = FACILITY * 8 + severity.unwrap_or(Severity::Info).number();
    let at = i64::try_from(record.at_us)
        .ok()
        .and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    let time = at
        .unwrap_or_default()
        .to_zoned(jiff::tz::TimeZone::system())
        .strftime("%b %e %H:%M:%S")
        .to_string();
    // A vector takes all.
    let _ = write!(out, "<{priority}>{time} {}: ", route.unit);
    out.extend_from_slice(text);
}

/// A socket that lines go to.
#[derive(Debug, Default)]
struct Door {
    socket: Option<UnixDatagram>,
    /// It refused: it is tried again then.
    retry_at: Option<Instant>,
    /// Lines that were not passed on since that was told.
    lost: u64,
    is_told: bool,
}

impl Door {
    /// Sends one datagram. One that is full is waited for a moment; one that is gone is looked for again after a while.
    fn send(&mut self, path: &Path, datagram: &[u8]) -> io::Result<()> {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at > now) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        // Twice: whoever listened may have been started again, which is seen only by sending.
        let mut result = self.try_send(path, datagram, now);
        if result.is_err() && self.socket.take().is_some() {
            result = self.try_send(path, datagram, now);
        }
        if result.is_err() {
            self.socket = None;
        }
        self.retry_at = result.is_err().then(|| now + LOG_FORWARD_AGAIN);
        result
    }

    fn try_send(&mut self, path: &Path, datagram: &[u8], begun: Instant) -> io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(path)?;
                none.insert(socket)
            }
        };
        loop {
            match socket.send(datagram) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let left = LOG_FORWARD_PATIENCE.saturating_sub(begun.elapsed());
                    if left.is_zero() {
                        return Err(e);
                    }
                    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                    let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Counts lines that were not passed on; why is told once.
    fn lose(&mut self, path: &Path, lines: u64, why: &io::Error) {
        self.lost += lines;
        if !self.is_told {
            self.is_told = true;
            crate::say!(
                "ringriftd logger: cannot pass lines on to {}: {why}; they are counted, and stand in their files",
                path.display()
            );
        }
    }

    /// It takes lines.
    fn tell(&mut self, path: &Path) {
        if self.is_told {
            crate::say!(
                "ringriftd logger: lines are passed on to {} again; {} were not",
                path.display(),
                self.lost
            );
            *self = Self {
                socket: self.socket.take(),
                ..Self::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Clock, push};
    use super::*;

    fn route(to: Forward, path: &Path) -> Arc<Route> {
        let read = LogRead {
            forward: Some(to),
            forward_to: Some(path.to_str().expect("text").to_owned()),
            seed: 0xab,
            ..LogRead::default()
        };
        Arc::new(Route::new("web", &read).expect("it goes somewhere"))
    }

    fn records(lines: &[(LineEnd, Option<Stream>, &[u8])]) -> Vec<u8> {
        let (mut out, mut clock) = (Vec::new(), Clock::new());
        for (end, stream, message) in lines {
            let record = Record {
                at_us: 1_795_310_823_123_456,
                invocation: 0x2a,
                end: *end,
                stream: *stream,
                message,
            };
            push(&mut out, &mut clock, record);
        }
        out
    }

    fn heard(socket: &UnixDatagram) -> Vec<u8> {
        let mut buffer = vec![0; 64 * 1024];
        let n = socket.recv(&mut buffer).expect("a datagram");
        buffer.truncate(n);
        buffer
    }

    #[test]
    fn journald_hears_every_line_with_its_unit_its_life_and_its_severity() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("journal");
        let socket = UnixDatagram::bind(&path).expect("bound");
        let shipping = Shipping::start().expect("a thread");
        let lines = records(&[
            (LineEnd::Whole, None, b"<3>broken \xff\x00"),
            (LineEnd::Continues, Some(Stream::Stderr), b"<4>long "),
            (LineEnd::Partial, Some(Stream::Stderr), b"<7>line"),
        ]);
        shipping.offer(&route(Forward::Journald, &path), &lines);
        let head = |priority: u8| {
            format!(
                "PRIORITY={priority}\nSYSLOG_FACILITY=3\nSYSLOG_IDENTIFIER=web\nRINGRIFT_UNIT=web\n\
                 RINGRIFT_INVOCATION_ID=00000000000000ab000000000000002a\nRINGRIFT_TIME_US=1795310823123456\n"
            )
        };
        let expected = [
            [
                head(3).as_bytes(),
                b"MESSAGE\n\x09\0\0\0\0\0\0\0broken \xff\x00\n",
            ]
            .concat(),
            [
                head(4).as_bytes(),
                b"RINGRIFT_STREAM=stderr\nMESSAGE\n\x05\0\0\0\0\0\0\0long \n",
            ]
            .concat(),
            [
                head(4).as_bytes(),
                b"RINGRIFT_STREAM=stderr\nMESSAGE\n\x07\0\0\0\0\0\0\0<7>line\n",
            ]
            .concat(),
        ];
        for expected in expected {
            let heard = heard(&socket);
            assert!(heard == expected, "{}", heard.escape_ascii());
        }
        shipping.finish(Duration::from_secs(60));
    }

    #[test]
    fn syslog_hears_what_it_would_hear_of_a_program_that_calls_it() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("log");
        let socket = UnixDatagram::bind(&path).expect("bound");
        let shipping = Shipping::start().expect("a thread");
        let lines = records(&[
            (LineEnd::Whole, None, b"<2>hello"),
            (LineEnd::Whole, None, b"plain"),
        ]);
        shipping.offer(&route(Forward::Syslog, &path), &lines);
        for (priority, text) in [(26, "hello"), (30, "plain")] {
            let heard = String::from_utf8(heard(&socket)).expect("text");
            assert!(heard.starts_with(&format!("<{priority}>Nov ")), "{heard}");
            assert!(heard.ends_with(&format!(" web: {text}")), "{heard}");
            assert_eq!(heard.find(" web"), Some("<30>Nov 22 01:27:03".len()), "{heard}");
        }
        shipping.finish(Duration::from_secs(60));
    }

    /// Nobody listens, or whoever does never reads: whoever offers does not wait, and every line is sent or counted.
    #[test]
    fn nobody_waits_for_a_door_that_is_shut_or_full() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("log");
        let shipping = Shipping::start().expect("a thread");
        let route = route(Forward::Syslog, &path);
        let line = records(&[(LineEnd::Whole, None, &[b'x'; 10_000])]);
        let offered = 4 * LOG_FORWARD_QUEUE / line.len();
        for _ in 0..offered {
            shipping.offer(&route, &line);
        }
        assert!(shipping.waiting.load(Ordering::Relaxed) <= LOG_FORWARD_QUEUE);
        // With a listener that does not read, none of this waits either.
        let socket = UnixDatagram::bind(&path).expect("bound");
        for _ in 0..offered {
            shipping.offer(&route, &line);
        }
        drop(socket);
        shipping.finish(Duration::from_secs(60));
        assert_eq!(shipping.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_was_not_passed_on_is_counted_and_it_goes_on() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("log");
        let mut door = Door::default();
        for _ in 0..3 {
            let e = door.send(&path, b"x").expect_err("nobody listens");
            door.lose(&path, 1, &e);
        }
        assert_eq!((door.lost, door.is_told), (3, true));
        let socket = UnixDatagram::bind(&path).expect("bound");
        door.retry_at = None; // the time has passed
        door.send(&path, b"y").expect("sent");
        door.tell(&path);
        assert_eq!((door.lost, door.is_told), (0, false));
        assert_eq!(heard(&socket), b"y");
        // Another takes its place: nothing is lost by that.
        drop(socket);
        std::fs::remove_file(&path).expect("it is there");
        let socket = UnixDatagram::bind(&path).expect("bound");
        door.send(&path, b"z").expect("sent");
        assert_eq!(heard(&socket), b"z");
    }
}
