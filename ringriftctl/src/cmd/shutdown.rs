//! `shutdown`: stops every unit in order, then the daemon. Done when nobody listens any more and the keeper's process is
//! gone.

use std::time::Duration;

use clap::Args as ClapArgs;
use proto::reply::{JobPlan, Outcome, Reply, Verdict};
use proto::request::Request;

use crate::client::Client;
use crate::dial::wait_until;
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
    let keeper = keeper(&mut client)?;
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
            if !client.gone(LOST_TIMEOUT) {
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
    if !client.gone(END_TIMEOUT) {
        return Err(Stop::new(
            stop::FAILED,
            "ringriftd still answers after its shutdown",
        ));
    }
    if let Some((pid, birth)) = keeper
        && !wait_until(END_TIMEOUT, || birth_of(pid) != Some(birth))
    {
        return Err(Stop::new(
            stop::FAILED,
            format!("ringriftd (pid {pid}) is still there after its shutdown"),
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

/// The keeper's pid and when it was born, so that another process with its number is not taken for it. What the daemon
/// says is its number in its own pid namespace, perhaps a container's: who made the socket is asked of the kernel, which
/// knows its number here. None where it cannot be seen from here: then only the socket can be asked.
fn keeper(client: &mut Client) -> Result<Option<(u32, u64)>, Stop> {
    let found = client
        .collect(Request::Version)?
        .into_iter()
        .find_map(|reply| match reply {
            Reply::Version(info) => Some(info.keeper_pid),
            _ => None,
        });
    let here = match client.listener_pid() {
        // In a pid namespace below this one: its number here is the kernel's word.
        Some(maker) if is_below(maker) => Some(maker),
        // Not visible from here.
        Some(0) | None => None,
        // In this one; the socket may be held by a successor of who made it.
        Some(_) => found,
    };
    Ok(here.and_then(|pid| Some((pid, birth_of(pid)?))))
}

/// A process has another number in a pid namespace of its own. See proc_pid_status(5), NSpid.
fn is_below(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() > 1)
}

/// When a process was born, in the kernel's ticks; None when it has ended, reaped or not. See proc_pid_stat(5).
fn birth_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also brackets and spaces: what counts comes after the last bracket.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let birth = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(birth)
}
