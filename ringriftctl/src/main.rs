//! Asks a running ringriftd.
fn main() {}
