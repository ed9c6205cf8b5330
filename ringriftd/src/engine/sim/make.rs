//! Dice, units with short times, and random graphs of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::door::HttpSpec;
use crate::engine::restart::mix;
use crate::engine::types::Plan;
use crate::graph::Graph;
use crate::spec::{
    Command, Exec, Exhausted, HealthSpec, Kind, Lifecycle, Log, Membership, NodeSpec, NotifyAccess,
    OnDependency, OnRestarted, OnUnhealthy, Probe, Restart, RestartPolicy, Stop, Template, UnitName,
    UnitSpec,
};

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

pub(super) fn name(i: usize) -> UnitName {
    UnitName::new(&format!("u{i:02}")).expect("a valid name")
}

/// A unit with short times, so that many lives fit into a run.
pub(super) fn unit(i: usize) -> UnitSpec {
    UnitSpec {
        name: name(i),
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
            kind: Kind::Notify,
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
            hook_timeout: Duration::from_secs(5),
        },
        ready_timeout: Duration::from_secs(10),
        health_interval: Duration::from_secs(30),
        restart: Restart {
            policy: RestartPolicy::Always,
            delay: Duration::from_secs(1),
            factor_milli: 2000,
            max_delay: Duration::from_secs(30),
            jitter_milli: 100,
            stable_after: Duration::from_secs(60),
            max_restarts: Some(5),
            window: Duration::from_secs(600),
            exhausted: Exhausted::Retry,
            retry_every: Duration::from_secs(900),
            permanent_exit_codes: vec![65],
        },
        on_dependency: OnDependency::default(),
        on_dependency_of: BTreeMap::new(),
        stop: Stop {
            signals: vec![15],
            timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(2),
        },
        log: Log {
            max_size: 1,
            max_files: 1,
            ..Log::default()
        },
        deprecated: None,
        digest: "1".to_owned(),
        ready_probe: None,
        health: None,
    }
}

pub(super) fn plan(units: Vec<UnitSpec>, max_starting: Option<u32>) -> Arc<Plan> {
    let units: BTreeMap<UnitName, Arc<UnitSpec>> =
        units.into_iter().map(|u| (u.name.clone(), Arc::new(u))).collect();
    let members = units
        .keys()
        .map(|n| {
            (
                n.clone(),
                Membership::Listed {
                    profile: "sim".to_owned(),
                },
            )
        })
        .collect();
    let graph = Arc::new(Graph::build(units.values()).expect("no rings are made here"));
    let node = NodeSpec {
        profiles: vec!["sim".to_owned()],
        shutdown_timeout: Duration::from_secs(3600),
        max_starting,
        on_event: None,
        http: HttpSpec::default(),
        breaker: crate::breaker::BreakerSpec::default(),
        log_total: None,
    };
    Arc::new(Plan {
        node,
        units,
        members,
        graph,
    })
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
