//! The flight recorder: every event of the node in two files of bounded size, the older of which is begun anew when
//! the newer is full. It is never synced, and never waited for.
//!
//! An event has the number that the engine gave it. What is missing shows as a hole in the numbers, whatever it was: a
//! full disk, damage, or age. Read first: [`Segments`], which writes, and [`Reading`].

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use proto::reply::Event;

use super::folder::Folder;
use super::record::{Kind, Record, VERSION, encode, read_through};
use crate::limits::RECORDER_SEGMENT;

/// The names of the two files.
const NAMES: [&str; 2] = ["events.0", "events.1"];

/// One file as it was read.
#[derive(Default)]
struct Segment {
    /// The sound events in it.
    records: Vec<Record>,
    /// Behind the last sound one.
    end: u64,
    /// What is wrong, for people.
    damage: Option<String>,
    /// A later version of the format that some of it has.
    newer: Option<u16>,
}

fn read_segment(folder: &Folder, name: &str) -> io::Result<Segment> {
    let Some(file) = folder.read(name)? else {
        return Ok(Segment::default());
    };
    // A longer file is not ours.
    let mut bytes = Vec::new();
    file.take(RECORDER_SEGMENT).read_to_end(&mut bytes)?;
    let pieces = read_through(&bytes);
    let mut segment = Segment {
        damage: pieces
            .fault
            .map(|(at, fault)| format!("{} is damaged at byte {at}: {fault}", folder.shown(name))),
        newer: pieces.newer,
        ..Segment::default()
    };
    for (at, record) in pieces.records {
        segment.end = at as u64 + record.size();
        match record.kind {
            Kind::Event => segment.records.push(record),
            Kind::Base | Kind::Delta => {}
        }
    }
    Ok(segment)
}

/// The number of the last event that is recorded in this folder, or 0.
pub fn last_seq(folder: &Path) -> io::Result<u64> {
    let folder = Folder::open(folder)?;
    let mut last = 0;
    for name in NAMES {
        let segment = read_segment(&folder, name)?;
        last = segment.records.iter().map(|r| r.number).fold(last, u64::max);
    }
    Ok(last)
}

/// The two files, to be written.
#[derive(Debug)]
pub struct Segments {
    folder: Folder,
    file: File,
    /// Which of the two.
    index: usize,
    /// Counts the files that were begun.
    generation: u64,
    end: u64,
    last_seq: u64,
}

impl Segments {
    /// Goes on behind the last sound event.
    pub fn open(folder: Folder) -> io::Result<Self> {
        let mut last_seq = 0;
        let mut newest = (1, 0, 0);
        for (index, name) in NAMES.into_iter().enumerate() {
            let segment = read_segment(&folder, name)?;
            if let Some(version) = segment.newer {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{} has format version {version}, and this ringriftd writes {VERSION}; it is left untouched: \
                         run the newer ringriftd, or move the file away",
                        folder.shown(name)
                    ),
                ));
            }
            last_seq = segment.records.iter().map(|r| r.number).fold(last_seq, u64::max);
            let generation = segment.records.iter().map(|r| r.generation).max().unwrap_or(0);
            if generation >= newest.0 {
                newest = (generation, index, segment.end);
            }
        }
        let (generation, index, end) = newest;
        let file = folder.write(NAMES[index])?;
        // What is behind the last sound event is not, and what follows must not lie behind it.
        file.set_len(end)?;
        Ok(Self {
            folder,
            file,
            index,
            generation,
            end,
            last_seq,
        })
    }

    /// Appends events, leaving out those that are there already: after a crash they are told again. After a
    /// failure [`Segments::last_seq`] tells which are recorded.
    pub fn append(&mut self, events: &[(u64, Vec<u8>)]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut last = self.last_seq;
        for (seq, text) in events {
            if *seq <= last {
                continue;
            }
            let record = encode(Kind::Event, self.generation, *seq, text)?;
            if self.end + (bytes.len() + record.len()) as u64 > RECORDER_SEGMENT {
                self.write(&bytes, last)?;
                bytes.clear();
                self.turn()?;
                bytes.extend(encode(Kind::Event, self.generation, *seq, text)?);
            } else {
                bytes.extend(record);
            }
            last = *seq;
        }
        self.write(&bytes, last)
    }

    /// The file that is written is still where readers look for it.
    pub fn is_in_place(&self) -> bool {
        self.file.metadata().is_ok_and(|m| m.nlink() > 0)
    }

    /// The number of the last event that is recorded, or 0.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    fn write(&mut self, bytes: &[u8], last: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Err(e) = self.file.write_all_at(bytes, self.end) {
            let _ = self.file.set_len(self.end);
            return Err(e);
        }
        self.end += bytes.len() as u64;
        self.last_seq = last;
        Ok(())
    }

    /// Begins the older file anew.
    fn turn(&mut self) -> io::Result<()> {
        let next = 1 - self.index;
        let file = self.folder.write(NAMES[next])?;
        file.set_len(0)?;
        self.file = file;
        self.index = next;
        self.generation += 1;
        self.end = 0;
        Ok(())
    }
}

/// One thing that the recorder tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// An event.
    Event(Event),
    /// These are not there, the first and the last of them: too old, lost, or never written.
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
}

/// The sound events of both files as they were at one moment, at most 16 MiB of them, in the order of their numbers.
#[derive(Debug)]
pub struct Reading {
    records: std::vec::IntoIter<Record>,
    /// The number that should come next; unknown before the first.
    expected: Option<u64>,
    since_us: u64,
    /// What is wrong with the files, for people.
    pub damage: Vec<String>,
}

impl Reading {
    /// Events with a larger number than `seq`. It reads the disk: not on a loop.
    pub fn after(folder: &Path, seq: u64) -> io::Result<Self> {
        let mut reading = Self::all(folder)?;
        let mut records: Vec<Record> = reading.records.collect();
        records.retain(|record| record.number > seq);
        reading.records = records.into_iter();
        reading.expected = Some(seq + 1);
        Ok(reading)
    }

    /// Events from a point of the wall clock on, in µs. It reads the disk: not on a loop.
    pub fn since_us(folder: &Path, us: u64) -> io::Result<Self> {
        let mut reading = Self::all(folder)?;
        reading.since_us = us;
        Ok(reading)
    }

    fn all(folder: &Path) -> io::Result<Self> {
        let folder = Folder::open(folder)?;
        let mut records = Vec::new();
        let mut damage = Vec::new();
        for name in NAMES {
            let segment = read_segment(&folder, name)?;
            records.extend(segment.records);
            damage.extend(segment.damage);
        }
        records.sort_by_key(|r| (r.number, std::cmp::Reverse(r.generation)));
        // A file that was begun anew while it was read may tell something twice.
        records.dedup_by_key(|r| r.number);
        Ok(Self {
            records: records.into_iter(),
            expected: None,
            since_us: 0,
            damage,
        })
    }

    /// The next entries, at most so many events; empty at the end.
    pub fn next_chunk(&mut self, events: usize) -> Vec<Entry> {
        let mut chunk = Vec::new();
        let mut count = 0;
        while count < events {
            let Some(record) = self.records.next() else { break };
            // One that a later version wrote in other words is missing for this one.
            let Ok(event) = serde_json::from_slice::<Event>(&record.payload) else {
                continue;
            };
            if event.at_us < self.since_us {
                continue;
            }
            if let Some(from) = self.expected.filter(|expected| *expected < record.number) {
                chunk.push(Entry::Missing {
                    from,
                    to: record.number - 1,
                });
            }
            self.expected = Some(record.number.saturating_add(1));
            chunk.push(Entry::Event(event));
            count += 1;
        }
        chunk
    }
}
