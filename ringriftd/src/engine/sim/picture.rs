//! The canonical picture of an engine: what is the same for two states from which the same things can happen.

use proto::reply::{CauseKind, Exit};

use crate::engine::types::{Mono, Role};
use crate::engine::unit::{Desired, End, Life, Process, ProcessPhase, StartPhase, State, StopPhase, Unit};

/// Times are told apart by this much (ns).
const GRAIN: u64 = 250_000_000;

/// Bytes that are the same for states that are the same.
pub(super) struct Picture {
    pub(super) bytes: Vec<u8>,
    pub(super) now: u64,
}

impl Picture {
    pub(super) fn number(&mut self, n: u64) {
        // All of them are small: a byte each, but for the large ones.
        match u8::try_from(n) {
            Ok(n) if n < 0xf0 => self.bytes.push(n),
            _ => {
                self.bytes.push(0xf0);
                self.bytes.extend(n.to_le_bytes());
            }
        }
    }

    pub(super) fn bits(&mut self, bits: &[bool]) {
        let packed = bits.iter().fold(0, |sum, bit| sum << 1 | u64::from(*bit));
        self.number(packed);
    }

    /// A time to come, from now.
    pub(super) fn time(&mut self, at: Option<Mono>) {
        match at {
            None => self.number(0xe0),
            Some(Mono(u64::MAX)) => self.number(0xe1),
            Some(at) => self.number(at.0.saturating_sub(self.now).div_ceil(GRAIN)),
        }
    }

    pub(super) fn role(&mut self, role: Role) {
        let (kind, n) = match role {
            Role::Main => (0, 0),
            Role::StartPre(n) => (1, n),
            Role::StartPost(n) => (2, n),
            Role::StopPre(n) => (3, n),
            Role::StopPost(n) => (4, n),
            Role::Reload(n) => (5, n),
            Role::ReadyProbe => (6, 0),
            Role::Probe => (7, 0),
        };
        self.number(kind << 4 | u64::from(n));
    }

    fn process(&mut self, process: Option<&Process>) {
        let Some(process) = process else {
            return self.number(0xe2);
        };
        self.role(process.role);
        self.number(match process.phase {
            ProcessPhase::Asked => 0,
            ProcessPhase::Alive { .. } => 1,
            ProcessPhase::Leaving => 2,
            ProcessPhase::Gone => 3,
        });
        self.bits(&[process.is_killed]);
    }

    fn exit(&mut self, exit: Option<Exit>) {
        self.number(match exit {
            None => 0xe3,
            Some(Exit::Code(code)) => u64::from(code.unsigned_abs()),
            Some(Exit::Signal { signal, .. }) => 0x80 + u64::from(signal.unsigned_abs()),
            Some(Exit::Unknown) => 0xe4,
        });
    }

    fn life(&mut self, life: &Life) {
        self.process(life.main.as_ref());
        self.process(life.hook.as_ref());
        self.exit(life.exit);
        self.exit(life.hook_exit);
        // Older than that is all the same.
        let age = life
            .ready
            .map(|at| Mono(self.now).since(at).min(life.spec.restart.stable_after));
        self.number(age.map_or(0xe5, |age| age.as_nanos() as u64 / GRAIN));
        self.bits(&[
            life.word.is_ending,
            life.word.reloading.is_some(),
            life.foreign.is_some(),
        ]);
    }

    fn state(&mut self, state: &State) {
        self.number(state.word() as u64);
        self.time(state.deadline());
        match state {
            State::Starting { phase, .. } => self.number(match phase {
                StartPhase::Pre(n) => u64::from(*n),
                StartPhase::Activating => 0x20,
                StartPhase::FindingMain => 0x21,
                StartPhase::Probing => 0x22,
                StartPhase::Post(n) => 0x40 + u64::from(*n),
            }),
            State::Reloading { index, .. } => self.number(u64::from(*index)),
            State::Stopping { phase, end, .. } => {
                self.number(match phase {
                    StopPhase::ClearHook => 0x20,
                    StopPhase::AwaitMain => 0x21,
                    StopPhase::Abort => 0x22,
                    StopPhase::Kill => 0x23,
                    StopPhase::Pre(n) => u64::from(*n),
                    StopPhase::Signal(n) => 0x40 + *n as u64,
                    StopPhase::Post(n) => 0x80 + u64::from(*n),
                });
                self.number(match end {
                    End::Wanted => 0,
                    End::Exited => 1,
                    End::AttemptFailed(_) => 2,
                    End::HostFailed(_) => 3,
                    End::Unhealthy(_) => 4,
                    End::Hung(_) => 5,
                });
            }
            State::Running { .. }
            | State::Stopped
            | State::Waiting
            | State::Backoff { .. }
            | State::Failed { .. }
            | State::Completed => {}
        }
        if let Some(life) = state.life() {
            self.life(life);
        }
    }

    pub(super) fn unit(&mut self, unit: &Unit) {
        self.bits(&[
            unit.desired == Desired::Up,
            unit.restart_pending,
            unit.attempt_failed,
            unit.hold.is_some(),
            unit.is_held_down,
            unit.is_taken_along,
            unit.remains.is_empty(),
            unit.desired_cause.kind == CauseKind::Dependency,
        ]);
        self.state(&unit.state);
        let now = Mono(self.now);
        let window = unit.spec.restart.window;
        let past = unit.restarts.picture(&|at| {
            let age = now.since(at);
            if age >= window {
                u64::MAX
            } else {
                age.as_nanos() as u64 / GRAIN
            }
        });
        self.bits(&[past.is_slow, past.is_due]);
        self.number(u64::from(past.host_step));
        for age in past.ages.into_iter().filter(|age| *age != u64::MAX) {
            self.number(age);
        }
        self.number(0xe6);
    }
}
