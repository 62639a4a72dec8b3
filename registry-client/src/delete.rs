//! Removal, and tags without transfer.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};

use crate::auth::Scopes;
use crate::endpoint::lock;
use crate::exchange::Call;
use crate::manifest;
use crate::push::{Content, Push};
use crate::transport::Method;
use crate::{BoxError, CancelToken, Client, Ctx, Error, Reference, Result, Source, digest};

impl Client {
    /// Deletes what the reference names: a manifest where it has a digest (with all tags on it), else the tag alone.
    ///
    /// Registries that cannot delete a tag (docker-registry 2) are helped: the tag is moved to an empty manifest made for the
    /// purpose, and that is deleted; only where they are seen to delete manifests, and if it still fails or is cancelled then, the tag
    /// is put back, for which it may take ten seconds more. A manifest that is attached to another is taken off the list that clients keep of those where the
    /// registry does not (distribution-spec, "Referrers Tag Schema"); an error about that list comes after the manifest is gone.
    pub fn delete(&self, reference: &Reference) -> Result<()> {
        match (reference.digest(), reference.tag()) {
            (None, Some(tag)) => match self.delete_manifest(reference, tag) {
                Err(Error::Status { status: 400 | 405, .. }) => self.delete_tag_by_detour(reference, tag),
                other => other,
            },
            (None, None) => self.delete_manifest(reference, reference.selector()),
            (Some(digest), _) => {
                let source = self.source(reference)?.without_mirrors();
                let subject = subject_of(&source, digest)?;
                self.delete_manifest(reference, digest.as_ref())?;
                lock(&self.0.manifests).remove(digest);
                subject.map_or(Ok(()), |subject| source.detach(digest, &subject))
            }
        }
    }

    /// Deletes a blob. Manifests that name it are then broken.
    pub fn delete_blob(&self, reference: &Reference, digest: &Digest) -> Result<()> {
        let digest = digest::parse(digest.as_ref())?;
        self.send_delete(reference, &format!("/{}/blobs/{digest}", reference.repository()))
    }

    /// Lets other tags of the same repository point to what the reference names, without moving blobs.
    ///
    /// Several go in one request where the registry has that (`?tag=`, answered by `OCI-Tag`), else one by one.
    pub fn tag(&self, reference: &Reference, tags: &[&str]) -> Result<Descriptor> {
        for tag in tags {
            reference.with_tag(tag)?;
        }
        let source = self.source(reference)?.without_mirrors();
        let (root, bytes) = source.manifest(reference.selector())?;
        let content = Two([(root.clone(), bytes.clone()), (root.clone(), bytes.clone())]);
        let (repository, cancel) = (reference.repository(), &self.1);
        let push = Push::new(&self.0, &source.registry, repository, &content, Ctx::none(), cancel);
        let mut left: Vec<&str> = tags.to_vec();
        let quirk = &source.registry.server.quirks.no_tag_list;
        while left.len() > 1 && !quirk.load(Ordering::Relaxed) {
            let some = &left[..left.len().min(TAGS_AT_ONCE)];
            let reply =
                push.put_manifest(&format!("{}?tag={}", root.digest(), some.join("&tag=")), &root, &bytes)?;
            let set: Vec<&str> =
                reply.headers.all("oci-tag").flat_map(|v| v.split(',')).map(str::trim).collect();
            let before = left.len();
            left.retain(|tag| !set.contains(tag));
            if left.len() == before {
                quirk.store(true, Ordering::Relaxed);
            }
        }
        for tag in left {
            push.put_manifest(tag, &root, &bytes)?;
        }
        Ok(root)
    }

    fn delete_manifest(&self, reference: &Reference, selector: &str) -> Result<()> {
        self.send_delete(reference, &format!("/{}/manifests/{selector}", reference.repository()))
    }

    fn send_delete(&self, reference: &Reference, path: &str) -> Result<()> {
        let registry = self.0.registry(reference.registry())?;
        let scopes = Scopes::repository(reference.repository(), "delete,pull,push");
        let reply = self.0.call(&registry.server, &Call::new(Method::Delete, path, scopes, &self.1));
        match reply {
            Err(Error::Status { status: 405, codes, .. })
                if path.contains("/blobs/")
                    || codes.iter().any(|c| c.code == "UNSUPPORTED") && path.contains("sha") =>
            {
                Err(Error::Unsupported { registry: reference.registry().to_owned(), what: "deletion" })
            }
            // The reply to a first try was lost; gone it is.
            Err(Error::Status { status: 404, attempts: 2.., .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    fn delete_tag_by_detour(&self, reference: &Reference, tag: &str) -> Result<()> {
        let source = self.source(reference)?.without_mirrors();
        // Only where there is such a tag: the detour would make it.
        let (old, bytes) = source.manifest(tag)?;
        let note = format!("{tag} {}", old.digest());
        // First one that no tag points to: where that cannot be deleted, the tag is not touched.
        let (trial, content) = stand_in(&format!("{note} trial"));
        self.push(&reference.with_digest(trial.digest().clone()), &trial, &content, Ctx::none())?;
        match self.delete_manifest(reference, trial.digest().as_ref()) {
            // A server that always says so is found out below.
            Err(e) if e.is_not_found() => {}
            other => other?,
        }
        let (empty, content) = stand_in(&note);
        let done = self
            .push(reference, &empty, &content, Ctx::none())
            .and_then(|_| self.delete_manifest(reference, empty.digest().as_ref()));
        let Err(error) = done else { return Ok(()) };
        // Also after a cancellation, which therefore does not count here.
        let cancel = CancelToken::new().until(Instant::now() + PUT_BACK);
        let source = source.with_cancel(cancel.clone());
        match source.resolve(tag) {
            Err(e) if e.is_not_found() => return Ok(()),
            // It never moved, or somebody else has moved it since.
            Ok(now) if now.digest() != empty.digest() => return Err(error),
            _ => {}
        }
        let (registry, repository) = (&source.registry, reference.repository());
        let push = Push::new(&self.0, registry, repository, &content, Ctx::none(), &cancel);
        if let Err(e) = push.put_manifest(tag, &old, &bytes) {
            let text = format!("the tag {tag} is left on an empty manifest instead of {}: {e}", old.digest());
            self.0.warn(&registry.server, &text);
        }
        Err(if error.is_not_found() {
            Error::Unsupported { registry: reference.registry().to_owned(), what: "deletion" }
        } else {
            error
        })
    }
}

/// An empty manifest that nobody else has.
fn stand_in(note: &str) -> (Descriptor, Two) {
    let empty = Bytes::from_static(b"{}");
    let config = Descriptor::new(EMPTY.into(), 2, digest::sha256(&empty));
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": manifest::OCI_MANIFEST, "config": config, "layers": [config],
        "annotations": { "org.longshore.untagged": note },
    });
    let manifest = Bytes::from(manifest.to_string());
    let root =
        Descriptor::new(manifest::OCI_MANIFEST.into(), manifest.len() as u64, digest::sha256(&manifest));
    (root.clone(), Two([(config, empty), (root, manifest)]))
}

/// What the manifest is attached to. One that cannot be read or understood may still be deleted.
fn subject_of(source: &Source, digest: &Digest) -> Result<Option<Digest>> {
    let bytes = match source.manifest(digest.as_ref()) {
        Ok((_, bytes)) => bytes,
        Err(e) if e.is_auth() || e.is_corrupt() || matches!(e, Error::Schema1 | Error::TooLarge { .. }) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    Ok(manifest::parse(&bytes, None)?.subject.map(|s| s.digest().clone()))
}

/// As many as every registry with that function takes.
const TAGS_AT_ONCE: usize = 10;
/// For a tag to be put back after its deletion failed.
const PUT_BACK: Duration = Duration::from_secs(10);
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Two pieces of content in memory.
struct Two([(Descriptor, Bytes); 2]);

impl Content for Two {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn std::io::Read + Send>, BoxError> {
        let found = self.0.iter().find(|(d, _)| d.digest() == descriptor.digest());
        let (_, bytes) = found.ok_or("no such content")?;
        Ok(Box::new(std::io::Cursor::new(bytes.clone())))
    }
}
