//! `ringriftd check`: the whole verdict on the files, without a daemon. The same load as the daemon's.

use std::io::Write;

use serde_json::json;

use super::diagnostic::{Diagnostic, summary};
use super::load::load;
use crate::places::Places;

/// What `check` was asked.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CheckArgs {
    /// Warnings count as faults
    #[arg(long)]
    pub strict: bool,
    /// One JSON object on stdout in place of text
    #[arg(long)]
    pub json: bool,
}

/// Checks everything and prints the verdict: diagnostics and summary as text to `talk` and `data`, or one JSON object
/// to `data`. Returns the exit code: 0, or 8 when the configuration is invalid (spec/cli.md).
///
/// A reader that went away does not change the verdict, so write errors are passed over.
pub fn check_verb(
    places: &Places,
    profiles: &[String],
    args: &CheckArgs,
    data: &mut dyn Write,
    talk: &mut dyn Write,
) -> u8 {
    let (faults, warnings, counts) = match load(places, profiles) {
        Ok(loaded) => {
            let counts = Some((
                loaded.plan.units.len(),
                loaded.plan.members.len(),
                loaded.plan.node.profiles.clone(),
            ));
            (Vec::new(), loaded.warnings, counts)
        }
        Err(report) => (report.faults, report.warnings, None),
    };
    let is_valid = faults.is_empty() && (warnings.is_empty() || !args.strict);
    let code = if is_valid { 0 } else { 8 };
    if args.json {
        let value = json!({
            "schema": "ringrift.v1.check",
            "valid": is_valid,
            "strict": args.strict,
            "code": code,
            "faults": faults,
            "warnings": warnings,
            "units": counts.as_ref().map(|(units, ..)| units),
            "wanted": counts.as_ref().map(|(_, wanted, _)| wanted),
            "profiles": counts.as_ref().map(|(.., profiles)| profiles),
        });
        let _ = writeln!(data, "{value}");
        return code;
    }
    for diagnostic in faults.iter().chain(&warnings) {
        let _ = writeln!(talk, "{diagnostic}\n");
    }
    let _ = match counts {
        Some((units, wanted, profiles)) => writeln!(
            data,
            "{} in {units} unit files; {wanted} wanted by {}",
            summary(0, warnings.len()),
            if profiles.is_empty() {
                "no profile".to_owned()
            } else {
                profiles.join(", ")
            }
        ),
        None => writeln!(data, "{}", summary(faults.len(), warnings.len())),
    };
    code
}

/// The faults as lines, for `daemon-reload`'s failure.
pub fn lines(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(ToString::to_string).collect()
}
