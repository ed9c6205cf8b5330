//! `why`: the chain from a unit to what keeps it from being well, and what can be done about that.

use clap::Args as ClapArgs;
use proto::reply::{Advice, By, EdgeKind, Reply, RootKind, State, Why, WhyRoot, WhyStep};
use proto::request::Request;
use serde::Serialize;

use crate::capsule;
use crate::json::{self, CapsuleBody, time};
use crate::measure;
use crate::render::{Ink, Style};
use crate::session::{Session, state_ink, state_mark};
use crate::stop::{self, Stop};

/// Blocked units that are named; `--json` names more.
const BLOCKS_NAMED: usize = 12;
/// Lines of a cause's output.
const LINES: usize = 10;

/// Flags of `why`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// The unit
    #[arg(value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub unit: String,
}

/// Says why; 0 when nothing is wrong.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    let mut client = session.connect()?;
    let mut found = None;
    for reply in client.collect(Request::Why {
        unit: args.unit.clone(),
    })? {
        match reply {
            Reply::Why(why) => found = Some(why),
            _ => return Err(Stop::unexpected("why with something else")),
        }
    }
    let why = found.ok_or_else(|| Stop::unexpected("why with nothing"))?;
    if session.global.json {
        json::document(&mut session.out, "why", &Body::from(&*why))?;
    } else {
        for line in text(&session.style, &why) {
            session.out.line(line)?;
        }
    }
    Ok(if why.fine { stop::OK } else { stop::FALSE })
}

/// The answer for people.
fn text(style: &Style, why: &Why) -> Vec<String> {
    let ink = if why.fine { Ink::Good } else { state_ink(why.state) };
    let mut lines = vec![format!(
        "{} {} {}",
        style.paint(ink, state_mark(style, why.state)),
        style.paint(Ink::Bold, &style.clean(&why.unit)),
        style.paint(ink, &style.clean(&why.text))
    )];
    // The first row is the unit itself, and a unit that is its own only cause has been told whole.
    if why.chain.len() > 1 {
        lines.push(String::new());
        lines.extend(why.chain.iter().skip(1).map(|step| row(style, step)));
    }
    if why.chain_left_out > 0 {
        lines.push(style.paint(Ink::Dim, &format!("  … and {} more", why.chain_left_out)));
    }
    let is_told = |root: &WhyRoot| why.roots.len() == 1 && root.unit == why.unit;
    for root in &why.roots {
        lines.push(String::new());
        lines.extend(cause(style, root, is_told(root)));
    }
    lines
}

fn row(style: &Style, step: &WhyStep) -> String {
    let indent = "  ".repeat(step.depth.min(20) as usize);
    let edge = match step.edge {
        Some(EdgeKind::Requires) => "requires ",
        Some(EdgeKind::Wants) => "wants ",
        Some(EdgeKind::After) => "comes after ",
        Some(EdgeKind::Conflicts) => "conflicts with ",
        None => "",
    };
    let ink = if step.is_root {
        state_ink(step.state)
    } else {
        Ink::Plain
    };
    let mut told = style.clean(&step.text);
    if step.is_repeated {
        told = "(see above)".to_owned();
    } else if let Some(at) = step.next_try_us {
        told.push_str(&format!(", next try {}", style.ahead(at)));
    }
    format!(
        "{indent}{}{} {}",
        style.paint(Ink::Dim, edge),
        style.clean(&step.unit),
        style.paint(ink, &told)
    )
}

/// One cause with all that is known of it. `is_told`: its own sentence stands above already.
fn cause(style: &Style, root: &WhyRoot, is_told: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let who = if root.unit.is_empty() {
        "the node".to_owned()
    } else {
        style.clean(&root.unit)
    };
    let mut head = format!(
        "{} {}",
        style.paint(Ink::Dim, "cause:"),
        style.paint(Ink::Bold, &who)
    );
    if !is_told {
        head.push_str(&format!(" {}", style.clean(&root.text)));
    }
    lines.push(head);
    let mut when = vec![format!("for {}", style.since(root.since_us))];
    if style.iso {
        when = vec![format!("since {}", style.since(root.since_us))];
    }
    when.extend(root.seq.map(|seq| format!("event {seq}")));
    when.extend(root.next_try_us.map(|at| next(style, root.kind, at)));
    lines.push(format!("  {}", style.paint(Ink::Dim, &when.join(", "))));
    if let Some(capsule) = &root.capsule {
        lines.extend(
            capsule::lines(style, capsule, LINES)
                .into_iter()
                .map(|line| format!("  {line}")),
        );
    }
    if root.blocks_count > 0 {
        lines.push(format!("  {}", blocks(style, root)));
    }
    let width = root
        .advice
        .iter()
        .map(|a| a.command.chars().count())
        .max()
        .unwrap_or(0);
    for (i, Advice { command, text }) in root.advice.iter().enumerate() {
        let word = if i == 0 { "try:" } else { "    " };
        lines.push(format!(
            "  {} {}  {}",
            style.paint(Ink::Dim, word),
            style.paint(Ink::Bold, &format!("{:width$}", style.clean(command))),
            style.paint(Ink::Dim, &style.clean(text))
        ));
    }
    lines
}

/// What the time to come means.
fn next(style: &Style, kind: RootKind, at: u64) -> String {
    let when = style.ahead(at);
    match kind {
        RootKind::Held => format!("the hold ends {when}"),
        RootKind::Starting => format!("given up {when}"),
        RootKind::Stopping => format!("its next step comes {when}"),
        _ => format!("next try {when}"),
    }
}

fn blocks(style: &Style, root: &WhyRoot) -> String {
    let named: Vec<String> = root
        .blocks
        .iter()
        .take(BLOCKS_NAMED)
        .map(|name| style.clean(name))
        .collect();
    let more = (root.blocks_count as usize).saturating_sub(named.len());
    let units = if root.blocks_count == 1 { "unit" } else { "units" };
    let mut text = format!("holds back {} {units}: {}", root.blocks_count, named.join(", "));
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    style.paint(Ink::Warn, &text)
}

#[derive(Serialize)]
struct Body<'a> {
    unit: &'a str,
    state: State,
    fine: bool,
    text: &'a str,
    chain: Vec<StepBody<'a>>,
    chain_left_out: u32,
    roots: Vec<RootBody<'a>>,
}

#[derive(Serialize)]
struct StepBody<'a> {
    depth: u32,
    unit: &'a str,
    edge: Option<EdgeKind>,
    state: State,
    text: &'a str,
    is_root: bool,
    is_repeated: bool,
    next_try: Option<String>,
}

#[derive(Serialize)]
struct RootBody<'a> {
    unit: Option<&'a str>,
    kind: RootKind,
    text: &'a str,
    since: String,
    seq: Option<u64>,
    by: Option<&'a By>,
    next_try: Option<String>,
    capsule: Option<CapsuleBody<'a>>,
    blocks_count: u32,
    blocks: &'a [String],
    r#try: Vec<AdviceBody<'a>>,
}

#[derive(Serialize)]
struct AdviceBody<'a> {
    command: &'a str,
    text: &'a str,
}

impl<'a> From<&'a Why> for Body<'a> {
    fn from(why: &'a Why) -> Self {
        let step = |step: &'a WhyStep| StepBody {
            depth: step.depth,
            unit: &step.unit,
            edge: step.edge,
            state: step.state,
            text: &step.text,
            is_root: step.is_root,
            is_repeated: step.is_repeated,
            next_try: time(step.next_try_us),
        };
        let root = |root: &'a WhyRoot| RootBody {
            unit: (!root.unit.is_empty()).then_some(root.unit.as_str()),
            kind: root.kind,
            text: &root.text,
            since: measure::utc(root.since_us),
            seq: root.seq,
            by: root.by.as_ref(),
            next_try: time(root.next_try_us),
            capsule: root.capsule.as_ref().map(CapsuleBody::from),
            blocks_count: root.blocks_count,
            blocks: &root.blocks,
            r#try: root
                .advice
                .iter()
                .map(|advice| AdviceBody {
                    command: &advice.command,
                    text: &advice.text,
                })
                .collect(),
        };
        Self {
            unit: &why.unit,
            state: why.state,
            fine: why.fine,
            text: &why.text,
            chain: why.chain.iter().map(step).collect(),
            chain_left_out: why.chain_left_out,
            roots: why.roots.iter().map(root).collect(),
        }
    }
}
