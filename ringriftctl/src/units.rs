//! Units as rows: asked for once, shown the same by every verb that lists them.

use proto::reply::{Health, Hold, NodeStatus, Reply, State, UnitStatus};
use proto::request::{Depth, Request};

use crate::client::Client;
use crate::json;
use crate::measure;
use crate::render::{Cell, Ink, Style, Table, cell};
use crate::session::{Rows, Session, state_ink, state_word};
use crate::stop::Stop;

/// Asks for units; the daemon resolves the selectors.
pub fn ask(
    client: &mut Client,
    selectors: &[String],
    depth: Depth,
    all: bool,
) -> Result<(Option<NodeStatus>, Vec<UnitStatus>), Stop> {
    let (mut node, mut units) = (None, Vec::new());
    for reply in client.collect(Request::Status {
        selectors: selectors.to_vec(),
        depth,
        all,
    })? {
        match reply {
            Reply::Node(n) => node = Some(*n),
            Reply::Units(mut more) => units.append(&mut more),
            _ => return Err(Stop::unexpected("a request for units with something else")),
        }
    }
    Ok((node, units))
}

/// The word for a health.
pub fn health_word(health: Health) -> &'static str {
    match health {
        Health::Unknown => "unknown",
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Unhealthy => "unhealthy",
    }
}

/// The colour of a health.
pub fn health_ink(health: Health) -> Ink {
    match health {
        Health::Unknown => Ink::Dim,
        Health::Healthy => Ink::Good,
        Health::Degraded => Ink::Warn,
        Health::Unhealthy => Ink::Bad,
    }
}

/// What there is to say of a unit beside its columns: what is wrong first, then marks such as `stand-in`.
pub fn remarks(style: &Style, unit: &UnitStatus) -> String {
    let mut said = Vec::new();
    said.extend(
        unit.held
            .as_ref()
            .map(|hold| format!("held {}", held(style, hold))),
    );
    match unit.state {
        State::Waiting if !unit.blocked_by.is_empty() => {
            said.push(format!("waits for {}", blockers(style, unit, false)));
        }
        State::Failed | State::Backoff => {
            if let Some(error) = &unit.last_error {
                said.push(style.clean(error));
            } else if let Some(last) = &unit.last_exit {
                said.push(measure::exit(last.exit));
            }
        }
        _ => {}
    }
    if let Some(at) = unit.next_try_us {
        said.push(format!("next try {}", style.ahead(at)));
    }
    if !unit.remains.is_empty() {
        said.push(format!("left: {}", pids(&unit.remains)));
    }
    if unit.needs_restart {
        said.push("needs restart".to_owned());
    }
    said.extend(unit.note.as_deref().map(|n| style.clean(n)));
    match unit.deprecated.as_deref() {
        Some("") => said.push("deprecated".to_owned()),
        Some(end) => said.push(format!("deprecated: use {}", style.clean(end))),
        None => {}
    }
    if let Some(by) = &unit.added_by {
        said.push(format!("added by {}", style.clean(by)));
    }
    said.join("; ")
}

/// Of a hold: `by uid 1000 for 3m, ends in 2h: the disk is being changed`.
pub fn held(style: &Style, hold: &Hold) -> String {
    let since = if style.iso { "since" } else { "for" };
    let mut text = format!("by uid {} {since} {}", hold.by.uid, style.since(hold.since_us));
    if let Some(until) = hold.until_us {
        text.push_str(&format!(", ends {}", style.ahead(until)));
    }
    if let Some(note) = &hold.note {
        text.push_str(&format!(": {}", style.clean(note)));
    }
    text
}

/// Whom a unit waits for; `whole` adds why.
pub fn blockers(style: &Style, unit: &UnitStatus, whole: bool) -> String {
    let name = |b: &proto::reply::Blocker| {
        // The node's own causes name no unit: its limit, or a breaker, which says its own name.
        let name = match b.why.split_once(" is open") {
            _ if !b.unit.is_empty() => style.clean(&b.unit),
            Some((breaker, _)) => style.clean(breaker),
            None => "its turn".to_owned(),
        };
        if whole && !b.why.is_empty() {
            format!("{name} ({})", style.clean(&b.why))
        } else {
            name
        }
    };
    unit.blocked_by.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// `pid 12`, `pids 12 13`.
pub fn pids(pids: &[u32]) -> String {
    let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    if pids.len() == 1 {
        format!("pid {list}")
    } else {
        format!("pids {list}")
    }
}

const COLUMNS: &[&str] = &[
    "UNIT", "STATE", "HEALTH", "SINCE", "RESTARTS", "PID", "CPU", "MEM", "NOTE",
];
/// Without what costs the width that the reason needs; `list` has it.
const SHORT: &[&str] = &["UNIT", "STATE", "HEALTH", "SINCE", "RESTARTS", "NOTE"];
const WIDE: &[&str] = &[
    "UNIT",
    "STATE",
    "HEALTH",
    "SINCE",
    "RESTARTS",
    "PID",
    "CPU",
    "MEM",
    "STARTS",
    "CATEGORY",
    "LIFECYCLE",
    "CRITICAL",
    "DESIRED",
    "NOTE",
];

fn row(style: &Style, unit: &UnitStatus, columns: &[&str]) -> Vec<Cell> {
    let wide = columns.len() == WIDE.len();
    let optional = |text: Option<String>| cell(Ink::Plain, text.unwrap_or_default());
    let health = if unit.health == Health::Unknown {
        ""
    } else {
        health_word(unit.health)
    };
    let mut cells = vec![
        cell(Ink::Plain, style.clean(&unit.name)),
        cell(state_ink(unit.state), state_word(unit.state)),
        cell(health_ink(unit.health), health),
        cell(Ink::Plain, style.since(unit.since_us)),
        cell(
            if unit.restarts > 0 { Ink::Warn } else { Ink::Dim },
            unit.restarts.to_string(),
        ),
    ];
    if columns.len() != SHORT.len() {
        cells.extend([
            optional(unit.pid.map(|p| p.to_string())),
            optional(
                unit.cpu_us
                    .map(|us| measure::duration(us / 1000).replace(' ', "")),
            ),
            optional(unit.memory_bytes.map(measure::size)),
        ]);
    }
    if wide {
        cells.push(cell(Ink::Plain, unit.starts.to_string()));
        cells.push(cell(Ink::Plain, style.clean(&unit.category)));
        cells.push(cell(Ink::Plain, style.clean(&unit.lifecycle)));
        cells.push(cell(Ink::Plain, if unit.critical { "yes" } else { "no" }));
        cells.push(cell(Ink::Plain, if unit.desired_up { "up" } else { "down" }));
    }
    let ink = if unit.state == State::Failed {
        Ink::Plain
    } else {
        Ink::Dim
    };
    cells.push(cell(ink, remarks(style, unit)));
    cells
}

/// Prints units as rows. `verb` names the JSON document.
pub fn print(
    session: &mut Session,
    verb: &str,
    units: &[UnitStatus],
    format: Option<Rows>,
) -> Result<(), Stop> {
    print_columns(session, verb, units, format, COLUMNS)
}

/// The same with the few columns that leave room for the reason.
pub fn print_short(
    session: &mut Session,
    verb: &str,
    units: &[UnitStatus],
    format: Option<Rows>,
) -> Result<(), Stop> {
    print_columns(session, verb, units, format, SHORT)
}

fn print_columns(
    session: &mut Session,
    verb: &str,
    units: &[UnitStatus],
    format: Option<Rows>,
    columns: &'static [&'static str],
) -> Result<(), Stop> {
    let now = session.style.now_us;
    match format {
        _ if session.global.json => json::document(&mut session.out, verb, &json::UnitsBody::new(units, now)),
        Some(Rows::Json) => json::document(&mut session.out, verb, &json::UnitsBody::new(units, now)),
        Some(Rows::Jsonl) => units
            .iter()
            .try_for_each(|u| json::line(&mut session.out, &json::Unit::new(u, now))),
        Some(Rows::Name) => units
            .iter()
            .try_for_each(|u| session.out.line(session.style.clean(&u.name))),
        format => {
            let wide = format == Some(Rows::Wide);
            let columns = if wide { WIDE } else { columns };
            let mut table = Table::new(columns);
            for unit in units {
                table.row(row(&session.style, unit, columns));
            }
            let legend = session.legend();
            table.print(&mut session.out, &session.style, legend, wide)
        }
    }
}
