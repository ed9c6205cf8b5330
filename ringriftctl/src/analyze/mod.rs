//! How a node came up, from its events: pure functions, which know no daemon and no clock. `cmd/analyze` asks and prints.
//!
//! * [`boot`]: from events to what each unit did. * [`chain`]: what the last one to be ready waited for. * [`svg`]: all of
//!   it as a drawing.

pub mod boot;
pub mod chain;
pub mod svg;
