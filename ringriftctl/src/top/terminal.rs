//! The terminal, taken and given back whole: on the way out, on a signal, and in a panic of any thread.
//!
//! It may take nothing for as long as it likes (a stopped ssh, a screen that nobody reads). Whoever writes to it waits outside
//! the kernel then, and so can still leave: what was painted and is not shown is thrown away, and the way back is written in its
//! place.
//!
//! SIGKILL cannot be caught: after one, `reset` is the way back, as for every program of this kind.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{FlushArg, tcflush};
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::queue;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

use crate::stop::{self, Stop};

/// This program has the terminal.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// It is to be left: nobody waits any longer for it to take a picture.
static LEAVING: AtomicBool = AtomicBool::new(false);

/// How long a terminal that takes nothing is waited for when it is given back.
const THAW: Duration = Duration::from_secs(1);
/// How often whoever waits for it looks whether it is to be left, in ms.
const LOOK_MS: u16 = 50;

/// From now on nothing waits for a terminal that takes nothing.
pub fn leave() {
    LEAVING.store(true, Ordering::SeqCst);
}

/// The program was told to leave.
pub fn is_leaving() -> bool {
    LEAVING.load(Ordering::SeqCst)
}

/// The way to the terminal. What is written goes there when it is flushed; when the terminal takes no more of it and the program
/// is to leave, that fails with `WouldBlock`.
#[derive(Debug)]
pub struct Way {
    file: File,
    waiting: Vec<u8>,
}

impl Way {
    /// Opens it, through an open file of its own: others who have the terminal go on waiting in theirs.
    pub fn open() -> std::io::Result<Self> {
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let own = OpenOptions::new()
            .write(true)
            .custom_flags(flags.bits())
            .open("/proc/self/fd/1");
        let file = match own {
            Ok(file) => file,
            // Another user's terminal (su), or no /proc: its writers wait.
            Err(_) => File::from(std::io::stdout().as_fd().try_clone_to_owned()?),
        };
        Ok(Self {
            file,
            waiting: Vec::new(),
        })
    }

    /// Puts all of it there, however long that takes; gives up when it takes nothing and `is_enough`.
    fn put(&mut self, mut bytes: &[u8], is_enough: impl Fn() -> bool) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => bytes = bytes.get(taken..).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if is_enough() {
                        return Err(e);
                    }
                    let mut room = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
                    match poll(&mut room, PollTimeout::from(LOOK_MS)) {
                        Ok(_) | Err(nix::Error::EINTR) => {}
                        Err(e) => return Err(Error::from(e)),
                    }
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Puts the way back there, in the place of what the terminal does not take.
    fn put_back(&mut self, back: &[u8]) -> std::io::Result<()> {
        let since = Instant::now();
        match self.put(back, || since.elapsed() >= THAW) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                tcflush(&self.file, FlushArg::TCOFLUSH)?;
                self.put(back, || true)
            }
            done => done,
        }
    }
}

impl Write for Way {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let bytes = std::mem::take(&mut self.waiting);
        if !TAKEN.load(Ordering::SeqCst) {
            // What is painted when it is given back (the screen's own last words among it) would wait for it again.
            return Ok(());
        }
        self.put(&bytes, is_leaving)
    }
}

/// Holds the terminal; gives it back when dropped.
#[derive(Debug)]
pub struct Taken(());

/// Takes the terminal: no echo, no line at a time, the other screen.
pub fn take() -> Result<Taken, Stop> {
    let cannot = |e: Error| Stop::new(stop::FAILED, format!("cannot use this terminal: {e}"));
    let mut way = Way::open().map_err(cannot)?;
    TAKEN.store(true, Ordering::SeqCst);
    let taken = Taken(());
    enable_raw_mode().map_err(cannot)?;
    queue!(way, EnterAlternateScreen, Hide).map_err(cannot)?;
    way.flush().map_err(cannot)?;
    Ok(taken)
}

/// Gives it back, once; without it nothing happens.
pub fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let mut back = Vec::new();
        // A terminal that has gone away takes nothing back.
        let _ = queue!(back, LeaveAlternateScreen, Show);
        let _ = Way::open().and_then(|mut way| way.put_back(&back));
        let _ = disable_raw_mode();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
    }
}

/// From now on a panic of any thread gives the terminal back before it is told, and ends the program: a screen on which
/// only a part still lives would lie.
pub fn give_back_in_a_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        give_back();
        tell(info);
        std::process::exit(i32::from(stop::BUG));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::Command;

    /// Not a test by itself: what [`a_panic_leaves_the_terminal_whole`] runs in a process and on a terminal of its own.
    #[test]
    #[ignore = "ends its process"]
    fn panics_on_a_terminal() {
        if std::env::var_os("RINGRIFT_TEST_PANICS").is_none() {
            return;
        }
        let _taken = take().expect("a terminal");
        give_back_in_a_panic();
        // As a thread of top's would.
        let _ = std::thread::spawn(|| panic!("made up by a test")).join();
        std::process::exit(0);
    }

    #[test]
    fn a_panic_leaves_the_terminal_whole() {
        let pty = nix::pty::openpty(None, None).expect("a terminal");
        let before = nix::sys::termios::tcgetattr(&pty.slave).expect("flags");
        let slave = || pty.slave.try_clone().expect("a descriptor");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "top::terminal::tests::panics_on_a_terminal",
            ])
            .env("RINGRIFT_TEST_PANICS", "1")
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .expect("runs");
        let mut master = std::fs::File::from(pty.master);
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut chunk = [0; 4096];
            // Linux ends a terminal that nobody holds with EIO.
            while let Ok(n @ 1..) = master.read(&mut chunk) {
                text.extend_from_slice(&chunk[..n]);
            }
            String::from_utf8_lossy(&text).into_owned()
        });
        let status = child.wait().expect("it ends");
        let after = nix::sys::termios::tcgetattr(&pty.slave).expect("flags");
        drop(pty.slave);
        let text = reader.join().expect("reading does not panic");
        assert_eq!(status.code(), Some(i32::from(stop::BUG)), "{text}");
        assert_eq!(before, after, "{text}");
        let (entered, left) = (text.find("\x1b[?1049h"), text.find("\x1b[?1049l"));
        assert!(entered.is_some() && left > entered, "{text:?}");
        let told = text.find("made up by a test");
        assert!(told > left, "told where it can be read: {text:?}");
        assert!(text.rfind("\x1b[?25h") > entered, "the cursor is back: {text:?}");
    }
}
