//! What a test does to a daemon that must survive it: its roles are killed by descriptor, and waited for until they
//! answer again; what lived before is compared with what lives after.
//!
//! Read first: [`Role`] and [`Node::kill_role`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use proto::frame::VERSION;
use proto::reply::{Event, Reply, State, UnitStatus, VersionInfo};
use proto::request::Request;

use crate::client::Client;
use crate::processes::{self, Held, Process};
use crate::{Node, NodeBuilder, PATIENCE, Unit, numbers, until, until_within};

/// One of the daemon's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The parent of all.
    Keeper,
    /// The one that thinks.
    Manager,
    /// The one that writes logs.
    Logger,
}

impl Role {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Keeper, Self::Manager, Self::Logger];

    /// Its name, and but for the keeper's the first word of its arguments.
    pub fn word(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Manager => "manager",
            Self::Logger => "logger",
        }
    }

    /// What a process of ringriftd's is, by its arguments.
    fn of(process: &Process) -> Self {
        match process.argv.get(1).map(String::as_str) {
            Some("manager") => Self::Manager,
            Some("logger") => Self::Logger,
            _ => Self::Keeper,
        }
    }
}

/// A unit's main process: its name, its pid, its start time.
pub type Main = (String, i32, u64);

impl Node {
    /// Every live process of this node's ringriftd, whoever is its parent: known by its arguments, which name the node's
    /// folder.
    pub fn daemon_processes(&self) -> Vec<Process> {
        let folder = self.path("");
        let folder = folder.to_str().expect("a path of text");
        let is_ours = |p: &Process| {
            let program = p.argv.first().map(String::as_str).unwrap_or_default();
            // Between clone(2) and execve(2) a child bears its parent's arguments, and a private name.
            let is_unborn = p.name.len() == 15 && p.name.starts_with("rr-");
            p.is_alive()
                && !is_unborn
                && program.rsplit('/').next() == Some("ringriftd")
                && !matches!(
                    p.argv.get(1).map(String::as_str),
                    Some("check" | "stand-in" | "self-check")
                )
                && p.argv.iter().any(|arg| arg.starts_with(folder))
        };
        processes::all().into_iter().filter(is_ours).collect()
    }

    /// The live process with this role.
    pub fn role_process(&self, word: &str) -> Option<Process> {
        let mut all = self.daemon_processes();
        all.retain(|p| Role::of(p).word() == word && (word != "keeper" || p.pid == self.keeper()));
        all.pop()
    }

    /// The live process with this role.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn role_of(&self, role: Role) -> Process {
        self.role_process(role.word())
            .unwrap_or_else(|| panic!("there is no {}\n{}", role.word(), self.stderr()))
    }

    /// Kills a role's process as a crash does, waits for its end, and returns who it was.
    ///
    /// # Panics
    /// When there is none, or it lives on.
    #[track_caller]
    pub fn kill_role(&self, role: Role) -> Process {
        let process = until(&format!("there is a {}", role.word()), || {
            let process = self.role_process(role.word())?;
            let held = Held::open(process.pid)?;
            // It may have ended by itself, between the look and the descriptor.
            held.signal(libc::SIGKILL).then_some((process, held))
        });
        assert!(process.1.wait(PATIENCE), "{process:?} survived SIGKILL");
        process.0
    }

    /// Kills the manager, and waits until the next one answers.
    ///
    /// # Panics
    /// When none does in time.
    #[track_caller]
    pub fn crash_manager(&mut self) -> VersionInfo {
        let before = self.kill_role(Role::Manager);
        self.wait_manager_after(&before)
    }

    /// Kills the logger, and waits until there is another.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn crash_logger(&mut self) -> Process {
        let before = self.kill_role(Role::Logger);
        let after = until("there is another logger", || {
            self.role_process("logger").filter(|p| !is_same(p, &before))
        });
        self.note_roles();
        after
    }

    /// Kills the keeper of a daemon that was started bare, and waits until its manager has taken its place and another
    /// manager answers.
    ///
    /// # Panics
    /// When that does not come about in time.
    #[track_caller]
    pub fn crash_keeper(&mut self) -> VersionInfo {
        let manager = self.role_of(Role::Manager);
        let keeper = self.kill_role(Role::Keeper);
        let version = self.wait_answer("a new keeper's manager answers", |version| {
            version.keeper_pid != keeper.pid as u32 && version.manager_pid != manager.pid as u32
        });
        assert_eq!(
            version.keeper_pid,
            manager.pid as u32,
            "the keeper that came is not the manager that was: {version:?}\n{}",
            self.stderr()
        );
        self.follow(version.keeper_pid as i32);
        version
    }

    /// Starts ringriftd again over what an earlier one left, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.launch_daemon();
        self.wait_ready();
        self.remember();
    }

    /// Waits until a manager that is not `before` answers.
    ///
    /// # Panics
    /// When none does in time.
    #[track_caller]
    pub fn wait_manager_after(&mut self, before: &Process) -> VersionInfo {
        let version = self.wait_answer("another manager answers", |version| {
            version.manager_pid != before.pid as u32
        });
        self.note_roles();
        version
    }

    /// Waits for an answer that is as wanted.
    ///
    /// # Panics
    /// When none comes in time.
    #[track_caller]
    pub fn wait_answer(&self, what: &str, wanted: impl Fn(&VersionInfo) -> bool) -> VersionInfo {
        let found = until_within(PATIENCE, || self.try_version().ok().filter(&wanted));
        found.unwrap_or_else(|| panic!("waited in vain: {what}\n{}", self.stderr()))
    }

    /// Asks once, on a connection of its own; an error when the daemon does not answer or dies meanwhile.
    ///
    /// # Errors
    /// Whatever befell the connection.
    pub fn try_call(&self, request: Request) -> io::Result<Vec<Reply>> {
        let mut client = Client::silent(&self.socket())?;
        match client.greet(VERSION)? {
            proto::frame::Welcome::Accepted { .. } => client.call(request),
            other => Err(io::Error::other(format!("not welcome: {other:?}"))),
        }
    }

    /// Versions and pids, if the daemon answers.
    ///
    /// # Errors
    /// Whatever befell the connection.
    pub fn try_version(&self) -> io::Result<VersionInfo> {
        match self.try_call(Request::Version)?.into_iter().next() {
            Some(Reply::Version(version)) => Ok(version),
            other => Err(io::Error::other(format!("{other:?} instead of a version"))),
        }
    }

    /// The main process of each life that is up: those with no ancestor of their own life. A hook is none.
    pub fn mains(&self) -> BTreeSet<Main> {
        let all = self.unit_processes();
        let by_pid: BTreeMap<i32, &Process> = all.iter().map(|p| (p.pid, p)).collect();
        let is_main = |p: &&Process| {
            p.is_main_role()
                && by_pid
                    .get(&p.ppid)
                    .is_none_or(|parent| parent.invocation() != p.invocation())
        };
        all.iter()
            .filter(is_main)
            .filter_map(|p| Some((p.unit()?.to_owned(), p.pid, p.start_time)))
            .collect()
    }

    /// No unit's main process was replaced, ended or doubled since `before`.
    ///
    /// # Panics
    /// When one was.
    #[track_caller]
    pub fn assert_same_mains(&self, before: &BTreeSet<Main>) {
        let now = self.mains();
        let gone: Vec<&Main> = before.difference(&now).collect();
        let new: Vec<&Main> = now.difference(before).collect();
        assert!(
            gone.is_empty() && new.is_empty(),
            "units were disturbed: gone {gone:?}, new {new:?}\n{}",
            self.stderr()
        );
    }

    /// What must be the same before and after a death that asks for no change.
    ///
    /// # Panics
    /// When the daemon does not answer.
    pub fn facts(&self) -> BTreeMap<String, Facts> {
        let (_, units) = self.status_of(&[]);
        units
            .into_iter()
            .map(|status| (status.name.clone(), Facts { status }))
            .collect()
    }

    /// There is one keeper, one manager and one logger: two managers would give orders about the same units.
    ///
    /// # Panics
    /// When there goes on to be another number.
    #[track_caller]
    pub fn check_one_daemon(&self) {
        let mut words = Vec::new();
        // Who died often is started again after 10 s.
        let one = until_within(Duration::from_secs(20), || {
            let all = self.daemon_processes();
            words = all.iter().map(|p| (Role::of(p).word(), p.pid, p.ppid)).collect();
            let is_one = |role| all.iter().filter(|p| Role::of(p) == role).count() == 1;
            Role::ALL.into_iter().all(is_one).then_some(())
        });
        assert!(
            one.is_some(),
            "not one of each role: {words:?}\n{}",
            self.stderr()
        );
    }

    /// Every event that the node remembers, which must begin with `first` or before, without a hole, and agree with what
    /// was heard before.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn check_history(&self, heard: &[Event]) -> Vec<Event> {
        let history = self.history();
        let by_seq: BTreeMap<u64, &Event> = history.iter().map(|event| (event.seq, event)).collect();
        for pair in history.windows(2) {
            assert_eq!(
                pair[0].seq + 1,
                pair[1].seq,
                "a hole or a repeat in the events: {:#?}",
                crate::client::brief(&history)
            );
        }
        for event in heard {
            assert_eq!(
                by_seq.get(&event.seq),
                Some(&event),
                "event {} is not what was told before",
                event.seq
            );
        }
        history
    }
}

/// A unit's status as far as no death of ringriftd's may change it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// As the daemon told it.
    pub status: UnitStatus,
}

impl Facts {
    /// What is the same to the letter.
    fn words(&self) -> String {
        let unit = &self.status;
        let last_exit = unit.last_exit.as_ref().map(|last| last.exit);
        format!(
            "{:?} {} pid {:?} life {:?} ready {} restarts {} starts {} last {last_exit:?} {:?} says {:?} changed {} {:?}",
            unit.state,
            if unit.desired_up { "wanted" } else { "not wanted" },
            unit.pid,
            unit.invocation,
            unit.ready,
            unit.restarts,
            unit.starts,
            unit.last_error,
            unit.status_text,
            unit.needs_restart,
            unit.remains
        )
    }

    /// Times, which are told by two clocks that may drift a little against each other.
    fn times(&self) -> [Option<u64>; 4] {
        let unit = &self.status;
        [
            unit.next_try_us,
            Some(unit.since_us),
            unit.ready_us,
            unit.last_exit.as_ref().map(|last| last.at_us),
        ]
    }
}

/// Holds two looks at all units against each other.
///
/// # Panics
/// When one tells something else.
#[track_caller]
pub fn assert_same(before: &BTreeMap<String, Facts>, after: &BTreeMap<String, Facts>) {
    let names = |facts: &BTreeMap<String, Facts>| facts.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(before), names(after));
    let is_near = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => a.abs_diff(b) < 100_000,
        (a, b) => a == b,
    };
    for (name, before) in before {
        let after = &after[name];
        assert_eq!(before.words(), after.words(), "{name}");
        let pairs = before.times().into_iter().zip(after.times());
        assert!(
            pairs.clone().all(|(a, b)| is_near(a, b)),
            "{name}: times were moved (next try, since, ready, last exit): {:?}",
            pairs.collect::<Vec<_>>()
        );
    }
}

/// True when both are the same process.
pub fn is_same(a: &Process, b: &Process) -> bool {
    (a.pid, a.start_time) == (b.pid, b.start_time)
}

/// Units of every fate, some of which write numbered lines: what a death of ringriftd's must leave as it is. [`settle`]
/// brings them where they belong.
pub fn crowd(builder: NodeBuilder, counting: usize) -> NodeBuilder {
    let mut builder = numbers::prepare(builder);
    let count = numbers::unit(&builder, 50).set("restart.max_restarts", "10000");
    for n in 0..counting {
        builder = builder.unit(&format!("c{n:02}"), &count);
    }
    let later = Unit::bad(&["exit", "5"]).kind("simple");
    builder
        .unit(
            "later",
            &later
                .clone()
                .text("restart.delay", "1h")
                .text("restart.max_delay", "1h"),
        )
        .unit("spent", &later.once())
        .unit("done", &Unit::bad(&["exit", "0"]).kind("oneshot").once())
        .unit("stopped", &Unit::bad(&["run"]))
        .unit("held", &Unit::bad(&["run"]))
}

/// Brings a node of [`crowd`] to rest: one unit was stopped by an operator, one is held, one was restarted.
///
/// # Panics
/// When that does not work.
#[track_caller]
pub fn settle(node: &Node) {
    node.ctl(&["stop", "stopped"]).ended(0);
    node.ctl(&["hold", "held", "--note", "of a test"]).ended(0);
    node.ctl(&["stop", "held"]).ended(0);
    let before = node.unit("c00").invocation;
    processes::signal(node.pid("c00"), libc::SIGUSR1);
    node.wait_unit("c00", "running again", |unit| {
        unit.state == State::Running && unit.invocation != before
    });
    for (unit, state) in [
        ("later", State::Backoff),
        ("spent", State::Failed),
        ("done", State::Completed),
        ("stopped", State::Stopped),
        ("held", State::Held),
    ] {
        node.wait_state(unit, state);
    }
}

/// Tells threads to end when it goes out of scope, also by a panic: a scope waits for its threads whatever happened.
#[derive(Debug)]
pub struct Done<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
