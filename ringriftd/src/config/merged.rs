//! The layers of a unit laid over each other: for each key the topmost value, with the place that it came from.

use std::collections::BTreeMap;
use std::time::Duration;

use super::source::{FileId, Span};
use super::tree::{Layer, Leaf, Typed};
use crate::spec::{Argv, Probe, Template, UnitName};

/// The names of all units, by their folded form.
pub type Names = BTreeMap<String, UnitName>;

/// A unit's keys, the topmost layer's value each.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// By dotted path; `on_dependency.NAME.key` with NAME as typed.
    pub leaves: BTreeMap<String, Leaf>,
    /// Where a person named a unit in `[on_dependency.NAME]`.
    pub dependencies: BTreeMap<String, Span>,
    /// One of its files has faults of its own: what seems to be missing may not be.
    pub is_partial: bool,
}

/// A unit with its files, the lowest layer first.
#[derive(Debug)]
pub struct Defined {
    /// Every file that says something of it.
    pub files: Vec<FileId>,
    /// What they say together.
    pub merged: Merged,
}

impl Merged {
    /// Lays a layer over what is there, or those of its keys that begin with `prefix`, without it.
    ///
    /// A layer that says what runs replaces what lower ones said of it, so that a drop-in can turn a runner's unit
    /// into a plain command.
    pub fn lay(&mut self, layer: &Layer, prefix: &str) {
        self.is_partial |= layer.is_partial;
        if layer.leaves.contains_key(&format!("{prefix}exec.command")) {
            self.leaves.remove("exec.runner");
            self.leaves.remove("exec.args");
        }
        if layer.leaves.contains_key(&format!("{prefix}exec.runner")) {
            self.leaves.remove("exec.command");
        }
        for (path, leaf) in &layer.leaves {
            if let Some(path) = path.strip_prefix(prefix) {
                self.leaves.insert(path.to_owned(), leaf.clone());
            }
        }
        for (name, (span, inner)) in layer
            .named
            .get(&format!("{prefix}on_dependency"))
            .into_iter()
            .flatten()
        {
            self.dependencies.insert(name.clone(), *span);
            for (key, leaf) in &inner.leaves {
                self.leaves
                    .insert(format!("on_dependency.{name}.{key}"), leaf.clone());
            }
        }
    }

    /// Lays single keys over what is there: a profile's overrides.
    pub fn lay_leaves<'a>(&mut self, leaves: impl Iterator<Item = (&'a String, &'a Leaf)> + Clone) {
        let has = |wanted: &str| leaves.clone().any(|(path, _)| path == wanted);
        if has("exec.command") {
            self.leaves.remove("exec.runner");
            self.leaves.remove("exec.args");
        }
        if has("exec.runner") {
            self.leaves.remove("exec.command");
        }
        for (path, leaf) in leaves {
            if let Some((name, _)) = path
                .strip_prefix("on_dependency.")
                .and_then(|p| p.rsplit_once('.'))
            {
                self.dependencies.insert(name.to_owned(), leaf.key);
            }
            self.leaves.insert(path.clone(), leaf.clone());
        }
    }

    /// The value of a key, if a layer sets it.
    pub fn value(&self, path: &str) -> Option<&Typed> {
        self.leaves.get(path).map(|leaf| &leaf.value)
    }

    /// The category, which `@category` needs before the rest is known.
    pub fn category(&self) -> &str {
        match self.value("category") {
            Some(Typed::Text(text)) => text,
            _ => "misc",
        }
    }

    /// A text.
    pub fn text(&self, path: &str) -> Option<String> {
        match self.value(path) {
            Some(Typed::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// A truth value.
    pub fn flag(&self, path: &str) -> Option<bool> {
        match self.value(path) {
            Some(Typed::Bool(b)) => Some(*b),
            _ => None,
        }
    }

    /// A word of a closed list; empty when no layer sets it and it has no default.
    pub fn word(&self, path: &str) -> &'static str {
        match self.value(path) {
            Some(Typed::Word(word)) => word,
            _ => "",
        }
    }

    /// A number whose bounds in the schema lie within those of `T`.
    pub fn whole<T: TryFrom<i64>>(&self, path: &str) -> Option<T> {
        match self.value(path) {
            Some(Typed::Whole(n)) => T::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A number in thousandths.
    pub fn milli(&self, path: &str, default: u32) -> u32 {
        match self.value(path) {
            Some(Typed::Milli(n)) => *n,
            _ => default,
        }
    }

    /// A duration.
    pub fn time(&self, path: &str) -> Option<Duration> {
        match self.value(path) {
            Some(Typed::Time(time)) => Some(*time),
            _ => None,
        }
    }

    /// A text with variables.
    pub fn template(&self, path: &str) -> Option<Template> {
        match self.value(path) {
            Some(Typed::Template(t)) => Some(t.clone()),
            _ => None,
        }
    }

    /// A list of texts.
    pub fn names(&self, path: &str) -> Option<Vec<String>> {
        match self.value(path) {
            Some(Typed::Names(names)) => Some(names.clone()),
            _ => None,
        }
    }

    /// An argument list.
    pub fn argv(&self, path: &str) -> Option<Argv> {
        match self.value(path) {
            Some(Typed::Argv(argv)) => Some(argv.clone()),
            _ => None,
        }
    }

    /// A list of argument lists.
    pub fn hooks(&self, path: &str) -> Vec<Argv> {
        match self.value(path) {
            Some(Typed::Hooks(hooks)) => hooks.clone(),
            _ => Vec::new(),
        }
    }

    /// A way to ask.
    pub fn probe(&self, path: &str) -> Option<Probe> {
        match self.value(path) {
            Some(Typed::Probe(probe)) => Some(probe.clone()),
            _ => None,
        }
    }

    /// The keys below a table, without its path.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Leaf)> {
        self.leaves
            .range(prefix.to_owned()..)
            .take_while(move |(path, _)| path.starts_with(prefix))
            .map(move |(path, leaf)| (&path[prefix.len()..], leaf))
    }
}
