//! When the manager is told what the logs were given: a moment after the first news, then [`LOG_TELL_PAUSE`] apart at least,
//! and never while there is none. What it did not take is told the next time: the numbers are sums, so none is missed by
//! that.
//!
//! Read first: [`Telling::tell`].

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::journal::Journal;
use super::link::send;
use super::record::now_us;
use crate::keeper::wire::LogWord;
use crate::limits::{LOG_TELL_PAUSE, LOG_TELL_SOON, LOG_TELL_UNITS};

/// What is to be told, and when.
#[derive(Debug)]
pub struct Telling {
    /// When this logger began, µs since 1970.
    began: u64,
    /// Logs by their numbers.
    news: BTreeSet<usize>,
    due: Option<Instant>,
    not_before: Option<Instant>,
}

impl Telling {
    /// Nothing.
    pub fn new() -> Self {
        Self {
            began: now_us(),
            news: BTreeSet::new(),
            due: None,
            not_before: None,
        }
    }

    /// There is news of this log.
    pub fn note(&mut self, index: usize, now: Instant) {
        self.news.insert(index);
        if self.due.is_none() {
            let soon = now + LOG_TELL_SOON;
            self.due = Some(self.not_before.map_or(soon, |at| at.max(soon)));
        }
    }

    /// When it is to be told.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It is to be told now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Tells the manager all of it, as far as it takes it without being waited for.
    pub fn tell(&mut self, journals: &mut [Journal], manager: &OwnedFd, now: Instant) {
        self.not_before = Some(now + LOG_TELL_PAUSE);
        self.due = None;
        while !self.news.is_empty() {
            let some: Vec<usize> = self.news.iter().copied().take(LOG_TELL_UNITS).collect();
            let units = some.iter().filter_map(|index| journals[*index].count()).collect();
            let word = LogWord::Counted {
                logger: self.began,
                units,
            };
            if send(manager, &word).is_err() {
                // It does not read for now, or is gone: then the next one is told all.
                for index in some {
                    journals[index].count_again();
                }
                self.due = self.not_before;
                return;
            }
            for index in some {
                self.news.remove(&index);
            }
        }
    }
}
