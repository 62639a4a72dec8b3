//! Cache keys: a digest over the format's version, what a step stands on, and what it does.

use oci_spec::image::Digest;
use sha2::{Digest as _, Sha256};

/// Raised whenever the same key would stand for another layer.
const FORMAT: &str = "longshore-build 2";

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The key of what `operation` (any unambiguous text) makes of these layers.
pub(crate) fn key(kind: &str, platform: &str, layers: &[Digest], operation: &serde_json::Value) -> String {
    let mut hash = Sha256::new();
    let layers: Vec<_> = layers.iter().map(ToString::to_string).collect();
    hash.update(serde_json::json!([FORMAT, kind, platform, layers, operation]).to_string());
    hex(&hash.finalize())
}
