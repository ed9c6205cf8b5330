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

    /// One shortest ring in each knot among `left`.
    fn cycles(&self, specs: &[&Arc<UnitSpec>], left: &BTreeSet<Ix>) -> Vec<Cycle> {
        let after: Vec<Vec<Ix>> = self
            .all()
            .map(|ix| {
                if !left.contains(&ix) {
                    return Vec::new();
                }
                self.ordered_after(ix)
                    .filter(|other| left.contains(other))
                    .collect()
            })
            .collect();
        let knot_of = knots(&after);
        let mut members: BTreeMap<u32, Vec<Ix>> = BTreeMap::new();
        for (ix, knot) in self.all().zip(&knot_of) {
            members.entry(*knot).or_default().push(ix);
        }
        let mut rings: Vec<Vec<Ix>> = members
            .values()
            .filter(|knot| knot.len() > 1)
            .filter_map(|knot| shortest_ring(knot, &after, &knot_of))
            .collect();
        rings.sort();
        rings
            .iter()
            .map(|ring| Cycle {
                edges: (0..ring.len())
                    .map(|i| {
                        let (a, b) = (ring[i], ring[(i + 1) % ring.len()]);
                        CycleEdge {
                            waits: self.names[a.at()].clone(),
                            waits_for: self.names[b.at()].clone(),
                            why: why(specs[a.at()], specs[b.at()]),
                        }
                    })
                    .collect(),
            })
            .collect()
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

/// The knot of each unit: units of one knot all wait for each other, near or far (Kosaraju's strongly connected
/// components, without recursion, since a chain may be as long as there are units).
fn knots(after: &[Vec<Ix>]) -> Vec<u32> {
    let mut before: Vec<Vec<Ix>> = vec![Vec::new(); after.len()];
    for (me, list) in (0..).map(Ix).zip(after) {
        for other in list {
            before[other.at()].push(me);
        }
    }
    let mut done_last: Vec<Ix> = Vec::with_capacity(after.len());
    let mut seen = vec![false; after.len()];
    for start in (0..after.len() as u32).map(Ix) {
        if std::mem::replace(&mut seen[start.at()], true) {
            continue;
        }
        let mut path = vec![(start, 0)];
        while let Some((me, next)) = path.last_mut() {
            match after[me.at()].get(*next) {
                Some(other) => {
                    *next += 1;
                    if !std::mem::replace(&mut seen[other.at()], true) {
                        path.push((*other, 0));
                    }
                }
                None => {
                    done_last.push(*me);
                    path.pop();
                }
            }
        }
    }
    let mut knot = vec![u32::MAX; after.len()];
    for start in done_last.into_iter().rev() {
        if knot[start.at()] != u32::MAX {
            continue;
        }
        knot[start.at()] = start.0;
        let mut queue = vec![start];
        while let Some(me) = queue.pop() {
            for other in &before[me.at()] {
                if knot[other.at()] == u32::MAX {
                    knot[other.at()] = start.0;
                    queue.push(*other);
                }
            }
        }
    }
    knot
}

/// How many edges are looked at for the shortest ring of one knot, before the shortest found so far is told. Exact for
/// every knot that a person would make; a knot of thousands is told by some ring of it.
const RING_STEPS: usize = 5_000_000;

/// The shortest ring of a knot, by breadth first search from each of its units; the first in the order of names among
/// equals. It begins with its first unit by name.
fn shortest_ring(knot: &[Ix], after: &[Vec<Ix>], knot_of: &[u32]) -> Option<Vec<Ix>> {
    let mut best: Option<Vec<Ix>> = None;
    let mut steps = 0;
    // Who led to a unit, and in which search: so nothing is cleared between searches.
    let mut from: Vec<(Ix, u32)> = vec![(Ix(0), u32::MAX); after.len()];
    for start in knot {
        let bound = best.as_ref().map_or(usize::MAX, Vec::len);
        if bound == 2 || (best.is_some() && steps > RING_STEPS) {
            break;
        }
        let mut queue = VecDeque::from([(*start, 1)]);
        'search: while let Some((me, length)) = queue.pop_front() {
            if length >= bound {
                break;
            }
            for next in after[me.at()]
                .iter()
                .filter(|ix| knot_of[ix.at()] == knot_of[start.at()])
            {
                steps += 1;
                if next == start {
                    let mut ring = vec![me];
                    let mut at = me;
                    while at != *start {
                        at = from[at.at()].0;
                        ring.push(at);
                    }
                    ring.reverse();
                    best = Some(ring);
                    break 'search;
                }
                if from[next.at()].1 != start.0 {
                    from[next.at()] = (me, start.0);
                    queue.push_back((*next, length + 1));
                }
            }
        }
    }
    best.map(|mut ring| {
        let first = ring
            .iter()
            .enumerate()
            .min_by_key(|(_, ix)| **ix)
            .map_or(0, |(at, _)| at);
        ring.rotate_left(first);
        ring
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use crate::spec::*;

    fn unit(name: &str) -> UnitSpec {
        UnitSpec {
            name: UnitName::new(name).unwrap(),
            description: String::new(),
            category: "misc".to_owned(),
            lifecycle: Lifecycle::Active,
            critical: false,
            essential: false,
            requires: Vec::new(),
            wants: Vec::new(),
            after: Vec::new(),
            before: Vec::new(),
            conflicts: Vec::new(),
            startup_position: None,
            exec: Exec {
                kind: Kind::Simple,
                command: Command::Direct(vec![Template::literal("/bin/true")]),
                working_dir: None,
                env: BTreeMap::new(),
                env_files: Vec::new(),
                pass_env: Vec::new(),
                user: None,
                group: None,
                supplementary_groups: None,
                umask: 0o077,
                nice: None,
                oom_score_adj: None,
                rlimits: Vec::new(),
                no_new_privs: true,
                remain: false,
                pid_file: None,
                notify_fd: 3,
                notify_access: NotifyAccess::Main,
                fd_store_max: 0,
                start_pre: Vec::new(),
                start_post: Vec::new(),
                stop_pre: Vec::new(),
                stop_post: Vec::new(),
                reload: Vec::new(),
                hook_timeout: limits::HOOK_TIMEOUT,
                is_zygote: false,
                zygote: None,
            },
            ready_timeout: limits::READY_TIMEOUT,
            health_interval: limits::HEALTH_INTERVAL,
            restart: Restart {
                policy: RestartPolicy::Always,
                delay: limits::RESTART_DELAY,
                factor_milli: limits::RESTART_FACTOR_MILLI,
                max_delay: limits::RESTART_MAX_DELAY,
                jitter_milli: limits::RESTART_JITTER_MILLI,
                stable_after: limits::STABLE_AFTER,
                max_restarts: Some(limits::MAX_RESTARTS),
                window: limits::RESTART_WINDOW,
                exhausted: Exhausted::Retry,
                retry_every: limits::RETRY_EVERY,
                permanent_exit_codes: Vec::new(),
            },
            on_dependency: OnDependency::default(),
            on_dependency_of: BTreeMap::new(),
            stop: Stop {
                signals: vec![15],
                timeout: limits::STOP_TIMEOUT,
                drain_timeout: limits::DRAIN_TIMEOUT,
            },
            log: Log::default(),
            deprecated: None,
            digest: String::new(),
            ready_probe: None,
            health: None,
        }
    }

    /// splitmix64: the same graphs in every run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, below: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % below as u64) as usize
        }
    }

    /// Adds the edge `waits` waits for `waits_for` by a random key.
    fn wait(dice: &mut Dice, units: &mut [UnitSpec], waits: usize, waits_for: usize) {
        let (a, b) = (units[waits].name.clone(), units[waits_for].name.clone());
        match dice.roll(4) {
            0 => units[waits].requires.push(b),
            1 => units[waits].wants.push(b),
            2 => units[waits].after.push(b),
            _ => units[waits_for].before.push(a),
        }
    }

    fn build(units: Vec<UnitSpec>) -> Result<Graph, Vec<Cycle>> {
        let units: Vec<Arc<UnitSpec>> = units.into_iter().map(Arc::new).collect();
        Graph::build(&units)
    }

    /// A dictionary of which unit waits for which, straight from the specs.
    fn waits(units: &[UnitSpec]) -> BTreeSet<(UnitName, UnitName)> {
        let mut out = BTreeSet::new();
        for unit in units {
            for other in unit.requires.iter().chain(&unit.wants).chain(&unit.after) {
                out.insert((unit.name.clone(), other.clone()));
            }
            for other in &unit.before {
                out.insert((other.clone(), unit.name.clone()));
            }
        }
        out
    }

    #[test]
    fn a_thousand_acyclic_graphs_are_ordered_and_positions_never_beat_an_edge() {
        for seed in 0..1000 {
            let mut dice = Dice(seed);
            let n = 1 + dice.roll(40);
            // Names are shuffled against the order, so that it cannot come from them.
            let mut units: Vec<UnitSpec> = (0..n).map(|i| unit(&format!("u{}", i * 7919 % 1009))).collect();
            for spec in &mut units {
                spec.startup_position = (dice.roll(3) > 0).then(|| dice.roll(10) as u32);
            }
            for _ in 0..dice.roll(3 * n) {
                let (a, b) = (dice.roll(n), dice.roll(n));
                if a != b {
                    wait(&mut dice, &mut units, a.max(b), a.min(b));
                }
            }
            let edges = waits(&units);
            let graph = build(units.clone()).unwrap_or_else(|c| panic!("seed {seed}: {c:?}"));
            let rank = |name: &UnitName| graph.rank(graph.find(name).unwrap());
            let wave = |name: &UnitName| graph.wave(graph.find(name).unwrap());
            for (a, b) in &edges {
                assert!(
                    rank(a) > rank(b) && wave(a) > wave(b),
                    "seed {seed}: {a} before {b}"
                );
            }
            let ranks: BTreeSet<u32> = graph.all().map(|ix| graph.rank(ix)).collect();
            assert!(ranks.into_iter().eq(0..n as u32), "seed {seed}");
            // Whoever comes next had the smallest (position, name) among those that were free.
            let mut order: Vec<&UnitSpec> = units.iter().collect();
            order.sort_by_key(|u| rank(&u.name));
            for (at, next) in order.iter().enumerate() {
                let free = order[at..].iter().filter(|u| {
                    edges
                        .iter()
                        .filter(|(a, _)| *a == u.name)
                        .all(|(_, b)| rank(b) < at as u32)
                });
                let first = free.min_by_key(|u| (u.startup_position.unwrap_or(u32::MAX), u.name.clone()));
                assert_eq!(first.map(|u| &u.name), Some(&next.name), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_thousand_cyclic_graphs_each_give_a_true_and_shortest_ring() {
        for seed in 0..1000 {
            let mut dice = Dice(seed);
            let n = 2 + dice.roll(14);
            let mut units: Vec<UnitSpec> = (0..n).map(|i| unit(&format!("u{i:02}"))).collect();
            for _ in 0..dice.roll(3 * n) {
                let (a, b) = (dice.roll(n), dice.roll(n));
                if a != b {
                    wait(&mut dice, &mut units, a, b);
                }
            }
            // One ring at least.
            let length = 2 + dice.roll(n - 1);
            for i in 0..length {
                wait(&mut dice, &mut units, i, (i + 1) % length);
            }
            let edges = waits(&units);
            let cycles = build(units.clone()).expect_err("a ring was made");
            for cycle in &cycles {
                for (i, edge) in cycle.edges.iter().enumerate() {
                    assert!(
                        edges.contains(&(edge.waits.clone(), edge.waits_for.clone())),
                        "seed {seed}"
                    );
                    assert_eq!(
                        edge.waits_for,
                        cycle.edges[(i + 1) % cycle.edges.len()].waits,
                        "seed {seed}"
                    );
                    let spec = |name: &UnitName| units.iter().find(|u| u.name == *name).unwrap();
                    let (a, b) = (spec(&edge.waits), spec(&edge.waits_for));
                    assert!(
                        match edge.why {
                            Why::Requires => a.requires.contains(&b.name),
                            Why::Wants => a.wants.contains(&b.name),
                            Why::After => a.after.contains(&b.name),
                            Why::Before => b.before.contains(&a.name),
                        },
                        "seed {seed}"
                    );
                }
            }
            // The shortest of all rings is among them: distances by Floyd and Warshall.
            let index = |name: &UnitName| units.iter().position(|u| u.name == *name).unwrap();
            let mut far = vec![vec![usize::MAX / 4; n]; n];
            for (a, b) in &edges {
                far[index(a)][index(b)] = 1;
            }
            for k in 0..n {
                for i in 0..n {
                    for j in 0..n {
                        far[i][j] = far[i][j].min(far[i][k] + far[k][j]);
                    }
                }
            }
            let shortest = (0..n).map(|i| far[i][i]).min();
            assert_eq!(
                cycles.iter().map(|c| c.edges.len()).min(),
                shortest,
                "seed {seed}"
            );
        }
    }

    #[test]
    fn a_ring_of_ten_thousand_is_told_in_time() {
        let n = 10_000;
        let mut units: Vec<UnitSpec> = (0..n).map(|i| unit(&format!("u{i}"))).collect();
        for i in 0..n {
            let next = units[(i + 1) % n].name.clone();
            units[i].requires.push(next);
        }
        let cycles = build(units).expect_err("a ring");
        assert_eq!(cycles.len(), 1);
        assert_eq!(cycles[0].edges.len(), n);
    }

    #[test]
    fn conflicts_go_both_ways_and_order_nothing() {
        let mut a = unit("a");
        a.conflicts.push(UnitName::new("b").unwrap());
        let graph = build(vec![a, unit("b")]).unwrap();
        let (a, b) = (Ix(0), Ix(1));
        assert_eq!(
            (&graph.edges(a).conflicts, &graph.edges(b).conflicts),
            (&vec![b], &vec![a])
        );
        assert_eq!(graph.ordered_after(a).count() + graph.ordered_after(b).count(), 0);
    }

    #[test]
    fn the_closure_tells_who_pulled_whom_in() {
        let name = |n: &str| UnitName::new(n).unwrap();
        let (mut a, mut b) = (unit("a"), unit("b"));
        a.requires.push(name("b"));
        a.after.push(name("d"));
        b.wants.push(name("c"));
        let graph = build(vec![a, b, unit("c"), unit("d")]).unwrap();
        let closure = graph.closure([Ix(0)]);
        assert_eq!(
            closure.into_iter().collect::<Vec<_>>(),
            [(Ix(0), None), (Ix(1), Some(Ix(0))), (Ix(2), Some(Ix(1)))]
        );
    }
}
