//! Files to a [`Plan`], all or nothing, with every fault of every file told at once: the one path that the daemon and
//! `ringriftd check` share. It reads the disk and may take seconds for thousands of units: not on a loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::civil::Date;
use proto::reply::{Definition, Setting, SourceFile};

use crate::breaker::BreakerSpec;
use crate::door::{HttpPlace, HttpSpec};
use crate::engine::types::Plan;
use crate::graph::{Graph, Ix};
use crate::limits;
use crate::places::Places;
use crate::spec::{Membership, NodeSpec, OnEvent, Runner, UnitName, UnitSpec};

use super::across::{conflicts, cycle_fault, deprecation_warnings, live_ends, orphan_warning, orphans};
use super::check::Check;
use super::diagnostic::{Diagnostic, nearest_names};
use super::fileset::FileSet;
use super::merged::{Defined, Merged, Names};
use super::profile::{LoadedProfile, Overrides, Resolver, names_in};
use super::source::{FileId, Sources, Span};
use super::tree::{Layer, Leaf, Typed};
use super::values::fold;
use super::zygote::zygotes;
use super::{breaker, diagnostic, files, hook, profile, schema, tree};

/// How much of a file `cat` shows, in bytes.
const SHOWN_TEXT: usize = 64 * 1024;

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
    files: Arc<FileSet>,
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
    load_from_on(Arc::new(FileSet::read(places)), profiles, today)
}

/// Checks files that were read before, on whichever machine: the same plan and the same words as then. It touches no
/// disk, and may take seconds all the same.
pub fn load_from(files: Arc<FileSet>, profiles: &[String]) -> Result<Loaded, Report> {
    load_from_on(files, profiles, jiff::Zoned::now().date())
}

/// The same on a day of your choice.
pub fn load_from_on(set: Arc<FileSet>, profiles: &[String], today: Date) -> Result<Loaded, Report> {
    let mut files = files::read(&set);
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
    let http = http_spec(&files.sources, files.node.as_ref(), &mut faults);

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

    let mut check = Check::new(&files.sources, &names, &runners, files.node_is_known(&set));
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
    let on_event = hook::on_event(&mut check, files.node.as_ref(), &categories);
    let breaker = breaker::spec(&mut check, files.node.as_ref(), &categories);
    faults.append(&mut check.faults);
    warnings.append(&mut check.warnings);
    let resolved = std::mem::take(&mut resolver.resolved);
    faults.append(&mut resolver.faults);
    warnings.append(&mut resolver.warnings);

    let runner_place = |name: &str| runners.get(name).map(|(_, place)| *place);
    zygotes(&files.sources, &runner_place, &defined, &specs, &mut faults);
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
    let node = node_spec(
        files.node.as_ref().map(|(_, layer)| layer),
        active,
        on_event,
        http,
        breaker,
    );
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
        files: set,
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
            zygote: match value("zygote") {
                Some(Typed::Text(zygote)) => Some(zygote.clone()),
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
            fault.help = nearest_names(text, known.keys().map(String::as_str)).or_else(|| {
                // Mostly it was started in the wrong folder: what was never found can be missed nowhere else.
                known.is_empty().then(|| {
                    "no profile was found at all: --profiles names their folder, --units that of the units".to_owned()
                })
            });
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

fn node_spec(
    layer: Option<&Layer>,
    profiles: Vec<String>,
    on_event: Option<OnEvent>,
    http: HttpSpec,
    breaker: BreakerSpec,
) -> NodeSpec {
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
        on_event,
        http,
        breaker,
        log_total: match value("log.max_total") {
            Some(Typed::Size(bytes)) => Some(*bytes),
            _ => None,
        },
    }
}

/// `[http]`. Where it is wrong, nothing listens, and nothing is loaded.
fn http_spec(sources: &Sources, node: Option<&(FileId, Layer)>, faults: &mut Vec<Diagnostic>) -> HttpSpec {
    let mut spec = HttpSpec::default();
    let Some((_, layer)) = node else { return spec };
    let leaf = |key: &str| layer.leaves.get(&format!("http.{key}"));
    let is_set = |key: &str| matches!(leaf(key).map(|leaf| &leaf.value), Some(Typed::Bool(true)));
    spec.allow_remote = is_set("allow_remote");
    spec.show_logs = is_set("show_logs");
    if let Some(Typed::Names(names)) = leaf("allowed_hosts").map(|leaf| &leaf.value) {
        spec.allowed_hosts.clone_from(names);
    }
    let Some(listen) = leaf("listen") else { return spec };
    let Typed::Text(text) = &listen.value else {
        return spec;
    };
    match HttpPlace::parse(text) {
        Ok(place) => {
            spec.listen = place;
            if let Some(why) = spec.refusal().filter(|_| !layer.is_partial) {
                faults.push(Diagnostic::fault(sources.place(listen.span), why));
                spec.listen = HttpPlace::Off;
            }
        }
        Err(why) => {
            let what = format!(
                "\"{}\" is no place to listen",
                text.chars().take(80).collect::<String>()
            );
            faults.push(Diagnostic::fault(sources.place(listen.span), what).why(why));
        }
    }
    spec
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

impl Loaded {
    /// The files that all this came from.
    pub fn files(&self) -> &Arc<FileSet> {
        &self.files
    }

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
        write!(
            f,
            "{}",
            diagnostic::summary(self.faults.len(), self.warnings.len())
        )
    }
}
