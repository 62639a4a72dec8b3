//! Layer tars from what has changed on disk.

pub(crate) mod trees;
pub(crate) mod walk;
pub(crate) mod writer;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read as _, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use self::walk::{Item, Unlocked, open_dir, read_dir, xattrs};
use self::writer::Head;
use crate::error::at;
use crate::layer::{Owner, RootMeta};
use crate::snapshot::DiffOutcome;
use crate::{Ctx, Error, Result};

/// How a diff is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// No time is later than this, in seconds since the epoch.
    pub(crate) clamp_mtime: Option<i64>,
    /// What the root directory was like: it is only written if that has changed. `None`: always.
    pub(crate) root: Option<RootMeta>,
    /// For an ordinary user's files: all belong to root.
    pub(crate) owner: Owner,
}

/// Writes overlay's upper directory as a layer: what was changed is there, what was removed is a whiteout. Each directory
/// before what it holds, names in the order of their bytes.
pub(crate) fn upper(dir: &Path, options: &Options, out: &mut dyn Write, ctx: Ctx<'_>) -> Result<DiffOutcome> {
    let mut diff = Diff::new(dir, options, out, ctx);
    let root = open_dir(dir)?;
    diff.root(&root)?;
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let fd =
            if path.is_empty() { walk::again(&root, dir)? } else { walk::open_below(&root, &path, dir)? };
        let Some(fd) = fd else { continue };
        let from = todo.len();
        for item in read_dir(&fd, &dir.join(shown(&path)))? {
            if let Some(below) = diff.item(&fd, &path, &item)? {
                todo.push(below);
            }
        }
        todo[from..].reverse();
    }
    finish(diff)
}

fn finish(mut diff: Diff<'_>) -> Result<DiffOutcome> {
    writer::end(&mut diff.out).and_then(|()| diff.out.flush()).map_err(at("write", "the layer's tar"))?;
    Ok(diff.outcome)
}

struct Diff<'a> {
    root: &'a Path,
    options: &'a Options,
    out: BufWriter<&'a mut dyn Write>,
    /// Where a file with several names was first seen.
    links: HashMap<(u64, u64), Vec<u8>>,
    outcome: DiffOutcome,
    unlocked: Vec<Unlocked>,
    buffer: Vec<u8>,
    ctx: Ctx<'a>,
}

impl<'a> Diff<'a> {
    fn new(root: &'a Path, options: &'a Options, out: &'a mut dyn Write, ctx: Ctx<'a>) -> Self {
        Self {
            root,
            options,
            out: BufWriter::with_capacity(128 << 10, out),
            links: HashMap::new(),
            outcome: DiffOutcome::default(),
            unlocked: Vec::new(),
            buffer: vec![0; 128 << 10],
            ctx,
        }
    }
}

impl Diff<'_> {
    fn root(&mut self, root: &OwnedFd) -> Result<()> {
        let stat = rfs::fstat(root).map_err(at("stat", self.root))?;
        let (uid, gid) = self.ids(&stat);
        let now = RootMeta { mode: (stat.st_mode & 0o7777) as u16, uid, gid };
        let before = self.options.root.map(|root| match self.options.owner {
            Owner::Root | Owner::Range => root,
            Owner::User => RootMeta { uid: 0, gid: 0, ..root },
        });
        if before != Some(now) {
            let xattrs = xattrs(root, self.root)?.kept;
            self.entry(&Head { path: b"./", kind: b'5', xattrs: &xattrs, ..self.head(&stat) })?;
        }
        if xattrs(root, self.root)?.opaque {
            self.marker(b".wh..wh..opq")?;
        }
        Ok(())
    }

    /// Writes one entry; a directory's path is given back, for what lies in it.
    fn item(&mut self, dir: &OwnedFd, parent: &[u8], item: &Item) -> Result<Option<Vec<u8>>> {
        self.ctx.check()?;
        let path = if parent.is_empty() { item.name.clone() } else { [parent, b"/", &item.name].concat() };
        let kind = FileType::from_raw_mode(item.stat.st_mode);
        if kind == FileType::CharacterDevice && item.stat.st_rdev == 0 {
            let hidden = [&path[..path.len() - item.name.len()], b".wh.", &item.name].concat();
            self.marker(&hidden)?;
            return Ok(None);
        }
        if item.name.starts_with(b".wh.") {
            let entry = shown(&path).display().to_string();
            let reason = "a file of this name cannot be in a layer: it would be a whiteout".to_owned();
            return Err(Error::Entry { entry, reason });
        }
        if item.stat.st_nlink > 1 && kind != FileType::Directory {
            let inode = (item.stat.st_dev, item.stat.st_ino);
            if let Some(first) = self.links.get(&inode).cloned() {
                self.entry(&Head { path: &path, kind: b'1', link: &first, ..self.head(&item.stat) })?;
                return Ok(None);
            }
            self.links.insert(inode, path.clone());
        }
        match kind {
            FileType::Directory => return self.directory(dir, path, item),
            FileType::RegularFile => self.file(dir, &path, item)?,
            FileType::Symlink => {
                let link = rfs::readlinkat(dir, item.name.as_slice(), Vec::new())
                    .map_err(at("readlink", self.at(&path)))?;
                self.entry(&Head {
                    path: &path,
                    kind: b'2',
                    link: link.to_bytes(),
                    ..self.head(&item.stat)
                })?;
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let kind = if kind == FileType::BlockDevice { b'4' } else { b'3' };
                let device = (rfs::major(item.stat.st_rdev), rfs::minor(item.stat.st_rdev));
                self.entry(&Head { path: &path, kind, device, ..self.head(&item.stat) })?;
            }
            FileType::Fifo => self.entry(&Head { path: &path, kind: b'6', ..self.head(&item.stat) })?,
            // A socket means nothing without the process that listens on it.
            _ => {}
        }
        Ok(None)
    }

    fn directory(&mut self, dir: &OwnedFd, path: Vec<u8>, item: &Item) -> Result<Option<Vec<u8>>> {
        self.unlock(dir, &path, item)?;
        let Some(fd) = walk::open_below(dir, &item.name, &self.at(&path))? else { return Ok(None) };
        let found = xattrs(&fd, &self.at(&path))?;
        let name = [&path, &b"/"[..]].concat();
        self.entry(&Head { path: &name, kind: b'5', xattrs: &found.kept, ..self.head(&item.stat) })?;
        if found.opaque {
            self.marker(&[&name, &b".wh..wh..opq"[..]].concat())?;
        }
        Ok(Some(path))
    }

    /// Opens up a directory that denies its owner access. It stays so until the end: everything below is reached through it.
    fn unlock(&mut self, dir: &OwnedFd, path: &[u8], item: &Item) -> Result<()> {
        if self.options.owner == Owner::User && item.stat.st_mode & 0o700 != 0o700 {
            self.unlocked.extend(walk::unlock(dir, item).map_err(at("chmod", self.at(path)))?);
        }
        Ok(())
    }

    fn file(&mut self, dir: &OwnedFd, path: &[u8], item: &Item) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let full = self.at(path);
        let locked = self.options.owner == Owner::User && item.stat.st_mode & 0o400 == 0;
        let unlocked = if locked { walk::unlock(dir, item).map_err(at("chmod", &full))? } else { None };
        let opened = rfs::openat(dir, item.name.as_slice(), flags, Mode::empty());
        drop(unlocked);
        let mut file = match opened {
            Ok(fd) => File::from(fd),
            // Removed while we were reading.
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(at("open", full)(e)),
        };
        let stat = rfs::fstat(&file).map_err(at("stat", &full))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(at("read", full)(Errno::AGAIN));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let xattrs = xattrs(&file, &full)?.kept;
        self.entry(&Head { path, kind: b'0', size, xattrs: &xattrs, ..self.head(&stat) })?;
        let mut left = size;
        while left > 0 {
            self.ctx.check()?;
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let got = file.read(&mut self.buffer[..most]).map_err(at("read", &full))?;
            if got == 0 {
                let shrunk = std::io::Error::new(
                    std::io::ErrorKind::UnexpectedEof,
                    "the file shrank while it was read",
                );
                return Err(at("read", full)(shrunk));
            }
            self.out.write_all(&self.buffer[..got]).map_err(at("write", "the layer's tar"))?;
            left -= got as u64;
        }
        self.outcome.bytes += size;
        writer::pad(&mut self.out, size).map_err(at("write", "the layer's tar"))
    }

    /// An empty file that speaks about lower layers.
    fn marker(&mut self, path: &[u8]) -> Result<()> {
        self.entry(&Head { path, kind: b'0', ..Head::default() })
    }

    fn entry(&mut self, head: &Head<'_>) -> Result<()> {
        self.outcome.entries += 1;
        writer::head(&mut self.out, head).map_err(at("write", "the layer's tar"))
    }

    fn head(&self, stat: &Stat) -> Head<'static> {
        let (uid, gid) = self.ids(stat);
        let mtime = stat.st_mtime;
        let (mtime, nanos) = match self.options.clamp_mtime {
            Some(clamp) if mtime >= clamp => (clamp, 0),
            _ => (mtime, stat.st_mtime_nsec as u32),
        };
        Head { mode: stat.st_mode & 0o7777, uid, gid, mtime, nanos, ..Head::default() }
    }

    fn ids(&self, stat: &Stat) -> (u32, u32) {
        match self.options.owner {
            Owner::Root | Owner::Range => (stat.st_uid, stat.st_gid),
            Owner::User => (0, 0),
        }
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        self.root.join(shown(path))
    }
}

fn shown(path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(path).into()
}
