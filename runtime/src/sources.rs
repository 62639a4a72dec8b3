//! Sources of bind mounts that the caller has opened: by descriptor nobody can put something else in their place.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{FileType, fstat};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Context, Error, Result};
use crate::plan::{OpenSource, SourceKind, binds_tree};
use crate::stdio::at_least;

/// The sources, and the descriptors that they name.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) list: Vec<OpenSource>,
}

impl Sources {
    pub(crate) fn new(spec: &Spec, given: Vec<(PathBuf, OwnedFd)>, least: RawFd) -> Result<Self> {
        let mut sources = Self::default();
        for (destination, fd) in given {
            let mount = mount_at(spec, &destination)?;
            let mode = fstat(&fd).context("stat a mount's source")?.st_mode;
            let is_dir = FileType::from_raw_mode(mode).is_dir();
            let (fd, kind) = kind(at_least(fd, least)?, binds_tree(mount), least)?;
            sources.fds.push(fd);
            sources.list.push(OpenSource { destination, is_dir, kind });
        }
        Ok(sources)
    }
}

fn mount_at<'a>(spec: &'a Spec, destination: &Path) -> Result<&'a Mount> {
    let mut mounts = spec.mounts().iter().flatten();
    mounts.find(|m| m.destination() == destination).ok_or_else(|| {
        Error::spec("mounts", format!("none at {}, for which a source was given", destination.display()))
    })
}

/// A copy of the mount, which takes privileges; without, the container's own mount namespace makes it.
fn kind(fd: OwnedFd, recursive: bool, least: RawFd) -> Result<(OwnedFd, SourceKind)> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    match open_tree(&fd, "", flags) {
        Ok(tree) => {
            let tree = at_least(tree, least)?;
            let kind = SourceKind::Tree(tree.as_raw_fd());
            Ok((tree, kind))
        }
        Err(rustix::io::Errno::PERM) => {
            let path = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
                .map_err(Error::os("read the path of a mount's source"))?;
            let kind = SourceKind::File(fd.as_raw_fd(), path);
            Ok((fd, kind))
        }
        Err(e) => Err(Error::os("clone the mount of a mount's source")(e.into())),
    }
}
