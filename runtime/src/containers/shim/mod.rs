//! The shim: one small process per running container. It is the parent of the container's init, holds its standard streams, writes its log,
//! knows how it ended, starts it again, checks its health, and serves clients over a socket. One thread, one `poll`.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::net::UnixStream;

use super::ops::SHIM_ARGUMENT;
use super::proto::{self, Answer, Decoder, Failure};
use super::sys::{self, Fork};
use super::{AttachOptions, BoxError, Containers, Error, Result};

mod clients;
mod health;
mod io;
mod ipc;
mod launch;
mod network;
mod policy;
mod supervise;

pub(super) use launch::start_error;

/// To be called first in the `main` of the program that [`super::OpenOptions::shim`] names, while it has one thread: does nothing and returns
/// `None` unless the program was started as a shim. Else it calls `open` with [`super::OpenOptions::shim_context`], supervises the container
/// until its end, and returns the code to exit with. Descriptors that it was started with are closed, but for the standard streams.
pub fn shim_main(
    args: impl IntoIterator<Item = OsString>,
    open: impl FnOnce(&OsStr) -> Result<Containers, BoxError>,
) -> Option<i32> {
    let mut args = args.into_iter().skip(1);
    if args.next()? != SHIM_ARGUMENT {
        return None;
    }
    let (Some(id), Some(context)) = (args.next(), args.next()) else { return Some(125) };
    let id = id.to_string_lossy().into_owned();
    // The starter waits for this process and must not wait for the container: a child of it, in a session of its own, goes on.
    match rustix::process::setsid().map_err(Into::into).and_then(|_| sys::fork_alone()) {
        Err(e) => {
            if let Ok(mut starter) = starter() {
                answer(&mut starter, &Error::Shim(e.to_string()));
            }
            return Some(0);
        }
        Ok(Fork::Parent(_)) => return Some(0),
        // A pipe that the starter's caller reads to its end would not come to one.
        Ok(Fork::Child) => sys::close_inherited(),
    }
    let Ok(mut starter) = starter() else { return Some(125) };
    say_who(&mut starter);
    let result = open(&context)
        .map_err(|e| Error::Shim(format!("it could not open its directory: {e}")))
        .and_then(|all| supervise::run(&all, &id, &mut starter));
    if let Err(e) = result {
        answer(&mut starter, &e);
        return Some(125);
    }
    Some(0)
}

/// The connection to the starter came as standard input; from here on that is `/dev/null`.
fn starter() -> std::io::Result<UnixStream> {
    use std::os::fd::AsFd;
    let stream = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    std::env::set_current_dir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let _ = rustix::thread::set_name(c"longshore-shim");
    Ok(stream)
}

/// The starter waits for our end once it has heard of the container's.
fn say_who(starter: &mut UnixStream) {
    use std::io::Write;
    let mut frame = Vec::new();
    proto::frame(&mut frame, proto::SHIM, &rustix::process::getpid().as_raw_nonzero().get().to_le_bytes());
    let _ = starter.write_all(&frame);
}

fn answer(starter: &mut UnixStream, error: &Error) {
    use std::io::Write;
    let _ = starter.set_nonblocking(false);
    let _ = starter.write_all(&proto::json_frame(proto::ANSWER, &Answer::Failed(Failure::from(error))));
}

/// What the starter sent before it started us: whether and how it attaches.
fn first_request(starter: &mut UnixStream) -> Result<Option<AttachOptions>> {
    let fail = |e: std::io::Error| Error::Shim(e.to_string());
    let (mut decoder, mut buffer) = (Decoder::default(), [0; 4096]);
    loop {
        if let Some((proto::REQUEST, payload)) = decoder.next().map_err(fail)? {
            return serde_json::from_slice(payload).map_err(|e| Error::Shim(e.to_string()));
        }
        match starter.read(&mut buffer).map_err(fail)? {
            0 => return Err(Error::Shim("no request".into())),
            n => decoder.push(&buffer[..n]),
        }
    }
}
