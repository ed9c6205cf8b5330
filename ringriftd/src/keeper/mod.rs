//! The keeper: the parent of every process, which must never fall. One thread, one `poll(2)` loop, no runtime; it
//! makes pipes, sockets and cgroups, starts and reaps, signals and kills, and knows no units. What it does, its wire
//! and what happens when a role dies: `docs/keeper.md`.
//!
//! It deliberately does not decide anything (the manager does), reads no log bytes (the logger does), and never
//! waits for anybody: the exceptions are clone(2) until the child's execve(2), the manager's standing still before the
//! keeper becomes another program, and the last second of its life.
//!
//! A panic here would end the node, so the ways to one are denied: no `unwrap`, no `expect`, no indexing.
//!
//! Read first: [`config::KeeperConfig`], [`state::Keeper`]. The files, from the bottom: `proc`, `sys`, `types`;
//! `signal`, `sweep`, `cgroup`, `counted`, `child_steps`, `child`; `lock`, `links`, `launch`, `gate`, `handover`; `state`, then what it does by cause (`requests`,
//! `zygote`, `adopt`, `over`, `roles`, `lives`, `ending`; `rebuild`, `upgrade`, `in_place`), `start`, and `serve`, the loop.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod adopt;
#[allow(unsafe_code)] // clone3(2) on a stack of its own
pub mod birth;
pub mod cgroup;
#[allow(unsafe_code)] // the child between clone(2) and execve(2) may only make raw calls
pub mod child;
#[allow(unsafe_code)] // likewise
pub mod child_steps;
pub mod config;
pub mod counted;
pub mod door;
pub mod ending;
#[allow(unsafe_code)] // limits of another process
pub mod gate;
pub mod handover;
pub mod in_place;
pub mod launch;
pub mod left;
pub mod links;
pub mod lives;
pub mod lock;
pub mod over;
pub mod proc;
pub mod rebuild;
pub mod requests;
pub mod roles;
pub mod seed;
pub mod serve;
pub mod signal;
pub mod sockets;
pub mod start;
pub mod state;
pub mod store;
pub mod sweep;
#[allow(unsafe_code)] // the calls that nix does not have
pub mod sys;
pub mod types;
pub mod upgrade;
pub mod watchdog;
pub mod wire;
pub mod zygote;

pub use config::{Contain, KeeperConfig, ManagerBounds};
pub use serve::{run, run_with_links};
