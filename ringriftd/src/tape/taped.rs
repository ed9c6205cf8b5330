//! The engine as the manager has it: everything that changes it goes through here, and is recorded where that is asked
//! for. Reading it costs nothing and is not recorded.

use std::ops::Deref;
use std::sync::Arc;

use proto::reply::State as Word;

use super::types::{From, Input};
use super::write::Tape;
use crate::config::FileSet;
use crate::engine::Engine;
use crate::engine::snapshot::Delta;
use crate::engine::types::{Action, Event, Mono};
use crate::spec::UnitName;

/// The engine, with its recording if there is one.
#[derive(Debug)]
pub struct Taped {
    engine: Engine,
    /// Its seed, as long as it is as [`Engine::new`] made it.
    fresh: Option<u64>,
    is_paused: bool,
    /// It was told something since it was made or restored.
    is_told: bool,
    /// It was loaded or resumed since. Before that, but told already, it is more than can be restored: it knows what was
    /// asked for by somebody else.
    is_under_way: bool,
    /// What it runs by.
    files: Arc<FileSet>,
    /// What it is told of next.
    next_files: Arc<FileSet>,
    profiles: Vec<String>,
    tape: Option<Tape>,
    /// Why there is none.
    trouble: Option<String>,
}

impl Deref for Taped {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Taped {
    /// An engine without units, recorded on `tape` where that could be opened. `profiles` are those of the
    /// command line.
    pub fn new(seed: u64, profiles: Vec<String>, tape: Option<Result<Tape, String>>) -> Self {
        let (tape, trouble) = match tape {
            Some(Ok(tape)) => {
                tracing::info!("what the engine does is recorded into {}", tape.shown());
                (Some(tape), None)
            }
            Some(Err(why)) => {
                tracing::error!("{why}");
                (None, Some(why))
            }
            None => (None, None),
        };
        Self {
            engine: Engine::new(seed),
            fresh: Some(seed),
            is_paused: false,
            is_told: false,
            is_under_way: false,
            files: Arc::default(),
            next_files: Arc::default(),
            profiles,
            tape,
            trouble,
        }
    }

    /// What the plan comes from that it is told of next, or restored with.
    pub fn runs_by(&mut self, files: Arc<FileSet>) {
        self.next_files = files;
    }

    /// Another engine takes its place.
    pub fn replace(&mut self, engine: Engine) {
        self.engine = engine;
        self.files = Arc::clone(&self.next_files);
        self.fresh = None;
        self.is_paused = false;
        (self.is_told, self.is_under_way) = (false, false);
        if let Some(tape) = &mut self.tape {
            tape.end_section();
        }
    }

    /// See [`Engine::handle`].
    pub fn handle(&mut self, now: Mono, event: Event) {
        let is_load = matches!(event, Event::Loaded(_));
        if self.tape.is_some() {
            let input = if is_load {
                Input::Loaded {
                    now,
                    files: Arc::clone(&self.next_files),
                    profiles: self.profiles.clone(),
                }
            } else {
                let event = Box::new(event.clone());
                Input::Told { now, event }
            };
            self.note(input);
        }
        self.engine.handle(now, event);
        if is_load {
            self.files = Arc::clone(&self.next_files);
            self.is_under_way = true;
        }
    }

    /// See [`Engine::resume`].
    pub fn resume(&mut self, now: Mono) {
        self.note(Input::Resume { now });
        self.engine.resume(now);
        self.is_under_way = true;
    }

    /// See [`Engine::pause_deadlines`].
    pub fn pause_deadlines(&mut self, is_paused: bool) {
        self.note(Input::Pause(is_paused));
        self.engine.pause_deadlines(is_paused);
        self.is_paused = is_paused;
    }

    /// See [`Engine::keep_clear_of`].
    pub fn keep_clear_of(&mut self, serial: u64) {
        self.note(Input::KeepClear(serial));
        self.engine.keep_clear_of(serial);
    }

    /// See [`Engine::tell_step_back`].
    pub fn tell_step_back(&mut self, unit: &UnitName, told: Word) {
        let unit_name = unit.clone();
        self.note(Input::StepBack {
            unit: unit_name,
            told,
        });
        self.engine.tell_step_back(unit, told);
    }

    /// See [`Engine::poll_action`]. After the last one, the step is recorded.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.engine.poll_action();
        if let Some(tape) = &mut self.tape {
            match &action {
                Some(action) => tape.action(action),
                None => tape.end_step(),
            }
        }
        action
    }

    /// See [`Engine::take_delta`].
    pub fn take_delta(&mut self) -> Delta {
        self.engine.take_delta()
    }

    /// Why the recording that was asked for is not made.
    pub fn notice(&self) -> Option<String> {
        let broken = self.tape.as_ref().and_then(Tape::trouble);
        broken.or_else(|| self.trouble.clone())
    }

    /// Waits, within a bound, until all that was recorded is in the file: this process is about to end.
    pub fn flush(&mut self) {
        if let Some(tape) = &mut self.tape {
            tape.flush();
        }
    }

    /// Before the engine hears of it.
    fn note(&mut self, input: Input) {
        let is_restorable = self.is_under_way || !self.is_told;
        let fresh = self.fresh.take();
        self.is_told = true;
        let Some(tape) = &mut self.tape else { return };
        // A step that is half told is no place to begin at.
        if tape.is_between_steps() && tape.wants_section(is_restorable) {
            let from = match fresh {
                Some(seed) => From::New { seed },
                None => From::Restored {
                    snapshot: Box::new(self.engine.snapshot()),
                    files: Arc::clone(&self.files),
                    profiles: self.profiles.clone(),
                },
            };
            tape.begin_section(from, self.is_paused);
        }
        tape.input(input);
    }
}
