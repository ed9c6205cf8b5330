//! `ringriftctl upgrade`: the program is opened here, once, and the keeper does the rest. This process does not live to see
//! it succeed: the manager of the new program, or of the old one that is back, answers whoever asks again.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use proto::frame::Token;
use proto::reply::{Reply, Upgraded};
use serde::{Deserialize, Serialize};

use super::candidate;
use super::core::{Inside, Manager};
use super::jobs::Answered;
use crate::control::outbox::Answers;
use crate::control::view::refused;
use crate::keeper::upgrade::outcome;
use crate::keeper::wire::ToKeeper;

/// An upgrade that the keeper was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeRecord {
    /// By which its client finds it again.
    pub token: Option<Token>,
}

/// What happened to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpgradeChange {
    /// The keeper is about to be asked.
    Begun(UpgradeRecord),
    /// It was answered.
    Over,
}

/// A program that was opened, or why it was not.
pub(super) struct Candidate {
    result: Result<OwnedFd, String>,
    token: Option<Token>,
    answers: Answers,
}

impl Manager {
    pub(super) fn begin_upgrade(&mut self, binary: Option<String>, token: Option<Token>, answers: Answers) {
        if self.upgrade.is_some() {
            return answers.fail(refused(7, "another upgrade is under way".to_owned()));
        }
        if self.engine.is_shutting_down() {
            return answers.fail(refused(7, "ringriftd is shutting down".to_owned()));
        }
        let inside = self.inside.clone();
        tokio::spawn(async move {
            let path = binary.map(PathBuf::from);
            let open = tokio::task::spawn_blocking(move || candidate::open(path.as_deref()));
            let result = open
                .await
                .unwrap_or_else(|e| Err(format!("cannot open the program: {e}")));
            let candidate = Candidate {
                result,
                token,
                answers,
            };
            // A manager that is ending answers by dropping it.
            let _ = inside.send(Inside::Candidate(Box::new(candidate))).await;
        });
    }

    pub(super) fn on_candidate(&mut self, candidate: Candidate) {
        let Candidate {
            result,
            token,
            answers,
        } = candidate;
        let program = match result {
            Ok(program) => program,
            Err(why) => return answers.fail(refused(1, why)),
        };
        if self.upgrade.is_some() {
            return answers.fail(refused(7, "another upgrade is under way".to_owned()));
        }
        let record = UpgradeRecord { token };
        self.upgrade = Some(record.clone());
        self.upgrade_answers = Some(answers);
        self.pending.upgrade = Some(UpgradeChange::Begun(record));
        let now = self.clock.now();
        self.commit(now);
        if let Err(e) = self.keeper.send(&ToKeeper::Upgrade, vec![program]) {
            self.on_upgrade_refused(&format!("cannot pass the program to the keeper: {e}"));
        }
    }

    /// The client of an upgrade that is under way is there again.
    pub(super) fn is_upgrade(&self, token: Token) -> bool {
        self.upgrade
            .as_ref()
            .is_some_and(|upgrade| upgrade.token == Some(token))
    }

    pub(super) fn on_upgrade_refused(&mut self, why: &str) {
        let text = format!("not upgraded, and everything goes on as it was: {why}");
        self.conclude_upgrade(Err(text));
    }

    /// The keeper said, with its first word, how an upgrade that an earlier manager asked for went.
    pub(super) fn note_upgrade(&mut self) {
        let note = self.hello.note.clone().unwrap_or_default();
        match outcome(&note) {
            None if self.hello.is_fresh => {
                let why = "not upgraded: the new program died as the keeper, and the one before took its place; every unit \
                           goes on";
                self.conclude_upgrade(Err(why.to_owned()));
            }
            // The upgrade's own verdict is still to come.
            None => {}
            Some(Ok((from, to))) => {
                let upgraded = Upgraded {
                    from: from.to_owned(),
                    to: to.to_owned(),
                };
                self.conclude_upgrade(Ok(upgraded));
            }
            Some(Err(why)) => self.conclude_upgrade(Err(why.to_owned())),
        }
        if outcome(&note).is_some() {
            // A later upgrade must not be answered by it.
            self.send(&ToKeeper::NoteTaken);
        }
    }

    fn conclude_upgrade(&mut self, result: Result<Upgraded, String>) {
        let Some(upgrade) = self.upgrade.take() else {
            return;
        };
        let (replies, failure) = match result {
            Ok(upgraded) => (vec![Reply::Upgraded(upgraded)], None),
            Err(why) => (Vec::new(), Some(refused(1, why))),
        };
        let answered = Answered {
            token: upgrade.token,
            replies,
            failure,
        };
        self.pending.upgrade = Some(UpgradeChange::Over);
        if answered.token.is_some() {
            self.jobs.keep(answered.clone());
            self.pending.answered.push(answered.clone());
        }
        let now = self.clock.now();
        self.commit(now);
        if let Some(answers) = self.upgrade_answers.take() {
            answered.tell(answers);
        }
    }
}
