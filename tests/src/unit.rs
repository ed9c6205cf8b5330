//! Writes unit files.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::programs;

/// A unit file in the making: values are raw TOML, keys are dotted (`restart.delay`).
#[derive(Debug, Clone, Default)]
pub struct Unit {
    tables: BTreeMap<String, BTreeMap<String, String>>,
}

impl Unit {
    /// A unit of kind notify that runs `rr-bad` with these words. Its log, back-off and stop are fast, so that tests
    /// are; a test that is about one of them sets it.
    pub fn bad(words: &[&str]) -> Self {
        let mut argv = vec![programs::rr_bad()];
        argv.extend_from_slice(words);
        Self::command(&argv).set("exec.kind", "\"notify\"")
    }

    /// A unit of kind simple that runs this.
    pub fn command(argv: &[&str]) -> Self {
        Self::default()
            .set("description", "\"of a test\"")
            .set("exec.command", &list(argv))
            .set("restart.delay", "\"50ms\"")
            .set("restart.jitter", "0.0")
            .set("restart.factor", "1.0")
            .set("stop.timeout", "\"10s\"")
            .set("stop.drain_timeout", "\"500ms\"")
    }

    /// Sets a key to a raw TOML value.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
        self.tables
            .entry(table.to_owned())
            .or_default()
            .insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a key to a text.
    pub fn text(self, key: &str, value: &str) -> Self {
        let value = quoted(value);
        self.set(key, &value)
    }

    /// Sets a key to a list of texts.
    pub fn list(self, key: &str, values: &[&str]) -> Self {
        let value = list(values);
        self.set(key, &value)
    }

    /// Sets a key to a list of commands.
    pub fn hooks(self, key: &str, commands: &[&[&str]]) -> Self {
        let commands: Vec<String> = commands.iter().map(|argv| list(argv)).collect();
        self.set(key, &format!("[{}]", commands.join(", ")))
    }

    /// `kind = …`.
    pub fn kind(self, kind: &str) -> Self {
        self.text("exec.kind", kind)
    }

    /// `requires = …`.
    pub fn requires(self, units: &[&str]) -> Self {
        self.list("requires", units)
    }

    /// Never restarted.
    pub fn once(self) -> Self {
        self.text("restart.policy", "never")
    }

    /// The file.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for (table, keys) in &self.tables {
            if !table.is_empty() {
                let _ = writeln!(out, "\n[{table}]");
            }
            for (key, value) in keys {
                let _ = writeln!(out, "{key} = {value}");
            }
        }
        out
    }
}

/// A TOML list of texts.
pub fn list(values: &[&str]) -> String {
    let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
    format!("[{}]", values.join(", "))
}

/// A TOML text; JSON's escapes are a part of TOML's, and `$` is doubled since `$` names a variable.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text)
        .expect("a text is JSON")
        .replace('$', "$$")
}
