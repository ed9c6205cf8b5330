//! The world around the engine: a clock, a keeper, processes and operators, as bad as the dice say; and the manager, that
//! may die at any moment (see `crash`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use proto::reply::{By, Exit, Hold};

use crate::engine::hold::Held;
use crate::engine::machine::Engine;
use crate::engine::restart::mix;
use crate::engine::types::{
    Action, Event, Failure, LaunchFailure, Mono, Op, Plan, RequestAnswer, RequestId, Role,
};
use crate::engine::unit::Foreign;
use crate::ids::LaunchId;
use crate::spec::{Kind, UnitName, UnitSpec};

use super::crash::{Kept, Told, is_told_by_inventory};
use super::make::*;

/// How bad the world is, in percent.
#[derive(Clone, Copy)]
pub(super) struct Malice {
    pub(super) launch_fails: u64,
    pub(super) exits: u64,
    pub(super) never_ready: u64,
    pub(super) ignores_term: u64,
    pub(super) leaves_others: u64,
    pub(super) requests: u64,
    pub(super) crashes: u64,
    pub(super) reloads: u64,
}

pub(super) const CALM: Malice = Malice {
    launch_fails: 0,
    exits: 0,
    never_ready: 0,
    ignores_term: 0,
    leaves_others: 0,
    requests: 0,
    crashes: 0,
    reloads: 0,
};
pub(super) const HOSTILE: Malice = Malice {
    launch_fails: 10,
    exits: 40,
    never_ready: 10,
    ignores_term: 20,
    leaves_others: 20,
    requests: 60,
    crashes: 0,
    reloads: 10,
};
pub(super) const CRASHING: Malice = Malice {
    crashes: 15,
    ..HOSTILE
};

/// A process of the world.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) unit: UnitName,
    pub(super) is_ready: bool,
    pub(super) ignores_term: bool,
    pub(super) leaves_others: bool,
    pub(super) has_exited: bool,
    pub(super) is_destroyed: bool,
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) engine: Engine,
    pub(super) now: u64,
    pub(super) order: u64,
    pub(super) queue: BinaryHeap<Reverse<(u64, u64)>>,
    pub(super) due: BTreeMap<u64, Event>,
    pub(super) live: BTreeMap<LaunchId, Process>,
    pub(super) malice: Malice,
    pub(super) trace: Vec<String>,
    pub(super) starts: Vec<UnitName>,
    pub(super) ends: Vec<UnitName>,
    pub(super) asked: BTreeSet<RequestId>,
    pub(super) replies: BTreeMap<RequestId, RequestAnswer>,
    pub(super) finished: Option<u8>,
    /// As it was loaded last.
    pub(super) plan: Arc<Plan>,
    /// As it was loaded first.
    pub(super) first: Arc<Plan>,
    pub(super) seed: u64,
    pub(super) kept: Kept,
    /// Lives that failed, by the events that told of them.
    pub(super) failures: BTreeMap<u64, Failure>,
}

impl World {
    pub(super) fn new(seed: u64, plan: Arc<Plan>, malice: Malice) -> Self {
        Self {
            dice: Dice(mix(seed)),
            engine: Engine::new(seed),
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            due: BTreeMap::new(),
            live: BTreeMap::new(),
            malice,
            trace: Vec::new(),
            starts: Vec::new(),
            ends: Vec::new(),
            asked: BTreeSet::new(),
            replies: BTreeMap::new(),
            finished: None,
            first: Arc::clone(&plan),
            plan,
            seed,
            kept: Kept::default(),
            failures: BTreeMap::new(),
        }
    }

    pub(super) fn later(&mut self, ms: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse((self.now + ms * 1_000_000, self.order)));
        self.due.insert(self.order, event);
    }

    pub(super) fn fail(&self, why: &str) -> ! {
        let tail = self
            .trace
            .iter()
            .rev()
            .take(40)
            .rev()
            .cloned()
            .collect::<Vec<_>>()
            .join("\n");
        panic!("seed {}: {why}\n{tail}", self.seed)
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.trace.push(
            format!("{:>9} ms  {event:?}", self.now / 1_000_000)
                .chars()
                .take(160)
                .collect(),
        );
        if self.strikes() {
            self.crash(Vec::new());
            if is_told_by_inventory(&event) {
                return;
            }
        }
        self.step(Some(event));
    }

    pub(super) fn obey(&mut self, action: Action) {
        match action {
            Action::Launch { launch, role, spec } => self.launch(launch, role, &spec),
            Action::AdoptForeign { launch, spec, .. } => self.adopt(launch, &spec),
            Action::Signal { launch, signal, .. } => self.signal(launch, signal),
            Action::Destroy { launch } => self.destroy(launch),
            Action::FindMain { launch, .. } => {
                let event = Event::MainMissing {
                    launch,
                    why: "no forking units here".to_owned(),
                };
                self.later(1, event);
            }
            Action::Release { launch } => {
                if self.live.contains_key(&launch) {
                    self.fail("a launch was released that lives");
                }
                self.kept.held.remove(&launch);
            }
            Action::Reply { id, answer } => {
                if self.replies.insert(id, answer).is_some() {
                    self.fail("a request was answered twice");
                }
            }
            Action::Finish { code } => self.finished = Some(code),
            Action::Emit(change) => self.hear(&change),
            Action::Worked { .. } => {}
            Action::Failed(failure) => self.note_failure(*failure),
        }
    }

    pub(super) fn launch(&mut self, launch: LaunchId, role: Role, spec: &UnitSpec) {
        if self.kept.held.contains_key(&launch) {
            self.fail(&format!("{launch} is launched twice"));
        }
        let is_first = role == Role::StartPre(0) || role == Role::Main && spec.exec.start_pre.is_empty();
        let unit = self.engine.find(&spec.name).map(|(_, unit)| unit);
        if is_first && unit.is_some_and(|unit| unit.hold.is_some()) && self.malice.crashes == 0 {
            self.fail(&format!("{} is started though it is held", spec.name));
        }
        if role == Role::Main {
            if self
                .live
                .iter()
                .any(|(id, p)| p.unit == spec.name && id.is_main())
            {
                self.fail(&format!(
                    "{} is launched while an older life of it is there",
                    spec.name
                ));
            }
            for d in &spec.requires {
                let ready = self
                    .live
                    .iter()
                    .any(|(id, p)| id.is_main() && p.unit == *d && p.is_ready);
                let unit = self.engine.find(d).map(|(_, unit)| unit);
                if !ready && unit.is_some_and(|unit| !unit.is_satisfied()) {
                    self.fail(&format!("{} is launched before {d} is ready", spec.name));
                }
            }
            self.starts.push(spec.name.clone());
        }
        let delay = 1 + self.dice.below(20);
        if self.dice.percent(self.malice.launch_fails) {
            let host = self.dice.percent(30);
            let failure = LaunchFailure {
                text: "cannot run it: dice".to_owned(),
                host,
            };
            self.later(delay, Event::LaunchFailed { launch, failure });
            return;
        }
        let process = Process {
            unit: spec.name.clone(),
            is_ready: false,
            ignores_term: self.dice.percent(self.malice.ignores_term),
            leaves_others: self.dice.percent(self.malice.leaves_others),
            has_exited: false,
            is_destroyed: false,
        };
        self.live.insert(launch, process);
        self.kept.held.insert(launch, Told::default());
        self.later(
            delay,
            Event::Launched {
                launch,
                pid: 1000 + self.order as u32,
                start_time: 1,
                note: None,
            },
        );
        if role != Role::Main || spec.exec.kind == Kind::Oneshot {
            let ms = delay + 1 + self.dice.below(200);
            let code = i32::from(self.dice.percent(self.malice.exits / 4));
            self.exit_later(ms, launch, Exit::Code(code));
            return;
        }
        if !self.dice.percent(self.malice.never_ready) {
            let ms = delay + 1 + self.dice.below(3000);
            self.later(
                ms,
                Event::Ready {
                    invocation: launch.invocation,
                },
            );
        }
        // What it says of itself, in any order and at any time.
        if self.malice.exits > 0 && self.dice.percent(30) {
            for _ in 0..=self.dice.below(4) {
                let ms = delay + 1 + self.dice.below(60_000);
                let said = self.own_word(launch);
                self.later(ms, said);
            }
        }
        if self.dice.percent(self.malice.exits) {
            let ms = delay + 1 + self.dice.below(120_000);
            let exit = match self.dice.below(4) {
                0 => Exit::Code(0),
                1 => Exit::Signal {
                    signal: 9,
                    core: false,
                },
                2 => Exit::Code(65),
                _ => Exit::Code(1),
            };
            self.exit_later(ms, launch, exit);
        }
    }

    fn own_word(&mut self, launch: LaunchId) -> Event {
        let invocation = launch.invocation;
        match self.dice.below(8) {
            0 | 1 => Event::Ready { invocation },
            2 | 3 => Event::Reloading {
                invocation,
                at: self.dice.percent(50).then_some(Mono(self.now)),
            },
            4 | 5 => Event::Stopping { invocation },
            6 => Event::Extend {
                invocation,
                by: std::time::Duration::from_secs(self.dice.below(5)),
            },
            _ => Event::MainChanged {
                launch,
                pid: 900_000 + u32::try_from(self.order).unwrap_or(0),
                start_time: 2,
            },
        }
    }

    /// A process from outside: taken, if the dice find that it is there.
    fn adopt(&mut self, launch: LaunchId, spec: &UnitSpec) {
        if self.kept.held.contains_key(&launch) {
            self.fail(&format!("{launch} is adopted twice"));
        }
        if self
            .live
            .iter()
            .any(|(id, p)| p.unit == spec.name && id.is_main())
        {
            self.fail(&format!("{} takes a process while it has one", spec.name));
        }
        let delay = 1 + self.dice.below(20);
        if self.dice.percent(30) {
            let failure = LaunchFailure {
                text: "it is another process by now".to_owned(),
                host: false,
            };
            self.later(delay, Event::LaunchFailed { launch, failure });
            return;
        }
        let process = Process {
            unit: spec.name.clone(),
            is_ready: true,
            ignores_term: self.dice.percent(self.malice.ignores_term),
            leaves_others: self.dice.percent(self.malice.leaves_others),
            has_exited: false,
            is_destroyed: false,
        };
        self.live.insert(launch, process);
        self.kept.held.insert(launch, Told::default());
        let event = Event::Launched {
            launch,
            pid: 7,
            start_time: 8,
            note: None,
        };
        self.later(delay, event);
        if self.dice.percent(self.malice.exits) {
            let ms = delay + 1 + self.dice.below(120_000);
            self.exit_later(ms, launch, Exit::Unknown);
        }
    }

    fn some_hold(&mut self, by: By) -> Held {
        let ms = self.dice.below(600_000);
        let is_endless = self.dice.percent(50);
        Held {
            hold: Hold {
                by,
                note: None,
                since_us: 1,
                until_us: (!is_endless).then_some(2),
            },
            until: (!is_endless).then_some(Mono(self.now + ms * 1_000_000)),
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
        let Some(process) = self.live.get(&launch) else {
            self.fail("a signal is sent to a launch that is not there")
        };
        if signal == 9 || !process.ignores_term {
            let ms = 1 + self.dice.below(1000);
            self.exit_later(ms, launch, Exit::Signal { signal, core: false });
        }
    }

    pub(super) fn destroy(&mut self, launch: LaunchId) {
        let ms = 1 + self.dice.below(50);
        let Some(process) = self.live.get_mut(&launch) else {
            return;
        };
        process.is_destroyed = true;
        if process.has_exited {
            self.later(ms, Event::Emptied { launch });
        } else {
            self.exit_later(
                ms,
                launch,
                Exit::Signal {
                    signal: 9,
                    core: false,
                },
            );
        }
    }

    /// The world's side of an event, at the moment that it is told. None: it is not true any more.
    pub(super) fn happen(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::Exited { launch, exit, .. } => {
                let process = self.live.get_mut(&launch)?;
                if process.has_exited {
                    return None;
                }
                process.has_exited = true;
                process.is_ready = false;
                let remains = if process.leaves_others {
                    vec![77]
                } else {
                    Vec::new()
                };
                if process.is_destroyed && !remains.is_empty() {
                    self.later(5, Event::Emptied { launch });
                }
                if let Some(told) = self.kept.held.get_mut(&launch) {
                    told.exit = Some((exit, remains.clone()));
                }
                if remains.is_empty() {
                    let process = self.live.remove(&launch)?;
                    if launch.is_main() {
                        self.ends.push(process.unit);
                    }
                }
                Some(Event::Exited {
                    launch,
                    exit,
                    remains,
                })
            }
            Event::Emptied { launch } => {
                let process = self.live.remove(&launch)?;
                if let Some(told) = self.kept.held.get_mut(&launch) {
                    told.is_empty = true;
                }
                if launch.is_main() {
                    self.ends.push(process.unit);
                }
                Some(Event::Emptied { launch })
            }
            Event::Launched { launch, pid, .. } => {
                if let Some(told) = self.kept.held.get_mut(&launch) {
                    told.pid = Some(pid);
                }
                self.live.contains_key(&launch).then_some(event)
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
            other => Some(other),
        }
    }

    pub(super) fn request(&mut self, id: u64) {
        let count = self.first.units.len() as u64;
        let units = (0..=self.dice.below(3))
            .map(|_| name(self.dice.below(count) as usize))
            .collect();
        let cascade = self.dice.percent(50);
        let by = By {
            uid: 0,
            pid: 1,
            verb: "sim".to_owned(),
        };
        let op = match self.dice.below(8) {
            0 | 1 => Op::Start { units },
            2 => Op::Stop { units, cascade },
            3 => Op::Restart {
                units,
                only_running: self.dice.percent(30),
                cascade,
            },
            4 => Op::ResetFailed { units },
            5 => Op::Hold {
                units,
                held: self.some_hold(by.clone()),
            },
            6 => Op::Unhold { units },
            _ => Op::Adopt {
                unit: name(self.dice.below(count) as usize),
                process: Foreign {
                    pid: 7,
                    start_time: 8,
                },
            },
        };
        self.asked.insert(RequestId(id));
        self.tell(Event::Request {
            id: RequestId(id),
            op,
            by,
        });
    }

    /// The files change: some units are gone, some are other than they were, and some are back.
    fn reload(&mut self) {
        let mut units = Vec::new();
        for spec in self.first.units.values() {
            let mut spec = UnitSpec::clone(spec);
            if self.dice.percent(10) {
                continue;
            }
            if self.dice.percent(30) {
                spec.digest = "2".to_owned();
                spec.stop.signals = vec![2, 15];
            }
            units.push(spec);
        }
        let plan = plan(units, self.first.node.max_starting);
        self.tell(Event::Loaded(plan));
    }

    /// Lets time pass until `end` (in s), or until nothing is left to happen.
    pub(super) fn run(&mut self, end: u64, mut requests: u64) {
        let end = end * 1_000_000_000;
        while self.now < end && self.finished.is_none() {
            let event = self.queue.peek().map(|Reverse((at, _))| *at);
            let timer = self.engine.next_deadline().map(|m| m.0);
            let Some(next) = [event, timer].into_iter().flatten().min().filter(|at| *at < end) else {
                break;
            };
            self.now = self.now.max(next);
            if event == Some(next) {
                let Some(Reverse((_, order))) = self.queue.pop() else {
                    break;
                };
                let Some(event) = self.due.remove(&order) else {
                    continue;
                };
                if let Some(event) = self.happen(event) {
                    self.tell(event);
                }
            } else {
                self.tell(Event::Tick);
            }
            if requests > 0 && self.dice.percent(self.malice.requests / 4) {
                self.request(requests);
                requests -= 1;
                if self.dice.percent(self.malice.reloads) {
                    self.reload();
                }
            }
        }
    }

    /// The states of the first units, in the words of the tables.
    pub(super) fn words(&self, count: usize) -> Vec<String> {
        let word = |i| self.engine.find(&name(i)).expect("known").1.state.word();
        (0..count)
            .map(|i| format!("{:?}", word(i)).to_lowercase())
            .collect()
    }

    pub(super) fn shut_down(&mut self) {
        let cause = crate::engine::cause::own(proto::reply::CauseKind::Signal, 0, "SIGTERM");
        self.tell(Event::Shutdown { cause });
        self.run(self.now / 1_000_000_000 + 7200, 0);
    }
}
