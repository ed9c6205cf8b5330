//! Chooses the role: keeper (no word), manager, logger, stand-in, or a verb that needs no running daemon (check).

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ringriftd::config::verb::{CheckArgs, check_verb};
use ringriftd::door::HttpPlace;
use ringriftd::keeper::config::STATE_VERSIONS;
use ringriftd::keeper::upgrade::{self, SelfCheck};
use ringriftd::keeper::{Contain, KeeperConfig};
use ringriftd::places::{PlaceArgs, Places, ProfileArgs, RECORD};
use ringriftd::whatif::verb::{SimulateArgs, simulate_verb};
use ringriftd::{keeper, logger, manager, standin};

/// A process supervisor: starts the units of a profile in order, watches them, and takes orders from ringriftctl.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    daemon: DaemonArgs,
}

/// What the daemon takes.
#[derive(Debug, Clone, Args)]
struct DaemonArgs {
    #[command(flatten)]
    places: PlaceArgs,
    #[command(flatten)]
    profiles: ProfileArgs,
    /// How units are held together: auto, process-group, or a folder of cgroup v2
    #[arg(
        long,
        env = "RINGRIFT_CONTAINMENT",
        value_name = "HOW",
        default_value = "auto"
    )]
    containment: String,
    /// Where HTTP is served: an address and its port, the path of a Unix socket, or off (default: what ringriftd.toml says)
    #[arg(long, env = "RINGRIFT_HTTP", value_name = "ADDR", value_parser = HttpPlace::parse)]
    http: Option<HttpPlace>,
    /// Everything that the engine is told and asks for is recorded here, for `ringriftd simulate --replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Checks every file, and tells all faults (exit 0, or 8)
    Check {
        #[command(flatten)]
        places: PlaceArgs,
        #[command(flatten)]
        profiles: ProfileArgs,
        #[command(flatten)]
        check: CheckArgs,
    },
    /// What would happen to a profile if units failed, by the daemon's own engine on a virtual clock (exit 0, or 1 with findings)
    Simulate {
        #[command(flatten)]
        places: PlaceArgs,
        #[command(flatten)]
        profiles: ProfileArgs,
        #[command(flatten)]
        simulate: SimulateArgs,
    },
    /// A small daemon that stands in where RingRift is not installed
    #[command(disable_help_flag = true)]
    StandIn {
        /// See `ringriftd stand-in --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// The role that thinks; started by the keeper
    #[command(hide = true, args_override_self = true)]
    Manager(DaemonArgs),
    /// What this program is, for a keeper that is asked to go on as it
    #[command(name = upgrade::SELF_CHECK, hide = true)]
    SelfCheck(DaemonArgs),
    /// The role that writes logs; started by the keeper
    #[command(hide = true)]
    Logger {
        /// Where
        #[arg(long)]
        log_dir: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    // A role with a fault in it ends as a whole, in every build and on every thread and task: its keeper replaces it. One
    // that went on without the part that panicked would be half dead, and nobody would know.
    std::panic::set_hook(Box::new(|what| {
        ringriftd::say!("ringriftd: {what}; this is a fault of ringriftd, please report it");
        std::process::abort();
    }));
    // 78 stand-ins start at a boot: they do without the parser of everything else.
    let mut args = std::env::args_os();
    if args.nth(1).as_deref() == Some(OsStr::new("stand-in")) {
        return ExitCode::from(standin::run(args));
    }
    let cli = Cli::parse();
    let code = match cli.verb {
        None => run_keeper(&cli.daemon),
        Some(Verb::Check {
            places,
            profiles,
            check,
        }) => match Places::of_process(&places) {
            Ok(places) => check_verb(
                &places,
                &profiles.profile,
                &check,
                &mut std::io::stdout(),
                &mut std::io::stderr(),
            ),
            Err(why) => refuse(&why),
        },
        Some(Verb::Simulate {
            places,
            profiles,
            simulate,
        }) => match Places::of_process(&places) {
            Ok(places) => simulate_verb(
                &places,
                &profiles.profile,
                &simulate,
                &mut std::io::stdout(),
                &mut std::io::stderr(),
            ),
            Err(why) => refuse(&why),
        },
        Some(Verb::StandIn { args }) => standin::run(args),
        Some(Verb::Manager(daemon)) => run_manager(&daemon),
        // That its arguments are understood is part of the answer.
        Some(Verb::SelfCheck(_)) => self_check(),
        Some(Verb::Logger { log_dir }) => logger::run(&log_dir),
    };
    ExitCode::from(code)
}

/// Says why nothing was begun; exit code 2, as for any wrong use.
fn refuse(why: &str) -> u8 {
    ringriftd::say!("ringriftd: {why}");
    2
}

fn run_keeper(daemon: &DaemonArgs) -> u8 {
    let places = match Places::of_process(&daemon.places).and_then(Places::settle) {
        Ok(places) => places,
        Err(why) => return refuse(&why),
    };
    for note in &places.notes {
        ringriftd::say!("ringriftd: {note}");
    }
    let containment = match daemon.containment.as_str() {
        "auto" => Contain::Auto,
        "process-group" => Contain::ProcessGroup,
        path if path.starts_with('/') => Contain::CgroupRoot(path.into()),
        other => {
            return refuse(&format!(
                "cannot contain units by {other:?}: say auto, process-group, or the path of a cgroup v2 folder"
            ));
        }
    };
    let mut config = KeeperConfig::new(
        places.runtime_dir.clone(),
        places.state_dir.clone(),
        places.log_dir.clone(),
    );
    config.containment = containment;
    // The same words again, for the manager reads the files itself; and the folders as they were settled here, so that it
    // finds the same ones whatever becomes of the host.
    config.manager_args = places.arguments(std::env::args_os().skip(1));
    if let Some(file) = &daemon.record {
        match std::path::absolute(file) {
            Ok(file) => config.manager_args.extend([RECORD.into(), file.into_os_string()]),
            Err(e) => return refuse(&format!("--record: {}: {e}", file.display())),
        }
    }
    config.logger_args = vec!["--log-dir".into(), places.log_dir.into_os_string()];
    keeper::run(config)
}

fn self_check() -> u8 {
    let line = SelfCheck::own(STATE_VERSIONS).line();
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn run_manager(daemon: &DaemonArgs) -> u8 {
    log_to_stderr();
    match Places::of_process(&daemon.places) {
        Ok(places) => manager::run(
            places,
            manager::Flags {
                profiles: daemon.profiles.profile.clone(),
                http: daemon.http.clone(),
                record: daemon.record.clone(),
            },
        ),
        Err(why) => refuse(&why),
    }
}

/// The daemon's own log: stderr, with times unless somebody above (a service manager) adds them.
fn log_to_stderr() {
    let level = match std::env::var("RINGRIFT_LOG").as_deref() {
        Ok("error") => tracing::Level::ERROR,
        Ok("warn") => tracing::Level::WARN,
        Ok("debug") => tracing::Level::DEBUG,
        Ok("trace") => tracing::Level::TRACE,
        Ok(_) | Err(_) => tracing::Level::INFO,
    };
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(is_terminal)
        .with_writer(std::io::stderr)
        // It would tell them by `eprintln!`, which panics, and the node with it, once nobody reads stderr.
        .log_internal_errors(false)
        .init();
}
