//! The watchdog of the service manager above (WatchdogSec= of systemd): it hears `WATCHDOG=1` when the manager has said
//! something, and from the keeper, so that a hang of either is seen. It needs no timer of its own: a silent manager is
//! asked often enough whether it lives.

use std::time::{Duration, Instant};

use super::state::Keeper;

/// How often the service manager is told, as parts of what it allows: at most every sixth, and a manager is silent for a
/// third at most before it is asked. So two words are never further apart than half of it.
const TOLD_EVERY: u32 = 6;
/// See [`TOLD_EVERY`].
const ASKED_AFTER: u32 = 3;

/// What the service manager allows, and when it was told last.
#[derive(Debug)]
pub struct Watchdog {
    allowed: Duration,
    last: Option<Instant>,
}

impl Watchdog {
    /// The one that the environment asks this process for (sd_watchdog_enabled(3)), if it does.
    pub fn asked_for(own_pid: i32, var: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let is_ours = var("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(own_pid));
        let allowed: u64 = var("WATCHDOG_USEC")?.parse().ok()?;
        (is_ours && allowed > 0).then(|| Self {
            allowed: Duration::from_micros(allowed),
            last: None,
        })
    }

    /// How long the manager may be silent before it is asked whether it lives.
    pub fn silence(&self) -> Duration {
        self.allowed / ASKED_AFTER
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let every = self.allowed / TOLD_EVERY;
        let is_due = self.last.is_none_or(|last| now.duration_since(last) >= every);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

impl Keeper {
    /// The manager serves and has just said something.
    pub fn tell_watchdog(&mut self) {
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.is_due(Instant::now())
        {
            self.on_announce("WATCHDOG=1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pid: Option<&str>, usec: Option<&str>) -> Option<Watchdog> {
        let var = |name: &str| {
            let value = if name == "WATCHDOG_PID" { pid } else { usec };
            value.map(str::to_owned)
        };
        Watchdog::asked_for(7, var)
    }

    #[test]
    fn only_a_watchdog_of_this_process_is_heeded() {
        assert_eq!(
            of(Some("7"), Some("3000000")).unwrap().silence(),
            Duration::from_secs(1)
        );
        assert!(of(None, Some("3000000")).is_some());
        for (pid, usec) in [
            (Some("8"), Some("3000000")),
            (Some("7"), None),
            (Some("7"), Some("0")),
            (Some("x"), Some("3000000")),
            (Some("7"), Some("-1")),
        ] {
            assert!(of(pid, usec).is_none(), "{pid:?} {usec:?}");
        }
    }

    #[test]
    fn many_words_of_the_manager_are_one_to_the_service_manager() {
        let mut watchdog = of(None, Some("6000000")).unwrap();
        let now = Instant::now();
        assert!(watchdog.is_due(now));
        assert!(!watchdog.is_due(now + Duration::from_millis(999)));
        assert!(watchdog.is_due(now + Duration::from_secs(1)));
    }
}
