//! The small languages inside strings: durations, sizes, signals, templates, names, globs. Each error is a sentence
//! that shows the grammar.

use std::time::Duration;

use crate::limits;
use crate::spec::{Piece, Template};

/// Why a text is no value: what is wrong, and the grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What.
    pub what: String,
    /// The grammar.
    pub why: String,
    /// A remedy, when one is plain.
    pub help: Option<String>,
}

const DURATION: &str = "a time is whole numbers with units, the largest first: d, h, m, s, ms, as in \"1h30m\", \"90s\" or \"250ms\"";
const SIZE: &str = "a size is a whole number with a unit: B, KiB, MiB, GiB, TiB, as in \"16MiB\"";
const SIGNAL: &str =
    "a signal is a name such as \"TERM\" or \"SIGUSR1\", \"RTMIN+n\", \"RTMAX-n\", or a number from 1 to 64";
const TEMPLATE: &str = "a text may hold ${NAME} and ${NAME:-default}; a dollar sign itself is written $$";

/// `1h30m`. `zero` says whether nothing at all is a time here.
pub fn duration(text: &str, zero: bool) -> Result<Duration, Wrong> {
    let wrong = |what: String| Wrong {
        what,
        why: DURATION.to_owned(),
        help: None,
    };
    let units = [
        ("d", 86_400_000u64),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
        ("ms", 1),
    ];
    let mut total: u64 = 0;
    let mut next_unit = 0;
    let mut rest = text;
    if text.is_empty() {
        return Err(wrong("a time is missing".to_owned()));
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = after.split_at(letters);
        if digits == 0 {
            return Err(wrong(format!("\"{text}\" is not a time")));
        }
        let number: u64 = number.parse().map_err(|_| too_long(text))?;
        if unit.is_empty() && tail.is_empty() {
            let mut wrong = wrong(format!("\"{text}\" lacks a unit"));
            wrong.help = Some(format!("did you mean \"{text}s\"?"));
            return Err(wrong);
        }
        let Some(at) = units.iter().position(|(name, _)| *name == unit) else {
            return Err(wrong(format!(
                "\"{text}\" is not a time: unknown unit \"{unit}\""
            )));
        };
        if at < next_unit {
            return Err(wrong(format!(
                "\"{text}\" is not a time: its units are out of order"
            )));
        }
        next_unit = at + 1;
        total = number
            .checked_mul(units[at].1)
            .and_then(|ms| total.checked_add(ms))
            .ok_or_else(|| too_long(text))?;
        rest = tail;
    }
    let duration = Duration::from_millis(total);
    if duration > limits::DURATION_MAX {
        return Err(too_long(text));
    }
    if total == 0 && !zero {
        return Err(Wrong {
            what: format!("\"{text}\" is no time at all"),
            why: "this time must be longer than zero".to_owned(),
            help: None,
        });
    }
    Ok(duration)
}

fn too_long(text: &str) -> Wrong {
    Wrong {
        what: format!("\"{text}\" is too long"),
        why: format!(
            "{DURATION}; the longest is {}d",
            limits::DURATION_MAX.as_secs() / 86400
        ),
        help: None,
    }
}

/// `16MiB`, in bytes, between `min` and `max`.
pub fn size(text: &str, min: u64, max: u64) -> Result<u64, Wrong> {
    let wrong = |what: String| Wrong {
        what,
        why: SIZE.to_owned(),
        help: None,
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if digits == 0 {
        return Err(wrong(format!("\"{text}\" is not a size")));
    }
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        "" => {
            let mut wrong = wrong(format!("\"{text}\" lacks a unit"));
            wrong.help = Some(format!("did you mean \"{text}B\"?"));
            return Err(wrong);
        }
        other => {
            return Err(wrong(format!(
                "\"{text}\" is not a size: unknown unit \"{other}\""
            )));
        }
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if (min..=max).contains(&bytes) => Ok(bytes),
        _ => Err(Wrong {
            what: format!("\"{text}\" is out of bounds"),
            why: format!("this size lies between {min} and {max} bytes"),
            help: None,
        }),
    }
}

/// The names of the signals of signal(7).
pub const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// `TERM`, `SIGTERM`, `RTMIN+3`, `15`.
pub fn signal(text: &str) -> Result<i32, Wrong> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |sign: char, base: i32, prefix: &str| -> Option<i32> {
        let rest = name.strip_prefix(prefix)?;
        if rest.is_empty() {
            return Some(base);
        }
        let n: i32 = rest
            .strip_prefix(sign)?
            .parse()
            .ok()
            .filter(|n| (0..=30).contains(n))?;
        let signal = if sign == '+' { base + n } else { base - n };
        (libc::SIGRTMIN()..=libc::SIGRTMAX())
            .contains(&signal)
            .then_some(signal)
    };
    let number = || {
        (!name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()))
            .then(|| name.parse().ok())
            .flatten()
    };
    SIGNALS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
        .or_else(|| real_time('+', libc::SIGRTMIN(), "RTMIN"))
        .or_else(|| real_time('-', libc::SIGRTMAX(), "RTMAX"))
        .or_else(|| number().filter(|n| (1..=64).contains(n)))
        .ok_or_else(|| Wrong {
            what: format!("unknown signal \"{text}\""),
            why: SIGNAL.to_owned(),
            help: super::diagnostic::nearest(name, SIGNALS.iter().map(|(n, _)| *n))
                .map(|n| format!("did you mean \"{n}\"?")),
        })
}

/// A text with variables.
pub fn template(text: &str) -> Result<Template, Wrong> {
    let wrong = |what: String| Wrong {
        what,
        why: TEMPLATE.to_owned(),
        help: None,
    };
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        plain.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            plain.push('$');
            rest = tail;
        } else if let Some(inner) = after.strip_prefix('{') {
            let Some(end) = inner.find('}') else {
                return Err(wrong("\"${\" is not closed".to_owned()));
            };
            let body = &inner[..end];
            let (name, default) = match body.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (body, None),
            };
            if !is_variable(name) {
                return Err(wrong(format!("\"{name}\" is not the name of a variable")));
            }
            if default.is_some_and(|d| d.contains('$')) {
                return Err(wrong(format!(
                    "the default of ${{{name}}} holds a \"$\", and templates do not nest"
                )));
            }
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Variable {
                name: name.to_owned(),
                default: default.map(str::to_owned),
            });
            rest = &inner[end + 1..];
        } else {
            let name: String = after
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            let mut wrong = wrong("a lone \"$\"".to_owned());
            wrong.help = Some(if is_variable(&name) {
                format!("did you mean \"${{{name}}}\"?")
            } else {
                "write \"$$\" for a dollar sign".to_owned()
            });
            return Err(wrong);
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(Template(pieces))
}

/// The name of an environment variable: `[A-Za-z_][A-Za-z0-9_]*`.
pub fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether `name` can be a host's, as it stands in a `Host` header without its port: a DNS name, or an address (an IPv6
/// one without brackets).
pub fn is_host(name: &str) -> bool {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    (1..=253).contains(&name.len()) && (name.bytes().all(is_name) || name.parse::<std::net::IpAddr>().is_ok())
}

/// A name as it is compared: `AUTO-SYNC.service` is `auto_sync`. ASCII only, since Unicode would fold look-alikes (the
/// Kelvin sign) into letters.
pub fn fold(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    lower.strip_suffix(".service").unwrap_or(&lower).replace('-', "_")
}

/// `name` matches `glob`, where `*` is any text and `?` any character. Linear in both for one star, at worst their
/// product; never exponential.
pub fn glob_matches(glob: &str, name: &str) -> bool {
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g, n));
                g += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                g += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    g = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|c| *c == '*')
}

/// FNV-1a over some bytes: the same on every machine and in every version.
pub fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// E8
    #[test]
    fn durations_follow_the_grammar_and_errors_show_it() {
        for (text, ms) in [
            ("1h30m", 5_400_000),
            ("90s", 90_000),
            ("250ms", 250),
            ("1d1h1m1s1ms", 90_061_001),
            ("0s", 0),
        ] {
            assert_eq!(duration(text, true).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in [
            "10", "-1s", "1e9h", "1h30", "", "s", "1x", "1m1h", "1s1s", " 1s", "1 s", "1.5s", "٣s",
        ] {
            let wrong = duration(text, true).unwrap_err();
            assert!(wrong.why.contains("1h30m"), "{text}: {wrong:?}");
        }
        assert_eq!(
            duration("10", true).unwrap_err().help.unwrap(),
            "did you mean \"10s\"?"
        );
        assert!(
            duration("0s", false)
                .unwrap_err()
                .why
                .contains("longer than zero")
        );
        assert!(duration("367d", true).unwrap_err().what.contains("too long"));
        assert!(
            duration("99999999999999999999h", true)
                .unwrap_err()
                .what
                .contains("too long")
        );
        assert!(
            duration("18446744073709551615h", true)
                .unwrap_err()
                .what
                .contains("too long")
        );
    }

    /// E8
    #[test]
    fn sizes_follow_the_grammar_and_errors_show_it() {
        assert_eq!(size("16MiB", 0, u64::MAX).unwrap(), 16 << 20);
        assert_eq!(size("7B", 0, u64::MAX).unwrap(), 7);
        for text in ["1KiBB", "1", "MiB", "-1MiB", "1mib", "1.5GiB", ""] {
            assert!(
                size(text, 0, u64::MAX).unwrap_err().why.contains("16MiB"),
                "{text}"
            );
        }
        assert!(size("99999999999TiB", 0, u64::MAX).is_err());
        assert!(size("1B", 4096, 8192).unwrap_err().why.contains("4096"));
    }

    /// E8
    #[test]
    fn signals_have_names_numbers_and_real_time_ones() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("9", 9),
            ("64", 64),
        ] {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        assert_eq!(signal("SIGRTMIN+3").unwrap(), libc::SIGRTMIN() + 3);
        assert_eq!(signal("RTMAX-1").unwrap(), libc::SIGRTMAX() - 1);
        assert_eq!(signal("RTMIN").unwrap(), libc::SIGRTMIN());
        for text in ["SIGFOO", "0", "65", "RTMIN+99", "RTMIN-1", "", "SIG", "-9"] {
            assert!(signal(text).unwrap_err().why.contains("RTMIN+n"), "{text}");
        }
        assert_eq!(
            signal("TREM").unwrap_err().help.unwrap(),
            "did you mean \"TERM\"?"
        );
    }

    /// E17
    #[test]
    fn templates_follow_the_grammar_and_errors_show_it() {
        let lookup = |name: &str| (name == "A").then(|| "x".to_owned());
        for (text, filled) in [
            ("a${A}b", "axb"),
            ("$$", "$"),
            ("$${A}", "${A}"),
            ("${B:-d}", "d"),
            ("${B:-}", ""),
            ("", ""),
        ] {
            assert_eq!(template(text).unwrap().fill(&lookup).unwrap(), filled, "{text}");
        }
        assert_eq!(template("${B}").unwrap().fill(&lookup), Err("B".to_owned()));
        for text in [
            "${",
            "${A",
            "$",
            "$A",
            "${}",
            "${1}",
            "${A:-${B}}",
            "${A-b}",
            "a$ b",
        ] {
            assert!(template(text).unwrap_err().why.contains("$$"), "{text}");
        }
        assert_eq!(
            template("$HOME/x").unwrap_err().help.unwrap(),
            "did you mean \"${HOME}\"?"
        );
    }

    #[test]
    fn names_are_folded_and_globs_match() {
        assert_eq!(fold("AUTO-Sync.service"), "auto_sync");
        for (glob, name, matches) in [
            ("*", "a", true),
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("?", "a", true),
            ("?", "", false),
            ("*_sync", "auto_sync", true),
            ("**a**", "bab", true),
            ("a", "b", false),
        ] {
            assert_eq!(glob_matches(glob, name), matches, "{glob} {name}");
        }
        // An exponential matcher would not come back.
        assert!(!glob_matches(&("a*".repeat(40) + "c"), &"a".repeat(400)));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_a_printed_template_reads_the_same(text in ".{0,40}|[$a{}:A-]{0,12}") {
            let _ = duration(&text, true);
            let _ = size(&text, 0, u64::MAX);
            let _ = signal(&text);
            if let Ok(parsed) = template(&text) {
                prop_assert_eq!(template(&parsed.to_string()).unwrap(), parsed);
            }
        }
    }
}
