//! `unhold`: ends holds. What is wanted up starts again.

use clap::Args as ClapArgs;
use proto::request::Request;

use crate::job::{self, Others, Proof};
use crate::session::Session;
use crate::stop::Stop;

/// Flags of `unhold`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile, state:held
    #[arg(required = true, value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
}

/// Asks, and tells.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.out.forgiving = true;
    let mut client = session.connect()?;
    client.catch_signals()?;
    let request = Request::Unhold {
        selectors: args.units.clone(),
    };
    let (plan, verdicts) = job::watch(session, &mut client, "unhold", request, None, &args.units)?;
    job::conclude(
        session,
        "unhold",
        &plan,
        &verdicts,
        Proof::Verdicts,
        Others::Targets,
    )
}
