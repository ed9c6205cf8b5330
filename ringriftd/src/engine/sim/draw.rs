//! Units and files by choice.

use std::sync::Arc;
use std::time::Duration;

use crate::breaker::{BreakerLimit, BreakerSpec, CategoryLimit};
use crate::engine::types::Plan;
use crate::spec::{
    Exhausted, HealthSpec, Kind, Membership, OnDependency, OnFailed, OnRecovered, OnRestarted, OnUnhealthy,
    Probe, RestartPolicy, Template, UnitSpec,
};

use super::choices::{Choices, Pick, key};
use super::make::{name, plan_of, unit};

/// How large a schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// At least so many units.
    pub units: u32,
    /// At most so many.
    pub units_max: u32,
    /// Requests.
    pub requests: u32,
}

impl Size {
    /// What the promises are about: twelve units and forty requests, or more.
    pub const FULL: Self = Self {
        units: 12,
        units_max: 14,
        requests: 40,
    };
    /// A few units, where each pair of events meets often.
    pub const SMALL: Self = Self {
        units: 2,
        units_max: 4,
        requests: 10,
    };
}

/// All units of a schedule, and whether a profile wants each.
#[derive(Debug, Clone)]
pub(super) struct Drawn {
    pub(super) spec: UnitSpec,
    pub(super) is_member: bool,
}

/// Those that breakers may have a limit for.
const CATEGORIES: [&str; 2] = ["alpha", "beta"];

fn probe(which: u64) -> Probe {
    if which == 1 {
        Probe::Http(Template::literal("http://localhost/"))
    } else {
        Probe::Command(vec![Template::literal("/probe")])
    }
}

fn hook() -> Vec<Template> {
    vec![Template::literal("/hook")]
}

/// The units of a schedule.
pub(super) fn units(choices: &mut Choices, size: Size) -> Vec<Drawn> {
    let mut drawn: Vec<Drawn> = Vec::new();
    for i in 0..size.units_max {
        let permille = if i < size.units { 1000 } else { 500 };
        let there = choices.chance(key(Pick::Unit, i, 0), permille, 12);
        if there == 0 {
            continue;
        }
        let mut spec = unit(i as usize);
        // One in twelve is there, and no profile wants it.
        let mut is_member = there != 2;
        for other in &drawn {
            let earlier = other.spec.name.clone();
            let nth = super::make::number(&earlier);
            match choices.chance(key(Pick::Edge, i, nth), 330, 24) {
                0 => {}
                1..=11 => spec.requires.push(earlier),
                12..=17 => spec.wants.push(earlier),
                18..=22 => spec.after.push(earlier),
                _ => {
                    spec.conflicts.push(earlier);
                    is_member = false;
                }
            }
        }
        shape(choices, i, &mut spec);
        drawn.push(Drawn { spec, is_member });
    }
    drawn
}

fn shape(choices: &mut Choices, i: u32, spec: &mut UnitSpec) {
    let mut chance = |pick, permille, n| choices.chance(key(pick, i, 0), permille, n);
    spec.exec.kind = match chance(Pick::Kind, 500, 5) {
        0 => Kind::Notify,
        1 => Kind::Fd,
        2 => Kind::Simple,
        3 => Kind::Forking,
        _ => Kind::Oneshot,
    };
    let bits = chance(Pick::Hooks, 400, 63);
    let hooks = |bit: u64, n: usize| {
        if bits & bit == 0 {
            Vec::new()
        } else {
            vec![hook(); n]
        }
    };
    spec.exec.start_pre = hooks(1, 1);
    spec.exec.start_post = hooks(2, 1);
    spec.exec.stop_pre = hooks(4, 1);
    spec.exec.stop_post = hooks(8, 2);
    spec.exec.reload = hooks(16, 1);
    spec.exec.remain = bits & 32 != 0;
    let bits = chance(Pick::Dependency, 400, 7);
    spec.on_dependency = OnDependency {
        failed: if bits & 1 == 0 {
            OnFailed::Stop
        } else {
            OnFailed::Keep
        },
        restarted: if bits & 2 == 0 {
            OnRestarted::Keep
        } else {
            OnRestarted::Restart
        },
        recovered: if bits & 4 == 0 {
            OnRecovered::Start
        } else {
            OnRecovered::Stay
        },
    };
    match chance(Pick::Restarts, 500, 6) {
        1 => spec.restart.policy = RestartPolicy::OnFailure,
        2 => spec.restart.policy = RestartPolicy::Never,
        3 => spec.restart.max_restarts = Some(1),
        4 => spec.restart.exhausted = Exhausted::GiveUp,
        5 => spec.restart.max_restarts = None,
        6 => {
            spec.restart.max_restarts = Some(2);
            spec.restart.stable_after = Duration::from_secs(5);
        }
        _ => {}
    }
    spec.stop.signals = match chance(Pick::Ladder, 250, 3) {
        1 => vec![2, 15],
        2 => vec![15, 9],
        3 => vec![9],
        _ => vec![15],
    };
    spec.essential = chance(Pick::Essential, 10, 1) == 1;
    spec.critical = chance(Pick::Critical, 60, 1) == 1;
    if let Some(place) = (chance(Pick::Category, 400, 2) as usize).checked_sub(1) {
        spec.category = CATEGORIES[place].to_owned();
    }
    spec.startup_position = match chance(Pick::Position, 300, 30) {
        0 => None,
        place => Some(place as u32),
    };
    let ready_probe = chance(Pick::ReadyProbe, 150, 2);
    if ready_probe != 0 && spec.exec.kind != Kind::Oneshot {
        spec.ready_probe = Some(probe(ready_probe));
    }
    let health = chance(Pick::Health, 300, 18);
    if health == 0 {
        return;
    }
    let numbers = choices.below(key(Pick::HealthNumbers, i, 0), 4 * 9);
    spec.health_interval = Duration::from_secs(10);
    let speaks = matches!(spec.exec.kind, Kind::Notify);
    spec.health = Some(HealthSpec {
        probe: (health % 3 != 0).then(|| probe(health % 3)),
        grace: Duration::from_secs(numbers % 3),
        failures: 1 + (numbers / 4 % 3) as u32,
        timeout: Duration::from_secs(2),
        watchdog: (speaks && health % 2 == 0).then(|| Duration::from_secs(10)),
        on_failure: match health / 6 {
            0 => OnUnhealthy::Restart,
            1 => OnUnhealthy::Mark,
            2 => OnUnhealthy::Ignore,
            _ => OnUnhealthy::Restart,
        },
    });
}

/// The plan of these units.
pub(super) fn plan(drawn: Vec<Drawn>, max_starting: Option<u32>, breaker: BreakerSpec) -> Arc<Plan> {
    let (units, members): (Vec<UnitSpec>, Vec<bool>) =
        drawn.into_iter().map(|unit| (unit.spec, unit.is_member)).unzip();
    let wanted = units.iter().zip(members).filter(|(_, is_member)| *is_member);
    let listed = Membership::Listed {
        profile: "sim".to_owned(),
    };
    let members = wanted
        .map(|(unit, _)| (unit.name.clone(), listed.clone()))
        .collect();
    let mut plan = Arc::unwrap_or_clone(plan_of(units, members, max_starting));
    plan.node.breaker = breaker;
    Arc::new(plan)
}

/// The limits of `[breaker]`: mostly none, since breakers end the restarts that are to be seen; else small ones, that are met.
pub(super) fn breaker(choices: &mut Choices) -> BreakerSpec {
    let bits = choices.chance(key(Pick::Breaker, 0, 0), 400, 1 << 12);
    let seconds = |s: u64| Duration::from_secs(s);
    let limit = |restarts: u64, shift: u32| BreakerLimit {
        restarts: Some(1 + restarts as u32),
        window: seconds(20 * (1 + (bits >> shift) % 4)),
        cooldown: seconds(5 + 15 * ((bits >> (shift + 2)) % 4)),
    };
    let mut spec = BreakerSpec {
        startup_grace: seconds(if bits & 0x100 == 0 { 0 } else { 10 }),
        ..BreakerSpec::default()
    };
    spec.node.restarts = None;
    if bits > 0 {
        spec.node = limit(bits % 6, 3);
    }
    for (category, bit) in [(CATEGORIES[0], 0x200), (CATEGORIES[1], 0x400)] {
        if bits & bit != 0 {
            let own = CategoryLimit {
                limit: limit(bits % 3, 4),
                is_for_node: bits & 0x800 == 0,
            };
            spec.categories.insert(category.to_owned(), own);
        }
    }
    spec
}

/// The same units as the files say it another time: some are gone, some are other than they were, and some are back.
pub(super) fn another(choices: &mut Choices, first: &[Drawn], load: u32) -> Vec<Drawn> {
    let mut units = Vec::with_capacity(first.len());
    for unit in first {
        let who = super::make::number(&unit.spec.name);
        let mut unit = unit.clone();
        match choices.chance(key(Pick::LoadUnit, who, load), 250, 8) {
            1 | 2 => continue,
            3 => unit.is_member = !unit.is_member,
            change @ (4 | 5) => {
                unit.spec.digest = format!("{change}");
                unit.spec.stop.signals = vec![2, 15];
            }
            6 => {
                unit.spec.digest = "6".to_owned();
                unit.spec.requires.pop();
            }
            7 => {
                unit.spec.digest = "7".to_owned();
                unit.spec.exec.stop_post = vec![hook()];
                unit.spec.health = None;
            }
            _ => {}
        }
        units.push(unit);
    }
    // A name that no unit has is refused where files are read.
    let names: Vec<_> = units.iter().map(|unit| unit.spec.name.clone()).collect();
    for unit in &mut units {
        let spec = &mut unit.spec;
        let mut is_changed = false;
        for list in [
            &mut spec.requires,
            &mut spec.wants,
            &mut spec.after,
            &mut spec.conflicts,
        ] {
            let before = list.len();
            list.retain(|other| names.contains(other));
            is_changed |= list.len() != before;
        }
        if is_changed {
            // A definition is known by its digest.
            spec.digest = format!("{} without {load}", spec.digest);
        }
    }
    units
}

/// `u07`, as the world counts it.
pub(super) fn nth_name(who: u32) -> crate::spec::UnitName {
    name(who as usize)
}
