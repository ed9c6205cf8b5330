//! `logs`: what units wrote. One record is one line; only `-o cat` gives the bytes as they are.

use std::time::Instant;

use clap::Args as ClapArgs;
use proto::reply::{LineEnd, LogLine, Reply};
use proto::request::Request;

use crate::client::Wake;
use crate::json;
use crate::measure;
use crate::render::Ink;
use crate::session::Session;
use crate::stop::{self, Stop};

/// Lines of each unit without `-n`.
const LINES: u64 = 50;

/// How lines are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// `Nov 22 01:54:05.123 unit: text`
    #[default]
    Short,
    /// The same with an RFC 3339 time
    Iso,
    /// The bytes alone
    Cat,
    /// One JSON object a line
    Json,
}

/// `-n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Everything that is kept.
    All,
    /// So many.
    Last(u64),
}

fn count(text: &str) -> Result<Count, String> {
    if text == "all" {
        return Ok(Count::All);
    }
    text.parse()
        .map(Count::Last)
        .map_err(|_| format!("\"{text}\" is neither a number nor \"all\""))
}

/// Flags of `logs`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile; none: all
    #[arg(value_name = "SELECTOR", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
    /// Go on as lines come
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the last lines of each unit, or "all" (50 without it)
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    pub lines: Option<Count>,
    /// How to print lines
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Give raw bytes to a terminal (-o cat)
    #[arg(long)]
    pub force: bool,
}

/// Prints lines, with `-f` until interrupted.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.global.json |= args.output == Some(Format::Json);
    let format = if session.global.json {
        Format::Json
    } else {
        args.output.unwrap_or_default()
    };
    let format = if format == Format::Short && session.global.iso {
        Format::Iso
    } else {
        format
    };
    if format == Format::Cat && session.out.is_terminal && !args.force {
        let message = "-o cat gives raw bytes, which may drive this terminal: refused";
        return Err(Stop::new(stop::REFUSED, message).hint("redirect it, or say --force"));
    }
    let lines = match args.lines.unwrap_or(Count::Last(LINES)) {
        Count::All => None,
        Count::Last(n) => Some(n),
    };
    let mut client = session.connect()?;
    let request = Request::Logs {
        selectors: args.units.clone(),
        follow: args.follow,
        lines,
    };
    if !args.follow {
        client.each(request, |reply| hear(session, format, reply))?;
        return Ok(stop::OK);
    }
    client.asks_for_life = false;
    let id = client.ask(request)?;
    loop {
        // What came together is written together; what came alone is not kept waiting.
        match client.wake(Some(Instant::now()))? {
            Wake::Time => {
                session.out.flush()?;
                if let Some(code) = follow(client.wake(None)?, id, |reply| hear(session, format, reply))? {
                    return Ok(code);
                }
            }
            wake => {
                if let Some(code) = follow(wake, id, |reply| hear(session, format, reply))? {
                    return Ok(code);
                }
            }
        }
    }
}

/// One step of following a stream: the exit code when it has ended.
pub fn follow(wake: Wake, id: u64, hear: impl FnOnce(Reply) -> Result<(), Stop>) -> Result<Option<u8>, Stop> {
    match wake {
        Wake::Reply(to, Reply::End) if to == id => Ok(Some(stop::OK)),
        Wake::Reply(to, Reply::Failed(failure)) if to == id => Err(failure.into()),
        Wake::Reply(to, reply) if to == id => hear(reply).map(|()| None),
        Wake::Reply(..) | Wake::Time | Wake::Again => Ok(None),
        Wake::Interrupted => Ok(Some(stop::INTERRUPTED)),
    }
}

fn hear(session: &mut Session, format: Format, reply: Reply) -> Result<(), Stop> {
    match reply {
        Reply::Logs(lines) => lines.iter().try_for_each(|line| print(session, format, line)),
        Reply::Lagged(count) => {
            crate::render::talk(&format!("{count} frames were dropped: this reader is too slow"));
            Ok(())
        }
        _ => Err(Stop::unexpected("a request for logs with something else")),
    }
}

fn print(session: &mut Session, format: Format, line: &LogLine) -> Result<(), Stop> {
    let style = &session.style;
    let time = match format {
        Format::Json => return json::line(&mut session.out, &json::LogBody::from(line)),
        Format::Cat => {
            session.out.bytes(&line.message)?;
            // A line that goes on in the next record is one line again.
            return if line.end == LineEnd::Continues {
                Ok(())
            } else {
                session.out.bytes(b"\n")
            };
        }
        Format::Short => measure::short(line.at_us, &style.zone),
        Format::Iso => measure::iso(line.at_us, &style.zone),
    };
    let end = match line.end {
        LineEnd::Whole => "",
        LineEnd::Continues => " [goes on]",
        LineEnd::Partial => " [no newline]",
    };
    let text = format!(
        "{} {}: {}{}",
        style.paint(Ink::Dim, &time),
        style.paint(Ink::Bold, &style.clean(&line.unit)),
        style.clean_bytes(&line.message),
        style.paint(Ink::Dim, end),
    );
    session.out.line(text)
}
