use std::collections::HashSet;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::image::{Descriptor, Digest, ImageManifest, Platform};

use super::Store;
use super::fetch::{Fetched, fetch_layer};
use crate::content;
use crate::digest::Hasher;
use crate::lease::{Lease, STORE};
use crate::model::{Document, MAX_DEPTH, MAX_DOCUMENT};
use crate::refs::Record;
use crate::{BlobSource, Ctx, Error, Event, Image, Result, host_platform, model};

/// How an image is taken in.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Which image of an index; `None` is this machine's. An image that stands alone must fit it when it is given.
    pub platform: Option<Platform>,
    /// Names given to it once it is complete, e.g. `docker.io/library/debian:bookworm`. Without any it is a dangling one.
    pub names: Vec<String>,
    /// The names are those under which a registry has it ([`Store::published_names`](crate::Store::published_names)).
    pub published: bool,
    /// Refuse an artifact, whose config is no image's, before its blobs are fetched.
    pub images_only: bool,
}

/// What an import did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Imported {
    /// The image.
    pub image: Image,
    /// Blobs that were fetched.
    pub fetched: usize,
    /// Blobs and layers that the store already had.
    pub reused: usize,
    /// Bytes that were fetched.
    pub bytes: u64,
}

/// One call of [`Store::import`].
pub(super) struct Job<'a> {
    pub(super) store: &'a Store,
    pub(super) source: &'a dyn BlobSource,
    pub(super) ctx: Ctx<'a>,
    lease: Arc<Lease>,
    fetched: AtomicUsize,
    reused: AtomicUsize,
    bytes: AtomicU64,
}

impl Store {
    /// Fetches what is missing of the image (or of the index's image for the platform) that `root` describes, unpacks its layers, names it.
    ///
    /// Size and digest of everything are verified before anything becomes visible, the layers' diff IDs too. Layers are fetched in parallel;
    /// the first error ends all of them. What was fetched until then is kept for the next try, and a later [`Store::collect`] takes it away.
    pub fn import(
        &self,
        source: &dyn BlobSource,
        root: &Descriptor,
        options: &ImportOptions,
        ctx: Ctx<'_>,
    ) -> Result<Imported> {
        let (imported, record) = self.take_in(source, root, options, ctx)?;
        let _shared = self.0.dir.lock_shared(STORE)?;
        self.0.refs.set(&options.names, &record)?;
        Ok(imported)
    }

    /// [`Store::import`] without the names.
    pub(super) fn take_in(
        &self,
        source: &dyn BlobSource,
        root: &Descriptor,
        options: &ImportOptions,
        ctx: Ctx<'_>,
    ) -> Result<(Imported, Record)> {
        let job = Job {
            store: self,
            source,
            ctx,
            lease: self.lease()?,
            fetched: AtomicUsize::new(0),
            reused: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
        };
        let (descriptor, manifest) = job.resolve(root, options)?;
        let config = job.config(&manifest, options)?;
        let image =
            Image::new(root.clone(), descriptor.clone(), manifest, &config, Some(Arc::clone(&job.lease)))?;
        check_platform(&image, options)?;
        job.layers(&image)?;
        let record = Record {
            target: root.clone(),
            manifest: descriptor,
            config: image.id().clone(),
            published: options.published,
        };
        let imported = Imported {
            image,
            fetched: job.fetched.into_inner(),
            reused: job.reused.into_inner(),
            bytes: job.bytes.into_inner(),
        };
        Ok((imported, record))
    }
}

impl Job<'_> {
    /// Walks from the root through indexes to the manifest for the platform.
    fn resolve(&self, root: &Descriptor, options: &ImportOptions) -> Result<(Descriptor, ImageManifest)> {
        let wanted = options.platform.clone().unwrap_or_else(host_platform);
        let mut at = root.clone();
        for _ in 0..MAX_DEPTH {
            let bytes = self.document(&at)?;
            match model::parse(&at, &bytes)? {
                Document::Manifest(manifest) => return Ok((at, *manifest)),
                Document::Index(index) => at = model::pick(index.manifests(), &wanted)?.clone(),
            }
        }
        Err(Error::Limit { what: "depth of nested indexes".to_owned(), limit: MAX_DEPTH as u64 })
    }

    fn config(&self, manifest: &ImageManifest, options: &ImportOptions) -> Result<Vec<u8>> {
        let descriptor = manifest.config();
        if model::is_image_config(descriptor.media_type()) {
            self.document(descriptor)
        } else if options.images_only {
            Err(Error::Artifact { media_type: descriptor.media_type().to_string() })
        } else {
            // An artifact's config is any blob.
            self.blob(descriptor, None)?;
            Ok(Vec::new())
        }
    }

    /// Fetches a small blob, or reads it from the store.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.ctx.check()?;
        model::check_document_size(descriptor)?;
        let digest = descriptor.digest();
        self.lease.hold([digest])?;
        if let Some(found) = self.store.blob_size(digest)? {
            if found != descriptor.size() {
                return Err(Error::SizeMismatch {
                    digest: digest.clone(),
                    expected: descriptor.size(),
                    found,
                });
            }
            let bytes = content::read(&self.store.0.blobs, digest, MAX_DOCUMENT)?;
            // Another tool may have put it there.
            check_digest(digest, &bytes)?;
            self.exists(descriptor);
            return Ok(bytes);
        }
        let mut bytes = Vec::new();
        let reader = self.source.open(descriptor, 0).map_err(|e| fetch_error(digest, e))?;
        // One byte more than promised shows a source that sends too much; the rest of it is never read.
        reader.take(descriptor.size() + 1).read_to_end(&mut bytes).map_err(|e| fetch_error(digest, e))?;
        content::put(&self.store.0.blobs, descriptor, &bytes)?;
        self.fetched(&Fetched { blob: true, bytes: bytes.len() as u64 });
        (self.ctx.progress)(Event::Stored { digest });
        Ok(bytes)
    }

    /// All layers, the largest first, a few at a time.
    fn layers(&self, image: &Image) -> Result<()> {
        let mut seen = HashSet::new();
        let mut work: Vec<(&Descriptor, Option<&Digest>)> = Vec::new();
        for (i, descriptor) in image.manifest().layers().iter().enumerate() {
            let diff_id = image.diff_ids().get(i);
            if seen.insert((descriptor.digest().clone(), diff_id.cloned())) {
                work.push((descriptor, diff_id));
            }
        }
        work.sort_by_key(|(d, _)| std::cmp::Reverse(d.size()));
        let stop = AtomicBool::new(false);
        let first: Mutex<Option<Error>> = Mutex::new(None);
        let next = AtomicUsize::new(0);
        let threads = parallel().max(2).min(work.len());
        let one = || {
            while let Some((descriptor, diff_id)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = self.layer(descriptor, *diff_id, &stop) {
                    stop.store(true, Ordering::Relaxed);
                    first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(one);
            }
            one();
        });
        self.ctx.check()?;
        first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn layer(&self, descriptor: &Descriptor, diff_id: Option<&Digest>, stop: &AtomicBool) -> Result<()> {
        self.ctx.check()?;
        match diff_id {
            None => self.blob(descriptor, Some(stop)),
            Some(diff_id) => {
                self.lease.hold([descriptor.digest(), diff_id])?;
                let fetched = fetch_layer(self, descriptor, Some(diff_id), stop)?;
                self.fetched(&fetched);
                Ok(())
            }
        }
    }

    /// A blob that is only stored.
    fn blob(&self, descriptor: &Descriptor, stop: Option<&AtomicBool>) -> Result<()> {
        self.lease.hold([descriptor.digest()])?;
        let never = AtomicBool::new(false);
        let fetched = fetch_layer(self, descriptor, None, stop.unwrap_or(&never))?;
        self.fetched(&fetched);
        Ok(())
    }

    fn fetched(&self, what: &Fetched) {
        if what.blob {
            self.fetched.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(what.bytes, Ordering::Relaxed);
        } else {
            self.reused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn exists(&self, descriptor: &Descriptor) {
        (self.ctx.progress)(Event::Exists { digest: descriptor.digest(), size: descriptor.size() });
    }
}

fn check_digest(expected: &Digest, bytes: &[u8]) -> Result<()> {
    let mut hasher = Hasher::for_digest(expected)?;
    hasher.update(bytes);
    let found = hasher.finish();
    if found == *expected { Ok(()) } else { Err(Error::DigestMismatch { expected: expected.clone(), found }) }
}

/// How many threads a call may use beside its own.
pub(super) fn parallel() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

/// An error of the source; one of ours that it carries through is unwrapped.
pub(super) fn fetch_error(digest: &Digest, error: impl Into<crate::BoxError>) -> Error {
    Error::Fetch { digest: digest.clone(), source: error.into() }
}

/// An index was asked for the platform; an image that stands alone is compared when the caller insists.
fn check_platform(image: &Image, options: &ImportOptions) -> Result<()> {
    let Some(wanted) = &options.platform else { return Ok(()) };
    if image.is_artifact() || image.target() != image.descriptor() {
        return Ok(());
    }
    let config = &image.config().oci;
    let mut offered = Platform::default();
    offered
        .set_architecture(config.architecture().clone())
        .set_os(config.os().clone())
        .set_variant(config.variant().clone());
    if model::satisfies(&offered, wanted) {
        return Ok(());
    }
    Err(Error::NoPlatform { wanted: model::describe(wanted), offered: vec![model::describe(&offered)] })
}
