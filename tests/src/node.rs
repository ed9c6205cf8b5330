//! One ringriftd in a folder of its own, from its files to the last trace of it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proto::reply::{Event, NodeStatus, Reply, State, UnitStatus, VersionInfo};
use proto::request::{Depth, Request};
use tempfile::TempDir;

use crate::client::{Client, Events};
use crate::ctl::{self, DOCUMENTED, Output};
use crate::processes::{self, Held, Process};
use crate::{PATIENCE, Unit, programs, until};

/// How the daemon keeps a unit's processes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containment {
    /// As it finds best here.
    Any,
    /// A cgroup for each launch.
    Cgroup,
    /// A session, a process group, and a sweep of /proc.
    ProcessGroup,
}

/// The variable by which every process of a node's units is known: its folder.
const MARK: &str = "RR_TEST_NODE";

/// What the engine of a node did, in its folder.
const RECORDING: &str = "recording";

/// A node in the making. Its folder exists already, so that units can name files in it.
#[derive(Debug)]
pub struct NodeBuilder {
    folder: TempDir,
    listed: Vec<String>,
    profiles: bool,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    config: String,
    containment: Containment,
    is_bare: bool,
    prefix: Vec<String>,
}

impl NodeBuilder {
    /// A folder, and nothing in it yet.
    ///
    /// # Panics
    /// When there is no room for one.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("rrt")
            .tempdir()
            .expect("there is room for a folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        for name in ["units", "profiles", "run", "state", "log"] {
            std::fs::create_dir(folder.path().join(name)).expect("a fresh folder takes folders");
        }
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(folder.path().join("run"), private).expect("it is ours");
        Self {
            folder,
            listed: Vec::new(),
            profiles: false,
            args: Vec::new(),
            env: BTreeMap::new(),
            config: String::new(),
            containment: Containment::Any,
            is_bare: false,
            prefix: Vec::new(),
        }
    }

    /// A place in the node's folder, as text.
    pub fn path(&self, name: &str) -> String {
        self.folder
            .path()
            .join(name)
            .to_str()
            .expect("a path of text")
            .to_owned()
    }

    /// A unit that the profile lists.
    pub fn unit(mut self, name: &str, unit: &Unit) -> Self {
        self.listed.push(name.to_owned());
        self.file(&format!("units/{name}.toml"), &unit.to_toml())
    }

    /// A unit that is defined, but wanted only when somebody pulls it in.
    pub fn spare(self, name: &str, unit: &Unit) -> Self {
        self.file(&format!("units/{name}.toml"), &unit.to_toml())
    }

    /// Any file of the node's folder.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(self, name: &str, text: &str) -> Self {
        let path = self.folder.path().join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).expect("the node's folder takes folders");
        }
        std::fs::write(path, text).expect("the node's folder takes files");
        self
    }

    /// The profile `test`, instead of one that lists every unit added by [`Self::unit`].
    pub fn profile(mut self, text: &str) -> Self {
        self.profiles = true;
        self.file("profiles/test.toml", text)
    }

    /// Lines for the top of `ringriftd.toml`.
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// More arguments for ringriftd.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// A variable for ringriftd.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Started as from a shell: no service manager is there that would hear `READY=1`, and start it again.
    pub fn bare(mut self) -> Self {
        self.is_bare = true;
        self
    }

    /// Started through this program and its arguments, which must become ringriftd by execve(2).
    pub fn through(mut self, prefix: &[&str]) -> Self {
        self.prefix = prefix.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// How units are to be contained.
    pub fn containment(mut self, containment: Containment) -> Self {
        self.containment = containment;
        self
    }

    /// Starts the daemon, and waits until it says that every unit was tried.
    ///
    /// # Panics
    /// When it ends instead, or says nothing in time.
    #[track_caller]
    pub fn start(self) -> Node {
        let mut node = self.launch();
        node.wait_ready();
        node.remember();
        node
    }

    /// Starts the daemon, and waits only until it listens.
    ///
    /// # Panics
    /// When it ends instead, or does not listen in time.
    #[track_caller]
    pub fn start_without_waiting(self) -> Node {
        let mut node = self.launch();
        node.wait_socket();
        node.remember();
        node
    }

    /// Writes the files that every node has, and starts the daemon.
    ///
    /// # Panics
    /// When the program cannot be run.
    pub fn launch(self) -> Node {
        let mut node = self.prepare();
        node.launch_daemon();
        node
    }

    /// Writes the files that every node has, and starts nothing.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn prepare(mut self) -> Node {
        if !self.profiles {
            let listed: Vec<&str> = self.listed.iter().map(String::as_str).collect();
            let text = format!(
                "description = \"of a test\"\nunits = {}\n",
                crate::unit::list(&listed)
            );
            self = self.profile(&text);
        }
        let config = format!(
            "{}\n[defaults.unit.exec]\nenv = {{ {MARK} = {} }}\n",
            self.config,
            crate::unit::quoted(&self.path("")),
        );
        self = self.file("ringriftd.toml", &config);
        let notify = UnixDatagram::bind(self.folder.path().join("n")).expect("a fresh folder takes a socket");
        Node {
            folder: self.folder,
            args: self.args,
            env: self.env,
            unset: Vec::new(),
            containment: self.containment,
            is_bare: self.is_bare,
            prefix: self.prefix,
            daemon: None,
            notify,
            keeper: 0,
            cgroups: BTreeSet::new(),
            faults: Mutex::new(Vec::new()),
            roles: Vec::new(),
        }
    }
}

impl Default for NodeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// A daemon that runs, by its keeper.
#[derive(Debug)]
struct Daemon {
    /// As this process's child; another's when a manager took a keeper's place.
    child: Option<Child>,
    held: Held,
}

impl Daemon {
    fn of(child: Child) -> Self {
        let held = Held::open(child.id() as i32).expect("a child that nobody waited for is there");
        Self {
            child: Some(child),
            held,
        }
    }

    /// Reaps it; how it ended, when this process may know.
    fn reap(mut self) -> Option<ExitStatus> {
        let wait = |child: &mut Child| child.wait().expect("an own child can be waited for");
        self.child.as_mut().map(wait)
    }
}

/// A node with its daemon. Dropping it ends everything that it started.
#[derive(Debug)]
pub struct Node {
    folder: TempDir,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    unset: Vec<String>,
    containment: Containment,
    is_bare: bool,
    prefix: Vec<String>,
    daemon: Option<Daemon>,
    notify: UnixDatagram,
    keeper: i32,
    /// The folders of the leaves of its daemons' launches, where they have one.
    cgroups: BTreeSet<PathBuf>,
    /// What `ringriftctl` did that it may not do (G9).
    pub(crate) faults: Mutex<Vec<String>>,
    /// Every keeper, manager and logger that this node had, as they were first seen.
    roles: Vec<Process>,
}

impl Node {
    /// A node in the making.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::new()
    }

    /// A place in the node's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/control.sock")
    }

    /// The keeper's pid.
    pub fn keeper(&self) -> i32 {
        self.keeper
    }

    /// The manager's pid.
    ///
    /// # Panics
    /// When the keeper has none.
    pub fn manager(&self) -> i32 {
        self.role("manager")
    }

    /// The logger's pid.
    ///
    /// # Panics
    /// When the keeper has none.
    pub fn logger(&self) -> i32 {
        self.role("logger")
    }

    fn role(&self, role: &str) -> i32 {
        let found = self.role_process(role);
        found
            .unwrap_or_else(|| panic!("the keeper has no {role}\n{}", self.stderr()))
            .pid
    }

    /// The arguments that say where this node's files are.
    pub fn places(&self) -> Vec<String> {
        let mut args = vec!["--profile".to_owned(), "test".to_owned()];
        for (flag, name) in [
            ("--config", "ringriftd.toml"),
            ("--units", "units"),
            ("--profiles", "profiles"),
            ("--runtime-dir", "run"),
            ("--state-dir", "state"),
            ("--log-dir", "log"),
        ] {
            args.push(flag.to_owned());
            args.push(self.path(name).to_str().expect("a path of text").to_owned());
        }
        args
    }

    /// A ringriftd on this node's folders, not started yet.
    pub fn command(&self) -> Command {
        let program = programs::ringriftd();
        let mut command = match self.prefix.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command
            .args(self.places())
            .arg("--record")
            .arg(self.path(RECORDING))
            .args(&self.args)
            .stdin(Stdio::null())
            .current_dir("/");
        for name in [
            "RINGRIFT_CONFIG",
            "RINGRIFT_RUNTIME_DIR",
            "RINGRIFT_STATE_DIR",
            "RINGRIFT_LOG_DIR",
        ] {
            command.env_remove(name);
        }
        command
            .env_remove("RINGRIFT_SOCKET")
            .env_remove("NOTIFY_SOCKET")
            // Nodes of tests live side by side: none opens a port unless its test says where.
            .env("RINGRIFT_HTTP", "off")
            .envs(&self.env);
        for name in &self.unset {
            command.env_remove(name);
        }
        if self.containment == Containment::ProcessGroup {
            command.env("RINGRIFT_CONTAINMENT", "process-group");
        }
        command
    }

    /// The next daemon gets nothing of this variable.
    pub fn forget_env(&mut self, name: &str) {
        self.env.remove(name);
        self.unset.push(name.to_owned());
    }

    /// The next daemon is started through this program and its arguments, as by [`NodeBuilder::through`].
    pub fn go_through(&mut self, prefix: &[&str]) {
        self.prefix = prefix.iter().map(|&word| word.to_owned()).collect();
    }

    /// Starts the daemon, the first time or again.
    ///
    /// # Panics
    /// When it runs already, or cannot be run.
    pub fn launch_daemon(&mut self) {
        assert!(self.daemon.is_none(), "this node's daemon runs already");
        let stderr = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path("stderr"))
            .expect("the node's folder takes files");
        let mut command = self.command();
        command
            .stdout(stderr.try_clone().expect("a descriptor is left"))
            .stderr(stderr);
        if !self.is_bare {
            command.env("NOTIFY_SOCKET", self.path("n"));
        }
        self.drain_notifications();
        let daemon = Daemon::of(command.spawn().expect("ringriftd was built"));
        self.keeper = daemon.child.as_ref().map_or(0, |child| child.id() as i32);
        self.daemon = Some(daemon);
    }

    /// What an earlier daemon said of itself, is no word of the next one's.
    fn drain_notifications(&self) {
        self.notify
            .set_nonblocking(true)
            .expect("a socket can be told so");
        while self.notify.recv(&mut [0; 4096]).is_ok() {}
        self.notify
            .set_nonblocking(false)
            .expect("a socket can be told so");
    }

    /// From now on the daemon is the one whose keeper is process `pid`; the keeper before it has ended.
    ///
    /// # Panics
    /// When the keeper before it is still there, or this one is not.
    #[track_caller]
    pub fn follow(&mut self, pid: i32) {
        if let Some(before) = self.daemon.take() {
            assert!(before.held.wait(PATIENCE), "the keeper {} lives on", self.keeper);
            before.reap();
        }
        let held =
            Held::open(pid).unwrap_or_else(|| panic!("the new keeper {pid} is gone\n{}", self.stderr()));
        self.keeper = pid;
        self.daemon = Some(Daemon { child: None, held });
        self.remember();
    }

    /// Takes a daemon over that the test started on this node's places by [`Self::command`].
    ///
    /// # Panics
    /// When there is one already, or this one does not listen.
    #[track_caller]
    pub fn adopt(&mut self, child: Child) {
        assert!(self.daemon.is_none(), "this node's daemon runs already");
        self.keeper = child.id() as i32;
        self.daemon = Some(Daemon::of(child));
        self.wait_socket();
        self.remember();
    }

    /// What the daemon wrote to its standard streams so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path("stderr")).unwrap_or_default()).into_owned()
    }

    fn held(&self) -> &Held {
        &self.daemon.as_ref().expect("the daemon was started").held
    }

    /// Waits for READY=1 on the daemon's own notify socket; of a bare one, until it says that every unit was tried.
    ///
    /// # Panics
    /// When the daemon ends, or is not ready in time.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        if self.is_bare {
            self.wait_socket();
            until("every unit was tried", || {
                self.status_of(&[]).0.settled.then_some(())
            });
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut fds = [
                PollFd::new(self.notify.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.held().fd(), PollFlags::POLLIN),
            ];
            let left = deadline.saturating_duration_since(Instant::now());
            let n = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)).unwrap_or(0);
            let (said, ended) = (fds[0].any() == Some(true), fds[1].any() == Some(true));
            if said {
                let mut text = [0; 4096];
                let n = self.notify.recv(&mut text).expect("a datagram waits");
                if String::from_utf8_lossy(&text[..n])
                    .lines()
                    .any(|line| line == "READY=1")
                {
                    return;
                }
            }
            assert!(
                said || !ended,
                "the daemon ended before it was ready:\n{}",
                self.stderr()
            );
            assert!(
                n > 0,
                "the daemon was not ready after {PATIENCE:?}:\n{}",
                self.stderr()
            );
        }
    }

    /// Waits until the control socket takes connections.
    ///
    /// # Panics
    /// When the daemon ends, or does not listen in time.
    #[track_caller]
    pub fn wait_socket(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.held().wait(Duration::from_millis(20));
            assert!(!ended, "the daemon ended before it listened:\n{}", self.stderr());
            assert!(
                Instant::now() < deadline,
                "nobody listened after {PATIENCE:?}:\n{}",
                self.stderr()
            );
        }
    }

    /// Waits until a daemon that somebody else started on this node's places takes connections.
    ///
    /// # Panics
    /// When it does not in time.
    #[track_caller]
    pub fn wait_listening(&self) {
        crate::until("somebody listens", || UnixStream::connect(self.socket()).ok());
    }

    /// Notes who the daemon's processes are, and holds it to the containment that was asked for.
    #[track_caller]
    pub fn remember(&mut self) {
        let (node, _) = self.status_of(&[]);
        let is = node.containment.to_lowercase();
        match self.containment {
            Containment::Any => {}
            Containment::Cgroup => assert!(is.starts_with("cgroup"), "containment is {is}"),
            Containment::ProcessGroup => assert!(!is.starts_with("cgroup"), "containment is {is}"),
        }
        let folder = node.containment.strip_prefix("cgroup ").map(PathBuf::from);
        self.cgroups.extend(folder);
        self.note_roles();
    }

    /// Adds the daemon's present processes to those that must be gone in the end.
    pub fn note_roles(&mut self) {
        self.roles.extend(self.daemon_processes());
    }

    /// Runs `ringriftctl` against this node.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> Output {
        self.ctl_within(args, PATIENCE * 2, |_| {})
    }

    /// The same with its own deadline, and with changes to how it is run.
    #[track_caller]
    pub fn ctl_within(&self, args: &[&str], bound: Duration, prepare: impl FnOnce(&mut Command)) -> Output {
        let output = ctl::run(programs::ringriftctl(), args, bound, |command| {
            command.env("RINGRIFT_SOCKET", self.socket()).env("NO_COLOR", "1");
            prepare(command);
        });
        if !output.code.is_some_and(|code| DOCUMENTED.contains(&code)) {
            self.faults
                .lock()
                .expect("no test panics with it")
                .push(output.to_string());
        }
        output
    }

    /// A client's connection, welcomed.
    pub fn client(&self) -> Client {
        Client::connect(&self.socket())
    }

    /// All that happens, from the first event on.
    pub fn events(&self) -> Events {
        Events::follow(&self.socket(), None)
    }

    /// All that happened so far.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[track_caller]
    pub fn history(&self) -> Vec<Event> {
        let request = Request::Events {
            selectors: Vec::new(),
            follow: false,
            after: None,
            since_us: None,
        };
        let replies = self.client().call(request).expect("the daemon answers");
        replies
            .into_iter()
            .filter_map(|reply| match reply {
                Reply::Event(event) => Some(*event),
                // What is missing shows in the numbers.
                Reply::End | Reply::Lagged(_) | Reply::Warning(_) => None,
                other => panic!("{other:?} among events"),
            })
            .collect()
    }

    /// The node's header, and the units selected (none: all that are known).
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[track_caller]
    pub fn status_of(&self, selectors: &[&str]) -> (NodeStatus, Vec<UnitStatus>) {
        let request = Request::Status {
            selectors: selectors.iter().map(|&s| s.to_owned()).collect(),
            depth: Depth::Usage,
            all: true,
        };
        let replies = self.client().call(request).expect("the daemon answers");
        let (mut node, mut units) = (None, Vec::new());
        for reply in replies {
            match reply {
                Reply::Node(it) => node = Some(*it),
                Reply::Units(more) => units.extend(more),
                Reply::End => {}
                other => panic!("{other:?} instead of a status"),
            }
        }
        (node.expect("a status begins with the node"), units)
    }

    /// One unit.
    ///
    /// # Panics
    /// When there is no such unit.
    #[track_caller]
    pub fn unit(&self, name: &str) -> UnitStatus {
        let (_, units) = self.status_of(&[name]);
        units
            .into_iter()
            .find(|u| u.name == name)
            .unwrap_or_else(|| panic!("no unit {name} in the answer"))
    }

    /// A unit's main process.
    ///
    /// # Panics
    /// When it has none.
    #[track_caller]
    pub fn pid(&self, name: &str) -> i32 {
        let unit = self.unit(name);
        unit.pid
            .unwrap_or_else(|| panic!("{name} has no process: {unit:#?}\n{}", self.stderr())) as i32
    }

    /// Waits until a unit is in `state`, by its events.
    #[track_caller]
    pub fn wait_state(&self, name: &str, state: State) -> UnitStatus {
        self.wait_unit(name, &format!("{state:?}"), |unit| unit.state == state)
    }

    /// Waits until a unit's status is as wanted; looks again at each event of any unit.
    ///
    /// # Panics
    /// When that does not come about in time.
    #[track_caller]
    pub fn wait_unit(&self, name: &str, what: &str, wanted: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
        let mut events = self.events();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let unit = self.unit(name);
            if wanted(&unit) {
                return unit;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // A status text changes without an event: at the latest after a second it is looked at again.
            events.next(left.min(Duration::from_secs(1)));
            assert!(
                !left.is_zero(),
                "{name} is not {what}: {unit:#?}\n{:#?}\n{}",
                crate::client::brief(&events.seen),
                self.stderr()
            );
        }
    }

    /// Versions, pids and places.
    ///
    /// # Panics
    /// When the daemon does not answer.
    pub fn version(&self) -> VersionInfo {
        match self
            .client()
            .call(Request::Version)
            .expect("the daemon answers")
            .swap_remove(0)
        {
            Reply::Version(version) => version,
            other => panic!("{other:?} instead of a version"),
        }
    }

    /// Every live process of this node's units, found by the environment that they were given.
    pub fn unit_processes(&self) -> Vec<Process> {
        processes::marked(MARK, self.path("").to_str().expect("a path of text"))
    }

    /// Kills the keeper, the manager and the logger as a crash does, and waits for their end.
    ///
    /// # Panics
    /// When there is no daemon.
    pub fn kill_daemon(&mut self) {
        let all: Vec<Held> = self
            .daemon_processes()
            .iter()
            .filter_map(|p| Held::open(p.pid))
            .collect();
        let daemon = self.daemon.take().expect("the daemon was started");
        // The keeper first: it would start another manager.
        daemon.held.signal(libc::SIGKILL);
        for process in &all {
            process.signal(libc::SIGKILL);
        }
        assert!(daemon.held.wait(PATIENCE), "the keeper survived SIGKILL");
        daemon.reap();
        for process in &all {
            assert!(process.wait(PATIENCE), "a process survived SIGKILL");
        }
        let left = self.daemon_processes();
        assert!(
            left.is_empty(),
            "the daemon lives on: {left:#?}\n{}",
            self.stderr()
        );
    }

    /// Waits for the daemon's end, which something else caused.
    ///
    /// # Panics
    /// When it has not come in time.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let status = self.wait_any_end();
        status.expect("how another process's child ended is not known here")
    }

    /// The same for a keeper that is perhaps another process's child: how it ended is known for an own one.
    #[track_caller]
    fn wait_any_end(&mut self) -> Option<ExitStatus> {
        assert!(
            self.held().wait(PATIENCE * 2),
            "the daemon has not ended:\n{}",
            self.stderr()
        );
        self.daemon.take().and_then(Daemon::reap)
    }

    /// Ends the daemon by SIGTERM, and checks that nothing of it is left.
    ///
    /// # Panics
    /// When it ends with another code than 0, or something is left.
    #[track_caller]
    pub fn shutdown(&mut self) {
        assert!(
            self.held().signal(libc::SIGTERM),
            "the daemon ended by itself:\n{}",
            self.stderr()
        );
        if let Some(status) = self.wait_any_end() {
            assert_eq!(status.code(), Some(0), "{status}\n{}", self.stderr());
        }
        self.assert_gone();
    }

    /// Checks that after the daemon's end no process, socket or cgroup of it is left.
    ///
    /// # Panics
    /// When something is.
    #[track_caller]
    pub fn assert_gone(&self) {
        let left = self.unit_processes();
        assert!(
            left.is_empty(),
            "processes are left: {left:#?}\n{}",
            self.stderr()
        );
        for role in &self.roles {
            let alive = Process::read(role.pid).filter(|p| p.start_time == role.start_time && p.is_alive());
            assert!(
                alive.is_none(),
                "a process of the daemon is left: {role:?}\n{}",
                self.stderr()
            );
        }
        let sockets = self.sockets();
        assert!(
            sockets.is_empty(),
            "sockets are left: {sockets:?}\n{}",
            self.stderr()
        );
        for folder in &self.cgroups {
            assert!(!folder.exists(), "the cgroup is left: {}", folder.display());
        }
        let groups = self.leftover_groups();
        assert!(
            groups.is_empty(),
            "cgroups are left: {groups:?}\n{}",
            self.stderr()
        );
    }

    /// Every socket below the run-time folder.
    pub fn sockets(&self) -> Vec<PathBuf> {
        use std::os::unix::fs::FileTypeExt;
        let is_socket =
            |path: &PathBuf| std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        let mut all = walk_all(&self.path("run"));
        all.retain(is_socket);
        all
    }

    /// The cgroups of this daemon's launches that are there now; none without cgroups.
    pub fn leaves(&self) -> Vec<PathBuf> {
        self.cgroups
            .iter()
            .flat_map(|folder| processes::folders(folder))
            .collect()
    }

    /// Folders of cgroups that belong to no daemon any more: a leaf's name carries a serial, and the folder above
    /// is the daemon's. Filled by [`Self::note_groups`].
    pub fn leftover_groups(&self) -> Vec<PathBuf> {
        let text = std::fs::read_to_string(self.path("groups")).unwrap_or_default();
        text.lines()
            .map(PathBuf::from)
            .filter(|group| group.exists())
            .collect()
    }

    /// Writes down the cgroups that the node's units are in now, so that they can be missed later.
    pub fn note_groups(&self) {
        use std::io::Write;
        let own = processes::cgroup_of(std::process::id() as i32);
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path("groups"))
            .expect("the node's folder takes files");
        for process in self.unit_processes() {
            if let Some(group) = processes::cgroup_of(process.pid)
                && Some(&group) != own.as_ref()
            {
                let _ = writeln!(file, "{}", group.display());
            }
        }
    }

    /// What its engines were told gives the same actions once more, byte for byte. One that never began has no recording.
    ///
    /// # Panics
    /// When it does not, with the first difference.
    #[track_caller]
    pub fn check_recording(&self) {
        for name in [format!("{RECORDING}.1"), RECORDING.to_owned()] {
            let path = self.path(&name);
            if std::fs::metadata(&path).map_or(0, |found| found.len()) == 0 {
                continue;
            }
            let output = Command::new(programs::ringriftd())
                .args(["simulate", "--replay"])
                .arg(&path)
                .output()
                .expect("ringriftd was built");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let talk = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "the recording gives something else: {}\n{said}{talk}\n{}",
                output.status,
                self.stderr()
            );
        }
    }

    /// True when no daemon is to be expected any more: its end was waited for.
    pub fn has_ended(&self) -> bool {
        self.daemon.is_none()
    }

    /// True while the daemon runs.
    pub fn is_up(&self) -> bool {
        self.daemon
            .as_ref()
            .is_some_and(|daemon| !daemon.held.wait(Duration::ZERO))
    }

    /// The text of a file in the node's folder; empty when there is none.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }

    /// The log files of a unit, one after another, the oldest first.
    pub fn log_files(&self, unit: &str) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = walk(&self.path("log"))
            .into_iter()
            .filter(|file| {
                file.components()
                    .any(|part| part.as_os_str().to_string_lossy().starts_with(unit))
            })
            .collect();
        files.sort();
        files
    }
}

/// Every file below a folder.
pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = walk_all(folder);
    files.retain(|path| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file()));
    files
}

/// Everything below a folder but folders.
fn walk_all(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.filter_map(Result::ok) {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(walk_all(&entry.path())),
            Ok(_) => found.push(entry.path()),
            Err(_) => {}
        }
    }
    found
}

impl Drop for Node {
    fn drop(&mut self) {
        // Whatever a failed test left: the keeper first, so that nothing is started again, then who is marked.
        if let Some(daemon) = self.daemon.take() {
            daemon.held.signal(libc::SIGKILL);
            daemon.reap();
        }
        for _ in 0..50 {
            let left = self.daemon_processes();
            if left.is_empty() {
                break;
            }
            for held in left.iter().filter_map(|p| Held::open(p.pid)) {
                held.signal(libc::SIGKILL);
                held.wait(Duration::from_secs(1));
            }
        }
        for _ in 0..50 {
            let left = self.unit_processes();
            if left.is_empty() {
                break;
            }
            for process in left {
                if let Some(held) = Held::open(process.pid) {
                    // The number may have changed hands between the look and the descriptor.
                    if Process::read(process.pid).is_some_and(|p| p.start_time == process.start_time) {
                        held.signal(libc::SIGKILL);
                        held.wait(Duration::from_secs(1));
                    }
                }
            }
        }
        for group in self.leftover_groups() {
            let _ = std::fs::remove_dir(group);
        }
        if !std::thread::panicking() {
            self.check_recording();
        }
    }
}
