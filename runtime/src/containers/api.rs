//! The small types that [`super::Containers`] takes and returns.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use oci_spec::runtime::LinuxIdMapping;
use serde::{Deserialize, Serialize};

use super::{Error, Map, RestartPolicy, Result};

/// How [`super::Containers::open`] works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Program that is started as a container's shim; its `main` first calls [`super::shim_main`].
    pub shim: PathBuf,
    /// Handed to [`super::shim_main`]'s function as it is: what the program needs to open the same things again, such as its root directory.
    pub shim_context: std::ffi::OsString,
    /// Where named and anonymous volumes live; `None` is `volumes` beside the containers' directory.
    pub volumes: Option<PathBuf>,
    /// The host's `/etc/resolv.conf`, for containers whose network names no server of its own.
    pub resolv_conf: String,
    /// The host's name, for containers that share the host's UTS namespace.
    pub host_name: String,
    /// What a `network_mode` of `default` means.
    pub default_network: String,
    /// Name shown as `Driver`.
    pub driver: String,
    /// Users and groups of containers' user namespaces: what the user namespace has that the caller is root of. `None`: an ordinary user's
    /// container has the one user, root's has no user namespace.
    pub id_maps: Option<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)>,
    /// Raised, it ends what goes through whole trees (`export`, `diff`, the copies) with [`Error::Cancelled`].
    pub cancel: Arc<AtomicBool>,
}

impl OpenOptions {
    /// With this program as the shim.
    pub fn new(shim: impl Into<PathBuf>) -> Self {
        Self {
            shim: shim.into(),
            shim_context: Default::default(),
            volumes: None,
            resolv_conf: String::new(),
            host_name: String::new(),
            default_network: "bridge".into(),
            driver: "overlay2".into(),
            id_maps: None,
            cancel: Arc::default(),
        }
    }
    /// Sets [`Self::shim_context`].
    pub fn shim_context(mut self, context: impl Into<std::ffi::OsString>) -> Self {
        self.shim_context = context.into();
        self
    }
    /// Sets [`Self::volumes`].
    pub fn volumes(mut self, dir: impl Into<PathBuf>) -> Self {
        self.volumes = Some(dir.into());
        self
    }
    /// Sets [`Self::resolv_conf`].
    pub fn resolv_conf(mut self, text: impl Into<String>) -> Self {
        self.resolv_conf = text.into();
        self
    }
    /// Sets [`Self::host_name`].
    pub fn host_name(mut self, name: impl Into<String>) -> Self {
        self.host_name = name.into();
        self
    }
    /// Sets [`Self::cancel`].
    pub fn cancel(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancel = flag;
        self
    }
    /// Sets [`Self::default_network`]: `bridge`, `host`, `none` or a network's name.
    pub fn default_network(mut self, mode: impl Into<String>) -> Self {
        self.default_network = mode.into();
        self
    }
}

/// What `create` did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CreateOutcome {
    /// The new container's ID: 64 hex digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the request asked for in vain, in words for the user.
    pub warnings: Vec<String>,
}

/// How a container is started.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StartOptions {
    /// Attach from the first byte on (`run` without `-d`, `start -a`).
    pub attach: Option<AttachOptions>,
}

impl StartOptions {
    /// Attaches from the first byte on.
    pub fn attach(options: AttachOptions) -> Self {
        Self { attach: Some(options) }
    }
}

/// What an attached client wants.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AttachOptions {
    /// Send standard input.
    pub stdin: bool,
    /// Receive standard output.
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self { stdin: false, stdout: true, stderr: true }
    }
}

impl AttachOptions {
    /// Standard output and error, and standard input if `stdin`.
    pub fn new(stdin: bool) -> Self {
        Self { stdin, ..Self::default() }
    }
}

/// How a container is stopped.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StopOptions {
    /// Signal by name or number; `None` is the container's own.
    pub signal: Option<String>,
    /// Seconds until SIGKILL; `None` is the container's own (10), -1 waits for ever.
    pub timeout: Option<i64>,
}

impl StopOptions {
    /// With this many seconds until SIGKILL.
    pub fn timeout(seconds: i64) -> Self {
        Self { timeout: Some(seconds), ..Self::default() }
    }
}

/// What `wait` waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitFor {
    /// Until it does not run; at once if it does not run now.
    #[default]
    NotRunning,
    /// The next end of its process.
    NextExit,
    /// Until its record is gone.
    Removed,
}

/// How a container is removed.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
}

impl RemoveOptions {
    /// `rm -f`, `rm -v`.
    pub fn new(force: bool, volumes: bool) -> Self {
        Self { force, volumes }
    }
}

/// What became of a path of a container's image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// Its content, its attributes, or what is in it.
    Modified,
    /// It is not in the image.
    Added,
    /// It is in the image alone.
    Deleted,
}

/// One line of `docker diff`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// What became of it.
    pub kind: ChangeKind,
    /// Path in the container.
    pub path: String,
}

/// `docker exec`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ExecRequest {
    /// By which events tell it from others; `None`: one is made.
    pub id: Option<String>,
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment beside the container's, `NAME=value`.
    pub env: Vec<String>,
    /// `user[:group]`; `None` is the container's.
    pub user: Option<String>,
    /// Working directory; `None` is the container's.
    pub working_dir: Option<String>,
    /// A terminal of its own.
    pub tty: bool,
    /// All capabilities.
    pub privileged: bool,
    /// Columns and rows of the terminal.
    pub console_size: Option<(u16, u16)>,
}

impl ExecRequest {
    /// Runs `args` as the container's own user.
    pub fn new<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Self {
        Self { args: args.into_iter().map(Into::into).collect(), ..Self::default() }
    }
    /// With a new [`Self::id`] of 64 hex digits, for [`super::Containers::exec_ended`].
    ///
    /// # Errors
    /// [`Error::Io`] without random bytes.
    pub fn with_id(self) -> Result<Self> {
        Ok(Self { id: Some(super::dir::new_id()?), ..self })
    }
}

/// Which part of a log is read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// Only this many lines from the end; `None` is all.
    pub tail: Option<usize>,
    /// Only lines from this time on.
    pub since: Option<SystemTime>,
    /// Only lines up to this time.
    pub until: Option<SystemTime>,
    /// With standard output.
    pub stdout: bool,
    /// With standard error.
    pub stderr: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { follow: false, tail: None, since: None, until: None, stdout: true, stderr: true }
    }
}

/// A standard stream of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogLine {
    /// Where it was written.
    pub stream: LogStream,
    /// When: RFC 3339 with nanoseconds, UTC.
    pub time: String,
    /// The bytes with their line end; a line too long for one entry comes in several, only the last with a line end.
    pub log: Vec<u8>,
    /// The labels and environment variables that `--log-opt labels=...` and `env=...` name.
    pub attributes: Map,
}

/// Conditions of `ps`; all keys must match, of the values of one key any (labels: all).
#[derive(Clone, Debug, Default)]
pub struct Filters(pub(super) Vec<(String, String)>);

impl Filters {
    /// None: everything matches.
    pub fn new() -> Self {
        Self::default()
    }
    /// Adds a condition.
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((key.into(), value.into()));
        self
    }
    /// Adds one as `--filter` takes it: `status=exited`.
    pub fn parse(&mut self, text: &str) -> Result<()> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("invalid argument \"{text}\" for \"-f, --filter\" flag: bad format of filter (expected name=value)")))?;
        self.0.push((key.trim().to_lowercase(), value.trim().into()));
        Ok(())
    }
    pub(super) fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// One container in a list.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase")]
pub struct Summary {
    /// 64 hex digits.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name without slash.
    #[serde(rename = "Names")]
    pub name: String,
    /// The image as it was asked for.
    pub image: String,
    /// Image ID.
    #[serde(rename = "ImageID")]
    pub image_id: String,
    /// Program and arguments.
    pub command: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// `created`, `running`, `paused`, `restarting`, `exited`, `dead`.
    pub state: String,
    /// In words: `Up 5 minutes (healthy)`.
    pub status: String,
    /// Ports in words: `0.0.0.0:8080->80/tcp`.
    pub ports: String,
    /// Labels.
    pub labels: Map,
    /// Mounted volumes and host paths.
    pub mounts: Vec<String>,
    /// How many of them are volumes.
    pub local_volumes: usize,
    /// Networks.
    pub networks: Vec<String>,
    /// Bytes of the files in its writable layer, if asked for.
    pub size: Option<u64>,
}

/// What `update` changes; `None` leaves it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Update {
    /// Restart policy.
    pub restart_policy: Option<RestartPolicy>,
    /// Memory limit in bytes.
    pub memory: Option<i64>,
    /// Memory and swap in bytes.
    pub memory_swap: Option<i64>,
    /// Soft memory limit in bytes.
    pub memory_reservation: Option<i64>,
    /// CPUs in units of 1e-9.
    pub nano_cpus: Option<i64>,
    /// Microseconds of a CFS period.
    pub cpu_period: Option<i64>,
    /// Microseconds of CPU time per period.
    pub cpu_quota: Option<i64>,
    /// CPU weight.
    pub cpu_shares: Option<i64>,
    /// CPUs.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Tasks.
    pub pids_limit: Option<i64>,
    /// Block IO weight.
    pub blkio_weight: Option<u16>,
}

/// One reading of a container's counters.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase")]
pub struct Stats {
    /// Container ID.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name.
    pub name: String,
    /// CPU time used since it started, in nanoseconds.
    pub cpu_nanos: u64,
    /// When that was read, in nanoseconds of the monotonic clock.
    pub read_at: u64,
    /// Memory in use without the page cache that can go, in bytes.
    pub memory: u64,
    /// Limit in bytes; the machine's memory where there is none.
    pub memory_limit: u64,
    /// Tasks.
    pub pids: u64,
    /// Bytes received on all its interfaces but loopback.
    pub net_rx: u64,
    /// Bytes sent.
    pub net_tx: u64,
    /// Bytes read from block devices.
    pub block_read: u64,
    /// Bytes written.
    pub block_write: u64,
}

/// What of the past and future `events` gives.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct EventsOptions {
    /// From this time on; `None` from now.
    pub since: Option<SystemTime>,
    /// Up to this time; `None` goes on for ever.
    pub until: Option<SystemTime>,
    /// Only these: keys `container`, `event`, `image`, `label`, `network`, `type`, `volume`.
    pub filters: Filters,
}

/// Something that happened, as Docker writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventLine {
    /// `container`, `network` or `volume`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// `create`, `start`, `die`, ...
    #[serde(rename = "Action")]
    pub action: String,
    /// ID of the container or name of the volume.
    #[serde(rename = "ID")]
    pub id: String,
    /// `name`, `image`, labels, `exitCode`, `signal`.
    #[serde(rename = "Attributes")]
    pub attributes: Map,
    /// Seconds since 1970.
    pub time: i64,
    /// Nanoseconds since 1970.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// What a prune removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PruneOutcome {
    /// IDs or names.
    pub removed: Vec<String>,
    /// Bytes that became free, as far as known.
    pub bytes: u64,
}
