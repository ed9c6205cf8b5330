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
//! Read first: [`System`], then `Model::moves` and `Model::obey`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::reply::{By, Cause, CauseKind, Exit, Hold, Outcome};

use crate::engine::Blocker;
use crate::engine::hold::Held;
use crate::engine::machine::Engine;
use crate::engine::request::Goal;
use crate::engine::types::{
    Action, Event, LaunchFailure, Mono, Op, Plan, RequestAnswer, RequestId, Role, UnitAnswer,
};
use crate::engine::unit::{Desired, End, State, StopPhase, Unit};
use crate::graph::Ix;
use crate::ids::{LaunchId, Scope};
use crate::spec::{Exhausted, Kind, RestartPolicy, UnitName};

use super::picture::Picture;

/// Steps within which everything must have come to rest once the world is kind.
const CALM_STEPS: usize = 300;

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
struct Piece {
    unit: UnitName,
    role: Role,
    at: At,
    is_ready: bool,
    is_told: bool,
    is_destroyed: bool,
    exit: Option<Exit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
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
enum Move {
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
enum Death {
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
struct Model {
    engine: Engine,
    now: u64,
    held: BTreeMap<LaunchId, Piece>,
    open: BTreeMap<RequestId, (Ask, UnitName)>,
    next_request: u64,
    /// The last main launch of each unit that was released.
    past: BTreeMap<UnitName, LaunchId>,
    deaths: u32,
    is_recovering: bool,
    repeats: bool,
    last_refused: bool,
    finished: bool,
    seq: u64,
}

/// What a search came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) states: usize,
    pub(super) moves: usize,
    /// The longest of all shortest ways.
    pub(super) depth: usize,
    /// What must not be, and the way to it.
    pub(super) fault: Option<String>,
}

fn name_of(model: &Model, ix: Ix) -> UnitName {
    model.engine.graph().name(ix).clone()
}

fn by() -> By {
    By {
        uid: 0,
        pid: 2,
        verb: "test".to_owned(),
    }
}

impl Model {
    fn new(system: &System) -> Result<Self, String> {
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
    fn moves(&self, system: &System) -> Vec<Move> {
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

    fn of_alive(&self, system: &System, launch: LaunchId, held: &Piece, moves: &mut Vec<Move>) {
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
    fn go(&self, system: &System, what: &Move, death: Death) -> Result<(Self, usize), String> {
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

    /// What a move may have changed, and what not.
    fn judge_move(&self, next: &Self, what: &Move) -> Result<(), String> {
        for (ix, before) in self.engine.units() {
            let after = next.engine.unit(ix);
            let name = &before.spec.name;
            let now = Mono(next.now);
            let past = |unit: &Unit| unit.restarts.picture(&|at| now.since(at).as_nanos() as u64);
            let (had, has) = (past(before), past(after));
            let policy = &before.spec.restart;
            let window = policy.window.as_nanos() as u64;
            let times = has.ages.iter().filter(|age| **age < window).count();
            if policy.max_restarts.is_some_and(|most| times > most as usize) {
                return Err(format!("{name} is restarted {times} times within its window"));
            }
            let is_host = matches!(what, Move::LaunchFailed(_, true));
            // One whose time was up before has failed by itself.
            let was_starting = matches!(before.state, State::Starting { .. });
            if is_host && was_starting && has.ages.len() > had.ages.len() {
                return Err(format!("{name} pays for a failure of the host"));
            }
            if let (State::Backoff { until }, false) = (&after.state, is_host)
                && !matches!(before.state, State::Backoff { .. })
                && after.restarts.is_due()
                && until.since(now) < policy.delay
            {
                return Err(format!("{name} is tried again too soon"));
            }
            let was_stable = before
                .state
                .life()
                .and_then(|life| life.ready)
                .is_some_and(|at| now.since(at) >= policy.stable_after);
            if had.is_slow && !has.is_slow && !was_stable && !matches!(what, Move::Ask(..)) {
                return Err(format!("the past of {name} is forgiven though it was not stable"));
            }
            if let Move::Ask(ask, unit) = what
                && unit == name
            {
                let is_refused = next.last_refused;
                let is_right = match ask {
                    Ask::Start | Ask::Restart => is_refused || after.desired == Desired::Up,
                    Ask::Stop | Ask::StopAll => is_refused || after.desired == Desired::Down,
                    Ask::Hold => after.hold.is_some(),
                    Ask::Unhold => after.hold.is_none(),
                    Ask::Reset => has.ages.is_empty() && !has.is_slow,
                    Ask::Kill => true,
                };
                if !is_right {
                    return Err(format!("{ask:?} {name} was taken, and is not what is wanted"));
                }
            }
        }
        if let Some((launch, piece)) = next.held.iter().find(|(_, piece)| piece.at == At::Gone) {
            return Err(format!(
                "{} of {}, {launch}, is gone and never released",
                piece.role, piece.unit
            ));
        }
        Ok(())
    }

    /// What the world does; what the manager is told of it.
    fn happen(&mut self, what: &Move) -> Event {
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

    fn decide(&mut self, event: Event) -> Result<Vec<Action>, String> {
        self.engine.handle(Mono(self.now), event);
        self.after()
    }

    fn after(&mut self) -> Result<Vec<Action>, String> {
        let actions: Vec<Action> = std::iter::from_fn(|| self.engine.poll_action()).collect();
        self.engine.take_delta();
        let broken = self.engine.broken_invariants();
        if broken.is_empty() {
            Ok(actions)
        } else {
            Err(broken.join("; "))
        }
    }

    fn handle(&mut self, event: Event) -> Result<usize, String> {
        let actions = self.decide(event)?;
        let count = actions.len();
        actions.into_iter().try_for_each(|action| self.obey(action))?;
        Ok(count)
    }

    /// As a new manager comes back, with these actions of the last event to be done again.
    fn recover(&mut self, system: &System, rest: Vec<Action>, asked_fail: bool) -> Result<(), String> {
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
                let remains = if held.is_told && held.at == At::Leaving {
                    vec![9]
                } else {
                    Vec::new()
                };
                let remains = if held.at == At::Leaving { vec![9] } else { remains };
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

    fn main_of(&self, unit: &UnitName) -> Option<&Piece> {
        self.held
            .values()
            .find(|held| held.unit == *unit && held.role == Role::Main)
    }

    fn is_alive(held: &Piece) -> bool {
        matches!(held.at, At::Alive | At::Leaving)
    }

    /// The keeper, and what must hold of everything that it is asked for.
    fn obey(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Launch { launch, role, spec } => return self.launch(launch, role, &spec.name),
            Action::Signal { launch, .. } => match self.held.get(&launch) {
                Some(held) if held.at == At::Asked => {
                    return Err(format!("{launch} is signalled before the keeper has answered"));
                }
                Some(held) => {
                    let unit = held.unit.clone();
                    self.stop_order(&unit)?;
                    self.held.entry(launch).and_modify(|held| held.is_told = true);
                }
                None if self.is_recovering => {}
                None => return Err(format!("{launch} is signalled, and is not there")),
            },
            Action::Destroy { launch } => match self.held.get_mut(&launch) {
                Some(held) if held.at == At::Asked => {
                    return Err(format!("{launch} is killed before the keeper has answered"));
                }
                Some(held) => {
                    let is_forced = self
                        .engine
                        .shutdown
                        .as_ref()
                        .is_some_and(|shutdown| shutdown.killing);
                    if held.role == Role::Main && held.at == At::Alive && !held.is_told && !is_forced {
                        return Err(format!("{launch} is killed, and was never told to go"));
                    }
                    held.is_destroyed = true;
                }
                None if self.is_recovering => {}
                None => return Err(format!("{launch} is killed, and is not there")),
            },
            Action::Release { launch } => match self.held.get(&launch).map(|held| held.at) {
                Some(At::Gone) => {
                    let held = self.held.remove(&launch);
                    if let Some(held) = held.filter(|held| held.role == Role::Main && self.repeats) {
                        self.past.insert(held.unit, launch);
                    }
                }
                Some(at) => return Err(format!("{launch} is released while it is {at:?}")),
                None if self.is_recovering || self.past.values().any(|l| *l == launch) => {}
                None => return Err(format!("{launch} is released twice")),
            },
            Action::Reply { id, answer } => return self.reply(id, &answer),
            Action::Finish { .. } => {
                // At the end of its time it is given up.
                let is_forced = self
                    .engine
                    .shutdown
                    .as_ref()
                    .is_some_and(|shutdown| shutdown.killing);
                if !is_forced && self.held.values().any(Self::is_alive) {
                    return Err("it is finished, and something lives".to_owned());
                }
                self.finished = true;
            }
            Action::Emit(change) => {
                let is_repeated = self.is_recovering && change.seq <= self.seq;
                if change.seq != self.seq + 1 && !is_repeated {
                    return Err(format!("event {} came after event {}", change.seq, self.seq));
                }
                self.seq = self.seq.max(change.seq);
            }
            Action::AdoptForeign { .. }
            | Action::FindMain { .. }
            | Action::Probe { .. }
            | Action::Worked { .. }
            | Action::Failed(_) => {}
        }
        Ok(())
    }

    fn launch(&mut self, launch: LaunchId, role: Role, name: &UnitName) -> Result<(), String> {
        if self.held.contains_key(&launch) {
            return Err(format!("{launch} is launched twice"));
        }
        let others = self
            .held
            .values()
            .filter(|held| held.unit == *name && held.at != At::Gone);
        if let Some(other) = others.clone().next()
            && !(matches!(role, Role::StartPost(_) | Role::StopPre(_)) && other.role == Role::Main)
        {
            return Err(format!("{role} of {name} is launched beside its {}", other.role));
        }
        let (ix, unit) = self.engine.find(name).expect("no unit goes");
        let is_up = matches!(role, Role::Main | Role::StartPre(_));
        if is_up && (unit.desired == Desired::Down || self.engine.is_shutting_down()) {
            return Err(format!("{name} is launched though it is wanted down"));
        }
        // A life that began before the hold goes on.
        if unit.hold.is_some() && role == Role::StartPre(0) && !self.is_recovering {
            return Err(format!("{name} is launched though it is held"));
        }
        for &d in &self.engine.graph().edges(ix).requires {
            let d = name_of(self, d);
            let is_ready = self
                .main_of(&d)
                .is_some_and(|held| held.is_ready && held.at == At::Alive);
            let spec = &self.engine.find(&d).expect("no unit goes").1;
            let is_done = spec.state == State::Completed && spec.spec.exec.kind == Kind::Oneshot;
            let is_simple =
                spec.spec.exec.kind == Kind::Simple && self.main_of(&d).is_some_and(|h| h.at == At::Alive);
            if role == Role::Main && !(is_ready || is_done || is_simple) {
                return Err(format!(
                    "{name} is launched, and {d}, which it requires, is not ready"
                ));
            }
        }
        self.held.insert(
            launch,
            Piece {
                unit: name.clone(),
                role,
                at: At::Asked,
                is_ready: false,
                is_told: false,
                is_destroyed: false,
                exit: None,
            },
        );
        Ok(())
    }

    /// One that is wanted down goes after those that require it.
    fn stop_order(&self, name: &UnitName) -> Result<(), String> {
        let (ix, unit) = self.engine.find(name).expect("no unit goes");
        let is_stop = unit.desired == Desired::Down
            && matches!(
                &unit.state,
                State::Stopping {
                    end: End::Wanted,
                    phase: StopPhase::Signal(0),
                    ..
                }
            );
        // One that never became ready has nobody that relies on it.
        let was_ready = unit.state.life().is_some_and(|life| life.ready.is_some());
        if !is_stop || !was_ready {
            return Ok(());
        }
        for &v in &self.engine.graph().edges(ix).required_by {
            let v = name_of(self, v);
            if self.main_of(&v).is_some_and(Self::is_alive) {
                return Err(format!("{name} is stopped, and {v}, which requires it, lives"));
            }
        }
        Ok(())
    }

    fn reply(&mut self, id: RequestId, answer: &RequestAnswer) -> Result<(), String> {
        let Some((ask, _)) = self.open.remove(&id) else {
            return Err(format!("request {} is answered, and is not open", id.0));
        };
        let RequestAnswer::Done(answers) = answer else {
            self.last_refused = true;
            return Ok(());
        };
        let said = |answer: &&UnitAnswer| matches!(answer.outcome, Outcome::Done | Outcome::Already);
        for answer in answers.iter().filter(said) {
            let (_, unit) = self.engine.find(&answer.unit).expect("no unit goes");
            let main = self.main_of(&answer.unit);
            let is_right = match ask {
                Ask::Start | Ask::Restart => {
                    let is_notify = unit.spec.exec.kind == Kind::Notify;
                    (!is_notify && unit.is_satisfied())
                        || main.is_some_and(|held| held.at == At::Alive && (held.is_ready || !is_notify))
                }
                // A later start may have begun the next life in the same step.
                Ask::Stop | Ask::StopAll => !self
                    .held
                    .values()
                    .any(|held| held.unit == answer.unit && Self::is_alive(held)),
                Ask::Reset | Ask::Hold | Ask::Unhold | Ask::Kill => true,
            };
            if !is_right {
                return Err(format!(
                    "{ask:?} {} is answered with {:?}",
                    answer.unit, answer.outcome
                ));
            }
        }
        Ok(())
    }

    /// Every wait has an end: a deadline, or a word that somebody owes.
    fn judge(&self) -> Result<(), String> {
        for (_, unit) in self.engine.units() {
            let name = &unit.spec.name;
            let owes = self
                .held
                .values()
                .any(|held| held.unit == *name && held.at != At::Gone);
            let is_moving = matches!(
                unit.state,
                State::Starting { .. } | State::Stopping { .. } | State::Reloading { .. }
            );
            let is_timed = unit.state.deadline().is_some_and(|at| at < Mono(u64::MAX));
            if is_moving && !owes && !is_timed {
                return Err(format!("{name} is {:?} and nothing will end that", unit.word));
            }
            // A start always has its time; a stop has it until everything is being killed.
            let is_owed = self.held.values().any(|held| {
                held.unit == *name && (held.at == At::Asked || (held.at != At::Gone && held.is_destroyed))
            });
            if is_moving && !is_timed && !is_owed {
                return Err(format!(
                    "{name} is {:?} for as long as its process likes",
                    unit.word
                ));
            }
            let lives = unit.state.life().is_some();
            if owes && !lives {
                return Err(format!("{name} is {:?} and something of it lives", unit.word));
            }
        }
        Ok(())
    }

    /// The kindest thing that may happen next; nothing, when all is at rest.
    fn kind_move(&self, system: &System) -> Option<Move> {
        for (&launch, held) in &self.held {
            let kind = system.plan.units[&held.unit].exec.kind;
            let is_hook = held.role != Role::Main;
            match held.at {
                At::Asked => return Some(Move::Launched(launch)),
                At::Leaving => return Some(Move::Emptied(launch)),
                At::Alive if held.is_destroyed => {
                    let exit = Exit::Signal {
                        signal: 9,
                        core: false,
                    };
                    return Some(Move::Exited(launch, exit, false));
                }
                At::Alive if held.is_told || is_hook || kind == Kind::Oneshot => {
                    return Some(Move::Exited(launch, Exit::Code(0), false));
                }
                At::Alive if !held.is_ready && kind == Kind::Notify => return Some(Move::Ready(launch)),
                At::Alive | At::Gone => {}
            }
        }
        self.engine
            .next_deadline()
            .filter(|at| *at < Mono(u64::MAX))
            .map(|_| Move::Pass)
    }

    /// From here on nothing fails: what is wanted must come to be, and every question be answered.
    fn converges(&self, system: &System) -> Result<(), String> {
        let mut model = self.clone();
        let mut steps = 0;
        while let Some(what) = model.kind_move(system).filter(|_| !model.finished) {
            steps += 1;
            if steps > CALM_STEPS {
                return Err("it does not come to rest though nothing fails".to_owned());
            }
            model = model.go(system, &what, Death::No)?.0;
        }
        let shutdown = model.engine.shutdown.as_ref();
        let is_given_up = model.finished && shutdown.is_some_and(|shutdown| shutdown.killing);
        if let Some((ask, unit)) = model.open.values().next()
            && !is_given_up
        {
            let is = model.engine.find(unit).map(|(_, unit)| (unit.word, unit.desired));
            return Err(format!(
                "{ask:?} {unit} is never answered: {is:?} {:?}",
                model.engine.requests.pending()
            ));
        }
        if model.engine.is_shutting_down() {
            return if model.finished {
                Ok(())
            } else {
                Err("the shutdown never ends".to_owned())
            };
        }
        for (ix, unit) in model.engine.units() {
            let name = &unit.spec.name;
            let lives = model
                .held
                .values()
                .any(|held| held.unit == *name && held.at != At::Gone);
            let is_right = match (unit.desired, &unit.state) {
                (Desired::Down, _) => !lives,
                (Desired::Up, State::Running { .. } | State::Completed) => true,
                (Desired::Up, State::Failed { next_try }) => {
                    let policy = &unit.spec.restart;
                    let may_give_up = policy.policy == RestartPolicy::Never
                        || policy.exhausted == Exhausted::GiveUp
                        || !policy.permanent_exit_codes.is_empty();
                    unit.hold.is_some() || (next_try.is_none() && may_give_up)
                }
                (Desired::Up, State::Waiting) => {
                    let is_up = |d: Ix| model.engine.unit(d).is_satisfied();
                    let blockers = model.engine.blockers(ix);
                    !blockers.is_empty()
                        && blockers.iter().all(|blocker| match blocker {
                            Blocker::Requirement(d) | Blocker::Want(d) => !is_up(*d),
                            Blocker::Hold(_) | Blocker::Conflict(_) => true,
                            Blocker::Order(_) | Blocker::Limit(_) | Blocker::Breaker(_) => false,
                        })
                }
                (Desired::Up, State::Backoff { .. }) => unit.hold.is_some(),
                (Desired::Up, _) => false,
            };
            if !is_right {
                return Err(format!(
                    "{name} comes to rest as {:?}, wanted {:?}",
                    unit.word, unit.desired
                ));
            }
        }
        Ok(())
    }

    /// The canonical picture.
    fn picture(&self) -> Vec<u8> {
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

fn launched(launch: LaunchId) -> Event {
    Event::Launched {
        launch,
        pid: 7,
        start_time: 1,
        note: None,
    }
}

fn op(ask: Ask, unit: &UnitName) -> Op {
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

/// FNV-1a, 128 bit (Fowler, Noll, Vo).
fn fingerprint(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |h, b| {
            (h ^ u128::from(*b)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
}

/// What was found so far, by fingerprint: the state before, and which of its choices led here.
type Seen = BTreeMap<u128, (u128, u16)>;

/// Looks at every reachable state, or at `most` of them.
pub(super) fn search(system: &System, most: usize) -> Found {
    let mut found = Found {
        states: 0,
        moves: 0,
        depth: 0,
        fault: None,
    };
    let mut seen = Seen::new();
    let first = match Model::new(system) {
        Ok(first) => first,
        Err(fault) => {
            found.fault = Some(fault);
            return found;
        }
    };
    let root = fingerprint(&first.picture());
    seen.insert(root, (root, 0));
    let mut layer = vec![(root, first)];
    while !layer.is_empty() {
        let mut next_layer = Vec::new();
        for (print, model) in layer {
            let tell = |seen: &Seen, fault: String, last: Option<(&Move, Death)>| {
                let mut way = way_to(system, seen, root, print);
                way.extend(last.map(|(what, death)| format!("{what:?} {death:?}")));
                format!("{fault}\n  {}", way.join("\n  "))
            };
            let checked = model.converges(system).and_then(|()| model.is_neutral(system));
            if let Err(fault) = checked {
                found.fault = Some(tell(&seen, fault, None));
                return found;
            }
            for (place, (what, death)) in choices(system, &model).into_iter().enumerate() {
                found.moves += 1;
                let next = match model.go(system, &what, death) {
                    Ok((next, _)) => next,
                    Err(fault) => {
                        found.fault = Some(tell(&seen, fault, Some((&what, death))));
                        return found;
                    }
                };
                let new = fingerprint(&next.picture());
                if let std::collections::btree_map::Entry::Vacant(free) = seen.entry(new) {
                    free.insert((print, u16::try_from(place).unwrap_or(u16::MAX)));
                    next_layer.push((new, next));
                }
            }
            if seen.len() >= most {
                found.states = seen.len();
                found.fault = Some(format!("more than {most} states"));
                return found;
            }
        }
        layer = next_layer;
        found.depth += usize::from(!layer.is_empty());
    }
    found.states = seen.len();
    found
}

/// Every move, alone and with each way in which the manager may die at it.
fn choices(system: &System, model: &Model) -> Vec<(Move, Death)> {
    let mut all = Vec::new();
    for what in model.moves(system) {
        let is_void = matches!(what, Move::Void(_));
        let mut actions = 0;
        if model.deaths > 0 && !is_void {
            actions = model
                .go(system, &what, Death::No)
                .map_or(0, |(_, actions)| actions);
        }
        all.push((what.clone(), Death::No));
        if model.deaths == 0 || is_void {
            continue;
        }
        let fates: &[bool] = if model.held.values().any(|held| held.at == At::Asked) || actions > 0 {
            &[false, true]
        } else {
            &[false]
        };
        for &asked_fail in fates {
            // What is not of a process is still to be taken when the new manager is there.
            if matches!(
                what,
                Move::Launched(_) | Move::LaunchFailed(..) | Move::Exited(..) | Move::Emptied(_)
            ) {
                all.push((what.clone(), Death::Before { asked_fail }));
            }
            for done in 0..=actions {
                all.push((what.clone(), Death::After { done, asked_fail }));
            }
        }
    }
    all
}

/// The moves from the beginning to a state.
fn way_to(system: &System, seen: &Seen, root: u128, print: u128) -> Vec<String> {
    let mut places = Vec::new();
    let mut at = print;
    while at != root {
        let Some(&(before, place)) = seen.get(&at) else {
            break;
        };
        places.push(place);
        at = before;
    }
    let mut way = Vec::new();
    let Ok(mut model) = Model::new(system) else {
        return way;
    };
    for place in places.into_iter().rev() {
        let Some((what, death)) = choices(system, &model).into_iter().nth(usize::from(place)) else {
            break;
        };
        way.push(format!("{what:?} {death:?}"));
        match model.go(system, &what, death) {
            Ok((next, _)) => model = next,
            Err(_) => break,
        }
    }
    way
}

impl Model {
    /// The same files again are no news, and what is restored is what was stored.
    fn is_neutral(&self, system: &System) -> Result<(), String> {
        let mut again = self.clone();
        again.engine = Engine::restore(self.engine.snapshot(), &system.plan);
        if again.picture() != self.picture() {
            return Err("what was restored is not what was stored".to_owned());
        }
        let mut again = self.clone();
        let before: BTreeSet<LaunchId> = again.held.keys().copied().collect();
        let actions = again.decide(Event::Loaded(Arc::clone(&system.plan)))?;
        if let Some(action) = actions.first() {
            return Err(format!(
                "the same files again made it say {action:?} with {before:?}"
            ));
        }
        if again.picture() != self.picture() {
            return Err("the same files again changed something".to_owned());
        }
        Ok(())
    }
}
