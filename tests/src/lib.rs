//! The harness: real binaries, seen from outside. A test builds a [`Node`] in a folder of its own, lets the real
//! `ringriftd` run it, asks it by the real `ringriftctl` or by raw frames, and ends with [`Node::check`], which holds
//! the daemon to what is true after every test (`oracle`). Nothing here knows how the daemon is made.
//!
//! Read first: [`node::Node`] and [`oracle`].

pub mod browser;
pub mod client;
pub mod contained;
pub mod ctl;
pub mod http;
pub mod node;
pub mod numbers;
pub mod oracle;
pub mod outside;
pub mod pace;
pub mod page;
pub mod processes;
pub mod programs;
pub mod say;
pub mod seeded;
pub mod strace;
pub mod survive;
pub mod systemd;
pub mod terminal;
pub mod unit;

pub use node::{Containment, Node, NodeBuilder};
pub use unit::Unit;

use std::time::{Duration, Instant};

/// How long a test waits for what should happen at once: long enough for a machine that does something else as
/// well. Only a test that fails ever waits so long.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// True in continuous integration, where a test that cannot run is a failure.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Says loudly that a test is not run, and why; in continuous integration that is a failure.
///
/// # Panics
/// When `CI=true`.
pub fn skipped(why: &str) {
    assert!(!is_ci(), "cannot skip in CI: {why}");
    // Straight to the descriptor: the test runner swallows what goes through the macros.
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("SKIPPED: {name}: {why}\n").as_bytes(),
    );
}

/// Ends the test early, loudly, unless `condition` holds.
#[macro_export]
macro_rules! need {
    ($condition:expr, $why:expr) => {
        if !$condition {
            $crate::skipped($why);
            return;
        }
    };
}

/// Makes two tests of one: with cgroups, and with process groups and a sweep of /proc.
#[macro_export]
macro_rules! both_ways {
    ($($(#[$attribute:meta])* fn $name:ident($mode:ident) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $(#[$attribute])*
            fn run($mode: $crate::Containment) $body

            #[test]
            fn with_cgroups() {
                $crate::need!($crate::processes::cgroups_are_writable(), "no writable cgroup v2 here");
                run($crate::Containment::Cgroup);
            }

            #[test]
            fn with_process_groups() {
                run($crate::Containment::ProcessGroup);
            }
        }
    )*};
}

/// True when this process may do everything.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// True when `program` is on the PATH.
pub fn has_program(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// Asks `fact` until it answers, for what the kernel announces to nobody (another process's descriptors, the absence
/// of a process). Whatever has an event is waited for by its event instead.
///
/// # Panics
/// When it has not answered after [`PATIENCE`].
pub fn until<T>(what: &str, fact: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, fact).unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// As [`until`], with its own bound; `None` when that has passed.
pub fn until_within<T>(bound: Duration, mut fact: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(answer) = fact() {
            return Some(answer);
        }
        if Instant::now() >= deadline {
            return None;
        }
        let _ = nix::poll::poll(&mut [], nix::poll::PollTimeout::from(10u8));
    }
}

/// Now on the clock of `rr-bad`'s stamps, in ns.
pub fn monotonic_ns() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
        .expect("the monotonic clock always answers")
}

/// A line that `rr-bad` added to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The unit.
    pub unit: String,
    /// The process.
    pub pid: i32,
    /// When, in ns of the monotonic clock.
    pub ns: i64,
    /// `start`, `stop`, or a word of the test's own.
    pub word: String,
}

/// All lines of a file of stamps, in their order; none when there is no file yet.
pub fn stamps(file: &std::path::Path) -> Vec<Stamp> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut next = || words.next().expect("a stamp has four words");
            let (unit, pid, ns) = (next().to_owned(), next().to_owned(), next().to_owned());
            Stamp {
                unit,
                pid: pid.parse().expect("a pid"),
                ns: ns.parse().expect("a time"),
                word: next().to_owned(),
            }
        })
        .collect()
}
