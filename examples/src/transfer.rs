use std::collections::HashMap;
use std::io::{Read, Seek as _, SeekFrom};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use longshore_build::local_name;
use longshore_image::{ImportOptions, Imported, Store, from_fn};
use longshore_registry_client::{CancelToken, Client, Content, Pushed, Reference};
use oci_spec::image::{Descriptor, Digest, Platform};

use crate::Result;

/// How a pull or push talks back: image events, registry events, and whether to give up.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// What the store does while it takes in an image.
    pub image: &'a (dyn Fn(longshore_image::Event<'_>) + Sync),
    /// What the registry client does during a push.
    pub registry: &'a (dyn Fn(longshore_registry_client::Event<'_>) + Sync),
    /// Raised by the caller to end the work soon.
    pub cancel: &'a AtomicBool,
}

static NEVER: AtomicBool = AtomicBool::new(false);

impl Progress<'static> {
    /// Silent, never cancelled.
    pub const fn none() -> Self {
        Self { image: &|_| {}, registry: &|_| {}, cancel: &NEVER }
    }
}

impl std::fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("cancel", self.cancel).finish_non_exhaustive()
    }
}

/// Pulls `reference` into the store under its full name.
pub(crate) fn pull(
    client: &Client,
    store: &Store,
    reference: &Reference,
    platform: Option<&Platform>,
    progress: Progress<'_>,
) -> Result<Imported> {
    let token = CancelToken::new();
    let client = client.with_cancel(&token);
    let ctx = longshore_image::Ctx { progress: progress.image, cancel: progress.cancel };
    // A download that stands still is interrupted too, not only one that moves.
    std::thread::scope(|scope| {
        // Dropped when the import is done, also by a panic: that ends the watcher.
        let (_done, watch) = channel::<()>();
        let watcher = move || {
            while watch.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                if progress.cancel.load(Ordering::Relaxed) {
                    token.cancel();
                }
            }
        };
        std::thread::Builder::new().name("cancel".into()).spawn_scoped(scope, watcher)?;
        import(&client, store, reference, platform, ctx)
    })
}

fn import(
    client: &Client,
    store: &Store,
    reference: &Reference,
    platform: Option<&Platform>,
    ctx: longshore_image::Ctx<'_>,
) -> Result<Imported> {
    let name = local_name(reference);
    // What is here already is most likely still the same: then this is the only request, and one that registries do not count as a
    // pull. Else the manifest is needed anyway, and the client keeps it at hand for the import.
    let root = match store.image(&name) {
        Ok(image) => match client.resolve(reference)? {
            now if (now.digest(), now.size()) == (image.target().digest(), image.target().size()) => now,
            // What a HEAD says of a manifest may be a lie; its bytes decide.
            _ => client.manifest(reference)?.0,
        },
        Err(_) => client.manifest(reference)?.0,
    };
    let source = client.source(reference)?;
    let source = from_fn(move |descriptor, offset| source.open(descriptor, offset));
    let mut options = ImportOptions::default();
    options.platform = platform.cloned();
    options.names = vec![name];
    options.published = true;
    // As docker: nothing here runs or shows an artifact.
    options.images_only = true;
    Ok(store.import(&source, &root, &options, ctx)?)
}

/// Pushes what the store holds under `reference`.
pub(crate) fn push(
    client: &Client,
    store: &Store,
    reference: &Reference,
    progress: Progress<'_>,
) -> Result<Pushed> {
    let name = local_name(reference);
    let image = store.image(&name)?;
    let ctx = longshore_registry_client::Ctx { progress: progress.registry, cancel: progress.cancel };
    // An index is pushed as the one image that was taken from it: its others are not here.
    let pushed = client.push(reference, image.descriptor(), &StoreContent::new(store), ctx)?;
    store.publish(&image, &name)?;
    Ok(pushed)
}

/// A store's blobs, for a push. The names of its images tell from which repositories a registry can mount them.
#[derive(Debug)]
pub struct StoreContent<'a> {
    store: &'a Store,
    places: OnceLock<HashMap<Digest, Vec<Reference>>>,
}

impl<'a> StoreContent<'a> {
    /// Over this store.
    pub fn new(store: &'a Store) -> Self {
        Self { store, places: OnceLock::new() }
    }

    /// Which named images hold which layers. A name that cannot be read is no place.
    fn places(&self) -> HashMap<Digest, Vec<Reference>> {
        let mut places: HashMap<Digest, Vec<Reference>> = HashMap::new();
        for (name, _) in self.store.names().unwrap_or_default() {
            let (Ok(reference), Ok(image)) = (name.parse::<Reference>(), self.store.image(&name)) else {
                continue;
            };
            for layer in image.manifest().layers() {
                places.entry(layer.digest().clone()).or_default().push(reference.clone());
            }
        }
        places
    }
}

impl Content for StoreContent<'_> {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.store.open_blob(descriptor.digest())?))
    }

    fn open_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>> {
        let mut blob = self.store.open_blob(descriptor.digest())?;
        blob.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(blob))
    }

    fn repositories(&self, descriptor: &Descriptor, registry: &str) -> Vec<String> {
        let places = self.places.get_or_init(|| self.places());
        let known =
            places.get(descriptor.digest()).into_iter().flatten().filter(|r| r.registry() == registry);
        known.map(|r| r.repository().to_owned()).collect()
    }
}
