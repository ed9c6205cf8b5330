//! Following what has no end: `logs -f`, `events -f`.

use std::time::Instant;

use proto::reply::Reply;
use proto::request::Request;

use crate::client::{Client, Wake};
use crate::session::Session;
use crate::stop::{self, Stop};

/// Hears every reply until there are no more, or somebody interrupts: the exit code.
pub fn follow(
    session: &mut Session,
    client: &mut Client,
    request: Request,
    mut hear: impl FnMut(&mut Session, Reply) -> Result<(), Stop>,
) -> Result<u8, Stop> {
    let id = client.ask(request)?;
    loop {
        // What came together is written together; what came alone is not kept waiting.
        let wake = match client.wake(Some(Instant::now()))? {
            Wake::Time => {
                session.out.flush()?;
                client.wake(None)?
            }
            wake => wake,
        };
        match wake {
            Wake::Reply(to, Reply::End) if to == id => return Ok(stop::OK),
            Wake::Reply(to, Reply::Failed(failure)) if to == id => return Err(failure.into()),
            Wake::Reply(to, reply) if to == id => hear(session, reply)?,
            Wake::Reply(..) | Wake::Time | Wake::Again => {}
            Wake::Interrupted => return Ok(stop::INTERRUPTED),
        }
    }
}
