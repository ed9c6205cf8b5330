//! HTTP: health, metrics, events and the dashboard, for reading only. It has a thread of its own with a runtime of its own,
//! and answers from what the manager has published ([`crate::published`]): neither a busy manager nor a hung unit is waited
//! for, and nothing that comes in here can change anything.
//!
//! * [`server`]: the thread, connections and their bounds. * [`guard`]: who may ask what. * [`routes`]: from a path to an
//!   answer. * [`reply`]: what every answer has in common. * [`health`], [`metrics`], [`stream`], [`dashboard`]: the answers.
//!   * [`measure`]: CPU time and memory. * [`tally`]: what was asked. * [`names`]: the words of JSON.
//!
//! What no answer ever holds: values of environment variables, and command lines. Log lines only where they may be shown.

pub mod dashboard;
pub mod guard;
pub mod health;
pub mod measure;
pub mod metrics;
pub mod names;
pub mod reply;
pub mod routes;
pub mod server;
pub mod stream;
pub mod tally;
pub mod types;

pub use server::serve;
pub use types::{Handle, Sources, TailAsked};
