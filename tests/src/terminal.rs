//! A terminal of a test's own: a program runs on it as its controlling terminal, and what it writes becomes a screen that
//! can be looked at, waited for and drawn as a picture.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{Termios, tcgetattr};

use crate::PATIENCE;

/// A size that is one.
fn some(size: u16) -> NonZeroU16 {
    NonZeroU16::new(size).expect("a terminal has a size")
}

/// A program on a terminal.
pub struct Terminal {
    /// The program.
    pub child: Child,
    master: File,
    /// Held, so that the terminal and its flags outlive the program.
    slave: OwnedFd,
    written: Receiver<Vec<u8>>,
    parser: vt100::Parser,
    before: Termios,
    /// Whoever has it keeps the terminal from being read.
    reading: Arc<Mutex<()>>,
}

impl Terminal {
    /// Runs `command` on a terminal of this size.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn run(mut command: Command, columns: u16, rows: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).expect("a terminal");
        let before = tcgetattr(&pty.slave).expect("a terminal has flags");
        let slave = || pty.slave.try_clone().expect("a descriptor");
        command
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave());
        // SAFETY: between fork and exec only two system calls are made, neither of which allocates.
        unsafe {
            command.pre_exec(|| {
                // SAFETY: no arguments; fails only for the leader of a group, which a fresh child is not.
                if libc::setsid() < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // SAFETY: descriptor 0 is the terminal, and the request takes no pointer.
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the program runs");
        // The command keeps descriptors of the terminal.
        drop(command);
        let master = File::from(pty.master);
        let mut reader = master.try_clone().expect("a descriptor");
        let (tell, written) = channel();
        let reading = Arc::new(Mutex::new(()));
        let may_read = Arc::clone(&reading);
        std::thread::spawn(move || {
            let mut chunk = [0; 8192];
            while let Ok(read @ 1..) = reader.read(&mut chunk) {
                drop(may_read.lock());
                if tell.send(chunk[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            master,
            slave: pty.slave,
            written,
            parser: vt100::Parser::new(some(rows), some(columns), 0),
            before,
            reading,
        }
    }

    /// While this is locked, nothing more is read of it, but for one last piece: as by an ssh that is stopped.
    pub fn reading(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.reading)
    }

    /// Nothing more goes in before somebody reads.
    ///
    /// # Panics
    /// When the kernel does not tell.
    pub fn is_full(&self) -> bool {
        let mut room = [PollFd::new(self.slave.as_fd(), PollFlags::POLLOUT)];
        poll(&mut room, PollTimeout::ZERO).expect("a terminal can be looked at") == 0
    }

    /// What is on the screen now.
    pub fn text(&self) -> String {
        self.parser.screen().contents()
    }

    /// The screen itself.
    pub fn screen(&self) -> &vt100::Screen {
        self.parser.screen()
    }

    /// Waits until the screen is as wanted.
    ///
    /// # Panics
    /// When it is not within [`PATIENCE`].
    #[track_caller]
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&vt100::Screen) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !wanted(self.parser.screen()) {
            let left = until.saturating_duration_since(Instant::now());
            match self.written.recv_timeout(left) {
                Ok(bytes) => self.parser.process(&bytes),
                Err(why) => panic!(
                    "waited in vain ({why}) for {what} on this screen:\n{}",
                    self.text()
                ),
            }
        }
    }

    /// Waits until these words are on the screen.
    ///
    /// # Panics
    /// When they are not within [`PATIENCE`].
    #[track_caller]
    pub fn wait_for(&mut self, words: &str) {
        self.wait(words, |screen| screen.contents().contains(words));
    }

    /// Shows nothing, as after a broken line: only what is written anew will be there.
    pub fn forget(&mut self) {
        self.parser.process(b"\x1b[2J");
    }

    /// Types.
    ///
    /// # Panics
    /// When the terminal takes nothing.
    pub fn keys(&mut self, keys: &str) {
        self.master
            .write_all(keys.as_bytes())
            .expect("a terminal takes keys");
    }

    /// Makes it another size.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the descriptor is open, and the pointer is to a whole size that outlives the call.
        let done = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0, "a terminal can be resized");
        self.parser.screen_mut().set_size(some(rows), some(columns));
    }

    /// Waits for the program's end, and takes in the last that it wrote: its exit code.
    ///
    /// # Panics
    /// When it does not end, or by a signal.
    #[track_caller]
    pub fn end(&mut self) -> i32 {
        let status = crate::ctl::wait(&mut self.child, PATIENCE).expect("it ends");
        // What it wrote before it ended is in the terminal's buffer already: a mark behind it says when all was read.
        let mark = "\u{1}the end\u{1}";
        let mut slave = File::from(self.slave.try_clone().expect("a descriptor"));
        slave.write_all(mark.as_bytes()).expect("a terminal takes a mark");
        let mut rest = Vec::new();
        while !rest.ends_with(mark.as_bytes()) {
            let bytes = self.written.recv_timeout(PATIENCE).expect("the mark comes back");
            rest.extend_from_slice(&bytes);
        }
        rest.truncate(rest.len() - mark.len());
        self.parser.process(&rest);
        status.code().expect("it exits")
    }

    /// Holds the terminal to what it was before the program: its flags, its usual screen, its cursor.
    ///
    /// # Panics
    /// When one is not.
    #[track_caller]
    pub fn assert_whole(&self) {
        let after = tcgetattr(&self.slave).expect("a terminal has flags");
        assert_eq!(self.before, after, "the flags are as they were");
        let screen = self.parser.screen();
        assert!(!screen.alternate_screen(), "the usual screen is back");
        assert!(!screen.hide_cursor(), "the cursor is back");
    }

    /// The screen as a picture.
    pub fn svg(&self) -> String {
        let (rows, columns) = self.parser.screen().size();
        let (rows, columns) = (rows.get(), columns.get());
        let (wide, high) = (8.4, 18.0);
        let (width, height) = (f64::from(columns) * wide + 24.0, f64::from(rows) * high + 24.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"DejaVu Sans Mono, \
             Menlo, Consolas, monospace\" font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#11151c\"/>\n"
        );
        for row in 0..rows {
            let y = 12.0 + f64::from(row) * high;
            let mut column = 0;
            while column < columns {
                let Some(first) = self.parser.screen().cell(row, column) else {
                    break;
                };
                let look = |cell: &vt100::Cell| (cell.fgcolor(), cell.bold(), cell.dim(), cell.inverse());
                let begin = column;
                let mut text = String::new();
                while let Some(cell) = self
                    .parser
                    .screen()
                    .cell(row, column)
                    .filter(|c| look(c) == look(first))
                {
                    text.push_str(if cell.has_contents() { cell.contents() } else { " " });
                    column += 1;
                }
                let (colour, is_bold, is_dim, is_inverse) = look(first);
                let x = 12.0 + f64::from(begin) * wide;
                let ink = match (is_inverse, colour) {
                    (true, _) => "#11151c",
                    (_, vt100::Color::Idx(1 | 9)) => "#ff7b72",
                    (_, vt100::Color::Idx(2 | 10)) => "#7ee787",
                    (_, vt100::Color::Idx(3 | 11)) => "#f2cc60",
                    _ if is_dim => "#8b949e",
                    _ => "#e6edf3",
                };
                let span = f64::from(column - begin) * wide;
                if is_inverse {
                    svg.push_str(&format!(
                        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{span:.1}\" height=\"{high}\" fill=\"#c9d1d9\"/>\n"
                    ));
                }
                if text.trim().is_empty() {
                    continue;
                }
                let kept = text.trim_end();
                let long = kept.chars().count() as f64 * wide;
                let text = kept
                    .replace('&', "&amp;")
                    .replace('<', "&lt;")
                    .replace(' ', "\u{a0}");
                let weight = if is_bold { " font-weight=\"bold\"" } else { "" };
                svg.push_str(&format!(
                    "<text x=\"{x:.1}\" y=\"{:.1}\" fill=\"{ink}\" textLength=\"{long:.1}\"{weight}>{text}</text>\n",
                    y + 13.5
                ));
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind; an ended child is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
