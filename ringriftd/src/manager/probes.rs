//! Questions under way to units: each is a task of its own that reports back as [`News::Probed`]. What the engine asks of
//! the logger goes through the manager's link to it, and is waited for here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::core::Manager;
use super::launches::News;
use crate::clock::Now;
use crate::engine::types::{Mono, ProbeResult, Role};
use crate::host::prepare::Preparer;
use crate::host::probe::Prober;
use crate::ids::{Invocation, LaunchId};
use crate::keeper::wire::{LogQuery, LogTail};
use crate::limits;
use crate::spec::{Probe, UnitSpec};

/// One question.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) invocation: Invocation,
    pub(super) nr: u64,
    pub(super) probe: Probe,
    pub(super) timeout: Duration,
    pub(super) since: Option<Mono>,
    pub(super) spec: Arc<UnitSpec>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Probes {
    prober: Prober,
    news: mpsc::Sender<News>,
    /// One of each life at most.
    open: BTreeMap<Invocation, JoinHandle<()>>,
}

impl Probes {
    pub(super) fn new(preparer: Preparer, news: mpsc::Sender<News>) -> Self {
        Self {
            prober: Prober::new(preparer),
            news,
            open: BTreeMap::new(),
        }
    }

    fn begin(&mut self, question: Question, line: Option<oneshot::Receiver<LogTail>>) {
        self.open.retain(|_, task| !task.is_finished());
        let (prober, news) = (self.prober.clone(), self.news.clone());
        let (invocation, nr) = (question.invocation, question.nr);
        let task = tokio::spawn(async move {
            let result = match line {
                Some(line) => look_for_line(line, question.timeout).await,
                None => {
                    let launch = LaunchId::main(invocation);
                    prober
                        .ask(
                            question.spec,
                            launch,
                            Role::Probe,
                            question.probe,
                            question.timeout,
                        )
                        .await
                }
            };
            // A manager that is ending no longer listens.
            let _ = news
                .send(News::Probed {
                    invocation,
                    nr,
                    result,
                })
                .await;
        });
        if let Some(older) = self.open.insert(invocation, task) {
            older.abort();
        }
    }
}

async fn look_for_line(line: oneshot::Receiver<LogTail>, timeout: Duration) -> ProbeResult {
    let found = tokio::time::timeout(timeout, line).await;
    match found {
        Ok(Ok(found)) if found.is_refused => ProbeResult::Void,
        Ok(Ok(found)) if found.lines.is_empty() => {
            ProbeResult::Failed("no line of its log matches".to_owned())
        }
        Ok(Ok(_)) => ProbeResult::Passed,
        // The logger died, or is too slow: that is not the unit's fault.
        Ok(Err(_)) | Err(_) => ProbeResult::Void,
    }
}

impl Manager {
    /// Asks. Whatever happens, an answer comes.
    pub(super) fn ask_probe(&mut self, question: Question, now: Now) {
        let line = match &question.probe {
            Probe::LogLine(pattern) => {
                let since = question.since.map_or(0, |at| {
                    // A line may have been on its way to the file when it was last looked for.
                    now.wall_of(at).saturating_sub(overlap_us())
                });
                Some(self.ask_for_line(&question, pattern.clone(), since))
            }
            Probe::Http(_) | Probe::Tcp(_) | Probe::File(_) | Probe::Command(_) => None,
        };
        self.probes.begin(question, line);
    }

    fn ask_for_line(
        &mut self,
        question: &Question,
        pattern: String,
        since_us: u64,
    ) -> oneshot::Receiver<LogTail> {
        self.next_nonce += 1;
        let nonce = self.next_nonce;
        let query = LogQuery::Match {
            nonce,
            unit: question.spec.name.as_str().to_owned(),
            invocation: question.invocation.0,
            since_us,
            pattern,
        };
        let (tx, rx) = oneshot::channel();
        self.tails.retain(|_, waiting| !waiting.is_closed());
        if !self.is_logger_gone && self.logger.send(&query, Vec::new()).is_ok() {
            self.tails.insert(nonce, tx);
        }
        rx
    }
}

fn overlap_us() -> u64 {
    u64::try_from(limits::LOG_LINE_OVERLAP.as_micros()).unwrap_or(u64::MAX)
}
