//! Manifests, indexes and configs: what they are, and which of them are believed.

mod config;
mod document;
mod media;
mod platform;

use std::sync::Arc;

use oci_spec::image::{Descriptor, Digest, ImageManifest, Platform};

pub use config::{DockerConfig, Healthcheck, ImageConfig};
pub(crate) use document::{Document, MAX_DEPTH, MAX_DOCUMENT, canonical, check_document_size, parse};
pub(crate) use media::is_image_config;
pub(crate) use platform::{describe, pick, satisfies};
pub use platform::{host_platform, parse_platform};

use crate::lease::Lease;
use crate::{Error, Result};

/// One image of one platform, as the store holds it. Cheap to clone; its content is immutable.
#[derive(Clone, Debug)]
pub struct Image(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    target: Descriptor,
    descriptor: Descriptor,
    manifest: ImageManifest,
    config: ImageConfig,
    diff_ids: Vec<Digest>,
    /// Holds an image that was just made until somebody has named it.
    _lease: Option<Arc<Lease>>,
}

impl Image {
    /// Puts an image together from the verified bytes of manifest and config.
    pub(crate) fn new(
        target: Descriptor,
        descriptor: Descriptor,
        manifest: ImageManifest,
        config: &[u8],
        lease: Option<Arc<Lease>>,
    ) -> Result<Self> {
        let (config, diff_ids) = if is_image_config(manifest.config().media_type()) {
            let config = ImageConfig::from_json(config)
                .map_err(|e| Error::invalid(format!("config {}", manifest.config().digest()), &e))?;
            let diff_ids = config.diff_ids()?;
            if diff_ids.len() != manifest.layers().len() {
                let reason = format!(
                    "{} diff IDs for {} layers of manifest {}",
                    diff_ids.len(),
                    manifest.layers().len(),
                    descriptor.digest()
                );
                return Err(Error::invalid(format!("config {}", manifest.config().digest()), &reason));
            }
            (config, diff_ids)
        } else {
            (ImageConfig::default(), Vec::new())
        };
        Ok(Self(Arc::new(Inner { target, descriptor, manifest, config, diff_ids, _lease: lease })))
    }

    /// What it was built for, as its config says.
    pub fn platform(&self) -> Platform {
        let config = &self.0.config.oci;
        let mut platform = Platform::default();
        platform.set_os(config.os().clone()).set_architecture(config.architecture().clone());
        platform.set_variant(config.variant().clone());
        platform
    }

    /// Whether it runs where `wanted` does, by the rules that choose from an index.
    pub fn suits(&self, wanted: &Platform) -> bool {
        satisfies(&self.platform(), wanted)
    }

    /// The image ID as Docker shows it: the digest of the config.
    pub fn id(&self) -> &Digest {
        self.0.manifest.config().digest()
    }

    /// What a name points to: the manifest, or the index that it was picked from. Its digest is Docker's `RepoDigest`.
    pub fn target(&self) -> &Descriptor {
        &self.0.target
    }

    /// The descriptor of this platform's manifest.
    pub fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    /// The parsed manifest.
    pub fn manifest(&self) -> &ImageManifest {
        &self.0.manifest
    }

    /// The parsed config with Docker's extensions. Empty for an artifact, which is no image.
    pub fn config(&self) -> &ImageConfig {
        &self.0.config
    }

    /// The diff IDs of the layers, base first. Empty for an artifact.
    pub fn diff_ids(&self) -> &[Digest] {
        &self.0.diff_ids
    }

    /// Whether this is an artifact (a manifest whose config is not an image's): it can be stored, moved and removed, not run.
    pub fn is_artifact(&self) -> bool {
        !is_image_config(self.manifest().config().media_type())
    }
}

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        self.descriptor().digest() == other.descriptor().digest()
            && self.target().digest() == other.target().digest()
    }
}

impl Eq for Image {}
