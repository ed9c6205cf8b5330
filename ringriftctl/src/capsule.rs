//! Failures as words: what `status UNIT`, `failed` and `why` show of one.

use proto::reply::{Capsule, Changed, ChangedKind, FailureKind, Oom};

use crate::measure;
use crate::render::{Ink, Style};
use crate::session::Session;
use crate::stop::Stop;

/// How it ended, in a few words: `exit 1`, `SIGKILL (out of memory)`.
pub fn exit(capsule: &Capsule) -> String {
    let exit = match (capsule.exit, capsule.kind) {
        (_, FailureKind::Timeout) => "timeout".to_owned(),
        (_, FailureKind::Probe) => "health check".to_owned(),
        (None, FailureKind::Hook) => "hook".to_owned(),
        (None, _) => "no start".to_owned(),
        (Some(exit), _) => measure::exit(exit),
    };
    match capsule.oom {
        Oom::No => exit,
        Oom::Yes => format!("{exit} (out of memory)"),
        Oom::Maybe => format!("{exit} (out of memory?)"),
    }
}

/// What is known of the life: how long it was, what it used, what the kernel did to it.
pub fn facts(capsule: &Capsule) -> Vec<String> {
    let mut facts = Vec::new();
    match (capsule.lived_ms, capsule.ready_ms) {
        (None, _) => facts.push("never launched".to_owned()),
        (Some(lived), None) => facts.push(format!("lived {}, never ready", measure::duration(lived))),
        (Some(lived), Some(ready)) => facts.push(format!(
            "lived {}, ready for {}",
            measure::duration(lived),
            measure::duration(ready)
        )),
    }
    facts.extend(
        capsule
            .cpu_us
            .map(|us| format!("{} CPU", measure::duration(us / 1000))),
    );
    facts.extend(
        capsule
            .memory_peak
            .map(|bytes| format!("{} memory at most", measure::size(bytes))),
    );
    match capsule.oom {
        Oom::No => {}
        Oom::Yes => facts.push("the kernel killed it for want of memory".to_owned()),
        Oom::Maybe => facts.push("perhaps the kernel killed it for want of memory".to_owned()),
    }
    facts
}

/// What is different since the unit last worked, one sentence each.
pub fn changed(style: &Style, capsule: &Capsule) -> Vec<String> {
    let Some(worked) = &capsule.worked else {
        return vec!["it has never worked: no life of it was ready for long enough to count".to_owned()];
    };
    let when = if worked.is_this {
        "while it ran, ".to_owned()
    } else {
        format!("since it last worked ({}), ", style.ago(worked.until_us))
    };
    let said: Vec<String> = capsule.changed.iter().map(|c| sentence(style, c)).collect();
    if said.is_empty() {
        return vec![format!("{when}nothing changed that ringriftd knows of")];
    }
    said.into_iter().map(|said| format!("{when}{said}")).collect()
}

fn sentence(style: &Style, changed: &Changed) -> String {
    let text = style.clean(&changed.text);
    match changed.kind {
        ChangedKind::Definition => format!("its definition changed: {text}"),
        ChangedKind::Program => format!("this file changed: {text}"),
        ChangedKind::Ringriftd => format!("ringriftd changed: {text}"),
        ChangedKind::Boot => text,
        ChangedKind::Dependency => format!("these started anew: {text}"),
    }
}

/// The last `most` of its last lines.
pub fn tail(style: &Style, capsule: &Capsule, most: usize) -> Vec<String> {
    if !capsule.is_tail_known {
        return vec!["its last words are still being read".to_owned()];
    }
    if capsule.tail.is_empty() {
        return vec!["it wrote nothing".to_owned()];
    }
    let from = capsule.tail.len().saturating_sub(most);
    let bar = style.pick("│", "|");
    capsule.tail[from..]
        .iter()
        .map(|line| format!("{bar} {}", style.clean_bytes(&line.message)))
        .collect()
}

/// Everything of one failure, for people: a line of its own, then what is below it.
pub fn lines(style: &Style, capsule: &Capsule, most: usize) -> Vec<String> {
    let mut lines = vec![headline(style, capsule)];
    lines.push(style.paint(Ink::Dim, &facts(capsule).join(", ")));
    lines.extend(changed(style, capsule));
    lines.extend(
        tail(style, capsule, most)
            .iter()
            .map(|line| style.paint(Ink::Dim, line)),
    );
    lines
}

fn headline(style: &Style, capsule: &Capsule) -> String {
    format!(
        "{}  {}  {}",
        style.ago(capsule.at_us),
        style.paint(Ink::Bad, &style.clean(&capsule.text)),
        style.paint(Ink::Dim, &format!("event {}", capsule.seq))
    )
}

/// Lines of a failure's output that `status` shows: the unit's own last lines stand below.
const STATUS_LINES: usize = 5;

/// What `status UNIT` says of the failures: the last one whole, those before it in a line each.
pub fn block(session: &mut Session, capsules: &[Capsule], failures: u64) -> Result<(), Stop> {
    let style = session.style.clone();
    let Some((last, before)) = capsules.split_last() else {
        return Ok(());
    };
    session.out.line("")?;
    let most = capsules.len();
    let heading = match (failures, most) {
        (1, _) => "  failed once".to_owned(),
        (n, _) => format!("  failed {n} times, here the last {most}"),
    };
    session.out.line(style.paint(Ink::Dim, &heading))?;
    for (i, line) in lines(&style, last, STATUS_LINES).into_iter().enumerate() {
        let indent = if i == 0 { "  " } else { "      " };
        session.out.line(format!("{indent}{line}"))?;
    }
    for capsule in before.iter().rev() {
        session.out.line(format!("  {}", headline(&style, capsule)))?;
    }
    Ok(())
}
