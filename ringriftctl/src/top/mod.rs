//! `top`: the live table. One loop owns the screen; keys, signals and news of the daemon come to it through one [`mailbox`] from
//! threads of their own, so that no slow answer holds up a key. Only [`model`] decides, only [`draw`] paints.
//!
//! Reads by events and a question a second; changes something only after a `y`.

pub mod canvas;
pub mod draw;
pub mod link;
pub mod mailbox;
pub mod model;
pub mod panes;
pub mod rows;
pub mod terminal;
pub mod types;

#[cfg(test)]
mod tests;

use std::io::{ErrorKind, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::Terminal;
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::crossterm::event::{self, Event};
use ratatui::layout::Rect;

use crate::measure;
use crate::render::Style;
use crate::session::Session;
use crate::stop::{self, Stop};
use link::Link;
use mailbox::{Sender, mailbox};
use model::Model;
use types::{Effect, News};

/// How long the screen may stand still: ages count up.
const REDRAW: Duration = Duration::from_secs(1);
/// Commands under way at once.
const ORDERS_MAX: usize = 8;

/// Shows the table until the operator leaves.
pub fn run(session: &mut Session) -> Result<u8, Stop> {
    let is_dumb = std::env::var("TERM").is_ok_and(|t| t == "dumb");
    let has_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if !has_terminal || is_dumb || session.global.json {
        return Err(
            Stop::usage("top draws on a terminal, and there is none here").hint(
                "ringriftctl status says the same once; status --json and events --json are for programs",
            ),
        );
    }
    let first = {
        let mut client = session.connect()?;
        (client.is_quiet, client.warns) = (true, false);
        client
    };
    // Before any thread begins, so that all of them leave signals to the one that reads them.
    let signals =
        signals().map_err(|e| Stop::new(stop::FAILED, format!("cannot watch for signals: {}", e.desc())))?;
    let style = session.style.clone();
    let (news, heard) = mailbox();
    // One that waits says as much as many.
    let (nudge, nudges) = sync_channel(1);
    let link = Link {
        socket: Some(first.socket.clone()),
        news: news.clone(),
        style: style.clone(),
        followed: Arc::new(AtomicU64::new(0)),
        asks_for_all: Arc::new(AtomicBool::new(false)),
    };
    terminal::give_back_in_a_panic();
    let signalled = news.clone();
    std::thread::spawn(move || read_signals(&signals, &signalled));
    let taken = terminal::take()?;
    let cannot = |e: std::io::Error| Stop::new(stop::FAILED, format!("cannot draw on this terminal: {e}"));
    let way = terminal::Way::open().map_err(cannot)?;
    let mut screen = Terminal::new(CrosstermBackend::new(way)).map_err(cannot)?;
    let watcher = link.clone();
    std::thread::spawn(move || watcher.watch(first, &nudges));
    std::thread::spawn(move || read_keys(&news));

    let mut model = Model::new(measure::now_us());
    let mut code = stop::OK;
    'screen: loop {
        model.now_us = measure::now_us();
        let style = Style {
            now_us: model.now_us,
            ..style.clone()
        };
        let drawn = screen.draw(|frame| draw::draw(&mut model, &style, frame.area(), frame.buffer_mut()));
        if let Err(e) = drawn {
            if e.kind() == ErrorKind::WouldBlock && terminal::is_leaving() {
                code = stop::INTERRUPTED;
                break 'screen;
            }
            return Err(cannot(e));
        }
        // Everything that has come is taken in before the next picture.
        let came = heard.take(REDRAW);
        model.now_us = measure::now_us();
        for came in came {
            if matches!(came, News::Signalled) {
                code = stop::INTERRUPTED;
            }
            if let News::NoTerminal(why) = &came {
                drop(taken);
                return Err(Stop::new(
                    stop::FAILED,
                    format!("cannot read this terminal: {why}"),
                ));
            }
            for effect in model.hear(came) {
                match effect {
                    Effect::Quit => break 'screen,
                    Effect::Suspend => {
                        terminal::give_back();
                        raise(Signal::SIGTSTP)
                            .map_err(|e| Stop::new(stop::FAILED, format!("cannot stop: {}", e.desc())))?;
                        // Back by `fg`. The first guard still gives back whatever is taken.
                        std::mem::forget(terminal::take()?);
                        repaint(&mut screen).map_err(cannot)?;
                    }
                    Effect::Repaint => repaint(&mut screen).map_err(cannot)?,
                    Effect::Refresh => {
                        // A watcher that has ended has said why.
                        let _ = nudge.try_send(());
                    }
                    Effect::AskForAll(all) => {
                        link.asks_for_all.store(all, Ordering::SeqCst);
                        let _ = nudge.try_send(());
                    }
                    Effect::Send(order) if model.under_way > ORDERS_MAX => {
                        let text = format!("{} {}: too much is under way", order.verb.word(), order.unit);
                        model.hear(News::Done { is_well: false, text });
                    }
                    Effect::Send(order) => with(&link, move |link| link.send(&order)),
                    Effect::Ask(unit) => with(&link, move |link| link.ask(&unit)),
                    Effect::Follow(unit) => {
                        let number = link.followed.fetch_add(1, Ordering::SeqCst) + 1;
                        if let Some(unit) = unit {
                            with(&link, move |link| link.follow(&unit, number));
                        }
                    }
                }
            }
        }
    }
    drop(taken);
    Ok(code)
}

/// Has the next picture drawn whole. `Terminal::clear` would ask the terminal where its cursor is, and the thread that
/// reads keys would get the answer.
fn repaint<B: Backend>(screen: &mut Terminal<B>) -> Result<(), B::Error> {
    let size = screen.size()?;
    screen.resize(Rect::new(0, 0, size.width, size.height))
}

fn with(link: &Link, work: impl FnOnce(&Link) + Send + 'static) {
    let link = link.clone();
    std::thread::spawn(move || work(&link));
}

fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGHUP);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)
}

fn read_signals(signals: &SignalFd, news: &Sender) {
    if signals.read_signal().is_ok() {
        // First: while the terminal takes nothing, nobody takes news either.
        terminal::leave();
        // A loop that is gone has left already.
        let _ = news.send(News::Signalled);
    }
}

fn read_keys(news: &Sender) {
    loop {
        let came = match event::read() {
            Ok(Event::Key(key)) => News::Key(key),
            Ok(Event::Resize(..)) => News::Resized,
            Ok(_) => continue,
            Err(error) => News::NoTerminal(error.to_string()),
        };
        let is_end = matches!(came, News::NoTerminal(_));
        if news.send(came).is_err() || is_end {
            return;
        }
    }
}
