//! What the node counts of its past, for `/metrics`. Part of what the manager remembers, changed only by what it
//! remembers: so no count ever falls when a manager dies, and nothing is counted twice.

use std::collections::BTreeMap;

use proto::reply::{Event, Exit};
use serde::{Deserialize, Serialize};

use crate::engine::types::Mono;
use crate::engine::watch::{self, Check, CheckBy, Checks};
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
    /// What was asked over HTTP.
    pub http: HttpAsked,
}

/// What was asked over HTTP: by path, and by the status of the answer.
pub type HttpAsked = BTreeMap<String, BTreeMap<u16, u64>>;

/// What came of a unit's checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checked {
    /// Probes that found it well.
    pub passed: u64,
    /// That did not.
    pub failed: u64,
    /// That could not be asked.
    pub unasked: u64,
    /// How long all of them took together, in µs.
    pub took_us: u64,
    /// Reports of its own that it is unhealthy.
    pub reports_failed: u64,
    /// Watchdogs that it missed.
    pub watchdogs_missed: u64,
}

impl Checked {
    fn count(&mut self, check: &Check) {
        use watch::Checked::{Cannot, Degraded, Failed, Passed};
        match (check.by, &check.result) {
            (CheckBy::Ready | CheckBy::Probe, result) => {
                let took = u64::try_from(check.took.as_micros()).unwrap_or(u64::MAX);
                self.took_us = self.took_us.saturating_add(took);
                add(match result {
                    Passed | Degraded(_) => &mut self.passed,
                    Failed(_) => &mut self.failed,
                    Cannot(_) => &mut self.unasked,
                });
            }
            (CheckBy::Report, Failed(_)) => add(&mut self.reports_failed),
            (CheckBy::Watchdog, Failed(_)) => add(&mut self.watchdogs_missed),
            (CheckBy::Report | CheckBy::Watchdog, Passed | Degraded(_) | Cannot(_)) => {}
        }
    }
}

/// A unit's log, as its logger counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logged {
    /// Bytes that were taken from its pipes.
    pub bytes: u64,
    /// Lines that were written.
    pub lines: u64,
    /// Bytes that could be kept nowhere.
    pub lost: u64,
    /// Lines among them, as far as they were counted.
    pub lost_lines: u64,
    /// It cannot be written for now.
    pub is_blocked: bool,
}

impl Logged {
    /// What has come to this since `before`.
    fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(before.bytes),
            lines: self.lines.saturating_sub(before.lines),
            lost: self.lost.saturating_sub(before.lost),
            lost_lines: self.lost_lines.saturating_sub(before.lost_lines),
            is_blocked: self.is_blocked,
        }
    }

    fn and(self, more: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(more.bytes),
            lines: self.lines.saturating_add(more.lines),
            lost: self.lost.saturating_add(more.lost),
            lost_lines: self.lost_lines.saturating_add(more.lost_lines),
            is_blocked: more.is_blocked,
        }
    }
}

/// What loggers said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoggedBy {
    /// Which logger: each counts from 0.
    pub logger: u64,
    /// Its counts.
    pub units: BTreeMap<UnitName, Logged>,
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
    /// Its checks.
    pub checks: Checked,
    /// The number of the last one that was counted.
    pub last_check: u64,
    /// Its log, by all loggers together.
    pub log: Logged,
    /// What the last logger has counted of it, and which that was: what it adds is in `log`.
    pub log_told: (u64, Logged),
    /// What was told of its drops.
    pub drops: Drops,
}

/// What events have told of a unit's dropped output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drops {
    /// The last one told that they began.
    pub is_open: bool,
    /// When that was told, in µs since 1970.
    pub begun_us: u64,
    /// The bytes of [`Logged::lost`] that were told,
    pub lost: u64,
    /// and the lines.
    pub lost_lines: u64,
}

impl UnitCounts {
    /// Its log, when `logger` has counted so much of it.
    pub fn logged(&self, logger: u64, now: Logged) -> Logged {
        let (told_by, before) = self.log_told;
        let before = if told_by == logger {
            before
        } else {
            Logged::default()
        };
        self.log.and(now.since(before))
    }
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
            "DAEMON_LOG_DROPPING" => (unit.drops.is_open, unit.drops.begun_us) = (true, event.at_us),
            "DAEMON_LOG_DROPPED" => {
                unit.drops.is_open = false;
                (unit.drops.lost, unit.drops.lost_lines) = (unit.log.lost, unit.log.lost_lines);
            }
            _ => {}
        }
    }

    /// These are a unit's last checks, as the state has them; said as often as the unit is written down, which is at least
    /// once for each few of them.
    pub fn on_checks(&mut self, name: &UnitName, checks: &Checks) {
        let Some(newest) = checks.back().map(|check| check.nr) else {
            return;
        };
        let unit = self.units.entry(name.clone()).or_default();
        if newest < unit.last_check {
            // The unit was forgotten meanwhile, and begins anew.
            unit.last_check = 0;
        }
        for check in checks.iter().filter(|check| check.nr > unit.last_check) {
            unit.checks.count(check);
        }
        unit.last_check = newest;
    }

    /// So much a logger has counted since it began. Said twice, it counts once.
    pub fn on_logged(&mut self, told: &LoggedBy) {
        for (name, now) in &told.units {
            let unit = self.units.entry(name.clone()).or_default();
            unit.log = unit.logged(told.logger, *now);
            unit.log_told = (told.logger, *now);
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

/// Adds what was asked over HTTP to what is known.
pub fn add_up(known: &mut HttpAsked, more: &HttpAsked) {
    for (path, by_status) in more {
        let known = known.entry(path.clone()).or_default();
        for (status, n) in by_status {
            let sum = known.entry(*status).or_default();
            *sum = sum.saturating_add(*n);
        }
    }
}

fn add(count: &mut u64) {
    *count = count.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name() -> UnitName {
        UnitName::new("a").expect("a name")
    }

    fn check(nr: u64, by: CheckBy, result: watch::Checked) -> Check {
        Check {
            at: Mono(nr),
            took: Duration::from_micros(10),
            by,
            result,
            nr,
        }
    }

    fn told(logger: u64, lines: u64) -> LoggedBy {
        let logged = Logged {
            bytes: lines * 2,
            lines,
            ..Logged::default()
        };
        LoggedBy {
            logger,
            units: BTreeMap::from([(name(), logged)]),
        }
    }

    #[test]
    fn what_a_logger_says_twice_counts_once_and_another_one_counts_on() {
        let mut counts = Counts::default();
        for (logger, lines, sum) in [
            (1, 5, 5),
            (1, 5, 5),
            (1, 9, 9),
            (2, 3, 12),
            (2, 3, 12),
            (2, 4, 13),
        ] {
            counts.on_logged(&told(logger, lines));
            let log = counts.units[&name()].log;
            assert_eq!((log.lines, log.bytes), (sum, sum * 2), "{logger} {lines}");
        }
    }

    #[test]
    fn each_check_counts_once_however_often_its_unit_is_written_down() {
        use watch::Checked::{Cannot, Degraded, Failed, Passed};
        let mut counts = Counts::default();
        let failed = || Failed(String::new());
        let mut checks = Checks::from([
            check(1, CheckBy::Ready, failed()),
            check(2, CheckBy::Probe, Passed),
            check(3, CheckBy::Report, failed()),
        ]);
        counts.on_checks(&name(), &checks);
        counts.on_checks(&name(), &checks);
        checks.pop_front();
        checks.extend([
            check(4, CheckBy::Probe, Cannot(String::new())),
            check(5, CheckBy::Watchdog, failed()),
            check(6, CheckBy::Report, Degraded(None)),
        ]);
        counts.on_checks(&name(), &checks);
        let all = Checked {
            passed: 1,
            failed: 1,
            unasked: 1,
            took_us: 30,
            reports_failed: 1,
            watchdogs_missed: 1,
        };
        assert_eq!(counts.units[&name()].checks, all);
        // Forgotten, and begun anew.
        counts.on_checks(&name(), &Checks::from([check(1, CheckBy::Probe, Passed)]));
        assert_eq!(counts.units[&name()].checks.passed, 2);
    }
}
