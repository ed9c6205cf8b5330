//! `status`: the screen that an operator looks at most. The verdict first, then what is wrong by its root cause and what
//! to type next, then a row for each unit; of a named unit, everything that is known. What is true of a node is decided
//! in [`crate::overview`]; here it is laid out so that no line is wider than the screen.

use std::collections::BTreeMap;

use clap::Args as ClapArgs;
use proto::reply::{LogStatus, NodeStatus, State, UnitStatus};
use proto::request::Depth;
use unicode_width::UnicodeWidthStr;

use crate::capsule;
use crate::client::Client;
use crate::json;
use crate::measure;
use crate::overview::{Kind, Trouble, Verdict, advice, open_breakers, rank, troubles, verdict};
use crate::render::{Ink, Style, terminal_height};
use crate::session::{Rows, Session, state_ink, state_mark, state_word};
use crate::stop::{self, Stop};
use crate::units::{self, blockers, health_ink, health_word, held, pids};

/// Root causes that the header names; the table has all units.
const WRONG_MAX: usize = 8;
/// Of so many it tells their last words, and whom they hold up by name.
const IN_FULL: usize = 3;
/// The longest name that the header shows whole, in columns.
const NAME_MAX: usize = 32;
/// How wide a list of names gets where there is no screen.
const NAMES_WIDTH: usize = 120;

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
    let depth = match args.output {
        _ if named => Depth::Detail,
        None | Some(Rows::Name) if !session.global.json => Depth::Known,
        None | Some(_) => Depth::Usage,
    };
    let (node, mut found) = units::ask(&mut client, &args.units, depth, false)?;
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
        let with_header = !matches!(rows, Some(Rows::Name | Rows::Jsonl)) && !session.global.quiet && !named;
        let verdict = verdict(&node, &found);
        if with_header {
            let troubles = troubles(&found);
            let said = last_words(&session.style, &mut client, &troubles)?;
            header(session, &node, &verdict, &troubles, &said)?;
            if !found.is_empty() {
                session.out.line("")?;
            }
        }
        if !found.is_empty() {
            if !named {
                // What is wrong is on the screen that the header is on, however many units there are.
                found.sort_by_key(rank);
            }
            units::print_short(session, "status", &found, rows)?;
        }
        if with_header && terminal_height().is_some_and(|h| found.len() + 1 >= h) && session.out.is_terminal {
            // The rows have pushed the verdict off the screen.
            let line = headline(&session.style, &node, &verdict);
            session.out.line("")?;
            session.out.line(line)?;
        }
    }
    let well = if named {
        found
            .iter()
            .all(|u| matches!(u.state, State::Running | State::Reloading))
    } else {
        let is_held = node.breakers.iter().any(|breaker| !breaker.held.is_empty());
        node.summary.failed == 0
            && !is_held
            && !found.iter().any(|u| u.desired_up && u.state == State::Failed)
    };
    Ok(if well { stop::OK } else { stop::FALSE })
}

/// The last words of the broken units, clean, which the daemon reads from disk: only of those that the header shows in
/// full.
fn last_words(
    style: &Style,
    client: &mut Client,
    troubles: &[Trouble<'_>],
) -> Result<BTreeMap<String, String>, Stop> {
    let names: Vec<String> = troubles
        .iter()
        .take(IN_FULL)
        .filter(|t| t.unit.is_some() && t.kind != Kind::Down)
        .map(|t| t.name.to_owned())
        .collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (_, named) = units::ask(client, &names, Depth::Detail, false)?;
    let last = |u: &UnitStatus| {
        let lines = u.last_lines.iter().rev().map(|l| l.message.trim_ascii());
        lines
            .into_iter()
            .find(|l| !l.is_empty())
            .map(|l| style.clean_bytes(l).replace('\t', " "))
    };
    Ok(named
        .iter()
        .filter_map(|u| Some((u.name.clone(), last(u)?)))
        .collect())
}

/// What is known of the node beside its units, most useful first.
fn facts(style: &Style, node: &NodeStatus) -> Vec<String> {
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
    vec![
        profile,
        format!("up {uptime}"),
        format!("ringriftd {}", style.clean(&node.version)),
        format!("pid {}", node.pid),
        style.clean(&node.containment),
    ]
}

/// Parts joined by dots, as many as fit into a line that begins `indent` columns in; always the first.
fn joined(style: &Style, indent: usize, parts: &[(Ink, String)]) -> String {
    let dot = style.pick(" · ", " | ");
    let room = style.width.unwrap_or(usize::MAX).saturating_sub(indent);
    let (mut line, mut used) = (String::new(), 0);
    for (i, (ink, part)) in parts.iter().enumerate() {
        let before = if i == 0 { 0 } else { dot.width() };
        if i > 0 && used + before + part.width() > room {
            break;
        }
        if i > 0 {
            line.push_str(&style.paint(Ink::Dim, dot));
        }
        let part = style.cut(part, room);
        line.push_str(&style.paint(*ink, &part));
        used += before + part.width();
    }
    line
}

fn counts(node: &NodeStatus) -> Vec<(Ink, String)> {
    let s = node.summary;
    let counts = [
        (s.failed, State::Failed),
        (s.backoff, State::Backoff),
        (s.waiting, State::Waiting),
        (s.starting, State::Starting),
        (s.stopping, State::Stopping),
        (s.stopped, State::Stopped),
        (s.running, State::Running),
        (s.completed, State::Completed),
    ];
    let mut parts: Vec<_> = counts
        .into_iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, state)| (state_ink(state), format!("{n} {}", state_word(state))))
        .collect();
    if s.known > s.wanted {
        parts.push((Ink::Dim, format!("{} not wanted here", s.known - s.wanted)));
    }
    parts
}

/// The verdict as one line that fits.
fn headline(style: &Style, node: &NodeStatus, verdict: &Verdict) -> String {
    let ink = verdict.level.ink();
    let mark = verdict.level.mark(style);
    // A name as long as a line would leave no room for the verdict.
    let name = style.cut(&style.clean(&node.node), NAME_MAX);
    let used = mark.width() + name.width() + verdict.level.word().width() + 5;
    format!(
        "{} {}: {}",
        style.paint(ink, mark),
        style.paint(Ink::Bold, &name),
        style.paint(
            ink,
            &format!(
                "{}, {}",
                verdict.level.word(),
                style.cut_line(&verdict.sentence, used)
            )
        )
    )
}

/// The exact commands, below each other, with what they are good for.
fn next(session: &Session, advice: &[(String, &'static str)]) -> Vec<String> {
    let style = &session.style;
    let socket = match &session.global.socket {
        Some(path) => format!("--socket {} ", quoted(&style.clean(&path.display().to_string()))),
        None => String::new(),
    };
    let commands: Vec<String> = advice
        .iter()
        .map(|(command, _)| format!("ringriftctl {socket}{command}"))
        .collect();
    let widest = commands.iter().map(|c| c.width()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (i, (command, (_, why))) in commands.iter().zip(advice).enumerate() {
        let label = if i == 0 { "next: " } else { "      " };
        // A command is never cut: one that does not fit wraps, and can still be copied. Its reason gives way.
        let pad = " ".repeat(widest - command.width());
        let room = style.width.unwrap_or(usize::MAX).saturating_sub(12 + widest);
        let why = if room < why.width() { "" } else { why };
        lines.push(
            format!(
                "  {}{}{pad}  {}",
                style.paint(Ink::Dim, label),
                style.paint(Ink::Bold, command),
                style.paint(Ink::Dim, why)
            )
            .trim_end()
            .to_owned(),
        );
    }
    lines
}

/// As a shell reads it back.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if path.chars().all(is_plain) {
        path.to_owned()
    } else {
        format!("'{}'", path.replace('\'', "'\\''"))
    }
}

/// Everything above the rows.
fn header(
    session: &mut Session,
    node: &NodeStatus,
    verdict: &Verdict,
    troubles: &[Trouble<'_>],
    said: &BTreeMap<String, String>,
) -> Result<(), Stop> {
    let style = session.style.clone();
    session.out.line(headline(&style, node, verdict))?;
    let facts: Vec<_> = facts(&style, node).into_iter().map(|f| (Ink::Dim, f)).collect();
    session.out.line(format!("  {}", joined(&style, 2, &facts)))?;
    let counts = counts(node);
    if !counts.is_empty() {
        session.out.line(format!("  {}", joined(&style, 2, &counts)))?;
    }
    let breakers = open_breakers(&style, node);
    for notice in breakers.iter().chain(&node.notices) {
        for (i, line) in wrapped(&style, &style.clean(notice), 4).iter().enumerate() {
            let mark = if i == 0 { "!" } else { " " };
            session
                .out
                .line(format!("  {} {line}", style.paint(Ink::Warn, mark)))?;
        }
    }

    if !troubles.is_empty() {
        session.out.line("")?;
    }
    let shown = &troubles[..troubles.len().min(WRONG_MAX)];
    let width = shown
        .iter()
        .map(|t| t.name.width())
        .max()
        .unwrap_or(0)
        .min(NAME_MAX);
    for (i, trouble) in shown.iter().enumerate() {
        let name = style.cut(&style.clean(trouble.name), NAME_MAX);
        let pad = " ".repeat(width.saturating_sub(name.width()));
        let used = 2 + 2 + width + 2;
        let reason = trouble.reason(&style);
        let mut what = trouble.what(&style);
        if i >= IN_FULL {
            if !trouble.holds_up.is_empty() {
                what.push_str(&format!(", holds up {}", trouble.holds_up.len()));
            }
            what.extend(reason.iter().map(|r| format!(": {r}")));
        }
        session.out.line(format!(
            "  {} {}{pad}  {}",
            style.paint(trouble.ink(), trouble.mark(&style)),
            style.paint(Ink::Bold, &name),
            style.paint(trouble.ink(), &style.cut_line(&what, used)),
        ))?;
        if i >= IN_FULL {
            continue;
        }
        let mut below = Vec::new();
        below.extend(reason.map(|r| (Ink::Plain, format!("because: {r}"))));
        below.extend(
            said.get(trouble.name)
                .map(|last| (Ink::Dim, format!("it said: {last}"))),
        );
        let room = style.width.unwrap_or(NAMES_WIDTH).saturating_sub(4);
        below.extend(trouble.blocks(&style, room).map(|text| (Ink::Warn, text)));
        for (ink, text) in below {
            let text = style.cut_line(&text, 4);
            session.out.line(format!("    {}", style.paint(ink, &text)))?;
        }
    }
    if troubles.len() > WRONG_MAX {
        session
            .out
            .line(format!("  and {} more", troubles.len() - WRONG_MAX))?;
    }
    let lines = next(session, &advice(verdict, troubles));
    if !lines.is_empty() {
        session.out.line("")?;
    }
    lines.iter().try_for_each(|line| session.out.line(line))
}

/// A sentence over as many lines as it takes, each begun `indent` columns in.
fn wrapped(style: &Style, text: &str, indent: usize) -> Vec<String> {
    let Some(width) = style.width else {
        return vec![text.to_owned()];
    };
    let room = width.saturating_sub(indent).max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(&style.cut(word, room));
        } else if line.width() + 1 + word.width() <= room {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(style.cut(word, room));
        }
    }
    lines
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
        match &unit.health_text {
            Some(why) => format!(
                "{} ({})",
                style.paint(health_ink(unit.health), health_word(unit.health)),
                style.clean(why)
            ),
            None => style.paint(health_ink(unit.health), health_word(unit.health)),
        },
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
    lines.extend(
        unit.log
            .and_then(|log| log_line(&style, log))
            .map(|text| ("log", text)),
    );
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

/// What became of its output; nothing where it wrote nothing.
fn log_line(style: &Style, log: LogStatus) -> Option<String> {
    let mut parts = Vec::new();
    if log.bytes > 0 {
        parts.push(format!("{} lines, {}", log.lines, measure::size(log.bytes)));
    }
    if log.dropped_bytes > 0 {
        // Exact, since the log says so too.
        let (lines, bytes) = (log.dropped_lines, log.dropped_bytes);
        parts.push(style.paint(Ink::Warn, &format!("{lines} lines of {bytes} bytes were dropped")));
    }
    if log.is_blocked {
        parts.push(style.paint(Ink::Bad, "it cannot be written now"));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::plain;

    #[test]
    fn facts_that_do_not_fit_are_left_out_and_never_wrapped() {
        let parts: Vec<_> = ["profile x", "up 3m", "pid 12"]
            .map(|p| (Ink::Dim, p.to_owned()))
            .into();
        assert_eq!(joined(&plain(None), 2, &parts), "profile x · up 3m · pid 12");
        assert_eq!(joined(&plain(Some(20)), 2, &parts), "profile x · up 3m");
        assert_eq!(joined(&plain(Some(18)), 10, &parts), "profile…");
    }

    #[test]
    fn a_socket_with_a_blank_can_be_pasted() {
        assert_eq!(quoted("/run/a.sock"), "/run/a.sock");
        assert_eq!(quoted("/run/it's me"), "'/run/it'\\''s me'");
    }

    #[test]
    fn sentences_are_wrapped_at_blanks() {
        assert_eq!(
            wrapped(&plain(Some(20)), "one two three four", 10),
            ["one two", "three four"]
        );
        assert_eq!(
            wrapped(&plain(None), "one two three four", 10),
            ["one two three four"]
        );
    }
}
