//! Launches between the engine's wish and the keeper's answer, and what hangs on them: the notify socket, the readiness
//! pipe, the search for a forking unit's main process. Everything that may block or wait is a task of its own that
//! reports back as [`News`].

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::takeover::Held;
use crate::engine::types::{LaunchFailure, ProbeResult, Role};
use crate::host::notify::{Expected, NotifySocket, Told, listen};
use crate::host::prepare::{Prepared, Preparer, log_keep, log_read};
use crate::host::ready::{PipeSaid, read_ready};
use crate::ids::{Invocation, LaunchId, invocation_text};
use crate::keeper::wire::{Adopt, Identity, Launch, Output, Stage};
use crate::limits::PID_FILE_PAUSE;
use crate::spec::{NotifyAccess, UnitSpec};

/// What a task found out.
#[derive(Debug)]
pub enum News {
    /// A launch is ready for the keeper, or cannot be made.
    Prepared {
        /// Which.
        launch: LaunchId,
        /// What came of it.
        result: Result<Box<Prepared>, LaunchFailure>,
    },
    /// A failure of the keeper's, in words.
    Explained {
        /// Which.
        launch: LaunchId,
        /// The words.
        failure: LaunchFailure,
    },
    /// A readiness pipe spoke, or closed without a word.
    Pipe {
        /// Whose.
        invocation: Invocation,
        /// It said that it is ready.
        is_ready: bool,
    },
    /// A unit was asked how it is.
    Probed {
        /// Which life.
        invocation: Invocation,
        /// The question's number.
        nr: u64,
        /// What came of it.
        result: ProbeResult,
    },
    /// A forking unit's pid file was read; `None`: it has none, the keeper is to look itself.
    MainPid {
        /// Whose.
        launch: LaunchId,
        /// What stands in it.
        pid: Option<u32>,
    },
}

/// What of a launch outlives the manager: enough to hear of it again from the same keeper, and to have another keeper
/// adopt it. No environment, which may hold secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchRecord {
    /// Which.
    pub id: LaunchId,
    invocation: String,
    role: String,
    tag: String,
    output: Output,
    identity: Option<Identity>,
    notify: Option<Vec<u8>>,
    ready_fd: Option<u32>,
    note: Option<String>,
    /// `[exec] pid_file`, filled in.
    pid_file: Option<PathBuf>,
    /// It was somebody else's process before.
    #[serde(default)]
    is_foreign: bool,
}

impl LaunchRecord {
    fn of(launch: &Launch, note: Option<String>, spec: &UnitSpec) -> Self {
        let pid_file = spec.exec.pid_file.as_ref().and_then(|template| {
            let path = template.fill(&|name| lookup(&launch.env, name)).ok()?;
            Some(PathBuf::from(path))
        });
        Self {
            id: launch.id,
            invocation: launch.invocation.clone(),
            role: launch.role.clone(),
            tag: launch.tag.clone(),
            output: launch.output.clone(),
            identity: launch.identity.clone(),
            notify: launch.notify.clone(),
            ready_fd: launch.ready_fd,
            note,
            pid_file,
            is_foreign: false,
        }
    }

    /// What another keeper needs to know to take it over. `main` is its main process with its start time, where that is
    /// known.
    pub fn adopt(&self, main: Option<(u32, u64)>, has_exited: bool) -> Adopt {
        Adopt {
            id: self.id,
            invocation: self.invocation.clone(),
            role: self.role.clone(),
            tag: self.tag.clone(),
            main,
            has_exited,
            output: self.output.clone(),
            notify: self.notify.clone(),
            identity: self.identity.clone(),
            ready_fd: self.ready_fd,
            is_foreign: self.is_foreign,
        }
    }
}

/// One launch that the keeper has been, or is about to be, asked for.
#[derive(Debug)]
struct InFlight {
    spec: Arc<UnitSpec>,
    request: Option<Arc<Launch>>,
    record: Option<LaunchRecord>,
    notify: Option<NotifySocket>,
    /// The readiness pipe, for whoever comes after this process.
    ready: Option<OwnedFd>,
    /// Its notify socket and readiness pipe, until it runs: nothing that it says counts before.
    coming: (Option<OwnedFd>, Option<OwnedFd>),
    /// Why it could not be forked.
    unforked: Option<String>,
    task: Option<JoinHandle<()>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// All launches.
#[derive(Debug)]
pub struct Launches {
    preparer: Preparer,
    cgroup: Option<PathBuf>,
    seed: u64,
    news: mpsc::Sender<News>,
    notices: mpsc::Sender<Told>,
    open: BTreeMap<LaunchId, InFlight>,
}

impl Launches {
    /// None yet. `cgroup` is the folder of the leaves, where there is one.
    pub fn new(
        preparer: Preparer,
        cgroup: Option<PathBuf>,
        news: mpsc::Sender<News>,
        notices: mpsc::Sender<Told>,
    ) -> Self {
        let seed = preparer.node().seed;
        Self {
            preparer,
            cgroup,
            seed,
            news,
            notices,
            open: BTreeMap::new(),
        }
    }

    /// What prepares launches.
    pub fn preparer(&self) -> Preparer {
        self.preparer.clone()
    }

    /// Begins to prepare a launch; `News::Prepared` follows.
    pub fn prepare(&mut self, launch: LaunchId, role: Role, spec: Arc<UnitSpec>) {
        let (preparer, news) = (self.preparer.clone(), self.news.clone());
        let mine = Arc::clone(&spec);
        let task = tokio::spawn(async move {
            let result = preparer.prepare_bounded(mine, role, launch).await.map(Box::new);
            // A manager that is ending no longer listens.
            let _ = news.send(News::Prepared { launch, result }).await;
        });
        let in_flight = InFlight {
            spec,
            request: None,
            record: None,
            notify: None,
            ready: None,
            coming: (None, None),
            unforked: None,
            task: Some(task),
        };
        self.open.insert(launch, in_flight);
    }

    /// The launch is prepared: books what was asked for, and gives what to send to the keeper.
    pub fn on_prepared(&mut self, launch: LaunchId, prepared: Prepared) -> Option<Arc<Launch>> {
        let in_flight = self.open.get_mut(&launch)?;
        let request = Arc::new(prepared.launch);
        in_flight.request = Some(Arc::clone(&request));
        in_flight.record = Some(LaunchRecord::of(&request, prepared.note, &in_flight.spec));
        in_flight.task = None;
        Some(request)
    }

    /// A launch that an earlier manager asked for; the keeper will say what became of it.
    pub fn restore(&mut self, record: LaunchRecord, spec: Arc<UnitSpec>) {
        let in_flight = InFlight {
            spec,
            request: None,
            record: Some(record.clone()),
            notify: None,
            ready: None,
            coming: (None, None),
            unforked: None,
            task: None,
        };
        self.open.insert(record.id, in_flight);
    }

    /// What outlives this manager of a launch; nothing of one that is still being prepared.
    pub fn record(&self, launch: LaunchId) -> Option<&LaunchRecord> {
        self.open.get(&launch)?.record.as_ref()
    }

    /// It was somebody else's process before, and is not ringriftd's child.
    pub fn is_foreign(&self, launch: LaunchId) -> bool {
        self.record(launch).is_some_and(|record| record.is_foreign)
    }

    /// The ears that are open.
    pub fn ends(&self) -> impl Iterator<Item = Held<'_>> {
        self.open.iter().map(|(id, in_flight)| Held {
            id: *id,
            notify: in_flight.notify.as_ref().map(NotifySocket::fd).or(in_flight
                .coming
                .0
                .as_ref()
                .map(OwnedFd::as_fd)),
            ready: in_flight
                .ready
                .as_ref()
                .or(in_flight.coming.1.as_ref())
                .map(OwnedFd::as_fd),
        })
    }

    /// All of them.
    pub fn records(&self) -> impl Iterator<Item = &LaunchRecord> {
        self.open
            .values()
            .filter_map(|in_flight| in_flight.record.as_ref())
    }

    /// A process from outside is about to become this launch. It keeps the output that it has.
    pub fn adopt_foreign(&mut self, launch: LaunchId, spec: Arc<UnitSpec>) -> LaunchRecord {
        let record = LaunchRecord {
            is_foreign: true,
            ..self.record_of_main(launch, &spec)
        };
        self.restore(record.clone(), spec);
        record
    }

    /// What can be said of a unit's main process that nobody remembers having asked for.
    pub fn record_of_main(&self, launch: LaunchId, spec: &UnitSpec) -> LaunchRecord {
        LaunchRecord {
            id: launch,
            invocation: invocation_text(self.seed, launch.invocation),
            role: Role::Main.to_string(),
            tag: spec.name.as_str().to_owned(),
            output: Output {
                unit: spec.name.as_str().to_owned(),
                max_size: spec.log.max_size,
                max_files: spec.log.max_files,
                drain_ms: u64::try_from(spec.stop.drain_timeout.as_millis()).unwrap_or(u64::MAX),
                keep: log_keep(&spec.log),
                read: log_read(&spec.log, self.seed),
            },
            identity: None,
            notify: None,
            ready_fd: None,
            note: None,
            pid_file: None,
            is_foreign: false,
        }
    }

    /// The keeper is about to launch it: keeps its ears, for this process or for the keeper that it may have to become.
    pub fn on_launching(&mut self, launch: LaunchId, fds: Vec<OwnedFd>) {
        if let Some(in_flight) = self.open.get_mut(&launch)
            && let Some(record) = &in_flight.record
        {
            in_flight.coming = ears(record, fds);
        }
    }

    /// The keeper has launched it: opens its ears. Returns the remark on what was run.
    pub fn on_launched(
        &mut self,
        launch: LaunchId,
        pid: u32,
        start_time: u64,
        fds: Vec<OwnedFd>,
    ) -> Option<String> {
        let leaf = self.leaf(launch);
        let in_flight = self.open.get_mut(&launch)?;
        let record = in_flight.record.as_ref()?;
        let (notify, ready) = if fds.is_empty() {
            std::mem::take(&mut in_flight.coming)
        } else {
            ears(record, fds)
        };
        if let Some(socket) = notify {
            let expected = Expected {
                invocation: launch.invocation,
                invocation_text: invocation_text(self.seed, launch.invocation),
                access: in_flight.spec.exec.notify_access,
                main_pid: pid,
                main_start: start_time,
                leaf_id: leaf
                    .as_ref()
                    .and_then(|p| std::fs::metadata(p).ok())
                    .map(|of| of.ino()),
                leaf: leaf.and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned())),
                is_storing: in_flight.spec.exec.fd_store_max > 0,
            };
            match listen(socket, expected, self.notices.clone()) {
                Ok(socket) => in_flight.notify = Some(socket),
                Err(e) => {
                    tracing::error!(unit = %in_flight.spec.name, "cannot listen to its notify socket: {e}")
                }
            }
        }
        if let Some(pipe) = ready {
            in_flight.ready = pipe.try_clone().ok();
            let news = self.news.clone();
            in_flight.task = Some(tokio::spawn(async move {
                let is_ready = matches!(read_ready(pipe).await, Ok(PipeSaid::Ready));
                let _ = news
                    .send(News::Pipe {
                        invocation: launch.invocation,
                        is_ready,
                    })
                    .await;
            }));
        }
        record.note.clone()
    }

    /// It could not be forked from its zygote: what is kept of it says so, if it is executed instead.
    pub fn on_unforked(&mut self, launch: LaunchId, why: &str) -> Option<LaunchRecord> {
        let in_flight = self.open.get_mut(&launch)?;
        in_flight.unforked = Some(why.to_owned());
        let record = in_flight.record.as_mut()?;
        record.note = Some(format!("executed, not forked: {why}"));
        Some(record.clone())
    }

    /// The keeper could not launch it; `News::Explained` follows with the words.
    pub fn on_launch_failed(&mut self, launch: LaunchId, stage: Stage, errno: i32) {
        let Some(mut in_flight) = self.open.remove(&launch) else {
            return;
        };
        let Some(request) = in_flight.request.take() else {
            return;
        };
        let unforked = in_flight.unforked.take();
        let (preparer, news) = (self.preparer.clone(), self.news.clone());
        tokio::spawn(async move {
            if stage == Stage::Zygote {
                let why = unforked.unwrap_or_else(|| "the keeper did not say why".to_owned());
                // It is no fault of the unit's own, and costs it no restart.
                let failure = LaunchFailure {
                    text: format!("cannot be forked from its zygote: {why}"),
                    host: true,
                };
                let _ = news.send(News::Explained { launch, failure }).await;
                return;
            }
            let failure = preparer.explain(stage, errno, request).await;
            let _ = news.send(News::Explained { launch, failure }).await;
        });
    }

    /// Looks for a forking unit's main process; `News::MainPid` follows.
    pub fn find_main(&mut self, launch: LaunchId) {
        let Some(in_flight) = self.open.get_mut(&launch) else {
            return;
        };
        let news = self.news.clone();
        let path = in_flight
            .record
            .as_ref()
            .and_then(|record| record.pid_file.clone());
        in_flight.task = Some(tokio::spawn(async move {
            let pid = match path {
                Some(path) => Some(read_pid_file(path).await),
                None => None,
            };
            let _ = news.send(News::MainPid { launch, pid }).await;
        }));
    }

    /// Another process of it is the main one.
    pub fn expect_main(&self, launch: LaunchId, pid: u32, start_time: u64) {
        if let Some(socket) = self.ear(launch) {
            socket.expect_main(pid, start_time);
        }
    }

    /// Others of it may speak, or may not any more.
    pub fn expect_access(&self, launch: LaunchId, access: NotifyAccess) {
        if let Some(socket) = self.ear(launch) {
            socket.expect_access(access);
        }
    }

    /// When all that it said is heard; `None` when that is so now.
    pub fn drained(&self, launch: LaunchId) -> Option<impl Future<Output = ()> + Send + 'static> {
        self.ear(launch)?.drained()
    }

    fn ear(&self, launch: LaunchId) -> Option<&NotifySocket> {
        self.open.get(&launch)?.notify.as_ref()
    }

    /// It is over, or never was.
    pub fn forget(&mut self, launch: LaunchId) {
        self.open.remove(&launch);
    }

    /// The folder of a launch's cgroup.
    pub fn leaf(&self, launch: LaunchId) -> Option<PathBuf> {
        let name = &self.open.get(&launch)?.spec.name;
        Some(
            self.cgroup
                .as_ref()?
                .join(format!("{name}.{}.{}", launch.invocation.0, launch.step)),
        )
    }
}

/// The notify socket and the readiness pipe among what the keeper attached.
fn ears(record: &LaunchRecord, fds: Vec<OwnedFd>) -> (Option<OwnedFd>, Option<OwnedFd>) {
    let mut fds = fds.into_iter();
    let notify = record.notify.as_ref().and_then(|_| fds.next());
    let ready = record.ready_fd.and_then(|_| fds.next());
    (notify, ready)
}

fn lookup(env: &[Vec<u8>], name: &str) -> Option<String> {
    env.iter().find_map(|entry| {
        let entry = std::str::from_utf8(entry).ok()?;
        let (key, value) = entry.split_once('=')?;
        (key == name).then(|| value.to_owned())
    })
}

/// Reads a pid file as soon as a pid stands in it. Daemons write theirs after their first process has ended, and the
/// kernel tells nobody, so it is looked at again and again; the unit's own start timeout ends that.
async fn read_pid_file(path: PathBuf) -> u32 {
    loop {
        let file = path.clone();
        let read = tokio::task::spawn_blocking(move || read_pid(&file)).await;
        if let Ok(Some(pid)) = read {
            return pid;
        }
        tokio::time::sleep(PID_FILE_PAUSE).await;
    }
}

fn read_pid(path: &std::path::Path) -> Option<u32> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(64).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 1)
}

/// How long a task may take that only cares for the view.
pub const VIEW_TIMEOUT: Duration = Duration::from_secs(1);
