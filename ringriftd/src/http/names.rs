//! The words of JSON: how units are keyed, how times are written, and events.

use proto::reply::{Event, Exit, LastExit};
use serde_json::{Value, json};

use crate::event_json;

/// The key of a unit: its name in upper case, as the fleet's daemons have always been called.
pub fn key(name: &str) -> String {
    name.to_ascii_uppercase()
}

/// A moment as seconds since 1970.
pub fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// A moment as text, UTC.
pub fn utc(us: u64) -> String {
    let at = i64::try_from(us)
        .ok()
        .and_then(|t| jiff::Timestamp::from_microsecond(t).ok());
    at.map_or_else(|| format!("@{us}"), |t| format!("{t:.6}"))
}

/// How a process ended.
pub fn exit(last: &LastExit) -> Value {
    let at = utc(last.at_us);
    match last.exit {
        Exit::Code(code) => json!({ "code": code, "at": at }),
        Exit::Signal { signal, core } => {
            json!({ "signal": crate::engine::signal_name(signal), "core": core, "at": at })
        }
        Exit::Unknown => json!({ "unknown": true, "at": at }),
    }
}

/// An event, as `ringriftctl events --json` writes it: one line.
pub fn event_line(event: &Event) -> String {
    // A struct of texts and numbers can always be written.
    event_json::line(event).unwrap_or_default()
}

/// The same as a value.
pub fn event(event: &Event) -> Value {
    serde_json::from_str(&event_line(event)).unwrap_or_default()
}
