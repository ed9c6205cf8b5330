//! What survives under a real systemd: the units live on through the deaths of ringriftd's processes, through the watchdog
//! and through an upgrade, as the same processes; and a stop afterwards leaves nothing.

use std::collections::BTreeSet;

use harness::processes::{self, Held, Process};
use harness::systemd::{Guest, missing};
use harness::{Unit, need, until};

/// Two units, one of them with a process that left its session.
fn started(keys: &str) -> Guest {
    let guest = Guest::boot();
    if !keys.is_empty() {
        guest.service(keys);
    }
    guest.units(&[("a", &Unit::bad(&["run"])), ("b", &Unit::bad(&["setsid-child"]))]);
    guest.systemctl("start").ended(0);
    assert_eq!(lives(&guest).len(), 3, "{}", guest.journal());
    guest
}

/// Who the units' processes are.
fn lives(guest: &Guest) -> BTreeSet<(i32, u64)> {
    let identity = |p: Process| (p.pid, p.start_time);
    guest.unit_processes().into_iter().map(identity).collect()
}

fn roles(guest: &Guest) -> Vec<Process> {
    let mut found = guest.processes();
    found.retain(|p| p.unit().is_none() && p.argv.first().is_some_and(|arg| arg.ends_with("ringriftd")));
    found
}

/// Waits until the service has been started again `times` times, and serves.
#[track_caller]
fn wait_restarts(guest: &Guest, times: &str) {
    until("the service is up again", || {
        let shown = guest.show();
        (shown["NRestarts"] == times && shown["ActiveState"] == "active").then_some(())
    });
}

/// The same processes as before, no copies, all of them known to the daemon; then an orderly end that leaves nothing.
#[track_caller]
fn check_survivors(guest: &Guest, before: &BTreeSet<(i32, u64)>) {
    assert_eq!(&lives(guest), before, "{}", guest.journal());
    for name in ["a", "b"] {
        let unit = guest.unit(name);
        assert_eq!(
            (&unit["state"], &unit["restarts"]),
            (&"running".into(), &0.into()),
            "{unit:#}\n{}",
            guest.journal()
        );
    }
    guest.ctl(&["restart", "a"]).ended(0);
    assert_eq!(lives(guest).intersection(before).count(), before.len() - 1);
    guest.systemctl("stop").ended(0);
    let left = guest.processes();
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(guest.show()["Result"], "success");
}

/// The keeper dies of a signal: systemd starts another, which adopts the units.
#[test]
fn units_survive_the_keepers_crash() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = started("");
    let before = lives(&guest);
    processes::signal(guest.keeper().pid, libc::SIGKILL);
    wait_restarts(&guest, "1");
    check_survivors(&guest, &before);
}

/// Everything of ringriftd dies at once.
#[test]
fn units_survive_the_death_of_all_of_ringriftd() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = started("");
    let before = lives(&guest);
    let held: Vec<Held> = roles(&guest).iter().filter_map(|p| Held::open(p.pid)).collect();
    assert_eq!(held.len(), 3);
    for process in &held {
        process.signal(libc::SIGKILL);
    }
    wait_restarts(&guest, "1");
    check_survivors(&guest, &before);
}

/// The manager's death is the keeper's to mend: systemd does not hear of it.
#[test]
fn systemd_does_not_notice_the_managers_death() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = started("");
    let (before, main) = (lives(&guest), guest.show()["MainPID"].clone());
    let is_manager = |p: &Process| p.argv.get(1).is_some_and(|arg| arg == "manager");
    let manager = roles(&guest).into_iter().find(is_manager).expect("there is one");
    processes::signal(manager.pid, libc::SIGKILL);
    until("there is another manager", || {
        let another = roles(&guest).into_iter().find(is_manager)?;
        (another.pid != manager.pid && guest.ctl(&["status"]).code == Some(0)).then_some(())
    });
    let shown = guest.show();
    assert_eq!((&shown["MainPID"], &*shown["NRestarts"]), (&main, "0"));
    check_survivors(&guest, &before);
}

/// A keeper that hangs feeds no watchdog: systemd kills it and starts another.
#[test]
fn units_survive_the_watchdog() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = started("WatchdogSec=4");
    let before = lives(&guest);
    processes::signal(guest.keeper().pid, libc::SIGSTOP);
    wait_restarts(&guest, "1");
    assert!(
        guest.journal().to_lowercase().contains("watchdog"),
        "{}",
        guest.journal()
    );
    check_survivors(&guest, &before);
}

/// An upgrade in place: the main process keeps its number, and systemd notices nothing.
#[test]
fn systemd_does_not_notice_an_upgrade() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = started("");
    let (before, main) = (lives(&guest), guest.show()["MainPID"].clone());
    let logger = |guest: &Guest| {
        let is_logger = |p: &Process| p.argv.get(1).is_some_and(|arg| arg == "logger");
        roles(guest)
            .into_iter()
            .find(is_logger)
            .map(|p| (p.pid, p.start_time))
    };
    let old = logger(&guest);
    guest.ctl(&["upgrade"]).ended(0);
    assert_ne!(logger(&guest), old, "nothing was replaced");
    let shown = guest.show();
    assert_eq!(
        (&shown["MainPID"], &*shown["NRestarts"], &*shown["ActiveState"]),
        (&main, "0", "active")
    );
    guest.systemctl("reload").ended(0);
    check_survivors(&guest, &before);
}
