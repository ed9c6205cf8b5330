//! Files to a [`Plan`], all or nothing, with every fault of every file told at once. `ringriftd check` and the daemon
//! share every line of it.
//!
//! Read first: [`load`] and [`Loaded`]. The way of a unit: `files` reads, `tree` types each key, `check` lays the
//! layers together and resolves names, and here profiles, graph and warnings are added.

pub mod check;
pub mod diagnostic;
pub mod files;
pub mod profile;
pub mod schema;
pub mod source;
pub mod tree;
pub mod values;
pub mod verb;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::civil::Date;
use proto::reply::{Definition, Setting, SourceFile};

use crate::engine::types::Plan;
use crate::graph::{Cycle, Graph, Ix, Why};
use crate::limits;
use crate::places::Places;
use crate::spec::{Membership, NodeSpec, Runner, UnitName, UnitSpec};
use check::{Check, Merged, Names};
use diagnostic::{Diagnostic, nearest_names};
use profile::{Overrides, Resolver, names_in};
use source::{FileId, Sources, Span};
use tree::{Layer, Leaf, Typed};
use values::fold;

/// How much of a file `cat` shows, in bytes.
const SHOWN_TEXT: usize = 64 * 1024;

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

/// A sound configuration.
#[derive(Debug)]
pub struct Loaded {
    /// What the engine runs by.
    pub plan: Arc<Plan>,
    /// What an operator should know.
    pub warnings: Vec<Diagnostic>,
    /// Every profile.
    pub profiles: BTreeMap<String, LoadedProfile>,
    /// Units that no profile has, leaving out profiles that list every unit (when there are others). Deprecated ones
    /// are among them.
    pub orphans: Vec<UnitName>,
    names: Names,
    sources: Sources,
    defined: BTreeMap<UnitName, Defined>,
}

#[derive(Debug)]
struct Defined {
    files: Vec<FileId>,
    merged: Merged,
}

/// Why nothing was loaded.
#[derive(Debug, Clone)]
pub struct Report {
    /// Every fault, by file, line and column; never empty.
    pub faults: Vec<Diagnostic>,
    /// What was found besides.
    pub warnings: Vec<Diagnostic>,
}

/// Reads and checks everything. `profiles` are those of the command line; when there are none, `ringriftd.toml`'s
/// count; when that names none either, no unit is wanted.
pub fn load(places: &Places, profiles: &[String]) -> Result<Loaded, Report> {
    load_on(places, profiles, jiff::Zoned::now().date())
}

/// The same on a day of your choice, by which removal dates are judged.
pub fn load_on(places: &Places, profiles: &[String], today: Date) -> Result<Loaded, Report> {
    let mut files = files::read(places);
    let mut faults = std::mem::take(&mut files.faults);
    let mut warnings = std::mem::take(&mut files.warnings);
    if files.is_incomplete {
        // What lies in a folder that cannot be read is not missing: one fault, not one for each name in it.
        return Err(Report { faults, warnings });
    }
    let names: Names = files
        .units
        .keys()
        .map(|n| (fold(n.as_str()), n.clone()))
        .collect();
    let runners = runners(&files.sources, files.node.as_ref(), &mut faults);

    let mut defined: BTreeMap<UnitName, Defined> = BTreeMap::new();
    for (name, unit) in &files.units {
        let mut merged = Merged {
            is_partial: unit.is_partial,
            ..Merged::default()
        };
        let mut of = Vec::new();
        if let Some((file, layer)) = &files.node {
            let before = merged.leaves.len();
            merged.lay(layer, "defaults.unit.");
            if merged.leaves.len() > before {
                of.push(*file);
            }
        }
        for (file, layer) in &unit.layers {
            merged.lay(layer, "");
            of.push(*file);
        }
        defined.insert(name.clone(), Defined { files: of, merged });
    }
    let categories = defined
        .iter()
        .map(|(n, d)| (n.clone(), d.merged.category().to_owned()))
        .collect();
    let mut resolver = Resolver {
        sources: &files.sources,
        files: &files.profiles,
        names: &names,
        categories: &categories,
        resolved: BTreeMap::new(),
        faults: Vec::new(),
        warnings: Vec::new(),
    };
    resolver.all();
    let active = active(
        &files.sources,
        files.node.as_ref(),
        &files.profiles,
        profiles,
        &mut faults,
    );
    let overrides = resolver.together(&active);

    let mut check = Check::new(&files.sources, &names, &runners, files.node_is_known(places));
    // A profile that is not active now must be sound when it becomes so.
    for resolved in resolver.resolved.values() {
        for (unit, laid) in &resolved.overrides {
            if let Some(base) = defined.get(unit) {
                let mut merged = base.merged.clone();
                merged.lay_leaves(
                    laid.iter()
                        .map(|(path, o)| (path, &o.leaf))
                        .collect::<Vec<_>>()
                        .into_iter(),
                );
                if let Some(home) = home_of(&files.units, unit) {
                    check.unit(unit, &merged, home);
                }
            }
        }
    }
    lay_overrides(&mut defined, &overrides);
    let mut specs: BTreeMap<UnitName, UnitSpec> = BTreeMap::new();
    for (name, unit) in &defined {
        if let Some(home) = home_of(&files.units, name) {
            specs.insert(name.clone(), check.unit(name, &unit.merged, home));
        }
    }
    faults.append(&mut check.faults);
    warnings.append(&mut check.warnings);
    let resolved = std::mem::take(&mut resolver.resolved);
    faults.append(&mut resolver.faults);
    warnings.append(&mut resolver.warnings);

    live_ends(&files.sources, &names, &defined, &mut specs, &mut faults);
    let units: BTreeMap<UnitName, Arc<UnitSpec>> = specs.into_iter().map(|(n, s)| (n, Arc::new(s))).collect();
    let graph = match Graph::build(units.values()) {
        Ok(graph) => graph,
        Err(cycles) => {
            faults.extend(
                cycles
                    .iter()
                    .map(|c| cycle_fault(&files.sources, &names, &defined, c)),
            );
            Graph::default()
        }
    };

    let mut loaded_profiles = BTreeMap::new();
    for (name, profile) in &files.profiles {
        let Some(resolved) = resolved.get(name) else {
            continue;
        };
        let members = members(&graph, [(name.as_str(), &resolved.listed)].into_iter());
        for (unit, span) in &resolved.excluded {
            if let Some(Membership::AddedBy { unit: by }) = members.get(unit) {
                warnings.push(Diagnostic::warning(
                    files.sources.place(*span),
                    format!("\"{unit}\" is excluded from profile \"{name}\", but \"{by}\" pulls it in all the same"),
                ));
            }
        }
        for unit in resolved
            .overrides
            .keys()
            .filter(|unit| !members.contains_key(*unit) && !graph.is_empty())
        {
            if let Some(laid) = resolved.overrides[unit].values().find(|o| o.profile == *name) {
                warnings.push(Diagnostic::warning(
                    files.sources.place(laid.leaf.key),
                    format!("\"{unit}\" is no member of profile \"{name}\", so this override has no effect"),
                ));
            }
        }
        loaded_profiles.insert(
            name.clone(),
            LoadedProfile {
                description: match profile.layer.leaves.get("description").map(|leaf| &leaf.value) {
                    Some(Typed::Text(text)) => text.clone(),
                    _ => String::new(),
                },
                extends: names_in(&profile.layer, "extends")
                    .into_iter()
                    .filter_map(|(text, _)| profile::find(&files.profiles, text).cloned())
                    .collect(),
                listed: resolved.listed.clone(),
                members,
            },
        );
    }
    let listed = active
        .iter()
        .filter_map(|name| resolved.get(name).map(|r| (name.as_str(), &r.listed)));
    let members = members(&graph, listed);
    conflicts(&files.sources, &names, &defined, &units, &members, &mut faults);
    deprecation_warnings(&files.sources, &defined, &units, &members, today, &mut warnings);
    let orphans = orphans(&units, &loaded_profiles);
    // Without a graph nobody knows who pulls in whom.
    if !graph.is_empty() {
        orphan_warning(&units, &orphans, &mut warnings);
    }

    Diagnostic::sort(&mut faults);
    Diagnostic::sort(&mut warnings);
    if !faults.is_empty() {
        return Err(Report { faults, warnings });
    }
    let node = node_spec(files.node.as_ref().map(|(_, layer)| layer), active);
    let plan = Plan {
        node,
        units,
        members,
        graph: Arc::new(graph),
    };
    Ok(Loaded {
        plan: Arc::new(plan),
        warnings,
        profiles: loaded_profiles,
        orphans,
        names,
        sources: files.sources,
        defined,
    })
}

fn home_of(units: &BTreeMap<UnitName, files::UnitFiles>, name: &UnitName) -> Option<Span> {
    let (file, layer) = units.get(name)?.layers.first()?;
    Some(
        layer
            .tables
            .get("exec")
            .copied()
            .unwrap_or_else(|| files::home(*file)),
    )
}

fn lay_overrides(defined: &mut BTreeMap<UnitName, Defined>, overrides: &Overrides) {
    for (unit, laid) in overrides {
        if let Some(defined) = defined.get_mut(unit) {
            defined.merged.lay_leaves(
                laid.iter()
                    .map(|(path, o)| (path, &o.leaf))
                    .collect::<Vec<_>>()
                    .into_iter(),
            );
            for file in laid.values().map(|o| o.leaf.span.file) {
                if !defined.files.contains(&file) {
                    defined.files.push(file);
                }
            }
        }
    }
}

/// `[runner.X]`.
fn runners(
    sources: &Sources,
    node: Option<&(FileId, Layer)>,
    faults: &mut Vec<Diagnostic>,
) -> BTreeMap<String, (Arc<Runner>, Span)> {
    let mut out = BTreeMap::new();
    let named = node.and_then(|(_, layer)| layer.named.get("runner"));
    let is_partial = node.is_some_and(|(_, layer)| layer.is_partial);
    for (name, (span, layer)) in named.into_iter().flatten() {
        let value = |key: &str| layer.leaves.get(key).map(|leaf| &leaf.value);
        let argv = |key: &str| match value(key) {
            Some(Typed::Argv(argv)) => Some(argv.clone()),
            _ => None,
        };
        let names = |key: &str| match value(key) {
            Some(Typed::Names(names)) => names.clone(),
            _ => Vec::new(),
        };
        if UnitName::new(name).is_none() {
            faults.push(
                Diagnostic::fault(
                    sources.place(*span),
                    format!("\"{name}\" is not the name of a runner"),
                )
                .why(tree::NAME_RULE),
            );
        }
        let place = layer.leaves.get("command").map_or(*span, |leaf| leaf.span);
        if argv("command").is_none() && !is_partial {
            faults.push(
                Diagnostic::fault(sources.place(*span), format!("runner \"{name}\" has no command"))
                    .help("write command = [\"/path/to/program\"]"),
            );
        }
        let runner = Runner {
            command: argv("command").unwrap_or_default(),
            requires_env: names("requires_env"),
            pass_env: names("pass_env"),
            otherwise: argv("otherwise"),
            note: match value("note") {
                Some(Typed::Text(note)) => Some(note.clone()),
                _ => None,
            },
        };
        out.insert(name.clone(), (Arc::new(runner), place));
    }
    out
}

/// The active profiles, by their own names, each once.
fn active(
    sources: &Sources,
    node: Option<&(FileId, Layer)>,
    known: &BTreeMap<String, profile::ProfileFile>,
    given: &[String],
    faults: &mut Vec<Diagnostic>,
) -> Vec<String> {
    let from_file = node
        .map(|(_, layer)| names_in(layer, "profiles"))
        .unwrap_or_default();
    let mut out: Vec<String> = Vec::new();
    let mut one = |text: &str, place: Option<Span>, count: bool| match profile::find(known, text) {
        Some(name) if count && !out.contains(name) => out.push(name.clone()),
        Some(_) => {}
        None => {
            if text == "auto" {
                let what = "profile \"auto\" is not supported yet";
                let fault = match place {
                    Some(span) => Diagnostic::fault(sources.place(span), what),
                    None => Diagnostic::homeless(what),
                };
                faults.push(fault.help("name the profile"));
                return;
            }
            let what = format!("unknown profile \"{text}\"");
            let mut fault = match place {
                Some(span) => Diagnostic::fault(sources.place(span), what),
                None => Diagnostic::homeless(format!("{what}, named on the command line")),
            };
            fault.help = nearest_names(text, known.keys().map(String::as_str));
            faults.push(fault);
        }
    };
    for text in given {
        one(text, None, true);
    }
    for (text, span) in from_file {
        one(text, Some(span), given.is_empty());
    }
    out
}

fn node_spec(layer: Option<&Layer>, profiles: Vec<String>) -> NodeSpec {
    let value = |key: &str| layer.and_then(|l| l.leaves.get(key)).map(|leaf| &leaf.value);
    NodeSpec {
        profiles,
        shutdown_timeout: match value("shutdown_timeout") {
            Some(Typed::Time(time)) => *time,
            _ => limits::SHUTDOWN_TIMEOUT,
        },
        max_starting: match value("max_starting") {
            Some(Typed::Whole(n)) => u32::try_from(*n).ok(),
            _ => None,
        },
    }
}

/// The units of some profiles and all that they pull in. A unit that several list counts for the first.
fn members<'a>(
    graph: &Graph,
    profiles: impl Iterator<Item = (&'a str, &'a BTreeSet<UnitName>)>,
) -> BTreeMap<UnitName, Membership> {
    let mut listed: BTreeMap<Ix, &str> = BTreeMap::new();
    for (profile, units) in profiles {
        for ix in units.iter().filter_map(|unit| graph.find(unit)) {
            listed.entry(ix).or_insert(profile);
        }
    }
    graph
        .closure(listed.keys().copied())
        .into_iter()
        .map(|(ix, by)| {
            let why = match (by, listed.get(&ix)) {
                (Some(by), _) => Membership::AddedBy {
                    unit: graph.name(by).clone(),
                },
                (None, profile) => Membership::Listed {
                    profile: profile.copied().unwrap_or_default().to_owned(),
                },
            };
            (graph.name(ix).clone(), why)
        })
        .collect()
}

/// Where a unit's list names another.
fn item(
    names: &Names,
    defined: &BTreeMap<UnitName, Defined>,
    unit: &UnitName,
    key: &str,
    other: &UnitName,
) -> Option<Span> {
    let leaf = defined.get(unit)?.merged.leaves.get(key)?;
    let Typed::Names(typed) = &leaf.value else {
        return None;
    };
    let at = typed
        .iter()
        .position(|text| names.get(&fold(text)) == Some(other))?;
    leaf.items.get(at).copied()
}

fn cycle_fault(
    sources: &Sources,
    names: &Names,
    defined: &BTreeMap<UnitName, Defined>,
    cycle: &Cycle,
) -> Diagnostic {
    let path: Vec<&str> = cycle
        .edges
        .iter()
        .map(|e| e.waits.as_str())
        .chain(cycle.edges.first().map(|e| e.waits.as_str()))
        .collect();
    let what = format!("units wait for each other in a ring: {}", path.join(" -> "));
    let places: Vec<(Option<Span>, String)> = cycle
        .edges
        .iter()
        .map(|edge| match edge.why {
            Why::Before => (
                item(names, defined, &edge.waits_for, "before", &edge.waits),
                format!("\"{}\" is before \"{}\"", edge.waits_for, edge.waits),
            ),
            why => {
                let text = match why {
                    Why::After => "is after",
                    Why::Wants => "wants",
                    _ => "requires",
                };
                (
                    item(names, defined, &edge.waits, why.key(), &edge.waits_for),
                    format!("\"{}\" {text} \"{}\"", edge.waits, edge.waits_for),
                )
            }
        })
        .collect();
    let first = places.iter().find_map(|(span, _)| *span);
    let mut fault = match first {
        Some(span) => Diagnostic::fault(sources.place(span), what),
        None => Diagnostic::homeless(what),
    };
    for (span, text) in places {
        if let Some(span) = span {
            fault = fault.note(sources.place(span), text);
        }
    }
    fault
        .why("none of them could ever start first")
        .help("take one of these edges out")
}

/// Two members that may never both be up.
fn conflicts(
    sources: &Sources,
    names: &Names,
    defined: &BTreeMap<UnitName, Defined>,
    units: &BTreeMap<UnitName, Arc<UnitSpec>>,
    members: &BTreeMap<UnitName, Membership>,
    faults: &mut Vec<Diagnostic>,
) {
    let by = |unit: &UnitName| match members.get(unit) {
        Some(Membership::Listed { profile }) => format!("\"{unit}\" is listed by profile \"{profile}\""),
        Some(Membership::AddedBy { unit: by }) => format!("\"{unit}\" is added by \"{by}\""),
        None => String::new(),
    };
    for name in members.keys() {
        for other in units
            .get(name)
            .map(|u| u.conflicts.as_slice())
            .unwrap_or_default()
        {
            let is_told = units.get(other).is_some_and(|u| u.conflicts.contains(name)) && other < name;
            if members.contains_key(other)
                && !is_told
                && let Some(span) = item(names, defined, name, "conflicts", other)
            {
                faults.push(
                    Diagnostic::fault(
                        sources.place(span),
                        format!("\"{name}\" conflicts with \"{other}\", and the active profiles have both"),
                    )
                    .why(format!("{}; {}", by(name), by(other))),
                );
            }
        }
    }
}

/// Fills in the live end of each replacement chain; a chain that bites its tail is a fault.
fn live_ends(
    sources: &Sources,
    names: &Names,
    defined: &BTreeMap<UnitName, Defined>,
    specs: &mut BTreeMap<UnitName, UnitSpec>,
    faults: &mut Vec<Diagnostic>,
) {
    let next: BTreeMap<UnitName, Option<UnitName>> = specs
        .iter()
        .filter_map(|(name, spec)| {
            spec.deprecated
                .as_ref()
                .map(|d| (name.clone(), d.replaced_by.clone()))
        })
        .collect();
    let mut told: BTreeSet<UnitName> = BTreeSet::new();
    for start in next.keys() {
        let mut path = vec![start.clone()];
        let mut seen = BTreeSet::from([start.clone()]);
        let mut at = start.clone();
        let live = loop {
            match next.get(&at) {
                None => break Some(at),
                Some(None) => break None,
                Some(Some(to)) => {
                    path.push(to.clone());
                    if !seen.insert(to.clone()) {
                        // Told once, at the smallest name of the ring itself.
                        let ring: Vec<UnitName> = path.iter().skip_while(|n| *n != to).cloned().collect();
                        let first = ring.iter().min().unwrap_or(to).clone();
                        if first == *start && told.insert(first.clone()) {
                            let what: Vec<&str> = path.iter().map(UnitName::as_str).collect();
                            let span = |unit: &UnitName| {
                                Some(
                                    defined
                                        .get(unit)?
                                        .merged
                                        .leaves
                                        .get("deprecated.replaced_by")?
                                        .span,
                                )
                            };
                            let what = format!("units replace each other in a ring: {}", what.join(" -> "));
                            let mut fault = match span(start) {
                                Some(span) => Diagnostic::fault(sources.place(span), what),
                                None => Diagnostic::homeless(what),
                            };
                            for unit in ring.iter().skip(1).filter(|u| *u != start) {
                                if let Some(span) = span(unit) {
                                    fault =
                                        fault.note(sources.place(span), format!("what replaces \"{unit}\""));
                                }
                            }
                            faults.push(fault.help("name a unit that is not deprecated, or none"));
                        }
                        break None;
                    }
                    at = to.clone();
                }
            }
        };
        if let Some(deprecated) = specs.get_mut(start).and_then(|s| s.deprecated.as_mut()) {
            deprecated.live_end = live.filter(|name| names.contains_key(&fold(name.as_str())));
        }
    }
}

fn deprecation_warnings(
    sources: &Sources,
    defined: &BTreeMap<UnitName, Defined>,
    units: &BTreeMap<UnitName, Arc<UnitSpec>>,
    members: &BTreeMap<UnitName, Membership>,
    today: Date,
    warnings: &mut Vec<Diagnostic>,
) {
    for (name, why) in members {
        let Some(deprecated) = units.get(name).and_then(|u| u.deprecated.as_ref()) else {
            continue;
        };
        // The first line of the table, whichever key that is.
        let leaf = defined.get(name).and_then(|d| {
            d.merged
                .below("deprecated.")
                .map(|(_, leaf)| leaf)
                .min_by_key(|leaf| leaf.key)
        });
        let Some(leaf) = leaf else { continue };
        let by = match why {
            Membership::Listed { profile } => format!("listed by profile \"{profile}\""),
            Membership::AddedBy { unit } => format!("added by \"{unit}\""),
        };
        let overdue = deprecated
            .remove_after
            .as_ref()
            .and_then(|day| day.parse::<Date>().ok())
            .filter(|day| *day < today);
        let what = match overdue {
            Some(day) => format!("OVERDUE: \"{name}\" should have gone by {day}, and is still {by}"),
            None => format!("\"{name}\" is deprecated, and {by}"),
        };
        let mut warning =
            Diagnostic::warning(sources.place(leaf.key), what).help(match &deprecated.live_end {
                Some(live) => format!("use \"{live}\" in its place"),
                None => "replacement: none".to_owned(),
            });
        if !deprecated.note.is_empty() {
            warning = warning.why(deprecated.note.clone());
        }
        warnings.push(warning);
    }
}

fn orphans(
    units: &BTreeMap<UnitName, Arc<UnitSpec>>,
    profiles: &BTreeMap<String, LoadedProfile>,
) -> Vec<UnitName> {
    let choosing: Vec<&LoadedProfile> = profiles
        .values()
        .filter(|p| p.listed.len() < units.len())
        .collect();
    if choosing.is_empty() {
        return Vec::new();
    }
    units
        .keys()
        .filter(|name| !choosing.iter().any(|p| p.members.contains_key(*name)))
        .cloned()
        .collect()
}

/// One warning for all of them, since a fleet may keep dozens on purpose. Deprecated units should be in no profile.
fn orphan_warning(
    units: &BTreeMap<UnitName, Arc<UnitSpec>>,
    orphans: &[UnitName],
    warnings: &mut Vec<Diagnostic>,
) {
    let alive: Vec<&str> = orphans
        .iter()
        .filter(|name| units.get(*name).is_some_and(|u| u.deprecated.is_none()))
        .map(UnitName::as_str)
        .collect();
    if alive.is_empty() {
        return;
    }
    let count = if alive.len() == 1 {
        "1 unit is".to_owned()
    } else {
        format!("{} units are", alive.len())
    };
    let mut warning = Diagnostic::homeless(format!("{count} in no profile: {}", alive.join(", ")))
        .help("`ringriftctl profile coverage` tells them by their lifecycle");
    warning.severity = diagnostic::Severity::Warning;
    warnings.push(warning);
}

impl Loaded {
    /// The unit that a person means by `text`: case, `-` and a `.service` ending do not matter.
    pub fn find(&self, text: &str) -> Option<&UnitName> {
        self.names.get(&fold(text))
    }

    /// A unit's files and every setting with its origin, for `show` and `cat`. Values of variables are left out.
    pub fn definition(&self, name: &UnitName) -> Option<Definition> {
        let defined = self.defined.get(name)?;
        let files = defined
            .files
            .iter()
            .map(|id| {
                let source = self.sources.get(*id);
                SourceFile {
                    path: source.shown.clone(),
                    text: source.public_text(SHOWN_TEXT),
                }
            })
            .collect();
        let mut settings = Vec::new();
        let mut shown: BTreeSet<&str> = BTreeSet::new();
        for (path, key) in schema::leaves(schema::UNIT) {
            match defined.merged.leaves.get_key_value(&path) {
                Some((path, leaf)) => {
                    shown.insert(path);
                    settings.push(self.setting(path, leaf));
                }
                None if key.default.is_empty() || matches!(key.kind, schema::Kind::Later) => {}
                None => settings.push(Setting {
                    value: self.default_of(name, &path, key),
                    key: path,
                    origin: "default".to_owned(),
                }),
            }
        }
        let rest = defined
            .merged
            .leaves
            .iter()
            .filter(|(path, _)| !shown.contains(path.as_str()));
        settings.extend(rest.map(|(path, leaf)| self.setting(path, leaf)));
        Some(Definition {
            unit: name.to_string(),
            files,
            settings,
        })
    }

    fn setting(&self, path: &str, leaf: &Leaf) -> Setting {
        let source = self.sources.get(leaf.span.file);
        let raw = source
            .text
            .get(leaf.span.start as usize..leaf.span.end as usize)
            .unwrap_or_default();
        let value = if path.starts_with("exec.env.") {
            "\"…\"".to_owned()
        } else {
            raw.to_owned()
        };
        Setting {
            key: path.to_owned(),
            value,
            origin: self.sources.place(leaf.span).to_string(),
        }
    }

    fn default_of(&self, name: &UnitName, path: &str, key: &schema::Key) -> String {
        let critical = self.plan.units.get(name).is_some_and(|u| u.critical);
        let text = match path {
            "restart.retry_every" => {
                if critical {
                    "30m"
                } else {
                    "4h"
                }
            }
            _ => key.default,
        };
        match key.kind {
            schema::Kind::Line
            | schema::Kind::Word(..)
            | schema::Kind::Time(_)
            | schema::Kind::Size(..)
            | schema::Kind::Template => {
                format!("\"{text}\"")
            }
            _ => text.to_owned(),
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for diagnostic in self.faults.iter().chain(&self.warnings) {
            writeln!(f, "{diagnostic}\n")?;
        }
        write!(f, "{}", verb::summary(self.faults.len(), self.warnings.len()))
    }
}
