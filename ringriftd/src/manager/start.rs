//! How the manager's role begins: the descriptors that the keeper left, its first word, the files, the socket.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::core::{BUG, CONFIG, Channels, Hello, Manager};
use super::events::Events;
use super::jobs::Jobs;
use super::launches::Launches;
use crate::clock::Clock;
use crate::config;
use crate::control::server::{self, Options};
use crate::control::watch::Renewal;
use crate::engine::Engine;
use crate::host::environment::own_environment;
use crate::host::link::Link;
use crate::host::prepare::{NodeContext, Preparer};
use crate::keeper::wire::{FromKeeper, WIRE_VERSION, fd};
use crate::limits;
use crate::places::Places;

/// Runs the manager's role on the descriptors of [`fd`] until all is down. The result is the process's exit code.
pub fn run(places: Places, profiles: Vec<String>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("cannot start: {e}");
            return BUG;
        }
    };
    let code = runtime.block_on(async {
        match start(places, profiles).await {
            Ok((mut manager, channels)) => manager.run(channels).await,
            Err(code) => code,
        }
    });
    // A read that hangs on a dead disk must not hold the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

/// Takes over what the keeper left at a descriptor's number.
fn inherited(number: i32) -> OwnedFd {
    #[allow(unsafe_code)]
    // SAFETY: the keeper execs this role with exactly these descriptors open, nothing else in this process knows
    // their numbers, and each number is taken once, at the start.
    unsafe {
        OwnedFd::from_raw_fd(number)
    }
}

async fn start(places: Places, profiles: Vec<String>) -> Result<(Manager, Channels), u8> {
    let bug = |what: &str, e: &dyn std::fmt::Display| {
        tracing::error!("cannot {what}: {e}");
        BUG
    };
    let mut keeper = Link::from_fd(inherited(fd::KEEPER)).map_err(|e| bug("reach the keeper", &e))?;
    let logger = Link::from_fd(inherited(fd::PEER)).map_err(|e| bug("reach the logger", &e))?;
    let listener = inherited(fd::CONTROL);
    let first = tokio::time::timeout(limits::MANAGER_START_TIMEOUT, keeper.recv::<FromKeeper>()).await;
    let hello = match first {
        Ok(Ok(Some((
            FromKeeper::Hello {
                version: WIRE_VERSION,
                pid,
                logger_pid,
                seed,
                containment,
                ..
            },
            _,
        )))) => Hello {
            keeper_pid: pid,
            logger_pid,
            seed,
            containment,
        },
        other => return Err(bug("begin", &format!("the keeper's first word was {other:?}"))),
    };
    let loaded = config::load(&places, &profiles).map_err(|report| {
        crate::say!("{report}");
        CONFIG
    })?;
    match loaded.warnings.len() {
        0 => {}
        1 => tracing::warn!("1 warning about the files: ringriftd check tells it"),
        n => tracing::warn!("{n} warnings about the files: ringriftd check tells them"),
    }
    let node = NodeContext {
        seed: hello.seed,
        runtime_dir: places.runtime_dir.clone(),
        program: std::env::current_exe().map_err(|e| bug("find its own program", &e))?,
        config_dir: places.config.as_ref().and_then(|p| p.parent().map(PathBuf::from)),
        env: own_environment(),
    };
    let (ask_tx, asks) = mpsc::channel(limits::ASKS_QUEUE);
    let (inside_tx, inside) = mpsc::channel(limits::ASKS_QUEUE);
    let (news_tx, news) = mpsc::channel(limits::ASKS_QUEUE);
    let (notice_tx, notices) = mpsc::channel(limits::ASKS_QUEUE);
    let (relisten_tx, relistened) = mpsc::channel(1);
    let (lost_tx, lost) = mpsc::channel(1);
    server::serve(listener, Options::default(), ask_tx, relistened)
        .map_err(|e| bug("serve the control socket", &e))?;
    let renewal = Renewal::watch(places.socket(), lost_tx, relisten_tx);
    let on = |kind| signal(kind).map_err(|e| bug("listen to signals", &e));
    // They mean nothing here, and by default they would end the manager, and the node with it. tokio never takes a
    // handler away again.
    for stray in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        drop(on(stray)?);
    }
    let channels = Channels {
        asks,
        inside,
        news,
        notices,
        lost,
        term: on(SignalKind::terminate())?,
        int: on(SignalKind::interrupt())?,
        quit: on(SignalKind::quit())?,
        hup: on(SignalKind::hangup())?,
    };
    let profiles_word = match loaded.plan.node.profiles.as_slice() {
        [] => "no profile".to_owned(),
        named => format!("profile {}", named.join(", ")),
    };
    tracing::info!(
        "ringriftd {}: {profiles_word}, units wanted: {}; orders come over {}",
        env!("CARGO_PKG_VERSION"),
        loaded.plan.members.len(),
        places.socket().display()
    );
    let cgroup = hello.containment.strip_prefix("cgroup ").map(PathBuf::from);
    let mut clock = Clock::default();
    let manager = Manager {
        engine: Engine::new(hello.seed),
        loaded,
        places,
        profiles,
        keeper,
        logger,
        is_logger_gone: false,
        launches: Launches::new(Preparer::new(node), cgroup, news_tx, notice_tx),
        events: Events::default(),
        jobs: Jobs::default(),
        renewal,
        said: BTreeMap::new(),
        tails: BTreeMap::new(),
        inside: inside_tx,
        started: clock.now(),
        clock,
        is_reloading: false,
        is_announced: false,
        end: None,
        next_nonce: 0,
        next_order: 0,
        logger_deaths: 0,
        hello,
    };
    Ok((manager, channels))
}
