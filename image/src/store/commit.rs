use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::image::{Descriptor, Digest};

use super::Store;
use super::fetch::check_ratio;
use super::import::parallel;
use crate::compress::{self, Compression};
use crate::content::{ContentWrite, Ingest};
use crate::layer::Unpacked;
use crate::lease::{Lease, STORE};
use crate::pipe::{Fan, Pool, Receive, Sender, pipe};
use crate::{Ctx, Error, Image, Result, Snapshot};

/// A layer that the store can mount and push. While the value (or a clone) lives, no collection takes it away.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Layer {
    /// The blob as manifests name it.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Size of the uncompressed tar in bytes.
    pub size: u64,
    /// Bytes that its files and symbolic links hold, each counted once whatever names it has: what Docker calls its size.
    pub content: u64,
    /// Number of tar entries; 0 means that nothing had changed.
    pub entries: u64,
    _lease: Arc<Lease>,
}

/// How a layer is written.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LayerOptions {
    /// Clamp every mtime to at most this (seconds since the epoch), as `SOURCE_DATE_EPOCH` asks. For snapshots only: a tar that
    /// is taken in is never changed.
    pub clamp_mtime: Option<i64>,
    /// How the blob is compressed. A tar that comes compressed is stored as it came.
    pub compression: Compression,
}

impl Store {
    /// Turns a snapshot's changes into a layer: uncompressed form mountable, compressed blob stored.
    ///
    /// In one pass: the diff is written by one thread, compressed by others, unpacked by one more. The same changes give the same digests.
    pub fn commit_layer(&self, snapshot: &Snapshot, options: &LayerOptions, ctx: Ctx<'_>) -> Result<Layer> {
        let mut diff = |out: &mut dyn Write| snapshot.diff_clamped(options.clamp_mtime, out, ctx).map(|_| ());
        self.make_layer(&mut diff, options.compression, ctx)
    }

    /// Takes in a layer from a tar stream (plain, gzip or zstd; told by its first bytes).
    ///
    /// A compressed stream is stored byte for byte, a plain one is compressed.
    pub fn add_layer(
        &self,
        tar: &mut (dyn Read + Send),
        options: &LayerOptions,
        ctx: Ctx<'_>,
    ) -> Result<Layer> {
        self.take_layer(tar, false, options, ctx)
    }

    /// [`Store::add_layer`], which reads in the calling thread only; with `as_it_is` a plain stream is not compressed either.
    pub(crate) fn take_layer(
        &self,
        mut tar: impl Read,
        as_it_is: bool,
        options: &LayerOptions,
        ctx: Ctx<'_>,
    ) -> Result<Layer> {
        let mut head = Vec::with_capacity(4);
        tar.by_ref().take(4).read_to_end(&mut head).map_err(Error::from_io)?;
        let kind = Compression::sniff(&head)?;
        let mut whole = io::Cursor::new(head).chain(tar);
        let mut copy = |out: &mut dyn Write| {
            let pool = Pool::default();
            loop {
                ctx.check()?;
                let piece = pool.read(&mut whole).map_err(Error::from_io)?;
                if piece.is_empty() {
                    return Ok(());
                }
                out.write_all(&piece).map_err(Error::from_io)?;
            }
        };
        if kind == Compression::None && !as_it_is {
            self.make_layer(&mut copy, options.compression, ctx)
        } else {
            self.keep_layer(&mut copy, kind, ctx)
        }
    }

    /// Size of a layer's uncompressed tar in bytes.
    pub(crate) fn layer_size(&self, descriptor: &Descriptor, diff_id: &Digest) -> Result<u64> {
        self.diff(descriptor, diff_id).map(|diff| diff.bytes)
    }

    /// The layers of an image, as [`Store::create_image`] takes them.
    pub fn layers(&self, image: &Image) -> Result<Vec<Layer>> {
        let lease = self.lease()?;
        let pairs = || image.manifest().layers().iter().zip(image.diff_ids());
        lease.hold(pairs().flat_map(|(d, id)| [d.digest(), id]))?;
        pairs()
            .map(|(descriptor, diff_id)| {
                let diff = self.diff(descriptor, diff_id)?;
                Ok(layer(descriptor, diff_id, &diff, &lease))
            })
            .collect()
    }

    /// A layer by its diff ID, if it is unpacked and a blob of it is here: what a build's cache remembers may be gone.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<Layer>> {
        let Some(diff) = self.0.diffs.get(diff_id) else { return Ok(None) };
        let lease = self.lease()?;
        let unpacked = Unpacked { entries: diff.entries, bytes: diff.size, content: diff.content };
        for descriptor in diff.blobs {
            lease.hold([descriptor.digest(), diff_id])?;
            if self.0.layers.contains(diff_id) && self.blob_size(descriptor.digest())?.is_some() {
                return Ok(Some(layer(&descriptor, diff_id, &unpacked, &lease)));
            }
        }
        Ok(None)
    }

    /// Size and entries of a layer: from the record, or (when that was lost) from the blob again.
    fn diff(&self, descriptor: &Descriptor, diff_id: &Digest) -> Result<Unpacked> {
        if let Some(diff) = self.0.diffs.get(diff_id) {
            return Ok(Unpacked { entries: diff.entries, bytes: diff.size, content: diff.content });
        }
        let (_, mut tar) = compress::decoder(self.open_blob(descriptor.digest())?)?;
        let unpacked = self.0.layers.unpack(diff_id, &mut tar, &self.0.limits, Ctx::none())?;
        self.0.diffs.add(diff_id, &unpacked, descriptor)?;
        Ok(unpacked)
    }

    /// A layer of a plain tar: `write` produces it, a thread unpacks, another compresses with helpers.
    pub(super) fn make_layer(&self, write: Produce<'_>, kind: Compression, ctx: Ctx<'_>) -> Result<Layer> {
        let lease = self.lease()?;
        // What this makes has no name that a lease could list before it is there.
        let _shared = self.0.dir.lock_shared(STORE)?;
        let error = First::default();
        let mut ingest = self.ingest_unnamed()?;
        let unpacked = std::thread::scope(|scope| {
            let (to_unpack, unpacker) = pipe();
            let (to_compress, mut compressor) = pipe();
            let (first, out) = (&error, &mut ingest);
            let unpacking = scope.spawn(move || first.note(self.unpack(&mut { unpacker }, ctx)));
            scope.spawn(move || {
                let done =
                    compress::compress(scope, kind, &mut compressor, out, parallel()).map_err(Error::from_io);
                first.note(done);
            });
            let mut fan = Fan::new(vec![to_unpack, to_compress]);
            error.note(produce(write, &mut fan));
            drop(fan);
            unpacking.join().unwrap_or(None)
        });
        let (diff_id, unpacked) = error.end(unpacked)?;
        self.finish_layer(ingest, kind, &diff_id, &unpacked, &lease)
    }

    /// A layer of a compressed tar, which is kept as it is: `write` produces it, a thread inflates, another unpacks.
    fn keep_layer(&self, write: Produce<'_>, kind: Compression, ctx: Ctx<'_>) -> Result<Layer> {
        let lease = self.lease()?;
        let _shared = self.0.dir.lock_shared(STORE)?;
        let error = First::default();
        let mut ingest = self.ingest_unnamed()?;
        let unpacked = std::thread::scope(|scope| {
            let (to_store, mut stored) = pipe();
            let (to_inflate, inflater) = pipe();
            let (plain, unpacker) = pipe();
            let (first, out) = (&error, &mut ingest);
            scope.spawn(move || first.note(io::copy(&mut stored, out).map_err(Error::from_io)));
            scope.spawn(move || first.note(self.inflate(&mut { inflater }, &plain)));
            let unpacking = scope.spawn(move || first.note(self.unpack(&mut { unpacker }, ctx)));
            let mut fan = Fan::new(vec![to_store, to_inflate]);
            error.note(produce(write, &mut fan));
            drop(fan);
            unpacking.join().unwrap_or(None)
        });
        let (diff_id, unpacked) = error.end(unpacked)?;
        self.finish_layer(ingest, kind, &diff_id, &unpacked, &lease)
    }

    fn ingest_unnamed(&self) -> Result<Box<dyn Ingest>> {
        Ok(self.0.blobs.ingest(None)?.expect("content without a name is always wanted"))
    }

    fn unpack(&self, tar: &mut Receive, ctx: Ctx<'_>) -> Result<(Digest, Unpacked)> {
        self.0.layers.ingest(tar, &self.0.limits, ctx)
    }

    fn inflate(&self, from: &mut Receive, to: &Sender) -> Result<()> {
        let (_, mut reader) = compress::decoder(from)?;
        let (mut plain, pool) = (0, Pool::default());
        loop {
            let piece = pool.read(&mut reader).map_err(Error::from_io)?;
            if piece.is_empty() {
                return to.finish().map_err(Error::from_io);
            }
            plain += piece.len() as u64;
            // The compressed size is not known here; the budget on bytes is.
            check_ratio(&self.0.limits, u64::MAX, plain)?;
            to.send(piece).map_err(Error::from_io)?;
        }
    }

    fn finish_layer(
        &self,
        ingest: Box<dyn Ingest>,
        kind: Compression,
        diff_id: &Digest,
        unpacked: &Unpacked,
        lease: &Arc<Lease>,
    ) -> Result<Layer> {
        let size = ingest.offset();
        let digest = ingest.commit()?;
        lease.hold_locked([&digest, diff_id])?;
        let descriptor = Descriptor::new(kind.media_type(), size, digest);
        self.0.diffs.add(diff_id, unpacked, &descriptor)?;
        Ok(layer(&descriptor, diff_id, unpacked, lease))
    }
}

fn layer(descriptor: &Descriptor, diff_id: &Digest, unpacked: &Unpacked, lease: &Arc<Lease>) -> Layer {
    Layer {
        descriptor: descriptor.clone(),
        diff_id: diff_id.clone(),
        size: unpacked.bytes,
        content: unpacked.content.unwrap_or(unpacked.bytes),
        entries: unpacked.entries,
        _lease: Arc::clone(lease),
    }
}

/// Writes a stream to whatever it is given.
type Produce<'a> = &'a mut dyn FnMut(&mut dyn Write) -> Result<()>;

/// Runs the producer into all pipes. The caller keeps their ends until it has noted the error.
fn produce(write: Produce<'_>, fan: &mut Fan) -> Result<()> {
    write(fan)?;
    fan.finish().map_err(Error::from_io)
}

/// The error that came first; later ones follow from it.
#[derive(Default)]
struct First(Mutex<Option<Error>>);

impl First {
    fn note<T>(&self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                None
            }
        }
    }

    fn end<T>(self, value: Option<T>) -> Result<T> {
        match (self.0.into_inner().unwrap_or_else(PoisonError::into_inner), value) {
            (Some(error), _) => Err(error),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(Error::Stream { reason: "a thread ended early".to_owned() }),
        }
    }
}
