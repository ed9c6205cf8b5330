//! The production engine in a simulated world: a keeper that answers late, twice or not at all, processes that do all that
//! processes do, operators who ask for anything at any time, and a manager that may die between any two instructions. After every
//! event the engine's own invariants are checked, and the world's truth against what the engine says and does.
//!
//! ```text
//!   choices ──▶ draw ──▶ schedule ──▶ world ◀──▶ engine
//!   (malice)   (units,   (faults,      │ keeper, unwell: processes      what is seen of both:
//!               files)    rest, end)   │ clients: operators, files      invariants (numbered), checked in
//!                                      │ crash: deaths, returns         starts, stops, restarts, gates, answers, steps, pairs;
//!                                      ▼ truth: what the world knows    cells (state × event)
//!                                   tell: the trace ──▶ shrink ──▶ a case in `traces/`, a story in `found`
//! ```
//!
//! * **Choices.** Nothing is thrown by dice: every draw is a choice with a name, and its value follows from that name and the seed
//!   alone (`choices`). So a choice can be left out without moving any other: that is how a failure is shrunk, and why a
//!   list of choices replays on an engine that has changed since. 0 is always the calm one.
//! * **Malice.** One table of what may go wrong (`malice`), with how often in each mode: calm, crashy, hostile, swizzle, converge.
//!   A seed switches each of them on or off.
//! * **A schedule** (`schedule`): faults and requests; then all faults cease, and the world must come to rest where it is wanted;
//!   then the node goes down. One in eighty is checked more closely: deltas, JSON, twins of single steps; one in twenty is run
//!   twice; one in thirty-two has a second engine, restored from the first one's state, that must do the same for 200 events.
//! * **Invariants** (`invariants`) have numbers, and count how often they could have been broken.
//! * **Who runs it.** `cargo test` runs some hundred (`many`), the cases and stories of what was found (`found`), and scripted
//!   stories (`runs`, `recovery`, `failures`, `causes`, `watched`, `breakers`); `model` and `models` go through every state of small systems
//!   (`obey` is their keeper, `verdicts` what must not be, `picture` and `search` how it is looked for); `tests/simulation` is a
//!   program that runs a million.

mod answers;
pub mod cells;
pub mod choices;
mod clients;
mod crash;
mod draw;
mod failing;
mod gates;
pub mod invariants;
mod keeper;
mod make;
pub mod malice;
pub mod pairs;
mod restarts;
pub mod schedule;
pub mod shrink;
mod starts;
mod steps;
mod stops;
mod tell;
mod truth;
mod unwell;
mod world;

pub use draw::Size;

#[cfg(test)]
mod breakers;
#[cfg(test)]
mod causes;
#[cfg(test)]
mod dice;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod found;
#[cfg(test)]
mod many;
#[cfg(test)]
mod model;
#[cfg(test)]
mod models;
#[cfg(test)]
mod obey;
#[cfg(test)]
mod picture;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod search;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod verdicts;
#[cfg(test)]
mod watched;
