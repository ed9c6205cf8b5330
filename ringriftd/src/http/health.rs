//! `/health`, `/ready`, `/status`: what monitors ask.

use hyper::StatusCode;
use proto::reply::{BreakerStatus, Health, State};
use serde_json::{Map, Value, json};

use super::names::{exit, key, seconds, utc};
use super::reply::{self, Answer};
use crate::clock::Now;
use crate::published::{Picture, Row};
use crate::spec::RestartPolicy;

/// It does what it is wanted for: it runs, or it has done its work.
pub fn is_up(row: &Row) -> bool {
    match row.status.state {
        State::Running | State::Reloading => true,
        State::Completed => true,
        State::Stopped
        | State::Waiting
        | State::Starting
        | State::Stopping
        | State::Backoff
        | State::Failed
        | State::Held => false,
    }
}

/// Since when its present life has been ready, or 0 where it is not.
pub fn uptime(row: &Row, now_us: u64) -> f64 {
    match row.status.state {
        State::Running | State::Reloading => {
            let since = row.status.ready_us.unwrap_or(row.status.since_us);
            seconds(now_us.saturating_sub(since))
        }
        State::Stopped
        | State::Waiting
        | State::Starting
        | State::Stopping
        | State::Backoff
        | State::Failed
        | State::Completed
        | State::Held => 0.0,
    }
}

/// One unit, in the keys that operators know.
pub fn daemon(row: &Row, now_us: u64) -> Value {
    let unit = &row.status;
    json!({
        "state": unit.state,
        "health": unit.health,
        "health_text": unit.health_text,
        "uptime_seconds": uptime(row, now_us),
        "restart_count": unit.restarts,
        "auto_restart": row.spec.restart.policy != RestartPolicy::Never,
        "last_error": unit.last_error,
        "pid": unit.pid,
        "ready": unit.ready,
        "depends_on": row.spec.requires.iter().map(|name| key(name.as_str())).collect::<Vec<_>>(),
        "category": unit.category,
        "critical": unit.critical,
        "metrics": numbers(row),
        "since": utc(unit.since_us),
        "next_try": unit.next_try_us.map(utc),
        "last_exit": unit.last_exit.as_ref().map(exit),
        "blocked_by": unit.blocked_by.iter().map(|b| json!({ "unit": b.unit, "why": b.why })).collect::<Vec<_>>(),
    })
}

/// Numbers that it reported of itself.
fn numbers(row: &Row) -> Map<String, Value> {
    let numbers = row.status.metrics.iter();
    numbers
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect()
}

/// The units that this node is for.
pub fn wanted(picture: &Picture) -> impl Iterator<Item = &Row> {
    picture
        .rows
        .values()
        .map(|row| &**row)
        .filter(|row| row.is_wanted)
}

fn daemons(picture: &Picture, now_us: u64) -> Map<String, Value> {
    wanted(picture)
        .map(|row| (key(&row.status.name), daemon(row, now_us)))
        .collect()
}

/// Seconds since the daemon began.
pub fn node_uptime(picture: &Picture, now: Now) -> f64 {
    now.mono.since(picture.header.started.mono).as_secs_f64()
}

/// `/health`: the supervisor lives, and this is what it has.
pub fn health(picture: &Picture) -> Answer {
    let now = Now::read();
    let header = &picture.header;
    reply::json(
        StatusCode::OK,
        &json!({
            "alive": true,
            "timestamp": seconds(now.wall_us),
            "uptime_seconds": node_uptime(picture, now),
            "node": header.node,
            "profile": header.profiles.join(","),
            "version": header.version,
            "daemons": daemons(picture, now.wall_us),
        }),
    )
}

/// Names of those among the wanted that `is_so`.
fn those(picture: &Picture, is_so: impl Fn(&Row) -> bool) -> Vec<String> {
    wanted(picture)
        .filter(|row| is_so(row))
        .map(|row| key(&row.status.name))
        .collect()
}

fn is_running(row: &Row) -> bool {
    matches!(row.status.state, State::Running | State::Reloading)
}

fn is_failed(row: &Row) -> bool {
    row.status.state == State::Failed
}

/// A critical unit that should be up, and is not.
fn missing(picture: &Picture) -> Vec<String> {
    wanted(picture)
        .filter(|row| row.status.critical && row.status.desired_up && !is_up(row))
        .map(|row| format!("{} is {}", key(&row.status.name), word(row.status.state)))
        .collect()
}

/// A state's stable word.
pub fn word(state: State) -> &'static str {
    match state {
        State::Stopped => "stopped",
        State::Waiting => "waiting",
        State::Starting => "starting",
        State::Running => "running",
        State::Reloading => "reloading",
        State::Stopping => "stopping",
        State::Backoff => "backoff",
        State::Failed => "failed",
        State::Completed => "completed",
        State::Held => "held",
    }
}

/// `/ready`: every wanted critical unit is up.
pub fn ready(picture: &Picture) -> Answer {
    let missing = missing(picture);
    let is_stopping = picture.header.is_stopping;
    let is_ready = missing.is_empty() && !is_stopping;
    let reason = if is_stopping {
        "the node is shutting down".to_owned()
    } else if is_ready {
        "every critical unit is up".to_owned()
    } else {
        missing.join(", ")
    };
    let running = those(picture, is_running);
    let failed = those(picture, is_failed);
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    reply::json(
        status,
        &json!({
            "ready": is_ready,
            "reason": reason,
            "running_count": running.len(),
            "failed_count": failed.len(),
            "running": running,
            "failed": failed,
            "timestamp": seconds(Now::read().wall_us),
        }),
    )
}

/// The node in one word, and how much of what is wanted is up (1.0: all).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// `healthy`: all that is wanted is up, and none says otherwise of itself. `unhealthy`: a critical unit is down for
    /// good, or less than half is up. `degraded`: between the two.
    pub word: &'static str,
    /// Units up among those that should be.
    pub score: f64,
}

/// Judges the node.
pub fn score(picture: &Picture) -> Score {
    let (mut wanted_up, mut up, mut is_well, mut is_lost) = (0u32, 0u32, true, false);
    for row in wanted(picture).filter(|row| row.status.desired_up) {
        wanted_up += 1;
        if is_up(row) {
            up += 1;
        }
        let is_sick = matches!(row.status.health, Health::Unhealthy | Health::Degraded);
        is_well &= is_up(row) && !is_sick;
        is_lost |= row.status.critical && row.status.state == State::Failed;
    }
    let score = if wanted_up == 0 {
        1.0
    } else {
        f64::from(up) / f64::from(wanted_up)
    };
    let word = if is_lost || score < 0.5 {
        "unhealthy"
    } else if is_well && !picture.header.is_stopping {
        "healthy"
    } else {
        "degraded"
    };
    Score { word, score }
}

/// `/status`.
pub fn status(picture: &Picture) -> Answer {
    let now = Now::read();
    let Score { word, score } = score(picture);
    let count = |is_so: fn(&Row) -> bool| wanted(picture).filter(|row| is_so(row)).count();
    reply::json(
        StatusCode::OK,
        &json!({
            "status": word,
            "score": score,
            "running": count(is_running),
            "failed": count(is_failed),
            "total": wanted(picture).count(),
            "daemons": daemons(picture, now.wall_us),
            "notices": picture.header.notices,
            "breakers": breakers(picture),
            "timestamp": seconds(now.wall_us),
        }),
    )
}

/// What limits restarts: of the node, and of categories with a limit of their own. `open` is absent while restarts go on.
pub fn breakers(picture: &Picture) -> Vec<Value> {
    let one = |breaker: &BreakerStatus| {
        json!({
            "of": if breaker.category.is_empty() { "node" } else { "category" },
            "category": breaker.category,
            "restarts": breaker.restarts,
            "limit": breaker.limit,
            "window_seconds": breaker.window_ms as f64 / 1000.0,
            "trips": breaker.trips,
            "open": breaker.open.as_ref().map(|open| json!({
                "since": utc(open.since_us),
                "until": utc(open.until_us),
                "seq": open.seq,
                "unit": key(&open.unit),
            })),
            "held": breaker.held.iter().map(|name| key(name)).collect::<Vec<_>>(),
        })
    };
    picture.header.breakers.iter().map(one).collect()
}

/// `/status/UNIT`.
pub fn one(row: &Row) -> Answer {
    let now = Now::read();
    let mut value = daemon(row, now.wall_us);
    if let Value::Object(map) = &mut value {
        map.insert("name".to_owned(), json!(row.status.name));
        map.insert("description".to_owned(), json!(row.status.description));
        map.insert("wanted".to_owned(), json!(row.is_wanted));
        map.insert("timestamp".to_owned(), json!(seconds(now.wall_us)));
    }
    reply::json(StatusCode::OK, &value)
}
