//! Finds every file of a configuration among those that were read: `ringriftd.toml`, units with their drop-ins,
//! profiles. Names and rights are judged here; what the files say is for `tree`.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Place, nearest_names};
use super::fileset::{Contents, FileSet, SetFolder};
use super::profile::ProfileFile;
use super::schema::{self, Key};
use super::source::{FileId, Refusal, Sources, Span};
use super::tree::{self, Layer, NAME_RULE};
use super::values::fold;
use crate::spec::UnitName;

/// A unit's files, the lowest layer first.
#[derive(Debug, Default)]
pub struct UnitFiles {
    /// The unit file, then its drop-ins in the order of their names.
    pub layers: Vec<(FileId, Layer)>,
    /// One of them could not be read.
    pub is_partial: bool,
}

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Files {
    /// The texts.
    pub sources: Sources,
    /// `ringriftd.toml`.
    pub node: Option<(FileId, Layer)>,
    /// By the stem of their file.
    pub units: BTreeMap<UnitName, UnitFiles>,
    /// By the stem of their file.
    pub profiles: BTreeMap<String, ProfileFile>,
    /// A folder could not be read, so that not all names are known.
    pub is_incomplete: bool,
    /// What was found.
    pub faults: Vec<Diagnostic>,
    /// What was found, less grave.
    pub warnings: Vec<Diagnostic>,
}

/// A file or folder name, where it lies, and whether that place was chosen by a person.
struct Found {
    folder: usize,
    name: String,
}

/// Looks through everything that was read.
pub fn read(set: &FileSet) -> Files {
    let mut files = Files::default();
    files.config(set);
    files.units(set);
    files.profiles(set);
    files
}

/// The whole of a file, for what stands nowhere in it.
pub fn home(file: FileId) -> Span {
    Span {
        file,
        start: 0,
        end: 0,
    }
}

impl Files {
    /// `ringriftd.toml` was read whole, or there is none.
    pub fn node_is_known(&self, set: &FileSet) -> bool {
        match &self.node {
            Some((_, layer)) => !layer.is_partial,
            None => set.config.is_none(),
        }
    }

    fn refuse(&mut self, shown: &str, refusal: &Refusal) {
        let mut fault = Diagnostic::fault(Place::file(shown), &refusal.what);
        fault.why.clone_from(&refusal.why);
        fault.help.clone_from(&refusal.help);
        self.faults.push(fault);
    }

    fn config(&mut self, set: &FileSet) {
        let Some(config) = &set.config else { return };
        let Some(name) = &config.name else {
            self.faults
                .push(Diagnostic::fault(Place::file(&config.shown), "is no file name"));
            return;
        };
        match &config.folder.found {
            Ok(contents) => {
                let is_chosen = config.folder.is_chosen;
                self.judge_folder(contents, is_chosen);
                let mut loose = Vec::new();
                self.node = self.file(contents, name, &config.shown, schema::NODE, is_chosen, &mut loose);
                self.tell_loose(&config.shown, loose);
            }
            Err(refusal) => self.refuse(&config.folder.shown, refusal),
        }
    }

    /// The folders of one kind that could be read. One that a person named must be there.
    fn open<'a>(&mut self, folders: &'a [SetFolder]) -> Vec<(&'a Contents, bool)> {
        let mut open = Vec::new();
        for folder in folders {
            match &folder.found {
                Ok(contents) => {
                    for name in &contents.unreadable_names {
                        let place = Place::file(format!("{}/{name}", folder.shown));
                        self.faults
                            .push(Diagnostic::fault(place, "its name is not UTF-8"));
                    }
                    self.judge_folder(contents, folder.is_chosen);
                    open.push((contents, folder.is_chosen));
                }
                Err(refusal) if refusal.is_absent && !folder.is_chosen => {}
                Err(refusal) => {
                    self.is_incomplete = true;
                    self.refuse(&folder.shown, refusal);
                }
            }
        }
        open
    }

    /// security.md S5: who else could change what is in this folder?
    fn judge_folder(&mut self, folder: &Contents, is_chosen: bool) {
        let Some(text) = &folder.loose else { return };
        let place = Place::file(&folder.shown);
        let why = "whoever can change these files decides what runs";
        if is_chosen {
            self.warn_once(Diagnostic::warning(place, text).why(why));
        } else {
            self.faults.push(
                Diagnostic::fault(place, text)
                    .why(why)
                    .help("give it to the user that runs ringriftd, and chmod go-w"),
            );
        }
    }

    fn warn_once(&mut self, warning: Diagnostic) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// One warning for a folder's loose files.
    fn tell_loose(&mut self, shown: &str, loose: Vec<(String, String)>) {
        let Some((first, what)) = loose.first() else {
            return;
        };
        let more = match loose.len() {
            1 => String::new(),
            n => format!("; so it is with {n} files below {shown}"),
        };
        self.warn_once(
            Diagnostic::warning(Place::file(first), format!("this file {what}{more}"))
                .why("whoever can change these files decides what runs"),
        );
    }

    /// Reads one file into a layer. `None`: it could not be read, and that is told.
    fn file(
        &mut self,
        folder: &Contents,
        name: &str,
        shown: &str,
        schema: &'static [Key],
        is_chosen: bool,
        loose: &mut Vec<(String, String)>,
    ) -> Option<(FileId, Layer)> {
        let read = match folder.files.get(name)? {
            Ok(read) => read,
            Err(refusal) => {
                self.refuse(shown, refusal);
                return None;
            }
        };
        if let Some(what) = &read.defect {
            if is_chosen {
                loose.push((shown.to_owned(), what.clone()));
            } else {
                self.faults.push(
                    Diagnostic::fault(Place::file(shown), format!("this file {what}"))
                        .why("whoever can change these files decides what runs")
                        .help("give it to the user that runs ringriftd, and chmod go-w"),
                );
                // Nothing of a file that somebody else may have written is shown or used.
                return None;
            }
        }
        let text = match &read.text {
            Ok(text) => text,
            Err(no_text) => {
                let file = self.sources.add(shown.to_owned(), no_text.lossy.clone());
                let place = self
                    .sources
                    .get(file)
                    .place(no_text.at..no_text.at.saturating_add(1));
                let what = format!("the file {}", no_text.what);
                self.faults
                    .push(Diagnostic::fault(place, what).why("files are UTF-8 text"));
                return None;
            }
        };
        let file = self.sources.add(shown.to_owned(), text.clone());
        let layer = tree::read(&mut self.sources, file, schema, &mut self.faults);
        Some((file, layer))
    }

    /// The files of some folders by their stem, those of fixed places covering later ones.
    fn stems(&mut self, folders: &[(&Contents, bool)], what: &str) -> BTreeMap<String, Found> {
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        let mut folded: BTreeMap<String, String> = BTreeMap::new();
        for (at, (folder, is_chosen)) in folders.iter().enumerate() {
            for name in &folder.names {
                let Some(stem) = name.strip_suffix(".toml") else {
                    continue;
                };
                let here = Place::file(folder.shown_name(name));
                if stem.contains('@') {
                    self.faults.push(Diagnostic::fault(
                        here,
                        format!("\"{stem}\": templates are not supported yet"),
                    ));
                    continue;
                }
                if UnitName::new(stem).is_none() {
                    let help = UnitName::new(&fold(stem)).map(|n| format!("call it \"{n}.toml\""));
                    let mut fault =
                        Diagnostic::fault(here, format!("\"{stem}\" is not the name of a {what}"))
                            .why(NAME_RULE);
                    fault.help = help;
                    self.faults.push(fault);
                    continue;
                }
                let twin = folded.get(&fold(stem)).cloned();
                match twin {
                    Some(twin) if twin == stem && !is_chosen => {}
                    Some(twin) => {
                        let other = &found[&twin];
                        let place = Place::file(folders[other.folder].0.shown_name(&other.name));
                        let text = if twin == stem {
                            format!("a second {what} \"{stem}\"")
                        } else {
                            format!("the names \"{stem}\" and \"{twin}\" are the same to a person")
                        };
                        self.faults.push(
                            Diagnostic::fault(here, text)
                                .why("where a name is typed, case and \"-\" or \"_\" do not matter, and \".service\" is dropped")
                                .note(place, "here is the other"),
                        );
                    }
                    None => {
                        folded.insert(fold(stem), stem.to_owned());
                        found.insert(
                            stem.to_owned(),
                            Found {
                                folder: at,
                                name: name.clone(),
                            },
                        );
                    }
                }
            }
        }
        found
    }

    fn units(&mut self, set: &FileSet) {
        let folders = self.open(&set.units);
        let found = self.stems(&folders, "unit");
        let mut loose = Vec::new();
        for (stem, at) in &found {
            let (folder, is_chosen) = &folders[at.folder];
            let shown = folder.shown_name(&at.name);
            let read = self.file(folder, &at.name, &shown, schema::UNIT, *is_chosen, &mut loose);
            // A file that could not be read is a fault, so nothing is loaded; its name is known all the same, so
            // that others may name it without a second fault.
            if let Some(name) = UnitName::new(stem) {
                let is_partial = read.is_none();
                self.units.insert(
                    name,
                    UnitFiles {
                        layers: read.into_iter().collect(),
                        is_partial,
                    },
                );
            }
        }
        self.tell_loose("the folders of units", loose);
        self.drop_ins(&folders);
    }

    fn drop_ins(&mut self, folders: &[(&Contents, bool)]) {
        let mut loose = Vec::new();
        // By unit, then by the name of the file: an earlier folder's file covers a later one's.
        let mut all: BTreeMap<UnitName, BTreeMap<String, (usize, usize)>> = BTreeMap::new();
        let mut opened: Vec<(&Contents, bool)> = Vec::new();
        let names: BTreeMap<String, UnitName> =
            self.units.keys().map(|n| (fold(n.as_str()), n.clone())).collect();
        for (at, (folder, is_chosen)) in folders.iter().enumerate() {
            for name in folder.names.iter().filter(|n| n.ends_with(".d")) {
                let shown = folder.shown_name(name);
                let inner = match folder.folders.get(name) {
                    Some(Ok(Some(inner))) => inner,
                    Some(Ok(None)) | None => continue,
                    Some(Err(refusal)) => {
                        self.refuse(&shown, refusal);
                        continue;
                    }
                };
                let stem = name.trim_end_matches(".d");
                let Some(unit) = names.get(&fold(stem)) else {
                    let near = nearest_names(&fold(stem), names.values().map(UnitName::as_str));
                    let mut warning = Diagnostic::warning(
                        Place::file(shown),
                        format!("drop-ins for \"{stem}\", which is no unit"),
                    );
                    warning.help = near;
                    self.warnings.push(warning);
                    continue;
                };
                let mine = all.entry(unit.clone()).or_default();
                for file in inner.names.iter().filter(|n| n.ends_with(".toml")) {
                    mine.entry(file.clone()).or_insert((opened.len(), at));
                }
                self.judge_folder(inner, *is_chosen);
                opened.push((inner, *is_chosen));
            }
        }
        for (unit, drop_ins) in all {
            for (name, (at, _)) in drop_ins {
                let (folder, is_chosen) = &opened[at];
                let shown = folder.shown_name(&name);
                let read = self.file(folder, &name, &shown, schema::UNIT, *is_chosen, &mut loose);
                if let Some(files) = self.units.get_mut(&unit) {
                    files.is_partial |= read.is_none();
                    files.layers.extend(read);
                }
            }
        }
        self.tell_loose("the folders of drop-ins", loose);
    }

    fn profiles(&mut self, set: &FileSet) {
        let folders = self.open(&set.profiles);
        let found = self.stems(&folders, "profile");
        let mut loose = Vec::new();
        for (stem, at) in found {
            let (folder, is_chosen) = &folders[at.folder];
            let shown = folder.shown_name(&at.name);
            let read = self.file(folder, &at.name, &shown, schema::PROFILE, *is_chosen, &mut loose);
            if let Some((file, layer)) = read {
                self.profiles.insert(stem, ProfileFile { file, layer });
            }
        }
        self.tell_loose("the folders of profiles", loose);
    }
}
