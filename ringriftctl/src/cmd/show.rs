//! `show`: a unit's definition, key by key, with where each value came from.

use clap::Args as ClapArgs;
use proto::reply::{Definition, Reply, Setting};
use proto::request::Request;
use serde::Serialize;

use crate::json;
use crate::render::Ink;
use crate::session::Session;
use crate::stop::{self, Stop};

/// How an origin reads that no file set.
const DEFAULT: &str = "default";

/// Flags of `show`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile
    #[arg(required = true, value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
    /// Also what no file sets
    #[arg(long)]
    pub effective: bool,
    /// Also where each value comes from
    #[arg(long)]
    pub origin: bool,
    /// Only this key, or all keys below it, set or not
    #[arg(short, long = "property", value_name = "KEY", value_delimiter = ',')]
    pub property: Vec<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    units: Vec<One<'a>>,
}

#[derive(Serialize)]
struct One<'a> {
    name: &'a str,
    files: Vec<&'a str>,
    settings: Vec<OneSetting<'a>>,
}

#[derive(Serialize)]
struct OneSetting<'a> {
    key: &'a str,
    value: &'a str,
    origin: &'a str,
}

/// Prints it.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    let mut client = session.connect()?;
    let mut found = Vec::new();
    for reply in client.collect(Request::Show {
        selectors: args.units.clone(),
    })? {
        match reply {
            Reply::Definition(d) => found.push(*d),
            _ => return Err(Stop::unexpected("a request for definitions with something else")),
        }
    }
    for key in &args.property {
        if let Some(d) = found
            .iter()
            .find(|d| !d.settings.iter().any(|s| is_below(&s.key, key)))
        {
            return Err(unknown_key(d, key));
        }
    }
    if session.global.json {
        let units = found
            .iter()
            .map(|d| One {
                name: &d.unit,
                files: d.files.iter().map(|f| f.path.as_str()).collect(),
                settings: chosen(d, args)
                    .map(|s| OneSetting {
                        key: &s.key,
                        value: &s.value,
                        origin: &s.origin,
                    })
                    .collect(),
            })
            .collect();
        json::document(&mut session.out, "show", &Body { units })?;
        return Ok(stop::OK);
    }
    let style = session.style.clone();
    for (i, definition) in found.iter().enumerate() {
        if i > 0 {
            session.out.line("")?;
        }
        if session.legend() && (args.property.is_empty() || found.len() > 1) {
            session
                .out
                .line(style.paint(Ink::Bold, &format!("# {}", style.clean(&definition.unit))))?;
        }
        for setting in chosen(definition, args) {
            let mut line = format!("{} = {}", style.clean(&setting.key), style.clean(&setting.value));
            if args.origin {
                line.push_str(&style.paint(Ink::Dim, &format!("  # {}", style.clean(&setting.origin))));
            }
            session.out.line(line)?;
        }
    }
    Ok(stop::OK)
}

fn chosen<'a>(definition: &'a Definition, args: &'a Args) -> impl Iterator<Item = &'a Setting> {
    definition.settings.iter().filter(|s| {
        if args.property.is_empty() {
            args.effective || s.origin != DEFAULT
        } else {
            args.property.iter().any(|key| is_below(&s.key, key))
        }
    })
}

fn is_below(key: &str, asked: &str) -> bool {
    key.strip_prefix(asked)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn unknown_key(definition: &Definition, key: &str) -> Stop {
    let near = crate::near::nearest(key, definition.settings.iter().map(|s| s.key.as_str()));
    let stop = Stop::usage(format!("{} has no key \"{key}\"", definition.unit));
    if near.is_empty() {
        stop
    } else {
        stop.hint(format!("did you mean {}?", near.join(", ")))
    }
}
