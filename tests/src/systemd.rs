//! A real systemd, booted in namespaces by `tests/systemd/boot.sh`, with the shipped service file and this checkout's
//! programs in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::ctl::{self, Output};
use crate::processes::{self, Held, Process};
use crate::programs::{checkout, rr_bad};
use crate::{PATIENCE, Unit, until, until_within};

/// The service.
pub const SERVICE: &str = "ringriftd.service";

/// A guest that runs. Dropping it ends everything in it, and takes its groups away.
#[derive(Debug)]
pub struct Guest {
    unshare: Child,
    init: Held,
    /// Its PID 1, as it is known outside.
    pid: i32,
    cgroup: PathBuf,
    _folder: TempDir,
}

/// Why no guest can be booted here; `None` when one can.
pub fn missing() -> Option<&'static str> {
    if !crate::is_root() {
        return Some("needs root for namespaces");
    }
    if !Path::new("/lib/systemd/systemd").exists() || !crate::has_program("systemctl") {
        return Some("needs systemd");
    }
    if !processes::cgroups_are_writable() {
        return Some("no writable cgroup v2 here");
    }
    None
}

impl Guest {
    /// Boots one, with the shipped service file installed and not started.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn boot() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::Builder::new()
            .prefix("rrg")
            .tempdir()
            .expect("there is room for a folder");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = processes::cgroup_of(std::process::id() as i32)
            .expect("cgroup v2 is there")
            .join(format!("rr-guest-{}-{number}", std::process::id()));
        std::fs::create_dir(&cgroup).expect("groups can be made here");
        let programs = Path::new(rr_bad()).parent().expect("programs lie in a folder");
        let log = std::fs::File::create(folder.path().join("boot.log")).expect("it is ours");
        let unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "bash"])
            .arg(checkout().join("tests/systemd/boot.sh"))
            .arg(folder.path())
            .args([&cgroup, programs])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor is left"))
            .stderr(log)
            .spawn()
            .expect("setpriv and bash are there");
        let parent = unshare.id() as i32;
        let is_systemd = |p: &Process| p.is_alive() && p.name == "systemd";
        let said = || std::fs::read_to_string(folder.path().join("boot.log")).unwrap_or_default();
        let pid = until("systemd is PID 1", || {
            let ended = !Process::read(parent).is_some_and(|p| p.is_alive());
            assert!(!ended, "the guest was not made: {}", said());
            Some(processes::children(parent).into_iter().find(is_systemd)?.pid)
        });
        let init = Held::open(pid).expect("its parent waits for it");
        let guest = Self {
            unshare,
            init,
            pid,
            cgroup,
            _folder: folder,
        };
        until("the guest has booted", || {
            let answer = guest.run(&["systemctl", "is-active", "ringrift-guest.target"]);
            (answer.code == Some(0)).then_some(())
        });
        let service = std::fs::read_to_string(checkout().join("dist").join(SERVICE)).expect("it is shipped");
        guest.file(&format!("etc/systemd/system/{SERVICE}"), &service);
        guest.file(
            "etc/ringrift/ringriftd.toml",
            "profiles = [\"test\"]\n[http]\nlisten = \"off\"\n",
        );
        guest
    }

    /// A path of the guest's, as it is reached from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid)).join(inside)
    }

    /// Writes a file of the guest's.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder"))
            .expect("the guest's disk is ours");
        std::fs::write(path, text).expect("the guest's disk is ours");
    }

    /// Changes keys of the service's `[Service]` section.
    pub fn service(&self, keys: &str) {
        let text = format!("[Service]\n{keys}\n");
        self.file(&format!("etc/systemd/system/{SERVICE}.d/test.conf"), &text);
        self.run(&["systemctl", "daemon-reload"]).ended(0);
    }

    /// Gives the node these units, all of them wanted.
    pub fn units(&self, units: &[(&str, &Unit)]) {
        for (name, unit) in units {
            let text = unit.to_toml().replace(rr_bad(), "/usr/local/bin/rr-bad");
            self.file(&format!("etc/ringrift/units/{name}.toml"), &text);
        }
        let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
        let profile = format!(
            "description = \"of a test\"\nunits = {}\n",
            crate::unit::list(&names)
        );
        self.file("etc/ringrift/profiles/test.toml", &profile);
    }

    /// Runs a program inside, to its end.
    #[track_caller]
    pub fn run(&self, argv: &[&str]) -> Output {
        let pid = self.pid.to_string();
        let mut words: Vec<&str> = "-m -u -i -n -p -C -r -w -t".split(' ').collect();
        words.extend([
            pid.as_str(),
            "env",
            "-i",
            "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ]);
        words.extend(argv);
        ctl::run(Path::new("nsenter"), &words, PATIENCE * 2, |_| {})
    }

    /// `systemctl VERB ringriftd.service`.
    #[track_caller]
    pub fn systemctl(&self, verb: &str) -> Output {
        self.run(&["systemctl", verb, SERVICE])
    }

    /// `ringriftctl …` inside.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> Output {
        let mut words = vec!["ringriftctl"];
        words.extend(args);
        self.run(&words)
    }

    /// What systemd says of the service.
    ///
    /// # Panics
    /// When it says nothing.
    #[track_caller]
    pub fn show(&self) -> BTreeMap<String, String> {
        let answer = self.systemctl("show").ended(0);
        let pairs = answer.stdout.lines().filter_map(|line| line.split_once('='));
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// The journal of the service.
    pub fn journal(&self) -> String {
        self.run(&["journalctl", "--no-pager", "-o", "cat", "-u", SERVICE])
            .text()
    }

    /// A unit as `status --json` has it.
    ///
    /// # Panics
    /// When the daemon does not know it.
    #[track_caller]
    pub fn unit(&self, name: &str) -> serde_json::Value {
        let status = self.ctl(&["status", "--json"]).json();
        let units = status["units"].as_array().expect("a status has units");
        let found = units.iter().find(|unit| unit["name"] == name);
        found
            .unwrap_or_else(|| panic!("no unit {name}: {status:#}"))
            .clone()
    }

    /// The processes in the service's group, as they are known outside, and theirs below.
    pub fn processes(&self) -> Vec<Process> {
        let group = self.cgroup.join("system.slice").join(SERVICE);
        let is_in = |p: &Process| processes::cgroup_of(p.pid).is_some_and(|own| own.starts_with(&group));
        processes::all()
            .into_iter()
            .filter(|p| p.is_alive() && is_in(p))
            .collect()
    }

    /// The processes of the node's units.
    pub fn unit_processes(&self) -> Vec<Process> {
        let mut found = self.processes();
        found.retain(|p| p.unit().is_some());
        found
    }

    /// The keeper's process, as it is known outside.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn keeper(&self) -> Process {
        let is_keeper = |p: &Process| {
            p.unit().is_none()
                && p.argv.first().is_some_and(|arg| arg.ends_with("ringriftd"))
                && !matches!(p.argv.get(1).map(String::as_str), Some("manager" | "logger"))
        };
        let found = self.processes().into_iter().find(is_keeper);
        found.unwrap_or_else(|| panic!("no keeper runs\n{}", self.journal()))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The kernel ends a namespace with its PID 1, and its mounts with its last process.
        self.init.signal(libc::SIGKILL);
        self.init.wait(Duration::from_secs(10));
        let _ = self.unshare.wait();
        until_within(Duration::from_secs(5), || {
            remove_groups(&self.cgroup).then_some(())
        });
    }
}

/// Removes an empty group with those below. True when it is gone.
fn remove_groups(group: &Path) -> bool {
    for below in processes::folders(group) {
        remove_groups(&below);
    }
    std::fs::remove_dir(group).is_ok() || !group.exists()
}
