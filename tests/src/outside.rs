//! What a test does to a daemon from outside with the system's own tools: system calls that fail or kill (strace), and
//! files that only the daemon sees otherwise (a mount namespace of its own).
//!
//! Read first: [`Strace`] and [`Namespace`].

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use crate::processes::Held;

/// strace(1), attached to a running process.
#[derive(Debug)]
pub struct Strace {
    child: Child,
    said: BufReader<ChildStderr>,
    trace: PathBuf,
}

impl Strace {
    /// Attaches it with these arguments; it writes to `trace`. `threads` as well, or only the one process (whose children
    /// then stay untraced).
    ///
    /// # Panics
    /// When it cannot.
    #[track_caller]
    pub fn attach(pid: i32, threads: bool, args: &[&str], trace: &Path) -> Self {
        let mut command = Command::new("strace");
        command.args(args).arg("-o").arg(trace);
        if threads {
            command.arg("-f");
        }
        command.args(["-p", &pid.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("strace is there");
        let stderr = child.stderr.take().expect("it was asked for");
        let mut said = BufReader::new(stderr);
        let mut line = String::new();
        said.read_line(&mut line).expect("a pipe can be read");
        assert!(
            line.contains("attached"),
            "strace did not attach to {pid}: {line}"
        );
        Self {
            child,
            said,
            trace: trace.to_owned(),
        }
    }

    /// True once it has ended because the process that it watched has.
    pub fn has_ended(&mut self, bound: Duration) -> bool {
        Held::open(self.child.id() as i32).is_none_or(|held| held.wait(bound))
    }

    /// Lets the process go, and returns what was traced.
    ///
    /// # Panics
    /// When strace does not end.
    pub fn detach(mut self) -> String {
        self.end();
        std::fs::read_to_string(&self.trace).unwrap_or_default()
    }

    fn end(&mut self) {
        if let Some(held) = Held::open(self.child.id() as i32) {
            held.signal(libc::SIGINT);
            held.wait(crate::PATIENCE);
        }
        let _ = self.child.wait();
        let _ = self.said.read_to_string(&mut String::new());
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        self.end();
    }
}

/// How often each call was begun, by the thread that did so most often: what `when=N` of strace counts.
pub fn calls(trace: &str) -> BTreeMap<String, u32> {
    let mut by_thread: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in trace.lines() {
        // With -f: `PID call(…`; else `call(…`.
        let (thread, rest) = match line.split_once(char::is_whitespace) {
            Some((pid, rest)) if pid.bytes().all(|b| b.is_ascii_digit()) => (pid, rest.trim_start()),
            _ => ("", line),
        };
        let Some((call, _)) = rest.split_once('(') else {
            continue;
        };
        if !call.is_empty() && call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            *by_thread.entry((thread, call)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<String, u32> = BTreeMap::new();
    for ((_, call), count) in by_thread {
        let best = most.entry(call.to_owned()).or_default();
        *best = count.max(*best);
    }
    most
}

/// A mount namespace, kept alive by a process of its own.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Makes one and runs `setup` in it, a script for sh(1). `None` when this process may not.
    pub fn new(setup: &str) -> Option<Self> {
        let script = format!("set -e\n{setup}\necho ready\nexec cat");
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let told = holder.stdout.take().map(BufReader::new)?.read_line(&mut line);
        let namespace = Self { holder };
        (told.is_ok() && line == "ready\n").then_some(namespace)
    }

    /// The words before a command that is to run in it; they end in execve(2), so that the pid stays.
    pub fn prefix(&self) -> Vec<String> {
        let pid = self.holder.id().to_string();
        ["nsenter", "-t", &pid, "-m", "--"].map(str::to_owned).to_vec()
    }

    /// A path of the namespace as it is reached from here.
    pub fn path(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        Path::new(&root).join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // cat ends with its input.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
