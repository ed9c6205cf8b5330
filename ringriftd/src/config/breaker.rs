//! `[breaker]` of `ringriftd.toml`, and `[breaker.CATEGORY]`: what a category does not say, the node's limit says for it.

use std::collections::{BTreeMap, BTreeSet};

use super::check::Check;
use super::diagnostic::{Diagnostic, nearest_names};
use super::hook::units;
use super::source::FileId;
use super::tree::{Layer, Typed};
use crate::breaker::{BreakerLimit, BreakerSpec, CategoryLimit};
use crate::spec::UnitName;

/// The limits on restarts. They are only good when no fault was added.
pub fn spec(
    check: &mut Check<'_>,
    node: Option<&(FileId, Layer)>,
    categories: &BTreeMap<UnitName, String>,
) -> BreakerSpec {
    let mut spec = BreakerSpec::default();
    let Some((_, layer)) = node else { return spec };
    spec.node = limit(layer, "breaker.", spec.node);
    if let Some(Typed::Time(time)) = value(layer, "breaker.startup_grace") {
        spec.startup_grace = *time;
    }
    if let Some(leaf) = layer.leaves.get("breaker.exempt") {
        spec.exempt = units(check, leaf, categories, ("breaker", "exempt"));
    }
    let known: BTreeSet<&str> = categories.values().map(String::as_str).collect();
    for (name, (span, layer)) in layer.named.get("breaker").into_iter().flatten() {
        if !known.contains(name.as_str()) {
            let what = format!("no unit is of category \"{name}\", so this limit has no effect");
            let mut warning = Diagnostic::warning(check.sources.place(*span), what);
            warning.help = nearest_names(name, known.iter().copied());
            check.warnings.push(warning);
        }
        let own = CategoryLimit {
            limit: limit(layer, "", spec.node),
            is_for_node: !matches!(value(layer, "counts_for_node"), Some(Typed::Bool(false))),
        };
        spec.categories.insert(name.clone(), own);
    }
    spec
}

fn value<'a>(layer: &'a Layer, key: &str) -> Option<&'a Typed> {
    layer.leaves.get(key).map(|leaf| &leaf.value)
}

fn limit(layer: &Layer, prefix: &str, otherwise: BreakerLimit) -> BreakerLimit {
    let time = |key: &str, otherwise| match value(layer, &format!("{prefix}{key}")) {
        Some(Typed::Time(time)) => *time,
        _ => otherwise,
    };
    BreakerLimit {
        restarts: match value(layer, &format!("{prefix}restarts")) {
            Some(Typed::Whole(n)) => Some(u32::try_from(*n).unwrap_or(u32::MAX)),
            Some(_) => None,
            None => otherwise.restarts,
        },
        window: time("window", otherwise.window),
        cooldown: time("cooldown", otherwise.cooldown),
    }
}
