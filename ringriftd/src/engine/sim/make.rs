//! Units with short times, and plans of them; for the stories, dice and random graphs too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::door::HttpSpec;
use crate::engine::types::Plan;
use crate::graph::Graph;
use crate::spec::{
    Command, Exec, Exhausted, Kind, Lifecycle, Log, Membership, NodeSpec, NotifyAccess, OnDependency,
    Restart, RestartPolicy, Stop, Template, UnitName, UnitSpec,
};

/// The name of a unit of the world.
pub(super) fn name(i: usize) -> UnitName {
    let text = format!("u{i:02}");
    UnitName::new(&text).unwrap_or_else(|| unreachable!("{text} is a name"))
}

/// The number in such a name.
pub(super) fn number(name: &UnitName) -> u32 {
    let digits = name.as_str().bytes().filter(u8::is_ascii_digit);
    digits.fold(0, |n, digit| n * 10 + u32::from(digit - b'0'))
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
            is_zygote: false,
            zygote: None,
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

/// The plan of these units, where a profile wants these.
pub(super) fn plan_of(
    units: Vec<UnitSpec>,
    members: BTreeMap<UnitName, Membership>,
    max_starting: Option<u32>,
) -> Arc<Plan> {
    let units: BTreeMap<UnitName, Arc<UnitSpec>> =
        units.into_iter().map(|u| (u.name.clone(), Arc::new(u))).collect();
    let graph = Graph::build(units.values())
        .unwrap_or_else(|rings| unreachable!("no rings are made here: {rings:?}"));
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
        graph: Arc::new(graph),
    })
}
