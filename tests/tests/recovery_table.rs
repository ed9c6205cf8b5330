//! The table of docs/recovery.md, held to its word: each row's death is brought about in the middle of work, and each cell
//! is a claim about what comes of it.

use std::collections::{BTreeMap, BTreeSet};

use harness::numbers::{self, Numbers};
use harness::processes::Held;
use harness::programs::{checkout, ringriftctl};
use harness::survive::{Main, Role, assert_same};
use harness::{Node, PATIENCE, Unit, until};
use proto::reply::{Exit, State, VersionInfo};

/// A row: what dies, then the claims in the order of the columns.
#[derive(Debug)]
struct Row {
    what: String,
    claims: Vec<String>,
}

/// The columns that are claims, as the page heads them.
const COLUMNS: [&str; 6] = [
    "units",
    "exit codes",
    "log lines",
    "what is known",
    "clients that wait",
    "who comes back",
];

fn rows() -> Vec<Row> {
    let page = std::fs::read_to_string(checkout().join("docs/recovery.md")).expect("the page is there");
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = page.lines().skip_while(|line| !line.starts_with("| what dies |"));
    let head = cells(lines.next().expect("the page has the table"));
    assert_eq!(head[1..], COLUMNS, "the table has other columns");
    let rows: Vec<Row> = lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = cells(line);
            let what = cells.remove(0);
            Row { what, claims: cells }
        })
        .collect();
    assert!(rows.len() >= 8, "{rows:?}");
    rows
}

/// Brings the death about; what must be done for somebody to come back is done by [`come_back`].
fn die(what: &str, node: &mut Node) {
    match what {
        "the manager" => {
            node.kill_role(Role::Manager);
        }
        "the logger" => {
            node.kill_role(Role::Logger);
        }
        "manager and logger" => {
            node.kill_role(Role::Logger);
            node.kill_role(Role::Manager);
        }
        "the keeper, bare" => {
            node.kill_role(Role::Keeper);
        }
        "the keeper, under a service manager" => {
            node.kill_role(Role::Keeper);
            until("the others end with it", || {
                node.daemon_processes().is_empty().then_some(())
            });
        }
        "all three" => node.kill_daemon(),
        "nobody: an upgrade" => {
            node.ctl(&["upgrade"]).ended(0);
        }
        "nobody: an orderly end" => node.shutdown(),
        other => panic!("the page has a row that this test does not know: {other}"),
    }
}

/// Waits for whoever the table says comes back.
fn come_back(who: &str, node: &mut Node, before: &BTreeMap<&'static str, i32>) {
    let old = |role: &str| before[role] as u32;
    match who {
        "the keeper starts another" | "the keeper starts others" => {
            let wanted = if who.ends_with("others") { 2 } else { 1 };
            let changed = |version: &VersionInfo| {
                let changed = [
                    version.manager_pid != old("manager"),
                    version.logger_pid != old("logger"),
                ];
                changed.into_iter().filter(|is| *is).count()
            };
            // The manager is told of a new logger a moment after that has begun.
            let version = node.wait_answer("all are there", |version| {
                let is_whole = node.daemon_processes().len() == 3;
                version.keeper_pid == old("keeper") && is_whole && changed(version) >= wanted
            });
            assert_eq!(changed(&version), wanted, "{version:?}");
        }
        "its manager takes its place" => {
            let version = node.wait_answer("a new keeper's manager", |version| {
                version.keeper_pid == old("manager") && version.manager_pid != old("manager")
            });
            node.follow(version.keeper_pid as i32);
        }
        "the next start" => {
            if !node.has_ended() {
                node.kill_daemon();
            }
            // Not until it is ready: a start is still under way.
            node.launch_daemon();
            node.wait_socket();
            node.wait_answer("the next manager", |_| true);
            node.remember();
        }
        "the new program" => {
            node.wait_answer("a new manager", |version| {
                version.keeper_pid == old("keeper") && version.manager_pid != old("manager")
            });
        }
        other => panic!("nobody knows how {other} comes back"),
    }
    node.note_roles();
    node.check_one_daemon();
}

fn without(mains: BTreeSet<Main>, units: &[&str]) -> BTreeSet<Main> {
    mains
        .into_iter()
        .filter(|main| !units.contains(&main.0.as_str()))
        .collect()
}

fn hold_to(row: &Row) {
    let [units, codes, lines, known, clients, who] =
        <[String; 6]>::try_from(row.claims.clone()).expect("each row has six claims");
    let builder = numbers::prepare(Node::builder());
    let go = builder.path("go");
    let count = numbers::unit(&builder, 50).text("restart.delay", "1h");
    let mut builder = builder
        .unit("c0", &count)
        .unit("c1", &count)
        .unit("coded", &count)
        .unit("stopped", &Unit::bad(&["run"]))
        .unit("held", &Unit::bad(&["run"]))
        .spare("late", &Unit::bad(&["run", "--ready-when", &go]));
    if row.what.contains("bare") {
        builder = builder.bare();
    }
    let mut node = builder.start();
    node.ctl(&["stop", "stopped"]).ended(0);
    node.ctl(&["hold", "held"]).ended(0);
    node.ctl(&["stop", "held"]).ended(0);
    let history = node.history();
    let before = node.role_pids();
    let life = node.unit("coded").invocation.expect("it runs");
    let coded = Held::open(node.pid("coded")).expect("it runs");
    let socket = node.socket();
    let answer = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            harness::ctl::run(ringriftctl(), &["start", "late"], PATIENCE * 2, |command| {
                command.env("RINGRIFT_SOCKET", &socket);
            })
        });
        node.wait_unit("late", "starting", |unit| unit.pid.is_some());
        let mains = without(node.mains(), &["coded"]);
        let facts = node.facts();
        die(&row.what, &mut node);
        if units == "untouched" {
            // Somebody ends while nobody, or somebody else, is there to see it.
            assert!(coded.signal(libc::SIGUSR1) && coded.wait(PATIENCE));
        }
        come_back(&who, &mut node, &before);
        match units.as_str() {
            "untouched" => {
                assert_eq!(
                    without(node.mains(), &["coded"]),
                    mains,
                    "units\n{}",
                    node.stderr()
                );
                node.wait_state("coded", State::Backoff);
            }
            "stopped" => {
                let now = node.mains();
                assert!(now.is_disjoint(&mains), "a unit outlived an orderly end: {now:?}");
            }
            other => panic!("nobody knows what {other} means for units"),
        }
        let exit = node.unit("coded").last_exit.map(|last| last.exit);
        match (codes.as_str(), units.as_str()) {
            ("known", "untouched") => assert_eq!(exit, Some(Exit::Code(3)), "{}", node.stderr()),
            // It was stopped, by TERM, and the next start has begun anew.
            ("known", _) => {}
            ("not of who ends meanwhile", _) => {
                assert!(matches!(exit, Some(Exit::Code(3) | Exit::Unknown)), "{exit:?}");
            }
            (other, _) => panic!("nobody knows what {other} means for exit codes"),
        }
        match known.as_str() {
            "all" => {
                let (mut then, mut now) = (facts, node.facts());
                for all in [&mut then, &mut now] {
                    all.remove("coded");
                    // A death of the keeper's is no news of a unit; a start that is under way may have gone on.
                    all.remove("late");
                }
                assert_same(&then, &now);
            }
            "holds" => {
                assert_eq!(node.unit("held").state, State::Held);
                node.wait_state("stopped", State::Running);
            }
            other => panic!("nobody knows what {other} means for what is known"),
        }
        node.check_history(&history);
        std::fs::write(&go, "").expect("it is ours");
        client.join().expect("a client ends")
    });
    match clients.as_str() {
        "answered" => {
            assert_eq!(answer.code, Some(0), "{answer}\n{}", node.stderr());
            node.wait_state("late", State::Running);
        }
        "answered or told" => assert!(matches!(answer.code, Some(0 | 1 | 69)), "{answer}"),
        other => panic!("nobody knows what {other} means for clients"),
    }
    node.ctl(&["stop", "*", "--yes"]).ended(0);
    let checked = match lines.as_str() {
        "all" => Numbers::of(&node),
        "not the last of who ends meanwhile" => Numbers::of(&node).unread([life]),
        other => panic!("nobody knows what {other} means for log lines"),
    };
    assert!(checked.check().lives >= 3);
    node.check();
}

/// Runs the rows whose names `wanted` likes: each test a part of the table, so that they run side by side.
fn check(wanted: impl Fn(&str) -> bool) {
    let rows = rows();
    let mine: Vec<&Row> = rows.iter().filter(|row| wanted(&row.what)).collect();
    assert!(!mine.is_empty());
    for row in mine {
        harness::seeded::tell(&format!("row: {}", row.what));
        hold_to(row);
    }
}

/// B1, B2: manager, logger, both.
#[test]
fn what_the_page_says_of_manager_and_logger_is_true() {
    check(|what| what.contains("manager") && !what.contains("keeper") || what == "the logger");
}

/// B4: the keeper.
#[test]
fn what_the_page_says_of_the_keeper_is_true() {
    check(|what| what.contains("keeper"));
}

/// B5, B10: all three, an upgrade, an orderly end.
#[test]
fn what_the_page_says_of_ends_and_upgrades_is_true() {
    check(|what| what == "all three" || what.starts_with("nobody"));
}
