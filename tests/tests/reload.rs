//! `daemon-reload` and SIGHUP: who asked is answered, by a reading of the files that began after he asked, whoever dies
//! meanwhile.

use std::time::{Duration, Instant};

use harness::{Node, Unit, processes, until};

/// Writes the file of another unit, and a profile that names all so far.
fn grow(node: &Node, count: usize) -> String {
    let name = format!("u{count}");
    let put = |path: &str, text: String| {
        // Whole or not at all: somebody may read it at this moment.
        let draft = node.path(&format!("{path}.draft"));
        std::fs::write(&draft, text).expect("it is ours");
        std::fs::rename(&draft, node.path(path)).expect("it is ours");
    };
    put(&format!("units/{name}.toml"), Unit::bad(&["run"]).to_toml());
    let all: Vec<String> = (0..=count).map(|i| format!("\"u{i}\"")).collect();
    let all = all.join(", ");
    put(
        "profiles/test.toml",
        format!("description = \"x\"\nunits = [{all}]\n"),
    );
    name
}

fn is_active(node: &Node, name: &str) -> bool {
    node.ctl(&["is-active", name]).code == Some(0)
}

/// A manager that dies while it reads leaves the reading to the next one.
#[test]
fn a_reload_by_signal_outlives_the_manager_that_began_it() {
    let mut node = Node::builder().unit("u0", &Unit::bad(&["run"])).start();
    let first = node.pid("u0");
    for count in 1..=6_u32 {
        let name = grow(&node, count as usize);
        processes::signal(node.keeper(), libc::SIGHUP);
        // Some moment of the reading, another one each time.
        let moment = Instant::now() + Duration::from_micros(700) * (count - 1);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        node.crash_manager();
        until("the files are read", || is_active(&node, &name).then_some(()));
    }
    assert_eq!(node.pid("u0"), first);
    node.check();
}

/// Many at once are all answered, and none by a reading that began before its file was there.
#[test]
fn reloads_at_once_wait_for_each_other_and_each_sees_its_own_file() {
    let node = Node::builder().unit("u0", &Unit::bad(&["run"])).start();
    std::thread::scope(|scope| {
        let clients = (1..=12).map(|nr| {
            let node = &node;
            scope.spawn(move || {
                let name = format!("s{nr}");
                let path = node.path(&format!("units/{name}.toml"));
                let text = Unit::bad(&["run"]).to_toml();
                std::fs::write(path.with_extension("draft"), text).expect("it is ours");
                std::fs::rename(path.with_extension("draft"), &path).expect("it is ours");
                node.ctl(&["daemon-reload"]).ended(0);
                node.ctl(&["start", &name]).ended(0);
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.join().expect("its own unit is known");
        }
    });
    for nr in 1..=12 {
        assert!(is_active(&node, &format!("s{nr}")));
    }
    node.check();
}
