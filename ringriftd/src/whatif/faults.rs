//! Faults at chosen times, as they are typed.

use std::time::Duration;

use crate::config::values::duration;

/// `UNIT@TIME`: its main process is killed then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// As it was typed.
    pub unit: String,
    /// Since the beginning.
    pub at: Duration,
}

/// `UNIT:TIME` or `UNIT@TIME:TIME`: for so long every process of it ends with code 1 at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// As it was typed.
    pub unit: String,
    /// Since the beginning.
    pub at: Duration,
    /// From then.
    pub lasts: Duration,
}

fn time(text: &str) -> Result<Duration, String> {
    duration(text, true).map_err(|wrong| format!("{}: {}", wrong.what, wrong.why))
}

impl Kill {
    /// Reads it; the error is for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (unit, at) = text
            .split_once('@')
            .ok_or_else(|| "write UNIT@TIME, as in cache@30s".to_owned())?;
        Ok(Self {
            unit: unit.to_owned(),
            at: time(at)?,
        })
    }
}

impl Down {
    /// Reads it; the error is for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (unit, lasts) = text
            .split_once(':')
            .ok_or_else(|| "write UNIT:TIME or UNIT@TIME:TIME, as in cache@30s:5m".to_owned())?;
        let (unit, at) = match unit.split_once('@') {
            Some((unit, at)) => (unit, time(at)?),
            None => (unit, Duration::ZERO),
        };
        Ok(Self {
            unit: unit.to_owned(),
            at,
            lasts: time(lasts)?,
        })
    }
}

/// A length of time for `--for`.
pub fn length(text: &str) -> Result<Duration, String> {
    time(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_typed() {
        let s = Duration::from_secs;
        let kill = Kill::parse("a-b@1m30s").expect("a fault");
        assert_eq!((kill.unit.as_str(), kill.at), ("a-b", s(90)));
        let down = Down::parse("a:5m").expect("a fault");
        assert_eq!((down.unit.as_str(), down.at, down.lasts), ("a", s(0), s(300)));
        let down = Down::parse("a@10s:5m").expect("a fault");
        assert_eq!((down.at, down.lasts), (s(10), s(300)));
        for wrong in ["a", "a@", "a@5", "a@x"] {
            assert!(Kill::parse(wrong).is_err(), "{wrong}");
            assert!(Down::parse(wrong).is_err(), "{wrong}");
        }
    }
}
