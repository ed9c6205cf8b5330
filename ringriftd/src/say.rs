//! Words for people on stderr, which keeper, manager and logger share: a whole line in one write(2), so that two never
//! mix, and no panic when nobody is there to read it, as `eprintln!` would.

use std::fmt::Arguments;
use std::io::Write;

/// Writes one line; what [`say!`](crate::say!) calls.
pub fn line(words: Arguments<'_>) {
    let line = format!("{words}\n");
    // Whoever read it has gone, or the disk behind it is full: there is nobody left to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// As `eprintln!`, but see [`line`].
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => { $crate::say::line(format_args!($($words)*)) };
}
