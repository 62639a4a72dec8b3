//! Documents that a registry or a user hands to the client: manifests and indexes, Docker's config.json, hosts.toml.
#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_registry_client::{Client, fuzzing};

fuzz_target!(|bytes: &[u8]| {
    fuzzing::docker_config(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        fuzzing::hosts_toml(text);
    }
    fuzzing::manifest(bytes, None);
    fuzzing::manifest(bytes, Some("application/vnd.oci.image.index.v1+json"));
    let client = Client::builder().build().expect("no setting can be wrong here");
    let _ = client.select(bytes, None);
});
