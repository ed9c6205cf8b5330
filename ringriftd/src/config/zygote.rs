//! `[exec] zygote`: from which unit a unit is forked, what follows from that, and what does not fit to the rest.

use std::collections::BTreeMap;

use super::check::Check;
use super::diagnostic::Diagnostic;
use super::merged::{Defined, Merged};
use super::source::{Sources, Span};
use super::tree::Typed;
use super::values::fold;
use crate::spec::{Command, OnDependency, OnFailed, OnRecovered, OnRestarted, UnitName, UnitSpec, UseZygote};

impl Check<'_> {
    /// The unit's own word, or else its runner's; and the dependency that follows.
    pub(super) fn zygote(&mut self, name: &UnitName, unit: &Merged, spec: &mut UnitSpec, home: Span) {
        if spec.exec.is_zygote {
            self.is_zygote(name, unit, spec, home);
            return;
        }
        let mode = unit.word("exec.zygote_mode");
        let own = unit.leaves.get("exec.zygote").and_then(|leaf| match &leaf.value {
            Typed::Text(text) => Some((text.clone(), leaf.span)),
            _ => None,
        });
        let of_runner = || {
            let Command::Runner { name, runner, .. } = &spec.exec.command else {
                return None;
            };
            let (_, span) = self.runners.get(name)?;
            Some((runner.zygote.clone()?, *span))
        };
        let Some((text, span)) = own.or_else(of_runner) else {
            if let Some(leaf) = unit.leaves.get("exec.zygote_mode")
                && leaf.span.file == home.file
            {
                let what = format!("\"zygote_mode\" has no effect: \"{name}\" is forked from no zygote");
                self.warn(leaf.key, what);
            }
            return;
        };
        if mode == "never" {
            return;
        }
        match self.names.get(&fold(&text)) {
            None => self.unknown_unit(span, &text, &format!("from which \"{name}\" is to be forked")),
            Some(other) if other == name => {
                self.fault(span, format!("\"{name}\" is to be forked from itself"), |d| {
                    d.help("take \"zygote\" out, or write kind = \"zygote\"")
                });
            }
            Some(other) => {
                let is_required = mode == "require";
                wait_for(spec, other, is_required);
                spec.exec.zygote = Some(UseZygote {
                    name: other.clone(),
                    is_required,
                });
            }
        }
    }

    /// What a zygote cannot be.
    fn is_zygote(&mut self, name: &UnitName, unit: &Merged, spec: &UnitSpec, home: Span) {
        // A default for all units is for those that it can be for.
        if let Some(leaf) = unit.leaves.get("exec.zygote")
            && leaf.span.file == home.file
        {
            self.fault(
                leaf.key,
                format!("\"{name}\" is a zygote, and is to be forked from another"),
                |d| d.why("a zygote is executed, and others are forked from it"),
            );
        }
        if let Some(leaf) = unit.leaves.get("exec.fd_store_max")
            && spec.exec.fd_store_max > 0
        {
            self.fault(
                leaf.span,
                format!("\"{name}\" is a zygote, and is to have descriptors stored"),
                |d| {
                    d.why("what it holds would be in everything that is forked from it")
                        .help("take \"fd_store_max\" out")
                },
            );
        }
    }
}

/// A unit that may be executed instead waits as for one that it wants. Else as for one that it requires, but goes on when
/// that goes down: what has been forked needs its zygote no more.
fn wait_for(spec: &mut UnitSpec, zygote: &UnitName, is_required: bool) {
    if spec.requires.contains(zygote) {
        return;
    }
    if !is_required {
        if !spec.wants.contains(zygote) {
            spec.wants.push(zygote.clone());
        }
        return;
    }
    spec.requires.push(zygote.clone());
    let untouched = OnDependency {
        failed: OnFailed::Keep,
        restarted: OnRestarted::Keep,
        recovered: OnRecovered::Start,
    };
    spec.on_dependency_of.insert(zygote.clone(), untouched);
}

/// Units that are to be forked from what is no zygote.
pub fn zygotes(
    sources: &Sources,
    runners: &dyn Fn(&str) -> Option<Span>,
    defined: &BTreeMap<UnitName, Defined>,
    specs: &BTreeMap<UnitName, UnitSpec>,
    faults: &mut Vec<Diagnostic>,
) {
    let mut told = std::collections::BTreeSet::new();
    for (name, spec) in specs {
        let Some(used) = &spec.exec.zygote else { continue };
        let Some(other) = specs.get(&used.name).filter(|other| !other.exec.is_zygote) else {
            continue;
        };
        let own = defined
            .get(name)
            .and_then(|unit| unit.merged.leaves.get("exec.zygote"));
        let span = own.map(|leaf| leaf.span).or_else(|| match &spec.exec.command {
            Command::Runner { name, .. } => runners(name),
            Command::Direct(_) => None,
        });
        let Some(span) = span else { continue };
        // One fault for all units of a runner.
        if !told.insert((span, used.name.clone())) {
            continue;
        }
        faults.push(
            Diagnostic::fault(
                sources.place(span),
                format!(
                    "\"{name}\" is to be forked from \"{}\", which is no zygote",
                    other.name
                ),
            )
            .why("only a unit of kind \"zygote\" forks others")
            .help(format!(
                "write kind = \"zygote\" below [exec] of \"{}\"",
                other.name
            )),
        );
    }
}
