//! How processes are named between the roles: never by a bare pid. At the bottom of the house, so that the keeper
//! needs nothing of the engine.

use serde::{Deserialize, Serialize};

/// One life of a unit: a serial number that this node never uses again. Its text for the outside is
/// [`invocation_text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Invocation(pub u64);

/// `RINGRIFT_INVOCATION_ID`: 32 hex digits, the node's own random number and the serial.
pub fn invocation_text(seed: u64, invocation: Invocation) -> String {
    format!("{seed:016x}{:016x}", invocation.0)
}

/// One process that the keeper is asked to start: a life, and which process of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LaunchId {
    /// Of which life.
    pub invocation: Invocation,
    /// 0 is the main process; hooks and commands of probes count on from 1 as they are run.
    pub step: u32,
}

impl LaunchId {
    /// The main process of a life.
    pub fn main(invocation: Invocation) -> Self {
        Self { invocation, step: 0 }
    }

    /// It is a main process.
    pub fn is_main(self) -> bool {
        self.step == 0
    }
}

impl std::fmt::Display for LaunchId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.invocation.0, self.step)
    }
}

/// Which processes of a launch a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The main process.
    Main,
    /// Every process that it left.
    All,
}
