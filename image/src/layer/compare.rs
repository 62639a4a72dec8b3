//! Compares a directory layer with the tar that it was made of: what a container will see, entry by entry.
//!
//! The tar is the only record that a digest vouches for, so nothing else is compared with. First it is read once, for
//! the tree and a hash of each file's content; then the tree is walked beside the directory.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::directory::{Owner, lossy};
use super::tar::{Data, TarReader};
use super::tree::{Body, Id, Node, Placed, ROOT, Tree};
use super::{Limits, place};
use crate::diff::walk::{self, Item, Unlocked};
use crate::error::at;
use crate::{Ctx, Result};

/// SHA-256 of what a tar stores of each file.
pub(super) type Contents = HashMap<Id, [u8; 32]>;

/// Reads the entries to their end.
pub(super) fn read(reader: &mut TarReader<'_, '_>, limits: &Limits) -> Result<(Tree, Contents)> {
    let mut tree = Tree::new(limits);
    let mut contents = Contents::new();
    while let Some(entry) = reader.next()? {
        let Placed::At { node, linked: None, .. } = place(&mut tree, entry)? else { continue };
        if matches!(tree.node(node).body, Body::File(_)) {
            let mut hash = Sha256::new();
            reader.content(|piece| {
                hash.update(piece);
                Ok(())
            })?;
            contents.insert(node, hash.finalize().into());
        }
    }
    Ok((tree, contents))
}

/// The first difference between the tree and the directory `root`; `None` when there is none.
pub(super) fn directory(
    root: &Path,
    owner: Owner,
    tree: &Tree,
    contents: &Contents,
    ctx: Ctx<'_>,
) -> Result<Option<String>> {
    let (inodes, unlocked) = (HashMap::new(), Vec::new());
    let mut walk = Walk { path: root.to_owned(), owner, tree, contents, inodes, unlocked, ctx };
    let fd = walk::open_dir(root)?;
    let stat = rfs::fstat(&fd).map_err(at("stat", root))?;
    // Depth is bounded by the limit on a path's length; descriptors are not, so directories are opened by path.
    let mut todo = vec![(ROOT, Item { name: Vec::new(), stat }, PathBuf::new())];
    while let Some((id, item, path)) = todo.pop() {
        if let Some(difference) = walk.dir(&fd, id, &item, &path, &mut todo)? {
            return Ok(Some(difference));
        }
    }
    Ok(None)
}

struct Walk<'a> {
    path: PathBuf,
    owner: Owner,
    tree: &'a Tree,
    contents: &'a Contents,
    /// Names of one file must lead to one inode.
    inodes: HashMap<Id, u64>,
    /// Directories that deny their owner access, opened up until this is dropped.
    unlocked: Vec<Unlocked>,
    ctx: Ctx<'a>,
}

impl Walk<'_> {
    fn dir(
        &mut self,
        root: &OwnedFd,
        id: Id,
        item: &Item,
        path: &Path,
        todo: &mut Vec<(Id, Item, PathBuf)>,
    ) -> Result<Option<String>> {
        use std::os::unix::ffi::OsStrExt;
        self.ctx.check()?;
        let full = self.path.join(path);
        let opened = match path.as_os_str().as_bytes() {
            b"" => walk::again(root, &full)?,
            below => walk::open_below(root, below, &full)?,
        };
        let Some(fd) = opened else { return Ok(Some(format!("{} cannot be reached", path.display()))) };
        if let Some(what) = self.node(id, item, Some(&fd), &full)? {
            return Ok(Some(format!("{}: {what}", shown(path))));
        }
        let dir = self.tree.dir(id).expect("only directories are put here");
        let mut found: BTreeMap<Vec<u8>, Item> =
            walk::read_dir(&fd, &full)?.into_iter().map(|item| (item.name.clone(), item)).collect();
        for (name, child) in &dir.children {
            let below = path.join(lossy(name));
            let node = self.tree.node(*child);
            let Some(item) = found.remove(&**name) else {
                if !self.owner.makes_devices() && matches!(node.body, Body::Char(..) | Body::Block(..)) {
                    continue;
                }
                return Ok(Some(format!("{} is missing", below.display())));
            };
            if self.tree.dir(*child).is_some() {
                if FileType::from_raw_mode(item.stat.st_mode) != FileType::Directory {
                    return Ok(Some(format!("{} is no directory", below.display())));
                }
                if self.owner == Owner::User && item.stat.st_mode & 0o700 != 0o700 {
                    self.unlocked.extend(walk::unlock(&fd, &item).map_err(at("chmod", &full))?);
                }
                todo.push((*child, item, below));
            } else if let Some(what) = self.other(&fd, *child, &item, &below)? {
                return Ok(Some(format!("{}: {what}", below.display())));
            }
        }
        Ok(found
            .into_keys()
            .next()
            .map(|name| format!("{} does not belong there", path.join(lossy(&name)).display())))
    }

    /// Whatever is no directory.
    fn other(&mut self, dir: &OwnedFd, id: Id, item: &Item, path: &Path) -> Result<Option<String>> {
        let node = self.tree.node(id);
        if *self.inodes.entry(id).or_insert(item.stat.st_ino) != item.stat.st_ino {
            return Ok(Some("it is not the same file as its other names".to_owned()));
        }
        let full = self.path.join(path);
        let Body::File(data) = &node.body else {
            if let Body::Symlink(target) = &node.body
                && FileType::from_raw_mode(item.stat.st_mode) == FileType::Symlink
            {
                let link =
                    rfs::readlinkat(dir, item.name.as_slice(), Vec::new()).map_err(at("readlink", &full))?;
                if link.to_bytes() != &**target {
                    return Ok(Some("its target is another".to_owned()));
                }
            }
            return self.node(id, item, None, &full);
        };
        if FileType::from_raw_mode(item.stat.st_mode) != FileType::RegularFile {
            return Ok(Some("it is no file".to_owned()));
        }
        let locked = self.owner == Owner::User && item.stat.st_mode & 0o400 == 0;
        let unlocked = if locked { walk::unlock(dir, item).map_err(at("chmod", &full))? } else { None };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rfs::openat(dir, item.name.as_slice(), flags, Mode::empty()).map_err(at("open", &full))?;
        drop(unlocked);
        if let Some(what) = self.node(id, item, Some(&fd), &full)? {
            return Ok(Some(what));
        }
        if u64::try_from(item.stat.st_size) != Ok(data.size) {
            return Ok(Some(format!("it has {} bytes instead of {}", item.stat.st_size, data.size)));
        }
        let sound = match hash(&File::from(fd), data) {
            Ok(hash) => self.contents.get(&id) == Some(&hash),
            // The medium does not give it back.
            Err(e) => return Ok(Some(e.to_string())),
        };
        Ok((!sound).then(|| "its content is another".to_owned()))
    }

    /// What every kind of file has.
    fn node(&self, id: Id, item: &Item, fd: Option<&OwnedFd>, full: &Path) -> Result<Option<String>> {
        let node = self.tree.node(id);
        if let Some(what) = self.stat(node, &item.stat) {
            return Ok(Some(what.to_owned()));
        }
        let Some(fd) = fd else { return Ok(None) };
        let found = walk::xattrs(fd, full)?;
        let wanted = node.xattrs.iter().flat_map(|x| x.iter());
        let strange = found.kept.iter().any(|x| !wanted.clone().any(|w| w == x));
        // Some attributes need rights that an ordinary user has not, and some file systems do not know them.
        let lacks = |(name, _): &(Vec<u8>, Vec<u8>)| {
            !found.kept.iter().any(|(found, _)| found == name)
                && rfs::fgetxattr(fd, name.as_slice(), &mut [0_u8; 0][..]) != Err(Errno::OPNOTSUPP)
        };
        let lost = self.owner.keeps_ids() && wanted.clone().any(lacks);
        if strange || lost {
            return Ok(Some("its extended attributes are others".to_owned()));
        }
        let opaque = self.tree.dir(id).is_some_and(|dir| dir.opaque);
        Ok((found.opaque != opaque).then(|| "it hides what it should not, or the other way round".to_owned()))
    }

    fn stat(&self, node: &Node, stat: &Stat) -> Option<&'static str> {
        let device = |major: &u32, minor: &u32| rfs::makedev(*major, *minor);
        let (kind, device) = match &node.body {
            Body::Dir(_) => (FileType::Directory, 0),
            Body::File(_) => (FileType::RegularFile, 0),
            Body::Symlink(_) => (FileType::Symlink, 0),
            Body::Fifo => (FileType::Fifo, 0),
            Body::Whiteout => (FileType::CharacterDevice, 0),
            Body::Char(major, minor) => (FileType::CharacterDevice, device(major, minor)),
            Body::Block(major, minor) => (FileType::BlockDevice, device(major, minor)),
        };
        if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != device {
            return Some("it is of another kind");
        }
        if matches!(node.body, Body::Whiteout) {
            return None;
        }
        let meta = &node.meta;
        if stat.st_mode & 0o7777 != u32::from(meta.mode) {
            return Some("its mode is another");
        }
        if self.owner.keeps_ids() && (stat.st_uid, stat.st_gid) != (meta.uid, meta.gid) {
            return Some("its owner is another");
        }
        if (stat.st_mtime, stat.st_mtime_nsec) != (meta.mtime, u64::from(meta.nanos)) {
            return Some("its time is another");
        }
        None
    }
}

/// Hashes what the tar stores of the file.
fn hash(file: &File, data: &Data) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let whole = [(0, data.size)];
    for (offset, length) in data.map.as_deref().unwrap_or(&whole) {
        let (mut at, end) = (*offset, offset + length);
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            file.read_exact_at(&mut buffer[..most], at)?;
            hash.update(&buffer[..most]);
            at += most as u64;
        }
    }
    Ok(hash.finalize().into())
}

/// The root has no name.
fn shown(path: &Path) -> std::path::Display<'_> {
    if path.as_os_str().is_empty() { Path::new("the root directory").display() } else { path.display() }
}

/// SHA-256 of an EROFS layer but for its tar, which has a digest of its own: head, index, record.
pub(super) fn seal(file: &File, tar_bytes: u64) -> io::Result<[u8; 32]> {
    use super::erofs::HEAD;
    let mut hash = Sha256::new();
    let mut head = [0; HEAD as usize];
    file.read_exact_at(&mut head, 0)?;
    // Its own place counts for nothing.
    head[super::SEAL..super::SEAL + 32].fill(0);
    hash.update(head);
    let mut rest = file;
    io::Seek::seek(&mut rest, io::SeekFrom::Start(HEAD + tar_bytes))?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        match rest.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
