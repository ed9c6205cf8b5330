//! What the kinds of probes share.

/// Why a question has no good answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The unit's fault.
    Failed(String),
    /// It could not be asked.
    Cannot(String),
}

/// What a question is put to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// It, with its variables filled in.
    pub text: String,
    /// What is said of it: as its file has it, since a variable's value may be a secret, and what comes of a question is
    /// shown to anybody who may look at the unit.
    pub shown: String,
}
