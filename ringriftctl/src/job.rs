//! start, stop, restart, try-restart, reload, shutdown, kill, reset-failed and wait: ask, show how it goes, print a line
//! for each unit, and turn the verdicts into one exit code. A success is only what the daemon said is one.

use std::time::{Duration, Instant};

use clap::Args;
use proto::reply::{JobPlan, Outcome, Reply, Verdict};
use proto::request::{Depth, Job, Request};

use crate::client::{Client, Wake};
use crate::json;
use crate::measure;
use crate::progress::{Progress, REDRAW};
use crate::render::Ink;
use crate::session::Session;
use crate::stop::{self, Stop};
use crate::units::pids;

/// How much longer than `--timeout` this side waits, so that the daemon's own words about it arrive.
const TIMEOUT_GRACE: Duration = Duration::from_millis(500);

/// What the verbs that work on units have in common.
#[derive(Debug, Clone, Args)]
pub struct JobArgs {
    /// Units: names, globs (s3_*), @category, %profile, state:failed
    #[arg(required = true, value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
    /// Do not wait for the result
    #[arg(long)]
    pub no_block: bool,
    /// Wait so long at most, for example 30s; the job goes on
    #[arg(long, value_name = "TIME", value_parser = measure::parse_duration_ms)]
    pub timeout: Option<u64>,
    /// Also do what touches units that were not named, without asking
    #[arg(short, long)]
    pub yes: bool,
}

impl JobArgs {
    fn job(&self, cascade: bool) -> Job {
        Job {
            selectors: self.units.clone(),
            wait: !self.no_block,
            timeout_ms: self.timeout,
            cascade,
        }
    }
}

/// What a job does to units that were not named, for counting their verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They are pulled in; their failure matters only if it makes a named one fail.
    Helpers,
    /// They are done to as well; their failure counts.
    Targets,
}

/// What proves that a request was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A verdict for each named unit.
    Verdicts,
    /// The end of the answer: there is nothing to judge unit by unit.
    End,
    /// Nothing: it was taken, and nobody waited.
    Taken,
}

/// Runs one of the verbs that take [`JobArgs`].
pub fn run(
    session: &mut Session,
    verb: &'static str,
    args: &JobArgs,
    others: Others,
    request: impl Fn(Job) -> Request,
) -> Result<u8, Stop> {
    session.out.forgiving = true;
    let mut client = session.connect()?;
    client.catch_signals()?;
    let ask = |cascade| request(args.job(cascade));
    let first = watch(
        session,
        &mut client,
        verb,
        ask(args.yes),
        args.timeout,
        &args.units,
    );
    let (plan, verdicts) = match first {
        Err(Stop::Failure(f)) if f.code == stop::REFUSED && !f.details.is_empty() && !args.yes => {
            let others = f.details.join(", ");
            let can_ask = std::io::IsTerminal::is_terminal(&std::io::stdin())
                && std::io::IsTerminal::is_terminal(&std::io::stderr());
            if !can_ask || session.global.json {
                return Err(
                    Stop::Failure(f).hint(format!("to do it to these too: ringriftctl {verb} --yes …"))
                );
            }
            let question = format!("{verb} also touches {}: go on?", session.clean(&others));
            if !client.confirm(&question)? {
                return Err(Stop::new(stop::REFUSED, "not confirmed: nothing was done"));
            }
            watch(session, &mut client, verb, ask(true), args.timeout, &args.units)?
        }
        first => first?,
    };
    let proof = if args.no_block {
        Proof::Taken
    } else {
        Proof::Verdicts
    };
    conclude(session, verb, &plan, &verdicts, proof, others)
}

/// Asks, and hears verdicts until the end, printing each as it comes.
pub fn watch(
    session: &mut Session,
    client: &mut Client,
    verb: &'static str,
    request: Request,
    timeout_ms: Option<u64>,
    named: &[String],
) -> Result<(JobPlan, Vec<Verdict>), Stop> {
    let mut progress = Progress::new(session, verb);
    let mut plan = JobPlan {
        units: Vec::new(),
        also: Vec::new(),
    };
    let mut verdicts = Vec::new();
    let heard = hear(
        session,
        client,
        &mut progress,
        request,
        timeout_ms,
        (&mut plan, &mut verdicts),
    );
    progress.erase();
    // Waiting changes nothing, so nothing goes on without it.
    let is_lost = client.is_lost();
    let goes_on = if verb == "wait" {
        String::new()
    } else if is_lost {
        format!("; the connection was lost, and whether the {verb} was done is not known")
    } else {
        format!(": the {verb} goes on")
    };
    let (code, message) = match heard? {
        Heard::All => return Ok((plan, verdicts)),
        Heard::Interrupted => (stop::INTERRUPTED, format!("interrupted{goes_on}")),
        Heard::TimedOut => {
            let after = measure::duration(timeout_ms.unwrap_or(0));
            let code = if is_lost {
                stop::UNAVAILABLE
            } else {
                stop::TIMED_OUT
            };
            (code, format!("no result after {after}{goes_on}"))
        }
    };
    let see = format!("see: ringriftctl status {}", named.join(" "));
    let mut stop = Stop::new(code, message).hint(see.trim_end());
    if let Stop::Failure(failure) = &mut stop {
        let open: Vec<_> = missing(&plan, &verdicts).map(String::as_str).collect();
        if !open.is_empty() {
            failure
                .details
                .push(format!("still waited for: {}", open.join(", ")));
        }
    }
    Err(stop)
}

enum Heard {
    All,
    Interrupted,
    TimedOut,
}

fn hear(
    session: &mut Session,
    client: &mut Client,
    progress: &mut Progress,
    request: Request,
    timeout_ms: Option<u64>,
    (plan, verdicts): (&mut JobPlan, &mut Vec<Verdict>),
) -> Result<Heard, Stop> {
    let deadline = timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms) + TIMEOUT_GRACE);
    let id = client.ask(request)?;
    let mut news = None;
    let mut redraw = Instant::now() + REDRAW;
    loop {
        let until = if progress.is_live() {
            Some(deadline.map_or(redraw, |d| d.min(redraw)))
        } else {
            deadline
        };
        match client.wake(until)? {
            Wake::Interrupted => return Ok(Heard::Interrupted),
            Wake::Time if deadline.is_some_and(|d| Instant::now() >= d) => return Ok(Heard::TimedOut),
            Wake::Time => {
                redraw = Instant::now() + REDRAW;
                progress.draw();
                // One question under way at a time; a daemon that never answers it delays nothing.
                if news.is_none() && !plan.units.is_empty() {
                    let selectors = plan.units.iter().chain(&plan.also).cloned().collect();
                    news = Some(client.ask(Request::Status {
                        selectors,
                        depth: Depth::Known,
                        all: false,
                    })?);
                }
            }
            Wake::Reply(to, reply) if to == id => match reply {
                Reply::JobTaken(taken) => {
                    *plan = taken;
                    progress.plan(plan);
                }
                Reply::Event(event) => progress.event(&event),
                // An answer that begins anew tells again what it told before.
                Reply::Verdict(verdict) if verdicts.iter().any(|v| v.unit == verdict.unit) => {}
                Reply::Verdict(verdict) => {
                    progress.verdict(&verdict);
                    progress.erase();
                    // Units that had nothing to forget are no news.
                    if !(progress.verb() == "reset-failed" && verdict.outcome == Outcome::Already) {
                        say(session, plan, &verdict)?;
                    }
                    verdicts.push(verdict);
                }
                Reply::Lagged(_) => {}
                Reply::End => return Ok(Heard::All),
                // Told by the daemon or found here: the same end, in the same words.
                Reply::Failed(f) if f.code == stop::TIMED_OUT && timeout_ms.is_some() => {
                    return Ok(Heard::TimedOut);
                }
                Reply::Failed(failure) => return Err(failure.into()),
                _ => return Err(Stop::unexpected("a job with something else")),
            },
            Wake::Reply(to, reply) if Some(to) == news => match reply {
                Reply::Units(units) => units.iter().for_each(|u| progress.status(u)),
                Reply::End | Reply::Failed(_) => news = None,
                _ => {}
            },
            Wake::Reply(..) | Wake::Again => {}
        }
    }
}

/// The line of one verdict: UNIT OUTCOME TIME TEXT.
fn say(session: &mut Session, plan: &JobPlan, verdict: &Verdict) -> Result<(), Stop> {
    if session.global.json || session.global.quiet {
        return Ok(());
    }
    let style = &session.style;
    let ink = match verdict.outcome {
        Outcome::Done => Ink::Good,
        Outcome::Already => Ink::Dim,
        Outcome::Superseded => Ink::Warn,
        Outcome::Failed | Outcome::Refused => Ink::Bad,
    };
    let names = plan.units.iter().chain(&plan.also).map(|u| u.chars().count());
    let width = names.max().unwrap_or(0);
    let word = format!("{:10}", json::outcome(verdict.outcome));
    let mut text = style.clean(&verdict.text);
    if verdict.killed {
        text.push_str("; killed what was left");
    }
    if !verdict.remains.is_empty() {
        text.push_str(&format!("; still there: {}", pids(&verdict.remains)));
    }
    if let Some(at) = verdict.next_try_us {
        text.push_str(&format!("; next try {}", style.ahead(at)));
    }
    let name = style.clean(&verdict.unit);
    let took = measure::duration(verdict.took_ms);
    let line = format!("{name:width$}  {}  {took:>6}  {text}", style.paint(ink, &word));
    session.out.line(line.trim_end())?;
    session.out.flush()
}

/// Counts the verdicts. A named unit without one is not done, however the answer ended.
pub fn conclude(
    session: &mut Session,
    verb: &str,
    plan: &JobPlan,
    verdicts: &[Verdict],
    proof: Proof,
    others: Others,
) -> Result<u8, Stop> {
    let (result, code) = judge(plan, verdicts, proof, others);
    if session.global.json {
        json::document(
            &mut session.out,
            verb,
            &json::JobBody::new(result, plan, verdicts),
        )?;
    } else if proof == Proof::Verdicts {
        for unit in missing(plan, verdicts) {
            session.say(&format!("{}: the daemon gave no verdict", session.clean(unit)));
        }
        if plan.units.is_empty() && verdicts.is_empty() {
            session.say("nothing to do");
        }
    } else if proof == Proof::Taken {
        let count = plan.units.len() + plan.also.len();
        session.say(&format!(
            "taken for {count} unit{}",
            if count == 1 { "" } else { "s" }
        ));
    }
    Ok(code)
}

fn missing<'a>(plan: &'a JobPlan, verdicts: &'a [Verdict]) -> impl Iterator<Item = &'a String> {
    plan.units
        .iter()
        .filter(|u| !verdicts.iter().any(|v| v.unit == **u))
}

/// The word and the exit code of a job.
pub fn judge(plan: &JobPlan, verdicts: &[Verdict], proof: Proof, others: Others) -> (&'static str, u8) {
    let counts = |v: &&Verdict| others == Others::Targets || !plan.also.contains(&v.unit);
    let (mut well, mut refused, mut bad) = (0, 0, 0);
    for verdict in verdicts.iter().filter(counts) {
        match verdict.outcome {
            Outcome::Done | Outcome::Already => well += 1,
            Outcome::Refused => refused += 1,
            Outcome::Failed | Outcome::Superseded => bad += 1,
        }
    }
    if proof == Proof::Verdicts {
        bad += missing(plan, verdicts).count();
    }
    match (well, refused, bad) {
        (_, 0, 0) if proof == Proof::Taken => ("taken", stop::OK),
        (_, 0, 0) => ("done", stop::OK),
        (0, _, 0) => ("refused", stop::REFUSED),
        (0, _, _) => ("failed", stop::FAILED),
        _ => ("partly", stop::PARTLY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(unit: &str, outcome: Outcome) -> Verdict {
        Verdict {
            unit: unit.into(),
            outcome,
            text: String::new(),
            took_ms: 0,
            killed: false,
            remains: vec![],
            next_try_us: None,
        }
    }

    #[track_caller]
    fn check(verdicts: &[(&str, Outcome)], others: Others, expected: u8) {
        let plan = JobPlan {
            units: vec!["a".into(), "b".into()],
            also: vec!["c".into()],
        };
        let verdicts: Vec<_> = verdicts.iter().map(|(u, o)| verdict(u, *o)).collect();
        assert_eq!(judge(&plan, &verdicts, Proof::Verdicts, others).1, expected);
    }

    #[test]
    fn the_exit_code_counts_named_units() {
        use Outcome::{Already, Done, Failed, Refused, Superseded};
        check(&[("a", Done), ("b", Already)], Others::Helpers, 0);
        check(&[("a", Failed), ("b", Failed)], Others::Helpers, 1);
        check(&[("a", Failed), ("b", Superseded)], Others::Helpers, 1);
        check(&[("a", Done), ("b", Failed)], Others::Helpers, 10);
        check(&[("a", Refused), ("b", Refused)], Others::Helpers, 7);
        check(&[("a", Done), ("b", Refused)], Others::Helpers, 10);
        check(&[("a", Failed), ("b", Refused)], Others::Helpers, 1);
    }

    #[test]
    fn a_unit_without_a_verdict_is_not_done() {
        check(&[("a", Outcome::Done)], Others::Helpers, 10);
        check(&[], Others::Helpers, 1);
    }

    #[test]
    fn others_count_only_when_they_are_targets() {
        let verdicts = [("a", Outcome::Done), ("b", Outcome::Done), ("c", Outcome::Failed)];
        check(&verdicts, Others::Helpers, 0);
        check(&verdicts, Others::Targets, 10);
    }

    #[test]
    fn a_job_that_was_only_taken_promises_nothing() {
        let plan = JobPlan {
            units: vec!["a".into()],
            also: vec![],
        };
        assert_eq!(judge(&plan, &[], Proof::Taken, Others::Helpers), ("taken", 0));
    }
}
