//! How the logger's note is laid out in the memory that the keeper holds: numbers first, then two halves for each slot's
//! begun line. Its order of events is [`super::exact`]'s. No calls.
//!
//! Read first: [`State`] and [`Carry`].

use crate::limits::{LOG_CARRIES, LOG_LINE_MAX};

/// `RRlogger` and the layout's version.
pub const MAGIC: u64 = u64::from_be_bytes(*b"RRlogge\x01");
/// Where the numbers stand.
pub mod at {
    /// [`super::MAGIC`], or 0 in new memory.
    pub const MAGIC: usize = 0;
    /// A [`super::State`].
    pub const STATE: usize = 1;
    /// The launch whose pipe it is: its life,
    pub const INVOCATION: usize = 2;
    /// its step,
    pub const STEP: usize = 3;
    /// and the pipe's inode.
    pub const PIPE: usize = 4;
    /// The file's device,
    pub const DEVICE: usize = 5;
    /// its inode,
    pub const INODE: usize = 6;
    /// and its length before the batch.
    pub const LENGTH: usize = 7;
    /// The slot's index and 1; 0: none.
    pub const SLOT: usize = 8;
    /// What that slot's [`super::Carry`] is after the batch.
    pub const SLOT_NUMBER: usize = 9;
    /// How long the unit's name is.
    pub const NAME_LENGTH: usize = 10;
    /// The name, eight bytes a number.
    pub const NAME: usize = 11;
    /// The entry of [`super::super::drops`] that changes, and 1; 0: none.
    pub const DROP: usize = 19;
    /// What its bytes,
    pub const DROP_BYTES: usize = 20;
    /// its lines,
    pub const DROP_LINES: usize = 21;
    /// and its life are after the batch.
    pub const DROP_LIFE: usize = 22;
    /// The slots' numbers, [`super::SLOT_WORDS`] each.
    pub const SLOTS: usize = 32;
}
/// A slot's numbers: invocation, step, the pipe's inode, and the one that counts.
pub const SLOT_WORDS: usize = 4;
/// All numbers.
pub const WORDS: usize = at::SLOTS + LOG_CARRIES * SLOT_WORDS;
/// Where the begun lines begin: at a page's border.
const LINES_AT: u64 = (WORDS as u64 * 8).next_multiple_of(64 * 1024);
/// The bytes of half a slot.
pub const HALF: u64 = LOG_LINE_MAX as u64;

/// What the note says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is under way.
    Idle,
    /// Records may stand behind the noted length that do not count yet.
    Intent,
    /// They count, and so many bytes are on their way out of the noted pipe.
    Written(usize),
}

impl State {
    /// As it is stored.
    pub fn number(self) -> u64 {
        match self {
            State::Idle => 0,
            State::Intent => 1,
            State::Written(n) => 2 | (n as u64) << 2,
        }
    }

    /// From what is stored; nonsense is the harmless one.
    pub fn of(number: u64) -> Self {
        match number & 3 {
            1 => State::Intent,
            2 => State::Written((number >> 2) as usize),
            _ => State::Idle,
        }
    }
}

/// The number of a slot that counts: a begun line, and what is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carry {
    /// Bytes of the begun line.
    pub len: usize,
    /// It stands in the second half.
    pub is_second: bool,
    /// Bytes that are in the file already and have not left the pipe yet.
    pub debt: usize,
}

impl Carry {
    const IS_USED: u64 = 1 << 33;

    /// There is nothing to remember.
    pub fn is_free(self) -> bool {
        self.len == 0 && self.debt == 0
    }

    /// As it is stored.
    pub fn number(self) -> u64 {
        if self.is_free() {
            return 0;
        }
        Self::IS_USED | self.len as u64 | u64::from(self.is_second) << 32 | (self.debt as u64) << 34
    }

    /// From what is stored; nonsense is the harmless one.
    pub fn of(number: u64) -> Self {
        if number & Self::IS_USED == 0 {
            return Self::default();
        }
        Self {
            len: ((number & 0xffff_ffff) as usize).min(LOG_LINE_MAX),
            is_second: number & 1 << 32 != 0,
            debt: (number >> 34) as usize,
        }
    }
}

/// The numbers of an entry of what was dropped.
pub mod drop_at {
    /// Bytes that stand in no log, and are not told there either.
    pub const BYTES: usize = 0;
    /// Their lines.
    pub const LINES: usize = 1;
    /// Whose the last ones were.
    pub const LIFE: usize = 2;
    /// How long the unit's name is; 0: the entry is free.
    pub const NAME_LENGTH: usize = 3;
    /// The name, eight bytes a number.
    pub const NAME: usize = 4;
}
/// An entry's numbers.
pub const DROP_WORDS: usize = 16;
/// Where they begin: behind the begun lines, so that memory of loggers that dropped nothing reads as none.
pub const DROPS_AT: u64 = line_at(LOG_CARRIES, false);

/// Where a half of a slot begins in the memfd.
pub const fn line_at(slot: usize, is_second: bool) -> u64 {
    LINES_AT + (slot as u64 * 2 + is_second as u64) * HALF
}
