//! One conversation with the daemon: connect, hello, ask, hear. Plain blocking code on one socket, since starting a
//! runtime costs more than a whole `status`. Every wait has an end; where the answer may take as long as it likes (a
//! job, a follow), the daemon is asked for a sign of life meanwhile.
//!
//! Never starts a daemon, never guesses an answer. A connection that ends in the middle of one is made again: the manager
//! behind the socket may die and be replaced, and whoever asks again, with the same token, gets the true answer
//! (`docs/protocol.md`). When that does not work in time, it is an error which says that the outcome is unknown.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt};
use proto::codec;
use proto::frame::{Answer, Ask, Hello, MAGIC, MAX_FRAME, VERSION, Welcome};
use proto::reply::Reply;
use proto::request::Request;

use crate::again::Asked;
use crate::dial::{dial, pause, ready, remaining, said, wait_until};
use crate::place;
use crate::render::{clean, talk};
use crate::stop::{self, Stop};

/// How long connecting and the two hellos may take together. A daemon whose manager restarts answers within it.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the daemon may be silent in the middle of an answer that it should have at hand.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one request may take to be written: the socket's buffer is larger than most requests.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a job or a follow may be silent before the daemon is asked whether it lives.
const QUIET: Duration = Duration::from_secs(20);
/// How long it may take to answer that.
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a lost connection may take to come back: until the next manager has begun and says hello.
const BACK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the socket itself may be missing meanwhile. A daemon that ends takes it away; one that replaces it needs no time.
const NO_SOCKET_TIMEOUT: Duration = Duration::from_secs(1);
/// So often in a row a connection may be lost again before it is given up: the request itself may be what kills.
const LOSSES_MAX: u32 = 10;
/// A connection that held so long is no longer the same row.
const HELD: Duration = Duration::from_secs(60);
/// Frames of one collected answer at most: a daemon that never ends is refused, not stored.
const FRAMES_MAX: usize = 100_000;
/// Ids from here on are this file's own questions.
const PING: u64 = 1 << 62;

/// Something to wake up for.
#[derive(Debug)]
pub enum Wake {
    /// A frame of the answer to this request.
    Reply(u64, Reply),
    /// SIGINT, SIGTERM or SIGHUP.
    Interrupted,
    /// The time that was asked for has come.
    Time,
    /// The connection was lost and is back. Every request under way was asked again, and its answer begins anew: for a job it
    /// is the same answer again, for events what had not come yet.
    Again,
}

/// Where the conversation stands.
#[derive(Debug)]
enum Line {
    /// Questions and answers.
    Open,
    /// Connected anew, and said hello.
    Greeting(Lost),
    /// Nobody is there.
    Gone(Lost),
}

/// A connection that was lost.
#[derive(Debug, Clone)]
struct Lost {
    since: Instant,
    cause: String,
}

/// A conversation.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// Where it is.
    pub socket: PathBuf,
    received: Vec<u8>,
    next_id: u64,
    line: Line,
    /// Requests that have no last frame yet.
    under_way: Vec<Asked>,
    /// How often in a row the connection was lost, and when last.
    losses: (u32, Instant),
    has_told: bool,
    /// Do not tell on stderr that the connection was lost and is back.
    pub is_quiet: bool,
    /// Tell the daemon's warnings on stderr. Not where a screen is drawn.
    pub warns: bool,
    signals: Option<SignalFd>,
    heard: Instant,
    pinged: Option<Instant>,
    quiet: Duration,
    ping_timeout: Duration,
    /// Whether to ask a silent daemon for a sign of life. Not while the logger answers, which has the connection to
    /// itself and hears nothing else.
    pub asks_for_life: bool,
    /// The connection was lost, and whoever took the daemon's place speaks this protocol: an upgrade did that, for one
    /// program has one protocol.
    pub succeeded_by: Option<u32>,
}

impl Client {
    /// Finds the daemon and says hello. `flag` is `--socket`.
    pub fn connect(flag: Option<&Path>) -> Result<Self, Stop> {
        let uid = nix::unistd::geteuid().as_raw();
        let places = place::candidates(flag, |name| std::env::var_os(name), uid);
        let until = Instant::now() + HELLO_TIMEOUT;
        let mut causes = Vec::new();
        let mut denied = false;
        for path in &places {
            if places.len() > 1 && path.exists() && !place::is_ours(path, uid) {
                causes.push(format!(
                    "{}: others can write its folder, not trusted",
                    path.display()
                ));
                continue;
            }
            match Self::dial_and_greet(path, until) {
                Ok(greeted) => return greeted,
                Err(e) => {
                    denied |= e.kind() == ErrorKind::PermissionDenied;
                    causes.push(format!("{}: {}", path.display(), said(&e)));
                }
            }
        }
        let causes = causes.join("; ");
        if denied {
            return Err(
                Stop::new(stop::DENIED, format!("may not connect to ringriftd ({causes})"))
                    .hint("ask as the user who runs ringriftd, or as root"),
            );
        }
        Err(Stop::new(
            stop::UNAVAILABLE,
            format!("no ringriftd is running here ({causes})"),
        )
        .hint("start one with ringriftd --profile NAME, or name its socket with --socket"))
    }

    /// Who made the listening socket, as the kernel names it in this client's own pid namespace; 0 for a process that is
    /// not visible here, None where the kernel does not tell.
    pub fn listener_pid(&self) -> Option<u32> {
        let peer = getsockopt(&self.stream, sockopt::PeerCredentials).ok()?;
        u32::try_from(peer.pid()).ok()
    }

    fn over(stream: UnixStream, socket: PathBuf) -> Self {
        Self {
            stream,
            socket,
            received: Vec::new(),
            next_id: 1,
            line: Line::Open,
            under_way: Vec::new(),
            losses: (0, Instant::now()),
            has_told: false,
            is_quiet: false,
            warns: true,
            signals: None,
            heard: Instant::now(),
            pinged: None,
            quiet: QUIET,
            ping_timeout: PING_TIMEOUT,
            asks_for_life: true,
            succeeded_by: None,
        }
    }

    /// The outer error: nobody could be connected to. A manager that dies in the greeting has a successor soon.
    fn dial_and_greet(path: &Path, until: Instant) -> Result<Result<Self, Stop>, std::io::Error> {
        for losses in 1.. {
            let mut client = Self::over(dial(path, until)?, path.to_owned());
            match client.greet(until) {
                Ok(Some(())) => return Ok(Ok(client)),
                Ok(None) if losses < LOSSES_MAX && Instant::now() < until => {
                    pause(None);
                }
                Ok(None) => return Ok(Err(client.lost("the daemon closed the connection", None))),
                Err(stop) => return Ok(Err(stop)),
            }
        }
        Err(ErrorKind::TimedOut.into())
    }

    /// Says hello and hears the welcome; None when the connection ended before it.
    fn greet(&mut self, until: Instant) -> Result<Option<()>, Stop> {
        self.say_hello()?;
        loop {
            if let Some(frame) = self.take_frame()? {
                return self.welcome(&frame).map(Some);
            }
            if !ready(&self.stream, PollFlags::POLLIN, until)? {
                return Err(self.silent(HELLO_TIMEOUT));
            }
            if self.receive().is_err() {
                return Ok(None);
            }
        }
    }

    fn say_hello(&mut self) -> Result<(), Stop> {
        let program = concat!("ringriftctl ", env!("CARGO_PKG_VERSION")).to_owned();
        self.send(&Hello {
            magic: MAGIC,
            version: VERSION,
            program,
        })
    }

    fn welcome(&self, frame: &[u8]) -> Result<(), Stop> {
        match codec::decode::<Welcome>(frame).map_err(|e| self.garbage(&e.to_string()))? {
            Welcome::Accepted { version, .. } if version == VERSION => Ok(()),
            Welcome::Accepted { version, program } => Err(skew(version, &format!("it is {program}"))),
            Welcome::Refused { version, reason } if version == VERSION => Err(Stop::new(
                stop::DENIED,
                format!("ringriftd refuses to talk: {reason}"),
            )),
            Welcome::Refused { version, reason } => Err(skew(version, &reason)),
            Welcome::Busy { reason } => Err(Stop::new(
                stop::UNAVAILABLE,
                format!("ringriftd is busy: {reason}"),
            )
            .hint("try again in a moment")),
        }
    }

    /// From now on SIGINT, SIGTERM and SIGHUP are [`Wake::Interrupted`] and end nothing by themselves.
    pub fn catch_signals(&mut self) -> Result<(), Stop> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGHUP);
        let caught = set
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC))
            .map_err(|e| Stop::new(stop::FAILED, format!("cannot watch for signals: {}", e.desc())))?;
        self.signals = Some(caught);
        Ok(())
    }

    /// Asks; the answer's frames carry the id that comes back.
    pub fn ask(&mut self, request: Request) -> Result<u64, Stop> {
        let id = self.next_id;
        self.next_id += 1;
        let mut asked = Asked::new(id, request);
        // While the connection is lost, it is asked as soon as there is one.
        if matches!(self.line, Line::Open) {
            self.send(&asked.ask(Instant::now()))?;
        }
        self.under_way.push(asked);
        self.heard = Instant::now();
        Ok(id)
    }

    /// Asks, and hears the whole answer, which the daemon has at hand. Its failure is an error.
    pub fn collect(&mut self, request: Request) -> Result<Vec<Reply>, Stop> {
        let mut replies = Vec::new();
        self.hear(request, |heard| {
            match heard {
                Some(reply) => replies.push(reply),
                None => replies.clear(),
            }
            if replies.len() > FRAMES_MAX {
                return Err(Stop::new(
                    stop::BUG,
                    format!("the answer has more than {FRAMES_MAX} frames"),
                ));
            }
            Ok(())
        })?;
        Ok(replies)
    }

    /// The same, a frame at a time, for answers that may be long: events and log lines, which are never told twice.
    pub fn each(
        &mut self,
        request: Request,
        mut hear: impl FnMut(Reply) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        self.hear(request, |heard| heard.map_or(Ok(()), &mut hear))
    }

    /// Without a reply: the answer begins anew.
    fn hear(
        &mut self,
        request: Request,
        mut hear: impl FnMut(Option<Reply>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let id = self.ask(request)?;
        loop {
            match self.wake(Some(Instant::now() + ANSWER_TIMEOUT))? {
                Wake::Reply(to, reply) if to == id => match reply {
                    Reply::End => return Ok(()),
                    Reply::Failed(failure) => return Err(failure.into()),
                    reply => hear(Some(reply))?,
                },
                Wake::Reply(..) => {}
                Wake::Again => hear(None)?,
                Wake::Interrupted => return Err(Stop::new(stop::INTERRUPTED, "interrupted")),
                Wake::Time => return Err(self.silent(ANSWER_TIMEOUT)),
            }
        }
    }

    /// Waits for the next frame of any answer, a caught signal, or `until`. Without an end to wait for, a silent
    /// daemon is asked for a sign of life, so that a hung one is told from a patient one. A lost connection is made
    /// again, and everything under way asked again.
    pub fn wake(&mut self, until: Option<Instant>) -> Result<Wake, Stop> {
        loop {
            let woken = match &self.line {
                Line::Open => self.converse(until)?,
                Line::Gone(lost) => self.dial_again(lost.clone(), until)?,
                Line::Greeting(lost) => self.greet_again(lost.clone(), until)?,
            };
            if let Some(wake) = woken {
                return Ok(wake);
            }
        }
    }

    /// One step with a daemon that is there.
    fn converse(&mut self, until: Option<Instant>) -> Result<Option<Wake>, Stop> {
        if let Some(frame) = self.take_frame()? {
            self.heard = Instant::now();
            self.pinged = None;
            let answer: Answer = codec::decode(&frame).map_err(|e| self.garbage(&e.to_string()))?;
            return match answer {
                Answer {
                    id: 0,
                    reply: Reply::Failed(failure),
                } => Err(failure.into()),
                Answer { id, .. } if id >= PING => Ok(None),
                Answer {
                    reply: Reply::Warning(text),
                    ..
                } => {
                    if self.warns {
                        talk(&format!("warning: {}", clean(text.as_bytes(), false)));
                    }
                    Ok(None)
                }
                Answer {
                    reply: Reply::Again, ..
                } => {
                    // There is nothing behind it: the connection is made anew, and the question asked again.
                    let since = Instant::now();
                    let cause = "it is to be asked again".to_owned();
                    self.line = Line::Gone(Lost { since, cause });
                    Ok(None)
                }
                Answer { id, mut reply } => {
                    if let Some(asked) = self.under_way.iter_mut().find(|asked| asked.id == id) {
                        asked.heard(&mut reply);
                    }
                    if matches!(reply, Reply::End | Reply::Failed(_)) {
                        self.under_way.retain(|asked| asked.id != id);
                    }
                    Ok(Some(Wake::Reply(id, reply)))
                }
            };
        }
        let now = Instant::now();
        if until.is_some_and(|t| now >= t) {
            return Ok(Some(Wake::Time));
        }
        let check = match self.pinged {
            _ if !self.asks_for_life => None,
            Some(at) => Some(at + self.ping_timeout),
            None => Some(self.heard + self.quiet),
        };
        if check.is_some_and(|at| now >= at) {
            if self.pinged.is_some() {
                return Err(self.silent(self.quiet + self.ping_timeout));
            }
            self.pinged = Some(now);
            self.send(&Ask {
                id: PING + self.next_id,
                token: None,
                request: Request::Version,
            })?;
            return Ok(None);
        }
        if self.sleep([until, check].into_iter().flatten().min())? {
            return Ok(Some(Wake::Interrupted));
        }
        if let Err(cause) = self.receive() {
            self.lose(cause)?;
        }
        Ok(None)
    }

    /// Sleeps until the daemon has said something, a caught signal came (true), or `until`.
    fn sleep(&self, until: Option<Instant>) -> Result<bool, Stop> {
        let mut fds = vec![PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        if let Some(signals) = &self.signals {
            fds.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        }
        match nix::poll::poll(&mut fds, until.map_or(PollTimeout::NONE, remaining)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => {
                return Err(Stop::new(
                    stop::FAILED,
                    format!("cannot wait for the daemon: {}", e.desc()),
                ));
            }
        }
        Ok(self.is_interrupted())
    }

    fn is_interrupted(&self) -> bool {
        self.signals
            .as_ref()
            .is_some_and(|signals| matches!(signals.read_signal(), Ok(Some(_))))
    }

    /// The connection has ended with questions open. An error where asking again would not be the same.
    fn lose(&mut self, cause: String) -> Result<(), Stop> {
        let now = Instant::now();
        let (count, last) = self.losses;
        let in_a_row = if now.duration_since(last) > HELD {
            1
        } else {
            count + 1
        };
        self.losses = (in_a_row, now);
        if let Some(told) = self.under_way.iter().find_map(Asked::cannot_repeat) {
            return Err(told);
        }
        if in_a_row > LOSSES_MAX {
            return Err(self.lost(&cause, Some("it was lost again and again")));
        }
        self.line = Line::Gone(Lost { since: now, cause });
        Ok(())
    }

    /// Tries once to connect, and if it cannot, waits a moment.
    fn dial_again(&mut self, lost: Lost, until: Option<Instant>) -> Result<Option<Wake>, Stop> {
        let past = lost.since.elapsed();
        let failed = match dial(&self.socket, Instant::now()) {
            Ok(stream) => {
                self.stream = stream;
                self.received.clear();
                self.pinged = None;
                self.line = Line::Greeting(lost);
                return self.say_hello().map(|()| None);
            }
            Err(e) => e,
        };
        let patience = match failed.kind() {
            ErrorKind::NotFound => NO_SOCKET_TIMEOUT,
            ErrorKind::ConnectionRefused if self.under_way.iter().any(Asked::is_end) => NO_SOCKET_TIMEOUT,
            ErrorKind::ConnectionRefused | ErrorKind::WouldBlock => BACK_TIMEOUT,
            _ => Duration::ZERO,
        };
        if past >= patience {
            let after = format!("nobody answers there any more: {}", said(&failed));
            return Err(self.lost(&lost.cause, Some(&after)));
        }
        pause(self.signals.as_ref());
        if self.is_interrupted() {
            return Ok(Some(Wake::Interrupted));
        }
        Ok(until.is_some_and(|t| Instant::now() >= t).then_some(Wake::Time))
    }

    /// Waits for the welcome of the next manager, then asks again what is open.
    fn greet_again(&mut self, lost: Lost, until: Option<Instant>) -> Result<Option<Wake>, Stop> {
        if let Some(frame) = self.take_frame()? {
            if let Err(stop) = self.welcome(&frame) {
                self.succeeded_by = other_protocol(&frame);
                return Err(self.unknown(stop));
            }
            self.line = Line::Open;
            self.heard = Instant::now();
            let heard = self.heard;
            let asks: Vec<Ask> = self.under_way.iter_mut().map(|asked| asked.ask(heard)).collect();
            for ask in asks {
                self.send(&ask)?;
            }
            // Lines that are followed go on as if nothing had been.
            let is_follow = self.under_way.iter().any(Asked::is_follow);
            if !self.is_quiet && !is_follow && !std::mem::replace(&mut self.has_told, true) {
                talk("ringriftd's manager was restarted: connected to it again, and asked again");
            }
            return Ok(Some(Wake::Again));
        }
        let end = lost.since + BACK_TIMEOUT;
        let now = Instant::now();
        if now >= end {
            let after = format!("nobody answered within {} s", BACK_TIMEOUT.as_secs());
            return Err(self.lost(&lost.cause, Some(&after)));
        }
        if until.is_some_and(|t| now >= t) {
            return Ok(Some(Wake::Time));
        }
        if self.sleep(Some(until.map_or(end, |t| t.min(end))))? {
            return Ok(Some(Wake::Interrupted));
        }
        if self.receive().is_err() {
            self.line = Line::Gone(lost);
            pause(self.signals.as_ref());
        }
        Ok(None)
    }

    /// Asks the person at the terminal; only `y` and `yes` are yes. A caught signal is an error.
    pub fn confirm(&mut self, question: &str) -> Result<bool, Stop> {
        let mut err = std::io::stderr();
        let _ = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
        let stdin = std::io::stdin();
        loop {
            let mut fds = vec![PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
            if let Some(signals) = &self.signals {
                fds.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
            }
            // A person may think as long as they like: the one wait without an end.
            match nix::poll::poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => {
                    return Err(Stop::new(
                        stop::FAILED,
                        format!("cannot read the answer: {}", e.desc()),
                    ));
                }
            }
            let typed = fds[0].any() == Some(true);
            if let Some(signals) = &self.signals
                && matches!(signals.read_signal(), Ok(Some(_)))
            {
                let _ = writeln!(err);
                return Err(Stop::new(stop::INTERRUPTED, "interrupted: nothing was done"));
            }
            if typed {
                let mut line = String::new();
                let read = stdin.read_line(&mut line).unwrap_or(0);
                if read == 0 {
                    let _ = writeln!(err);
                }
                // The thinking time must not look like a silent daemon.
                self.heard = Instant::now();
                return Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"));
            }
        }
    }

    /// The connection is lost, and not yet back.
    pub fn is_lost(&self) -> bool {
        !matches!(self.line, Line::Open)
    }

    /// Waits until nobody listens at the socket any more; false when `within` was not enough.
    pub fn gone(&self, within: Duration) -> bool {
        let is_gone = || dial(&self.socket, Instant::now()).is_err_and(|e| e.kind() != ErrorKind::WouldBlock);
        wait_until(within, is_gone)
    }

    fn send(&mut self, value: &impl serde::Serialize) -> Result<(), Stop> {
        let body = codec::encode(value).map_err(|e| {
            Stop::usage(format!("cannot send the request: {e}")).hint("name fewer units, or a glob")
        })?;
        let mut bytes = Vec::with_capacity(body.len() + 4);
        bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&body);
        let until = Instant::now() + SEND_TIMEOUT;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if !ready(&self.stream, PollFlags::POLLOUT, until)? {
                        return Err(self.silent(SEND_TIMEOUT));
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // What the daemon said before it closed is worth more than this error; the next read finds both.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Reads what is there. The error is why the connection ended: answers have an end of their own.
    fn receive(&mut self) -> Result<(), String> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) if self.received.is_empty() => Err("the daemon closed the connection".to_owned()),
            Ok(0) => Err("the daemon closed the connection in the middle of a frame".to_owned()),
            Ok(read) => {
                self.received.extend_from_slice(&chunk[..read]);
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(e) => Err(said(&e)),
        }
    }

    /// A whole frame of what was received. A claimed length over the limit is refused before anything waits for it.
    fn take_frame(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        let Some(head) = self.received.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head) as usize;
        if length > MAX_FRAME {
            return Err(self.garbage(&format!(
                "it claims a frame of {length} bytes, more than {MAX_FRAME}"
            )));
        }
        if self.received.len() < 4 + length {
            return Ok(None);
        }
        let rest = self.received.split_off(4 + length);
        let mut frame = std::mem::replace(&mut self.received, rest);
        frame.drain(..4);
        Ok(Some(frame))
    }

    fn silent(&self, after: Duration) -> Stop {
        let place = self.socket.display();
        Stop::new(
            stop::UNAVAILABLE,
            format!(
                "ringriftd does not answer ({place}: silent for {} s)",
                after.as_secs()
            ),
        )
        .hint("its log says why; a job that was taken goes on")
    }

    fn lost(&self, cause: &str, after: Option<&str>) -> Stop {
        let place = self.socket.display();
        let after = after.map_or(String::new(), |after| format!("; {after}"));
        let stop = Stop::new(
            stop::UNAVAILABLE,
            format!("lost the connection to ringriftd ({place}: {cause}{after})"),
        );
        self.unknown(stop.hint("is it on its way down? ringriftctl status tells when it is back"))
    }

    /// The same end, which says of whatever changes something that nobody knows whether it was done.
    fn unknown(&self, stop: Stop) -> Stop {
        match (stop, self.under_way.iter().find_map(Asked::changes)) {
            (Stop::Failure(mut failure), Some(verb)) => {
                failure
                    .message
                    .push_str(&format!(": whether the {verb} was done is not known"));
                failure.hint =
                    Some("ringriftctl status and events tell it when ringriftd is back".to_owned());
                Stop::Failure(failure)
            }
            (stop, _) => stop,
        }
    }

    fn garbage(&self, cause: &str) -> Stop {
        let place = self.socket.display();
        Stop::new(
            stop::BUG,
            format!("cannot understand what answers at {place}: {cause}"),
        )
        .hint("it is not a ringriftd of this version, or one of the two has a bug")
    }
}

/// The protocol of whoever welcomes or refuses so, if it is not this program's.
fn other_protocol(welcome: &[u8]) -> Option<u32> {
    match codec::decode(welcome) {
        Ok(Welcome::Accepted { version, .. } | Welcome::Refused { version, .. }) => {
            (version != VERSION).then_some(version)
        }
        Ok(Welcome::Busy { .. }) | Err(_) => None,
    }
}

fn skew(theirs: u32, reason: &str) -> Stop {
    let ours = concat!("ringriftctl ", env!("CARGO_PKG_VERSION"));
    Stop::new(
        stop::UNAVAILABLE,
        format!("{ours} speaks protocol {VERSION}, this ringriftd speaks protocol {theirs}: {reason}"),
    )
    .hint("use the ringriftctl that came with the running ringriftd, or upgrade the older of the two")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::reply::Names;

    /// A client that loses patience at once, and the daemon's end.
    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("set");
        let mut client = Client::over(ours, PathBuf::from("test"));
        client.quiet = Duration::from_millis(20);
        client.ping_timeout = Duration::from_secs(20);
        (client, theirs)
    }

    fn receive(stream: &mut UnixStream) -> Ask {
        let mut head = [0; 4];
        stream.read_exact(&mut head).expect("a head");
        let mut body = vec![0; u32::from_be_bytes(head) as usize];
        stream.read_exact(&mut body).expect("a body");
        codec::decode(&body).expect("an ask")
    }

    fn reply(stream: &mut UnixStream, id: u64, reply: Reply) {
        let body = codec::encode(&Answer { id, reply }).expect("encodes");
        stream
            .write_all(&(body.len() as u32).to_be_bytes())
            .expect("sent");
        stream.write_all(&body).expect("sent");
    }

    #[test]
    fn a_silent_daemon_is_given_up_after_a_question_for_life() {
        let (mut client, mut daemon) = pair();
        client.ping_timeout = Duration::from_millis(20);
        client.ask(Request::Names).expect("asked");
        let Err(Stop::Failure(failure)) = client.wake(None) else {
            panic!("it was patient for ever")
        };
        assert_eq!(failure.code, stop::UNAVAILABLE);
        assert_eq!(receive(&mut daemon).request, Request::Names);
        assert_eq!(receive(&mut daemon).request, Request::Version);
    }

    #[test]
    fn a_daemon_that_shows_life_may_take_its_time() {
        let (mut client, mut daemon) = pair();
        let id = client.ask(Request::Names).expect("asked");
        let daemon = std::thread::spawn(move || {
            assert_eq!(receive(&mut daemon).id, id);
            for _ in 0..3 {
                let ping = receive(&mut daemon);
                assert!(ping.id >= PING && ping.request == Request::Version);
                reply(&mut daemon, ping.id, Reply::End);
            }
            let names = Names {
                units: vec![],
                profiles: vec![],
                categories: vec![],
            };
            reply(&mut daemon, id, Reply::Names(names));
            daemon
        });
        let woken = client.wake(None).expect("woken");
        assert!(
            matches!(woken, Wake::Reply(to, Reply::Names(_)) if to == id),
            "{woken:?}"
        );
        daemon.join().expect("the daemon did as told");
    }

    #[test]
    fn the_logger_is_not_asked_for_life() {
        let (mut client, mut daemon) = pair();
        client.asks_for_life = false;
        client.ask(Request::Version).expect("asked");
        let until = Instant::now() + Duration::from_millis(60);
        assert!(matches!(client.wake(Some(until)), Ok(Wake::Time)));
        receive(&mut daemon);
        daemon.set_nonblocking(true).expect("set");
        let more = daemon.read(&mut [0; 1]).map_err(|e| e.kind());
        assert_eq!(more, Err(ErrorKind::WouldBlock));
    }

    #[test]
    fn a_frame_in_pieces_is_one_frame() {
        let (mut client, mut daemon) = pair();
        client.quiet = Duration::from_secs(60);
        let body = codec::encode(&Answer {
            id: 1,
            reply: Reply::Lagged(5),
        })
        .expect("encodes");
        let frame = [&(body.len() as u32).to_be_bytes()[..], &body].concat();
        for byte in &frame[..frame.len() - 1] {
            daemon.write_all(&[*byte]).expect("sent");
            let until = Instant::now() + Duration::from_millis(2);
            assert!(matches!(client.wake(Some(until)), Ok(Wake::Time)));
        }
        // The last byte, and a whole frame behind it.
        daemon
            .write_all(&[&frame[frame.len() - 1..], &frame].concat())
            .expect("sent");
        for _ in 0..2 {
            assert!(matches!(client.wake(None), Ok(Wake::Reply(1, Reply::Lagged(5)))));
        }
    }
}
