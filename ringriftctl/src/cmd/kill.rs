//! `kill`: sends a signal. What the unit makes of it is the unit's business; `stop` is the verb that brings down.

use clap::Args as ClapArgs;
use proto::request::{Request, Whom};

use crate::job::{self, Others, Proof};
use crate::measure;
use crate::session::Session;
use crate::stop::Stop;

/// Whom the signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum To {
    /// The main process
    Main,
    /// Every process of the unit
    All,
}

/// Flags of `kill`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile
    #[arg(required = true, value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIG", default_value = "TERM", value_parser = measure::parse_signal)]
    pub signal: i32,
    /// To whom
    #[arg(long, value_enum, value_name = "WHOM", default_value_t = To::All)]
    pub whom: To,
}

/// Asks, and tells what was signalled.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.out.forgiving = true;
    let mut client = session.connect()?;
    let whom = match args.whom {
        To::Main => Whom::Main,
        To::All => Whom::All,
    };
    let request = Request::Kill {
        selectors: args.units.clone(),
        signal: args.signal,
        whom,
    };
    let (plan, verdicts) = job::watch(session, &mut client, "kill", request, None, &args.units)?;
    job::conclude(session, "kill", &plan, &verdicts, Proof::End, Others::Targets)
}
