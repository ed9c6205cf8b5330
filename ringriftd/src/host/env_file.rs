//! Environment files: `KEY=value` lines. No shell reads them, so nothing in them is expanded: `$`, backquotes and
//! `\n` stand for themselves. Errors name file and line and never a value: a value may be a secret.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::limits::ENV_FILE_MAX;

/// Why a file could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvFileError {
    /// There is none (an optional file may be absent).
    Absent,
    /// It cannot be opened or read.
    Unreadable {
        /// In words, with the cause.
        text: String,
        /// The host ran out of something; the file may be fine.
        host: bool,
    },
    /// A line is not `KEY=value`.
    Line {
        /// Counts from 1.
        line: usize,
        /// In words.
        text: &'static str,
    },
}

/// Reads the file at `path` and gives its variables in the order of its lines. Blocks as long as the disk does, but
/// not on a FIFO, a socket or a device: only regular files are read.
pub fn read(path: &Path) -> Result<Vec<(String, String)>, EnvFileError> {
    let unreadable = |text: String| EnvFileError::Unreadable { text, host: false };
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| match e.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => EnvFileError::Absent,
            Some(errno) => EnvFileError::Unreadable {
                text: super::explain::errno_text(errno),
                host: super::explain::is_host_fault(errno),
            },
            None => unreadable(e.to_string()),
        })?;
    // Asked of the open file, so that nobody can swap it in between.
    let meta = file.metadata().map_err(|e| unreadable(e.to_string()))?;
    if !meta.is_file() {
        return Err(unreadable("it is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let read = Read::take(&mut file, ENV_FILE_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|e| unreadable(e.to_string()))?;
    if bytes.len() as u64 > ENV_FILE_MAX {
        return Err(unreadable(format!(
            "it is larger than the {ENV_FILE_MAX} bytes allowed"
        )));
    }
    parse(&bytes)
}

/// The variables of a file's bytes.
pub fn parse(bytes: &[u8]) -> Result<Vec<(String, String)>, EnvFileError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut variables = Vec::new();
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let at = |text| EnvFileError::Line { line: i + 1, text };
        let line = std::str::from_utf8(line).map_err(|_| at("it is not valid UTF-8"))?;
        if line.contains('\0') {
            return Err(at("it contains a NUL byte"));
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| at("it is not KEY=value"))?;
        let key = key.trim_end();
        if key.starts_with("export ") || key.starts_with("export\t") {
            return Err(at("no shell reads this file: leave out `export`"));
        }
        if !is_variable(key) {
            return Err(at("the name is not made of letters, digits and _"));
        }
        variables.push((key.to_owned(), unquote(value.trim_start()).map_err(at)?));
    }
    Ok(variables)
}

/// `text` may be the name of an environment variable.
pub fn is_variable(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Takes off one pair of quotes. Between double quotes `\"` and `\\` lose their backslash; every other character
/// stands for itself.
fn unquote(value: &str) -> Result<String, &'static str> {
    let (quote, rest) = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => (quote, &value[1..]),
        _ => return Ok(value.to_owned()),
    };
    let mut out = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next() {
            None => return Err("a quote is opened and not closed in the same line"),
            Some(c) if c == quote => break,
            Some('\\') if quote == '"' => match chars.clone().next() {
                Some(c @ ('"' | '\\')) => {
                    chars.next();
                    out.push(c);
                }
                _ => out.push('\\'),
            },
            Some(c) => out.push(c),
        }
    }
    let tail = chars.as_str().trim_start();
    if tail.is_empty() || tail.starts_with('#') {
        Ok(out)
    } else {
        Err("something follows the closing quote")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ok(text: &str, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        assert_eq!(parse(text.as_bytes()), Ok(expected), "{text:?}");
    }

    fn bad(bytes: &[u8], line: usize, words: &str) {
        match parse(bytes) {
            Err(EnvFileError::Line { line: at, text }) => {
                assert_eq!(at, line, "{bytes:?}");
                assert!(text.contains(words), "{bytes:?}: {text}");
            }
            other => panic!("{bytes:?}: {other:?}"),
        }
    }

    #[test]
    fn lines_become_variables() {
        ok("", &[]);
        ok("A=1", &[("A", "1")]);
        ok(
            "A=1\n\n# no\n  B = two words  \n",
            &[("A", "1"), ("B", "two words")],
        );
        ok("A=", &[("A", "")]);
        ok("A=b=c", &[("A", "b=c")]);
        ok("\u{feff}A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]);
        ok("A=1\nA=2", &[("A", "1"), ("A", "2")]);
    }

    #[test]
    fn quotes_keep_spaces() {
        ok("A='  x  '", &[("A", "  x  ")]);
        ok(r#"A="say \"hi\" \\ \n""#, &[("A", r#"say "hi" \ \n"#)]);
        ok(r#"A='\"'"#, &[("A", r#"\""#)]);
        ok("A=\"x\" # why", &[("A", "x")]);
        ok("A=it's", &[("A", "it's")]);
    }

    #[test]
    fn nothing_is_expanded() {
        ok("A=$HOME `id` ${B}", &[("A", "$HOME `id` ${B}")]);
        ok("A=#x", &[("A", "#x")]);
    }

    #[test]
    fn faults_name_their_line() {
        bad(b"A=1\nrubbish\n", 2, "KEY=value");
        bad(b"export A=1", 1, "export");
        bad(b"1A=1", 1, "letters");
        bad(b"=1", 1, "letters");
        bad(b"A='x", 1, "not closed");
        bad(b"A='x'y", 1, "follows");
        bad(b"\nA=\0", 2, "NUL");
        bad(b"\n\nA=\xff", 3, "UTF-8");
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        assert_eq!(read(&path("none")), Err(EnvFileError::Absent));
        let unreadable = |path: &Path, words: &str| match read(path) {
            Err(EnvFileError::Unreadable { text, host: false }) => assert!(text.contains(words), "{text}"),
            other => panic!("{}: {other:?}", path.display()),
        };
        unreadable(dir.path(), "regular");
        unreadable(Path::new("/dev/zero"), "regular");
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        unreadable(&path("fifo"), "regular");
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("a socket");
        unreadable(&path("socket"), "ENXIO");
        std::os::unix::fs::symlink(path("loop"), path("loop")).expect("a link");
        unreadable(&path("loop"), "ELOOP");
        std::fs::write(path("big"), vec![b'#'; ENV_FILE_MAX as usize + 1]).expect("write");
        unreadable(&path("big"), "larger");
        std::fs::write(path("full"), vec![b'#'; ENV_FILE_MAX as usize]).expect("write");
        assert_eq!(read(&path("full")), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(variables) = parse(&bytes) {
                for (key, value) in variables {
                    prop_assert!(is_variable(&key) && !value.contains(['\0', '\n']));
                }
            }
        }

        #[test]
        fn quoted_values_come_back(value in "[^\0\n\r]{0,40}") {
            let quoted = value.replace('\\', r"\\").replace('"', "\\\"");
            let line = format!("A=\"{quoted}\"");
            prop_assert_eq!(parse(line.as_bytes()), Ok(vec![("A".to_owned(), value)]));
        }
    }
}
