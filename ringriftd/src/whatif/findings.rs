//! What is remarkable about what the engine did: who was restarted twice for one fault, who never came back, and when
//! everybody started at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::reply::{CauseKind, State as Word};

use super::world::{Fault, World};
use crate::engine::types::{Change, ChangeKind, Mono, Plan};
use crate::engine::unit::Desired;
use crate::limits;
use crate::spec::UnitName;

/// What is told of a run.
#[derive(Debug, Default)]
pub struct Story {
    /// A line for each fault and each change.
    pub trace: Vec<Line>,
    /// Where in `trace` the first fault stands.
    pub first_fault: Option<usize>,
    /// Every wanted unit was tried.
    pub is_settled: bool,
    /// When.
    pub settled_at: Option<Mono>,
    /// Starts in the last second.
    recent: VecDeque<Mono>,
    /// The most starts in one second, up to the settlement and after it, and when.
    pub peaks: [(usize, Mono); 2],
    /// What became of each wanted unit.
    pub units: BTreeMap<UnitName, Fate>,
    /// The last fault, for people.
    fault: Option<String>,
    twice: Vec<Finding>,
}

/// A line of the trace.
#[derive(Debug)]
pub struct Line {
    /// When.
    pub at: Mono,
    /// What.
    pub text: String,
    /// Of no state: left out unless all is asked for.
    pub is_minor: bool,
}

/// One unit's.
#[derive(Debug, Default)]
pub struct Fate {
    /// Its process was started so often.
    pub starts: u32,
    /// Since when it is out, if it was up before.
    pub out_since: Option<Mono>,
    was_up: bool,
    /// The longest time that it was out.
    pub longest: Duration,
    /// How often it was out.
    pub outages: u32,
    /// Why it was stopped for another's sake since the last fault.
    stopped_for: Vec<String>,
    /// What was last said of it.
    last: String,
}

/// Something remarkable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `restarted_twice`, `never_came_back`, `storm`, or `endless`.
    pub kind: &'static str,
    /// Of which unit.
    pub unit: Option<UnitName>,
    /// In one sentence.
    pub text: String,
}

/// `1m02.500s`.
pub fn clock(at: Mono) -> String {
    let ms = at.0 / 1_000_000;
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let seconds = format!("{:02}.{:03}s", ms / 1000 % 60, ms % 1000);
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, m) => format!("{m}m{seconds}"),
        (h, m) => format!("{h}h{m:02}m{seconds}"),
    }
}

fn word(state: Word) -> String {
    serde_json::to_value(state)
        .ok()
        .and_then(|word| Some(word.as_str()?.to_owned()))
        .unwrap_or_default()
}

impl Story {
    fn say(&mut self, at: Mono, text: String, is_minor: bool) {
        self.trace.push(Line { at, text, is_minor });
    }

    pub(super) fn begin(&mut self, plan: &Plan) {
        self.units = plan
            .members
            .keys()
            .map(|name| (name.clone(), Fate::default()))
            .collect();
    }

    pub(super) fn settled(&mut self, now: Mono) {
        self.is_settled = true;
        self.settled_at = Some(now);
        let ready = "every wanted unit was tried".to_owned();
        self.say(now, ready, false);
        self.recent.clear();
    }

    pub(super) fn started(&mut self, now: Mono) {
        while self
            .recent
            .front()
            .is_some_and(|first| now.since(*first) >= Duration::from_secs(1))
        {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        let peak = &mut self.peaks[usize::from(self.is_settled)];
        if self.recent.len() > peak.0 {
            *peak = (self.recent.len(), now);
        }
    }

    pub(super) fn struck(&mut self, now: Mono, fault: &Fault, was_up: bool) {
        self.first_fault.get_or_insert(self.trace.len());
        let text = match fault {
            Fault::Kill(unit) if was_up => format!("{unit} was killed"),
            Fault::Kill(unit) => format!("{unit} was to be killed, and was not up"),
            Fault::Down(unit, until) => format!("{unit} cannot run until {}", clock(*until)),
        };
        self.say(now, format!("*** {text}"), false);
        self.fault = Some(format!("{text} at {}", clock(now)));
        for fate in self.units.values_mut() {
            fate.stopped_for.clear();
        }
    }

    pub(super) fn changed(&mut self, now: Mono, change: Change) {
        let (from, to) = (word(change.from), word(change.to));
        let states = if from == to { to } else { format!("{from} -> {to}") };
        let line = format!("{}: {states}: {}", change.unit, change.cause.text);
        self.say(now, line, change.kind == ChangeKind::HealthChanged);
        let Some(fate) = self.units.get_mut(&change.unit) else {
            return;
        };
        fate.last = change.cause.text.clone();
        if change.kind == ChangeKind::Started {
            fate.starts += 1;
        }
        let is_up = |state| matches!(state, Word::Running | Word::Reloading | Word::Completed);
        match (is_up(change.from), is_up(change.to)) {
            (_, true) => {
                fate.was_up = true;
                if let Some(since) = fate.out_since.take() {
                    fate.longest = fate.longest.max(now.since(since));
                }
            }
            (true, false) => {
                fate.out_since = Some(now);
                fate.outages += 1;
            }
            (false, false) => {}
        }
        let is_stopped = change.to == Word::Stopping && change.from != Word::Stopping;
        if is_stopped && change.cause.kind == CauseKind::Dependency {
            fate.stopped_for.push(change.cause.text.clone());
            if let (2, Some(fault)) = (fate.stopped_for.len(), &self.fault) {
                let [first, second] = [&fate.stopped_for[0], &fate.stopped_for[1]];
                self.twice.push(Finding {
                    kind: "restarted_twice",
                    unit: Some(change.unit.clone()),
                    text: format!(
                        "{} was stopped twice after {fault}: because {first}, and again because {second}",
                        change.unit
                    ),
                });
            }
        }
    }
}

/// How long a unit was out, those still out included.
pub fn longest_outage(fate: &Fate, end: Mono) -> Duration {
    let present = fate.out_since.map_or(Duration::ZERO, |since| end.since(since));
    fate.longest.max(present)
}

/// All of them, the gravest first. `is_whole`: the run came to its end.
pub fn findings(world: &World, is_whole: bool) -> Vec<Finding> {
    let mut all = Vec::new();
    if !is_whole {
        all.push(Finding {
            kind: "endless",
            unit: None,
            text: format!(
                "more than {} things happened: something goes round and round",
                limits::SIMULATE_EVENTS_MAX
            ),
        });
    }
    for (name, fate) in &world.story.units {
        let Some((ix, unit)) = world.engine().find(name) else {
            continue;
        };
        let is_out = unit.desired == Desired::Up && !unit.is_satisfied();
        // A fault that lasts to the end is no finding.
        if !is_out || world.is_down(name) || is_behind_one_that_is_down(world, ix) {
            continue;
        }
        let state = word(unit.shown());
        let why = unit.last_error.clone().unwrap_or_else(|| fate.last.clone());
        let since = match fate.out_since {
            Some(since) => format!("since {}", clock(since)),
            None => "and never was up".to_owned(),
        };
        all.push(Finding {
            kind: "never_came_back",
            unit: Some(name.clone()),
            text: format!("{name} is {state} at the end, {since}: {why}"),
        });
    }
    all.extend(world.story.twice.iter().cloned());
    let (peak, at) = world.story.peaks[1];
    if peak > limits::SIMULATE_STORM {
        all.push(Finding {
            kind: "storm",
            unit: None,
            text: format!("{peak} units were started within one second at {}", clock(at)),
        });
    }
    all
}

/// It waits for a unit that a fault holds down still.
fn is_behind_one_that_is_down(world: &World, ix: crate::graph::Ix) -> bool {
    let graph = world.engine().graph();
    let mut seen = std::collections::BTreeSet::new();
    let mut open = vec![ix];
    while let Some(ix) = open.pop() {
        if !seen.insert(ix) {
            continue;
        }
        if world.is_down(graph.name(ix)) {
            return true;
        }
        open.extend(&graph.edges(ix).requires);
    }
    false
}
