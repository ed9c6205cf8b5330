//! Makes a screen of the model, for every size down to a line of a few letters. Draws text that is clean and cut to the
//! columns it has; colours only say again what a word or symbol says.

use proto::reply::{Health, State, UnitStatus};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::canvas::{Canvas, Words, padded, title};
use super::model::{Line, MESSAGE_US, Model, Pane};
use super::panes::{detail, logs};
use super::rows::Row;
use crate::measure;
use crate::overview::{Level, open_breakers, troubles, verdict};
use crate::render::{Ink, Style};
use crate::session::{state_ink, state_mark, state_word};
use crate::units::{health_ink, health_word, remarks};

/// Below so many lines there is no pane and no root cause: rows come first.
const HIGH: u16 = 14;
/// The widest column of names.
const NAME_MAX: usize = 32;
/// What the last column, which has the reason, should have before other columns are shown.
const NOTE_GOOD: usize = 16;
/// The most root causes that are told above the rows.
const CAUSES_MAX: usize = 3;

/// Draws everything. The model learns how many rows there was room for.
pub fn draw(model: &mut Model, style: &Style, area: Rect, buffer: &mut Buffer) {
    buffer.reset();
    let mut canvas = Canvas { buffer, style };
    if area.width == 0 || area.height == 0 {
        return;
    }
    if model.is_helping {
        help(&mut canvas, area);
        return;
    }
    let top = header(&mut canvas, model, area);
    let bottom = u16::from(area.height > 3);
    let inner = Rect {
        y: area.y + top,
        height: area.height.saturating_sub(top + bottom),
        ..area
    };
    let wants_pane = model.pane != Pane::None && (area.height >= HIGH || model.is_zoomed);
    let pane = match (wants_pane, model.is_zoomed) {
        (false, _) => 0,
        (true, true) => inner.height,
        (true, false) => inner.height / 2,
    };
    let list = Rect {
        height: inner.height - pane,
        ..inner
    };
    table(&mut canvas, model, list);
    if pane > 0 {
        let below = Rect {
            y: list.bottom(),
            height: pane,
            ..inner
        };
        match model.pane {
            Pane::Logs => logs(&mut canvas, model, below),
            Pane::Detail | Pane::None => detail(&mut canvas, model, below),
        }
    }
    if bottom > 0 {
        footer(&mut canvas, model, area);
    }
}

/// The verdict, the counts and the root causes; gives the lines that they took.
fn header(canvas: &mut Canvas<'_>, model: &Model, area: Rect) -> u16 {
    let style = canvas.style;
    let clock = measure::short(model.now_us, &style.zone);
    let clock = clock.split('.').next().unwrap_or_default().to_owned();
    let right = match &model.line {
        Line::Live => (Ink::Dim, format!("{} {clock}", style.pick("● live", "live"))),
        Line::Waiting => (Ink::Warn, "connecting".to_owned()),
        Line::Lost(since, _) => {
            let gone = measure::span(model.now_us.saturating_sub(*since));
            (
                Ink::Bad,
                format!(
                    "{} {gone} old",
                    style.pick("✗ not connected,", "x not connected,")
                ),
            )
        }
    };
    let Some(node) = &model.node else {
        canvas.put_right(area, area.y, 20, &right);
        canvas.put(area, area.y, &[(Ink::Dim, "asking ringriftd".to_owned())]);
        return 1;
    };
    let verdict = verdict(node, &model.units);
    let ink = verdict.level.ink();
    let line: Words = vec![
        (ink, format!("{} ", verdict.level.mark(style))),
        (Ink::Bold, style.cut(&style.clean(&node.node), NAME_MAX)),
        (Ink::Plain, ": ".to_owned()),
        (ink, format!("{}, {}", verdict.level.word(), verdict.sentence)),
    ];
    let width: usize = line.iter().map(|w| w.1.width()).sum();
    // An old picture is never shown as if it were true.
    let least = if model.line == Line::Live { width } else { 10 };
    let taken = canvas.put_right(area, area.y, least.min(usize::from(area.width)), &right);
    let left = Rect {
        width: area.width.saturating_sub(u16::try_from(taken).unwrap_or(0)),
        ..area
    };
    canvas.put(left, area.y, &line);
    if area.height < 8 {
        return 1;
    }
    let s = node.summary;
    let dot = style.pick(" · ", " | ");
    let mut facts: Words = Vec::new();
    let profiles: Vec<_> = node.profiles.iter().map(|p| style.clean(p)).collect();
    facts.push((
        Ink::Dim,
        format!(
            "  {}, up {}",
            profiles.join(", "),
            measure::span(node.uptime_ms * 1000)
        ),
    ));
    for (count, word, ink) in [
        (s.failed, "failed", Ink::Bad),
        (s.backoff, "backoff", Ink::Warn),
        (s.waiting, "waiting", Ink::Warn),
        (s.starting, "starting", Ink::Warn),
        (s.stopping, "stopping", Ink::Warn),
        (s.stopped, "stopped", Ink::Dim),
        (s.running, "running", Ink::Good),
        (s.completed, "completed", Ink::Good),
    ] {
        if count > 0 {
            facts.push((Ink::Dim, dot.to_owned()));
            facts.push((ink, format!("{count} {word}")));
        }
    }
    let breakers = open_breakers(style, node);
    if !breakers.is_empty() {
        let word = if breakers.len() == 1 {
            "breaker"
        } else {
            "breakers"
        };
        let words = (Ink::Warn, format!("{} {word} open", breakers.len()));
        // Before what is well: at the end of a narrow line it would be cut off.
        facts.insert(1, words);
        facts.insert(1, (Ink::Dim, dot.to_owned()));
    }
    canvas.put(area, area.y + 1, &facts);
    let mut used = 2;
    if area.height >= HIGH {
        let most = if area.height >= 30 { CAUSES_MAX } else { 1 };
        for breaker in breakers.into_iter().take(most) {
            let mark = state_mark(style, State::Waiting);
            let line = [(Ink::Warn, format!("  {mark} ")), (Ink::Plain, breaker)];
            canvas.put(area, area.y + used, &line);
            used += 1;
        }
    }
    if area.height >= HIGH && !matches!(verdict.level, Level::Well | Level::Idle) {
        let all = troubles(&model.units);
        let wanted =
            |t: &&crate::overview::Trouble<'_>| t.unit.is_none_or(|u| u.desired_up) || !t.holds_up.is_empty();
        let most = if area.height >= 30 { CAUSES_MAX } else { 1 };
        for trouble in all.iter().filter(wanted).take(most) {
            let mut words: Words = vec![
                (trouble.ink(), format!("  {} ", trouble.mark(style))),
                (Ink::Bold, style.cut(&style.clean(trouble.name), NAME_MAX)),
                (trouble.ink(), format!(" {}", trouble.what(style))),
            ];
            if !trouble.holds_up.is_empty() {
                words.push((Ink::Warn, format!(", holds up {}", trouble.holds_up.len())));
            }
            words.extend(trouble.reason(style).map(|r| (Ink::Plain, format!(": {r}"))));
            canvas.put(area, area.y + used, &words);
            used += 1;
        }
    }
    used
}

/// A column between the name and the note.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    State,
    Health,
    Since,
    Restarts,
    Cpu,
    Memory,
    Pid,
}

impl Column {
    /// The one that goes first when there is no room, last.
    const BY_WORTH: [Self; 7] = [
        Self::State,
        Self::Since,
        Self::Health,
        Self::Cpu,
        Self::Memory,
        Self::Restarts,
        Self::Pid,
    ];
    /// As they stand on the screen.
    const IN_ORDER: [Self; 7] = [
        Self::State,
        Self::Health,
        Self::Since,
        Self::Restarts,
        Self::Pid,
        Self::Cpu,
        Self::Memory,
    ];

    fn head(self) -> &'static str {
        match self {
            Self::State => "STATE",
            Self::Health => "HEALTH",
            Self::Since => "SINCE",
            Self::Restarts => "RESTARTS",
            Self::Cpu => "CPU%",
            Self::Memory => "MEM",
            Self::Pid => "PID",
        }
    }

    fn width(self) -> usize {
        match self {
            Self::State | Self::Health => 9,
            Self::Since => 5,
            Self::Restarts => 8,
            Self::Cpu | Self::Memory => 6,
            Self::Pid => 7,
        }
    }

    fn text(self, model: &Model, style: &Style, unit: &UnitStatus) -> (Ink, String) {
        let or_dash = |text: Option<String>| (Ink::Plain, text.unwrap_or_else(|| "-".to_owned()));
        match self {
            Self::State => (state_ink(unit.state), state_word(unit.state).to_owned()),
            Self::Health if unit.health == Health::Unknown => (Ink::Dim, "-".to_owned()),
            Self::Health => (health_ink(unit.health), health_word(unit.health).to_owned()),
            Self::Since => (Ink::Plain, style.since(unit.since_us)),
            Self::Restarts => {
                let ink = if unit.restarts > 0 { Ink::Warn } else { Ink::Dim };
                (ink, unit.restarts.to_string())
            }
            Self::Cpu => or_dash(
                unit.pid
                    .and_then(|_| model.cpu.get(&unit.name))
                    .map(|share| format!("{:.1}", share * 100.0)),
            ),
            Self::Memory => or_dash(unit.memory_bytes.map(measure::size)),
            Self::Pid => or_dash(unit.pid.map(|p| p.to_string())),
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Restarts | Self::Cpu | Self::Memory | Self::Pid)
    }
}

fn table(canvas: &mut Canvas<'_>, model: &mut Model, area: Rect) {
    let style = canvas.style;
    let has_head = area.height > 2;
    model.page = usize::from(area.height - u16::from(has_head && area.height > 0)).max(1);
    model.show_selected();
    if area.height == 0 {
        return;
    }
    let model = &*model;
    let screen = usize::from(area.width);
    let name_of = |row: &Row| {
        let unit = &model.units[row.at];
        let branch = match row.depth {
            0 => String::new(),
            deep => format!("{}{} ", "  ".repeat(deep - 1), style.pick("└", "`")),
        };
        format!("{branch}{}", style.clean(&unit.name))
    };
    let widest = model.rows.iter().map(|r| name_of(r).width()).max().unwrap_or(0);
    // A mark and a blank before it.
    let name_width = widest.clamp(4, NAME_MAX).min(screen.saturating_sub(4).max(4));
    let mut left = screen.saturating_sub(2 + name_width);
    let mut columns = Vec::new();
    for column in Column::BY_WORTH {
        let keep = if column == Column::State { 0 } else { NOTE_GOOD + 2 };
        if left >= column.width() + 2 + keep {
            left -= column.width() + 2;
            columns.push(column);
        }
    }
    columns.sort_by_key(|c| Column::IN_ORDER.iter().position(|o| o == c));
    let mut y = area.y;
    if has_head {
        let sort = match (model.choice.is_tree, model.choice.is_reversed) {
            (true, _) => "tree".to_owned(),
            (false, false) => format!("by {}", model.choice.sort.word()),
            (false, true) => format!("by {}, reversed", model.choice.sort.word()),
        };
        let mut words = format!("  {}", padded("UNIT", name_width, false));
        for column in &columns {
            words.push_str(&format!(
                "  {}",
                padded(column.head(), column.width(), column.is_number())
            ));
        }
        words.push_str(&format!("  NOTE ({sort})"));
        canvas.put(
            area,
            y,
            &[(Ink::Plain, padded(&style.cut(&words, screen), screen, false))],
        );
        if model.rows.len() > model.page {
            let last = (model.scroll + model.page).min(model.rows.len());
            let place = format!("{} to {last} of {} ", model.scroll + 1, model.rows.len());
            canvas.put_right(area, y, words.trim_end().width(), &(Ink::Plain, place));
        }
        canvas.bar(area, y);
        y += 1;
    }
    if model.rows.is_empty() {
        let why = match (&model.node, model.choice.filter.is_empty()) {
            (None, _) => "",
            (_, true) => "no unit is wanted here; a shows all that are known",
            (_, false) => "nothing matches; Esc ends the filter",
        };
        canvas.put(area, y, &[(Ink::Dim, format!("  {why}"))]);
        return;
    }
    for row in model.rows.iter().skip(model.scroll).take(model.page) {
        let unit = &model.units[row.at];
        let is_selected = unit.name == model.selected;
        let name = style.cut(&name_of(row), name_width);
        let mut words: Words = vec![
            (
                state_ink(unit.state),
                format!("{} ", state_mark(style, unit.state)),
            ),
            (
                if is_selected { Ink::Bold } else { Ink::Plain },
                padded(&name, name_width, false),
            ),
        ];
        for column in &columns {
            let (ink, text) = column.text(model, style, unit);
            let text = style.cut(&text, column.width());
            words.push((
                ink,
                format!("  {}", padded(&text, column.width(), column.is_number())),
            ));
        }
        let mut note = remarks(style, unit).replace('\t', " ");
        if note.is_empty() {
            note = style
                .clean(unit.status_text.as_deref().unwrap_or_default())
                .replace('\t', " ");
        }
        words.push((Ink::Dim, format!("  {note}")));
        canvas.put(area, y, &words);
        if is_selected {
            canvas.bar(area, y);
        }
        y += 1;
    }
}

fn footer(canvas: &mut Canvas<'_>, model: &Model, area: Rect) {
    let style = canvas.style;
    let y = area.bottom() - 1;
    if let Some(question) = &model.question {
        let order = &question.order;
        let also = match question.others.len() {
            0 => String::new(),
            _ => {
                let names: Vec<_> = question.others.iter().map(|n| style.clean(n)).collect();
                format!(", and what it touches: {}", names.join(", "))
            }
        };
        let text = format!("{} {}{also}?", order.verb.word(), style.clean(&order.unit));
        // The names are cut before what to press is.
        let ask = " [y/N] ";
        let room = usize::from(area.width).saturating_sub(ask.len());
        canvas.put(
            area,
            y,
            &[(Ink::Bad, style.cut(&text, room)), (Ink::Bold, ask.to_owned())],
        );
        return;
    }
    if model.is_typing {
        let cursor = style.pick("▏", "_");
        let filter = style.clean(&model.choice.filter);
        let found = format!("  {} found, Enter keeps, Esc ends", model.rows.len());
        canvas.put(
            area,
            y,
            &[(Ink::Bold, format!("/{filter}{cursor}")), (Ink::Dim, found)],
        );
        return;
    }
    let fresh = model
        .message
        .as_ref()
        .filter(|(_, _, at)| model.now_us.saturating_sub(*at) < MESSAGE_US);
    if let Line::Lost(_, why) = &model.line {
        let words = format!("{} not connected: {why}; trying again", style.pick("✗", "x"));
        canvas.put(area, y, &[(Ink::Bad, words)]);
    } else if model.under_way > 0 {
        let words = format!(
            "{} {} under way",
            style.pick("◐", "~"),
            match model.under_way {
                1 => "a command is".to_owned(),
                n => format!("{n} commands are"),
            }
        );
        canvas.put(area, y, &[(Ink::Warn, words)]);
    } else if let Some((is_well, text, _)) = fresh {
        let (ink, mark) = if *is_well {
            (Ink::Good, style.pick("✓", "+"))
        } else {
            (Ink::Bad, style.pick("✗", "x"))
        };
        canvas.put(area, y, &[(ink, format!("{mark} {text}"))]);
    } else {
        let mut words = Words::new();
        if !model.choice.filter.is_empty() {
            let filter = style.clean(&model.choice.filter);
            words.push((Ink::Warn, format!("filter \"{filter}\"  ")));
        }
        for (key, what) in [
            ("?", "help"),
            ("Enter", "why"),
            ("l", "log"),
            ("/", "filter"),
            ("t", "tree"),
            ("o", "sort"),
            ("s", "start"),
            ("x", "stop"),
            ("r", "restart"),
            ("h/u", "hold"),
            ("q", "quit"),
        ] {
            words.push((Ink::Bold, key.to_owned()));
            words.push((Ink::Dim, format!(" {what}  ")));
        }
        canvas.put(area, y, &words);
    }
}

const HELP: [(&str, &str); 22] = [
    ("Up Down, k j", "go to the row above, below"),
    ("PgUp PgDn, g G", "a page; the first row, the last"),
    ("Enter, d", "why this unit is as it is, its events, whom it needs"),
    ("l", "its log, followed"),
    ("Tab", "the next of these panes; Esc closes"),
    (
        "[ ], Ctrl-U Ctrl-D",
        "scroll the pane up, down; f follows the log again",
    ),
    ("z", "the pane on the whole screen, and back"),
    (
        "/",
        "show only what has these words: name, category, state, health",
    ),
    ("t", "tree: each unit below the one that it needs"),
    ("a", "also units that nobody wants here"),
    ("o, O", "sort by the next column; the other way round"),
    ("1 2 3 4 5 6", "sort by worst, name, since, restarts, cpu, memory"),
    ("s x r", "start, stop, restart the unit; asks first"),
    ("h u", "hold it (nothing starts it), end the hold; asks first"),
    ("y", "is yes to a question; every other key is no"),
    ("Ctrl-L Ctrl-Z", "draw anew; to the shell, and back with fg"),
    ("q, Ctrl-C", "leave; commands under way go on"),
    ("", ""),
    ("marks", ""),
    ("", "● running  ✓ completed  ◐ starting, stopping  ◌ waiting"),
    ("", "↻ backoff  ✗ failed  ○ stopped  ‖ held"),
    ("", "any key closes this"),
];

fn help(canvas: &mut Canvas<'_>, area: Rect) {
    title(canvas, area, " ringriftctl top", "any key closes this");
    let wide = area.width >= 50;
    for (y, (key, what)) in (area.y + 1..area.bottom()).zip(HELP) {
        let what = if canvas.style.unicode {
            what.to_owned()
        } else {
            let ascii = [
                ("●", "*"),
                ("✓", "+"),
                ("◐", "~"),
                ("◌", "."),
                ("↻", "@"),
                ("✗", "x"),
                ("○", "-"),
                ("‖", "="),
            ];
            ascii
                .iter()
                .fold(what.to_owned(), |text, (from, to)| text.replace(from, to))
        };
        let key = if wide {
            format!("  {key:<20}")
        } else {
            format!("{key} ")
        };
        canvas.put(area, y, &[(Ink::Bold, key), (Ink::Plain, what)]);
    }
}
