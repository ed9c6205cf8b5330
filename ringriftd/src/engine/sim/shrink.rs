//! From a failure to its reason: choices are left out, and the rest made smaller, as long as the same promise is broken. And
//! what is kept of it: a *case*, a short text that is run again for ever. Choices first, since each says something of the
//! world; then, with these, steps: whoever reads the trace reads each of them.

use super::choices::{self, Choices, Key, List, Pick, key};
use super::clients::{START, STOP};
use super::draw::Size;
use super::invariants::Invariant;
use super::malice::Mode;
use super::pairs::{judge, plot_of_pair, run_pair};
use super::schedule::{Outcome, Plot, Watchers, run, run_list, swizzle_of};

/// Runs that shrinking may cost.
const RUNS: u32 = 6000;
/// Values that are tried of a choice when it may also be greater than it was.
const VALUES: std::ops::RangeInclusive<u64> = 1..=40;

/// A schedule to be run again: what it was, and the choices that make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Which.
    pub plot: Plot,
    /// Everything that costs time is checked.
    pub thorough: bool,
    /// It is a canary's (see [`Watchers::forbid_kill`]).
    pub forbid_kill: bool,
    /// It is run with deaths of the manager and without them, which must end alike.
    pub is_pair: bool,
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
        self.outcome(true)
    }

    fn outcome(&self, trace: bool) -> Outcome {
        let watchers = self.watchers(trace);
        if !self.is_pair {
            return run_list(self.plot, &self.choices, watchers);
        }
        let choices = Choices::listed(self.choices.clone());
        let pair = run_pair(self.plot, &choices, watchers);
        let violation = judge(&pair);
        let [mut with, without] = pair;
        if trace {
            with.trace
                .push("## and the same without deaths of the manager".to_owned());
        }
        with.trace.extend(without.trace);
        with.steps += without.steps;
        with.violation = violation;
        with
    }

    /// As text.
    pub fn print(&self) -> String {
        let Size {
            units,
            units_max,
            requests,
        } = self.plot.size;
        let pair = if self.is_pair { "pair true\n" } else { "" };
        format!(
            "mode {}\nseed {}\nsize {units} {units_max} {requests}\nthorough {}\n{pair}invariant {}\n\n{}",
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
            // Cases that were kept before there were such say nothing of it.
            is_pair: value("pair").is_ok_and(|word| word == "true"),
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
        is_pair: false,
        invariant: outcome.violation?.invariant as u8,
        choices: outcome.choices,
    };
    Some(Search::new(case).smallest())
}

/// The same for the pair of runs of a schedule's seed ([`super::pairs`]).
pub fn shrink_pair(seed: u64, size: Size) -> Option<Case> {
    let plot = plot_of_pair(seed, size);
    let record = Watchers {
        record: true,
        ..Watchers::default()
    };
    let pair = run_pair(plot, &Choices::seeded(seed), record);
    let violation = judge(&pair)?;
    let [with, without] = pair;
    let mut choices = without.choices;
    choices.extend(with.choices);
    let case = Case {
        plot,
        thorough: false,
        forbid_kill: false,
        is_pair: true,
        invariant: violation.invariant as u8,
        choices,
    };
    Some(Search::new(case).smallest())
}

struct Search {
    case: Case,
    /// That it takes to break the promise.
    steps: u64,
    runs: u32,
}

impl Search {
    fn new(case: Case) -> Self {
        Self {
            case,
            steps: u64::MAX,
            runs: 0,
        }
    }

    fn smallest(mut self) -> Case {
        if !self.take(self.case.clone(), u64::MAX) {
            // It cannot be said in choices (which would be a fault of the simulation's own): the seed is all there is.
            return self.case;
        }
        self.leave_the_swizzle();
        while self.ask_less() | self.leave_out() | self.make_smaller() {}
        while self.take_fewer_steps() {
            self.leave_out();
        }
        self.ask_less();
        self.case
    }

    /// The steps that this one takes to break the same promise, if it does.
    fn try_steps(&mut self, case: Case) -> Option<u64> {
        if self.runs >= RUNS {
            return None;
        }
        self.runs += 1;
        let outcome = case.outcome(false);
        let wanted = Invariant::numbered(case.invariant);
        let is_broken = outcome.violation.map(|violation| violation.invariant) == wanted;
        is_broken.then_some(outcome.steps)
    }

    /// Takes it if it breaks the same promise, in less than so many steps.
    fn take(&mut self, case: Case, most: u64) -> bool {
        let steps = self.try_steps(case.clone()).filter(|steps| *steps < most);
        if let Some(steps) = steps {
            (self.case, self.steps) = (case, steps);
        }
        steps.is_some()
    }

    fn take_list(&mut self, choices: List, most: u64) -> bool {
        let case = Case {
            choices,
            ..self.case.clone()
        };
        self.take(case, most)
    }

    /// A swizzle asks for each unit twice. Said as requests, each of them can be left out.
    fn leave_the_swizzle(&mut self) {
        if self.case.plot.mode != Mode::Swizzle {
            return;
        }
        let mut case = self.case.clone();
        let swizzle = swizzle_of(case.plot, &case.choices);
        let count = swizzle.len() as u32;
        for (nth, place) in (0..).zip(&swizzle) {
            let what = if nth < count / 2 { STOP } else { START };
            case.choices.insert(key(Pick::Request, nth, 0), what);
            case.choices
                .insert(key(Pick::RequestUnits, nth, 0), u64::from(*place));
        }
        case.plot.size.requests += count;
        // It has all that a swizzle has, and no requests of its own.
        case.plot.mode = Mode::Crashy;
        self.take(case, u64::MAX);
    }

    /// Leaves out the last requests. True: some went.
    fn ask_less(&mut self) -> bool {
        let mut any = false;
        for cut in [32, 16, 8, 4, 2, 1] {
            while self.case.plot.size.requests > cut {
                let mut case = self.case.clone();
                case.plot.size.requests -= cut;
                if !self.take(case, u64::MAX) {
                    break;
                }
                any = true;
            }
        }
        any
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
                if list.len() < self.case.choices.len() {
                    self.take_list(list, u64::MAX);
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
                if self.take_list(list, u64::MAX) {
                    any = true;
                    break;
                }
            }
        }
        any
    }

    /// Gives choices other values with which it takes fewer steps. True: it does.
    fn take_fewer_steps(&mut self) -> bool {
        let before = self.steps;
        let keys: Vec<Key> = self.case.choices.keys().copied().collect();
        for key in keys {
            for value in VALUES {
                let mut list = self.case.choices.clone();
                if list.insert(key, value) != Some(value) {
                    self.take_list(list, self.steps);
                }
            }
        }
        self.steps < before
    }
}
