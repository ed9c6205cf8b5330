//! HTTP, the manager's part: it says where, and hands the keeper's listener to the thread that serves it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use tokio::sync::mpsc;

use super::core::{Inside, Manager};
use crate::counts::{HttpAsked, add_up};
use crate::door::{HttpPlace, HttpSpec};
use crate::http::{self, Handle, Sources, TailAsked};
use crate::keeper::wire::ToKeeper;
use crate::limits;
use crate::spec::UnitName;

/// How HTTP stands.
#[derive(Debug)]
pub(super) struct Doorway {
    /// `--http`, which wins over the files.
    pub(super) flag: Option<HttpPlace>,
    /// What counts.
    pub(super) spec: HttpSpec,
    /// The keeper's listener, and where it is.
    pub(super) listener: Option<(OwnedFd, HttpPlace)>,
    /// Why the keeper has none: errno(3).
    failed: Option<i32>,
    /// The thread.
    pub(super) thread: Option<Handle>,
}

impl Doorway {
    /// Nothing is served yet.
    pub(super) fn new(flag: Option<HttpPlace>, spec: HttpSpec) -> Self {
        Self {
            flag,
            spec,
            listener: None,
            failed: None,
            thread: None,
        }
    }

    /// What `status` has to tell of it.
    pub(super) fn notice(&self) -> Option<String> {
        let errno = Errno::from_raw(self.failed?);
        Some(format!(
            "http: failed ({errno:?}: {} on {}); tried again, and nothing else waits for it",
            errno.desc().to_lowercase(),
            self.spec.listen
        ))
    }
}

impl Manager {
    /// Starts the thread, which outlives every listener, and asks for the first one.
    pub(super) fn begin_door(&mut self) {
        let (tails, mut asked) = mpsc::channel(limits::TAILS_AT_ONCE);
        let (counted, mut told) = mpsc::channel(1);
        let sources = Sources {
            published: Arc::clone(&self.shown.published),
            events: self.events.recent(),
            recorder: self.places.state_dir.clone(),
            tails,
            counted,
        };
        match http::serve(sources) {
            Ok(thread) => self.door.thread = Some(thread),
            Err(e) => return tracing::error!("cannot start the thread that serves HTTP: {e}"),
        }
        let inside = self.inside.clone();
        tokio::spawn(async move {
            loop {
                let said = tokio::select! {
                    Some(asked) = asked.recv() => Inside::Tail(asked),
                    Some(counted) = told.recv() => Inside::HttpAsked(counted),
                    else => return,
                };
                if inside.send(said).await.is_err() {
                    return;
                }
            }
        });
        self.ask_for_door();
    }

    /// A unit's last lines are wanted.
    pub(super) fn on_tail_asked(&mut self, asked: TailAsked) {
        let capsules = UnitName::new(&asked.unit).map(|unit| self.capsules.of(&unit, self.hello.seed));
        let capsules = capsules.unwrap_or_default();
        let Some(told) = self.ask_tail(asked.unit) else {
            return;
        };
        tokio::spawn(async move {
            if let Ok(tail) = told.await {
                // Whoever asked may have gone.
                let _ = asked.answer.send((tail.lines, capsules));
            }
        });
    }

    /// So often it was asked. It is kept, and then shown.
    pub(super) fn on_http_asked(&mut self, counted: &HttpAsked) {
        add_up(&mut self.pending.http, counted);
        let now = self.clock.now();
        self.shown.owe(now);
    }

    /// Asks the keeper for the listener, now and after each reload.
    pub(super) fn ask_for_door(&mut self) {
        let place = self.door.spec.listen.clone();
        if self.door.listener.as_ref().is_some_and(|(_, at)| *at != place) {
            self.door.listener = None;
            if let Some(thread) = &self.door.thread {
                thread.close();
            }
        }
        self.door.failed = None;
        self.send(&ToKeeper::Http { place });
    }

    /// The keeper has it.
    pub(super) fn on_door(&mut self, place: HttpPlace, fds: Vec<OwnedFd>) {
        let Some(listener) = fds.into_iter().next() else {
            return;
        };
        if place != self.door.spec.listen {
            // It was asked for another one meanwhile.
            return;
        }
        self.door.failed = None;
        let kept = match listener.try_clone() {
            Ok(kept) => kept,
            Err(e) => return tracing::error!("cannot keep the HTTP listener: {e}"),
        };
        self.door.listener = Some((kept, place));
        if let Some(thread) = &self.door.thread {
            thread.listen(listener, self.door.spec.clone());
            tracing::info!("HTTP is served on {}", self.door.spec.listen);
        }
        let now = self.clock.now();
        self.shown.owe(now);
    }

    /// It cannot have it for now, and tries again.
    pub(super) fn on_door_failed(&mut self, place: &HttpPlace, errno: i32) {
        if *place != self.door.spec.listen {
            return;
        }
        self.door.failed = Some(errno);
        if let Some(notice) = self.door.notice() {
            tracing::warn!("{notice}");
        }
        let now = self.clock.now();
        self.shown.owe(now);
    }
}
