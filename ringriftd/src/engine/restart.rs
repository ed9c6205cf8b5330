//! When a unit that ended is started again: back-off, the limit in its window, and slow retries. Pure arithmetic.
//!
//! Three counters with three meanings. `step` is the back-off's exponent: it grows with each automatic restart and
//! goes back to zero once a life was ready for `stable_after`. `times` are the automatic restarts within the
//! sliding window: they alone decide whether the limit is met. `is_slow` is set when it was met: from then on each
//! failure means a slow retry, until a life proves stable or somebody resets the unit. `is_due` says that the next start is
//! the restart that was decided; what the breakers make of that costs the unit nothing here.

use std::collections::VecDeque;

use proto::reply::Exit;
use serde::{Deserialize, Serialize};

use super::types::Mono;
use crate::limits;
use crate::spec::{Exhausted, Kind, Restart, RestartPolicy};

/// What a unit's ends have cost it so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restarts {
    step: u32,
    times: VecDeque<Mono>,
    is_slow: bool,
    host_step: u32,
    total: u64,
    unhealthy: u64,
    is_due: bool,
}

/// [`Restarts`], as far as it decides anything in a small model.
#[cfg(test)]
pub(super) struct Past {
    pub(super) is_slow: bool,
    pub(super) is_due: bool,
    pub(super) host_step: u32,
    pub(super) ages: Vec<u64>,
}

/// How a life ended, in the terms that decide what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The main process ended by itself after it was ready (for a oneshot: at all).
    Exit(Exit),
    /// The attempt failed before the unit was ready, for a reason of the unit's own. The exit, if there was one.
    Attempt(Option<Exit>),
    /// The host could not start it: free of charge.
    Host,
    /// It was ended because it was not well. How it then exited says nothing.
    Unhealthy,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It ended as it should.
    Completed,
    /// It starts again then.
    Backoff {
        /// When.
        until: Mono,
    },
    /// Automatic tries are used up.
    Failed {
        /// The next slow try.
        next_try: Option<Mono>,
        /// Why.
        why: GaveUp,
    },
}

/// Why a unit is `failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// The limit in the window.
    Limit,
    /// `policy = "never"` (or a clean exit that its policy does not restart, of a unit that had to stay).
    Policy,
    /// One of `permanent_exit_codes`.
    PermanentCode(i32),
}

/// systemd's clean exits: code 0, and the signals by which daemons are asked to go.
pub fn is_clean(exit: Exit) -> bool {
    match exit {
        Exit::Code(code) => code == 0,
        Exit::Signal { signal, .. } => matches!(signal, 1 | 2 | 13 | 15),
        Exit::Unknown => false,
    }
}

impl Restarts {
    /// Automatic restarts since the last reset.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The limit was met, and no life has proved stable since.
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// The next start is one that follows a failure of its own, without anybody's word: a restart that the breakers count.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// That start is made, or is not to be made any more.
    pub fn take_due(&mut self) -> bool {
        std::mem::take(&mut self.is_due)
    }

    /// Lives that were ended because they were not well, since the last reset.
    pub fn unhealthy_ends(&self) -> u64 {
        self.unhealthy
    }

    /// One more.
    pub fn book_unhealthy(&mut self) {
        self.unhealthy = self.unhealthy.saturating_add(1);
    }

    /// What of it decides anything where neither delays grow nor dice are thrown; `age` is what a past time is now.
    #[cfg(test)]
    pub(super) fn picture(&self, age: &dyn Fn(Mono) -> u64) -> Past {
        Past {
            is_slow: self.is_slow,
            is_due: self.is_due,
            host_step: self.host_step,
            ages: self.times.iter().map(|at| age(*at)).collect(),
        }
    }

    /// Steps of the back-off, and restarts that count against the limit.
    #[cfg(any(test, feature = "simulation"))]
    pub fn spent(&self) -> (u32, usize) {
        (self.step, self.times.len())
    }

    /// The times of past restarts on another clock.
    pub fn on_other_clock(&mut self, past: &dyn Fn(Mono) -> Mono) {
        for at in &mut self.times {
            *at = past(*at);
        }
    }

    /// An operator starts it by hand, or says `reset-failed`.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// A life was ready from `ready` to `end`: long enough, and its past is forgiven.
    pub fn on_life_end(&mut self, policy: &Restart, ready: Option<Mono>, end: Mono) {
        if ready.is_some_and(|ready| end.since(ready) >= policy.stable_after || planted!(ForgivenAtOnce)) {
            self.step = 0;
            self.is_slow = false;
        }
        if ready.is_some() {
            self.host_step = 0;
        }
    }

    /// Decides what follows an end at `now`, and books it. `salt` makes the jitter differ between units while it
    /// stays the same in a replay.
    pub fn decide(&mut self, policy: &Restart, kind: Kind, ending: Ending, now: Mono, salt: u64) -> Next {
        let exit = match ending {
            Ending::Host => return self.host_backoff(now, salt),
            Ending::Exit(exit) => Some(exit),
            Ending::Attempt(exit) => exit,
            Ending::Unhealthy => None,
        };
        if let Some(Exit::Code(code)) = exit
            && policy.permanent_exit_codes.contains(&code)
        {
            return Next::Failed {
                next_try: None,
                why: GaveUp::PermanentCode(code),
            };
        }
        let clean = matches!(ending, Ending::Exit(exit) if is_clean(exit));
        if clean && kind == Kind::Oneshot {
            return Next::Completed;
        }
        match policy.policy {
            RestartPolicy::Always => self.restart_or_give_up(policy, now, salt),
            RestartPolicy::OnFailure if clean => Next::Completed,
            RestartPolicy::OnFailure => self.restart_or_give_up(policy, now, salt),
            RestartPolicy::Never if clean => Next::Completed,
            RestartPolicy::Never => Next::Failed {
                next_try: None,
                why: GaveUp::Policy,
            },
        }
    }

    fn restart_or_give_up(&mut self, policy: &Restart, now: Mono, salt: u64) -> Next {
        while self.times.front().is_some_and(|t| now.since(*t) >= policy.window) {
            self.times.pop_front();
        }
        let is_over = policy
            .max_restarts
            .is_some_and(|max| self.times.len() >= max as usize);
        if (self.is_slow || is_over) && !planted!(NoLimit) {
            self.is_slow = true;
            self.is_due = policy.exhausted == Exhausted::Retry;
            let next_try = match policy.exhausted {
                Exhausted::Retry if !planted!(NoSlowTries) => Some(now.after(policy.retry_every)),
                Exhausted::Retry => None,
                Exhausted::GiveUp => None,
            };
            return Next::Failed {
                next_try,
                why: GaveUp::Limit,
            };
        }
        let until = if planted!(NoPause) {
            Mono(now.0 + 1)
        } else {
            now.after(delay(policy, self.step, salt))
        };
        self.step = self.step.saturating_add(1);
        self.total = self.total.saturating_add(1);
        self.is_due = true;
        if policy.max_restarts.is_some() {
            self.times.push_back(now);
        }
        Next::Backoff { until }
    }

    fn host_backoff(&mut self, now: Mono, salt: u64) -> Next {
        let shift = self.host_step.min(16);
        self.host_step = self.host_step.saturating_add(1);
        if planted!(HostCosts) {
            self.times.push_back(now);
        }
        let plain = limits::HOST_FAULT_DELAY
            .saturating_mul(1 << shift)
            .min(limits::HOST_FAULT_MAX_DELAY);
        Next::Backoff {
            until: now.after(jittered(plain, 100, salt ^ u64::from(shift))),
        }
    }
}

/// The pause before restart number `step` (from 0): `delay · factor^step`, capped, with its jitter.
fn delay(policy: &Restart, step: u32, salt: u64) -> std::time::Duration {
    let cap = policy.max_delay.as_nanos();
    let mut ns = policy.delay.as_nanos();
    for _ in 0..step {
        if ns >= cap || policy.factor_milli <= 1000 || ns == 0 {
            break;
        }
        ns = ns.saturating_mul(u128::from(policy.factor_milli)) / 1000;
    }
    let plain = std::time::Duration::from_nanos(u64::try_from(ns.min(cap)).unwrap_or(u64::MAX));
    jittered(plain, policy.jitter_milli, salt ^ (u64::from(step) << 32))
}

/// `plain` changed by up to `jitter_milli` thousandths either way, by a hash of `salt`.
fn jittered(plain: std::time::Duration, jitter_milli: u32, salt: u64) -> std::time::Duration {
    let span = plain
        .as_nanos()
        .saturating_mul(u128::from(jitter_milli.min(1000)))
        / 1000;
    if span == 0 {
        return plain;
    }
    let dice = u128::from(mix(salt)) % (2 * span + 1);
    let ns = plain.as_nanos().saturating_add(dice).saturating_sub(span);
    std::time::Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

/// FNV-1a, 64 bit (Fowler, Noll, Vo): any stable hash of a name does.
pub fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): spreads any number over all bits.
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn policy() -> Restart {
        Restart {
            policy: RestartPolicy::Always,
            delay: Duration::from_secs(5),
            factor_milli: 2000,
            max_delay: Duration::from_secs(60),
            jitter_milli: 0,
            stable_after: Duration::from_secs(60),
            max_restarts: Some(5),
            window: Duration::from_secs(3600),
            exhausted: Exhausted::Retry,
            retry_every: Duration::from_secs(7200),
            permanent_exit_codes: vec![65],
        }
    }

    fn at(s: u64) -> Mono {
        Mono(s * 1_000_000_000)
    }

    const CRASH: Ending = Ending::Exit(Exit::Code(1));

    #[test]
    fn delays_double_up_to_the_cap_and_the_sixth_restart_is_not_made() {
        let (p, mut r) = (policy(), Restarts::default());
        let mut now = at(0);
        for pause in [5, 10, 20, 40, 60] {
            let next = r.decide(&p, Kind::Simple, CRASH, now, 1);
            assert_eq!(
                next,
                Next::Backoff {
                    until: now.after(Duration::from_secs(pause))
                }
            );
            now = now.after(Duration::from_secs(pause));
        }
        let next = r.decide(&p, Kind::Simple, CRASH, now, 1);
        let retry = now.after(Duration::from_secs(7200));
        assert_eq!(
            next,
            Next::Failed {
                next_try: Some(retry),
                why: GaveUp::Limit
            }
        );
        let again = r.decide(&p, Kind::Simple, CRASH, retry, 1);
        assert!(
            matches!(
                again,
                Next::Failed {
                    why: GaveUp::Limit,
                    ..
                }
            ),
            "a slow try that fails stays slow"
        );
    }

    #[test]
    fn a_stable_life_sets_the_delay_back_but_not_the_window() {
        let (p, mut r) = (policy(), Restarts::default());
        for i in 0..5 {
            let ready = at(i * 100);
            r.on_life_end(&p, Some(ready), ready.after(Duration::from_secs(60)));
            let now = ready.after(Duration::from_secs(60));
            let next = r.decide(&p, Kind::Simple, CRASH, now, 1);
            assert_eq!(
                next,
                Next::Backoff {
                    until: now.after(Duration::from_secs(5))
                }
            );
        }
        r.on_life_end(&p, Some(at(600)), at(660));
        assert!(matches!(
            r.decide(&p, Kind::Simple, CRASH, at(660), 1),
            Next::Failed { .. }
        ));
    }

    #[test]
    fn the_window_slides() {
        let (p, mut r) = (policy(), Restarts::default());
        for i in 0..20 {
            let now = at(i * 1000);
            assert!(
                matches!(r.decide(&p, Kind::Simple, CRASH, now, 1), Next::Backoff { .. }),
                "try {i}"
            );
        }
    }

    #[test]
    fn every_pair_of_policy_and_ending_is_decided() {
        use RestartPolicy::{Always, Never, OnFailure};
        let clean = Ending::Exit(Exit::Code(0));
        let term = Ending::Exit(Exit::Signal {
            signal: 15,
            core: false,
        });
        let segv = Ending::Exit(Exit::Signal {
            signal: 11,
            core: true,
        });
        let early = Ending::Attempt(Some(Exit::Code(0)));
        let permanent = Ending::Exit(Exit::Code(65));
        let word = |policy: RestartPolicy, kind: Kind, ending: Ending| {
            let p = Restart {
                policy,
                ..super::tests::policy()
            };
            match Restarts::default().decide(&p, kind, ending, at(0), 1) {
                Next::Completed => "completed",
                Next::Backoff { .. } => "backoff",
                Next::Failed { .. } => "failed",
            }
        };
        for (policy, kind, ending, expected) in [
            (Always, Kind::Simple, clean, "backoff"),
            (Always, Kind::Simple, segv, "backoff"),
            (Always, Kind::Oneshot, clean, "completed"),
            (Always, Kind::Oneshot, segv, "backoff"),
            (Always, Kind::Notify, early, "backoff"),
            (Always, Kind::Simple, permanent, "failed"),
            (OnFailure, Kind::Simple, clean, "completed"),
            (OnFailure, Kind::Simple, term, "completed"),
            (OnFailure, Kind::Simple, segv, "backoff"),
            (OnFailure, Kind::Notify, early, "backoff"),
            (OnFailure, Kind::Simple, permanent, "failed"),
            (Never, Kind::Simple, clean, "completed"),
            (Never, Kind::Simple, segv, "failed"),
            (Never, Kind::Notify, early, "failed"),
            (Never, Kind::Oneshot, clean, "completed"),
            (Never, Kind::Oneshot, segv, "failed"),
            (Never, Kind::Simple, Ending::Host, "backoff"),
        ] {
            assert_eq!(
                word(policy, kind, ending),
                expected,
                "{policy:?} {kind:?} {ending:?}"
            );
        }
    }

    #[test]
    fn host_faults_cost_nothing() {
        let (p, mut r) = (policy(), Restarts::default());
        for _ in 0..100 {
            assert!(matches!(
                r.decide(&p, Kind::Simple, Ending::Host, at(0), 1),
                Next::Backoff { .. }
            ));
        }
        assert_eq!(r.total(), 0);
        let next = r.decide(&p, Kind::Simple, CRASH, at(0), 1);
        assert_eq!(next, Next::Backoff { until: at(5) });
    }

    #[test]
    fn jitter_stays_within_its_share_and_differs_between_units() {
        let p = Restart {
            jitter_milli: 100,
            ..policy()
        };
        let mut seen = std::collections::BTreeSet::new();
        for salt in 0..200 {
            let Next::Backoff { until } = Restarts::default().decide(&p, Kind::Simple, CRASH, at(0), salt)
            else {
                panic!("no restart")
            };
            assert!((4_500_000_000..=5_500_000_000).contains(&until.0), "{}", until.0);
            seen.insert(until.0);
        }
        assert!(seen.len() > 150, "{} different delays of 200", seen.len());
    }
}
