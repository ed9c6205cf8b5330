//! `failed`: the units that are down for good, each with its reason and its last words.

use clap::Args as ClapArgs;
use proto::reply::State;
use proto::request::Depth;

use crate::capsule;
use crate::json;
use crate::measure;
use crate::render::{Ink, Table, cell};
use crate::session::{Rows, Session};
use crate::stop::{self, Stop};
use crate::units;

/// Flags of `failed`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// How to print rows
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Rows>,
}

/// Prints them; 1 when there are some.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.global.json |= args.output == Some(Rows::Json);
    let mut client = session.connect()?;
    let (_, mut found) = units::ask(&mut client, &[], Depth::Usage, true)?;
    found.retain(|u| u.state == State::Failed);
    if !found.is_empty() {
        // Last lines are read from disk: only for those that need them. One that was mended meanwhile drops out.
        let names: Vec<_> = found.iter().map(|u| u.name.clone()).collect();
        found = units::ask(&mut client, &names, Depth::Detail, false)?.1;
        found.retain(|u| u.state == State::Failed);
        found.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let code = if found.is_empty() { stop::OK } else { stop::FAILED };
    match args.output {
        _ if session.global.json => {
            let body = json::UnitsBody::new(&found, session.style.now_us);
            json::document(&mut session.out, "failed", &body)?;
        }
        Some(Rows::Json | Rows::Jsonl | Rows::Name) => units::print(session, "failed", &found, args.output)?,
        None | Some(Rows::Wide) => {
            if found.is_empty() {
                session.say("no unit is failed");
                return Ok(code);
            }
            let style = session.style.clone();
            let mut table = Table::new(&["UNIT", "REASON", "EXIT", "AT", "TRIES", "LAST-LINE"]);
            for unit in &found {
                // The last words of the life that failed; a hook may have written since.
                let failure = unit.capsules.last();
                let line = failure.and_then(|f| f.tail.last()).or(unit.last_lines.last());
                let last = line.map(|l| style.clean_bytes(&l.message));
                let at = failure
                    .map(|f| f.at_us)
                    .or(unit.last_exit.map(|e| e.at_us))
                    .unwrap_or(unit.since_us);
                let exit = match (failure, unit.last_exit) {
                    (Some(failure), _) => capsule::exit(failure),
                    (None, Some(last)) => measure::exit(last.exit),
                    (None, None) => String::new(),
                };
                table.row(vec![
                    cell(Ink::Bad, style.clean(&unit.name)),
                    cell(
                        Ink::Plain,
                        unit.last_error
                            .as_deref()
                            .map(|e| style.clean(e))
                            .unwrap_or_default(),
                    ),
                    cell(Ink::Plain, exit),
                    cell(Ink::Plain, style.ago(at)),
                    cell(Ink::Plain, unit.starts.to_string()),
                    cell(Ink::Dim, last.unwrap_or_default()),
                ]);
            }
            let legend = session.legend();
            table.print(&mut session.out, &style, legend, args.output == Some(Rows::Wide))?;
        }
    }
    Ok(code)
}
