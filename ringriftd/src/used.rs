//! What the kernel counted of a launch, as the keeper read it at its end. Pure data.

use proto::reply::Oom;
use serde::{Deserialize, Serialize};

/// What a launch used, and whether the kernel killed any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// CPU time, in µs: of all its processes where there is a cgroup, else of the main process and those that it waited for.
    pub cpu_us: Option<u64>,
    /// The most memory at once, in bytes: of all its processes where its cgroup counts that, else of the largest of them.
    pub memory_peak: Option<u64>,
    /// What the kernel says: `Maybe` where it says nothing, or that it killed somebody, without a name.
    pub oom: Oom,
}

impl Default for Used {
    /// Nothing is known.
    fn default() -> Self {
        Self {
            cpu_us: None,
            memory_peak: None,
            oom: Oom::Maybe,
        }
    }
}
