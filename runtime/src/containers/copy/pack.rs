use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, StatxFlags};
use tar::{Builder, EntryType, Header};

use crate::containers::rootview::is_opaque;

/// Deeper trees are refused: each level holds a descriptor or more.
const DEPTH_MAX: usize = 256;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Packer<'a> {
    out: Builder<&'a mut dyn Write>,
    /// Files with several names: device and inode to the first name.
    links: HashMap<(u64, u64), PathBuf>,
    /// With what is mounted below.
    mounts: bool,
    mount: u64,
}

/// All that the directory holds which the layers together are, under `prefix`.
pub(super) fn tree(layers: &[OwnedFd], prefix: &Path, mounts: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut packer = Packer::new(out, mounts, layers.first());
    if let Some(top) = layers.first().filter(|_| !prefix.as_os_str().is_empty()) {
        packer.header_only(&rustix::fs::fstat(top)?, prefix)?;
    }
    packer.children(layers, prefix, 0)?;
    packer.finish()
}

/// The one entry `name` of a directory, with all below it, as `shown` in the tar. False: there is none.
pub(super) fn one(parents: &[OwnedFd], name: &OsStr, shown: &Path, out: &mut dyn Write) -> io::Result<bool> {
    let mut packer = Packer::new(out, true, parents.first());
    let found = packer.entry(parents, name, shown, 0)?;
    packer.finish()?;
    Ok(found)
}

impl<'a> Packer<'a> {
    fn new(out: &'a mut dyn Write, mounts: bool, top: Option<&OwnedFd>) -> Self {
        let mut out = Builder::new(out);
        out.follow_symlinks(false);
        Self { out, links: HashMap::new(), mounts, mount: top.map_or(0, |fd| mount_id(fd.as_fd())) }
    }

    fn finish(mut self) -> io::Result<()> {
        self.out.finish()?;
        self.out.into_inner()?.flush()
    }

    fn children(&mut self, layers: &[OwnedFd], path: &Path, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("{} is too deep", path.display())));
        }
        let mut names = BTreeSet::new();
        for layer in layers {
            for entry in Dir::read_from(layer)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.insert(OsStr::from_bytes(name).to_owned());
                }
            }
        }
        for name in names {
            self.entry(layers, &name, &path.join(&name), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, layers: &[OwnedFd], name: &OsStr, path: &Path, depth: usize) -> io::Result<bool> {
        for (index, layer) in layers.iter().enumerate() {
            let stat = match rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(rustix::io::Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                return Ok(false);
            }
            if kind == FileType::Directory {
                let below = lower(&layers[index..], name)?;
                let Some(top) = below.first() else { return Ok(false) };
                self.header_only(&rustix::fs::fstat(top)?, path)?;
                if self.mounts || mount_id(top.as_fd()) == self.mount {
                    self.children(&below, path, depth + 1)?;
                }
                return Ok(true);
            }
            self.leaf(layer, name, &stat, kind, path)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn leaf(
        &mut self,
        layer: &OwnedFd,
        name: &OsStr,
        stat: &Stat,
        kind: FileType,
        path: &Path,
    ) -> io::Result<()> {
        match kind {
            FileType::RegularFile => self.file(layer, name, path),
            FileType::Symlink => {
                let target: CString = rustix::fs::readlinkat(layer, name, Vec::new())?;
                let mut header = header(stat);
                header.set_entry_type(EntryType::Symlink);
                self.out.append_link(&mut header, path, OsStr::from_bytes(target.to_bytes()))
            }
            // A socket means nothing without its process.
            FileType::Socket => Ok(()),
            _ => self.header_only(stat, path),
        }
    }

    fn file(&mut self, layer: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(layer, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            // Gone, or a link by now.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&key).filter(|_| stat.st_nlink > 1) {
            let mut header = header(&stat);
            header.set_entry_type(EntryType::Link);
            return self.out.append_link(&mut header, path, first.clone());
        }
        self.links.insert(key, path.to_owned());
        let foreign = !self.mounts && mount_id(file.as_fd()) != self.mount;
        let size = if foreign { 0 } else { stat.st_size as u64 };
        // It tells no size, and an empty file would pass for its content.
        if size == 0 && !foreign && rustix::fs::fstatfs(&file)?.f_type == rustix::fs::PROC_SUPER_MAGIC {
            let why = format!("{} is a file of /proc, which cannot be copied", path.display());
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let attributes = attributes(&file);
        self.out.append_pax_extensions(attributes.iter().map(|(k, v)| (k.as_str(), v.as_slice())))?;
        let mut header = header(&stat);
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        // It may grow or shrink while it is read; the entry keeps the size that its header promised.
        self.out.append_data(&mut header, path, file.chain(io::repeat(0)).take(size))
    }

    fn header_only(&mut self, stat: &Stat, path: &Path) -> io::Result<()> {
        let mut header = header(stat);
        header.set_entry_type(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => EntryType::Directory,
            FileType::Fifo => EntryType::Fifo,
            FileType::BlockDevice => EntryType::Block,
            _ => EntryType::Char,
        });
        if matches!(header.entry_type(), EntryType::Block | EntryType::Char) {
            header.set_device_major(rustix::fs::major(stat.st_rdev))?;
            header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        }
        if header.entry_type() == EntryType::Directory {
            // Tools tell directories by the slash, too.
            return self.out.append_data(&mut header, path.join(""), io::empty());
        }
        self.out.append_data(&mut header, path, io::empty())
    }
}

/// The directory `name` in each layer down to the one that hides those below.
fn lower(layers: &[OwnedFd], name: &OsStr) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for layer in layers {
        match rustix::fs::openat(layer, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => {
                let last = layers.len() > 1 && is_opaque(fd.as_fd());
                found.push(fd);
                if last {
                    break;
                }
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => break,
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(stat.st_mtime.max(0) as u64);
    header.set_size(0);
    header
}

/// Extended attributes as PAX records; those of overlay itself are no part of the content.
fn attributes(file: &File) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0u8; 16 << 10];
    let Ok(length) = rustix::fs::flistxattr(file, &mut names) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for name in names[..length]
        .split(|b| *b == 0)
        .filter_map(|n| std::str::from_utf8(n).ok())
        .filter(|n| !n.is_empty())
    {
        let mut value = vec![0u8; 64 << 10];
        if !name.contains(".overlay.")
            && let Ok(n) = rustix::fs::fgetxattr(file, name, &mut value)
        {
            value.truncate(n);
            found.insert(format!("SCHILY.xattr.{name}"), value);
        }
    }
    found
}

fn mount_id(fd: std::os::fd::BorrowedFd<'_>) -> u64 {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map_or(0, |s| s.stx_mnt_id)
}
