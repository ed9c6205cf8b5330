//! What the kinds of probes share.

/// Why a question has no good answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The unit's fault.
    Failed(String),
    /// It could not be asked.
    Cannot(String),
}
