//! One blob by several requests at a time, each for a part of it. Worth its memory only where one connection is slower than the line.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::ctx::CANCEL_POLL;
use crate::endpoint::{Endpoint, lock};
use crate::reader::{BlobRequest, parse_content_range};
use crate::transport::{Method, TransportError, TransportErrorKind};
use crate::{Error, Result, Source};

/// Bytes of a part, of which as many as there are requests are in memory.
pub(crate) const PART: u64 = 1 << 20;

/// What is to be fetched: the bytes `from..size`.
pub(crate) struct Plan {
    pub(crate) source: Source,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) path: String,
    pub(crate) validator: Option<String>,
    pub(crate) from: u64,
    pub(crate) size: u64,
}

impl Plan {
    fn parts(&self) -> u64 {
        (self.size - self.from).div_ceil(PART)
    }

    /// One part, taken up where it broke. It is small: what keeps failing fails the blob, which then goes on as one stream.
    fn fetch(&self, index: u64) -> Result<Vec<u8>> {
        let start = self.from + index * PART;
        let length = usize::try_from(PART.min(self.size - start)).unwrap_or_default();
        let (mut bytes, mut attempt) = (Vec::with_capacity(length), 0);
        while bytes.len() < length {
            attempt += 1;
            match self.add(start, length, &mut bytes) {
                Err(e) if e.is_retryable() && attempt < self.source.inner.retry.attempts => {
                    self.source.cancel.sleep(self.source.inner.backoff(attempt))?;
                }
                other => other?,
            }
        }
        Ok(bytes)
    }

    fn add(&self, start: u64, length: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let first = start + bytes.len() as u64;
        let request = BlobRequest {
            source: &self.source,
            path: &self.path,
            range: Some((first, Some(start + length as u64 - 1))),
            validator: self.validator.as_deref(),
        };
        let (reply, url) = request.send(&self.endpoint, None)?;
        let range = reply.headers.get("content-range").and_then(parse_content_range);
        if reply.status != 206
            || range.is_none_or(|(at, total)| at != first || total.is_some_and(|t| t != self.size))
        {
            return Err(Error::protocol(&url, "not the part that was asked for"));
        }
        let want = (length - bytes.len()) as u64;
        let read = reply.body.take(want).read_to_end(bytes);
        let short = TransportError::from(TransportErrorKind::Broken);
        match read {
            Ok(_) if bytes.len() < length => Err(Error::from_transport(Method::Get, &url, 1, short)),
            Ok(_) => Ok(()),
            Err(e) => Err(Error::from_body(Method::Get, &url, e)),
        }
    }
}

#[derive(Default)]
struct State {
    /// The next part that nobody fetches yet, and the next that the reader wants.
    next: u64,
    wanted: u64,
    ready: BTreeMap<u64, Result<Vec<u8>>>,
    /// Threads that have ended, in whatever way.
    ended: usize,
}

struct Shared {
    plan: Plan,
    ahead: u64,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn work(&self) {
        struct Ends<'a>(&'a Shared);
        impl Drop for Ends<'_> {
            fn drop(&mut self) {
                lock(&self.0.state).ended += 1;
                self.0.changed.notify_all();
            }
        }
        let _ends = Ends(self);
        while let Some(index) = self.take() {
            let part = self.plan.fetch(index);
            let failed = part.is_err();
            lock(&self.state).ready.insert(index, part);
            self.changed.notify_all();
            if failed {
                return;
            }
        }
    }

    /// The next part, once there is room for it.
    fn take(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        loop {
            if state.next >= self.plan.parts() || self.plan.source.cancel.is_cancelled() {
                return None;
            }
            if state.next < state.wanted + self.ahead {
                state.next += 1;
                return Some(state.next - 1);
            }
            (state, _) =
                self.changed.wait_timeout(state, CANCEL_POLL).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait(&self, threads: usize) -> Result<Vec<u8>> {
        let mut state = lock(&self.state);
        loop {
            let wanted = state.wanted;
            if let Some(part) = state.ready.remove(&wanted) {
                state.wanted += 1;
                self.changed.notify_all();
                return part;
            }
            self.plan.source.cancel.check()?;
            if state.ended >= threads {
                return Err(Error::protocol(&self.plan.path, "nobody fetches the next part"));
            }
            (state, _) =
                self.changed.wait_timeout(state, CANCEL_POLL).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The parts in their order, after a start that is there already.
pub(crate) struct Ranges {
    /// Gone once it is read: it holds a place at the server, which the parts may be waiting for.
    start: Option<io::Take<Box<dyn Read + Send>>>,
    part: Cursor<Vec<u8>>,
    left: u64,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Ranges {
    /// `start` gives the bytes before the plan's; the plan's source has a token of its own, which ends with this.
    pub(crate) fn new(start: io::Take<Box<dyn Read + Send>>, mut plan: Plan, requests: usize) -> Self {
        plan.source.cancel = plan.source.cancel.child();
        let left = plan.parts();
        let others = requests.saturating_sub(1).clamp(1, usize::try_from(left).unwrap_or(usize::MAX).max(1));
        let shared =
            Arc::new(Shared { plan, ahead: others as u64, state: Mutex::default(), changed: Condvar::new() });
        let worker = || {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("range".into()).spawn(move || shared.work()).ok()
        };
        let threads = (0..others).map_while(|_| worker()).collect();
        Self { start: Some(start), part: Cursor::default(), left, shared, threads }
    }
}

impl Read for Ranges {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(start) = &mut self.start {
            let n = start.read(buf)?;
            if start.limit() == 0 {
                self.start = None;
            }
            return if n == 0 && !buf.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(n) };
        }
        let n = self.part.read(buf)?;
        if n > 0 || self.left == 0 || self.threads.is_empty() {
            return Ok(n);
        }
        self.left -= 1;
        self.part = Cursor::new(self.shared.wait(self.threads.len()).map_err(|e| match e {
            e @ (Error::Cancelled | Error::Deadline) => e.into_io(),
            // So that the blob goes on without parts, whatever it was.
            e => io::Error::new(io::ErrorKind::ConnectionReset, e.to_string()),
        })?);
        self.part.read(buf)
    }
}

impl Drop for Ranges {
    fn drop(&mut self) {
        self.shared.plan.source.cancel.cancel();
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has left its part undone, which its reader has noticed.
            let _ = thread.join();
        }
    }
}
