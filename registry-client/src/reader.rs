//! A blob as a reader that verifies, and goes on by itself after the connection broke.

use std::io::{self, Read};
use std::sync::Arc;

use oci_spec::image::Descriptor;

use crate::auth::Scopes;
use crate::digest::Hasher;
use crate::endpoint::{Endpoint, lock};
use crate::error::Purpose;
use crate::exchange::{Call, Target};
use crate::ranges::{PART, Plan, Ranges};
use crate::source::Source;
use crate::transport::{Headers, Method, Response, TransportError, classify_io};
use crate::{Error, Result, Url, manifest};

/// Less than this between two failures is no progress: a server that hands out a few bytes per connection is not waited for.
pub(crate) const PROGRESS_MIN: u64 = 64 * 1024;
/// What is left must be worth several requests.
const PARTS_FROM: u64 = 4 * PART;

pub(crate) struct BlobReader {
    source: Source,
    descriptor: Descriptor,
    /// The next byte to hand out.
    position: u64,
    /// Only where the reader sees the blob from its start.
    hasher: Option<Hasher>,
    body: Option<Body>,
    /// What tells two states of the resource apart, if the server says.
    validator: Option<String>,
    /// Failures in a row without progress, and where the last one was.
    failures: u32,
    failed_at: u64,
    resumes: u64,
    fetched: u64,
    finished: bool,
    /// Fetching it in parts did not work out.
    plain: bool,
}

struct Body {
    reader: Box<dyn Read + Send>,
    url: Url,
    /// The server said that it ends with the blob, so that the end comes without waiting.
    sized: bool,
}

impl BlobReader {
    /// Asks at once, so that a missing blob shows here and not at the first read.
    pub(crate) fn open(source: Source, descriptor: &Descriptor, offset: u64) -> Result<Self> {
        let hasher = Hasher::like(descriptor.digest())?;
        let mut reader = Self {
            source,
            descriptor: descriptor.clone(),
            position: offset,
            hasher: (offset == 0).then_some(hasher),
            body: None,
            validator: None,
            failures: 0,
            failed_at: offset,
            resumes: 0,
            fetched: 0,
            finished: false,
            plain: false,
        };
        if offset == descriptor.size() {
            reader.finish()?;
        } else {
            reader.connect()?;
        }
        Ok(reader)
    }

    /// How often the connection broke and was replaced.
    pub(crate) fn resumes(&self) -> u64 {
        self.resumes
    }

    /// Whether all bytes came and the digest was right.
    pub(crate) fn is_verified(&self) -> bool {
        self.finished
    }

    fn connect(&mut self) -> Result<()> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let source = self.source.clone();
            let opened = source.try_each(true, |endpoint| self.ask(endpoint, None));
            let opened = match opened {
                Err(e) if e.is_not_found() && source.inner.foreign_layers => {
                    self.ask_foreign().unwrap_or(Err(e))
                }
                other => other,
            };
            match opened {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                // A full reply whose skipped start broke.
                Err(e)
                    if e.is_retryable()
                        && matches!(e, Error::Transport { method: "skip", .. })
                        && attempt < 5 => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The descriptor's own URLs, for layers that no registry may hold.
    fn ask_foreign(&mut self) -> Option<Result<Body>> {
        let urls = self.descriptor.urls().clone().unwrap_or_default();
        let mut last = None;
        if !manifest::is_foreign(&self.descriptor) {
            return None;
        }
        for url in urls.iter().take(4) {
            let server = Arc::clone(&self.source.registry.server);
            match Url::parse(url).and_then(|url| self.ask(&server, Some(url))) {
                Ok(body) => return Some(Ok(body)),
                Err(e) => last = Some(Err(e)),
            }
        }
        last
    }

    fn ask(&mut self, endpoint: &Arc<Endpoint>, foreign: Option<Url>) -> Result<Body> {
        let parts = foreign.is_none() && self.is_for_parts();
        let end = parts.then(|| self.position + PART - 1);
        let ranged = parts || self.position > 0;
        let (reply, url) = self.request(endpoint, foreign.clone(), ranged.then_some((self.position, end)))?;
        let validator = reply.headers.get("etag").filter(|e| e.starts_with('"')).map(str::to_owned);
        let (reply, start) = match reply.status {
            206 if ranged && self.continues(&reply, &url, validator.as_ref())? => (reply, self.position),
            206 if ranged => {
                // Another state of the resource: take it from its start, the digest will judge.
                self.validator = None;
                drop(reply);
                match self.request(endpoint, foreign, None)?.0 {
                    part if part.status == 206 => return Err(unasked(&url)),
                    whole => (whole, 0),
                }
            }
            206 => return Err(unasked(&url)),
            _ => (reply, 0),
        };
        let length = reply.content_length();
        let status = reply.status;
        if status != 206 && length.is_some_and(|l| l != self.descriptor.size()) {
            return Err(self.wrong_size(length.unwrap_or_default()));
        }
        self.validator = validator;
        // What comes in chunks ends with the last of them, whatever else it says.
        let chunked = reply.headers.get("transfer-encoding").is_some();
        let sized = !chunked && length == Some(self.descriptor.size() - start);
        let mut body = Body { reader: reply.body, url, sized };
        if start < self.position {
            self.skip(&mut body, self.position - start)?;
        }
        if parts && status == 206 {
            body = self.in_parts(endpoint, body);
        }
        Ok(body)
    }

    /// Whether what is left is to be fetched by several requests at a time.
    fn is_for_parts(&self) -> bool {
        let left = self.descriptor.size() - self.position;
        self.source.inner.limits.ranges > 1 && !self.plain && left >= PARTS_FROM
    }

    /// The first part has begun; others fetch what follows.
    fn in_parts(&self, endpoint: &Arc<Endpoint>, first: Body) -> Body {
        let plan = Plan {
            source: self.source.clone(),
            endpoint: Arc::clone(endpoint),
            path: self.path(),
            validator: self.validator.clone(),
            from: self.position + PART,
            size: self.descriptor.size(),
        };
        let ranges = Ranges::new(first.reader.take(PART), plan, self.source.inner.limits.ranges);
        Body { reader: Box::new(ranges), ..first }
    }

    fn request(
        &self,
        endpoint: &Endpoint,
        foreign: Option<Url>,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<(Response, Url)> {
        let path = self.path();
        let validator = self.validator.as_deref();
        BlobRequest { source: &self.source, path: &path, range, validator }.send(endpoint, foreign)
    }

    fn path(&self) -> String {
        format!("/{}/blobs/{}", self.source.repository, self.descriptor.digest())
    }

    /// Whether a 206 is the rest of what was begun.
    fn continues(&self, reply: &Response, url: &Url, validator: Option<&String>) -> Result<bool> {
        let range = reply.headers.get("content-range").and_then(parse_content_range);
        let Some((first, total)) = range else {
            return Err(Error::protocol(url, "a part without a usable Content-Range"));
        };
        if total.is_some_and(|t| t != self.descriptor.size()) {
            return Err(self.wrong_size(total.unwrap_or_default()));
        }
        let same = match (&self.validator, validator) {
            (Some(old), Some(new)) => old == new,
            _ => true,
        };
        Ok(first == self.position && same)
    }

    /// The server does not do ranges: what is known already goes by once more.
    fn skip(&mut self, body: &mut Body, mut left: u64) -> Result<()> {
        let mut scrap = vec![0; 64 * 1024];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(scrap.len());
            let error = match body.reader.read(&mut scrap[..want]) {
                Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                Ok(n) => {
                    left -= n as u64;
                    self.fetched += n as u64;
                    continue;
                }
                Err(e) => e,
            };
            return Err(match Error::from_body(Method::Get, &body.url, error) {
                Error::Transport { url, attempts, source, .. } => {
                    Error::Transport { method: "skip", url, attempts, source }
                }
                other => other,
            });
        }
        Ok(())
    }

    /// The connection broke. Decides whether to go on, and waits where nothing moved since the last time.
    fn broke(&mut self, error: io::Error, url: &Url) -> Result<()> {
        let retry = self.source.inner.retry;
        self.body = None;
        self.plain = true;
        let kind = classify_io(&error);
        self.source.cancel.check()?;
        if kind.is_ours() {
            return Err(Error::from_transport(Method::Get, url, 1, kind.into()));
        }
        let moved = self.position - self.failed_at >= PROGRESS_MIN;
        self.failures = if moved { 1 } else { self.failures + 1 };
        self.failed_at = self.position;
        self.resumes += 1;
        let source = TransportError::new(kind, error);
        let resumes_max = resumes_max(&self.descriptor);
        if !source.is_retryable() || self.failures >= retry.attempts || self.resumes > resumes_max {
            let attempts = u32::try_from(self.resumes).unwrap_or(u32::MAX);
            return Err(Error::from_transport(Method::Get, url, attempts, source));
        }
        if self.failures > 1 {
            self.source.cancel.sleep(self.source.inner.backoff(self.failures - 1))?;
        }
        self.connect()
    }

    /// All bytes are there.
    fn finish(&mut self) -> Result<()> {
        if let Some(mut body) = self.body.take()
            && body.sized
        {
            // Lets the connection go back to its pool; the end is known, so this never waits.
            let _ = body.reader.read(&mut [0]);
        }
        if let Some(hasher) = self.hasher.take() {
            let actual = hasher.finish();
            if actual != *self.descriptor.digest() {
                return Err(Error::Mismatch { expected: self.descriptor.digest().clone(), actual });
            }
        }
        let server = &self.source.registry.server;
        lock(&self.source.inner.origins).add(
            server.name(),
            &self.source.repository,
            self.descriptor.digest(),
        );
        self.finished = true;
        Ok(())
    }

    fn wrong_size(&self, actual: u64) -> Error {
        Error::Size { digest: self.descriptor.digest().clone(), expected: self.descriptor.size(), actual }
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<usize> {
        let left = self.descriptor.size() - self.position;
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        loop {
            self.source.cancel.check()?;
            let Some(body) = &mut self.body else {
                // After a failure that was handed out: no half-read blob is taken up again.
                return Err(Error::protocol(self.descriptor.digest(), "the transfer has failed before"));
            };
            let error = match body.reader.read(&mut buf[..want]) {
                Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                Ok(n) => {
                    self.position += n as u64;
                    self.fetched += n as u64;
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&buf[..n]);
                    }
                    if self.position == self.descriptor.size() {
                        self.finish()?;
                    }
                    return Ok(n);
                }
                Err(e) => e,
            };
            let url = body.url.clone();
            self.broke(error, &url)?;
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || self.finished {
            return Ok(0);
        }
        self.next(buf).map_err(Error::into_io)
    }
}

/// How often the transfer of a blob is taken up again, however much it moves in between.
pub(crate) fn resumes_max(blob: &Descriptor) -> u64 {
    64 + (blob.size() >> 20)
}

fn unasked(url: &Url) -> Error {
    Error::protocol(url, "a part was sent where the whole was asked for")
}

/// A request for a blob, or for a range of it: first and last byte.
pub(crate) struct BlobRequest<'a> {
    pub(crate) source: &'a Source,
    pub(crate) path: &'a str,
    pub(crate) range: Option<(u64, Option<u64>)>,
    /// The range is only wanted of the state that this stands for.
    pub(crate) validator: Option<&'a str>,
}

impl BlobRequest<'_> {
    /// Sends it; the URL is for messages.
    pub(crate) fn send(&self, endpoint: &Endpoint, foreign: Option<Url>) -> Result<(Response, Url)> {
        let scopes = Scopes::repository(&self.source.repository, "pull");
        let mut call = Call::new(Method::Get, self.path, scopes, &self.source.cancel);
        let url = match foreign {
            Some(url) => {
                call.target = Target::Named(url.clone(), Purpose::Foreign);
                url
            }
            None => endpoint.url(self.path)?,
        };
        let mut headers = Headers::new().with("accept", "*/*");
        if let Some((first, last)) = self.range {
            let last = last.map(|l| l.to_string()).unwrap_or_default();
            headers.push("range", format!("bytes={first}-{last}"));
            if let Some(validator) = self.validator {
                headers.push("if-range", validator);
            }
        }
        call.headers = headers;
        let reply = self.source.inner.call(endpoint, &call)?;
        if reply.headers.get("content-encoding").is_some_and(|e| !e.eq_ignore_ascii_case("identity")) {
            return Err(Error::protocol(
                &url,
                "the blob comes in a content encoding, though none was asked for",
            ));
        }
        Ok((reply, url))
    }
}

/// `bytes FIRST-LAST/TOTAL`, the total may be `*`.
pub(crate) fn parse_content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    (first <= last).then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "bytes 9-5/10", "bytes -5-9/10", "items 5-9/10", "bytes 5-9"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
