use std::fmt;
use std::io::{Cursor, Read};
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};

use crate::auth::Scopes;
use crate::client::Inner;
use crate::endpoint::{Endpoint, Registry, lock};
use crate::exchange::Call;
use crate::reader::BlobReader;
use crate::transport::{Headers, Method};
use crate::{CancelToken, Client, Error, Reference, Result, digest, manifest};

impl Client {
    /// What the reference points to now: the descriptor of a manifest or an index. One HEAD request (GET where HEAD tells too little).
    pub fn resolve(&self, reference: &Reference) -> Result<Descriptor> {
        self.source(reference)?.resolve(reference.selector())
    }

    /// Manifest or index with its exact bytes. One GET request; a [`Source`] of this client then has it at hand for a while.
    pub fn manifest(&self, reference: &Reference) -> Result<(Descriptor, Bytes)> {
        self.source(reference)?.manifest(reference.selector())
    }

    /// Manifests and blobs of one repository, for a store's import: `source.open(&descriptor, offset)`.
    pub fn source(&self, reference: &Reference) -> Result<Source> {
        Ok(Source {
            inner: Arc::clone(&self.0),
            registry: self.0.registry(reference.registry())?,
            repository: reference.repository().to_owned(),
            cancel: self.1.clone(),
        })
    }
}

/// One repository to read from. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    pub(crate) inner: Arc<Inner>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) repository: String,
    pub(crate) cancel: CancelToken,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("registry", &self.registry.server.name())
            .field("repository", &self.repository)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// Ends this source's requests and readers once the token is raised.
    #[must_use]
    pub fn with_cancel(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }

    /// Opens a manifest or blob (told apart by the media type), verified while it streams. Resumes by itself.
    ///
    /// The reader gives exactly the descriptor's size, or ends in an error: also where the digest is wrong, then *instead of* the last
    /// bytes, so that nobody who reads to the end can miss it. With `offset > 0` (at most the size; for a blob of which the caller holds
    /// the start) the reader checks the size, but it has not seen the start: whoever resumes must check the digest over the whole. A
    /// manifest is always checked as a whole.
    ///
    /// The reader's errors hold this crate's: see [`Error::in_io`].
    pub fn open(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>> {
        if offset > descriptor.size() {
            return Err(Error::Size {
                digest: descriptor.digest().clone(),
                expected: descriptor.size(),
                actual: offset,
            });
        }
        let in_memory = match embedded(descriptor)? {
            Some(bytes) => Some(bytes),
            None if manifest::is_manifest(descriptor.media_type()) => Some(self.manifest_of(descriptor)?),
            None => None,
        };
        match in_memory {
            Some(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(Box::new(Cursor::new(bytes.slice(start..))))
            }
            None => Ok(Box::new(BlobReader::open(self.clone(), descriptor, offset)?)),
        }
    }

    /// Asks for a blob's size by HEAD: a descriptor for [`open`](Self::open) where there is only a digest.
    pub fn stat(&self, digest: &Digest) -> Result<Descriptor> {
        let digest = digest::parse(digest.as_ref())?;
        let path = format!("/{}/blobs/{digest}", self.repository);
        self.try_each(true, |endpoint| {
            let call =
                Call::new(Method::Head, &path, Scopes::repository(&self.repository, "pull"), &self.cancel);
            let reply = self.inner.call(endpoint, &call)?;
            let size = reply.content_length();
            let size =
                size.ok_or_else(|| Error::protocol(endpoint.origin(), "the blob's size is missing"))?;
            Ok(Descriptor::new("application/octet-stream".into(), size, digest.clone()))
        })
    }

    /// The registry itself only.
    pub(crate) fn without_mirrors(mut self) -> Self {
        self.registry = Arc::new(Registry { server: Arc::clone(&self.registry.server), mirrors: Vec::new() });
        self
    }

    /// Where to read from, in order: mirrors that are up, then the registry itself.
    pub(crate) fn endpoints(&self, by_digest: bool) -> impl Iterator<Item = &Arc<Endpoint>> {
        let usable = move |e: &&Arc<Endpoint>| {
            e.pull
                && (by_digest || e.resolve)
                && lock(&e.quirks.down_until).is_none_or(|t| t <= std::time::Instant::now())
        };
        self.registry.mirrors.iter().filter(usable).chain(std::iter::once(&self.registry.server))
    }

    /// Asks each endpoint until one answers.
    pub(crate) fn try_each<T>(
        &self,
        by_digest: bool,
        mut ask: impl FnMut(&Arc<Endpoint>) -> Result<T>,
    ) -> Result<T> {
        let mut last = None;
        for endpoint in self.endpoints(by_digest) {
            if !(endpoint.pull && (by_digest || endpoint.resolve)) {
                let what = if endpoint.pull { "tags" } else { "pulls" };
                last = last.or(Some(Error::Unsupported { registry: endpoint.name().to_owned(), what }));
                continue;
            }
            match ask(endpoint) {
                Err(e @ (Error::Cancelled | Error::Deadline)) => return Err(e),
                Err(e) => {
                    if !e.is_not_found() && endpoint.mirror_of.is_some() {
                        let until = std::time::Instant::now() + MIRROR_REST;
                        *lock(&endpoint.quirks.down_until) = Some(until);
                        self.inner
                            .warn(endpoint, &format!("mirror left out: {}", crate::error::with_causes(&e)));
                    }
                    last = Some(e);
                }
                done => return done,
            }
        }
        Err(last.expect("the registry's own server is always asked"))
    }

    /// HEAD of a manifest; `selector` is a tag or digest.
    pub(crate) fn resolve(&self, selector: &str) -> Result<Descriptor> {
        let by_digest = selector.contains(':');
        self.try_each(by_digest, |endpoint| {
            let path = format!("/{}/manifests/{selector}", self.repository);
            let reply = self.inner.call(endpoint, &self.manifest_call(Method::Head, &path))?;
            // Some say nothing of it, or zero.
            let length = reply.content_length().filter(|length| *length > 0);
            let told = reply.headers.get("docker-content-digest").and_then(|d| digest::parse(d).ok());
            let known = if by_digest { digest::parse(selector).ok() } else { told };
            let media_type =
                reply.headers.get("content-type").and_then(|t| t.split(';').next()).map(str::trim);
            match (known, length, media_type) {
                (Some(digest), Some(size), Some(media_type)) if is_known(media_type) => {
                    if size > self.inner.limits.manifest {
                        return Err(self.too_large());
                    }
                    Ok(Descriptor::new(media_type.into(), size, digest))
                }
                _ => self.manifest_from(endpoint, selector).map(|(descriptor, _)| descriptor),
            }
        })
    }

    /// GET of a manifest; `selector` is a tag or digest.
    pub(crate) fn manifest(&self, selector: &str) -> Result<(Descriptor, Bytes)> {
        let by_digest = selector.contains(':');
        if by_digest
            && let Some(known) = lock(&self.inner.manifests).get(&self.place(), &digest::parse(selector)?)
        {
            return Ok(known);
        }
        self.try_each(by_digest, |endpoint| self.manifest_from(endpoint, selector))
    }

    /// The repository with its registry.
    pub(crate) fn place(&self) -> String {
        format!("{}/{}", self.registry.server.name(), self.repository)
    }

    fn manifest_from(&self, endpoint: &Endpoint, selector: &str) -> Result<(Descriptor, Bytes)> {
        let path = format!("/{}/manifests/{selector}", self.repository);
        let call = self.manifest_call(Method::Get, &path);
        let (reply, bytes) = self.inner.fetch(endpoint, &call, self.inner.limits.manifest, "a manifest")?;
        let content_type = reply.headers.get("content-type");
        let told = reply.headers.get("docker-content-digest").and_then(|d| digest::parse(d).ok());
        let digest = match (selector.contains(':'), &told) {
            (true, _) => {
                let wanted = digest::parse(selector)?;
                check(&bytes, &wanted)?;
                wanted
            }
            (false, Some(told)) if digest::of(&bytes, told)? == *told => told.clone(),
            (false, told) => {
                if told.is_some() {
                    self.inner.warn(
                        endpoint,
                        "Docker-Content-Digest differs from the manifest's digest; the manifest counts",
                    );
                }
                digest::sha256(&bytes)
            }
        };
        let graph = manifest::parse(&bytes, content_type)?;
        let descriptor = Descriptor::new(graph.media_type, bytes.len() as u64, digest);
        lock(&self.inner.manifests).put(&self.place(), &descriptor, &bytes);
        Ok((descriptor, bytes))
    }

    /// A manifest by descriptor: size, digest and type must be as it says.
    pub(crate) fn manifest_of(&self, descriptor: &Descriptor) -> Result<Bytes> {
        if descriptor.size() > self.inner.limits.manifest {
            return Err(self.too_large());
        }
        let (found, bytes) = self.manifest(descriptor.digest().as_ref())?;
        if found.size() != descriptor.size() {
            let (digest, expected) = (descriptor.digest().clone(), descriptor.size());
            return Err(Error::Size { digest, expected, actual: found.size() });
        }
        if found.media_type() != descriptor.media_type() {
            return Err(Error::manifest(format!(
                "it is named as {} and is {}",
                digest::clip(descriptor.media_type().as_ref()),
                found.media_type()
            )));
        }
        Ok(bytes)
    }

    fn too_large(&self) -> Error {
        Error::TooLarge { what: "a manifest".into(), limit: self.inner.limits.manifest }
    }

    fn manifest_call<'a>(&'a self, method: Method, path: &'a str) -> Call<'a> {
        let mut call = Call::new(method, path, Scopes::repository(&self.repository, "pull"), &self.cancel);
        call.headers = Headers::new().with("accept", manifest::ACCEPT);
        call
    }
}

/// How long a mirror that failed is left alone.
const MIRROR_REST: std::time::Duration = std::time::Duration::from_secs(60);

fn is_known(media_type: &str) -> bool {
    manifest::is_manifest(&media_type.into())
}

fn check(bytes: &[u8], wanted: &Digest) -> Result<()> {
    let actual = digest::of(bytes, wanted)?;
    if actual == *wanted { Ok(()) } else { Err(Error::Mismatch { expected: wanted.clone(), actual }) }
}

/// A descriptor's own `data` (image-spec, "Embedded Content"), where it is what the digest says.
fn embedded(descriptor: &Descriptor) -> Result<Option<Bytes>> {
    let Some(data) = descriptor.data() else { return Ok(None) };
    let decoded = base64::engine::general_purpose::STANDARD.decode(data).ok();
    let right = |bytes: &Vec<u8>| {
        bytes.len() as u64 == descriptor.size()
            && digest::of(bytes, descriptor.digest()).is_ok_and(|d| d == *descriptor.digest())
    };
    Ok(decoded.filter(right).map(Bytes::from))
}
