//! A machine that is not there: every process starts, becomes ready as its kind does, and lives until it is told to end or
//! a fault that was asked for strikes it. Its only dice are how long a start takes.
//!
//! Read first: [`World::run`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::reply::Exit;

use super::findings::Story;
use crate::engine::Engine;
use crate::engine::restart::mix;
use crate::engine::types::{Action, Event, Mono, Plan, ProbeResult, Role};
use crate::ids::{Invocation, LaunchId};
use crate::limits;
use crate::spec::{Kind, UnitName, UnitSpec};

/// From the engine's wish to a process.
const LAUNCH: Duration = Duration::from_millis(5);
/// From a signal to the end that it causes, and how long hooks and probes take.
const MOMENT: Duration = Duration::from_millis(50);
/// From the launch to ready, at least and at most.
const READY: (u64, u64) = (200, 2000);

/// A fault with the unit that it strikes.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Its main process is killed.
    Kill(UnitName),
    /// Until then it ends with code 1 at once.
    Down(UnitName, Mono),
}

#[derive(Debug, Clone)]
enum Happening {
    Launched(LaunchId),
    /// A main process says what its kind says.
    Speaks(LaunchId),
    Ends(LaunchId, Exit),
    Found(LaunchId),
    Probed(Invocation, u64),
    Watchdog(LaunchId, Duration),
    Strikes(Fault),
}

#[derive(Debug)]
struct Process {
    role: Role,
    spec: Arc<UnitSpec>,
    is_up: bool,
    /// It is to die as soon as it is there.
    is_doomed: bool,
    /// A forking unit's first process has left the main one behind.
    has_forked: bool,
}

/// The world with its engine.
pub struct World {
    engine: Engine,
    now: Mono,
    dice: u64,
    turn: u64,
    agenda: BTreeMap<(Mono, u64), Happening>,
    processes: BTreeMap<LaunchId, Process>,
    down: BTreeMap<UnitName, Mono>,
    pids: u32,
    /// What happened.
    pub story: Story,
}

impl World {
    /// A world in which nothing has happened yet. `seed` tells how long starts take, and the engine's jitter.
    pub fn new(seed: u64) -> Self {
        Self {
            engine: Engine::new(seed),
            now: Mono(0),
            dice: seed,
            turn: 0,
            agenda: BTreeMap::new(),
            processes: BTreeMap::new(),
            down: BTreeMap::new(),
            pids: 1000,
            story: Story::default(),
        }
    }

    /// The engine as it is now.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether a fault holds this unit down now.
    pub fn is_down(&self, unit: &UnitName) -> bool {
        self.down.get(unit).is_some_and(|until| *until > self.now)
    }

    /// A fault is to strike.
    pub fn plan_fault(&mut self, at: Duration, fault: Fault) {
        self.put(Mono(0).after(at), Happening::Strikes(fault));
    }

    /// Loads the plan and lets the time pass up to `end`. False: more happened than can be told
    /// ([`limits::SIMULATE_EVENTS_MAX`]).
    pub fn run(&mut self, plan: &Arc<Plan>, end: Duration) -> bool {
        let end = Mono(0).after(end);
        self.story.begin(plan);
        self.tell(Event::Loaded(Arc::clone(plan)));
        for _ in 0..limits::SIMULATE_EVENTS_MAX {
            let deadline = self.engine.next_deadline();
            let planned = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = [deadline, planned].into_iter().flatten().min() else {
                self.now = end;
                return true;
            };
            if next > end {
                self.now = end;
                return true;
            }
            self.now = self.now.max(next);
            match planned.filter(|at| *at <= self.now) {
                Some(_) => {
                    if let Some((_, happening)) = self.agenda.pop_first() {
                        self.happen(happening);
                    }
                }
                None => self.tell(Event::Tick),
            }
        }
        false
    }

    fn put(&mut self, at: Mono, happening: Happening) {
        self.turn += 1;
        self.agenda.insert((at, self.turn), happening);
    }

    fn soon(&mut self, after: Duration, happening: Happening) {
        self.put(self.now.after(after), happening);
    }

    fn start_time(&mut self) -> Duration {
        self.dice = self.dice.wrapping_add(1);
        let (least, most) = READY;
        Duration::from_millis(least + mix(self.dice) % (most - least))
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle(self.now, event);
        while let Some(action) = self.engine.poll_action() {
            self.obey(action);
        }
        self.engine.take_delta();
        if !self.story.is_settled && self.engine.is_settled() {
            self.story.settled(self.now);
        }
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Launch { launch, role, spec } => {
                let process = Process {
                    role,
                    spec,
                    is_up: false,
                    is_doomed: false,
                    has_forked: false,
                };
                self.processes.insert(launch, process);
                self.soon(LAUNCH, Happening::Launched(launch));
            }
            Action::Signal { launch, signal, .. } => {
                let ends = |process: &&Process| {
                    matches!(
                        signal,
                        libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGQUIT
                    ) || process.spec.stop.signals.contains(&signal)
                };
                if self.processes.get(&launch).filter(ends).is_some() {
                    self.end(launch, signal);
                }
            }
            Action::Destroy { launch } => self.end(launch, libc::SIGKILL),
            Action::FindMain { launch, .. } => self.soon(MOMENT, Happening::Found(launch)),
            Action::Release { launch } => {
                self.processes.remove(&launch);
            }
            Action::Probe { invocation, nr, .. } => self.soon(MOMENT, Happening::Probed(invocation, nr)),
            Action::Emit(change) => self.story.changed(self.now, change),
            Action::Reply { .. }
            | Action::AdoptForeign { .. }
            | Action::Worked { .. }
            | Action::Failed(_)
            | Action::Finish { .. } => {}
        }
    }

    fn end(&mut self, launch: LaunchId, signal: i32) {
        let Some(process) = self.processes.get_mut(&launch) else {
            return;
        };
        if process.is_up {
            let exit = Exit::Signal { signal, core: false };
            self.soon(MOMENT, Happening::Ends(launch, exit));
        } else {
            process.is_doomed = true;
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Launched(launch) => self.launched(launch),
            Happening::Speaks(launch) => self.speaks(launch),
            Happening::Ends(launch, exit) => {
                if let Some(process) = self.processes.get_mut(&launch).filter(|process| process.is_up) {
                    process.is_up = false;
                    let was_left = std::mem::take(&mut process.has_forked);
                    // Of one that left its main process behind, its own has ended already.
                    self.tell(if was_left {
                        Event::Emptied { launch }
                    } else {
                        Event::Exited {
                            launch,
                            exit,
                            remains: Vec::new(),
                        }
                    });
                }
            }
            Happening::Found(launch) => {
                self.pids += 1;
                if let Some(process) = self.processes.get_mut(&launch).filter(|process| process.is_up) {
                    process.has_forked = false;
                    self.tell(Event::MainFound {
                        launch,
                        pid: self.pids,
                        start_time: self.now.0,
                    });
                }
            }
            Happening::Probed(invocation, nr) => self.tell(Event::Probed {
                invocation,
                nr,
                result: ProbeResult::Passed,
            }),
            Happening::Watchdog(launch, every) => {
                if self.processes.get(&launch).is_some_and(|process| process.is_up) {
                    self.tell(Event::Watchdog {
                        invocation: launch.invocation,
                    });
                    self.soon(every, Happening::Watchdog(launch, every));
                }
            }
            Happening::Strikes(fault) => self.strike(fault),
        }
    }

    fn launched(&mut self, launch: LaunchId) {
        let Some(process) = self.processes.get_mut(&launch) else {
            return;
        };
        process.is_up = true;
        let (role, spec, is_doomed) = (process.role, Arc::clone(&process.spec), process.is_doomed);
        self.pids += 1;
        if role == Role::Main {
            self.story.started(self.now);
        }
        self.tell(Event::Launched {
            launch,
            pid: self.pids,
            start_time: self.now.0,
            note: None,
        });
        if is_doomed {
            self.end(launch, libc::SIGKILL);
        } else if role != Role::Main {
            self.soon(MOMENT, Happening::Ends(launch, Exit::Code(0)));
        } else if self.is_down(&spec.name) {
            self.soon(MOMENT, Happening::Ends(launch, Exit::Code(1)));
        } else {
            let takes = self.start_time();
            match spec.exec.kind {
                Kind::Simple => {}
                Kind::Notify | Kind::Fd | Kind::Forking => self.soon(takes, Happening::Speaks(launch)),
                Kind::Oneshot => self.soon(takes, Happening::Ends(launch, Exit::Code(0))),
            }
            if let Some(every) = spec.health.as_ref().and_then(|health| health.watchdog) {
                let half = (every / 2).max(Duration::from_millis(1));
                self.soon(half, Happening::Watchdog(launch, half));
            }
        }
    }

    fn speaks(&mut self, launch: LaunchId) {
        let Some(process) = self.processes.get_mut(&launch).filter(|process| process.is_up) else {
            return;
        };
        if process.spec.exec.kind == Kind::Forking {
            process.has_forked = true;
            self.pids += 1;
            self.tell(Event::Exited {
                launch,
                exit: Exit::Code(0),
                remains: vec![self.pids],
            });
        } else {
            self.tell(Event::Ready {
                invocation: launch.invocation,
            });
        }
    }

    fn strike(&mut self, fault: Fault) {
        let (unit, exit) = match &fault {
            Fault::Kill(unit) => {
                let killed = Exit::Signal {
                    signal: libc::SIGKILL,
                    core: false,
                };
                (unit.clone(), killed)
            }
            Fault::Down(unit, until) => {
                self.down.insert(unit.clone(), *until);
                (unit.clone(), Exit::Code(1))
            }
        };
        let mains: BTreeSet<LaunchId> = self
            .processes
            .iter()
            .filter(|(_, process)| process.is_up && process.role == Role::Main && process.spec.name == unit)
            .map(|(launch, _)| *launch)
            .collect();
        self.story.struck(self.now, &fault, !mains.is_empty());
        for launch in mains {
            self.happen(Happening::Ends(launch, exit));
        }
    }
}
