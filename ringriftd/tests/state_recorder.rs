//! The flight recorder: all that is sound is told in order, what is missing is told as missing, and it stays small.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use proto::reply::{Cause, CauseKind, Event, State};
use ringriftd::limits::RECORDER_SEGMENT;
use ringriftd::state::cold::Cold;
use ringriftd::state::folder::Folder;
use ringriftd::state::record::{HEADER, MAGIC};
use ringriftd::state::recorder::{Entry, Reading, Segments, last_seq};
use ringriftd::state::store::Pick;

fn event(seq: u64) -> Event {
    Event {
        seq,
        at_us: 1_000_000 + seq * 1000,
        event: "DAEMON_STARTED".to_owned(),
        unit: "auto_sync".to_owned(),
        invocation: None,
        from: State::Stopped,
        to: State::Starting,
        cause: Cause {
            kind: CauseKind::Boot,
            seq: None,
            unit: None,
            by: None,
            text: "the profile wants it".to_owned(),
        },
    }
}

fn texts(seqs: impl IntoIterator<Item = u64>) -> Vec<(u64, Vec<u8>)> {
    seqs.into_iter()
        .map(|seq| (seq, serde_json::to_vec(&event(seq)).unwrap()))
        .collect()
}

fn open(dir: &Path) -> Segments {
    Segments::open(Folder::open(dir).unwrap()).unwrap()
}

fn all(mut reading: Reading) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        let chunk = reading.next_chunk(7);
        if chunk.is_empty() {
            return entries;
        }
        assert!(chunk.iter().filter(|e| matches!(e, Entry::Event(_))).count() <= 7);
        entries.extend(chunk);
    }
}

fn after(dir: &Path, seq: u64) -> Vec<Entry> {
    all(Reading::after(dir, seq).unwrap())
}

fn events(seqs: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    seqs.into_iter().map(|seq| Entry::Event(event(seq))).collect()
}

#[test]
fn what_is_recorded_is_told_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!((after(dir.path(), 0), last_seq(dir.path()).unwrap()), (vec![], 0));
    open(dir.path()).append(&texts(1..=20)).unwrap();
    // A crash: the last ones are told again.
    let mut again = open(dir.path());
    assert_eq!(again.last_seq(), 20);
    again.append(&texts(15..=25)).unwrap();
    again.append(&texts(3..=4)).unwrap();
    assert_eq!(after(dir.path(), 0), events(1..=25));
    assert_eq!(after(dir.path(), 20), events(21..=25));
    assert_eq!(after(dir.path(), 25), vec![]);
    assert_eq!(last_seq(dir.path()).unwrap(), 25);
    let late = all(Reading::since_us(dir.path(), event(24).at_us).unwrap());
    assert_eq!(late, events(24..=25));
}

#[test]
fn it_stays_within_its_bound_and_says_what_is_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = open(dir.path());
    let each = HEADER as u64 + texts([1000]).remove(0).1.len() as u64;
    let per_file = RECORDER_SEGMENT / each;
    let count = 3 * per_file;
    for from in (0..count).step_by(1000) {
        segments
            .append(&texts(from + 1..=(from + 1000).min(count)))
            .unwrap();
        if from == per_file / 1000 * 1000 {
            segments = open(dir.path());
        }
    }
    for name in ["events.0", "events.1"] {
        assert!(dir.path().join(name).metadata().unwrap().len() <= RECORDER_SEGMENT);
    }
    let entries = after(dir.path(), 0);
    let Entry::Missing { from: 1, to } = entries[0] else {
        panic!("the oldest are gone: {:?}", entries[0]);
    };
    assert!(
        count - to >= per_file,
        "at least a whole file is kept: {to} of {count}"
    );
    assert_eq!(entries[1..], events(to + 1..=count));
}

/// B13
#[test]
fn damage_costs_the_events_that_it_touches() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).append(&texts(1..=10)).unwrap();
    let path = dir.path().join("events.0");
    let whole = std::fs::read(&path).unwrap();
    let begins: Vec<usize> = (0..whole.len())
        .filter(|at| whole[*at..].starts_with(&MAGIC))
        .collect();
    assert_eq!(begins.len(), 10);
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        let hit = begins.iter().filter(|begin| **begin <= at).count() as u64;
        let mut expected = events(1..hit);
        if hit < 10 {
            expected.push(Entry::Missing { from: hit, to: hit });
        }
        expected.extend(events(hit + 1..=10));
        let reading = Reading::after(dir.path(), 0).unwrap();
        assert!(reading.damage[0].contains("events.0"), "{:?}", reading.damage);
        assert_eq!(all(reading), expected, "byte {at}");
    }
    for cut in (0..whole.len()).step_by(5) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let left = begins[1..]
            .iter()
            .chain([&whole.len()])
            .filter(|end| **end <= cut)
            .count() as u64;
        assert_eq!(after(dir.path(), 0), events(1..=left), "cut at {cut}");
    }
    // It goes on behind what is sound.
    std::fs::write(&path, [&whole[..begins[9]], b"torn"].concat()).unwrap();
    open(dir.path()).append(&texts(10..=12)).unwrap();
    let reading = Reading::after(dir.path(), 0).unwrap();
    assert!(reading.damage.is_empty());
    assert_eq!(all(reading), events(1..=12));
    // A huge file is not read whole.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"far", 1 << 39).unwrap();
    assert_eq!(after(dir.path(), 0), events(1..=12));
}

#[test]
fn a_hole_is_told_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = open(dir.path());
    segments.append(&texts([1, 2, 6, 9])).unwrap();
    // A text that this version cannot read.
    segments.append(&[(10, b"{\"seq\":10}".to_vec())]).unwrap();
    segments.append(&texts([11])).unwrap();
    let mut expected = events(1..=2);
    expected.push(Entry::Missing { from: 3, to: 5 });
    expected.extend(events([6]));
    expected.push(Entry::Missing { from: 7, to: 8 });
    expected.extend(events([9]));
    expected.push(Entry::Missing { from: 10, to: 10 });
    expected.extend(events([11]));
    assert_eq!(after(dir.path(), 0), expected);
    assert_eq!(last_seq(dir.path()).unwrap(), 11);
}

/// C2
#[test]
fn events_that_could_not_be_recorded_are_counted_and_it_heals() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let patience = std::time::Duration::from_secs(30);
    // A folder stands where the file should: nothing can be written.
    std::fs::create_dir(dir.path().join("events.0")).unwrap();
    let cold = Cold::start(dir.path(), Pick::Newest).unwrap();
    let mut status = cold.status();
    for seq in 1..=3 {
        cold.event(&event(seq));
    }
    let so = runtime.block_on(async {
        tokio::time::timeout(patience, status.wait_for(|s| s.events_dropped == 3))
            .await
            .expect("in time")
            .expect("the writer lives")
            .clone()
    });
    assert!(so.recorder_degraded.expect("told").contains("record events in"));
    std::fs::remove_dir(dir.path().join("events.0")).unwrap();
    cold.event(&event(4));
    let so = runtime.block_on(async {
        tokio::time::timeout(patience, status.wait_for(|s| s.recorder_degraded.is_none()))
            .await
            .expect("in time")
            .expect("the writer lives")
            .clone()
    });
    assert_eq!(so.events_dropped, 3);
    assert_eq!(
        after(dir.path(), 0)[..],
        [Entry::Missing { from: 1, to: 3 }, Entry::Event(event(4))]
    );
    assert_eq!(cold.recorded(), 4);
    let ends = |cold: Cold| {
        runtime
            .block_on(cold.end(b"state".to_vec()))
            .expect("answered")
            .expect("written");
    };
    ends(cold);
    // The next one goes on there, and what it is told again is left out.
    let cold = Cold::start(dir.path(), Pick::Newest).unwrap();
    for seq in 3..=5 {
        cold.event(&event(seq));
    }
    ends(cold);
    assert_eq!(after(dir.path(), 3), events(4..=5));
}

#[test]
fn a_file_that_was_removed_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = open(dir.path());
    segments.append(&texts(1..=3)).unwrap();
    assert!(segments.is_in_place());
    std::fs::remove_file(dir.path().join("events.0")).unwrap();
    assert!(!segments.is_in_place());
    let mut again = open(dir.path());
    again.append(&texts(4..=5)).unwrap();
    assert!(again.is_in_place());
    assert_eq!(after(dir.path(), 3), events(4..=5));
}
