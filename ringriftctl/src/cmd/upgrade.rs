//! `upgrade`: another binary takes the running ringriftd's place, with every unit as it is. Done when it serves; else the
//! old one is back. Where the new one speaks another protocol this program cannot ask it what came of it, and need not: that it is
//! there is the answer.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use proto::frame::VERSION;
use proto::reply::Reply;
use proto::request::Request;
use serde::Serialize;

use crate::json;
use crate::session::Session;
use crate::stop::{self, Stop};

/// Flags of `upgrade`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// The new ringriftd (else the file that the running one was started from)
    #[arg(value_name = "BINARY", value_hint = clap::ValueHint::ExecutablePath)]
    pub binary: Option<PathBuf>,
}

#[derive(Serialize)]
struct Body<'a> {
    /// The versions; absent where the new one cannot be asked.
    from: Option<&'a str>,
    to: Option<&'a str>,
    /// The protocol that is spoken from now on.
    protocol: u32,
}

/// Asks, waits until the new one answers, and tells.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    session.out.forgiving = true;
    let binary = match &args.binary {
        None => None,
        Some(path) => {
            // The daemon has another working folder.
            let whole = std::path::absolute(path)
                .map_err(|e| Stop::usage(format!("cannot find {}: {e}", path.display())))?;
            let text = whole.into_os_string().into_string();
            Some(text.map_err(|_| Stop::usage(format!("{} is not UTF-8", path.display())))?)
        }
    };
    let beside = binary.as_deref().and_then(program_beside);
    let mut client = session.connect()?;
    let mut done = None;
    let replies = match (client.collect(Request::Upgrade { binary }), client.succeeded_by) {
        (Err(_), Some(protocol)) => return tell_other(session, protocol, beside),
        (replies, _) => replies?,
    };
    for reply in replies {
        match reply {
            Reply::Upgraded(upgraded) => done = Some(upgraded),
            _ => return Err(Stop::unexpected("an upgrade with something else")),
        }
    }
    let done = done.ok_or_else(|| Stop::unexpected("an upgrade without saying what it did"))?;
    if session.global.json {
        let body = Body {
            from: Some(&done.from),
            to: Some(&done.to),
            protocol: VERSION,
        };
        json::document(&mut session.out, "upgrade", &body)?;
        return Ok(stop::OK);
    }
    let style = session.style.clone();
    session.out.line(format!(
        "ringriftd {} {} {}",
        style.clean(&done.from),
        style.pick("→", "->"),
        style.clean(&done.to)
    ))?;
    Ok(stop::OK)
}

/// The ringriftctl in the folder of the new ringriftd, if there is one.
fn program_beside(binary: &str) -> Option<PathBuf> {
    let beside = Path::new(binary).with_file_name("ringriftctl");
    beside.is_file().then_some(beside)
}

/// It worked, and whoever serves now is another program than this one can talk to.
fn tell_other(session: &mut Session, protocol: u32, beside: Option<PathBuf>) -> Result<u8, Stop> {
    if session.global.json {
        let body = Body {
            from: None,
            to: None,
            protocol,
        };
        json::document(&mut session.out, "upgrade", &body)?;
        return Ok(stop::OK);
    }
    let next = match beside {
        Some(path) => session.style.clean(&path.display().to_string()),
        None => "the ringriftctl that came with it".to_owned(),
    };
    session.out.line(format!(
        "ringriftd was upgraded: it speaks protocol {protocol} now, and this ringriftctl protocol {VERSION}; from now on use {next}"
    ))?;
    Ok(stop::OK)
}
