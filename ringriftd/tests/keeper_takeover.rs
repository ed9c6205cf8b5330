//! The keeper dies, by itself or with a new program: its manager takes its place, and no unit hears of it.

mod keeper_support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use keeper_support::cast::{Cast, Told};
use keeper_support::{Mode, is_running, modes, start_time};
use proto::reply::Exit;
use ringriftd::keeper::config::STATE_VERSIONS;
use ringriftd::keeper::upgrade::SelfCheck;
use ringriftd::keeper::wire::{Adopt, FromKeeper, Launch, ToKeeper, ToLogger};

fn adopt(launch: &Launch, main: (u32, u64)) -> ToKeeper {
    ToKeeper::Adopt(Box::new(Adopt {
        id: launch.id,
        invocation: launch.invocation.clone(),
        role: launch.role.clone(),
        tag: launch.tag.clone(),
        main: Some(main),
        has_exited: false,
        output: launch.output.clone(),
        notify: launch.notify.clone(),
        identity: None,
        ready_fd: launch.ready_fd,
        is_foreign: false,
    }))
}

/// The node's facts in `Hello`: it is a fresh keeper, and the note says what happened.
fn check_hello(told: &Told, cast: &Cast, last_order: u64) {
    match &told.hello {
        FromKeeper::Hello {
            is_fresh: true,
            seed,
            last_order: order,
            note: Some(note),
            containment,
            ..
        } => {
            assert!(note.contains("its manager took its place"), "{note}");
            assert_eq!((*seed, *order), (cast.seed, last_order));
            assert_eq!(containment.starts_with("cgroup "), cast.mode == Mode::Cgroup);
        }
        other => panic!("{other:?}"),
    }
    assert!(told.inventory.is_empty());
}

/// Twice over: the keeper that was a manager dies too.
#[test]
fn a_manager_takes_the_place_of_a_dead_keeper() {
    for mode in modes() {
        ringriftd::keeper::sys::become_subreaper().unwrap();
        let mut cast = Cast::start(mode);
        let gate = cast.dir.path().join("gate");
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let mut gate_end = File::options().read(true).write(true).open(&gate).unwrap();
        let waits = cast.shell(
            1,
            &format!("read x <{}; echo last words; exit 42", gate.display()),
        );
        let (pid, _) = cast.manager.launch(&waits);
        let main = (pid, start_time(pid));
        let told = cast.take_over();
        check_hello(&told, &cast, 7);
        assert!(matches!(cast.logger.receive::<ToLogger>().0, ToLogger::Peer));
        let lock = std::fs::read_to_string(cast.dir.path().join("state/lock")).unwrap();
        assert_ne!(lock.trim(), cast.keeper.id().to_string());
        cast.manager.send(&ToKeeper::Serving);
        cast.manager.send(&adopt(&waits, main));
        let answer = cast.manager.wait_for(|m| match m {
            FromKeeper::Launched {
                id, pid, start_time, ..
            } if *id == waits.id => Some((*pid, *start_time)),
            FromKeeper::Missing { id } => panic!("{id} is missing"),
            _ => None,
        });
        assert_eq!(answer.0, main, "{mode:?}");
        // It holds as it ever did: its manager dies without a unit hearing of it, and it launches.
        cast.kill_manager();
        let told = cast.next_manager();
        let known: Vec<_> = told.inventory.iter().map(|(said, _)| said).collect();
        assert!(matches!(known[..], [FromKeeper::Launched { .. }]), "{known:?}");
        let (exit, _) = {
            let more = cast.shell(2, "exit 5");
            cast.manager.launch(&more);
            cast.manager.exited(more.id)
        };
        assert_eq!(exit, Exit::Code(5));
        let pipe = cast.opened(waits.id);
        gate_end.write_all(b"\n").unwrap();
        let (exit, _) = cast.manager.exited(waits.id);
        assert!(matches!(exit, Exit::Code(42) | Exit::Unknown), "{exit:?}");
        let mut text = String::new();
        File::from(pipe).read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words\n");
        cast.end(3);
    }
}

/// B11: a program that dies or hangs as soon as it is the keeper. The old manager is awake, and is the old program.
#[test]
fn a_program_that_dies_as_the_keeper_leaves_the_old_manager_to_take_its_place() {
    for rest in ["exit 1", "kill -SEGV $$", "exec sleep 1000"] {
        ringriftd::keeper::sys::become_subreaper().unwrap();
        let mut cast = Cast::start(Mode::Group);
        let launch = cast.shell(1, &format!("read x <>{}", cast.fifo().display()));
        let (pid, _) = cast.manager.launch(&launch);
        let main = (pid, start_time(pid));
        let (plain, path) = (cast.dir.path().join("bytes"), cast.dir.path().join("new"));
        let line = SelfCheck::own(STATE_VERSIONS).line();
        let text = format!("#!/bin/sh\nif [ \"$1\" = self-check ]; then echo '{line}'; exit 0; fi\n{rest}\n");
        std::fs::write(&plain, text).unwrap();
        std::fs::set_permissions(&plain, PermissionsExt::from_mode(0o755)).unwrap();
        // By a process of its own: see the tests of upgrades.
        assert!(
            Command::new("/bin/cp")
                .arg(&plain)
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        cast.manager.upgrade(&File::open(&path).unwrap());
        // It ends by itself, or by its alarm.
        keeper_support::wait_child(&mut cast.keeper);
        let told = cast.take_over();
        check_hello(&told, &cast, 7);
        cast.manager.send(&adopt(&launch, main));
        cast.manager
            .wait_for(|m| matches!(m, FromKeeper::Launched { .. }).then_some(()));
        assert!(is_running(main.0, main.1));
        cast.end(0);
    }
}
