//! A keeper whose roles are run by another program: `rr-counted-keeper FOLDER PROGRAM`. The folder has `ringriftd.toml`, `units`
//! and `profiles`, and is given the rest; PROGRAM is executed as `PROGRAM manager …` and `PROGRAM logger …`, and runs them under
//! an instrument that counts. The keeper itself is not counted: it shares its memory with each child until that executes
//! something, which no such instrument follows.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use ringriftd::keeper::{Contain, KeeperConfig, ManagerBounds, run};

/// A role that is counted is fifty times slower: it is not taken for one that hangs.
const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(folder), Some(program)) = (args.next(), args.next()) else {
        std::process::exit(2);
    };
    let place = |name: &str| folder.join(name);
    let mut config = KeeperConfig::new(place("run"), place("state"), place("logs"));
    config.program = program;
    config.containment = Contain::ProcessGroup;
    config.manager_bounds = ManagerBounds {
        start: PATIENCE,
        silence: PATIENCE,
        answer: PATIENCE,
        ..ManagerBounds::default()
    };
    config.manager_args = [
        ("--config", "ringriftd.toml"),
        ("--units", "units"),
        ("--profiles", "profiles"),
        ("--runtime-dir", "run"),
        ("--state-dir", "state"),
        ("--log-dir", "logs"),
    ]
    .into_iter()
    .flat_map(|(flag, name)| [OsString::from(flag), place(name).into_os_string()])
    .collect();
    config.logger_args = vec!["--log-dir".into(), place("logs").into_os_string()];
    std::process::exit(run(config).into());
}
