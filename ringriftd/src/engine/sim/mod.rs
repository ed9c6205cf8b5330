//! The production engine in a small world of dice: a keeper that answers late, processes that fail at each stage, exit,
//! ignore signals and leave others behind, operators who start and stop at random. After every event the engine's
//! invariants are checked, and the world's own truth against what the engine does. One seed gives one run.
//!
//! * `make`: dice, units and random graphs. * `world`: what happens to them. * `crash`: the manager's deaths. * `runs`:
//!   the tests. * `recovery`: those of what is stored, held and taken over. * `failures`: those of failures and of their causes.

mod crash;
mod failures;
mod make;
mod recovery;
mod runs;
mod world;
