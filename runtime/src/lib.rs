//! OCI container runtime.
#![deny(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::runtime::{Process, Spec};

#[cfg(feature = "containers")]
pub mod containers;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {}
/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The runtime: where state is kept, how cgroups are driven. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime(());

/// What `create` takes besides the spec.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CreateOptions<'a> {
    /// The root file system, where it is not simply `root.path`.
    pub rootfs: Rootfs<'a>,
    /// Standard input, output, error of the container's process.
    pub stdio: [Stdio; 3],
    /// Directory that relative paths of the spec start from (the bundle).
    pub bundle: Option<PathBuf>,
    /// The process gets a terminal (`process.terminal`); its controlling side is [`Created::take_console`].
    pub preserve_fds: Vec<OwnedFd>,
}

/// Where the container's root file system comes from.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Rootfs<'a> {
    /// The spec's `root.path`.
    #[default]
    Spec,
    /// A detached mount (`fsmount(2)`, `open_tree(2)`); it is moved into the container's mount namespace and dies with it.
    Detached(BorrowedFd<'a>),
    /// An overlay that the container's own user and mount namespace mounts (rootless).
    Overlay {
        /// Read-only layers, top first.
        lower: Vec<PathBuf>,
        /// Where changes go.
        upper: PathBuf,
        /// Work directory.
        work: PathBuf,
    },
}

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

impl Runtime {
    /// State under `dir` (like runc's `--root`).
    pub fn new(_dir: impl Into<PathBuf>) -> Result<Self> {
        todo!()
    }
    /// Makes the container: namespaces exist, its process is parked before `execve`.
    pub fn create(&self, _id: &str, _spec: &Spec, _options: CreateOptions<'_>) -> Result<Created> {
        todo!()
    }
    /// Opens a container by ID from its state on disk.
    pub fn open(&self, _id: &str) -> Result<Container> {
        todo!()
    }
    /// All containers' states.
    pub fn list(&self) -> Result<Vec<State>> {
        todo!()
    }
}

/// A container whose process waits before `execve`. Dropped: killed and removed.
#[derive(Debug)]
pub struct Created(());
impl Created {
    /// PID in the caller's PID namespace.
    pub fn pid(&self) -> u32 {
        todo!()
    }
    /// Its network namespace.
    pub fn netns(&self) -> Result<OwnedFd> {
        todo!()
    }
    /// Runs `execve` and returns when that has succeeded.
    pub fn start(self) -> Result<Running> {
        todo!()
    }
    /// Leaves it parked; another process opens it by ID and starts it.
    pub fn detach(self) -> Container {
        todo!()
    }
    /// The controlling side of its terminal, if `process.terminal`.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        todo!()
    }
}

/// A running container that this process started. Dropped: killed and removed; [`Running::detach`] leaves it.
#[derive(Debug)]
pub struct Running(());
impl Running {
    /// Waits for its end; `None` when the time is over before.
    pub fn wait(&mut self, _timeout: Option<Duration>) -> Result<Option<Exit>> {
        todo!()
    }
    /// The container, for `exec`, `kill`, `pause`...
    pub fn container(&self) -> &Container {
        todo!()
    }
    /// The caller's end of a piped stream: 0, 1 or 2.
    pub fn take_stdio(&mut self, _n: usize) -> Option<OwnedFd> {
        todo!()
    }
    /// Leaves it running.
    pub fn detach(self) -> Container {
        todo!()
    }
}

/// A container by ID, whoever started it. `AsFd` is a pidfd where it runs.
#[derive(Clone, Debug)]
pub struct Container(());
impl Container {
    /// Its state, checked against the kernel.
    pub fn state(&self) -> Result<State> {
        todo!()
    }
    /// Starts a created one.
    pub fn start(&self) -> Result<()> {
        todo!()
    }
    /// Sends a signal to its init, or to all its processes.
    pub fn kill(&self, _signal: i32, _all: bool) -> Result<()> {
        todo!()
    }
    /// Runs one more process in it.
    pub fn exec(&self, _process: &Process, _options: ExecOptions) -> Result<ExecProcess> {
        todo!()
    }
    /// PIDs of its processes, in the caller's PID namespace.
    pub fn processes(&self) -> Result<Vec<u32>> {
        todo!()
    }
    /// Freezes it.
    pub fn pause(&self) -> Result<()> {
        todo!()
    }
    /// Thaws it.
    pub fn resume(&self) -> Result<()> {
        todo!()
    }
    /// Removes it: cgroups, state. A running one needs `force`.
    pub fn delete(&self, _force: bool) -> Result<()> {
        todo!()
    }
}

/// What `exec` takes.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ExecOptions {
    /// Standard streams.
    pub stdio: [Stdio; 3],
}

/// A process that `exec` started. Dropped: left running.
#[derive(Debug)]
pub struct ExecProcess(());
impl ExecProcess {
    /// PID in the caller's PID namespace.
    pub fn pid(&self) -> u32 {
        todo!()
    }
    /// Waits for its end; `None` when the time is over before.
    pub fn wait(&mut self, _timeout: Option<Duration>) -> Result<Option<Exit>> {
        todo!()
    }
    /// The caller's end of a piped stream.
    pub fn take_stdio(&mut self, _n: usize) -> Option<OwnedFd> {
        todo!()
    }
    /// The controlling side of its terminal.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        todo!()
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
}

/// State as runtime-spec's `state` tells it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct State {
    /// Container ID.
    pub id: String,
    /// `created`, `running`, `paused`, `stopped`.
    pub status: Status,
    /// PID of init, while it lives.
    pub pid: Option<u32>,
    /// Bundle path, if there is one.
    pub bundle: Option<PathBuf>,
    /// The spec's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// runtime-spec's container states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Set up, its process not yet executed.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}
