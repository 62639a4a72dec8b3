use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use crate::containers::dir;
use crate::containers::rootview::resolve;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Where a tar goes, and what of it counts there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// Into a container: owners as the tar says, or all these.
    Container { owner: Option<(u32, u32)> },
    /// Onto the host: everything is the caller's, and nothing of it is worth more there than any file: no devices, no set-user-ID bits, no
    /// attributes but the user's.
    Host,
}

/// Unpacks below `base`, which is a path inside `root` and must be a directory.
pub(super) fn into(root: BorrowedFd<'_>, base: &Path, rules: Rules, tar: &mut dyn Read) -> io::Result<()> {
    let base = relative(base)?;
    resolve(root, here(&base), DIRECTORY)?;
    let mut archive = Archive::new(tar);
    // Times of directories last: each entry made in one changes them.
    let mut times = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let inner = relative(&entry.path()?)?;
        if inner.as_os_str().is_empty() {
            continue;
        }
        let path = base.join(inner);
        if let Some(time) = one(root, &base, &path, rules, &mut entry)? {
            times.push((path, time));
        }
    }
    for (path, time) in times.iter().rev() {
        if let Ok(dir) = resolve(root, path, DIRECTORY | OFlags::NOFOLLOW) {
            set_time(dir.as_fd(), *time)?;
        }
    }
    Ok(())
}

/// The path without root, `.` and empty parts; one with `..` is refused.
fn relative(path: &Path) -> io::Result<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} leads out", path.display()),
                ));
            }
        }
    }
    Ok(out)
}

fn here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn one(
    root: BorrowedFd<'_>,
    base: &Path,
    path: &Path,
    rules: Rules,
    entry: &mut Entry<'_, &mut dyn Read>,
) -> io::Result<Option<u64>> {
    let (parent, name) =
        (path.parent().unwrap_or(Path::new("")), path.file_name().unwrap_or_default().to_owned());
    let at = parents(root, parent)?;
    let header = entry.header().clone();
    let kind = header.entry_type();
    let mode = Mode::from_raw_mode(header.mode()? & if rules == Rules::Host { 0o777 } else { 0o7777 });
    match kind {
        EntryType::Directory => return directory(&at, &name, &header, mode, rules).map(Some),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let fresh = Fresh::new(&at)?;
            // An archive that is cut off ends here like a file that ends.
            if io::copy(entry, &mut &fresh.file)? != entry.size() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let file = &fresh.file;
            own(file.as_fd(), &header, rules)?;
            rustix::fs::fchmod(file, mode)?;
            xattrs(entry, file.as_fd(), rules)?;
            set_time(file.as_fd(), header.mtime()?)?;
            fresh.publish(&name)?;
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?.into_owned();
            clear(&at, &name)?;
            rustix::fs::symlinkat(OsStr::from_bytes(&target), &at, &name)?;
            if let Some((uid, gid)) = ids(&header, rules)? {
                permitted(rustix::fs::chownat(&at, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
            }
        }
        EntryType::Link => {
            let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?.into_owned();
            let source = resolve(
                root,
                &base.join(relative(&target)?),
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            )?;
            clear(&at, &name)?;
            link(source.as_fd(), at.as_fd(), &name)?;
        }
        EntryType::Char | EntryType::Block if rules == Rules::Host => {}
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            clear(&at, &name)?;
            let (kind, device) = match kind {
                EntryType::Fifo => (FileType::Fifo, 0),
                kind => {
                    let number = |n: Option<u32>| n.unwrap_or(0);
                    let device =
                        rustix::fs::makedev(number(header.device_major()?), number(header.device_minor()?));
                    (
                        if kind == EntryType::Char {
                            FileType::CharacterDevice
                        } else {
                            FileType::BlockDevice
                        },
                        device,
                    )
                }
            };
            permitted(rustix::fs::mknodat(&at, &name, kind, mode, device))?;
        }
        _ => {}
    }
    Ok(None)
}

/// A file that nobody sees before it is whole: who is killed over it leaves nothing, and what had the name keeps it until then.
struct Fresh<'a> {
    at: &'a OwnedFd,
    file: File,
    /// Where the file system has no files without a name, a name that is removed if it does not become the right one.
    name: Option<String>,
}

impl<'a> Fresh<'a> {
    fn new(at: &'a OwnedFd) -> io::Result<Self> {
        let (flags, mode) = (OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o600));
        match rustix::fs::openat(at, ".", flags | OFlags::TMPFILE, mode) {
            Ok(fd) => return Ok(Self { at, file: fd.into(), name: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
        let name = unused()?;
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(at, &name, flags, mode)?.into();
        Ok(Self { at, file, name: Some(name) })
    }

    /// Gives it the name, in place of what has it now.
    fn publish(mut self, name: &OsStr) -> io::Result<()> {
        if self.name.is_none() {
            match link(self.file.as_fd(), self.at.as_fd(), name) {
                Err(Errno::EXIST) => {}
                other => return Ok(other?),
            }
            let between = unused()?;
            link(self.file.as_fd(), self.at.as_fd(), between.as_ref())?;
            self.name = Some(between);
        }
        let from = self.name.as_deref().unwrap_or_default();
        rustix::fs::renameat(self.at, from, self.at, name)?;
        self.name = None;
        Ok(())
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = rustix::fs::unlinkat(self.at, name, AtFlags::empty());
        }
    }
}

fn unused() -> io::Result<String> {
    let random = dir::random::<8>().map_err(io::Error::other)?;
    Ok(format!(".longshore-{:016x}", u64::from_ne_bytes(random)))
}

/// Names the descriptor's own file, whatever has become of its name.
fn link(file: BorrowedFd<'_>, at: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    let through = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, through, at, name, AtFlags::SYMLINK_FOLLOW)
}

fn directory(
    at: &OwnedFd,
    name: &OsString,
    header: &tar::Header,
    mode: Mode,
    rules: Rules,
) -> io::Result<u64> {
    match rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o700)) {
        Err(Errno::EXIST) => {}
        other => other?,
    }
    let dir = match rustix::fs::openat(at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
        // A link or a file stands where a directory goes.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            clear(at, name)?;
            rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o700))?;
            rustix::fs::openat(at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?
        }
        other => other?,
    };
    own(dir.as_fd(), header, rules)?;
    rustix::fs::fchmod(&dir, mode)?;
    header.mtime()
}

/// The directory of an entry, made where it is missing. The kernel follows links inside the root only.
fn parents(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    match resolve(root, here(path), DIRECTORY) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let (above, name) =
        (path.parent().unwrap_or(Path::new("")), path.file_name().ok_or(io::ErrorKind::NotFound)?);
    let at = parents(root, above)?;
    match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => {}
        other => other?,
    }
    resolve(root, path, DIRECTORY)
}

/// Removes what stands in the way, unless it is a directory.
fn clear(at: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(at.as_fd(), name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Whose an entry becomes; `None`: it is the caller's, and stays so.
fn ids(header: &tar::Header, rules: Rules) -> io::Result<Option<(Uid, Gid)>> {
    let id = |n: u64| u32::try_from(n).ok().filter(|n| *n != u32::MAX).ok_or(io::ErrorKind::InvalidData);
    let (uid, gid) = match rules {
        Rules::Host => return Ok(None),
        Rules::Container { owner: Some(owner) } => owner,
        Rules::Container { owner: None } => (id(header.uid()?)?, id(header.gid()?)?),
    };
    Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid))))
}

fn own(fd: BorrowedFd<'_>, header: &tar::Header, rules: Rules) -> io::Result<()> {
    match ids(header, rules)? {
        Some((uid, gid)) => permitted(rustix::fs::fchown(fd, Some(uid), Some(gid))),
        None => Ok(()),
    }
}

/// What an ordinary user may not do is left out.
fn permitted(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::PERM | Errno::INVAL) if !rustix::process::geteuid().is_root() => Ok(()),
        other => Ok(other?),
    }
}

fn xattrs(entry: &mut Entry<'_, &mut dyn Read>, file: BorrowedFd<'_>, rules: Rules) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        if let Some(name) = extension.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr."))
            && !name.contains(".overlay.")
            && (rules != Rules::Host || name.starts_with("user."))
        {
            match rustix::fs::fsetxattr(file, name, extension.value_bytes(), rustix::fs::XattrFlags::empty())
            {
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSPC) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn set_time(fd: BorrowedFd<'_>, seconds: u64) -> io::Result<()> {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
    Ok(rustix::fs::futimens(fd, &Timestamps { last_access: time, last_modification: time })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn hostile(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_uid(rustix::process::geteuid().as_raw().into());
            header.set_gid(rustix::process::getegid().as_raw().into());
            header.set_mtime(0);
            let body = if *kind == EntryType::Regular { content.as_bytes() } else { &[] };
            header.set_size(body.len() as u64);
            // Past the checks of the builder: the name goes in as it is.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(content.as_bytes());
            }
            header.set_cksum();
            out.append(&header, body).unwrap();
        }
        out.into_inner().unwrap()
    }

    fn unpack(root: &Path, bytes: &[u8]) -> io::Result<()> {
        let fd = rustix::fs::open(root, DIRECTORY, Mode::empty()).unwrap();
        into(fd.as_fd(), Path::new("/in"), Rules::Container { owner: None }, &mut &bytes[..])
    }

    #[test]
    fn nothing_lands_outside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("in")).unwrap();
        std::fs::write(dir.path().join("victim"), "safe").unwrap();
        symlink(dir.path(), root.join("in/out")).unwrap();
        let (file, link, hard) = (EntryType::Regular, EntryType::Symlink, EntryType::Link);
        for entries in [
            vec![("../victim", file, "bad")],
            vec![("a/../../../victim", file, "bad")],
            vec![("out/victim", file, "bad")],
            vec![("l", link, ".."), ("l/../victim", file, "bad")],
            vec![("l2", link, "/"), ("l2/victim", file, "inside root")],
            vec![("h", hard, "../../victim")],
            vec![("/victim", file, "below in")],
        ] {
            let _ = unpack(&root, &hostile(&entries));
        }
        assert_eq!(std::fs::read_to_string(dir.path().join("victim")).unwrap(), "safe");
        assert_eq!(std::fs::read_to_string(root.join("in/victim")).unwrap(), "below in");
        assert_eq!(std::fs::read_to_string(root.join("victim")).unwrap(), "inside root");
    }

    #[test]
    fn a_link_is_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/target"), "old").unwrap();
        symlink("target", dir.path().join("in/name")).unwrap();
        unpack(
            dir.path(),
            &hostile(&[("name", EntryType::Regular, "new"), ("again", EntryType::Link, "name")]),
        )
        .unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("in/target")).unwrap(), "old");
        assert_eq!(std::fs::read_to_string(dir.path().join("in/again")).unwrap(), "new");
    }

    /// Cut off in the middle of a file: those before it are there, of it nothing is, and what had its name still has it.
    #[test]
    fn a_cut_archive_leaves_nothing_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::write(inside.join("old"), "as it was").unwrap();
        let long = "x".repeat(3000);
        for name in ["old", "fresh"] {
            let bytes = hostile(&[("first", EntryType::Regular, "whole"), (name, EntryType::Regular, &long)]);
            assert_eq!(
                unpack(dir.path(), &bytes[..3 * 512 + 1500]).unwrap_err().kind(),
                io::ErrorKind::UnexpectedEof
            );
        }
        let mut names: Vec<_> = std::fs::read_dir(&inside).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["first", "old"]);
        assert_eq!(std::fs::read_to_string(inside.join("old")).unwrap(), "as it was");
        unpack(dir.path(), &hostile(&[("old", EntryType::Regular, &long)])).unwrap();
        assert_eq!(std::fs::read_to_string(inside.join("old")).unwrap(), long);
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 2);
    }

    /// What a container made is no more than files on the host.
    #[test]
    fn nothing_privileged_reaches_the_host() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mut out = tar::Builder::new(Vec::new());
        for (name, kind) in
            [("suid", EntryType::Regular), ("disk", EntryType::Block), ("dir", EntryType::Directory)]
        {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o6755);
            header.set_uid(12345);
            header.set_gid(12345);
            header.set_size(0);
            out.append_data(&mut header, name, io::empty()).unwrap();
        }
        let fd = rustix::fs::open(dir.path(), DIRECTORY, Mode::empty()).unwrap();
        into(fd.as_fd(), Path::new(""), Rules::Host, &mut &out.into_inner().unwrap()[..]).unwrap();
        assert!(!dir.path().join("disk").exists());
        for name in ["suid", "dir"] {
            let meta = std::fs::metadata(dir.path().join(name)).unwrap();
            assert_eq!(meta.permissions().mode() & 0o7777, 0o755, "{name}");
            assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), rustix::process::geteuid().as_raw());
        }
    }
}
