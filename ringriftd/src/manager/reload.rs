//! `daemon-reload` and SIGHUP: the files are read off the loop, and taken all or not at all.
//!
//! One reading at a time. Who asks while one is under way may have changed a file that it has read already, so there is
//! another after it, for all who asked meanwhile. A signal counts as taken when its reading is over: a manager that dies
//! before leaves it to the next one.

use std::sync::Arc;

use proto::frame::Token;
use proto::reply::{Failure, Reply};

use super::core::{CONFIG, Inside, Manager};
use super::jobs::Answered;
use crate::config::diagnostic::Diagnostic;
use crate::config::{self, Loaded, Report};
use crate::control::outbox::Answers;
use crate::control::view::{refused, reloaded};
use crate::engine::types::Event;
use crate::heap;
use crate::keeper::wire::ToKeeper;
use crate::limits;

/// Who wants the files read.
#[derive(Debug)]
pub(super) enum Asker {
    /// A client, who waits for the answer.
    Client {
        /// Its request's.
        token: Option<Token>,
        /// Where the answer goes.
        answers: Answers,
    },
    /// The signal of this number, by way of the keeper.
    Signal(u64),
    /// A signal to the manager itself.
    Own,
    /// The start of ringriftd over units that were left alive.
    Start,
}

/// The reading that is under way.
#[derive(Debug, Default)]
pub(super) struct Reload {
    /// For whom; nobody: none is under way.
    asked: Vec<Asker>,
    /// Who has asked since it began.
    next: Vec<Asker>,
}

impl Reload {
    /// The signals, by number, that are not taken yet.
    pub(super) fn untaken(&self) -> impl Iterator<Item = u64> {
        let all = self.asked.iter().chain(&self.next);
        all.filter_map(|asker| match asker {
            Asker::Signal(number) => Some(*number),
            Asker::Client { .. } | Asker::Own | Asker::Start => None,
        })
    }
}

impl Manager {
    /// Reads the files off the loop, now or after the reading that is under way.
    pub(super) fn begin_reload(&mut self, asker: Asker) {
        if self.engine.is_shutting_down() {
            return self.refuse_reload(asker, "it is shutting down");
        }
        if self.reload.asked.is_empty() {
            self.reload.asked.push(asker);
            return self.read_files();
        }
        if self.reload.next.len() == limits::RELOADS_WAITING {
            return self.refuse_reload(asker, "too many wait for a reload already");
        }
        self.reload.next.push(asker);
    }

    fn refuse_reload(&mut self, asker: Asker, why: &str) {
        match asker {
            Asker::Client { answers, .. } => answers.fail(refused(7, why.to_owned())),
            Asker::Signal(number) => {
                tracing::warn!("SIGHUP: no reload: {why}");
                self.send(&ToKeeper::SignalTaken { number });
            }
            Asker::Own | Asker::Start => tracing::warn!("no reload: {why}"),
        }
    }

    fn read_files(&self) {
        let (places, profiles, inside) = (self.places.clone(), self.profiles.clone(), self.inside.clone());
        tokio::spawn(async move {
            let work = tokio::task::spawn_blocking(move || config::load(&places, &profiles));
            let result = work.await.unwrap_or_else(|e| {
                Err(Report {
                    faults: vec![Diagnostic::homeless(format!("the files could not be read: {e}"))],
                    warnings: Vec::new(),
                })
            });
            // Nobody listens any more: the node ends.
            let _ = inside.send(Inside::Loaded(Box::new(result))).await;
        });
    }

    /// All or nothing.
    pub(super) fn on_reloaded(&mut self, result: Result<Loaded, Report>) {
        let result = result.and_then(|loaded| match loaded.plan.node.http.at(self.door.flag.as_ref()) {
            Ok(http) => Ok((loaded, http)),
            Err(why) => Err(Report {
                faults: vec![Diagnostic::homeless(format!("--http: {why}"))],
                warnings: Vec::new(),
            }),
        });
        let (replies, failure) = match result {
            Ok((loaded, http)) => {
                let before = std::mem::replace(&mut self.loaded, loaded);
                self.pending.files = Some(Arc::clone(self.loaded.files()));
                self.engine.runs_by(Arc::clone(self.loaded.files()));
                self.tell(Event::Loaded(Arc::clone(&self.loaded.plan)));
                let now = self.clock.now();
                self.publish_all(now);
                self.bound_logs();
                if self.door.spec != http {
                    self.door.spec = http;
                    self.ask_for_door();
                }
                let engine = &self.engine;
                self.capsules.retain(|unit| engine.find(unit).is_some());
                let did = reloaded(&before, &self.loaded, &self.engine);
                tracing::info!(
                    "reloaded: {} added, {} removed, {} need a restart",
                    did.added.len(),
                    did.removed.len(),
                    did.needs_restart.len()
                );
                if !did.added.is_empty() {
                    self.renew_followers();
                }
                drop(before);
                heap::give_back();
                (vec![Reply::Reloaded(did)], None)
            }
            Err(report) => {
                tracing::error!("daemon-reload refused, nothing has changed:\n{report}");
                let failure = Failure {
                    code: CONFIG,
                    message: match report.faults.len() {
                        1 => "1 fault; nothing has changed".to_owned(),
                        n => format!("{n} faults; nothing has changed"),
                    },
                    unit: None,
                    hint: Some("ringriftctl check shows them too".to_owned()),
                    details: report.faults.iter().map(ToString::to_string).collect(),
                };
                (Vec::new(), Some(failure))
            }
        };
        let next = std::mem::take(&mut self.reload.next);
        let asked = std::mem::replace(&mut self.reload.asked, next);
        for asker in asked {
            match asker {
                Asker::Client { token, answers } => {
                    let answered = Answered {
                        token,
                        replies: replies.clone(),
                        failure: failure.clone(),
                    };
                    self.keep_answer(&answered);
                    self.answer_when_safe(answered, answers);
                }
                Asker::Signal(number) => self.send(&ToKeeper::SignalTaken { number }),
                Asker::Own | Asker::Start => {}
            }
        }
        if !self.reload.asked.is_empty() {
            self.read_files();
        }
    }

    /// Who asks again with the same token gets the same answer.
    fn keep_answer(&mut self, answered: &Answered) {
        if answered.token.is_some() {
            self.jobs.keep(answered.clone());
            self.pending.answered.push(answered.clone());
            let now = self.clock.now();
            self.commit(now);
        }
    }
}
