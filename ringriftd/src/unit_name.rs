//! What units are called. At the bottom of the house, so that whatever names units needs nothing of their definitions.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::NAME_MAX;

/// A unit's name: `[a-z0-9][a-z0-9_.-]{0,63}`. Only `config` makes one from a person's text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnitName(Arc<str>);

impl UnitName {
    /// The name, if `text` is one. Folding (`AUTO-SYNC` to `auto_sync`) is the caller's business.
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = text.bytes();
        let first = bytes.next()?;
        let is_start = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_rest = |b: u8| is_start(b) || matches!(b, b'_' | b'.' | b'-');
        (text.len() <= NAME_MAX && is_start(first) && bytes.all(is_rest)).then(|| Self(Arc::from(text)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for UnitName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl std::fmt::Debug for UnitName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for UnitName {
    fn borrow(&self) -> &str {
        &self.0
    }
}
