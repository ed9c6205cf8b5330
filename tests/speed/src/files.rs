//! A node of any size as files.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringriftd::config::load::load;
use ringriftd::engine::types::Plan;
use ringriftd::places::{Places, SearchDir};

/// How the units of a node are made.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// How many; `u00000` is the first.
    pub units: usize,
    /// Each unit is after up to so many of those before it.
    pub edges: usize,
    /// What each of them runs, as a TOML list.
    pub command: &'a str,
}

/// Writes `ringriftd.toml`, `units` and `profiles` into a folder: one profile that wants every unit whose name begins with u,
/// and no pause before a restart.
pub fn write_node(folder: &Path, shape: Shape<'_>) -> io::Result<()> {
    fs::create_dir(folder.join("units"))?;
    fs::create_dir(folder.join("profiles"))?;
    fs::write(folder.join("profiles/all.toml"), "units = [\"u*\"]\n")?;
    fs::write(
        folder.join("ringriftd.toml"),
        "profiles = [\"all\"]\n[http]\nlisten = \"off\"\n[defaults.unit.restart]\n\
         delay = \"0s\"\nmax_delay = \"0s\"\njitter = 0.0\nmax_restarts = 10000\n",
    )?;
    for number in 0..shape.units {
        let mut text = String::new();
        let first = number.saturating_sub(shape.edges);
        if first < number {
            let names: Vec<String> = (first..number).map(|n| format!("\"{}\"", name(n))).collect();
            writeln!(text, "after = [{}]", names.join(", ")).map_err(io::Error::other)?;
        }
        writeln!(text, "[exec]\ncommand = {}", shape.command).map_err(io::Error::other)?;
        fs::write(folder.join(format!("units/{}.toml", name(number))), text)?;
    }
    Ok(())
}

/// The name of a unit by its number.
pub fn name(number: usize) -> String {
    format!("u{number:05}")
}

/// Where the files of such a folder are.
pub fn places(folder: &Path) -> Places {
    let chosen = |name: &str| {
        vec![SearchDir {
            path: folder.join(name),
            is_chosen: true,
        }]
    };
    Places {
        config: Some(folder.join("ringriftd.toml")),
        config_is_chosen: true,
        units: chosen("units"),
        profiles: chosen("profiles"),
        runtime_dir: folder.join("run"),
        runtime_choices: Vec::new(),
        state_dir: folder.join("state"),
        log_dir: folder.join("logs"),
        is_homeless: false,
        notes: Vec::new(),
        checkout: false,
        cwd: PathBuf::from("/"),
        uid: 0,
    }
}

/// The plan of such a folder.
///
/// # Panics
/// When the files are not sound, which is this file's mistake.
pub fn plan(folder: &Path) -> Arc<Plan> {
    match load(&places(folder), &[]) {
        Ok(loaded) => loaded.plan,
        Err(report) => panic!("{:#?}", report.faults),
    }
}
