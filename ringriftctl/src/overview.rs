//! What an operator has to know first, as pure functions over what the daemon told: the verdict on the node, what is
//! wrong by its root cause with what it holds up, and what to type next. `status` prints it and `top` draws it.
//!
//! A unit that waits is never a trouble of its own: it is counted to whatever it waits for in the end.

use std::collections::{BTreeMap, BTreeSet};

use proto::reply::{Health, NodeStatus, State, UnitStatus};

use crate::measure;
use crate::render::{Ink, Style};
use crate::session::{state_ink, state_mark, state_word};

/// How the node is, in one word; the later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything wanted is up.
    Well,
    /// Nothing is wanted.
    Idle,
    /// On its way up.
    Starting,
    /// On its way down.
    Stopping,
    /// Not everything wanted is up or well; what is not, is tried again or waits for an operator.
    Degraded,
    /// A unit is down for good.
    Failed,
}

impl Level {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Stopping => "stopping",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }

    /// Its colour.
    pub fn ink(self) -> Ink {
        match self {
            Self::Well => Ink::Good,
            Self::Idle => Ink::Dim,
            Self::Starting | Self::Stopping | Self::Degraded => Ink::Warn,
            Self::Failed => Ink::Bad,
        }
    }

    /// Its symbol.
    pub fn mark(self, style: &Style) -> &'static str {
        match self {
            Self::Well => style.pick("●", "*"),
            Self::Idle => style.pick("○", "-"),
            Self::Starting | Self::Stopping => style.pick("◐", "~"),
            Self::Degraded => style.pick("▲", "!"),
            Self::Failed => style.pick("✗", "x"),
        }
    }
}

/// The verdict on the node and the sentence that says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// In one word.
    pub level: Level,
    /// Why, in one sentence.
    pub sentence: String,
}

/// `1 unit`, `3 units`, with the right word.
fn of_units(n: u32, all: u32) -> String {
    let word = if all == 1 { "unit" } else { "units" };
    format!("{n} of {all} {word}")
}

/// Judges the node: the worst that is true of it.
pub fn verdict(node: &NodeStatus, found: &[UnitStatus]) -> Verdict {
    let s = node.summary;
    let fine = s.running + s.completed;
    let moving = s.starting + s.waiting;
    let is_up = |u: &&UnitStatus| matches!(u.state, State::Running | State::Reloading);
    let unwell = |health: Health| found.iter().filter(is_up).filter(|u| u.health == health).count();
    let (unhealthy, degraded) = (unwell(Health::Unhealthy), unwell(Health::Degraded));
    let held = node
        .breakers
        .iter()
        .flat_map(|b| &b.held)
        .collect::<BTreeSet<_>>()
        .len();
    let say = |level, sentence: String| Verdict { level, sentence };
    if node.stopping {
        let up = of_units(s.running + s.stopping, s.wanted);
        return say(Level::Stopping, format!("shutting down, {up} still up"));
    }
    let mut also = Vec::new();
    if s.backoff > 0 {
        also.push(format!("{} to be tried again", s.backoff));
    }
    if unhealthy + degraded > 0 {
        also.push(format!("{} not healthy", unhealthy + degraded));
    }
    if s.waiting > 0 {
        also.push(format!("{} waiting", s.waiting));
    }
    let with = |first: String| {
        let mut all = vec![first];
        all.extend(also.iter().cloned());
        all.join(", ")
    };
    if s.failed > 0 {
        say(
            Level::Failed,
            with(format!("{} down for good", of_units(s.failed, s.wanted))),
        )
    } else if s.backoff > 0 || unhealthy + degraded > 0 {
        say(Level::Degraded, with(format!("{} up", of_units(fine, s.wanted))))
    } else if s.wanted == 0 {
        say(Level::Idle, "no unit is wanted".to_owned())
    } else if held > 0 {
        say(
            Level::Degraded,
            format!("{} up, {held} held back by a breaker", of_units(fine, s.wanted)),
        )
    } else if s.starting == 0 && node.settled && s.waiting > 0 {
        // Everything was tried; what waits, waits for a unit that an operator stopped.
        say(
            Level::Degraded,
            format!(
                "{} up, {} held back by units that are stopped",
                of_units(fine, s.wanted),
                s.waiting
            ),
        )
    } else if moving > 0 || !node.settled {
        say(Level::Starting, format!("{} up", of_units(fine, s.wanted)))
    } else if fine < s.wanted {
        say(Level::Degraded, format!("{} up", of_units(fine, s.wanted)))
    } else if s.wanted == 1 {
        say(Level::Well, "its 1 unit is up".to_owned())
    } else {
        say(Level::Well, format!("all {} units are up", s.wanted))
    }
}

/// How much a unit's row should be seen, the worst first: rows are sorted by it.
pub fn rank(unit: &UnitStatus) -> u8 {
    match unit.state {
        State::Failed => 0,
        _ if !unit.remains.is_empty() => 0,
        State::Backoff => 1,
        State::Running | State::Reloading if unit.health == Health::Unhealthy => 1,
        State::Running | State::Reloading if unit.health == Health::Degraded => 2,
        State::Waiting => 3,
        State::Starting | State::Stopping => 4,
        State::Held | State::Stopped => 5,
        State::Running | State::Reloading | State::Completed => 6,
    }
}

/// What is wrong with a unit; the earlier, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Down for good.
    Failed,
    /// It was to be stopped, and something of it is still there.
    Remains,
    /// It runs and does not work.
    Unhealthy,
    /// It ended, and is tried again.
    Backoff,
    /// It is down because an operator wants it so, and others wait for it.
    Down,
    /// It works, but not well.
    Degraded,
}

/// One root cause.
#[derive(Debug, Clone)]
pub struct Trouble<'a> {
    /// The unit that is wrong itself.
    pub name: &'a str,
    /// What is known of it; nothing when the daemon did not list it.
    pub unit: Option<&'a UnitStatus>,
    /// What is wrong.
    pub kind: Kind,
    /// What those that wait for it were told, if nothing else is known.
    pub why: &'a str,
    /// Who waits for it, at whatever distance, by name.
    pub holds_up: BTreeSet<&'a str>,
}

fn kind(unit: &UnitStatus) -> Option<Kind> {
    match (unit.state, unit.health) {
        (State::Failed, _) => Some(Kind::Failed),
        _ if !unit.remains.is_empty() => Some(Kind::Remains),
        (State::Backoff, _) => Some(Kind::Backoff),
        (State::Running | State::Reloading, Health::Unhealthy) => Some(Kind::Unhealthy),
        (State::Running | State::Reloading, Health::Degraded) => Some(Kind::Degraded),
        _ => None,
    }
}

/// The root causes, worst first, among equals the one first that holds up the most.
pub fn troubles(found: &[UnitStatus]) -> Vec<Trouble<'_>> {
    let by_name: BTreeMap<&str, &UnitStatus> = found.iter().map(|u| (u.name.as_str(), u)).collect();
    let waits = |u: &UnitStatus| matches!(u.state, State::Waiting | State::Held) && !u.blocked_by.is_empty();
    let mut roots: BTreeMap<&str, Trouble<'_>> = BTreeMap::new();
    for unit in found {
        if let Some(kind) = kind(unit) {
            let trouble = Trouble {
                name: &unit.name,
                unit: Some(unit),
                kind,
                why: "",
                holds_up: BTreeSet::new(),
            };
            roots.insert(&unit.name, trouble);
        }
    }
    for unit in found.iter().filter(|u| u.state == State::Waiting) {
        let mut seen = BTreeSet::from([unit.name.as_str()]);
        let mut open = vec![unit];
        while let Some(next) = open.pop() {
            for blocker in next.blocked_by.iter().filter(|b| !b.unit.is_empty()) {
                if !seen.insert(&blocker.unit) {
                    continue;
                }
                let known = by_name.get(blocker.unit.as_str()).copied();
                if let Some(root) = roots.get_mut(blocker.unit.as_str()) {
                    root.holds_up.insert(&unit.name);
                } else if let Some(known) = known.filter(|u| u.state == State::Waiting && waits(u)) {
                    open.push(known);
                } else if known.is_none_or(|u| matches!(u.state, State::Stopped | State::Held)) {
                    let root = roots.entry(&blocker.unit).or_insert(Trouble {
                        name: &blocker.unit,
                        unit: known,
                        kind: Kind::Down,
                        why: &blocker.why,
                        holds_up: BTreeSet::new(),
                    });
                    root.holds_up.insert(&unit.name);
                }
            }
        }
    }
    let mut list: Vec<_> = roots.into_values().collect();
    list.sort_by_key(|t| (t.kind, std::cmp::Reverse(t.holds_up.len()), t.name));
    list
}

impl Trouble<'_> {
    /// Its symbol.
    pub fn mark(&self, style: &Style) -> &'static str {
        match self.kind {
            Kind::Failed => state_mark(style, State::Failed),
            Kind::Remains => style.pick("✗", "x"),
            Kind::Backoff => state_mark(style, State::Backoff),
            Kind::Down => self
                .unit
                .map_or(style.pick("○", "-"), |u| state_mark(style, u.state)),
            Kind::Unhealthy | Kind::Degraded => style.pick("▲", "!"),
        }
    }

    /// Its colour.
    pub fn ink(&self) -> Ink {
        match self.kind {
            Kind::Failed | Kind::Remains | Kind::Unhealthy => Ink::Bad,
            Kind::Backoff | Kind::Degraded => Ink::Warn,
            Kind::Down => self.unit.map_or(Ink::Dim, |u| state_ink(u.state)),
        }
    }

    /// What is wrong, since when and until when, on one clean line: `failed 3m ago, next try in 2h`.
    pub fn what(&self, style: &Style) -> String {
        let Some(unit) = self.unit else {
            return style.clean(self.why);
        };
        let mut said = match self.kind {
            Kind::Failed => format!("failed {}", style.ago(unit.since_us)),
            Kind::Remains => format!("could not be stopped, {} left", crate::units::pids(&unit.remains)),
            Kind::Backoff => format!("ended {}", style.ago(unit.since_us)),
            Kind::Unhealthy => "runs, but is unhealthy".to_owned(),
            Kind::Degraded => "runs, but is degraded".to_owned(),
            Kind::Down => match &unit.held {
                Some(hold) => format!("held {}", crate::units::held(style, hold)),
                None => format!("{} {}", state_word(unit.state), style.ago(unit.since_us)),
            },
        };
        if let Some(at) = unit.next_try_us {
            said.push_str(&format!(", next try {}", style.ahead(at)));
        }
        said
    }

    /// Why, in the daemon's or the unit's own words, on one clean line.
    pub fn reason(&self, style: &Style) -> Option<String> {
        let unit = self.unit?;
        let reason = match self.kind {
            Kind::Unhealthy | Kind::Degraded => unit.status_text.as_deref().map(|t| style.clean(t)),
            Kind::Down => None,
            Kind::Failed | Kind::Remains | Kind::Backoff => match (&unit.last_error, unit.last_exit) {
                (Some(error), _) => Some(style.clean(error)),
                (None, Some(last)) => Some(measure::exit(last.exit)),
                (None, None) => None,
            },
        };
        reason.filter(|r| !r.is_empty())
    }

    /// `holds up 3: a, b, c`, naming no more than fit.
    pub fn blocks(&self, style: &Style, width: usize) -> Option<String> {
        let count = self.holds_up.len();
        if count == 0 {
            return None;
        }
        let mut text = format!("holds up {count}: ");
        for (i, name) in self.holds_up.iter().enumerate() {
            let name = style.clean(name);
            let comma = if i == 0 { "" } else { ", " };
            let more = if i + 1 < count { 10 } else { 0 };
            if i > 0 && text.len() + comma.len() + name.len() + more > width {
                text.push_str(&format!(" and {} more", count - i));
                break;
            }
            text.push_str(comma);
            text.push_str(&name);
        }
        Some(text)
    }
}

/// Every open breaker, one sentence each: why, till when, and who waits for it.
pub fn open_breakers(style: &Style, node: &NodeStatus) -> Vec<String> {
    let mut said = Vec::new();
    for breaker in &node.breakers {
        let Some(open) = &breaker.open else { continue };
        let whose = if breaker.category.is_empty() {
            "the node's breaker".to_owned()
        } else {
            format!("the breaker of category {}", breaker.category)
        };
        let held = match breaker.held.as_slice() {
            [] => "nothing waits for it".to_owned(),
            [one] => format!("{one} waits for it"),
            [one, two] => format!("{one} and {two} wait for it"),
            [one, two, more @ ..] => format!("{one}, {two} and {} more wait for it", more.len()),
        };
        said.push(style.clean(&format!(
            "{whose} is open, and closes {}: {} restarts within {} were made, and {} was one too many; {held} (reset-failed closes it)",
            style.ahead(open.until_us),
            breaker.restarts,
            measure::span(breaker.window_ms.saturating_mul(1000)),
            open.unit,
        )));
    }
    said
}

/// What to type next, each with what it is good for.
pub fn advice(verdict: &Verdict, troubles: &[Trouble<'_>]) -> Vec<(String, &'static str)> {
    let Some(first) = troubles.first() else {
        return match verdict.level {
            Level::Starting | Level::Stopping => {
                vec![("events -f".to_owned(), "what happens, as it happens")]
            }
            Level::Idle => vec![("profile list".to_owned(), "what could be wanted")],
            Level::Degraded => vec![("list --all".to_owned(), "every unit, wanted or not")],
            Level::Well | Level::Failed => Vec::new(),
        };
    };
    let name = first.name;
    let mut list = Vec::new();
    match first.kind {
        Kind::Failed => {
            list.push((format!("why {name}"), "what is known of it, and what changed"));
            list.push((format!("logs {name}"), "what it said"));
            list.push((format!("restart {name}"), "once it is mended"));
        }
        Kind::Backoff => {
            list.push((format!("why {name}"), "what is known of it, and what changed"));
            list.push((format!("restart {name}"), "to try it now"));
        }
        Kind::Unhealthy | Kind::Degraded => {
            list.push((format!("status {name}"), "everything known of it"));
            list.push((format!("logs {name}"), "what it said"));
        }
        Kind::Remains => {
            list.push((format!("status {name}"), "what is left of it"));
            list.push((format!("stop {name}"), "to try again"));
        }
        Kind::Down if first.unit.is_some_and(|u| u.held.is_some()) => {
            list.push((format!("unhold {name}"), "to let it start again"));
        }
        Kind::Down => list.push((format!("start {name}"), "to let the others go on")),
    }
    if troubles.iter().filter(|t| t.kind == Kind::Failed).count() > 1 {
        list.push(("failed".to_owned(), "all that are down for good"));
    }
    list
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::Parser;
    use proto::reply::{Blocker, Summary};

    /// A node in which nothing is known.
    pub fn node(summary: Summary) -> NodeStatus {
        NodeStatus {
            version: "1".into(),
            node: "n".into(),
            profiles: vec!["coordinator".into()],
            pid: 1,
            uptime_ms: 0,
            containment: "cgroup".into(),
            settled: true,
            stopping: false,
            summary,
            notices: vec![],
            started_us: 0,
            breakers: vec![],
        }
    }

    /// A unit in this state that waits for these.
    pub fn unit(name: &str, state: State, blocked_by: &[&str]) -> UnitStatus {
        UnitStatus {
            name: name.into(),
            description: String::new(),
            state,
            health: Health::Unknown,
            desired_up: true,
            next_try_us: None,
            needs_restart: false,
            pid: None,
            invocation: None,
            since_us: 0,
            ready_us: None,
            ready: state == State::Running,
            restarts: 0,
            starts: 1,
            last_exit: None,
            last_error: None,
            last_lines: vec![],
            log: None,
            blocked_by: blocked_by
                .iter()
                .map(|b| Blocker {
                    unit: (*b).into(),
                    why: "is down".into(),
                })
                .collect(),
            category: "sync".into(),
            lifecycle: "active".into(),
            critical: false,
            deprecated: None,
            added_by: None,
            note: None,
            status_text: None,
            cpu_us: None,
            memory_bytes: None,
            remains: vec![],
            held: None,
            check: None,
            health_text: None,
            metrics: Vec::new(),
            fds_stored: 0,
            capsules: vec![],
            failures: 0,
        }
    }

    #[track_caller]
    fn check(summary: Summary, level: Level, expected: &str) {
        let verdict = verdict(&node(summary), &[]);
        assert_eq!((verdict.level, verdict.sentence.as_str()), (level, expected));
    }

    #[test]
    fn the_worst_comes_first() {
        let base = Summary {
            known: 78,
            wanted: 32,
            ..Summary::default()
        };
        let of = |running, waiting, backoff, failed| Summary {
            running,
            waiting,
            backoff,
            failed,
            ..base
        };
        check(of(32, 0, 0, 0), Level::Well, "all 32 units are up");
        let held_back = "29 of 32 units up, 3 held back by units that are stopped";
        check(of(29, 3, 0, 0), Level::Degraded, held_back);
        check(
            of(31, 0, 1, 0),
            Level::Degraded,
            "31 of 32 units up, 1 to be tried again",
        );
        let both = "2 of 32 units down for good, 1 to be tried again";
        check(of(29, 0, 1, 2), Level::Failed, both);
        check(of(31, 0, 0, 0), Level::Degraded, "31 of 32 units up");
        let starting = Summary {
            running: 30,
            starting: 2,
            ..base
        };
        check(starting, Level::Starting, "30 of 32 units up");
        check(Summary::default(), Level::Idle, "no unit is wanted");
    }

    #[test]
    fn a_unit_that_runs_and_is_not_healthy_makes_no_good_verdict() {
        let mut sick = unit("a", State::Running, &[]);
        sick.health = Health::Unhealthy;
        let summary = Summary {
            wanted: 1,
            running: 1,
            ..Summary::default()
        };
        let verdict = verdict(&node(summary), std::slice::from_ref(&sick));
        assert_eq!(verdict.level, Level::Degraded);
        assert_eq!(verdict.sentence, "1 of 1 unit up, 1 not healthy");
        assert_eq!(troubles(&[sick])[0].kind, Kind::Unhealthy);
    }

    #[test]
    fn what_waits_is_counted_to_its_root_cause() {
        let units = [
            unit("root", State::Failed, &[]),
            unit("near", State::Waiting, &["root"]),
            unit("far", State::Waiting, &["near", "up"]),
            unit("up", State::Running, &[]),
            unit("again", State::Backoff, &[]),
            unit("both", State::Waiting, &["again", "near"]),
            unit("slow", State::Waiting, &["on_its_way"]),
            unit("on_its_way", State::Starting, &[]),
            unit("alone", State::Waiting, &["not_listed"]),
            // A circle, which no daemon tells of: it must not hang the screen.
            unit("x", State::Waiting, &["y"]),
            unit("y", State::Waiting, &["x"]),
        ];
        let found: Vec<_> = troubles(&units)
            .into_iter()
            .map(|t| {
                (
                    t.name.to_owned(),
                    t.kind,
                    t.holds_up.into_iter().collect::<Vec<_>>(),
                )
            })
            .collect();
        let expected = [
            ("root", Kind::Failed, vec!["both", "far", "near"]),
            ("again", Kind::Backoff, vec!["both"]),
            ("not_listed", Kind::Down, vec!["alone"]),
        ];
        assert_eq!(
            found,
            expected.map(|(n, k, h)| (n.to_owned(), k, h)),
            "far waits for root, by way of near"
        );
    }

    /// Whatever the screen tells to type is a command.
    #[test]
    fn every_advice_can_be_typed() {
        let held = UnitStatus {
            held: Some(proto::reply::Hold {
                by: proto::reply::By {
                    uid: 0,
                    pid: 1,
                    verb: "hold".into(),
                },
                note: None,
                since_us: 0,
                until_us: None,
            }),
            ..unit("a", State::Held, &[])
        };
        let lists = [
            vec![unit("a", State::Failed, &[]), unit("b", State::Failed, &[])],
            vec![unit("a", State::Backoff, &[])],
            vec![UnitStatus {
                health: Health::Degraded,
                ..unit("a", State::Running, &[])
            }],
            vec![UnitStatus {
                remains: vec![3],
                ..unit("a", State::Stopping, &[])
            }],
            vec![held, unit("b", State::Waiting, &["a"])],
            vec![unit("a", State::Stopped, &[]), unit("b", State::Waiting, &["a"])],
            vec![],
        ];
        let mut typed = 0;
        for list in &lists {
            for level in [
                Level::Well,
                Level::Idle,
                Level::Starting,
                Level::Stopping,
                Level::Degraded,
            ] {
                let verdict = Verdict {
                    level,
                    sentence: String::new(),
                };
                for (command, _) in advice(&verdict, &troubles(list)) {
                    let words = std::iter::once("ringriftctl").chain(command.split(' '));
                    crate::cli::Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{command}: {e}"));
                    typed += 1;
                }
            }
        }
        assert!(typed > 20, "{typed}");
    }

    #[test]
    fn names_that_do_not_fit_are_counted() {
        let style = crate::render::tests::plain(Some(80));
        let mut units = vec![unit("root", State::Failed, &[])];
        for n in 0..9 {
            units.push(unit(&format!("unit_number_{n}"), State::Waiting, &["root"]));
        }
        let all = troubles(&units);
        let text = all[0].blocks(&style, 50).expect("it holds up nine");
        assert_eq!(text, "holds up 9: unit_number_0, unit_number_1 and 7 more");
        assert!(text.len() <= 60, "{text}");
    }
}
