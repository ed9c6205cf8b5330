//! Which units are shown, in which order, and how deep in the tree. Pure.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use proto::reply::{EdgeKind, Graph, UnitStatus};

use crate::overview::rank;
use crate::session::state_word;
use crate::units::health_word;

/// What rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// What is wrong first.
    Worst,
    /// By name.
    Name,
    /// What changed last first.
    Since,
    /// The most restarts first.
    Restarts,
    /// The most CPU time of late first.
    Cpu,
    /// The most memory first.
    Memory,
}

impl Sort {
    /// All, in the order of their keys 1 to 6.
    pub const ALL: [Self; 6] = [
        Self::Worst,
        Self::Name,
        Self::Since,
        Self::Restarts,
        Self::Cpu,
        Self::Memory,
    ];

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Worst => "worst",
            Self::Name => "name",
            Self::Since => "since",
            Self::Restarts => "restarts",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }

    /// The one after it, round and round.
    pub fn next(self) -> Self {
        let at = Self::ALL.iter().position(|s| *s == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// How to choose rows.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Sorted by this.
    pub sort: Sort,
    /// The other way round.
    pub is_reversed: bool,
    /// Below what they need.
    pub is_tree: bool,
    /// Only units in whose name, category, state or health this is.
    pub filter: String,
}

/// A row: which unit, by its place in the list, and how deep in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The unit's place.
    pub at: usize,
    /// 0 for those that need none of the others.
    pub depth: usize,
}

/// The deepest a tree is shown; below it rows are no further in.
const DEPTH_MAX: usize = 12;

fn is_shown(choice: &Choice, unit: &UnitStatus) -> bool {
    let words = choice.filter.to_lowercase();
    words.split_whitespace().all(|word| {
        [
            unit.name.to_lowercase().as_str(),
            unit.category.to_lowercase().as_str(),
            state_word(unit.state),
            health_word(unit.health),
        ]
        .iter()
        .any(|text| text.contains(word))
    })
}

/// The rows to show. `cpu` is each unit's share of a processor.
pub fn rows(choice: &Choice, units: &[UnitStatus], cpu: &BTreeMap<String, f64>, edges: &Graph) -> Vec<Row> {
    let mut order: Vec<usize> = (0..units.len())
        .filter(|at| is_shown(choice, &units[*at]))
        .collect();
    let share = |unit: &UnitStatus| cpu.get(&unit.name).copied().unwrap_or(0.0);
    order.sort_by(|a, b| {
        let (a, b) = (&units[*a], &units[*b]);
        let sorted = match choice.sort {
            Sort::Worst => rank(a).cmp(&rank(b)),
            Sort::Name => Ordering::Equal,
            Sort::Since => b.since_us.cmp(&a.since_us),
            Sort::Restarts => b.restarts.cmp(&a.restarts),
            Sort::Cpu => share(b).total_cmp(&share(a)),
            Sort::Memory => b.memory_bytes.cmp(&a.memory_bytes),
        };
        let sorted = sorted.then_with(|| a.name.cmp(&b.name));
        if choice.is_reversed {
            sorted.reverse()
        } else {
            sorted
        }
    });
    if !choice.is_tree {
        return order.into_iter().map(|at| Row { at, depth: 0 }).collect();
    }
    tree(&order, units, edges)
}

/// Each unit below the one that it needs and that itself stands deepest: what a broken unit holds up is below it.
fn tree(order: &[usize], units: &[UnitStatus], edges: &Graph) -> Vec<Row> {
    let shown: BTreeMap<&str, usize> = order.iter().map(|at| (units[*at].name.as_str(), *at)).collect();
    let mut needs: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for edge in &edges.edges {
        let pulls = matches!(edge.kind, EdgeKind::Requires | EdgeKind::Wants);
        if let (true, Some(from), Some(to)) =
            (pulls, shown.get(edge.from.as_str()), shown.get(edge.to.as_str()))
        {
            needs.entry(*from).or_default().insert(*to);
        }
    }
    // Layers from the roots up. What is in no layer after as many rounds as there are units stands in a circle, which
    // no daemon has; it is shown as a root.
    let mut layer: BTreeMap<usize, usize> = BTreeMap::new();
    for round in 0..=order.len() {
        let ready: Vec<usize> = order
            .iter()
            .copied()
            .filter(|at| !layer.contains_key(at))
            .filter(|at| {
                needs
                    .get(at)
                    .is_none_or(|all| all.iter().all(|n| layer.contains_key(n)))
            })
            .collect();
        if ready.is_empty() {
            break;
        }
        layer.extend(ready.into_iter().map(|at| (at, round)));
    }
    let mut below: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for at in order {
        let in_layers = layer.contains_key(at);
        let deepest = needs.get(at).into_iter().flatten().filter(|_| in_layers);
        let parent = deepest
            .copied()
            .max_by_key(|n| (layer.get(n), std::cmp::Reverse(&units[*n].name)));
        below.entry(parent).or_default().push(*at);
    }
    let mut rows = Vec::new();
    let mut open: Vec<Row> = Vec::new();
    let push = |open: &mut Vec<Row>, parent: Option<usize>, depth: usize| {
        let children = below.get(&parent).into_iter().flatten().rev();
        open.extend(children.map(|at| Row { at: *at, depth }));
    };
    push(&mut open, None, 0);
    while let Some(row) = open.pop() {
        rows.push(row);
        push(&mut open, Some(row.at), (row.depth + 1).min(DEPTH_MAX));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overview::tests::unit;
    use proto::reply::{Edge, State};

    fn choice() -> Choice {
        Choice {
            sort: Sort::Worst,
            is_reversed: false,
            is_tree: false,
            filter: String::new(),
        }
    }

    fn edges(pairs: &[(&str, &str)]) -> Graph {
        let edge = |(from, to): &(&str, &str)| Edge {
            from: (*from).into(),
            to: (*to).into(),
            kind: EdgeKind::Requires,
        };
        Graph {
            roots: vec![],
            edges: pairs.iter().map(edge).collect(),
        }
    }

    fn sample() -> Vec<UnitStatus> {
        let mut busy = unit("busy", State::Running, &[]);
        (busy.memory_bytes, busy.restarts, busy.since_us) = (Some(9), 3, 5);
        vec![
            unit("fine", State::Running, &[]),
            busy,
            unit("broken", State::Failed, &[]),
            unit("waits", State::Waiting, &["broken"]),
        ]
    }

    #[track_caller]
    fn check(choice: &Choice, expected: &[&str]) {
        let units = sample();
        let cpu = BTreeMap::from([("fine".to_owned(), 0.5)]);
        let graph = edges(&[
            ("busy", "fine"),
            ("waits", "broken"),
            ("broken", "fine"),
            ("waits", "fine"),
        ]);
        let shown: Vec<String> = rows(choice, &units, &cpu, &graph)
            .iter()
            .map(|r| format!("{}{}", ">".repeat(r.depth), units[r.at].name))
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn rows_are_sorted_as_asked() {
        check(&choice(), &["broken", "waits", "busy", "fine"]);
        let by = |sort| Choice { sort, ..choice() };
        check(&by(Sort::Name), &["broken", "busy", "fine", "waits"]);
        check(&by(Sort::Cpu), &["fine", "broken", "busy", "waits"]);
        check(&by(Sort::Memory), &["busy", "broken", "fine", "waits"]);
        check(&by(Sort::Restarts), &["busy", "broken", "fine", "waits"]);
        check(&by(Sort::Since), &["busy", "broken", "fine", "waits"]);
        let reversed = Choice {
            is_reversed: true,
            ..by(Sort::Name)
        };
        check(&reversed, &["waits", "fine", "busy", "broken"]);
    }

    #[test]
    fn a_filter_looks_at_names_categories_states_and_healths() {
        let by = |filter: &str| Choice {
            filter: filter.into(),
            ..choice()
        };
        check(&by("FI"), &["fine"]);
        check(&by("fail"), &["broken"]);
        check(&by("sync run"), &["busy", "fine"]);
        check(&by("nothing like it"), &[]);
    }

    #[test]
    fn what_a_unit_holds_up_is_below_it() {
        let tree = Choice {
            is_tree: true,
            ..choice()
        };
        check(&tree, &["fine", ">broken", ">>waits", ">busy"]);
    }

    #[test]
    fn a_circle_is_shown_once() {
        let units = vec![
            unit("a", State::Waiting, &["b"]),
            unit("b", State::Waiting, &["a"]),
        ];
        let tree = Choice {
            is_tree: true,
            ..choice()
        };
        let shown = rows(&tree, &units, &BTreeMap::new(), &edges(&[("a", "b"), ("b", "a")]));
        assert_eq!(shown.len(), 2);
    }
}
