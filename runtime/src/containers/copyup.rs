//! What the image has where a fresh volume is mounted is copied into the volume, once.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};

use super::rootview::RootView;
use super::{Error, Result};

/// How deep a tree may be: more is no honest image, and each level holds two descriptors.
const DEPTH_MAX: usize = 200;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Copies if the volume is empty and there is something to copy.
pub(super) fn copy_up(view: &RootView, path: &str, volume: &Path) -> Result<()> {
    let fail = |e: io::Error| Error::io("copy the image's content into the volume at", path)(e);
    let target = rustix::fs::openat(CWD, volume, DIRECTORY, Mode::empty()).map_err(|e| fail(e.into()))?;
    let dots = |e: &rustix::io::Result<rustix::fs::DirEntry>| {
        e.as_ref().is_ok_and(|e| [&b"."[..], b".."].contains(&e.file_name().to_bytes()))
    };
    if Dir::read_from(&target).map_err(|e| fail(e.into()))?.any(|e| !dots(&e)) {
        return Ok(());
    }
    let layers = view.directories(path).map_err(fail)?;
    // The lowest first, so that upper ones write over it.
    for layer in layers.iter().rev() {
        directory(layer.as_fd(), target.as_fd(), 0).map_err(fail)?;
    }
    Ok(())
}

fn directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other("too many nested directories"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_bytes() != b"." && name.to_bytes() != b".." {
            one(from, to, name, depth)?;
        }
    }
    attributes(from, to)
}

/// Every entry is opened by its name alone and never followed, on both sides.
fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &std::ffi::CStr, depth: usize) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let source = rustix::fs::openat(from, name, DIRECTORY, Mode::empty())?;
            match rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)) {
                Err(rustix::io::Errno::EXIST) => {}
                other => other?,
            }
            let target = rustix::fs::openat(to, name, DIRECTORY, Mode::empty())?;
            directory(source.as_fd(), target.as_fd(), depth + 1)
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            let _ = rustix::fs::unlinkat(to, name, AtFlags::empty());
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
            let (mut source, mut target) = (File::from(source), File::from(target));
            io::copy(&mut source, &mut target)?;
            attributes(OwnedFd::from(source).as_fd(), OwnedFd::from(target).as_fd())
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(from, name, Vec::new())?;
            let _ = rustix::fs::unlinkat(to, name, AtFlags::empty());
            rustix::fs::symlinkat(link, to, name)?;
            owner(rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))
        }
        // A whiteout of an upper layer.
        FileType::CharacterDevice if stat.st_rdev == 0 => {
            let _ = rustix::fs::unlinkat(to, name, AtFlags::empty());
            Ok(())
        }
        kind => {
            let _ = rustix::fs::unlinkat(to, name, AtFlags::empty());
            // Devices need privileges that an ordinary user lacks; an image's volume hardly has any.
            match rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev) {
                Ok(()) => {
                    owner(rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))
                }
                Err(rustix::io::Errno::PERM) => Ok(()),
                Err(e) => Err(e.into()),
            }
        }
    }
}

fn owner(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        // An ordinary user's files are its own.
        Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
}

fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    owner(rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |sec, nsec: u64| Timespec { tv_sec: sec, tv_nsec: nsec as _ };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::futimens(to, &times)?;
    Ok(())
}
