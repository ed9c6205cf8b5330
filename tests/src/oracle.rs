//! What is true after every test, whatever it did: G1 to G9 of the project's list of faults.
//!
//! G1 one life of a unit at a time; G2 the status agrees with /proc; G3 nothing is left after `stop '*'`; G4 no
//! descriptor and no memory is lost; G5 no zombies; G6 one event for each change, without holes; G7 no panic; G8 no
//! spinning; G9 every client ends in time with a documented code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Duration;

use proto::reply::{Event, State, UnitStatus};

use crate::processes::{self, Process};
use crate::{Node, until, until_within};

/// Descriptors that a daemon may have more than a fresh one has.
const DESCRIPTORS_MORE: usize = 2;
/// Memory that a daemon may have more than a fresh one has, in KiB: its ring of events and its buffers may fill.
const RSS_MORE_KIB: u64 = 16 * 1024;
/// And for each unit: its definition, its state in memory and in both halves of what is stored, its last failures.
const RSS_PER_UNIT_KIB: u64 = 48;
/// How long wake-ups are counted.
const IDLE_WINDOW: Duration = Duration::from_millis(1500);
/// How many of them are no spin in that window, for one process.
const IDLE_WAKEUPS: u64 = 10;

impl Node {
    /// Everything; stops all units on the way, and leaves the daemon up.
    ///
    /// # Panics
    /// When something does not hold, with which.
    #[track_caller]
    pub fn check_oracle(&self) {
        self.check_deeds();
        self.check_descriptors_and_memory();
        self.check_idle();
        self.check_status();
        self.check_words();
    }

    /// All but what must be measured over a time (G4, G8): for a test that checks very often.
    ///
    /// # Panics
    /// As [`Self::check_oracle`].
    #[track_caller]
    pub fn check_deeds(&self) {
        self.check_one_life();
        self.check_one_daemon();
        self.check_status();
        self.note_groups();
        self.check_stop_all();
        self.check_zombies();
        self.check_events();
        self.check_words();
    }

    /// [`Self::check_oracle`], then an orderly end.
    #[track_caller]
    pub fn check(mut self) {
        self.check_oracle();
        self.shutdown();
        self.check_words();
    }

    /// G1: all live processes of a unit that are no hooks belong to one life.
    ///
    /// # Panics
    /// When two lives of a unit are up at once.
    #[track_caller]
    pub fn check_one_life(&self) {
        let mut lives: BTreeMap<String, BTreeMap<String, Vec<i32>>> = BTreeMap::new();
        for process in self.unit_processes() {
            if let (Some(unit), Some(life), true) =
                (process.unit(), process.invocation(), process.is_main_role())
            {
                let lives = lives.entry(unit.to_owned()).or_default();
                lives.entry(life.to_owned()).or_default().push(process.pid);
            }
        }
        for (unit, lives) in lives {
            assert!(
                lives.len() <= 1,
                "G1: {unit} has several lives at once: {lives:?}\n{}",
                self.stderr()
            );
        }
    }

    /// G2: what a unit's status says before and after a look at /proc, /proc says too. Returns how many units stood
    /// still meanwhile, and so were compared.
    ///
    /// # Panics
    /// When it does not, and goes on not to.
    #[track_caller]
    pub fn check_status(&self) -> usize {
        self.check_status_by(|| facts(&self.status_of(&[]).1))
    }

    /// The same with the words of `ringriftctl status --json`.
    ///
    /// # Panics
    /// As [`Self::check_status`].
    #[track_caller]
    pub fn check_status_json(&self) -> usize {
        self.check_status_by(|| facts_of_json(&self.ctl(&["status", "--json"]).json()))
    }

    #[track_caller]
    fn check_status_by(&self, facts: impl Fn() -> Facts) -> usize {
        let mut last = String::new();
        // The kernel is ahead of everybody who hears of a death from it, so a difference is given time to go.
        let compared = until_within(Duration::from_secs(10), || {
            let before = facts();
            let processes = self.unit_processes();
            let after = facts();
            match disagreement(&before, &after, &processes) {
                None => Some(
                    before
                        .iter()
                        .filter(|(name, fact)| after.get(*name) == Some(*fact))
                        .count(),
                ),
                Some(difference) => {
                    last = difference;
                    None
                }
            }
        });
        compared.unwrap_or_else(|| panic!("G2: {last}\n{}", self.stderr()))
    }

    /// G3: after `stop '*'` no process and no cgroup of a unit is left.
    #[track_caller]
    fn check_stop_all(&self) {
        let (_, units) = self.status_of(&[]);
        if !units.is_empty() {
            self.ctl(&["stop", "*", "--yes"]).ended(0);
        }
        let left = self.unit_processes();
        assert!(left.is_empty(), "G3: stop '*' left {left:#?}\n{}", self.stderr());
        let groups = self.leftover_groups();
        assert!(
            groups.is_empty(),
            "G3: stop '*' left the groups {groups:?}\n{}",
            self.stderr()
        );
        self.check_no_leaves();
    }

    /// No launch has a cgroup or a socket. The keeper takes them away when the manager lets go of the launch, at the
    /// same moment at which the client hears of it; and the kernel may count a group busy for a moment after its last
    /// process was reaped.
    ///
    /// # Panics
    /// When one stays.
    #[track_caller]
    pub fn check_no_leaves(&self) {
        let own = [self.socket()];
        let gone = until_within(Duration::from_secs(5), || (self.sockets() == own).then_some(()));
        assert!(
            gone.is_some(),
            "G3: sockets are left: {:?}\n{}",
            self.sockets(),
            self.stderr()
        );
        let gone = until_within(Duration::from_secs(5), || self.leaves().is_empty().then_some(()));
        assert!(
            gone.is_some(),
            "G3: cgroups are left: {:?}\n{}",
            self.leaves(),
            self.stderr()
        );
    }

    /// G4, against a node that never had a unit.
    #[track_caller]
    fn check_descriptors_and_memory(&self) {
        let fresh = fresh_daemon();
        let units = std::fs::read_dir(self.path("units")).map_or(0, |files| files.count() as u64);
        let more = RSS_MORE_KIB + RSS_PER_UNIT_KIB * units;
        for (role, pid) in self.role_pids() {
            let (fds, rss) = fresh[role];
            let mut now = 0;
            // The logger keeps the files open that it wrote last: a bounded number, and no loss.
            let log = self.path("log/").display().to_string();
            let settled = until_within(Duration::from_secs(10), || {
                let links = processes::descriptor_links(pid);
                now = links.iter().filter(|link| !link.starts_with(&log)).count();
                (now <= fds + DESCRIPTORS_MORE).then_some(())
            });
            assert!(
                settled.is_some(),
                "G4: the {role} has {now} descriptors, a fresh one {fds}: {:?}",
                processes::descriptor_links(pid)
            );
            let now = processes::status_number(pid, "VmRSS").unwrap_or(0);
            assert!(
                now <= rss + more,
                "G4: the {role} has {now} KiB, a fresh one {rss}"
            );
        }
    }

    /// G5.
    #[track_caller]
    fn check_zombies(&self) {
        let mut left = Vec::new();
        let none = until_within(Duration::from_secs(10), || {
            left = zombies(&self.role_pids().into_values().collect());
            left.is_empty().then_some(())
        });
        assert!(none.is_some(), "G5: zombies: {left:#?}");
    }

    /// G6: numbers without holes; each unit's changes follow each other.
    ///
    /// # Panics
    /// When they do not.
    #[track_caller]
    pub fn check_events(&self) {
        let events = self.history();
        let brief = || crate::client::brief(&events);
        let mut states: BTreeMap<&str, State> = BTreeMap::new();
        for pair in events.windows(2) {
            assert_eq!(
                pair[0].seq + 1,
                pair[1].seq,
                "G6: a hole in the events: {:#?}",
                brief()
            );
        }
        for Event {
            unit, from, to, seq, ..
        } in &events
        {
            if let Some(before) = states.insert(unit, *to) {
                assert_eq!(before, *from, "G6: {unit} jumped at {seq}: {:#?}", brief());
            }
        }
        let (_, units) = self.status_of(&[]);
        if events.first().is_some_and(|event| event.seq == 1) {
            for unit in units {
                let last = states.get(unit.name.as_str()).copied().unwrap_or(State::Stopped);
                assert_eq!(
                    last,
                    unit.state,
                    "G6: {} changed without an event: {:#?}",
                    unit.name,
                    brief()
                );
            }
        }
    }

    /// G7 and G9.
    #[track_caller]
    fn check_words(&self) {
        let stderr = self.stderr();
        // A panic that a test asks for (B21) stands with its reason on the line after it.
        let lines: Vec<&str> = stderr.lines().collect();
        let is_fault = lines
            .iter()
            .zip(lines.iter().skip(1).chain([&""]))
            .any(|(line, next)| {
                line.contains("panicked at") && !next.starts_with("a test asked for a panic")
            });
        assert!(!is_fault, "G7: {stderr}");
        let faults = self.faults.lock().expect("no test panics with it");
        assert!(
            faults.is_empty(),
            "G9: clients ended in ways that nobody documented: {faults:#?}"
        );
    }

    /// G8: with nothing to do, nobody wakes up. Only what wakes again and again is a fault, so a window in which
    /// something happened is given another chance.
    ///
    /// # Panics
    /// When somebody does.
    #[track_caller]
    pub fn check_idle(&self) {
        let mut woken = BTreeMap::new();
        for _ in 0..4 {
            woken = self.wake_ups(IDLE_WINDOW);
            if woken.values().all(|count| *count <= IDLE_WAKEUPS) {
                return;
            }
        }
        panic!(
            "G8: wake-ups in {IDLE_WINDOW:?} with nothing to do: {woken:?}\n{}",
            self.stderr()
        );
    }

    /// How often each role woke up while nobody asked anything of it.
    pub fn wake_ups(&self, window: Duration) -> BTreeMap<&'static str, u64> {
        let roles = self.role_pids();
        let count = |pid: i32| {
            processes::status_number(pid, "voluntary_ctxt_switches").unwrap_or(0)
                + processes::status_number(pid, "nonvoluntary_ctxt_switches").unwrap_or(0)
        };
        let before: BTreeMap<_, _> = roles.iter().map(|(role, pid)| (*role, count(*pid))).collect();
        wait_exactly(window);
        roles
            .iter()
            .map(|(role, pid)| (*role, count(*pid).saturating_sub(before[role])))
            .collect()
    }

    /// The daemon's processes by role.
    pub fn role_pids(&self) -> BTreeMap<&'static str, i32> {
        BTreeMap::from([
            ("keeper", self.keeper()),
            ("manager", self.manager()),
            ("logger", self.logger()),
        ])
    }

    /// Waits until the daemon has no zombie.
    ///
    /// # Panics
    /// When it keeps one.
    pub fn wait_no_zombies(&self) {
        let pids = self.role_pids().into_values().collect();
        until("all zombies are reaped", || {
            zombies(&pids).is_empty().then_some(())
        });
    }
}

/// What of a status can be compared with /proc, and must stand still while that is done.
type Facts = BTreeMap<String, (State, Option<u32>, Option<String>, u64)>;

fn facts(units: &[UnitStatus]) -> Facts {
    let fact = |u: &UnitStatus| (u.name.clone(), (u.state, u.pid, u.invocation.clone(), u.starts));
    units.iter().map(fact).collect()
}

fn facts_of_json(status: &serde_json::Value) -> Facts {
    let fact = |unit: &serde_json::Value| {
        let state =
            serde_json::from_value(unit["state"].clone()).expect("a state is one of the stable words");
        let pid = unit["pid"]
            .as_u64()
            .map(|pid| u32::try_from(pid).expect("a pid is small"));
        let text = |key: &str| unit[key].as_str().map(str::to_owned);
        let starts = unit["starts"].as_u64().expect("starts are counted");
        (
            text("name").expect("a unit has a name"),
            (state, pid, text("invocation"), starts),
        )
    };
    let units = status["units"].as_array().expect("a status has units");
    units.iter().map(fact).collect()
}

/// How the processes differ from what both statuses say, the one before and the one after they were looked at; `None`
/// when they do not. A unit whose status changed meanwhile is not judged.
fn disagreement(before: &Facts, after: &Facts, processes: &[Process]) -> Option<String> {
    let by_pid: BTreeMap<u32, &Process> = processes.iter().map(|p| (p.pid as u32, p)).collect();
    for (unit, fact) in before {
        if after.get(unit) != Some(fact) {
            continue;
        }
        let (state, pid, invocation, _) = fact;
        if let Some(pid) = pid {
            let Some(process) = by_pid.get(pid) else {
                return Some(format!(
                    "{unit} is {state:?} with process {pid}, which is not there"
                ));
            };
            if process.unit() != Some(unit) || process.invocation() != invocation.as_deref() {
                return Some(format!("{unit}'s process {pid} belongs to {:?}", process.unit()));
            }
        }
        let needs_none = matches!(
            state,
            State::Stopped | State::Waiting | State::Backoff | State::Failed | State::Held | State::Completed
        );
        let live = processes
            .iter()
            .any(|p| p.unit() == Some(unit) && p.is_main_role());
        if needs_none && live {
            return Some(format!("{unit} is {state:?}, and has live processes"));
        }
    }
    let strange = processes
        .iter()
        .find(|p| p.unit().is_none_or(|unit| !before.contains_key(unit)));
    strange.map(|p| format!("{p:?} belongs to no unit of the status"))
}

fn zombies(parents: &BTreeSet<i32>) -> Vec<Process> {
    processes::all()
        .into_iter()
        .filter(|p| p.state == 'Z' && parents.contains(&p.ppid))
        .collect()
}

/// Descriptors and memory (KiB) of each role on a node without units, measured once.
fn fresh_daemon() -> &'static BTreeMap<&'static str, (usize, u64)> {
    static FRESH: OnceLock<BTreeMap<&'static str, (usize, u64)>> = OnceLock::new();
    FRESH.get_or_init(|| {
        let mut node = Node::builder().start();
        // Asked once, so that what the first answer allocates is in.
        node.ctl(&["status"]);
        let facts = node
            .role_pids()
            .into_iter()
            .map(|(role, pid)| {
                let rss = processes::status_number(pid, "VmRSS").unwrap_or(0);
                (role, (processes::descriptors(pid), rss))
            })
            .collect();
        node.shutdown();
        facts
    })
}

/// Lets a time pass, by a timer: the one place where a test waits for nothing but the clock, because what it
/// measures is what happens in that time.
pub fn wait_exactly(time: Duration) {
    // No time at all would disarm the timer, and it would never go off.
    if time.is_zero() {
        return;
    }
    use nix::sys::time::TimeSpec;
    use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC).expect("a timer can be made");
    timer
        .set(
            Expiration::OneShot(TimeSpec::from(time)),
            TimerSetTimeFlags::empty(),
        )
        .expect("a timer can be set");
    timer.wait().expect("a timer goes off");
}
