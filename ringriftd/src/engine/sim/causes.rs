//! The words of `why`, one story for each kind of cause: what a tired operator reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::reply::{By, Cause, CauseKind, Exit, Hold};

use crate::engine::hold::Held;
use crate::engine::machine::Engine;
use crate::engine::types::{Action, Event, Mono, Op, Plan, RequestId, Role};
use crate::ids::LaunchId;
use crate::spec::{Kind, OnFailed, OnRecovered, RestartPolicy, UnitSpec};

use super::dice::*;

/// An engine, and a world in which launched units become ready at once, but for those that are named.
struct Story {
    engine: Engine,
    now: u64,
    slow: Vec<usize>,
    requests: u64,
}

impl Story {
    fn new(units: Vec<UnitSpec>, slow: &[usize], limit: Option<u32>) -> Self {
        let plan = plan(units, limit);
        Self::of(&plan, slow)
    }

    fn of(plan: &Arc<Plan>, slow: &[usize]) -> Self {
        let mut story = Self {
            engine: Engine::new(1),
            now: 0,
            slow: slow.to_vec(),
            requests: 0,
        };
        story.tell(Event::Loaded(Arc::clone(plan)));
        story
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(Mono(self.now), event);
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Launch { launch, role, spec } => {
                    let is_slow = self.slow.iter().any(|i| name(*i) == spec.name);
                    self.engine.handle(
                        Mono(self.now),
                        Event::Launched {
                            launch,
                            pid: 7,
                            start_time: 1,
                            note: None,
                        },
                    );
                    match (role, spec.exec.kind) {
                        (Role::Main, Kind::Oneshot) => self.end(launch, Exit::Code(0)),
                        (Role::Main, _) if !is_slow => self.engine.handle(
                            Mono(self.now),
                            Event::Ready {
                                invocation: launch.invocation,
                            },
                        ),
                        (Role::Main, _) => {}
                        (_, _) => self.end(launch, Exit::Code(0)),
                    }
                }
                // A slow one is slow to end, too.
                Action::Signal { launch, .. } | Action::Destroy { launch }
                    if !self.slow.iter().any(|i| self.main(*i) == Some(launch)) =>
                {
                    self.end(launch, Exit::Code(0));
                }
                _ => {}
            }
        }
    }

    fn end(&mut self, launch: LaunchId, exit: Exit) {
        self.engine.handle(
            Mono(self.now),
            Event::Exited {
                launch,
                exit,
                remains: Vec::new(),
            },
        );
    }

    fn main(&self, i: usize) -> Option<LaunchId> {
        let (_, unit) = self.engine.find(&name(i))?;
        Some(LaunchId::main(unit.state.life()?.invocation))
    }

    fn dies(&mut self, i: usize) {
        let launch = self.main(i).expect("it lives");
        self.end(launch, Exit::Code(1));
        self.tell(Event::Tick);
    }

    fn asks(&mut self, op: Op) {
        self.requests += 1;
        let by = By {
            uid: 1000,
            pid: 4711,
            verb: "stop".to_owned(),
        };
        let id = RequestId(self.requests);
        self.tell(Event::Request { id, op, by });
    }

    fn stops(&mut self, i: usize) {
        let units = vec![name(i)];
        self.asks(Op::Stop { units, cascade: true });
    }

    /// `why`, as rows.
    fn why(&self, i: usize) -> Vec<String> {
        let (ix, _) = self.engine.find(&name(i)).expect("it is there");
        let why = self.engine.why(ix, None);
        let name = |ix| self.engine.graph().name(ix).to_string();
        let mut rows = vec![format!("{}: {}", name(ix), why.text)];
        for step in why.chain.iter().skip(1) {
            let edge = step
                .edge
                .map(|edge| format!("{edge:?} ").to_lowercase())
                .unwrap_or_default();
            let again = if step.is_repeated { " (again)" } else { "" };
            let indent = "  ".repeat(step.depth as usize);
            rows.push(format!("{indent}{edge}{}: {}{again}", name(step.unit), step.text));
        }
        for root in &why.roots {
            let blocks: Vec<String> = root.blocks.iter().map(|ix| name(*ix)).collect();
            rows.push(format!(
                "= {} {:?}, holds back [{}]",
                root.unit.map_or("the node".to_owned(), name),
                root.kind,
                blocks.join(" ")
            ));
        }
        rows
    }
}

fn requires(i: usize, others: &[usize]) -> UnitSpec {
    UnitSpec {
        requires: others.iter().map(|d| name(*d)).collect(),
        ..unit(i)
    }
}

fn once(mut spec: UnitSpec) -> UnitSpec {
    spec.restart.policy = RestartPolicy::Never;
    spec
}

#[test]
fn one_that_is_well_is_fine_and_so_is_one_that_has_done_its_work() {
    let mut done = unit(1);
    done.exec.kind = Kind::Oneshot;
    let story = Story::new(vec![unit(0), done], &[], None);
    assert_eq!(story.why(0), ["u00: is running"]);
    assert_eq!(story.why(1), ["u01: has completed, as it should"]);
    let (ix, _) = story.engine.find(&name(0)).expect("it is there");
    let why = story
        .engine
        .why(ix, Some("says that it is unhealthy: no peers".to_owned()));
    assert_eq!(why.text, "is running, and says that it is unhealthy: no peers");
    assert!(
        !why.is_fine && why.roots[0].kind == proto::reply::RootKind::Unhealthy,
        "{why:?}"
    );
}

#[test]
fn a_chain_leads_to_the_one_that_failed() {
    let units = vec![once(unit(0)), requires(1, &[0]), requires(2, &[1])];
    let mut story = Story::new(units, &[0], None);
    story.dies(0);
    let failed = "has failed: never restarted (policy = \"never\"): exited with code 1 before it was ready";
    assert_eq!(
        story.why(2),
        [
            format!("u02: is held back by u00, which {failed}"),
            "  requires u01: is waiting".to_owned(),
            format!("    requires u00: {failed}"),
            "= u00 Failed, holds back [u01 u02]".to_owned(),
        ]
    );
    assert_eq!(
        story.why(0),
        [
            format!("u00: {failed}"),
            "= u00 Failed, holds back [u01 u02]".to_owned()
        ]
    );
}

#[test]
fn back_off_and_crash_loop_are_told_apart() {
    let mut story = Story::new(vec![unit(0)], &[0], None);
    story.dies(0);
    let error = "exited with code 1 before it was ready";
    assert_eq!(
        story.why(0),
        [
            format!("u00: is in back-off: {error}"),
            "= u00 Backoff, holds back []".to_owned()
        ]
    );
    for _ in 0..5 {
        story.now += 60_000_000_000;
        story.tell(Event::Tick);
        story.dies(0);
    }
    assert_eq!(
        story.why(0),
        [
            format!("u00: has failed again and again: restart limit (5 within 10m): {error}"),
            "= u00 CrashLoop, holds back []".to_owned(),
        ]
    );
}

#[test]
fn who_starts_and_who_waits_for_a_turn_is_told() {
    let mut wants = unit(1);
    wants.wants = vec![name(0)];
    let mut after = unit(2);
    after.after = vec![name(0)];
    let mut story = Story::new(vec![unit(0), wants, after, unit(3)], &[0], Some(1));
    let starting = "is starting: it runs, and is not ready yet (it has 10s)";
    assert_eq!(
        story.why(1),
        [
            format!("u01: is held back by u00, which {starting}"),
            format!("  wants u00: {starting}"),
            "= u00 Starting, holds back [u01 u02]".to_owned(),
        ]
    );
    assert_eq!(story.why(2)[1], format!("  after u00: {starting}"));
    let limit = "at most 1 units start at once (max_starting); now: u00";
    assert_eq!(
        story.why(3),
        [
            format!("u03: is held back: {limit}"),
            "= the node Limit, holds back [u03]".to_owned()
        ]
    );
    // A soft edge holds only until the first attempt has failed.
    story.dies(0);
    assert_eq!(story.why(1), ["u01: is running"]);
}

#[test]
fn who_stopped_it_and_who_holds_it_is_told() {
    let mut story = Story::new(vec![unit(0), requires(1, &[0])], &[], None);
    story.stops(0);
    let stopped = "was stopped: stop by uid 1000 (pid 4711)";
    assert_eq!(
        story.why(1),
        [
            format!("u01: is held back by u00, which {stopped}"),
            format!("  requires u00: {stopped}"),
            "= u00 Stopped, holds back [u01]".to_owned(),
        ]
    );
    let hold = Hold {
        by: By {
            uid: 0,
            pid: 1,
            verb: "hold".to_owned(),
        },
        note: Some("new disk".to_owned()),
        since_us: 1,
        until_us: None,
    };
    let held = Held { hold, until: None };
    let units = vec![name(0)];
    story.asks(Op::Hold { units, held });
    let why = story.why(1);
    assert!(
        why[0].contains("u00, which is held by uid 0") && why[0].contains("new disk"),
        "{why:?}"
    );
    assert_eq!(why[2], "= u00 Held, holds back [u01]");
}

#[test]
fn several_causes_are_all_named_and_shared_ones_once() {
    let units = vec![once(unit(0)), unit(1), requires(2, &[0]), requires(3, &[0, 2, 1])];
    let mut story = Story::new(units, &[0, 1], None);
    story.dies(0);
    story.dies(1);
    let (failed, backoff) = (
        "has failed: never restarted (policy = \"never\"): exited with code 1 before it was ready",
        "is in back-off: exited with code 1 before it was ready",
    );
    assert_eq!(
        story.why(3),
        [
            "u03: is held back by 2 causes: u00, u01".to_owned(),
            format!("  requires u00: {failed}"),
            format!("  requires u01: {backoff}"),
            "  requires u02: is waiting".to_owned(),
            format!("    requires u00: {failed} (again)"),
            "= u00 Failed, holds back [u02 u03]".to_owned(),
            "= u01 Backoff, holds back [u03]".to_owned(),
        ]
    );
}

#[test]
fn one_that_stays_down_one_that_has_completed_and_a_conflict_are_told() {
    let mut stays = requires(1, &[0]);
    stays.on_dependency.failed = OnFailed::Stop;
    stays.on_dependency.recovered = OnRecovered::Stay;
    let mut story = Story::new(vec![once(unit(0)), stays], &[], None);
    story.dies(0);
    let why = story.why(1);
    assert!(
        why[0]
            .starts_with("u01: stays down (recovered = \"stay\") since one that it requires went down: u00"),
        "{why:?}"
    );
    assert_eq!(why[1], "= u01 Stayed, holds back []");

    let mut service = unit(0);
    service.restart.policy = RestartPolicy::OnFailure;
    let mut story = Story::new(vec![service, requires(1, &[0])], &[], None);
    let launch = story.main(0).expect("it lives");
    story.end(launch, Exit::Code(0));
    story.tell(Event::Tick);
    assert_eq!(story.why(0), ["u00: has completed, as it should"]);
    let why = story.why(1);
    assert!(
        why.last()
            .is_some_and(|row| row.starts_with("= u00 Completed") || row == "u01: is running"),
        "{why:?}"
    );

    let mut rival = unit(1);
    rival.conflicts = vec![name(0)];
    let story = Story::new(vec![unit(0), rival.clone(), requires(2, &[1])], &[0], None);
    let far = story.why(2);
    assert_eq!(
        far[0],
        "u02: is held back by u00, which is starting, and u01 may not be up beside it"
    );
    assert_eq!(
        far.last().map(String::as_str),
        Some("= u00 Conflict, holds back [u01 u02]")
    );
    let mut story = Story::new(vec![unit(0), rival], &[0], None);
    let conflict = "is starting, and u01 may not be up beside it";
    assert_eq!(
        story.why(1),
        [
            format!("u01: is held back by u00, which {conflict}"),
            format!("  conflicts u00: {conflict}"),
            "= u00 Conflict, holds back [u01]".to_owned(),
        ]
    );
    story.stops(1);
    assert_eq!(story.why(1)[1], "= u01 Stopped, holds back []");
}

#[test]
fn what_no_profile_wants_and_what_goes_down_with_the_node_is_told() {
    let whole = plan(vec![unit(0)], None);
    let nobody = Arc::new(Plan {
        members: BTreeMap::new(),
        ..Plan::clone(&whole)
    });
    let story = Story::of(&nobody, &[]);
    assert_eq!(
        story.why(0),
        [
            "u00: is not wanted: no active profile has it, and nobody started it",
            "= u00 Unwanted, holds back []",
        ]
    );
    let mut story = Story::of(&whole, &[]);
    let cause = Cause {
        kind: CauseKind::Signal,
        seq: None,
        unit: None,
        by: None,
        text: "SIGTERM".to_owned(),
    };
    story.tell(Event::Shutdown { cause });
    assert_eq!(
        story.why(0),
        [
            "u00: is held back: ringriftd is shutting down (SIGTERM)",
            "= the node Shutdown, holds back []",
        ]
    );
}
