//! Network namespaces: entering one without changing the caller's.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The network namespace that a bridge lives in.
#[derive(Debug)]
pub(crate) struct Host {
    netns: OwnedFd,
    inode: u64,
}

impl Host {
    /// That of the calling thread.
    pub(crate) fn current() -> io::Result<Self> {
        let netns = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
        Ok(Self { inode: rustix::fs::fstat(&netns)?.st_ino, netns })
    }

    /// Runs `job` in this namespace, on this thread if it is there already.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> io::Result<T> {
        if rustix::fs::stat("/proc/thread-self/ns/net")?.st_ino == self.inode {
            return Ok(job());
        }
        within(self.netns.as_fd(), job)
    }
}

/// Runs `job` in another network namespace, on a thread that ends with it.
pub(crate) fn within<T: Send>(netns: BorrowedFd<'_>, job: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
            Ok(job())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
