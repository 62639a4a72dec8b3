use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longshore_image::{ImportOptions, Imported, Store, from_fn};
use longshore_registry_client::{CancelToken, Client, Content, Pushed, Reference};
use oci_spec::image::{Descriptor, Platform};

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
    let root = client.resolve(reference)?;
    let token = CancelToken::new();
    let source = client.source(reference)?.with_cancel(token.clone());
    let source = from_fn(move |descriptor, offset| source.open(descriptor, offset));
    let mut options = ImportOptions::default();
    options.platform = platform.cloned();
    options.names = vec![reference.to_string()];
    let ctx = longshore_image::Ctx { progress: progress.image, cancel: progress.cancel };
    // A download that stands still is interrupted too, not only one that moves.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if progress.cancel.load(Ordering::Relaxed) {
                    token.cancel();
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
        let imported = store.import(&source, &root, &options, ctx);
        done.store(true, Ordering::Relaxed);
        watch.thread().unpark();
        Ok(imported?)
    })
}

/// Pushes what the store holds under `reference`.
pub(crate) fn push(
    client: &Client,
    store: &Store,
    reference: &Reference,
    progress: Progress<'_>,
) -> Result<Pushed> {
    let image = store.image(&reference.to_string())?;
    let ctx = longshore_registry_client::Ctx { progress: progress.registry, cancel: progress.cancel };
    // An index is pushed as the one image that was taken from it: its others are not here.
    Ok(client.push(reference, image.descriptor(), &StoreContent(store), ctx)?)
}

/// A store's blobs, for a push.
#[derive(Clone, Copy, Debug)]
pub struct StoreContent<'a>(pub &'a Store);

impl Content for StoreContent<'_> {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.0.open_blob(descriptor.digest())?))
    }
}
