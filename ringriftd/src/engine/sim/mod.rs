//! The production engine in a small world of dice: a keeper that answers late, processes that fail at each stage, exit,
//! ignore signals and leave others behind, operators who start and stop at random. After every event the engine's
//! invariants are checked, and the world's own truth against what the engine does. One seed gives one run.
//!
//! * `make`: dice, units and random graphs. * `world`: what happens to them. * `crash`: the manager's deaths. * `runs`:
//!   the tests. * `unwell`: how well its processes are. * `watched`: the tests of that. * `recovery`: those of what is
//!   stored, held and taken over. * `failures`: those of failures and of their causes. * `causes`: the words of `why`. * `breakers`: what limits
//!   restarts. * `model`, `keeper`, `verdicts`, `picture`, `search`: small systems looked at whole; `models`: which, and what was found.

mod breakers;
mod causes;
mod crash;
mod failures;
mod keeper;
mod make;
mod model;
mod models;
mod picture;
mod recovery;
mod runs;
mod search;
mod unwell;
mod verdicts;
mod watched;
mod world;
