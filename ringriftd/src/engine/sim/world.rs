//! The world around the engine: a clock, a queue of what is to happen, and the loop that lets it. What processes do is in
//! `keeper` and `unwell`, what operators do in `clients`, how the manager dies in `crash`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use proto::reply::State as Word;

use crate::engine::breaker::Gate;
use crate::engine::machine::Engine;
use crate::engine::restart::mix;
use crate::engine::types::{Action, Event, Failure, Mono, Op, Plan, RequestAnswer, RequestId};
use crate::ids::{Invocation, LaunchId};
use crate::limits;
use crate::spec::UnitName;

use super::choices::{Choices, Key, Pick, key};
use super::crash::Kept;
use super::draw::{Drawn, Size};
use super::gates::GateTruth;
use super::invariants::{Counts, Invariant, Violation};
use super::keeper::Process;
use super::malice::{Fault, Rates};
use super::steps::Before;
use super::truth::{LifeTruth, Truth};
use super::{cells, tell};

/// Something that is to happen.
#[derive(Debug, Clone)]
pub(super) enum Due {
    /// In the world: a process ends, or says something.
    World(Event),
    /// The keeper's news reaches the manager.
    News(Event),
    /// The next request is made.
    Request(u32),
}

#[derive(Debug, Clone)]
pub(super) struct Place {
    at: u64,
    order: u64,
    pub(super) due: Due,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Place {}
impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Place {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A request that was made.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) op: Op,
    /// Its client went away, or the machine did.
    pub(super) is_forgotten: bool,
}

/// The world. [`super::schedule`] lets it live for a while.
pub struct World {
    pub(super) choices: Choices,
    pub(super) rates: Rates,
    /// As they were before all faults ceased.
    pub(super) drawn: Rates,
    pub(super) engine: Engine,
    pub(super) now: u64,
    pub(super) order: u64,
    pub(super) queue: BinaryHeap<Reverse<Place>>,
    pub(super) live: BTreeMap<LaunchId, Process>,
    /// By the numbers of the units.
    pub(super) units: Vec<Truth>,
    /// By their serials.
    pub(super) lives: Vec<LifeTruth>,
    pub(super) trace: Option<Vec<String>>,
    /// Events and actions, as one number.
    pub(super) digest: Option<u64>,
    pub(super) starts: Vec<UnitName>,
    pub(super) ends: Vec<UnitName>,
    pub(super) asked: BTreeMap<RequestId, Asked>,
    pub(super) replies: BTreeMap<RequestId, RequestAnswer>,
    pub(super) finished: Option<u8>,
    /// As it was loaded last.
    pub(super) plan: Arc<Plan>,
    /// As it was drawn first.
    pub(super) first: Vec<Drawn>,
    pub(super) size: Size,
    pub(super) loads: u32,
    pub(super) seed: u64,
    pub(super) kept: Kept,
    /// Lives that failed, by the events that told of them.
    pub(super) failures: BTreeMap<u64, Failure>,
    /// Questions under way.
    pub(super) asking: Vec<Invocation>,
    /// How often a unit was ended for its health, and how often for its watchdog.
    pub(super) unhealthy: (u64, u64),
    /// Deadlines are not handled until then.
    pub(super) late: Option<u64>,
    /// When the shutdown was asked for.
    pub(super) closing: Option<u64>,
    /// The engine has heard of it, or found a reason itself.
    pub(super) is_closing: bool,
    /// The last event that a full stop cannot be judged by.
    pub(super) finishes: u32,
    pub(super) before: Before,
    pub(super) counts: Counts,
    pub(super) violation: Option<Violation>,
    /// Where every unit was when all had come to rest.
    pub(super) rest: Vec<(UnitName, bool, Word, u64, u64)>,
    /// A broken promise panics at once: for the stories.
    pub(super) is_story: bool,
    /// Everything that costs time is checked too: deltas, JSON, twins of single steps.
    pub(super) is_thorough: bool,
    /// A canary: nobody may be destroyed.
    pub(super) forbids_kill: bool,
    /// An engine restored from this one's state, which must do the same.
    pub(super) twin: Option<(Engine, u32)>,
    /// Every swizzled request's unit.
    pub(super) swizzle: Vec<u32>,
    /// What the world knows of breakers.
    pub(super) gates: BTreeMap<Gate, GateTruth>,
    /// So many ms are between two requests at least, and nothing else is changed then.
    pub(super) spacing: u64,
    /// The manager has died since the last request.
    pub(super) has_died: bool,
}

impl World {
    /// A world in which nothing was loaded yet.
    pub(super) fn with(
        choices: Choices,
        rates: Rates,
        plan: Arc<Plan>,
        first: Vec<Drawn>,
        seed: u64,
    ) -> Self {
        Self {
            choices,
            rates,
            drawn: rates,
            engine: Engine::new(mix(seed)),
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            live: BTreeMap::new(),
            units: Vec::new(),
            lives: Vec::new(),
            trace: None,
            digest: None,
            starts: Vec::new(),
            ends: Vec::new(),
            asked: BTreeMap::new(),
            replies: BTreeMap::new(),
            finished: None,
            plan,
            first,
            size: Size::FULL,
            loads: 0,
            seed,
            kept: Kept::default(),
            failures: BTreeMap::new(),
            asking: Vec::new(),
            unhealthy: (0, 0),
            late: None,
            closing: None,
            is_closing: false,
            finishes: 0,
            before: Before::default(),
            counts: Counts::default(),
            violation: None,
            rest: Vec::new(),
            is_story: false,
            is_thorough: false,
            forbids_kill: false,
            twin: None,
            swizzle: Vec::new(),
            gates: BTreeMap::new(),
            spacing: 0,
            has_died: false,
        }
    }

    /// A promise is broken: the first one counts.
    pub(super) fn broken(&mut self, invariant: Invariant, text: String) {
        let violation = Violation { invariant, text };
        if self.is_story {
            let lines = self.trace.as_deref().unwrap_or_default();
            let tail = &lines[lines.len().saturating_sub(40)..];
            panic!("seed {}: {violation}\n{}", self.seed, tail.join("\n"));
        }
        self.violation.get_or_insert(violation);
    }

    /// A promise could have been broken here.
    pub(super) fn count(&mut self, invariant: Invariant) {
        self.counts.checked[invariant as usize] += 1;
    }

    /// It could have been, and holds only if this does.
    pub(super) fn hold(&mut self, invariant: Invariant, holds: bool, text: impl FnOnce(&Self) -> String) {
        self.count(invariant);
        if !holds {
            let text = text(self);
            self.broken(invariant, text);
        }
    }

    pub(super) fn chance(&mut self, fault: Fault, key: Key, n: u64) -> u64 {
        self.choices.chance(key, self.rates.of_fault(fault), n)
    }

    pub(super) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() || self.digest.is_some() {
            let line = line(self);
            if let Some(digest) = &mut self.digest {
                *digest = mix(*digest ^ crate::engine::restart::name_hash(&line));
            }
            let now = self.now / 1_000_000;
            if let Some(trace) = &mut self.trace {
                trace.push(format!("{now:>7} ms  {line}"));
            }
        }
    }

    fn put(&mut self, at: u64, due: Due) {
        self.order += 1;
        let order = self.order;
        self.queue.push(Reverse(Place { at, order, due }));
    }

    fn put_news(&mut self, who: u32, at: u64, event: Event) {
        self.truth_mut(who).undelivered += 1;
        self.put(at, Due::News(event));
    }

    /// It happens so much later.
    pub(super) fn later(&mut self, ms: u64, event: Event) {
        self.put(self.now + ms * 1_000_000, Due::World(event));
    }

    pub(super) fn request_later(&mut self, ms: u64, nth: u32) {
        self.put(self.now + ms * 1_000_000, Due::Request(nth));
    }

    /// What is under way to the manager or to happen, if it is such.
    pub(super) fn forget_due(&mut self, is_such: impl Fn(&Due) -> bool) {
        self.queue.retain(|Reverse(place)| !is_such(&place.due));
    }

    /// The keeper's or a unit's news reaches the manager: soon, late, or twice; that of one unit in order.
    fn send(&mut self, event: Event) {
        let (Some(who), is_keepers) = (self.speaker_of(&event), tell::is_told_by_inventory(&event)) else {
            return self.tell(event);
        };
        let truth = self.truth_mut(who);
        truth.news += 1;
        let (nth, busy) = (truth.news, truth.busy_until);
        let late = if is_keepers {
            self.chance(Fault::NewsLate, key(Pick::NewsLate, who, nth), 2000)
        } else {
            0
        };
        let at = busy.max(self.now + late * 1_000_000);
        if is_keepers && self.may_be_told_twice(&event) {
            let again = self.chance(Fault::NewsTwice, key(Pick::NewsTwice, who, nth), 1000);
            if again > 0 {
                self.put_news(who, at + again * 1_000_000, event.clone());
            }
        }
        // Time may have passed over what is under way.
        if at > self.now || self.truth_mut(who).undelivered > 0 {
            self.truth_mut(who).busy_until = at;
            self.put_news(who, at, event);
        } else {
            self.tell(event);
        }
    }

    /// The manager hears it, at once, unless it is killed just then.
    pub(super) fn tell(&mut self, event: Event) {
        self.note(|_| tell::event(&event));
        if self.kept.depth == 0 {
            self.malign(&event);
        }
        if self.dies_before(&event) {
            self.crash(Vec::new());
            if tell::is_told_by_inventory(&event) {
                return;
            }
        }
        self.judge_lateness();
        self.step(Some(event));
    }

    /// As the manager does it: one that finds itself long past a deadline hears first what was said meanwhile.
    fn judge_lateness(&mut self) {
        match self.late {
            Some(until) if self.now < until => {}
            Some(_) => {
                self.late = None;
                self.pause(false);
            }
            None => {
                let deadline = self.engine.next_deadline();
                if deadline.is_some_and(|at| Mono(self.now) > at.after(limits::LATE_AFTER)) {
                    self.late = Some(Mono(self.now).after(limits::LATE_GRACE).0);
                    self.pause(true);
                }
            }
        }
    }

    fn pause(&mut self, is_paused: bool) {
        self.engine.pause_deadlines(is_paused);
        if let Some((twin, _)) = &mut self.twin {
            twin.pause_deadlines(is_paused);
        }
    }

    pub(super) fn obey(&mut self, action: Action) {
        self.note(|_| tell::action(&action));
        match action {
            Action::Launch { launch, role, spec } => self.launch(launch, role, &spec),
            Action::AdoptForeign { launch, spec, .. } => self.adopt(launch, &spec),
            Action::Signal { launch, signal, .. } => self.signal(launch, signal),
            Action::Destroy { launch } => self.destroy(launch),
            Action::FindMain { launch, .. } => self.find_main(launch),
            Action::Release { launch } => {
                if self.live.contains_key(&launch) {
                    self.broken(Invariant::OwnProcess, format!("{launch} was released, and lives"));
                }
                self.kept.held.remove(&launch);
            }
            Action::Reply { id, answer } => self.hear_reply(id, answer),
            Action::Finish { code } => {
                self.finishes += 1;
                self.finished = Some(code);
            }
            Action::Emit(change) => self.hear(&change),
            Action::Worked { .. } => {}
            Action::Failed(failure) => self.note_failure(*failure),
            Action::Probe {
                invocation,
                nr,
                timeout,
                ..
            } => self.ask(invocation, nr, timeout),
        }
    }

    /// What happens next, and when; none: nothing ever again.
    pub(super) fn next_at(&self) -> Option<u64> {
        let event = self.queue.peek().map(|Reverse(place)| place.at);
        [event, self.wake_at()].into_iter().flatten().min()
    }

    fn wake_at(&self) -> Option<u64> {
        match self.late {
            Some(until) => Some(until),
            None => self.engine.next_deadline().map(|m| m.0),
        }
    }

    /// Lets the next thing happen. False: there is none before `end` (in ns), or the world has ended.
    pub(super) fn advance(&mut self, end: u64) -> bool {
        if self.finished.is_some() || self.violation.is_some() {
            return false;
        }
        let event = self.queue.peek().map(|Reverse(place)| place.at);
        let Some(next) = self.next_at().filter(|at| *at < end) else {
            return false;
        };
        self.now = self.now.max(next);
        if event.is_some_and(|at| at <= self.now && at == next) {
            let Some(Reverse(place)) = self.queue.pop() else {
                return false;
            };
            match place.due {
                Due::World(event) => {
                    if let Some(event) = self.happen(event) {
                        self.send(event);
                    }
                }
                Due::News(event) => {
                    if let Some(who) = self.speaker_of(&event) {
                        let truth = self.truth_mut(who);
                        truth.undelivered = truth.undelivered.saturating_sub(1);
                    }
                    self.tell(event);
                }
                Due::Request(nth) => self.request(nth),
            }
        } else {
            self.tell(Event::Tick);
        }
        self.check_hung();
        true
    }

    /// Small evils around an event: the engine is woken for nothing, and told of what is over.
    fn malign(&mut self, event: &Event) {
        if self.rates.of_fault(Fault::Spurious) == 0 && self.rates.of_fault(Fault::Stale) == 0 {
            return;
        }
        let (who, nth) = self.place_of_news(event);
        if self.chance(Fault::Spurious, key(Pick::Spurious, who, nth), 1) > 0 {
            self.wake_for_nothing();
        }
        let kind = self.chance(Fault::Stale, key(Pick::Stale, who, nth), 1 << 16);
        if kind > 0 {
            self.tell_stale(kind);
        }
    }

    /// For the choices around a piece of news: whose it is, and its number among those.
    pub(super) fn place_of_news(&self, event: &Event) -> (u32, u32) {
        match self.speaker_of(event) {
            Some(who) => (who, self.units.get(who as usize).map_or(0, |truth| truth.news)),
            None => match event {
                Event::Request { id, .. } => (900, id.0 as u32),
                _ => (901, self.counts.events as u32),
            },
        }
    }

    /// The unit that an event is news of.
    pub(super) fn speaker_of(&self, event: &Event) -> Option<u32> {
        let invocation = tell::invocation_of(event)?;
        let life = self.lives.get(invocation.0 as usize)?;
        life.is_known.then_some(life.who)
    }

    pub(super) fn book(&mut self, event: &Event) {
        self.counts.events += 1;
        cells::book(&mut self.counts.cells, &self.engine, self.now, event);
    }
}
