//! Handles of what this process started.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::container::Container;
use crate::error::{Error, Result};
use crate::launch::Launched;
use crate::state::Record;
use crate::sys;

/// A container whose process waits before `execve`. Dropped: killed and removed.
#[derive(Debug)]
pub struct Created {
    process: Handle,
    netns: Option<OwnedFd>,
    warnings: Vec<String>,
}

/// A process of ours that is killed and removed with its container unless it is let go.
#[derive(Debug)]
struct Handle {
    container: Container,
    pid: u32,
    pidfd: OwnedFd,
    stdio: [Option<OwnedFd>; 3],
    console: Option<OwnedFd>,
    exit: Option<Exit>,
    record: Record,
    identity: Option<(u64, u64)>,
    kept: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // A destructor has nobody to tell; `gc` finds what could not be removed.
        if self.exit.is_none() {
            let _ = sys::pidfd_send_signal(&self.pidfd, libc::SIGKILL);
            let _ = self.wait(None);
        }
        // Whoever knows the ID may have removed it already, and another may have it now.
        if self.container.dir.identity().is_some_and(|now| Some(now) == self.identity) {
            let _ = self.container.delete_record(&self.record, true);
        }
    }
}

impl Handle {
    fn wait(&self, timeout: Option<Duration>) -> std::io::Result<Option<sys::Ended>> {
        match self.container.runtime.inner.children.wait_for(&self.pidfd, timeout)? {
            true => sys::wait(&self.pidfd, None),
            false => Ok(None),
        }
    }
}

impl Created {
    pub(crate) fn new(
        container: Container,
        launched: Launched,
        stdio: [Option<OwnedFd>; 3],
        record: Record,
        warnings: Vec<String>,
    ) -> Self {
        let Launched { pid, pidfd, console, netns, .. } = launched;
        let identity = container.dir.identity();
        let process =
            Handle { container, pid, pidfd, stdio, console, exit: None, record, identity, kept: false };
        Self { process, netns, warnings }
    }

    /// PID in the caller's PID namespace.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Its network namespace.
    pub fn netns(&self) -> Result<OwnedFd> {
        if let Some(netns) = &self.netns {
            return netns.try_clone().map_err(Error::os("duplicate a descriptor"));
        }
        let path = format!("/proc/{}/ns/net", self.process.pid);
        let file = std::fs::File::open(&path)
            .map_err(|source| Error::Os { what: format!("open {path}"), source })?;
        Ok(file.into())
    }

    /// What the spec asked for and was left out: capabilities that cannot be granted, cgroups that are not delegated.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The container, for what takes one.
    pub fn container(&self) -> &Container {
        &self.process.container
    }

    /// Runs `execve` and returns when that has succeeded.
    pub fn start(self) -> Result<Running> {
        self.process.container.start_parked(&self.process.record)?;
        Ok(Running { process: self.process })
    }

    /// Leaves it parked; another process opens it by ID and starts it.
    pub fn detach(mut self) -> Container {
        self.process.kept = true;
        self.process.container.clone()
    }

    /// The controlling side of its terminal, if `process.terminal`.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.process.console.take()
    }

    /// The caller's end of a piped stream: 0, 1 or 2.
    pub fn take_stdio(&mut self, n: usize) -> Option<OwnedFd> {
        self.process.stdio.get_mut(n)?.take()
    }
}

/// A pidfd of its process.
impl AsFd for Created {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }
}

/// A running container that this process started. Dropped: killed and removed; [`Running::detach`] leaves it.
#[derive(Debug)]
pub struct Running {
    process: Handle,
}

impl Running {
    /// PID in the caller's PID namespace.
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Waits for its end; `None` when the time is over before. After the end it answers the same again.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Exit>> {
        if self.process.exit.is_none() {
            let ended = self.process.wait(timeout).map_err(Error::os("wait for the container's process"))?;
            self.process.exit = ended.map(|ended| Exit::new(ended, self.process.record.groups.oom_killed()));
        }
        Ok(self.process.exit)
    }

    /// The container, for `exec`, `kill`, `pause`...
    pub fn container(&self) -> &Container {
        &self.process.container
    }

    /// The caller's end of a piped stream: 0, 1 or 2.
    pub fn take_stdio(&mut self, n: usize) -> Option<OwnedFd> {
        self.process.stdio.get_mut(n)?.take()
    }

    /// The controlling side of its terminal, if `process.terminal` and not taken before the start.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.process.console.take()
    }

    /// Leaves it running.
    pub fn detach(mut self) -> Container {
        self.process.kept = true;
        self.process.container.clone()
    }
}

/// A pidfd of its process: readable when it has ended.
impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed it, or a child of it, for memory.
    pub oom_killed: bool,
    /// CPU time, user and system, of the process and the children that it has waited for.
    pub cpu: Duration,
    /// Peak resident memory of the largest of these, in bytes.
    pub max_rss: u64,
}

impl Exit {
    pub(crate) fn new(ended: sys::Ended, oom_killed: bool) -> Self {
        Self {
            code: ended.code.unwrap_or_else(|| 128 + ended.signal.unwrap_or(0)),
            signal: ended.signal,
            oom_killed,
            cpu: ended.cpu,
            max_rss: ended.max_rss,
        }
    }

    /// It exited by itself with code 0.
    pub fn success(&self) -> bool {
        self.code == 0 && self.signal.is_none()
    }
}
