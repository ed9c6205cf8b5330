//! The logger: a role of its own, so that no flood and no slow disk delays a command or a restart. It reads every
//! unit's pipe, writes whole lines with their time into a file for each unit, and answers who wants to read them.
//! It decides nothing about units and knows no configuration; what it is told comes from the keeper.
//!
//! Deliberately absent: any wait of the writer for a reader, a client or another unit's disk trouble; any memory that
//! grows with what a unit writes. `docs/logs.md` has the format and the bounds.
//!
//! Read first: [`serve`], then `writer::Writer`.

mod dir;
mod history;
mod journal;
mod link;
mod place;
mod query;
pub mod record;
mod writer;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use dir::is_unit_name;

use crate::keeper::wire::fd;

/// The role: serves the links at [`fd::KEEPER`] and [`fd::PEER`] until the keeper says `End` or is gone. Returns the
/// exit code: 0, or 1 when the folder of logs cannot be used.
pub fn run(log_dir: &Path) -> u8 {
    for number in [fd::KEEPER, fd::PEER] {
        // Before it becomes ours: a daemon started by hand has nothing there.
        let is_open = std::fs::metadata(format!("/proc/self/fd/{number}")).is_ok();
        if !is_open {
            crate::say!(
                "ringriftd logger: cannot start: descriptor {number} is missing; only the keeper starts a logger"
            );
            return 1;
        }
    }
    // SAFETY: both descriptors are open (checked above), were made for this role by the keeper, and nothing else in
    // this process uses them.
    #[allow(unsafe_code)]
    let (keeper, peer) = unsafe { (OwnedFd::from_raw_fd(fd::KEEPER), OwnedFd::from_raw_fd(fd::PEER)) };
    // As many pipes as may be: the soft limit is kept low for programs that use select(2), which we do not.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    match serve(log_dir, keeper, peer) {
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

/// Serves the two links until the keeper says `End` or is gone. Fails when the folder of logs cannot be used safely,
/// or when the kernel refuses epoll(7).
pub fn serve(log_dir: &Path, keeper: OwnedFd, peer: OwnedFd) -> io::Result<()> {
    let dir = dir::LogDir::open(log_dir)?;
    let shared = Arc::new(place::Shared::new(dir));
    writer::Writer::new(shared, keeper, peer)?.run()
}
