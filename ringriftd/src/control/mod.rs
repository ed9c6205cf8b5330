//! The control socket: who may ask, how requests come in and answers go out. What an answer says is the manager's
//! business; nothing here knows a unit's state.
//!
//! * [`server`]: connections, their bounds and deadlines.
//! * [`outbox`]: what waits for one client.
//! * [`access`]: which request needs which role, and what no request may contain.
//! * [`select`]: selectors become units.
//! * [`watch`]: its name in the run-time folder, which somebody may remove.

pub mod access;
pub mod outbox;
pub mod select;
pub mod server;
pub mod view;
pub mod watch;
pub mod why;
