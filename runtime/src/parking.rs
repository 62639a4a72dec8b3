//! Where a created container waits for its start: on a socket in its directory, for any process, or on one that the creator keeps.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use crate::error::{Context, Error, Result};
use crate::store::START;

/// The sockets that a runtime keeps, of containers that have no directory.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    sockets: Mutex<HashMap<String, OwnedFd>>,
}

impl Parking {
    pub(crate) fn keep(&self, id: &str, socket: OwnedFd) {
        self.lock().insert(id.to_owned(), socket);
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    /// Whoever gets it starts the container; closed, it ends it.
    pub(crate) fn take(&self, id: &str) -> Option<OwnedFd> {
        self.lock().remove(id)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, OwnedFd>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket where the parked process listens.
pub(crate) fn listen_in(dir: &Path) -> Result<OwnedFd> {
    let socket = socket(SocketFlags::empty())?;
    through_proc(dir, |address| bind(&socket, address))?.context("bind the start socket")?;
    listen(&socket, 8).context("listen on the start socket")?;
    Ok(socket)
}

/// Somebody listens.
pub(crate) fn is_parked_in(dir: &Path) -> bool {
    let knock = || -> Result<bool> {
        let socket = socket(SocketFlags::NONBLOCK)?;
        // It takes one connection; those of who only asks wait in vain, and one too many is told so.
        Ok(matches!(through_proc(dir, |address| connect(&socket, address))?, Ok(()) | Err(Errno::AGAIN)))
    };
    dir.join(START).exists() && knock().unwrap_or(false)
}

/// A connection to the parked process; `None` when nobody listens any more.
pub(crate) fn knock_in(dir: &Path) -> Result<Option<OwnedFd>> {
    let socket = socket(SocketFlags::empty())?;
    match through_proc(dir, |address| connect(&socket, address))? {
        Ok(()) => Ok(Some(socket)),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(None),
        Err(e) => Err(Error::os("connect to the start socket")(e.into())),
    }
}

/// Nobody listens any more.
pub(crate) fn clear(dir: &Path) {
    // It goes with the directory at the latest.
    let _ = fs::remove_file(dir.join(START));
}

fn socket(flags: SocketFlags) -> Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | flags, None)
        .context("make the start socket")
}

/// Calls with the address of the start socket, made through the directory's descriptor: a socket's path is at most 107 bytes.
fn through_proc<T>(dir: &Path, call: impl FnOnce(&SocketAddrUnix) -> T) -> Result<T> {
    let handle = fs::File::open(dir).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            Error::NotFound { id: dir.file_name().unwrap_or_default().to_string_lossy().into_owned() }
        }
        _ => Error::State { path: dir.to_owned(), source },
    })?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{START}", handle.as_raw_fd()))
        .context("name the start socket")?;
    Ok(call(&address))
}
