//! `profile`: which there are, who is in one, and which units are in none.

use clap::{Args as ClapArgs, Subcommand};
use proto::reply::{Coverage, Profile, ProfileSummary, Reply};
use proto::request::Request;
use serde::Serialize;

use crate::json;
use crate::render::{Ink, Table, cell};
use crate::session::Session;
use crate::stop::{self, Stop};

/// Flags of `profile`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub what: What,
}

/// The verbs below `profile`.
#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// The profiles that are known
    List,
    /// One profile's members in start order
    Show {
        /// Its name
        #[arg(value_name = "PROFILE")]
        name: String,
    },
    /// Units in no profile, by lifecycle
    Coverage,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    description: &'a str,
    active: bool,
    listed: u32,
    total: u32,
}

impl<'a> From<&'a ProfileSummary> for Row<'a> {
    fn from(p: &'a ProfileSummary) -> Self {
        Self {
            name: &p.name,
            description: &p.description,
            active: p.active,
            listed: p.listed,
            total: p.total,
        }
    }
}

#[derive(Serialize)]
struct ListBody<'a> {
    profiles: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct ShowBody<'a> {
    #[serde(flatten)]
    profile: Row<'a>,
    members: Vec<MemberBody<'a>>,
}

#[derive(Serialize)]
struct MemberBody<'a> {
    unit: &'a str,
    position: Option<u32>,
    wave: u32,
    added_by: Option<&'a str>,
    deprecated: bool,
}

#[derive(Serialize)]
struct CoverageBody<'a> {
    profiles: Vec<Row<'a>>,
    orphans: Vec<OrphanBody<'a>>,
}

#[derive(Serialize)]
struct OrphanBody<'a> {
    unit: &'a str,
    lifecycle: &'a str,
    description: &'a str,
}

/// Asks and prints.
pub fn run(session: &mut Session, args: &Args) -> Result<u8, Stop> {
    let mut client = session.connect()?;
    let request = match &args.what {
        What::List => Request::Profiles,
        What::Show { name } => Request::Profile { name: name.clone() },
        What::Coverage => Request::Coverage,
    };
    for reply in client.collect(request)? {
        match (&args.what, reply) {
            (What::List, Reply::Profiles(profiles)) => list(session, &profiles)?,
            (What::Show { .. }, Reply::Profile(profile)) => show(session, &profile)?,
            (What::Coverage, Reply::Coverage(c)) => coverage(session, &c)?,
            _ => return Err(Stop::unexpected("a request for profiles with something else")),
        }
    }
    Ok(stop::OK)
}

fn rows(session: &mut Session, profiles: &[ProfileSummary]) -> Result<(), Stop> {
    let style = session.style.clone();
    let mut table = Table::new(&["PROFILE", "ACTIVE", "LISTED", "UNITS", "DESCRIPTION"]);
    for p in profiles {
        table.row(vec![
            cell(
                if p.active { Ink::Good } else { Ink::Plain },
                style.clean(&p.name),
            ),
            cell(Ink::Plain, if p.active { "yes" } else { "no" }),
            cell(Ink::Plain, p.listed.to_string()),
            cell(Ink::Plain, p.total.to_string()),
            cell(Ink::Dim, style.clean(&p.description)),
        ]);
    }
    let legend = session.legend();
    table.print(&mut session.out, &style, legend, false)
}

fn list(session: &mut Session, profiles: &[ProfileSummary]) -> Result<(), Stop> {
    if session.global.json {
        let profiles = profiles.iter().map(Row::from).collect();
        return json::document(&mut session.out, "profile-list", &ListBody { profiles });
    }
    rows(session, profiles)
}

fn show(session: &mut Session, profile: &Profile) -> Result<(), Stop> {
    if session.global.json {
        let members = profile
            .members
            .iter()
            .map(|m| MemberBody {
                unit: &m.unit,
                position: m.position,
                wave: m.wave,
                added_by: m.added_by.as_deref(),
                deprecated: m.deprecated,
            })
            .collect();
        let body = ShowBody {
            profile: Row::from(&profile.summary),
            members,
        };
        return json::document(&mut session.out, "profile-show", &body);
    }
    let style = session.style.clone();
    let s = &profile.summary;
    if session.legend() {
        let active = if s.active { ", active" } else { "" };
        let text = format!("{} listed, {} with what they need{active}", s.listed, s.total);
        let name = style.paint(Ink::Bold, &style.clean(&s.name));
        session
            .out
            .line(format!("{name} - {}: {text}", style.clean(&s.description)))?;
        session.out.line("")?;
    }
    let mut table = Table::new(&["UNIT", "POSITION", "WAVE", "NOTE"]);
    for m in &profile.members {
        let mut note = Vec::new();
        note.extend(
            m.added_by
                .as_deref()
                .map(|by| format!("added by {}", style.clean(by))),
        );
        note.extend(m.deprecated.then(|| "deprecated".to_owned()));
        table.row(vec![
            cell(Ink::Plain, style.clean(&m.unit)),
            cell(Ink::Plain, m.position.map(|p| p.to_string()).unwrap_or_default()),
            cell(Ink::Plain, m.wave.to_string()),
            cell(Ink::Dim, note.join("; ")),
        ]);
    }
    let legend = session.legend();
    table.print(&mut session.out, &style, legend, false)
}

fn coverage(session: &mut Session, coverage: &Coverage) -> Result<(), Stop> {
    if session.global.json {
        let orphans = coverage
            .orphans
            .iter()
            .map(|o| OrphanBody {
                unit: &o.unit,
                lifecycle: &o.lifecycle,
                description: &o.description,
            })
            .collect();
        let profiles = coverage.profiles.iter().map(Row::from).collect();
        return json::document(
            &mut session.out,
            "profile-coverage",
            &CoverageBody { profiles, orphans },
        );
    }
    let style = session.style.clone();
    rows(session, &coverage.profiles)?;
    let count = coverage.orphans.len();
    session.out.line("")?;
    session.out.line(match count {
        0 => "every unit is in a profile".to_owned(),
        1 => "1 unit is in no profile:".to_owned(),
        _ => format!("{count} units are in no profile:"),
    })?;
    if count == 0 {
        return Ok(());
    }
    let mut orphans: Vec<_> = coverage.orphans.iter().collect();
    orphans.sort_by(|a, b| (&a.lifecycle, &a.unit).cmp(&(&b.lifecycle, &b.unit)));
    let mut table = Table::new(&["UNIT", "LIFECYCLE", "DESCRIPTION"]);
    for o in orphans {
        table.row(vec![
            cell(Ink::Plain, style.clean(&o.unit)),
            cell(Ink::Plain, style.clean(&o.lifecycle)),
            cell(Ink::Dim, style.clean(&o.description)),
        ]);
    }
    let legend = session.legend();
    table.print(&mut session.out, &style, legend, false)
}
