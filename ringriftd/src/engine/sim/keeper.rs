//! The keeper of the world, and the processes that it starts: what becomes of each is chosen when it begins.

use std::time::Duration;

use proto::reply::{Exit, Oom};

use crate::engine::types::{Event, LaunchFailure, Mono, Role};
use crate::ids::{Invocation, LaunchId};
use crate::spec::{Kind, UnitName, UnitSpec};
use crate::used::Used;

use super::choices::{Pick, key};
use super::crash::Told;
use super::invariants::Invariant;
use super::make::number;
use super::malice::Fault;
use super::world::World;

/// Choices of a life: more than a life has launches.
const STEPS: u32 = 64;

/// A process of the world.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) unit: UnitName,
    pub(super) who: u32,
    /// Its place among the choices of its unit: its life's and its own number.
    pub(super) nth: u32,
    pub(super) is_ready: bool,
    pub(super) ignores_term: bool,
    /// SIGKILL is reported not to work so often before it does.
    pub(super) reports: u64,
    /// Others stay when it ends, and go by themselves after so many ms.
    pub(super) leaves: Option<Option<u64>>,
    pub(super) has_exited: bool,
    pub(super) is_destroyed: bool,
    pub(super) is_probe: bool,
    /// Of a forking unit, and its main process is still to come.
    pub(super) is_first: bool,
    /// From then on it does nothing (ns).
    pub(super) hangs_at: Option<u64>,
}

fn code(code: i32) -> Exit {
    Exit::Code(code)
}

fn signal(signal: i32) -> Exit {
    Exit::Signal { signal, core: false }
}

impl World {
    /// Where the choices of a launch are.
    pub(super) fn place_of_launch(&mut self, launch: LaunchId, who: u32) -> u32 {
        let life = self.life_mut(launch.invocation, who).nth;
        life * STEPS + launch.step.min(STEPS - 1)
    }

    pub(super) fn launch(&mut self, launch: LaunchId, role: Role, spec: &UnitSpec) {
        if self.kept.held.contains_key(&launch) {
            self.broken(Invariant::OwnProcess, format!("{launch} is launched twice"));
        }
        self.check_launch(launch, role, spec);
        let who = number(&spec.name);
        let nth = self.place_of_launch(launch, who);
        let delay = 1 + self.choices.below(key(Pick::LaunchTakes, who, nth), 20);
        // What cannot be asked is no failure: of a unit that hangs it would only put the bound off.
        let is_excused = role.is_probe() && self.is_hung(launch.invocation);
        let curse = if role == Role::Main { self.curse(who) } else { 0 };
        let fails = self.chance(Fault::LaunchFails, key(Pick::LaunchFails, who, nth), 10);
        if (fails > 0 || curse == 2) && !is_excused {
            let failure = LaunchFailure {
                text: "cannot run it: the choice".to_owned(),
                host: fails > 7,
            };
            self.later(delay, Event::LaunchFailed { launch, failure });
            return;
        }
        if role.is_probe() {
            self.check_alone(launch.invocation);
        }
        let hangs = match role {
            Role::Main => self.chance(Fault::Hangs, key(Pick::Hangs, who, nth), 60_000),
            _ => 0,
        };
        let process = self.process(spec, nth, role, hangs);
        self.live.insert(launch, process);
        self.kept.held.insert(launch, Told::default());
        let pid = 1000 + launch.invocation.0 as u32 * STEPS + launch.step;
        self.later(
            delay,
            Event::Launched {
                launch,
                pid,
                start_time: 1,
                note: None,
            },
        );
        match role {
            Role::Main => self.live_out(launch, spec, who, nth, delay, curse),
            _ if role.is_probe() => self.answer_by_exit(launch, who, nth, delay),
            _ => self.run_hook(launch, who, nth, delay),
        }
    }

    /// A unit that always fails in the same way, so that its limits are met: 1 ends at once, 2 cannot be started, 3 is never
    /// ready, 4 ends just after it counts as stable.
    fn curse(&mut self, who: u32) -> u64 {
        let permille = self.rates.of_fault(Fault::Ends) / 3;
        self.choices.chance(key(Pick::Ends, who, 0), permille, 4)
    }

    fn process(&mut self, spec: &UnitSpec, nth: u32, role: Role, hangs: u64) -> Process {
        let who = number(&spec.name);
        let leaves = match self.chance(Fault::Leaves, key(Pick::Leaves, who, nth), 3) {
            0 => None,
            3 => Some(Some(1 + self.choices.below(key(Pick::LeavesFor, who, nth), 8000))),
            _ => Some(None),
        };
        Process {
            unit: spec.name.clone(),
            who,
            nth,
            is_ready: false,
            ignores_term: self.chance(Fault::IgnoresTerm, key(Pick::IgnoresTerm, who, nth), 1) > 0,
            reports: self.chance(Fault::IgnoresKill, key(Pick::IgnoresKill, who, nth), 3),
            leaves,
            has_exited: false,
            is_destroyed: false,
            is_probe: role.is_probe(),
            is_first: role == Role::Main && spec.exec.kind == Kind::Forking,
            hangs_at: (hangs > 0).then(|| self.now + hangs * 1_000_000),
        }
    }

    fn run_hook(&mut self, launch: LaunchId, who: u32, nth: u32, delay: u64) {
        let takes = 1 + self.choices.below(key(Pick::HookTakes, who, nth), 100);
        let (ms, exit) = match self.chance(Fault::HookEnds, key(Pick::HookEnds, who, nth), 4) {
            0 => (takes, code(0)),
            1 => (takes, code(1)),
            2 => (4_950 + takes, code(0)),
            3 => (takes, signal(11)),
            _ => return, // until it is killed
        };
        self.exit_later(delay + ms, launch, exit);
    }

    fn answer_by_exit(&mut self, launch: LaunchId, who: u32, nth: u32, delay: u64) {
        if self.is_hung(launch.invocation) {
            return; // it waits for an answer
        }
        let ms = delay + 1 + self.choices.below(key(Pick::HookTakes, who, nth), 500);
        let exit = match self.chance(Fault::Unwell, key(Pick::HookEnds, who, nth), 4) {
            0 => code(0),
            1 => return, // until it is killed
            _ => code(1),
        };
        self.exit_later(ms, launch, exit);
    }

    /// What a main process does with its life.
    fn live_out(&mut self, launch: LaunchId, spec: &UnitSpec, who: u32, nth: u32, delay: u64, curse: u64) {
        let ends = self.chance(Fault::Ends, key(Pick::Ends, who, nth), 8);
        let kind = spec.exec.kind;
        if matches!(kind, Kind::Oneshot | Kind::Forking) {
            let ms = delay + 1 + self.choices.below(key(Pick::EndsAfter, who, nth), 200);
            let is_bad = ends > 4 || curse == 1;
            self.exit_later(ms, launch, code(i32::from(is_bad)));
            return;
        }
        if kind == Kind::Notify {
            self.speak_later(delay + 1, launch.invocation, spec);
        }
        let invocation = launch.invocation;
        let soon = 1 + self.choices.below(key(Pick::ReadyAfter, who, nth), 300);
        let (ends_in, exit) = match (curse, ends) {
            (1, _) => (Some(50), code(1)),
            (4, _) => (Some(60_500), code(1)),
            (_, 0) => (None, code(0)),
            (_, how) => {
                let ms = self.choices.below(key(Pick::EndsAfter, who, nth), 40_000);
                let exit = match how {
                    1 => code(0),
                    2 => signal(9),
                    3 => code(65),
                    4 => signal(11),
                    5 => signal(15),
                    _ => code(1),
                };
                (Some(if how == 7 { ms % 100 } else { ms }), exit)
            }
        };
        if let Some(ms) = ends_in {
            self.exit_later(delay + 1 + ms, launch, exit);
        }
        let late = self.chance(Fault::ReadyLate, key(Pick::ReadyLate, who, nth), 5);
        match (curse, late) {
            (3, _) | (_, 1) => {}
            (_, 0) => self.later(delay + soon, Event::Ready { invocation }),
            (_, 2) => self.later(delay + 9_990 + soon % 20, Event::Ready { invocation }),
            (_, 3) => {
                self.later(delay + soon, Event::Ready { invocation });
                self.later(delay + soon + 1, Event::Ready { invocation });
            }
            (_, 4) => self.later(delay + 14_000, Event::Ready { invocation }),
            (_, _) => self.later(delay + ends_in.unwrap_or(20_000) + 3, Event::Ready { invocation }),
        }
        let words = self.chance(Fault::Speaks, key(Pick::Speaks, who, nth), 3);
        for word in 0..words as u32 {
            let nth = nth * 4 + word + 1_000_000;
            let ms = delay + 1 + self.choices.below(key(Pick::SpeaksAfter, who, nth), 20_000);
            let said = self.own_word(launch, who, nth);
            self.later(ms, said);
        }
        if self.chance(Fault::Speaks, key(Pick::Used, who, nth), 1) > 0 {
            let used = Used {
                oom: Oom::Maybe,
                ..Used::default()
            };
            self.later(delay + 5000, Event::Used { launch, used });
        }
    }

    fn own_word(&mut self, launch: LaunchId, who: u32, nth: u32) -> Event {
        let invocation = launch.invocation;
        match self.choices.below(key(Pick::Speaks, who, nth), 12) {
            0 => Event::Ready { invocation },
            1..=3 => Event::Reloading { invocation, at: None },
            4 => Event::Reloading {
                invocation,
                at: Some(Mono(self.now)),
            },
            5 | 6 => Event::Stopping { invocation },
            7 => Event::Extend {
                invocation,
                by: Duration::from_secs(5),
            },
            8 => Event::MainChanged {
                launch,
                pid: 900_000 + who,
                start_time: 2,
            },
            9 => Event::WatchdogEvery {
                invocation,
                every: Duration::from_secs(u64::from(nth % 3) * 10),
            },
            10 => Event::WatchdogTrigger { invocation },
            _ => Event::Unkillable {
                launch,
                remains: vec![77],
            },
        }
    }

    /// A process from outside: taken, if it is there.
    pub(super) fn adopt(&mut self, launch: LaunchId, spec: &UnitSpec) {
        if self.kept.held.contains_key(&launch) {
            self.broken(Invariant::OwnProcess, format!("{launch} is adopted twice"));
        }
        self.check_alone_main(&spec.name);
        let who = number(&spec.name);
        let nth = self.place_of_launch(launch, who);
        let delay = 1 + self.choices.below(key(Pick::LaunchTakes, who, nth), 20);
        if self.chance(Fault::Foreign, key(Pick::Foreign, who, nth), 1) > 0 {
            let failure = LaunchFailure {
                text: "it is another process by now".to_owned(),
                host: false,
            };
            self.later(delay, Event::LaunchFailed { launch, failure });
            return;
        }
        let mut process = self.process(spec, nth, Role::Main, 0);
        process.is_ready = true;
        process.is_first = false;
        self.live.insert(launch, process);
        self.kept.held.insert(launch, Told::default());
        self.life_mut(launch.invocation, who).is_foreign = true;
        let event = Event::Launched {
            launch,
            pid: 7,
            start_time: 8,
            note: None,
        };
        self.later(delay, event);
        if self.chance(Fault::Ends, key(Pick::Ends, who, nth), 1) > 0 {
            let ms = delay + 1 + self.choices.below(key(Pick::EndsAfter, who, nth), 60_000);
            self.exit_later(ms, launch, Exit::Unknown);
        }
    }

    pub(super) fn exit_later(&mut self, ms: u64, launch: LaunchId, exit: Exit) {
        self.later(
            ms,
            Event::Exited {
                launch,
                exit,
                remains: Vec::new(),
            },
        );
    }

    pub(super) fn signal(&mut self, launch: LaunchId, signal: i32) {
        self.check_signal(launch, signal);
        // It may have ended, and the news of that is under way.
        let Some(process) = self.live.get(&launch) else {
            return;
        };
        let (who, nth) = (process.who, process.nth);
        let is_deadly = signal == 9 || matches!(signal, 1 | 2 | 6 | 15) && !process.ignores_term;
        if is_deadly && process.has_exited {
            // To all that it left.
            self.empty_later(launch, who, nth);
        } else if is_deadly {
            let ms = 1 + self.choices.below(key(Pick::DiesAfter, who, nth), 500);
            self.exit_later(ms, launch, Exit::Signal { signal, core: false });
        }
    }

    fn empty_later(&mut self, launch: LaunchId, who: u32, nth: u32) {
        let ms = 1 + self.choices.below(key(Pick::DiesAfter, who, nth), 500);
        self.later(ms, Event::Emptied { launch });
    }

    pub(super) fn destroy(&mut self, launch: LaunchId) {
        self.check_destroy(launch);
        let Some(process) = self.live.get_mut(&launch) else {
            return;
        };
        if process.is_probe
            && !process.is_destroyed
            && !process.has_exited
            && let Some(life) = self.lives.get_mut(launch.invocation.0 as usize)
        {
            // Not through in time.
            life.rows.0 += 1;
        }
        process.is_destroyed = true;
        if process.reports > 0 {
            let remains = vec![77];
            self.later(10_000, Event::Unkillable { launch, remains });
        } else {
            self.die(launch);
        }
    }

    /// SIGKILL works.
    fn die(&mut self, launch: LaunchId) {
        let Some(process) = self.live.get(&launch) else {
            return;
        };
        let ms = 1 + u64::from(process.nth % 50);
        if process.has_exited {
            self.later(ms, Event::Emptied { launch });
        } else {
            self.exit_later(ms, launch, signal(9));
        }
    }

    pub(super) fn find_main(&mut self, launch: LaunchId) {
        let missing = |why: &str| Event::MainMissing {
            launch,
            why: why.to_owned(),
        };
        let Some(process) = self.live.get(&launch) else {
            return self.later(1, missing("it is gone"));
        };
        let (who, nth, is_first) = (process.who, process.nth, process.is_first);
        let found = Event::MainFound {
            launch,
            pid: 500_000 + who,
            start_time: 3,
        };
        match self.chance(Fault::FindMain, key(Pick::FindMain, who, nth), 4) {
            0 => self.later(2, found),
            _ if !is_first => self.later(2, found),
            1 | 2 => self.later(100, missing("there is no pid file")),
            _ => self.later(9_950 + u64::from(nth % 100), found),
        }
    }

    /// May the keeper say this twice? The end of a forking unit's first process is none of its main one's.
    pub(super) fn may_be_told_twice(&self, event: &Event) -> bool {
        let Event::Exited { launch, .. } = event else {
            return true;
        };
        self.live.get(launch).is_none_or(|process| !process.is_first)
    }

    /// The world's side of an event, at the moment that it happens. None: it is not true any more.
    pub(super) fn happen(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Exited { launch, exit, .. } => self.happen_exit(launch, exit),
            Event::Emptied { launch } => {
                let process = self.live.get(&launch)?;
                if !process.has_exited {
                    return None;
                }
                let process = self.live.remove(&launch)?;
                if let Some(told) = self.kept.held.get_mut(&launch) {
                    told.is_empty = true;
                }
                if launch.is_main() {
                    self.end_of_main(launch.invocation, process.unit);
                }
                Some(Event::Emptied { launch })
            }
            Event::Launched { launch, pid, .. } => {
                if let Some(told) = self.kept.held.get_mut(&launch) {
                    told.pid = Some(pid);
                }
                self.live.contains_key(&launch).then_some(event)
            }
            Event::Unkillable { launch, .. } => {
                let process = self.live.get_mut(&launch)?;
                if !process.is_destroyed {
                    return None;
                }
                process.reports = process.reports.saturating_sub(1);
                if process.reports > 0 {
                    self.later(10_000, event.clone());
                } else {
                    self.die(launch);
                }
                Some(event)
            }
            Event::MainFound { launch, pid, .. } => {
                let process = self.live.get_mut(&launch)?;
                if process.is_destroyed || !process.has_exited && process.is_first {
                    return None;
                }
                process.is_first = false;
                process.has_exited = false;
                process.is_ready = true;
                let (who, nth) = (process.who, process.nth);
                if let Some(told) = self.kept.held.get_mut(&launch) {
                    *told = Told {
                        pid: Some(pid),
                        ..Told::default()
                    };
                }
                if self.chance(Fault::Ends, key(Pick::Ends, who, nth + 1), 1) > 0 {
                    let ms = 1 + self.choices.below(key(Pick::EndsAfter, who, nth + 1), 60_000);
                    self.exit_later(ms, launch, code(1));
                }
                Some(event)
            }
            Event::MainChanged { launch, pid, .. } => {
                let process = self.live.get(&launch)?;
                if process.has_exited || process.is_first || self.kept.held.get(&launch)?.pid.is_none() {
                    return None;
                }
                if let Some(told) = self.kept.held.get_mut(&launch) {
                    told.pid = Some(pid);
                }
                Some(event)
            }
            Event::Ready { invocation } => {
                let launch = LaunchId::main(invocation);
                if let Some(process) = self.live.get_mut(&launch)
                    && !process.has_exited
                {
                    process.is_ready = true;
                }
                // Told in any case: late news is part of the world.
                Some(Event::Ready { invocation })
            }
            event => self.happen_to_health(event),
        }
    }

    fn happen_exit(&mut self, launch: LaunchId, exit: Exit) -> Option<Event> {
        let process = self.live.get_mut(&launch)?;
        if process.has_exited {
            return None;
        }
        process.has_exited = true;
        process.is_ready = false;
        if process.is_probe
            && !process.is_destroyed
            && let Some(life) = self.lives.get_mut(launch.invocation.0 as usize)
        {
            let row = &mut life.rows.0;
            *row = if exit == Exit::Code(0) { 0 } else { *row + 1 };
        }
        let forks = process.is_first && exit == Exit::Code(0);
        let remains = match process.leaves {
            _ if forks => vec![77],
            Some(_) => vec![77],
            None => Vec::new(),
        };
        if !forks {
            process.is_first = false;
        }
        let (is_destroyed, leaves) = (process.is_destroyed, process.leaves);
        if !remains.is_empty() {
            if is_destroyed {
                self.later(5, Event::Emptied { launch });
            } else if let Some(Some(ms)) = leaves.filter(|_| !forks) {
                self.later(ms, Event::Emptied { launch });
            }
        }
        if let Some(told) = self.kept.held.get_mut(&launch) {
            told.exit = Some((exit, remains.clone()));
        }
        if remains.is_empty() {
            let process = self.live.remove(&launch)?;
            if launch.is_main() {
                self.end_of_main(launch.invocation, process.unit);
            }
        }
        Some(Event::Exited {
            launch,
            exit,
            remains,
        })
    }

    /// The last process of a main launch is gone.
    fn end_of_main(&mut self, invocation: Invocation, unit: UnitName) {
        self.check_order_of_ends(invocation, &unit);
        self.ends.push(unit);
    }
}
