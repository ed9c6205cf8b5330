//! The manager's lives. It may die at any instruction, or hang: the keeper kills and reaps it, starts another with a
//! back-off, and tells that one all that it holds. No unit is touched by it. What would have been said to a manager that
//! is not there is part of what the next one is told.

use std::time::{Duration, Instant};

use proto::reply::Exit;

use super::cgroup::Leaf;
use super::links;
use super::roles::{BUG, describe};
use super::signal;
use super::sockets::{self, Notify};
use super::state::{Attention, Keeper, Phase, say};
use super::types::{Proc, SharedFd};
use super::upgrade::{self, Upgrade};
use super::wire::{FromKeeper, ToLogger, WIRE_VERSION};
use crate::ids::LaunchId;
use crate::limits;

impl Keeper {
    /// The first words to a manager: what this keeper is, every launch and what became of it, the signals to the daemon
    /// that no manager has taken.
    pub fn greet(&mut self) {
        let logger = self.logger.process.or(self.logger_elsewhere);
        let hello = FromKeeper::Hello {
            version: WIRE_VERSION,
            pid: self.own_pid.unsigned_abs(),
            logger_pid: logger.map(Proc::pid_u32).unwrap_or_default(),
            logger_start: logger.map(Proc::start).unwrap_or_default(),
            seed: self.seed,
            containment: self.machine.containment.text(),
            is_fresh: !self.lives.has_served,
            is_wrapped: self.outer.is_some(),
            manager_deaths: self.lives.deaths,
            is_safe: self.lives.deaths_in_a_row >= limits::MANAGER_SAFE_AFTER,
            last_order: self.last_order,
            note: self.note.clone(),
            is_first: !self.may_have_orphans && !self.lives.has_served && self.lives.deaths == 0,
        };
        self.tell_manager(&hello, Vec::new());
        let ids: Vec<LaunchId> = self.launches.keys().copied().collect();
        ids.into_iter().for_each(|id| self.tell_launch(id));
        self.tell_stored();
        for (number, signal) in self.untaken_signals.clone() {
            self.tell_manager(&FromKeeper::Signal { signal, number }, Vec::new());
        }
        // An upgrade that an earlier manager asked for, and of which nothing is known here, is not under way.
        let is_told = self.note.as_deref().and_then(upgrade::outcome).is_some();
        // The first manager of a keeper knows that by itself.
        if self.lives.has_served && matches!(self.upgrade, Upgrade::No) && !is_told {
            let why = "ringriftd died meanwhile, and the keeper knows of no upgrade: ask again".to_owned();
            self.tell_manager(&FromKeeper::UpgradeRefused { why }, Vec::new());
        }
        self.tell_manager(&FromKeeper::Inventoried, Vec::new());
    }

    /// The manager said something: it lives.
    pub fn on_manager_word(&mut self) {
        if let Attention::Serving { .. } | Attention::Asked { .. } = self.lives.attention {
            self.await_word();
        }
    }

    /// The manager serves.
    pub fn on_manager_serves(&mut self) {
        if self.phase.is_ending() {
            return;
        }
        self.phase = Phase::Serving;
        if !self.lives.has_served && self.may_have_orphans {
            self.name_orphans_at = Some(Instant::now() + self.config.adopt_window);
        }
        if !self.lives.has_served {
            // What lives has been adopted by now.
            let notify = self.launches.values().filter_map(|held| held.notify.as_ref());
            let held = notify.map(Notify::path).collect();
            sockets::remove_dead(&self.machine.runtime_dir, &held);
            let graves = self.graves.iter().map(|grave| grave.leaf.path());
            let leaves = self.launches.values().filter_map(|held| held.leaf.as_ref());
            let held = leaves.map(Leaf::path).chain(graves).collect();
            self.roots().for_each(|root| root.remove_empty(&held));
            self.left_behind = None;
        }
        self.lives.has_served = true;
        self.end_trial();
        self.lives.serves_since.get_or_insert_with(Instant::now);
        // One whose end of the link somebody else holds cannot be replaced, so there is nothing to find out.
        if self.manager.process.is_some() {
            self.await_word();
        }
    }

    fn await_word(&mut self) {
        let ask_at = Instant::now() + self.config.manager_bounds.silence;
        self.lives.attention = Attention::Serving { ask_at };
        self.tell_watchdog();
    }

    /// The manager's process is reaped, and its last words are read.
    pub fn on_manager_gone(&mut self) {
        let served = self.lives.serves_since.take();
        self.lives.attention = Attention::Nobody;
        let how = describe(self.manager.exit);
        match self.phase {
            // With launches in its hands already (taken over from another keeper) it is not the files that are wrong.
            Phase::Starting { .. } if self.launches.is_empty() => {
                let code = match self.manager.exit {
                    Some(Exit::Code(code)) => u8::try_from(code).unwrap_or(BUG),
                    Some(Exit::Signal { .. } | Exit::Unknown) | None => BUG,
                };
                if code == BUG {
                    say(&format!("the manager ended before it served ({how})"));
                }
                self.begin_end(code);
            }
            Phase::Starting { .. } | Phase::Serving if self.is_spawning_roles => {
                self.phase = Phase::Serving;
                // The next manager takes what it is not told of for never begun, and may begin another life of the unit.
                self.settle_forks("the manager ended meanwhile");
                let has_served_for = |time| served.is_some_and(|since| since.elapsed() >= time);
                if has_served_for(self.config.manager_bounds.stable) {
                    self.lives.deaths_in_a_row = 0;
                }
                if has_served_for(self.config.manager_bounds.steady) {
                    self.lives.step = 0;
                }
                self.on_trial_death(&how);
                self.lives.deaths = self.lives.deaths.saturating_add(1);
                // SIGKILL from outside says nothing of the state that the manager works with, once that was good enough
                // to serve with.
                let is_murdered = matches!(
                    self.manager.exit,
                    Some(Exit::Signal {
                        signal: libc::SIGKILL,
                        ..
                    })
                );
                if served.is_none() || !is_murdered || self.lives.was_hung {
                    self.lives.deaths_in_a_row = self.lives.deaths_in_a_row.saturating_add(1);
                }
                self.lives.was_hung = false;
                if is_murdered && served.is_some() {
                    // Whoever kills it is not helped by waiting longer and longer.
                    self.lives.step = self.lives.step.min(limits::MANAGER_MURDERED_STEPS);
                }
                let delay = self.begin_manager_back_off();
                let when = if delay.is_zero() {
                    "now".to_owned()
                } else {
                    format!("in {} ms", delay.as_millis())
                };
                let mut text =
                    format!("the manager ended unasked ({how}); it starts again {when}, no unit is touched");
                if self.lives.deaths_in_a_row >= limits::MANAGER_SAFE_AFTER {
                    text.push_str(", in safe mode: it keeps dying");
                }
                say(&text);
            }
            Phase::Starting { .. } | Phase::Serving => {
                say(
                    "the manager's link was closed, and nobody is here to start another: all units are killed",
                );
                self.begin_end(BUG);
            }
            Phase::Destroying { .. }
            | Phase::EndingRoles { .. }
            | Phase::Sweeping { .. }
            | Phase::Done { .. } => {}
        }
    }

    /// At once after the first death, then doubled from the first delay on.
    fn begin_manager_back_off(&mut self) -> Duration {
        let bounds = &self.config.manager_bounds;
        let delay = match self.lives.step.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1u32.checked_shl(doublings.min(16)).unwrap_or(1);
                (bounds.delay * factor).min(bounds.max_delay)
            }
        };
        self.lives.step = self.lives.step.saturating_add(1);
        self.lives.at = Some(Instant::now() + delay);
        delay
    }

    /// Starts the next manager, with a new link to the logger.
    pub fn on_manager_time(&mut self) {
        self.lives.at = None;
        if self.manager.process.is_some() {
            // The program before this one's: it was killed, and does not go.
            self.lives.at = Some(Instant::now() + limits::ROLE_REPLACE_WAIT);
            return;
        }
        let started = links::pair()
            .map_err(|e| format!("cannot make a socket pair: {e}"))
            .and_then(|(manager_peer, logger_peer)| {
                self.start_manager(&manager_peer)?;
                Ok(logger_peer)
            });
        let logger_peer: SharedFd = match started {
            Ok(peer) => peer.into(),
            Err(why) => {
                let delay = self.begin_manager_back_off();
                say(&format!("{why}; tried again in {} ms", delay.as_millis()));
                return;
            }
        };
        let until = Instant::now() + self.config.manager_bounds.start;
        self.lives.attention = Attention::Starting { until };
        // Where the logger is away too, the next one comes with a link of its own.
        self.tell_logger(&ToLogger::Peer, vec![logger_peer]);
        self.greet();
    }

    /// When the manager's silence is to be looked at.
    pub fn attention_deadline(&self) -> Option<Instant> {
        match self.lives.attention {
            Attention::Nobody => None,
            Attention::Starting { until } | Attention::Asked { until } => Some(until),
            Attention::Serving { ask_at } => Some(ask_at),
        }
    }

    /// Asks a silent manager whether it lives, and replaces one that does not answer.
    pub fn on_attention_time(&mut self, now: Instant) {
        let Some(due) = self.attention_deadline().filter(|due| *due <= now) else {
            return;
        };
        let bounds = &self.config.manager_bounds;
        // A keeper that was held up itself has not listened; neither has one whose logger takes no more.
        let is_deaf = now.duration_since(due) > limits::KEEPER_LATE
            || self.logger.link.as_ref().is_some_and(links::Link::is_full);
        match self.lives.attention {
            Attention::Nobody => {}
            Attention::Starting { .. } if is_deaf => {
                let until = now + bounds.start;
                self.lives.attention = Attention::Starting { until };
            }
            Attention::Starting { .. } => {
                let why = format!("did not serve within {:?}", bounds.start);
                self.replace_manager(&why);
            }
            Attention::Asked { .. } if !is_deaf => {
                let why = format!(
                    "did not answer for {:?}: it is hung",
                    bounds.silence + bounds.answer
                );
                self.replace_manager(&why);
            }
            Attention::Asked { .. } | Attention::Serving { .. } => {
                let until = now + bounds.answer;
                self.lives.attention = Attention::Asked { until };
                self.lives.last_nonce = self.lives.last_nonce.wrapping_add(1);
                let nonce = self.lives.last_nonce;
                self.tell_manager(&FromKeeper::Ping { nonce }, Vec::new());
            }
        }
    }

    /// Kills the manager, which `why`; the next one starts when this one is reaped.
    pub fn replace_manager(&mut self, why: &str) {
        self.lives.attention = Attention::Nobody;
        let Some(process) = self.manager.process else {
            return;
        };
        self.lives.was_hung = true;
        say(&format!(
            "the manager (pid {}) {why}; it is killed",
            process.pid()
        ));
        if let Err(e) = signal::send(process, libc::SIGKILL) {
            say(&format!("cannot kill the manager: {e}; tried again soon"));
            let until = Instant::now() + self.config.manager_bounds.answer;
            self.lives.attention = Attention::Asked { until };
        }
    }
}
