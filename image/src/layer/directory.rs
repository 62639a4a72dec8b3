//! Unpacks a layer into a directory: for stores of ordinary users, and for kernels that cannot mount EROFS files.
//!
//! The [`Tree`] has resolved every path before anything is made here, so the host's kernel never follows a path that an
//! image wrote: each directory is opened below the layer's root without symbolic links, each file is made in it by its
//! last name alone, and must not be there yet. Nobody else can reach the directory meanwhile.

use std::collections::{HashSet, VecDeque};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    self as rfs, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::tar::{Data, Meta, TarReader};
use super::tree::{Body, Id, Node, Placed, ROOT, Tree, Xattrs};
use super::writers::{Job, Natural, Opened, SMALL, Writers, create};
use crate::error::at;
use crate::{Ctx, Result};

/// Whose files the layers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Ids of the image are ids of the host.
    Root,
    /// Ids of the image are ids of this process's user namespace, which has a range of them. Devices are left out, overlay's
    /// attributes are `user.overlay.*`.
    Range,
    /// All files belong to the one user, devices are left out, overlay's attributes are `user.overlay.*`.
    User,
}

impl Owner {
    /// Whether files get the owner that the image gives them.
    pub(crate) fn keeps_ids(self) -> bool {
        self != Self::User
    }

    /// Whether the kernel lets us make devices: only root of the whole machine.
    pub(crate) fn makes_devices(self) -> bool {
        self == Self::Root
    }

    /// Whether overlay's attributes are `user.overlay.*`: only root of the whole machine may set the other ones.
    pub(crate) fn by_user_attributes(self) -> bool {
        self != Self::Root
    }
}

/// Open directories kept at hand.
const OPEN: usize = 64;

pub(crate) struct Unpacker<'a> {
    root: Arc<Opened>,
    owner: Owner,
    natural: Natural,
    writers: Writers,
    open: VecDeque<(Id, Arc<Opened>)>,
    /// Directories that exist on disk.
    made: HashSet<Id>,
    skipped: HashSet<Id>,
    ctx: Ctx<'a>,
}

impl<'a> Unpacker<'a> {
    /// `path` is a fresh directory of ours.
    pub(crate) fn new(path: &Path, owner: Owner, ctx: Ctx<'a>) -> Result<Self> {
        let root = rfs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
            .map_err(at("open", path))?;
        let natural = Natural::probe(&root).map_err(at("create", path))?;
        let made = HashSet::from([ROOT]);
        let (open, skipped) = (VecDeque::new(), HashSet::new());
        let root = Arc::new(Opened { fd: root, path: path.to_owned() });
        Ok(Self { root, owner, natural, writers: Writers::new(owner, natural), open, made, skipped, ctx })
    }

    /// Files that could not be made (devices, for an ordinary user).
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.len() as u64
    }

    /// Makes what an entry has just become in the tree; content is read from the tar where there is any.
    pub(crate) fn make(&mut self, tree: &Tree, placed: &Placed, tar: &mut TarReader<'_, '_>) -> Result<()> {
        let Placed::At { node: id, parent, name, replaced, linked } = placed else { return Ok(()) };
        let node = tree.node(*id);
        if replaced.is_some() || linked.is_some() {
            // It must be there.
            self.writers.wait()?;
        }
        if let Some(old) = replaced {
            self.remove(tree, *parent, name, *old)?;
        }
        if let Some((dir, target)) = linked {
            return self.link(tree, (*dir, target), (*parent, name), *id);
        }
        match &node.body {
            // Made when something lies in it, or at the end.
            Body::Dir(_) | Body::Whiteout => Ok(()),
            Body::File(data) => self.file(tree, node, data, (*parent, name), tar),
            Body::Symlink(target) => {
                self.within(tree, *parent, name, "symlink", |dir| {
                    rfs::symlinkat(&**target, dir, name.as_slice())
                })?;
                self.describe(tree, node, (*parent, name))
            }
            Body::Fifo => self.special(tree, node, (*parent, name), FileType::Fifo, 0),
            Body::Char(..) | Body::Block(..) if !self.owner.makes_devices() => {
                self.skipped.insert(*id);
                Ok(())
            }
            Body::Char(major, minor) => {
                let device = rfs::makedev(*major, *minor);
                self.special(tree, node, (*parent, name), FileType::CharacterDevice, device)
            }
            Body::Block(major, minor) => {
                let device = rfs::makedev(*major, *minor);
                self.special(tree, node, (*parent, name), FileType::BlockDevice, device)
            }
        }
    }

    /// Makes the directories that hold nothing and the whiteouts, and gives every directory its own metadata.
    pub(crate) fn finish(&mut self, tree: &Tree) -> Result<()> {
        self.writers.wait()?;
        // Times come last, children first.
        let mut todo = vec![(ROOT, false)];
        while let Some((id, below_done)) = todo.pop() {
            let dir = tree.dir(id).expect("only directories are put here");
            if below_done {
                self.ctx.check()?;
                self.finish_dir(tree, id)?;
                continue;
            }
            todo.push((id, true));
            todo.extend(dir.children.values().filter(|c| tree.dir(**c).is_some()).map(|c| (*c, false)));
        }
        Ok(())
    }

    fn finish_dir(&mut self, tree: &Tree, id: Id) -> Result<()> {
        let node = tree.node(id);
        let dir = tree.dir(id).expect("only directories are put here");
        for (name, child) in &dir.children {
            if matches!(tree.node(*child).body, Body::Whiteout) {
                self.within(tree, id, name, "whiteout", |fd| {
                    rfs::mknodat(fd, &**name, FileType::CharacterDevice, Mode::empty(), 0)
                })?;
            }
        }
        let (owner, natural) = (self.owner, self.natural);
        let opened = self.dir(tree, id)?;
        let (fd, path) = (&opened.fd, &opened.path);
        for (name, value) in dir.marks() {
            let prefix = if owner.by_user_attributes() { "user" } else { "trusted" };
            let name = format!("{prefix}.overlay.{name}");
            rfs::fsetxattr(fd, name, value, XattrFlags::empty()).map_err(at("setxattr", path))?;
        }
        describe_fd(fd, &node.meta, node.xattrs.as_deref(), owner, natural, None)
            .map_err(at("describe", path))?;
        self.open.retain(|(open, _)| *open != id);
        Ok(())
    }

    fn file(
        &mut self,
        tree: &Tree,
        node: &Node,
        data: &Data,
        (parent, name): (Id, &[u8]),
        tar: &mut TarReader<'_, '_>,
    ) -> Result<()> {
        let mode = u32::from(node.meta.mode) & 0o777;
        let dir = Arc::clone(self.dir(tree, parent)?);
        if data.map.is_none() && data.size <= SMALL {
            let (meta, xattrs) = (node.meta, node.xattrs.clone());
            return self.writers.file(parent, Job { dir, name: name.to_vec(), meta, xattrs }, |content| {
                tar.content(|piece| {
                    content.extend_from_slice(piece);
                    Ok(())
                })
            });
        }
        let path = || dir.path.join(lossy(name));
        let mut file = create(&dir, name, mode).map_err(|e| at("create", path())(e))?;
        match &data.map {
            None => tar.content(|piece| file.write_all(piece).map_err(|e| at("write", path())(e)))?,
            Some(map) => {
                let mut regions = map.iter().filter(|(_, length)| *length > 0);
                let mut region = (0, 0);
                tar.content(|mut piece| {
                    while !piece.is_empty() {
                        if region.1 == 0 {
                            region = *regions.next().expect("the map is as long as the content");
                        }
                        let (now, rest) =
                            piece.split_at(piece.len().min(usize::try_from(region.1).unwrap_or(usize::MAX)));
                        file.write_all_at(now, region.0).map_err(|e| at("write", path())(e))?;
                        region = (region.0 + now.len() as u64, region.1 - now.len() as u64);
                        piece = rest;
                    }
                    Ok(())
                })?;
                file.set_len(data.size).map_err(|e| at("truncate", path())(e))?;
            }
        }
        let created = mode & !self.natural.umask;
        let xattrs = node.xattrs.as_deref();
        describe_fd(&file, &node.meta, xattrs, self.owner, self.natural, Some(created))
            .map_err(|e| at("describe", path())(e))
    }

    fn special(
        &mut self,
        tree: &Tree,
        node: &Node,
        (parent, name): (Id, &[u8]),
        kind: FileType,
        device: u64,
    ) -> Result<()> {
        self.within(tree, parent, name, "mknod", |dir| rfs::mknodat(dir, name, kind, Mode::empty(), device))?;
        self.describe(tree, node, (parent, name))
    }

    /// Owner, mode and time of what cannot be opened, by its name and without following it.
    fn describe(&mut self, tree: &Tree, node: &Node, (parent, name): (Id, &[u8])) -> Result<()> {
        let (owner, natural) = (self.owner, self.natural);
        self.within(tree, parent, name, "describe", |dir| {
            if let Some((uid, gid)) = chown_to(&node.meta, owner, natural) {
                rfs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if !matches!(node.body, Body::Symlink(_)) {
                // We have made it ourselves just now in a directory of ours: it is no link.
                rfs::chmodat(dir, name, Mode::from_raw_mode(node.meta.mode.into()), AtFlags::empty())?;
            }
            rfs::utimensat(dir, name, &times(&node.meta), AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    fn link(&mut self, tree: &Tree, from: (Id, &Vec<u8>), to: (Id, &Vec<u8>), id: Id) -> Result<()> {
        if self.skipped.contains(&id) {
            return Ok(());
        }
        let to_dir = Arc::clone(self.dir(tree, to.0)?);
        let from_dir = self.dir(tree, from.0)?;
        rfs::linkat(&from_dir.fd, from.1.as_slice(), &to_dir.fd, to.1.as_slice(), AtFlags::empty())
            .map_err(at("link", to_dir.path.join(lossy(to.1))))
    }

    fn remove(&mut self, tree: &Tree, parent: Id, name: &[u8], old: Id) -> Result<()> {
        let is_dir = tree.dir(old).is_some();
        if (is_dir && !self.made.contains(&old)) || self.skipped.contains(&old) {
            return Ok(());
        }
        self.within(tree, parent, name, "remove", |dir| {
            if is_dir { remove_dir(dir, name) } else { rfs::unlinkat(dir, name, AtFlags::empty()) }
        })
    }

    fn within<T>(
        &mut self,
        tree: &Tree,
        dir: Id,
        name: &[u8],
        op: &'static str,
        act: impl FnOnce(&OwnedFd) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let dir = self.dir(tree, dir)?;
        act(&dir.fd).map_err(|e| at(op, dir.path.join(lossy(name)))(e))
    }

    /// Opens a directory of the layer, making it and those above it where they are missing.
    fn dir(&mut self, tree: &Tree, id: Id) -> Result<&Arc<Opened>> {
        if id == ROOT {
            return Ok(&self.root);
        }
        if let Some(found) = self.open.iter().position(|(open, _)| *open == id) {
            if found + OPEN / 2 < self.open.len() {
                let hot = self.open.remove(found).expect("just found");
                self.open.push_back(hot);
                return Ok(&self.open.back().expect("just pushed").1);
            }
            return Ok(&self.open[found].1);
        }
        let chain = chain(tree, id);
        let known = chain.iter().enumerate().rev().find_map(|(i, (id, _))| {
            self.open.iter().find(|(open, _)| open == id).map(|(_, dir)| (i + 1, Arc::clone(dir)))
        });
        let (below, mut dir) = known.unwrap_or_else(|| (0, Arc::clone(&self.root)));
        for (id, name) in &chain[below..] {
            let path = dir.path.join(lossy(name));
            if self.made.insert(*id) {
                rfs::mkdirat(&dir.fd, *name, Mode::RWXU).map_err(at("mkdir", &path))?;
            }
            let fd = open_dir(&dir.fd, name).map_err(at("open", &path))?;
            dir = Arc::new(Opened { fd, path });
            // Those above are kept too: the next directory most likely lies in one of them.
            if self.open.len() >= OPEN {
                self.open.pop_front();
            }
            self.open.push_back((*id, Arc::clone(&dir)));
        }
        Ok(&self.open.back().expect("the root aside, a chain has an end").1)
    }
}

fn open_dir(at: &OwnedFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        match rfs::openat2(at, name, flags, Mode::empty(), resolve) {
            // A rename somewhere on the system raced with the walk.
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
}

pub(super) fn lossy(name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name).into()
}

/// The directories from below the root down to `id`, with their names.
fn chain(tree: &Tree, mut id: Id) -> Vec<(Id, &[u8])> {
    let mut chain = Vec::new();
    while id != ROOT {
        let dir = tree.dir(id).expect("only directories have something below");
        chain.push((id, &*dir.name));
        id = dir.parent;
    }
    chain.reverse();
    chain
}

/// Removes a directory tree that nobody else can reach, without following anything.
fn remove_dir(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    let mut stack = vec![(open_dir(dir, name)?, name.to_vec())];
    while let Some((fd, _)) = stack.last() {
        let below = rfs::Dir::read_from(fd)?
            .filter_map(Result::ok)
            .filter(|e| !matches!(e.file_name().to_bytes(), b"." | b".."))
            .collect::<Vec<_>>();
        let mut next = None;
        for entry in below {
            let name = entry.file_name();
            match rfs::unlinkat(fd, name, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR) => next = Some((open_dir(fd, name.to_bytes())?, name.to_bytes().to_vec())),
                Err(e) => return Err(e),
            }
            if next.is_some() {
                break;
            }
        }
        match next {
            Some(next) => stack.push(next),
            None => {
                let (_, name) = stack.pop().expect("looped on it");
                let above = stack.last().map_or(dir, |(fd, _)| fd);
                rfs::unlinkat(above, name.as_slice(), AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}

impl Natural {
    fn probe(dir: &OwnedFd) -> rustix::io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rfs::openat(dir, "probe", flags, Mode::from_raw_mode(0o777))?;
        let stat = rfs::fstat(&file)?;
        rfs::unlinkat(dir, "probe", AtFlags::empty())?;
        Ok(Self { uid: stat.st_uid, gid: stat.st_gid, umask: 0o777 & !stat.st_mode })
    }
}

/// The owner to set, where it is not the one that the file has by itself.
fn chown_to(meta: &Meta, owner: Owner, natural: Natural) -> Option<(Uid, Gid)> {
    let other = owner.keeps_ids() && (meta.uid, meta.gid) != (natural.uid, natural.gid);
    other.then(|| (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid)))
}

/// Owner before mode (chown clears setuid) before attributes (chown clears capabilities) before times.
pub(super) fn describe_fd(
    fd: impl rustix::fd::AsFd,
    meta: &Meta,
    xattrs: Option<&Xattrs>,
    owner: Owner,
    natural: Natural,
    created: Option<u32>,
) -> rustix::io::Result<()> {
    let chown = chown_to(meta, owner, natural);
    if let Some((uid, gid)) = chown {
        rfs::fchown(&fd, Some(uid), Some(gid))?;
    }
    if created != Some(u32::from(meta.mode)) {
        rfs::fchmod(&fd, Mode::from_raw_mode(meta.mode.into()))?;
    }
    for (name, value) in xattrs.into_iter().flatten() {
        match rfs::fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            // A file system without them, or a right that only root has.
            Err(Errno::OPNOTSUPP) => {}
            Err(Errno::PERM | Errno::INVAL) if owner == Owner::User => {}
            Err(e) => return Err(e),
        }
    }
    rfs::futimens(&fd, &times(meta))
}

fn times(meta: &Meta) -> Timestamps {
    let time = Timespec { tv_sec: meta.mtime, tv_nsec: meta.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
