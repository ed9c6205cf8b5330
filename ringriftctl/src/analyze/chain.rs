//! The critical chain: what a unit waited for last, what that waited for, and so on down to the beginning.

use std::collections::{BTreeMap, BTreeSet};

use proto::reply::{Edge, EdgeKind};

use super::boot::{Boot, Started};

/// One unit of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link<'a> {
    /// Which.
    pub unit: &'a Started,
    /// From when the one before it was ready (or since the beginning) until its start began: its own turn, a limit.
    pub gap_us: u64,
}

/// The chain that ends with `unit` (absent: with the last unit to be ready), the last first. Each unit is followed by the
/// one that set its start off, or, where no event says that, by the last one to be ready of those that it comes after.
pub fn critical<'a>(boot: &'a Boot, edges: &[Edge], unit: Option<&str>) -> Vec<Link<'a>> {
    let by_name: BTreeMap<&str, &Started> = boot.units.iter().map(|u| (u.unit.as_str(), u)).collect();
    let mut before: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for edge in edges.iter().filter(|e| e.kind != EdgeKind::Conflicts) {
        before.entry(&edge.from).or_default().push(&edge.to);
    }
    let last = || {
        let ready = boot.units.iter().filter(|u| u.ready_us.is_some());
        ready.max_by_key(|u| (u.ready_us, std::cmp::Reverse(&u.unit)))
    };
    let mut next = match unit {
        Some(name) => by_name.get(name).copied(),
        None => last(),
    };
    let mut chain = Vec::new();
    let mut seen = BTreeSet::new();
    while let Some(unit) = next.filter(|u| seen.insert(u.unit.as_str())) {
        let was_ready = |name: &str| {
            let other = by_name.get(name).copied()?;
            other
                .ready_us
                .filter(|at| *at <= unit.began_us)
                .map(|at| (at, other))
        };
        let set_off = unit.set_off_by.as_deref().and_then(was_ready);
        let latest = || {
            let needed = before.get(unit.unit.as_str()).into_iter().flatten();
            let ready = needed.filter_map(|name| was_ready(name));
            ready.max_by_key(|(at, other)| (*at, std::cmp::Reverse(&other.unit)))
        };
        let found = set_off.or_else(latest);
        let free_us = found.map_or(boot.began_us, |(at, _)| at);
        chain.push(Link {
            unit,
            gap_us: unit.began_us.saturating_sub(free_us),
        });
        next = found.map(|(_, other)| other);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::boot::{read, tests::story};

    fn edges() -> Vec<Edge> {
        let edge = |from: &str, to: &str, kind| Edge {
            from: from.into(),
            to: to.into(),
            kind,
        };
        vec![
            edge("sync", "store", EdgeKind::Requires),
            edge("train", "store", EdgeKind::Requires),
            edge("elo", "sync", EdgeKind::Wants),
            edge("store", "broken", EdgeKind::After),
        ]
    }

    #[track_caller]
    fn check(unit: Option<&str>, expected: &[(&str, u64)]) {
        let boot = read(&story(), 1_000_000);
        let edges = edges();
        let chain = critical(&boot, &edges, unit);
        let chain: Vec<_> = chain
            .iter()
            .map(|link| (link.unit.unit.as_str(), link.gap_us))
            .collect();
        assert_eq!(chain, expected);
    }

    #[test]
    fn the_last_to_be_ready_is_followed_to_the_beginning() {
        check(None, &[("elo", 1_000), ("sync", 0), ("store", 10_000)]);
        // It was free to start when the store was ready, and had to wait for its turn.
        check(Some("train"), &[("train", 250_000), ("store", 10_000)]);
        check(Some("broken"), &[("broken", 12_000)]);
        check(Some("nobody"), &[]);
    }

    #[test]
    fn without_a_word_of_what_set_it_off_the_last_needed_unit_counts() {
        let mut events = story();
        for event in &mut events {
            event.cause.unit = None;
        }
        let boot = read(&events, 1_000_000);
        let edges = edges();
        let chain = critical(&boot, &edges, None);
        let names: Vec<_> = chain.iter().map(|link| link.unit.unit.as_str()).collect();
        assert_eq!(names, ["elo", "sync", "store"]);
    }
}
