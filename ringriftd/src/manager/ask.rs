//! What clients ask: reads are answered from memory at once, changes become the engine's requests.

use proto::frame::Token;
use proto::reply::{Adopted, By, Hold, JobPlan, Reply, UNITS_PER_FRAME, UnitStatus, VersionInfo};
use proto::request::{Depth, Job, Request, WaitFor, Whom};

use super::core::{Inside, Manager};
use super::events::{self, Wished};
use super::jobs::Known as Before;
use super::launches::VIEW_TIMEOUT;
use super::logs::LogsAsked;
use super::reload::Asker;
use crate::config::Loaded;
use crate::control::access::verb;
use crate::control::outbox::{Answers, Refused};
use crate::control::select::{self, Candidate, Known};
use crate::control::server::Asked;
use crate::control::view::{self, refused};
use crate::control::why::{unwell, why};
use crate::engine::Engine;
use crate::engine::hold::Held;
use crate::engine::types::{Event, Op, RequestId};
use crate::engine::unit::{Desired, Foreign};
use crate::graph::Ix;
use crate::host::outside::{self, Ours, Wanted};
use crate::host::usage::usage;
use crate::ids::Scope;
use crate::limits::{DETAILS_PER_FRAME, PREPARE_TIMEOUT};
use crate::spec::UnitName;

/// What selectors are resolved against.
struct View<'a> {
    engine: &'a Engine,
    loaded: &'a Loaded,
}

impl Known for View<'_> {
    fn units(&self) -> Vec<Candidate<'_>> {
        self.engine
            .known_units()
            .map(|(_, unit)| Candidate {
                name: &unit.spec.name,
                category: &unit.spec.category,
                state: unit.word,
            })
            .collect()
    }

    fn profiles(&self) -> Vec<String> {
        self.loaded.profiles.keys().cloned().collect()
    }

    fn members(&self, profile: &str) -> Option<Vec<UnitName>> {
        Some(
            self.loaded
                .profiles
                .get(profile)?
                .members
                .keys()
                .cloned()
                .collect(),
        )
    }
}

/// A process that is to become a unit's.
pub(super) struct FoundOutside {
    unit: UnitName,
    process: Foreign,
    adopted: Adopted,
    token: Option<Token>,
    by: By,
    answers: Answers,
}

/// Which verb of the engine's a job is.
enum JobKind {
    Start,
    Stop,
    Restart { only_running: bool },
    Reload,
}

impl Manager {
    /// Answers, or takes what is answered later.
    pub(super) fn on_asked(&mut self, asked: Asked) {
        let by = By {
            uid: asked.peer.uid,
            pid: asked.peer.pid,
            verb: verb(&asked.request).to_owned(),
        };
        let count = self.pending.requests.entry(by.verb.clone()).or_default();
        *count = count.saturating_add(1);
        let now = self.clock.now();
        self.shown.owe(now);
        let token = asked.token;
        let answers = match token {
            Some(token) => match self.find_asked(token, asked.answers) {
                Some(answers) => answers,
                None => return,
            },
            None => asked.answers,
        };
        match asked.request {
            Request::Status {
                selectors,
                depth,
                all,
            } => self.status(&selectors, depth, all, answers),
            Request::Start(job) => self.job(job, JobKind::Start, token, by, answers),
            Request::Stop(job) => self.job(job, JobKind::Stop, token, by, answers),
            Request::Restart { job, only_running } => {
                self.job(job, JobKind::Restart { only_running }, token, by, answers);
            }
            Request::Reload(job) => self.job(job, JobKind::Reload, token, by, answers),
            Request::Kill {
                selectors,
                signal,
                whom,
            } => {
                let scope = match whom {
                    Whom::Main => Scope::Main,
                    Whom::All => Scope::All,
                };
                if !(1..=64).contains(&signal) {
                    return answers.fail(refused(2, format!("{signal} is no signal: they are 1 to 64")));
                }
                if let Some((units, answers)) = self.selected(&selectors, answers) {
                    let plan = plan(&units, &[]);
                    self.request(Op::Kill { units, signal, scope }, plan, true, token, by, answers);
                }
            }
            Request::ResetFailed { selectors } => {
                let found = if selectors.is_empty() {
                    Some((self.all_names(), answers))
                } else {
                    self.selected(&selectors, answers)
                };
                if let Some((units, answers)) = found {
                    let plan = plan(&units, &[]);
                    self.request(Op::ResetFailed { units }, plan, true, token, by, answers);
                }
            }
            Request::Events {
                selectors,
                follow,
                after,
                since_us,
            } => {
                self.stream_events(&selectors, follow, after, since_us, answers);
            }
            Request::Logs {
                selectors,
                follow,
                lines,
                filter,
            } => self.logs(
                LogsAsked {
                    selectors,
                    follow,
                    lines,
                    filter,
                },
                answers,
            ),
            Request::Show { selectors } | Request::Cat { selectors } => {
                if let Some((units, answers)) = self.selected(&selectors, answers) {
                    let found: Vec<Reply> = units
                        .iter()
                        .filter_map(|name| self.loaded.definition(name))
                        .map(|d| Reply::Definition(Box::new(d)))
                        .collect();
                    answers.stream(found);
                }
            }
            Request::Deps { selectors } => {
                let found = if selectors.is_empty() {
                    Some((self.wanted_names(), answers))
                } else {
                    self.selected(&selectors, answers)
                };
                if let Some((units, answers)) = found {
                    answers.stream([Reply::Graph(view::graph(&self.engine, &units))]);
                }
            }
            Request::Profiles => answers.stream([Reply::Profiles(view::profiles(&self.loaded))]),
            Request::Profile { name } => {
                let folded = select::fold(&name);
                let known = self.loaded.profiles.keys().find(|p| select::fold(p) == folded);
                match known.and_then(|p| view::profile(&self.loaded, p)) {
                    Some(profile) => answers.stream([Reply::Profile(Box::new(profile))]),
                    None => {
                        let all = self.loaded.profiles.keys().map(String::as_str);
                        let near = select::nearest(&name, all).join(", ");
                        let mut failure = refused(4, format!("there is no profile {name:?}"));
                        failure.hint = Some(format!("the nearest are: {near}"));
                        answers.fail(failure);
                    }
                }
            }
            Request::Coverage => answers.stream([Reply::Coverage(view::coverage(&self.loaded))]),
            Request::Deprecated => {
                let today = jiff::Timestamp::now()
                    .to_string()
                    .chars()
                    .take(10)
                    .collect::<String>();
                answers.stream([Reply::Deprecated(view::deprecated(&self.loaded, &today))]);
            }
            Request::Wait {
                selectors,
                target,
                timeout_ms,
            } => {
                self.wait(&selectors, target, timeout_ms, answers);
            }
            Request::DaemonReload => self.begin_reload(Asker::Client { token, answers }),
            Request::Shutdown => {
                self.jobs.shutdown.push(answers);
                let cause = crate::engine::command(&by);
                self.tell(Event::Shutdown { cause });
            }
            Request::Version => answers.stream([Reply::Version(self.version())]),
            Request::Names => answers.stream([Reply::Names(view::names(&self.loaded))]),
            Request::Hold {
                selectors,
                note,
                until_us,
            } => {
                if let Some((units, answers)) = self.selected(&selectors, answers) {
                    let now = self.clock.now();
                    let hold = Hold {
                        by: by.clone(),
                        note,
                        since_us: now.wall_us,
                        until_us,
                    };
                    let until = until_us.map(|at| now.mono_of(at));
                    let plan = plan(&units, &[]);
                    let held = Held { hold, until };
                    self.request(Op::Hold { units, held }, plan, true, token, by, answers);
                }
            }
            Request::Unhold { selectors } => {
                if let Some((units, answers)) = self.selected(&selectors, answers) {
                    let plan = plan(&units, &[]);
                    self.request(Op::Unhold { units }, plan, true, token, by, answers);
                }
            }
            Request::Adopt {
                unit,
                pid,
                pattern,
                dry_run,
            } => {
                if let Some((units, answers)) = self.selected(std::slice::from_ref(&unit), answers) {
                    self.look_outside(&units, Wanted::new(pid, pattern), dry_run, token, by, answers);
                }
            }
            Request::Upgrade { binary } => self.begin_upgrade(binary, token, answers),
            Request::Why { unit } => self.why(&unit, answers),
        }
    }

    /// The units that selectors mean, or the failure is answered.
    pub(super) fn selected(
        &self,
        selectors: &[String],
        answers: Answers,
    ) -> Option<(Vec<UnitName>, Answers)> {
        match select::resolve(
            selectors,
            &View {
                engine: &self.engine,
                loaded: &self.loaded,
            },
        ) {
            Ok(units) => Some((units, answers)),
            Err(failure) => {
                answers.fail(failure);
                None
            }
        }
    }

    pub(super) fn all_names(&self) -> Vec<UnitName> {
        self.engine
            .known_units()
            .map(|(_, unit)| unit.spec.name.clone())
            .collect()
    }

    fn wanted_names(&self) -> Vec<UnitName> {
        let wanted = self
            .engine
            .known_units()
            .filter(|(_, unit)| view::is_wanted(unit));
        wanted.map(|(_, unit)| unit.spec.name.clone()).collect()
    }

    /// A request that was made before is not done again: its client is given the same job, or the same answer. Gives the
    /// answers back where it is new.
    fn find_asked(&mut self, token: Token, answers: Answers) -> Option<Answers> {
        if self.is_upgrade(token) {
            self.upgrade_answers = Some(answers);
            return None;
        }
        let closed = answers.closed();
        match self.jobs.find(token, answers) {
            Before::Not(answers) => Some(answers),
            Before::UnderWay(id) => {
                self.watch_client(id, closed);
                self.settle(id);
                None
            }
            Before::Answered => None,
        }
    }

    /// Answers a job whose client does not wait for more than that it was taken.
    fn settle(&mut self, id: RequestId) {
        let Some(answered) = self.jobs.settled(id) else {
            return;
        };
        self.pending.closed.push(id);
        if answered.token.is_some() {
            self.pending.answered.push(answered.clone());
        }
        self.tell(Event::Forget { id });
        if let Some(answers) = self.jobs.close(id, &answered) {
            self.answer_when_safe(answered, answers);
        }
    }

    fn job(&mut self, job: Job, kind: JobKind, token: Option<Token>, by: By, answers: Answers) {
        if job.selectors.is_empty() {
            return answers.fail(refused(2, "no unit is named".to_owned()));
        }
        let Some((units, answers)) = self.selected(&job.selectors, answers) else {
            return;
        };
        let roots: std::collections::BTreeSet<Ix> = units
            .iter()
            .filter_map(|name| self.engine.graph().find(name))
            .collect();
        let graph = self.engine.graph();
        let also: Vec<UnitName> = match &kind {
            JobKind::Start => graph
                .closure(roots.iter().copied())
                .keys()
                .filter(|ix| !roots.contains(ix) && self.engine.unit(**ix).desired == Desired::Down)
                .map(|ix| graph.name(*ix).clone())
                .collect(),
            JobKind::Stop => self.names_of(self.engine.would_stop(&roots, false)),
            JobKind::Restart { .. } => self.names_of(self.engine.would_stop(&roots, true)),
            JobKind::Reload => Vec::new(),
        };
        let plan = plan(&units, &also);
        let cascade = job.cascade;
        let op = match kind {
            JobKind::Start => Op::Start { units },
            JobKind::Stop => Op::Stop { units, cascade },
            JobKind::Restart { only_running } => Op::Restart {
                units,
                only_running,
                cascade,
            },
            JobKind::Reload => Op::Reload { units },
        };
        let id = self.request(op, plan, job.wait, token, by, answers);
        if let (Some(ms), true) = (job.timeout_ms, job.wait) {
            self.set_timeout(id, ms);
        }
    }

    fn names_of(&self, units: std::collections::BTreeSet<Ix>) -> Vec<UnitName> {
        units
            .into_iter()
            .map(|ix| self.engine.graph().name(ix).clone())
            .collect()
    }

    fn stream_events(
        &mut self,
        selectors: &[String],
        follow: bool,
        after: Option<u64>,
        since_us: Option<u64>,
        answers: Answers,
    ) {
        let (units, answers) = if selectors.is_empty() {
            (None, answers)
        } else {
            match self.selected(selectors, answers) {
                Some((units, answers)) => (Some(units), answers),
                None => return,
            }
        };
        let wanted = Wished {
            units: units.map(|units| units.iter().map(UnitName::to_string).collect()),
            after,
            since_us,
        };
        let (kept, live) = self.events.subscribe();
        let folder = self.places.state_dir.clone();
        let last = self.engine.last_seq();
        tokio::spawn(async move {
            let heard = events::tell_past(&answers, &folder, kept, last, &wanted).await;
            match heard {
                Err(Refused::Closed) => {}
                Err(Refused::Full | Refused::TooLarge) => {
                    answers.fail(refused(1, "an event does not fit into a frame".to_owned()));
                }
                Ok(()) if follow => events::tell_future(answers, live, &wanted).await,
                Ok(()) => answers.end(),
            }
        });
    }

    fn wait(&mut self, selectors: &[String], target: WaitFor, timeout_ms: Option<u64>, answers: Answers) {
        let Some((units, answers)) = self.selected(selectors, answers) else {
            return;
        };
        let id = self.jobs.number();
        let closed = answers.closed();
        self.jobs.wait(id, units, target, answers);
        self.watch_client(id, closed);
        // What is so already is true now: no news need come.
        self.jobs.look(&self.engine);
        if let Some(ms) = timeout_ms {
            self.set_timeout(id, ms);
        }
    }

    /// Looks for the process, off the loop, and says what there is to say of it.
    fn look_outside(
        &mut self,
        units: &[UnitName],
        wanted: Option<Wanted>,
        dry_run: bool,
        token: Option<Token>,
        by: By,
        answers: Answers,
    ) {
        let ([unit], Some(wanted)) = (units, wanted) else {
            return answers.fail(refused(7, "adopt takes one unit and one process".to_owned()));
        };
        let life = self
            .engine
            .find(unit)
            .and_then(|(_, found)| found.state.life()?.pid());
        if let Some(pid) = life {
            let mut failure = refused(7, format!("{unit} runs already (pid {pid})"));
            failure.hint = Some(format!("ringriftctl stop {unit} makes room for another process"));
            return answers.fail(failure);
        }
        let ours = Ours {
            keeper: self.hello.keeper_pid,
            units: self
                .engine
                .units()
                .filter_map(|(_, unit)| unit.state.life()?.pid())
                .collect(),
            asker: by.pid,
        };
        let (unit, inside) = (unit.clone(), self.inside.clone());
        tokio::spawn(async move {
            let look = tokio::task::spawn_blocking(move || outside::find(&wanted, &ours));
            let found = match tokio::time::timeout(PREPARE_TIMEOUT, look).await {
                Ok(Ok(found)) => found,
                Ok(Err(_)) | Err(_) => {
                    return answers.fail(refused(
                        1,
                        "the processes could not be examined in time".to_owned(),
                    ));
                }
            };
            match found {
                Ok(process) => {
                    let adopted = Adopted {
                        unit: unit.to_string(),
                        pid: process.pid,
                        command: process.command,
                        invocation: None,
                        dry_run,
                        lacks: outside::LACKS.map(str::to_owned).to_vec(),
                    };
                    if dry_run {
                        return answers.stream([Reply::Adopted(Box::new(adopted))]);
                    }
                    let found = FoundOutside {
                        unit,
                        process: Foreign {
                            pid: process.pid,
                            start_time: process.start_time,
                        },
                        adopted,
                        token,
                        by,
                        answers,
                    };
                    // A manager that is ending answers by dropping it.
                    let _ = inside.send(Inside::FoundOutside(Box::new(found))).await;
                }
                Err(none) => answers.fail(none.failure()),
            }
        });
    }

    /// The process that is to become a unit's was found.
    pub(super) fn on_found_outside(&mut self, found: FoundOutside) {
        let id = self.jobs.number();
        let closed = found.answers.closed();
        let record = self
            .jobs
            .open_adoption(id, found.token, found.adopted, found.answers);
        self.pending.jobs.extend(record);
        self.watch_client(id, closed);
        let op = Op::Adopt {
            unit: found.unit,
            process: found.process,
        };
        let by = found.by;
        self.tell(Event::Request { id, op, by });
    }

    /// The units asked for; then, off the loop, what has to be measured or read.
    fn status(&mut self, selectors: &[String], depth: Depth, all: bool, answers: Answers) {
        let found = if !selectors.is_empty() {
            self.selected(selectors, answers)
        } else if all {
            Some((self.all_names(), answers))
        } else {
            Some((self.wanted_names(), answers))
        };
        let Some((names, answers)) = found else { return };
        let detail = depth == Depth::Detail;
        let now = self.clock.now();
        let stored = super::stored::counts(&self.stored);
        let facts = view::Facts {
            now,
            seed: self.hello.seed,
            said: &self.said,
            stored: &stored,
        };
        let mut rows: Vec<(UnitStatus, Option<std::path::PathBuf>)> = Vec::new();
        for (ix, unit) in names.iter().filter_map(|name| self.engine.find(name)) {
            let leaf = unit
                .state
                .life()
                .and_then(|life| self.launches.leaf(crate::ids::LaunchId::main(life.invocation)));
            let mut row = view::unit(&self.engine, ix, &facts);
            if detail {
                row.capsules = self.capsules.of(&unit.spec.name, self.hello.seed);
                row.log = Some(self.log_status(&unit.spec.name));
            }
            rows.push((row, leaf));
        }
        let node = view::node(&self.engine, &self.loaded, &self.node_facts(now));
        let tails = if detail { self.ask_tails(&rows) } else { Vec::new() };
        tokio::spawn(async move {
            let mut rows = match depth {
                Depth::Known => rows.into_iter().map(|(row, _)| row).collect(),
                Depth::Usage | Depth::Detail => {
                    let measured = tokio::task::spawn_blocking(move || measure(rows));
                    measured.await.unwrap_or_default()
                }
            };
            let deadline = tokio::time::Instant::now() + VIEW_TIMEOUT;
            for (i, tail) in tails {
                if let (Ok(Ok(tail)), Some(row)) =
                    (tokio::time::timeout_at(deadline, tail).await, rows.get_mut(i))
                {
                    row.last_lines = tail.lines;
                }
            }
            let mut replies = vec![Reply::Node(Box::new(node))];
            while !rows.is_empty() {
                let most = if detail {
                    DETAILS_PER_FRAME
                } else {
                    UNITS_PER_FRAME
                };
                let rest = rows.split_off(rows.len().min(most));
                replies.push(Reply::Units(std::mem::replace(&mut rows, rest)));
            }
            answers.stream(replies);
        });
    }

    /// Why a unit is where it is.
    fn why(&mut self, unit: &str, answers: Answers) {
        let asked = [unit.to_owned()];
        let Some((units, answers)) = self.selected(&asked, answers) else {
            return;
        };
        let [unit] = units.as_slice() else {
            let mut failure = refused(
                2,
                format!("why is asked of one unit, and {unit} means {}", units.len()),
            );
            failure.hint = Some("ringriftctl status shows which are not well".to_owned());
            return answers.fail(failure);
        };
        let Some((ix, _)) = self.engine.find(unit) else {
            return answers.fail(refused(4, format!("there is no unit {unit}")));
        };
        let seed = self.hello.seed;
        let capsule = |unit: &UnitName, seq: u64| self.capsules.find(unit, seq, seed);
        let (health, text) = self.engine.unit(ix).health();
        let unwell = unwell(health, text.as_deref());
        let why = why(&self.engine, ix, self.clock.now(), unwell, &capsule);
        answers.stream([Reply::Why(Box::new(why))]);
    }

    fn version(&self) -> VersionInfo {
        let show = |p: &std::path::Path| p.display().to_string();
        VersionInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: proto::frame::VERSION,
            keeper_pid: self.hello.keeper_pid,
            manager_pid: std::process::id(),
            logger_pid: self.hello.logger_pid,
            config: self.places.config.as_deref().map(show),
            units: self.places.units.iter().map(|d| show(&d.path)).collect(),
            profiles: self.places.profiles.iter().map(|d| show(&d.path)).collect(),
            runtime_dir: show(&self.places.runtime_dir),
            state_dir: show(&self.places.state_dir),
            log_dir: show(&self.places.log_dir),
        }
    }

    /// Hands a change to the engine, with the client's answers kept for what comes of it.
    fn request(
        &mut self,
        op: Op,
        plan: JobPlan,
        waits: bool,
        token: Option<Token>,
        by: By,
        answers: Answers,
    ) -> RequestId {
        let id = self.jobs.number();
        let closed = answers.closed();
        let record = self.jobs.open(id, token, plan, waits, answers);
        self.pending.jobs.extend(record);
        self.watch_client(id, closed);
        self.tell(Event::Request { id, op, by });
        self.settle(id);
        id
    }
}

fn plan(units: &[UnitName], also: &[UnitName]) -> JobPlan {
    let text = |list: &[UnitName]| list.iter().map(UnitName::to_string).collect();
    JobPlan {
        units: text(units),
        also: text(also),
    }
}

/// Rows with what their units use, which is read for each. Blocks.
fn measure(rows: Vec<(UnitStatus, Option<std::path::PathBuf>)>) -> Vec<UnitStatus> {
    let measured = |(mut row, leaf): (UnitStatus, Option<std::path::PathBuf>)| {
        if let Some(used) = row.pid.and_then(|pid| usage(pid, leaf.as_deref())) {
            row.cpu_us = Some(used.cpu_us);
            row.memory_bytes = Some(used.memory_bytes);
        }
        row
    };
    rows.into_iter().map(measured).collect()
}
