//! `hold`: keeps units down. Nothing starts a held unit; one that runs goes on until it ends.

use clap::Args as ClapArgs;
use jiff::tz::TimeZone;
use proto::request::{MAX_NOTE, Request};

use crate::job::{self, Others, Proof};
use crate::measure;
use crate::session::Session;
use crate::stop::Stop;

/// Flags of `hold`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile
    #[arg(required = true, value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
    /// Why, for whoever finds them held
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// The hold ends by itself then: 2h, "in 10 min", a date and time
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
}

/// Asks, and tells.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.out.forgiving = true;
    let until_us = match &args.until {
        None => None,
        Some(text) => {
            let until = measure::parse_until(text, session.style.now_us, &TimeZone::system());
            Some(until.map_err(Stop::usage)?)
        }
    };
    if args.note.as_ref().is_some_and(|note| note.len() > MAX_NOTE) {
        return Err(Stop::usage(format!("the note is longer than {MAX_NOTE} bytes")));
    }
    let mut client = session.connect()?;
    client.catch_signals()?;
    let request = Request::Hold {
        selectors: args.units.clone(),
        note: args.note.clone(),
        until_us,
    };
    let (plan, verdicts) = job::watch(session, &mut client, "hold", request, None, &args.units)?;
    job::conclude(
        session,
        "hold",
        &plan,
        &verdicts,
        Proof::Verdicts,
        Others::Targets,
    )
}
