//! The keeper.
pub mod wire;
