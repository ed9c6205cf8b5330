//! How the keeper names processes. At the bottom of its files.

/// One process for ever: a pid alone is given to another process as soon as it is free (security S12), pid and
/// start time are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proc {
    pid: i32,
    start: u64,
}

impl Proc {
    /// The process `pid` that started at `start` (field 22 of /proc/PID/stat, in clock ticks since boot). `None` for
    /// the numbers that kill(2) reads as groups or everybody, and for the machine's first process.
    pub fn new(pid: i32, start: u64) -> Option<Self> {
        (pid > 1).then_some(Self { pid, start })
    }

    /// Its pid, above 1.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// Its pid, as the wire carries it.
    pub fn pid_u32(self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// When it started, in clock ticks since boot.
    pub fn start(self) -> u64 {
        self.start
    }
}

/// A descriptor that messages may still carry after its owner has let go of it: it is closed with the last holder,
/// so no message needs a duplicate, whose making could fail.
pub type SharedFd = std::rc::Rc<std::os::fd::OwnedFd>;
