//! Pairs of schedules: invariant 20. The same schedule with deaths of the manager and without them, with time between requests, so
//! that what a death delays by a moment changes the order of nothing: it must end in the same place, having begun as many lives.

use super::choices::Choices;
use super::draw::Size;
use super::invariants::{Invariant, Violation};
use super::malice::{Fault, Mode, Rates};
use super::schedule::{Outcome, Plot, Watchers, run_with, seed_of};

/// Requests of such a schedule: each costs minutes of probes.
const REQUESTS: u32 = 12;

/// Runs it with deaths and without them.
fn pair(seed: u64, size: Size, trace: bool) -> [Outcome; 2] {
    let plot = Plot {
        mode: Mode::Calm,
        size: Size {
            requests: REQUESTS,
            ..size
        },
        seed,
    };
    let watchers = Watchers {
        spaced: true,
        trace,
        ..Watchers::default()
    };
    let rates = Rates::of(plot.mode).with(Fault::Shutdown, 0);
    [rates.with(Fault::Dies, 100), rates].map(|rates| run_with(plot, Choices::seeded(seed), rates, watchers))
}

/// Both of them in words, one after the other.
pub fn tell_pair(base: u64, number: u64, size: Size) -> Vec<String> {
    pair(seed_of(base, number), size, true)
        .into_iter()
        .flat_map(|run| run.trace)
        .collect()
}

impl Outcome {
    /// Adds what such a pair comes to.
    pub(super) fn add_pair(&mut self, seed: u64, size: Size) {
        let [with, without] = pair(seed, size, false);
        if with.counts.deaths > 0 {
            self.counts.checked[Invariant::CrashTransparent as usize] += with.ends.len() as u64;
        }
        self.counts.deaths += with.counts.deaths;
        let text = match (with.violation, without.violation) {
            (Some(violation), _) | (None, Some(violation)) => violation.to_string(),
            (None, None) if with.ends == without.ends => return,
            (None, None) => {
                let pairs = with.ends.iter().zip(&without.ends);
                let differ = pairs.filter(|(with, without)| with != without);
                let texts: Vec<String> = differ
                    .map(|(with, without)| format!("{with:?} instead of {without:?}"))
                    .collect();
                format!("with deaths of the manager it ended so: {}", texts.join("; "))
            }
        };
        self.violation.get_or_insert(Violation {
            invariant: Invariant::CrashTransparent,
            text,
        });
    }
}
