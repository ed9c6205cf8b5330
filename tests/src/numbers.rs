//! Numbered lines: `rr-bad count` writes them, and this holds the log files to them. Each life's numbers stand in its
//! unit's files from 1 on without hole, repeat or cut, credited to that life and no other, up to what the life noted that
//! it had written.
//!
//! Read first: [`Numbers::check`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::{Node, NodeBuilder, PATIENCE, Unit, node, until_within};

/// Where a node's counting units note what they wrote.
const FOLDER: &str = "noted";

/// A unit that writes so many numbered lines a second, on a node that was prepared by [`prepare`].
pub fn unit(builder: &NodeBuilder, a_second: u32) -> Unit {
    Unit::bad(&["count", &a_second.to_string(), "--noted", &builder.path(FOLDER)])
}

/// Makes the folder for the notes.
pub fn prepare(builder: NodeBuilder) -> NodeBuilder {
    builder.file(&format!("{FOLDER}/.made"), "")
}

/// What the files of all units say of one life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Life {
    /// Whose.
    pub unit: String,
    /// The last number in the files.
    pub logged: u64,
    /// The last number that it noted, when it noted any.
    pub noted: u64,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Lives that wrote.
    pub lives: usize,
    /// Their lines.
    pub lines: u64,
}

/// The numbered lines of a node.
#[derive(Debug)]
pub struct Numbers<'a> {
    node: &'a Node,
    /// Lives that ended while nobody read their pipe: what they wrote last may be lost.
    unread: BTreeSet<String>,
}

impl<'a> Numbers<'a> {
    /// Of a node.
    pub fn of(node: &'a Node) -> Self {
        Self {
            node,
            unread: BTreeSet::new(),
        }
    }

    /// These lives (by their invocation's text) ended while all of ringriftd was dead: the end of what they wrote may
    /// be missing.
    pub fn unread(mut self, lives: impl IntoIterator<Item = String>) -> Self {
        self.unread.extend(lives);
        self
    }

    /// Holds all that is in the files to the rules, whoever still writes, and returns it by life.
    ///
    /// # Panics
    /// When a line was lost, repeated, cut, disordered, or credited to another life.
    #[track_caller]
    pub fn so_far(&self) -> BTreeMap<String, Life> {
        // First: what is noted after this look may not be logged yet.
        let noted = self.noted();
        let mut lives = self
            .logged()
            .unwrap_or_else(|why| panic!("{why}\n{}", self.node.stderr()));
        for (invocation, (unit, number)) in noted {
            let life = lives.entry(invocation).or_default();
            (life.unit, life.noted) = (unit, number);
        }
        lives
    }

    /// The same once every line is there: no unit may write any more.
    ///
    /// # Panics
    /// As [`Self::so_far`], and when a line does not come.
    #[track_caller]
    pub fn check(&self) -> Figures {
        let mut short = Vec::new();
        let whole = until_within(PATIENCE, || {
            let lives = self.so_far();
            short = lives
                .iter()
                .filter(|(invocation, life)| life.logged < life.noted && !self.unread.contains(*invocation))
                .map(|(invocation, life)| format!("{invocation}: {life:?}"))
                .collect();
            short.is_empty().then_some(lives)
        });
        let lives = whole.unwrap_or_else(|| panic!("lines are lost: {short:#?}\n{}", self.node.stderr()));
        for (invocation, life) in &lives {
            // Between a write and its note, a life may be ended: one write more than was noted.
            assert!(
                life.logged <= life.noted + MOST_A_WRITE,
                "{invocation} has lines that it never wrote: {life:?}"
            );
        }
        Figures {
            lives: lives.len(),
            lines: lives.values().map(|life| life.logged).sum(),
        }
    }

    fn noted(&self) -> BTreeMap<String, (String, u64)> {
        let mut noted = BTreeMap::new();
        for file in node::walk(&self.node.path(FOLDER)) {
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if let Some((unit, invocation)) = name.rsplit_once('.')
                && !unit.is_empty()
            {
                let bytes = std::fs::read(&file).unwrap_or_default();
                let number = <[u8; 8]>::try_from(bytes.as_slice()).map_or(0, u64::from_le_bytes);
                noted.insert(invocation.to_owned(), (unit.to_owned(), number));
            }
        }
        noted
    }

    fn logged(&self) -> Result<BTreeMap<String, Life>, String> {
        let mut lives = BTreeMap::new();
        let folder = self.node.path("log");
        let names: BTreeSet<String> = node::walk(&folder)
            .iter()
            .filter_map(|file| {
                let name = file.file_name()?.to_str()?;
                Some(name.split_once(".log")?.0.to_owned())
            })
            .collect();
        for unit in names {
            read_unit(&folder, &unit, &mut lives)?;
        }
        Ok(lives)
    }
}

/// The lines of one write of `rr-bad count` at most: a hundred writes a second, PIPE_BUF bytes.
const MOST_A_WRITE: u64 = 100;

/// A unit's log files, the oldest first. A rotation between two looks at the folder moves a file from one name to the
/// next, so all are opened before any is read, and each is read once.
fn files_of(folder: &Path, unit: &str) -> Vec<PathBuf> {
    let plain = folder.join(format!("{unit}.log"));
    let mut numbered: Vec<(u32, PathBuf)> = node::walk(folder)
        .into_iter()
        .filter_map(|file| {
            let name = file.file_name()?.to_str()?;
            let number = name.strip_prefix(unit)?.strip_prefix(".log.")?.parse().ok()?;
            Some((number, file))
        })
        .collect();
    numbered.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    numbered
        .into_iter()
        .map(|(_, file)| file)
        .chain([plain])
        .collect()
}

fn read_unit(folder: &Path, unit: &str, lives: &mut BTreeMap<String, Life>) -> Result<(), String> {
    for file in files_of(folder, unit) {
        let Ok(bytes) = std::fs::read(&file) else {
            continue;
        };
        let name = file.display();
        let mut last_stamp: &[u8] = b"";
        let mut lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
        // What stands behind the last newline is being written at this moment; a logger that died there, is mended
        // by the next.
        lines.pop();
        for (n, line) in lines.into_iter().enumerate() {
            let wrong = |what: &str| format!("{name}:{}: {what}: {}", n + 1, String::from_utf8_lossy(line));
            let (stamp, serial, text) = record(line).ok_or_else(|| wrong("no whole record"))?;
            if stamp < last_stamp {
                return Err(wrong("its time is before that of the line above"));
            }
            last_stamp = stamp;
            let mut words = text.split(' ');
            let Some("count") = words.next() else {
                continue;
            };
            let (Some(whose), Some(invocation), Some(number), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(wrong("cut"));
            };
            let number: u64 = number.parse().map_err(|_| wrong("cut"))?;
            let own = invocation
                .get(16..)
                .and_then(|low| u64::from_str_radix(low, 16).ok());
            if whose != unit || own != Some(serial) {
                return Err(wrong("credited to another unit or life"));
            }
            let life = lives.entry(invocation.to_owned()).or_insert_with(|| Life {
                unit: unit.to_owned(),
                ..Life::default()
            });
            if number != life.logged + 1 {
                return Err(wrong(&format!("comes after number {} of its life", life.logged)));
            }
            life.logged = number;
        }
    }
    Ok(())
}

/// Time, life and text of a whole line's record (docs/logs.md); `None` for a piece of one, and for what is no record.
fn record(line: &[u8]) -> Option<(&[u8], u64, &str)> {
    let (stamp, rest) = line.split_at_checked(27)?;
    let rest = std::str::from_utf8(rest).ok()?.strip_prefix(' ')?;
    let (serial, rest) = rest.split_once(' ')?;
    Some((stamp, serial.parse().ok()?, rest.strip_prefix("| ")?))
}
