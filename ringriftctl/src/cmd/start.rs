//! `start`: brings units up, with what they require; answers at the first verdict on each.

use proto::request::Request;

use crate::job::{self, JobArgs, Others};
use crate::session::Session;
use crate::stop::Stop;

/// Asks, waits, and tells.
pub fn run(session: &mut Session, args: &JobArgs) -> Result<u8, Stop> {
    job::run(session, "start", args, Others::Helpers, Request::Start)
}
