//! What is attached to an image: signatures, inventories, attestations (distribution-spec, "Listing Referrers").

use std::sync::atomic::Ordering;

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};
use serde_json::json;

use crate::auth::Scopes;
use crate::endpoint::Endpoint;
use crate::exchange::{Call, Payload};
use crate::list::List;
use crate::manifest::{self, Graph, Kind};
use crate::push::Push;
use crate::transport::{Headers, Method, Response};
use crate::{Client, Error, Reference, Result, Source, digest};

const ALGORITHM_MAX: usize = 32;
const ENCODED_MAX: usize = 64;
/// Codes of errors that are no news of the whole registry.
const OF_ONE_REPOSITORY: [&str; 3] = ["NAME_UNKNOWN", "MANIFEST_UNKNOWN", "DENIED"];
/// How often the fallback list is written again because another client was faster.
const RACES_MAX: usize = 5;

/// What stands under a fallback tag.
#[derive(Default)]
struct Listed {
    entries: Vec<Descriptor>,
    /// All of it, the list's own annotations too.
    index: serde_json::Map<String, serde_json::Value>,
    validator: Option<String>,
}

impl Client {
    /// Descriptors of the manifests that are attached to `subject` in the reference's repository, of one artifact type or of all.
    ///
    /// Where the registry has no referrers API, the list that clients keep under the tag `ALGORITHM-ENCODED` answers.
    pub fn referrers(
        &self,
        reference: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let subject = digest::parse(subject.as_ref())?;
        let source = self.source(reference)?;
        let endpoint = &source.registry.server;
        let listed = match source.referrers_api(endpoint, &subject, artifact_type)? {
            Some(listed) => listed,
            None => source.referrers_tag(endpoint, &subject)?.unwrap_or_default().entries,
        };
        let fits = |d: &Descriptor| {
            artifact_type.is_none_or(|t| d.artifact_type().as_ref().is_some_and(|a| a.as_ref() == t))
        };
        Ok(listed.into_iter().filter(fits).collect())
    }
}

impl Source {
    /// `None` where the registry has no such API.
    fn referrers_api(
        &self,
        endpoint: &Endpoint,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>> {
        if endpoint.quirks.no_referrers.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let mut path = format!("/{}/referrers/{subject}", self.repository);
        if let Some(wanted) = artifact_type {
            path.push_str("?artifactType=");
            crate::url::encode(wanted, &mut path);
        }
        let scopes = Scopes::repository(&self.repository, "pull");
        let (mut listed, mut parts, mut json) = (Vec::new(), 0, false);
        let list = List { path: &path, scopes, accept: manifest::OCI_INDEX, cancel: &self.cancel };
        let asked = self.inner.each_page(endpoint, &list, |body| {
            json = body.trim_ascii_start().starts_with(b"{");
            parts += manifest::parts(&body);
            if manifest::check_parts(parts).is_err() {
                return Err(Error::TooLarge { what: "a list".into(), limit: self.inner.limits.list });
            }
            listed.extend(manifest::parse(&body, Some(manifest::OCI_INDEX))?.manifests);
            Ok(())
        });
        match asked {
            Ok(()) => Ok(Some(listed)),
            Err(Error::Status { status: 404 | 405 | 501, codes, .. }) => {
                // What is missing may be this repository, which says nothing of the others.
                if !codes.iter().any(|c| OF_ONE_REPOSITORY.contains(&c.code.as_str())) {
                    endpoint.quirks.no_referrers.store(true, Ordering::Relaxed);
                }
                Ok(None)
            }
            // Some answer every unknown path with a page of their own.
            Err(Error::Manifest { .. }) if !json => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The list under the fallback tag.
    fn referrers_tag(&self, endpoint: &Endpoint, subject: &Digest) -> Result<Option<Listed>> {
        let path = format!("/{}/manifests/{}", self.repository, fallback_tag(subject));
        let mut call =
            Call::new(Method::Get, &path, Scopes::repository(&self.repository, "pull"), &self.cancel);
        call.headers = Headers::new().with("accept", manifest::OCI_INDEX);
        let limit = self.inner.limits.manifest;
        let (reply, body) = match self.inner.fetch(endpoint, &call, limit, "a list of referrers") {
            Err(e) if e.is_not_found() => return Ok(None),
            other => other?,
        };
        // A weak one never matches where the list is written (RFC 9110, section 13.1.1).
        let validator = reply.headers.get("etag").filter(|e| e.starts_with('"')).map(str::to_owned);
        let graph = manifest::parse(&body, None)?;
        if graph.kind != Kind::Index {
            return Err(Error::manifest("the tag of the referrers' list holds something else"));
        }
        // What is not understood is kept as well, and may be numbers, which are small as text only.
        manifest::check_parts(body.iter().filter(|b| **b == b',').count())?;
        let index = serde_json::from_slice(&body).map_err(|e| Error::manifest(e.to_string()))?;
        Ok(Some(Listed { entries: graph.manifests, index, validator }))
    }
}

impl Push<'_> {
    /// Where the manifest is attached to another: makes sure that it is listed there. A registry that does so by itself says so in its
    /// reply to the manifest, or has the API where it was there before.
    pub(crate) fn attach(
        &self,
        root: &Descriptor,
        graph: &Graph,
        reply: Option<&Response>,
        source: &Source,
    ) -> Result<()> {
        let Some(subject) = &graph.subject else { return Ok(()) };
        let by_itself = match reply {
            Some(reply) => reply.headers.get("oci-subject").is_some(),
            None => source.referrers_api(self.endpoint, subject.digest(), None)?.is_some(),
        };
        if by_itself {
            return Ok(());
        }
        let mut entry = root.clone();
        // By the spec the config's type stands for an artifact's that has none.
        let kind =
            graph.artifact_type.clone().or_else(|| graph.blobs.first().map(|c| c.media_type().clone()));
        entry.set_artifact_type(kind);
        entry.set_annotations(graph.annotations.clone());
        source.edit_list(subject.digest(), |listed| {
            let missing = !listed.iter().any(|d| d.digest() == root.digest());
            if missing {
                listed.push(entry.clone());
            }
            missing
        })
    }
}

impl Source {
    /// The manifest is gone: takes it off the list of what it was attached to, where clients keep that list.
    pub(crate) fn detach(&self, gone: &Digest, subject: &Digest) -> Result<()> {
        if self.referrers_api(&self.registry.server, subject, None)?.is_some() {
            return Ok(());
        }
        self.edit_list(subject, |listed| {
            let before = listed.len();
            listed.retain(|d| d.digest() != gone);
            listed.len() < before
        })
    }

    /// Changes the list under the fallback tag; `change` says whether it did.
    fn edit_list(&self, subject: &Digest, change: impl Fn(&mut Vec<Descriptor>) -> bool) -> Result<()> {
        let endpoint = &self.registry.server;
        let _alone = endpoint.editing(&self.cancel)?;
        let mut refused = false;
        for _ in 0..RACES_MAX {
            // Read again after it was written: a registry may ignore `If-Match`, and another client may have been in between.
            let known = self.referrers_tag(endpoint, subject)?;
            let first = known.is_none();
            let mut listed = known.unwrap_or_default();
            if !change(&mut listed.entries) {
                return Ok(());
            }
            let mut list = listed.index;
            list.insert("schemaVersion".into(), 2.into());
            list.insert("mediaType".into(), manifest::OCI_INDEX.into());
            list.insert("manifests".into(), json!(listed.entries));
            let list = json!(list).to_string();
            let condition = if first && refused {
                // It was not there before nor after: that registry does not take the condition for what it is.
                None
            } else if first {
                Some(("if-none-match", "*"))
            } else {
                listed.validator.as_deref().map(|v| ("if-match", v))
            };
            match self.put_list(endpoint, &fallback_tag(subject), list.into(), condition) {
                Ok(()) => {}
                Err(Error::Status { status: 412, .. }) => refused = first,
                Err(e) => return Err(e),
            }
        }
        Err(Error::protocol(endpoint.origin(), "the list of referrers changes too fast to be edited"))
    }

    fn put_list(
        &self,
        endpoint: &Endpoint,
        tag: &str,
        list: Bytes,
        condition: Option<(&str, &str)>,
    ) -> Result<()> {
        let path = format!("/{}/manifests/{tag}", self.repository);
        let scopes = Scopes::repository(&self.repository, "pull,push");
        let mut call = Call::new(Method::Put, &path, scopes, &self.cancel);
        call.headers = Headers::new().with("content-type", manifest::OCI_INDEX);
        if let Some((name, value)) = condition {
            call.headers.push(name, value);
        }
        call.body = Payload::Bytes(list);
        self.inner.call(endpoint, &call).map(drop)
    }
}

/// distribution-spec, "Referrers Tag Schema".
fn fallback_tag(subject: &Digest) -> String {
    let clean = |text: &str, max: usize| -> String {
        let keep = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        text.chars().take(max).map(|c| if keep(c) { c } else { '-' }).collect()
    };
    format!("{}-{}", clean(subject.algorithm().as_ref(), ALGORITHM_MAX), clean(subject.digest(), ENCODED_MAX))
}
