//! What outlives a process: the engine's state in memory that the keeper holds, its mirror on disk, and the flight
//! recorder. `docs/state.md` tells what survives what.
//!
//! [`record`] is the format, without any file; [`store`] keeps a state in two files of any kind; [`cold`] is the thread
//! that writes the folder of state, [`queue`] what waits for it, and [`recorder`] the events there. What a payload
//! means is the manager's business.

pub mod boot;
pub mod cold;
pub mod folder;
pub mod queue;
pub mod record;
pub mod recorder;
pub mod store;

pub use boot::boot_id;
