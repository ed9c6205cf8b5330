//! The dashboard: the page and what it is made of, and the two answers that it lives from. `/dashboard.json` has all that
//! the page shows at once, `/dashboard/UNIT.json` what one unit's page shows besides.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use proto::reply::{Capsule, Event, LogLine, Oom, State};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::health::{self, daemon, node_uptime, word};
use super::names::{self, key, seconds, utc};
use super::reply::{self, Answer};
use super::routes::Asked;
use super::server::Shared;
use super::types::TailAsked;
use crate::clock::Now;
use crate::limits;
use crate::published::{Picture, Row};
use crate::spec::Lifecycle;
use crate::state::recorder::{Entry, Reading};

/// A file of the page.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// Where it is.
    pub path: &'static str,
    /// Its `Content-Type`.
    pub kind: &'static str,
    /// It.
    pub bytes: &'static [u8],
}

const ASSETS: [Asset; 3] = [
    Asset {
        path: "/",
        kind: "text/html; charset=utf-8",
        bytes: include_bytes!("page/index.html"),
    },
    Asset {
        path: "/page.css",
        kind: "text/css; charset=utf-8",
        bytes: include_bytes!("page/page.css"),
    },
    Asset {
        path: "/page.js",
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("page/page.js"),
    },
];

/// The file of the page at `path`.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

/// A unit's last changes: when, in µs since 1970, and to which state.
type Strip = VecDeque<(u64, State)>;

/// The last changes of every unit, read from the flight recorder once and kept up to date from then on.
#[derive(Debug, Default)]
pub struct Histories(Mutex<Known>);

#[derive(Debug, Default, Clone)]
struct Known {
    is_read: bool,
    last: u64,
    strips: BTreeMap<String, Strip>,
}

impl Known {
    fn on_event(&mut self, event: &Event) {
        if event.seq <= self.last {
            return;
        }
        self.last = event.seq;
        let strip = self.strips.entry(event.unit.clone()).or_default();
        if strip.back().is_some_and(|(_, state)| *state == event.to) {
            return;
        }
        if strip.len() == limits::HTTP_HISTORY {
            strip.pop_front();
        }
        strip.push_back((event.at_us, event.to));
    }
}

impl Histories {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of what has happened since the last time.
    async fn catch_up(&self, shared: &Shared) {
        let (is_read, last) = {
            let known = self.lock();
            (known.is_read, known.last)
        };
        let events = &shared.sources.events;
        if !is_read || events.first().is_some_and(|first| first > last + 1) {
            let folder = shared.sources.recorder.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut known = Known::default();
                let mut reading = Reading::after(&folder, 0)?;
                loop {
                    let chunk = reading.next_chunk(limits::RECORDER_CHUNK);
                    if chunk.is_empty() {
                        return Ok::<Known, std::io::Error>(known);
                    }
                    for entry in chunk {
                        if let Entry::Event(event) = entry {
                            known.on_event(&event);
                        }
                    }
                }
            });
            if let Ok(Ok(mut read)) = read.await {
                read.is_read = true;
                let mut known = self.lock();
                if read.last >= known.last {
                    *known = read;
                }
            }
        }
        let last = self.lock().last;
        let (kept, _) = events.after(last);
        let mut known = self.lock();
        for event in kept {
            known.on_event(&event);
        }
        known.is_read = true;
    }
}

fn strip(known: &Known, unit: &str) -> Value {
    let strip = known.strips.get(unit);
    strip
        .into_iter()
        .flatten()
        .map(|(at, state)| json!([seconds(*at), word(*state)]))
        .collect()
}

fn lifecycle(row: &Row) -> &'static str {
    match row.spec.lifecycle {
        Lifecycle::Active => "active",
        Lifecycle::Experimental => "experimental",
        Lifecycle::Optional => "optional",
        Lifecycle::Advanced => "advanced",
    }
}

/// A unit as the page shows it in its list.
fn unit_of_page(row: &Row, known: &Known, now_us: u64) -> Value {
    let unit = &row.status;
    let mut value = daemon(row, now_us);
    let edges = [
        (&row.spec.requires, "requires"),
        (&row.spec.wants, "wants"),
        (&row.spec.after, "after"),
    ];
    let depends: Vec<Value> = edges
        .into_iter()
        .flat_map(|(list, kind)| {
            list.iter()
                .map(move |name| json!({ "unit": name.as_str(), "kind": kind }))
        })
        .collect();
    let more = [
        ("name", json!(unit.name)),
        ("key", json!(key(&unit.name))),
        ("description", json!(unit.description)),
        ("desired", json!(if unit.desired_up { "up" } else { "down" })),
        ("since_s", json!(seconds(unit.since_us))),
        ("ready_s", json!(unit.ready_us.map(seconds))),
        ("next_try_s", json!(unit.next_try_us.map(seconds))),
        ("starts", json!(unit.starts)),
        ("depends_on", json!(depends)),
        ("profile", json!(row.profile)),
        ("added_by", json!(unit.added_by)),
        ("lifecycle", json!(lifecycle(row))),
        ("deprecated", json!(unit.deprecated)),
        ("note", json!(unit.note)),
        ("status_text", json!(unit.status_text)),
        ("needs_restart", json!(unit.needs_restart)),
        (
            "held",
            json!(
                unit.held
                    .as_ref()
                    .map(|hold| hold.note.clone().unwrap_or_default())
            ),
        ),
        ("invocation", json!(unit.invocation)),
        ("history", strip(known, &unit.name)),
    ];
    if let Value::Object(map) = &mut value {
        map.extend(more.map(|(name, value)| (name.to_owned(), value)));
    }
    value
}

fn header(picture: &Picture, now: Now) -> Map<String, Value> {
    let header = &picture.header;
    let score = health::score(picture);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in health::wanted(picture) {
        *counts.entry(word(row.status.state)).or_default() += 1;
    }
    let fields = [
        ("node", json!(header.node)),
        ("version", json!(header.version)),
        ("profiles", json!(header.profiles)),
        ("uptime_seconds", json!(node_uptime(picture, now))),
        ("containment", json!(header.containment)),
        ("settled", json!(header.is_settled)),
        ("stopping", json!(header.is_stopping)),
        ("notices", json!(header.notices)),
        ("breakers", json!(health::breakers(picture))),
        ("status", json!(score.word)),
        ("score", json!(score.score)),
        ("counts", json!(counts)),
        ("known", json!(picture.rows.len())),
        ("seq", json!(header.last_seq)),
        ("timestamp", json!(seconds(now.wall_us))),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// `/dashboard.json`: the node, and every unit that it is for. `?unit=NAME,NAME` leaves out the others.
pub async fn node(asked: &Asked<'_>, shared: &Arc<Shared>) -> Answer {
    shared.histories.catch_up(shared).await;
    let picture = shared.sources.published.look();
    let now = Now::read();
    let mut value = header(&picture, now);
    value.insert("shows_logs".to_owned(), json!(asked.shows_logs));
    let named = asked.parameter("unit");
    let only: Option<Vec<&str>> = named.as_ref().map(|names| names.split(',').collect());
    let known = shared.histories.lock();
    let units: Vec<Value> = health::wanted(&picture)
        .filter(|row| {
            only.as_ref()
                .is_none_or(|only| only.contains(&row.status.name.as_str()))
        })
        .map(|row| unit_of_page(row, &known, now.wall_us))
        .collect();
    value.insert("units".to_owned(), json!(units));
    reply::json(StatusCode::OK, &Value::Object(value))
}

/// A line, as text that a page can show; bytes that are no UTF-8 are shown as such.
fn line(line: &LogLine) -> Value {
    json!({ "time": utc(line.at_us), "text": String::from_utf8_lossy(&line.message) })
}

/// `/dashboard/UNIT.json`: one unit with its last events, what it uses and, where they may be shown, its last lines.
pub async fn unit(asked: &Asked<'_>, shared: &Arc<Shared>, row: &Arc<Row>) -> Answer {
    shared.histories.catch_up(shared).await;
    let picture = shared.sources.published.look();
    let used = shared.measure.used(&picture).await;
    let now = Now::read();
    let mut value = unit_of_page(row, &shared.histories.lock(), now.wall_us);
    let (kept, _) = shared.sources.events.after(0);
    let of_unit = kept.iter().rev().filter(|event| event.unit == row.status.name);
    let mut events: Vec<Value> = of_unit
        .take(limits::HTTP_UNIT_EVENTS)
        .map(|event| names::event(event))
        .collect();
    events.reverse();
    let dependents: Vec<&str> = picture
        .rows
        .values()
        .filter(|other| other.spec.requires.contains(&row.spec.name))
        .map(|other| other.status.name.as_str())
        .collect();
    let told = if asked.shows_logs {
        tail(shared, &row.status.name).await
    } else {
        None
    };
    let (lines, capsules) = told.unzip();
    let used = used.get(&row.spec.name);
    let more = [
        ("events", json!(events)),
        ("required_by", json!(dependents)),
        ("cpu_seconds", json!(used.map(|used| used.cpu_us as f64 / 1e6))),
        ("memory_bytes", json!(used.map(|used| used.memory_bytes))),
        ("shows_logs", json!(asked.shows_logs)),
        ("last_lines", json!(lines)),
        ("capsules", json!(capsules)),
        ("timestamp", json!(seconds(now.wall_us))),
    ];
    if let Value::Object(map) = &mut value {
        map.extend(more.map(|(name, value)| (name.to_owned(), value)));
    }
    reply::json(StatusCode::OK, &value)
}

/// The logger is asked by way of the manager; both are given a moment.
async fn tail(shared: &Shared, unit: &str) -> Option<(Vec<Value>, Vec<Value>)> {
    let (answer, told) = oneshot::channel();
    let asked = TailAsked {
        unit: unit.to_owned(),
        answer,
    };
    let lines = async {
        shared.sources.tails.send(asked).await.ok()?;
        told.await.ok()
    };
    let (lines, capsules) = tokio::time::timeout(TAIL_TIMEOUT, lines).await.ok()??;
    Some((
        lines.iter().map(line).collect(),
        capsules.iter().rev().map(capsule).collect(),
    ))
}

/// A failure with all that is known of it, the latest first.
fn capsule(capsule: &Capsule) -> Value {
    json!({
        "time": utc(capsule.at_us),
        "invocation": capsule.invocation,
        "kind": capsule.kind,
        "text": capsule.text,
        "oom": capsule.oom != Oom::No,
        "changed": capsule.changed.iter().map(|changed| &changed.text).collect::<Vec<_>>(),
        "lines": capsule.tail.iter().map(line).collect::<Vec<_>>(),
    })
}

/// How long the last lines are waited for.
const TAIL_TIMEOUT: Duration = Duration::from_secs(1);
