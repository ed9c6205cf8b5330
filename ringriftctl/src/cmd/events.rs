//! `events`: one line a change of state, with its cause.

use clap::Args as ClapArgs;
use proto::event_line::EventLine;
use proto::reply::{CauseKind, Event, Reply};
use proto::request::Request;

use crate::json;
use crate::measure;
use crate::render::{Ink, talk};
use crate::session::{Session, state_ink, state_word};
use crate::since;
use crate::stop::{self, Stop};
use crate::stream;

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

/// Prints events, with `-f` until interrupted.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    let since = args
        .since
        .as_deref()
        .map(|text| since::read(session, text))
        .transpose()?;
    let mut client = session.connect()?;
    let moment = match since {
        Some(since) => Some(since::moment(session, &mut client, &args.units, since)?),
        None => None,
    };
    let after = moment
        .and_then(|moment| moment.failure)
        .map(|seq| seq.saturating_sub(1));
    let request = Request::Events {
        selectors: args.units.clone(),
        follow: args.follow,
        after,
        // The failure itself is found by its number.
        since_us: moment
            .filter(|moment| moment.failure.is_none())
            .map(|moment| moment.at_us),
    };
    if !args.follow {
        client.each(request, |reply| hear(session, reply))?;
        return Ok(stop::OK);
    }
    stream::follow(session, &mut client, request, hear)
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
        CauseKind::Log => "log",
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
