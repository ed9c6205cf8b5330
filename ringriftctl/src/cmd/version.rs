//! `version`: of both sides, and where the daemon keeps its things.

use proto::frame::VERSION;
use proto::reply::{Reply, VersionInfo};
use proto::request::Request;
use serde::Serialize;

use crate::json;
use crate::render::Ink;
use crate::session::Session;
use crate::stop::{self, Stop};

const OURS: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize)]
struct Body<'a> {
    client: Side<'a>,
    daemon: Daemon<'a>,
}

#[derive(Serialize)]
struct Side<'a> {
    version: &'a str,
    protocol: u32,
}

#[derive(Serialize)]
struct Daemon<'a> {
    #[serde(flatten)]
    side: Side<'a>,
    keeper_pid: u32,
    manager_pid: u32,
    logger_pid: u32,
    config: Option<&'a str>,
    units: &'a [String],
    profiles: &'a [String],
    runtime_dir: &'a str,
    state_dir: &'a str,
    log_dir: &'a str,
    socket: String,
}

/// Prints both; this side's also when there is no daemon.
pub fn run(session: &mut Session) -> Result<u8, Stop> {
    if !session.global.json {
        session
            .out
            .line(format!("ringriftctl {OURS}, protocol {VERSION}"))?;
    }
    let mut client = session.connect()?;
    let mut found: Option<VersionInfo> = None;
    for reply in client.collect(Request::Version)? {
        match reply {
            Reply::Version(info) => found = Some(info),
            _ => return Err(Stop::unexpected("a request for versions with something else")),
        }
    }
    let info = found.ok_or_else(|| Stop::unexpected("a request for versions with nothing"))?;
    if session.global.json {
        let body = Body {
            client: Side {
                version: OURS,
                protocol: VERSION,
            },
            daemon: Daemon {
                side: Side {
                    version: &info.version,
                    protocol: info.protocol,
                },
                keeper_pid: info.keeper_pid,
                manager_pid: info.manager_pid,
                logger_pid: info.logger_pid,
                config: info.config.as_deref(),
                units: &info.units,
                profiles: &info.profiles,
                runtime_dir: &info.runtime_dir,
                state_dir: &info.state_dir,
                log_dir: &info.log_dir,
                socket: client.socket.display().to_string(),
            },
        };
        json::document(&mut session.out, "version", &body)?;
        return Ok(stop::OK);
    }
    let style = session.style.clone();
    session.out.line(format!(
        "ringriftd {}, protocol {}",
        style.clean(&info.version),
        info.protocol
    ))?;
    let rows = [
        (
            "pids",
            format!(
                "keeper {}, manager {}, logger {}",
                info.keeper_pid, info.manager_pid, info.logger_pid
            ),
        ),
        ("config", info.config.clone().unwrap_or_else(|| "none".to_owned())),
        ("units", info.units.join(", ")),
        ("profiles", info.profiles.join(", ")),
        ("run time", info.runtime_dir),
        ("state", info.state_dir),
        ("logs", info.log_dir),
        ("socket", client.socket.display().to_string()),
    ];
    for (key, value) in rows {
        let key = style.paint(Ink::Dim, &format!("{key:>10}"));
        session.out.line(format!("{key}  {}", style.clean(&value)))?;
    }
    Ok(stop::OK)
}
