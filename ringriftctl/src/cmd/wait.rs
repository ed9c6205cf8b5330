//! `wait`: until every selected unit is as wanted.

use clap::Args as ClapArgs;
use proto::request::{Request, WaitFor};

use crate::job::{self, Others, Proof};
use crate::measure;
use crate::session::Session;
use crate::stop::Stop;

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Running (ready), or completed
    Running,
    /// Nothing of it is left
    Stopped,
    /// Down with its automatic tries used up
    Failed,
}

/// Flags of `wait`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile
    #[arg(required = true, value_name = "SELECTOR", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
    /// What to wait for
    #[arg(long = "for", value_enum, value_name = "STATE", default_value_t = Target::Running)]
    pub target: Target,
    /// Wait so long at most, for example 30s
    #[arg(long, value_name = "TIME", value_parser = measure::parse_duration_ms)]
    pub timeout: Option<u64>,
}

/// Waits.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.out.forgiving = true;
    let mut client = session.connect()?;
    client.catch_signals()?;
    let target = match args.target {
        Target::Running => WaitFor::Running,
        Target::Stopped => WaitFor::Stopped,
        Target::Failed => WaitFor::Failed,
    };
    let request = Request::Wait {
        selectors: args.units.clone(),
        target,
        timeout_ms: args.timeout,
    };
    let (plan, verdicts) = job::watch(session, &mut client, "wait", request, args.timeout, &args.units)?;
    job::conclude(session, "wait", &plan, &verdicts, Proof::End, Others::Targets)
}
