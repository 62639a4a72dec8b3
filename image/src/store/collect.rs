use std::collections::HashSet;

use oci_spec::image::{Descriptor, Digest};

use super::Store;
use crate::content::{self, ContentRead, ContentWrite};
use crate::lease::{self, STORE};
use crate::model::{Document, MAX_DEPTH, MAX_DOCUMENT};
use crate::refs::Record;
use crate::{Ctx, Error, Image, Result, model};

/// What a collection freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Dangling images removed.
    pub images: Vec<Digest>,
    /// Blobs removed.
    pub blobs: usize,
    /// Unpacked layers removed.
    pub layers: usize,
    /// Bytes freed.
    pub bytes: u64,
}

/// What the store takes on disk, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskUsage {
    /// Number of images, dangling ones included.
    pub images: usize,
    /// Number of images that a snapshot was made for.
    pub active: usize,
    /// Manifests, configs and compressed layers.
    pub blobs: u64,
    /// Layers in their mountable form.
    pub layers: u64,
    /// Writable layers of snapshots.
    pub snapshots: u64,
    /// Of blobs and layers, what [`Store::prune`] of all unused images would free.
    pub reclaimable: u64,
}

/// What one layer takes on disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerUsage {
    /// The compressed blob.
    pub compressed: u64,
    /// The mountable form.
    pub unpacked: u64,
    /// How many images of the store have it.
    pub images: usize,
}

/// What must stay: digests of blobs and diff IDs alike.
type Marked = HashSet<Digest>;

impl Store {
    /// Frees what no name, snapshot or lease needs; dangling images too, unless a snapshot was made for them; and temporary snapshots
    /// without an owner.
    ///
    /// Waits until nobody is in the middle of publishing something, and holds up others only while it unlinks. Downloads that were broken
    /// off are dropped. While a name's file is damaged nothing is freed, see [`Error::Invalid`]: [`Store::verify`] with repair, or
    /// tagging it anew, mends that.
    pub fn collect(&self, ctx: Ctx<'_>) -> Result<Collected> {
        self.collect_where(&|_| true, ctx)
    }

    /// [`Store::collect`], which spares dangling images that `goes` does not pick.
    pub fn collect_where(&self, goes: &dyn Fn(&Image) -> bool, ctx: Ctx<'_>) -> Result<Collected> {
        self.adopt_what_fits(ctx)?;
        let _alone = self.0.dir.lock(STORE)?;
        self.0.snapshots.sweep()?;
        let mut collected = Collected::default();
        let leased = lease::held(&self.0.dir)?;
        let marked = self.mark(leased, &mut |store, record| {
            match store.parse(record, None) {
                Ok(image) if !goes(&image) => return Ok(false),
                Err(e) if !e.is_not_found() && !e.is_bad_content() => return Err(e),
                // Nobody can tell any more what a damaged one was.
                Ok(_) | Err(_) => {}
            }
            store.0.refs.forget(record)?;
            collected.images.push(record.config.clone());
            Ok(true)
        })?;
        self.sweep(&marked, &mut collected, ctx)?;
        Ok(collected)
    }

    /// Removes images that no snapshot was made for: only dangling ones, or with `all` also those that have names; of them those that
    /// `goes` picks. Then collects. The names taken away, and what was freed.
    pub fn prune(
        &self,
        all: bool,
        goes: &dyn Fn(&Image) -> bool,
        ctx: Ctx<'_>,
    ) -> Result<(Vec<String>, Collected)> {
        self.0.refs.intact()?;
        self.adopt_what_fits(ctx)?;
        let mut untagged = Vec::new();
        if all {
            let used = self.used_images()?;
            for image in self.0.refs.grouped()? {
                ctx.check()?;
                if used.contains(&image.record.config) || image.names.is_empty() {
                    continue;
                }
                let picked = match self.parse(&image.record, None) {
                    Ok(image) => goes(&image),
                    Err(e) if e.is_not_found() || e.is_bad_content() => true,
                    Err(e) => return Err(e),
                };
                if picked {
                    // Kept until the collection sees that no snapshot was made for it meanwhile.
                    untagged.extend(self.0.refs.unset(&image.names, &image.record.config, true)?.names);
                }
            }
        }
        untagged.sort();
        Ok((untagged, self.collect_where(goes, ctx)?))
    }

    /// What the store takes on disk.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        self.adopt_what_fits(Ctx::none())?;
        let used = self.used_images()?;
        let images = self.0.refs.grouped()?;
        let mut kept = Marked::new();
        for image in images.iter().filter(|i| used.contains(&i.record.config)) {
            self.mark_image(&image.record, &mut kept)?;
        }
        let mut usage = DiskUsage { images: images.len(), ..DiskUsage::default() };
        usage.active = images.iter().filter(|i| used.contains(&i.record.config)).count();
        for snapshot in self.0.snapshots.list()? {
            kept.extend(snapshot.layers().iter().cloned());
            usage.snapshots += snapshot.usage()?.0;
        }
        for digest in self.0.blobs.list()? {
            let size = self.0.blobs.size(&digest)?.unwrap_or(0);
            usage.blobs += size;
            usage.reclaimable += if kept.contains(&digest) { 0 } else { size };
        }
        for diff_id in self.0.layers.list()? {
            let size = match self.0.layers.usage(&diff_id) {
                // Removed meanwhile.
                Err(e) if e.is_not_found() => 0,
                size => size?,
            };
            usage.layers += size;
            usage.reclaimable += if kept.contains(&diff_id) { 0 } else { size };
        }
        Ok(usage)
    }

    fn used_images(&self) -> Result<HashSet<Digest>> {
        Ok(self.0.snapshots.list()?.iter().filter_map(|s| s.image().cloned()).collect())
    }

    /// Everything that is needed. Each dangling image that is not goes to `drop`, which says whether it is gone.
    fn mark(&self, leased: Marked, drop: &mut dyn FnMut(&Self, &Record) -> Result<bool>) -> Result<Marked> {
        // Nobody knows what a name needs that cannot be read, so nothing may go while there is one.
        self.0.refs.intact()?;
        let mut marked = leased;
        let mut used = HashSet::new();
        for snapshot in self.0.snapshots.list()? {
            marked.extend(snapshot.layers().iter().cloned());
            used.extend(snapshot.image().cloned());
        }
        let leased_manifest = |record: &Record, marked: &Marked| marked.contains(record.manifest.digest());
        for image in self.0.refs.grouped()? {
            let record = &image.record;
            let free =
                image.names.is_empty() && !used.contains(&record.config) && !leased_manifest(record, &marked);
            if !(free && drop(self, record)?) {
                self.mark_image(record, &mut marked)?;
            }
        }
        Ok(marked)
    }

    fn mark_image(&self, record: &Record, marked: &mut Marked) -> Result<()> {
        self.mark_indexes(&record.target, MAX_DEPTH, marked)?;
        marked.extend([record.manifest.digest().clone(), record.config.clone()]);
        match self.parse(record, None) {
            Ok(image) => {
                marked.extend(image.manifest().layers().iter().map(|l| l.digest().clone()));
                marked.extend(image.diff_ids().iter().cloned());
                Ok(())
            }
            // Damaged or incomplete, so it needs nothing more; another error must stop the collection.
            Err(e) if e.is_not_found() || e.is_bad_content() => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The index that was asked for, and what of its content is here.
    fn mark_indexes(&self, descriptor: &Descriptor, depth: usize, marked: &mut Marked) -> Result<()> {
        if depth == 0 || self.blob_size(descriptor.digest())?.is_none() {
            return Ok(());
        }
        marked.insert(descriptor.digest().clone());
        let bytes = match content::read(&self.0.blobs, descriptor.digest(), MAX_DOCUMENT) {
            Ok(bytes) => bytes,
            Err(Error::NoSuchBlob { .. } | Error::Limit { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        let document = model::parse(descriptor, &bytes);
        if let Ok(Document::Manifest(manifest)) = &document {
            // Of another platform, if it is here at all: an index that was made here can be pushed whole.
            marked.insert(manifest.config().digest().clone());
            marked.extend(manifest.layers().iter().map(|l| l.digest().clone()));
        }
        if let Ok(Document::Index(index)) = document {
            for inner in index.manifests() {
                self.mark_indexes(inner, depth - 1, marked)?;
            }
        }
        Ok(())
    }

    fn sweep(&self, marked: &Marked, collected: &mut Collected, ctx: Ctx<'_>) -> Result<()> {
        for diff_id in self.0.layers.list()? {
            ctx.check()?;
            if !marked.contains(&diff_id) {
                let size = self.0.layers.usage(&diff_id)?;
                if self.0.layers.remove(&diff_id)? {
                    collected.layers += 1;
                    collected.bytes += size;
                }
            }
        }
        for digest in self.0.blobs.list()? {
            ctx.check()?;
            if !marked.contains(&digest) {
                let size = self.0.blobs.size(&digest)?.unwrap_or(0);
                if self.0.blobs.remove(&digest)? {
                    collected.blobs += 1;
                    collected.bytes += size;
                }
            }
        }
        self.0.diffs.retain(&|digest| marked.contains(digest))?;
        collected.bytes += self.0.blobs.sweep_ingests()?;
        Ok(())
    }

    /// What one layer of an image takes, and how many images share it.
    pub fn layer_usage(&self, descriptor: &Descriptor, diff_id: &Digest) -> Result<LayerUsage> {
        let mut usage = LayerUsage {
            compressed: self.blob_size(descriptor.digest())?.unwrap_or(0),
            unpacked: if self.0.layers.exists(diff_id) { self.0.layers.usage(diff_id)? } else { 0 },
            images: 0,
        };
        usage.images = self.images()?.iter().filter(|i| i.image.diff_ids().contains(diff_id)).count();
        Ok(usage)
    }
}
