//! Launches between the engine's wish and the keeper's answer, and what hangs on them: the notify socket, the readiness
//! pipe, the search for a forking unit's main process. Everything that may block or wait is a task of its own that
//! reports back as [`News`].

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::engine::types::{LaunchFailure, Role};
use crate::host::notify::{Expected, NotifySocket, Told, listen};
use crate::host::prepare::{Prepared, Preparer};
use crate::host::ready::{PipeSaid, read_ready};
use crate::ids::{Invocation, LaunchId, invocation_text};
use crate::keeper::wire::{Launch, Stage};
use crate::limits::PID_FILE_PAUSE;
use crate::spec::UnitSpec;

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
    /// A forking unit's pid file was read; `None`: it has none, the keeper is to look itself.
    MainPid {
        /// Whose.
        launch: LaunchId,
        /// What stands in it.
        pid: Option<u32>,
    },
}

/// One launch that the keeper has been, or is about to be, asked for.
#[derive(Debug)]
struct InFlight {
    spec: Arc<UnitSpec>,
    request: Option<Arc<Launch>>,
    note: Option<String>,
    notify: Option<NotifySocket>,
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
            note: None,
            notify: None,
            task: Some(task),
        };
        self.open.insert(launch, in_flight);
    }

    /// The launch is prepared: books what was asked for, and gives what to send to the keeper.
    pub fn on_prepared(&mut self, launch: LaunchId, prepared: Prepared) -> Option<Arc<Launch>> {
        let in_flight = self.open.get_mut(&launch)?;
        let request = Arc::new(prepared.launch);
        in_flight.request = Some(Arc::clone(&request));
        in_flight.note = prepared.note;
        in_flight.task = None;
        Some(request)
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
        let request = in_flight.request.as_ref()?;
        let mut fds = fds.into_iter();
        if request.notify.is_some()
            && let Some(socket) = fds.next()
        {
            let expected = Expected {
                invocation: launch.invocation,
                invocation_text: invocation_text(self.seed, launch.invocation),
                access: in_flight.spec.exec.notify_access,
                main_pid: pid,
                main_start: start_time,
                leaf: leaf.and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned())),
            };
            match listen(socket, expected, self.notices.clone()) {
                Ok(socket) => in_flight.notify = Some(socket),
                Err(e) => {
                    tracing::error!(unit = %in_flight.spec.name, "cannot listen to its notify socket: {e}")
                }
            }
        }
        if request.ready_fd.is_some()
            && let Some(pipe) = fds.next()
        {
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
        in_flight.note.clone()
    }

    /// The keeper could not launch it; `News::Explained` follows with the words.
    pub fn on_launch_failed(&mut self, launch: LaunchId, stage: Stage, errno: i32) {
        let request = self
            .open
            .remove(&launch)
            .and_then(|mut in_flight| in_flight.request.take());
        let Some(request) = request else { return };
        let (preparer, news) = (self.preparer.clone(), self.news.clone());
        tokio::spawn(async move {
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
        let path = in_flight.spec.exec.pid_file.as_ref().and_then(|template| {
            let env = in_flight
                .request
                .as_ref()
                .map(|r| r.env.clone())
                .unwrap_or_default();
            template.fill(&|name| lookup(&env, name)).ok()
        });
        in_flight.task = Some(tokio::spawn(async move {
            let pid = match path {
                Some(path) => Some(read_pid_file(PathBuf::from(path)).await),
                None => None,
            };
            let _ = news.send(News::MainPid { launch, pid }).await;
        }));
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
