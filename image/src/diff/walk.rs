//! Reading directories that others may be changing, without following links.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self as rfs, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::Result;
use crate::error::at;
use crate::layer::keeps_xattr;

/// A name in a directory and what it stands for.
pub(crate) struct Item {
    pub(crate) name: Vec<u8>,
    pub(crate) stat: Stat,
}

/// What the attributes of a file mean to a layer.
pub(crate) struct Attributes {
    /// Those that belong into the layer, by name.
    pub(crate) kept: Vec<(Vec<u8>, Vec<u8>)>,
    /// Overlay's mark: what is below does not show through.
    pub(crate) opaque: bool,
}

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd> {
    rfs::openat(CWD, path, DIR, Mode::empty()).map_err(at("open", path))
}

/// Makes a descriptor of a mount, or one that only names a directory, readable.
pub(crate) fn reopen(dir: &OwnedFd) -> Result<OwnedFd> {
    rfs::openat(dir, ".", DIR, Mode::empty()).map_err(at("open", "a layer"))
}

/// A descriptor with a position of its own.
pub(crate) fn again(dir: &OwnedFd, shown: &Path) -> Result<Option<OwnedFd>> {
    rfs::openat(dir, ".", DIR, Mode::empty()).map(Some).map_err(at("open", shown))
}

/// Opens a directory below `root`; `None` when it is gone or something else by now.
pub(crate) fn open_below(root: &OwnedFd, path: &[u8], shown: &Path) -> Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // The kernel takes paths of up to 4095 bytes at a time.
    let mut at_fd: Option<OwnedFd> = None;
    let mut rest = path;
    while !rest.is_empty() {
        let cut = if rest.len() < 4000 {
            rest.len()
        } else {
            rest[..4000].iter().rposition(|b| *b == b'/').unwrap_or(rest.len())
        };
        let (now, then) = rest.split_at(cut);
        let from = at_fd.as_ref().map_or(root.as_fd(), |fd| fd.as_fd());
        let next = loop {
            match rfs::openat2(from, now, DIR, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                done => break done.map_err(at("open", shown))?,
            }
        };
        at_fd = Some(next);
        rest = then.strip_prefix(b"/").unwrap_or(then);
    }
    Ok(at_fd)
}

/// A file or directory that denied its owner access, opened up until this is dropped.
pub(crate) struct Unlocked {
    file: OwnedFd,
    mode: Mode,
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        let _ = rfs::fchmod(&self.file, self.mode);
    }
}

/// Gives the owner access to what is his: a container's root may read all files, the ordinary user behind it may not.
/// `None` when it is not his, or no file or directory.
pub(crate) fn unlock(dir: &OwnedFd, item: &Item) -> rustix::io::Result<Option<Unlocked>> {
    let (kind, mode) =
        (FileType::from_raw_mode(item.stat.st_mode), Mode::from_raw_mode(item.stat.st_mode & 0o7777));
    let own = item.stat.st_uid == rustix::process::geteuid().as_raw();
    if !own || !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(None);
    }
    // Through /proc, because the path itself could be exchanged for a link.
    let path = rfs::openat(
        dir,
        item.name.as_slice(),
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let found = rfs::fstat(&path)?;
    if (found.st_dev, found.st_ino) != (item.stat.st_dev, item.stat.st_ino) {
        return Ok(None);
    }
    let magic = format!("/proc/self/fd/{}", path.as_raw_fd());
    rfs::chmodat(CWD, &magic, mode | Mode::RWXU, AtFlags::empty())?;
    match rfs::open(&magic, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => Ok(Some(Unlocked { file, mode })),
        Err(e) => rfs::chmodat(CWD, &magic, mode, AtFlags::empty()).and(Err(e)),
    }
}

/// What is in a directory, by name.
pub(crate) fn read_dir(dir: &OwnedFd, shown: &Path) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for entry in rfs::Dir::read_from(dir).map_err(at("read", shown))? {
        let entry = entry.map_err(at("read", shown))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => items.push(Item { name: name.to_bytes().to_vec(), stat }),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(at("stat", shown.join(super::shown(name.to_bytes())))(e)),
        }
    }
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

pub(crate) fn xattrs(file: impl AsFd, shown: &Path) -> Result<Attributes> {
    let mut found = Attributes { kept: Vec::new(), opaque: false };
    let file = file.as_fd();
    let names = match grow(|buffer| rfs::flistxattr(file, buffer)) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(found),
        Err(e) => return Err(at("listxattr", shown)(e)),
    };
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let opaque = matches!(name, b"trusted.overlay.opaque" | b"user.overlay.opaque");
        // PAX ends a name at the first `=`.
        if !opaque && (!keeps_xattr(name) || name.contains(&b'=')) {
            continue;
        }
        match grow(|buffer| rfs::fgetxattr(file, name, buffer)) {
            Ok(value) if opaque => found.opaque |= value == b"y",
            Ok(value) => found.kept.push((name.to_vec(), value)),
            Err(Errno::NODATA) => {}
            Err(e) => return Err(at("getxattr", shown)(e)),
        }
    }
    found.kept.sort();
    Ok(found)
}

/// Calls with a buffer that grows until the answer fits.
fn grow(mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 512];
    loop {
        match call(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}
