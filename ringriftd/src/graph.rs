//! The edges between units: order, requirements, and cycles with their path. Pure; made from validated specs.
//!
//! An edge *orders* when one end must wait for the other: `requires`, `wants`, `after` and (turned round) `before`.
//! No cycle of ordering edges exists in a [`Graph`]; [`Graph::build`] refuses it with the shortest path it finds.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use crate::spec::{UnitName, UnitSpec};

/// A unit's place in a [`Graph`]: an index, valid for that graph only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ix(pub u32);

impl Ix {
    fn at(self) -> usize {
        self.0 as usize
    }
}

/// Which key of a unit file made an ordering edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// `requires`
    Requires,
    /// `wants`
    Wants,
    /// `after`
    After,
    /// `before`, in the file of the unit that is waited for
    Before,
}

impl Why {
    /// The key.
    pub fn key(self) -> &'static str {
        match self {
            Self::Requires => "requires",
            Self::Wants => "wants",
            Self::After => "after",
            Self::Before => "before",
        }
    }
}

/// One edge of a cycle: `waits` waits for `waits_for`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CycleEdge {
    /// The unit that waits.
    pub waits: UnitName,
    /// The unit that it waits for.
    pub waits_for: UnitName,
    /// The key that says so; for `Before` it stands in the file of `waits_for`.
    pub why: Why,
}

/// Units that wait for each other in a ring. The last edge leads back to the first unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cycle {
    /// The ring.
    pub edges: Vec<CycleEdge>,
}

/// The edges of one unit, both ways.
#[derive(Debug, Clone, Default)]
pub struct Edges {
    /// It requires these.
    pub requires: Vec<Ix>,
    /// These require it.
    pub required_by: Vec<Ix>,
    /// It wants these.
    pub wants: Vec<Ix>,
    /// These want it.
    pub wanted_by: Vec<Ix>,
    /// It starts after these (order only, `before` of the others included).
    pub after: Vec<Ix>,
    /// These start after it (order only).
    pub before: Vec<Ix>,
    /// Never up together with these, whoever said so.
    pub conflicts: Vec<Ix>,
}

/// All units and their edges. Edges to names that no unit has are left out: `config` has refused them.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    names: Vec<UnitName>,
    index: BTreeMap<UnitName, Ix>,
    edges: Vec<Edges>,
    rank: Vec<u32>,
    wave: Vec<u32>,
}

impl Graph {
    /// Links the units, or tells every ring of them (one for each knot of units that cannot be ordered).
    pub fn build<'a>(units: impl IntoIterator<Item = &'a Arc<UnitSpec>>) -> Result<Self, Vec<Cycle>> {
        let mut specs: Vec<&Arc<UnitSpec>> = units.into_iter().collect();
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        specs.dedup_by(|a, b| a.name == b.name);
        let names: Vec<UnitName> = specs.iter().map(|s| s.name.clone()).collect();
        let index: BTreeMap<UnitName, Ix> = names.iter().cloned().zip((0..).map(Ix)).collect();
        let mut edges = vec![Edges::default(); names.len()];
        for (spec, me) in specs.iter().zip((0..).map(Ix)) {
            let known = |list: &[UnitName]| -> BTreeSet<Ix> {
                list.iter()
                    .filter_map(|n| index.get(n).copied())
                    .filter(|ix| *ix != me)
                    .collect()
            };
            for ix in known(&spec.requires) {
                edges[me.at()].requires.push(ix);
                edges[ix.at()].required_by.push(me);
            }
            for ix in known(&spec.wants) {
                edges[me.at()].wants.push(ix);
                edges[ix.at()].wanted_by.push(me);
            }
            for ix in known(&spec.after) {
                edges[me.at()].after.push(ix);
                edges[ix.at()].before.push(me);
            }
            for ix in known(&spec.before) {
                edges[ix.at()].after.push(me);
                edges[me.at()].before.push(ix);
            }
            for ix in known(&spec.conflicts) {
                edges[me.at()].conflicts.push(ix);
                edges[ix.at()].conflicts.push(me);
            }
        }
        for e in &mut edges {
            for list in [&mut e.after, &mut e.before, &mut e.conflicts] {
                list.sort_unstable();
                list.dedup();
            }
        }
        let mut graph = Self {
            names,
            index,
            edges,
            rank: Vec::new(),
            wave: Vec::new(),
        };
        let position: Vec<u32> = specs
            .iter()
            .map(|s| s.startup_position.unwrap_or(u32::MAX))
            .collect();
        let left = graph.order(&position);
        if left.is_empty() {
            Ok(graph)
        } else {
            Err(graph.cycles(&specs, &left))
        }
    }

    /// Kahn's algorithm with the smallest (start position, name) first. Fills `rank` and `wave`; returns the units
    /// that could not be ordered.
    fn order(&mut self, position: &[u32]) -> BTreeSet<Ix> {
        let n = self.names.len();
        let mut open: Vec<usize> = (0..n).map(|i| self.ordered_after(Ix(i as u32)).count()).collect();
        let mut free: BinaryHeap<Reverse<(u32, u32)>> = (0..n)
            .filter(|&i| open[i] == 0)
            .map(|i| Reverse((position[i], i as u32)))
            .collect();
        self.rank = vec![u32::MAX; n];
        self.wave = vec![0; n];
        let mut next = 0;
        while let Some(Reverse((_, i))) = free.pop() {
            let me = Ix(i);
            self.rank[me.at()] = next;
            next += 1;
            let followers: Vec<Ix> = self.ordered_before(me).collect();
            for follower in followers {
                self.wave[follower.at()] = self.wave[follower.at()].max(self.wave[me.at()] + 1);
                open[follower.at()] -= 1;
                if open[follower.at()] == 0 {
                    free.push(Reverse((position[follower.at()], follower.0)));
                }
            }
        }
        (0..n as u32)
            .map(Ix)
            .filter(|ix| self.rank[ix.at()] == u32::MAX)
            .collect()
    }

    /// One shortest ring through each knot among `left`.
    fn cycles(&self, specs: &[&Arc<UnitSpec>], left: &BTreeSet<Ix>) -> Vec<Cycle> {
        let mut told: BTreeSet<Ix> = BTreeSet::new();
        let mut cycles = Vec::new();
        for &start in left {
            if told.contains(&start) {
                continue;
            }
            let Some(ring) = self.ring_through(start, left) else {
                continue;
            };
            told.extend(self.knot(start, left));
            let mut shortest = ring;
            let members: Vec<Ix> = shortest.clone();
            for member in members {
                if let Some(other) = self.ring_through(member, left)
                    && other.len() < shortest.len()
                {
                    shortest = other;
                }
            }
            let edges = (0..shortest.len())
                .map(|i| {
                    let (a, b) = (shortest[i], shortest[(i + 1) % shortest.len()]);
                    CycleEdge {
                        waits: self.names[a.at()].clone(),
                        waits_for: self.names[b.at()].clone(),
                        why: why(specs[a.at()], specs[b.at()]),
                    }
                })
                .collect();
            cycles.push(Cycle { edges });
        }
        cycles
    }

    /// The shortest ring from `start` back to it, by breadth first search, or none.
    fn ring_through(&self, start: Ix, left: &BTreeSet<Ix>) -> Option<Vec<Ix>> {
        let mut from: BTreeMap<Ix, Ix> = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(me) = queue.pop_front() {
            for next in self.ordered_after(me).filter(|ix| left.contains(ix)) {
                if next == start {
                    let mut ring = vec![me];
                    let mut at = me;
                    while at != start {
                        at = from[&at];
                        ring.push(at);
                    }
                    ring.reverse();
                    return Some(ring);
                }
                if let std::collections::btree_map::Entry::Vacant(e) = from.entry(next) {
                    e.insert(me);
                    queue.push_back(next);
                }
            }
        }
        None
    }

    /// Everything that can be reached from `start` and reaches it, so that one knot is told once.
    fn knot(&self, start: Ix, left: &BTreeSet<Ix>) -> BTreeSet<Ix> {
        let reach = |forward: bool| {
            let mut seen = BTreeSet::from([start]);
            let mut queue = vec![start];
            while let Some(me) = queue.pop() {
                let next: Vec<Ix> = if forward {
                    self.ordered_after(me).collect()
                } else {
                    self.ordered_before(me).collect()
                };
                queue.extend(
                    next.into_iter()
                        .filter(|ix| left.contains(ix) && seen.insert(*ix)),
                );
            }
            seen
        };
        reach(true).intersection(&reach(false)).copied().collect()
    }

    /// Every unit, in the order of names.
    pub fn all(&self) -> impl Iterator<Item = Ix> + use<> {
        (0..self.names.len() as u32).map(Ix)
    }

    /// How many units there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// No units.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// A unit's name.
    pub fn name(&self, ix: Ix) -> &UnitName {
        &self.names[ix.at()]
    }

    /// The unit of this name.
    pub fn find(&self, name: &UnitName) -> Option<Ix> {
        self.index.get(name).copied()
    }

    /// A unit's edges.
    pub fn edges(&self, ix: Ix) -> &Edges {
        &self.edges[ix.at()]
    }

    /// The place of a unit in the one order that respects every edge and then start positions: 0 first.
    pub fn rank(&self, ix: Ix) -> u32 {
        self.rank[ix.at()]
    }

    /// The longest chain of ordering edges below a unit; units of one wave may start together.
    pub fn wave(&self, ix: Ix) -> u32 {
        self.wave[ix.at()]
    }

    /// All that a unit is ordered after, for whatever reason, each once.
    pub fn ordered_after(&self, ix: Ix) -> impl Iterator<Item = Ix> {
        let e = &self.edges[ix.at()];
        let set: BTreeSet<Ix> = e
            .requires
            .iter()
            .chain(&e.wants)
            .chain(&e.after)
            .copied()
            .collect();
        set.into_iter()
    }

    /// All that is ordered after a unit, each once.
    pub fn ordered_before(&self, ix: Ix) -> impl Iterator<Item = Ix> {
        let e = &self.edges[ix.at()];
        let set: BTreeSet<Ix> = e
            .required_by
            .iter()
            .chain(&e.wanted_by)
            .chain(&e.before)
            .copied()
            .collect();
        set.into_iter()
    }

    /// `roots` and everything they require or want, and whoever pulled each of the others in.
    pub fn closure(&self, roots: impl IntoIterator<Item = Ix>) -> BTreeMap<Ix, Option<Ix>> {
        let mut found: BTreeMap<Ix, Option<Ix>> = roots.into_iter().map(|ix| (ix, None)).collect();
        let mut queue: VecDeque<Ix> = found.keys().copied().collect();
        while let Some(me) = queue.pop_front() {
            let e = &self.edges[me.at()];
            for &next in e.requires.iter().chain(&e.wants) {
                if let std::collections::btree_map::Entry::Vacant(place) = found.entry(next) {
                    place.insert(Some(me));
                    queue.push_back(next);
                }
            }
        }
        found
    }
}

/// The strongest key by which `a` waits for `b`.
fn why(a: &UnitSpec, b: &UnitSpec) -> Why {
    if a.requires.contains(&b.name) {
        Why::Requires
    } else if a.wants.contains(&b.name) {
        Why::Wants
    } else if a.after.contains(&b.name) {
        Why::After
    } else {
        Why::Before
    }
}
