//! `[http]`: where the node can be looked at, and by what names it may be called. Pure data, and the reading of a place
//! from a person's text.
//!
//! Read first: [`HttpSpec`] and [`HttpPlace`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[http]`: the door through which the node is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSpec {
    /// Where.
    pub listen: HttpPlace,
    /// An address that is not this host's alone is allowed.
    pub allow_remote: bool,
    /// Names that a request may call this host by, besides the loopback ones and the address itself; in lower case.
    pub allowed_hosts: Vec<String>,
    /// Log lines and failure tails may be served over TCP too.
    pub show_logs: bool,
}

impl Default for HttpSpec {
    fn default() -> Self {
        Self {
            listen: HttpPlace::Tcp(HTTP_DEFAULT),
            allow_remote: false,
            allowed_hosts: Vec::new(),
            show_logs: false,
        }
    }
}

/// Where HTTP is served unless somebody says otherwise.
pub const HTTP_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8790);

/// Where HTTP is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpPlace {
    /// Nowhere.
    Off,
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket, absolute.
    Unix(PathBuf),
}

impl HttpPlace {
    /// Reads `off`, `127.0.0.1:8790`, `[::1]:8790`, `localhost:8790` or the absolute path of a socket; else why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if text.starts_with('/') {
            return if text.len() > crate::limits::SOCKET_PATH_MAX {
                Err(format!(
                    "the path of a socket has at most {} bytes",
                    crate::limits::SOCKET_PATH_MAX
                ))
            } else if text.contains('\0') || text.ends_with('/') {
                Err("it is not the path of a socket".to_owned())
            } else {
                Ok(Self::Unix(PathBuf::from(text)))
            };
        }
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("{}:{port}", HTTP_DEFAULT.ip()),
            None => text.to_owned(),
        };
        match numeric.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => Err("port 0 is none that anybody could find".to_owned()),
            Ok(address) => Ok(Self::Tcp(address)),
            Err(_) => Err(
                "it is \"off\", an address with its port (\"127.0.0.1:8790\", \"[::1]:8790\"), or the absolute path of a Unix socket"
                    .to_owned(),
            ),
        }
    }

    /// Others than this host can reach it.
    pub fn is_remote(&self) -> bool {
        match self {
            Self::Off | Self::Unix(_) => false,
            Self::Tcp(address) => !address.ip().is_loopback(),
        }
    }
}

impl fmt::Display for HttpPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl HttpSpec {
    /// The same with `listen` in place of the file's; or why that may not be (fault F7).
    pub fn at(&self, listen: Option<&HttpPlace>) -> Result<Self, String> {
        let spec = Self {
            listen: listen.unwrap_or(&self.listen).clone(),
            ..self.clone()
        };
        match spec.refusal() {
            Some(why) => Err(why),
            None => Ok(spec),
        }
    }

    /// Why it may not listen there.
    pub fn refusal(&self) -> Option<String> {
        if !self.listen.is_remote() {
            return None;
        }
        if !self.allow_remote {
            return Some(format!(
                "{} can be reached from other hosts, and that is not allowed: say allow_remote = true, and name the hosts in allowed_hosts",
                self.listen
            ));
        }
        self.allowed_hosts.is_empty().then(|| {
            format!(
                "{} can be reached from other hosts: name in allowed_hosts what they may call this one",
                self.listen
            )
        })
    }
}
