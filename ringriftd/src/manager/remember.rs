//! Where the manager's memory is kept: in memory that the keeper holds, which outlives every death of this process, and
//! behind it on disk, which outlives everything. See `docs/state.md`.

use std::path::Path;

use tokio::sync::{oneshot, watch};

use super::memory::{Base, Step};
use crate::state::cold::Cold;
use crate::state::queue::Status;
use crate::state::store::{Halves, Pick};

/// Both places.
#[derive(Debug)]
pub struct Remember {
    hot: Option<Halves>,
    cold: Option<Cold>,
    disk: Option<watch::Receiver<Status>>,
    /// Why the memory that the keeper holds does not have the last changes.
    trouble: Option<String>,
}

impl Remember {
    /// `hot` where it could be opened; `cold` where the folder has a writer.
    pub fn new(hot: Option<Halves>, cold: Option<Cold>) -> Self {
        Self {
            disk: cold.as_ref().map(Cold::status),
            trouble: hot
                .is_none()
                .then(|| "the memory that the keeper holds cannot be read".to_owned()),
            hot,
            cold,
        }
    }

    /// Keeps `step`. When this returns, it has happened. True when the whole state is wanted next
    /// ([`Self::rebase`]).
    pub fn append(&mut self, step: &Step) -> bool {
        let bytes = match serde_json::to_vec(step) {
            Ok(bytes) => bytes,
            Err(e) => {
                self.complain(&format!("a change cannot be written down: {e}"));
                return true;
            }
        };
        let is_kept = match &mut self.hot {
            Some(hot) => hot.append(&bytes).is_ok() && !hot.needs_rebase(),
            None => true,
        };
        if let Some(cold) = &self.cold {
            cold.delta(bytes);
        }
        !is_kept || self.is_wanted_on_disk()
    }

    /// The disk wants the whole state.
    pub fn is_wanted_on_disk(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.borrow().wants_base)
    }

    /// Keeps the whole state anew.
    pub fn rebase(&mut self, whole: &Base) {
        let bytes = match serde_json::to_vec(whole) {
            Ok(bytes) => bytes,
            Err(e) => return self.complain(&format!("the state cannot be written down: {e}")),
        };
        if let Some(hot) = &mut self.hot {
            match hot.rebase(&bytes) {
                Ok(()) => self.trouble = None,
                Err(e) => self.complain(&format!(
                    "the memory that the keeper holds cannot be written: {e}"
                )),
            }
        }
        if let Some(cold) = &self.cold {
            cold.base(bytes);
        }
    }

    fn complain(&mut self, why: &str) {
        if self.trouble.as_deref() != Some(why) {
            tracing::error!("{why}: a manager that dies now forgets what happened since");
            self.trouble = Some(why.to_owned());
        }
    }

    /// Told when everything up to now survives the machine's death, or why it does not. `None`: nothing is kept on disk.
    pub fn promise(&self) -> Option<oneshot::Receiver<Result<(), String>>> {
        self.cold.as_ref().map(Cold::promise)
    }

    /// An event for the flight recorder.
    pub fn event(&self, event: &proto::reply::Event) {
        if let Some(cold) = &self.cold {
            cold.event(event);
        }
    }

    /// Waits until the disk wants the whole state.
    pub async fn disk_wants_base(&mut self) {
        match &mut self.disk {
            Some(disk) => {
                if disk.wait_for(|status| status.wants_base).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    }

    /// What `status` has to tell of it.
    pub fn notices(&self) -> Vec<String> {
        let disk = self.disk.as_ref().and_then(|disk| disk.borrow().degraded.clone());
        let disk = disk.map(|why| format!("the state on disk is behind: {why}"));
        let none = self
            .cold
            .is_none()
            .then(|| "no state is kept on disk: operators' stops and holds end with this boot".to_owned());
        self.trouble.iter().cloned().chain(disk).chain(none).collect()
    }

    /// The orderly end: `whole` is the last state. Told as [`Self::promise`] is.
    pub fn end(&mut self, whole: &Base) -> Option<oneshot::Receiver<Result<(), String>>> {
        let cold = self.cold.take()?;
        match serde_json::to_vec(whole) {
            Ok(bytes) => Some(cold.end(bytes)),
            Err(e) => {
                self.complain(&format!("the state cannot be written down: {e}"));
                None
            }
        }
    }
}

/// The folder's writer; without one, which is said, nothing is kept on disk.
pub fn cold(folder: &Path, pick: Pick) -> Option<Cold> {
    match Cold::start(folder, pick) {
        Ok(cold) => Some(cold),
        Err(e) => {
            tracing::error!(
                "cannot start the writer of the state folder {}: {e}",
                folder.display()
            );
            None
        }
    }
}
