//! Words given to operators: invariants 15 to 18, and what is wanted after them.

use proto::reply::Outcome;

use crate::engine::request::RequestChange;
use crate::engine::types::{Action, Event, Op, RequestAnswer, RequestId, UnitAnswer};
use crate::engine::unit::{Desired, State};
use crate::spec::Kind;

use super::invariants::Invariant;
use super::make::number;
use super::truth::Truth;
use super::world::World;

impl World {
    pub(super) fn hear_reply(&mut self, id: RequestId, answer: RequestAnswer) {
        let is_forgotten = self.asked.get(&id).is_some_and(|asked| asked.is_forgotten);
        let is_second = self.replies.insert(id, answer).is_some();
        // A manager that died over the news that nobody waits did not hear it.
        let is_forgotten = is_forgotten && self.kept.depth == 0;
        self.hold(Invariant::ReplyOnce, !is_second && !is_forgotten, |_| {
            let how = if is_forgotten {
                "though nobody waits for it"
            } else {
                "twice"
            };
            format!("request {} is answered {how}", id.0)
        });
    }

    /// Verdicts that were just given: true, now.
    pub(super) fn judge_verdicts(&mut self, changes: &[RequestChange]) {
        for change in changes {
            if let RequestChange::Decided { id, answer } = change {
                self.judge_verdict(*id, answer);
            }
        }
    }

    fn judge_verdict(&mut self, id: RequestId, answer: &UnitAnswer) {
        let is_good = matches!(answer.outcome, Outcome::Done | Outcome::Already);
        let Some(asked) = self.asked.get(&id).filter(|_| is_good) else {
            return;
        };
        let Some((_, unit)) = self.engine.find(&answer.unit) else {
            return;
        };
        match &asked.op {
            Op::Start { .. } | Op::Restart { .. } if answer.text.contains("left alone") => {}
            Op::Start { .. } | Op::Restart { .. } | Op::Adopt { .. } => {
                let is_satisfied = unit.is_satisfied() || unit.state == State::Completed;
                let is_oneshot = unit.spec.exec.kind == Kind::Oneshot;
                let life = unit.state.life().map(|life| life.invocation);
                let life = life.filter(|_| !is_oneshot);
                // Where a deadline has passed too, something else may have become of it in the same step.
                self.hold(
                    Invariant::HonestReply,
                    is_satisfied || !self.before.is_early,
                    |_| format!("request {} was told that {} is up, too soon", id.0, answer.unit),
                );
                let Some(invocation) = life.filter(|_| is_satisfied) else {
                    return;
                };
                let is_up = self
                    .life(invocation)
                    .is_some_and(|life| life.is_launched && !life.has_exited);
                self.hold(Invariant::HonestReply, is_up, |_| {
                    format!("request {} was told that {} is up", id.0, answer.unit)
                });
            }
            Op::Stop { .. } => {
                if matches!(unit.state, State::Starting { .. }) {
                    return; // it came up again in the same step
                }
                let who = number(&answer.unit);
                let is_there = self.live.values().any(|process| process.who == who);
                self.hold(Invariant::HonestReply, !is_there, |_| {
                    format!("request {} was told that {} is down", id.0, answer.unit)
                });
            }
            Op::Reload { .. }
            | Op::Kill { .. }
            | Op::ResetFailed { .. }
            | Op::Hold { .. }
            | Op::Unhold { .. } => {}
        }
    }

    /// The units that a start or restart would bring up, by number: before it is taken.
    pub(super) fn reach_of(&self, op: &Op) -> Vec<u32> {
        let (units, only_running) = match op {
            Op::Start { units } => (units, false),
            Op::Restart {
                units, only_running, ..
            } => (units, *only_running),
            _ => return Vec::new(),
        };
        let roots = units.iter().filter_map(|name| self.engine.find(name));
        let roots = roots
            .filter(|(_, unit)| !only_running || unit.state.is_active())
            .map(|(ix, _)| ix);
        let all = self.engine.graph().closure(roots);
        all.keys()
            .map(|ix| number(self.engine.graph().name(*ix)))
            .collect()
    }

    /// What is wanted after an event, as the world has it.
    pub(super) fn book_wants(&mut self, event: &Event, actions: &[Action], reach: &[u32]) {
        match event {
            Event::Request { id, op, .. } => {
                let is_refused = |action: &Action| matches!(action, Action::Reply { id: other, answer: RequestAnswer::Refused(_) } if other == id);
                if !actions.iter().any(is_refused) {
                    self.book_op(op, reach);
                }
            }
            Event::Shutdown { .. } => self.want_nothing(),
            Event::Loaded(_) => self.book_load(),
            _ => {}
        }
        self.is_closing |= self.engine.is_shutting_down();
        if self.engine.is_shutting_down() && self.closing.is_none() {
            self.begin_order_of_ends();
            self.want_nothing();
        }
    }

    fn want_nothing(&mut self) {
        for truth in &mut self.units {
            truth.wanted = Some(false);
        }
    }

    fn book_op(&mut self, op: &Op, reach: &[u32]) {
        for who in reach {
            self.may_be_reset(*who);
            self.truth_mut(*who).wanted = Some(true);
        }
        for name in super::cells::named(op) {
            let who = number(name);
            match op {
                Op::Start { .. } | Op::Restart { .. } | Op::Reload { .. } | Op::Kill { .. } => {}
                Op::Stop { .. } => self.truth_mut(who).wanted = Some(false),
                Op::ResetFailed { .. } => {
                    self.may_be_reset(who);
                    self.forget_gates();
                    // One that had failed is not wanted any more.
                    self.truth_mut(who).wanted = None;
                }
                Op::Hold { held, .. } => self.truth_mut(who).held = Some(held.until.map(|at| at.0)),
                Op::Unhold { .. } => self.truth_mut(who).held = None,
                Op::Adopt { .. } => {
                    self.may_be_reset(who);
                    self.truth_mut(who).wanted = None;
                }
            }
        }
    }

    /// The profile's word may have changed what is wanted; a unit that is gone is forgotten.
    fn book_load(&mut self) {
        self.forget_gates();
        for who in 0..self.units.len() as u32 {
            let name = super::draw::nth_name(who);
            let is_shutting_down = self.engine.is_shutting_down();
            match self.engine.find(&name) {
                None => {
                    let truth = self.truth_mut(who);
                    *truth = Truth {
                        news: truth.news,
                        undelivered: truth.undelivered,
                        busy_until: truth.busy_until,
                        lives: truth.lives,
                        ..Truth::default()
                    };
                }
                Some(_) if is_shutting_down => {}
                Some(_) => {
                    let truth = self.truth_mut(who);
                    truth.wanted = None;
                    (truth.is_restart_due, truth.is_excused) = (false, true);
                }
            }
        }
    }

    /// What is wanted is what the last operator said.
    pub(super) fn check_wants(&mut self, invariant: Invariant) {
        for who in 0..self.units.len() {
            let Some(wanted) = self.units[who].wanted else {
                continue;
            };
            let name = super::draw::nth_name(who as u32);
            let Some((_, unit)) = self.engine.find(&name) else {
                continue;
            };
            let is_so = (unit.desired == Desired::Up) == wanted;
            self.hold(invariant, is_so, |_| {
                format!(
                    "{name} is wanted {} by the last word on it, and is not",
                    if wanted { "up" } else { "down" }
                )
            });
        }
    }

    /// A new manager wants what the old one had said it would, and holds what it held.
    pub(super) fn check_wants_after_return(&mut self) {
        self.check_wants(Invariant::PersistFirst);
        let now = self.engine.now.0;
        for who in 0..self.units.len() {
            let Some(held) = self.units[who].held else {
                continue;
            };
            let name = super::draw::nth_name(who as u32);
            let Some((_, unit)) = self.engine.find(&name) else {
                continue;
            };
            let is_so = unit.hold.is_some() || held.is_some_and(|at| at <= now);
            self.hold(Invariant::PersistFirst, is_so, |_| {
                format!("{name} was held, and is not any more")
            });
        }
    }

    /// On another boot nobody waits for an answer, and no process is left.
    pub(super) fn forget_on_other_boot(&mut self) {
        let had_ended = self.closing.take().is_some();
        self.is_closing = false;
        self.gates.clear();
        for truth in &mut self.units {
            truth.up = false;
            truth.step_low = 0;
            truth.times.clear();
            truth.back_at = None;
            (truth.is_host_end, truth.is_restart_due, truth.is_excused) = (false, false, true);
            if had_ended {
                truth.wanted = None;
                truth.step_high = 0;
                truth.total = 0;
            }
        }
    }
}
