//! `daemon-reload`: the files are read off the loop, and taken all or not at all.

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

impl Manager {
    /// Reads the files off the loop; one reload at a time.
    pub(super) fn begin_reload(&mut self, token: Option<Token>, answers: Option<Answers>) {
        if self.is_reloading || self.engine.is_shutting_down() {
            if let Some(answers) = answers {
                let why = if self.is_reloading {
                    "another reload is under way"
                } else {
                    "it is shutting down"
                };
                answers.fail(refused(7, why.to_owned()));
            }
            return;
        }
        self.is_reloading = true;
        let (places, profiles, inside) = (self.places.clone(), self.profiles.clone(), self.inside.clone());
        tokio::spawn(async move {
            let work = tokio::task::spawn_blocking(move || config::load(&places, &profiles));
            match work.await {
                Ok(result) => {
                    let _ = inside
                        .send(Inside::Loaded {
                            result: Box::new(result),
                            token,
                            answers,
                        })
                        .await;
                }
                Err(e) => tracing::error!("the reload's task failed: {e}"),
            }
        });
    }

    /// All or nothing.
    pub(super) fn on_reloaded(
        &mut self,
        result: Result<Loaded, Report>,
        token: Option<Token>,
        answers: Option<Answers>,
    ) {
        self.is_reloading = false;
        let result = result.and_then(|loaded| match loaded.plan.node.http.at(self.door.flag.as_ref()) {
            Ok(http) => Ok((loaded, http)),
            Err(why) => Err(Report {
                faults: vec![Diagnostic::homeless(format!("--http: {why}"))],
                warnings: Vec::new(),
            }),
        });
        let answered = match result {
            Ok((loaded, http)) => {
                let before = std::mem::replace(&mut self.loaded, loaded);
                self.pending.files = Some(Arc::clone(self.loaded.files()));
                self.engine.runs_by(Arc::clone(self.loaded.files()));
                self.tell(Event::Loaded(Arc::clone(&self.loaded.plan)));
                let now = self.clock.now();
                self.publish_all(now);
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
                Answered {
                    token,
                    replies: vec![Reply::Reloaded(did)],
                    failure: None,
                }
            }
            Err(report) => {
                tracing::error!("daemon-reload refused, nothing has changed:\n{report}");
                Answered {
                    token,
                    replies: Vec::new(),
                    failure: Some(Failure {
                        code: CONFIG,
                        message: match report.faults.len() {
                            1 => "1 fault; nothing has changed".to_owned(),
                            n => format!("{n} faults; nothing has changed"),
                        },
                        unit: None,
                        hint: Some("ringriftctl check shows them too".to_owned()),
                        details: report.faults.iter().map(ToString::to_string).collect(),
                    }),
                }
            }
        };
        if answered.token.is_some() {
            self.jobs.keep(answered.clone());
            self.pending.answered.push(answered.clone());
            let now = self.clock.now();
            self.commit(now);
        }
        if let Some(answers) = answers {
            self.answer_when_safe(answered, answers);
        }
    }
}
