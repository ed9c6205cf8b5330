//! What the engine is begun with, and what it is told.

use ringriftd::engine::Engine;
use ringriftd::engine::snapshot::{Delta, Snapshot};
use ringriftd::engine::types::{Event, Mono};
use ringriftd::tape::replay;
use ringriftd::tape::types::{Beginning, Step};

use super::files;

/// More actions than this without an end are a loop.
pub const ACTIONS_MAX: usize = 100_000;

/// Two units in a row, the first of which is asked how it is.
pub const FILES: &str =
    "requires = [\"b\"]\n[exec]\ncommand = [\"/bin/true\"]\n[health]\nprobe = { tcp = \"127.0.0.1:1\" }";

fn drain(engine: &mut Engine) {
    let mut actions = 0;
    while engine.poll_action().is_some() {
        actions += 1;
        assert!(actions < ACTIONS_MAX, "it asks for ever");
    }
    engine.take_delta();
}

/// A stored state, and changes of it, one JSON text a line. Whatever it says, an engine begins with it and goes on; and what
/// is stored of that one is what it began with.
pub fn state(data: &[u8]) -> bool {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Some(Ok(mut snapshot)) = lines.next().map(serde_json::from_slice::<Snapshot>) else {
        return false;
    };
    for line in lines {
        match serde_json::from_slice::<Delta>(line) {
            Ok(delta) => snapshot.apply(delta),
            Err(_) => break,
        }
    }
    let plan = files::load(&files::files(FILES))
        .expect("these files are good")
        .plan;
    let now = snapshot.node.now;
    let engine = Engine::restore(snapshot, &plan);
    let stored = engine.snapshot();
    let text = serde_json::to_string(&stored).expect("a state has a text");
    let read: Snapshot = serde_json::from_str(&text).expect("and is read from it");
    assert_eq!(read, stored);
    let mut engine = Engine::restore(stored.clone(), &plan);
    assert_eq!(engine.snapshot(), stored, "it is stored as it began");
    engine.resume(now);
    drain(&mut engine);
    for _ in 0..20 {
        let Some(next) = engine.next_deadline() else { break };
        engine.handle(next, Event::Tick);
        drain(&mut engine);
    }
    engine.handle(Mono(now.0.saturating_add(1)), Event::Loaded(plan));
    drain(&mut engine);
    true
}

/// A recording, one JSON text a line: what a section begins with, then what the engine is told, step by step. Nonsense is no
/// reason to fall, and what comes of it can be stored and gone on from.
pub fn recording(data: &[u8]) -> bool {
    let mut lines = data.split(|byte| *byte == b'\n');
    let Some(Ok(beginning)) = lines.next().map(serde_json::from_slice::<Beginning>) else {
        return false;
    };
    // Files that are refused are no recording.
    let Ok(mut engine) = replay::begin(beginning) else {
        return false;
    };
    for line in lines {
        let Ok(step) = Step::read(line) else { break };
        for input in &step.inputs {
            if replay::tell(&mut engine, input).is_err() {
                return false;
            }
        }
        drain(&mut engine);
    }
    let stored = engine.snapshot();
    let text = serde_json::to_string(&stored).expect("a state has a text");
    let read: Snapshot = serde_json::from_str(&text).expect("and is read from it");
    assert_eq!(read, stored);
    true
}
