//! What must hold after every step, told as sentences when it does not. Checked in tests and simulations after each
//! event; in a live daemon the checks can be run and counted, never fatal.

use super::machine::Engine;
use super::unit::{Desired, ProcessPhase, StartPhase, State};
use super::watch::Turn;

impl Engine {
    /// What does not fit of probes and watchdogs.
    fn broken_watches(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut taken = [0, 0];
        let mut waiting = [0, 0];
        for (_, unit) in self.units() {
            let Some(life) = unit.state.life() else { continue };
            let watch = &life.watch;
            let is_watched = match &unit.state {
                State::Running { .. } | State::Reloading { .. } => true,
                // In Post what the [ready] probe left may still be going.
                State::Starting {
                    phase: StartPhase::Probing | StartPhase::Post(_),
                    ..
                } => watch.watchdog.until.is_none(),
                State::Starting { .. } | State::Stopping { .. } => false,
                State::Stopped
                | State::Waiting
                | State::Backoff { .. }
                | State::Failed { .. }
                | State::Completed => false,
            };
            let name = &unit.spec.name;
            if !is_watched && watch.deadline().is_some() {
                broken.push(format!("{name}: it is watched though it is not up"));
            }
            let is_run = match watch.turn {
                Turn::Asked { is_command, .. } => {
                    taken[usize::from(is_command)] += 1;
                    is_command
                }
                Turn::Clearing { .. } => {
                    taken[1] += 1;
                    true
                }
                Turn::Waiting { is_command, .. } => {
                    waiting[usize::from(is_command)] += 1;
                    false
                }
                Turn::None | Turn::At(_) => false,
            };
            let is_going = matches!(unit.state, State::Stopping { .. });
            if !is_going && is_run != life.probe.is_some() {
                broken.push(format!("{name}: its probe's process is not what its turn says"));
            }
        }
        for is_command in [false, true] {
            let (lane, most) = self.lanes.of(is_command);
            let kind = usize::from(is_command);
            if lane.taken != taken[kind] || lane.waiting.len() != waiting[kind] {
                broken.push(format!(
                    "{} probes are under way and {} wait, {} and {} are counted",
                    taken[kind],
                    waiting[kind],
                    lane.taken,
                    lane.waiting.len()
                ));
            }
            if lane.taken > most {
                broken.push(format!("{} probes are under way, {most} may be", lane.taken));
            }
            if lane.taken < most && !lane.waiting.is_empty() && !self.is_paused {
                broken.push("probes wait though there is a place".to_owned());
            }
        }
        broken
    }

    /// Every broken invariant, in words; empty when all is well.
    pub fn broken_invariants(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if planted!(Canary) {
            broken.push("the canary sings".to_owned());
        }
        let mut starting = 0;
        for (ix, unit) in self.units() {
            let name = &unit.spec.name;
            let mut say = |text: String| broken.push(format!("{name}: {text}"));
            if unit.word != unit.shown() {
                say(format!(
                    "the state is {:?}, its word {:?}",
                    unit.shown(),
                    unit.word
                ));
            }
            if unit.armed != unit.deadline() {
                say("its timer is not that of its state".to_owned());
            }
            if unit.armed.is_some_and(|at| !self.timers.contains(&(at, ix))) {
                say("its timer is not in the table".to_owned());
            }
            match unit.state.life() {
                Some(life) => {
                    if self.lives.get(&life.invocation) != Some(&ix) {
                        say("its life is not in the table of lives".to_owned());
                    }
                    if life.processes().any(|p| p.launch.invocation != life.invocation) {
                        say("a process of another life is in this one".to_owned());
                    }
                }
                None => {
                    if self.lives.values().any(|other| *other == ix) {
                        say("it has no life, but the table of lives has one of it".to_owned());
                    }
                }
            }
            if unit.is_taken_along != self.must_be_taken_along(ix) {
                say("whether a restart takes it along is not up to date".to_owned());
            }
            if unit.is_held_down != self.must_be_held_down(ix) {
                say("what it thinks of those that it requires is out of date".to_owned());
            }
            match &unit.state {
                State::Starting { .. } => starting += 1,
                State::Stopped if unit.desired == Desired::Up && !self.is_shutting_down() => {
                    say("wanted up, and stopped after a step".to_owned());
                }
                State::Waiting | State::Backoff { .. } if unit.desired == Desired::Down => {
                    say("wanted down, and not stopped though it has no life".to_owned());
                }
                State::Waiting if self.blockers(ix).is_empty() => {
                    say("waits though nothing holds it back".to_owned());
                }
                State::Running { life } => {
                    let is_there = life.main.as_ref().is_some_and(|p| p.phase != ProcessPhase::Asked);
                    if !is_there || life.ready.is_none() {
                        say("running without a process or without having been ready".to_owned());
                    }
                    if self.stop_reason(ix).is_some() && self.stop_blockers(ix).is_empty() {
                        say("runs though it has to stop and nothing holds that back".to_owned());
                    }
                }
                State::Stopped
                | State::Waiting
                | State::Backoff { .. }
                | State::Reloading { .. }
                | State::Stopping { .. }
                | State::Failed { .. }
                | State::Completed => {}
            }
        }
        broken.extend(self.broken_watches());
        broken.extend(self.broken_gates());
        if starting != self.starting {
            broken.push(format!(
                "{starting} units are starting, {} are counted",
                self.starting
            ));
        }
        if !self.dirty.is_empty() {
            broken.push(format!("{} units are still dirty after a step", self.dirty.len()));
        }
        broken
    }
}
