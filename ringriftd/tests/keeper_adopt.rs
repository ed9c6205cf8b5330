//! All of ringriftd is killed; the next one takes over what lives, and proves it first.

mod keeper_support;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::rc::Rc;

use keeper_support::cast::Cast;
use keeper_support::{ADOPT_WINDOW, Mode, is_running, kill, kill_proven, modes, start_time, wait_readable};
use proto::log::Stream;
use proto::reply::Exit;
use ringriftd::ids::Scope;
use ringriftd::keeper::wire::{Adopt, FromKeeper, Launch, ToKeeper, ToLogger};

const KILLED: Exit = Exit::Signal {
    signal: libc::SIGKILL,
    core: false,
};

fn adopt_of(launch: &Launch, main: Option<(u32, u64)>) -> Adopt {
    Adopt {
        id: launch.id,
        invocation: launch.invocation.clone(),
        role: launch.role.clone(),
        tag: launch.tag.clone(),
        main,
        has_exited: false,
        output: launch.output.clone(),
        notify: launch.notify.clone(),
        identity: launch.identity.clone(),
        ready_fd: launch.ready_fd,
        is_foreign: false,
    }
}

fn fifo(cast: &Cast, name: &str) -> std::path::PathBuf {
    let path = cast.dir.path().join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    path
}

fn open_gate(gate: &std::path::Path) {
    let mut gate = std::fs::File::options().write(true).open(gate).unwrap();
    gate.write_all(b"go\n").unwrap();
}

/// The answer to an `Adopt`: pid, start time and descriptors, or nothing.
fn adopted(cast: &Cast, adopt: &Adopt) -> Option<(u32, u64, Vec<OwnedFd>)> {
    cast.manager.send(&ToKeeper::Adopt(Box::new(adopt.clone())));
    let (found, fds) = cast.manager.wait_for(|m| match m {
        FromKeeper::Launched {
            id, pid, start_time, ..
        } if *id == adopt.id => Some(Some((*pid, *start_time))),
        FromKeeper::Missing { id } if *id == adopt.id => Some(None),
        _ => None,
    });
    found.map(|(pid, start)| (pid, start, fds))
}

fn emptied(cast: &Cast, launch: &Launch) {
    cast.manager
        .wait_for(|m| matches!(m, FromKeeper::Emptied { id } if *id == launch.id).then_some(()));
}

#[test]
fn what_lives_is_taken_over_and_its_end_told_with_its_code() {
    for mode in modes() {
        let cast = Cast::start(mode);
        let gate = fifo(&cast, "gate");
        let codes = cast.shell(1, &format!("read x <{}; exit 7", gate.display()));
        let (pid, _) = cast.manager.launch(&codes);
        let waits = cast.shell(2, &format!("read x <>{}", cast.fifo().display()));
        let (other, _) = cast.manager.launch(&waits);
        let (start, other_start) = (start_time(pid), start_time(other));
        let seed = cast.seed;
        let fallen = cast.fall();
        let dir = Rc::clone(&fallen.dir);
        let cast = Cast::start_in(dir, mode, |_| {});
        assert_eq!(cast.seed, seed, "the marks would not be known again");
        let (again, again_start, fds) = adopted(&cast, &adopt_of(&codes, Some((pid, start)))).unwrap();
        assert_eq!((again, again_start, fds.len()), (pid, start, 0), "{mode:?}");
        // The pid was never heard: it is found by its mark. Asked twice, it is the same.
        for _ in 0..2 {
            let (again, again_start, _) = adopted(&cast, &adopt_of(&waits, None)).unwrap();
            assert_eq!((again, again_start), (other, other_start), "{mode:?}");
        }
        open_gate(&gate);
        assert_eq!(cast.manager.exited(codes.id), (Exit::Code(7), vec![]), "{mode:?}");
        cast.manager.send(&ToKeeper::Signal {
            id: waits.id,
            signal: libc::SIGTERM,
            scope: Scope::All,
            order: 1,
        });
        let (exit, _) = cast.manager.exited(waits.id);
        let term = Exit::Signal {
            signal: libc::SIGTERM,
            core: false,
        };
        assert_eq!(exit, term, "{mode:?}");
        cast.end(0);
    }
}

#[test]
fn what_was_taken_over_is_told_to_a_later_manager_and_ends_with_the_keeper() {
    for mode in modes() {
        let cast = Cast::start(mode);
        // With a child in its own session, which nothing but the launch's mark or leaf proves.
        let wait = format!("read x <>{}", cast.fifo().display());
        let script = format!("setsid sh -c 'echo >&3; {wait}' & {wait}");
        let mut launch = cast.shell(1, &script);
        launch.ready_fd = Some(3);
        let (pid, ready) = cast.manager.launch(&launch);
        wait_readable(&ready[0]);
        let start = start_time(pid);
        let below = keeper_support::descendants(pid);
        assert_eq!(below.len(), 1);
        let fallen = cast.fall();
        let dir = Rc::clone(&fallen.dir);
        let mut cast = Cast::start_in(dir, mode, |_| {});
        let (_, _, fds) = adopted(&cast, &adopt_of(&launch, Some((pid, start)))).unwrap();
        assert_eq!(fds.len(), 1);
        cast.kill_manager();
        let told = cast.next_manager();
        let first = &told.inventory[0];
        assert_eq!(
            (&first.0, first.1.len()),
            (
                &FromKeeper::Launched {
                    id: launch.id,
                    pid,
                    start_time: start,
                    is_deaf: true,
                },
                1
            )
        );
        cast.end(3);
        for (pid, start) in below.into_iter().chain([(pid, start)]) {
            assert!(!is_running(pid, start), "{mode:?}: {pid}");
        }
    }
}

#[test]
fn a_number_that_another_process_has_by_now_is_missing_and_untouched() {
    for mode in modes() {
        let cast = Cast::start(mode);
        let launch = cast.shell(1, "exit 0");
        cast.manager.launch(&launch);
        cast.manager.exited(launch.id);
        let fallen = cast.fall();
        let dir = Rc::clone(&fallen.dir);
        let cast = Cast::start_in(dir, mode, |_| {});
        let mut stranger = Command::new("/bin/cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (pid, start) = (stranger.id(), start_time(stranger.id()));
        // Another start time; and the right one, of a process that bears no mark.
        for noted in [
            (pid, start - 1),
            (pid, start + 1),
            (pid, start),
            (1, 0),
            (u32::MAX, 0),
        ] {
            assert!(
                adopted(&cast, &adopt_of(&launch, Some(noted))).is_none(),
                "{noted:?}"
            );
            for request in [
                ToKeeper::Destroy { id: launch.id },
                ToKeeper::Release { id: launch.id },
            ] {
                cast.manager.send(&request);
            }
        }
        cast.end(0);
        drop(stranger.stdin.take());
        assert!(
            stranger.wait().unwrap().success(),
            "it lived until its input ended"
        );
    }
}

#[test]
fn what_is_left_without_its_main_process_is_taken_over_and_killed() {
    for mode in modes() {
        let cast = Cast::start(mode);
        let wait = format!("read x <>{}", cast.fifo().display());
        let launch = cast.shell(1, &format!("setsid sh -c '{wait}' & exit 0"));
        let (pid, _) = cast.manager.launch(&launch);
        let main = (pid, 0);
        let (_, remains) = cast.manager.exited(launch.id);
        let [left] = remains[..] else {
            panic!("{remains:?}")
        };
        let left_start = start_time(left);
        let fallen = cast.fall();
        let dir = Rc::clone(&fallen.dir);
        // Once with the word that the main process has ended, once without.
        for has_exited in [true, false] {
            let cast = Cast::start_in(Rc::clone(&dir), mode, |_| {});
            let mut adopt = adopt_of(&launch, Some(main));
            adopt.has_exited = has_exited;
            adopted(&cast, &adopt).unwrap();
            let (exit, remains) = cast.manager.exited(launch.id);
            assert_eq!((exit, remains), (Exit::Unknown, vec![left]), "{mode:?}");
            if has_exited {
                assert!(is_running(left, left_start));
                // What it took over is another parent's child, so it is not among what falls with it.
                drop(cast.fall());
                continue;
            }
            cast.manager.send(&ToKeeper::Destroy { id: launch.id });
            emptied(&cast, &launch);
            assert!(!is_running(left, left_start), "{mode:?}");
            cast.manager.send(&ToKeeper::Release { id: launch.id });
            cast.end(0);
        }
    }
}

#[test]
fn a_chatty_unit_lives_through_it_all_and_its_lines_go_on() {
    for mode in modes() {
        let cast = Cast::start(mode);
        let launch = cast.shell(1, "n=0; while :; do echo $n; n=$((n+1)); done");
        let (pid, _) = cast.manager.launch(&launch);
        let start = start_time(pid);
        let mut text = Vec::new();
        let read_on = |pipe: &OwnedFd, text: &mut Vec<u8>, most: usize| {
            let mut buffer = [0; 5000];
            while text.len() < most {
                wait_readable(pipe);
                let count = nix::unistd::read(pipe, &mut buffer).unwrap();
                assert_ne!(count, 0);
                text.extend_from_slice(&buffer[..count]);
            }
        };
        let pipe = cast.opened(launch.id);
        read_on(&pipe, &mut text, 100_000);
        drop(pipe);
        let fallen = cast.fall();
        let dir = Rc::clone(&fallen.dir);
        // Nobody reads: the pipe is full, and the unit waits in write(2), which would have been the end of it.
        let is_waiting = || ringriftd::keeper::proc::stat(pid.cast_signed()).unwrap().state == b'S';
        let deadline = std::time::Instant::now() + keeper_support::PATIENCE;
        while !is_waiting() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        let cast = Cast::start_in(dir, mode, |_| {});
        adopted(&cast, &adopt_of(&launch, Some((pid, start)))).unwrap();
        let pipe = cast.opened(launch.id);
        let most = text.len() + 300_000;
        read_on(&pipe, &mut text, most);
        cast.manager.send(&ToKeeper::Destroy { id: launch.id });
        assert_eq!(cast.manager.exited(launch.id).0, KILLED, "{mode:?}");
        // And its end is the pipe's end.
        let mut pipe = std::fs::File::from(pipe);
        while let Err(e) = pipe.read_to_end(&mut text) {
            assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock);
        }
        let text = String::from_utf8(text).unwrap();
        let whole = &text[..text.rfind('\n').unwrap()];
        assert!(whole.lines().enumerate().all(|(n, line)| line == n.to_string()));
        cast.manager.send(&ToKeeper::Release { id: launch.id });
        cast.end(0);
    }
}

/// The logger is told about `launch`'s pipes: what each is of, and its read end.
fn opened_each(cast: &Cast, launch: &Launch) -> Vec<(Option<Stream>, OwnedFd)> {
    loop {
        let (word, fds): (ToLogger, _) = cast.logger.receive();
        match word {
            ToLogger::Open { id, streams, .. } if id == launch.id => {
                assert_eq!(streams.len(), fds.len());
                return streams.into_iter().zip(fds).collect();
            }
            _ => {}
        }
    }
}

/// Two pipes are known from each other by another keeper, whatever the unit did with their numbers.
#[test]
fn streams_that_were_told_apart_are_told_apart_again() {
    for (mode, swaps) in modes().into_iter().zip([true, false, true]) {
        let cast = Cast::start(mode);
        let gate = fifo(&cast, "gate");
        let swap = if swaps { "exec 3>&1 1>&2 2>&3 3>&-;" } else { "" };
        let script = format!(
            "echo out; echo err >&2; {swap} read x <{}; echo one; echo two >&2; exec sleep 1000",
            gate.display()
        );
        let mut launch = cast.shell(1, &script);
        launch.output.read.is_split = true;
        let (pid, _) = cast.manager.launch(&launch);
        let start = start_time(pid);
        let expect = |ends: Vec<(Option<Stream>, OwnedFd)>, out: &str, err: &str| {
            assert_eq!(ends.len(), 2);
            for ((stream, pipe), (of, text)) in ends
                .into_iter()
                .zip([(Stream::Stdout, out), (Stream::Stderr, err)])
            {
                assert_eq!(stream, Some(of), "{mode:?}");
                let (mut buffer, mut said) = ([0; 100], Vec::new());
                while said.len() < text.len() {
                    wait_readable(&pipe);
                    let count = nix::unistd::read(&pipe, &mut buffer).unwrap();
                    said.extend_from_slice(&buffer[..count]);
                }
                assert_eq!(String::from_utf8_lossy(&said), text, "{mode:?}");
            }
        };
        expect(opened_each(&cast, &launch), "out\n", "err\n");
        let fallen = cast.fall();
        let dir = Rc::clone(&fallen.dir);
        let cast = Cast::start_in(dir, mode, |_| {});
        adopted(&cast, &adopt_of(&launch, Some((pid, start)))).unwrap();
        let ends = opened_each(&cast, &launch);
        open_gate(&gate);
        let (out, err) = if swaps {
            ("two\n", "one\n")
        } else {
            ("one\n", "two\n")
        };
        expect(ends, out, err);
        cast.manager.send(&ToKeeper::Destroy { id: launch.id });
        assert_eq!(cast.manager.exited(launch.id).0, KILLED, "{mode:?}");
        cast.manager.send(&ToKeeper::Release { id: launch.id });
        cast.end(0);
    }
}

#[test]
fn its_sockets_and_its_readiness_are_there_again() {
    let cast = Cast::start(Mode::Group);
    let gate = fifo(&cast, "gate");
    let wait = format!("read x <>{}", cast.fifo().display());
    let mut launch = cast.shell(1, &format!("read x <{}; echo >&5; {wait}", gate.display()));
    let path = cast.dir.path().join("run/n/1");
    launch.notify = Some(path.to_str().unwrap().as_bytes().to_vec());
    launch.ready_fd = Some(5);
    let (pid, _) = cast.manager.launch(&launch);
    // One that has closed its readiness pipe.
    let mut closed = cast.shell(2, &format!("echo >&5; exec 5>&-; {wait}"));
    closed.ready_fd = Some(5);
    let (closed_pid, fds) = cast.manager.launch(&closed);
    let mut ready = std::fs::File::from(fds.into_iter().next().unwrap());
    let mut text = Vec::new();
    while let Err(e) = ready.read_to_end(&mut text) {
        assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock);
    }
    let (start, closed_start) = (start_time(pid), start_time(closed_pid));
    let fallen = cast.fall();
    let dir = Rc::clone(&fallen.dir);
    let cast = Cast::start_in(dir, Mode::Group, |_| {});
    let (_, _, mut fds) = adopted(&cast, &adopt_of(&launch, Some((pid, start)))).unwrap();
    assert_eq!(fds.len(), 2);
    let (socket, ready) = (UnixDatagram::from(fds.remove(0)), fds.remove(0));
    UnixDatagram::unbound()
        .unwrap()
        .send_to(b"READY=1", &path)
        .unwrap();
    let mut bytes = [0; 16];
    assert_eq!(socket.recv(&mut bytes).unwrap(), 7);
    open_gate(&gate);
    wait_readable(&ready);
    assert_eq!(nix::unistd::read(&ready, &mut bytes).unwrap(), 1);
    let (_, _, mut fds) = adopted(&cast, &adopt_of(&closed, Some((closed_pid, closed_start)))).unwrap();
    let ready = fds.remove(0);
    wait_readable(&ready);
    assert_eq!(nix::unistd::read(&ready, &mut bytes).unwrap(), 0);
    cast.end(0);
}

#[test]
fn a_process_that_was_never_ours_is_taken_over_on_an_operators_word() {
    for mode in modes() {
        for dies_by_itself in [true, false] {
            let cast = Cast::start(mode);
            let wait = format!("read x <>{}", cast.fifo().display());
            let mut outside = Command::new("/bin/sh")
                .args(["-c", &format!("({wait}) & echo; {wait}; exit 9")])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            outside.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
            let (pid, start) = (outside.id(), start_time(outside.id()));
            let below = keeper_support::descendants(pid);
            let mut adopt = adopt_of(&cast.shell(1, ""), Some((pid, start + 1)));
            adopt.is_foreign = true;
            assert!(adopted(&cast, &adopt).is_none());
            adopt.main = Some((pid, start));
            let (found, ..) = adopted(&cast, &adopt).unwrap();
            assert_eq!(found, pid);
            if dies_by_itself {
                kill(pid, libc::SIGKILL);
                let (exit, remains) = cast.manager.exited(adopt.id);
                assert_eq!(exit, KILLED, "{mode:?}");
                assert_eq!(
                    remains,
                    below.iter().map(|(pid, _)| *pid).collect::<Vec<_>>(),
                    "{mode:?}"
                );
            }
            // Its parent is the test, which may reap it before or after the keeper looks.
            cast.manager.send(&ToKeeper::Destroy { id: adopt.id });
            let id = adopt.id;
            cast.manager.wait_for(|m| match m {
                FromKeeper::Emptied { id: i } if *i == id => Some(()),
                FromKeeper::Exited { id: i, remains, .. } if *i == id && remains.is_empty() => Some(()),
                _ => None,
            });
            outside.wait().unwrap();
            for (pid, start) in below {
                assert!(!is_running(pid, start), "{mode:?}");
            }
            cast.end(0);
        }
    }
}

#[test]
fn what_nobody_takes_over_is_named_and_left_alone() {
    let cast = Cast::start(Mode::Group);
    let wait = format!("read x <>{}", cast.fifo().display());
    let [known, unknown] = [cast.shell(1, &wait), cast.shell(2, &wait)];
    let (pid, _) = cast.manager.launch(&known);
    let (orphan, _) = cast.manager.launch(&unknown);
    let (start, orphan_start) = (start_time(pid), start_time(orphan));
    let fallen = cast.fall();
    let dir = Rc::clone(&fallen.dir);
    let said = dir.path().join("said");
    let mut cast = Cast::start_in(Rc::clone(&dir), Mode::Group, |command| {
        command.env(ADOPT_WINDOW, "300");
        command.stderr(std::fs::File::create(&said).unwrap());
    });
    adopted(&cast, &adopt_of(&known, Some((pid, start)))).unwrap();
    let deadline = std::time::Instant::now() + keeper_support::PATIENCE;
    let text = loop {
        let text = std::fs::read_to_string(&said).unwrap();
        if text.contains("earlier ringriftd") {
            break text;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
        std::thread::yield_now();
    };
    assert!(text.contains(&format!("[{orphan}]")), "{text}");
    // Later managers are not told again, and the end does not touch it.
    cast.kill_manager();
    cast.next_manager();
    cast.end(0);
    assert_eq!(
        std::fs::read_to_string(&said)
            .unwrap()
            .matches("earlier ringriftd")
            .count(),
        1
    );
    assert!(!is_running(pid, start));
    assert!(is_running(orphan, orphan_start));
    kill_proven(orphan, orphan_start);
}

#[test]
fn a_first_manager_that_dies_after_it_took_over_takes_nothing_with_it() {
    for mode in modes() {
        let cast = Cast::start(mode);
        let wait = format!("read x <>{}", cast.fifo().display());
        let [one, other] = [cast.shell(1, &wait), cast.shell(2, &wait)];
        let mains = [&one, &other].map(|launch| {
            let (pid, _) = cast.manager.launch(launch);
            (pid, start_time(pid))
        });
        let fallen = cast.fall();
        let mut cast = Cast::begin_in(Rc::clone(&fallen.dir), mode, |_| {});
        adopted(&cast, &adopt_of(&one, Some(mains[0]))).unwrap();
        cast.kill_manager();
        // None has served this keeper: the state has more to name than the keeper holds.
        let told = cast.next_manager();
        assert!(matches!(
            told.hello,
            FromKeeper::Hello {
                is_fresh: true,
                manager_deaths: 1,
                ..
            }
        ));
        assert_eq!(told.inventory.len(), 1, "{mode:?}");
        for (launch, main) in [(&one, mains[0]), (&other, mains[1])] {
            let (pid, start, _) = adopted(&cast, &adopt_of(launch, Some(main))).unwrap();
            assert_eq!((pid, start), main);
        }
        cast.end(0);
        assert!(mains.iter().all(|(pid, start)| !is_running(*pid, *start)));
    }
}
