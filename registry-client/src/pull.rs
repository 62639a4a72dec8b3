use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest, Platform};

use crate::error::BoxError;
use crate::manifest::{self, Kind, Visited};
use crate::push::Content;
use crate::reader::BlobReader;
use crate::{Client, Ctx, Error, Event, Pushed, Reference, Result, Source, parallel};

/// Where a pull puts its blobs (a store, a directory, memory).
pub trait Sink: Send + Sync {
    /// Whether it holds this content, complete and verified.
    fn has(&self, descriptor: &Descriptor) -> Result<bool, BoxError>;

    /// Takes the content. `reader` gives exactly the descriptor's size and has verified the digest when it ends; if it ends in an
    /// error instead, nothing may be kept, and the error goes back as it is. Called from several threads at once.
    fn put(&self, descriptor: &Descriptor, reader: &mut dyn Read) -> Result<(), BoxError>;
}

impl<T: Sink + ?Sized> Sink for &T {
    fn has(&self, descriptor: &Descriptor) -> Result<bool, BoxError> {
        (**self).has(descriptor)
    }

    fn put(&self, descriptor: &Descriptor, reader: &mut dyn Read) -> Result<(), BoxError> {
        (**self).put(descriptor, reader)
    }
}

impl<T: Sink + ?Sized> Sink for Arc<T> {
    fn has(&self, descriptor: &Descriptor) -> Result<bool, BoxError> {
        (**self).has(descriptor)
    }

    fn put(&self, descriptor: &Descriptor, reader: &mut dyn Read) -> Result<(), BoxError> {
        (**self).put(descriptor, reader)
    }
}

/// Which images of an index a pull takes.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Platforms {
    /// The one that fits the machine that this program was built for.
    #[default]
    Host,
    /// The one that fits this platform.
    One(Platform),
    /// All of them.
    All,
}

/// What a pull did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pulled {
    /// What the reference points to.
    pub root: Descriptor,
    /// The image that was chosen of an index; the root itself where that is an image; `None` for all of an index.
    pub image: Option<Descriptor>,
    /// Blobs fetched.
    pub fetched: usize,
    /// Blobs that the sink had.
    pub reused: usize,
    /// Foreign layers left out.
    pub skipped: usize,
}

impl Client {
    /// Pulls an image, or an index with its images, into a sink: all blobs in parallel, largest first, manifests after what they name.
    ///
    /// Where the sink has the manifest that the reference points to, and all of its blobs, this is one request.
    pub fn pull(
        &self,
        reference: &Reference,
        platforms: &Platforms,
        sink: &dyn Sink,
        ctx: Ctx<'_>,
    ) -> Result<Pulled> {
        parallel::watched(ctx, &self.1, |cancel| {
            let source = self.source(reference)?.with_cancel(cancel.clone());
            let (root, bytes) = source.manifest(reference.selector())?;
            let visited = Visited::new(self.0.limits.manifests);
            let pull = Pull { client: self, source, sink, ctx, visited, counts: Default::default() };
            let image = pull.tree(&root, &bytes, platforms, 0)?;
            let [fetched, reused, skipped] = pull.counts.map(AtomicUsize::into_inner);
            Ok(Pulled { root, image, fetched, reused, skipped })
        })
    }

    /// Copies an image or index from one repository to another, of any registries, without a store between: blobs stream through, or
    /// are mounted where both are of one registry.
    pub fn copy(&self, from: &Reference, to: &Reference, ctx: Ctx<'_>) -> Result<Pushed> {
        parallel::watched(ctx, &self.1, |cancel| {
            let client = self.with_cancel(cancel);
            let source = client.source(from)?;
            let (root, _) = source.manifest(from.selector())?;
            client.push(to, &root, &source, ctx)
        })
    }
}

struct Pull<'a> {
    client: &'a Client,
    source: Source,
    sink: &'a dyn Sink,
    ctx: Ctx<'a>,
    visited: Visited,
    /// Fetched, reused, skipped.
    counts: [AtomicUsize; 3],
}

impl Pull<'_> {
    /// Returns the image that was chosen.
    fn tree(
        &self,
        root: &Descriptor,
        bytes: &Bytes,
        platforms: &Platforms,
        depth: usize,
    ) -> Result<Option<Descriptor>> {
        if depth > self.client.0.limits.depth {
            return Err(Error::manifest("indexes are nested too deeply"));
        }
        let graph = manifest::parse(bytes, Some(root.media_type().as_ref()))?;
        let chosen = match (graph.kind, platforms) {
            (Kind::Manifest, _) => {
                self.blobs(&graph.blobs)?;
                Some(root.clone())
            }
            (Kind::Index, Platforms::All) => {
                for child in &graph.manifests {
                    if !self.visited.add(child)? {
                        continue;
                    }
                    if manifest::is_manifest(child.media_type()) {
                        self.tree(child, &self.source.manifest_of(child)?, platforms, depth + 1)?;
                    } else {
                        self.blobs(std::slice::from_ref(child))?;
                    }
                }
                None
            }
            (Kind::Index, platforms) => {
                let platform = if let Platforms::One(p) = platforms { Some(p) } else { None };
                let child = self.client.select(bytes, platform)?;
                self.tree(&child, &self.source.manifest_of(&child)?, platforms, depth + 1)?
            }
        };
        // After all that it names: whoever finds it finds everything.
        if !self.has(root)? {
            self.sink.put(root, &mut bytes.as_ref()).map_err(|e| content(root.digest(), e))?;
        }
        Ok(chosen)
    }

    fn blobs(&self, blobs: &[Descriptor]) -> Result<()> {
        let mut seen = HashSet::new();
        let mut missing = Vec::new();
        for blob in blobs.iter().filter(|b| seen.insert(b.digest())) {
            let digest = blob.digest();
            if manifest::is_foreign(blob) && !self.client.0.foreign_layers {
                self.count(2, Event::Skipped { digest });
            } else if self.has(blob)? {
                self.count(1, Event::Exists { digest });
            } else {
                missing.push(blob);
            }
        }
        missing.sort_by_key(|b| std::cmp::Reverse(b.size()));
        parallel::for_each(&missing, self.client.0.limits.concurrency, &self.source.cancel, |blob, stop| {
            let source = self.source.clone().with_cancel(stop.clone());
            match self.blob(blob, source.clone()) {
                // A mirror handed out rubbish: the registry itself may do better.
                Err(e) if e.is_corrupt() && !source.registry.mirrors.is_empty() => {
                    self.ctx.report(Event::Resumed { digest: blob.digest(), offset: 0 });
                    self.blob(blob, source.without_mirrors())
                }
                other => other,
            }
        })
    }

    fn blob(&self, blob: &Descriptor, source: Source) -> Result<()> {
        let digest = blob.digest();
        self.ctx.report(Event::Started { digest, size: blob.size() });
        let reader = BlobReader::open(source, blob, 0)?;
        let mut tracked = Tracked { reader, blob, done: 0, resumes: 0, ctx: self.ctx };
        self.sink.put(blob, &mut tracked).map_err(|e| content(digest, e))?;
        if tracked.done != blob.size() || !tracked.reader.is_verified() {
            return Err(content(digest, "the sink did not read all of it".into()));
        }
        self.count(0, Event::Done { digest });
        Ok(())
    }

    fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        self.sink.has(descriptor).map_err(|e| content(descriptor.digest(), e))
    }

    fn count(&self, which: usize, event: Event<'_>) {
        self.counts[which].fetch_add(1, Ordering::Relaxed);
        self.ctx.report(event);
    }
}

/// A sink's failure; one that only handed ours on is ours.
fn content(digest: &Digest, error: BoxError) -> Error {
    let failed = |source: BoxError| Error::Content { digest: digest.clone(), source };
    match error.downcast::<io::Error>() {
        Ok(io) => Error::from_io(*io).unwrap_or_else(|foreign| failed(foreign.into())),
        Err(other) => match other.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(foreign) => failed(foreign),
        },
    }
}

/// Reports what a reader does.
struct Tracked<'a> {
    reader: BlobReader,
    blob: &'a Descriptor,
    done: u64,
    resumes: u64,
    ctx: Ctx<'a>,
}

impl Read for Tracked<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let digest = self.blob.digest();
        let n = self.reader.read(buf)?;
        if self.reader.resumes() != self.resumes {
            self.resumes = self.reader.resumes();
            self.ctx.report(Event::Resumed { digest, offset: self.done });
        }
        self.done += n as u64;
        if n > 0 {
            self.ctx.report(Event::Bytes { digest, done: self.done, size: self.blob.size() });
        }
        Ok(n)
    }
}

/// Lets a repository be pushed to another.
impl Content for Source {
    fn open(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, BoxError> {
        Ok(Self::open(self, descriptor, 0)?)
    }

    fn open_at(&self, descriptor: &Descriptor, offset: u64) -> Result<Box<dyn Read + Send>, BoxError> {
        Ok(Self::open(self, descriptor, offset)?)
    }

    fn repositories(&self, _: &Descriptor, registry: &str) -> Vec<String> {
        if registry == self.registry.server.name() { vec![self.repository.clone()] } else { Vec::new() }
    }
}
