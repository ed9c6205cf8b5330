//! `status`: the screen that an operator looks at most. The verdict first, then what is wrong and what to type next,
//! then a row for each unit; of a named unit, everything that is known.

use clap::Args as ClapArgs;
use proto::reply::{NodeStatus, State, UnitStatus};

use crate::capsule;
use crate::client::Client;
use crate::json;
use crate::measure;
use crate::render::{Ink, Style};
use crate::session::{Rows, Session, state_ink, state_mark, state_word};
use crate::stop::{self, Stop};
use crate::units::{self, blockers, health_ink, health_word, held, pids};

/// Broken units that the header names; the table has them all.
const WRONG_MAX: usize = 8;

/// Flags of `status`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile, state:failed; none: the whole node
    #[arg(value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
    /// How to print rows
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Rows>,
}

/// Shows the node, or units.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.global.json |= args.output == Some(Rows::Json);
    let mut client = session.connect()?;
    let named = !args.units.is_empty();
    let (node, found) = units::ask(&mut client, &args.units, named, false)?;
    let node = node.ok_or_else(|| Stop::unexpected("a status without the node"))?;
    let rows = args.output;
    if session.global.json {
        let body = json::StatusBody::new(&node, &found, session.style.now_us);
        json::document(&mut session.out, "status", &body)?;
    } else if named && rows.is_none() {
        for (i, unit) in found.iter().enumerate() {
            if i > 0 {
                session.out.line("")?;
            }
            detail(session, unit)?;
        }
    } else {
        if !matches!(rows, Some(Rows::Name | Rows::Jsonl)) && !session.global.quiet && !named {
            let wrong = wrong(&mut client, &found)?;
            header(session, &node, &found, &wrong)?;
        }
        if !found.is_empty() {
            units::print(session, "status", &found, rows)?;
        }
    }
    let well = if named {
        found
            .iter()
            .all(|u| matches!(u.state, State::Running | State::Reloading))
    } else {
        node.summary.failed == 0 && !found.iter().any(|u| u.desired_up && u.state == State::Failed)
    };
    Ok(if well { stop::OK } else { stop::FALSE })
}

/// The node in one sentence, and how bad it is.
fn verdict(node: &NodeStatus) -> (State, String) {
    let s = node.summary;
    let fine = s.running + s.completed;
    let units = |n: u32| if n == 1 { "unit" } else { "units" };
    let moving = s.starting + s.waiting;
    if node.stopping {
        (
            State::Stopping,
            format!(
                "shutting down, {} of {} {} still up",
                s.running + s.stopping,
                s.wanted,
                units(s.wanted)
            ),
        )
    } else if s.failed > 0 {
        let again = if s.backoff > 0 {
            format!(", {} to be tried again", s.backoff)
        } else {
            String::new()
        };
        (
            State::Failed,
            format!("{} of {} {} failed{again}", s.failed, s.wanted, units(s.wanted)),
        )
    } else if s.backoff > 0 {
        (
            State::Backoff,
            format!(
                "{} of {} {} ended, to be tried again",
                s.backoff,
                s.wanted,
                units(s.wanted)
            ),
        )
    } else if s.wanted == 0 {
        (State::Stopped, "no unit is wanted".to_owned())
    } else if s.starting == 0 && node.settled && s.waiting > 0 {
        // Everything was tried; what waits, waits for a unit that an operator stopped.
        (
            State::Waiting,
            format!(
                "{fine} of {} {} up, {} held back by units that are stopped",
                s.wanted,
                units(s.wanted),
                s.waiting
            ),
        )
    } else if moving > 0 || !node.settled {
        (
            State::Starting,
            format!("starting, {fine} of {} {} up", s.wanted, units(s.wanted)),
        )
    } else if fine < s.wanted {
        (
            State::Stopped,
            format!("{fine} of {} {} up", s.wanted, units(s.wanted)),
        )
    } else if s.wanted == 1 {
        (State::Running, "well, its 1 unit is up".to_owned())
    } else {
        (State::Running, format!("well, all {} units are up", s.wanted))
    }
}

/// The broken units, worst first; those that the header names come with their last lines, which the daemon reads from
/// disk. One that was mended meanwhile drops out.
fn wrong(client: &mut Client, found: &[UnitStatus]) -> Result<Vec<UnitStatus>, Stop> {
    let is_wrong = |u: &UnitStatus| matches!(u.state, State::Failed | State::Backoff);
    let mut wrong: Vec<_> = found.iter().filter(|u| is_wrong(u)).cloned().collect();
    wrong.sort_by_key(|u| u.state != State::Failed);
    let names: Vec<_> = wrong.iter().take(WRONG_MAX).map(|u| u.name.clone()).collect();
    if names.is_empty() {
        return Ok(wrong);
    }
    let (_, mut named) = units::ask(client, &names, true, false)?;
    named.retain(is_wrong);
    named.sort_by_key(|u| u.state != State::Failed);
    named.extend(wrong.into_iter().skip(WRONG_MAX));
    Ok(named)
}

/// Why a unit is broken, as short as can be, so that its last words fit beside it.
fn in_short(style: &Style, unit: &UnitStatus) -> String {
    let mut said = match (&unit.last_exit, &unit.last_error) {
        // A plain exit code says it all; any other error is told.
        (Some(last), Some(error)) if error.contains("exited with code") => measure::exit(last.exit),
        (_, Some(error)) => style.clean(error),
        (Some(last), None) => measure::exit(last.exit),
        (None, None) => state_word(unit.state).to_owned(),
    };
    if let Some(at) = unit.next_try_us {
        said.push_str(&format!(", next try {}", style.ahead(at)));
    }
    if let Some(last) = unit.last_lines.last() {
        said.push_str(&format!(": {}", style.clean_bytes(&last.message)));
    }
    said
}

fn header(
    session: &mut Session,
    node: &NodeStatus,
    found: &[UnitStatus],
    wrong: &[UnitStatus],
) -> Result<(), Stop> {
    let style = session.style.clone();
    let (state, sentence) = verdict(node);
    let ink = state_ink(state);
    let mark = style.paint(ink, state_mark(&style, state));
    let name = style.paint(Ink::Bold, &style.clean(&node.node));
    session
        .out
        .line(format!("{mark} {name}: {}", style.paint(ink, &sentence)))?;

    let dot = style.pick(" · ", " | ");
    let profiles: Vec<_> = node.profiles.iter().map(|p| style.clean(p)).collect();
    let profile = match profiles.len() {
        0 => "no profile".to_owned(),
        1 => format!("profile {}", profiles[0]),
        _ => format!("profiles {}", profiles.join(", ")),
    };
    // Whole seconds: tenths would only flicker.
    let uptime = match node.uptime_ms {
        ms @ 0..60_000 => format!("{}s", ms / 1000),
        ms => measure::duration(ms),
    };
    let facts = [
        format!("ringriftd {}", style.clean(&node.version)),
        profile,
        format!("up {uptime}"),
        format!("pid {}", node.pid),
        style.clean(&node.containment),
    ];
    session
        .out
        .line(format!("  {}", style.paint(Ink::Dim, &facts.join(dot))))?;

    let s = node.summary;
    let counts = [
        (s.running, State::Running),
        (s.completed, State::Completed),
        (s.starting, State::Starting),
        (s.waiting, State::Waiting),
        (s.stopping, State::Stopping),
        (s.backoff, State::Backoff),
        (s.failed, State::Failed),
        (s.stopped, State::Stopped),
    ];
    let counted: Vec<_> = counts
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, state)| style.paint(state_ink(state), &format!("{n} {}", state_word(state))))
        .collect();
    let mut line = counted.join(dot);
    if s.known > s.wanted {
        if !line.is_empty() {
            line.push_str(dot);
        }
        line.push_str(&style.paint(Ink::Dim, &format!("{} not wanted here", s.known - s.wanted)));
    }
    if !line.is_empty() {
        session.out.line(format!("  {line}"))?;
    }
    for notice in &node.notices {
        session.out.line(format!(
            "  {} {}",
            style.paint(Ink::Warn, "!"),
            style.clean(notice)
        ))?;
    }

    if !wrong.is_empty() {
        session.out.line("")?;
    }
    let width = wrong
        .iter()
        .take(WRONG_MAX)
        .map(|u| u.name.chars().count())
        .max()
        .unwrap_or(0);
    for unit in wrong.iter().take(WRONG_MAX) {
        let text = format!(
            "{} {:width$}  {}",
            state_mark(&style, unit.state),
            style.clean(&unit.name),
            in_short(&style, unit)
        );
        let text = style
            .width
            .map_or_else(|| text.clone(), |w| style.cut(&text, w.saturating_sub(2)));
        session
            .out
            .line(format!("  {}", style.paint(state_ink(unit.state), &text)))?;
    }
    if wrong.len() > WRONG_MAX {
        session
            .out
            .line(format!("  and {} more", wrong.len() - WRONG_MAX))?;
    }
    if let Some(first) = wrong.first() {
        let name = style.clean(&first.name);
        let more = if wrong.len() > 1 && first.state == State::Failed {
            " | ringriftctl failed"
        } else {
            ""
        };
        session.out.line(style.paint(
            Ink::Dim,
            &format!("  see: ringriftctl status {name} | ringriftctl logs {name}{more}"),
        ))?;
    }
    if !found.is_empty() {
        session.out.line("")?;
    }
    Ok(())
}

/// Everything known of one unit.
fn detail(session: &mut Session, unit: &UnitStatus) -> Result<(), Stop> {
    let style = session.style.clone();
    let ink = state_ink(unit.state);
    let mark = style.paint(ink, state_mark(&style, unit.state));
    let mut title = format!("{mark} {}", style.paint(Ink::Bold, &style.clean(&unit.name)));
    if !unit.description.is_empty() {
        title.push_str(&format!(" - {}", style.clean(&unit.description)));
    }
    session.out.line(title)?;

    let mut lines: Vec<(&str, String)> = Vec::new();
    let wanted = if unit.desired_up { "" } else { ", not wanted" };
    let since = if style.iso {
        format!("since {}", style.since(unit.since_us))
    } else {
        format!(
            "for {} ({})",
            style.since(unit.since_us),
            measure::iso(unit.since_us, &style.zone)
        )
    };
    lines.push((
        "state",
        format!("{} {since}{wanted}", style.paint(ink, state_word(unit.state))),
    ));
    lines.extend(
        unit.held
            .as_ref()
            .map(|hold| ("held", style.paint(Ink::Warn, &held(&style, hold)))),
    );
    if !unit.blocked_by.is_empty() {
        lines.push(("waits for", blockers(&style, unit, true)));
    }
    if let Some(at) = unit.next_try_us {
        lines.push(("next try", style.ahead(at)));
    }
    if let Some(error) = &unit.last_error {
        // One that runs again has only a history.
        let ink = if matches!(unit.state, State::Failed | State::Backoff) {
            Ink::Bad
        } else {
            Ink::Plain
        };
        lines.push(("last error", style.paint(ink, &style.clean(error))));
    }
    if let Some(last) = unit.last_exit {
        lines.push((
            "last exit",
            format!("{}, {}", measure::exit(last.exit), style.ago(last.at_us)),
        ));
    }
    if !unit.remains.is_empty() {
        lines.push(("still there", style.paint(Ink::Bad, &pids(&unit.remains))));
    }
    lines.push((
        "health",
        style.paint(health_ink(unit.health), health_word(unit.health)),
    ));
    if let Some(text) = &unit.status_text {
        lines.push(("says", format!("\"{}\"", style.clean(text))));
    }
    let mut life = Vec::new();
    life.extend(unit.pid.map(|p| format!("pid {p}")));
    life.extend(
        unit.invocation
            .as_deref()
            .map(|i| format!("invocation {}", style.clean(i))),
    );
    if !life.is_empty() {
        lines.push(("process", life.join(", ")));
    }
    let mut cost = Vec::new();
    cost.extend(
        unit.cpu_us
            .map(|us| format!("{} CPU", measure::duration(us / 1000))),
    );
    cost.extend(unit.memory_bytes.map(|b| format!("{} memory", measure::size(b))));
    if !cost.is_empty() {
        lines.push(("uses", cost.join(", ")));
    }
    lines.push((
        "starts",
        // The restart that a back-off waits for is counted already.
        format!("{}, automatic restarts {}", unit.starts, unit.restarts),
    ));
    let mut kind = vec![style.clean(&unit.category), style.clean(&unit.lifecycle)];
    if unit.critical {
        kind.push("critical".to_owned());
    }
    kind.retain(|k| !k.is_empty());
    lines.push(("kind", kind.join(", ")));
    if unit.needs_restart {
        lines.push((
            "files",
            style.paint(Ink::Warn, "changed: takes effect at the next restart"),
        ));
    }
    if let Some(end) = &unit.deprecated {
        let instead = if end.is_empty() {
            "nothing replaces it".to_owned()
        } else {
            format!("use {}", style.clean(end))
        };
        lines.push(("deprecated", style.paint(Ink::Warn, &instead)));
    }
    lines.extend(unit.added_by.as_deref().map(|by| ("added by", style.clean(by))));
    lines.extend(unit.note.as_deref().map(|note| ("note", style.clean(note))));
    for (key, value) in lines {
        session.out.line(format!(
            "  {}  {value}",
            style.paint(Ink::Dim, &format!("{key:>11}"))
        ))?;
    }
    capsule::block(session, &unit.capsules, unit.failures)?;
    if !unit.last_lines.is_empty() {
        session.out.line("")?;
        for line in &unit.last_lines {
            let time = style.paint(Ink::Dim, &measure::short(line.at_us, &style.zone));
            session
                .out
                .line(format!("  {time}  {}", style.clean_bytes(&line.message)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::reply::Summary;

    #[track_caller]
    fn check(summary: Summary, expected: &str) {
        let node = NodeStatus {
            version: "1".into(),
            node: "n".into(),
            profiles: vec![],
            pid: 1,
            uptime_ms: 0,
            containment: String::new(),
            settled: true,
            stopping: false,
            summary,
            notices: vec![],
            started_us: 0,
        };
        assert_eq!(verdict(&node).1, expected);
    }

    #[test]
    fn the_worst_comes_first() {
        let base = Summary {
            known: 78,
            wanted: 32,
            ..Summary::default()
        };
        check(
            Summary {
                running: 30,
                completed: 2,
                ..base
            },
            "well, all 32 units are up",
        );
        check(
            Summary {
                running: 30,
                starting: 2,
                ..base
            },
            "starting, 30 of 32 units up",
        );
        check(
            Summary {
                running: 29,
                waiting: 3,
                ..base
            },
            "29 of 32 units up, 3 held back by units that are stopped",
        );
        check(
            Summary {
                running: 31,
                backoff: 1,
                ..base
            },
            "1 of 32 units ended, to be tried again",
        );
        check(
            Summary {
                running: 29,
                failed: 2,
                backoff: 1,
                ..base
            },
            "2 of 32 units failed, 1 to be tried again",
        );
        check(
            Summary {
                running: 31,
                stopped: 1,
                ..base
            },
            "31 of 32 units up",
        );
        check(
            Summary {
                known: 3,
                ..Summary::default()
            },
            "no unit is wanted",
        );
    }
}
