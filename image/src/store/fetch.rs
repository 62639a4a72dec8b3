//! One layer on its way in: fetched, hashed and stored by one thread, inflated by a second, hashed again and unpacked by a third.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use oci_spec::image::{Descriptor, Digest};

use super::import::{Job, fetch_error};
use crate::compress;
use crate::content::{ContentRead, Ingest};
use crate::digest::{HashSink, Hasher};
use crate::layer::{Limits, Unpacked};
use crate::pipe::{Pool, Receive, Sender, pipe};
use crate::{Ctx, Error, Event, Result};

/// What a layer cost.
pub(super) struct Fetched {
    /// Whether anything came from the source.
    pub(super) blob: bool,
    /// How much.
    pub(super) bytes: u64,
}

/// Gets a blob into the store and, with a diff ID, its layer too, verifying both.
pub(super) fn fetch_layer(
    job: &Job<'_>,
    descriptor: &Descriptor,
    diff_id: Option<&Digest>,
    stop: &AtomicBool,
) -> Result<Fetched> {
    let store = &job.store.0;
    let flow =
        Flow { job, descriptor, diff_id, stop, error: Mutex::new(None), compressed: AtomicU64::new(0) };
    let Some(mut ingest) = wait_for(job, descriptor, stop)? else {
        flow.check_present_size()?;
        let known = diff_id.is_none_or(|id| {
            store.layers.contains(id) && store.diffs.knows(id, descriptor.digest()).is_some()
        });
        if known {
            job.exists(descriptor);
            return Ok(Fetched { blob: false, bytes: 0 });
        }
        let blob = store.blobs.open(descriptor.digest())?;
        flow.run(blob, None)?;
        return Ok(Fetched { blob: false, bytes: 0 });
    };
    let resumed = ingest.offset();
    let result = flow.fetch(ingest.as_mut());
    // Bytes of an earlier try may be what was wrong (torn by power loss): try once from the start.
    let again = resumed > 0 && matches!(&result, Err(e) if e.is_bad_content());
    let bytes = if again {
        ingest.restart()?;
        flow.reset();
        flow.fetch(ingest.as_mut())?;
        ingest.offset()
    } else {
        match result {
            Ok(()) => {}
            Err(e) => {
                if e.is_bad_content() {
                    ingest.restart()?;
                }
                return Err(e);
            }
        }
        ingest.offset() - resumed
    };
    ingest.commit()?;
    (job.ctx.progress)(Event::Stored { digest: descriptor.digest() });
    Ok(Fetched { blob: true, bytes })
}

/// Waits while another process fetches the same blob, until it is done, the caller cancels, or another layer of the image has failed.
fn wait_for(job: &Job<'_>, descriptor: &Descriptor, stop: &AtomicBool) -> Result<Option<Box<dyn Ingest>>> {
    job.store.0.blobs.resume(descriptor, &|| {
        job.ctx.check()?;
        if stop.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    })
}

struct Flow<'a> {
    job: &'a Job<'a>,
    descriptor: &'a Descriptor,
    diff_id: Option<&'a Digest>,
    stop: &'a AtomicBool,
    /// The first error of any thread: the others only see a broken pipe.
    error: Mutex<Option<Error>>,
    /// Compressed bytes that the inflating thread was given.
    compressed: AtomicU64,
}

impl Flow<'_> {
    fn check_present_size(&self) -> Result<()> {
        let digest = self.descriptor.digest();
        match self.job.store.blob_size(digest)? {
            Some(found) if found != self.descriptor.size() => {
                Err(Error::SizeMismatch { digest: digest.clone(), expected: self.descriptor.size(), found })
            }
            _ => Ok(()),
        }
    }

    fn reset(&self) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.compressed.store(0, Ordering::Relaxed);
    }

    /// What an earlier try left, then the source from there on.
    fn fetch(&self, ingest: &mut dyn Ingest) -> Result<()> {
        let digest = self.descriptor.digest();
        let offset = ingest.offset();
        let before = ingest.written()?;
        if offset < self.descriptor.size() || offset == 0 {
            let rest = self.job.source.open(self.descriptor, offset).map_err(|e| fetch_error(digest, e))?;
            self.run(
                Before { reader: before, left: offset }.chain(Marked { inner: rest, digest }),
                Some((ingest, offset)),
            )
        } else {
            self.run(before, Some((ingest, offset)))
        }
    }

    /// Runs the threads over the compressed bytes; those behind `offset` are also written to the ingest.
    fn run(&self, from: impl Read, ingest: Option<(&mut dyn Ingest, u64)>) -> Result<()> {
        let Some(diff_id) = self.diff_id else {
            return self.pull(from, ingest, None);
        };
        let unpacked = std::thread::scope(|scope| {
            let (compressed, inflater) = pipe();
            let (plain, unpacker) = pipe();
            // Each end of a pipe is dropped only after its thread's error is noted: what the others see then comes second.
            scope.spawn(move || self.note(self.inflate(&mut { inflater }, &plain)));
            let unpacking = scope.spawn(move || self.note(self.unpack(diff_id, &mut { unpacker })));
            self.note(self.pull(from, ingest, Some(&compressed)));
            drop(compressed);
            unpacking.join().unwrap_or(None)
        });
        if let Some(error) = self.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        let unpacked = unpacked
            .ok_or_else(|| Error::Stream { reason: "the unpacking thread ended early".to_owned() })?;
        self.job.store.0.diffs.add(diff_id, &unpacked, self.descriptor)?;
        (self.job.ctx.progress)(Event::Unpacked { diff_id, entries: unpacked.entries });
        Ok(())
    }

    fn note<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                None
            }
        }
    }

    /// First thread: reads, stores, passes on.
    fn pull(
        &self,
        mut from: impl Read,
        ingest: Option<(&mut dyn Ingest, u64)>,
        to: Option<&Sender>,
    ) -> Result<()> {
        let (size, digest) = (self.descriptor.size(), self.descriptor.digest());
        // One that is here already may have come from another tool.
        let mut hasher = if ingest.is_none() { Some(Hasher::for_digest(digest)?) } else { None };
        let (mut ingest, stored) = ingest.map_or((None, u64::MAX), |(i, at)| (Some(i), at));
        let (mut done, pool) = (0, Pool::default());
        loop {
            self.job.ctx.check()?;
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            let piece = pool.read(&mut from).map_err(Error::from_io)?;
            if piece.is_empty() {
                break;
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(&piece);
            }
            let before = done;
            done += piece.len() as u64;
            if let Some(ingest) = ingest.as_deref_mut() {
                let skip =
                    usize::try_from(stored.saturating_sub(before)).unwrap_or(usize::MAX).min(piece.len());
                ingest.write_all(&piece[skip..]).map_err(Error::from_io)?;
                (self.job.ctx.progress)(Event::Fetched { digest, done, size });
            }
            if let Some(to) = to
                && to.send(piece).is_err()
            {
                // The inflating thread has given up, and has said why or soon will.
                return Ok(());
            }
        }
        if done != size {
            return Err(Error::SizeMismatch { digest: digest.clone(), expected: size, found: done });
        }
        if let Some(found) = hasher.map(Hasher::finish).filter(|found| found != digest) {
            return Err(Error::DigestMismatch { expected: digest.clone(), found });
        }
        if let Some(to) = to {
            let _ = to.finish();
        }
        Ok(())
    }

    /// Second thread.
    fn inflate(&self, from: &mut Receive, to: &Sender) -> Result<()> {
        let limits = &self.job.store.0.limits;
        let (_, mut reader) = compress::decoder(Counting { inner: from, count: &self.compressed })?;
        let (mut plain, pool) = (0_u64, Pool::default());
        loop {
            let piece = pool.read(&mut reader).map_err(Error::from_io)?;
            if piece.is_empty() {
                return to.finish().map_err(Error::from_io);
            }
            plain += piece.len() as u64;
            check_ratio(limits, self.compressed.load(Ordering::Relaxed), plain)?;
            if to.send(piece).is_err() {
                return Ok(());
            }
        }
    }

    /// Third thread.
    fn unpack(&self, diff_id: &Digest, from: &mut Receive) -> Result<Unpacked> {
        let store = &self.job.store.0;
        if store.layers.contains(diff_id)
            && let Some(diff) = store.diffs.get(diff_id)
        {
            verify_only(diff_id, from)?;
            return Ok(Unpacked { entries: diff.entries, bytes: diff.size, content: diff.content });
        }
        let ctx = Ctx { progress: self.job.ctx.progress, cancel: self.stop };
        store.layers.unpack(diff_id, from, &store.limits, ctx)
    }
}

/// Only what the first MiB does not excuse counts: small layers compress well.
pub(super) fn check_ratio(limits: &Limits, compressed: u64, plain: u64) -> Result<()> {
    if plain > (1 << 20) && plain / compressed.max(1) > limits.ratio {
        return Err(Error::Limit { what: "compression ratio of a layer".to_owned(), limit: limits.ratio });
    }
    if plain > limits.bytes {
        return Err(Error::Limit { what: "uncompressed bytes of a layer".to_owned(), limit: limits.bytes });
    }
    Ok(())
}

/// The layer is there; the blob must still be shown to be it.
fn verify_only(diff_id: &Digest, from: &mut Receive) -> Result<()> {
    let mut sink = HashSink { hasher: Hasher::for_digest(diff_id)?, bytes: 0 };
    while let Some(piece) = from.next().map_err(Error::from_io)? {
        sink.write_all(&piece).map_err(Error::from_io)?;
    }
    let found = sink.hasher.finish();
    if found != *diff_id {
        return Err(Error::DigestMismatch { expected: diff_id.clone(), found });
    }
    Ok(())
}

/// What was written earlier must all be there when it is read back.
struct Before<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Before<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        self.left = self.left.saturating_sub(n as u64);
        if n == 0 && self.left > 0 && !buf.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(n)
    }
}

/// Marks errors as the source's.
struct Marked<'a, R> {
    inner: R,
    digest: &'a Digest,
}

impl<R: Read> Read for Marked<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buf) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                Err(io::Error::other(fetch_error(self.digest, e)))
            }
            other => other,
        }
    }
}

struct Counting<'a, R> {
    inner: R,
    count: &'a AtomicU64,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
