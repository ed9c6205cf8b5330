//! Letters on a screen: cut to the columns that there are, in the colours that are wanted.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style as Look};
use unicode_width::UnicodeWidthStr;

use crate::render::{Ink, Style};

/// Text in colours, one after the other.
pub type Words = Vec<(Ink, String)>;

/// Where things are drawn.
pub struct Canvas<'a> {
    /// The letters.
    pub buffer: &'a mut Buffer,
    /// How text looks.
    pub style: &'a Style,
}

impl Canvas<'_> {
    /// How an ink looks on this terminal.
    pub fn look(&self, ink: Ink) -> Look {
        let look = Look::default();
        let colour = |c| if self.style.colour { look.fg(c) } else { look };
        match ink {
            Ink::Plain => look,
            Ink::Good => colour(Color::Green),
            Ink::Warn => colour(Color::Yellow),
            Ink::Bad => colour(Color::Red).add_modifier(Modifier::BOLD),
            Ink::Dim => look.add_modifier(Modifier::DIM),
            Ink::Bold => look.add_modifier(Modifier::BOLD),
            Ink::Name(n) => colour(match n {
                0 => Color::Cyan,
                1 => Color::Magenta,
                2 => Color::Blue,
                3 => Color::LightCyan,
                4 => Color::LightMagenta,
                _ => Color::LightBlue,
            }),
        }
    }

    /// Words from the left of a line, cut where the line ends.
    pub fn put(&mut self, area: Rect, y: u16, words: &[(Ink, String)]) {
        if y >= area.bottom() {
            return;
        }
        let mut x = area.x;
        for (ink, text) in words {
            let room = usize::from(area.right().saturating_sub(x));
            let text = self.style.cut(text, room);
            let look = self.look(*ink);
            x = self.buffer.set_stringn(x, y, &text, room, look).0;
        }
    }

    /// A word at the right end of a line, if it leaves `least` columns of it: the columns that it took.
    pub fn put_right(&mut self, area: Rect, y: u16, least: usize, word: &(Ink, String)) -> usize {
        let width = word.1.width();
        if least + width + 2 > usize::from(area.width) {
            return 0;
        }
        let x = area.right() - u16::try_from(width).unwrap_or(0);
        let look = self.look(word.0);
        self.buffer.set_stringn(x, y, &word.1, width, look);
        width + 2
    }

    /// Turns a line's colours around.
    pub fn bar(&mut self, area: Rect, y: u16) {
        if y < area.bottom() {
            let line = Rect { y, height: 1, ..area };
            self.buffer
                .set_style(line, Look::default().add_modifier(Modifier::REVERSED));
        }
    }
}

/// Text and blanks as wide as a column.
pub fn padded(text: &str, width: usize, is_right: bool) -> String {
    let pad = " ".repeat(width.saturating_sub(text.width()));
    if is_right {
        format!("{pad}{text}")
    } else {
        format!("{text}{pad}")
    }
}

/// A line that says what is below it.
pub fn title(canvas: &mut Canvas<'_>, area: Rect, left: &str, right: &str) {
    let style = canvas.style;
    let width = usize::from(area.width);
    let left = style.cut(left, width);
    canvas.put(area, area.y, &[(Ink::Plain, padded(&left, width, false))]);
    canvas.put_right(area, area.y, left.width(), &(Ink::Plain, format!("{right} ")));
    canvas.bar(area, area.y);
}
