//! The answer to `why` for the wire: the engine's causes, each with its last failure, and what an operator may type.

use proto::reply::{Advice, Capsule, ChangedKind, FailureKind, Health, RootKind, Why, WhyRoot, WhyStep};

use crate::clock::Now;
use crate::engine::Engine;
use crate::engine::why::Root;
use crate::graph::Ix;
use crate::limits;
use crate::spec::UnitName;

/// `unwell` is why a unit that runs is not well; `capsule` finds the failure of a unit that an event told of.
pub fn why(
    engine: &Engine,
    ix: Ix,
    now: Now,
    unwell: Option<String>,
    capsule: &dyn Fn(&UnitName, u64) -> Option<Capsule>,
) -> Why {
    let found = engine.why(ix, unwell);
    let name = |ix: Ix| engine.graph().name(ix);
    let step = |step: &crate::engine::why::Step| WhyStep {
        depth: step.depth,
        unit: name(step.unit).to_string(),
        edge: step.edge,
        state: engine.unit(step.unit).word,
        text: step.text.clone(),
        is_root: step.is_root,
        is_repeated: step.is_repeated,
        next_try_us: engine.next_try(step.unit).map(|at| now.wall_of(at)),
    };
    let root = |root: &Root| {
        let unit = root.unit.map(name);
        let capsule = unit.zip(root.failure).and_then(|(unit, seq)| capsule(unit, seq));
        let blocks = root.blocks.iter().take(limits::WHY_BLOCKS_MAX);
        WhyRoot {
            unit: unit.map(UnitName::to_string).unwrap_or_default(),
            kind: root.kind,
            text: root.text.clone(),
            since_us: now.wall_of(root.since),
            seq: root.seq,
            by: root.by.clone(),
            next_try_us: root.next.map(|at| now.wall_of(at)),
            advice: advice(unit, root.kind, name(ix), capsule.as_ref()),
            capsule,
            blocks_count: u32::try_from(root.blocks.len()).unwrap_or(u32::MAX),
            blocks: blocks.map(|ix| name(*ix).to_string()).collect(),
        }
    };
    let left_out = found.chain.len().saturating_sub(limits::WHY_ROWS_MAX);
    Why {
        unit: name(ix).to_string(),
        state: engine.unit(ix).word,
        fine: found.is_fine,
        text: found.text.clone(),
        chain: found.chain.iter().take(limits::WHY_ROWS_MAX).map(step).collect(),
        chain_left_out: u32::try_from(left_out).unwrap_or(u32::MAX),
        roots: found.roots.iter().map(root).collect(),
    }
}

/// What may help, the likeliest first.
fn advice(
    unit: Option<&UnitName>,
    kind: RootKind,
    asked: &UnitName,
    capsule: Option<&Capsule>,
) -> Vec<Advice> {
    let mut advice = Vec::new();
    let mut say = |command: String, text: &str| {
        advice.push(Advice {
            command: format!("ringriftctl {command}"),
            text: text.to_owned(),
        });
    };
    let Some(unit) = unit else {
        if kind == RootKind::Limit {
            say("list state:starting".to_owned(), "shows whose turn it is");
        }
        return advice;
    };
    let has_changed = |kind| capsule.is_some_and(|c| c.changed.iter().any(|changed| changed.kind == kind));
    match kind {
        RootKind::Backoff | RootKind::CrashLoop | RootKind::Failed | RootKind::Stopping => {
            if capsule.is_some() {
                say(format!("logs {unit}"), "shows what it wrote");
            }
            if has_changed(ChangedKind::Definition) {
                say(
                    format!("cat {unit}"),
                    "shows its files, which are not what they were",
                );
            }
            match capsule.map(|c| c.kind) {
                Some(FailureKind::Timeout) => say(format!("show {unit}"), "shows its timeouts"),
                Some(FailureKind::Start | FailureKind::Hook) => {
                    say(
                        format!("show {unit}"),
                        "shows what is run, and where that was said",
                    );
                }
                Some(FailureKind::Probe) => say(format!("health {unit}"), "shows its checks"),
                Some(FailureKind::Exit | FailureKind::Signal | FailureKind::Other) | None => {}
            }
            match kind {
                RootKind::Backoff => say(format!("start {unit}"), "tries it now, without waiting"),
                RootKind::Stopping => say(format!("status {unit}"), "shows what is left of it"),
                _ => say(
                    format!("start {unit}"),
                    "tries it again, with its failures forgotten",
                ),
            }
        }
        RootKind::Unhealthy => {
            say(format!("health {unit}"), "shows its checks");
            say(format!("logs {unit}"), "shows what it wrote");
            say(format!("restart {unit}"), "stops and starts it");
        }
        RootKind::Starting => say(format!("logs -f {unit}"), "shows what it writes while it starts"),
        RootKind::Held => say(format!("unhold {unit}"), "ends the hold"),
        RootKind::Stopped | RootKind::Stayed => say(format!("start {unit}"), "starts it"),
        RootKind::Completed => say(format!("start {unit}"), "runs it once more"),
        RootKind::Unwanted => {
            say(format!("start {unit}"), "starts it, though no profile wants it");
            say("profile coverage".to_owned(), "shows which units no profile has");
        }
        RootKind::Conflict => say(format!("stop {unit}"), &format!("makes room for {asked}")),
        RootKind::Limit | RootKind::Shutdown => {}
        RootKind::Breaker => {
            say(format!("logs {unit}"), "shows what it wrote");
            say("status".to_owned(), "shows the breakers that are open");
            say(
                format!("reset-failed {unit}"),
                "forgets its failures, and starts it now",
            );
        }
        RootKind::Moving => say(format!("wait {unit} --for running"), "waits until it is up"),
    }
    advice
}

/// Why a unit that runs is not well, by what is known of its health.
pub fn unwell(health: Health, text: Option<&str>) -> Option<String> {
    let word = match health {
        Health::Unhealthy => "unhealthy",
        Health::Degraded => "degraded",
        Health::Unknown | Health::Healthy => return None,
    };
    Some(match text {
        Some(text) => format!("is {word}: {text}"),
        None => format!("is {word}"),
    })
}
