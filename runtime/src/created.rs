//! Handles of what this process started.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;

use crate::cgroup::Stats;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::exec::{ExecOptions, ExecProcess};
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
    /// As it was published: another container of the same ID has another.
    published: Vec<u8>,
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
        let store = &self.container.runtime.inner.store;
        if store.read(&self.container.id).is_ok_and(|now| now == self.published) {
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
        (record, published): (Record, Vec<u8>),
        warnings: Vec<String>,
    ) -> Self {
        let Launched { pid, pidfd, console, netns, .. } = launched;
        let process =
            Handle { container, pid, pidfd, stdio, console, exit: None, record, published, kept: false };
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
        Ok(Running { process: self.process, started: Instant::now() })
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
    started: Instant,
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
            self.process.exit =
                ended.map(|ended| Exit::new(ended, self.process.record.groups.oom_killed(), self.started));
        }
        Ok(self.process.exit)
    }

    /// Waits for its end, at most so long.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Exit>> {
        self.wait(Some(timeout))
    }

    /// Waits for its end.
    pub fn wait_to_end(&mut self) -> Result<Exit> {
        self.wait(None)?.ok_or(Error::Died)
    }

    /// The container, for what is not here.
    pub fn container(&self) -> &Container {
        &self.process.container
    }

    /// Sends a signal to its init.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.process.container.kill(signal, false)
    }

    /// Freezes it.
    pub fn pause(&self) -> Result<()> {
        self.process.container.pause()
    }

    /// Thaws it.
    pub fn resume(&self) -> Result<()> {
        self.process.container.resume()
    }

    /// Changes its limits; what `resources` leaves out stays.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.process.container.update(resources)
    }

    /// What it uses now.
    pub fn stats(&self) -> Result<Stats> {
        self.process.container.stats()
    }

    /// Runs one more program in it, with the environment, user and directory of its own one, and the caller's standard streams.
    pub fn exec<S: Into<String>>(&self, args: impl IntoIterator<Item = S>) -> Result<ExecProcess> {
        self.exec_with(args, ExecOptions::default())
    }

    /// The same with other streams.
    pub fn exec_with<S: Into<String>>(
        &self,
        args: impl IntoIterator<Item = S>,
        options: ExecOptions,
    ) -> Result<ExecProcess> {
        let mut process = self.process.record.spec.process().clone().unwrap_or_default();
        process.set_args(Some(args.into_iter().map(Into::into).collect())).set_terminal(Some(false));
        self.process.container.exec(&process, options)
    }

    /// The caller's end of standard input, if it is [`Stdio::Piped`](crate::Stdio::Piped).
    pub fn take_stdin(&mut self) -> Option<OwnedFd> {
        self.take_stdio(0)
    }

    /// The caller's end of standard output, if it is [`Stdio::Piped`](crate::Stdio::Piped).
    pub fn take_stdout(&mut self) -> Option<OwnedFd> {
        self.take_stdio(1)
    }

    /// The caller's end of standard error, if it is [`Stdio::Piped`](crate::Stdio::Piped).
    pub fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.take_stdio(2)
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
    /// The kernel killed it, or a child of it, for memory. systemd removes a group when its last process ends, and with it mostly the count:
    /// there take [`Container::oom_events`].
    pub oom_killed: bool,
    /// CPU time, user and system, of the process and the children that it has waited for.
    pub cpu: Duration,
    /// Peak resident memory of the largest of these, in bytes.
    pub max_rss: u64,
    /// Time from its start to when its end was seen.
    pub wall: Duration,
}

impl Exit {
    pub(crate) fn new(ended: sys::Ended, oom_killed: bool, started: Instant) -> Self {
        Self {
            code: ended.code.unwrap_or_else(|| 128 + ended.signal.unwrap_or(0)),
            signal: ended.signal,
            oom_killed,
            cpu: ended.cpu,
            max_rss: ended.max_rss,
            wall: started.elapsed(),
        }
    }

    /// It exited by itself with code 0.
    pub fn success(&self) -> bool {
        self.code == 0 && self.signal.is_none()
    }
}
