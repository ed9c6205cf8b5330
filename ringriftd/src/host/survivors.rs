//! Who lives on from an earlier ringriftd of this state folder: processes that still bear its mark in the environment
//! that they were started with. A mark is the node's random number and a serial that is used once, so that nobody bears
//! it by chance; its bearer can still be a stranger who was given a copy, which is why whoever is found here is only
//! believed together with the pid, start time and containment that the keeper proves.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::Invocation;
use crate::keeper::proc;
use crate::spec::UnitName;

/// The first process of something that an earlier ringriftd started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    /// `RINGRIFT_UNIT`.
    pub unit: UnitName,
    /// The serial in `RINGRIFT_INVOCATION_ID`.
    pub invocation: Invocation,
    /// `RINGRIFT_ROLE`.
    pub role: String,
    /// Its pid.
    pub pid: u32,
    /// Its start time (field 22 of /proc/PID/stat).
    pub start_time: u64,
}

/// All of them, by pid. Of a process and its descendants with the same mark only the first counts. Reads all of /proc:
/// not on a loop.
pub fn find(seed: u64) -> std::io::Result<Vec<Survivor>> {
    let mut found: BTreeMap<i32, (Survivor, i32)> = BTreeMap::new();
    for pid in proc::pids()? {
        let Ok(before) = proc::stat(pid) else { continue };
        if before.is_dead() {
            continue;
        }
        let Some((unit, invocation, role)) = mark(pid, seed) else {
            continue;
        };
        // The environment was this process's, and not its number's next owner's.
        let is_same = proc::stat(pid).is_ok_and(|now| now.process == before.process && !now.is_dead());
        if is_same {
            let survivor = Survivor {
                unit,
                invocation,
                role,
                pid: before.process.pid_u32(),
                start_time: before.process.start(),
            };
            found.insert(pid, (survivor, before.ppid));
        }
    }
    let below: BTreeSet<i32> = found
        .iter()
        .filter(|(_, (child, ppid))| {
            found
                .get(ppid)
                .is_some_and(|(parent, _)| parent.invocation == child.invocation && parent.role == child.role)
        })
        .map(|(pid, _)| *pid)
        .collect();
    Ok(found
        .into_iter()
        .filter(|(pid, _)| !below.contains(pid))
        .map(|(_, (survivor, _))| survivor)
        .collect())
}

fn mark(pid: i32, seed: u64) -> Option<(UnitName, Invocation, String)> {
    let environ = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        let entry = environ
            .split(|b| *b == 0)
            .find_map(|entry| entry.strip_prefix(name.as_bytes()))?;
        std::str::from_utf8(entry).ok()
    };
    let text = value("RINGRIFT_INVOCATION_ID=")?;
    let serial = text.strip_prefix(format!("{seed:016x}").as_str())?;
    let serial = u64::from_str_radix(serial, 16).ok()?;
    let unit = UnitName::new(value("RINGRIFT_UNIT=")?)?;
    Some((unit, Invocation(serial), value("RINGRIFT_ROLE=")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Reads its stdin for ever: no program but the shell.
    fn bearer(seed: u64, role: &str, script: &str) -> std::process::Child {
        Command::new("/bin/sh")
            .args(["-c", script])
            .env("RINGRIFT_UNIT", "alpha")
            .env("RINGRIFT_ROLE", role)
            .env(
                "RINGRIFT_INVOCATION_ID",
                crate::ids::invocation_text(seed, Invocation(7)),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    #[test]
    fn the_first_of_each_mark_is_found_and_another_nodes_is_not() {
        use std::io::BufRead as _;
        let seed = 0x5eed_0000_0000_0000 | u64::from(std::process::id());
        let mut mine = bearer(
            seed,
            "main",
            "exec 3<&0; (echo child; read x <&3) & echo self; wait",
        );
        let mut other = bearer(seed ^ 1, "main", "echo self; read x");
        for (child, lines) in [(&mut mine, 2), (&mut other, 1)] {
            let mut reader = std::io::BufReader::new(child.stdout.as_mut().unwrap());
            for _ in 0..lines {
                reader.read_line(&mut String::new()).unwrap();
            }
        }
        let found = find(seed).unwrap();
        let [only] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!((only.pid, only.invocation), (mine.id(), Invocation(7)));
        assert_eq!((only.unit.as_str(), only.role.as_str()), ("alpha", "main"));
        for mut child in [mine, other] {
            // The end of their input is theirs.
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }
}
