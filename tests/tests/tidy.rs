//! The house keeps its own rules. What rustfmt and clippy cannot see is looked for in the text of the checkout.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use harness::programs::checkout;

/// A file of the checkout that git knows, by its path from the root.
struct File {
    path: String,
    text: String,
}

impl File {
    /// The lines above its unit tests.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = |line: &&str| *line == "#[cfg(test)]";
        self.text
            .lines()
            .take_while(move |line| !is_test(line))
            .enumerate()
            .map(|(n, line)| (n + 1, line))
    }

    /// The same without comments.
    fn statements(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.contains("/tests/")
    }
}

/// Every text that git knows or would take in.
fn files() -> Vec<File> {
    let listed = std::process::Command::new("git")
        .args([
            "-c",
            "safe.directory=*",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(checkout())
        .output();
    let names: Vec<String> = match listed {
        Ok(output) if output.status.success() => output
            .stdout
            .split(|b| *b == 0)
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect(),
        // A checkout without its history, such as an unpacked archive.
        _ => walk(checkout())
            .into_iter()
            .filter_map(|path| relative(&path))
            .collect(),
    };
    names
        .into_iter()
        .filter(|name| !name.is_empty())
        .filter_map(|path| {
            let text = String::from_utf8(std::fs::read(checkout().join(&path)).ok()?).ok()?;
            Some(File { path, text })
        })
        .collect()
}

fn relative(path: &Path) -> Option<String> {
    Some(path.strip_prefix(checkout()).ok()?.to_str()?.to_owned())
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && name != "target" && name != ".git" => {
                found.extend(walk(&entry.path()))
            }
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn rust() -> Vec<File> {
    files()
        .into_iter()
        .filter(|file| file.path.ends_with(".rs"))
        .collect()
}

#[track_caller]
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Files that may be longer, each with its reason.
const LONG: [(&str, usize, &str); 0] = [];

#[test]
fn no_file_has_grown_a_second_job() {
    let mut faults = Vec::new();
    for file in files()
        .iter()
        .filter(|f| f.path.ends_with(".rs") || f.path.ends_with(".py"))
    {
        let lines = file.code().count();
        // Tests are lists of small things: they may be longer.
        let bound = if file.is_test() { 1000 } else { 700 };
        let bound = LONG
            .iter()
            .find(|(path, ..)| *path == file.path)
            .map_or(bound, |(_, bound, _)| *bound);
        if lines > bound {
            faults.push(format!(
                "{}: {lines} lines, more than {bound}: which second job crept in?",
                file.path
            ));
        }
    }
    none(&faults);
}

#[test]
fn nothing_is_printed_by_what_panics_on_a_closed_pipe() {
    let words = ["println!", "print!(", "eprint!(", "eprintln!"];
    // The stand-in is a unit: its output is a pipe that the node reads.
    let is_ours = |path: &str| {
        ["ringriftctl/src/", "ringriftd/src/"]
            .iter()
            .any(|folder| path.starts_with(folder))
            && path != "ringriftd/src/standin.rs"
    };
    let mut faults = Vec::new();
    for file in rust().iter().filter(|f| is_ours(&f.path)) {
        for (n, line) in file.statements() {
            if words.iter().any(|word| line.contains(word)) {
                faults.push(format!("{}:{n}: {}", file.path, line.trim()));
            }
        }
    }
    none(&faults);
}

/// S12: a pid is no proof of who has it now, so nothing is signalled by one.
#[test]
fn nothing_is_signalled_by_a_bare_pid() {
    let words = [
        "libc::kill",
        "killpg",
        "signal::kill",
        "SYS_kill",
        "SYS_tgkill",
        "SYS_tkill",
        "sigqueue",
        "kill_child",
    ];
    // A child that is not reaped yet has its number for itself; only the one place that knows this may ask.
    let is_told = |path: &str, line: &str| match path {
        "ringriftd/src/keeper/sys.rs" => {
            line.contains("fn kill_child(") || line.contains("libc::kill(pid, signal)")
        }
        "ringriftd/src/keeper/signal.rs" => {
            line.contains("sys::kill_child(child, libc::SIGKILL)")
                || line.contains("sys::kill_child(target.pid(), signal)")
        }
        _ => false,
    };
    let mut faults = Vec::new();
    for file in rust().iter().filter(|f| f.path.starts_with("ringriftd/src/")) {
        for (n, line) in file.statements() {
            if words.iter().any(|word| line.contains(word)) && !is_told(&file.path, line) {
                faults.push(format!(
                    "{}:{n}: {}; keeper/signal.rs does it",
                    file.path,
                    line.trim()
                ));
            }
        }
    }
    none(&faults);
}

#[test]
fn what_must_be_pure_touches_no_world() {
    let words = [
        "tokio",
        "nix",
        "libc",
        "std::fs",
        "std::net",
        "std::process",
        "std::os",
        "std::thread",
    ];
    let mut faults = Vec::new();
    for file in rust() {
        let place = file.path.strip_prefix("ringriftd/src/").unwrap_or_default();
        if !(place.starts_with("engine/") || matches!(place, "graph.rs" | "spec.rs" | "ids.rs")) {
            continue;
        }
        for (n, line) in file.statements() {
            let line = line.trim();
            let named = words.iter().any(|word| {
                line.contains(&format!("{word}::"))
                    || line.strip_prefix("use ").is_some_and(|l| l.starts_with(word))
            });
            if named {
                faults.push(format!("{}:{n}: {line}", file.path));
            }
        }
    }
    none(&faults);
}

#[test]
fn children_do_not_import_from_their_parent() {
    let files = rust();
    let modules: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut faults = Vec::new();
    for file in &files {
        let Some((folder, name)) = file.path.rsplit_once('/') else {
            continue;
        };
        if name == "mod.rs" || !modules.contains(format!("{folder}/mod.rs").as_str()) {
            continue;
        }
        let is_sibling = |name: &str| {
            modules.contains(format!("{folder}/{name}.rs").as_str())
                || modules.contains(format!("{folder}/{name}/mod.rs").as_str())
        };
        let inside = folder
            .split_once("/src/")
            .map_or("", |(_, inside)| inside)
            .replace('/', "::");
        let parents = ["super::".to_owned(), format!("crate::{inside}::")];
        for (n, line) in file.statements() {
            for parent in &parents {
                let Some((_, rest)) = line.split_once(parent.as_str()) else {
                    continue;
                };
                let rest = rest.trim_start_matches('{');
                let first: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if !is_sibling(&first) {
                    faults.push(format!(
                        "{}:{n}: {}: share it in a types.rs",
                        file.path,
                        line.trim()
                    ));
                }
            }
        }
    }
    none(&faults);
}

#[test]
fn nothing_names_the_machine_that_it_was_made_on() {
    // In pieces, so that this file does not hold what it looks for.
    let words = [
        ["/wo", "rk/"],
        ["/fa", "rm/"],
        ["bash", "_jobs"],
        ["../sha", "red"],
        ["static.", "crates.io"],
        ["index.", "crates.io"],
        ["files.", "pythonhosted"],
    ]
    .map(|pieces| pieces.concat());
    let mut faults = Vec::new();
    for file in files() {
        for (n, line) in file.text.lines().enumerate() {
            let named = words.iter().any(|word| {
                let before = |at: usize| line[..at].chars().next_back();
                // `net/work/x` is no such path: a machine's begins at its root.
                line.match_indices(word.as_str()).any(|(at, _)| {
                    !word.starts_with('/') || !before(at).is_some_and(|c| c.is_alphanumeric() || c == '.')
                })
            });
            if named {
                faults.push(format!("{}:{}: {}", file.path, n + 1, line.trim()));
            }
        }
    }
    none(&faults);
}

#[test]
fn one_file_calls_the_unmaintained_codec() {
    let word = ["bin", "code::"].concat();
    let mut faults = Vec::new();
    for file in rust().iter().filter(|file| file.path != "proto/src/codec.rs") {
        for (n, line) in file
            .text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.contains(&word))
        {
            faults.push(format!("{}:{}: {}", file.path, n + 1, line.trim()));
        }
    }
    none(&faults);
}

#[test]
fn the_tree_of_dependencies_stays_small() {
    let lock = std::fs::read_to_string(checkout().join("Cargo.lock")).expect("the lock file is committed");
    let crates = lock.lines().filter(|line| *line == "[[package]]").count();
    // The lock counts what other systems than Linux would need, too: a third of what the terminal takes (ratatui,
    // crossterm) is never compiled here. Seventeen come with criterion, to the benchmarks alone.
    assert!(
        crates <= 208,
        "{crates} crates: which of them is worth less than 50 lines of ours?"
    );
}

/// Faults that the project promises to stand, each as a test that names it.
const FAULTS: [&str; 96] = [
    "A9", "A10", "C1", "S9", "A1", "A2", "A3", "A4", "A5", "A7", "A8", "A11", "A12", "A14", "A16", "A17",
    "A18", "A20", "A21", "A22", "A27", "A29", "A30", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B10",
    "B11", "B12", "B13", "B14", "B15", "B16", "B18", "B19", "B21", "C2", "C3", "C5", "C6", "C8", "C10",
    "C11", "C13", "C15", "C16", "D1", "D3", "D4", "D5", "D6", "D7", "D8", "D9", "D10", "D11", "D14", "D15",
    "D16", "D18", "D20", "D22", "D25", "E1", "E2", "E3", "E4", "E5", "E6", "E8", "E9", "E10", "E11", "E12",
    "E13", "E15", "E17", "E22", "E25", "D2", "F3", "F4", "F6", "F7", "F9", "F11", "S2", "S5", "S7", "S8",
    "S12",
];

#[test]
fn every_promised_fault_has_a_test_that_names_it() {
    let mut named = BTreeSet::new();
    for file in rust() {
        let mut in_tests = file.is_test();
        let mut words: Vec<String> = Vec::new();
        for line in file.text.lines().map(str::trim) {
            in_tests |= line == "#[cfg(test)]";
            if let Some(comment) = line.strip_prefix("///") {
                words.extend(comment.split(|c: char| !c.is_alphanumeric()).map(str::to_owned));
            } else if line.starts_with("#[") {
                // Attributes stand between a comment and what it belongs to.
            } else if line.contains("fn ") && in_tests {
                named.extend(words.drain(..));
            } else {
                words.clear();
            }
        }
    }
    let missing: Vec<&str> = FAULTS
        .into_iter()
        .filter(|fault| !named.contains(*fault))
        .collect();
    assert!(missing.is_empty(), "no test names {missing:?} in its doc comment");
}
