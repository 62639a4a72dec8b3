//! Named volumes: directories that outlive containers.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::handle::Inner;
use super::parse::{self, Bind, volume_name};
use super::record::{Record, StoredMount, now};
use super::rootview::{RootView, resolve};
use super::{Containers, Error, Filters, Map, Mount, MountPoint, PruneOutcome, Result, dir};

/// The volumes beside the containers.
#[derive(Clone, Debug)]
pub struct Volumes(pub(super) Containers);

/// A volume as `docker volume inspect` writes it.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    /// RFC 3339.
    pub created_at: String,
    /// `local`.
    pub driver: String,
    /// Labels.
    pub labels: Map,
    /// Host path of its content.
    pub mountpoint: String,
    /// Name.
    pub name: String,
    /// Options.
    pub options: Map,
    /// `local`.
    pub scope: String,
}

/// `volume.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Stored {
    created_at: String,
    labels: Map,
    anonymous: bool,
}

/// How names of removed volumes begin; no volume's own name does.
const OLD: &str = ".old-";

/// The label by which Docker marks anonymous volumes.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

impl Volumes {
    /// Makes a volume, or gives the one that is there. An empty name makes an anonymous one.
    pub fn create(&self, name: &str, labels: &Map) -> Result<Volume> {
        let inner = &self.0.0;
        let _kept = inner.keep_volumes()?;
        if name.is_empty() {
            return inner.make_volume(&dir::new_id()?, labels, true);
        }
        volume_name(name)?;
        let fresh = !inner.volume_dir(name).join("volume.json").exists();
        let volume = inner.make_volume(name, labels, false)?;
        if fresh {
            inner.emit_volume("create", name);
        }
        Ok(volume)
    }
    /// One by name.
    pub fn inspect(&self, name: &str) -> Result<Volume> {
        volume_name(name).map_err(|_| Error::VolumeNotFound(name.into()))?;
        self.0.0.volume(name)
    }
    /// Those that match (`name`, `label`, `dangling`, `driver`), by name.
    pub fn list(&self, filters: &Filters) -> Result<Vec<Volume>> {
        filters.only(&["name", "label", "dangling", "driver"])?;
        let inner = &self.0.0;
        let entries = fs::read_dir(&inner.volumes).map_err(Error::io("read", &inner.volumes))?;
        let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
        let names = names.filter(|name| volume_name(name).is_ok());
        let mut list: Vec<Volume> = names.filter_map(|name| inner.volume(&name).ok()).collect();
        let dangling = filters.boolean("dangling")?;
        let used = if dangling.is_some() { inner.volumes_in_use()? } else { Vec::new() };
        list.retain(|v| {
            let any = |key: &str, test: &dyn Fn(&str) -> bool| {
                filters.values(key).count() == 0 || filters.values(key).any(test)
            };
            any("name", &|n| v.name.contains(n))
                && any("driver", &|d| d == v.driver)
                && filters.values("label").all(|l| has_label(&v.labels, l))
                && dangling.is_none_or(|idle| idle != used.iter().any(|(name, _)| *name == v.name))
        });
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }
    /// Removes one that no container uses; with `force` a missing one is no error.
    pub fn remove(&self, name: &str, force: bool) -> Result<()> {
        let inner = &self.0.0;
        let mut doomed = inner.doom_volumes()?;
        match self.inspect(name) {
            Err(e) if force && e.is_not_found() => return Ok(()),
            other => other?,
        };
        let users: Vec<&str> =
            doomed.used.iter().filter(|(n, _)| n == name).map(|(_, id)| id.as_str()).collect();
        if !users.is_empty() {
            return Err(Error::Conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        doomed.take(name)?;
        doomed.remove()
    }
    /// Removes those that no container uses: anonymous ones, with `all` named ones too.
    pub fn prune(&self, all: bool, filters: &Filters) -> Result<PruneOutcome> {
        filters.only(&["label", "label!", "all"])?;
        let mut doomed = self.0.0.doom_volumes()?;
        let mut outcome = PruneOutcome::default();
        for volume in self.list(&Filters::new())? {
            let wanted = (all || volume.labels.contains_key(ANONYMOUS))
                && filters.values("label").all(|l| has_label(&volume.labels, l))
                && filters.values("label!").all(|l| !has_label(&volume.labels, l));
            if !wanted || doomed.is_used(&volume.name) {
                continue;
            }
            let bytes = tree_size(Path::new(&volume.mountpoint));
            if doomed.take(&volume.name).is_ok() {
                outcome.bytes += bytes;
                outcome.removed.push(volume.name);
            }
        }
        doomed.remove()?;
        Ok(outcome)
    }
    /// Bytes of the files in a volume; of what this user may not read, nothing.
    ///
    /// # Errors
    /// [`Error::VolumeNotFound`]
    pub fn size(&self, name: &str) -> Result<u64> {
        Ok(tree_size(Path::new(&self.inspect(name)?.mountpoint)))
    }
    /// How many containers, running or not, have the volume.
    ///
    /// # Errors
    /// [`Error::Record`] where it cannot be known.
    pub fn users(&self, name: &str) -> Result<usize> {
        Ok(self.0.0.volumes_in_use()?.iter().filter(|(volume, _)| volume == name).count())
    }
    /// Where the volumes are.
    pub fn dir(&self) -> &Path {
        &self.0.0.volumes
    }
}

pub(super) fn has_label(labels: &Map, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
        None => labels.contains_key(wanted),
    }
}

/// Bytes of all files below; of several hard links, one. A container may change it meanwhile: what is gone is not counted, and no link leads
/// out of it.
fn tree_size(root: &Path) -> u64 {
    const DIRECTORY: OFlags =
        OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    let Ok(root) = rustix::fs::open(root, DIRECTORY, Mode::empty()) else { return 0 };
    let (mut bytes, mut seen, mut todo) = (0, HashSet::new(), vec![PathBuf::from(".")]);
    while let Some(path) = todo.pop() {
        let Ok(directory) = resolve(root.as_fd(), &path, DIRECTORY) else { continue };
        let entries = Dir::read_from(&directory).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b"..")) {
            let stat = rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
            let Ok(stat) = stat else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                todo.push(path.join(OsStr::from_bytes(entry.file_name().to_bytes())));
            } else if stat.st_nlink == 1 || seen.insert((stat.st_dev, stat.st_ino)) {
                bytes += stat.st_size as u64;
            }
        }
    }
    bytes
}

impl Inner {
    fn volume_dir(&self, name: &str) -> PathBuf {
        self.volumes.join(name)
    }

    fn volume(&self, name: &str) -> Result<Volume> {
        let dir = self.volume_dir(name);
        let path = dir.join("volume.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::VolumeNotFound(name.into()));
            }
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        let stored: Stored =
            serde_json::from_slice(&text).map_err(|e| Error::Record { path, source: Box::new(e) })?;
        let mut labels = stored.labels;
        if stored.anonymous {
            labels.insert(ANONYMOUS.into(), String::new());
        }
        Ok(Volume {
            created_at: stored.created_at,
            driver: "local".into(),
            labels,
            mountpoint: dir.join("_data").to_string_lossy().into_owned(),
            name: name.into(),
            options: Map::new(),
            scope: "local".into(),
        })
    }

    /// Makes it if it is not there. `volume.json` comes last: a volume without one is not yet, or no longer, a volume.
    fn make_volume(&self, name: &str, labels: &Map, anonymous: bool) -> Result<Volume> {
        match self.volume(name) {
            Err(e) if e.is_not_found() => {}
            other => return other,
        }
        let dir = self.volume_dir(name);
        // The directory's own mode admits the container's users; the volumes' directory above admits its owner alone.
        let data = dir.join("_data");
        fs::create_dir_all(&data).map_err(Error::io("create", &data))?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&data, open).map_err(Error::io("create", &data))?;
        let stored = Stored { created_at: now(), labels: labels.clone(), anonymous };
        let path = dir.join("volume.json");
        let text = serde_json::to_vec(&stored)
            .map_err(|e| Error::Record { path: path.clone(), source: Box::new(e) })?;
        dir::write(&path, &text, true)?;
        self.volume(name)
    }

    /// While this is held no volume is removed: from the moment in which one is found or made until the record that names it is there.
    pub(super) fn keep_volumes(&self) -> Result<dir::Lock> {
        dir::lock_dir(&self.volumes, false)
    }

    /// While this is held nobody makes a volume, and no container comes to use one.
    pub(super) fn doom_volumes(&self) -> Result<Doomed<'_>> {
        let lock = dir::lock_dir(&self.volumes, true)?;
        Ok(Doomed { inner: self, used: self.volumes_in_use()?, lock: Some(lock) })
    }

    /// Takes a fresh volume away again that no record names, by who holds [`Self::keep_volumes`].
    pub(super) fn unmake_volume(&self, name: &str) {
        if volume_name(name).is_ok() {
            let _ = fs::remove_dir_all(self.volume_dir(name));
        }
    }

    /// Removes those anonymous volumes of a removed container that no other one uses.
    pub(super) fn remove_anonymous(&self, record: &Record) -> Result<()> {
        if !record.mounts.iter().any(|m| m.anonymous) {
            return Ok(());
        }
        let mut doomed = self.doom_volumes()?;
        for mount in record.mounts.iter().filter(|m| m.anonymous) {
            if !doomed.is_used(&mount.shown.name) {
                doomed.take(&mount.shown.name)?;
            }
        }
        doomed.remove()
    }

    /// Volume names with the IDs of the containers that use them. A record that cannot be read stops it: better no removal than a wrong one.
    fn volumes_in_use(&self) -> Result<Vec<(String, String)>> {
        let mut used = Vec::new();
        for id in self.dir.ids()? {
            let record = match self.dir.record(&id) {
                Err(e) if e.is_not_found() => continue,
                other => other?,
            };
            used.extend(
                record
                    .mounts
                    .into_iter()
                    .filter(|m| m.shown.kind == "volume")
                    .map(|m| (m.shown.name, id.clone())),
            );
        }
        Ok(used)
    }
}

/// Volumes on their way out.
pub(super) struct Doomed<'a> {
    inner: &'a Inner,
    used: Vec<(String, String)>,
    lock: Option<dir::Lock>,
}

impl Doomed<'_> {
    fn is_used(&self, name: &str) -> bool {
        self.used.iter().any(|(used, _)| used == name)
    }

    /// It is no volume any more at once; its content goes later.
    fn take(&mut self, name: &str) -> Result<()> {
        volume_name(name)?;
        let (dir, inner) = (self.inner.volume_dir(name), self.inner);
        // A name of its own: what an earlier removal left half-done does not stand in the way.
        let unique: String = dir::random::<8>()?.iter().map(|b| format!("{b:02x}")).collect();
        match fs::rename(&dir, inner.volumes.join(format!("{OLD}{name}.{unique}"))) {
            Ok(()) => inner.emit_volume("destroy", name),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("remove", &dir)(e)),
        }
        Ok(())
    }

    /// Removes the content of what was taken, and what killed removals left, without keeping others from their volumes meanwhile.
    fn remove(mut self) -> Result<()> {
        self.lock = None;
        let volumes = &self.inner.volumes;
        let mut result = Ok(());
        for entry in fs::read_dir(volumes).map_err(Error::io("read", volumes))?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(OLD.as_bytes()) {
                match fs::remove_dir_all(entry.path()) {
                    // Another one removes it, too.
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        result = Err(Error::io("remove", entry.path())(e));
                    }
                    _ => {}
                }
            }
        }
        result
    }
}

impl Containers {
    pub(super) fn bind(&self, bind: &Bind) -> Result<StoredMount> {
        let propagation = bind.propagation.clone();
        if !bind.source.starts_with('/') {
            let mut mount = self.named(&bind.source, &bind.target, &Map::new(), !bind.no_copy)?;
            (mount.shown.rw, mount.shown.mode) = (!bind.read_only, bind.mode.clone());
            return Ok(mount);
        }
        let source = parse::clean(Path::new(&bind.source));
        // As with Docker's -v, a missing source becomes a directory.
        fs::create_dir_all(&source)
            .or_else(|e| if Path::new(&source).exists() { Ok(()) } else { Err(e) })
            .map_err(Error::io("create the bind mount's source", &source))?;
        Ok(host_path(
            source,
            &bind.target,
            !bind.read_only,
            &bind.mode,
            if propagation.is_empty() { "rprivate".into() } else { propagation },
        ))
    }

    pub(super) fn mount(&self, mount: &Mount) -> Result<StoredMount> {
        let mut stored = match mount.kind.as_str() {
            "bind" => {
                let options = mount.bind_options.clone().unwrap_or_default();
                let source = parse::clean(Path::new(&mount.source));
                if !Path::new(&source).exists() {
                    if !options.create_mountpoint {
                        return Err(Error::invalid(format!(
                            "invalid mount config for type \"bind\": bind source path does not exist: {source}"
                        )));
                    }
                    fs::create_dir_all(&source).map_err(Error::io("create", &source))?;
                }
                let propagation =
                    if options.propagation.is_empty() { "rprivate".into() } else { options.propagation };
                let mut stored = host_path(source, &mount.target, true, "", propagation);
                stored.non_recursive = options.non_recursive;
                stored
            }
            "tmpfs" => {
                let options = mount.tmpfs_options.clone().unwrap_or_default();
                let mut data = Vec::new();
                if options.size_bytes > 0 {
                    data.push(format!("size={}", options.size_bytes));
                }
                if options.mode > 0 {
                    data.push(format!("mode={:o}", options.mode));
                }
                let shown = MountPoint {
                    kind: "tmpfs".into(),
                    destination: mount.target.clone(),
                    ..MountPoint::default()
                };
                StoredMount { shown, data: data.join(","), ..StoredMount::default() }
            }
            _ => {
                let options = mount.volume_options.clone().unwrap_or_default();
                let mut stored = if mount.source.is_empty() {
                    self.anonymous(&mount.target, !options.no_copy)?
                } else {
                    self.named(&mount.source, &mount.target, &options.labels, !options.no_copy)?
                };
                stored.subpath = options.subpath;
                stored
            }
        };
        stored.shown.rw = !mount.read_only;
        Ok(stored)
    }

    pub(super) fn anonymous(&self, target: &str, copy_up: bool) -> Result<StoredMount> {
        let volume = self.0.make_volume(&dir::new_id()?, &Map::new(), true)?;
        Ok(StoredMount { anonymous: true, ..stored(&volume, target, copy_up) })
    }

    fn named(&self, name: &str, target: &str, labels: &Map, copy_up: bool) -> Result<StoredMount> {
        volume_name(name)?;
        Ok(stored(&self.0.make_volume(name, labels, false)?, target, copy_up))
    }

    /// Before a start: volumes that were removed meanwhile are made again, fresh ones take over what the image has at their place, and a
    /// subpath is looked up inside.
    pub(super) fn prepare_volumes(&self, record: &mut Record, view: &RootView) -> Result<()> {
        for mount in record.mounts.iter_mut().filter(|m| m.shown.kind == "volume") {
            let volume = self.0.make_volume(&mount.shown.name, &Map::new(), mount.anonymous)?;
            if mount.copy_up && mount.subpath.is_empty() {
                super::copyup::copy_up(view, &mount.shown.destination, Path::new(&volume.mountpoint))?;
            }
            if !mount.subpath.is_empty() {
                let root = rustix::fs::open(
                    &volume.mountpoint,
                    rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                );
                let root = root.map_err(|e| Error::io("open", &volume.mountpoint)(e.into()))?;
                let inside = RootView::of(root)
                    .open(&mount.subpath, rustix::fs::OFlags::PATH)
                    .map_err(Error::io("open", &mount.subpath))?;
                // Said early and well; the engine looks it up again, safely, when it mounts.
                if inside.is_none() {
                    return Err(Error::invalid(format!(
                        "cannot access path {}/{}: no such file or directory",
                        volume.mountpoint, mount.subpath
                    )));
                }
            }
        }
        Ok(())
    }
}

fn host_path(source: String, target: &str, rw: bool, mode: &str, propagation: String) -> StoredMount {
    let shown = MountPoint {
        kind: "bind".into(),
        source,
        destination: target.into(),
        mode: mode.into(),
        rw,
        propagation,
        ..MountPoint::default()
    };
    StoredMount { shown, ..StoredMount::default() }
}

fn stored(volume: &Volume, target: &str, copy_up: bool) -> StoredMount {
    let shown = MountPoint {
        kind: "volume".into(),
        name: volume.name.clone(),
        source: volume.mountpoint.clone(),
        destination: target.into(),
        driver: "local".into(),
        mode: "z".into(),
        rw: true,
        ..MountPoint::default()
    };
    StoredMount { shown, copy_up, ..StoredMount::default() }
}
