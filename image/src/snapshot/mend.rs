//! Directories that a layer only implies.
//!
//! A layer that holds `srv/www/index.html` but no entry `srv/` says nothing about who may enter `srv`. Overlay takes the
//! topmost directory's owner and mode all the same. So where a layer below does speak about the directory, a copy of what
//! it says is put on top of all layers.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::Result;
use crate::diff::walk::{Attributes, open_below, open_dir, xattrs};
use crate::error::at;
use crate::layer::{Owner, RootMeta};

/// A layer, opened, and the directories that it only implies.
pub(super) struct Opened {
    pub(super) root: OwnedFd,
    pub(super) implied: HashSet<String>,
    /// What it says of the root directory.
    pub(super) says: Option<RootMeta>,
}

/// What the layers together say of a directory.
struct Said {
    stat: Stat,
    kept: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether a layer above only implies it.
    shadowed: bool,
}

enum Found {
    /// No such name; what lies below may have it.
    Nothing,
    /// Nothing that lies below shows through.
    Hidden,
    Dir {
        stat: Stat,
        attributes: Attributes,
        hides: bool,
    },
}

/// Puts the directories into `to`, which is made when there are any; `layers` top first.
pub(super) fn mend(to: &Path, layers: &[Opened], root: RootMeta, owner: Owner) -> Result<bool> {
    let mut wanted: BTreeMap<PathBuf, Said> = BTreeMap::new();
    let implied: HashSet<&String> = layers.iter().flat_map(|layer| &layer.implied).collect();
    for path in implied {
        match said(layers, path)? {
            Some(said) if said.shadowed => wanted.insert(path.into(), said),
            _ => continue,
        };
        for above in Path::new(path).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            if !wanted.contains_key(above)
                && let Some(said) = said(layers, &above.to_string_lossy())?
            {
                wanted.insert(above.to_owned(), said);
            }
        }
    }
    let plain = RootMeta { mode: 0o755, uid: 0, gid: 0 };
    if wanted.is_empty() && (root == plain || layers.first().is_some_and(|top| top.says.is_some())) {
        return Ok(false);
    }
    std::fs::create_dir(to).map_err(at("create", to))?;
    for path in wanted.keys() {
        std::fs::create_dir(to.join(path)).map_err(at("create", to.join(path)))?;
    }
    // Children first: making something in a directory changes its time.
    for (path, said) in wanted.iter().rev() {
        let path = to.join(path);
        describe(&path, said, owner).map_err(at("describe", path))?;
    }
    let dir = open_dir(to)?;
    let speaks = layers.iter().find(|layer| layer.says.is_some()).or(layers.first());
    let finish = || {
        own(&dir, root.uid, root.gid, root.mode.into(), owner)?;
        speaks.map_or(Ok(()), |layer| keep_time(&dir, &rfs::fstat(&layer.root)?))
    };
    finish().map_err(at("describe", to))?;
    Ok(true)
}

fn describe(path: &Path, said: &Said, owner: Owner) -> rustix::io::Result<()> {
    let dir = rfs::open(path, rfs::OFlags::DIRECTORY | rfs::OFlags::CLOEXEC, Mode::empty())?;
    dress(&dir, &said.stat, &said.kept, owner)
}

/// Gives a file owner, mode, attributes and time, in the one order in which none undoes another (chown clears setuid and capabilities).
pub(super) fn dress(
    file: impl AsFd,
    stat: &Stat,
    kept: &[(Vec<u8>, Vec<u8>)],
    owner: Owner,
) -> rustix::io::Result<()> {
    own(&file, stat.st_uid, stat.st_gid, stat.st_mode & 0o7777, owner)?;
    for (name, value) in kept {
        match rfs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    keep_time(file, stat)
}

fn keep_time(file: impl AsFd, stat: &Stat) -> rustix::io::Result<()> {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 };
    rfs::futimens(file, &Timestamps { last_access: time, last_modification: time })
}

fn own(file: impl AsFd, uid: u32, gid: u32, mode: u32, owner: Owner) -> rustix::io::Result<()> {
    if owner.keeps_ids() {
        rfs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    rfs::fchmod(file, Mode::from_raw_mode(mode))
}

/// The topmost word on a directory; where the layers only imply it, what that is; `None` where they do not have it.
fn said(layers: &[Opened], path: &str) -> Result<Option<Said>> {
    let mut implied = None;
    for layer in layers {
        match look(layer, path)? {
            Found::Nothing => {}
            Found::Hidden => break,
            Found::Dir { stat, attributes, .. } if !layer.implied.contains(path) => {
                let shadowed = implied.is_some();
                return Ok(Some(Said { stat, kept: attributes.kept, shadowed }));
            }
            Found::Dir { stat, hides, .. } => {
                implied.get_or_insert(Said { stat, kept: Vec::new(), shadowed: false });
                if hides {
                    break;
                }
            }
        }
    }
    Ok(implied)
}

fn look(layer: &Opened, path: &str) -> Result<Found> {
    let shown = Path::new(path);
    let mut dir = layer.root.try_clone().map_err(at("open", shown))?;
    let mut hides = xattrs(&dir, shown)?.opaque;
    let mut attributes = Attributes { kept: Vec::new(), opaque: false };
    for part in path.split('/') {
        let stat = match rfs::statat(&dir, part, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(if hides { Found::Hidden } else { Found::Nothing }),
            Err(e) => return Err(at("stat", shown)(e)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(Found::Hidden);
        }
        let Some(below) = open_below(&dir, part.as_bytes(), shown)? else { return Ok(Found::Hidden) };
        dir = below;
        attributes = xattrs(&dir, shown)?;
        hides |= attributes.opaque;
    }
    let stat = rfs::fstat(&dir).map_err(at("stat", shown))?;
    Ok(Found::Dir { stat, attributes, hides })
}
