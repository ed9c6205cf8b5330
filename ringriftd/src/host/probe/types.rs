//! What the kinds of probes share.

use std::fmt;

use crate::spec::{Piece, Template};

/// Why a question has no good answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The unit's fault.
    Failed(String),
    /// It could not be asked.
    Cannot(String),
}

/// Whom a probe asks, for messages: as its file has it. What stands for a variable may be a secret.
#[derive(Debug)]
pub(super) struct Shown {
    text: String,
    is_whole: bool,
}

impl Shown {
    pub(super) fn of(template: &Template) -> Self {
        let literal = literal(template);
        Self {
            is_whole: literal.is_some(),
            text: literal.unwrap_or_else(|| template.to_string()),
        }
    }

    /// A part of it, where that has nothing of a variable.
    pub(super) fn or(&self, part: &str) -> Self {
        Self {
            text: if self.is_whole { part } else { &self.text }.to_owned(),
            is_whole: self.is_whole,
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The text, if no variable stands in it.
pub(super) fn literal(template: &Template) -> Option<String> {
    template
        .0
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::Variable { .. } => None,
        })
        .collect()
}
