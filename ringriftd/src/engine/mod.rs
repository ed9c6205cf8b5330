//! The engine: pure. Events and the time go in, actions come out; it reads no clock, no file, no randomness, and the
//! same events at the same times give the same actions, byte for byte.
//!
//! [`Engine::handle`] takes what happened; [`Engine::poll_action`] gives what must now be done, in order;
//! [`Engine::next_deadline`] says when to come back with [`Event::Tick`] at the latest. A spurious tick is harmless.
//!
//! Inside, each event is handled in two phases. First it is *settled*: the one unit (or, for requests and loads, the
//! units) that it concerns change their desired or actual state, and everything that may be affected is marked
//! dirty. Then the engine *acts*: it takes the dirty units in start order, compares desired with actual, and starts or
//! stops what may start or stop now; each change marks its neighbours. There is no recursion over the graph.
//!
//! Read first: `unit` (the states), then `order` (who waits for whom), then `life` (a life's steps).
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Whether a test has planted this fault here: in the program never.
#[cfg(not(any(test, feature = "simulation")))]
macro_rules! planted {
    ($fault:ident) => {
        false
    };
}
#[cfg(any(test, feature = "simulation"))]
macro_rules! planted {
    ($fault:ident) => {
        $crate::engine::planted::is($crate::engine::planted::Fault::$fault)
    };
}

mod act;
mod adopt;
pub mod breaker;
pub mod capsule;
mod cause;
mod health;
pub mod hold;
mod invariant;
mod life;
mod load;
mod machine;
mod news;
mod ops;
mod order;
#[cfg(any(test, feature = "simulation"))]
pub mod planted;
mod probing;
pub mod request;
pub mod restart;
mod restore;
#[cfg(any(test, feature = "simulation"))]
pub mod sim;
pub mod snapshot;
mod stop;
pub mod types;
pub mod unit;
pub mod watch;
pub mod why;
mod words;

pub use cause::command;
pub use machine::Engine;
pub use order::Blocker;
pub use words::{describe, signal_name};
