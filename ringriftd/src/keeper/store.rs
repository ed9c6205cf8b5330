//! Descriptors that units have kept for their next lives (sd_notify(3), FDSTORE), by tag. They outlive every process of the
//! unit, the manager (which has copies, so that they outlive the keeper too), and an upgrade; when they are dropped is
//! the manager's business.
//!
//! Only kinds come here that no file system serves (`host::notify` sorts them): poll(2) and close(2) of others may wait, and
//! the keeper must not. Polled are sockets and pipes alone: nothing else hangs up, and an epoll descriptor would poll in its
//! turn whatever a unit put into it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::handover::{Numbers, Received, StoredLeft};
use super::state::Keeper;
use super::sys;
use super::types::SharedFd;
use super::wire::FromKeeper;
use crate::limits;

/// One that is kept.
#[derive(Debug)]
pub struct Stored {
    /// Its number: none is used twice by one keeper.
    pub nr: u64,
    /// For launches of this tag.
    pub tag: String,
    /// What it is called.
    pub name: String,
    /// It is dropped when its other end hangs up.
    pub is_polled: bool,
    /// It.
    pub fd: SharedFd,
}

/// All of them, in the order in which they came.
#[derive(Debug, Default)]
pub struct Store {
    all: Vec<Stored>,
    last: u64,
}

impl Store {
    /// Those of `tag`, in the order in which they came.
    pub fn of<'a>(&'a self, tag: &'a str) -> impl Iterator<Item = &'a Stored> {
        self.all.iter().filter(move |stored| stored.tag == tag)
    }

    /// Those that are to be polled, with their numbers.
    pub fn polled(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        let polled = self.all.iter().filter(|stored| stored.is_polled);
        polled.map(|stored| (stored.nr, stored.fd.as_fd()))
    }

    fn add(&mut self, tag: &str, name: &str, is_polled: bool, fd: OwnedFd) -> u64 {
        self.last += 1;
        let nr = self.last;
        let is_polled = is_polled && hangs_up(&fd);
        self.all.push(Stored {
            nr,
            tag: tag.to_owned(),
            name: name.to_owned(),
            is_polled,
            fd: fd.into(),
        });
        nr
    }

    /// For a successor of this program.
    pub fn left(&self, numbers: &mut Numbers) -> Vec<StoredLeft> {
        let left = |stored: &Stored| StoredLeft {
            tag: stored.tag.clone(),
            name: stored.name.clone(),
            is_polled: stored.is_polled,
            fd: numbers.keep(&stored.fd),
        };
        self.all.iter().map(left).collect()
    }

    /// What a program before this one left.
    pub fn take_up(&mut self, stored: Vec<StoredLeft>, left: &mut Received) -> Result<(), String> {
        for one in stored {
            let fd = left.fd(one.fd)?;
            self.add(&one.tag, &one.name, one.is_polled, fd);
        }
        Ok(())
    }
}

/// It is a socket or a pipe.
fn hangs_up(fd: &OwnedFd) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|link| {
        let link = link.as_os_str().as_encoded_bytes();
        link.starts_with(b"socket:[") || link.starts_with(b"pipe:[")
    })
}

impl Keeper {
    /// The manager passes on what a unit wants kept.
    pub fn on_store(&mut self, tag: &str, name: &str, is_polled: bool, most: u32, fds: Vec<OwnedFd>) {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut refused = 0;
        let mut why = "";
        for fd in fds {
            // A manager that died before the datagram was taken is followed by one that passes it on again.
            if self.store.of(tag).any(|known| sys::is_same_file(&known.fd, &fd)) {
                continue;
            }
            if self.store.of(tag).count() >= most {
                (refused, why) = (refused + 1, "the unit's fd_store_max is reached");
            } else if self.store.all.len() >= limits::FDS_STORED_MAX {
                (refused, why) = (refused + 1, "no more are kept on this node");
            } else {
                let nr = self.store.add(tag, name, is_polled, sys::raise(fd));
                let stored = self.store.all.iter().find(|stored| stored.nr == nr).map(told);
                if let Some((told, fd)) = stored {
                    self.tell_manager(&told, vec![fd]);
                }
            }
        }
        if refused > 0 {
            let not = FromKeeper::NotStored {
                tag: tag.to_owned(),
                name: name.to_owned(),
                why: format!("{why} ({refused} refused)"),
            };
            self.tell_manager(&not, Vec::new());
        }
    }

    /// The manager has no use for them any more.
    pub fn on_unstore(&mut self, tag: &str, name: Option<&str>) {
        self.drop_stored(|stored| stored.tag == tag && name.is_none_or(|name| stored.name == name));
    }

    /// The other end of a polled one hung up.
    pub fn on_hang_up(&mut self, nr: u64) {
        self.drop_stored(|stored| stored.nr == nr);
    }

    fn drop_stored(&mut self, is_meant: impl Fn(&Stored) -> bool) {
        let mut gone = Vec::new();
        self.store.all.retain(|stored| {
            let is_meant = is_meant(stored);
            if is_meant {
                gone.push(stored.nr);
            }
            !is_meant
        });
        for nr in gone {
            self.tell_manager(&FromKeeper::Unstored { nr }, Vec::new());
        }
    }

    /// Tells a new manager of all of them.
    pub fn tell_stored(&mut self) {
        let all: Vec<_> = self.store.all.iter().map(told).collect();
        for (told, fd) in all {
            self.tell_manager(&told, vec![fd]);
        }
    }
}

fn told(stored: &Stored) -> (FromKeeper, SharedFd) {
    let told = FromKeeper::Stored {
        nr: stored.nr,
        tag: stored.tag.clone(),
        name: stored.name.clone(),
        is_polled: stored.is_polled,
    };
    (told, stored.fd.clone())
}
