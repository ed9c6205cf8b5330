//! What benchmarks and budgets share: a node of any size as files, and an engine that is told what a calm world would say.

pub mod calm;
pub mod files;
