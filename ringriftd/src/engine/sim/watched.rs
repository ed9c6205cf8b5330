//! Stories of health: each with a scripted world, where the dice of the others would only blur what is meant.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::reply::{Exit, Health, State as Word};

use crate::engine::machine::Engine;
use crate::engine::types::{Action, Change, ChangeKind, Event, Mono, ProbeResult, Role};
use crate::engine::unit::Unit;
use crate::ids::{Invocation, LaunchId};
use crate::limits;
use crate::spec::{HealthSpec, Kind, OnUnhealthy, Probe, Template, UnitSpec};

use super::dice::{name, plan, unit};

/// An engine, and all that it asked for.
struct Rig {
    engine: Engine,
    now: u64,
    probes: Vec<(Invocation, u64)>,
    launches: Vec<(LaunchId, Role)>,
    signals: Vec<i32>,
    told: Vec<Change>,
}

impl Rig {
    /// These units, up.
    fn up(units: Vec<UnitSpec>) -> Self {
        let mut rig = Self {
            engine: Engine::new(7),
            now: 1_000_000_000,
            probes: Vec::new(),
            launches: Vec::new(),
            signals: Vec::new(),
            told: Vec::new(),
        };
        rig.tell(Event::Loaded(plan(units, None)));
        for (launch, _) in std::mem::take(&mut rig.launches) {
            rig.launched(launch);
            let invocation = launch.invocation;
            rig.tell(Event::Ready { invocation });
        }
        rig
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(Mono(self.now), event);
        self.take();
    }

    fn take(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Probe { invocation, nr, .. } => self.probes.push((invocation, nr)),
                Action::Launch { launch, role, .. } => self.launches.push((launch, role)),
                Action::Signal { signal, .. } => self.signals.push(signal),
                Action::Emit(change) => self.told.push(change),
                _ => {}
            }
        }
        assert_eq!(self.engine.broken_invariants(), Vec::<String>::new());
    }

    fn launched(&mut self, launch: LaunchId) {
        self.tell(Event::Launched {
            launch,
            pid: 9,
            start_time: 1,
            note: None,
        });
    }

    /// Lets time pass as the manager does: from one deadline to the next.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms * 1_000_000;
        while let Some(at) = self.engine.next_deadline().filter(|at| at.0 <= end) {
            self.now = self.now.max(at.0);
            self.tell(Event::Tick);
        }
        self.now = end;
    }

    /// Waits for the next question, and answers it.
    fn answer(&mut self, result: ProbeResult) {
        for _ in 0..1000 {
            if let Some((invocation, nr)) = self.probes.pop() {
                return self.tell(Event::Probed {
                    invocation,
                    nr,
                    result,
                });
            }
            self.pass(100);
        }
        panic!("nobody is asked");
    }

    fn unit(&self) -> &Unit {
        self.engine.find(&name(0)).expect("known").1
    }

    fn life(&self) -> Invocation {
        self.unit().last_invocation.expect("it lives")
    }

    fn say(&mut self, health: Health) {
        let invocation = self.life();
        self.tell(Event::HealthSaid {
            invocation,
            health,
            text: Some("why".to_owned()),
        });
    }
}

fn failed() -> ProbeResult {
    ProbeResult::Failed("no".to_owned())
}

fn asked(i: usize, probe: Probe) -> UnitSpec {
    let mut unit = unit(i);
    unit.health_interval = Duration::from_secs(10);
    unit.health = Some(HealthSpec {
        probe: Some(probe),
        grace: Duration::from_secs(5),
        failures: 3,
        timeout: Duration::from_secs(2),
        watchdog: None,
        on_failure: OnUnhealthy::Restart,
    });
    unit
}

fn http() -> Probe {
    Probe::Http(Template::literal("http://x/"))
}

#[test]
fn only_failures_in_a_row_end_a_life_and_they_have_a_counter_of_their_own() {
    let mut rig = Rig::up(vec![asked(0, http())]);
    rig.pass(4_999);
    assert!(rig.probes.is_empty(), "within its grace");
    for result in [
        ProbeResult::Passed,
        failed(),
        failed(),
        ProbeResult::Passed,
        failed(),
        failed(),
    ] {
        rig.answer(result);
    }
    assert_eq!(rig.unit().word, Word::Running);
    assert_eq!(rig.unit().health().0, Health::Degraded);
    // Neither counts, and neither begins the row anew.
    rig.answer(ProbeResult::Void);
    rig.answer(ProbeResult::Cannot("no such program".to_owned()));
    assert_eq!(rig.unit().word, Word::Running);
    rig.answer(failed());
    assert_eq!(rig.unit().word, Word::Stopping);
    assert_eq!(rig.signals, [15]);
    let launch = LaunchId::main(rig.life());
    let exit = Exit::Signal {
        signal: 15,
        core: false,
    };
    rig.tell(Event::Exited {
        launch,
        exit,
        remains: Vec::new(),
    });
    let unit = rig.unit();
    assert_eq!((unit.word, unit.restarts.unhealthy_ends()), (Word::Backoff, 1));
    assert!(
        unit.last_error
            .as_deref()
            .is_some_and(|e| e.starts_with("unhealthy: ")),
        "{unit:?}"
    );
    let words: Vec<_> = rig
        .told
        .iter()
        .filter(|change| change.kind == ChangeKind::HealthChanged)
        .map(|change| change.cause.text.split(':').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(words.last().map(String::as_str), Some("unhealthy"), "{words:?}");
}

#[test]
fn mark_and_ignore_end_nobody() {
    for (on_failure, word) in [
        (OnUnhealthy::Mark, Health::Unhealthy),
        (OnUnhealthy::Ignore, Health::Unknown),
    ] {
        let mut spec = asked(0, http());
        if let Some(health) = &mut spec.health {
            health.on_failure = on_failure;
        }
        let mut rig = Rig::up(vec![spec]);
        (0..5).for_each(|_| rig.answer(failed()));
        assert_eq!((rig.unit().word, rig.unit().health().0), (Word::Running, word));
        assert_eq!(rig.unit().checks.len(), limits::CHECKS_KEPT);
    }
}

#[test]
fn reports_count_like_probes_and_not_faster_than_asked_for() {
    let mut spec = asked(0, http());
    if let Some(health) = &mut spec.health {
        (health.probe, health.on_failure) = (None, OnUnhealthy::Restart);
    }
    let mut rig = Rig::up(vec![spec]);
    (0..10).for_each(|_| rig.say(Health::Unhealthy));
    assert_eq!(
        rig.unit().health().0,
        Health::Degraded,
        "nothing counts within its grace"
    );
    rig.pass(20_000);
    (0..10).for_each(|_| rig.say(Health::Unhealthy));
    assert_eq!(rig.unit().word, Word::Running, "ten in a moment are one");
    rig.say(Health::Degraded);
    assert_eq!(rig.unit().health().0, Health::Degraded);
    for _ in 0..3 {
        assert_eq!(rig.unit().word, Word::Running);
        rig.pass(10_000);
        rig.say(Health::Unhealthy);
    }
    assert_eq!(rig.unit().word, Word::Stopping);
}

#[test]
fn a_missed_watchdog_aborts_first_and_one_that_is_fed_or_off_does_not() {
    let mut spec = asked(0, http());
    if let Some(health) = &mut spec.health {
        (health.probe, health.on_failure) = (None, OnUnhealthy::Mark);
        health.watchdog = Some(Duration::from_secs(20));
    }
    let mut rig = Rig::up(vec![spec]);
    let invocation = rig.life();
    for _ in 0..5 {
        rig.pass(19_000);
        rig.tell(Event::Watchdog { invocation });
    }
    assert_eq!(rig.unit().health().0, Health::Healthy);
    rig.tell(Event::WatchdogEvery {
        invocation,
        every: Duration::ZERO,
    });
    rig.pass(100_000);
    assert_eq!(rig.unit().word, Word::Running);
    rig.tell(Event::WatchdogEvery {
        invocation,
        every: Duration::from_secs(1),
    });
    rig.engine.pause_deadlines(true);
    rig.now += 5_000_000_000;
    rig.tell(Event::Tick);
    assert_eq!(
        rig.unit().word,
        Word::Running,
        "nobody is judged by one who was held up"
    );
    rig.engine.pause_deadlines(false);
    rig.tell(Event::Tick);
    assert_eq!(
        (rig.unit().word, rig.signals.as_slice()),
        (Word::Stopping, &[6][..])
    );
    rig.pass(5_000);
    assert_eq!(rig.signals, [6, 15]);
}

#[test]
fn no_more_are_asked_at_once_than_may_be_and_all_have_their_turn() {
    let count = 3 * limits::PROBES_AT_ONCE as usize;
    let mut rig = Rig::up((0..count).map(|i| asked(i, http())).collect());
    rig.engine.pause_deadlines(true);
    rig.now += 60_000_000_000;
    rig.tell(Event::Tick);
    rig.engine.pause_deadlines(false);
    rig.tell(Event::Tick);
    let mut seen: BTreeMap<Invocation, u32> = BTreeMap::new();
    assert_eq!(rig.probes.len(), limits::PROBES_AT_ONCE as usize);
    while let Some((invocation, nr)) = rig.probes.pop() {
        *seen.entry(invocation).or_default() += 1;
        let result = ProbeResult::Passed;
        rig.now += 1;
        rig.tell(Event::Probed {
            invocation,
            nr,
            result,
        });
        if seen.len() == count {
            break;
        }
    }
    assert_eq!(seen.len(), count);
}

#[test]
fn a_unit_is_ready_by_its_probe_after_its_own_word() {
    for kind in [Kind::Simple, Kind::Notify] {
        let mut spec = unit(0);
        spec.exec.kind = kind;
        spec.ready_probe = Some(http());
        let mut rig = Rig::up(vec![spec]);
        assert_eq!(rig.unit().word, Word::Starting);
        rig.answer(failed());
        rig.answer(ProbeResult::Cannot("not yet".to_owned()));
        assert_eq!(rig.unit().word, Word::Starting);
        rig.answer(ProbeResult::Passed);
        assert_eq!(rig.unit().word, Word::Running, "{kind:?}");
    }
    let mut spec = unit(0);
    spec.ready_probe = Some(http());
    let mut rig = Rig::up(vec![spec]);
    rig.answer(failed());
    rig.pass(10_000);
    let why = rig.unit().last_error.clone().expect("why");
    assert!(why.contains("[ready] timeout") && why.contains("no"), "{why}");
}

#[test]
fn a_command_that_takes_too_long_is_killed_and_no_second_one_runs_meanwhile() {
    let command = Probe::Command(vec![Template::literal("/probe")]);
    let mut rig = Rig::up(vec![asked(0, command)]);
    rig.pass(15_000);
    let (launch, role) = rig.launches.pop().expect("it is asked");
    assert_eq!(role, Role::Probe);
    rig.launched(launch);
    rig.pass(60_000);
    assert!(rig.launches.is_empty(), "one at a time");
    assert_eq!(rig.unit().health().0, Health::Degraded);
    let exit = Exit::Signal {
        signal: 9,
        core: false,
    };
    rig.tell(Event::Exited {
        launch,
        exit,
        remains: Vec::new(),
    });
    rig.pass(10_000);
    assert_eq!(rig.launches.len(), 1);
    assert_ne!(rig.launches[0].0, launch, "a number is used once");
}

#[test]
fn what_was_asked_when_the_manager_died_is_asked_again_and_what_was_counted_is_known() {
    let spec = asked(0, http());
    let mut rig = Rig::up(vec![spec.clone()]);
    rig.answer(failed());
    rig.answer(failed());
    while rig.probes.is_empty() {
        rig.pass(100);
    }
    let text = serde_json::to_string(&rig.engine.snapshot()).expect("it can be written");
    let snapshot = serde_json::from_str(&text).expect("it can be read");
    rig.engine = Engine::restore(snapshot, &plan(vec![spec], None));
    let before = std::mem::take(&mut rig.probes);
    rig.engine.resume(Mono(rig.now));
    rig.take();
    assert_eq!(rig.probes, before);
    rig.answer(failed());
    assert_eq!(rig.unit().word, Word::Stopping);
}
