//! How much room pipes have. A unit that fills its pipe waits until the logger has written what is in it, and then the logger
//! waits for the unit; in a larger pipe the two work side by side. A few of those that were full have one.
//!
//! Read first: [`Rooms::widen`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use nix::fcntl::{FcntlArg, fcntl};

use super::pipe::Pipe;
use crate::limits::{LOG_PIPE_ROOM, LOG_PIPE_WIDE, LOG_PIPE_WIDE_TIME, LOG_PIPES_WIDE};

/// The pipes with more room, by their tokens, the one that has had it longest at the front.
#[derive(Debug, Default)]
pub struct Rooms {
    wide: VecDeque<(u64, Instant)>,
}

impl Rooms {
    /// A pipe was full, or nearly: it is given more room, if there is any to give, or another has had it for long enough.
    pub fn widen(&mut self, token: u64, pipes: &mut BTreeMap<u64, Pipe>, now: Instant) {
        if pipes.get(&token).is_none_or(|pipe| pipe.is_wide) {
            return;
        }
        if self.wide.len() >= LOG_PIPES_WIDE && !self.narrow(pipes, now) {
            return;
        }
        let Some(pipe) = pipes.get_mut(&token) else { return };
        pipe.is_wide = true;
        // What a user's pipes have together is bounded by the host, too: then it keeps what it has.
        if [LOG_PIPE_WIDE, LOG_PIPE_WIDE / 4]
            .into_iter()
            .any(|room| set(pipe, room))
        {
            self.wide.push_back((token, now));
        }
    }

    /// Takes its room from the pipe that has had it longest. False: that was not long, or it is full.
    fn narrow(&mut self, pipes: &mut BTreeMap<u64, Pipe>, now: Instant) -> bool {
        let Some((token, since)) = self.wide.pop_front() else {
            return true;
        };
        let Some(pipe) = pipes.get_mut(&token) else {
            return true;
        };
        if now.saturating_duration_since(since) < LOG_PIPE_WIDE_TIME {
            self.wide.push_front((token, since));
            return false;
        }
        if !set(pipe, LOG_PIPE_ROOM) {
            self.wide.push_back((token, now));
            return false;
        }
        pipe.is_wide = false;
        true
    }

    /// A pipe is no more.
    pub fn forget(&mut self, token: u64) {
        self.wide.retain(|(wide, _)| *wide != token);
    }
}

/// False: the host allows no more, or there is more in it.
fn set(pipe: &Pipe, room: usize) -> bool {
    let room = i32::try_from(room).unwrap_or(i32::MAX);
    fcntl(&pipe.source.fd, FcntlArg::F_SETPIPE_SZ(room)).is_ok()
}
