//! What the manager remembers over its own death: the engine, the files that it runs by, the requests under way, and
//! what it is about to do. One [`Step`] is written for each thing that happens, after the engine has decided and before
//! anything is done about it: that write is the moment from which it has happened. What is then done is either harmless
//! to do twice (the keeper knows launches by their id), or counted, and refused a second time.
//!
//! Pure data; where it is kept is `state`'s business. Read first: [`Base`] and [`Step`].

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::reply::Event;
use serde::{Deserialize, Serialize};

use super::capsules::{Capsules, Noted};
use super::hooks::HookState;
use super::jobs::{Answered, JobRecord};
use super::launches::LaunchRecord;
use super::upgrade::{UpgradeChange, UpgradeRecord};
use crate::config::FileSet;
use crate::control::view::Said;
use crate::counts::{Counts, HttpAsked, LoggedBy, add_up};
use crate::engine::snapshot::{Delta, Snapshot};
use crate::engine::types::RequestId;
use crate::ids::{LaunchId, Scope};
use crate::keeper::config::STATE_VERSIONS;
use crate::limits;
use crate::spec::UnitName;

/// The version of what is remembered. A field with a default does not raise it; anything else does.
pub const STATE_VERSION: u32 = STATE_VERSIONS.writes;
/// The oldest version that can still be read.
pub const STATE_OLDEST: u32 = STATE_VERSIONS.reads.0;

/// A signal that the keeper was asked to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its number: the keeper carries out none twice.
    pub order: u64,
    /// To which launch.
    pub launch: LaunchId,
    /// 1 to 64.
    pub signal: i32,
    /// To whom in it.
    pub scope: Scope,
}

/// Everything, at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Base {
    /// [`STATE_VERSION`] of the writer.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// The boot in which it was written: pids and monotonic times of another boot mean nothing.
    pub boot: String,
    /// The node's random number, the first half of each invocation's text.
    pub seed: u64,
    /// When it was last written, by both clocks: ns of CLOCK_MONOTONIC, and µs since 1970.
    pub at: (u64, u64),
    /// When ringriftd began, as in [`Base::at`].
    pub started: (u64, u64),
    /// ringriftd ended in order: nothing of any unit was left.
    #[serde(default)]
    pub has_ended: bool,
    /// The files that the engine runs by.
    pub files: Arc<FileSet>,
    /// The profiles of the command line.
    pub profiles: Vec<String>,
    /// The engine.
    pub engine: Snapshot,
    /// Launches that the keeper has been asked for.
    pub launches: BTreeMap<String, LaunchRecord>,
    /// What units said of themselves.
    pub said: BTreeMap<UnitName, Said>,
    /// Requests under way that somebody may ask for again.
    pub jobs: BTreeMap<u64, JobRecord>,
    /// The last answers, the oldest first.
    pub answered: Vec<Answered>,
    /// The number of the last request.
    pub last_request: u64,
    /// The last signals.
    pub orders: Vec<Order>,
    /// The number of the last signal.
    pub last_order: u64,
    /// Events that may not be on disk yet.
    pub events: Vec<Event>,
    /// `READY=1` was said.
    #[serde(default)]
    pub is_announced: bool,
    /// An upgrade that the keeper was asked for and that was not answered.
    #[serde(default)]
    pub upgrade: Option<UpgradeRecord>,
    /// How far the command that is told of events is.
    #[serde(default)]
    pub hooks: HookState,
    /// What was counted.
    #[serde(default)]
    pub counts: Counts,
    /// Failures, and what worked before.
    #[serde(default)]
    pub capsules: Capsules,
}

/// What one event changed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Step {
    /// When, as in [`Base::at`].
    pub at: (u64, u64),
    /// The files that it runs by from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Arc<FileSet>>,
    /// The engine's part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Delta>,
    /// Launches that the keeper is about to be asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launches: Vec<LaunchRecord>,
    /// Launches that are over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub released: Vec<LaunchId>,
    /// What units said; absent: forgotten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<(UnitName, Option<Said>)>,
    /// Requests that were taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobRecord>,
    /// Requests that are over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<RequestId>,
    /// Their answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<Answered>,
    /// Signals to be sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Order>,
    /// Events to be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// `READY=1` is about to be said.
    #[serde(default)]
    pub is_announced: bool,
    /// What happened to an upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeChange>,
    /// How far the command that is told of events is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<HookState>,
    /// Requests since the last step, by verb. They alone make no step: what only looks writes nothing, but for this,
    /// once in a while.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, u64>,
    /// What the logger has counted; of this, too, no step is made alone but once in a while. One logger's at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logged: Option<LoggedBy>,
    /// What was asked over HTTP, likewise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub http: HttpAsked,
    /// What is new about failures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noted: Vec<Noted>,
}

impl Step {
    /// Nothing would be remembered that is not.
    pub fn is_empty(&self) -> bool {
        let Self {
            at: _,
            files,
            engine,
            launches,
            released,
            said,
            jobs,
            closed,
            answered,
            orders,
            events,
            is_announced,
            upgrade,
            hooks,
            requests: _,
            logged: _,
            http: _,
            noted,
        } = self;
        files.is_none()
            && engine.is_none()
            && launches.is_empty()
            && released.is_empty()
            && said.is_empty()
            && jobs.is_empty()
            && closed.is_empty()
            && answered.is_empty()
            && orders.is_empty()
            && events.is_empty()
            && !is_announced
            && upgrade.is_none()
            && hooks.is_none()
            && noted.is_empty()
    }
}

impl Step {
    /// There is something that was only counted.
    pub fn has_counts(&self) -> bool {
        !self.requests.is_empty() || self.logged.is_some() || !self.http.is_empty()
    }

    /// Books what it holds of things that are counted.
    pub fn count(&self, counts: &mut Counts) {
        counts.steps = counts.steps.saturating_add(1);
        // Before the events, which tell of it.
        if let Some(logged) = &self.logged {
            counts.on_logged(logged);
        }
        for event in &self.events {
            counts.on_event(event);
        }
        for (verb, n) in &self.requests {
            let sum = counts.requests.entry(verb.clone()).or_default();
            *sum = sum.saturating_add(*n);
        }
        add_up(&mut counts.http, &self.http);
        for (name, unit) in self.engine.iter().flat_map(|delta| &delta.units) {
            counts.on_last_exit(name, unit.last_exit);
            counts.on_checks(name, &unit.checks);
        }
    }
}

/// A launch as a key of JSON.
pub fn key(launch: LaunchId) -> String {
    launch.to_string()
}

impl Base {
    /// What it is after `step`.
    pub fn apply(&mut self, step: Step) {
        self.at = step.at;
        step.count(&mut self.counts);
        if let Some(files) = step.files {
            self.files = files;
        }
        if let Some(delta) = step.engine {
            self.engine.apply(delta);
        }
        for record in step.launches {
            self.launches.insert(key(record.id), record);
        }
        for launch in step.released {
            self.launches.remove(&key(launch));
        }
        for (unit, said) in step.said {
            match said {
                Some(said) => self.said.insert(unit, said),
                None => self.said.remove(&unit),
            };
        }
        for job in step.jobs {
            self.last_request = self.last_request.max(job.id.0);
            self.jobs.insert(job.id.0, job);
        }
        for id in step.closed {
            self.jobs.remove(&id.0);
        }
        self.answered.extend(step.answered);
        keep_last(&mut self.answered, limits::ANSWERS_KEPT);
        for order in step.orders {
            self.last_order = self.last_order.max(order.order);
            self.orders.push(order);
        }
        keep_last(&mut self.orders, limits::ORDERS_KEPT);
        self.events.extend(step.events);
        keep_last(&mut self.events, limits::EVENTS_REMEMBERED);
        self.is_announced |= step.is_announced;
        if let Some(hooks) = step.hooks {
            self.hooks = hooks;
        }
        match step.upgrade {
            Some(UpgradeChange::Begun(record)) => self.upgrade = Some(record),
            Some(UpgradeChange::Over) => self.upgrade = None,
            None => {}
        }
        for noted in step.noted {
            self.capsules.apply(noted);
        }
    }
}

/// How many signals were decided, are not known any more, and have not been heard of by the keeper, whose last one is `heard`.
pub fn orders_lost(mut kept: impl Iterator<Item = u64>, heard: u64) -> u64 {
    kept.next()
        .map_or(0, |first| first.saturating_sub(heard.saturating_add(1)))
}

/// Drops the oldest.
pub fn keep_last<T>(list: &mut Vec<T>, most: usize) {
    let excess = list.len().saturating_sub(most);
    list.drain(..excess);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_are_forgotten_before_they_are_heard_of_are_counted() {
        let mut orders: Vec<u64> = (1..=10).collect();
        assert_eq!(orders_lost(orders.iter().copied(), 0), 0);
        keep_last(&mut orders, 4);
        assert_eq!(orders, [7, 8, 9, 10]);
        for (heard, lost) in [(0, 6), (1, 5), (5, 1), (6, 0), (8, 0), (10, 0)] {
            assert_eq!(
                orders_lost(orders.iter().copied(), heard),
                lost,
                "{heard} were heard of"
            );
        }
        assert_eq!(orders_lost(std::iter::empty(), 3), 0);
    }
}
