//! Pairs of schedules: invariant 20. The same schedule with deaths of the manager and without them, with time between requests, so
//! that what a death delays by a moment changes the order of nothing: it must end in the same place, having begun as many lives.

use super::choices::Choices;
use super::draw::Size;
use super::invariants::{Invariant, Violation};
use super::malice::{Fault, Mode, Rates};
use super::schedule::{Outcome, Plot, Watchers, run_with};

/// Requests of such a schedule: each costs minutes of probes.
const REQUESTS: u32 = 12;

/// The plot of such a pair.
pub(super) fn plot_of_pair(seed: u64, size: Size) -> Plot {
    Plot {
        mode: Mode::Calm,
        size: Size {
            requests: REQUESTS,
            ..size
        },
        seed,
    }
}

/// Runs it with deaths and without them. Choices that are written down are those of the first, which has all of the second.
pub(super) fn run_pair(plot: Plot, choices: &Choices, watchers: Watchers) -> [Outcome; 2] {
    let watchers = Watchers {
        spaced: true,
        ..watchers
    };
    let rates = Rates::of(plot.mode).with(Fault::Shutdown, 0);
    [rates.with(Fault::Dies, 100), rates].map(|rates| run_with(plot, choices.clone(), rates, watchers))
}

/// What is wrong with a pair.
pub(super) fn judge([with, without]: &[Outcome; 2]) -> Option<Violation> {
    let text = match (&with.violation, &without.violation) {
        (Some(violation), _) | (None, Some(violation)) => violation.to_string(),
        (None, None) if with.ends == without.ends => return None,
        (None, None) => {
            let pairs = with.ends.iter().zip(&without.ends);
            let differ = pairs.filter(|(with, without)| with != without);
            let texts: Vec<String> = differ
                .map(|(with, without)| format!("{with:?} instead of {without:?}"))
                .collect();
            format!("with deaths of the manager it ended so: {}", texts.join("; "))
        }
    };
    Some(Violation {
        invariant: Invariant::CrashTransparent,
        text,
    })
}

impl Outcome {
    /// Adds what such a pair comes to.
    pub(super) fn add_pair(&mut self, seed: u64, size: Size) {
        let pair = run_pair(
            plot_of_pair(seed, size),
            &Choices::seeded(seed),
            Watchers::default(),
        );
        let [with, _] = &pair;
        if with.counts.deaths > 0 {
            self.counts.checked[Invariant::CrashTransparent as usize] += with.ends.len() as u64;
        }
        self.counts.deaths += with.counts.deaths;
        if let Some(violation) = judge(&pair) {
            self.violation.get_or_insert(violation);
        }
    }
}
