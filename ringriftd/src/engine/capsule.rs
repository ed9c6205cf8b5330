//! What an end was: which ends are failures, of which kind, and what is told of them. A failure is noted when it happens,
//! with the number of the event that told of it, and told on ([`Action::Failed`]) when nothing of the life is left, so that
//! everything told is of this very life and whole.

use std::time::Duration;

use proto::reply::{Cause, CauseKind, Exit, FailureKind, Oom};
use serde::{Deserialize, Serialize};

use super::machine::Engine;
use super::restart::is_clean;
use super::types::{Action, Failure, Mono};
use super::unit::{End, Life, StartPhase, State};
use crate::graph::Ix;
use crate::ids::LaunchId;
use crate::spec::Kind;
use crate::used::Used;

/// What was seen of a life, for the case that it fails.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Witness {
    /// When the main process was launched.
    pub launched: Option<Mono>,
    /// When it ended.
    pub ended: Option<Mono>,
    /// What it used.
    pub used: Option<Used>,
    /// What the last hook used.
    pub hook_used: Option<Used>,
    /// SIGKILL was sent to it from here before it ended.
    pub is_killed_here: bool,
    /// The failure that ends it.
    pub failing: Option<Failing>,
}

/// A failure whose life is not over yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// The number of the event that told of it.
    pub seq: u64,
    /// When.
    pub at: Mono,
    /// What kind.
    pub kind: FailureKind,
    /// In words.
    pub text: String,
}

/// What kind of failure it is that `cause` ends a life in this state for; nothing where the end is wanted.
pub(super) fn kind_of(state: &State, end: &End, cause: &Cause) -> Option<FailureKind> {
    if cause.kind == CauseKind::Probe || matches!(end, End::Unhealthy(_) | End::Hung(_)) {
        return Some(FailureKind::Probe);
    }
    if *end == End::Wanted {
        return None;
    }
    if cause.kind == CauseKind::Timer {
        return Some(FailureKind::Timeout);
    }
    let life = state.life()?;
    let by_exit = match life.exit {
        Some(Exit::Code(_)) => FailureKind::Exit,
        Some(Exit::Signal { .. }) => FailureKind::Signal,
        Some(Exit::Unknown) => FailureKind::Other,
        None => FailureKind::Start,
    };
    let has_done_its_work = life.spec.exec.kind == Kind::Oneshot && life.exit == Some(Exit::Code(0));
    let phase = match state {
        State::Starting { phase, .. } => Some(*phase),
        _ => None,
    };
    Some(match phase {
        Some(StartPhase::Pre(_)) => FailureKind::Hook,
        Some(StartPhase::Post(_)) if life.exit.is_none() || has_done_its_work => FailureKind::Hook,
        Some(StartPhase::FindingMain) => FailureKind::Other,
        // Its first process ended well, and left nobody.
        Some(StartPhase::Activating)
            if life.spec.exec.kind == Kind::Forking && life.exit == Some(Exit::Code(0)) =>
        {
            FailureKind::Other
        }
        Some(StartPhase::Activating | StartPhase::Probing | StartPhase::Post(_)) | None => by_exit,
    })
}

/// Whether the kernel killed a process that ended so.
pub(super) fn oom(exit: Option<Exit>, said: Oom, is_killed_here: bool) -> Oom {
    let is_sigkill = matches!(exit, Some(Exit::Signal { signal: 9, .. }));
    match said {
        Oom::Maybe if is_sigkill && !is_killed_here => Oom::Maybe,
        Oom::No | Oom::Maybe => Oom::No,
        Oom::Yes => Oom::Yes,
    }
}

impl Engine {
    /// What a launch used; it changes nothing.
    pub(super) fn on_used(&mut self, launch: LaunchId, used: Used) {
        let Some(&ix) = self.lives.get(&launch.invocation) else {
            return;
        };
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            if launch.is_main() {
                life.witness.used = Some(used);
            } else if life.probe.as_ref().is_none_or(|probe| probe.launch != launch) {
                life.witness.hook_used = Some(used);
            }
        }
    }

    /// A life begins to end. The event was told: its number is the unit's last.
    pub(super) fn note_failing(&mut self, ix: Ix, kind: Option<FailureKind>, text: String) {
        let Some(kind) = kind else { return };
        let (seq, at) = (self.unit(ix).last_seq, self.now);
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.witness
                .failing
                .get_or_insert(Failing { seq, at, kind, text });
        }
    }

    /// SIGKILL is about to be sent to a main process.
    pub(super) fn note_kill(&mut self, ix: Ix) {
        if let Some(life) = self.unit_mut(ix).state.life_mut() {
            life.witness.is_killed_here |= life.exit.is_none();
        }
    }

    /// A life is over that was ready for long enough.
    pub(super) fn tell_worked(&mut self, ix: Ix, life: &Life) {
        let end = life.witness.ended.unwrap_or(self.now);
        let is_stable = life
            .ready
            .is_some_and(|ready| end.since(ready) >= life.spec.restart.stable_after);
        if is_stable {
            let (unit, invocation) = (self.graph.name(ix).clone(), life.invocation);
            self.actions.push_back(Action::Worked { unit, invocation });
        }
    }

    /// A life is over that failed, if it did.
    pub(super) fn tell_failure(&mut self, ix: Ix, life: &Life) {
        let Witness {
            launched,
            ended,
            used,
            hook_used,
            is_killed_here,
            failing,
        } = &life.witness;
        let Some(failing) = failing else { return };
        let end = ended.unwrap_or(self.now);
        let span = |from: Mono| -> Duration { end.since(from) };
        let used = if failing.kind == FailureKind::Hook {
            hook_used
        } else {
            used
        };
        let used = used.unwrap_or_default();
        let failure = Failure {
            unit: self.graph.name(ix).clone(),
            invocation: life.invocation,
            seq: failing.seq,
            at: failing.at,
            kind: failing.kind,
            text: failing.text.clone(),
            exit: life.exit,
            oom: oom(life.exit, used.oom, *is_killed_here),
            lived: launched.map(span),
            ready: launched.and(life.ready).map(span),
            used,
            digest: life.spec.digest.clone(),
        };
        let unit = self.unit_mut(ix);
        unit.failures = unit.failures.saturating_add(1);
        unit.last_failure = Some(failing.seq);
        self.actions.push_back(Action::Failed(Box::new(failure)));
    }
}

/// An end that was noted as failing is none after all: it ended well when nobody wanted it any more.
pub(super) fn is_failure(life: &Life) -> bool {
    life.witness.failing.as_ref().is_some_and(|failing| {
        let is_by_exit = matches!(failing.kind, FailureKind::Exit | FailureKind::Signal);
        !(is_by_exit && life.ready.is_some() && life.exit.is_some_and(is_clean))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: Option<Exit> = Some(Exit::Signal {
        signal: 9,
        core: false,
    });

    #[test]
    fn only_a_sigkill_that_nobody_here_sent_may_have_been_the_kernels() {
        for (exit, said, is_ours, expected) in [
            (KILLED, Oom::Maybe, false, Oom::Maybe),
            (KILLED, Oom::Maybe, true, Oom::No),
            (KILLED, Oom::No, false, Oom::No),
            (KILLED, Oom::Yes, false, Oom::Yes),
            (Some(Exit::Code(1)), Oom::Maybe, false, Oom::No),
            // One that it started was killed, and it gave up.
            (Some(Exit::Code(1)), Oom::Yes, false, Oom::Yes),
            (None, Oom::Maybe, false, Oom::No),
        ] {
            assert_eq!(oom(exit, said, is_ours), expected, "{exit:?} {said:?} {is_ours}");
        }
    }
}
