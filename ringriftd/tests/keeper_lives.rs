//! The manager dies, hangs, and keeps dying: no unit hears of it, and its successor hears of everything.

mod keeper_support;

use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;

use keeper_support::cast::{Cast, Told};
use keeper_support::{Mode, Played, is_running, kill, modes, start_time};
use proto::reply::Exit;
use ringriftd::ids::{Invocation, LaunchId, Scope};
use ringriftd::keeper::wire::{Fork, FromKeeper, ToKeeper, ToLogger};

struct Hello {
    is_fresh: bool,
    deaths: u32,
    is_safe: bool,
    last_order: u64,
}

fn hello(told: &Told) -> Hello {
    match told.hello {
        FromKeeper::Hello {
            is_fresh,
            manager_deaths,
            is_safe,
            last_order,
            ..
        } => Hello {
            is_fresh,
            deaths: manager_deaths,
            is_safe,
            last_order,
        },
        ref other => panic!("{other:?}"),
    }
}

fn main_of(serial: u64) -> LaunchId {
    LaunchId::main(Invocation(serial))
}

/// Pid and start time of each that was launched.
fn launched(told: &Told) -> BTreeMap<LaunchId, (u32, u64)> {
    told.inventory
        .iter()
        .filter_map(|(said, _)| match said {
            FromKeeper::Launched {
                id, pid, start_time, ..
            } => Some((*id, (*pid, *start_time))),
            _ => None,
        })
        .collect()
}

#[test]
fn twenty_launches_outlive_twenty_managers() {
    for mode in modes() {
        let mut cast = Cast::start_bounded(mode, [60_000, 30_000, 15_000, 0]);
        let wait = format!("exec cat <>{}", cast.fifo().display());
        let mut all = BTreeMap::new();
        for serial in 1..=20 {
            let (pid, _) = cast.manager.launch(&cast.shell(serial, &wait));
            all.insert(main_of(serial), (pid, start_time(pid)));
        }
        for death in 1..=20 {
            cast.kill_manager();
            let told = cast.next_manager();
            let hello = hello(&told);
            assert_eq!((hello.is_fresh, hello.deaths), (false, death), "{mode:?}");
            assert_eq!(told.inventory.len(), 20);
            assert_eq!(launched(&told), all);
            cast.manager.send(&ToKeeper::Serving);
        }
        assert!(all.values().all(|(pid, start)| is_running(*pid, *start)));
        cast.end(0);
    }
}

#[test]
fn an_end_while_no_manager_is_there_is_told_to_the_next_with_its_code() {
    for mode in modes() {
        let mut cast = Cast::start(mode);
        let fifo = cast.fifo();
        let exits = cast.shell(1, "read x; exit 42");
        let gate = cast.dir.path().join("gate");
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let mut exits = exits;
        exits.argv[2] = format!("read x <{}; exit 42", gate.display()).into_bytes();
        cast.manager.launch(&exits);
        let leaves = cast.shell(
            2,
            &format!("(read x <>{}) & read x <{}", fifo.display(), gate.display()),
        );
        cast.manager.launch(&leaves);
        let killed = cast.shell(3, &format!("read x <>{}", fifo.display()));
        let (killed_pid, _) = cast.manager.launch(&killed);
        let mut notified = cast.shell(4, &format!("read x <>{}", fifo.display()));
        let socket = cast.dir.path().join("run/n/4");
        notified.notify = Some(socket.to_str().unwrap().as_bytes().to_vec());
        notified.ready_fd = Some(3);
        cast.manager.launch(&notified);

        // Two that were told, of which one is never taken; a third one is told for the first time to the next manager.
        kill(cast.keeper.id(), libc::SIGHUP);
        let said = |m: &FromKeeper| match m {
            FromKeeper::Signal { signal, number } => Some((*signal, *number)),
            _ => None,
        };
        assert_eq!(cast.manager.wait_for(said).0, (libc::SIGHUP, 1));
        kill(cast.manager.pid, libc::SIGSTOP);
        kill(cast.keeper.id(), libc::SIGTERM);
        assert_eq!(cast.manager.wait_for(said).0, (libc::SIGTERM, 2));
        cast.manager.send(&ToKeeper::SignalTaken { number: 1 });
        // The keeper sleeps while all of it happens: it finds the ends together.
        kill(cast.keeper.id(), libc::SIGSTOP);
        cast.kill_manager();
        kill(killed_pid, libc::SIGKILL);
        // Kept open: a shell that has not come to the gate yet finds what is its own there.
        let mut open = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&gate)
            .unwrap();
        open.write_all(b"a\nb\n").unwrap();
        kill(cast.keeper.id(), libc::SIGTERM);
        kill(cast.keeper.id(), libc::SIGCONT);

        let told = cast.next_manager();
        let mut ends = BTreeMap::new();
        let mut signals = Vec::new();
        for (said, fds) in &told.inventory {
            match said {
                FromKeeper::Exited {
                    id, exit, remains, ..
                } => {
                    ends.insert(*id, (*exit, remains.len()));
                }
                FromKeeper::Signal { signal, number } => signals.push((*signal, *number)),
                FromKeeper::Launched { id, .. } if *id == notified.id => assert_eq!(fds.len(), 2),
                FromKeeper::Launched { .. } => assert!(fds.is_empty()),
                other => panic!("{other:?}"),
            }
        }
        // What ended only after the inventory is told as ever.
        for id in [exits.id, leaves.id, killed.id] {
            ends.entry(id).or_insert_with(|| {
                let (exit, remains) = cast.manager.exited(id);
                (exit, remains.len())
            });
        }
        let sigkill = Exit::Signal {
            signal: libc::SIGKILL,
            core: false,
        };
        assert_eq!(
            ends,
            BTreeMap::from([
                (exits.id, (Exit::Code(42), 0)),
                (leaves.id, (Exit::Code(0), 1)),
                (killed.id, (sigkill, 0)),
            ]),
            "{mode:?}"
        );
        // One of a kind, the last.
        assert_eq!(signals, [(libc::SIGTERM, 3)]);
        cast.end(0);
    }
}

#[test]
fn what_was_left_and_has_gone_is_told_to_the_next_too() {
    for mode in modes() {
        let mut cast = Cast::start(mode);
        let script = format!("(read x <>{}) &", cast.fifo().display());
        cast.manager.launch(&cast.shell(1, &script));
        let (_, remains) = cast.manager.exited(main_of(1));
        assert_eq!(remains.len(), 1, "{mode:?}");
        cast.manager.send(&ToKeeper::Destroy { id: main_of(1) });
        cast.manager
            .wait_for(|m| matches!(m, FromKeeper::Emptied { .. }).then_some(()));
        cast.kill_manager();
        let told = cast.next_manager();
        let words: Vec<&FromKeeper> = told.inventory.iter().map(|(said, _)| said).collect();
        let expected = [
            matches!(words[0], FromKeeper::Launched { .. }),
            matches!(words[1], FromKeeper::Exited { remains: again, .. } if *again == remains),
            matches!(words[2], FromKeeper::Emptied { .. }),
        ];
        assert_eq!((expected, words.len()), ([true; 3], 3), "{words:?}");
        cast.manager.send(&ToKeeper::Release { id: main_of(1) });
        cast.kill_manager();
        assert!(cast.next_manager().inventory.is_empty());
        cast.end(0);
    }
}

#[test]
fn no_signal_is_sent_twice_by_two_managers() {
    let mut cast = Cast::start(Mode::Group);
    let count = cast.dir.path().join("count");
    let script = format!(
        "trap 'echo x >>{}' USR1; echo >&3; while :; do read x <>{}; done",
        count.display(),
        cast.fifo().display()
    );
    let mut launch = cast.shell(1, &script);
    launch.ready_fd = Some(3);
    let (_, fds) = cast.manager.launch(&launch);
    keeper_support::wait_readable(&fds[0]);
    let signal = |order, signal| ToKeeper::Signal {
        id: main_of(1),
        signal,
        scope: Scope::Main,
        order,
    };
    let lines = |n: usize| {
        let deadline = std::time::Instant::now() + keeper_support::PATIENCE;
        while std::fs::read_to_string(&count)
            .unwrap_or_default()
            .lines()
            .count()
            < n
        {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
    };
    cast.manager.send(&signal(7, libc::SIGUSR1));
    lines(1);
    cast.kill_manager();
    let told = cast.next_manager();
    assert_eq!(hello(&told).last_order, 7);
    // It does not know whether its predecessor's order was carried out.
    cast.manager.send(&signal(7, libc::SIGUSR1));
    cast.manager.send(&signal(8, libc::SIGUSR1));
    lines(2);
    cast.manager.send(&signal(9, libc::SIGKILL));
    cast.manager.exited(main_of(1));
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\nx\n");
    cast.end(0);
}

#[test]
fn a_manager_that_keeps_dying_is_started_in_safe_mode_and_units_stay_up() {
    let mut cast = Cast::start(Mode::Group);
    let wait = format!("read x <>{}", cast.fifo().display());
    let (pid, _) = cast.manager.launch(&cast.shell(1, &wait));
    let start = start_time(pid);
    for death in 1..=6u32 {
        // All but the first before they served: a SIGKILL after that says nothing of the state, and does not count.
        cast.kill_manager();
        let told = cast.next_manager();
        let hello = hello(&told);
        assert_eq!((hello.deaths, hello.is_safe), (death, death > 5));
        assert_eq!(launched(&told), BTreeMap::from([(main_of(1), (pid, start))]));
    }
    cast.end(0);
}

#[test]
fn a_manager_that_served_long_enough_has_proved_itself() {
    let mut cast = Cast::start_bounded(Mode::Group, [60_000, 30_000, 15_000, 0]);
    for _ in 0..6 {
        cast.kill_manager();
        assert!(!hello(&cast.next_manager()).is_safe);
        cast.manager.send(&ToKeeper::Serving);
        cast.manager.send(&ToKeeper::Ping { nonce: 1 });
        cast.manager
            .wait_for(|m| matches!(m, FromKeeper::Pong { nonce: 1 }).then_some(()));
    }
    cast.end(0);
}

#[test]
fn what_manager_and_logger_leave_behind_is_there_for_the_next() {
    let mut cast = Cast::start(Mode::Group);
    let ids = |played: &Played| {
        played
            .kept
            .iter()
            .map(|fd| {
                let stat = nix::sys::stat::fstat(fd).unwrap();
                (stat.st_dev, stat.st_ino)
            })
            .collect::<Vec<_>>()
    };
    let (of_manager, of_logger) = (ids(&cast.manager), ids(&cast.logger));
    // The listener, two memories, two locks; one memory, both ends of one pipe.
    assert_eq!((of_manager.len(), of_logger.len()), (5, 3));
    assert_eq!(of_logger[1], of_logger[2]);
    let lock = |name: &str| {
        let meta = std::fs::metadata(cast.dir.path().join(name)).unwrap();
        (meta.dev(), meta.ino())
    };
    assert_eq!(of_manager[3..], [lock("state/lock"), lock("run/lock")]);
    let mut state = std::fs::File::from(cast.manager.kept.remove(1));
    state.write_all(b"left behind").unwrap();
    // A client that knocks meanwhile is let in by the next.
    cast.kill_manager();
    let client = UnixStream::connect(cast.dir.path().join("run/control.sock")).unwrap();
    cast.next_manager();
    assert_eq!(ids(&cast.manager), of_manager);
    let mut state = std::fs::File::from(cast.manager.kept.remove(1));
    let mut text = String::new();
    state.rewind().unwrap();
    state.read_to_string(&mut text).unwrap();
    assert_eq!(text, "left behind");
    let listener = std::os::unix::net::UnixListener::from(cast.manager.kept.remove(0));
    listener.accept().unwrap();
    drop(client);
    // The logger that lives is told of the new one, and both have the ends of one link.
    let (word, mut fds): (ToLogger, _) = cast.logger.receive();
    assert_eq!(word, ToLogger::Peer);
    let peer = fds.remove(0);
    nix::unistd::write(&cast.manager.peer, b"are you there").unwrap();
    keeper_support::wait_readable(&peer);
    assert_eq!(nix::unistd::read(&peer, &mut [0; 32]).unwrap(), 13);
    kill(cast.logger.pid, libc::SIGKILL);
    cast.logger = Played::accept(&cast.listener, "logger");
    assert_eq!(ids(&cast.logger), of_logger);
    cast.end(0);
}

#[test]
fn a_manager_that_does_not_answer_is_replaced() {
    let mut cast = Cast::start_bounded(Mode::Group, [60_000, 200, 300, 60_000]);
    let hung = cast.manager.pid;
    let start = start_time(hung);
    cast.manager
        .wait_for(|m| matches!(m, FromKeeper::Ping { .. }).then_some(()));
    let told = cast.next_manager();
    assert_eq!(hello(&told).deaths, 1);
    assert!(!is_running(hung, start));
    cast.manager.send(&ToKeeper::Serving);
    // One that answers, or says anything at all, stays.
    for n in 0..5 {
        let (nonce, _) = cast.manager.wait_for(|m| match m {
            FromKeeper::Ping { nonce } => Some(*nonce),
            _ => None,
        });
        let word = if n % 2 == 0 {
            ToKeeper::Pong { nonce }
        } else {
            ToKeeper::SignalTaken { number: 99 }
        };
        cast.manager.send(&word);
    }
    assert!(is_running(cast.manager.pid, start_time(cast.manager.pid)));
    cast.end(0);
}

#[test]
fn a_manager_that_does_not_come_up_is_replaced_and_so_is_the_next() {
    let mut cast = Cast::start_bounded(Mode::Group, [500, 30_000, 15_000, 60_000]);
    let wait = format!("read x <>{}", cast.fifo().display());
    let (pid, _) = cast.manager.launch(&cast.shell(1, &wait));
    let start = start_time(pid);
    cast.kill_manager();
    for deaths in 1..=3 {
        assert_eq!(hello(&cast.next_manager()).deaths, deaths);
    }
    assert!(is_running(pid, start));
    cast.end(0);
}

#[test]
fn a_keeper_that_was_stopped_itself_does_not_judge() {
    let mut cast = Cast::start_bounded(Mode::Group, [60_000, 200, 1000, 60_000]);
    let (pid, keeper) = (cast.manager.pid, cast.keeper.id());
    let ping = |m: &FromKeeper| match m {
        FromKeeper::Ping { nonce } => Some(*nonce),
        _ => None,
    };
    let (first, _) = cast.manager.wait_for(ping);
    kill(keeper, libc::SIGSTOP);
    // Past the answer's time and the second by which a keeper is late; nothing else passes while it is stopped.
    let until = std::time::Instant::now() + std::time::Duration::from_millis(2500);
    while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
        cast.manager.leash.set_read_timeout(Some(left)).unwrap();
        let _ = cast.manager.leash.read(&mut [0]);
    }
    kill(keeper, libc::SIGCONT);
    let (second, _) = cast.manager.wait_for(ping);
    assert!(second > first, "it asks again");
    assert_eq!(cast.manager.pid, pid);
    cast.manager.send(&ToKeeper::Pong { nonce: second });
    cast.manager.wait_for(ping);
    cast.end(0);
}

/// A manager that is told nothing of a launch takes it for never begun: it may end its unit, or begin another life of it.
#[test]
fn what_is_being_forked_when_the_manager_dies_is_in_the_inventory_or_never_runs() {
    for mode in modes() {
        let mut cast = Cast::start(mode);
        let wait = format!("exec cat {}", cast.fifo().display());
        let mut zygote = cast.shell(1, &wait);
        zygote.is_zygote = true;
        cast.manager.launch(&zygote);
        // It never says that it takes requests, so both wait.
        for (serial, or_executed) in [(2, true), (3, false)] {
            let mut launch = cast.shell(serial, &wait);
            launch.fork = Some(Fork {
                zygote: Some(zygote.id),
                or_executed,
            });
            cast.manager.send(&ToKeeper::Launch(Box::new(launch)));
        }
        cast.kill_manager();
        let told = cast.next_manager();
        let ids: Vec<LaunchId> = launched(&told).into_keys().collect();
        assert_eq!(ids, [main_of(1), main_of(2)]);
        cast.manager.send(&ToKeeper::Serving);
        // The keeper has nothing of the third: nobody waits for the zygote any more.
        cast.manager.send(&ToKeeper::Destroy { id: zygote.id });
        let (is_heard, _) = cast.manager.wait_for(|said| match said {
            FromKeeper::Unforked { id, .. } | FromKeeper::Launched { id, .. } => Some(*id == main_of(3)),
            FromKeeper::Exited { id, .. } if *id == zygote.id => Some(false),
            _ => None,
        });
        assert!(!is_heard, "the third launch was still under way");
        cast.end(0);
    }
}
