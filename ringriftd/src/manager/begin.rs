//! How a manager goes on where an earlier one was: what the keeper has is put together with what is remembered, what is
//! nobody's child any more is adopted, and what may not have been done is done.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use super::core::Manager;
use super::jobs::Jobs;
use super::memory::{Base, Order, orders_lost};
use super::recover::{self, Past};
use super::reload::Asker;
use crate::clock::Now;
use crate::engine::Engine;
use crate::engine::snapshot::{Snapshot, Survivor};
use crate::engine::types::{Event, LaunchFailure, Role};
use crate::engine::unit::{Life, ProcessPhase, State, StopPhase};
use crate::host::link::Link;
use crate::ids::LaunchId;
use crate::keeper::proc;
use crate::keeper::wire::{FromKeeper, ToKeeper};
use crate::limits;
use crate::spec::UnitName;

/// A message of the keeper's, with its descriptors.
pub(super) type Heard = (FromKeeper, Vec<OwnedFd>);

/// What comes before everything else.
#[derive(Debug)]
pub(super) enum Beginning {
    /// Nothing is remembered.
    Anew {
        /// What the keeper has all the same.
        inventory: Vec<Heard>,
    },
    /// There are lives to go on with.
    Return {
        /// What the keeper has.
        inventory: Vec<Heard>,
        /// What becomes of the files on disk.
        files: Files,
    },
}

/// What becomes of the files on disk when there are lives to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// Nothing: the engine runs by those that it ran by.
    Kept,
    /// They are read again, as an operator who starts ringriftd expects; faults in them change nothing.
    ReadAgain,
    /// They were read, and the engine has still to hear of them.
    Load,
}

impl Files {
    /// What fits to a memory of this kind.
    pub(super) fn after(past: Past) -> Self {
        match past {
            Past::Manager => Self::Kept,
            Past::Everything => Self::ReadAgain,
            Past::Machine | Past::OrderlyEnd => Self::Load,
        }
    }
}

/// The launch that a message is about.
pub(super) fn launch_of(told: &FromKeeper) -> Option<LaunchId> {
    match told {
        FromKeeper::Launching { id }
        | FromKeeper::Launched { id, .. }
        | FromKeeper::Missing { id }
        | FromKeeper::LaunchFailed { id, .. }
        | FromKeeper::Exited { id, .. }
        | FromKeeper::Emptied { id }
        | FromKeeper::Unkillable { id, .. }
        | FromKeeper::MainFound { id, .. }
        | FromKeeper::MainMissing { id, .. }
        | FromKeeper::Unforked { id, .. } => Some(*id),
        FromKeeper::Hello { .. }
        | FromKeeper::Inventoried
        | FromKeeper::Signal { .. }
        | FromKeeper::Ping { .. }
        | FromKeeper::Listener
        | FromKeeper::HttpListener { .. }
        | FromKeeper::HttpFailed { .. }
        | FromKeeper::UpgradeRefused { .. }
        | FromKeeper::LoggerRestarted { .. }
        | FromKeeper::Stored { .. }
        | FromKeeper::Unstored { .. }
        | FromKeeper::NotStored { .. }
        | FromKeeper::Pong { .. } => None,
    }
}

/// Where numbers begin when what was remembered is lost: events go on, and serials, which stand in marks and names of
/// cgroups, are above all that were ever given (more than a million a second were not).
fn begin_numbers(snapshot: &mut Snapshot, recorded: u64, now: Now) {
    snapshot.node.seq = recorded;
    snapshot.node.next_invocation = (now.wall_us / 1_000_000).saturating_mul(limits::SERIALS_SKIPPED);
}

/// The main process that is remembered of a survivor's unit, where it is another one and lives.
fn living_main(snapshot: &Snapshot, survivor: &Survivor) -> Option<u32> {
    let life = snapshot.units.get(&survivor.unit)?.state.life()?;
    let ProcessPhase::Alive { pid, start_time } = life.main.as_ref()?.phase else {
        return None;
    };
    let known = proc::stat(pid.cast_signed()).ok()?;
    let is_it = known.process.start() == start_time && !known.is_dead();
    (is_it && pid != survivor.pid).then_some(pid)
}

fn send(keeper: &mut Link, message: &ToKeeper) -> Result<(), String> {
    let sent = keeper.send(message, Vec::new());
    sent.map_err(|e| format!("cannot tell the keeper: {e}"))
}

impl Manager {
    /// The flight recorder's numbers go on, whatever else was lost.
    pub(super) fn skip_recorded(&mut self, recorded: u64) {
        let mut beginning = self.engine.snapshot();
        begin_numbers(&mut beginning, recorded, self.clock.now());
        self.engine.replace(Engine::restore(beginning, &self.loaded.plan));
    }

    /// The flight recorder may know more than the state did, and a new life of ringriftd begins elsewhere than the last one
    /// ended: what was told is kept to be told again, and what is told from here on goes on from it.
    pub(super) fn go_on_from_recorded(&mut self, recorded: u64) {
        let mut events = self.events.last(limits::EVENTS_REMEMBERED);
        let damage = match recover::merge_events(&self.places.state_dir, recorded, &mut events) {
            Ok(damage) => damage,
            Err(e) => vec![format!("the flight recorder cannot be read: {e}")],
        };
        for damage in damage {
            tracing::error!("of what was recorded: {damage}");
            self.notes.push(damage);
        }
        for life in events.iter().filter_map(|event| event.invocation.as_deref()) {
            let serial = life.get(16..).and_then(|low| u64::from_str_radix(low, 16).ok());
            serial
                .into_iter()
                .for_each(|serial| self.engine.keep_clear_of(serial));
        }
        let told = recover::last_told(&events);
        self.events.restore(events);
        for (unit, state) in told {
            if let Some(unit) = UnitName::new(&unit) {
                self.engine.tell_step_back(&unit, state);
            }
        }
    }

    /// Nothing is remembered, and units live: they are what the profiles want, with these lives. Nothing is said to
    /// anybody.
    pub(super) fn begin_without_memory(&mut self, survivors: &[Survivor], recorded: u64) {
        tracing::error!(
            "the state is lost, and {} units live on: they are taken as they are",
            survivors.len()
        );
        let now = self.clock.now();
        let mut snapshot = Engine::restore(self.engine.snapshot(), &self.loaded.plan).snapshot();
        begin_numbers(&mut snapshot, recorded, now);
        self.take_in(&mut snapshot, survivors, true);
        self.engine.replace(Engine::restore(snapshot, &self.loaded.plan));
    }

    /// Lives that began after what is remembered was written. The launches that they are.
    /// `is_behind`: the state may be older than that.
    fn take_in(&mut self, snapshot: &mut Snapshot, survivors: &[Survivor], is_behind: bool) {
        let now = self.clock.now();
        for survivor in survivors {
            let Some(spec) = self.loaded.plan.units.get(&survivor.unit) else {
                continue;
            };
            if let Some(pid) = living_main(snapshot, survivor) {
                let text = format!(
                    "pid {} bears the mark of a life of {} that is not remembered, beside the unit's own process {pid}: it is \
                     left alone",
                    survivor.pid, survivor.unit
                );
                tracing::warn!("{text}");
                self.notes.push(text);
                continue;
            }
            if snapshot.take_in(survivor, is_behind, now.mono) {
                tracing::warn!(
                    "{}: pid {} is of a life that is not remembered; it goes on with it",
                    survivor.unit,
                    survivor.pid
                );
                let launch = LaunchId::main(survivor.invocation);
                let record = self.launches.record_of_main(launch, spec);
                self.launches.restore(record, std::sync::Arc::clone(spec));
            }
        }
    }

    /// Becomes what an earlier manager was. Nothing is said to anybody.
    pub(super) fn take_over_memory(&mut self, mut base: Base, past: Past, survivors: &[Survivor]) {
        if past == Past::OrderlyEnd {
            // Of units without a hold nothing is left: all are there again, so that what lives finds its own.
            base.engine = Engine::restore(base.engine, &self.loaded.plan).snapshot();
        }
        self.take_in(&mut base.engine, survivors, past != Past::Manager);
        if past == Past::Manager {
            self.started = Now {
                mono: crate::engine::types::Mono(base.started.0),
                wall_us: base.started.1,
            };
        }
        self.last_order = self.last_order.max(base.last_order);
        self.orders = base.orders.into();
        // Another keeper may have another service manager to tell.
        self.is_announced = base.is_announced && past == Past::Manager;
        self.said = base.said;
        let hook = self.loaded.plan.node.on_event.as_ref();
        self.hooks.restore(base.hooks, hook, &base.events, past);
        self.upgrade = base.upgrade;
        self.counts = base.counts;
        for event in &base.events {
            self.shown.on_event(event);
        }
        self.capsules = base.capsules;
        // One that the engine has answered, and whose answer was lost with a damaged end, is no job any more.
        let under_way = &base.engine.requests;
        let jobs = base
            .jobs
            .into_values()
            .filter(|job| under_way.contains_key(&job.id));
        self.jobs = Jobs::restore(jobs, base.answered, base.last_request);
        for event in &base.events {
            // The recorder leaves out those that it has.
            self.remember.event(event);
        }
        self.events.restore(base.events);
        self.engine
            .replace(Engine::restore(base.engine, &self.loaded.plan));
        let processes: Vec<_> = self
            .engine
            .processes()
            .map(|(_, life, process)| (process.launch, std::sync::Arc::clone(&life.spec)))
            .collect();
        for (launch, spec) in processes {
            if let Some(record) = base.launches.get(&super::memory::key(launch)) {
                self.launches.restore(record.clone(), spec);
            }
        }
    }

    /// Does what comes before everything else.
    pub(super) async fn begin(&mut self, beginning: Beginning) -> Result<(), String> {
        let now = self.clock.now();
        let whole = self.whole(now);
        self.remember.rebase(&whole);
        match beginning {
            Beginning::Anew { inventory } => {
                self.hear(inventory);
                self.tell(Event::Loaded(std::sync::Arc::clone(&self.loaded.plan)));
            }
            Beginning::Return { mut inventory, files } => {
                // What units said while nobody listened is heard before any deadline counts.
                self.listen_first(now);
                if self.hello.is_fresh {
                    inventory.extend(self.adopt().await?);
                    self.repeat_last_rungs();
                } else {
                    self.repeat_orders();
                }
                if files != Files::Kept {
                    self.give_up_unheard(&inventory);
                }
                let told = self.hear(inventory);
                self.resume_hooks();
                let lost: Vec<LaunchId> = self
                    .engine
                    .processes()
                    .filter(|(_, _, process)| process.phase != ProcessPhase::Asked)
                    .map(|(_, _, process)| process.launch)
                    .filter(|launch| !told.contains(launch))
                    .collect();
                for launch in lost {
                    self.tell(Event::Lost { launch });
                }
                let now = self.clock.now();
                self.engine.resume(now.mono);
                self.step(now);
                self.drop_stored();
                match files {
                    Files::Kept => {}
                    Files::ReadAgain => self.begin_reload(Asker::Start),
                    Files::Load => self.tell(Event::Loaded(std::sync::Arc::clone(&self.loaded.plan))),
                }
            }
        }
        Ok(())
    }

    /// What is on disk may be older than the truth: a life that was only asked for when it was written may have been lived
    /// since then, and over. It is not begun a second time under its number; the unit is tried again with a new one. Comes
    /// before the keeper is heard: of whatever it does not have, the engine would ask for another try at once.
    fn give_up_unheard(&mut self, inventory: &[Heard]) {
        let is_there = |launch: LaunchId| {
            let is_it = |(said, _): &Heard| matches!(said, FromKeeper::Launched { id, .. } if *id == launch);
            inventory.iter().any(is_it)
        };
        let is_beginning = |life: &Life, role: Role| match role {
            Role::Main => life.foreign.is_none(),
            Role::StartPre(_) | Role::StartPost(_) => true,
            Role::Reload(_) | Role::StopPre(_) | Role::StopPost(_) | Role::ReadyProbe | Role::Probe => false,
        };
        let unheard: Vec<LaunchId> = self
            .engine
            .processes()
            .filter(|(_, life, process)| {
                process.phase == ProcessPhase::Asked && is_beginning(life, process.role)
            })
            .map(|(_, _, process)| process.launch)
            .filter(|launch| !is_there(*launch))
            .collect();
        for launch in unheard {
            let text =
                "ringriftd ended while it was being started, and nobody knows how far that came".to_owned();
            let failure = LaunchFailure { text, host: true };
            self.tell(Event::LaunchFailed { launch, failure });
        }
    }

    /// Takes in what the keeper told. The launches that it named; those that nobody knows are ended.
    fn hear(&mut self, inventory: Vec<Heard>) -> BTreeSet<LaunchId> {
        let mut told = BTreeSet::new();
        let mut strangers = BTreeSet::new();
        for (said, fds) in inventory {
            if let FromKeeper::Launched { id, pid, .. } = &said {
                if self.launches.record(*id).is_some() || self.hooks.has(*id) {
                    told.insert(*id);
                } else if strangers.insert(*id) {
                    tracing::error!(
                        "launch {id} (pid {pid}) belongs to no unit that is remembered: it is ended"
                    );
                }
            }
            if !launch_of(&said).is_some_and(|id| strangers.contains(&id)) {
                self.on_keeper(said, fds);
            }
        }
        for id in strangers {
            self.send(&ToKeeper::Destroy { id });
            self.send(&ToKeeper::Release { id });
        }
        told
    }

    /// Signals that were decided and that the keeper has not heard of.
    fn repeat_orders(&mut self) {
        let last = self.hello.last_order;
        let lost = orders_lost(self.orders.iter().map(|order| order.order), last);
        if lost > 0 {
            tracing::warn!(
                "{lost} signals to units were not sent: the manager died in a step with more than {} of them; stops go on by their time limits, \
                 and a kill or a reload by signal is to be given again",
                limits::ORDERS_KEPT
            );
        }
        let unheard: Vec<_> = self
            .orders
            .iter()
            .filter(|order| order.order > last)
            .cloned()
            .collect();
        for order in unheard {
            self.send_order(&order);
        }
    }

    /// What is being stopped may not have got its last signal: nobody knows what a dead keeper carried out. A second one
    /// harms nobody that is to end; none would cost the whole of the unit's stop timeout.
    fn repeat_last_rungs(&mut self) {
        let stopping: BTreeSet<LaunchId> = self
            .engine
            .units()
            .filter_map(|(_, unit)| match &unit.state {
                State::Stopping {
                    life,
                    phase: StopPhase::Abort | StopPhase::Signal(_),
                    ..
                } => life.main.as_ref().map(|main| main.launch),
                _ => None,
            })
            .collect();
        let last: BTreeMap<LaunchId, Order> = self
            .orders
            .iter()
            .filter(|order| stopping.contains(&order.launch))
            .map(|order| (order.launch, order.clone()))
            .collect();
        for order in last.into_values() {
            self.last_order += 1;
            self.send_order(&Order {
                order: self.last_order,
                ..order
            });
        }
    }

    /// Has the keeper, which is a new one, take over every process that is remembered. Returns what it says to that.
    async fn adopt(&mut self) -> Result<Vec<Heard>, String> {
        let mut open = BTreeSet::new();
        let mut unheard = BTreeSet::new();
        let mut asked = Vec::new();
        for (_, life, process) in self.engine.processes() {
            let main = match process.phase {
                ProcessPhase::Alive { pid, start_time } => Some((pid, start_time)),
                // One from outside was named by whoever asked for it.
                ProcessPhase::Asked => life.foreign.map(|foreign| (foreign.pid, foreign.start_time)),
                ProcessPhase::Leaving | ProcessPhase::Gone => None,
            };
            let has_exited = process.phase == ProcessPhase::Leaving;
            // One that is still being prepared was never started.
            if let Some(record) = self.launches.record(process.launch) {
                tracing::debug!("looking for launch {} of {}", process.launch, life.spec.name);
                open.insert(process.launch);
                if process.phase == ProcessPhase::Asked && life.foreign.is_none() {
                    unheard.insert(process.launch);
                }
                asked.push(record.adopt(main, has_exited));
            }
        }
        let number = asked.len();
        for adopt in asked {
            self.send(&ToKeeper::Adopt(Box::new(adopt)));
        }
        let mut heard = Vec::new();
        let mut found = 0;
        let mut dying = BTreeSet::new();
        let all = async {
            while !open.is_empty() || !dying.is_empty() {
                let (said, fds) = match self.keeper.recv::<FromKeeper>().await {
                    Ok(Some(told)) => told,
                    Ok(None) => return Err("the keeper has gone".to_owned()),
                    Err(e) => return Err(e.to_string()),
                };
                let about = launch_of(&said);
                match &said {
                    FromKeeper::Launched { id, pid, is_deaf, .. } => {
                        if open.remove(id) && *is_deaf && unheard.contains(id) {
                            tracing::warn!(
                                "launch {id} (pid {pid}) was being started when the keeper died, and nobody heard whether it \
                                 is ready: it is started again"
                            );
                            dying.insert(*id);
                            send(&mut self.keeper, &ToKeeper::Destroy { id: *id })?;
                        } else {
                            found += 1;
                        }
                    }
                    FromKeeper::Missing { id } => {
                        open.remove(id);
                    }
                    _ => {}
                }
                let is_over = match &said {
                    FromKeeper::Exited { remains, .. } => remains.is_empty(),
                    FromKeeper::Emptied { .. } => true,
                    _ => false,
                };
                match about {
                    Some(id) if dying.contains(&id) => {
                        if is_over {
                            dying.remove(&id);
                            send(&mut self.keeper, &ToKeeper::Release { id })?;
                        }
                    }
                    Some(_) | None => heard.push((said, fds)),
                }
            }
            Ok(())
        };
        tokio::time::timeout(limits::MANAGER_START_TIMEOUT, all)
            .await
            .map_err(|_| "the keeper does not say what it found".to_owned())??;
        tracing::info!(
            "{found} of {number} processes of an earlier ringriftd live, and are supervised again"
        );
        Ok(heard)
    }
}
