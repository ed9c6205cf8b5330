//! Who asks for log lines is passed on to the logger, with the connection.

use proto::reply::LogStatus;
use proto::request::LogFilter;

use super::core::Manager;
use crate::clock::Now;
use crate::control::outbox::Answers;
use crate::control::view::refused;
use crate::counts::{Drops, Logged};
use crate::keeper::wire::{LogOf, LogQuery};
use crate::limits::{LOG_DROP_EVENTS, LOG_QUERIES_MAX};
use crate::spec::{ON_EVENT_UNIT, UnitName};

/// A request for lines.
#[derive(Debug)]
pub(super) struct LogsAsked {
    /// Of these; empty: of all.
    pub selectors: Vec<String>,
    /// Go on as lines come.
    pub follow: bool,
    /// The last ones of each unit; absent: all.
    pub lines: Option<u64>,
    /// Which.
    pub filter: LogFilter,
}

/// What there is to tell of a unit's drops, each with whether that is their end, when its log has counted so much.
pub(super) fn drops_of(told: Drops, log: Logged, now: Now) -> Vec<(bool, String)> {
    let bytes = log.lost.saturating_sub(told.lost);
    let lines = log.lost_lines.saturating_sub(told.lost_lines);
    // A clock that was set back is no reason to be silent.
    let is_soon = u128::from(now.wall_us.abs_diff(told.begun_us)) < LOG_DROP_EVENTS.as_micros();
    if bytes == 0 || (!told.is_open && is_soon) {
        return Vec::new();
    }
    let mut news = Vec::new();
    if !told.is_open {
        let text = "its log cannot be written: what it writes is dropped, and counted".to_owned();
        news.push((false, text));
    }
    if !log.is_blocked {
        news.push((
            true,
            format!("{lines} lines of {bytes} bytes were dropped: its log could not be written"),
        ));
    }
    news
}

impl Manager {
    /// What became of a unit's output, as far as its logger has told.
    pub(super) fn log_status(&self, unit: &UnitName) -> LogStatus {
        let counted = self.counts.units.get(unit).copied().unwrap_or_default();
        let told = self.pending.logged.as_ref();
        let log = match told.and_then(|told| Some((told.logger, told.units.get(unit)?))) {
            Some((logger, now)) => counted.logged(logger, *now),
            None => counted.log,
        };
        LogStatus {
            bytes: log.bytes,
            lines: log.lines,
            dropped_bytes: log.lost,
            dropped_lines: log.lost_lines,
            is_blocked: log.is_blocked,
        }
    }

    /// Tells the logger how large all logs may be together. One that does not hear it has died, and its successor is told.
    pub(super) fn bound_logs(&mut self) {
        let max_total = self.loaded.plan.node.log_total;
        if !self.is_logger_gone
            && let Err(e) = self.logger.send(&LogQuery::Total { max_total }, Vec::new())
        {
            tracing::warn!("cannot tell the logger how large all logs may be: {e}");
        }
    }

    /// There are other units: those who follow ask again, and hear of them. A logger that does not hear it has nobody who
    /// follows.
    pub(super) fn renew_followers(&mut self) {
        if !self.is_logger_gone {
            let _ = self.logger.send(&LogQuery::Renew, Vec::new());
        }
    }

    /// There is a logger again.
    pub(super) fn ask_logs_again(&mut self) {
        for (asked, answers) in std::mem::take(&mut self.logs_waiting) {
            self.logs(asked, answers);
        }
    }

    /// The logger answers, on the client's own connection: log bytes never cross the manager.
    pub(super) fn logs(&mut self, asked: LogsAsked, answers: Answers) {
        if self.is_logger_gone && self.logs_waiting.len() < LOG_QUERIES_MAX {
            return self.logs_waiting.push((asked, answers)); // the keeper starts one in a moment
        }
        let LogsAsked {
            selectors,
            follow,
            lines,
            filter,
        } = asked;
        // The runs of [on_event] are logged like a unit, and are none.
        let (own, selectors): (Vec<&String>, Vec<&String>) =
            selectors.iter().partition(|selector| *selector == ON_EVENT_UNIT);
        let selectors: Vec<String> = selectors.into_iter().cloned().collect();
        let found = match (selectors.is_empty(), own.is_empty()) {
            (true, true) => Some((self.all_names(), answers)),
            (true, false) => Some((Vec::new(), answers)),
            (false, _) => self.selected(&selectors, answers),
        };
        let Some((mut units, answers)) = found else { return };
        if !own.is_empty() {
            units.extend(UnitName::new(ON_EVENT_UNIT));
        }
        if self.is_logger_gone {
            let why = "the logger has died and is being started again: try again in a moment";
            return answers.fail(refused(1, why.to_owned()));
        }
        let last_life = |name: &UnitName| {
            let unit = self.engine.find(name)?.1;
            unit.last_invocation.map(|life| life.0)
        };
        let log = |name: &UnitName| match self.loaded.plan.units.get(name) {
            Some(spec) => (spec.log.parse, spec.log.split),
            None => self.engine.find(name).map_or_else(Default::default, |(_, unit)| {
                (unit.spec.log.parse, unit.spec.log.split)
            }),
        };
        let units: Vec<LogOf> = units
            .iter()
            .map(|name| LogOf {
                unit: name.to_string(),
                last_life: last_life(name),
                parse: log(name).0,
                is_split: log(name).1,
            })
            .collect();
        if filter.stream.is_some() && !units.iter().any(|unit| unit.is_split) {
            let mut failure = refused(
                2,
                match units.as_slice() {
                    [unit] => format!("{} does not tell its streams apart", unit.unit),
                    _ => "none of these units tells its streams apart".to_owned(),
                },
            );
            failure.hint = Some("set [log] split = true, daemon-reload, and restart it".to_owned());
            return answers.fail(failure);
        }
        match answers.into_connection() {
            Ok((connection, ask)) => {
                let query = LogQuery::Serve {
                    ask,
                    units,
                    seed: self.hello.seed,
                    lines,
                    filter,
                    follow,
                };
                if let Err(e) = self.logger.send(&query, vec![connection]) {
                    tracing::warn!("cannot reach the logger: {e}");
                }
            }
            Err((e, answers)) => {
                answers.fail(refused(1, format!("cannot pass the request to the logger: {e}")))
            }
        }
    }
}
