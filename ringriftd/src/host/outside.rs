//! Processes that run outside, for `adopt`: found by pid or by a part of their command line. One picture of /proc; what is
//! ringriftd's own, a unit's, or belongs to whoever asks is never found.
//!
//! Blocking, on /proc alone. Signals nobody: who takes a process over proves it again by pid and start time.
//!
//! Read first: [`find`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use proto::reply::Failure;

use crate::host::usage::stat_fields;
use crate::limits::{OUTSIDE_COMMAND_MAX, OUTSIDE_NAMED, OUTSIDE_PROCESSES_MAX, OUTSIDE_SHOWN};

/// What a process that ringriftd did not start lacks, for whoever adopts one.
pub const LACKS: [&str; 3] = [
    "its output goes where it went before: ringriftd cannot log it",
    "its exit code is known only where the kernel tells a stranger (Linux 6.15)",
    "it has no notify socket and no readiness pipe: it counts as ready at once",
];

/// Which process is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This one.
    Pid(u32),
    /// The only one whose command line, its arguments joined by blanks, contains this.
    Match(String),
}

impl Wanted {
    /// From a request's two fields, of which exactly one is set.
    pub fn new(pid: Option<u32>, pattern: Option<String>) -> Option<Self> {
        match (pid, pattern) {
            (Some(pid), None) => Some(Self::Pid(pid)),
            (None, Some(pattern)) => Some(Self::Match(pattern)),
            (Some(_), Some(_)) | (None, None) => None,
        }
    }
}

/// Whom nobody may adopt.
#[derive(Debug, Clone)]
pub struct Ours {
    /// The keeper: it and everything below it.
    pub keeper: u32,
    /// Main processes of units, which an earlier keeper may have started: they and everything below them.
    pub units: Vec<u32>,
    /// Who asks: it and those above it, whose command lines hold the pattern too.
    pub asker: u32,
}

/// A process outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Its pid.
    pub pid: u32,
    /// Its start time, which with the pid is its identity.
    pub start_time: u64,
    /// Its user.
    pub uid: u32,
    /// Its command line.
    pub command: String,
}

/// Why there is not exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotFound {
    /// No such process.
    Nobody(Wanted),
    /// More than one matches.
    Several(Vec<Outside>),
    /// It is ringriftd, a unit's, or stands above who asks.
    Ours(u32),
    /// It is another user's, and this is not root.
    Foreign(Outside),
    /// There are more processes than are looked at.
    TooMany,
    /// /proc cannot be read.
    Unreadable(String),
}

impl NotFound {
    /// In the words and with the exit code of the command line.
    pub fn failure(self) -> Failure {
        let (code, message, hint, details) = match self {
            Self::Nobody(Wanted::Pid(pid)) => (1, format!("there is no process {pid}"), None, Vec::new()),
            Self::Nobody(Wanted::Match(pattern)) => (
                1,
                format!("no process outside has {pattern:?} in its command line"),
                Some("ps -ef shows them; only this user's are looked at, unless ringriftd is root's"),
                Vec::new(),
            ),
            Self::Several(found) => {
                let mut lines: Vec<String> = found.iter().take(OUTSIDE_NAMED).map(Outside::line).collect();
                if found.len() > OUTSIDE_NAMED {
                    lines.push(format!("and {} more", found.len() - OUTSIDE_NAMED));
                }
                let message = format!("{} processes match, and only one can be adopted", found.len());
                (
                    7,
                    message,
                    Some("name one with --pid, or match more of it"),
                    lines,
                )
            }
            Self::Ours(pid) => (
                7,
                format!("process {pid} is ringriftd's own, a unit's, or started this command"),
                None,
                Vec::new(),
            ),
            Self::Foreign(process) => (
                7,
                format!(
                    "process {} belongs to user {}, whom ringriftd may not signal",
                    process.pid, process.uid
                ),
                Some("run ringriftd as that user, or as root"),
                Vec::new(),
            ),
            Self::TooMany => (
                1,
                format!("more than {OUTSIDE_PROCESSES_MAX} processes run here: too many to look at"),
                Some("name it with --pid"),
                Vec::new(),
            ),
            Self::Unreadable(why) => (1, format!("cannot list the processes: {why}"), None, Vec::new()),
        };
        Failure {
            code,
            message,
            unit: None,
            hint: hint.map(str::to_owned),
            details,
        }
    }
}

impl Outside {
    fn line(&self) -> String {
        let mut shown: String = self.command.chars().take(OUTSIDE_SHOWN).collect();
        if shown.len() < self.command.len() {
            shown.push('…');
        }
        format!("{} (user {}): {shown}", self.pid, self.uid)
    }
}

/// The one process that is wanted.
pub fn find(wanted: &Wanted, ours: &Ours) -> Result<Outside, NotFound> {
    let parents = parents()?;
    let is_ours = |pid: u32| is_ours(pid, ours, &parents);
    let own_uid = nix::unistd::geteuid().as_raw();
    let is_reachable = |process: &Outside| own_uid == 0 || process.uid == own_uid;
    match wanted {
        Wanted::Pid(pid) => {
            if is_ours(*pid) {
                return Err(NotFound::Ours(*pid));
            }
            match process(*pid) {
                Some(found) if is_reachable(&found) => Ok(found),
                Some(found) => Err(NotFound::Foreign(found)),
                None => Err(NotFound::Nobody(wanted.clone())),
            }
        }
        Wanted::Match(pattern) => {
            let mut found: Vec<Outside> = parents
                .keys()
                .filter(|pid| !is_ours(**pid))
                .filter_map(|pid| process(*pid))
                .filter(|process| process.command.contains(pattern.as_str()) && is_reachable(process))
                .collect();
            match (found.pop(), found.is_empty()) {
                (None, _) => Err(NotFound::Nobody(wanted.clone())),
                (Some(one), true) => Ok(one),
                (Some(last), false) => {
                    found.push(last);
                    Err(NotFound::Several(found))
                }
            }
        }
    }
}

/// Every process and its parent, at about the same time.
fn parents() -> Result<BTreeMap<u32, u32>, NotFound> {
    let listed = std::fs::read_dir("/proc").map_err(|e| NotFound::Unreadable(e.to_string()))?;
    let mut parents = BTreeMap::new();
    for entry in listed.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let parent = stat_fields(pid).and_then(|fields| fields.split_whitespace().nth(1)?.parse().ok());
        if let Some(parent) = parent {
            parents.insert(pid, parent);
        }
        if parents.len() > OUTSIDE_PROCESSES_MAX {
            return Err(NotFound::TooMany);
        }
    }
    Ok(parents)
}

fn is_ours(pid: u32, ours: &Ours, parents: &BTreeMap<u32, u32>) -> bool {
    let above = |from: u32| {
        let mut seen = BTreeSet::new();
        let mut at = Some(from);
        // The picture was not taken in one moment: a number that was used again could close a circle.
        while let Some(pid) = at.filter(|pid| *pid != 0 && seen.insert(*pid)) {
            at = parents.get(&pid).copied();
        }
        seen
    };
    let of_process = above(pid);
    pid <= 1
        || of_process.contains(&ours.keeper)
        || ours.units.iter().any(|unit| of_process.contains(unit))
        || above(ours.asker).contains(&pid)
        || above(ours.keeper).contains(&pid)
}

/// One process as it is now. None for one that has ended, and for the kernel's own, which have no command line.
fn process(pid: u32) -> Option<Outside> {
    let start_time = start_time(pid)?;
    let file = std::fs::File::open(format!("/proc/{pid}/cmdline")).ok()?;
    let mut bytes = Vec::new();
    file.take(OUTSIDE_COMMAND_MAX as u64)
        .read_to_end(&mut bytes)
        .ok()?;
    let words: Vec<_> = bytes
        .strip_suffix(b"\0")
        .unwrap_or(&bytes)
        .split(|b| *b == 0)
        .map(String::from_utf8_lossy)
        .collect();
    let command = words.join(" ");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    // All of it was read from one process only if it is still the same.
    (self::start_time(pid)? == start_time && !command.is_empty()).then_some(Outside {
        pid,
        start_time,
        uid,
        command,
    })
}

/// Field 22 of proc_pid_stat(5); None for a zombie too.
fn start_time(pid: u32) -> Option<u64> {
    let fields = stat_fields(pid)?;
    let mut fields = fields.split_whitespace();
    let is_there = !matches!(fields.next()?, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| is_there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::process::{Child, Command, Stdio};

    /// A process whose command line has `mark` in it, and which has begun.
    struct Alive(Child);

    impl Alive {
        fn new(mark: &str) -> Self {
            let mut child = Command::new("/bin/sh")
                .args(["-c", "echo up; read gone; exit 0", mark])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("/bin/sh");
            let mut line = String::new();
            let out = child.stdout.as_mut().expect("piped");
            std::io::BufReader::new(out).read_line(&mut line).expect("a line");
            Self(child)
        }
    }

    impl Drop for Alive {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            let _ = self.0.wait();
        }
    }

    /// Marks differ from test run to test run, which may go on beside each other.
    fn mark(name: &str) -> String {
        format!("ringrift-outside-{name}-{}", std::process::id())
    }

    /// A keeper and a client that are other processes than those looked for.
    fn ours(keeper: u32) -> Ours {
        Ours {
            keeper,
            units: Vec::new(),
            asker: 0,
        }
    }

    #[test]
    fn one_is_found_by_pid_and_by_match() {
        let keeper = Alive::new("keeper");
        let mark = mark("one");
        let alive = Alive::new(&mark);
        let by_match = find(&Wanted::Match(mark.clone()), &ours(keeper.0.id())).expect("one");
        let by_pid = find(&Wanted::Pid(alive.0.id()), &ours(keeper.0.id())).expect("one");
        assert_eq!(by_match, by_pid);
        assert_eq!(by_pid.pid, alive.0.id());
        assert!(
            by_pid.command.starts_with("/bin/sh -c") && by_pid.command.ends_with(&mark),
            "{by_pid:?}"
        );
        assert_eq!(by_pid.uid, nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn two_are_refused_with_both_named() {
        let keeper = Alive::new("keeper");
        let mark = mark("two");
        let pair = [Alive::new(&mark), Alive::new(&mark)];
        let failure = find(&Wanted::Match(mark), &ours(keeper.0.id()))
            .expect_err("two")
            .failure();
        assert_eq!((failure.code, failure.details.len()), (7, 2));
        for one in &pair {
            let pid = one.0.id().to_string();
            assert!(
                failure.details.iter().any(|line| line.starts_with(&pid)),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn nobody_is_found_where_nobody_is() {
        let keeper = Alive::new("keeper");
        let wanted = Wanted::Match(mark("none"));
        let failure = find(&wanted, &ours(keeper.0.id())).expect_err("none").failure();
        assert_eq!(failure.code, 1);
        let gone = {
            let gone = Alive::new("gone");
            gone.0.id()
        };
        let found = find(&Wanted::Pid(gone), &ours(keeper.0.id()));
        assert_eq!(found, Err(NotFound::Nobody(Wanted::Pid(gone))));
    }

    #[test]
    fn nothing_of_ours_is_found() {
        let mark = mark("ours");
        let alive = Alive::new(&mark);
        let (pid, own) = (alive.0.id(), std::process::id());
        // As the keeper's child, as a unit's, and as who asks or started it.
        let below = ours(own);
        let unit = Ours {
            units: vec![pid],
            ..ours(pid)
        };
        let asker = Ours {
            asker: pid,
            ..ours(u32::MAX)
        };
        for ours in [below, unit, asker] {
            assert_eq!(find(&Wanted::Pid(pid), &ours), Err(NotFound::Ours(pid)));
            let wanted = Wanted::Match(mark.clone());
            assert_eq!(find(&wanted, &ours), Err(NotFound::Nobody(wanted.clone())));
        }
        let parent = Ours {
            asker: pid,
            ..ours(u32::MAX)
        };
        assert_eq!(find(&Wanted::Pid(own), &parent), Err(NotFound::Ours(own)));
        assert_eq!(find(&Wanted::Pid(1), &parent), Err(NotFound::Ours(1)));
    }
}
