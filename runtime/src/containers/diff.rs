//! `diff`: what a container changed against its image.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tar::Archive;

use super::record::Record;
use super::rootview::RootView;
use super::{Change, ChangeKind, Containers, Error, Result, RootfsSource, compile, copy, dir, files};

/// A directory's mode, user and group.
type Attributes = (u32, u64, u64);

impl Containers {
    /// Paths that were added, changed or deleted against the image, sorted; without what only stands there for something to be mounted on.
    /// Needs [`super::Images::diff`].
    pub fn diff(&self, key: &str) -> Result<Vec<Change>> {
        let id = self.id(key)?;
        let (record, _) = self.load(&id)?;
        let mut result = Ok(Vec::new());
        let mut compare = |source: &RootfsSource| result = self.compare(&record, source);
        let shown = self.0.images.look_at(&dir::new_id()?, &record.image_id, &mut compare);
        shown.map_err(|source| Error::Images { doing: "open the image", source })?;
        result
    }

    fn compare(&self, record: &Record, image: &RootfsSource) -> Result<Vec<Change>> {
        let view = RootView::new(image)?;
        let mut found = BTreeMap::new();
        copy::through(
            |out| {
                let doing = "compare the container with its image";
                self.0.images.diff(&record.id, out).map_err(|source| Error::Images { doing, source })
            },
            |tar| entries(tar, &view, &mut found).map_err(Error::io("read the changes of", &record.id)),
        )?;
        Ok(without_targets(found, record, &view))
    }

    /// Writes what it changed as an OCI layer tar, for an image made of it. Needs [`super::Images::diff`].
    pub fn diff_tar(&self, key: &str, out: &mut dyn Write) -> Result<()> {
        let id = self.id(key)?;
        self.0.images.diff(&id, out).map_err(|source| Error::Images { doing: "read the changes", source })
    }
}

struct Found {
    kind: ChangeKind,
    /// Of a directory.
    attributes: Option<Attributes>,
}

fn entries(
    tar: &mut dyn Read,
    image: &RootView,
    found: &mut BTreeMap<PathBuf, Found>,
) -> std::io::Result<()> {
    for entry in Archive::new(tar).entries()? {
        let entry = entry?;
        let path = Path::new("/").join(entry.path()?.components().collect::<PathBuf>());
        let Some(name) = path.file_name().and_then(|n| n.to_str().or(Some(""))) else { continue };
        if name == ".wh..wh..opq" {
            continue;
        }
        if let Some(gone) = name.strip_prefix(".wh.") {
            let path = path.with_file_name(gone);
            found.insert(path, Found { kind: ChangeKind::Deleted, attributes: None });
            continue;
        }
        let there = image.open(&path.to_string_lossy(), OFlags::PATH | OFlags::NOFOLLOW)?.is_some();
        let kind = if there { ChangeKind::Modified } else { ChangeKind::Added };
        let header = entry.header();
        let attributes = if header.entry_type().is_dir() {
            Some((header.mode()? & 0o7777, header.uid()?, header.gid()?))
        } else {
            None
        };
        found.insert(path, Found { kind, attributes });
    }
    Ok(())
}

/// Leaves out mount targets that are there for that alone, and the directories that were touched for them alone.
fn without_targets(mut found: BTreeMap<PathBuf, Found>, record: &Record, image: &RootView) -> Vec<Change> {
    let own = record.mounts.iter().map(|m| m.shown.destination.as_str());
    let targets = files::NAMES.iter().map(|(_, target)| *target).chain(["/proc", "/sys", "/dev"]).chain(own);
    for target in targets.chain(compile::wants_init(&record.host).then_some(compile::INIT_TARGET)) {
        let mut path = Path::new(target);
        if found.get(path).is_some_and(|f| f.kind == ChangeKind::Added) {
            found.remove(path);
        }
        while let Some(above) = path.parent().filter(|p| *p != Path::new("/")) {
            path = above;
            let is_below = |p: &Path| p != path && p.starts_with(path);
            let plain = found.get(path).is_some_and(|f| match (f.kind, f.attributes) {
                (ChangeKind::Added, Some(_)) => true,
                (ChangeKind::Modified, Some(now)) => attributes(image, path) == Some(now),
                _ => false,
            });
            if !plain || found.range(path.to_path_buf()..).nth(1).is_some_and(|(p, _)| is_below(p)) {
                break;
            }
            found.remove(path);
        }
    }
    found
        .into_iter()
        .map(|(path, f)| Change { kind: f.kind, path: path.to_string_lossy().into_owned() })
        .collect()
}

fn attributes(image: &RootView, path: &Path) -> Option<Attributes> {
    let fd = image.open(&path.to_string_lossy(), OFlags::PATH).ok()??;
    let stat = rustix::fs::fstat(fd).ok()?;
    Some((stat.st_mode & 0o7777, stat.st_uid.into(), stat.st_gid.into()))
}
