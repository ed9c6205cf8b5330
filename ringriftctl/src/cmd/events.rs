//! `events`: one line a change of state, with its cause.

use std::time::Instant;

use clap::Args as ClapArgs;
use jiff::tz::TimeZone;
use proto::event_line::EventLine;
use proto::reply::{CauseKind, Event, Reply, State};
use proto::request::Request;

use crate::client::{Client, Wake};
use crate::cmd::logs::follow;
use crate::json;
use crate::measure::{self, Since};
use crate::render::{Ink, talk};
use crate::session::{Session, state_ink, state_word};
use crate::stop::{self, Stop};

/// A unit's process failed, whatever is done about it.
const FAILED: &str = "DAEMON_FAILED";

/// Flags of `events`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile; none: all
    #[arg(value_name = "SELECTOR", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
    /// Go on as events happen
    #[arg(short, long)]
    pub follow: bool,
    /// Only later ones: -1h, "10 min ago", a date and time, boot, last-failure
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
}

/// The last failure of the units, one that was restarted after as well, as far as the flight recorder goes back.
pub fn last_failure(client: &mut Client, units: &[String]) -> Result<Option<Event>, Stop> {
    let mut last = None;
    let so_far = Request::Events {
        selectors: units.to_vec(),
        follow: false,
        after: None,
        since_us: None,
    };
    client.each(so_far, |reply| {
        if let Reply::Event(event) = reply
            && (event.to == State::Failed || event.event == FAILED)
        {
            last = Some(*event);
        }
        Ok(())
    })?;
    Ok(last)
}

/// Prints events, with `-f` until interrupted.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    let now = session.style.now_us;
    let since = match &args.since {
        None => None,
        Some(text) => Some(
            measure::parse_since(text, now, measure::boot_us(now), &TimeZone::system())
                .map_err(Stop::usage)?,
        ),
    };
    let mut client = session.connect()?;
    let (mut after, mut since_us) = (None, None);
    match since {
        None => {}
        Some(Since::At(us)) => since_us = Some(us),
        Some(Since::LastFailure) => match last_failure(&mut client, &args.units)? {
            Some(event) => after = Some(event.seq.saturating_sub(1)),
            None => {
                session.say("nothing has failed so far");
                since_us = Some(now);
            }
        },
    }
    let request = Request::Events {
        selectors: args.units.clone(),
        follow: args.follow,
        after,
        since_us,
    };
    if !args.follow {
        client.each(request, |reply| hear(session, reply))?;
        return Ok(stop::OK);
    }
    let id = client.ask(request)?;
    loop {
        let wake = match client.wake(Some(Instant::now()))? {
            Wake::Time => {
                session.out.flush()?;
                client.wake(None)?
            }
            wake => wake,
        };
        if let Some(code) = follow(wake, id, |reply| hear(session, reply))? {
            return Ok(code);
        }
    }
}

fn hear(session: &mut Session, reply: Reply) -> Result<(), Stop> {
    match reply {
        Reply::Event(event) if session.global.json => json::line(
            &mut session.out,
            &EventLine::new(&event, measure::utc(event.at_us)),
        ),
        Reply::Event(event) => print(session, &event),
        Reply::Lagged(count) => {
            talk(&format!("{count} events were dropped: this reader is too slow"));
            Ok(())
        }
        _ => Err(Stop::unexpected("a request for events with something else")),
    }
}

fn print(session: &mut Session, event: &Event) -> Result<(), Stop> {
    let style = &session.style;
    let time = if style.iso {
        measure::iso(event.at_us, &style.zone)
    } else {
        measure::short(event.at_us, &style.zone)
    };
    let kind = match event.cause.kind {
        CauseKind::Command => "command",
        CauseKind::Exit => "exit",
        CauseKind::Signal => "signal",
        CauseKind::Probe => "probe",
        CauseKind::Timer => "timer",
        CauseKind::Dependency => "dependency",
        CauseKind::Config => "config",
        CauseKind::Boot => "boot",
        CauseKind::Recovery => "recovery",
    };
    let mut cause = format!("{kind}: {}", style.clean(&event.cause.text));
    if let Some(seq) = event.cause.seq {
        cause.push_str(&format!(" (after #{seq})"));
    }
    if let Some(by) = &event.cause.by {
        // A command's own words are its verb already.
        let verb = if by.verb == event.cause.text {
            String::new()
        } else {
            format!("{} ", style.clean(&by.verb))
        };
        cause.push_str(&format!(" ({verb}by uid {} pid {})", by.uid, by.pid));
    }
    let line = format!(
        "{} #{} {} {} {} {} {}  {cause}",
        style.paint(Ink::Dim, &time),
        event.seq,
        style.paint(Ink::Bold, &style.clean(&event.unit)),
        style.clean(&event.event),
        state_word(event.from),
        style.pick("→", "->"),
        style.paint(state_ink(event.to), state_word(event.to)),
    );
    session.out.line(line)
}
