//! What was dropped of each unit's output and stands in no log yet: sums in the memory that the keeper holds, so that
//! the number that is told in the end is exact although loggers die meanwhile. When they change is [`super::exact`]'s.
//!
//! Read first: [`Dropped`].

use std::io;
use std::os::fd::OwnedFd;

use super::memory::Words;
use super::note::{DROP_WORDS, DROPS_AT, drop_at};
use crate::limits::{LOG_DROPS, NAME_MAX};

/// The sums of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Where they stand.
    pub entry: usize,
    /// Bytes, newlines among them.
    pub bytes: u64,
    /// Lines whose end was among them.
    pub lines: u64,
    /// The life that wrote the last of them.
    pub life: u64,
}

/// All of them.
#[derive(Debug)]
pub struct Drops {
    words: Words,
}

impl Drops {
    /// Behind the begun lines; in memory that has none yet, all are free.
    pub fn map(memory: &OwnedFd) -> io::Result<Self> {
        let words = Words::map_at(memory, DROPS_AT, LOG_DROPS * DROP_WORDS)?;
        Ok(Self { words })
    }

    /// The numbers.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Where one of an entry's numbers stands among [`Drops::words`].
    pub fn index(entry: usize, number: usize) -> usize {
        entry % LOG_DROPS * DROP_WORDS + number
    }

    fn get(&self, entry: usize, number: usize) -> u64 {
        self.words.get(Self::index(entry, number))
    }

    fn name(&self, entry: usize) -> Option<String> {
        let length = (self.get(entry, drop_at::NAME_LENGTH) as usize).min(NAME_MAX);
        let bytes: Vec<u8> = (0..NAME_MAX / 8)
            .flat_map(|word| self.get(entry, drop_at::NAME + word).to_le_bytes())
            .take(length)
            .collect();
        let name = String::from_utf8(bytes).ok()?;
        super::dir::is_unit_name(&name).then_some(name)
    }

    fn sums(&self, entry: usize) -> Dropped {
        Dropped {
            entry,
            bytes: self.get(entry, drop_at::BYTES),
            lines: self.get(entry, drop_at::LINES),
            life: self.get(entry, drop_at::LIFE),
        }
    }

    /// Units of which something was dropped that stands in no log.
    pub fn untold(&self) -> Vec<(String, Dropped)> {
        (0..LOG_DROPS)
            .filter_map(|entry| Some((self.name(entry)?, self.sums(entry))))
            .filter(|(_, dropped)| dropped.bytes > 0)
            .collect()
    }

    /// A unit's entry, or else a free one with its name. None: all are other units'.
    pub fn of(&self, unit: &str) -> Option<Dropped> {
        let names = || (0..LOG_DROPS).map(|entry| (entry, self.name(entry)));
        if let Some((entry, _)) = names().find(|(_, name)| name.as_deref() == Some(unit)) {
            return Some(self.sums(entry));
        }
        let is_free =
            |(entry, name): &(usize, Option<String>)| name.is_none() || self.sums(*entry).bytes == 0;
        let (entry, _) = names().find(is_free)?;
        // Killed on the way it is free again: without a length there is no name.
        self.words.set(Self::index(entry, drop_at::NAME_LENGTH), 0);
        for number in [drop_at::BYTES, drop_at::LINES, drop_at::LIFE] {
            self.words.set(Self::index(entry, number), 0);
        }
        for (word, part) in unit.as_bytes().chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes[..part.len()].copy_from_slice(part);
            let number = u64::from_le_bytes(bytes);
            self.words.set(Self::index(entry, drop_at::NAME + word), number);
        }
        self.words
            .set(Self::index(entry, drop_at::NAME_LENGTH), unit.len() as u64);
        Some(self.sums(entry))
    }
}
