//! `export` and `cp`: trees in and out of a container as tar streams. Every path is resolved by the kernel inside the container's root, every
//! last component is never followed, and nothing of the container is run.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::inside::root_of;
use super::record::{Record, StoredMount};
use super::rootview::RootView;
use super::{Containers, Error, Result, RootfsSource, parse};

mod host;
mod pack;
mod unpack;

pub use host::CopyOptions;
pub(super) use host::through;
use unpack::Rules;

impl Containers {
    /// Writes its root file system, without its volumes, as a tar.
    pub fn export(&self, key: &str, out: &mut dyn Write) -> Result<()> {
        self.unless_cancelled(|cancel| self.export_watched(key, &mut Watched { stream: out, cancel }))
    }

    fn export_watched(&self, key: &str, out: &mut dyn Write) -> Result<()> {
        let id = self.id(key)?;
        let (view, _) = self.view(&id, "/")?;
        let layers = view.directories("/").map_err(Error::io("open", "/"))?;
        pack::tree(&layers, Path::new(""), false, out).map_err(Error::io("export", &id))
    }

    /// Writes `path` of the container as a tar (`docker cp web:/path -`): entries are named from the path's last component on; those of a path
    /// that ends in `/.` without it. Links are followed inside the container's root only, and the last one not at all.
    pub fn copy_out(&self, key: &str, path: &str, out: &mut dyn Write) -> Result<()> {
        self.unless_cancelled(|_| self.pack(key, path, None, out))
    }

    /// As [`Self::copy_out`], the entry under another name.
    fn pack(&self, key: &str, path: &str, shown: Option<&OsStr>, out: &mut dyn Write) -> Result<()> {
        let out = &mut Watched { stream: out, cancel: &self.0.options.cancel };
        let id = self.id(key)?;
        let whole = parse::clean(Path::new(path));
        let missing = || Error::Invalid(format!("Could not find the file {path} in container {key}"));
        let fail = Error::io("copy", path);
        if path.ends_with("/.") || whole == "/" {
            let (view, inner) = self.view(&id, &whole)?;
            let layers = view.directories(&inner).map_err(Error::io("open", path))?;
            if layers.is_empty() {
                return Err(missing());
            }
            return pack::tree(&layers, Path::new(shown.unwrap_or_default()), true, out).map_err(fail);
        }
        let name = Path::new(&whole).file_name().unwrap_or_default();
        let shown = Path::new(shown.unwrap_or(name));
        // A volume is looked at from its own root: the name that it has in the container stands before what is in it.
        let (view, inner) = self.view(&id, &whole)?;
        if inner == "/" {
            let top = view.directories("/").map_err(Error::io("open", path))?;
            return pack::tree(&top, shown, true, out).map_err(fail);
        }
        let parent = Path::new(&inner).parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        let parents = view.directories(&parent).map_err(Error::io("open", path))?;
        if pack::one(&parents, name, shown, out).map_err(fail)? { Ok(()) } else { Err(missing()) }
    }

    /// Unpacks a tar into the directory `path` of the container (`docker cp - web:/path`).
    pub fn copy_in(&self, key: &str, path: &str, tar: &mut dyn Read) -> Result<()> {
        self.unless_cancelled(|_| self.unpack(key, path, Rules::Container { owner: None }, tar))
    }

    fn unpack(&self, key: &str, path: &str, rules: Rules, tar: &mut dyn Read) -> Result<()> {
        let id = self.id(key)?;
        let whole = parse::clean(Path::new(path));
        let (record, state) = self.load(&id)?;
        if record.host.readonly_rootfs && mount_of(&record, &whole).is_none() {
            return Err(Error::Conflict("container rootfs is marked read-only".into()));
        }
        if mount_of(&record, &whole).is_some_and(|m| !m.shown.rw) {
            return Err(Error::Conflict("mounted volume is marked read-only".into()));
        }
        let (view, inner) = self.view(&id, &whole)?;
        let Some(root) = view.only() else {
            let hint = if state.shown.running { "" } else { ": start it first" };
            return Err(Error::Conflict(format!(
                "an ordinary user cannot copy into a container that does not run{hint}"
            )));
        };
        let tar = &mut Watched { stream: tar, cancel: &self.0.options.cancel };
        unpack::into(root, Path::new(&inner), rules, tar).map_err(Error::io("copy into", path))
    }

    /// Of an error after the flag was raised it is the cause.
    pub(super) fn unless_cancelled<T>(&self, work: impl FnOnce(&AtomicBool) -> Result<T>) -> Result<T> {
        let cancel = &self.0.options.cancel;
        work(cancel).map_err(|e| if cancel.load(Ordering::Relaxed) { Error::Cancelled } else { e })
    }

    /// What `path` is to be looked up in, and as what: the root of a running container as it sees it; of another one its root file system, or
    /// the volume that would be mounted there.
    fn view(&self, id: &str, path: &str) -> Result<(RootView, String)> {
        let (record, state) = self.load(id)?;
        if state.shown.running {
            return Ok((root_of(&self.0.runtime.open(id)?)?, path.to_owned()));
        }
        let source = match mount_of(&record, path) {
            Some(mount) => RootfsSource::Path(mount.shown.source.clone().into()),
            None => self
                .0
                .images
                .rootfs(id, &record.image_id)
                .map_err(|source| Error::Images { doing: "open the root file system", source })?,
        };
        let inner = mount_of(&record, path).map_or(path, |m| &path[m.shown.destination.len()..]);
        Ok((RootView::new(&source)?, if inner.is_empty() { "/".into() } else { inner.to_owned() }))
    }
}

/// A stream that breaks when the flag is raised.
pub(super) struct Watched<'a, T: ?Sized> {
    pub(super) stream: &'a mut T,
    pub(super) cancel: &'a AtomicBool,
}

impl<T: ?Sized> Watched<'_, T> {
    fn check(&self) -> io::Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(io::Error::other("cancelled")) } else { Ok(()) }
    }
}

impl<T: Write + ?Sized> Write for Watched<'_, T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<T: Read + ?Sized> Read for Watched<'_, T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.stream.read(bytes)
    }
}

/// The innermost volume or bind mount that holds a path. Links in the path before it do not count: for one that leads into a mount of a
/// stopped container, the root file system's own content is found.
fn mount_of<'a>(record: &'a Record, path: &str) -> Option<&'a StoredMount> {
    let holds =
        |m: &&StoredMount| m.shown.kind != "tmpfs" && Path::new(path).starts_with(&m.shown.destination);
    record.mounts.iter().filter(holds).max_by_key(|m| m.shown.destination.len())
}
