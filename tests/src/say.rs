//! Speaks with `rr-say` daemons.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::{Node, PATIENCE, Unit, programs};

/// A unit of kind notify that runs `rr-say`, listening below the folder `say` of its node.
pub fn unit(folder: &str) -> Unit {
    Unit::command(&[programs::rr_say(), folder]).kind("notify")
}

/// Has the daemon that listens at `name` do something, and returns what it says when it has.
///
/// # Panics
/// When it does not answer in time, or cannot do it.
#[track_caller]
pub fn tell(node: &Node, name: &str, order: &str) -> String {
    let answer =
        try_tell(&node.path("say"), name, order).unwrap_or_else(|why| panic!("{name}, {order}: {why}"));
    assert!(!answer.starts_with("error: "), "{name}, {order}: {answer}");
    answer
}

/// Tells it to do something from which it does not come back to answer.
///
/// # Panics
/// When it does not listen.
#[track_caller]
pub fn order(node: &Node, name: &str, order: &str) {
    let socket = UnixDatagram::unbound().expect("a socket");
    socket
        .send_to(order.as_bytes(), node.path("say").join(name))
        .expect("it listens");
}

fn try_tell(folder: &Path, name: &str, order: &str) -> std::io::Result<String> {
    let mine: PathBuf = folder.join(format!("asks-{name}-{:?}", std::thread::current().id()));
    let _ = std::fs::remove_file(&mine);
    let socket = UnixDatagram::bind(&mine)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(order.as_bytes(), folder.join(name))?;
    let mut buffer = vec![0; 65536];
    let len = socket.recv(&mut buffer)?;
    std::fs::remove_file(&mine)?;
    String::from_utf8(buffer[..len].to_vec()).map_err(std::io::Error::other)
}
