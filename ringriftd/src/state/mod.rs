//! What outlives a process: the engine's state in memory that the keeper holds, its mirror on disk, and the flight
//! recorder. `docs/state.md` tells what survives what.
//!
//! [`record`] is the format, without any file; [`store`] keeps a state in two files of any kind. What a payload means
//! is the manager's business.

pub mod boot;
pub mod record;
pub mod store;

pub use boot::boot_id;
