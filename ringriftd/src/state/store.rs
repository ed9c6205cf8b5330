//! A state in two files: a *half* holds one generation, that is a base (a whole state) and the deltas since; the other
//! half holds the generation before. The files may be memory that the keeper holds or lie on a disk.
//!
//! What a payload says is opaque here. Nothing here syncs: memory needs none, and `cold` knows when a disk does. Read
//! first: [`Halves`] and [`Half`].

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;

use super::record::{Fault, Kind, READS, Row, encode, read_row};
use crate::limits::{STATE_DELTAS_MIN, STATE_FILE_MAX};

/// What is read from a file at once.
const BLOCK: usize = 256 * 1024;

/// Why a state could not be read at all. Damage is no such reason: what is sound is used.
#[derive(Debug)]
pub enum Unreadable {
    /// A later ringriftd wrote it. It is left as it is.
    Newer {
        /// Which file.
        file: String,
        /// Its version.
        version: u16,
    },
    /// The system refused.
    Io {
        /// Which file.
        file: String,
        /// What it said.
        error: io::Error,
    },
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newer { file, version } => write!(
                f,
                "cannot use {file}: it has format version {version}, and this ringriftd reads {} to {}\n  \
                 why: a newer ringriftd wrote it, and what it says must not be lost; it is left untouched\n  \
                 help: run that ringriftd, or move the file away to begin without what it holds",
                READS.start(),
                READS.end()
            ),
            Self::Io { file, error } => write!(f, "cannot read {file}: {error}"),
        }
    }
}

/// One generation as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number; a later one is larger.
    pub generation: u64,
    /// The whole state that it began with.
    pub base: Vec<u8>,
    /// What changed since, in order.
    pub deltas: Vec<Vec<u8>>,
    /// What of the file was not used, and why.
    pub left_out: Option<String>,
    sound: u64,
    base_size: u64,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Empty,
    /// A generation.
    Sound(Generation),
    /// No sound base.
    Broken {
        /// Why.
        why: String,
        /// It ends within its first record, as it does when its writer was killed.
        is_unfinished: bool,
    },
}

/// Reads from the beginning, whatever the descriptor's offset, which others may share.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Reads a file of state. `name` is what messages call it.
pub fn look(file: &File, name: &str) -> Result<Look, Unreadable> {
    let broken = |error| Unreadable::Io {
        file: name.to_owned(),
        error,
    };
    let size = file.metadata().map_err(broken)?.len();
    if size == 0 {
        return Ok(Look::Empty);
    }
    let mut source = BufReader::with_capacity(BLOCK, FromStart { file, at: 0 }.take(STATE_FILE_MAX));
    let row = read_row(&mut source).map_err(broken)?;
    if let Some(Fault::Newer(version)) = row.fault {
        return Err(Unreadable::Newer {
            file: name.to_owned(),
            version,
        });
    }
    Ok(judge(row, size, name))
}

/// A row is a generation as far as it is a base and the deltas that follow it, none missing.
fn judge(row: Row, size: u64, name: &str) -> Look {
    let end = row.sound;
    let fault = row.fault;
    let mut records = row.records.into_iter();
    let base = match records.next() {
        Some(first) if first.kind == Kind::Base && first.number == 0 => first,
        Some(_) => {
            return Look::Broken {
                why: format!("{name} does not begin with a whole state, so nothing of it is used"),
                is_unfinished: false,
            };
        }
        None => {
            let fault = fault.unwrap_or(Fault::CutShort);
            return Look::Broken {
                why: format!("nothing of {name} is used ({size} bytes): {fault}"),
                is_unfinished: fault == Fault::CutShort,
            };
        }
    };
    let base_size = base.size();
    let mut sound = base_size;
    let mut deltas = Vec::new();
    let mut out_of_place = false;
    for record in records {
        let follows = record.kind == Kind::Delta
            && record.generation == base.generation
            && record.number == deltas.len() as u64 + 1;
        if !follows {
            out_of_place = true;
            break;
        }
        sound += record.size();
        deltas.push(record.payload);
    }
    let why = match (out_of_place, fault) {
        (true, _) => Some("the record there does not follow the one before it".to_owned()),
        (false, Some(fault)) => Some(fault.to_string()),
        (false, None) if end < size => Some(format!("the file is larger than {} MiB", STATE_FILE_MAX >> 20)),
        (false, None) => None,
    };
    let left_out = why.map(|why| {
        format!(
            "{name} is used up to byte {sound}, the {} bytes after it are left out: {why}",
            size.saturating_sub(sound)
        )
    });
    Look::Sound(Generation {
        generation: base.generation,
        base: base.payload,
        deltas,
        left_out,
        sound,
        base_size,
    })
}

/// A file that a generation is written to.
#[derive(Debug)]
pub struct Half {
    file: File,
    generation: u64,
    /// Of the next delta.
    number: u64,
    end: u64,
    base_size: u64,
    /// There may be something behind `end` that must go first.
    is_torn: bool,
}

impl Half {
    /// Writes a new generation over whatever the file holds. It counts once this returns; if it fails, the file holds
    /// none.
    pub fn begin(file: File, generation: u64, base: &[u8]) -> Result<Self, (File, io::Error)> {
        let write = || -> io::Result<u64> {
            let bytes = encode(Kind::Base, generation, 0, base)?;
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)?;
            Ok(bytes.len() as u64)
        };
        match write() {
            Ok(size) => Ok(Self {
                file,
                generation,
                number: 1,
                end: size,
                base_size: size,
                is_torn: false,
            }),
            Err(error) => {
                // What is left of it is no sound base either way; empty, it also gives its room back.
                let _ = file.set_len(0);
                Err((file, error))
            }
        }
    }

    /// Goes on where a generation ended.
    pub fn resume(file: File, read: &Generation) -> Self {
        Self {
            file,
            generation: read.generation,
            number: read.deltas.len() as u64 + 1,
            end: read.sound,
            base_size: read.base_size,
            is_torn: read.left_out.is_some(),
        }
    }

    /// Appends a delta by one write(2): after it the delta counts, and if it fails it never happened.
    pub fn append(&mut self, delta: &[u8]) -> io::Result<()> {
        let bytes = encode(Kind::Delta, self.generation, self.number, delta)?;
        if self.end + bytes.len() as u64 > STATE_FILE_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!(
                    "the state would be larger than {} MiB; a new base must come first",
                    STATE_FILE_MAX >> 20
                ),
            ));
        }
        if self.is_torn {
            self.file.set_len(self.end)?;
            self.is_torn = false;
        }
        let written = loop {
            match self.file.write_at(&bytes, self.end) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let error = match written {
            Ok(n) if n == bytes.len() => {
                self.end += n as u64;
                self.number += 1;
                return Ok(());
            }
            Ok(n) => io::Error::new(
                io::ErrorKind::StorageFull,
                format!("only {n} of {} bytes could be written", bytes.len()),
            ),
            Err(e) => e,
        };
        // A part of a record is never believed; but the next one must not follow it.
        self.is_torn = self.file.set_len(self.end).is_err();
        Err(error)
    }

    /// The deltas outweigh the base, so that a new base pays.
    pub fn is_heavy(&self) -> bool {
        self.deltas_size() >= self.base_size.max(STATE_DELTAS_MIN)
    }

    fn deltas_size(&self) -> u64 {
        self.end - self.base_size
    }

    /// Its generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Which generation is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The newest that is sound.
    Newest,
    /// The one before it: what the last state does to its readers may be what kills them.
    Previous,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Its number.
    pub generation: u64,
    /// The whole state that it began with.
    pub base: Vec<u8>,
    /// What changed since, in order.
    pub deltas: Vec<Vec<u8>>,
    /// What was not used, and why; to be told to people.
    pub left_out: Option<String>,
    /// There was a later generation, which was damaged or not wanted.
    pub is_previous: bool,
}

/// Chooses among two looks: the index of the chosen one, it, and whether a later one was passed over.
/// `unfinished_is_lost`: a half that ends within its base was whole once.
pub fn choose(
    looks: [Look; 2],
    pick: Pick,
    unfinished_is_lost: bool,
) -> Option<(usize, Generation, Vec<String>, bool)> {
    let mut notes = Vec::new();
    let mut is_lost = false;
    let mut sound = Vec::new();
    for (index, look) in looks.into_iter().enumerate() {
        match look {
            Look::Empty => {}
            Look::Sound(generation) => sound.push((index, generation)),
            Look::Broken { why, is_unfinished } => {
                is_lost |= unfinished_is_lost || !is_unfinished;
                notes.push(why);
            }
        }
    }
    sound.sort_by_key(|(_, g)| std::cmp::Reverse(g.generation));
    if pick == Pick::Previous && !sound.is_empty() {
        let (_, newest) = sound.remove(0);
        notes.push(format!(
            "generation {} is passed over as was asked",
            newest.generation
        ));
        is_lost = true;
    }
    let (index, generation) = sound.into_iter().next()?;
    notes.extend(generation.left_out.clone());
    Some((index, generation, notes, is_lost))
}

impl Recovered {
    /// From what [`choose`] chose.
    pub fn new(generation: Generation, notes: &[String], is_previous: bool) -> Self {
        Self {
            generation: generation.generation,
            base: generation.base,
            deltas: generation.deltas,
            left_out: (!notes.is_empty()).then(|| notes.join("; ")),
            is_previous,
        }
    }
}

/// A state in two files that are written in place: the *hot* state, in memory that outlives the process.
#[derive(Debug)]
pub struct Halves {
    /// The one that is not being appended to; both, before the first base.
    spare: Vec<File>,
    current: Option<Half>,
    /// The largest generation that either file has.
    newest: u64,
    /// The current generation is not the newest, so that what is appended to it would not be found again.
    is_stale: bool,
    /// After a new base failed: from which size on it is tried again.
    again_at: u64,
}

impl Halves {
    /// Reads both and goes on with the one that is picked. With nothing there, [`Halves::rebase`] comes first.
    pub fn open(files: [File; 2], pick: Pick) -> Result<(Self, Option<Recovered>), Unreadable> {
        let [first, second] = files;
        let looks = [
            look(&first, "the first half of the state in memory")?,
            look(&second, "the second half of the state in memory")?,
        ];
        let newest = looks
            .iter()
            .map(|look| match look {
                Look::Sound(generation) => generation.generation,
                Look::Empty | Look::Broken { .. } => 0,
            })
            .max()
            .unwrap_or(0);
        let mut halves = Self {
            spare: Vec::new(),
            current: None,
            newest,
            is_stale: false,
            again_at: 0,
        };
        let Some((index, generation, notes, is_previous)) = choose(looks, pick, false) else {
            halves.spare = vec![second, first];
            return Ok((halves, None));
        };
        let (mine, other) = if index == 0 {
            (first, second)
        } else {
            (second, first)
        };
        halves.is_stale = generation.generation != newest;
        halves.current = Some(Half::resume(mine, &generation));
        halves.spare = vec![other];
        Ok((halves, Some(Recovered::new(generation, &notes, is_previous))))
    }

    /// Appends a delta by one write(2), the commit point. A failure changes nothing.
    pub fn append(&mut self, delta: &[u8]) -> io::Result<()> {
        match &mut self.current {
            Some(half) if !self.is_stale => half.append(delta),
            Some(_) | None => Err(io::Error::other("a new base must come first")),
        }
    }

    /// Writes a whole state into the other file. It counts once it is whole; a failure leaves the current generation
    /// as it is.
    pub fn rebase(&mut self, base: &[u8]) -> io::Result<()> {
        let Some(file) = self.spare.pop() else {
            return Err(io::Error::other("both files of the state are gone"));
        };
        match Half::begin(file, self.newest + 1, base) {
            Ok(half) => {
                self.newest = half.generation;
                self.is_stale = false;
                self.again_at = 0;
                if let Some(old) = self.current.replace(half) {
                    self.spare.push(old.file);
                }
                Ok(())
            }
            Err((file, error)) => {
                self.spare.push(file);
                self.again_at = self
                    .current
                    .as_ref()
                    .map_or(0, |half| half.end + STATE_DELTAS_MIN);
                Err(error)
            }
        }
    }

    /// A new base is due: there is none, the current one is an older one, or its deltas outweigh it. After a failure it
    /// is due again when there is as much more.
    pub fn needs_rebase(&self) -> bool {
        match &self.current {
            Some(half) => self.is_stale || (half.is_heavy() && half.end >= self.again_at),
            None => true,
        }
    }

    /// The generation that is appended to; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.current.as_ref().map_or(0, |half| half.generation)
    }
}
