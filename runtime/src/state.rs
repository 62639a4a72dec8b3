//! What is kept about a container, and where.
//!
//! `ROOT/ID/state.json` (written whole, by rename), `ROOT/ID/cgroup` (for who collects one whose state was never written) and, while the container waits for its start, the socket `ROOT/ID/start`. The record
//! carries the kernel's boot ID and the process's start time, so a PID from before a reboot, or used again, is never taken for it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::cgroup::Groups;
use crate::error::{Error, Result};
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

/// The record on disk.
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

/// File that names the groups' path.
const CGROUP: &str = "cgroup";

/// The directory of one container.
#[derive(Clone, Debug)]
pub(crate) struct Dir {
    pub(crate) id: String,
    pub(crate) path: PathBuf,
}

impl Dir {
    pub(crate) fn new(root: &Path, id: &str) -> Result<Self> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
        if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.bytes().all(legal) {
            return Err(Error::InvalidId { id: id.to_owned() });
        }
        Ok(Self { id: id.to_owned(), path: root.join(id) })
    }

    fn fail(&self, source: io::Error) -> Error {
        Error::State { path: self.path.clone(), source }
    }

    /// Makes it; that it can be made once is what keeps an ID unique. The lock says that someone is at work, until the state is written.
    pub(crate) fn create(&self) -> Result<fs::File> {
        loop {
            match fs::create_dir(&self.path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(Error::Exists { id: self.id.clone() });
                }
                Err(source) => return Err(self.fail(source)),
            }
            // Who collects what is abandoned may come in between, and takes it for that: then it is made again.
            match fs::File::open(&self.path) {
                Ok(lock) => {
                    lock.lock().map_err(|e| self.fail(e))?;
                    if self.is(&lock) {
                        return Ok(lock);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(self.fail(source)),
            }
        }
    }

    /// The path still leads to the open directory.
    fn is(&self, open: &fs::File) -> bool {
        use std::os::unix::fs::MetadataExt;
        let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        open.metadata().is_ok_and(|a| fs::symlink_metadata(&self.path).is_ok_and(|b| same(a, b)))
    }

    /// The lock of one whose creator died before it had written the state. Only what a creator makes is taken for that.
    pub(crate) fn abandoned(&self) -> Result<Option<fs::File>> {
        if self.path.join("state.json").exists() || !self.path.is_dir() {
            return Ok(None);
        }
        let lock = match fs::File::open(&self.path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.fail(source)),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(source)) => return Err(self.fail(source)),
        }
        let ours = ["start", CGROUP, ".state.json"];
        let entries = fs::read_dir(&self.path).map_err(|e| self.fail(e))?;
        let only_ours = entries.flatten().all(|e| ours.iter().any(|name| e.file_name() == *name));
        Ok(Some(lock).filter(|lock| only_ours && self.is(lock)))
    }

    /// Writes down where the groups will be, for whoever has to remove them if the state is never written.
    pub(crate) fn write_cgroup(&self, path: PathBuf) -> Result<PathBuf> {
        fs::write(self.path.join(CGROUP), path.as_os_str().as_encoded_bytes()).map_err(|e| self.fail(e))?;
        Ok(path)
    }

    /// What [`Self::write_cgroup`] wrote. Without it no group was made yet.
    pub(crate) fn cgroup(&self) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let path = fs::read(self.path.join(CGROUP)).ok().filter(|path| !path.is_empty())?;
        Some(std::ffi::OsString::from_vec(path).into())
    }

    pub(crate) fn read(&self) -> Result<Record> {
        let path = self.path.join("state.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NotFound { id: self.id.clone() });
            }
            Err(source) => return Err(Error::State { path, source }),
        };
        serde_json::from_slice(&bytes).map_err(|e| Error::State { path, source: e.into() })
    }

    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        let path = self.path.join("state.json");
        let new = self.path.join(".state.json");
        let bytes =
            serde_json::to_vec(record).map_err(|e| Error::State { path: path.clone(), source: e.into() })?;
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|source| Error::State { path, source })
    }

    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::State { path: self.path.clone(), source: e })
            }
            _ => Ok(()),
        }
    }

    /// Which file the state is: another container of the same ID has another.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let file = fs::metadata(self.path.join("state.json")).ok()?;
        Some((file.ino(), file.ctime_nsec() as u64))
    }

    /// Where a created container waits for its start.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("start")
    }
}
