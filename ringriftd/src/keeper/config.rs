//! What the keeper is told at its start.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::upgrade::Versions;
use crate::limits;

/// The versions of the manager's state.
pub const STATE_VERSIONS: Versions = Versions {
    writes: 2,
    reads: (1, 2),
};

/// How launches are held together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contain {
    /// Cgroup v2 where the keeper's own group can be written, else process groups.
    Auto,
    /// Session, process group and a sweep of /proc, even where a cgroup could be had.
    ProcessGroup,
    /// Cgroup v2 below this folder; where that fails the keeper does not start, since somebody relies on it.
    CgroupRoot(PathBuf),
}

/// How long the manager may take for what. The defaults stand in [`limits`]; only a test asks for others.
#[derive(Debug, Clone)]
pub struct ManagerBounds {
    /// From its start until it serves.
    pub start: Duration,
    /// Its silence, after which it is asked whether it lives.
    pub silence: Duration,
    /// From that question to any word of it.
    pub answer: Duration,
    /// It has served so long: it has proved itself.
    pub stable: Duration,
    /// It has served so long: it is started again at once when it dies.
    pub steady: Duration,
    /// Before it is started again after the second death in a row; then doubled.
    pub delay: Duration,
    /// That delay at most.
    pub max_delay: Duration,
}

impl Default for ManagerBounds {
    fn default() -> Self {
        Self {
            start: limits::MANAGER_START_TIMEOUT,
            silence: limits::MANAGER_SILENCE,
            answer: limits::MANAGER_ANSWER,
            stable: limits::MANAGER_STABLE_AFTER,
            steady: limits::MANAGER_STEADY_AFTER,
            delay: limits::MANAGER_RESTART_DELAY,
            max_delay: limits::MANAGER_RESTART_MAX_DELAY,
        }
    }
}

/// The keeper's settings.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// The control socket, a lock and the notify sockets. Made when absent.
    pub runtime_dir: PathBuf,
    /// The other lock: one keeper for one state. Made when absent.
    pub state_dir: PathBuf,
    /// The logger's files. Made when absent.
    pub log_dir: PathBuf,
    /// What is executed for the roles, as `PROGRAM manager …` and `PROGRAM logger …`.
    pub program: PathBuf,
    /// After the word `manager`.
    pub manager_args: Vec<OsString>,
    /// After the word `logger`.
    pub logger_args: Vec<OsString>,
    /// How launches are held together.
    pub containment: Contain,
    /// How long the manager may take for what.
    pub manager_bounds: ManagerBounds,
    /// The versions of the manager's state, which the keeper only compares with a candidate's.
    pub state_versions: Versions,
    /// How long after a fresh manager serves the processes of an earlier keeper that it did not take over are named.
    pub adopt_window: Duration,
    /// How long a zygote may take for a process. The default stands in [`limits`]; only a test asks for another.
    pub zygote_answer: Duration,
}

impl KeeperConfig {
    /// The settings of a keeper over these folders that runs itself as its roles and contains as well as it can.
    pub fn new(runtime_dir: PathBuf, state_dir: PathBuf, log_dir: PathBuf) -> Self {
        Self {
            runtime_dir,
            state_dir,
            log_dir,
            program: PathBuf::from("/proc/self/exe"),
            manager_args: Vec::new(),
            logger_args: Vec::new(),
            containment: Contain::Auto,
            manager_bounds: ManagerBounds::default(),
            state_versions: STATE_VERSIONS,
            adopt_window: limits::ADOPT_WINDOW,
            zygote_answer: limits::ZYGOTE_ANSWER,
        }
    }
}
