//! What launches leave behind, and the end of everything.

mod keeper_support;

use std::collections::BTreeSet;

use keeper_support::cast::Cast;
use keeper_support::{Node, descendants, is_running, modes, start_time};
use proto::reply::Exit;
use ringriftd::ids::{LaunchId, Scope};
use ringriftd::keeper::wire::{FromKeeper, ToKeeper};

const KILLED: Exit = Exit::Signal {
    signal: libc::SIGKILL,
    core: false,
};

/// Leaves a process of its own session, whose parents have gone and which ignores TERM.
fn escape_script(pipe: &std::path::Path) -> String {
    // The reader of a fifo that nobody else opens sleeps for ever, without any program besides the shell.
    format!(
        "setsid sh -c 'setsid sh -c \"trap : TERM HUP INT; echo >&3; while :; do read x <>{fifo}; done\" &' & wait",
        fifo = pipe.display()
    )
}

fn fifo(node: &Node) -> std::path::PathBuf {
    let path = node.dir.path().join("fifo");
    if !path.exists() {
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    }
    path
}

fn wait_script(node: &Node) -> String {
    format!("echo >&3; read x <>{}", fifo(node).display())
}

#[test]
fn a_grandchild_that_hides_and_ignores_term_is_named_and_killed() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let script = escape_script(&fifo(&node));
        let (id, _) = node.launch_ready(&script);
        let (exit, remains) = node.exited(id);
        assert_eq!(exit, Exit::Code(0));
        let [hidden] = remains[..] else {
            panic!("{mode:?}: {remains:?}")
        };
        let start = start_time(hidden);
        node.signal(id, libc::SIGTERM, Scope::All);
        node.settle();
        assert!(is_running(hidden, start), "{mode:?}: it ignores TERM");
        node.destroy(id);
        node.emptied(id);
        assert!(!is_running(hidden, start));
        node.release(id);
        node.settle();
        assert_eq!(descendants(node.keeper.id()), []);
        node.end(0);
    }
}

#[test]
fn a_hidden_grandchild_dies_with_its_living_main_process_too() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let fifo = fifo(&node);
        let script = format!("{}; read x <>{}", escape_script(&fifo), fifo.display());
        let (id, pid) = node.launch_ready(&script);
        node.destroy(id);
        let (exit, remains) = node.exited(id);
        assert_eq!(exit, KILLED, "{mode:?}");
        if !remains.is_empty() {
            node.emptied(id);
        }
        assert!(descendants(node.keeper.id()).iter().all(|(p, _)| *p != pid));
        assert_eq!(descendants(node.keeper.id()), [], "{mode:?}");
        node.end(0);
    }
}

#[test]
fn what_ends_by_itself_is_told_once() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let fifo = fifo(&node);
        let (id, _) = node.launch_ready(&format!("(read x <{}) & echo >&3", fifo.display()));
        let (exit, remains) = node.exited(id);
        assert_eq!((exit, remains.len()), (Exit::Code(0), 1), "{mode:?}");
        // The reader's open(2) returns when there is a writer, whose end is the end of file for it.
        drop(std::fs::File::options().write(true).open(&fifo).unwrap());
        node.emptied(id);
        node.destroy(id);
        node.settle();
        node.settle();
        assert_eq!(descendants(node.keeper.id()), []);
        node.release(id);
        node.end(0);
    }
}

#[test]
fn a_stopped_process_dies_of_term() {
    for mode in modes() {
        for scope in [Scope::Main, Scope::All] {
            let mut node = Node::start(mode);
            let script = wait_script(&node);
            let (id, pid) = node.launch_ready(&script);
            node.signal(id, libc::SIGSTOP, Scope::Main);
            node.settle();
            let deadline = std::time::Instant::now() + keeper_support::PATIENCE;
            while ringriftd::keeper::proc::stat(pid.cast_signed()).unwrap().state != b'T' {
                assert!(std::time::Instant::now() < deadline, "it did not stop");
                std::thread::yield_now();
            }
            node.signal(id, libc::SIGTERM, scope);
            assert_eq!(
                node.exited(id).0,
                Exit::Signal {
                    signal: libc::SIGTERM,
                    core: false
                }
            );
            node.end(0);
        }
    }
}

#[test]
fn five_hundred_that_die_at_once_are_all_told() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let script = wait_script(&node);
        let launched: Vec<(LaunchId, u32)> = (0..500).map(|_| node.launch_ready(&script)).collect();
        // The keeper is stopped meanwhile, so that it finds one SIGCHLD for all of them.
        let keeper = nix::unistd::Pid::from_raw(node.keeper.id().cast_signed());
        nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGSTOP).unwrap();
        for (_, pid) in &launched {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGCONT).unwrap();
        let mut told = BTreeSet::new();
        while told.len() < launched.len() {
            let (id, _) = node.wait_for(|m| match m {
                FromKeeper::Exited { id, exit: KILLED, .. } => Some(*id),
                _ => None,
            });
            assert!(told.insert(id), "told twice");
        }
        assert_eq!(told, launched.iter().map(|(id, _)| *id).collect());
        assert_eq!(descendants(node.keeper.id()), []);
        node.end(0);
    }
}

#[test]
fn a_forking_launchs_main_process_is_found_and_its_end_told() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let fifo = fifo(&node);
        let daemonize = format!("(trap 'exit 9' TERM; echo >&3; read x <>{}) &", fifo.display());
        let (id, _) = node.launch_ready(&daemonize);
        let (exit, remains) = node.exited(id);
        assert_eq!((exit, remains.len()), (Exit::Code(0), 1));
        node.send(&ToKeeper::FindMain {
            id,
            pid: Some(node.keeper.id()),
        });
        let (why, _) = node.wait_for(|m| match m {
            FromKeeper::MainMissing { id: i, why } if *i == id => Some(why.clone()),
            _ => None,
        });
        assert!(why.contains("does not belong"), "{why}");
        node.send(&ToKeeper::FindMain { id, pid: None });
        let (found, _) = node.wait_for(|m| match m {
            FromKeeper::MainFound { id: i, pid, .. } if *i == id => Some(*pid),
            _ => None,
        });
        assert_eq!(found, remains[0]);
        node.signal(id, libc::SIGTERM, Scope::Main);
        assert_eq!(node.exited(id), (Exit::Code(9), vec![]), "{mode:?}");
        node.send(&ToKeeper::FindMain { id, pid: None });
        node.wait_for(|m| matches!(m, FromKeeper::MainMissing { id: i, .. } if *i == id).then_some(()));
        node.release(id);
        node.end(0);
    }
}

#[test]
fn several_processes_without_a_name_are_no_main_process() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let fifo = fifo(&node);
        let (id, _) = node.launch_ready(&format!(
            "f() {{ read x <>{0}; }}; f & f & echo >&3",
            fifo.display()
        ));
        let (_, remains) = node.exited(id);
        assert_eq!(remains.len(), 2);
        node.send(&ToKeeper::FindMain { id, pid: None });
        let (why, _) = node.wait_for(|m| match m {
            FromKeeper::MainMissing { id: i, why } if *i == id => Some(why.clone()),
            _ => None,
        });
        assert!(why.contains("2 processes"), "{why}");
        node.send(&ToKeeper::FindMain {
            id,
            pid: Some(remains[1]),
        });
        let (found, _) = node.wait_for(|m| match m {
            FromKeeper::MainFound { id: i, pid, .. } if *i == id => Some(*pid),
            _ => None,
        });
        assert_eq!(found, remains[1]);
        node.destroy(id);
        assert_eq!(node.exited(id).0, KILLED);
        node.end(0);
    }
}

#[test]
fn a_chain_of_short_lives_in_new_sessions_is_caught() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let link = node.dir.path().join("link");
        // Each one starts the next and ends: whoever is looked up is gone before it is signalled.
        std::fs::write(&link, "#!/bin/sh\nsetsid $0 &\n").unwrap();
        std::fs::set_permissions(&link, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let (id, _) = node.launch_ready(&format!("{} & echo >&3", link.display()));
        let (exit, _) = node.exited(id);
        assert_eq!(exit, Exit::Code(0));
        node.destroy(id);
        node.emptied(id);
        assert_eq!(descendants(node.keeper.id()), [], "{mode:?}");
        node.end(0);
    }
}

#[test]
fn a_launch_released_too_early_is_not_left_behind() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let script = wait_script(&node);
        let (id, pid) = node.launch_ready(&script);
        let start = start_time(pid);
        node.release(id);
        node.settle();
        assert!(!is_running(pid, start), "{mode:?}");
        node.end(0);
    }
}

#[test]
fn the_end_leaves_nothing_even_of_what_still_runs() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let script = escape_script(&fifo(&node));
        for _ in 0..5 {
            node.launch_ready(&script);
            let wait = wait_script(&node);
            node.launch_ready(&wait);
        }
        assert!(descendants(node.keeper.id()).len() >= 10);
        node.end(42);
    }
}

#[test]
fn a_manager_that_vanishes_takes_no_unit_with_it() {
    for mode in modes() {
        let mut cast = Cast::start(mode);
        let mut launch = cast.shell(1, &escape_script(&cast.fifo()));
        launch.ready_fd = Some(3);
        let (_, ready) = cast.manager.launch(&launch);
        keeper_support::wait_readable(&ready[0]);
        let (_, remains) = cast.manager.exited(launch.id);
        let hidden: Vec<(u32, u64)> = remains.iter().map(|pid| (*pid, start_time(*pid))).collect();
        assert!(!hidden.is_empty(), "{mode:?}");
        cast.kill_manager();
        cast.next_manager();
        for (pid, start) in hidden {
            assert!(is_running(pid, start), "{mode:?}: {pid}");
        }
        cast.end(0);
    }
}
