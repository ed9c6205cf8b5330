//! The keeper goes on as another program: no process hears of it. And what is no such program is refused, or gone back from.

mod keeper_support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use keeper_support::cast::{Cast, Told};
use keeper_support::{Mode, is_running, modes, start_time};
use proto::reply::Exit;
use ringriftd::ids::{Invocation, LaunchId};
use ringriftd::keeper::config::STATE_VERSIONS;
use ringriftd::keeper::upgrade::{SelfCheck, Versions};
use ringriftd::keeper::wire::{FromKeeper, ToKeeper};

/// A program that says of itself what `check` prints, and is `rest` when it is to be a keeper.
fn program(dir: &Path, name: &str, check: &str, rest: &str) -> File {
    let text = format!("#!/bin/sh\nif [ \"$1\" = self-check ]; then {check}; fi\n{rest}\n");
    executable(dir, name, text.as_bytes())
}

/// Written by a process of its own: a descriptor for writing that another test's child got by chance would make it busy.
fn executable(dir: &Path, name: &str, bytes: &[u8]) -> File {
    let (plain, path) = (dir.join(format!("{name}.bytes")), dir.join(name));
    std::fs::write(&plain, bytes).unwrap();
    std::fs::set_permissions(&plain, PermissionsExt::from_mode(0o755)).unwrap();
    assert!(
        Command::new("/bin/cp")
            .arg(&plain)
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    File::open(path).unwrap()
}

/// What a good program prints.
fn good() -> String {
    says(&SelfCheck::own(STATE_VERSIONS))
}

fn says(check: &SelfCheck) -> String {
    format!("echo '{}'; exit 0", check.line())
}

/// This test program again, by way of a script: another file than the running one.
fn itself() -> String {
    format!("exec {} \"$@\"", std::env::current_exe().unwrap().display())
}

fn main_of(serial: u64) -> LaunchId {
    LaunchId::main(Invocation(serial))
}

fn note(told: &Told) -> (bool, String) {
    match &told.hello {
        FromKeeper::Hello { is_fresh, note, .. } => (*is_fresh, note.clone().unwrap_or_default()),
        other => panic!("{other:?}"),
    }
}

fn launched(told: &Told) -> BTreeMap<LaunchId, (u32, u64)> {
    let of = |said: &FromKeeper| match said {
        FromKeeper::Launched {
            id, pid, start_time, ..
        } => Some((*id, (*pid, *start_time))),
        _ => None,
    };
    told.inventory.iter().filter_map(|(said, _)| of(said)).collect()
}

fn gate(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    path
}

/// B10: pids and start times stay, ends that happen meanwhile are told with their codes, pipes and sockets stay open.
#[test]
fn twenty_launches_outlive_twenty_upgrades() {
    for mode in modes() {
        let mut cast = Cast::start(mode);
        let wait = format!("exec cat <>{}", cast.fifo().display());
        let mut all = BTreeMap::new();
        for serial in 1..=20 {
            let mut launch = cast.shell(serial, &wait);
            if serial == 1 {
                let socket = cast.dir.path().join("run/n/1");
                launch.notify = Some(socket.to_str().unwrap().as_bytes().to_vec());
                launch.ready_fd = Some(3);
            }
            let (pid, _) = cast.manager.launch(&launch);
            all.insert(main_of(serial), (pid, start_time(pid)));
        }
        let keeper = (cast.keeper.id(), start_time(cast.keeper.id()));
        let new = program(cast.dir.path(), "new", &good(), &itself());
        for round in 1..=20_u8 {
            let ends = main_of(100 + u64::from(round));
            let gate = gate(cast.dir.path(), &format!("gate{round}"));
            let script = format!("read x <{}; echo said {round}; exit {round}", gate.display());
            cast.manager.launch(&cast.shell(ends.invocation.0, &script));
            cast.manager.upgrade(&new);
            let mut gate = File::options().read(true).write(true).open(&gate).unwrap();
            gate.write_all(b"\n").unwrap();
            let told = cast.next_roles();
            let version = env!("CARGO_PKG_VERSION");
            assert_eq!(
                note(&told),
                (false, format!("upgraded from {version} to {version}")),
                "{mode:?}"
            );
            let mut now = launched(&told);
            assert!(now.remove(&ends).is_some());
            assert_eq!(now, all);
            let first = told
                .inventory
                .iter()
                .find(|(said, _)| matches!(said, FromKeeper::Launched { id, .. } if *id == main_of(1)));
            assert_eq!(
                first.unwrap().1.len(),
                2,
                "its notify socket and its readiness pipe"
            );
            let in_time = told.inventory.iter().find_map(|(said, _)| match said {
                FromKeeper::Exited { id, exit, .. } if *id == ends => Some(*exit),
                _ => None,
            });
            let exit = in_time.unwrap_or_else(|| cast.manager.exited(ends).0);
            assert_eq!(exit, Exit::Code(round.into()));
            let mut text = String::new();
            File::from(cast.opened(ends)).read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("said {round}\n"));
            cast.manager.send(&ToKeeper::Serving);
            cast.manager.send(&ToKeeper::Release { id: ends });
        }
        assert!(
            all.values()
                .chain([&keeper])
                .all(|(pid, start)| is_running(*pid, *start))
        );
        cast.end(0);
    }
}

/// B11: whatever the file is, the old program goes on and says why.
#[test]
fn what_is_no_ringriftd_is_refused() {
    let mut cast = Cast::start(Mode::Group);
    let dir = cast.dir.path().to_path_buf();
    let fifo = cast.fifo();
    let (pid, _) = cast
        .manager
        .launch(&cast.shell(1, &format!("read x <>{}", fifo.display())));
    let start = start_time(pid);
    let closed = executable(&dir, "closed", b"#!/bin/sh\n");
    closed.set_permissions(PermissionsExt::from_mode(0o644)).unwrap();
    let mut foreign = std::fs::read("/proc/self/exe").unwrap();
    foreign[18..20].copy_from_slice(&[0x16, 0]); // e_machine: s390
    let own = SelfCheck::own(STATE_VERSIONS);
    let other = |change: fn(&mut SelfCheck)| {
        let mut check = own.clone();
        change(&mut check);
        says(&check)
    };
    let no = |name: &str, check: &str| program(&dir, name, check, "exit 1");
    for (new, why) in [
        (closed, "not executable"),
        (executable(&dir, "foreign", &foreign), "another architecture"),
        (executable(&dir, "empty", b""), "another architecture"),
        (
            executable(&dir, "lost", b"#!/does/not/exist\n"),
            "interpreter is missing",
        ),
        (no("fails", "exit 1"), "exit code 1"),
        (no("crashes", "kill -SEGV $$"), "signal 11"),
        (no("hangs", "exec sleep 1000"), "did not end within 5s"),
        (no("babbles", "echo hello; exit 0"), "no answer"),
        (no("floods", "exec cat /dev/zero"), "more than"),
        (
            no("other", &other(|c| c.program = "sshd".to_owned())),
            "not ringriftd",
        ),
        (
            no(
                "older",
                &other(|c| {
                    c.state = Versions {
                        writes: 0,
                        reads: (0, 0),
                    }
                }),
            ),
            "reads the state in versions 0 to 0",
        ),
        (
            no(
                "far",
                &other(|c| {
                    c.handover = Versions {
                        writes: 9,
                        reads: (8, 9),
                    }
                }),
            ),
            "reads what a keeper hands over in versions 8 to 9",
        ),
    ] {
        cast.manager.upgrade(&new);
        let said = |m: &FromKeeper| match m {
            FromKeeper::UpgradeRefused { why } => Some(why.clone()),
            _ => None,
        };
        let (text, _) = cast.manager.wait_for(said);
        assert!(text.contains(why), "{text}");
    }
    assert!(is_running(pid, start));
    // The manager is the same, and its launch too.
    cast.kill_manager();
    let told = cast.next_manager();
    assert_eq!(launched(&told), BTreeMap::from([(main_of(1), (pid, start))]));
    cast.end(0);
}

/// The manager's state, which is written from the start.
fn write_state(cast: &Cast, text: &str) {
    nix::sys::uio::pwrite(&cast.manager.kept[1], text.as_bytes(), 0).unwrap();
}

fn read_state(cast: &Cast) -> String {
    let mut bytes = [0; 5];
    nix::sys::uio::pread(&cast.manager.kept[1], &mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// B11: a program whose manager dies or hangs is left again. B12: and what its manager wrote is, where the old one could
/// not read it.
#[test]
fn a_program_that_does_not_come_up_is_left_for_the_old_one() {
    let own = SelfCheck::own(STATE_VERSIONS);
    let mut newer = own.clone();
    newer.state.writes += 1;
    newer.state.reads.1 += 1;
    for (is_hung, check, why, state) in [
        (false, newer, "died before it served", "older"),
        (true, own, "did not serve within 4s", "newer"),
    ] {
        let mut cast = Cast::start(Mode::Group);
        let script = format!("read x <>{}", cast.fifo().display());
        let (pid, _) = cast.manager.launch(&cast.shell(1, &script));
        let all = BTreeMap::from([(main_of(1), (pid, start_time(pid)))]);
        let new = program(cast.dir.path(), "new", &says(&check), &itself());
        write_state(&cast, "older");
        cast.manager.upgrade(&new);
        assert_eq!(launched(&cast.next_roles()), all);
        assert_eq!(read_state(&cast), "older");
        write_state(&cast, "newer");
        if !is_hung {
            cast.kill_manager();
            assert_eq!(launched(&cast.next_manager()), all);
            assert_eq!(read_state(&cast), "newer");
            cast.kill_manager();
        }
        let told = cast.next_roles();
        assert!(note(&told).1.contains(why), "{}", note(&told).1);
        assert!(note(&told).1.ends_with("the old program is back"));
        assert_eq!((launched(&told), read_state(&cast).as_str()), (all, state));
        cast.manager.send(&ToKeeper::Serving);
        // It can be tried again.
        cast.manager.upgrade(&new);
        assert!(note(&cast.next_roles()).1.starts_with("upgraded from"));
        cast.manager.send(&ToKeeper::Serving);
        cast.end(0);
    }
}

/// What relabels the handover as one of version 1, with the program `$1` to go back to, and goes on as `$2 …`.
const OLDER: &str = r#"
import fcntl, json, os, sys
left = int(os.environ["RINGRIFT_HANDOVER"])
with open(f"/proc/self/fd/{left}", "rb") as file:
    picture = json.load(file)
os.close(left)
old = os.open(sys.argv[1], os.O_RDONLY)
os.set_inheritable(old, True)
picture.update(version=1, old_program=old, descriptors=picture["descriptors"] + [old])
memory = os.memfd_create("handover", os.MFD_ALLOW_SEALING)
os.write(memory, json.dumps(picture).encode())
fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
os.set_inheritable(memory, True)
os.environ["RINGRIFT_HANDOVER"] = str(memory)
os.execv(sys.argv[2], ["ringriftd"] + sys.argv[3:])
"#;

/// B12: a program that came by an upgrade from an older one goes back to that with what that one can read.
#[test]
fn the_way_back_to_an_older_program_is_one_that_it_knows() {
    if !Path::new("/usr/bin/python3").exists() {
        keeper_support::skipped("no python3 that could play the older program");
        return;
    }
    let mut cast = Cast::start(Mode::Group);
    let dir = cast.dir.path().to_path_buf();
    let script = format!("read x <>{}", cast.fifo().display());
    let (pid, _) = cast.manager.launch(&cast.shell(1, &script));
    let all = BTreeMap::from([(main_of(1), (pid, start_time(pid)))]);
    // Reads version 1 and no other, as the ringriftd did that wrote it first. By the shell alone: waiting for a child, it would
    // leave a signal open that this test program has threads for.
    let reads = "read -r left < /proc/self/fd/$RINGRIFT_HANDOVER
case \"$left\" in '{\"version\":1,'*) ;; *) exit 8;; esac";
    program(&dir, "old", "exit 1", &format!("{reads}\n{}", itself()));
    std::fs::write(dir.join("older.py"), OLDER).unwrap();
    let own = std::env::current_exe().unwrap();
    let becomes = format!(
        "exec /usr/bin/python3 {0}/older.py {0}/old {1} \"$@\"",
        dir.display(),
        own.display()
    );
    let new = program(&dir, "new", &good(), &becomes);
    cast.manager.upgrade(&new);
    assert_eq!(launched(&cast.next_roles()), all);
    // Its managers die on it.
    cast.kill_manager();
    assert_eq!(launched(&cast.next_manager()), all);
    cast.kill_manager();
    let told = cast.next_roles();
    assert!(
        note(&told).1.ends_with("the old program is back"),
        "{}",
        note(&told).1
    );
    assert_eq!(launched(&told), all);
    cast.manager.send(&ToKeeper::Serving);
    cast.end(0);
}
