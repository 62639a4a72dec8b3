use oci_spec::image::{Descriptor, Digest, ImageManifestBuilder, MediaType};

use super::{Layer, Store};
use crate::content;
use crate::lease::STORE;
use crate::refs::Record;
use crate::{Error, Image, ImageConfig, Result, model};

/// What makes an image besides its blobs.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImageSpec {
    /// The config; its `rootfs` is filled in from `layers`.
    pub config: ImageConfig,
    /// The layers, base first.
    pub layers: Vec<Layer>,
    /// Names given to the image.
    pub names: Vec<String>,
    /// Annotations of the manifest.
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl Store {
    /// Writes config and manifest, and names the image. Without a name it is a dangling one. The same spec gives the same digests.
    pub fn create_image(&self, spec: &ImageSpec) -> Result<Image> {
        let mut config = spec.config.clone();
        let diff_ids = spec.layers.iter().map(|l| l.diff_id.to_string()).collect();
        config.oci.rootfs_mut().set_typ("layers".to_owned()).set_diff_ids(diff_ids);
        self.create_image_with(spec, &config.to_json())
    }

    /// The same around a config whose bytes exist already and decide the image's ID.
    pub(crate) fn create_image_with(&self, spec: &ImageSpec, config_bytes: &[u8]) -> Result<Image> {
        let config_descriptor = describe(MediaType::ImageConfig, config_bytes);
        let manifest_bytes = manifest(spec, &config_descriptor)?;
        let descriptor = describe(MediaType::ImageManifest, &manifest_bytes);

        let lease = self.lease()?;
        lease.hold([config_descriptor.digest(), descriptor.digest()])?;
        lease.hold(spec.layers.iter().flat_map(|l| [l.descriptor.digest(), &l.diff_id]))?;
        for Layer { descriptor, diff_id, .. } in &spec.layers {
            self.need(descriptor.digest())?;
            self.restore(diff_id, &mut || vec![descriptor.digest().clone()])?;
            if !self.0.layers.contains(diff_id) {
                return Err(Error::NoSuchLayer { diff_id: diff_id.clone() });
            }
        }
        content::put(&self.0.blobs, &config_descriptor, config_bytes)?;
        content::put(&self.0.blobs, &descriptor, &manifest_bytes)?;
        let record = Record {
            target: descriptor.clone(),
            manifest: descriptor,
            config: config_descriptor.digest().clone(),
            published: false,
        };
        let image = self.parse(&record, Some(lease))?;
        let _shared = self.0.dir.lock_shared(STORE)?;
        self.0.refs.set(&spec.names, &record)?;
        Ok(image)
    }

    pub(super) fn need(&self, digest: &Digest) -> Result<()> {
        match self.blob_size(digest)? {
            Some(_) => Ok(()),
            None => Err(Error::NoSuchBlob { digest: digest.clone() }),
        }
    }
}

fn describe(media_type: MediaType, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, bytes.len() as u64, crate::digest::sha256(bytes))
}

/// In an OCI manifest Docker's layers go by the OCI's names; the bytes are the same.
fn oci_layer(descriptor: &Descriptor) -> Descriptor {
    let mut descriptor = descriptor.clone();
    let oci = match descriptor.media_type().as_ref() {
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => MediaType::ImageLayerGzip,
        "application/vnd.docker.image.rootfs.diff.tar" => MediaType::ImageLayer,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => MediaType::ImageLayerZstd,
        _ => return descriptor,
    };
    descriptor.set_media_type(oci);
    descriptor
}

fn manifest(spec: &ImageSpec, config: &Descriptor) -> Result<Vec<u8>> {
    let mut manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config.clone())
        .layers(spec.layers.iter().map(|l| oci_layer(&l.descriptor)).collect::<Vec<_>>())
        .build()
        .map_err(|e| Error::invalid("manifest", &e))?;
    if !spec.annotations.is_empty() {
        manifest.set_annotations(Some(spec.annotations.clone().into_iter().collect()));
    }
    let value = serde_json::to_value(&manifest).map_err(|e| Error::invalid("manifest", &e))?;
    Ok(model::canonical(&value))
}
