//! `reset-failed`: forgets failures, restart counts and back-off.

use clap::Args as ClapArgs;
use proto::request::Request;

use crate::job::{self, Others, Proof};
use crate::session::Session;
use crate::stop::Stop;

/// Flags of `reset-failed`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile; none: all
    #[arg(value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
}

/// Asks.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.out.forgiving = true;
    let mut client = session.connect()?;
    let request = Request::ResetFailed {
        selectors: args.units.clone(),
    };
    let (plan, verdicts) = job::watch(session, &mut client, "reset-failed", request, None, &args.units)?;
    job::conclude(
        session,
        "reset-failed",
        &plan,
        &verdicts,
        Proof::End,
        Others::Targets,
    )
}
