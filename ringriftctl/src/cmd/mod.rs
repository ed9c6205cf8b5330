//! One verb a file. Each asks one thing of the daemon, prints it, and gives an exit code.

pub mod cat;
pub mod completion;
pub mod daemon_reload;
pub mod deprecated;
pub mod deps;
pub mod events;
pub mod failed;
pub mod is_active;
pub mod is_failed;
pub mod is_ready;
pub mod kill;
pub mod list;
pub mod logs;
pub mod profile;
pub mod reload;
pub mod reset_failed;
pub mod restart;
pub mod show;
pub mod shutdown;
pub mod start;
pub mod status;
pub mod stop;
pub mod try_restart;
pub mod version;
pub mod wait;
