//! What it takes to read, check and join a node's files. They stay in the page cache: no disk is measured.
#![allow(missing_docs)] // of the function that criterion_group! makes

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use speed::files::{Shape, plan, write_node};

fn loads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("configuration");
    for (units, edges) in [(78, 3), (1000, 10), (10_000, 10)] {
        let folder = tempfile::tempdir().expect("a folder");
        let shape = Shape {
            units,
            edges,
            command: "[\"/bin/true\"]",
        };
        write_node(folder.path(), shape).expect("a node's files");
        if units > 1000 {
            group.sample_size(10).measurement_time(Duration::from_secs(15));
        }
        group.bench_function(format!("{units} units, {edges} edges each"), |b| {
            b.iter(|| plan(folder.path()));
        });
    }
}

criterion_group!(benches, loads);
criterion_main!(benches);
