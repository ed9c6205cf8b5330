//! `deprecated`: units on their way out, where their replacement chain ends, and who still uses them.

use proto::reply::Reply;
use proto::request::Request;
use serde::Serialize;

use crate::json;
use crate::render::{Ink, Table, cell};
use crate::session::Session;
use crate::stop::{self, Stop};

#[derive(Serialize)]
struct Body<'a> {
    in_use: bool,
    units: Vec<One<'a>>,
}

#[derive(Serialize)]
struct One<'a> {
    unit: &'a str,
    replaced_by: Option<&'a str>,
    live_end: Option<&'a str>,
    note: &'a str,
    since: Option<&'a str>,
    remove_after: Option<&'a str>,
    overdue: bool,
    used_by: &'a [String],
    needed_by: &'a [String],
}

/// Prints them; 1 when an active profile still has one.
pub fn run(session: &mut Session) -> Result<u8, Stop> {
    let mut client = session.connect()?;
    let mut found = Vec::new();
    for reply in client.collect(Request::Deprecated)? {
        match reply {
            Reply::Deprecated(more) => found.extend(more),
            _ => {
                return Err(Stop::unexpected(
                    "a request for deprecated units with something else",
                ));
            }
        }
    }
    let in_use = found.iter().any(|u| !u.used_by.is_empty());
    let code = if in_use { stop::FAILED } else { stop::OK };
    if session.global.json {
        let units = found
            .iter()
            .map(|u| One {
                unit: &u.unit,
                replaced_by: u.replaced_by.as_deref(),
                live_end: u.live_end.as_deref(),
                note: &u.note,
                since: u.since.as_deref(),
                remove_after: u.remove_after.as_deref(),
                overdue: u.overdue,
                used_by: &u.used_by,
                needed_by: &u.needed_by,
            })
            .collect();
        json::document(&mut session.out, "deprecated", &Body { in_use, units })?;
        return Ok(code);
    }
    if found.is_empty() {
        session.say("no unit is deprecated");
        return Ok(code);
    }
    let style = session.style.clone();
    let list = |names: &[String]| names.iter().map(|n| style.clean(n)).collect::<Vec<_>>().join(",");
    let mut table = Table::new(&[
        "UNIT",
        "USE-INSTEAD",
        "REMOVE-AFTER",
        "USED-BY",
        "NEEDED-BY",
        "NOTE",
    ]);
    for u in &found {
        let used = if u.used_by.is_empty() {
            Ink::Plain
        } else {
            Ink::Warn
        };
        let overdue = if u.overdue { " (overdue)" } else { "" };
        let removal = u
            .remove_after
            .as_deref()
            .map(|d| format!("{}{overdue}", style.clean(d)));
        table.row(vec![
            cell(used, style.clean(&u.unit)),
            cell(
                Ink::Plain,
                u.live_end.as_deref().map(|l| style.clean(l)).unwrap_or_default(),
            ),
            cell(
                if u.overdue { Ink::Bad } else { Ink::Plain },
                removal.unwrap_or_default(),
            ),
            cell(used, list(&u.used_by)),
            cell(Ink::Plain, list(&u.needed_by)),
            cell(Ink::Dim, style.clean(&u.note)),
        ]);
    }
    let legend = session.legend();
    table.print(&mut session.out, &style, legend, false)?;
    Ok(code)
}
