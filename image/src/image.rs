use oci_spec::image::{Descriptor, Digest, ImageConfiguration, ImageManifest};
use serde::{Deserialize, Serialize};

/// One image of one platform, as the store holds it. Cheap to clone; its content is immutable.
#[derive(Clone, Debug)]
pub struct Image(());

impl Image {
    /// The image ID as Docker shows it: the digest of the config.
    pub fn id(&self) -> &Digest {
        todo!()
    }
    /// What a name points to: the manifest, or the index that it was picked from. Its digest is Docker's `RepoDigest`.
    pub fn target(&self) -> &Descriptor {
        todo!()
    }
    /// The descriptor of this platform's manifest.
    pub fn descriptor(&self) -> &Descriptor {
        todo!()
    }
    /// The parsed manifest.
    pub fn manifest(&self) -> &ImageManifest {
        todo!()
    }
    /// The parsed config with Docker's extensions.
    pub fn config(&self) -> &ImageConfig {
        todo!()
    }
    /// The diff IDs of the layers, base first.
    pub fn diff_ids(&self) -> &[Digest] {
        todo!()
    }
}

/// An image config: the OCI fields, and what Docker adds to them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The OCI image configuration.
    #[serde(flatten)]
    pub oci: ImageConfiguration,
    /// Docker's additions inside `config`.
    #[serde(skip)]
    pub docker: DockerConfig,
}

/// What Docker keeps in `config` beyond the OCI image-spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerConfig {
    /// `HEALTHCHECK`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `SHELL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// `ONBUILD` triggers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
}

/// Docker's health check; durations in nanoseconds, 0 means inherit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", arg...]` or `["CMD-SHELL", command]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(default)]
    pub interval: i64,
    /// Time a check may take.
    #[serde(default)]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(default)]
    pub start_period: i64,
    /// Time between checks during the start period.
    #[serde(default)]
    pub start_interval: i64,
    /// Failures in a row that make a container unhealthy.
    #[serde(default)]
    pub retries: u32,
}
