//! `cat`: a unit's files as the daemon read them, which may differ from what is on the disk by now.

use clap::Args as ClapArgs;
use proto::reply::Reply;
use proto::request::Request;
use serde::Serialize;

use crate::json;
use crate::render::Ink;
use crate::session::Session;
use crate::stop::{self, Stop};

/// Flags of `cat`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Units: names, globs (s3_*), @category, %profile
    #[arg(required = true, value_name = "UNIT", value_hint = clap::ValueHint::Hostname)]
    pub units: Vec<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    units: Vec<One<'a>>,
}

#[derive(Serialize)]
struct One<'a> {
    name: &'a str,
    files: Vec<OneFile<'a>>,
}

#[derive(Serialize)]
struct OneFile<'a> {
    path: &'a str,
    text: &'a str,
}

/// Prints them.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    let mut client = session.connect()?;
    let mut found = Vec::new();
    for reply in client.collect(Request::Cat {
        selectors: args.units.clone(),
    })? {
        match reply {
            Reply::Definition(d) => found.push(*d),
            _ => return Err(Stop::unexpected("a request for files with something else")),
        }
    }
    if session.global.json {
        let units = found
            .iter()
            .map(|d| One {
                name: &d.unit,
                files: d
                    .files
                    .iter()
                    .map(|f| OneFile {
                        path: &f.path,
                        text: &f.text,
                    })
                    .collect(),
            })
            .collect();
        json::document(&mut session.out, "cat", &Body { units })?;
        return Ok(stop::OK);
    }
    let style = session.style.clone();
    let mut first = true;
    for file in found.iter().flat_map(|d| &d.files) {
        if !std::mem::take(&mut first) {
            session.out.line("")?;
        }
        if session.legend() {
            session
                .out
                .line(style.paint(Ink::Dim, &format!("# {}", style.clean(&file.path))))?;
        }
        if session.out.is_terminal {
            file.text
                .lines()
                .try_for_each(|l| session.out.line(style.clean(l)))?;
        } else {
            session.out.bytes(file.text.as_bytes())?;
            if !file.text.ends_with('\n') {
                session.out.bytes(b"\n")?;
            }
        }
    }
    Ok(stop::OK)
}
