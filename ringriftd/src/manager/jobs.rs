//! Requests whose answer comes later: jobs (start, stop, restart, reload …), waits, and the shutdown. Each holds the
//! client's [`Answers`]; what the engine says is passed on as it happens.
//!
//! A job that came with a token outlives its client and this manager: whoever asks again with the same token is given
//! the same job, or the answer that it had. Nothing is done twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use proto::frame::Token;
use proto::reply::{Adopted, Event, Failure, JobPlan, Outcome, Reply, State};
use proto::request::WaitFor;
use serde::{Deserialize, Serialize};

use crate::clock::Now;
use crate::control::outbox::Answers;
use crate::control::view;
use crate::engine::Engine;
use crate::engine::types::{RequestAnswer, RequestId, UnitAnswer};
use crate::engine::unit::Desired;
use crate::limits;
use crate::spec::UnitName;

/// What of a job outlives the manager.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number.
    pub id: RequestId,
    /// By which its client finds it again.
    pub token: Token,
    /// What it touches.
    pub plan: JobPlan,
    /// The client waits for the verdicts.
    pub waits: bool,
    /// It is an adoption, and this is its answer.
    #[serde(default)]
    pub adopted: Option<Box<Adopted>>,
}

/// The whole answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// By which its client finds it again.
    pub token: Option<Token>,
    /// What was found.
    pub replies: Vec<Reply>,
    /// Why it was not done.
    pub failure: Option<Failure>,
}

impl Answered {
    /// Says it all. Must be called inside a tokio runtime.
    pub fn tell(self, answers: Answers) {
        match self.failure {
            Some(failure) => answers.fail(failure),
            None => answers.stream(self.replies),
        }
    }
}

/// What a token means.
#[derive(Debug)]
pub enum Known {
    /// Nothing: the request is new.
    Not(Answers),
    /// Its job is under way, and this client hears of it from now on.
    UnderWay(RequestId),
    /// It was answered, and has been again.
    Answered,
}

/// A job under way.
#[derive(Debug)]
struct Job {
    answers: Option<Answers>,
    token: Option<Token>,
    plan: JobPlan,
    touched: BTreeSet<String>,
    is_told: bool,
    /// The client waits for the verdicts.
    waits: bool,
    /// An adoption is answered by this in place of verdicts.
    adopted: Option<Box<Adopted>>,
    helpers: Vec<Helper>,
}

impl Job {
    fn new(plan: JobPlan, waits: bool, token: Option<Token>, answers: Option<Answers>) -> Self {
        Self {
            answers,
            token,
            touched: plan.units.iter().chain(&plan.also).cloned().collect(),
            plan,
            is_told: false,
            waits,
            adopted: None,
            helpers: Vec::new(),
        }
    }

    /// Nothing is told of it but its end.
    fn adoption(adopted: Box<Adopted>, token: Option<Token>, answers: Option<Answers>) -> Self {
        let plan = JobPlan {
            units: Vec::new(),
            also: Vec::new(),
        };
        Self {
            adopted: Some(adopted),
            is_told: true,
            ..Self::new(plan, true, token, answers)
        }
    }
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
    answered: VecDeque<Answered>,
    /// Clients that asked for the shutdown.
    pub shutdown: Vec<Answers>,
}

impl Jobs {
    /// Those of an earlier manager; their clients may come again.
    pub fn restore(records: impl IntoIterator<Item = JobRecord>, answered: Vec<Answered>, last: u64) -> Self {
        let job = |record: JobRecord| {
            let token = Some(record.token);
            let job = match record.adopted {
                Some(adopted) => Job::adoption(adopted, token, None),
                None => Job::new(record.plan, record.waits, token, None),
            };
            (record.id, job)
        };
        Self {
            jobs: records.into_iter().map(job).collect(),
            answered: answered.into(),
            next: last,
            ..Self::default()
        }
    }

    /// A fresh number.
    pub fn number(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    /// The last number given.
    pub fn last_number(&self) -> u64 {
        self.next
    }

    /// What can be told again, for a whole picture of the state.
    pub fn records(&self) -> impl Iterator<Item = JobRecord> {
        self.jobs.iter().filter_map(|(id, job)| job.record(*id))
    }

    /// The last answers, the oldest first.
    pub fn answered(&self) -> impl Iterator<Item = &Answered> {
        self.answered.iter()
    }

    /// Gives a client that asks again what it asked for before.
    pub fn find(&mut self, token: Token, answers: Answers) -> Known {
        if let Some((id, job)) = self.jobs.iter_mut().find(|(_, job)| job.token == Some(token)) {
            job.answers = Some(answers);
            job.is_told = job.adopted.is_some();
            job.helpers.clear();
            tell_plan(job);
            return Known::UnderWay(*id);
        }
        match self.answered.iter().find(|known| known.token == Some(token)) {
            Some(known) => {
                known.clone().tell(answers);
                Known::Answered
            }
            None => Known::Not(answers),
        }
    }

    /// A job that the engine is about to be told of. Progress on `plan`'s units goes to the client. Returns what is to
    /// be remembered of it.
    pub fn open(
        &mut self,
        id: RequestId,
        token: Option<Token>,
        plan: JobPlan,
        waits: bool,
        answers: Answers,
    ) -> Option<JobRecord> {
        let job = Job::new(plan, waits, token, Some(answers));
        let record = job.record(id);
        self.jobs.insert(id, job);
        record
    }

    /// The same for an adoption, which is answered by `adopted` with its life.
    pub fn open_adoption(
        &mut self,
        id: RequestId,
        token: Option<Token>,
        adopted: Adopted,
        answers: Answers,
    ) -> Option<JobRecord> {
        let job = Job::adoption(Box::new(adopted), token, Some(answers));
        let record = job.record(id);
        self.jobs.insert(id, job);
        record
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

    /// The answer to a job that the engine has taken without refusing it, where the client does not wait for more.
    pub fn settled(&self, id: RequestId) -> Option<Answered> {
        let job = self.jobs.get(&id).filter(|job| !job.waits)?;
        Some(Answered {
            token: job.token,
            replies: vec![Reply::JobTaken(job.plan.clone())],
            failure: None,
        })
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

    /// The engine's answer as it will be told. Nothing is told yet.
    pub fn answer(&self, id: RequestId, answer: RequestAnswer, now: Now) -> Option<Answered> {
        let job = self.jobs.get(&id)?;
        Some(match answer {
            RequestAnswer::Refused(refusal) => Answered {
                token: job.token,
                replies: Vec::new(),
                failure: Some(view::refusal(&refusal)),
            },
            RequestAnswer::Done(verdicts) => match &job.adopted {
                Some(adopted) => adoption(adopted, job.token, &verdicts),
                None => Answered {
                    token: job.token,
                    replies: verdicts
                        .into_iter()
                        .map(|v| Reply::Verdict(view::verdict(v, now)))
                        .collect(),
                    failure: None,
                },
            },
        })
    }

    /// The job is over: keeps its answer for whoever asks again, and gives whom to tell it now.
    pub fn close(&mut self, id: RequestId, answered: &Answered) -> Option<Answers> {
        let mut job = self.jobs.remove(&id)?;
        if answered.token.is_some() {
            self.keep(answered.clone());
        }
        if answered.failure.is_none() {
            tell_plan(&mut job);
        }
        job.answers.take()
    }

    /// Keeps an answer for whoever asks again with its token.
    pub fn keep(&mut self, answered: Answered) {
        if self.answered.len() == limits::ANSWERS_KEPT {
            self.answered.pop_front();
        }
        self.answered.push_back(answered);
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

    /// The client has gone. True when nobody will ask for the answer: a job with a token is kept for its client to come
    /// again.
    pub fn on_gone(&mut self, id: RequestId) -> bool {
        self.waits.remove(&id);
        let orphans = self.jobs.values().filter(|job| job.answers.is_none()).count();
        if let Some(job) = self.jobs.get_mut(&id)
            && job.token.is_some()
            && orphans < limits::ORPHAN_JOBS_MAX
        {
            job.answers = None;
            job.helpers.clear();
            return false;
        }
        self.jobs.remove(&id).is_some()
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

impl Job {
    fn record(&self, id: RequestId) -> Option<JobRecord> {
        Some(JobRecord {
            id,
            token: self.token?,
            plan: self.plan.clone(),
            waits: self.waits,
            adopted: self.adopted.clone(),
        })
    }
}

fn adoption(adopted: &Adopted, token: Option<Token>, verdicts: &[UnitAnswer]) -> Answered {
    let refused = verdicts.iter().find(|v| v.outcome != Outcome::Done);
    Answered {
        token,
        replies: match refused {
            None => vec![Reply::Adopted(Box::new(adopted.clone()))],
            Some(_) => Vec::new(),
        },
        failure: refused.map(|v| {
            let mut failure = view::refused(1, format!("cannot take over pid {}: {}", adopted.pid, v.text));
            failure.unit = Some(adopted.unit.clone());
            failure
        }),
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
        let word = unit.word;
        let is_up = matches!(word, State::Running | State::Reloading | State::Completed);
        match wait.target {
            WaitFor::Running if is_up => {}
            WaitFor::Running => {
                is_reached = false;
                if word == State::Held {
                    return Some(Err(hopeless(name, "it is held")));
                }
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
