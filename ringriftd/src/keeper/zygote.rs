//! Launches that are forked from a zygote instead of being executed: who is asked, what is believed, and what happens when
//! nothing comes of it. The protocol is told in `docs/zygotes.md`.
//!
//! A zygote is a launch like any other that got one end of a socket pair; it is believed nothing. What it forks is an
//! orphan, so the keeper's own child, and waits at a *gate* (a socket pair of this one launch) until the keeper has seen by
//! the kernel's word that it is the one asked for, and has put it where an executed process would be. Before, nothing of it
//! counts; whatever goes wrong before, the gate is shut, and the launch is executed instead or fails.
//!
//! A zygote is asked for one process at a time: so the order of launches stays, and one that hangs holds up only those that
//! wait for it.
//!
//! Read first: [`Zygotes`], then [`Keeper::on_gate`].

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::gate::{self, Heard, Sender, ZygoteLeft};
use super::handover::{Numbers, Received};
use super::launch::Made;
use super::proc::{self, BirthMark};
use super::signal;
use super::state::{Keeper, say};
use super::types::Proc;
use super::wire::{Fork, FromKeeper, Identity, Launch, Stage, ToLogger};
use crate::ids::LaunchId;

/// All zygotes of this keeper, and what is being forked from them.
#[derive(Debug, Default)]
pub struct Zygotes {
    of: BTreeMap<LaunchId, Zygote>,
    coming: BTreeMap<LaunchId, Coming>,
    /// Why launches that live were executed instead: said again to each manager.
    unforked: BTreeMap<LaunchId, String>,
}

/// One that lives, as far as is known.
#[derive(Debug)]
pub struct Zygote {
    /// The keeper's end.
    pub link: OwnedFd,
    /// It has said that it takes requests, in our version.
    pub is_ready: bool,
    /// Whose process it is, and so whose all its children are.
    pub identity: Option<Identity>,
    /// It cannot be undone in a child.
    pub no_new_privs: bool,
    /// Launches that wait for their turn.
    waiting: VecDeque<LaunchId>,
    /// The one that it was asked for.
    asked: Option<LaunchId>,
}

/// A launch that is to be forked.
#[derive(Debug)]
struct Coming {
    launch: Launch,
    made: Made,
    zygote: LaunchId,
    /// Its gate and until when somebody must have come to it; absent while it waits for its turn.
    gate: Option<Gate>,
}

/// The keeper's side of a gate.
#[derive(Debug)]
struct Gate {
    link: OwnedFd,
    until: Instant,
    /// When the zygote was asked, in the unit of start times.
    since: u64,
}

impl Zygote {
    /// One that was just started, or that the program before this one had.
    pub fn new(link: OwnedFd, is_ready: bool, identity: Option<Identity>, no_new_privs: bool) -> Self {
        Self {
            link,
            is_ready,
            identity,
            no_new_privs,
            waiting: VecDeque::new(),
            asked: None,
        }
    }
}

impl Zygotes {
    /// Another one.
    pub fn add(&mut self, id: LaunchId, zygote: Zygote) {
        self.of.insert(id, zygote);
    }

    /// For another program in this very process, whose children theirs will be as well.
    pub fn left(&self, numbers: &mut Numbers) -> Vec<ZygoteLeft> {
        let left = |(id, zygote): (&LaunchId, &Zygote)| ZygoteLeft {
            id: *id,
            link: numbers.keep(&zygote.link),
            is_ready: zygote.is_ready,
            identity: zygote.identity.clone(),
            no_new_privs: zygote.no_new_privs,
        };
        self.of.iter().map(left).collect()
    }

    /// What the program before left.
    pub fn take_up(&mut self, zygotes: Vec<ZygoteLeft>, left: &mut Received) -> Result<(), String> {
        for zygote in zygotes {
            let ZygoteLeft {
                id,
                link,
                is_ready,
                identity,
                no_new_privs,
            } = zygote;
            self.add(id, Zygote::new(left.fd(link)?, is_ready, identity, no_new_privs));
        }
        Ok(())
    }

    /// For poll(2).
    pub fn links(&self) -> impl Iterator<Item = (LaunchId, BorrowedFd<'_>)> {
        self.of.iter().map(|(id, zygote)| (*id, zygote.link.as_fd()))
    }

    /// For poll(2).
    pub fn gates(&self) -> impl Iterator<Item = (LaunchId, BorrowedFd<'_>)> {
        self.coming
            .iter()
            .filter_map(|(id, coming)| Some((*id, coming.gate.as_ref()?.link.as_fd())))
    }

    /// When somebody is too late.
    pub fn deadline(&self) -> Option<Instant> {
        let gates = self.coming.values().filter_map(|coming| coming.gate.as_ref());
        gates.map(|gate| gate.until).min()
    }

    /// Why this launch was executed and not forked.
    pub fn unforked(&self, id: LaunchId) -> Option<&String> {
        self.unforked.get(&id)
    }

    /// The launch is over.
    pub fn forget(&mut self, id: LaunchId) {
        self.unforked.remove(&id);
    }
}

impl Keeper {
    /// A launch that is to be forked: asks its zygote, now or when it is its turn.
    pub fn begin_fork(&mut self, launch: &Launch, made: Made, fork: Fork) {
        let zygote = match self.zygote_for(launch, fork) {
            Ok(zygote) => zygote,
            Err(why) => return self.end_unforked(launch, made, why),
        };
        let coming = Coming {
            launch: launch.clone(),
            made,
            zygote,
            gate: None,
        };
        self.zygotes.coming.insert(launch.id, coming);
        if let Some(of) = self.zygotes.of.get_mut(&zygote) {
            of.waiting.push_back(launch.id);
        }
        self.ask_next(zygote);
    }

    /// Asked again for a launch that is being forked: true, and its ears are told again.
    pub fn is_coming(&mut self, id: LaunchId) -> bool {
        let Some(coming) = self.zygotes.coming.get(&id) else {
            return false;
        };
        let ears = coming.made.ears();
        if !ears.is_empty() {
            self.tell_manager(&FromKeeper::Launching { id }, ears);
        }
        true
    }

    fn zygote_for(&self, launch: &Launch, fork: Fork) -> Result<LaunchId, String> {
        let id = fork.zygote.ok_or("its zygote is not ready")?;
        let zygote = self
            .zygotes
            .of
            .get(&id)
            .ok_or("its zygote has ended, or was started by another keeper")?;
        if zygote.identity != launch.identity {
            return Err("it is another user's than its zygote".to_owned());
        }
        if zygote.no_new_privs && !launch.no_new_privs {
            return Err("its zygote has no_new_privs, which it is not to have".to_owned());
        }
        Ok(id)
    }

    /// The turn of the next launch that waits for this zygote, if it is free.
    fn ask_next(&mut self, zygote: LaunchId) {
        loop {
            let Some(of) = self.zygotes.of.get_mut(&zygote) else {
                return;
            };
            if of.asked.is_some() || !of.is_ready {
                return;
            }
            let Some(id) = of.waiting.pop_front() else { return };
            let Some(coming) = self.zygotes.coming.get_mut(&id) else {
                continue;
            };
            let since = super::left::ticks();
            match gate::ask(&of.link, &coming.launch, coming.made.wish()) {
                Ok(link) => {
                    of.asked = Some(id);
                    coming.gate = Some(Gate {
                        link,
                        until: Instant::now() + self.config.zygote_answer,
                        since,
                    });
                }
                Err(e) => self.fail_fork(id, format!("its zygote cannot be asked: {e}")),
            }
        }
    }

    /// The zygote said something, or is gone.
    pub fn on_zygote(&mut self, id: LaunchId) {
        let Some(zygote) = self.zygotes.of.get_mut(&id) else {
            return;
        };
        let why = match gate::hear(&zygote.link) {
            Heard::Nothing => return,
            Heard::Word(word, _) if word == gate::READY && !zygote.is_ready => {
                zygote.is_ready = true;
                return self.ask_next(id);
            }
            Heard::Word(word, _) => {
                let shown = gate::shown(&word);
                say(&format!(
                    "launch {id} is a zygote that says {shown:?}: it is not asked any more"
                ));
                format!("its zygote says {shown:?}, which is none of the words that it has")
            }
            Heard::End => "its zygote has ended".to_owned(),
        };
        self.drop_zygote(id, &why);
    }

    /// It is asked no more. An honest one ends, since its socket does.
    fn drop_zygote(&mut self, id: LaunchId, why: &str) {
        self.zygotes.of.remove(&id);
        for coming in self.coming_of(id) {
            self.fail_fork(coming, why.to_owned());
        }
    }

    fn coming_of(&self, zygote: LaunchId) -> Vec<LaunchId> {
        let of = self.zygotes.coming.iter();
        of.filter(|(_, coming)| coming.zygote == zygote)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Somebody is at a launch's gate, or nobody can come any more.
    pub fn on_gate(&mut self, id: LaunchId) {
        let Some(gate) = self.gate_of(id) else { return };
        let why = match gate::hear(&gate.link) {
            Heard::Nothing => return,
            Heard::End => "what was to become of it has ended before it ran".to_owned(),
            Heard::Word(word, sender) if word == gate::HERE => match self.let_in(id, sender) {
                Ok(()) => return,
                Err(why) => why,
            },
            Heard::Word(word, _) => match word.strip_prefix(gate::REFUSED) {
                Some(reason) => format!("its zygote refused: {}", gate::shown(reason)),
                None => format!("{:?} was said at its gate", gate::shown(&word)),
            },
        };
        self.fail_fork(id, why);
    }

    fn gate_of(&self, id: LaunchId) -> Option<&Gate> {
        self.zygotes.coming.get(&id)?.gate.as_ref()
    }

    /// Judges who is at the gate, puts it in its place and lets it through. On failure nothing of it is left.
    fn let_in(&mut self, id: LaunchId, sender: Option<Sender>) -> Result<(), String> {
        let child = self.prove_forked(id, sender)?;
        let placed = self.place(id, child);
        if placed.is_err() {
            // It is proven to be ours, and it is nobody's launch.
            let _ = signal::send(child, libc::SIGKILL);
            return placed;
        }
        let Some(coming) = self.zygotes.coming.remove(&id) else {
            return Ok(());
        };
        let kills = &mut self.machine.kills;
        let held = coming.made.forked(&coming.launch, child, kills);
        self.take_in(id, held);
        self.turn_over(coming.zygote, id);
        Ok(())
    }

    /// Who is at the gate, if that is proven to be the process that was asked for.
    fn prove_forked(&self, id: LaunchId, sender: Option<Sender>) -> Result<Proc, String> {
        let coming = self.zygotes.coming.get(&id).ok_or("it was given up")?;
        let since = coming.gate.as_ref().map(|gate| gate.since);
        let sender = sender.ok_or("the kernel does not say who is at its gate")?;
        let pid = sender.pid;
        let stat = proc::stat(pid).map_err(|e| format!("process {pid} came, which is not there: {e}"))?;
        let wrong = |what: &str| Err(format!("process {pid} came to its gate, {what}"));
        let is_known = self.by_pid.contains_key(&pid)
            || self.role_pids().contains(&pid)
            || self.launches.values().any(|held| {
                held.leader == stat.process || held.main == stat.process || held.left.contains(&stat.process)
            });
        if is_known {
            return wrong("which is another one of ringriftd's");
        }
        if stat.ppid != self.own_pid || stat.is_dead() {
            return wrong("which is no living child of the keeper's");
        }
        if since.is_none_or(|since| stat.process.start() < since) {
            return wrong("which began before the zygote was asked");
        }
        if stat.session != pid || stat.pgrp != pid {
            return wrong("which has no session of its own");
        }
        let leaf = self.launches.get(&coming.zygote).and_then(|z| z.leaf.as_ref());
        if leaf.is_some_and(|leaf| leaf.proof(pid) != Some(stat.process)) {
            return wrong("which is not in the zygote's cgroup");
        }
        let launch = &coming.launch;
        let is_marked = matches!(proc::birth_mark(pid),
            BirthMark::Ours { invocation, role } if invocation == launch.invocation && role == launch.role);
        if !is_marked {
            return wrong("which does not bear its mark");
        }
        let uid = launch
            .identity
            .as_ref()
            .map_or_else(|| nix::unistd::geteuid().as_raw(), |i| i.uid);
        if sender.uid != uid {
            return wrong("which is another user's");
        }
        if launch.no_new_privs && !proc::has_no_new_privs(pid) {
            return wrong("which has not given up new privileges");
        }
        Ok(stat.process)
    }

    /// Where an executed process would be; then it is told to go on.
    fn place(&self, id: LaunchId, child: Proc) -> Result<(), String> {
        let coming = self.zygotes.coming.get(&id).ok_or("it was given up")?;
        let gate = coming.gate.as_ref().ok_or("it has no gate")?;
        if !matches!(gate::hear(&gate.link), Heard::Nothing) {
            return Err("two came to its gate, or the one is gone again".to_owned());
        }
        gate::limit(child.pid(), coming.made.wish())?;
        if let Some(leaf) = coming.made.leaf() {
            leaf.take_in(child.pid())
                .map_err(|e| format!("it cannot be moved into its cgroup: {e}"))?;
        }
        gate::open(&gate.link, child.pid()).map_err(|e| format!("its gate cannot be opened: {e}"))
    }

    /// Somebody has not come in time. Those that wait behind do not wait as long again.
    pub fn on_zygote_time(&mut self, now: Instant) {
        let late: Vec<LaunchId> = self
            .zygotes
            .coming
            .iter()
            .filter(|(_, coming)| coming.gate.as_ref().is_some_and(|gate| gate.until <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            // Who was held up may be the keeper itself.
            self.on_gate(id);
            let Some(coming) = self.zygotes.coming.get(&id) else {
                continue;
            };
            let zygote = coming.zygote;
            let why = format!("its zygote did not answer within {:?}", self.config.zygote_answer);
            say(&format!(
                "launch {zygote} is a zygote that did not answer in time"
            ));
            let all = self.coming_of(zygote);
            if let Some(of) = self.zygotes.of.get_mut(&zygote) {
                of.waiting.clear();
            }
            for id in all {
                self.fail_fork(id, why.clone());
            }
        }
    }

    /// This launch cannot be forked. Its gate is shut; who waits at it ends.
    fn fail_fork(&mut self, id: LaunchId, why: String) {
        let Some(coming) = self.zygotes.coming.remove(&id) else {
            return;
        };
        drop(coming.gate);
        self.end_unforked(&coming.launch, coming.made, why);
        self.turn_over(coming.zygote, id);
    }

    /// The zygote is done with this launch.
    fn turn_over(&mut self, zygote: LaunchId, id: LaunchId) {
        if let Some(of) = self.zygotes.of.get_mut(&zygote) {
            of.waiting.retain(|waiting| *waiting != id);
            if of.asked == Some(id) {
                of.asked = None;
                self.ask_next(zygote);
            }
        }
    }

    /// Executed instead, or not at all.
    fn end_unforked(&mut self, launch: &Launch, made: Made, why: String) {
        let id = launch.id;
        self.tell_manager(&FromKeeper::Unforked { id, why: why.clone() }, Vec::new());
        if launch.fork.is_some_and(|fork| fork.or_executed) {
            self.zygotes.unforked.insert(id, why);
            return self.run_made(launch, made);
        }
        made.discard();
        self.tell_logger(&ToLogger::Close { id }, Vec::new());
        let failed = FromKeeper::LaunchFailed {
            id,
            stage: Stage::Zygote,
            errno: 0,
        };
        self.tell_manager(&failed, Vec::new());
    }

    /// Nothing may be under way, because this program ends, or becomes another one, for which `why`.
    pub fn settle_forks(&mut self, why: &str) {
        let ids: Vec<LaunchId> = self.zygotes.coming.keys().copied().collect();
        // All at once: none of them is asked for in another one's place.
        for zygote in self.zygotes.of.values_mut() {
            zygote.waiting.clear();
        }
        for id in ids {
            self.fail_fork(id, why.to_owned());
        }
    }

    /// The manager wants nothing of it any more. True: it was being forked, and is gone.
    pub fn cancel_fork(&mut self, id: LaunchId) -> bool {
        let Some(coming) = self.zygotes.coming.get_mut(&id) else {
            return false;
        };
        coming.launch.fork = coming.launch.fork.map(|fork| Fork {
            or_executed: false,
            ..fork
        });
        self.fail_fork(id, "it was given up".to_owned());
        true
    }

    /// At the end of everything.
    pub fn drop_forks(&mut self) {
        self.zygotes.of.clear();
        for (_, coming) in std::mem::take(&mut self.zygotes.coming) {
            coming.made.discard();
        }
    }

    /// The launch has ended: it is no zygote any more.
    pub fn end_zygote(&mut self, id: LaunchId) {
        if self.zygotes.of.contains_key(&id) {
            self.drop_zygote(id, "its zygote has ended");
        }
    }
}
