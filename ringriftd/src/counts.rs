//! What the node counts of its past, for `/metrics`. Part of what the manager remembers, changed only by what it
//! remembers: so no count ever falls when a manager dies, and nothing is counted twice.

use std::collections::BTreeMap;

use proto::reply::{Event, Exit};
use serde::{Deserialize, Serialize};

use crate::engine::types::Mono;
use crate::spec::UnitName;

/// Everything that is counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Steps of the manager that changed something.
    pub steps: u64,
    /// Events by their word.
    pub events: BTreeMap<String, u64>,
    /// Requests of clients by their verb.
    pub requests: BTreeMap<String, u64>,
    /// By unit.
    pub units: BTreeMap<UnitName, UnitCounts>,
}

/// What is counted of one unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitCounts {
    /// Launches of its main process.
    pub starts: u64,
    /// Automatic restarts.
    pub restarts: u64,
    /// Changes of its health.
    pub health_changes: u64,
    /// Main processes that ended with code 0.
    pub exits_success: u64,
    /// With another one.
    pub exits_failure: u64,
    /// By a signal.
    pub exits_signal: u64,
    /// Nobody knows how.
    pub exits_unknown: u64,
    /// The last one that was counted.
    pub last_exit: Option<(Exit, Mono)>,
}

impl Counts {
    /// An event was told.
    pub fn on_event(&mut self, event: &Event) {
        add(self.events.entry(event.event.clone()).or_default());
        let Some(name) = UnitName::new(&event.unit) else {
            return;
        };
        let unit = self.units.entry(name).or_default();
        match event.event.as_str() {
            "DAEMON_STARTED" => add(&mut unit.starts),
            "DAEMON_RESTARTING" => add(&mut unit.restarts),
            "DAEMON_HEALTH_CHANGED" => add(&mut unit.health_changes),
            _ => {}
        }
    }

    /// So a unit's last main process ended, as the state has it; said as often as the unit is written down.
    pub fn on_last_exit(&mut self, name: &UnitName, last: Option<(Exit, Mono)>) {
        let Some((exit, _)) = last else { return };
        let unit = self.units.entry(name.clone()).or_default();
        if unit.last_exit == last {
            return;
        }
        unit.last_exit = last;
        add(match exit {
            Exit::Code(0) => &mut unit.exits_success,
            Exit::Code(_) => &mut unit.exits_failure,
            Exit::Signal { .. } => &mut unit.exits_signal,
            Exit::Unknown => &mut unit.exits_unknown,
        });
    }
}

fn add(count: &mut u64) {
    *count = count.saturating_add(1);
}
