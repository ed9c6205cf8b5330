//! The manager's hands: everything between its loop and the host, but no decisions. What may block is done off the
//! loop and within a bound.
//!
//! * [`link`]: messages to and from keeper and logger.
//! * [`prepare`]: a unit becomes a launch (`account`, [`environment`] and [`env_file`], and [`explain`] when it cannot).
//! * [`crew`]: threads for what may block.
//! * [`notify`] and [`ready`]: what units say of themselves.
//! * [`probe`]: asking units how they are.
//! * [`outside`]: processes that run outside, for `adopt`.
//! * [`usage`]: what units use.

mod account;
pub mod crew;
pub mod env_file;
pub mod environment;
pub mod explain;
pub mod link;
pub mod notify;
pub mod outside;
pub mod prepare;
pub mod probe;
pub mod ready;
pub(crate) mod receive;
mod sender;
pub mod survivors;
mod types;
pub mod usage;
mod words;
