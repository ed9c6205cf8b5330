//! Times that a person writes, as `logs` and `events` take them. `last-failure` is the daemon's to know.

use jiff::tz::TimeZone;
use proto::reply::{Event, Reply, State};
use proto::request::Request;

use crate::client::Client;
use crate::measure::{self, Since};
use crate::session::Session;
use crate::stop::Stop;

/// A unit's process failed, whatever is done about it.
const FAILED: &str = "DAEMON_FAILED";

/// A time, and the failure that it is the time of.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// µs since 1970.
    pub at_us: u64,
    /// The number of the failure's event, where a failure was meant and there was one.
    pub failure: Option<u64>,
}

/// What `text` means, as far as nobody needs to be asked.
pub fn read(session: &Session, text: &str) -> Result<Since, Stop> {
    let now = session.style.now_us;
    measure::parse_since(text, now, measure::boot_us(now), &TimeZone::system()).map_err(Stop::usage)
}

/// When that was, for these units. Where nothing has failed, which is said: now.
pub fn moment(
    session: &mut Session,
    client: &mut Client,
    units: &[String],
    since: Since,
) -> Result<Moment, Stop> {
    if let Since::At(at_us) = since {
        return Ok(Moment { at_us, failure: None });
    }
    let Some(event) = last_failure(client, units)? else {
        session.say("nothing has failed so far");
        let at_us = session.style.now_us;
        return Ok(Moment { at_us, failure: None });
    };
    Ok(Moment {
        at_us: event.at_us,
        failure: Some(event.seq),
    })
}

/// The last failure, one that was restarted after as well, as far as the flight recorder goes back.
fn last_failure(client: &mut Client, units: &[String]) -> Result<Option<Event>, Stop> {
    let mut last = None;
    let so_far = Request::Events {
        selectors: units.to_vec(),
        follow: false,
        after: None,
        since_us: None,
    };
    client.each(so_far, |reply| {
        if let Reply::Event(event) = reply
            && (event.to == State::Failed || event.event == FAILED)
        {
            last = Some(*event);
        }
        Ok(())
    })?;
    Ok(last)
}
