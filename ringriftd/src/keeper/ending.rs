//! The keeper's own end, in this order: the launches, the roles, whoever else is below it, the socket, the cgroups.
//! Each step is bounded; what outlives its bound is named and left.

use std::time::Instant;

use super::launch::{Containment, kill_each};
use super::over::some_pids;
use super::state::{Attention, Keeper, Phase, say};
use super::sweep::Picture;
use super::types::Proc;
use super::wire::ToLogger;
use super::{cgroup, proc, seed, sys};
use crate::ids::LaunchId;
use crate::limits;

impl Keeper {
    /// Ends everything; the loop then returns `code`. Asked twice, the first code stays.
    pub fn begin_end(&mut self, code: u8) {
        if self.phase.is_ending() {
            return;
        }
        self.logger_restarts.at = None;
        self.lives.at = None;
        self.name_orphans_at = None;
        self.lives.attention = Attention::Nobody;
        self.drop_forks();
        let until = Instant::now() + limits::KILL_TIMEOUT;
        self.phase = Phase::Destroying { code, until };
        let ids: Vec<LaunchId> = self.launches.keys().copied().collect();
        self.destroy(&ids);
        self.step_end();
    }

    /// Goes on to the next phase where the present one is done or its time is up.
    pub fn step_end(&mut self) {
        let now = Instant::now();
        loop {
            match self.phase {
                Phase::Starting { .. } | Phase::Serving | Phase::Done { .. } => return,
                Phase::Destroying { code, until } => {
                    let is_left = self.launches.values().any(|held| !held.is_over());
                    if is_left && now < until {
                        return;
                    }
                    if is_left {
                        self.name_the_unkillable();
                    }
                    let ids: Vec<LaunchId> = self.launches.keys().copied().collect();
                    ids.into_iter().for_each(|id| self.forget(id));
                    self.tell_logger(&ToLogger::End, Vec::new());
                    let until = now + limits::ROLE_END_TIMEOUT;
                    self.phase = Phase::EndingRoles {
                        code,
                        until,
                        is_killed: false,
                    };
                }
                Phase::EndingRoles {
                    code,
                    until,
                    is_killed,
                } => {
                    let is_gone = self.manager.is_gone() && self.logger.is_gone();
                    if !is_gone && now < until {
                        return;
                    }
                    if !is_gone && !is_killed {
                        self.kill_roles();
                        let until = now + limits::ROLE_END_TIMEOUT;
                        self.phase = Phase::EndingRoles {
                            code,
                            until,
                            is_killed: true,
                        };
                        return;
                    }
                    let until = now + limits::KILL_TIMEOUT;
                    self.phase = Phase::Sweeping {
                        code,
                        until,
                        again: now,
                    };
                }
                Phase::Sweeping { code, until, again } => {
                    if sys::is_childless() || now >= until {
                        self.phase = Phase::Done { code };
                        return;
                    }
                    if now < again {
                        return;
                    }
                    if let Ok(picture) = Picture::take() {
                        kill_each(&picture.below(self.own_pid, &[]));
                    }
                    self.phase = Phase::Sweeping {
                        code,
                        until,
                        again: now + limits::KILL_AGAIN,
                    };
                    return;
                }
            }
        }
    }

    fn name_the_unkillable(&self) {
        for (id, held) in self.launches.iter().filter(|(_, held)| !held.is_over()) {
            let mut left = self.processes(*id);
            if left.is_empty() {
                left.push(held.main);
            }
            let (unit, pids) = (&held.invocation, some_pids(&left));
            say(&format!(
                "cannot kill {pids:?} of launch {id} (invocation {unit}): they are left"
            ));
        }
    }

    fn kill_roles(&mut self) {
        for (word, role) in [("manager", &mut self.manager), ("logger", &mut self.logger)] {
            if let Some(process) = role.process {
                say(&format!("the {word} did not end: it is killed"));
                kill_each(&[process]);
            }
            role.link = None;
        }
    }

    /// The next moment at which a phase wants to be looked at.
    pub fn phase_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Starting { until }
            | Phase::Destroying { until, .. }
            | Phase::EndingRoles { until, .. } => Some(until),
            Phase::Sweeping { until, again, .. } => Some(until.min(again)),
            Phase::Serving | Phase::Done { .. } => None,
        }
    }

    /// The manager took too long to serve.
    pub fn on_start_timeout(&mut self) {
        let time = self.config.manager_bounds.start;
        if !self.launches.is_empty() {
            // They were taken over from another keeper: its successor is for them.
            self.phase = Phase::Serving;
            self.replace_manager(&format!("did not serve within {time:?}"));
            return;
        }
        say(&format!(
            "the manager did not serve within {time:?}: it is killed"
        ));
        if let Some(process) = self.manager.process {
            kill_each(&[process]);
        }
        self.begin_end(super::roles::BUG);
    }

    /// After the loop: takes away what has a name.
    pub fn clean_up(&mut self) {
        let _ = std::fs::remove_file(&self.control_path);
        seed::forget(&self.config.runtime_dir);
        self.close_door();
        self.graves.retain(|grave| !grave.leaf.remove());
        if let Containment::Cgroup(root) = &self.machine.containment {
            let until = Instant::now() + limits::ROLE_END_TIMEOUT;
            // Leaves of lives before this keeper's may be there still.
            while !root.remove() && !cgroup::remove_left(root.path()) {
                if Instant::now() >= until {
                    say(&format!(
                        "cannot remove the cgroup {}: it is busy",
                        root.path().display()
                    ));
                    break;
                }
                // Nobody is served any more; the kernel needs a moment to forget the dead.
                let _ = nix::poll::poll(&mut [], 10u8);
            }
        }
        if let Ok(picture) = Picture::take() {
            let left: Vec<Proc> = picture.below(self.own_pid, &[]);
            let left: Vec<Proc> = left.into_iter().filter(|p| proc::stat(p.pid()).is_ok()).collect();
            if !left.is_empty() {
                say(&format!(
                    "these processes could not be killed and are left: {:?}",
                    some_pids(&left)
                ));
            }
        }
    }
}
