//! `adopt`: a process that runs outside becomes a unit's main process, without a restart.

use clap::Args as ClapArgs;
use proto::reply::Reply;
use proto::request::Request;
use serde::Serialize;

use crate::json;
use crate::render::Ink;
use crate::session::Session;
use crate::stop::{self, Stop};

/// Flags of `adopt`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// The unit
    #[arg(value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub unit: String,
    /// The process
    #[arg(
        long,
        value_name = "PID",
        required_unless_present = "pattern",
        conflicts_with = "pattern"
    )]
    pub pid: Option<u32>,
    /// The only process whose command line contains this, as pgrep -f finds it
    #[arg(long = "match", value_name = "TEXT")]
    pub pattern: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    unit: &'a str,
    pid: u32,
    command: &'a str,
    invocation: Option<&'a str>,
    dry_run: bool,
    lacks: &'a [String],
}

/// Asks, and tells what was taken over and what it lacks.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.out.forgiving = true;
    let mut client = session.connect()?;
    let mut done = None;
    for reply in client.collect(Request::Adopt {
        unit: args.unit.clone(),
        pid: args.pid,
        pattern: args.pattern.clone(),
        dry_run: args.dry_run,
    })? {
        match reply {
            Reply::Adopted(adopted) => done = Some(adopted),
            _ => return Err(Stop::unexpected("an adoption with something else")),
        }
    }
    let done = done.ok_or_else(|| Stop::unexpected("an adoption without saying what it did"))?;
    if session.global.json {
        let body = Body {
            unit: &done.unit,
            pid: done.pid,
            command: &done.command,
            invocation: done.invocation.as_deref(),
            dry_run: done.dry_run,
            lacks: &done.lacks,
        };
        json::document(&mut session.out, "adopt", &body)?;
        return Ok(stop::OK);
    }
    let style = session.style.clone();
    let (word, ink) = if done.dry_run {
        ("would adopt", Ink::Warn)
    } else {
        ("adopted", Ink::Good)
    };
    session.out.line(format!(
        "{}  {}  pid {}: {}",
        style.clean(&done.unit),
        style.paint(ink, word),
        done.pid,
        style.clean(&done.command)
    ))?;
    for lack in &done.lacks {
        session.say(&format!("note: {}", style.clean(lack)));
    }
    Ok(stop::OK)
}
