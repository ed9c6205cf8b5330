//! Which boot of the machine this is: no process and no pid of another one means anything.

use std::io;
use std::path::Path;

/// Where the kernel tells it (proc_sys_kernel(5)).
const PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The id of this boot, as the kernel writes it.
pub fn boot_id() -> io::Result<String> {
    boot_id_at(Path::new(PATH))
}

/// The same from another file.
pub fn boot_id_at(path: &Path) -> io::Result<String> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display())))?;
    let id = text.trim();
    let is_id = !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if is_id {
        return Ok(id.to_owned());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{} holds no boot id: is /proc mounted?", path.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_keeps_its_id_and_nonsense_is_none() {
        let id = boot_id().expect("read");
        assert_eq!(id.len(), 36);
        assert_eq!(id, boot_id().expect("read again"));
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("boot_id");
        assert!(
            boot_id_at(&path)
                .expect_err("missing")
                .to_string()
                .contains("boot_id")
        );
        for bad in ["", "\n", "not hex!\n"] {
            std::fs::write(&path, bad).expect("written");
            assert!(boot_id_at(&path).is_err(), "{bad:?}");
        }
        std::fs::write(&path, "0f-0a\n").expect("written");
        assert_eq!(boot_id_at(&path).expect("read"), "0f-0a");
    }
}
