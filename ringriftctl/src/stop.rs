//! Why a verb ends without its own verdict, and the exit codes of `docs/cli.md`'s one table.

use proto::reply::Failure;

/// Done; the predicate is true.
pub const OK: u8 = 0;
/// The operation failed.
pub const FAILED: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 2;
/// The predicate is false.
pub const FALSE: u8 = 3;
/// Denied by the socket's policy.
pub const DENIED: u8 = 5;
/// Refused, nothing was done.
pub const REFUSED: u8 = 7;
/// Partly done.
pub const PARTLY: u8 = 10;
/// The daemon cannot be reached, or was lost in the middle.
pub const UNAVAILABLE: u8 = 69;
/// The two sides do not understand each other although they say the same version.
pub const BUG: u8 = 70;
/// The wait timed out; the job goes on.
pub const TIMED_OUT: u8 = 124;
/// Interrupted; the job goes on.
pub const INTERRUPTED: u8 = 130;
/// Whoever read stdout went away: what a shell shows for a program that SIGPIPE ended.
pub const PIPE: u8 = 141;

/// Why a verb ends early.
#[derive(Debug)]
pub enum Stop {
    /// Something to say, by the daemon or by this program.
    Failure(Box<Failure>),
    /// The reader of stdout went away; nothing to say and nobody to say it to.
    Pipe,
    /// stdout takes nothing more (a full disk).
    Output(std::io::Error),
}

impl Stop {
    /// A failure with one line.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Failure(Box::new(Failure {
            code,
            message,
            unit: None,
            hint: None,
            details: Vec::new(),
        }))
    }

    /// The same, with how to mend it.
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Failure(failure) = &mut self {
            failure.hint = Some(text.into());
        }
        self
    }

    /// A command line that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// An answer that the request cannot have.
    pub fn unexpected(what: &str) -> Self {
        Self::new(
            BUG,
            format!("the daemon answered {what}, which this request does not have"),
        )
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::Pipe
        } else {
            Self::Output(error)
        }
    }
}
