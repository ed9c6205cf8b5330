//! The ends of launches: reaping, what is left, killing it, and removing the cgroup.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::time::Instant;

use nix::sys::inotify::AddWatchFlags;
use proto::reply::Exit;

use super::cgroup::Leaf;
use super::launch::{self, Killing, Origin};
use super::proc::{self, BirthMark};
use super::state::{Grave, Keeper, say};
use super::sweep::Owners;
use super::sys;
use super::types::Proc;
use super::wire::FromKeeper;
use crate::ids::LaunchId;
use crate::limits;

/// Rounds of looking for what a launch forks while it is being killed, before the loop goes on.
const KILL_ROUNDS: usize = 16;

/// For messages: the first [`limits::REMAINS_MAX`] of them.
pub fn some_pids(processes: &[Proc]) -> Vec<u32> {
    processes
        .iter()
        .take(limits::REMAINS_MAX)
        .map(|p| p.pid_u32())
        .collect()
}

impl Keeper {
    /// Children have ended. SIGCHLD is only a hint, one for many (fault B19): all are reaped.
    pub fn on_children(&mut self) {
        let mut ended = Vec::new();
        let mut is_any = false;
        while let Some(pid) = sys::peek_ended_child() {
            is_any = true;
            let (exit, by_wait) = sys::reap_counting(pid).unwrap_or((Exit::Unknown, None));
            if self.on_role_end(pid, exit) || self.on_check_end(pid, exit) {
                continue;
            }
            if let Some(id) = self.by_pid.remove(&pid) {
                self.foreign.remove(&id);
                if let Some(held) = self.launches.get_mut(&id) {
                    held.counted.by_wait = by_wait;
                }
                ended.push((id, exit));
            }
        }
        self.on_mains_ended(&ended);
        // Without a cgroup the last process of a launch is always the keeper's own child by then.
        if is_any {
            let swept: Vec<LaunchId> = self
                .leftover
                .iter()
                .copied()
                .filter(|id| !self.has_leaf(*id))
                .collect();
            self.look_at(&swept);
        }
    }

    /// A main process that is not the keeper's child has ended. Its parent may have reaped it or not; the kernel tells how
    /// it ended in two different ways, and an older kernel, once it is reaped, in none.
    pub fn on_foreign_end(&mut self, id: LaunchId) {
        let Some(watch) = self.foreign.remove(&id) else {
            return;
        };
        let Some(held) = self.launches.get(&id) else {
            return;
        };
        let main = held.main;
        let is_ours =
            || proc::stat(main.pid()).is_ok_and(|now| now.process == main && now.ppid == self.own_pid);
        if is_ours() && sys::child_has_ended(main.pid()) {
            // Its parent went first, so it has become ours after all.
            self.on_children();
            return;
        }
        let exit = sys::pidfd_exit(watch.as_fd())
            .or_else(|| proc::zombie_exit(main))
            .or_else(|| sys::pidfd_exit(watch.as_fd()))
            .unwrap_or(Exit::Unknown);
        // Its number may be another launch's by now.
        if self.by_pid.get(&main.pid()) == Some(&id) {
            self.by_pid.remove(&main.pid());
        }
        self.on_mains_ended(&[(id, exit)]);
    }

    fn on_mains_ended(&mut self, ended: &[(LaunchId, Exit)]) {
        for (id, exit) in ended {
            if let Some(held) = self.launches.get_mut(id) {
                held.exit = Some(*exit);
            }
            self.end_zygote(*id);
        }
        let ids: Vec<LaunchId> = ended.iter().map(|(id, _)| *id).collect();
        let mut left = self.remains(&ids);
        // After all of them have ended, and once for all.
        let mut kills = None;
        for (id, exit) in ended {
            let left = left.remove(id).unwrap_or_default();
            let Some(held) = self.launches.get_mut(id) else {
                continue;
            };
            // The main process, which has just been reaped, only stands for one that may be the launch's.
            let is_guess = left == [held.main] && !self.doubted.is_empty();
            let remains = if is_guess {
                self.doubted
                    .keys()
                    .take(limits::REMAINS_MAX)
                    .map(|p| p.pid_u32())
                    .collect()
            } else {
                some_pids(&left)
            };
            held.left = left;
            held.told_left.clone_from(&remains);
            // Only after SIGKILL does anybody ask whether the kernel sent it.
            let count = || match exit {
                Exit::Signal {
                    signal: libc::SIGKILL,
                    ..
                } => *kills.get_or_insert_with(|| self.machine.kills.now()),
                _ => None,
            };
            let used = held.counted.end(held.leaf.as_ref().map(Leaf::path), count);
            if remains.is_empty() {
                self.clear_up(*id);
            }
            self.tell_manager(
                &FromKeeper::Exited {
                    id: *id,
                    exit: *exit,
                    remains: remains.clone(),
                    used,
                },
                Vec::new(),
            );
            if remains.is_empty() {
                self.on_over(*id);
            } else {
                self.leftover.insert(*id);
                self.watch(*id);
                if self.is_untold(id) {
                    self.look_soon();
                }
            }
        }
    }

    /// Nobody tells when the last process of it ends: it is no child of the keeper's, and in no cgroup.
    fn is_untold(&self, id: &LaunchId) -> bool {
        self.launches
            .get(id)
            .is_some_and(|held| held.leaf.is_none() && held.origin != Origin::Launched)
    }

    fn has_leaf(&self, id: LaunchId) -> bool {
        self.launches.get(&id).is_some_and(|held| held.leaf.is_some())
    }

    /// What is left of these. A launch is called empty only when the kernel says so, or a picture of /proc in
    /// which nobody can be missing.
    fn remains(&mut self, ids: &[LaunchId]) -> BTreeMap<LaunchId, Vec<Proc>> {
        let mut found = BTreeMap::new();
        let mut is_sweep_needed = false;
        for id in ids {
            let Some(held) = self.launches.get(id) else {
                continue;
            };
            match &held.leaf {
                Some(leaf) => {
                    found.insert(*id, in_leaf(leaf, held.main));
                }
                None => is_sweep_needed = true,
            }
        }
        if is_sweep_needed {
            let mut look = self.look();
            let mut is_sure = look.is_complete && !self.is_in_doubt(&look.owners.doubtful);
            let mut swept = std::mem::take(&mut look.owners.found);
            // One picture of a moving /proc is not enough to call a launch empty: two have to agree.
            let is_missing = |id: &LaunchId| !found.contains_key(id) && !swept.contains_key(id);
            if is_sure && ids.iter().any(is_missing) {
                let again = self.look();
                is_sure = again.is_complete && !self.is_in_doubt(&again.owners.doubtful);
                for (id, processes) in again.owners.found {
                    swept.entry(id).or_insert(processes);
                }
            }
            for id in ids {
                let Some(held) = self.launches.get(id) else {
                    continue;
                };
                // An orphan waits to be reaped, which is the next occasion to look, or nobody knows yet whose it is,
                // and a timer runs: until then its launch may not be empty, and the main process stands for it.
                let unknown = if is_sure { Vec::new() } else { vec![held.main] };
                let processes = swept.remove(id).unwrap_or(unknown);
                found.entry(*id).or_insert(processes);
            }
        }
        found
    }

    /// Somebody's processes are among these, and whose cannot be told yet. For a bounded time only: one that really
    /// emptied its environment never tells.
    fn is_in_doubt(&mut self, doubtful: &[Proc]) -> bool {
        let now = Instant::now();
        self.doubted.retain(|process, _| doubtful.contains(process));
        for process in doubtful {
            self.doubted.entry(*process).or_insert(now);
        }
        let is_in_doubt = self
            .doubted
            .values()
            .any(|since| now.duration_since(*since) < limits::KEEPER_DOUBT);
        if is_in_doubt {
            self.look_soon();
        }
        is_in_doubt
    }

    /// Looks again at launches of which something was left.
    pub fn look_at(&mut self, ids: &[LaunchId]) {
        let ids: Vec<LaunchId> = ids
            .iter()
            .copied()
            .filter(|id| self.leftover.contains(id))
            // While one that was proven is there, there is no need to look at all of /proc.
            .filter(|id| {
                self.has_leaf(*id) || !self.launches.get(id).is_some_and(|h| h.left.iter().any(is_there))
            })
            .collect();
        if ids.is_empty() {
            return;
        }
        for (id, left) in self.remains(&ids) {
            let is_empty = left.is_empty();
            if let Some(held) = self.launches.get_mut(&id) {
                held.left = left;
            }
            if is_empty {
                self.leftover.remove(&id);
                self.unwatch(id);
                self.clear_up(id);
                self.tell_manager(&FromKeeper::Emptied { id }, Vec::new());
                self.on_over(id);
            }
        }
    }

    /// Takes away what the file system shows of an empty launch, before the manager hears that nothing is left: whoever
    /// then looks finds nothing.
    fn clear_up(&mut self, id: LaunchId) {
        let Some(held) = self.launches.get_mut(&id) else {
            return;
        };
        held.notify = None;
        if let Some(leaf) = held.leaf.take() {
            self.bury(leaf);
        }
    }

    fn on_over(&mut self, id: LaunchId) {
        self.killing.remove(&id);
        let Some(held) = self.launches.get_mut(&id) else {
            return;
        };
        held.killing = None;
        if held.is_released {
            self.forget(id);
        }
    }

    /// SIGKILL to all of these, until nothing is left.
    pub fn destroy(&mut self, ids: &[LaunchId]) {
        let now = Instant::now();
        let mut targets = BTreeSet::new();
        for id in ids {
            if let Some(held) = self.launches.get_mut(id)
                && !held.is_over()
            {
                held.killing.get_or_insert_with(|| Killing::begin(now));
                self.killing.insert(*id);
                targets.insert(*id);
            }
        }
        self.kill(&targets);
    }

    fn kill(&self, ids: &BTreeSet<LaunchId>) {
        let mut open = Vec::new();
        for id in ids {
            let Some(held) = self.launches.get(id) else {
                continue;
            };
            let is_killed = held.leaf.as_ref().is_some_and(Leaf::kill);
            if !is_killed {
                open.push(*id);
            }
        }
        // What forks faster than it is found is found in the next round: each one killed forks no more.
        let mut killed = BTreeSet::new();
        for _ in 0..KILL_ROUNDS {
            if open.is_empty() {
                return;
            }
            let mut owners = if open.iter().any(|id| !self.has_leaf(*id)) {
                self.look().owners
            } else {
                Owners::default()
            };
            let mut fresh = Vec::new();
            for id in &open {
                let processes = match self.launches.get(id).and_then(|held| held.leaf.as_ref()) {
                    Some(leaf) => leaf.processes(),
                    None => owners.found.remove(id).unwrap_or_default(),
                };
                fresh.extend(processes.into_iter().filter(|process| killed.insert(*process)));
            }
            launch::kill_each(&fresh);
            // What was missing in the picture altogether may be found so.
            let is_caught = self.chase(&open);
            if fresh.is_empty() && owners.doubtful.is_empty() && !is_caught {
                return;
            }
        }
    }

    /// SIGKILL to what lives too shortly for a picture of /proc: a chain of processes of which each starts the next and ends.
    /// Its first living link is an orphan, which is a child of this process, and of those the kernel has a list. Unlike in a
    /// picture, little time goes by between seeing one and signalling it. True when there was one.
    fn chase(&self, ids: &[LaunchId]) -> bool {
        let marks: BTreeSet<(&str, &str)> = ids
            .iter()
            .filter_map(|id| self.launches.get(id))
            .filter(|held| held.leaf.is_none())
            .map(|held| (held.invocation.as_str(), held.role.as_str()))
            .collect();
        if marks.is_empty() {
            return false;
        }
        let mut is_caught = false;
        let roles = self.role_pids();
        let until = Instant::now() + limits::CHASE_TIME;
        loop {
            let mut is_seen = false;
            for pid in proc::children(self.own_pid) {
                if self.by_pid.contains_key(&pid) || roles.contains(&pid) {
                    continue;
                }
                let Ok(stat) = proc::stat(pid) else { continue };
                // One that is dead shows no environment either, and waits to be reaped.
                if stat.is_dead() {
                    continue;
                }
                match proc::birth_mark(pid) {
                    BirthMark::Ours { invocation, role }
                        if marks.contains(&(invocation.as_str(), role.as_str())) =>
                    {
                        is_seen = true;
                        is_caught = true;
                        kill_family(stat.process);
                    }
                    // In the middle of execve(2).
                    BirthMark::Empty => is_seen = true,
                    BirthMark::Ours { .. } | BirthMark::Other => {}
                }
            }
            if !is_seen || Instant::now() >= until {
                return is_caught;
            }
        }
    }

    /// Kills again where it is time, and says where it does not help.
    pub fn on_kill_time(&mut self, now: Instant) {
        let due: Vec<LaunchId> = self
            .killing
            .iter()
            .copied()
            .filter(|id| self.is_kill_due(*id, now))
            .collect();
        if due.is_empty() {
            return;
        }
        self.look_at(&due);
        let due: BTreeSet<LaunchId> = due.into_iter().filter(|id| self.killing.contains(id)).collect();
        self.kill(&due);
        for id in due {
            let Some(held) = self.launches.get_mut(&id) else {
                continue;
            };
            let Some(killing) = &mut held.killing else {
                continue;
            };
            killing.again = now + limits::KILL_AGAIN;
            if killing.complain <= now {
                killing.complain = now + limits::KILL_TIMEOUT;
                let remains = some_pids(&self.processes(id));
                self.tell_manager(&FromKeeper::Unkillable { id, remains }, Vec::new());
            }
        }
    }

    fn is_kill_due(&self, id: LaunchId, now: Instant) -> bool {
        let killing = self.launches.get(&id).and_then(|held| held.killing);
        killing.is_some_and(|killing| killing.again <= now)
    }

    /// Has the kernel tell when a leaf becomes empty, or a timer look.
    pub fn watch(&mut self, id: LaunchId) {
        let Some(leaf) = self.launches.get(&id).and_then(|held| held.leaf.as_ref()) else {
            return;
        };
        let events = leaf.events();
        let watch = self
            .inotify
            .as_ref()
            .and_then(|i| i.add_watch(&events, AddWatchFlags::IN_MODIFY).ok());
        match watch {
            Some(watch) => {
                self.watches.insert(watch, id);
                // It may have become empty before it was watched.
                self.look_at(&[id]);
            }
            None => self.look_soon(),
        }
    }

    /// A leaf is watched no longer.
    pub fn unwatch(&mut self, id: LaunchId) {
        let Some(watch) = self
            .watches
            .iter()
            .find(|(_, watched)| **watched == id)
            .map(|(w, _)| *w)
        else {
            return;
        };
        self.watches.remove(&watch);
        if let Some(inotify) = &self.inotify {
            let _ = inotify.rm_watch(watch);
        }
    }

    /// Leaves have changed.
    pub fn on_leaf_events(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut ids = BTreeSet::new();
        let mut is_overrun = false;
        while let Ok(events) = inotify.read_events() {
            for event in events {
                is_overrun |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                ids.extend(self.watches.get(&event.wd).copied());
            }
        }
        let ids: Vec<LaunchId> = if is_overrun {
            self.leftover.iter().copied().collect()
        } else {
            ids.into_iter().collect()
        };
        self.look_at(&ids);
    }

    /// Removes a leaf, now or soon: the kernel may count a process for a moment after it was reaped.
    pub fn bury(&mut self, leaf: Leaf) {
        if !leaf.remove() {
            self.graves.push(Grave { leaf, tries: 1 });
            self.look_soon();
        }
    }

    /// Looks again in a moment.
    pub fn look_soon(&mut self) {
        self.look_again
            .get_or_insert_with(|| Instant::now() + limits::KEEPER_LOOK_AGAIN);
    }

    /// Looks again at what the kernel would not tell.
    pub fn on_look_again(&mut self) {
        self.look_again = None;
        for mut grave in std::mem::take(&mut self.graves) {
            if grave.leaf.remove() {
                continue;
            }
            grave.tries += 1;
            if grave.tries > limits::CGROUP_REMOVE_TRIES {
                say(&format!(
                    "cannot remove the cgroup {}: it is busy",
                    grave.leaf.events().display()
                ));
            } else {
                self.graves.push(grave);
            }
        }
        let watched: BTreeSet<LaunchId> = self.watches.values().copied().collect();
        let blind: Vec<LaunchId> = self
            .leftover
            .iter()
            .copied()
            .filter(|id| !self.has_leaf(*id) || !watched.contains(id))
            .collect();
        self.look_at(&blind);
        // Without a cgroup, a process that is left tells by its end: only doubt needs the timer, and asks for it itself.
        let is_blind =
            |id: &LaunchId| self.leftover.contains(id) && (self.has_leaf(*id) || self.is_untold(id));
        if !self.graves.is_empty() || blind.iter().any(is_blind) {
            self.look_soon();
        }
    }
}

/// SIGKILL to a process, and then to what it has started: with SIGKILL on its way it can start nobody any more (fork(2) is
/// refused then), so that its list of children is whole. Where it vanishes first, they are orphans.
fn kill_family(first: Proc) {
    let mut open = vec![first];
    for _ in 0..limits::CHASE_FAMILY {
        let Some(parent) = open.pop() else { return };
        launch::kill_each(&[parent]);
        let children = proc::children(parent.pid()).into_iter();
        let theirs = children.filter_map(|pid| proc::stat(pid).ok().filter(|stat| stat.ppid == parent.pid()));
        open.extend(theirs.filter(|stat| !stat.is_dead()).map(|stat| stat.process));
    }
}

/// Who is in a leaf; empty only when the kernel counts nobody. Where it counts somebody who cannot be caught (lives too
/// short to be looked up, or has just been reaped), the main process stands for that one: the kernel tells when the
/// leaf is empty.
fn in_leaf(leaf: &Leaf, main: Proc) -> Vec<Proc> {
    for _ in 0..3 {
        if !leaf.is_populated() {
            return Vec::new();
        }
        let found = leaf.processes();
        if !found.is_empty() {
            return found;
        }
    }
    vec![main]
}

fn is_there(process: &Proc) -> bool {
    proc::stat(process.pid()).is_ok_and(|now| now.process == *process && !now.is_dead())
}
