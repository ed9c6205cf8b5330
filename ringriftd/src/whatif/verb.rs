//! The verb `simulate`: a run of the operator's own profile, or a replay.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::faults::{Down, Kill, length};
use super::findings::{clock, findings, longest_outage};
use super::world::{Fault, World};
use crate::config::diagnostic::nearest_names;
use crate::config::{self, Loaded};
use crate::engine::types::Mono;
use crate::limits;
use crate::places::Places;
use crate::spec::UnitName;
use crate::tape::verb::replay_verb;

/// What `simulate` was asked.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SimulateArgs {
    /// This unit's main process is killed then (UNIT@TIME, as in cache@30s); may be given again
    #[arg(long, value_name = "UNIT@TIME", value_parser = Kill::parse)]
    pub kill: Vec<Kill>,
    /// This unit cannot run for so long (UNIT:TIME, or UNIT@TIME:TIME from then on); may be given again
    #[arg(long, value_name = "UNIT:TIME", value_parser = Down::parse)]
    pub down: Vec<Down>,
    /// How long, by the clock of the simulation
    #[arg(long = "for", value_name = "TIME", value_parser = length, default_value = "10m")]
    pub length: Duration,
    /// Tells how long each start takes, and the jitter of restarts
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// A recording (ringriftd --record FILE) is told to the engine again, which must do the same; nothing is simulated
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kill", "down", "length", "seed"])]
    pub replay: Option<PathBuf>,
    /// Everything that happens, from the beginning (else from the first fault); of a replay, every event and action
    #[arg(long)]
    pub trace: bool,
    /// One JSON object on stdout in place of text
    #[arg(long)]
    pub json: bool,
}

/// Simulates or replays, and tells what came of it. Returns the exit code: 0, 1 with findings or another action than the
/// recorded one, 2 for a wrong use, 8 when the configuration is invalid.
///
/// A reader that went away does not change the verdict, so write errors are passed over.
pub fn simulate_verb(
    places: &Places,
    profiles: &[String],
    args: &SimulateArgs,
    data: &mut dyn Write,
    talk: &mut dyn Write,
) -> u8 {
    if let Some(file) = &args.replay {
        return replay_verb(file, args.trace, args.json, data, talk);
    }
    let loaded = match config::load(places, profiles) {
        Ok(loaded) => loaded,
        Err(report) => return refuse(args, 8, &report.to_string(), data, talk),
    };
    let mut world = World::new(args.seed);
    let unit = |text: &str| {
        loaded.find(text).cloned().ok_or_else(|| {
            let known = loaded.plan.units.keys().map(UnitName::as_str);
            let near = nearest_names(text, known).map_or_else(String::new, |near| format!(": {near}"));
            format!("unknown unit \"{text}\"{near}")
        })
    };
    for kill in &args.kill {
        match unit(&kill.unit) {
            Ok(unit) => world.plan_fault(kill.at, Fault::Kill(unit)),
            Err(why) => return refuse(args, 2, &why, data, talk),
        }
    }
    for down in &args.down {
        match unit(&down.unit) {
            Ok(unit) => {
                let until = Mono(0).after(down.at).after(down.lasts);
                world.plan_fault(down.at, Fault::Down(unit, until));
            }
            Err(why) => return refuse(args, 2, &why, data, talk),
        }
    }
    let is_whole = world.run(&loaded.plan, args.length);
    tell(&loaded, &world, is_whole, args, data)
}

fn refuse(args: &SimulateArgs, code: u8, why: &str, data: &mut dyn Write, talk: &mut dyn Write) -> u8 {
    if args.json {
        let value = json!({
            "schema": "ringrift.v1.simulate",
            "code": code,
            "error": {"code": code, "message": why},
        });
        let _ = writeln!(data, "{value}");
    } else {
        let _ = writeln!(talk, "{why}");
    }
    code
}

fn seconds(time: Duration) -> f64 {
    // To the ms: more is noise of the dice.
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

fn tell(loaded: &Loaded, world: &World, is_whole: bool, args: &SimulateArgs, data: &mut dyn Write) -> u8 {
    let found = findings(world, is_whole);
    let code = u8::from(!found.is_empty());
    let story = &world.story;
    let end = Mono(0).after(args.length);
    let mut outages: Vec<_> = story
        .units
        .iter()
        .map(|(name, fate)| (name, fate, longest_outage(fate, end)))
        .filter(|(_, _, longest)| !longest.is_zero())
        .collect();
    outages.sort_by_key(|(name, _, longest)| (std::cmp::Reverse(*longest), (*name).clone()));
    let from = if args.trace {
        0
    } else {
        story.first_fault.unwrap_or(story.trace.len())
    };
    let trace: Vec<_> = story.trace[from..]
        .iter()
        .filter(|line| args.trace || !line.is_minor)
        .collect();
    if args.json {
        let value = json!({
            "schema": "ringrift.v1.simulate",
            "code": code,
            "seed": args.seed,
            "profiles": loaded.plan.node.profiles,
            "units": story.units.len(),
            "for_s": seconds(args.length),
            "settled_at_s": story.settled_at.map(|at| seconds(at.since(Mono(0)))),
            "peak_starts_per_s": {"starting": story.peaks[0].0, "after": story.peaks[1].0},
            "outages": outages.iter().map(|(name, fate, longest)| json!({
                "unit": name.as_str(),
                "longest_s": seconds(*longest),
                "count": fate.outages,
                "starts": fate.starts,
                "is_out": fate.out_since.is_some(),
            })).collect::<Vec<_>>(),
            "findings": found.iter().map(|finding| json!({
                "kind": finding.kind,
                "unit": finding.unit.as_ref().map(UnitName::as_str),
                "text": finding.text,
            })).collect::<Vec<_>>(),
            "trace": trace.iter().map(|line| json!({
                "at_s": seconds(line.at.since(Mono(0))),
                "text": line.text,
            })).collect::<Vec<_>>(),
        });
        let _ = writeln!(data, "{value}");
        return code;
    }
    for line in trace.iter().take(limits::SIMULATE_TRACE_MAX) {
        let _ = writeln!(data, "{:>13}  {}", clock(line.at), line.text);
    }
    if trace.len() > limits::SIMULATE_TRACE_MAX {
        let more = trace.len() - limits::SIMULATE_TRACE_MAX;
        let _ = writeln!(data, "{:>13}  and {more} lines more", "");
    }
    let settled = match story.settled_at {
        Some(at) => format!("all tried after {}", clock(at)),
        None => "not all tried to the end".to_owned(),
    };
    let _ = writeln!(
        data,
        "{} units, {settled}; at most {} starts in a second while starting, {} after",
        story.units.len(),
        story.peaks[0].0,
        story.peaks[1].0
    );
    for (name, fate, longest) in &outages {
        let still = if fate.out_since.is_some() {
            ", and still is"
        } else {
            ""
        };
        let _ = writeln!(
            data,
            "{name} was out {} times, for {} at most{still}; started {} times",
            fate.outages,
            clock(Mono(0).after(*longest)),
            fate.starts
        );
    }
    for finding in &found {
        let _ = writeln!(data, "finding: {}", finding.text);
    }
    if found.is_empty() {
        let _ = writeln!(data, "no findings");
    }
    code
}
