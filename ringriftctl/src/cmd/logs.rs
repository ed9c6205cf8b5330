//! `logs`: what units wrote. One record is one line; only `-o cat` gives the bytes as they are.

use clap::Args as ClapArgs;
use proto::log::{Severity, Stream};
use proto::reply::{LineEnd, LogLine, Reply};
use proto::request::{LogFilter, LogLife, Request};

use crate::json;
use crate::measure::{self, Since};
use crate::render::Ink;
use crate::session::Session;
use crate::since;
use crate::stop::{self, Stop};
use crate::stream;

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

/// The number of a life in the log, or the 32 hex digits of its invocation, which end with it.
fn life(text: &str) -> Result<u64, String> {
    let serial = match text.len() {
        32 => text.get(16..).map(|serial| u64::from_str_radix(serial, 16)),
        _ => Some(text.parse()),
    };
    serial.and_then(Result::ok).ok_or_else(|| {
        format!("\"{text}\" is neither the number of a life nor an invocation of 32 hex digits")
    })
}

fn severity(text: &str) -> Result<Severity, String> {
    let by_number = text.parse().ok().and_then(Severity::of);
    by_number.or_else(|| Severity::named(text)).ok_or_else(|| {
        let words: Vec<&str> = Severity::ALL.iter().map(|severity| severity.word()).collect();
        format!(
            "\"{text}\" is none of {}, and no number from 0 to 7",
            words.join(", ")
        )
    })
}

/// Small letters match capital ones too, unless there is a capital one in the pattern (as journalctl -g has it). What
/// follows a backslash is no letter of the text.
fn fold_case(pattern: &str) -> String {
    let mut is_escaped = false;
    let has_capital = pattern.chars().any(|letter| {
        let was_escaped = is_escaped;
        is_escaped = !was_escaped && letter == '\\';
        !was_escaped && letter.is_uppercase()
    });
    if has_capital {
        pattern.to_owned()
    } else {
        format!("(?i){pattern}")
    }
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
    /// How many of the last lines of each unit, or "all" (50 without it; all when only some are asked for)
    #[arg(short = 'n', long, value_name = "N", value_parser = count)]
    pub lines: Option<Count>,
    /// Only lines since then: -1h, "10 min ago", a date and time, boot, last-failure
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Only lines until then
    #[arg(
        long,
        value_name = "TIME",
        allow_hyphen_values = true,
        conflicts_with = "follow"
    )]
    pub until: Option<String>,
    /// Only lines that match; without a capital letter in it, capital and small letters are the same
    #[arg(short = 'g', long, value_name = "REGEX")]
    pub grep: Option<String>,
    /// Only lines as grave as this or graver: emerg, alert, crit, err, warning, notice, info, debug, or 0 to 7; a line that
    /// does not say counts as info
    #[arg(short = 'p', long, value_name = "LEVEL", value_parser = severity)]
    pub priority: Option<Severity>,
    /// Only lines of stderr, of units that tell it apart ([log] split)
    #[arg(long)]
    pub stderr: bool,
    /// Only lines of the life before the present or last one
    #[arg(long, conflicts_with = "invocation")]
    pub previous: bool,
    /// Only lines of this life: its number in the log, or the invocation that `status UNIT` shows
    #[arg(long, value_name = "N", value_parser = life)]
    pub invocation: Option<u64>,
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
    let read = |text: &Option<String>| text.as_deref().map(|text| since::read(session, text)).transpose();
    let (since, until) = (read(&args.since)?, read(&args.until)?);
    let mut client = session.connect()?;
    let mut time = |since: Option<Since>| match since {
        Some(since) => {
            since::moment(session, &mut client, &args.units, since).map(|moment| Some(moment.at_us))
        }
        None => Ok(None),
    };
    let filter = LogFilter {
        since_us: time(since)?,
        until_us: time(until)?,
        pattern: args.grep.as_deref().map(fold_case),
        life: match args.invocation {
            Some(serial) => Some(LogLife::Is(serial)),
            None => args.previous.then_some(LogLife::Previous),
        },
        severity: args.priority,
        stream: args.stderr.then_some(Stream::Stderr),
        seen: Vec::new(),
    };
    let lines = match args.lines {
        Some(Count::All) => None,
        Some(Count::Last(n)) => Some(n),
        // Who asks for some of them wants those.
        None => (filter == LogFilter::default()).then_some(LINES),
    };
    let request = Request::Logs {
        selectors: args.units.clone(),
        follow: args.follow,
        lines,
        filter,
    };
    let mut shown = Shown { format, seed: None };
    if !args.follow {
        client.each(request, |reply| hear(session, &mut shown, reply))?;
        return Ok(stop::OK);
    }
    client.asks_for_life = false;
    stream::follow(session, &mut client, request, |session, reply| {
        hear(session, &mut shown, reply)
    })
}

/// How a line of this severity looks, on a terminal.
fn ink(severity: Option<Severity>) -> Ink {
    match severity {
        Some(Severity::Emerg | Severity::Alert | Severity::Crit | Severity::Err) => Ink::Bad,
        Some(Severity::Warning) => Ink::Warn,
        Some(Severity::Notice) => Ink::Bold,
        Some(Severity::Debug) => Ink::Dim,
        Some(Severity::Info) | None => Ink::Plain,
    }
}

/// How lines are shown.
#[derive(Debug, Clone, Copy)]
struct Shown {
    format: Format,
    /// The node's, once it is known.
    seed: Option<u64>,
}

fn hear(session: &mut Session, shown: &mut Shown, reply: Reply) -> Result<(), Stop> {
    match reply {
        Reply::Seed(seed) => {
            shown.seed = Some(seed);
            Ok(())
        }
        Reply::Logs(lines) => lines.iter().try_for_each(|line| print(session, *shown, line)),
        Reply::Warning(text) => {
            crate::render::talk(&text);
            Ok(())
        }
        Reply::Lagged(count) => {
            crate::render::talk(&format!(
                "{count} lines were rotated away before they could be read: this reader is too slow"
            ));
            Ok(())
        }
        _ => Err(Stop::unexpected("a request for logs with something else")),
    }
}

fn print(session: &mut Session, shown: Shown, line: &LogLine) -> Result<(), Stop> {
    let style = &session.style;
    let time = match shown.format {
        Format::Json => return json::line(&mut session.out, &json::LogBody::new(line, shown.seed)),
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
        style.paint(Ink::of_name(&line.unit), &style.clean(&line.unit)),
        style.paint(ink(line.severity), &style.clean_bytes(&line.message)),
        style.paint(Ink::Dim, end),
    );
    session.out.line(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capital_letter_makes_capitals_count() {
        assert_eq!(fold_case("error"), "(?i)error");
        assert_eq!(fold_case("Error"), "Error");
        assert_eq!(fold_case(r"\D+\S"), r"(?i)\D+\S");
        assert_eq!(fold_case(r"\\D"), r"\\D");
        assert_eq!(fold_case(""), "(?i)");
    }

    #[test]
    fn a_life_is_a_number_or_an_invocation() {
        assert_eq!(life("42"), Ok(42));
        assert_eq!(life("00000000000000010000000000000a0f"), Ok(0xa0f));
        for text in ["", "-1", "0x2", "zz000000000000010000000000000a0g"] {
            assert!(life(text).is_err(), "{text}");
        }
    }
}
