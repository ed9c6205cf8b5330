//! What the world itself knows of units and lives, whatever the engine thinks.

use std::collections::VecDeque;

use proto::reply::State as Word;

use crate::ids::Invocation;

use super::make::number;
use super::world::World;
use crate::spec::UnitName;

/// Of a unit.
#[derive(Debug, Clone)]
pub(super) struct Truth {
    /// Pieces of its news.
    pub(super) news: u32,
    /// Those that are still under way.
    pub(super) undelivered: u32,
    /// The last of them arrives then (ns): they stay in order.
    pub(super) busy_until: u64,
    /// Lives that were begun.
    pub(super) lives: u32,
    /// As the last event had it.
    pub(super) word: Word,
    /// It was said to be ready in this life, and not that it has ended.
    pub(super) up: bool,
    /// A hold on it, until then if it ends.
    pub(super) held: Option<Option<u64>>,
    /// The last operator's word on it, where nothing else may have changed that since.
    pub(super) wanted: Option<bool>,
    /// The exponent of its next back-off is at least so much.
    pub(super) step_low: u32,
    /// And at most.
    pub(super) step_high: u32,
    /// Automatic restarts within the window.
    pub(super) times: VecDeque<u64>,
    /// What the host could not start is why its life ends.
    pub(super) is_host_end: bool,
    /// What its back-off leads to is no automatic restart: it is for a fault of the host's, or was forgiven meanwhile.
    pub(super) is_excused: bool,
    /// Its next start is an automatic restart.
    pub(super) is_restart_due: bool,
    /// Its back-off ends then.
    pub(super) back_at: Option<u64>,
    /// It was to be stopped when the full stop began, and has not ended by itself since.
    pub(super) goes_in_order: bool,
    /// Its restart counter, as of the last step.
    pub(super) total: u64,
    /// What its restarts have cost it by then: steps of the back-off, and restarts within the window.
    pub(super) spent: (u32, usize),
}

impl Default for Truth {
    fn default() -> Self {
        Self {
            news: 0,
            undelivered: 0,
            busy_until: 0,
            lives: 0,
            word: Word::Stopped,
            up: false,
            held: None,
            wanted: None,
            step_low: 0,
            step_high: 0,
            times: VecDeque::new(),
            is_host_end: false,
            is_excused: false,
            is_restart_due: false,
            back_at: None,
            goes_in_order: false,
            total: 0,
            spent: (0, 0),
        }
    }
}

/// Of a life.
#[derive(Debug, Clone, Default)]
pub(super) struct LifeTruth {
    /// Something of it was asked for.
    pub(super) is_known: bool,
    /// Its unit's number.
    pub(super) who: u32,
    /// It is that unit's how-manieth.
    pub(super) nth: u32,
    /// Its main process was told to run.
    pub(super) is_launched: bool,
    /// And to have ended, with all that it left.
    pub(super) is_over: bool,
    /// And to have ended itself.
    pub(super) has_exited: bool,
    /// The first signal of its stop was sent then.
    pub(super) signalled_at: Option<u64>,
    /// It was ready then.
    pub(super) ready_at: Option<u64>,
    /// Failures in a row that were told, of probes and of reports.
    pub(super) rows: (u32, u32),
    /// It was ended because it was not well.
    pub(super) is_ill: bool,
    /// Its first process, of a forking unit, has ended and its main process was found.
    pub(super) is_main_found: bool,
    /// It said that it is ready.
    pub(super) said_ready: bool,
    /// It was taken over from outside.
    pub(super) is_foreign: bool,
}

impl World {
    /// What is true of this unit.
    pub(super) fn truth_mut(&mut self, who: u32) -> &mut Truth {
        let at = who as usize;
        if self.units.len() <= at {
            self.units.resize_with(at + 1, Truth::default);
        }
        &mut self.units[at]
    }

    pub(super) fn truth_of(&mut self, name: &UnitName) -> &mut Truth {
        self.truth_mut(number(name))
    }

    /// What is true of this life; of a new one, that it is its unit's next.
    pub(super) fn life_mut(&mut self, invocation: Invocation, who: u32) -> &mut LifeTruth {
        let at = invocation.0 as usize;
        if self.lives.len() <= at {
            self.lives.resize_with(at + 1, LifeTruth::default);
        }
        if !self.lives[at].is_known {
            let truth = self.truth_mut(who);
            truth.lives += 1;
            truth.is_host_end = false;
            let nth = truth.lives;
            self.lives[at] = LifeTruth {
                is_known: true,
                who,
                nth,
                ..LifeTruth::default()
            };
        }
        &mut self.lives[at]
    }

    /// What is true of a life that is known.
    pub(super) fn life(&mut self, invocation: Invocation) -> Option<&mut LifeTruth> {
        self.lives
            .get_mut(invocation.0 as usize)
            .filter(|life| life.is_known)
    }
}
