//! Finding a pattern in many lines at once. A pattern speaks of the text of one line, which stands behind a time, a life and a
//! mark; taking each line apart before it is looked at costs many times what looking costs. So a pattern that is less strict,
//! without its anchors and without newlines, is sought in the bytes of a file as they are: a line in which it does not begin
//! cannot match. What it finds is then looked at as ever.
//!
//! Read first: [`relaxed`].

use regex::bytes::Regex;
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, HirKind};

use crate::limits::PATTERN_COMPILED_MAX;

/// A pattern that begins in each line in which `pattern` matches, wherever in it, and does not go beyond the line's end. None: it
/// would match everywhere, or is too large, and saves nothing.
pub fn relaxed(pattern: &Regex) -> Option<Regex> {
    let parsed = ParserBuilder::new().utf8(false).build().parse(pattern.as_str());
    let loose = loosen(&parsed.ok()?);
    if loose.properties().minimum_len() == Some(0) {
        return None;
    }
    regex::bytes::RegexBuilder::new(&loose.to_string())
        .size_limit(PATTERN_COMPILED_MAX)
        .build()
        .ok()
}

fn loosen(hir: &Hir) -> Hir {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Hir::empty(),
        // No line has a newline in it.
        HirKind::Literal(literal) if literal.0.contains(&b'\n') => Hir::fail(),
        HirKind::Literal(literal) => Hir::literal(literal.0.clone()),
        HirKind::Class(Class::Unicode(class)) => {
            let mut class = class.clone();
            class.difference(&ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')]));
            Hir::class(Class::Unicode(class))
        }
        HirKind::Class(Class::Bytes(class)) => {
            let mut class = class.clone();
            class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')]));
            Hir::class(Class::Bytes(class))
        }
        HirKind::Repetition(repetition) => {
            let mut repetition = repetition.clone();
            repetition.sub = Box::new(loosen(&repetition.sub));
            Hir::repetition(repetition)
        }
        HirKind::Capture(capture) => loosen(&capture.sub),
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(loosen).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(loosen).collect()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_matches_everywhere_is_not_sought() {
        for pattern in ["a*", "^", "$", "(x|)", r"\b", "^$"] {
            let pattern = Regex::new(pattern).expect("it is one");
            assert!(relaxed(&pattern).is_none(), "{pattern}");
        }
    }

    /// A pattern that may have anything in it.
    fn patterns() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "[abAB1]{1,3}",
            Just(r"^".to_owned()),
            Just(r"$".to_owned()),
            Just(r"\b".to_owned()),
            Just(r"\d".to_owned()),
            Just(r"\s".to_owned()),
            Just(r"[^a]".to_owned()),
            Just(r"(?-u:\xff)".to_owned()),
            Just(r".".to_owned()),
            Just(r"(?s:.)".to_owned()),
            Just(r"\n".to_owned()),
            Just(r"ä".to_owned()),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("(?:{a}|{b})")),
                inner.clone().prop_map(|of| format!("(?:{of})*")),
                inner.clone().prop_map(|of| format!("(?:{of})+?")),
                inner.clone().prop_map(|of| format!("({of}){{1,2}}")),
                inner.prop_map(|of| format!("(?i:{of})")),
            ]
        })
    }

    /// Text with few letters, so that patterns match.
    fn lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let byte = prop_oneof![
            Just(b'a'),
            Just(b'b'),
            Just(b'A'),
            Just(b'1'),
            Just(b' '),
            Just(0xff),
            Just(0xc3),
            Just(0xa4)
        ];
        proptest::collection::vec(proptest::collection::vec(byte, 0..8), 1..8)
    }

    proptest! {
        /// From wherever a line begins, the next line that matches is never passed over.
        #[test]
        fn no_line_that_matches_is_passed_over(pattern in patterns(), lines in lines()) {
            let pattern = Regex::new(&pattern).expect("it is one");
            let Some(quick) = relaxed(&pattern) else { return Ok(()) };
            let text: Vec<u8> = lines.iter().flat_map(|line| [b"12 | ", &line[..], b"\n"].concat()).collect();
            let mut begin = 0;
            for line in &lines {
                let end = begin + 5 + line.len();
                if pattern.is_match(line) {
                    let found = quick.find(&text[begin..]).map(|found| found.start() + begin);
                    prop_assert!(found.is_some_and(|at| at < end), "{:?} in {:?} by {}", line, text, quick);
                    // And from the beginning of all that went before.
                    prop_assert!(quick.find(&text[..=end]).is_some());
                }
                begin = end + 1;
            }
        }
    }
}
