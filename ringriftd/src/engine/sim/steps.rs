//! Single steps: invariants 12, 13, 21 to 24, 26 and 27, and what the world hears before each.

use std::sync::Arc;
use std::time::Duration;

use proto::reply::{CauseKind, Exit, Health, State as Word};

use crate::engine::snapshot::Snapshot;
use crate::engine::types::{Action, Change, ChangeKind, Event, LaunchFailure, Mono, Op, ProbeResult};
use crate::engine::unit::{Desired, ProcessPhase, State};
use crate::ids::{Invocation, LaunchId};
use crate::limits;
use crate::spec::Kind;

use super::invariants::Invariant;
use super::make::number;
use super::world::World;
use super::{cells, tell};

/// What was there before a step.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// The event is news of what is over.
    is_stale: bool,
    /// The files that are loaded are those that were.
    is_same_plan: bool,
    /// All that the engine knew, where nothing may change.
    whole: Option<Box<Snapshot>>,
    /// No deadline has passed.
    pub(super) is_early: bool,
    is_shutting_down: bool,
    /// What a start or restart would bring up.
    reach: Vec<u32>,
}

/// The states of the table, and where each may lead.
fn is_edge(from: Word, to: Word) -> bool {
    use Word::{Backoff, Completed, Failed, Held, Reloading, Running, Starting, Stopped, Stopping, Waiting};
    match from {
        // News that changes no state, but a word of it.
        _ if from == to => true,
        Stopped => matches!(to, Waiting | Starting | Held),
        Waiting => matches!(to, Starting | Stopped | Held),
        Starting => matches!(to, Running | Stopping | Stopped | Held),
        Running => matches!(to, Reloading | Stopping),
        Reloading => matches!(to, Running | Stopping),
        Stopping => matches!(to, Stopped | Waiting | Backoff | Failed | Completed | Held),
        Backoff | Failed => matches!(to, Waiting | Stopped | Starting | Held),
        Completed => matches!(to, Waiting | Stopped | Starting | Held),
        Held => matches!(to, Stopped | Waiting | Backoff | Failed | Completed),
    }
}

impl World {
    /// The world hears what the engine is about to hear.
    pub(super) fn before_step(&mut self, event: &Event) {
        self.book(event);
        let is_of_a_life = tell::invocation_of(event).is_some();
        let is_stale = is_of_a_life && cells::unit_of(&self.engine, event).is_none();
        let is_same_plan =
            self.engine.loaded && matches!(event, Event::Loaded(plan) if Arc::ptr_eq(plan, &self.plan));
        let is_early = self.engine.next_deadline().is_none_or(|at| at > Mono(self.now));
        self.before = Before {
            is_stale,
            is_same_plan,
            is_early,
            whole: (is_same_plan && is_early).then(|| Box::new(self.engine.snapshot())),
            is_shutting_down: self.engine.is_shutting_down(),
            reach: match event {
                Event::Request {
                    op: op @ (Op::Start { .. } | Op::Restart { .. }),
                    ..
                } => self.reach_of(op),
                _ => Vec::new(),
            },
        };
        if !is_stale {
            self.hear_news(event);
        }
    }

    fn hear_news(&mut self, event: &Event) {
        match event {
            Event::Launched { launch, .. } if launch.is_main() => {
                if let Some(life) = self.life(launch.invocation) {
                    life.is_launched = true;
                }
            }
            Event::LaunchFailed { launch, failure } => {
                let is_starting = self
                    .engine
                    .unit_of(launch.invocation)
                    .is_some_and(|unit| matches!(unit.state, State::Starting { .. }));
                let is_probe = self
                    .engine
                    .processes()
                    .any(|(_, _, p)| p.launch == *launch && p.role.is_probe());
                let Some(who) = self.life(launch.invocation).map(|life| life.who) else {
                    return;
                };
                if is_starting && !is_probe {
                    self.truth_mut(who).is_host_end = failure.host;
                }
            }
            Event::Exited { launch, remains, .. } if launch.is_main() => {
                let is_over = remains.is_empty();
                self.end_main(launch.invocation, is_over);
            }
            Event::Emptied { launch } | Event::Lost { launch } if launch.is_main() => {
                self.end_main(launch.invocation, true);
            }
            Event::MainFound { launch, .. } => {
                if let Some(life) = self.life(launch.invocation) {
                    (life.has_exited, life.is_main_found) = (false, true);
                }
            }
            Event::Ready { invocation } => {
                if let Some(life) = self.life(*invocation) {
                    life.said_ready |= life.is_launched;
                }
            }
            _ => {}
        }
    }

    fn end_main(&mut self, invocation: Invocation, is_over: bool) {
        let kind = self
            .engine
            .unit_of(invocation)
            .and_then(|unit| unit.state.life())
            .map(|life| life.spec.exec.kind);
        let is_asked = self.engine.processes().any(|(_, life, p)| {
            life.invocation == invocation && p.launch.is_main() && p.phase == ProcessPhase::Asked
        });
        let Some(life) = self.life(invocation) else { return };
        if is_asked && !life.is_launched {
            return; // it never was: it is asked for again
        }
        life.has_exited = true;
        life.is_over |= is_over;
        let who = life.who;
        if kind != Some(Kind::Oneshot) {
            self.truth_mut(who).up = false;
        }
    }

    /// What the step came to.
    pub(super) fn after_step(&mut self, event: Option<&Event>, actions: &[Action]) {
        self.counts.actions += actions.len() as u64;
        // That is only noted, and nothing is looked at: what is due meanwhile waits for the next step.
        let is_due = self
            .engine
            .next_deadline()
            .is_some_and(|at| at <= self.engine.now);
        if !(is_due && matches!(event, Some(Event::Used { .. }))) {
            self.check_own("after a step");
        }
        self.check_bounds(actions);
        let Some(event) = event else { return };
        let before = std::mem::take(&mut self.before);
        if before.is_stale && before.is_early {
            let is_void = actions
                .iter()
                .all(|action| matches!(action, Action::Release { .. }));
            self.hold(Invariant::StaleIsVoid, is_void, |_| {
                format!("{} led to {actions:?}", tell::event(event))
            });
        }
        if before.is_same_plan && before.is_early {
            let mut after = self.engine.snapshot();
            let is_same = before.whole.is_some_and(|mut before| {
                after.node.now = before.node.now;
                // One without a file that has gone down is forgotten now.
                before.units.retain(|name, _| after.units.contains_key(name));
                *before == after
            });
            self.hold(Invariant::ReloadNeutral, actions.is_empty() && is_same, |_| {
                format!("the same files were loaded, which led to {actions:?}, or changed what is known")
            });
        }
        self.book_wants(event, actions, &before.reach);
        self.check_collateral(event, actions);
        if let Event::Request { id, .. } = event {
            self.check_wants(Invariant::LastWriter);
            self.check_words();
            // It follows the whole graph: now and then is enough.
            if id.0.is_multiple_of(8) {
                self.check_why();
            }
        }
        self.check_essential(event, actions, before.is_shutting_down);
    }

    pub(super) fn check_own(&mut self, when: &str) {
        let broken = self.engine.broken_invariants();
        self.hold(Invariant::Own, broken.is_empty(), |_| {
            format!("{when}: {}", broken.join("; "))
        });
    }

    fn check_bounds(&mut self, actions: &[Action]) {
        let units = self.engine.units.len();
        let requests = self.engine.requests.pending().len();
        let is_bounded = actions.len() <= 24 * units + requests + 64
            && self.engine.timers.len() <= units
            && self.engine.lives.len() <= units
            && (self.is_story || requests <= self.asked.len());
        self.hold(Invariant::Bounded, is_bounded, |world| {
            let (timers, lives) = (world.engine.timers.len(), world.engine.lives.len());
            format!(
                "{} actions, {timers} timers, {lives} lives, {requests} requests",
                actions.len()
            )
        });
    }

    fn check_collateral(&mut self, event: &Event, actions: &[Action]) {
        let of = tell::invocation_of(event)
            .and_then(|invocation| self.life(invocation))
            .map(|life| life.who);
        for action in actions {
            let Action::Emit(change) = action else { continue };
            if change.to != Word::Stopping || change.from == Word::Stopping {
                continue;
            }
            let Some((ix, unit)) = self.engine.find(&change.unit) else {
                continue;
            };
            let is_down = unit.desired == Desired::Down || unit.restart_pending;
            match (change.cause.kind, &change.cause.unit) {
                (CauseKind::Dependency, Some(name)) => {
                    let edges = &self.engine.graph().edges(ix).requires;
                    let is_required = edges
                        .iter()
                        .any(|d| self.engine.graph().name(*d).as_str() == name);
                    self.hold(Invariant::NoCollateral, is_required || is_down, |_| {
                        format!("{} stops for {name}, which it does not require", change.unit)
                    });
                    if is_down {
                        // `recovered = "stay"`.
                        let truth = self.truth_of(&change.unit);
                        truth.wanted = truth.wanted.filter(|wanted| !wanted);
                    }
                }
                (CauseKind::Exit | CauseKind::Signal, _) => {
                    let is_its_own = of == Some(number(&change.unit));
                    self.hold(Invariant::NoCollateral, is_its_own || is_down, |_| {
                        format!(
                            "{} stops by news of another unit: {}",
                            change.unit, change.cause.text
                        )
                    });
                }
                _ => {}
            }
        }
    }

    fn check_essential(&mut self, event: &Event, actions: &[Action], was_shutting_down: bool) {
        let ended = actions.iter().any(|action| match action {
            Action::Emit(change) if change.from == Word::Stopping => {
                let is_final = change.kind == ChangeKind::PermanentlyFailed || change.to == Word::Completed;
                is_final
                    && self
                        .engine
                        .find(&change.unit)
                        .is_some_and(|(_, unit)| unit.spec.essential)
            }
            _ => false,
        });
        // A hold hides whether it has ended for good; that it has ended, it does not.
        let may_have = actions.iter().any(|action| match action {
            Action::Emit(change) if change.from == Word::Stopping => self
                .engine
                .find(&change.unit)
                .is_some_and(|(_, unit)| unit.spec.essential),
            _ => false,
        });
        let is_asked = matches!(event, Event::Shutdown { .. });
        let begins = self.engine.is_shutting_down() && !was_shutting_down;
        if ended && !was_shutting_down {
            self.hold(Invariant::Essential, begins, |_| {
                "an essential unit has ended, and the node goes on".to_owned()
            });
        } else if begins {
            self.hold(Invariant::Essential, is_asked || may_have, |_| {
                format!("{} ends the node", tell::event(event))
            });
        } else if !was_shutting_down && matches!(event, Event::Exited { .. } | Event::LaunchFailed { .. }) {
            self.count(Invariant::Essential);
        }
    }

    /// A change of state was told, for the first time.
    pub(super) fn judge_change(&mut self, change: &Change) {
        let word = self.truth_of(&change.unit).word;
        // A boot may lead from anywhere to anywhere: it is told as one step.
        let is_boot = change.cause.kind == CauseKind::Recovery;
        let is_on = word == change.from && (is_boot || is_edge(change.from, change.to));
        self.hold(Invariant::StateMachine, is_on, |_| {
            format!(
                "{} went from {:?} to {:?}, and was {word:?}",
                change.unit, change.from, change.to
            )
        });
        self.truth_of(&change.unit).word = change.to;
        self.note_ready(change);
        if (change.from, change.to) == (Word::Starting, Word::Stopped) {
            // It could not be taken over, and is not wanted up any more.
            self.truth_of(&change.unit).wanted = None;
        }
        self.judge_ready(change);
        self.judge_restart(change);
        self.judge_gates(change);
        self.judge_stop(change);
        if change.to == Word::Stopping
            && change.cause.kind == CauseKind::Probe
            && let Some(life) = change.invocation.and_then(|invocation| self.life(invocation))
        {
            life.is_ill = true;
        }
    }

    /// After a return every process is one unit's, or nobody's and released.
    pub(super) fn check_claims(&mut self) {
        let live: Vec<LaunchId> = self.live.keys().copied().collect();
        for launch in live {
            let claims = self
                .engine
                .processes()
                .filter(|(_, _, p)| p.launch == launch)
                .count();
            self.hold(Invariant::AdoptOrLeave, claims == 1, |_| {
                format!("after a return {launch} lives, and is {claims} units'")
            });
        }
    }

    /// A wake-up before anything is due.
    pub(super) fn wake_for_nothing(&mut self) {
        if self.engine.next_deadline().is_some_and(|at| at <= Mono(self.now)) || self.late.is_some() {
            return;
        }
        let before = self.engine.snapshot();
        self.counts.events += 1;
        self.engine.handle(Mono(self.now), Event::Tick);
        let action = self.engine.poll_action();
        let mut after = self.engine.snapshot();
        after.node.now = before.node.now;
        let is_void = action.is_none() && before == after;
        self.hold(Invariant::TimeoutOnce, is_void, |_| {
            format!("a wake-up before every deadline led to {action:?}")
        });
        if let Some((twin, _)) = &mut self.twin {
            twin.handle(Mono(self.now), Event::Tick);
        }
        if self.is_thorough {
            self.kept.stored.apply(self.engine.take_delta());
        }
    }

    /// News of a life that is over, of one that never was, or of a process of a present life that it has not.
    pub(super) fn tell_stale(&mut self, kind: u64) {
        let serial = kind / 64 % (self.engine.next_invocation + 3);
        let mut invocation = Invocation(serial);
        let mut launch = LaunchId {
            invocation,
            step: (kind / 32 % 3) as u32,
        };
        if self.engine.lives.contains_key(&invocation) {
            launch.step = 5000;
            invocation = Invocation(u64::MAX);
        }
        let text = || "stale".to_owned();
        let event = match kind % 20 {
            0 => Event::Launched {
                launch,
                pid: 5,
                start_time: 5,
                note: None,
            },
            1 => Event::LaunchFailed {
                launch,
                failure: LaunchFailure {
                    text: text(),
                    host: kind & 1 == 0,
                },
            },
            2 => Event::Exited {
                launch,
                exit: Exit::Code(0),
                remains: vec![5],
            },
            3 => Event::Exited {
                launch,
                exit: Exit::Unknown,
                remains: Vec::new(),
            },
            4 => Event::Emptied { launch },
            5 => Event::Lost { launch },
            6 => Event::Unkillable {
                launch,
                remains: vec![5],
            },
            7 => Event::MainFound {
                launch,
                pid: 5,
                start_time: 5,
            },
            8 => Event::MainMissing { launch, why: text() },
            9 => Event::MainChanged {
                launch,
                pid: 5,
                start_time: 5,
            },
            10 => Event::Ready { invocation },
            11 => Event::Stopping { invocation },
            12 => Event::Reloading { invocation, at: None },
            13 => Event::Extend {
                invocation,
                by: Duration::from_secs(3600),
            },
            14 => Event::Probed {
                invocation,
                nr: kind,
                result: ProbeResult::Failed(text()),
            },
            15 => Event::Watchdog { invocation },
            16 => Event::WatchdogTrigger { invocation },
            17 => Event::WatchdogEvery {
                invocation,
                every: Duration::ZERO,
            },
            18 => Event::HealthSaid {
                invocation,
                health: Health::Unhealthy,
                text: None,
            },
            _ => Event::Used {
                launch: LaunchId::main(invocation),
                used: crate::used::Used::default(),
            },
        };
        self.note(|_| format!("(stale) {}", tell::event(&event)));
        let depth = self.kept.depth;
        self.kept.depth = limits::CHECKS_KEPT as u32;
        self.step(Some(event));
        self.kept.depth = depth;
    }
}
