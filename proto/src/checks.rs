//! How units are checked, as answers tell it.

use serde::{Deserialize, Serialize};

/// How a unit's health is found out, and what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckStatus {
    /// The probe as its file has it, variables unfilled: `http http://127.0.0.1:8080/ready`. Of a command only the
    /// program. Absent: there is none.
    pub probe: Option<String>,
    /// Between two probes, and two reports, in ms.
    pub interval_ms: u64,
    /// For each probe, in ms.
    pub timeout_ms: u64,
    /// After ready, until something counts, in ms.
    pub grace_ms: u64,
    /// In a row, until it is unhealthy; absent: nothing counts, it is only shown.
    pub failures: Option<u32>,
    /// `restart`, `mark` or `ignore`.
    pub on_failure: String,
    /// `WATCHDOG=1` is expected this often, in ms.
    pub watchdog_ms: Option<u64>,
    /// By when it is expected next.
    pub watchdog_due_us: Option<u64>,
    /// When it last came.
    pub watchdog_fed_us: Option<u64>,
    /// Probes that failed since the last one that succeeded.
    pub failed_probes: u32,
    /// The same of reports.
    pub failed_reports: u32,
    /// Lives that were ended because they were not well, since the counter was last reset.
    pub unhealthy_ends: u64,
    /// A probe is under way.
    pub is_asking: bool,
    /// When the next one is asked.
    pub next_us: Option<u64>,
    /// The last results, the oldest first, those of earlier lives among them.
    pub results: Vec<CheckResult>,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// When.
    pub at_us: u64,
    /// From the question to the answer, in µs; absent where nothing was asked.
    pub took_us: Option<u64>,
    /// `ready`, `probe`, `report` or `watchdog`.
    pub by: String,
    /// What came of it.
    pub outcome: CheckOutcome,
    /// Why, where it is not well.
    pub text: Option<String>,
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckOutcome {
    /// Well.
    Passed,
    /// It works, but not well.
    Degraded,
    /// Not well.
    Failed,
    /// It could not be asked, which says nothing of the unit.
    Unasked,
}
