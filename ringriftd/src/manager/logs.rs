//! Who asks for log lines is passed on to the logger, with the connection.

use proto::request::LogFilter;

use super::core::Manager;
use crate::control::outbox::Answers;
use crate::control::view::refused;
use crate::keeper::wire::{LogOf, LogQuery};
use crate::spec::{ON_EVENT_UNIT, UnitName};

impl Manager {
    /// Tells the logger how large all logs may be together. One that does not hear it has died, and its successor is told.
    pub(super) fn bound_logs(&mut self) {
        let max_total = self.loaded.plan.node.log_total;
        if !self.is_logger_gone
            && let Err(e) = self.logger.send(&LogQuery::Total { max_total }, Vec::new())
        {
            tracing::warn!("cannot tell the logger how large all logs may be: {e}");
        }
    }

    /// The logger answers, on the client's own connection: log bytes never cross the manager.
    pub(super) fn logs(
        &mut self,
        selectors: &[String],
        follow: bool,
        lines: Option<u64>,
        filter: LogFilter,
        answers: Answers,
    ) {
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
