//! Runs `ringriftctl` as a person or a script does: with a deadline, and with an eye on its exit code.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::processes::Held;

/// The exit codes that a client may end with (the table of the command line's documentation).
pub const DOCUMENTED: [i32; 15] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 69, 70, 124, 130];

/// What a program said.
#[derive(Debug, Clone)]
pub struct Output {
    /// What was run, for messages.
    pub args: Vec<String>,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// The answer as JSON.
    ///
    /// # Panics
    /// When it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("no JSON ({why}): {self}"))
    }

    /// Every line of the answer as JSON.
    ///
    /// # Panics
    /// When one is none.
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("no JSON ({why}): {self}")))
            .collect()
    }

    /// Itself, when it ended with `code`.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Both streams together.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ended with {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.args.join(" "),
            self.code,
            self.stdout,
            self.stderr
        )
    }
}

/// Runs a program to its end.
///
/// # Panics
/// When it has not ended by then: a client always ends (G9).
pub fn run(program: &Path, args: &[&str], bound: Duration, prepare: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    prepare(&mut command);
    let mut child = command
        .spawn()
        .unwrap_or_else(|why| panic!("cannot run {}: {why}", program.display()));
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let status = wait(&mut child, bound);
    let mut words = vec![
        program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    ];
    words.extend(args.iter().map(|&arg| arg.to_owned()));
    let ended = status.is_some();
    if !ended {
        child.kill().expect("an own child can be killed");
        child.wait().expect("an own child can be waited for");
    }
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().expect("reading does not panic")).into_owned()
    };
    let output = Output {
        args: words,
        code: status.and_then(|status| status.code()),
        stdout: text(stdout),
        stderr: text(stderr),
    };
    assert!(ended, "not ended after {bound:?}: {output}");
    assert!(!output.stderr.contains("panicked at"), "G7: {output}");
    output
}

fn drain(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Waits for a child's end; `None` when `bound` passed first.
pub fn wait(child: &mut Child, bound: Duration) -> Option<ExitStatus> {
    if let Some(held) = Held::open(child.id() as i32)
        && !held.wait(bound)
    {
        return None;
    }
    child.wait().ok()
}
