//! A configuration in a folder of its own, loaded as daemon and `check` do, and what its faults say.

use jiff::civil::{Date, date};
use ringriftd::config::diagnostic::Diagnostic;
use ringriftd::config::{Loaded, Report, load_on};
use ringriftd::places::{PlaceArgs, Places};

pub const TODAY: Date = date(2026, 1, 15);
pub const EXEC: &str = "[exec]\ncommand = [\"/bin/true\"]\n";

/// A folder with a configuration in it.
pub struct Node {
    root: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for dir in ["units", "profiles"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
        }
        let node = Self { root };
        node.file("ringriftd.toml", "");
        node
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    /// A unit that is sound but for `head`, which stands before its `[exec]`.
    pub fn unit(&self, name: &str, head: &str) -> &Self {
        self.file(&format!("units/{name}.toml"), format!("{head}\n{EXEC}"))
    }

    pub fn places(&self) -> Places {
        let flags = PlaceArgs {
            config: Some(self.path("ringriftd.toml")),
            units: vec![self.path("units")],
            profiles: vec![self.path("profiles")],
            runtime_dir: Some(self.path("run")),
            state_dir: Some(self.path("state")),
            log_dir: Some(self.path("log")),
            place_note: Vec::new(),
        };
        let mut places = Places::of_process(&flags).unwrap();
        places.cwd = self.root.path().canonicalize().unwrap();
        places
    }

    pub fn load(&self, profiles: &[&str]) -> Result<Loaded, Report> {
        let profiles: Vec<String> = profiles.iter().map(|p| (*p).to_owned()).collect();
        load_on(&self.places(), &profiles, TODAY)
    }

    #[track_caller]
    pub fn loads(&self, profiles: &[&str]) -> Loaded {
        self.load(profiles).unwrap_or_else(|report| panic!("{report}"))
    }

    #[track_caller]
    pub fn faults(&self, profiles: &[&str]) -> Vec<Diagnostic> {
        self.load(profiles)
            .map(|_| ())
            .expect_err("sound, and should not be")
            .faults
    }

    /// The one fault, as `file:line:column: what`, whole.
    #[track_caller]
    pub fn fault(&self, profiles: &[&str]) -> String {
        let faults = self.faults(profiles);
        assert_eq!(
            faults.len(),
            1,
            "{}",
            faults.iter().map(|f| format!("{f}\n")).collect::<String>()
        );
        faults[0].to_string()
    }
}

#[track_caller]
pub fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "lacks {part:?}:\n{text}");
    }
}
