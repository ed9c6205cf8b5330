//! What the engine knows, in the words of the wire. Reads; decides nothing, asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::reply::{
    Blocker as WireBlocker, BreakerOpen, BreakerStatus, CheckOutcome, CheckResult, CheckStatus, Coverage,
    DeprecatedUnit, Edge, EdgeKind, Failure, Graph as WireGraph, LastExit, Member, Names, NodeStatus, Orphan,
    Profile, ProfileSummary, Reloaded, State, Summary, UnitStatus, Verdict,
};

use serde::{Deserialize, Serialize};

use crate::clock::Now;
use crate::config::{Loaded, LoadedProfile};
use crate::engine::Engine;
use crate::engine::breaker::{Gate, GateView};
use crate::engine::hold::hold_text;
use crate::engine::types::{Refusal, UnitAnswer};
use crate::engine::unit::{Desired, Unit};
use crate::engine::watch::{Check, CheckBy, Checked, Turn};
use crate::graph::Ix;
use crate::ids::invocation_text;
use crate::spec::{Lifecycle, Membership, NotifyAccess, OnUnhealthy, Probe, UnitName, UnitSpec};

/// What a unit said of itself in its present life.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// `STATUS=`.
    pub status: Option<String>,
    /// `X_RINGRIFT_METRICS=`, by name. (An earlier version kept a text under the field's own name.)
    #[serde(default, rename = "numbers")]
    pub metrics: Vec<(String, f64)>,
    /// `ERRNO=`.
    #[serde(default)]
    pub errno: Option<i32>,
    /// `NOTIFYACCESS=`.
    #[serde(default)]
    pub access: Option<NotifyAccess>,
}

impl Said {
    /// `STATUS=`, and what `ERRNO=` adds to it.
    pub fn text(&self) -> Option<String> {
        let errno = self
            .errno
            .map(|n| format!("error {n}: {}", nix::errno::Errno::from_raw(n).desc()));
        match (&self.status, errno) {
            (Some(status), Some(errno)) => Some(format!("{status} ({errno})")),
            (Some(text), None) => Some(text.clone()),
            (None, errno) => errno,
        }
    }
}

/// What views need besides the engine.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Both clocks.
    pub now: Now,
    /// The node's random number.
    pub seed: u64,
    /// What units said.
    pub said: &'a BTreeMap<UnitName, Said>,
    /// How many descriptors units have kept.
    pub stored: &'a BTreeMap<&'a str, u32>,
}

/// The word for a lifecycle.
pub fn lifecycle_word(lifecycle: Lifecycle) -> &'static str {
    match lifecycle {
        Lifecycle::Active => "active",
        Lifecycle::Experimental => "experimental",
        Lifecycle::Optional => "optional",
        Lifecycle::Advanced => "advanced",
    }
}

/// Marks what runs code that was read before its zygote began: restarted, it would get what the zygote has. By the kernel's
/// word on when processes began, so that nothing has to be remembered over anybody's death.
fn note(engine: &Engine, unit: &Unit) -> Option<String> {
    let newer = || {
        let life = unit.state.life()?;
        let used = life.spec.exec.zygote.as_ref()?;
        let (_, zygote) = engine.find(&used.name)?;
        let began = zygote
            .state
            .life()
            .filter(|of| of.ready.is_some())?
            .main_start()?;
        // A stand-in of a zygote has a note, and no code to give.
        let is_older = life.main_start()? < began && zygote.note.is_none();
        is_older.then(|| format!("older code than {} has now", used.name))
    };
    let said = [unit.note.clone(), newer()];
    let said: Vec<String> = said.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join("; "))
}

/// Everything known of one unit, but for what must be measured (CPU, memory, log lines).
pub fn unit(engine: &Engine, ix: Ix, facts: &Facts<'_>) -> UnitStatus {
    let unit = engine.unit(ix);
    let spec = &unit.spec;
    let life = unit.state.life();
    // What it said in a life that is over says nothing of now.
    let said = life.and_then(|_| facts.said.get(&spec.name));
    let at = |mono| facts.now.wall_of(mono);
    let added_by = match &unit.member {
        Some(Membership::AddedBy { unit }) => Some(unit.to_string()),
        Some(Membership::Listed { .. }) => None,
        None => (unit.desired == Desired::Up).then(|| unit.desired_cause.text.clone()),
    };
    let (health, health_text) = unit.health();
    UnitStatus {
        name: spec.name.to_string(),
        description: spec.description.clone(),
        state: unit.word,
        health,
        desired_up: unit.desired == Desired::Up,
        next_try_us: engine.next_try(ix).map(at),
        needs_restart: unit.needs_restart(),
        pid: life.and_then(|l| l.pid()),
        invocation: unit.last_invocation.map(|i| invocation_text(facts.seed, i)),
        since_us: at(unit.since),
        ready_us: life.and_then(|l| l.ready).map(at),
        restarts: unit.restarts.total(),
        starts: unit.starts,
        last_exit: unit.last_exit.map(|(exit, when)| LastExit {
            exit,
            at_us: at(when),
        }),
        last_error: unit.last_error.clone(),
        last_lines: Vec::new(),
        blocked_by: blocked_by(engine, ix, unit),
        ready: unit.is_satisfied(),
        category: spec.category.clone(),
        lifecycle: lifecycle_word(spec.lifecycle).to_owned(),
        critical: spec.critical,
        deprecated: spec
            .deprecated
            .as_ref()
            .map(|d| d.live_end.as_ref().map(UnitName::to_string).unwrap_or_default()),
        added_by,
        note: note(engine, unit),
        status_text: said.and_then(Said::text),
        cpu_us: None,
        memory_bytes: None,
        remains: unit.remains.clone(),
        held: unit.hold.as_ref().map(|held| held.hold.clone()),
        check: check(unit, facts).map(Box::new),
        health_text,
        metrics: said.map(|s| s.metrics.clone()).unwrap_or_default(),
        fds_stored: facts.stored.get(spec.name.as_str()).copied().unwrap_or_default(),
        capsules: Vec::new(),
        failures: unit.failures,
        log: None,
    }
}

/// How its health is found out; nothing where nothing is, and nothing was said.
fn check(unit: &Unit, facts: &Facts<'_>) -> Option<CheckStatus> {
    let life = unit.state.life();
    let spec = life.map_or(&unit.spec, |life| &life.spec);
    let health = spec.health.as_ref();
    let has_said = !unit.checks.is_empty() || life.is_some_and(|life| life.watch.said.is_some());
    if health.is_none() && spec.ready_probe.is_none() && !has_said {
        return None;
    }
    let at = |mono| facts.now.wall_of(mono);
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let watch = life.map(|life| &life.watch);
    let probe = health.and_then(|health| health.probe.as_ref());
    let next = match watch.map(|watch| watch.turn) {
        Some(Turn::At(next) | Turn::Clearing { next }) => Some(at(next)),
        // It waits for its place.
        Some(Turn::Waiting { due, .. }) => Some(at(due)),
        Some(Turn::None | Turn::Asked { .. }) | None => None,
    };
    Some(CheckStatus {
        probe: probe.map(probe_text),
        interval_ms: ms(spec.health_interval),
        timeout_ms: health.map_or(0, |health| ms(health.timeout)),
        grace_ms: health.map_or(0, |health| ms(health.grace)),
        failures: health.map(|health| health.failures),
        on_failure: match health.map(|health| health.on_failure) {
            Some(OnUnhealthy::Restart) => "restart",
            Some(OnUnhealthy::Mark) | None => "mark",
            Some(OnUnhealthy::Ignore) => "ignore",
        }
        .to_owned(),
        watchdog_ms: unit
            .watchdog()
            .or_else(|| health.and_then(|health| health.watchdog))
            .map(ms),
        watchdog_due_us: watch.and_then(|watch| watch.watchdog.until).map(at),
        watchdog_fed_us: watch.and_then(|watch| watch.watchdog.fed).map(at),
        failed_probes: watch.map_or(0, |watch| watch.probes.failed),
        failed_reports: watch.map_or(0, |watch| watch.reports.failed),
        unhealthy_ends: unit.restarts.unhealthy_ends(),
        is_asking: watch.is_some_and(|watch| matches!(watch.turn, Turn::Asked { .. })),
        next_us: next,
        results: unit
            .checks
            .iter()
            .map(|check| check_result(check, facts.now))
            .collect(),
    })
}

/// As its file has it; of a command only the program.
fn probe_text(probe: &Probe) -> String {
    let text = match probe {
        Probe::Http(text) | Probe::Tcp(text) | Probe::File(text) => text.to_string(),
        Probe::Command(argv) => argv.first().map(ToString::to_string).unwrap_or_default(),
        Probe::LogLine(pattern) => pattern.clone(),
    };
    format!("{} {text}", probe.word())
}

fn check_result(check: &Check, now: Now) -> CheckResult {
    let is_asked = match check.by {
        CheckBy::Ready | CheckBy::Probe => true,
        CheckBy::Report | CheckBy::Watchdog => false,
    };
    let (outcome, text) = match &check.result {
        Checked::Passed => (CheckOutcome::Passed, None),
        Checked::Degraded(text) => (CheckOutcome::Degraded, text.clone()),
        Checked::Failed(text) => (CheckOutcome::Failed, Some(text.clone())),
        Checked::Cannot(text) => (CheckOutcome::Unasked, Some(text.clone())),
    };
    CheckResult {
        at_us: now.wall_of(check.at),
        took_us: is_asked.then(|| u64::try_from(check.took.as_micros()).unwrap_or(u64::MAX)),
        by: match check.by {
            CheckBy::Ready => "ready",
            CheckBy::Probe => "probe",
            CheckBy::Report => "report",
            CheckBy::Watchdog => "watchdog",
        }
        .to_owned(),
        outcome,
        text,
    }
}

fn blocked_by(engine: &Engine, ix: Ix, unit: &Unit) -> Vec<WireBlocker> {
    match unit.word {
        State::Waiting | State::Held if unit.desired == Desired::Up => {
            let blocker = |b: &crate::engine::Blocker| WireBlocker {
                unit: b
                    .unit()
                    .map(|ix| engine.graph().name(ix).to_string())
                    .unwrap_or_default(),
                why: engine.blocker_text(b),
            };
            engine.blockers(ix).iter().map(blocker).collect()
        }
        // It is to go down, and those that need it go first.
        State::Starting | State::Running | State::Reloading
            if unit.desired == Desired::Down || unit.restart_pending =>
        {
            let blocker = |ix: Ix| WireBlocker {
                unit: engine.graph().name(ix).to_string(),
                why: "has to stop first".to_owned(),
            };
            engine.stop_blockers(ix).into_iter().map(blocker).collect()
        }
        State::Stopped
        | State::Waiting
        | State::Starting
        | State::Running
        | State::Reloading
        | State::Stopping
        | State::Backoff
        | State::Failed
        | State::Completed
        | State::Held => Vec::new(),
    }
}

/// A unit that the node should be running, or was told by a profile to run.
pub fn is_wanted(unit: &Unit) -> bool {
    unit.desired == Desired::Up || unit.member.is_some()
}

/// How many units are in which state.
pub fn summary(engine: &Engine) -> Summary {
    let mut sum = Summary::default();
    for (_, unit) in engine.units() {
        sum.known += 1;
        if !is_wanted(unit) {
            continue;
        }
        if unit.desired == Desired::Up {
            sum.wanted += 1;
        }
        let count = match unit.word {
            State::Running | State::Reloading => &mut sum.running,
            State::Starting => &mut sum.starting,
            State::Waiting => &mut sum.waiting,
            State::Stopping => &mut sum.stopping,
            State::Backoff => &mut sum.backoff,
            State::Failed => &mut sum.failed,
            State::Completed => &mut sum.completed,
            State::Stopped | State::Held => &mut sum.stopped,
        };
        *count += 1;
    }
    sum
}

/// What the header of `status` says besides the engine's part.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// The keeper's pid.
    pub pid: u32,
    /// Since when the daemon runs, ms.
    pub uptime_ms: u64,
    /// The node's name.
    pub node: String,
    /// How units are contained.
    pub containment: String,
    /// Sentences for the operator.
    pub notices: Vec<String>,
    /// Since when the daemon runs.
    pub started_us: u64,
    /// What limits restarts.
    pub breakers: Vec<BreakerStatus>,
}

/// The header of `status`.
pub fn node(engine: &Engine, loaded: &Loaded, facts: &NodeFacts) -> NodeStatus {
    NodeStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: facts.node.clone(),
        profiles: loaded.plan.node.profiles.clone(),
        pid: facts.pid,
        uptime_ms: facts.uptime_ms,
        containment: facts.containment.clone(),
        settled: engine.is_settled(),
        stopping: engine.is_shutting_down(),
        summary: summary(engine),
        notices: facts.notices.clone(),
        started_us: facts.started_us,
        breakers: facts.breakers.clone(),
    }
}

/// The breakers that have limits: the node's first.
pub fn breakers(engine: &Engine, now: Now) -> Vec<BreakerStatus> {
    let view = |gate: GateView<'_>| BreakerStatus {
        category: match gate.gate {
            Gate::Category(name) => name,
            Gate::Node => String::new(),
        },
        restarts: gate.open.map_or(gate.count, |open| open.restarts),
        limit: gate.limit.restarts.unwrap_or(u32::MAX),
        window_ms: u64::try_from(gate.limit.window.as_millis()).unwrap_or(u64::MAX),
        trips: gate.trips,
        open: gate.open.map(|open| BreakerOpen {
            since_us: now.wall_of(open.since),
            until_us: now.wall_of(open.until),
            seq: open.seq,
            unit: open.unit.to_string(),
        }),
        held: gate
            .held
            .into_iter()
            .map(|ix| engine.graph().name(ix).to_string())
            .collect(),
    };
    engine.gates().into_iter().map(view).collect()
}

/// A verdict for the wire.
pub fn verdict(answer: UnitAnswer, now: Now) -> Verdict {
    Verdict {
        unit: answer.unit.to_string(),
        outcome: answer.outcome,
        text: answer.text,
        took_ms: u64::try_from(answer.took.as_millis()).unwrap_or(u64::MAX),
        killed: answer.killed,
        remains: answer.remains,
        next_try_us: answer.next_try.map(|at| now.wall_of(at)),
    }
}

/// A refusal for the wire.
pub fn refusal(refusal: &Refusal) -> Failure {
    let text = |list: &[UnitName]| list.iter().map(UnitName::to_string).collect::<Vec<_>>();
    match refusal {
        Refusal::WouldStop { units } => Failure {
            code: 7,
            message: format!("this would also stop {}", text(units).join(", ")),
            unit: None,
            hint: Some("say --yes to stop them too".to_owned()),
            details: text(units),
        },
        Refusal::Conflict { unit, with } => Failure {
            code: 7,
            message: format!("{unit} conflicts with {with}: they are never up together"),
            unit: Some(unit.to_string()),
            hint: Some(format!("stop {with} first")),
            details: Vec::new(),
        },
        Refusal::Held { unit, hold } => Failure {
            code: 7,
            message: format!("{unit} is {}", hold_text(hold)),
            unit: Some(unit.to_string()),
            hint: Some(format!("ringriftctl unhold {unit}")),
            details: Vec::new(),
        },
        Refusal::NotAdopted { unit, why } => Failure {
            code: 7,
            message: format!("{unit} cannot take over a process: {why}"),
            unit: Some(unit.to_string()),
            hint: None,
            details: Vec::new(),
        },
        Refusal::ShuttingDown => Failure {
            code: 7,
            message: "ringriftd is shutting down".to_owned(),
            unit: None,
            hint: None,
            details: Vec::new(),
        },
        Refusal::BreakerOpen { unit, why } => Failure {
            code: 7,
            message: format!("{unit} is not started: {why}"),
            unit: Some(unit.to_string()),
            hint: Some(format!("ringriftctl reset-failed {unit}")),
            details: Vec::new(),
        },
        Refusal::Unknown { unit } => Failure {
            code: 4,
            message: format!("there is no unit {unit}"),
            unit: Some(unit.to_string()),
            hint: None,
            details: Vec::new(),
        },
    }
}

/// Every edge, and the units that were asked for.
pub fn graph(engine: &Engine, roots: &[UnitName]) -> WireGraph {
    let g = engine.graph();
    let mut edges = Vec::new();
    for ix in g.all() {
        let from = g.name(ix).to_string();
        let e = g.edges(ix);
        let kinds = [
            (&e.requires, EdgeKind::Requires),
            (&e.wants, EdgeKind::Wants),
            (&e.after, EdgeKind::After),
            (&e.conflicts, EdgeKind::Conflicts),
        ];
        for (list, kind) in kinds {
            for &to in list {
                edges.push(Edge {
                    from: from.clone(),
                    to: g.name(to).to_string(),
                    kind,
                });
            }
        }
    }
    WireGraph {
        roots: roots.iter().map(UnitName::to_string).collect(),
        edges,
    }
}

fn profile_summary(loaded: &Loaded, name: &str, profile: &LoadedProfile) -> ProfileSummary {
    ProfileSummary {
        name: name.to_owned(),
        description: profile.description.clone(),
        active: loaded.plan.node.profiles.iter().any(|p| p == name),
        listed: count(profile.listed.len()),
        total: count(profile.members.len()),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// All profiles.
pub fn profiles(loaded: &Loaded) -> Vec<ProfileSummary> {
    loaded
        .profiles
        .iter()
        .map(|(name, p)| profile_summary(loaded, name, p))
        .collect()
}

/// One profile with its members in start order.
pub fn profile(loaded: &Loaded, name: &str) -> Option<Profile> {
    let profile = loaded.profiles.get(name)?;
    let graph = &loaded.plan.graph;
    let mut members: Vec<(u32, Member)> = Vec::new();
    for (unit, membership) in &profile.members {
        let (Some(ix), Some(spec)) = (graph.find(unit), loaded.plan.units.get(unit)) else {
            continue;
        };
        let added_by = match membership {
            Membership::AddedBy { unit } => Some(unit.to_string()),
            Membership::Listed { .. } => None,
        };
        let member = Member {
            unit: unit.to_string(),
            position: spec.startup_position,
            wave: wave(loaded, profile, ix),
            added_by,
            deprecated: spec.deprecated.is_some(),
        };
        members.push((graph.rank(ix), member));
    }
    members.sort_by_key(|(rank, _)| *rank);
    let members = members.into_iter().map(|(_, member)| member).collect();
    Some(Profile {
        summary: profile_summary(loaded, name, profile),
        members,
    })
}

/// The longest chain of ordering edges below a unit, counting members only.
fn wave(loaded: &Loaded, profile: &LoadedProfile, ix: Ix) -> u32 {
    let graph = &loaded.plan.graph;
    let mut below: BTreeMap<Ix, u32> = BTreeMap::new();
    let mut members: Vec<Ix> = profile
        .members
        .keys()
        .filter_map(|name| graph.find(name))
        .collect();
    members.sort_by_key(|ix| graph.rank(*ix));
    for member in members {
        let deepest = graph
            .ordered_after(member)
            .filter_map(|d| below.get(&d).map(|w| w + 1))
            .max();
        below.insert(member, deepest.unwrap_or(0));
        if member == ix {
            break;
        }
    }
    below.get(&ix).copied().unwrap_or(0)
}

/// Units that no profile has, leaving out profiles that have every unit.
pub fn coverage(loaded: &Loaded) -> Coverage {
    let all = loaded.plan.units.len();
    let covered: BTreeSet<&UnitName> = loaded
        .profiles
        .values()
        .filter(|p| p.members.len() < all)
        .flat_map(|p| p.members.keys())
        .collect();
    let orphan = |spec: &UnitSpec| Orphan {
        unit: spec.name.to_string(),
        lifecycle: if spec.deprecated.is_some() {
            "deprecated".to_owned()
        } else {
            lifecycle_word(spec.lifecycle).to_owned()
        },
        description: spec.description.clone(),
    };
    let orphans = loaded
        .plan
        .units
        .values()
        .filter(|spec| !covered.contains(&spec.name))
        .map(|spec| orphan(spec))
        .collect();
    Coverage {
        profiles: profiles(loaded),
        orphans,
    }
}

/// Every deprecated unit, with who still uses it. `today` is `2026-06-30`-like.
pub fn deprecated(loaded: &Loaded, today: &str) -> Vec<DeprecatedUnit> {
    let plan = &loaded.plan;
    let mut rows = Vec::new();
    for spec in plan.units.values() {
        let Some(d) = &spec.deprecated else { continue };
        let used_by = plan
            .node
            .profiles
            .iter()
            .filter(|p| {
                loaded
                    .profiles
                    .get(*p)
                    .is_some_and(|p| p.members.contains_key(&spec.name))
            })
            .cloned()
            .collect();
        let needed_by = plan
            .units
            .values()
            .filter(|other| {
                [&other.requires, &other.wants, &other.after]
                    .into_iter()
                    .flatten()
                    .any(|n| *n == spec.name)
            })
            .map(|other| other.name.to_string())
            .collect();
        rows.push(DeprecatedUnit {
            unit: spec.name.to_string(),
            replaced_by: d.replaced_by.as_ref().map(UnitName::to_string),
            live_end: d.live_end.as_ref().map(UnitName::to_string),
            note: d.note.clone(),
            since: d.since.clone(),
            overdue: d.remove_after.as_deref().is_some_and(|date| date < today),
            remove_after: d.remove_after.clone(),
            used_by,
            needed_by,
        });
    }
    rows
}

/// The names of everything, for completion.
pub fn names(loaded: &Loaded) -> Names {
    let units = &loaded.plan.units;
    let categories: BTreeSet<&String> = units.values().map(|spec| &spec.category).collect();
    Names {
        units: units.keys().map(UnitName::to_string).collect(),
        profiles: loaded.profiles.keys().cloned().collect(),
        categories: categories.into_iter().cloned().collect(),
    }
}

/// A refusal without frills.
pub fn refused(code: u8, message: String) -> Failure {
    Failure {
        code,
        message,
        unit: None,
        hint: None,
        details: Vec::new(),
    }
}

/// What `daemon-reload` did, by comparing before and after.
pub fn reloaded(before: &Loaded, after: &Loaded, engine: &Engine) -> Reloaded {
    let members = |l: &Loaded| l.plan.members.keys().cloned().collect::<BTreeSet<_>>();
    let (old, new) = (members(before), members(after));
    let text = |set: Vec<&UnitName>| set.into_iter().map(UnitName::to_string).collect();
    let changed = engine.units().filter(|(_, unit)| unit.needs_restart());
    Reloaded {
        added: text(new.difference(&old).collect()),
        removed: text(old.difference(&new).collect()),
        needs_restart: changed.map(|(_, unit)| unit.spec.name.to_string()).collect(),
        warnings: after.warnings.iter().map(ToString::to_string).collect(),
    }
}
