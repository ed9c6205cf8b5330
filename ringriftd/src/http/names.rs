//! The words of JSON: how units are keyed, how times are written, and an event as `ringriftctl events --json` writes it.

use proto::reply::{Event, Exit, LastExit};
use serde_json::{Map, Value, json};

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

/// An event.
pub fn event(event: &Event) -> Value {
    let mut cause = Map::new();
    cause.insert("kind".to_owned(), json!(event.cause.kind));
    if let Some(seq) = event.cause.seq {
        cause.insert("seq".to_owned(), json!(seq));
    }
    if let Some(unit) = &event.cause.unit {
        cause.insert("unit".to_owned(), json!(unit));
    }
    if let Some(by) = &event.cause.by {
        let by = json!({ "uid": by.uid, "pid": by.pid, "verb": by.verb });
        cause.insert("by".to_owned(), by);
    }
    cause.insert("text".to_owned(), json!(event.cause.text));
    json!({
        "seq": event.seq,
        "time": utc(event.at_us),
        "event": event.event,
        "unit": event.unit,
        "invocation": event.invocation,
        "from": event.from,
        "to": event.to,
        "cause": cause,
    })
}
