//! Files to a plan, all or nothing, with every fault of every file told at once. `ringriftd check` and the daemon
//! share every line of it.
//!
//! Read first: [`load`] and [`Loaded`]. The way of a unit: `source` reads and `fileset` keeps, `files` finds, `tree` and `leaf` type each
//! key by the `schema`, `check` lays the layers together and resolves names, `profile` says who is wanted, and `across`
//! judges all units side by side. It reads the disk and may take seconds for thousands of units: not on a loop.

pub mod across;
mod breaker;
pub mod check;
pub mod diagnostic;
pub mod files;
pub mod fileset;
mod hook;
pub mod leaf;
pub mod load;
pub mod merged;
mod plain;
pub mod probe;
pub mod profile;
pub mod schema;
pub mod source;
pub mod tree;
pub mod values;
pub mod verb;
mod watched;
mod zygote;

pub use fileset::FileSet;
pub use load::{Loaded, Report, load, load_from, load_from_on, load_on};
pub use plain::plain_unit;
pub use profile::LoadedProfile;
pub use values::digest;
