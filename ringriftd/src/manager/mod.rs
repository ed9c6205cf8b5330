//! The manager: the only place where the engine meets the world. One loop takes what happens (keeper, clients, units,
//! time), tells the engine, and does what it asks for. It decides nothing itself, and nothing in it waits.
//!
//! * [`core`]: the loop. * [`start`]: how it begins. * [`ask`]: what clients ask. * [`jobs`]: requests answered later. *
//!   [`launches`]: between the engine's wish and the keeper's answer. * [`events`]: what is remembered of changes.

mod ask;
pub mod candidate;
mod core;
mod events;
mod jobs;
mod launches;
mod start;
pub mod takeover;

pub use start::run;
