//! From a failure to its reason: choices are left out, and the rest made smaller, as long as the same promise is broken. And
//! what is kept of it: a *case*, a short text that is run again for ever.

use super::choices::{self, Key, List};
use super::draw::Size;
use super::invariants::Invariant;
use super::malice::Mode;
use super::schedule::{Outcome, Plot, Watchers, run, run_list};

/// Runs that shrinking may cost.
const RUNS: u32 = 6000;

/// A schedule to be run again: what it was, and the choices that make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Which.
    pub plot: Plot,
    /// Everything that costs time is checked.
    pub thorough: bool,
    /// It is a canary's (see [`Watchers::forbid_kill`]).
    pub forbid_kill: bool,
    /// The promise that was broken.
    pub invariant: u8,
    /// The choices; all others are calm.
    pub choices: List,
}

impl Case {
    fn watchers(&self, trace: bool) -> Watchers {
        Watchers {
            trace,
            thorough: self.thorough,
            forbid_kill: self.forbid_kill,
            ..Watchers::default()
        }
    }

    /// Runs it, and writes it down in words.
    pub fn run(&self) -> Outcome {
        run_list(self.plot, &self.choices, self.watchers(true))
    }

    /// As text.
    pub fn print(&self) -> String {
        let Size {
            units,
            units_max,
            requests,
        } = self.plot.size;
        format!(
            "mode {}\nseed {}\nsize {units} {units_max} {requests}\nthorough {}\ninvariant {}\n\n{}",
            self.plot.mode.word(),
            self.plot.seed,
            self.thorough,
            self.invariant,
            choices::print(&self.choices)
        )
    }

    /// From text; lines that begin with `#` say what it is about.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (head, list) = text.split_once("\n\n").ok_or("there are no choices")?;
        let value = |word: &str| {
            let mut lines = head.lines();
            let line = lines.find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
            line.ok_or_else(|| format!("no line says: {word}"))
        };
        let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
        let sizes: Vec<u64> = value("size")?.split(' ').map(number).collect::<Result<_, _>>()?;
        let &[units, units_max, requests] = sizes.as_slice() else {
            return Err("a size has three numbers".to_owned());
        };
        let small = |n: u64| u32::try_from(n).map_err(|e| e.to_string());
        let mode = value("mode")?;
        Ok(Self {
            plot: Plot {
                mode: Mode::read(mode).ok_or_else(|| format!("no mode is called {mode}"))?,
                seed: number(value("seed")?)?,
                size: Size {
                    units: small(units)?,
                    units_max: small(units_max)?,
                    requests: small(requests)?,
                },
            },
            thorough: value("thorough")? == "true",
            forbid_kill: false,
            invariant: u8::try_from(number(value("invariant")?)?).map_err(|e| e.to_string())?,
            choices: choices::parse(list)?,
        })
    }
}

/// The case of a schedule that breaks a promise, as small as it gets; none: it breaks none.
pub fn shrink(plot: Plot, watchers: Watchers) -> Option<Case> {
    let record = Watchers {
        record: true,
        ..watchers
    };
    let outcome = run(plot, record);
    let case = Case {
        plot,
        thorough: watchers.thorough,
        forbid_kill: watchers.forbid_kill,
        invariant: outcome.violation?.invariant as u8,
        choices: outcome.choices,
    };
    let mut search = Search { case, runs: 0 };
    if !search.still_fails(&search.case.choices.clone()) {
        // It cannot be said in choices (which would be a fault of the simulation's own): the seed is all there is.
        return Some(search.case);
    }
    while search.leave_out() | search.make_smaller() {}
    Some(search.case)
}

struct Search {
    case: Case,
    runs: u32,
}

impl Search {
    fn still_fails(&mut self, list: &List) -> bool {
        if self.runs >= RUNS {
            return false;
        }
        self.runs += 1;
        let outcome = run_list(self.case.plot, list, self.case.watchers(false));
        let wanted = Invariant::numbered(self.case.invariant);
        outcome.violation.map(|violation| violation.invariant) == wanted
    }

    /// Leaves out as many choices as it can, larger pieces first. True: some went.
    fn leave_out(&mut self) -> bool {
        let before = self.case.choices.len();
        let mut piece = before.div_ceil(2);
        while piece > 0 {
            let keys: Vec<Key> = self.case.choices.keys().copied().collect();
            for some in keys.chunks(piece) {
                let mut list = self.case.choices.clone();
                list.retain(|key, _| !some.contains(key));
                if list.len() < self.case.choices.len() && self.still_fails(&list) {
                    self.case.choices = list;
                }
            }
            piece /= 2;
        }
        self.case.choices.len() < before
    }

    /// Makes each value as small as it can. True: some are smaller.
    fn make_smaller(&mut self) -> bool {
        let keys: Vec<Key> = self.case.choices.keys().copied().collect();
        let mut any = false;
        for key in keys {
            let Some(&value) = self.case.choices.get(&key) else {
                continue;
            };
            for smaller in [1, value / 16, value / 2, value - 1] {
                if smaller == 0 || smaller >= value {
                    continue;
                }
                let mut list = self.case.choices.clone();
                list.insert(key, smaller);
                if self.still_fails(&list) {
                    self.case.choices = list;
                    any = true;
                    break;
                }
            }
        }
        any
    }
}
