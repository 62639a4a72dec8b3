//! Sources of bind mounts that the caller has opened: by descriptor nobody can put something else in their place.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{FileType, fstat};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::caps;
use crate::error::{Context, Error, Result};
use crate::idmap::Maps;
use crate::plan::{OpenSource, SourceKind, binds_tree, idmap_option};
use crate::stdio::at_least;
use crate::sys;
use crate::waiting::Waiting;

/// The sources, and the descriptors that they name.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) list: Vec<OpenSource>,
}

/// What the caller has opened, by destination.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Files and directories, to be bound.
    pub(crate) files: Vec<(PathBuf, OwnedFd)>,
    /// Detached mounts, to be moved.
    pub(crate) trees: Vec<(PathBuf, OwnedFd)>,
}

impl Sources {
    pub(crate) fn new(
        spec: &Spec,
        given: Given,
        bundle: &Path,
        helper: &OwnedFd,
        least: RawFd,
    ) -> Result<Self> {
        let mut sources = Self::default();
        for mount in spec.mounts().iter().flatten() {
            let at = mount.destination();
            let opened = given.files.iter().find(|(to, _)| to == at).map(|(_, fd)| fd);
            if !given.trees.iter().any(|(to, _)| to == at)
                && let Some((tree, is_dir)) = idmapped(spec, mount, bundle, opened, helper)?
            {
                let tree = at_least(tree, least)?;
                let kind = SourceKind::Tree(tree.as_raw_fd());
                sources.fds.push(tree);
                sources.list.push(OpenSource { destination: mount.destination().clone(), is_dir, kind });
            }
        }
        for (destination, fd) in given.trees {
            mount_at(spec, &destination)?;
            let is_dir = is_dir(&fd)?;
            let fd = at_least(fd, least)?;
            let kind = SourceKind::Tree(fd.as_raw_fd());
            sources.fds.push(fd);
            sources.list.push(OpenSource { destination, is_dir, kind });
        }
        for (destination, fd) in given.files {
            let mount = mount_at(spec, &destination)?;
            if sources.list.iter().any(|source| source.destination == destination) {
                continue;
            }
            let is_dir = is_dir(&fd)?;
            let (fd, kind) = kind(at_least(fd, least)?, binds_tree(mount), least)?;
            sources.fds.push(fd);
            sources.list.push(OpenSource { destination, is_dir, kind });
        }
        Ok(sources)
    }
}

/// A bind mount with IDs of its own (mount_setattr(2), "ID-mapped mounts"): the options `idmap` and `ridmap`, `uidMappings` and
/// `gidMappings`. The kernel wants privileges over the file system for it, so it is made here, not in the container.
fn idmapped(
    spec: &Spec,
    mount: &Mount,
    bundle: &Path,
    opened: Option<&OwnedFd>,
    helper: &OwnedFd,
) -> Result<Option<(OwnedFd, bool)>> {
    let own = mount.uid_mappings().as_ref().zip(mount.gid_mappings().as_ref());
    let recursive = idmap_option(mount);
    if own.is_none() && recursive.is_none() {
        return Ok(None);
    }
    let field = format!("mounts[{}].uidMappings", mount.destination().display());
    let linux = spec.linux().as_ref();
    let of_container = || linux.and_then(|l| l.uid_mappings().as_ref().zip(l.gid_mappings().as_ref()));
    let Some((uid, gid)) = own.or_else(of_container).filter(|(uid, gid)| !uid.is_empty() && !gid.is_empty())
    else {
        return Err(Error::spec(field, "missing, as are linux.uidMappings and linux.gidMappings"));
    };
    if !caps::has(caps::SYS_ADMIN) {
        return Err(Error::Unsupported { what: format!("{field}: ID-mapped mounts are for root") });
    }
    let source =
        mount.source().as_deref().ok_or_else(|| Error::spec(field.clone(), "a bind mount needs a source"))?;
    let source = bundle.join(source);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let flags = if binds_tree(mount) { flags | OpenTreeFlags::AT_RECURSIVE } else { flags };
    let what = |what: &str| format!("{what} {}", source.display());
    let tree = match opened {
        Some(fd) => open_tree(fd, "", flags | OpenTreeFlags::AT_EMPTY_PATH),
        None => open_tree(rustix::fs::CWD, &source, flags),
    };
    let tree = tree.context(&what("bind source"))?;
    let is_dir = is_dir(&tree)?;
    let users = user_namespace(helper, &Maps::new(uid, gid))?;
    sys::idmap(&tree, &users, recursive.unwrap_or(false)).map_err(Error::os(what("map the IDs of")))?;
    Ok(Some((tree, is_dir)))
}

fn is_dir(fd: &OwnedFd) -> Result<bool> {
    let mode = fstat(fd).context("stat a mount's source")?.st_mode;
    Ok(FileType::from_raw_mode(mode).is_dir())
}

/// A user namespace with these maps and no process.
fn user_namespace(helper: &OwnedFd, maps: &Maps) -> Result<OwnedFd> {
    let process = Waiting::start(helper, libc::CLONE_NEWUSER as u64)?;
    maps.write(process.pid)?;
    let path = format!("/proc/{}/ns/user", process.pid);
    let users = fs::File::open(&path).map_err(|source| Error::Os { what: format!("open {path}"), source })?;
    Ok(users.into())
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
