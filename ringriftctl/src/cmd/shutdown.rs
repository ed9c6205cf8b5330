//! `shutdown`: stops every unit in order, then the daemon. Done when nobody listens any more.

use std::time::Duration;

use clap::Args as ClapArgs;
use proto::reply::{JobPlan, Outcome, Verdict};
use proto::request::Request;

use crate::job::{self, Others, Proof};
use crate::json;
use crate::measure;
use crate::session::Session;
use crate::stop::{self, Stop};

/// How long the daemon may take to end after it has said that everything is stopped.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// How long after a lost connection the daemon may still be about to end; else its manager died, and is back.
const LOST_TIMEOUT: Duration = Duration::from_secs(3);

/// Flags of `shutdown`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Wait so long at most, for example 30s; the shutdown goes on
    #[arg(long, value_name = "TIME", value_parser = measure::parse_duration_ms)]
    pub timeout: Option<u64>,
}

/// Asks, waits, and tells.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.out.forgiving = true;
    let mut client = session.connect()?;
    client.catch_signals()?;
    let ended = job::watch(
        session,
        &mut client,
        "shutdown",
        Request::Shutdown,
        args.timeout,
        &[],
    );
    let (plan, verdicts): (JobPlan, Vec<Verdict>) = match ended {
        Ok(ended) => ended,
        // The connection may end with the daemon: whether it did is asked of the socket below.
        Err(Stop::Failure(f)) if f.code == stop::UNAVAILABLE => {
            if !client.gone(LOST_TIMEOUT)? {
                return Err(Stop::Failure(f));
            }
            (
                JobPlan {
                    units: Vec::new(),
                    also: Vec::new(),
                },
                Vec::new(),
            )
        }
        Err(other) => return Err(other),
    };
    if !client.gone(END_TIMEOUT)? {
        return Err(Stop::new(
            stop::FAILED,
            "ringriftd still answers after its shutdown",
        ));
    }
    let bad = verdicts
        .iter()
        .any(|v| !matches!(v.outcome, Outcome::Done | Outcome::Already));
    let code = if bad {
        job::judge(&plan, &verdicts, Proof::End, Others::Targets).1
    } else {
        stop::OK
    };
    if session.global.json {
        let result = if bad { "partly" } else { "done" };
        json::document(
            &mut session.out,
            "shutdown",
            &json::JobBody::new(result, &plan, &verdicts),
        )?;
    } else {
        session.say("ringriftd has ended");
    }
    Ok(code)
}
