//! What comes over sockets.

use std::fmt::Debug;

use bytes::BytesMut;
use proto::codec;
use proto::frame::{Answer, Ask, Hello, MAX_FRAME, Welcome, framing};
use ringriftd::host::notify::{self, Notice};
use ringriftd::keeper::handover::Handover;
use ringriftd::keeper::wire::{FromKeeper, FromLogger, LogQuery, LogTail, ToKeeper, ToLogger};
use ringriftd::limits;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::codec::Decoder;

/// A value that can be read is written again and is then the same; the number of its bytes is within the bound.
fn both_ways<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> bool {
    let Ok(value) = codec::decode::<T>(data) else {
        return false;
    };
    let again = codec::encode(&value).expect("what was read can be written");
    assert!(again.len() <= codec::MAX_VALUE, "a value outgrew its bound");
    let read: T = codec::decode(&again).expect("what was written can be read");
    assert_eq!(read, value);
    true
}

/// The frames of a stream that arrives in pieces of `step` bytes; the last is what its end means.
fn frames(data: &[u8], step: usize) -> (Vec<Vec<u8>>, bool) {
    let mut codec = framing();
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in data.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => {
                    assert!(frame.len() <= MAX_FRAME, "a frame outgrew its bound");
                    frames.push(frame.to_vec());
                }
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
        // What a length promised is set aside at once, and is bounded by it.
        assert!(
            buffer.capacity() <= 4 * (MAX_FRAME + data.len()),
            "a length allocated too much"
        );
    }
    (frames, false)
}

/// A client's stream: however it is cut, the frames are the same.
pub fn frame(data: &[u8]) -> bool {
    let whole = frames(data, data.len().max(1));
    for step in [1, 3, 7] {
        assert_eq!(frames(data, step), whole, "in pieces of {step}");
    }
    let is_good = |frame: &Vec<u8>| both_ways::<Hello>(frame) | both_ways::<Ask>(frame);
    whole.0.iter().filter(|frame| is_good(frame)).count() > 0
}

/// A request, and what else is said at the control socket.
pub fn request(data: &[u8]) -> bool {
    both_ways::<Ask>(data) | both_ways::<Hello>(data) | both_ways::<Welcome>(data) | both_ways::<Answer>(data)
}

/// What the roles say to each other, and what a keeper leaves to the next.
pub fn keeper_wire(data: &[u8]) -> bool {
    if let Ok(left) = Handover::decode(data) {
        let again = left.encode().expect("what was read can be written");
        Handover::decode(&again).expect("what was written can be read");
        return true;
    }
    both_ways::<ToKeeper>(data)
        | both_ways::<FromKeeper>(data)
        | both_ways::<ToLogger>(data)
        | both_ways::<FromLogger>(data)
        | both_ways::<LogQuery>(data)
        | both_ways::<LogTail>(data)
}

/// A datagram of a unit: what is believed of it is within its bounds.
pub fn notify(data: &[u8]) -> bool {
    let Ok(notices) = notify::parse(data) else {
        return false;
    };
    assert!(data.len() <= limits::NOTIFY_MAX);
    for notice in notices {
        match notice {
            Notice::Status(text) => {
                assert!(text.len() <= limits::STATUS_TEXT_MAX, "{} bytes", text.len());
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
            Notice::Extend(by) => assert!(by <= limits::DURATION_MAX),
            Notice::MainPid(pid) => assert!(pid > 1, "pid {pid} is nobody's"),
            Notice::Metrics(metrics) => {
                assert!(metrics.len() <= limits::METRICS_MAX, "{} metrics", metrics.len());
                for (name, value) in metrics {
                    assert!(
                        name.len() <= limits::METRIC_NAME_MAX && value.is_finite(),
                        "{name} {value}"
                    );
                }
            }
            Notice::Store { name, .. } | Notice::Unstore { name } => {
                assert!(name.len() <= limits::FD_NAME_MAX, "{name:?}");
            }
            _ => {}
        }
    }
    true
}
