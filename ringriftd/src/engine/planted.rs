//! Faults that tests plant in the engine, one at a time, to see that the proofs find them. Nothing of this is in the
//! program: there `planted!` is `false`.

use std::cell::Cell;

macro_rules! faults {
    ($($(#[$about:meta])* $name:ident,)*) => {
        /// A fault. The comment says what is wrong while it is planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault { $($(#[$about])* $name,)* }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

faults! {
    /// It finds a fault where there is none: whoever looks must say so.
    Canary,
    /// A start does not wait for those that are required.
    StartBeforeNeeds,
    /// A hold holds nothing.
    HoldIsNothing,
    /// A stop does not wait for those that require the unit.
    StopOutOfOrder,
    /// A stop is sent before the keeper has answered the launch.
    SignalUnanswered,
    /// The ladder begins with SIGKILL.
    KillAtOnce,
    /// A rung of the ladder has no time.
    StopHasNoTime,
    /// A start has no time.
    StartHasNoTime,
    /// A process that left others counts as gone.
    LeftoversForgotten,
    /// The keeper is never told that a launch is over.
    NeverReleased,
    /// A process that ended lives again when its launch is said again.
    BackFromTheDead,
    /// A unit may be ready before its program runs, and when it stops.
    ReadyTooLate,
    /// The limit of restarts is none.
    NoLimit,
    /// The host's faults cost the unit a restart.
    HostCosts,
    /// There is no pause before a restart.
    NoPause,
    /// A life need not be stable to be forgiven.
    ForgivenAtOnce,
    /// A unit that was given up is not tried again though its files say so.
    NoSlowTries,
    /// An answer is forgotten.
    NoAnswer,
    /// An answer is given twice.
    TwoAnswers,
    /// A start is answered before it is ready.
    StartedTooSoon,
    /// A stop is answered before everything is gone.
    StoppedTooSoon,
    /// A stop does not change what is wanted.
    StopIsForgotten,
    /// A restart leaves the unit down.
    RestartStaysDown,
    /// `reset-failed` forgives nothing.
    ResetIsNothing,
    /// What is stored leaves holds out.
    HoldNotStored,
    /// What is stored leaves the past of restarts out.
    PastNotStored,
    /// What is stored leaves the breakers out.
    BreakersNotStored,
    /// A new manager does not ask again for launches that were never asked for.
    LaunchLost,
    /// A new manager asks again for all that it counts on.
    LaunchTwice,
    /// The same files again wake what has failed.
    ReloadWakes,
    /// A shutdown leaves wanted up what was.
    ShutdownWantsUp,
    /// The end is said while something lives.
    FinishTooSoon,
    /// A number of an event is left out.
    SeqSkips,
    /// A timer is not set anew with the state.
    TimerStays,
    /// A unit that starts is counted twice.
    StartCountsTwice,
    /// Those that wait for a unit are not looked at when it is ready.
    WaitersForgotten,
    /// A breaker never trips.
    BreakerNeverTrips,
    /// A breaker never closes.
    BreakerNeverCloses,
}

impl Fault {
    /// The small system that finds it (`sim/models.rs`).
    pub fn home(self) -> &'static str {
        match self {
            Self::StartBeforeNeeds | Self::StopOutOfOrder | Self::WaitersForgotten => "chain",
            Self::BreakersNotStored | Self::BreakerNeverTrips | Self::BreakerNeverCloses => "breaker",
            Self::HostCosts | Self::HoldNotStored | Self::ShutdownWantsUp | Self::FinishTooSoon => "bad day",
            Self::HoldIsNothing | Self::LaunchLost | Self::LaunchTwice => "one unit, one death",
            _ => "one unit",
        }
    }

    /// The simulation does not find it in the schedules that it has for that (`tests/simulation`).
    pub fn is_unseen(self) -> bool {
        false
    }
}

thread_local! {
    static NOW: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Whether this one is planted now, on this thread.
pub fn is(fault: Fault) -> bool {
    NOW.get() == Some(fault)
}

/// Plants it for as long as `look` takes.
pub fn with<T>(fault: Fault, look: impl FnOnce() -> T) -> T {
    NOW.set(Some(fault));
    let seen = look();
    NOW.set(None);
    seen
}
