//! One value to the type that its key holds, with every way in which it can be wrong. The second half of `tree`.

use std::ops::Range;

use toml::de::{DeArray, DeTable, DeValue};

use super::diagnostic::{list_or, nearest};
use super::schema::Kind;
use super::tree::{NAME_RULE, Typed, Walk, article, clip};
use super::values::{self, Wrong};
use crate::limits;
use crate::spec::{Argv, EnvFile, Rlimit, Template};

/// Variables that ringriftd sets itself: a file may not.
fn is_reserved(name: &str) -> bool {
    const RESERVED: [&str; 9] = [
        "RINGRIFT_UNIT",
        "RINGRIFT_INVOCATION_ID",
        "RINGRIFT_ROLE",
        "RINGRIFT_HEALTH_INTERVAL_USEC",
        "RINGRIFTD",
        "RINGRIFT_CONFIG_DIR",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ];
    RESERVED.contains(&name) || name.starts_with("LISTEN_")
}

/// The names of resource limits (setrlimit(2)), and whether each counts bytes.
pub const RLIMITS: [(&str, u32, bool); 15] = [
    ("as", libc::RLIMIT_AS, true),
    ("core", libc::RLIMIT_CORE, true),
    ("cpu", libc::RLIMIT_CPU, false),
    ("data", libc::RLIMIT_DATA, true),
    ("fsize", libc::RLIMIT_FSIZE, true),
    ("memlock", libc::RLIMIT_MEMLOCK, true),
    ("msgqueue", libc::RLIMIT_MSGQUEUE, true),
    ("nice", libc::RLIMIT_NICE, false),
    ("nofile", libc::RLIMIT_NOFILE, false),
    ("nproc", libc::RLIMIT_NPROC, false),
    ("rss", libc::RLIMIT_RSS, true),
    ("rtprio", libc::RLIMIT_RTPRIO, false),
    ("rttime", libc::RLIMIT_RTTIME, false),
    ("sigpending", libc::RLIMIT_SIGPENDING, false),
    ("stack", libc::RLIMIT_STACK, true),
];

impl Walk<'_> {
    pub(super) fn leaf(
        &mut self,
        kind: Kind,
        name: &str,
        at: Range<usize>,
        value: &DeValue<'_>,
        items: &mut Vec<Range<usize>>,
    ) -> Option<Typed> {
        match (kind, value) {
            (Kind::Bool, DeValue::Boolean(b)) => Some(Typed::Bool(*b)),
            (Kind::Whole(min, max), DeValue::Integer(_)) => {
                self.whole(name, at, value, min, max).map(Typed::Whole)
            }
            (Kind::Count(min, max), DeValue::Integer(_)) => {
                self.whole(name, at, value, min, max).map(Typed::Whole)
            }
            (Kind::Count(..), DeValue::String(text)) if text == "unlimited" => Some(Typed::Word("unlimited")),
            (Kind::Milli(min, max), DeValue::Integer(_) | DeValue::Float(_)) => {
                let number = match value {
                    DeValue::Float(f) => f.as_str().parse::<f64>().ok(),
                    other => integer(other).map(|n| n as f64),
                };
                let milli = number.filter(|n| n.is_finite()).map(|n| (n * 1000.0).round());
                match milli.filter(|m| (f64::from(min)..=f64::from(max)).contains(m)) {
                    // Within the bounds of a u32 by the line above.
                    Some(milli) => Some(Typed::Milli(milli as u32)),
                    None => {
                        self.fault(at, format!("\"{name}\" is out of bounds"), |d| {
                            d.why(format!("it is {}", kind.word()))
                        });
                        None
                    }
                }
            }
            (Kind::Time(zero), DeValue::String(text)) => {
                self.parsed(at, values::duration(text, zero)).map(Typed::Time)
            }
            (Kind::Time(_), DeValue::Integer(n)) => {
                let n = n.as_str().to_owned();
                self.fault(
                    at,
                    format!("\"{name}\" must be {}, not a number", kind.word()),
                    |d| {
                        d.why("a number alone does not say of what")
                            .help(format!("did you mean \"{n}s\"?"))
                    },
                );
                None
            }
            (Kind::Size(min, max), DeValue::String(text)) => {
                self.parsed(at, values::size(text, min, max)).map(Typed::Size)
            }
            (Kind::Size(..), DeValue::Integer(n)) => {
                let n = n.as_str().to_owned();
                self.fault(
                    at,
                    format!("\"{name}\" must be {}, not a number", kind.word()),
                    |d| {
                        d.why("a number alone does not say of what")
                            .help(format!("did you mean \"{n}B\"?"))
                    },
                );
                None
            }
            (Kind::Word(words, what), DeValue::String(text)) => {
                if let Some(word) = words.iter().find(|w| **w == text.as_ref()) {
                    return Some(Typed::Word(word));
                }
                let text = clip(text);
                let near = nearest(&text, words.iter().copied());
                self.fault(at, format!("unknown {what} \"{text}\""), |d| {
                    d.why(format!("a {what} is {}", kind.word())).did_you_mean(near)
                });
                None
            }
            (Kind::Line, DeValue::String(text)) => {
                let text = self.text(at.clone(), text)?;
                if text.contains(['\n', '\r']) {
                    self.fault(at, format!("\"{name}\" must be one line"), |d| d);
                    return None;
                }
                Some(Typed::Text(text))
            }
            (Kind::Unit, DeValue::String(text)) => self.unit_name(at, text).map(Typed::Text),
            (Kind::Runner, DeValue::String(text)) => self.text(at, text).map(Typed::Text),
            (Kind::User, _) => self.user(at, name, value).map(Typed::Text),
            (Kind::Template, DeValue::String(text)) => self.template(at, text).map(Typed::Template),
            (Kind::Umask, DeValue::Integer(_)) => {
                self.whole(name, at.clone(), value, 0, 0o777).map(Typed::Whole)
            }
            (Kind::Umask, DeValue::String(text)) => {
                let bits = i64::from_str_radix(text, 8)
                    .ok()
                    .filter(|n| (0..=0o777).contains(n) && !text.starts_with('+'));
                if bits.is_none() {
                    self.fault(at, format!("\"{name}\" must be {}", kind.word()), |d| d);
                }
                bits.map(Typed::Whole)
            }
            (Kind::Date, DeValue::String(text)) => match text.parse::<jiff::civil::Date>() {
                Ok(day) => Some(Typed::Text(day.to_string())),
                Err(_) => {
                    let text = clip(text);
                    self.fault(at, format!("\"{text}\" is not a day"), |d| {
                        d.why("a day is written \"2026-06-30\"")
                    });
                    None
                }
            },
            (Kind::Date, DeValue::Datetime(day)) if day.time.is_none() && day.date.is_some() => {
                Some(Typed::Text(day.to_string()))
            }
            (kind, DeValue::Array(list)) if is_list(kind) => {
                if list.len() > limits::LIST_MAX {
                    self.fault(
                        at,
                        format!("\"{name}\" has more than {} entries", limits::LIST_MAX),
                        |d| d,
                    );
                    return None;
                }
                items.extend(list.iter().map(|item| item.span()));
                self.list(kind, name, at, list)
            }
            (kind, other) => {
                let found = article(other);
                let source = self.sources.get(self.file);
                let raw = source.text.get(at.clone()).unwrap_or_default().to_owned();
                let help = match (kind, other) {
                    (k, DeValue::String(_)) if is_list(k) => Some(format!("did you mean [{}]?", clip(&raw))),
                    (Kind::Bool, DeValue::String(s)) if matches!(s.as_ref(), "true" | "false") => {
                        Some(format!("did you mean {s}, without quotes?"))
                    }
                    (Kind::Whole(..) | Kind::Count(..), DeValue::String(s)) if s.parse::<i64>().is_ok() => {
                        Some(format!("did you mean {s}, without quotes?"))
                    }
                    _ => None,
                };
                self.fault(
                    at,
                    format!("\"{name}\" must be {}, not {found}", kind.word()),
                    |mut d| {
                        d.help = help;
                        d
                    },
                );
                None
            }
        }
    }

    fn list(&mut self, kind: Kind, name: &str, at: Range<usize>, list: &DeArray<'_>) -> Option<Typed> {
        let typed = match kind {
            Kind::Units | Kind::Selectors | Kind::Profiles | Kind::Variables | Kind::Events => {
                let mut out = Vec::new();
                for item in list.iter() {
                    let text = self.string(item.span(), name, item.get_ref())?;
                    out.push(match kind {
                        Kind::Units => self.unit_name(item.span(), &text)?,
                        Kind::Selectors => self.selector(item.span(), &text)?,
                        Kind::Variables if !values::is_variable(&text) => {
                            self.fault(item.span(), format!("\"{}\" is not the name of a variable", clip(&text)), |d| {
                                d.why("such a name is made of letters, digits and \"_\", and does not begin with a digit")
                            });
                            return None;
                        }
                        _ => text,
                    });
                }
                Typed::Names(out)
            }
            Kind::Hosts => {
                let mut out = Vec::new();
                for item in list.iter() {
                    let text = self.string(item.span(), name, item.get_ref())?;
                    if !values::is_host(&text) {
                        self.fault(item.span(), format!("\"{}\" is not the name of a host", clip(&text)), |d| {
                            d.why("such a name is made of letters, digits, \"-\" and \".\", or is an address; it has no port")
                        });
                        return None;
                    }
                    out.push(text.to_ascii_lowercase());
                }
                Typed::Names(out)
            }
            Kind::Users => {
                let mut out = Vec::new();
                for item in list.iter() {
                    out.push(self.user(item.span(), name, item.get_ref())?);
                }
                Typed::Names(out)
            }
            Kind::Argv | Kind::Args => {
                let argv = self.argv(name, list)?;
                if matches!(kind, Kind::Argv) && !self.is_program(at, name, &argv) {
                    return None;
                }
                Typed::Argv(argv)
            }
            Kind::Hooks => {
                let mut out = Vec::new();
                for item in list.iter() {
                    let DeValue::Array(argv) = item.get_ref() else {
                        self.fault(
                            item.span(),
                            format!(
                                "an entry of \"{name}\" must be a list, not {}",
                                article(item.get_ref())
                            ),
                            |d| {
                                d.why("each hook is a command of its own")
                                    .help(format!("write {name} = [[\"program\", \"argument\"]]"))
                            },
                        );
                        return None;
                    };
                    let argv = self.argv(name, argv)?;
                    if !self.is_program(item.span(), name, &argv) {
                        return None;
                    }
                    out.push(argv);
                }
                Typed::Hooks(out)
            }
            Kind::Signals => {
                let mut out = Vec::new();
                for item in list.iter() {
                    let text = match item.get_ref() {
                        DeValue::Integer(n) => n.to_string(),
                        other => self.string(item.span(), name, other)?,
                    };
                    out.push(self.parsed(item.span(), values::signal(&text))?);
                }
                if out.is_empty() {
                    self.fault(at, format!("\"{name}\" is empty"), |d| {
                        d.why("a stop begins with at least one signal")
                    });
                    return None;
                }
                Typed::Signals(out)
            }
            Kind::EnvFiles => {
                let mut out = Vec::new();
                for item in list.iter() {
                    let text = self.string(item.span(), name, item.get_ref())?;
                    let optional = text.starts_with('-');
                    let path = self.template(item.span(), text.strip_prefix('-').unwrap_or(&text))?;
                    if path.0.is_empty() {
                        self.fault(item.span(), "an empty path", |d| d);
                        return None;
                    }
                    out.push(EnvFile { path, optional });
                }
                Typed::EnvFiles(out)
            }
            Kind::Codes => {
                let mut out = Vec::new();
                for item in list.iter() {
                    let code = self.whole(name, item.span(), item.get_ref(), 0, 255)?;
                    out.push(code as i32);
                }
                Typed::Codes(out)
            }
            _ => return None,
        };
        Some(typed)
    }

    fn is_program(&mut self, at: Range<usize>, name: &str, argv: &Argv) -> bool {
        let sound = argv.first().is_some_and(|program| !program.0.is_empty());
        if !sound {
            self.fault(at, format!("\"{name}\" names no program"), |d| {
                d.why("the first entry is the program")
            });
        }
        sound
    }

    fn argv(&mut self, name: &str, list: &DeArray<'_>) -> Option<Argv> {
        let mut out = Vec::new();
        for item in list.iter() {
            let text = self.string(item.span(), name, item.get_ref())?;
            out.push(self.template(item.span(), &text)?);
        }
        Some(out)
    }

    pub(super) fn env(&mut self, table: &DeTable<'_>, path: &str) {
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            if !values::is_variable(name) {
                self.fault(key.span(), format!("\"{}\" is not the name of a variable", clip(name)), |d| {
                    d.why("such a name is made of letters, digits and \"_\", and does not begin with a digit")
                });
            } else if is_reserved(name) {
                self.fault(
                    key.span(),
                    format!("\"{name}\" is set by ringriftd itself"),
                    |d| d.help("take it out"),
                );
            } else if let DeValue::String(text) = value.get_ref() {
                if let Some(template) = self.template(value.span(), text) {
                    let full = format!("{path}.{name}");
                    self.keep(
                        full,
                        Typed::Template(template),
                        key.span(),
                        value.span(),
                        Vec::new(),
                    );
                }
            } else {
                let found = article(value.get_ref());
                self.fault(
                    value.span(),
                    format!("variable \"{name}\" must be text, not {found}"),
                    |d| d.help("put it in quotes"),
                );
            }
        }
    }

    pub(super) fn rlimits(&mut self, table: &DeTable<'_>, path: &str) {
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            let Some((_, resource, is_bytes)) = RLIMITS.iter().find(|(known, ..)| *known == name) else {
                let words = || RLIMITS.iter().map(|(known, ..)| *known);
                let near = nearest(name, words());
                self.fault(key.span(), format!("unknown limit \"{}\"", clip(name)), |d| {
                    d.why(format!(
                        "a limit is {}",
                        list_or(&words().map(str::to_owned).collect::<Vec<_>>())
                    ))
                    .did_you_mean(near)
                });
                continue;
            };
            let pair = match value.get_ref() {
                DeValue::Table(pair) => {
                    let mut ends = [None, None];
                    let mut sound = true;
                    for (end, value) in pair.iter() {
                        match ["soft", "hard"].iter().position(|e| *e == end.get_ref()) {
                            Some(i) => match self.limit(name, value.span(), value.get_ref(), *is_bytes) {
                                Some(limit) => ends[i] = Some(limit),
                                None => sound = false,
                            },
                            None => {
                                let near = nearest(end.get_ref(), ["soft", "hard"]);
                                self.fault(
                                    end.span(),
                                    format!("unknown key \"{}\"", clip(end.get_ref())),
                                    |d| d.why("a limit has the keys soft and hard").did_you_mean(near),
                                );
                                sound = false;
                            }
                        }
                    }
                    match ends {
                        [Some(soft), Some(hard)] => Some((soft, hard)),
                        _ => {
                            if sound {
                                self.fault(value.span(), "a limit needs both soft and hard", |d| {
                                    d.help(format!("or write {name} = 1024 for both"))
                                });
                            }
                            None
                        }
                    }
                }
                single => self
                    .limit(name, value.span(), single, *is_bytes)
                    .map(|limit| (limit, limit)),
            };
            let Some((soft, hard)) = pair else { continue };
            if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
                self.fault(value.span(), "the soft limit is above the hard one", |d| d);
                continue;
            }
            let limit = Rlimit {
                resource: *resource,
                soft,
                hard,
            };
            self.keep(
                format!("{path}.{name}"),
                Typed::Limit(limit),
                key.span(),
                value.span(),
                Vec::new(),
            );
        }
    }

    /// A limit's value; `None` inside is unlimited.
    fn limit(
        &mut self,
        name: &str,
        at: Range<usize>,
        value: &DeValue<'_>,
        is_bytes: bool,
    ) -> Option<Option<u64>> {
        match value {
            DeValue::Integer(_) => self
                .whole(name, at, value, 0, i64::MAX)
                .map(|n| Some(n.unsigned_abs())),
            DeValue::String(text) if text == "infinity" => Some(None),
            DeValue::String(text) if is_bytes => {
                self.parsed(at, values::size(text, 0, u64::MAX - 1)).map(Some)
            }
            other => {
                let found = article(other);
                let size = if is_bytes {
                    ", a size such as \"64MiB\""
                } else {
                    ""
                };
                self.fault(
                    at,
                    format!("\"{name}\" must be a whole number{size} or \"infinity\", not {found}"),
                    |d| d,
                );
                None
            }
        }
    }

    fn whole(
        &mut self,
        name: &str,
        at: Range<usize>,
        value: &DeValue<'_>,
        min: i64,
        max: i64,
    ) -> Option<i64> {
        if !value.is_integer() {
            let found = article(value);
            self.fault(
                at,
                format!("\"{name}\" must be a whole number, not {found}"),
                |d| d,
            );
            return None;
        }
        let number = integer(value)
            .and_then(|n| i64::try_from(n).ok())
            .filter(|n| (min..=max).contains(n));
        if number.is_none() {
            self.fault(at, format!("\"{name}\" is out of bounds"), |d| {
                d.why(format!("it is {}", Kind::Whole(min, max).word()))
            });
        }
        number
    }

    /// Text within bounds and without NUL, which no argument, variable or path can hold.
    fn text(&mut self, at: Range<usize>, text: &str) -> Option<String> {
        if text.len() > limits::TEXT_MAX {
            self.fault(at, format!("a text of {} bytes", text.len()), |d| {
                d.why(format!("a text has at most {} bytes", limits::TEXT_MAX))
            });
            return None;
        }
        if text.contains('\0') {
            self.fault(at, "a text with a NUL byte", |d| {
                d.why("no argument, variable or path can hold one")
            });
            return None;
        }
        Some(text.to_owned())
    }

    fn string(&mut self, at: Range<usize>, name: &str, value: &DeValue<'_>) -> Option<String> {
        match value {
            DeValue::String(text) => self.text(at, text),
            other => {
                let found = article(other);
                self.fault(
                    at,
                    format!("an entry of \"{name}\" must be text, not {found}"),
                    |d| d.help("put it in quotes"),
                );
                None
            }
        }
    }

    fn parsed<T>(&mut self, at: Range<usize>, parsed: Result<T, Wrong>) -> Option<T> {
        parsed.map_err(|wrong| self.wrong(at, wrong)).ok()
    }

    fn template(&mut self, at: Range<usize>, text: &str) -> Option<Template> {
        let text = self.text(at.clone(), text)?;
        self.parsed(at, values::template(&text))
    }

    fn user(&mut self, at: Range<usize>, name: &str, value: &DeValue<'_>) -> Option<String> {
        match value {
            // (uid_t) -1 means "leave as it is" to the kernel.
            DeValue::Integer(_) => self
                .whole(name, at, value, 0, i64::from(u32::MAX) - 1)
                .map(|n| n.to_string()),
            DeValue::String(text) => {
                let text = self.text(at.clone(), text)?;
                let sound = !text.is_empty()
                    && text.len() <= limits::NAME_MAX
                    && !text.starts_with('-')
                    && text.chars().all(|c| c.is_alphanumeric() || "_.-$@\\".contains(c));
                if !sound {
                    self.fault(at, format!("\"{}\" is no user or group", clip(&text)), |d| d);
                    return None;
                }
                Some(text)
            }
            other => {
                let found = article(other);
                self.fault(
                    at,
                    format!("\"{name}\" must be a name or a number, not {found}"),
                    |d| d,
                );
                None
            }
        }
    }

    fn unit_name(&mut self, at: Range<usize>, text: &str) -> Option<String> {
        if text.contains('@') {
            self.fault(
                at,
                format!("\"{}\": templates are not supported yet", clip(text)),
                |d| d,
            );
            return None;
        }
        if crate::spec::UnitName::new(&values::fold(text)).is_none() {
            self.fault(at, format!("\"{}\" is not the name of a unit", clip(text)), |d| {
                d.why(NAME_RULE)
            });
            return None;
        }
        Some(text.to_owned())
    }

    fn selector(&mut self, at: Range<usize>, text: &str) -> Option<String> {
        if text.starts_with('%') || text.contains(':') {
            self.fault(at, format!("\"{}\" is no selector of a profile", clip(text)), |d| {
                d.why("a profile names units, globs and \"@category\"; \"%profile\" and \"state:\" are for commands")
                    .help("take another profile's units over with `extends`")
            });
            return None;
        }
        if let Some(category) = text.strip_prefix('@') {
            if category.is_empty() {
                self.fault(at, "\"@\" names no category", |d| d);
                return None;
            }
            return Some(text.to_owned());
        }
        if text.contains(['*', '?']) {
            let plain: String = text.replace(['*', '?'], "a");
            if plain.len() > limits::NAME_MAX
                || plain.contains('@')
                || !plain
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
            {
                self.fault(at, format!("\"{}\" is not a glob", clip(text)), |d| {
                    d.why("a glob is a name with \"*\" for any text and \"?\" for any character")
                });
                return None;
            }
            return Some(text.to_owned());
        }
        self.unit_name(at, text)
    }
}

fn is_list(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Units
            | Kind::Selectors
            | Kind::Events
            | Kind::Profiles
            | Kind::Variables
            | Kind::Hosts
            | Kind::Users
            | Kind::Argv
            | Kind::Args
            | Kind::Hooks
            | Kind::Signals
            | Kind::EnvFiles
            | Kind::Codes
    )
}

fn integer(value: &DeValue<'_>) -> Option<i128> {
    let DeValue::Integer(n) = value else { return None };
    i128::from_str_radix(n.as_str(), n.radix()).ok()
}
