//! `list`: a row for each unit.

use std::cmp::Reverse;

use clap::Args as ClapArgs;
use proto::reply::UnitStatus;
use proto::request::Depth;

use crate::session::{Rows, Session, state_word};
use crate::stop::{self, Stop};
use crate::units;

/// What rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// By name
    Name,
    /// By state, then name
    State,
    /// The latest change first
    Since,
    /// The most restarts first
    Restarts,
    /// The most CPU time first
    Cpu,
    /// The most memory first
    Mem,
}

/// Flags of `list`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile, state:failed; none: every wanted unit
    #[arg(value_name = "SELECTOR", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
    /// Every unit that is known, wanted or not
    #[arg(short, long)]
    pub all: bool,
    /// Only these states (implies --all)
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    pub state: Vec<String>,
    /// Only these categories (implies --all)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub category: Vec<String>,
    /// Only deprecated units (implies --all)
    #[arg(long)]
    pub deprecated: bool,
    /// What to sort by
    #[arg(long, value_enum, value_name = "BY", default_value_t = Sort::Name)]
    pub sort: Sort,
    /// How to print rows
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Rows>,
}

const STATES: [&str; 10] = [
    "stopped",
    "waiting",
    "starting",
    "running",
    "reloading",
    "stopping",
    "backoff",
    "failed",
    "completed",
    "held",
];

/// Prints the rows.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    if let Some(odd) = args.state.iter().find(|s| !STATES.contains(&s.as_str())) {
        return Err(
            Stop::usage(format!("no such state \"{odd}\"")).hint(format!("states: {}", STATES.join(" ")))
        );
    }
    let filtered = !args.state.is_empty() || !args.category.is_empty() || args.deprecated;
    session.global.json |= args.output == Some(Rows::Json);
    let mut client = session.connect()?;
    let (_, mut found) = units::ask(&mut client, &args.units, Depth::Usage, args.all || filtered)?;
    found.retain(|u| {
        (args.state.is_empty() || args.state.iter().any(|s| s == state_word(u.state)))
            && (args.category.is_empty() || args.category.contains(&u.category))
            && (!args.deprecated || u.deprecated.is_some())
    });
    sort(&mut found, args.sort);
    units::print(session, "list", &found, args.output)?;
    Ok(stop::OK)
}

fn sort(found: &mut [UnitStatus], by: Sort) {
    found.sort_by(|a, b| a.name.cmp(&b.name));
    match by {
        Sort::Name => {}
        Sort::State => found.sort_by_key(|u| u.state),
        Sort::Since => found.sort_by_key(|u| Reverse(u.since_us)),
        Sort::Restarts => found.sort_by_key(|u| Reverse(u.restarts)),
        Sort::Cpu => found.sort_by_key(|u| Reverse(u.cpu_us)),
        Sort::Mem => found.sort_by_key(|u| Reverse(u.memory_bytes)),
    }
}
