//! Where the real programs are. `cargo test` does not build the plain binaries of other packages, so this does, once
//! for each test process, in the same profile.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// `ringriftd`.
pub fn ringriftd() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder().join("ringriftd"))
}

/// `ringriftctl`.
pub fn ringriftctl() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| folder().join("ringriftctl"))
}

/// The daemon that misbehaves.
pub fn rr_bad() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        folder()
            .join("rr-bad")
            .into_os_string()
            .into_string()
            .expect("a path of text")
    })
}

/// The daemon that says what it is told to say.
pub fn rr_say() -> &'static str {
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| {
        folder()
            .join("rr-say")
            .into_os_string()
            .into_string()
            .expect("a path of text")
    })
}

/// The root of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package has a parent folder")
}

fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build)
}

/// Builds all of them, and returns the folder that they are in: the one above the test's own `deps`.
fn build() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own program");
    let folder = own
        .parent()
        .and_then(|deps| {
            if deps.ends_with("deps") {
                deps.parent()
            } else {
                Some(deps)
            }
        })
        .expect("a test's program lies in target/PROFILE/deps")
        .to_owned();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "-p",
        "ringriftd",
        "-p",
        "ringriftctl",
        "-p",
        "ringrift-tests",
    ]);
    cargo.arg("--bins").current_dir(checkout()).stdin(Stdio::null());
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    // A --target-dir of the outer cargo is not told to its tests; without this a second tree would be built.
    if let Some(target) = folder.parent() {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    let done = cargo.output().expect("cargo, which runs this test, can be run");
    assert!(
        done.status.success(),
        "the programs do not build:\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
    folder
}
