//! What the manager shows of itself to the thread that serves HTTP: rows that are shared, not copied, and replaced one by
//! one as they change. Whoever reads holds the lock for as long as it takes to count three references, so neither side ever
//! waits for the other's work.
//!
//! Read first: [`Published`] and [`Row`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::reply::{BreakerStatus, UnitStatus};

use crate::clock::Now;
use crate::counts::Counts;
use crate::spec::{UnitName, UnitSpec};

/// The node as a whole.
#[derive(Debug, Clone)]
pub struct Header {
    /// The daemon's version.
    pub version: &'static str,
    /// The node's name.
    pub node: String,
    /// The active profiles.
    pub profiles: Vec<String>,
    /// When the daemon began.
    pub started: Now,
    /// How units are contained.
    pub containment: String,
    /// Every wanted unit is up, or has failed its first attempt.
    pub is_settled: bool,
    /// It is on its way down.
    pub is_stopping: bool,
    /// Sentences for the operator.
    pub notices: Vec<String>,
    /// Deaths of managers and loggers.
    pub deaths: (u64, u64),
    /// The number of the last event.
    pub last_seq: u64,
    /// What limits restarts.
    pub breakers: Vec<BreakerStatus>,
}

/// One unit.
#[derive(Debug, Clone)]
pub struct Row {
    /// What `status` shows of it.
    pub status: UnitStatus,
    /// Its definition. Nothing of its environment and commands may leave the process.
    pub spec: Arc<UnitSpec>,
    /// The node should be running it, or a profile lists it.
    pub is_wanted: bool,
    /// The profile that lists it.
    pub profile: Option<String>,
    /// The folder of its cgroup.
    pub leaf: Option<PathBuf>,
    /// When its present life was launched, µs since 1970.
    pub launched_us: Option<u64>,
}

/// Everything, at one moment.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The node.
    pub header: Arc<Header>,
    /// Every unit.
    pub rows: Arc<BTreeMap<UnitName, Arc<Row>>>,
    /// What was counted.
    pub counts: Arc<Counts>,
}

/// Where the manager writes and the HTTP thread reads.
#[derive(Debug)]
pub struct Published(Mutex<Picture>);

impl Published {
    /// With this to begin with.
    pub fn new(picture: Picture) -> Self {
        Self(Mutex::new(picture))
    }

    /// As it is now.
    pub fn look(&self) -> Picture {
        self.lock().clone()
    }

    /// These rows are so now; without one, the unit is gone.
    pub fn put(&self, rows: Vec<(UnitName, Option<Arc<Row>>)>) {
        let mut picture = self.lock();
        // Copied only while somebody reads.
        let all = Arc::make_mut(&mut picture.rows);
        for (name, row) in rows {
            match row {
                Some(row) => {
                    all.insert(name, row);
                }
                None => {
                    all.remove(&name);
                }
            }
        }
    }

    /// The node, and what was counted.
    pub fn put_header(&self, header: Header, counts: Counts) {
        let (header, counts) = (Arc::new(header), Arc::new(counts));
        let mut picture = self.lock();
        (picture.header, picture.counts) = (header, counts);
    }

    fn lock(&self) -> MutexGuard<'_, Picture> {
        // A writer that died in the middle left whole rows behind: each is put in place by one move.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
