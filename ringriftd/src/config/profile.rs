//! Profiles: who is listed, what is laid over whom, and where two of them contradict each other.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::{Diagnostic, nearest_names};
use super::merged::Names;
use super::source::{FileId, Sources, Span};
use super::tree::{Layer, Leaf, Typed};
use super::values::{fold, glob_matches};
use crate::spec::{Membership, UnitName};

/// A profile's file.
#[derive(Debug)]
pub struct ProfileFile {
    /// Its text.
    pub file: FileId,
    /// Its keys.
    pub layer: Layer,
}

/// A profile, whether it is active or not.
#[derive(Debug, Clone)]
pub struct LoadedProfile {
    /// Its file's one line.
    pub description: String,
    /// The profiles that it takes over directly.
    pub extends: Vec<String>,
    /// The units that it lists, those taken over among them.
    pub listed: BTreeSet<UnitName>,
    /// Those and all that they require or want.
    pub members: BTreeMap<UnitName, Membership>,
}

/// One key that a profile lays over a unit.
#[derive(Debug, Clone)]
pub struct Override {
    /// The value.
    pub leaf: Leaf,
    /// The profile that says it.
    pub profile: String,
}

/// By unit and dotted path.
pub type Overrides = BTreeMap<UnitName, BTreeMap<String, Override>>;

/// A profile with all that it takes over.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// Its members, before what they require.
    pub listed: BTreeSet<UnitName>,
    /// What it leaves out, with where it says so.
    pub excluded: BTreeMap<UnitName, Span>,
    /// What it lays over units.
    pub overrides: Overrides,
    /// All profiles that it extends, near and far.
    pub ancestors: BTreeSet<String>,
}

/// Resolves profiles, each once.
pub struct Resolver<'a> {
    /// Where the texts are.
    pub sources: &'a Sources,
    /// All profiles.
    pub files: &'a BTreeMap<String, ProfileFile>,
    /// All units.
    pub names: &'a Names,
    /// Each unit's category.
    pub categories: &'a BTreeMap<UnitName, String>,
    /// What was resolved so far.
    pub resolved: BTreeMap<String, Resolved>,
    /// What was found.
    pub faults: Vec<Diagnostic>,
    /// What was found, less grave.
    pub warnings: Vec<Diagnostic>,
}

/// The profile that a person means by `text`.
pub fn find<'a, T>(profiles: &'a BTreeMap<String, T>, text: &str) -> Option<&'a String> {
    profiles
        .get_key_value(text)
        .map(|(name, _)| name)
        .or_else(|| profiles.keys().find(|name| fold(name) == fold(text)))
}

impl Resolver<'_> {
    /// Resolves every profile.
    pub fn all(&mut self) {
        for name in self.files.keys() {
            self.one(name, &mut Vec::new());
        }
    }

    /// Depth first; the depth is bounded by the number of profiles, each of which is a file.
    fn one(&mut self, name: &str, chain: &mut Vec<(String, Span)>) {
        if self.resolved.contains_key(name) {
            return;
        }
        let Some(profile) = self.files.get(name) else {
            return;
        };
        let mut out = Resolved::default();
        let mut sources_of: Vec<String> = Vec::new();
        for (text, span) in names_in(&profile.layer, "extends") {
            let Some(parent) = find(self.files, text) else {
                let near = nearest_names(text, self.files.keys().map(String::as_str));
                let mut fault =
                    Diagnostic::fault(self.sources.place(span), format!("unknown profile \"{text}\""));
                fault.help = near;
                self.faults.push(fault);
                continue;
            };
            let parent = parent.clone();
            if let Some(at) = chain
                .iter()
                .position(|(n, _)| *n == parent)
                .or_else(|| (parent == name).then_some(chain.len()))
            {
                let ring: Vec<&str> = chain[at..]
                    .iter()
                    .map(|(n, _)| n.as_str())
                    .chain([name, &parent])
                    .collect();
                let mut fault = Diagnostic::fault(
                    self.sources.place(span),
                    format!("profiles extend each other in a ring: {}", ring.join(" -> ")),
                );
                for (other, span) in &chain[at..] {
                    fault = fault.note(
                        self.sources.place(*span),
                        format!("here \"{other}\" extends the next"),
                    );
                }
                self.faults.push(fault);
                continue;
            }
            chain.push((name.to_owned(), span));
            self.one(&parent, chain);
            chain.pop();
            if let Some(resolved) = self.resolved.get(&parent) {
                out.listed.extend(resolved.listed.iter().cloned());
                out.ancestors.extend(resolved.ancestors.iter().cloned());
                out.ancestors.insert(parent.clone());
                sources_of.push(parent);
            }
        }
        out.overrides = self.together(&sources_of);
        out.listed.extend(self.select(name, profile, "units"));
        let excluded = self.select_with_places(name, profile, "exclude");
        for (unit, span) in excluded {
            if !out.listed.remove(&unit) {
                self.warnings.push(Diagnostic::warning(
                    self.sources.place(span),
                    format!("\"{unit}\" is excluded, but profile \"{name}\" does not list it"),
                ));
            }
            out.excluded.insert(unit, span);
        }
        for (text, (span, layer)) in profile.layer.named.get("override").into_iter().flatten() {
            let Some(unit) = self.names.get(&fold(text)) else {
                let near = nearest_names(&fold(text), self.names.values().map(UnitName::as_str));
                let mut fault = Diagnostic::fault(
                    self.sources.place(*span),
                    format!("unknown unit \"{text}\", named in [override] of profile \"{name}\""),
                )
                .why("no unit file has this name");
                fault.help = near;
                self.faults.push(fault);
                continue;
            };
            let mine = out.overrides.entry(unit.clone()).or_default();
            let mut lay = |path: String, leaf: &Leaf| {
                mine.insert(
                    path,
                    Override {
                        leaf: leaf.clone(),
                        profile: name.to_owned(),
                    },
                );
            };
            for (path, leaf) in &layer.leaves {
                lay(path.clone(), leaf);
            }
            for (other, (_, inner)) in layer.named.get("on_dependency").into_iter().flatten() {
                for (key, leaf) in &inner.leaves {
                    lay(format!("on_dependency.{other}.{key}"), leaf);
                }
            }
        }
        self.resolved.insert(name.to_owned(), out);
    }

    /// The overrides of several profiles together. Two that set the same key to different values contradict each
    /// other, unless one of them extends the other and so means to.
    pub fn together(&mut self, profiles: &[String]) -> Overrides {
        let mut out: Overrides = BTreeMap::new();
        for name in profiles {
            let Some(resolved) = self.resolved.get(name).cloned() else {
                continue;
            };
            for (unit, leaves) in resolved.overrides {
                let all = out.entry(unit.clone()).or_default();
                for (path, new) in leaves {
                    let Some(old) = all.get(&path) else {
                        all.insert(path, new);
                        continue;
                    };
                    let extends =
                        |a: &str, b: &str| self.resolved.get(a).is_some_and(|r| r.ancestors.contains(b));
                    if old.leaf.value == new.leaf.value || extends(&old.profile, &new.profile) {
                        continue;
                    }
                    if extends(&new.profile, &old.profile) {
                        all.insert(path, new);
                        continue;
                    }
                    let fault = Diagnostic::fault(
                        self.sources.place(new.leaf.span),
                        format!(
                            "profiles \"{}\" and \"{}\" contradict each other on {path} of \"{unit}\"",
                            old.profile, new.profile
                        ),
                    )
                    .why("both are active, or extended by one profile, and neither extends the other")
                    .note(
                        self.sources.place(old.leaf.span),
                        format!("here \"{}\" says otherwise", old.profile),
                    );
                    if !self.faults.contains(&fault) {
                        self.faults.push(fault);
                    }
                }
            }
        }
        out
    }

    fn select(&mut self, name: &str, profile: &ProfileFile, key: &str) -> BTreeSet<UnitName> {
        self.select_with_places(name, profile, key).into_keys().collect()
    }

    /// What a list of selectors means, with the place of the first selector for each.
    fn select_with_places(
        &mut self,
        name: &str,
        profile: &ProfileFile,
        key: &str,
    ) -> BTreeMap<UnitName, Span> {
        let mut out: BTreeMap<UnitName, Span> = BTreeMap::new();
        let mut literal: BTreeMap<String, Span> = BTreeMap::new();
        for (text, span) in names_in(&profile.layer, key) {
            let place = self.sources.place(span);
            let canonical = if text.starts_with('@') {
                text.to_owned()
            } else {
                fold(text)
            };
            if let Some(first) = literal.get(&canonical) {
                self.faults.push(
                    Diagnostic::fault(
                        place,
                        format!("profile \"{name}\" names \"{text}\" twice in \"{key}\""),
                    )
                    .help("take one of them out")
                    .note(self.sources.place(*first), "here is the other"),
                );
                continue;
            }
            literal.insert(canonical.clone(), span);
            if let Some(category) = text.strip_prefix('@') {
                let found: Vec<&UnitName> = self
                    .categories
                    .iter()
                    .filter(|(_, c)| *c == category)
                    .map(|(unit, _)| unit)
                    .collect();
                if found.is_empty() {
                    let known: BTreeSet<&str> = self.categories.values().map(String::as_str).collect();
                    let near = nearest_names(category, known);
                    let mut fault =
                        Diagnostic::fault(place, format!("no unit has the category \"{category}\""));
                    fault.help = near;
                    self.faults.push(fault);
                }
                for unit in found {
                    out.entry(unit.clone()).or_insert(span);
                }
            } else if text.contains(['*', '?']) {
                let mut matched = false;
                for (folded, unit) in self
                    .names
                    .iter()
                    .filter(|(folded, _)| glob_matches(&canonical, folded))
                {
                    matched |= !folded.is_empty();
                    out.entry(unit.clone()).or_insert(span);
                }
                if !matched {
                    self.warnings
                        .push(Diagnostic::warning(place, format!("no unit matches \"{text}\"")));
                }
            } else if let Some(unit) = self.names.get(&canonical) {
                out.entry(unit.clone()).or_insert(span);
            } else {
                let near = nearest_names(&canonical, self.names.values().map(UnitName::as_str));
                let mut fault = Diagnostic::fault(
                    place,
                    format!("unknown unit \"{text}\", named in \"{key}\" of profile \"{name}\""),
                )
                .why("no unit file has this name");
                fault.help = near;
                self.faults.push(fault);
            }
        }
        out
    }
}

/// The names in a list, with their places.
pub fn names_in<'a>(layer: &'a Layer, key: &str) -> Vec<(&'a str, Span)> {
    match layer.leaves.get(key) {
        Some(Leaf {
            value: Typed::Names(names),
            items,
            ..
        }) => names
            .iter()
            .map(String::as_str)
            .zip(items.iter().copied())
            .collect(),
        _ => Vec::new(),
    }
}
