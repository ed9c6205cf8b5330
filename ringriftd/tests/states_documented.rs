//! docs/states.md names every state and every event of the code, and no other.

use std::collections::BTreeSet;

use proto::reply::State;
use ringriftd::engine::types::ChangeKind;

const PAGE: &str = include_str!("../../docs/states.md");

/// The first column of the table that follows `heading`, without its backquotes.
fn first_column(heading: &str) -> BTreeSet<String> {
    let table = PAGE.split_once(heading).expect("the heading is there").1;
    let rows = table
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .filter_map(|row| Some(row.split('|').nth(1)?.trim().trim_matches('`').to_owned()))
        .collect()
}

#[test]
fn every_state_has_its_row() {
    let states = [
        State::Stopped,
        State::Waiting,
        State::Starting,
        State::Running,
        State::Reloading,
        State::Stopping,
        State::Backoff,
        State::Failed,
        State::Completed,
        State::Held,
    ];
    let words = states.map(|s| format!("{s:?}").to_lowercase());
    assert_eq!(first_column("# States"), BTreeSet::from(words));
}

#[test]
fn every_event_has_its_row() {
    let kinds = [
        ChangeKind::Started,
        ChangeKind::Ready,
        ChangeKind::Stopped,
        ChangeKind::Failed,
        ChangeKind::Restarting,
        ChangeKind::CrashLoop,
        ChangeKind::PermanentlyFailed,
        ChangeKind::StatusChanged,
        ChangeKind::HealthChanged,
        ChangeKind::BreakerTripped,
        ChangeKind::BreakerClosed,
        ChangeKind::LogDropping,
        ChangeKind::LogDropped,
    ];
    assert_eq!(
        first_column("## Events"),
        BTreeSet::from(kinds.map(|k| k.word().to_owned()))
    );
}
