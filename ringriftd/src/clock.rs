//! The one place where the manager reads clocks: once a step, monotonic for deciding and wall for showing.

use crate::engine::types::Mono;
use nix::time::{ClockId, clock_gettime};

/// How far the wall clock may drift from what it was, in µs, before the times of past events are told anew by it: far
/// more than the time between two readings, less than anybody sees.
const DRIFT_MAX_US: i64 = 50_000;

/// Tells both clocks so that one moment keeps one name: read one after the other, they differ by a few µs each time, and
/// a unit's `since` would never be the same twice. A wall clock that was really moved is followed.
#[derive(Debug, Default)]
pub struct Clock {
    /// Wall minus monotonic, in µs.
    offset_us: Option<i64>,
}

impl Clock {
    /// Both clocks, now.
    pub fn now(&mut self) -> Now {
        self.steady(Now::read())
    }

    fn steady(&mut self, read: Now) -> Now {
        let signed = |us: u64| i64::try_from(us).unwrap_or(i64::MAX);
        let mono_us = signed(read.mono.0 / 1000);
        let offset = signed(read.wall_us).saturating_sub(mono_us);
        let kept = match self.offset_us {
            Some(kept) if kept.abs_diff(offset) <= DRIFT_MAX_US.unsigned_abs() => kept,
            Some(_) | None => offset,
        };
        self.offset_us = Some(kept);
        Now {
            wall_us: u64::try_from(mono_us.saturating_add(kept)).unwrap_or(0),
            ..read
        }
    }
}

/// Both clocks, read together.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// CLOCK_MONOTONIC.
    pub mono: Mono,
    /// CLOCK_REALTIME, µs since 1970.
    pub wall_us: u64,
}

impl Now {
    /// Reads both. A kernel without these clocks does not exist (clock_gettime(2)); were it to fail, time stands still.
    pub fn read() -> Self {
        let ns = |id| {
            let t = clock_gettime(id).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
            u64::try_from(t.tv_sec())
                .unwrap_or(0)
                .saturating_mul(1_000_000_000)
                .saturating_add(u64::try_from(t.tv_nsec()).unwrap_or(0))
        };
        Self {
            mono: Mono(ns(ClockId::CLOCK_MONOTONIC)),
            wall_us: ns(ClockId::CLOCK_REALTIME) / 1000,
        }
    }

    /// When a moment of the wall clock is, or was, on the monotonic one; what lies before its beginning is its
    /// beginning.
    pub fn mono_of(self, wall_us: u64) -> Mono {
        let ns = |us: u64| us.saturating_mul(1000);
        if wall_us >= self.wall_us {
            Mono(self.mono.0.saturating_add(ns(wall_us - self.wall_us)))
        } else {
            Mono(self.mono.0.saturating_sub(ns(self.wall_us - wall_us)))
        }
    }

    /// When a monotonic point was, or will be, on the wall clock.
    pub fn wall_of(self, at: Mono) -> u64 {
        // Whole µs before the subtraction: else the answer hangs on the nanoseconds of the moment it was asked in.
        let (now_us, at_us) = (self.mono.0 / 1000, at.0 / 1000);
        if at_us <= now_us {
            self.wall_us.saturating_sub(now_us - at_us)
        } else {
            self.wall_us.saturating_add(at_us - now_us)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_keeps_its_name_until_the_wall_clock_is_moved() {
        let mut clock = Clock::default();
        let at = Mono(5_000_000_000);
        let read = |mono_us: u64, wall_us: u64| Now {
            mono: Mono(mono_us * 1000),
            wall_us,
        };
        let first = clock.steady(read(7_000_000, 107_000_000)).wall_of(at);
        assert_eq!(first, 105_000_000);
        for late in [3, 40, 900] {
            let again = clock.steady(read(9_000_000, 109_000_000 + late)).wall_of(at);
            assert_eq!(again, first, "{late} us late");
        }
        for ns in [1, 499, 999] {
            let at = Mono(at.0 + 500);
            let between = Now {
                mono: Mono(9_000_000_000 + ns),
                wall_us: 109_000_000,
            };
            assert_eq!(clock.steady(between).wall_of(at), first, "{ns} ns between");
        }
        let moved = clock.steady(read(10_000_000, 170_000_000)).wall_of(at);
        assert_eq!(moved, 165_000_000);
    }
}
