use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use longshore_build::local_name;
use longshore_image::{Ctx, Image, SharedLayers, Snapshot, SnapshotOptions, Store};
use longshore_registry_client::Reference;
use longshore_runtime::containers::{BoxError, HealthConfig, ImageInfo, Images, RootfsSource};

/// Finds an image as Docker does: by name as the user writes it, else by digest or by the start of its ID.
///
/// # Errors
/// [`longshore_image::Error::NoSuchImage`] with the user's own words.
pub fn find_image(store: &Store, name: &str) -> longshore_image::Result<Image> {
    if let Ok(reference) = name.parse::<Reference>() {
        match store.image(&local_name(&reference)) {
            Err(error) if error.is_not_found() => {}
            found => return found,
        }
    }
    store.image(name)
}

/// Containers' root file systems as snapshots of an image store.
#[derive(Clone, Debug)]
pub struct StoreImages {
    store: Store,
    rootless: bool,
    /// Of each container that this process has started, for others of the same images.
    layers: Arc<Mutex<HashMap<String, SharedLayers>>>,
}

impl StoreImages {
    /// Over this store. `rootless`: the container's own user namespace mounts the overlay.
    pub fn new(store: Store, rootless: bool) -> Self {
        Self { store, rootless, layers: Arc::default() }
    }

    fn snapshot(&self, container_id: &str, image_id: &str) -> Result<Snapshot, BoxError> {
        match self.store.open_snapshot(container_id) {
            Err(error) if error.is_not_found() => {
                Ok(self.store.snapshot(container_id, &self.store.image(image_id)?)?)
            }
            found => Ok(found?),
        }
    }

    fn source(&self, snapshot: &Snapshot) -> Result<(RootfsSource, SharedLayers), BoxError> {
        if !self.rootless {
            let mounted = snapshot.mount_shared()?;
            return Ok((RootfsSource::Detached(mounted.root), mounted.layers));
        }
        if let Some(copy) = snapshot.root() {
            return Ok((RootfsSource::Path(copy), SharedLayers::default()));
        }
        let dirs = snapshot.overlay().ok_or("the image's layers can only be mounted by root")?;
        let (Some(upper), Some(work)) = (dirs.upper, dirs.work) else {
            return Err("the snapshot is read-only".into());
        };
        Ok((RootfsSource::Overlay { lower: dirs.lower, upper, work }, SharedLayers::default()))
    }
}

impl Images for StoreImages {
    fn config(&self, image: &str) -> Result<Option<ImageInfo>, BoxError> {
        let image = match find_image(&self.store, image) {
            Err(error) if error.is_not_found() => return Ok(None),
            found => found?,
        };
        let config = image.config();
        Ok(Some(ImageInfo {
            id: image.id().to_string(),
            config: config.oci.clone(),
            healthcheck: config.docker.healthcheck.as_ref().map(|h| HealthConfig {
                test: h.test.clone(),
                interval: h.interval,
                timeout: h.timeout,
                start_period: h.start_period,
                start_interval: h.start_interval,
                retries: h.retries.into(),
            }),
        }))
    }

    fn keep(&self, container_id: &str, image_id: &str) -> Result<(), BoxError> {
        self.snapshot(container_id, image_id).map(drop)
    }

    fn rootfs(&self, container_id: &str, image_id: &str) -> Result<RootfsSource, BoxError> {
        let (source, layers) = self.source(&self.snapshot(container_id, image_id)?)?;
        let mut held = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        held.entry(container_id.to_owned()).or_default().extend(layers);
        Ok(source)
    }

    fn look_at(
        &self,
        key: &str,
        image_id: &str,
        look: &mut dyn FnMut(&RootfsSource),
    ) -> Result<(), BoxError> {
        // What was killed over this leaves its snapshot to us.
        self.store.sweep_snapshots()?;
        let image = self.store.image(image_id)?;
        let mut options = SnapshotOptions::default();
        options.temporary = true;
        let snapshot = self.store.snapshot_layers(key, image.diff_ids(), &options)?;
        look(&self.source(&snapshot)?.0);
        Ok(self.store.remove_snapshot(key)?)
    }

    fn remove_rootfs(&self, container_id: &str) -> Result<(), BoxError> {
        // What is mounted takes space, also when it was removed.
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).remove(container_id);
        match self.store.remove_snapshot(container_id) {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn diff(&self, container_id: &str, out: &mut dyn std::io::Write) -> Result<(), BoxError> {
        let ctx = Ctx { progress: &|_| {}, cancel: &AtomicBool::new(false) };
        self.store.open_snapshot(container_id)?.diff(out, ctx)?;
        Ok(())
    }

    fn usage(&self, container_id: &str) -> Result<Option<u64>, BoxError> {
        Ok(Some(self.store.open_snapshot(container_id)?.file_bytes()?))
    }
}
