//! How fast the machine is at the moment: a plain program is run again and again beside what a test measures, and what that one
//! takes is granted to whoever is measured. So a bound says what the daemon may take, and not what else the machine does: where
//! all goes ten times as slowly, or stands still for seconds, it is as much later.

use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two runs.
const PAUSE: Duration = Duration::from_millis(20);
/// What is measured takes several processes, each of which is on its turn so often as the plain one.
const TURNS: u32 = 10;

/// The plain program, which is run until this is asked or dropped.
#[derive(Debug)]
pub struct Pace {
    over: Sender<()>,
    runs: Option<JoinHandle<Vec<Duration>>>,
}

/// How long the plain program took.
#[derive(Debug, Clone, Copy)]
pub struct Pacing {
    /// Usually: the median.
    pub usually: Duration,
    /// At worst, with the pause before it, which a machine that stands still makes longer too.
    pub worst: Duration,
}

impl Pace {
    /// From now on.
    ///
    /// # Panics
    /// Where there is no `true`.
    #[must_use]
    pub fn keep() -> Self {
        let (over, is_over) = channel();
        let runs = std::thread::spawn(move || {
            let mut took = Vec::new();
            loop {
                let began = Instant::now();
                let waits = is_over.recv_timeout(PAUSE);
                assert!(Command::new("true").status().expect("`true` is there").success());
                took.push(began.elapsed().saturating_sub(PAUSE));
                if waits != Err(RecvTimeoutError::Timeout) {
                    return took;
                }
            }
        });
        Self {
            over,
            runs: Some(runs),
        }
    }

    /// What it took so far, and its end.
    ///
    /// # Panics
    /// Where the plain program could not be run.
    pub fn end(mut self) -> Pacing {
        let _ = self.over.send(());
        let runs = self.runs.take().expect("it is ended once");
        let mut took = runs.join().expect("it can be run");
        // The last one waited less.
        if took.len() > 1 {
            took.pop();
        }
        took.sort_unstable();
        Pacing {
            usually: took[took.len() / 2],
            worst: took[took.len() - 1],
        }
    }
}

impl Pacing {
    /// Holds the median of `took` to `bound` on a machine that has nothing else to do.
    ///
    /// # Panics
    /// When it is later than this machine accounts for.
    #[track_caller]
    pub fn assert_usually(self, what: &str, took: &[Duration], bound: Duration) {
        let mut took = took.to_vec();
        took.sort_unstable();
        let (median, most) = (took[took.len() / 2], bound + self.usually * TURNS);
        assert!(
            median < most,
            "{what}: {median:?} in the median, and not below {most:?} ({self:?}): {took:?}"
        );
    }

    /// Holds each of `took` to `bound` on a machine that has nothing else to do.
    ///
    /// # Panics
    /// When one is later than this machine accounts for.
    #[track_caller]
    pub fn assert_always(self, what: &str, took: &[Duration], bound: Duration) {
        let most = bound + (self.usually + self.worst) * TURNS;
        for one in took {
            assert!(
                *one < most,
                "{what}: {one:?}, and not below {most:?} ({self:?}): {took:?}"
            );
        }
    }
}
