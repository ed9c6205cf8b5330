//! A boot as a drawing: a row for each unit, with bars for what it was doing. One file that needs nothing else, readable in
//! light and dark, and without colours by the words that each bar carries.

use std::fmt::Write as _;

use proto::reply::State;

use super::boot::{Boot, Phase, Started};
use crate::measure;

/// Pixels of a row.
const ROW: u32 = 22;
/// Pixels of a bar in it.
const BAR: u32 = 14;
/// Pixels above the first row: title, legend and scale.
const TOP: u32 = 92;
/// Pixels of the time line.
const WIDTH: u32 = 900;
/// Pixels to the right of it, for the words behind the last bar.
const RIGHT: u32 = 150;
/// Pixels of a letter of a name, about.
const LETTER: usize = 7;
/// The lines of the scale, at most.
const TICKS: u64 = 10;

/// What bars are told apart by: class, word for the legend.
const KINDS: [(&str, &str); 4] = [
    ("w", "waiting"),
    ("s", "starting"),
    ("r", "ready"),
    ("f", "failed, or to be tried again"),
];

const STYLE: &str = "\
text{font:12px system-ui,sans-serif;fill:#1a1a1a}\
.t{font-size:16px;font-weight:600}.d{fill:#5c5c5c}.g{stroke:#d9d9d9}.o{fill:#fff}\
.w{fill:#b9bec7}.s{fill:#d98e04}.r{fill:#2b8a57}.f{fill:#c0392b}\
@media (prefers-color-scheme:dark){text{fill:#ececec}.d{fill:#a5a5a5}.g{stroke:#3d3d3d}.o{fill:#161616}\
.w{fill:#5d6570}.s{fill:#f0ad30}.r{fill:#4fbf85}.f{fill:#ef6a5b}}";

/// The drawing.
pub fn draw(boot: &Boot, node: &str) -> String {
    let longest = boot
        .units
        .iter()
        .map(|u| u.unit.chars().count())
        .max()
        .unwrap_or(0);
    let left = u32::try_from(longest * LETTER).unwrap_or(0).clamp(60, 460) + 16;
    let (width, height) = (
        left + WIDTH + RIGHT,
        TOP + ROW * u32::try_from(boot.units.len()).unwrap_or(0) + 16,
    );
    let span = boot.ended_us.saturating_sub(boot.began_us).max(1);
    let scale = Scale { boot, left, span };
    let node = escape(node);
    let count = boot.units.len();
    let mut svg = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         role=\"img\" aria-labelledby=\"title what\">\n<title id=\"title\">How {node} came up</title>\n<desc id=\"what\">\
         {count} units in {}; a row for each, in the order of their starts.</desc>\n<style>{STYLE}</style>\n\
         <rect class=\"o\" width=\"100%\" height=\"100%\"/>",
        time(span)
    );
    let _ = writeln!(
        svg,
        "<text class=\"t\" x=\"12\" y=\"26\">How {node} came up</text>"
    );
    let _ = writeln!(
        svg,
        "<text class=\"d\" x=\"12\" y=\"46\">{count} units in {}, from the start of ringriftd at {}</text>",
        time(span),
        measure::utc(boot.began_us)
    );
    let mut x = left;
    for (class, word) in KINDS {
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"58\" width=\"12\" height=\"12\" rx=\"2\"/><text x=\"{}\" y=\"68\">{word}</text>",
            x + 17
        );
        x += 40 + u32::try_from(word.len() * LETTER).unwrap_or(0);
    }
    scale.lines(&mut svg, height);
    for (unit, i) in boot.units.iter().zip(0..) {
        scale.row(&mut svg, unit, TOP + ROW * i);
    }
    svg.push_str("</svg>\n");
    svg
}

struct Scale<'a> {
    boot: &'a Boot,
    left: u32,
    span: u64,
}

impl Scale<'_> {
    /// Where a moment is, in tenths of a pixel exactly.
    fn x(&self, at_us: u64) -> f64 {
        let offset = at_us.saturating_sub(self.boot.began_us).min(self.span);
        let tenths = offset as f64 / self.span as f64 * f64::from(WIDTH) * 10.0;
        f64::from(self.left) + tenths.round() / 10.0
    }

    fn lines(&self, svg: &mut String, height: u32) {
        let step = step(self.span);
        let mut at = 0;
        while at <= self.span {
            let x = self.x(self.boot.began_us + at);
            let _ = writeln!(
                svg,
                "<line class=\"g\" x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{}\"/><text class=\"d\" x=\"{}\" y=\"{}\">{}</text>",
                TOP - 6,
                height - 12,
                x + 3.0,
                TOP - 8,
                time(at)
            );
            at += step;
        }
    }

    fn row(&self, svg: &mut String, unit: &Started, y: u32) {
        let text_y = y + BAR - 1;
        let name = escape(&unit.unit);
        let said = said(unit);
        let _ = writeln!(
            svg,
            "<g><title>{name}: {said}</title><text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\">{name}</text>",
            self.left - 10
        );
        let mut end = f64::from(self.left);
        for Phase {
            from_us,
            to_us,
            state,
        } in &unit.phases
        {
            let Some(class) = class(*state) else { continue };
            let (from, to) = (self.x(*from_us), self.x(*to_us));
            // Whatever happened is seen, however short it was.
            let width = ((to - from).max(1.0) * 10.0).round() / 10.0;
            // Told apart by their heights too, for those who see no colours.
            let (y, height) = match class {
                "w" => (y + 4, BAR - 8),
                "f" => (y + 7, BAR - 7),
                _ => (y, BAR),
            };
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{from}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"/>"
            );
            end = from + width;
        }
        let _ = writeln!(
            svg,
            "<text class=\"d\" x=\"{}\" y=\"{text_y}\">{}</text></g>",
            end + 6.0,
            short(unit)
        );
    }
}

/// How bars are told apart; nothing is drawn where nothing was going on.
fn class(state: State) -> Option<&'static str> {
    match state {
        State::Waiting => Some("w"),
        State::Starting => Some("s"),
        State::Running | State::Reloading | State::Completed => Some("r"),
        State::Backoff | State::Failed | State::Stopping => Some("f"),
        State::Stopped | State::Held => None,
    }
}

fn said(unit: &Started) -> String {
    let tries = if unit.tries == 1 {
        String::new()
    } else {
        format!(" at try {}", unit.tries)
    };
    match unit.took_us() {
        Some(took) => format!(
            "waited {}, ready after {}{tries}",
            time(unit.waited_us()),
            time(took)
        ),
        None => format!("waited {}, was not ready{tries}", time(unit.waited_us())),
    }
}

/// The words behind the last bar.
fn short(unit: &Started) -> String {
    match (unit.took_us(), unit.tries) {
        (Some(took), 1) => time(took),
        (Some(took), tries) => format!("{} ({tries} tries)", time(took)),
        (None, 1) => "not ready".to_owned(),
        (None, tries) => format!("not ready ({tries} tries)"),
    }
}

/// A round distance between the lines of a scale.
fn step(span: u64) -> u64 {
    let mut step = 1_000;
    loop {
        for factor in [1, 2, 5] {
            if span / (step * factor) < TICKS {
                return step * factor;
            }
        }
        step *= 10;
    }
}

/// A time with as much as matters.
pub fn time(us: u64) -> String {
    match us {
        0..1_000_000 => format!("{}ms", us / 1000),
        1_000_000..60_000_000 => {
            let (s, ms) = (us / 1_000_000, us / 1000 % 1000);
            format!("{s}.{ms:03}s")
        }
        _ => measure::duration(us / 1000),
    }
}

/// Text of others in XML: its own signs, and nothing that could drive whoever looks at it.
fn escape(text: &str) -> String {
    crate::render::clean(text.as_bytes(), true)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::boot::{read, tests::story};

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/boot.svg");

    /// With RINGRIFT_BLESS=1 the file is written anew; look at it then.
    #[test]
    fn a_boot_is_drawn_as_before() {
        let new = draw(&read(&story(), 1_000_000), "ring-1");
        if std::env::var_os("RINGRIFT_BLESS").is_some() {
            std::fs::write(GOLDEN, &new).expect("the drawing can be written");
            return;
        }
        let old = std::fs::read_to_string(GOLDEN).expect("the drawing can be read");
        assert_eq!(
            old, new,
            "look at the new drawing, and bless it with RINGRIFT_BLESS=1"
        );
    }

    #[test]
    fn names_cannot_break_out_of_the_drawing() {
        let mut events = story();
        for event in &mut events {
            event.unit = format!("<script>\"{}\"&\x1b[2J", event.unit);
        }
        let svg = draw(&read(&events, 1_000_000), "<node>");
        assert!(
            !svg.contains("<script") && !svg.contains("<node>") && !svg.contains('\x1b'),
            "{svg}"
        );
    }

    #[test]
    fn scales_have_few_and_round_lines() {
        for (span, expected) in [
            (1, 1_000),
            (900_000, 100_000),
            (1_960_000, 200_000),
            (61_000_000, 10_000_000),
        ] {
            assert_eq!(step(span), expected, "{span}");
        }
    }

    #[test]
    fn an_empty_boot_is_a_drawing_too() {
        let svg = draw(&read(&[], 5), "n");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
