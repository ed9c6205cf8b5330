//! The JSON of every verb: `{"schema":"ringrift.v1.<verb>", …}`. Field names are the contract of `docs/cli.md`: keys
//! are only ever added. Times are RFC 3339 in UTC, durations seconds; what is unknown is null.

use proto::log::{Severity, Stream};
use proto::reply::{
    Blocker, BreakerStatus, By, Capsule, Changed, ChangedKind, Exit, Failure, FailureKind, Health, Hold,
    JobPlan, LastExit, LineEnd, LogLine, LogStatus, NodeStatus, Oom, Outcome, State, Summary, UnitStatus,
    Verdict,
};
use serde::Serialize;

use crate::measure::{signal_name, utc};
use crate::render::{Out, deceives};
use crate::stop::Stop;

#[derive(Serialize)]
struct Document<'a, T> {
    schema: String,
    #[serde(flatten)]
    body: &'a T,
}

/// Prints one document on one line.
pub fn document(out: &mut Out, verb: &str, body: &impl Serialize) -> Result<(), Stop> {
    line(
        out,
        &Document {
            schema: format!("ringrift.v1.{verb}"),
            body,
        },
    )
}

/// Prints a value on one line.
pub fn line(out: &mut Out, value: &impl Serialize) -> Result<(), Stop> {
    out.line(text(value)?)
}

/// The JSON text, with what could drive a terminal or reverse a line as `\u…`: the same value, and safe to look at.
fn text(value: &impl Serialize) -> Result<String, Stop> {
    let plain = serde_json::to_string(value)
        .map_err(|e| Stop::new(crate::stop::BUG, format!("cannot write the answer as JSON: {e}")))?;
    if !plain.chars().any(needs_escape) {
        return Ok(plain);
    }
    let mut safe = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        if needs_escape(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    Ok(safe)
}

/// serde escapes C0 itself, and such characters occur in strings only.
fn needs_escape(c: char) -> bool {
    matches!(c, '\u{7f}'..='\u{9f}') || deceives(c)
}

/// A time in µs as a string.
pub fn time(us: Option<u64>) -> Option<String> {
    us.map(utc)
}

/// Microseconds as seconds.
pub fn seconds_us(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Milliseconds as seconds.
pub fn seconds_ms(ms: u64) -> f64 {
    ms as f64 / 1e3
}

/// A failure as the error document's body.
#[derive(Serialize)]
pub struct ErrorBody<'a> {
    code: u8,
    message: &'a str,
    unit: Option<&'a str>,
    hint: Option<&'a str>,
    details: &'a [String],
}

impl<'a> From<&'a Failure> for ErrorBody<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self {
            code: failure.code,
            message: &failure.message,
            unit: failure.unit.as_deref(),
            hint: failure.hint.as_deref(),
            details: &failure.details,
        }
    }
}

/// `status`.
#[derive(Serialize)]
pub struct StatusBody<'a> {
    version: &'a str,
    node: &'a str,
    profiles: &'a [String],
    uptime_s: f64,
    pid: u32,
    containment: &'a str,
    settled: bool,
    stopping: bool,
    notices: &'a [String],
    breakers: Vec<Breaker<'a>>,
    summary: SummaryBody,
    units: Vec<Unit<'a>>,
}

impl<'a> StatusBody<'a> {
    /// The node and its units.
    pub fn new(node: &'a NodeStatus, units: &'a [UnitStatus], now_us: u64) -> Self {
        Self {
            version: &node.version,
            node: &node.node,
            profiles: &node.profiles,
            uptime_s: seconds_ms(node.uptime_ms),
            pid: node.pid,
            containment: &node.containment,
            settled: node.settled,
            stopping: node.stopping,
            notices: &node.notices,
            breakers: node.breakers.iter().map(Breaker::new).collect(),
            summary: node.summary.into(),
            units: units.iter().map(|u| Unit::new(u, now_us)).collect(),
        }
    }
}

/// A limit on restarts; of the node, where `category` is null.
#[derive(Serialize)]
struct Breaker<'a> {
    category: Option<&'a str>,
    restarts: u32,
    limit: u32,
    window_s: f64,
    trips: u64,
    open: Option<BreakerOpen<'a>>,
    held: &'a [String],
}

#[derive(Serialize)]
struct BreakerOpen<'a> {
    since: Option<String>,
    until: Option<String>,
    seq: u64,
    unit: &'a str,
}

impl<'a> Breaker<'a> {
    fn new(breaker: &'a BreakerStatus) -> Self {
        Self {
            category: Some(breaker.category.as_str()).filter(|name| !name.is_empty()),
            restarts: breaker.restarts,
            limit: breaker.limit,
            window_s: seconds_ms(breaker.window_ms),
            trips: breaker.trips,
            open: breaker.open.as_ref().map(|open| BreakerOpen {
                since: time(Some(open.since_us)),
                until: time(Some(open.until_us)),
                seq: open.seq,
                unit: &open.unit,
            }),
            held: &breaker.held,
        }
    }
}

#[derive(Serialize)]
struct SummaryBody {
    known: u32,
    wanted: u32,
    running: u32,
    starting: u32,
    waiting: u32,
    stopping: u32,
    backoff: u32,
    failed: u32,
    completed: u32,
    stopped: u32,
}

impl From<Summary> for SummaryBody {
    fn from(s: Summary) -> Self {
        let Summary {
            known,
            wanted,
            running,
            starting,
            waiting,
            stopping,
            backoff,
            failed,
            completed,
            stopped,
        } = s;
        Self {
            known,
            wanted,
            running,
            starting,
            waiting,
            stopping,
            backoff,
            failed,
            completed,
            stopped,
        }
    }
}

/// Units alone, for `list` and `failed`.
#[derive(Serialize)]
pub struct UnitsBody<'a> {
    units: Vec<Unit<'a>>,
}

impl<'a> UnitsBody<'a> {
    /// These units.
    pub fn new(units: &'a [UnitStatus], now_us: u64) -> Self {
        Self {
            units: units.iter().map(|u| Unit::new(u, now_us)).collect(),
        }
    }
}

/// One unit.
#[derive(Serialize)]
pub struct Unit<'a> {
    name: &'a str,
    description: &'a str,
    state: State,
    health: Health,
    desired: &'static str,
    next_try: Option<String>,
    needs_restart: bool,
    pid: Option<u32>,
    invocation: Option<&'a str>,
    since: String,
    uptime_s: Option<f64>,
    ready: bool,
    ready_since: Option<String>,
    restarts: u64,
    starts: u64,
    last_exit: Option<LastExitBody>,
    last_error: Option<&'a str>,
    blocked_by: Vec<BlockerBody<'a>>,
    category: &'a str,
    lifecycle: &'a str,
    critical: bool,
    deprecated: Option<&'a str>,
    added_by: Option<&'a str>,
    note: Option<&'a str>,
    status_text: Option<&'a str>,
    cpu_s: Option<f64>,
    memory_bytes: Option<u64>,
    remains: &'a [u32],
    held: Option<HoldBody<'a>>,
    /// Why `health` is what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    health_text: Option<&'a str>,
    metrics: std::collections::BTreeMap<&'a str, f64>,
    fds_stored: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    last_lines: Vec<LogBody<'a>>,
    failures: u64,
    capsules: Vec<CapsuleBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<LogStatusBody>,
}

/// What became of its output, where everything is told.
#[derive(Serialize)]
struct LogStatusBody {
    bytes: u64,
    lines: u64,
    dropped_bytes: u64,
    dropped_lines: u64,
    is_blocked: bool,
}

impl From<LogStatus> for LogStatusBody {
    fn from(log: LogStatus) -> Self {
        Self {
            bytes: log.bytes,
            lines: log.lines,
            dropped_bytes: log.dropped_bytes,
            dropped_lines: log.dropped_lines,
            is_blocked: log.is_blocked,
        }
    }
}

impl<'a> Unit<'a> {
    /// Everything known of it. `uptime_s` counts from readiness while it runs.
    pub fn new(unit: &'a UnitStatus, now_us: u64) -> Self {
        let up = matches!(unit.state, State::Running | State::Reloading);
        let up_since = unit.ready_us.unwrap_or(unit.since_us);
        Self {
            name: &unit.name,
            description: &unit.description,
            state: unit.state,
            health: unit.health,
            desired: if unit.desired_up { "up" } else { "down" },
            next_try: time(unit.next_try_us),
            needs_restart: unit.needs_restart,
            pid: unit.pid,
            invocation: unit.invocation.as_deref(),
            since: utc(unit.since_us),
            uptime_s: up.then(|| seconds_us(now_us.saturating_sub(up_since))),
            ready: unit.ready,
            ready_since: time(unit.ready_us),
            restarts: unit.restarts,
            starts: unit.starts,
            last_exit: unit.last_exit.map(LastExitBody::from),
            last_error: unit.last_error.as_deref(),
            blocked_by: unit.blocked_by.iter().map(BlockerBody::from).collect(),
            category: &unit.category,
            lifecycle: &unit.lifecycle,
            critical: unit.critical,
            deprecated: unit.deprecated.as_deref(),
            added_by: unit.added_by.as_deref(),
            note: unit.note.as_deref(),
            status_text: unit.status_text.as_deref(),
            cpu_s: unit.cpu_us.map(seconds_us),
            memory_bytes: unit.memory_bytes,
            remains: &unit.remains,
            held: unit.held.as_ref().map(HoldBody::from),
            health_text: unit.health_text.as_deref(),
            metrics: unit.metrics.iter().map(|(name, n)| (name.as_str(), *n)).collect(),
            fds_stored: unit.fds_stored,
            last_lines: log_bodies(&unit.last_lines, unit.invocation.as_deref()),
            failures: unit.failures,
            capsules: unit.capsules.iter().map(CapsuleBody::from).collect(),
            log: unit.log.map(LogStatusBody::from),
        }
    }
}

/// An operator's hold.
#[derive(Serialize)]
struct HoldBody<'a> {
    by: &'a By,
    note: Option<&'a str>,
    since: String,
    until: Option<String>,
}

impl<'a> From<&'a Hold> for HoldBody<'a> {
    fn from(hold: &'a Hold) -> Self {
        Self {
            by: &hold.by,
            note: hold.note.as_deref(),
            since: utc(hold.since_us),
            until: time(hold.until_us),
        }
    }
}

/// `{"code":1,"at":…}`, `{"signal":"SIGKILL","at":…}`, or `{"code":null,"at":…}` when nobody can say.
#[derive(Serialize)]
#[serde(untagged)]
enum LastExitBody {
    Code { code: Option<i32>, at: String },
    Signal { signal: String, core: bool, at: String },
}

impl From<LastExit> for LastExitBody {
    fn from(last: LastExit) -> Self {
        let at = utc(last.at_us);
        match last.exit {
            Exit::Code(code) => Self::Code { code: Some(code), at },
            Exit::Signal { signal, core } => Self::Signal {
                signal: signal_name(signal),
                core,
                at,
            },
            Exit::Unknown => Self::Code { code: None, at },
        }
    }
}

#[derive(Serialize)]
struct BlockerBody<'a> {
    unit: &'a str,
    why: &'a str,
}

impl<'a> From<&'a Blocker> for BlockerBody<'a> {
    fn from(blocker: &'a Blocker) -> Self {
        Self {
            unit: &blocker.unit,
            why: &blocker.why,
        }
    }
}

/// `start`, `stop`, and whatever else ends with a verdict for each unit.
#[derive(Serialize)]
pub struct JobBody<'a> {
    /// `done`, `failed`, `partly`, `refused` or `taken` (without waiting).
    pub result: &'static str,
    /// Units named.
    pub named: &'a [String],
    /// Units not named that were touched too.
    pub also: &'a [String],
    units: Vec<VerdictBody<'a>>,
}

impl<'a> JobBody<'a> {
    /// A job and how it ended.
    pub fn new(result: &'static str, plan: &'a JobPlan, verdicts: &'a [Verdict]) -> Self {
        let units = verdicts.iter().map(VerdictBody::from).collect();
        Self {
            result,
            named: &plan.units,
            also: &plan.also,
            units,
        }
    }
}

#[derive(Serialize)]
struct VerdictBody<'a> {
    name: &'a str,
    outcome: &'static str,
    text: &'a str,
    took_s: f64,
    killed: bool,
    remains: &'a [u32],
    next_try: Option<String>,
}

impl<'a> From<&'a Verdict> for VerdictBody<'a> {
    fn from(v: &'a Verdict) -> Self {
        Self {
            name: &v.unit,
            outcome: outcome(v.outcome),
            text: &v.text,
            took_s: seconds_ms(v.took_ms),
            killed: v.killed,
            remains: &v.remains,
            next_try: time(v.next_try_us),
        }
    }
}

/// The word for a verdict.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Already => "already",
        Outcome::Failed => "failed",
        Outcome::Superseded => "superseded",
        Outcome::Refused => "refused",
    }
}

/// One line of `logs -o json`.
#[derive(Serialize)]
pub struct LogBody<'a> {
    time: String,
    unit: &'a str,
    /// As everywhere else; null where nobody knows it.
    invocation: Option<String>,
    /// Its number in the file.
    life: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<Severity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<Stream>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_base64: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    partial: bool,
    #[serde(skip_serializing_if = "is_false")]
    continues: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes references
fn is_false(value: &bool) -> bool {
    !value
}

/// The first half of an invocation, which all of a node's have in common.
fn seed(invocation: Option<&str>) -> Option<u64> {
    u64::from_str_radix(invocation?.get(..16)?, 16).ok()
}

impl<'a> LogBody<'a> {
    /// A line of the node with this random number.
    pub fn new(line: &'a LogLine, seed: Option<u64>) -> Self {
        let message = std::str::from_utf8(&line.message).ok();
        Self {
            time: utc(line.at_us),
            unit: &line.unit,
            // What is no record is of no life.
            invocation: seed
                .filter(|_| line.invocation != 0)
                .map(|seed| format!("{seed:016x}{:016x}", line.invocation)),
            life: line.invocation,
            priority: line.severity,
            stream: line.stream,
            message,
            message_base64: if message.is_none() {
                Some(base64(&line.message))
            } else {
                None
            },
            partial: line.end != LineEnd::Whole,
            continues: line.end == LineEnd::Continues,
        }
    }
}

/// Lines of the node that `invocation` is of.
fn log_bodies<'a>(lines: &'a [LogLine], invocation: Option<&str>) -> Vec<LogBody<'a>> {
    let seed = seed(invocation);
    lines.iter().map(|line| LogBody::new(line, seed)).collect()
}

/// RFC 4648 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            if i <= chunk.len() {
                text.push(char::from(ALPHABET[(word >> (18 - 6 * i) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_the_rfc_has_it() {
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn json_cannot_drive_a_terminal_and_keeps_its_value() {
        let foreign = "\x1b]0;x\x07 \u{9b}31m \u{202e} \u{e0041} \u{7f} gr\u{fc}n";
        let json = text(&foreign).expect("text");
        assert!(json.chars().all(|c| !c.is_control() && !deceives(c)), "{json}");
        assert_eq!(
            serde_json::from_str::<String>(&json).expect("reads back"),
            foreign
        );
    }
}

/// One failure as JSON.
#[derive(Serialize)]
pub struct CapsuleBody<'a> {
    seq: u64,
    at: String,
    invocation: &'a str,
    kind: FailureKind,
    text: &'a str,
    code: Option<i32>,
    signal: Option<String>,
    core: Option<bool>,
    oom: Oom,
    lived_s: Option<f64>,
    ready_s: Option<f64>,
    cpu_s: Option<f64>,
    memory_peak_bytes: Option<u64>,
    digest: &'a str,
    last_worked: Option<WorkedBody<'a>>,
    changed: Vec<ChangedBody<'a>>,
    last_lines: Option<Vec<LogBody<'a>>>,
}

#[derive(Serialize)]
struct WorkedBody<'a> {
    invocation: &'a str,
    until: String,
    is_this: bool,
}

#[derive(Serialize)]
struct ChangedBody<'a> {
    kind: ChangedKind,
    text: &'a str,
}

impl<'a> From<&'a Capsule> for CapsuleBody<'a> {
    fn from(capsule: &'a Capsule) -> Self {
        let (code, signal, core) = match capsule.exit {
            Some(Exit::Code(code)) => (Some(code), None, None),
            Some(Exit::Signal { signal, core }) => (None, Some(signal_name(signal)), Some(core)),
            Some(Exit::Unknown) | None => (None, None, None),
        };
        let changed = |changed: &'a Changed| ChangedBody {
            kind: changed.kind,
            text: &changed.text,
        };
        Self {
            seq: capsule.seq,
            at: utc(capsule.at_us),
            invocation: &capsule.invocation,
            kind: capsule.kind,
            text: &capsule.text,
            code,
            signal,
            core,
            oom: capsule.oom,
            lived_s: capsule.lived_ms.map(seconds_ms),
            ready_s: capsule.ready_ms.map(seconds_ms),
            cpu_s: capsule.cpu_us.map(seconds_us),
            memory_peak_bytes: capsule.memory_peak,
            digest: &capsule.digest,
            last_worked: capsule.worked.as_ref().map(|worked| WorkedBody {
                invocation: &worked.invocation,
                until: utc(worked.until_us),
                is_this: worked.is_this,
            }),
            changed: capsule.changed.iter().map(changed).collect(),
            last_lines: capsule
                .is_tail_known
                .then(|| log_bodies(&capsule.tail, Some(&capsule.invocation))),
        }
    }
}
