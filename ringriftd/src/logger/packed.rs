//! Rotated files that are compressed, and the one type by which all log files are read. A packed file is a row of
//! independent zstd frames of [`LOG_PACK_FRAME`] bytes of text each, with a table of them at its end (zstd's seekable
//! format, in a frame that other programs skip): `zstdcat` reads it, and so can we from any offset, at the cost of one
//! frame. Offsets are always those of the text, so that a file may be packed while somebody reads it.
//!
//! Knows no names and no folders. Read first: [`LogFile`] and [`pack`].

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx};

use crate::limits::{LOG_PACK_FRAME, LOG_PACK_LEVEL, LOG_PACK_MAX};

/// The first number of the frame that the table stands in: one of those that a decoder skips.
const TABLE_MAGIC: u32 = 0x184d_2a5e;
/// The last number of a file with a table.
const FOOTER_MAGIC: u32 = 0x8f92_eab1;
/// Number of frames, descriptor, [`FOOTER_MAGIC`].
const FOOTER: usize = 9;
/// [`TABLE_MAGIC`], and the length of what follows.
const HEAD: usize = 8;
/// A frame's packed and plain length.
const ENTRY: usize = 8;
/// No file that [`pack`] made has more frames.
const FRAMES_MAX: usize = (LOG_PACK_MAX as usize).div_ceil(LOG_PACK_FRAME);

thread_local! {
    /// Its 100 KiB are kept for a reader's next frame.
    static DECODER: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// A log file that is read: its text, however it is stored.
#[derive(Debug)]
pub enum LogFile {
    /// As it is.
    Plain(File),
    /// Packed.
    Packed(Packed),
}

impl LogFile {
    /// Reads text at an offset, as read(2) does: 0 bytes are its end.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read_at(buffer, at),
            Self::Packed(packed) => packed.read_at(buffer, at),
        }
    }

    /// As much as `buffer` holds, or as there is.
    pub fn read_full_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    /// All of `buffer`.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        match self.read_full_at(buffer, at)? == buffer.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The text's length now.
    pub fn len(&self) -> io::Result<u64> {
        match self {
            Self::Plain(file) => Ok(file.metadata()?.len()),
            Self::Packed(packed) => Ok(packed.len),
        }
    }
}

/// Where a frame begins.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// In the file.
    packed: u64,
    /// In the text.
    plain: u64,
}

/// The frame that was read last.
#[derive(Debug)]
struct Unpacked {
    number: usize,
    text: Vec<u8>,
}

/// A packed file. Holds the text of one frame, once something was read.
#[derive(Debug)]
pub struct Packed {
    file: File,
    /// In their order, with one behind the last.
    frames: Vec<Frame>,
    len: u64,
    last: RefCell<Unpacked>,
}

impl Packed {
    /// Reads the table at the end of a file. Refuses one without a table, or with frames of more than [`LOG_PACK_FRAME`]:
    /// those are another program's.
    pub fn open(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let foreign = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "a .zst file without a table at its end is not ringriftd's: read it by zstdcat, or move it away",
            )
        };
        let mut footer = [0; FOOTER];
        let footer_at = size.checked_sub(FOOTER as u64).ok_or_else(foreign)?;
        file.read_exact_at(&mut footer, footer_at)?;
        let count = number(&footer[..4]) as usize;
        let table_len = HEAD + count * ENTRY + FOOTER;
        let table_at = size.checked_sub(table_len as u64);
        let is_ours = number(&footer[5..]) == FOOTER_MAGIC && footer[4] == 0 && count <= FRAMES_MAX;
        let (true, Some(table_at)) = (is_ours, table_at) else {
            return Err(foreign());
        };
        let mut table = vec![0; table_len - FOOTER];
        file.read_exact_at(&mut table, table_at)?;
        if number(&table[..4]) != TABLE_MAGIC || number(&table[4..8]) as usize != table_len - HEAD {
            return Err(foreign());
        }
        let mut at = Frame { packed: 0, plain: 0 };
        let mut frames = Vec::with_capacity(count + 1);
        for entry in table[HEAD..].chunks_exact(ENTRY) {
            frames.push(at);
            let (packed, plain) = (number(&entry[..4]), number(&entry[4..]));
            // What is allocated for a frame is bounded, whatever stands in a file.
            let is_large = packed as usize > zstd_safe::compress_bound(LOG_PACK_FRAME);
            if plain == 0 || plain as usize > LOG_PACK_FRAME || is_large {
                return Err(foreign());
            }
            at.packed += u64::from(packed);
            at.plain += u64::from(plain);
        }
        frames.push(at);
        if at.packed != table_at {
            return Err(foreign());
        }
        Ok(Self {
            file,
            frames,
            len: at.plain,
            last: RefCell::new(Unpacked {
                number: usize::MAX,
                text: Vec::new(),
            }),
        })
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        if at >= self.len {
            return Ok(0);
        }
        let number = self.frames.partition_point(|frame| frame.plain <= at) - 1;
        let mut last = self.last.borrow_mut();
        if last.number != number {
            self.unpack(number, &mut last)?;
        }
        let from = (at - self.frames[number].plain) as usize;
        let count = buffer.len().min(last.text.len() - from);
        buffer[..count].copy_from_slice(&last.text[from..from + count]);
        Ok(count)
    }

    fn unpack(&self, number: usize, into: &mut Unpacked) -> io::Result<()> {
        let (begin, end) = (self.frames[number], self.frames[number + 1]);
        let mut packed = vec![0; (end.packed - begin.packed) as usize];
        self.file.read_exact_at(&mut packed, begin.packed)?;
        let plain = (end.plain - begin.plain) as usize;
        into.number = usize::MAX; // until it is whole
        into.text.clear();
        into.text.reserve_exact(plain);
        let found = DECODER.with_borrow_mut(|decoder| decoder.decompress(&mut into.text, &packed));
        match found.map_err(wrong)? == plain {
            true => into.number = number,
            false => return Err(wrong_length()),
        }
        Ok(())
    }
}

/// Four bytes, the lowest first.
fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .take(4)
        .rev()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn wrong(code: zstd_safe::ErrorCode) -> io::Error {
    let why = zstd_safe::get_error_name(code);
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a packed log is damaged: {why}"),
    )
}

fn wrong_length() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "a packed log is damaged: a frame has another length",
    )
}

/// Packs the first `len` bytes of `from` into `to`, which is empty, and reads all of it back before it is called well:
/// what is packed is then removed, so that nothing else would have it. `go_on` is asked before each frame. Returns
/// whether it came to the end. Memory: two frames, and an encoder of some MiB.
pub fn pack(from: &File, len: u64, to: &File, go_on: &dyn Fn() -> bool) -> io::Result<bool> {
    let mut encoder = CCtx::create();
    for parameter in [
        CParameter::CompressionLevel(LOG_PACK_LEVEL),
        CParameter::ChecksumFlag(true),
    ] {
        encoder.set_parameter(parameter).map_err(wrong)?;
    }
    let mut plain = vec![0; LOG_PACK_FRAME];
    let mut packed = Vec::with_capacity(zstd_safe::compress_bound(LOG_PACK_FRAME));
    let mut table = Vec::new();
    let (mut at, mut end) = (0, 0);
    while at < len {
        if !go_on() {
            return Ok(false);
        }
        let want = usize::try_from(len - at)
            .unwrap_or(usize::MAX)
            .min(LOG_PACK_FRAME);
        from.read_exact_at(&mut plain[..want], at)?;
        packed.clear();
        encoder.compress2(&mut packed, &plain[..want]).map_err(wrong)?;
        to.write_all_at(&packed, end)?;
        table.extend_from_slice(&(packed.len() as u32).to_le_bytes());
        table.extend_from_slice(&(want as u32).to_le_bytes());
        at += want as u64;
        end += packed.len() as u64;
    }
    let count = (table.len() / ENTRY) as u32;
    let mut tail = TABLE_MAGIC.to_le_bytes().to_vec();
    tail.extend_from_slice(&((table.len() + FOOTER) as u32).to_le_bytes());
    tail.extend_from_slice(&table);
    tail.extend_from_slice(&count.to_le_bytes());
    tail.push(0); // no checksums here: each frame has its own
    tail.extend_from_slice(&FOOTER_MAGIC.to_le_bytes());
    to.write_all_at(&tail, end)?;
    to.sync_all()?;
    is_the_same(from, len, to, &mut plain, go_on)
}

fn is_the_same(
    from: &File,
    len: u64,
    to: &File,
    plain: &mut [u8],
    go_on: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let back = LogFile::Packed(Packed::open(to.try_clone()?)?);
    let mut again = vec![0; plain.len()];
    let mut at = 0;
    while at < len {
        if !go_on() {
            return Ok(false);
        }
        let want = usize::try_from(len - at).unwrap_or(usize::MAX).min(plain.len());
        from.read_exact_at(&mut plain[..want], at)?;
        back.read_exact_at(&mut again[..want], at)?;
        if plain[..want] != again[..want] {
            return Err(io::Error::other("what was packed is not what is read back"));
        }
        at += want as u64;
    }
    match back.len()? == len {
        true => Ok(true),
        false => Err(wrong_length()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn packed(text: &[u8]) -> (File, LogFile) {
        let (mut plain, file) = (
            tempfile::tempfile().expect("a file"),
            tempfile::tempfile().expect("a file"),
        );
        plain.write_all(text).expect("written");
        assert!(pack(&plain, text.len() as u64, &file, &|| true).expect("packed"));
        let again = file.try_clone().expect("a descriptor");
        (file, LogFile::Packed(Packed::open(again).expect("ours")))
    }

    /// Half of it repeats, half does not.
    fn text(len: usize) -> Vec<u8> {
        let mut state = len as u32 | 1;
        (0..len)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at % 1000 < 500 {
                    b'x'
                } else {
                    (state >> 24) as u8
                }
            })
            .collect()
    }

    #[test]
    fn every_offset_reads_what_the_plain_file_has() {
        for len in [
            0,
            1,
            LOG_PACK_FRAME - 1,
            LOG_PACK_FRAME,
            LOG_PACK_FRAME + 1,
            5 * LOG_PACK_FRAME + 77,
        ] {
            let text = text(len);
            let (_, file) = packed(&text);
            assert_eq!(file.len().expect("known"), len as u64);
            for at in [
                0,
                1,
                500,
                len / 2,
                len.saturating_sub(3),
                len,
                len + 9,
                LOG_PACK_FRAME - 2,
            ] {
                for want in [0, 1, 3, 70_000, 3 * LOG_PACK_FRAME] {
                    let mut buffer = vec![0; want];
                    let got = file.read_full_at(&mut buffer, at as u64).expect("read");
                    let wanted = &text[at.min(len)..(at + want).min(len)];
                    assert!(buffer[..got] == *wanted, "{want} bytes at {at} of {len}");
                }
            }
        }
    }

    #[test]
    fn any_decoder_reads_it_from_beginning_to_end() {
        let text = text(3 * LOG_PACK_FRAME + 5);
        let (file, _) = packed(&text);
        let mut bytes = vec![0; file.metadata().expect("known").len() as usize];
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert!(bytes.len() < text.len());
        let mut back = Vec::new();
        let mut stream = zstd::stream::read::Decoder::new(&bytes[..]).expect("a decoder");
        stream.read_to_end(&mut back).expect("decoded");
        assert!(back == text);
    }

    #[test]
    fn what_is_damaged_or_another_programs_is_refused() {
        let text = text(2 * LOG_PACK_FRAME);
        let (file, _) = packed(&text);
        let size = file.metadata().expect("known").len();
        let again = || file.try_clone().expect("a descriptor");
        // One byte of a frame.
        let mut byte = [0];
        file.read_exact_at(&mut byte, size / 2).expect("read");
        file.write_all_at(&[!byte[0]], size / 2).expect("written");
        let damaged = LogFile::Packed(Packed::open(again()).expect("its table is well"));
        let mut buffer = vec![0; text.len()];
        damaged.read_exact_at(&mut buffer, 0).expect_err("damaged");
        // Every shorter file.
        for cut in [1, 8, 9, 20, size / 2, size] {
            file.set_len(size - cut).expect("cut");
            Packed::open(again()).expect_err("no table");
        }
        file.write_all_at(&zstd::encode_all(&text[..], 1).expect("encoded"), 0)
            .expect("written");
        let error = Packed::open(again()).expect_err("zstd's own");
        assert!(error.to_string().contains("zstdcat"), "{error}");
    }

    #[test]
    fn packing_ends_when_it_is_told() {
        let mut plain = tempfile::tempfile().expect("a file");
        plain.write_all(&text(LOG_PACK_FRAME * 3)).expect("written");
        let to = tempfile::tempfile().expect("a file");
        let left = std::cell::Cell::new(2);
        let go_on = || left.replace(left.get() - 1) > 0;
        assert!(!pack(&plain, 3 * LOG_PACK_FRAME as u64, &to, &go_on).expect("ended"));
    }
}
