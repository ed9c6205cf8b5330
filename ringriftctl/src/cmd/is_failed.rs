//! `is-failed`: true when one of the named units is failed.

use proto::reply::State;

use crate::predicate::{self, PredicateArgs};
use crate::session::{Session, state_word};
use crate::stop::Stop;

/// Prints each state.
pub fn run(session: &mut Session, args: &PredicateArgs) -> Result<u8, Stop> {
    predicate::run(
        session,
        "is-failed",
        args,
        |u| state_word(u.state),
        |u| u.state == State::Failed,
        false,
    )
}
