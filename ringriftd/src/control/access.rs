//! Who may ask what. Every request has a role, by a match without a default: a new request without a role does not
//! compile. The peer is whom the kernel names (SO_PEERCRED), never whom it claims to be.
//!
//! Read first: [`role`] and [`Policy::allows`].

use proto::reply::Failure;
use proto::request::{Job, MAX_NOTE, MAX_PATH, MAX_PATTERN, MAX_SELECTOR, MAX_SELECTORS, Request};

use crate::config::probe::compiled;
use crate::limits::NAME_MAX;

/// What somebody may do. Each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Start, stop and signal units.
    Operator,
    /// Change or end the daemon.
    Admin,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// Who is at the other end, as the kernel recorded it when they connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process; 0 when it is in another pid namespace. For people only: it may be gone by now.
    pub pid: u32,
}

/// The role that `request` needs.
pub const fn role(request: &Request) -> Role {
    match request {
        Request::Status { .. }
        | Request::Events { .. }
        | Request::Logs { .. }
        | Request::Show { .. }
        | Request::Cat { .. }
        | Request::Deps { .. }
        | Request::Profiles
        | Request::Profile { .. }
        | Request::Coverage
        | Request::Deprecated
        | Request::Wait { .. }
        | Request::Version
        | Request::Names
        | Request::Why { .. } => Role::Viewer,
        Request::Start(_)
        | Request::Stop(_)
        | Request::Restart { .. }
        | Request::Reload(_)
        | Request::ResetFailed { .. }
        | Request::Hold { .. }
        | Request::Unhold { .. } => Role::Operator,
        Request::Kill { signal, .. } => match *signal {
            libc::SIGTERM | libc::SIGHUP => Role::Operator,
            _ => Role::Admin,
        },
        // Any process of the host may be named, and from then on it is signalled.
        Request::DaemonReload | Request::Shutdown | Request::Adopt { .. } | Request::Upgrade { .. } => {
            Role::Admin
        }
    }
}

/// The word for a request in logs and causes.
pub const fn verb(request: &Request) -> &'static str {
    match request {
        Request::Status { .. } => "status",
        Request::Start(_) => "start",
        Request::Stop(_) => "stop",
        Request::Restart {
            only_running: false, ..
        } => "restart",
        Request::Restart {
            only_running: true, ..
        } => "try-restart",
        Request::Reload(_) => "reload",
        Request::Kill { .. } => "kill",
        Request::ResetFailed { .. } => "reset-failed",
        Request::Events { .. } => "events",
        Request::Logs { .. } => "logs",
        Request::Show { .. } => "show",
        Request::Cat { .. } => "cat",
        Request::Deps { .. } => "deps",
        Request::Profiles => "profile list",
        Request::Profile { .. } => "profile show",
        Request::Coverage => "profile coverage",
        Request::Deprecated => "deprecated",
        Request::Wait { .. } => "wait",
        Request::DaemonReload => "daemon-reload",
        Request::Shutdown => "shutdown",
        Request::Version => "version",
        Request::Names => "names",
        Request::Hold { .. } => "hold",
        Request::Unhold { .. } => "unhold",
        Request::Adopt { .. } => "adopt",
        Request::Upgrade { .. } => "upgrade",
        Request::Why { .. } => "why",
    }
}

/// Who has which role. Today only two are known: root and whoever ringriftd runs as, and both may do everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// ringriftd's effective user.
    pub owner: u32,
}

impl Policy {
    /// The user that this process runs as.
    pub fn of_this_process() -> Self {
        Self {
            owner: nix::unistd::geteuid().as_raw(),
        }
    }

    /// The peer's role, if it has one.
    pub const fn role_of(self, peer: Peer) -> Option<Role> {
        if peer.uid == 0 || peer.uid == self.owner {
            Some(Role::Admin)
        } else {
            None
        }
    }

    /// The peer may ask for `request`; if not, the answer that says so (exit code 5).
    pub fn allows(self, peer: Peer, request: &Request) -> Result<(), Failure> {
        let needed = role(request);
        if self.role_of(peer).is_some_and(|has| has >= needed) {
            return Ok(());
        }
        Err(Failure {
            code: 5,
            message: format!(
                "user {} may not {}: that needs the role {needed}",
                peer.uid,
                verb(request)
            ),
            unit: None,
            hint: Some(format!(
                "ask as user {}, who runs ringriftd, or as root",
                self.owner
            )),
            details: Vec::new(),
        })
    }
}

/// Refuses what no request may contain, before anybody looks at it: too many selectors, too long ones, characters
/// that no name has. So nothing of a request can become a path, or break a line of a log. Exit code 2.
pub fn validate(request: &Request) -> Result<(), Failure> {
    match request {
        Request::Status { selectors, .. }
        | Request::ResetFailed { selectors }
        | Request::Events { selectors, .. }
        | Request::Deps { selectors } => check(selectors),
        Request::Logs {
            selectors, filter, ..
        } => {
            check(selectors)?;
            match &filter.pattern {
                Some(pattern) => compiled(pattern).map(|_| ()).map_err(|why| {
                    usage(
                        format!("the pattern {} cannot be used: {why}", quoted(pattern)),
                        "it is a regular expression, as grep -E has them",
                    )
                }),
                None => Ok(()),
            }
        }
        Request::Start(Job { selectors, .. })
        | Request::Stop(Job { selectors, .. })
        | Request::Reload(Job { selectors, .. })
        | Request::Restart {
            job: Job { selectors, .. },
            ..
        }
        | Request::Show { selectors }
        | Request::Cat { selectors }
        | Request::Unhold { selectors }
        | Request::Wait { selectors, .. } => named(request, selectors),
        Request::Hold { selectors, note, .. } => {
            named(request, selectors)?;
            match note {
                Some(note) => text("the note", note, MAX_NOTE),
                None => Ok(()),
            }
        }
        Request::Adopt {
            unit, pid, pattern, ..
        } => {
            check(std::slice::from_ref(unit))?;
            match (pid, pattern) {
                // 0 means "whoever asks" to many system calls, and 1 is the system's own.
                (Some(pid), None) if *pid > 1 && i32::try_from(*pid).is_ok() => Ok(()),
                (Some(pid), None) => Err(usage(
                    format!("{pid} is no process that a unit could have"),
                    "see `ps -e`",
                )),
                (None, Some(pattern)) => text("the pattern", pattern, MAX_PATTERN),
                (Some(_), Some(_)) | (None, None) => Err(usage(
                    "adopt needs a pid or a pattern, and not both".to_owned(),
                    "--pid PID, or --match PATTERN",
                )),
            }
        }
        Request::Why { unit } => check(std::slice::from_ref(unit)),
        Request::Upgrade { binary: None } => Ok(()),
        Request::Upgrade { binary: Some(path) } => {
            text("the path", path, MAX_PATH)?;
            if path.starts_with('/') {
                return Ok(());
            }
            Err(usage(
                format!("{} is no absolute path", quoted(path)),
                "name the binary from / on",
            ))
        }
        Request::Kill {
            selectors, signal, ..
        } => {
            if !(1..=64).contains(signal) {
                return Err(usage(
                    format!("{signal} is no signal"),
                    "signals are 1 to 64, or a name such as TERM",
                ));
            }
            named(request, selectors)
        }
        Request::Profile { name } => {
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'@');
            if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_name) {
                return Err(usage(
                    format!("{} is no profile name", quoted(name)),
                    "see `ringriftctl profile list`",
                ));
            }
            Ok(())
        }
        Request::Profiles
        | Request::Coverage
        | Request::Deprecated
        | Request::DaemonReload
        | Request::Shutdown
        | Request::Version
        | Request::Names => Ok(()),
    }
}

fn named(request: &Request, selectors: &[String]) -> Result<(), Failure> {
    if selectors.is_empty() {
        return Err(usage(
            format!("{} needs at least one unit", verb(request)),
            "name units; '*' means all",
        ));
    }
    check(selectors)
}

/// One line of text that somebody typed, and not nothing.
fn text(what: &str, text: &str, most: usize) -> Result<(), Failure> {
    let why = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > most {
        format!("has {} bytes, more than the {most} allowed", text.len())
    } else if text.chars().any(char::is_control) {
        "has a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(usage(
        format!("{what} {} {why}", quoted(text)),
        "it is one line of text",
    ))
}

fn check(selectors: &[String]) -> Result<(), Failure> {
    if selectors.len() > MAX_SELECTORS {
        return Err(usage(
            format!(
                "{} selectors are more than the {MAX_SELECTORS} allowed",
                selectors.len()
            ),
            "use a glob, @category or %profile",
        ));
    }
    let may_stand = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'_' | b'.' | b'-' | b'@' | b'%' | b':' | b'*' | b'?' | b'[' | b']' | b'!' | b'^'
            )
    };
    for selector in selectors {
        let why = if selector.is_empty() {
            "is empty".to_owned()
        } else if selector.len() > MAX_SELECTOR {
            format!("is longer than {MAX_SELECTOR} bytes")
        } else if !selector.bytes().all(may_stand) {
            "has a character that no name has".to_owned()
        } else {
            continue;
        };
        return Err(usage(
            format!("the selector {} {why}", quoted(selector)),
            "a selector is a name, a glob, @category, %profile or state:WORD",
        ));
    }
    Ok(())
}

/// A stranger's text in a message: escaped, and cut.
fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(NAME_MAX).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}

fn usage(message: String, hint: &str) -> Failure {
    Failure {
        code: 2,
        message,
        unit: None,
        hint: Some(hint.to_owned()),
        details: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::request::{Depth, LogFilter, WaitFor, Whom};

    fn job() -> Job {
        Job {
            selectors: vec!["a".to_owned()],
            wait: true,
            timeout_ms: None,
            cascade: false,
        }
    }

    fn hold(note: Option<&str>) -> Request {
        Request::Hold {
            selectors: vec!["a".to_owned()],
            note: note.map(str::to_owned),
            until_us: Some(1),
        }
    }

    fn adopt(unit: &str, pid: Option<u32>, pattern: Option<&str>) -> Request {
        Request::Adopt {
            unit: unit.to_owned(),
            pid,
            pattern: pattern.map(str::to_owned),
            dry_run: false,
        }
    }

    fn upgrade(binary: &str) -> Request {
        Request::Upgrade {
            binary: Some(binary.to_owned()),
        }
    }

    /// Every request, with the role that it needs.
    fn matrix() -> Vec<(Request, Role)> {
        let all = || vec!["*".to_owned()];
        let kill = |signal| Request::Kill {
            selectors: all(),
            signal,
            whom: Whom::All,
        };
        vec![
            (
                Request::Status {
                    selectors: vec![],
                    depth: Depth::Known,
                    all: false,
                },
                Role::Viewer,
            ),
            (Request::Start(job()), Role::Operator),
            (Request::Stop(job()), Role::Operator),
            (
                Request::Restart {
                    job: job(),
                    only_running: false,
                },
                Role::Operator,
            ),
            (Request::Reload(job()), Role::Operator),
            (kill(libc::SIGTERM), Role::Operator),
            (kill(libc::SIGHUP), Role::Operator),
            (kill(libc::SIGKILL), Role::Admin),
            (kill(libc::SIGSTOP), Role::Admin),
            (Request::ResetFailed { selectors: vec![] }, Role::Operator),
            (
                Request::Events {
                    selectors: vec![],
                    follow: true,
                    after: None,
                    since_us: None,
                },
                Role::Viewer,
            ),
            (
                Request::Logs {
                    selectors: vec![],
                    follow: true,
                    lines: None,
                    filter: LogFilter::default(),
                },
                Role::Viewer,
            ),
            (Request::Show { selectors: all() }, Role::Viewer),
            (Request::Cat { selectors: all() }, Role::Viewer),
            (Request::Deps { selectors: vec![] }, Role::Viewer),
            (Request::Profiles, Role::Viewer),
            (
                Request::Profile {
                    name: "full".to_owned(),
                },
                Role::Viewer,
            ),
            (Request::Coverage, Role::Viewer),
            (Request::Deprecated, Role::Viewer),
            (
                Request::Wait {
                    selectors: all(),
                    target: WaitFor::Running,
                    timeout_ms: None,
                },
                Role::Viewer,
            ),
            (Request::DaemonReload, Role::Admin),
            (Request::Shutdown, Role::Admin),
            (Request::Version, Role::Viewer),
            (Request::Names, Role::Viewer),
            (hold(Some("the disk is being changed")), Role::Operator),
            (hold(None), Role::Operator),
            (Request::Unhold { selectors: all() }, Role::Operator),
            (adopt("a", Some(4711), None), Role::Admin),
            (adopt("a", None, Some("python3 x.py")), Role::Admin),
            (Request::Upgrade { binary: None }, Role::Admin),
            (upgrade("/usr/bin/ringriftd"), Role::Admin),
            (Request::Why { unit: "a".to_owned() }, Role::Viewer),
        ]
    }

    fn peer(uid: u32) -> Peer {
        Peer {
            uid,
            gid: uid,
            pid: 1,
        }
    }

    #[test]
    fn every_request_has_its_role_and_strangers_have_none() {
        let policy = Policy { owner: 1000 };
        for (request, needed) in matrix() {
            assert_eq!(role(&request), needed, "{request:?}");
            assert_eq!(validate(&request), Ok(()), "{request:?}");
            assert_eq!(policy.allows(peer(0), &request), Ok(()));
            assert_eq!(policy.allows(peer(1000), &request), Ok(()));
            for stranger in [1, 999, 1001, 65534, u32::MAX] {
                let denied = policy.allows(peer(stranger), &request).expect_err("a stranger");
                assert_eq!(denied.code, 5);
                assert!(denied.message.contains(verb(&request)), "{denied:?}");
            }
        }
    }

    fn refused(selectors: Vec<String>, words: &str) {
        let failure = validate(&Request::Show { selectors }).expect_err("refused");
        assert_eq!(failure.code, 2);
        assert!(failure.message.contains(words), "{failure:?}");
        assert!(failure.message.len() < 1000);
        assert!(!failure.message.contains(char::is_control));
    }

    #[test]
    fn selectors_are_never_paths_nor_floods() {
        let one = |text: &str| vec![text.to_owned()];
        refused(vec![], "at least one");
        refused(one(""), "empty");
        refused(one("../etc/passwd"), "character");
        refused(one("a/b"), "character");
        refused(one("a\0b"), "character");
        refused(one("a\nb"), "character");
        refused(one("a b"), "character");
        refused(one("\u{1b}[2J"), "character");
        refused(one("é"), "character");
        refused(one(&"a".repeat(MAX_SELECTOR + 1)), "longer");
        refused(one(&"a".repeat(1024 * 1024)), "longer");
        refused(vec!["a".to_owned(); MAX_SELECTORS + 1], "more than");
        refused(vec!["a".to_owned(); 1_000_000], "more than");
        let fine = vec!["a".to_owned(); MAX_SELECTORS];
        assert_eq!(validate(&Request::Show { selectors: fine }), Ok(()));
    }

    #[test]
    fn signals_and_profiles_are_checked() {
        for signal in [0, -1, 65, i32::MIN] {
            let kill = Request::Kill {
                selectors: vec!["a".to_owned()],
                signal,
                whom: Whom::Main,
            };
            assert_eq!(validate(&kill).expect_err("no signal").code, 2);
        }
        for name in ["", "../x", "a\0", "a\n", "a/b"] {
            let profile = Request::Profile {
                name: name.to_owned(),
            };
            assert_eq!(validate(&profile).expect_err("no name").code, 2, "{name:?}");
        }
    }

    #[test]
    fn texts_of_the_newer_verbs_are_checked() {
        let long = "x".repeat(MAX_PATH + 1);
        for request in [
            hold(Some("")),
            hold(Some("a\nb")),
            hold(Some("\u{1b}[2J")),
            hold(Some(&long)),
            Request::Hold {
                selectors: vec![],
                note: None,
                until_us: None,
            },
            Request::Unhold { selectors: vec![] },
            adopt("a", None, None),
            adopt("a", Some(7), Some("x")),
            adopt("a", Some(0), None),
            adopt("a", Some(1), None),
            adopt("a", Some(u32::MAX), None),
            adopt("a", None, Some("")),
            adopt("a", None, Some(&long)),
            adopt("../a", Some(7), None),
            upgrade("ringriftd"),
            upgrade(""),
            upgrade("/a\0b"),
            upgrade(&format!("/{long}")),
        ] {
            let failure = validate(&request).expect_err("refused");
            assert_eq!(failure.code, 2, "{request:?}");
            assert!(failure.message.len() < 1000 && !failure.message.contains(char::is_control));
        }
    }
}
