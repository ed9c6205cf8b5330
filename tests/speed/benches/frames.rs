//! What it takes to make frames of values, and values of frames.
#![allow(missing_docs)] // of the function that criterion_group! makes

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use proto::codec::{decode, encode};
use proto::frame::{Answer, Ask};
use proto::reply::{Exit, LineEnd, LogLine, Names, Reply};
use proto::request::Request;
use ringriftd::ids::{Invocation, LaunchId};
use ringriftd::keeper::wire::FromKeeper;
use serde::{Serialize, de::DeserializeOwned};
use speed::files::name;

fn both_ways<T: Serialize + DeserializeOwned>(criterion: &mut Criterion, what: &str, value: &T) {
    let bytes = encode(value).expect("it fits into a frame");
    let mut group = criterion.benchmark_group(format!("frame, {what} ({} bytes)", bytes.len()));
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |b| b.iter(|| encode(std::hint::black_box(value))));
    group.bench_function("decode", |b| b.iter(|| decode::<T>(std::hint::black_box(&bytes))));
}

fn frames(criterion: &mut Criterion) {
    let ask = Ask {
        id: 1,
        token: None,
        request: Request::Version,
    };
    both_ways(criterion, "the smallest question", &ask);
    let exited = FromKeeper::Exited {
        id: LaunchId::main(Invocation(1234)),
        exit: Exit::Code(1),
        remains: Vec::new(),
        used: Default::default(),
    };
    both_ways(criterion, "an exit", &exited);
    for units in [78, 10_000] {
        let names = Names {
            units: (0..units).map(name).collect(),
            profiles: vec!["all".into()],
            categories: Vec::new(),
        };
        let answer = Answer {
            id: 1,
            reply: Reply::Names(names),
        };
        both_ways(criterion, &format!("the names of {units} units"), &answer);
    }
    let line = |number: u64| LogLine {
        at_us: 1_700_000_000_000_000 + number,
        unit: name(7),
        invocation: 3,
        message: vec![b'x'; 99],
        end: LineEnd::Whole,
        severity: None,
        stream: None,
    };
    let logs = Answer {
        id: 1,
        reply: Reply::Logs((0..500).map(line).collect()),
    };
    both_ways(criterion, "500 lines of a log", &logs);
}

criterion_group!(benches, frames);
criterion_main!(benches);
