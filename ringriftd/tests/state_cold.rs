//! The state on disk: what is promised is found again, whatever fails; and nobody waits for the disk who need not.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringriftd::limits::STATE_QUEUE_BYTES;
use ringriftd::state::cold::{Cold, Found, read};
use ringriftd::state::folder::{Disk, Folder};
use ringriftd::state::queue::Status;
use ringriftd::state::record::HEADER;
use ringriftd::state::store::{Half, Pick, Recovered};
use tokio::sync::oneshot;

/// Longer than anything here takes on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

fn told(answer: oneshot::Receiver<Result<(), String>>) -> Result<(), String> {
    wait(async { answer.await.expect("the writer answers") })
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("in time") })
}

fn until(cold: &Cold, is_so: impl FnMut(&Status) -> bool) -> Status {
    let mut status = cold.status();
    wait(async { status.wait_for(is_so).await.expect("the writer lives").clone() })
}

fn found(folder: &Path) -> Found {
    read(folder, Pick::Newest).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn recovered(folder: &Path) -> Recovered {
    found(folder).recovered.expect("a state")
}

/// The base, then the deltas, as one text.
fn text(recovered: &Recovered) -> String {
    let mut all = recovered.base.clone();
    for delta in &recovered.deltas {
        all.extend(delta);
    }
    String::from_utf8(all).unwrap()
}

/// "one" with a delta, then "two" with two: both on disk.
fn two_generations(folder: &Path) {
    let cold = Cold::start(folder, Pick::Newest).unwrap();
    cold.base(b"one".to_vec());
    cold.delta(b"1a".to_vec());
    told(cold.promise()).unwrap();
    cold.base(b"two".to_vec());
    cold.delta(b"2a".to_vec());
    cold.delta(b"2b".to_vec());
    told(cold.promise()).unwrap();
    assert_eq!(text(&recovered(folder)), "two2a2b");
}

#[test]
fn what_was_promised_is_found_and_the_end_writes_all() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(found(dir.path()), Found::default());
    assert_eq!(found(&dir.path().join("nowhere")), Found::default());
    two_generations(dir.path());
    for name in ["engine.0", "engine.1"] {
        assert_eq!(dir.path().join(name).metadata().unwrap().mode() & 0o777, 0o600);
    }
    let previous = read(dir.path(), Pick::Previous).unwrap().recovered.expect("kept");
    assert_eq!(
        (text(&previous), previous.is_previous),
        ("one1a".to_owned(), true)
    );
    let cold = Cold::start(dir.path(), Pick::Newest).unwrap();
    assert!(until(&cold, |_| true).wants_base);
    told(cold.end(b"three".to_vec())).unwrap();
    let last = recovered(dir.path());
    assert_eq!((text(&last), last.generation), ("three".to_owned(), 3));
    assert_eq!((last.left_out, last.is_previous), (None, false));
    assert!(!dir.path().join("engine.new").exists());
}

#[test]
fn the_generation_that_was_picked_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    two_generations(dir.path());
    told(
        Cold::start(dir.path(), Pick::Previous)
            .unwrap()
            .end(b"safe".to_vec()),
    )
    .unwrap();
    assert_eq!(text(&recovered(dir.path())), "safe");
    let previous = read(dir.path(), Pick::Previous).unwrap().recovered.expect("kept");
    assert_eq!(text(&previous), "one1a");
}

/// What the steps of the disk do.
#[derive(Default)]
struct Faults {
    /// Steps still to come before the one that fails.
    until_fault: Option<usize>,
    /// All fail.
    is_full: bool,
    steps: usize,
    /// Held open, so that no new file gets its number.
    distrusted: Vec<File>,
}

#[derive(Clone, Default)]
struct FaultyDisk(Arc<Mutex<Faults>>);

impl FaultyDisk {
    fn step(&self) -> io::Result<()> {
        let mut faults = self.0.lock().unwrap();
        faults.steps += 1;
        let fails = match &mut faults.until_fault {
            Some(0) => {
                faults.until_fault = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => faults.is_full,
        };
        if fails {
            return Err(io::Error::from_raw_os_error(if faults.is_full { 28 } else { 5 }));
        }
        Ok(())
    }
}

impl Disk for FaultyDisk {
    fn make(&mut self, folder: &Folder, name: &str) -> io::Result<File> {
        self.step()?;
        folder.make(name)
    }

    fn begin(&mut self, file: File, generation: u64, base: &[u8]) -> io::Result<Half> {
        self.step()?;
        Half::begin(file, generation, base).map_err(|(_, e)| e)
    }

    fn append(&mut self, half: &mut Half, delta: &[u8]) -> io::Result<()> {
        self.step()?;
        half.append(delta)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        let inode = file.metadata()?.ino();
        let is_distrusted = |f: &File| f.metadata().unwrap().ino() == inode;
        assert!(
            !self.0.lock().unwrap().distrusted.iter().any(is_distrusted),
            "a file is synced again after its sync failed"
        );
        if let Err(e) = self.step() {
            self.0.lock().unwrap().distrusted.push(file.try_clone()?);
            return Err(e);
        }
        file.sync_data()
    }

    fn rename(&mut self, folder: &Folder, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        struct Plain;
        impl Disk for Plain {}
        Plain.rename(folder, from, to)
    }

    fn sync_folder(&mut self, _: &Folder) -> io::Result<()> {
        self.step()
    }
}

/// C3
#[test]
fn whichever_step_fails_the_last_promise_holds_and_the_next_state_heals_it() {
    let mut failures = 0;
    for n in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
        let cold = Cold::start_on(dir.path(), Pick::Newest, disk.clone()).unwrap();
        let mut promised = String::new();
        let mut state = String::new();
        // Every state since the last promise, that one among them.
        let mut since = vec![];
        disk.0.lock().unwrap().until_fault = Some(n);
        for round in 0..3 {
            state = format!("base{round}");
            since.push(state.clone());
            cold.base(state.clone().into_bytes());
            for delta in ["x", "y"] {
                cold.delta(delta.as_bytes().to_vec());
                state += delta;
                since.push(state.clone());
                match told(cold.promise()) {
                    Ok(()) => promised = state.clone(),
                    Err(why) => {
                        failures += 1;
                        assert!(why.contains("Input/output error"), "{why}");
                        let status = until(&cold, |s| s.degraded.is_some());
                        assert!(!status.wants_base, "not at once");
                        // The disk may have more than was promised, and never less.
                        if !promised.is_empty() {
                            let now = recovered(dir.path());
                            assert!(since.contains(&text(&now)), "step {n}: {now:?}");
                        }
                        cold.base(state.clone().into_bytes());
                        told(cold.promise()).expect("healed by a new base in a new file");
                        assert_eq!(until(&cold, |_| true).degraded, None);
                        promised = state.clone();
                    }
                }
                since = vec![promised.clone()];
                assert_eq!(text(&recovered(dir.path())), promised, "step {n}");
            }
        }
        assert_eq!(promised, state);
        if disk.0.lock().unwrap().until_fault.is_some() {
            break;
        }
    }
    assert!(failures >= 20, "only {failures} steps could fail");
}

/// C2
#[test]
fn a_full_disk_is_told_and_heals_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    two_generations(dir.path());
    let disk = FaultyDisk::default();
    disk.0.lock().unwrap().is_full = true;
    let cold = Cold::start_on(dir.path(), Pick::Newest, disk.clone()).unwrap();
    cold.base(b"three".to_vec());
    let why = told(cold.promise()).expect_err("no room");
    assert!(
        why.contains("No space left on device") && why.contains(&dir.path().display().to_string()),
        "{why}"
    );
    assert_eq!(text(&recovered(dir.path())), "two2a2b");
    // Asked for again after a pause, without anything else happening.
    until(&cold, |s| s.wants_base && s.degraded.is_some());
    cold.base(b"four".to_vec());
    told(cold.promise()).expect_err("still no room");
    // Until the next try, whoever asks is told at once.
    assert!(
        told(cold.promise())
            .expect_err("still no room")
            .contains("No space")
    );
    disk.0.lock().unwrap().is_full = false;
    until(&cold, |s| s.wants_base);
    let answer = cold.promise();
    cold.base(b"five".to_vec());
    told(answer).unwrap();
    assert_eq!(until(&cold, |_| true), Status::default());
    assert_eq!(text(&recovered(dir.path())), "five");
    assert_eq!(
        text(&read(dir.path(), Pick::Previous).unwrap().recovered.unwrap()),
        "two2a2b"
    );
}

/// C2
#[test]
fn a_folder_that_is_gone_or_holds_links_is_told_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("state");
    let cold = Cold::start(&folder, Pick::Newest).unwrap();
    cold.base(b"one".to_vec());
    assert!(
        told(cold.promise())
            .expect_err("no folder")
            .contains("cannot open")
    );
    std::fs::create_dir(&folder).unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "mine").unwrap();
    symlink(&victim, folder.join("engine.1")).unwrap();
    cold.base(b"two".to_vec());
    assert!(
        told(cold.promise())
            .expect_err("a link")
            .contains("symbolic link")
    );
    std::fs::remove_file(folder.join("engine.1")).unwrap();
    // A leftover link in the way of a new base is only removed.
    symlink(&victim, folder.join("engine.new")).unwrap();
    cold.base(b"three".to_vec());
    told(cold.promise()).unwrap();
    assert_eq!(text(&recovered(&folder)), "three");
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
}

#[test]
fn files_that_were_removed_promise_nothing_and_are_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let cold = Cold::start(dir.path(), Pick::Newest).unwrap();
    cold.base(b"one".to_vec());
    told(cold.promise()).unwrap();
    for name in ["engine.0", "engine.1"] {
        // The first base has made one of them.
        let _ = std::fs::remove_file(dir.path().join(name));
    }
    cold.delta(b"1a".to_vec());
    assert!(told(cold.promise()).expect_err("gone").contains("was removed"));
    until(&cold, |s| s.wants_base);
    cold.base(b"two".to_vec());
    told(cold.promise()).unwrap();
    assert_eq!(text(&recovered(dir.path())), "two");
}

/// A disk whose syncs wait for a word.
struct SlowDisk {
    go: std::sync::mpsc::Receiver<()>,
    waits: std::sync::mpsc::Sender<()>,
}

impl Disk for SlowDisk {
    fn sync(&mut self, file: &File) -> io::Result<()> {
        let _ = self.waits.send(());
        // The test has ended: go on.
        let _ = self.go.recv();
        file.sync_data()
    }
}

/// C16
#[test]
fn a_slow_disk_delays_promises_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (go, gate) = std::sync::mpsc::channel();
    let (waits, waiting) = std::sync::mpsc::channel();
    let cold = Cold::start_on(dir.path(), Pick::Newest, SlowDisk { go: gate, waits }).unwrap();
    cold.base(b"base".to_vec());
    waiting.recv_timeout(PATIENCE).expect("the disk is at it");
    let mut first = cold.promise();
    let began = Instant::now();
    let delta = vec![b'x'; 1024 * 1024];
    for _ in 0..2 * STATE_QUEUE_BYTES / delta.len() {
        cold.delta(delta.clone());
    }
    assert!(until(&cold, |_| true).wants_base, "more than may wait");
    cold.base(b"whole".to_vec());
    assert!(!until(&cold, |_| true).wants_base);
    cold.delta(b"!".to_vec());
    let second = cold.promise();
    assert!(began.elapsed() < PATIENCE / 2);
    assert!(first.try_recv().is_err(), "nothing is promised before it is so");
    for _ in 0..3 {
        go.send(()).unwrap();
    }
    told(first).unwrap();
    told(second).unwrap();
    assert_eq!(text(&recovered(dir.path())), "whole!");
}

/// B13
#[test]
fn a_damaged_file_gives_way_to_the_previous_one_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    two_generations(dir.path());
    let path = ["engine.0", "engine.1"]
        .map(|name| dir.path().join(name))
        .into_iter()
        .find(|path| std::fs::read(path).unwrap().windows(3).any(|w| w == b"two"))
        .expect("the newest");
    let whole = std::fs::read(&path).unwrap();
    let base = HEADER + 3;
    let mut damaged: Vec<(usize, Vec<u8>)> =
        (0..whole.len()).map(|cut| (cut, whole[..cut].to_vec())).collect();
    damaged.extend((0..whole.len()).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        (at, bytes)
    }));
    damaged.push((0, vec![0; 10_000]));
    for (at, bytes) in damaged {
        std::fs::write(&path, &bytes).unwrap();
        let state = recovered(dir.path());
        if at < base {
            assert_eq!(
                (text(&state), state.is_previous),
                ("one1a".to_owned(), true),
                "{at}"
            );
            let told = state.left_out.expect("told");
            assert!(told.contains(&path.display().to_string()), "{told}");
        } else {
            assert_eq!(text(&state), ["two", "two2a"][(at - base) / (HEADER + 2)], "{at}");
        }
    }
    // Nothing is left: that is told as well, and it begins anew.
    for name in ["engine.0", "engine.1"] {
        std::fs::write(dir.path().join(name), "garbage").unwrap();
    }
    let lost = found(dir.path());
    assert!(lost.recovered.is_none() && lost.lost.expect("told").contains("engine.1"));
    told(
        Cold::start(dir.path(), Pick::Newest)
            .unwrap()
            .end(b"anew".to_vec()),
    )
    .unwrap();
    assert_eq!(text(&recovered(dir.path())), "anew");
}

/// B13
#[test]
fn what_a_newer_program_wrote_is_refused_by_name_and_left_untouched() {
    let dir = tempfile::tempdir().unwrap();
    two_generations(dir.path());
    let path = dir.path().join("engine.0");
    let mut newer = std::fs::read(&path).unwrap();
    newer[8] = 3;
    let checksum = crc32fast::hash(&newer[..HEADER - 4]).to_le_bytes();
    newer[HEADER - 4..HEADER].copy_from_slice(&checksum);
    std::fs::write(&path, &newer).unwrap();
    let other = std::fs::read(dir.path().join("engine.1")).unwrap();
    let refused = read(dir.path(), Pick::Newest).expect_err("refused").to_string();
    let cold = Cold::start(dir.path(), Pick::Newest).unwrap();
    cold.base(b"mine".to_vec());
    let told = told(cold.promise()).expect_err("refused");
    for text in [refused, told] {
        assert!(
            text.contains("engine.0") && text.contains("version 3") && text.contains("reads 1 to 1"),
            "{text}"
        );
    }
    assert_eq!(std::fs::read(&path).unwrap(), newer);
    assert_eq!(std::fs::read(dir.path().join("engine.1")).unwrap(), other);
}
