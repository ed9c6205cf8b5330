//! `/metrics`, in Prometheus' text format or, where the client asks for it, in OpenMetrics'. Written out here: both formats
//! are lines of text, and what matters is in the names. What is counted comes from what the manager remembers
//! ([`crate::counts`]), so it goes on over a manager's death.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::StatusCode;
use proto::checks::CheckStatus;
use proto::reply::{BreakerStatus, Health, State};

use super::health::{self, is_up, node_uptime, uptime, word};
use super::reply::{self, Answer};
use super::server::Shared;
use crate::clock::Now;
use crate::counts::{Counts, UnitCounts};
use crate::published::Row;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const STATES: [State; 10] = [
    State::Stopped,
    State::Waiting,
    State::Starting,
    State::Running,
    State::Reloading,
    State::Stopping,
    State::Backoff,
    State::Failed,
    State::Completed,
    State::Held,
];
const HEALTHS: [(Health, &str); 4] = [
    (Health::Healthy, "healthy"),
    (Health::Degraded, "degraded"),
    (Health::Unhealthy, "unhealthy"),
    (Health::Unknown, "unknown"),
];

/// What a family of samples is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
}

/// The text as it grows.
#[derive(Debug)]
pub struct Exposition {
    text: String,
    is_open: bool,
    name: &'static str,
    kind: Kind,
}

impl Exposition {
    /// Nothing yet; OpenMetrics or not.
    pub fn new(is_open: bool) -> Self {
        Self {
            text: String::new(),
            is_open,
            name: "",
            kind: Kind::Gauge,
        }
    }

    fn family(&mut self, kind: Kind, name: &'static str, help: &str) {
        (self.name, self.kind) = (name, kind);
        let (word, suffix) = match (kind, self.is_open) {
            (Kind::Gauge, _) => ("gauge", ""),
            (Kind::Counter, true) => ("counter", ""),
            (Kind::Counter, false) => ("counter", "_total"),
        };
        // Writing to a String never fails.
        let _ = writeln!(
            self.text,
            "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {word}"
        );
    }

    fn gauge(&mut self, name: &'static str, help: &str) {
        self.family(Kind::Gauge, name, help);
    }

    fn counter(&mut self, name: &'static str, help: &str) {
        self.family(Kind::Counter, name, help);
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.text.push_str(self.name);
        if self.kind == Kind::Counter {
            self.text.push_str("_total");
        }
        for (i, (name, value)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{name}=\"", if i == 0 { '{' } else { ',' });
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let value = if value.is_nan() {
            "NaN".to_owned()
        } else if value.is_infinite() {
            if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
        } else {
            value.to_string()
        };
        let _ = writeln!(self.text, " {value}");
    }

    fn end(mut self) -> String {
        if self.is_open {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// Whether OpenMetrics is asked for.
fn wants_open(accept: &str) -> bool {
    accept
        .split(',')
        .any(|kind| kind.trim().starts_with("application/openmetrics-text"))
}

/// The answer to `/metrics`.
pub async fn metrics(shared: &Arc<Shared>, accept: &str) -> Answer {
    let picture = shared.sources.published.look();
    let used = shared.measure.used(&picture).await;
    let now = Now::read();
    let is_open = wants_open(accept);
    let mut out = Exposition::new(is_open);
    let rows: Vec<&Row> = health::wanted(&picture).collect();
    let header = &picture.header;
    let bit = |is: bool| if is { 1.0 } else { 0.0 };

    out.gauge("ringrift_build_info", "The daemon's version; always 1.");
    out.sample(&[("version", header.version)], 1.0);
    out.gauge("ringrift_node_info", "The node and its profiles; always 1.");
    let profiles = header.profiles.join(",");
    out.sample(&[("node", header.node.as_str()), ("profile", &profiles)], 1.0);
    out.gauge("ringrift_uptime_seconds", "How long the daemon has been up.");
    out.sample(&[], node_uptime(&picture, now));
    out.gauge(
        "ringrift_settled",
        "1 when every wanted unit is up or has failed its first attempt.",
    );
    out.sample(&[], bit(header.is_settled));
    out.gauge("ringrift_stopping", "1 while the node shuts down.");
    out.sample(&[], bit(header.is_stopping));
    out.gauge(
        "ringrift_score_ratio",
        "Units that are up among those that should be.",
    );
    out.sample(&[], health::score(&picture).score);
    out.gauge("ringrift_units", "Units of this node by state.");
    for state in STATES {
        let n = rows.iter().filter(|row| row.status.state == state).count();
        out.sample(&[("state", word(state))], n as f64);
    }
    out.counter(
        "ringrift_role_restarts",
        "Deaths of the daemon's own processes, after which they were started again.",
    );
    out.sample(&[("role", "manager")], header.deaths.0 as f64);
    out.sample(&[("role", "logger")], header.deaths.1 as f64);
    out.counter(
        "ringrift_engine_steps",
        "Steps of the daemon that changed something.",
    );
    out.sample(&[], picture.counts.steps as f64);
    out.counter("ringrift_events", "Events by their word.");
    for (event, n) in &picture.counts.events {
        out.sample(&[("event", event)], *n as f64);
    }
    out.counter("ringrift_control_requests", "Requests of clients by their verb.");
    for (verb, n) in &picture.counts.requests {
        out.sample(&[("verb", verb)], *n as f64);
    }

    out.counter(
        "ringrift_http_requests",
        "What was asked over HTTP, by path and by the status of the answer.",
    );
    for (path, by_status) in &picture.counts.http {
        for (status, n) in by_status {
            out.sample(&[("path", path), ("code", &status.to_string())], *n as f64);
        }
    }
    out.gauge("ringrift_http_streams", "Streams of events that are open.");
    out.sample(&[], shared.streams.load(Ordering::Relaxed) as f64);

    breakers(&mut out, &header.breakers);
    per_unit(&mut out, &rows, &picture.counts, &used, now);
    per_log(&mut out, &rows, &picture.counts);
    per_check(&mut out, &rows, &picture.counts);
    reply::whole(StatusCode::OK, if is_open { OPEN } else { TEXT }, out.end())
}

/// What limits restarts. The node's has an empty category.
fn breakers(out: &mut Exposition, breakers: &[BreakerStatus]) {
    type Of = fn(&BreakerStatus) -> f64;
    let mut family = |kind, name, help: &str, of: Of| {
        out.family(kind, name, help);
        for breaker in breakers {
            out.sample(&[("category", &breaker.category)], of(breaker));
        }
    };
    let name = "ringrift_breaker_open";
    let help = "1 while automatic restarts of this category (or of the node) are held back.";
    family(
        Kind::Gauge,
        name,
        help,
        |b| if b.open.is_some() { 1.0 } else { 0.0 },
    );
    let name = "ringrift_breaker_restarts";
    let help = "Automatic restarts within the breaker's window.";
    family(Kind::Gauge, name, help, |b| f64::from(b.restarts));
    let name = "ringrift_breaker_limit";
    let help = "How many automatic restarts may be made within the breaker's window.";
    family(Kind::Gauge, name, help, |b| f64::from(b.limit));
    let name = "ringrift_breaker_held_units";
    let help = "Units that wait for the breaker to close.";
    family(Kind::Gauge, name, help, |b| b.held.len() as f64);
    let name = "ringrift_breaker_trips";
    let help = "How often the breaker has opened since the node began.";
    family(Kind::Counter, name, help, |b| b.trips as f64);
}

/// A unit's number, where it has one.
type Value<'a> = &'a dyn Fn(&Row) -> Option<f64>;

fn per_unit(out: &mut Exposition, rows: &[&Row], counts: &Counts, used: &super::measure::Used, now: Now) {
    let bit = |is: bool| if is { 1.0 } else { 0.0 };
    out.gauge("ringrift_unit_info", "What a unit is; always 1.");
    for row in rows {
        let unit = &row.status;
        let labels = [
            ("daemon", unit.name.as_str()),
            ("category", &unit.category),
            ("critical", if unit.critical { "true" } else { "false" }),
        ];
        out.sample(&labels, 1.0);
    }
    out.gauge(
        "ringrift_unit_state",
        "1 for the state that a unit is in, 0 for the others.",
    );
    for row in rows {
        for state in STATES {
            let labels = [("daemon", row.status.name.as_str()), ("state", word(state))];
            out.sample(&labels, bit(row.status.state == state));
        }
    }
    out.gauge(
        "ringrift_unit_health",
        "1 for the health that a unit is in, 0 for the others.",
    );
    for row in rows {
        for (health, word) in HEALTHS {
            let labels = [("daemon", row.status.name.as_str()), ("health", word)];
            out.sample(&labels, bit(row.status.health == health));
        }
    }
    let each: [(&'static str, &str, Value<'_>); 8] = [
        ("ringrift_unit_wanted", "1 when a unit should be up.", &|row| {
            Some(bit(row.status.desired_up))
        }),
        (
            "ringrift_unit_up",
            "1 when a unit runs, or has done its work.",
            &|row| Some(bit(is_up(row))),
        ),
        (
            "ringrift_unit_ready",
            "1 when other units may rely on it.",
            &|row| Some(bit(row.status.ready)),
        ),
        (
            "ringrift_unit_uptime_seconds",
            "How long a unit's present life has been ready; 0 where it is not.",
            &|row| Some(uptime(row, now.wall_us)),
        ),
        (
            "ringrift_unit_start_to_ready_seconds",
            "From the launch of a unit's present life to its readiness.",
            &|row| {
                let (ready, launched) = (row.status.ready_us?, row.launched_us?);
                Some(super::names::seconds(ready.saturating_sub(launched)))
            },
        ),
        (
            "ringrift_unit_next_try_timestamp_seconds",
            "When a unit that is down is tried again, in seconds since 1970.",
            &|row| row.status.next_try_us.map(super::names::seconds),
        ),
        (
            "ringrift_unit_memory_bytes",
            "Resident memory of all processes of a unit.",
            &|row| Some(used.get(&row.spec.name)?.memory_bytes as f64),
        ),
        (
            "ringrift_unit_processes_left",
            "Processes of a unit that outlived its last stop.",
            &|row| Some(row.status.remains.len() as f64),
        ),
    ];
    for (name, help, value) in each {
        out.gauge(name, help);
        for row in rows {
            if let Some(value) = value(row) {
                out.sample(&[("daemon", &row.status.name)], value);
            }
        }
    }
    out.counter(
        "ringrift_unit_cpu_seconds",
        "CPU time of all processes of a unit's present life.",
    );
    for row in rows {
        if let Some(used) = used.get(&row.spec.name) {
            out.sample(&[("daemon", &row.status.name)], used.cpu_us as f64 / 1e6);
        }
    }
    let of = |row: &Row| counted(counts, row);
    out.counter("ringrift_unit_starts", "Launches of a unit's main process.");
    for row in rows {
        out.sample(&[("daemon", &row.status.name)], of(row).starts as f64);
    }
    out.counter("ringrift_unit_restarts", "Automatic restarts of a unit.");
    for row in rows {
        out.sample(&[("daemon", &row.status.name)], of(row).restarts as f64);
    }
    out.counter("ringrift_unit_health_changes", "Changes of a unit's health.");
    for row in rows {
        out.sample(&[("daemon", &row.status.name)], of(row).health_changes as f64);
    }
    out.counter(
        "ringrift_unit_exits",
        "Ends of a unit's main process, by how it ended.",
    );
    for row in rows {
        let unit = of(row);
        for (reason, n) in [
            ("success", unit.exits_success),
            ("failure", unit.exits_failure),
            ("signal", unit.exits_signal),
            ("unknown", unit.exits_unknown),
        ] {
            out.sample(&[("daemon", &row.status.name), ("reason", reason)], n as f64);
        }
    }
    out.gauge(
        "ringrift_daemon_metric",
        "Numbers that a daemon reports of itself.",
    );
    for row in rows {
        for (name, value) in &row.status.metrics {
            out.sample(&[("daemon", &row.status.name), ("name", name)], *value);
        }
    }
}

fn counted(counts: &Counts, row: &Row) -> UnitCounts {
    counts.units.get(&row.spec.name).copied().unwrap_or_default()
}

/// One of a unit's counts.
type Count = fn(&UnitCounts) -> u64;

/// What their logs were given.
fn per_log(out: &mut Exposition, rows: &[&Row], counts: &Counts) {
    let each: [(&'static str, &str, Count); 4] = [
        (
            "ringrift_unit_log_bytes",
            "Bytes that a unit wrote and the logger took.",
            |unit| unit.log.bytes,
        ),
        (
            "ringrift_unit_log_lines",
            "Lines in a unit's log; of one that is cut at its bound, each piece.",
            |unit| unit.log.lines,
        ),
        (
            "ringrift_unit_log_dropped_bytes",
            "Bytes that a unit wrote and that could be kept nowhere, as its log could not be written for too long.",
            |unit| unit.log.lost,
        ),
        (
            "ringrift_unit_log_dropped_lines",
            "Lines that were dropped by [log] on_full = \"drop\".",
            |unit| unit.log.lost_lines,
        ),
    ];
    for (name, help, value) in each {
        out.counter(name, help);
        for row in rows {
            out.sample(
                &[("daemon", &row.status.name)],
                value(&counted(counts, row)) as f64,
            );
        }
    }
    out.gauge(
        "ringrift_unit_log_blocked",
        "1 while a unit's log cannot be written: what it writes waits in its pipe.",
    );
    for row in rows {
        let is_blocked = counted(counts, row).log.is_blocked;
        out.sample(&[("daemon", &row.status.name)], f64::from(u8::from(is_blocked)));
    }
}

/// How they were checked, of those that are.
fn per_check(out: &mut Exposition, rows: &[&Row], counts: &Counts) {
    let checked: Vec<(&Row, &CheckStatus)> = rows
        .iter()
        .filter_map(|row| Some((*row, row.status.check.as_deref()?)))
        .collect();
    out.counter(
        "ringrift_unit_probes",
        "Probes of a unit, those of its readiness among them, by result; unasked: it could not be asked, which says nothing of it.",
    );
    for (row, _) in &checked {
        let unit = counted(counts, row).checks;
        for (result, n) in [
            ("passed", unit.passed),
            ("failed", unit.failed),
            ("unasked", unit.unasked),
        ] {
            out.sample(&[("daemon", &row.status.name), ("result", result)], n as f64);
        }
    }
    out.counter(
        "ringrift_unit_probe_duration_seconds",
        "How long the probes of a unit took, all together.",
    );
    for (row, _) in &checked {
        let took = counted(counts, row).checks.took_us;
        out.sample(&[("daemon", &row.status.name)], super::names::seconds(took));
    }
    out.counter(
        "ringrift_unit_reports_unhealthy",
        "Times that a unit said of itself that it is unhealthy, as often as that counts.",
    );
    for (row, _) in &checked {
        let n = counted(counts, row).checks.reports_failed;
        out.sample(&[("daemon", &row.status.name)], n as f64);
    }
    out.counter("ringrift_unit_watchdogs_missed", "Watchdogs that a unit missed.");
    for (row, _) in &checked {
        let n = counted(counts, row).checks.watchdogs_missed;
        out.sample(&[("daemon", &row.status.name)], n as f64);
    }
    out.gauge(
        "ringrift_unit_last_probe_duration_seconds",
        "How long the last probe of a unit took.",
    );
    for (row, check) in &checked {
        let took = check.results.iter().rev().find_map(|result| result.took_us);
        if let Some(took) = took {
            out.sample(&[("daemon", &row.status.name)], super::names::seconds(took));
        }
    }
    out.gauge(
        "ringrift_unit_failures_in_a_row",
        "Probes and reports of a unit that said that it is not well since one said otherwise, whichever are more.",
    );
    for (row, check) in &checked {
        let n = check.failed_probes.max(check.failed_reports);
        out.sample(&[("daemon", &row.status.name)], f64::from(n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(is_open: bool) -> String {
        let mut out = Exposition::new(is_open);
        out.counter("x_seconds", "Help.");
        out.sample(&[("a", "b\"\\\n")], 1.5);
        out.gauge("y", "Help.");
        out.sample(&[], f64::INFINITY);
        out.end()
    }

    #[test]
    fn counters_are_named_as_each_format_wants() {
        let text = "# HELP x_seconds_total Help.\n# TYPE x_seconds_total counter\nx_seconds_total{a=\"b\\\"\\\\\\n\"} 1.5\n\
                    # HELP y Help.\n# TYPE y gauge\ny +Inf\n";
        assert_eq!(written(false), text);
        let open = text
            .replace("# HELP x_seconds_total", "# HELP x_seconds")
            .replace("# TYPE x_seconds_total", "# TYPE x_seconds")
            + "# EOF\n";
        assert_eq!(written(true), open);
    }

    #[test]
    fn openmetrics_is_given_to_whoever_asks_for_it() {
        assert!(wants_open(
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        ));
        assert!(!wants_open("text/plain"));
        assert!(!wants_open(""));
    }
}
