//! What must hold, by number. Each is checked against the world's own truth where the world knows it, and each counts how often
//! it was *not vacuous*: how often there was something that could have broken it. A promise that nothing ever tested is none.
//!
//! Where they are checked: `starts` (1 to 3, 30), `stops` (4 to 6, 14, 25), `restarts` (7 to 11), `answers` (15 to 18),
//! `steps` (12, 13, 22 to 24, 26, 27), `crash` (18 to 21), `schedule` (6, 28, 29, 31 to 36, 38),
//! `pairs` (20), `gates` (37). The engine's own side of them is
//! `engine/invariant.rs`, asked after every step.

use super::cells::{EVENTS, PLACES};

macro_rules! invariants {
    ($($(#[$doc:meta])* $name:ident = $number:literal $what:literal,)*) => {
        /// What must hold.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Invariant {
            $($(#[$doc])* $name = $number,)*
        }

        impl Invariant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// In words.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$name => $what,)*
                }
            }

            /// The one of this number.
            pub fn numbered(number: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| *one as u8 == number)
            }
        }
    };
}

invariants! {
    /// What the engine asks of itself.
    Own = 0 "the engine's own invariants hold after every step",
    /// Safety.
    Single = 1 "at most one main process of a unit lives",
    /// Safety.
    DepsFirst = 2 "a unit is launched only when all that it requires was said to be ready and has not ended since",
    /// Safety.
    Wanted = 3 "a unit is launched only while it is wanted",
    /// Safety.
    OwnProcess = 4 "only processes that were asked for, answered for and not over are signalled",
    /// Safety.
    StopOrder = 5 "a stop's first signal comes when all that require the unit and go down too are down",
    /// Safety.
    Reverse = 6 "a full stop ends every unit before those that it requires",
    /// Safety.
    BackoffFloor = 7 "an automatic restart does not come before its back-off, less its jitter",
    /// Safety.
    BackoffCeiling = 8 "nor after it, with its jitter",
    /// Safety.
    Budget = 9 "within a window there are no more automatic restarts than the limit",
    /// Safety.
    HostIsFree = 10 "what the host could not start costs a unit nothing",
    /// Safety.
    Reset = 11 "a life that was ready for stable_after sets the back-off back, and none before",
    /// Safety.
    TimeoutOnce = 12 "a wake-up before a deadline does nothing, and a deadline acts once",
    /// Safety.
    StaleIsVoid = 13 "news of what is over changes nothing",
    /// Safety.
    Escalation = 14 "SIGKILL comes only after the ladder and its times, or where a time-out, a shutdown's end or an operator asks for it",
    /// Safety.
    ReplyOnce = 15 "a request is answered once",
    /// Safety.
    HonestReply = 16 "a good verdict is true in the world at the moment that it is given",
    /// Safety.
    LastWriter = 17 "the last operator's word is what is wanted",
    /// Safety.
    PersistFirst = 18 "what was answered is still wanted by a manager that comes after",
    /// Safety.
    SnapshotIsAll = 19 "a restored engine does what the first one does, and stores the same bytes",
    /// Safety.
    CrashTransparent = 20 "a run with deaths of the manager ends as the run without them",
    /// Safety.
    AdoptOrLeave = 21 "after a return each process is one unit's, or nobody's and released",
    /// Safety.
    StateMachine = 22 "each change of state is an edge of the table, one event, and the next number",
    /// Safety.
    Essential = 23 "an essential unit's end for good takes the node down with its code, in the same step and once; nothing else does",
    /// Safety.
    NoCollateral = 24 "one unit's news stops only those that require it",
    /// Safety.
    ShutdownCloses = 25 "after a shutdown no main process is launched, and it ends in its time",
    /// Safety.
    ReloadNeutral = 26 "files that say the same change nothing",
    /// Safety.
    Bounded = 27 "tables, timers and the actions of one step are bounded by the number of units",
    /// Safety.
    Total = 28 "no event makes the engine panic, whatever its state",
    /// Safety.
    Deterministic = 29 "the same seed gives the same events and actions",
    /// Safety.
    HeldIsFinal = 30 "a held unit begins no life",
    /// Liveness.
    UnwantedGoes = 31 "in the end, what is not wanted is not there",
    /// Liveness.
    WantedComes = 32 "in the end, what is wanted and can be is ready, or failed with a reason",
    /// Liveness.
    NoLivelock = 33 "and it comes there within a bound of events",
    /// Liveness.
    AllAnswered = 34 "every request is answered",
    /// Liveness.
    Quiet = 35 "when nothing moves, no unit is on its way and no timer runs but those of slow retries, holds and health",
    /// Liveness.
    SaysWhy = 36 "a unit that waits for one that failed says so",
    /// Safety.
    Breaker = 37 "no automatic restart passes an open breaker, nor one that has let its number through within its window",
    /// Liveness.
    Released = 38 "in the end, the keeper holds no launch that no unit has",
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// How.
    pub text: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = self.invariant as u8;
        write!(
            f,
            "invariant {number} ({}) is broken: {}",
            self.invariant.what(),
            self.text
        )
    }
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Schedules.
    pub schedules: u64,
    /// Events that engines were told.
    pub events: u64,
    /// Actions that they asked for.
    pub actions: u64,
    /// Requests.
    pub requests: u64,
    /// Units.
    pub units: u64,
    /// Deaths of the manager.
    pub deaths: u64,
    /// Virtual time, in ms.
    pub virtual_ms: u64,
    /// How often each invariant was not vacuous.
    pub checked: [u64; Invariant::ALL.len()],
    /// How often each event met each place that a unit can be in.
    pub cells: [[u64; EVENTS]; PLACES],
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            schedules: 0,
            events: 0,
            actions: 0,
            requests: 0,
            units: 0,
            deaths: 0,
            virtual_ms: 0,
            checked: [0; Invariant::ALL.len()],
            cells: [[0; EVENTS]; PLACES],
        }
    }
}

impl Counts {
    /// Adds what another one has seen.
    pub fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.events += other.events;
        self.actions += other.actions;
        self.requests += other.requests;
        self.units += other.units;
        self.deaths += other.deaths;
        self.virtual_ms += other.virtual_ms;
        for (mine, other) in self.checked.iter_mut().zip(other.checked) {
            *mine += other;
        }
        for (mine, other) in self.cells.iter_mut().flatten().zip(other.cells.iter().flatten()) {
            *mine += other;
        }
    }

    /// How often this one was not vacuous.
    pub fn of(&self, invariant: Invariant) -> u64 {
        self.checked[invariant as usize]
    }
}
