//! The wire between `ringriftd` and whoever talks to it, and nothing else: plain enums, one framed codec, one
//! version, one `MAX_FRAME`. No behaviour lives here, so that a client needs no more than this crate.
//!
//! Read first: [`request::Request`] (what may be asked) and [`reply::Reply`] (what may be answered).
//!
//! A conversation: the client sends [`frame::Hello`], the daemon answers [`frame::Welcome`]; then each
//! [`frame::Ask`] carries an id that the client chose, and every [`frame::Answer`] to it carries the same id. Several
//! may be under way at once; an answer is a stream that ends with [`reply::Reply::End`] or
//! [`reply::Reply::Failed`]. See `docs/protocol.md`.
#![forbid(unsafe_code)]

pub mod answers;
pub mod checks;
pub mod codec;
pub mod event_line;
pub mod frame;
pub mod log;
pub mod reply;
pub mod request;
