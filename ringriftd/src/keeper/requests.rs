//! What the manager and the logger ask of the keeper.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::child::Failure;
use super::launch::{Held, Made};
use super::sockets;
use super::state::{Keeper, say};
use super::sweep::{Owners, Picture};
use super::types::Proc;
use super::wire::{FromKeeper, FromLogger, Launch, ToKeeper, ToLogger};
use super::zygote::Zygote;
use super::{lock, proc, signal, sys};
use crate::ids::{LaunchId, Scope};

/// What one picture of /proc says.
#[derive(Debug, Default)]
pub struct Look {
    /// Whose the processes are.
    pub owners: Owners,
    /// Nobody can be missing in it.
    pub is_complete: bool,
}

impl Keeper {
    /// A request of the manager.
    pub fn on_request(&mut self, request: ToKeeper, fds: Vec<OwnedFd>) {
        self.on_manager_word();
        match request {
            ToKeeper::Serving => self.on_manager_serves(),
            ToKeeper::Launch(launch) => self.on_launch(&launch),
            ToKeeper::Signal {
                id,
                signal,
                scope,
                order,
            } => {
                if order > self.last_order {
                    self.last_order = order;
                    self.on_signal_request(id, signal, scope);
                }
            }
            ToKeeper::Destroy { id } => {
                if !self.cancel_fork(id) {
                    self.destroy(&[id]);
                }
            }
            ToKeeper::FindMain { id, pid } => match self.find_main(id, pid) {
                Ok(main) => {
                    let (pid, start_time) = (main.pid_u32(), main.start());
                    self.tell_manager(&FromKeeper::MainFound { id, pid, start_time }, Vec::new());
                }
                Err(why) => self.tell_manager(&FromKeeper::MainMissing { id, why }, Vec::new()),
            },
            ToKeeper::Release { id } => self.on_release(id),
            ToKeeper::Announce { text } => self.on_announce(&text),
            ToKeeper::Ping { nonce } => self.tell_manager(&FromKeeper::Pong { nonce }, Vec::new()),
            ToKeeper::SignalTaken { number } => {
                self.untaken_signals.retain(|(untaken, _)| *untaken != number);
            }
            ToKeeper::Adopt(adopt) => self.on_adopt(&adopt),
            ToKeeper::Pong { .. } => {}
            ToKeeper::Relisten => self.on_relisten(),
            ToKeeper::NoteTaken => self.note = None,
            ToKeeper::End { code } => self.begin_end(code),
            ToKeeper::Upgrade => self.on_upgrade(fds),
            ToKeeper::SetMain { id, pid } => match self.set_main(id, pid) {
                Ok(main) => {
                    let (pid, start_time) = (main.pid_u32(), main.start());
                    self.tell_manager(&FromKeeper::MainFound { id, pid, start_time }, Vec::new());
                }
                Err(why) => self.tell_manager(&FromKeeper::MainMissing { id, why }, Vec::new()),
            },
            ToKeeper::Store {
                tag,
                name,
                is_polled,
                most,
            } => self.on_store(&tag, &name, is_polled, most, fds),
            ToKeeper::Unstore { tag, name } => self.on_unstore(&tag, name.as_deref()),
            ToKeeper::Http { place } => self.on_http(place),
        }
    }

    /// A word of the logger's.
    pub fn on_logger_word(&mut self, word: FromLogger) {
        match word {
            FromLogger::Ready => {}
            FromLogger::Closed { id } => {
                self.draining.remove(&id);
                if let Some(held) = self.launches.get_mut(&id) {
                    held.pipe = None;
                }
            }
        }
    }

    /// A signal to the whole daemon: kept until a manager has taken it.
    pub fn pass_on_signal(&mut self, signal: i32) {
        if self.untaken_signals.iter().any(|(_, untaken)| *untaken == signal) && self.manager.link.is_none() {
            return;
        }
        self.last_signal += 1;
        let number = self.last_signal;
        // One of a kind is enough: who takes the last has taken those before it. So no flood of one pushes another out.
        self.untaken_signals.retain(|(_, untaken)| *untaken != signal);
        self.untaken_signals.push_back((number, signal));
        self.tell_manager(&FromKeeper::Signal { signal, number }, Vec::new());
    }

    fn on_launch(&mut self, launch: &Launch) {
        let id = launch.id;
        if self.launches.contains_key(&id) {
            self.tell_launch(id);
            return;
        }
        if self.phase.is_ending() || self.is_coming(id) {
            return;
        }
        let failed = |Failure { stage, errno }| FromKeeper::LaunchFailed { id, stage, errno };
        let made = match self.machine.make(launch, &self.store) {
            Ok(made) => made,
            Err(failure) => return self.tell_manager(&failed(failure), Vec::new()),
        };
        // Before it runs: should this process die the moment after, its output still has a reader, and what it says of
        // itself an ear.
        let (open, ends) = made.pipe().open(id);
        self.tell_logger(&open, ends);
        let ears = made.ears();
        let has_ears = !ears.is_empty();
        if has_ears {
            self.tell_manager(&FromKeeper::Launching { id }, ears);
        }
        match launch.fork {
            Some(fork) => self.begin_fork(launch, made, fork),
            None => self.run_made(launch, made),
        }
    }

    /// Executes what was made.
    pub fn run_made(&mut self, launch: &Launch, mut made: Made) {
        let id = launch.id;
        let zygote = made.take_zygote();
        match self.machine.start(launch, made) {
            Ok(held) => {
                if let Some(link) = zygote {
                    let identity = launch.identity.clone();
                    let zygote = Zygote::new(link, false, identity, launch.no_new_privs);
                    self.zygotes.add(id, zygote);
                }
                self.take_in(id, held);
            }
            Err(Failure { stage, errno }) => {
                self.tell_logger(&ToLogger::Close { id }, Vec::new());
                self.tell_manager(&FromKeeper::LaunchFailed { id, stage, errno }, Vec::new());
            }
        }
    }

    /// A launch runs.
    pub fn take_in(&mut self, id: LaunchId, held: Held) {
        self.by_pid.insert(held.main.pid(), id);
        let (pid, start_time) = (held.main.pid_u32(), held.main.start());
        self.launches.insert(id, held);
        let launched = FromKeeper::Launched {
            id,
            pid,
            start_time,
            is_deaf: false,
        };
        self.tell_manager(&launched, Vec::new());
    }

    /// Tells what a launch has come to: that it was launched (with its main process of now), how that one ended, and that
    /// nothing is left, as far as that is so.
    pub fn tell_launch(&mut self, id: LaunchId) {
        let Some(held) = self.launches.get(&id) else {
            return;
        };
        let (pid, start_time) = (held.main.pid_u32(), held.main.start());
        let is_over = held.is_over();
        let remains = if is_over {
            held.told_left.clone()
        } else {
            super::over::some_pids(&held.left)
        };
        let (exit, fds, is_deaf) = (held.exit, held.attached(), held.is_deaf);
        let used = held.counted.used.unwrap_or_default();
        if let Some(why) = self.zygotes.unforked(id).cloned() {
            self.tell_manager(&FromKeeper::Unforked { id, why }, Vec::new());
        }
        let launched = FromKeeper::Launched {
            id,
            pid,
            start_time,
            is_deaf,
        };
        self.tell_manager(&launched, fds);
        let Some(exit) = exit else { return };
        let was_anything_left = !remains.is_empty();
        let exited = FromKeeper::Exited {
            id,
            exit,
            remains,
            used,
        };
        self.tell_manager(&exited, Vec::new());
        if is_over && was_anything_left {
            self.tell_manager(&FromKeeper::Emptied { id }, Vec::new());
        }
    }

    /// The control socket has lost its name: another takes its place, for this manager and for those to come.
    fn on_relisten(&mut self) {
        // It takes its name away itself when it ends.
        if self.phase.is_ending() {
            return;
        }
        let path = self.control_path.display().to_string();
        let made = lock::make_folder(&self.config.runtime_dir).and_then(|()| {
            sockets::control(&self.control_path)
                .and_then(|made| Ok((made.try_clone()?, made)))
                .map_err(|e| e.to_string())
        });
        match made {
            Ok((copy, made)) => {
                say(&format!("{path} was removed by somebody, and is made again"));
                self.control = made;
                self.tell_manager(&FromKeeper::Listener, vec![copy.into()]);
            }
            Err(why) => say(&format!(
                "{path} was removed by somebody, and cannot be made again: {why}"
            )),
        }
    }

    fn on_signal_request(&mut self, id: LaunchId, signal: i32, scope: Scope) {
        let Some(held) = self.launches.get(&id) else {
            return;
        };
        let own = self.own_main(id);
        let targets = match scope {
            Scope::Main if held.exit.is_some() => return,
            Scope::Main => vec![held.main],
            Scope::All => self.processes_beside(id, own),
        };
        if let Err(e) = signal::send_all(&targets, own, signal) {
            say(&format!("cannot send signal {signal} to all of launch {id}: {e}"));
        }
    }

    fn find_main(&mut self, id: LaunchId, pid: Option<u32>) -> Result<Proc, String> {
        let held = self.launches.get(&id).ok_or("the launch is over")?;
        if held.exit.is_none() {
            // Asked again by a manager that did not hear the answer: the same answer.
            let is_found = held.main != held.leader && pid.is_none_or(|pid| pid == held.main.pid_u32());
            return if is_found {
                Ok(held.main)
            } else {
                Err("the process that was launched still runs".to_owned())
            };
        }
        let found = self.processes(id);
        let main = match pid {
            Some(pid) => {
                let named = found.iter().copied().find(|p| p.pid_u32() == pid);
                named.ok_or_else(|| format!("process {pid} does not belong to the unit, or has ended"))?
            }
            None => match found.as_slice() {
                [] => return Err("no process is left".to_owned()),
                [only] => *only,
                several => return Err(format!("{} processes are left, and none is named", several.len())),
            },
        };
        self.watch_main(id, main)?;
        self.unwatch(id);
        self.leftover.remove(&id);
        self.by_pid.insert(main.pid(), id);
        if let Some(held) = self.launches.get_mut(&id) {
            held.main = main;
            held.exit = None;
            held.left = found;
        }
        Ok(main)
    }

    /// A unit's own word for which of its processes is the main one. Also after the one before ended, as long as the manager
    /// was not told that nothing is left: who hands over ends at once.
    fn set_main(&mut self, id: LaunchId, pid: u32) -> Result<Proc, String> {
        let held = self.launches.get(&id).ok_or("the launch is over")?;
        let (old, has_exited) = (held.main, held.exit.is_some());
        if !has_exited && old.pid_u32() == pid {
            return Ok(old);
        }
        if held.killing.is_some() {
            return Err("all of the unit is being killed".to_owned());
        }
        let found = self.processes(id);
        let named = found.iter().copied().find(|p| p.pid_u32() == pid);
        let main = named.ok_or_else(|| format!("process {pid} does not belong to the unit, or has ended"))?;
        // What watches the one before stays until the new one is watched: its end must not be missed.
        let before = self.foreign.remove(&id);
        if let Err(why) = self.watch_main(id, main) {
            if let Some(watch) = before {
                self.foreign.insert(id, watch);
            }
            return Err(why);
        }
        self.unwatch(id);
        self.leftover.remove(&id);
        // From here on its end is one of any process of the unit.
        if self.by_pid.get(&old.pid()) == Some(&id) {
            self.by_pid.remove(&old.pid());
        }
        self.by_pid.insert(main.pid(), id);
        if let Some(held) = self.launches.get_mut(&id) {
            held.main = main;
            held.exit = None;
            held.left = found;
        }
        Ok(main)
    }

    /// The end of a launch's main process is seen from now on, whoever is its parent.
    pub fn watch_main(&mut self, id: LaunchId, main: Proc) -> Result<(), String> {
        let ended = || "it has just ended".to_owned();
        let stat = proc::stat(main.pid()).map_err(|_| ended())?;
        if stat.ppid != self.own_pid {
            // Another process will reap it, unless that one ends first: the pidfd tells its end in either case.
            let watch = sys::pidfd_open(main.pid()).map_err(|e| format!("it cannot be watched: {e}"))?;
            if !proc::stat(main.pid()).is_ok_and(|now| now.process == main) {
                return Err(ended());
            }
            self.foreign.insert(id, watch);
        }
        Ok(())
    }

    fn on_release(&mut self, id: LaunchId) {
        self.cancel_fork(id);
        let Some(held) = self.launches.get_mut(&id) else {
            return;
        };
        if held.is_over() {
            self.forget(id);
            return;
        }
        // The manager is mistaken, or does not care for what is left: nothing is left behind by that.
        held.is_released = true;
        self.destroy(&[id]);
    }

    /// Nothing of it is left, and nobody asks for it any more.
    pub fn forget(&mut self, id: LaunchId) {
        self.zygotes.forget(id);
        self.unwatch(id);
        self.leftover.remove(&id);
        self.killing.remove(&id);
        self.foreign.remove(&id);
        let Some(held) = self.launches.remove(&id) else {
            return;
        };
        if let Some(leaf) = held.leaf {
            self.bury(leaf);
        }
        if let Some(pipe) = held.pipe {
            self.tell_logger(&ToLogger::Close { id }, Vec::new());
            if self.logger.link.is_some() || self.logger_restarts.at.is_some() {
                self.draining.insert(id, pipe);
            }
        }
    }

    /// Says `text` to the service manager above, if there is one.
    pub fn on_announce(&mut self, text: &str) {
        if let Some(address) = &self.outer
            && let Err(e) = sockets::announce(address, text)
        {
            say(&format!(
                "cannot tell the service manager at {}: {e}",
                address.display()
            ));
        }
    }

    /// The launch's main process, where it is a child of the keeper's that was not reaped: nobody else can have its number.
    fn own_main(&self, id: LaunchId) -> Option<Proc> {
        let held = self.launches.get(&id)?;
        let is_own = held.exit.is_none()
            && self.by_pid.get(&held.main.pid()) == Some(&id)
            && !self.foreign.contains_key(&id)
            && sys::is_child(held.main.pid());
        is_own.then_some(held.main)
    }

    /// Every living process of a launch that can be proven to belong to it.
    pub fn processes(&self, id: LaunchId) -> Vec<Proc> {
        self.processes_beside(id, self.own_main(id))
    }

    /// Likewise; `own` is what [`Self::own_main`] said.
    fn processes_beside(&self, id: LaunchId, own: Option<Proc>) -> Vec<Proc> {
        let Some(held) = self.launches.get(&id) else {
            return Vec::new();
        };
        match &held.leaf {
            Some(leaf) => leaf.processes_beside(own),
            None => self.sweep().remove(&id).unwrap_or_default(),
        }
    }

    /// The living processes of every launch, by the sweep.
    pub fn sweep(&self) -> BTreeMap<LaunchId, Vec<Proc>> {
        self.look().owners.found
    }

    /// One picture of /proc, and what it proves.
    pub fn look(&self) -> Look {
        let claims: Vec<_> = self.launches.iter().map(|(id, held)| held.claim(*id)).collect();
        match Picture::take() {
            Ok(picture) => {
                let roles = self.role_pids();
                // A dead main process is another launch's, and is told for itself.
                let is_orphan = |pid: i32| !self.by_pid.contains_key(&pid) && !roles.contains(&pid);
                Look {
                    owners: picture.owners(self.own_pid, &roles, &claims),
                    is_complete: !picture.dead_children(self.own_pid).any(is_orphan),
                }
            }
            Err(e) => {
                say(&format!("cannot read /proc: {e}"));
                Look::default()
            }
        }
    }
}
