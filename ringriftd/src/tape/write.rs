//! The file of a recording, and the thread that writes it: a slow disk costs steps of the recording, which are counted,
//! and never holds up the manager.
//!
//! Read first: [`Tape`].

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::types::{Beginning, From, Input, Step, TAPE_VERSION, line};
use crate::clock::Now;
use crate::engine::types::Action;
use crate::limits;
use crate::state::record::{Kind, MAGIC, encode};

/// What the thread is told.
enum Piece {
    /// These bytes, in a new file if it `turns`.
    Write { bytes: Vec<u8>, turns: bool },
    /// To answer when all before is written.
    Flush(SyncSender<()>),
}

/// What hand and thread share.
#[derive(Debug, Default)]
struct Shared {
    /// Bytes on their way.
    waiting: AtomicUsize,
    /// Why nothing is recorded any more.
    broken: Mutex<Option<String>>,
}

impl Shared {
    fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, why: String) {
        tracing::error!("{why}: nothing is recorded any more");
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

/// The manager's hand on a recording. Nothing here waits for a disk but [`Tape::open`] and [`Tape::flush`].
#[derive(Debug)]
pub struct Tape {
    shown: String,
    to: SyncSender<Piece>,
    shared: Arc<Shared>,
    /// What a file may have, in bytes.
    most: u64,
    /// What this one has.
    size: u64,
    /// The number of the open section, and of the last step in it.
    section: Option<(u64, u64)>,
    last_section: u64,
    lost: u64,
    inputs: Vec<Input>,
    actions: Vec<String>,
}

/// Where the older half of a recording goes.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

fn open(path: &Path, is_new: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .read(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    if is_new {
        options.create_new(true);
    } else {
        options.create(true);
    }
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}

impl Tape {
    /// Goes on behind what `path` has, or begins it. The error is for people.
    pub fn open(path: &Path) -> Result<Self, String> {
        Self::open_with(path, limits::RECORDING_MAX)
    }

    /// The same with another bound on the file.
    pub fn open_with(path: &Path, most: u64) -> Result<Self, String> {
        let shown = path.display().to_string();
        let cannot = |e: &dyn std::fmt::Display| format!("cannot record into {shown}: {e}");
        let mut file = open(path, false).map_err(|e| cannot(&e))?;
        let size = file.metadata().map_err(|e| cannot(&e))?.len();
        let mut head = Vec::new();
        io::Read::by_ref(&mut file)
            .take(MAGIC.len() as u64)
            .read_to_end(&mut head)
            .map_err(|e| cannot(&e))?;
        if !MAGIC.starts_with(&head) {
            return Err(cannot(
                &"it is there and is no recording: name another file, or move it away",
            ));
        }
        let (to, pieces) = sync_channel(limits::RECORDING_QUEUE);
        let shared = Arc::new(Shared::default());
        let writer = Writer {
            path: path.to_owned(),
            file,
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new()
            .name("recording".to_owned())
            .spawn(move || writer.run(&pieces))
            .map_err(|e| cannot(&e))?;
        Ok(Self {
            shown,
            to,
            shared,
            most,
            size,
            section: None,
            last_section: 0,
            lost: 0,
            inputs: Vec::new(),
            actions: Vec::new(),
        })
    }

    /// Nothing was told since the last step was complete.
    pub fn is_between_steps(&self) -> bool {
        self.inputs.is_empty()
    }

    /// The next input needs a section to stand in. `is_restorable`: the engine can be restored as it is now.
    pub fn wants_section(&self, is_restorable: bool) -> bool {
        match self.section {
            Some((_, steps)) => steps > 0 && self.size > self.most && is_restorable,
            None if self.lost > 0 => is_restorable && self.shared.waiting.load(Ordering::Acquire) == 0,
            None => true,
        }
    }

    /// Begins a section with this engine.
    pub fn begin_section(&mut self, from: From, is_paused: bool) {
        let at_us = Now::read().wall_us;
        let number = at_us.max(self.last_section + 1);
        let beginning = Beginning {
            version: TAPE_VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            at_us,
            is_continued: self.section.is_some(),
            lost: std::mem::take(&mut self.lost),
            is_paused,
            from,
        };
        let turns = self.size > self.most;
        self.section = Some((number, 0));
        self.last_section = number;
        match serde_json::to_vec(&beginning) {
            Ok(payload) => self.put(Kind::Base, &payload, turns),
            Err(e) => self.cannot(&e),
        }
    }

    /// Another engine comes.
    pub fn end_section(&mut self) {
        self.section = None;
        self.inputs.clear();
        self.actions.clear();
    }

    /// The engine is about to be told this.
    pub fn input(&mut self, input: Input) {
        self.inputs.push(input);
    }

    /// The engine asked for this.
    pub fn action(&mut self, action: &Action) {
        if self.section.is_none() {
            return;
        }
        match line(action) {
            Ok(line) => self.actions.push(line),
            Err(e) => self.cannot(&e),
        }
    }

    /// It asks for nothing more.
    pub fn end_step(&mut self) {
        let inputs = std::mem::take(&mut self.inputs);
        let actions = std::mem::take(&mut self.actions);
        if inputs.is_empty() {
            return;
        }
        match &mut self.section {
            Some((_, steps)) => *steps += 1,
            None => return self.lost += 1,
        }
        match Step::payload(&inputs, &actions) {
            Ok(payload) => self.put(Kind::Delta, &payload, false),
            Err(e) => self.cannot(&e),
        }
    }

    fn put(&mut self, kind: Kind, payload: &[u8], turns: bool) {
        if self.shared.broken().is_some() {
            return;
        }
        let (section, step) = self.section.unwrap_or_default();
        let bytes = match encode(kind, section, step, payload) {
            Ok(bytes) => bytes,
            Err(e) => return self.cannot(&e),
        };
        let size = bytes.len();
        let before = self.shared.waiting.fetch_add(size, Ordering::AcqRel);
        // One that is alone may be as long as it likes.
        let has_room = before == 0 || before + size <= limits::RECORDING_QUEUE_BYTES;
        let sent = has_room.then(|| self.to.try_send(Piece::Write { bytes, turns }));
        match sent {
            Some(Ok(())) => {
                self.size = if turns { 0 } else { self.size } + size as u64;
            }
            Some(Err(TrySendError::Disconnected(_))) => {
                self.cannot(&"its writer has ended");
            }
            Some(Err(TrySendError::Full(_))) | None => {
                self.shared.waiting.fetch_sub(size, Ordering::AcqRel);
                self.section = None;
                if kind == Kind::Delta {
                    self.lost += 1;
                }
            }
        }
    }

    fn cannot(&self, why: &dyn std::fmt::Display) {
        if self.shared.broken().is_none() {
            self.shared
                .fail(format!("cannot record into {}: {why}", self.shown));
        }
    }

    /// Why it has ended before its time.
    pub fn trouble(&self) -> Option<String> {
        let broken = self.shared.broken();
        broken.map(|why| format!("{why}: nothing is recorded any more"))
    }

    /// The file, for people.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Waits until all of it is in the file, at most [`limits::RECORDING_FLUSH`].
    pub fn flush(&mut self) {
        let (done, told) = sync_channel(1);
        if self.to.try_send(Piece::Flush(done)).is_ok() {
            // A disk that hangs keeps its end.
            let _ = told.recv_timeout(limits::RECORDING_FLUSH);
        }
    }
}

/// The thread.
struct Writer {
    path: PathBuf,
    file: File,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, pieces: &Receiver<Piece>) {
        while let Ok(piece) = pieces.recv() {
            match piece {
                Piece::Write { bytes, turns } => {
                    let is_broken = self.shared.broken().is_some();
                    if !is_broken && let Err(e) = self.write(&bytes, turns) {
                        self.shared
                            .fail(format!("cannot record into {}: {e}", self.path.display()));
                    }
                    self.shared.waiting.fetch_sub(bytes.len(), Ordering::AcqRel);
                }
                // Whoever asked may have waited long enough.
                Piece::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn write(&mut self, bytes: &[u8], turns: bool) -> io::Result<()> {
        if turns {
            std::fs::rename(&self.path, older(&self.path))?;
            self.file = open(&self.path, true)?;
        }
        self.file.write_all(bytes)
    }
}
