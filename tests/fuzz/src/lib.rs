//! The bodies of the fuzz targets: each takes any bytes, and panics when something is wrong with what is made of them. A
//! fuzzer throws bytes at them (`tests/fuzz/libfuzzer`), and a test the corpus that it left (`tests/fuzz/tests/corpus.rs`).
//!
//! What they are for, and how they are run: `docs/testing.md`.

pub mod engine;
pub mod files;
mod nonsense;
mod wires;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its corpus folder and of its binary.
    pub name: &'static str,
    /// What is done with the bytes; true when they were good for something.
    pub body: fn(&[u8]) -> bool,
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    target("frame", wires::frame),
    target("request", wires::request),
    target("keeper_wire", wires::keeper_wire),
    target("notify", wires::notify),
    target("config", files::config),
    target("log_lines", files::log_lines),
    target("event_ring", files::event_ring),
    target("state", engine::state),
    target("recording", engine::recording),
    target("nonsense", nonsense::nonsense),
];

const fn target(name: &'static str, body: fn(&[u8]) -> bool) -> Target {
    Target { name, body }
}

/// Runs the body of this name.
///
/// # Panics
/// When there is none, or when something is wrong.
pub fn run(name: &str, data: &[u8]) -> bool {
    let found = TARGETS.iter().find(|target| target.name == name);
    (found.expect("a target of this name").body)(data)
}
