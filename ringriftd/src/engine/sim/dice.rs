//! Dice, and random graphs of units, for the stories.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::restart::mix;
use crate::engine::types::Plan;
use crate::spec::{
    HealthSpec, Kind, Membership, OnRestarted, OnUnhealthy, Probe, RestartPolicy, Template, UnitSpec,
};

pub(super) use super::make::*;

/// Dice that a seed throws.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(super) fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

/// The plan of these units, all of which a profile wants.
pub(super) fn plan(units: Vec<UnitSpec>, max_starting: Option<u32>) -> Arc<Plan> {
    let listed = Membership::Listed {
        profile: "sim".to_owned(),
    };
    let members = units.iter().map(|u| (u.name.clone(), listed.clone())).collect();
    plan_of(units, members, max_starting)
}

/// A random `[health]` and `[ready] probe`.
fn watch(dice: &mut Dice, unit: &mut UnitSpec) {
    let probe = |dice: &mut Dice| {
        if dice.percent(40) {
            Probe::Command(vec![Template::literal("/probe")])
        } else {
            Probe::Http(Template::literal("http://localhost/"))
        }
    };
    if unit.exec.kind != Kind::Oneshot && dice.percent(15) {
        unit.ready_probe = Some(probe(dice));
    }
    if dice.percent(30) {
        unit.health_interval = Duration::from_secs(10 + dice.below(50));
        unit.health = Some(HealthSpec {
            probe: dice.percent(60).then(|| probe(dice)),
            grace: Duration::from_secs(dice.below(20)),
            failures: 1 + dice.below(4) as u32,
            timeout: Duration::from_secs(1 + dice.below(9)),
            watchdog: (unit.exec.kind == Kind::Notify && dice.percent(40))
                .then(|| Duration::from_secs(10 + dice.below(50))),
            on_failure: match dice.below(4) {
                0 => OnUnhealthy::Mark,
                1 => OnUnhealthy::Ignore,
                _ => OnUnhealthy::Restart,
            },
        });
    }
}

/// A rich random graph whose units are watched in all ways.
pub(super) fn random_watched_units(dice: &mut Dice, count: usize) -> Vec<UnitSpec> {
    let mut units = random_units(dice, count, true);
    units.iter_mut().for_each(|unit| watch(dice, unit));
    units
}

/// A random graph without rings: each unit only looks at those before it, and the names are shuffled by the positions.
pub(super) fn random_units(dice: &mut Dice, count: usize, is_rich: bool) -> Vec<UnitSpec> {
    let mut units: Vec<UnitSpec> = (0..count).map(unit).collect();
    for (i, unit) in units.iter_mut().enumerate() {
        for other in 0..i {
            match dice.below(12) {
                0 | 1 => unit.requires.push(name(other)),
                2 if is_rich => unit.wants.push(name(other)),
                3 if is_rich => unit.after.push(name(other)),
                _ => {}
            }
        }
        unit.startup_position = dice.percent(40).then(|| dice.below(30) as u32);
        if is_rich {
            unit.exec.kind = match dice.below(6) {
                0 => Kind::Simple,
                1 => Kind::Oneshot,
                _ => Kind::Notify,
            };
            unit.exec.remain = dice.percent(50);
            if dice.percent(20) {
                unit.exec.start_pre = vec![vec![Template::literal("/pre")]];
            }
            if dice.percent(20) {
                unit.exec.stop_post =
                    vec![vec![Template::literal("/post")], vec![Template::literal("/post")]];
            }
            if dice.percent(20) {
                unit.exec.stop_pre = vec![vec![Template::literal("/pre")]];
            }
            if dice.percent(20) {
                unit.on_dependency.restarted = OnRestarted::Restart;
            }
            if dice.percent(20) {
                unit.on_dependency.failed = crate::spec::OnFailed::Keep;
            }
            if dice.percent(20) {
                unit.restart.policy = RestartPolicy::OnFailure;
            }
        }
    }
    units
}
