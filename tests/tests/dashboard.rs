//! The dashboard in a real browser: what an operator sees, on a laptop and a phone, in the light and in the dark, by
//! keyboard; and what no unit can make of it.

use harness::browser::{self, Browser};
use harness::page::{Page, now, unit};
use harness::{need, programs};
use serde_json::{Value, json};

/// The word between quotes, or the words between brackets, of `key = …` in a unit file of the tree.
fn words(text: &str, key: &str) -> Vec<String> {
    let line = text
        .lines()
        .find(|l| l.split('=').next().is_some_and(|k| k.trim() == key));
    let value = line.and_then(|l| l.split_once('=')).map_or("", |(_, v)| v);
    value.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The tree's own units, as many as `most`, all well.
fn tree(most: usize) -> Vec<Value> {
    let folder = programs::checkout().join("units");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the tree has units")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    let mut units: Vec<Value> = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).expect("a unit file");
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let requires = words(&text, "requires");
        let requires: Vec<&str> = requires.iter().map(String::as_str).collect();
        let mut one = unit(&name, "running", 192.0, &requires);
        one["description"] = json!(words(&text, "description").concat());
        one["category"] = json!(words(&text, "category").concat());
        units.push(one);
    }
    // Whatever is left out, nobody needs: those that most need come first.
    let needed = |name: &str| {
        units
            .iter()
            .filter(|u| u["depends_on"].to_string().contains(&format!("\"{name}\"")))
            .count()
    };
    let counts: Vec<usize> = units
        .iter()
        .map(|u| needed(u["name"].as_str().unwrap_or_default()))
        .collect();
    let mut order: Vec<usize> = (0..units.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(counts[*i]));
    order.truncate(most);
    order.into_iter().map(|i| units[i].clone()).collect()
}

fn set(units: &mut [Value], name: &str, changes: Value) {
    let unit = units
        .iter_mut()
        .find(|u| u["name"] == name)
        .expect("a unit of that name");
    for (key, value) in changes.as_object().expect("changes") {
        unit[key] = value.clone();
    }
}

/// A unit of the tree has failed; what requires it waits, and so on.
fn with_a_failure(mut units: Vec<Value>, broken: &str) -> Vec<Value> {
    let history = json!([
        [now() - 9000.0, "running"],
        [now() - 700.0, "backoff"],
        [now() - 690.0, "running"],
        [now() - 300.0, "backoff"],
        [now() - 280.0, "running"],
        [now() - 200.0, "failed"]
    ]);
    set(
        &mut units,
        broken,
        json!({
            "state": "failed", "health": "unknown", "pid": null, "ready": false, "since_s": now() - 200.0, "restart_count": 5, "starts": 6,
            "last_error": "restart limit (5 within 10m): exited with code 1", "next_try_s": now() + 9000.0, "history": history,
            "last_exit": { "code": 1 },
        }),
    );
    let mut down = vec![broken.to_owned()];
    while let Some(name) = down.pop() {
        let waits: Vec<String> = units
            .iter()
            .filter(|u| u["state"] == "running")
            .filter(|u| {
                u["depends_on"]
                    .as_array()
                    .is_some_and(|d| d.iter().any(|d| d["unit"] == json!(name)))
            })
            .map(|u| u["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        for one in waits {
            set(
                &mut units,
                &one,
                json!({
                    "state": "waiting", "health": "unknown", "pid": null, "ready": false, "since_s": now() - 190.0,
                    "blocked_by": [{ "unit": name, "why": "has failed" }],
                    "history": [[now() - 9000.0, "running"], [now() - 190.0, "waiting"]],
                }),
            );
            down.push(one);
        }
    }
    units
}

/// A few minutes stand between these words: three when the test began, more on a machine that is slow to draw.
fn is_minutes_ago(text: &str, before: &str, after: &str) -> bool {
    (3..15).any(|minutes| text.contains(&format!("{before}{minutes}m ago{after}")))
}

const LIVE: &str = "document.getElementById('line').textContent.includes('live')";
const HEADLINE: &str = "document.getElementById('headline').textContent";

fn shown(browser: &mut Browser, page: &Page) {
    browser.open(&format!("{}/", page.origin));
    browser.wait(LIVE);
}

/// No part of the page is wider than the screen, but what scrolls by itself.
#[track_caller]
fn assert_fits(browser: &mut Browser) {
    let over = browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth");
    assert_eq!(over, json!(0), "the page is wider than the screen");
}

/// Writes a picture into the documentation with RINGRIFT_BLESS=1; without it, only looks that there is one.
fn keep(name: &str, picture: &[u8]) {
    assert!(
        picture.starts_with(b"\x89PNG") && picture.len() > 4000,
        "{name} is a picture"
    );
    if let Some(folder) = std::env::var_os("RINGRIFT_PICTURES") {
        std::fs::write(std::path::Path::new(&folder).join(name), picture).expect("a picture can be written");
    }
    let kept = [
        "32-laptop-light.png",
        "78-laptop-dark.png",
        "32-phone-light.png",
        "unit-laptop-light.png",
    ];
    if std::env::var_os("RINGRIFT_BLESS").is_some() && kept.contains(&name) {
        let path = programs::checkout().join("docs/screens").join(name);
        std::fs::write(path, picture).expect("a picture can be written");
    }
}

/// 1, 32, 78 and 1 000 units, on a laptop and a phone, in the light and in the dark: the verdict, what is wrong and every unit
/// are there, nothing is cut off at the side, and nothing went wrong on the page.
#[test]
fn nodes_of_every_size_are_shown_on_every_screen() {
    need!(browser::program().is_some(), "no chromium here");
    let many: Vec<Value> = (0..1000)
        .map(|n| {
            let needs = format!("unit_{:04}", n / 7);
            let mut one = unit(
                &format!("unit_{n:04}"),
                "running",
                61.0,
                if n < 7 { &[] } else { std::slice::from_ref(&needs) }
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .as_slice(),
            );
            one["category"] = json!(["sync", "event", "health", "queue", "pipeline", "backup"][n % 6]);
            one
        })
        .collect();
    let sizes = [
        (
            1,
            vec![unit("auto_sync", "running", 3.0, &[])],
            "ring-1: well, its 1 unit is up",
        ),
        (
            32,
            with_a_failure(tree(32), "data_pipeline"),
            "32 units down for good",
        ),
        (
            78,
            with_a_failure(tree(78), "data_pipeline"),
            "78 units down for good",
        ),
        (
            1000,
            with_a_failure(many, "unit_0040"),
            "1 of 1000 units down for good",
        ),
    ];
    let mut browser = Browser::start();
    for (count, units, headline) in sizes {
        let count_of_units = units.len();
        let page = Page::serve(units);
        for (screen, width, height) in [("laptop", 1280, 1000), ("phone", 390, 844)] {
            for is_dark in [false, true] {
                browser.screen(width, height, is_dark);
                shown(&mut browser, &page);
                let said = browser.text(HEADLINE);
                assert!(said.contains(headline), "{count}: {said}");
                let rows = browser.value("document.querySelectorAll('#rows tr').length");
                assert_eq!(rows, json!(count_of_units.min(200)), "{count}");
                let found = browser.text("document.getElementById('found').textContent");
                assert!(
                    found.starts_with(&count.to_string()),
                    "every unit is counted: {found}"
                );
                if count > 1 {
                    let cause = browser.text("document.querySelector('#causes li').innerText");
                    assert!(is_minutes_ago(&cause, "failed ", ", next try in 2h"), "{cause}");
                    assert!(cause.contains("because: restart limit"), "{cause}");
                    assert!(cause.contains("holds up "), "{cause}");
                    assert!(cause.contains("ringriftctl why "), "{cause}");
                    let boxes = "document.querySelectorAll('#drawing a.box').length";
                    let lines = "document.querySelectorAll('#drawing path.blocks').length > 0";
                    assert!(browser.value(boxes).as_u64() <= Some(150), "{count}");
                    assert_eq!(browser.value(lines), json!(true), "what it blocks is drawn");
                }
                let tiles = browser.value("document.querySelectorAll('#tiles li').length");
                assert_eq!(
                    tiles,
                    json!(if count > 150 { 6 } else { 0 }),
                    "collapsed by category"
                );
                assert_fits(&mut browser);
                let tone = if is_dark { "dark" } else { "light" };
                let picture = browser.picture(false);
                keep(&format!("{count}-{screen}-{tone}.png"), &picture);
                browser.assert_clean(&page.origin);
            }
        }
    }
}

/// What happens is shown as it happens; a lost node is told, an old picture is called one, and it comes back by itself.
#[test]
fn the_page_is_live_and_says_when_it_is_not() {
    need!(browser::program().is_some(), "no chromium here");
    let page = Page::serve(vec![
        unit("a", "running", 5.0, &[]),
        unit("b", "running", 5.0, &["a"]),
    ]);
    let mut browser = Browser::start();
    browser.screen(1280, 800, false);
    shown(&mut browser, &page);
    assert_eq!(browser.text(HEADLINE), "● ring-1: well, all 2 units are up");
    let mut broken = unit("a", "failed", 0.0, &[]);
    broken["last_error"] = json!("exited with code 3");
    page.change(broken.clone());
    browser.wait(&format!(
        "{HEADLINE}.includes('failed, 1 of 2 units down for good')"
    ));
    browser.wait("document.querySelector('#causes li').textContent.includes('exited with code 3')");
    let title = browser.text("document.title");
    assert_eq!(title, "✗ ring-1: failed", "also in the browser's tab");
    // Why a unit is not well, before what it says of itself.
    let mut sick = unit("b", "running", 5.0, &["a"]);
    sick["health"] = json!("unhealthy");
    sick["health_text"] = json!("the check failed 3 times in a row: http://127.0.0.1:80/ answered 503");
    sick["status_text"] = json!("all is well");
    page.change(sick);
    browser.wait("document.getElementById('causes').textContent.includes('answered 503')");
    page.be_away(true);
    browser.wait("document.getElementById('line').textContent.includes('not connected')");
    page.be_away(false);
    browser.wait(LIVE);
    page.change(unit("b", "running", 5.0, &["a"]));
    page.change(unit("a", "running", 0.0, &[]));
    browser.wait(&format!("{HEADLINE}.includes('well')"));
}

/// An open breaker is a cause like any other: which one, till when, why, what it holds up, and what ends it; in words.
#[test]
fn an_open_breaker_is_shown_until_it_closes() {
    need!(browser::program().is_some(), "no chromium here");
    let mut units = tree(32);
    let held: Vec<String> = (20..24)
        .map(|n| units[n]["name"].as_str().expect("a name").to_owned())
        .collect();
    let sick = units[25]["name"].as_str().expect("a name").to_owned();
    for name in held.iter().chain([&sick]) {
        set(
            &mut units,
            name,
            json!({ "state": "waiting", "pid": null, "ready": false, "since_s": now() - 60.0,
                "blocked_by": [{ "unit": null, "why": "the breaker of category sync is open: 6 restarts within 5m" }] }),
        );
    }
    let page = Page::serve(units.clone());
    let keys = |names: &[String]| names.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>();
    let breaker = |open: Value, held: &[String]| {
        json!([
            { "of": "node", "category": "", "restarts": 3, "limit": 15, "window_seconds": 300.0, "trips": 0, "open": null, "held": [] },
            { "of": "category", "category": "sync", "restarts": 6, "limit": 6, "window_seconds": 300.0, "trips": 1, "open": open,
                "held": keys(held) },
        ])
    };
    let mut waiting = held.clone();
    waiting.push(sick.clone());
    // A day and more: the minutes that the test takes change no word.
    let until = "2100-01-01T00:00:00Z";
    let open =
        json!({ "since": "2026-01-01T00:00:00Z", "until": until, "seq": 7, "unit": sick.to_uppercase() });
    page.node("breakers", breaker(open, &waiting));
    let mut browser = Browser::start();
    for (screen, width, height, is_dark) in [("laptop", 1280, 1000, false), ("phone", 390, 844, true)] {
        browser.screen(width, height, is_dark);
        shown(&mut browser, &page);
        let said = browser.text(HEADLINE);
        assert!(
            said.contains("degraded, 27 of 32 units up, 5 held back by a breaker"),
            "{said}"
        );
        let cause = browser.text("document.querySelector('#wrong li').textContent");
        for words in [
            "the breaker of category sync is open: no restarts for now; it closes in ",
            &format!("because: 6 restarts within 5m were made, and {sick} was one too many"),
            &format!("holds up 5: {}", held[0]),
            "ringriftctl reset-failed @sync",
        ] {
            assert!(cause.contains(words), "{words} is not told: {cause}");
        }
        let links = browser.value("document.querySelectorAll('#wrong li a').length");
        assert_eq!(
            links,
            json!(6),
            "the unit that was one too many, and those that wait"
        );
        let row = browser.text("document.querySelector('#rows tr').textContent");
        assert!(row.contains("waits for the breaker of category sync"), "{row}");
        assert_fits(&mut browser);
        keep(&format!("breaker-{screen}.png"), &browser.picture(false));
    }
    page.node("breakers", breaker(Value::Null, &[]));
    for name in &waiting {
        page.change(unit(name, "running", 1.0, &[]));
    }
    browser.wait("document.getElementById('wrong').hidden");
    browser.wait(&format!("{HEADLINE}.includes('well')"));
    browser.assert_clean(&page.origin);
}

/// A browser without server-sent events, or a way that lets none through: the page asks instead, and says so.
#[test]
fn without_a_stream_the_page_asks() {
    need!(browser::program().is_some(), "no chromium here");
    let page = Page::serve(vec![unit("a", "running", 5.0, &[])]);
    let mut browser = Browser::start();
    browser.call(
        "Page.addScriptToEvaluateOnNewDocument",
        json!({ "source": "delete window.EventSource" }),
    );
    browser.open(&format!("{}/", page.origin));
    browser.wait(&format!("{HEADLINE}.includes('well')"));
    page.change(unit("a", "failed", 0.0, &[]));
    browser.wait(&format!("{HEADLINE}.includes('failed')"));
    browser.wait("document.getElementById('line').textContent.includes('asking every 5s')");
    assert_eq!(page.listeners(), 0);
    browser.assert_clean(&page.origin);
}

/// S5, F11: what a unit says becomes text and nothing else, wherever it is shown: no markup, no script, no sight that deceives.
#[test]
fn nothing_that_a_unit_says_becomes_markup() {
    need!(browser::program().is_some(), "no chromium here");
    let evil = "<img src=x onerror=\"window.owned=1\"><script>window.owned=1</script>\u{202e}abc\u{1b}[2J";
    let mut units = vec![
        unit("a", "failed", 1.0, &[]),
        unit("b", "waiting", 1.0, &["a"]),
        unit("c", "running", 1.0, &[]),
    ];
    set(
        &mut units,
        "a",
        json!({
            "last_error": evil, "description": evil, "note": evil, "status_text": evil, "category": evil, "held": evil,
            "last_exit": { "signal": evil }, "deprecated": evil, "added_by": evil, "metrics": { evil: 1 },
        }),
    );
    set(
        &mut units,
        "b",
        json!({ "blocked_by": [{ "unit": "a", "why": evil }] }),
    );
    set(
        &mut units,
        "c",
        json!({ "health": "degraded", "status_text": evil }),
    );
    let page = Page::serve(units);
    page.node("node", json!(evil));
    page.node("notices", json!([evil]));
    page.node("profiles", json!([evil]));
    page.detail("a", json!({
        "events": [{ "seq": 1, "time": evil, "event": evil, "unit": "a", "from": evil, "to": "failed", "cause": { "kind": "exit", "text": evil, "unit": evil } }],
        "last_lines": [{ "time": evil, "text": evil }], "required_by": [evil],
        "capsules": [{ "time": evil, "text": evil, "lines": [{ "text": evil }], "changed": [evil] }],
    }));
    let mut browser = Browser::start();
    for address in ["/", "/#unit=a", "/#unit=b"] {
        browser.open(&format!("{}{address}", page.origin));
        browser.wait(LIVE);
        browser.wait("document.body.innerText.includes('onerror=')");
        let made = browser.value("document.querySelectorAll('img, body script').length");
        assert_eq!(made, json!(0), "{address}: no markup is made");
        assert_eq!(
            browser.value("window.owned === undefined"),
            json!(true),
            "{address}"
        );
        let raw =
            "/[\\u202e\\u001b]/.test(document.body.textContent) || /[\\u202e\\u001b]/.test(document.title)";
        assert_eq!(
            browser.value(raw),
            json!(false),
            "{address}: what deceives is escaped"
        );
        assert_eq!(
            browser.value("document.body.textContent.includes('\\\\u{202e}')"),
            json!(true),
            "{address}"
        );
        browser.assert_clean(&page.origin);
    }
}

/// Everything is reached by keyboard, in the order in which it stands; and what is only seen is said as well.
#[test]
fn the_page_is_used_by_keyboard_and_read_aloud() {
    need!(browser::program().is_some(), "no chromium here");
    let units = with_a_failure(tree(32), "data_pipeline");
    let broken = units
        .iter()
        .find(|unit| unit["name"] == "data_pipeline")
        .expect("it failed")
        .clone();
    let page = Page::serve(units);
    let mut browser = Browser::start();
    browser.screen(1280, 800, false);
    shown(&mut browser, &page);
    let focused = "(document.activeElement.closest('section, main, header, body').id || 'page') + ':' + document.activeElement.textContent.trim()";
    browser.press("Tab");
    assert_eq!(browser.text(focused), "page:Skip to the units", "the first stop");
    browser.press("Tab");
    assert_eq!(browser.text(focused), "wrong:data_pipeline", "then what is wrong");
    // What is said of it changes, and whoever stands there stays there.
    let mut broken = broken.clone();
    broken["last_error"] = json!("restart limit (5 within 10m): exited with code 2");
    page.change(broken);
    browser.wait("document.getElementById('causes').textContent.includes('exited with code 2')");
    assert_eq!(browser.text(focused), "wrong:data_pipeline", "over a change");
    // The graph is one stop; arrows go on within it.
    browser.press("g");
    let label = "document.activeElement.getAttribute('aria-label') || ''";
    let first = browser.text(label);
    assert!(!first.is_empty(), "a unit in the drawing says what it is");
    browser.press("ArrowRight");
    assert_ne!(browser.text(label), first);
    let stops = browser.value("document.querySelectorAll('#drawing a[tabindex=\"0\"]').length");
    assert_eq!(stops, json!(1));
    let labels = browser.text(
        "[...document.querySelectorAll('#drawing a')].map(a => a.getAttribute('aria-label')).join('\\n')",
    );
    assert!(labels.contains("data_pipeline, failed, holds up "), "{labels}");
    assert!(labels.contains(", waiting, held up by data_pipeline"), "{labels}");
    browser.press("Enter");
    browser.wait("!document.getElementById('unit').hidden");
    browser.press("Escape");
    browser.wait("document.getElementById('unit').hidden");
    // The list: filter, next, open.
    browser.press("/");
    for letter in "waiting".chars() {
        browser.press(&letter.to_string());
    }
    browser.wait("document.getElementById('found').textContent.includes(' of 32 units')");
    browser.press("Escape");
    browser.wait("document.getElementById('found').textContent === '32 units'");
    browser.press("j");
    let row = "document.activeElement.closest('tr').children[0].textContent";
    assert_eq!(browser.text(row), "data_pipeline", "the worst is the first row");
    browser.press("j");
    assert_ne!(browser.text(row), "data_pipeline");
    browser.press("k");
    browser.press("Enter");
    browser.wait("document.getElementById('unit-title').textContent.includes('data_pipeline: failed')");
    // Whatever has a colour has a word; whatever is drawn has a label.
    browser.press("Escape");
    let unlabelled = browser.value(
        "[...document.querySelectorAll('svg[role]')].filter(s => !s.getAttribute('aria-label')).length",
    );
    assert_eq!(unlabelled, json!(0));
    let unlike = "[...document.querySelectorAll('.state')].filter(s => s.textContent.replace(/[^a-z]/g, '') !== s.className.split(' ')[1]).length";
    assert_eq!(
        browser.value(unlike),
        json!(0),
        "the word says what the colour does"
    );
    let live = browser.value("document.querySelectorAll('[aria-live=polite]').length >= 2");
    assert_eq!(live, json!(true));
    browser.assert_clean(&page.origin);
}

/// One unit's page: why, its events, its last lines and failures where they may be shown.
#[test]
fn one_units_page_tells_all_of_it() {
    need!(browser::program().is_some(), "no chromium here");
    let page = Page::serve(with_a_failure(tree(32), "data_pipeline"));
    let event = |seq: u64, from: &str, to: &str, text: &str| {
        json!({ "seq": seq, "time": "2026-05-01T12:00:00.000Z", "event": "DAEMON_FAILED", "unit": "data_pipeline", "from": from, "to": to,
                "cause": { "kind": "exit", "text": text } })
    };
    page.detail("data_pipeline", json!({
        "events": [event(7, "starting", "running", "READY=1"), event(8, "running", "failed", "exited with code 1")],
        "last_lines": [{ "time": "", "text": "connecting" }, { "time": "", "text": "OSError: [Errno 28] No space left on device" }],
        "required_by": ["auto_sync"], "cpu_seconds": 12.5, "memory_bytes": 25_000_000,
    }));
    let mut browser = Browser::start();
    for (screen, width, height) in [("laptop", 1280, 800), ("phone", 390, 844)] {
        browser.screen(width, height, false);
        browser.open(&format!("{}/#unit=data_pipeline", page.origin));
        browser.wait("document.getElementById('events').children.length === 2");
        let text = browser.text("document.getElementById('unit').innerText");
        for words in [
            "data_pipeline: failed",
            "restart limit (5 within 10m)",
            "No space left on device",
            "code 1",
            "exited with code 1",
            "24M",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_fits(&mut browser);
        let picture = browser.picture(true);
        keep(&format!("unit-{screen}-light.png"), &picture);
    }
    // What it holds up says so, and leads to it.
    browser.open(&format!("{}/", page.origin));
    browser.wait(LIVE);
    browser.value("document.querySelector('#causes .blocks a').click()");
    browser.wait("document.getElementById('unit-facts').textContent.includes('Root cause')");
    let text = browser.text("document.getElementById('unit').innerText");
    assert!(is_minutes_ago(&text, "data_pipeline failed ", ""), "{text}");
    // A unit that is not there is said to be none.
    browser.open(&format!("{}/#unit=nobody", page.origin));
    browser.wait("document.getElementById('unit-title').textContent === 'no unit nobody'");
}
