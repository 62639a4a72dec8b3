use longshore_build::{BoxError, Resolver};
use longshore_image::{Ctx, Image};
use longshore_registry_client::{Client, Reference};
use oci_spec::image::Platform;

use crate::transfer::{self, Progress};
use crate::{Host, find_image};

/// `FROM`: what the store has, else what the registry has; with `always` the registry is asked in any case.
#[derive(Clone, Debug)]
pub struct PullResolver<'a> {
    host: &'a Host,
    client: Client,
    always: bool,
}

impl<'a> PullResolver<'a> {
    /// Pulls with this client into the host's store.
    pub fn new(host: &'a Host, client: Client, always: bool) -> Self {
        Self { host, client, always }
    }
}

impl Resolver for PullResolver<'_> {
    fn resolve(&self, name: &str, platform: Option<&Platform>, ctx: Ctx<'_>) -> Result<Image, BoxError> {
        let store = self.host.store();
        if !self.always {
            match find_image(store, name) {
                Ok(image) if fits(&image, platform) => return Ok(image),
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        let reference = name.parse::<Reference>()?;
        let progress = Progress { image: ctx.progress, registry: &|_| {}, cancel: ctx.cancel };
        Ok(transfer::pull(&self.client, store, &reference, platform, progress)?.image)
    }
}

/// Whether the image is one for the platform that was asked for.
fn fits(image: &Image, platform: Option<&Platform>) -> bool {
    let config = &image.config().oci;
    platform.is_none_or(|p| config.os() == p.os() && config.architecture() == p.architecture())
}
