//! A run in words: a line for each event and each action. And what an event is about.

use crate::engine::types::{Action, Event, Op, RequestAnswer};
use crate::engine::words::describe;
use crate::ids::{Invocation, LaunchId};

/// The keeper says it again by itself; or, for a launch that failed, is asked again.
pub(super) fn is_told_by_inventory(event: &Event) -> bool {
    match event {
        Event::Launched { .. }
        | Event::LaunchFailed { .. }
        | Event::Exited { .. }
        | Event::Emptied { .. }
        | Event::Lost { .. }
        // Its question died with the manager, and is asked again.
        | Event::Probed { .. } => true,
        Event::Loaded(_)
        | Event::Request { .. }
        | Event::Forget { .. }
        | Event::Shutdown { .. }
        | Event::Unkillable { .. }
        | Event::MainFound { .. }
        | Event::MainMissing { .. }
        | Event::Ready { .. }
        | Event::Stopping { .. }
        | Event::Reloading { .. }
        | Event::MainChanged { .. }
        | Event::Extend { .. }
        | Event::Used { .. }
        | Event::Watchdog { .. }
        | Event::WatchdogTrigger { .. }
        | Event::WatchdogEvery { .. }
        | Event::HealthSaid { .. }
        | Event::LogDrops { .. }
        | Event::Tick => false,
    }
}

/// What an event is about.
enum About {
    /// A process of a life: it is news only while the life has that process.
    Launch(LaunchId),
    /// A life.
    Life(Invocation),
    /// Units that somebody names, all of them, or none.
    Node,
}

fn about(event: &Event) -> About {
    match event {
        Event::Launched { launch, .. }
        | Event::LaunchFailed { launch, .. }
        | Event::Exited { launch, .. }
        | Event::Emptied { launch }
        | Event::Lost { launch }
        | Event::Unkillable { launch, .. }
        | Event::MainFound { launch, .. }
        | Event::MainMissing { launch, .. }
        | Event::MainChanged { launch, .. } => About::Launch(*launch),
        // A measurement: it is the life's, whether or not the process is there still.
        Event::Used { launch, .. } => About::Life(launch.invocation),
        Event::Ready { invocation }
        | Event::Stopping { invocation }
        | Event::Reloading { invocation, .. }
        | Event::Extend { invocation, .. }
        | Event::Probed { invocation, .. }
        | Event::Watchdog { invocation }
        | Event::WatchdogTrigger { invocation }
        | Event::WatchdogEvery { invocation, .. }
        | Event::HealthSaid { invocation, .. } => About::Life(*invocation),
        Event::Loaded(_)
        | Event::Request { .. }
        | Event::Forget { .. }
        | Event::Shutdown { .. }
        | Event::LogDrops { .. }
        | Event::Tick => About::Node,
    }
}

/// The launch that the keeper's news is of.
pub(super) fn launch_of(event: &Event) -> Option<LaunchId> {
    match about(event) {
        About::Launch(launch) => Some(launch),
        About::Life(_) | About::Node => None,
    }
}

/// The life that an event is about.
pub(super) fn invocation_of(event: &Event) -> Option<Invocation> {
    match about(event) {
        About::Launch(launch) => Some(launch.invocation),
        About::Life(invocation) => Some(invocation),
        About::Node => None,
    }
}

fn op(op: &Op) -> String {
    match op {
        Op::Start { units } => format!("start {units:?}"),
        Op::Stop { units, cascade } => format!("stop {units:?}{}", if *cascade { " --cascade" } else { "" }),
        Op::Restart {
            units,
            only_running,
            cascade,
        } => {
            let only = if *only_running { " --only-running" } else { "" };
            format!(
                "restart {units:?}{only}{}",
                if *cascade { " --cascade" } else { "" }
            )
        }
        Op::Reload { units } => format!("reload {units:?}"),
        Op::Kill { units, signal, scope } => format!("kill {units:?} with {signal} ({scope:?})"),
        Op::ResetFailed { units } => format!("reset-failed {units:?}"),
        Op::Hold { units, held } => match held.until {
            Some(until) => format!("hold {units:?} until {} ms", until.0 / 1_000_000),
            None => format!("hold {units:?}"),
        },
        Op::Unhold { units } => format!("unhold {units:?}"),
        Op::Adopt { unit, process } => format!("adopt pid {} as {unit}", process.pid),
    }
}

/// An event as a line.
pub(super) fn event(event: &Event) -> String {
    match event {
        Event::Loaded(plan) => {
            let units: Vec<String> = plan
                .units
                .values()
                .map(|unit| {
                    let edges = [
                        ("requires", &unit.requires),
                        ("wants", &unit.wants),
                        ("after", &unit.after),
                        ("conflicts", &unit.conflicts),
                    ];
                    let edges: Vec<String> = edges
                        .into_iter()
                        .filter(|(_, list)| !list.is_empty())
                        .map(|(word, list)| format!(" {word} {list:?}"))
                        .collect();
                    format!("{}{}", unit.name, edges.concat())
                })
                .collect();
            format!("the files are loaded: {}", units.join(", "))
        }
        Event::Request { id, op: what, .. } => format!("request {}: {}", id.0, op(what)),
        Event::Forget { id } => format!("the client of request {} goes away", id.0),
        Event::Shutdown { .. } => "the daemon is asked to end".to_owned(),
        Event::Launched { launch, pid, .. } => format!("{launch} runs as pid {pid}"),
        Event::LaunchFailed { launch, failure } => format!(
            "{launch} could not be started{}",
            if failure.host { " (the host's fault)" } else { "" }
        ),
        Event::Exited {
            launch,
            exit,
            remains,
        } if remains.is_empty() => format!("{launch} {}", describe(*exit)),
        Event::Exited { launch, exit, .. } => format!("{launch} {} and left others behind", describe(*exit)),
        Event::Emptied { launch } => format!("nothing of {launch} is left"),
        Event::Lost { launch } => format!("the keeper does not have {launch}"),
        Event::Unkillable { launch, .. } => format!("{launch} does not go by SIGKILL"),
        Event::MainFound { launch, pid, .. } => format!("the main process of {launch} is pid {pid}"),
        Event::MainMissing { launch, .. } => format!("the main process of {launch} was not found"),
        Event::Ready { invocation } => format!("life {} says READY=1", invocation.0),
        Event::Stopping { invocation } => format!("life {} says STOPPING=1", invocation.0),
        Event::Reloading { invocation, .. } => format!("life {} says RELOADING=1", invocation.0),
        Event::MainChanged { launch, pid, .. } => format!("{launch} says MAINPID={pid}"),
        Event::Extend { invocation, by } => {
            format!(
                "life {} says EXTEND_TIMEOUT_USEC={}",
                invocation.0,
                by.as_micros()
            )
        }
        Event::Tick => "a deadline may have passed".to_owned(),
        Event::Used { launch, .. } => format!("what {launch} used"),
        Event::Probed {
            invocation, result, ..
        } => format!("life {}: its probe came to {result:?}", invocation.0),
        Event::Watchdog { invocation } => format!("life {} says WATCHDOG=1", invocation.0),
        Event::WatchdogTrigger { invocation } => format!("life {} says WATCHDOG=trigger", invocation.0),
        Event::WatchdogEvery { invocation, every } => {
            format!("life {} says WATCHDOG_USEC={}", invocation.0, every.as_micros())
        }
        Event::HealthSaid {
            invocation, health, ..
        } => format!("life {} says that it is {health:?}", invocation.0),
        Event::LogDrops { unit, text, .. } => format!("{unit}: {text}"),
    }
}

/// An action as a line.
pub(super) fn action(action: &Action) -> String {
    let text = match action {
        Action::Launch { launch, role, spec } => format!("launch {launch}: {} {role}", spec.name),
        Action::AdoptForeign {
            launch, pid, spec, ..
        } => format!("take pid {pid} over as {launch} of {}", spec.name),
        Action::Signal { launch, signal, .. } => format!("signal {signal} to {launch}"),
        Action::Destroy { launch } => format!("SIGKILL to all of {launch}"),
        Action::FindMain { launch, .. } => format!("find the main process of {launch}"),
        Action::Release { launch } => format!("release {launch}"),
        Action::Probe { invocation, nr, .. } => format!("probe {nr} of life {}", invocation.0),
        Action::Reply { id, answer } => match answer {
            RequestAnswer::Refused(refusal) => format!("answer {}: refused, {refusal:?}", id.0),
            RequestAnswer::Done(units) => {
                let units: Vec<String> = units
                    .iter()
                    .map(|u| format!("{} {:?} ({})", u.unit, u.outcome, u.text))
                    .collect();
                format!("answer {}: {}", id.0, units.join("; "))
            }
        },
        Action::Emit(change) => format!(
            "{}: {} {:?} -> {:?}: {}",
            change.seq, change.unit, change.from, change.to, change.cause.text
        ),
        Action::Finish { code } => format!("end with code {code}"),
        Action::Worked { unit, invocation } => format!("life {} of {unit} worked", invocation.0),
        Action::Failed(failure) => format!(
            "life {} of {} failed: {}",
            failure.invocation.0, failure.unit, failure.text
        ),
    };
    format!("  -> {text}")
}
