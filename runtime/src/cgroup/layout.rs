//! Which hierarchies are mounted where.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};

/// The machine's hierarchies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) v1: Vec<Hierarchy>,
    /// Mount point of cgroup2.
    pub(crate) v2: Option<PathBuf>,
    /// Mount point of resctrl.
    pub(crate) resctrl: Option<PathBuf>,
}

/// A v1 hierarchy.
#[derive(Clone, Debug)]
pub(crate) struct Hierarchy {
    /// Mount point.
    pub(crate) mount: PathBuf,
    /// `memory`, `cpu`, `name=systemd`...
    pub(crate) controllers: Vec<String>,
}

impl Hierarchy {
    /// The directory's name in a container: `cpu,cpuacct`, `systemd`.
    pub(crate) fn name(&self) -> String {
        self.controllers.iter().map(|c| c.strip_prefix("name=").unwrap_or(c)).collect::<Vec<_>>().join(",")
    }
}

const CONTROLLERS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

impl Layout {
    /// Reads this process's mounts.
    pub(crate) fn detect() -> Result<Self> {
        let file = "/proc/self/mountinfo";
        let text = fs::read_to_string(file).map_err(|source| Error::State { path: file.into(), source })?;
        Ok(Self::parse(&text))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut layout = Layout::default();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let mut after = after.split(' ');
            let (Some(kind), _, Some(options)) = (after.next(), after.next(), after.next()) else { continue };
            let mut before = before.split(' ').skip(3);
            let (Some(root), Some(mount)) = (before.next(), before.next()) else { continue };
            // Another container's bind mount of a group is not the hierarchy.
            if root != "/" && !mount.starts_with("/sys/fs/cgroup") {
                continue;
            }
            match kind {
                "cgroup2" if layout.v2.is_none() => layout.v2 = Some(mount.into()),
                "resctrl" if layout.resctrl.is_none() => layout.resctrl = Some(mount.into()),
                "cgroup" => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| CONTROLLERS.contains(o) || o.starts_with("name="))
                        .map(str::to_owned)
                        .collect();
                    if !controllers.is_empty() && !layout.v1.iter().any(|h| h.controllers == controllers) {
                        layout.v1.push(Hierarchy { mount: mount.into(), controllers });
                    }
                }
                _ => {}
            }
        }
        layout
    }
}

impl Layout {
    /// The v2 group that a process is in.
    pub(crate) fn v2_group_of(&self, pid: u32) -> Option<OwnedFd> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(join(self.v2.as_deref()?, Path::new(path)), flags, Mode::empty()).ok()
    }
}

/// A group's directory: its absolute path below the mount point.
pub(crate) fn join(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid() {
        let layout = Layout::parse(
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n\
             42 31 0:39 / /sys/fs/resctrl rw,relatime - resctrl resctrl rw\n\
             50 31 0:29 /other /mnt/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n",
        );
        assert_eq!(layout.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(layout.resctrl.as_deref(), Some(Path::new("/sys/fs/resctrl")));
        assert_eq!(layout.v1.iter().map(Hierarchy::name).collect::<Vec<_>>(), ["cpu,cpuacct", "systemd"]);
    }
}
