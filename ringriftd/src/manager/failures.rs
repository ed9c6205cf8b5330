//! What the manager does about a failure: it books what is known at once, together with the engine's own word for it, and
//! what takes time is asked for behind that: the unit's last words of the logger, who has them only when the pipe is at its
//! end, and whether the program's files are what they were. A manager that dies in between leaves a capsule that lacks
//! something, and the next one asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::capsules::{FileMark, LifeMarks, Noted, Present, changed_files, keys, words};
use super::core::{Inside, Manager};
use crate::clock::Now;
use crate::engine::types::Failure;
use crate::graph::Ix;
use crate::host::crew::Crew;
use crate::ids::{Invocation, LaunchId};
use crate::keeper::wire::{Launch, LogQuery, LogTail};
use crate::limits;
use crate::spec::UnitName;

/// What is under way of it. Not remembered: it is asked for again.
#[derive(Debug)]
pub(super) struct UnderWay {
    /// Questions to the logger.
    words: BTreeMap<u64, (UnitName, u64, Invocation)>,
    /// Failures whose files are being looked at.
    looks: BTreeSet<(UnitName, u64)>,
    /// Who looks at files. A disk that hangs holds them up, and nobody else.
    eyes: Crew,
}

impl Default for UnderWay {
    fn default() -> Self {
        Self {
            words: BTreeMap::new(),
            looks: BTreeSet::new(),
            eyes: Crew::of(limits::EYES_AT_ONCE),
        }
    }
}

/// Files that were looked at, off the loop.
#[derive(Debug)]
pub(super) struct Looked {
    unit: UnitName,
    why: Why,
    files: Vec<FileMark>,
}

/// What they were looked at for.
#[derive(Debug)]
enum Why {
    /// A launch.
    Launch(Invocation),
    /// A failure, and what they were before.
    Failure(u64, Vec<FileMark>),
}

impl Manager {
    /// Books something of a failure, to be kept with the next step.
    pub(super) fn note(&mut self, noted: Noted) {
        self.capsules.apply(noted.clone());
        self.pending.noted.push(noted);
    }

    /// A main process is about to be launched.
    pub(super) fn note_launch(&mut self, launch: LaunchId, request: &Launch) {
        if !launch.is_main() {
            return;
        }
        let invocation = launch.invocation;
        let Some(unit) = self.engine.unit_of(invocation) else {
            return;
        };
        let name = unit.spec.name.clone();
        let Some(life) = unit.state.life() else { return };
        let keys = keys(&life.spec);
        let needs = self.needs(&name);
        let life = Box::new(LifeMarks {
            invocation,
            keys,
            files: Vec::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.boot.clone(),
            needs,
        });
        self.note(Noted::Launched {
            unit: name.clone(),
            life,
        });
        self.look(name, Why::Launch(invocation), files_of(request));
    }

    /// The present lives of those that a unit requires or wants.
    fn needs(&self, unit: &UnitName) -> BTreeMap<UnitName, Invocation> {
        let graph = self.engine.graph();
        let Some(ix) = graph.find(unit) else {
            return BTreeMap::new();
        };
        let edges = graph.edges(ix);
        let life = |ix: &Ix| {
            let unit = self.engine.unit(*ix);
            Some((unit.spec.name.clone(), unit.last_invocation?))
        };
        edges
            .requires
            .iter()
            .chain(&edges.wants)
            .filter_map(life)
            .collect()
    }

    /// A life is over that worked.
    pub(super) fn note_worked(&mut self, unit: UnitName, invocation: Invocation, now: Now) {
        let needs = self.needs(&unit);
        self.note(Noted::Worked {
            unit,
            invocation,
            until_us: now.wall_us,
            needs,
        });
    }

    /// A life is over that failed.
    pub(super) fn note_failure(&mut self, failure: &Failure, now: Now) {
        let Some((_, unit)) = self.engine.find(&failure.unit) else {
            return;
        };
        let spec = std::sync::Arc::clone(&unit.spec);
        let needs = self.needs(&failure.unit);
        let present = Present {
            now,
            boot: &self.boot,
            spec: &spec,
            needs: &needs,
        };
        let capsule = Box::new(self.capsules.capsule(failure, &present));
        self.note(Noted::Failed {
            unit: failure.unit.clone(),
            capsule,
        });
        self.is_capsule_lacking = true;
    }

    /// Asks for what capsules lack: a bounded number at a time, the rest when answers come.
    pub(super) fn complete_capsules(&mut self) {
        if !std::mem::take(&mut self.is_capsule_lacking) {
            return;
        }
        for lack in self.capsules.lacking() {
            let key = (lack.unit.clone(), lack.seq);
            if let Some(files) = lack.files
                && self.under_way.looks.len() < limits::CAPSULES_AT_ONCE
                && self.under_way.looks.insert(key.clone())
            {
                let paths = files.iter().map(|mark| PathBuf::from(&mark.path)).collect();
                self.look(lack.unit.clone(), Why::Failure(lack.seq, files), paths);
            }
            let is_asked = |(unit, seq, _): &(UnitName, u64, Invocation)| (unit, *seq) == (&key.0, key.1);
            if lack.wants_words
                && self.under_way.words.len() < limits::CAPSULES_AT_ONCE
                && !self.under_way.words.values().any(is_asked)
            {
                self.next_nonce += 1;
                let nonce = self.next_nonce;
                let query = LogQuery::LastWords {
                    nonce,
                    unit: lack.unit.to_string(),
                    invocation: lack.invocation.0,
                    lines: limits::CAPSULE_TAIL_LINES,
                };
                if self.is_logger_gone || self.logger.send(&query, Vec::new()).is_err() {
                    // The next logger is asked.
                    continue;
                }
                self.under_way
                    .words
                    .insert(nonce, (lack.unit, lack.seq, lack.invocation));
            }
        }
    }

    /// Nobody answers any more: all is asked for again.
    pub(super) fn ask_again(&mut self) {
        self.under_way.words.clear();
        self.is_capsule_lacking = true;
        self.complete_capsules();
    }

    /// An answer of the logger's, if it is one to this.
    pub(super) fn on_last_words(&mut self, tail: LogTail) -> Option<LogTail> {
        let Some((unit, seq, invocation)) = self.under_way.words.remove(&tail.nonce) else {
            return Some(tail);
        };
        if tail.is_refused {
            // It could not be read, which is not the same as that there is nothing: asked for again with the next that is.
            return None;
        }
        let lines = words(tail.lines, invocation);
        self.note(Noted::LastWords { unit, seq, lines });
        self.keep_noted();
        None
    }

    fn look(&self, unit: UnitName, why: Why, paths: Vec<PathBuf>) {
        let (inside, eyes) = (self.inside.clone(), self.under_way.eyes.clone());
        tokio::spawn(async move {
            let look = move || paths.iter().map(|path| mark(path)).collect();
            // A disk that does not answer says nothing of its files.
            let looked: Result<Vec<FileMark>, _> = eyes.run(limits::PREPARE_TIMEOUT, look).await;
            let files = looked.unwrap_or_default();
            // A manager that is ending no longer listens.
            let _ = inside.send(Inside::Looked(Looked { unit, why, files })).await;
        });
    }

    pub(super) fn on_looked(&mut self, looked: Looked) {
        let Looked { unit, why, files } = looked;
        match why {
            Why::Launch(invocation) => {
                // Not what an argument only looks like: it may be an address with a password in it, and what is noted is stored.
                let files = files.into_iter().filter(|mark| mark.is.is_some()).collect();
                self.note(Noted::Files {
                    unit,
                    invocation,
                    files,
                });
                let now = self.clock.now();
                return self.commit(now);
            }
            Why::Failure(seq, before) => {
                self.under_way.looks.remove(&(unit.clone(), seq));
                let changed = changed_files(&before, &files);
                self.note(Noted::LookedAt { unit, seq, changed });
            }
        }
        self.keep_noted();
    }

    fn keep_noted(&mut self) {
        let now = self.clock.now();
        self.commit(now);
        self.is_capsule_lacking = true;
        self.complete_capsules();
    }
}

/// The program, and what of its arguments names a file: a script is what its interpreter runs.
fn files_of(launch: &Launch) -> Vec<PathBuf> {
    let folder = Path::new(OsStr::from_bytes(&launch.working_dir));
    let arguments = launch
        .argv
        .iter()
        .skip(1)
        .filter(|argument| argument.contains(&b'/'));
    let named = std::iter::once(&launch.program).chain(arguments);
    named
        .take(limits::CAPSULE_FILES_MAX)
        .map(|path| folder.join(OsStr::from_bytes(path)))
        .collect()
}

fn mark(path: &Path) -> FileMark {
    let is = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
    FileMark {
        path: path.to_string_lossy().into_owned(),
        is: is.map(|found| {
            let ns = found
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(found.mtime_nsec());
            (found.dev(), found.ino(), found.size(), ns)
        }),
    }
}
