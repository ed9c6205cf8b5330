//! From events to what each unit did from the start of ringriftd to its first verdict.

use std::collections::BTreeMap;

use proto::reply::{Event, State};

/// A start of ringriftd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// When it began.
    pub began_us: u64,
    /// When every unit had its first verdict, and those that were ready soon after were.
    pub ended_us: u64,
    /// Its units, in the order in which they began to start.
    pub units: Vec<Started>,
}

/// What a unit did until it was ready for the first time, or as long as anything was going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Which.
    pub unit: String,
    /// When it was first wanted.
    pub wanted_us: u64,
    /// When its first start began.
    pub began_us: u64,
    /// When it was first ready, or had done its work.
    pub ready_us: Option<u64>,
    /// Starts up to then.
    pub tries: u32,
    /// The unit whose event set its first start off.
    pub set_off_by: Option<String>,
    /// What it was doing, one after the other, without gaps.
    pub phases: Vec<Phase>,
}

/// A time that a unit spent in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// From when.
    pub from_us: u64,
    /// To when.
    pub to_us: u64,
    /// Which.
    pub state: State,
}

impl Started {
    /// From the beginning of its first start until it was ready.
    pub fn took_us(&self) -> Option<u64> {
        Some(self.ready_us?.saturating_sub(self.began_us))
    }

    /// From when it was wanted until its first start began.
    pub fn waited_us(&self) -> u64 {
        self.began_us.saturating_sub(self.wanted_us)
    }
}

/// A unit while its events are read.
struct Reading {
    wanted_us: u64,
    began: Option<(u64, Option<String>)>,
    first_verdict_us: Option<u64>,
    ready_us: Option<u64>,
    tries: u32,
    state: State,
    since_us: u64,
    phases: Vec<Phase>,
}

/// Reads the events of one start of ringriftd, which began at `began_us`. Units that were not started are not in it.
pub fn read(events: &[Event], began_us: u64) -> Boot {
    let mut units: BTreeMap<&str, Reading> = BTreeMap::new();
    for event in events.iter().filter(|e| e.at_us >= began_us && e.from != e.to) {
        let at = event.at_us;
        let unit = units.entry(&event.unit).or_insert_with(|| Reading {
            wanted_us: at,
            began: None,
            first_verdict_us: None,
            ready_us: None,
            tries: 0,
            state: event.from,
            since_us: at,
            phases: Vec::new(),
        });
        if at > unit.since_us {
            unit.phases.push(Phase {
                from_us: unit.since_us,
                to_us: at,
                state: unit.state,
            });
        }
        (unit.state, unit.since_us) = (event.to, at);
        match event.to {
            State::Starting if unit.ready_us.is_none() => {
                unit.tries += 1;
                unit.began.get_or_insert_with(|| (at, event.cause.unit.clone()));
            }
            State::Running | State::Completed if unit.began.is_some() => {
                unit.ready_us.get_or_insert(at);
                unit.first_verdict_us.get_or_insert(at);
            }
            State::Backoff | State::Failed if unit.began.is_some() => {
                unit.first_verdict_us.get_or_insert(at);
            }
            _ => {}
        }
    }
    let verdicts = units.values().filter_map(|unit| unit.first_verdict_us);
    let starts = units.values().filter_map(|unit| Some(unit.began.as_ref()?.0));
    let tried_us = verdicts.chain(starts).max().unwrap_or(began_us);
    // A later try that works soon is a part of it; one that comes hours later would leave nothing else to be seen.
    let limit_us = tried_us.saturating_add(tried_us.saturating_sub(began_us));
    let ready = units.values().filter_map(|unit| unit.ready_us);
    let ended_us = ready.filter(|at| *at <= limit_us).fold(tried_us, u64::max);
    let mut started: Vec<Started> = units
        .into_iter()
        .filter_map(|(name, unit)| started(name, unit, ended_us))
        .collect();
    started.sort_by(|a, b| (a.began_us, &a.unit).cmp(&(b.began_us, &b.unit)));
    Boot {
        began_us,
        ended_us,
        units: started,
    }
}

fn started(name: &str, mut unit: Reading, ended_us: u64) -> Option<Started> {
    let (began_us, set_off_by) = unit.began?;
    if ended_us > unit.since_us {
        unit.phases.push(Phase {
            from_us: unit.since_us,
            to_us: ended_us,
            state: unit.state,
        });
    }
    unit.phases.retain_mut(|phase| {
        phase.to_us = phase.to_us.min(ended_us);
        phase.from_us < phase.to_us
    });
    Some(Started {
        unit: name.to_owned(),
        wanted_us: unit.wanted_us,
        began_us,
        ready_us: unit.ready_us,
        tries: unit.tries,
        set_off_by,
        phases: unit.phases,
    })
}

/// The units by the time that they took, the longest first; those that were never ready before all others.
pub fn blame(boot: &Boot) -> Vec<&Started> {
    let mut units: Vec<&Started> = boot.units.iter().collect();
    units.sort_by(|a, b| {
        let time = |unit: &Started| unit.took_us().unwrap_or(u64::MAX);
        time(b).cmp(&time(a)).then_with(|| a.unit.cmp(&b.unit))
    });
    units
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proto::reply::{Cause, CauseKind};

    /// An event at so many ms after the beginning, which is 1 s.
    pub fn event(seq: u64, ms: u64, unit: &str, from: State, to: State, by: Option<&str>) -> Event {
        Event {
            seq,
            at_us: 1_000_000 + ms * 1000,
            event: "DAEMON_STATUS_CHANGED".into(),
            unit: unit.into(),
            invocation: None,
            from,
            to,
            cause: Cause {
                kind: CauseKind::Dependency,
                seq: None,
                unit: by.map(str::to_owned),
                by: None,
                text: String::new(),
            },
        }
    }

    /// A boot of five units: a store, two that need it, one that needs one of those and two tries, and one that never works.
    pub fn story() -> Vec<Event> {
        use State::{Backoff, Failed, Running, Starting, Stopped, Stopping, Waiting};
        let told = [
            (5, "store", Stopped, Waiting, None),
            (5, "sync", Stopped, Waiting, None),
            (5, "train", Stopped, Waiting, None),
            (5, "elo", Stopped, Waiting, None),
            (5, "broken", Stopped, Waiting, None),
            (10, "store", Waiting, Starting, None),
            (12, "broken", Waiting, Starting, None),
            (15, "broken", Starting, Stopping, None),
            (16, "broken", Stopping, Failed, None),
            (410, "store", Starting, Running, None),
            (410, "sync", Waiting, Starting, Some("store")),
            (660, "train", Waiting, Starting, Some("store")),
            (700, "sync", Starting, Running, None),
            (701, "elo", Waiting, Starting, Some("sync")),
            (900, "elo", Starting, Stopping, None),
            (901, "elo", Stopping, Backoff, None),
            (960, "train", Starting, Running, None),
            (1401, "elo", Backoff, Waiting, None),
            (1402, "elo", Waiting, Starting, None),
            (1802, "elo", Starting, Running, None),
            // Long after: no part of the boot.
            (90_000, "sync", Running, Stopping, None),
        ];
        let told = told.into_iter().zip(1..);
        told.map(|((ms, unit, from, to, by), seq)| event(seq, ms, unit, from, to, by))
            .collect()
    }

    #[test]
    fn each_unit_is_read_up_to_its_first_verdict() {
        let boot = read(&story(), 1_000_000);
        assert_eq!(
            boot.ended_us, 2_802_000,
            "the second try of elo came soon enough to be a part of it"
        );
        let rows: Vec<_> = blame(&boot)
            .into_iter()
            .map(|u| (u.unit.as_str(), u.took_us(), u.waited_us(), u.tries))
            .collect();
        assert_eq!(
            rows,
            [
                ("broken", None, 7_000, 1),
                ("elo", Some(1_101_000), 696_000, 2),
                ("store", Some(400_000), 5_000, 1),
                ("train", Some(300_000), 655_000, 1),
                ("sync", Some(290_000), 405_000, 1),
            ]
        );
        for unit in &boot.units {
            for pair in unit.phases.windows(2) {
                assert_eq!(pair[0].to_us, pair[1].from_us, "{unit:?}");
            }
            assert_eq!(
                unit.phases.last().map(|p| p.to_us),
                Some(boot.ended_us),
                "{unit:?}"
            );
        }
    }

    #[test]
    fn what_was_before_is_not_of_this_boot() {
        let mut events = story();
        events.insert(0, event(0, 0, "old", State::Waiting, State::Starting, None));
        events[0].at_us = 999_999;
        assert_eq!(read(&events, 1_000_000), read(&story(), 1_000_000));
        assert_eq!(read(&[], 5).units, []);
    }
}
