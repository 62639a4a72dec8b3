use std::path::PathBuf;

use longshore_image::Compression;
use oci_spec::image::Platform;

/// How to build.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BuildOptions {
    /// Names for the result (normalised).
    pub tags: Vec<String>,
    /// `--build-arg`.
    pub build_args: Vec<(String, String)>,
    /// `--target`: a stage's name or number.
    pub target: Option<String>,
    /// `--no-cache`: nothing is taken from the cache; results are still put into it.
    pub no_cache: bool,
    /// `--platform`; `None` is this machine's.
    pub platform: Option<Platform>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// `--secret`.
    pub secrets: Vec<Secret>,
    /// `--network`: for each `RUN` that does not say otherwise; `None` is `default`.
    pub network: Option<String>,
    /// `--allow network.host`: a Dockerfile's own `RUN --network=host` gets the host's network. Without it such a step is an error,
    /// unless `network` is `host` anyway: a Dockerfile may come from anybody.
    pub allow_host_network: bool,
    /// `SOURCE_DATE_EPOCH`: seconds since the epoch. No time in the result is later, and everything the builder dates itself is exactly
    /// this.
    pub source_date_epoch: Option<i64>,
    /// Most stages at a time; `None` is the number of processors.
    pub jobs: Option<usize>,
    /// Where `RUN --mount=type=cache` keeps its directories; without it such a mount is empty at the start of each `RUN`.
    pub cache_dir: Option<PathBuf>,
    /// How the layers' blobs are compressed.
    pub compression: Compression,
}

/// A secret for `RUN --mount=type=secret`. It is in no layer, no history, no cache key and no event; its `Debug` redacts.
#[derive(Clone)]
pub struct Secret {
    id: String,
    value: Vec<u8>,
}

impl Secret {
    /// The name that a Dockerfile uses, and the content.
    pub fn new(id: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { id: id.into(), value: value.into() }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.value
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}
