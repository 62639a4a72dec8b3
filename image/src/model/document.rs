use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::media::{is_index, is_manifest, is_schema1};
use crate::{Error, Result};

/// The most bytes of a manifest, index or config; what registries allow.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// How deep indexes may nest.
pub(crate) const MAX_DEPTH: usize = 4;

/// A parsed manifest or index.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

/// What decides between the two; serde refuses any of these keys twice.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<MediaType>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

pub(crate) fn check_document_size(descriptor: &Descriptor) -> Result<()> {
    if descriptor.size() > MAX_DOCUMENT {
        return Err(Error::Limit {
            what: format!("size in bytes of {}", descriptor.digest()),
            limit: MAX_DOCUMENT,
        });
    }
    Ok(())
}

/// Parses the bytes that the descriptor names, which must agree with it about what they are (CVE-2021-41190).
pub(crate) fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Document> {
    let refuse =
        |reason: &dyn std::fmt::Display| Error::invalid(format!("manifest {}", descriptor.digest()), reason);
    if is_schema1(descriptor.media_type()) {
        return Err(refuse(
            &"Docker's image manifest version 1 is not supported; push the image again with a newer client",
        ));
    }
    if bytes.len() as u64 > MAX_DOCUMENT {
        check_document_size(descriptor)?;
    }
    let shape: Shape = serde_json::from_slice(bytes).map_err(|e| refuse(&e))?;
    if shape.schema_version != Some(2) || shape.fs_layers.is_some() {
        return Err(refuse(&"schemaVersion is not 2"));
    }
    if let Some(inner) = &shape.media_type
        && inner != descriptor.media_type()
    {
        return Err(refuse(&format!("it says {inner}, its descriptor {}", descriptor.media_type())));
    }
    match (shape.config.is_some() || shape.layers.is_some(), shape.manifests.is_some()) {
        (true, true) => Err(refuse(&"it has both layers and manifests")),
        (true, false) if is_manifest(descriptor.media_type()) => {
            serde_json::from_slice(bytes).map(|m| Document::Manifest(Box::new(m))).map_err(|e| refuse(&e))
        }
        (false, true) if is_index(descriptor.media_type()) => {
            serde_json::from_slice(bytes).map(|i| Document::Index(Box::new(i))).map_err(|e| refuse(&e))
        }
        _ => Err(refuse(&format!("its content does not fit its media type {}", descriptor.media_type()))),
    }
}

/// JSON with sorted keys and no space: one value has one text, whatever `serde_json` features a workspace turns on.
pub(crate) fn canonical(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push(b'{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                out.extend(Value::from(key.as_str()).to_string().bytes());
                out.push(b':');
                write_canonical(value, out);
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_canonical(item, out);
            }
            out.push(b']');
        }
        other => out.extend(other.to_string().bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}"#;

    fn named(media_type: &str, bytes: &[u8]) -> Descriptor {
        Descriptor::new(media_type.into(), bytes.len() as u64, crate::digest::sha256(bytes))
    }

    #[test]
    fn good_ones_are_believed() {
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        for (media_type, json) in [
            (
                "application/vnd.oci.image.manifest.v1+json",
                format!(r#"{{"schemaVersion":2,"config":{D},"layers":[]}}"#),
            ),
            (docker, format!(r#"{{"schemaVersion":2,"mediaType":"{docker}","config":{D},"layers":[{D}]}}"#)),
            ("application/vnd.oci.image.index.v1+json", r#"{"schemaVersion":2,"manifests":[]}"#.to_owned()),
            (
                "application/vnd.docker.distribution.manifest.list.v2+json",
                format!(r#"{{"schemaVersion":2,"manifests":[{D}],"unknown":1}}"#),
            ),
        ] {
            parse(&named(media_type, json.as_bytes()), json.as_bytes()).unwrap();
        }
    }

    #[test]
    fn hostile_ones_are_refused() {
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        let index = "application/vnd.oci.image.index.v1+json";
        let bad_digest = D.replace("sha256:44", "sha256:../../");
        let upper = D.replace("sha256:44136fa", "sha256:44136FA");
        for (what, media_type, json) in [
            ("both", manifest, format!(r#"{{"schemaVersion":2,"config":{D},"layers":[],"manifests":[]}}"#)),
            ("both, as index", index, format!(r#"{{"schemaVersion":2,"layers":[{D}],"manifests":[]}}"#)),
            ("index called manifest", manifest, r#"{"schemaVersion":2,"manifests":[]}"#.to_owned()),
            ("manifest called index", index, format!(r#"{{"schemaVersion":2,"config":{D},"layers":[]}}"#)),
            (
                "other inner type",
                manifest,
                format!(r#"{{"schemaVersion":2,"mediaType":"{index}","config":{D},"layers":[]}}"#),
            ),
            ("schema 1", manifest, r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#.to_owned()),
            (
                "schema 1 by type",
                "application/vnd.docker.distribution.manifest.v1+prettyjws",
                "{}".to_owned(),
            ),
            ("no schema version", manifest, format!(r#"{{"config":{D},"layers":[]}}"#)),
            ("unknown type", "text/plain", format!(r#"{{"schemaVersion":2,"config":{D},"layers":[]}}"#)),
            ("twice", manifest, format!(r#"{{"schemaVersion":2,"config":{D},"layers":[],"layers":[{D}]}}"#)),
            ("traversal", manifest, format!(r#"{{"schemaVersion":2,"config":{bad_digest},"layers":[]}}"#)),
            ("upper case", manifest, format!(r#"{{"schemaVersion":2,"config":{upper},"layers":[]}}"#)),
            (
                "negative size",
                manifest,
                format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, D.replace(":2}", ":-2}")),
            ),
            (
                "huge size",
                manifest,
                format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, D.replace(":2}", ":1e40}")),
            ),
            ("no JSON", manifest, "<html>".to_owned()),
            ("deep", manifest, "[".repeat(100_000)),
            ("trailing", manifest, format!(r#"{{"schemaVersion":2,"config":{D},"layers":[]}} x"#)),
        ] {
            assert!(
                parse(&named(media_type, json.as_bytes()), json.as_bytes()).is_err(),
                "{what} was believed"
            );
        }
    }

    #[test]
    fn canonical_is_stable() {
        let value: Value = serde_json::from_str(r#"{"b":[1,{"z":null,"y":"a\"b"}],"a":true}"#).unwrap();
        assert_eq!(canonical(&value), br#"{"a":true,"b":[1,{"y":"a\"b","z":null}]}"#);
    }
}
