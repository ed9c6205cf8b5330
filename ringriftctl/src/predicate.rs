//! is-active, is-failed, is-ready: a word for each unit, and a yes or no as the exit code.

use clap::Args;
use proto::reply::UnitStatus;
use proto::request::Depth;
use serde::Serialize;

use crate::json;
use crate::session::Session;
use crate::stop::{self, Stop};
use crate::units;

/// What the three have in common.
#[derive(Debug, Clone, Args)]
pub struct PredicateArgs {
    /// Units: names, globs (s3_*), @category, %profile
    #[arg(required = true, value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    result: bool,
    units: Vec<One<'a>>,
}

#[derive(Serialize)]
struct One<'a> {
    name: &'a str,
    word: &'static str,
    result: bool,
}

/// Prints `word` of each unit; true when `all` of them, or one of them, `holds`.
pub fn run(
    session: &mut Session,
    verb: &str,
    args: &PredicateArgs,
    word: impl Fn(&UnitStatus) -> &'static str,
    holds: impl Fn(&UnitStatus) -> bool,
    all: bool,
) -> Result<u8, Stop> {
    let mut client = session.connect()?;
    let (_, mut found) = units::ask(&mut client, &args.units, Depth::Known, false)?;
    // A script reads the words by their place: as asked for, and what patterns brought behind, in the order of names.
    found.sort_by_key(|u| {
        let place = args
            .units
            .iter()
            .position(|asked| asked.eq_ignore_ascii_case(&u.name));
        place.unwrap_or(usize::MAX)
    });
    // No unit at all is never a yes.
    let result = !found.is_empty()
        && if all {
            found.iter().all(&holds)
        } else {
            found.iter().any(&holds)
        };
    if session.global.json {
        let units = found
            .iter()
            .map(|u| One {
                name: &u.name,
                word: word(u),
                result: holds(u),
            })
            .collect();
        json::document(&mut session.out, verb, &Body { result, units })?;
    } else if !session.global.quiet {
        for unit in &found {
            session.out.line(word(unit))?;
        }
    }
    Ok(if result { stop::OK } else { stop::FALSE })
}
