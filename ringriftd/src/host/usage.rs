//! What a unit's processes use: CPU time and resident memory, from its cgroup or, without one, from the main process
//! and its descendants. Blocking, but only on /proc and the cgroup's files; it makes no processes and takes no locks.

use std::collections::BTreeSet;
use std::path::Path;

use crate::limits::USAGE_PROCESSES_MAX;

/// What a unit uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time since its launch, in µs: all its processes where there is a cgroup, else those that live and those
    /// that they have waited for.
    pub cpu_us: u64,
    /// Resident memory now, in bytes; pages shared between its processes count for each.
    pub memory_bytes: u64,
}

/// What the unit with this main process uses, or `None` when nothing of it is to be seen any more. `cgroup_leaf` is
/// the folder of its cgroup.
pub fn usage(main_pid: u32, cgroup_leaf: Option<&Path>) -> Option<Usage> {
    let of_leaf = cgroup_leaf.and_then(|leaf| {
        let cpu_us = cpu_of_leaf(leaf)?;
        let procs = std::fs::read_to_string(leaf.join("cgroup.procs")).ok()?;
        let pids = procs.lines().filter_map(|line| line.parse().ok());
        let memory_bytes = pids.take(USAGE_PROCESSES_MAX).filter_map(resident).sum();
        Some(Usage { cpu_us, memory_bytes })
    });
    of_leaf.or_else(|| of_descendants(main_pid))
}

fn cpu_of_leaf(leaf: &Path) -> Option<u64> {
    let stat = std::fs::read_to_string(leaf.join("cpu.stat")).ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?
        .trim()
        .parse()
        .ok()
}

fn of_descendants(main_pid: u32) -> Option<Usage> {
    let mut total = cpu_of_process(main_pid).map(|cpu_us| Usage {
        cpu_us,
        memory_bytes: resident(main_pid).unwrap_or(0),
    })?;
    let mut seen = BTreeSet::from([main_pid]);
    let mut open = vec![main_pid];
    while let Some(pid) = open.pop() {
        for child in children(pid) {
            if seen.len() < USAGE_PROCESSES_MAX && seen.insert(child) {
                total.cpu_us += cpu_of_process(child).unwrap_or(0);
                total.memory_bytes += resident(child).unwrap_or(0);
                open.push(child);
            }
        }
    }
    Some(total)
}

/// Its children, by way of each of its threads (proc_pid_task(5); a kernel without that file shows none).
fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let lists = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// User and system time of a process and of the children that it has waited for, in µs (proc_pid_stat(5), fields 14
/// to 17).
fn cpu_of_process(pid: u32) -> Option<u64> {
    let ticks: u64 = stat_fields(pid)?
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse::<u64>().unwrap_or(0))
        .sum();
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Some(ticks.saturating_mul(1_000_000) / u64::try_from(per_second).ok()?.max(1))
}

fn resident(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages.saturating_mul(u64::try_from(page).ok()?))
}

/// `/proc/PID/stat` from its third field on. The second is the program's name in parentheses, which may hold anything,
/// parentheses too: so the last one ends it.
pub(crate) fn stat_fields(pid: u32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.rsplit_once(") ")?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_uses_memory() {
        let used = usage(std::process::id(), None).expect("this process lives");
        assert!(used.memory_bytes > 64 * 1024, "{used:?}");
    }

    #[test]
    fn nothing_is_said_of_a_process_that_is_gone() {
        let mut child = std::process::Command::new("/bin/true")
            .spawn()
            .expect("/bin/true");
        child.wait().expect("it ends");
        assert_eq!(usage(child.id(), None), None);
    }

    #[test]
    fn leaf_counts_its_processes_and_its_own_clock() {
        let leaf = tempfile::tempdir().expect("a folder");
        std::fs::write(leaf.path().join("cpu.stat"), "usage_usec 1234\nuser_usec 1000\n").expect("write");
        let pid = std::process::id();
        std::fs::write(leaf.path().join("cgroup.procs"), format!("{pid}\n{pid}\n")).expect("write");
        let used = usage(pid, Some(leaf.path())).expect("a reading");
        assert_eq!(used.cpu_us, 1234);
        assert!(used.memory_bytes > 128 * 1024, "{used:?}");
    }

    #[test]
    fn leaf_that_is_gone_falls_back_to_the_main_process() {
        let used = usage(std::process::id(), Some(Path::new("/nonexistent/leaf"))).expect("a reading");
        assert!(used.memory_bytes > 0);
    }

    #[test]
    fn descendants_are_counted() {
        use std::io::Read;
        use std::process::{Command, Stdio};
        // A shell whose child holds the pipe open: once the byte has come, both exist.
        let mut shell = Command::new("/bin/sh")
            .args(["-c", "(echo x; read gone) ; true"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("/bin/sh");
        let mut byte = [0];
        shell
            .stdout
            .as_mut()
            .expect("piped")
            .read_exact(&mut byte)
            .expect("a byte");
        let alone = resident(shell.id()).expect("it lives");
        let all = usage(shell.id(), None).expect("it lives").memory_bytes;
        assert!(all > alone, "{all} with its child, {alone} without");
        drop(shell.stdin.take());
        shell.wait().expect("it ends");
    }
}
