//! What a manager begins with: what an earlier one remembered, and what of it still holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use proto::reply::{Event, State};
use serde::Deserialize;

use super::memory::{Base, STATE_OLDEST, STATE_VERSION, Step};
use crate::clock::Now;
use crate::limits;
use crate::state::cold;
use crate::state::recorder::{Entry, Reading};
use crate::state::store::{Halves, Pick, Recovered, Unreadable};

/// How what is remembered relates to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// The manager died, and nothing else that matters: the keeper's memory is exact.
    Manager,
    /// All of ringriftd died, and units may live on. The disk may be a moment behind.
    Everything,
    /// The machine was started anew.
    Machine,
    /// ringriftd ended in order.
    OrderlyEnd,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// What is remembered, with what it is worth.
    pub(super) memory: Option<(Box<Base>, Past)>,
    /// Nothing that happened can be missing in it.
    pub(super) is_exact: bool,
    /// The memory that the keeper holds, to be written.
    pub(super) hot: Option<Halves>,
    /// What could not be used, and why.
    pub(super) notes: Vec<String>,
}

/// Reads the memory that the keeper holds; where that is damaged or empty, the disk's, if that goes further. A state that
/// only a newer ringriftd can read is an error: to begin without it would start second copies of what lives.
pub(super) fn find(hot: [File; 2], folder: &Path, pick: Pick, boot: &str) -> Result<Found, String> {
    let mut notes = Vec::new();
    let (hot, recovered) = open_hot(hot, pick, &mut notes);
    let is_whole = recovered.as_ref().is_some_and(|found| found.left_out.is_none());
    // A program that writes another version told so before it took over (`self-check`): what is here is of no use then.
    let base = recovered.and_then(|found| rebuild(found, &mut notes).unwrap_or_default());
    if is_whole && let Some(base) = base {
        return Ok(Found {
            memory: Some((Box::new(base), Past::Manager)),
            is_exact: pick == Pick::Newest,
            hot,
            notes,
        });
    }
    let found = match cold::read(folder, pick) {
        Ok(found) => found,
        Err(e @ Unreadable::Newer { .. }) => return Err(e.to_string()),
        Err(e) => {
            notes.push(e.to_string());
            cold::Found::default()
        }
    };
    notes.extend(found.lost);
    let on_disk = match found.recovered.map(|found| rebuild(found, &mut notes)) {
        Some(Ok(base)) => base,
        Some(Err(head)) => return Err(format!("the state in {}: {}", folder.display(), head.refusal())),
        None => None,
    };
    let is_from_this_boot = |base: &Base| base.boot == boot && !base.has_ended;
    let memory = match (base, on_disk) {
        (Some(hot), Some(disk)) if is_from_this_boot(&disk) && disk.at > hot.at => {
            Some((Box::new(disk), Past::Manager))
        }
        (Some(hot), _) => Some((Box::new(hot), Past::Manager)),
        (None, Some(disk)) => {
            let past = if disk.has_ended {
                Past::OrderlyEnd
            } else if disk.boot == boot {
                Past::Everything
            } else {
                Past::Machine
            };
            Some((Box::new(disk), past))
        }
        (None, None) => None,
    };
    Ok(Found {
        // What ended in order was written whole.
        is_exact: memory.as_ref().is_some_and(|(base, _)| base.has_ended),
        memory,
        hot,
        notes,
    })
}

/// The generation that is picked, or where that is not there, whatever is.
fn open_hot(files: [File; 2], pick: Pick, notes: &mut Vec<String>) -> (Option<Halves>, Option<Recovered>) {
    let again = match (pick, files[0].try_clone(), files[1].try_clone()) {
        (Pick::Previous, Ok(first), Ok(second)) => Some([first, second]),
        (Pick::Previous | Pick::Newest, _, _) => None,
    };
    let mut open = |files, pick| match Halves::open(files, pick) {
        Ok((hot, recovered)) => (Some(hot), recovered),
        Err(e) => {
            notes.push(e.to_string());
            (None, None)
        }
    };
    match (open(files, pick), again) {
        ((_, None), Some(again)) => open(again, Pick::Newest),
        (found, _) => found,
    }
}

/// The part of a state that every version can read.
#[derive(Debug, Deserialize)]
struct Head {
    version: u32,
    program: String,
}

impl Head {
    fn refusal(&self) -> String {
        format!(
            "ringriftd {} wrote it in version {}, and this one reads {STATE_OLDEST} to {STATE_VERSION}: start that program, or \
             move the files engine.0 and engine.1 away to begin without what they remember",
            self.program, self.version
        )
    }
}

/// The base with every change since; up to the first that cannot be read.
fn rebuild(found: Recovered, notes: &mut Vec<String>) -> Result<Option<Base>, Head> {
    notes.extend(found.left_out);
    if let Ok(head) = serde_json::from_slice::<Head>(&found.base)
        && !(STATE_OLDEST..=STATE_VERSION).contains(&head.version)
    {
        notes.push(head.refusal());
        return Err(head);
    }
    let mut base: Base = match serde_json::from_slice(&found.base) {
        Ok(base) => base,
        Err(e) => {
            notes.push(format!(
                "generation {} of the state cannot be read: {e}",
                found.generation
            ));
            return Ok(None);
        }
    };
    for (i, bytes) in found.deltas.iter().enumerate() {
        match serde_json::from_slice::<Step>(bytes) {
            Ok(step) => base.apply(step),
            Err(e) => {
                notes.push(format!(
                    "change {i} of generation {} of the state cannot be read, and what follows it is left out: {e}",
                    found.generation
                ));
                break;
            }
        }
    }
    Ok(Some(base))
}

/// What is left of a memory whose processes are gone, told by this boot's clock.
pub(super) fn without_processes(mut base: Base, past: Past, now: Now) -> Base {
    let (mono, wall_us) = base.at;
    // The old clock would show this now, had it gone on.
    let slept_us = now.wall_us.saturating_sub(wall_us);
    let would_be = mono.saturating_add(slept_us.saturating_mul(1000));
    let signed = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
    let shift = signed(now.mono.0).saturating_sub(signed(would_be));
    base.engine = match past {
        Past::OrderlyEnd => base.engine.after_end(shift, now.mono),
        Past::Machine | Past::Manager | Past::Everything => base.engine.on_other_boot(shift, now.mono),
    };
    base.launches.clear();
    base.said.clear();
    base.jobs.clear();
    base.orders.clear();
    base.is_announced = false;
    base.upgrade = None;
    base
}

/// The last events that the recorder has, and those that were remembered. Returns what is wrong with the recorder.
pub(super) fn merge_events(
    folder: &Path,
    recorded: u64,
    remembered: &mut Vec<Event>,
) -> std::io::Result<Vec<String>> {
    let mut all: BTreeMap<u64, Event> = BTreeMap::new();
    let from = recorded.saturating_sub(limits::EVENTS_REMEMBERED as u64);
    let mut reading = Reading::after(folder, from)?;
    loop {
        let chunk = reading.next_chunk(limits::RECORDER_CHUNK);
        if chunk.is_empty() {
            break;
        }
        for entry in chunk {
            match entry {
                Entry::Event(event) => {
                    all.insert(event.seq, event);
                }
                Entry::Missing { .. } => {}
            }
        }
    }
    for event in std::mem::take(remembered) {
        all.entry(event.seq).or_insert(event);
    }
    *remembered = all.into_values().collect();
    Ok(reading.damage)
}

/// Where units were when they were last told of.
pub(super) fn last_told(events: &[Event]) -> BTreeMap<String, State> {
    events
        .iter()
        .map(|event| (event.unit.clone(), event.to))
        .collect()
}

/// The disk may be behind what happened: no serial and no number of an event is used twice.
pub(super) fn skip_numbers(base: &mut Base, last_recorded: u64) {
    let node = &mut base.engine.node;
    node.next_invocation = node.next_invocation.saturating_add(limits::SERIALS_SKIPPED);
    node.seq = node.seq.max(last_recorded);
}
