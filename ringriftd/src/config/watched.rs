//! `[ready]` and `[health]` of a unit: what of them does not fit to the rest.

use super::check::Check;
use super::merged::Merged;
use super::source::Span;
use crate::spec::{Kind, UnitName, UnitSpec};

impl Check<'_> {
    /// What of `[ready]` and `[health]` does not fit to the rest.
    pub(super) fn health(&mut self, name: &UnitName, unit: &Merged, spec: &mut UnitSpec, home: Span) {
        let kind = spec.exec.kind;
        if kind != Kind::Notify
            && let Some(health) = &mut spec.health
        {
            // A default for all units is for those that it can be for.
            health.watchdog = None;
        }
        if let Some(leaf) = unit.leaves.get("health.watchdog")
            && kind != Kind::Notify
            && leaf.span.file == home.file
        {
            self.fault(
                leaf.key,
                format!("\"{name}\" has a watchdog and is not of kind \"notify\""),
                |d| {
                    d.why("WATCHDOG=1 comes over the notify socket, which only units of that kind have")
                        .help("write kind = \"notify\" below [exec], or use a probe")
                },
            );
        }
        if let Some(leaf) = unit.leaves.get("health.timeout")
            && unit
                .time("health.timeout")
                .is_some_and(|timeout| timeout > spec.health_interval)
        {
            self.fault(leaf.span, "\"timeout\" is longer than \"interval\"", |d| {
                d.why("the next probe would begin before this one is over")
            });
        }
        if let Some(leaf) = unit.leaves.get("ready.probe")
            && kind == Kind::Oneshot
        {
            self.fault(
                leaf.key,
                format!("\"{name}\" is a oneshot with a [ready] probe"),
                |d| d.why("a oneshot is ready by its exit with 0"),
            );
        }
        if let Some(leaf) = unit.leaves.get("health.probe")
            && kind == Kind::Oneshot
            && !spec.exec.remain
        {
            self.warn(
                leaf.key,
                format!("\"probe\" has no effect: \"{name}\" is a oneshot that does not remain"),
            );
        }
    }
}
