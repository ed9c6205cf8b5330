//! The sockets that the keeper makes: the control listener, and a notify socket for each launch that wants one.
//! Their mode is set before they have a name (unix(7): bind(2) takes it from the descriptor), so that there is no
//! moment in which somebody else could connect.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::stat::Mode;

use super::sys;
use super::wire::Identity;

/// Clients that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Binds and listens at `path`, replacing what an earlier keeper left. The caller holds the lock.
pub fn control(path: &Path) -> io::Result<OwnedFd> {
    let listener = bind(path, SockType::Stream)?;
    socket::listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener)
}

/// A launch's notify socket: its path is taken away again when it is dropped.
#[derive(Debug)]
pub struct Notify {
    /// The socket.
    pub socket: super::types::SharedFd,
    path: PathBuf,
    folder: Option<PathBuf>,
}

/// Takes away the notify sockets of lives that ended with an earlier keeper; `held` are those of launches. Best effort: a
/// name without a socket behind it harms nobody.
pub fn remove_dead(runtime_dir: &Path, held: &BTreeSet<&Path>) {
    let folder = runtime_dir.join(NOTIFY_FOLDER);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        if is_socket && !held.contains(path.as_path()) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Where notify sockets are, below the run-time folder.
pub const NOTIFY_FOLDER: &str = "notify";

impl Notify {
    /// One that exists already, in a folder that was made for such sockets.
    pub fn again(socket: super::types::SharedFd, path: &[u8]) -> Self {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        Self {
            socket,
            folder: path.parent().map(Path::to_path_buf),
            path,
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it at `path`, below `runtime_dir`, in a folder that others can pass through and not list.
    pub fn make(runtime_dir: &Path, path: &[u8], identity: Option<&Identity>) -> io::Result<Self> {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
        let is_plain = path
            .components()
            .all(|c| !matches!(c, std::path::Component::ParentDir));
        let below = path.strip_prefix(runtime_dir).ok().filter(|_| is_plain);
        let below = below.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut folder = runtime_dir.to_path_buf();
        let mut own_folder = None;
        for part in below.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o711))?,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
            own_folder = Some(folder.clone());
        }
        let made = Self {
            socket: sys::raise(bind(&path, SockType::Datagram)?).into(),
            path,
            folder: own_folder,
        };
        socket::setsockopt(&made.socket, sockopt::PassCred, &true)?;
        // Older kernels do not have it; the credentials remain.
        let _ = sys::pass_pidfd(&made.socket);
        if let Some(identity) = identity {
            std::os::unix::fs::lchown(&made.path, Some(identity.uid), Some(identity.gid))?;
            open_way(runtime_dir)?;
        }
        Ok(made)
    }
}

/// A unit of another user must be able to walk to its notify socket. From the first one on, the run-time folder, private
/// until then, can be passed through; it still cannot be listed, and every other socket and file in it has mode 0600.
fn open_way(runtime_dir: &Path) -> io::Result<()> {
    let mode = std::fs::metadata(runtime_dir)?.permissions().mode() & 0o777;
    if mode & 0o011 != 0o011 {
        std::fs::set_permissions(runtime_dir, PermissionsExt::from_mode(mode | 0o011))?;
    }
    Ok(())
}

impl Drop for Notify {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        if let Some(folder) = &self.folder {
            // Others may be in it: then it stays.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

fn bind(path: &Path, kind: SockType) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::from_raw_os_error(libc::EEXIST)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, kind, flags, None)?;
    nix::sys::stat::fchmod(&socket, Mode::from_bits_truncate(0o600))?;
    socket::bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// Sends `text` to the service manager above, whose socket `address` is NOTIFY_SOCKET: a path, or `@` and a name.
pub fn announce(address: &std::ffi::OsStr, text: &str) -> io::Result<()> {
    let address = match address.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        Some((b'/', _)) => SocketAddr::from_pathname(address)?,
        _ => return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address)?;
    Ok(())
}
