//! The map of the house. `ARCHITECTURE.md` follows one unit through it.
//!
//! One binary, three roles: the [`keeper`] is the parent of every process and holds what must never fall; the
//! [`logger`] turns their output into files; the [`manager`] thinks. The thinking itself is [`engine`], which is pure.
#![deny(unsafe_code)]

pub mod breaker;
pub mod clock;
pub mod config;
pub mod control;
pub mod counts;
pub mod door;
pub mod engine;
mod event_json;
pub mod graph;
pub mod heap;
pub mod host;
pub mod http;
pub mod ids;
pub mod keeper;
pub mod limits;
pub mod logger;
pub mod manager;
pub mod places;
pub mod published;
pub mod say;
pub mod spec;
pub mod standin;
pub mod state;
pub mod tape;
pub mod unit_name;
pub mod used;
pub mod whatif;
