//! What is drawn below the rows: the log of the selected unit, or everything that is known of it.

use proto::reply::{EdgeKind, UnitStatus};
use ratatui::layout::Rect;

use super::canvas::{Canvas, Words, title};
use super::model::Model;
use crate::capsule;
use crate::measure;
use crate::overview::troubles;
use crate::render::{Ink, Style};
use crate::session::{state_ink, state_word};
use crate::units::{blockers, health_ink, health_word, held};

/// Lines of a failure's output that are shown: its log has all of them.
const CAPSULE_LINES: usize = 8;

/// The followed log.
pub fn logs(canvas: &mut Canvas<'_>, model: &mut Model, area: Rect) {
    let style = canvas.style;
    let room = usize::from(area.height.saturating_sub(1));
    model.back = model.back.min(model.log.1.len().saturating_sub(room));
    let place = if model.back == 0 {
        "following".to_owned()
    } else {
        format!("{} lines below, f follows", model.back)
    };
    title(
        canvas,
        area,
        &format!(" log of {}", style.clean(&model.log.0)),
        &place,
    );
    let end = model.log.1.len() - model.back;
    let lines = model.log.1.iter().skip(end.saturating_sub(room)).take(room);
    if model.log.1.is_empty() {
        canvas.put(
            area,
            area.y + 1,
            &[(Ink::Dim, "  it has written nothing so far".to_owned())],
        );
    }
    for (y, (at, text)) in (area.y + 1..).zip(lines) {
        let time = measure::short(*at, &style.zone);
        // The day is the first six letters; the time of the day is what differs.
        let time = if area.width >= 60 && *at > 0 {
            format!("{}  ", &time[7.min(time.len())..])
        } else {
            String::new()
        };
        canvas.put(area, y, &[(Ink::Dim, time), (Ink::Plain, text.clone())]);
    }
}

/// Why the selected unit is as it is.
pub fn detail(canvas: &mut Canvas<'_>, model: &mut Model, area: Rect) {
    let style = canvas.style;
    let Some(unit) = model.unit() else {
        title(canvas, area, " no unit", "");
        return;
    };
    let words = about(model, style, unit);
    let description = match unit.description.is_empty() {
        true => String::new(),
        false => format!(": {}", style.clean(&unit.description)),
    };
    let name = style.clean(&unit.name);
    let room = usize::from(area.height.saturating_sub(1));
    let back = model.back.min(words.len().saturating_sub(room));
    let more = words.len().saturating_sub(back + room);
    let place = if more > 0 {
        format!("{more} more, ] scrolls")
    } else {
        String::new()
    };
    title(canvas, area, &format!(" {name}{description}"), &place);
    for (y, line) in (area.y + 1..).zip(words.iter().skip(back).take(room)) {
        canvas.put(area, y, line);
    }
    model.back = back;
}

/// Everything worth telling of a unit, why it is as it is first.
fn about(model: &Model, style: &Style, unit: &UnitStatus) -> Vec<Words> {
    let mut lines: Vec<Words> = Vec::new();
    let mut add = |key: &str, ink: Ink, text: String| {
        lines.push(vec![
            (Ink::Dim, format!("{key:>11}  ")),
            (ink, text.replace('\t', " ")),
        ]);
    };
    let since = if style.iso { "since" } else { "for" };
    let wanted = if unit.desired_up { "" } else { ", not wanted" };
    add(
        "state",
        state_ink(unit.state),
        format!(
            "{} {since} {}{wanted}",
            state_word(unit.state),
            style.since(unit.since_us)
        ),
    );
    if let Some(hold) = &unit.held {
        add("held", Ink::Warn, held(style, hold));
    }
    if !unit.blocked_by.is_empty() {
        add("waits for", Ink::Warn, blockers(style, unit, true));
    }
    if let Some(root) = troubles(&model.units)
        .iter()
        .find(|t| t.holds_up.contains(unit.name.as_str()))
    {
        let why = root.reason(style).map(|r| format!(": {r}")).unwrap_or_default();
        add(
            "root cause",
            Ink::Bad,
            format!("{} {}{why}", style.clean(root.name), root.what(style)),
        );
    }
    if let Some(at) = unit.next_try_us {
        add("next try", Ink::Warn, style.ahead(at));
    }
    if let Some(error) = &unit.last_error {
        let is_now = !unit.ready;
        add(
            "last error",
            if is_now { Ink::Bad } else { Ink::Plain },
            style.clean(error),
        );
    }
    if let Some(last) = unit.last_exit {
        add(
            "last exit",
            Ink::Plain,
            format!("{}, {}", measure::exit(last.exit), style.ago(last.at_us)),
        );
    }
    if !unit.remains.is_empty() {
        add("still there", Ink::Bad, crate::units::pids(&unit.remains));
    }
    let said = model.detail.as_ref().filter(|d| d.name == unit.name);
    let capsules = said.map(|d| d.capsules.as_slice()).unwrap_or_default();
    // The words of a life that failed stand with its failure.
    let is_told = capsules
        .last()
        .is_some_and(|last| Some(&last.invocation) == unit.invocation.as_ref());
    let last = said.iter().flat_map(|d| d.last_lines.iter().rev().take(3).rev());
    for line in last.filter(|_| !is_told) {
        add("it said", Ink::Plain, style.clean_bytes(&line.message));
    }
    for (nth, capsule) in capsules.iter().rev().enumerate() {
        let ended = capsule::exit(capsule);
        let text = format!("{}: {}", style.ago(capsule.at_us), style.clean(&capsule.text));
        add("failed", Ink::Bad, text);
        if nth > 0 {
            continue; // in one line each, but for the last
        }
        let facts = std::iter::once(ended).chain(capsule::facts(capsule));
        add("", Ink::Dim, facts.collect::<Vec<_>>().join(", "));
        for changed in capsule::changed(style, capsule) {
            add("", Ink::Plain, changed);
        }
        for line in capsule::tail(style, capsule, CAPSULE_LINES) {
            add("", Ink::Plain, line);
        }
    }
    if let Some(root) = troubles(&model.units).iter().find(|t| t.name == unit.name)
        && let Some(text) = root.blocks(style, 200)
    {
        add("", Ink::Warn, text);
    }
    let ink = health_ink(unit.health);
    let why = unit.health_text.as_ref().map(|t| format!(": {}", style.clean(t)));
    let says = unit
        .status_text
        .as_ref()
        .map(|t| format!(", says \"{}\"", style.clean(t)));
    add(
        "health",
        ink,
        format!(
            "{}{}{}",
            health_word(unit.health),
            why.unwrap_or_default(),
            says.unwrap_or_default()
        ),
    );
    let mut life = Vec::new();
    life.extend(unit.pid.map(|p| format!("pid {p}")));
    life.push(format!(
        "{} starts, {} automatic restarts",
        unit.starts, unit.restarts
    ));
    add("life", Ink::Plain, life.join(", "));
    let names = |pick: &dyn Fn(&proto::reply::Edge) -> Option<&str>| {
        let mut list: Vec<String> = model
            .edges
            .edges
            .iter()
            .filter_map(|e| pick(e).map(|n| style.clean(n)))
            .collect();
        list.sort();
        list.dedup();
        list.join(", ")
    };
    let needs = names(&|e| (e.from == unit.name && e.kind == EdgeKind::Requires).then_some(e.to.as_str()));
    let needed = names(&|e| (e.to == unit.name && e.kind == EdgeKind::Requires).then_some(e.from.as_str()));
    if !needs.is_empty() {
        add("requires", Ink::Plain, needs);
    }
    if !needed.is_empty() {
        add("needed by", Ink::Plain, needed);
    }
    let mut kind = vec![style.clean(&unit.category), style.clean(&unit.lifecycle)];
    kind.extend(unit.critical.then(|| "critical".to_owned()));
    kind.retain(|k| !k.is_empty());
    add("kind", Ink::Plain, kind.join(", "));
    if unit.needs_restart {
        add(
            "files",
            Ink::Warn,
            "changed: takes effect at the next restart".to_owned(),
        );
    }
    if let Some(note) = &unit.note {
        add("note", Ink::Plain, style.clean(note));
    }
    let arrow = style.pick("→", "->");
    for event in model.events.iter().rev().filter(|e| e.unit == unit.name).take(20) {
        let text = format!(
            "{} {} {arrow} {}: {}",
            measure::short(event.at_us, &style.zone),
            state_word(event.from),
            state_word(event.to),
            style.clean(&event.cause.text)
        );
        add("event", Ink::Dim, text);
    }
    lines
}
