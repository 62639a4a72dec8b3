use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};

use crate::auth::Scopes;
use crate::client::Inner;
use crate::endpoint::{Endpoint, Registry, lock};
use crate::error::BoxError;
use crate::exchange::{Call, Payload};
use crate::manifest::{self, Graph, Kind, Visited};
use crate::transport::{Headers, Method, Response};
use crate::upload::Offer;
use crate::{CancelToken, Client, Ctx, Error, Event, Reference, Result, Source, digest, parallel};

/// From this total on it is worth a request to learn that nothing has to be sent.
const WORTH_ASKING: u64 = 16 << 20;

/// Where a push gets its bytes from (a store, a directory, memory, another registry).
pub trait Content: Send + Sync {
    /// Opens the blob or manifest from its start.
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, BoxError>;

    /// Opens it from `offset` on, to take up an upload that broke. By default the start is read and thrown away.
    fn open_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>, BoxError> {
        let mut reader = self.open(descriptor)?;
        let skipped = io::copy(&mut reader.by_ref().take(offset), &mut io::sink())?;
        if skipped == offset { Ok(reader) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) }
    }

    /// Repositories of this registry that are known to hold the blob, so that it can be mounted rather than sent. Best first.
    fn repositories(&self, descriptor: &Descriptor, registry: &str) -> Vec<String> {
        let _ = (descriptor, registry);
        Vec::new()
    }
}

impl<T: Content + ?Sized> Content for &T {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, BoxError> {
        (**self).open(descriptor)
    }

    fn open_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>, BoxError> {
        (**self).open_at(descriptor, offset)
    }

    fn repositories(&self, descriptor: &Descriptor, registry: &str) -> Vec<String> {
        (**self).repositories(descriptor, registry)
    }
}

impl<T: Content + ?Sized> Content for Arc<T> {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, BoxError> {
        (**self).open(descriptor)
    }

    fn open_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>, BoxError> {
        (**self).open_at(descriptor, offset)
    }

    fn repositories(&self, descriptor: &Descriptor, registry: &str) -> Vec<String> {
        (**self).repositories(descriptor, registry)
    }
}

/// What a push did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pushed {
    /// What the reference points to now.
    pub descriptor: Descriptor,
    /// Blobs sent.
    pub sent: usize,
    /// Blobs that were there or mounted.
    pub reused: usize,
    /// Foreign layers left out.
    pub skipped: usize,
}

impl Client {
    /// Pushes the manifest (or index) `root` and all that it names; `content` opens what is not there yet. Returns what was done.
    ///
    /// Nothing is sent twice: a blob is offered by one `POST ?mount=&from=`, which finds it, mounts it or starts its upload. Blobs go in
    /// parallel, largest first, then child manifests, then `root`. A blob whose upload breaks goes on where the registry has it. A
    /// reference with a digest must have that of `root`.
    pub fn push(
        &self,
        reference: &Reference,
        root: &Descriptor,
        content: &dyn Content,
        ctx: Ctx<'_>,
    ) -> Result<Pushed> {
        if let Some(named) = reference.digest()
            && named != root.digest()
        {
            return Err(Error::Mismatch { expected: named.clone(), actual: root.digest().clone() });
        }
        let registry = self.0.registry(reference.registry())?;
        parallel::watched(ctx, &self.1, |cancel| {
            let push = Push::new(&self.0, &registry, reference.repository(), content, ctx, cancel);
            push.tree(root, reference.digest().is_none().then(|| reference.selector()), 0)?;
            let Counts { sent, reused, skipped } = push.counts;
            Ok(Pushed {
                descriptor: root.clone(),
                sent: sent.into_inner(),
                reused: reused.into_inner(),
                skipped: skipped.into_inner(),
            })
        })
    }
}

#[derive(Default)]
struct Counts {
    sent: AtomicUsize,
    reused: AtomicUsize,
    skipped: AtomicUsize,
}

/// One push under way.
pub(crate) struct Push<'a> {
    pub(crate) inner: &'a Arc<Inner>,
    registry: &'a Arc<Registry>,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) repository: &'a str,
    pub(crate) content: &'a dyn Content,
    pub(crate) ctx: Ctx<'a>,
    pub(crate) cancel: &'a CancelToken,
    visited: Visited,
    counts: Counts,
}

impl<'a> Push<'a> {
    pub(crate) fn new(
        inner: &'a Arc<Inner>,
        registry: &'a Arc<Registry>,
        repository: &'a str,
        content: &'a dyn Content,
        ctx: Ctx<'a>,
        cancel: &'a CancelToken,
    ) -> Self {
        let endpoint = &registry.server;
        let visited = Visited::new(inner.limits.manifests);
        Self {
            inner,
            registry,
            endpoint,
            repository,
            content,
            ctx,
            cancel,
            visited,
            counts: Counts::default(),
        }
    }

    fn source(&self) -> Source {
        Source {
            inner: Arc::clone(self.inner),
            registry: Arc::clone(self.registry),
            repository: self.repository.to_owned(),
            cancel: self.cancel.clone(),
        }
    }

    /// Pushes a manifest and what it names, under a tag or by its digest only.
    fn tree(&self, root: &Descriptor, tag: Option<&str>, depth: usize) -> Result<()> {
        if depth > self.inner.limits.depth {
            return Err(Error::manifest("indexes are nested too deeply"));
        }
        let bytes = self.read_manifest(root)?;
        let graph = manifest::parse(&bytes, Some(root.media_type().as_ref()))?;
        let done = match graph.kind {
            Kind::Manifest => self.blobs(root, tag, &graph)?,
            Kind::Index => self.children(root, tag, &graph, depth)?,
        };
        if done {
            // A push that was interrupted may have left it unlisted.
            self.attach(root, &graph, None, &self.source())?;
        } else {
            let selector = tag.unwrap_or(root.digest().as_ref());
            let reply = match self.put_manifest(selector, root, &bytes) {
                // It has the manifest, and has lost what that names.
                Err(e) if graph.kind == Kind::Manifest && e.has_code("MANIFEST_BLOB_UNKNOWN") => {
                    self.send_all(&self.wanted(&graph.blobs), None)?;
                    self.put_manifest(selector, root, &bytes)?
                }
                other => other?,
            };
            self.attach(root, &graph, Some(&reply), &self.source())?;
        }
        lock(&self.inner.manifests).put(&self.source().place(), root, &bytes);
        self.ctx.report(Event::Done { digest: root.digest() });
        Ok(())
    }

    /// All blobs of a manifest. True if the manifest itself is there too.
    fn blobs(&self, root: &Descriptor, tag: Option<&str>, graph: &Graph) -> Result<bool> {
        let blobs = self.wanted(&graph.blobs);
        let Some(config) = blobs.first() else { return Ok(false) };
        // The config is offered alone: if it is not there, the manifest is not either, and no request is spent on asking.
        let offer = self.offer(config, self.cancel)?;
        let found = !matches!(offer, Offer::Started(_));
        let large = blobs.iter().map(|b| b.size()).fold(0, u64::saturating_add) >= WORTH_ASKING;
        let works = self.endpoint.quirks.mount_works.load(Ordering::Relaxed);
        if found || (large && !works) {
            let there = self.manifest_is_there(root, tag)?;
            if there.is_some() {
                if let Offer::Started(session) = &offer {
                    self.endpoint.quirks.mount_lies.store(true, Ordering::Relaxed);
                    self.abandon(session);
                }
                for blob in &blobs {
                    self.ctx.report(Event::Exists { digest: blob.digest() });
                }
                self.counts.reused.fetch_add(blobs.len(), Ordering::Relaxed);
                return Ok(there == Some(true));
            }
        }
        self.send_all(&blobs, Some(&offer)).map(|()| false)
    }

    /// Blobs side by side, the largest first; the first of them may have been offered already.
    fn send_all(&self, blobs: &[&Descriptor], offered: Option<&Offer>) -> Result<()> {
        let Some((config, layers)) = blobs.split_first() else { return Ok(()) };
        let mut work: Vec<(&Descriptor, Option<Offer>)> = layers.iter().map(|l| (*l, None)).collect();
        work.sort_by_key(|(blob, _)| std::cmp::Reverse(blob.size()));
        work.push((config, offered.cloned()));
        let done =
            parallel::for_each(&work, self.inner.limits.concurrency, self.cancel, |(blob, offer), stop| {
                let offer = match offer {
                    Some(offer) => offer.clone(),
                    None => self.offer(blob, stop)?,
                };
                self.blob(blob, offer, stop)
            });
        if let (Err(e), Some(Offer::Started(session))) = (&done, offered)
            && !matches!(e, Error::Transport { .. })
        {
            self.abandon(session);
        }
        done
    }

    fn blob(&self, blob: &Descriptor, offer: Offer, stop: &CancelToken) -> Result<()> {
        let digest = blob.digest();
        match offer {
            Offer::Exists => self.ctx.report(Event::Exists { digest }),
            Offer::Mounted(from) => self.ctx.report(Event::Mounted { digest, from: &from }),
            Offer::Started(location) => {
                self.ctx.report(Event::Started { digest, size: blob.size() });
                self.upload(blob, location, stop)?;
                self.ctx.report(Event::Done { digest });
                self.counts.sent.fetch_add(1, Ordering::Relaxed);
                lock(&self.inner.origins).add(self.endpoint.name(), self.repository, digest);
                return Ok(());
            }
        }
        self.counts.reused.fetch_add(1, Ordering::Relaxed);
        lock(&self.inner.origins).add(self.endpoint.name(), self.repository, digest);
        Ok(())
    }

    /// Each blob once, without foreign layers.
    fn wanted<'b>(&self, blobs: &'b [Descriptor]) -> Vec<&'b Descriptor> {
        let mut seen: HashSet<&Digest> = HashSet::new();
        let mut wanted = Vec::new();
        for blob in blobs {
            if !seen.insert(blob.digest()) {
                continue;
            }
            if manifest::is_foreign(blob) && !self.inner.foreign_layers {
                self.ctx.report(Event::Skipped { digest: blob.digest() });
                self.counts.skipped.fetch_add(1, Ordering::Relaxed);
            } else {
                wanted.push(blob);
            }
        }
        wanted
    }

    /// All manifests of an index. True if the index itself is there too.
    fn children(&self, root: &Descriptor, tag: Option<&str>, graph: &Graph, depth: usize) -> Result<bool> {
        if let Some(same) = self.manifest_is_there(root, tag)? {
            return Ok(same);
        }
        for child in &graph.manifests {
            if !self.visited.add(child)? {
                continue;
            }
            if !manifest::is_manifest(child.media_type()) {
                // An index may name blobs too (image-spec, "Image Index").
                let offer = self.offer(child, self.cancel)?;
                self.blob(child, offer, self.cancel)?;
                continue;
            }
            match self.tree(child, None, depth + 1) {
                // A store that pulled one platform only lacks the others, which the registry may well have.
                Err(Error::Content { digest, .. })
                    if digest == *child.digest() && self.manifest_is_there(child, None)?.is_some() => {}
                other => other?,
            }
        }
        Ok(false)
    }

    /// `Some(true)`: there, and the tag points to it. `Some(false)`: there, but the tag has to be set.
    fn manifest_is_there(&self, root: &Descriptor, tag: Option<&str>) -> Result<Option<bool>> {
        if let Some(tag) = tag
            && self.head_manifest(tag, root)?
        {
            return Ok(Some(true));
        }
        let there = self.head_manifest(root.digest().as_ref(), root)?;
        Ok(there.then_some(tag.is_none()))
    }

    fn head_manifest(&self, selector: &str, root: &Descriptor) -> Result<bool> {
        let path = format!("/{}/manifests/{selector}", self.repository);
        let mut call = Call::new(Method::Head, &path, self.scopes(), self.cancel);
        call.headers = Headers::new().with("accept", manifest::ACCEPT);
        match self.inner.call(self.endpoint, &call) {
            Ok(reply) => {
                let told = reply.headers.get("docker-content-digest").map(str::trim);
                Ok(told.map_or(selector.contains(':'), |d| d == root.digest().as_ref()))
            }
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(crate) fn put_manifest(&self, selector: &str, root: &Descriptor, bytes: &Bytes) -> Result<Response> {
        let path = format!("/{}/manifests/{selector}", self.repository);
        let mut call = Call::new(Method::Put, &path, self.scopes(), self.cancel);
        call.headers = Headers::new().with("content-type", root.media_type().as_ref());
        call.body = Payload::Bytes(bytes.clone());
        let reply = self.inner.call(self.endpoint, &call)?;
        let told = reply.headers.get("docker-content-digest").and_then(|d| digest::parse(d.trim()).ok());
        match told {
            Some(told) if told.algorithm() == root.digest().algorithm() && told != *root.digest() => {
                Err(Error::Mismatch { expected: root.digest().clone(), actual: told })
            }
            _ => Ok(reply),
        }
    }

    fn read_manifest(&self, root: &Descriptor) -> Result<Bytes> {
        let limit = self.inner.limits.manifest;
        if root.size() > limit {
            return Err(Error::TooLarge { what: "a manifest".into(), limit });
        }
        let failed = |source: BoxError| Error::Content { digest: root.digest().clone(), source };
        let mut bytes = Vec::new();
        let reader = self.content.open(root).map_err(failed)?;
        reader.take(root.size().saturating_add(1)).read_to_end(&mut bytes).map_err(|e| failed(e.into()))?;
        if bytes.len() as u64 != root.size() {
            let (digest, expected) = (root.digest().clone(), root.size());
            return Err(Error::Size { digest, expected, actual: bytes.len() as u64 });
        }
        let actual = digest::of(&bytes, root.digest())?;
        if actual != *root.digest() {
            return Err(Error::Mismatch { expected: root.digest().clone(), actual });
        }
        Ok(bytes.into())
    }

    pub(crate) fn scopes(&self) -> Scopes {
        Scopes::repository(self.repository, "pull,push")
    }
}
