//! The program that an operator names for an upgrade: opened once, so that what was looked at is what runs.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What the kernel appends to the path of a running program that has been replaced (proc_pid_exe(5)).
const REPLACED: &str = " (deleted)";

/// Opens it; absent is the file that now has the name of the running program.
pub fn open(path: Option<&Path>) -> Result<OwnedFd, String> {
    let path = match path {
        Some(path) => path.to_path_buf(),
        None => own_place()?,
    };
    let failed = |why: &dyn std::fmt::Display| format!("cannot upgrade to {}: {why}", path.display());
    // Not blocking: it may be a pipe that nobody writes to, which is found out only when it is open.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(&path)
        .map_err(|e| failed(&e))?;
    let meta = file.metadata().map_err(|e| failed(&e))?;
    let own = nix::unistd::geteuid().as_raw();
    let owner = meta.uid();
    if !meta.is_file() {
        return Err(failed(&"it is no file"));
    }
    if owner != 0 && owner != own {
        return Err(failed(&format!(
            "it belongs to user {owner}, who could make it do anything; it must belong to root or to user {own}"
        )));
    }
    if meta.mode() & 0o022 != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(failed(&format!(
            "others may write to it (mode {mode:04o}): chmod go-w it first"
        )));
    }
    if meta.mode() & 0o111 == 0 {
        return Err(failed(&"it is not executable: chmod +x it first"));
    }
    Ok(file.into())
}

/// The path of the running program, whatever file has that name now.
pub fn own_place() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| format!("cannot find the running program's file: {e}"))?;
    let text = own.to_str().and_then(|text| text.strip_suffix(REPLACED));
    Ok(text.map_or_else(|| own.clone(), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// B11: what cannot be the program is refused by the manager, before the keeper hears of it.
    #[test]
    fn what_no_operator_would_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let says = |path: &Path, wanted: &str| {
            let why = open(Some(path)).unwrap_err();
            assert!(why.contains(wanted), "{why}");
        };
        says(&path, "No such file");
        says(folder.path(), "no file");
        std::fs::write(&path, "x").unwrap();
        for (mode, wanted) in [
            (0o644, "not executable"),
            (0o775, "mode 0775"),
            (0o757, "mode 0757"),
        ] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            says(&path, wanted);
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        open(Some(&path)).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            says(&path, "user 12345");
        }
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o700)).unwrap();
        says(&pipe, "no file");
    }
}
