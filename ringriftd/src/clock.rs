//! The one place where the manager reads clocks: once a step, monotonic for deciding and wall for showing.

use std::time::Duration;

use crate::engine::types::Mono;
use nix::time::{ClockId, clock_gettime};

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

    /// When a monotonic point was, or will be, on the wall clock.
    pub fn wall_of(self, at: Mono) -> u64 {
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        if at <= self.mono {
            self.wall_us.saturating_sub(us(self.mono.since(at)))
        } else {
            self.wall_us.saturating_add(us(at.since(self.mono)))
        }
    }
}
