//! What the HTTP thread sees. A unit that an event touched is shown as it is before anything else is done about the event;
//! what follows from other units (who waits for whom), and the node as a whole, a moment later, so that a start of ten
//! thousand units does not draw ten thousand pictures of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::reply::{Event, State};

use super::core::Manager;
use super::memory::Step;
use crate::clock::Now;
use crate::control::view::{self, Facts};
use crate::engine::types::Mono;
use crate::engine::unit::Desired;
use crate::graph::Ix;
use crate::ids::LaunchId;
use crate::limits;
use crate::published::{Header, Picture, Published, Row};
use crate::spec::{Membership, UnitName};

/// What the manager has shown, and what it owes.
#[derive(Debug)]
pub(super) struct Shown {
    /// Where it shows.
    pub(super) published: Arc<Published>,
    /// When each unit's present life was launched.
    launched: BTreeMap<UnitName, u64>,
    /// When the rest is due.
    pub(super) due: Option<Mono>,
    not_before: Mono,
}

impl Shown {
    /// Nothing yet.
    pub(super) fn new(header: Header) -> Self {
        Self {
            published: Arc::new(Published::new(Picture {
                header: Arc::new(header),
                rows: Arc::default(),
                counts: Arc::default(),
            })),
            launched: BTreeMap::new(),
            due: None,
            not_before: Mono::default(),
        }
    }

    /// An event was told.
    pub(super) fn on_event(&mut self, event: &Event) {
        if event.event == "DAEMON_STARTED"
            && let Some(unit) = UnitName::new(&event.unit)
        {
            self.launched.insert(unit, event.at_us);
        }
    }

    /// The rest is to be shown soon.
    pub(super) fn owe(&mut self, now: Now) {
        let soon = now.mono.after(limits::PUBLISH_PAUSE).max(self.not_before);
        self.due.get_or_insert(soon);
    }
}

impl Manager {
    /// Shows what `step` changed.
    pub(super) fn publish(&mut self, step: &Step, now: Now) {
        for event in &step.events {
            self.shown.on_event(event);
        }
        let mut touched: BTreeSet<&UnitName> = step.said.iter().map(|(name, _)| name).collect();
        if let Some(delta) = &step.engine {
            touched.extend(delta.units.keys().chain(&delta.dropped));
        }
        if !touched.is_empty() {
            let stored = super::stored::counts(&self.stored);
            let rows = touched
                .into_iter()
                .map(|name| (name.clone(), self.row(name, &stored, now)))
                .collect();
            self.shown.published.put(rows);
        }
        self.shown.owe(now);
    }

    /// Shows everything anew: at the beginning, and after a reload.
    pub(super) fn publish_all(&mut self, now: Now) {
        let known: BTreeSet<UnitName> = self
            .engine
            .known_units()
            .map(|(_, unit)| unit.spec.name.clone())
            .collect();
        let before = self.shown.published.look().rows;
        let gone = before.keys().filter(|name| !known.contains(*name));
        let mut rows: Vec<_> = gone.map(|name| (name.clone(), None)).collect();
        self.shown.launched.retain(|name, _| known.contains(name));
        let stored = super::stored::counts(&self.stored);
        rows.extend(known.into_iter().map(|name| {
            let row = self.row(&name, &stored, now);
            (name, row)
        }));
        self.shown.published.put(rows);
        self.publish_header(now);
    }

    /// Shows what it owes: those that wait for others, and the node.
    pub(super) fn publish_rest(&mut self) {
        let began = self.clock.now();
        self.commit_counts(began);
        let waits = |state: State, desired: Desired, restarts: bool| match state {
            State::Waiting | State::Held => true,
            State::Starting | State::Running | State::Reloading => desired == Desired::Down || restarts,
            State::Stopped | State::Stopping | State::Backoff | State::Failed | State::Completed => false,
        };
        let stored = super::stored::counts(&self.stored);
        let rows: Vec<_> = self
            .engine
            .known_units()
            .filter(|(_, unit)| waits(unit.word, unit.desired, unit.restart_pending))
            .map(|(_, unit)| unit.spec.name.clone())
            .map(|name| {
                let row = self.row(&name, &stored, began);
                (name, row)
            })
            .collect();
        if !rows.is_empty() {
            self.shown.published.put(rows);
        }
        self.publish_header(began);
        let took = self.clock.now().mono.since(began.mono);
        // With very many units this takes a tenth of the time at most.
        self.shown.due = None;
        self.shown.not_before = began.mono.after((took * 10).max(limits::PUBLISH_PAUSE));
    }

    fn publish_header(&mut self, now: Now) {
        let header = self.header(now);
        self.shown.published.put_header(header, self.counts.clone());
    }

    /// The node as a whole.
    pub(super) fn header(&self, now: Now) -> Header {
        let facts = self.node_facts(now);
        Header {
            version: env!("CARGO_PKG_VERSION"),
            node: facts.node,
            profiles: self.loaded.plan.node.profiles.clone(),
            started: self.started,
            containment: facts.containment,
            is_settled: self.engine.is_settled(),
            is_stopping: self.engine.is_shutting_down(),
            notices: facts.notices,
            deaths: (
                u64::from(self.hello.manager_deaths),
                u64::from(self.logger_deaths),
            ),
            last_seq: self.engine.last_seq(),
            breakers: facts.breakers,
        }
    }

    fn row(&self, name: &UnitName, stored: &BTreeMap<&str, u32>, now: Now) -> Option<Arc<Row>> {
        let (ix, unit): (Ix, _) = self.engine.find(name)?;
        let facts = Facts {
            now,
            seed: self.hello.seed,
            said: &self.said,
            stored,
        };
        let life = unit.state.life();
        Some(Arc::new(Row {
            status: view::unit(&self.engine, ix, &facts),
            spec: Arc::clone(&unit.spec),
            is_wanted: view::is_wanted(unit),
            profile: match &unit.member {
                Some(Membership::Listed { profile }) => Some(profile.clone()),
                Some(Membership::AddedBy { .. }) | None => None,
            },
            leaf: life.and_then(|life| self.launches.leaf(LaunchId::main(life.invocation))),
            launched_us: life.and_then(|_| self.shown.launched.get(name).copied()),
        }))
    }
}
