//! The diff of two trees: what a copy of layers has become, compared with the layers.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self as rfs, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::walk::{self, Item, open_dir, read_dir, xattrs};
use super::{Diff, Options, finish, shown};
use crate::error::at;
use crate::layer::Owner;
use crate::snapshot::{DiffOutcome, Merged, ROOT, same_content};
use crate::{Ctx, Result};

/// When the kernel last noted a change (ctime) of each file of a copy, once that was made. The kernel notes every change of a file, and
/// nobody can say otherwise; only somebody who sets the clock could hit the same moment again, to the nanosecond. So what has still the time
/// of the copy needs no second look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made(HashMap<u64, (i64, i64)>);

/// Bytes of a file in [`Made::to_bytes`]: its inode, seconds and nanoseconds.
const NOTE: usize = 24;

impl Made {
    pub(crate) fn note(&mut self, stat: &Stat) {
        self.0.insert(stat.st_ino, changed(stat));
    }

    /// The last change of all.
    pub(crate) fn last(&self) -> (i64, i64) {
        self.0.values().max().copied().unwrap_or_default()
    }

    fn untouched(&self, stat: &Stat) -> bool {
        self.0.get(&stat.st_ino) == Some(&changed(stat))
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let note = |(inode, (secs, nanos)): (&u64, &(i64, i64))| {
            [inode.to_le_bytes(), secs.to_le_bytes(), nanos.to_le_bytes()].concat()
        };
        self.0.iter().flat_map(note).collect()
    }

    /// From what [`Made::to_bytes`] gave. Of what is torn no more is believed than that: it is looked at again.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let number = |note: &[u8], at: usize| -> [u8; 8] { std::array::from_fn(|i| note[at + i]) };
        let notes = bytes.chunks_exact(NOTE).map(|note| {
            let secs = i64::from_le_bytes(number(note, 8));
            (u64::from_le_bytes(number(note, 0)), (secs, i64::from_le_bytes(number(note, 16))))
        });
        Self(notes.collect())
    }
}

fn changed(stat: &Stat) -> (i64, i64) {
    (stat.st_ctime, stat.st_ctime_nsec as i64)
}

/// Writes as a layer what makes `right` of `left`.
pub(crate) fn trees(
    left: &Merged,
    right: &Path,
    made: &Made,
    options: &Options,
    out: &mut dyn Write,
    ctx: Ctx<'_>,
) -> Result<DiffOutcome> {
    let mut diff = Diff::new(right, options, out, ctx);
    let root = open_dir(right)?;
    diff.root(&root)?;
    // The root has never had another place.
    let mut todo = vec![Place { path: Vec::new(), left: Some(ROOT), still: true }];
    while let Some(place) = todo.pop() {
        let shown = right.join(shown(&place.path));
        let fd = if place.path.is_empty() {
            walk::again(&root, &shown)?
        } else {
            walk::open_below(&root, &place.path, &shown)?
        };
        let Some(fd) = fd else { continue };
        let from = todo.len();
        let mut trees = Trees { left, made, diff: &mut diff };
        trees.dir(&fd, &place, read_dir(&fd, &shown)?, &mut todo)?;
        todo[from..].reverse();
    }
    finish(diff)
}

/// A directory of the right tree.
struct Place {
    path: Vec<u8>,
    /// The left one of the same path.
    left: Option<usize>,
    /// It has been here since the copy was made.
    still: bool,
}

struct Trees<'a, 'd> {
    left: &'a Merged,
    made: &'a Made,
    diff: &'a mut Diff<'d>,
}

impl Trees<'_, '_> {
    fn dir(&mut self, fd: &OwnedFd, place: &Place, items: Vec<Item>, todo: &mut Vec<Place>) -> Result<()> {
        let left = self.left;
        let before = place.left.filter(|id| left.is_dir(*id)).map(|id| &left.node(id).children);
        let mut gone = before.into_iter().flatten().map(|(name, _)| name).peekable();
        let slash = if place.path.is_empty() { Vec::new() } else { [&place.path, &b"/"[..]].concat() };
        for item in items {
            while let Some(name) = gone.next_if(|name| **name < item.name) {
                self.diff.marker(&[&slash, &b".wh."[..], name].concat())?;
            }
            gone.next_if(|name| **name == item.name);
            let path = [&slash[..], &item.name].concat();
            let id = before.and_then(|names| names.get(&item.name)).copied();
            let kind = FileType::from_raw_mode(item.stat.st_mode);
            if kind == FileType::Socket && id.is_some() {
                // No layer holds one; what was there is gone all the same.
                self.diff.marker(&[&slash, &b".wh."[..], &item.name].concat())?;
                continue;
            }
            let is_dir = kind == FileType::Directory;
            let still = place.still && self.made.untouched(&item.stat);
            let same = match id {
                None => false,
                Some(_) if still => true,
                Some(id) => self.same(fd, id, &item, &path)?,
            };
            if same {
                if is_dir {
                    self.diff.unlock(fd, &path, &item)?;
                    todo.push(Place { path, left: id, still });
                }
            } else if let Some(path) = self.diff.item(fd, &place.path, &item)? {
                todo.push(Place { path, left: id, still: false });
            }
        }
        gone.try_for_each(|name| self.diff.marker(&[&slash, &b".wh."[..], name].concat()))
    }

    /// Whether what has been touched is still what it was.
    fn same(&self, dir: &OwnedFd, id: usize, item: &Item, path: &[u8]) -> Result<bool> {
        let (left, right) = (&self.left.node(id).stat, &item.stat);
        let ids = |stat: &Stat| (stat.st_uid, stat.st_gid);
        let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec as i64);
        let kind = FileType::from_raw_mode(right.st_mode);
        let alike = left.st_mode == right.st_mode
            && (self.diff.options.owner == Owner::User || ids(left) == ids(right))
            && time(left) == time(right);
        // All names of a file go into the layer, or none: they would be several files.
        let single = kind == FileType::Directory || (left.st_nlink == 1 && right.st_nlink == 1);
        if !alike || !single {
            return Ok(false);
        }
        match kind {
            FileType::Symlink => {
                let target =
                    rfs::readlinkat(dir, &*item.name, Vec::new()).map_err(at("readlink", shown(path)))?;
                Ok(target.to_bytes() == self.left.link(id, path)?)
            }
            FileType::RegularFile if left.st_size != right.st_size => Ok(false),
            FileType::RegularFile | FileType::Directory => self.same_inside(dir, id, item, path),
            _ => Ok(left.st_rdev == right.st_rdev),
        }
    }

    fn same_inside(&self, dir: &OwnedFd, id: usize, item: &Item, path: &[u8]) -> Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let right = match rfs::openat(dir, &*item.name, flags, Mode::empty()) {
            Ok(right) => right,
            // Closed to its owner, or gone by now: whoever writes the entry sees to that.
            Err(Errno::ACCESS | Errno::NOENT) => return Ok(false),
            Err(e) => return Err(at("open", shown(path))(e)),
        };
        let left = self.left.open_node(id, path)?;
        let shown = shown(path);
        if xattrs(&left, &shown)?.kept != xattrs(&right, &shown)?.kept {
            return Ok(false);
        }
        let is_dir = FileType::from_raw_mode(item.stat.st_mode) == FileType::Directory;
        Ok(is_dir || same_content(&left, &right).map_err(at("read", shown))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever set the clock back while the copy was made, and changed it later at a moment in between.
    #[test]
    fn only_the_very_moment_of_making_is_believed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stat = rfs::fstat(&file).unwrap();
        let (mut earlier, mut later, mut other) = (stat, stat, stat);
        earlier.st_ctime -= 1;
        later.st_ctime += 1;
        other.st_ino += 1;
        let mut made = Made::default();
        made.note(&stat);
        let (mut first, mut last) = (earlier, later);
        (first.st_ino, last.st_ino) = (stat.st_ino + 2, stat.st_ino + 3);
        made.note(&first);
        made.note(&last);
        assert_eq!(made.last(), changed(&last));
        assert_eq!(Made::from_bytes(&made.to_bytes()), made);
        assert!(made.untouched(&stat) && made.untouched(&first));
        assert!(![earlier, later, other].iter().any(|stat| made.untouched(stat)));
        assert_eq!(Made::from_bytes(&made.to_bytes()[..2 * NOTE + 7]).0.len(), 2);
    }
}
