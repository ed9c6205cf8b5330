//! How the manager's role begins: the descriptors that the keeper left, its first word, the files, the socket.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::begin::{Beginning, Files, Heard};
use super::capsules::Capsules;
use super::core::{BUG, CONFIG, Channels, Hello, Manager};
use super::door::Doorway;
use super::events::Events;
use super::failures::UnderWay;
use super::hooks::Hooks;
use super::jobs::Jobs;
use super::launches::Launches;
use super::memory::Step;
use super::probes::Probes;
use super::publish::Shown;
use super::recover::{self, Past};
use super::reload::Reload;
use super::remember::{self, Remember};
use crate::clock::Clock;
use crate::config::{self, FileSet, Loaded};
use crate::control::server::{self, Options};
use crate::control::watch::Renewal;
use crate::counts::Counts;
use crate::door::HttpPlace;
use crate::engine::snapshot::Survivor;
use crate::engine::types::Role;
use crate::host::environment::own_environment;
use crate::host::link::Link;
use crate::host::prepare::{NodeContext, Preparer};
use crate::host::survivors;
use crate::ids::LaunchId;
use crate::keeper::wire::{FromKeeper, WIRE_VERSION, fd};
use crate::limits;
use crate::places::Places;
use crate::published::Header;
use crate::state::recorder;
use crate::state::store::Pick;
use crate::tape::taped::Taped;
use crate::tape::write::Tape;

/// What the command line says beside places.
#[derive(Debug, Default)]
pub struct Flags {
    /// Profiles, which win over the file's.
    pub profiles: Vec<String>,
    /// The place for HTTP, which wins over the file's.
    pub http: Option<HttpPlace>,
    /// Where the engine is recorded.
    pub record: Option<PathBuf>,
}

/// Runs the manager's role on the descriptors of [`fd`] until all is down. The result is the process's exit code.
pub fn run(places: Places, flags: Flags) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("cannot start: {e}");
            return BUG;
        }
    };
    let code = runtime.block_on(async {
        match start(places, flags).await {
            Ok((mut manager, channels, beginning)) => manager.run(channels, beginning).await,
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

async fn start(
    places: Places,
    Flags {
        profiles,
        http,
        record,
    }: Flags,
) -> Result<(Manager, Channels, Beginning), u8> {
    let bug = |what: &str, e: &dyn std::fmt::Display| {
        tracing::error!("cannot {what}: {e}");
        BUG
    };
    let mut keeper = Link::from_fd(inherited(fd::KEEPER)).map_err(|e| bug("reach the keeper", &e))?;
    let logger = Link::from_fd(inherited(fd::PEER)).map_err(|e| bug("reach the logger", &e))?;
    let listener = inherited(fd::CONTROL);
    let [first, second] = fd::STATE.map(inherited);
    let [state_lock, run_lock] = fd::LOCKS.map(inherited);
    let again = |fd: &OwnedFd| fd.try_clone().map_err(|e| bug("keep a descriptor", &e));
    let hot = [File::from(again(&first)?), File::from(again(&second)?)];
    let kept_listener = again(&listener)?;
    let kept = [first, second, state_lock, run_lock];
    let first = tokio::time::timeout(limits::MANAGER_START_TIMEOUT, keeper.recv::<FromKeeper>()).await;
    let hello = match first {
        Ok(Ok(Some((
            FromKeeper::Hello {
                version: WIRE_VERSION,
                pid,
                logger_pid,
                logger_start,
                seed,
                containment,
                is_fresh,
                is_wrapped,
                manager_deaths,
                is_safe,
                last_order,
                note,
                is_first,
            },
            _,
        )))) => Hello {
            keeper_pid: pid,
            logger_pid,
            logger_start,
            seed,
            containment,
            is_fresh,
            is_wrapped,
            manager_deaths,
            is_safe,
            last_order,
            note,
            is_first,
        },
        other => return Err(bug("begin", &format!("the keeper's first word was {other:?}"))),
    };
    let boot = crate::state::boot::boot_id().map_err(|e| bug("read which boot this is", &e))?;
    let pick = if hello.is_safe {
        Pick::Previous
    } else {
        Pick::Newest
    };
    let found = recover::find(hot, &places.state_dir, pick, &boot).map_err(|why| {
        crate::say!("ringriftd: {why}");
        CONFIG
    })?;
    for note in &found.notes {
        tracing::error!("of what was remembered: {note}");
    }
    let mut clock = Clock::default();
    let now = clock.now();
    let recorded = recorder::last_seq(&places.state_dir).unwrap_or_default();
    let is_exact = found.is_exact;
    let memory = found.memory.map(|(base, past)| {
        // Killed on its way down, it is started again to be up: what lives is taken in by its marks.
        let past = match past {
            Past::Everything if base.engine.node.shutdown.is_some() => Past::OrderlyEnd,
            other => other,
        };
        let mut base = match past {
            Past::Manager | Past::Everything => *base,
            Past::Machine | Past::OrderlyEnd => recover::without_processes(*base, past, now),
        };
        if !is_exact {
            recover::skip_numbers(&mut base, recorded);
        }
        (base, past)
    });
    let inventory = hear_inventory(&mut keeper)
        .await
        .map_err(|e| bug("hear of the launches", &e))?;
    let files = memory.as_ref().map(|(base, past)| (&base.files, *past));
    let loaded = load(&places, &profiles, files)?;
    let door = loaded.plan.node.http.at(http.as_ref()).map_err(|why| {
        crate::say!("ringriftd: --http: {why}");
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
        program: super::candidate::own_place().map_err(|e| bug("begin", &e))?,
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
    // They mean nothing here, and by default they would end the manager. tokio never takes a handler away again.
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
    let header = Header {
        version: env!("CARGO_PKG_VERSION"),
        node: String::new(),
        profiles: Vec::new(),
        started: now,
        containment: hello.containment.clone(),
        is_settled: false,
        is_stopping: false,
        notices: Vec::new(),
        deaths: (0, 0),
        last_seq: 0,
        breakers: Vec::new(),
    };
    let preparer = Preparer::new(node);
    let tape = record.map(|file| Tape::open(&file));
    let mut engine = Taped::new(hello.seed, profiles.clone(), tape);
    engine.runs_by(std::sync::Arc::clone(loaded.files()));
    let mut manager = Manager {
        engine,
        loaded,
        profiles,
        keeper,
        logger,
        is_logger_gone: false,
        probes: Probes::new(preparer.clone(), news_tx.clone()),
        launches: Launches::new(preparer, cgroup, news_tx, notice_tx),
        events: Events::default(),
        jobs: Jobs::default(),
        renewal,
        said: BTreeMap::new(),
        tails: BTreeMap::new(),
        logs_waiting: Vec::new(),
        inside: inside_tx,
        started: now,
        clock,
        reload: Reload::default(),
        is_announced: false,
        end: None,
        next_nonce: 0,
        last_order: hello.last_order,
        orders: VecDeque::new(),
        pending: Step::default(),
        remember: Remember::new(found.hot, remember::cold(&places.state_dir, pick)),
        late: None,
        boot,
        keeper_life: crate::keeper::sys::pidfd_open(hello.keeper_pid.cast_signed()).ok(),
        kept,
        listener: kept_listener,
        last_signal: 0,
        upgrade: None,
        upgrade_answers: None,
        logger_deaths: 0,
        notes: found.notes,
        hooks: Hooks::default(),
        stored: BTreeMap::new(),
        asked_main: BTreeMap::new(),
        held_exits: BTreeMap::new(),
        counts: Counts::default(),
        shown: Shown::new(header),
        door: Doorway::new(http, door),
        capsules: Capsules::default(),
        under_way: UnderWay::default(),
        is_capsule_lacking: true,
        hello,
        places,
    };
    let is_fresh = manager.hello.is_fresh;
    let survivors = match &memory {
        // Nobody lives on from another boot, whatever marks are shown.
        Some((_, Past::Machine)) => Vec::new(),
        // There was nobody before.
        None if manager.hello.is_first => Vec::new(),
        Some(_) | None => survivors(manager.hello.seed, (!is_fresh).then_some(&inventory)).await,
    };
    let beginning = match memory {
        None if survivors.is_empty() => {
            // At the first start of all, there is nothing to keep clear of. A life may also have been begun by a ringriftd
            // that was killed before it had written down anything: then logs and marks bear its number already.
            if recorded > 0 || !manager.notes.is_empty() || !manager.hello.is_first {
                manager.skip_recorded(recorded);
                manager.go_on_from_recorded(recorded);
            }
            Beginning::Anew { inventory }
        }
        None => {
            manager.begin_without_memory(&survivors, recorded);
            manager.go_on_from_recorded(recorded);
            let files = Files::Load;
            Beginning::Return { inventory, files }
        }
        Some((base, past)) => {
            manager.take_over_memory(base, past, &survivors);
            if past != Past::Manager || !is_exact {
                manager.go_on_from_recorded(recorded);
            }
            let files = Files::after(past);
            Beginning::Return { inventory, files }
        }
    };
    Ok((manager, channels, beginning))
}

/// Main processes that live on, by their marks: with `inventory` only those that the keeper has.
async fn survivors(seed: u64, inventory: Option<&Vec<Heard>>) -> Vec<Survivor> {
    if inventory.is_some_and(Vec::is_empty) {
        return Vec::new();
    }
    let found = tokio::task::spawn_blocking(move || survivors::find(seed)).await;
    let found = match found {
        Ok(Ok(found)) => found,
        Ok(Err(e)) => {
            tracing::error!("cannot look for processes of an earlier ringriftd: {e}");
            return Vec::new();
        }
        Err(e) => {
            tracing::error!("the look for processes of an earlier ringriftd failed: {e}");
            return Vec::new();
        }
    };
    let is_held = |survivor: &Survivor| {
        let launched = |told: &Heard| {
            matches!(&told.0, FromKeeper::Launched { id, pid, start_time, .. }
                if *id == LaunchId::main(survivor.invocation)
                    && (*pid, *start_time) == (survivor.pid, survivor.start_time))
        };
        inventory.is_none_or(|inventory| inventory.iter().any(launched))
    };
    found
        .into_iter()
        .filter(|found| found.role == Role::Main.to_string())
        .map(|found| Survivor {
            unit: found.unit,
            invocation: found.invocation,
            pid: found.pid,
            start_time: found.start_time,
        })
        .filter(is_held)
        .collect()
}

/// The files that the engine ran by, or those on disk.
fn load(
    places: &Places,
    profiles: &[String],
    kept: Option<(&std::sync::Arc<FileSet>, Past)>,
) -> Result<Loaded, u8> {
    if let Some((files, Past::Manager | Past::Everything)) = kept {
        match config::load_from(std::sync::Arc::clone(files), profiles) {
            Ok(loaded) => return Ok(loaded),
            Err(report) => tracing::error!(
                "the files that ringriftd ran by are not good enough any more, so those on disk count:\n{report}"
            ),
        }
    }
    config::load(places, profiles).map_err(|report| {
        crate::say!("{report}");
        CONFIG
    })
}

/// What the keeper has, up to `Inventoried`.
async fn hear_inventory(keeper: &mut Link) -> Result<Vec<Heard>, String> {
    let mut heard = Vec::new();
    let all = async {
        loop {
            match keeper.recv::<FromKeeper>().await {
                Ok(Some((FromKeeper::Inventoried, _))) => return Ok(()),
                Ok(Some(told)) => heard.push(told),
                Ok(None) => return Err("the keeper has gone".to_owned()),
                Err(e) => return Err(e.to_string()),
            }
        }
    };
    match tokio::time::timeout(limits::MANAGER_START_TIMEOUT, all).await {
        Ok(Ok(())) => Ok(heard),
        Ok(Err(why)) => Err(why),
        Err(_) => Err("the keeper does not tell them".to_owned()),
    }
}
