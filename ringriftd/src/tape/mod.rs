//! Recordings of the engine at work: what it was told and what it asked for, so that the same can be told to it again,
//! elsewhere and later, and the answers compared byte for byte. `docs/recordings.md` tells what they are for.
//!
//! [`types`] is what a recording says; [`taped`] is the engine as the manager has it, through which everything must go
//! that is recorded; [`write`] is the file and the thread that writes it; [`replay`] reads it and tells the first
//! difference; [`verb`] is the command.

mod differ;
pub mod replay;
pub mod taped;
pub mod types;
pub mod verb;
pub mod write;
