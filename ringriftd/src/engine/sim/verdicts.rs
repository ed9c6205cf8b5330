//! What must hold of every state of a small system, and of every move.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::reply::Exit;

use crate::engine::Blocker;
use crate::engine::machine::Engine;
use crate::engine::types::{Event, Mono, Role};
use crate::engine::unit::{Desired, State, Unit};
use crate::graph::Ix;
use crate::ids::LaunchId;
use crate::spec::{Exhausted, Kind, RestartPolicy};

use super::model::{Ask, At, Death, Model, Move, System};

/// Steps within which everything must have come to rest once the world is kind.
const CALM_STEPS: usize = 300;

impl Model {
    /// What a move may have changed, and what not.
    pub(super) fn judge_move(&self, next: &Self, what: &Move) -> Result<(), String> {
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

    /// Every wait has an end: a deadline, or a word that somebody owes.
    pub(super) fn judge(&self) -> Result<(), String> {
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
    pub(super) fn kind_move(&self, system: &System) -> Option<Move> {
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
    pub(super) fn converges(&self, system: &System) -> Result<(), String> {
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

    /// The same files again are no news, and what is restored is what was stored.
    pub(super) fn is_neutral(&self, system: &System) -> Result<(), String> {
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
