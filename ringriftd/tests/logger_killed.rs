//! The real logger, killed by SIGKILL: at random moments under a load, and at chosen system calls. The test plays the
//! keeper, and holds what a keeper holds.

mod logger_process;

use std::fs::File;
use std::io::Write;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use logger_process::{Keeper, Numbers, pause};
use ringriftd::keeper::wire::{FromLogger, ToLogger};

/// Numbered lines in pieces, until told to stop or `most` bytes. Returns what was written.
fn write_lines(mut pipe: File, seed: u64, most: usize, is_over: &AtomicBool) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    let mut all = Vec::new();
    let mut waiting = Vec::new();
    let mut n = 0u64;
    while !is_over.load(Ordering::Relaxed) && all.len() < most {
        // Now and then one that is too long for one record.
        let width = match numbers.below(200) {
            0 => 40_000,
            _ => numbers.below(120) as usize,
        };
        waiting.extend(format!("{seed} {n:0width$}\n").into_bytes());
        n += 1;
        let piece = numbers.below(4000) as usize;
        if waiting.len() > piece {
            pipe.write_all(&waiting[..piece]).expect("written");
            all.extend(waiting.drain(..piece));
            // Most are quiet now and then, two flood.
            if seed > 2 {
                pause(Duration::from_millis(numbers.below(8)));
            }
        }
    }
    all
}

#[test]
fn no_line_is_lost_or_doubled_by_a_hundred_kills_at_random_moments() {
    const KILLS: usize = 120;
    let (keeper, ends) = Keeper::new(20);
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (1..)
        .zip(ends)
        .map(|(seed, end)| {
            let is_over = is_over.clone();
            std::thread::spawn(move || write_lines(end, seed, 6 << 20, &is_over))
        })
        .collect();
    let mut numbers = Numbers(0x7269_6e67);
    for _ in 0..KILLS {
        let logger = keeper.start(&[]);
        // Some die before they are ready.
        if numbers.below(8) > 0 {
            assert_eq!(logger.hear(), Some(FromLogger::Ready));
            pause(Duration::from_micros(numbers.below(12_000)));
        }
        logger.kill();
    }
    is_over.store(true, Ordering::Relaxed);
    let last = keeper.start(&[]);
    let expected: Vec<_> = writers.into_iter().map(|w| w.join().expect("no panic")).collect();
    keeper.wait_until_packed();
    last.kill();
    keeper.end();
    keeper.check(&expected);
    assert!(
        expected.iter().all(|all| all.len() > 10_000),
        "too little was written to prove anything"
    );
}

/// Killed as it enters the n-th call of each kind that moves or writes something.
#[test]
fn no_line_is_lost_or_doubled_by_a_kill_at_any_system_call() {
    let has_strace = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join("strace").is_file()));
    if !has_strace {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "cannot skip in CI: needs strace"
        );
        eprintln!("SKIPPED: no_line_is_lost_or_doubled_by_a_kill_at_any_system_call needs strace");
        return;
    }
    let mut numbers = Numbers(0x7269_6674);
    let mut killed = 0;
    for call in [
        "tee",
        "write",
        "splice",
        "ioctl",
        "pwrite64",
        "read",
        "ftruncate",
        "epoll_wait",
        "fsync",
        "/^renameat",
        "/^linkat",
        "/^unlinkat",
    ] {
        // The first of each kind, and some of the later ones.
        let later: Vec<_> = (0..4).map(|_| 5 + numbers.below(20)).collect();
        for when in (1..5).chain(later) {
            let (mut keeper, mut ends) = Keeper::new(4);
            keeper.max_size = 8 << 10;
            let mut expected = vec![Vec::new(); ends.len()];
            for round in 0..2 {
                for (n, (end, all)) in ends.iter_mut().zip(&mut expected).enumerate() {
                    let mut text = Vec::new();
                    for line in 0..200 {
                        let width = 1 + numbers.below(150) as usize;
                        text.extend(format!("{round}.{n}.{line} {line:0width$}\n").into_bytes());
                    }
                    text.extend(b"begun");
                    end.write_all(&text).expect("written");
                    all.extend(text);
                }
                if round == 0 {
                    let inject = format!("inject={call}:signal=KILL:when={when}");
                    let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject];
                    let mut logger = keeper.start(&words);
                    logger.tell(&ToLogger::End, None);
                    while logger.hear().is_some() {}
                    let status = logger.child.wait().expect("reaped");
                    if status.success() {
                        // It made fewer such calls, and has written `begun` as a last line, which it is not.
                        break;
                    }
                    killed += 1;
                }
            }
            drop(ends);
            keeper.end();
            keeper.check(&expected);
        }
    }
    assert!(killed > 20, "strace killed only {killed} loggers");
}

#[test]
fn a_logger_without_what_the_keeper_holds_refuses_to_start() {
    let temp = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_ringriftd"))
        .args(["logger", "--log-dir"])
        .arg(temp.path().join("log"))
        .output()
        .expect("started");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("descriptor 3 is missing; only the keeper starts a logger"),
        "{text}"
    );
    assert!(!temp.path().join("log").exists());
}
