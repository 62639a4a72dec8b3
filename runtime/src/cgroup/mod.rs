//! Control groups: the machine's layout (v1, v2, or both), a container's groups in it, their limits and their members.
//!
//! A container is *born* in its groups. On v2 `clone3(CLONE_INTO_CGROUP)` does that; on v1 the thread that clones moves itself first
//! through `tasks`: a thread that moves only itself takes no global lock, where writing another's PID to `cgroup.procs` waits for an RCU
//! grace period (8-16 ms after idle).

mod devices;
mod layout;
mod limits;
mod oom;
mod rdt;
mod stats;
#[cfg(feature = "systemd")]
pub(crate) mod systemd;

pub(crate) use layout::{Hierarchy, Layout, join};
pub use oom::OomEvents;
pub(crate) use rdt::Class;
pub use stats::Stats;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};
use crate::waiting::Waiting;

/// The groups of one container.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Groups {
    /// Controllers and directory of each v1 hierarchy.
    pub(crate) v1: Vec<(Vec<String>, PathBuf)>,
    /// v2 directory.
    pub(crate) v2: Option<PathBuf>,
    /// Members that were killed for memory before the container was made: the spec may name groups that are there.
    #[serde(default)]
    oom_kills_before: u64,
    /// Others lived in one of them before: they stay, and so do the groups.
    #[serde(default)]
    shared: bool,
    /// The class of cache and memory bandwidth.
    #[serde(default)]
    pub(crate) class: Option<Class>,
    /// The unit of systemd's whose groups they are.
    #[cfg(feature = "systemd")]
    #[serde(default)]
    pub(crate) unit: Option<systemd::Unit>,
}

/// Where a container's groups will be.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    /// None yet.
    pub(crate) groups: Groups,
    /// Keeps the place until the container's process is in it.
    pub(crate) keeper: Option<Waiting>,
}

impl Groups {
    /// Makes the groups at `path` of every hierarchy. What cannot be made for want of rights is left out when `lenient`, and told.
    pub(crate) fn create(
        &mut self,
        layout: &Layout,
        path: &Path,
        lenient: bool,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let result = self.fill(layout, path, lenient, warnings);
        self.oom_kills_before = self.oom_kills();
        result
    }

    /// Those groups at `path` that are there.
    pub(crate) fn existing(layout: &Layout, path: &Path) -> Self {
        let there = |mount: &Path| Some(join(mount, path)).filter(|dir| dir.is_dir());
        Self {
            v1: layout.v1.iter().filter_map(|h| Some((h.controllers.clone(), there(&h.mount)?))).collect(),
            v2: layout.v2.as_deref().and_then(there),
            ..Self::default()
        }
    }

    fn fill(
        &mut self,
        layout: &Layout,
        path: &Path,
        lenient: bool,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        let mut refused = |dir: &Path, error: io::Error| {
            let denied =
                matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ENOENT));
            if lenient && denied {
                warnings.push(format!("cgroup {} cannot be made: {error}", dir.display()));
                return Ok(());
            }
            Err(Error::Cgroup { path: dir.to_owned(), action: "make", source: error })
        };
        let ours = !self.is_of_systemd();
        // Here it is the keeper that lives in it.
        let mut shared = false;
        let mut make = |dir: &Path| make(dir).map(|()| shared |= ours && is_populated(dir));
        for hierarchy in &layout.v1 {
            let dir = join(&hierarchy.mount, path);
            match make(&dir) {
                Ok(()) => {
                    if hierarchy.controllers.iter().any(|c| c == "cpuset") {
                        limits::inherit_cpuset(&hierarchy.mount, &dir)?;
                    }
                    self.v1.push((hierarchy.controllers.clone(), dir));
                }
                Err(error) => refused(&dir, error)?,
            }
        }
        if let Some(mount) = &layout.v2 {
            let dir = join(mount, path);
            match make(&dir) {
                Ok(()) => {
                    if ours {
                        limits::delegate(mount, &dir);
                    }
                    self.v2 = Some(dir);
                }
                Err(error) => refused(&dir, error)?,
            }
        }
        self.shared = shared;
        Ok(())
    }

    /// Sets the limits. With a list for warnings, those whose controller is missing are told there, and are not in force.
    pub(crate) fn apply(&self, resources: &LinuxResources, warnings: Option<&mut Vec<String>>) -> Result<()> {
        limits::apply(self, resources, warnings)
    }

    /// Changes the limits.
    pub(crate) fn update(
        &self,
        resources: &LinuxResources,
        warnings: Option<&mut Vec<String>>,
    ) -> Result<()> {
        #[cfg(feature = "systemd")]
        if let Some(unit) = &self.unit {
            let resources = limits::complete(self, resources);
            unit.update(&resources)?;
            return self.apply(&resources, warnings);
        }
        self.apply(resources, warnings)
    }

    /// systemd made the groups, and delegates what it has.
    pub(crate) fn is_of_systemd(&self) -> bool {
        #[cfg(feature = "systemd")]
        return self.unit.is_some();
        #[cfg(not(feature = "systemd"))]
        false
    }

    /// Has systemd move a process into its unit's group.
    pub(crate) fn attach(&self, pid: u32) -> Result<()> {
        #[cfg(feature = "systemd")]
        if let Some(unit) = &self.unit {
            return unit.attach(pid);
        }
        Err(Error::Unsupported { what: format!("move process {pid}: no systemd made its group") })
    }

    /// Sets the device rules.
    pub(crate) fn apply_devices(&self, resources: Option<&LinuxResources>) -> Result<()> {
        devices::apply(self, resources)
    }

    /// There are such as a thread has to enter before it clones.
    pub(crate) fn to_enter(&self) -> bool {
        !self.v1.is_empty() || self.class.is_some()
    }

    /// Moves the calling thread into the v1 groups and the class.
    pub(crate) fn enter(&self) -> Result<()> {
        for (_, dir) in &self.v1 {
            write(&dir.join("tasks"), "0")?;
        }
        self.class.iter().try_for_each(Class::enter)
    }

    /// The v2 group for `CLONE_INTO_CGROUP`.
    pub(crate) fn v2_fd(&self) -> Result<Option<OwnedFd>> {
        let Some(dir) = &self.v2 else { return Ok(None) };
        let fd = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        fd.map(Some).map_err(|e| Error::Cgroup { path: dir.clone(), action: "open", source: e.into() })
    }

    /// The groups at `path` below these, of the hierarchies of these v1 controllers, or of all and v2.
    pub(crate) fn below(mut self, controllers: &[String], path: &Path) -> Result<Self> {
        let below = crate::plan::inside(path)?;
        if let Some(unknown) = controllers.iter().find(|c| self.controller(c).is_none()) {
            return Err(Error::Unsupported { what: format!("the container has no group of {unknown}") });
        }
        let of = |all: &[String]| controllers.is_empty() || all.iter().any(|c| controllers.contains(c));
        let v1 = self.v1.iter_mut().filter(|(all, _)| of(all)).map(|(_, dir)| dir);
        for dir in v1.chain(self.v2.as_mut().filter(|_| controllers.is_empty())) {
            dir.push(&below);
            if !dir.is_dir() {
                let source = io::ErrorKind::NotFound.into();
                return Err(Error::Cgroup { path: dir.clone(), action: "enter", source });
            }
        }
        Ok(self)
    }

    /// There are no groups: nothing was delegated.
    pub(crate) fn is_empty(&self) -> bool {
        self.v1.is_empty() && self.v2.is_none()
    }

    /// The directory of a v1 controller.
    pub(crate) fn controller(&self, name: &str) -> Option<&Path> {
        self.v1.iter().find(|(c, _)| c.iter().any(|c| c == name)).map(|(_, dir)| dir.as_path())
    }

    /// PIDs of all members, of groups below too.
    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        let dir = ["pids", "freezer", "memory", "cpu"].iter().find_map(|c| self.controller(c));
        let Some(dir) = dir.or(self.v2.as_deref()).or(self.v1.first().map(|g| g.1.as_path())) else {
            return Ok(Vec::new());
        };
        let mut pids = Vec::new();
        walk(dir, &mut |dir| {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()));
        });
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Freezes or thaws all members, and waits until the kernel says that it is so.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        if let Some(dir) = self.controller("freezer") {
            let state = if frozen { "FROZEN" } else { "THAWED" };
            let file = dir.join("freezer.state");
            for _ in 0..500 {
                write(&file, state)?;
                if fs::read_to_string(&file).unwrap_or_default().trim() == state {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            return Err(Error::Cgroup {
                path: file,
                action: "freeze",
                source: io::ErrorKind::TimedOut.into(),
            });
        }
        let Some(dir) = &self.v2 else {
            return Err(Error::Unsupported {
                what: "pause and resume: no freezer cgroup is delegated".to_owned(),
            });
        };
        write(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        let events = dir.join("cgroup.events");
        for _ in 0..500 {
            let text = fs::read_to_string(&events).unwrap_or_default();
            if text.lines().any(|l| l == if frozen { "frozen 1" } else { "frozen 0" }) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(Error::Cgroup { path: events, action: "freeze", source: io::ErrorKind::TimedOut.into() })
    }

    /// Whether the members are frozen.
    pub(crate) fn is_frozen(&self) -> bool {
        if let Some(dir) = self.controller("freezer") {
            return fs::read_to_string(dir.join("freezer.state")).is_ok_and(|s| s.trim() != "THAWED");
        }
        self.v2
            .as_ref()
            .is_some_and(|d| fs::read_to_string(d.join("cgroup.freeze")).is_ok_and(|s| s.trim() == "1"))
    }

    /// The kernel killed a member for memory.
    pub(crate) fn oom_killed(&self) -> bool {
        self.oom_kills() > 0
    }

    /// Kills all members.
    pub(crate) fn kill(&self) -> Result<()> {
        if self.shared {
            return Ok(());
        }
        if let Some(dir) = &self.v2
            && fs::write(dir.join("cgroup.kill"), "1").is_ok()
            && self.v1.is_empty()
        {
            return Ok(());
        }
        for _ in 0..100 {
            if !crate::process::signal_all(|| self.processes(), libc::SIGKILL)? {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Removes the groups, and groups below them.
    pub(crate) fn remove(&self) -> Result<()> {
        #[cfg(feature = "systemd")]
        if let Some(unit) = &self.unit {
            // Before its groups go, or it may not see that they are empty. It ends by itself, too; the groups are what has to go.
            let _ = unit.end();
        }
        let dirs = self.v1.iter().map(|(_, dir)| dir).chain(&self.v2);
        for dir in dirs.filter(|_| !self.shared) {
            remove(dir)?;
            // The parent of supervised containers goes with the last of them. Whoever makes a group in it at this moment makes it
            // again; while it has one, the kernel refuses.
            if let Some(parent) = dir.parent().filter(|p| p.ends_with(PREFIX)) {
                let _ = fs::remove_dir(parent);
            }
        }
        self.class.iter().try_for_each(Class::remove)
    }
}

/// Begins the name of the groups of containers that ask for none.
pub(crate) const PREFIX: &str = "longshore";

/// Makes a group and those above it.
fn make(dir: &Path) -> io::Result<()> {
    // Somebody may remove the one above at this moment. Where no directory can be made, the kernel may answer the same for ever.
    for _ in 0..16 {
        match fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => make(dir.parent().ok_or(e)?)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            result => return result,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

fn is_populated(dir: &Path) -> bool {
    fs::read(dir.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty())
}

fn remove(dir: &Path) -> Result<()> {
    if fs::remove_dir(dir).is_ok() {
        return Ok(());
    }
    let mut below = Vec::new();
    walk(dir, &mut |d| below.push(d.to_owned()));
    for dir in below.iter().rev() {
        // A dying process leaves its group a moment after it was reaped.
        for attempt in 0.. {
            match fs::remove_dir(dir) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && attempt < 200 => {
                    std::thread::sleep(Duration::from_micros(200 * (1 + attempt / 10)));
                }
                Err(source) => return Err(Error::Cgroup { path: dir.clone(), action: "remove", source }),
            }
        }
    }
    Ok(())
}

/// A directory, then those below it.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    visit(dir);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
}

/// Writes a group's file.
pub(crate) fn write(file: &Path, value: &str) -> Result<()> {
    let error = |source| Error::Cgroup { path: file.to_owned(), action: "write", source };
    let fd = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| error(e.into()))?;
    rustix::io::write(&fd, value.as_bytes()).map_err(|e| error(e.into()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_no_group_can_be_made_is_an_error() {
        let error = make(Path::new("/proc/longshore/group")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
