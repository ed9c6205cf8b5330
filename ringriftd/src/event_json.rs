//! An event as one line of JSON ([`EventLine`]) with its time: what the `[on_event]` command reads and `/events` sends.

use jiff::Timestamp;
use proto::event_line::EventLine;
use proto::reply::Event;

/// The line, without its end.
pub fn line(event: &Event) -> Result<String, serde_json::Error> {
    serde_json::to_string(&EventLine::new(event, time(event.at_us)))
}

/// RFC 3339 in UTC with µs; one that no calendar has, as µs since 1970.
fn time(us: u64) -> String {
    let time = i64::try_from(us)
        .ok()
        .and_then(|us| Timestamp::from_microsecond(us).ok());
    time.map_or_else(|| format!("@{us}"), |time| format!("{time:.6}"))
}
