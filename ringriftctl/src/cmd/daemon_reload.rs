//! `daemon-reload`: the daemon reads all files again, and takes all or nothing.

use proto::reply::{Reloaded, Reply};
use proto::request::Request;
use serde::Serialize;

use crate::json;
use crate::render::{Ink, talk};
use crate::session::Session;
use crate::stop::{self, Stop};

#[derive(Serialize)]
struct Body<'a> {
    added: &'a [String],
    removed: &'a [String],
    needs_restart: &'a [String],
    warnings: &'a [String],
}

/// Asks, and tells what changed. Every fault comes as the failure's details.
pub fn run(session: &mut Session) -> Result<u8, Stop> {
    session.out.forgiving = true;
    let mut client = session.connect()?;
    let mut done: Option<Reloaded> = None;
    for reply in client.collect(Request::DaemonReload)? {
        match reply {
            Reply::Reloaded(reloaded) => done = Some(reloaded),
            _ => return Err(Stop::unexpected("a reload with something else")),
        }
    }
    let done = done.ok_or_else(|| Stop::unexpected("a reload without saying what it did"))?;
    if session.global.json {
        let Reloaded {
            added,
            removed,
            needs_restart,
            warnings,
        } = &done;
        json::document(
            &mut session.out,
            "daemon-reload",
            &Body {
                added,
                removed,
                needs_restart,
                warnings,
            },
        )?;
        return Ok(stop::OK);
    }
    let style = session.style.clone();
    for line in done.warnings.iter().flat_map(|w| w.split('\n')) {
        talk(&style.clean(line));
    }
    for (word, ink, units) in [
        ("added", Ink::Good, &done.added),
        ("removed", Ink::Warn, &done.removed),
        ("needs restart", Ink::Warn, &done.needs_restart),
    ] {
        for unit in units {
            session.out.line(format!(
                "{}  {}",
                style.paint(ink, &format!("{word:13}")),
                style.clean(unit)
            ))?;
        }
    }
    if done.added.is_empty() && done.removed.is_empty() && done.needs_restart.is_empty() {
        session.say("nothing changed");
    }
    Ok(stop::OK)
}
