//! `probe = { … }`: which one it is, and what can be wrong with it before any variable is filled in.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::diagnostic::nearest;
use super::merged::Merged;
use super::schema::Kind;
use super::tree::{Typed, Walk, article, clip};
use crate::limits;
use crate::spec::{HealthSpec, OnUnhealthy, Piece, Probe, Template};

/// The keys of which a probe has one.
const WORDS: [&str; 5] = ["http", "tcp", "command", "file", "log_line"];

impl Walk<'_> {
    /// One probe; its leaf's items are the places of its texts.
    pub(super) fn probe(&mut self, table: &DeTable<'_>, path: String, key: Range<usize>, at: Range<usize>) {
        let is_mine = |name: &str| name.starts_with("x-");
        let mut known = Vec::new();
        for (name, value) in table.iter() {
            let word: &str = name.get_ref();
            if WORDS.contains(&word) {
                known.push((word, name.span(), value));
            } else if !is_mine(word) || !value.get_ref().is_table() {
                let near = nearest(word, WORDS);
                self.fault(name.span(), format!("unknown probe \"{}\"", clip(word)), |d| {
                    d.why(format!("a probe is {}", Kind::Probe.word()))
                        .did_you_mean(near)
                });
                return;
            }
        }
        let (word, value) = match known.as_slice() {
            [(word, _, value)] => (*word, *value),
            [] => {
                self.fault(at, "a probe that asks nothing", |d| {
                    d.why(format!("it is {}", Kind::Probe.word()))
                });
                return;
            }
            [(first, ..), (second, place, _), ..] => {
                let text = format!("two kinds in one probe: \"{first}\" and \"{second}\"");
                self.fault(place.clone(), text, |d| {
                    d.why("a probe asks one thing").help("a command can ask several")
                });
                return;
            }
        };
        let mut items = Vec::new();
        let kind = if word == "command" {
            Kind::Argv
        } else {
            Kind::Template
        };
        let place = value.span();
        let probe = match (word, value.get_ref()) {
            ("log_line", DeValue::String(text)) => self.pattern(place.clone(), text),
            ("log_line", value) => {
                let found = article(value);
                self.fault(
                    place.clone(),
                    format!("\"log_line\" must be text, not {found}"),
                    |d| d,
                );
                None
            }
            (_, value) => {
                let typed = self.leaf(kind, word, place.clone(), value, &mut items);
                match (word, typed) {
                    ("command", Some(Typed::Argv(argv))) => Some(Probe::Command(argv)),
                    ("http", Some(Typed::Template(text))) => {
                        self.judged(place.clone(), text, url, Probe::Http)
                    }
                    ("tcp", Some(Typed::Template(text))) => {
                        self.judged(place.clone(), text, address, Probe::Tcp)
                    }
                    ("file", Some(Typed::Template(text))) => {
                        self.judged(place.clone(), text, absolute, Probe::File)
                    }
                    _ => None,
                }
            }
        };
        if items.is_empty() {
            items.push(place);
        }
        if let Some(probe) = probe {
            self.keep(path, Typed::Probe(probe), key, at, items);
        }
    }

    fn pattern(&mut self, at: Range<usize>, text: &str) -> Option<Probe> {
        match compiled(text) {
            Ok(_) => Some(Probe::LogLine(text.to_owned())),
            Err(why) => {
                self.fault(
                    at,
                    format!("\"{}\" is not a regular expression", clip(text)),
                    |d| {
                        d.why(why).help(
                            "write it as a literal string, '…', so that TOML leaves its backslashes alone",
                        )
                    },
                );
                None
            }
        }
    }

    fn judged(
        &mut self,
        at: Range<usize>,
        text: Template,
        judge: fn(&str) -> Result<(), String>,
        make: fn(Template) -> Probe,
    ) -> Option<Probe> {
        // With a variable at its beginning it may become anything.
        let is_open = matches!(text.0.first(), Some(Piece::Variable { .. }));
        // Any number stands in for the others: a port is the part that must be one.
        let sample = text.fill(&|_| Some("1".to_owned())).unwrap_or_default();
        if !is_open && let Err(why) = judge(&sample) {
            let said = clip(&text.to_string());
            self.fault(at, format!("\"{said}\" cannot be asked"), |d| d.why(why));
            return None;
        }
        Some(make(text))
    }
}

/// The expression of a `log_line` probe, within its bounds. Its matching takes time linear in the line, whatever it is.
pub fn compiled(pattern: &str) -> Result<regex::bytes::Regex, String> {
    if pattern.is_empty() {
        return Err("an empty one matches every line".to_owned());
    }
    if pattern.len() > limits::PATTERN_MAX {
        return Err(format!("it has at most {} bytes", limits::PATTERN_MAX));
    }
    regex::bytes::RegexBuilder::new(pattern)
        .size_limit(limits::PATTERN_COMPILED_MAX)
        .build()
        .map_err(|e| {
            // The last line of several says what; those before draw where.
            let text = e.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        })
}

/// `http://host[:port]/path`. What is sound here is what the prober takes.
pub fn url(text: &str) -> Result<(), String> {
    let uri: hyper::Uri = text
        .parse()
        .map_err(|e| format!("it is not a URL such as \"http://127.0.0.1:8080/ready\": {e}"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err(
                "a probe speaks plain http: ask the service itself, not what stands before it, or use a command"
                    .to_owned(),
            );
        }
        Some(_) | None => {
            return Err("it is a URL such as \"http://127.0.0.1:8080/ready\"".to_owned());
        }
    }
    let authority = uri.authority().map(hyper::http::uri::Authority::as_str);
    if authority.is_some_and(|text| text.contains('@')) {
        return Err(
            "a URL holds no user and no password: anybody who may look at the unit sees it".to_owned(),
        );
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err("its host is missing".to_owned());
    }
    let has_port = authority.is_some_and(|text| text.rsplit_once(']').map_or(text, |(_, t)| t).contains(':'));
    if has_port && uri.port_u16().is_none_or(|port| port == 0) {
        return Err("its port is a number from 1 to 65535".to_owned());
    }
    Ok(())
}

/// `host:port`, `[::1]:port`.
pub fn address(text: &str) -> Result<(), String> {
    let grammar = "it is \"host:port\", such as \"127.0.0.1:5432\" or \"[::1]:5432\"";
    let (host, port) = text.rsplit_once(':').ok_or(grammar)?;
    let is_bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let is_host = !host.is_empty() && !host.contains([':', '/', '[', ']', '@', ' ']);
    if !is_bracketed && !is_host {
        return Err(grammar.to_owned());
    }
    let is_number = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if is_number => Ok(()),
        Ok(_) | Err(_) => Err(format!("its port is a number from 1 to 65535; {grammar}")),
    }
}

/// A path that does not depend on any folder.
pub fn absolute(text: &str) -> Result<(), String> {
    if text.starts_with('/') {
        Ok(())
    } else {
        Err("the path of a file begins with \"/\"".to_owned())
    }
}

/// `[health]`, when it says more than how often.
pub(super) fn health(unit: &Merged) -> Option<HealthSpec> {
    let interval = unit.time("health.interval").unwrap_or(limits::HEALTH_INTERVAL);
    let is_set = unit.below("health.").any(|(key, _)| key != "interval");
    is_set.then(|| HealthSpec {
        probe: unit.probe("health.probe"),
        grace: unit.time("health.grace").unwrap_or(limits::HEALTH_GRACE),
        failures: unit.whole("health.failures").unwrap_or(limits::HEALTH_FAILURES),
        timeout: unit
            .time("health.timeout")
            .unwrap_or(limits::HEALTH_TIMEOUT)
            .min(interval),
        watchdog: unit.time("health.watchdog"),
        on_failure: match unit.word("health.on_failure") {
            "mark" => OnUnhealthy::Mark,
            "ignore" => OnUnhealthy::Ignore,
            _ => OnUnhealthy::Restart,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_urls_and_paths_are_judged_before_anybody_asks_them() {
        for text in ["127.0.0.1:1", "localhost:65535", "[::1]:80", "a.b-c:9"] {
            assert_eq!(address(text), Ok(()), "{text}");
        }
        for text in [
            "", "x", ":80", "a:", "a:0", "a:65536", "a:+1", "::1:80", "a b:1", "u@a:1", "a/b:1", "[]:1",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
        for text in ["http://a", "http://127.0.0.1:80/x?y=1", "http://[::1]:80/"] {
            assert_eq!(url(text), Ok(()), "{text}");
        }
        for text in [
            "",
            "a",
            "/x",
            "https://a/",
            "ftp://a",
            "http://",
            "http://u:p@a/",
            "http://a:0/",
            "http://a:99999/",
            "http://a b/",
            "http://a:/",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
        assert!(absolute("/x").is_ok() && absolute("x").is_err());
    }

    #[test]
    fn an_expression_that_would_grow_without_bound_is_refused() {
        assert!(compiled(r"^ready on port \d+$").is_ok());
        let why = compiled(r"(\w{1000}){1000}").expect_err("too large");
        assert!(why.contains("size"), "{why}");
        assert!(compiled("").is_err());
        assert!(
            compiled("(").expect_err("open").contains("unclosed"),
            "{:?}",
            compiled("(")
        );
        assert!(compiled(&"a".repeat(limits::PATTERN_MAX + 1)).is_err());
    }
}
