//! Blob uploads (distribution-spec, "Pushing Blobs").

use std::io::{self, Read};
use std::sync::atomic::Ordering;

use oci_spec::image::{Descriptor, DigestAlgorithm};

use crate::endpoint::lock;
use crate::error::Purpose;
use crate::exchange::{Call, Payload, Target};
use crate::push::Push;
use crate::reader::{PROGRESS_MIN, resumes_max};
use crate::transport::{Headers, Method, Response};
use crate::{CancelToken, Ctx, Error, Event, Result, Url};

/// A blob above this is worth asking for where mounting has not proven to find it.
const WORTH_ASKING: u64 = 16 << 20;
/// A blob below this is sent again sooner than asked for.
const WORTH_A_LOOK: u64 = 64 << 10;
/// What GitHub's registry takes in one request, the lowest known cap.
const CHUNK_SAFE: u64 = 4 << 20;
const CHUNK_MIN: u64 = 64 << 10;
/// Less than this part of a request is next to nothing.
const CRUMB: u64 = 8;

/// What became of a blob that was offered.
#[derive(Clone)]
pub(crate) enum Offer {
    Exists,
    /// From that repository.
    Mounted(String),
    Started(Session),
}

/// An upload under way.
#[derive(Clone)]
pub(crate) struct Session {
    location: Url,
    /// `OCI-Chunk-Min-Length`.
    chunk_min: u64,
}

/// How far an upload is.
#[derive(Default)]
struct Way {
    /// The next byte to send.
    at: u64,
    /// The registry itself said so.
    told: bool,
    /// Bytes of the last request.
    tried: u64,
    /// Requests of which next to nothing was taken.
    crumbs: u32,
}

impl Push<'_> {
    /// One POST that finds the blob, mounts it, or starts its upload.
    pub(crate) fn offer(&self, blob: &Descriptor, cancel: &CancelToken) -> Result<Offer> {
        let quirks = &self.endpoint.quirks;
        let lies = quirks.mount_lies.load(Ordering::Relaxed);
        if lies && self.has_blob(blob, cancel)? {
            return Ok(Offer::Exists);
        }
        let from = self.mount_source(blob);
        let own = from == self.repository;
        let reply = match self.start(blob, Some(&from), cancel) {
            // No right to read there, or no idea of mounts: start a plain upload.
            Err(Error::Status { status: 400 | 403..=405, .. }) if !own || !lies => {
                self.start(blob, None, cancel)?
            }
            // Also where the token server gives nothing at all because of that right.
            Err(e) if !own && e.is_auth() => self.start(blob, None, cancel)?,
            other => other?,
        };
        if reply.status == 201 {
            quirks.mount_works.store(true, Ordering::Relaxed);
            return Ok(if own { Offer::Exists } else { Offer::Mounted(from) });
        }
        let session = self.session(&reply, &self.uploads_url()?)?;
        if !own && blob.size() >= WORTH_A_LOOK && self.has_blob(blob, cancel)? {
            // Not where it was said to be, but here.
            self.abandon(&session);
            return Ok(Offer::Exists);
        }
        let works = quirks.mount_works.load(Ordering::Relaxed);
        if !works && !lies && own && blob.size() >= WORTH_ASKING {
            if self.has_blob(blob, cancel)? {
                quirks.mount_lies.store(true, Ordering::Relaxed);
                self.abandon(&session);
                return Ok(Offer::Exists);
            }
            // It told the truth, and will for the others.
            quirks.mount_works.store(true, Ordering::Relaxed);
        }
        Ok(Offer::Started(session))
    }

    fn mount_source(&self, blob: &Descriptor) -> String {
        let registry = self.endpoint.name();
        let known = lock(&self.inner.origins).get(registry, blob.digest());
        let told = self.content.repositories(blob, registry);
        // What this client has seen there comes before what the caller believes.
        let mut candidates = known.into_iter().rev().chain(told.into_iter().filter(|t| t != self.repository));
        // If it may be here already, here is the place to look.
        candidates.next().filter(|c| is_repository(c)).unwrap_or_else(|| self.repository.to_owned())
    }

    fn start(&self, blob: &Descriptor, from: Option<&str>, cancel: &CancelToken) -> Result<Response> {
        let mut path = format!("/{}/blobs/uploads/", self.repository);
        let mut scopes = self.scopes();
        let mut mark = '?';
        if let Some(from) = from {
            path += &format!("?mount={}&from={from}", blob.digest());
            mark = '&';
            if from != self.repository {
                scopes = scopes.and_pull(from);
            }
        }
        let algorithm = blob.digest().algorithm();
        if *algorithm != DigestAlgorithm::Sha256 {
            // So that a registry can hash what comes as it comes.
            path += &format!("{mark}digest-algorithm={}", algorithm.as_ref());
        }
        self.inner.call(self.endpoint, &Call::new(Method::Post, &path, scopes, cancel))
    }

    /// Tells the registry that an upload will not go on, so that it need not keep what it has. Whether it listens does not matter.
    pub(crate) fn abandon(&self, session: &Session) {
        let mut call = Call::new(Method::Delete, "", self.scopes(), self.cancel);
        call.target = Target::Named(session.location.clone(), Purpose::Upload);
        call.repeatable = false;
        let _ = self.inner.call(self.endpoint, &call);
    }

    fn uploads_url(&self) -> Result<Url> {
        self.endpoint.url(&format!("/{}/blobs/uploads/", self.repository))
    }

    fn has_blob(&self, blob: &Descriptor, cancel: &CancelToken) -> Result<bool> {
        let path = format!("/{}/blobs/{}", self.repository, blob.digest());
        match self.inner.call(self.endpoint, &Call::new(Method::Head, &path, self.scopes(), cancel)) {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn session(&self, reply: &Response, base: &Url) -> Result<Session> {
        let location = reply.headers.get("location");
        let location = location.ok_or_else(|| Error::protocol(base, "an upload without a location"))?;
        let chunk_min =
            reply.headers.get("oci-chunk-min-length").and_then(|v| v.trim().parse().ok()).unwrap_or(0);
        Ok(Session { location: base.join(location)?, chunk_min })
    }

    /// Sends a blob: in one request if possible; after a failure, from where the registry has it.
    pub(crate) fn upload(&self, blob: &Descriptor, mut session: Session, cancel: &CancelToken) -> Result<()> {
        let sent = self.send(blob, &mut session, cancel);
        // A broken link is not asked for favours.
        if sent.as_ref().is_err_and(|e| !matches!(e, Error::Transport { .. })) {
            self.abandon(&session);
        }
        sent
    }

    fn send(&self, blob: &Descriptor, session: &mut Session, cancel: &CancelToken) -> Result<()> {
        let quirks = &self.endpoint.quirks;
        let (mut way, mut failures, mut furthest, mut resumes) = (Way::default(), 0, 0, 0);
        loop {
            let chunk_max = quirks.chunk_max.load(Ordering::Relaxed);
            let whole = way.at == 0 && (chunk_max == 0 || blob.size() <= chunk_max);
            let sent = if whole {
                way.tried = blob.size();
                self.put(blob, &session.location, 0, blob.size(), cancel)
            } else {
                self.chunks(blob, session, &mut way, chunk_max, cancel)
            };
            let Err(error) = sent else { return Ok(()) };
            if way.at.saturating_sub(furthest) >= PROGRESS_MIN {
                // It moved: what counts are failures in a row.
                (furthest, failures) = (way.at, 0);
            }
            failures += 1;
            resumes += 1;
            if resumes > resumes_max(blob) {
                return Err(error);
            }
            let next = (way.tried / 2).min(CHUNK_SAFE);
            let smaller = next >= CHUNK_MIN.max(session.chunk_min);
            // 416 is said of chunks that are too large, too; where one begins the registry itself has said.
            let capped = matches!(error, Error::Status { status: 413, .. })
                || (matches!(error, Error::Status { status: 416, .. }) && !whole && way.told && smaller);
            if capped {
                if !smaller {
                    return Err(error);
                }
                // Another upload may have learned a smaller one.
                let smallest = |known| (known == 0 || next < known).then_some(next);
                let _ = quirks.chunk_max.fetch_update(Ordering::Relaxed, Ordering::Relaxed, smallest);
            } else {
                let pause = self.inner.backoff(failures);
                // One that says when to come back is not asked before.
                let pause = error.retry_after().map_or(pause, |wanted| wanted.max(pause));
                let patient = pause <= self.inner.retry.retry_after_max.max(self.inner.retry.max);
                if !is_worth_another(&error) || failures >= self.inner.retry.attempts || !patient {
                    return Err(error);
                }
                cancel.sleep(pause)?;
            }
            (*session, way.at) = match self.progress(blob, session, cancel)? {
                Some(resumed) => resumed,
                None => match self.offer(blob, cancel)? {
                    Offer::Started(fresh) => (fresh, 0),
                    // The reply was lost, not the blob.
                    Offer::Exists | Offer::Mounted(_) => return Ok(()),
                },
            };
            way.told = true;
            self.ctx.report(Event::Resumed { digest: blob.digest(), offset: way.at });
        }
    }

    /// How far the registry says the upload is; `None` where it forgot it.
    fn progress(
        &self,
        blob: &Descriptor,
        session: &Session,
        cancel: &CancelToken,
    ) -> Result<Option<(Session, u64)>> {
        let mut call = Call::new(Method::Get, "", self.scopes(), cancel);
        call.target = Target::Named(session.location.clone(), Purpose::Upload);
        let reply = match self.inner.call(self.endpoint, &call) {
            Err(e) if e.is_auth() || matches!(e, Error::Cancelled | Error::Deadline) => return Err(e),
            Err(_) => return Ok(None),
            Ok(reply) => reply,
        };
        let Some(end) = reply.headers.get("range").and_then(parse_range_end) else { return Ok(None) };
        // `0-0` is what some registries say of nothing at all; one byte more or less is not worth the doubt.
        let offset = if end == 0 { return Ok(None) } else { end.saturating_add(1) };
        if offset > blob.size() {
            return Ok(None);
        }
        let next = match reply.headers.get("location") {
            Some(_) => self.session(&reply, &session.location)?,
            None => session.clone(),
        };
        Ok(Some((Session { chunk_min: next.chunk_min.max(session.chunk_min), ..next }, offset)))
    }

    /// PATCHes from `way.at` on, and the closing PUT.
    fn chunks(
        &self,
        blob: &Descriptor,
        session: &mut Session,
        way: &mut Way,
        chunk_max: u64,
        cancel: &CancelToken,
    ) -> Result<()> {
        let size = blob.size();
        let mut chunk = if chunk_max == 0 { size } else { chunk_max.max(session.chunk_min) };
        while way.at < size {
            let length = chunk.min(size - way.at);
            let start = way.at;
            way.tried = length;
            let open = || self.open(blob, start, length);
            let mut call = Call::new(Method::Patch, "", self.scopes(), cancel);
            call.target = Target::Named(session.location.clone(), Purpose::Upload);
            call.headers = Headers::new()
                .with("content-type", "application/octet-stream")
                .with("content-range", format!("{start}-{}", start + length - 1));
            call.body = Payload::Open { open: &open, size: length };
            call.repeatable = false;
            let reply = self.inner.call(self.endpoint, &call)?;
            let next = self.session(&reply, &session.location).unwrap_or_else(|_| session.clone());
            *session = Session { chunk_min: next.chunk_min.max(session.chunk_min), ..next };
            // A registry may have taken less than was sent.
            let told = reply.headers.get("range").and_then(parse_range_end);
            let taken = told.map_or(start + length, |e| e.saturating_add(1));
            if taken <= start || taken > start + length {
                return Err(Error::protocol(&session.location, "the upload's range is not what was sent"));
            }
            let step = taken - start;
            if step < length / CRUMB {
                way.crumbs += 1;
                if way.crumbs >= self.inner.retry.attempts {
                    return Err(Error::protocol(
                        &session.location,
                        "next to nothing of what is sent is taken",
                    ));
                }
                chunk = step.max(CHUNK_MIN).max(session.chunk_min);
            }
            (way.at, way.told) = (taken, told.is_some());
        }
        way.tried = 0;
        self.put(blob, &session.location, size, 0, cancel)
    }

    /// The PUT that ends an upload, with `length` bytes from `offset` on.
    fn put(
        &self,
        blob: &Descriptor,
        location: &Url,
        offset: u64,
        length: u64,
        cancel: &CancelToken,
    ) -> Result<()> {
        let open = || self.open(blob, offset, length);
        let mut call = Call::new(Method::Put, "", self.scopes(), cancel);
        let target = location.clone().with_query("digest", blob.digest().as_ref());
        call.target = Target::Named(target, Purpose::Upload);
        call.headers = Headers::new().with("content-type", "application/octet-stream");
        if length > 0 {
            call.body = Payload::Open { open: &open, size: length };
        }
        call.repeatable = false;
        // 201 by the spec; 202 and 204 have been seen. All 2xx are success here, the manifest's PUT tells the truth.
        self.inner.call(self.endpoint, &call).map(drop)
    }

    fn open(&self, blob: &Descriptor, offset: u64, length: u64) -> Result<Box<dyn Read + Send + '_>> {
        let reader = if offset == 0 { self.content.open(blob) } else { self.content.open_at(blob, offset) };
        let reader = reader.map_err(|source| Error::Content { digest: blob.digest().clone(), source })?;
        Ok(Box::new(Counted {
            reader,
            blob: blob.clone(),
            done: offset,
            end: offset + length,
            ctx: self.ctx,
        }))
    }
}

/// Reports bytes, and tells content that ends too early from a connection that broke.
struct Counted<'a> {
    reader: Box<dyn Read + Send>,
    blob: Descriptor,
    done: u64,
    end: u64,
    ctx: Ctx<'a>,
}

impl Read for Counted<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.end - self.done).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.reader.read(&mut buf[..want]).map_err(|e| {
            if e.kind() == io::ErrorKind::Interrupted {
                return e;
            }
            Error::Content { digest: self.blob.digest().clone(), source: e.into() }.into_io()
        })?;
        if n == 0 {
            let (digest, expected) = (self.blob.digest().clone(), self.blob.size());
            return Err(Error::Size { digest, expected, actual: self.done }.into_io());
        }
        self.done += n as u64;
        self.ctx.report(Event::Bytes { digest: self.blob.digest(), done: self.done, size: self.blob.size() });
        Ok(n)
    }
}

/// Whether an upload that ended so may go on. A session that the registry forgot is begun anew.
fn is_worth_another(error: &Error) -> bool {
    error.is_retryable() || matches!(error, Error::Status { status: 404 | 416, .. })
}

/// `0-END` or `bytes=0-END`.
fn parse_range_end(value: &str) -> Option<u64> {
    let range = value.trim().trim_start_matches("bytes=");
    range.split_once('-').filter(|(start, _)| *start == "0")?.1.parse().ok()
}

/// Only what is a repository name goes into a URL.
fn is_repository(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b))
}
