//! Faults put into a running process's system calls by strace(1).

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::processes::{self, Held};
use crate::until;

/// How long strace may take to let a process go before it is killed.
const DETACH: Duration = Duration::from_secs(10);

/// strace on a process. Dropping it lets the process go.
#[derive(Debug)]
pub struct Strace(Child);

impl Strace {
    /// Attaches to a process with all its threads; `inject` is strace's own word for it, such as
    /// `execve:error=ENOENT:when=1`.
    ///
    /// # Panics
    /// When strace cannot attach.
    pub fn attach(pid: i32, inject: &str) -> Self {
        Self::begin(pid, inject, None)
    }

    /// The same for calls on one file only.
    ///
    /// # Panics
    /// When strace cannot attach.
    pub fn attach_on_file(pid: i32, inject: &str, file: &Path) -> Self {
        Self::begin(pid, inject, Some(file))
    }

    fn begin(pid: i32, inject: &str, file: Option<&Path>) -> Self {
        let calls = inject.split(':').next().expect("an injection names its call");
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null"]);
        command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={inject}")]);
        if let Some(file) = file {
            command.arg("-P").arg(file);
        }
        let child = command
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is here");
        until("strace has attached", || {
            processes::status_number(pid, "TracerPid")
                .filter(|tracer| *tracer != 0)
                .map(|_| ())
        });
        Self(child)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if let Some(held) = Held::open(self.0.id() as i32) {
            held.signal(libc::SIGTERM);
            // One that misses a stop of its tracee waits for ever, and with it the tracee; a dead one lets it go.
            if !held.wait(DETACH) {
                held.signal(libc::SIGKILL);
            }
        }
        let _ = self.0.wait();
    }
}
