//! `health`: how each unit's health is found out, what came of the last checks, and when the next is.

use clap::Args as ClapArgs;
use proto::reply::{CheckOutcome, CheckResult, CheckStatus, Health, UnitStatus};
use proto::request::Depth;
use serde::Serialize;

use crate::json;
use crate::measure;
use crate::render::{Ink, Style, Table, cell};
use crate::session::Session;
use crate::stop::{self, Stop};
use crate::units::{self, health_ink, health_word};

/// Flags of `health`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile, state:failed; none: every wanted unit
    #[arg(value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
}

/// Prints them; 3 when one is unhealthy.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    let mut client = session.connect()?;
    let (_, mut found) = units::ask(&mut client, &args.units, Depth::Known, false)?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let is_bad = |unit: &UnitStatus| unit.health == Health::Unhealthy;
    let code = if found.iter().any(is_bad) {
        stop::FALSE
    } else {
        stop::OK
    };
    if session.global.json {
        let units = found.iter().map(Unit::from).collect();
        json::document(&mut session.out, "health", &Body { units })?;
        return Ok(code);
    }
    let style = session.style.clone();
    let mut table = Table::new(&["UNIT", "HEALTH", "CHECK", "LAST", "LATENCY", "NEXT", "WHY"]);
    for unit in &found {
        let check = unit.check.as_deref();
        let last = check.and_then(|check| check.results.last());
        table.row(vec![
            cell(Ink::Plain, style.clean(&unit.name)),
            cell(health_ink(unit.health), health_word(unit.health)),
            cell(
                Ink::Plain,
                check.map(|check| how(&style, check)).unwrap_or_default(),
            ),
            cell(
                Ink::Plain,
                last.map(|last| style.ago(last.at_us)).unwrap_or_default(),
            ),
            cell(Ink::Plain, last.and_then(latency).unwrap_or_default()),
            cell(
                Ink::Plain,
                check.map(|check| next(&style, check)).unwrap_or_default(),
            ),
            cell(
                Ink::Plain,
                unit.health_text
                    .as_deref()
                    .map(|text| style.clean(text))
                    .unwrap_or_default(),
            ),
        ]);
    }
    let legend = session.legend();
    table.print(&mut session.out, &style, legend, false)?;
    if !args.units.is_empty() {
        results(session, &found)?;
    }
    Ok(code)
}

/// The last checks of units that were named.
fn results(session: &mut Session, found: &[UnitStatus]) -> Result<(), Stop> {
    let style = session.style.clone();
    let mut table = Table::new(&["UNIT", "WHEN", "BY", "RESULT", "LATENCY", "WHY"]);
    let mut is_empty = true;
    for unit in found {
        for result in unit.check.iter().flat_map(|check| check.results.iter().rev()) {
            is_empty = false;
            table.row(vec![
                cell(Ink::Plain, style.clean(&unit.name)),
                cell(Ink::Plain, style.ago(result.at_us)),
                cell(Ink::Dim, style.clean(&result.by)),
                cell(ink(result.outcome), word(result.outcome)),
                cell(Ink::Plain, latency(result).unwrap_or_default()),
                cell(
                    Ink::Plain,
                    result
                        .text
                        .as_deref()
                        .map(|text| style.clean(text))
                        .unwrap_or_default(),
                ),
            ]);
        }
    }
    if is_empty {
        return Ok(());
    }
    session.out.line("")?;
    let legend = session.legend();
    table.print(&mut session.out, &style, legend, false)
}

/// `http http://… every 15s, watchdog 1m`.
fn how(style: &Style, check: &CheckStatus) -> String {
    let mut parts = Vec::new();
    let every = time(check.interval_ms);
    match &check.probe {
        Some(probe) => parts.push(format!("{} every {every}", style.clean(probe))),
        None => parts.push(format!("reports every {every}")),
    }
    parts.extend(check.watchdog_ms.map(|ms| format!("watchdog {}", time(ms))));
    if check.unhealthy_ends > 0 {
        parts.push(format!("unhealthy ends: {}", check.unhealthy_ends));
    }
    parts.join(", ")
}

fn next(style: &Style, check: &CheckStatus) -> String {
    if check.is_asking {
        return "now".to_owned();
    }
    let soonest = [check.next_us, check.watchdog_due_us].into_iter().flatten().min();
    soonest.map(|us| style.ahead(us)).unwrap_or_default()
}

fn time(ms: u64) -> String {
    measure::duration(ms).replace(' ', "")
}

fn latency(result: &CheckResult) -> Option<String> {
    let us = result.took_us?;
    Some(if us < 1000 {
        format!("{us}us")
    } else {
        measure::duration(us / 1000).replace(' ', "")
    })
}

fn word(outcome: CheckOutcome) -> &'static str {
    match outcome {
        CheckOutcome::Passed => "passed",
        CheckOutcome::Degraded => "degraded",
        CheckOutcome::Failed => "failed",
        CheckOutcome::Unasked => "unasked",
    }
}

fn ink(outcome: CheckOutcome) -> Ink {
    match outcome {
        CheckOutcome::Passed => Ink::Good,
        CheckOutcome::Degraded | CheckOutcome::Unasked => Ink::Warn,
        CheckOutcome::Failed => Ink::Bad,
    }
}

#[derive(Serialize)]
struct Body<'a> {
    units: Vec<Unit<'a>>,
}

#[derive(Serialize)]
struct Unit<'a> {
    name: &'a str,
    health: Health,
    why: Option<&'a str>,
    check: Option<Check<'a>>,
}

impl<'a> From<&'a UnitStatus> for Unit<'a> {
    fn from(unit: &'a UnitStatus) -> Self {
        Self {
            name: &unit.name,
            health: unit.health,
            why: unit.health_text.as_deref(),
            check: unit.check.as_deref().map(Check::from),
        }
    }
}

#[derive(Serialize)]
struct Check<'a> {
    probe: Option<&'a str>,
    interval_s: f64,
    timeout_s: f64,
    grace_s: f64,
    failures: Option<u32>,
    on_failure: &'a str,
    watchdog_s: Option<f64>,
    watchdog_due: Option<String>,
    watchdog_fed: Option<String>,
    failed_probes: u32,
    failed_reports: u32,
    unhealthy_ends: u64,
    asking: bool,
    next: Option<String>,
    results: Vec<Outcome<'a>>,
}

impl<'a> From<&'a CheckStatus> for Check<'a> {
    fn from(check: &'a CheckStatus) -> Self {
        Self {
            probe: check.probe.as_deref(),
            interval_s: json::seconds_ms(check.interval_ms),
            timeout_s: json::seconds_ms(check.timeout_ms),
            grace_s: json::seconds_ms(check.grace_ms),
            failures: check.failures,
            on_failure: &check.on_failure,
            watchdog_s: check.watchdog_ms.map(json::seconds_ms),
            watchdog_due: json::time(check.watchdog_due_us),
            watchdog_fed: json::time(check.watchdog_fed_us),
            failed_probes: check.failed_probes,
            failed_reports: check.failed_reports,
            unhealthy_ends: check.unhealthy_ends,
            asking: check.is_asking,
            next: json::time(check.next_us),
            results: check.results.iter().map(Outcome::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct Outcome<'a> {
    at: String,
    by: &'a str,
    result: CheckOutcome,
    latency_s: Option<f64>,
    why: Option<&'a str>,
}

impl<'a> From<&'a CheckResult> for Outcome<'a> {
    fn from(result: &'a CheckResult) -> Self {
        Self {
            at: measure::utc(result.at_us),
            by: &result.by,
            result: result.outcome,
            latency_s: result.took_us.map(json::seconds_us),
            why: result.text.as_deref(),
        }
    }
}
