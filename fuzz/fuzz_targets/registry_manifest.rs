//! Manifests and indexes, the choice of a platform, and pages of names.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use longshore_registry_client::{Client, fuzzing};

static CLIENT: LazyLock<Client> =
    LazyLock::new(|| Client::builder().build().expect("no setting can be wrong here"));

fuzz_target!(|bytes: &[u8]| {
    fuzzing::manifest(bytes, None);
    fuzzing::manifest(bytes, Some("application/vnd.oci.image.index.v1+json"));
    fuzzing::names(bytes);
    let _ = CLIENT.select(bytes, None);
});
