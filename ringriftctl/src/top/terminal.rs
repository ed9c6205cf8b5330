//! The terminal, taken and given back whole: on the way out, on a signal, and in a panic of any thread.
//!
//! SIGKILL cannot be caught: after one, `reset` is the way back, as for every program of this kind.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

use crate::stop::{self, Stop};

/// This program has the terminal.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Holds the terminal; gives it back when dropped.
#[derive(Debug)]
pub struct Taken(());

/// Takes the terminal: no echo, no line at a time, the other screen.
pub fn take() -> Result<Taken, Stop> {
    let cannot = |e: std::io::Error| Stop::new(stop::FAILED, format!("cannot use this terminal: {e}"));
    TAKEN.store(true, Ordering::SeqCst);
    let taken = Taken(());
    enable_raw_mode().map_err(cannot)?;
    execute!(std::io::stdout(), EnterAlternateScreen, Hide).map_err(cannot)?;
    Ok(taken)
}

/// Gives it back, once; without it nothing happens.
pub fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let mut stdout = std::io::stdout();
        // A terminal that has gone away takes nothing back.
        let _ = execute!(stdout, LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = stdout.flush();
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
