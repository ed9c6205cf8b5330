//! What the steps of a preparation share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::engine::types::Role;

/// What launches need to know of the node.
#[derive(Debug, Clone, Default)]
pub struct NodeContext {
    /// The node's random number, as the keeper's hello says it.
    pub seed: u64,
    /// Absolute; notify sockets live in `notify/` below it.
    pub runtime_dir: PathBuf,
    /// `${RINGRIFTD}`: this program.
    pub program: PathBuf,
    /// `${RINGRIFT_CONFIG_DIR}`: the folder of `ringriftd.toml`, if there is one.
    pub config_dir: Option<PathBuf>,
    /// ringriftd's own environment, for `pass_env`. Take it with [`crate::host::environment::own_environment`].
    pub env: BTreeMap<String, String>,
}

/// `RINGRIFT_ROLE`: `main`, `start_pre.0` …
pub fn role_word(role: Role) -> String {
    match role {
        Role::Main => "main".to_owned(),
        Role::StartPre(n) => format!("start_pre.{n}"),
        Role::StartPost(n) => format!("start_post.{n}"),
        Role::StopPre(n) => format!("stop_pre.{n}"),
        Role::StopPost(n) => format!("stop_post.{n}"),
        Role::Reload(n) => format!("reload.{n}"),
        Role::ReadyProbe => "ready.probe".to_owned(),
        Role::Probe => "health.probe".to_owned(),
    }
}

/// Why there is no launch; [`prepare`] adds whose hook it was.
pub(super) struct Fault {
    pub(super) text: String,
    pub(super) host: bool,
}

impl Fault {
    /// One of the unit's own, not of the host.
    pub(super) fn unit(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            host: false,
        }
    }
}
