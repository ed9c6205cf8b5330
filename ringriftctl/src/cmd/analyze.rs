//! `analyze`: how the node came up when ringriftd was last started: who took long, who held up whom, and a drawing.

use clap::{Args as ClapArgs, Subcommand};
use proto::reply::{Edge, Event, Reply};
use proto::request::{Depth, Request};
use serde::Serialize;

use crate::analyze::boot::{self, Boot, Started};
use crate::analyze::chain::{Link, critical};
use crate::analyze::svg::{draw, time};
use crate::client::Client;
use crate::json;
use crate::measure;
use crate::near::nearest;
use crate::render::{Ink, Table, cell};
use crate::session::Session;
use crate::stop::{self, Stop};

/// Flags of `analyze`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// What to show
    #[command(subcommand)]
    pub what: What,
}

/// The verbs below `analyze`.
#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// Units by the time that they took to be ready, the slowest first
    Blame,
    /// What a unit waited for, down to the beginning; none: the last one to be ready
    CriticalChain {
        /// The unit
        #[arg(value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
        unit: Option<String>,
    },
    /// A drawing of the whole start, to stdout
    Plot {
        /// As SVG
        #[arg(long, required = true)]
        svg: bool,
    },
}

/// What was asked of the daemon.
struct Found {
    node: String,
    boot: Boot,
    edges: Vec<Edge>,
}

/// Reads the events of the last start, and shows them.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    let mut client = session.connect()?;
    let found = ask(session, &mut client)?;
    if found.boot.units.is_empty() {
        session.say(
            "no unit was started since ringriftd began, or the flight recorder does not reach back to it",
        );
    }
    match &args.what {
        What::Blame => blame(session, &found)?,
        What::CriticalChain { unit } => chain(session, &found, unit.as_deref())?,
        What::Plot { .. } if session.global.json => {
            let body = BootBody::of(&found, found.boot.units.iter());
            json::document(&mut session.out, "analyze", &body)?;
        }
        What::Plot { .. } => session.out.bytes(draw(&found.boot, &found.node).as_bytes())?,
    }
    Ok(stop::OK)
}

fn ask(session: &mut Session, client: &mut Client) -> Result<Found, Stop> {
    let mut node = None;
    for reply in client.collect(Request::Status {
        selectors: Vec::new(),
        depth: Depth::Known,
        all: false,
    })? {
        if let Reply::Node(found) = reply {
            node = Some(found);
        }
    }
    let node = node.ok_or_else(|| Stop::unexpected("a status without the node"))?;
    let mut edges = Vec::new();
    for reply in client.collect(Request::Deps {
        selectors: Vec::new(),
    })? {
        match reply {
            Reply::Graph(graph) => edges.extend(graph.edges),
            _ => return Err(Stop::unexpected("a request for edges with something else")),
        }
    }
    let mut events: Vec<Event> = Vec::new();
    let mut missed = 0;
    let request = Request::Events {
        selectors: Vec::new(),
        follow: false,
        after: None,
        since_us: Some(node.started_us),
    };
    client.each(request, |reply| {
        match reply {
            Reply::Event(event) => events.push(*event),
            Reply::Lagged(count) => missed += count,
            _ => return Err(Stop::unexpected("a request for events with something else")),
        }
        Ok(())
    })?;
    if missed > 0 {
        session.say(&format!(
            "{missed} events are not there any more: what is shown has holes"
        ));
    }
    Ok(Found {
        boot: boot::read(&events, node.started_us),
        node: node.node,
        edges,
    })
}

fn blame(session: &mut Session, found: &Found) -> Result<(), Stop> {
    let units = boot::blame(&found.boot);
    if session.global.json {
        let body = BootBody::of(found, units.into_iter());
        return json::document(&mut session.out, "analyze", &body);
    }
    let style = session.style.clone();
    let mut table = Table::new(&["TOOK", "WAITED", "READY-AT", "TRIES", "UNIT"]);
    for unit in units {
        let (ink, took) = match unit.took_us() {
            Some(took) => (Ink::Plain, time(took)),
            None => (Ink::Bad, "not ready".to_owned()),
        };
        let ready = unit
            .ready_us
            .map(|at| format!("+{}", time(at.saturating_sub(found.boot.began_us))));
        table.row(vec![
            cell(ink, took),
            cell(Ink::Dim, time(unit.waited_us())),
            cell(Ink::Plain, ready.unwrap_or_default()),
            cell(
                if unit.tries > 1 { Ink::Warn } else { Ink::Dim },
                unit.tries.to_string(),
            ),
            cell(Ink::Bold, style.clean(&unit.unit)),
        ]);
    }
    let legend = session.legend();
    table.print(&mut session.out, &style, legend, false)
}

fn chain(session: &mut Session, found: &Found, unit: Option<&str>) -> Result<(), Stop> {
    let names = || found.boot.units.iter().map(|unit| unit.unit.as_str());
    let unit = unit
        .map(|typed| typed.to_ascii_lowercase().replace('-', "_"))
        .map(|folded| {
            let is_it = |name: &&str| name.replace('-', "_") == folded;
            names().find(is_it).map_or(folded.clone(), str::to_owned)
        });
    if let Some(unit) = &unit
        && !names().any(|name| name == unit)
    {
        let near = nearest(unit, names()).join(", ");
        let stop = Stop::new(4, format!("{unit} was not started since ringriftd began"));
        return Err(if near.is_empty() {
            stop
        } else {
            stop.hint(format!("the nearest that was: {near}"))
        });
    }
    let chain = critical(&found.boot, &found.edges, unit.as_deref());
    if session.global.json {
        let units = chain.iter().map(|link| link.unit);
        let body = BootBody::of(found, units);
        return json::document(&mut session.out, "analyze", &body);
    }
    let style = session.style.clone();
    for (depth, link) in chain.iter().enumerate() {
        let Link { unit, gap_us } = link;
        let indent = match depth {
            0 => String::new(),
            n => format!("{}{}", "  ".repeat(n - 1), style.pick("└─ ", "`- ")),
        };
        let at = unit.ready_us.map_or("not ready".to_owned(), |at| {
            format!("@{}", time(at.saturating_sub(found.boot.began_us)))
        });
        let took = unit
            .took_us()
            .map(|us| format!(" +{}", time(us)))
            .unwrap_or_default();
        let mut remarks = Vec::new();
        if unit.tries > 1 {
            remarks.push(format!("{} tries", unit.tries));
        }
        if *gap_us >= GAP_TOLD_US {
            remarks.push(format!("waited {} for its turn", time(*gap_us)));
        }
        let remarks = match remarks.is_empty() {
            true => String::new(),
            false => format!(" ({})", remarks.join(", ")),
        };
        session.out.line(format!(
            "{indent}{} {}{}{}",
            style.paint(Ink::Bold, &style.clean(&unit.unit)),
            at,
            style.paint(Ink::Warn, &took),
            style.paint(Ink::Dim, &remarks)
        ))?;
    }
    Ok(())
}

/// A wait between two starts that is worth a word, in µs.
const GAP_TOLD_US: u64 = 50_000;

#[derive(Serialize)]
struct BootBody<'a> {
    node: &'a str,
    began: String,
    took_s: f64,
    units: Vec<UnitBody<'a>>,
}

#[derive(Serialize)]
struct UnitBody<'a> {
    name: &'a str,
    wanted: String,
    began: String,
    ready: Option<String>,
    took_s: Option<f64>,
    waited_s: f64,
    tries: u32,
    set_off_by: Option<&'a str>,
}

impl<'a> BootBody<'a> {
    fn of(found: &'a Found, units: impl Iterator<Item = &'a Started>) -> Self {
        let boot = &found.boot;
        Self {
            node: &found.node,
            began: measure::utc(boot.began_us),
            took_s: json::seconds_us(boot.ended_us.saturating_sub(boot.began_us)),
            units: units
                .map(|unit| UnitBody {
                    name: &unit.unit,
                    wanted: measure::utc(unit.wanted_us),
                    began: measure::utc(unit.began_us),
                    ready: unit.ready_us.map(measure::utc),
                    took_s: unit.took_us().map(json::seconds_us),
                    waited_s: json::seconds_us(unit.waited_us()),
                    tries: unit.tries,
                    set_off_by: unit.set_off_by.as_deref(),
                })
                .collect(),
        }
    }
}
