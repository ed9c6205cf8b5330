//! How bad the world is: one table of what may go wrong in it, used by the simulation and by whoever else needs to know what
//! the world can do to the engine.
//!
//! A *mode* says how often each of these happens. A seed then switches each of them off with even chance (*swarm*): where all
//! faults happen at once the rare ones drown, since the frequent ones end every story before it becomes interesting.

use crate::engine::restart::mix;

/// The kinds of schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Nothing fails; operators are busy.
    Calm,
    /// The manager, the keeper and the machine die.
    Crashy,
    /// Everything fails but them.
    Hostile,
    /// Units are taken down one by one and brought back in another order, while things fail.
    Swizzle,
    /// All faults at once, and then none: everything must come to where it is wanted.
    Converge,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Calm,
        Self::Crashy,
        Self::Hostile,
        Self::Swizzle,
        Self::Converge,
    ];

    /// The word in commands.
    pub fn word(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Crashy => "crashy",
            Self::Hostile => "hostile",
            Self::Swizzle => "swizzle",
            Self::Converge => "converge",
        }
    }

    /// What this word means.
    pub fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.word() == word)
    }
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident [$($rate:literal),*] $what:literal,)*) => {
        /// What may go wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// In words.
            pub fn what(self) -> &'static str {
                match self {
                    $(Self::$name => $what,)*
                }
            }

            /// In how many of a thousand cases, in the order of [`Mode::ALL`].
            fn rates(self) -> [u32; 5] {
                match self {
                    $(Self::$name => [$($rate),*],)*
                }
            }
        }
    };
}

faults! {
    /// Each launch.
    LaunchFails [0, 30, 100, 60, 100] "a process cannot be started: the program is missing, the host is out of processes or memory",
    /// Each life.
    Ends [0, 150, 400, 200, 400] "a process ends by itself: cleanly, with a code, by a signal, with a permanent code, before or after it is ready",
    /// Each life.
    ReadyLate [0, 30, 150, 80, 150] "a process is ready late, after its time is up, never, twice, or after its death",
    /// Each process.
    IgnoresTerm [0, 50, 200, 200, 200] "a process ignores SIGTERM",
    /// Each process.
    IgnoresKill [0, 20, 60, 60, 60] "a process does not go by SIGKILL for a while (stuck in the kernel)",
    /// Each process.
    Leaves [0, 80, 200, 200, 200] "a process leaves others behind, which go by themselves, late, or not",
    /// Each life.
    Hangs [0, 20, 150, 50, 150] "a process hangs: it answers and says nothing",
    /// Each hook.
    HookEnds [0, 30, 150, 80, 150] "a hook fails, or takes longer than it may",
    /// Each life, so many times.
    Speaks [0, 60, 300, 150, 300] "a process says STOPPING=1, RELOADING=1, EXTEND_TIMEOUT_USEC=, MAINPID=, WATCHDOG_USEC= or READY=1 when it likes",
    /// Each answer and report.
    Unwell [0, 40, 150, 60, 150] "a unit is unwell: probes fail, cannot be asked or are void, reports are bad",
    /// Each start of a forking unit.
    FindMain [0, 50, 200, 100, 200] "a forking unit's main process cannot be found, or is found late",
    /// Each adoption.
    Foreign [0, 150, 300, 200, 300] "a process from outside is gone, or another one, when it is taken over",
    /// Each piece of the keeper's news.
    NewsLate [0, 150, 200, 150, 200] "the keeper's news of a unit is late, and overtaken by that of others",
    /// Each piece of the keeper's news.
    NewsTwice [0, 80, 80, 60, 80] "the keeper says it twice",
    /// Each event.
    Stale [0, 10, 20, 10, 20] "news of lives that are over, or never were",
    /// Each piece of news.
    Spurious [0, 20, 20, 20, 20] "the engine is woken too early",
    /// Each piece of news.
    ClockBack [0, 20, 20, 20, 20] "the time that the engine is told is before the last one",
    /// Each request.
    Sleeps [0, 20, 20, 20, 20] "the machine sleeps, or the manager is stopped, for longer than deadlines are away",
    /// Each request.
    Forgotten [0, 80, 80, 40, 80] "a client goes away before its answer",
    /// Each request.
    Load [60, 60, 60, 30, 60] "the files are read again: the same, changed, some gone, some back",
    /// Each piece of news.
    Dies [0, 60, 0, 20, 15] "the manager is killed before it heard, after it wrote, or with some of its actions done",
    /// Each death of the manager.
    KeeperDies [0, 100, 0, 50, 100] "the keeper dies with it, and some of the processes meanwhile",
    /// Each request.
    Reboot [0, 4, 0, 0, 4] "the machine is started anew",
    /// Each request.
    Shutdown [1, 1, 1, 1, 0] "the daemon is asked to end in the middle of everything",
}

/// How often each fault happens.
#[derive(Debug, Clone, Copy)]
pub struct Rates([u32; Fault::ALL.len()]);

impl Rates {
    /// Nothing goes wrong.
    pub const NONE: Self = Self([0; Fault::ALL.len()]);

    /// Those of a mode, all of them switched on.
    pub fn of(mode: Mode) -> Self {
        let place = Mode::ALL.iter().position(|other| *other == mode).unwrap_or(0);
        let mut rates = Self::NONE;
        for fault in Fault::ALL {
            rates.0[*fault as usize] = fault.rates()[place];
        }
        rates
    }

    /// Those of a mode, each of them switched on or off by the seed.
    pub fn swarm(mode: Mode, seed: u64) -> Self {
        let mut rates = Self::of(mode);
        let mask = mix(seed ^ 0x5a5a_5a5a);
        for (place, rate) in rates.0.iter_mut().enumerate() {
            if mask >> (place % 64) & 1 == 0 {
                *rate = 0;
            }
        }
        rates
    }

    /// In how many of a thousand cases.
    pub fn of_fault(&self, fault: Fault) -> u32 {
        self.0[fault as usize]
    }

    /// The same with another number for one fault.
    pub fn with(mut self, fault: Fault, permille: u32) -> Self {
        self.0[fault as usize] = permille;
        self
    }
}
