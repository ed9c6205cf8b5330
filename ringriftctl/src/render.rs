//! Where words become output: the writer that survives a closed or full stdout, the escaping of what units wrote,
//! colours, symbols, and tables. Knows no verb.

use std::io::{IsTerminal, Write};

use jiff::tz::TimeZone;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::measure;
use crate::stop::Stop;

/// Flushed when this much waits, in bytes, so that a long answer is not held in memory.
const FLUSH_AT: usize = 64 * 1024;
/// The narrowest terminal that is believed.
const WIDTH_MIN: usize = 20;

/// stdout. Collects and writes in one go; `println!` would panic when the reader is gone.
#[derive(Debug)]
pub struct Out {
    waiting: Vec<u8>,
    /// stdout is a terminal.
    pub is_terminal: bool,
    /// A reader that went away is no reason to stop: the verb's verdict is its exit code.
    pub forgiving: bool,
    broken: bool,
}

impl Out {
    /// stdout as this process got it.
    pub fn new() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        Self {
            waiting: Vec::new(),
            is_terminal,
            forgiving: false,
            broken: false,
        }
    }

    /// Adds one line.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Stop> {
        self.bytes(text.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }

    /// Adds bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= FLUSH_AT {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes everything that waits.
    pub fn flush(&mut self) -> Result<(), Stop> {
        let bytes = std::mem::take(&mut self.waiting);
        if self.broken || bytes.is_empty() {
            return Ok(());
        }
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(&bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(e) if self.forgiving && e.kind() == std::io::ErrorKind::BrokenPipe => {
                self.broken = true;
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Writes one line of talk to stderr. Nobody can be told when that fails.
pub fn talk(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR or TERM=dumb say otherwise.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a colour means. A word or a symbol beside it always says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// As it is.
    Plain,
    /// Well.
    Good,
    /// On its way, or not quite well.
    Warn,
    /// Broken.
    Bad,
    /// Less important.
    Dim,
    /// The word to read first.
    Bold,
    /// One of many names that stand among each other: the same name has the same colour everywhere.
    Name(u8),
}

/// Colours of names: none that says well, warning or broken.
const NAMES: [&str; 6] = ["36", "35", "34", "96", "95", "94"];

impl Ink {
    /// The colour of a name.
    pub fn of_name(name: &str) -> Self {
        // FNV-1a: any steady spread will do.
        let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        Self::Name((hash % NAMES.len() as u32) as u8)
    }
}

/// How text looks, decided once.
#[derive(Debug, Clone)]
pub struct Style {
    /// With colours.
    pub colour: bool,
    /// The terminal shows UTF-8.
    pub unicode: bool,
    /// The width of the terminal when stdout is one.
    pub width: Option<usize>,
    /// Absolute times.
    pub iso: bool,
    /// When this program started, in µs since 1970.
    pub now_us: u64,
    /// The zone of absolute times.
    pub zone: TimeZone,
}

/// Whether the locale, by the variables that set it, is UTF-8.
pub fn speaks_utf8(env: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|n| env(n).filter(|v| !v.is_empty()));
    locale.is_some_and(|l| {
        let l = l.to_ascii_lowercase();
        l.contains("utf-8") || l.contains("utf8")
    })
}

/// Whether to use colours.
pub fn wants_colour(choice: Colour, is_terminal: bool, env: impl Fn(&str) -> Option<String>) -> bool {
    match choice {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            is_terminal
                && env("NO_COLOR").is_none_or(|v| v.is_empty())
                && env("TERM").is_some_and(|t| !t.is_empty() && t != "dumb")
        }
    }
}

/// The width of the terminal, if it tells one.
pub fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size()
        .map(|(w, _)| usize::from(w.0))
        .filter(|w| *w >= WIDTH_MIN)
}

/// The height of the terminal, if it tells one.
pub fn terminal_height() -> Option<usize> {
    terminal_size::terminal_size().map(|(_, h)| usize::from(h.0))
}

impl Style {
    /// Looks at the environment and stdout.
    pub fn new(choice: Colour, iso: bool, is_terminal: bool) -> Self {
        let env = |name: &str| std::env::var(name).ok();
        Self {
            colour: wants_colour(choice, is_terminal, env),
            unicode: speaks_utf8(env),
            width: if is_terminal { terminal_width() } else { None },
            iso,
            now_us: measure::now_us(),
            zone: TimeZone::system(),
        }
    }

    /// `text` in a colour; the caller has cleaned it.
    pub fn paint(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Plain => return text.to_owned(),
            _ if !self.colour || text.is_empty() => return text.to_owned(),
            Ink::Good => "32",
            Ink::Warn => "33",
            Ink::Bad => "1;31",
            Ink::Dim => "2",
            Ink::Bold => "1",
            Ink::Name(n) => NAMES[usize::from(n) % NAMES.len()],
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// The better of two symbols that this terminal shows.
    pub fn pick(&self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }

    /// A foreign text, safe to show: see [`clean`].
    pub fn clean(&self, text: &str) -> String {
        clean(text.as_bytes(), self.unicode)
    }

    /// Foreign bytes, safe to show.
    pub fn clean_bytes(&self, bytes: &[u8]) -> String {
        clean(bytes, self.unicode)
    }

    /// How long ago, in one unit, or the time itself with `--iso`.
    pub fn since(&self, us: u64) -> String {
        if self.iso {
            measure::iso(us, &self.zone)
        } else {
            measure::span(self.now_us.saturating_sub(us))
        }
    }

    /// The same in a sentence: `3m ago`, `at 2026-…`.
    pub fn ago(&self, us: u64) -> String {
        if self.iso {
            format!("at {}", measure::iso(us, &self.zone))
        } else {
            format!("{} ago", measure::span(self.now_us.saturating_sub(us)))
        }
    }

    /// A time to come: `in 12s`, `at 2026-…`; one that has just passed is `now`.
    pub fn ahead(&self, us: u64) -> String {
        let now = measure::now_us();
        if self.iso {
            format!("at {}", measure::iso(us, &self.zone))
        } else if us <= now {
            "now".to_owned()
        } else {
            format!("in {}", measure::span(us - now))
        }
    }

    /// Clean `text` cut to `width` columns, with a mark where it was cut.
    pub fn cut(&self, text: &str, width: usize) -> String {
        if text.width() <= width {
            return text.to_owned();
        }
        if width == 0 {
            return String::new();
        }
        let mark = self.pick("…", "~");
        let mut left = width - 1;
        let fits = |c: &char| {
            let wide = c.width().unwrap_or(0);
            let has_room = wide <= left;
            left = left.saturating_sub(wide);
            has_room
        };
        let kept: String = text.chars().take_while(fits).collect();
        format!("{kept}{mark}")
    }

    /// The same, cut to what is left of a line of the screen after `used` columns; whole where there is no screen.
    pub fn cut_line(&self, text: &str, used: usize) -> String {
        match self.width {
            Some(width) => self.cut(text, width.saturating_sub(used)),
            None => text.to_owned(),
        }
    }
}

/// Makes foreign bytes safe for a terminal and true to one line: C0 but tab, DEL, C1, what changes the direction of
/// text or ends a line, and invalid UTF-8 become `\x1b`, `\u{202e}`. Without UTF-8 every other byte does too.
pub fn clean(bytes: &[u8], unicode: bool) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            // Writing into a String cannot fail.
            let _ = match c {
                '\t' | ' '..='~' => text.write_char(c),
                '\0'..='\u{9f}' => write!(text, "\\x{:02x}", c as u32),
                c if deceives(c) => write!(text, "\\u{{{:x}}}", c as u32),
                c if unicode => text.write_char(c),
                c => {
                    let mut buffer = [0; 4];
                    for byte in c.encode_utf8(&mut buffer).bytes() {
                        let _ = write!(text, "\\x{byte:02x}");
                    }
                    Ok(())
                }
            };
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Characters that make text look other than it is: directions, line and paragraph ends, invisible marks and tags.
pub fn deceives(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One cell: cleaned text and its colour.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    ink: Ink,
}

/// A cell in a colour. `text` must be clean; tabs become spaces, since a row is one line of columns.
pub fn cell(ink: Ink, text: impl Into<String>) -> Cell {
    let text: String = text.into();
    let text = if text.is_empty() {
        "-".to_owned()
    } else {
        text.replace('\t', " ")
    };
    Cell { text, ink }
}

/// Columns: no boxes, two spaces between, the last one not padded.
#[derive(Debug)]
pub struct Table {
    heads: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

/// The narrowest last column: below it, cutting would leave nothing to read.
const LAST_MIN: usize = 8;
/// What the last column, often the one with the reason, gets as long as a wide one before it can give way.
const LAST_GOOD: usize = 40;
/// A column that gives way keeps this much.
const INNER_MIN: usize = 20;

impl Table {
    /// A table with these columns.
    pub fn new(heads: &'static [&'static str]) -> Self {
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    /// Adds a row; it has as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.heads.len());
        self.rows.push(cells);
    }

    /// Writes it. On a terminal the last column is cut to the width, unless `whole`, and where that leaves too little of
    /// it, the widest column between the first and the last gives way.
    pub fn print(&self, out: &mut Out, style: &Style, legend: bool, whole: bool) -> Result<(), Stop> {
        let columns = self.heads.len();
        let mut widths: Vec<usize> = self
            .heads
            .iter()
            .map(|h| if legend { h.len() } else { 0 })
            .collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let screen = style.width.filter(|_| !whole);
        let room = screen.map(|w| fit(&mut widths, w));
        let heads: Vec<Cell> = self
            .heads
            .iter()
            .map(|h| Cell {
                text: (*h).to_owned(),
                ink: Ink::Dim,
            })
            .collect();
        let legend_row = legend.then_some(&heads);
        for row in legend_row.into_iter().chain(&self.rows) {
            let mut line = String::new();
            // On a screen too narrow for all columns, the line ends where the screen does: a row is one line.
            let mut left = screen.unwrap_or(usize::MAX);
            for (i, cell) in row.iter().enumerate() {
                let is_last = i + 1 == columns;
                let room = if is_last {
                    room.unwrap_or(usize::MAX)
                } else {
                    widths[i]
                };
                let text = style.cut(&cell.text, room.min(left));
                line.push_str(&style.paint(cell.ink, &text));
                left = left.saturating_sub(text.width());
                if !is_last {
                    let pad = (widths[i] + 2).saturating_sub(text.width()).min(left);
                    line.extend(std::iter::repeat_n(' ', pad));
                    left -= pad;
                }
                if left == 0 {
                    break;
                }
            }
            out.line(line)?;
        }
        Ok(())
    }
}

/// Makes columns of these widths fit a screen as well as can be: the width that is left for the last one.
fn fit(widths: &mut [usize], screen: usize) -> usize {
    let Some((last, others)) = widths.split_last_mut() else {
        return screen;
    };
    let gaps = 2 * others.len();
    let before: usize = others.iter().sum();
    let missing = (before + gaps + (*last).min(LAST_GOOD)).saturating_sub(screen);
    if let Some(widest) = others.iter_mut().skip(1).max() {
        *widest = widest.saturating_sub(missing).max(INNER_MIN.min(*widest));
    }
    let before: usize = others.iter().sum();
    screen.saturating_sub(before + gaps).max(LAST_MIN)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// UTF-8 without colours, at a time that never changes.
    pub fn plain(width: Option<usize>) -> Style {
        Style {
            colour: false,
            unicode: true,
            width,
            iso: false,
            now_us: 0,
            zone: TimeZone::UTC,
        }
    }

    #[test]
    fn text_is_cut_by_the_columns_that_it_takes() {
        let style = plain(Some(80));
        assert_eq!(style.cut("abcdef", 6), "abcdef");
        assert_eq!(style.cut("abcdef", 5), "abcd…");
        // Each of these takes two columns.
        assert_eq!(style.cut("日本語", 6), "日本語");
        assert_eq!(style.cut("日本語", 5), "日本…");
        assert_eq!(style.cut("日本語", 4), "日…");
        assert_eq!(style.cut("x", 0), "");
    }

    #[track_caller]
    fn check(bytes: &[u8], expected: &str) {
        assert_eq!(clean(bytes, true), expected);
    }

    #[test]
    fn what_a_unit_wrote_cannot_drive_the_terminal() {
        check(b"\x1b]0;pwn\x07", "\\x1b]0;pwn\\x07");
        check(b"a\tb\r\nc\x7f", "a\tb\\x0d\\x0ac\\x7f");
        check("\u{9b}31m".as_bytes(), "\\x9b31m");
        check("\u{202e}txt\u{2066}".as_bytes(), "\\u{202e}txt\\u{2066}");
        check(b"\xff\xc3(", "\\xff\\xc3(");
        check("gr\u{fc}n \u{1f300}".as_bytes(), "gr\u{fc}n \u{1f300}");
    }

    #[test]
    fn a_wide_column_gives_way_to_the_last_one() {
        let of = |mut widths: Vec<usize>, screen| {
            let room = fit(&mut widths, screen);
            (widths, room)
        };
        assert_eq!(of(vec![10, 60, 8, 30], 80), (vec![10, 26, 8, 30], 30));
        assert_eq!(of(vec![10, 60, 8, 90], 100), (vec![10, 36, 8, 90], 40));
        assert_eq!(of(vec![24, 60, 8, 90], 80), (vec![24, 20, 8, 90], 22));
        assert_eq!(
            of(vec![24, 9, 8, 90], 60),
            (vec![24, 9, 8, 90], 13),
            "narrow ones stay"
        );
        assert_eq!(
            of(vec![90, 20], 80),
            (vec![90, 20], LAST_MIN),
            "the first is never cut"
        );
    }

    #[test]
    fn without_utf8_everything_is_ascii() {
        assert_eq!(clean("\u{e9}\u{202e}".as_bytes(), false), "\\xc3\\xa9\\u{202e}");
    }

    #[test]
    fn colours_follow_the_terminal_and_the_wish() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                pairs
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).to_owned())
            }
        };
        assert!(wants_colour(Colour::Auto, true, env(&[("TERM", "xterm")])));
        assert!(!wants_colour(Colour::Auto, false, env(&[("TERM", "xterm")])));
        assert!(!wants_colour(Colour::Auto, true, env(&[("TERM", "dumb")])));
        assert!(!wants_colour(Colour::Auto, true, env(&[])));
        assert!(!wants_colour(
            Colour::Auto,
            true,
            env(&[("TERM", "xterm"), ("NO_COLOR", "1")])
        ));
        assert!(wants_colour(
            Colour::Auto,
            true,
            env(&[("TERM", "xterm"), ("NO_COLOR", "")])
        ));
        assert!(wants_colour(Colour::Always, false, env(&[("NO_COLOR", "1")])));
        assert!(!wants_colour(Colour::Never, true, env(&[("TERM", "xterm")])));
    }

    #[test]
    fn the_locale_decides_about_utf8() {
        let of = |pairs: &'static [(&str, &str)]| {
            speaks_utf8(move |name| {
                pairs
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).to_owned())
            })
        };
        assert!(of(&[("LANG", "en_GB.UTF-8")]));
        assert!(of(&[("LC_ALL", "C.utf8"), ("LANG", "C")]));
        assert!(!of(&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8")]));
        assert!(!of(&[]));
    }

    proptest! {
        #[test]
        fn cleaned_bytes_have_nothing_left_to_clean(bytes: Vec<u8>, unicode: bool) {
            let text = clean(&bytes, unicode);
            prop_assert!(text.chars().all(|c| c == '\t' || !(c.is_control() || deceives(c))));
            prop_assert!(unicode || text.is_ascii());
            prop_assert_eq!(clean(text.as_bytes(), unicode), text);
        }
    }
}
