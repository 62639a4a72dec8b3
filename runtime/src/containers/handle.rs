use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dir::Dir;
use super::record::{Record, State};
use super::{Error, Images, Networks, OpenOptions, Result, Volumes};
use crate::Running;
use crate::Runtime;

/// All supervised containers under one directory. Cheap to clone; many processes may share the directory.
///
/// Where a method takes a `key`, it is an ID, a unique beginning of one, or a name.
#[derive(Clone)]
pub struct Containers(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) dir: Dir,
    pub(super) base: PathBuf,
    pub(super) volumes: PathBuf,
    pub(super) runtime: Runtime,
    pub(super) images: Arc<dyn Images>,
    pub(super) networks: Arc<dyn Networks>,
    pub(super) options: OpenOptions,
}

impl std::fmt::Debug for Containers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Containers").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

impl Containers {
    /// Opens (and makes) `dir`/containers and `dir`/volumes.
    pub fn open(
        dir: &Path,
        runtime: Runtime,
        images: Arc<dyn Images>,
        networks: Arc<dyn Networks>,
        options: OpenOptions,
    ) -> Result<Self> {
        let base = std::path::absolute(dir).map_err(Error::io("find", dir))?;
        let volumes = options.volumes.clone().unwrap_or_else(|| base.join("volumes"));
        super::dir::private_dir(&volumes).map_err(Error::io("create", &volumes))?;
        let dir = Dir::open(base.join("containers"))?;
        // What cannot be removed now is no reason to do nothing else; the next to open tries again.
        let _ = runtime.gc();
        Ok(Self(Arc::new(Inner { dir, base, volumes, runtime, images, networks, options })))
    }

    /// The volumes.
    pub fn volumes(&self) -> Volumes {
        Volumes(self.clone())
    }

    /// IDs of the images that containers stand on, with the containers' IDs: who removes images wants to know.
    pub fn images_in_use(&self) -> Result<Vec<(String, String)>> {
        Ok(self.records()?.into_iter().map(|(record, _)| (record.image_id, record.id)).collect())
    }

    pub(super) fn id(&self, key: &str) -> Result<String> {
        self.0.dir.resolve(key)
    }

    /// Record and state, mended first if a shim died over them.
    pub(super) fn load(&self, id: &str) -> Result<(Record, State)> {
        let record = self.0.dir.record(id)?;
        let state = self.0.state(id)?;
        if !(state.is_live() || state.dirty) {
            return Ok((record, state));
        }
        match self.repair(&record) {
            Ok(false) => Ok((record, state)),
            // It may have removed itself.
            Ok(true) => Ok((self.0.dir.record(id)?, self.0.state(id)?)),
            Err(error) => match self.0.state(id)? {
                // How it ended is known; what could not be taken down, the next who looks tries again.
                ended if !ended.is_live() => Ok((record, ended)),
                _ => Err(error),
            },
        }
    }

    /// All of them. One that another process removes meanwhile is left out, and so is one whose record cannot be read; one that cannot be
    /// mended is shown as it is.
    pub(super) fn records(&self) -> Result<Vec<(Record, State)>> {
        let as_it_is = |id: &String| -> Result<_> { Ok((self.0.dir.record(id)?, self.0.state(id)?)) };
        let load = |id: &String| self.load(id).or_else(|_| as_it_is(id)).ok();
        Ok(self.0.dir.ids()?.iter().filter_map(load).collect())
    }

    /// Puts right what a killed shim left: its processes, cgroups, network, its claim to be running. False: there was nothing to do, or someone
    /// else is at it.
    fn repair(&self, record: &Record) -> Result<bool> {
        let (inner, id) = (&self.0, &record.id);
        let (Ok(Some(_op)), Ok(Some(_alive))) = (inner.dir.try_op(id), inner.dir.try_alive(id)) else {
            return Ok(false);
        };
        self.mend(record)?;
        Ok(true)
    }

    /// The work of [`Self::repair`], by who holds both locks.
    pub(super) fn mend(&self, record: &Record) -> Result<State> {
        let (inner, id) = (&self.0, &record.id);
        let mut state = inner.state(id)?;
        if !(state.is_live() || state.dirty) {
            return Ok(state);
        }
        inner.end_processes(record)?;
        super::log::repair(&inner.dir.file(id, &super::log::file_name(id)));
        super::socket::remove(&inner.dir.path(id));
        if state.is_live() {
            // It has ended, whatever becomes of its network.
            state.set_ended("exited", 137, false, "its supervisor was killed, and it with it".into());
            state.dirty = true;
            inner.dir.write_last_state(id, &state, true)?;
        }
        inner.detach(record)?;
        state.dirty = false;
        inner.dir.write_last_state(id, &state, true)?;
        if record.host.auto_remove {
            inner.remove_now(record, true)?;
        }
        Ok(state)
    }
}

impl Inner {
    /// The state. One that power failure has torn says nothing but that the container is there.
    pub(super) fn state(&self, id: &str) -> Result<State> {
        match self.dir.state(id) {
            Err(Error::Record { .. }) => Ok(State { dirty: true, ..State::created() }),
            other => other,
        }
    }

    /// Kills and removes everything of a container that is not on disk in its own directory.
    /// `ended` is what its supervisor still has of it.
    pub(super) fn clean_up(&self, record: &Record, ended: Option<Running>) -> Result<()> {
        // Either waits for the kernel more than it works.
        std::thread::scope(|scope| {
            let detach = || self.detach(record);
            let beside = std::thread::Builder::new();
            let beside = record.has_networks().then(|| beside.spawn_scoped(scope, detach));
            drop(ended);
            let ended = self.end_processes(record);
            let detached = match beside {
                Some(Ok(thread)) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // There are no more threads to be had.
                _ => detach(),
            };
            ended.and(detached)
        })
    }

    fn end_processes(&self, record: &Record) -> Result<()> {
        match self.runtime.open(&record.id).and_then(|container| container.delete(true)) {
            Ok(()) => {}
            Err(e) if e.is_not_found() => {
                super::leftovers::remove(&self.runtime, &record.id, &super::compile::cgroups_path(record))?;
            }
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    fn detach(&self, record: &Record) -> Result<()> {
        if record.has_networks() {
            self.networks
                .detach(&record.id)
                .map_err(|source| Error::Networks { doing: "take down", source })?;
        }
        Ok(())
    }

    /// Removes writable layer, anonymous volumes and record of one that does not run.
    pub(super) fn remove_now(&self, record: &Record, volumes: bool) -> Result<()> {
        self.images
            .remove_rootfs(&record.id)
            .map_err(|source| Error::Images { doing: "remove the root file system", source })?;
        self.dir.unpublish(&record.id, Some(&record.name))?;
        if volumes {
            // The container is gone, whatever becomes of them; `volume prune` tries again.
            let _ = self.remove_anonymous(record);
        }
        self.emit("destroy", record, &[]);
        Ok(())
    }
}
