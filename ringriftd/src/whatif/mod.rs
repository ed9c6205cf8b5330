//! `ringriftd simulate`: an operator's own profile under the production engine, in a calm world on a virtual clock, with
//! faults at chosen times. What would happen, before it does. `docs/simulate.md` is for those who use it.
//!
//! [`faults`] is what is asked for; [`world`] is the machine that is not there; [`findings`] says what is remarkable about what
//! the engine did; [`verb`] is the command.

pub mod faults;
pub mod findings;
pub mod verb;
pub mod world;
