//! Mounts that are visible nowhere: by file descriptor, gone with the last one.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};

use super::directory::Owner;
use crate::error::at;
use crate::{Error, Result};

/// Mounts a layer's EROFS file, read-only. Devices are for the overlay above to allow.
pub(crate) fn erofs(path: &Path) -> Result<OwnedFd> {
    let mount = || -> rustix::io::Result<OwnedFd> {
        let fs = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // The kernel takes no string longer than 255 bytes here.
        if path.as_os_str().len() < 256 {
            fsconfig_set_string(&fs, "source", path)?;
        } else {
            let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            fsconfig_set_string(&fs, "source", by_number(file.as_fd()))?;
            fsconfig_set_flag(&fs, "ro")?;
            return create(&fs, MountAttrFlags::MOUNT_ATTR_RDONLY);
        }
        fsconfig_set_flag(&fs, "ro")?;
        create(&fs, MountAttrFlags::MOUNT_ATTR_RDONLY)
    };
    mount().map_err(at("mount", path))
}

/// A detached mount of a directory that lies on a file system already.
pub(crate) fn tree(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags).map_err(at("mount", path))
}

/// Opens a directory as a layer of an overlay.
pub(crate) fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(at("open", path))
}

/// Whether a layer's root is opaque: it hides all layers below. The kernel looks at this mark on every directory but the root, so those must
/// not be part of the mount.
pub(crate) fn hides_all_below(layer: impl rustix::path::Arg, owner: Owner) -> bool {
    let name = if owner.by_user_attributes() { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
    let mut value = [0; 1];
    rustix::fs::getxattr(layer, name, &mut value) == Ok(1) && value == *b"y"
}

/// Mounts an overlay over `lower` (top first). With `writable`, the changes go to its `upper`, and `work` is overlay's
/// own; without them the mount is read-only. A probe gives a directory that has neither yet.
pub(crate) fn overlay(lower: &[OwnedFd], writable: Option<&Path>, owner: Owner) -> Result<OwnedFd> {
    let dirs = match writable {
        Some(dir) => {
            for name in ["upper", "work"] {
                match rustix::fs::mkdir(dir.join(name), Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(at("create", dir.join(name))(e)),
                }
            }
            Some((directory(&dir.join("upper"))?, directory(&dir.join("work"))?))
        }
        None => None,
    };
    let dirs = dirs.as_ref().map(|(upper, work)| (upper.as_fd(), work.as_fd()));
    let fs = configure(lower, dirs, owner).map_err(unsupported)?;
    let attributes = if dirs.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
    create(&fs, attributes)
        .map_err(|e| Error::Unsupported { what: "mounting an overlay", reason: complaint(&fs, e) })
}

fn configure(
    lower: &[OwnedFd],
    writable: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    owner: Owner,
) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        layer_fd(&fs, "lowerdir+", layer.as_fd())?;
    }
    if let Some((upper, work)) = writable {
        layer_fd(&fs, "upperdir", upper)?;
        layer_fd(&fs, "workdir", work)?;
    } else {
        fsconfig_set_flag(&fs, "ro")?;
    }
    // A diff reads the upper directory alone: it must hold whole files under their own names.
    for option in ["redirect_dir", "metacopy", "index"] {
        fsconfig_set_string(&fs, option, if option == "redirect_dir" { "nofollow" } else { "off" })?;
    }
    if owner.by_user_attributes() {
        fsconfig_set_flag(&fs, "userxattr")?;
    }
    Ok(fs)
}

/// Names a layer by descriptor (Linux 6.13), or by its number in /proc.
fn layer_fd(fs: &OwnedFd, key: &str, layer: BorrowedFd<'_>) -> rustix::io::Result<()> {
    match fsconfig_set_fd(fs, key, layer) {
        Err(Errno::INVAL) => fsconfig_set_string(fs, key, by_number(layer)),
        done => done,
    }
}

pub(crate) fn by_number(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn create(fs: &OwnedFd, attributes: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    fsconfig_create(fs)?;
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn unsupported(e: Errno) -> Error {
    Error::Unsupported { what: "mounting an overlay", reason: e.to_string() }
}

/// What the kernel has to say about a failed configuration: lines of `e message`.
fn complaint(fs: &OwnedFd, errno: Errno) -> String {
    let mut lines = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(n) = rustix::io::read(fs, &mut buffer) {
        lines.push(String::from_utf8_lossy(&buffer[..n]).trim().to_owned());
    }
    if lines.is_empty() { errno.to_string() } else { format!("{errno}: {}", lines.join("; ")) }
}
