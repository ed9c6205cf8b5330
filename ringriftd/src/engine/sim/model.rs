//! Small systems, looked at whole: every state that the production engine and a malicious world can reach together, by
//! breadth first, so that a state that must not be is told with the shortest way to it. `models` has the systems and their
//! counts.
//!
//! A state is the engine itself with the processes that the keeper has. Two states are one when their canonical pictures are
//! the same: lives and requests are named by their order instead of their serials, times are told from now, and what only tells
//! of the past (texts, counters, numbers of events) is left out. So requests and lives may go on without end, and the number of
//! states is finite all the same. Of each picture 128 bits are kept (FNV-1a): among a million states two share them by chance
//! less than once in 10^26 runs.
//!
//! The world answers when it likes: time stands still until the next deadline is let pass, and any number of things may happen
//! before. A process may fail to start, be ready late, twice or never, end as it likes, leave others, and ignore every signal but
//! SIGKILL. What is said twice, and what is said of a life that is over, must change nothing.
//!
//! Here are the systems and what happens to them; `obey` does what the engine asks for, `verdicts` says what must not be, `picture`
//! is the canonical one, and `search` looks at everything.
//!
//! Read first: [`System`], then `Model::moves`, then `Model::obey`.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::reply::{By, Cause, CauseKind, Exit, Hold};

use crate::engine::hold::Held;
use crate::engine::machine::Engine;
use crate::engine::request::Goal;
use crate::engine::types::{Action, Event, LaunchFailure, Mono, Op, Plan, RequestId, Role};
use crate::ids::{LaunchId, Scope};
use crate::spec::{Kind, UnitName};

use super::picture::Picture;

/// A small system, and what its world may do.
#[derive(Clone)]
pub(super) struct System {
    pub(super) plan: Arc<Plan>,
    /// Requests that may be under way at once.
    pub(super) requests: usize,
    /// Which are made.
    pub(super) asks: &'static [Ask],
    /// The host may fail, so often in a row.
    pub(super) host_faults: u32,
    /// Processes may leave others behind.
    pub(super) leaves: bool,
    /// Everything may be said twice, and of lives that are over.
    pub(super) repeats: bool,
    /// The node may be told to end.
    pub(super) shutdown: bool,
    /// With which codes processes end by themselves.
    pub(super) codes: &'static [i32],
    /// How often the manager may die: before an event, and after any number of its actions.
    pub(super) deaths: u32,
}

/// What operators ask for, of one unit at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    Start,
    Stop,
    StopAll,
    Restart,
    Reset,
    Hold,
    Unhold,
    Kill,
}

/// A process as the keeper has it.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) unit: UnitName,
    pub(super) role: Role,
    pub(super) at: At,
    pub(super) is_ready: bool,
    pub(super) is_told: bool,
    pub(super) is_destroyed: bool,
    pub(super) exit: Option<Exit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// It was asked for, and the keeper has not answered.
    Asked,
    Alive,
    /// It ended, and others of it are there.
    Leaving,
    /// Nothing of it is left.
    Gone,
}

/// Something that happens.
#[derive(Debug, Clone)]
pub(super) enum Move {
    Launched(LaunchId),
    LaunchFailed(LaunchId, bool),
    Ready(LaunchId),
    Exited(LaunchId, Exit, bool),
    Emptied(LaunchId),
    Unkillable(LaunchId),
    Pass,
    Ask(Ask, UnitName),
    Shutdown,
    /// It is said again, or of a life that is over: nothing may change.
    Void(Event),
}

/// How the manager dies at a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    No,
    /// Before it has heard.
    Before {
        asked_fail: bool,
    },
    /// When it has done so many of its actions.
    After {
        done: usize,
        asked_fail: bool,
    },
}

#[derive(Clone)]
pub(super) struct Model {
    pub(super) engine: Engine,
    pub(super) now: u64,
    pub(super) held: BTreeMap<LaunchId, Piece>,
    pub(super) open: BTreeMap<RequestId, (Ask, UnitName)>,
    pub(super) next_request: u64,
    /// The last main launch of each unit that was released.
    pub(super) past: BTreeMap<UnitName, LaunchId>,
    pub(super) deaths: u32,
    pub(super) is_recovering: bool,
    pub(super) repeats: bool,
    pub(super) last_refused: bool,
    pub(super) finished: bool,
    pub(super) seq: u64,
}

pub(super) fn by() -> By {
    By {
        uid: 0,
        pid: 2,
        verb: "test".to_owned(),
    }
}

impl Model {
    pub(super) fn new(system: &System) -> Result<Self, String> {
        let mut model = Self {
            engine: Engine::new(1),
            now: 0,
            held: BTreeMap::new(),
            open: BTreeMap::new(),
            next_request: 1,
            past: BTreeMap::new(),
            deaths: system.deaths,
            is_recovering: false,
            repeats: system.repeats,
            last_refused: false,
            finished: false,
            seq: 0,
        };
        model.handle(Event::Loaded(Arc::clone(&system.plan)))?;
        Ok(model)
    }

    /// All that may happen next.
    pub(super) fn moves(&self, system: &System) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.finished {
            return moves;
        }
        for (&launch, held) in &self.held {
            match held.at {
                At::Asked => {
                    moves.push(Move::Launched(launch));
                    moves.push(Move::LaunchFailed(launch, false));
                    let (_, unit) = self.engine.find(&held.unit).expect("no unit goes");
                    if unit.restarts.picture(&|_| 0).host_step < system.host_faults {
                        moves.push(Move::LaunchFailed(launch, true));
                    }
                }
                At::Alive => self.of_alive(system, launch, held, &mut moves),
                At::Leaving => {
                    moves.push(Move::Emptied(launch));
                    if system.repeats {
                        moves.push(Move::Void(launched(launch)));
                        moves.push(Move::Void(Event::Exited {
                            launch,
                            exit: Exit::Code(1),
                            remains: vec![9],
                        }));
                    }
                }
                At::Gone => {}
            }
        }
        if self.engine.next_deadline().is_some_and(|at| at < Mono(u64::MAX)) {
            moves.push(Move::Pass);
        }
        if self.open.len() < system.requests {
            for &ask in system.asks {
                let all = system.plan.units.keys().cloned();
                moves.extend(all.map(|unit| Move::Ask(ask, unit)));
            }
        }
        if system.shutdown && !self.engine.is_shutting_down() {
            moves.push(Move::Shutdown);
        }
        if system.repeats {
            for &launch in self.past.values() {
                moves.push(Move::Void(Event::Exited {
                    launch,
                    exit: Exit::Code(1),
                    remains: Vec::new(),
                }));
                moves.push(Move::Void(Event::Emptied { launch }));
                moves.push(Move::Void(Event::Ready {
                    invocation: launch.invocation,
                }));
                moves.push(Move::Void(launched(launch)));
            }
            moves.push(Move::Void(Event::Tick));
        }
        moves
    }

    pub(super) fn of_alive(&self, system: &System, launch: LaunchId, held: &Piece, moves: &mut Vec<Move>) {
        let spec = &system.plan.units[&held.unit];
        if held.role == Role::Main && spec.exec.kind == Kind::Notify && (!held.is_ready || system.repeats) {
            moves.push(Move::Ready(launch));
        }
        if held.is_destroyed {
            let exit = Exit::Signal {
                signal: 9,
                core: false,
            };
            moves.push(Move::Exited(launch, exit, false));
            if system.leaves {
                moves.push(Move::Unkillable(launch));
            }
        } else {
            for &code in system.codes {
                moves.push(Move::Exited(launch, Exit::Code(code), false));
            }
            if system.leaves {
                moves.push(Move::Exited(launch, Exit::Code(1), true));
            }
        }
        if system.repeats {
            moves.push(Move::Void(launched(launch)));
        }
    }

    /// Makes a move, with or without a death of the manager. `Err` is what must not be.
    pub(super) fn go(&self, system: &System, what: &Move, death: Death) -> Result<(Self, usize), String> {
        let mut next = self.clone();
        next.last_refused = false;
        let event = next.happen(what);
        let done = match death {
            Death::No => next.handle(event)?,
            Death::Before { asked_fail } => {
                next.deaths -= 1;
                next.recover(system, Vec::new(), asked_fail)?;
                0
            }
            Death::After { done, asked_fail } => {
                next.deaths -= 1;
                let actions = next.decide(event)?;
                let mut rest = actions;
                for action in rest.iter().take(done).cloned() {
                    next.obey(action)?;
                }
                next.is_recovering = true;
                // Launches are asked for anew by the engine; signals carry a number and answers a token: none is repeated.
                let mut place = 0;
                rest.retain(|action| {
                    place += 1;
                    match action {
                        Action::Launch { .. } | Action::AdoptForeign { .. } | Action::Probe { .. } => false,
                        Action::Signal { .. } | Action::Reply { .. } => place > done,
                        _ => true,
                    }
                });
                next.recover(system, rest, asked_fail)?;
                0
            }
        };
        if let Move::Void(event) = what
            && next.picture() != self.picture()
        {
            return Err(format!("news that is void changed something: {event:?}"));
        }
        next.judge()?;
        self.judge_move(&next, what)?;
        Ok((next, done))
    }

    /// What the world does; what the manager is told of it.
    pub(super) fn happen(&mut self, what: &Move) -> Event {
        let held = |model: &mut Self, launch: &LaunchId, change: &dyn Fn(&mut Piece)| {
            if let Some(held) = model.held.get_mut(launch) {
                change(held);
            }
        };
        match what {
            Move::Launched(launch) => {
                held(self, launch, &|held| held.at = At::Alive);
                launched(*launch)
            }
            Move::LaunchFailed(launch, host) => {
                self.held.remove(launch);
                Event::LaunchFailed {
                    launch: *launch,
                    failure: LaunchFailure {
                        text: "no".to_owned(),
                        host: *host,
                    },
                }
            }
            Move::Ready(launch) => {
                held(self, launch, &|held| held.is_ready = true);
                Event::Ready {
                    invocation: launch.invocation,
                }
            }
            Move::Exited(launch, exit, leaves) => {
                held(self, launch, &|held| {
                    held.at = if *leaves { At::Leaving } else { At::Gone };
                    held.exit = Some(*exit);
                });
                Event::Exited {
                    launch: *launch,
                    exit: *exit,
                    remains: if *leaves { vec![9] } else { Vec::new() },
                }
            }
            Move::Emptied(launch) => {
                held(self, launch, &|held| held.at = At::Gone);
                Event::Emptied { launch: *launch }
            }
            Move::Unkillable(launch) => Event::Unkillable {
                launch: *launch,
                remains: vec![9],
            },
            Move::Pass => {
                let at = self.engine.next_deadline().unwrap_or_default();
                self.now = self.now.max(at.0);
                Event::Tick
            }
            Move::Ask(ask, unit) => {
                let id = RequestId(self.next_request);
                self.next_request += 1;
                self.open.insert(id, (*ask, unit.clone()));
                Event::Request {
                    id,
                    op: op(*ask, unit),
                    by: by(),
                }
            }
            Move::Shutdown => Event::Shutdown {
                cause: Cause {
                    kind: CauseKind::Signal,
                    seq: None,
                    unit: None,
                    by: None,
                    text: "SIGTERM".to_owned(),
                },
            },
            Move::Void(event) => event.clone(),
        }
    }

    pub(super) fn decide(&mut self, event: Event) -> Result<Vec<Action>, String> {
        self.engine.handle(Mono(self.now), event);
        self.after()
    }

    pub(super) fn after(&mut self) -> Result<Vec<Action>, String> {
        let actions: Vec<Action> = std::iter::from_fn(|| self.engine.poll_action()).collect();
        self.engine.take_delta();
        let broken = self.engine.broken_invariants();
        if broken.is_empty() {
            Ok(actions)
        } else {
            Err(broken.join("; "))
        }
    }

    pub(super) fn handle(&mut self, event: Event) -> Result<usize, String> {
        let actions = self.decide(event)?;
        let count = actions.len();
        actions.into_iter().try_for_each(|action| self.obey(action))?;
        Ok(count)
    }

    /// As a new manager comes back, with these actions of the last event to be done again.
    pub(super) fn recover(
        &mut self,
        system: &System,
        rest: Vec<Action>,
        asked_fail: bool,
    ) -> Result<(), String> {
        self.is_recovering = true;
        self.engine = Engine::restore(self.engine.snapshot(), &system.plan);
        let broken = self.engine.broken_invariants();
        if !broken.is_empty() {
            return Err(format!("restored: {}", broken.join("; ")));
        }
        rest.into_iter().try_for_each(|action| self.obey(action))?;
        // What the keeper was about to say of launches it has done; one that failed is not there.
        let asked: Vec<LaunchId> = self
            .held
            .iter()
            .filter(|(_, h)| h.at == At::Asked)
            .map(|(l, _)| *l)
            .collect();
        for launch in asked {
            if asked_fail {
                self.held.remove(&launch);
            } else if let Some(held) = self.held.get_mut(&launch) {
                held.at = At::Alive;
            }
        }
        for (launch, held) in self.held.clone() {
            self.handle(launched(launch))?;
            if let Some(exit) = held.exit {
                let remains = if held.at == At::Leaving {
                    vec![9]
                } else {
                    Vec::new()
                };
                self.handle(Event::Exited {
                    launch,
                    exit,
                    remains,
                })?;
            }
        }
        self.engine.resume(Mono(self.now));
        let actions = self.after()?;
        actions.into_iter().try_for_each(|action| self.obey(action))?;
        self.is_recovering = false;
        Ok(())
    }

    /// The canonical picture.
    pub(super) fn picture(&self) -> Vec<u8> {
        let mut out = Picture {
            bytes: Vec::with_capacity(256),
            now: self.now,
        };
        for (_, unit) in self.engine.units() {
            out.unit(unit);
        }
        for gate in self.engine.gates() {
            out.number(u64::from(gate.count));
            out.time(gate.open.map(|open| open.until));
        }
        for (launch, held) in &self.held {
            let (ix, unit) = self.engine.find(&held.unit).expect("no unit goes");
            let is_present = unit
                .state
                .life()
                .is_some_and(|l| l.invocation == launch.invocation);
            out.number(u64::from(ix.0));
            out.role(held.role);
            out.bits(&[is_present, held.is_ready, held.is_told, held.is_destroyed]);
            out.number(held.at as u64);
        }
        out.number(0xff);
        let life_of = |name: &UnitName| {
            let (_, unit) = self.engine.find(name)?;
            unit.state.life().map(|life| life.invocation)
        };
        for (id, (ask, unit)) in &self.open {
            out.number(*ask as u64);
            out.number(self.engine.find(unit).map_or(9, |(ix, _)| u64::from(ix.0)));
            let Some(pending) = self.engine.requests.pending().get(id) else {
                continue;
            };
            for (unit, goal) in &pending.open {
                out.number(self.engine.find(unit).map_or(9, |(ix, _)| u64::from(ix.0)));
                out.number(match goal {
                    Goal::Up { other_than: None } => 0,
                    Goal::Up { other_than } if *other_than == life_of(unit) => 1,
                    Goal::Up { .. } => 2,
                    Goal::Down => 3,
                    Goal::Reloaded { .. } => 4,
                });
            }
            out.number(pending.verdicts.len() as u64);
        }
        out.number(u64::from(self.deaths));
        let shutdown = self.engine.shutdown.as_ref();
        out.time(shutdown.map(|shutdown| shutdown.deadline));
        out.bits(&[
            self.finished,
            shutdown.is_some_and(|shutdown| shutdown.killing),
            !self.past.is_empty(),
        ]);
        out.bytes
    }
}

pub(super) fn launched(launch: LaunchId) -> Event {
    Event::Launched {
        launch,
        pid: 7,
        start_time: 1,
        note: None,
    }
}

pub(super) fn op(ask: Ask, unit: &UnitName) -> Op {
    let units = vec![unit.clone()];
    match ask {
        Ask::Start => Op::Start { units },
        Ask::Stop => Op::Stop {
            units,
            cascade: false,
        },
        Ask::StopAll => Op::Stop { units, cascade: true },
        Ask::Restart => Op::Restart {
            units,
            only_running: false,
            cascade: true,
        },
        Ask::Reset => Op::ResetFailed { units },
        Ask::Hold => Op::Hold {
            units,
            held: Held {
                hold: Hold {
                    by: by(),
                    note: None,
                    since_us: 0,
                    until_us: None,
                },
                until: None,
            },
        },
        Ask::Unhold => Op::Unhold { units },
        Ask::Kill => Op::Kill {
            units,
            signal: 15,
            scope: Scope::All,
        },
    }
}
