use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use oci_spec::image::{Descriptor, History, ImageIndexBuilder, MediaType, Platform};

use super::names::record_of;
use super::{ImageSpec, Layer, LayerOptions, Store};
use crate::content::{self, ContentRead};
use crate::diff::{self, Options};
use crate::layer::Owner;
use crate::lease::STORE;
use crate::refs::Record;
use crate::{Ctx, DiffOutcome, Error, Image, Result, Snapshot, SnapshotOptions, host_platform, model};

impl Store {
    /// What [`Store::create_image`] would make the image from: a value to change config, annotations or layers in.
    /// Artifacts cannot be edited so.
    pub fn spec(&self, image: &Image) -> Result<ImageSpec> {
        if image.is_artifact() {
            return Err(Error::Unsupported {
                what: "editing",
                reason: "this is an artifact, not an image".to_owned(),
            });
        }
        Ok(ImageSpec {
            config: image.config().clone(),
            layers: self.layers(image)?,
            names: Vec::new(),
            annotations: image
                .manifest()
                .annotations()
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        })
    }

    /// Puts what an image adds to its old base on a new one. The config stays the image's own, the history becomes the new base's and the rest.
    pub fn rebase(&self, image: &Image, old_base: &Image, new_base: &Image) -> Result<ImageSpec> {
        let below = old_base.diff_ids().len();
        if !image.diff_ids().starts_with(old_base.diff_ids()) {
            let reason = format!("it does not stand on {}", old_base.id());
            return Err(Error::invalid(format!("image {}", image.id()), &reason));
        }
        let mut spec = self.spec(image)?;
        let own = spec.layers.split_off(below);
        spec.layers = self.layers(new_base)?;
        spec.layers.extend(own);
        let mut history: Vec<History> = new_base.config().oci.history().clone().unwrap_or_default();
        history.extend(own_history(image, old_base));
        spec.config.oci.set_history((!history.is_empty()).then_some(history));
        Ok(spec)
    }

    /// The image with all its layers made into one. Needs the right to mount, or [copies](crate::StoreOptions::copies).
    pub fn squash(&self, image: &Image, options: &LayerOptions, ctx: Ctx<'_>) -> Result<ImageSpec> {
        let mut spec = self.spec(image)?;
        let view = self.view(image)?;
        let mut whole =
            |out: &mut dyn Write| self.write_root(&view.snapshot, options.clamp_mtime, out, ctx).map(|_| ());
        let layer: Layer = self.make_layer(&mut whole, options.compression, ctx)?;
        spec.layers = vec![layer];
        // One layer, so at most one step may claim to have made one.
        if let Some(history) = spec.config.oci.history_mut() {
            let last = history.iter().rposition(|step| step.empty_layer() != Some(true));
            for (i, step) in history.iter_mut().enumerate() {
                step.set_empty_layer((Some(i) != last).then_some(true));
            }
        }
        Ok(spec)
    }

    /// Writes a container's whole root file system as one tar, as `docker export` does. Needs the right to mount, or [copies](crate::StoreOptions::copies).
    pub fn export(&self, snapshot: &Snapshot, out: &mut dyn Write, ctx: Ctx<'_>) -> Result<DiffOutcome> {
        self.write_root(snapshot, None, out, ctx)
    }

    /// Makes an index of images for several platforms, and gives it names; each points to the image for this machine if there is one,
    /// else to the first.
    pub fn create_index(&self, images: &[Image], names: &[String]) -> Result<Image> {
        let entries: Vec<Descriptor> = images.iter().map(entry).collect();
        let index = ImageIndexBuilder::default()
            .schema_version(2_u32)
            .media_type(MediaType::ImageIndex)
            .manifests(entries.clone())
            .build()
            .map_err(|e| Error::invalid("index", &e))?;
        let value = serde_json::to_value(&index).map_err(|e| Error::invalid("index", &e))?;
        let bytes = model::canonical(&value);
        let target =
            Descriptor::new(MediaType::ImageIndex, bytes.len() as u64, crate::digest::sha256(&bytes));
        let here = model::pick(&entries, &host_platform())
            .ok()
            .and_then(|d| images.iter().find(|i| i.descriptor().digest() == d.digest()));
        let image = here.or(images.first()).ok_or_else(|| Error::invalid("index", &"it would be empty"))?;
        let lease = self.lease()?;
        lease.hold([target.digest()])?;
        for one in images {
            lease.hold([one.descriptor().digest(), one.id()])?;
            lease.hold(one.manifest().layers().iter().map(Descriptor::digest))?;
            lease.hold(one.diff_ids())?;
        }
        images.iter().try_for_each(|image| self.complete(image))?;
        content::put(&self.0.blobs, &target, &bytes)?;
        let record = Record { target, published: false, ..record_of(image) };
        let made = self.parse(&record, Some(lease))?;
        let _shared = self.0.dir.lock_shared(STORE)?;
        self.0.refs.set(names, &record)?;
        Ok(made)
    }

    /// The raw bytes of an image's config, whose digest is its ID.
    pub fn config_bytes(&self, image: &Image) -> Result<Vec<u8>> {
        content::read(&self.0.blobs as &dyn ContentRead, image.id(), model::MAX_DOCUMENT)
    }

    /// A read-only snapshot of the image for the length of one call.
    fn view(&self, image: &Image) -> Result<View<'_>> {
        // Unique beside other threads and processes; the staging directory's name is.
        let staging = self.0.dir.staging("view")?;
        let key = staging.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let options = SnapshotOptions { read_only: true, temporary: true, ..SnapshotOptions::default() };
        Ok(View { store: self, snapshot: self.snapshot_layers(&key, image.diff_ids(), &options)? })
    }

    fn write_root(
        &self,
        snapshot: &Snapshot,
        clamp_mtime: Option<i64>,
        out: &mut dyn Write,
        ctx: Ctx<'_>,
    ) -> Result<DiffOutcome> {
        if let Some(path) = snapshot.root() {
            let options = Options { clamp_mtime, root: None, owner: snapshot.owner()? };
            return diff::upper(&path, &options, out, ctx);
        }
        let mount = snapshot.mount()?;
        let path = format!("/proc/self/fd/{}/.", mount.as_raw_fd());
        let options = Options { clamp_mtime, root: None, owner: Owner::Root };
        diff::upper(Path::new(&path), &options, out, ctx)
    }
}

struct View<'a> {
    store: &'a Store,
    snapshot: Snapshot,
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        let _ = self.store.remove_snapshot(self.snapshot.key());
    }
}

/// The steps behind the base's; where the image does not repeat them, behind those that made the base's layers.
fn own_history(image: &Image, base: &Image) -> Vec<History> {
    let history = image.config().oci.history().clone().unwrap_or_default();
    let before = base.config().oci.history().clone().unwrap_or_default();
    if history.starts_with(&before) {
        return history.into_iter().skip(before.len()).collect();
    }
    let below = base.diff_ids().len();
    let mut layers = 0;
    let base_step = |step: &History| {
        layers += usize::from(step.empty_layer() != Some(true));
        layers <= below
    };
    history.into_iter().skip_while(base_step).collect()
}

/// The index entry of an image, with its platform.
fn entry(image: &Image) -> Descriptor {
    let config = &image.config().oci;
    let mut platform = Platform::default();
    platform
        .set_architecture(config.architecture().clone())
        .set_os(config.os().clone())
        .set_variant(config.variant().clone())
        .set_os_version(config.os_version().clone());
    let mut entry = image.descriptor().clone();
    entry.set_platform(Some(platform)).set_annotations(None);
    entry
}
