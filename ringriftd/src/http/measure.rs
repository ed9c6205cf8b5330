//! CPU time and memory of the units, measured at most once a second however often it is asked for, and never on the thread
//! that serves: /proc may take its time on a busy machine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::host::usage::{Usage, usage};
use crate::limits;
use crate::published::Picture;
use crate::spec::UnitName;

/// What each unit uses.
pub type Used = Arc<BTreeMap<UnitName, Usage>>;

/// The last measurement.
#[derive(Debug, Default)]
pub struct Measure(Mutex<Option<(Instant, Used)>>);

impl Measure {
    /// What the units of `picture` use; where measuring takes too long, what is known from before.
    pub async fn used(&self, picture: &Picture) -> Used {
        // Whoever comes while another measures waits for that one's result.
        let mut last = self.0.lock().await;
        if let Some((at, used)) = &*last
            && at.elapsed() < limits::USAGE_FRESH
        {
            return Arc::clone(used);
        }
        let wanted: Vec<(UnitName, u32, Option<PathBuf>)> = picture
            .rows
            .iter()
            .filter_map(|(name, row)| Some((name.clone(), row.status.pid?, row.leaf.clone())))
            .collect();
        let work = tokio::task::spawn_blocking(move || {
            wanted
                .into_iter()
                .filter_map(|(name, pid, leaf)| Some((name, usage(pid, leaf.as_deref())?)))
                .collect::<BTreeMap<_, _>>()
        });
        match tokio::time::timeout(limits::USAGE_TIMEOUT, work).await {
            Ok(Ok(used)) => {
                let used = Arc::new(used);
                *last = Some((Instant::now(), Arc::clone(&used)));
                used
            }
            Ok(Err(_)) | Err(_) => last
                .as_ref()
                .map(|(_, used)| Arc::clone(used))
                .unwrap_or_default(),
        }
    }
}
