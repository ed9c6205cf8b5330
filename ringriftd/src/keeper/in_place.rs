//! A keeper that was a manager a moment ago: the one before it died, and this process took its place with what a manager
//! holds (`manager::takeover`). It knows no launch yet; its own manager names those of its state (`Adopt`). The logger
//! outlived the keeper and is another process's child now.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::handover::Received;
use super::links::{self, Link};
use super::state::{Keeper, Phase, say};
use super::wire::LogQuery;

/// For `Hello`.
const NOTE: &str = "the keeper died, and its manager took its place; no unit was touched";

impl Keeper {
    /// The first act of such a keeper.
    pub fn begin_in_place(&mut self, mut left: Received) -> Result<(), String> {
        self.take_up(&mut left)?;
        say(NOTE);
        self.note = Some(NOTE.to_owned());
        // Units run, so no manager's exit code may end this.
        self.phase = Phase::Serving;
        self.logger_elsewhere = self.logger.process.take();
        let now = Instant::now();
        let peer = left.maybe(left.picture.peer)?;
        match peer.map(reach_logger) {
            Some(Ok(link)) => {
                self.logger.link = Some(link);
                self.logger_restarts.since = Some(now);
            }
            Some(Err(why)) => {
                say(&format!("the logger is gone too ({why}); another one is started"));
                self.logger_restarts.at = Some(now);
            }
            None => self.logger_restarts.at = Some(now),
        }
        self.lives.at = Some(now);
        Ok(())
    }
}

/// A new link to the logger, which is told of it over the old manager's.
fn reach_logger(peer: OwnedFd) -> Result<Link, String> {
    let (ours, theirs) = links::pair().map_err(|e| e.to_string())?;
    let mut over = Link::new(peer).map_err(|e| e.to_string())?;
    if !over.send(&LogQuery::Keeper, vec![theirs.into()]) || over.is_waiting() {
        return Err("it does not take a new link".to_owned());
    }
    Link::new(ours).map_err(|e| e.to_string())
}
