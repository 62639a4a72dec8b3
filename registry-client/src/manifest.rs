//! Manifests and indexes: what they name, and which of an index fits a platform.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Mutex;

use oci_spec::image::{Descriptor, Digest, MediaType, Platform};
use serde::Deserialize;

use crate::digest;
use crate::endpoint::lock;
use crate::{Client, Error, Result};

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// For `Accept`. Schema 1 is left out, so that registries that still have it convert or say no.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// Whether a descriptor of this type points to a manifest or an index rather than to a blob.
pub(crate) fn is_manifest(media_type: &MediaType) -> bool {
    kind_of(media_type.as_ref()).is_some()
}

fn kind_of(media_type: &str) -> Option<Kind> {
    match media_type {
        OCI_MANIFEST | DOCKER_MANIFEST => Some(Kind::Manifest),
        OCI_INDEX | DOCKER_LIST => Some(Kind::Index),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest,
    Index,
}

/// What a manifest or index names.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) kind: Kind,
    pub(crate) media_type: MediaType,
    /// Config and layers of a manifest.
    pub(crate) blobs: Vec<Descriptor>,
    /// Children of an index.
    pub(crate) manifests: Vec<Descriptor>,
    /// What it is attached to.
    pub(crate) subject: Option<Descriptor>,
    pub(crate) artifact_type: Option<MediaType>,
    pub(crate) annotations: Option<std::collections::HashMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<MediaType>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    #[serde(default)]
    annotations: Option<std::collections::HashMap<String, String>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Parses a manifest or index; `content_type` is what the registry or a descriptor called it.
///
/// A document that could be read as both (CVE-2021-41190), or as something else than it was called, is refused.
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Graph> {
    check_parts(parts(bytes))?;
    check_depth(bytes)?;
    let raw: Raw =
        serde_json::from_slice(bytes).map_err(|e| Error::manifest(digest::clip(&e.to_string())))?;
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
        return Err(Error::Schema1);
    }
    if raw.schema_version != Some(2) {
        return Err(Error::manifest("schemaVersion is not 2"));
    }
    if (raw.layers.is_some() || raw.config.is_some()) && raw.manifests.is_some() {
        return Err(Error::manifest(
            "it has both layers and manifests, so that it could be taken for either",
        ));
    }
    let content_type = content_type.map(essence);
    let media_type = match (raw.media_type.as_deref(), content_type.as_deref()) {
        (Some(inner), Some(outer)) if inner != outer && is_generic(outer) => inner,
        (Some(inner), Some(outer)) if inner != outer => {
            let (inner, outer) = (digest::clip(inner), digest::clip(outer));
            return Err(Error::manifest(format!("it was announced as {outer} and says of itself {inner}")));
        }
        (Some(one), _) => one,
        (None, Some(one)) if !is_generic(one) => one,
        // An old OCI document without a type of its own.
        _ if raw.manifests.is_some() => OCI_INDEX,
        _ => OCI_MANIFEST,
    };
    let kind = kind_of(media_type).ok_or_else(|| {
        Error::manifest(format!("the type {:?} is not supported", digest::clip(media_type)))
    })?;
    let graph = Graph {
        kind,
        media_type: media_type.into(),
        blobs: match (kind, raw.config, raw.layers) {
            (Kind::Index, ..) => Vec::new(),
            (Kind::Manifest, Some(config), layers) => {
                std::iter::once(config).chain(layers.unwrap_or_default()).collect()
            }
            (Kind::Manifest, None, _) => return Err(Error::manifest("it has no config")),
        },
        manifests: match (kind, raw.manifests) {
            (Kind::Manifest, _) => Vec::new(),
            (Kind::Index, Some(manifests)) => manifests,
            (Kind::Index, None) => return Err(Error::manifest("it has no manifests")),
        },
        subject: raw.subject,
        artifact_type: raw.artifact_type,
        annotations: raw.annotations,
    };
    for d in graph.blobs.iter().chain(&graph.manifests).chain(&graph.subject) {
        digest::parse(d.digest().as_ref())?;
    }
    Ok(graph)
}

/// Quotation marks in a document: how much it is made of. Descriptors and annotations as short as can be take many times their own size
/// in memory; those that are meant seriously do not.
pub(crate) fn parts(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| **b == b'"').count()
}

/// Some seven thousand layers with three annotations each.
const PARTS_MAX: usize = 150_000;

pub(crate) fn check_parts(parts: usize) -> Result<()> {
    if parts <= PARTS_MAX { Ok(()) } else { Err(Error::manifest("it has too many parts")) }
}

/// Of brackets in brackets; what follows the specification has five. The parser's own limit counts only where it reads, and not in
/// fields that it skips, which a reader of the same bytes may not skip.
const DEPTH_MAX: usize = 128;

fn check_depth(bytes: &[u8]) -> Result<()> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(Error::manifest(format!("it is nested more than {DEPTH_MAX} levels deep")));
        }
    }
    Ok(())
}

/// The children of indexes that one call has come to: a document of some kilobytes can name each of its children a thousand times, and
/// those theirs.
pub(crate) struct Visited {
    seen: Mutex<HashSet<(Digest, String, u64)>>,
    most: usize,
}

impl Visited {
    pub(crate) fn new(most: usize) -> Self {
        Self { seen: Mutex::default(), most }
    }

    /// Whether it is new.
    pub(crate) fn add(&self, child: &Descriptor) -> Result<bool> {
        let mut seen = lock(&self.seen);
        let new = seen.insert((child.digest().clone(), child.media_type().to_string(), child.size()));
        if seen.len() > self.most {
            return Err(Error::manifest(format!(
                "with what it names it is more than {} manifests",
                self.most
            )));
        }
        Ok(new)
    }
}

/// The type without parameters.
fn essence(content_type: &str) -> Cow<'_, str> {
    let essence = content_type.split(';').next().unwrap_or("").trim();
    if essence.bytes().any(|b| b.is_ascii_uppercase()) {
        essence.to_ascii_lowercase().into()
    } else {
        essence.into()
    }
}

/// What plain web servers say, which tells nothing.
fn is_generic(content_type: &str) -> bool {
    matches!(
        content_type,
        "" | "application/json" | "text/plain" | "application/octet-stream" | "binary/octet-stream"
    )
}

/// Whether a layer is not to be copied: Windows base layers and such.
pub(crate) fn is_foreign(descriptor: &Descriptor) -> bool {
    let media_type = descriptor.media_type().as_ref();
    media_type.contains("nondistributable") || media_type.contains(".foreign.")
}

impl Client {
    /// The manifest of an index that fits the platform best; without one, the machine's that this program was built for.
    ///
    /// Operating system and architecture must be equal. Among variants (`arm` v8 to v5, `amd64` v4 to v1) the highest wins that is not
    /// above the wanted one; an entry without a variant counts as the base (`arm` v7, `arm64` v8, `amd64` v1).
    /// An `os.version` or `os.features` that is asked for must be there.
    pub fn select(&self, index: &[u8], platform: Option<&Platform>) -> Result<Descriptor> {
        let graph = parse(index, None)?;
        if graph.kind != Kind::Index {
            return Err(Error::manifest("it is no index"));
        }
        let host = host_platform();
        let wanted = platform.unwrap_or(&host);
        let mut best: Option<(u32, &Descriptor)> = None;
        for manifest in &graph.manifests {
            let score = manifest.platform().as_ref().and_then(|p| fit(wanted, p));
            // The first of equals, as Docker does.
            if let Some(score) = score
                && best.is_none_or(|(s, _)| score > s)
            {
                best = Some((score, manifest));
            }
        }
        best.map(|(_, d)| d.clone()).ok_or_else(|| Error::NoPlatform {
            wanted: show(wanted),
            available: graph
                .manifests
                .iter()
                .filter_map(|m| m.platform().as_ref())
                .take(64)
                .map(show)
                .collect(),
        })
    }
}

fn host_platform() -> Platform {
    let mut platform = Platform::default();
    platform.set_os(std::env::consts::OS.into());
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    };
    platform.set_architecture(architecture.into());
    platform
}

/// How well `offered` serves `wanted`; higher is better, `None` is not at all.
fn fit(wanted: &Platform, offered: &Platform) -> Option<u32> {
    if wanted.os() != offered.os() || wanted.architecture() != offered.architecture() {
        return None;
    }
    if wanted.os_version().is_some() && wanted.os_version() != offered.os_version() {
        return None;
    }
    let has = offered.os_features().as_deref().unwrap_or_default();
    if !wanted.os_features().as_deref().unwrap_or_default().iter().all(|f| has.contains(f)) {
        return None;
    }
    let architecture = wanted.architecture().to_string();
    let wanted_text = wanted.variant().as_deref();
    let offered_text = offered.variant().as_deref();
    if wanted_text.is_some() && wanted_text == offered_text {
        return Some(1000);
    }
    let (wanted_level, offered_level) =
        (level(&architecture, wanted_text)?, level(&architecture, offered_text)?);
    (offered_level <= wanted_level).then_some(offered_level)
}

/// `v8.1` counts as 801; an unknown variant serves nobody but itself.
fn level(architecture: &str, variant: Option<&str>) -> Option<u32> {
    let Some(variant) = variant.filter(|v| !v.is_empty()) else {
        return Some(match architecture {
            "arm" => 700,
            "arm64" => 800,
            _ => 100,
        });
    };
    let (major, minor) = variant
        .strip_prefix('v')
        .unwrap_or(variant)
        .split_once('.')
        .unwrap_or((variant.strip_prefix('v').unwrap_or(variant), "0"));
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 100 && minor < 100).then_some(major * 100 + minor)
}

fn show(platform: &Platform) -> String {
    let mut text = format!("{}/{}", platform.os(), platform.architecture());
    if let Some(variant) = platform.variant() {
        text.push('/');
        text.push_str(variant);
    }
    digest::clip(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:7cc4b5aefd1d0cadf8d97d4350462ba51c694ebca145b08d7d41b41acc8db5aa";

    fn index(platforms: &[&str]) -> String {
        let manifests: Vec<String> = platforms
            .iter()
            .enumerate()
            .map(|(i, p)| {
                let mut parts = p.split('/');
                let (os, arch) = (parts.next().unwrap(), parts.next().unwrap());
                let variant = parts.next().map(|v| format!(r#","variant":"{v}""#)).unwrap_or_default();
                format!(
                    r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{D}","size":{i},"platform":{{"os":"{os}","architecture":"{arch}"{variant}}}}}"#
                )
            })
            .collect();
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#, manifests.join(","))
    }

    fn pick(platforms: &[&str], wanted: &str) -> Option<u64> {
        let mut parts = wanted.split('/');
        let mut platform = Platform::default();
        platform.set_os(parts.next().unwrap().into());
        platform.set_architecture(parts.next().unwrap().into());
        platform.set_variant(parts.next().map(str::to_owned));
        let client = Client::builder().build().unwrap();
        client.select(index(platforms).as_bytes(), Some(&platform)).ok().map(|d| d.size())
    }

    #[test]
    fn picks_the_best_variant() {
        let arms = [
            "linux/amd64",
            "linux/arm/v5",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/arm64/v8",
            "unknown/unknown",
        ];
        assert_eq!(pick(&arms, "linux/arm/v6"), Some(2));
        assert_eq!(pick(&arms, "linux/arm/v8"), Some(3));
        assert_eq!(pick(&arms, "linux/arm"), Some(3));
        assert_eq!(pick(&arms, "linux/arm64"), Some(4));
        assert_eq!(pick(&arms, "linux/amd64/v3"), Some(0));
        assert_eq!(pick(&["linux/amd64", "linux/amd64/v2", "linux/amd64/v3"], "linux/amd64/v2"), Some(1));
        assert_eq!(pick(&["linux/amd64/v3"], "linux/amd64"), None);
        assert_eq!(pick(&["linux/arm/v7"], "linux/arm/v6"), None);
        assert_eq!(pick(&["windows/amd64", "linux/amd64"], "linux/amd64"), Some(1));
        assert_eq!(pick(&arms, "linux/riscv64"), None);
    }

    #[test]
    fn refuses_documents_of_two_meanings() {
        let d = format!(r#"{{"mediaType":"x","digest":"{D}","size":1}}"#);
        let both = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}],"manifests":[{d}]}}"#);
        assert!(parse(both.as_bytes(), None).unwrap_err().to_string().contains("either"));
        let manifest =
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{d},"layers":[{d}]}}"#);
        assert!(parse(manifest.as_bytes(), Some(OCI_INDEX)).is_err());
        assert!(
            parse(manifest.as_bytes(), Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"))
                .is_ok()
        );
        let untyped = format!(r#"{{"schemaVersion":2,"config":{d},"layers":[{d}]}}"#);
        assert!(parse(untyped.as_bytes(), Some(OCI_INDEX)).is_err());
        assert_eq!(parse(untyped.as_bytes(), None).unwrap().blobs.len(), 2);
    }

    #[test]
    fn refuses_deep_nesting_also_in_fields_of_no_meaning() {
        let d = format!(r#"{{"mediaType":"x","digest":"{D}","size":1}}"#);
        let with = |x: &str| {
            parse(format!(r#"{{"schemaVersion":2,"config":{d},"layers":[],"x":{x}}}"#).as_bytes(), None)
        };
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        for fine in
            [nested(127), format!("[{}]", vec!["[]"; 1000].join(",")), format!(r#""\"{}""#, nested(500))]
        {
            assert!(with(&fine).is_ok(), "{fine}");
        }
        for deep in [nested(128), r#"{"a":"#.repeat(128) + "1" + &"}".repeat(128), nested(1_000_000)] {
            let error = with(&deep).unwrap_err().to_string();
            assert!(error.contains("more than 128 levels"), "{error}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_verified() {
        assert!(matches!(parse(br#"{"schemaVersion":1,"fsLayers":[]}"#, None), Err(Error::Schema1)));
        for digest in ["sha256:../../etc/passwd", "md5:d41d8cd98f00b204e9800998ecf8427e", "", "sha256:ABC"] {
            let d = format!(r#"{{"mediaType":"x","digest":"{digest}","size":1}}"#);
            assert!(
                parse(format!(r#"{{"schemaVersion":2,"config":{d},"layers":[]}}"#).as_bytes(), None).is_err()
            );
        }
        for size in ["-1", "9223372036854775808000", "1.5", "\"1\""] {
            let d = format!(r#"{{"mediaType":"x","digest":"{D}","size":{size}}}"#);
            assert!(
                parse(format!(r#"{{"schemaVersion":2,"config":{d},"layers":[]}}"#).as_bytes(), None).is_err()
            );
        }
    }
}
