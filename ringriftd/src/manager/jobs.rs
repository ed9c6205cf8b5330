//! Requests whose answer comes later: jobs (start, stop, restart, reload), waits, and the shutdown. Each holds the
//! client's [`Answers`]; what the engine says is passed on as it happens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::reply::{Event, Failure, JobPlan, Reply, State};
use proto::request::WaitFor;

use crate::clock::Now;
use crate::control::outbox::Answers;
use crate::control::view;
use crate::engine::Engine;
use crate::engine::types::{RequestAnswer, RequestId};
use crate::engine::unit::Desired;
use crate::spec::UnitName;

/// A job under way.
#[derive(Debug)]
struct Job {
    answers: Option<Answers>,
    plan: JobPlan,
    touched: BTreeSet<String>,
    is_told: bool,
    /// The client waits for the verdicts.
    waits: bool,
    helpers: Vec<Helper>,
}

/// A task that only lives for a job: its timeout, or the watch over its client.
#[derive(Debug)]
struct Helper(tokio::task::JoinHandle<()>);

impl Drop for Helper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A `wait` under way.
#[derive(Debug)]
struct Wait {
    answers: Option<Answers>,
    units: Vec<UnitName>,
    target: WaitFor,
    helpers: Vec<Helper>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Jobs {
    jobs: BTreeMap<RequestId, Job>,
    waits: BTreeMap<RequestId, Wait>,
    next: u64,
    /// Clients that asked for the shutdown.
    pub shutdown: Vec<Answers>,
}

impl Jobs {
    /// A fresh number.
    pub fn number(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    /// A job that the engine is about to be told of. Progress on `plan`'s units goes to the client.
    pub fn open(&mut self, id: RequestId, plan: JobPlan, waits: bool, answers: Answers) {
        let touched = plan.units.iter().chain(&plan.also).cloned().collect();
        self.jobs.insert(
            id,
            Job {
                answers: Some(answers),
                plan,
                touched,
                is_told: false,
                waits,
                helpers: Vec::new(),
            },
        );
    }

    /// Ends `task` when the job or wait ends; at once when it has ended already.
    pub fn attach(&mut self, id: RequestId, task: tokio::task::JoinHandle<()>) {
        let helper = Helper(task);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.helpers.push(helper);
        } else if let Some(wait) = self.waits.get_mut(&id) {
            wait.helpers.push(helper);
        }
    }

    /// The engine has taken the job without refusing it: a client that does not wait has its answer. True when the
    /// engine need not answer any more.
    pub fn settle(&mut self, id: RequestId) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else {
            return false;
        };
        tell_plan(job);
        if job.waits {
            return false;
        }
        if let Some(answers) = job.answers.take() {
            answers.end();
        }
        self.jobs.remove(&id);
        true
    }

    /// Something happened to a unit. Clients too slow for progress miss it; the verdict never.
    pub fn on_event(&mut self, event: &Arc<Event>) {
        for job in self
            .jobs
            .values_mut()
            .filter(|job| job.touched.contains(&event.unit))
        {
            tell_plan(job);
            if let Some(answers) = &job.answers {
                let _ = answers.try_send(&Reply::Event(Box::new(Event::clone(event))));
            }
        }
    }

    /// The engine's answer.
    pub fn on_reply(&mut self, id: RequestId, answer: RequestAnswer, now: Now) {
        let Some(mut job) = self.jobs.remove(&id) else {
            return;
        };
        if let RequestAnswer::Refused(refusal) = &answer {
            if let Some(answers) = job.answers.take() {
                answers.fail(view::refusal(refusal));
            }
            return;
        }
        tell_plan(&mut job);
        let (Some(answers), RequestAnswer::Done(verdicts)) = (job.answers.take(), answer) else {
            return;
        };
        answers.stream(
            verdicts
                .into_iter()
                .map(move |v| Reply::Verdict(view::verdict(v, now))),
        );
    }

    /// Its time is up; it goes on without its client.
    pub fn on_timeout(&mut self, id: RequestId) {
        let answers = match self.jobs.remove(&id) {
            Some(mut job) => job.answers.take(),
            None => self.waits.remove(&id).and_then(|mut wait| wait.answers.take()),
        };
        if let Some(answers) = answers {
            answers.fail(Failure {
                code: 124,
                message: "the time is up; the job goes on".to_owned(),
                unit: None,
                hint: Some("ringriftctl status shows how far it is".to_owned()),
                details: Vec::new(),
            });
        }
    }

    /// The client has gone.
    pub fn forget(&mut self, id: RequestId) {
        self.jobs.remove(&id);
        self.waits.remove(&id);
    }

    /// Waits until `units` are as `target` says; looked at after each step.
    pub fn wait(&mut self, id: RequestId, units: Vec<UnitName>, target: WaitFor, answers: Answers) {
        self.waits.insert(
            id,
            Wait {
                answers: Some(answers),
                units,
                target,
                helpers: Vec::new(),
            },
        );
    }

    /// Gives every wait its verdict that is due.
    pub fn look(&mut self, engine: &Engine) {
        self.waits.retain(|_, wait| {
            let verdict = judge_wait(engine, wait);
            if let (Some(verdict), Some(answers)) = (&verdict, wait.answers.take_if(|_| verdict.is_some())) {
                match verdict {
                    Ok(()) => answers.end(),
                    Err(failure) => answers.fail(failure.clone()),
                }
            }
            verdict.is_none()
        });
    }
}

fn tell_plan(job: &mut Job) {
    if !std::mem::replace(&mut job.is_told, true)
        && let Some(answers) = &job.answers
    {
        // The first frame of an answer always has room.
        let _ = answers.try_send(&Reply::JobTaken(job.plan.clone()));
    }
}

/// Reached, never to be reached by itself, or open.
fn judge_wait(engine: &Engine, wait: &Wait) -> Option<Result<(), Failure>> {
    let mut is_reached = true;
    for name in &wait.units {
        let Some((_, unit)) = engine.find(name) else {
            return Some(Err(hopeless(name, "its file is gone")));
        };
        let word = unit.state.word();
        let is_up = matches!(word, State::Running | State::Reloading | State::Completed);
        match wait.target {
            WaitFor::Running if is_up => {}
            WaitFor::Running => {
                is_reached = false;
                if word == State::Failed && engine.next_try(engine.graph().find(name)?).is_none() {
                    return Some(Err(hopeless(name, "it has failed for good")));
                }
                if word == State::Stopped && unit.desired == Desired::Down {
                    return Some(Err(hopeless(name, "it is stopped, and nobody wants it up")));
                }
            }
            WaitFor::Stopped
                if unit.state.life().is_none() && !matches!(word, State::Waiting | State::Backoff) => {}
            WaitFor::Stopped => is_reached = false,
            WaitFor::Failed if word == State::Failed => {}
            WaitFor::Failed => is_reached = false,
        }
    }
    is_reached.then_some(Ok(()))
}

fn hopeless(unit: &UnitName, why: &str) -> Failure {
    Failure {
        code: 1,
        message: format!("{unit} will not get there by itself: {why}"),
        unit: Some(unit.to_string()),
        hint: Some(format!("ringriftctl status {unit}")),
        details: Vec::new(),
    }
}
