//! What the kernel counted of a launch: from its cgroup while that is there, else from what wait4(2) said of its main
//! process. Read once, when that has ended.

use std::path::Path;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use proto::reply::Oom;
use serde::{Deserialize, Serialize};

use super::proc::read_kernel;
use crate::limits;
use crate::used::Used;

/// What is known of a launch so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counted {
    /// How often the kernel had killed for want of memory, anywhere, when it began. Absent where it does not say.
    pub oom_kills_before: Option<u64>,
    /// What wait4(2) said of its main process.
    pub by_wait: Option<ByWait>,
    /// What the manager was told.
    pub used: Option<Used>,
}

/// The part of getrusage(2) that is told on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByWait {
    /// User and system time, in µs.
    pub cpu_us: u64,
    /// The largest resident set of one process, in bytes.
    pub max_rss: u64,
}

impl Counted {
    /// Of a launch that begins now. `leaf` is its cgroup.
    pub fn begin(leaf: Option<&Path>, kills: &mut Kills) -> Self {
        // Where its own group counts, nobody else's numbers matter.
        let is_own = leaf.is_some_and(|leaf| leaf.join("memory.events").exists());
        Self {
            oom_kills_before: if is_own {
                None
            } else {
                kills.at_least(Instant::now())
            },
            ..Self::default()
        }
    }

    /// Reads what there is to read, at the end of the main process. `kills` is the machine's count after that, or `None`
    /// where nobody will ask.
    pub fn end(&mut self, leaf: Option<&Path>, kills: impl FnOnce() -> Option<u64>) -> Used {
        let own = leaf.and_then(|leaf| number(&leaf.join("memory.events"), "oom_kill"));
        let of_leaf = |file: &str, key: &str| leaf.and_then(|leaf| number(&leaf.join(file), key));
        let used = Used {
            cpu_us: of_leaf("cpu.stat", "usage_usec").or(self.by_wait.map(|by| by.cpu_us)),
            memory_peak: of_leaf("memory.peak", "").or_else(|| self.peak_by_wait(own_max_rss())),
            oom: match own {
                Some(0) => Oom::No,
                Some(_) => Oom::Yes,
                None => word(self.oom_kills_before, kills()),
            },
        };
        self.used = Some(used);
        used
    }

    /// A child shares the keeper's memory until it executes its program, and the kernel counts that too: a smaller number
    /// says nothing of the program.
    fn peak_by_wait(&self, own: u64) -> Option<u64> {
        self.by_wait.map(|by| by.max_rss).filter(|rss| *rss > own)
    }
}

/// The most memory that this process had, in bytes.
fn own_max_rss() -> u64 {
    let own = getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss());
    u64::try_from(own).unwrap_or(0).saturating_mul(1024)
}

/// What the count of the whole machine says of one launch.
fn word(before: Option<u64>, after: Option<u64>) -> Oom {
    match (before, after) {
        (Some(before), Some(after)) if before == after => Oom::No,
        (_, _) => Oom::Maybe,
    }
}

/// How often the kernel has killed for want of memory since it started (`oom_kill` in /proc/vmstat, Linux 4.13). Each look
/// makes the kernel add up some two hundred numbers over all CPUs, so that many launches share one.
#[derive(Debug, Default)]
pub struct Kills {
    seen: Option<(Instant, Option<u64>)>,
}

impl Kills {
    /// As it is now.
    pub fn now(&mut self) -> Option<u64> {
        let count = number(Path::new("/proc/vmstat"), "oom_kill");
        self.seen = Some((Instant::now(), count));
        count
    }

    /// As it was at most [`limits::OOM_COUNT_AGE`] before `now`: whoever compares it with a later count may take somebody
    /// else's kill for its own, never the other way round.
    pub fn at_least(&mut self, now: Instant) -> Option<u64> {
        match self.seen {
            Some((at, count)) if now.saturating_duration_since(at) <= limits::OOM_COUNT_AGE => count,
            Some(_) | None => self.now(),
        }
    }
}

/// More than /proc/vmstat has, which is the longest, and more than any may have.
const ROOM: usize = 16 * 1024;
const MOST: u64 = 1024 * 1024;

/// The number behind `key` in a file of such lines; without a key, the number that is all of it.
fn number(path: &Path, key: &str) -> Option<u64> {
    let text = String::from_utf8(read_kernel(path, ROOM, MOST).ok()?).ok()?;
    if key.is_empty() {
        return text.trim().parse().ok();
    }
    find(&text, key)
}

fn find(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        folder
    }

    #[test]
    fn its_own_cgroup_says_whether_it_was_killed_for_want_of_memory() {
        for (kills, expected) in [("0", Oom::No), ("2", Oom::Yes)] {
            let events = format!("low 0\noom 3\noom_kill {kills}\noom_group_kill 0\n");
            let folder = leaf(&[
                ("memory.events", &events),
                ("memory.peak", "1048576\n"),
                ("cpu.stat", "usage_usec 1234\nuser_usec 1000\n"),
            ]);
            let mut counted = Counted::begin(Some(folder.path()), &mut Kills::default());
            assert_eq!(counted.oom_kills_before, None, "nobody else's count is asked for");
            counted.by_wait = Some(ByWait {
                cpu_us: 1,
                max_rss: 1,
            });
            let used = counted.end(Some(folder.path()), || None);
            let whole = Used {
                cpu_us: Some(1234),
                memory_peak: Some(1_048_576),
                oom: expected,
            };
            assert_eq!(used, whole);
            assert_eq!(counted.used, Some(whole));
        }
    }

    #[test]
    fn without_a_cgroup_the_machines_count_can_only_say_no() {
        assert_eq!(word(Some(4), Some(4)), Oom::No);
        assert_eq!(word(Some(4), Some(5)), Oom::Maybe);
        assert_eq!(word(None, Some(5)), Oom::Maybe);
        assert_eq!(word(None, None), Oom::Maybe);
    }

    #[test]
    fn launches_that_begin_together_share_a_look_at_the_machines_count() {
        let mut kills = Kills::default();
        let first = kills.now();
        let (at, _) = kills.seen.expect("it has looked");
        kills.seen = Some((at, Some(u64::MAX)));
        assert_eq!(kills.at_least(at + limits::OOM_COUNT_AGE), Some(u64::MAX));
        let later = at + limits::OOM_COUNT_AGE * 2;
        assert!(kills.at_least(later) >= first && kills.seen != Some((at, Some(u64::MAX))));
        assert_eq!(find("oom_kill_x 1\noom_kill 7\n", "oom_kill"), Some(7));
    }

    #[test]
    fn without_a_cgroup_wait_says_what_was_used() {
        let mut counted = Counted {
            by_wait: Some(ByWait {
                cpu_us: 77,
                max_rss: 1 << 40,
            }),
            ..Counted::default()
        };
        let used = counted.end(None, || None);
        assert_eq!((used.cpu_us, used.memory_peak), (Some(77), Some(1 << 40)));
        assert_eq!(counted.peak_by_wait(1 << 40), None, "that is the keeper's own");
    }
}
