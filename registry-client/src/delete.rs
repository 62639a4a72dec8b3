//! Removal, and tags without transfer.

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};

use crate::auth::Scopes;
use crate::exchange::Call;
use crate::manifest;
use crate::push::{Content, Push};
use crate::transport::Method;
use crate::{BoxError, Client, Ctx, Error, Reference, Result, digest, parallel};

impl Client {
    /// Deletes what the reference names: a manifest where it has a digest (with all tags on it), else the tag alone.
    ///
    /// Registries that cannot delete a tag (docker-registry 2) are helped: the tag is moved to an empty manifest made for the
    /// purpose, and that is deleted.
    pub fn delete(&self, reference: &Reference) -> Result<()> {
        match (reference.digest(), reference.tag()) {
            (None, Some(tag)) => match self.delete_manifest(reference, tag) {
                Err(Error::Status { status: 400 | 405, .. }) => self.delete_tag_by_detour(reference, tag),
                other => other,
            },
            _ => self.delete_manifest(reference, reference.selector()),
        }
    }

    /// Deletes a blob. Manifests that name it are then broken.
    pub fn delete_blob(&self, reference: &Reference, digest: &Digest) -> Result<()> {
        let digest = digest::parse(digest.as_ref())?;
        self.send_delete(reference, &format!("/{}/blobs/{digest}", reference.repository()))
    }

    /// Lets another tag of the same repository point to what the reference names, without moving blobs.
    pub fn tag(&self, reference: &Reference, tag: &str) -> Result<Descriptor> {
        let target = reference.with_tag(tag)?;
        let (root, bytes) = self.manifest(reference)?;
        self.put_manifest(&target, tag, &root, &bytes)?;
        Ok(root)
    }

    fn delete_manifest(&self, reference: &Reference, selector: &str) -> Result<()> {
        self.send_delete(reference, &format!("/{}/manifests/{selector}", reference.repository()))
    }

    fn send_delete(&self, reference: &Reference, path: &str) -> Result<()> {
        let registry = self.0.registry(reference.registry())?;
        let scopes = Scopes::repository(reference.repository(), "delete,pull,push");
        let reply = self.0.call(&registry.server, &Call::new(Method::Delete, path, scopes, &self.0.cancel));
        match reply {
            Err(Error::Status { status: 405, codes, .. })
                if path.contains("/blobs/")
                    || codes.iter().any(|c| c.code == "UNSUPPORTED") && path.contains("sha") =>
            {
                Err(Error::Unsupported { registry: reference.registry().to_owned(), what: "deletion" })
            }
            other => other.map(drop),
        }
    }

    fn delete_tag_by_detour(&self, reference: &Reference, tag: &str) -> Result<()> {
        // Only where there is such a tag: the detour would make it.
        let old = self.resolve(reference)?;
        let empty = Bytes::from_static(b"{}");
        let config = Descriptor::new(EMPTY.into(), 2, digest::sha256(&empty));
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": manifest::OCI_MANIFEST, "config": config, "layers": [config],
            "annotations": { "org.longshore.untagged": format!("{tag} {}", old.digest()) },
        });
        let manifest = Bytes::from(manifest.to_string());
        let root =
            Descriptor::new(manifest::OCI_MANIFEST.into(), manifest.len() as u64, digest::sha256(&manifest));
        let content = Two([(config, empty), (root.clone(), manifest)]);
        self.push(reference, &root, &content, Ctx::none())?;
        self.delete_manifest(reference, root.digest().as_ref())
    }

    fn put_manifest(&self, target: &Reference, tag: &str, root: &Descriptor, bytes: &Bytes) -> Result<()> {
        let registry = self.0.registry(target.registry())?;
        let content = Two([(root.clone(), bytes.clone()), (root.clone(), bytes.clone())]);
        parallel::watched(Ctx::none(), &self.0.cancel, |cancel| {
            let push = Push::new(&self.0, &registry, target.repository(), &content, Ctx::none(), cancel);
            push.put_manifest(tag, root, bytes).map(drop)
        })
    }
}

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
