//! What an operator is shown: invariant 39. Now and then every unit is looked at as `status` looks at it, and what that says is held
//! against what the world knows.

use proto::reply::{CauseKind, State as Word};

use crate::engine::types::{Change, ChangeKind};
use crate::engine::unit::{Desired, Unit};
use crate::ids::LaunchId;
use crate::limits;
use crate::spec::UnitName;

use super::invariants::Invariant;
use super::make::number;
use super::malice::Fault;
use super::world::World;

/// The text, where it is none that can be shown in a line.
fn is_bad(text: &str) -> bool {
    text.is_empty() || text.contains('\n')
}

/// A unit of this word may be what others wait for; a oneshot that has done its work may be held.
fn is_up(word: Word) -> bool {
    matches!(
        word,
        Word::Running | Word::Reloading | Word::Completed | Word::Held
    )
}

impl World {
    /// Looks at all units.
    pub(super) fn check_views(&mut self) {
        let mut wrong = Vec::new();
        for (ix, unit) in self.engine.units() {
            let name = &unit.spec.name;
            let waits = matches!(unit.word, Word::Waiting | Word::Held) && unit.desired == Desired::Up;
            let texts: Vec<String> = self
                .engine
                .blockers(ix)
                .iter()
                .map(|blocker| self.engine.blocker_text(blocker))
                .collect();
            if waits && (texts.is_empty() || texts.iter().any(|text| is_bad(text))) {
                wrong.push(format!("{name} waits, and says of it: {texts:?}"));
            }
            let truth = self.units.get(number(name) as usize);
            if truth.is_some_and(|truth| truth.word != unit.word) {
                wrong.push(format!(
                    "{name} is said to be {:?}, and was told otherwise",
                    unit.word
                ));
            }
            if unit.needs_restart() && self.loads == 0 {
                wrong.push(format!(
                    "{name} needs a restart for files that nobody has changed"
                ));
            }
            if let Some(text) = unit.health().1
                && (is_bad(&text) || text.len() > limits::HEALTH_TEXT_MAX + 128)
            {
                wrong.push(format!("{name} says of its health: {text}"));
            }
            if let Some(text) = self.wrong_pid(unit) {
                wrong.push(text);
            }
        }
        if self.engine.is_settled() {
            let is_late =
                |unit: &&Unit| unit.desired == Desired::Up && !unit.attempt_failed && !is_up(unit.word);
            wrong.extend(
                self.engine
                    .units
                    .iter()
                    .find(is_late)
                    .map(|unit| format!("all is settled, and {} is {:?}", unit.spec.name, unit.word)),
            );
        }
        let ends: u64 = self
            .engine
            .units
            .iter()
            .map(|unit| unit.restarts.unhealthy_ends())
            .sum();
        if ends > self.unhealthy.0 + self.unhealthy.1 {
            wrong.push(format!(
                "{ends} units were ended for their health, of {:?}",
                self.unhealthy
            ));
        }
        if self.engine.last_seq() != self.kept.heard.len() as u64 {
            wrong.push(format!("event {} was the last", self.engine.last_seq()));
        }
        self.hold(Invariant::HonestStatus, wrong.is_empty(), |_| wrong.join("; "));
    }

    /// Of a unit whose news has all arrived: its process is that which the keeper told of.
    fn wrong_pid(&self, unit: &Unit) -> Option<String> {
        let truth = self.units.get(number(&unit.spec.name) as usize)?;
        let life = unit.state.life()?;
        let pid = life.pid()?;
        let told = self.kept.held.get(&LaunchId::main(life.invocation))?;
        // What is said again may be overtaken by what is newer.
        let is_unsure = truth.undelivered > 0 || self.drawn.of_fault(Fault::NewsTwice) > 0;
        let is_so = is_unsure || told.pid == Some(pid);
        (!is_so).then(|| format!("{} is pid {pid}, and was told of {:?}", unit.spec.name, told.pid))
    }

    /// Who starts since another one is ready: that one is, and is another one.
    fn is_true_cause(&self, change: &Change) -> bool {
        let is_start = change.to == Word::Starting && change.from != Word::Starting;
        if !is_start
            || change.cause.kind != CauseKind::Dependency
            || !change.cause.text.ends_with(" is ready")
        {
            return true;
        }
        let other = change.cause.unit.as_deref().unwrap_or_default();
        let truth = UnitName::new(other).and_then(|name| self.units.get(number(&name) as usize));
        other != change.unit.as_str() && truth.is_some_and(|truth| is_up(truth.word))
    }

    /// An event's word fits what it tells of.
    pub(super) fn judge_word(&mut self, change: &Change) {
        let word = change.kind.word();
        let stays = change.from == change.to;
        let fits = match change.kind {
            // It may be asked to stop before it is there.
            ChangeKind::Started => matches!(change.to, Word::Starting | Word::Stopping),
            ChangeKind::Ready => matches!(change.to, Word::Running | Word::Completed),
            ChangeKind::PermanentlyFailed => matches!(change.to, Word::Failed | Word::Stopped | Word::Held),
            ChangeKind::HealthChanged
            | ChangeKind::BreakerTripped
            | ChangeKind::BreakerClosed
            | ChangeKind::LogDropping
            | ChangeKind::LogDropped => stays,
            ChangeKind::Stopped
            | ChangeKind::Failed
            | ChangeKind::Restarting
            | ChangeKind::CrashLoop
            | ChangeKind::StatusChanged => true,
        };
        let fits = fits && self.is_true_cause(change);
        self.hold(
            Invariant::HonestStatus,
            fits && word.starts_with("DAEMON_"),
            |_| format!("{word} tells of {change:?}"),
        );
    }
}
