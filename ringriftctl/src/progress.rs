//! The small block on a terminal that shows what a job waits for and why. It lives on stderr, is redrawn in place,
//! and is erased before anything else is printed, so that what stays on the screen is only the verdicts.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use proto::reply::{Event, JobPlan, State, UnitStatus, Verdict};

use crate::measure;
use crate::render::{Ink, Style, terminal_width, wants_colour};
use crate::session::{Session, state_ink, state_mark, state_word};
use crate::units::blockers;

/// How often the block is redrawn: often enough to live, rarely enough to cost nothing.
pub const REDRAW: Duration = Duration::from_millis(250);
/// Units in the block; more are counted.
const LINES: usize = 8;
/// The width when the terminal tells none.
const WIDTH: usize = 80;

#[derive(Debug)]
struct Row {
    state: Option<State>,
    why: String,
    done: bool,
}

/// The block.
#[derive(Debug)]
pub struct Progress {
    live: bool,
    style: Style,
    verb: &'static str,
    began: Instant,
    rows: BTreeMap<String, Row>,
    drawn: usize,
}

impl Progress {
    /// Live only where somebody looks: stderr a terminal that can move its cursor, and neither `-q` nor `--json`.
    pub fn new(session: &Session, verb: &'static str) -> Self {
        let env = |name: &str| std::env::var(name).ok();
        let able = env("TERM").is_some_and(|t| !t.is_empty() && t != "dumb");
        let terminal = std::io::stderr().is_terminal();
        let colour = wants_colour(session.global.color, terminal, env);
        Self {
            live: terminal && able && !session.global.quiet && !session.global.json,
            style: Style {
                colour,
                ..session.style.clone()
            },
            verb,
            began: Instant::now(),
            rows: BTreeMap::new(),
            drawn: 0,
        }
    }

    /// Whether anything is ever drawn; if not, nobody needs to ask for news.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// What was typed.
    pub fn verb(&self) -> &'static str {
        self.verb
    }

    /// The job's units.
    pub fn plan(&mut self, plan: &JobPlan) {
        for unit in plan.units.iter().chain(&plan.also) {
            // A plan that is told again takes back nothing.
            self.rows.entry(unit.clone()).or_insert_with(|| Row {
                state: None,
                why: String::new(),
                done: false,
            });
        }
    }

    /// Something happened.
    pub fn event(&mut self, event: &Event) {
        let is_there = self.is_there(event.to);
        if let Some(row) = self.rows.get_mut(&event.unit) {
            row.state = Some(event.to);
            row.done |= is_there && event.from != event.to;
            row.why = self.style.clean(&event.cause.text);
        }
    }

    /// What a unit says and waits for, fresher than the events.
    pub fn status(&mut self, unit: &UnitStatus) {
        // A unit that runs may still be about to stop for its restart: only events tell which life it is.
        let is_there = self.is_there(unit.state) && self.verb != "restart" && self.verb != "try-restart";
        if let Some(row) = self.rows.get_mut(&unit.name) {
            row.state = Some(unit.state);
            row.done |= is_there;
            if !unit.blocked_by.is_empty() {
                row.why = format!("waits for {}", blockers(&self.style, unit, true));
            } else if let Some(text) = &unit.status_text {
                row.why = format!("\"{}\"", self.style.clean(text));
            } else {
                row.why = format!(
                    "for {}",
                    measure::span(measure::now_us().saturating_sub(unit.since_us))
                );
            }
        }
    }

    /// The state that the job wants a unit in. The verdicts come together at the end; a unit that got there before is
    /// nothing that is still waited for.
    fn is_there(&self, state: State) -> bool {
        match self.verb {
            "start" | "restart" | "try-restart" => matches!(state, State::Running | State::Completed),
            "stop" => state == State::Stopped,
            _ => false,
        }
    }

    /// A unit is done with, one way or the other.
    pub fn verdict(&mut self, verdict: &Verdict) {
        if let Some(row) = self.rows.get_mut(&verdict.unit) {
            row.done = true;
        }
    }

    /// Draws the block anew.
    pub fn draw(&mut self) {
        if !self.live {
            return;
        }
        let mut text = self.erasure();
        let lines = self.lines(terminal_width().unwrap_or(WIDTH));
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        self.drawn = lines.len();
        let mut err = std::io::stderr().lock();
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }

    /// Leaves the terminal as if the block had never been.
    pub fn erase(&mut self) {
        if self.drawn > 0 {
            let text = self.erasure();
            let mut err = std::io::stderr().lock();
            let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
            self.drawn = 0;
        }
    }

    fn erasure(&self) -> String {
        if self.drawn == 0 {
            String::new()
        } else {
            format!("\x1b[{}A\r\x1b[J", self.drawn)
        }
    }

    fn lines(&self, width: usize) -> Vec<String> {
        let total = self.rows.len();
        let done = self.rows.values().filter(|r| r.done).count();
        let took = measure::duration(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let open: Vec<_> = self.rows.iter().filter(|(_, r)| !r.done).collect();
        if open.is_empty() {
            return Vec::new();
        }
        let head = format!("{}: {done} of {total} done, {took}", self.verb);
        let mut lines = vec![self.style.paint(Ink::Bold, &self.style.cut(&head, width))];
        // Those that move come before those that wait: that is what is being waited for.
        let mut shown = open.clone();
        shown.sort_by_key(|(_, r)| matches!(r.state, None | Some(State::Waiting)));
        let name_width = shown
            .iter()
            .take(LINES)
            .map(|(n, _)| n.chars().count())
            .max()
            .unwrap_or(0);
        for (name, row) in shown.iter().take(LINES) {
            let (mark, word, ink) = match row.state {
                Some(s) => (state_mark(&self.style, s), state_word(s), state_ink(s)),
                None => (self.style.pick("◌", "."), "", Ink::Dim),
            };
            let name = self.style.clean(name);
            let line = format!("{mark} {name:name_width$}  {word:9}  {}", row.why);
            lines.push(format!(
                "  {}",
                self.style.paint(ink, &self.style.cut(line.trim_end(), width - 3))
            ));
        }
        if open.len() > LINES {
            lines.push(
                self.style
                    .paint(Ink::Dim, &format!("  and {} more", open.len() - LINES)),
            );
        }
        lines
    }
}
