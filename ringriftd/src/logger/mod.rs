//! The logger: a role of its own, so that no flood and no slow disk delays a command or a restart. It reads every
//! unit's pipe, writes whole lines with their time into a file for each unit, and answers who wants to read them.
//! It decides nothing about units and knows no configuration; what it is told comes from the keeper.
//!
//! Deliberately absent: any wait of the writer for a reader, a client or another unit's disk trouble; any memory that
//! grows with what a unit writes. `docs/logs.md` has the format and the bounds.
//!
//! Read first: [`serve`], then `writer::Writer`.

mod dir;
mod drops;
mod exact;
mod forward;
mod history;
mod journal;
mod kernel;
mod link;
mod memory;
mod note;
mod packed;
mod pipe;
mod place;
mod query;
mod quick;
pub mod record;
mod rooms;
mod severity;
mod shelf;
mod sought;
mod split;
mod telling;
mod writer;

pub use journal::Stop;
pub use split::Splitter;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use dir::is_unit_name;

use crate::keeper::wire::fd;

/// What the keeper gives to a logger: its links, and what outlives it.
#[derive(Debug)]
pub struct Given {
    /// The link to the keeper.
    pub keeper: OwnedFd,
    /// The link to the manager.
    pub peer: OwnedFd,
    /// A memfd.
    pub memory: OwnedFd,
    /// A pipe, read end first.
    pub hold: [OwnedFd; 2],
}

/// The role: serves the links at [`fd::KEEPER`] and [`fd::PEER`] until the keeper says `End`, or both are gone. Returns
/// the exit code: 0, or 1 when the folder of logs cannot be used.
pub fn run(log_dir: &Path) -> u8 {
    for number in [fd::KEEPER, fd::PEER, fd::BUFFER, fd::HOLD[0], fd::HOLD[1]] {
        // Before it becomes ours: a daemon started by hand has nothing there.
        let is_open = std::fs::metadata(format!("/proc/self/fd/{number}")).is_ok();
        if !is_open {
            crate::say!(
                "ringriftd logger: cannot start: descriptor {number} is missing; only the keeper starts a logger"
            );
            return 1;
        }
    }
    // SAFETY: the descriptors are open (checked above), were made for this role by the keeper, and nothing else in this
    // process uses them.
    #[allow(unsafe_code)]
    let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
    let given = Given {
        keeper: own(fd::KEEPER),
        peer: own(fd::PEER),
        memory: own(fd::BUFFER),
        hold: fd::HOLD.map(own),
    };
    // As many pipes as may be: the soft limit is kept low for programs that use select(2), which we do not.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    match serve(log_dir, given) {
        Ok(()) => 0,
        Err(e) => {
            crate::say!(
                "ringriftd logger: cannot write logs to {}: {e}",
                log_dir.display()
            );
            1
        }
    }
}

/// Serves the two links until the keeper says `End`, or both are gone. Fails when the folder of logs cannot be used
/// safely, when the keeper's memory and hold are none, or when the kernel refuses epoll(7).
pub fn serve(log_dir: &Path, given: Given) -> io::Result<()> {
    let dir = dir::LogDir::open(log_dir)?;
    let told = |e: io::Error| {
        io::Error::other(format!(
            "what the keeper holds for the logger (descriptors {} to {}) cannot be used: {e}",
            fd::BUFFER,
            fd::HOLD[1]
        ))
    };
    let mut exact = exact::Exact::new(kernel::Linux, given.memory, given.hold).map_err(told)?;
    exact.recover(&dir).map_err(told)?;
    let shared = Arc::new(place::Shared::new(dir));
    let _keeping = shelf::Keeping::start(shared.clone());
    writer::Writer::new(shared, exact, given.keeper, given.peer)?.run()
}
