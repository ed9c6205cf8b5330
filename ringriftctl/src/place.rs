//! Finds the control socket. Looks in the order that the daemon documents, and asks nothing of it.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of the socket in a run-time folder.
const SOCKET: &str = "control.sock";

/// The sockets to try, best first. A place that was named (by flag or environment) is the only one: a
/// command meant for one node must never reach another because the first is down.
///
/// `env` looks a variable up; an empty one counts as unset.
pub fn candidates(flag: Option<&Path>, env: impl Fn(&str) -> Option<OsString>, uid: u32) -> Vec<PathBuf> {
    let set = |name: &str| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = flag {
        return vec![path.to_owned()];
    }
    if let Some(path) = set("RINGRIFT_SOCKET") {
        return vec![path];
    }
    if let Some(dir) = set("RINGRIFT_RUNTIME_DIR") {
        return vec![dir.join(SOCKET)];
    }
    let mut places = Vec::new();
    if let Some(dir) = set("XDG_RUNTIME_DIR").filter(|d| d.is_absolute()) {
        places.push(dir.join("ringrift").join(SOCKET));
    }
    for dir in ["/tmp", "/dev/shm"] {
        places.push(PathBuf::from(format!("{dir}/ringrift-{uid}")).join(SOCKET));
    }
    places.push(PathBuf::from("/run/ringrift").join(SOCKET));
    places
}

/// Whether a socket that nobody named may be trusted: its folder belongs to this user or to root, and nobody else
/// can put a socket there. Anybody can make a folder in /tmp and wait for somebody to ask it.
pub fn is_ours(socket: &Path, uid: u32) -> bool {
    let Some(dir) = socket.parent() else { return false };
    let Ok(found) = std::fs::symlink_metadata(dir) else {
        return false;
    };
    found.is_dir() && (found.uid() == uid || found.uid() == 0) && found.mode() & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(flag: Option<&str>, env: &[(&str, &str)], expected: &[&str]) {
        let look = |name: &str| {
            env.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| OsString::from(v))
        };
        let found = candidates(flag.map(Path::new), look, 1000);
        assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
    }

    const FIXED: [&str; 3] = [
        "/tmp/ringrift-1000/control.sock",
        "/dev/shm/ringrift-1000/control.sock",
        "/run/ringrift/control.sock",
    ];

    #[test]
    fn a_named_place_is_the_only_one() {
        let all = [
            ("RINGRIFT_SOCKET", "/b"),
            ("RINGRIFT_RUNTIME_DIR", "/c"),
            ("XDG_RUNTIME_DIR", "/d"),
        ];
        check(Some("/a"), &all, &["/a"]);
        check(None, &all, &["/b"]);
        check(None, &all[1..], &["/c/control.sock"]);
    }

    #[test]
    fn a_users_place_comes_before_roots() {
        check(
            None,
            &[("XDG_RUNTIME_DIR", "/d")],
            &["/d/ringrift/control.sock", FIXED[0], FIXED[1], FIXED[2]],
        );
        check(None, &[], &FIXED);
    }

    #[test]
    fn empty_and_relative_variables_are_unset() {
        check(
            None,
            &[("RINGRIFT_SOCKET", ""), ("XDG_RUNTIME_DIR", "run")],
            &FIXED,
        );
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let uid = nix::unistd::geteuid().as_raw();
        let socket = dir.path().join(SOCKET);
        for (mode, trusted) in [(0o700, true), (0o755, true), (0o770, false), (0o777, false)] {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).expect("chmod");
            assert_eq!(is_ours(&socket, uid), trusted, "{mode:o}");
        }
        assert!(!is_ours(&dir.path().join("missing").join(SOCKET), uid));
    }
}
