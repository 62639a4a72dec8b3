//! The control socket in a container's directory. Its path may be longer than a socket address can hold, so it is reached through a descriptor
//! of the directory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const NAME: &str = "sock";

fn through(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()))
}

/// Connects to the shim of the container in `dir`.
pub(super) fn connect(dir: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(through(&File::open(dir)?))
}

/// Listens for clients; what a dead shim left there goes. The directory itself admits its owner alone.
pub(super) fn listen(dir: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(dir.join(NAME)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(through(&File::open(dir)?))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Removes the socket.
pub(super) fn remove(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(NAME));
}
