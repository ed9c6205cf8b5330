//! Every file of a configuration as it was read at one moment, with what was found about it: all that a load depends
//! on but for the profiles of the command line and the day. It can be kept as JSON and loaded again years later, on a
//! machine without any of these files, to the same plan and the same words.
//!
//! It knows folders and names, and nothing of what the files say. Read first: [`FileSet`] and [`FileSet::read`].

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::source::{self, Folder, Refusal};
use crate::limits::FILE_SET_MAX;
use crate::places::{Places, SearchDir};
use crate::spec::UnitName;

/// The files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileSet {
    /// `ringriftd.toml`; absent: there is none.
    pub config: Option<ConfigFile>,
    /// Folders of units, in the order of the search.
    pub units: Vec<SetFolder>,
    /// Folders of profiles, likewise.
    pub profiles: Vec<SetFolder>,
}

/// `ringriftd.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// As people call it.
    pub shown: String,
    /// Its name in its folder; absent when the path names no file.
    pub name: Option<String>,
    /// Where it lies, with no other file than itself.
    pub folder: SetFolder,
}

/// A folder that was searched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetFolder {
    /// As people call it.
    pub shown: String,
    /// A person named it: it must exist, and loose permissions are warned of.
    pub is_chosen: bool,
    /// What is in it.
    pub found: Result<Contents, Refusal>,
}

/// What was in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Contents {
    /// As people call it, by its real path.
    pub shown: String,
    /// What stands before the name of a file in it.
    pub prefix: String,
    /// Names that end in `.toml` or `.d`, sorted.
    pub names: Vec<String>,
    /// Names that are not UTF-8, as far as they can be shown.
    pub unreadable_names: Vec<String>,
    /// Who else could change what is in it.
    pub loose: Option<String>,
    /// The files that may count, by name.
    pub files: BTreeMap<String, Result<SetFile, Refusal>>,
    /// What has a name that ends in `.d`, by name; `None` is no folder.
    pub folders: BTreeMap<String, Result<Option<Contents>, Refusal>>,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetFile {
    /// Who else could change it.
    pub defect: Option<String>,
    /// What it says.
    pub text: Result<String, NoText>,
}

/// Bytes that are no text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoText {
    /// The first byte that cannot stay.
    pub at: usize,
    /// What it is.
    pub what: String,
    /// The bytes, as far as they can be shown.
    pub lossy: String,
}

/// Which files of a folder may count.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// This one.
    One(Option<&'a str>),
    /// Those named like a unit or a profile, and what lies in folders of drop-ins.
    Named,
    /// All of a folder of drop-ins.
    DropIns,
}

impl FileSet {
    /// Reads everything below `places`, each file whole and at one moment.
    pub fn read(places: &Places) -> Self {
        let mut reader = Reader {
            places,
            left: FILE_SET_MAX,
        };
        Self {
            config: reader.config(),
            units: reader.search(&places.units),
            profiles: reader.search(&places.profiles),
        }
    }
}

impl Contents {
    /// A file or folder in it, as people call it.
    pub fn shown_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

struct Reader<'a> {
    places: &'a Places,
    /// Bytes that may still be read.
    left: usize,
}

impl Reader<'_> {
    fn config(&mut self) -> Option<ConfigFile> {
        let path = self.places.config.as_ref()?;
        let parent = path.parent().filter(|_| path.file_name().is_some());
        let name = path.file_name().and_then(|name| name.to_str());
        Some(ConfigFile {
            shown: self.places.shown(path),
            name: name.map(str::to_owned),
            folder: self.folder(
                parent.unwrap_or(path),
                self.places.config_is_chosen,
                Wanted::One(name),
            ),
        })
    }

    fn search(&mut self, dirs: &[SearchDir]) -> Vec<SetFolder> {
        dirs.iter()
            .map(|dir| self.folder(&dir.path, dir.is_chosen, Wanted::Named))
            .collect()
    }

    fn folder(&mut self, path: &Path, is_chosen: bool, wanted: Wanted<'_>) -> SetFolder {
        SetFolder {
            shown: self.places.shown(path),
            is_chosen,
            found: Folder::open(path).map(|folder| self.contents(&folder, is_chosen, wanted)),
        }
    }

    fn contents(&mut self, folder: &Folder, is_chosen: bool, wanted: Wanted<'_>) -> Contents {
        let inside = self.places.shown(&folder.path.join("x"));
        let mut contents = Contents {
            shown: self.places.shown(&folder.path),
            prefix: inside.strip_suffix('x').unwrap_or_default().to_owned(),
            loose: self.loose(folder, is_chosen),
            ..Contents::default()
        };
        if let Wanted::One(name) = wanted {
            if let Some(name) = name {
                contents.files.insert(name.to_owned(), self.file(folder, name));
            }
            return contents;
        }
        contents.unreadable_names = folder.unreadable_names.clone();
        for name in &folder.names {
            if let Some(stem) = name.strip_suffix(".toml") {
                contents.names.push(name.clone());
                if matches!(wanted, Wanted::DropIns) || UnitName::new(stem).is_some() {
                    contents.files.insert(name.clone(), self.file(folder, name));
                }
            } else if name.ends_with(".d") && matches!(wanted, Wanted::Named) {
                contents.names.push(name.clone());
                let inner = folder
                    .folder(name)
                    .map(|inner| inner.map(|inner| self.contents(&inner, is_chosen, Wanted::DropIns)));
                contents.folders.insert(name.clone(), inner);
            }
        }
        contents
    }

    /// security.md S5: who else could change what is in this folder?
    fn loose(&self, folder: &Folder, is_chosen: bool) -> Option<String> {
        let loose = source::loose_ancestors(&folder.path, self.places.uid, is_chosen);
        let (worst, what) = loose.iter().next_back()?;
        Some(if *worst == folder.path {
            format!("this folder {what}")
        } else {
            format!("it lies below {}, which {what}", worst.display())
        })
    }

    fn file(&mut self, folder: &Folder, name: &str) -> Result<SetFile, Refusal> {
        let read = folder.read(name)?;
        match self.left.checked_sub(read.bytes.len()) {
            Some(left) => self.left = left,
            None => return Err(source::too_much()),
        }
        Ok(SetFile {
            defect: source::defect(read.owner, read.mode, self.places.uid),
            text: source::decode(read.bytes).map_err(|(at, what, lossy)| NoText {
                at,
                what: what.to_owned(),
                lossy,
            }),
        })
    }
}
