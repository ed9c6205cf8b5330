//! The node's random number: every process that one of its keepers started bears it (RINGRIFT_INVOCATION_ID), and the folder of
//! their cgroups is named by it. The manager's serial numbers go on from one keeper to the next, so the two together name one
//! life for ever.
//!
//! It lies with the state. Whoever removes that under a running ringriftd would have the next one know nobody who lives, and
//! start everybody a second time; so until an orderly end it lies in the run-time folder too, with the folder that it is of.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::state::say;
use super::sys;

/// Its file with the state.
const NAME: &str = "seed";
/// Its second file, in the run-time folder (which may be the same one).
const SECOND: &str = "seed.second";

/// The number, and whether an earlier keeper of this state had it already.
pub fn of(state_dir: &Path, runtime_dir: &Path) -> Result<(u64, bool), String> {
    let (seed, is_old) = if let Some(seed) = number(&read(&state_dir.join(NAME))) {
        (seed, true)
    } else {
        let second = read(&runtime_dir.join(SECOND));
        let known = (second.get(16..) == Some(&tail(state_dir)))
            .then(|| number(second.get(..16)?))
            .flatten();
        let (seed, is_old) = match known {
            Some(seed) => (seed, true),
            None => {
                let seed = sys::random().map_err(|e| format!("cannot get a random number: {e}"))?;
                (seed, false)
            }
        };
        write(&state_dir.join(NAME), format!("{seed:016x}\n").as_bytes());
        (seed, is_old)
    };
    let second = [format!("{seed:016x}").as_bytes(), &tail(state_dir)].concat();
    write(&runtime_dir.join(SECOND), &second);
    Ok((seed, is_old))
}

/// Nobody lives on: another state may be served from the run-time folder next.
pub fn forget(runtime_dir: &Path) {
    // Absent when somebody emptied the folder.
    let _ = std::fs::remove_file(runtime_dir.join(SECOND));
}

/// What comes behind the number in its second file: the folder that it is of.
fn tail(state_dir: &Path) -> Vec<u8> {
    let folder = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned());
    let folder: &OsStr = folder.as_os_str();
    [b" ", folder.as_bytes(), b"\n"].concat()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    (text.len() == 16)
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

fn write(path: &Path, text: &[u8]) {
    // A process's death loses nothing of a rename; after a loss of power there is nobody to be recognised.
    let new = path.with_extension("new");
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
    if let Err(e) = written {
        say(&format!(
            "cannot write {}: {e}; should ringriftd be killed, its successor may not find its units",
            path.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_outlives_the_loss_of_the_state_until_an_orderly_end() {
        let root = tempfile::tempdir().expect("a folder");
        let [state, other, run] = ["state", "other", "run"].map(|name| root.path().join(name));
        for folder in [&state, &other, &run] {
            std::fs::create_dir(folder).expect("a folder");
        }
        let (seed, is_old) = of(&state, &run).expect("a number");
        assert!(!is_old);
        assert_eq!(of(&state, &run), Ok((seed, true)));
        std::fs::remove_file(state.join(NAME)).expect("it is there");
        assert_eq!(of(&state, &run), Ok((seed, true)));
        // It is not another state's.
        let (theirs, is_old) = of(&other, &run).expect("a number");
        assert!(theirs != seed && !is_old);
        forget(&run);
        std::fs::remove_file(other.join(NAME)).expect("it is there");
        let (next, is_old) = of(&other, &run).expect("a number");
        assert!(next != theirs && !is_old);
        // One folder for both will do.
        let (one, _) = of(&root.path().join("run"), &run).expect("a number");
        assert_eq!(of(&run, &run), Ok((one, true)));
        // Noise is no number.
        for name in [run.join(NAME), run.join(SECOND)] {
            std::fs::write(name, b"\xff\xff").expect("it is ours");
        }
        assert!(!of(&run, &run).expect("a number").1);
    }
}
