//! What is kept of each unit's failures, and of the last life that worked, so that a failure can say what is different
//! since then. Pure data: `failures` fills it, `memory` keeps it.
//!
//! What it compares is names and marks, never values: a definition is kept as one number for each of its keys.
//!
//! Read first: [`Capsules`] and [`Noted`].

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proto::reply::{
    Capsule, Changed, ChangedKind, Exit, FailureKind, LineEnd, LogLine, Oom, Worked as WireWorked,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Now;
use crate::engine::types::Failure;
use crate::ids::{Invocation, invocation_text};
use crate::limits;
use crate::spec::{UnitName, UnitSpec};

/// Of all units.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Capsules {
    units: BTreeMap<UnitName, OfUnit>,
}

/// Of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct OfUnit {
    /// The life that was launched last.
    life: Option<LifeMarks>,
    /// The last one that worked.
    worked: Option<WorkedLife>,
    /// Its last failures, the oldest first.
    kept: Vec<Kept>,
}

/// What a life stood on, at its launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifeMarks {
    /// Which life.
    pub invocation: Invocation,
    /// Each key of its definition, with a digest of its value. Absent: as in a unit of which nothing is said, which is how most
    /// keys are; an older program kept all.
    pub keys: BTreeMap<String, u64>,
    /// The files that its command names.
    pub files: Vec<FileMark>,
    /// ringriftd's version.
    pub version: String,
    /// The boot.
    pub boot: String,
    /// The lives of those that it requires or wants.
    pub needs: BTreeMap<UnitName, Invocation>,
}

/// A life that worked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct WorkedLife {
    life: LifeMarks,
    until_us: u64,
    /// The lives of those that it needed, when it ended.
    needs: BTreeMap<UnitName, Invocation>,
}

/// A file, so that another one in its place is known for another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    /// Where.
    pub path: String,
    /// Device, inode, size, and time of change in ns; absent: nothing is there.
    pub is: Option<(u64, u64, u64, i64)>,
}

/// One failure as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    invocation: Invocation,
    seq: u64,
    at_us: u64,
    kind: FailureKind,
    text: String,
    exit: Option<Exit>,
    oom: Oom,
    lived_ms: Option<u64>,
    ready_ms: Option<u64>,
    cpu_us: Option<u64>,
    memory_peak: Option<u64>,
    digest: String,
    worked: Option<(Invocation, u64)>,
    changed: Vec<Changed>,
    /// Files that have to be looked at still, as they were when it last worked.
    files: Option<Vec<FileMark>>,
    /// Its last lines; absent: not asked for with success yet.
    tail: Option<Vec<KeptLine>>,
}

/// A line, each byte as the character of that number: a list of numbers would be four times as long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptLine {
    at_us: u64,
    bytes: String,
    end: LineEnd,
}

/// Something new about failures, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Noted {
    /// A main process is about to be launched.
    Launched {
        /// Whose.
        unit: UnitName,
        /// What it stands on.
        life: Box<LifeMarks>,
    },
    /// The files of its command were looked at.
    Files {
        /// Whose.
        unit: UnitName,
        /// Which life.
        invocation: Invocation,
        /// The files.
        files: Vec<FileMark>,
    },
    /// A life ended that had been ready for long enough.
    Worked {
        /// Whose.
        unit: UnitName,
        /// Which.
        invocation: Invocation,
        /// When it ended.
        until_us: u64,
        /// The lives of those that it needs.
        needs: BTreeMap<UnitName, Invocation>,
    },
    /// A life failed.
    Failed {
        /// Whose.
        unit: UnitName,
        /// How.
        capsule: Box<NewCapsule>,
    },
    /// Its files were looked at again.
    LookedAt {
        /// Whose.
        unit: UnitName,
        /// Which failure.
        seq: u64,
        /// Those that are not what they were.
        changed: Vec<String>,
    },
    /// Its last words were read.
    LastWords {
        /// Whose.
        unit: UnitName,
        /// Which failure.
        seq: u64,
        /// The lines.
        lines: Vec<WordsLine>,
    },
}

/// A failure that is not booked yet. Opaque: made by [`Capsules::capsule`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NewCapsule(Kept);

/// A line of last words. Opaque: made by [`words`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WordsLine(KeptLine);

/// A capsule that lacks something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// Whose.
    pub unit: UnitName,
    /// Which failure.
    pub seq: u64,
    /// Which life.
    pub invocation: Invocation,
    /// Its last words are wanted.
    pub wants_words: bool,
    /// These files are to be compared with what is there now.
    pub files: Option<Vec<FileMark>>,
}

/// What of the node is compared.
#[derive(Debug, Clone, Copy)]
pub struct Present<'a> {
    /// Both clocks.
    pub now: Now,
    /// This boot.
    pub boot: &'a str,
    /// The unit's definition as it is now, for a life that came to no launch.
    pub spec: &'a UnitSpec,
    /// The present lives of those that the unit needs.
    pub needs: &'a BTreeMap<UnitName, Invocation>,
}

impl Capsules {
    /// Books what is new.
    pub fn apply(&mut self, noted: Noted) {
        match noted {
            Noted::Launched { unit, life } => self.units.entry(unit).or_default().life = Some(*life),
            Noted::Files {
                unit,
                invocation,
                files,
            } => {
                let Some(of) = self.units.get_mut(&unit) else {
                    return;
                };
                // A look may take longer than a short life: then that is among those that worked, perhaps.
                let worked = of.worked.as_mut().map(|worked| &mut worked.life);
                let lives = of.life.as_mut().into_iter().chain(worked);
                for life in lives.filter(|life| life.invocation == invocation) {
                    life.files.clone_from(&files);
                }
            }
            Noted::Worked {
                unit,
                invocation,
                until_us,
                needs,
            } => {
                let of = self.units.entry(unit).or_default();
                if let Some(life) = of.life.as_ref().filter(|life| life.invocation == invocation) {
                    of.worked = Some(WorkedLife {
                        life: life.clone(),
                        until_us,
                        needs,
                    });
                }
            }
            Noted::Failed { unit, capsule } => {
                let kept = &mut self.units.entry(unit).or_default().kept;
                // Told again after a crash of all of ringriftd, from a state that was a moment behind.
                kept.retain(|known| known.seq != capsule.0.seq);
                kept.push(capsule.0);
                let excess = kept.len().saturating_sub(limits::CAPSULES_KEPT);
                kept.drain(..excess);
            }
            Noted::LookedAt { unit, seq, changed } => {
                if let Some(kept) = self.find_mut(&unit, seq) {
                    kept.files = None;
                    kept.changed.extend(changed.into_iter().map(|path| Changed {
                        kind: ChangedKind::Program,
                        text: path,
                    }));
                    kept.changed.sort_by_key(|changed| changed.kind);
                }
            }
            Noted::LastWords { unit, seq, lines } => {
                if let Some(kept) = self.find_mut(&unit, seq) {
                    kept.tail = Some(lines.into_iter().map(|line| line.0).collect());
                }
            }
        }
    }

    fn find_mut(&mut self, unit: &UnitName, seq: u64) -> Option<&mut Kept> {
        let kept = &mut self.units.get_mut(unit)?.kept;
        kept.iter_mut().find(|kept| kept.seq == seq)
    }

    /// Only of these units.
    pub fn retain(&mut self, is_known: impl Fn(&UnitName) -> bool) {
        self.units.retain(|unit, _| is_known(unit));
    }

    /// A failure, with what is different since the unit last worked.
    pub fn capsule(&self, failure: &Failure, present: &Present<'_>) -> NewCapsule {
        let of = self.units.get(&failure.unit);
        let worked = of.and_then(|of| of.worked.as_ref());
        let ms = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let mut text = failure.text.clone();
        cut(&mut text, limits::CAPSULE_TEXT_MAX);
        let of_this = of.and_then(|of| of.life.as_ref());
        let of_this = of_this.filter(|life| life.invocation == failure.invocation);
        NewCapsule(Kept {
            invocation: failure.invocation,
            seq: failure.seq,
            at_us: present.now.wall_of(failure.at),
            kind: failure.kind,
            text,
            exit: failure.exit,
            oom: failure.oom,
            lived_ms: failure.lived.map(ms),
            ready_ms: failure.ready.map(ms),
            cpu_us: failure.used.cpu_us,
            memory_peak: failure.used.memory_peak,
            digest: failure.digest.clone(),
            worked: worked.map(|worked| (worked.life.invocation, worked.until_us)),
            changed: worked
                .map(|worked| changes(worked, of_this, failure, present))
                .unwrap_or_default(),
            files: worked.map(|worked| worked.life.files.clone()),
            tail: None,
        })
    }

    /// A unit's failures for the wire, the oldest first.
    pub fn of(&self, unit: &UnitName, seed: u64) -> Vec<Capsule> {
        let kept = self.units.get(unit).map(|of| of.kept.as_slice());
        kept.unwrap_or_default()
            .iter()
            .map(|kept| wire(unit, kept, seed))
            .collect()
    }

    /// The failure of a unit that this event told of.
    pub fn find(&self, unit: &UnitName, seq: u64, seed: u64) -> Option<Capsule> {
        let kept = self.units.get(unit)?.kept.iter().find(|kept| kept.seq == seq)?;
        Some(wire(unit, kept, seed))
    }

    /// Capsules that lack something.
    pub fn lacking(&self) -> Vec<Lack> {
        let lack = |unit: &UnitName, kept: &Kept| Lack {
            unit: unit.clone(),
            seq: kept.seq,
            invocation: kept.invocation,
            wants_words: kept.tail.is_none(),
            files: kept.files.clone(),
        };
        let all = self
            .units
            .iter()
            .flat_map(|(unit, of)| of.kept.iter().map(move |kept| (unit, kept)));
        all.filter(|(_, kept)| kept.tail.is_none() || kept.files.is_some())
            .map(|(unit, kept)| lack(unit, kept))
            .collect()
    }
}

/// What is different between a life that worked and one that failed, as far as memory alone can tell.
fn changes(
    worked: &WorkedLife,
    of_this: Option<&LifeMarks>,
    failure: &Failure,
    present: &Present<'_>,
) -> Vec<Changed> {
    let mut changed = Vec::new();
    let mut say = |kind, text: String| changed.push(Changed { kind, text });
    let is_this = worked.life.invocation == failure.invocation;
    if !is_this {
        let own;
        let keys = match of_this {
            Some(life) => &life.keys,
            None => {
                own = keys(present.spec);
                &own
            }
        };
        let differing = differing(&worked.life.keys, keys);
        if !differing.is_empty() {
            say(ChangedKind::Definition, differing.join(", "));
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    if worked.life.version != version {
        say(
            ChangedKind::Ringriftd,
            format!("{} then, {version} now", worked.life.version),
        );
    }
    if worked.life.boot != present.boot {
        say(ChangedKind::Boot, "the machine was started anew".to_owned());
    }
    // One that works goes on while those that it needs are started again; then it counts what it began with.
    let before = if is_this {
        &worked.life.needs
    } else {
        &worked.needs
    };
    let restarted: Vec<&str> = present
        .needs
        .iter()
        .filter(|(unit, life)| before.get(*unit).is_some_and(|known| known != *life))
        .map(|(unit, _)| unit.as_str())
        .collect();
    if !restarted.is_empty() {
        say(ChangedKind::Dependency, restarted.join(", "));
    }
    changed.sort_by_key(|changed| changed.kind);
    changed
}

fn wire(unit: &UnitName, kept: &Kept, seed: u64) -> Capsule {
    let line = |line: &KeptLine| LogLine {
        at_us: line.at_us,
        unit: unit.to_string(),
        invocation: kept.invocation.0,
        message: bytes_of(&line.bytes),
        end: line.end,
        severity: None,
        stream: None,
    };
    Capsule {
        seq: kept.seq,
        at_us: kept.at_us,
        invocation: invocation_text(seed, kept.invocation),
        kind: kept.kind,
        text: kept.text.clone(),
        exit: kept.exit,
        oom: kept.oom,
        lived_ms: kept.lived_ms,
        ready_ms: kept.ready_ms,
        cpu_us: kept.cpu_us,
        memory_peak: kept.memory_peak,
        tail: kept.tail.iter().flatten().map(line).collect(),
        is_tail_known: kept.tail.is_some(),
        digest: kept.digest.clone(),
        worked: kept.worked.map(|(invocation, until_us)| WireWorked {
            invocation: invocation_text(seed, invocation),
            until_us,
            is_this: invocation == kept.invocation,
        }),
        changed: kept.changed.clone(),
    }
}

/// The last of these lines that are of this life, as many as are kept.
pub fn words(lines: Vec<LogLine>, invocation: Invocation) -> Vec<WordsLine> {
    let mut room = limits::CAPSULE_TAIL_BYTES;
    let mut kept = Vec::new();
    let of_it = lines.into_iter().filter(|line| line.invocation == invocation.0);
    for line in of_it.collect::<Vec<_>>().into_iter().rev() {
        if kept.len() == limits::CAPSULE_TAIL_LINES as usize || line.message.len() > room {
            break;
        }
        room -= line.message.len();
        kept.push(WordsLine(KeptLine {
            at_us: line.at_us,
            bytes: line.message.iter().copied().map(char::from).collect(),
            end: line.end,
        }));
    }
    kept.reverse();
    kept
}

fn bytes_of(text: &str) -> Vec<u8> {
    // Nothing else was written there.
    text.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect()
}

fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let mut end = most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}

/// Files that are not what they were, by their paths.
pub fn changed_files(before: &[FileMark], now: &[FileMark]) -> Vec<String> {
    let find = |path: &str| now.iter().find(|mark| mark.path == path);
    before
        .iter()
        .filter(|mark| find(&mark.path).is_some_and(|now| now.is != mark.is))
        .map(|mark| mark.path.clone())
        .collect()
}

/// The keys of a definition, as its file names them, whose values are not those of a unit of which nothing is said; with a digest
/// of each. A variable of the environment is a key.
pub fn keys(spec: &UnitSpec) -> BTreeMap<String, u64> {
    let mut keys = all_keys(spec);
    keys.retain(|key, digest| plain().get(key) != Some(digest));
    keys
}

/// Every key of a unit of which nothing is said.
fn plain() -> &'static BTreeMap<String, u64> {
    static PLAIN: LazyLock<BTreeMap<String, u64>> = LazyLock::new(|| {
        let spec = crate::config::plain_unit();
        spec.map(|spec| all_keys(&spec)).unwrap_or_default()
    });
    &PLAIN
}

fn all_keys(spec: &UnitSpec) -> BTreeMap<String, u64> {
    let mut keys = BTreeMap::new();
    // A definition is plain data: it can always be written.
    if let Ok(Value::Object(all)) = serde_json::to_value(spec) {
        for (key, value) in &all {
            match key.as_str() {
                "name" | "digest" => {}
                _ => add(&mut keys, key, value),
            }
        }
    }
    keys
}

fn add(keys: &mut BTreeMap<String, u64>, key: &str, value: &Value) {
    match value {
        // A command is one thing, however it is written.
        Value::Object(inner)
            if !matches!(key, "exec.command" | "ready_probe" | "health.probe") && !is_duration(value) =>
        {
            for (name, value) in inner {
                add(keys, &format!("{key}.{name}"), value);
            }
        }
        _ => {
            let digest = crate::config::digest(value.to_string().as_bytes());
            keys.insert(as_written(key), digest);
        }
    }
}

/// serde writes a `Duration` as a table.
fn is_duration(value: &Value) -> bool {
    value.get("secs").is_some() && value.get("nanos").is_some()
}

/// The key's name in the files, where the program has another one.
fn as_written(key: &str) -> String {
    let written = match key {
        "ready_timeout" => "ready.timeout",
        "ready_probe" => "ready.probe",
        "health_interval" => "health.interval",
        "restart.factor_milli" => "restart.factor",
        "restart.jitter_milli" => "restart.jitter",
        other => match other.strip_prefix("on_dependency_of.") {
            Some(rest) => return format!("on_dependency.{rest}"),
            None => other,
        },
    };
    written.to_owned()
}

/// Keys that have another value, or only one of the two has.
fn differing(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> Vec<String> {
    let value = |of: &BTreeMap<String, u64>, key: &str| of.get(key).or_else(|| plain().get(key)).copied();
    let mut names: Vec<String> = before
        .keys()
        .chain(now.keys())
        .filter(|key| value(before, key) != value(now, key))
        .cloned()
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> UnitName {
        UnitName::new("a").expect("a name")
    }

    fn launched(invocation: u64) -> Noted {
        Noted::Launched {
            unit: unit(),
            life: Box::new(LifeMarks {
                invocation: Invocation(invocation),
                keys: BTreeMap::new(),
                files: Vec::new(),
                version: String::new(),
                boot: String::new(),
                needs: BTreeMap::new(),
            }),
        }
    }

    #[test]
    fn only_what_a_unit_says_is_kept_and_a_whole_list_of_an_older_program_is_understood() {
        let plain = crate::config::plain_unit().expect("it can be had");
        assert_eq!(keys(&plain), BTreeMap::new());
        let mut spec = UnitSpec::clone(&plain);
        spec.exec
            .env
            .insert("A".into(), crate::spec::Template(Vec::new()));
        spec.ready_timeout += std::time::Duration::from_secs(1);
        let said = keys(&spec);
        let names: Vec<&str> = said.keys().map(String::as_str).collect();
        assert_eq!(names, ["exec.env.A", "ready.timeout"]);
        for (before, now) in [
            (all_keys(&spec), all_keys(&spec)),
            (said.clone(), all_keys(&spec)),
        ] {
            assert_eq!(differing(&before, &now), [""; 0], "written so or so");
            assert_eq!(differing(&now, &before), [""; 0], "written so or so");
        }
        for (one, other) in [
            (&said, &keys(&plain)),
            (&all_keys(&spec), &keys(&plain)),
            (&said, &all_keys(&plain)),
        ] {
            assert_eq!(differing(one, other), ["exec.env.A", "ready.timeout"]);
            assert_eq!(differing(other, one), ["exec.env.A", "ready.timeout"]);
        }
    }

    #[test]
    fn files_that_are_seen_when_their_life_is_over_still_count_for_it() {
        let mark = FileMark {
            path: "/x".to_owned(),
            is: Some((1, 2, 3, 4)),
        };
        let mut all = Capsules::default();
        all.apply(launched(1));
        all.apply(Noted::Worked {
            unit: unit(),
            invocation: Invocation(1),
            until_us: 5,
            needs: BTreeMap::new(),
        });
        all.apply(launched(2));
        all.apply(Noted::Files {
            unit: unit(),
            invocation: Invocation(1),
            files: vec![mark.clone()],
        });
        let of = &all.units[&unit()];
        let worked = of.worked.as_ref().expect("one worked");
        assert_eq!(worked.life.files, [mark]);
        assert_eq!(of.life.as_ref().expect("one lives").files, []);
    }
}
