//! TOML to typed leaves: one file's keys with their values, each with its place. Tells every syntax fault, every
//! unknown key and every wrong type or value of the file in one go; what needs other files is `check`'s business.
//!
//! Not serde: it stops at the first fault, and loses places below `flatten`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, list_and, list_or, nearest};
use super::schema::{Key, Kind, leaves};
use super::source::{FileId, Sources, Span};
use super::values::Wrong;
use crate::limits;
use crate::spec::{Argv, EnvFile, Probe, Rlimit, Template};

/// A value of the right type. Names are as a person typed them.
#[derive(Debug, Clone, PartialEq)]
pub enum Typed {
    /// Text, the name of one thing, or a day.
    Text(String),
    /// true or false.
    Bool(bool),
    /// A number.
    Whole(i64),
    /// Thousandths.
    Milli(u32),
    /// A time.
    Time(Duration),
    /// Bytes.
    Size(u64),
    /// A word of the schema.
    Word(&'static str),
    /// Names.
    Names(Vec<String>),
    /// A text with variables.
    Template(Template),
    /// A command or its arguments.
    Argv(Argv),
    /// Commands.
    Hooks(Vec<Argv>),
    /// Signal numbers.
    Signals(Vec<i32>),
    /// Files of variables.
    EnvFiles(Vec<EnvFile>),
    /// A limit.
    Limit(Rlimit),
    /// Exit codes.
    Codes(Vec<i32>),
    /// A way to ask.
    Probe(Probe),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The value.
    pub value: Typed,
    /// Where the value stands.
    pub span: Span,
    /// Where the key stands.
    pub key: Span,
    /// Where each item of a list stands.
    pub items: Vec<Span>,
}

/// One file's keys.
#[derive(Debug, Default)]
pub struct Layer {
    /// By dotted path. The names of variables and limits are the last part.
    pub leaves: BTreeMap<String, Leaf>,
    /// Where each table is first named, by dotted path.
    pub tables: BTreeMap<String, Span>,
    /// Tables that a person named, by the path of the table they lie in and their name as typed; their own paths
    /// begin anew. So a name with a dot in it is never taken for a path.
    pub named: BTreeMap<String, BTreeMap<String, (Span, Layer)>>,
    /// The file has faults, so keys may be missing here that it means to set.
    pub is_partial: bool,
}

/// Reads a file's text as keys of `schema`. Faults go to `faults`, at most [`limits::FAULTS_PER_FILE_MAX`] and a word
/// on the rest; what is sound is returned all the same, so that other faults can be found.
pub fn read(
    sources: &mut Sources,
    file: FileId,
    schema: &'static [Key],
    faults: &mut Vec<Diagnostic>,
) -> Layer {
    // The parser borrows the text, and hiding values changes the source.
    let text = sources.get(file).text.clone();
    if let Some(at) = too_deep(&text) {
        faults.push(
            Diagnostic::fault(sources.get(file).place(at..at + 1), "nested too deep").why(format!(
                "tables and lists lie in each other at most {} deep",
                limits::TOML_DEPTH_MAX
            )),
        );
        return Layer {
            is_partial: true,
            ..Layer::default()
        };
    }
    let (table, errors) = DeTable::parse_recoverable(&text);
    let mut secrets = Vec::new();
    find_secrets(table.get_ref(), false, &mut secrets);
    sources.hide(file, secrets, errors.is_empty());
    let mut walk = Walk {
        sources,
        file,
        faults: Vec::new(),
        broken: BTreeSet::new(),
        left_out: false,
        layer: Layer::default(),
        base: String::new(),
    };
    for error in errors {
        if walk.is_full() {
            break;
        }
        let span = error.span().unwrap_or(0..0);
        let line = walk.sources.get(file).line(span.start);
        // One slip often breaks the rest of its line too.
        if walk.broken.insert(line) {
            let place = walk.sources.get(file).place(span);
            walk.push(Diagnostic::fault(place, format!("not TOML: {}", error.message())));
        }
    }
    walk.table(table.get_ref(), schema, None, "");
    let Walk {
        faults: mut found,
        left_out,
        mut layer,
        ..
    } = walk;
    layer.is_partial = !found.is_empty();
    Diagnostic::sort(&mut found);
    faults.append(&mut found);
    if left_out {
        faults.push(Diagnostic::fault(
            sources.file_place(file),
            format!("has more faults than the {} told", limits::FAULTS_PER_FILE_MAX),
        ));
    }
    layer
}

/// Where brackets first lie deeper in each other than [`limits::TOML_DEPTH_MAX`], strings and comments left out.
fn too_deep(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'#' => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            quote @ (b'"' | b'\'') => {
                let is_long = bytes[at..].starts_with(&[quote; 3]);
                at += if is_long { 3 } else { 1 };
                while at < bytes.len() {
                    if quote == b'"' && bytes[at] == b'\\' {
                        at += 1;
                    } else if is_long && bytes[at..].starts_with(&[quote; 3]) {
                        at += 2;
                        break;
                    } else if !is_long && (bytes[at] == quote || bytes[at] == b'\n') {
                        break;
                    }
                    at += 1;
                }
            }
            b'[' | b'{' => {
                depth += 1;
                if depth > limits::TOML_DEPTH_MAX {
                    return Some(at);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Values below any key `env`.
fn find_secrets(table: &DeTable<'_>, in_env: bool, out: &mut Vec<Range<usize>>) {
    for (key, value) in table.iter() {
        let in_env = in_env || key.get_ref() == "env";
        match value.get_ref() {
            DeValue::Table(inner) => find_secrets(inner, in_env, out),
            _ if in_env => out.push(value.span()),
            _ => {}
        }
    }
}

/// One walk over one file.
pub(super) struct Walk<'s> {
    pub(super) sources: &'s Sources,
    pub(super) file: FileId,
    faults: Vec<Diagnostic>,
    /// Lines with a syntax fault: what else is wrong with them is only its echo.
    broken: BTreeSet<usize>,
    left_out: bool,
    layer: Layer,
    /// The path of the named table that `layer` stands for, for people.
    base: String,
}

impl Walk<'_> {
    fn is_full(&mut self) -> bool {
        let full = self.faults.len() >= limits::FAULTS_PER_FILE_MAX;
        self.left_out |= full;
        full
    }

    fn push(&mut self, fault: Diagnostic) {
        if !self.is_full() {
            self.faults.push(fault);
        }
    }

    fn span(&self, range: Range<usize>) -> Span {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Span {
            file: self.file,
            start: small(range.start),
            end: small(range.end),
        }
    }

    /// Tells a fault at some bytes, unless their line is broken anyway.
    pub(super) fn fault(
        &mut self,
        at: Range<usize>,
        what: impl Into<String>,
        finish: impl FnOnce(Diagnostic) -> Diagnostic,
    ) {
        let source = self.sources.get(self.file);
        if self.broken.contains(&source.line(at.start)) {
            return;
        }
        let diagnostic = finish(Diagnostic::fault(source.place(at), what));
        self.push(diagnostic);
    }

    pub(super) fn wrong(&mut self, at: Range<usize>, wrong: Wrong) {
        self.fault(at, wrong.what, |mut d| {
            d.why = Some(wrong.why);
            d.help = wrong.help;
            d
        });
    }

    fn table(
        &mut self,
        table: &DeTable<'_>,
        keys: &'static [Key],
        each: Option<(&'static [Key], &'static str)>,
        prefix: &str,
    ) {
        for (key, value) in table.iter() {
            if self.is_full() {
                return;
            }
            let name: &str = key.get_ref();
            let path = format!("{prefix}{name}");
            let is_table = value.get_ref().is_table();
            if let Some(known) = keys.iter().find(|k| k.name == name) {
                self.known(known, key.span(), value.span(), value.get_ref(), path);
            } else if name.starts_with("x-") {
                if !is_table {
                    self.fault(key.span(), format!("\"{name}\" is not a table"), |d| {
                        d.why("tables whose names begin with \"x-\" are free for you, single keys are not")
                    });
                }
            } else if let (Some((inner, _)), true) = (each, is_table) {
                if let DeValue::Table(named) = value.get_ref() {
                    let outer_layer = std::mem::take(&mut self.layer);
                    let base = format!("{}{path}.", self.base);
                    let outer_base = std::mem::replace(&mut self.base, base);
                    self.table(named, inner, None, "");
                    self.base = outer_base;
                    let layer = std::mem::replace(&mut self.layer, outer_layer);
                    let table = prefix.trim_end_matches('.').to_owned();
                    let span = self.span(key.span());
                    self.layer
                        .named
                        .entry(table)
                        .or_default()
                        .insert(name.to_owned(), (span, layer));
                }
            } else if let (Some((_, what)), true) = (each, keys.is_empty()) {
                self.fault(
                    value.span(),
                    format!("\"{name}\" must be a table, not {}", article(value.get_ref())),
                    |d| {
                        d.why(format!(
                            "below [{}] stand tables, each named by a {what}",
                            prefix.trim_end_matches('.')
                        ))
                    },
                );
            } else {
                self.unknown(key.span(), name, keys, prefix);
            }
        }
    }

    fn unknown(&mut self, at: Range<usize>, name: &str, keys: &'static [Key], prefix: &str) {
        let words: Vec<&str> = keys
            .iter()
            .filter(|k| !matches!(k.kind, Kind::Later))
            .map(|k| k.name)
            .collect();
        let near = nearest(name, words.iter().copied());
        let mut elsewhere: Vec<String> = Vec::new();
        if near.is_none() {
            elsewhere = leaves(super::schema::UNIT)
                .into_iter()
                .filter(|(_, key)| key.name == name && !matches!(key.kind, Kind::Later))
                .filter_map(|(path, _)| path.rsplit_once('.').map(|(table, _)| format!("[{table}]")))
                .collect();
        }
        let full = format!("{}{prefix}", self.base);
        let place = if full.is_empty() {
            "a file of this kind".to_owned()
        } else {
            format!("[{}]", full.trim_end_matches('.'))
        };
        let mut listed: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        listed.sort();
        let name = clip(name);
        self.fault(at, format!("unknown key \"{name}\""), |d| {
            let d = d
                .why(format!("{place} holds {}", list_and(&listed)))
                .did_you_mean(near);
            if elsewhere.is_empty() {
                d
            } else {
                d.help(format!("\"{name}\" belongs in {}", list_or(&elsewhere)))
            }
        });
    }

    fn known(
        &mut self,
        known: &'static Key,
        key: Range<usize>,
        at: Range<usize>,
        value: &DeValue<'_>,
        path: String,
    ) {
        match (known.kind, value) {
            (Kind::Later, _) => self.fault(key, format!("\"{}\" is not supported yet", known.name), |d| {
                d.why("it is planned, and refused so that nobody relies on what is not done")
                    .help("take it out for now")
            }),
            (Kind::Table(inner), DeValue::Table(table)) => {
                self.layer.tables.insert(path.clone(), self.span(key));
                self.table(table, inner, None, &format!("{path}."));
            }
            (Kind::Named { keys, each, what }, DeValue::Table(table)) => {
                self.layer.tables.insert(path.clone(), self.span(key));
                self.table(table, keys, Some((each, what)), &format!("{path}."));
            }
            (Kind::Env, DeValue::Table(table)) => self.env(table, &path),
            (Kind::Limits, DeValue::Table(table)) => self.rlimits(table, &path),
            (Kind::Probe, DeValue::Table(table)) => self.probe(table, path, key, at),
            (Kind::Table(_) | Kind::Named { .. } | Kind::Env | Kind::Limits, other) => {
                let found = article(other);
                self.fault(
                    at,
                    format!("\"{}\" must be a table, not {found}", known.name),
                    |d| d.help(format!("write [{path}] on a line of its own, and its keys below")),
                );
            }
            (kind, value) => {
                let mut items = Vec::new();
                if let Some(typed) = self.leaf(kind, known.name, at.clone(), value, &mut items) {
                    self.keep(path, typed, key, at, items);
                }
            }
        }
    }

    pub(super) fn keep(
        &mut self,
        path: String,
        value: Typed,
        key: Range<usize>,
        at: Range<usize>,
        items: Vec<Range<usize>>,
    ) {
        let items = items.into_iter().map(|r| self.span(r)).collect();
        let leaf = Leaf {
            value,
            span: self.span(at),
            key: self.span(key),
            items,
        };
        self.layer.leaves.insert(path, leaf);
    }
}

/// What a name looks like.
pub const NAME_RULE: &str = "a name begins with a lower-case letter or a digit, goes on with those, \"_\", \".\" or \"-\", and has at most 64 of them";

/// A value's type, as one would say it.
pub(super) fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a day or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A person's word, cut so that one fault stays one line.
pub(super) fn clip(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
