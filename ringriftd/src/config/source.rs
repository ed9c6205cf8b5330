//! Reads files and folders as if somebody meant harm by them: sizes first, no links, nothing that blocks, regular
//! files only, read at one moment. Also the map from byte offsets to lines and columns.
//!
//! It never decides that something is absent because it could not be read: that is a [`Refusal`].

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::diagnostic::Place;
use crate::limits;

/// How often a file that changes under the reader is read again.
const READ_TRIES: usize = 4;
/// What stands for a hidden value.
const HIDDEN: &str = "…";

/// A file that was read.
#[derive(Debug)]
pub struct Source {
    /// As people call it.
    pub shown: String,
    /// What it says, without a byte order mark.
    pub text: String,
    /// Where each line begins.
    lines: Vec<usize>,
    /// Values of environment variables, never shown.
    hidden: Vec<Range<usize>>,
}

/// The number of a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId(u32);

/// Some bytes of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Which source.
    pub file: FileId,
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

/// Every file that was read.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
}

impl Sources {
    /// Keeps a file.
    pub fn add(&mut self, shown: String, text: String) -> FileId {
        let lines = std::iter::once(0)
            .chain(
                text.bytes()
                    .enumerate()
                    .filter(|(_, b)| *b == b'\n')
                    .map(|(i, _)| i + 1),
            )
            .collect();
        let hidden = secrets_by_line(&text);
        self.files.push(Source {
            shown,
            text,
            lines,
            hidden,
        });
        FileId(u32::try_from(self.files.len() - 1).unwrap_or(u32::MAX))
    }

    /// A file.
    pub fn get(&self, id: FileId) -> &Source {
        &self.files[id.0 as usize]
    }

    /// Says which values are never shown. Until then, lines tell, which hides more than it must; with
    /// `instead` only these are hidden.
    pub fn hide(&mut self, id: FileId, ranges: Vec<Range<usize>>, instead: bool) {
        let hidden = &mut self.files[id.0 as usize].hidden;
        if instead {
            hidden.clear();
        }
        hidden.extend(ranges);
    }

    /// The place of a span, for people.
    pub fn place(&self, span: Span) -> Place {
        self.get(span.file).place(span.start as usize..span.end as usize)
    }

    /// A whole file's place.
    pub fn file_place(&self, id: FileId) -> Place {
        Place::file(&self.get(id).shown)
    }
}

impl Source {
    fn line_of(&self, offset: usize) -> usize {
        self.lines
            .partition_point(|start| *start <= offset)
            .saturating_sub(1)
    }

    /// The place of some bytes.
    pub fn place(&self, range: Range<usize>) -> Place {
        let start = floor(&self.text, range.start);
        let end = floor(&self.text, range.end).max(start);
        let line = self.line_of(start);
        let from = self.lines[line];
        let to = self.lines.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let column = self.text[from..start].chars().count();
        let width = self.text[start..end.min(to).max(start)].chars().count();
        Place::point(
            &self.shown,
            line,
            column,
            width,
            self.masked(from..to).trim_end_matches('\r'),
        )
    }

    /// The line (from 0) that a byte is on.
    pub fn line(&self, offset: usize) -> usize {
        self.line_of(floor(&self.text, offset))
    }

    /// The text of some bytes with what is hidden replaced, character by character so that columns stay.
    fn masked(&self, range: Range<usize>) -> String {
        let hidden: Vec<&Range<usize>> = self
            .hidden
            .iter()
            .filter(|h| h.start < range.end && h.end > range.start)
            .collect();
        if hidden.is_empty() {
            return self.text[range].to_owned();
        }
        self.text[range.clone()]
            .char_indices()
            .map(|(i, c)| {
                let at = range.start + i;
                let is_hidden = hidden.iter().any(|h| h.contains(&at));
                if is_hidden && c != '\n' && c != '\r' {
                    '•'
                } else {
                    c
                }
            })
            .collect()
    }

    /// What the file says, with each hidden value replaced by one mark, cut at `most` bytes.
    pub fn public_text(&self, most: usize) -> String {
        let mut hidden = self.hidden.clone();
        hidden.sort_by_key(|h| h.start);
        let mut out = String::new();
        let mut at = 0;
        for range in hidden {
            let (start, end) = (floor(&self.text, range.start), floor(&self.text, range.end));
            if start < at {
                at = at.max(end);
                continue;
            }
            out.push_str(&self.text[at..start]);
            if end > start {
                out.push_str(HIDDEN);
            }
            at = end;
        }
        out.push_str(&self.text[at.min(self.text.len())..]);
        out.truncate(floor(&out, most));
        out
    }
}

/// The last character boundary at or before `offset`.
fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// Values of environment variables as far as lines tell, for files too broken to parse: all that follows `=` below a
/// header that ends in `env`, and after a key `env`.
fn secrets_by_line(text: &str) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    let mut in_env = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let trimmed = line.trim();
        if trimmed.starts_with('[') && !trimmed.contains('=') {
            in_env = header_is_env(trimmed);
            continue;
        }
        let Some(equals) = line.find('=') else { continue };
        let key: String = line[..equals].split_whitespace().collect();
        let key = key.replace(['"', '\''], "");
        if in_env || key.split('.').any(|part| part == "env") {
            let from = start + equals + 1;
            let value = &text[from..at];
            let lead = value.len() - value.trim_start().len();
            let end = at - (value.len() - value.trim_end().len());
            if from + lead < end {
                hidden.push(from + lead..end);
            }
        }
    }
    hidden
}

fn header_is_env(header: &str) -> bool {
    let inner = header
        .trim_start_matches('[')
        .split(']')
        .next()
        .unwrap_or_default();
    inner
        .split('.')
        .any(|part| part.trim().trim_matches(['"', '\'']) == "env")
}

/// Why something was not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong, without the path.
    pub what: String,
    /// The rule.
    pub why: Option<String>,
    /// The remedy.
    pub help: Option<String>,
    /// The path does not exist.
    pub is_absent: bool,
}

impl Refusal {
    fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: None,
            help: None,
            is_absent: false,
        }
    }

    fn why(mut self, why: &str) -> Self {
        self.why = Some(why.to_owned());
        self
    }

    fn help(mut self, help: &str) -> Self {
        self.help = Some(help.to_owned());
        self
    }

    fn errno(verb: &str, errno: Errno) -> Self {
        let mut refusal = Self::new(format!("cannot {verb}: {}", errno.desc()));
        refusal.is_absent = errno == Errno::ENOENT;
        match errno {
            Errno::ELOOP => Self::new("is a symbolic link")
                .why("links are not followed, so that nobody can point the daemon at another file")
                .help("put the file itself here, or name the folder it lies in with a flag"),
            Errno::EACCES => refusal.help(
                "let the user that ringriftd runs as read it; an unreadable file never counts as removed",
            ),
            _ => refusal,
        }
    }
}

/// A folder that was opened, and what was in it at that moment.
#[derive(Debug)]
pub struct Folder {
    /// Its real path, without links.
    pub path: PathBuf,
    fd: OwnedFd,
    /// The names in it, sorted, those of editors' leftovers left out.
    pub names: Vec<String>,
    /// Names that are not UTF-8, as far as they can be shown.
    pub unreadable_names: Vec<String>,
}

impl Folder {
    /// Opens and lists a folder. A folder that does not exist is told by `is_absent`.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let real = path
            .canonicalize()
            .map_err(|e| Refusal::errno("open", e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
        let fd = open(
            &real,
            OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_RDONLY,
            Mode::empty(),
        )
        .map_err(|e| Refusal::errno("open", e))?;
        let listed = fd
            .try_clone()
            .map_err(|e| Refusal::new(format!("cannot open: {e}")))?;
        let mut dir = nix::dir::Dir::from_fd(listed).map_err(|e| Refusal::errno("list", e))?;
        let mut names = Vec::new();
        let mut unreadable_names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|e| Refusal::errno("list", e))?;
            let bytes = entry.file_name().to_bytes();
            match std::str::from_utf8(bytes) {
                Ok("." | "..") => {}
                Ok(name) if is_leftover(name) => {}
                Ok(name) => names.push(name.to_owned()),
                Err(_) => unreadable_names.push(String::from_utf8_lossy(bytes).into_owned()),
            }
            if names.len() + unreadable_names.len() > limits::FILES_MAX {
                return Err(Refusal::new(format!(
                    "holds more than {} files",
                    limits::FILES_MAX
                )));
            }
        }
        names.sort();
        unreadable_names.sort();
        Ok(Self {
            path: real,
            fd,
            names,
            unreadable_names,
        })
    }

    /// Opens a folder in this one; a link is refused.
    pub fn folder(&self, name: &str) -> Result<Option<Self>, Refusal> {
        let path = self.path.join(name);
        let kind = path
            .symlink_metadata()
            .map_err(|e| Refusal::errno("open", e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
        if kind.file_type().is_symlink() {
            return Err(Refusal::errno("open", Errno::ELOOP));
        }
        if !kind.is_dir() {
            return Ok(None);
        }
        Self::open(&path).map(Some)
    }

    /// Reads a file of this folder.
    pub fn read(&self, name: &str) -> Result<Bytes, Refusal> {
        read(self.fd.as_fd(), name)
    }
}

/// Files that editors leave behind, and hidden ones.
fn is_leftover(name: &str) -> bool {
    let ends = [
        "~", ".swp", ".swo", ".swx", ".tmp", ".bak", ".orig", ".rej", ".part",
    ];
    name.starts_with('.')
        || (name.starts_with('#') && name.ends_with('#'))
        || name == "4913"
        || ends.iter().any(|end| name.ends_with(end))
}

/// A file's bytes, and who may change them.
#[derive(Debug)]
pub struct Bytes {
    /// What it says.
    pub bytes: Vec<u8>,
    /// Whose it is.
    pub owner: u32,
    /// `st_mode`.
    pub mode: u32,
}

/// Reads one file beside others, whatever it is, without ever waiting.
fn read(dir: BorrowedFd<'_>, name: &str) -> Result<Bytes, Refusal> {
    for _ in 0..READ_TRIES {
        // O_NONBLOCK: opening a FIFO without a writer would wait for one. It means nothing to a regular file.
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let fd = openat(dir, name, flags, Mode::empty()).map_err(|e| match e {
            // open(2): a socket.
            Errno::ENXIO => not_regular(),
            e => Refusal::errno("read", e),
        })?;
        let mut file = std::fs::File::from(fd);
        let broken = |e: std::io::Error| Refusal::new(format!("cannot read: {e}"));
        let before = file.metadata().map_err(broken)?;
        if !before.is_file() {
            return Err(not_regular());
        }
        if before.len() > limits::FILE_MAX {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(before.len() as usize);
        (&mut file)
            .take(limits::FILE_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(broken)?;
        if bytes.len() as u64 > limits::FILE_MAX {
            return Err(too_large());
        }
        let after = file.metadata().map_err(broken)?;
        let stamp = |m: &std::fs::Metadata| {
            (
                m.len(),
                m.mtime(),
                m.mtime_nsec(),
                m.ctime(),
                m.ctime_nsec(),
                m.nlink(),
            )
        };
        if stamp(&before) == stamp(&after) && after.nlink() > 0 && bytes.len() as u64 == after.len() {
            return Ok(Bytes {
                bytes,
                owner: after.uid(),
                mode: after.mode(),
            });
        }
    }
    Err(
        Refusal::new(format!("changed while it was read, {READ_TRIES} times in a row"))
            .help("write to another name and rename it over this one"),
    )
}

fn not_regular() -> Refusal {
    Refusal::new("is not a regular file").why("folders, pipes, sockets and devices are never read")
}

fn too_large() -> Refusal {
    Refusal::new(format!("is larger than {} KiB", limits::FILE_MAX / 1024))
        .why("files of this size are never read")
}

/// A file that would make all files together too large.
pub fn too_much() -> Refusal {
    Refusal::new(format!(
        "is past the {} MiB that all files together may have",
        limits::FILE_SET_MAX >> 20
    ))
    .why("all files are kept with the daemon's state")
    .help("remove files that no unit needs, or make them smaller")
}

/// Bytes as text: UTF-8, with or without a byte order mark, without NUL. The error is the offset of the first byte
/// that cannot stay, and what it is.
pub fn decode(bytes: Vec<u8>) -> Result<String, (usize, &'static str, String)> {
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            let lossy = String::from_utf8_lossy(e.as_bytes()).into_owned();
            return Err((at, "is not UTF-8", lossy));
        }
    };
    let text = match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    };
    match text.find('\0') {
        Some(at) => Err((at, "holds a NUL byte", text)),
        None => Ok(text),
    }
}

/// What is wrong with a file's owner or mode, given who runs ringriftd (spec/security.md S5).
pub fn defect(owner: u32, mode: u32, euid: u32) -> Option<String> {
    let bits = mode & 0o7777;
    let writers = match mode & 0o022 {
        0 => None,
        0o020 => Some("its group"),
        _ => Some("everybody"),
    };
    if euid == 0 {
        if owner != 0 {
            return Some(format!("belongs to uid {owner}, not to root"));
        }
        return writers.map(|who| format!("is writable by {who} (mode {bits:04o})"));
    }
    if owner != euid && owner != 0 {
        return Some(format!(
            "belongs to uid {owner}, neither to root nor to uid {euid}"
        ));
    }
    // A group of one's own is the rule on many systems, and its files are group-writable.
    (mode & 0o002 != 0).then(|| format!("is writable by everybody (mode {bits:04o})"))
}

/// The folders that somebody else may change, with what is wrong: for root `folder` and all above it, for a user
/// only `folder`, which lies below others that are not the user's to judge.
pub fn loose_ancestors(folder: &Path, euid: u32, forgive_sticky: bool) -> BTreeMap<PathBuf, String> {
    let mut loose = BTreeMap::new();
    let above = if euid == 0 { usize::MAX } else { 1 };
    for dir in folder.ancestors().take(above) {
        let found = match dir.symlink_metadata() {
            // Nobody but the owner can replace an entry of a sticky folder such as /tmp.
            Ok(m) if forgive_sticky && m.mode() & 0o1000 != 0 && m.uid() == 0 => None,
            Ok(m) => defect(m.uid(), m.mode(), euid),
            Err(e) => Some(format!("cannot be examined: {e}")),
        };
        if let Some(what) = found {
            loose.insert(dir.to_owned(), what);
        }
    }
    loose
}
