//! One fault or warning: where, the line itself, what, why and how to mend it; and the nearest valid word.
//!
//! It knows nothing of TOML or units. Read first: [`Diagnostic`] and [`Place`].

use std::fmt::Write as _;

use serde::Serialize;

/// Characters of a line that are shown at most; a longer line is cut around the caret.
const SHOWN: usize = 160;

/// How grave it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is loaded.
    Error,
    /// Loaded all the same.
    Warning,
}

/// A place in a file, or a file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// As people call it: relative to the working directory when it lies below.
    pub file: String,
    /// Where in it; absent for the file as a whole.
    #[serde(flatten)]
    pub at: Option<Position>,
}

/// A point in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// Characters that are meant, at least 1; never past the end of the line.
    pub width: u32,
    /// The line, with values of environment variables hidden, cut around the column when it is long.
    pub text: String,
    /// Characters of `text` before the column.
    #[serde(skip)]
    pub caret: u32,
}

impl Place {
    /// A file as a whole.
    pub fn file(file: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            at: None,
        }
    }

    /// The point before character `column` (from 0) of `line` (from 0), whose text is `text`.
    pub fn point(file: &str, line: usize, column: usize, width: usize, text: &str) -> Self {
        let len = text.chars().count();
        let width = width.min(len.saturating_sub(column)).max(1);
        let first = if len <= SHOWN {
            0
        } else {
            column.saturating_sub(SHOWN / 2)
        };
        let mut shown: String = text.chars().skip(first).take(SHOWN).collect();
        let mut caret = column - first;
        if first > 0 {
            shown.insert(0, '…');
            caret += 1;
        }
        if first + SHOWN < len {
            shown.push('…');
        }
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            file: file.to_owned(),
            at: Some(Position {
                line: small(line + 1),
                column: small(column + 1),
                width: small(width.min(SHOWN)),
                text: shown,
                caret: small(caret),
            }),
        }
    }

    fn order(&self) -> (&str, u32, u32) {
        let (line, column) = self.at.as_ref().map_or((0, 0), |at| (at.line, at.column));
        (&self.file, line, column)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&printable(&self.file))?;
        match &self.at {
            Some(at) => write!(f, ":{}:{}", at.line, at.column),
            None => Ok(()),
        }
    }
}

/// A second place that belongs to a diagnostic: the other end, the other file, the next edge of a cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What is there.
    #[serde(rename = "what")]
    pub text: String,
}

/// A fault or a warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How grave.
    pub severity: Severity,
    /// Where; absent when it lies in no file (a profile named on the command line).
    #[serde(flatten)]
    pub place: Option<Place>,
    /// What is wrong, in one sentence without a full stop.
    pub what: String,
    /// The rule that it breaks.
    pub why: Option<String>,
    /// How to mend it.
    pub help: Option<String>,
    /// Other places that belong to it.
    pub notes: Vec<Note>,
}

impl Diagnostic {
    /// Something that stops everything from being loaded.
    pub fn fault(place: Place, what: impl Into<String>) -> Self {
        Self::new(Severity::Error, Some(place), what.into())
    }

    /// Something that an operator should know.
    pub fn warning(place: Place, what: impl Into<String>) -> Self {
        Self::new(Severity::Warning, Some(place), what.into())
    }

    /// A fault that lies in no file.
    pub fn homeless(what: impl Into<String>) -> Self {
        Self::new(Severity::Error, None, what.into())
    }

    fn new(severity: Severity, place: Option<Place>, what: String) -> Self {
        Self {
            severity,
            place,
            what,
            why: None,
            help: None,
            notes: Vec::new(),
        }
    }

    /// Adds the rule.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Adds the remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the remedy `did you mean "…"?` when there is a near word.
    #[must_use]
    pub fn did_you_mean(mut self, near: Option<&str>) -> Self {
        if let Some(near) = near {
            self.help = Some(format!("did you mean \"{near}\"?"));
        }
        self
    }

    /// Adds another place.
    #[must_use]
    pub fn note(mut self, place: Place, text: impl Into<String>) -> Self {
        self.notes.push(Note {
            place,
            text: text.into(),
        });
        self
    }

    /// By file, line and column; those without a place first.
    pub fn sort(list: &mut [Self]) {
        list.sort_by(|a, b| {
            let order = |d: &Self| {
                d.place.as_ref().map(|p| {
                    let (f, l, c) = p.order();
                    (f.to_owned(), l, c)
                })
            };
            order(a).cmp(&order(b))
        });
    }
}

/// The plain rendering, several lines, without a newline at its end. Control characters are escaped, since a file
/// may hold anything and this goes to a terminal.
impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.severity {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
        })?;
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&printable(&self.what))?;
        if let Some(at) = self.place.as_ref().and_then(|p| p.at.as_ref()) {
            // Tabs become one blank so that the caret stands below what it means.
            let text = printable_cells(&at.text);
            let before: usize = text
                .iter()
                .take(at.caret as usize)
                .map(|cell| cell.chars().count())
                .sum();
            let carets: usize = text
                .iter()
                .skip(at.caret as usize)
                .take(at.width as usize)
                .map(|cell| cell.chars().count())
                .sum();
            write!(f, "\n  {:>4} | {}", at.line, text.concat())?;
            write!(
                f,
                "\n       | {}{}",
                " ".repeat(before),
                "^".repeat(carets.max(1))
            )?;
        }
        if let Some(why) = &self.why {
            write!(f, "\n  why: {}", printable(why))?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {}", printable(help))?;
        }
        for note in &self.notes {
            write!(f, "\n  see: {}: {}", note.place, printable(&note.text))?;
        }
        Ok(())
    }
}

/// `text` with everything that a terminal would obey written as an escape.
pub fn printable(text: &str) -> String {
    printable_cells(text).concat()
}

fn printable_cells(text: &str) -> Vec<String> {
    text.chars()
        .map(|c| match c {
            '\t' => " ".to_owned(),
            // Overrides of the writing direction can make one text look like another.
            c if c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}') => {
                let mut out = String::new();
                for unit in c.escape_unicode() {
                    let _ = write!(out, "{unit}");
                }
                out
            }
            c => c.to_string(),
        })
        .collect()
}

/// The word of `words` that a person most likely meant by `word`, if one is near: one slip in three letters.
pub fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    near(word, words).into_iter().next()
}

/// Up to three near words, the nearest first, as a sentence for `help`.
pub fn nearest_names<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let near: Vec<String> = near(word, words)
        .into_iter()
        .take(3)
        .map(|w| format!("\"{w}\""))
        .collect();
    (!near.is_empty()).then(|| format!("did you mean {}?", list_or(&near)))
}

fn near<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    // A name may be as long as a file allows; nothing that is much longer than any word can be near one.
    if word.len() > 4 * crate::limits::NAME_MAX {
        return Vec::new();
    }
    let fold = |w: &str| w.to_lowercase().replace('-', "_");
    let word = fold(word);
    let length = word.chars().count();
    let allowed = (length / 3).clamp(1, 4);
    let mut found: Vec<(usize, u64, &str)> = words
        .into_iter()
        .filter(|w| w.len().abs_diff(word.len()) <= 4 * allowed)
        .filter_map(|w| {
            let folded = fold(w);
            let slips = strsim::damerau_levenshtein(&word, &folded);
            // Among equals the one that begins alike.
            let unlike = 1.0 - strsim::jaro_winkler(&word, &folded);
            (slips <= allowed && slips < length.max(2)).then_some((slips, (unlike * 1e6) as u64, w))
        })
        .collect();
    found.sort();
    found.dedup_by_key(|(_, _, w)| *w);
    found.into_iter().map(|(_, _, w)| w).collect()
}

/// `a, b or c`.
pub fn list_or(words: &[String]) -> String {
    join(words, "or")
}

/// `a, b and c`.
pub fn list_and(words: &[String]) -> String {
    join(words, "and")
}

fn join(words: &[String], last: &str) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., end] => format!("{} {last} {end}", rest.join(", ")),
    }
}

/// `3 faults, 1 warning`.
pub fn summary(faults: usize, warnings: usize) -> String {
    let count = |n: usize, what: &str| match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    };
    format!("{}, {}", count(faults, "fault"), count(warnings, "warning"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rendering_has_place_line_caret_rule_and_remedy() {
        let place = Place::point("units/auto_sync.toml", 13, 11, 9, "  policy = \"allways\"");
        let text = Diagnostic::fault(place, "unknown restart policy \"allways\"")
            .why("a restart policy is \"always\", \"on-failure\" or \"never\"")
            .did_you_mean(Some("always"))
            .to_string();
        assert_eq!(
            text,
            "error: units/auto_sync.toml:14:12: unknown restart policy \"allways\"\n\
             \x20   14 |   policy = \"allways\"\n\
             \x20      |            ^^^^^^^^^\n\
             \x20 why: a restart policy is \"always\", \"on-failure\" or \"never\"\n\
             \x20 help: did you mean \"always\"?"
        );
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_the_caret_still_fits() {
        let place = Place::point("a.toml", 0, 6, 1, "x = \u{1b}[=");
        let text = Diagnostic::fault(place, "bad \u{1b}]0;pwn\u{7} \u{202e}").to_string();
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}') && !text.contains('\u{202e}'));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1]
                .chars()
                .position(|c| c == '=')
                .map(|_| lines[1].chars().count()),
            Some(lines[2].chars().count())
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let line = "a".repeat(1000) + "!" + &"b".repeat(1_000_000);
        let place = Place::point("a.toml", 0, 1000, 1, &line);
        let at = place.at.clone().unwrap();
        assert_eq!(at.column, 1001);
        assert!(at.text.chars().count() <= SHOWN + 2);
        assert_eq!(at.text.chars().nth(at.caret as usize), Some('!'));
    }

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["policy", "delay", "factor", "max_delay"];
        assert_eq!(nearest("polcy", words), Some("policy"));
        assert_eq!(nearest("MAX-DELAY", words), Some("max_delay"));
        assert_eq!(nearest("dealy", words), Some("delay"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest("", words), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), words), None);
    }
}
