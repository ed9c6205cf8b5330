//! Starting processes: what they are given, how they end, and how a start fails.

mod keeper_support;

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::time::Instant;

use keeper_support::{Mode, Node, is_root, modes};
use proto::reply::Exit;
use ringriftd::ids::Scope;
use ringriftd::keeper::wire::{FromKeeper, Identity, Stage, ToKeeper};
use ringriftd::spec::Rlimit;

const NOBODY: u32 = 65534;

fn signal(signal: i32) -> Exit {
    Exit::Signal { signal, core: false }
}

#[test]
fn exit_codes_signals_and_output_arrive() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let launch = node.shell("echo out; echo err >&2; exit 7");
        assert_eq!(node.run(&launch), (Exit::Code(7), "out\nerr\n".to_owned()));
        for number in [1, 9, 15, 34, 64] {
            let launch = node.shell(&format!("ulimit -c 0; kill -{number} $$"));
            assert_eq!(node.run(&launch).0, signal(number), "{mode:?}");
        }
        node.end(0);
    }
}

/// Linux 6.18 kills a child at birth in its leaf when its parent's own group was once emptied by `cgroup.kill`: then it
/// moves there.
#[test]
fn a_keeper_in_a_group_that_was_killed_launches_all_the_same() {
    let mut node = Node::start(modes()[0]);
    let Some(root) = node.cgroup() else {
        return node.end(0);
    };
    let group = root.with_file_name(format!("ringriftd-test-emptied-{}", node.keeper.id()));
    std::fs::create_dir(&group).unwrap();
    if let Err(e) = std::fs::write(group.join("cgroup.kill"), "1") {
        std::fs::remove_dir(&group).unwrap();
        keeper_support::skipped(&format!("no cgroup.kill here: {e}"));
        return node.end(0);
    }
    let launch = node.shell("grep -o 'ringriftd-[^/]*/[^/]*$' /proc/self/cgroup");
    let (exit, leaf) = node.run(&launch);
    assert_eq!(exit, Exit::Code(0), "born there");
    assert!(leaf.starts_with("ringriftd-"), "{leaf}");

    std::fs::write(group.join("cgroup.procs"), node.keeper.id().to_string()).unwrap();
    for _ in 0..2 {
        let launch = node.shell("grep -o 'ringriftd-[^/]*/[^/]*$' /proc/self/cgroup");
        let (exit, leaf) = node.run(&launch);
        assert_eq!(exit, Exit::Code(0), "moved there by a keeper that was moved");
        assert!(leaf.starts_with("ringriftd-"), "{leaf}");
    }
    node.end(0);

    let door = std::fs::File::options()
        .write(true)
        .open(group.join("cgroup.procs"))
        .unwrap();
    let mut node = Node::start_with(Mode::Cgroup, &[], |command| {
        let door = door.as_raw_fd();
        // SAFETY: one write to a descriptor that is open in the child, too.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(command, move || {
                let wrote = libc::write(door, b"0".as_ptr().cast(), 1);
                if wrote == 1 {
                    Ok(())
                } else {
                    Err(std::io::Error::last_os_error())
                }
            });
        }
    });
    assert_eq!(node.cgroup().unwrap().parent(), Some(group.as_path()));
    let launch = node.shell("exit 3");
    assert_eq!(
        node.run(&launch).0,
        Exit::Code(3),
        "moved there by a keeper that began there"
    );
    node.end(0);
    std::fs::remove_dir(&group).unwrap();
}

#[test]
fn a_launch_asked_for_again_is_the_same_process() {
    let mut node = Node::start(Mode::Group);
    let mut launch = node.shell("echo >&3; exec cat /dev/zero >/dev/null");
    launch.ready_fd = Some(3);
    let id = node.ask(&launch);
    let (pid, fds) = node.launched(id);
    assert_eq!(fds.len(), 1);
    node.ask(&launch);
    let (again, fds) = node.launched(id);
    assert_eq!((again, fds.len()), (pid, 1));
    node.signal(id, libc::SIGKILL, Scope::Main);
    assert_eq!(node.exited(id), (signal(libc::SIGKILL), vec![]));
    // Until it is released its end is said again, too.
    node.ask(&launch);
    assert_eq!(node.launched(id).0, pid);
    assert_eq!(node.exited(id), (signal(libc::SIGKILL), vec![]));
    node.release(id);
    node.end(0);
}

#[test]
fn each_failing_step_of_a_start_is_named_and_leaves_nothing() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let dir = node.dir.path().to_owned();
        let file = |name: &str, text: &str, mode: u32| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let plain = file("plain", "#!/bin/sh\n", 0o600);
        let noise = file("noise", "no program", 0o700);
        let orphan = file("orphan", "#!/no/such/interpreter\n", 0o700);
        let programs = [
            ("/no/such/program", libc::ENOENT),
            (plain.as_str(), libc::EACCES),
            ("/etc/", libc::EACCES),
            (noise.as_str(), libc::ENOEXEC),
            (orphan.as_str(), libc::ENOENT),
        ];
        for (program, errno) in programs {
            let launch = node.launch(&[program]);
            let id = node.ask(&launch);
            assert_eq!(node.failed(id), (Stage::Exec, errno), "{program}");
        }
        let mut launch = node.shell("exit 0");
        launch.working_dir = b"/no/such/folder".to_vec();
        let id = node.ask(&launch);
        assert_eq!(node.failed(id), (Stage::WorkingDir, libc::ENOENT));
        let mut launch = node.shell("exit 0");
        launch.rlimits = vec![Rlimit {
            resource: 999,
            soft: None,
            hard: None,
        }];
        let id = node.ask(&launch);
        assert_eq!(node.failed(id), (Stage::Limits, libc::EINVAL));
        let mut launch = node.shell("exit 0");
        launch.tag = "../up".to_owned();
        let id = node.ask(&launch);
        assert_eq!(node.failed(id), (Stage::Request, 0));
        let mut launch = node.shell("exit 0");
        launch.notify = Some(b"/elsewhere/socket".to_vec());
        let id = node.ask(&launch);
        assert_eq!(node.failed(id), (Stage::Descriptors, libc::EINVAL));
        assert_eq!(keeper_support::descendants(node.keeper.id()), []);
        if let Some(folder) = node.cgroup() {
            let leaves = std::fs::read_dir(folder).unwrap();
            assert_eq!(
                leaves
                    .filter(|e| e.as_ref().unwrap().file_type().unwrap().is_dir())
                    .count(),
                0
            );
        }
        node.end(0);
    }
}

fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status
        .lines()
        .find(|l| l.starts_with(&format!("{name}:")))
        .unwrap_or_else(|| panic!("{name}: {status}"));
    line.split_ascii_whitespace().skip(1).collect()
}

#[test]
fn a_user_is_all_that_a_process_has_of_its_keeper() {
    if !is_root() {
        return;
    }
    for mode in modes() {
        let mut node = Node::start(mode);
        let mut launch =
            node.shell("cat /proc/self/status; umask; ulimit -Hn; cat /proc/self/oom_score_adj; nice; pwd");
        launch.identity = Some(Identity {
            uid: NOBODY,
            gid: NOBODY,
            groups: vec![4242, 4243],
        });
        launch.umask = 0o027;
        launch.nice = Some(5);
        launch.oom_score_adj = 321;
        launch.working_dir = b"/usr".to_vec();
        launch.rlimits = vec![Rlimit {
            resource: libc::RLIMIT_NOFILE,
            soft: Some(99),
            hard: Some(123),
        }];
        let (exit, text) = node.run(&launch);
        assert_eq!(exit, Exit::Code(0), "{text}");
        assert_eq!(field(&text, "Uid"), ["65534"; 4]);
        assert_eq!(field(&text, "Gid"), ["65534"; 4]);
        assert_eq!(field(&text, "Groups"), ["4242", "4243"]);
        assert_eq!(field(&text, "NoNewPrivs"), ["1"]);
        for set in [
            "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk", "SigIgn",
        ] {
            assert_eq!(field(&text, set), ["0000000000000000"], "{set}");
        }
        let tail: Vec<&str> = text.lines().rev().take(5).collect();
        assert_eq!(tail, ["/usr", "5", "321", "123", "0027"]);
        node.end(0);
    }
}

#[test]
fn a_user_that_cannot_be_taken_is_a_failed_start_and_nothing_runs() {
    if !is_root() {
        return;
    }
    let mut node = Node::start(Mode::Group);
    let marker = node.dir.path().join("ran");
    let mut launch = node.shell(&format!("touch {}", marker.display()));
    // (uid_t) -1 means "leave it" to setresuid(2): the one number that would run as root.
    launch.identity = Some(Identity {
        uid: u32::MAX,
        gid: u32::MAX,
        groups: vec![],
    });
    let id = node.ask(&launch);
    assert_eq!(node.failed(id).0, Stage::Identity);
    launch.id = node.id();
    launch.identity = Some(Identity {
        uid: NOBODY,
        gid: NOBODY,
        groups: vec![1; 70_000],
    });
    let id = node.ask(&launch);
    assert_eq!(node.failed(id), (Stage::Identity, libc::EINVAL));
    assert!(!marker.exists());
    node.end(0);
}

#[test]
fn a_process_has_its_own_descriptors_and_no_others() {
    let open: Vec<std::fs::File> = (0..50)
        .map(|_| std::fs::File::open("/dev/null").unwrap())
        .collect();
    let numbers: Vec<RawFd> = open.iter().map(AsRawFd::as_raw_fd).collect();
    for mode in modes() {
        let mut node = Node::start_with(mode, &numbers, |_| {});
        let list = "exec ls -l /proc/self/fd";
        let mut launch = node.shell(list);
        let (_, text) = node.run(&launch);
        let fds = |text: &str| {
            let numbers = text
                .lines()
                .filter_map(|l| l.split_once(" -> ")?.0.rsplit(' ').next()?.parse().ok());
            numbers.collect::<Vec<u32>>()
        };
        // The last one is ls's own, on the folder.
        assert_eq!(fds(&text), [0, 1, 2, 3], "{text}");
        assert!(text.contains("0 -> /dev/null"), "{text}");
        launch.id = node.id();
        launch.ready_fd = Some(7);
        let (_, text) = node.run(&launch);
        assert_eq!(fds(&text), [0, 1, 2, 3, 7], "{text}");
        node.end(0);
    }
}

#[test]
fn a_notify_socket_belongs_to_the_unit_and_goes_with_it() {
    let identity = is_root().then_some(Identity {
        uid: NOBODY,
        gid: NOBODY,
        groups: vec![],
    });
    let mut node = Node::start(Mode::Group);
    let path = node.dir.path().join("run/notify/0001/socket");
    // The test's own folder must let the unit's user through, as /run does.
    std::fs::set_permissions(node.dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
    let mut launch = node.launch(&["/bin/cat", "/dev/zero"]);
    launch.notify = Some(path.to_str().unwrap().as_bytes().to_vec());
    launch.identity = identity.clone();
    let id = node.ask(&launch);
    let (_, fds) = node.launched(id);
    assert_eq!(fds.len(), 1);
    let meta = std::fs::symlink_metadata(&path).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.mode() & 0o777, 0o600);
    if let Some(identity) = identity {
        assert_eq!((meta.uid(), meta.gid()), (identity.uid, identity.gid));
        let run = std::fs::metadata(node.dir.path().join("run")).unwrap();
        assert_eq!(run.mode() & 0o777, 0o711, "its user can walk to it, and not list");
    }
    node.destroy(id);
    node.exited(id);
    node.release(id);
    node.settle();
    assert!(!path.exists() && !path.parent().unwrap().exists());
    node.end(0);
}

#[test]
fn a_units_user_can_reach_its_notify_socket() {
    if !is_root() {
        return;
    }
    if !std::path::Path::new("/usr/bin/systemd-notify").exists() {
        keeper_support::skipped("no systemd-notify to send with");
        return;
    }
    let mut node = Node::start(Mode::Group);
    std::fs::set_permissions(node.dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
    let run = node.dir.path().join("run");
    let mode = || std::fs::metadata(&run).unwrap().mode() & 0o777;
    assert_eq!(mode(), 0o700);
    let path = node
        .dir
        .path()
        .join("run/notify/0001")
        .to_str()
        .unwrap()
        .to_owned();
    let mut launch = node.launch(&["/usr/bin/systemd-notify", "--no-block", "--ready"]);
    launch.env.push(format!("NOTIFY_SOCKET={path}").into_bytes());
    launch.notify = Some(path.into_bytes());
    launch.identity = Some(Identity {
        uid: NOBODY,
        gid: NOBODY,
        groups: vec![],
    });
    let id = node.ask(&launch);
    let (_, mut fds) = node.launched(id);
    let socket = fds.remove(0);
    keeper_support::wait_readable(&socket);
    let mut bytes = [0; 64];
    let socket = std::os::unix::net::UnixDatagram::from(socket);
    let count = socket.recv(&mut bytes).unwrap();
    assert!(bytes[..count].starts_with(b"READY=1"));
    assert_eq!(node.exited(id).0, Exit::Code(0));
    node.end(0);
}

#[test]
fn a_process_that_is_killed_before_it_executes_never_ran() {
    if !std::path::Path::new("/usr/bin/strace").exists() {
        keeper_support::skipped("no strace to inject faults with");
        return;
    }
    for mode in modes() {
        let mut node = Node::start(mode);
        let ready = tempfile::NamedTempFile::new().unwrap();
        let mut strace = std::process::Command::new("/usr/bin/strace")
            .args([
                "-f",
                "-qq",
                "-e",
                "trace=execve",
                "-e",
                "inject=execve:signal=SIGKILL",
                "-o",
            ])
            .arg(ready.path())
            .args(["-p", &node.keeper.id().to_string()])
            .spawn()
            .unwrap();
        // Attached when the kernel says who traces the keeper.
        let deadline = Instant::now() + keeper_support::PATIENCE;
        let is_traced = || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", node.keeper.id())).unwrap();
            let mut texts =
                tasks.map(|t| std::fs::read_to_string(t.unwrap().path().join("status")).unwrap_or_default());
            texts.all(|text| field(&text, "TracerPid") != ["0"])
        };
        while !is_traced() {
            assert!(Instant::now() < deadline, "strace did not attach");
            std::thread::yield_now();
        }
        let launch = node.shell("exit 0");
        let id = node.ask(&launch);
        assert_eq!(node.failed(id), (Stage::DiedBeforeExec, 0), "{mode:?}");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(strace.id().cast_signed()),
            nix::sys::signal::Signal::SIGINT,
        )
        .unwrap();
        strace.wait().unwrap();
        // And one that ends at once has run.
        let launch = node.launch(&["/bin/true"]);
        assert_eq!(node.run(&launch).0, Exit::Code(0));
        node.end(0);
    }
}

#[test]
fn a_thousand_launches_leak_nothing() {
    for mode in modes() {
        let mut node = Node::start(mode);
        let open = |node: &Node| {
            let fds = std::fs::read_dir(format!("/proc/{}/fd", node.keeper.id())).unwrap();
            let mut names: Vec<_> = fds
                .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
                .collect();
            names.sort();
            names
        };
        node.settle();
        let before = open(&node);
        for n in 0..1000 {
            let program = if n % 10 == 0 { "/no/such" } else { "/bin/true" };
            let mut launch = node.launch(&[program]);
            launch.ready_fd = (n % 3 == 0).then_some(5);
            let path = node.dir.path().join(format!("run/n/{n}"));
            launch.notify = (n % 4 == 0).then(|| path.to_str().unwrap().as_bytes().to_vec());
            if n % 10 == 0 {
                let id = node.ask(&launch);
                node.failed(id);
            } else {
                assert_eq!(node.run(&launch).0, Exit::Code(0));
            }
        }
        // The logger's last word may still be on its way.
        let deadline = Instant::now() + keeper_support::PATIENCE;
        while open(&node) != before && Instant::now() < deadline {
            node.settle();
        }
        assert_eq!(open(&node), before, "{mode:?}");
        assert_eq!(keeper_support::descendants(node.keeper.id()), []);
        if let Some(folder) = node.cgroup() {
            let leaves = std::fs::read_dir(folder)
                .unwrap()
                .filter(|e| e.as_ref().unwrap().path().is_dir());
            assert_eq!(leaves.count(), 0);
        }
        node.end(0);
    }
}

#[test]
fn the_service_manager_above_hears_the_keeper_and_units_do_not_know_it() {
    let above = tempfile::tempdir().unwrap();
    let path = above.path().join("above");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(keeper_support::PATIENCE)).unwrap();
    let mut node = Node::start_with(Mode::Group, &[], |c| {
        c.env("NOTIFY_SOCKET", &path);
    });
    node.send(&ToKeeper::Announce {
        text: "READY=1".to_owned(),
    });
    let mut bytes = [0; 32];
    let count = socket.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..count], b"READY=1");
    let launch = node.launch(&["/usr/bin/env"]);
    let (_, text) = node.run(&launch);
    assert!(
        text.contains("RINGRIFT_ROLE=main") && !text.contains("NOTIFY_SOCKET"),
        "{text}"
    );
    node.end(0);
}

#[test]
fn signals_for_the_daemon_go_to_the_manager() {
    let mut node = Node::start(Mode::Group);
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        let keeper = nix::unistd::Pid::from_raw(node.keeper.id().cast_signed());
        nix::sys::signal::kill(keeper, nix::sys::signal::Signal::try_from(number).unwrap()).unwrap();
        node.wait_for(|m| matches!(m, FromKeeper::Signal { signal, .. } if *signal == number).then_some(()));
    }
    node.end(3);
}
