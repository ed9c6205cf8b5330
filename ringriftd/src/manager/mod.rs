//! The manager: the only place where the engine meets the world. One loop takes what happens (keeper, clients, units,
//! time), tells the engine, and does what it asks for. It decides nothing itself, and nothing in it waits.
//!
//! * [`core`]: the loop. * [`step`]: from an event to what is done. * [`hear`]: what keeper and units say. * [`reload`]: the
//!   files. * [`start`]: how it begins. * [`ask`]: what clients ask. * [`jobs`]: requests answered later. *
//!   [`launches`]: between the engine's wish and the keeper's answer. * [`events`]: what is remembered of changes.
//! * [`publish`]: what the HTTP thread sees. * [`door`]: where it listens.
//! * [`memory`]: what outlives the manager. * [`remember`]: where it is kept. * [`recover`] and [`begin`]: how it is taken
//!   up again. * [`capsules`]: what is kept of failures. * [`failures`]: how it gets there.

mod ask;
mod begin;
pub mod candidate;
mod capsules;
mod core;
mod door;
mod events;
mod failures;
mod hear;
mod hooks;
mod jobs;
mod launches;
mod logs;
mod memory;
mod probes;
mod publish;
mod recover;
mod reload;
mod remember;
mod start;
mod step;
mod stored;
pub mod takeover;
mod upgrade;

pub use start::{Flags, run};
