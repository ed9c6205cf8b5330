//! `is-ready`: true when all of the named units are ready, so that what needs them may go on.

use crate::predicate::{self, PredicateArgs};
use crate::session::{Session, state_word};
use crate::stop::Stop;

/// Prints `ready`, or the state of one that is not.
pub fn run(session: &mut Session, args: &PredicateArgs) -> Result<u8, Stop> {
    let word = |u: &proto::reply::UnitStatus| if u.ready { "ready" } else { state_word(u.state) };
    predicate::run(session, "is-ready", args, word, |u| u.ready, true)
}
