//! Images as one tar stream: `docker save`'s format and the OCI image layout's, written and read.
//!
//! What [`Store::save`](crate::Store::save) writes as [`ArchiveFormat::Docker`] is both at once, as Docker has written it since version 25:
//! an OCI layout whose blobs a `manifest.json` names again, so that old and new readers find what they know. Nothing is compressed or
//! copied aside on either way.

mod load;
mod save;

use serde::{Deserialize, Serialize};

pub use load::{LoadOptions, Loaded};
pub use save::ArchiveFormat;

/// One entry of `manifest.json` (Docker Image Specification v1.2).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default, deserialize_with = "null_as_empty")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_as_empty")]
    layers: Vec<String>,
}

/// Go writes an absent list as null.
fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The annotation by which an OCI layout names a manifest.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The whole name beside it, where `REF_NAME` is only a tag.
const FULL_NAME: &str = "io.containerd.image.name";
