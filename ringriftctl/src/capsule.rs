//! Failures as words and as JSON: what `status UNIT`, `failed` and `why` show of one.

use proto::reply::{Capsule, Changed, ChangedKind, Exit, FailureKind, Oom};
use serde::Serialize;

use crate::json::{self, LogBody};
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

/// One failure as JSON.
#[derive(Serialize)]
pub struct CapsuleBody<'a> {
    seq: u64,
    at: String,
    invocation: &'a str,
    kind: FailureKind,
    text: &'a str,
    code: Option<i32>,
    signal: Option<String>,
    core: Option<bool>,
    oom: Oom,
    lived_s: Option<f64>,
    ready_s: Option<f64>,
    cpu_s: Option<f64>,
    memory_peak_bytes: Option<u64>,
    digest: &'a str,
    last_worked: Option<WorkedBody<'a>>,
    changed: Vec<ChangedBody<'a>>,
    last_lines: Option<Vec<LogBody<'a>>>,
}

#[derive(Serialize)]
struct WorkedBody<'a> {
    invocation: &'a str,
    until: String,
    is_this: bool,
}

#[derive(Serialize)]
struct ChangedBody<'a> {
    kind: ChangedKind,
    text: &'a str,
}

impl<'a> From<&'a Capsule> for CapsuleBody<'a> {
    fn from(capsule: &'a Capsule) -> Self {
        let (code, signal, core) = match capsule.exit {
            Some(Exit::Code(code)) => (Some(code), None, None),
            Some(Exit::Signal { signal, core }) => (None, Some(measure::signal_name(signal)), Some(core)),
            Some(Exit::Unknown) | None => (None, None, None),
        };
        let changed = |changed: &'a Changed| ChangedBody {
            kind: changed.kind,
            text: &changed.text,
        };
        Self {
            seq: capsule.seq,
            at: measure::utc(capsule.at_us),
            invocation: &capsule.invocation,
            kind: capsule.kind,
            text: &capsule.text,
            code,
            signal,
            core,
            oom: capsule.oom,
            lived_s: capsule.lived_ms.map(json::seconds_ms),
            ready_s: capsule.ready_ms.map(json::seconds_ms),
            cpu_s: capsule.cpu_us.map(json::seconds_us),
            memory_peak_bytes: capsule.memory_peak,
            digest: &capsule.digest,
            last_worked: capsule.worked.as_ref().map(|worked| WorkedBody {
                invocation: &worked.invocation,
                until: measure::utc(worked.until_us),
                is_this: worked.is_this,
            }),
            changed: capsule.changed.iter().map(changed).collect(),
            last_lines: capsule
                .is_tail_known
                .then(|| capsule.tail.iter().map(LogBody::from).collect()),
        }
    }
}
