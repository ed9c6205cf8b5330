//! Why things happen, as data: small makers of [`Cause`].

use proto::reply::{By, Cause, CauseKind};

use crate::spec::UnitName;

/// Somebody's request.
pub fn command(by: &By) -> Cause {
    let text = format!("{} by uid {} (pid {})", by.verb, by.uid, by.pid);
    Cause {
        kind: CauseKind::Command,
        seq: None,
        unit: None,
        by: Some(by.clone()),
        text,
    }
}

/// Another unit, and the event that it was.
pub fn dependency(unit: &UnitName, seq: u64, text: String) -> Cause {
    let seq = (seq > 0).then_some(seq);
    Cause {
        kind: CauseKind::Dependency,
        seq,
        unit: Some(unit.to_string()),
        by: None,
        text,
    }
}

/// Something of the unit's own, with the event that led to it if there is one.
pub fn own(kind: CauseKind, seq: u64, text: impl Into<String>) -> Cause {
    Cause {
        kind,
        seq: (seq > 0).then_some(seq),
        unit: None,
        by: None,
        text: text.into(),
    }
}
