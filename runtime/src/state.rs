//! What is kept about a container. The record carries the kernel's boot ID and the process's start time, so a PID from before a reboot, or
//! used again, is never taken for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::cgroup::Groups;
use crate::plan::Faults;

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
    /// When it was created: seconds since 1970.
    pub created: u64,
}

/// runtime-spec's container states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Being made: what hooks see before `create` returns.
    Creating,
    /// Set up, its process not yet executed.
    Created,
    /// Running.
    Running,
    /// Frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl Status {
    /// The word of runtime-spec.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The record, kept as JSON by a [`StateStore`](crate::store::StateStore).
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) pid: u32,
    /// Clock ticks since boot.
    pub(crate) start_time: u64,
    pub(crate) boot_id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) bundle: Option<PathBuf>,
    pub(crate) groups: Groups,
    /// `CLONE_NEW*` of the namespaces that are not the creator's.
    pub(crate) namespaces: u64,
    /// `setgroups(2)` is permitted inside.
    pub(crate) may_set_groups: bool,
    /// It has a user namespace of its own, with the spec's maps.
    #[serde(default)]
    pub(crate) new_user: bool,
    /// For the errors of `start`.
    pub(crate) faults: Faults,
    pub(crate) spec: Spec,
}

/// This boot of the kernel.
pub(crate) fn boot_id() -> &'static str {
    // No process sees two of them.
    static ID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ID.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
    })
}

pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Record {
    /// A pidfd of its process, while that lives. Checked after it was opened, so it is that process's and no later one's.
    pub(crate) fn pidfd(&self) -> Option<OwnedFd> {
        crate::process::open(self.pid).filter(|_| self.is_alive())
    }

    /// Its process is there: same boot, same start time, not a zombie.
    pub(crate) fn is_alive(&self) -> bool {
        self.boot_id == boot_id() && crate::process::start_time(self.pid) == Some(self.start_time)
    }
}
