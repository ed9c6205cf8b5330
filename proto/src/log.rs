//! What is known of a log line besides its text.

use serde::{Deserialize, Serialize};

/// How grave a line is, as syslog(3) has it; the gravest is the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// 0: the system is unusable.
    Emerg,
    /// 1: something must be done at once.
    Alert,
    /// 2
    Crit,
    /// 3
    Err,
    /// 4
    Warning,
    /// 5: normal, and of weight.
    Notice,
    /// 6
    Info,
    /// 7
    Debug,
}

impl Severity {
    /// All of them, by their numbers.
    pub const ALL: [Self; 8] = [
        Self::Emerg,
        Self::Alert,
        Self::Crit,
        Self::Err,
        Self::Warning,
        Self::Notice,
        Self::Info,
        Self::Debug,
    ];

    /// The one with this number.
    pub fn of(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Its name, as `journalctl -p` takes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Emerg => "emerg",
            Self::Alert => "alert",
            Self::Crit => "crit",
            Self::Err => "err",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// The one that a program means by this word, capital letters or not: the names of syslog(3) and those that libraries
    /// for logging use.
    pub fn named(word: &str) -> Option<Self> {
        const NAMES: [(&str, Severity); 26] = [
            ("emerg", Severity::Emerg),
            ("emergency", Severity::Emerg),
            ("alert", Severity::Alert),
            ("crit", Severity::Crit),
            ("critical", Severity::Crit),
            ("fatal", Severity::Crit),
            ("panic", Severity::Crit),
            ("err", Severity::Err),
            ("error", Severity::Err),
            ("severe", Severity::Err),
            ("warning", Severity::Warning),
            ("warn", Severity::Warning),
            ("wrn", Severity::Warning),
            ("notice", Severity::Notice),
            ("info", Severity::Info),
            ("information", Severity::Info),
            ("informational", Severity::Info),
            ("inf", Severity::Info),
            ("debug", Severity::Debug),
            ("dbg", Severity::Debug),
            ("trace", Severity::Debug),
            ("trc", Severity::Debug),
            ("verbose", Severity::Debug),
            ("fine", Severity::Debug),
            ("finer", Severity::Debug),
            ("finest", Severity::Debug),
        ];
        NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word))
            .map(|(_, severity)| *severity)
    }
}

/// Where a unit wrote a line, if its two streams are told apart (`[log] split`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// What became of a unit's output, by all its lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogStatus {
    /// Bytes that it wrote and the logger took.
    pub bytes: u64,
    /// Lines that were written to its log; of one that is cut at its bound, each piece.
    pub lines: u64,
    /// Bytes that were dropped (`[log] on_full = "drop"`), or could be kept nowhere.
    pub dropped_bytes: u64,
    /// Lines among them.
    pub dropped_lines: u64,
    /// It cannot be written now.
    pub is_blocked: bool,
}

/// How a stored line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LineEnd {
    /// With a newline.
    Whole,
    /// It was longer than the bound; the next line of the same life goes on.
    Continues,
    /// The unit ended without a newline.
    Partial,
}

/// One line that a unit wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When the logger read it.
    pub at_us: u64,
    /// Who wrote it.
    pub unit: String,
    /// In which life: its serial number.
    pub invocation: u64,
    /// The exact bytes, without the newline.
    pub message: Vec<u8>,
    /// How the line ended.
    pub end: LineEnd,
    /// How grave it is, where it says so.
    pub severity: Option<Severity>,
    /// Where it was written, if its unit tells its streams apart.
    pub stream: Option<Stream>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_have_the_numbers_of_syslog() {
        for (number, severity) in Severity::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(severity.number()), number);
            assert_eq!(Severity::of(number as u64), Some(severity));
            assert_eq!(Severity::named(severity.word()), Some(severity));
        }
        assert_eq!(Severity::of(8), None);
        assert_eq!(Severity::named("WARN"), Some(Severity::Warning));
        assert_eq!(Severity::named("warned"), None);
    }
}
