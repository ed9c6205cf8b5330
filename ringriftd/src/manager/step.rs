//! From an event to what is done about it: the engine decides, what it decided is remembered, and only then anything
//! happens.
//!
//! Read first: [`Manager::tell`] and [`Manager::commit`].

use std::sync::Arc;

use proto::reply::Reply;

use super::core::Manager;
use super::jobs::Answered;
use super::logs::drops_of;
use super::memory::{self, Base, Order, STATE_VERSION, Step};
use super::probes::Question;
use crate::clock::Now;
use crate::control::outbox::Answers;
use crate::control::view::summary;
use crate::counts::Logged;
use crate::engine::types::{Action, Event, RequestId, Role};
use crate::heap;
use crate::ids::LaunchId;
use crate::keeper::wire::{Adopt, LogCount, ToKeeper};
use crate::limits;
use crate::spec::{UnitName, UnitSpec};

/// An action of the engine's with the numbers by which the world knows it.
enum Deed {
    Launch {
        launch: LaunchId,
        role: Role,
        spec: Arc<UnitSpec>,
    },
    Signal(Order),
    Destroy(LaunchId),
    FindMain(LaunchId),
    Adopt(Box<Adopt>),
    Release(LaunchId),
    Probe(Box<Question>),
    Answer(RequestId, Answered),
    Emit(Arc<proto::reply::Event>),
    Finish(u8),
    /// Nobody waits for it any more.
    Nothing,
}

impl Manager {
    /// Tells the engine what happened, now, and does all that it asks for.
    pub(super) fn tell(&mut self, event: Event) {
        let now = self.clock.now();
        self.judge_lateness(now);
        self.engine.handle(now.mono, event);
        self.step(now);
    }

    /// One that finds itself long past a deadline was stopped, or the machine slept (fault B8): what was said meanwhile waits
    /// in sockets, and is heard before any deadline counts.
    fn judge_lateness(&mut self, now: Now) {
        match self.late {
            Some(until) if now.mono < until => {}
            Some(_) => {
                self.late = None;
                self.engine.pause_deadlines(false);
            }
            None => {
                let deadline = self.engine.next_deadline();
                if deadline.is_some_and(|at| now.mono > at.after(limits::LATE_AFTER)) {
                    self.listen_first(now);
                }
            }
        }
    }

    /// No deadline counts for a moment.
    pub(super) fn listen_first(&mut self, now: Now) {
        self.late = Some(now.mono.after(limits::LATE_GRACE));
        self.engine.pause_deadlines(true);
    }

    /// Remembers what the engine decided, and then does it: a manager that dies in between leaves a successor that knows.
    pub(super) fn step(&mut self, now: Now) {
        let mut todo = Vec::new();
        while let Some(action) = self.engine.poll_action() {
            todo.push(self.foresee(action, now));
        }
        let is_ready = !self.is_announced && self.engine.is_settled() && !self.engine.is_shutting_down();
        self.pending.is_announced = is_ready;
        self.commit(now);
        for deed in todo {
            self.obey(deed);
        }
        self.complete_capsules();
        self.jobs.look(&self.engine);
        if !self.stored.is_empty() {
            self.drop_stored();
        }
        if is_ready {
            self.announce_ready();
        }
        self.run_hooks();
    }

    fn announce_ready(&mut self) {
        self.is_announced = true;
        // What the beginning needed.
        heap::give_back();
        self.send(&ToKeeper::Announce {
            text: "READY=1\nSTATUS=every wanted unit was started".to_owned(),
        });
        let sum = summary(&self.engine);
        let up = sum.running + sum.completed;
        tracing::info!(
            "{up} of {} wanted units are up; ringriftctl status shows them",
            sum.wanted
        );
    }

    /// What an action comes to, with the numbers by which it is known, and what has to be remembered of it.
    fn foresee(&mut self, action: Action, now: Now) -> Deed {
        match action {
            Action::Signal {
                launch,
                signal,
                scope,
            } => {
                self.last_order += 1;
                let order = Order {
                    order: self.last_order,
                    launch,
                    signal,
                    scope,
                };
                self.pending.orders.push(order.clone());
                self.orders.push_back(order.clone());
                if self.orders.len() > limits::ORDERS_KEPT {
                    self.orders.pop_front();
                }
                Deed::Signal(order)
            }
            Action::Reply { id, answer } => match self.jobs.answer(id, answer, now) {
                Some(mut answered) => {
                    self.name_adopted_life(&mut answered);
                    self.pending.closed.push(id);
                    if answered.token.is_some() {
                        self.pending.answered.push(answered.clone());
                    }
                    Deed::Answer(id, answered)
                }
                None => Deed::Nothing,
            },
            Action::Emit(change) => {
                let event = self.events.stamp(change, now, self.hello.seed);
                self.pending.events.push((*event).clone());
                if let Some(hook) = &self.loaded.plan.node.on_event
                    && self.hooks.hear(hook, &event)
                {
                    self.pending.hooks = Some(self.hooks.state().clone());
                }
                Deed::Emit(event)
            }
            Action::AdoptForeign {
                launch,
                pid,
                start_time,
                spec,
            } => {
                let record = self.launches.adopt_foreign(launch, spec);
                let adopt = record.adopt(Some((pid, start_time)), false);
                self.pending.launches.push(record);
                Deed::Adopt(Box::new(adopt))
            }
            Action::Release { launch } => {
                self.pending.released.push(launch);
                Deed::Release(launch)
            }
            Action::Launch { launch, role, spec } => {
                if launch.is_main() && self.said.remove(&spec.name).is_some() {
                    self.pending.said.push((spec.name.clone(), None));
                }
                Deed::Launch { launch, role, spec }
            }
            Action::Destroy { launch } => Deed::Destroy(launch),
            Action::Probe {
                invocation,
                nr,
                probe,
                timeout,
                since,
                spec,
            } => Deed::Probe(Box::new(Question {
                invocation,
                nr,
                probe,
                timeout,
                since,
                spec,
            })),
            Action::FindMain { launch, .. } => Deed::FindMain(launch),
            Action::Finish { code } => Deed::Finish(code),
            Action::Worked { unit, invocation } => {
                self.note_worked(unit, invocation, now);
                Deed::Nothing
            }
            Action::Failed(failure) => {
                self.note_failure(&failure, now);
                Deed::Nothing
            }
        }
    }

    /// An adoption's answer was written before the life had a number.
    fn name_adopted_life(&self, answered: &mut Answered) {
        for reply in &mut answered.replies {
            if let Reply::Adopted(adopted) = reply {
                let life = UnitName::new(&adopted.unit).and_then(|name| {
                    self.engine
                        .find(&name)?
                        .1
                        .state
                        .life()
                        .map(|life| life.invocation)
                });
                adopted.invocation =
                    life.map(|invocation| crate::ids::invocation_text(self.hello.seed, invocation));
            }
        }
    }

    fn obey(&mut self, deed: Deed) {
        match deed {
            Deed::Launch { launch, role, spec } => self.launches.prepare(launch, role, spec),
            Deed::Signal(order) => self.send_order(&order),
            Deed::Destroy(launch) => self.send(&ToKeeper::Destroy { id: launch }),
            Deed::FindMain(launch) => self.launches.find_main(launch),
            Deed::Probe(question) => {
                let now = self.clock.now();
                self.ask_probe(*question, now);
            }
            Deed::Adopt(adopt) => self.send(&ToKeeper::Adopt(adopt)),
            Deed::Release(launch) => {
                self.launches.forget(launch);
                self.send(&ToKeeper::Release { id: launch });
            }
            Deed::Answer(id, answered) => {
                if let Some(answers) = self.jobs.close(id, &answered) {
                    self.answer_when_safe(answered, answers);
                }
            }
            Deed::Emit(event) => {
                self.remember.event(&event);
                self.events.tell(&event);
                log_event(&event);
                self.jobs.on_event(&event);
            }
            Deed::Finish(code) => self.end = Some(code),
            Deed::Nothing => {}
        }
    }

    /// Keeps what has happened since the last time: from here on it has.
    pub(super) fn commit(&mut self, now: Now) {
        let delta = self.engine.take_delta();
        if !delta.is_empty() {
            self.pending.engine = Some(delta);
        }
        if self.pending.is_empty() {
            return;
        }
        let mut step = std::mem::take(&mut self.pending);
        step.at = (now.mono.0, now.wall_us);
        let is_announced = step.is_announced;
        step.count(&mut self.counts);
        let wants_base = self.remember.append(&step);
        self.publish(&step, now);
        if wants_base {
            let mut whole = self.whole(now);
            // What is about to be done is not in the picture yet.
            whole.events.extend(step.events);
            whole.is_announced |= is_announced;
            for id in &step.closed {
                whole.jobs.remove(&id.0);
            }
            let is_new = |known: &Answered, all: &[Answered]| all.iter().all(|k| k.token != known.token);
            for answered in step.answered {
                if is_new(&answered, &whole.answered) {
                    whole.answered.push(answered);
                }
            }
            memory::keep_last(&mut whole.answered, limits::ANSWERS_KEPT);
            for launch in &step.released {
                whole.launches.remove(&memory::key(*launch));
            }
            self.remember.rebase(&whole);
        }
    }

    /// Keeps what was only counted (requests, lines of logs), if anything was since the last step.
    pub(super) fn commit_counts(&mut self, now: Now) {
        if !self.pending.has_counts() {
            return;
        }
        self.commit(now);
        // Unless they went along with something else.
        if !self.pending.has_counts() {
            return;
        }
        let Step {
            requests,
            logged,
            http,
            ..
        } = &mut self.pending;
        let step = Step {
            at: (now.mono.0, now.wall_us),
            requests: std::mem::take(requests),
            logged: logged.take(),
            http: std::mem::take(http),
            ..Step::default()
        };
        step.count(&mut self.counts);
        if self.remember.append(&step) {
            let whole = self.whole(now);
            self.remember.rebase(&whole);
        }
    }

    /// The logger has counted. It is kept, and then shown, with what else there is to be shown.
    pub(super) fn on_logged(&mut self, logger: u64, units: Vec<LogCount>) {
        let now = self.clock.now();
        if self.pending.logged.as_ref().is_some_and(|of| of.logger != logger) {
            self.commit_counts(now);
        }
        let told = self.pending.logged.get_or_insert_default();
        told.logger = logger;
        let mut dropping = Vec::new();
        for count in units {
            // The keeper passes names of units on; another one is nobody's.
            if let Some(name) = UnitName::new(&count.unit) {
                let logged = Logged {
                    bytes: count.bytes,
                    lines: count.lines,
                    lost: count.lost,
                    lost_lines: count.lost_lines,
                    is_blocked: count.is_blocked,
                };
                let of = self.counts.units.get(&name).copied().unwrap_or_default();
                let news = drops_of(of.drops, of.logged(logger, logged), now);
                dropping.extend(news.into_iter().map(|news| (name.clone(), news)));
                told.units.insert(name, logged);
            }
        }
        self.shown.owe(now);
        for (unit, (is_over, text)) in dropping {
            self.tell(Event::LogDrops { unit, is_over, text });
        }
    }

    /// Everything that is to be remembered.
    pub(super) fn whole(&self, now: Now) -> Base {
        Base {
            version: STATE_VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.boot.clone(),
            seed: self.hello.seed,
            at: (now.mono.0, now.wall_us),
            started: (self.started.mono.0, self.started.wall_us),
            has_ended: false,
            files: Arc::clone(self.loaded.files()),
            profiles: self.profiles.clone(),
            engine: self.engine.snapshot(),
            launches: self
                .launches
                .records()
                .map(|record| (memory::key(record.id), record.clone()))
                .collect(),
            said: self.said.clone(),
            jobs: self.jobs.records().map(|job| (job.id.0, job)).collect(),
            answered: self.jobs.answered().cloned().collect(),
            last_request: self.jobs.last_number(),
            orders: self.orders.iter().cloned().collect(),
            last_order: self.last_order,
            events: self.events.last(limits::EVENTS_REMEMBERED),
            is_announced: self.is_announced,
            upgrade: self.upgrade.clone(),
            hooks: self.hooks.state().clone(),
            counts: self.counts.clone(),
            capsules: self.capsules.clone(),
        }
    }

    /// Tells a client what came of its request, once the disk has it: what is acknowledged survives the machine. Where
    /// the disk cannot, the answer says so.
    pub(super) fn answer_when_safe(&self, answered: Answered, answers: Answers) {
        let promise = match (&answered.token, &answered.failure) {
            (Some(_), None) => self.remember.promise(),
            (None, _) | (_, Some(_)) => None,
        };
        let Some(promise) = promise else {
            return answered.tell(answers);
        };
        tokio::spawn(async move {
            let kept = match tokio::time::timeout(limits::PROMISE_TIMEOUT, promise).await {
                Ok(Ok(Ok(()))) => None,
                Ok(Ok(Err(why))) => Some(why),
                Ok(Err(_)) => Some("the writer of the state has ended".to_owned()),
                Err(_) => Some("the disk takes too long".to_owned()),
            };
            if let Some(why) = kept {
                let text = format!(
                    "done, but it is not on disk, and will not survive a crash of all of ringriftd or of the machine: {why}"
                );
                // A client that is gone needs no warning.
                let _ = answers.send(&Reply::Warning(text)).await;
            }
            answered.tell(answers);
        });
    }

    pub(super) fn send_order(&mut self, order: &Order) {
        self.send(&ToKeeper::Signal {
            id: order.launch,
            signal: order.signal,
            scope: order.scope,
            order: order.order,
        });
    }
}

/// One line for each change, as loud as it is bad.
fn log_event(event: &proto::reply::Event) {
    let (unit, why) = (&event.unit, &event.cause.text);
    match event.event.as_str() {
        "DAEMON_FAILED" | "DAEMON_CRASH_LOOP_DETECTED" | "DAEMON_PERMANENTLY_FAILED" => {
            tracing::warn!("{unit}: {}: {why}", event.event);
        }
        "DAEMON_READY" | "DAEMON_STOPPED" | "DAEMON_RESTARTING" => {
            tracing::info!("{unit}: {}: {why}", event.event)
        }
        _ => tracing::debug!("{unit}: {}: {why}", event.event),
    }
}
