//! Runs many schedules of the simulated world (`ringriftd/src/engine/sim`), on all cores, and holds the engine to what they show:
//! no promise is broken, none was kept only because nothing tested it, and every cell of the engine's table that is declared to be
//! reachable was reached, and no other.
//!
//! A program of its own, of the engine's own files and nothing else of the daemon: optimised it is built in a minute, where all
//! of ringriftd takes five.
#![allow(dead_code, unused_imports)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[path = "../../../ringriftd/src/breaker.rs"]
mod breaker;
#[path = "../../../ringriftd/src/door.rs"]
mod door;
#[path = "../../../ringriftd/src/engine/mod.rs"]
mod engine;
#[path = "../../../ringriftd/src/graph.rs"]
mod graph;
mod hunt;
#[path = "../../../ringriftd/src/ids.rs"]
mod ids;
#[path = "../../../ringriftd/src/limits.rs"]
mod limits;
#[path = "../../../ringriftd/src/spec.rs"]
mod spec;
#[path = "../../../ringriftd/src/unit_name.rs"]
mod unit_name;
#[path = "../../../ringriftd/src/used.rs"]
mod used;

use engine::planted;
use engine::sim::Size;
use engine::sim::cells::{self, EVENT_WORDS, PLACE_WORDS, Reach};
use engine::sim::invariants::{Counts, Invariant, Violation};
use engine::sim::schedule::{plot_of, run_numbered};
use engine::sim::shrink::{Case, shrink, shrink_pair};

const HELP: &str = "\
ringrift-simulation run [--full N] [--small N] [--base SEED] [--seconds S] [--short] [--bless]
    runs so many schedules of twelve units and forty requests, and so many of a few units, at most for so many seconds each;
    without numbers those of every test run; with --short counts and cells are printed, and nothing is demanded of them; with
    --bless the table of reachable cells and the figures of docs/reliability.md are written anew
ringrift-simulation planted
    plants each of the faults of engine/planted.rs, and shows who finds it
ringrift-simulation seed SEED NUMBER [--small] [--planted FAULT]
    runs schedule NUMBER of SEED, and, if a promise is broken, shrinks it and prints it as a case and as a trace
ringrift-simulation case FILE
    runs a case that was printed so";

/// A promise counts as tested when it could have been broken so often.
const NOT_VACUOUS: u64 = 1000;
/// Schedules of a run that is not told how many: those of every test run.
const FULL: u64 = 25_000;
const SMALL: u64 = 40_000;
/// A cell is demanded of every run when as many schedules as that has meet it so often.
const SURE: u64 = 50;
/// Failures that are told of one run.
const FAILURES_TOLD: usize = 5;

struct Options {
    full: u64,
    small: u64,
    base: u64,
    seconds: u64,
    is_short: bool,
    is_blessing: bool,
}

/// What many schedules came to.
#[derive(Default)]
struct Many {
    counts: Counts,
    failures: BTreeMap<u64, Violation>,
    took: Duration,
}

fn main() -> ExitCode {
    // What panics in a schedule is told as its failure.
    std::panic::set_hook(Box::new(|_| {}));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["run", options @ ..] => read(options).and_then(|options| run(&options)),
        ["planted"] => Ok(hunt()),
        ["seed", base, number, rest @ ..] => match (base.parse(), number.parse(), fault(rest)) {
            (Ok(base), Ok(number), Ok(fault)) => {
                let show = || show_seed(base, number, size(rest.contains(&"--small")));
                Ok(fault.map_or_else(show, |fault| planted::with(fault, show)))
            }
            _ => Err(HELP.to_owned()),
        },
        ["case", file] => show_case(Path::new(file)),
        _ => Err(HELP.to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::from(2)
        }
    }
}

fn size(is_small: bool) -> Size {
    if is_small { Size::SMALL } else { Size::FULL }
}

/// The fault that is to be planted.
fn fault(words: &[&str]) -> Result<Option<planted::Fault>, String> {
    let mut after = words.iter().skip_while(|word| **word != "--planted").skip(1);
    let Some(name) = after.next() else {
        return Ok(None);
    };
    let mut all = planted::Fault::ALL.iter().copied();
    let found = all.find(|fault| format!("{fault:?}") == **name);
    found.map(Some).ok_or_else(|| HELP.to_owned())
}

/// Looks for all planted faults. True: the simulation finds those that it is known to find, and no other.
fn hunt() -> bool {
    let began = Instant::now();
    let all = hunt::all();
    print!("{}", hunt::table(&all));
    let surprises = hunt::surprises(&all);
    surprises.iter().for_each(|text| println!("{text}"));
    println!("{} faults in {:.1} s", all.len(), began.elapsed().as_secs_f64());
    surprises.is_empty()
}

fn read(words: &[&str]) -> Result<Options, String> {
    let mut options = Options {
        full: FULL,
        small: SMALL,
        base: 1,
        seconds: u64::MAX,
        is_short: false,
        is_blessing: false,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let place = match *word {
            "--full" => &mut options.full,
            "--small" => &mut options.small,
            "--base" => &mut options.base,
            "--seconds" => &mut options.seconds,
            "--short" => {
                options.is_short = true;
                continue;
            }
            "--bless" => {
                options.is_blessing = true;
                continue;
            }
            _ => return Err(HELP.to_owned()),
        };
        *place = words.next().and_then(|value| value.parse().ok()).ok_or(HELP)?;
    }
    Ok(options)
}

/// So many schedules, on all cores, until the time is up.
fn many(base: u64, count: u64, size: Size, seconds: u64) -> Many {
    let began = Instant::now();
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut many = Many::default();
        while !is_over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let (_, outcome) = run_numbered(base, number, size);
            many.counts.add(&outcome.counts);
            if let Some(violation) = outcome.violation {
                many.failures.insert(number, violation);
            }
            if began.elapsed().as_secs() >= seconds || many.failures.len() > FAILURES_TOLD {
                is_over.store(true, Ordering::Relaxed);
            }
        }
        many
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Many::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            if let Ok(many) = thread.join() {
                all.counts.add(&many.counts);
                all.failures.extend(many.failures);
            }
        }
    });
    all.took = began.elapsed();
    all
}

fn speed(many: &Many) -> String {
    let (counts, seconds) = (&many.counts, many.took.as_secs_f64().max(0.001));
    let schedules = counts.schedules.max(1) as f64;
    format!(
        "{} schedules in {:.1} s ({:.0} a second): {:.1} units, {:.1} requests, {:.0} events each; {} deaths of the manager; {:.0} virtual \
         hours",
        counts.schedules,
        seconds,
        counts.schedules as f64 / seconds,
        counts.units as f64 / schedules,
        counts.requests as f64 / schedules,
        counts.events as f64 / schedules,
        counts.deaths,
        counts.virtual_ms as f64 / 3_600_000.0,
    )
}

fn run(options: &Options) -> Result<bool, String> {
    let mut is_well = true;
    let mut counts = Counts::default();
    let mut lines = Vec::new();
    for (count, is_small) in [(options.full, false), (options.small, true)] {
        let many = many(options.base, count, size(is_small), options.seconds);
        let line = format!("{}: {}", if is_small { "small" } else { "full" }, speed(&many));
        println!("{line}");
        lines.push(line);
        counts.add(&many.counts);
        for (number, violation) in many.failures.iter().take(FAILURES_TOLD) {
            is_well = false;
            println!("schedule {number}: {violation}");
        }
        if let Some(number) = many.failures.keys().next() {
            show_seed(options.base, *number, size(is_small));
            let small = if is_small { " --small" } else { "" };
            println!(
                "to see it again: cargo run -p ringrift-simulation -- seed {} {number}{small}",
                options.base
            );
        }
    }
    for invariant in Invariant::ALL {
        let times = counts.of(*invariant);
        println!("{:>3} {times:>12}  {}", *invariant as u8, invariant.what());
        if times < NOT_VACUOUS && !options.is_short {
            is_well = false;
            println!("    that is too seldom: a promise counts as tested from {NOT_VACUOUS} on");
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if options.is_blessing {
        let sure = SURE * options.full.max(FULL) / FULL;
        bless(&root, &counts, &lines, sure).map_err(|e| format!("cannot write: {e}"))?;
        return Ok(is_well);
    }
    let declared = cells::declared(cells::REACHABLE)?;
    println!("{}", cells::summary(&declared));
    for (place, (row, met)) in PLACE_WORDS.iter().zip(declared.iter().zip(&counts.cells)) {
        for (event, (reach, met)) in EVENT_WORDS.iter().zip(row.iter().zip(met)) {
            let fault = match (reach, *met > 0) {
                (Reach::Sure, false) if !options.is_short => {
                    "is declared to be reachable, and was not reached"
                }
                (Reach::No, true) => "was reached, and is not declared",
                _ => continue,
            };
            is_well = false;
            println!("{event} at {place} {fault}");
        }
    }
    Ok(is_well)
}

fn bless(root: &Path, counts: &Counts, lines: &[String], sure: u64) -> std::io::Result<()> {
    let head = "# Which event can meet a unit where; in brackets: too rarely to be demanded of every run. Written by\n\
                # `ringrift-simulation run --bless`, read by people, held to by every run.\n";
    let table = format!("{head}{}", cells::table(&counts.cells, sure));
    let summary = cells::summary(&cells::declared(&table).map_err(std::io::Error::other)?);
    std::fs::write(root.join("ringriftd/src/engine/sim/reachable.txt"), table)?;
    let page = root.join("docs/reliability.md");
    let text = std::fs::read_to_string(&page)?;
    let (Some(from), Some(to)) = (text.find("<!-- figures -->\n"), text.find("<!-- /figures -->")) else {
        return Err(std::io::Error::other(
            "docs/reliability.md has no place for figures",
        ));
    };
    let mut figures = String::from("<!-- figures -->\n");
    for line in lines {
        let _ = writeln!(figures, "* {line}");
    }
    let _ = writeln!(figures, "* {summary}");
    let planted = hunt::all();
    let _ = writeln!(
        figures,
        "* faults planted in the engine: {}, and a canary; of these the simulation finds {}, the small systems find all\n",
        planted.len() - 1,
        planted.iter().filter(|(_, seen)| seen.is_some()).count() - 1,
    );
    figures.push_str("| | what must hold | could have been broken |\n|---|---|---|\n");
    for invariant in Invariant::ALL {
        let _ = writeln!(
            figures,
            "| {} | {} | {} |",
            *invariant as u8,
            invariant.what(),
            counts.of(*invariant)
        );
    }
    let _ = write!(figures, "\n{}", hunt::table(&planted));
    std::fs::write(page, format!("{}{figures}{}", &text[..from], &text[to..]))
}

/// Runs one, and says what is wrong with it as shortly as it can be said. True: nothing.
fn show_seed(base: u64, number: u64, size: Size) -> bool {
    let (plot, watchers) = plot_of(base, number, size);
    let Some(case) = shrink(plot, watchers) else {
        let Some(violation) = run_numbered(base, number, size).1.violation else {
            println!("schedule {number} of seed {base} breaks no promise");
            return true;
        };
        let Some(case) = shrink_pair(plot.seed, size) else {
            println!("only running it twice shows it: {violation}");
            return false;
        };
        println!("{}", case.print());
        tell(&case);
        return false;
    };
    println!("{}", case.print());
    tell(&case);
    false
}

fn tell(case: &Case) -> bool {
    let outcome = case.run();
    for line in &outcome.trace {
        println!("{line}");
    }
    match &outcome.violation {
        Some(violation) => println!("after {} steps: {violation}", outcome.steps),
        None => println!("{} steps, and no promise is broken", outcome.steps),
    }
    outcome.violation.is_none()
}

fn show_case(file: &Path) -> Result<bool, String> {
    let read = std::fs::read_to_string(file);
    let text = read.map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    Ok(tell(&Case::parse(&text)?))
}
