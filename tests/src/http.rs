//! Asks a node over HTTP as a stranger does: bytes out, bytes in, over TCP or a Unix socket.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Node, PATIENCE, until};

/// Where a node serves HTTP.
#[derive(Debug, Clone)]
pub enum Door {
    /// An address.
    Tcp(SocketAddr),
    /// A socket.
    Unix(PathBuf),
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The code.
    pub status: u16,
    /// The header's lines, in lower case.
    pub headers: Vec<String>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("no JSON ({why}): {self:?}"))
    }

    /// The header's field.
    pub fn header(&self, name: &str) -> Option<&str> {
        let is_it = |line: &&String| line.starts_with(&format!("{name}:"));
        let line = self.headers.iter().find(is_it)?;
        Some(line[name.len() + 1..].trim())
    }
}

/// A connection.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Door {
    /// A port of this host that nobody listens at now, and that nobody else takes until it is used: its address is this
    /// process's own among the loopback ones, and no port of it is given twice. (A port of 127.0.0.1 may be given to any
    /// other test, or to any client that connects, as soon as it is let go of.)
    ///
    /// # Panics
    /// When there is none.
    pub fn free() -> Self {
        static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
        // A pid has 22 bits at most (PID_MAX_LIMIT).
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let own = Ipv4Addr::new(127, 64 | high, middle, low);
        loop {
            let listener = TcpListener::bind((own, 0)).expect("a port is free");
            let address = listener.local_addr().expect("it has an address");
            if GIVEN
                .lock()
                .expect("nobody panics with it")
                .insert(address.port())
            {
                return Self::Tcp(address);
            }
        }
    }

    /// The socket `http.sock` in a node's folder.
    pub fn in_folder(folder: &str) -> Self {
        Self::Unix(Path::new(folder).join("http.sock"))
    }

    /// What `--http` takes.
    pub fn text(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => path.display().to_string(),
        }
    }

    /// Connects, with a deadline for each read.
    pub fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Sends these bytes, and reads to the end.
    pub fn raw(&self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = self.connect()?;
        stream.write_all(bytes)?;
        let mut all = Vec::new();
        match stream.read_to_end(&mut all) {
            // A server that refuses does not read what follows.
            Err(e) if all.is_empty() => Err(e),
            _ => Ok(all),
        }
    }

    /// An answer to one request.
    pub fn ask(&self, method: &str, path: &str, headers: &[&str]) -> std::io::Result<Answer> {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        let all = self.raw(text.as_bytes())?;
        parse(&all)
            .ok_or_else(|| std::io::Error::other(format!("no HTTP: {}", String::from_utf8_lossy(&all))))
    }

    /// What a GET brings.
    ///
    /// # Panics
    /// When nothing does.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &["Host: localhost"])
            .unwrap_or_else(|e| panic!("GET {path} on {}: {e}", self.text()))
    }

    /// Waits until the door answers.
    pub fn wait(&self, node: &Node) {
        until("HTTP is served", || {
            assert!(!node.has_ended(), "the daemon ended: {}", node.stderr());
            let answer = self.ask("GET", "/health", &["Host: localhost"]).ok()?;
            (answer.status == 200).then_some(())
        });
    }

    /// The value of a sample of `/metrics`, by its name and labels as they are written.
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let body = self.get("/metrics").body;
        let line = body
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// Opens the stream of events.
    ///
    /// # Panics
    /// When there is none.
    pub fn events(&self, after: Option<u64>) -> Events {
        let mut stream = self.connect().expect("it is served");
        let after = after
            .map(|seq| format!("Last-Event-ID: {seq}\r\n"))
            .unwrap_or_default();
        let text = format!("GET /events HTTP/1.1\r\nHost: localhost\r\n{after}\r\n");
        stream.write_all(text.as_bytes()).expect("it is taken");
        Events {
            lines: BufReader::new(stream),
        }
    }
}

fn parse(all: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(all);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    Some(Answer {
        status,
        headers: lines
            .map(|line| match line.split_once(':') {
                Some((name, value)) => format!("{}:{value}", name.to_lowercase()),
                None => line.to_owned(),
            })
            .collect(),
        body: body.to_owned(),
    })
}

/// A stream of server-sent events.
pub struct Events {
    lines: BufReader<Box<dyn Stream>>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Told {
    /// `event:`.
    pub kind: String,
    /// `id:`.
    pub id: Option<u64>,
    /// `data:`.
    pub data: Value,
}

impl Events {
    /// The next one; `None` when the stream has ended.
    pub fn hear(&mut self) -> Option<Told> {
        let (mut kind, mut id, mut data) = ("message".to_owned(), None, None);
        // Signs of life, which come all the time, are none of what is waited for.
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut line = String::new();
            if self.lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("event: ") {
                kind = text.to_owned();
            } else if let Some(text) = line.strip_prefix("id: ") {
                id = text.parse().ok();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = serde_json::from_str(text).ok();
            } else if line.is_empty()
                && let Some(data) = data.take()
            {
                return Some(Told { kind, id, data });
            }
        }
        None
    }

    /// Waits for what is told next; true when that is a comment, which says only that the stream lives.
    pub fn is_heartbeat(&mut self) -> bool {
        let mut line = String::new();
        loop {
            line.clear();
            match self.lines.read_line(&mut line) {
                Ok(0) | Err(_) => return false,
                Ok(_) if line.starts_with(':') => return true,
                Ok(_) if line.contains(": ") => return false,
                // The lengths of pieces, and what ends them.
                Ok(_) => {}
            }
        }
    }

    /// Waits for an event that `is_it`; all of them up to it.
    ///
    /// # Panics
    /// When the stream ends before.
    #[track_caller]
    pub fn until(&mut self, what: &str, is_it: impl Fn(&Told) -> bool) -> Vec<Told> {
        let mut all = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let Some(told) = self.hear() else { break };
            let is_last = is_it(&told);
            all.push(told);
            if is_last {
                return all;
            }
        }
        panic!("the stream ended before {what}: {all:?}");
    }
}

/// How long a GET took.
pub fn took(door: &Door, path: &str) -> Duration {
    let began = Instant::now();
    let answer = door.get(path);
    assert_eq!(answer.status, 200, "{answer:?}");
    began.elapsed()
}
