//! A terminal for the programs under test.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};

/// The longest that any conversation of a test may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How wide one is that nobody gave a size.
pub const COLUMNS: u16 = 72;

/// A program on a terminal of its own.
pub struct Terminal {
    pub child: std::process::Child,
    pub master: File,
    shown: Receiver<Vec<u8>>,
    /// What it wrote so far.
    pub text: String,
}

impl Terminal {
    pub fn run(command: Command) -> Self {
        Self::sized(command, COLUMNS, 40)
    }

    /// One of this size.
    pub fn sized(mut command: Command, columns: u16, rows: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).expect("a terminal");
        if command.get_envs().all(|(name, _)| name != "TERM") {
            command.env("TERM", "xterm");
        }
        let slave = || pty.slave.try_clone().expect("a descriptor");
        let child = command
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .expect("runs");
        // The command keeps descriptors of the terminal; with them gone, its end is the program's end.
        drop(command);
        drop(pty.slave);
        let master = File::from(pty.master);
        let mut reader = master.try_clone().expect("a descriptor");
        let (tell, shown) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Linux ends a terminal that nobody holds with EIO.
            while let Ok(read @ 1..) = reader.read(&mut chunk) {
                if tell.send(chunk[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            master,
            shown,
            text: String::new(),
        }
    }

    /// Waits until this text was shown.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.text.contains(text) {
            let left = until.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
                Err(e) => panic!("{text:?} was not shown ({e}): {:?}", self.text),
            }
        }
    }

    pub fn enter(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("typed");
    }

    pub fn interrupt(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("signalled");
    }

    /// Waits for the end: the exit code, and everything that was ever shown.
    pub fn end(mut self) -> (i32, String) {
        while let Ok(bytes) = self.shown.recv_timeout(PATIENCE) {
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
        let status = self.child.wait().expect("ends");
        (status.code().expect("it exits"), self.text)
    }
}
