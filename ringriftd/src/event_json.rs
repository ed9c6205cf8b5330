//! An event as one line of JSON: what the `[on_event]` command reads, and byte for byte what `ringriftctl events --json`
//! prints. The contract is in `docs/events.md`; keys are only ever added.

use jiff::Timestamp;
use proto::reply::{CauseKind, Event, State};
use serde::Serialize;

#[derive(Serialize)]
struct Body<'a> {
    seq: u64,
    time: String,
    event: &'a str,
    unit: &'a str,
    invocation: Option<&'a str>,
    from: State,
    to: State,
    cause: CauseBody<'a>,
}

#[derive(Serialize)]
struct CauseBody<'a> {
    kind: CauseKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<ByBody<'a>>,
    text: &'a str,
}

#[derive(Serialize)]
struct ByBody<'a> {
    uid: u32,
    pid: u32,
    verb: &'a str,
}

/// The line, without its end.
pub fn line(event: &Event) -> Result<String, serde_json::Error> {
    let cause = &event.cause;
    serde_json::to_string(&Body {
        seq: event.seq,
        time: time(event.at_us),
        event: &event.event,
        unit: &event.unit,
        invocation: event.invocation.as_deref(),
        from: event.from,
        to: event.to,
        cause: CauseBody {
            kind: cause.kind,
            seq: cause.seq,
            unit: cause.unit.as_deref(),
            by: cause.by.as_ref().map(|by| ByBody {
                uid: by.uid,
                pid: by.pid,
                verb: &by.verb,
            }),
            text: &cause.text,
        },
    })
}

/// RFC 3339 in UTC with µs; one that no calendar has, as µs since 1970.
fn time(us: u64) -> String {
    let time = i64::try_from(us)
        .ok()
        .and_then(|us| Timestamp::from_microsecond(us).ok());
    time.map_or_else(|| format!("@{us}"), |time| format!("{time:.6}"))
}
