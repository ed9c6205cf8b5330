//! What stands in files, and what comes through pipes to be written into them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::reply::LineEnd;
use ringriftd::config::fileset::{ConfigFile, Contents, FileSet, SetFile, SetFolder};
use ringriftd::config::{self, Loaded};
use ringriftd::limits::LOG_LINE_MAX;
use ringriftd::logger::Splitter;
use ringriftd::logger::record::{Clock, Record, parse, push};
use ringriftd::state::record::{HEADER, Kind, encode, read_row, read_through};
use ringriftd::state::recorder::{Entry, Reading};

fn folder(files: &[(&str, &str)]) -> SetFolder {
    let file = |(name, text): &(&str, &str)| {
        let file = SetFile {
            defect: None,
            text: Ok((*text).to_owned()),
        };
        ((*name).to_owned(), Ok(file))
    };
    SetFolder {
        shown: "f".to_owned(),
        is_chosen: false,
        found: Ok(Contents {
            shown: "f".to_owned(),
            prefix: String::new(),
            names: files.iter().map(|(name, _)| (*name).to_owned()).collect(),
            unreadable_names: Vec::new(),
            loose: None,
            files: files.iter().map(file).collect(),
            folders: BTreeMap::new(),
        }),
    }
}

/// The files of a node, each up to a line of `%%%`: the unit `a`, the unit `b`, the profile `p`, `ringriftd.toml`.
pub fn files(text: &str) -> Arc<FileSet> {
    let mut parts = text.splitn(4, "\n%%%\n");
    let a = parts.next().unwrap_or_default();
    let b = parts.next().unwrap_or("[exec]\ncommand = [\"/bin/true\"]");
    let profile = parts.next().unwrap_or("units = [\"a\", \"b\"]");
    set(
        &[("a.toml", a), ("b.toml", b)],
        &[("p.toml", profile)],
        parts.next(),
    )
}

/// Files by their names.
pub fn set(units: &[(&str, &str)], profiles: &[(&str, &str)], config: Option<&str>) -> Arc<FileSet> {
    let config = config.map(|text| ConfigFile {
        shown: "ringriftd.toml".to_owned(),
        name: Some("ringriftd.toml".to_owned()),
        folder: folder(&[("ringriftd.toml", text)]),
    });
    Arc::new(FileSet {
        config,
        units: vec![folder(units)],
        profiles: vec![folder(profiles)],
    })
}

/// Loads them with the profile `p`.
pub fn load(files: &Arc<FileSet>) -> Option<Loaded> {
    config::load_from(Arc::clone(files), &["p".to_owned()]).ok()
}

/// Unit files, a profile and `ringriftd.toml`: refused with reasons, or taken, and then taken to the same a second time.
pub fn config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let set = files(text);
    match config::load_from(Arc::clone(&set), &["p".to_owned()]) {
        Err(report) => {
            assert!(!report.faults.is_empty(), "refused without a reason");
            for fault in report.faults.iter().chain(&report.warnings) {
                assert!(!fault.what.is_empty() && !fault.to_string().is_empty());
            }
            false
        }
        Ok(loaded) => {
            let again = load(&set).expect("what was taken once is taken twice");
            assert_eq!(loaded.plan.units, again.plan.units);
            assert_eq!(loaded.plan.members, again.plan.members);
            // What is stored of a definition is the definition.
            for spec in loaded.plan.units.values() {
                let text = serde_json::to_string(spec).expect("a definition has a text");
                let read = serde_json::from_str(&text).expect("and is read from it");
                assert_eq!(**spec, read);
            }
            true
        }
    }
}

/// What a pipe brings, in pieces that its first byte tells: every byte is in exactly one record, and the records are read
/// back as they were.
pub fn log_lines(data: &[u8]) -> bool {
    let Some((&first, rest)) = data.split_first() else {
        return false;
    };
    // Lines that are longer than the bound are reached by few bytes.
    let input: Vec<u8> = if first & 1 == 0 {
        rest.to_vec()
    } else {
        rest.iter()
            .flat_map(|&byte| std::iter::repeat_n(byte, if byte == b'x' { LOG_LINE_MAX - 1 } else { 1 }))
            .collect()
    };
    let step = usize::from(first >> 1).max(1);
    let mut splitter = Splitter::default();
    let mut said = Vec::new();
    let mut clock = Clock::new();
    let mut refuse = first & 2 != 0;
    let mut written = 0;
    let mut put = |end: LineEnd, message: &[u8]| {
        // A full disk takes a line only the second time.
        refuse = !refuse && first & 2 != 0;
        if refuse {
            return Err(ringriftd::logger::Stop);
        }
        assert!(message.len() <= LOG_LINE_MAX, "{} bytes in a line", message.len());
        let record = Record {
            at_us: 1_700_000_000_000_000 + written,
            invocation: written,
            end,
            stream: None,
            message,
        };
        let mut line = Vec::new();
        push(&mut line, &mut clock, record);
        assert_eq!(parse(&line[..line.len() - 1]), Some(record));
        written += 1;
        said.extend_from_slice(message);
        if end == LineEnd::Whole {
            said.push(b'\n');
        }
        Ok(())
    };
    for piece in input.chunks(step * 97) {
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = splitter.split(rest, &mut put);
            rest = &rest[taken..];
        }
    }
    said.extend_from_slice(splitter.partial());
    assert_eq!(said, input, "not every byte is where it was");
    // A file may hold anything.
    for line in rest.split(|byte| *byte == b'\n') {
        if let Some(record) = parse(line) {
            let mut again = Vec::new();
            push(&mut again, &mut Clock::new(), record);
            assert_eq!(&again[..again.len() - 1], line, "a record has one text");
        }
    }
    written > 0
}

/// The flight recorder's two files, whatever is in them: numbers only grow, and what is missing is said to be.
pub fn event_ring(data: &[u8]) -> bool {
    // The bytes themselves, and as payloads with sound checksums around them, so that more than checksums is looked at.
    let half = data.len() / 2;
    let (first, second) = data.split_at(half);
    let mut sound = Vec::new();
    for (n, payload) in first.split(|byte| *byte == b'\n').enumerate() {
        let number = payload.first().map_or(n as u64, |byte| u64::from(*byte));
        sound.extend(encode(Kind::Event, 1, number, payload).expect("short"));
    }
    let row = read_row(&mut { second }).expect("memory has no errors");
    let pieces = read_through(second);
    assert!(pieces.records.len() >= row.records.len());
    for (record, (at, found)) in row.records.iter().zip(&pieces.records) {
        assert_eq!(record, found);
        assert!(*at <= row.sound as usize);
    }
    assert_eq!(row.fault.is_none(), row.sound == second.len() as u64);
    assert!(row.records.len() * HEADER <= second.len());

    static FOLDER: Mutex<Option<tempfile::TempDir>> = Mutex::new(None);
    let mut folder = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder.get_or_insert_with(|| tempfile::tempdir().expect("there is room for a folder"));
    for (name, bytes) in [("events.0", sound.as_slice()), ("events.1", second)] {
        std::fs::write(folder.path().join(name), bytes).expect("the folder takes files");
    }
    let mut reading = Reading::after(folder.path(), 3).expect("the files can be read");
    let mut last = 3;
    let mut events = 0;
    loop {
        let chunk = reading.next_chunk(5);
        if chunk.is_empty() {
            break;
        }
        for entry in chunk {
            match entry {
                Entry::Event(_) => events += 1,
                Entry::Missing { from, to } => {
                    assert!(from <= to && from > last, "{from} to {to} after {last}");
                    last = to;
                }
            }
        }
    }
    events > 0
}
