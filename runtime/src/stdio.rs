//! Standard streams.

use std::cell::OnceCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Context, Error, Result};
use crate::sys;

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
        let null = Null::default();
        let ends = streams.child.iter_mut().zip(&mut streams.parent);
        for (n, (stdio, (child, parent))) in stdio.into_iter().zip(ends).enumerate() {
            let fd = match stdio {
                Stdio::Inherit if is_null(own(n)) => null.open(access(own(n))?)?,
                Stdio::Inherit => continue,
                Stdio::Null => null.open(OFlags::RDWR)?,
                Stdio::Fd(fd) if is_null(fd.as_fd()) => null.open(access(fd.as_fd())?)?,
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

/// The null device for containers' processes. A descriptor of the host's node would let root inside change its mode and owner, so it is
/// opened on a read-only mount of its own, where that fails and reading and writing do not. One mount serves all three: the end of
/// each takes the kernel some hundred microseconds.
#[derive(Debug, Default)]
struct Null {
    mount: OnceCell<Option<OwnedFd>>,
}

impl Null {
    fn open(&self, access: OFlags) -> Result<OwnedFd> {
        if self.mount.get().is_none() {
            let mount = match sys::readonly_clone(c"/dev/null") {
                Ok(mount) => Some(mount),
                // Without privileges: then the node is not the container's either.
                Err(e) if e.raw_os_error() == Some(libc::EPERM) => None,
                Err(e) => return Err(Error::os("clone the mount of /dev/null")(e)),
            };
            self.mount.get_or_init(|| mount);
        }
        let path = match self.mount.get().and_then(Option::as_ref) {
            Some(mount) => format!("/proc/self/fd/{}", mount.as_raw_fd()),
            None => "/dev/null".to_owned(),
        };
        rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty()).context("open /dev/null")
    }
}

fn is_null(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|s| {
        rustix::fs::FileType::from_raw_mode(s.st_mode).is_char_device()
            && s.st_rdev == rustix::fs::makedev(1, 3)
    })
}

fn access(fd: BorrowedFd<'_>) -> Result<OFlags> {
    let flags = rustix::fs::fcntl_getfl(fd).context("read a stream's flags")?;
    Ok(flags & OFlags::RWMODE)
}

/// The caller's own stream.
fn own(n: usize) -> BorrowedFd<'static> {
    match n {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}

/// The descriptor at a number that the child's own 0, 1, 2... do not overwrite.
pub(crate) fn at_least(fd: OwnedFd, least: RawFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() >= least {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, least).context("duplicate a descriptor")
}
