//! How many instructions the whole may take: for the boot of 78 units, a restart, a status, and a MiB of a log.
//!
//! Instructions of manager, logger and ringriftctl are counted by callgrind while a node runs, so the figures are the same on a
//! busy machine as on a quiet one (three in a hundred were seen), and differ by compiler and by build: they are those of a
//! debug build, which is what `cargo test` has. The keeper is not counted (`rr-counted-keeper`); nearly all of its work is the
//! kernel's.
//!
//! `budgets.txt` has what was last found good. More than [`HEADROOM`] above it fails; RINGRIFT_BLESS=1 writes it anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::{need, processes, programs};
use speed::files::{Shape, write_node};

/// In percent.
const HEADROOM: u64 = 15;
const UNITS: usize = 78;
const RESTARTS: usize = 10;
const STATUSES: usize = 10;
const LINES: usize = 10_486; // of 100 bytes: a MiB
/// What is counted is fifty times slower, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(600);

/// A node whose roles run under callgrind.
struct Counted {
    folder: tempfile::TempDir,
    keeper: Child,
}

impl Counted {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("rr").tempdir().expect("a folder");
        let place = folder.path();
        let command = format!(
            "[\"/bin/sh\", \"-c\", \"echo >>{}; exec sleep 100000\"]",
            place.join("starts").display()
        );
        let shape = Shape {
            units: UNITS,
            edges: 0,
            command: &command,
        };
        write_node(place, shape).expect("a node's files");
        let line = "x".repeat(99);
        fs::write(
            place.join("units/writer.toml"),
            format!("[exec]\ncommand = [\"/bin/sh\", \"-c\", \"yes {line} | head -n {LINES}; exec sleep 100000\"]\n"),
        )
        .expect("one more unit");
        fs::write(place.join("starts"), "").expect("a file");
        let script = place.join("counted");
        let text = format!(
            "#!/bin/sh\necho $$ >{0}/$1.pid\n\
             exec valgrind --tool=callgrind --callgrind-out-file={0}/counts.$1 --vgdb-prefix={0}/vgdb {1} \"$@\"\n",
            place.display(),
            programs::ringriftd().display()
        );
        fs::write(&script, text).expect("a script");
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a script");
        let said = fs::File::create(place.join("said")).expect("a file");
        let keeper = Command::new(env!("CARGO_BIN_EXE_rr-counted-keeper"))
            .args([place, &script])
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("a descriptor"))
            .stderr(said)
            .spawn()
            .expect("the keeper can be started");
        Self { folder, keeper }
    }

    fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place("said")).unwrap_or_default()
    }

    fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(
                Instant::now() < end,
                "{what}: not within {PATIENCE:?}\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a file has so many lines.
    fn wait_lines(&self, name: &str, lines: usize) {
        let count =
            |path: &Path| fs::read(path).map_or(0, |text| text.iter().filter(|b| **b == b'\n').count());
        self.wait(&format!("{lines} lines of {name}"), || {
            count(&self.place(name)) >= lines
        });
    }

    fn ctl(&self) -> Command {
        self.of_ctl(Command::new(programs::ringriftctl()))
    }

    fn of_ctl(&self, mut command: Command) -> Command {
        command
            .arg("--socket")
            .arg(self.place("run/control.sock"))
            .stdin(Stdio::null());
        command
    }

    fn done(&self, mut command: Command) {
        let output = command.output().expect("it can be run");
        assert!(
            output.status.success(),
            "{command:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.said()
        );
    }

    /// Until the manager has told that every unit is up; what follows on it is done.
    fn settled(&self) {
        let mut command = self.ctl();
        command.args(["wait", "u*", "--for", "running", "--timeout", "600s"]);
        self.done(command);
    }

    /// Ends a part of a role's counts, under a name.
    fn part(&self, role: &str, name: &str) {
        let pid = fs::read_to_string(self.place(&format!("{role}.pid"))).expect("the script wrote it");
        let mut command = Command::new("vgdb");
        command
            .arg(format!("--vgdb-prefix={}", self.place("vgdb").display()))
            .arg(format!("--pid={}", pid.trim()))
            .args(["dump", name]);
        self.done(command);
    }

    /// The instructions of a role in the part of this name.
    fn count(&self, role: &str, name: &str) -> u64 {
        let trigger = format!("desc: Trigger: dump {name}");
        let texts = fs::read_dir(self.folder.path())
            .expect("a folder")
            .flatten()
            .filter_map(|entry| {
                let is_his = entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with(&format!("counts.{role}."));
                is_his.then(|| fs::read_to_string(entry.path()).ok()).flatten()
            });
        let found: Vec<u64> = texts
            .filter(|text| text.contains(&trigger))
            .map(|text| sum(&text))
            .collect();
        assert_eq!(found.len(), 1, "{role}: one part {name}\n{}", self.said());
        found[0]
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let pid = self.keeper.id() as i32;
        if let Some(held) = processes::Held::open(pid) {
            held.signal(libc::SIGTERM);
            if !held.wait(PATIENCE) {
                held.signal(libc::SIGKILL);
            }
        }
        let _ = self.keeper.wait();
    }
}

/// The sum that a callgrind file tells.
fn sum(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("summary: "))
        .and_then(|number| number.trim().parse().ok())
        .expect("a callgrind file tells its sum")
}

/// What a node takes, each figure with its name in `budgets.txt`.
fn figures() -> Vec<(&'static str, u64)> {
    let node = Counted::start();
    node.wait_lines("starts", UNITS);
    node.settled();
    node.part("manager", "boot");
    node.part("logger", "boot");

    let roles = ["manager", "logger"]
        .map(|role| fs::read_to_string(node.place(&format!("{role}.pid"))).expect("a pid"));
    let mut units: Vec<i32> = processes::children(node.keeper.id() as i32)
        .iter()
        .map(|process| process.pid)
        .filter(|pid| roles.iter().all(|role| role.trim() != pid.to_string()))
        .collect();
    units.sort_unstable();
    for (n, pid) in units.iter().take(RESTARTS).enumerate() {
        processes::signal(*pid, libc::SIGKILL);
        node.wait_lines("starts", UNITS + n + 1);
    }
    node.settled();
    node.part("manager", "restarts");

    let counts = node.place("counts.ctl");
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(format!("--vgdb-prefix={}", node.place("vgdb").display()))
        .arg(programs::ringriftctl());
    let mut command = node.of_ctl(command);
    command.arg("status");
    node.done(command);
    // One would hardly be seen beside what follows late on the restarts.
    for _ in 1..STATUSES {
        let mut command = node.ctl();
        command.arg("status");
        node.done(command);
    }
    node.part("manager", "statuses");

    node.part("logger", "between");
    let mut command = node.ctl();
    command.args(["start", "writer"]);
    node.done(command);
    node.wait_lines("logs/writer.log", LINES);
    node.part("logger", "log");

    vec![
        ("boot of 78, manager", node.count("manager", "boot")),
        ("boot of 78, logger", node.count("logger", "boot")),
        ("ten restarts of one, manager", node.count("manager", "restarts")),
        ("ten statuses of 78, manager", node.count("manager", "statuses")),
        (
            "status of 78, ringriftctl",
            sum(&fs::read_to_string(counts).expect("callgrind wrote it")),
        ),
        ("a MiB of a log, logger", node.count("logger", "log")),
    ]
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("budgets.txt")
}

#[test]
fn boot_restart_status_and_log_stay_within_their_instructions() {
    let is_there = |program: &str| {
        let told = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        told.is_ok()
    };
    need!(
        is_there("valgrind") && is_there("vgdb"),
        "valgrind is not installed"
    );
    let found = figures();
    if std::env::var_os("RINGRIFT_BLESS").is_some() {
        let mut text = "# Instructions of a debug build, counted by tests/budget.rs, which says how to write this file anew.\n".to_owned();
        for (name, count) in &found {
            text.push_str(&format!("{count:>12}  {name}\n"));
        }
        fs::write(recorded(), text).expect("the record can be written");
        return;
    }
    let text = fs::read_to_string(recorded()).expect("the record is committed");
    let mut over = Vec::new();
    for (name, count) in &found {
        let allowed: u64 = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .find_map(|line| line.trim().split_once("  ").filter(|(_, of)| of.trim() == *name))
            .and_then(|(number, _)| number.parse().ok())
            .unwrap_or_else(|| panic!("no record of {name:?}: run this test with RINGRIFT_BLESS=1"));
        println!(
            "{name}: {count}, recorded {allowed}: {} %",
            count * 100 / allowed.max(1)
        );
        if count * 100 > allowed * (100 + HEADROOM) {
            over.push(format!(
                "{name}: {count} instructions, {} % of the {allowed} recorded",
                count * 100 / allowed.max(1)
            ));
        }
    }
    assert!(
        over.is_empty(),
        "\n{}\nIf that is what it is worth, run this test with RINGRIFT_BLESS=1 and commit budgets.txt with the reason.",
        over.join("\n")
    );
}
