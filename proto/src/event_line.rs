//! An event as one line of JSON: what the `[on_event]` command reads, what `/events` sends, and what `ringriftctl events
//! --json` prints. The contract is in `docs/events.md`; keys are only ever added. Times are written by whoever has a
//! calendar.

use serde::Serialize;

use crate::reply::{By, CauseKind, Event, State};

/// The line, as something that serde can write.
#[derive(Debug, Serialize)]
pub struct EventLine<'a> {
    seq: u64,
    time: String,
    event: &'a str,
    unit: &'a str,
    invocation: Option<&'a str>,
    from: State,
    to: State,
    cause: CauseBody<'a>,
}

#[derive(Debug, Serialize)]
struct CauseBody<'a> {
    kind: CauseKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a By>,
    text: &'a str,
}

impl<'a> EventLine<'a> {
    /// Of `event`, whose time is `time`: RFC 3339 in UTC with µs.
    pub fn new(event: &'a Event, time: String) -> Self {
        let cause = &event.cause;
        Self {
            seq: event.seq,
            time,
            event: &event.event,
            unit: &event.unit,
            invocation: event.invocation.as_deref(),
            from: event.from,
            to: event.to,
            cause: CauseBody {
                kind: cause.kind,
                seq: cause.seq,
                unit: cause.unit.as_deref(),
                by: cause.by.as_ref(),
                text: &cause.text,
            },
        }
    }
}
