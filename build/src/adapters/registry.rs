use longshore_image::{Ctx, Image, ImportOptions, Store, from_fn};
use longshore_registry_client::{Client, Reference};
use oci_spec::image::Platform;

use crate::{BoxError, Resolver};

/// Takes what the store has under the normalised name, else pulls it.
#[derive(Clone, Debug)]
pub struct RegistryResolver {
    store: Store,
    client: Client,
    always: bool,
}

impl RegistryResolver {
    /// Pulls with the client into the store.
    pub fn new(store: &Store, client: &Client) -> Self {
        Self { store: store.clone(), client: client.clone(), always: false }
    }

    /// `--pull`: asks the registry even for what the store has.
    #[must_use]
    pub fn always(self, always: bool) -> Self {
        Self { always, ..self }
    }

    fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        ctx: Ctx<'_>,
    ) -> Result<Image, BoxError> {
        let root = self.client.resolve(reference)?;
        let source = self.client.source(reference)?;
        let source = from_fn(move |descriptor, offset| source.open(descriptor, offset));
        let mut options = ImportOptions::default();
        options.platform = platform.cloned();
        options.names = vec![reference.to_string()];
        Ok(self.store.import(&source, &root, &options, ctx)?.image)
    }
}

impl Resolver for RegistryResolver {
    fn resolve(&self, name: &str, platform: Option<&Platform>, ctx: Ctx<'_>) -> Result<Image, BoxError> {
        let named = name.parse::<Reference>();
        if !self.always {
            let full = named.as_ref().map_or_else(|_| name.to_owned(), ToString::to_string);
            // An image ID is no reference, or one of a repository that has that name.
            let known = self
                .store
                .image(&full)
                .or_else(|e| if e.is_not_found() { self.store.image(name) } else { Err(e) });
            match known {
                Ok(image) if platform.is_none_or(|p| fits(&image, p)) => return Ok(image),
                Err(e) if !e.is_not_found() => return Err(e.into()),
                _ => {}
            }
        }
        self.pull(&named?, platform, ctx)
    }
}

fn fits(image: &Image, platform: &Platform) -> bool {
    let config = &image.config().oci;
    config.os() == platform.os() && config.architecture() == platform.architecture()
}
