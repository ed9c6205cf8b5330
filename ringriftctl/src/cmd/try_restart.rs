//! `try-restart`: restarts the units that run, and leaves the others alone.

use proto::request::Request;

use crate::job::{self, JobArgs, Others};
use crate::session::Session;
use crate::stop::Stop;

/// Asks, waits, and tells.
pub fn run(session: &mut Session, args: &JobArgs) -> Result<u8, Stop> {
    job::run(session, "try-restart", args, Others::Targets, |job| {
        Request::Restart {
            job,
            only_running: true,
        }
    })
}
