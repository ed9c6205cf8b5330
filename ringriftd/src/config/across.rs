//! What only shows when all units lie side by side: rings, conflicts, chains of replacements, units in no profile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::civil::Date;

use super::diagnostic::{Diagnostic, Severity};
use super::merged::{Defined, Names};
use super::profile::LoadedProfile;
use super::source::{Sources, Span};
use super::tree::Typed;
use super::values::fold;
use crate::graph::{Cycle, Why};
use crate::spec::{Membership, UnitName, UnitSpec};

/// Where a unit's list names another.
fn item(
    names: &Names,
    defined: &BTreeMap<UnitName, Defined>,
    unit: &UnitName,
    key: &str,
    other: &UnitName,
) -> Option<Span> {
    let leaf = defined.get(unit)?.merged.leaves.get(key)?;
    let Typed::Names(typed) = &leaf.value else {
        return None;
    };
    let at = typed
        .iter()
        .position(|text| names.get(&fold(text)) == Some(other))?;
    leaf.items.get(at).copied()
}

/// A ring of units, with the place of each edge.
pub fn cycle_fault(
    sources: &Sources,
    names: &Names,
    defined: &BTreeMap<UnitName, Defined>,
    cycle: &Cycle,
) -> Diagnostic {
    let path: Vec<&str> = cycle
        .edges
        .iter()
        .map(|e| e.waits.as_str())
        .chain(cycle.edges.first().map(|e| e.waits.as_str()))
        .collect();
    let what = format!("units wait for each other in a ring: {}", path.join(" -> "));
    let places: Vec<(Option<Span>, String)> = cycle
        .edges
        .iter()
        .map(|edge| match edge.why {
            Why::Before => (
                item(names, defined, &edge.waits_for, "before", &edge.waits),
                format!("\"{}\" is before \"{}\"", edge.waits_for, edge.waits),
            ),
            why => {
                let text = match why {
                    Why::After => "is after",
                    Why::Wants => "wants",
                    _ => "requires",
                };
                (
                    item(names, defined, &edge.waits, why.key(), &edge.waits_for),
                    format!("\"{}\" {text} \"{}\"", edge.waits, edge.waits_for),
                )
            }
        })
        .collect();
    let first = places.iter().find_map(|(span, _)| *span);
    let mut fault = match first {
        Some(span) => Diagnostic::fault(sources.place(span), what),
        None => Diagnostic::homeless(what),
    };
    for (span, text) in places {
        if let Some(span) = span {
            fault = fault.note(sources.place(span), text);
        }
    }
    fault
        .why("none of them could ever start first")
        .help("take one of these edges out")
}

/// Two members that may never both be up.
pub fn conflicts(
    sources: &Sources,
    names: &Names,
    defined: &BTreeMap<UnitName, Defined>,
    units: &BTreeMap<UnitName, Arc<UnitSpec>>,
    members: &BTreeMap<UnitName, Membership>,
    faults: &mut Vec<Diagnostic>,
) {
    let by = |unit: &UnitName| match members.get(unit) {
        Some(Membership::Listed { profile }) => format!("\"{unit}\" is listed by profile \"{profile}\""),
        Some(Membership::AddedBy { unit: by }) => format!("\"{unit}\" is added by \"{by}\""),
        None => String::new(),
    };
    for name in members.keys() {
        for other in units
            .get(name)
            .map(|u| u.conflicts.as_slice())
            .unwrap_or_default()
        {
            let is_told = units.get(other).is_some_and(|u| u.conflicts.contains(name)) && other < name;
            if members.contains_key(other)
                && !is_told
                && let Some(span) = item(names, defined, name, "conflicts", other)
            {
                faults.push(
                    Diagnostic::fault(
                        sources.place(span),
                        format!("\"{name}\" conflicts with \"{other}\", and the active profiles have both"),
                    )
                    .why(format!("{}; {}", by(name), by(other))),
                );
            }
        }
    }
}

/// Fills in the live end of each replacement chain; a chain that bites its tail is a fault.
pub fn live_ends(
    sources: &Sources,
    names: &Names,
    defined: &BTreeMap<UnitName, Defined>,
    specs: &mut BTreeMap<UnitName, UnitSpec>,
    faults: &mut Vec<Diagnostic>,
) {
    let next: BTreeMap<UnitName, Option<UnitName>> = specs
        .iter()
        .filter_map(|(name, spec)| {
            spec.deprecated
                .as_ref()
                .map(|d| (name.clone(), d.replaced_by.clone()))
        })
        .collect();
    let mut told: BTreeSet<UnitName> = BTreeSet::new();
    for start in next.keys() {
        let mut path = vec![start.clone()];
        let mut seen = BTreeSet::from([start.clone()]);
        let mut at = start.clone();
        let live = loop {
            match next.get(&at) {
                None => break Some(at),
                Some(None) => break None,
                Some(Some(to)) => {
                    path.push(to.clone());
                    if !seen.insert(to.clone()) {
                        // Told once, at the smallest name of the ring itself.
                        let ring: Vec<UnitName> = path.iter().skip_while(|n| *n != to).cloned().collect();
                        let first = ring.iter().min().unwrap_or(to).clone();
                        if first == *start && told.insert(first.clone()) {
                            let what: Vec<&str> = path.iter().map(UnitName::as_str).collect();
                            let span = |unit: &UnitName| {
                                Some(
                                    defined
                                        .get(unit)?
                                        .merged
                                        .leaves
                                        .get("deprecated.replaced_by")?
                                        .span,
                                )
                            };
                            let what = format!("units replace each other in a ring: {}", what.join(" -> "));
                            let mut fault = match span(start) {
                                Some(span) => Diagnostic::fault(sources.place(span), what),
                                None => Diagnostic::homeless(what),
                            };
                            for unit in ring.iter().skip(1).filter(|u| *u != start) {
                                if let Some(span) = span(unit) {
                                    fault =
                                        fault.note(sources.place(span), format!("what replaces \"{unit}\""));
                                }
                            }
                            faults.push(fault.help("name a unit that is not deprecated, or none"));
                        }
                        break None;
                    }
                    at = to.clone();
                }
            }
        };
        if let Some(deprecated) = specs.get_mut(start).and_then(|s| s.deprecated.as_mut()) {
            deprecated.live_end = live.filter(|name| names.contains_key(&fold(name.as_str())));
        }
    }
}

/// Deprecated units that the active profiles have.
pub fn deprecation_warnings(
    sources: &Sources,
    defined: &BTreeMap<UnitName, Defined>,
    units: &BTreeMap<UnitName, Arc<UnitSpec>>,
    members: &BTreeMap<UnitName, Membership>,
    today: Date,
    warnings: &mut Vec<Diagnostic>,
) {
    for (name, why) in members {
        let Some(deprecated) = units.get(name).and_then(|u| u.deprecated.as_ref()) else {
            continue;
        };
        // The first line of the table, whichever key that is.
        let leaf = defined.get(name).and_then(|d| {
            d.merged
                .below("deprecated.")
                .map(|(_, leaf)| leaf)
                .min_by_key(|leaf| leaf.key)
        });
        let Some(leaf) = leaf else { continue };
        let by = match why {
            Membership::Listed { profile } => format!("listed by profile \"{profile}\""),
            Membership::AddedBy { unit } => format!("added by \"{unit}\""),
        };
        let overdue = deprecated
            .remove_after
            .as_ref()
            .and_then(|day| day.parse::<Date>().ok())
            .filter(|day| *day < today);
        let what = match overdue {
            Some(day) => format!("OVERDUE: \"{name}\" should have gone by {day}, and is still {by}"),
            None => format!("\"{name}\" is deprecated, and {by}"),
        };
        let mut warning =
            Diagnostic::warning(sources.place(leaf.key), what).help(match &deprecated.live_end {
                Some(live) => format!("use \"{live}\" in its place"),
                None => "replacement: none".to_owned(),
            });
        if !deprecated.note.is_empty() {
            warning = warning.why(deprecated.note.clone());
        }
        warnings.push(warning);
    }
}

/// Units that no profile has, leaving out profiles that list every unit.
pub fn orphans(
    units: &BTreeMap<UnitName, Arc<UnitSpec>>,
    profiles: &BTreeMap<String, LoadedProfile>,
) -> Vec<UnitName> {
    let choosing: Vec<&LoadedProfile> = profiles
        .values()
        .filter(|p| p.listed.len() < units.len())
        .collect();
    if choosing.is_empty() {
        return Vec::new();
    }
    units
        .keys()
        .filter(|name| !choosing.iter().any(|p| p.members.contains_key(*name)))
        .cloned()
        .collect()
}

/// One warning for all of them, since a fleet may keep dozens on purpose. Deprecated units should be in no profile.
pub fn orphan_warning(
    units: &BTreeMap<UnitName, Arc<UnitSpec>>,
    orphans: &[UnitName],
    warnings: &mut Vec<Diagnostic>,
) {
    let alive: Vec<&str> = orphans
        .iter()
        .filter(|name| units.get(*name).is_some_and(|u| u.deprecated.is_none()))
        .map(UnitName::as_str)
        .collect();
    if alive.is_empty() {
        return;
    }
    let count = if alive.len() == 1 {
        "1 unit is".to_owned()
    } else {
        format!("{} units are", alive.len())
    };
    let mut warning = Diagnostic::homeless(format!("{count} in no profile: {}", alive.join(", ")))
        .help("`ringriftctl profile coverage` tells them by their lifecycle");
    warning.severity = Severity::Warning;
    warnings.push(warning);
}
