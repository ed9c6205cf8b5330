//! What every verb is given: the flags that all share, stdout, and how text looks. And how a verb's end is told.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use proto::reply::{Failure, State};

use crate::client::Client;
use crate::json;
use crate::render::{self, Colour, Ink, Out, Style, talk};
use crate::stop::{self, Stop};

/// Flags of all verbs.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The daemon's control socket (else RINGRIFT_SOCKET, else the run-time folder)
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Answer, and fail, in JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Print less: no headings, no talk; predicates print nothing
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print no headings
    #[arg(long, global = true)]
    pub no_legend: bool,
    /// When to use colours
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = Colour::Auto)]
    pub color: Colour,
    /// Print times absolutely instead of "3m"
    #[arg(long, global = true)]
    pub iso: bool,
    /// Ask another machine over ssh (not supported yet)
    #[arg(short = 'H', long, global = true, hide = true, value_name = "HOST")]
    pub host: Option<String>,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Rows {
    /// All columns, nothing cut
    Wide,
    /// Names alone
    Name,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
}

/// One run of the program.
#[derive(Debug)]
pub struct Session {
    /// The flags of all verbs.
    pub global: Global,
    /// stdout.
    pub out: Out,
    /// How text looks there.
    pub style: Style,
}

impl Session {
    /// Looks at the flags, stdout and the environment.
    pub fn new(global: Global) -> Self {
        let out = Out::new();
        let style = Style::new(global.color, global.iso, out.is_terminal);
        Self { global, out, style }
    }

    /// Finds the daemon and says hello.
    pub fn connect(&self) -> Result<Client, Stop> {
        let mut client = Client::connect(self.global.socket.as_deref())?;
        client.is_quiet = self.global.quiet || self.global.json;
        Ok(client)
    }

    /// Headings are wanted.
    pub fn legend(&self) -> bool {
        !self.global.no_legend && !self.global.quiet
    }

    /// Talks on stderr, unless nobody wants to hear.
    pub fn say(&self, text: &str) {
        if !self.global.quiet && !self.global.json {
            talk(text);
        }
    }

    /// Cleans foreign text for this output.
    pub fn clean(&self, text: &str) -> String {
        self.style.clean(text)
    }

    /// Tells why a verb ended, and gives the exit code. With `--json` the error is the document on stdout.
    pub fn end(&mut self, ended: Result<u8, Stop>) -> u8 {
        let ended = ended.and_then(|code| self.out.flush().map(|()| code));
        match ended {
            Ok(code) => code,
            Err(Stop::Pipe) => stop::PIPE,
            Err(Stop::Output(error)) => {
                talk(&format!("error: cannot write to stdout: {error}"));
                stop::FAILED
            }
            Err(Stop::Failure(failure)) if self.global.json => {
                let code = exit_code(&failure);
                let told = json::document(&mut self.out, "error", &json::ErrorBody::from(&*failure))
                    .and_then(|()| self.out.flush());
                if told.is_err() {
                    talk(&format!("error: {}", self.clean(&failure.message)));
                }
                code
            }
            Err(Stop::Failure(failure)) => {
                // What was already found out is shown first.
                let _ = self.out.flush();
                self.complain(&failure);
                exit_code(&failure)
            }
        }
    }

    fn complain(&self, failure: &Failure) {
        let style = Style {
            colour: render::wants_colour(self.global.color, std::io::stderr().is_terminal(), |n| {
                std::env::var(n).ok()
            }),
            ..self.style.clone()
        };
        let mut lines = failure.message.split('\n').map(|l| style.clean(l));
        let first = lines.next().unwrap_or_default();
        let mut text = format!("{} {first}", style.paint(Ink::Bad, "error:"));
        for line in lines {
            text.push_str(&format!("\n  {line}"));
        }
        // A daemon may list in its line what it also gives one by one for programs.
        let listed = |detail: &&String| !failure.message.contains(detail.as_str());
        for line in failure.details.iter().filter(listed).flat_map(|d| d.split('\n')) {
            text.push_str(&format!("\n  {}", style.clean(line)));
        }
        if let Some(hint) = &failure.hint {
            let hint = hint
                .split('\n')
                .map(|l| style.clean(l))
                .collect::<Vec<_>>()
                .join("\n        ");
            if failure.code == stop::UNAVAILABLE {
                // No daemon: one line, as docs/cli.md promises to scripts and logs.
                text.push_str(&format!("; {hint}"));
            } else {
                text.push_str(&format!("\n  {} {hint}", style.paint(Ink::Bold, "help:")));
            }
        }
        talk(&text);
    }
}

/// A failure never ends with 0, whatever the daemon says.
fn exit_code(failure: &Failure) -> u8 {
    if failure.code == stop::OK {
        stop::FAILED
    } else {
        failure.code
    }
}

/// The word for a state.
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Stopped => "stopped",
        State::Waiting => "waiting",
        State::Starting => "starting",
        State::Running => "running",
        State::Reloading => "reloading",
        State::Stopping => "stopping",
        State::Backoff => "backoff",
        State::Failed => "failed",
        State::Completed => "completed",
        State::Held => "held",
    }
}

/// The colour of a state.
pub fn state_ink(state: State) -> Ink {
    match state {
        State::Running | State::Reloading | State::Completed => Ink::Good,
        State::Waiting | State::Starting | State::Stopping | State::Backoff | State::Held => Ink::Warn,
        State::Failed => Ink::Bad,
        State::Stopped => Ink::Dim,
    }
}

/// The symbol of a state.
pub fn state_mark(style: &Style, state: State) -> &'static str {
    match state {
        State::Running | State::Reloading => style.pick("●", "*"),
        State::Completed => style.pick("✓", "+"),
        State::Starting | State::Stopping => style.pick("◐", "~"),
        State::Waiting => style.pick("◌", "."),
        State::Backoff => style.pick("↻", "@"),
        State::Failed => style.pick("✗", "x"),
        State::Stopped => style.pick("○", "-"),
        State::Held => style.pick("‖", "="),
    }
}
