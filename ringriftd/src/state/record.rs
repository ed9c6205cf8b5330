//! One record: a header with a checksum of its own, then a payload with another. Everything that outlives a process is
//! a row of these: the engine's state, in memory and on disk, and the flight recorder.
//!
//! It knows neither files nor what a payload means. Nothing that is read is believed before its checksum is right, so
//! that damage of any kind ends a row early and never changes what it says. Read first: [`Record`] and [`read_row`].
//!
//! The header, 40 bytes, numbers little-endian. Its shape, magic and checksum are promised to stay in every later
//! version, so that a program can tell a newer version from damage and name it:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | [`MAGIC`] |
//! | 8..10 | version of the format |
//! | 10 | kind |
//! | 11 | 0 |
//! | 12..16 | length of the payload |
//! | 16..24 | generation |
//! | 24..32 | number within it |
//! | 32..36 | CRC-32 of the payload |
//! | 36..40 | CRC-32 of bytes 0..36 |

use std::io::{self, Read};
use std::ops::RangeInclusive;

use memchr::memmem;

use crate::limits::STATE_RECORD_MAX;

/// How each record begins. No JSON text can hold it (a raw control character, and 0x89 does not begin a character), so
/// that after damage the next record can be found.
pub const MAGIC: [u8; 8] = *b"\x89RRS\r\n\x1a\n";
/// The version of the format that is written.
pub const VERSION: u16 = 1;
/// The versions that are read.
pub const READS: RangeInclusive<u16> = 1..=VERSION;
/// Bytes of a header.
pub const HEADER: usize = 40;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole state: the first record of its generation.
    Base,
    /// A change of it.
    Delta,
    /// One entry of the flight recorder.
    Event,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Base, Self::Delta, Self::Event];

    fn code(self) -> u8 {
        match self {
            Self::Base => 1,
            Self::Delta => 2,
            Self::Event => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// A sound record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Which generation of the state, or of the recorder's segments, it belongs to.
    pub generation: u64,
    /// Its place there: 0 for a base, then 1 and on for deltas; of an event its `seq`.
    pub number: u64,
    /// What it says.
    pub payload: Vec<u8>,
}

impl Record {
    /// How many bytes it takes.
    pub fn size(&self) -> u64 {
        (HEADER + self.payload.len()) as u64
    }
}

/// Why a record was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The bytes end before the record does.
    CutShort,
    /// No record begins here.
    NoRecord,
    /// The header's checksum is wrong.
    Header,
    /// The payload's checksum is wrong.
    Payload,
    /// Sound, but no program of this kind writes it.
    Unknown,
    /// Sound, but longer than [`STATE_RECORD_MAX`].
    TooLong,
    /// A later version of the format; its header is sound.
    Newer(u16),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CutShort => f.write_str("the record is cut short"),
            Self::NoRecord => f.write_str("no record begins there"),
            Self::Header => f.write_str("the checksum of the record's header is wrong"),
            Self::Payload => f.write_str("the checksum of the record's payload is wrong"),
            Self::Unknown => f.write_str("the record is of an unknown kind"),
            Self::TooLong => write!(f, "the record is longer than {} MiB", STATE_RECORD_MAX >> 20),
            Self::Newer(version) => write!(
                f,
                "the record has format version {version}, and this ringriftd reads {} to {}",
                READS.start(),
                READS.end()
            ),
        }
    }
}

/// A payload that does not fit into one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong(
    /// Its length in bytes.
    pub usize,
);

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "a record of {} bytes is longer than the {} MiB that one may have",
            self.0,
            STATE_RECORD_MAX >> 20
        )
    }
}

impl From<TooLong> for io::Error {
    fn from(too_long: TooLong) -> Self {
        Self::new(io::ErrorKind::FileTooLarge, too_long.to_string())
    }
}

/// The bytes of a record.
pub fn encode(kind: Kind, generation: u64, number: u64, payload: &[u8]) -> Result<Vec<u8>, TooLong> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= STATE_RECORD_MAX)
        .ok_or(TooLong(payload.len()))?;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[kind.code(), 0]);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// A header whose checksum is right.
struct Header {
    kind: Kind,
    generation: u64,
    number: u64,
    length: u32,
    checksum: u32,
}

impl Header {
    fn read(bytes: &[u8; HEADER]) -> Result<Self, Fault> {
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(Fault::CutShort)?;
        if *magic != MAGIC {
            return Err(Fault::NoRecord);
        }
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(Fault::CutShort)?;
        let (kind, rest) = rest.split_first_chunk::<2>().ok_or(Fault::CutShort)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(Fault::CutShort)?;
        let (generation, rest) = rest.split_first_chunk::<8>().ok_or(Fault::CutShort)?;
        let (number, rest) = rest.split_first_chunk::<8>().ok_or(Fault::CutShort)?;
        let (payload, rest) = rest.split_first_chunk::<4>().ok_or(Fault::CutShort)?;
        let (header, _) = rest.split_first_chunk::<4>().ok_or(Fault::CutShort)?;
        if crc32fast::hash(&bytes[..HEADER - 4]) != u32::from_le_bytes(*header) {
            return Err(Fault::Header);
        }
        let version = u16::from_le_bytes(*version);
        if version > *READS.end() {
            return Err(Fault::Newer(version));
        }
        let length = u32::from_le_bytes(*length);
        if length as usize > STATE_RECORD_MAX {
            return Err(Fault::TooLong);
        }
        match (READS.contains(&version), Kind::of(kind[0]), kind[1]) {
            (true, Some(kind), 0) => Ok(Self {
                kind,
                generation: u64::from_le_bytes(*generation),
                number: u64::from_le_bytes(*number),
                length,
                checksum: u32::from_le_bytes(*payload),
            }),
            (true | false, Some(_) | None, _) => Err(Fault::Unknown),
        }
    }
}

/// Reads the next record. `None`: the row ends here, as it should. The error is the disk's.
pub fn read_one(source: &mut impl Read) -> io::Result<Option<Result<Record, Fault>>> {
    let mut head = Vec::with_capacity(HEADER);
    source.by_ref().take(HEADER as u64).read_to_end(&mut head)?;
    if head.is_empty() {
        return Ok(None);
    }
    let Ok(head) = <[u8; HEADER]>::try_from(head) else {
        return Ok(Some(Err(Fault::CutShort)));
    };
    let header = match Header::read(&head) {
        Ok(header) => header,
        Err(fault) => return Ok(Some(Err(fault))),
    };
    // Nothing is set aside for a length that was only promised.
    let mut payload = Vec::new();
    source
        .by_ref()
        .take(u64::from(header.length))
        .read_to_end(&mut payload)?;
    if payload.len() != header.length as usize {
        return Ok(Some(Err(Fault::CutShort)));
    }
    if crc32fast::hash(&payload) != header.checksum {
        return Ok(Some(Err(Fault::Payload)));
    }
    Ok(Some(Ok(Record {
        kind: header.kind,
        generation: header.generation,
        number: header.number,
        payload,
    })))
}

/// What a row of records says up to the first damage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// The sound ones, in their order.
    pub records: Vec<Record>,
    /// How many bytes they take from the beginning.
    pub sound: u64,
    /// Why reading ended before the bytes did.
    pub fault: Option<Fault>,
}

/// Reads records until the end or the first damage.
pub fn read_row(source: &mut impl Read) -> io::Result<Row> {
    let mut row = Row::default();
    loop {
        match read_one(source)? {
            None => return Ok(row),
            Some(Ok(record)) => {
                row.sound += record.size();
                row.records.push(record);
            }
            Some(Err(fault)) => {
                row.fault = Some(fault);
                return Ok(row);
            }
        }
    }
}

/// All that is sound of some bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pieces {
    /// Where each sound record begins, and it.
    pub records: Vec<(usize, Record)>,
    /// Where the first damage is, and what.
    pub fault: Option<(usize, Fault)>,
    /// The latest version of the format among records of versions that are not read.
    pub newer: Option<u16>,
}

/// Reads every sound record of `bytes`, whatever lies between them.
pub fn read_through(bytes: &[u8]) -> Pieces {
    let mut pieces = Pieces::default();
    let mut at = 0;
    while let Some(mut rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match read_one(&mut rest) {
            Ok(Some(Ok(record))) => {
                let begins = at;
                at += HEADER + record.payload.len();
                pieces.records.push((begins, record));
            }
            Ok(Some(Err(fault))) => {
                pieces.fault = pieces.fault.or(Some((at, fault)));
                if let Fault::Newer(version) = fault {
                    pieces.newer = pieces.newer.max(Some(version));
                }
                match bytes.get(at + 1..).and_then(|rest| memmem::find(rest, &MAGIC)) {
                    Some(next) => at += 1 + next,
                    None => break,
                }
            }
            // Memory has no errors, so an Err is as good as the end.
            Ok(None) | Err(_) => break,
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row() -> (Vec<u8>, Vec<Record>) {
        let payloads: [(Kind, &[u8]); 4] = [
            (Kind::Base, b"{\"units\":[\"a\",\"b\"]}"),
            (Kind::Delta, b""),
            (Kind::Delta, &[7; 300]),
            (Kind::Event, b"{}"),
        ];
        let mut bytes = Vec::new();
        let mut records = Vec::new();
        for (n, (kind, payload)) in payloads.into_iter().enumerate() {
            bytes.extend(encode(kind, 9, n as u64, payload).expect("short"));
            records.push(Record {
                kind,
                generation: 9,
                number: n as u64,
                payload: payload.to_vec(),
            });
        }
        (bytes, records)
    }

    fn read(bytes: &[u8]) -> Row {
        read_row(&mut { bytes }).expect("memory has no errors")
    }

    /// A header that is sound whatever it says.
    fn header(version: u16, kind: u8, length: u32) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend([kind, 0]);
        bytes.extend(length.to_le_bytes());
        bytes.extend([0; 20]);
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_le_bytes());
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let (bytes, records) = row();
        let read = read(&bytes);
        assert_eq!(read.records, records);
        assert_eq!((read.sound, read.fault), (bytes.len() as u64, None));
        let pieces = read_through(&bytes);
        assert_eq!(pieces.fault, None);
        let found: Vec<Record> = pieces.records.into_iter().map(|(_, record)| record).collect();
        assert_eq!(found, records);
    }

    /// B13
    #[test]
    fn a_row_cut_at_any_byte_keeps_the_records_before_the_cut() {
        let (bytes, records) = row();
        let mut ends = vec![0];
        for record in &records {
            ends.push(ends.last().expect("one") + record.size());
        }
        for cut in 0..bytes.len() {
            let read = read(&bytes[..cut]);
            let whole = ends.iter().filter(|end| **end <= cut as u64).count() - 1;
            assert_eq!(read.records, records[..whole], "cut at {cut}");
            let is_clean = ends.contains(&(cut as u64));
            assert_eq!(read.fault, (!is_clean).then_some(Fault::CutShort), "cut at {cut}");
            assert_eq!(read.sound, ends[whole]);
        }
    }

    /// B13
    #[test]
    fn no_flipped_bit_makes_a_wrong_record() {
        let (bytes, records) = row();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let read = read(&bytes);
                assert!(read.fault.is_some(), "byte {at} bit {bit}");
                assert_eq!(read.records, records[..read.records.len()], "byte {at} bit {bit}");
                let pieces = read_through(&bytes);
                assert!(pieces.fault.is_some());
                assert_eq!(
                    pieces.records.len(),
                    records.len() - 1,
                    "byte {at} bit {bit}: one is lost"
                );
                assert!(pieces.records.iter().all(|(_, record)| records.contains(record)));
            }
        }
    }

    /// B13
    #[test]
    fn a_newer_version_is_told_from_damage_and_odd_headers_are_refused() {
        assert_eq!(read(&header(8, 1, 0)).fault, Some(Fault::Newer(8)));
        assert_eq!(read(&header(8, 77, u32::MAX)).fault, Some(Fault::Newer(8)));
        assert!(Fault::Newer(8).to_string().contains("version 8"));
        assert_eq!(read(&header(0, 1, 0)).fault, Some(Fault::Unknown));
        assert_eq!(read(&header(1, 0, 0)).fault, Some(Fault::Unknown));
        assert_eq!(read(&header(1, 1, u32::MAX)).fault, Some(Fault::TooLong));
        assert_eq!(read(&header(1, 1, 1 << 28)).fault, Some(Fault::CutShort));
        assert_eq!(read(&[0; 4096]).fault, Some(Fault::NoRecord));
        assert_eq!(read(&[]), Row::default());
    }

    #[test]
    fn the_bytes_of_version_one_stay_as_they_are() {
        let bytes = encode(Kind::Delta, 2, 3, b"{\"a\":1}").expect("short");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let header = "895252530d0a1a0a010002000700000002000000000000000300000000000000afac1b56a1532189";
        assert_eq!(hex, format!("{header}7b2261223a317d"));
    }

    proptest! {
        #[test]
        fn any_damage_leaves_a_part_of_what_was_written(
            at in 0usize..600, noise in prop::collection::vec(any::<u8>(), 0..80), insert in any::<bool>()
        ) {
            let (mut bytes, records) = row();
            let at = at.min(bytes.len());
            let end = if insert { at } else { (at + noise.len()).min(bytes.len()) };
            bytes.splice(at..end, noise);
            let row = read(&bytes);
            prop_assert_eq!(&row.records[..], &records[..row.records.len()]);
            let pieces = read_through(&bytes);
            prop_assert!(pieces.records.iter().all(|(_, record)| records.contains(record)));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(&bytes);
            prop_assert!(read(&bytes).records.is_empty());
            prop_assert!(read(&with_magic).records.is_empty());
            prop_assert!(read_through(&with_magic).records.is_empty());
        }
    }
}
