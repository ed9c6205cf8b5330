//! `[on_event]`: a command that is told of events, one run for each, with the event on its standard input.
//!
//! Nothing here is ever waited for. What comes too fast waits in a bounded queue; of more the oldest are dropped, counted, and
//! told to the next run and in `status`. A run that hangs is killed at its timeout; a command that is missing costs a line
//! in the log.
//!
//! **A launch without a unit.** A run is a launch of the keeper like any other (contained, its output logged under
//! [`ON_EVENT_UNIT`], marked with an invocation id), and the engine knows nothing of it. Its serial has the highest bit
//! set ([`is_hook`]), which no life of a unit ever has: by that bit the keeper's news of it is told from units', in
//! [`Manager::on_keeper`] and in the inventory. Which numbers run, and for which events, stands in [`HookState`], which is
//! stored like everything else; a run that is not in it belongs to nobody, and is ended like any such launch.
//!
//! **How often.** An event that is to be told is stored with the step that made it, and a run is stored before the keeper
//! is asked for it, under a number that the keeper starts once only; so over every death of the manager each event is
//! told exactly once. Where the keeper dies too, its successor looks for the runs that were under way (`Adopt`). One of
//! which nothing is left may have ended well or never have begun: it is run again, so that such an event is told at least
//! once and at most twice. How many were dropped is told with an event, and again until a run that was told it ends well. After an orderly end, and on another boot, what had not been told yet is counted as dropped.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::reply::{Event, Exit};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::core::{Inside, Manager};
use super::recover::Past;
use crate::engine::describe;
use crate::engine::types::{LaunchFailure, Role};
use crate::event_json;
use crate::host::prepare::{Prepared, log_keep, log_read};
use crate::ids::{Invocation, LaunchId, invocation_text};
use crate::keeper::wire::{Adopt, FromKeeper, Launch, Output, ToKeeper};
use crate::limits;
use crate::spec::{ON_EVENT_UNIT, OnEvent, Rate};

/// `RINGRIFT_ROLE` of a run.
const ROLE: &str = "on_event";
/// No life of a unit has it in its serial.
const HOOK: u64 = 1 << 63;

/// The launch is a run of the command.
pub(super) fn is_hook(id: LaunchId) -> bool {
    id.invocation.0 & HOOK != 0
}

fn launch_of(nr: u64) -> LaunchId {
    LaunchId::main(Invocation(HOOK | nr))
}

/// What outlives the manager.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HookState {
    /// The number of the next run; none is used twice.
    next: u64,
    /// Up to this event everything was run or dropped.
    decided: u64,
    /// Up to this event, what is to be told was put into the queue.
    queued: u64,
    /// Runs that the keeper was, or is about to be, asked for, in their order.
    running: Vec<HookRun>,
    /// Events dropped of which no run was told yet, or only runs that failed.
    dropped: u64,
    /// Events dropped in all.
    dropped_ever: u64,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRun {
    nr: u64,
    /// The event's number.
    seq: u64,
    /// What it is told of events that were dropped before.
    dropped: u64,
}

/// How far a run is, in this manager's time.
#[derive(Debug)]
enum Phase {
    /// It is being prepared, off the loop.
    Preparing,
    /// The keeper was asked for it. The request explains a failure.
    Asked(Option<Arc<Launch>>),
    /// It runs; the task tells when its time is up.
    Runs(JoinHandle<()>),
    /// It has ended, and what it left is being killed.
    Leaving,
}

/// All that is under way.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    state: HookState,
    queue: VecDeque<Arc<Event>>,
    /// Runs that an earlier manager, or keeper, did not get under way: they go before the queue.
    again: VecDeque<HookRun>,
    phases: BTreeMap<u64, Phase>,
    bucket: Bucket,
    /// A task tells when the rate allows the next run.
    wake: Option<JoinHandle<()>>,
    /// Runs that failed since the last one that did not, and why the last one did.
    failures: u64,
    last_failure: Option<String>,
}

/// So many runs at once, and then as the rate has it.
#[derive(Debug, Default)]
struct Bucket {
    used: VecDeque<Instant>,
}

impl Bucket {
    /// Zero when one may run now, which is then booked; else how long to wait.
    fn take(&mut self, rate: Rate) -> Duration {
        let now = Instant::now();
        while self
            .used
            .front()
            .is_some_and(|used| now.duration_since(*used) >= rate.per)
        {
            self.used.pop_front();
        }
        match self.used.front() {
            Some(first) if self.used.len() >= rate.count as usize => {
                rate.per.saturating_sub(now.duration_since(*first))
            }
            Some(_) | None => {
                self.used.push_back(now);
                Duration::ZERO
            }
        }
    }
}

fn is_meant(hook: &OnEvent, event: &Event) -> bool {
    hook.events.contains(&event.event)
        && hook
            .units
            .as_ref()
            .is_none_or(|units| units.contains(event.unit.as_str()))
}

impl Hooks {
    /// For the whole picture.
    pub(super) fn state(&self) -> &HookState {
        &self.state
    }

    /// The launch is one that is known.
    pub(super) fn has(&self, id: LaunchId) -> bool {
        is_hook(id) && self.run_of(id).is_some()
    }

    fn run_of(&self, id: LaunchId) -> Option<&HookRun> {
        self.state.running.iter().find(|run| launch_of(run.nr) == id)
    }

    fn is_preparing(&self) -> bool {
        let mut phases = self.phases.values();
        phases.any(|phase| matches!(phase, Phase::Preparing))
    }

    fn drop_event(&mut self, seq: u64) {
        self.state.decided = self.state.decided.max(seq);
        self.state.dropped += 1;
        self.state.dropped_ever += 1;
    }

    /// An event that is about to be told. True when what is stored changed.
    pub(super) fn hear(&mut self, hook: &OnEvent, event: &Arc<Event>) -> bool {
        if !is_meant(hook, event) {
            return false;
        }
        if self.queue.is_empty() {
            self.state.decided = self.state.decided.max(event.seq.saturating_sub(1));
        }
        while self.queue.len() >= hook.queue as usize {
            match self.queue.pop_front() {
                Some(oldest) => self.drop_event(oldest.seq),
                None => break,
            }
        }
        self.state.queued = event.seq;
        self.queue.push_back(Arc::clone(event));
        true
    }

    /// Takes up what an earlier manager left. `events` are those that are remembered, the oldest first.
    pub(super) fn restore(&mut self, state: HookState, hook: Option<&OnEvent>, events: &[Event], past: Past) {
        self.state = state;
        let (decided, queued) = (self.state.decided, self.state.queued);
        let waiting = events
            .iter()
            .filter(|event| (decided + 1..=queued).contains(&event.seq))
            .filter(|event| hook.is_some_and(|hook| is_meant(hook, event)));
        match past {
            Past::Manager | Past::Everything => {
                self.queue = waiting.cloned().map(Arc::new).collect();
            }
            Past::Machine | Past::OrderlyEnd => {
                let lost = waiting.count() + self.state.running.len();
                let lost = u64::try_from(lost).unwrap_or(u64::MAX);
                let told: u64 = self.state.running.iter().map(|run| run.dropped).sum();
                self.state.dropped += lost + told;
                self.state.dropped_ever += lost;
                self.state.decided = queued;
                self.state.running.clear();
            }
        }
    }

    /// What `status` has to tell of it.
    pub(super) fn notices(&self) -> Vec<String> {
        let dropped = match self.state.dropped_ever {
            0 => None,
            1 => Some("1 event was dropped before the on_event command could be told of it".to_owned()),
            n => Some(format!(
                "{n} events were dropped before the on_event command could be told of them"
            )),
        };
        let failed = self.last_failure.as_ref().map(|why| match self.failures {
            0 | 1 => format!("the on_event command failed: {why}"),
            n => format!("the on_event command failed {n} times in a row: {why}"),
        });
        failed.into_iter().chain(dropped).collect()
    }

    /// Books how a run came out. The first failure of its kind in a row is worth a line. True when what is stored changed:
    /// what a run that failed was told of dropped events is still to be told.
    fn book(&mut self, nr: u64, failure: Option<String>) -> bool {
        let mut untold = 0;
        match failure {
            None => {
                self.failures = 0;
                self.last_failure = None;
            }
            Some(why) => {
                if self.last_failure.as_ref() != Some(&why) {
                    tracing::warn!("on_event: {why}");
                }
                self.failures += 1;
                self.last_failure = Some(why);
                let run = self.state.running.iter_mut().find(|run| run.nr == nr);
                untold = run.map_or(0, |run| std::mem::take(&mut run.dropped));
                self.state.dropped += untold;
            }
        }
        untold > 0
    }
}

impl Manager {
    /// Begins what may begin: one preparation at a time, as of any unit, which this is in form.
    pub(super) fn run_hooks(&mut self) {
        while !self.hooks.is_preparing() {
            match self.hooks.again.pop_front() {
                Some(run) => self.run_hook_again(&run),
                None => break,
            }
        }
        let Some(hook) = self.loaded.plan.node.on_event.clone() else {
            // Taken out of the file: what waited waits for nobody.
            self.hooks.queue.clear();
            return;
        };
        while self.end.is_none()
            && !self.hooks.queue.is_empty()
            && self.hooks.state.running.len() < hook.at_once as usize
            && !self.hooks.is_preparing()
        {
            let wait = self.hooks.bucket.take(hook.rate);
            if !wait.is_zero() {
                self.wake_hooks(wait);
                return;
            }
            let Some(event) = self.hooks.queue.pop_front() else {
                return;
            };
            let state = &mut self.hooks.state;
            if state.next == 0 {
                // Nothing is remembered of earlier ones: above all that a clock could have given.
                state.next = (self.started.wall_us / 1_000_000).saturating_mul(limits::SERIALS_SKIPPED);
            }
            state.next += 1;
            let run = HookRun {
                nr: state.next,
                seq: event.seq,
                dropped: std::mem::take(&mut state.dropped),
            };
            state.decided = event.seq;
            state.running.push(run.clone());
            self.keep_hooks();
            self.prepare_hook(&hook, &run, &event);
        }
    }

    fn keep_hooks(&mut self) {
        self.pending.hooks = Some(self.hooks.state.clone());
        let now = self.clock.now();
        self.commit(now);
    }

    fn book_hook(&mut self, nr: u64, failure: Option<String>) {
        if self.hooks.book(nr, failure) {
            self.keep_hooks();
        }
    }

    fn wake_hooks(&mut self, wait: Duration) {
        if self.hooks.wake.as_ref().is_some_and(|wake| !wake.is_finished()) {
            return;
        }
        let inside = self.inside.clone();
        self.hooks.wake = Some(tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = inside.send(Inside::HookTime).await;
        }));
    }

    fn prepare_hook(&mut self, hook: &OnEvent, run: &HookRun, event: &Event) {
        let stdin = match event_json::line(event) {
            Ok(line) => format!("{line}\n").into_bytes(),
            Err(e) => {
                let why = format!("event {} cannot be written: {e}", event.seq);
                self.book_hook(run.nr, Some(why));
                return self.end_hook(run.nr);
            }
        };
        self.hooks.phases.insert(run.nr, Phase::Preparing);
        let (preparer, inside) = (self.launches.preparer(), self.inside.clone());
        let (spec, run) = (Arc::clone(&hook.unit), run.clone());
        let word = event.event.clone();
        tokio::spawn(async move {
            let id = launch_of(run.nr);
            let prepared = preparer.prepare_bounded(spec, Role::Main, id).await;
            let result = prepared.map(|prepared| Box::new(dress(prepared, stdin, &run, &word)));
            let _ = inside.send(Inside::HookPrepared { nr: run.nr, result }).await;
        });
    }

    /// A run is ready for the keeper, or cannot be made.
    pub(super) fn on_hook_prepared(&mut self, nr: u64, result: Result<Box<Launch>, LaunchFailure>) {
        match result {
            Ok(launch) => {
                let launch = Arc::new(*launch);
                self.hooks
                    .phases
                    .insert(nr, Phase::Asked(Some(Arc::clone(&launch))));
                self.send(&ToKeeper::Launch(Box::new((*launch).clone())));
                self.run_hooks();
            }
            Err(failure) => self.fail_hook(nr, failure.text),
        }
    }

    /// A run could not be started: in words.
    pub(super) fn fail_hook(&mut self, nr: u64, why: String) {
        self.book_hook(nr, Some(why));
        self.end_hook(nr);
    }

    /// A run's time is up.
    pub(super) fn on_hook_timeout(&mut self, nr: u64) {
        if matches!(self.hooks.phases.get(&nr), Some(Phase::Runs(_))) {
            let timeout = self
                .loaded
                .plan
                .node
                .on_event
                .as_ref()
                .map_or(limits::HOOK_TIMEOUT, |hook| hook.timeout);
            let why = format!("it was not through within {timeout:?}, and is killed");
            self.book_hook(nr, Some(why));
            self.hooks.phases.insert(nr, Phase::Leaving);
            self.send(&ToKeeper::Destroy { id: launch_of(nr) });
        }
    }

    /// It is over, and so is all that it left.
    fn end_hook(&mut self, nr: u64) {
        if let Some(Phase::Runs(timer)) = self.hooks.phases.remove(&nr) {
            timer.abort();
        }
        self.hooks.state.running.retain(|run| run.nr != nr);
        self.keep_hooks();
        self.send(&ToKeeper::Release { id: launch_of(nr) });
        self.run_hooks();
    }

    /// The keeper's news of a run. Those that are not known are ended by whoever looks at the inventory.
    pub(super) fn on_hook_news(&mut self, said: &FromKeeper) {
        match said {
            FromKeeper::Launched { id, .. } => {
                if let Some(nr) = self.hooks.run_of(*id).map(|run| run.nr) {
                    self.on_hook_launched(nr);
                }
            }
            FromKeeper::LaunchFailed { id, stage, errno } => {
                let Some(nr) = self.hooks.run_of(*id).map(|run| run.nr) else {
                    return;
                };
                let request = match self.hooks.phases.get_mut(&nr) {
                    Some(Phase::Asked(request)) => request.take(),
                    _ => None,
                };
                let Some(request) = request else {
                    return self.fail_hook(nr, format!("it could not be started (errno {errno})"));
                };
                let (preparer, inside) = (self.launches.preparer(), self.inside.clone());
                let (stage, errno) = (*stage, *errno);
                tokio::spawn(async move {
                    let failure = preparer.explain(stage, errno, request).await;
                    let result = Err(failure);
                    let _ = inside.send(Inside::HookPrepared { nr, result }).await;
                });
            }
            FromKeeper::Exited {
                id, exit, remains, ..
            } => {
                let Some(nr) = self.hooks.run_of(*id).map(|run| run.nr) else {
                    return self.send(&ToKeeper::Release { id: *id });
                };
                // One that was killed for its time was booked then.
                if !matches!(self.hooks.phases.get(&nr), Some(Phase::Leaving)) {
                    let failure = (*exit != Exit::Code(0)).then(|| format!("it {}", describe(*exit)));
                    self.book_hook(nr, failure);
                }
                if remains.is_empty() {
                    self.end_hook(nr);
                } else {
                    // What it left has no business once it is through.
                    if let Some(Phase::Runs(timer)) = self.hooks.phases.insert(nr, Phase::Leaving) {
                        timer.abort();
                    }
                    self.send(&ToKeeper::Destroy { id: *id });
                }
            }
            FromKeeper::Emptied { id } => match self.hooks.run_of(*id).map(|run| run.nr) {
                Some(nr) => self.end_hook(nr),
                None => self.send(&ToKeeper::Release { id: *id }),
            },
            FromKeeper::Missing { id } => {
                if let Some(run) = self.hooks.run_of(*id).cloned() {
                    self.hooks.phases.remove(&run.nr);
                    self.hooks.again.push_back(run);
                    self.run_hooks();
                }
            }
            FromKeeper::Unkillable { id, remains } => {
                tracing::warn!("on_event: SIGKILL did not end processes {remains:?} of run {id}");
            }
            // Of launches of units, and of the keeper itself.
            _ => {}
        }
    }

    fn on_hook_launched(&mut self, nr: u64) {
        if matches!(self.hooks.phases.get(&nr), Some(Phase::Runs(_) | Phase::Leaving)) {
            return; // said twice
        }
        // Absent: taken out of the file while it runs.
        let hook = self.loaded.plan.node.on_event.as_ref();
        let timeout = hook.map_or(limits::HOOK_TIMEOUT, |hook| hook.timeout);
        let inside = self.inside.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            let _ = inside.send(Inside::HookTimeout(nr)).await;
        });
        self.hooks.phases.insert(nr, Phase::Runs(timer));
    }

    /// Under its own number, so that it cannot run twice beside itself.
    fn run_hook_again(&mut self, run: &HookRun) {
        let event = self.events.find(run.seq);
        let hook = self.loaded.plan.node.on_event.clone();
        match (hook, event) {
            (Some(hook), Some(event)) => self.prepare_hook(&hook, run, &event),
            (None, _) | (_, None) => {
                self.hooks.drop_event(run.seq);
                self.hooks.state.dropped += run.dropped;
                self.end_hook(run.nr);
            }
        }
    }

    /// Goes on where an earlier manager was, once the keeper has told what it has.
    pub(super) fn resume_hooks(&mut self) {
        let unheard: Vec<HookRun> = self
            .hooks
            .state
            .running
            .iter()
            .filter(|run| !self.hooks.phases.contains_key(&run.nr) && !self.hooks.again.contains(run))
            .cloned()
            .collect();
        for run in unheard {
            if self.hello.is_fresh {
                self.adopt_hook(&run);
            } else {
                // The keeper has it not: it was never asked for it.
                self.hooks.again.push_back(run);
            }
        }
        self.run_hooks();
    }

    /// A new keeper is to look for it.
    fn adopt_hook(&mut self, run: &HookRun) {
        let id = launch_of(run.nr);
        let log = self.loaded.plan.node.on_event.as_ref().map(|hook| &hook.unit.log);
        let adopt = Adopt {
            id,
            invocation: invocation_text(self.hello.seed, id.invocation),
            role: ROLE.to_owned(),
            tag: ON_EVENT_UNIT.to_owned(),
            main: None,
            has_exited: false,
            output: Output {
                unit: ON_EVENT_UNIT.to_owned(),
                max_size: log.map_or(limits::LOG_SIZE, |log| log.max_size),
                max_files: log.map_or(limits::LOG_FILES, |log| log.max_files),
                drain_ms: u64::try_from(limits::DRAIN_TIMEOUT.as_millis()).unwrap_or(u64::MAX),
                keep: log.map_or_else(Default::default, log_keep),
                read: log.map_or_else(Default::default, |log| log_read(log, self.hello.seed)),
            },
            notify: None,
            identity: None,
            ready_fd: None,
            is_foreign: false,
        };
        self.hooks.phases.insert(run.nr, Phase::Asked(None));
        self.send(&ToKeeper::Adopt(Box::new(adopt)));
    }
}

/// What a run has that a unit's process has not.
fn dress(prepared: Prepared, stdin: Vec<u8>, run: &HookRun, word: &str) -> Launch {
    let mut launch = prepared.launch;
    launch.role = ROLE.to_owned();
    let own = [
        ("RINGRIFT_ROLE", ROLE.to_owned()),
        ("RINGRIFT_EVENT", word.to_owned()),
        ("RINGRIFT_EVENT_SEQ", run.seq.to_string()),
        ("RINGRIFT_EVENTS_DROPPED", run.dropped.to_string()),
    ];
    launch.env.retain(|entry| {
        let name = entry.split(|b| *b == b'=').next().unwrap_or_default();
        own.iter().all(|(own, _)| own.as_bytes() != name)
    });
    launch.env.extend(
        own.iter()
            .map(|(name, value)| format!("{name}={value}").into_bytes()),
    );
    launch.stdin = Some(stdin);
    launch
}
