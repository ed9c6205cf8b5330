//! Finds and reads every file of a configuration: `ringriftd.toml`, units with their drop-ins, profiles. Names are
//! checked here; what the files say is for `tree`.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Place, nearest_names};
use super::profile::ProfileFile;
use super::schema::{self, Key};
use super::source::{self, FileId, Folder, Refusal, Sources, Span};
use super::tree::{self, Layer, NAME_RULE};
use super::values::fold;
use crate::places::{Places, SearchDir};
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

/// Reads everything below `places`.
pub fn read(places: &Places) -> Files {
    let mut files = Files::default();
    files.config(places);
    files.units(places);
    files.profiles(places);
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
    pub fn node_is_known(&self, places: &Places) -> bool {
        match &self.node {
            Some((_, layer)) => !layer.is_partial,
            None => places.config.is_none(),
        }
    }

    fn refuse(&mut self, shown: &str, refusal: Refusal) {
        let mut fault = Diagnostic::fault(Place::file(shown), refusal.what);
        fault.why = refusal.why;
        fault.help = refusal.help;
        self.faults.push(fault);
    }

    fn config(&mut self, places: &Places) {
        let Some(path) = &places.config else { return };
        let shown = places.shown(path);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
            self.faults
                .push(Diagnostic::fault(Place::file(shown), "is no file name"));
            return;
        };
        match Folder::open(parent) {
            Ok(folder) => {
                self.judge_folder(places, &folder, places.config_is_chosen);
                let mut loose = Vec::new();
                self.node = self.file(
                    places,
                    &folder,
                    name,
                    &shown,
                    schema::NODE,
                    places.config_is_chosen,
                    &mut loose,
                );
                self.tell_loose(&shown, loose);
            }
            Err(refusal) => self.refuse(&places.shown(parent), refusal),
        }
    }

    /// Opens the folders of one kind. One that a person named must be there.
    fn open(&mut self, places: &Places, dirs: &[SearchDir]) -> Vec<(Folder, bool)> {
        let mut open = Vec::new();
        for dir in dirs {
            let shown = places.shown(&dir.path);
            match Folder::open(&dir.path) {
                Ok(folder) => {
                    for name in &folder.unreadable_names {
                        let place = Place::file(format!("{shown}/{name}"));
                        self.faults
                            .push(Diagnostic::fault(place, "its name is not UTF-8"));
                    }
                    self.judge_folder(places, &folder, dir.is_chosen);
                    open.push((folder, dir.is_chosen));
                }
                Err(refusal) if refusal.is_absent && !dir.is_chosen => {}
                Err(refusal) => {
                    self.is_incomplete = true;
                    self.refuse(&shown, refusal);
                }
            }
        }
        open
    }

    /// security.md S5: who else could change what is in this folder?
    fn judge_folder(&mut self, places: &Places, folder: &Folder, is_chosen: bool) {
        let loose = source::loose_ancestors(&folder.path, places.uid, is_chosen);
        let Some((worst, what)) = loose.iter().next_back() else {
            return;
        };
        let place = Place::file(places.shown(&folder.path));
        let text = if *worst == folder.path {
            format!("this folder {what}")
        } else {
            format!("it lies below {}, which {what}", worst.display())
        };
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
    #[allow(clippy::too_many_arguments, reason = "each is one plain fact of the file")]
    fn file(
        &mut self,
        places: &Places,
        folder: &Folder,
        name: &str,
        shown: &str,
        schema: &'static [Key],
        is_chosen: bool,
        loose: &mut Vec<(String, String)>,
    ) -> Option<(FileId, Layer)> {
        let bytes = match folder.read(name) {
            Ok(bytes) => bytes,
            Err(refusal) => {
                self.refuse(shown, refusal);
                return None;
            }
        };
        if let Some(what) = source::defect(bytes.owner, bytes.mode, places.uid) {
            if is_chosen {
                loose.push((shown.to_owned(), what));
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
        let text = match source::decode(bytes.bytes) {
            Ok(text) => text,
            Err((at, what, lossy)) => {
                let file = self.sources.add(shown.to_owned(), lossy);
                let place = self.sources.get(file).place(at..at + 1);
                self.faults
                    .push(Diagnostic::fault(place, format!("the file {what}")).why("files are UTF-8 text"));
                return None;
            }
        };
        let file = self.sources.add(shown.to_owned(), text);
        let layer = tree::read(&mut self.sources, file, schema, &mut self.faults);
        Some((file, layer))
    }

    /// The files of some folders by their stem, those of fixed places covering later ones.
    fn stems(&mut self, places: &Places, folders: &[(Folder, bool)], what: &str) -> BTreeMap<String, Found> {
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        let mut folded: BTreeMap<String, String> = BTreeMap::new();
        let shown = |folder: &Folder, name: &str| places.shown(&folder.path.join(name));
        for (at, (folder, is_chosen)) in folders.iter().enumerate() {
            for name in &folder.names {
                let Some(stem) = name.strip_suffix(".toml") else {
                    continue;
                };
                let here = Place::file(shown(folder, name));
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
                        let place = Place::file(shown(&folders[other.folder].0, &other.name));
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

    fn units(&mut self, places: &Places) {
        let folders = self.open(places, &places.units);
        let found = self.stems(places, &folders, "unit");
        let mut loose = Vec::new();
        for (stem, at) in &found {
            let (folder, is_chosen) = &folders[at.folder];
            let shown = places.shown(&folder.path.join(&at.name));
            let read = self.file(
                places,
                folder,
                &at.name,
                &shown,
                schema::UNIT,
                *is_chosen,
                &mut loose,
            );
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
        self.drop_ins(places, &folders);
    }

    fn drop_ins(&mut self, places: &Places, folders: &[(Folder, bool)]) {
        let mut loose = Vec::new();
        // By unit, then by the name of the file: an earlier folder's file covers a later one's.
        let mut all: BTreeMap<UnitName, BTreeMap<String, (usize, usize)>> = BTreeMap::new();
        let mut opened: Vec<(Folder, bool)> = Vec::new();
        let names: BTreeMap<String, UnitName> =
            self.units.keys().map(|n| (fold(n.as_str()), n.clone())).collect();
        for (at, (folder, is_chosen)) in folders.iter().enumerate() {
            for name in folder.names.iter().filter(|n| n.ends_with(".d")) {
                let shown = places.shown(&folder.path.join(name));
                let inner = match folder.folder(name) {
                    Ok(Some(inner)) => inner,
                    Ok(None) => continue,
                    Err(refusal) => {
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
                self.judge_folder(places, &inner, *is_chosen);
                opened.push((inner, *is_chosen));
            }
        }
        for (unit, drop_ins) in all {
            for (name, (at, _)) in drop_ins {
                let (folder, is_chosen) = &opened[at];
                let shown = places.shown(&folder.path.join(&name));
                let read = self.file(
                    places,
                    folder,
                    &name,
                    &shown,
                    schema::UNIT,
                    *is_chosen,
                    &mut loose,
                );
                if let Some(files) = self.units.get_mut(&unit) {
                    files.is_partial |= read.is_none();
                    files.layers.extend(read);
                }
            }
        }
        self.tell_loose("the folders of drop-ins", loose);
    }

    fn profiles(&mut self, places: &Places) {
        let folders = self.open(places, &places.profiles);
        let found = self.stems(places, &folders, "profile");
        let mut loose = Vec::new();
        for (stem, at) in found {
            let (folder, is_chosen) = &folders[at.folder];
            let shown = places.shown(&folder.path.join(&at.name));
            let read = self.file(
                places,
                folder,
                &at.name,
                &shown,
                schema::PROFILE,
                *is_chosen,
                &mut loose,
            );
            if let Some((file, layer)) = read {
                self.profiles.insert(stem, ProfileFile { file, layer });
            }
        }
        self.tell_loose("the folders of profiles", loose);
    }
}
