//! A daemon that misbehaves.
fn main() {}
