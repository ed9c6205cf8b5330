//! `upgrade`: another binary takes the running ringriftd's place, with every unit as it is. Done when it serves; else the
//! old one is back.

use std::path::PathBuf;

use clap::Args as ClapArgs;
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
    from: &'a str,
    to: &'a str,
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
    let mut client = session.connect()?;
    let mut done = None;
    for reply in client.collect(Request::Upgrade { binary })? {
        match reply {
            Reply::Upgraded(upgraded) => done = Some(upgraded),
            _ => return Err(Stop::unexpected("an upgrade with something else")),
        }
    }
    let done = done.ok_or_else(|| Stop::unexpected("an upgrade without saying what it did"))?;
    if session.global.json {
        let body = Body {
            from: &done.from,
            to: &done.to,
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
