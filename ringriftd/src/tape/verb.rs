//! `ringriftd simulate --replay`: the engine without a daemon, told again what a daemon's engine was told.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::replay::{self, Replayed, shortened};
use super::types::Input;
use crate::engine::types::Mono;

/// Replays, and tells what came of it. Returns the exit code: 0, 1 when the engine did something else than it did, 2 when
/// nothing can be replayed.
///
/// A reader that went away does not change the verdict, so write errors are passed over.
pub fn replay_verb(
    file: &Path,
    is_traced: bool,
    is_json: bool,
    data: &mut dyn Write,
    talk: &mut dyn Write,
) -> u8 {
    let mut first: Option<Mono> = None;
    let mut trace = |now: Option<Mono>, inputs: &[Input], actions: &[String]| {
        if !is_traced || is_json {
            return;
        }
        let from = *first.get_or_insert(now.unwrap_or_default());
        let passed = now.unwrap_or(from).since(from);
        for input in inputs {
            let text = serde_json::to_string(&shortened(input)).unwrap_or_default();
            let _ = writeln!(data, "{:>11.6}s {text}", passed.as_secs_f64());
        }
        for action in actions {
            let _ = writeln!(data, "          -> {action}");
        }
    };
    let result = replay::read(file)
        .map_err(|e| e.to_string())
        .and_then(|bytes| replay::replay(&bytes, &mut trace));
    let done = match result {
        Ok(done) => done,
        Err(why) => {
            let text = format!("cannot replay {}: {why}", file.display());
            if is_json {
                let value = json!({"schema": "ringrift.v1.simulate", "code": 2, "error": {"code": 2, "message": text}});
                let _ = writeln!(data, "{value}");
            } else {
                let _ = writeln!(talk, "ringriftd: {text}");
            }
            return 2;
        }
    };
    let code = u8::from(done.difference.is_some());
    if is_json {
        let _ = writeln!(data, "{}", as_json(&done, code));
        return code;
    }
    for note in &done.notes {
        let _ = writeln!(talk, "note: {note}");
    }
    let counts = format!(
        "{} events and {} actions in {} steps of {} sections",
        done.inputs, done.actions, done.steps, done.sections
    );
    let _ = match &done.difference {
        None => writeln!(data, "the same: {counts}"),
        Some(difference) => writeln!(data, "{difference}after {counts}"),
    };
    code
}

fn as_json(done: &Replayed, code: u8) -> serde_json::Value {
    let difference = done.difference.as_ref().map(|difference| {
        json!({
            "section": difference.section,
            "step": difference.step,
            "told": difference.told,
            "recorded": difference.recorded,
            "replayed": difference.replayed,
        })
    });
    json!({
        "schema": "ringrift.v1.simulate",
        "code": code,
        "sections": done.sections,
        "steps": done.steps,
        "events": done.inputs,
        "actions": done.actions,
        "notes": done.notes,
        "difference": difference,
    })
}
