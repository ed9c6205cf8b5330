//! The command line as clap sees it: one definition for parsing, `--help`, completion and `docs/cli.md`. And what to
//! say to a word that is no verb.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::cmd;
use crate::job::JobArgs;
use crate::near::nearest;
use crate::predicate::PredicateArgs;
use crate::session::Global;
use crate::stop::Stop;

/// Asks a running ringriftd, and tells it what to do.
#[derive(Debug, Parser)]
#[command(name = "ringriftctl", version)]
#[command(after_help = "Without a verb: status. Exit codes and JSON: docs/cli.md.")]
pub struct Cli {
    /// Flags of all verbs.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// The verbs.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// How the node is, or everything known of units
    Status(cmd::status::Args),
    /// A row for each unit
    #[command(visible_aliases = ["ls", "list-units"])]
    List(cmd::list::Args),
    /// Units that are down for good, and why
    Failed(cmd::failed::Args),
    /// How units are checked, the last results, and the next
    Health(cmd::health::Args),
    /// Whether one of the units is running
    IsActive(PredicateArgs),
    /// Whether one of the units is failed
    IsFailed(PredicateArgs),
    /// Whether all of the units are ready
    IsReady(PredicateArgs),
    /// Bring units up
    Start(JobArgs),
    /// Bring units down
    Stop(JobArgs),
    /// Stop units, then start them
    Restart(JobArgs),
    /// Restart units that run, leave others alone
    TryRestart(JobArgs),
    /// Run the units' own reload commands
    Reload(JobArgs),
    /// Send units a signal
    Kill(cmd::kill::Args),
    /// Forget failures, restart counts and back-off
    ResetFailed(cmd::reset_failed::Args),
    /// Keep units down: nothing starts a held unit
    Hold(cmd::hold::Args),
    /// End units' holds
    Unhold(cmd::unhold::Args),
    /// Make a process that runs outside a unit's own, without a restart
    Adopt(cmd::adopt::Args),
    /// What units wrote
    Logs(cmd::logs::Args),
    /// What happened to units, and why
    Events(cmd::events::Args),
    /// Why a unit is where it is, down to the causes
    Why(cmd::why::Args),
    /// How the node came up: who took long, and who held up whom
    Analyze(cmd::analyze::Args),
    /// A unit's definition, key by key
    Show(cmd::show::Args),
    /// A unit's files as they were read
    Cat(cmd::cat::Args),
    /// Who needs whom
    Deps(cmd::deps::Args),
    /// Profiles, their members, and units in none
    Profile(cmd::profile::Args),
    /// Units on their way out, and who uses them
    Deprecated,
    /// The live table, with keys to act and to read logs
    Top,
    /// Wait until units are as wanted
    Wait(cmd::wait::Args),
    /// Read all files again; all or nothing
    DaemonReload,
    /// Replace the running ringriftd by another binary, units as they are
    Upgrade(cmd::upgrade::Args),
    /// Stop every unit in order, then the daemon
    Shutdown(cmd::shutdown::Args),
    /// Versions of both sides, and where things are
    Version,
    /// A completion script for a shell
    Completion(cmd::completion::Args),
}

/// Verbs that the contract has and this version has not.
const PLANNED: [&str; 12] = [
    "freeze", "thaw", "plan", "apply", "rollback", "changes", "fleet", "import", "export", "doctor",
    "explain", "switch",
];

/// A text that is an answer (`--help`, `--version`), or the reason why the line makes no sense.
pub fn explain(error: &clap::Error, argv: &[String]) -> Result<String, Stop> {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Ok(error.render().to_string());
    }
    let context = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let not_yet = |what: &str| {
        Err(Stop::usage(format!("{what} is not supported yet")).hint("ringriftctl --help names what is"))
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            if PLANNED.contains(&word.as_str()) {
                return not_yet(&word);
            }
            let command = Cli::command();
            let below = argv
                .iter()
                .take_while(|a| **a != word)
                .find_map(|a| command.find_subcommand(a));
            let verbs = below.unwrap_or(&command);
            let names: Vec<String> = verbs
                .get_subcommands()
                .flat_map(|c| std::iter::once(c.get_name()).chain(c.get_visible_aliases()))
                .map(str::to_owned)
                .collect();
            let near = nearest(&word, names.iter().map(String::as_str));
            let hint = match near.is_empty() {
                true => "ringriftctl --help names all verbs".to_owned(),
                false => format!("did you mean {}?", near.join(", ")),
            };
            Err(Stop::usage(format!("no such verb \"{word}\"")).hint(hint))
        }
        _ => Err(other(error)),
    }
}

/// clap's own words, without its heading.
fn other(error: &clap::Error) -> Stop {
    let text = error.render().to_string();
    let text = text.trim_end();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    Stop::usage(
        text.lines()
            .filter(|l| !l.trim().is_empty())
            .collect::<Vec<_>>()
            .join("\n"),
    )
}
