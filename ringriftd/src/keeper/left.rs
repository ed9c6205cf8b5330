//! What earlier keepers left on this machine, looked at once for the many launches that a manager asks to adopt.
//!
//! A keeper may have died while a child of its was on the way to its program: that one bears the keeper's name for children,
//! or, in the middle of execve(2), no environment yet. Nobody can tell whose it is, and a unit that is not found is started
//! again; so whoever looks waits for it first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use super::proc::{self, BirthMark, Stat};
use super::state::Keeper;
use super::sweep::Picture;
use super::types::Proc;
use crate::limits;

/// A picture of the machine, and who bears which mark in it.
#[derive(Debug)]
pub struct LeftBehind {
    /// The picture.
    pub picture: Picture,
    by_mark: BTreeMap<(String, String), Vec<Proc>>,
    taken: Instant,
}

impl LeftBehind {
    /// Waits, for a bounded time, for children between clone(2) and the end of execve(2).
    fn take(marker: &[u8]) -> std::io::Result<Self> {
        let until = Instant::now() + limits::BIRTH_WAIT;
        loop {
            let picture = Picture::take()?;
            let mut by_mark: BTreeMap<_, Vec<Proc>> = BTreeMap::new();
            let mut is_birth = false;
            let now = ticks();
            for stat in picture.living() {
                match proc::birth_mark(stat.process.pid()) {
                    BirthMark::Ours { invocation, role } => {
                        by_mark.entry((invocation, role)).or_default().push(stat.process);
                    }
                    BirthMark::Empty => is_birth |= is_young(stat, now),
                    BirthMark::Other => is_birth |= stat.comm == marker,
                }
            }
            if !is_birth || Instant::now() >= until {
                return Ok(Self {
                    picture,
                    by_mark,
                    taken: Instant::now(),
                });
            }
            let _ = nix::poll::poll(&mut [], 2u8);
        }
    }

    /// The living processes with this mark. Parents come before their children.
    pub fn bearers(&self, invocation: &str, role: &str) -> Vec<Proc> {
        let mark = (invocation.to_owned(), role.to_owned());
        self.by_mark.get(&mark).cloned().unwrap_or_default()
    }
}

/// Made a moment ago, by somebody who is no part of the kernel.
fn is_young(stat: &Stat, now: u64) -> bool {
    let age = Duration::from_secs(now.saturating_sub(stat.process.start()) / ticks_a_second());
    !stat.is_kernel && !stat.exiting && age <= limits::BIRTH_WAIT
}

/// The present in the unit of start times (field 22 of proc_pid_stat(5)).
pub fn ticks() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default();
    let ticks = now.as_millis() * u128::from(ticks_a_second()) / 1000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

fn ticks_a_second() -> u64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    ticks
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| *n > 0)
        .unwrap_or(100)
}

impl Keeper {
    /// What earlier keepers left. A manager asks for all its launches at once: they are found in one picture.
    pub fn look_behind(&mut self) -> Option<&LeftBehind> {
        let is_old = |left: &LeftBehind| left.taken.elapsed() > limits::LEFT_BEHIND_AGE;
        if self.left_behind.as_ref().is_none_or(is_old) {
            self.left_behind = LeftBehind::take(self.machine.marker.to_bytes()).ok();
        }
        self.left_behind.as_ref()
    }
}
