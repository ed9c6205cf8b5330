//! The shipped service file under a real systemd: up, reload, stop, restart, and what is said meanwhile.

use harness::systemd::{Guest, SERVICE, missing};
use harness::{Unit, need, until};

/// `systemd-analyze verify` finds nothing to complain of.
#[test]
fn the_service_file_is_clean() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = Guest::boot();
    let verdict = guest.run(&["systemd-analyze", "verify", SERVICE]).ended(0);
    assert_eq!(verdict.text(), "", "{verdict}");
}

/// Up when all wanted units are, with a word for `systemctl status`; reloaded with a verdict; stopped in order, with
/// nothing left.
#[test]
fn it_starts_reloads_and_stops_in_order() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = Guest::boot();
    let unit = Unit::bad(&["run", "--on-stop-append", "/run/stamps"]);
    let high = unit.clone().requires(&["low"]);
    guest.units(&[("low", &unit), ("high", &high)]);
    guest.systemctl("start").ended(0);
    let shown = guest.show();
    assert_eq!(shown["ActiveState"], "active", "{shown:#?}");
    assert_eq!(shown["StatusText"], "every wanted unit was started");
    assert_eq!(shown["NRestarts"], "0");
    for name in ["low", "high"] {
        assert_eq!(guest.unit(name)["state"], "running");
    }
    let status = guest.ctl(&["status", "--json"]).json();
    let containment = status["containment"].as_str().unwrap_or_default();
    assert!(
        containment.contains(SERVICE),
        "the units' groups lie in the service's: {containment}"
    );

    // A reload takes the new file, in the same process.
    guest.units(&[("low", &unit), ("high", &high), ("more", &unit)]);
    guest.systemctl("reload").ended(0);
    until("the new unit runs", || {
        (guest.unit("more")["state"] == "running").then_some(())
    });
    assert_eq!(guest.show()["MainPID"], shown["MainPID"]);

    // One with a fault in it fails, and changes nothing.
    let pid = guest.unit("low")["pid"].clone();
    guest.file("etc/ringrift/units/more.toml", "nonsense = 1\n");
    let refused = guest.systemctl("reload");
    assert_ne!(refused.code, Some(0), "{refused}");
    assert!(guest.journal().contains("nonsense"), "{}", guest.journal());
    assert_eq!(guest.show()["ActiveState"], "active");
    assert_eq!(guest.unit("low")["pid"], pid);

    guest.systemctl("stop").ended(0);
    let shown = guest.show();
    assert_eq!(
        (&*shown["ActiveState"], &*shown["Result"]),
        ("inactive", "success"),
        "{shown:#?}"
    );
    assert_eq!(shown["ExecMainStatus"], "0");
    let left = guest.processes();
    assert!(left.is_empty(), "{left:#?}");
    let stops: Vec<String> = harness::stamps(&guest.path("run/stamps"))
        .into_iter()
        .map(|s| s.unit)
        .collect();
    let at = |name: &str| stops.iter().position(|unit| unit == name);
    assert!(stops.len() == 3 && at("high") < at("low"), "{stops:?}");
    assert!(
        !guest.path("run/ringrift").exists(),
        "the run-time folder goes with the service"
    );
}

/// The watchdog is fed while nothing happens: an idle node outlives it.
#[test]
fn an_idle_node_feeds_the_watchdog() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = Guest::boot();
    guest.service("WatchdogSec=3");
    guest.units(&[("a", &Unit::bad(&["run"]))]);
    guest.systemctl("start").ended(0);
    let fed = |shown: &std::collections::BTreeMap<String, String>| -> u64 {
        shown["WatchdogTimestampMonotonic"].parse().expect("a time in us")
    };
    let first = guest.show();
    let last = until("it was fed for twice as long", || {
        let shown = guest.show();
        (fed(&shown) >= fed(&first) + 6_000_000).then_some(shown)
    });
    assert_eq!(
        (&last["MainPID"], &*last["NRestarts"]),
        (&first["MainPID"], "0"),
        "{last:#?}"
    );
    guest.systemctl("stop").ended(0);
    assert_eq!(guest.show()["Result"], "success");
}

/// A restart is orderly: every unit is stopped and started again, and nothing of the first life is left.
#[test]
fn a_restart_is_orderly() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = Guest::boot();
    guest.units(&[("a", &Unit::bad(&["run", "--on-stop-append", "/run/stamps"]))]);
    guest.systemctl("start").ended(0);
    let before: Vec<i32> = guest.processes().iter().map(|p| p.pid).collect();
    guest.systemctl("restart").ended(0);
    assert_eq!(guest.unit("a")["state"], "running");
    assert_eq!(harness::stamps(&guest.path("run/stamps")).len(), 1);
    let kept: Vec<_> = guest
        .processes()
        .into_iter()
        .filter(|p| before.contains(&p.pid))
        .collect();
    assert!(kept.is_empty(), "{kept:#?}");
    assert_eq!(guest.unit_processes().len(), 1);
    guest.systemctl("stop").ended(0);
    assert!(guest.processes().is_empty());
}

/// `systemd-notify` of the machine makes a unit ready, and its text is the unit's.
#[test]
fn a_unit_may_use_systemd_notify() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = Guest::boot();
    let script = "systemd-notify --ready --status='at work'; exec /usr/local/bin/rr-bad run";
    let unit = Unit::command(&["/bin/sh", "-c", script])
        .kind("notify")
        .text("exec.notify_access", "all");
    guest.units(&[("a", &unit)]);
    guest.systemctl("start").ended(0);
    let a = guest.unit("a");
    assert_eq!(a["state"], "running", "{a:#}");
    let shown = guest.show();
    assert_eq!(
        shown["StatusText"], "every wanted unit was started",
        "the service's word is ringriftd's"
    );
    let status = guest.ctl(&["status", "a"]);
    assert!(status.stdout.contains("at work"), "{status}");
}

/// Files that are wrong: the service fails with 8, and systemd does not try again.
#[test]
fn wrong_files_are_not_tried_again() {
    need!(missing().is_none(), missing().unwrap_or_default());
    let guest = Guest::boot();
    guest.units(&[("a", &Unit::default().text("descripton", "x"))]);
    let failed = guest.systemctl("start");
    assert_ne!(failed.code, Some(0), "{failed}");
    let shown = guest.show();
    assert_eq!(
        (&*shown["ActiveState"], &*shown["ExecMainStatus"]),
        ("failed", "8"),
        "{shown:#?}"
    );
    assert_eq!(shown["NRestarts"], "0");
    assert!(guest.journal().contains("descripton"), "{}", guest.journal());
}
