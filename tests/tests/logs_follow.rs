//! `ringriftctl logs -f`, and what several units look like together.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use harness::{Node, NodeBuilder, Unit, until};

/// Its stdout is what is written into a fifo.
fn copier(fifo: &str) -> Unit {
    nix::unistd::mkfifo(fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let unit = Unit::command(&["/bin/sh", "-c", "exec cat \"$1\"", "sh", fifo]).kind("simple");
    unit.text("log.max_size", "4KiB").set("log.max_files", "1000")
}

fn with(builder: NodeBuilder, name: &str) -> NodeBuilder {
    let unit = copier(&builder.path(name));
    builder.unit(name, &unit)
}

/// The write end of a unit's fifo.
fn pipe(node: &Node, name: &str) -> std::fs::File {
    std::fs::File::options()
        .write(true)
        .open(node.path(name))
        .expect("it reads")
}

/// A `ringriftctl logs -f` that is heard.
struct Following {
    child: Child,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Following {
    fn start(node: &Node, args: &[&str]) -> Self {
        let mut child = Command::new(harness::programs::ringriftctl())
            .args(["logs", "-f", "-o", "cat", "-n", "all"])
            .args(args)
            .env("RINGRIFT_SOCKET", node.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let book = heard.clone();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                book.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Self { child, heard }
    }

    /// What was told of a unit, whose lines begin with its name.
    fn of(&self, unit: &str) -> Vec<String> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_its = |line: &&String| line.split(' ').next() == Some(unit);
        heard.iter().filter(is_its).cloned().collect()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nothing is lost and nothing comes twice while files are rotated, loggers and managers die, and units come that are meant
/// too.
#[test]
fn following_goes_on_over_rotations_deaths_and_new_units() {
    let mut node = with(with(Node::builder(), "a"), "b").start();
    let following = Following::start(&node, &[]);
    let mut pipes = vec![("a", pipe(&node, "a"), 0), ("b", pipe(&node, "b"), 0)];
    for round in 0..6 {
        for (name, pipe, next) in &mut pipes {
            // Many lines of one read have one time.
            let lines: String = (*next..*next + 60)
                .map(|n| format!("{name} {n} {round}\n"))
                .collect();
            pipe.write_all(lines.as_bytes()).expect("it reads");
            *next += 60;
        }
        match round {
            1 => drop(node.crash_manager()),
            2 => {
                let unit = copier(&node.path("c").display().to_string());
                std::fs::write(node.path("units/c.toml"), unit.to_toml()).expect("it is ours");
                node.ctl(&["daemon-reload"]).ended(0);
                node.ctl(&["start", "c"]).ended(0);
                pipes.push(("c", pipe(&node, "c"), 0));
            }
            3 | 4 => drop(node.crash_logger()),
            _ => {}
        }
        for (name, _, next) in &pipes {
            until("all lines are told", || {
                (following.of(name).len() >= *next).then_some(())
            });
        }
    }
    for (name, _, next) in &pipes {
        let said = following.of(name);
        let numbers: Vec<usize> = said
            .iter()
            .map(|line| {
                line.split(' ')
                    .nth(1)
                    .and_then(|n| n.parse().ok())
                    .expect("a number")
            })
            .collect();
        assert_eq!(numbers, (0..*next).collect::<Vec<_>>(), "{name}: {said:?}");
    }
    assert!(
        node.path("log/a.log.1.zst").exists() || node.path("log/a.log.1").exists(),
        "nothing was rotated"
    );
    drop(following);
    node.shutdown();
}

/// Lines of several units stand in the order of their times, each behind its unit's name in a colour of its own.
#[test]
fn several_units_are_interleaved_by_time_each_in_its_colour() {
    let mut node = with(with(Node::builder(), "a"), "b").start();
    let mut pipes = [("a", pipe(&node, "a")), ("b", pipe(&node, "b"))];
    let mut said = Vec::new();
    for n in 0..3 {
        for (name, pipe) in &mut pipes {
            let line = format!("{name} says {n}");
            writeln!(pipe, "{line}").expect("it reads");
            until("it is there", || {
                let all = node
                    .ctl(&["logs", name, "-o", "cat", "-n", "all"])
                    .ended(0)
                    .stdout;
                all.lines().any(|told| *told == line).then_some(())
            });
            said.push(line);
        }
    }
    let shown = node
        .ctl(&["--color", "always", "logs", "-n", "all"])
        .ended(0)
        .stdout;
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), said.len(), "{shown:?}");
    let mut colours = Vec::new();
    for (line, said) in lines.iter().zip(&said) {
        assert!(line.contains(said.as_str()), "{line:?} is not {said:?}");
        let name = &said[..1];
        let end = line
            .find(&format!("m{name}\u{1b}["))
            .unwrap_or_else(|| panic!("no coloured {name} in {line:?}"));
        let begin = line[..end].rfind('\u{1b}').expect("a colour begins");
        colours.push(line[begin..=end].to_owned());
    }
    assert!(
        colours
            .chunks(2)
            .all(|two| two[0] == colours[0] && two[1] == colours[1]),
        "{colours:?}"
    );
    assert_ne!(colours[0], colours[1], "both units have one colour");
    node.shutdown();
}
