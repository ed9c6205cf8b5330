//! The page of a real node in a real browser: the same files, from the program itself, over a node that is really broken.

use harness::browser::{self, Browser};
use harness::http::Door;
use harness::{Node, Unit, need, processes, programs};
use proto::reply::State;
use serde_json::json;

const LIVE: &str = "document.getElementById('line').textContent.includes('live')";
const HEADLINE: &str = "document.getElementById('headline').textContent";

const EVIL: &str = "<img src=x onerror='window.owned=1'>";

fn node(address: &str, config: &str) -> Node {
    let broken = format!("echo \"said {EVIL}\"; exit 3");
    let node = Node::builder()
        .config(config)
        .args(&["--http", address])
        .unit("db", &Unit::bad(&["run"]))
        .unit(
            "s3_sync",
            &Unit::command(&["/bin/sh", "-c", &broken])
                .requires(&["db"])
                .text("description", EVIL)
                .once(),
        )
        .unit("auto_sync", &Unit::bad(&["run"]).requires(&["s3_sync"]))
        .unit(
            "talker",
            &Unit::bad(&["notify-as", "status", EVIL]).requires(&["db"]),
        )
        .start();
    node.wait_state("s3_sync", State::Failed);
    node
}

/// S5, F11: a node's own page, with what hostile units say: verdict, cause, graph, a unit's log where it may be shown; nothing goes
/// wrong in the browser, nobody else is asked, and looking changes nothing.
#[test]
fn the_page_of_a_real_node_is_true_and_harmless() {
    need!(browser::program().is_some(), "no chromium here");
    let address = Door::free().text();
    let node = node(&address, "http = { show_logs = true }");
    let before: Vec<_> = node
        .status_of(&[])
        .1
        .into_iter()
        .map(|u| (u.name, u.state, u.starts))
        .collect();
    let origin = format!("http://{address}");
    let mut browser = Browser::start();
    browser.screen(1280, 1000, false);
    browser.open(&format!("{origin}/"));
    browser.wait(LIVE);
    let said = browser.text(HEADLINE);
    assert!(
        said.contains("failed, 1 of 4 units down for good, 1 waiting"),
        "{said}"
    );
    let cause = browser.text("document.getElementById('causes').innerText");
    assert!(
        cause.contains("exited with code 3") && cause.contains("holds up 1: auto_sync"),
        "{cause}"
    );
    let talker = browser.text(
        "[...document.querySelectorAll('#rows tr')].find(r => r.textContent.startsWith('talker')).innerText",
    );
    assert!(talker.contains(EVIL), "as text: {talker}");
    let blocked = browser.value("document.querySelectorAll('#drawing path.blocks').length");
    assert_eq!(blocked, json!(1));
    browser.assert_clean(&origin);
    // Its own page.
    browser.open(&format!("{origin}/#unit=s3_sync"));
    browser.wait("document.getElementById('lines').textContent.includes('said <img')");
    browser.wait("document.getElementById('events').textContent.includes('→ failed')");
    // The failure as it was kept, with its tail.
    let failure = browser.text("document.getElementById('capsules').innerText");
    assert!(
        failure.contains("exited with code 3") && failure.contains("said <img"),
        "{failure}"
    );
    let says = browser.text("document.getElementById('unit-says').textContent");
    assert_eq!(says, EVIL);
    assert_eq!(browser.value("document.querySelectorAll('img').length"), json!(0));
    assert_eq!(browser.value("window.owned === undefined"), json!(true));
    browser.assert_clean(&origin);
    let after: Vec<_> = node
        .status_of(&[])
        .1
        .into_iter()
        .map(|u| (u.name, u.state, u.starts))
        .collect();
    assert_eq!(before, after, "a page never changes anything");
    // Its connections are open as long as it is.
    drop(browser);
    node.check();
}

/// A kill is shown without a new question from a person; the manager's death does not end the page.
#[test]
fn the_page_follows_a_real_node_over_its_managers_death() {
    need!(browser::program().is_some(), "no chromium here");
    let address = Door::free().text();
    let mut node = node(&address, "");
    let mut browser = Browser::start();
    browser.open(&format!("http://{address}/"));
    browser.wait(LIVE);
    let restarts = "[...document.querySelectorAll('#rows tr')].find(r => r.textContent.startsWith('talker')).children[4].textContent";
    assert_eq!(browser.text(restarts), "0");
    processes::signal(node.pid("talker"), libc::SIGKILL);
    browser.wait(&format!("{restarts} === '1'"));
    node.crash_manager();
    browser.wait(LIVE);
    let stopped = node.ctl(&["stop", "talker"]);
    assert_eq!(stopped.code, Some(0), "{stopped}");
    browser.wait("[...document.querySelectorAll('#rows tr')].find(r => r.textContent.startsWith('talker')).textContent.includes('stopped')");
    browser.wait(LIVE);
    // Over TCP, and not asked for: no log lines.
    browser.open(&format!("http://{address}/#unit=s3_sync"));
    browser.wait("document.getElementById('events').textContent.includes('→ failed')");
    assert_eq!(
        browser.value("document.getElementById('unit-lines').hidden"),
        json!(true)
    );
    assert_eq!(
        browser.value("document.body.textContent.includes('said <img')"),
        json!(false)
    );
    drop(browser);
    node.check();
}

/// The tree's own coordinator, as it ships: 33 units, well, each of them in the list and in the graph.
#[test]
fn the_trees_own_profile_is_shown() {
    need!(browser::program().is_some(), "no chromium here");
    let address = Door::free().text();
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = std::process::Command::new(programs::ringriftd());
    command
        .args(["--profile", "coordinator", "--http", &address])
        .env("RINGRIFT_CONTAINMENT", "process-group");
    for (flag, name) in [
        ("--config", "ringriftd.toml"),
        ("--units", "units"),
        ("--profiles", "profiles"),
    ] {
        command.arg(flag).arg(programs::checkout().join(name));
    }
    for (flag, name) in [
        ("--runtime-dir", "run"),
        ("--state-dir", "state"),
        ("--log-dir", "log"),
    ] {
        command.arg(flag).arg(folder.path().join(name));
    }
    let log = std::fs::File::create(folder.path().join("stderr")).expect("a file");
    let mut daemon = command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(log)
        .spawn()
        .expect("ringriftd runs");
    harness::until("HTTP is served", || std::net::TcpStream::connect(&address).ok());
    let mut browser = Browser::start();
    browser.screen(1280, 1000, false);
    browser.open(&format!("http://{address}/"));
    browser.wait(LIVE);
    browser.wait(&format!("{HEADLINE}.includes('well, all 33 units are up')"));
    assert_eq!(
        browser.value("document.querySelectorAll('#rows tr').length"),
        json!(33)
    );
    assert_eq!(
        browser.value("document.querySelectorAll('#drawing a.box').length"),
        json!(33)
    );
    browser.assert_clean(&format!("http://{address}"));
    let asked = processes::Held::open(daemon.id() as i32)
        .expect("it runs")
        .signal(libc::SIGTERM);
    assert!(asked, "it runs");
    let ended = harness::ctl::wait(&mut daemon, harness::PATIENCE);
    assert!(ended.is_some_and(|status| status.success()), "it ends in order");
}

/// A thousand units of a real node, one of them broken: the verdict, its cause and what it holds up are seen at a glance, and the page
/// stays small enough to be used. With RINGRIFT_BLESS=1 its picture is written anew.
#[test]
fn a_thousand_real_units_are_shown() {
    need!(browser::program().is_some(), "no chromium here");
    let address = Door::free().text();
    let mut builder = Node::builder().args(&["--http", &address]);
    for n in 0..1000 {
        let needs = format!("unit_{:03}", n / 7);
        let needs: &[&str] = if n < 7 { &[] } else { &[&needs] };
        let unit = match n {
            40 => Unit::command(&["/bin/sh", "-c", "echo 'No space left on device'; exit 1"]).once(),
            _ => Unit::command(&["/bin/sleep", "1000"]),
        };
        let category = ["sync", "event", "health", "queue", "pipeline", "backup"][n % 6];
        builder = builder.unit(
            &format!("unit_{n:03}"),
            &unit.requires(needs).text("category", category),
        );
    }
    let mut node = builder.start_without_waiting();
    let waiting = (0..1000).filter(|n| is_below(*n, 40)).count();
    let is_settled = || {
        let summary = node.status_of(&["unit_040"]).0.summary;
        (summary.failed == 1 && summary.running as usize == 999 - waiting).then_some(())
    };
    harness::until_within(harness::PATIENCE * 4, is_settled).expect("all that can be up is");
    let mut browser = Browser::start();
    browser.screen(1280, 1000, false);
    browser.open(&format!("http://{address}/"));
    browser.wait(LIVE);
    browser.wait(&format!("{HEADLINE}.includes('1 of 1000 units down for good')"));
    let cause = browser.text("document.querySelector('#causes li').innerText");
    assert!(cause.contains(&format!("holds up {waiting}")), "{cause}");
    assert!(cause.contains("exited with code 1"), "{cause}");
    let found = browser.text("document.getElementById('found').textContent");
    assert!(found.starts_with("1000"), "{found}");
    assert_eq!(
        browser.value("document.querySelectorAll('#tiles li').length"),
        json!(6)
    );
    let picture = browser.picture(false);
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 4000);
    if std::env::var_os("RINGRIFT_BLESS").is_some() {
        let path = programs::checkout().join("docs/screens/1000-live-laptop-light.png");
        std::fs::write(path, picture).expect("a picture can be written");
    }
    browser.assert_clean(&format!("http://{address}"));
    drop(browser);
    node.shutdown();
}

/// Unit `n` needs `root`, at whatever distance.
fn is_below(mut n: usize, root: usize) -> bool {
    while n >= 7 {
        n /= 7;
        if n == root {
            return true;
        }
    }
    false
}
