//! How grave a line is, as the line itself says it: by the prefix of sd-daemon(3), and where `[log] parse` says what the
//! unit writes, by a level in JSON or by a word at the usual places. What says nothing has no severity: none is guessed.
//!
//! It only reads. Read first: [`of`].

use std::fmt;

use proto::log::Severity;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

use crate::spec::Parse;

/// Words before the level that are looked at: a time, a name, a thread, and the marks between them.
const WORDS: usize = 12;
/// And bytes.
const BYTES: usize = 256;

/// The severity of a line, or of the first piece (`is_cut`) of one that was too long for one record.
pub fn of(parse: Parse, text: &[u8], is_cut: bool) -> Option<Severity> {
    let (by_prefix, rest) = prefix(text);
    by_prefix.or_else(|| match parse {
        Parse::Prefix => None,
        Parse::Json => json(rest, is_cut),
        Parse::Level => level(rest),
    })
}

/// `<3>` at the beginning, and what stands behind it.
pub fn prefix(text: &[u8]) -> (Option<Severity>, &[u8]) {
    match text {
        [b'<', digit @ b'0'..=b'7', b'>', rest @ ..] => (Severity::of(u64::from(digit - b'0')), rest),
        _ => (None, text),
    }
}

// --- JSON ------------------------------------------------------------------------------------------------------

/// The keys that libraries use, in small letters.
const KEYS: [&str; 12] = [
    "level",
    "severity",
    "levelname",
    "levelno",
    "log.level",
    "log_level",
    "loglevel",
    "lvl",
    "priority",
    "severity_text",
    "severitytext",
    "@l",
];

fn json(text: &[u8], is_cut: bool) -> Option<Severity> {
    if text.trim_ascii_start().first() != Some(&b'{') {
        return None;
    }
    let mut found = None;
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = reader
        .deserialize_map(Keys(&mut found))
        .and_then(|()| reader.end());
    match read {
        Ok(()) => found,
        // The rest of the object stands in the next record.
        Err(e) if is_cut && e.is_eof() => found,
        Err(_) => None,
    }
}

/// Looks for the first key of [`KEYS`] whose value is a level.
struct Keys<'a>(&'a mut Option<Severity>);

impl<'de> Visitor<'de> for Keys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let known = KEYS.iter().find(|known| known.eq_ignore_ascii_case(&key));
            match known {
                Some(known) if self.0.is_none() => *self.0 = map.next_value::<Level>()?.severity(known),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// A value that may be a level.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Level {
    Number(u64),
    Word(String),
    Other(IgnoredAny),
}

impl Level {
    fn severity(self, key: &str) -> Option<Severity> {
        match self {
            Self::Word(word) => Severity::named(&word).or_else(|| number(word.parse().ok()?, key)),
            Self::Number(n) => number(n, key),
            Self::Other(_) => None,
        }
    }
}

/// 0 to 7 is what syslog (and GELF) has. Above it, tens are the levels of bunyan and pino, or of Python's `levelno`, whose
/// highest mean another thing.
fn number(n: u64, key: &str) -> Option<Severity> {
    match (n, key) {
        (0..=7, _) => Severity::of(n),
        (50, "levelno") => Some(Severity::Crit),
        (10 | 20, "levelno") => Some(if n == 10 { Severity::Debug } else { Severity::Info }),
        (30, "levelno") => Some(Severity::Warning),
        (40, "levelno") => Some(Severity::Err),
        (_, "levelno") => None,
        (10 | 20, _) => Some(Severity::Debug),
        (30, _) => Some(Severity::Info),
        (40, _) => Some(Severity::Warning),
        (50, _) => Some(Severity::Err),
        (60, _) => Some(Severity::Crit),
        _ => None,
    }
}

// --- words -----------------------------------------------------------------------------------------------------

/// A level word among what comes before a line's text: times, names, threads. It counts in capital letters, and in any in
/// brackets, before a colon or as `level=warn`. The first word that is nothing of all this ends the search, so that an
/// ERROR in a sentence is none.
fn level(text: &[u8]) -> Option<Severity> {
    if let [letter @ (b'I' | b'W' | b'E' | b'F'), rest @ ..] = text
        && rest.len() > 4
        && rest[..4].iter().all(u8::is_ascii_digit)
        && rest[4] == b' '
    {
        // glog and klog: E1122 01:27:03.123456 …
        return Some(match letter {
            b'I' => Severity::Info,
            b'W' => Severity::Warning,
            b'E' => Severity::Err,
            _ => Severity::Crit,
        });
    }
    let head = &text[..text.len().min(BYTES)];
    let mut words = head
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .take(WORDS)
        .peekable();
    let mut depth = 0_usize;
    while let Some(word) = words.next() {
        let opens = word.iter().filter(|b| matches!(b, b'[' | b'(')).count();
        let closes = word.iter().filter(|b| matches!(b, b']' | b')')).count();
        let is_bracketed = depth > 0 || opens > 0;
        depth = (depth + opens).saturating_sub(closes);
        if let Some(found) = in_word(word, is_bracketed) {
            return Some(found);
        }
        let core = trim(word);
        let is_number = core.iter().any(u8::is_ascii_digit);
        let is_mark = core.is_empty();
        let is_zone = matches!(core, b"UTC" | b"GMT" | b"AM" | b"PM");
        let is_pair = core.contains(&b'=');
        let is_named = words
            .peek()
            .is_some_and(|next| matches!(*next, b"-" | b"|" | b":" | b"::"));
        if !(is_number || is_mark || is_zone || is_pair || is_bracketed || is_named) {
            return None;
        }
    }
    None
}

fn trim(mut word: &[u8]) -> &[u8] {
    let is_mark = |b: &u8| b.is_ascii_punctuation() && !matches!(b, b'=' | b'_');
    while let [first, rest @ ..] = word
        && is_mark(first)
    {
        word = rest;
    }
    while let [rest @ .., last] = word
        && is_mark(last)
    {
        word = rest;
    }
    word
}

fn in_word(word: &[u8], is_bracketed: bool) -> Option<Severity> {
    let core = trim(word);
    let named = |bytes: &[u8]| Severity::named(std::str::from_utf8(bytes).ok()?);
    if let Some(at) = memchr::memchr(b'=', core) {
        let (key, value) = (&core[..at], trim(&core[at + 1..]));
        let is_level = [&b"level"[..], b"lvl", b"severity", b"levelname", b"loglevel"]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(key));
        return is_level.then(|| named(value)).flatten();
    }
    let ends_in_colon = word.ends_with(b":");
    let counts = |part: &[u8]| {
        let is_capital = part.iter().all(u8::is_ascii_uppercase);
        (is_capital || is_bracketed || ends_in_colon)
            .then(|| named(part))
            .flatten()
    };
    // `WARNING:root:text`, and Apache's `[core:error]`.
    counts(core).or_else(|| {
        let at = memchr::memchr(b':', core)?;
        let before = &core[..at];
        let is_capital = before.iter().all(u8::is_ascii_uppercase);
        let last = core.rsplit(|b| *b == b':').next().filter(|_| is_bracketed);
        is_capital
            .then(|| named(before))
            .flatten()
            .or_else(|| named(last?))
    })
}

#[cfg(test)]
mod tests {
    use Severity::{Alert, Crit, Debug, Emerg, Err, Info, Notice, Warning};

    use super::*;

    #[track_caller]
    fn check(parse: Parse, text: &str, expected: Option<Severity>) {
        assert_eq!(of(parse, text.as_bytes(), false), expected, "{text}");
    }

    #[test]
    fn a_prefix_counts_in_every_unit_and_only_at_the_beginning() {
        for parse in [Parse::Prefix, Parse::Json, Parse::Level] {
            check(parse, "<0>gone", Some(Emerg));
            check(parse, "<3>no such file", Some(Err));
            check(parse, "<7>", Some(Debug));
            for none in ["<8>x", "<33>x", " <3>x", "<3", "<>x", "<a>x", "", "the <3>x"] {
                check(parse, none, None);
            }
        }
    }

    #[test]
    fn nothing_is_guessed_of_a_unit_that_did_not_say_what_it_writes() {
        for text in ["ERROR: no", "{\"level\":\"error\"}", "level=error", "[WARN] x"] {
            check(Parse::Prefix, text, None);
        }
    }

    #[test]
    fn json_says_its_level_by_word_and_by_number() {
        let check = |text: &str, expected| check(Parse::Json, text, expected);
        check(r#"{"level":"error","msg":"x"}"#, Some(Err));
        check(
            r#"{"msg":"x","nested":{"level":"error"},"LEVEL":"Warn"}"#,
            Some(Warning),
        );
        check(r#"  {"severity":"NOTICE"}"#, Some(Notice));
        check(r#"{"levelname":"CRITICAL"}"#, Some(Crit));
        check(r#"{"log.level":"info"}"#, Some(Info));
        check(r#"{"@l":"Information"}"#, Some(Info));
        check(r#"{"priority":"1"}"#, Some(Alert));
        check(r#"{"level":3}"#, Some(Err)); // GELF
        for (n, expected) in [
            (10, Debug),
            (20, Debug),
            (30, Info),
            (40, Warning),
            (50, Err),
            (60, Crit),
        ] {
            check(&format!(r#"{{"level":{n},"pid":1}}"#), Some(expected)); // bunyan, pino
        }
        for (n, expected) in [(10, Debug), (20, Info), (30, Warning), (40, Err), (50, Crit)] {
            check(&format!(r#"{{"levelno":{n}}}"#), Some(expected)); // Python
        }
        for none in [
            r#"{"level":"loud"}"#,
            r#"{"level":null}"#,
            r#"{"level":-3}"#,
            r#"{"level":["error"]}"#,
            r#"{"level":35}"#,
            r#"{"nested":{"level":"error"}}"#,
            r#"["error"]"#,
            r#"{"level":"error""#,
            r#"{"level":"error"} and more"#,
            "error",
            "",
        ] {
            check(none, None);
        }
        // A level that is none does not hide one behind it.
        check(r#"{"level":"loud","severity":"err"}"#, Some(Err));
        check("<5>{\"level\":\"error\"}", Some(Notice));
    }

    #[test]
    fn the_first_piece_of_a_long_object_may_say_it() {
        let piece = br#"{"level":"error","text":"xxxx"#;
        assert_eq!(of(Parse::Json, piece, true), Some(Err));
        assert_eq!(of(Parse::Json, br#"{"text":"xxxx"#, true), None);
        assert_eq!(of(Parse::Json, br#"{"level":"error",,"text"#, true), None);
    }

    #[test]
    fn level_words_are_found_where_libraries_write_them() {
        for (text, expected) in [
            ("2026-11-22 01:27:03,123 INFO name: hello", Info),
            ("2026-11-22 01:27:03,123 - my.module - WARNING - hello", Warning),
            ("WARNING:root:hello", Warning),
            ("[WARN] hello", Warning),
            ("[error] hello", Err),
            ("error: cannot", Err),
            ("Fatal: cannot", Crit),
            ("2026/11/22 01:27:03 [crit] 123#0: hello", Crit),
            ("[Sun Nov 22 01:27:03 2026] [core:error] [pid 1] hello", Err),
            ("[2026-11-22T01:27:03Z DEBUG target] hello", Debug),
            ("2026-11-22T01:27:03.123456Z ERROR target: hello", Err),
            ("2026-11-22 01:27:03 [main-1] TRACE c.m.Foo - hello", Debug),
            ("[http-nio] 01:27:03 SEVERE hello", Err),
            ("2026-11-22 01:27:03.123 | NOTICE   | mod:fn:1 - hello", Notice),
            ("2026-11-22 01:27:03.123 UTC [123] FATAL:  hello", Crit),
            ("time=2026-11-22T01:27:03Z level=WARN msg=hello", Warning),
            ("level=\"error\" msg=hello", Err),
            ("E1122 01:27:03.123456    1234 file.cc:10] hello", Err),
            ("I1122 01:27:03.123456    1234 file.cc:10] ERROR", Info),
            ("<4>INFO hello", Warning),
            ("INFO", Info),
        ] {
            check(Parse::Level, text, Some(expected));
        }
    }

    #[test]
    fn words_of_a_sentence_are_no_levels() {
        for text in [
            "",
            "hello",
            "the ERROR counter is 5",
            "error counter is 5",
            "no error",
            "info about something",
            "Errors: 5",
            "retrying after error: refused",
            "user=fatal said hello",
            "INFORMAL greeting",
            "2026-11-22 01:27:03 hello ERROR",
        ] {
            check(Parse::Level, text, None);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(text in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), is_cut: bool) {
            for parse in [Parse::Prefix, Parse::Json, Parse::Level] {
                let _ = of(parse, &text, is_cut);
            }
        }
    }
}
