//! What a step of the engine takes: one event in, all its actions out. In a calm world of independent units.
#![allow(missing_docs)] // of the function that criterion_group! makes

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use speed::calm::Calm;
use speed::files::{Shape, plan, write_node};

/// Something that happens to a unit of this number.
type Deed = fn(&mut Calm, usize);

const SIZES: [usize; 3] = [78, 1000, 10_000];

fn steps(criterion: &mut Criterion) {
    for units in SIZES {
        let folder = tempfile::tempdir().expect("a folder");
        let shape = Shape {
            units,
            edges: 0,
            command: "[\"/bin/true\"]",
        };
        write_node(folder.path(), shape).expect("a node's files");
        let plan = plan(folder.path());
        let mut group = criterion.benchmark_group(format!("engine, a step at {units} units"));
        if units > 1000 {
            group.sample_size(10).measurement_time(Duration::from_secs(10));
        }
        group.bench_function("boot", |b| {
            b.iter_custom(|rounds| {
                (0..rounds)
                    .map(|_| {
                        let calm = Calm::booted(&plan);
                        assert_eq!(calm.units(), units);
                        calm.per_step()
                    })
                    .sum()
            });
        });
        let mut calm = Calm::booted(&plan);
        let deeds: [(&str, Deed); 3] = [
            ("exit and restart", Calm::die),
            ("stop and start", Calm::stop_and_start),
            ("timer with nothing due", |calm, _| calm.tick()),
        ];
        for (what, deed) in deeds {
            // Each unit takes its turn: one that dies too often within its window stays down.
            let mut turn = 0;
            group.bench_function(what, |b| {
                b.iter_custom(|rounds| {
                    (0..rounds)
                        .map(|_| {
                            calm.reset();
                            deed(&mut calm, turn % units);
                            turn += 1;
                            calm.per_step()
                        })
                        .sum()
                });
            });
        }
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
