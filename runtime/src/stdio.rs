//! Standard streams.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Context, Result};

/// One standard stream.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Stdio {
    /// The caller's own.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// A pipe; the other end is on the handle.
    Piped,
    /// This descriptor.
    Fd(OwnedFd),
}

/// Both sides of the three streams.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// The child's.
    pub(crate) child: [Option<OwnedFd>; 3],
    /// The caller's ends of pipes.
    pub(crate) parent: [Option<OwnedFd>; 3],
}

impl Streams {
    pub(crate) fn new(stdio: [Stdio; 3], least: RawFd) -> Result<Self> {
        let mut streams = Self::default();
        let ends = streams.child.iter_mut().zip(&mut streams.parent);
        for (n, (stdio, (child, parent))) in stdio.into_iter().zip(ends).enumerate() {
            let fd = match stdio {
                Stdio::Inherit => continue,
                Stdio::Null => rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                    .context("open /dev/null")?,
                Stdio::Fd(fd) => fd,
                Stdio::Piped => {
                    let (read, write) = pipe_with(PipeFlags::CLOEXEC).context("make a pipe")?;
                    let (theirs, ours) = if n == 0 { (read, write) } else { (write, read) };
                    *parent = Some(ours);
                    theirs
                }
            };
            *child = Some(at_least(fd, least)?);
        }
        Ok(streams)
    }

    pub(crate) fn numbers(&self) -> [Option<RawFd>; 3] {
        self.child.each_ref().map(|fd| fd.as_ref().map(AsRawFd::as_raw_fd))
    }
}

/// The descriptor at a number that the child's own 0, 1, 2... do not overwrite.
pub(crate) fn at_least(fd: OwnedFd, least: RawFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() >= least {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, least).context("duplicate a descriptor")
}
