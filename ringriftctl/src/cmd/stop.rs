//! `stop`: brings units down; done when nothing of them is left.

use proto::request::Request;

use crate::job::{self, JobArgs, Others};
use crate::session::Session;
use crate::stop::Stop;

/// Asks, waits, and tells.
pub fn run(session: &mut Session, args: &JobArgs) -> Result<u8, Stop> {
    job::run(session, "stop", args, Others::Targets, Request::Stop)
}
