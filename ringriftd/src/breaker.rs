//! `[breaker]`: how many automatic restarts a category of units, and the node, may make before all of them pause. What the
//! files say, as pure data; what has happened is in `engine/breaker.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::limits;
use crate::unit_name::UnitName;

/// So many automatic restarts within so long; then none for so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimit {
    /// How many within `window`; absent: any number, and the breaker never opens.
    pub restarts: Option<u32>,
    /// The sliding window.
    pub window: Duration,
    /// How long none is made once there were too many.
    pub cooldown: Duration,
}

impl Default for BreakerLimit {
    fn default() -> Self {
        Self {
            restarts: Some(limits::BREAKER_RESTARTS),
            window: limits::BREAKER_WINDOW,
            cooldown: limits::BREAKER_COOLDOWN,
        }
    }
}

/// `[breaker.CATEGORY]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CategoryLimit {
    /// Its own limit.
    pub limit: BreakerLimit,
    /// Its restarts count for the node's limit too, and that holds them back too.
    pub is_for_node: bool,
}

/// `[breaker]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerSpec {
    /// The node's limit: for every unit, whether its category has one of its own or not.
    pub node: BreakerLimit,
    /// So long after the node began nothing is counted and nothing is held back.
    pub startup_grace: Duration,
    /// Units that are never counted and never held back. Critical units are not either; they need not be named.
    pub exempt: BTreeSet<UnitName>,
    /// Categories with a limit of their own.
    pub categories: BTreeMap<String, CategoryLimit>,
}

impl Default for BreakerSpec {
    fn default() -> Self {
        Self {
            node: BreakerLimit::default(),
            startup_grace: limits::BREAKER_STARTUP_GRACE,
            exempt: BTreeSet::new(),
            categories: BTreeMap::new(),
        }
    }
}
