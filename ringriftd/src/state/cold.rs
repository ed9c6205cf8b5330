//! The mirror of the state on disk, and the flight recorder beside it: one thread that writes both, behind the
//! manager's loop, which never waits for it.
//!
//! Two files, `engine.0` and `engine.1`: one holds the newest generation, the other the one before. A change is appended
//! to the newest; a whole state is written beside them and takes the older one's place by rename(2), so that a good file
//! is never written over. Only a promise makes the thread sync. Read first: [`Cold`]; [`read`] is for the next start.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::reply::Event;
use tokio::sync::{oneshot, watch};

use super::folder::{Disk, Folder, RealDisk};
use super::queue::{Batch, Promise, Queue, Status};
use super::recorder::Segments;
use super::store::{Half, Look, Pick, Recovered, Unreadable, choose, look};
use crate::limits::{STATE_RETRY_DELAY, STATE_RETRY_MAX_DELAY};

/// The names of the two files.
const NAMES: [&str; 2] = ["engine.0", "engine.1"];
/// A base on its way to one of them.
const NEW: &str = "engine.new";

/// Reads what the folder has, without changing it. A file of a later format is an error that names it. It reads the
/// disk: not on a loop.
pub fn read(folder: &Path, pick: Pick) -> Result<Found, Unreadable> {
    let io = |error| Unreadable::Io {
        file: folder.display().to_string(),
        error,
    };
    let opened = match Folder::open(folder) {
        Ok(opened) => opened,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(e) => return Err(io(e)),
    };
    Ok(find(&opened, pick)?.0)
}

/// What was found on disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// A state.
    pub recovered: Option<Recovered>,
    /// There are files, but nothing in them is sound: why.
    pub lost: Option<String>,
}

/// What was found, the largest generation, and which file is to be kept.
fn find(folder: &Folder, pick: Pick) -> Result<(Found, u64, usize), Unreadable> {
    let looks = [looked(folder, NAMES[0])?, looked(folder, NAMES[1])?];
    let mut newest = 0;
    let mut faults = Vec::new();
    for look in &looks {
        match look {
            Look::Empty => {}
            Look::Sound(generation) => newest = generation.generation.max(newest),
            Look::Broken { why, .. } => faults.push(why.clone()),
        }
    }
    let found = match choose(looks, pick, true) {
        Some((index, generation, notes, is_previous)) => (
            Found {
                recovered: Some(Recovered::new(generation, &notes, is_previous)),
                lost: None,
            },
            newest,
            index,
        ),
        None => (
            Found {
                recovered: None,
                lost: (!faults.is_empty()).then(|| faults.join("; ")),
            },
            newest,
            0,
        ),
    };
    Ok(found)
}

fn looked(folder: &Folder, name: &str) -> Result<Look, Unreadable> {
    let shown = folder.shown(name);
    let file = folder.read(name).map_err(|error| Unreadable::Io {
        file: shown.clone(),
        error,
    })?;
    match file {
        None => Ok(Look::Empty),
        Some(file) => match look(&file, &shown)? {
            // A file gets its name only when it is whole.
            Look::Empty => Ok(Look::Broken {
                why: format!("{shown} is empty"),
                is_unfinished: true,
            }),
            other => Ok(other),
        },
    }
}

/// The hand of the manager: none of its methods waits for anything.
#[derive(Debug)]
pub struct Cold {
    queue: Arc<Queue>,
}

impl Cold {
    /// Starts the thread. It wants a whole state first ([`Status::wants_base`]). `pick` is what [`read`] was asked for:
    /// the generation that was picked is the one that the first base leaves in place.
    pub fn start(folder: &Path, pick: Pick) -> io::Result<Self> {
        Self::start_on(folder, pick, RealDisk)
    }

    /// The same on a disk of your choice.
    pub fn start_on(folder: &Path, pick: Pick, disk: impl Disk) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let writer = Writer {
            queue: Arc::clone(&queue),
            folder: folder.to_owned(),
            pick,
            disk,
            known: None,
            current: None,
            is_dirty: false,
            pause: STATE_RETRY_DELAY,
            again_at: None,
            segments: None,
        };
        std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self { queue })
    }

    /// Hands over a change. When too many wait it is dropped, and a whole state is asked for.
    pub fn delta(&self, delta: Vec<u8>) {
        self.queue.delta(delta);
    }

    /// Hands over a whole state: whenever the hot state gets a new base, and when [`Status::wants_base`].
    pub fn base(&self, base: Vec<u8>) {
        self.queue.base(base);
    }

    /// Told when all that was handed over before survives the machine's death, or why it does not. While a base is
    /// wanted, it waits for that one.
    pub fn promise(&self) -> oneshot::Receiver<Result<(), String>> {
        self.queue.promise()
    }

    /// Hands over an event for the flight recorder. One that is recorded already is left out.
    pub fn event(&self, event: &Event) {
        // An event is plain words and numbers: it always has a text.
        if let Ok(text) = serde_json::to_vec(event) {
            self.queue.event(event.seq, text);
        }
    }

    /// The number of the last event that the flight recorder has, or 0 before the thread has looked. Later ones must be
    /// kept elsewhere, so that they can be handed over again after a crash.
    pub fn recorded(&self) -> u64 {
        self.queue.recorded()
    }

    /// How the disk is. The receiver is also told of each change, so that a loop can wait for `wants_base`.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.queue.status()
    }

    /// The orderly end: writes a last whole state, syncs, and lets the thread end. Told as a promise is.
    pub fn end(self, base: Vec<u8>) -> oneshot::Receiver<Result<(), String>> {
        self.queue.end(Some(base))
    }
}

impl Drop for Cold {
    /// Lets the thread write what waits, and end.
    fn drop(&mut self) {
        drop(self.queue.end(None));
    }
}

/// The thread.
struct Writer<D> {
    queue: Arc<Queue>,
    folder: PathBuf,
    pick: Pick,
    disk: D,
    /// The largest generation on disk, and which file is to be kept. Unknown before the first look.
    known: Option<(u64, usize)>,
    /// The file that changes are appended to, if it is trusted and has all of them.
    current: Option<Half>,
    /// It holds what is not synced.
    is_dirty: bool,
    pause: Duration,
    again_at: Option<Instant>,
    segments: Option<Segments>,
}

impl<D: Disk> Writer<D> {
    fn run(mut self) {
        // A fault is told with the first event that it costs.
        if let Ok(segments) = Folder::open(&self.folder).and_then(Segments::open) {
            self.queue.set_recorded(segments.last_seq());
            self.segments = Some(segments);
        }
        loop {
            let batch = self.queue.take(self.again_at);
            let is_last = batch.is_last;
            self.write(batch);
            if is_last {
                return;
            }
            if self.again_at.is_some_and(|at| at <= Instant::now()) {
                self.again_at = None;
                self.queue.again();
            }
        }
    }

    fn write(&mut self, batch: Batch) {
        let Batch {
            base,
            deltas,
            events,
            promises,
            is_last: _,
        } = batch;
        self.record(&events);
        let result = self.state(base.as_deref(), &deltas, !promises.is_empty());
        let answer = match result {
            Ok(()) => Ok(()),
            Err(why) => {
                let broken = self.queue.failed(&why);
                self.again_at = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(STATE_RETRY_MAX_DELAY);
                tell(broken, &Err(why.clone()));
                Err(why)
            }
        };
        tell(promises, &answer);
    }

    fn state(&mut self, base: Option<&[u8]>, deltas: &[Vec<u8>], is_promised: bool) -> Result<(), String> {
        if let Some(base) = base {
            self.base(base)?;
            self.pause = STATE_RETRY_DELAY;
            self.again_at = None;
            self.queue.healed();
        }
        for delta in deltas {
            // Without a current file they are of no use: a base is asked for.
            let Some(half) = &mut self.current else { break };
            self.is_dirty = true;
            if let Err(e) = self.disk.append(half, delta) {
                self.current = None;
                return Err(self.said("write the state to", &e));
            }
        }
        if !is_promised {
            return Ok(());
        }
        let Some(half) = &self.current else {
            return Err(format!(
                "the state in {} is behind what happens, and no whole state came",
                self.folder.display()
            ));
        };
        if !half.file().metadata().is_ok_and(|m| m.nlink() > 0) {
            // A sync of it would promise what nobody can find.
            self.current = None;
            return Err(format!("the state in {} was removed", self.folder.display()));
        }
        if self.is_dirty {
            if let Err(e) = self.disk.sync(half.file()) {
                // After a failed fsync(2) the kernel may have thrown away what it could not write, and a second one
                // would succeed. This file is not believed any more: the other one is kept, and this one's place is
                // taken by a new base.
                self.current = None;
                if let Some((_, kept)) = &mut self.known {
                    *kept = 1 - *kept;
                }
                return Err(self.said("sync the state in", &e));
            }
            self.is_dirty = false;
        }
        Ok(())
    }

    fn said(&self, verb: &str, error: &io::Error) -> String {
        format!("cannot {verb} {}: {error}", self.folder.display())
    }

    /// Puts a whole state in the place of the older file.
    fn base(&mut self, base: &[u8]) -> Result<(), String> {
        // Opened each time: it may have been replaced.
        let folder = Folder::open(&self.folder).map_err(|e| e.to_string())?;
        let (newest, kept) = match self.known {
            Some(known) => known,
            None => {
                let (_, newest, kept) = find(&folder, self.pick).map_err(|e| e.to_string())?;
                (newest, kept)
            }
        };
        let target = 1 - kept;
        let generation = newest + 1;
        self.known = Some((generation, kept));
        self.current = None;
        match self.put(&folder, generation, base, NAMES[target]) {
            Ok(half) => {
                self.known = Some((generation, target));
                self.current = Some(half);
                self.is_dirty = false;
                Ok(())
            }
            Err(e) => {
                // What is left of it only takes room. If that fails too, the next base removes it.
                let _ = folder.remove(NEW);
                Err(self.said("write the state to", &e))
            }
        }
    }

    fn put(&mut self, folder: &Folder, generation: u64, base: &[u8], name: &str) -> io::Result<Half> {
        let file = self.disk.make(folder, NEW)?;
        let half = self.disk.begin(file, generation, base)?;
        self.disk.sync(half.file())?;
        self.disk.rename(folder, NEW, name)?;
        self.disk.sync_folder(folder)?;
        Ok(half)
    }

    fn record(&mut self, events: &[(u64, Vec<u8>)]) {
        if events.is_empty() {
            return;
        }
        let mut segments = match self.segments.take().filter(Segments::is_in_place) {
            Some(segments) => segments,
            None => match Folder::open(&self.folder).and_then(Segments::open) {
                Ok(segments) => segments,
                Err(e) => return self.miss(events.len(), &e),
            },
        };
        let result = segments.append(events);
        self.queue.set_recorded(segments.last_seq());
        match result {
            Ok(()) => {
                self.segments = Some(segments);
                self.queue.recorder(0, None);
            }
            // Looked at anew next time: the folder or its files may be others then.
            Err(e) => {
                let last = segments.last_seq();
                self.miss(events.iter().filter(|(seq, _)| *seq > last).count(), &e);
            }
        }
    }

    fn miss(&self, events: usize, error: &io::Error) {
        let why = self.said("record events in", error);
        self.queue.recorder(events as u64, Some(why));
    }
}

fn tell(promises: Vec<Promise>, answer: &Result<(), String>) {
    for promise in promises {
        // Who asked has gone: nothing to tell.
        let _ = promise.send(answer.clone());
    }
}
