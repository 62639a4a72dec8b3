//! What the registry holds, and the answers to each endpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::http::{Request, Response};

#[derive(Debug, Default)]
pub(super) struct State {
    blobs: HashMap<String, Arc<Vec<u8>>>,
    repositories: BTreeMap<String, Repository>,
    uploads: HashMap<String, Vec<u8>>,
    last_upload: u64,
}

#[derive(Debug, Default)]
struct Repository {
    blobs: BTreeSet<String>,
    manifests: BTreeMap<String, Manifest>,
    tags: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Manifest {
    media_type: String,
    bytes: Arc<Vec<u8>>,
}

impl State {
    pub(super) fn catalog(&self) -> Response {
        Response::json(200, &json!({"repositories": self.repositories.keys().collect::<Vec<_>>()}))
    }

    pub(super) fn tags(&self, name: &str) -> Response {
        let Some(repository) = self.repositories.get(name) else {
            return Response::error(404, "NAME_UNKNOWN", "repository name not known to registry");
        };
        Response::json(200, &json!({"name": name, "tags": repository.tags.keys().collect::<Vec<_>>()}))
    }

    pub(super) fn manifest(&mut self, name: &str, reference: &str, request: &Request) -> Response {
        let unknown = || Response::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        if request.method == "PUT" {
            return self.put_manifest(name, reference, request);
        }
        let Some(repository) = self.repositories.get_mut(name) else { return unknown() };
        if request.method == "DELETE" {
            let tag = repository.tags.remove(reference).is_some();
            let manifest = repository.manifests.remove(reference).is_some();
            repository.tags.retain(|_, digest| digest != reference);
            return if tag || manifest { Response::new(202) } else { unknown() };
        }
        let digest = repository.tags.get(reference).map_or(reference, String::as_str);
        let Some(manifest) = repository.manifests.get(digest) else { return unknown() };
        Response::new(200)
            .header("Content-Type", manifest.media_type.clone())
            .header("Docker-Content-Digest", digest)
            .body(Arc::clone(&manifest.bytes))
    }

    fn put_manifest(&mut self, name: &str, reference: &str, request: &Request) -> Response {
        let digest = sha256(&request.body);
        let tag = !reference.contains(':');
        if !tag && reference != digest {
            return Response::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
        }
        let repository = self.repositories.entry(name.to_owned()).or_default();
        let missing = blobs_of(&request.body).into_iter().find(|d| !repository.blobs.contains(d));
        if let Some(missing) = missing {
            return Response::error(404, "MANIFEST_BLOB_UNKNOWN", &format!("blob unknown: {missing}"));
        }
        let media_type = request.header("Content-Type").unwrap_or_default().to_owned();
        let bytes = Arc::new(request.body.clone());
        repository.manifests.insert(digest.clone(), Manifest { media_type, bytes });
        if tag {
            repository.tags.insert(reference.to_owned(), digest.clone());
        }
        Response::new(201)
            .header("Location", format!("/v2/{name}/manifests/{digest}"))
            .header("Docker-Content-Digest", digest)
    }

    pub(super) fn blob(&mut self, name: &str, digest: &str, request: &Request) -> Response {
        let known = self.repositories.get(name).is_some_and(|r| r.blobs.contains(digest));
        let Some(blob) = self.blobs.get(digest).filter(|_| known) else {
            return Response::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        if request.method == "DELETE" {
            if let Some(repository) = self.repositories.get_mut(name) {
                repository.blobs.remove(digest);
            }
            return Response::new(202);
        }
        let range = request.header("Range").and_then(|r| parse_range(r, blob.len()));
        let response = Response::new(if range.is_some() { 206 } else { 200 })
            .header("Content-Type", "application/octet-stream")
            .header("Docker-Content-Digest", digest)
            .header("ETag", format!("\"{digest}\""))
            .header("Accept-Ranges", "bytes")
            .body(Arc::clone(blob));
        match range {
            Some(range) => response.range(range),
            None => response,
        }
    }

    pub(super) fn upload(&mut self, name: &str, id: &str, request: &Request) -> Response {
        match request.method.as_str() {
            "POST" => self.start_upload(name, request),
            "PATCH" => self.patch_upload(name, id, request),
            "PUT" => match self.uploads.remove(id) {
                Some(begun) => self.finish_upload(name, begun, request),
                None => upload_unknown(),
            },
            "GET" => self.upload_status(name, id),
            "DELETE" if self.uploads.remove(id).is_some() => Response::new(204),
            _ => upload_unknown(),
        }
    }

    /// `POST`: a mount from another repository, a whole blob in one request, or a new session.
    fn start_upload(&mut self, name: &str, request: &Request) -> Response {
        if let Some(digest) = request.query("mount") {
            let from = request.query("from").and_then(|from| self.repositories.get(from));
            if from.is_some_and(|r| r.blobs.contains(digest)) {
                return self.created(name, digest);
            }
        }
        if request.query("digest").is_some() {
            return self.finish_upload(name, Vec::new(), request);
        }
        self.last_upload += 1;
        let id = self.last_upload.to_string();
        self.uploads.insert(id.clone(), Vec::new());
        self.upload_status(name, &id)
    }

    fn patch_upload(&mut self, name: &str, id: &str, request: &Request) -> Response {
        let Some(upload) = self.uploads.get_mut(id) else { return upload_unknown() };
        let start = request
            .header("Content-Range")
            .and_then(|r| r.split_once('-'))
            .map(|(start, _)| start.to_owned());
        if start.is_some_and(|start| start != upload.len().to_string()) {
            return Response::error(416, "BLOB_UPLOAD_INVALID", "chunk out of order");
        }
        upload.extend_from_slice(&request.body);
        self.upload_status(name, id)
    }

    fn upload_status(&self, name: &str, id: &str) -> Response {
        let Some(upload) = self.uploads.get(id) else { return upload_unknown() };
        Response::new(202)
            .header("Location", format!("/v2/{name}/blobs/uploads/{id}"))
            .header("Docker-Upload-UUID", id)
            .header("Range", format!("0-{}", upload.len().saturating_sub(1)))
    }

    fn finish_upload(&mut self, name: &str, mut blob: Vec<u8>, request: &Request) -> Response {
        blob.extend_from_slice(&request.body);
        let digest = sha256(&blob);
        if request.query("digest") != Some(digest.as_str()) {
            return Response::error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
        }
        self.blobs.insert(digest.clone(), Arc::new(blob));
        self.created(name, &digest)
    }

    fn created(&mut self, name: &str, digest: &str) -> Response {
        self.repositories.entry(name.to_owned()).or_default().blobs.insert(digest.to_owned());
        Response::new(201)
            .header("Location", format!("/v2/{name}/blobs/{digest}"))
            .header("Docker-Content-Digest", digest)
    }
}

fn upload_unknown() -> Response {
    Response::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::from("sha256:"), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The config and the layers that a manifest names.
fn blobs_of(manifest: &[u8]) -> Vec<String> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap_or_default();
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    let parts = std::iter::once(manifest["config"].clone()).chain(layers);
    parts.filter_map(|part| Some(part["digest"].as_str()?.to_owned())).collect()
}

/// `bytes=START-[END]`, both inclusive.
fn parse_range(text: &str, size: usize) -> Option<std::ops::Range<usize>> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    let start = start.parse().ok()?;
    let end = if end.is_empty() { size } else { end.parse::<usize>().ok()?.checked_add(1)?.min(size) };
    (start < end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes=2-", 10), Some(2..10));
        assert_eq!(parse_range("bytes=2-4", 10), Some(2..5));
        assert_eq!(parse_range("bytes=2-400", 10), Some(2..10));
        assert_eq!(parse_range("bytes=10-", 10), None);
        assert_eq!(parse_range("bytes=-5", 10), None);
    }
}
