//! `[on_event]` of `ringriftd.toml`: the command that is told of events. It is run as a unit's process is, so its settings
//! are checked as a unit's [exec] is: as those of a unit that no file defines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::check::Check;
use super::diagnostic::{Diagnostic, nearest_names};
use super::merged::Merged;
use super::source::{FileId, Span};
use super::tree::{Layer, Leaf, Typed};
use super::values::{fold, glob_matches};
use crate::limits;
use crate::spec::{ON_EVENT_UNIT, OnEvent, Rate, UnitName};

/// Every event there is, as `events --json` names it.
pub const EVENTS: [&str; 13] = [
    "DAEMON_STARTED",
    "DAEMON_READY",
    "DAEMON_STOPPED",
    "DAEMON_FAILED",
    "DAEMON_RESTARTING",
    "DAEMON_HEALTH_CHANGED",
    "DAEMON_CRASH_LOOP_DETECTED",
    "DAEMON_PERMANENTLY_FAILED",
    "DAEMON_CASCADE_BREAKER_TRIPPED",
    "DAEMON_CASCADE_RECOVERY_COMPLETE",
    "DAEMON_STATUS_CHANGED",
    "DAEMON_LOG_DROPPING",
    "DAEMON_LOG_DROPPED",
];

/// The one that says little: each step of each unit.
const QUIET: &str = "DAEMON_STATUS_CHANGED";

/// Keys that mean the same here as in a unit's [exec].
const OF_EXEC: [&str; 7] = [
    "command",
    "env",
    "env_files",
    "pass_env",
    "user",
    "group",
    "working_dir",
];
/// Those of `[defaults.unit.exec]` that hold for whatever a node runs.
const OF_DEFAULTS: [&str; 12] = [
    "env",
    "env_files",
    "pass_env",
    "user",
    "group",
    "supplementary_groups",
    "working_dir",
    "umask",
    "nice",
    "oom_score_adj",
    "rlimits",
    "no_new_privs",
];

fn head(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// The command that is told of events, if the file has one. It is only good when no fault was added.
pub fn on_event(
    check: &mut Check<'_>,
    node: Option<&(FileId, Layer)>,
    categories: &BTreeMap<UnitName, String>,
) -> Option<OnEvent> {
    let (_, layer) = node?;
    let home = *layer.tables.get("on_event")?;
    let mut merged = Merged {
        is_partial: layer.is_partial,
        ..Merged::default()
    };
    for (path, leaf) in &layer.leaves {
        let place = if let Some(key) = path.strip_prefix("defaults.unit.exec.") {
            OF_DEFAULTS.contains(&head(key)).then(|| format!("exec.{key}"))
        } else {
            path.strip_prefix("defaults.unit.log.")
                .map(|key| format!("log.{key}"))
        };
        if let Some(place) = place {
            merged.leaves.insert(place, leaf.clone());
        }
    }
    let of_hook = |path: &str| path.strip_prefix("on_event.").map(str::to_owned);
    for (path, leaf) in &layer.leaves {
        if let Some(key) = of_hook(path).filter(|key| OF_EXEC.contains(&head(key))) {
            merged.leaves.insert(format!("exec.{key}"), leaf.clone());
        }
    }
    if let Some(name) = check.names.values().find(|name| name.as_str() == ON_EVENT_UNIT) {
        let what = format!("a unit is called \"{name}\", as the runs of [on_event] are");
        let fault = Diagnostic::fault(check.sources.place(home), what);
        check.faults.push(fault.help("give that unit another name"));
    }
    let leaf = |key: &str| layer.leaves.get(&format!("on_event.{key}"));
    if leaf("command").is_none() && !layer.is_partial {
        let fault = Diagnostic::fault(check.sources.place(home), "[on_event] does not say what to run");
        check
            .faults
            .push(fault.help("write command = [\"/path/to/program\"]"));
        return None;
    }
    let whole = |key: &str, otherwise: u32| match leaf(key).map(|leaf| &leaf.value) {
        Some(Typed::Whole(n)) => u32::try_from(*n).unwrap_or(otherwise),
        _ => otherwise,
    };
    let name = UnitName::new(ON_EVENT_UNIT)?;
    let unit = check.unit(&name, &merged, home);
    Some(OnEvent {
        unit: Arc::new(unit),
        events: events(check, leaf("events")),
        units: leaf("units").map(|leaf| units(check, leaf, categories, ("on_event", "units"))),
        rate: rate(check, leaf("rate")),
        at_once: whole("at_once", limits::HOOKS_AT_ONCE),
        queue: whole("queue", limits::HOOK_QUEUE),
        timeout: match leaf("timeout").map(|leaf| &leaf.value) {
            Some(Typed::Time(time)) => *time,
            _ => limits::HOOK_TIMEOUT,
        },
    })
}

/// A list's entries with their places.
fn entries(leaf: &Leaf) -> Vec<(&str, Span)> {
    match &leaf.value {
        Typed::Names(names) => names
            .iter()
            .map(String::as_str)
            .zip(leaf.items.iter().copied())
            .collect(),
        _ => Vec::new(),
    }
}

fn events(check: &mut Check<'_>, leaf: Option<&Leaf>) -> BTreeSet<String> {
    let Some(leaf) = leaf else {
        return EVENTS
            .into_iter()
            .filter(|event| *event != QUIET)
            .map(str::to_owned)
            .collect();
    };
    let mut out = BTreeSet::new();
    for (text, span) in entries(leaf) {
        let before = out.len();
        let mut found = EVENTS
            .into_iter()
            .filter(|event| glob_matches(text, event))
            .peekable();
        if found.peek().is_none() && before == out.len() {
            let near = nearest_names(&text.to_ascii_uppercase(), EVENTS);
            let mut fault = Diagnostic::fault(
                check.sources.place(span),
                format!("no event is called \"{text}\""),
            );
            fault.help = near;
            check.faults.push(fault);
        }
        out.extend(found.map(str::to_owned));
    }
    out
}

/// The units that a list of names, globs and `@category` selects; `place` is the table that it stands in and its key.
pub(super) fn units(
    check: &mut Check<'_>,
    leaf: &Leaf,
    categories: &BTreeMap<UnitName, String>,
    place: (&str, &str),
) -> BTreeSet<UnitName> {
    let mut out = BTreeSet::new();
    for (text, span) in entries(leaf) {
        let glob = fold(text);
        let is_meant = |(name, category): &(&UnitName, &String)| match text.strip_prefix('@') {
            Some(wanted) => *category == wanted,
            None => glob_matches(&glob, &fold(name.as_str())),
        };
        let found: Vec<UnitName> = categories
            .iter()
            .filter(is_meant)
            .map(|(name, _)| name.clone())
            .collect();
        if found.is_empty() {
            if text.contains(['@', '*', '?']) {
                let fault =
                    Diagnostic::fault(check.sources.place(span), format!("\"{text}\" selects no unit"));
                check.faults.push(fault);
            } else {
                let (table, key) = place;
                check.unknown_unit(span, text, &format!("named in \"{key}\" of [{table}]"));
            }
        }
        out.extend(found);
    }
    out
}

/// `10/s`, `100/m`, `1000/h`.
fn rate(check: &mut Check<'_>, leaf: Option<&Leaf>) -> Rate {
    let otherwise = Rate {
        count: limits::HOOK_RATE,
        per: Duration::from_secs(1),
    };
    let Some(leaf) = leaf else { return otherwise };
    let Typed::Text(text) = &leaf.value else {
        return otherwise;
    };
    let parsed = text.split_once('/').and_then(|(count, per)| {
        let is_number = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
        let count = count
            .parse()
            .ok()
            .filter(|n| is_number && (1..=limits::HOOK_RATE_MAX).contains(n))?;
        let seconds = match per {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        Some(Rate {
            count,
            per: Duration::from_secs(seconds),
        })
    });
    parsed.unwrap_or_else(|| {
        let what = format!("\"{text}\" is not a rate");
        let why = format!(
            "a rate is a number from 1 to {} by second, minute or hour: \"10/s\", \"100/m\", \"1000/h\"",
            limits::HOOK_RATE_MAX
        );
        let fault = Diagnostic::fault(check.sources.place(leaf.span), what);
        check.faults.push(fault.why(why));
        otherwise
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::types::ChangeKind;

    #[test]
    fn every_word_of_the_engine_is_an_event() {
        for kind in [
            ChangeKind::Started,
            ChangeKind::Ready,
            ChangeKind::Stopped,
            ChangeKind::Failed,
            ChangeKind::Restarting,
            ChangeKind::CrashLoop,
            ChangeKind::PermanentlyFailed,
            ChangeKind::StatusChanged,
            ChangeKind::HealthChanged,
            ChangeKind::BreakerTripped,
            ChangeKind::BreakerClosed,
            ChangeKind::LogDropping,
            ChangeKind::LogDropped,
        ] {
            assert!(EVENTS.contains(&kind.word()), "{}", kind.word());
        }
    }
}
