//! A ringriftd that is PID 1 of namespaces of its own, as in a container, on the folders of a prepared [`Node`]. Its
//! control socket lies in the node's folder, so that the node's clients reach it from outside; the pids that it tells are
//! those inside.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::unistd::chown;

use crate::node::walk;
use crate::processes::{self, Held, Process};
use crate::{Node, PATIENCE, programs, until};

/// The user without rights that runs a container.
pub const NOBODY: u32 = 65534;

/// Whose ringriftd it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// root, with all rights in its namespaces.
    Root,
    /// A user without rights, as with `docker run --user`.
    User,
    /// root of a user namespace that belongs to a user without rights, as in a rootless container.
    RootlessRoot,
}

/// A container in the making.
#[derive(Debug)]
pub struct Container<'a> {
    node: &'a Node,
    who: Who,
    setup: String,
    places: Vec<String>,
}

/// A container that runs. Dropping it ends everything in it.
#[derive(Debug)]
pub struct Contained {
    unshare: Child,
    init: Held,
    /// PID 1 of the container, as it is known outside.
    pub pid: i32,
}

impl<'a> Container<'a> {
    /// A container over a node that was prepared and whose daemon was not started.
    pub fn new(node: &'a Node, who: Who) -> Self {
        Self {
            node,
            who,
            setup: String::new(),
            places: node.places(),
        }
    }

    /// Lines of sh(1) that are run in the new namespaces as their root, before ringriftd.
    pub fn setup(mut self, lines: &str) -> Self {
        self.setup.push_str(lines);
        self.setup.push('\n');
        self
    }

    /// No /sys/fs/cgroup.
    pub fn without_cgroups(self) -> Self {
        self.setup("mount -t tmpfs -o ro,size=4k masked /sys/fs/cgroup")
    }

    /// Nothing can be written to but these of the node's folders.
    pub fn read_only_but(mut self, writable: &[&str]) -> Self {
        for name in ["run", "state", "log"] {
            let path = self.node.path(name);
            let path = path.display();
            let mode = if writable.contains(&name) { "rw" } else { "ro" };
            self.setup += &format!("mount --bind {path} {path}; mount -o remount,bind,{mode} {path}\n");
        }
        self.setup("mount -o remount,bind,ro /")
    }

    /// Without the flags that say where state, logs and socket are.
    pub fn places_by_default(mut self) -> Self {
        let mut kept = Vec::new();
        let mut words = std::mem::take(&mut self.places).into_iter();
        while let (Some(flag), Some(value)) = (words.next(), words.next()) {
            if !flag.ends_with("-dir") {
                kept.extend([flag, value]);
            }
        }
        self.places = kept;
        self
    }

    /// Starts it, and waits for PID 1 to be ringriftd.
    ///
    /// # Panics
    /// When that does not come about.
    #[track_caller]
    pub fn start(self) -> Contained {
        let (unshare, node) = (self.spawn(), self.node);
        let id = unshare.id() as i32;
        let is_daemon =
            |p: &Process| p.is_alive() && p.argv.first().is_some_and(|arg| arg.ends_with("ringriftd"));
        let pid = until("ringriftd is PID 1", || {
            let ended = !Process::read(id).is_some_and(|p| p.is_alive());
            assert!(!ended, "the container was not made:\n{}", node.stderr());
            Some(processes::children(id).into_iter().find(is_daemon)?.pid)
        });
        let init = Held::open(pid).expect("it is held by its parent until that one ends");
        Contained { unshare, init, pid }
    }

    /// Starts it, and waits for its end: it is one that cannot come up.
    ///
    /// # Panics
    /// When it has not ended in time.
    #[track_caller]
    pub fn run_to_end(self) -> ExitStatus {
        let mut unshare = self.spawn();
        let ended = crate::ctl::wait(&mut unshare, PATIENCE);
        if ended.is_none() {
            let _ = unshare.kill();
            let _ = unshare.wait();
        }
        ended.unwrap_or_else(|| panic!("it has not ended:\n{}", self.node.stderr()))
    }

    fn spawn(&self) -> Child {
        let stderr = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.node.path("stderr"))
            .expect("the node's folder takes files");
        let user = NOBODY.to_string();
        let become_user = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];
        let unshare = [
            "unshare",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--mount-proc",
        ];
        let script = format!("set -e\nmount --make-rprivate /\n{}exec \"$@\"", self.setup);
        let mut words: Vec<&str> = Vec::new();
        if self.who == Who::RootlessRoot {
            words.extend(become_user);
        }
        words.extend(unshare);
        if self.who == Who::RootlessRoot {
            words.extend(["--user", "--map-root-user"]);
        }
        words.extend(["sh", "-c", &script, "sh"]);
        if self.who == Who::User {
            words.extend(become_user);
        }
        if self.who != Who::Root {
            own(self.node);
        }
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg(programs::ringriftd())
            .args(&self.places);
        // As `docker run` leaves it: next to nothing.
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("RINGRIFT_HTTP", "off")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(stderr.try_clone().expect("a descriptor is left"))
            .stderr(stderr);
        command.spawn().expect("unshare and setpriv are there")
    }
}

/// Gives the node's folders to the user without rights.
fn own(node: &Node) {
    let user = Some(nix::unistd::Uid::from_raw(NOBODY));
    let group = Some(nix::unistd::Gid::from_raw(NOBODY));
    for name in ["run", "state", "log", "units", "profiles", "ringriftd.toml"] {
        let path = node.path(name);
        chown(&path, user, group).expect("the test is root");
        if path.is_dir() {
            for file in walk(&path) {
                chown(&file, user, group).expect("the test is root");
            }
        }
    }
    assert!(
        Path::new("/proc/self/ns/user").exists(),
        "the kernel has user namespaces"
    );
}

impl Contained {
    /// Sends PID 1 a signal from outside.
    ///
    /// # Panics
    /// When it has ended.
    #[track_caller]
    pub fn signal(&self, signal: i32) {
        assert!(self.init.signal(signal), "the container has ended");
    }

    /// Waits for the container's end; its exit code.
    ///
    /// # Panics
    /// When it has not come in time.
    #[track_caller]
    pub fn wait_end(mut self) -> Option<i32> {
        assert!(self.init.wait(PATIENCE), "the container has not ended");
        crate::ctl::wait(&mut self.unshare, PATIENCE)
            .expect("unshare ends with its child")
            .code()
    }

    /// Runs a program inside, as `docker exec` does.
    pub fn exec(&self, argv: &[&str]) -> Child {
        Command::new("nsenter")
            .args(["--target", &self.pid.to_string(), "--pid", "--mount"])
            .args(argv)
            .env("RR_INSIDE", self.pid.to_string())
            .stdin(Stdio::null())
            .spawn()
            .expect("nsenter is there")
    }

    /// The same, to its end; both streams.
    pub fn exec_output(&self, argv: &[&str]) -> String {
        let pid = self.pid.to_string();
        let mut words = vec!["--target", &pid, "--pid", "--mount"];
        words.extend(argv);
        crate::ctl::run(Path::new("nsenter"), &words, PATIENCE, |command| {
            command.env("NO_COLOR", "1");
        })
        .text()
    }

    /// PID 1 has ended.
    pub fn has_ended(&self) -> bool {
        self.init.wait(Duration::ZERO)
    }

    /// The children of PID 1, zombies among them.
    pub fn children(&self) -> Vec<Process> {
        processes::children(self.pid)
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        // The kernel ends a namespace with its PID 1.
        self.init.signal(libc::SIGKILL);
        self.init.wait(Duration::from_secs(10));
        let _ = self.unshare.wait();
    }
}
