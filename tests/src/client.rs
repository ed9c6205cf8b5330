//! A client that can be rude: raw frames over the control socket, blocking, with a deadline on everything.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use proto::codec::{decode, encode};
use proto::frame::{Answer, Ask, Hello, MAGIC, Token, VERSION, Welcome};
use proto::reply::{Event, Reply};
use proto::request::Request;

use crate::PATIENCE;

/// A connection.
#[derive(Debug)]
pub struct Client {
    /// The stream itself, for those who want to write nonsense.
    pub stream: UnixStream,
    last: u64,
}

impl Client {
    /// Connects, and says nothing.
    pub fn silent(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, last: 0 })
    }

    /// Connects and says hello.
    ///
    /// # Panics
    /// When the daemon does not welcome it.
    pub fn connect(socket: &Path) -> Self {
        let mut client = Self::silent(socket).expect("the daemon listens");
        match client.greet(VERSION).expect("the daemon answers a hello") {
            Welcome::Accepted { .. } => client,
            other => panic!("not welcome: {other:?}"),
        }
    }

    /// Says hello as a client of some version, and returns what the daemon says.
    pub fn greet(&mut self, version: u32) -> io::Result<Welcome> {
        let hello = Hello {
            magic: MAGIC,
            version,
            program: "a test".into(),
        };
        match self.send(&encode(&hello).expect("a hello is small")) {
            // A daemon that is busy says so and closes, perhaps before the hello; what it said is still to be read.
            Err(why) if why.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent?,
        }
        decode(&self.receive()?).map_err(io::Error::other)
    }

    /// Sends one frame with any body.
    pub fn send(&mut self, body: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(4 + body.len());
        frame.extend_from_slice(&u32::try_from(body.len()).map_err(io::Error::other)?.to_be_bytes());
        frame.extend_from_slice(body);
        self.stream.write_all(&frame)
    }

    /// Receives one frame's body.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > proto::frame::MAX_FRAME {
            return Err(io::Error::other(format!(
                "the daemon sent a frame of {length} bytes"
            )));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    /// Asks, and returns the request's id.
    pub fn ask(&mut self, request: Request) -> io::Result<u64> {
        self.ask_as(None, request)
    }

    /// Asks under a token, so that the same can be asked again and is not done twice.
    pub fn ask_as(&mut self, token: Option<Token>, request: Request) -> io::Result<u64> {
        self.last += 1;
        let ask = Ask {
            id: self.last,
            token,
            request,
        };
        self.send(&encode(&ask).map_err(io::Error::other)?)?;
        Ok(self.last)
    }

    /// The next frame of any answer.
    pub fn answer(&mut self) -> io::Result<Answer> {
        decode(&self.receive()?).map_err(io::Error::other)
    }

    /// Asks, and returns the whole answer; its last element is `End` or `Failed`. Nothing else may be under way.
    pub fn call(&mut self, request: Request) -> io::Result<Vec<Reply>> {
        self.call_as(None, request)
    }

    /// The same under a token.
    pub fn call_as(&mut self, token: Option<Token>, request: Request) -> io::Result<Vec<Reply>> {
        let id = self.ask_as(token, request)?;
        let mut replies = Vec::new();
        loop {
            let answer = self.answer()?;
            if answer.id != id {
                return Err(io::Error::other(format!(
                    "an answer to {} instead of {id}",
                    answer.id
                )));
            }
            let last = matches!(answer.reply, Reply::End | Reply::Failed(_));
            replies.push(answer.reply);
            if last {
                return Ok(replies);
            }
        }
    }

    /// True when the daemon closes the connection within `bound`; what it says before is returned in `said`.
    pub fn is_closed_within(&mut self, bound: Duration, said: &mut Vec<u8>) -> bool {
        let deadline = std::time::Instant::now() + bound;
        let mut buffer = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return false;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(n) => said.extend_from_slice(&buffer[..n]),
                Err(why) if why.kind() == io::ErrorKind::ConnectionReset => return true,
                Err(_) => return false,
            }
        }
    }
}

/// Everything that happens on a node, from its first event on, as it happens.
#[derive(Debug)]
pub struct Events {
    client: Client,
    /// What was seen so far.
    pub seen: Vec<Event>,
}

impl Events {
    /// Subscribes; `after` as in the request.
    ///
    /// # Panics
    /// When the daemon does not take the subscription.
    pub fn follow(socket: &Path, after: Option<u64>) -> Self {
        let mut client = Client::connect(socket);
        let request = Request::Events {
            selectors: Vec::new(),
            follow: true,
            after,
            since_us: None,
        };
        client.ask(request).expect("the daemon takes a subscription");
        Self {
            client,
            seen: Vec::new(),
        }
    }

    /// The next event; `None` when none came within `bound`.
    ///
    /// # Panics
    /// When the stream ends, or lost events.
    pub fn next(&mut self, bound: Duration) -> Option<Event> {
        if !readable(&self.client.stream, bound) {
            return None;
        }
        match self.client.answer().expect("the stream of events goes on").reply {
            Reply::Event(event) => {
                self.seen.push((*event).clone());
                Some(*event)
            }
            other => panic!("{other:?} among events"),
        }
    }

    /// Waits for the first event that `wanted` likes, among those that it has not returned yet.
    ///
    /// # Panics
    /// When none came in time; it then tells all that did.
    #[track_caller]
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            match self.next(left) {
                Some(event) if wanted(&event) => return event,
                Some(_) => {}
                None => panic!("no event in time: {what}; came: {:#?}", brief(&self.seen)),
            }
        }
    }
}

/// One line for each event.
pub fn brief(events: &[Event]) -> Vec<String> {
    let line = |e: &Event| {
        format!(
            "{} {} {} {:?}>{:?} ({})",
            e.seq, e.unit, e.event, e.from, e.to, e.cause.text
        )
    };
    events.iter().map(line).collect()
}

fn readable(stream: &UnixStream, bound: Duration) -> bool {
    use std::os::fd::AsFd;
    let mut fds = [nix::poll::PollFd::new(
        stream.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    let bound = nix::poll::PollTimeout::try_from(bound).unwrap_or(nix::poll::PollTimeout::MAX);
    matches!(nix::poll::poll(&mut fds, bound), Ok(n) if n > 0)
}
