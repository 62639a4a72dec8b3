//! Whole copies of layers, for where no overlay can be mounted.
//!
//! The layers are first merged in memory as overlay would show them; the copy is made of that, and later compared with it. File systems that
//! can share blocks between files (btrfs, XFS) do.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::mend::{Opened, dress};
use crate::Result;
use crate::diff::trees::Made;
use crate::diff::walk::{self, Item, Unlocked, open_below, open_dir, read_dir, xattrs};
use crate::error::at;
use crate::layer::{Owner, RootMeta};

type Id = usize;
pub(crate) const ROOT: Id = 0;

/// What the layers look like together.
pub(crate) struct Merged {
    layers: Vec<Opened>,
    nodes: Vec<Node>,
    owner: Owner,
    /// Directories of layers that deny their owner access, opened up until this is dropped.
    unlocked: Vec<Unlocked>,
}

pub(crate) struct Node {
    pub(crate) stat: Stat,
    /// The layer that it is from.
    layer: usize,
    /// Empty for what is no directory.
    pub(crate) children: BTreeMap<Vec<u8>, Id>,
}

impl Merged {
    /// `layers` top first; without any it is like the directory `copy`.
    pub(super) fn new(mut layers: Vec<Opened>, root: RootMeta, owner: Owner, copy: &Path) -> Result<Self> {
        layers.reverse();
        let stat = rfs::stat(copy).map_err(at("stat", copy))?;
        let nodes = vec![Node { stat, layer: 0, children: BTreeMap::new() }];
        let mut merged = Self { layers, nodes, owner, unlocked: Vec::new() };
        for layer in 0..merged.layers.len() {
            merged.add(layer)?;
        }
        let stat = &mut merged.nodes[ROOT].stat;
        stat.st_mode = (stat.st_mode & !0o7777) | u32::from(root.mode);
        if owner.keeps_ids() {
            (stat.st_uid, stat.st_gid) = (root.uid, root.gid);
        }
        Ok(merged)
    }

    fn add(&mut self, layer: usize) -> Result<()> {
        let shown = Path::new("a layer");
        let root = walk::again(&self.layers[layer].root, shown)?.expect("an open directory opens again");
        if xattrs(&root, shown)?.opaque {
            self.nodes[ROOT].children.clear();
        }
        if layer == 0 || self.layers[layer].says.is_some() {
            (self.nodes[ROOT].stat, self.nodes[ROOT].layer) =
                (rfs::fstat(&root).map_err(at("stat", shown))?, layer);
        }
        let mut todo = vec![(ROOT, Vec::new(), root)];
        while let Some((id, path, dir)) = todo.pop() {
            for item in read_dir(&dir, &self::shown(&path))? {
                let below = join(&path, &item.name);
                if let Some((id, fd)) = self.item(layer, id, &below, &dir, item)? {
                    todo.push((id, below, fd));
                }
            }
        }
        Ok(())
    }

    /// Places what a layer has; a directory is given back, opened.
    fn item(
        &mut self,
        layer: usize,
        parent: Id,
        path: &[u8],
        dir: &OwnedFd,
        item: Item,
    ) -> Result<Option<(Id, OwnedFd)>> {
        let before = self.nodes[parent].children.get(&item.name).copied();
        let kind = FileType::from_raw_mode(item.stat.st_mode);
        if kind == FileType::CharacterDevice && item.stat.st_rdev == 0 {
            self.nodes[parent].children.remove(&item.name);
            return Ok(None);
        }
        let is_dir = kind == FileType::Directory;
        let opened = if is_dir { self.open(dir, path, &item)? } else { None };
        let opaque =
            opened.as_ref().map(|fd| xattrs(fd, &shown(path))).transpose()?.is_some_and(|a| a.opaque);
        if let Some(before) = before.filter(|id| opened.is_some() && !opaque && self.is_dir(*id)) {
            // What a layer only implies says nothing where one below speaks.
            if !self.layers[layer].implied.contains(&*String::from_utf8_lossy(path)) {
                (self.nodes[before].stat, self.nodes[before].layer) = (item.stat, layer);
            }
            return Ok(opened.map(|fd| (before, fd)));
        }
        let id = self.nodes.len();
        self.nodes.push(Node { stat: item.stat, layer, children: BTreeMap::new() });
        self.nodes[parent].children.insert(item.name, id);
        Ok(opened.map(|fd| (id, fd)))
    }

    fn open(&mut self, dir: &OwnedFd, path: &[u8], item: &Item) -> Result<Option<OwnedFd>> {
        if self.owner == Owner::User && item.stat.st_mode & 0o700 != 0o700 {
            self.unlocked.extend(walk::unlock(dir, item).map_err(at("chmod", shown(path)))?);
        }
        open_below(dir, &item.name, &shown(path))
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    pub(crate) fn is_dir(&self, id: Id) -> bool {
        FileType::from_raw_mode(self.nodes[id].stat.st_mode) == FileType::Directory
    }

    /// The directory in the layer that holds this node.
    fn parent_of(&self, id: Id, path: &[u8]) -> Result<OwnedFd> {
        let root = &self.layers[self.nodes[id].layer].root;
        let above = path.iter().rposition(|b| *b == b'/').map_or(&[][..], |cut| &path[..cut]);
        let fd = if above.is_empty() {
            walk::again(root, &shown(path))?
        } else {
            open_below(root, above, &shown(path))?
        };
        fd.ok_or_else(|| at("open", shown(path))(Errno::NOENT))
    }

    /// Opens the file or directory that the node stands for.
    pub(crate) fn open_node(&self, id: Id, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let dir = self.parent_of(id, path)?;
        let item = Item { name: name_of(path).to_vec(), stat: self.nodes[id].stat };
        let locked = self.owner == Owner::User && item.stat.st_mode & 0o400 == 0;
        let _open = if locked { walk::unlock(&dir, &item).map_err(at("chmod", shown(path)))? } else { None };
        rfs::openat(&dir, name_of(path), flags, Mode::empty()).map_err(at("open", shown(path)))
    }

    /// Where a symbolic link leads.
    pub(crate) fn link(&self, id: Id, path: &[u8]) -> Result<Vec<u8>> {
        let dir = self.parent_of(id, path)?;
        let target = rfs::readlinkat(&dir, name_of(path), Vec::new()).map_err(at("readlink", shown(path)))?;
        Ok(target.into_bytes())
    }

    /// Makes the tree in `to`, an empty directory that nobody else can reach.
    pub(super) fn copy(&self, to: &Path) -> Result<Made> {
        let mut copy = Copy { merged: self, to, root: open_dir(to)?, links: HashMap::new() };
        let mut dirs = vec![(ROOT, Vec::new())];
        let mut next = 0;
        while next < dirs.len() {
            let (id, path) = dirs[next].clone();
            next += 1;
            let dir = copy.dir(&path)?;
            for (name, child) in &self.node(id).children {
                let below = join(&path, name);
                copy.make(&dir, *child, &below)?;
                if self.is_dir(*child) {
                    dirs.push((*child, below));
                }
            }
        }
        // Rights and times last, children first: making something in a directory needs the one and changes the other.
        let mut made = Made::default();
        for (id, path) in dirs.iter().rev() {
            let kept = if path.is_empty() {
                Vec::new()
            } else {
                xattrs(self.open_node(*id, path)?, &shown(path))?.kept
            };
            let (dir, full) = (copy.dir(path)?, to.join(shown(path)));
            // By now all files have all their names, and the directories below are dressed.
            read_dir(&dir, &full)?.iter().for_each(|item| made.note(&item.stat));
            dress(&dir, &self.node(*id).stat, &kept, self.owner).map_err(at("describe", full))?;
        }
        Ok(made)
    }
}

struct Copy<'a> {
    merged: &'a Merged,
    to: &'a Path,
    root: OwnedFd,
    /// Where a file of a layer with several names was first made.
    links: HashMap<(usize, u64), Vec<u8>>,
}

impl Copy<'_> {
    fn dir(&self, path: &[u8]) -> Result<OwnedFd> {
        let full = self.to.join(shown(path));
        let dir = if path.is_empty() {
            walk::again(&self.root, &full)?
        } else {
            open_below(&self.root, path, &full)?
        };
        dir.ok_or_else(|| at("open", full)(Errno::NOENT))
    }

    fn make(&mut self, dir: &OwnedFd, id: Id, path: &[u8]) -> Result<()> {
        let (node, name) = (self.merged.node(id), name_of(path));
        let full = self.to.join(shown(path));
        let kind = FileType::from_raw_mode(node.stat.st_mode);
        if kind == FileType::Directory {
            return rfs::mkdirat(dir, name, Mode::RWXU).map_err(at("mkdir", full));
        }
        if node.stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(node.layer, node.stat.st_ino)) {
                let above = first.iter().rposition(|b| *b == b'/').map_or(&[][..], |cut| &first[..cut]);
                let from = self.dir(above)?;
                return rfs::linkat(&from, name_of(first), dir, name, AtFlags::empty())
                    .map_err(at("link", full));
            }
            self.links.insert((node.layer, node.stat.st_ino), path.to_vec());
        }
        match kind {
            FileType::RegularFile => return self.file(dir, id, path),
            FileType::Symlink => {
                rfs::symlinkat(self.merged.link(id, path)?, dir, name).map_err(at("symlink", &full))?;
            }
            _ => {
                rfs::mknodat(dir, name, kind, Mode::empty(), node.stat.st_rdev)
                    .map_err(at("mknod", &full))?;
            }
        }
        self.describe(dir, name, &node.stat).map_err(at("describe", full))
    }

    /// Owner, mode and time of what cannot be opened, by its name and without following it.
    fn describe(&self, dir: &OwnedFd, name: &[u8], stat: &Stat) -> rustix::io::Result<()> {
        if self.merged.owner.keeps_ids() {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rfs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            // We have made it ourselves just now in a directory of ours: it is no link.
            rfs::chmodat(dir, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        rfs::utimensat(dir, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn file(&self, dir: &OwnedFd, id: Id, path: &[u8]) -> Result<()> {
        let full = self.to.join(shown(path));
        let from = File::from(self.merged.open_node(id, path)?);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = rfs::openat(dir, name_of(path), flags, Mode::from_raw_mode(0o600))
            .map_err(at("create", &full))?;
        let to = File::from(to);
        copy_content(&from, &to).map_err(at("copy", &full))?;
        let kept = xattrs(&from, &full)?.kept;
        dress(&to, &self.merged.node(id).stat, &kept, self.merged.owner).map_err(at("describe", full))
    }
}

/// Shares the blocks where the file system can, else copies in the kernel; holes stay holes.
fn copy_content(mut from: &File, mut to: &File) -> io::Result<()> {
    if rfs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let size = from.metadata()?.len();
    let mut at = 0;
    while at < size {
        let start = match rfs::seek(from, rfs::SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            // It cannot tell.
            Err(Errno::INVAL) => at,
            Err(e) => return Err(e.into()),
        };
        let end = rfs::seek(from, rfs::SeekFrom::Hole(start)).unwrap_or(size);
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        if io::copy(&mut from.take(end - start), &mut to)? < end - start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at = end;
    }
    to.set_len(size)
}

/// Whether two open files hold the same.
pub(crate) fn same_content(one: impl AsFd, two: impl AsFd) -> io::Result<bool> {
    let mut buffers = [vec![0; 128 << 10], vec![0; 128 << 10]];
    let mut at = 0;
    loop {
        let mut got = [0; 2];
        for (n, fd) in [one.as_fd(), two.as_fd()].into_iter().enumerate() {
            while got[n] < buffers[n].len() {
                match rustix::io::pread(fd, &mut buffers[n][got[n]..], at + got[n] as u64) {
                    Ok(0) => break,
                    Ok(more) => got[n] += more,
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        if buffers[0][..got[0]] != buffers[1][..got[1]] {
            return Ok(false);
        }
        if got[0] == 0 {
            return Ok(true);
        }
        at += got[0] as u64;
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 };
    Timestamps { last_access: time, last_modification: time }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

fn shown(path: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(path).into()
}
