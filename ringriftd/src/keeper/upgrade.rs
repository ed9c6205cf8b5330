//! The keeper goes on as another program, in the same process: its children stay its children.
//!
//! A candidate is first asked what it is (`PROGRAM self-check …`, by its descriptor, with a bound); what could not read
//! what this program writes is refused. Then the manager is made to stand still, what it asked for is done, and the
//! candidate is executed with a [`handover`]. It kills the old manager and logger, which may die at any instruction, and
//! starts its own. While its manager has not served, it is on trial: past [`limits::UPGRADE_TRIAL`] it goes back.
//!
//! Should the candidate die or hang before it has taken over, the old manager is still there: its parent's death wakes it
//! (`wakes_at_death`), and it takes the keeper's place with the old program.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use proto::reply::Exit;
use serde::{Deserialize, Serialize};

use super::child::{self, ChildSpec, Failure};
use super::handover::{self, Kind, Received};
use super::launch::kill_each;
use super::roles::{self, describe};
use super::state::{Keeper, Phase, say};
use super::types::{Proc, SharedFd};
use super::wire::{FromKeeper, WIRE_VERSION};
use super::{proc, signal, sys};
use crate::limits;

/// How the `note` of a `Hello` begins when an upgrade succeeded.
pub const UPGRADED: &str = "upgraded from ";

/// The word that asks a program what it is.
pub const SELF_CHECK: &str = "self-check";

/// Versions of something that one program writes and another has to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The one that it writes.
    pub writes: u32,
    /// The oldest and the newest that it reads.
    pub reads: (u32, u32),
}

/// What a program says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfCheck {
    /// `ringriftd`.
    pub program: String,
    /// Its version.
    pub version: String,
    /// What its roles say to each other.
    pub wire: u32,
    /// The manager's state.
    pub state: Versions,
    /// What one keeper leaves to the next.
    pub handover: Versions,
}

impl SelfCheck {
    /// Of this program, whose manager's state has these versions.
    pub fn own(state: Versions) -> Self {
        Self {
            program: "ringriftd".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wire: WIRE_VERSION,
            state,
            handover: Versions {
                writes: handover::VERSION,
                reads: (*handover::READS.start(), *handover::READS.end()),
            },
        }
    }

    /// One line of JSON.
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether `candidate` can go on from what this program leaves; else why not.
    pub fn allows(&self, candidate: &Self) -> Result<(), String> {
        if candidate.program != self.program {
            return Err(format!("it is {:?}, not ringriftd", candidate.program));
        }
        let pairs = [
            ("the state", self.state, candidate.state),
            ("what a keeper hands over", self.handover, candidate.handover),
        ];
        for (what, ours, theirs) in pairs {
            let (oldest, newest) = theirs.reads;
            if !(oldest..=newest).contains(&ours.writes) {
                return Err(format!(
                    "ringriftd {} reads {what} in versions {oldest} to {newest}, and this ringriftd {} writes version {}: \
                     to change to it, end this node with `ringriftctl shutdown` and start that one",
                    candidate.version, self.version, ours.writes
                ));
            }
        }
        Ok(())
    }
}

/// What `Hello`'s `note` says of an upgrade that went well: from which version, and to which.
fn went_well(to: &str) -> String {
    format!("{UPGRADED}{}{TO}{to}", env!("CARGO_PKG_VERSION"))
}

const TO: &str = " to ";
const FAILED: &str = "the upgrade to ";

/// What a note says of an upgrade: from which version to which, or why the old program is back. `None`: it is about
/// something else.
pub fn outcome(note: &str) -> Option<Result<(&str, &str), &str>> {
    match note.strip_prefix(UPGRADED) {
        Some(rest) => rest.split_once(TO).map(Ok),
        None => note.starts_with(FAILED).then_some(Err(note)),
    }
}

/// How far an upgrade is.
#[derive(Debug, Default)]
pub enum Upgrade {
    /// There is none.
    #[default]
    No,
    /// A candidate is being asked what it is.
    Checking(Check),
    /// The change is being made.
    Changing,
    /// This is the new program, whose manager has not served yet.
    Trial(Trial),
}

/// A candidate that is being asked.
#[derive(Debug)]
pub struct Check {
    program: SharedFd,
    process: Proc,
    answer: OwnedFd,
    /// Its output can still bring something.
    is_open: bool,
    text: Vec<u8>,
    until: Instant,
    exit: Option<Exit>,
}

/// What a program that is on trial needs to go back.
#[derive(Debug)]
pub struct WayBack {
    /// The program before.
    pub program: SharedFd,
    /// The manager's state as it was, where the old manager could not read what the new one writes.
    pub state: Option<[OwnedFd; 2]>,
    /// The version of the handover that it wrote, and so can read; it need not know this program's.
    pub version: u32,
}

/// The time in which a new program has to prove itself.
#[derive(Debug)]
pub struct Trial {
    back: WayBack,
    until: Instant,
    deaths: u32,
    /// It has failed.
    failure: Option<String>,
}

impl Keeper {
    /// The manager asks for an upgrade to the program that came with the request.
    pub fn on_upgrade(&mut self, fds: Vec<OwnedFd>) {
        if let Err(why) = self.begin_check(fds) {
            self.refuse_upgrade(why);
        }
    }

    fn refuse_upgrade(&mut self, why: String) {
        say(&format!("no upgrade: {why}"));
        self.tell_manager(&FromKeeper::UpgradeRefused { why }, Vec::new());
    }

    fn begin_check(&mut self, fds: Vec<OwnedFd>) -> Result<(), String> {
        match self.upgrade {
            Upgrade::No => {}
            Upgrade::Checking(_) | Upgrade::Changing | Upgrade::Trial(_) => {
                return Err("another upgrade is under way".to_owned());
            }
        }
        // What became of an earlier one is not this one's outcome, should the manager be replaced meanwhile.
        self.note = None;
        if self.phase != Phase::Serving || !self.is_spawning_roles {
            return Err("ringriftd is starting or ending".to_owned());
        }
        let program = fds.into_iter().next().ok_or("no program came with the request")?;
        // What it says from now on is of this upgrade.
        self.note = None;
        let pipe = |e: nix::Error| format!("cannot make a pipe: {e}");
        let (answer, question) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(pipe)?;
        fcntl(&answer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(pipe)?;
        let process = self.ask_what_it_is(&program, &question)?;
        self.upgrade = Upgrade::Checking(Check {
            program: program.into(),
            process,
            answer,
            is_open: true,
            text: Vec::new(),
            until: Instant::now() + limits::SELF_CHECK_TIMEOUT,
            exit: None,
        });
        Ok(())
    }

    fn ask_what_it_is(&mut self, program: &OwnedFd, question: &OwnedFd) -> Result<Proc, String> {
        // Past the standard ones; a script's interpreter opens it by this name again.
        const PLACE: RawFd = 3;
        let mut argv = vec![text("ringriftd".as_ref())?, text(SELF_CHECK.as_ref())?];
        for arg in &self.config.manager_args {
            argv.push(text(arg)?);
        }
        let spec = ChildSpec {
            program: Some(text(format!("/proc/self/fd/{PLACE}").as_ref())?),
            argv,
            env: roles::environment()?,
            working_dir: None,
            way_in: None,
            oom_score_adj: None,
            nice: None,
            rlimits: Vec::new(),
            umask: 0o077,
            identity: None,
            no_new_privs: false,
            wakes_at_death: false,
            own_pid: Vec::new(),
            fds: vec![
                (self.machine.null.as_raw_fd(), 0),
                (question.as_raw_fd(), 1),
                (2, 2),
                (program.as_raw_fd(), PLACE),
            ],
        };
        child::spawn(&mut self.machine.stack, &spec, &self.machine.marker).map_err(
            |Failure { errno, .. }| match errno {
                libc::ENOEXEC => {
                    "the file is no program for this machine (another architecture, or no program at all)"
                        .to_owned()
                }
                libc::EACCES => {
                    "the file is not executable (chmod +x), or lies on a file system mounted noexec"
                        .to_owned()
                }
                libc::ENOENT => "the file's interpreter is missing".to_owned(),
                other => format!(
                    "the file cannot be executed: {}",
                    std::io::Error::from_raw_os_error(other)
                ),
            },
        )
    }

    /// The candidate said something, or closed its output: the end of its process is what counts.
    pub fn on_check_readable(&mut self) {
        let Upgrade::Checking(check) = &mut self.upgrade else {
            return;
        };
        if !check.read() {
            let process = check.process;
            kill_each(&[process]);
            self.upgrade = Upgrade::No;
            let most = limits::SELF_CHECK_BYTES;
            self.refuse_upgrade(format!(
                "asked what it is, the new program printed more than {most} bytes; it is killed"
            ));
        }
    }

    /// The output of the candidate, while there can be more.
    pub fn check_output(&self) -> Option<&OwnedFd> {
        match &self.upgrade {
            Upgrade::Checking(check) if check.is_open => Some(&check.answer),
            Upgrade::Checking(_) | Upgrade::No | Upgrade::Changing | Upgrade::Trial(_) => None,
        }
    }

    /// `pid` was reaped. True when it was the candidate, which was asked what it is. What follows waits for its turn
    /// ([`Keeper::on_upgrade_time`]): whoever reaps has others in hand, which an execve(2) would lose.
    pub fn on_check_end(&mut self, pid: i32, exit: Exit) -> bool {
        match &mut self.upgrade {
            Upgrade::Checking(check) if check.process.pid() == pid => {
                check.exit = Some(exit);
                true
            }
            Upgrade::Checking(_) | Upgrade::No | Upgrade::Changing | Upgrade::Trial(_) => false,
        }
    }

    fn on_checked(&mut self, mut check: Check, exit: Exit) {
        check.read();
        match self.judge(&check, exit) {
            Ok(candidate) => {
                let version = &candidate.version;
                say(&format!(
                    "the new program is ringriftd {version}: it takes over now"
                ));
                let note = went_well(version);
                self.go_over(&check.program, &candidate, note);
            }
            Err(why) => self.refuse_upgrade(why),
        }
    }

    fn judge(&self, check: &Check, exit: Exit) -> Result<SelfCheck, String> {
        if exit != Exit::Code(0) {
            return Err(format!(
                "asked what it is, the new program ended with {}",
                describe(Some(exit))
            ));
        }
        let candidate: SelfCheck = serde_json::from_slice(&check.text).map_err(|e| {
            format!("asked what it is, the new program gave no answer that ringriftd would give: {e}")
        })?;
        SelfCheck::own(self.config.state_versions).allows(&candidate)?;
        Ok(candidate)
    }

    fn go_over(&mut self, program: &SharedFd, candidate: &SelfCheck, note: String) {
        let old: SharedFd = match File::open("/proc/self/exe") {
            Ok(old) => OwnedFd::from(old).into(),
            Err(e) => {
                return self.refuse_upgrade(format!("the present program could not come back: {e}"));
            }
        };
        let (oldest, newest) = self.config.state_versions.reads;
        let is_readable = (oldest..=newest).contains(&candidate.state.writes);
        let why = self.exchange(program, note, Some((old, is_readable)), handover::VERSION);
        self.upgrade = Upgrade::No;
        self.refuse_upgrade(why);
    }

    /// Goes on as `program`, on trial if there is an old program to go back to, with whether that one reads the state that
    /// the new one writes. `program` is left a handover of `version`. Returns only with why not; then everything is as before.
    fn exchange(
        &mut self,
        program: &SharedFd,
        note: String,
        old: Option<(SharedFd, bool)>,
        version: u32,
    ) -> String {
        self.upgrade = Upgrade::Changing;
        if let Err(why) = self.still_manager() {
            self.wake_manager();
            return why;
        }
        // All that it asked for is done by this program, which knows its words.
        self.read_last_words();
        self.settle_forks("ringriftd was becoming another program");
        let why = if self.phase.is_ending() {
            "ringriftd is ending".to_owned()
        } else {
            match self
                .way_back(old)
                .and_then(|back| self.execute(program, note, back, version))
            {
                Ok(never) => match never {},
                Err(why) => why,
            }
        };
        self.wake_manager();
        why
    }

    /// The manager stands still.
    fn way_back(&self, old: Option<(SharedFd, bool)>) -> Result<Option<WayBack>, String> {
        let Some((program, is_readable)) = old else {
            return Ok(None);
        };
        let copy = || {
            let copied = self.kept.copy_state();
            copied.map_err(|e| format!("the manager's state cannot be kept for the way back: {e}"))
        };
        let state = if is_readable { None } else { Some(copy()?) };
        Ok(Some(WayBack {
            program,
            state,
            version: handover::VERSION,
        }))
    }

    fn execute(
        &self,
        program: &SharedFd,
        note: String,
        back: Option<WayBack>,
        version: u32,
    ) -> Result<std::convert::Infallible, String> {
        let kind = if back.is_some() {
            Kind::Upgrade
        } else {
            Kind::Return
        };
        let mut picture = self.picture(kind, note, back.as_ref());
        // Fields are only ever added: who knows an older version finds all that it knows.
        picture.version = version;
        // A script's interpreter opens the program by its number, so that one is inherited too; whoever takes over closes
        // what it has no use for.
        picture.descriptors.push(program.as_raw_fd());
        let memory = picture.seal()?;
        let argv = std::env::args_os()
            .map(|arg| text(&arg))
            .collect::<Result<Vec<_>, _>>()?;
        let mut env = Vec::new();
        for (name, value) in std::env::vars_os() {
            env.push(assignment(&name, &value)?);
        }
        let number = memory.as_raw_fd().to_string();
        env.push(assignment(handover::VARIABLE.as_ref(), number.as_ref())?);
        let inherited: Vec<RawFd> = picture
            .descriptors
            .iter()
            .copied()
            .chain([memory.as_raw_fd()])
            .collect();
        let mut verdict = Ok(());
        for fd in &inherited {
            verdict = verdict.and_then(|()| handover::set_inherited(*fd, true));
        }
        let why = match verdict {
            Ok(()) => {
                sys::kill_after(limits::UPGRADE_ALARM_SECONDS);
                let e = sys::exec(program.as_fd(), &argv, &env);
                sys::kill_after(0);
                format!("the program cannot be executed: {e}")
            }
            Err(why) => why,
        };
        for fd in &inherited {
            // It was open a moment ago.
            let _ = handover::set_inherited(*fd, false);
        }
        Err(why)
    }

    /// Has the manager stand still, so that it asks for nothing that no program hears.
    fn still_manager(&self) -> Result<(), String> {
        let Some(manager) = self.manager.process else {
            return Ok(());
        };
        signal::send(manager, libc::SIGSTOP).map_err(|e| format!("the manager cannot be stopped: {e}"))?;
        let until = Instant::now() + limits::ROLE_STOP_WAIT;
        loop {
            match proc::stat(manager.pid()) {
                Ok(stat) if !stat.is_dead() && stat.state != b'T' && stat.state != b't' => {}
                Ok(_) | Err(_) => return Ok(()),
            }
            if Instant::now() >= until {
                return Err("the manager does not stand still".to_owned());
            }
            let _ = nix::poll::poll(&mut [], 1u8);
        }
    }

    fn wake_manager(&self) {
        if let Some(manager) = self.manager.process
            && let Err(e) = signal::send(manager, libc::SIGCONT)
        {
            say(&format!("cannot let the manager go on: {e}"));
        }
    }

    /// The first act of a program that goes on: what the old one left is taken up, so its roles are ended, and this one's
    /// are started when they are gone.
    pub fn begin_again(&mut self, mut left: Received) -> Result<(), String> {
        self.take_up(&mut left)?;
        self.phase = Phase::Serving;
        self.lives.has_served = true;
        let now = Instant::now();
        if left.picture.kind == Kind::Upgrade
            && let Some(old_program) = left.maybe(left.picture.old_program)?
        {
            let state = match left.picture.old_state {
                None => None,
                Some([first, second]) => Some([left.fd(first)?, left.fd(second)?]),
            };
            self.upgrade = Upgrade::Trial(Trial {
                back: WayBack {
                    program: old_program.into(),
                    state,
                    version: left.picture.version,
                },
                until: now + limits::UPGRADE_TRIAL,
                deaths: 0,
                failure: None,
            });
        }
        let is_child = |role: &Proc| proc::stat(role.pid()).is_ok_and(|now| now.ppid == self.own_pid);
        // Nobody tells this process of its end: it is ended when its successor is started.
        self.logger_elsewhere = self.logger.process.take_if(|logger| !is_child(logger));
        for role in [&mut self.manager, &mut self.logger] {
            role.is_replaced = role.process.is_some();
            role.link = None;
            kill_each(role.process.as_slice());
        }
        // What was being watched or waited for is looked at anew.
        for id in self.leftover.clone() {
            self.watch(id);
        }
        self.look_again.get_or_insert(now + limits::KEEPER_LOOK_AGAIN);
        self.logger_restarts.is_planned = true;
        self.lives.at = Some(now + limits::ROLE_REPLACE_WAIT);
        self.logger_restarts.at = Some(now + limits::ROLE_REPLACE_WAIT);
        self.on_replaced();
        Ok(())
    }

    /// One of the old program's roles has gone: the new logger starts as soon as the old one has, and the manager when both
    /// have.
    pub fn on_replaced(&mut self) {
        let now = Instant::now();
        let (is_logger_left, is_manager_left) = (self.logger.is_replaced, self.manager.is_replaced);
        if !is_logger_left && self.logger.process.is_none() && self.logger_restarts.at.is_some() {
            self.logger_restarts.at = Some(now);
        }
        if !is_logger_left && !is_manager_left && self.lives.at.is_some() {
            self.lives.at = Some(now);
        }
    }

    /// The manager of this program serves: it has proved itself.
    pub fn end_trial(&mut self) {
        match std::mem::take(&mut self.upgrade) {
            Upgrade::Trial(_) => say(self.note.as_deref().unwrap_or("upgraded")),
            other @ (Upgrade::Checking(_) | Upgrade::No | Upgrade::Changing) => self.upgrade = other,
        }
    }

    /// A manager died, which `how` says: past the last one that may, the old program comes back.
    pub fn on_trial_death(&mut self, how: &str) {
        let Upgrade::Trial(trial) = &mut self.upgrade else {
            return;
        };
        trial.deaths += 1;
        if trial.deaths >= limits::UPGRADE_DEATHS {
            trial.failure = Some(format!("its manager died before it served ({how})"));
        }
    }

    /// When the upgrade wants to be looked at.
    pub fn upgrade_deadline(&self) -> Option<Instant> {
        match &self.upgrade {
            Upgrade::Checking(check) => Some(check.until),
            Upgrade::Trial(trial) => Some(trial.until),
            Upgrade::No | Upgrade::Changing => None,
        }
    }

    /// The candidate has ended, the new program has failed, or their time is up. Whoever calls has nothing in hand: it may
    /// not return.
    pub fn on_upgrade_time(&mut self, now: Instant) {
        match std::mem::take(&mut self.upgrade) {
            Upgrade::Checking(check) => match check.exit {
                Some(exit) => self.on_checked(check, exit),
                None if check.until <= now => {
                    kill_each(&[check.process]);
                    let time = limits::SELF_CHECK_TIMEOUT;
                    self.refuse_upgrade(format!(
                        "asked what it is, the new program did not end within {time:?}; it is killed"
                    ));
                }
                None => self.upgrade = Upgrade::Checking(check),
            },
            Upgrade::Trial(trial) => {
                let time = limits::UPGRADE_TRIAL;
                let late = || format!("its manager did not serve within {time:?}");
                match trial.failure.clone().or_else(|| (trial.until <= now).then(late)) {
                    Some(why) => self.go_back(trial.back, &why),
                    None => self.upgrade = Upgrade::Trial(trial),
                }
            }
            other @ (Upgrade::No | Upgrade::Changing) => self.upgrade = other,
        }
    }

    /// Goes back to the program before, which kills this one's roles and starts its own.
    fn go_back(&mut self, back: WayBack, why: &str) {
        let note = format!(
            "{FAILED}{} failed: {why}; the old program is back",
            env!("CARGO_PKG_VERSION")
        );
        let newer = back
            .state
            .map(|state| std::mem::replace(&mut self.kept.state, state));
        let cannot = self.exchange(&back.program, note, None, back.version);
        if let Some(newer) = newer {
            self.kept.state = newer;
        }
        self.upgrade = Upgrade::No;
        say(&format!(
            "this program's trial failed ({why}), and the old one cannot come back: {cannot}; it goes on as it can"
        ));
    }
}

impl Check {
    /// Reads what is there. False when it is too much.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        while let Ok(file) = self.answer.try_clone() {
            match File::from(file).read(&mut buffer) {
                Ok(0) => {
                    // What counts is how the process ends.
                    self.is_open = false;
                    break;
                }
                Ok(count) => self.text.extend(buffer.iter().take(count)),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            if self.text.len() > limits::SELF_CHECK_BYTES {
                return false;
            }
        }
        true
    }
}

fn text(text: &OsStr) -> Result<CString, String> {
    CString::new(text.as_bytes()).map_err(|e| format!("an argument has a zero byte: {e}"))
}

fn assignment(name: &OsStr, value: &OsStr) -> Result<CString, String> {
    let mut entry = OsString::from(name);
    entry.push("=");
    entry.push(value);
    text(&entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(state: Versions, handover: Versions) -> SelfCheck {
        SelfCheck {
            handover,
            ..SelfCheck::own(state)
        }
    }

    fn versions(writes: u32, oldest: u32) -> Versions {
        Versions {
            writes,
            reads: (oldest, writes),
        }
    }

    /// B12: forward over one version works, back does not, and neither does a leap over what the new one still reads.
    #[test]
    fn what_cannot_read_what_is_written_is_refused_before_anything_changes() {
        let at = |n: u32| of(versions(n, n.saturating_sub(1)), versions(1, 1));
        assert_eq!(at(4).allows(&at(4)), Ok(()));
        assert_eq!(at(4).allows(&at(5)), Ok(()));
        assert!(at(5).allows(&at(4)).unwrap_err().contains("writes version 5"));
        assert!(at(4).allows(&at(11)).unwrap_err().contains("versions 10 to 11"));
        let leap = of(versions(4, 3), versions(9, 8));
        assert!(at(4).allows(&leap).unwrap_err().contains("hands over"));
    }

    #[test]
    fn what_a_note_says_is_read_again() {
        let well = went_well("9.9.9");
        assert_eq!(outcome(&well), Some(Ok((env!("CARGO_PKG_VERSION"), "9.9.9"))));
        let failed = format!("{FAILED}9.9.9 failed: it died");
        assert_eq!(outcome(&failed), Some(Err(failed.as_str())));
        assert_eq!(outcome("the keeper died"), None);
    }

    #[test]
    fn the_answer_is_one_line_that_is_read_again() {
        let own = SelfCheck::own(versions(1, 1));
        let line = own.line();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<SelfCheck>(&line).unwrap(), own);
    }
}
