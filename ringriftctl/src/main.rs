//! Asks a running ringriftd, and tells it what to do. Knows the wire (`proto`) and nothing of the daemon's inside.
//!
//! Read first: [`cli::Verb`] (what may be typed), [`client::Client`] (the conversation). `cmd/` has one verb a file;
//! `docs/cli.md` is the contract. Starts no daemon, no pager and no editor, and threads only for
//! [`top`].
#![forbid(unsafe_code)]
// They panic when the reader is gone; `render::Out` and `render::talk` do not.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

mod again;
mod analyze;
mod capsule;
mod cli;
mod client;
mod cmd;
mod dial;
mod job;
mod json;
mod measure;
mod near;
mod overview;
mod place;
mod predicate;
mod progress;
mod render;
mod session;
mod since;
mod stop;
mod stream;
mod top;
mod units;

#[cfg(test)]
mod documented;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Verb};
use session::{Global, Session};
use stop::Stop;

fn main() -> ExitCode {
    let (mut session, verb) = match Cli::try_parse() {
        Ok(Cli { global, verb }) => (Session::new(global), Ok(verb)),
        Err(error) => {
            let argv: Vec<String> = std::env::args_os()
                .skip(1)
                .map(|a| a.to_string_lossy().into_owned())
                .collect();
            (Session::new(unparsed(&argv)), Err((error, argv)))
        }
    };
    let ended = match verb {
        Ok(verb) => run(&mut session, verb),
        Err((error, argv)) => cli::explain(&error, &argv).and_then(|text| {
            session.out.bytes(text.as_bytes())?;
            Ok(stop::OK)
        }),
    };
    ExitCode::from(session.end(ended))
}

/// The shared flags of a line that could not be parsed: enough to fail in the right format.
fn unparsed(argv: &[String]) -> Global {
    let json = argv.iter().take_while(|a| *a != "--").any(|a| a == "--json");
    Global {
        socket: None,
        json,
        quiet: false,
        no_legend: false,
        color: render::Colour::Auto,
        iso: false,
        host: None,
    }
}

fn run(session: &mut Session, verb: Option<Verb>) -> Result<u8, Stop> {
    if session.global.host.is_some() {
        return Err(Stop::usage("-H is not supported yet").hint("ssh HOST ringriftctl … does the same"));
    }
    let whole_node = cmd::status::Args {
        units: Vec::new(),
        output: None,
    };
    match verb.unwrap_or(Verb::Status(whole_node)) {
        Verb::Status(args) => cmd::status::run(session, &args),
        Verb::List(args) => cmd::list::run(session, &args),
        Verb::Failed(args) => cmd::failed::run(session, &args),
        Verb::Health(args) => cmd::health::run(session, &args),
        Verb::IsActive(args) => cmd::is_active::run(session, &args),
        Verb::IsFailed(args) => cmd::is_failed::run(session, &args),
        Verb::IsReady(args) => cmd::is_ready::run(session, &args),
        Verb::Start(args) => cmd::start::run(session, &args),
        Verb::Stop(args) => cmd::stop::run(session, &args),
        Verb::Restart(args) => cmd::restart::run(session, &args),
        Verb::TryRestart(args) => cmd::try_restart::run(session, &args),
        Verb::Reload(args) => cmd::reload::run(session, &args),
        Verb::Kill(args) => cmd::kill::run(session, &args),
        Verb::ResetFailed(args) => cmd::reset_failed::run(session, &args),
        Verb::Hold(args) => cmd::hold::run(session, &args),
        Verb::Unhold(args) => cmd::unhold::run(session, &args),
        Verb::Adopt(args) => cmd::adopt::run(session, &args),
        Verb::Logs(args) => cmd::logs::run(session, &args),
        Verb::Events(args) => cmd::events::run(session, &args),
        Verb::Analyze(args) => cmd::analyze::run(session, &args),
        Verb::Why(args) => cmd::why::run(session, &args),
        Verb::Show(args) => cmd::show::run(session, &args),
        Verb::Cat(args) => cmd::cat::run(session, &args),
        Verb::Deps(args) => cmd::deps::run(session, &args),
        Verb::Profile(args) => cmd::profile::run(session, &args),
        Verb::Deprecated => cmd::deprecated::run(session),
        Verb::Wait(args) => cmd::wait::run(session, &args),
        Verb::DaemonReload => cmd::daemon_reload::run(session),
        Verb::Upgrade(args) => cmd::upgrade::run(session, &args),
        Verb::Shutdown(args) => cmd::shutdown::run(session, &args),
        Verb::Top => top::run(session),
        Verb::Version => cmd::version::run(session),
        Verb::Completion(args) => cmd::completion::run(session, &args, Cli::command()),
    }
}
