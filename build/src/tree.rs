//! Reading a file tree that someone else made - a context, an image's root - without ever following a path.
//!
//! Every step opens one component by descriptor with `O_NOFOLLOW`; symbolic links are read and resolved here, inside the
//! tree, so a link that points outside cannot be made to reach there. An image's root is either one mounted view or a
//! stack of layer directories, whose whiteouts are honoured here, so that no mount (and no privilege) is needed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use longshore_image::Snapshot;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::pattern::clean_path;
use crate::{Error, Result};

const MAX_LINKS: usize = 255;
const MAX_DEPTH: usize = 2048;
/// Longest list of xattr names, in bytes.
const MAX_NAMES: usize = 1 << 20;

/// A tree of files to read.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Top first; only layer stacks have more than one.
    roots: Vec<OwnedFd>,
    /// Prefix of overlay's xattrs, for a stack.
    overlay: Option<&'static str>,
}

/// What a path is.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: FileType,
    pub(crate) stat: Stat,
}

impl Entry {
    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }
    pub(crate) fn is_link(&self) -> bool {
        self.kind == FileType::Symlink
    }
    pub(crate) fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }
    pub(crate) fn size(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }
    pub(crate) fn mtime(&self) -> (i64, u32) {
        (self.stat.st_mtime, u32::try_from(self.stat.st_mtime_nsec).unwrap_or(0))
    }
}

/// One directory, opened: in a stack, the directories of all layers that contribute to it.
#[derive(Debug)]
pub(crate) struct Dir<'a> {
    tree: &'a Tree,
    /// Index of the layer, descriptor.
    fds: Vec<OwnedFd>,
}

impl Tree {
    /// A directory of the host. Its own path is followed as usual: the caller chose it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::io(path, e))?;
        Ok(Self { roots: vec![fd], overlay: None })
    }

    /// What a snapshot shows: its directories where it has some, else a mount that nobody else sees.
    pub(crate) fn of_snapshot(snapshot: &Snapshot) -> Result<Self> {
        if let Some(copy) = snapshot.root() {
            return Self::open(&copy);
        }
        let Some(dirs) = snapshot.overlay() else {
            let fd = snapshot.mount()?;
            // A mount's descriptor is an O_PATH one; listing needs one that reads.
            let root = rustix::fs::openat(
                &fd,
                ".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|e| Error::io(".", e))?;
            return Ok(Self { roots: vec![root], overlay: None });
        };
        let mut roots = Vec::new();
        for dir in dirs.upper.iter().chain(&dirs.lower) {
            roots.extend(Self::open(dir)?.roots);
        }
        Ok(Self { roots, overlay: Some(if dirs.userxattr { "user.overlay." } else { "trusted.overlay." }) })
    }

    /// A tree without files.
    pub(crate) fn empty() -> Self {
        Self { roots: Vec::new(), overlay: None }
    }

    pub(crate) fn root(&self) -> Result<Dir<'_>> {
        let fds = self
            .roots
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<io::Result<_>>()
            .map_err(|e| Error::io("/", e))?;
        Ok(Dir { tree: self, fds })
    }

    /// A directory by a path without links; `None` if it is not there or is no directory.
    pub(crate) fn dir(&self, path: &Path) -> Result<Option<Dir<'_>>> {
        if let ([root], false) = (self.roots.as_slice(), path.as_os_str().is_empty()) {
            // One layer: the kernel walks, with the same rules.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            return match openat2(root, path, flags) {
                Ok(fd) => Ok(Some(Dir { tree: self, fds: vec![fd] })),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                Err(e) => Err(Error::io(path, e)),
            };
        }
        let mut dir = self.root()?;
        for name in path {
            match dir.open_dir(name)? {
                Some(next) => dir = next,
                None => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    /// What is at a path without links in its parents.
    pub(crate) fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        let Some(name) = path.file_name() else { return self.root()?.itself().map(Some) };
        match self.dir(path.parent().unwrap_or(Path::new("")))? {
            Some(dir) => Ok(dir.entry(name)?.map(|(e, _)| e)),
            None => Ok(None),
        }
    }

    /// Opens a regular file at a path without links.
    pub(crate) fn open_file(&self, path: &Path) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = if let [root] = self.roots.as_slice() {
            openat2(root, path, flags)
        } else {
            let dir = self.dir(path.parent().unwrap_or(Path::new("")))?;
            let name = path.file_name().unwrap_or_default();
            match dir.as_ref().map(|d| d.entry(name)).transpose()?.flatten() {
                Some((_, layer)) => {
                    rustix::fs::openat(&dir.expect("it has the entry").fds[layer], name, flags, Mode::empty())
                }
                None => Err(Errno::NOENT),
            }
        };
        opened.map(File::from).map_err(|e| Error::io(path, e))
    }

    pub(crate) fn read_link(&self, path: &Path) -> Result<PathBuf> {
        let dir = self.dir(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().unwrap_or_default();
        dir.ok_or_else(|| Error::io(path, Errno::NOENT))?.read_link(name)
    }

    /// Reads a small file, following links inside the tree; `None` if it is not there.
    pub(crate) fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let (real, found) = resolve(self, path, true)?;
        if !matches!(found, Some(Found::File)) {
            return Ok(None);
        }
        let mut data = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(self.open_file(&real)?, limit + 1), &mut data)
            .map_err(|e| Error::io(path, e))?;
        if data.len() as u64 > limit {
            return Err(Error::TooLarge { what: path.display().to_string(), limit });
        }
        Ok(Some(data))
    }
}

fn openat2(root: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), how) {
            // A rename went on at the same time; the kernel asks to try again.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// The xattrs that a layer keeps: file capabilities and the user's own.
pub(crate) fn xattrs(file: &File) -> rustix::io::Result<Vec<(String, Vec<u8>)>> {
    let mut names = vec![0u8; 4096];
    let n = loop {
        match rustix::fs::flistxattr(file, names.as_mut_slice()) {
            Ok(n) => break n,
            // The kernel's own limit is 64 KiB; some file systems go beyond it, none beyond this.
            Err(Errno::RANGE) if names.len() < MAX_NAMES => names.resize(names.len() * 4, 0),
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
    };
    let mut out = Vec::new();
    for name in names[..n].split(|b| *b == 0).filter_map(|n| std::str::from_utf8(n).ok()) {
        if name != "security.capability" && (!name.starts_with("user.") || name.starts_with("user.overlay."))
        {
            continue;
        }
        let mut value = vec![0u8; 65536];
        if let Ok(n) = rustix::fs::fgetxattr(file, name, value.as_mut_slice()) {
            value.truncate(n);
            out.push((name.to_owned(), value));
        }
    }
    out.sort();
    Ok(out)
}

impl<'a> Dir<'a> {
    fn itself(&self) -> Result<Entry> {
        match self.fds.first() {
            Some(fd) => {
                let stat = rustix::fs::fstat(fd).map_err(|e| Error::io(".", e))?;
                Ok(Entry { kind: FileType::from_raw_mode(stat.st_mode), stat })
            }
            None => {
                // The root of a tree without layers.
                let fd = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|e| Error::io("/", e))?;
                let mut stat = rustix::fs::fstat(fd).map_err(|e| Error::io("/", e))?;
                (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_mtime, stat.st_mtime_nsec) =
                    (0o40755, 0, 0, 0, 0);
                Ok(Entry { kind: FileType::Directory, stat })
            }
        }
    }

    /// The entry and the layer (index into the stack) that it comes from.
    pub(crate) fn entry(&self, name: &OsStr) -> Result<Option<(Entry, usize)>> {
        for (layer, fd) in self.fds.iter().enumerate() {
            let stat = match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(e) => return Err(Error::io(name, e)),
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if self.is_whiteout(fd, name, kind, &stat) {
                return Ok(None);
            }
            return Ok(Some((Entry { kind, stat }, layer)));
        }
        Ok(None)
    }

    /// Both of overlay's forms: a device 0/0, or an empty file with an xattr.
    fn is_whiteout(&self, dir: &OwnedFd, name: &OsStr, kind: FileType, stat: &Stat) -> bool {
        let Some(prefix) = self.tree.overlay else { return false };
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            return true;
        }
        kind == FileType::RegularFile
            && stat.st_size == 0
            && rustix::fs::openat(
                dir,
                name,
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .is_ok_and(|f| has_xattr(&f, &format!("{prefix}whiteout")))
    }

    pub(crate) fn open_dir(&self, name: &OsStr) -> Result<Option<Dir<'a>>> {
        let mut fds = Vec::new();
        for fd in &self.fds {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(fd, name, flags, Mode::empty()) {
                Ok(fd) => {
                    let opaque = self.tree.overlay.is_some_and(|p| has_xattr(&fd, &format!("{p}opaque")));
                    fds.push(fd);
                    if opaque {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                // A file, link or whiteout hides what is below it.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(e) => return Err(Error::io(name, e)),
            }
        }
        Ok((!fds.is_empty()).then_some(Dir { tree: self.tree, fds }))
    }

    /// Its entries, sorted by name.
    pub(crate) fn list(&self) -> Result<BTreeMap<OsString, Entry>> {
        let mut names = BTreeMap::new();
        for fd in &self.fds {
            let dir = rustix::fs::Dir::read_from(fd).map_err(|e| Error::io(".", e))?;
            for item in dir {
                let item = item.map_err(|e| Error::io(".", e))?;
                let name = item.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.entry(OsString::from_vec(name.to_vec())).or_insert(None);
                }
            }
        }
        for (name, slot) in &mut names {
            *slot = self.entry(name)?.map(|(e, _)| e);
        }
        Ok(names.into_iter().filter_map(|(n, e)| Some((n, e?))).collect())
    }

    pub(crate) fn read_link(&self, name: &OsStr) -> Result<PathBuf> {
        let Some((_, layer)) = self.entry(name)? else { return Err(Error::io(name, Errno::NOENT)) };
        let target =
            rustix::fs::readlinkat(&self.fds[layer], name, Vec::new()).map_err(|e| Error::io(name, e))?;
        Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
    }
}

fn has_xattr(fd: impl AsFd, name: &str) -> bool {
    let mut value = [0u8; 8];
    rustix::fs::fgetxattr(fd, name, value.as_mut_slice())
        .is_ok_and(|n| name.ends_with("whiteout") || (n > 0 && matches!(value[0], b'y' | b'x')))
}

/// What [`resolve`] needs to know of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Dir,
    Link(PathBuf),
    File,
    Other,
}

/// A file tree by paths without links.
pub(crate) trait Lookup {
    fn at(&self, path: &Path) -> Result<Option<Found>>;
}

impl Lookup for Tree {
    fn at(&self, path: &Path) -> Result<Option<Found>> {
        let Some(entry) = self.entry(path)? else { return Ok(None) };
        Ok(Some(match entry.kind {
            FileType::Directory => Found::Dir,
            FileType::Symlink => Found::Link(self.read_link(path)?),
            FileType::RegularFile => Found::File,
            _ => Found::Other,
        }))
    }
}

/// The path without links, as `chroot` would see it: absolute links start at the tree's root, `..` stops there. What is not there yet
/// is taken as it is written.
pub(crate) fn resolve(tree: &dyn Lookup, path: &Path, follow_last: bool) -> Result<(PathBuf, Option<Found>)> {
    let mut todo: Vec<OsString> = parts(path);
    let (mut real, mut found, mut links) = (PathBuf::new(), Some(Found::Dir), 0);
    while let Some(part) = todo.pop() {
        if part == ".." {
            real.pop();
            found = tree.at(&real)?;
            continue;
        }
        real.push(&part);
        if real.as_os_str().len() > MAX_DEPTH * 16 {
            return Err(Error::io(path, Errno::NAMETOOLONG));
        }
        found = match found {
            None => None,
            Some(Found::Dir) => tree.at(&real)?,
            Some(_) => return Err(Error::io(path, Errno::NOTDIR)),
        };
        if let Some(Found::Link(target)) = &found
            && (follow_last || !todo.is_empty())
        {
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::io(path, Errno::LOOP));
            }
            if target.has_root() {
                real = PathBuf::new();
            } else {
                real.pop();
            }
            todo.extend(parts(target));
            found = Some(Found::Dir);
        }
    }
    if real.as_os_str().is_empty() {
        found = Some(Found::Dir);
    }
    Ok((real, found))
}

/// Components to walk, last first.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.as_os_str().as_bytes().split(|b| *b == b'/');
    parts.filter(|p| !p.is_empty() && *p != b".").rev().map(|p| OsStr::from_bytes(p).to_owned()).collect()
}

/// Joins below the root, lexically.
pub(crate) fn join(base: &str, path: &str) -> String {
    let path = if path.starts_with('/') { PathBuf::from(path) } else { Path::new(base).join(path) };
    format!("/{}", clean_path(&path).display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn many_xattrs_hide_none() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        let set = |name: &str, value: &[u8]| {
            rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty())
        };
        let mut capability = [0u8; 20];
        capability[..6].copy_from_slice(&[1, 0, 0, 2, 0, 4]);
        if let Err(e) = set("security.capability", &capability) {
            assert!(std::env::var_os("LONGSHORE_REQUIRE_ALL").is_none(), "{e}");
            return eprintln!("skipped: needs file capabilities: {e}");
        }
        for i in 0..40 {
            set(&format!("trusted.{i}{}", "x".repeat(240)), b"").unwrap();
        }
        assert_eq!(xattrs(&file).unwrap(), [("security.capability".to_owned(), capability.to_vec())]);
    }

    #[test]
    fn links_resolve_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/f"), "x").unwrap();
        symlink("/a", root.join("abs")).unwrap();
        symlink("../../../../etc", root.join("a/up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/nowhere/x", root.join("dangling")).unwrap();
        let tree = Tree::open(root).unwrap();
        let path = |p: &str, follow| {
            resolve(&tree, Path::new(p), follow).map(|(p, f)| (p.to_str().unwrap().to_owned(), f))
        };
        assert_eq!(path("abs/b/f", true).unwrap(), ("a/b/f".into(), Some(Found::File)));
        assert_eq!(path("a/up/passwd", true).unwrap(), ("etc/passwd".into(), None));
        assert_eq!(path("../../a/./b/..", true).unwrap(), ("a".into(), Some(Found::Dir)));
        assert_eq!(path("dangling", true).unwrap(), ("nowhere/x".into(), None));
        assert_eq!(path("dangling", false).unwrap().0, "dangling");
        assert!(path("loop", true).is_err());
        assert!(path("a/b/f/x", true).is_err());
        assert_eq!(tree.read(Path::new("abs/b/f"), 10).unwrap().unwrap(), b"x");
        assert!(tree.read(Path::new("a/up/passwd"), 1 << 20).unwrap().is_none());
        assert!(tree.open_file(Path::new("abs/b/f")).is_err());
    }

    #[test]
    fn a_stack_shows_what_overlay_would() {
        let dir = tempfile::tempdir().unwrap();
        let (top, low) = (dir.path().join("t"), dir.path().join("l"));
        for (d, f) in [(&low, "d/one"), (&low, "d/two"), (&top, "d/two"), (&low, "gone"), (&top, "new")] {
            std::fs::create_dir_all(d.join(f).parent().unwrap()).unwrap();
            std::fs::write(d.join(f), d.to_str().unwrap()).unwrap();
        }
        let gone = rustix::fs::mknodat(
            rustix::fs::CWD,
            top.join("gone"),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        );
        if let Err(e) = gone {
            eprintln!("skipped: no whiteouts here: {e}");
            return;
        }
        let mut roots = Tree::open(&top).unwrap().roots;
        roots.extend(Tree::open(&low).unwrap().roots);
        let tree = Tree { roots, overlay: Some("user.overlay.") };
        let names = |p: &str| -> Vec<_> {
            let d = tree.dir(Path::new(p)).unwrap().unwrap();
            d.list().unwrap().into_keys().map(|n| n.into_string().unwrap()).collect()
        };
        assert_eq!(names(""), ["d", "new"]);
        assert_eq!(names("d"), ["one", "two"]);
        assert_eq!(tree.read(Path::new("d/two"), 999).unwrap().unwrap(), top.to_str().unwrap().as_bytes());
        assert!(tree.open_file(Path::new("gone")).is_err());
    }
}
