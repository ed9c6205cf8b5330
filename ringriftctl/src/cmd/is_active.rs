//! `is-active`: true when one of the named units is running or reloading.

use proto::reply::State;

use crate::predicate::{self, PredicateArgs};
use crate::session::{Session, state_word};
use crate::stop::Stop;

/// Prints each state.
pub fn run(session: &mut Session, args: &PredicateArgs) -> Result<u8, Stop> {
    let holds = |u: &proto::reply::UnitStatus| matches!(u.state, State::Running | State::Reloading);
    predicate::run(session, "is-active", args, |u| state_word(u.state), holds, false)
}
