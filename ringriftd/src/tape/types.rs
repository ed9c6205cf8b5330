//! What a recording says. It is a row of records of [`crate::state::record`]: a base begins a *section*, with the whole
//! engine as it is then ([`Beginning`]), and each delta after it is a *step*: what the engine was told, and all that it
//! asked for then. A record's generation is its section's number, which only grows; its number is that of the step.
//!
//! A step's payload is text: one line with the inputs as a JSON array, and one line of JSON for each action. Those lines are
//! what a replay compares.

use std::sync::Arc;

use proto::reply::State as Word;
use serde::{Deserialize, Serialize};

use crate::config::FileSet;
use crate::engine::snapshot::Snapshot;
use crate::engine::types::{Action, Event, Mono};
use crate::spec::UnitName;

/// The version of what is recorded. A field with a default does not raise it; anything else does.
pub const TAPE_VERSION: u32 = 1;

/// The first record of a section.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Beginning {
    /// [`TAPE_VERSION`] of the writer.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// When, in µs since 1970.
    pub at_us: u64,
    /// The section before, which may lie in another file, ended in exactly this state: it had become too long.
    #[serde(default)]
    pub is_continued: bool,
    /// Steps before this section that the disk was too slow for.
    #[serde(default)]
    pub lost: u64,
    /// Deadlines are not handled for now ([`crate::engine::Engine::pause_deadlines`]).
    #[serde(default)]
    pub is_paused: bool,
    /// The engine.
    pub from: From,
}

/// The engine at the beginning of a section.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum From {
    /// One without units.
    New {
        /// Its seed.
        seed: u64,
    },
    /// One that was.
    Restored {
        /// What it remembers.
        snapshot: Box<Snapshot>,
        /// The files that it runs by.
        files: Arc<FileSet>,
        /// The profiles of the command line.
        profiles: Vec<String>,
    },
}

/// One thing that the engine was told, by the function of [`crate::engine::Engine`] that took it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Input {
    /// An event, but for `Loaded`.
    Told {
        /// When.
        now: Mono,
        /// What.
        event: Box<Event>,
    },
    /// `Loaded`, by the files that the plan came from.
    Loaded {
        /// When.
        now: Mono,
        /// The files.
        files: Arc<FileSet>,
        /// The profiles of the command line.
        profiles: Vec<String>,
    },
    /// It goes on after it was restored.
    Resume {
        /// When.
        now: Mono,
    },
    /// Whether deadlines wait.
    Pause(bool),
    /// A serial that was used.
    KeepClear(u64),
    /// Where a unit was last told to be.
    StepBack {
        /// Which.
        unit: UnitName,
        /// There.
        told: Word,
    },
}

impl Input {
    /// The time that it says.
    pub fn now(&self) -> Option<Mono> {
        match self {
            Self::Told { now, .. } | Self::Loaded { now, .. } | Self::Resume { now } => Some(*now),
            Self::Pause(_) | Self::KeepClear(_) | Self::StepBack { .. } => None,
        }
    }
}

/// One step as it is read again.
#[derive(Debug, Clone)]
pub struct Step {
    /// What the engine was told, in order.
    pub inputs: Vec<Input>,
    /// What it asked for then, in order, as it was written.
    pub actions: Vec<String>,
}

impl Step {
    /// Reads a payload; the error is for people.
    pub fn read(payload: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(payload).map_err(|e| format!("it is no text: {e}"))?;
        let mut lines = text.lines();
        let inputs = serde_json::from_str(lines.next().unwrap_or_default())
            .map_err(|e| format!("what the engine was told cannot be read: {e}"))?;
        Ok(Self {
            inputs,
            actions: lines.map(str::to_owned).collect(),
        })
    }

    /// The payload of a step.
    pub fn payload(inputs: &[Input], actions: &[String]) -> serde_json::Result<Vec<u8>> {
        let mut payload = serde_json::to_vec(inputs)?;
        for action in actions {
            payload.push(b'\n');
            payload.extend_from_slice(action.as_bytes());
        }
        Ok(payload)
    }
}

/// An action as a line. JSON never holds a raw line break.
pub fn line(action: &Action) -> serde_json::Result<String> {
    serde_json::to_string(action)
}
