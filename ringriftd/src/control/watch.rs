//! The control socket's name. Somebody may clean the run-time folder while ringriftd listens; then nobody finds it any more.
//! The kernel tells of it (inotify(7)), the keeper makes the socket again, and connections that are open live on.
//!
//! Read first: [`Renewal`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::host::receive::watch;
use crate::limits::{RELISTEN_PAUSE, RELISTEN_RETRY, SOCKET_LOOK_AGAIN};

/// Brings a new listener to those who wait for it.
#[derive(Debug)]
pub struct Renewal {
    to_server: mpsc::Sender<OwnedFd>,
    to_watch: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Renewal {
    /// Watches the socket at `path`. Each word to `lost` says that it has no name any more and wants another; it is said again
    /// until [`Renewal::listener`] is called. `to_server` leads to the server's own receiver of listeners. Must be
    /// called inside a tokio runtime.
    pub fn watch(path: PathBuf, lost: mpsc::Sender<()>, to_server: mpsc::Sender<OwnedFd>) -> Self {
        let (to_watch, renewed) = mpsc::channel(1);
        Self {
            to_server,
            to_watch,
            task: tokio::spawn(run(path, lost, renewed)),
        }
    }

    /// There is a new one.
    pub fn listener(&self, listener: OwnedFd) {
        // A server that has another in hand already, or is gone, needs none.
        let _ = self.to_server.try_send(listener);
        let _ = self.to_watch.try_send(());
    }
}

async fn run(path: PathBuf, lost: mpsc::Sender<()>, mut renewed: mpsc::Receiver<()>) {
    // Whatever socket is there at the start is the keeper's: it made it before this process began.
    let mut known = identity(&path);
    loop {
        while known.is_some() && identity(&path) == known {
            if let Err(e) = change(&path, known).await {
                tracing::debug!("cannot watch {}: {e}", path.display());
                sleep(SOCKET_LOOK_AGAIN).await;
            }
        }
        loop {
            if lost.send(()).await.is_err() {
                return;
            }
            match timeout(RELISTEN_RETRY, renewed.recv()).await {
                Ok(Some(())) => break,
                Ok(None) => return,
                Err(_not_yet) => {}
            }
        }
        known = identity(&path);
        sleep(RELISTEN_PAUSE).await;
    }
}

/// Waits until something happens to names in the folder; returns at once when the socket is another by now.
async fn change(path: &Path, known: Option<(u64, u64)>) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    let flags = AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF;
    match inotify.add_watch(folder, flags) {
        Ok(_) => {}
        Err(Errno::ENOENT) => return Ok(()),
        Err(e) => return Err(e.into()),
    }
    // Only now is nothing missed that happens after this look.
    if identity(path) != known {
        return Ok(());
    }
    let readable = watch(inotify.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    // What happened does not matter: the caller looks itself, and the next watch begins empty.
    let _ready = readable.readable().await?;
    Ok(())
}

/// Device and inode of the socket that has this name.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::symlink_metadata(path).ok()?;
    found.file_type().is_socket().then(|| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(60);

    struct Watched {
        dir: tempfile::TempDir,
        path: PathBuf,
        lost: mpsc::Receiver<()>,
        served: mpsc::Receiver<OwnedFd>,
        renewal: Renewal,
    }

    fn watched() -> Watched {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path().join("run");
        std::fs::create_dir(&folder).expect("made");
        let path = folder.join("control.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        drop(listener);
        let (lost_tx, lost) = mpsc::channel(1);
        let (to_server, served) = mpsc::channel(1);
        let renewal = Renewal::watch(path.clone(), lost_tx, to_server);
        Watched {
            dir,
            path,
            lost,
            served,
            renewal,
        }
    }

    impl Watched {
        /// It is lost, and then made again.
        async fn comes_back(&mut self) {
            let word = timeout(PATIENCE, self.lost.recv()).await.expect("in time");
            assert_eq!(word, Some(()));
            std::fs::create_dir_all(self.path.parent().expect("a folder")).expect("made");
            let _ = std::fs::remove_file(&self.path);
            let again = UnixListener::bind(&self.path).expect("bound");
            self.renewal.listener(OwnedFd::from(again));
            assert!(self.served.recv().await.is_some());
            // The watch notes which socket is the right one.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn c15_removed_or_replaced_socket_is_noticed_each_time() {
        let mut watched = watched();
        for _ in 0..3 {
            std::fs::remove_file(&watched.path).expect("removed");
            watched.comes_back().await;
        }
        // The whole folder.
        std::fs::remove_dir_all(watched.path.parent().expect("a folder")).expect("removed");
        watched.comes_back().await;
        // Moved away, and another's socket in its place.
        std::fs::rename(&watched.path, watched.dir.path().join("else")).expect("moved");
        let strange = UnixListener::bind(&watched.path).expect("bound");
        watched.comes_back().await;
        drop(strange);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_asked_for_until_it_is_there() {
        let mut watched = watched();
        std::fs::remove_file(&watched.path).expect("removed");
        for _ in 0..3 {
            assert_eq!(watched.lost.recv().await, Some(()));
        }
        watched.comes_back().await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn other_files_are_nobodys_loss() {
        let mut watched = watched();
        for n in 0..20 {
            let other = watched.path.with_file_name(format!("other{n}"));
            std::fs::write(&other, "x").expect("written");
            tokio::task::yield_now().await;
            std::fs::remove_file(&other).expect("removed");
            tokio::task::yield_now().await;
        }
        assert!(watched.lost.try_recv().is_err());
        std::fs::remove_file(&watched.path).expect("removed");
        watched.comes_back().await;
    }
}
